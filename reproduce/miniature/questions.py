"""The miniature's DPG-Bench: dense prompts with question graphs, made by grammar from scenes: true answers are known.

A question file has DPG-Bench's own layout. Of each kind (shape and colour) is asked: is it there (entity), its colour,
its size where the prompt says one, its shape by colour (attribute), how many (other); then the relation, the
background (global) and the number of all objects (other).
"""

from __future__ import annotations

import csv
import io
import itertools
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bench.geneval.rules import COLORS, RELATIONS, relations
from l2p.errors import InputError
from reproduce.miniature.prompts import COUNT_WORDS, PLURALS, dense_prompt, groups, has_held_out_pair, with_article
from reproduce.miniature.render import box
from reproduce.miniature.scenes import BACKGROUNDS, SHAPES, Scene, SceneObject, dense_scene

COLUMNS = (
    "item_id",
    "text",
    "keywords",
    "proposition_id",
    "dependency",
    "category_broad",
    "category_detailed",
    "tuple",
    "question_natural_language",
)
COUNTS = {1: "one"} | COUNT_WORDS
_SHAPE, _RELATION = "|".join(SHAPES), "|".join(RELATIONS)
_NOUN = f"(?P<noun>{'|'.join([*PLURALS.values(), *SHAPES])})"


@dataclass(frozen=True, kw_only=True)
class Asked:
    """One question before it has a number: L1 and L2 class, what it is about, and the shapes whose entity it needs."""

    broad: str
    detailed: str
    about: str
    question: str
    needs: tuple[str, ...] = ()


def scene_questions(scene: Scene) -> list[Asked]:
    """All questions of a scene's dense prompt, entities first; the true answer to each is yes."""
    kinds = groups(scene)
    related = dense_relation(scene)
    return [
        *(_entity(item, count) for item, count in kinds),
        *(asked for item, count in kinds for asked in _attributes(scene, item, count)),
        *([_relation(*related)] if related else []),
        Asked(
            broad="global",
            detailed="background",
            about=f"background, {scene.background}",
            question=f"Is the background {scene.background}?",
        ),
        *(_count(item, count) for item, count in kinds if count > 1),
        *([_total(len(scene.objects))] if len(kinds) > 1 else []),
    ]


def _noun(item: SceneObject, count: int) -> str:
    return item.shape if count == 1 else PLURALS[item.shape]


def _entity(item: SceneObject, count: int) -> Asked:
    question = f"Is there {with_article(item.shape)}?" if count == 1 else f"Are there {PLURALS[item.shape]}?"
    return Asked(broad="entity", detailed="whole", about=_noun(item, count), question=question)


def _attributes(scene: Scene, item: SceneObject, count: int) -> Iterator[Asked]:
    noun, verb = _noun(item, count), "Is" if count == 1 else "Are"
    said = [("color", item.color)]
    size = _size(scene, item)
    if size and f"{size} {item.color} {noun}" in dense_prompt(scene):
        said.append(("size", size))
    for detailed, word in said:
        about, question = f"{noun}, {word}", f"{verb} the {noun} {word}?"
        yield Asked(broad="attribute", detailed=detailed, about=about, question=question, needs=(item.shape,))
    if sum(other.color == item.color for other, _ in groups(scene)) == 1:
        what = (
            f"the {item.color} object {with_article(item.shape)}" if count == 1 else f"the {item.color} objects {noun}"
        )
        yield Asked(
            broad="attribute",
            detailed="shape",
            about=f"{item.color} object, {item.shape}",
            question=f"{verb} {what}?",
            needs=(item.shape,),
        )


def _size(scene: Scene, item: SceneObject) -> str:
    sizes = {o.size for o in scene.objects if (o.shape, o.color) == (item.shape, item.color)}
    return next(iter(sizes)) or "" if len(sizes) == 1 else ""


def dense_relation(scene: Scene) -> tuple[SceneObject, str, SceneObject] | None:
    """The relation that the scene's dense prompt tells, as (subject, relation, reference)."""
    match = re.search(rf"({_SHAPE}) ({_RELATION}) an? (?:\w+ )*?({_SHAPE})\b", dense_prompt(scene))
    if match is None:
        return None
    by_shape = {item.shape: item for item in scene.objects}
    return by_shape[match[1]], match[2], by_shape[match[3]]


def _relation(subject: SceneObject, relation: str, reference: SceneObject) -> Asked:
    return Asked(
        broad="relation",
        detailed="spatial",
        about=f"{subject.shape}, {reference.shape}, {relation}",
        question=f"Is the {subject.shape} {relation} the {reference.shape}?",
        needs=(subject.shape, reference.shape),
    )


def _count(item: SceneObject, count: int) -> Asked:
    question = f"Are there exactly {COUNTS[count]} {PLURALS[item.shape]}?"
    about = f"{PLURALS[item.shape]}, {COUNTS[count]}"
    return Asked(broad="other", detailed="count", about=about, question=question, needs=(item.shape,))


def _total(count: int) -> Asked:
    question = f"Are there exactly {COUNTS[count]} objects?"
    return Asked(broad="other", detailed="count", about=f"objects, {COUNTS[count]}", question=question)


