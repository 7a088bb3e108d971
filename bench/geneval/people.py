"""GenEval's published human annotations (MIT; the user supplies the CSVs): people as the detector, the rules unchanged.

Each image was described by five people: how many of each object, their colours, and where object 1 is seen from
object 0. Their answers become detections, so that the rules themselves can be checked against people.
Example: python -m bench.geneval.people annotations_sdv2.csv --scores scores/
"""

from __future__ import annotations

import csv
import re
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from bench.geneval.prompts import as_prompts, generate
from bench.geneval.rules import judge
from bench.records import Detection, Prompt, iter_objects
from l2p.ending import run_command
from l2p.errors import InputError
from l2p.tables import read_table_text

COLUMNS = (
    "Input.prompt_id",
    "Input.image_id",
    "Input.caption",
    "Input.object_0_name",
    "Input.object_1_name",
    "Answer.task-color-0",
    "Answer.task-color-1",
    "Answer.task-count-0",
    "Answer.task-count-1",
    "Answer.task-position-x",
    "Answer.task-position-y",
)

OFFSETS = {"left": -100.0, "right": 100.0, "above": -100.0, "below": 100.0, "neither_x": 0.0, "neither_y": 0.0, "": 0.0}
"""Where an answer puts object 1, in pixels from object 0; the objects are 10 pixels wide."""


@dataclass(frozen=True, kw_only=True)
class HumanVerdict:
    """The rules' verdicts on one image, one for each of its annotators."""

    prompt_id: str
    index: int
    verdicts: tuple[bool, ...]

    @property
    def correct(self) -> bool:
        """Whether more than half of the annotators saw what was asked."""
        return 2 * sum(self.verdicts) > len(self.verdicts)


def read_annotations(path: Path | str) -> list[dict[str, str]]:
    """The records of an annotation CSV; answers typed with line breaks in them, quoted or not, stay in one record.

    Raises ValueError naming the line of a record that does not have the header's number of columns, or whose cells are
    not what GenEval's are.
    """
    lines = enumerate(read_table_text(path).split("\n"), 1)
    header = next(csv.reader([next(lines)[1].rstrip("\r")]), [])
    missing = [name for name in COLUMNS if name not in header]
    if missing:
        raise InputError(f"{path} is no GenEval annotation file: it has no column {', '.join(missing)}.")
    records = []
    for number, fields in _records(lines, len(header), path):
        record = dict(zip(header, fields, strict=True))
        _check_record(record, f"{path}, line {number}")
        records.append(record)
    return records


def _check_record(record: Mapping[str, str], where: str) -> None:
    """ValueError, beginning with `where`, for an id or a count that is no number, and for an unknown place."""
    ids = [record[f"Input.{name}_id"] for name in ("prompt", "image")]
    counts = [record[f"Answer.task-count-{which}"] for which in (0, 1)]
    if not all(cell.isascii() and cell.isdigit() for cell in ids):
        raise InputError(f"{where}: prompt_id and image_id must be whole numbers; they are {ids}.")
    if not all(re.fullmatch(r"(\d{1,4}(\.0*)?)?", cell) for cell in counts):
        raise InputError(f"{where}: the counts must be whole numbers up to 9999; they are {counts}.")
    places = [record[f"Answer.task-position-{axis}"] for axis in "xy"]
    if not all(place in OFFSETS for place in places):
        raise InputError(f"{where}: a position must be one of {', '.join(filter(None, OFFSETS))}; they are {places}.")


def _records(lines: Iterable[tuple[int, str]], num_columns: int, path: Path | str) -> Iterator[tuple[int, list[str]]]:
    """Join physical lines until a record has all its columns; the number is of the first of them."""
    waiting, first = "", 0
    for number, line in lines:
        first = first if waiting else number
        waiting = f"{waiting} {line.strip()}" if waiting else line.rstrip("\r\n")
        fields = next(csv.reader([waiting]), [])
        if len(fields) > num_columns:
            raise InputError(f"{path}, line {first}: a record of {len(fields)} columns; expected {num_columns}.")
        if len(fields) == num_columns and waiting.count('"') % 2 == 0:
            yield first, fields
            waiting = ""
    if waiting.strip():
        raise InputError(f"{path}, line {first}: the record ends early; expected {num_columns} columns.")


