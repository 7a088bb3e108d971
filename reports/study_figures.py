"""What studies drew, as points with their kinds and as figures: 9a, 9b, 9c, 12, the training from scratch, 5 and 15.

A kind is "published" (the paper's), "measured" (of a run here), "predicted" (of the full-size networks) or "not run".
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from reports import estimates, figures, studies, tables
from reports.runs import SUBJECT_NAMES, Run, groups
from reports.theme import Theme

PUBLISHED, MEASURED, PREDICTED, NOT_RUN = "published", "measured", "predicted", "not run"
POINT_COLUMNS = ("study", "setting", "recipe", "train_images", "seeds", "value", "low", "high", "n", "kind")
FIGURES = {  # file -> study, caption, what the paper reads from its own
    "figure9a": (
        "data-source",
        "Figure 9a: GenEval by who drew the training images",
        "published: the source's own images above cross-model data, real data last",
    ),
    "figure9b": (
        "depth",
        "Figure 9b: GenEval by how much of the transformer trains",
        "published: shallow (5 layers) above mid (10) and full, which stagnates",
    ),
    "figure9c": (
        "data-size",
        "Figure 9c: GenEval by the corpus's size",
        "published: 20k well above 10k, 100k no better",
    ),
    "figure12": (
        "noise-shift",
        "Figure 12: GenEval by noise shift at high resolution",
        "published: FID best at 4 of 1 to 5",
    ),
    "scratch": (
        "scratch",
        "The transfer against training from scratch: GenEval by images trained on",
        "no figure of the paper",
    ),
}
BARS = {"figure5": "Distance between seeds", "figure15": "GenEval by resolution"}  # file -> title
EXPECTED = {
    "data-source": ("the source itself", "another family's source", "rendered scenes"),
    "depth": ("head alone", "1 + 1 blocks", "2 + 2 blocks", "all blocks"),
    "data-size": ("500 images", "1,000 images", "2,000 images", "4,000 images", "20,000 images"),
    "noise-shift": tuple(f"shift {shift}" for shift in range(1, 6)),
    "scratch": ("transfer", "from scratch"),
}
"""The settings that a study has, told as "not run" where no run has them."""


def study_tables(runs: Sequence[Run]) -> dict[str, tuple[str, pd.DataFrame]]:
    """The points of every figure that studies draw, by its file's name: caption, and rows of which each has a kind."""
    found = {
        name: (f"{caption} ({published})", study_points(runs, study))
        for name, (study, caption, published) in FIGURES.items()
    }
    found["figure5"] = ("Figure 5: distance between the pictures of one prompt's seeds", figure5(runs))
    found["figure15"] = ("Figure 15: GenEval at twice the training resolution, without training", figure15(runs))
    return found


def study_drawings(found: dict[str, tuple[str, pd.DataFrame]]) -> dict[str, figures.Draw]:
    """The figures of `study_tables` by file name; one whose table holds nothing measured draws nothing."""
    drawings: dict[str, figures.Draw] = {
        name: partial(
            study_curve if studies.STUDIES[study].curve else study_line, found[name][1], studies.STUDIES[study].title
        )
        for name, (study, _, _) in FIGURES.items()
    }
    return drawings | {name: partial(study_bars, found[name][1], title) for name, title in BARS.items()}


def study_points(runs: Sequence[Run], name: str, suite: str = "geneval") -> pd.DataFrame:
    """The pixel model's score by setting and length, over all seeds; settings without a run are told as not run."""
    rows: list[dict[str, Any]] = []
    study = studies.STUDIES[name]
    for settings in studies.arms(runs, study, lengths=study.curve, suite=suite):
        for setting, members in settings.items():
            for recipe, seeds in groups(members).items():
                row = {"study": name, "setting": setting, "recipe": recipe, "train_images": seeds[0].num_train_images}
                rows.append({**row, **_pooled(seeds, "l2p", suite)})
    had = {row["setting"] for row in rows if row["kind"] == MEASURED}
    another = any(setting.endswith("'s source") for setting in had)
    for setting in EXPECTED[name]:
        if setting not in had and not (another and setting == "another family's source"):
            rows.append({"study": name, "setting": setting, "kind": NOT_RUN})
    return pd.DataFrame(rows, columns=list(POINT_COLUMNS))


def _pooled(seeds: Sequence[Run], subject: str, suite: str) -> dict[str, Any]:
    estimate = tables.or_none(estimates.pooled_overall, seeds, subject, suite)
    if estimate is None:
        return {"seeds": len(seeds), "kind": NOT_RUN}
    cells = {"value": estimate.value, "low": estimate.low, "high": estimate.high, "n": estimate.num_values}
    return {"seeds": len(seeds), **cells, "kind": MEASURED}


def figure5(runs: Sequence[Run]) -> pd.DataFrame:
    """Diversity of source, transfer and training from scratch; where no run was scored for it, a row that says so."""
    rows: list[dict[str, Any]] = []
    for recipe, members in groups([run for run in runs if not studies.quick_look(run)]).items():
        for subject, suite in members[0].scored:
            if members[0].scored[subject, suite].benchmark.name == "diversity":
                model = (
                    "From scratch" if subject == "l2p" and studies.from_scratch(members[0]) else SUBJECT_NAMES[subject]
                )
                row: dict[str, Any] = {"study": "diversity", "setting": model, "recipe": recipe}
                row |= {"train_images": members[0].num_train_images, **_pooled(members, subject, suite)}
                drawn = [(other["setting"], other.get("value")) for other in rows]
                if subject == "l2p" or (model, row.get("value")) not in drawn:  # one source's pictures stand once
                    rows.append(row)
    rows += [{"study": "diversity", "setting": name, "kind": NOT_RUN} for name in ("Source", "Pixel model")] * (
        not rows
    )
    rows.append({"study": "diversity", "setting": "DeCo and PixelGen, full size", "kind": NOT_RUN})
    return pd.DataFrame(rows, columns=list(POINT_COLUMNS))


