"""Question files in DPG-Bench's CSV layout (DSG-1k has the same), read and validated row by row.

A question's `dependency` cell holds the ids of its parents ("0": none). Real files are dirty: cells such as "5, right",
questions that name themselves, a later or a missing question as parent, cycles. What is broken beyond use is an error;
the rest becomes a `Finding`, counted in the summary, and each scoring variant handles it in its own way (`rules.py`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from l2p.errors import InputError
from l2p.tables import csv_rows, read_table_bytes

COLUMNS = ("item_id", "text", "proposition_id", "dependency", "tuple", "question_natural_language")
MALFORMED = ("strict", "skip", "no-parent")  # what to do with a dependency cell that is no list of numbers
FINDINGS = ("malformed dependency", "own id as parent", "later id as parent", "missing parent", "cycle")


@dataclass(frozen=True, kw_only=True)
class Question:
    """One question of one item; `category` is the tuple up to "(" ("entity - whole"), `line` the CSV's, from 1."""

    item_id: str
    proposition_id: int
    text: str
    parents: tuple[int, ...]
    category: str
    line: int

    @property
    def broad_category(self) -> str:
        """The L1 class: the category before its first "-"."""
        return self.category.split("-")[0].strip()


@dataclass(frozen=True, kw_only=True)
class Finding:
    """Something odd in a question file that does not stop the scoring; `kind` is one of FINDINGS."""

    kind: str
    item_id: str
    line: int
    cell: str

    def __str__(self) -> str:
        return f"line {self.line}, item {self.item_id}: {self.kind} in dependency {self.cell!r}"


@dataclass(frozen=True, kw_only=True)
class QuestionFile:
    """A question file: `rows` in the file's order, `items` by id, each item's prompt, and what was odd.

    `skipped` names the items that `malformed="skip"` left out; they stay expected, and unscored.
    """

    path: Path
    sha256: str
    rows: tuple[Question, ...]
    items: dict[str, tuple[Question, ...]]
    prompts: dict[str, str]
    findings: tuple[Finding, ...]
    skipped: tuple[str, ...]
    malformed: str

    def finding_counts(self) -> dict[str, dict[str, int]]:
        """How many questions and items each kind of finding touches, every kind listed."""
        return {
            kind: {"questions": len(found), "items": len({finding.item_id for finding in found})}
            for kind in FINDINGS
            for found in [[finding for finding in self.findings if finding.kind == kind]]
        }


def read_questions(path: str | Path, *, malformed: str = "no-parent") -> QuestionFile:
    """Read a question CSV (plain or gzip, with or without byte order mark).

    `malformed` says what a dependency cell such as "5, right" means: an error ("strict"), the item unscored ("skip") or
    a question without parents ("no-parent"). Raises FileNotFoundError, and ValueError for a missing column, an unusable
    item id, a proposition id that is no positive number, an id twice in an item, an empty question or a malformed cell
    under "strict"; each names the line.
    """
    if malformed not in MALFORMED:
        raise InputError(f"unknown way to treat malformed cells {malformed!r}; known: {', '.join(MALFORMED)}")
    path = Path(path)
    content = read_table_bytes(path)
    rows: list[Question] = []
    findings: list[Finding] = []
    prompts: dict[str, str] = {}
    for line, row in csv_rows(path, COLUMNS, content):
        question, finding = _question(row, line, path)
        if finding and malformed == "strict":
            raise InputError(
                f"{path}, {finding}: expected numbers like '0' or '1,2'; correct it, or use --malformed skip|no-parent"
            )
        rows.append(question)
        findings += [finding] if finding else []
        prompts.setdefault(question.item_id, row["text"])
    items = _by_item(rows, path)
    skipped = tuple(dict.fromkeys(f.item_id for f in findings)) if malformed == "skip" else ()
    findings += [finding for questions in items.values() for finding in _graph_findings(questions)]
    return QuestionFile(
        path=path,
        sha256=hashlib.sha256(content).hexdigest(),
        rows=tuple(rows),
        items=items,
        prompts=prompts,
        findings=tuple(sorted(findings, key=lambda f: f.line)),
        skipped=skipped,
        malformed=malformed,
    )


