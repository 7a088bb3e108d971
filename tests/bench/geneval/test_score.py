"""Scoring a folder: complete or refused, resumed to the same bytes, scored again without a model."""

import json
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from bench.compare import compare_scores
from bench.geneval.rules import Thresholds
from bench.geneval.score import ScoreConfig, score_folder
from bench.geneval.summary import official_results, write_scores
from bench.records import IncompleteError, read_json, read_jsonl
from l2p.errors import InputError

from .conftest import SHAPES, TruthfulDetector, entry, suite, write_images

CONFIG = ScoreConfig(images_per_prompt=2, batch_size=4, device="cpu", num_resamples=200)
FILES = ("detections.jsonl", "scores.jsonl", "summary.json")


def contents(directory):
    return [(directory / name).read_bytes() for name in FILES]


def score(images, out, entries, detector=None, **changes):
    config = replace(CONFIG, **changes)
    return score_folder(images, detector or TruthfulDetector(), out, entries=entries, config=config)


def test_a_folder_is_scored_and_tells_how(tmp_path, images, entries):
    summary = score(images, tmp_path / "out", entries, subject="toy")
    assert (summary.num_expected, summary.num_scored, summary.variant) == (24, 24, "published")
    rows = read_jsonl(tmp_path / "out" / "scores.jsonl")
    by_category = {c: np.mean([r["value"] for r in rows if r["category"] == c]) for c in ("single_object", "colors")}
    assert summary.by_category == pytest.approx(by_category)
    assert summary.overall == pytest.approx(np.mean(list(by_category.values())))
    assert 0.3 < summary.overall < 1 and summary.overall_ci95[0] < summary.overall < summary.overall_ci95[1]
    assert rows[2]["text"] == entries[1]["prompt"]
    passport = summary.passport
    assert passport["models"]["detector"]["name"] == "truthful" and passport["resolution"] == {"8x8": 24}
    assert passport["checks"]["self_test"].startswith("not run") and passport["checks"]["alarm"]["images"] == 24
    assert passport["generation"]["subject"] == "toy" and passport["generation"]["guidance_scale"] == "not stated"
    assert passport["resampled"] == "prompts" and passport["num_resamples"] == 200
    assert passport["thresholds"]["score_threshold"] == 0.3 and passport["versions"]["torch"]


def test_images_are_resampled_where_each_task_has_one_prompt(tmp_path):
    entries = [entry("circle"), entry("square", tag="colors")]
    images = write_images(tmp_path / "images", entries, images_per_prompt=20)
    summary = score(images, tmp_path / "out", entries, images_per_prompt=20, watch_detector=False)
    assert summary.passport["resampled"] == "images"
    assert summary.overall_ci95[0] < summary.overall < summary.overall_ci95[1]


def test_generation_settings_are_read_from_beside_the_images(tmp_path, images, entries):
    (images / "generation.json").write_text('{"guidance_scale": 4.5, "seed_rule": "by (prompt, index)"}')
    summary = score(images, tmp_path / "out", entries)
    assert summary.passport["generation"]["guidance_scale"] == 4.5
    (images / "generation.json").write_text('{"cfg": 4.5}')
    with pytest.raises(ValueError, match="Unknown generation settings cfg"):
        score(images, tmp_path / "out2", entries)


class DyingDetector(TruthfulDetector):
    """Fails, as a killed run would, after some images."""

    def __init__(self, after):
        super().__init__()
        self.after = after

    def __call__(self, images):
        if self.num_images >= self.after:
            raise KeyboardInterrupt
        return super().__call__(images)


def test_a_killed_run_goes_on_and_ends_with_the_same_bytes(tmp_path, images, entries):
    score(images, tmp_path / "whole", entries)
    out = tmp_path / "broken"
    with pytest.raises(KeyboardInterrupt):
        score(images, out, entries, DyingDetector(after=10), watch_detector=False)
    with open(out / "detections.part0.jsonl", "a") as file:
        file.write('{"prompt_id": "00005", "torn')
    again = TruthfulDetector()
    score(images, out, entries, again, watch_detector=False)
    assert again.num_images == 24 - 12  # three batches of four were done before
    (tmp_path / "whole2").mkdir()
    score(images, tmp_path / "whole2", entries, watch_detector=False)
    assert contents(out) == contents(tmp_path / "whole2")
    assert not list(out.glob("*.part*")) and not list(out.glob("*.done*"))
    third = TruthfulDetector()
    score(images, out, entries, third, watch_detector=False)
    assert third.num_images == 0


