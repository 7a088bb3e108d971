"""Tables as data frames of raw values (`reports.table_files` writes them).

Table 1 keeps published and measured rows in blocks of their own, by size, and never mixes them; the scorecard has a row
a source family.
"""

from collections.abc import Callable, Sequence
from typing import Any

import pandas as pd

from bench.benchmarks import BENCHMARKS
from bench.cost.devices import DEVICES
from bench.records import CostRecord, Summary
from bench.statistics import Estimate
from reports import estimates, paper
from reports.cost import figure4
from reports.evidence import judging_group, keeps_to_paper
from reports.runs import SUBJECT_NAMES, SUBJECTS, Run, alarms, groups, suite_titles

METRICS = (*paper.DPG_COLUMNS, "dpg", "geneval")
METRIC_NAMES = {**{name: name.capitalize() for name in paper.DPG_COLUMNS}, "dpg": "DPG", "geneval": "GenEval"}
DECIMALS = {name: BENCHMARKS[name if name in BENCHMARKS else "dpg"].decimals for name in METRICS}
COUNTS = {"geneval": "n", "dpg": "n_dpg"}  # the suites that stand in table 1, and their columns of counts
COLUMNS = (
    *("kind", "method", "family", "size"),
    *(column for metric in METRICS for column in (metric, f"{metric}_low", f"{metric}_high")),
    *("n", "n_dpg", "space"),
)
"""Table 1's columns: ``n`` counts GenEval's scored images, ``n_dpg`` DPG's items; ``space`` is latent or pixel."""


def table1(runs: Sequence[Run]) -> pd.DataFrame:
    """The paper's table 1 (kind "published", size "paper") followed by the runs' rows (kind "measured")."""
    rows = [_published_row(row) for row in paper.TABLE1]
    for label, members in groups(runs).items():
        rows += _measured_rows(label, members)
    return pd.DataFrame(rows, columns=list(COLUMNS))


def _published_row(row: paper.Published) -> dict[str, Any]:
    metrics = {**dict(zip(paper.DPG_COLUMNS, row.categories, strict=True)), "dpg": row.dpg, "geneval": row.geneval}
    start = {"kind": "published", "method": row.method, "family": row.family, "size": "paper", "space": row.space}
    return {**start, **metrics}


def _measured_rows(label: str, members: list[Run]) -> list[dict[str, Any]]:
    """Source and pixel model of each seed; the source once where all seeds share it; a mean row over several seeds."""
    rows, seen = [], set()
    for subject in SUBJECTS:
        for run in members:
            row = _measured_row(run, subject)
            values = tuple(row.get(metric) for metric in METRICS)
            if any(value is not None for value in values) and (subject != "source" or values not in seen):
                rows.append(row)
            seen.add(values)
    return rows + _mean_row(label, members)


def _measured_row(run: Run, subject: str) -> dict[str, Any]:
    row = {**_start(run, subject, run.name), "n": None}
    for suite, count in COUNTS.items():
        if scored := run.scored.get((subject, suite)):
            row |= _summary_cells(scored.summary, suite) | {count: scored.summary.num_scored}
    return row


def _start(run: Run, subject: str, name: str) -> dict[str, Any]:
    method = f"{SUBJECT_NAMES[subject]}, {name}"
    space = "latent" if subject == "source" else "pixel"
    return {"kind": "measured", "method": method, "family": run.family, "size": run.size, "space": space}


def _summary_cells(summary: Summary, suite: str) -> dict[str, float]:
    low, high = summary.overall_ci95
    cells = {suite: summary.overall, f"{suite}_low": low, f"{suite}_high": high}
    if suite != "dpg":  # table 1 has columns for DPG-Bench's categories only
        return cells
    intervals = summary.passport.get("details", {}).get("by_category_ci95", {})
    for name in paper.DPG_COLUMNS:  # L1 and L2 categories stand side by side: table 1 takes L1
        if name in summary.by_category:
            cells[name] = summary.by_category[name]
            cells |= dict(zip((f"{name}_low", f"{name}_high"), intervals.get(name) or (), strict=False))
    return cells


def _mean_row(label: str, members: list[Run]) -> list[dict[str, Any]]:
    """The pixel model's mean over transfer seeds, where there are several with score rows."""
    if len(members) < 2:
        return []
    means = {name: or_none(estimates.pooled_overall, members, "l2p", name) for name in COUNTS}
    row = _start(members[0], "l2p", f"{label}, mean of {len(members)} seeds")
    for name, estimate in means.items():
        row |= _cells(name, estimate) | {COUNTS[name]: estimate.num_values} if estimate else {}
    return [row] if any(means.values()) else []


