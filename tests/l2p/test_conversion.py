"""Initialisation from a source, the fitted projection, deltas."""

import json
from pathlib import Path

import pytest
import torch
from diffusers import FluxPipeline
from safetensors.torch import load_file, save_file

from l2p.architectures import patchify
from l2p.conversion import (
    copy_source_weights,
    delta_header,
    fit_input_projection,
    fit_projection,
    load_delta,
    save_delta,
    source_sha256,
)
from l2p.pixel_transformer import PixelTransformer2DModel
from tests.l2p.weights import pixel_model, rewrite
from tests.tiny import source


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
    """With a VAE that is linear in patches but for an offset, pixel tokens equal the source's own embedded latents."""
    model = pixel_model(flux)
    copy_source_weights(model, flux.transformer)
    mixing, offset = torch.randn(8 * 16, 3 * 64) / 14, torch.randn(32)

    class LinearEncoder(torch.nn.Module):
        config, device, dtype = flux.vae.config, torch.device("cpu"), torch.float32

        def encode(self, images: torch.Tensor) -> "LinearEncoder":
            patches = patchify(images, 8) @ mixing.T[:, :32] + offset  # [B, 4, 32] = packed latents
            grid = patches.reshape(len(images), 2, 2, 8, 2, 2).permute(0, 3, 1, 4, 2, 5)
            self.latents = grid.reshape(len(images), 8, 4, 4)
            return self

        latent_dist = property(lambda self: self)

        def mode(self) -> torch.Tensor:
            return self.latents / self.config.scaling_factor + self.config.shift_factor

    flux.register_modules(vae=LinearEncoder())
    images = torch.randn(400, 3, 16, 16)
    fit = fit_input_projection(model, flux, images.split(100), strength=1e-8)
    embedded = flux.transformer.x_embedder(patchify(images, 8) @ mixing.T[:, :32] + offset)
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
    path, sampling = tmp_path / "delta.safetensors", {"max_sequence_length": 24, "shift": 2.0}
    tensors, told = {n: model.state_dict()[n] for n in names}, {"source_sha256": source_sha256(flux.transformer)}
    save_delta(model, tensors, path, **told, sampling=sampling)
    first = path.read_bytes()
    save_delta(model, tensors, path, **told, sampling=sampling)
    assert path.read_bytes() == first  # of several keys, the header's order would be chance
    merged = load_delta(flux, path)
    assert all(torch.equal(merged.state_dict()[n], t) for n, t in model.state_dict().items())
    assert [p.name for p in tmp_path.iterdir()] == ["delta.safetensors"]
    assert delta_header(path).sampling == sampling and set(delta_header(path).tensors or ()) == names


def delta_of(flux: FluxPipeline, path: Path) -> Path:
    """A delta of all that is new and one of the source's tensors."""
    model = pixel_model(flux)
    names = [*copy_source_weights(model, flux.transformer).new, "transformer.transformer_blocks.0.ff.net.2.bias"]
    save_delta(model, {n: model.state_dict()[n] for n in names}, path, source_sha256=source_sha256(flux.transformer))
    return path


@pytest.mark.parametrize(
    "name",
    ["detailer.out_conv.bias", "transformer.x_embedder.weight", "transformer.transformer_blocks.0.ff.net.2.bias"],
)
def test_a_delta_that_lacks_one_tensor_or_holds_nan_is_refused(flux: FluxPipeline, tmp_path: Path, name: str) -> None:
    """The third stands in the source too, which would silently take its place."""
    path = delta_of(flux, tmp_path / "delta.safetensors")
    rewrite(path, lambda tensors: tensors[name].view(-1)[0:1].fill_(float("nan")))
    with pytest.raises(ValueError, match=f"holds NaN or infinity in {name}"):
        load_delta(flux, path)
    rewrite(path, lambda tensors: tensors.pop(name))
    with pytest.raises(ValueError, match=rf"lacks 1 of its \d+ tensors, first \['{name}'\]"):
        load_delta(flux, path)


def test_a_delta_on_another_source_is_refused_whatever_the_precision(flux: FluxPipeline, tmp_path: Path) -> None:
    path = delta_of(flux, tmp_path / "delta.safetensors")
    flux.transformer.to(torch.bfloat16)
    assert load_delta(flux, path).dtype == torch.bfloat16  # the same weights, loaded in another precision
    other = source(seed=0)
    with torch.no_grad():
        other.transformer.transformer_blocks[1].ff.net[2].weight[0, 0] *= 1.05
    with pytest.raises(ValueError, match=r"belongs to another source: .* sha256 [0-9a-f]{12}, these have [0-9a-f]{12}"):
        load_delta(other, path)
    with pytest.raises(ValueError, match="belongs to a source of the family 'flux', not 'sd3'"):
        load_delta(source("sd3"), path)
    with pytest.raises(ValueError, match=r"another configuration \(there, here\): \{'num_layers': \(2, 3\)"):
        load_delta(source(num_blocks=9), path)


def test_a_delta_of_the_first_form_needs_the_users_word(flux: FluxPipeline, tmp_path: Path) -> None:
    path = delta_of(flux, tmp_path / "delta.safetensors")
    save_file(load_file(path), path, metadata={"pixel_transformer_config": json.dumps(delta_header(path).config)})
    with pytest.raises(ValueError, match="does not say which source weights it belongs to"):
        load_delta(flux, path)
    assert load_delta(flux, path, allow_unverified=True).config.patch_size == 8
    rewrite(path, lambda tensors: tensors.pop("detailer.out_conv.bias"))
    with pytest.raises(ValueError, match="lacks detailer.out_conv.bias, without which the model is not whole"):
        load_delta(flux, path, allow_unverified=True)