def _question(row: dict[str, str], line: int, path: Path) -> tuple[Question, Finding | None]:
    """A row as a Question, and a finding where its dependency cell is malformed (then without parents)."""
    where = f"{path}, line {line}"
    item_id, proposition_id = check_item_id(row["item_id"], where), row["proposition_id"].strip()
    if not _is_number(proposition_id) or int(proposition_id) == 0:
        raise InputError(f"{where}, item {item_id}: proposition_id must be a number from 1, not {proposition_id!r}")
    if not row["question_natural_language"].strip():
        raise InputError(f"{where}, item {item_id}: the question is empty")
    category = row["tuple"].split("(")[0].strip()
    if not category:
        raise InputError(
            f"{where}, item {item_id}: the tuple {row['tuple']!r} names no category such as 'entity - whole (...)'"
        )
    cells = [cell.strip() for cell in row["dependency"].split(",")]
    sound = all(_is_number(cell) for cell in cells)
    question = Question(
        item_id=item_id,
        proposition_id=int(proposition_id),
        text=row["question_natural_language"].strip(),
        parents=tuple(int(cell) for cell in cells if int(cell)) if sound else (),
        category=category,
        line=line,
    )
    finding = Finding(kind="malformed dependency", item_id=item_id, line=line, cell=row["dependency"])
    return question, None if sound else finding


def _is_number(cell: str) -> bool:
    return cell.isascii() and cell.isdigit()


def check_item_id(item_id: str, where: str) -> str:
    """The id, where it can be a file's name in the image folder; ValueError where it could lead out of it.

    Dots inside are allowed; slashes, backslashes, control characters, a leading dot ("..") and empty ids are not.
    """
    if not item_id.strip() or item_id[0] == "." or not item_id.isprintable() or set(item_id) & set("/\\"):
        raise InputError(
            f"{where}: item id {item_id!r} can't name an image: no slash, backslash, control character or leading dot"
        )
    return item_id


def _by_item(rows: list[Question], path: Path) -> dict[str, tuple[Question, ...]]:
    """Questions by item in the file's order; ValueError for an id that comes twice and for no questions."""
    if not rows:
        raise InputError(f"{path} holds no question")
    items: dict[str, dict[int, Question]] = {}
    for row in rows:
        item = items.setdefault(row.item_id, {})
        first = item.setdefault(row.proposition_id, row)
        if first is not row:
            raise InputError(
                f"{path}, line {row.line}, item {row.item_id}: proposition {row.proposition_id} "
                f"stands in line {first.line} already"
            )
    return {item_id: tuple(item.values()) for item_id, item in items.items()}


def _graph_findings(questions: tuple[Question, ...]) -> Iterator[Finding]:
    """Parents that are the question itself, come later, are missing or close a cycle: a finding a question and kind."""
    order = {question.proposition_id: position for position, question in enumerate(questions)}
    looped = cyclic_links(questions)
    for position, question in enumerate(questions):
        own = question.proposition_id
        kinds = {
            "own id as parent": own in question.parents,
            "later id as parent": any(order.get(parent, -1) > position for parent in question.parents),
            "missing parent": any(parent not in order for parent in question.parents),
            "cycle": any((own, parent) in looped and parent != own for parent in question.parents),
        }
        cell = ",".join(map(str, question.parents))
        yield from (
            Finding(kind=kind, item_id=question.item_id, line=question.line, cell=cell)
            for kind, found in kinds.items()
            if found
        )


def cyclic_links(questions: tuple[Question, ...]) -> set[tuple[int, int]]:
    """The links (question, parent) that lie on a cycle, those of a question to itself included."""
    parents = {question.proposition_id: question.parents for question in questions}
    if all(
        parent < child for child, links in parents.items() for parent in links
    ):  # ids that only fall can't come back
        return set()
    above = {child: reachable(parents, child) for child in parents}
    return {
        (child, parent) for child, links in parents.items() for parent in links if child in above.get(parent, set())
    }


def reachable(parents: dict[int, tuple[int, ...]], start: int) -> set[int]:
    """All ids met by following parents from `start`, `start` included; ids without an entry are left out."""
    found, pending = set(), [start]
    while pending:
        node = pending.pop()
        if node in parents and node not in found:
            found.add(node)
            pending.extend(parents[node])
    return found
