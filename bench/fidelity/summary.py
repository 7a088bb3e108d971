"""From saved features to the set metrics: values, intervals, summaries; no model and no picture."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce
from operator import add
from pathlib import Path
from typing import Any

import numpy as np

from bench.fidelity import metrics
from bench.fidelity.features import iter_features, load_features, read_names
from bench.fidelity.intervals import bias_curve, deal_groups, jackknife
from bench.fidelity.metrics import Moments
from bench.fidelity.reference import NO_REFERENCE, Reference, grouped_sums
from bench.fidelity.variants import Variant, recipe_of
from bench.passport import passport
from bench.records import Score, Summary, write_json, write_jsonl
from bench.sets import refuse_unpaired
from bench.statistics import bootstrap_ci
from l2p.errors import InputError

FEWEST = 3  # one left out, a covariance of the others
SPLIT_SIZE = 50  # pictures of a split of IS: of one alone the score is 1 whatever it shows, of few it is near 1
JACKKNIFE = "jackknife over groups of images, the reference held fixed"


@dataclass(frozen=True, kw_only=True)
class Saved:
    """What a metric is computed from: the images' features in a folder, the reference, the recipe."""

    directory: Path
    reference: Reference
    variant: Variant
    names: list[str]
    groups: np.ndarray
    allow_few: bool = False


@dataclass(frozen=True, kw_only=True)
class Result:
    """A metric's value with its interval; `rows` are the pictures' own values where it is a mean of them; `few` says
    that there were fewer pictures than it needs."""

    value: float
    interval: tuple[float, float]
    details: dict[str, Any]
    rows: list[Score] = field(default_factory=list)
    few: bool = False


def saved_features(directory: Path, reference: Reference, variant: Variant, allow_few: bool = False) -> Saved:
    """The features of a folder; InputError where a paired variant's names differ from the reference's."""
    names = read_names(directory)
    if variant.paired and reference is not NO_REFERENCE:
        refuse_unpaired(names, reference.names)
    return Saved(
        directory=directory,
        reference=reference,
        variant=variant,
        names=names,
        groups=deal_groups(len(names)),
        allow_few=allow_few,
    )


def fid(saved: Saved, view: str = "whole") -> Result:
    """FID, of whole pictures or of patches, with how it falls with n."""
    reference = saved.reference.moments[view]
    needed, name = len(reference.mean) + 1, "FID" if view == "whole" else "FID-patch"
    distance, counts = _distance(saved, view, reference)
    few = _refuse_few(
        saved, name, needed, "so that its covariance is not singular", images=sum(counts), reference=reference.count
    )
    every = range(len(counts))
    value = distance(every)
    return Result(
        value=value,
        interval=jackknife(value, [distance([other for other in every if other != group]) for group in every]),
        details={
            "interval": JACKKNIFE,
            "rows": sum(counts),
            "reference_rows": reference.count,
            "needed": needed,
            "bias": bias_curve(counts, distance),
        },
        few=few,
    )


def _distance(saved: Saved, view: str, reference: Moments) -> tuple[Callable[[Sequence[int]], float], list[int]]:
    """The distance of some groups' pictures from the reference, and how many rows each group has.

    From the groups' sums, or where there are fewer rows than features from the rows themselves, which costs less.
    """
    per_picture = next(iter_features(saved.directory, view))[0].size // len(reference.mean)
    counts = [int(count) * per_picture for count in np.bincount(saved.groups)]
    if sum(counts) > len(reference.mean):
        sums = grouped_sums(iter_features(saved.directory, view), saved.groups)
        root = metrics.root(reference.covariance)

        def of_sums(groups: Sequence[int]) -> float:
            total = reduce(add, [sums[group] for group in groups])
            return metrics.frechet_distance(metrics.moments_of(total), reference, root)

        return of_sums, counts
    rows = load_features(saved.directory, view).reshape(sum(counts), -1).astype(np.float64)
    products, own = rows @ reference.covariance @ rows.T, np.repeat(saved.groups, per_picture)

    def of_rows(groups: Sequence[int]) -> float:
        keep = np.isin(own, groups)
        return metrics.frechet_distance_of_rows(rows[keep], products[np.ix_(keep, keep)], reference)

    return of_rows, counts


def inception_score(saved: Saved) -> Result:
    """IS of the images; it has no reference."""
    logits, variant = load_features(saved.directory, "logits"), saved.variant
    groups = range(int(saved.groups.max()) + 1)

    def score(rows: np.ndarray) -> float:
        return metrics.inception_score(rows, splits=variant.splits, seed=variant.split_seed)

    splits, largest = variant.splits, int(np.bincount(saved.groups).max())
    why = f"{SPLIT_SIZE} in each of {splits} splits"
    few = _refuse_few(saved, "IS", SPLIT_SIZE * splits, why, images=len(logits), fewest=splits)
    value = score(logits)
    if len(logits) - largest < 2 * splits:  # scores of splits of one picture do not differ
        return Result(value=value, interval=(value, value), details={"interval": "none", "splits": splits}, few=few)
    interval = jackknife(value, [score(logits[saved.groups != group]) for group in groups])
    return Result(value=value, interval=interval, details={"interval": JACKKNIFE, "splits": splits}, few=few)


