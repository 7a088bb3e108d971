"""Run folders as values: everything a report needs of one run, and a list of what is not there."""

import json
import re
import shutil
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.records import CostRecord, Summary, read_costs, read_json, read_jsonl

SUBJECTS = ("source", "l2p")
SUBJECT_NAMES = {"source": "Source", "l2p": "Pixel model"}
BENCHMARKS = ("geneval", "dpg", "heldout")
BENCHMARK_NAMES = {"geneval": "GenEval", "dpg": "DPG-Bench", "heldout": "Held-out pairs"}
FORMAT = 1  # of run.json
# What this module reads of a run folder: all of a run but its images and weights.
RECORDS = (
    "run.json",
    "corpus/metadata.jsonl",
    "corpus/rejected.jsonl",
    "transfer/summary.json",
    "transfer/log.jsonl",
    "scores/checks.json",
    "scores/*/*/summary*.json",
    "scores/*/*/scores*.jsonl",
    "cost/*.json",
)


@dataclass(frozen=True, kw_only=True)
class Scored:
    """One benchmark of one subject: its summary, score rows (one an image or item) and other variants' summaries."""

    summary: Summary
    rows: list[dict[str, Any]]
    variants: dict[str, Summary]


@dataclass(frozen=True, kw_only=True)
class Run:
    """One run folder. Absent files are None or empty, and named in ``missing``; nothing is filled in."""

    path: Path
    manifest: dict[str, Any]
    corpus: list[dict[str, Any]]
    rejected: list[dict[str, Any]]
    transfer: dict[str, Any] | None
    log: list[dict[str, Any]]
    scored: dict[tuple[str, str], Scored]
    costs: list[CostRecord]
    judge_checks: list[dict[str, Any]] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        """The folder's name, unique in a report."""
        return self.path.name

    @property
    def group(self) -> str:
        """The name without ``-seed<k>``: runs of one group differ in their transfer seed only."""
        return re.sub(r"-seed\d+$", "", self.name)

    @property
    def recipe(self) -> dict[str, Any]:
        """The recipe as ``run.json`` holds it, {} without one."""
        return self.manifest.get("recipe") or {}

    @property
    def family(self) -> str:
        """The source family ("flux"), "unknown" without a manifest."""
        return str(self.recipe.get("family", "unknown"))

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
    manifest = _optional(path / "run.json", read_json, {}, missing)
    if manifest and manifest.get("format") != FORMAT:
        raise ValueError(f"{path / 'run.json'} has format {manifest.get('format')!r}, this report reads {FORMAT}")
    if not manifest and not holds_run(path):
        found = ", ".join(sorted(entry.name for entry in path.iterdir())[:5]) or "nothing"
        raise FileNotFoundError(
            f"{path} holds no run (found: {found}). A run folder has run.json, transfer/, scores/ ..."
        )
    return Run(
        path=path,
        manifest=manifest,
        corpus=_optional(path / "corpus/metadata.jsonl", read_jsonl, [], missing),
        rejected=_optional(path / "corpus/rejected.jsonl", read_jsonl, [], None),
        transfer=_optional(path / "transfer/summary.json", read_json, None, missing),
        log=_optional(path / "transfer/log.jsonl", read_jsonl, [], missing),
        scored=_load_scores(path, missing),
        costs=_load_costs(path, missing),
        judge_checks=_optional(path / "scores/checks.json", read_json, [], None),
        missing=missing,
    )


def holds_run(path: Path) -> bool:
    """Whether a folder has anything of a run in it: its manifest or a stage's folder."""
    return any((path / part).exists() for part in ("run.json", "transfer", "scores", "samples", "corpus"))


def load_runs(paths: Iterable[Path | str]) -> list[Run]:
    """Read several run folders in name order; ValueError where two have one name, as no table could tell them apart."""
    runs = sorted((load_run(path) for path in paths), key=lambda run: run.name)
    for first, second in zip(runs, runs[1:], strict=False):
        if first.name == second.name:
            raise ValueError(f"Two runs are named {first.name!r}: {first.path} and {second.path}. Rename one folder.")
    if not runs:
        raise ValueError("No run folder given. Example: python -m reports runs/* --out report/")
    return runs


def groups(runs: Sequence[Run]) -> dict[str, list[Run]]:
    """Runs by group name: the transfer seeds of one recipe stand together."""
    grouped: dict[str, list[Run]] = {}
    for run in runs:
        grouped.setdefault(run.group, []).append(run)
    return grouped


def keep_records(run: Path, out_dir: Path) -> None:
    """Copy a run's records into ``out_dir`` (made anew), which reports then read as the run, without pictures.

    Raises ValueError where ``out_dir`` is the run or lies in it.
    """
    run, out_dir = run.resolve(), out_dir.resolve()
    if out_dir.is_relative_to(run):
        raise ValueError(f"records of {run} cannot be kept in {out_dir}: give --out outside the run folder")
    out_dir.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out_dir.parent, prefix=".writing-") as folder:
        staging = Path(folder) / "run"
        for pattern in RECORDS:
            for file in run.glob(pattern):
                copy = staging / file.relative_to(run)
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(file, copy)
        shutil.rmtree(out_dir, ignore_errors=True)
        staging.rename(out_dir)


def _optional(path: Path, read: Any, absent: Any, missing: list[str] | None) -> Any:
    if path.is_file():
        return read(path)
    if missing is not None:
        missing.append(str(path.relative_to(path.parents[1] if path.name != "run.json" else path.parent)))
    return absent


def _summary(path: Path) -> Summary:
    row = read_json(path)
    try:
        return Summary(**{**row, "overall_ci95": tuple(row["overall_ci95"])})
    except (TypeError, KeyError) as error:
        raise ValueError(f"{path} is no benchmark summary: {error}") from error


def _load_scores(path: Path, missing: list[str]) -> dict[tuple[str, str], Scored]:
    scored = {}
    for subject in SUBJECTS:
        for benchmark in BENCHMARKS:
            folder = path / "scores" / subject / benchmark
            if (folder / "summary.json").is_file():
                scored[subject, benchmark] = _load_scored(folder, missing)
            else:
                missing.append(f"scores/{subject}/{benchmark}/summary.json")
    return scored


def _load_scored(folder: Path, missing: list[str]) -> Scored:
    summary = _summary(folder / "summary.json")
    rows_path = folder / f"scores-{summary.variant}.jsonl"
    rows_path = rows_path if rows_path.is_file() else folder / "scores.jsonl"
    variants = {file.stem.removeprefix("summary-"): _summary(file) for file in sorted(folder.glob("summary-*.json"))}
    rows = read_jsonl(rows_path) if rows_path.is_file() else []
    if not rows:
        missing.append("/".join(rows_path.parts[-4:]))
    return Scored(summary=summary, rows=rows, variants=variants)


def _load_costs(path: Path, missing: list[str]) -> list[CostRecord]:
    files = sorted((path / "cost").glob("*.json"))
    if not files:
        missing.append("cost/predicted.json or cost/measured.json")
    return [record for file in files for record in read_costs(file)]


def manifest_json(run: Run) -> str:
    """The manifest as indented JSON text, for the page's passport section."""
    return json.dumps(run.manifest, indent=2, ensure_ascii=False)