def _cells(name: str, estimate: Estimate) -> dict[str, float]:
    return {name: estimate.value, f"{name}_low": estimate.low, f"{name}_high": estimate.high}


def task_table(runs: Sequence[Run]) -> pd.DataFrame:
    """GenEval by task: one row a run, subject and task, with ``value``, ``low``, ``high`` (NaN without score rows)."""
    rows = []
    for run in runs:
        for subject in SUBJECTS:
            if scored := run.scored.get((subject, "geneval")):
                for task, value in scored.summary.by_category.items():
                    estimate = or_none(estimates.category_estimate, run, subject, "geneval", task)
                    low, high, n = (estimate.low, estimate.high, estimate.num_values) if estimate else (None,) * 3
                    cells = {"value": value, "low": low, "high": high, "n": n}
                    rows.append({"run": run.name, "subject": subject, "task": task, **cells})
    return pd.DataFrame(rows, columns=["run", "subject", "task", "value", "low", "high", "n"])


def variant_table(runs: Sequence[Run]) -> pd.DataFrame:
    """Overall scores by scoring variant: one row a run, subject, suite and variant, where a suite has several."""
    rows = [
        {
            **{"run": run.name, "subject": subject, "suite": suite, "title": run.suites[suite], "variant": name},
            **{"value": variant.overall, "low": variant.overall_ci95[0], "high": variant.overall_ci95[1]},
            **{"n": variant.num_scored, "decimals": scored.benchmark.decimals},
        }
        for run in runs
        for (subject, suite), scored in run.scored.items()
        for name, variant in scored.variants.items()
    ]
    return pd.DataFrame(rows, columns=[*("run", "subject", "suite", "title", "variant", "value"), *VARIANT_NUMBERS])


VARIANT_NUMBERS = ("low", "high", "n", "decimals")
RETENTION_COLUMNS = (
    *("run", "group", "case_title", "suite", "title", "decimals", "num_seeds", *SUBJECTS),
    *("value", "low", "high", "n", "train_images", "seconds"),
)


def retention_table(runs: Sequence[Run]) -> pd.DataFrame:
    """Retention (pixel model / source) by suite: each run, and the mean over seeds of a group with several.

    ``seconds`` is the transfer's time, ``n`` the pixel model's images (DPG: items), ``decimals`` those of its scores.
    """
    rows = []
    for suite, title in suite_titles(runs).items():
        for group, members in groups(runs).items():
            names = {"group": group, "case_title": members[0].case_title, "suite": suite, "title": title}
            rows += [_retention_row(run.name, [run], names) for run in members]
            if len(members) > 1:
                rows.append(_retention_row(f"{group}, mean", members, names))
    return pd.DataFrame([row for row in rows if row], columns=list(RETENTION_COLUMNS))


def retention_of_judging(runs: Sequence[Run]) -> pd.DataFrame:
    """``retention_table`` of the runs that may judge claims: transfers that keep to the paper, no ablations."""
    return retention_table([run for run in runs if keeps_to_paper(run) is None])


def _retention_row(name: str, members: list[Run], names: dict[str, str]) -> dict[str, Any] | None:
    suite = names["suite"]
    estimate = or_none(estimates.pooled_retention, members, suite)
    if estimate is None:
        return None
    overall = {
        subject: sum(run.scored[subject, suite].summary.overall for run in members) / len(members)
        for subject in SUBJECTS
    }
    start = {"run": name, **names, "num_seeds": len(members)}
    start["decimals"] = members[0].scored["l2p", suite].benchmark.decimals
    cost = {"train_images": members[0].num_train_images, "seconds": (members[0].transfer or {}).get("seconds")}
    interval = {"value": estimate.value, "low": estimate.low, "high": estimate.high, "n": estimate.num_values}
    return {**start, **overall, **interval, **cost}


def scorecard(runs: Sequence[Run]) -> pd.DataFrame:
    """A row a family, world and size, as text: retention by suite, share of parameters tuned, compute, alarms.

    Retention is of the runs that judge the claims (``claims.judging_group``).
    """
    titles = suite_titles(runs)
    keys = dict.fromkeys((run.case, run.size) for run in runs)
    rows = [_card([run for run in runs if (run.case, run.size) == key]) for key in keys]
    columns = ("Family", "Size", "Runs", *titles.values(), "Tuned", "Images", "Transfer", "Alarms")
    return pd.DataFrame(rows, columns=list(dict.fromkeys(columns))).astype(object).fillna("–")


