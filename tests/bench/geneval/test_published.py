"""The paper-size recipe's judge of GenEval: detector and colours by one loader, no hub and no colours are errors."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from bench.geneval import colors
from bench.geneval.benchmark import GENEVAL
from bench.geneval.colors import ColorClassifier
from bench.geneval.detectors import WEIGHTS, published
from bench.geneval.rules import COLORS
from bench.perf.reduced import random_detector
from bench.records import ScoreSettings, read_json, read_jsonl
from reproduce.recipes.flux import flux_paper

open_clip = pytest.importorskip("open_clip")
SMALL = {"width": 24, "depths": (2, 2, 2, 2), "num_queries": 10}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A Mask2Former of random weights in transformers' format."""
    path = tmp_path_factory.mktemp("mask2former")
    random_detector(SMALL).network.save_pretrained(path)
    return path


@pytest.fixture
def judge(folder, monkeypatch):
    """What the recipe's detector loads, with a tiny CLIP of random weights in place of ViT-L-14."""
    torch.manual_seed(0)
    tower = {"layers": 1, "width": 32}
    model = open_clip.CLIP(
        32,
        tower | {"image_size": 32, "patch_size": 8, "head_width": 16},
        tower | {"context_length": 77, "vocab_size": 49408, "heads": 2},
    ).eval()
    tiny = ColorClassifier(model, open_clip.image_transform(32, False), open_clip.get_tokenizer("ViT-B-16"), "cpu")
    tiny.passport["name"] = "tiny CLIP"
    asked = []
    monkeypatch.setattr(colors, "load_colors", lambda *arguments: asked.append(arguments) or tiny)
    monkeypatch.setenv(WEIGHTS, str(folder))
    loaded = GENEVAL.load_judge(flux_paper().judges["geneval"])
    assert asked == [("ViT-L-14-quickgelu", "openai", "cpu")]
    loaded.ask.scale = (96, 64)  # the network's input; the real one is as slow here as it is exact
    return loaded


@pytest.fixture
def suite(judge, tmp_path):
    """Two prompts that ask for a colour of what the random detector happens to find in their images."""
    random, entries = np.random.default_rng(0), []
    for number in range(2):
        image = Image.fromarray(random.integers(0, 256, (40, 60, 3), dtype=np.uint8))
        label = max(judge([image])[0], key=lambda detection: detection.score).label
        clause = {"class": label, "count": 1, "color": "red"}
        entries.append({"tag": "colors", "include": [clause], "prompt": f"{number} photos of a red {label}"})
        samples = tmp_path / "images" / f"{number:05}" / "samples"
        samples.mkdir(parents=True)
        image.save(samples / "0000.png")
        (samples.parent / "metadata.jsonl").write_text(json.dumps(entries[-1]))
    (tmp_path / "suite.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    prompts = GENEVAL.load_prompts(str(tmp_path / "suite.jsonl"), {})
    return ScoreSettings(
        prompts=prompts,
        samples=GENEVAL.layout(prompts, 1),
        images_per_prompt=1,
        resolution=40,
        subject="toy",
        judge_name="published",
        watch_judge=False,
    )


def test_the_recipes_judge_colours_what_it_finds(judge, suite, tmp_path):
    GENEVAL.score(tmp_path / "images", judge, tmp_path / "scores", suite)
    models = read_json(tmp_path / "scores/summary.json")["passport"]["models"]
    assert models["colors"]["name"] == "tiny CLIP" and models["detector"]["name"] == "mask2former"
    for row, prompt in zip(
        read_jsonl(tmp_path / "scores/detections.jsonl"), read_jsonl(tmp_path / "suite.jsonl"), strict=True
    ):
        same = [d for d in row["detections"] if d["label"] == prompt["include"][0]["class"]]
        assert max(same, key=lambda detection: detection["score"])["color"] in COLORS


def test_without_colours_it_is_an_error_and_no_zero(judge, suite, tmp_path):
    with pytest.raises(ValueError, match="a colour classifier is needed"):
        GENEVAL.score(tmp_path / "images", replace(judge, colors=None), tmp_path / "scores", suite)
    assert not (tmp_path / "scores/summary.json").exists()


def test_without_weights_or_hub_it_says_what_to_do(monkeypatch, folder):
    monkeypatch.delenv(WEIGHTS, raising=False)
    with pytest.raises(ValueError, match=f"set {WEIGHTS} to GenEval's checkpoint .*743b7d99.pth"):
        published()
    monkeypatch.setenv(WEIGHTS, "owner/no-such-model")
    with pytest.raises(OSError, match="owner/no-such-model is no checkpoint file"):
        published()
    monkeypatch.setenv(WEIGHTS, str(folder))
    with pytest.raises(ValueError, match="(?s)ViT-L-14-quickgelu: Failed to download weights.*--clip-weights"):
        published()
