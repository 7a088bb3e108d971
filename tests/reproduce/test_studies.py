"""Studies: arms differ in one thing, what is new leaves usual recipes as they are, and a study is one command."""

import hashlib
import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from bench.records import read_json
from l2p.initialise import initial_model
from l2p.sources import load_source
from l2p.transfer import TransferConfig
from reports import studies as shown
from reports.kept import stated
from reports.pairs import shared_key
from reports.runs import Run, load_run
from reproduce import preflight
from reproduce.checks import check_recipe
from reproduce.inputs import load_judges
from reproduce.limit import limited
from reproduce.manifest import FORMAT, check_manifest, recipe_json
from reproduce.miniature.prompts import corpus_prompts, corpus_scenes, rendered
from reproduce.miniature.render import render
from reproduce.recipes import FAMILIES, asked_for, find_recipe
from reproduce.recipes.base import drawn_at
from reproduce.reuse import parts
from reproduce.stages import corpus
from reproduce.stages.report import write_study
from reproduce.stages.score import score
from reproduce.studies import FEATURES, RENDERED_SUITE, STUDIES, arms, find_arm, runs_of, with_diversity
from tests.reproduce import tiny

MADE = {"inputs": {"source_sha256": "5" * 64}, "stages": {}}
KEPT = Path(__file__).parents[2] / "docs/results/miniature/runs/flux-mini/run.json"


@pytest.fixture
def usual():
    return find_recipe("flux")


def as_run(recipe) -> Run:
    manifest = {"recipe": recipe_json(recipe), "inputs": {}}
    empty = {"corpus": None, "transfer": None, "log": [], "suites": {}, "scored": {}, "costs": []}
    return Run(path=Path(recipe.name), manifest=manifest, **empty)


def test_what_studies_need_is_off_in_every_miniature():
    """A setting that is None counts as one that older runs had not written down."""
    for recipes in FAMILIES.values():
        for recipe in (function() for function in recipes.values()):
            if recipe.size != "miniature":
                continue
            written = recipe_json(recipe)
            assert [written["start"], written["source_resolution"], written["corpus"]["maker"]] == [None] * 3
            assert written["transfer"]["initial_weights"] is None
            assert all(suite["scale"] is None for suite in written["suites"])
    before, now = (stated(one) for one in (read_json(KEPT)["recipe"], recipe_json(find_recipe("flux"))))
    assert before["suites"] == now["suites"] and before["corpus"] == now["corpus"]
    assert before["transfer"] == now["transfer"]


def test_a_folder_begun_before_a_setting_was_known_goes_on(tiny_source, tmp_path):
    small = tiny.recipe()
    manifest = {"format": FORMAT, "recipe": stated(recipe_json(small)), "inputs": {"source_sha256": "5"}}
    assert "scale" not in manifest["recipe"]["suites"][0]
    check_manifest(manifest, small, tmp_path, "5")
    twice = replace(small, suites=(replace(small.suites[0], scale=2), *small.suites[1:]))
    with pytest.raises(ValueError, match="suites.geneval.scale none there, 2 here"):
        check_manifest(manifest, twice, tmp_path, "5")


def test_corpus_prompts_are_the_ones_before():
    rows = json.dumps(corpus_prompts(300, 0)).encode()
    assert hashlib.sha256(rows).hexdigest() == "343a55c5bfe0f9e11b5880f1a473a5d83b77101168f6d7102c420184ba2cd6a7"


@pytest.mark.parametrize("name", sorted(shown.STUDIES))
def test_reports_find_the_arms_of_every_study(usual, name):
    """What the arms share is equal, and the settings that reports read are as many as the arms' names say."""
    study = shown.STUDIES[name]
    runs = [as_run(recipe) for arm, recipe in arms(name, usual).items() if arm != "usual"]
    keys = {shared_key(run, (*study.paths, *shown.LENGTH), suite="geneval") for run in runs}
    assert len(keys) == 1 and len({study.setting(run) for run in runs}) > 1
    names = {recipe.name for recipe in arms(name, usual).values()}
    assert len(names) == len(arms(name, usual)) and all(found.startswith(f"flux-mini-{name}-") for found in names)


def test_one_arm_is_the_usual_recipe(usual):
    """The same settings, so that a study's own arm and the usual run are one recipe to the reports."""
    for name, arm in (("data-source", "own-1"), ("depth", "1+1-1"), ("scratch", "transfer-1")):
        recipe = find_arm(f"{name}/{arm}", usual)
        assert recipe.transfer == usual.transfer and recipe.corpus == usual.corpus
    assert {size for size in shown_sizes(usual)} == {500, 1000, 2000, 4000, 20000}
    scratch = find_arm("scratch/scratch-10", usual).transfer
    assert scratch.num_train_steps == 10 * usual.transfer.num_train_steps and scratch.initial_weights == "random"


