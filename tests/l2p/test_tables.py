"""The one reader of tables: every row is right, or the error names file and line."""

import gzip
import json

import pytest

from l2p import tables
from l2p.tables import csv_columns, csv_rows, jsonl_rows, read_table_bytes

SEPARATED = "a cat\u2028and\u0085a dog\x0bhere"  # str.splitlines would cut here
ROWS = [{"a": "1", "b": SEPARATED}, {"a": "2", "b": 'with "quotes", a comma\nand lines'}]
CSV = 'a,b\n1,"' + SEPARATED + '"\n\n2,"with ""quotes"", a comma\nand lines"\n'
JSONL = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS)


@pytest.mark.parametrize("packed", [False, True], ids=["plain", "gzip"])
@pytest.mark.parametrize("mark", ["", "\ufeff"], ids=["", "byte-order-mark"])
@pytest.mark.parametrize("ends", ["\n", "\r\n"], ids=["LF", "CRLF"])
def test_the_same_rows_however_they_are_written(tmp_path, packed, mark, ends):
    path = tmp_path / "table"
    for text, read in ((CSV, lambda: csv_rows(path, ("b",))), (JSONL, lambda: jsonl_rows(path))):
        content = (mark + text.replace("\n", ends)).encode()
        path.write_bytes(gzip.compress(content) if packed else content)
        rows = [row | {"b": row["b"].replace("\r\n", "\n")} for _, row in read()]
        assert rows == ROWS


def test_lines_are_those_on_which_rows_start(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text(CSV + "3,c\n", newline="")
    assert [line for line, _ in csv_rows(path, ())] == [2, 4, 6]
    assert csv_columns(path) == ["a", "b"]
    path.write_text('\n{"a": 1}\n\n[2]\n')
    assert list(jsonl_rows(path)) == [(2, {"a": 1}), (4, [2])]


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"a,b\n1\n", r"t, line 2: the row has too few cells for the header \(1 for 2\)"),
        (b"a,b\n1,2\n1,2,3\n", r"t, line 3: the row has too many cells for the header \(3 for 2\)"),
        (b'a,b\n1,2\n1,"x"y\n', "t, line 3: "),
        (
            b'a,b\n1,"never closed\n\n',
            "t, line 2: unexpected end of data; correct the quotes of the row that begins there",
        ),
        (b"a,c\n1,2\n", "t lacks the columns b; it has a, c"),
        (b"", "t lacks the columns a, b; it has none"),
        (b"a,b,a\n1,2,3\n", "line 1: the columns a stand there twice"),
        (b"a,b\n1,2\n1,\xe4\n", "t, line 3, is not UTF-8"),
        (gzip.compress(b"a,b\n1,2\n" * 99, mtime=0)[:-20], "t is a broken gzip file"),
        (b"\x1f\x8bno gzip at all", "t is a broken gzip file"),
    ],
)
def test_a_broken_csv_is_an_error_with_its_line(tmp_path, content, told):
    (tmp_path / "t").write_bytes(content)
    with pytest.raises(ValueError, match=told):
        list(csv_rows(tmp_path / "t", ("a", "b")))


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b'{"a": 1}\n{"a": ', "t, line 2 is not valid JSON"),
        (b'{"a": 1}\n\n{"a": NaN}\n', "t, line 3: NaN is no JSON value"),
        (b'{"a": -Infinity}\n', "t, line 1: -Infinity is no JSON value"),
        (b'{"a": 1, "a": 2}\n', "t, line 1: the key 'a' is given twice"),
        (b'{"a": 1}\n"\xff"\n', "t, line 2, is not UTF-8"),
        (b"[" * 100_000, "t, line 1 is nested too deeply"),
        (gzip.compress(b'{"a": 1}\n' * 999, mtime=0)[:-9], "t is a broken gzip file"),
    ],
)
def test_a_broken_json_lines_file_is_an_error_with_its_line(tmp_path, content, told):
    (tmp_path / "t").write_bytes(content)
    with pytest.raises(ValueError, match=told):
        list(jsonl_rows(tmp_path / "t"))


def test_a_table_that_unfolds_without_end_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "MAX_BYTES", 1000)
    (tmp_path / "t").write_bytes(gzip.compress(b'{"a": "' + b"x" * 100_000 + b'"}\n'))
    for read in (lambda: list(jsonl_rows(tmp_path / "t")), lambda: read_table_bytes(tmp_path / "t")):
        with pytest.raises(ValueError, match="t unfolds into more than"):
            read()


def test_what_is_no_file_is_said(tmp_path):
    with pytest.raises(FileNotFoundError, match="no file .*absent"):
        read_table_bytes(tmp_path / "absent")
    with pytest.raises(ValueError, match="is a folder"):
        read_table_bytes(tmp_path)
