"""The paper's tables 1, 2, 3 and figures 4, 5, 9, 12, 15 from whatever runs there are, each number marked by its kind.

A kind is "published" (the paper's), "measured" (of a run here), "predicted" (of the full-size networks) or "not run".
"""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from bench.records import CostRecord
from reports import figures, paper, table_files, tables, written
from reports.cost import figure4
from reports.cost.load import all_records, load_paper_costs
from reports.page import COST_RESULTS
from reports.runs import Run, groups, load_runs
from reports.study_figures import MEASURED, NOT_RUN, PREDICTED, PUBLISHED, marked, study_drawings, study_tables


def write_paper_tables(
    run_dirs: Sequence[Path | str], out_dir: Path, *, cost_dir: Path = COST_RESULTS
) -> dict[str, dict[str, int]]:
    """Write every table and figure into ``out_dir``; returns how many numbers of each kind stand in each.

    Tables are Markdown, LaTeX (booktabs) and CSV, figures PNG and SVG with a table each. Raises as
    ``reports.page.write_report`` does, before anything is written.
    """
    runs, out_dir = load_runs(run_dirs), Path(out_dir)
    written.refuse_folder(out_dir, [run.path for run in runs])
    costs = all_records(runs, load_paper_costs(Path(cost_dir)))
    with tempfile.TemporaryDirectory(prefix="tables-") as folder:
        staging = Path(folder)
        counts = {"table1": _write_table1(runs, staging)}
        found = cell_tables(runs, costs)
        for name, (caption, frame) in found.items():
            table_files.write_table(name, frame, marked(frame), caption, staging)
            counts[name] = kinds(frame)
        for name, draw in study_drawings(found).items():
            figures.save(name, draw, staging)
        figures.save("figure4", lambda theme: figure4.draw(costs, theme, width=figures.WIDTH), staging)
        written.publish(staging, out_dir, "python -m reports tables")
    return counts


def _write_table1(runs: Sequence[Run], out: Path) -> dict[str, int]:
    frame = tables.table1(runs)
    missing = {"kind": NOT_RUN, "method": "Pixel model at 1024 px, this code", "size": "paper", "space": "pixel"}
    if not ((frame["kind"] == MEASURED) & (frame["size"] == "paper")).any():
        frame = pd.concat([frame, pd.DataFrame([missing])], ignore_index=True)
    table_files.write_table1(frame, out)
    return {str(kind): int(count) for kind, count in frame["kind"].value_counts().items()}


def cell_tables(runs: Sequence[Run], costs: Sequence[CostRecord]) -> dict[str, tuple[str, pd.DataFrame]]:
    """Every table besides table 1 by file name: its caption, and rows of which each has a ``kind``."""
    return {
        "table2": ("Table 2: 4K on UltraHR-eval4k", table2(runs)),
        "table3": ("Table 3: the Detailer Head's channels, patch to pixel", table3(runs)),
        "figure4": ("Figure 4: change of one step at 4096 px against the source, percent", figure4_rows(costs)),
        **study_tables(runs),
    }


def kinds(frame: pd.DataFrame) -> dict[str, int]:
    """How many rows of each kind a table has."""
    return {str(kind): int(count) for kind, count in frame["kind"].value_counts().items()}


def table2(runs: Sequence[Run]) -> pd.DataFrame:
    """The paper's table 2, then the full-size runs here that were scored by its metrics, or a row that none was."""
    names = dict(zip(paper.TABLE2_COLUMNS, ("FID", "FID-patch", "IS", "CLIP", "FG-CLIP"), strict=True))
    rows: list[dict[str, Any]] = [
        {"method": method, "way": way, **dict(zip(names.values(), values, strict=True)), "kind": PUBLISHED}
        for method, way, *values in paper.TABLE2
    ]
    measured = []
    for run in runs:
        values = {
            names[metric]: scored.summary.overall
            for (subject, _), scored in run.scored.items()
            if (metric := scored.benchmark.name.replace("-", "_")) in names and subject == "l2p" and run.size == "paper"
        }
        if values:
            measured.append({"method": run.name, "way": "this code", **values, "kind": MEASURED})
    return pd.DataFrame(rows + (measured or [{"method": "L2P, this code", "way": "trained", "kind": NOT_RUN}]))


PUBLISHED_HEAD = {
    "patch": 16,
    "down": "3, 64, 128, 256, 512",
    "bottleneck": "512 + 3840 to 512",
    "up": "512, 256, 128, 64, 64, 3",
}


def table3(runs: Sequence[Run]) -> pd.DataFrame:
    """The Detailer Head as published and as the runs here built it."""
    rows = [{"model": "L2P (Z-Image)", **PUBLISHED_HEAD, "kind": PUBLISHED}]
    for label, members in groups(runs).items():
        options = (members[0].transfer or {}).get("options") or {}
        channels = (options.get("detailer") or {}).get("channels")
        if channels:
            row = {"model": f"{members[0].family_title}, {label}", "patch": options.get("patch_size")}
            rows.append({**row, "down": ", ".join(map(str, (3, *channels))), "kind": MEASURED})
    return pd.DataFrame(rows)


def figure4_rows(costs: Sequence[CostRecord]) -> pd.DataFrame:
    """The published changes, and the predicted ones of every protocol."""
    rows: list[dict[str, Any]] = [
        {
            "protocol": "the paper (not stated)",
            "latency": paper.FIGURE4_LATENCY,
            "memory": paper.FIGURE4_MEMORY,
            "kind": PUBLISHED,
        }
    ]
    for one in figure4.protocols(costs):
        name = f"{one.family}, {one.name}"
        latency = f"{one.latency[0]:.2f} to {one.latency[1]:.2f}"
        rows.append({"protocol": name, "latency": latency, "memory": one.memory, "kind": PREDICTED})
    if len(rows) == 1:
        rows.append({"protocol": "predicted costs (`python -m bench cost --paper`)", "kind": NOT_RUN})
    return pd.DataFrame(rows)