def test_the_scratch_study_measures_diversity(usual, contract_run, tmp_path, monkeypatch):
    """Both sides of C8 are scored, by a judge that a run loads, where reports look for it."""
    for name in ("transfer-1", "scratch-1"):
        arm = find_arm(f"scratch/{name}", usual)
        assert arm.suites[0].benchmarks == ("geneval", "diversity") and "diversity" in arm.judges
    shutil.copytree(contract_run, tmp_path / "run")
    monkeypatch.setenv("L2P_TINY_SOURCE", str(contract_run.parents[1] / "source" / "flux"))
    small = with_diversity(tiny.recipe())
    judge = load_judges(small)["diversity"]
    for subject in ("source", "l2p"):
        score(small, small.suites[0], "diversity", judge, subject, tmp_path / "run")
    found = load_run(tmp_path / "run").scored["l2p", "geneval/diversity"]
    assert found.summary.num_scored == 12 and 0 < found.summary.overall < 2


@pytest.mark.parametrize("name", STUDIES)
def test_every_arm_could_start(usual, name, tmp_path):
    """What a run checks before its first stage, for all arms: nobody finds out after the first hour."""
    (tmp_path / name / "usual" / "transfer" / "model").mkdir(parents=True)
    for arm, recipe in arms(name, usual).items():
        preflight.check(recipe, tmp_path / name / arm)


def test_an_arm_finds_the_model_that_it_starts_from_before_its_own_folder_is_there(usual, tmp_path):
    arm = find_arm("noise-shift/1", usual)
    with pytest.raises(FileNotFoundError, match="noise-shift-flux-mini/usual/transfer/model, which is not there"):
        preflight.check_start(arm, tmp_path / "noise-shift-flux-mini" / "1")
    (tmp_path / "noise-shift-flux-mini" / "usual" / "transfer" / "model").mkdir(parents=True)
    preflight.check_start(arm, tmp_path / "noise-shift-flux-mini" / "1")


def test_the_noise_shift_study_compares_with_rendered_scenes(usual, contract_run, tmp_path, monkeypatch):
    """Its arms are good recipes; a suite's real pictures are made once, at the size that is drawn, for both models."""
    arm = find_arm("noise-shift/4", usual)
    check_recipe(arm)
    cut = limited(arm, 8)
    assert cut.start == arm.start == "../usual/transfer/model" and cut.suites[0].benchmarks == ("geneval",)
    assert arm.suites[0].benchmarks == ("geneval", "fid") and arm.judges["fid"] == FEATURES
    shutil.copytree(contract_run, tmp_path / "run")
    monkeypatch.setenv("L2P_TINY_SOURCE", str(contract_run.parents[1] / "source" / "flux"))
    small = tiny.recipe()
    suite = replace(small.suites[0], benchmarks=("geneval", "recall"), reference=RENDERED_SUITE)  # FID wants more
    small = replace(small, suites=(suite,), judges={**small.judges, "recall": FEATURES})
    judge = load_judges(small)["recall"]
    for subject in ("source", "l2p"):
        score(small, suite, "recall", judge, subject, tmp_path / "run")
    pictures = sorted((tmp_path / "run/references/geneval-32px").iterdir())
    assert len(pictures) == 6 * 4 * 2 and Image.open(pictures[0]).size == (32, 32)
    found = load_run(tmp_path / "run").scored
    assert all(0 <= found[subject, "geneval/recall"].summary.overall <= 1 for subject in ("source", "l2p"))


def test_a_study_ends_with_tables_and_verdicts(tmp_path, capsys):
    from tests.reports.test_studies import run

    folder = tmp_path / "data-source-flux-mini"
    run(folder / "own", 0.9)
    run(folder / "rendered", 0.5, corpus={"maker": "fixture:rendered"})
    (folder / "rendered-seed1.log").touch()
    assert write_study(folder, folder / "report", STUDIES["data-source"].claims) == 2
    assert (folder / "report" / "figure9a.md").is_file()
    (told,) = capsys.readouterr().out.strip().splitlines()
    assert told.startswith("C3, Source-made data converges") and " reproduced (in part: source-made data ends" in told
    assert "own (1 seed) minus rendered" in told


def shown_sizes(usual):
    return [recipe.corpus.num_prompts for recipe in arms("data-size", usual).values()]


def test_arms_are_recipes_by_name(usual, tmp_path):
    assert find_recipe("flux", "depth/all-1").transfer.trainable == "all"
    assert asked_for(tmp_path, "depth/all-1", None, None) == {"recipe": "depth/all-1"}
    limited = find_recipe("flux", "depth/all-1", limit=64)
    assert limited.corpus.num_prompts == 64 and limited.study.startswith("a quick look")
    with pytest.raises(ValueError, match="unknown arm 'none' of study depth; known: head-0.25"):
        find_recipe("flux", "depth/none")
    with pytest.raises(ValueError, match="unknown study 'dept'"):
        find_recipe("flux", "dept/all-1")
    assert not any("/" in name for recipes in FAMILIES.values() for name in recipes)


