"""The miniature's judges: what they learn from, the second judge, labels by eye and the figures drawn from them."""

import csv
import json
from collections import Counter
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from bench.records import Detection, write_jsonl
from l2p.ending import run_command
from reproduce.miniature import deform, detector_training, fit
from reproduce.miniature.agreement import (
    ANSWERS,
    JUDGES,
    LABELS,
    agreement,
    disagreement,
    judge_rows,
    read_labels,
    recorded_labels,
    table,
    verdicts,
)
from reproduce.miniature.check import accuracy, rendered_pictures
from reproduce.miniature.detector_training import DetectorConfig, batch_of, loss_of, targets
from reproduce.miniature.label import app, candidates, choose, write_sheets
from reproduce.miniature.prompts import task_entry
from reproduce.miniature.render import box, render
from reproduce.miniature.scenes import COLORS, SHAPES, TASKS, Scene, SceneObject, mixed_scenes, task_scene
from tests.ended import ended

GRAY = (0.5, 0.5, 0.5)


def scene_of(*objects: tuple[str, str, float, float, float]) -> Scene:
    """A scene of (shape, colour, x, y, radius)."""
    items = tuple(SceneObject(shape=s, color=c, x=x, y=y, radius=r) for s, c, x, y, r in objects)
    return Scene(objects=items, background="gray", background_rgb=GRAY)


def picture_of(*objects: tuple[str, str, float, float, float], side: int = 48) -> Image.Image:
    return Image.fromarray(render(scene_of(*objects), side))


def found_in(image: Image.Image) -> list[tuple[str, str | None]]:
    return sorted((d.label, d.color) for d in fit.load()([image])[0] if d.score > 0.5)


# Deformed renders


@pytest.mark.parametrize("shape", SHAPES)
def test_an_undeformed_shape_is_surely_itself_and_no_other(shape):
    x, y = deform._frame()
    alike = deform.likeness(deform.overlap(deform.SIGNED_DISTANCE[shape](x, y)[None]))[0]
    assert alike[SHAPES.index(shape)] == 1 and np.delete(alike, SHAPES.index(shape)).max() == 0


def test_a_diamond_a_pear_and_a_smudge_are_no_shape():
    x, y = deform._frame()
    diamond = np.abs(x) + np.abs(y) - 0.95
    pear = np.minimum(np.hypot(x, y - 0.3) - 0.6, np.hypot(x, y + 0.5) - 0.35)
    bar = np.maximum(np.abs(x) - 0.9, np.abs(y) - 0.25)
    assert deform.likeness(deform.overlap(np.stack([diamond, pear, bar]))).max() < 0.5


def test_tame_objects_stay_what_they_are_and_wild_ones_often_do_not():
    rng = np.random.default_rng(0)
    for index in range(len(SHAPES)):
        tame, wild = (deform.deform(rng, np.full(100, index), np.full(100, strength))[1] for strength in (0.0, 1.0))
        assert (tame[:, index] > 0.5).mean() > 0.9
        assert (wild[:, index] > 0.5).mean() < 0.6


def test_the_extent_of_a_circle_is_its_own_between_the_grids_points():
    x, y = deform._frame()
    assert (
        np.abs(deform.extent((np.hypot(x - 0.11, y + 0.07) - 0.83)[None])[0] - [-0.72, -0.9, 0.94, 0.76]).max() < 0.02
    )


def test_painted_boxes_and_colours_are_the_scenes_own():
    rng = np.random.default_rng(1)
    scenes = mixed_scenes(rng, 40)
    pictures, truth = deform.paint(rng, scenes, 48)
    assert pictures.shape == (40, 3, 48, 48) and pictures.abs().max() < 1.01
    for number, scene in enumerate(scenes):
        own = np.flatnonzero(truth.picture == number)[: len(scene.objects)]  # a stranger comes last
        for i, item in zip(own, scene.objects, strict=True):
            assert truth.color[i] in (COLORS.index(item.color), len(COLORS), deform.UNKNOWN)
            if truth.likeness[i, SHAPES.index(item.shape)] == 1:
                assert np.abs(truth.box[i] - box(item)).max() < 0.75 * item.radius  # resized, stretched, bent


def test_a_batch_is_a_function_of_seed_and_step_and_the_odd_step_is_the_mirror():
    pictures, truth = batch_of(3, 6, 8)
    again, _ = batch_of(3, 6, 8)
    mirrored, other = batch_of(3, 7, 8)
    assert torch.equal(pictures, again) and not torch.equal(pictures, mirrored)
    assert np.allclose(truth.box[:, 0], 1 - other.box[:, 2]) and (truth.likeness == other.likeness).all()
    similar = (pictures.flip(-1) - mirrored).abs().mean(), (pictures - mirrored).abs().mean()
    assert similar[0] < similar[1]


