"""A page and tables for folders of scores alone: several models, anybody's images, side by side.

A folder is what `python -m bench` wrote (`summary.json`, score rows), or holds such folders, a benchmark each. What the
scores say of their model is its name; else the folder's name is.
"""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from bench.records import differing
from l2p.errors import InputError
from reports import figures, page, table_files, tables, written
from reports.estimates import NoEvidenceError, Rows, scored_rows
from reports.regression.checks import MEASURED_BY
from reports.regression.significance import holm, interval, tested
from reports.runs import Scored, load_scored
from reports.theme import DARK, LIGHT, Theme

UNNAMED = ("", "not stated")


@dataclass(frozen=True, kw_only=True)
class Model:
    """One model's scores by suite, each with the folder that it lies in.

    A suite is its benchmark's name, or its folder's where it lies in a folder of suites ("heldout").
    """

    name: str
    scored: dict[str, Scored]
    folders: dict[str, Path]


def holds_scores(path: Path) -> bool:
    """Whether a folder is one of scores, or holds such folders."""
    return bool(_score_folders(path))


def _score_folders(path: Path) -> list[Path]:
    if (path / "summary.json").is_file():
        return [path]
    return sorted(file.parent for file in path.glob("*/summary.json")) if path.is_dir() else []


def load_models(paths: Sequence[Path]) -> list[Model]:
    """The models of several folders, in the order given; ValueError for a broken file or a score that stands twice."""
    models: dict[str, Model] = {}
    for path in paths:
        folders = _score_folders(path)
        if not folders:
            raise FileNotFoundError(f"{path} holds no scores (no summary.json): score images with `python -m bench`")
        for folder in folders:
            scored = load_scored(folder)
            name = scored.summary.subject
            name = path.resolve().name if name in UNNAMED else name
            model = models.setdefault(name, Model(name=name, scored={}, folders={}))
            suite = scored.benchmark.name if folder == path else folder.name
            if suite in model.scored:
                raise InputError(
                    f"{model.folders[suite]} and {folder} both hold {name!r} on {suite}: give one of them, or name the "
                    "models apart when you score them (--subject)"
                )
            model.scored[suite], model.folders[suite] = scored, folder
    return list(models.values())


def write_scores(paths: Sequence[Path], out: Path) -> list[Model]:
    """Write page, tables and figures of these folders into ``out``; returns the models.

    Raises ValueError or FileNotFoundError, before anything is written, for broken files or an ``out`` that is an input
    or holds what no report wrote.
    """
    models = load_models(paths)
    written.refuse_folder(out, [*paths, *(folder for model in models for folder in model.folders.values())])
    with tempfile.TemporaryDirectory(prefix="report-") as folder:
        staging = Path(folder)
        parts = [_benchmark_part(name, models, staging) for name in _suites(models)]
        raw = overview(models)
        text = overview_shown(models)
        table_files.write_table("models", raw, text, "Overall scores, with 95 % intervals", staging)
        context = {
            "written": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
            "models": models,
            "overview": text,
            "parts": parts,
            "figures": {part["name"]: part["figure"] for part in parts},
            "light": LIGHT,
            "dark": DARK,
        }
        (staging / "index.html").write_text(page.render("scores.html", context), encoding="utf-8")
        written.publish(staging, out, "python -m reports")
    return models


def suite_title(suite: str, scored: Scored) -> str:
    """ "GenEval", or "heldout (GenEval)" for a suite of another name."""
    title = scored.benchmark.title
    return title if suite == scored.benchmark.name else f"{suite} ({title})"


def _suites(models: Sequence[Model]) -> list[str]:
    return list(dict.fromkeys(name for model in models for name in model.scored))


def overview(models: Sequence[Model]) -> pd.DataFrame:
    """One row a model and benchmark: overall with its interval, what was scored of what was expected, variant."""
    rows = []
    for model in models:
        for name, scored in model.scored.items():
            summary = scored.summary
            low, high = summary.overall_ci95
            what = {
                "model": model.name,
                "suite": name,
                "benchmark": scored.benchmark.name,
                "variant": summary.variant,
                "value": summary.overall,
            }
            counts = {"num_scored": summary.num_scored, "num_expected": summary.num_expected}
            rows.append({**what, "low": low, "high": high, **counts})
    return pd.DataFrame(rows)


def overview_shown(models: Sequence[Model]) -> pd.DataFrame:
    """One row a model, a column a benchmark, as text; a score of fewer images than expected says so."""
    rows = []
    for model in models:
        cells = {"Model": model.name}
        for suite, scored in model.scored.items():
            summary = scored.summary
            text = tables.interval(summary.overall, *summary.overall_ci95, scored.benchmark.decimals)
            left = f", {summary.num_scored} of {summary.num_expected} scored"
            cells[suite_title(suite, scored)] = text + (left if summary.num_scored != summary.num_expected else "")
        rows.append(cells)
    return pd.DataFrame(rows).fillna("–")


