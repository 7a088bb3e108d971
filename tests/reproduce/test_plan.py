"""What a plan costs is what the transfer does."""

from dataclasses import replace

import pytest

from bench.cost.predict import predict
from reproduce.plan import call_cost, family_of, planned
from reproduce.recipes.flux import flux_mini, flux_paper


def _step(recipe, num_processes=8):
    (work,) = [work for work in planned(recipe, num_processes) if work.stage == "transfer"]
    return work


def test_the_paper_s_step_is_planned_in_the_transfer_s_precision_and_optimiser():
    recipe = flux_paper()
    step = _step(recipe)
    assert step.case.name == "train-l2p-flux-1024-5-checkpointed-mixed-fused"
    assert (step.case.batch_size, step.case.patch_size) == (recipe.transfer.batch_size // 8, 16)
    assert (step.calls, step.shared) == (recipe.transfer.num_train_steps, False)


@pytest.mark.parametrize(
    "trainable, blocks", [("ends", "5"), ("released", "5-released"), ("head", "0"), ("all", "full")]
)
def test_what_trains_is_planned(trainable, blocks):
    recipe = flux_paper()
    step = _step(replace(recipe, transfer=replace(recipe.transfer, trainable=trainable)), num_processes=1)
    assert step.case.name == f"train-l2p-flux-1024-{blocks}-checkpointed-mixed-fused"
    assert step.case.batch_size == recipe.transfer.batch_size


def test_averaged_weights_are_planned_for():
    recipe = flux_mini()
    plain = replace(recipe, transfer=replace(recipe.transfer, ema_decay=None))
    case = _step(recipe, num_processes=2).case
    added = call_cost(case, recipe)[2] - call_cost(case, plain)[2]
    assert added == 4 * predict(case, family_of(recipe)).num_trainable_parameters > 0
