"""Scenes as a model might draw them: deformed, textured, with near-misses; what the detector learns from.

A picture that a model draws has soft corners, uneven sides, lobes, fused objects, blotches, halos and a faint grid at
the patch's period. Here rendered scenes get all of these, by chance and in every strength, and each object keeps its
truth: how well it still shows each of the six shapes (`likeness`), measured as its best overlap with the undeformed
shape. No generated picture is used: a judge that has seen a model's pictures is no judge of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from functools import cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from reproduce.miniature.render import EXTENT, RGB, SIGNED_DISTANCE
from reproduce.miniature.scenes import COLORS, SHAPES, Scene, SceneObject

REACH, FINE = 1.5, 36  # an object is deformed in its own frame: [-1.5, 1.5] radii, 36 x 36 points
_STEP = 2 * REACH / FINE
_ALONG = ((np.arange(FINE) + 0.5) * _STEP - REACH).astype(np.float32)
LIMITS = {  # overlap with the undeformed shape: below the first it no longer shows the shape, above the second it does
    "circle": (0.85, 0.89),
    "square": (0.79, 0.85),
    "triangle": (0.73, 0.79),
    "star": (0.67, 0.73),
    "cross": (0.75, 0.80),
    "ring": (0.66, 0.72),
}
UNKNOWN = -100  # a colour that is between two
_MARGIN = 0.03  # by how much its overlap must beat every other shape's


@dataclass(frozen=True, kw_only=True)
class Objects:
    """All objects of a batch, an array entry each, in the order in which they are painted.

    `picture`, `shape` and `color` are indices; centre and radius are fractions of the side; `opacity` is 1 for paint
    and less for a ghost; `wild` in [0, 1] says how strongly an object may be deformed.
    """

    picture: np.ndarray
    shape: np.ndarray
    color: np.ndarray
    x: np.ndarray
    y: np.ndarray
    radius: np.ndarray
    tint: np.ndarray  # [N, 3]
    opacity: np.ndarray
    wild: np.ndarray

    def __len__(self) -> int:
        return len(self.picture)


@dataclass(frozen=True, kw_only=True)
class Truth:
    """What a batch's pictures show, an array entry for each object.

    `likeness` [N, shapes] in [0, 1]: how surely it shows each shape; `box` [N, 4] as fractions of the side; `color` is
    an index, len(COLORS) for gray (the object has lost it), or `UNKNOWN` where it is between two.
    """

    picture: np.ndarray
    likeness: np.ndarray
    color: np.ndarray
    box: np.ndarray


@cache
def _frame() -> tuple[np.ndarray, np.ndarray]:
    """x and y [FINE, FINE] of an object's own frame, in radii."""
    x, y = np.meshgrid(_ALONG, _ALONG)
    return x, y


@cache
def _plain() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Every shape at nine sizes and 25 places: masks [shapes, 225, points], their areas; extents [shapes, 4]."""
    x, y = _frame()
    shifts = np.linspace(-0.2, 0.2, 5)
    masks = [
        [
            (SIGNED_DISTANCE[shape]((x - dx) / size, (y - dy) / size) < 0).ravel()
            for size in np.geomspace(0.72, 1.3, 9)
            for dx in shifts
            for dy in shifts
        ]
        for shape in SHAPES
    ]
    extents = extent(np.stack([SIGNED_DISTANCE[shape](x, y) for shape in SHAPES]))
    stacked = np.array(masks, np.float32)
    return stacked, stacked.sum(-1), extents


def extent(distance: np.ndarray) -> np.ndarray:
    """x0, y0, x1, y1 of where signed distances [N, FINE, FINE] are negative, in radii, between the grid's points."""
    sides = []
    for profile in (distance.min(1), distance.min(2)):  # over columns, then over rows
        for turned in (profile, profile[:, ::-1]):
            first = np.clip((turned < 0).argmax(1), 1, None)
            rows = np.arange(len(turned))
            before, at = turned[rows, first - 1], turned[rows, first]
            sides.append(_ALONG[first] - _STEP * np.clip(at / np.minimum(at - before, -1e-9), 0, 1))
    left, right, top, bottom = sides
    return np.stack([left, top, -right, -bottom], axis=1)


def overlap(distance: np.ndarray) -> np.ndarray:
    """Best intersection over union of each object [N, FINE, FINE] with each undeformed shape: [N, shapes]."""
    mask = (distance < 0).reshape(len(distance), -1).astype(np.float32)
    masks, areas, _ = _plain()
    shared = mask @ masks.reshape(-1, mask.shape[1]).T  # [N, shapes * 225]
    union = mask.sum(1)[:, None] + areas.reshape(1, -1) - shared
    return (shared / np.maximum(union, 1)).reshape(len(mask), *areas.shape).max(-1)


