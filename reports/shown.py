"""A report's tables as text, ready for page and files: rounded, with intervals, a dash for what is not there."""

from collections.abc import Sequence

import pandas as pd

from bench.records import CostRecord
from reports import tables
from reports.runs import SUBJECT_NAMES, SUBJECTS, Run, groups


def judge_check_rows(runs: Sequence[Run]) -> pd.DataFrame:
    """What the judges themselves score where the truth is known: the ceiling of what they measure.

    A row that several runs have alike stands once.
    """
    found: dict[tuple[str, ...], list[str]] = {}
    for run in runs:
        for check in run.judge_checks:
            row = (check["judge"], check["what"], f"{check['value']:.3f}", f"{check['n']:,}")
            found.setdefault(row, []).append(run.name)
    checked = [run.name for run in runs if run.judge_checks]
    named = {row: "all" if names == checked and len(names) > 1 else ", ".join(names) for row, names in found.items()}
    columns = ("Run", "Judge", "What", "Value", "n")
    return pd.DataFrame([dict(zip(columns, (names, *row), strict=True)) for row, names in named.items()])


def disagreement_rows(runs: Sequence[Run]) -> pd.DataFrame:
    """On how much of each suite a second judge says something else than the scores, and what it would give and keep.

    Runs that were scored before the second judge's score was written down have a dash for it.
    """
    rows = []
    for run in runs:
        sources = {row["suite"]: row.get("other_score") for row in run.disagreement if row["subject"] == "source"}
        for row in run.disagreement:
            subject, suite = row["subject"], row["suite"]
            scored = run.scored.get((subject, suite))
            other, source = row.get("other_score"), sources.get(suite)
            kept = other / source if subject == "l2p" and other is not None and source else None
            rows.append(
                {
                    "Run": run.name,
                    "Model": SUBJECT_NAMES.get(subject, subject),
                    "Suite": run.suites.get(suite, suite),
                    "Disagree": f"{row['value']:.1%} of {row['n']:,} {row['of']}",
                    "Score": tables.number(scored.summary.overall if scored and other is not None else None),
                    "By the second judge": tables.number(other),
                    "Kept by it": tables.number(kept),
                }
            )
    return pd.DataFrame(rows)


def retention_shown(table: pd.DataFrame) -> pd.DataFrame:
    """The retention table as text."""
    return pd.DataFrame(
        {
            "Run": table["run"],
            "Benchmark": table["title"],
            "Retention": [tables.interval(*cells) for cells in table[["value", "low", "high"]].itertuples(index=False)],
            **{
                SUBJECT_NAMES[subject]: list(map(tables.number, table[subject], table["decimals"]))
                for subject in SUBJECTS
            },
            "Seeds": table["num_seeds"].astype(str),
            "n": [tables.number(n, 0) for n in table["n"]],
            "Images trained on": [tables.number(n, 0) for n in table["train_images"]],
            "Transfer": [clock(seconds) for seconds in table["seconds"]],
        }
    )


def option_differences(runs: Sequence[Run]) -> pd.DataFrame:
    """Options in which the transfers of several recipes differ, a column a recipe; empty for one recipe."""
    transfers = {group: members[0].transfer for group, members in groups(runs).items()}
    options = {group: transfer["options"] for group, transfer in transfers.items() if transfer}
    names = dict.fromkeys(name for given in options.values() for name in given)
    values = {name: {group: str(given.get(name, "–")) for group, given in options.items()} for name in names}
    return pd.DataFrame([{"Option": name, **row} for name, row in values.items() if len(set(row.values())) > 1])


def costs_shown(records: Sequence[CostRecord]) -> pd.DataFrame:
    """Cost records as text, one row a case and protocol."""
    table = tables.cost_table(records)
    if table.empty:
        return table
    texts = {
        "Case": table["case"],
        "Batch": table["batch"].astype(str),
        "TFLOP": [tables.number(value, 3) for value in table["TFLOP"]],
        "Peak MiB": [tables.number(value, 0) for value in table["peak MiB"]],
        "Latency ms": [tables.number(value, 2) for value in table["latency ms"]],
        "Timings": table["timings"].astype(str),
        "Protocol": table["protocol"],
        "Device": table["device"],
    }
    return pd.DataFrame(texts)


def tasks_shown(table: pd.DataFrame) -> pd.DataFrame:
    """The tasks' table as text: a row a run and model, a column a task."""
    rows: dict[tuple[str, str], dict[str, str]] = {}
    for row in table.itertuples():
        model = SUBJECT_NAMES[row.subject]
        cells = rows.setdefault((row.run, model), {"Run": row.run, "Model": model})
        cells[row.task.replace("_", " ")] = tables.interval(row.value, row.low, row.high)
    return pd.DataFrame(list(rows.values())).fillna("–")


def variants_shown(table: pd.DataFrame) -> pd.DataFrame:
    """The variants' table as text: a row a run, model and suite, a column a variant."""
    rows: dict[tuple[str, str, str], dict[str, str]] = {}
    for row in table.itertuples():
        names = (row.run, SUBJECT_NAMES[row.subject], row.title)
        cells = rows.setdefault(names, dict(zip(("Run", "Model", "Benchmark"), names, strict=True)))
        cells[row.variant] = tables.interval(row.value, row.low, row.high, row.decimals + 1)
    return pd.DataFrame(list(rows.values())).fillna("–")


def variant_tables(runs: Sequence[Run]) -> list[tuple[str, pd.DataFrame]]:
    """Each suite that was scored by several variants: its title, a row a run and subject, a column a variant."""
    table = tables.variant_table(runs)
    parts = table.groupby("title", sort=False)
    return [(str(title), variants_shown(part).drop(columns="Benchmark")) for title, part in parts]


def clock(seconds: float | None) -> str:
    """ "3 min 20 s", "2 h 05 min"; an en dash for an unknown time."""
    if seconds is None or pd.isna(seconds):
        return "–"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"
