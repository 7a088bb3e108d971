"""Saved answers: `item_id, crop, proposition_id, answer`, as a CSV table (gzip too) or our `answers.jsonl`."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from bench.dpg.questions import QuestionFile, csv_rows, read_text_bytes
from bench.dpg.rules import Answers

COLUMNS = ("item_id", "crop", "proposition_id", "answer")
MAX_PIC_NUM = 4  # a grid has 2 x 2 tiles


def read_answers(path: str | Path, file: QuestionFile) -> Answers:
    """Answers by item and crop; `crop` counts from 0 and a crop without rows is an empty dict.

    Raises FileNotFoundError, and ValueError (with the line) for a missing column, an item or proposition that the
    question file does not hold, a crop outside 0..3, and an answer given twice.
    """
    path = Path(path)
    content = read_text_bytes(path)
    rows = _json_rows(content, path) if content.lstrip()[:1] == b"{" else csv_rows(content, path, COLUMNS)
    return collect_answers(rows, file, path)


def collect_answers(rows: Iterable[tuple[int, dict[str, Any]]], file: QuestionFile, path: Path) -> Answers:
    """Answers from (line, row) pairs; see `read_answers`."""
    answers: Answers = {}
    known = {item_id: {question.proposition_id for question in questions} for item_id, questions in file.items.items()}
    for line, row in rows:
        item_id, crop, proposition_id = row["item_id"], _number(row["crop"]), _number(row["proposition_id"])
        where = f"{path}, line {line}: item {item_id!r}"
        if item_id not in known:
            raise ValueError(f"{where} is not in {file.path}: give the question file that the answers belong to")
        if proposition_id not in known[item_id]:
            raise ValueError(f"{where}, proposition {row['proposition_id']!r} is not in {file.path}")
        if crop is None or crop >= MAX_PIC_NUM:
            raise ValueError(f"{where}: crop must be 0 to {MAX_PIC_NUM - 1}, not {row['crop']!r}")
        crops = answers.setdefault(item_id, [])
        crops.extend({} for _ in range(crop + 1 - len(crops)))
        if proposition_id in crops[crop]:
            raise ValueError(f"{where}, crop {crop}, proposition {proposition_id} is answered twice")
        crops[crop][proposition_id] = row["answer"]
    return answers


def answer_rows(item_id: str, crop: int, answers: dict[int, str]) -> Iterator[dict[str, Any]]:
    """The rows of one crop, ready for `answers.jsonl`."""
    for proposition_id, answer in answers.items():
        yield {"item_id": item_id, "crop": crop, "proposition_id": proposition_id, "answer": answer}


def _number(cell: str | int) -> int | None:
    """A count from text or JSON, or None."""
    text = str(cell).strip()
    return int(text) if text.isascii() and text.isdigit() else None


def _json_rows(content: bytes, path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    for line, text in enumerate(content.decode("utf-8").strip("\n").split("\n"), 1):
        try:
            row = json.loads(text)
            well_formed = all(isinstance(row[name], (str, int)) for name in COLUMNS) and isinstance(row["answer"], str)
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            raise ValueError(f"{path}, line {line}: expected an object with {', '.join(COLUMNS)}") from error
        if not well_formed:
            raise ValueError(f"{path}, line {line}: {', '.join(COLUMNS)} must be text or whole numbers")
        yield line, row
