"""What a file must hold before a report reads it: each check raises a ValueError that names file and fault."""

from collections.abc import Mapping, Sequence
from math import isfinite
from pathlib import Path
from typing import Any

from bench.records import CostRecord, Summary, read_costs, read_json
from l2p.errors import InputError

ROW_KEYS = {"prompt_id", "index", "category", "value"}
TRANSFER_COUNTS = ("num_train_steps", "batch_size", "num_trainable_parameters", "num_parameters", "seconds")


def is_number(value: Any) -> bool:
    """Whether a value is a finite number; NaN, infinities, truth values and texts are not."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and isfinite(value)


def checked_rows(rows: Sequence[Any], path: Path) -> list[dict[str, Any]]:
    """Score rows, each an image (item) once, its value from 0 to 1 or None for unscored."""
    seen: set[tuple[str, int]] = set()
    for number, row in enumerate(rows, 1):
        where = f"{path}, row {number}"
        if not isinstance(row, dict) or (absent := ROW_KEYS - row.keys()):
            lacks = "" if not isinstance(row, dict) else f": it lacks {', '.join(sorted(absent))}"
            raise InputError(f"{where} is no score row{lacks}: {str(row)[:80]}")
        if not isinstance(row["index"], int) or not isinstance(row["category"], str):
            raise InputError(f"{where}: index must be a whole number and category a name: {str(row)[:80]}")
        value, key = row["value"], (str(row["prompt_id"]), row["index"])
        if value is not None and not (is_number(value) and 0 <= value <= 1):
            raise InputError(f"{where}: the value {value!r} is none from 0 to 1, nor null for unscored")
        if key in seen:
            raise InputError(f"{where}: prompt {key[0]}, image {key[1]}, was scored in an earlier row already")
        seen.add(key)
    return list(rows)


def read_summary(path: Path) -> Summary:
    """A benchmark's summary in a file, checked."""
    return checked_summary(read_json(path), path)


def checked_summary(row: Any, path: Path) -> Summary:
    """A benchmark's summary with numbers where numbers belong."""
    try:
        summary = Summary(**{**row, "overall_ci95": tuple(row["overall_ci95"])})
    except (TypeError, KeyError, AttributeError) as error:
        raise InputError(f"{path} is no benchmark summary: {error}") from error
    except ValueError as error:
        raise InputError(f"{path}: {error}") from error
    faults = {
        "overall": not is_number(summary.overall),
        "overall_ci95": len(summary.overall_ci95) != 2 or not all(map(is_number, summary.overall_ci95)),
        "by_category": not isinstance(summary.by_category, dict)
        or not all(value is None or is_number(value) for value in summary.by_category.values()),
        "passport": not isinstance(summary.passport, dict),
    }
    if any(faults.values()):
        name = next(name for name, fault in faults.items() if fault)
        raise InputError(f"{path}: {name} is {str(getattr(summary, name))[:60]!r}, which no benchmark writes")
    return summary


def checked_manifest(manifest: Any, path: Path, known_format: int) -> dict[str, Any]:
    """What ``run.json`` holds: this format, a recipe, and objects where objects belong."""
    if not isinstance(manifest, dict) or manifest.get("format") != known_format:
        given = manifest.get("format") if isinstance(manifest, dict) else type(manifest).__name__
        raise InputError(f"{path} has format {given!r}, this report reads {known_format}")
    recipe = manifest.get("recipe")
    if not isinstance(recipe, dict):
        raise InputError(f"{path} holds no recipe, so nothing says what this run is")
    for name in ("inputs", "git", "stages", "machine"):
        if not isinstance(manifest.get(name) or {}, dict):
            raise InputError(f"{path}: {name} is {str(manifest[name])[:60]!r}, but must be an object")
    if not isinstance(recipe.get("transfer") or {}, dict):
        raise InputError(f"{path}: the recipe's transfer is {str(recipe['transfer'])[:60]!r}, but must be an object")
    suites = recipe.get("suites") or []
    if not isinstance(suites, list) or not all(isinstance(suite, dict) and suite.get("name") for suite in suites):
        raise InputError(f"{path}: the recipe's suites must be a list of objects, each with a name")
    return manifest


def checked_transfer(summary: Any, path: Path) -> dict[str, Any]:
    """What ``transfer/summary.json`` holds: counts as numbers, and the options."""
    if not isinstance(summary, dict) or not isinstance(summary.get("options"), dict):
        raise InputError(f"{path} is no summary of a transfer: {str(summary)[:60]}")
    if absent := [name for name in TRANSFER_COUNTS if not is_number(summary.get(name))]:
        raise InputError(f"{path} has no number for {', '.join(absent)}")
    if "num_trainable_blocks" not in summary:
        raise InputError(f"{path} does not say num_trainable_blocks")
    return summary


def checked_log(rows: Sequence[Mapping[str, Any]] | None, path: Path) -> list[Any] | None:
    """The rows of a transfer's log: every one has its step."""
    for number, row in enumerate(rows or (), 1):
        losses = row.get("validation_loss", {})
        if not is_number(row.get("step")) or not isinstance(losses, dict):
            raise InputError(f"{path}, row {number}, is no row of a transfer's log: {str(row)[:80]}")
    return None if rows is None else list(rows)


def read_cost_file(path: Path) -> list[CostRecord]:
    """The cost records of a file, checked."""
    return checked_costs(read_costs(path), path)


def checked_costs(records: list[CostRecord], path: Path) -> list[CostRecord]:
    """Cost records with timings and amounts as numbers."""
    for record in records:
        amounts = [amount for amount in (record.flops, record.peak_memory_bytes) if amount is not None]
        timings = record.latency_s if isinstance(record.latency_s, list) else [None]
        if not all(is_number(amount) and amount >= 0 for amount in [*amounts, *timings]):
            raise InputError(f"{path}: the cost of {record.case} holds what is no number: {[*amounts, *timings][:5]}")
    return records


def checked_disagreement(rows: Any, path: Path) -> list[dict[str, Any]]:
    """On how much of a run's pictures a second judge disagrees: [] where no such file lies."""
    rows = [] if rows is None else rows
    wanted = {"subject", "suite", "of", "value", "n", "warn"}
    if not isinstance(rows, list) or not all(isinstance(row, dict) and wanted <= row.keys() for row in rows):
        raise InputError(f"{path} is no list of disagreements: every row needs {', '.join(sorted(wanted))}")
    if not all(is_number(row["value"]) and is_number(row["n"]) for row in rows):
        raise InputError(f"{path}: value and n of a disagreement are numbers")
    if not all(is_number(row.get("other_score", 0.0)) for row in rows):
        raise InputError(f"{path}: other_score of a disagreement is a number, or is not there")
    return rows


def checked_judge_checks(rows: Any, path: Path) -> list[dict[str, Any]]:
    """What the judges score where the truth is known: [] where no such file lies."""
    rows = [] if rows is None else rows
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise InputError(f"{path} is no list of checks of the judges")
    if any(not {"judge", "what"} <= row.keys() or not is_number(row.get("value")) for row in rows):
        raise InputError(f"{path}: every check of a judge needs judge, what and a number as its value")
    return rows
