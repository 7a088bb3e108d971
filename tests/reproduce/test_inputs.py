"""A run knows what it was made from: contents count, places do not."""

import hashlib
import json
import shutil
import signal
from dataclasses import replace

import pytest
from safetensors.torch import load_file, save_file

from bench.judges import Judge
from reproduce.inputs import check_judges, judge_sha256, judges_sha256, load_judges, source_files, source_sha256
from reproduce.manifest import open_run, recipe_json
from tests.reproduce import tiny
from tests.reproduce.conftest import tree

STAGES = ("--stage=corpus", "--stage=transfer")
RECIPE = ("flux", "--recipe", "tests.reproduce.tiny:recipe", *STAGES, "--run")


@pytest.fixture(scope="module")
def whole(child, tmp_path_factory):
    """A run up to its pixel model that nothing disturbed."""
    run_dir = tmp_path_factory.mktemp("inputs") / "whole"
    code, output = child(tiny.command, *RECIPE, str(run_dir))
    assert code == 0, output
    return run_dir


def test_a_run_that_was_copied_with_its_source_goes_on(whole, child, tiny_source, tmp_path):
    there, here = tmp_path / "there", tmp_path / "here"
    shutil.copytree(tiny_source, there / "flux")
    code, output = child(tiny.command_killed, "l2p.training.state:append_row", 5, *RECIPE, str(there / "run"))
    assert code == -signal.SIGKILL, output
    shutil.copytree(there, here)
    shutil.rmtree(there)
    code, output = child(tiny.command_of_source, str(here / "flux"), *RECIPE, str(here / "run"))
    assert code == 0, output
    assert tree(here / "run", "corpus", "transfer/model") == tree(whole, "corpus", "transfer/model")


def test_other_weights_at_the_same_path_are_refused(whole, child, tiny_source, tmp_path):
    run_dir, source = tmp_path / "run", tmp_path / "flux"
    shutil.copytree(whole, run_dir)
    shutil.copytree(tiny_source, source)
    retrain(source)
    before = tree(tmp_path, "run")
    code, output = child(tiny.command_of_source, str(source), *RECIPE, str(run_dir))
    recorded = json.loads((run_dir / "run.json").read_text())["inputs"]["source_sha256"]
    assert code == 2 and "other weights" in output and recorded[:12] in output and str(source) in output, output
    assert tree(tmp_path, "run") == before


def retrain(source) -> None:
    """Change one number of the transformer; size and name of its file stay."""
    (path,) = (source / "transformer").glob("*.safetensors")
    weights = load_file(path)
    weights["x_embedder.bias"] = weights["x_embedder.bias"] + 1
    save_file(weights, path, metadata={"format": "pt"})


def test_a_source_is_its_files_wherever_they_lie(tiny_source, tmp_path, monkeypatch):
    files = source_files(tiny.recipe(), tmp_path)
    copy = tmp_path / "elsewhere"
    shutil.copytree(tiny_source, copy)
    (copy / "README.md").write_text("no part of the pipeline")
    monkeypatch.setenv("L2P_TINY_SOURCE", str(copy))
    assert source_sha256(source_files(tiny.recipe(), tmp_path)) == source_sha256(files)
    retrain(copy)
    assert source_sha256(source_files(tiny.recipe(), tmp_path)) != source_sha256(files)
    assert {"model_index.json", "scheduler/scheduler_config.json"} < files.keys()


def test_a_hub_snapshot_of_the_same_files_is_the_same_source(tiny_source, tmp_path, monkeypatch):
    """Large files are named by their SHA-256 in the cache, and are not read: the blob here holds something else."""
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshots" / "main"
    shutil.copytree(tiny_source, snapshot)
    blobs.mkdir()
    for path in snapshot.rglob("*.safetensors"):
        blob = blobs / hashlib.sha256(path.read_bytes()).hexdigest()
        blob.write_bytes(b"60 GB")
        path.unlink()
        path.symlink_to(blob)
    expected = source_sha256(source_files(tiny.recipe(), tmp_path))
    monkeypatch.setenv("L2P_TINY_SOURCE", str(snapshot))
    assert source_sha256(source_files(tiny.recipe(), tmp_path)) == expected


def test_an_unchanged_file_is_read_once(tiny_source, tmp_path, monkeypatch):
    from reproduce import inputs

    files = source_files(tiny.recipe(), tmp_path)
    inputs.keep_files(files, tmp_path)
    monkeypatch.setattr(inputs, "file_sha256", lambda path: pytest.fail(f"{path} was read again"))
    assert source_files(tiny.recipe(), tmp_path) == files


def test_no_absolute_path_is_in_a_recipe_s_record(tiny_source):
    recorded = recipe_json(
        replace(tiny.recipe(), corpus=replace(tiny.recipe().corpus, prompts="/data/my/prompts.jsonl"))
    )
    assert recorded["source"] == "flux" and recorded["corpus"]["prompts"] == "prompts.jsonl"


def test_another_judge_of_a_scored_run_is_refused(tiny_source, tmp_path):
    recipe = tiny.recipe()
    judges = load_judges(recipe)
    recorded = judges_sha256(recipe, judges)
    check_judges(recipe, recorded, tmp_path, judges)
    other = replace(recipe, judges={**recipe.judges, "geneval": "tests.reproduce.tiny:other_detector"})
    with pytest.raises(ValueError, match="other_detector.*two judges") as refusal:
        check_judges(other, recorded, tmp_path, load_judges(other))
    assert recorded["geneval"][:12] in str(refusal.value)


def test_a_judge_is_known_by_its_passport_before_its_name():
    trained, retrained = (Judge(ask=len, passport={"name": "mine", "sha256": digit * 64}) for digit in "01")
    assert judge_sha256(trained, "my:loader") == judge_sha256(trained, "moved.my:loader")
    assert judge_sha256(retrained, "my:loader") != judge_sha256(trained, "my:loader")
    assert judge_sha256(len, "my:loader") != judge_sha256(len, "other:loader")


def test_a_suite_without_a_judge_is_named(tiny_source):
    with pytest.raises(ValueError, match="suite 'dpg' with dpg but has no judge"):
        load_judges(replace(tiny.recipe(), judges={"geneval": "tests.reproduce.tiny:detector"}))


def test_a_run_is_not_begun_twice_with_two_sources(tiny_source, tmp_path):
    manifest = open_run(tiny.recipe(), tmp_path / "run", source_sha256="a" * 64)
    assert open_run(tiny.recipe(), tmp_path / "run", source_sha256="a" * 64) == manifest
    with pytest.raises(ValueError, match="a{12}.*b{12}"):
        open_run(tiny.recipe(), tmp_path / "run", source_sha256="b" * 64)
