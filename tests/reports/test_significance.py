"""Holm's correction and the error of a difference by hand: the images' part of it and the seeds'."""

import pytest

from reports.estimates import Rows
from reports.regression import significance
from reports.regression.significance import SEED_SD, averaged, holm, seed_variance


def rows(values, categories=None):
    names = categories or ["a"] * len(values)
    return Rows(categories=names, clusters=[str(k) for k in range(len(values))], values=values, scale=1.0)


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03], [1, 1, 1]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.01, 0.01], [3, 1]) == pytest.approx([0.01 * 4 / 3, 0.01 * 4 / 3])
    assert holm([], []) == []


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


def test_given_seeds_correct_the_known_spread():
    same, apart = [rows([0.5] * 50)] * 3, [rows([level] * 50) for level in (0.3, 0.5, 0.7)]
    prior, _ = seed_variance([same[:1], same[:1]], 0)
    assert prior == pytest.approx(SEED_SD**2)
    assert seed_variance([same, same], 0)[0] < prior < seed_variance([apart, apart], 0)[0]


def test_seeds_are_averaged_by_prompt_and_must_have_the_same():
    assert averaged([rows([0.0, 1.0]), rows([1.0, 1.0])]).values == [0.5, 1.0]
    with pytest.raises(ValueError, match="did not score the same prompts"):
        averaged([rows([0.0, 1.0]), rows([1.0])])
