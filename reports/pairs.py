"""What differs between two runs' recipes and inputs, and which runs differ in what a study varies alone."""

import json
from collections.abc import Sequence
from typing import Any

from bench.records import differing
from reports.kept import identity, stated
from reports.runs import Run

# What changes no result: names, words, how often something is saved, checks of the judges where the truth is known
UNHEEDED = (
    *("name", "family_title", "study", "world", "judge_checks", "cross_check"),
    *(f"transfer.{name}" for name in ("gradient_checkpointing", "save_every", "log_every", "validate_every")),
)
SUITE_FIELDS = ("prompts", "arguments", "images_per_prompt")


def differences(one: Run, other: Run) -> list[str]:
    """Dotted names of what differs between two runs and can change a result."""
    found = [name for name, _, _ in differing(_compared(one), _compared(other))]
    return [name for name in found if not _under(name, UNHEEDED)]


def shared_key(run: Run, paths: Sequence[str], *, suite: str) -> str:
    """What a run has in common with all that differ from it under ``paths`` and by transfer seed alone: equal texts.

    A path is dotted, as in ``run.json``: "transfer.trainable", "corpus", "inputs.corpus". Recipes and inputs are
    compared whole: corpus, source, transfer, samplers, judges, processes; of suites ``suite`` alone and its judge.
    """
    compared = _without(stated(_compared(run, suite)), (*paths, "transfer.seed", *UNHEEDED))
    return json.dumps(compared, sort_keys=True)


def _without(value: Any, paths: Sequence[str], prefix: str = "") -> Any:
    if not isinstance(value, dict):
        return value
    named = ((name, f"{prefix}.{name}" if prefix else name, one) for name, one in value.items())
    return {name: _without(one, paths, path) for name, path, one in named if not _under(path, paths)}


def _under(name: str, paths: Sequence[str]) -> bool:
    return any(name == path or name.startswith(f"{path}.") for path in paths)


def _compared(run: Run, suite: str | None = None) -> dict[str, Any]:
    """Recipe and inputs with suites by name, and only what bears on ``suite``; a source is its hash, not its place."""
    what = identity(run.manifest)
    suites = [given for given in run.recipe.get("suites", ()) if suite in (None, given["name"])]
    judged = {name for given in suites for name in given.get("benchmarks", ())[: 1 if suite else None]}
    named, hashed = ({name: of[name] for name in judged & of.keys()} for of in _judges(what))
    return {
        **what["recipe"],
        "suites": {given["name"]: {name: given.get(name) for name in SUITE_FIELDS} for given in suites},
        "judges": named,
        "inputs": {"corpus": _corpus(run), "judges": hashed},
    }


def _corpus(run: Run) -> dict[str, Any] | None:
    """What a run's corpus is compared by.

    One that the source drew is told by the source and its rows, which name every prompt and seed and what was rejected;
    on another processor its pictures' last bits differ. Any other one is told by its pictures' bytes too.
    """
    facts = (run.manifest.get("inputs") or {}).get("corpus")
    given = run.recipe.get("corpus") or {}
    drawn = given.get("maker") is None and given.get("folder") is None and (facts or {}).get("metadata_sha256")
    return {name: value for name, value in facts.items() if name != "images_sha256"} if facts and drawn else facts


def _judges(what: dict[str, Any]) -> tuple[dict[str, str], dict[str, str]]:
    """The judges' loaders and their hashes, by benchmark."""
    return what["recipe"].get("judges") or {}, what["judges"] or {}