def kid(saved: Saved) -> Result:
    """KID by random subsets; the interval is that of the unbiased MMD^2 of the whole sets."""
    images, reference, variant = load_features(saved.directory, "whole"), _features(saved), saved.variant
    size, fewest = variant.kid_subset_size, min(len(images), len(reference))
    needed, why = (FEWEST, "its interval leaves each out once") if variant.kid_fewer else (size, "a subset")
    few = _refuse_few(saved, "KID", needed, why, images=len(images), reference=len(reference))
    size = min(size, fewest)
    value = metrics.kernel_distance(
        images, reference, subsets=variant.kid_subsets, subset_size=size, seed=variant.kid_seed
    )
    sums = metrics.cubic_sums(images, reference, saved.groups)
    without = [metrics.unbiased_mmd_without(sums, group) for group in range(len(sums.counts))]
    details = {
        "interval": f"{JACKKNIFE}, of the unbiased MMD^2 of whole sets",
        "subsets": variant.kid_subsets,
        "subset_size": size,
        "whole_sets": metrics.unbiased_mmd_without(sums, None),
    }
    return Result(value=value, interval=jackknife(value, without), details=details, few=few)


def cmmd(saved: Saved) -> Result:
    """CMMD, on the features of CLIP's image tower."""
    images, reference = load_features(saved.directory, "whole"), _features(saved)
    _refuse_few(saved, "CMMD", 2, "a distance between sets", images=len(images), reference=len(reference))
    sums = metrics.gaussian_sums(images, reference, saved.groups)
    value = metrics.cmmd_without(sums)
    without = [metrics.cmmd_without(sums, group) for group in range(len(sums.counts))]
    return Result(value=value, interval=jackknife(value, without), details={"interval": JACKKNIFE})


def precision(saved: Saved) -> Result:
    """The share of images that lie in the reference's manifold."""
    return _share(saved, "precision", load_features(saved.directory, "whole"), _features(saved), saved.names)


def recall(saved: Saved) -> Result:
    """The share of reference pictures that lie in the images' manifold."""
    names = saved.reference.names
    return _share(saved, "recall", _features(saved), load_features(saved.directory, "whole"), names)


def _share(saved: Saved, name: str, points: np.ndarray, centres: np.ndarray, names: Sequence[str]) -> Result:
    needed = saved.variant.neighbours + 1
    why, sides = f"the {needed - 1} neighbours of a picture", (len(saved.names), len(_features(saved)))
    _refuse_few(saved, name, needed, why, images=sides[0], reference=sides[1], fewest=needed)
    inside = metrics.precision_rows(points, centres, saved.variant.neighbours)
    estimate = bootstrap_ci(["all"] * len(inside), list(names), [float(one) for one in inside])
    rows = [
        Score(prompt_id=picture, index=0, category="all", value=float(one), reason="")
        for picture, one in zip(names, inside, strict=True)
    ]
    details = {"interval": "bootstrap over the pictures counted, the manifold held fixed", "neighbours": needed - 1}
    return Result(value=estimate.value, interval=(estimate.low, estimate.high), details=details, rows=rows)


def _features(saved: Saved) -> np.ndarray:
    assert saved.reference.features is not None  # check_reference
    return saved.reference.features


def _refuse_few(
    saved: Saved, name: str, needed: int, why: str, *, images: int, reference: int | None = None, fewest: int = FEWEST
) -> bool:
    """Whether there are too few, where that was allowed; else InputError with the number that is needed.

    Below `fewest` nothing can be computed, allowed or not.
    """
    least = min(images, images if reference is None else reference)
    if least >= needed:
        return False
    if saved.allow_few and least >= fewest:
        return True
    of_reference = "" if reference is None else f" and {reference:,} of the reference"
    allowed = ", or --allow-few: the figure is then named so" if least >= fewest else ""
    raise InputError(
        f"{name} needs {needed:,} pictures ({why}); there are {images:,} of the images{of_reference}. Give more, or "
        f"use another metric (KID needs fewer than FID){allowed}."
    )


COMPUTE: dict[str, Callable[[Saved], Result]] = {
    "fid": fid,
    "fid-patch": lambda saved: fid(saved, "patches"),
    "is": inception_score,
    "kid": kid,
    "precision": precision,
    "recall": recall,
    "cmmd": cmmd,
}
"""The set metrics by name; each raises InputError for too few pictures, with the number that is needed."""


def write_summary(metric: str, result: Result, saved: Saved, settings: Mapping[str, Any], folder: Path) -> Summary:
    """Write a metric's `summary.json` (and `scores.jsonl`, where it is a mean over pictures) into a folder.

    `settings` is the passport without what the metric adds.
    """
    variant, about = saved.variant, saved.reference.about
    rule = variant.source if metric in variant.published else f"pictures as {variant.source}, torch-fidelity's rule"
    name = variant.name if metric == "fid-patch" else variant.name.partition(",")[0]  # other patches touch no other
    num_scored = len(result.rows) or len(saved.names)
    summary = Summary(
        benchmark=metric,
        version=f"{len(saved.names)} images" + (f", {about['count']} of the reference" if about else ""),
        variant=name + (", few" if result.few else ""),
        subject=settings["generation"]["subject"],
        overall=result.value,
        overall_ci95=result.interval,
        by_category={},
        num_expected=num_scored,
        num_scored=num_scored,
        passport={
            **passport(**settings),
            "recipe": recipe_of(variant, settings["recipe"]["size"]) | {"rule": rule},
            "reference": {key: value for key, value in about.items() if key != "names"} or "none: it needs none",
            "details": result.details,
        },
    )
    if result.rows:
        write_jsonl(folder / "scores.jsonl", result.rows)
    write_json(folder / "summary.json", summary)
    return summary
