"""The picture grid: the same prompts from both models with the scorer's verdicts, chosen by rule, not by eye."""

import io
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
    if any((subject, "geneval") not in run.scored for subject in SUBJECTS):
        return []
    rows = {subject: _first_images(run, subject) for subject in SUBJECTS}
    by_task: dict[str, list[str]] = {}
    for prompt_id in sorted(rows["source"].keys() & rows["l2p"].keys()):
        if all(_path(run, subject, rows[subject][prompt_id]).is_file() for subject in SUBJECTS):
            by_task.setdefault(rows["source"][prompt_id]["category"], []).append(prompt_id)
    return [_pair(run, rows, prompt_id) for ids in by_task.values() for prompt_id in _spread(ids, per_task)]


def _first_images(run: Run, subject: str) -> dict[str, dict]:
    """Score rows of image 0 by prompt id; an id that is no plain folder name (it comes from outside) is left out."""
    rows = run.scored[subject, "geneval"].rows
    return {str(row["prompt_id"]): row for row in rows if row["index"] == 0 and str(row["prompt_id"]).isalnum()}


def _path(run: Run, subject: str, row: dict) -> Path:
    return run.path / "samples" / subject / "geneval" / str(row["prompt_id"]) / "samples" / f"{row['index']:04d}.png"


def _spread(items: list[str], count: int) -> list[str]:
    """``count`` items at even steps, the middle of each part."""
    count = min(count, len(items))
    return [items[int((k + 0.5) * len(items) / count)] for k in range(count)]


def _pair(run: Run, rows: dict[str, dict[str, dict]], prompt_id: str) -> Pair:
    pictures = {}
    for subject in SUBJECTS:
        row = rows[subject][prompt_id]
        correct = None if row["value"] is None else row["value"] > 0
        pictures[subject] = Picture(path=_path(run, subject, row), correct=correct, reason=row["reason"])
    first = rows["source"][prompt_id]
    return Pair(prompt=first.get("text", prompt_id), task=first["category"], pictures=pictures)


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


def draw_grid(pairs: list[Pair], theme: Theme = LIGHT, num_columns: int = 3) -> Figure:
    """The grid as one figure for README and slides: a prompt above each pair, a coloured mark under each image."""
    num_rows = -(-len(pairs) // num_columns)
    with rc_context({"figure.constrained_layout.use": False}):  # the cells are placed by hand
        figure = Figure(figsize=(3.1 * num_columns, 2.1 * num_rows), facecolor=theme.background)
    cells = figure.subplots(num_rows, 3 * num_columns, squeeze=False, width_ratios=[1, 1, 0.12] * num_columns)
    figure.subplots_adjust(0.01, 0.22 / num_rows, 1, 1 - 0.22 / num_rows, wspace=0.06, hspace=0.42)
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