def seen(record: Mapping[str, str], spec: Mapping[str, Any]) -> list[Detection]:
    """What one annotator saw, as detections: an object named with several colours has the asked one if it is named."""
    detections = []
    for which in (0, 1):
        name, count = record[f"Input.object_{which}_name"], record[f"Answer.task-count-{which}"]
        asked = next((c.get("color") for c in spec["include"] if c["class"] == name), None)
        named = record[f"Answer.task-color-{which}"].split("|")
        color = asked if asked in named else named[0]
        x, y = (OFFSETS[record[f"Answer.task-position-{axis}"]] if which else 0.0 for axis in "xy")
        one = Detection(label=name, box=(x, y, x + 10, y + 10), score=1.0, color=color)
        detections += [one] * int(float(count or 0))
    return detections


def human_verdicts(records: Sequence[Mapping[str, str]], prompts: Sequence[Prompt]) -> list[HumanVerdict]:
    """The rules applied to what each annotator saw, by image; ValueError for a caption that is not its prompt's."""
    by_image: dict[tuple[int, int], list[bool]] = {}
    for record in records:
        number, index = int(record["Input.prompt_id"]), int(record["Input.image_id"])
        if not 0 <= number < len(prompts) or prompts[number].text != record["Input.caption"]:
            raise InputError(
                f"An annotation of prompt {number} has the caption {record['Input.caption']!r}, not its own."
            )
        spec = prompts[number].spec
        by_image.setdefault((number, index), []).append(judge(spec, seen(record, spec))[0])
    return [
        HumanVerdict(prompt_id=f"{number:05}", index=index, verdicts=tuple(verdicts))
        for (number, index), verdicts in sorted(by_image.items())
    ]


def agreement(verdicts: Sequence[HumanVerdict], scores: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """On the images that both judged: share on which the score is the people's majority, and Cohen's kappa.

    Raises ValueError when there is no such image.
    """
    values = {(row["prompt_id"], row["index"]): row["value"] for row in scores if row["value"] is not None}
    pairs = [(v.correct, bool(values[v.prompt_id, v.index])) for v in verdicts if (v.prompt_id, v.index) in values]
    if not pairs:
        raise InputError("People and scores have no image in common.")
    table = Counter(pairs)
    same = (table[True, True] + table[False, False]) / len(pairs)
    people, rules = (sum(pair[side] for pair in pairs) / len(pairs) for side in (0, 1))
    chance = people * rules + (1 - people) * (1 - rules)
    return {"images": len(pairs), "agreement": same, "kappa": (same - chance) / (1 - chance) if chance < 1 else 1.0}


app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


@app.command()
def main(
    annotations: Annotated[Path, typer.Argument(help="annotations_sdv2.csv or another of GenEval's.")],
    scores: Annotated[Path | None, typer.Option(help="Folder with scores.jsonl of the same images.")] = None,
) -> None:
    """What people say under the rules, by task; with --scores also how far they agree with a detector."""
    prompts = as_prompts(generate())
    verdicts = human_verdicts(read_annotations(annotations), prompts)
    task = {prompt.id: prompt.category for prompt in prompts}
    for name in dict.fromkeys(task.values()):
        correct = [verdict.correct for verdict in verdicts if task[verdict.prompt_id] == name]
        share = f"{sum(correct) / len(correct):.3f}" if correct else "none"
        typer.echo(f"{name:<16} {share} of {len(correct)} images")
    if scores:
        typer.echo(
            str(agreement(verdicts, list(iter_objects(scores / "scores.jsonl", ("prompt_id", "index", "value")))))
        )


if __name__ == "__main__":
    sys.exit(run_command(app, name="python -m bench.geneval.people"))
