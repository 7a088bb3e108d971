"""What the small world contains: random scenes of coloured shapes on a toned background, for each GenEval task.

Lengths are fractions of the image side, so that one scene can be rendered at any resolution. y points down.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, get_args

import numpy as np

from bench.geneval.rules import COLORS, TASKS
from l2p.errors import InputError

# What a prompt leaves open is either drawn one way ("said": a pair without a side stands in the prompt's order, three
# and four that are counted have their places) or any way ("open"). The words are the same in both worlds.
Layout = Literal["said", "open"]
DEFAULT_LAYOUT: Layout = "said"

RESOLUTION = 48  # px: the side at which the world is seen
SHAPES = ("circle", "square", "triangle", "star", "cross", "ring")
BACKGROUNDS = ("dark", "gray", "light")

# Known to the source, absent from the transfer corpus (claim C9); fixed before any result was known.
HELD_OUT_PAIRS = (
    ("purple", "circle"),
    ("orange", "square"),
    ("blue", "triangle"),
    ("green", "star"),
    ("pink", "cross"),
    ("red", "ring"),
)

SMALL_RADIUS, LARGE_RADIUS = 0.148, 0.188  # below: "small", above: "large", between: no size word
BACKGROUND_TONE = {"dark": (0.27, 0.38), "gray": (0.46, 0.58), "light": (0.66, 0.78)}
_SIZE_RADIUS = {"small": (0.118, 0.142), "medium": (0.152, 0.184), "large": (0.194, 0.230)}
_CROWDED_MEDIUM = (0.150, 0.158)  # the medium size that still leaves room for four
_TASK_RADIUS = {1: (0.2, 0.29), 2: (0.18, 0.235), 3: (0.15, 0.185), 4: (0.135, 0.155)}
_MARGIN = 0.02
# Where counted objects stand if the layout is said: one above two, or at the corners. Where they may stand anywhere,
# the mean of three's layouts is four's.
_STANDS = {
    3: np.array([(0.5, 0.27), (0.27, 0.73), (0.73, 0.73)]),
    4: np.array([(0.27, 0.27), (0.73, 0.27), (0.27, 0.73), (0.73, 0.73)]),
}
_JITTER = 0.08


@dataclass(frozen=True, kw_only=True)
class SceneObject:
    """One shape: its name, colour name, centre and radius (fractions of the side) and the exact RGB drawn."""

    shape: str
    color: str
    x: float
    y: float
    radius: float
    tint: tuple[float, float, float] = (0.0, 0.0, 0.0)

    @property
    def size(self) -> str | None:
        """The size word that fits, or None between small and large."""
        if self.radius < SMALL_RADIUS:
            return "small"
        return "large" if self.radius > LARGE_RADIUS else None


@dataclass(frozen=True, kw_only=True)
class Scene:
    """Objects on a background; `background` is its tone's name, `background_rgb` the colour drawn, in [0, 1]."""

    objects: tuple[SceneObject, ...]
    background: str
    background_rgb: tuple[float, float, float]


def relation(a: SceneObject, b: SceneObject) -> str | None:
    """The relation of A to B that is clearly true under GenEval's rule, or None where none is.

    Clearly: along one axis the rule's d (GenEval's `relative_position`) is above 0.62 of the distance; it asks for 0.5.
    """
    dx, dy = a.x - b.x, a.y - b.y
    horizontal = abs(dx) > abs(dy)
    reach = abs(dx) if horizontal else abs(dy)
    if reach - 0.2 * (a.radius + b.radius) < 0.62 * np.hypot(dx, dy):
        return None
    if horizontal:
        return "left of" if dx < 0 else "right of"
    return "above" if dy < 0 else "below"


def place(rng: np.random.Generator, radii: np.ndarray, around: np.ndarray | None = None) -> np.ndarray:
    """Centres [n, 2] of discs of the given radii that stay inside the frame and do not touch.

    Anywhere, or each within `_JITTER` of its place in `around` [n, 2].
    Raises ValueError where 6,400 tries find no room: the radii are too large for the frame.
    """
    low, high = radii[:, None] * 1.04 + _MARGIN, 1 - radii[:, None] * 1.04 - _MARGIN
    apart = (radii[:, None] + radii[None]) * 1.08 + 0.025
    np.fill_diagonal(apart, 0)
    if around is not None:
        low, high = np.maximum(low, around - _JITTER), np.minimum(high, around + _JITTER)
    for _ in range(100):
        centres = rng.uniform(low, high, (64, len(radii), 2))  # 64 tries at once
        offset = centres[:, :, None] - centres[:, None]
        free = (np.hypot(offset[..., 0], offset[..., 1]) >= apart).all((1, 2))
        if free.any():
            return centres[free.argmax()]
    raise InputError(f"no room for discs of radii {radii.round(3).tolist()}: use smaller or fewer objects")


