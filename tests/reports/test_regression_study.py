"""The gate's promise, on the committed runs and on invented ones: false alarms in at most 5 % of comparisons."""

from dataclasses import replace
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest

from reports.estimates import score_rows
from reports.regression import compare
from reports.regression.baseline import load_side
from reports.regression.significance import PROMPT_SEED_SD, SEED_SD, excess_variance
from reports.regression.study import compared, false_alarms, seen, worlds
from reports.runs import groups

RUNS = Path(__file__).parents[2] / "docs/results/miniature/runs"


@pytest.fixture(scope="module")
def recipes():
    """The committed recipes of which there are three seeds, all suites scored: no ablations."""
    whole = groups([run for run in load_side([RUNS]) if run.recipe.get("study") is None])
    return {label: runs for label, runs in whole.items() if len(runs) == 3}


def test_the_known_spread_is_no_smaller_than_the_committed_seeds_say(recipes):
    """Means over recipes of the variance between seeds beyond the images' noise."""
    whole, of_prompts = [], []
    for runs in recipes.values():
        whole += [excess_variance([[score_rows(run, "l2p", suite) for run in runs]]) for suite in ("geneval", "dpg")]
        heldout = [score_rows(run, "l2p", "heldout") for run in runs]
        of_prompts += [excess_variance([[one.only(name) for one in heldout]]) for name in set(heldout[0].categories)]
    assert 0.5 * SEED_SD < (sum(whole) / len(whole)) ** 0.5 <= SEED_SD
    # The held-out pairs of these runs are nearly all right: what their seeds differ in is less than the images' noise.
    assert max(0.0, sum(of_prompts) / len(of_prompts)) ** 0.5 <= PROMPT_SEED_SD


def test_committed_seeds_of_one_recipe_raise_no_alarm(recipes):
    short = {f"{family}-mini" for family in ("flux", "sd3", "zimage", "qwenimage", "flux2")}
    assert set(recipes) == {*short, "flux-mini-open", "flux-mini-long", "flux-mini-long-open"}
    for runs in recipes.values():
        for first, other in permutations(runs, 2):
            assert {check.outcome for check in compare([first], [other]).checks} == {"within noise"}


@pytest.mark.parametrize("num_seeds", [(1, 1), (3, 3)])
def test_false_alarms_and_drops_of_invented_seeds(recipes, num_seeds):
    """The study's fast version: 100 comparisons; docs/ci.md states 300."""
    of = worlds(recipes["flux-mini"])
    assert false_alarms(of, num_seeds, 100) <= 0.05
    assert seen(of, "geneval", 0.2, num_seeds, 20) >= 0.8
    assert seen(of, "geneval", 0.01, num_seeds, 20) <= 0.2


def test_a_study_without_any_correction_would_alarm(recipes):
    """The invented seeds do differ: uncorrected p-values are below 0.05 in far more than 5 % of comparisons."""
    generator, of = np.random.default_rng(0), worlds(recipes["flux-mini"])
    of = {name: replace(world, seed_sd=0.03) for name, world in of.items()}
    found = [min(check.p_value for check in compared(of, 1, 1, generator, {})) for _ in range(50)]
    assert sum(p < 0.05 for p in found) > 10
