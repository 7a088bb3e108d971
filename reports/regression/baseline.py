"""What a run is compared with: run folders, a folder of them, or a baseline file, small enough to be committed.

A baseline file holds, of each seed, the recipe and inputs, every score row, alarms and costs: all that a regression
reads. Equal runs give equal bytes.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.benchmarks import find_benchmark
from bench.records import cost_record, read_json, to_json
from l2p.errors import InputError
from reports import checked
from reports.estimates import NoEvidenceError, score_rows
from reports.kept import identity
from reports.runs import FORMAT, SUBJECTS, Run, Scored, groups, load_run, refuse_repeated, runs_in
from reports.written import refuse_file, write_text

BASELINE_FORMAT = 1
MARK = '"written_by": "python -m reports baseline"'
MANIFEST = ("format", "recipe", "inputs", "machine")  # of run.json, what a regression reads
TRANSFER = (
    *checked.TRANSFER_COUNTS,
    "num_trainable_blocks",
    "options",
    "final_loss",
    "frozen_sha256_before",
    "frozen_sha256_after",
)
UNREAD = ("details", "versions", "generation", "checks")  # of a score's passport
ROW = ("prompt_id", "index", "category", "text")


def load_side(paths: Sequence[Path]) -> list[Run]:
    """The runs of a side; a path is a run folder, a folder of run folders, or a baseline file.

    Raises FileNotFoundError where there is none, ValueError naming what is broken or counted twice.
    """
    runs = [run for path in paths for run in _load(Path(path))]
    refuse_repeated(runs)
    return runs


def _load(path: Path) -> list[Run]:
    if path.is_file():
        return read_baseline(path)
    return [load_run(entry) for entry in runs_in(path) or [path]]


def seeds_of_one_recipe(runs: Sequence[Run]) -> list[Run]:
    """The runs, seeds of one recipe; ValueError naming the recipes where they are of several."""
    by_recipe = groups(runs)
    if len(by_recipe) > 1:
        raise InputError(f"{_named(by_recipe)}: give runs of one recipe, its transfer seeds")
    return list(runs)


def matching(baseline: Sequence[Run], current: Sequence[Run]) -> list[Run]:
    """Of a baseline's runs the seeds of the recipe that is compared; ValueError where none can be told to be it."""
    by_recipe = groups(baseline)
    if len(by_recipe) == 1:
        return list(baseline)
    same = identity(current[0].manifest, seed=False)
    found = [members for members in by_recipe.values() if identity(members[0].manifest, seed=False) == same]
    found = found or [members for members in by_recipe.values() if members[0].recipe_name == current[0].recipe_name]
    if len(found) != 1:
        raise InputError(f"the baseline holds {_named(by_recipe)}: give the seeds of one, such as a run folder")
    return found[0]


def _named(by_recipe: dict[str, list[Run]]) -> str:
    return "several recipes, " + ", ".join(f"{label} ({members[0].path.name})" for label, members in by_recipe.items())


def write_baseline(run_dirs: Sequence[Path], out: Path) -> list[Run]:
    """Write a baseline file of the transfer seeds of one recipe; returns them.

    Raises ValueError, before anything is written, where a score is incomplete, the runs are of several recipes, or
    ``out`` is no place for it.
    """
    refuse_file(out, run_dirs, MARK)
    runs = sorted(seeds_of_one_recipe(load_side(run_dirs)), key=lambda run: (run.seed or 0, run.name))
    suites = _suites(runs)
    lines = [json.dumps({"format": BASELINE_FORMAT})[:-1] + f", {MARK},", '"suites": {']
    lines += _separated(f"{json.dumps(name)}: {_compact(suite)}" for name, suite in suites.items())
    lines += ["},", '"runs": [', *_separated(_compact(_saved(run, suites)) for run in runs), "]}"]
    write_text(out, "\n".join(lines) + "\n")
    return runs


