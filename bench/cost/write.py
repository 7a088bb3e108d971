"""Records to files, with their provenance beside them."""

from __future__ import annotations

import importlib.metadata
import platform
import sys
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench.cost.measure import Measurement, timed_on
from bench.records import CostRecord, write_json


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
    write_json(path.with_suffix(".run.json"), provenance(extra))


def provenance(measured: list[dict[str, Any]]) -> dict[str, Any]:
    """The command line, date, machine, versions, and what was measured."""
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": " ".join(["python -m bench", *sys.argv[1:]]),
        "machine": {"processor": timed_on("cpu"), "python": platform.python_version(), "system": platform.system()},
        "versions": {name: importlib.metadata.version(name) for name in ("torch", "diffusers", "transformers")},
        "measured": measured or "nothing was measured",
    }
