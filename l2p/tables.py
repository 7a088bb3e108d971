"""The one reader of tables: CSV and JSON Lines, plain or gzip, with or without byte order mark; standard library only.

Each row comes with the line that it starts on, and a row that is not what it should be is an error with file and line:
never fewer rows without a word.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from l2p.errors import InputError

GZIP = b"\x1f\x8b"
MAX_BYTES = 2 << 30
"""What a table may unfold into; the largest here, detections of a whole suite, are some 100 MB."""


def read_table_bytes(path: Path | str) -> bytes:
    """A table's bytes, unpacked where it is gzip (told by its first bytes, not its name).

    Raises FileNotFoundError, and ValueError for a broken or too large archive.
    """
    with _opened(Path(path)) as file:
        content = file.read(MAX_BYTES + 1)
    _refuse_beyond(len(content), path)
    return content


def read_table_text(path: Path | str) -> str:
    """A table's text, without its byte order mark; errors as of `read_table_bytes`, and ValueError for no UTF-8."""
    return _decoded(read_table_bytes(path), path)


def jsonl_rows(path: Path | str) -> Iterator[tuple[int, Any]]:
    """(line, value) of a JSON Lines file, one at a time; empty lines are skipped. Only a newline ends a line.

    Raises FileNotFoundError, and ValueError with file and line for what is no JSON, no UTF-8, NaN or infinite, or an
    object with a key twice.
    """
    size = 0
    with _opened(Path(path)) as file:
        for number, line in enumerate(iter(lambda: file.readline(MAX_BYTES + 1), b""), 1):
            size += len(line)
            _refuse_beyond(size, path)
            text = _decoded(line, path, number).strip()
            if text:
                yield number, parse_json(text, f"{path}, line {number}")


def csv_columns(path: Path | str) -> list[str]:
    """The columns that a CSV's header names; errors as of `csv_rows`."""
    return next(csv.reader(io.StringIO(read_table_text(path), newline="")), [])


def csv_rows(path: Path | str, columns: Sequence[str], content: bytes | None = None) -> Iterator[tuple[int, dict]]:
    """(line, row) of a CSV with a header that has at least `columns`; `content`: its bytes, where they are read.

    Raises FileNotFoundError, and ValueError with file and line for a column that is missing or there twice, a row with
    fewer or more cells than the header, quotes that do not close or stand inside a cell, and what is no UTF-8.
    """
    text = read_table_text(path) if content is None else _decoded(content, path)
    reader, line = csv.reader(io.StringIO(text, newline=""), strict=True), 1
    try:
        header = next(reader, [])
        _check_header(header, columns, path)
        line = reader.line_num + 1
        for cells in reader:
            if cells and len(cells) != len(header):
                few = "few" if len(cells) < len(header) else "many"
                raise InputError(
                    f"{path}, line {line}: the row has too {few} cells for the header ({len(cells)} for "
                    f"{len(header)}); one with a comma or a line break in it must stand in double quotes"
                )
            if cells:
                yield line, dict(zip(header, cells, strict=True))
            line = reader.line_num + 1
    except csv.Error as error:
        raise InputError(f"{path}, line {line}: {error}; correct the quotes of the row that begins there") from error


def parse_json(text: str | bytes, where: str) -> Any:
    """One JSON value; ValueError, beginning with `where`, for anything else, NaN, infinity and a key given twice."""
    try:
        return json.loads(text, parse_constant=_refuse_constant, object_pairs_hook=_object)
    except json.JSONDecodeError as error:
        raise InputError(f"{where} is not valid JSON: {error}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{where} is not UTF-8 (byte {error.start}): save it as UTF-8") from error
    except RecursionError as error:
        raise InputError(f"{where} is nested too deeply") from error
    except ValueError as error:
        raise InputError(f"{where}: {error}") from error


def _refuse_constant(name: str) -> None:
    raise InputError(f"{name} is no JSON value; a number, or null where there is none, is needed")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = next(key for i, (key, _) in enumerate(pairs) if any(key == other for other, _ in pairs[:i]))
        raise InputError(f"the key {twice!r} is given twice")
    return found


@contextmanager
def _opened(path: Path) -> Iterator[IO[bytes]]:
    """The file, unpacked as it is read; FileNotFoundError, and ValueError for a folder or a broken archive."""
    if path.is_dir():
        raise InputError(f"{path} is a folder, where a table is needed")
    if not path.exists():
        raise FileNotFoundError(f"no file {path}")
    try:
        with open(path, "rb") as plain:
            packed = plain.peek(2)[:2] == GZIP
            file: Any = gzip.GzipFile(fileobj=plain) if packed else plain
            with file:
                yield file
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise InputError(f"{path} is a broken gzip file ({error}): fetch or write it again") from error


def _refuse_beyond(size: int, path: Path | str) -> None:
    if size > MAX_BYTES:
        raise InputError(f"{path} unfolds into more than {MAX_BYTES >> 30} GiB: no table is that large; cut it")


def _decoded(content: bytes, path: Path | str, line: int = 1) -> str:
    """UTF-8 as text, without the byte order mark of a file's first line; ValueError names the line."""
    try:
        return content.decode("utf-8-sig" if line == 1 else "utf-8")
    except UnicodeDecodeError as error:
        line += content.count(b"\n", 0, error.start)
        raise InputError(f"{path}, line {line}, is not UTF-8 (byte {error.start}): save it as UTF-8") from error


def _check_header(header: Sequence[str], columns: Iterable[str], path: Path | str) -> None:
    twice = sorted({name for name in header if header.count(name) > 1})
    if twice:
        raise InputError(f"{path}, line 1: the columns {', '.join(twice)} stand there twice")
    missing = [name for name in columns if name not in header]
    if missing:
        raise InputError(f"{path} lacks the columns {', '.join(missing)}; it has {', '.join(header) or 'none'}")
