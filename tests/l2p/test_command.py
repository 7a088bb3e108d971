"""python -m l2p: from a source to images, and errors that are sentences."""

import shutil
import subprocess
import sys
from dataclasses import fields
from inspect import signature
from pathlib import Path

import pytest
import torch
from diffusers import FluxPipeline
from PIL import Image
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from l2p import __main__ as command
from l2p.config import TransferConfig
from l2p.conversion import (
    copy_source_weights,
    load_delta,
    model_name,
    save_delta,
    save_release,
    source_sha256,
)
from l2p.errors import InputError
from l2p.pipeline import L2PPipeline, load_pixel_pipeline
from l2p.pixel_transformer import PixelTransformer2DModel
from l2p.sources import load_source
from l2p.transfer_command import transfer
from tests.l2p.weights import rewrite
from tests.tiny import source

RUNNER = CliRunner()
pytestmark = pytest.mark.usefixtures("noted")  # what is said stands in docs/errors.md


def invoke(*arguments: object) -> str:
    result = RUNNER.invoke(command.app, [str(a) for a in arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def test_convert_inspect_and_sample(flux_folder: Path, corpus_folder: Path, tmp_path: Path) -> None:
    said = invoke("convert", flux_folder, "--patch-size", 8, "--corpus", corpus_folder, "--out", tmp_path / "pixels")
    assert "copied" in said and "noise gain" in said
    said = invoke("inspect", tmp_path / "pixels")
    assert "architecture: flux" in said and "detailer.out_conv" in said and "F32" in said
    size = ("--height", 16, "--width", 24, "--num-inference-steps", 2, "--max-sequence-length", 12)
    invoke("sample", tmp_path / "pixels", "a red star", "two blue", *size, "--out", tmp_path / "both")
    invoke("sample", tmp_path / "pixels", "two blue", "--seed", 1, *size, "--out", tmp_path / "one")
    both, one = Image.open(tmp_path / "both/0001.png"), Image.open(tmp_path / "one/0000.png")
    assert both.size == (24, 16) and both.tobytes() == one.tobytes()


def test_merge_puts_a_delta_over_its_source(flux_folder: Path, flux: FluxPipeline, tmp_path: Path) -> None:
    model = PixelTransformer2DModel.from_source(flux.transformer, patch_size=8, prediction="clean")
    report = copy_source_weights(model, flux.transformer)
    told = {"source_sha256": source_sha256(flux.transformer), "sampling": {"max_sequence_length": 12, "shift": 2.0}}
    tensors = {n: model.state_dict()[n] for n in report.new}
    save_delta(model, tensors, tmp_path / "delta.safetensors", **told)  # type: ignore[arg-type]
    invoke("merge", flux_folder, tmp_path / "delta.safetensors", "--out", tmp_path / "merged")
    loaded = PixelTransformer2DModel.from_pretrained(tmp_path / "merged" / "transformer")
    assert loaded.config.prediction == "clean"
    assert all(torch.equal(loaded.state_dict()[n], t) for n, t in model.state_dict().items())
    said = invoke("inspect", tmp_path / "delta.safetensors")
    assert "prediction: clean" in said and f"source_sha256: {told['source_sha256']}" in said
    invoke("merge", flux_folder, tmp_path / "delta.safetensors", "--release", "--out", tmp_path / "one.safetensors")
    invoke("convert", flux_folder, "--weights", tmp_path / "one.safetensors", "--out", tmp_path / "again")
    again = PixelTransformer2DModel.from_pretrained(tmp_path / "again" / "transformer")
    assert again.config.prediction == "clean"
    assert all(torch.equal(again.state_dict()[n], t) for n, t in model.state_dict().items())


def test_a_transfer_to_a_picture_without_a_setting_named_twice(
    flux_folder: Path, corpus_folder: Path, tmp_path: Path
) -> None:
    """`sample` draws at the size, length, steps, guidance and shift that the transfer had."""
    size = ("--patch-size", 8, "--num-trainable-blocks", 1, "--num-validation-images", 4)
    drawn = ("--max-sequence-length", 12, "--num-inference-steps", 3, "--guidance-scale", 1.5, "--shift", 2.0)
    train = ("transfer", flux_folder, corpus_folder, "--num-train-steps", 2, *size, *drawn, "--out", tmp_path / "run")
    said = invoke(*train)
    assert "2 steps, loss" in said and f"next: python -m l2p merge {flux_folder}" in said
    before = (tmp_path / "run/delta.safetensors").read_bytes()
    assert "2 steps, loss" in invoke(*train) and (tmp_path / "run/delta.safetensors").read_bytes() == before
    invoke("merge", flux_folder, tmp_path / "run/delta.safetensors", "--out", tmp_path / "pixels")
    pipeline = load_pixel_pipeline(tmp_path / "pixels")
    assert pipeline.scheduler.config.shift == 2.0
    assert pipeline.defaults == {
        "height": 16,
        "width": 16,
        "max_sequence_length": 12,
        "num_inference_steps": 3,
        "guidance_scale": 1.5,
    }
    invoke("sample", tmp_path / "pixels", "a red star", "--out", tmp_path / "drawn")
    by_hand = {"height": 16, "width": 16, "num_inference_steps": 3, "guidance_scale": 1.5, "max_sequence_length": 12}
    image = pipeline("a red star", generator=torch.Generator().manual_seed(0), **by_hand).images[0]
    assert Image.open(tmp_path / "drawn/0000.png").tobytes() == image.tobytes()


def test_a_transfer_goes_on_from_an_inherited_model(flux_folder: Path, corpus_folder: Path, tmp_path: Path) -> None:
    """What it inherits and does not train is in its delta: source and delta give the model."""
    model = PixelTransformer2DModel.from_source(load_source(flux_folder).transformer, patch_size=8)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.05)
    save_release(model, tmp_path / "start.safetensors")
    small = ("--patch-size", 8, "--num-train-steps", 1, "--num-validation-images", 4, "--num-trainable-blocks", 1)
    options = (*small, "--max-sequence-length", 12, "--inherit", tmp_path / "start.safetensors")
    invoke("transfer", flux_folder, corpus_folder, *options, "--out", tmp_path / "run")
    trained = PixelTransformer2DModel.from_pretrained(tmp_path / "run/model").state_dict()
    middle = "transformer.single_transformer_blocks.0.attn.to_q.weight"
    assert torch.equal(trained[middle], model.state_dict()[middle])
    merged = load_delta(load_source(flux_folder), tmp_path / "run/delta.safetensors").state_dict()
    assert all(torch.equal(merged[name], tensor) for name, tensor in trained.items())


def test_transfers_defaults_are_its_configurations() -> None:
    config, options = TransferConfig(), signature(transfer).parameters
    shared = [field.name for field in fields(config) if field.name in options]
    assert len(shared) >= 20
    assert {name: options[name].default for name in shared} == {name: getattr(config, name) for name in shared}


def test_a_mixed_release_keeps_its_dtypes_and_size(tmp_path: Path) -> None:
    origin = source("zimage")
    origin.transformer.to(torch.bfloat16)
    origin.save_pretrained(tmp_path / "zimage")
    release, out = tmp_path / "release.safetensors", tmp_path / "pixels"
    invoke("convert", tmp_path / "zimage", "--patch-size", 8, "--release", "--out", release)
    tensors = {k: t.float() if "norm" in k else t.bfloat16() for k, t in load_file(release).items()}
    save_file(tensors, release)
    invoke("convert", tmp_path / "zimage", "--weights", release, "--out", out)
    saved = load_file(out / "transformer/diffusion_pytorch_model.safetensors")
    assert {name: saved[model_name(name)].dtype for name in tensors} == {n: t.dtype for n, t in tensors.items()}
    assert load_pixel_pipeline(out).transformer.dtype == torch.bfloat16  # runs in the one that most numbers have
    invoke("convert", tmp_path / "zimage", "--weights", release, "--out", tmp_path / "wide", "--dtype", "float32")
    wide = load_file(tmp_path / "wide/transformer/diffusion_pytorch_model.safetensors")
    assert {tensor.dtype for tensor in wide.values()} == {torch.float32}


def test_partial_releases_need_a_word(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    source("zimage").save_pretrained(tmp_path / "zimage")
    release = tmp_path / "release.safetensors"
    invoke("convert", tmp_path / "zimage", "--patch-size", 8, "--release", "--out", release)
    rewrite(release, lambda tensors: tensors.pop("all_x_embedder.8-1.bias"))
    arguments = ["convert", tmp_path / "zimage", "--weights", release, "--out", tmp_path / "pixels"]
    assert status(*arguments) == 2 and not (tmp_path / "pixels").exists()
    assert "lacks transformer.all_x_embedder.8-1.bias, without which the model is not whole" in told(capsys)
    said = invoke(*arguments, "--allow-partial")
    assert "left as they were: transformer.all_x_embedder.8-1.bias" in said


def test_a_release_is_written_and_read_back(tmp_path: Path) -> None:
    source("zimage").save_pretrained(tmp_path / "zimage")
    release, out = tmp_path / "release.safetensors", tmp_path / "pixels"
    invoke("convert", tmp_path / "zimage", "--patch-size", 8, "--release", "--out", release)
    assert "local_decoder.enc1" in invoke("inspect", release)
    said = invoke("convert", tmp_path / "zimage", "--weights", release, "--out", out)  # its patch size is found
    tensors = load_file(release)
    assert f"merged {len(tensors)} tensors" in said
    state = PixelTransformer2DModel.from_pretrained(out / "transformer").state_dict()
    assert all(torch.equal(state[model_name(key)], tensor) for key, tensor in tensors.items())


BAD = {
    "no source": ("convert", "{absent}", "--out", "{new}", "no source at"),
    "out exists": ("convert", "{source}", "--out", "{old}", "exists; give another --out"),
    "dtype": ("convert", "{source}", "--out", "{new}", "--dtype", "int8", "unknown dtype 'int8'; known: ['bfloat16'"),
    "patch size": ("convert", "{source}", "--out", "{new}", "--patch-size", "0", "--patch-size"),
    "corpus": ("convert", "{source}", "--corpus", "{absent}", "--out", "{new}", "no corpus at"),
    "no delta": ("merge", "{source}", "{absent}", "--out", "{new}", "no delta at"),
    "not a delta": ("merge", "{source}", "{weights}", "--out", "{new}", "is no delta"),
    "no pipeline": ("sample", "{absent}", "a", "--out", "{new}", "is no pixel pipeline"),
    "a source": ("sample", "{source}", "a", "--out", "{new}", "holds a FluxPipeline, not a pixel pipeline"),
    "old images": ("sample", "{pixels}", "a", "--out", "{old}", "exists; give another --out"),
    "no steps": ("sample", "{pixels}", "a", "--num-inference-steps", "0", "--out", "{new}", "0 steps draw nothing"),
    "less steps": ("sample", "{pixels}", "a", "--num-inference-steps", "-1", "--out", "{new}", "-1 steps draw nothing"),
    "no height": ("sample", "{pixels}", "a", "--height", "0", "--out", "{new}", "image of 0 x 512 pixels"),
    "less height": ("sample", "{pixels}", "a", "--height", "-48", "--out", "{new}", "image of -48 x 512 pixels"),
    "guidance": ("sample", "{pixels}", "a", "--guidance-scale", "nan", "--out", "{new}", "guidance_scale nan is no"),
    "seed": ("sample", "{pixels}", "a", "--seed", str(2**70), "--out", "{new}", "--seed"),
    "under a file": ("sample", "{pixels}", "a", "--out", "{file}/drawn", "file is a file, not a folder"),
    "nothing": ("inspect", "{absent}", "no weights at"),
    "text config": ("inspect", "{spoilt}", "config.json is no JSON"),
    "no such option": ("inspect", "{weights}", "--fast", "No such option: --fast"),
    "transfer over its source": ("transfer", "{source}", "{corpus}", "--out", "{source}", "is the source's own folder"),
    "transfer over a file": ("transfer", "{source}", "{corpus}", "--out", "{file}", "is a file; give a folder"),
    "transfer over a model": ("transfer", "{source}", "{corpus}", "--out", "{mine}", "which no transfer left there"),
    "unknown word": ("transfer", "{source}", "{corpus}", "--trainable", "x", "--out", "{new}", "unknown trainable 'x'"),
    "too few images": ("transfer", "{source}", "{corpus}", "--out", "{new}", "24"),
}


@pytest.fixture(scope="module")
def places(flux_folder: Path, corpus_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("places")
    for name in ("old", "spoilt", "mine", "mine/model"):
        (folder / name).mkdir()
    (folder / "mine/model/photo.png").write_text("mine")
    (folder / "old/0000.png").write_text("an image")
    (folder / "file").write_text("a file")
    save_file({"a": torch.ones(4)}, folder / "weights.safetensors")
    save_file({"a": torch.ones(4)}, folder / "spoilt/model.safetensors")
    (folder / "spoilt/config.json").write_text("{")
    invoke("convert", flux_folder, "--patch-size", 8, "--out", folder / "pixels")
    own = {name: folder / name for name in ("old", "file", "spoilt", "mine", "pixels", "absent", "new")}
    return {**own, "weights": folder / "weights.safetensors", "source": flux_folder, "corpus": corpus_folder}


def status(*arguments: object) -> int:
    """The exit status of one command."""
    return command.main([str(argument) for argument in arguments])


def told(capsys: pytest.CaptureFixture) -> str:
    """What a command said on stderr, which is no traceback."""
    said = capsys.readouterr().err
    assert "Traceback" not in said
    return said


@pytest.mark.parametrize("name", BAD)
def test_bad_input_ends_with_a_sentence_and_status_2(
    name: str, places: dict[str, Path], capsys: pytest.CaptureFixture
) -> None:
    *arguments, message = BAD[name]
    before = {path: path.stat().st_mtime_ns for path in sorted(places["old"].parent.rglob("*"))}
    assert status(*(word.format(**places) for word in arguments)) == 2
    assert message in told(capsys)
    assert {path: path.stat().st_mtime_ns for path in sorted(places["old"].parent.rglob("*"))} == before


@pytest.mark.parametrize("damage", ["cut", "empty", "text", "pickle", "absent"])
@pytest.mark.parametrize("what", ["weights", "delta", "inspect", "source", "pixels", "inherit"])
def test_a_damaged_file_is_named_by_every_command(
    what: str, damage: str, places: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    folder = {"source": places["source"], "pixels": places["pixels"]}.get(what)
    bad = tmp_path / "bad.safetensors"
    if folder is not None:
        shutil.copytree(folder, tmp_path / "copy")
        bad = tmp_path / "copy/transformer/diffusion_pytorch_model.safetensors"
    good = places["pixels"] / "transformer/diffusion_pytorch_model.safetensors"
    contents = {"cut": good.read_bytes()[:-7], "empty": b"", "text": b"once upon a time", "pickle": b"PK\x03\x04..."}
    if damage == "absent":
        bad.unlink(missing_ok=True)
    else:
        bad.write_bytes(contents[damage])
    commands = {
        "weights": ("convert", places["source"], "--weights", bad),
        "inherit": ("convert", places["source"], "--inherit", bad, "--patch-size", 8),
        "delta": ("merge", places["source"], bad),
        "source": ("convert", tmp_path / "copy"),
        "pixels": ("sample", tmp_path / "copy", "a"),
        "inspect": ("inspect", bad),
    }
    out = () if what == "inspect" else ("--out", tmp_path / "new")
    assert status(*commands[what], *out) == 2
    said = told(capsys)
    assert "safetensors" in said and (damage == "absent" or bad.name in said), said
    assert not any("new" in path.name for path in tmp_path.iterdir())


def test_brackets_in_a_path_are_no_markup(flux_folder: Path, tmp_path: Path) -> None:
    assert "[/foo]" in invoke("convert", flux_folder, "--patch-size", 8, "--out", tmp_path / "[/foo]")


def test_a_hub_id_that_cannot_be_had_is_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError("We couldn't connect to 'https://huggingface.co'")

    monkeypatch.setattr("diffusers.DiffusionPipeline.load_config", refuse)
    assert status("convert", "someone/something", "--out", tmp_path / "new") == 2
    assert "someone/something cannot be loaded: We couldn't connect" in told(capsys)


def test_a_full_disk_leaves_nothing(
    flux_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    def full(self: object, folder: Path, *_: object, **__: object) -> None:
        folder.mkdir()
        (folder / "half").write_text("half")
        raise OSError(28, "No space left on device", str(folder))

    monkeypatch.setattr(L2PPipeline, "save_pretrained", full)
    assert status("convert", flux_folder, "--patch-size", 8, "--out", tmp_path / "new") == 2
    assert "the disk is full" in told(capsys) and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("error", "expected", "message"),
    [
        (FloatingPointError("not finite at step 4"), 1, "the transfer diverged: not finite at step 4"),
        (
            KeyboardInterrupt("stopped at step 3"),
            3,
            "interrupted: what is finished is kept, nothing half-written counts",
        ),
        (MemoryError(), 2, "there is not enough memory"),
        (InputError("no such thing; give another"), 2, "error: no such thing; give another"),
        (ValueError("a bug"), 4, "this is a fault of the program, not yours (ValueError: a bug); --debug shows where"),
        (TypeError("a bug"), 4, "this is a fault of the program, not yours (TypeError: a bug); --debug shows where"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else "",
)
def test_one_exit_status_for_one_meaning(
    error: BaseException,
    expected: int,
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
    places: dict[str, Path],
) -> None:
    def fail(path: Path) -> None:
        raise error

    monkeypatch.setattr("l2p.conversion.describe", fail)
    assert status("inspect", places["weights"]) == expected
    assert message in told(capsys)
    assert status("inspect", places["weights"], "--debug") == expected
    assert ("Traceback" in capsys.readouterr().err) == (expected != 3)


def test_a_terminated_command_leaves_nothing_and_says_so(flux_folder: Path, tmp_path: Path) -> None:
    script = (
        "import os, signal, sys; from l2p import __main__, pipeline\n"
        "def save(self, folder):\n    folder.mkdir(); os.kill(os.getpid(), signal.SIGTERM)\n"
        "pipeline.L2PPipeline.save_pretrained = save\nsys.exit(__main__.main())\n"
    )
    arguments = ["convert", str(flux_folder), "--patch-size", "8", "--out", str(tmp_path / "new")]
    root = Path(__file__).parents[2]
    ended = subprocess.run([sys.executable, "-c", script, *arguments], cwd=root, capture_output=True, text=True)
    assert ended.returncode == 3 and "interrupted" in ended.stderr and "Traceback" not in ended.stderr
    assert list(tmp_path.iterdir()) == []
