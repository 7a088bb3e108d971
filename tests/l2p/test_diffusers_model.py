"""What diffusers' users do to a model: LoRA, attention processors, caches, regional compilation, for every family."""

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import (
    CacheMixin,
    FasterCacheConfig,
    FirstBlockCacheConfig,
    MagCacheConfig,
    PyramidAttentionBroadcastConfig,
    SeaCacheConfig,
    TaylorSeerCacheConfig,
)
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from l2p.architectures import ARCHITECTURES
from l2p.pipeline import L2PPipeline
from tests.l2p.pixels import close, draw, moved, pixels
from tests.tiny import source

CACHED = ("flux", "qwenimage", "flux2")  # diffusers 0.42 has no caches for Z-Image and Stable Diffusion 3
FIRST_BLOCK = ("flux", "qwenimage")  # under FLUX.2's own pipeline diffusers' first-block and Sea caches fail too
LORA_FILE = "pytorch_lora_weights.safetensors"


@pytest.fixture(params=ARCHITECTURES)
def pipeline(request: pytest.FixtureRequest) -> L2PPipeline:
    return pixels(request.param)


def add_lora(model: Any, name: str = "default") -> None:
    """Put random low-rank weights beside the attention's projections."""
    peft = pytest.importorskip("peft")
    torch.manual_seed(7)
    targets = r".*\.(to_q|to_v|to_qkv_mlp_proj)"
    model.add_adapter(peft.LoraConfig(r=2, target_modules=targets, init_lora_weights=False), name)


def test_a_lora_is_added_scaled_turned_off_saved_and_loaded(pipeline: L2PPipeline, tmp_path: Path) -> None:
    plain, model = draw(pipeline), pipeline.transformer
    add_lora(model)
    adapted = draw(pipeline)
    assert moved(adapted, plain) > 0.01
    model.disable_adapters()
    assert torch.equal(draw(pipeline), plain)
    model.enable_adapters()
    model.set_adapters("default", 0.0)
    assert torch.equal(draw(pipeline), plain)
    model.set_adapters("default", 1.0)
    model.save_lora_adapter(tmp_path)
    other = pixels(model.config.architecture)
    other.transformer.load_lora_adapter(tmp_path, prefix=None, weight_name=LORA_FILE)
    assert torch.equal(draw(other), adapted)
    model.delete_adapters("default")
    assert torch.equal(draw(pipeline), plain)


def test_a_lora_trains_and_the_rest_stays(pipeline: L2PPipeline) -> None:
    model = pipeline.transformer
    model.requires_grad_(False)
    add_lora(model)
    trained = [name for name, p in model.named_parameters() if p.requires_grad]
    assert trained and all("lora_" in name for name in trained)
    prompt = pipeline.encode_prompt(["a red star"], 48)
    model(torch.randn(1, 3, 16, 16), torch.tensor([0.5]), prompt).sample.square().mean().backward()
    assert [n for n, p in model.named_parameters() if p.grad is not None and p.grad.abs().max() > 0]
    assert not [n for n, p in model.named_parameters() if p.grad is not None and n not in trained]


def test_a_lora_of_the_source_fits_the_pixel_model(pipeline: L2PPipeline, tmp_path: Path) -> None:
    """The files of the source's own `save_lora_weights` carry the prefix under which its layers stand in our model."""
    peft = pytest.importorskip("peft")
    family, plain = pipeline.config.architecture, draw(pipeline)
    origin = source(family, max_length=64)
    add_lora(origin.transformer)
    layers = peft.utils.get_peft_model_state_dict(origin.transformer)
    if hasattr(origin, "save_lora_weights"):
        origin.save_lora_weights(tmp_path, transformer_lora_layers=layers)
    else:
        save_file({f"transformer.{name}": tensor for name, tensor in layers.items()}, tmp_path / LORA_FILE)
    pipeline.transformer.load_lora_adapter(tmp_path, prefix=None, weight_name=LORA_FILE)
    loaded = {name for name, _ in pipeline.transformer.named_parameters() if "lora_" in name}
    assert len(loaded) == len(load_file(tmp_path / LORA_FILE)) and moved(draw(pipeline), plain) > 0.01


def test_attention_processors_are_found_and_replaced(pipeline: L2PPipeline) -> None:
    image, model = draw(pipeline), pipeline.transformer
    processors = model.attn_processors
    assert {name.rpartition(".")[0] for name in processors} >= {
        name for name, module in model.named_modules() if hasattr(module, "get_processor")
    }
    calls: list[str] = []

    class Counting:
        """A processor that counts and hands on."""

        def __init__(self, name: str, processor: Any) -> None:
            self.name, self.processor = name, processor

        def __call__(self, *arguments: Any, **options: Any) -> Any:
            calls.append(self.name)
            return self.processor(*arguments, **options)

    model.set_attn_processor({name: Counting(name, processor) for name, processor in processors.items()})
    # diffusers hands a processor only the arguments that its __call__ names: these name none.
    drawn = draw(pipeline)
    assert set(calls) == set(processors) and drawn.shape == image.shape
    model.set_attn_processor(processors)
    assert torch.equal(draw(pipeline), image)


