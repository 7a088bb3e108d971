"""A comparison for people and programs: plain text, Markdown for a pull request, JSON."""

import json
from collections.abc import Sequence

from bench.records import to_json
from reports.regression.checks import Comparison
from reports.regression.outcome import BETTER, NOISE, NOT_COMPARED, OUTCOMES, WORSE, Check
from reports.table_files import markdown_row
from reports.tables import number

MARK = "python -m reports regression"  # in what was written, so that it may be written over
SIGNS = {WORSE: "❌", NOT_COMPARED: "❓", BETTER: "✅", NOISE: ""}
HEAD = ("Check", "Baseline", "Now", "Change (95 % interval)", "p, corrected", "Outcome")


def as_text(comparison: Comparison) -> str:
    """A line a check in columns, then notes and the count of outcomes."""
    rows = [HEAD, *(_cells(check) for check in comparison.checks)]
    widths = [max(len(row[k]) for row in rows) for k in range(len(HEAD))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join([f"{MARK}: {_sides(comparison)}", "", *lines, "", *comparison.notes, counted(comparison)]) + "\n"


def as_markdown(comparison: Comparison) -> str:
    """What stands out as a table, then all checks folded away."""
    shown = [check for check in comparison.checks if check.outcome != NOISE]
    parts = [f"<!-- {MARK} -->", f"### {_verdict(comparison)}", f"{_sides(comparison)}. **{counted(comparison)}**"]
    parts += [f"> {note}" for note in comparison.notes]
    parts += [_table(shown)] if shown else []
    parts += [
        f"<details><summary>All {len(comparison.checks)} checks</summary>\n\n{_table(comparison.checks)}\n</details>"
    ]
    parts.append(
        "Paired by prompt, with the spread of transfer seeds; p-values are corrected for all checks, so that equal "
        "recipes raise a false alarm in at most 5 % of comparisons."
    )
    return "\n\n".join(parts) + "\n"


def as_json(comparison: Comparison) -> str:
    """Everything, unrounded."""
    counts = {outcome: comparison.count(outcome) for outcome in OUTCOMES}
    return (
        json.dumps({"written_by": MARK, "counts": counts, **to_json(comparison)}, indent=2, ensure_ascii=False) + "\n"
    )


FORMATS = {"text": as_text, "markdown": as_markdown, "json": as_json}


def counted(comparison: Comparison) -> str:
    """ "1 worse, 0 not compared, 2 better, 14 within noise"."""
    return ", ".join(f"{comparison.count(outcome)} {outcome}" for outcome in OUTCOMES)


def _verdict(comparison: Comparison) -> str:
    if comparison.count(WORSE):
        return "❌ Worse than the baseline"
    return "❓ Not all was compared" if comparison.count(NOT_COMPARED) else "✅ No worse than the baseline"


def _sides(comparison: Comparison) -> str:
    return f"{', '.join(comparison.runs)} against {', '.join(comparison.baseline)}"


def _table(checks: Sequence[Check]) -> str:
    ordered = sorted(checks, key=lambda check: OUTCOMES.index(check.outcome))
    rows = [[*_cells(check)[:-1], f"{SIGNS[check.outcome]} {_cells(check)[-1]}".strip()] for check in ordered]
    return "\n".join(markdown_row(row) for row in [HEAD, ["---"] * len(HEAD), *rows])


def _cells(check: Check) -> tuple[str, ...]:
    values = [number(value, check.decimals) for value in (check.before, check.after)]
    p_value = "–" if check.p_corrected is None else f"{check.p_corrected:.4f}"
    return check.name, *values, _change(check), p_value, f"{check.outcome}{f': {check.why}' if check.why else ''}"


def _change(check: Check) -> str:
    if check.change is None:
        return "–"
    form = (lambda value: f"× {value:.3f}") if check.unit == "x" else (lambda value: f"{value:+.{check.decimals}f}")
    interval = f" ({form(check.low)}, {form(check.high)})" if check.low is not None and check.high is not None else ""
    return form(check.change) + interval
