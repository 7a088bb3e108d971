"""A second judge of the miniature's pictures, without learned weights: each shape is fitted to what is cut out.

Objects are cut out by their colour distance to the border's median (Otsu 1979), split where two colours or two bodies
fit better than one, and each is compared with the six rendered shapes at all sizes: the best overlap (intersection over
union) names it. It shares no weight and no training picture with `reproduce.miniature.detector`, so that what both say
is no quirk of either: `python -m reproduce.miniature.check judges`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from itertools import product

import numpy as np
from PIL import Image
from scipy import ndimage

from bench.geneval.rules import SAVED_SCORE
from bench.judges import Judge
from bench.records import Detection
from l2p.errors import InputError
from reproduce.miniature.render import EXTENT, RGB, SIGNED_DISTANCE
from reproduce.miniature.scenes import COLORS, SHAPES

RESOLUTION = 48
SIDE, REACH = 28, 1.3  # an object's box is stretched to [-1, 1] on a grid of 28 x 28 points over [-1.3, 1.3]
MIN_DISTANCE = 0.1  # of a colour to the background's, in RGB's unit cube: what is nearer is noise
MIN_AREA = 12  # pixels of 48 x 48
MAX_STRETCH = 1.45
SHARPNESS = 0.02  # overlap over which a score falls from 0.73 to 0.27
# The overlap at which a score is a half; what is furthest beyond its limit names an object. Tuned on half of the labels
LIMITS = {"circle": 0.85, "square": 0.84, "triangle": 0.75, "star": 0.54, "cross": 0.7, "ring": 0.62}
GRAY_CHROMA = 0.09  # less than this between the channels, and neither black nor white: no colour of the world


@dataclass(frozen=True, kw_only=True)
class Fit:
    """What an object is best taken for: a shape's name, its overlap and its box x0, y0, x1, y1 in pixels."""

    label: str
    overlap: float
    box: tuple[float, float, float, float]


def load() -> Judge:
    """The shape fit as a `bench.records.Detector`: square pictures of any size, boxes in their own pixels.

    Raises ValueError for a picture that is not square.
    """

    def detect(images: list[Image.Image]) -> list[list[Detection]]:
        return [_detect(image) for image in images]

    return Judge(ask=detect, passport={"name": "miniature shape fit", "limits": LIMITS}, labels=SHAPES)


def _detect(image: Image.Image) -> list[Detection]:
    if image.width != image.height:
        raise InputError(f"the miniature's shape fit takes square pictures; given {image.width} x {image.height}")
    small = image.convert("RGB")
    if image.width != RESOLUTION:
        small = small.resize((RESOLUTION, RESOLUTION), Image.Resampling.BOX)
    scale = image.width / RESOLUTION
    found = []
    for alpha, color in objects(np.asarray(small, dtype=np.float64) / 255):
        fit = best_fit(alpha)
        score = 1 / (1 + np.exp((LIMITS[fit.label] - fit.overlap) / SHARPNESS))
        if score >= SAVED_SCORE:
            x0, y0, x1, y1 = (scale * side for side in fit.box)
            found.append(Detection(label=fit.label, box=(x0, y0, x1, y1), score=float(score), color=color))
    return sorted(found, key=lambda d: -d.score)


def objects(pixels: np.ndarray) -> list[tuple[np.ndarray, str]]:
    """The objects of a picture [48, 48, 3] in [0, 1]: how much of each pixel [48, 48] is its own, and its colour."""
    edge = np.ones(pixels.shape[:2], bool)
    edge[2:-2, 2:-2] = False
    background = np.median(pixels[edge], axis=0)
    distance = np.sqrt(((pixels - background) ** 2).sum(-1))
    found = []
    for body in _bodies(distance > max(_otsu(distance) * 0.6, MIN_DISTANCE)):
        for part in _split(body, distance, pixels):
            color = _color(part, distance, pixels)
            found.append((part, color))
    return found


