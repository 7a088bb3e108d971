"""Label pictures by eye, and hold a judge against the labels.

`python -m reproduce.miniature.label RUN --num 120 --seed 0 --out DIR` draws pictures of a run (or of any folder in
GenEval's layout) and writes contact sheets without verdicts and a CSV to fill in: `right` = yes, no or unsure. Of
DPG-Bench's pictures one question each is asked. `python -m reproduce.miniature.label --compare DIR` then prints how
often a judge agrees. DIR keeps the pictures themselves, so that the labels outlive the run.
"""

from __future__ import annotations

import csv
import hashlib
import json
import sys
import textwrap
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Annotated, Any

import typer
from PIL import Image, ImageDraw, ImageFont

from bench.dpg.questions import read_questions
from bench.named import load_function
from bench.records import write_jsonl
from l2p.ending import run_command
from l2p.errors import InputError
from reproduce.miniature.agreement import (
    JUDGES,
    LABEL_COLUMNS,
    MOSAIC_COLUMNS,
    compare_with,
    picture_of,
    read_labels,
    table,
)

PER_ROW, ROWS, SIDE, TEXT = 5, 4, 196, 50  # a contact sheet: pictures a row, rows, pixels of a picture and its text


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """One picture that may be labelled, and what is asked of it."""

    subject: str
    suite: str
    prompt_id: str
    index: int
    prompt: str
    asked: dict[str, Any]
    path: Path


def candidates(run: Path) -> list[Candidate]:
    """All pictures of a run's `samples/<subject>/<suite>`, or of one folder in GenEval's layout.

    Raises ValueError where there are none.
    """
    folders = sorted(p for p in run.glob("samples/*/*") if p.is_dir()) or [run]
    found = [one for folder in folders for one in (*_geneval(folder), *_dpg(folder))]
    if not found:
        raise InputError(
            f"{run} holds no pictures to label; name a run's folder (samples/<subject>/<suite>) or a folder in "
            "GenEval's layout (00000/metadata.jsonl, 00000/samples/0000.png)."
        )
    return found


def _geneval(folder: Path) -> Iterator[Candidate]:
    for metadata in sorted(folder.glob("*/metadata.jsonl")):
        asked = json.loads(metadata.read_text("utf-8"))
        for path in sorted((metadata.parent / "samples").glob("*.png")):
            yield Candidate(
                subject=folder.parent.name,
                suite=folder.name,
                prompt_id=metadata.parent.name,
                index=int(path.stem),
                prompt=asked["prompt"],
                asked=asked,
                path=path,
            )


def _dpg(folder: Path) -> Iterator[Candidate]:
    """Every question of every item, about each of its pictures."""
    if not (folder / "questions.csv").is_file():
        return
    for item_id, questions in read_questions(folder / "questions.csv").items.items():
        for path in sorted((folder / "tiles").glob(f"{item_id}_*.png")):
            for question in questions:
                yield Candidate(
                    subject=folder.parent.name,
                    suite=folder.name,
                    prompt_id=item_id,
                    index=int(path.stem.rpartition("_")[2]),
                    prompt=question.text,
                    asked={"tag": question.broad_category, "question": question.text},
                    path=path,
                )


def choose(found: Sequence[Candidate], num: int, seed: int) -> list[Candidate]:
    """`num` of them, as many of each subject and task, and of a task every prompt once before one comes again.

    A function of the seed and of what is found. Raises ValueError where fewer than `num` are found.
    """
    if num > len(found):
        raise InputError(f"{num} pictures asked, {len(found)} found: ask for fewer")
    strata: dict[tuple[str, str], list[Candidate]] = {}
    for one in sorted(found, key=lambda one: _drawn(one, seed)):
        strata.setdefault((one.subject, _stratum(one)), []).append(one)
    rounds = zip_longest(*(_every_prompt_in_turn(members) for members in strata.values()))
    chosen = [one for turn in rounds for one in turn if one is not None][:num]
    return sorted(chosen, key=lambda one: (one.subject, one.suite, _stratum(one), _drawn(one, seed)))


def _drawn(one: Candidate, seed: int) -> str:
    text = f"{seed}/{one.subject}/{one.suite}/{one.prompt_id}/{one.index}/{one.prompt}"
    return hashlib.sha256(text.encode()).hexdigest()


def _every_prompt_in_turn(members: Sequence[Candidate]) -> list[Candidate]:
    before: Counter[str] = Counter()
    turns = []
    for one in members:
        turns.append(before[one.prompt_id])
        before[one.prompt_id] += 1
    return [one for _, one in sorted(zip(turns, members, strict=True), key=lambda pair: pair[0])]


def _stratum(one: Candidate) -> str:
    """The task; the six pairs of the suite "heldout" are one."""
    return one.suite if one.suite == "heldout" else one.asked["tag"]


