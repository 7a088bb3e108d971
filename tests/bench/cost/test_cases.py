"""Names of cases, bad input, and the published sizes of the families."""

import pytest
import torch

from bench.cost.cases import Case, known_names, parse, released_patch_size
from bench.cost.components import build
from bench.cost.families import FAMILIES
from l2p.architectures import ARCHITECTURES


def test_every_listed_name_parses_to_itself():
    names = list(known_names())
    assert len(set(names)) == len(names)
    assert [parse(name).name for name in names] == names


def test_a_training_name_says_everything():
    case = parse("train-l2p-zimage-1024-5-released-checkpointed-mixed-fused", batch_size=2, text_tokens=99)
    assert case == Case(
        kind="train",
        family="zimage",
        resolution=1024,
        batch_size=2,
        text_tokens=99,
        patch_size=16,
        num_trainable_blocks=5,
        released=True,
        checkpointed=True,
        mixed=True,
        optimizer="fused",
    )


@pytest.mark.parametrize(
    "resolution, patch", [(512, 16), (1024, 16), (2048, 16), (4096, 64), (8192, 128), (10240, 160)]
)
def test_the_patch_is_the_release_s(resolution, patch):
    assert released_patch_size(resolution) == patch


@pytest.mark.parametrize(
    "name, words",
    [
        ("zimgae-4096", "zimage-4096"),
        ("flux-1024-tiled512", "vae-flux-1024-tiled512"),
        ("train-l2p-flux-1024", "close ones are"),
        ("l2p-flux-1000", "no multiple of 16 px a token; the nearest is 992"),
        ("flux-0", "no multiple"),
        ("sd3-4096", "positions up to 3072 px"),
        ("zimage-10240", "l2p-zimage-10240"),
        ("text-gpt", "unknown family 'gpt'"),
    ],
)
def test_bad_names_are_refused_with_what_is_allowed(name, words):
    with pytest.raises(ValueError, match=words):
        parse(name)


def test_a_batch_below_one_is_refused():
    with pytest.raises(ValueError, match="batch size 0"):
        parse("flux-1024", batch_size=0)


def test_every_architecture_of_l2p_can_be_costed_and_no_other():
    assert set(FAMILIES) == set(ARCHITECTURES)
    assert [family.name for family in FAMILIES.values()] == list(FAMILIES)


@pytest.mark.parametrize("name", FAMILIES)
def test_configurations_have_the_published_number_of_parameters(name):
    family = FAMILIES[name]
    for component in (family.transformer, family.vae, *family.text_encoders):
        with torch.device("meta"):
            size = sum(parameter.numel() for parameter in build(component).parameters())
        assert size == pytest.approx(component.num_parameters, rel=0.01), component.cls
