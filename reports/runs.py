"""Run folders as values: everything a report needs of one run, and a list of what is not there."""

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.benchmarks import BENCHMARKS, Benchmark
from bench.records import CostRecord, Summary, read_json
from l2p.errors import InputError
from reports import checked
from reports.kept import CorpusFacts, corpus_facts, identity, read_rows

SUBJECTS = ("source", "l2p")
SUBJECT_NAMES = {"source": "Source", "l2p": "Pixel model"}
FORMAT = 2  # of run.json


@dataclass(frozen=True, kw_only=True)
class Scored:
    """One suite of one subject: benchmark, summary, score rows (one an image or item), other variants' summaries."""

    benchmark: Benchmark
    summary: Summary
    rows: list[dict[str, Any]]
    variants: dict[str, Summary]


@dataclass(frozen=True, kw_only=True)
class Run:
    """One run folder. Absent files are None or empty, and named in ``missing``; nothing is filled in.

    ``suites`` maps every suite to its title, in the recipe's order, then what else lies under scores/. A suite's key is
    its folder under scores/<subject>/: "geneval", or "geneval/fidelity" for a further benchmark of its images.
    """

    path: Path
    manifest: dict[str, Any]
    corpus: CorpusFacts | None
    transfer: dict[str, Any] | None
    log: list[dict[str, Any]]
    suites: dict[str, str]
    scored: dict[tuple[str, str], Scored]
    costs: list[CostRecord]
    judge_checks: list[dict[str, Any]] = field(default_factory=list)
    disagreement: list[dict[str, Any]] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        """Unique in a report: the folder's name, after its study's where it lies in one ("depth-flux-mini-all-1")."""
        study, told, _ = str(self.recipe.get("study") or "").partition(": ")
        in_study = told and self.path.parent.name.startswith(f"{study}-")
        return f"{self.path.parent.name}-{self.path.name}" if in_study else self.path.name

    @property
    def recipe(self) -> dict[str, Any]:
        """The recipe as ``run.json`` holds it, {} without one."""
        return self.manifest.get("recipe") or {}

    @property
    def recipe_name(self) -> str:
        """The recipe's name, which all its transfer seeds share; the folder's without a manifest."""
        return str(self.recipe.get("name", self.name))

    @property
    def seed(self) -> int | None:
        """The transfer's seed, None without a manifest."""
        return (self.recipe.get("transfer") or {}).get("seed")

    @property
    def family(self) -> str:
        """The source family ("flux"), "unknown" without a manifest."""
        return str(self.recipe.get("family", "unknown"))

    @property
    def family_title(self) -> str:
        """The family's name for readers ("FLUX")."""
        return str(self.recipe.get("family_title", self.family))

    @property
    def world(self) -> str:
        """What the prompts are about, where the family has sources of several worlds ("layouts open"); else ""."""
        return str(self.recipe.get("world") or "")

    @property
    def case(self) -> tuple[str, str]:
        """What claims are judged for: family and world."""
        return self.family, self.world

    @property
    def case_title(self) -> str:
        """The case for readers: "FLUX", "FLUX, layouts open"."""
        return ", ".join(filter(None, (self.family_title, self.world)))

    @property
    def size(self) -> str:
        """ "miniature" or "paper", "unknown" without a manifest."""
        return str(self.recipe.get("size", "unknown"))

    @property
    def num_train_images(self) -> int:
        """Images that the transfer trained on, repeats counted: steps x batch; 0 without a transfer."""
        summary = self.transfer or {}
        return int(summary.get("num_train_steps", 0)) * int(summary.get("batch_size", 0))


