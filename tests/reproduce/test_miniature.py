"""The small world: every scene is what its prompt says, at any resolution, and the shipped detector sees it."""

import ast
import hashlib
import json
from graphlib import TopologicalSorter
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline
from PIL import Image

from bench.geneval.rules import COLORS, RELATIONS, TASKS, judge
from bench.named import load_function
from bench.records import Detection
from l2p.architectures import ARCHITECTURES, get_architecture
from reproduce.miniature import detector as shape_detector
from reproduce.miniature import scenes
from reproduce.miniature.check import accuracy, rendered_pictures, source_pictures, source_sampler
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
    HELD_OUT_PAIRS,
    SHAPES,
    Layout,
    dense_scene,
    mixed_scenes,
    place,
    relation,
    task_scene,
)
from reproduce.miniature.sources import WEIGHTS, build, source_folder
from reproduce.recipes import FAMILIES

# SHA-256 of all prompts that a recipe's report scores: a change here makes old and new figures incomparable.
REPORT_SUITES = {"flux_mini": "3e546f2d83d70e8b", "flux_mini_long": "71f6809492d67817"}
# SHA-256 of what each world draws: change it only together with sources, corpora and figures.
WORLDS = {"said": "eed65429790315d9", "open": "afa2e1c0507243b4"}


