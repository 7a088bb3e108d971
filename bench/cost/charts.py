"""The paper-size block's charts as PNG, drawn from the tables' rows."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bench.cost.roofline import DEVICES, GIB
from bench.cost.tables import PAPER_LATENCY_CHANGE, PAPER_MEMORY_CHANGE, Table

SOURCE, PIXEL, PAPER = "#8a8f98", "#2f6fde", "#c2452d"
COLORS = {"source": SOURCE, "l2p": PIXEL}
MEMORY_TICKS = (4, 8, 16, 24, 48, 80, 160)  # the memories that cards have
Row = dict[str, Any]


def save_charts(tables: list[Table], folder: Path) -> list[Path]:
    """Draw a PNG for each table that has a chart (figure4, image, training, growth); returns the paths."""
    paths = []
    for table in tables:
        if table.name in _CHARTS:
            figure = _CHARTS[table.name](table.rows)
            figure.suptitle(table.title, fontsize=10)
            path = folder / f"{table.name}.png"
            figure.savefig(path, dpi=150, metadata={"Software": None})
            paths.append(path)
    return paths


def _figure4(rows: list[Row]) -> Figure:
    """Each protocol a line: memory change as a point, latency change as a band, the paper's as a dashed line."""
    figure = Figure(figsize=(10, 0.3 * len(rows) + 1.8), layout="constrained")
    memory, latency = figure.subplots(1, 2, sharey=True)
    labels = [_protocol_label(row) for row in rows]
    places = range(len(rows))
    memory.plot([row["memory_change_percent"] for row in rows], places, "o", color=PIXEL)
    ends = ("latency_change_low_percent", "latency_change_high_percent")
    for place, row in enumerate(rows):
        latency.plot([row[end] for end in ends], [place, place], color=PIXEL, lw=5, solid_capstyle="round")
    for axes, value, title in (
        (memory, PAPER_MEMORY_CHANGE, "predicted peak memory, change in %"),
        (latency, PAPER_LATENCY_CHANGE, "latency by FLOPs and roofline, change in %"),
    ):
        axes.axvline(value, color=PAPER, ls="--", lw=1)
        axes.set_title(f"{title}\ndashed: the paper's {value}", fontsize=9)
        _plain(axes)
    memory.set_yticks(places, labels, fontsize=7)
    memory.invert_yaxis()
    return figure


def _protocol_label(row: Row) -> str:
    text = "with text encoder" if row["text_encoder_resident"] else "no text encoder"
    return f"guidance batch {row['guidance_batch']}, {text}, VAE {row['vae']}"


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
    """Memory and FLOPs of a training step by what is trained; grey trains all blocks."""
    figure = Figure(figsize=(10, 0.28 * len(rows) + 1.6), layout="constrained")
    memory, flops = figure.subplots(1, 2, sharey=True)
    labels = [row["case"].removeprefix("train-l2p-") for row in rows]
    colors = [SOURCE if row["blocks"] == "all" else PIXEL for row in rows]
    for axes, column, title in (
        (memory, "peak_gib", "peak GiB"),
        (flops, "tflop", "TFLOP a step; grey: all blocks trained"),
    ):
        bars = axes.barh(range(len(rows)), [row[column] for row in rows], color=colors)
        white = {"facecolor": "white", "edgecolor": "none", "pad": 0.5}  # the limits' lines pass behind
        axes.bar_label(bars, fontsize=7, padding=2, bbox=white)
        axes.set_title(title, fontsize=9)
        axes.margins(x=0.15)
        _plain(axes)
    for device, style in ((DEVICES["rtx4090"], ":"), (DEVICES["h100"], "--")):
        memory.axvline(device.memory_bytes / GIB, color=PAPER, lw=1, ls=style, label=device.name, zorder=0)
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
    "figure4": _figure4,
    "image": _image,
    "training": _training,
    "growth": _growth,
}
