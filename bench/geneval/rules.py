"""GenEval's verdict on one image, as its published evaluator gives it (Ghosh et al. 2023; benchmarks.md "Rules").

Nothing here knows an object's name: any suite of classes, counts, colours and relations can be judged.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import hypot, inf
from typing import Any

from bench.records import Detection
from l2p.errors import InputError

COLORS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "black", "white")
"""GenEval's ten colours, in the order in which `reason` names them."""

TASKS = ("single_object", "two_object", "counting", "colors", "position", "color_attr")
"""GenEval's six tasks (`tag`), in the order of its prompt file."""

RELATIONS = ("left of", "right of", "above", "below")
"""The relations, in the order in which `reason` names two that hold at once."""

SAVED_SCORE = 0.05
"""Detections are saved down to this score, so that rules can be applied again with other thresholds."""


@dataclass(frozen=True, kw_only=True)
class Thresholds:
    """The rules' settings; the defaults are the published script's. Raises ValueError for impossible ones."""

    score_threshold: float = 0.3
    counting_threshold: float = 0.9
    max_objects: int = 16
    max_overlap: float = 1.0
    position_threshold: float = 0.1

    def __post_init__(self) -> None:
        for threshold in (self.score_threshold, self.counting_threshold):
            if not SAVED_SCORE <= threshold <= 1:  # NaN is not either
                raise InputError(
                    f"A score threshold of {threshold} is impossible: ask for at least {SAVED_SCORE}, down to which "
                    "detections are kept, and at most 1."
                )
        if self.max_objects < 1 or not 0 < self.max_overlap <= 1 or not 0 <= self.position_threshold < inf:
            raise InputError(
                "max_objects must be at least 1, max_overlap above 0 and at most 1, position_threshold at least 0 and "
                f"finite; got {self}."
            )

    def score_of(self, task: str) -> float:
        """The score that a detection must be above to count in a task."""
        return self.counting_threshold if task == "counting" else self.score_threshold


PUBLISHED = Thresholds()


def judge(
    metadata: Mapping[str, Any], detections: Sequence[Detection], thresholds: Thresholds = PUBLISHED
) -> tuple[bool, str]:
    """Whether the detections show what `metadata` asks for, and if not, the published evaluator's reason.

    `metadata` is a line of GenEval's prompt file (`tag`, `include`, `exclude`); scores must be above the threshold (the
    counting one for `tag` "counting"). Raises ValueError when a colour is asked of a detection that has none.
    """
    kept = keep(detections, thresholds.score_of(metadata["tag"]), thresholds.max_objects, thresholds.max_overlap)
    reasons: list[str] = []
    groups: list[list[Detection] | None] = []  # what each include clause matched; None = it failed
    for clause in metadata.get("include", ()):
        found = kept.get(clause["class"], [])[: clause["count"]]
        complaint = _complaint(clause, found, groups, thresholds.position_threshold)
        groups.append(None if complaint else found)
        reasons += [complaint] if complaint else []
    for clause in metadata.get("exclude", ()):
        number = len(kept.get(clause["class"], ()))
        if number >= clause["count"]:
            reasons.append(f"expected {clause['class']}<{clause['count']}, found {number}")
    return not reasons, "\n".join(reasons)


def keep(
    detections: Sequence[Detection], threshold: float, max_objects: int, max_overlap: float
) -> dict[str, list[Detection]]:
    """For each label the detections above the threshold that survive, best first: at most `max_objects`, then NMS.

    Greedy suppression: a box stays only if its IoU with every better kept box is below `max_overlap` (1 = off).
    """
    kept: dict[str, list[Detection]] = {}
    for detection in detections:
        if detection.score > threshold:
            kept.setdefault(detection.label, []).append(detection)
    for label, found in kept.items():
        # upstream reverses an ascending sort, so that of equal scores the later comes first
        best = sorted(found, key=lambda detection: detection.score)[: -max_objects - 1 : -1]
        kept[label] = best if max_overlap == 1 else _suppress(best, max_overlap)
    return kept


def _suppress(best_first: list[Detection], max_overlap: float) -> list[Detection]:
    kept: list[Detection] = []
    for detection in best_first:
        if all(box_iou(better.box, detection.box) < max_overlap for better in kept):
            kept.append(detection)
    return kept