def test_fused_projections_draw_the_same(pipeline: L2PPipeline) -> None:
    image, model = draw(pipeline), pipeline.transformer
    model.fuse_qkv_projections()
    close(draw(pipeline), image)
    model.unfuse_qkv_projections()
    assert torch.equal(draw(pipeline), image)


def test_the_blocks_are_what_regional_compilation_compiles(
    pipeline: L2PPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled: list[nn.Module] = []
    monkeypatch.setattr(nn.Module, "compile", lambda module, **options: compiled.append(module))
    pipeline.transformer.compile_repeated_blocks(fullgraph=True)
    assert set(pipeline.transformer.blocks()) <= set(compiled)
    assert {type(module) for module in compiled} == {type(block) for block in pipeline.transformer.blocks()}


def count_blocks(pipeline: L2PPipeline) -> list[nn.Module]:
    """A list that grows by each attention layer that runs."""
    ran: list[nn.Module] = []
    for block in pipeline.transformer.blocks():
        block.attn.register_forward_pre_hook(lambda module, inputs: ran.append(module))
    return ran


@pytest.mark.parametrize("family", FIRST_BLOCK)
def test_a_first_block_cache_skips_blocks_and_forgets_between_calls(family: str) -> None:
    pipeline = pixels(family)
    image, ran, num_blocks = draw(pipeline), count_blocks(pipeline), len(pipeline.transformer.blocks())
    pipeline.transformer.enable_cache(FirstBlockCacheConfig(threshold=0.0))
    assert pipeline.transformer.is_cache_enabled
    assert torch.equal(draw(pipeline), image) and len(ran) == 3 * num_blocks
    pipeline.transformer.disable_cache()
    ran.clear()
    pipeline.transformer.enable_cache(FirstBlockCacheConfig(threshold=1e9))
    cached = draw(pipeline)
    assert len(ran) == num_blocks + 2  # the first step whole, then the first block alone
    assert moved(cached, image) > 0.01 and torch.equal(draw(pipeline), cached)
    pipeline.transformer.disable_cache()
    assert not pipeline.transformer.is_cache_enabled and torch.equal(draw(pipeline), image)


@pytest.mark.parametrize(
    ("family", "kind"),
    [(family, kind) for family in CACHED for kind in ("broadcast", "faster", "mag", "taylor")]
    + [(family, "sea") for family in FIRST_BLOCK],
)
def test_every_cache_of_diffusers_runs(family: str, kind: str) -> None:
    pipeline = pixels(family)
    now = {"current_timestep_callback": lambda: pipeline.current_timestep}
    configs: dict[str, Any] = {
        "broadcast": PyramidAttentionBroadcastConfig(
            spatial_attention_block_skip_range=2, spatial_attention_timestep_skip_range=(-1, 1001), **now
        ),
        "faster": FasterCacheConfig(
            spatial_attention_block_skip_range=2,
            spatial_attention_timestep_skip_range=(-1, 900),  # not the first steps: there is nothing cached yet
            attention_weight_callback=lambda _: 0.5,
            tensor_format="BCHW",
            is_guidance_distilled=True,
            **now,
        ),
        "mag": MagCacheConfig(num_inference_steps=6, mag_ratios=[1.0] * 6, retention_ratio=0.2),
        "sea": SeaCacheConfig(
            threshold=1e9,
            raw_vision_callback=lambda module, args, inputs: [t[None, None] for t in inputs["hidden_states"]],
        ),
        "taylor": TaylorSeerCacheConfig(cache_interval=2, disable_cache_before_step=1, max_order=1),
    }
    image = draw(pipeline, num_inference_steps=6)
    pipeline.transformer.enable_cache(configs[kind])
    cached = draw(pipeline, num_inference_steps=6)
    assert torch.isfinite(cached).all() and moved(cached, image) > 1e-3
    assert torch.equal(draw(pipeline, num_inference_steps=6), cached)


@pytest.mark.parametrize("family", [name for name in ARCHITECTURES if name not in CACHED])
def test_a_family_without_caches_is_told_from_those_with(family: str) -> None:
    pipeline = pixels(family)
    assert isinstance(pipeline.transformer, CacheMixin) and not pipeline.transformer.is_cache_enabled
    pipeline.transformer.disable_cache()
    with pytest.raises(ValueError, match=r"no caches for .*; it has them for \['flux', 'qwenimage', 'flux2'\]"):
        pipeline.transformer.enable_cache(FirstBlockCacheConfig())


def test_the_config_is_that_of_deltas(pipeline: L2PPipeline) -> None:
    """A delta's header holds these keys: the mixins add none."""
    public = {name for name in pipeline.transformer.config if not name.startswith("_")}
    assert public == {"architecture", "patch_size", "source_config", "prediction", "output_scale", "detailer_config",
                      "distilled_guidance"}  # fmt: skip


def test_state_dict_is_free_of_what_the_mixins_keep(pipeline: L2PPipeline) -> None:
    names = {name.split(".")[0] for name in pipeline.transformer.state_dict()}
    assert names == {"transformer", "detailer"}
    assert all(isinstance(tensor, Tensor) for tensor in pipeline.transformer.state_dict().values())
