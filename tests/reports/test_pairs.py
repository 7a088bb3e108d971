"""A study is two runs that differ in one thing: such a pair is found, any other is not."""

import pytest

from bench.records import read_json, write_json
from reports.pairs import differ_only_in, differences
from reports.runs import load_run
from tests.reports.fake_run import fake_run

CORPUS = {"prompts": "fixture:prompts", "num_prompts": 50, "images_per_prompt": 1, "seed": 0, "image_filter": None}


@pytest.fixture(scope="module")
def usual(tmp_path_factory):
    return load_run(fake_run(tmp_path_factory.mktemp("usual") / "flux-mini", num_prompts=1))


def other(folder, **changes):
    return load_run(fake_run(folder / "other", num_prompts=1, **changes))


def test_a_study_is_added_by_one_run_and_the_path_that_it_varies(usual, tmp_path):
    one = other(tmp_path / "one", recipe={"corpus": CORPUS, "study": "a larger corpus"})
    two = other(tmp_path / "two", recipe={"corpus": CORPUS, "resolution": 96, "study": "a larger corpus"})
    assert differ_only_in(usual, one, ["corpus.num_prompts"]) and differ_only_in(one, usual, ["corpus"])
    assert not differ_only_in(usual, two, ["corpus.num_prompts"])
    assert differ_only_in(usual, two, ["corpus.num_prompts", "resolution"])
    assert not differ_only_in(usual, one, ["corpus.seed"])


def test_equal_runs_are_no_pair(usual):
    assert differences(usual, usual) == [] and not differ_only_in(usual, usual, ["corpus"])


def test_names_words_and_how_often_is_saved_do_not_count(usual, tmp_path):
    words = {"judge_checks": ["fixture:check"], "study": "batch", "family_title": "Flux"}
    run = other(tmp_path, options={"batch_size": 32, "save_every": 7}, recipe=words)
    assert differences(usual, run) == ["transfer.batch_size"]


def test_only_the_suite_that_is_compared_counts_with_its_judge(usual, tmp_path):
    geneval, heldout, dpg = usual.recipe["suites"]
    fewer = [
        {**geneval, "title": "Other words", "benchmarks": ["geneval", "fidelity"]},
        {**dpg, "images_per_prompt": 1},
    ]
    judges = {**usual.recipe["judges"], "dpg": "fixture:other"}
    run = other(tmp_path, options={"batch_size": 32}, recipe={"suites": fewer, "judges": judges})
    assert differ_only_in(usual, run, ["transfer.batch_size"], suite="geneval")
    assert differences(usual, run, suite="dpg") == [
        "transfer.batch_size",
        "suites.dpg.images_per_prompt",
        "judges.dpg",
    ]
    assert "suites.heldout" in differences(usual, run)


def test_a_source_is_what_it_holds_not_where_it_lies(usual, tmp_path):
    run = other(tmp_path, options={"batch_size": 32}, recipe={"source": "elsewhere/flux"})
    assert differences(usual, run) == ["transfer.batch_size"]
    manifest = read_json(run.path / "run.json")
    manifest["inputs"]["source_sha256"] = None
    write_json(run.path / "run.json", manifest)
    assert differences(usual, load_run(run.path)) == ["source", "transfer.batch_size"]


def test_another_corpus_of_the_same_recipe_counts(usual, tmp_path):
    run = other(tmp_path, options={"batch_size": 32})
    edit_corpus(run, metadata_sha256="2" * 64)
    assert differences(usual, load_run(run.path)) == ["transfer.batch_size", "inputs.corpus.metadata_sha256"]


def test_a_corpus_that_the_source_drew_on_another_processor_is_the_same(usual, tmp_path):
    """Its rows say what was drawn; bytes count where others made the pictures."""
    run = other(tmp_path, options={"batch_size": 32})
    edit_corpus(run, images_sha256="2" * 64)
    assert differences(usual, load_run(run.path)) == ["transfer.batch_size"]
    given = {**usual.recipe["corpus"], "maker": "fixture:rendered"}
    made, again = (other(tmp_path / name, recipe={"corpus": given}) for name in ("made", "again"))
    assert differences(made, again) == []
    edit_corpus(again, images_sha256="2" * 64)
    assert differences(made, load_run(again.path)) == ["inputs.corpus.images_sha256"]


def edit_corpus(run, **changes):
    manifest = read_json(run.path / "run.json")
    manifest["inputs"]["corpus"] |= changes
    write_json(run.path / "run.json", manifest)


def test_a_run_without_a_recipe_is_never_a_pair(usual, tmp_path):
    (tmp_path / "bare/transfer").mkdir(parents=True)
    assert not differ_only_in(usual, load_run(tmp_path / "bare"), ["recipe", "transfer"])