def test_an_image_that_changed_is_scored_again(tmp_path, images, entries):
    out = tmp_path / "out"
    score(images, out, entries)
    write_images(tmp_path / "other", entries, seed=5)
    (tmp_path / "other/00003/samples/0001.png").replace(images / "00003/samples/0001.png")
    detector = TruthfulDetector()
    score(images, out, entries, detector, watch_detector=False)
    assert detector.num_images == 4  # its batch
    score(images, tmp_path / "fresh", entries, watch_detector=False)
    assert contents(out) == contents(tmp_path / "fresh")


def test_results_of_another_detector_are_not_mixed_in(tmp_path, images, entries):
    score(images, tmp_path / "out", entries)
    other = TruthfulDetector()
    other.passport = {"name": "other"}
    with pytest.raises(ValueError, match="other settings .*models"):
        score(images, tmp_path / "out", entries, other)


def test_a_missing_image_stops_the_score_before_it_starts(tmp_path, images, entries):
    (images / "00004/samples/0000.png").unlink()
    detector = TruthfulDetector()
    with pytest.raises(IncompleteError, match="1 of 24 .*\n.*00004/samples/0000.png"):
        score(images, tmp_path / "out", entries, detector)
    assert detector.num_images == 0
    partial = score(images, tmp_path / "out", entries, allow_partial=True)
    assert (partial.num_scored, partial.num_expected, partial.variant) == (23, 24, "published, partial")
    assert partial.passport["partial"] is True
    rows = read_jsonl(tmp_path / "out" / "scores.jsonl")
    assert len(rows) == 24 and [r["reason"] for r in rows if r["value"] is None] == ["missing"]
    with pytest.raises(ValueError, match="unscored"):
        compare_scores(tmp_path / "out", tmp_path / "out")


def test_a_truncated_image_is_named_and_nothing_scored_is_lost(tmp_path, images, entries):
    path = images / "00004/samples/0000.png"
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(IncompleteError, match="00004/samples/0000.png: it cannot be read"):
        score(images, tmp_path / "out", entries)
    assert not (tmp_path / "out" / "summary.json").exists()
    path.write_bytes(whole)
    detector = TruthfulDetector()
    score(images, tmp_path / "out", entries, detector, watch_detector=False)
    assert detector.num_images == 4  # only the batch of the repaired image


def test_grey_alpha_and_other_sizes_are_scored(tmp_path, images, entries):
    def convert(name, change):
        change(Image.open(images / name)).save(images / name)

    reference = score(images, tmp_path / "reference", entries)
    convert("00001/samples/0000.png", lambda image: image.convert("RGBA"))
    convert("00003/samples/0000.png", lambda image: image.convert("RGB").crop((0, 0, 6, 5)))
    summary = score(images, tmp_path / "out", entries)
    assert summary.overall == reference.overall
    assert summary.passport["resolution"] == {"6x5": 1, "8x8": 23}
    convert("00005/samples/0000.png", lambda image: image.convert("L"))
    assert score(images, tmp_path / "grey", entries).num_scored == 24
    Image.fromarray(np.zeros((8, 8), np.uint16)).save(images / "00006/samples/0000.png")
    with pytest.raises(IncompleteError, match="00006/samples/0000.png: it has more than 8 bits a channel"):
        score(images, tmp_path / "deep", entries)


@pytest.mark.parametrize(
    ("break_it", "told"),
    [
        (lambda d: (d / "00001").rename(d / "one"), "not named by digits, such as 'one'"),
        (lambda d: (d / "00001/metadata.jsonl").write_text(json.dumps(entry("star"))), "is of another prompt"),
        (lambda d: (d / "00001/metadata.jsonl").write_text("{"), "not valid JSON"),
        (lambda d: (d / "00001/metadata.jsonl").unlink(), "is missing"),
        (lambda d: (d / "00001").rename(d / "00099"), "00000 to 00011"),
        (lambda d: (d / "00001/samples/0001.png").rename(d / "00001/samples/b.png"), "named by their index"),
        (lambda d: (d / "00001/samples/0001.png").rename(d / "00001/samples/0002.png"), "surplus"),
    ],
)
def test_a_folder_of_another_layout_is_refused_by_name(tmp_path, images, entries, break_it, told):
    break_it(images)
    with pytest.raises((ValueError, FileNotFoundError), match=told):
        score(images, tmp_path / "out", entries)


def test_a_class_that_the_detector_does_not_know_is_refused(tmp_path):
    entries = [*suite(3), entry("circle") | {"include": [{"class": "cross", "count": 1}], "prompt": "a cross"}]
    images = write_images(tmp_path / "images", entries[:3])
    write_images(tmp_path / "more", [entry("circle")])
    (tmp_path / "more/00000").rename(images / "00003")
    (images / "00003/metadata.jsonl").write_text(json.dumps(entries[3]))
    with pytest.raises(ValueError, match="00003 asks for 'cross', which the detector does not know; it knows circle"):
        score(images, tmp_path / "out", entries)