def _otsu(values: np.ndarray) -> float:
    """The threshold that parts the values into two groups with the least variance within them (Otsu 1979)."""
    counts, edges = np.histogram(values, 64)
    middles = (edges[:-1] + edges[1:]) / 2
    below, total = np.cumsum(counts), np.cumsum(counts * middles)
    above = below[-1] - below
    with np.errstate(divide="ignore", invalid="ignore"):
        between = below * above * (total / below - (total[-1] - total) / above) ** 2
    return float(edges[1 + np.nan_to_num(between).argmax()])


def _bodies(mask: np.ndarray) -> list[np.ndarray]:
    """The connected regions of a mask that are large enough."""
    numbers, count = ndimage.label(mask)
    regions = (numbers == number for number in range(1, count + 1))
    return [region for region in regions if region.sum() >= MIN_AREA]


def _alpha(body: np.ndarray, distance: np.ndarray) -> np.ndarray:
    """How much of each pixel is the object's: its distance over that of the object's core, in the body and a rim."""
    core = np.median(distance[body & (distance >= np.quantile(distance[body], 0.5))])
    rim = ndimage.binary_dilation(body)
    return np.clip(distance / core, 0, 1) * rim


def _split(body: np.ndarray, distance: np.ndarray, pixels: np.ndarray) -> list[np.ndarray]:
    """One object, or the parts of it that fit shapes clearly better than the whole does."""
    whole = _alpha(body, distance)
    best = [whole]
    fitted = _quality([whole])
    for masks in (_by_color(body, distance, pixels), _by_waist(body)):
        if len(masks) > 1:
            parts = [_alpha(mask, distance) * ndimage.binary_dilation(mask) for mask in masks]
            if _quality(parts) > fitted + 0.04:
                best, fitted = parts, _quality(parts)
    return best


def _quality(parts: list[np.ndarray]) -> float:
    """How well parts fit: the mean over them of the overlap beyond the limit of the shape that fits best."""
    fits = [best_fit(part) for part in parts]
    return float(np.mean([fit.overlap - LIMITS[fit.label] for fit in fits]))


def _by_color(body: np.ndarray, distance: np.ndarray, pixels: np.ndarray) -> list[np.ndarray]:
    """The body parted by the two or more colours of its inside."""
    inside = ndimage.binary_erosion(body)
    names = _nearest(pixels)
    seeds = np.zeros(body.shape, int)
    for number, name in enumerate(np.unique(names[inside]), start=1):
        for region in _bodies(ndimage.binary_opening((names == name) & inside, np.ones((2, 2)))):
            seeds[region] = number
    return _grown(seeds, body)


def _by_waist(body: np.ndarray) -> list[np.ndarray]:
    """The body parted at its waist: eroded until it falls into several, which then grow back."""
    eroded = body
    for _ in range(6):
        eroded = ndimage.binary_erosion(eroded)
        numbers, count = ndimage.label(eroded)
        large = [number for number in range(1, count + 1) if (numbers == number).sum() >= 6]
        if len(large) > 1:
            return _grown(np.where(np.isin(numbers, large), numbers, 0), body)
    return []


def _grown(seeds: np.ndarray, body: np.ndarray) -> list[np.ndarray]:
    """Every pixel of the body to its nearest seed; parts that are too small are none."""
    if not seeds.any():
        return []
    rows, columns = ndimage.distance_transform_edt(seeds == 0, return_distances=False, return_indices=True)
    nearest = np.where(body, seeds[rows, columns], 0)
    parts = (nearest == number for number in np.unique(seeds[seeds > 0]))
    return [part for part in parts if part.sum() >= MIN_AREA]


def _nearest(pixels: np.ndarray) -> np.ndarray:
    palette = np.array([RGB[name] for name in COLORS])
    return ((pixels[..., None, :] - palette) ** 2).sum(-1).argmin(-1)


