"""Stage 1: four classes, their sub-classes and the fine categories, ours as shipped or expanded by a language model."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from bench.records import read_json
from l2p.errors import InputError
from reproduce.prompts.replies import Model, read_reply

SEED_FILE = Path(__file__).parent / "data" / "taxonomy.json"
ASKED_AT_ONCE = 20  # new categories in one question


@dataclass(frozen=True, kw_only=True)
class Group:
    """Fine categories (`subjects`) of one sub-class that share what can be said of them.

    A subject in the plural begins with `*`. Any subject, act, place and detail of a group may stand together; `light`
    and `view` are keys of the wording's lights and views. A group with `inscriptions` (sentences with {} for the
    quoted text) shows text to be rendered, out of `english` and `chinese`.
    """

    major: str
    sub: str
    name: str
    light: str
    view: str
    subjects: tuple[str, ...]
    modifiers: tuple[str, ...]
    acts: tuple[str, ...]
    places: tuple[str, ...]
    details: tuple[str, ...]
    inscriptions: tuple[str, ...] = ()
    english: tuple[str, ...] = ()
    chinese: tuple[str, ...] = ()


def load_taxonomy(path: str | Path = SEED_FILE) -> list[Group]:
    """The groups in a file: ours by default, or one that `expand` wrote. ValueError names a group that is not whole."""
    groups = []
    for row in read_json(path):
        values: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in row.items()}
        try:
            groups.append(
                Group(major=values.pop("class"), sub=values.pop("subclass"), name=values.pop("group"), **values)
            )
        except (KeyError, TypeError) as error:
            raise InputError(f"{path}: the group {row.get('group')!r} cannot be read ({error})") from error
    return groups


def to_rows(groups: Sequence[Group]) -> list[dict[str, Any]]:
    """The groups as `load_taxonomy` reads them."""
    named = {"major": "class", "sub": "subclass", "name": "group"}
    return [{named.get(key, key): value for key, value in asdict(group).items()} for group in groups]


def num_categories(groups: Sequence[Group]) -> int:
    """How many fine categories there are."""
    return sum(len(group.subjects) for group in groups)


def expand(groups: Sequence[Group], model: Model, num: int, max_rounds: int = 10) -> list[Group]:
    """Ask a model for more subjects of every group until there are `num` in all.

    Raises ValueError when `max_rounds` of questions to all groups have not sufficed.
    """
    grown = list(groups)
    for _ in range(max_rounds):
        if num_categories(grown) >= num:
            return grown
        replies = model([_question(group) for group in grown])
        taken = {subject for group in grown for subject in group.subjects}
        for i, reply in enumerate(replies):
            new = [subject for subject in _subjects(reply) if subject not in taken]
            taken.update(new)
            grown[i] = replace(grown[i], subjects=(*grown[i].subjects, *dict.fromkeys(new)))
    if num_categories(grown) < num:
        raise InputError(
            f"the model gave {num_categories(grown)} categories in {max_rounds} rounds, {num} were wanted: "
            "try another model, or a smaller --expand"
        )
    return grown


def _question(group: Group) -> str:
    return (
        f"List {ASKED_AT_ONCE} more fine categories for {group.major} / {group.sub} / {group.name}, of the kind of: "
        f"{', '.join(subject.lstrip('*') for subject in group.subjects)}. Each must be a countable noun phrase of "
        "one to four words in the singular, without article, that can also be described as "
        f"'{group.acts[0]} {group.places[0]}'. "
        'No brands, no real people, nothing unsafe. Answer with JSON only: {"categories": ["...", "..."]}'
    )


def _subjects(reply: str) -> list[str]:
    """The usable noun phrases of a reply; none of a reply that cannot be read."""
    found = read_reply(reply, "categories")
    names = [name.strip() for name in found if isinstance(name, str)] if isinstance(found, list) else []
    return [name for name in names if 0 < len(name.split()) <= 5 and json.dumps(name, ensure_ascii=False)[1:-1] == name]
