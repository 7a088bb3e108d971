"""The paper-size block's charts as PNG, drawn from the tables' rows."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bench.cost.devices import DEVICES, GIB
from bench.records import CostRecord
from reports.cost import figure4
from reports.cost.tables import Table
from reports.theme import LIGHT

COLORS = {model: LIGHT.of(model) for model in ("source", "l2p")}
MEMORY_TICKS = (4, 8, 16, 24, 48, 80, 160)  # the memories that cards have
Row = dict[str, Any]


def save_charts(tables: Sequence[Table], records: Sequence[CostRecord], folder: Path) -> list[Path]:
    """Draw a PNG for each table that has a chart (image, training, growth) and for figure 4; returns the paths."""
    drawn = {table.name: _CHARTS[table.name](table.rows) for table in tables if table.name in _CHARTS}
    titles = {table.name: table.title for table in tables}
    paths = [_save(figure, titles[name], folder / f"{name}.png") for name, figure in drawn.items()]
    with matplotlib.rc_context(LIGHT.rc()):
        figure = figure4.draw(records, LIGHT, width=10, beside=True)
        if figure is not None:
            paths.append(_save(figure, titles["figure4"], folder / "figure4.png"))
    return paths


def _save(figure: Figure, title: str, path: Path) -> Path:
    figure.suptitle(title, fontsize=10)
    figure.savefig(path, dpi=150, metadata={"Software": None})
    return path


def _image(rows: list[Row]) -> Figure:
    """PFLOP an image, source beside pixel model, at 1K and 4K."""
    figure = Figure(figsize=(9, 4.2), layout="constrained")
    resolutions = sorted({row["resolution"] for row in rows})
    for axes, resolution in zip(figure.subplots(1, len(resolutions), squeeze=False)[0], resolutions, strict=True):
        shown = [row for row in rows if row["resolution"] == resolution]
        bars = axes.barh(
            range(len(shown)), [row["pflop"] for row in shown], color=[COLORS[row["model"]] for row in shown]
        )
        axes.bar_label(
            bars, [f"{row['pflop']:.3g} ({row['forwards']} forwards)" for row in shown], fontsize=7, padding=2
        )
        axes.set_yticks(range(len(shown)), [f"{row['family']} {row['model']}" for row in shown], fontsize=7)
        axes.set(xscale="log", title=f"{resolution} px, PFLOP an image")
        axes.set_xlim(right=20 * max(row["pflop"] for row in shown))  # room for the labels
        axes.invert_yaxis()
        _plain(axes)
    return figure


def _training(rows: list[Row]) -> Figure:
    """Memory and FLOPs of a training step by what is trained; the source's colour trains all blocks."""
    figure = Figure(figsize=(10, 0.28 * len(rows) + 1.6), layout="constrained")
    memory, flops = figure.subplots(1, 2, sharey=True)
    labels = [row["case"].removeprefix("train-l2p-") for row in rows]
    colors = [LIGHT.source if row["blocks"] == "all" else LIGHT.pixel for row in rows]
    for axes, column, title in (
        (memory, "peak_gib", "peak GiB"),
        (flops, "tflop", "TFLOP a step; blue: all blocks trained"),
    ):
        bars = axes.barh(range(len(rows)), [row[column] for row in rows], color=colors)
        white = {"facecolor": "white", "edgecolor": "none", "pad": 0.5}  # the limits' lines pass behind
        axes.bar_label(bars, fontsize=7, padding=2, bbox=white)
        axes.set_title(title, fontsize=9)
        axes.margins(x=0.15)
        _plain(axes)
    for device, style in ((DEVICES["rtx4090"], ":"), (DEVICES["h100"], "--")):
        memory.axvline(device.memory_bytes / GIB, color=LIGHT.bad, lw=1, ls=style, label=device.name, zorder=0)
    memory.legend(fontsize=7, loc="lower right")  # the last rows are short
    memory.set_yticks(range(len(rows)), labels, fontsize=7)
    memory.invert_yaxis()
    return figure


def _growth(rows: list[Row]) -> Figure:
    """TFLOP and memory of a forward against the image's side, source and pixel model of each family."""
    figure = Figure(figsize=(10, 4.6), layout="constrained")
    markers = dict(zip(dict.fromkeys(row["family"] for row in rows), "osD^v", strict=False))
    patches = {row["resolution"]: row["patch_size"] for row in rows if row["model"] == "l2p"}
    for axes, column in zip(figure.subplots(1, 2), ("tflop", "peak_gib"), strict=True):
        for model, color in COLORS.items():
            for family, marker in markers.items():
                line = [row for row in rows if row["family"] == family and row["model"] == model]
                sides, values = [row["resolution"] for row in line], [row[column] for row in line]
                axes.plot(sides, values, marker=marker, ms=4, lw=1.2, color=color, label=f"{family} {model}")
        axes.set(xscale="log", yscale="log", title={"tflop": "TFLOP", "peak_gib": "peak GiB"}[column])
        axes.set_xticks(list(patches), [f"{side}\n{patch}" for side, patch in patches.items()])
        axes.set_xlabel("image side, px; below it the pixel model's patch", fontsize=8)
        _plain(axes)
        axes.grid(axis="y", alpha=0.25)
    flops, memory = figure.axes
    flops.legend(fontsize=6, ncols=2)
    memory.set_yticks(MEMORY_TICKS, [str(tick) for tick in MEMORY_TICKS])
    for axes in figure.axes:
        axes.minorticks_off()
    return figure


def _plain(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=7)
    axes.title.set_fontsize(9)
    axes.grid(axis="x", alpha=0.25)


_CHARTS: dict[str, Callable[[list[Row]], Figure]] = {
    "image": _image,
    "training": _training,
    "growth": _growth,
}
