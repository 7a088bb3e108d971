"""What a plan costs is what the transfer does."""

from dataclasses import replace

import pytest

from bench.cost.predict import count_parameters, predict
from l2p.pixel_transformer import PixelTransformer2DModel
from l2p.sources import load_source
from reproduce.cases import train_case
from reproduce.plan import call_cost, disk_bytes, family_of, planned
from reproduce.recipes.flux import flux_mini, flux_mini_middle, flux_paper
from reproduce.studies import find_arm


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


def test_the_recipes_own_head_is_planned():
    """A wider head costs more, one for a patch that has no ladder can be planned: what is counted is what trains."""
    pixel = PixelTransformer2DModel.from_source(
        load_source(flux_mini().source).transformer, "flux", patch_size=8, detailer=flux_mini_middle().transfer.detailer
    )
    for recipe in (flux_mini(), flux_mini_middle(), find_arm("noise-shift/4", flux_mini())):
        disk_bytes(recipe)
    num_parameters, num_trained = count_parameters(train_case(flux_mini_middle()), family_of(flux_mini_middle()))
    assert num_parameters == sum(parameter.numel() for parameter in pixel.parameters()) > num_trained
    usual = predict(train_case(flux_mini()), family_of(flux_mini()))
    wider = predict(train_case(flux_mini_middle()), family_of(flux_mini_middle()))
    assert wider.flops > 1.05 * usual.flops
    assert family_of(flux_paper()).pixel_options == {}


def test_averaged_weights_are_planned_for():
    recipe = flux_mini()
    plain = replace(recipe, transfer=replace(recipe.transfer, ema_decay=None))
    case = _step(recipe, num_processes=2).case
    added = call_cost(case, recipe)[2] - call_cost(case, plain)[2]
    assert added == 4 * predict(case, family_of(recipe)).num_trainable_parameters > 0