def _compact(value: Any) -> str:
    return json.dumps(to_json(value), separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def _separated(lines: Any) -> list[str]:
    lines = list(lines)
    return [f"{line}," for line in lines[:-1]] + lines[-1:]


def _suites(runs: Sequence[Run]) -> dict[str, Any]:
    """Title and rows without values of every suite; ValueError where a run lacks a score or has other rows."""
    suites: dict[str, Any] = {}
    for suite, title in runs[0].suites.items():
        for run in runs:
            for subject in SUBJECTS:
                scored = run.scored.get((subject, suite))
                try:
                    if scored is None or not scored.benchmark.of_set:  # a figure of a whole set has no rows
                        score_rows(run, subject, suite)
                except NoEvidenceError as absent:
                    raise InputError(f"no baseline without all its scores: {absent}") from absent
                rows = [[row.get(name) for name in ROW] for row in _sorted(run.scored[subject, suite])]
                if suites.setdefault(suite, {"title": title, "rows": rows})["rows"] != rows:
                    raise InputError(f"{run.name}: {subject} on {suite} was asked other prompts than {runs[0].name}")
    if not suites:
        raise InputError(f"{runs[0].path} holds no scores, so there is nothing to compare with later")
    return suites


def _sorted(scored: Scored) -> list[dict[str, Any]]:
    return sorted(scored.rows, key=lambda row: (str(row["prompt_id"]), row["index"]))


def _saved(run: Run, suites: dict[str, Any]) -> dict[str, Any]:
    return {
        "name": run.name,
        "manifest": {name: run.manifest[name] for name in MANIFEST if name in run.manifest},
        "transfer": {name: run.transfer[name] for name in TRANSFER if name in run.transfer} if run.transfer else None,
        "log": [row for row in run.log if "alarm" in row] or run.log[-1:],
        "scores": {
            subject: {suite: _saved_score(run.scored[subject, suite]) for suite in suites} for subject in SUBJECTS
        },
        "costs": run.costs,
    }


def _saved_score(scored: Scored) -> dict[str, Any]:
    passport = {name: value for name, value in scored.summary.passport.items() if name not in UNREAD}
    return {
        "summary": {**to_json(scored.summary), "passport": passport},
        "values": [row["value"] for row in _sorted(scored)],
    }


def read_baseline(path: Path) -> list[Run]:
    """The runs of a baseline file; ValueError where it is none."""
    saved = read_json(path)
    if not isinstance(saved, dict) or saved.get("format") != BASELINE_FORMAT or not saved.get("runs"):
        raise InputError(
            f"{path} is no baseline of format {BASELINE_FORMAT}: write one with `python -m reports baseline`"
        )
    try:
        return [_run(row, saved["suites"], path) for row in saved["runs"]]
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path} is a broken baseline ({type(error).__name__}: {error}): write it again") from error


def _run(row: dict[str, Any], suites: dict[str, Any], path: Path) -> Run:
    scored = {
        (subject, suite): _scored(score, suites[suite]["rows"], path)
        for subject, of_suites in row["scores"].items()
        for suite, score in of_suites.items()
    }
    return Run(
        path=path.resolve() / row["name"],
        manifest=checked.checked_manifest(row["manifest"], path, FORMAT) if row["manifest"] else {},
        corpus=None,
        transfer=checked.checked_transfer(row["transfer"], path) if row["transfer"] else None,
        log=checked.checked_log(row["log"], path) or [],
        suites={name: suite["title"] for name, suite in suites.items()},
        scored=scored,
        costs=checked.checked_costs([cost_record(cost, path) for cost in row["costs"]], path),
    )


def _scored(score: dict[str, Any], keys: list[list[Any]], path: Path) -> Scored:
    if len(score["values"]) != len(keys):
        raise InputError(f"{path}: {len(score['values'])} values for {len(keys)} score rows")
    rows = [
        {name: part for name, part in zip(ROW, key, strict=True) if part is not None} | {"value": value}
        for key, value in zip(keys, score["values"], strict=True)
    ]
    summary = checked.checked_summary(score["summary"], path)
    return Scored(
        benchmark=find_benchmark(summary.benchmark), summary=summary, rows=checked.checked_rows(rows, path), variants={}
    )
