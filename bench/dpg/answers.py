"""Saved answers: `item_id, crop, proposition_id, answer`, as a CSV table (gzip too) or our `answers.jsonl`."""

from __future__ import annotations

import codecs
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from bench.dpg.questions import QuestionFile
from bench.dpg.rules import Answers
from l2p.errors import InputError
from l2p.tables import csv_rows, jsonl_rows, read_table_bytes

COLUMNS = ("item_id", "crop", "proposition_id", "answer")
MAX_PIC_NUM = 4  # a grid has 2 x 2 tiles


def read_answers(path: str | Path, file: QuestionFile) -> Answers:
    """Answers by item and crop; `crop` counts from 0 and a crop without rows is an empty dict.

    Raises FileNotFoundError, and ValueError (with the line) for a missing column, an item or proposition that the
    question file does not hold, a crop outside 0..3, and an answer given twice.
    """
    path = Path(path)
    content = read_table_bytes(path)
    is_json = content.removeprefix(codecs.BOM_UTF8).lstrip()[:1] == b"{"
    rows = _json_rows(path) if is_json else csv_rows(path, COLUMNS, content)
    return collect_answers(rows, file, path)


def collect_answers(rows: Iterable[tuple[int, dict[str, Any]]], file: QuestionFile, path: Path) -> Answers:
    """Answers from (line, row) pairs; see `read_answers`."""
    answers: Answers = {}
    known = {item_id: {question.proposition_id for question in questions} for item_id, questions in file.items.items()}
    for line, row in rows:
        item_id, crop, proposition_id = row["item_id"], _number(row["crop"]), _number(row["proposition_id"])
        where = f"{path}, line {line}: item {item_id!r}"
        if item_id not in known:
            raise InputError(f"{where} is not in {file.path}: give the question file that the answers belong to")
        if proposition_id not in known[item_id]:
            raise InputError(f"{where}, proposition {row['proposition_id']!r} is not in {file.path}")
        if crop is None or crop >= MAX_PIC_NUM:
            raise InputError(f"{where}: crop must be 0 to {MAX_PIC_NUM - 1}, not {row['crop']!r}")
        crops = answers.setdefault(item_id, [])
        crops.extend({} for _ in range(crop + 1 - len(crops)))
        if not isinstance(row["answer"], str):
            raise InputError(f"{where}: an answer must be text; it is {row['answer']!r}")
        if proposition_id in crops[crop]:
            raise InputError(f"{where}, crop {crop}, proposition {proposition_id} is answered twice")
        crops[crop][proposition_id] = row["answer"]
    return answers


def answer_cells(rows: Iterable[tuple[int, dict[str, Any]]]) -> Iterator[tuple[int, dict[str, Any]]]:
    """(line, cell) of (line, JSON row): an answer each, or as in our `answers.jsonl` an image with its `answers`."""
    for line, row in rows:
        if "prompt_id" not in row:
            yield line, row
            continue
        for proposition_id, answer in row.get("answers", {}).items():  # none where the image could not be read
            cell = {"item_id": row["prompt_id"], "crop": row["index"], "proposition_id": proposition_id}
            yield line, cell | {"answer": answer}


def _number(cell: str | int) -> int | None:
    """A count from text or JSON, or None."""
    text = str(cell).strip()
    return int(text) if text.isascii() and text.isdigit() else None


def _json_rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Cells of a JSON Lines file; ValueError with the line for one that lacks a column."""
    for line, cell in answer_cells(saved_rows(path)):
        if not isinstance(cell.get("answer"), str) or not all(isinstance(cell.get(c), (str, int)) for c in COLUMNS):
            raise InputError(f"{path}, line {line}: expected {', '.join(COLUMNS)} as text or whole numbers")
        yield line, cell


def saved_rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """(line, row) of a JSON Lines file of answers; ValueError for a row of another form."""
    for line, row in jsonl_rows(path):
        answers = row.get("answers", {}) if isinstance(row, dict) else None
        if not isinstance(answers, dict) or ("prompt_id" in row and "index" not in row):
            raise InputError(f"{path}, line {line}: expected an object with prompt_id, index and answers")
        yield line, row