def figure15(runs: Sequence[Run]) -> pd.DataFrame:
    """GenEval at the training resolution and at twice it."""
    rows = []
    for recipe, members in groups([run for run in runs if not studies.quick_look(run)]).items():
        for large, usual in studies.twice(members[0]):
            for setting, suite in (("training resolution", usual), ("twice that", large)):
                row = {"study": "extrapolation", "setting": setting, "recipe": recipe}
                rows.append({**row, "train_images": members[0].num_train_images, **_pooled(members, "l2p", suite)})
    if not rows:
        rows = [
            {"study": "extrapolation", "setting": name, "kind": NOT_RUN}
            for name in ("training resolution", "twice that")
        ]
    return pd.DataFrame(rows, columns=list(POINT_COLUMNS))


def study_curve(points: pd.DataFrame, title: str, theme: Theme) -> Figure | None:
    """GenEval against images trained on, a line a setting, with 95 % intervals; None where nothing was run."""
    points = points[points["kind"] == MEASURED]
    if points.empty:
        return None
    settings = list(dict.fromkeys(points["setting"]))
    figure = Figure(figsize=(figures.WIDTH, 3.6))
    axes = figure.subplots()
    for k, setting in enumerate(settings):
        rows = (
            points[points["setting"] == setting]
            .astype({"train_images": float, "value": float})
            .sort_values("train_images")
        )
        places = rows["train_images"] * 1.03 ** (k - (len(settings) - 1) / 2)  # equal lengths stand side by side
        _draw_points(axes, places, rows, figures.series_color(k, len(settings), theme), setting)
    lengths = sorted(set(points["train_images"].astype(float)))
    figures.log_images_axis(axes, lengths)
    axes.set_xlim(lengths[0] / 1.5, lengths[-1] * 1.5)
    return _titled(figure, title)


def study_line(points: pd.DataFrame, title: str, theme: Theme) -> Figure | None:
    """GenEval by setting, a line a number of images trained on, with 95 % intervals; None where nothing was run."""
    points = points[points["kind"] == MEASURED].astype({"train_images": float, "value": float})
    if points.empty:
        return None
    settings, lengths = list(dict.fromkeys(points["setting"])), sorted(set(points["train_images"]))
    figure = Figure(figsize=(figures.WIDTH, 3.6))
    axes = figure.subplots()
    for k, length in enumerate(lengths):
        rows = points[points["train_images"] == length]
        places = [settings.index(setting) + 0.06 * (k - (len(lengths) - 1) / 2) for setting in rows["setting"]]
        color = figures.series_color(k, len(lengths), theme)
        _draw_points(axes, places, rows, color, f"{length:,.0f} images trained on")
    axes.set_xticks(range(len(settings)), [setting.replace(" ", "\n") for setting in settings])
    axes.set_xlim(-0.5, len(settings) - 0.5)
    return _titled(figure, title)


def _draw_points(axes: Any, places: Sequence[float], rows: pd.DataFrame, color: str, label: str) -> None:
    """A line through the rows' values at these places, with 95 % intervals."""
    errors = [rows["value"] - rows["low"].astype(float), rows["high"].astype(float) - rows["value"]]
    axes.errorbar(places, rows["value"], yerr=errors, fmt="o-", ms=5, lw=1.4, capsize=2.5, color=color, label=label)


def _titled(figure: Figure, title: str) -> Figure:
    (axes,) = figure.axes
    axes.set(title=f"{title}: GenEval")
    axes.grid(axis="y")
    figure.legend(loc="outside lower center", ncols=2)
    return figure


def study_bars(points: pd.DataFrame, title: str, theme: Theme) -> Figure | None:
    """A bar a row, with 95 % intervals; None where nothing was run."""
    rows = points[points["kind"] == MEASURED]
    if rows.empty:
        return None
    figure = Figure(figsize=(figures.WIDTH, 0.5 * len(rows) + 1.1))
    axes = figure.subplots()
    errors = [(rows["value"] - rows["low"]).astype(float), (rows["high"] - rows["value"]).astype(float)]
    axes.barh(range(len(rows)), rows["value"].astype(float), 0.6, color=theme.pixel)
    axes.errorbar(rows["value"], range(len(rows)), xerr=errors, fmt="none", ecolor=theme.text, capsize=2)
    axes.set_yticks(range(len(rows)), [f"{row.setting}\n{row.recipe}" for row in rows.itertuples()])
    axes.set(title=title)
    axes.invert_yaxis()
    axes.grid(axis="x")
    return figure


def marked(frame: pd.DataFrame) -> pd.DataFrame:
    """A table as text: values with their intervals, and the kind in words behind every row."""
    shown = frame.drop(columns=[name for name in ("low", "high") if name in frame])
    texts = {name: [_text(value) for value in shown[name]] for name in shown.columns}
    if {"value", "low", "high"} <= set(frame.columns):
        cells = zip(frame["value"], frame["low"], frame["high"], frame["kind"], strict=True)
        texts["value"] = [
            kind if pd.isna(value) else tables.interval(value, low, high) for value, low, high, kind in cells
        ]
    return pd.DataFrame(texts).rename(columns=lambda name: str(name).replace("_", " ").capitalize())


def _text(value: Any) -> str:
    if value is None or (not isinstance(value, (list, tuple)) and pd.isna(value)):
        return "–"
    if isinstance(value, float):
        return f"{value:,.0f}" if value.is_integer() else f"{value:,.2f}"
    return str(value)
