"""Every source family: the token map, and the same inputs to the transformer as the family's own pipeline gives."""

from types import SimpleNamespace
from typing import Any

import diffusers
import pytest
import torch

from l2p.architectures import ARCHITECTURES, EncodedPrompt, Patches, encode_prompt, latent_tokens
from l2p.conversion import copy_source_weights, fit_input_projection
from l2p.pipeline import pixel_pipeline
from l2p.pixel_transformer import PixelTransformer2DModel
from tests.tiny import source as tiny_source

LENGTH = 16
MASK = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]]).bool()
# Encoded prompts of random numbers for the tiny sources.
PROMPTS: dict[str, EncodedPrompt] = {
    "flux": {"prompt_embeds": torch.randn(2, 5, 32), "pooled_prompt_embeds": torch.randn(2, 16)},
    "sd3": {"prompt_embeds": torch.randn(2, 5, 32), "pooled_prompt_embeds": torch.randn(2, 16)},
    "zimage": {"prompt_embeds": torch.randn(2, 5, 32), "mask": MASK},
    "qwenimage": {"prompt_embeds": torch.randn(2, 5, 32), "mask": MASK},
    "flux2": {"prompt_embeds": torch.randn(2, 5, 96)},
}


@pytest.fixture(scope="module", params=ARCHITECTURES)
def family(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def source(family: str) -> Any:
    return tiny_source(family)


def test_the_token_map_is_what_the_familys_final_layer_would_be_given(family: str, source: Any) -> None:
    """Run the family's own class on pixels, with its final layer in place, and catch that layer's input."""
    architecture = ARCHITECTURES[family]
    model = PixelTransformer2DModel.from_source(source.transformer, patch_size=8)
    copy_source_weights(model, source.transformer)
    config = architecture.pixel_config(dict(model.config.source_config), 8)
    whole = getattr(diffusers, architecture.transformer_class).from_config(config)
    own = {n.removeprefix("transformer."): t for n, t in model.state_dict().items() if n.startswith("transformer.")}
    assert not whole.load_state_dict(own, strict=False).unexpected_keys
    caught: list[torch.Tensor] = []
    final = whole.all_final_layer["8-1"] if family == "zimage" else whole.norm_out
    final.register_forward_pre_hook(lambda module, inputs: caught.append(inputs[0]))
    noisy, sigma = torch.randn(2, 3, 16, 24), torch.tensor([0.3, 0.8])
    architecture.call(whole, noisy, sigma, PROMPTS[family], Patches(8, architecture.patch_layout), 3.5)
    tokens = model.token_map(noisy, sigma, PROMPTS[family])
    assert tokens.shape == (2, 32, 2, 3)
    torch.testing.assert_close(tokens.flatten(2).transpose(1, 2), caught[0][:, :6])


def test_no_image_depends_on_its_neighbours_prompt_length(family: str, source: Any) -> None:
    model = PixelTransformer2DModel.from_source(source.transformer, patch_size=8)
    torch.nn.init.normal_(model.detailer.out_conv.weight)
    noisy, sigma = torch.randn(2, 3, 16, 16), torch.tensor([0.3, 0.8])
    both = model(noisy, sigma, PROMPTS[family]).sample
    alone = {name: t[1:, :3] if "mask" in PROMPTS[family] else t[1:] for name, t in PROMPTS[family].items()}
    torch.testing.assert_close(model(noisy[1:], sigma[1:], alone).sample, both[1:], atol=1e-5, rtol=1e-4)


def test_only_the_two_ends_are_new(family: str, source: Any) -> None:
    model = PixelTransformer2DModel.from_source(source.transformer, patch_size=8)
    report = copy_source_weights(model, source.transformer)
    projection = f"transformer.{ARCHITECTURES[family].input_projection(8)}."
    assert all(name.startswith(("detailer.", projection)) for name in report.new)
    blocks = [n for n, _ in source.transformer.named_parameters() if n.startswith(ARCHITECTURES[family].block_lists)]
    assert blocks and not set(blocks) & set(report.dropped)
    assert len(model.blocks()) == sum(
        len(getattr(source.transformer, name)) for name in ARCHITECTURES[family].block_lists
    )
    for name in ARCHITECTURES[family].refiners:
        assert hasattr(model.transformer, name), name


class Recorder:
    """Stands for a transformer and keeps what it is called with."""

    def __init__(self, config: Any) -> None:
        self.config, self.arguments = config, {}

    def __call__(self, **arguments: Any) -> tuple[None]:
        self.arguments = arguments
        return (None,)


def test_our_call_is_the_pipelines_own(family: str, source: Any) -> None:
    """At the second step of the family's own sampler: the same time, positions, text, mask and guidance."""
    architecture, theirs = ARCHITECTURES[family], {}
    hook = source.transformer.register_forward_pre_hook(
        lambda module, args, kwargs: theirs.update(kwargs, args=args), with_kwargs=True
    )
    source(prompt=["a red star", "two blue"], height=16, width=16, num_inference_steps=2, max_sequence_length=LENGTH,
           output_type="latent", **architecture.source_arguments(1.0, 1.0))  # fmt: skip
    hook.remove()
    recorder = Recorder(SimpleNamespace(**source.transformer.config))
    prompt = encode_prompt(source, family, ["a red star", "two blue"], LENGTH)
    sigma = source.scheduler.sigmas[1].repeat(2)
    architecture.call(recorder, torch.randn(2, 3, 16, 16), sigma, prompt, Patches(8, architecture.patch_layout), 1.0)
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
    elif isinstance(theirs, torch.Tensor) and name in ("img_ids", "txt_ids") and theirs.ndim == 3:
        equal(ours, theirs[0], name)  # of a batch of positions the forward reads the first
    elif isinstance(theirs, torch.Tensor):
        torch.testing.assert_close(ours, theirs, check_dtype=False, msg=lambda text: f"{name}: {text}")
    elif isinstance(theirs, list) and isinstance(theirs[0], torch.Tensor):
        for one, other in zip(ours, theirs, strict=True):
            equal(one, other, name)
    elif isinstance(theirs, list):
        assert [[tuple(shape) for shape in image] for image in ours] == theirs, name
    else:
        assert ours == theirs, name


def test_which_weights_no_gradient_reaches_is_declared(family: str, source: Any) -> None:
    """Several processes wait for every trained weight's gradient, unless they are told that some have none."""
    model = PixelTransformer2DModel.from_source(source.transformer, patch_size=8)
    prompt = encode_prompt(source, family, ["a red star", "two blue"], LENGTH)
    model(torch.randn(2, 3, 16, 16), torch.tensor([0.3, 0.7]), prompt).sample.mean().backward()
    unreached = [name for name, parameter in model.named_parameters() if parameter.grad is None]
    assert bool(unreached) == ARCHITECTURES[family].unread_text, unreached


def test_prompts_are_encoded_alike_by_source_and_pixel_pipeline(family: str, source: Any) -> None:
    model = PixelTransformer2DModel.from_source(source.transformer, patch_size=8)
    copy_source_weights(model, source.transformer)
    pixels = pixel_pipeline(source, model)
    pixels.set_progress_bar_config(disable=True)
    ours, theirs = (
        pixels.encode_prompt(["a red star", ""], LENGTH),
        encode_prompt(source, family, ["a red star", ""], LENGTH),
    )
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)
    drawn = pixels(
        "a red star", height=16, width=16, num_inference_steps=1, max_sequence_length=LENGTH, output_type="np"
    )
    assert drawn.images.shape == (1, 16, 16, 3)


def test_latents_are_on_the_patches_grid(family: str, source: Any) -> None:
    model = PixelTransformer2DModel.from_source(source.transformer, patch_size=8)
    images = torch.rand(3, 3, 16, 16) * 2 - 1
    fit = fit_input_projection(model, source, [images])
    assert 0 <= fit.explained <= 1
    tokens = latent_tokens(ARCHITECTURES[family], source, images)  # [3, 4, 32]
    weight, _ = ARCHITECTURES[family].source_projection(source.transformer)
    assert tokens.shape == (3, 4, weight.shape[1]) and weight.shape[0] == 32
    assert tokens.std() > 0.01