def box_iou(a: Sequence[float], b: Sequence[float]) -> float:
    """Intersection over union of two xyxy boxes in pixels, with the published + 1 on widths and heights."""

    def area(x0: float, y0: float, x1: float, y1: float) -> float:
        return max(x1 - x0 + 1, 0) * max(y1 - y0 + 1, 0)

    shared = area(max(a[0], b[0]), max(a[1], b[1]), min(a[2], b[2]), min(a[3], b[3]))
    union = area(*a) + area(*b) - shared
    return shared / union if union else 0.0


def relations(
    a: Sequence[float], b: Sequence[float], position_threshold: float = PUBLISHED.position_threshold
) -> list[str]:
    """The relations of box A to box B (xyxy pixels), in the order of `RELATIONS`; none, one or two hold."""
    offset_x, offset_y = (a[0] + a[2] - b[0] - b[2]) / 2, (a[1] + a[3] - b[1] - b[3]) / 2
    dx = _shrink(offset_x, position_threshold * (abs(a[2] - a[0]) + abs(b[2] - b[0])))
    dy = _shrink(offset_y, position_threshold * (abs(a[3] - a[1]) + abs(b[3] - b[1])))
    if abs(dx) < 1e-3 and abs(dy) < 1e-3:
        return []
    length = hypot(offset_x, offset_y)  # of the raw offset, not of (dx, dy): so upstream has it
    dx, dy = dx / length, dy / length
    holds = (dx < -0.5, dx > 0.5, dy < -0.5, dy > 0.5)
    return [name for name, true in zip(RELATIONS, holds, strict=True) if true]


def _shrink(offset: float, margin: float) -> float:
    """sign(offset) * max(|offset| - margin, 0)"""
    return max(offset - margin, 0.0) if offset > 0 else min(offset + margin, 0.0)


def _complaint(
    clause: Mapping[str, Any],
    found: list[Detection],
    groups: list[list[Detection] | None],
    position_threshold: float,
) -> str | None:
    """Why `found` does not satisfy an include clause, or None."""
    name, count = clause["class"], clause["count"]
    if len(found) < count:
        return f"expected {name}>={count}, found {len(found)}"
    complaint = _color_complaint(clause, found) if "color" in clause else None
    if complaint is None and "position" in clause:
        complaint = _position_complaint(clause, found, groups, position_threshold)
    return complaint


def _color_complaint(clause: Mapping[str, Any], found: list[Detection]) -> str | None:
    name, count, color = clause["class"], clause["count"], clause["color"]
    colors = [detection.color for detection in found]
    if None in colors:
        raise InputError(f"A {color} {name} is asked for, but a detected {name} has no colour: classify colours first.")
    if colors.count(color) >= count:
        return None
    others = ", ".join(f"{colors.count(c)} {c}" for c in COLORS if c in colors)
    return f"expected {color} {name}>={count}, found {colors.count(color)} {color}; and {others}"


def _position_complaint(
    clause: Mapping[str, Any],
    found: list[Detection],
    groups: list[list[Detection] | None],
    position_threshold: float,
) -> str | None:
    """The first pair of a found and a target object that does not stand in the asked relation."""
    relation, target = clause["position"]
    targets = groups[target]
    if targets is None:
        return f"no target for {clause['class']} to be {relation}"
    for detection in found:
        for other in targets:
            true = relations(detection.box, other.box, position_threshold)
            if relation not in true:
                return f"expected {clause['class']} {relation} target, found {' and '.join(true)} target"
    return None


def needs_color(metadata: Mapping[str, Any], detections: Sequence[Detection]) -> list[int]:
    """Indices of the detections whose colour the rules may ask for, at any thresholds that can be asked for later.

    A clause uses its `count` best-scored objects. Suppression never removes the best one, so for one object only that
    one matters; for more, other overlaps choose others, and the 16 best of the class are taken.
    """
    indices: set[int] = set()
    for clause in metadata.get("include", ()):
        if "color" not in clause:
            continue
        same = [i for i, d in enumerate(detections) if d.label == clause["class"] and d.score > SAVED_SCORE]
        best = sorted(same, key=lambda i: detections[i].score)[::-1]
        indices.update(best[: 1 if clause["count"] == 1 else 16])
    return sorted(indices)
