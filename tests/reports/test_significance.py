"""Holm's correction, the spread of seeds, and the gate's promise: false alarms in at most 5 % of comparisons."""

from dataclasses import replace
from itertools import permutations
from pathlib import Path

import pytest

from reports.estimates import Rows, score_rows
from reports.regression import compare
from reports.regression.baseline import load_side
from reports.regression.significance import (
    PROMPT_SEED_SD,
    SEED_SD,
    averaged,
    excess_variance,
    holm,
    seed_variance,
    tested,
)
from reports.regression.study import false_alarms, seen, worlds
from reports.runs import groups

RUNS = Path(__file__).parents[2] / "docs/results/flux-mini/runs"


@pytest.fixture(scope="module")
def recipes():
    """The committed recipes of which there are three seeds."""
    return {label: runs for label, runs in groups(load_side([RUNS])).items() if len(runs) == 3}


def rows(values, categories=None):
    names = categories or ["a"] * len(values)
    return Rows(categories=names, clusters=[str(k) for k in range(len(values))], values=values, scale=1.0)


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03], [1, 1, 1]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.01, 0.01], [3, 1]) == pytest.approx([0.01 * 4 / 3, 0.01 * 4 / 3])
    assert holm([], []) == []


def test_the_randomisation_error_by_hand():
    """Four prompts, one of which fell from 1 to 0: variance 1 / 16, t = 1."""
    found = tested([rows([1, 1, 1, 1])], [rows([0, 1, 1, 1])], num_image_prompts=0, other_seeds=False)
    assert found.change == -0.25 and found.p_value == pytest.approx(0.3173, abs=1e-3)


def test_three_prompts_are_never_certain():
    found = tested([rows([1.0] * 3)], [rows([0.0] * 3)], num_image_prompts=0, other_seeds=False)
    assert found.p_value > 0.05


def test_the_spread_of_seeds_makes_the_error_larger_and_more_seeds_smaller():
    before, after = rows([1.0] * 300 + [0.0] * 100), rows([1.0] * 280 + [0.0] * 120)
    p_values = [
        tested([before], [after], num_image_prompts=0, other_seeds=False).p_value,
        tested([before] * 3, [after] * 3, num_image_prompts=0, other_seeds=True).p_value,
        tested([before], [after], num_image_prompts=0, other_seeds=True).p_value,
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


def test_the_known_spread_is_no_smaller_than_the_committed_seeds_say(recipes):
    """Means over recipes of the variance between seeds beyond the images' noise."""
    whole, of_prompts = [], []
    for runs in recipes.values():
        whole += [excess_variance([[score_rows(run, "l2p", suite) for run in runs]]) for suite in ("geneval", "dpg")]
        heldout = [score_rows(run, "l2p", "heldout") for run in runs]
        of_prompts += [excess_variance([[one.only(name) for one in heldout]]) for name in set(heldout[0].categories)]
    assert 0.5 * SEED_SD < (sum(whole) / len(whole)) ** 0.5 <= SEED_SD
    assert 0.5 * PROMPT_SEED_SD < (sum(of_prompts) / len(of_prompts)) ** 0.5 <= PROMPT_SEED_SD


def test_committed_seeds_of_one_recipe_raise_no_alarm(recipes):
    assert len(recipes) == 2
    for runs in recipes.values():
        for first, other in permutations(runs, 2):
            assert {check.outcome for check in compare([first], [other]).checks} == {"within noise"}


@pytest.mark.parametrize("num_seeds", [(1, 1), (3, 3)])
def test_false_alarms_and_drops_of_invented_seeds(recipes, num_seeds):
    """The study's fast version: 100 comparisons; docs/ci.md states 1,000."""
    of = worlds(recipes["flux-mini"])
    assert false_alarms(of, num_seeds, 100) <= 0.05
    assert seen(of, "geneval", 0.2, num_seeds, 20) >= 0.8
    assert seen(of, "geneval", 0.01, num_seeds, 20) <= 0.2


def test_a_study_without_any_correction_would_alarm(recipes):
    """The invented seeds do differ: uncorrected p-values are below 0.05 in far more than 5 % of comparisons."""
    import numpy as np

    from reports.regression.study import compared

    generator, of = np.random.default_rng(0), worlds(recipes["flux-mini"])
    of = {name: replace(world, seed_sd=0.03) for name, world in of.items()}
    found = [min(check.p_value for check in compared(of, 1, 1, generator, {})) for _ in range(50)]
    assert sum(p < 0.05 for p in found) > 10
