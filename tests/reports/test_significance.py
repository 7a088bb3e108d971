"""Holm's correction and the error of a difference by hand: the images' part of it and the seeds'."""

import pytest
from scipy.stats import t as student

from reports.estimates import Rows
from reports.regression import Check, significance
from reports.regression.checks import judged
from reports.regression.significance import (
    PRIOR_DF,
    PROMPT_SEED_SD,
    SEED_SD,
    averaged,
    excess_variance,
    holm,
    interval,
    seed_variance,
)


def rows(values, categories=None):
    names = categories or ["a"] * len(values)
    return Rows(categories=names, clusters=[str(k) for k in range(len(values))], values=values, scale=1.0)


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03], [1, 1, 1]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.01, 0.01], [3, 1]) == pytest.approx([0.01 * 4 / 3, 0.01 * 4 / 3])
    assert holm([], []) == []


def test_alpha_is_shared_half_and_half_by_overall_scores_and_categories():
    whole = [Check(name="a", p_value=0.02, change=-1.0)]
    categories = [Check(name=str(k), part="category", p_value=p, change=1.0) for k, p in enumerate([0.004] + [0.9] * 9)]
    found = judged([*whole, *categories, Check(name="untested", part="cost", change=2.0)])
    assert [check.p_corrected for check in found[:3]] == pytest.approx([0.04, 0.04, 1.0])
    assert [check.outcome for check in found[:3]] == ["worse", "better", "within noise"]
    assert found[-1].p_corrected is None


def test_two_that_are_each_below_five_percent_are_noise_together():
    found = judged([Check(name=name, p_value=0.03, change=-1.0) for name in "ab"])
    assert [(check.p_corrected, check.outcome) for check in found] == [(0.06, "within noise")] * 2


def test_what_is_better_when_lower_is_better():
    (check,) = judged([Check(name="a", p_value=0.001, change=-1.0, higher_is_better=False)])
    assert check.outcome == "better"


def test_the_randomisation_error_by_hand():
    """Four prompts, one of which fell from 1 to 0: variance 1 / 16, t = 1."""
    found = significance.tested([rows([1, 1, 1, 1])], [rows([0, 1, 1, 1])], num_image_prompts=0, other_seeds=False)
    assert found.change == -0.25 and found.p_value == pytest.approx(0.3173, abs=1e-3)


def test_three_prompts_are_never_certain():
    found = significance.tested([rows([1.0] * 3)], [rows([0.0] * 3)], num_image_prompts=0, other_seeds=False)
    assert found.p_value > 0.05


def test_the_spread_of_seeds_makes_the_error_larger_and_more_seeds_smaller():
    before, after = rows([1.0] * 300 + [0.0] * 100), rows([1.0] * 280 + [0.0] * 120)
    p_values = [
        significance.tested([before], [after], num_image_prompts=0, other_seeds=False).p_value,
        significance.tested([before] * 3, [after] * 3, num_image_prompts=0, other_seeds=True).p_value,
        significance.tested([before], [after], num_image_prompts=0, other_seeds=True).p_value,
    ]
    assert p_values == sorted(p_values) and p_values[0] < 1e-4 and p_values[2] > 0.001


def test_where_seeds_are_all_the_noise_it_is_students_test_of_their_spread():
    """Each of 400 prompts moved by 0.02: to the images' error that is a millionth, to the seeds' two times 0.01^2."""
    before, after = rows([0.5] * 400), rows([0.52] * 400)
    found = significance.tested([before], [after], num_image_prompts=0, other_seeds=True)
    wanted = 2 * student.sf(0.02 / (2 * SEED_SD**2 + 1e-6) ** 0.5, PRIOR_DF)
    assert found.p_value == pytest.approx(wanted, rel=0.01) and wanted > 0.2


def test_both_sides_seeds_count_alike():
    before, after = [rows([0.5] * 400)], [rows([0.52] * 400)] * 3
    options = {"num_image_prompts": 0, "other_seeds": True}
    there, back = significance.tested(before, after, **options), significance.tested(after, before, **options)
    assert there.p_value == pytest.approx(back.p_value) and there.change == pytest.approx(-back.change)


def test_the_interval_is_wider_by_the_seeds_on_both_sides():
    before, after = [rows([0.0, 1.0] * 100)], [rows([1.0, 0.0] * 100)]
    narrow, wide = (
        interval(before, after, significance.tested(before, after, num_image_prompts=0, other_seeds=other))
        for other in (False, True)
    )
    assert wide.low < narrow.low - 0.001 and wide.high > narrow.high + 0.001


def test_what_images_explain_is_no_spread_of_seeds():
    """Of four prompts one fell: change and images' deviation are both 1/4. All four rose: 1, of which images 1/2."""
    assert excess_variance([[rows([1.0] * 4), rows([0.0, 1.0, 1.0, 1.0])]]) == pytest.approx(0)
    assert excess_variance([[rows([0.0] * 4), rows([1.0] * 4)]]) == pytest.approx((1 - 1 / 4) / 2)


def test_few_prompts_whose_images_are_resampled_have_a_spread_of_their_own():
    side = [rows([0.5] * 50)]
    assert seed_variance([side, side], 7) == pytest.approx((SEED_SD**2 + PROMPT_SEED_SD**2 / 7, PRIOR_DF))


def test_given_seeds_correct_the_known_spread():
    same, apart = [rows([0.5] * 50)] * 3, [rows([level] * 50) for level in (0.3, 0.5, 0.7)]
    prior, _ = seed_variance([same[:1], same[:1]], 0)
    assert prior == pytest.approx(SEED_SD**2)
    assert seed_variance([same, same], 0)[0] < prior < seed_variance([apart, apart], 0)[0]


def test_seeds_are_averaged_by_prompt_and_must_have_the_same():
    assert averaged([rows([0.0, 1.0]), rows([1.0, 1.0])]).values == [0.5, 1.0]
    with pytest.raises(ValueError, match="did not score the same prompts"):
        averaged([rows([0.0, 1.0]), rows([1.0])])