def test_the_runs_of_a_study_in_order(usual):
    runs = runs_of("depth", usual, num_seeds=2, only=("head-1", "all-1"))
    assert [path.name for path, _ in runs] == ["head-1", "all-1", "head-1-seed1", "all-1-seed1"]
    assert runs[3][1] == [
        *("flux", "--recipe", "depth/all-1", "--run", "runs/depth-flux-mini/all-1-seed1", "--seed", "1"),
    ]
    with pytest.raises(ValueError, match="--seeds 0"):
        runs_of("depth", usual, num_seeds=0)
    assert {claim for study in STUDIES.values() for claim in study.claims} == {
        "C3",
        "C4",
        "C5",
        "C7",
        "C8",
        "C10",
        "C12",
    }


def test_the_command_lists_what_it_would_run():
    command = [sys.executable, "-m", "reproduce", "study", "extrapolation", "--plan", "--seeds", "1"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (
        done.returncode == 0 and "--recipe extrapolation/twice --run runs/extrapolation-flux-mini/twice" in done.stdout
    )
    done = subprocess.run([*command[:4], "none"], capture_output=True, text=True)
    assert done.returncode == 2 and "unknown study 'none'; known: data-source" in done.stderr


def test_rendered_pictures_are_those_of_the_prompts(tiny_source, tmp_path):
    small = tiny.recipe()
    recipe = replace(small, corpus=replace(small.corpus, maker="reproduce.miniature.prompts:rendered"))
    drawings = corpus.source_drawings(recipe, tmp_path)["corpus"]
    scenes = corpus_scenes(recipe.corpus.num_prompts, recipe.corpus.seed)
    with corpus.made_by(recipe, tmp_path) as generate:
        pictures = generate([one.text for one in drawings], [one.seed for one in drawings], None)
    for drawing, picture, (row, scene) in zip(drawings, pictures, scenes, strict=True):
        assert row["text"] == drawing.text
        assert np.array_equal(np.asarray(picture), render(scene, 32))
    assert isinstance(rendered(1, 0, 32)(0), Image.Image)


def test_what_another_made_is_not_taken_for_the_sources(tiny_source, tmp_path):
    small = tiny.recipe()
    makers = [None, "reproduce.miniature.prompts:rendered", str(tiny_source)]
    inputs = [
        parts(replace(small, corpus=replace(small.corpus, maker=maker)), "corpus", tmp_path, MADE)[0].inputs
        for maker in makers
    ]
    assert "maker" not in inputs[0] and "maker_sha256" not in inputs[0]
    assert inputs[1]["maker"] == makers[1] and len(inputs[2]["maker_sha256"]) == 64
    recipes = [replace(small, corpus=replace(small.corpus, maker=maker)) for maker in makers]
    pictures = [parts(recipe, "sample", tmp_path, MADE) for recipe in recipes]
    assert pictures[0] == pictures[1] == pictures[2]


def test_a_suite_of_scale_two_is_drawn_at_twice_the_resolution(tiny_source, tmp_path):
    small = tiny.recipe()
    twice = replace(small.suites[0], name="geneval_x2", scale=2)
    recipe = replace(small, suites=(small.suites[0], twice))
    found = parts(recipe, "sample", tmp_path, MADE)
    assert [part.inputs["resolution"] for part in found] == [32, 64, 32, 64]
    high = replace(recipe, resolution=128, source_resolution=32)
    assert [drawn_at(high, subject, 2) for subject in ("source", "l2p")] == [64, 256]


def test_from_scratch_nothing_of_the_source_is_left(tiny_source):
    small = tiny.recipe().transfer
    random = {"initial_weights": "random", "trainable": "all", "input_projection": "random"}
    config = replace(small, **random, seed=7)  # the tiny source itself was drawn by seed 0
    pipeline = load_source(str(tiny_source))
    model, conversion = initial_model(pipeline, None, config, resumed=False)
    assert conversion["copied"] == 0 and set(conversion["new"]) == set(model.state_dict())
    theirs = pipeline.transformer.state_dict()
    shared = [name for name in theirs if f"transformer.{name}" in model.state_dict() and theirs[name].std() > 0]
    same = [name for name in shared if torch.equal(theirs[name], model.state_dict()[f"transformer.{name}"])]
    assert len(shared) > 20 and not same
    again, _ = initial_model(pipeline, None, config, resumed=False)
    assert all(torch.equal(tensor, again.state_dict()[name]) for name, tensor in model.state_dict().items())
    with pytest.raises(ValueError, match="give trainable 'all'"):
        TransferConfig(initial_weights="random")
