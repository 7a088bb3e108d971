"""A new family is one file and one line in ARCHITECTURES: a copy of FLUX's under other names goes all the way."""

import importlib.util
from dataclasses import replace
from pathlib import Path

import diffusers
import pytest
import torch
from diffusers import FluxPipeline, FluxTransformer2DModel

from l2p.architectures import ARCHITECTURES, encode_prompt, flux, source_velocity
from l2p.conversion import load_delta
from l2p.pipeline import L2PPipeline, load_source, pixel_pipeline
from l2p.pixel_transformer import PixelTransformer2DModel
from l2p.transfer import run_transfer
from tests.l2p.test_transfer import CONFIG
from tests.tiny import source as tiny_source

SMALL = {"height": 16, "width": 24, "num_inference_steps": 2, "max_sequence_length": 12, "output_type": "pt"}


@pytest.fixture
def nova(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The family "nova": classes of its own in diffusers, one file, one entry in ARCHITECTURES."""
    for old in (FluxPipeline, FluxTransformer2DModel):
        new = old.__name__.replace("Flux", "Nova")
        monkeypatch.setattr(diffusers, new, type(new, (old,), {"__module__": "diffusers"}), raising=False)
    text = Path(flux.__file__).read_text("utf-8")
    for old_name, new in (("FluxPipeline", "NovaPipeline"), ("FluxTransformer2DModel", "NovaTransformer2DModel")):
        text = text.replace(old_name, new)
    text = text.replace('name="flux"', 'name="nova"').replace('title="FLUX"', 'title="Nova"')
    (tmp_path / "nova.py").write_text(text, "utf-8")
    spec = importlib.util.spec_from_file_location("nova", tmp_path / "nova.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setitem(ARCHITECTURES, "nova", module.FLUX)
    return "nova"


def test_a_copy_of_a_family_under_another_name_goes_all_the_way(nova: str, corpus_folder: Path, tmp_path: Path) -> None:
    tiny_source(nova).save_pretrained(tmp_path / "source")
    source = load_source(tmp_path / "source")
    assert type(source).__name__ == "NovaPipeline" and type(source.transformer).__name__ == "NovaTransformer2DModel"
    images = torch.rand(2, 3, 16, 24) * 2 - 1
    latents = ARCHITECTURES[nova].encode_latents(source, images)
    prompt = encode_prompt(source, nova, ["a red star", "two blue"], 12)
    velocity = source_velocity(ARCHITECTURES[nova], source.transformer, latents, torch.tensor([0.3, 0.6]), prompt)
    assert velocity.shape == latents.shape
    config = replace(CONFIG, input_projection="ridge", num_train_steps=2)
    run_transfer(tmp_path / "source", corpus_folder, config, tmp_path / "transfer", progress=False)
    trained = PixelTransformer2DModel.from_pretrained(tmp_path / "transfer" / "model")
    merged = load_delta(source, tmp_path / "transfer" / "delta.safetensors")
    assert trained.config.architecture == merged.config.architecture == nova
    assert all(torch.equal(merged.state_dict()[name], tensor) for name, tensor in trained.state_dict().items())
    pipeline = pixel_pipeline(source, merged)
    pipeline.save_pretrained(tmp_path / "pixels")
    drawn = [
        p("a red star", generator=torch.Generator().manual_seed(0), **SMALL).images
        for p in (pipeline, L2PPipeline.from_pretrained(tmp_path / "pixels"))
    ]
    assert drawn[0].shape == (1, 3, 16, 24) and torch.equal(*drawn)


def test_the_copy_trains_as_the_family_it_was_copied_from(
    nova: str, flux_folder: Path, corpus_folder: Path, tmp_path: Path
) -> None:
    """Nothing else knows a family's name: the copy's transfer ends with FLUX's tensors, bit for bit."""
    tiny_source(nova).save_pretrained(tmp_path / "source")
    deltas = []
    for name, folder in (("nova", tmp_path / "source"), ("flux", flux_folder)):
        run_transfer(folder, corpus_folder, replace(CONFIG, num_train_steps=2), tmp_path / name, progress=False)
        deltas.append(PixelTransformer2DModel.from_pretrained(tmp_path / name / "model").state_dict())
    assert deltas[0].keys() == deltas[1].keys()
    assert all(torch.equal(deltas[0][name], tensor) for name, tensor in deltas[1].items())
