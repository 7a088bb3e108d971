"""How sure a set statistic is: the jackknife over groups of pictures, and FID's bias shown by smaller sets.

Pictures are dealt into groups by a seed; each group in turn is left out. The spread of those values is the standard
error of the images' side: the reference is held fixed. Source: Efron and Stein (1981), with whole groups.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from scipy import stats

from bench.statistics import CONFIDENCE

NUM_GROUPS = 16  # so that halves and quarters are groups too
HALVES, QUARTERS = 2, 4


def deal_groups(num_pictures: int, seed: int = 0) -> np.ndarray:
    """A group 0 to 15 for each picture [N], equal in size to one; fewer pictures than groups are a group each."""
    groups = np.arange(num_pictures) % min(NUM_GROUPS, num_pictures)
    return np.random.default_rng(seed).permutation(groups)


def jackknife(value: float, without: Sequence[float]) -> tuple[float, float]:
    """The 95 % interval around `value` from the statistic without each of G groups: Student's t of G - 1 degrees."""
    count = len(without)
    error = float(np.sqrt((count - 1) / count * np.square(np.asarray(without) - np.mean(without)).sum()))
    reach = float(stats.t.ppf((1 + CONFIDENCE) / 2, count - 1)) * error
    return value - reach, value + reach


def bias_curve(counts: Sequence[int], statistic: Callable[[Sequence[int]], float]) -> dict[str, Any]:
    """A statistic of the whole, of its halves and of its quarters (means over them), and where the line in 1 / n ends.

    `counts` are the groups' sizes, `statistic` is that of the groups of these numbers. FID falls with n about as 1 / n,
    so that only equal n compare; `at_infinity` is that line's end (Chong and Forsyth 2020). {} without 16 groups.
    """
    if len(counts) < NUM_GROUPS:
        return {}
    rows = []
    for parts in (QUARTERS, HALVES, 1):
        sets = np.arange(NUM_GROUPS).reshape(parts, -1).tolist()
        sizes = [sum(counts[group] for group in groups) for groups in sets]
        rows.append({"n": int(np.mean(sizes)), "value": float(np.mean([statistic(groups) for groups in sets]))})
    slope, end = np.polyfit([1 / row["n"] for row in rows], [row["value"] for row in rows], 1)
    return {"curve": rows, "at_infinity": float(end), "slope": float(slope)}
