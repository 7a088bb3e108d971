"""The small world: every scene is what its prompt says, at any resolution, and the shipped detector sees it."""

import hashlib
import json

import numpy as np
import pytest
from PIL import Image

from bench.geneval.rules import judge
from bench.named import load_function
from bench.records import Detection
from reproduce.miniature import detector as shape_detector
from reproduce.miniature.check import accuracy, rendered_pictures
from reproduce.miniature.prompts import (
    COUNT_WORDS,
    MAX_SEQUENCE_LENGTH,
    PLURALS,
    all_entries,
    corpus_prompts,
    dense_prompt,
    geneval_suite,
    heldout_suite,
    phrase_labels,
    task_entry,
    vocabulary,
    with_article,
)
from reproduce.miniature.render import EXTENT, SIGNED_DISTANCE, box, render
from reproduce.miniature.scenes import (
    COLORS,
    HELD_OUT_PAIRS,
    RELATIONS,
    SHAPES,
    TASKS,
    dense_scene,
    mixed_scenes,
    place,
    relation,
    task_scene,
)
from reproduce.miniature.sources import WEIGHTS, word_tokenizer
from reproduce.recipes import FAMILIES

# SHA-256 of all prompts that a recipe's report scores: a change here makes old and new figures incomparable.
REPORT_SUITES = {"flux_mini": "3e546f2d83d70e8b", "flux_mini_long": "71f6809492d67817"}


def true_detections(scene, side: int = 48) -> list[Detection]:
    """What a perfect detector would report."""
    return [
        Detection(label=o.shape, box=tuple(side * edge for edge in box(o)), score=1.0, color=o.color)
        for o in scene.objects
    ]


@pytest.mark.parametrize("task", TASKS)
def test_scenes_satisfy_their_own_prompt_under_genevals_rules(task):
    rng = np.random.default_rng(1)
    for _ in range(200):
        scene = task_scene(rng, task)
        correct, reason = judge(task_entry(scene, task), true_detections(scene))
        assert correct, (scene, reason)


def test_every_scene_prompt_is_in_its_tasks_list_and_no_prompt_twice():
    rng = np.random.default_rng(2)
    for task, count in zip(TASKS, (6, 30, 18, 60, 120, 2700), strict=True):
        known = {entry["prompt"] for entry in all_entries(task)}
        assert len(known) == len(all_entries(task)) == count
        drawn = [task_scene(rng, task) for _ in range(50)]
        two_colors = [s for s in drawn if task != "color_attr" or s.objects[0].color != s.objects[1].color]
        assert {task_entry(scene, task)["prompt"] for scene in two_colors} <= known


def test_objects_stay_inside_and_apart():
    for scene in mixed_scenes(np.random.default_rng(3), 300):
        edges = np.array([box(o) for o in scene.objects])
        assert edges.min() > 0 and edges.max() < 1
        for i, a in enumerate(scene.objects):
            for b in scene.objects[:i]:
                assert np.hypot(a.x - b.x, a.y - b.y) > a.radius + b.radius


def test_two_named_without_a_side_stand_in_the_prompts_order_and_a_side_that_is_named_is_any():
    rng = np.random.default_rng(5)
    for task in ("two_object", "color_attr"):
        assert all(first.x < second.x for first, second in (task_scene(rng, task).objects for _ in range(100)))
    assert {relation(*task_scene(rng, "position").objects) for _ in range(100)} == set(RELATIONS)


def test_counted_objects_stand_where_their_number_shows():
    rng, seen = np.random.default_rng(6), set()
    for scene in (task_scene(rng, "counting") for _ in range(300)):
        above = sum(item.y < 0.5 for item in scene.objects)
        if (count := len(scene.objects)) > 2:
            assert above == {3: 1, 4: 2}[count]
            seen.add(count)
    assert seen == {3, 4}


def test_a_full_frame_is_an_error_that_names_the_radii():
    with pytest.raises(ValueError, match=r"no room.*0\.45"):
        place(np.random.default_rng(0), np.array([0.45, 0.45]))


def test_unknown_task_lists_the_known_ones():
    with pytest.raises(ValueError, match="colour.*single_object, two_object"):
        task_scene(np.random.default_rng(0), "colour")


@pytest.mark.parametrize("shape", SHAPES)
def test_signed_distance_has_unit_slope_and_the_stated_extent(shape):
    side = np.linspace(-1.5, 1.5, 601)
    x, y = np.meshgrid(side, side)
    distance = SIGNED_DISTANCE[shape](x, y)
    slope = np.hypot(*np.gradient(distance, side[1] - side[0]))
    assert np.mean(np.abs(slope - 1) < 1e-3) > 0.97  # all but the ridges, where two sides are equally near
    inside = distance < 0
    seen = (x[inside].min(), y[inside].min(), x[inside].max(), y[inside].max())
    assert np.allclose(seen, EXTENT[shape], atol=0.01)


def test_the_same_scene_at_a_higher_resolution_averages_to_the_lower_one():
    for scene in mixed_scenes(np.random.default_rng(4), 8):
        fine = render(scene, 384).reshape(48, 8, 48, 8, 3).mean((1, 3))
        error = np.abs(fine - render(scene, 48))
        assert error.mean() < 0.5 and np.quantile(error, 0.99) < 12  # coverage is exact on edges, not in corners


