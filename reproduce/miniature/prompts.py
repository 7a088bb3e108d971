"""The small world's language: GenEval prompts with their metadata, dense prompts, suites, and the held-out pairs.

A GenEval entry is the dict of the official file: `tag`, `include`, optional `exclude`, `prompt`.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

import numpy as np
from PIL import Image

from bench.geneval.rules import COLORS, RELATIONS, TASKS
from l2p.errors import InputError
from reproduce.miniature.scenes import (
    BACKGROUNDS,
    HELD_OUT_PAIRS,
    SHAPES,
    Scene,
    SceneObject,
    dense_scene,
    task_scene,
)
from reproduce.miniature.scenes import relation as scene_relation

COUNT_WORDS = {2: "two", 3: "three", 4: "four"}
PLURALS = {shape: shape + ("es" if shape.endswith("s") else "s") for shape in SHAPES}
MAX_SEQUENCE_LENGTH = 24  # tokens of the longest dense prompt, end token included


def with_article(noun: str) -> str:
    """The noun phrase with "a" or "an" before it."""
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def _clause(shape: str, count: int = 1, color: str | None = None) -> dict:
    return {"class": shape, "count": count} | ({"color": color} if color else {})


def single_object(shape: str) -> dict:
    """GenEval's "single_object" entry."""
    return {"tag": "single_object", "include": [_clause(shape)], "prompt": f"a photo of {with_article(shape)}"}


def two_object(first: str, second: str) -> dict:
    """GenEval's "two_object" entry."""
    text = f"a photo of {with_article(first)} and {with_article(second)}"
    return {"tag": "two_object", "include": [_clause(first), _clause(second)], "prompt": text}


def counting(shape: str, count: int) -> dict:
    """GenEval's "counting" entry: exactly `count`, one more is excluded."""
    text = f"a photo of {COUNT_WORDS[count]} {PLURALS[shape]}"
    entry = {"tag": "counting", "include": [_clause(shape, count)]}
    return entry | {"exclude": [_clause(shape, count + 1)], "prompt": text}


def colors(color: str, shape: str) -> dict:
    """GenEval's "colors" entry."""
    text = f"a photo of {with_article(color)} {shape}"
    return {"tag": "colors", "include": [_clause(shape, color=color)], "prompt": text}


def position(subject: str, relation: str, reference: str) -> dict:
    """GenEval's "position" entry; the reference object stands first in `include`, as in the official file."""
    include = [_clause(reference), _clause(subject) | {"position": [relation, 0]}]
    text = f"a photo of {with_article(subject)} {relation} {with_article(reference)}"
    return {"tag": "position", "include": include, "prompt": text}


def color_attr(first_color: str, first: str, second_color: str, second: str) -> dict:
    """GenEval's "color_attr" entry."""
    include = [_clause(first, color=first_color), _clause(second, color=second_color)]
    text = f"a photo of {with_article(first_color)} {first} and {with_article(second_color)} {second}"
    return {"tag": "color_attr", "include": include, "prompt": text}


def task_entry(scene: Scene, task: str) -> dict:
    """The GenEval entry of `task` that a scene from `task_scene(rng, task, layout)` satisfies, whatever the layout."""
    first, second = scene.objects[0], scene.objects[-1]
    if task == "single_object":
        return single_object(first.shape)
    if task == "two_object":
        return two_object(first.shape, second.shape)
    if task == "counting":
        return counting(first.shape, len(scene.objects))
    if task == "colors":
        return colors(first.color, first.shape)
    if task == "position":
        return position(first.shape, scene_relation(first, second) or "", second.shape)
    return color_attr(first.color, first.shape, second.color, second.shape)


def groups(scene: Scene) -> list[tuple[SceneObject, int]]:
    """The scene's objects by kind (shape and colour) in order: one object of each kind and how many there are."""
    counts: dict[tuple[str, str], list[SceneObject]] = {}
    for item in scene.objects:
        counts.setdefault((item.shape, item.color), []).append(item)
    return [(items[0], len(items)) for items in counts.values()]


def noun_phrase(item: SceneObject, count: int, *, size: str | None) -> str:
    """ "a large red circle", "three green stars"."""
    words = " ".join(word for word in (size, item.color, item.shape if count == 1 else PLURALS[item.shape]) if word)
    return with_article(words) if count == 1 else f"{COUNT_WORDS[count]} {words}"


