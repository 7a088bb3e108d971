"""The releases' file form, of every family, ComfyUI's form of it, and what is refused."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import FluxPipeline, ZImageTransformer2DModel
from safetensors.torch import load_file, save_file

from l2p.architectures import ARCHITECTURES, get_architecture
from l2p.conversion import (
    copy_source_weights,
    describe,
    empty_model,
    inherit,
    load_delta,
    merge_file,
    model_name,
    release_needs,
    released_patch_size,
    save_release,
)
from l2p.detailer import DetailerConfig
from l2p.pixel_transformer import PixelTransformer2DModel
from tests.l2p.weights import pixel_model, rewrite, tiny_zimage
from tests.tiny import source


def told(model: PixelTransformer2DModel) -> dict[str, Any]:
    """A model's configuration as JSON has it."""
    return json.loads(json.dumps({key: value for key, value in model.config.items() if key[0] != "_"}))


def test_a_release_goes_round_under_the_released_keys(tmp_path: Path) -> None:
    model = tiny_zimage()
    save_release(model, tmp_path / "release.safetensors")
    keys = load_file(tmp_path / "release.safetensors").keys()
    assert {"local_decoder.enc1.0.weight", "local_decoder.out_conv.bias", "all_x_embedder.8-1.weight"} <= keys
    source_names = set(ZImageTransformer2DModel.from_config(dict(model.config.source_config)).state_dict())
    kept = {n for n in source_names if not n.startswith(("all_x_embedder", "all_final_layer"))}
    assert kept == {k for k in keys if not k.startswith(("local_decoder", "all_x_embedder"))}
    assert released_patch_size(tmp_path / "release.safetensors", source("zimage").transformer) == 8
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
    assert set(merge_file(model, tmp_path / "trained.safetensors").merged) == names
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
        released_patch_size(path, flux.transformer)
    assert all(torch.equal(t, before[n]) for n, t in model.state_dict().items())


@pytest.mark.parametrize("family", ARCHITECTURES)
@pytest.mark.parametrize("public", [False, True], ids=["ours", "public"])
def test_each_familys_release_is_read_back(family: str, public: bool, tmp_path: Path) -> None:
    """With the header that we write, and, of a model as the releases are, without it."""
    origin, path = source(family), tmp_path / "release.safetensors"
    options: dict[str, Any] = {} if public else {"prediction": "clean", "output_scale": 0.3}
    if not public:
        options["detailer"] = DetailerConfig(channels=(4, 8, 8, 16), upsampling="unfold")
    model = PixelTransformer2DModel.from_source(origin.transformer, patch_size=8 if public else 16, **options)
    save_release(model, path)
    if public:
        save_file(load_file(path), path)
    again = empty_model(origin.transformer, path)
    report = copy_source_weights(again, origin.transformer)
    merge_file(again, path, needed=release_needs(again, path, report.new))
    assert told(again) == told(model)
    assert all(torch.equal(again.state_dict()[name], tensor) for name, tensor in model.state_dict().items())


def test_comfyuis_form_of_a_release_is_read(tmp_path: Path) -> None:
    """Prefixed, with fused qkv and Z-Image's own names."""
    model, path = tiny_zimage(), tmp_path / "comfy.safetensors"
    save_release(model, path)
    tensors = load_file(path)
    for key in [k for k in tensors if k.endswith(".attention.to_q.weight")]:
        three = [tensors.pop(key.replace("to_q", name)) for name in ("to_q", "to_k", "to_v")]
        tensors[key.replace("to_q", "qkv")] = torch.cat(three)
    for theirs, ours in (
        (".attention.out.", ".attention.to_out.0."),
        (".q_norm.", ".norm_q."),
        (".k_norm.", ".norm_k."),
    ):
        tensors = {key.replace(ours, theirs): tensor for key, tensor in tensors.items()}
    tensors = {key.replace("all_x_embedder.8-1.", "x_embedder."): tensor for key, tensor in tensors.items()}
    tensors["norm_final.weight"] = torch.ones(32)  # which diffusers drops
    assert any("attention.qkv" in key for key in tensors) and not any(".to_" in key for key in tensors)
    unprefixed = tmp_path / "unprefixed.safetensors"
    save_file(tensors, unprefixed)
    save_file({f"model.diffusion_model.{key}": tensor for key, tensor in tensors.items()}, path)
    assert describe(path) == describe(unprefixed) and "layers" in describe(path)
    origin = source("zimage")
    again = empty_model(origin.transformer, path)
    report = copy_source_weights(again, origin.transformer)
    merged = merge_file(again, path, needed=release_needs(again, path, report.new)).merged
    assert set(merged) == set(model.state_dict())
    assert all(torch.equal(again.state_dict()[name], tensor) for name, tensor in model.state_dict().items())


