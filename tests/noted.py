"""What commands say about bad input, noted as tests give it to them: `docs/errors.md` is the table of it.

A module of bad inputs says `pytestmark = pytest.mark.usefixtures("noted")`; whatever its tests make a command say
stands in the table word by word, or the test fails. `python -m pytest --write-errors` runs these modules alone and
writes the table anew.
"""

from __future__ import annotations

import contextlib
import io
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import typer

from l2p import ending

ROOT = Path(__file__).parents[1]
TABLE = ROOT / "docs" / "errors.md"
MAINS = ("l2p", "bench", "reproduce", "reports", "reports.cost")  # each with a `__main__` that calls run_command
ANY = "any command"
LONGEST = 260  # characters of a sentence that stand in the table
EXPECTED = ("command", "words", "told", "message", "expected", "named", "status", "debug")
"""Parameters of tests that are no part of what is given."""
SEEN: set[tuple[str, str]] = set()
"""Command and line of all that was noted since pytest began."""

COLUMNS = ("| What was given | Status | What it says |", "|---|---|---|")
HEAD = """# What the commands say about bad input

Exit statuses are the same everywhere: 0 done, 1 a finding (worse, diverged, below a floor), 2 bad input or too little
of it, 3 interrupted, 4 a fault of the program itself, whose traceback `--debug` shows. Below stands every bad input
that the tests give to a command, with the status and the sentence that it ends with. None ends in a traceback.

Paths are told without the folder that they lie in, FOLDER is that folder; numbers that differ from machine to machine
are left out (…), as is what follows {longest} characters. This file is written by the tests (`tests/noted.py`): they
fail where a sentence differs from it, and `python -m pytest --write-errors` writes it anew. {num} inputs.
"""


@dataclass(frozen=True, kw_only=True, order=True)
class Row:
    """One bad input of a command and how that ended."""

    command: str
    given: str
    status: int
    sentence: str

    @property
    def line(self) -> str:
        """The row of the table, for Markdown."""
        cells = (cell.replace("|", r"\|").replace("<", "&lt;") for cell in (self.given, self.sentence))
        given, sentence = cells
        return f"| {given} | {self.status} | {sentence} |"


@contextlib.contextmanager
def noting(module: Any, given: str, folder: Path) -> Iterator[list[Row]]:
    """Note what every command line that is run in this process says; `given` is what the test calls its input."""
    rows: list[Row] = []

    def noted(app: Callable[..., Any], arguments: list[str] | None = None, *, name: str | None = None) -> int:
        words = sys.argv[1:] if arguments is None else arguments
        said = io.StringIO()
        with contextlib.redirect_stderr(said):
            status = ending.run_command(app, arguments, name=name)
        sys.stderr.write(said.getvalue())
        found = re.search(r"^(?:error: |interrupted: ).*", said.getvalue(), re.MULTILINE | re.DOTALL)
        if found and ending.DEBUG not in words:
            sentence = portable(found[0].removeprefix("error: "), folder)
            rows.append(Row(command=_command(app, words, name), given=given, status=status, sentence=sentence))
        return status

    with pytest.MonkeyPatch.context() as patched:
        for place in (module, *(sys.modules.get(f"{main}.__main__") for main in MAINS)):
            if hasattr(place, "run_command"):
                patched.setattr(place, "run_command", noted)
        yield rows
    SEEN.update((row.command, row.line) for row in rows)


def _command(app: Callable[..., Any], words: list[str], name: str | None) -> str:
    if name is None or not isinstance(app, typer.Typer):
        return ANY
    commands = getattr(typer.main.get_command(app), "commands", {})
    return f"{name} {words[0]}" if words and words[0] in commands else name


def portable(sentence: str, folder: Path) -> str:
    """A sentence as any machine would have it: without places, sizes and hashes; `folder` holds all tests' folders."""
    text = " ".join(sentence.split())
    text = re.sub(rf"{re.escape(str(folder))}/[^/\s'\",;:)]+/", "", text)
    text = re.sub(rf"{re.escape(str(folder))}(/[^/\s'\",;:)]+)?", "FOLDER", text)
    text = text.replace(f"{ROOT}/", "").replace(str(ROOT), "FOLDER")
    text = re.sub(r"[\d.]+ ([KMG]i?B) (free|left)", r"… \1 \2", text)
    text = re.sub(r"\b(?=[a-f]*\d)(?=\d*[a-f])[0-9a-f]{12,64}\b|0x[0-9a-f]+", "…", text)
    text = re.sub(r"(on this machine; it has) [\w, :]+", r"\1 …", text)
    return text if len(text) <= LONGEST else text[:LONGEST] + " …"


def given_to(item: Any) -> str:
    """What a test calls the input: words of a command's line, texts or the id of its parameters, else its own name."""
    params = item.callspec.params if hasattr(item, "callspec") else {}
    given = [value for name, value in params.items() if name not in EXPECTED]
    if not given:
        return str(item.originalname).removeprefix("test_").replace("_", " ")
    lines = [" ".join(map(str, value)) for value in given if isinstance(value, list | tuple)]
    if lines:
        return f"`{' '.join(lines)}`" if any(lines) else "nothing"
    texts = [value for value in given if isinstance(value, str)]
    told = " ".join(texts) if texts and len(given) < len(params) else item.callspec.id.rstrip("-")
    return " ".join(told.split())


def in_table(text: str) -> set[tuple[str, str]]:
    """Command and line of every row of a table."""
    found, command = set(), ""
    for line in text.splitlines():
        if line.startswith("## "):
            command = line[3:].strip("`")
        elif line.startswith("| ") and line != COLUMNS[0]:
            found.add((command, line))
    return found


def is_whole(session: Any) -> bool:
    """Whether all bad inputs are given in a pytest session, and none has failed so far: what is noted is the table."""
    asked, files = session.config.option, Path(__file__).parent.rglob("test_*.py")
    noting = {path for path in files if 'usefixtures("noted")' in path.read_text("utf-8")}
    given = {item.path for item in session.items if "noted" in getattr(item, "fixturenames", ())}
    some = asked.keyword or asked.markexpr or "::" in "".join(session.config.args)
    return noting <= given and not some and not session.testsfailed


def refuse_unknown(rows: Iterable[Row], text: str) -> None:
    """AssertionError with the rows that are not in a table, and how to write it anew."""
    known = in_table(text)
    unknown = [f"{row.command}: {row.line}" for row in rows if (row.command, row.line) not in known]
    assert not unknown, "not in docs/errors.md, which `python -m pytest --write-errors` writes anew:\n" + "\n".join(
        unknown
    )


def as_table(rows: Iterable[tuple[str, str]]) -> str:
    """The file: a section a command, its rows in order."""
    by_command: dict[str, list[str]] = {}
    for command, line in sorted(rows, key=lambda row: (row[0] == ANY, *row)):
        by_command.setdefault(command, []).append(line)
    num = sum(map(len, by_command.values()))
    parts = [HEAD.format(longest=LONGEST, num=num)]
    for command, lines in by_command.items():
        title = command if command == ANY else f"`{command}`"
        parts.append("\n".join([f"## {title}\n", *COLUMNS, *lines]))
    return "\n".join(part + "\n" for part in parts)