def test_targets_ask_for_likeness_at_centres_and_a_perfect_answer_costs_least():
    _, truth = batch_of(4, 0, 16)
    asked = targets(truth, 16)
    assert asked.alike.max() <= 1 and asked.centre.sum() <= len(truth.picture)
    assert (asked.shown[~asked.centre] == 0).all()
    color = torch.nn.functional.one_hot(asked.color.clamp(min=0), len(COLORS) + 1).permute(0, 3, 1, 2) * 20.0
    perfect = torch.cat([asked.alike.clamp(1e-4, 1 - 1e-4).logit(), asked.sides, color], 1)
    wrong = torch.cat([-perfect[:, : len(SHAPES)], perfect[:, len(SHAPES) :]], 1)
    assert loss_of(perfect, asked) < 1 < loss_of(wrong, asked)


def test_a_training_that_was_interrupted_ends_with_the_same_weights(tmp_path, monkeypatch):
    config = DetectorConfig(num_steps=4, batch_size=4, channels=4, save_every=2, num_calibration_batches=1)
    whole = detector_training.train(config, log=print).state_dict()

    def killed(seed: int, step: int, size: int):
        if step == 3:
            raise KeyboardInterrupt
        return batch_of(seed, step, size)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(detector_training, "batch_of", killed)
        detector_training.train(config, tmp_path, log=print)
    resumed = detector_training.train(config, tmp_path, log=print).state_dict()
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    with pytest.raises(ValueError, match="another folder"):
        detector_training.train(replace(config, seed=1), tmp_path)


# The second judge


def test_the_shape_fit_sees_rendered_scenes():
    figures = accuracy(rendered_pictures(seed=78, num_per_task=20), fit.load())
    assert figures["n"] == 120 and figures["overall"] >= 0.97 and min(figures["by_category"].values()) >= 0.9, figures


def test_the_shape_fit_parts_objects_that_touch_by_colour_and_by_waist():
    touching = picture_of(("circle", "red", 0.3, 0.5, 0.2), ("square", "blue", 0.65, 0.5, 0.2))
    assert found_in(touching) == [("circle", "red"), ("square", "blue")]
    fused = picture_of(("circle", "red", 0.3, 0.5, 0.2), ("circle", "red", 0.66, 0.5, 0.2))
    assert found_in(fused) == [("circle", "red"), ("circle", "red")]


def test_the_shape_fit_refuses_what_is_no_shape_and_names_no_colour_that_is_gone():
    assert found_in(Image.new("RGB", (48, 48), (120, 120, 120))) == []
    bar = np.full((48, 48, 3), 128, np.uint8)
    bar[20:26, 6:42] = (222, 26, 26)
    assert found_in(Image.fromarray(bar)) == []
    gray = np.asarray(picture_of(("ring", "black", 0.5, 0.5, 0.3))).copy()
    gray[gray < 40] = 90
    assert found_in(Image.fromarray(gray)) == [("ring", "gray")]


def test_the_shape_fits_boxes_scale_with_the_picture():
    item = ("star", "yellow", 0.4, 0.6, 0.25)
    for side in (48, 480):
        (found,) = (d for d in fit.load()([picture_of(item, side=side)])[0] if d.score > 0.5)
        assert np.abs(np.array(found.box) / side - box(scene_of(item).objects[0])).max() < 0.03
    with pytest.raises(ValueError, match="48 x 32"):
        fit.load()([Image.new("RGB", (48, 32))])


# Labels by eye


@pytest.fixture
def run(tmp_path) -> Path:
    """A run of two subjects: rendered scenes as their pictures."""
    rng = np.random.default_rng(5)
    for subject in ("source", "l2p"):
        for number in range(18):
            scene = task_scene(rng, TASKS[number % 6])
            folder = tmp_path / "run" / "samples" / subject / "geneval" / f"{number:05d}"
            (folder / "samples").mkdir(parents=True)
            (folder / "metadata.jsonl").write_text(json.dumps(task_entry(scene, TASKS[number % 6])) + "\n")
            for index in range(2):
                Image.fromarray(render(scene, 48)).save(folder / "samples" / f"{index:04d}.png")
    return tmp_path / "run"