def _color(alpha: np.ndarray, distance: np.ndarray, pixels: np.ndarray) -> str:
    """The colour of an object's core: the nearest of the world's ten, or "gray", which no prompt asks for."""
    inside = alpha > 0.9 * alpha.max()
    core = ndimage.binary_erosion(inside)
    rgb = np.median(pixels[core if core.sum() >= 5 else inside], axis=0)
    if np.ptp(rgb) < GRAY_CHROMA and 0.2 < rgb.mean() < 0.85:
        return "gray"
    return COLORS[int(_nearest(rgb))]


def best_fit(alpha: np.ndarray) -> Fit:
    """The shape that overlaps an object [48, 48] best, relative to its limit, at all sizes and stretches up to 1.45."""
    x0, y0, x1, y1 = _extent(alpha)
    width, height = max(x1 - x0, 1.0), max(y1 - y0, 1.0)
    rows = (y0 + y1) / 2 + _along() * height / 2 - 0.5
    columns = (x0 + x1) / 2 + _along() * width / 2 - 0.5
    grid = np.meshgrid(rows, columns, indexing="ij")
    overlaps, sides = _overlaps(ndimage.map_coordinates(alpha, grid, order=1, mode="constant").ravel() > 0.5)
    overlaps = overlaps - max(max(width / height, height / width) / MAX_STRETCH - 1, 0)
    shape = int((overlaps - np.array([LIMITS[name] for name in SHAPES])).argmax())
    left, top, right, bottom = sides[shape]
    x, y = (x0 + x1) / 2, (y0 + y1) / 2
    box = (x + width / 2 * left, y + height / 2 * top, x + width / 2 * right, y + height / 2 * bottom)
    return Fit(label=SHAPES[shape], overlap=float(overlaps[shape]), box=box)


def _along() -> np.ndarray:
    return (np.arange(SIDE) + 0.5) / SIDE * 2 * REACH - REACH


def _overlaps(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Each shape's best overlap with a mask [points], and its sides [shapes, 4] there."""
    masks, boxes = _templates()
    inside = mask.astype(np.float32)
    shared = masks @ inside  # [shapes, variants]
    overlaps = shared / np.maximum(inside.sum() + masks.sum(-1) - shared, 1)
    return overlaps.max(1), boxes[overlaps.argmax(1)]


@cache
def _templates() -> tuple[np.ndarray, np.ndarray]:
    """Every shape, its box stretched to [-1, 1], then moved and stretched a little: masks [shapes, variants, points].

    And the variants' boxes [variants, 4], the same for each shape.
    """
    x, y = np.meshgrid(_along(), _along())
    sizes, shifts = np.linspace(0.85, 1.15, 5), np.linspace(-0.1, 0.1, 3)
    variants = list(product(sizes, sizes, shifts, shifts))
    masks = np.empty((len(SHAPES), len(variants), x.size), np.float32)
    for shape, name in enumerate(SHAPES):
        left, top, right, bottom = EXTENT[name]
        for number, (wide, high, dx, dy) in enumerate(variants):
            own_x = (left + right) / 2 + (x - dx) / wide * (right - left) / 2
            own_y = (top + bottom) / 2 + (y - dy) / high * (bottom - top) / 2
            masks[shape, number] = (SIGNED_DISTANCE[name](own_x, own_y) < 0).ravel()
    return masks, np.array([(dx - wide, dy - high, dx + wide, dy + high) for wide, high, dx, dy in variants])


def _extent(alpha: np.ndarray) -> tuple[float, float, float, float]:
    """x0, y0, x1, y1 in pixels of where an object covers half of a pixel, between the pixels' centres."""
    sides = []
    for axis in (0, 1):
        profile = np.concatenate([[0.0], alpha.max(axis), [0.0]])
        inside = np.flatnonzero(profile > 0.5 * min(1, profile.max()))
        first, last, half = inside[0], inside[-1], 0.5 * min(1, profile.max())
        low = first - (profile[first] - half) / max(profile[first] - profile[first - 1], 1e-9)
        high = last + (profile[last] - half) / max(profile[last] - profile[last + 1], 1e-9)
        sides += [low - 0.5, high - 0.5]  # the profile starts one pixel before the picture
    return sides[0], sides[2], sides[1], sides[3]
