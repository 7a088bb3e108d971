"""Anchors at full size (cost.md), the cache, other configurations."""

import json
from pathlib import Path

import pytest
import torch

from bench.cost import cache
from bench.cost.cases import parse
from bench.cost.families import Sampler, family_from_folder
from bench.cost.predict import count_parameters, predict
from tests.bench.cost.small import CONFIGS, small_family

GIB = 2**30
ROOT = Path(__file__).parents[3]


def test_one_zimage_forward_at_1024():
    cost = predict(parse("zimage-1024", text_tokens=256))
    assert cost.flops / 1e12 == pytest.approx(58.54, abs=0.005)
    assert cost.peak_memory_bytes / GIB == pytest.approx(11.96, abs=0.005)


def test_figure_4_memory_with_a_guidance_batch_of_two():
    """The prototype's anchor, -39.0 %, includes two copies that its model made and l2p's does not make: -40.0 %."""
    source, pixel = (predict(parse(name, batch_size=2, text_tokens=256)) for name in ("zimage-4096", "l2p-zimage-4096"))
    stacked_images, stacked_tokens = 2 * 3 * 4096**2, 2 * 3840 * 64**2  # numbers that its `torch.stack` calls copied
    prototype_bytes = pixel.peak_memory_bytes + 2 * (stacked_images + stacked_tokens)  # bfloat16
    assert 100 * (prototype_bytes / source.peak_memory_bytes - 1) == pytest.approx(-39.0, abs=0.3)
    assert 100 * (pixel.peak_memory_bytes / source.peak_memory_bytes - 1) == pytest.approx(-40.0, abs=0.3)


def test_the_batch_multiplies_flops_and_leaves_the_weights():
    family = small_family("flux")
    one, four = (predict(parse("flux-512", batch_size=size, family=family), family) for size in (1, 4))
    assert four.num_parameters == one.num_parameters
    # each image's part is linear; modulation and the weights' share are not images' tokens
    assert four.flops == pytest.approx(4 * one.flops, rel=1e-9)
    assert one.peak_memory_bytes < four.peak_memory_bytes < 4 * one.peak_memory_bytes


def test_freezing_the_middle_saves_memory_and_checkpointing_trades_flops_for_it():
    family = small_family("flux")
    ways = ("1", "full", "full-checkpointed", "full-8bit")
    some, full, checkpointed, eight = (
        predict(parse(f"train-l2p-flux-512-{way}", family=family), family) for way in ways
    )
    assert some.num_trainable_parameters < full.num_trainable_parameters == full.num_parameters
    assert some.flops < full.flops < checkpointed.flops
    assert some.resident_bytes < full.resident_bytes
    assert {work.stage for work in full.operators} == set(full.stage_peaks) == {"denoiser", "optimiser"}
    assert {work.name for work in full.operators if work.stage == "optimiser"} >= {"_foreach_sqrt", "_foreach_add_"}
    assert checkpointed.peak_memory_bytes < full.peak_memory_bytes
    # bfloat16 moments are 4 bytes a parameter, 8-bit ones 2 and a float32 maximum a block of 256 each
    saved = (full.resident_bytes - eight.resident_bytes) / full.num_parameters
    assert saved == pytest.approx(2 - 2 * 4 / 256, rel=0.05)


def test_a_kept_prediction_is_read_again_and_a_changed_family_is_not(tmp_path, monkeypatch):
    family = small_family("flux")
    case = parse("flux-512", family=family)
    first = cache.cached_prediction(case, family, folder=tmp_path)
    monkeypatch.setattr(cache, "predict", lambda *args, **options: pytest.fail("predicted again"))
    assert cache.cached_prediction(case, family, folder=tmp_path) == first
    with pytest.raises(pytest.fail.Exception, match="predicted again"):
        cache.cached_prediction(case, small_family("flux"), folder=tmp_path, dtype=torch.float32)


def test_a_prediction_is_kept_by_all_of_l2p_s_code(tmp_path):
    names = {path.relative_to(ROOT).as_posix() for path in cache.source_files(ROOT / "l2p")}
    assert {"l2p/pixel_transformer.py", "l2p/architectures/flux.py"} <= names
    with pytest.raises(FileNotFoundError, match="holds no Python file"):
        cache.source_files(tmp_path)


@pytest.mark.parametrize("way", ["1", "full", "1-released"])
def test_parameters_are_counted_without_a_tensor(way):
    family = small_family("flux")
    case = parse(f"train-l2p-flux-512-{way}", family=family)
    cost = predict(case, family)
    assert count_parameters(case, family) == (cost.num_parameters, cost.num_trainable_parameters)
    with pytest.raises(ValueError, match="flux-512 trains nothing"):
        count_parameters(parse("flux-512", family=family), family)


def test_a_source_folder_s_configurations_replace_the_published_ones(tmp_path):
    sampler = Sampler(num_inference_steps=10, forwards_per_step=2, source="recipe")
    with pytest.raises(FileNotFoundError, match="transformer/ and vae/"):
        family_from_folder("flux", tmp_path, text_tokens=8, sampler=sampler)
    small = small_family("flux")
    vae = {
        **small.vae.config,
        "_class_name": "AutoencoderKL",
        "block_out_channels": [8, 16, 16],
        "norm_num_groups": 4,
        "latent_channels": 4,
    }
    vae |= {"down_block_types": ["DownEncoderBlock2D"] * 3, "up_block_types": ["UpDecoderBlock2D"] * 3}
    transformer = {**small.transformer.config, "in_channels": 16, "_class_name": "FluxTransformer2DModel"}
    for name, config in (("vae", vae), ("transformer", transformer)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(json.dumps(config))
    options = {"prediction": "clean", "detailer": {"channels": (4, 8, 8), "upsampling": "unfold"}}
    family = family_from_folder("flux", tmp_path, text_tokens=8, sampler=sampler, pixel_options=options)
    assert family.pixels_per_token == 8  # a VAE of factor 4, packed 2 x 2
    decode = predict(parse("vae-flux-48", family=family), family, dtype=torch.float32)
    pixel = predict(parse("l2p-flux-48", family=family, patch_size=8), family, dtype=torch.float32)
    assert decode.peak_stage == "vae"
    assert pixel.flops > 0


@pytest.mark.parametrize("name", CONFIGS)
def test_every_architecture_runs_as_a_pixel_model(name):
    family = small_family(name)
    source, pixel = (predict(parse(f"{model}{name}-128", family=family), family) for model in ("", "l2p-"))
    assert pixel.flops > source.flops  # the same tokens, and a Detailer Head on top
