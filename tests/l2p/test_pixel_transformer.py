"""The pixel transformer: shapes, predictions, saving, gradients, errors."""

from pathlib import Path

import pytest
import torch
from diffusers import FluxPipeline

from l2p.architectures import EncodedPrompt, encode_prompt, split_prompts, stack_prompts
from l2p.detailer import DetailerConfig
from l2p.flow import noisy_image, velocity_target
from l2p.pixel_transformer import PREDICTIONS, SIGMA_DATA, PixelTransformer2DModel

SIGMA = torch.tensor([0.3, 0.8])


def pixel_model(flux: FluxPipeline, **options: object) -> PixelTransformer2DModel:
    """A pixel model whose head paints something."""
    torch.manual_seed(2)
    model = PixelTransformer2DModel.from_source(flux.transformer, patch_size=8, **options)  # type: ignore[arg-type]
    torch.nn.init.normal_(model.detailer.out_conv.weight, std=0.1)
    return model


def prompt_of(flux: FluxPipeline) -> EncodedPrompt:
    return encode_prompt(flux, "flux", ["a red star", "two blue"], 12)


def test_velocity_has_the_images_shape_and_no_image_depends_on_its_batch(flux: FluxPipeline) -> None:
    model, prompt, noisy = pixel_model(flux), prompt_of(flux), torch.randn(2, 3, 16, 24)
    both = model(noisy, SIGMA, prompt).sample
    alone = model(noisy[1:], SIGMA[1:], stack_prompts(split_prompts(prompt)[1:]), return_dict=False)[0]
    assert both.shape == noisy.shape and both.std() > 0
    torch.testing.assert_close(both[1:], alone, atol=1e-6, rtol=1e-5)


def test_every_prediction_gives_the_true_velocity_when_the_head_paints_what_it_should() -> None:
    clean, noise = torch.randn(2, 3, 4, 4) * SIGMA_DATA, torch.randn(2, 3, 4, 4)
    noisy, velocity, s = noisy_image(clean, noise, SIGMA), velocity_target(clean, noise), SIGMA[:, None, None, None]
    total = (1 - s) ** 2 * SIGMA_DATA**2 + s**2
    slope = (s - (1 - s) * SIGMA_DATA**2) / total  # least squares of the velocity on the noisy pixel
    painted = {
        "velocity": velocity,
        "clean": clean,
        "preconditioned": (slope * noisy - velocity) * total.sqrt() / SIGMA_DATA,
    }
    assert painted.keys() == PREDICTIONS.keys()
    for name, prediction in PREDICTIONS.items():
        torch.testing.assert_close(prediction(painted[name], noisy, s), velocity, atol=1e-5, rtol=1e-4, msg=name)


def test_the_preconditioned_head_paints_unit_variance() -> None:
    torch.manual_seed(0)
    clean, noise = torch.randn(4, 3, 64, 64) * SIGMA_DATA, torch.randn(4, 3, 64, 64)
    for sigma in (0.1, 0.5, 0.9):
        levels = torch.full((4,), sigma)
        noisy, s = noisy_image(clean, noise, levels), levels[:, None, None, None]
        rest = velocity_target(clean, noise) - PREDICTIONS["preconditioned"](torch.zeros_like(noisy), noisy, s)
        scale = SIGMA_DATA / ((1 - s) ** 2 * SIGMA_DATA**2 + s**2).sqrt()
        assert (rest / scale).std().item() == pytest.approx(1, abs=0.02)


def test_a_clean_head_never_divides_by_less_than_the_smallest_sigma() -> None:
    velocity = PREDICTIONS["clean"](torch.zeros(1, 3, 2, 2), torch.ones(1, 3, 2, 2), torch.zeros(1, 1, 1, 1))
    torch.testing.assert_close(velocity, torch.full((1, 3, 2, 2), 20.0))


def test_saved_and_loaded_it_is_the_same_model(flux: FluxPipeline, tmp_path: Path) -> None:
    model = pixel_model(flux, prediction="clean", output_scale=0.33, detailer=DetailerConfig(upsampling="unfold"))
    model.save_pretrained(tmp_path)
    loaded = PixelTransformer2DModel.from_pretrained(tmp_path)
    prompt, noisy = prompt_of(flux), torch.randn(2, 3, 16, 16)
    assert torch.equal(loaded(noisy, SIGMA, prompt).sample, model(noisy, SIGMA, prompt).sample)
    assert dict(loaded.config.source_config)["num_single_layers"] == 4


def test_gradient_checkpointing_changes_no_gradient(flux: FluxPipeline) -> None:
    model, prompt, noisy = pixel_model(flux), prompt_of(flux), torch.randn(2, 3, 16, 16)
    gradients = []
    for checkpointed in (False, True):
        if checkpointed:
            model.enable_gradient_checkpointing()
            assert model.transformer.gradient_checkpointing
        model.zero_grad()
        model(noisy, SIGMA, prompt).sample.square().mean().backward()
        gradients.append([p.grad.clone() for p in model.parameters() if p.grad is not None])
    for plain, again in zip(*gradients, strict=True):
        torch.testing.assert_close(plain, again)


def test_it_moves_to_half_precision(flux: FluxPipeline) -> None:
    model, noisy = pixel_model(flux).to(torch.bfloat16), torch.randn(2, 3, 16, 16, dtype=torch.bfloat16)
    assert model(noisy, SIGMA.bfloat16(), prompt_of(flux)).sample.dtype == torch.bfloat16


def test_bad_input_is_named(flux: FluxPipeline) -> None:
    model = pixel_model(flux)
    with pytest.raises(ValueError, match="image of 16 x 20 pixels: both must be multiples of 8"):
        model(torch.randn(2, 3, 16, 20), SIGMA, prompt_of(flux))
    with pytest.raises(
        ValueError, match=r"unknown prediction 'noise'; known: \['clean', 'preconditioned', 'velocity'\]"
    ):
        pixel_model(flux, prediction="noise")
    with pytest.raises(ValueError, match="of architecture 'flux', not 'sd3'"):
        PixelTransformer2DModel.from_source(flux.transformer, "sd3", patch_size=8)
    with pytest.raises(ValueError, match="no architecture for the class 'AutoencoderKL'"):
        PixelTransformer2DModel.from_source(flux.vae, patch_size=8)
    with pytest.raises(ValueError, match=r"unknown architecture 'sdxl'; known: \['flux', 'flux2'"):
        encode_prompt(flux, "sdxl", ["a"], 12)
