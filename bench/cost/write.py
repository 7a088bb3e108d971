"""Tables to files: JSON, CSV and Markdown for each, one page of them all, records, provenance."""

from __future__ import annotations

import csv
import importlib.metadata
import io
import platform
import sys
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench.cost.charts import save_charts
from bench.cost.measure import Measurement, timed_on
from bench.cost.paper import Ask, Get
from bench.cost.protocols import DEVICE, figure4_protocols
from bench.cost.roofline import DEVICES, latency_band_s
from bench.cost.tables import Table
from bench.records import CostRecord, to_json, write_json

NOT_MEASURED = "no CUDA measurement was made: no GPU was at hand; everything here is predicted or published"


def write_paper(folder: Path, tables: list[Table], get: Get, asks: Iterable[Ask]) -> None:
    """Fill a folder: `predicted.json` (CostRecords, which `reports` reads) and `tables/`.

    tables/: `<name>.{json,csv,md}`, PNG for those with a chart, all of them in `paper.md`, provenance in `run.json`.
    """
    inner = folder / "tables"
    inner.mkdir(parents=True, exist_ok=True)
    for table in tables:
        write_json(inner / f"{table.name}.json", table)
        (inner / f"{table.name}.csv").write_text(as_csv(table))
        (inner / f"{table.name}.md").write_text(as_markdown(table))
    save_charts(tables, inner)
    (inner / "paper.md").write_text("\n".join(as_markdown(table) for table in tables))
    write_json(folder / "predicted.json", [*bare_records(get, asks), *protocol_records(get)])
    write_json(inner / "run.json", provenance())


def bare_records(get: Get, asks: Iterable[Ask]) -> list[CostRecord]:
    """A record of each predicted case but figure 4's pairs, its latency the roofline's band [fast, slow] on an H100."""
    device = DEVICES[DEVICE]
    records = []
    for name, batch_size in asks:
        cost = get(name, batch_size)
        values = to_json(cost.record()) | {
            "device": f"{device.name} (roofline: fast, slow)",
            "latency_s": list(latency_band_s(cost.operators, device)),
        }
        records.append(CostRecord(**values))
    bare_pairs = {(record.case, record.batch_size) for record in protocol_records(get)}
    return [record for record in records if (record.case, record.batch_size) not in bare_pairs]


def protocol_records(get: Get) -> list[CostRecord]:
    """The records of figure 4's protocols, in pairs."""
    return [record for protocol in figure4_protocols(get) for record in protocol.records()]


def write_records(path: Path, records: Iterable[CostRecord], measurements: Iterable[Measurement] = ()) -> None:
    """Write records, and beside them `<name>.run.json`: provenance, and what a measured record has no field for."""
    extra = [
        {
            "case": measurement.record.case,
            "batch_size": measurement.record.batch_size,
            "reserved_bytes": measurement.reserved_bytes,
            "process_max_rss_bytes": measurement.process_max_rss_bytes,
        }
        for measurement in measurements
    ]
    write_json(path, list(records))
    write_json(path.with_suffix(".run.json"), provenance(extra or "nothing was measured"))


def provenance(measured: Any = NOT_MEASURED) -> dict[str, Any]:
    """The command line, date, machine, versions, and what was measured, or that nothing was."""
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": " ".join(["python -m bench", *sys.argv[1:]]),
        "machine": {"processor": timed_on("cpu"), "python": platform.python_version(), "system": platform.system()},
        "versions": {name: importlib.metadata.version(name) for name in ("torch", "diffusers", "transformers")},
        "measured": measured,
    }


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