def test_prompts_are_text_and_nothing_else(tmp_path):
    """Paths, markup and control characters in a prompt reach `scores.jsonl` as they are, and no file's name."""
    evil = ["../../evil circle", "<script>alert(1)</script> circle", "[bold]circle[/bold] \x1b[31m"]
    entries = [entry("circle") | {"prompt": text} for text in evil]
    images = write_images(tmp_path / "deep/images", entries)
    score(images, tmp_path / "deep/out", entries)
    assert [row["text"] for row in read_jsonl(tmp_path / "deep/out/scores.jsonl")[::2]] == evil
    assert sorted(path.name for path in tmp_path.rglob("*evil*")) == []
    assert [path.name for path in tmp_path.iterdir()] == ["deep"]


def test_an_unknown_suite_must_say_how_many_prompts_it_has(tmp_path, images, entries):
    with pytest.raises(ValueError, match="a lost prompt could not be noticed"):
        score(images, tmp_path / "out", None)
    assert score(images, tmp_path / "out", None, num_prompts=12).num_scored == 24
    with pytest.raises(ValueError, match="of 13 expected prompts 1 have no folder .00012."):
        score(images, tmp_path / "out", None, num_prompts=13)


def test_a_part_of_the_official_suite_is_no_suite(tmp_path):
    from bench.geneval.prompts import generate

    images = write_images(tmp_path / "images", [entry("circle")])
    (images / "00000/metadata.jsonl").write_text(json.dumps(generate()[0]))
    with pytest.raises(IncompleteError, match="1105 of 1106"):
        (images / "00000/samples/0001.png").unlink()
        score_folder(images, lambda found: [], tmp_path / "out", config=CONFIG)


def test_scoring_again_needs_no_model_and_agrees_with_scoring(tmp_path, images, entries):
    out = tmp_path / "out"
    score(images, out, entries)
    before = contents(out)
    write_scores(out, Thresholds(), num_resamples=200)
    assert contents(out) == before
    strict = write_scores(out, Thresholds(score_threshold=0.7), out_dir=tmp_path / "strict")
    direct = score(images, tmp_path / "direct", entries, thresholds=Thresholds(score_threshold=0.7))
    assert strict.overall == direct.overall < read_json(out / "summary.json")["overall"]
    assert strict.variant == "changed thresholds" and contents(out) == before
    assert compare_scores(out, tmp_path / "strict").verdict == "worse"


def test_the_published_script_s_own_format(tmp_path, images, entries):
    summary = score(images, tmp_path / "out", entries)
    results = official_results(tmp_path / "out")
    assert [sorted(row) for row in results] == [
        sorted(["filename", "tag", "prompt", "correct", "reason", "metadata", "details"])
    ] * 24
    # as `summary_scores.py` has it: the mean of the tags' shares of correct rows
    tags = {row["tag"] for row in results}
    means = [np.mean([row["correct"] for row in results if row["tag"] == tag]) for tag in tags]
    assert np.mean(means) == pytest.approx(summary.overall)
    assert len({row["metadata"] for row in results}) == 12
    details = json.loads(results[0]["details"])
    assert all(label in SHAPES and len(box) == 5 and box[4] > 0.3 for label, b in details.items() for box in b)


def test_a_detector_without_colours_needs_a_classifier_and_gets_its_crops(tmp_path, images, entries):
    class Colourless(TruthfulDetector):
        def __call__(self, images):
            return [[replace(d, color=None) for d in found] for found in super().__call__(images)]

    with pytest.raises(ValueError, match="a colour classifier is needed"):
        score(images, tmp_path / "out", entries, Colourless())
    seen = []

    def always_red(crops):
        seen.extend(crops)
        return ["red"] * len(crops)

    config = replace(CONFIG, watch_detector=False)
    score_folder(images, Colourless(), tmp_path / "o2", entries=entries, color_classifier=always_red, config=config)
    saved = [d["color"] for row in read_jsonl(tmp_path / "o2/detections.jsonl") for d in row["detections"]]
    assert len(seen) == saved.count("red") and 0 < len(seen) <= 12  # only where the prompt asks for a colour
    assert all(image.size == (8, 8) and detection.color is None for image, detection in seen)


def test_scores_of_ones_own_are_not_replaced(tmp_path, images, entries):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "scores.jsonl").write_text("mine")
    with pytest.raises(InputError, match=r"holds scores\.jsonl, but no settings\.json"):
        score(images, tmp_path / "out", entries)
    assert (tmp_path / "out" / "scores.jsonl").read_text() == "mine"