def _benchmark_part(name: str, models: Sequence[Model], out: Path) -> dict[str, Any]:
    """What the page says of one benchmark; its tables and figure are written to ``out``."""
    having = [model for model in models if name in model.scored]
    benchmark, title = having[0].scored[name].benchmark, suite_title(name, having[0].scored[name])
    raw = categories(name, having)
    shown = categories_shown(raw, benchmark.decimals)
    caption = f"{title} by category ({benchmark.unit})"
    file = table_files.slug(name)
    table_files.write_table(f"{file}-categories", raw, shown, caption, out)
    against = comparisons(name, having)
    if not against.empty:
        table_files.write_table(f"{file}-differences", against, against, f"{title}: differences", out)
    figure = figures.save(file, lambda theme: category_bars(raw, benchmark.scale, title, theme), out)
    return {
        **{"name": name, "title": title, "unit": benchmark.unit, "figure": figure},
        **{"categories": shown, "comparisons": against},
        "passports": [(model.name, model.scored[name].summary.passport) for model in having],
    }


def categories(name: str, models: Sequence[Model]) -> pd.DataFrame:
    """One row a model and category of a benchmark; intervals where the summary or the score rows give them."""
    rows = []
    for model in models:
        summary = model.scored[name].summary
        known = (summary.passport.get("details") or {}).get("by_category_ci95") or {}
        for category, value in summary.by_category.items():
            low, high = known.get(category) or _category_interval(model, name, category)
            rows.append({"model": model.name, "category": category, "value": value, "low": low, "high": high})
    return pd.DataFrame(rows, columns=["model", "category", "value", "low", "high"])


def _category_interval(model: Model, name: str, category: str) -> tuple[float | None, float | None]:
    from bench.statistics import bootstrap_ci

    rows = _rows(model, name)
    part = rows.only(category) if rows else None
    if part is None or not part.values:
        return None, None
    estimate = bootstrap_ci(*part.parts(), bounds=part.bounds)
    return estimate.low, estimate.high


def _rows(model: Model, name: str) -> Rows | None:
    try:
        return scored_rows(model.scored[name], model.name)
    except NoEvidenceError:
        return None


def categories_shown(raw: pd.DataFrame, decimals: int) -> pd.DataFrame:
    """The categories as text: a row a category, a column a model."""
    rows: dict[str, dict[str, str]] = {}
    for row in raw.itertuples():
        cells = rows.setdefault(row.category, {"Category": row.category.replace("_", " ")})
        cells[row.model] = tables.interval(row.value, row.low, row.high, decimals)
    return pd.DataFrame(list(rows.values())).fillna("–")


def comparisons(name: str, models: Sequence[Model]) -> pd.DataFrame:
    """Every further model minus the first, paired, p-values corrected for all of them; or why that is not said."""
    rows, p_values = [], []
    for model in models[1:]:
        row = {"Model": f"{model.name} minus {models[0].name}", "Difference": "–", "p, corrected": "–"}
        try:
            found, text = _difference(name, models[0], model)
            p_values.append(found)
            rows.append({**row, "Difference": text, "Remark": ""})
        except (NoEvidenceError, ValueError) as error:
            rows.append({**row, "Remark": f"not compared: {error}"})
    corrected = iter(holm(p_values, [1.0] * len(p_values)))
    for row in rows:
        if row["Difference"] != "–":
            row["p, corrected"] = f"{next(corrected):.4f}"
    return pd.DataFrame(rows)


def _difference(name: str, first: Model, other: Model) -> tuple[float, str]:
    if found := [what for what, _, _ in differing(_measure(name, first), _measure(name, other))]:
        raise NoEvidenceError(f"measured otherwise, {', '.join(found)} differ")
    before, after = ([scored_rows(model.scored[name], model.name)] for model in (first, other))
    result = tested(before, after, num_image_prompts=0, other_seeds=False)
    shown, decimals = interval(before, after, result), first.scored[name].benchmark.decimals
    signed = [f"{value:+.{decimals}f}" for value in (shown.value, shown.low, shown.high)]
    return result.p_value, f"{signed[0]} ({signed[1]}, {signed[2]})"


def _measure(name: str, model: Model) -> dict[str, Any]:
    summary = model.scored[name].summary
    return {"variant": summary.variant, **{what: summary.passport.get(what) for what in MEASURED_BY}}


def category_bars(raw: pd.DataFrame, scale: float, title: str, theme: Theme) -> Figure | None:
    """A group of bars a category, a bar a model, with 95 % intervals."""
    if raw.empty:
        return None
    names, models = list(dict.fromkeys(raw["category"])), list(dict.fromkeys(raw["model"]))
    height = 0.8 / len(models)
    figure = Figure(figsize=(figures.WIDTH, (0.25 + 0.2 * len(models)) * len(names) + 1.1))
    axes = figure.subplots()
    for k, model in enumerate(models):
        rows = raw[raw["model"] == model].set_index("category").reindex(names)
        values = pd.to_numeric(rows["value"])
        places = [place + (k - (len(models) - 1) / 2) * height for place in range(len(names))]
        axes.barh(
            places, values.fillna(0), height * 0.92, color=figures.series_color(k, len(models), theme), label=model
        )
        low, high = pd.to_numeric(rows["low"]), pd.to_numeric(rows["high"])
        errors = [(values - low).clip(0).fillna(0), (high - values).clip(0).fillna(0)]
        axes.errorbar(values, places, xerr=errors, fmt="none", ecolor=theme.text, elinewidth=0.9, capsize=1.5)
    axes.set_yticks(range(len(names)), [name.replace("_", " ") for name in names])
    axes.tick_params(axis="y", labelcolor=theme.text)
    axes.set(xlim=(0, 1.02 * scale), title=f"{title} by category")
    axes.invert_yaxis()
    axes.grid(axis="x")
    figure.legend(loc="outside lower center", ncols=min(2, len(models)))
    return figure
