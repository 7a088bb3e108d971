"""How much two sides of runs differ: paired by prompt, the spread of transfer seeds in the error, Holm over all checks.

A difference of two transfers has two parts of noise. The images' is that of a randomisation test: without a difference
either side could have drawn either side's images of a prompt (Fisher, 1935), so that a category of three prompts can
never look certain. The transfers' own, which no number of images makes smaller, is known beforehand from the committed
runs and corrected by the seeds given (Smyth, 2004: a prior variance with degrees of freedom of its own). The p-value is
Student's t with Satterthwaite's degrees of freedom (1946); Holm (1979) corrects it for the number of checks.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from statistics import NormalDist, mean

from bench.statistics import Estimate, paired_difference
from l2p.errors import InputError
from reports.estimates import Rows

SEED_SD = 0.013
"""Spread of one transfer seed's score round the recipe's own, as a share of the scale; `study.py` estimates it."""
PROMPT_SEED_SD = 0.07
"""The same of a single prompt, where a suite's few prompts are all there are, so that its images are resampled."""
PRIOR_DF = 4  # as of two recipes of three seeds; more are committed, but their spreads differ between families
EXACT = 1e6  # degrees of freedom of an error that is known
NORMAL_HALF = NormalDist().inv_cdf(0.975)


@dataclass(frozen=True, kw_only=True)
class Tested:
    """After minus before in the score's unit, and its two-sided p-value, of this check alone.

    ``seeds_variance`` is what the spread of seeds adds to the variance of the difference, ``freedom`` its degrees.
    """

    change: float
    p_value: float
    seeds_variance: float
    freedom: float


def tested(before: Sequence[Rows], after: Sequence[Rows], *, num_image_prompts: int, other_seeds: bool) -> Tested:
    """After minus before, each side's seeds averaged; ``other_seeds`` False where both are one and the same transfer.

    ``num_image_prompts``: the prompts, where images are resampled, else 0. Raises ValueError where the two did not
    score the same prompts.
    """
    from scipy.stats import t as student

    change, variance = _randomised(averaged(before), averaged(after))
    spread, freedom = 0.0, EXACT
    if other_seeds:
        of_one, seeds_freedom = seed_variance((before, after), num_image_prompts)
        spread = of_one * (1 / len(before) + 1 / len(after)) * before[0].scale ** 2
        freedom = min(EXACT, seeds_freedom * ((variance + spread) / spread) ** 2)
    error = (variance + spread) ** 0.5
    p_value = float(2 * student.sf(abs(change) / error, freedom)) if error else float(change == 0)
    return Tested(change=change, p_value=p_value, seeds_variance=spread, freedom=freedom)


def interval(before: Sequence[Rows], after: Sequence[Rows], found: Tested) -> Estimate:
    """The change with its 95 % interval: the paired bootstrap's, widened by the spread of seeds."""
    from scipy.stats import t as student

    first, other = averaged(before), averaged(after)
    images = paired_difference(*first.parts(), *other.parts(), bounds=first.bounds).difference
    seeds_half2 = float(student.ppf(0.975, found.freedom)) ** 2 * found.seeds_variance
    low = images.value - ((images.value - images.low) ** 2 + seeds_half2) ** 0.5
    high = images.value + ((images.high - images.value) ** 2 + seeds_half2) ** 0.5
    return replace(images, low=low, high=high)


def averaged(side: Sequence[Rows]) -> Rows:
    """One seed's rows whose values are each prompt's mean over all seeds; ValueError where seeds' prompts differ."""
    totals: dict[tuple[str, str], list[float]] = {}
    for rows in side:
        for category, cluster, value in zip(*rows.parts(), strict=True):
            totals.setdefault((category, cluster), []).append(value)
    keys = list(zip(side[0].categories, side[0].clusters, strict=True))
    for rows in side[1:]:
        if sorted(zip(rows.categories, rows.clusters, strict=True)) != sorted(keys):
            raise InputError("the seeds of one side did not score the same prompts")
    means = {key: mean(values) for key, values in totals.items()}
    return replace(side[0], values=[means[key] for key in keys])


def _randomised(first: Rows, other: Rows) -> tuple[float, float]:
    """Other minus first, and the variance that it has when every prompt's two sides are exchanged by a coin."""
    sums: dict[str, dict[str, float]] = {}
    counts: dict[str, int] = {}
    for rows, sign in ((first, -1), (other, 1)):
        for category, cluster, value in zip(*rows.parts(), strict=True):
            of_category = sums.setdefault(category, {})
            of_category[cluster] = of_category.get(cluster, 0.0) + sign * value
            counts[category] = counts.get(category, 0) + 1
    _refuse_unpaired(first, other)
    halves = {category: count / 2 for category, count in counts.items()}
    change = mean(sum(found.values()) / halves[category] for category, found in sums.items())
    variances = [sum(one**2 for one in found.values()) / halves[name] ** 2 for name, found in sums.items()]
    return change, sum(variances) / len(sums) ** 2


def _refuse_unpaired(first: Rows, other: Rows) -> None:
    sides = [sorted(zip(rows.categories, rows.clusters, strict=True)) for rows in (first, other)]
    if sides[0] != sides[1]:
        alone = sorted(set(sides[0]) ^ set(sides[1])) or sides[0]
        raise InputError(
            f"{len(alone)} prompts do not have the same number of images on both sides, such as {alone[0][1]!r}: pair "
            "the same prompts"
        )


def seed_variance(sides: Sequence[Sequence[Rows]], num_image_prompts: int) -> tuple[float, int]:
    """Variance between transfer seeds beyond the images' noise, as a share of the scale squared, and its freedom.

    The seeds given estimate it by ``excess_variance``; that is weighed with what the committed runs say.
    """
    prior = SEED_SD**2 + (PROMPT_SEED_SD**2 / num_image_prompts if num_image_prompts else 0.0)
    freedom = sum(len(side) - 1 for side in sides)
    if not freedom:
        return prior, PRIOR_DF
    excess = max(0.0, excess_variance(sides))
    return (PRIOR_DF * prior + freedom * excess) / (PRIOR_DF + freedom), PRIOR_DF + freedom


def excess_variance(sides: Sequence[Sequence[Rows]]) -> float:
    """Half the mean squared difference of two seeds of a side, less the images' part of it; may be negative."""
    found = [_randomised(*pair) for side in sides for pair in combinations(side, 2)]
    return mean(change**2 - variance for change, variance in found) / 2 / sides[0][0].scale ** 2


def holm(p_values: Sequence[float], weights: Sequence[float]) -> list[float]:
    """Each p-value corrected for all: of those up to alpha, a false one is among them in alpha of cases at most.

    ``weights`` say how alpha is shared; only their proportions matter. Source: Holm (1979), section 3.
    """
    order = sorted(range(len(p_values)), key=lambda k: p_values[k] / weights[k])
    corrected, left, largest = [1.0] * len(p_values), sum(weights), 0.0
    for k in order:
        largest = max(largest, min(1.0, p_values[k] * left / weights[k]))
        corrected[k] = largest
        left -= weights[k]
    return corrected
