"""Figures of a report (matplotlib): each a function from runs or tables to a Figure, or None where files bring nothing.

They are drawn 4.8 inches wide with 9.5-point text: legible as they stand on a phone, two beside each other on a desk.
"""

import base64
import io
from collections.abc import Callable, Sequence
from pathlib import Path
from textwrap import fill
from typing import Any

import matplotlib
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, LogLocator, NullFormatter, NullLocator, StrMethodFormatter

from bench.records import CostRecord
from reports.runs import SUBJECT_NAMES, SUBJECTS, Run
from reports.theme import LIGHT, THEMES, Theme

WIDTH = 4.8
C1_BAND = (0.88, 0.98)  # 0.93 ± 0.05, C1's criterion
Draw = Callable[[Theme], Figure | None]


def training_curve(runs: Sequence[Run], theme: Theme) -> Figure | None:
    """Training loss (raw and smoothed) above validation loss by sigma; several seeds share the axes."""
    logs = [pd.DataFrame([row for row in run.log if "loss" in row]) for run in runs]
    logs = [log for log in logs if not log.empty]
    if not logs:
        return None
    figure = Figure(figsize=(WIDTH, 4.7))
    top, bottom = figure.subplots(2, 1, sharex=True)
    for log in logs:
        smooth = log["loss"].ewm(halflife=max(1, len(log) / 40)).mean()
        top.plot(log["step"], log["loss"], color=theme.pixel, alpha=0.22, lw=0.8)
        top.plot(log["step"], smooth, color=theme.pixel, lw=1.6)
    top.set(title="Training loss", yscale="log")
    top.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    top.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    _validation(bottom, runs[0], theme)
    for axes in (top, bottom):
        axes.grid(axis="y")
        axes.yaxis.set_minor_formatter(NullFormatter())
    bottom.set_xlabel("step")
    return figure


def _validation(axes: Axes, run: Run, theme: Theme) -> None:
    rows = [{"step": row["step"], **row["validation_loss"]} for row in run.log if "validation_loss" in row]
    axes.set_title("Validation loss by noise level σ")
    if not rows:
        axes.text(0.5, 0.5, "none logged", transform=axes.transAxes, color=theme.muted, ha="center")
        return
    frame = pd.DataFrame(rows).set_index("step")
    colors, first = matplotlib.colormaps["viridis"], 0.05 if theme.name == "light" else 0.35
    for k, sigma in enumerate(sorted(frame.columns, key=float)):
        place = first + 0.6 * k / max(1, len(frame.columns) - 1)
        axes.plot(frame.index, frame[sigma], color=colors(place), lw=1.6, label=f"σ {float(sigma):g}")
    axes.legend(
        ncols=len(frame.columns), loc="upper center", bbox_to_anchor=(0.5, -0.24), columnspacing=1, handlelength=1.2
    )


def task_bars(
    tasks: pd.DataFrame, theme: Theme, *, title: str = "GenEval by task, share of correct images", scale: float = 1.0
) -> Figure | None:
    """Scores by task, source against pixel model, with 95 % intervals; ``tasks`` is one run's ``task_table`` rows.

    ``scale`` is the greatest score possible.
    """
    if tasks.empty:
        return None
    names = list(dict.fromkeys(tasks["task"]))
    figure = Figure(figsize=(WIDTH, 0.62 * len(names) + 1.0))
    axes = figure.subplots()
    for subject, offset in zip(SUBJECTS, (-0.19, 0.19), strict=True):
        rows = tasks[tasks["subject"] == subject].set_index("task").reindex(names)
        places = [k + offset for k in range(len(names))]
        axes.barh(places, rows["value"], 0.34, color=theme.of(subject), label=SUBJECT_NAMES[subject])
        known = rows["low"].notna()
        errors = [(rows["value"] - rows["low"]).clip(0)[known], (rows["high"] - rows["value"]).clip(0)[known]]
        at = [place for place, has in zip(places, known, strict=True) if has]
        axes.errorbar(rows["value"][known], at, xerr=errors, fmt="none", ecolor=theme.text, elinewidth=0.9, capsize=2)
    axes.set_yticks(range(len(names)), [name.replace("_", " ") for name in names])
    axes.tick_params(axis="y", labelcolor=theme.text)
    axes.set(xlim=(0, 1.02 * scale), title=title)
    axes.invert_yaxis()
    axes.grid(axis="x")
    axes.legend(ncols=2, loc="upper center", bbox_to_anchor=(0.5, -0.07))
    return figure


