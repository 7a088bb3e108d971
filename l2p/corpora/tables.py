"""Corpora of single files: a folder with metadata.jsonl or one CSV table."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from l2p.corpora.items import CorpusItem
from l2p.errors import InputError
from l2p.tables import csv_columns, csv_rows, jsonl_rows

COLUMNS = (
    *(("file_name", "text"), ("image", "prompt")),  # the releases' two tables
    *(("file_name", "prompt"), ("file_name", "caption"), ("image", "text"), ("image", "caption")),
)
"""Columns of file and caption, the first pair that is there."""


def read_jsonl(path: Path) -> Iterator[CorpusItem]:
    """The items of a JSON Lines table. Raises ValueError, with file and line, for a row that names no image or text."""
    for number, row in jsonl_rows(path):
        pair = next((pair for pair in COLUMNS if _are_strings(row, pair)), None)
        if pair is None:
            has = sorted(row) if isinstance(row, dict) else row
            raise InputError(f"{path}:{number} needs file_name and text, each a string; it has {has}")
        yield _in_folder(path.parent, row[pair[0]], row[pair[1]], row.get("category"))


def read_csv(path: Path) -> Iterator[CorpusItem]:
    """The items of a CSV table. Raises ValueError, with file and line, for other columns and a row without an image."""
    columns = csv_columns(path)
    pair = next((pair for pair in COLUMNS if set(pair) <= set(columns)), None)
    if pair is None:
        raise InputError(f"{path} has the columns {columns}; needed are file_name,text or image,prompt")
    for number, row in csv_rows(path, columns):
        if not row[pair[0]]:
            raise InputError(f"{path}:{number} names no image")
        yield _in_folder(path.parent, row[pair[0]], row[pair[1]], row.get("category"))


def _are_strings(row: Any, names: tuple[str, str]) -> bool:
    return isinstance(row, dict) and all(isinstance(row.get(name), str) for name in names)


def _in_folder(folder: Path, name: str, text: str, category: Any) -> CorpusItem:
    if Path(name).is_absolute() or ".." in Path(name).parts:
        raise InputError(f"the image {name!r} lies outside the corpus folder {folder}")
    candidates = (folder / name, folder / "images" / name)
    path = next((c for c in candidates if c.is_file()), candidates[0])
    return CorpusItem(
        name=name, text=text, source=partial(Path, path), category=category if isinstance(category, str) else None
    )
