"""What each prompt is to be about, drawn by seed: the same for every writer."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

from bench.records import read_json
from reproduce.prompts.taxonomy import Group

SIMPLE_SHARE = 0.3
CHINESE_SHARE = 0.3  # of the texts to be rendered, where a group has both languages
OPENINGS = ("medium", "place", "view", "light", "subject", "picture")
FLAT_OPENINGS = ("subject", "picture", "request", "place")


@dataclass(frozen=True, kw_only=True)
class Brief:
    """The order for one prompt. `view`, `light` and `style` are (phrase, sentence); `text` is to be rendered."""

    number: int
    group: Group
    subject: str
    kind: Literal["simple", "detailed"]
    opening: str
    view: tuple[str, str]
    light: tuple[str, str] | None
    style: tuple[str, str] | None
    is_camera: bool
    text: str | None
    seed: str

    @property
    def category(self) -> str:
        """The category's path: class/sub-class/fine category."""
        return f"{self.group.major}/{self.group.sub}/{self.subject.lstrip('*')}"


Writer = Callable[[Sequence[Brief]], list[tuple[str, str | None]]]
"""Briefs in; for each the prompt and, where a reply held none, the reply itself."""


@cache
def wording() -> dict[str, Any]:
    """The lights, views and styles that ship."""
    return read_json(Path(__file__).parent / "data" / "wording.json")


def draw_brief(groups: Sequence[Group], seed: int, number: int) -> Brief:
    """The `number`-th brief: every fine category comes once before any comes again."""
    categories = _categories(tuple(groups))
    order = _order(len(categories), seed, number // len(categories))
    group, subject = categories[order[number % len(categories)]]
    own_seed = f"{seed}-{number}"
    generator = random.Random(own_seed)
    lights, styles = wording()["lights"][group.light], wording()["styles"]
    style = generator.randrange(len(styles))
    is_flat = group.light == "flat"
    return Brief(
        number=number,
        group=group,
        subject=subject,
        kind="simple" if generator.random() < SIMPLE_SHARE else "detailed",
        opening=generator.choice(FLAT_OPENINGS if is_flat else OPENINGS),
        view=tuple(generator.choice(wording()["views"][group.view])),
        light=None if is_flat else tuple(generator.choice(lights)),
        style=None if is_flat else tuple(styles[style]),
        is_camera=style < wording()["camera_styles"],
        text=_text(group, generator) if group.inscriptions else None,
        seed=own_seed,
    )


@cache
def _categories(groups: tuple[Group, ...]) -> list[tuple[Group, str]]:
    return [(group, subject) for group in groups for subject in group.subjects]


@cache
def _order(num: int, seed: int, turn: int) -> list[int]:
    return random.Random(f"order-{seed}-{turn}").sample(range(num), num)


def _text(group: Group, generator: random.Random) -> str:
    is_chinese = bool(group.chinese) and (not group.english or generator.random() < CHINESE_SHARE)
    return generator.choice(group.chinese if is_chinese else group.english)
