"""Small question files and answers that several tests build."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from pathlib import Path

import pytest

from bench.dpg.questions import QuestionFile, read_questions

HEADER = [
    *("item_id", "text", "keywords", "proposition_id", "dependency"),
    *("category_broad", "category_detailed", "tuple", "question_natural_language"),
]


def question_csv(rows: list[tuple]) -> str:
    """A question file of (item, proposition, dependency) or (item, proposition, dependency, tuple) rows."""
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(HEADER)
    for item_id, proposition_id, dependency, *rest in rows:
        words = rest[0] if rest else "entity - whole (thing)"
        question = f"Is {item_id} {proposition_id}?"
        writer.writerow([item_id, f"prompt {item_id}", "", proposition_id, dependency, "", "", words, question])
    return text.getvalue()


@pytest.fixture
def questions(tmp_path: Path) -> Callable[..., QuestionFile]:
    """A function from rows (see `question_csv`) to the question file read back."""

    def build(*rows: tuple, malformed: str = "no-parent") -> QuestionFile:
        path = tmp_path / "questions.csv"
        path.write_text(question_csv(list(rows)), encoding="utf-8")
        return read_questions(path, malformed=malformed)

    return build