def _card(runs: list[Run]) -> dict[str, Any]:
    row = {
        "Family": ", ".join(filter(None, runs[0].case)),
        "Size": runs[0].size,
        "Runs": ", ".join(run.name for run in runs),
    }
    try:
        judging = judging_group(runs)
    except estimates.NoEvidenceError as absent:
        return {**row, "Runs": f"{row['Runs']} ({absent})"}
    for suite, title in suite_titles(runs).items():
        estimate = or_none(estimates.pooled_retention, judging, suite)
        row[title] = interval(estimate.value, estimate.low, estimate.high, 2) if estimate else "–"
    summary = judging[0].transfer or {}
    share = summary["num_trainable_parameters"] / summary["num_parameters"]
    return {
        **row,
        "Tuned": f"{share:.0%} of {summary['num_parameters'] / 1e6:,.1f} M",
        "Images": number(judging[0].num_train_images, 0),
        "Transfer": f"{summary['seconds'] / 60:.1f} min",
        "Alarms": str(sum(len(alarms(run)) for run in judging)),
    }


def cost_table(records: Sequence[CostRecord]) -> pd.DataFrame:
    """Cost records in readable units; latency is a median, of raw timings or (predicted) of an H100's modelled band."""
    rows = [
        {
            "kind": record.kind,
            "case": record.case,
            "protocol": record.protocol,
            "resolution": record.resolution,
            "batch": record.batch_size,
            "device": f"{_timed_on(record)}, {record.dtype}",
            "TFLOP": None if record.flops is None else record.flops / 1e12,
            "peak MiB": None if record.peak_memory_bytes is None else record.peak_memory_bytes / 2**20,
            "latency ms": 1e3 * float(pd.Series(times).median()) if times else None,
            "timings": len(times),
        }
        for record in records
        for times in [_times(record)]
    ]
    return pd.DataFrame(rows)


def _times(record: CostRecord) -> Sequence[float]:
    return record.latency_s or record.roofline_s.get(figure4.DEVICE, ())


def _timed_on(record: CostRecord) -> str:
    modelled = record.kind == "predicted" and figure4.DEVICE in record.roofline_s
    return f"{DEVICES[figure4.DEVICE].name} (roofline: fast, slow)" if modelled else record.device


def or_none(function: Callable[..., Estimate], *arguments: Any) -> Estimate | None:
    """The estimate, or None where the files hold no evidence for it (the page's missing-data list says what lacks)."""
    try:
        return function(*arguments)
    except estimates.NoEvidenceError:
        return None


def number(value: Any, decimals: int = 3) -> str:
    """A value rounded for reading; an en dash for an absent one."""
    return "–" if value is None or pd.isna(value) else f"{value:,.{decimals}f}"


def interval(value: Any, low: Any, high: Any, decimals: int = 3) -> str:
    """ "0.620 (0.571, 0.664)", or the bare value where there is no interval."""
    if value is None or pd.isna(value) or low is None or pd.isna(low):
        return number(value, decimals)
    return f"{number(value, decimals)} ({number(low, decimals)}, {number(high, decimals)})"


def displayed(frame: pd.DataFrame) -> pd.DataFrame:
    """Table 1's rows as text, averages first: one column a metric with its interval, absent values as a dash."""
    shown = pd.DataFrame({"Method": frame["method"]})
    decimals = DECIMALS if (frame["kind"] != "published").any() else dict.fromkeys(METRICS, 2)
    for metric in METRICS:
        cells = zip(frame[metric], frame[f"{metric}_low"], frame[f"{metric}_high"], strict=True)
        name = METRIC_NAMES[metric]
        shown[name] = [interval(value, low, high, decimals[metric]) for value, low, high in cells]
    shown = shown[["Method", "GenEval", "DPG", *(METRIC_NAMES[name] for name in paper.DPG_COLUMNS)]]
    counts = {"n": "Images", "n_dpg": "Items"}
    texts = {
        title: [number(count, 0) for count in frame[name]]
        for name, title in counts.items()
        if frame[name].notna().any()
    }
    return shown.assign(**texts, Space=frame["space"], Kind=frame["kind"])


def blocks(frame: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    """Table 1 cut into titled blocks by kind and size, published first: no block holds two kinds."""
    titles = {"published": "Published at 1024 × 1024", "measured": "Measured here", "not run": "Not run"}
    parts = frame.groupby(["kind", "size"], sort=False)
    return [(f"{titles[kind]}, {size} size", part) for (kind, size), part in parts]
