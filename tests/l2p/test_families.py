"""Every source family: the token map, and the same inputs to the transformer as the family's own pipeline gives."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import diffusers
import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from transformers import (
    CLIPTextConfig,
    CLIPTextModelWithProjection,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen3Config,
    Qwen3Model,
    T5Config,
    T5EncoderModel,
)

from l2p.architectures import ARCHITECTURES, EncodedPrompt, encode_prompt
from l2p.conversion import copy_source_weights, fit_input_projection
from l2p.pipeline import pixel_pipeline
from l2p.pixel_transformer import PixelTransformer2DModel
from tests.l2p.sources import WORDS, tiny_flux, tiny_vae, word_tokenizer

torch.set_num_threads(1)
HEADS = {"attention_head_dim": 16, "num_attention_heads": 2}
MASK = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]]).bool()

# Small configurations, and encoded prompts for them.
CONFIGS: dict[str, dict[str, Any]] = {
    "flux": HEADS | {"in_channels": 32, "num_layers": 1, "num_single_layers": 2, "joint_attention_dim": 32}
    | {"pooled_projection_dim": 16, "axes_dims_rope": (4, 6, 6), "guidance_embeds": True},
    "sd3": HEADS | {"sample_size": 8, "patch_size": 2, "in_channels": 8, "out_channels": 8, "num_layers": 2}
    | {"joint_attention_dim": 32, "caption_projection_dim": 32, "pooled_projection_dim": 16, "pos_embed_max_size": 12},
    "zimage": {"dim": 32, "n_layers": 2, "n_refiner_layers": 1, "n_heads": 2, "n_kv_heads": 2, "cap_feat_dim": 32}
    | {"in_channels": 8, "axes_dims": [4, 6, 6], "axes_lens": [96, 16, 16]},
    "qwenimage": HEADS | {"in_channels": 32, "out_channels": 8, "num_layers": 2, "joint_attention_dim": 32}
    | {"axes_dims_rope": (4, 6, 6)},
    "flux2": HEADS | {"in_channels": 32, "num_layers": 1, "num_single_layers": 2, "joint_attention_dim": 32}
    | {"axes_dims_rope": (4, 4, 4, 4)},
}  # fmt: skip
PROMPTS: dict[str, EncodedPrompt] = {
    "flux": {"prompt_embeds": torch.randn(2, 5, 32), "pooled_prompt_embeds": torch.randn(2, 16)},
    "sd3": {"prompt_embeds": torch.randn(2, 5, 32), "pooled_prompt_embeds": torch.randn(2, 16)},
    "zimage": {"prompt_embeds": torch.randn(2, 5, 32), "mask": MASK},
    "qwenimage": {"prompt_embeds": torch.randn(2, 5, 32), "mask": MASK},
    "flux2": {"prompt_embeds": torch.randn(2, 5, 32)},
}


def source_transformer(family: str) -> Any:
    torch.manual_seed(0)
    return getattr(diffusers, ARCHITECTURES[family].transformer_class)(**CONFIGS[family])


@pytest.mark.parametrize("family", ARCHITECTURES)
def test_the_token_map_is_what_the_familys_final_layer_would_be_given(family: str) -> None:
    """Run the family's own class on pixels, with its final layer in place, and catch that layer's input."""
    architecture, source = ARCHITECTURES[family], source_transformer(family)
    model = PixelTransformer2DModel.from_source(source, patch_size=8)
    copy_source_weights(model, source)
    config = architecture.pixel_config(dict(model.config.source_config), 8)
    whole = getattr(diffusers, architecture.transformer_class).from_config(config)
    own = {n.removeprefix("transformer."): t for n, t in model.state_dict().items() if n.startswith("transformer.")}
    assert not whole.load_state_dict(own, strict=False).unexpected_keys
    caught: list[torch.Tensor] = []
    final = whole.all_final_layer["8-1"] if family == "zimage" else whole.norm_out
    final.register_forward_pre_hook(lambda module, inputs: caught.append(inputs[0]))
    noisy, sigma = torch.randn(2, 3, 16, 24), torch.tensor([0.3, 0.8])
    architecture.call(whole, noisy, sigma, PROMPTS[family], 8, 3.5)
    tokens = model.token_map(noisy, sigma, PROMPTS[family])
    assert tokens.shape == (2, 32, 2, 3)
    torch.testing.assert_close(tokens.flatten(2).transpose(1, 2), caught[0][:, :6])


@pytest.mark.parametrize("family", ARCHITECTURES)
def test_no_image_depends_on_its_neighbours_prompt_length(family: str) -> None:
    source = source_transformer(family)
    model = PixelTransformer2DModel.from_source(source, patch_size=8)
    torch.nn.init.normal_(model.detailer.out_conv.weight)
    noisy, sigma = torch.randn(2, 3, 16, 16), torch.tensor([0.3, 0.8])
    both = model(noisy, sigma, PROMPTS[family]).sample
    alone = {name: t[1:, :3] if "mask" in PROMPTS[family] else t[1:] for name, t in PROMPTS[family].items()}
    torch.testing.assert_close(model(noisy[1:], sigma[1:], alone).sample, both[1:], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("family", ARCHITECTURES)
def test_only_the_two_ends_are_new(family: str) -> None:
    source = source_transformer(family)
    model = PixelTransformer2DModel.from_source(source, patch_size=8)
    report = copy_source_weights(model, source)
    projection = f"transformer.{ARCHITECTURES[family].input_projection(8)}."
    assert all(name.startswith(("detailer.", projection)) for name in report.new)
    blocks = [n for n, _ in source.named_parameters() if n.startswith(ARCHITECTURES[family].block_lists)]
    assert blocks and not set(blocks) & set(report.dropped)
    assert len(model.blocks()) == sum(len(getattr(source, name)) for name in ARCHITECTURES[family].block_lists)
    for name in ARCHITECTURES[family].refiners:
        assert hasattr(model.transformer, name), name


# --- the real pipelines --------------------------------------------------------------------------------------------


def clip(projection: int) -> CLIPTextModelWithProjection:
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    tokens = {"vocab_size": len(WORDS), "eos_token_id": 1, "bos_token_id": 2, "pad_token_id": 0}
    config = CLIPTextConfig(**sizes, **tokens, max_position_embeddings=16, projection_dim=projection)
    return CLIPTextModelWithProjection(config)


def sd3() -> Any:
    t5 = T5Config(vocab_size=len(WORDS), d_model=32, d_kv=8, d_ff=32, num_layers=1, num_heads=2)
    return diffusers.StableDiffusion3Pipeline(
        transformer=source_transformer("sd3"),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=tiny_vae(),
        text_encoder=clip(8),
        tokenizer=word_tokenizer(),
        text_encoder_2=clip(8),
        tokenizer_2=word_tokenizer(),
        text_encoder_3=T5EncoderModel(t5).eval(),
        tokenizer_3=word_tokenizer(),
    )


def decoder_sizes() -> dict[str, Any]:
    return {
        "vocab_size": len(WORDS),
        "hidden_size": 32,
        "intermediate_size": 32,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "head_dim": 16,
    }


def zimage() -> Any:
    tokenizer = word_tokenizer(64)
    tokenizer.chat_template = "{% for message in messages %}{{ message['content'] }} a {% endfor %}"
    return diffusers.ZImagePipeline(
        transformer=source_transformer("zimage"),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=tiny_vae(),
        text_encoder=Qwen3Model(Qwen3Config(**decoder_sizes())),
        tokenizer=tokenizer,
    )


def qwenimage() -> Any:
    vision = {"depth": 1, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2, "out_hidden_size": 32}
    rope = {"rope_type": "default", "mrope_section": [4, 2, 2], "rope_theta": 10000.0}
    config = Qwen2_5_VLConfig(text_config=decoder_sizes() | {"rope_parameters": rope}, vision_config=vision)
    vae = diffusers.AutoencoderKLQwenImage(
        base_dim=8,
        z_dim=8,
        dim_mult=[1, 1, 1],
        num_res_blocks=1,
        temperal_downsample=[False, False],
        latents_mean=[0.1] * 8,
        latents_std=[2.0] * 8,
    )
    return diffusers.QwenImagePipeline(
        transformer=source_transformer("qwenimage"),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=vae,
        text_encoder=Qwen2_5_VLForConditionalGeneration(config),
        tokenizer=word_tokenizer(128),
    )


PIPELINES: dict[str, Callable[[], Any]] = {"flux": tiny_flux, "sd3": sd3, "zimage": zimage, "qwenimage": qwenimage}


@pytest.fixture(scope="module", params=PIPELINES)
def source(request: pytest.FixtureRequest) -> Any:
    torch.manual_seed(1)
    pipeline = PIPELINES[request.param]()
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


class Recorder:
    """Stands for a transformer and keeps what it is called with."""

    def __init__(self, config: Any) -> None:
        self.config, self.arguments = config, {}

    def __call__(self, **arguments: Any) -> None:
        self.arguments = arguments


def family_of(pipeline: Any) -> str:
    return next(n for n, a in ARCHITECTURES.items() if a.pipeline_class == type(pipeline).__name__)


def test_our_call_is_the_pipelines_own(source: Any) -> None:
    """At the second step of the family's own sampler: the same time, positions, text, mask and guidance."""
    family, theirs = family_of(source), {}
    hook = source.transformer.register_forward_pre_hook(
        lambda module, args, kwargs: theirs.update(kwargs, args=args), with_kwargs=True
    )
    length = {"zimage": 64, "qwenimage": 64}.get(family, 12)
    source(["a red star", "two blue"], height=16, width=16, num_inference_steps=2, max_sequence_length=length,
           guidance_scale=0.0 if family == "zimage" else 1.0, output_type="latent")  # fmt: skip
    hook.remove()
    recorder = Recorder(SimpleNamespace(**source.transformer.config))
    prompt = encode_prompt(source, family, ["a red star", "two blue"], length)
    sigma = source.scheduler.sigmas[1].repeat(2)
    ARCHITECTURES[family].call(recorder, torch.randn(2, 3, 16, 16), sigma, prompt, 8, 1.0)
    ours = recorder.arguments
    if family == "zimage":
        x, theirs["t"], theirs["cap_feats"] = theirs["args"]
        assert [image.ndim for image in ours["x"]] == [image.ndim for image in x] == [4, 4]
    ignored = {"x", "hidden_states", "args", "joint_attention_kwargs", "attention_kwargs", "patch_size"}
    for name in (ours.keys() | theirs.keys()) - ignored:
        equal(ours.get(name), theirs.get(name), name)