def likeness(overlaps: np.ndarray) -> np.ndarray:
    """How surely an object shows each shape, in [0, 1], from its overlaps [N, shapes].

    Rises from 0 to 1 between the shape's `LIMITS`, and from half to full as it is further beyond the middle of them
    than any other shape beyond its own.
    """
    low, high = np.array([LIMITS[shape] for shape in SHAPES]).T
    lead = overlaps - (low + high) / 2
    ordered = np.sort(lead, axis=1)
    best, second = ordered[:, -1:], ordered[:, -2:-1]
    other = np.where(lead == best, second, best)
    return np.clip((overlaps - low) / (high - low), 0, 1) * np.clip(0.5 + (lead - other) / (2 * _MARGIN), 0, 1)


def _per_object(values: np.ndarray) -> np.ndarray:
    return values[:, None, None].astype(np.float32)


def _waves(rng: np.random.Generator, wild: np.ndarray, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Points moved by three random waves, 1 to 3 radii long; the wildest objects by some 0.3 radii."""
    gentle = rng.uniform(0, 0.09, len(wild)) * (rng.random(len(wild)) < 0.8)
    strength = np.maximum(gentle, wild * rng.uniform(0, 0.22, len(wild)) * (rng.random(len(wild)) < 0.6))
    moved = [x, y]
    for _ in range(3):
        direction, phase = rng.uniform(0, 2 * np.pi, (2, len(wild)))
        number = 2 * np.pi / rng.uniform(1.0, 3.0, len(wild))
        across = _per_object(number * np.cos(direction)) * x + _per_object(number * np.sin(direction)) * y
        wave = np.sin(across + _per_object(phase))
        turn = rng.uniform(0, 2 * np.pi, len(wild))
        moved = [m + _per_object(strength * part(turn)) * wave for m, part in zip(moved, (np.cos, np.sin), strict=True)]
    return moved[0], moved[1]


def _distances(shape: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Signed distances [N, FINE, FINE] of each object's own shape."""
    out = np.empty(x.shape, np.float32)
    for index in np.unique(shape):
        of = shape == index
        out[of] = SIGNED_DISTANCE[SHAPES[index]](x[of], y[of])
    return out


def deform(rng: np.random.Generator, shape: np.ndarray, wild: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Signed distances [N, FINE, FINE] of objects of these shapes, deformed as strongly as `wild` [N] lets them be.

    And how surely each shows each shape [N, shapes]: by its overlap, and by what was done to it (a cross without an arm
    overlaps a cross well and is none). All are warped and have softened corners; wild ones are also bent half-way to
    another shape, grow or lose a lobe, lose a side, or are something else: unions of ellipses, polygons, stars of four.
    """
    count = len(shape)
    x, y = _waves(rng, wild, *(np.broadcast_to(side, (count, FINE, FINE)) for side in _frame()))
    distance = _distances(shape, x, y)
    soft = np.where(shape == SHAPES.index("ring"), 0.25, 1) * rng.uniform(0, 0.18, count) * (rng.random(count) < 0.5)
    distance = distance + _per_object(soft) * (SIGNED_DISTANCE["circle"](x, y) - distance)
    kind = np.where(rng.random(count) < wild, rng.choice(6, count, p=[0.3, 0.16, 0.12, 0.1, 0.1, 0.22]), -1)
    left = np.ones((count, len(SHAPES)))  # what is left of the likeness
    for which, change in enumerate((_halfway, _grow, _bite, _cut, _blob, _polygons)):
        of = kind == which
        distance[of], left[of] = change(rng, shape[of], distance[of], x[of], y[of])
    return distance, likeness(overlap(distance)) * left


Changed = tuple[np.ndarray, np.ndarray]  # distances, and what is left of each likeness [N, shapes] or [N, 1]


def _halfway(
    rng: np.random.Generator, shape: np.ndarray, distance: np.ndarray, x: np.ndarray, y: np.ndarray
) -> Changed:
    """Towards another shape; between three and seven tenths of the way an object is less and less either."""
    share, other = rng.uniform(0.1, 0.9, len(x)), rng.integers(0, len(SHAPES), len(x))
    left, row = np.zeros((len(x), len(SHAPES))), np.arange(len(x))
    left[row, shape] = np.clip((0.45 - share) / 0.15, 0, 1)
    left[row, other] = np.where(other == shape, 1, np.clip((share - 0.55) / 0.15, 0, 1))
    return distance + _per_object(share) * (_distances(other, x, y) - distance), left


def _disc(rng: np.random.Generator, x: np.ndarray, y: np.ndarray, near: float, far: float) -> np.ndarray:
    """Distances to a disc at the rim of each object."""
    angle, reach = rng.uniform(0, 2 * np.pi, len(x)), rng.uniform(near, far, len(x))
    size = _per_object(rng.uniform(0.2, 0.6, len(x)))
    return np.hypot(x - _per_object(reach * np.cos(angle)), y - _per_object(reach * np.sin(angle))) - size


def _kept(before: np.ndarray, after: np.ndarray) -> Changed:
    """What an object is after a part came or went: the same below 6 % of its area, nothing above 16 %."""
    area = (before < 0).sum((1, 2)) + 1
    changed = ((before < 0) != (after < 0)).sum((1, 2)) / area
    return after, np.clip(1 - (changed - 0.06) / 0.1, 0, 1)[:, None]


def _grow(rng: np.random.Generator, shape: np.ndarray, distance: np.ndarray, x: np.ndarray, y: np.ndarray) -> Changed:
    return _kept(distance, np.minimum(distance, _disc(rng, x, y, 0.6, 1.0)))


def _bite(rng: np.random.Generator, shape: np.ndarray, distance: np.ndarray, x: np.ndarray, y: np.ndarray) -> Changed:
    return _kept(distance, np.maximum(distance, -_disc(rng, x, y, 0.3, 1.1)))


def _cut(rng: np.random.Generator, shape: np.ndarray, distance: np.ndarray, x: np.ndarray, y: np.ndarray) -> Changed:
    angle, where = rng.uniform(0, 2 * np.pi, len(x)), rng.uniform(-0.1, 0.7, len(x))
    beyond = x * _per_object(np.cos(angle)) + y * _per_object(np.sin(angle)) - _per_object(where)
    return _kept(distance, np.maximum(distance, beyond))


def _blob(rng: np.random.Generator, shape: np.ndarray, distance: np.ndarray, x: np.ndarray, y: np.ndarray) -> Changed:
    """A union of three ellipses; its overlap alone says whether it is a circle after all."""
    out = np.full(distance.shape, np.inf, np.float32)
    for _ in range(3):
        cx, cy = rng.uniform(-0.55, 0.55, (2, len(x)))
        a, b = rng.uniform(0.3, 0.75, (2, len(x)))
        round_one = np.hypot((x - _per_object(cx)) / _per_object(a), (y - _per_object(cy)) / _per_object(b)) - 1
        out = np.minimum(out, round_one * _per_object(np.minimum(a, b)))
    return out, np.ones((len(x), 1))


def _polygons(
    rng: np.random.Generator, shape: np.ndarray, distance: np.ndarray, x: np.ndarray, y: np.ndarray
) -> Changed:
    """Regular polygons of four to seven sides, hollow (a star) or not: of most no likeness is left."""
    sides = rng.choice([4, 4, 5, 5, 6, 7], len(x))
    turn = rng.uniform(-0.3, 0.3, len(x))  # a corner up, so that four sides are a diamond and no square
    wedge = _per_object(2 * np.pi / sides)
    angle = np.mod(np.arctan2(y, x) + np.pi / 2 + _per_object(turn), wedge) / wedge  # 0 and 1 at corners
    hollow = rng.uniform(0, 0.35, len(x)) * (rng.random(len(x)) < 0.4)
    inner = np.cos(wedge / 2) - _per_object(hollow)  # how near the middle of a side comes
    out = np.hypot(x, y) - (inner + (1 - inner) * np.abs(2 * angle - 1) ** 2) * 0.95
    like_circle, like_star = (sides > 5) & (hollow < 0.1), (sides == 5) & (hollow > 0.15)
    return out, (like_circle | like_star).astype(float)[:, None]


def objects_of(rng: np.random.Generator, scenes: list[Scene]) -> Objects:
    """The scenes' own objects, a third of them wild, and in four scenes of ten a wild stranger or a touching one."""
    rows = []
    for number, scene in enumerate(_resized(rng, scene) for scene in scenes):
        for item in scene.objects:
            wild = rng.uniform(0.3, 1) if rng.random() < 0.33 else 0.0
            opacity = rng.uniform(0.1, 1) if rng.random() < 0.04 else 1.0
            kind = (SHAPES.index(item.shape), COLORS.index(item.color))
            rows.append((number, *kind, item.x, item.y, item.radius, np.array(item.tint), opacity, wild))
        if rng.random() < 0.4 and (stranger := _stranger(rng, scene)):
            rows.append((number, *stranger))
    columns = [np.array(column) for column in zip(*rows, strict=True)]
    return Objects(**dict(zip((field.name for field in fields(Objects)), columns, strict=True)))


def _resized(rng: np.random.Generator, scene: Scene) -> Scene:
    """Each object smaller, or as much larger as there is room: drawn ones are larger than the world's."""
    objects = []
    for item in scene.objects:
        gaps = [np.hypot(item.x - o.x, item.y - o.y) - o.radius for o in scene.objects if o is not item]
        room = max(min(item.x, item.y, 1 - item.x, 1 - item.y, *gaps), item.radius)
        objects.append(replace(item, radius=min(item.radius * rng.uniform(0.8, 1.35), room)))
    return replace(scene, objects=tuple(objects))


def _stranger(rng: np.random.Generator, scene: Scene) -> tuple | None:
    """One more object: apart from the scene's own, or touching one of them and often of its colour; None: no room."""
    radius, opacity, wild = rng.uniform(0.08, 0.2), 1.0, rng.uniform(0.3, 1)
    shape, color = int(rng.integers(len(SHAPES))), int(rng.integers(len(COLORS)))
    if rng.random() < 0.3:
        host = scene.objects[rng.integers(len(scene.objects))]
        radius, wild, angle = host.radius * rng.uniform(0.7, 1.1), 0.0, rng.uniform(0, 2 * np.pi)
        reach = (radius + host.radius) * rng.uniform(0.5, 1.05)
        x, y = host.x + reach * np.cos(angle), host.y + reach * np.sin(angle)
        color = COLORS.index(host.color) if rng.random() < 0.6 else color
        others = [item for item in scene.objects if item is not host]
        return (shape, color, x, y, radius, np.array(host.tint), opacity, wild) if _free(x, y, radius, others) else None
    if rng.random() < 0.3:
        opacity = rng.uniform(0.1, 0.8)
    for _ in range(20):
        x, y = rng.uniform(0.1, 0.9, 2)
        if _free(x, y, radius, scene.objects):
            return (shape, color, x, y, radius, rng.uniform(-0.03, 0.03, 3), opacity, wild)
    return None


def _free(x: float, y: float, radius: float, others: Sequence[SceneObject]) -> bool:
    inside = radius < min(x, y, 1 - x, 1 - y)
    return inside and all(np.hypot(x - item.x, y - item.y) > radius + item.radius + 0.02 for item in others)


def paint(rng: np.random.Generator, scenes: list[Scene], resolution: int) -> tuple[Tensor, Truth]:
    """The scenes with deformed objects: pictures [B, 3, H, W] in [-1, 1], and what they truly show."""
    objects = objects_of(rng, scenes)
    count = len(objects)
    distance, alike = deform(rng, objects.shape, objects.wild)
    stretch, turn = np.exp(rng.uniform(-0.11, 0.11, (2, count))), rng.uniform(-0.12, 0.12, count)
    scale = objects.radius * np.sqrt(stretch[0] * stretch[1])
    pixels = scale * resolution  # of one radius
    seen = _on_canvas(distance, objects, stretch, turn, resolution) * _per_object(pixels)  # [N, H, W] in pixels
    edge = 1 + 8 * rng.uniform(0, 0.12, count) * (rng.random(count) < 0.4)
    coverage = np.clip(0.5 - seen / _per_object(edge), 0, 1) * _per_object(objects.opacity)
    paints, color = _paints(rng, objects, resolution)
    pictures = np.empty((len(scenes), resolution, resolution, 3), np.float32)
    pictures[:] = np.array([scene.background_rgb for scene in scenes])[:, None, None]
    order = np.arange(count) - np.searchsorted(objects.picture, objects.picture)  # the how-manieth of its picture
    for turn_number in range(order.max() + 1):
        of = order == turn_number
        at = objects.picture[of]
        pictures[at] += coverage[of][..., None] * (paints[of] - pictures[at])
    truth = _truth(objects, distance, alike, stretch, coverage, color)
    return torch.from_numpy(pictures).permute(0, 3, 1, 2).float().mul(2).sub(1), truth


def _on_canvas(
    distance: np.ndarray, objects: Objects, stretch: np.ndarray, turn: np.ndarray, resolution: int
) -> np.ndarray:
    """The distances [N, FINE, FINE] of the objects' frames where the picture's pixels lie: [N, H, W] in radii."""
    centre = ((np.arange(resolution) + 0.5) / resolution).astype(np.float32)
    x = (centre[None, None] - _per_object(objects.x)) / _per_object(objects.radius * stretch[0])
    y = (centre[None, :, None] - _per_object(objects.y)) / _per_object(objects.radius * stretch[1])
    c, s = _per_object(np.cos(turn)), _per_object(np.sin(turn))
    grid = torch.from_numpy(np.stack([x * c - y * s, x * s + y * c], axis=-1) / REACH).float()
    field = torch.from_numpy(distance)[:, None].float()
    found = F.grid_sample(field, grid, padding_mode="border", align_corners=False)[:, 0].numpy()
    outside = np.abs(grid.numpy()).max(-1) > 1
    return np.where(outside, np.maximum(found, 0.2), found)


def _paints(rng: np.random.Generator, objects: Objects, resolution: int) -> tuple[np.ndarray, np.ndarray]:
    """Each object's paint [N, H, W, 3], shaded in its middle, and its colour [N] as `Truth` tells it.

    One in twenty has a second colour on a side, and the objects of one picture in twelve have lost theirs.
    """
    rgb = np.array([RGB[name] for name in COLORS])
    count = len(objects)
    first = np.clip(rgb[objects.color] + objects.tint + rng.normal(0, 0.05, (count, 3)), 0, 1)
    apart = np.sort(((first[:, None] - rgb) ** 2).sum(-1), axis=1)
    unclear = apart[:, 0] > 0.5 * apart[:, 1]  # nearly as far from its own colour as from the next
    lost = (rng.random(objects.picture.max() + 1) < 0.08) * rng.uniform(0.3, 1, objects.picture.max() + 1)
    lost = lost[objects.picture]
    first += lost[:, None] * (first.mean(1, keepdims=True) - first)
    centre = ((np.arange(resolution) + 0.5) / resolution).astype(np.float32)
    x = (centre[None, None] - _per_object(objects.x)) / _per_object(objects.radius)
    y = (centre[None, :, None] - _per_object(objects.y)) / _per_object(objects.radius)
    shade = rng.uniform(-0.25, 0.25, count) * (rng.random(count) < 0.3)
    paints = first[:, None, None] + (_per_object(shade) * np.exp(-4 * (x**2 + y**2)))[..., None]
    mixed = rng.random(count) < 0.05
    angle, where = rng.uniform(0, 2 * np.pi, count), rng.uniform(-0.1, 0.8, count)
    beyond = x * _per_object(np.cos(angle)) + y * _per_object(np.sin(angle)) > _per_object(where)
    second = rgb[rng.integers(0, len(COLORS), count)][:, None, None]
    paints = np.where((beyond & mixed[:, None, None])[..., None], second, paints)
    color = np.where(unclear | mixed & (where < 0.3), UNKNOWN, objects.color)
    colorful = np.ptp(rgb[objects.color], axis=1) > 0.1  # black and white have none to lose
    color = np.where(colorful & (lost > 0.3), np.where((lost > 0.75) & ~mixed, len(COLORS), UNKNOWN), color)
    return np.clip(paints, 0, 1), color


def _truth(
    objects: Objects,
    distance: np.ndarray,
    alike: np.ndarray,
    stretch: np.ndarray,
    coverage: np.ndarray,
    color: np.ndarray,
) -> Truth:
    """What is seen of each object: its likeness, less where it is faint, covered, or fused with one of its colour."""
    seen = np.clip((objects.opacity - 0.2) / 0.2, 0, 1)
    own = coverage.sum((1, 2)) + 1e-6
    for later in range(1, len(objects)):
        for earlier in range(later - 1, -1, -1):
            if objects.picture[earlier] != objects.picture[later]:
                break
            shared = (coverage[earlier] * coverage[later]).sum()
            same = objects.color[earlier] == objects.color[later]
            seen[earlier] *= np.clip(1 - (shared / own[earlier] - 0.06) / 0.14, 0, 1)
            seen[later] *= np.clip(1 - (shared / own[later] - 0.06) / 0.14, 0, 1) if same else 1
    box = extent(distance)
    named = np.array([EXTENT[shape] for shape in SHAPES])[alike.argmax(1)]
    box = box + (named - _plain()[2][alike.argmax(1)])  # a tip lies beyond the frame's last point inside it
    middle, half = np.stack([objects.x, objects.y], 1), objects.radius[:, None] * stretch.T
    box = np.concatenate([middle + half * box[:, :2], middle + half * box[:, 2:]], axis=1)
    return Truth(picture=objects.picture, likeness=alike * seen[:, None], color=color, box=box)


def mirrored(truth: Truth) -> Truth:
    """The truth of the same pictures with left and right exchanged; all six shapes are their own mirror images."""
    x0, y0, x1, y1 = truth.box.T
    return replace(truth, box=np.stack([1 - x1, y0, 1 - x0, y1], axis=1))
