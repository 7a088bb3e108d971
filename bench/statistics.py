"""Confidence intervals and comparisons by a Bayesian bootstrap over prompts; numpy only.

Images of one prompt are alike, so whole prompts are weighted anew: `clusters` names each image's prompt (GenEval: its
text, since a suite may hold a text twice; DPG: its item). Weights stay within a category, and the overall value is the
mean of the category means. Both sides of a comparison share the weights.

A resampled 20 of 20 is 20 of 20, so the plain bootstrap calls it certain. Here one prompt that was never seen is added,
half of it at either bound of the values: for right-or-wrong values in one category the interval is then Jeffreys' (a
beta distribution with half a success and half a failure added), and far from the bounds it is the bootstrap's.
Source: Rubin (1981) for the weights, Brown, Cai and DasGupta (2001) for the interval at the edge.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from l2p.errors import InputError

CONFIDENCE = 0.95
UNIT_BOUNDS = (0.0, 1.0)
"""The least and the greatest value that a score can have, here of right-or-wrong verdicts."""
SMALLEST_SHAPE = 0.3  # of the clusters' Gamma weights, where a category holds one or two
LEAST_DENOMINATOR = 0.1  # a source whose score may be a tenth of what it is gives no ratio


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A value with its 95 % interval, from `num_values` images of `num_clusters` prompts."""

    value: float
    low: float
    high: float
    num_values: int
    num_clusters: int


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """B minus A, paired by prompt: `p_value` is two-sided, `verdict` says what B is, seen from A."""

    difference: Estimate
    p_value: float
    verdict: Literal["better", "worse", "within noise"]


@dataclass(frozen=True, kw_only=True)
class _Category:
    """Sums and counts of each cluster [subjects, clusters] of one category; sums are of values moved to [0, 1]."""

    sums: np.ndarray
    counts: np.ndarray


def category_means(categories: Sequence[str], values: Sequence[float]) -> dict[str, float]:
    """Mean value of each category, in order of first appearance; ValueError for an unscored (None) value."""
    groups: dict[str, list[float]] = {}
    for category, value in zip(categories, _scored(values), strict=True):
        groups.setdefault(category, []).append(float(value))
    return {category: float(np.mean(group)) for category, group in groups.items()}


def bootstrap_ci(
    categories: Sequence[str],
    clusters: Sequence[str],
    values: Sequence[float],
    *,
    bounds: tuple[float, float] = UNIT_BOUNDS,
    num_resamples: int = 2000,
    seed: int = 0,
) -> Estimate:
    """The mean of category means with its 95 % interval; the three sequences run in parallel.

    `bounds` are the least and the greatest value possible (DPG-Bench's points: 0 and 100). Raises ValueError for no
    values, one outside the bounds or not a number, or an unscored one (None): leave unscored images out on purpose, or
    not at all.
    """
    table = _table([(categories, clusters, values)], bounds)
    resampled = _resample(table, num_resamples, seed)[0]  # [num_resamples]
    low, high = bounds
    return _estimate(low + (high - low) * _overall(table)[0], low + (high - low) * resampled, table)


def paired_difference(
    categories: Sequence[str],
    clusters: Sequence[str],
    values: Sequence[float],
    other_categories: Sequence[str],
    other_clusters: Sequence[str],
    other_values: Sequence[float],
    *,
    higher_is_better: bool = True,
    bounds: tuple[float, float] = UNIT_BOUNDS,
    num_resamples: int = 2000,
    seed: int = 0,
) -> Comparison:
    """The other subject's overall minus the first one's, both drawn on the same resampled prompts.

    The p-value is twice the smaller share of resampled differences on either side of zero, so it is below 0.05 where
    the interval leaves zero out. Raises ValueError when the two did not score the same prompts.
    """
    table = _table([(categories, clusters, values), (other_categories, other_clusters, other_values)], bounds)
    first, other = (bounds[1] - bounds[0]) * _resample(table, num_resamples, seed)
    overall = (bounds[1] - bounds[0]) * _overall(table)
    difference = _estimate(overall[1] - overall[0], other - first, table)
    p_value = _two_sided_p(other - first)
    return Comparison(difference=difference, p_value=p_value, verdict=verdict(difference, higher_is_better))


def retention(
    categories: Sequence[str],
    clusters: Sequence[str],
    source_values: Sequence[float],
    other_categories: Sequence[str],
    other_clusters: Sequence[str],
    other_values: Sequence[float],
    *,
    bounds: tuple[float, float] = UNIT_BOUNDS,
    num_resamples: int = 2000,
    seed: int = 0,
) -> Estimate:
    """The other subject's overall divided by the source's, with its interval from shared weights of prompts.

    The least possible value must be 0: `bounds` are (0, greatest). Raises ValueError when the two did not score the
    same prompts, or when the source scores next to nothing.
    """
    table = _table([(categories, clusters, source_values), (other_categories, other_clusters, other_values)], bounds)
    source, other = _resample(table, num_resamples, seed)
    overall = _overall(table)
    if bounds[0] != 0:
        raise InputError(f"A ratio needs scores that begin at 0, not at {bounds[0]:g}; compare differences.")
    if overall[0] <= 0 or np.quantile(source, 0.01) <= LEAST_DENOMINATOR * overall[0]:
        raise InputError(f"The source scores {overall[0]:.4f} overall: too little for a ratio; compare differences.")
    return _estimate(overall[1] / overall[0], other / source, table)


