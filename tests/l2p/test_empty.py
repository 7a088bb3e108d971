"""A pixel model is built without memory for what the source brings, with the bytes as if all had been drawn."""

import pytest
import torch

from l2p.architectures import ARCHITECTURES
from l2p.conversion import copy_source_weights
from l2p.empty import without_weights
from l2p.initialise import new_model
from l2p.pixel_transformer import PixelTransformer2DModel
from l2p.transfer import TransferConfig
from tests import tiny

CONFIG = TransferConfig(patch_size=16, seed=5)


def drawn_whole(pipeline, config):
    """The model as it was made before: everything drawn, then the source's weights copied over it."""
    torch.manual_seed(config.seed)
    model = PixelTransformer2DModel.from_source(pipeline.transformer, patch_size=config.patch_size)
    return model, copy_source_weights(model, pipeline.transformer)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("family", ARCHITECTURES)
def test_all_tensors_are_the_same_bytes(family, dtype):
    pipeline = tiny.source(family).to(dtype)
    with torch.random.fork_rng():
        expected, expected_report = drawn_whole(pipeline, CONFIG)
    before = torch.random.get_rng_state()
    model, report = new_model(pipeline, CONFIG)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert report == expected_report and report.new and report.copied
    wanted, found = expected.state_dict(), model.state_dict()
    assert list(wanted) == list(found)
    assert [name for name in wanted if wanted[name].dtype != found[name].dtype] == []
    assert [name for name in wanted if not torch.equal(wanted[name], found[name])] == []
    new = [name for name in report.new if name.endswith("weight")]
    assert any(found[name].float().std() > 0 for name in new)
    wanted_buffers = dict(expected.named_buffers())
    for name, buffer in model.named_buffers():  # those too that are not saved
        assert torch.equal(buffer, wanted_buffers[name])


def test_what_the_source_has_takes_no_memory_of_its_own():
    pipeline = tiny.source()
    model, report = new_model(pipeline, CONFIG)
    own, source = model.state_dict(), pipeline.transformer.state_dict()
    taken = [own[name].data_ptr() == source[name.removeprefix("transformer.")].data_ptr() for name in report.copied]
    assert taken and all(taken)


def test_a_tensor_whose_numbers_were_not_seen_is_refused():
    class Odd(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.randn(3))

    with without_weights() as draws:
        model = Odd()
    with pytest.raises(ValueError, match="nothing was drawn for weight"):
        draws.fill(model, ["weight"])