def equal(ours: Any, theirs: Any, name: str) -> None:
    if isinstance(theirs, torch.Tensor) and name == "encoder_hidden_states_mask":
        assert torch.equal(ours.bool(), theirs.bool()), name
    elif isinstance(theirs, torch.Tensor):
        torch.testing.assert_close(ours, theirs, check_dtype=False, msg=lambda text: f"{name}: {text}")
    elif isinstance(theirs, list) and isinstance(theirs[0], torch.Tensor):
        for one, other in zip(ours, theirs, strict=True):
            equal(one, other, name)
    elif isinstance(theirs, list):
        assert [[tuple(shape) for shape in image] for image in ours] == theirs, name
    else:
        assert ours == theirs, name


def test_which_weights_no_gradient_reaches_is_declared(source: Any) -> None:
    """Several processes wait for every trained weight's gradient, unless they are told that some have none."""
    model = PixelTransformer2DModel.from_source(source.transformer, patch_size=8)
    prompt = encode_prompt(source, family_of(source), ["a red star", "two blue"], 64)
    model(torch.randn(2, 3, 16, 16), torch.tensor([0.3, 0.7]), prompt).sample.mean().backward()
    unreached = [name for name, parameter in model.named_parameters() if parameter.grad is None]
    assert bool(unreached) == ARCHITECTURES[family_of(source)].unread_text, unreached