def verdict(difference: Estimate, higher_is_better: bool = True) -> Literal["better", "worse", "within noise"]:
    """`better` or `worse` when the interval of a difference leaves zero out, else `within noise`."""
    if difference.low <= 0 <= difference.high:
        return "within noise"
    return "better" if (difference.low > 0) == higher_is_better else "worse"


def _scored(values: Sequence[float]) -> Sequence[float]:
    num_unscored = sum(value is None for value in values)
    if num_unscored:
        raise InputError(
            f"{num_unscored} of {len(values)} values are unscored (None): a mean over the rest hides them."
        )
    return values


def _table(
    subjects: Sequence[tuple[Sequence[str], Sequence[str], Sequence[float]]], bounds: tuple[float, float]
) -> list[_Category]:
    """Sums and counts by category and cluster for each subject; all must hold the same categories and clusters."""
    low, high = bounds
    totals: list[dict[tuple[str, str], list[float]]] = []
    for categories, clusters, values in subjects:
        cells: dict[tuple[str, str], list[float]] = {}
        for category, cluster, value in zip(categories, clusters, _scored(values), strict=True):
            cell = cells.setdefault((category, cluster), [0.0, 0.0])
            if not low <= value <= high:  # NaN is refused too
                raise InputError(f"The value {value} of {cluster!r} lies outside {low:g} to {high:g}.")
            cell[0] += (float(value) - low) / (high - low)
            cell[1] += 1
        totals.append(cells)
    _refuse_unpaired([cells.keys() for cells in totals])
    keys = sorted(totals[0])
    grouped = {category: [key for key in keys if key[0] == category] for category in sorted({key[0] for key in keys})}
    stacked = [np.array([[cells[key] for key in group] for cells in totals]) for group in grouped.values()]
    return [_Category(sums=cells[..., 0], counts=cells[..., 1]) for cells in stacked]


def _refuse_unpaired(keys: Sequence) -> None:
    if not keys[0]:
        raise InputError("No values: there is nothing to estimate.")
    unpaired = sorted(set(keys[0]) ^ set(keys[-1]))
    if unpaired:
        shown = ", ".join(repr(cluster) for _, cluster in unpaired[:5])
        raise InputError(
            f"{len(unpaired)} prompts were scored for one side only, such as {shown}: pair the same prompts."
        )


def _overall(table: list[_Category]) -> np.ndarray:
    """Mean of category means of each subject [subjects]."""
    return np.mean([cells.sums.sum(-1) / cells.counts.sum(-1) for cells in table], axis=0)


def _resample(table: list[_Category], num_resamples: int, seed: int) -> np.ndarray:
    """Overall values [subjects, num_resamples] with random weights on each category's clusters and on the unseen one.

    A category's clusters weigh Gamma(1 - 2 (1 - 1 / K) / n) each, so that its mean has the unbiased variance also where
    K categories share the one unseen cluster; with one category that is Rubin's Gamma(1).
    """
    generator = np.random.default_rng(seed)
    means = []
    for cells in table:
        num_clusters = cells.sums.shape[1]
        shape = max(SMALLEST_SHAPE, 1 - 2 * (1 - 1 / len(table)) / num_clusters)
        weights = generator.standard_gamma(shape, (num_resamples, num_clusters)).T
        unseen = generator.standard_gamma(_unseen_weight(cells) / len(table) / 2, (num_resamples, 2)).T
        unseen *= cells.counts.mean()  # of two subjects the unseen cluster has one wrong where the other is right
        sums = cells.sums @ weights + unseen[: len(cells.sums)]
        means.append(sums / (cells.counts @ weights + unseen.sum(0)))
    return np.mean(means, axis=0)  # [subjects, num_resamples]


def _unseen_weight(cells: _Category) -> float:
    """How many clusters the unseen one counts for: 1 where values are at the bounds only, less the closer they lie.

    It is the values' variance as a share of what it would be at the bounds, of the subject with the larger share, the
    unseen cluster counted in both.
    """
    values = cells.sums / cells.counts  # [subjects, clusters]
    num_clusters = values.shape[1]
    mean = (values.sum(1) + 0.5) / (num_clusters + 1)
    at_bounds = mean * (1 - mean)
    spread = np.square(values - mean[:, None]).sum(1) + 0.5 * np.square(mean) + 0.5 * np.square(1 - mean)
    return float((spread / (num_clusters + 1) / at_bounds).max())


def _estimate(value: float, resampled: np.ndarray, table: list[_Category]) -> Estimate:
    """A value with its interval, which holds the value itself: all right means up to 1."""
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(resampled, [tail, 1 - tail])
    num_values = int(sum(cells.counts[0].sum() for cells in table))
    num_clusters = sum(cells.sums.shape[-1] for cells in table)
    return Estimate(
        value=float(value),
        low=float(min(low, value)),
        high=float(max(high, value)),
        num_values=num_values,
        num_clusters=num_clusters,
    )


def _two_sided_p(differences: np.ndarray) -> float:
    """Twice the smaller tail at zero; one is added to both counts, so that it is never 0."""
    tails = [(np.sum(differences <= 0) + 1), (np.sum(differences >= 0) + 1)]
    return float(min(1.0, 2 * min(tails) / (len(differences) + 1)))