def test_diffusers_own_fused_projections_are_taken_apart(flux: FluxPipeline, tmp_path: Path) -> None:
    model = pixel_model(flux)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model.fuse_qkv_projections()
    tensors = model.state_dict()
    twice = [
        n
        for n in tensors
        if any(f".{w}." in n for w in ("to_q", "to_k", "to_v", "add_q_proj", "add_k_proj", "add_v_proj"))
    ]
    fused = {n: t.clone() for n, t in tensors.items() if n not in twice}
    assert any(".to_qkv." in n for n in fused) and any(".to_added_qkv." in n for n in fused)
    save_file(fused, tmp_path / "fused.safetensors")
    other = pixel_model(flux)
    for parameter in other.parameters():
        parameter.data.zero_()
    assert set(merge_file(other, tmp_path / "fused.safetensors").merged) == set(before)
    assert all(torch.equal(other.state_dict()[name], tensor) for name, tensor in before.items())


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (
            lambda t: t.pop("local_decoder.out_conv.bias"),
            "lacks detailer.out_conv.bias, without which the model is not whole",
        ),
        (lambda t: t.pop("all_x_embedder.8-1.bias"), "lacks transformer.all_x_embedder.8-1.bias"),
        (lambda t: t.pop("layers.1.attention.to_q.weight"), "lacks transformer.layers.1.attention.to_q.weight"),
        (
            lambda t: t["layers.0.attention.to_k.weight"][0, :1].fill_(float("nan")),
            "NaN or infinity in transformer.layers.0",
        ),
    ],
)
def test_a_release_with_a_hole_is_refused_by_name_unless_that_is_wanted(
    spoil: Any, message: str, tmp_path: Path
) -> None:
    model, path = tiny_zimage(), tmp_path / "release.safetensors"
    save_release(model, path)
    rewrite(path, spoil)
    origin = source("zimage")
    other = empty_model(origin.transformer, path)
    needed = release_needs(other, path, copy_source_weights(other, origin.transformer).new)
    before = {name: tensor.clone() for name, tensor in other.state_dict().items()}
    with pytest.raises(ValueError, match=message):
        merge_file(other, path, needed=needed)
    assert all(torch.equal(other.state_dict()[name], tensor) for name, tensor in before.items())
    (left,) = merge_file(other, path, needed=needed, allow_partial=True).left_out
    assert left in message or left.startswith(message.split()[-1])
    assert torch.equal(other.state_dict()[left], before[left])


@pytest.mark.parametrize("family", ["flux", "sd3", "qwenimage"])
def test_a_projection_of_pixels_takes_no_bias_of_latents(family: str, tmp_path: Path) -> None:
    """The source's own projection may have a bias of the same name and shape: it belongs to another weight."""
    origin, path = source(family), tmp_path / "release.safetensors"
    save_release(PixelTransformer2DModel.from_source(origin.transformer, patch_size=8), path)
    other = empty_model(origin.transformer, path)
    bias = f"{get_architecture(family).input_projection(8)}.bias"
    rewrite(path, lambda tensors: tensors.pop(bias))
    assert bias in origin.transformer.state_dict()
    new = copy_source_weights(other, origin.transformer).new
    with pytest.raises(ValueError, match=f"lacks transformer.{bias}"):
        merge_file(other, path, needed=release_needs(other, path, new))


def test_a_release_of_whole_trained_blocks_needs_no_others(tmp_path: Path) -> None:
    model, path = tiny_zimage(), tmp_path / "release.safetensors"
    save_release(model, path)
    rewrite(path, lambda tensors: [tensors.pop(k) for k in list(tensors) if k.startswith("layers.2.")])
    origin = source("zimage")
    other = empty_model(origin.transformer, path)
    new = copy_source_weights(other, origin.transformer).new
    assert not merge_file(other, path, needed=release_needs(other, path, new)).left_out


