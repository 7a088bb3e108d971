"""Saved pipelines: loaded by whom, with what missing, and kindred sources that must not pass for a family's own."""

import json
import os
import runpy
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import diffusers
import pytest
import torch
from transformers import Qwen3Config, Qwen3ForCausalLM

from l2p.architectures import ARCHITECTURES, encode_prompt
from l2p.pipeline import L2PPipeline, pixel_pipeline
from l2p.pixel_transformer import PixelTransformer2DModel
from l2p.sources import load_source
from tests.l2p.pixels import LENGTH, PROMPTS, close, draw, pixels
from tests.tiny import source

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module", params=ARCHITECTURES)
def saved(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[L2PPipeline, Path]:
    folder, pipeline = tmp_path_factory.mktemp(request.param), pixels(request.param)
    pipeline.save_pretrained(folder)
    return pipeline, folder


def equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    """Assert that two encoded prompts are the same, up to what other places in memory change in the last bits."""
    assert one.keys() == other.keys()
    for name in one:
        torch.testing.assert_close(one[name], other[name], atol=1e-5, rtol=0)


def test_prompts_are_encoded_without_the_transformer_and_drawn_without_encoders(
    saved: tuple[L2PPipeline, Path],
) -> None:
    pipeline, folder = saved
    encoder = L2PPipeline.from_pretrained(folder, transformer=None)
    embeds, negative = encoder.encode_prompt(PROMPTS[:2], LENGTH), encoder.encode_prompt("", LENGTH)
    equal(embeds, pipeline.encode_prompt(PROMPTS[:2], LENGTH))
    with pytest.raises(ValueError, match="loaded without its transformer: it encodes prompts, but cannot draw"):
        draw(encoder)
    text = {name: None for name in pipeline.components if name.startswith(("text_encoder", "tokenizer"))}
    drawer = L2PPipeline.from_pretrained(folder, **text)
    drawer.set_progress_bar_config(disable=True)
    close(draw(drawer, prompt_embeds=embeds, negative_prompt_embeds=negative), draw(pipeline))
    with pytest.raises(ValueError, match="this pipeline has no text_encoder to encode prompts with"):
        draw(drawer)


def test_what_was_loaded_without_a_part_is_saved_and_loaded_without_it(
    saved: tuple[L2PPipeline, Path], tmp_path: Path
) -> None:
    pipeline, folder = saved
    L2PPipeline.from_pretrained(folder, transformer=None).save_pretrained(tmp_path)
    again = L2PPipeline.from_pretrained(tmp_path)
    assert again.transformer is None and not (tmp_path / "transformer").exists()
    equal(again.encode_prompt(PROMPTS, LENGTH), pipeline.encode_prompt(PROMPTS, LENGTH))


def test_a_folder_of_before_the_family_was_kept_still_loads(saved: tuple[L2PPipeline, Path]) -> None:
    pipeline, folder = saved
    index = folder / "model_index.json"
    config = json.loads(index.read_text())
    assert config["architecture"] == pipeline.config.architecture and config["_class_name"] == [
        "pipeline",
        "L2PPipeline",
    ]
    index.write_text(json.dumps({**config, "architecture": None, "_class_name": "L2PPipeline"}))
    try:
        loaded = L2PPipeline.from_pretrained(folder)
        loaded.set_progress_bar_config(disable=True)
        close(draw(loaded), draw(pipeline))
        encoder = L2PPipeline.from_pretrained(folder, transformer=None)
        with pytest.raises(ValueError, match="name the family: from_pretrained"):
            encoder.encode_prompt("a")
        named = L2PPipeline.from_pretrained(folder, transformer=None, architecture=pipeline.config.architecture)
        equal(named.encode_prompt("a", LENGTH), pipeline.encode_prompt("a", LENGTH))
    finally:
        index.write_text(json.dumps(config))


STRANGER = """
import sys
from diffusers import DiffusionPipeline
assert "l2p" not in sys.modules
try:
    DiffusionPipeline.from_pretrained(sys.argv[1])
except ValueError as error:
    print(str(error).splitlines()[-1])
pipeline = DiffusionPipeline.from_pretrained(sys.argv[1], trust_remote_code=True)
print(type(pipeline).__name__, list(pipeline.encode_prompt("a", 12)["prompt_embeds"].shape))
"""


def test_a_process_that_never_imported_us_is_told_what_to_do_and_then_loads(tmp_path: Path) -> None:
    folder = tmp_path / "saved"
    pixels("flux").save_pretrained(folder)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_MODULES_CACHE": str(tmp_path / "modules")}
    ran = subprocess.run(
        [sys.executable, "-c", STRANGER, str(folder)], capture_output=True, text=True, env=environment, cwd=tmp_path
    )
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.splitlines() == [
        "Pass `trust_remote_code=True` to allow loading remote code modules.",
        "L2PPipeline [1, 12, 32]",
    ]


def test_where_we_are_not_installed_the_folders_code_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pixels("flux").save_pretrained(tmp_path)
    monkeypatch.setitem(sys.modules, "l2p.pipeline", None)
    with pytest.raises(ImportError, match="install the package l2p-reproduction"):
        runpy.run_path(str(tmp_path / "pipeline.py"))


def test_our_own_class_runs_no_code_of_the_folder(tmp_path: Path) -> None:
    pixels("flux").save_pretrained(tmp_path)
    (tmp_path / "pipeline.py").write_text("raise SystemExit('code of the folder ran')")
    assert L2PPipeline.from_pretrained(tmp_path).config.architecture == "flux"


# --- kindred sources -----------------------------------------------------------------------------------------------


def klein() -> diffusers.Flux2KleinPipeline:
    """FLUX.2's transformer and autoencoder under FLUX.2-klein's text encoder and rule."""
    origin = source("flux2", max_length=64)
    sizes = {"vocab_size": 10, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 8}
    return diffusers.Flux2KleinPipeline(
        transformer=origin.transformer,
        vae=origin.vae,
        scheduler=origin.scheduler,
        text_encoder=Qwen3ForCausalLM(Qwen3Config(**sizes, **heads)),
        tokenizer=source("qwenimage", max_length=64).tokenizer,
    )


def test_a_kindred_source_is_refused_wherever_it_enters(tmp_path: Path) -> None:
    kindred = klein()
    model = PixelTransformer2DModel.from_source(kindred.transformer, patch_size=8)
    with pytest.raises(ValueError, match=r"the source is a Flux2KleinPipeline; .* \{'Flux2Pipeline': 'flux2'\}"):
        pixel_pipeline(kindred, model)
    with pytest.raises(ValueError, match="text_encoder is a Qwen3ForCausalLM, and Flux2Pipeline encodes prompts with"):
        encode_prompt(kindred, "flux2", ["a"], 48)
    kindred.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="the source is a Flux2KleinPipeline; what can be turned into a pixel model"):
        load_source(tmp_path)
    by_hand = L2PPipeline(model, kindred.scheduler, text_encoder=kindred.text_encoder, tokenizer=kindred.tokenizer)
    with pytest.raises(ValueError, match="this is another family's text encoder"):
        by_hand.encode_prompt("a")