def test_prompts_are_encoded_alike_by_source_and_pixel_pipeline(source: Any) -> None:
    family = family_of(source)
    model = PixelTransformer2DModel.from_source(source.transformer, patch_size=8)
    copy_source_weights(model, source.transformer)
    pixels = pixel_pipeline(source, model)
    pixels.set_progress_bar_config(disable=True)
    ours, theirs = pixels.encode_prompt(["a red star", ""], 64), encode_prompt(source, family, ["a red star", ""], 64)
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)
    drawn = pixels("a red star", height=16, width=16, num_inference_steps=1, max_sequence_length=64, output_type="np")
    assert drawn.images.shape == (1, 16, 16, 3)


def test_latents_are_on_the_patches_grid_and_scaled_as_the_source_scales_them(source: Any) -> None:
    family = family_of(source)
    model = PixelTransformer2DModel.from_source(source.transformer, patch_size=8)
    images = torch.rand(3, 3, 16, 16) * 2 - 1
    fit = fit_input_projection(model, source, [images])
    assert 0 <= fit.explained <= 1
    tokens = ARCHITECTURES[family].latent_tokens(source, images)  # [3, 4, 32]
    weight, _ = ARCHITECTURES[family].source_projection(source.transformer)
    assert tokens.shape == (3, 4, weight.shape[1]) and weight.shape[0] == 32
    seen: list[torch.Tensor] = []
    decode = source.vae.decode
    source.vae.decode = lambda latents, **_: seen.append(latents) or decode(latents)
    grid = unpatchify(tokens, family)
    source(["a red star"] * 3, height=16, width=16, num_inference_steps=1, max_sequence_length=64,
           guidance_scale=0.0 if family == "zimage" else 1.0, output_type="np",
           callback_on_step_end=lambda *_: {"latents": grid})  # fmt: skip
    source.vae.decode = decode
    encoder = source.vae.encode(images if family != "qwenimage" else images[:, :, None]).latent_dist.mode()
    torch.testing.assert_close(seen[0], encoder, atol=1e-5, rtol=1e-4)


def unpatchify(tokens: torch.Tensor, family: str) -> torch.Tensor:
    """The form in which the family's sampler holds latents: packed tokens, or [B, C, h, w]."""
    if family in ("flux", "qwenimage"):
        return tokens
    order = (0, 5, 1, 3, 2, 4) if family == "zimage" else (0, 3, 1, 4, 2, 5)
    inner = (2, 2, 8) if family == "zimage" else (8, 2, 2)
    return tokens.reshape(len(tokens), 2, 2, *inner).permute(*order).reshape(len(tokens), 8, 4, 4)