def imported(path: Path) -> set[str]:
    """The modules of the miniature that a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module == "reproduce.miniature":
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("reproduce.miniature."):
            found.add(node.module)
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name.startswith("reproduce.miniature.")}
    return found


def true_detections(scene, side: int = 48) -> list[Detection]:
    """What a perfect detector would report."""
    return [
        Detection(label=o.shape, box=tuple(side * edge for edge in box(o)), score=1.0, color=o.color)
        for o in scene.objects
    ]


@pytest.mark.parametrize("layout", get_args(Layout))
@pytest.mark.parametrize("task", TASKS)
def test_scenes_satisfy_their_own_prompt_under_genevals_rules(task, layout):
    rng = np.random.default_rng(1)
    for _ in range(200):
        scene = task_scene(rng, task, layout)
        correct, reason = judge(task_entry(scene, task), true_detections(scene))
        assert correct, (scene, reason)


@pytest.mark.parametrize("layout", get_args(Layout))
def test_worlds_stay_as_they_are(layout):
    rng = np.random.default_rng(9)
    drawn = [task_scene(rng, task, layout) for task in TASKS for _ in range(50)] + mixed_scenes(rng, 100, layout)
    # Six digits: the last ones of a float's sum are the processor's own.
    numbers = [[round(v, 6) for o in s.objects for v in (o.x, o.y, o.radius, *o.tint)] for s in drawn]
    said = [(s.background, [(o.shape, o.color) for o in s.objects]) for s in drawn]
    assert hashlib.sha256(repr((numbers, said)).encode()).hexdigest()[:16] == WORLDS[layout]


def test_every_scene_prompt_is_in_its_tasks_list_and_no_prompt_twice():
    rng = np.random.default_rng(2)
    for task, count in zip(TASKS, (6, 30, 18, 60, 120, 2700), strict=True):
        known = {entry["prompt"] for entry in all_entries(task)}
        assert len(known) == len(all_entries(task)) == count
        drawn = [task_scene(rng, task, layout) for layout in get_args(Layout) for _ in range(50)]
        two_colors = [s for s in drawn if task != "color_attr" or s.objects[0].color != s.objects[1].color]
        assert {task_entry(scene, task)["prompt"] for scene in two_colors} <= known


@pytest.mark.parametrize("layout", get_args(Layout))
def test_objects_stay_inside_and_apart(layout):
    for scene in mixed_scenes(np.random.default_rng(3), 300, layout):
        edges = np.array([box(o) for o in scene.objects])
        assert edges.min() > 0 and edges.max() < 1
        for i, a in enumerate(scene.objects):
            for b in scene.objects[:i]:
                assert np.hypot(a.x - b.x, a.y - b.y) > a.radius + b.radius


@pytest.mark.parametrize(("layout", "orders"), [("said", {True}), ("open", {True, False})])
def test_two_named_without_a_side_stand_in_the_prompts_order_if_the_layout_is_said_and_a_named_side_is_any(
    layout, orders
):
    rng = np.random.default_rng(5)
    for task in ("two_object", "color_attr"):
        pairs = [task_scene(rng, task, layout).objects for _ in range(100)]
        assert {first.x < second.x for first, second in pairs} == orders
    assert {relation(*task_scene(rng, "position", layout).objects) for _ in range(100)} == set(RELATIONS)


@pytest.mark.parametrize(("layout", "above"), [("said", {3: {1}, 4: {2}}), ("open", {3: {1, 2}, 4: {1, 2, 3}})])
def test_counted_objects_stand_where_their_number_shows_if_the_layout_is_said(layout, above):
    rng, seen = np.random.default_rng(6), {3: set(), 4: set()}
    for scene in (task_scene(rng, "counting", layout) for _ in range(1000)):
        if (count := len(scene.objects)) > 2:
            seen[count].add(sum(item.y < 0.5 for item in scene.objects))
    assert seen == above


@pytest.mark.parametrize("layout", get_args(Layout))
def test_both_worlds_have_the_same_prompts(layout):
    """Language says nothing of what the layout leaves open: a recipe of the other world is another source, no more."""
    rng = np.random.default_rng(7)
    for task in TASKS[:5]:  # color_attr has 2,700
        drawn = {task_entry(task_scene(rng, task, layout), task)["prompt"] for _ in range(1500)}
        assert drawn == {entry["prompt"] for entry in all_entries(task)}


def test_a_family_has_a_source_folder_a_world():
    assert source_folder("flux") == source_folder("flux", "said") == WEIGHTS / "flux"
    assert source_folder("flux", "open") == WEIGHTS / "flux-open"


def test_no_module_of_the_miniature_imports_one_that_imports_it():
    files = [path for path in Path(scenes.__file__).parent.glob("*.py") if path.stem != "__init__"]
    graph = {f"reproduce.miniature.{path.stem}": imported(path) for path in files}
    assert graph["reproduce.miniature.prompts"] == {"reproduce.miniature.scenes", "reproduce.miniature.render"}
    assert len(list(TopologicalSorter(graph).static_order())) == len(files)  # a circle raises CycleError


def test_a_full_frame_is_an_error_that_names_the_radii():
    with pytest.raises(ValueError, match=r"no room.*0\.45"):
        place(np.random.default_rng(0), np.array([0.45, 0.45]))


def test_unknown_task_or_layout_lists_the_known_ones():
    with pytest.raises(ValueError, match="colour.*single_object, two_object"):
        task_scene(np.random.default_rng(0), "colour")
    with pytest.raises(ValueError, match="any.*said, open"):
        task_scene(np.random.default_rng(0), "counting", "any")


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
    tokenizer, rng = build("flux").tokenizer, np.random.default_rng(5)
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
            shape, color, side, count, size, order, background = labels[words.index(noun)]
            assert SHAPES[shape - 1] == clause["class"] and count == clause["count"] and size == background == 0
            assert order == 1 + sum(word in (*SHAPES, *PLURALS.values()) for word in words[: words.index(noun)])
            assert color == (COLORS.index(clause["color"]) + 1 if "color" in clause else 0)
            if "position" in clause:
                assert RELATIONS[side - 1] == clause["position"][0]
    labels = phrase_labels("a small star below a large ring . two pink circles . the background is dark .")
    assert labels[0].tolist() == labels[2].tolist() == [4, 0, 4, 1, 1, 1, 0]
    assert labels[6].tolist() == [6, 0, 3, 1, 2, 2, 0] and labels[10].tolist() == [1, 7, 0, 2, 0, 3, 0]
    assert labels[11].tolist() == labels[15].tolist() == [0, 0, 0, 0, 0, 0, 1] and not labels[17:].any()


@pytest.mark.parametrize(("recipe", "digest"), REPORT_SUITES.items())
def test_report_suites_stay_as_they_are(recipe, digest, tmp_path):
    text = ""
    for suite in FAMILIES["flux"][recipe]().suites:
        made = load_function(suite.prompts)
        text += (
            made(tmp_path / "questions.csv", **suite.arguments).read_text("utf-8")
            if suite.benchmarks == ("dpg",)
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


@pytest.mark.parametrize("family", FAMILIES)
def test_shipped_sources_draw_what_prompts_say(family):
    """Two pictures a task, by the family's own pipeline: far from what an untrained or a broken source gets (0)."""
    pictures = source_pictures(source_folder(family), 77, 2, source_sampler(family, 10, None))
    figures = accuracy(pictures, shape_detector.load())
    assert figures["n"] == 12 and figures["overall"] >= 0.6, figures


@pytest.mark.parametrize("family", FAMILIES)
def test_shipped_sources_are_pipelines_of_the_familys_own_classes(family):
    loaded, built = DiffusionPipeline.from_pretrained(source_folder(family)), build(family)
    assert type(loaded).__name__ == get_architecture(family).pipeline_class
    kinds = [{name: type(part) for name, part in one.components.items()} for one in (loaded, built)]
    assert kinds[0] == kinds[1]
    for name, part in loaded.components.items():
        if isinstance(part, torch.nn.Module):
            assert {p.dtype for p in part.parameters()} == {torch.float32}, name


def test_shipped_weights_stay_small():
    """Half precision, 8 MB a family; FLUX's are the bytes on which all its records rest, in single precision."""
    sizes: dict[str, float] = {}
    for file in WEIGHTS.rglob("*.safetensors"):
        if not file.is_symlink():
            part = file.relative_to(WEIGHTS).parts[0]
            sizes[part] = sizes.get(part, 0) + file.stat().st_size / 1e6
    assert {family for family in sizes if family in ARCHITECTURES} == set(FAMILIES)
    assert sizes.pop("flux") <= 13 and max(sizes.values()) <= 8, sizes
    assert sum(sizes.values()) <= 36, sizes
