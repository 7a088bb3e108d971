"""Files, folders and sources: damage is named, what is written is whole."""

import os
from pathlib import Path

import pytest
import torch
from diffusers import FluxPipeline
from safetensors.torch import save_file

from l2p.conversion import (
    copy_source_weights,
    save_release,
)
from l2p.pixel_transformer import PixelTransformer2DModel
from l2p.sources import load_source
from l2p.weight_files import list_tensors, whole
from tests.l2p.weights import pixel_model, rewrite


def test_damaged_files_are_named(tmp_path: Path) -> None:
    good, bad = tmp_path / "good.safetensors", tmp_path / "bad.safetensors"
    save_file({"a": torch.ones(100)}, good)
    whole_bytes = good.read_bytes()
    contents = {
        whole_bytes[:200]: "is no whole .safetensors file",
        b"": "is empty",
        b"hello, world": "is no whole .safetensors file",
        b"version https://git-lfs.github.com/spec/v1": "is a Git LFS pointer",
        b"PK\x03\x04 and more": "is a pickle",
        b"\xff" * 64: "is no whole .safetensors file",
    }
    for content, message in contents.items():
        bad.write_bytes(content)
        with pytest.raises(ValueError, match=rf"bad.safetensors {message}"):
            list_tensors(bad)
    index = tmp_path / "model.safetensors.index.json"
    for text, message in (
        (
            '{"weight_map": {"a": "good.safetensors", "b": "gone.safetensors"}}',
            r"of which \['gone.safetensors'\] are missing",
        ),
        ('{"weight_map": {"a": "good.safetensors", "b": "good.safetensors"}}', r"do not hold, first \['b'\]"),
        ('{"weight_map"', "is no index of weights"),
        ("[1]", "is no index of weights"),
    ):
        index.write_text(text)
        with pytest.raises(ValueError, match=message):
            list_tensors(index)
    index.write_text('{"weight_map": {"a": "good.safetensors"}}')
    assert list_tensors(tmp_path)["a"].shape == (100,)  # a folder's index comes before its files


def test_what_is_no_file_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.safetensors")
    for name in ("pipe.safetensors", "absent.safetensors"):
        with pytest.raises(FileNotFoundError, match=f"no weights at .*{name}"):
            list_tensors(tmp_path / name)


def test_what_is_half_written_goes_and_what_exists_stays(tmp_path: Path) -> None:
    out = tmp_path / "deep" / "out"
    with pytest.raises(KeyboardInterrupt), whole(out) as part:
        part.mkdir()
        (part / "file").write_text("half")
        raise KeyboardInterrupt
    assert list(out.parent.iterdir()) == []
    with whole(out) as part:
        part.write_text("all")
    with pytest.raises(ValueError, match="exists; give another --out"), whole(out):
        raise AssertionError
    assert out.read_text() == "all"


def test_saved_files_have_the_users_usual_permissions(flux: FluxPipeline, tmp_path: Path) -> None:
    model = pixel_model(flux)
    mask = os.umask(0o027)
    try:
        save_release(model, tmp_path / "release.safetensors")
        model.save_pretrained(tmp_path / "model")
        (tmp_path / "any").write_text("")
    finally:
        os.umask(mask)
    files = [tmp_path / "any", tmp_path / "release.safetensors", *(tmp_path / "model").iterdir()]
    assert {oct(file.stat().st_mode & 0o777) for file in files} == {"0o640"}


def test_a_model_folder_that_lacks_a_tensor_is_refused(flux: FluxPipeline, tmp_path: Path) -> None:
    pixel_model(flux).save_pretrained(tmp_path)
    rewrite(tmp_path / "diffusion_pytorch_model.safetensors", lambda tensors: tensors.pop("detailer.out_conv.bias"))
    with pytest.raises(ValueError, match=r"lack 1 of the model's tensors, first \['detailer.out_conv.bias'\]"):
        PixelTransformer2DModel.from_pretrained(tmp_path)


def test_a_source_saved_as_a_variant_is_loaded(flux: FluxPipeline, tmp_path: Path) -> None:
    flux.to(torch.float16).save_pretrained(tmp_path, variant="fp16")
    assert not (tmp_path / "transformer/diffusion_pytorch_model.safetensors").exists()
    loaded = load_source(tmp_path)
    assert loaded.transformer.dtype == loaded.text_encoder.dtype == torch.float32
    theirs = flux.transformer.state_dict()
    assert all(torch.equal(t, theirs[name].float()) for name, t in loaded.transformer.state_dict().items())
    kept = load_source(tmp_path, dtype=None)
    assert kept.transformer.dtype == kept.text_encoder.dtype == torch.float16
    sharded = tmp_path / "sharded"
    flux.save_pretrained(sharded, variant="fp16", max_shard_size="30KB")
    assert len(list((sharded / "transformer").glob("*.fp16-*.safetensors"))) > 1
    assert load_source(sharded, without=("text_encoder", "vae")).text_encoder is None


def test_a_source_that_mixes_dtypes_keeps_them(flux: FluxPipeline, tmp_path: Path) -> None:
    flux.transformer.to(torch.bfloat16)
    flux.transformer.norm_out.to(torch.float32)
    flux.transformer.context_embedder.to(torch.float32)
    flux.save_pretrained(tmp_path)
    loaded, theirs = load_source(tmp_path, dtype=None).transformer, flux.transformer.state_dict()
    assert {n: t.dtype for n, t in loaded.state_dict().items()} == {n: t.dtype for n, t in theirs.items()}
    model = pixel_model(flux)
    copied = copy_source_weights(model, loaded, keep_dtypes=True).copied
    assert {model.state_dict()[n].dtype for n in copied} == {torch.float32, torch.bfloat16}


def test_damaged_sources_are_named(flux: FluxPipeline, tmp_path: Path) -> None:
    flux.save_pretrained(tmp_path)
    weights = tmp_path / "transformer/diffusion_pytorch_model.safetensors"
    good = weights.read_bytes()
    rewrite(weights, lambda tensors: tensors.pop("proj_out.bias"))
    with pytest.raises(
        ValueError, match=r"cannot be loaded: its transformer lacks 1 tensors, first \['proj_out.bias'\]"
    ):
        load_source(tmp_path)
    weights.write_bytes(good[:-100])
    with pytest.raises(ValueError, match=r"cannot be loaded: .*diffusion_pytorch_model.safetensors is no whole"):
        load_source(tmp_path)
    weights.unlink()
    with pytest.raises(ValueError, match="transformer holds no .safetensors file"):
        load_source(tmp_path)
    weights.write_bytes(good)
    rewrite(weights, lambda tensors: tensors["x_embedder.bias"][:1].fill_(float("inf")))
    with pytest.raises(ValueError, match=r"holds NaN or infinity in 1 tensors, first \['x_embedder.bias'\]"):
        copy_source_weights(pixel_model(flux), load_source(tmp_path).transformer)
