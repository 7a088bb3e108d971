"""Initialisation from a source, the fitted projection, deltas and the releases' file form."""

from pathlib import Path

import pytest
import torch
from diffusers import FluxPipeline, ZImageTransformer2DModel
from safetensors.torch import load_file, save_file

from l2p.architectures import patchify
from l2p.conversion import (
    copy_source_weights,
    fit_input_projection,
    fit_projection,
    load_delta,
    merge_file,
    released_patch_size,
    save_delta,
    save_release,
)
from l2p.pixel_transformer import PixelTransformer2DModel
from tests.tiny import source


def pixel_model(flux: FluxPipeline) -> PixelTransformer2DModel:
    torch.manual_seed(3)
    return PixelTransformer2DModel.from_source(flux.transformer, patch_size=8)


def tiny_zimage() -> PixelTransformer2DModel:
    torch.manual_seed(4)
    return PixelTransformer2DModel.from_source(source("zimage").transformer, patch_size=8)


def test_what_fits_is_copied_and_all_is_reported(flux: FluxPipeline) -> None:
    model = pixel_model(flux)
    report = copy_source_weights(model, flux.transformer)
    theirs, own = flux.transformer.state_dict(), model.state_dict()
    assert all(torch.equal(own[name], theirs[name.removeprefix("transformer.")]) for name in report.copied)
    assert {*report.copied, *report.new} == own.keys() and not {*report.copied} & {*report.new}
    assert set(report.dropped) == {
        "x_embedder.weight",
        "norm_out.linear.weight",
        "norm_out.linear.bias",
        "proj_out.weight",
        "proj_out.bias",
    }
    rest = {f"transformer.{name}" for name in theirs.keys() - set(report.dropped)}
    assert rest == {*report.copied}
    assert [n for n in report.new if not n.startswith("detailer.")] == ["transformer.x_embedder.weight"]


