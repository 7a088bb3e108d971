"""The picture grid: the same prompts from both models with the scorer's verdicts, chosen by rule, not by eye."""

import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from textwrap import fill

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from l2p.errors import InputError
from l2p.pictures import PictureError, read_picture
from reports.figures import png_uri
from reports.runs import SUBJECT_NAMES, SUBJECTS, Run
from reports.theme import LIGHT, Theme

THUMBNAIL = 256  # px: larger images are scaled down for the page, smaller ones are shown as they are


@dataclass(frozen=True, kw_only=True)
class Picture:
    """One image with its verdict: True, False, or None where it was not scored; ``reason`` is the scorer's."""

    path: Path
    correct: bool | None
    reason: str


@dataclass(frozen=True, kw_only=True)
class Pair:
    """One prompt drawn by both models."""

    prompt: str
    task: str
    pictures: dict[str, Picture]


def picture_pairs(run: Run, per_task: int = 2) -> list[Pair]:
    """GenEval prompts at even steps through each task, first image of each; [] where scores or images are absent.

    The rule looks at no verdict, so good and bad pictures come as they fall.
    """
    return [pair for pairs in _by_task(run, lambda drawn: drawn[1] == 0).values() for pair in _spread(pairs, per_task)]


def failed_pairs(run: Run, per_task: int = 4) -> tuple[list[Pair], int]:
    """Pairs whose pixel model's image was judged wrong, at even steps through each GenEval task; how many are wrong.

    The source's image of the same prompt and number stands beside. Images that are not there are not among the pairs.
    """
    scored = run.scored.get(("l2p", "geneval"))
    wrong = {_drawn(row) for row in scored.rows if row["value"] is not None and row["value"] <= 0} if scored else set()
    found = _by_task(run, wrong.__contains__)
    return [pair for pairs in found.values() for pair in _spread(pairs, per_task)], len(wrong)


def _by_task(run: Run, wanted: Callable[[tuple[str, int]], bool]) -> dict[str, list[Pair]]:
    """The pairs of GenEval whose prompt and image number are wanted, by task; only where both images are there.

    A prompt's id that is no plain folder name (it comes from outside) is left out.
    """
    if any((subject, "geneval") not in run.scored for subject in SUBJECTS):
        return {}
    rows = {
        subject: {_drawn(row): row for row in run.scored[subject, "geneval"].rows if str(row["prompt_id"]).isalnum()}
        for subject in SUBJECTS
    }
    by_task: dict[str, list[Pair]] = {}
    for drawn in sorted(filter(wanted, rows["source"].keys() & rows["l2p"].keys())):
        if all(_path(run, subject, rows[subject][drawn]).is_file() for subject in SUBJECTS):
            pair = _pair(run, {subject: rows[subject][drawn] for subject in SUBJECTS})
            by_task.setdefault(pair.task, []).append(pair)
    return by_task


def _drawn(row: dict) -> tuple[str, int]:
    return str(row["prompt_id"]), row["index"]


def _path(run: Run, subject: str, row: dict) -> Path:
    return run.path / "samples" / subject / "geneval" / str(row["prompt_id"]) / "samples" / f"{row['index']:04d}.png"


def _spread(items: list[Pair], count: int) -> list[Pair]:
    """``count`` items at even steps, the middle of each part."""
    count = min(count, len(items))
    return [items[int((k + 0.5) * len(items) / count)] for k in range(count)]


def _pair(run: Run, rows: dict[str, dict]) -> Pair:
    pictures = {}
    for subject, row in rows.items():
        correct = None if row["value"] is None else row["value"] > 0
        pictures[subject] = Picture(path=_path(run, subject, row), correct=correct, reason=row["reason"])
    first = rows["source"]
    return Pair(prompt=first.get("text", str(first["prompt_id"])), task=first["category"], pictures=pictures)


def readable(pairs: list[Pair]) -> tuple[list[Pair], list[str]]:
    """The pairs whose two images can be read, and a sentence for each of the others."""
    shown, sentences = [], []
    for pair in pairs:
        try:
            for picture in pair.pictures.values():
                thumbnail(picture.path)
            shown.append(pair)
        except ValueError as error:
            sentences.append(f"{error} The page leaves the pair out.")
    return shown, sentences


def thumbnail(path: Path) -> Image.Image:
    """The image as RGB, at most ``THUMBNAIL`` px; ValueError naming a file that is broken or too large to be read."""
    try:
        rgb = read_picture(path)
    except (OSError, PictureError) as error:
        raise InputError(f"{path} cannot be read as a picture ({error}).") from error
    rgb.thumbnail((THUMBNAIL, THUMBNAIL), Image.Resampling.LANCZOS)
    return rgb


def data_uri(path: Path) -> str:
    """The thumbnail as a data URI, so that the page needs no other file."""
    buffer = io.BytesIO()
    thumbnail(path).save(buffer, "PNG", optimize=True)
    return png_uri(buffer.getvalue())


def with_uris(pairs: list[Pair]) -> list[tuple[Pair, dict[str, str]]]:
    """The pairs, each with its images as data URIs by subject."""
    return [(pair, {subject: data_uri(picture.path) for subject, picture in pair.pictures.items()}) for pair in pairs]


def draw_grid(pairs: list[Pair], theme: Theme = LIGHT, num_columns: int = 3) -> Figure:
    """The grid as one figure for README and slides: a prompt above each pair, a coloured mark under each image."""
    num_rows = -(-len(pairs) // num_columns)
    with rc_context({"figure.constrained_layout.use": False}):  # the cells are placed by hand
        figure = Figure(figsize=(3.1 * num_columns, 2.2 * num_rows), facecolor=theme.background)
    cells = figure.subplots(num_rows, 3 * num_columns, squeeze=False, width_ratios=[1, 1, 0.12] * num_columns)
    figure.subplots_adjust(0.01, 0.22 / num_rows, 1, 1 - 0.22 / num_rows, wspace=0.06, hspace=0.52)
    for axes in cells.flat:
        axes.set_axis_off()
    for k, pair in enumerate(pairs):
        row, column = k // num_columns, 3 * (k % num_columns)
        for axes, subject in zip(cells[row, column : column + 2], SUBJECTS, strict=True):
            _draw_picture(axes, pair.pictures[subject], subject, theme)
        left = cells[row, column]
        prompt = fill(pair.prompt, 38, max_lines=2, placeholder=" …")
        left.text(0, 1.06, prompt, transform=left.transAxes, color=theme.text, fontsize=9, va="bottom")
    return figure


def _draw_picture(axes: Axes, picture: Picture, subject: str, theme: Theme) -> None:
    axes.imshow(np.asarray(thumbnail(picture.path)), interpolation="nearest")
    mark, color = {True: ("✓", theme.good), False: ("✗", theme.bad), None: ("?", theme.muted)}[picture.correct]
    axes.text(0, -0.04, mark, transform=axes.transAxes, color=color, fontsize=10, weight="bold", va="top")
    axes.text(0.13, -0.05, SUBJECT_NAMES[subject], transform=axes.transAxes, color=theme.muted, fontsize=8, va="top")