def load_run(path: Path | str) -> Run:
    """Read a run folder; FileNotFoundError where there is none, ValueError naming a file that is broken."""
    path = Path(path).resolve()
    if not path.is_dir():
        raise FileNotFoundError(
            f"{path} is no run folder. Give folders made by `python -m reproduce`, e.g. runs/flux-mini"
        )
    missing: list[str] = []
    manifest = _manifest(path, missing)
    if not manifest and not holds_run(path):
        found = ", ".join(sorted(entry.name for entry in path.iterdir())[:5]) or "nothing"
        raise FileNotFoundError(
            f"{path} holds no run (found: {found}). A run folder has run.json, transfer/, scores/ ..."
        )
    suites = _suites(path, manifest)
    return Run(
        path=path,
        manifest=manifest,
        corpus=_there(corpus_facts(path, manifest), "corpus/metadata.jsonl", missing),
        transfer=_there(_transfer(path / "transfer/summary.json"), "transfer/summary.json", missing),
        log=_there(_log(path / "transfer/log.jsonl"), "transfer/log.jsonl", missing) or [],
        suites=suites,
        scored=_load_scores(path, suites, missing),
        costs=_load_costs(path, missing),
        judge_checks=checked.checked_judge_checks(_json(path / "scores/checks.json"), path / "scores/checks.json"),
        disagreement=checked.checked_disagreement(
            _json(path / "scores/disagreement.json"), path / "scores/disagreement.json"
        ),
        missing=missing,
    )


def _manifest(path: Path, missing: list[str]) -> dict[str, Any]:
    if not (path / "run.json").is_file():
        missing.append("run.json")
        return {}
    return checked.checked_manifest(read_json(path / "run.json"), path / "run.json", FORMAT)


def _transfer(path: Path) -> dict[str, Any] | None:
    return checked.checked_transfer(read_json(path), path) if path.is_file() else None


def _log(path: Path) -> list[dict[str, Any]] | None:
    return checked.checked_log(read_rows(path), path)


def holds_run(path: Path) -> bool:
    """Whether a folder has anything of a run in it: its manifest or a stage's folder."""
    return any((path / part).exists() for part in ("run.json", "transfer", "scores", "samples", "corpus"))


def runs_in(path: Path) -> list[Path]:
    """The folder itself where it holds a run, the runs in it where it is a folder of runs (a study's), else nothing."""
    if not path.is_dir():
        return []
    if holds_run(path):
        return [path]
    return sorted(inner for inner in path.iterdir() if inner.is_dir() and holds_run(inner))


def found_runs(paths: Sequence[Path], say: Callable[[str], None]) -> list[Path]:
    """The run folders among several, and those of studies' folders; `say` is told of a folder that is neither.

    Where nothing is found the folders are given back, so that loading them says what they lack.
    """
    found = {path: runs_in(path) for path in paths}
    if not any(found.values()):
        return list(paths)
    for path in [path for path, runs in found.items() if path.is_dir() and not runs]:
        say(f"left out: {path} is no run folder (no run.json, no stage's folder), and no study's")
    return [run for path, runs in found.items() for run in (runs if path.is_dir() else [path])]


def load_runs(paths: Iterable[Path | str]) -> list[Run]:
    """Read several run folders in name order.

    Raises ValueError where two have one name, as no table could tell them apart, or are one recipe and seed, as then
    one run would count twice.
    """
    runs = sorted((load_run(path) for path in paths), key=lambda run: run.name)
    for first, second in zip(runs, runs[1:], strict=False):
        if first.name == second.name:
            raise InputError(f"Two runs are named {first.name!r}: {first.path} and {second.path}. Rename one folder.")
    if not runs:
        raise InputError("No run folder given. Example: python -m reports runs/* --out report/")
    refuse_repeated(runs)
    return runs


def refuse_repeated(runs: Sequence[Run]) -> None:
    """ValueError where two runs are one recipe with one transfer seed: a copy would count as a second seed."""
    for label, members in groups(runs).items():
        by_seed: dict[int | None, Run] = {}
        for run in members:
            if (first := by_seed.setdefault(run.seed, run)) is not run:
                raise InputError(
                    f"{first.path} and {run.path} are one recipe, {label!r}, with one transfer seed, {run.seed}. "
                    "Counted as two, one run would pass for two seeds: give one of them."
                )


def groups(runs: Sequence[Run]) -> dict[str, list[Run]]:
    """Runs by recipe, as ``run.json`` tells it: the transfer seeds of one recipe stand together, however named.

    A group's label is its recipe's name; where another recipe bears that name, its first folder's name follows.
    """
    by_key: dict[str, list[Run]] = {}
    for run in runs:
        by_key.setdefault(_group_key(run), []).append(run)
    grouped: dict[str, list[Run]] = {}
    for members in by_key.values():
        label = members[0].recipe_name
        grouped[f"{label} ({members[0].name})" if label in grouped else label] = members
    return grouped