def item_rows(item_id: str, scene: Scene) -> list[dict[str, str]]:
    """An item's rows of the question file."""
    asked = scene_questions(scene)
    entity = {a.about: str(i) for i, a in enumerate(asked, 1) if a.broad == "entity"}
    number = {shape: entity.get(shape) or entity.get(PLURALS[shape]) for shape in SHAPES}
    cells = [
        (
            item_id,
            dense_prompt(scene),
            a.about,
            str(i),
            ",".join(str(number[shape]) for shape in a.needs) or "0",
            a.broad,
            a.detailed,
            f"{a.broad} - {a.detailed} ({a.about})",
            a.question,
        )
        for i, a in enumerate(asked, 1)
    ]
    return [dict(zip(COLUMNS, row, strict=True)) for row in cells]


def dpg_scenes(num_items: int, seed: int) -> dict[str, Scene]:
    """Scenes of `num_items` distinct dense prompts by item id; held-out pairs (claim C9) never appear."""
    rng = np.random.default_rng([seed, 30])
    scenes: dict[str, Scene] = {}
    while len(scenes) < num_items:
        scene = dense_scene(rng)
        if not has_held_out_pair([(item.color, item.shape) for item in scene.objects]):
            scenes.setdefault(dense_prompt(scene), scene)
    return {f"mini_{number:03d}": scene for number, scene in enumerate(scenes.values())}


def dpg_suite(num_items: int, seed: int) -> list[dict[str, Any]]:
    """The suite's prompts, {"item_id", "text"}, as a recipe's `Suite` wants them."""
    return [{"item_id": item_id, "text": dense_prompt(scene)} for item_id, scene in dpg_scenes(num_items, seed).items()]


def write_questions(path: Path, num_items: int, seed: int) -> Path:
    """Write the suite's question file in DPG-Bench's CSV layout (temporary name, then renamed); returns its path."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, COLUMNS)
    writer.writeheader()
    for item_id, scene in dpg_scenes(num_items, seed).items():
        writer.writerows(item_rows(item_id, scene))
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_bytes(text.getvalue().encode())
    return temporary.rename(path)


Facts = Callable[[Sequence[SceneObject], str, re.Match], bool]


def _of(objects: Sequence[SceneObject], match: re.Match) -> list[SceneObject]:
    """The objects that the question's noun names, singular or plural."""
    singular = {plural: shape for shape, plural in PLURALS.items()}
    return [item for item in objects if item.shape == singular.get(match["noun"], match["noun"])]


def _every(found: Sequence[SceneObject], holds: Callable[[SceneObject], bool]) -> bool:
    return bool(found) and all(holds(item) for item in found)


def _in_relation(objects: Sequence[SceneObject], match: re.Match) -> bool:
    """Whether some pair of the named shapes stands in the relation, by GenEval's rule on bounding boxes."""
    subjects, references = ([item for item in objects if item.shape == match[group]] for group in ("a", "b"))
    return any(match["relation"] in relations(box(a), box(b)) for a, b in itertools.product(subjects, references))


_NUMBER = {word: number for number, word in COUNTS.items()}
GRAMMAR: dict[str, Facts] = {
    rf"Is there an? {_NOUN}\?": lambda objects, background, m: bool(_of(objects, m)),
    rf"Are there {_NOUN}\?": lambda objects, background, m: bool(_of(objects, m)),
    rf"(Is|Are) the {_NOUN} (?P<color>{'|'.join(COLORS)})\?": lambda objects, background, m: _every(
        _of(objects, m), lambda item: item.color == m["color"]
    ),
    rf"(Is|Are) the {_NOUN} (?P<size>small|large)\?": lambda objects, background, m: _every(
        _of(objects, m), lambda item: item.size == m["size"]
    ),
    rf"(Is|Are) the (?P<color>\w+) objects? (an? )?{_NOUN}\?": lambda objects, background, m: _every(
        [item for item in objects if item.color == m["color"]], lambda item: item in _of(objects, m)
    ),
    rf"Is the (?P<a>{_SHAPE}) (?P<relation>{_RELATION}) the (?P<b>{_SHAPE})\?": lambda objects, background, m: (
        _in_relation(objects, m)
    ),
    rf"Is the background (?P<tone>{'|'.join(BACKGROUNDS)})\?": lambda objects, background, m: background == m["tone"],
    r"Are there exactly (?P<count>\w+) objects\?": lambda objects, background, m: len(objects) == _NUMBER[m["count"]],
    rf"Are there exactly (?P<count>\w+) {_NOUN}\?": lambda objects, background, m: (
        len(_of(objects, m)) == _NUMBER[m["count"]]
    ),
}
_COMPILED = [(re.compile(pattern), facts) for pattern, facts in GRAMMAR.items()]


def is_true(question: str, objects: Sequence[SceneObject], background: str) -> bool:
    """The answer to one question of the grammar about these objects on this background.

    An attribute of a shape holds where every object of that shape has it and there is one. Raises ValueError for a
    question outside the grammar.
    """
    for pattern, facts in _COMPILED:
        if match := pattern.fullmatch(question):
            return facts(objects, background, match)
    raise InputError(
        f"{question!r} is no question of the miniature world; its grammar is reproduce.miniature.questions"
    )
