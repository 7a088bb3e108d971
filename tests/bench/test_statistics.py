"""The bootstrap against closed forms and invariants."""

import numpy as np
import pytest

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


def test_a_score_compared_with_itself_is_within_noise():
    rows = drawn()
    comparison = paired_difference(*rows, *rows)
    assert (comparison.difference.low, comparison.difference.high) == (0, 0)
    assert (comparison.p_value, comparison.verdict) == (1, "within noise")
    assert retention(*rows, *rows).low == retention(*rows, *rows).high == 1


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
    with pytest.raises(ValueError, match="nothing"):
        bootstrap_ci([], [], [])
