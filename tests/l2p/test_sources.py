"""What l2p says about each source on its latents is what the family's own pipeline does, bit for bit."""

from typing import Any

import pytest
import torch

from l2p.architectures import ARCHITECTURES, encode_prompt, latent_tokens, patchify, source_velocity
from l2p.architectures.base import Patches, unpatchify
from tests.tiny import source as tiny_source

SIGMA = 0.625  # a thousandth of 625 and a thousand times it are exact: the pipelines go through timesteps
# How each pipeline takes [B, C, h, w] as its `latents`, and how it takes what it denoises apart again at the end.
PACK = {"flux": lambda pipeline, latents: pipeline._pack_latents(latents, *latents.shape)}
PACK["qwenimage"] = PACK["flux"]
UNPACK = {
    "flux": lambda pipeline, tokens, height, width: pipeline._unpack_latents(
        tokens, height, width, pipeline.vae_scale_factor
    ),
    "qwenimage": lambda pipeline, tokens, height, width: pipeline._unpack_latents(
        tokens, height, width, pipeline.vae_scale_factor
    )[:, :, 0],
    "flux2": lambda pipeline, tokens, height, width: pipeline._unpack_latents_with_ids(
        tokens, pipeline._prepare_latent_ids(torch.zeros(len(tokens), 1, height // 8, width // 8))
    ),
}
LENGTH = 64


@pytest.fixture(scope="module", params=ARCHITECTURES)
def family(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def source(family: str) -> Any:
    """Shift 1: the sampler's sigmas are those that are asked for."""
    return tiny_source(family, shift=1.0, max_length=LENGTH)


def noisy_latents(family: str, source: Any, images: torch.Tensor) -> torch.Tensor:
    latents = ARCHITECTURES[family].encode_latents(source, images)
    return latents + torch.randn(latents.shape, generator=torch.Generator().manual_seed(1))


def images_of(height: int, width: int, number: int = 2) -> torch.Tensor:
    return torch.rand(number, 3, height, width, generator=torch.Generator().manual_seed(0)) * 2 - 1


def one_step(family: str, source: Any, prompts: list[str], latents: torch.Tensor, size: tuple[int, int], **arguments):
    """The velocity that the family's own pipeline hands to its scheduler, [B, C, h, w]."""
    seen: list[torch.Tensor] = []
    step = source.scheduler.step

    def spy(velocity: torch.Tensor, *rest: Any, **options: Any) -> Any:
        seen.append(velocity)
        return step(velocity, *rest, **options)

    source.scheduler.step = spy
    try:
        source(
            prompt=list(prompts),  # ZImagePipeline writes into the list
            height=size[0],
            width=size[1],
            sigmas=[SIGMA],
            num_inference_steps=1,
            max_sequence_length=LENGTH,
            latents=PACK[family](source, latents) if family in PACK else latents,
            output_type="latent",
            **arguments,
        )
    finally:
        source.scheduler.step = step
    return UNPACK[family](source, seen[0], *size) if family in UNPACK else seen[0]


PROMPTS = {
    "alike": ["a red star", "two blue circle"],
    "differing": ["a red star", "a blue circle and " * 9 + "two star"],  # for Z-Image on both sides of 32 tokens
}


@pytest.mark.parametrize("told", PROMPTS)
@pytest.mark.parametrize("size", [(16, 16), (16, 32), (32, 24)])
def test_the_velocity_on_latents_is_the_pipelines_own(
    family: str, source: Any, told: str, size: tuple[int, int]
) -> None:
    architecture, prompts = ARCHITECTURES[family], PROMPTS[told]
    latents = noisy_latents(family, source, images_of(*size))
    theirs = one_step(family, source, prompts, latents, size, **architecture.source_arguments(1.0, 3.5))
    prompt = encode_prompt(source, family, prompts, LENGTH)
    with torch.no_grad():
        ours = source_velocity(architecture, source.transformer, latents, torch.full((2,), SIGMA), prompt)
    assert ours.shape == latents.shape and ours.std() > 0.01
    assert torch.equal(ours, theirs)


@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_source_arguments_guide_as_they_say(family: str, source: Any, scale: float) -> None:
    """The pipeline with them moves by uncond + w (cond - uncond); Qwen-Image's rescales that to the norm of cond."""
    architecture, prompts, size = ARCHITECTURES[family], PROMPTS["alike"], (16, 24)
    if family == "flux2" and scale != 1:
        with pytest.raises(ValueError, match="knows no true guidance, so guidance_scale 3.0 must be 1"):
            architecture.source_arguments(scale, 3.5)
        return
    latents = noisy_latents(family, source, images_of(*size))
    theirs = one_step(family, source, prompts, latents, size, **architecture.source_arguments(scale, 3.5))
    sigma = torch.full((2,), SIGMA)
    with torch.no_grad():
        told, untold = (
            source_velocity(
                architecture, source.transformer, latents, sigma, encode_prompt(source, family, texts, LENGTH)
            )
            for texts in (prompts, ["", ""])
        )
    assert not torch.equal(told, untold)
    ours = untold + scale * (told - untold)
    if family == "qwenimage" and scale != 1:
        norms = [patchify(v, 2).norm(dim=-1, keepdim=True) for v in (told, ours)]
        ours = unpatchify(patchify(ours, 2) * norms[0] / norms[1], (4, 6), Patches(2, "ph pw c"))
    torch.testing.assert_close(theirs, ours, atol=1e-5, rtol=1e-4)


def test_guidance_embeddings_are_fed_as_the_pipeline_feeds_them() -> None:
    """FLUX.1-dev and FLUX.2 have one: the pipeline's `guidance_scale`."""
    for family in ("flux", "flux2"):
        source = tiny_source(family, shift=1.0, max_length=LENGTH)
        config = {**source.transformer.config, "guidance_embeds": True}
        torch.manual_seed(0)
        source.transformer = type(source.transformer).from_config(config)
        latents = noisy_latents(family, source, images_of(16, 16))
        arguments = ARCHITECTURES[family].source_arguments(1.0, 7.0)
        theirs = one_step(family, source, PROMPTS["alike"], latents, (16, 16), **arguments)
        prompt = encode_prompt(source, family, PROMPTS["alike"], LENGTH)
        with torch.no_grad():
            ours, others = (
                source_velocity(
                    ARCHITECTURES[family], source.transformer, latents, torch.full((2,), SIGMA), prompt, guidance
                )
                for guidance in (7.0, 2.0)
            )
        assert torch.equal(ours, theirs) and not torch.equal(ours, others)


def test_latents_are_decoded_as_the_pipeline_decodes_them(family: str, source: Any) -> None:
    architecture, images = ARCHITECTURES[family], images_of(16, 32)
    latents = architecture.encode_latents(source, images).contiguous()  # as what a sampler has drawn
    decoded = architecture.decode_latents(source, latents)
    assert decoded.shape == images.shape and decoded.std() > 1e-3
    handed = PACK[family](source, latents) if family in PACK else latents
    if family == "flux2":
        handed = source._pack_latents(latents)
    theirs = source(
        prompt=["a red star"] * 2,
        height=16,
        width=32,
        num_inference_steps=1,
        max_sequence_length=LENGTH,
        output_type="pt",
        callback_on_step_end=lambda *_: {"latents": handed},
        **architecture.source_arguments(1.0, 3.5),
    ).images
    assert torch.equal((decoded / 2 + 0.5).clamp(0, 1), theirs)


def test_what_was_encoded_is_what_the_autoencoder_is_given_back(family: str, source: Any) -> None:
    images, seen = images_of(16, 32), []
    decode = source.vae.decode
    source.vae.decode = lambda latents, **options: seen.append(latents) or decode(latents, **options)
    try:
        ARCHITECTURES[family].decode_latents(source, ARCHITECTURES[family].encode_latents(source, images))
    finally:
        source.vae.decode = decode
    with torch.no_grad():
        encoded = source.vae.encode(images[:, :, None] if family == "qwenimage" else images).latent_dist.mode()
    torch.testing.assert_close(seen[0], encoded, atol=1e-6, rtol=1e-5)


def test_encoding_is_the_pipelines_own_where_it_has_one() -> None:
    source = tiny_source("flux2")
    theirs = source._encode_vae_image(images_of(16, 32), None)
    assert torch.equal(ARCHITECTURES["flux2"].encode_latents(source, images_of(16, 32)), theirs)


def test_the_source_projection_reads_latent_tokens(family: str, source: Any) -> None:
    """Tokens times the projection's matrix are what the source's own input layer gives out."""
    architecture, images, seen = ARCHITECTURES[family], images_of(16, 32), []
    name = {"flux": "x_embedder", "flux2": "x_embedder", "qwenimage": "img_in", "sd3": "pos_embed.proj"}
    layer = source.transformer.get_submodule(name.get(family, "all_x_embedder.2-1"))
    hook = layer.register_forward_hook(lambda module, inputs, output: seen.append(output))
    latents, prompt = (
        architecture.encode_latents(source, images),
        encode_prompt(source, family, PROMPTS["alike"], LENGTH),
    )
    with torch.no_grad():
        source_velocity(architecture, source.transformer, latents, torch.full((2,), SIGMA), prompt)
    hook.remove()
    weight, bias = architecture.source_projection(source.transformer)
    ours = torch.nn.functional.linear(latent_tokens(architecture, source, images), weight, bias)  # [2, 8, D]
    theirs = seen[0].flatten(2).transpose(1, 2) if family == "sd3" else seen[0]
    if family == "zimage":  # one sequence of images, each padded to 32 tokens
        theirs = theirs.reshape(2, 32, -1)[:, :8]
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("layout", ["ph pw c", "c ph pw"])
def test_unpatchify_is_the_inverse(layout: Any) -> None:
    images = torch.randn(2, 3, 8, 12)
    assert torch.equal(unpatchify(patchify(images, 4, layout), (8, 12), Patches(4, layout)), images)