def fill(folder: Path, right: str) -> None:
    rows = list(csv.DictReader((folder / "labels.csv").open(newline="")))
    with (folder / "labels.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(row | {"right": right} for row in rows)


def test_sheets_are_stratified_a_function_of_their_seed_and_show_no_verdict(run, tmp_path):
    found = candidates(run)
    chosen = choose(found, 36, seed=1)
    assert set(Counter((one.subject, one.asked["tag"]) for one in chosen).values()) == {3}
    assert len({(one.subject, one.prompt_id) for one in chosen}) == 36  # every prompt once before one comes again
    assert chosen == choose(found, 36, seed=1) != choose(found, 36, seed=2)
    with pytest.raises(ValueError, match="500 pictures asked, 72 found"):
        choose(found, 500, seed=1)
    write_sheets(chosen, tmp_path / "labels")
    assert {file.name for file in (tmp_path / "labels").iterdir()} == {
        "asked.jsonl",
        "labels.csv",
        "pictures.webp",
        "sheet-01.png",
        "sheet-02.png",
    }
    with pytest.raises(FileExistsError, match="never written over"):
        write_sheets(chosen, tmp_path / "labels")


def test_labels_come_back_with_the_very_pictures_and_open_rows_are_refused(run, tmp_path):
    chosen = choose(candidates(run), 25, seed=3)
    write_sheets(chosen, tmp_path)
    with pytest.raises(ValueError, match="not yes, no or unsure in rows 1, 2"):
        read_labels(tmp_path)
    fill(tmp_path, " Unsure")
    labels = read_labels(tmp_path)
    assert [label.right for label in labels] == [None] * 25
    for label, one in zip(labels, chosen, strict=True):
        assert (np.asarray(label.picture) == np.asarray(Image.open(one.path))).all() and label.asked == one.asked


def test_the_command_makes_sheets_and_compares(run, tmp_path):
    made = CliRunner().invoke(app, [str(run), "--num", "20", "--seed", "4", "--out", str(tmp_path / "out")])
    assert made.exit_code == 0 and "sheet-*.png" in made.output
    fill(tmp_path / "out", "yes")
    judged = ["--compare", str(tmp_path / "out"), "--detector", "reproduce.miniature.fit:load"]
    told = CliRunner().invoke(app, judged)
    assert told.exit_code == 0 and "1.000" in told.output and "color_attr" in told.output
    nothing = ended(partial(run_command, app))
    assert nothing.status == 2 and "--compare" in nothing.output
    empty = ended(partial(run_command, app), tmp_path / "out", "--out", tmp_path / "x")
    assert empty.status == 2 and "no pictures to label" in empty.output


def test_agreement_counts_refused_passed_and_leaves_out_what_a_person_was_unsure_of():
    labels = [replace(recorded_labels()[0], right=right) for right in (True, True, True, False, False, None)]
    figure = agreement("all", labels, [True, True, False, True, False, True])
    assert figure is not None and figure.refused is not None and figure.passed is not None
    assert figure.agreement.value == pytest.approx(3 / 5) and figure.num_unsure == 1
    assert figure.refused.value == pytest.approx(1 / 3) and figure.passed.value == pytest.approx(1 / 2)
    assert "0.600" in table([figure]) and agreement("none", labels[-1:], [True]) is None


def test_recorded_labels_hold_enough_right_and_wrong_ones_of_several_runs_in_both_halves():
    labels = recorded_labels()
    pictures = [label for label in labels if "question" not in label.asked]
    assert len(pictures) >= 300 and len(labels) - len(pictures) >= 100
    assert sum(label.right is False for label in pictures) >= 60
    for part in ("tuning", "reported"):
        of = [label for label in pictures if label.part == part]
        assert 0.4 < len(of) / len(pictures) < 0.6 and {label.task for label in of} >= set(TASKS)
    assert len(list(LABELS.glob("*/labels.csv"))) >= 4
    assert sum(file.stat().st_size for file in LABELS.rglob("*")) < 1.8e6
    assert set(ANSWERS.values()) == {True, False, None}


@pytest.mark.parametrize(("judge", "least", "most_refused"), [("detector", 0.94, 0.04), ("shape fit", 0.9, 0.09)])
def test_a_judge_agrees_with_people_on_the_half_that_is_only_reported(judge, least, most_refused):
    found = judge_rows({judge: JUDGES[judge]})
    rows = {row["what"].partition(",")[0]: row for row in found if "pictures" in row["what"]}
    agreed, refused = rows["agreement"], rows["right but refused"]
    assert agreed["n"] > 150 and agreed["value"] >= least and refused["value"] <= most_refused
    assert agreed["ci95"][0] <= agreed["value"] <= agreed["ci95"][1]


def test_disagreement_counts_the_pictures_on_which_another_judge_says_otherwise_and_gives_its_score(run):
    folder = run / "scores" / "l2p" / "geneval"
    found = [one for one in candidates(run) if one.subject == "l2p"]
    write_jsonl(folder / "prompts.jsonl", [one.asked for one in found if one.index == 0])
    scored = [
        {
            "prompt_id": one.prompt_id,
            "index": one.index,
            "category": "counting" if number < 4 else "colors",
            "value": float(number >= 4),
        }
        for number, one in enumerate(found)
    ]
    write_jsonl(folder / "scores.jsonl", scored)
    write_jsonl(folder / "detections.jsonl", [])
    (row,) = disagreement(run, fit.load())
    same = {"subject": "l2p", "suite": "geneval", "of": "pictures", "n": 36}
    assert row == same | {"value": 4 / 36, "warn": True, "other_score": 1.0}
    for one in found[:4]:
        Image.new("RGB", (48, 48), "gray").save(one.path)
    (row,) = disagreement(run, fit.load())
    assert row == same | {"value": 0.0, "warn": False, "other_score": 0.5}, "a task each counts alike"


def test_verdicts_answer_questions_too():
    label = next(label for label in recorded_labels() if label.asked.get("question") == "Is there a triangle?")
    seen = Detection(label="triangle", box=(5, 5, 20, 20), score=0.9, color="red")
    assert verdicts([label], lambda images: [[seen] for _ in images]) == [True]
    assert verdicts([label], lambda images: [[] for _ in images]) == [False]