def _background(rng: np.random.Generator) -> tuple[str, tuple[float, float, float]]:
    name = BACKGROUNDS[rng.integers(len(BACKGROUNDS))]
    rgb = rng.uniform(*BACKGROUND_TONE[name]) + rng.uniform(-0.03, 0.03, 3)
    return name, (float(rgb[0]), float(rgb[1]), float(rgb[2]))


def compose(
    rng: np.random.Generator, kinds: list[tuple[str, str]], radii: np.ndarray, around: np.ndarray | None = None
) -> Scene:
    """Place objects of the given (shape, colour) kinds and radii on a random background; `around` as for `place`."""
    centres, tints = place(rng, radii, around), rng.uniform(-0.03, 0.03, (len(kinds), 3))
    objects = tuple(
        SceneObject(
            shape=shape,
            color=color,
            x=float(x),
            y=float(y),
            radius=float(r),
            tint=(float(t[0]), float(t[1]), float(t[2])),
        )
        for (shape, color), (x, y), r, t in zip(kinds, centres, radii, tints, strict=True)
    )
    background, rgb = _background(rng)
    return Scene(objects=objects, background=background, background_rgb=rgb)


def _pick(rng: np.random.Generator, names: tuple[str, ...], count: int, replace: bool = True) -> list[str]:
    return [names[i] for i in rng.choice(len(names), count, replace=replace)]


def task_scene(rng: np.random.Generator, task: str, layout: Layout = DEFAULT_LAYOUT) -> Scene:
    """A random scene that a prompt of one GenEval task describes.

    The first object is the prompt's subject. In "position" scenes the first two objects stand in a clear relation. With
    layout "said", two that a prompt names without a side stand in its order, from left to right, and three and four
    that are counted have their own places; with "open" they stand anywhere.
    Raises ValueError for an unknown task or layout, with the known ones.
    """
    if task not in TASKS:
        raise InputError(f"unknown task {task!r}; known: {', '.join(TASKS)}")
    if layout not in get_args(Layout):
        raise InputError(f"unknown layout {layout!r}; known: {', '.join(get_args(Layout))}")
    if task == "counting":
        count = int(rng.integers(2, 5))
        colors = _pick(rng, COLORS, 1) * count if rng.random() < 0.6 else _pick(rng, COLORS, count)
        kinds = [(shape, color) for shape, color in zip(_pick(rng, SHAPES, 1) * count, colors, strict=True)]
    else:
        count = 1 if task in ("single_object", "colors") else 2
        kinds = list(zip(_pick(rng, SHAPES, count, replace=False), _pick(rng, COLORS, count), strict=True))
    around = _STANDS.get(count) if layout == "said" else None
    while True:
        scene = compose(rng, kinds, rng.uniform(*_TASK_RADIUS[count], count), around)
        if task != "position" or relation(*scene.objects) is not None:
            break
    if layout == "said" and task in ("two_object", "color_attr") and scene.objects[0].x > scene.objects[1].x:
        return mirrored(scene)
    return scene


def mirrored(scene: Scene) -> Scene:
    """The scene with left and right exchanged."""
    return replace(scene, objects=tuple(replace(item, x=1 - item.x) for item in scene.objects))


def dense_scene(rng: np.random.Generator) -> Scene:
    """A random scene for a dense prompt: two to four objects of mixed shapes, colours and named sizes."""
    count = int(rng.choice([2, 3, 4], p=[0.4, 0.4, 0.2]))
    groups = int(rng.integers(1 if count > 2 else 2, min(count, 3) + 1))
    distinct = list(zip(_pick(rng, SHAPES, groups, replace=False), _pick(rng, COLORS, groups), strict=True))
    owner = np.sort(np.concatenate([np.arange(groups), rng.integers(0, groups, count - groups)]))
    sizes = ["small", "medium"] if count == 4 else ["small", "medium", "large"]
    group_size = [sizes[rng.integers(len(sizes))] for _ in range(groups)]
    if count == 3 and sum(group_size[g] == "large" for g in owner) > 1:
        group_size = ["medium" if s == "large" else s for s in group_size]
    ranges = _SIZE_RADIUS | {"medium": _CROWDED_MEDIUM} if count == 4 else _SIZE_RADIUS
    radii = np.array([rng.uniform(*ranges[group_size[g]]) for g in owner])
    return compose(rng, [distinct[g] for g in owner], radii)


def mixed_scenes(rng: np.random.Generator, count: int, layout: Layout = DEFAULT_LAYOUT) -> list[Scene]:
    """`count` random scenes: a quarter dense, the rest spread over GenEval's tasks in the given layout."""
    kinds = rng.integers(0, len(TASKS) + 2, count)
    return [task_scene(rng, TASKS[k], layout) if k < len(TASKS) else dense_scene(rng) for k in kinds]
