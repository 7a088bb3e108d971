"""L2PPipeline: reproducible images, guidance, inputs, saving."""

from pathlib import Path

import numpy as np
import pytest
import torch

from l2p.flow import sigmas
from l2p.pipeline import L2PPipeline
from l2p.sampling import draw_noise
from l2p.sources import load_source
from tests.l2p.pixels import close, generators, moved
from tests.l2p.pixels import pixels as pixel_pipeline_of

SMALL = {"height": 16, "width": 16, "num_inference_steps": 3, "max_sequence_length": 12, "output_type": "np"}
LATENT = {**SMALL, "output_type": "latent"}
PROMPTS = ["a red star", "two blue", "a circle"]


@pytest.fixture
def pixels() -> L2PPipeline:
    """The tiny FLUX source as a pixel pipeline whose inputs move the image."""
    return pixel_pipeline_of("flux")


def test_an_image_depends_on_its_prompt_and_seed_alone(pixels: L2PPipeline) -> None:
    together = pixels(PROMPTS, generator=generators(1, 2, 3), **LATENT).images
    alone = pixels(PROMPTS[1], generator=generators(2), **LATENT).images
    again = pixels(PROMPTS, generator=generators(1, 2, 3), **LATENT).images
    assert together.shape == (3, 3, 16, 16) and torch.equal(together, again)
    close(alone, together[1:2])
    assert moved(alone, together[:1]) > 0.1
    assert moved(alone, pixels(PROMPTS[0], generator=generators(2), **LATENT).images) > 0.1


def test_guidance_is_the_standard_form(pixels: L2PPipeline) -> None:
    """Unroll the sampler by hand: Euler steps on uncond + w (cond - uncond)."""
    noisy = draw_noise((1, 3, 16, 16), generators(7))
    cond, uncond = pixels.encode_prompt("two blue", 12), pixels.encode_prompt("", 12)
    levels = sigmas(3, 3.0)
    for now, then in zip(levels[:-1], levels[1:], strict=True):
        with torch.no_grad():
            v = [pixels.transformer(noisy, now[None], p, return_dict=False)[0] for p in (uncond, cond)]
        noisy = noisy + (then - now) * (v[0] + 2.5 * (v[1] - v[0]))
    drawn = pixels("two blue", guidance_scale=2.5, generator=generators(7), **LATENT).images
    close(drawn, noisy)


def test_guidance_of_one_is_off_and_runs_no_second_forward(pixels: L2PPipeline) -> None:
    sizes: list[int] = []
    pixels.transformer.detailer.register_forward_pre_hook(lambda module, inputs: sizes.append(len(inputs[0])))
    pixels(PROMPTS, guidance_scale=1, generator=generators(1, 2, 3), **SMALL)
    assert sizes == [3, 3, 3]


def test_encoded_prompts_serve_as_well_as_texts(pixels: L2PPipeline) -> None:
    embeds, negative = pixels.encode_prompt(PROMPTS, 12), pixels.encode_prompt("star", 12)
    plain = pixels(PROMPTS, negative_prompt="star", generator=generators(1, 2, 3), **SMALL).images
    cached = pixels(
        prompt_embeds=embeds, negative_prompt_embeds=negative, generator=generators(1, 2, 3), **SMALL
    ).images
    assert np.array_equal(plain, cached)
    other = pixels(PROMPTS, negative_prompt="", generator=generators(1, 2, 3), **SMALL).images
    assert not np.array_equal(plain, other)


def test_a_callback_sees_each_step_and_may_change_the_image(pixels: L2PPipeline) -> None:
    steps = []

    def blacken(pipeline: L2PPipeline, step: int, timestep: torch.Tensor, tensors: dict[str, torch.Tensor]) -> dict:
        steps.append((step, round(float(timestep))))
        return {"latents": torch.full_like(tensors["latents"], -1)} if step == 2 else {}

    images = pixels("a", generator=generators(1), callback_on_step_end=blacken, **SMALL).images
    assert steps == [(0, 1000), (1, 857), (2, 600)] and images.max() == 0


def test_saved_and_loaded_it_draws_the_same(pixels: L2PPipeline, tmp_path: Path) -> None:
    pixels.save_pretrained(tmp_path)
    loaded = L2PPipeline.from_pretrained(tmp_path)
    loaded.set_progress_bar_config(disable=True)
    first, second = (p("two blue", generator=generators(2), **SMALL).images for p in (pixels, loaded))
    assert np.array_equal(first, second)


def test_pil_images_come_out(pixels: L2PPipeline) -> None:
    image = pixels("a", generator=generators(1), **{**SMALL, "output_type": "pil", "width": 24}).images[0]
    assert image.size == (24, 16) and image.mode == "RGB"


def test_bad_input_is_named(pixels: L2PPipeline, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="2 generators for 3 images"):
        pixels(PROMPTS, generator=generators(1, 2), **SMALL)
    with pytest.raises(ValueError, match="either `prompt` or `prompt_embeds`"):
        pixels(**SMALL)
    with pytest.raises(ValueError, match="2 negative prompts for 3 prompts"):
        pixels(PROMPTS, negative_prompt=["a", "b"], **SMALL)
    with pytest.raises(ValueError, match="both must be multiples of 8"):
        pixels("a", **{**SMALL, "height": 20})
    with pytest.raises(ValueError, match=r"height 16\.0 and width 24 are pixels: give whole numbers"):
        pixels("a", **{**SMALL, "height": 16.0, "width": 24})
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(ValueError, match=r"is no diffusers pipeline: .* found \['notes.txt'\]"):
        load_source(tmp_path)
    with pytest.raises(FileNotFoundError, match="no source at"):
        load_source(tmp_path / "absent")
