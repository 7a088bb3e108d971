"""GenEval's prompts: the official 553 from their seed, suites of other seeds, checks of any suite, the folders."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bench.geneval.rules import COLORS, RELATIONS
from bench.records import Prompt, write_jsonl
from l2p.errors import InputError

Entry = dict[str, Any]
"""A line of GenEval's prompt file: `tag`, `include`, optional `exclude`, `prompt`."""

_NAMES = (
    "person,bicycle,car,motorcycle,airplane,bus,train,truck,boat,traffic light,fire hydrant,stop sign,parking meter,"
    "bench,bird,cat,dog,horse,sheep,cow,elephant,bear,zebra,giraffe,backpack,umbrella,handbag,tie,suitcase,frisbee,"
    "skis,snowboard,sports ball,kite,baseball bat,baseball glove,skateboard,surfboard,tennis racket,bottle,wine glass,"
    "cup,fork,knife,spoon,bowl,banana,apple,sandwich,orange,broccoli,carrot,hot dog,pizza,donut,cake,chair,couch,"
    "potted plant,bed,dining table,toilet,tv,laptop,computer mouse,tv remote,computer keyboard,cell phone,microwave,"
    "oven,toaster,sink,refrigerator,book,clock,vase,scissors,teddy bear,hair drier,toothbrush"
)
OBJECT_NAMES = tuple(_NAMES.split(","))
"""COCO's 80 classes in COCO's order, under GenEval's names (three differ: computer mouse, tv remote, keyboard)."""

OFFICIAL_SHA256 = "5c48e0813e812e3c373fa5c8ed07a8f0a483be30272b4427b0559c8048e67c13"
"""Of the 553 published lines (`suite_sha256`)."""

IMAGES_PER_PROMPT = 4
COUNT_WORDS = {2: "two", 3: "three", 4: "four"}


def generate(seed: int = 43, num_per_task: int = 100) -> list[Entry]:
    """A suite drawn as GenEval's own was: one generator for all tasks in their order, then duplicates removed.

    The defaults give the official 553 entries. Raises ValueError for a number below 1.
    """
    if num_per_task < 1:
        raise InputError(f"num_per_task must be at least 1; got {num_per_task}.")
    generator = np.random.default_rng(seed)
    entries = _single_objects(generator, num_per_task)
    for draw in (_two_object, _counting, _colors, _position, _color_attr):
        entries += [draw(generator) for _ in range(num_per_task)]
    return list({json.dumps(entry): entry for entry in entries}.values())


def _with_article(name: str) -> str:
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"


def _plural(name: str) -> str:
    return f"{name}{'es' if name.endswith('s') else 's'}"  # "toothbrushs" is upstream's own


def _clause(name: str, count: int = 1, **more: Any) -> dict[str, Any]:
    return {"class": name, "count": count, **more}


def _pair(generator: np.random.Generator) -> list[str]:
    return [OBJECT_NAMES[i] for i in generator.choice(len(OBJECT_NAMES), size=2, replace=False)]


def _pick(generator: np.random.Generator, names: Sequence[str]) -> str:
    return names[generator.choice(len(names))]


def _single_objects(generator: np.random.Generator, number: int) -> list[Entry]:
    order = generator.choice(len(OBJECT_NAMES), size=min(number, len(OBJECT_NAMES)), replace=False)
    names = [OBJECT_NAMES[i] for i in order]
    return [
        {"tag": "single_object", "include": [_clause(name)], "prompt": f"a photo of {_with_article(name)}"}
        for name in names
    ]


def _two_object(generator: np.random.Generator) -> Entry:
    first, second = _pair(generator)
    prompt = f"a photo of {_with_article(first)} and {_with_article(second)}"
    return {"tag": "two_object", "include": [_clause(first), _clause(second)], "prompt": prompt}


def _counting(generator: np.random.Generator) -> Entry:
    name = _pick(generator, OBJECT_NAMES)
    count = int(generator.integers(2, 4, endpoint=True))
    prompt = f"a photo of {COUNT_WORDS[count]} {_plural(name)}"
    return {
        "tag": "counting",
        "include": [_clause(name, count)],
        "exclude": [_clause(name, count + 1)],
        "prompt": prompt,
    }


def _colors(generator: np.random.Generator) -> Entry:
    name = _pick(generator, OBJECT_NAMES[1:])  # a person has no colour
    color = _pick(generator, COLORS)
    prompt = f"a photo of {_with_article(color)} {name}"
    return {"tag": "colors", "include": [_clause(name, color=color)], "prompt": prompt}


def _position(generator: np.random.Generator) -> Entry:
    name, reference = _pair(generator)
    relation = _pick(generator, RELATIONS)
    prompt = f"a photo of {_with_article(name)} {relation} {_with_article(reference)}"
    return {
        "tag": "position",
        "include": [_clause(reference), _clause(name, position=[relation, 0])],
        "prompt": prompt,
    }


