"""The bootstrap against closed forms and invariants."""

import numpy as np
import pytest
from scipy.stats import beta

from bench.statistics import bootstrap_ci, category_means, paired_difference, retention


def drawn(num_categories=3, num_clusters=60, images=4, seed=0, within=0.5):
    """Categories, clusters and 0/1 values; `within` mixes each prompt's own difficulty with the common one."""
    random = np.random.default_rng(seed)
    rows = []
    for category in range(num_categories):
        for cluster in range(num_clusters):
            chance = within * random.random() + (1 - within) * 0.6
            rows += [(f"c{category}", f"{category}/{cluster}", float(random.random() < chance)) for _ in range(images)]
    return [list(column) for column in zip(*rows, strict=True)]


def test_the_overall_value_is_the_mean_of_category_means_not_of_images():
    categories, clusters, values = ["a"] * 3 + ["b"], ["1", "2", "3", "4"], [1.0, 1.0, 1.0, 0.0]
    assert bootstrap_ci(categories, clusters, values).value == 0.5
    assert category_means(categories, values) == {"a": 1.0, "b": 0.0}


def test_the_interval_has_the_closed_form_width_when_images_are_single():
    categories, clusters, values = drawn(num_categories=1, num_clusters=800, images=1)
    estimate = bootstrap_ci(categories, clusters, values, num_resamples=4000)
    error = np.std(values) / np.sqrt(len(values))
    assert (estimate.high - estimate.low) / (2 * 1.96 * error) == pytest.approx(1, abs=0.05)
    assert estimate.low < estimate.value < estimate.high


def test_images_of_a_prompt_are_no_independent_evidence():
    categories, clusters, values = drawn(num_categories=1, num_clusters=200, images=1)
    once = bootstrap_ci(categories, clusters, values)
    fourfold = bootstrap_ci(categories * 4, clusters * 4, values * 4)
    assert (fourfold.low, fourfold.high) == (once.low, once.high)
    assert (fourfold.num_values, fourfold.num_clusters) == (800, 200)


def test_the_interval_covers_the_truth_about_as_often_as_it_says():
    hits = 0
    for seed in range(100):
        estimate = bootstrap_ci(*drawn(num_categories=2, num_clusters=60, images=2, seed=seed), num_resamples=400)
        truth = 0.5 * 0.5 + 0.5 * 0.6
        hits += estimate.low <= truth <= estimate.high
    assert 88 <= hits <= 100


def test_the_order_of_rows_does_not_matter():
    rows = drawn()
    order = np.random.default_rng(1).permutation(len(rows[0]))
    assert bootstrap_ci(*rows) == bootstrap_ci(*[[column[i] for i in order] for column in rows])


def right_or_wrong(chance, num_categories, num_clusters, images, alike, random):
    """Rows of verdicts that are right with `chance`; prompts differ by the beta distribution of correlation `alike`."""
    rows = []
    for category in range(num_categories):
        for cluster in range(num_clusters):
            spread = (1 - alike) / alike if alike else 0
            own = random.beta(chance * spread, (1 - chance) * spread) if spread and chance < 1 else chance
            rows += [(f"c{category}", f"{category}/{cluster}", float(random.random() < own)) for _ in range(images)]
    return [list(column) for column in zip(*rows, strict=True)]


SUITES = [
    (1, 20, 1, 0.0),
    (1, 100, 1, 0.0),
    (1, 50, 2, 0.2),
    (6, 14, 4, 0.3),
    (6, 16, 1, 0.0),
    (6, 50, 1, 0.0),
    (6, 40, 4, 0.3),
]
"""Categories, prompts of each, images of a prompt, their correlation."""


@pytest.mark.parametrize("chance", [0.9, 0.98])
def test_the_interval_covers_the_truth_near_the_edge(chance):
    covered = []
    for suite in SUITES:  # the coverage of one suite moves with the few values that its score can have: their mean
        random = np.random.default_rng(7)
        for seed in range(200):
            estimate = bootstrap_ci(*right_or_wrong(chance, *suite, random), num_resamples=400, seed=seed)
            covered.append(estimate.low <= chance <= estimate.high)
    assert np.mean(covered) == pytest.approx(0.95, abs=0.02)


def test_all_right_is_not_certain_beside_a_score_that_does_not_scatter():
    """The unseen prompt of a comparison weighs as the verdicts need it, not as the smooth score does."""
    prompts = [str(k) for k in range(20)]
    alone = bootstrap_ci(["a"] * 20, prompts, [1.0] * 20)
    found = paired_difference(["a"] * 20, prompts, [0.5] * 20, ["a"] * 20, prompts, [1.0] * 20).difference
    assert found.value == 0.5 and found.value - found.low > 0.9 * (1 - alone.low)


