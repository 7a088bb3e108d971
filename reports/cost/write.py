"""A folder of cost records to tables and charts: JSON, CSV and Markdown for each table, one page of them all."""

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.records import write_json
from reports.cost.charts import save_charts
from reports.cost.load import load_records
from reports.cost.tables import Table, all_tables


def draw_folder(folder: Path | str) -> str:
    """Fill ``tables/`` of a folder that `python -m bench cost --paper` wrote records into; returns its Markdown page.

    ``<name>.{json,csv,md}`` a table, a PNG for those with a chart, all of them in ``paper.md``. Records of measurements
    that lie beside ``predicted.json`` (`--measure cuda --json FOLDER/measured.json`) are told of in figure 4's table.
    Raises ValueError for a folder without the records that a table needs, before anything is written.
    """
    records = load_records(Path(folder))
    tables, inner = all_tables(records), Path(folder) / "tables"
    inner.mkdir(parents=True, exist_ok=True)
    for table in tables:
        write_json(inner / f"{table.name}.json", table)
        (inner / f"{table.name}.csv").write_text(as_csv(table), encoding="utf-8")
        (inner / f"{table.name}.md").write_text(as_markdown(table), encoding="utf-8")
    save_charts(tables, records, inner)
    page = paper_page(tables)
    (inner / "paper.md").write_text(page, encoding="utf-8")
    return page


def paper_page(tables: Sequence[Table]) -> str:
    """All tables, one below the other."""
    return "\n".join(as_markdown(table) for table in tables)


def as_csv(table: Table) -> str:
    """The rows as CSV with a header."""
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(table.rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(table.rows)
    return text.getvalue()


def as_markdown(table: Table) -> str:
    """The table with title and notes."""
    columns = list(table.rows[0])
    lines = [f"### {table.title}", "", _cells(columns), _cells(["---"] * len(columns))]
    lines += [_cells([_word(row[column]) for column in columns]) for row in table.rows]
    lines += ["", *(f"- {note}" for note in table.notes), ""]
    return "\n".join(lines)


def _cells(values: list[str]) -> str:
    return f"| {' | '.join(values)} |"


def _word(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "-" if value is None else f"{value:g}" if isinstance(value, float) else str(value)