@pytest.mark.parametrize("dtype", [torch.int8, torch.float8_e4m3fn, torch.uint8])
def test_quantised_numbers_are_not_weights(dtype: torch.dtype, flux: FluxPipeline, tmp_path: Path) -> None:
    model, path = pixel_model(flux), tmp_path / "quantised.safetensors"
    name = "transformer.transformer_blocks.0.ff.net.2.weight"
    save_file({name: model.state_dict()[name].mul(100).to(dtype)}, path)
    for read in (merge_file, inherit):
        with pytest.raises(ValueError, match=rf"1 tensors of quantised numbers, first {name} \("):
            read(model, path)


def test_mixed_dtypes_survive(tmp_path: Path) -> None:
    model, path = tiny_zimage(), tmp_path / "release.safetensors"
    save_release(model, path)
    tensors = {k: t if "norm" in k else t.bfloat16() for k, t in load_file(path).items()}
    save_file(tensors, path)
    origin = source("zimage")
    for keep in (True, False):
        other = empty_model(origin.transformer, path)
        copy_source_weights(other, origin.transformer)
        merge_file(other, path, keep_dtypes=keep)
        save_release(other, tmp_path / "again.safetensors")
        again = load_file(tmp_path / "again.safetensors")
        kept = [key for key, tensor in tensors.items() if again[key].dtype == tensor.dtype]
        assert (len(kept) == len(tensors)) == keep
        assert all(torch.equal(again[key], tensor.to(again[key].dtype)) for key, tensor in tensors.items())


def test_an_8k_model_starts_from_a_4k_one(tmp_path: Path) -> None:
    """All but the embedder and the outer scale, as the high-resolution releases."""
    torch.manual_seed(0)
    transformer = source("zimage").transformer
    small, large = (PixelTransformer2DModel.from_source(transformer, patch_size=p) for p in (64, 128))
    save_release(small, tmp_path / "4k.safetensors")
    inherited = inherit(large, tmp_path / "4k.safetensors")
    theirs = small.state_dict()
    assert all(torch.equal(large.state_dict()[name], theirs[name]) for name in inherited)
    left = {name.rsplit(".", 1)[0] for name in large.state_dict().keys() - set(inherited)}
    assert left == {
        "transformer.all_x_embedder.128-1",
        "detailer.enc_8k.0",
        "detailer.enc0.0",  # reads what enc_8k gives out: the same shape, so inherited
        "detailer.up_8k.1",
        "detailer.dec_8k.0",
    } - {"detailer.enc0.0"}
    small.save_pretrained(tmp_path / "model")
    assert set(inherit(large, tmp_path / "model")) == set(inherited)
    save_file({"detailer.other.weight": torch.ones(1)}, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match="shares no tensor's name and shape"):
        inherit(large, tmp_path / "other.safetensors")
    rewrite(tmp_path / "4k.safetensors", lambda tensors: tensors["local_decoder.out_conv.bias"].fill_(float("nan")))
    with pytest.raises(ValueError, match="holds NaN or infinity in .*detailer.out_conv.bias"):
        inherit(large, tmp_path / "4k.safetensors")


def test_latent_and_makers_files_are_named(flux: FluxPipeline, tmp_path: Path) -> None:
    origin, path = source("zimage"), tmp_path / "latent.safetensors"
    save_file({k: t.clone() for k, t in origin.transformer.state_dict().items()}, path)
    with pytest.raises(
        ValueError, match=r"latent.safetensors names the patch sizes \[\].* a latent model's file has none"
    ):
        empty_model(origin.transformer, path)
    save_file({"double_blocks.0.img_attn.qkv.weight": torch.ones(6, 2)}, path)
    with pytest.raises(ValueError, match=r"its maker's own names \(double_blocks.0.img_attn.qkv.weight\)"):
        merge_file(pixel_model(flux), path)


def test_shards_are_counted_once(tmp_path: Path) -> None:
    model = tiny_zimage()
    model.save_pretrained(tmp_path / "one")
    model.save_pretrained(tmp_path / "many", max_shard_size="50KB")
    assert len(list((tmp_path / "many").glob("*.safetensors"))) > 1
    counts = [{part: sorted(found) for part, found in describe(tmp_path / name).items()} for name in ("one", "many")]
    assert counts[0] == counts[1]


def test_model_names() -> None:
    assert model_name("model.diffusion_model.local_decoder.enc1.0.bias") == "detailer.enc1.0.bias"
    assert model_name("layers.0.x") == model_name("transformer.layers.0.x") == "transformer.layers.0.x"