def write_sheets(chosen: Sequence[Candidate], out: Path) -> None:
    """Write contact sheets, `labels.csv` to fill in, `asked.jsonl` and the pictures as one lossless mosaic.

    Raises FileExistsError where `out` has labels already, ValueError for pictures of several sizes.
    """
    if (out / "labels.csv").exists():
        raise FileExistsError(f"{out / 'labels.csv'} exists: labels are never written over; choose another folder")
    out.mkdir(parents=True, exist_ok=True)
    pictures = [picture_of(one.path) for one in chosen]
    _mosaic(pictures).save(out / "pictures.webp", lossless=True, quality=100, method=6)
    per_sheet = PER_ROW * ROWS
    for start in range(0, len(chosen), per_sheet):
        part = range(start, min(start + per_sheet, len(chosen)))
        sheet = _sheet([(i + 1, pictures[i], chosen[i].prompt) for i in part])
        sheet.save(out / f"sheet-{start // per_sheet + 1:02d}.png")
    write_jsonl(out / "asked.jsonl", [one.asked for one in chosen])
    rows = [
        {
            "sheet": i // per_sheet + 1,
            "number": i + 1,
            "subject": one.subject,
            "suite": one.suite,
            "prompt_id": one.prompt_id,
            "index": one.index,
            "sha256": hashlib.sha256(one.path.read_bytes()).hexdigest(),
            "prompt": one.prompt,
        }
        for i, one in enumerate(chosen)
    ]
    with (out / "labels.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, LABEL_COLUMNS)
        writer.writeheader()
        writer.writerows(rows)


def _mosaic(pictures: Sequence[Image.Image]) -> Image.Image:
    sizes = {picture.size for picture in pictures}
    if len(sizes) > 1:
        raise InputError(f"pictures of several sizes, {sorted(sizes)}: label folders of one size each")
    width, height = sizes.pop()
    rows = -(-len(pictures) // MOSAIC_COLUMNS)
    mosaic = Image.new("RGB", (width * min(len(pictures), MOSAIC_COLUMNS), height * rows))
    for i, picture in enumerate(pictures):
        mosaic.paste(picture, (i % MOSAIC_COLUMNS * width, i // MOSAIC_COLUMNS * height))
    return mosaic


def _sheet(cells: Sequence[tuple[int, Image.Image, str]]) -> Image.Image:
    """One contact sheet: each picture enlarged, with its number and prompt below."""
    font = ImageFont.load_default(size=13)
    rows = -(-len(cells) // PER_ROW)
    sheet = Image.new("RGB", (PER_ROW * (SIDE + 8), rows * (SIDE + TEXT)), "white")
    draw = ImageDraw.Draw(sheet)
    for i, (number, picture, prompt) in enumerate(cells):
        x, y = i % PER_ROW * (SIDE + 8), i // PER_ROW * (SIDE + TEXT)
        sheet.paste(picture.resize((SIDE, SIDE), Image.Resampling.BICUBIC), (x, y))
        draw.text((x, y + SIDE + 2), "\n".join(textwrap.wrap(f"{number}. {prompt}", 30)), "black", font)
    return sheet


app = typer.Typer(add_completion=False, help=__doc__)


@app.command()
def main(
    run: Annotated[Path | None, typer.Argument(help="a run's folder, or one folder in GenEval's layout")] = None,
    num: Annotated[int, typer.Option(min=1, max=100_000, help="how many pictures (of DPG-Bench: questions)")] = 120,
    seed: Annotated[int, typer.Option(help="which of them: another seed, other pictures")] = 0,
    out: Annotated[Path | None, typer.Option(help="where sheets and labels.csv are written")] = None,
    suite: Annotated[list[str] | None, typer.Option(help="only these suites; may be given several times")] = None,
    compare: Annotated[Path | None, typer.Option(help="a folder whose labels.csv is filled in")] = None,
    detector: Annotated[str, typer.Option(help="the judge, package.module:function")] = JUDGES["detector"],
) -> None:
    """Write contact sheets of RUN into --out, or print how a judge agrees with the labels in --compare.

    Example: python -m reproduce.miniature.label runs/flux-mini --num 120 --seed 1 --out labels/first
    """
    if compare:
        typer.echo(table(compare_with(read_labels(compare), load_function(detector)())))
    elif run and out:
        found = [one for one in candidates(run) if not suite or one.suite in suite]
        write_sheets(choose(found, num, seed), out)
        typer.echo(f"look at {out}/sheet-*.png, answer yes, no or unsure in {out}/labels.csv (column right), then:")
        typer.echo(f"  python -m reproduce.miniature.label --compare {out}")
    else:
        raise InputError("give a run and --out to make sheets, or --compare and a folder with labels")


if __name__ == "__main__":
    sys.exit(run_command(app, name="python -m reproduce.miniature.label"))