def retention_curve(table: pd.DataFrame, theme: Theme) -> Figure | None:
    """Retention against images trained on, a panel a suite: a line a family and world, its seeds small, 95 % intervals.

    The band of C1's criterion stands in GenEval's panel.
    """
    rows = table[table["train_images"] > 0].sort_values("train_images")
    if rows.empty:
        return None
    suites = dict(zip(rows["suite"], rows["title"], strict=True))
    cases, lengths = list(dict.fromkeys(rows["case_title"])), sorted(set(rows["train_images"]))
    figure = Figure(figsize=(WIDTH, 0.9 + 2.3 * len(suites)))
    panels = figure.subplots(len(suites), 1, sharex=True, squeeze=False)[:, 0]
    for axes, (suite, title) in zip(panels, suites.items(), strict=True):
        for k, case in enumerate(cases):
            chosen = rows[(rows["suite"] == suite) & (rows["case_title"] == case)]
            _retention_line(axes, chosen, case, series_color(k, len(cases), theme), k - (len(cases) - 1) / 2, theme)
        if suite == "geneval":
            axes.axhspan(*C1_BAND, color=theme.pixel, alpha=0.13, lw=0)
            axes.axhline(0.93, color=theme.pixel, lw=1, ls=(0, (4, 3)), label="paper, 0.93 ± 0.05")
        axes.set(title=f"{title}: share of the source’s that is kept")
        axes.margins(y=0.15)
        axes.grid(axis="y")
    log_images_axis(panels[-1], lengths)
    panels[-1].set_xlim(lengths[0] / 1.6, lengths[-1] * 1.6)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2)
    return figure


def _retention_line(axes: Axes, rows: pd.DataFrame, name: str, color: Any, shift: float, theme: Theme) -> None:
    """One family and world: means over seeds on a line, each recipe's seeds beside its mean."""
    several = rows[rows["num_seeds"] > 1]["group"]
    is_seed = rows["group"].isin(several) & (rows["num_seeds"] == 1)
    points, seeds, beside = rows[~is_seed], rows[is_seed], 1.05**shift
    errors = [points["value"] - points["low"], points["high"] - points["value"]]
    places = beside * points["train_images"]
    axes.errorbar(places, points["value"], yerr=errors, fmt="o-", ms=6, color=color, capsize=3, label=name)
    axes.plot(1.02 * beside * seeds["train_images"], seeds["value"], "o", ms=3, color=theme.text, zorder=3)


def kept_by_family(table: pd.DataFrame, theme: Theme) -> Figure | None:
    """What each family kept, a panel a suite and a row a family, with 95 % intervals; ``families.families_table``.

    The line at 1 is the source, the band of C1's criterion stands in GenEval's panel.
    """
    rows = table[table["kept"].notna()]
    if rows.empty:
        return None
    suites, names = dict(zip(rows["suite"], rows["title"], strict=True)), list(dict.fromkeys(rows["family"]))
    figure = Figure(figsize=(WIDTH, len(suites) * (0.27 * len(names) + 0.55)))
    panels = figure.subplots(len(suites), 1, sharex=True, squeeze=False)[:, 0]
    for axes, (suite, title) in zip(panels, suites.items(), strict=True):
        of = rows[rows["suite"] == suite].set_index("family").reindex(names)
        errors = [of["kept"] - of["low"], of["high"] - of["kept"]]
        axes.axvline(1, color=theme.source, lw=1.6)
        axes.errorbar(of["kept"], range(len(names)), xerr=errors, fmt="o", ms=6, color=theme.pixel, capsize=3)
        if suite == "geneval":
            axes.axvspan(*C1_BAND, color=theme.pixel, alpha=0.13, lw=0)
        axes.set_yticks(range(len(names)), names)
        axes.tick_params(axis="y", labelcolor=theme.text)
        axes.set(title=title, ylim=(len(names) - 0.5, -0.5))
        axes.grid(axis="x")
    panels[-1].set_xlabel("share of the source’s score that is kept")
    return figure


