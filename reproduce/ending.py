"""What a run says when it ends: scores, what was kept, the claims' verdicts, time and memory, where the page lies."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from bench.records import read_json

GIB = 2**30
FILE_WIDTH = 120  # characters in a line where the output is no terminal
FOLDERS = {"corpus": "corpus", "sample": "samples"}  # that a stage fills


def show_ending(run_dir: Path, closing: dict[str, Any]) -> None:
    """Print what a reported run found; `closing` is `reports.closing.closing_rows`' answer."""
    console = Console()
    if not console.is_terminal:
        console = Console(width=FILE_WIDTH)
    console.print(scores_table(run_dir.name, closing["scores"]))
    console.print(stages_table(read_json(run_dir / "run.json")))
    console.print(verdicts(closing["claims"]), highlight=False, soft_wrap=True)
    page = closing["page"].absolute()
    console.print(f"Page: [link={page.as_uri()}]{closing['page']}[/link]", highlight=False, soft_wrap=True)


def scores_table(name: str, rows: list[dict[str, str]]) -> Table:
    """A row a suite: source, pixel model and the share that was kept, each with its 95 % interval."""
    table = Table(title=f"{name}: scores with 95 % intervals", box=SIMPLE)
    for column in ("suite", "source", "pixel model", "kept"):
        table.add_column(column)
    for row in rows:
        table.add_row(row["suite"], row["source"], row["pixel"], row["kept"])
    return table


def stages_table(manifest: dict[str, Any]) -> Table:
    """A row a stage: seconds, memory of all processes, and what was taken from other runs instead of made."""
    table = Table(title="Time and memory", box=SIMPLE)
    for column in ("stage", "time", "memory", "taken from another run"):
        table.add_column(column)
    for name, stage in manifest["stages"].items():
        memory = f"{stage['peak_memory_bytes'] / GIB:.1f} GiB"
        device = stage.get("peak_device_memory_bytes")
        memory += f", GPU {device / GIB:.1f} GiB" if device else ""
        table.add_row(name, clock(stage["seconds"]), memory, _taken(manifest["reused"], name))
    total = sum(stage["seconds"] for stage in manifest["stages"].values())
    table.add_row("all", clock(total), "", "", style="bold")
    return table


def _taken(reused: dict[str, dict[str, Any]], stage: str) -> str:
    counts: Counter[str] = Counter()
    for folder, one in reused.items():
        if folder.partition("/")[0] == FOLDERS.get(stage):
            counts[one["run"]] += one["num_files"]
    return ", ".join(f"{count:,} files of {run}" for run, count in counts.items())


def verdicts(claims: list[dict[str, Any]]) -> str:
    """How the claims came out, each verdict with the claims that have it."""
    by_verdict: dict[str, list[str]] = {}
    for claim in claims:
        by_verdict.setdefault(claim["verdict"], []).append(claim["id"])
    parts = (f"{len(ids)} {verdict} ({', '.join(dict.fromkeys(ids))})" for verdict, ids in by_verdict.items())
    return "Claims of the paper: " + "; ".join(parts) + "."


def clock(seconds: float) -> str:
    """Seconds for a person: "48 s", "12 min", "3.4 h"."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