def _group_key(run: Run) -> str:
    """What the transfer seeds of a recipe share; a run without a recipe is alone."""
    return json.dumps(identity(run.manifest, seed=False), sort_keys=True) if run.recipe else f"folder {run.path}"


def other_corpus(run: Run) -> str | None:
    """A sentence where the corpus's rows are not those that ``run.json`` hashed; None where they are, or none were."""
    stated = ((run.manifest.get("inputs") or {}).get("corpus") or {}).get("metadata_sha256")
    if not run.corpus or stated in (None, run.corpus.metadata_sha256):
        return None
    return f"{run.name}: corpus/metadata.jsonl is not the file that run.json states by its hash."


def suite_titles(runs: Sequence[Run]) -> dict[str, str]:
    """Every suite of several runs with its title, in the order of the first run that has it."""
    titles: dict[str, str] = {}
    for run in runs:
        for suite, title in run.suites.items():
            titles.setdefault(suite, title)
    return titles


def alarms(run: Run) -> list[str]:
    """The alarms of a run's log as sentences, in the order in which they rang."""
    return [f"step {row['step']}, {row['alarm']}: {row['message']}" for row in run.log if "alarm" in row]


def manifest_json(run: Run) -> str:
    """The manifest as indented JSON text, for the page's passport section."""
    return json.dumps(run.manifest, indent=2, ensure_ascii=False)


def _json(path: Path) -> Any:
    return read_json(path) if path.is_file() else None


def _there(value: Any, name: str, missing: list[str]) -> Any:
    """The value; where there is none, its file's name is noted as missing."""
    if value is None:
        missing.append(name)
    return value


def _suites(path: Path, manifest: dict[str, Any]) -> dict[str, str]:
    """The recipe's suites, and whatever else has a summary under scores/<subject>/, each with its title."""
    titles = {}
    for suite in (manifest.get("recipe") or {}).get("suites", ()):
        name, title = suite["name"], suite.get("title") or suite["name"]
        titles[name] = title
        for benchmark in suite.get("benchmarks", ())[1:]:
            known = BENCHMARKS.get(benchmark)
            titles[f"{name}/{benchmark}"] = f"{title}, {known.title if known else benchmark}"
    found = {
        file.parent.relative_to(path / "scores" / subject).as_posix()
        for subject in SUBJECTS
        for file in (path / "scores" / subject).rglob("summary.json")
    }
    return titles | {name: name for name in sorted(found - titles.keys())}


def _load_scores(path: Path, suites: Iterable[str], missing: list[str]) -> dict[tuple[str, str], Scored]:
    scored = {}
    for subject in SUBJECTS:
        for suite in suites:
            folder = path / "scores" / subject / suite
            if (folder / "summary.json").is_file():
                scored[subject, suite] = load_scored(folder)
                if not scored[subject, suite].rows and not scored[subject, suite].benchmark.of_set:
                    missing.append(f"scores/{subject}/{suite}/scores.jsonl")
            else:
                missing.append(f"scores/{subject}/{suite}/summary.json")
    if not suites:
        missing.append("scores/*/*/summary.json")
    return scored


def load_scored(folder: Path) -> Scored:
    """One folder of scores: summary, rows of its variant, other variants; ValueError naming a file that is broken."""
    summary = checked.read_summary(folder / "summary.json")
    benchmark = BENCHMARKS.get(summary.benchmark)
    if benchmark is None:
        raise InputError(
            f"{folder / 'summary.json'} is of benchmark {summary.benchmark!r}; known are {', '.join(BENCHMARKS)}"
        )
    variants = {
        file.stem.removeprefix("summary-"): checked.read_summary(file) for file in sorted(folder.glob("summary-*.json"))
    }
    of_variant, plain = folder / f"scores-{summary.variant}.jsonl", folder / "scores.jsonl"
    rows = read_rows(of_variant)
    path, rows = (plain, read_rows(plain)) if rows is None else (of_variant, rows)
    return Scored(benchmark=benchmark, summary=summary, rows=checked.checked_rows(rows or [], path), variants=variants)


def _load_costs(path: Path, missing: list[str]) -> list[CostRecord]:
    files = sorted((path / "cost").glob("*.json"))
    if not files:
        missing.append("cost/measured.json")
    return [record for file in files for record in checked.read_cost_file(file)]