def dense_prompt(scene: Scene) -> str:
    """Two to four short sentences that say everything: kinds, counts, sizes, colours, one relation, the background.

    A function of the scene alone, so that a scene's true answers are known. Sizes are said where there are at most
    three kinds and a kind's objects agree; a relation of the first two kinds where both are single and it is clear.
    """
    kinds = groups(scene)
    by_kind = {
        (item.shape, item.color): {o.size for o in scene.objects if (o.shape, o.color) == (item.shape, item.color)}
        for item, _ in kinds
    }
    phrases = []
    for item, count in kinds:
        sizes = by_kind[item.shape, item.color]
        size = next(iter(sizes)) if len(sizes) == 1 and len(kinds) <= 3 else None
        phrases.append(noun_phrase(item, count, size=size))
    related = None
    if len(kinds) in (2, 3) and kinds[0][1] == kinds[1][1] == 1:
        related = scene_relation(kinds[0][0], kinds[1][0])
    if related:
        phrases[:2] = [f"{phrases[0]} {related} {phrases[1]}"]
    return " . ".join([*phrases, f"the background is {scene.background} ."])


# How many values each of `phrase_labels`' columns has, "nothing" included.
PHRASE_CLASSES = (len(SHAPES) + 1, len(COLORS) + 1, len(RELATIONS) + 1, 5, 3, 5, len(BACKGROUNDS) + 1)


def phrase_labels(text: str) -> np.ndarray:
    """What each word's phrase says, uint8 [24, 7]: shape, colour, side, count, size, order, background; 0 for nothing.

    A phrase ends at its shape's word; the order counts phrases from 1. Side: 1 + the index in RELATIONS of where its
    object lies in a related pair. What follows the last phrase tells the background.
    """
    singular = {plural: shape for shape, plural in PLURALS.items()} | {shape: shape for shape in SHAPES}
    words = text.split()
    labels = np.zeros((MAX_SEQUENCE_LENGTH, len(PHRASE_CLASSES)), np.uint8)
    start, reference_side = 0, 0  # where the phrase begins; the side of its object if it is a relation's second
    order = 0
    for end, word in enumerate(words):
        if word not in singular:
            continue
        phrase = words[start : end + 1]
        following = " ".join(words[end + 1 : end + 3])
        related = next((i for i, name in enumerate(RELATIONS) if following.startswith(name)), None)
        side = reference_side if related is None else related + 1
        reference_side = 0 if related is None else (related ^ 1) + 1  # left and right, above and below are neighbours
        color = next((COLORS.index(w) + 1 for w in phrase if w in COLORS), 0)
        count = next((n for n, w in COUNT_WORDS.items() if w in phrase), 1)
        size = next((i for i, w in enumerate(("small", "large"), start=1) if w in phrase), 0)
        order += 1
        labels[start : end + 1] = (SHAPES.index(singular[word]) + 1, color, side, count, size, order, 0)
        start = end + 1
    labels[start : len(words), -1] = next((BACKGROUNDS.index(w) + 1 for w in words[start:] if w in BACKGROUNDS), 0)
    return labels


def has_held_out_pair(kinds: list[tuple[str, str]]) -> bool:
    """Whether any (colour, shape) of a picture or prompt is one of the six held-out pairs."""
    return any(kind in HELD_OUT_PAIRS for kind in kinds)


def _entry_kinds(entry: dict) -> list[tuple[str, str]]:
    return [(clause.get("color", ""), clause["class"]) for clause in entry["include"]]


def all_entries(task: str) -> list[dict]:
    """Every distinct prompt of one task, in a fixed order (6, 30, 18, 60, 120 and 2,700 entries of the six tasks)."""
    pairs = list(itertools.permutations(SHAPES, 2))
    entries = {
        "single_object": lambda: [single_object(s) for s in SHAPES],
        "two_object": lambda: [two_object(a, b) for a, b in pairs],
        "counting": lambda: [counting(s, n) for s in SHAPES for n in COUNT_WORDS],
        "colors": lambda: [colors(c, s) for c in COLORS for s in SHAPES],
        "position": lambda: [position(a, r, b) for a, b in pairs for r in RELATIONS],
        "color_attr": lambda: [color_attr(c, a, d, b) for a, b in pairs for c in COLORS for d in COLORS if c != d],
    }
    if task not in entries:
        raise InputError(f"unknown task {task!r}; known: {', '.join(entries)}")
    return entries[task]()