def test_ridge_finds_a_linear_map_and_a_strong_one_amplifies_less_noise() -> None:
    torch.manual_seed(0)
    patches = torch.randn(4000, 6) * torch.tensor([1, 1, 1, 1, 1, 0.05])  # a direction that hardly varies
    weight, bias = torch.randn(3, 6), torch.randn(3)
    weight[:, 5] *= 20
    tokens = patches @ weight.T + bias
    pairs = list(zip(patches.split(1500), tokens.split(1500), strict=True))
    weak, strong = fit_projection(pairs, 1e-9), fit_projection(pairs, 0.02)
    torch.testing.assert_close(weak.weight, weight, atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(weak.bias, bias, atol=1e-3, rtol=1e-3)
    assert weak.explained == pytest.approx(1, abs=1e-6) and 0.5 < strong.explained < 1
    assert strong.noise_gain < 0.7 * weak.noise_gain
    noise = torch.randn(20000, 6) @ strong.weight.T
    assert noise.square().mean().sqrt().item() == pytest.approx(strong.noise_gain, rel=0.03)


def test_the_fitted_projection_stands_for_encoder_and_source_projection(flux: FluxPipeline) -> None:
    """With a VAE that is linear in patches, pixel tokens equal the source's own embedded latents."""
    model = pixel_model(flux)
    copy_source_weights(model, flux.transformer)
    mixing = torch.randn(8 * 16, 3 * 64) / 14

    class LinearEncoder(torch.nn.Module):
        config, device, dtype = flux.vae.config, torch.device("cpu"), torch.float32

        def encode(self, images: torch.Tensor) -> "LinearEncoder":
            patches = patchify(images, 8) @ mixing.T[:, :32]  # [B, 4, 32] = packed latents
            grid = patches.reshape(len(images), 2, 2, 8, 2, 2).permute(0, 3, 1, 4, 2, 5)
            self.latents = grid.reshape(len(images), 8, 4, 4)
            return self

        latent_dist = property(lambda self: self)

        def mode(self) -> torch.Tensor:
            return self.latents / self.config.scaling_factor + self.config.shift_factor

    flux.register_modules(vae=LinearEncoder())
    images = torch.randn(400, 3, 16, 16)
    fit = fit_input_projection(model, flux, images.split(100), strength=1e-8)
    embedded = flux.transformer.x_embedder(patchify(images, 8) @ mixing.T[:, :32])
    torch.testing.assert_close(model.input_projection()(patchify(images, 8)), embedded, atol=1e-4, rtol=1e-3)
    assert fit.explained == pytest.approx(1, abs=1e-5)


def test_a_real_autoencoders_grid_fits(flux: FluxPipeline) -> None:
    model = pixel_model(flux)
    copy_source_weights(model, flux.transformer)
    before = model.input_projection().weight.clone()
    fit = fit_input_projection(model, flux, [torch.rand(4, 3, 16, 16) * 2 - 1])
    assert 0 < fit.explained < 1 and not torch.equal(before, model.input_projection().weight)
    wide = PixelTransformer2DModel.from_source(flux.transformer, patch_size=16)
    with pytest.raises(ValueError, match="patch size 16 gives 1 tokens, the source's latents 4"):
        fit_input_projection(wide, flux, [torch.rand(4, 3, 16, 16)])


def test_source_and_delta_give_the_model(flux: FluxPipeline, tmp_path: Path) -> None:
    model = pixel_model(flux)
    report = copy_source_weights(model, flux.transformer)
    names = {*report.new, "transformer.transformer_blocks.0.ff.net.2.bias"}
    with torch.no_grad():
        for name in names:
            model.state_dict()[name].normal_()
    save_delta(model, {n: model.state_dict()[n] for n in names}, tmp_path / "delta.safetensors")
    merged = load_delta(flux, tmp_path / "delta.safetensors")
    assert all(torch.equal(merged.state_dict()[n], t) for n, t in model.state_dict().items())
    assert [p.name for p in tmp_path.iterdir()] == ["delta.safetensors"]


def test_a_release_goes_round_under_the_released_keys(tmp_path: Path) -> None:
    model = tiny_zimage()
    save_release(model, tmp_path / "release.safetensors")
    keys = load_file(tmp_path / "release.safetensors").keys()
    assert {"local_decoder.enc1.0.weight", "local_decoder.out_conv.bias", "all_x_embedder.8-1.weight"} <= keys
    source_names = set(ZImageTransformer2DModel.from_config(dict(model.config.source_config)).state_dict())
    kept = {n for n in source_names if not n.startswith(("all_x_embedder", "all_final_layer"))}
    assert kept == {k for k in keys if not k.startswith(("local_decoder", "all_x_embedder"))}
    assert released_patch_size(tmp_path / "release.safetensors") == 8
    other = tiny_zimage()
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.zero_()
    merge_file(other, tmp_path / "release.safetensors")
    assert all(torch.equal(t, model.state_dict()[n]) for n, t in other.state_dict().items())


def test_a_mixed_file_with_only_trained_tensors_is_cast_and_merged_by_key(tmp_path: Path) -> None:
    model = tiny_zimage()
    before = {n: t.clone() for n, t in model.state_dict().items()}
    trained = {
        "local_decoder.enc1.0.weight": torch.ones(16, 3, 3, 3, dtype=torch.bfloat16),
        "layers.0.attention_norm1.weight": torch.full((32,), 2.0),
    }
    save_file(trained, tmp_path / "trained.safetensors")
    names = {"transformer.layers.0.attention_norm1.weight", "detailer.enc1.0.weight"}
    assert set(merge_file(model, tmp_path / "trained.safetensors")) == names
    own = model.state_dict()
    assert own["detailer.enc1.0.weight"].dtype == torch.float32 and own["detailer.enc1.0.weight"].min() == 1
    changed = {n for n in own if not torch.equal(own[n], before[n])}
    assert changed == names


def test_a_released_head_keeps_z_images_sign() -> None:
    model = tiny_zimage()
    torch.nn.init.normal_(model.detailer.out_conv.weight)
    prompt = {"prompt_embeds": torch.randn(1, 3, 32), "mask": torch.ones(1, 3, dtype=torch.bool)}
    noisy, sigma = torch.randn(1, 3, 16, 16), torch.tensor([0.4])
    painted = model.detailer(noisy, model.token_map(noisy, sigma, prompt))
    torch.testing.assert_close(model(noisy, sigma, prompt).sample, -painted)


def test_files_that_do_not_fit_are_refused_and_change_nothing(flux: FluxPipeline, tmp_path: Path) -> None:
    model, path = pixel_model(flux), tmp_path / "bad.safetensors"
    before = {n: t.clone() for n, t in model.state_dict().items()}
    with pytest.raises(FileNotFoundError, match="no weights at"):
        merge_file(model, path)
    save_file({"detailer.enc1.0.weight": torch.zeros(16, 3, 3, 3), "local_decoder.enc9.0.bias": torch.zeros(1)}, path)
    with pytest.raises(ValueError, match=r"1 tensors that the model lacks, first \['detailer.enc9.0.bias'\]"):
        merge_file(model, path)
    save_file({"detailer.enc1.0.weight": torch.zeros(16, 3, 5, 5)}, path)
    with pytest.raises(ValueError, match=r"has shape \(16, 3, 5, 5\), the model's is \(16, 3, 3, 3\)"):
        merge_file(model, path)
    with pytest.raises(ValueError, match="is no delta"):
        load_delta(flux, path)
    with pytest.raises(ValueError, match="names the patch sizes"):
        released_patch_size(path)
    assert all(torch.equal(t, before[n]) for n, t in model.state_dict().items())