def test_a_refused_source_loads_no_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "model_index.json").write_text('{"_class_name": "FluxImg2ImgPipeline"}')

    def never(*_: Any, **__: Any) -> Any:
        raise AssertionError("weights were asked for")

    monkeypatch.setattr(diffusers.DiffusionPipeline, "from_pretrained", never)
    with pytest.raises(ValueError, match="the source is a FluxImg2ImgPipeline"):
        load_source(tmp_path)


def test_a_source_of_another_family_than_the_models_is_refused() -> None:
    model = pixels("flux").transformer
    with pytest.raises(ValueError, match=r"the source is a StableDiffusion3Pipeline; .* \{'FluxPipeline': 'flux'\}"):
        pixel_pipeline(source("sd3"), model)
    with pytest.raises(ValueError, match="the transformer is of 'flux', not of 'sd3'"):
        L2PPipeline(model, source("flux").scheduler, architecture="sd3")


def test_stable_diffusion_3_encodes_without_t5() -> None:
    pipeline = pixels("sd3")
    pipeline.text_encoder_3 = pipeline.tokenizer_3 = None
    embeds = pipeline.encode_prompt("a red star", LENGTH)
    assert not embeds["prompt_embeds"][:, -LENGTH:].any() and embeds["prompt_embeds"].any()
    flux = SimpleNamespace(**{**pixels("flux").components, "tokenizer_2": None})
    with pytest.raises(ValueError, match="this pipeline has no tokenizer_2"):
        encode_prompt(flux, "flux", ["a"], LENGTH)


def test_a_compiled_text_encoder_is_no_foreign_one() -> None:
    pipeline = pixels("zimage")
    embeds = pipeline.encode_prompt("a red star", LENGTH)
    pipeline.text_encoder = torch.compile(pipeline.text_encoder, backend="eager")
    equal(pipeline.encode_prompt("a red star", LENGTH), embeds)