def geneval_suite(num_per_task: int, seed: int) -> list[dict]:
    """At most `num_per_task` distinct prompts of each task, chosen by `seed`, in GenEval's metadata format.

    Tasks with fewer distinct prompts give all of theirs. Held-out pairs (claim C9) have their own suite.
    """
    rng, suite = np.random.default_rng(seed), []
    for task in TASKS:
        entries = [entry for entry in all_entries(task) if not has_held_out_pair(_entry_kinds(entry))]
        chosen = rng.permutation(len(entries))[:num_per_task]
        suite += [entries[i] for i in sorted(chosen)]
    return suite


def heldout_suite() -> list[dict]:
    """The six held-out pairs as "colors" entries, each with a tag of its own ("purple circle"): claim C9."""
    return [colors(color, shape) | {"tag": f"{color} {shape}"} for color, shape in HELD_OUT_PAIRS]


CORPUS_SHARE = {
    "single_object": 0.06,
    "two_object": 0.12,
    "counting": 0.18,
    "colors": 0.12,
    "position": 0.2,
    "color_attr": 0.17,
}
USUAL_DENSE_SHARE = 1 - sum(CORPUS_SHARE.values())


def corpus_prompts(num: int, seed: int) -> list[dict]:
    """`num` prompts for the transfer corpus, {"text", "category"}: six tasks by `CORPUS_SHARE`, the rest dense.

    Texts come from scenes, so that their mix of shapes and colours is the world's own; a text may come again. They say
    nothing of a layout that is left open, so both worlds have the same ones. None names a held-out pair.
    """
    return [row for row, _ in corpus_scenes(num, seed)]


def denser_corpus_prompts(num: int, seed: int) -> list[dict]:
    """`corpus_prompts` with dense prompts for half of them, the six tasks in their shares of the rest."""
    return [row for row, _ in corpus_scenes(num, seed, dense=0.5)]


def rendered(num: int, seed: int, resolution: int) -> Callable[[int], Image.Image]:
    """The scenes that `corpus_prompts` told, drawn without a model: from a prompt's number to its picture."""
    from reproduce.miniature.render import render

    scenes = [scene for _, scene in corpus_scenes(num, seed)]
    return lambda number: Image.fromarray(render(scenes[number], resolution))


def rendered_suite(resolution: int, num_per_task: int, seed: int) -> Iterator[Image.Image]:
    """Scenes of GenEval's tasks drawn without a model, four times `num_per_task` of each: real pictures for FID."""
    from reproduce.miniature.render import render

    rng = np.random.default_rng((seed, resolution))
    for task in TASKS:
        for _ in range(4 * num_per_task):
            yield Image.fromarray(render(task_scene(rng, task), resolution))


def corpus_scenes(num: int, seed: int, dense: float = USUAL_DENSE_SHARE) -> list[tuple[dict, Scene]]:
    """The rows of `corpus_prompts`, each with the scene that it tells; `dense` is the share of dense prompts."""
    rng = np.random.default_rng(seed)
    rows: list[tuple[dict, Scene]] = []
    tasks = np.array([*CORPUS_SHARE.values()]) * (1 - dense) / (1 - USUAL_DENSE_SHARE)
    categories, shares = [*CORPUS_SHARE, "dense"], [*tasks, dense]
    while len(rows) < num:
        category = categories[rng.choice(len(shares), p=shares)]
        if category == "dense":
            scene = dense_scene(rng)
            text, said = dense_prompt(scene), [(o.color, o.shape) for o in scene.objects]
        else:
            scene = task_scene(rng, category)
            entry = task_entry(scene, category)
            text, said = entry["prompt"], _entry_kinds(entry)
        if not has_held_out_pair(said):
            rows.append(({"text": text, "category": category}, scene))
    return rows


def vocabulary() -> list[str]:
    """Every word that a prompt can hold, with the tokenizer's special tokens first."""
    words = ["a", "an", "photo", "of", "and", "the", "is", "background", "."]
    words += ["left", "right", "above", "below", "small", "large", *BACKGROUNDS]
    words += [*COUNT_WORDS.values(), *SHAPES, *PLURALS.values(), *COLORS]
    return ["<pad>", "</s>", "<unk>", *dict.fromkeys(words)]
