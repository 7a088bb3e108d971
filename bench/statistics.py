"""Confidence intervals and comparisons by bootstrap over prompts; numpy only.

Images of one prompt are alike, so whole prompts are resampled: `clusters` names each image's prompt (GenEval: its text,
since a suite may hold a text twice; DPG: its item). Resampling stays within a category, and the overall value is the
mean of the category means. Both sides of a comparison share the resampled prompts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

CONFIDENCE = 0.95


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
    """Sums and counts of each cluster [subjects, clusters] of one category."""

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
    num_resamples: int = 2000,
    seed: int = 0,
) -> Estimate:
    """The mean of category means with its 95 % percentile interval; the three sequences run in parallel.

    Raises ValueError for no values or an unscored one (None): leave unscored images out on purpose, or not at all.
    """
    table = _table([(categories, clusters, values)])
    resampled = _resample(table, num_resamples, seed)[0]  # [num_resamples]
    return _estimate(_overall(table)[0], resampled, table)


def paired_difference(
    categories: Sequence[str],
    clusters: Sequence[str],
    values: Sequence[float],
    other_categories: Sequence[str],
    other_clusters: Sequence[str],
    other_values: Sequence[float],
    *,
    higher_is_better: bool = True,
    num_resamples: int = 2000,
    seed: int = 0,
) -> Comparison:
    """The other subject's overall minus the first one's, both drawn on the same resampled prompts.

    The p-value is twice the smaller share of resampled differences on either side of zero, so it is below 0.05 where
    the interval leaves zero out. Raises ValueError when the two did not score the same prompts.
    """
    table = _table([(categories, clusters, values), (other_categories, other_clusters, other_values)])
    first, other = _resample(table, num_resamples, seed)
    overall = _overall(table)
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
    num_resamples: int = 2000,
    seed: int = 0,
) -> Estimate:
    """The other subject's overall divided by the source's, with its interval from shared resampled prompts.

    Raises ValueError when the two did not score the same prompts, or when the source scores 0 in a resample.
    """
    table = _table([(categories, clusters, source_values), (other_categories, other_clusters, other_values)])
    source, other = _resample(table, num_resamples, seed)
    overall = _overall(table)
    if overall[0] <= 0 or source.min() <= 0:
        raise ValueError(f"The source scores {overall[0]:.4f} overall: too little for a ratio; compare differences.")
    return _estimate(overall[1] / overall[0], other / source, table)


def verdict(difference: Estimate, higher_is_better: bool = True) -> Literal["better", "worse", "within noise"]:
    """`better` or `worse` when the interval of a difference leaves zero out, else `within noise`."""
    if difference.low <= 0 <= difference.high:
        return "within noise"
    return "better" if (difference.low > 0) == higher_is_better else "worse"


def _scored(values: Sequence[float]) -> Sequence[float]:
    num_unscored = sum(value is None for value in values)
    if num_unscored:
        raise ValueError(
            f"{num_unscored} of {len(values)} values are unscored (None): a mean over the rest hides them."
        )
    return values


def _table(subjects: Sequence[tuple[Sequence[str], Sequence[str], Sequence[float]]]) -> list[_Category]:
    """Sums and counts by category and cluster for each subject; all must hold the same categories and clusters."""
    totals: list[dict[tuple[str, str], list[float]]] = []
    for categories, clusters, values in subjects:
        cells: dict[tuple[str, str], list[float]] = {}
        for category, cluster, value in zip(categories, clusters, _scored(values), strict=True):
            cell = cells.setdefault((category, cluster), [0.0, 0.0])
            cell[0] += float(value)
            cell[1] += 1
        totals.append(cells)
    _refuse_unpaired([cells.keys() for cells in totals])
    keys = sorted(totals[0])
    grouped = {category: [key for key in keys if key[0] == category] for category in sorted({key[0] for key in keys})}
    stacked = [np.array([[cells[key] for key in group] for cells in totals]) for group in grouped.values()]
    return [_Category(sums=cells[..., 0], counts=cells[..., 1]) for cells in stacked]


def _refuse_unpaired(keys: Sequence) -> None:
    if not keys[0]:
        raise ValueError("No values: there is nothing to estimate.")
    unpaired = sorted(set(keys[0]) ^ set(keys[-1]))
    if unpaired:
        shown = ", ".join(repr(cluster) for _, cluster in unpaired[:5])
        raise ValueError(
            f"{len(unpaired)} prompts were scored for one side only, such as {shown}: pair the same prompts."
        )


def _overall(table: list[_Category]) -> np.ndarray:
    """Mean of category means of each subject [subjects]."""
    return np.mean([cells.sums.sum(-1) / cells.counts.sum(-1) for cells in table], axis=0)


def _resample(table: list[_Category], num_resamples: int, seed: int) -> np.ndarray:
    """Overall values [subjects, num_resamples] with each category's clusters drawn again, with replacement."""
    generator = np.random.default_rng(seed)
    means = []
    for cells in table:
        num_clusters = cells.sums.shape[-1]
        draws = generator.multinomial(num_clusters, np.full(num_clusters, 1 / num_clusters), size=num_resamples)
        means.append((cells.sums @ draws.T) / (cells.counts @ draws.T))  # [subjects, num_resamples]
    return np.mean(means, axis=0)


def _estimate(value: float, resampled: np.ndarray, table: list[_Category]) -> Estimate:
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(resampled, [tail, 1 - tail])
    num_values = int(sum(cells.counts[0].sum() for cells in table))
    num_clusters = sum(cells.sums.shape[-1] for cells in table)
    return Estimate(
        value=float(value), low=float(low), high=float(high), num_values=num_values, num_clusters=num_clusters
    )


def _two_sided_p(differences: np.ndarray) -> float:
    """Twice the smaller tail at zero; one is added to both counts, so that it is never 0."""
    tails = [(np.sum(differences <= 0) + 1), (np.sum(differences >= 0) + 1)]
    return float(min(1.0, 2 * min(tails) / (len(differences) + 1)))