@pytest.mark.parametrize(("num_categories", "num_prompts"), [(12, 8), (40, 6)])
def test_many_small_categories_have_the_closed_form_width(num_categories, num_prompts):
    """1.96 unbiased standard errors of the mean of category means on either side; values far from the bounds."""
    keys = [(f"c{c}", f"{c} {k}") for c in range(num_categories) for k in range(num_prompts)]
    values = [0.4, 0.6] * (len(keys) // 2)
    found = bootstrap_ci(*zip(*keys, strict=True), values, num_resamples=20_000)
    error = (0.1**2 / (num_prompts - 1) / num_categories) ** 0.5
    assert found.high - found.low == pytest.approx(2 * 1.96 * error, rel=0.03)


@pytest.mark.parametrize("suite", SUITES)
def test_all_right_is_not_certain(suite):
    rows = right_or_wrong(1.0, *suite, np.random.default_rng(0))
    estimate, num_clusters = bootstrap_ci(*rows), suite[0] * suite[1]
    assert estimate.value == estimate.high == 1
    # Jeffreys' lower end for all of n prompts right, n the clusters of one category or of all together
    assert estimate.low == pytest.approx(beta.ppf(0.025, num_clusters + 0.5, 0.5), abs=0.6 / num_clusters)
    kept, difference = retention(*rows, *rows), paired_difference(*rows, *rows).difference
    assert kept.low < 1 < kept.high and difference.low < 0 < difference.high


@pytest.mark.parametrize(("num_right", "num"), [(20, 20), (19, 20), (0, 20), (50, 100)])
def test_one_category_of_single_verdicts_has_jeffreys_interval(num_right, num):
    values = [1.0] * num_right + [0.0] * (num - num_right)
    estimate = bootstrap_ci(["a"] * num, [str(i) for i in range(num)], values, num_resamples=20_000)
    low, high = beta.ppf([0.025, 0.975], num_right + 0.5, num - num_right + 0.5)
    assert estimate.low == pytest.approx(0 if num_right == 0 else low, abs=0.005)
    assert estimate.high == pytest.approx(1 if num_right == num else high, abs=0.005)


@pytest.mark.parametrize(("source", "other"), [(0.98, 0.93), (0.98, 0.98), (1.0, 0.98)])
def test_retention_and_difference_cover_the_truth_near_the_edge(source, other):
    random, kept, differed = np.random.default_rng(3), [], []
    for seed in range(200):
        first, second = (right_or_wrong(chance, 6, 50, 1, 0.0, random) for chance in (source, other))
        ratio = retention(*first, *second, num_resamples=400, seed=seed)
        difference = paired_difference(*first, *second, num_resamples=400, seed=seed).difference
        kept.append(ratio.low <= other / source <= ratio.high)
        differed.append(difference.low <= other - source <= difference.high)
    assert 0.93 <= np.mean(kept) <= 0.99 and 0.93 <= np.mean(differed) <= 0.99


def test_points_have_the_interval_of_their_shares():
    rows = drawn()
    shares, points = bootstrap_ci(*rows), bootstrap_ci(*rows[:2], [100 * v for v in rows[2]], bounds=(0, 100))
    assert (points.low, points.value, points.high) == pytest.approx(
        (100 * shares.low, 100 * shares.value, 100 * shares.high)
    )


def test_values_far_from_the_bounds_hardly_know_of_them():
    random = np.random.default_rng(0)
    values = list(random.normal(0.9, 0.02, 400))
    estimate = bootstrap_ci(["a"] * 400, [str(i) for i in range(400)], values)
    assert estimate.high - estimate.low == pytest.approx(2 * 1.96 * np.std(values) / 400**0.5, rel=0.1)


def test_a_score_compared_with_itself_is_within_noise():
    rows = drawn()
    comparison, kept = paired_difference(*rows, *rows), retention(*rows, *rows)
    assert (
        comparison.difference.value == 0 and -0.01 < comparison.difference.low < 0 < comparison.difference.high < 0.01
    )
    assert comparison.p_value > 0.5 and comparison.verdict == "within noise"
    assert kept.value == 1 and 0.98 < kept.low < 1 < kept.high < 1.02


def test_a_real_difference_is_found_and_has_its_sign():
    rows = drawn(num_clusters=100)
    random = np.random.default_rng(2)
    worse = [value * (random.random() > 0.2) for value in rows[2]]
    comparison = paired_difference(*rows, rows[0], rows[1], worse)
    assert comparison.verdict == "worse" and comparison.p_value < 0.01
    assert comparison.difference.value == pytest.approx(np.mean(worse) - np.mean(rows[2]))
    assert paired_difference(rows[0], rows[1], worse, *rows).verdict == "better"


def test_pairing_narrows_the_difference_of_like_models():
    rows = drawn(num_clusters=100, within=1.0)
    near = [1 - value if number % 50 == 0 else value for number, value in enumerate(rows[2])]
    paired = paired_difference(*rows, rows[0], rows[1], near).difference
    alone = bootstrap_ci(*rows)
    assert paired.high - paired.low < 0.6 * (alone.high - alone.low)


def test_the_p_value_and_the_interval_agree():
    for seed in range(20):
        rows, other = drawn(num_clusters=40, seed=seed), drawn(num_clusters=40, seed=seed + 100)
        comparison = paired_difference(*rows, *other)
        if abs(comparison.p_value - 0.05) > 0.01:
            assert (comparison.p_value < 0.05) == (comparison.verdict != "within noise")


def test_retention_is_the_ratio_with_an_interval_around_it():
    rows = drawn(num_clusters=100)
    half = [value * (number % 2) for number, value in enumerate(rows[2])]
    kept = retention(*rows, rows[0], rows[1], half)
    assert kept.value == pytest.approx(np.mean(half) / np.mean(rows[2]))
    assert kept.low < kept.value < kept.high


def test_what_cannot_be_estimated_is_refused():
    rows = drawn()
    with pytest.raises(ValueError, match="unscored"):
        bootstrap_ci(rows[0], rows[1], [None, *rows[2][1:]])
    with pytest.raises(ValueError, match="one side only"):
        paired_difference(*rows, *drawn(num_clusters=59))
    with pytest.raises(ValueError, match="too little"):
        retention(rows[0], rows[1], [0.0] * len(rows[2]), *rows)
    for value in (float("nan"), 1.5, -0.1):
        with pytest.raises(ValueError, match="outside 0 to 1"):
            bootstrap_ci(rows[0], rows[1], [value, *rows[2][1:]])
    with pytest.raises(ValueError, match="nothing"):
        bootstrap_ci([], [], [])
