"""Pairs for an ablation: two runs that differ only in what a claim varies, read from their recipes and inputs."""

from collections.abc import Sequence
from typing import Any

from bench.records import differing
from reports.runs import Run

# What changes no result: names, words, how often something is saved, checks of the judges where the truth is known
UNHEEDED = (
    *("name", "family_title", "study", "judge_checks"),
    *(f"transfer.{name}" for name in ("gradient_checkpointing", "save_every", "log_every", "validate_every")),
)


def differ_only_in(one: Run, other: Run, paths: Sequence[str], *, suite: str | None = None) -> bool:
    """Whether two runs differ in something under ``paths``, and in nothing else that can change a result.

    A path is dotted, as in ``run.json``: "transfer.trainable", "corpus", "inputs.corpus". Recipes and inputs are
    compared whole: corpus, source, transfer, samplers, judges, processes. With ``suite`` only that suite and its judge
    count; without it all of them. Runs without a recipe are never a pair.
    """
    found = differences(one, other, suite=suite)
    return bool(found) and all(_under(name, paths) for name in found)


def differences(one: Run, other: Run, *, suite: str | None = None) -> list[str]:
    """Dotted names of what differs between two runs and can change a result; ["recipe"] where one has no recipe."""
    if not one.recipe or not other.recipe:
        return ["recipe"]
    found = [name for name, _, _ in differing(_compared(one, suite), _compared(other, suite))]
    return [name for name in found if not _under(name, UNHEEDED)]


def _under(name: str, paths: Sequence[str]) -> bool:
    return any(name == path or name.startswith(f"{path}.") for path in paths)


def _compared(run: Run, suite: str | None) -> dict[str, Any]:
    """Recipe and inputs with suites by name, and only what bears on ``suite``."""
    suites = {given["name"]: given for given in run.recipe.get("suites", ()) if suite in (None, given["name"])}
    shown = {name: {key: given.get(key) for key in SUITE_FIELDS} for name, given in suites.items()}
    judged = {benchmark for given in suites.values() for benchmark in given.get("benchmarks", ())[: 1 if suite else None]}
    inputs = run.manifest.get("inputs") or {}
    judges = [_only(of.get("judges") or {}, judged) for of in (run.recipe, inputs)]
    return {**run.recipe, "suites": shown, "judges": judges[0], "inputs": {**inputs, "judges": judges[1]}}


SUITE_FIELDS = ("prompts", "arguments", "images_per_prompt")


def _only(judges: dict[str, Any], benchmarks: set[str]) -> dict[str, Any]:
    return {name: judge for name, judge in judges.items() if name in benchmarks}