def _color_attr(generator: np.random.Generator) -> Entry:
    objects = generator.choice(len(OBJECT_NAMES) - 1, size=2, replace=False) + 1
    colors = generator.choice(len(COLORS), size=2, replace=False)
    pairs = [(COLORS[color], OBJECT_NAMES[index]) for color, index in zip(colors, objects, strict=True)]
    described = " and ".join(f"{_with_article(color)} {name}" for color, name in pairs)
    include = [_clause(name, color=color) for color, name in pairs]
    return {"tag": "color_attr", "include": include, "prompt": f"a photo of {described}"}


def suite_sha256(entries: Sequence[Mapping[str, Any]]) -> str:
    """SHA-256 of the entries as JSON Lines, as the published file writes them."""
    lines = "".join(json.dumps(entry) + "\n" for entry in entries)
    return hashlib.sha256(lines.encode()).hexdigest()


def as_prompts(entries: Sequence[Entry]) -> list[Prompt]:
    """Entries as prompts with the folder's five digits as id; ValueError names an entry that `check_entry` refuses."""
    prompts = []
    for number, entry in enumerate(entries):
        check_entry(entry, f"prompt {number:05}")
        prompts.append(Prompt(id=f"{number:05}", text=entry["prompt"], category=entry["tag"], spec=entry))
    return prompts


def write_suite(directory: Path | str, entries: Sequence[Entry] | None = None) -> int:
    """Lay out the official folders, `00000/metadata.jsonl` and an empty `00000/samples/`; returns the number written.

    `entries` defaults to the official ones and also lies in `evaluation_metadata.jsonl`, so that a missing folder is
    noticed. Raises ValueError when an entry is malformed or a folder already holds another one.
    """
    directory = Path(directory)
    prompts = as_prompts(generate() if entries is None else entries)
    for prompt in prompts:
        path = directory / prompt.id / "metadata.jsonl"
        line = json.dumps(prompt.spec)
        if path.exists() and path.read_text(encoding="utf-8").strip() != line:
            raise InputError(f"{path} holds another prompt: write the suite into an empty folder.")
    for prompt in prompts:
        (directory / prompt.id / "samples").mkdir(parents=True, exist_ok=True)
        write_jsonl(directory / prompt.id / "metadata.jsonl", [prompt.spec])
    write_jsonl(directory / "evaluation_metadata.jsonl", [prompt.spec for prompt in prompts])
    return len(prompts)


def check_entry(entry: Any, where: str) -> None:
    """ValueError naming `where` and the fault, unless `entry` can be judged; its text may be a rewritten one."""
    if not isinstance(entry, dict) or not isinstance(entry.get("prompt"), str) or not isinstance(entry.get("tag"), str):
        raise InputError(f"{where}: a GenEval entry is an object with `tag`, `include` and `prompt`.")
    include, exclude = entry.get("include"), entry.get("exclude", [])
    if not isinstance(include, list) or not include or not isinstance(exclude, list):
        raise InputError(f"{where}: `include` must be a list of at least one object, `exclude` a list.")
    for number, clause in enumerate([*include, *exclude]):
        fault = _clause_fault(clause, min(number, len(include)))
        if fault:
            raise InputError(f"{where} ({entry['prompt']!r}): {fault}.")


def is_rewritten(entry: Entry) -> bool:
    """Whether the text does not name all that the entry asks for, class, colour and relation: it is no suite's own.

    So it is with prompts that a language model rewrote ("A sleek remote control" for a tv remote).
    """
    asked = [*entry["include"], *entry.get("exclude", ())]
    words = [word for clause in asked for word in (clause["class"], clause.get("color"))]
    words += [clause["position"][0] for clause in asked if "position" in clause]
    return not all(word in entry["prompt"] for word in words if word)


def _clause_fault(clause: Any, number: int) -> str | None:
    """What is wrong with one clause; `number` is how many clauses stand before it."""
    if not isinstance(clause, dict) or not isinstance(clause.get("class"), str):
        return f"{clause!r} is no object with a `class`"
    count = clause.get("count")
    if not isinstance(count, int) or isinstance(count, bool) or count < 1:
        return f"`count` must be a whole number of at least 1; got {count!r}"
    checks: list[Callable[[], str | None]] = [
        lambda: _color_fault(clause["color"]) if "color" in clause else None,
        lambda: _position_fault(clause["position"], number) if "position" in clause else None,
    ]
    return next((fault for check in checks if (fault := check())), None)


def _color_fault(color: Any) -> str | None:
    return None if color in COLORS else f"unknown colour {color!r}; known are {', '.join(COLORS)}"


def _position_fault(position: Any, number: int) -> str | None:
    if not isinstance(position, (list, tuple)) or len(position) != 2 or position[0] not in RELATIONS:
        return f"`position` must be [relation, index] with a relation of {', '.join(RELATIONS)}; got {position!r}"
    target = position[1]
    if not isinstance(target, int) or isinstance(target, bool) or not 0 <= target < number:
        return f"`position` must point at an earlier object; got {target!r}"
    return None
