"""The pixel transformer: shapes, predictions, saving, gradients, errors."""

from pathlib import Path

import pytest
import torch
from diffusers import FluxPipeline

from l2p.architectures import EncodedPrompt, encode_prompt, split_prompts, stack_prompts
from l2p.detailer import DetailerConfig
from l2p.flow import noisy_image, velocity_target
from l2p.pipeline import pixel_pipeline
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


@pytest.mark.parametrize("patch_size", [8, 16, 64, 128, 160])
def test_the_released_heads_need_multiples_of_patch_and_pooling(patch_size: int, flux: FluxPipeline) -> None:
    with torch.device("meta"):
        model = PixelTransformer2DModel.from_source(flux.transformer, patch_size=patch_size)
    assert model.size_multiple == {8: 8, 16: 16, 64: 64, 128: 128, 160: 320}[patch_size]
    model.check_size(model.size_multiple, 3 * model.size_multiple)
    noisy = torch.empty(1, 3, model.size_multiple, 3 * model.size_multiple, device="meta")
    tokens = torch.empty(1, 32, noisy.shape[2] // patch_size, noisy.shape[3] // patch_size, device="meta")
    assert model.detailer(noisy, tokens).shape == noisy.shape


@pytest.mark.parametrize("patch_size", [12, 20, 24, 40])
@pytest.mark.parametrize("num_levels", [1, 2, 3])
def test_every_head_paints_every_size_that_it_accepts(patch_size: int, num_levels: int, flux: FluxPipeline) -> None:
    """Widths whose pooling does not divide the patch, on real images: what check_size lets through runs."""
    head = DetailerConfig(channels=(4,) * num_levels + (8,))
    model, prompt = pixel_model_of(flux, patch_size, head), prompt_of(flux)
    accepted = []
    for side in range(4, 2 * model.size_multiple + 1, 4):
        try:
            model.check_size(side, model.size_multiple)
        except ValueError:
            continue
        accepted.append(side)
        noisy = torch.randn(2, 3, side, model.size_multiple)
        assert model(noisy, SIGMA, prompt).sample.shape == noisy.shape
    assert accepted == [model.size_multiple, 2 * model.size_multiple]


def pixel_model_of(flux: FluxPipeline, patch_size: int, head: DetailerConfig) -> PixelTransformer2DModel:
    """A pixel model of another patch size and head."""
    return PixelTransformer2DModel.from_source(flux.transformer, patch_size=patch_size, detailer=head)


def test_a_size_that_does_not_fit_is_refused_before_anything_runs(
    flux: FluxPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = pixel_model_of(flux, 20, DetailerConfig(channels=(4, 4, 4, 8)))  # pools 8, so 40
    pipeline = pixel_pipeline(flux, model)

    def never(*_: object, **__: object) -> None:
        raise AssertionError("a network ran")

    monkeypatch.setattr(model.transformer, "forward", never)
    monkeypatch.setattr(flux.text_encoder, "forward", never)
    nearest = r"multiples of 40 \(patch size 20, the head's levels pool 8\); nearest: "
    for size, named in (((20, 60), "40 x 40 or 40 x 80"), ((100, 120), "80 x 120 or 120 x 120"), ((0, 40), "40 x 40")):
        message = rf"image of {size[0]} x {size[1]} pixels: both must be {nearest}{named}$"
        with pytest.raises(ValueError, match=message):
            pipeline("a", height=size[0], width=size[1])
        with pytest.raises(ValueError, match=message):
            model(torch.empty(1, 3, *size), SIGMA[:1], {})
