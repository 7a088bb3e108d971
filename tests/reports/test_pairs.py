"""A study's runs differ in what it varies alone: those are found to belong together, any others are not."""

import pytest

from bench.records import read_json, write_json
from reports.pairs import differences, shared_key
from reports.runs import load_run
from tests.reports.fake_run import fake_run

CORPUS = {"prompts": "fixture:prompts", "num_prompts": 50, "images_per_prompt": 1, "seed": 0, "image_filter": None}


@pytest.fixture(scope="module")
def usual(tmp_path_factory):
    return load_run(fake_run(tmp_path_factory.mktemp("usual") / "flux-mini", num_prompts=1))


def other(folder, **changes):
    return load_run(fake_run(folder / "other", num_prompts=1, **changes))


def together(one, two, *paths, suite="geneval"):
    return shared_key(one, paths, suite=suite) == shared_key(two, paths, suite=suite)


def test_runs_belong_together_that_differ_under_the_paths_alone(usual, tmp_path):
    one = other(tmp_path / "one", recipe={"corpus": CORPUS, "study": "a larger corpus"})
    two = other(tmp_path / "two", recipe={"corpus": CORPUS, "resolution": 96, "study": "a larger corpus"})
    assert together(usual, one, "corpus.num_prompts") and together(one, usual, "corpus")
    assert not together(usual, two, "corpus.num_prompts")
    assert together(usual, two, "corpus.num_prompts", "resolution")
    assert not together(usual, one, "corpus.seed")


def test_transfer_seeds_belong_together(usual, tmp_path):
    assert together(usual, other(tmp_path, options={"seed": 3}))


def test_names_words_and_how_often_is_saved_do_not_count(usual, tmp_path):
    words = {"judge_checks": ["fixture:check"], "study": "batch", "family_title": "Flux"}
    assert together(usual, other(tmp_path / "words", options={"save_every": 7}, recipe=words))
    assert not together(usual, other(tmp_path / "batch", options={"batch_size": 32, "save_every": 7}, recipe=words))


def test_only_the_suite_that_is_compared_counts_with_its_judge(usual, tmp_path):
    geneval, heldout, dpg = usual.recipe["suites"]
    fewer = [
        {**geneval, "title": "Other words", "benchmarks": ["geneval", "fidelity"]},
        {**dpg, "images_per_prompt": 1},
    ]
    run = other(tmp_path / "fewer", recipe={"suites": fewer})
    assert together(usual, run)
    assert not together(usual, run, suite="dpg") and not together(usual, run, suite="heldout")
    judged = other(tmp_path / "judged", recipe={"judges": {**usual.recipe["judges"], "dpg": "fixture:other"}})
    assert together(usual, judged) and not together(usual, judged, suite="dpg")


def test_a_source_is_what_it_holds_not_where_it_lies(usual, tmp_path):
    run = other(tmp_path, recipe={"source": "elsewhere/flux"})
    assert together(usual, run)
    manifest = read_json(run.path / "run.json")
    manifest["inputs"]["source_sha256"] = None
    write_json(run.path / "run.json", manifest)
    assert not together(usual, load_run(run.path))


def test_another_corpus_of_the_same_recipe_counts(usual, tmp_path):
    run = other(tmp_path)
    edit_corpus(run, metadata_sha256="2" * 64)
    assert not together(usual, load_run(run.path)) and together(usual, load_run(run.path), "inputs.corpus")


def test_a_corpus_that_the_source_drew_on_another_processor_is_the_same(usual, tmp_path):
    """Its rows say what was drawn; bytes count where others made the pictures."""
    run = other(tmp_path)
    edit_corpus(run, images_sha256="2" * 64)
    assert together(usual, load_run(run.path))
    given = {**usual.recipe["corpus"], "maker": "fixture:rendered"}
    made, again = (other(tmp_path / name, recipe={"corpus": given}) for name in ("made", "again"))
    assert together(made, again)
    edit_corpus(again, images_sha256="2" * 64)
    assert not together(made, load_run(again.path))


def edit_corpus(run, **changes):
    manifest = read_json(run.path / "run.json")
    manifest["inputs"]["corpus"] |= changes
    write_json(run.path / "run.json", manifest)


def test_what_differs_is_named(usual, tmp_path):
    assert differences(usual, usual) == []
    words = {"study": "batch", "resolution": 96, "suites": usual.recipe["suites"][:2]}
    run = other(tmp_path, options={"batch_size": 32, "save_every": 7}, recipe=words)
    found = set(differences(usual, run))
    assert {"resolution", "transfer.batch_size", "suites.dpg"} <= found
    assert not found & {"study", "transfer.save_every", "suites.geneval", "suites.heldout"}
