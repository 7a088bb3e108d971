"""python -m l2p: from a source to images, and errors that are sentences."""

from pathlib import Path

import pytest
import torch
from diffusers import FluxPipeline
from PIL import Image
from safetensors.torch import load_file
from typer.testing import CliRunner

from l2p import __main__ as command
from l2p.conversion import copy_source_weights, model_name, save_delta
from l2p.pixel_transformer import PixelTransformer2DModel
from tests.tiny import source

RUNNER = CliRunner()


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
    save_delta(model, {n: model.state_dict()[n] for n in report.new}, tmp_path / "delta.safetensors")
    invoke("merge", flux_folder, tmp_path / "delta.safetensors", "--out", tmp_path / "merged")
    loaded = PixelTransformer2DModel.from_pretrained(tmp_path / "merged" / "transformer")
    assert loaded.config.prediction == "clean"
    assert all(torch.equal(loaded.state_dict()[n], t) for n, t in model.state_dict().items())
    assert "prediction: clean" in invoke("inspect", tmp_path / "delta.safetensors")


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


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("convert", "{absent}", "--out", "{new}"), "no source at"),
        (("convert", "{source}", "--out", "{old}"), "exists; give another --out"),
        (("convert", "{source}", "--out", "{new}", "--dtype", "int8"), "unknown dtype 'int8'; known: ['bfloat16'"),
        (("merge", "{source}", "{absent}", "--out", "{new}"), "no delta at"),
        (("sample", "{absent}", "a", "--out", "{new}"), "is no pixel pipeline"),
        (("inspect", "{absent}"), "no .safetensors file at"),
    ],
)
def test_bad_input_ends_with_a_sentence_and_status_2(
    arguments: tuple[str, ...],
    message: str,
    flux_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "old").mkdir()
    places = {"source": flux_folder, "absent": tmp_path / "absent", "new": tmp_path / "new", "old": tmp_path / "old"}
    monkeypatch.setattr("sys.argv", ["l2p", *(a.format(**places) for a in arguments)])
    with pytest.raises(SystemExit) as ended:
        command.main()
    said = capsys.readouterr().err.replace("\n", "")
    assert ended.value.code == 2 and message in said and "Traceback" not in said
    assert not (tmp_path / "new").exists()
