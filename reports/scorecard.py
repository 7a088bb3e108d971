"""The scorecard: one row a source family, what was run of it and how it came out."""

from collections.abc import Sequence
from typing import Any

import pandas as pd

from reports.claims import Judgement, judging_group
from reports.estimates import NoEvidenceError, pooled_retention
from reports.runs import BENCHMARK_NAMES, Run
from reports.tables import interval, number, or_none

FAMILIES = ("flux", "sd3", "zimage", "qwenimage", "flux2")  # the architectures that the project knows
COLUMNS = ("Family", "Size", "Runs", *BENCHMARK_NAMES.values(), "Tuned", "Images", "Transfer", "Alarms")
NO_RUN = "no run in this report"


def scorecard(runs: Sequence[Run]) -> pd.DataFrame:
    """A row a family and size, as text: retention by benchmark, share of parameters tuned, compute, alarms.

    Retention is of the runs that judge the claims (``claims.judging_group``); a family without runs says so.
    """
    rows = []
    for family in dict.fromkeys((*FAMILIES, *(run.family for run in runs))):
        members = [run for run in runs if run.family == family]
        sizes = list(dict.fromkeys(run.size for run in members))
        rows += [_row(family, size, [run for run in members if run.size == size]) for size in sizes]
        if not sizes:
            rows.append({"Family": family, "Size": "–", "Runs": NO_RUN})
    return pd.DataFrame(rows, columns=list(COLUMNS)).fillna("–")


def _row(family: str, size: str, runs: list[Run]) -> dict[str, Any]:
    row = {"Family": family, "Size": size, "Runs": ", ".join(run.name for run in runs)}
    try:
        judging = judging_group(runs)
    except NoEvidenceError as absent:
        return {**row, "Runs": f"{row['Runs']} ({absent})"}
    for benchmark, name in BENCHMARK_NAMES.items():
        estimate = or_none(pooled_retention, judging, benchmark)
        row[name] = interval(estimate.value, estimate.low, estimate.high, 2) if estimate else "–"
    summary = judging[0].transfer or {}
    return {
        **row,
        "Tuned": f"{summary['num_trainable_parameters'] / summary['num_parameters']:.0%} of {_millions(summary)}",
        "Images": number(judging[0].num_train_images, 0),
        "Transfer": f"{summary['seconds'] / 60:.1f} min",
        "Alarms": str(sum(len(alarms(run)) for run in judging)),
    }


def _millions(summary: dict[str, Any]) -> str:
    return f"{summary['num_parameters'] / 1e6:,.1f} M"


def alarms(run: Run) -> list[str]:
    """The alarms of a run's log as sentences, in the order in which they rang."""
    return [f"step {row['step']}, {row['alarm']}: {row['message']}" for row in run.log if "alarm" in row]


def verdict_counts(judgements: Sequence[Judgement]) -> dict[str, int]:
    """How many claims have each verdict; all three verdicts are there, also those with none."""
    verdicts = [judgement.verdict for judgement in judgements]
    return {verdict: verdicts.count(verdict) for verdict in ("reproduced", "not reproduced", "not tested")}
