"""The paper-size block: what `python -m bench cost --paper` left in a folder, as records, tables and charts."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from bench.records import CostRecord, read_costs, read_json
from reports.runs import Run

RECORD_FIELDS = {"case", "kind"}  # what tells a cost record from other JSON
TABLE_FIELDS = {"title", "rows"}
PROVENANCE = "run.json"  # also <records>.run.json: command, machine and versions, for whoever asks where they come from


@dataclass(frozen=True, kw_only=True)
class CostTable:
    """A predicted table as it was written: a title, rows with the same columns, and notes on how to read them."""

    title: str
    rows: pd.DataFrame
    notes: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class PaperCosts:
    """Everything of the paper-size block; ``unread`` names JSON files that hold neither records nor tables."""

    records: list[CostRecord]
    tables: list[CostTable]
    charts: list[Path]
    unread: list[str]


def load_paper_costs(folder: Path) -> PaperCosts:
    """Read a folder of predicted costs, empty where there is none.

    Raises ValueError naming a file that is no JSON or whose records have fields that are unknown or missing.
    """
    records: list[CostRecord] = []
    tables: list[CostTable] = []
    unread: list[str] = []
    files = [*sorted(folder.glob("*.json")), *sorted(folder.glob("tables/*.json"))]
    for file in files:
        content = read_json(file)
        if file.name.endswith(PROVENANCE):
            continue
        parts = content if isinstance(content, list) else [content]
        if all(isinstance(part, dict) and part.keys() >= RECORD_FIELDS for part in parts):
            records += read_costs(file)
        elif all(isinstance(part, dict) and part.keys() >= TABLE_FIELDS for part in parts):
            tables += [_table(part) for part in parts]
        else:
            unread.append(file.name)
    return PaperCosts(records=records, tables=tables, charts=sorted(folder.glob("**/*.png")), unread=unread)


def load_records(folder: Path) -> list[CostRecord]:
    """The cost records of a folder; FileNotFoundError where there is none."""
    records = load_paper_costs(folder).records
    if not records:
        raise FileNotFoundError(f"{folder} holds no cost records: write them with `python -m bench cost --paper --out`")
    return records


def _table(part: dict[str, Any]) -> CostTable:
    rows = pd.DataFrame(part["rows"]).map(_cell)
    return CostTable(title=part["title"], rows=rows.rename(columns=_heading), notes=tuple(part.get("notes", ())))


def _cell(value: Any) -> str:
    """A table's value as text: numbers as they were rounded there, truth as yes or no, nothing as a dash."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value is None or (isinstance(value, float) and pd.isna(value)):
        return "–"
    return f"{value:,g}" if isinstance(value, float) else str(value)


def _heading(name: str) -> str:
    return str(name).replace("_", " ")


def all_records(runs: Sequence[Run], paper: PaperCosts) -> list[CostRecord]:
    """The runs' cost records and the paper-size ones, each once (several runs may carry the same prediction)."""
    records = [record for run in runs for record in run.costs] + paper.records
    return list({repr(record): record for record in records}.values())
