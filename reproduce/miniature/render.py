"""Draw scenes, anti-aliased from signed distances, at any resolution (48 px to 4096 px)."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from reproduce.miniature.scenes import Scene, SceneObject

RGB = {
    "red": (0.87, 0.10, 0.10),
    "orange": (1.00, 0.55, 0.05),
    "yellow": (0.98, 0.92, 0.10),
    "green": (0.10, 0.66, 0.20),
    "blue": (0.12, 0.25, 0.88),
    "purple": (0.52, 0.12, 0.68),
    "pink": (1.00, 0.58, 0.78),
    "brown": (0.45, 0.26, 0.10),
    "black": (0.04, 0.04, 0.04),
    "white": (0.98, 0.98, 0.98),
}
_STAR = [
    (r * np.sin(k * np.pi / 5), 0.05 - r * np.cos(k * np.pi / 5)) for k in range(10) for r in [0.45 if k % 2 else 1.08]
]
_TRIANGLE = [(0.0, -0.95), (1.0, 0.8), (-1.0, 0.8)]


def _polygon(x: np.ndarray, y: np.ndarray, points: list[tuple[float, float]]) -> np.ndarray:
    """Signed distance to a polygon: the nearest edge, negative where an even-odd walk finds the point inside."""
    squared, sign = np.full(x.shape, np.inf), np.ones(x.shape)
    for (ax, ay), (bx, by) in zip(points, points[-1:] + points[:-1], strict=True):
        ex, ey, wx, wy = bx - ax, by - ay, x - ax, y - ay
        along = np.clip((wx * ex + wy * ey) / (ex * ex + ey * ey), 0, 1)
        squared = np.minimum(squared, (wx - ex * along) ** 2 + (wy - ey * along) ** 2)
        crosses = ((y >= ay) != (y >= by)) & ((ex * wy > ey * wx) == (by > ay))
        sign = np.where(crosses, -sign, sign)
    return sign * np.sqrt(squared)


def _box(x: np.ndarray, y: np.ndarray, half_x: float, half_y: float) -> np.ndarray:
    return np.maximum(np.abs(x) - half_x, np.abs(y) - half_y)


SIGNED_DISTANCE = {
    "circle": lambda x, y: np.hypot(x, y) - 0.95,
    "square": lambda x, y: _box(x, y, 0.85, 0.85),
    "triangle": lambda x, y: _polygon(x, y, _TRIANGLE),
    "star": lambda x, y: _polygon(x, y, _STAR),
    "cross": lambda x, y: np.minimum(_box(x, y, 0.95, 0.3), _box(x, y, 0.3, 0.95)),
    "ring": lambda x, y: np.abs(np.hypot(x, y) - 0.72) - 0.23,
}
# Bounding box of each unit shape: x0, y0, x1, y1.
EXTENT = {
    "circle": (-0.95, -0.95, 0.95, 0.95),
    "square": (-0.85, -0.85, 0.85, 0.85),
    "triangle": (-1.0, -0.95, 1.0, 0.8),
    "star": (min(p[0] for p in _STAR), min(p[1] for p in _STAR), max(p[0] for p in _STAR), max(p[1] for p in _STAR)),
    "cross": (-0.95, -0.95, 0.95, 0.95),
    "ring": (-0.95, -0.95, 0.95, 0.95),
}


def box(item: SceneObject) -> tuple[float, float, float, float]:
    """The object's bounding box x0, y0, x1, y1 as fractions of the side."""
    x0, y0, x1, y1 = EXTENT[item.shape]
    r = item.radius
    return item.x + r * x0, item.y + r * y0, item.x + r * x1, item.y + r * y1


def _window(centre: float, reach: float, resolution: int) -> slice:
    return slice(max(int(centre - reach), 0), min(int(centre + reach) + 2, resolution))


def render(scene: Scene, resolution: int) -> np.ndarray:
    """One scene as uint8 [resolution, resolution, 3]; each object is drawn inside its own window only."""
    image = np.broadcast_to(np.array(scene.background_rgb, np.float32), (resolution, resolution, 3)).copy()  # [H, W, 3]
    for item in scene.objects:
        cx, cy, r = item.x * resolution, item.y * resolution, item.radius * resolution
        rows, columns = _window(cy, 1.1 * r + 1.5, resolution), _window(cx, 1.1 * r + 1.5, resolution)
        y = (np.arange(rows.start, rows.stop)[:, None] + 0.5 - cy) / r
        x = (np.arange(columns.start, columns.stop)[None] + 0.5 - cx) / r
        distance = SIGNED_DISTANCE[item.shape](*np.broadcast_arrays(x, y)) * r  # [h, w] in pixels
        coverage = np.clip(0.5 - distance, 0, 1)[..., None].astype(np.float32)
        paint = np.clip(np.array(RGB[item.color], np.float32) + np.array(item.tint, np.float32), 0, 1)
        patch = image[rows, columns]
        patch += coverage * (paint - patch)
    return (image * 255 + 0.5).astype(np.uint8)


def render_batch(scenes: Iterable[Scene], resolution: int) -> np.ndarray:
    """Scenes as uint8 [B, resolution, resolution, 3]."""
    return np.stack([render(scene, resolution) for scene in scenes])
