"""Offloading, device maps and low-precision storage: the same images from less memory, for every family."""

from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import diffusers.hooks.group_offloading as group_offloading
import pytest
import torch
from accelerate import cpu_offload, infer_auto_device_map
from torch import nn

from l2p.architectures import ARCHITECTURES
from l2p.detailer import DetailerConfig
from l2p.pipeline import L2PPipeline
from l2p.pixel_transformer import PixelTransformer2DModel
from tests.l2p.pixels import close, draw, moved, pixels

CPU = torch.device("cpu")


@pytest.fixture(params=ARCHITECTURES)
def pipeline(request: pytest.FixtureRequest) -> L2PPipeline:
    return pixels(request.param)


def groups(model: nn.Module) -> list[Any]:
    """The groups of weights that are loaded together."""
    hooks = [module._diffusers_hook.get_hook("group_offloading") for module in model.modules() if _hooked(module)]
    return list({id(hook.group): hook.group for hook in hooks if hook is not None}.values())


def _hooked(module: nn.Module) -> bool:
    return hasattr(module, "_diffusers_hook")


def held(group: Any) -> set[nn.Parameter]:
    """The weights of a group."""
    return {*group.parameters, *(p for module in group.modules for p in module.parameters())}


def test_sequential_offload_draws_the_same(pipeline: L2PPipeline) -> None:
    """As enable_sequential_cpu_offload does it, with the CPU for the accelerator: weights lie on no device between."""
    image = draw(pipeline)
    for component in pipeline.components.values():
        if isinstance(component, nn.Module):
            cpu_offload(component, CPU, offload_buffers=len(component._parameters) > 0)
    assert {p.device.type for p in pipeline.transformer.parameters()} == {"meta"}
    assert {p.device.type for p in pipeline.text_encoder.parameters()} == {"meta"}
    assert torch.equal(draw(pipeline), image)


def test_model_offload_draws_the_same(pipeline: L2PPipeline) -> None:
    image = draw(pipeline)
    pipeline.enable_model_cpu_offload(device="cpu")
    assert all(hasattr(pipeline.components[name], "_hf_hook") for name in ("text_encoder", "transformer"))
    assert torch.equal(draw(pipeline), image) and torch.equal(draw(pipeline), image)


def test_block_offload_loads_a_block_at_a_time_and_draws_the_same(pipeline: L2PPipeline) -> None:
    image, model = draw(pipeline), pipeline.transformer
    pipeline.enable_group_offload(CPU, offload_type="block_level", num_blocks_per_group=1)
    loaded = [held(group) for group in groups(model)]
    assert set().union(*loaded) == set(model.parameters())
    for block in model.blocks():
        assert [group for group in loaded if group & set(block.parameters())] == [set(block.parameters())]
    assert torch.equal(draw(pipeline), image)


def test_leaf_offload_draws_the_same(pipeline: L2PPipeline) -> None:
    image = draw(pipeline)
    pipeline.enable_group_offload(CPU, offload_type="leaf_level")
    assert torch.equal(draw(pipeline), image)


class Stream:
    """Stands for a stream of a GPU."""

    def synchronize(self) -> None:
        """Nothing to wait for."""


class Backend:
    """Stands for a GPU's streams; copies happen at once."""

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def stream(self, stream: Stream) -> Any:
        return nullcontext()

    def current_stream(self) -> Stream:
        return Stream()


@pytest.fixture
def streams(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(group_offloading, "TorchDeviceBackend", Backend)
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: tensor.clone())
    yield


def test_streams_prefetch_the_next_block_and_draw_the_same(pipeline: L2PPipeline, streams: None) -> None:
    """diffusers' hooks for streams, with the CPU for the GPU: nested hooks must not be registered twice."""
    image, model = draw(pipeline), pipeline.transformer
    config = group_offloading.GroupOffloadingConfig(
        onload_device=CPU,
        offload_device=CPU,
        offload_type=group_offloading.GroupOffloadingType.BLOCK_LEVEL,
        non_blocking=False,
        record_stream=False,
        low_cpu_mem_usage=False,
        num_blocks_per_group=1,
        stream=Stream(),
        block_modules=model._group_offload_block_modules,
    )
    group_offloading._apply_group_offloading(model, config)
    assert torch.equal(draw(pipeline), image)
    following = [model.blocks()[i]._diffusers_hook.get_hook("group_offloading").next_group for i in range(2)]
    assert following[0].modules[0] is model.blocks()[1]
    assert torch.equal(draw(pipeline), image)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("how", ["sequential", "model", "block", "block with streams"])
def test_offloading_to_a_gpu_draws_what_the_gpu_draws(pipeline: L2PPipeline, how: str) -> None:
    image = draw(pipeline.to("cuda")).cpu()
    pipeline.to("cpu")
    if how == "sequential":
        pipeline.enable_sequential_cpu_offload()
    elif how == "model":
        pipeline.enable_model_cpu_offload()
    else:
        pipeline.enable_group_offload(
            torch.device("cuda"), offload_type="block_level", num_blocks_per_group=1, use_stream=how != "block"
        )
    close(draw(pipeline).cpu(), image)


@pytest.mark.parametrize("compute", [torch.float32, torch.bfloat16])
def test_weights_stored_in_eight_bits_draw_what_weights_rounded_to_eight_bits_draw(
    pipeline: L2PPipeline, compute: torch.dtype
) -> None:
    image, model = draw(pipeline.to(dtype=compute)), pipeline.transformer
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    model.enable_layerwise_casting(storage_dtype=torch.float8_e4m3fn, compute_dtype=compute)
    stored = {name for name, p in model.named_parameters() if p.dtype == torch.float8_e4m3fn}
    blocks = {name for name, p in before.items() if p.ndim == 2 and name.split(".")[1] in pipeline_blocks(model)}
    assert len(blocks & stored) > 0.7 * len(blocks) and not [name for name in stored if name.startswith("detailer.")]
    drawn = draw(pipeline)
    rounded = pixels(model.config.architecture).to(dtype=compute)
    with torch.no_grad():
        for name, p in rounded.transformer.named_parameters():
            p.copy_(before[name].to(torch.float8_e4m3fn).to(compute) if name in stored else before[name])
    assert torch.equal(drawn, draw(rounded)) and moved(drawn, image) > 0


def pipeline_blocks(model: PixelTransformer2DModel) -> tuple[str, ...]:
    """The names of the lists of blocks."""
    return ARCHITECTURES[model.config.architecture].block_lists


@pytest.mark.parametrize("family", ARCHITECTURES)
def test_a_device_map_cuts_between_blocks_and_before_the_head(family: str, tmp_path: Path) -> None:
    pipeline = pixels(family, detailer=DetailerConfig(channels=(8, 8, 8, 16)))
    image, model = draw(pipeline), pipeline.transformer
    model.save_pretrained(tmp_path)
    pipeline.transformer = PixelTransformer2DModel.from_pretrained(tmp_path, device_map="auto")
    assert torch.equal(draw(pipeline), image)
    whole = model._get_no_split_modules("auto")
    size = sum(p.numel() * p.element_size() for p in model.parameters())
    parts = infer_auto_device_map(model, max_memory={0: 2 * size // 3, "cpu": size}, no_split_module_classes=whole)
    assert set(parts.values()) == {0, "cpu"}
    names = {name for name, module in model.named_modules() if type(module).__name__ in whole}
    assert "detailer" in names and not [part for part in parts if any(part.startswith(f"{name}.") for name in names)]