def test_grammar():
    assert with_article("orange star") == "an orange star" and with_article("red star") == "a red star"
    assert PLURALS["cross"] == "crosses" and PLURALS["star"] == "stars"
    texts = [entry["prompt"] for task in TASKS for entry in all_entries(task)]
    assert not [text for text in texts if " a orange" in text or " an r" in text]


def test_every_prompt_fits_the_tokenizer():
    tokenizer, rng = word_tokenizer(), np.random.default_rng(5)
    texts = [entry["prompt"] for task in TASKS for entry in all_entries(task)]
    texts += [dense_prompt(scene) for scene in mixed_scenes(rng, 1000) + [dense_scene(rng) for _ in range(1000)]]
    ids = tokenizer(texts).input_ids
    assert max(map(len, ids)) <= MAX_SEQUENCE_LENGTH <= 32
    assert all(row[-1] == tokenizer.eos_token_id and tokenizer.unk_token_id not in row for row in ids)
    assert len(set(vocabulary())) == len(vocabulary()) == len(tokenizer)


def test_dense_prompts_say_counts_and_background():
    for scene in (dense_scene(np.random.default_rng(seed)) for seed in range(50)):
        text = dense_prompt(scene)
        assert text.endswith(f"the background is {scene.background} .") and 2 <= text.count(".") <= 4
        said = sum(text.split().count(word) * n for n, word in COUNT_WORDS.items()) + text.split().count("a")
        assert said + text.split().count("an") == len(scene.objects)


def test_phrase_labels_say_what_the_scene_holds():
    rng = np.random.default_rng(6)
    for task in TASKS:
        scene = task_scene(rng, task)
        entry = task_entry(scene, task)
        labels = phrase_labels(entry["prompt"])
        words = entry["prompt"].split()
        assert not labels[len(words) :].any()
        for clause in entry["include"]:
            noun = clause["class"] if clause["count"] == 1 else PLURALS[clause["class"]]
            shape, color, side, count, size = labels[words.index(noun)]
            assert SHAPES[shape - 1] == clause["class"] and count == clause["count"] and size == 0
            assert color == (COLORS.index(clause["color"]) + 1 if "color" in clause else 0)
            if "position" in clause:
                assert RELATIONS[side - 1] == clause["position"][0]
    labels = phrase_labels("a small star below a large ring . two pink circles . the background is dark .")
    assert labels[0].tolist() == labels[2].tolist() == [4, 0, 4, 1, 1]
    assert labels[6].tolist() == [6, 0, 3, 1, 2] and labels[10].tolist() == [1, 7, 0, 2, 0]


@pytest.mark.parametrize(("recipe", "digest"), REPORT_SUITES.items())
def test_report_suites_stay_as_they_are(recipe, digest, tmp_path):
    text = ""
    for suite in FAMILIES["flux"][recipe]().suites:
        made = load_function(suite.prompts)
        text += (
            made(tmp_path / "questions.csv", **suite.arguments).read_text("utf-8")
            if suite.benchmark == "dpg"
            else json.dumps(made(**suite.arguments))
        )
    assert hashlib.sha256(text.encode()).hexdigest()[:16] == digest, "numbers of older reports are on other prompts"


def test_held_out_pairs_are_absent_from_corpus_and_suite():
    pairs = {f"{color} {noun}" for color, shape in HELD_OUT_PAIRS for noun in (shape, PLURALS[shape])}
    texts = [row["text"] for row in corpus_prompts(2000, seed=0)] + [e["prompt"] for e in geneval_suite(1000, seed=0)]
    assert not [text for text in texts if any(f"{pair} " in f"{text} " for pair in pairs)]
    assert {shape for _, shape in HELD_OUT_PAIRS} == set(SHAPES)
    assert [entry["tag"] for entry in heldout_suite()] == [f"{color} {shape}" for color, shape in HELD_OUT_PAIRS]


def test_suites_are_functions_of_their_seed():
    def digest(seed: int) -> str:
        return hashlib.sha256(repr((geneval_suite(20, seed), corpus_prompts(50, seed))).encode()).hexdigest()

    assert digest(1) == digest(1) != digest(2)
    texts = [entry["prompt"] for entry in geneval_suite(100, 1)]
    assert len(set(texts)) == len(texts)


def test_the_shipped_detector_sees_fresh_scenes():
    figures = accuracy(rendered_pictures(seed=77, num_per_task=60), shape_detector.load())
    assert figures["n"] == 360 and min(figures["by_category"].values()) >= 0.97, figures


def test_detections_scale_with_the_picture_and_do_not_depend_on_the_batch():
    detect, scene = shape_detector.load(), task_scene(np.random.default_rng(8), "color_attr")
    small, large = Image.fromarray(render(scene, 48)), Image.fromarray(render(scene, 480))
    alone, together = detect([small])[0], detect([large, small])
    assert [(d.label, d.color) for d in alone] == [(d.label, d.color) for d in together[1]]
    sure = [d for d in together[0] if d.score > 0.5]
    for found, item in zip(
        sorted(sure, key=lambda d: d.label), sorted(scene.objects, key=lambda o: o.shape), strict=True
    ):
        assert (found.label, found.color) == (item.shape, item.color)
        assert np.abs(np.array(found.box) / 480 - box(item)).max() < 0.05


def test_a_picture_that_is_not_square_is_refused():
    with pytest.raises(ValueError, match="48 x 32"):
        shape_detector.load()([Image.new("RGB", (48, 32))])


def test_shipped_weights_stay_small():
    assert sum(file.stat().st_size for file in WEIGHTS.rglob("*.safetensors")) <= 25e6