def log_images_axis(axes: Axes, ticks: Sequence[float]) -> None:
    """Let the horizontal axis tell images trained on, a tick where there are points."""
    axes.set(xscale="log", xlabel="images trained on (steps × batch)")
    axes.set_xticks(ticks)
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.xaxis.set_minor_locator(NullLocator())


def cost_bars(costs: Sequence[CostRecord], theme: Theme) -> Figure | None:
    """Measured latency (median of the raw timings) and peak memory by case."""
    records = [record for record in costs if record.kind == "measured"]
    if not records:
        return None
    figure = Figure(figsize=(WIDTH, 2 * (0.36 * len(records) + 0.75)))
    panels = figure.subplots(2, 1)
    latencies = [1e3 * float(pd.Series(r.latency_s).median()) if r.latency_s else float("nan") for r in records]
    memories = [float("nan") if r.peak_memory_bytes is None else r.peak_memory_bytes / 2**20 for r in records]
    for axes, values, title in zip(panels, (latencies, memories), ("Latency, ms", "Peak memory, MiB"), strict=True):
        _cost_panel(axes, records, values, title, theme)
    return figure


def _cost_panel(axes: Axes, records: list[CostRecord], values: list[float], title: str, theme: Theme) -> None:
    colors = [theme.pixel if record.model == "l2p" else theme.source for record in records]
    known = [0.0 if pd.isna(value) else value for value in values]
    bars = axes.barh(range(len(records)), known, 0.62, color=colors)
    labels = ["not measured" if pd.isna(value) else f"{value:,.4g}" for value in values]
    axes.bar_label(bars, labels, padding=4, color=theme.text, fontsize=8.5)
    axes.set_yticks(range(len(records)), [fill(record.case.replace("-", " "), 14) for record in records])
    axes.tick_params(axis="y", labelcolor=theme.text)
    axes.set(title=title, xlim=(0, 1.22 * max(known) or 1), xticks=[])
    axes.spines["bottom"].set_visible(False)
    axes.invert_yaxis()


def series_color(k: int, count: int, theme: Theme) -> Any:
    """The colour of the k-th of several models: the pixel model's for one, else even steps without red or green."""
    if count == 1:
        return theme.pixel
    first = 0.1 if theme.name == "light" else 0.3
    return matplotlib.colormaps["viridis"](first + 0.65 * k / (count - 1))


def save(name: str, draw: Draw, out_dir: Path) -> dict[str, str] | None:
    """Draw in both themes and return their data URIs by theme name; the light one is written as PNG and SVG too.

    Equal figures give equal bytes: no date, no library's name, no random ids.
    """
    drawn = pngs(name, draw, svg=out_dir / f"{name}.svg")
    if drawn is None:
        return None
    (out_dir / f"{name}.png").write_bytes(drawn[LIGHT.name])
    return {theme: png_uri(content) for theme, content in drawn.items()}


def pngs(name: str, draw: Draw, *, svg: Path | None = None) -> dict[str, bytes] | None:
    """The figure as PNG files' bytes by theme name, None where there is none; the light one into ``svg`` too."""
    drawn = {}
    for theme in THEMES:
        with matplotlib.rc_context({**theme.rc(), "svg.hashsalt": name}):
            figure = draw(theme)
            if figure is None:
                return None
            buffer = io.BytesIO()
            figure.savefig(buffer, dpi=200, format="png", metadata={"Software": None})
            if theme is LIGHT and svg is not None:
                figure.savefig(svg, format="svg", metadata={"Date": None, "Creator": None})
        drawn[theme.name] = buffer.getvalue()
    return drawn


def png_uri(content: bytes) -> str:
    """A PNG file's bytes as a data URI."""
    return f"data:image/png;base64,{base64.b64encode(content).decode()}"
