"""A detector that is not the right one, or not rightly fed, is stopped: on the miniature's, where truth is known."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bench.geneval.checks import DetectorError, check_detector, first_images_alarm, self_test, swap_red_blue
from bench.geneval.images import read_folder
from bench.geneval.score import ScoreConfig, detect_and_color, score_folder
from bench.records import Detection, read_json
from reproduce.miniature import detector as miniature

from .conftest import SHAPES, TruthfulDetector, suite, write_images

NUM_IMAGES = 60


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Rendered scenes as a suite's folder, and the same ones as labelled photographs."""
    from reproduce.miniature.prompts import task_entry
    from reproduce.miniature.render import render_batch
    from reproduce.miniature.scenes import TASKS, task_scene

    folder, photographs = tmp_path_factory.mktemp("images"), tmp_path_factory.mktemp("photographs")
    random, rows = np.random.default_rng(5), []
    tasks = [TASKS[number * len(TASKS) // NUM_IMAGES] for number in range(NUM_IMAGES)]
    scenes = [task_scene(random, task) for task in tasks]
    for number, (scene, task, pixels) in enumerate(zip(scenes, tasks, render_batch(scenes, 48), strict=True)):
        own = folder / f"{number:05}"
        (own / "samples").mkdir(parents=True)
        (own / "metadata.jsonl").write_text(json.dumps(task_entry(scene, task)))
        Image.fromarray(pixels).save(own / "samples" / "0000.png")
        Image.fromarray(pixels).save(photographs / f"{number}.png")
        labels = sorted({f"{item.color} {item.shape}" for item in scene.objects})
        rows.append({"file_name": f"{number}.png", "labels": labels})
    (photographs / "labels.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder, photographs


def network(change=lambda weights, untrained: weights):
    """The shipped network with its weights changed."""
    import torch
    from safetensors.torch import load_file

    torch.manual_seed(0)
    weights = load_file(miniature.WEIGHTS)
    made = miniature.ShapeDetector(
        len(weights["stem.0.weight"]), len(weights["head.1.bias"]) - miniature.NUM_SHAPES - 4
    )
    made.load_state_dict(change(weights, made.state_dict()))
    return made.eval()


def detector(change=lambda weights, untrained: weights, feed=lambda pixels: miniature.to_tensor(pixels)):
    own = network(change)
    return lambda images: miniature.find(own, feed(np.stack([np.asarray(image) for image in images])))


def other_channel_order(weights, untrained):
    """Weights of another version: every tensor fits, one convolution counts its channels in another order."""
    return weights | {"down4.0.0.weight": weights["down4.0.0.weight"].roll(5, dims=1)}


def half_a_head(weights, untrained):
    """One of the head's two layers was never loaded."""
    return {name: untrained[name] if name.startswith("head.0.") else value for name, value in weights.items()}


def not_normalised(pixels):
    import torch

    return torch.from_numpy(pixels).permute(0, 3, 1, 2).float()


BROKEN = {
    "another version's weights": lambda: detector(other_channel_order),
    "BGR for RGB": lambda: detector(feed=lambda pixels: miniature.to_tensor(np.ascontiguousarray(pixels[..., ::-1]))),
    "no normalisation": lambda: detector(feed=not_normalised),
    "half-loaded head": lambda: detector(half_a_head),
}


def test_the_right_detector_passes_every_check(world):
    folder, photographs = world
    detect = detect_and_color(detector(), None)
    figures = check_detector(detect, read_folder(folder, None, NUM_IMAGES, 1), 16)
    assert figures["classes"]["own"] > 0.9 and figures["classes"]["p_value"] < 0.01
    assert figures["colors"]["own"] > 0.9 and figures["gain_with_swapped_channels"] < 0
    assert self_test(detect, photographs, 16)["share_found"] > 0.95


@pytest.mark.parametrize("fault", BROKEN)
def test_labelled_photographs_find_each_of_the_four_faults(world, fault):
    with pytest.raises(DetectorError, match="Likely causes: the wrong checkpoint") as told:
        self_test(detect_and_color(BROKEN[fault](), None), world[1], 16)
    assert ("the channels are the wrong way round" in str(told.value)) == (fault == "BGR for RGB")


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        ("another version's weights", "fit the prompts hardly better"),
        ("BGR for RGB", "red and blue are swapped"),
        ("no normalisation", "fit the prompts hardly better"),
    ],
)
def test_the_alarm_finds_three_of_them_without_any_label(world, fault, told):
    folder = read_folder(world[0], None, NUM_IMAGES, 1)
    with pytest.raises(DetectorError, match=told):
        check_detector(detect_and_color(BROKEN[fault](), None), folder, 16)


def test_strict_loading_finds_a_half_loaded_head():
    """The alarm cannot tell it from a weak generator, so nothing is ever loaded in part."""
    with pytest.raises(RuntimeError, match="head.0"):
        network(lambda weights, _: {name: value for name, value in weights.items() if not name.startswith("head.0.")})


def test_a_broken_detector_stops_the_run_and_leaves_what_it_was_told(tmp_path, world):
    config = ScoreConfig(num_prompts=NUM_IMAGES, images_per_prompt=1, batch_size=16, device="cpu", num_resamples=100)
    broken = BROKEN["BGR for RGB"]()
    with pytest.raises(DetectorError, match="no-self-test goes on"):
        score_folder(world[0], broken, tmp_path / "out", config=config)
    assert not (tmp_path / "out" / "summary.json").exists()
    with pytest.raises(DetectorError, match="Self-test"):
        score_folder(world[0], broken, tmp_path / "o2", config=replace(config, self_test_dir=world[1]))
    summary = score_folder(world[0], broken, tmp_path / "out", config=replace(config, watch_detector=False))
    assert summary.passport["checks"]["alarm"] == "not run: --no-self-test"
    tested = score_folder(world[0], detector(), tmp_path / "o3", config=replace(config, self_test_dir=world[1]))
    assert tested.passport["checks"]["self_test"]["photographs"] == NUM_IMAGES
    assert tested.overall > 0.95 and summary.overall < 0.85


def test_almost_no_detection_in_the_first_50_images_is_an_alarm():
    nothing, something = [[]] * 10, [[Detection(label="cat", box=(0, 0, 1, 1), score=0.9)]] * 10
    watch = first_images_alarm()
    for _ in range(4):
        watch(nothing)
    with pytest.raises(DetectorError, match="finds almost nothing: 0 objects above 0.3 in 50 images"):
        watch(nothing)
    watch = first_images_alarm()
    for found in [something, *[nothing] * 9]:
        watch(found)


def test_a_run_that_finds_nothing_stops(tmp_path):
    entries = suite(30)
    images = write_images(tmp_path / "images", entries)
    config = ScoreConfig(images_per_prompt=2, device="cpu")
    with pytest.raises(DetectorError, match="almost nothing"):
        score_folder(images, lambda batch: [[] for _ in batch], tmp_path / "out", entries=entries, config=config)
    quiet = replace(config, watch_detector=False, num_resamples=100)
    summary = score_folder(images, lambda batch: [[] for _ in batch], tmp_path / "out", entries=entries, config=quiet)
    assert summary.overall == 0 and read_json(tmp_path / "out/summary.json")["passport"]["checks"]["alarm"]


def test_the_self_tests_folder_is_read_strictly(tmp_path):
    detect = detect_and_color(TruthfulDetector(), None)
    with pytest.raises(FileNotFoundError, match="labels.jsonl is missing"):
        self_test(detect, tmp_path, 4)
    labels = tmp_path / "labels.jsonl"
    for row in ({"file_name": "a.png"}, {"file_name": "../a.png", "labels": ["star"]}, ["a.png"]):
        labels.write_text(json.dumps(row))
        with pytest.raises(ValueError, match="must be"):
            self_test(detect, tmp_path, 4)
    labels.write_text(json.dumps({"file_name": "a.png", "labels": [SHAPES[2]]}))
    Image.fromarray(np.full((4, 4, 3), (2, 200, 0), np.uint8)).save(tmp_path / "a.png")
    assert self_test(detect, Path(tmp_path), 4) == {"photographs": 1, "share_found": 1.0}


def test_channels_are_swapped_and_back():
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (3, 5, 3), dtype=np.uint8))
    assert np.asarray(swap_red_blue(image))[0, 0].tolist() == np.asarray(image)[0, 0, ::-1].tolist()
    assert swap_red_blue(swap_red_blue(image)).tobytes() == image.tobytes()
