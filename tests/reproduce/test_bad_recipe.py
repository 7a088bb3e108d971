"""Recipes and run folders with which no run could end well: one sentence, status 2, and nothing is drawn or written."""

import json
import math
from dataclasses import replace

import pytest

from reproduce.__main__ import main
from reproduce.checks import check_recipe
from reproduce.manifest import open_run, told_differences
from tests.ended import ended
from tests.reproduce import tiny

pytestmark = pytest.mark.usefixtures("noted")  # what is said stands in docs/errors.md

BAD = {
    "dtype": (lambda r: replace(r, dtype="float8"), "'float8'; give one of float32, bfloat16"),
    "resolution": (lambda r: replace(r, resolution=-48), "resolution is -48"),
    "resolution of the source": (lambda r: replace(r, resolution=36), "36"),
    "guidance": (
        lambda r: replace(r, l2p_sampler=replace(r.l2p_sampler, guidance_scale=float("nan"))),
        "l2p_sampler.guidance_scale is nan",
    ),
    "ridge": (lambda r: replace(r, transfer=replace(r.transfer, ridge_strength=math.inf)), "transfer.ridge_strength"),
    "judge": (lambda r: replace(r, judges={"geneval": r.judges["geneval"]}), "suite 'dpg' with dpg but has no judge"),
    "names": (lambda r: replace(r, suites=(r.suites[0], r.suites[0])), "two suites are called 'geneval'"),
    "no reference": (
        lambda r: replace(r, suites=(replace(r.suites[0], benchmarks=("geneval", "fid")), r.suites[1])),
        "scored by fid and names no reference",
    ),
    "no suite": (lambda r: replace(r, suites=()), "no suite"),
    "folder": (lambda r: replace(r, suites=(replace(r.suites[0], name="../x"),)), "'../x'"),
    "seed": (lambda r: replace(r, sample_seed=2**70), "sample_seed is 1180591620717411303424"),
    "corpus": (lambda r: replace(r, corpus=replace(r.corpus, num_prompts=7)), "corpus of 7 images cannot hold back 4"),
    "shards": (lambda r: replace(r, corpus=replace(r.corpus, images_per_shard=0)), "corpus.images_per_shard is 0"),
    "steps": (lambda r: replace(r, l2p_sampler=replace(r.l2p_sampler, num_inference_steps=0)), "num_inference_steps"),
    "family": (lambda r: replace(r, family="sd4"), "'sd4'"),
    "none": (lambda r: None, "returned NoneType"),
    "dict": (lambda r: {"name": "x"}, "returned dict"),
}


def refused(*arguments: str) -> str:
    result = ended(main, *arguments)
    assert result.status == 2, (result.status, result.output)
    assert len(result.output.strip().splitlines()) == 1, result.output
    return result.output


@pytest.mark.parametrize("what", BAD)
def test_a_bad_recipe_is_refused_in_one_sentence_before_anything_is_written(tiny_source, tmp_path, monkeypatch, what):
    change, told = BAD[what]
    made = change(tiny.recipe())
    monkeypatch.setattr(tiny, "recipe", lambda: made)
    output = refused("flux", "--recipe", "tests.reproduce.tiny:recipe", "--run", str(tmp_path / "run"))
    assert told in output and not (tmp_path / "run").exists()


def test_real_pictures_that_are_not_there_are_named(tiny_source, tmp_path, monkeypatch):
    small = tiny.recipe()
    made = replace(small, suites=(replace(small.suites[0], reference="$L2P_NO_PHOTOGRAPHS"), small.suites[1]))
    monkeypatch.setattr(tiny, "recipe", lambda: made)
    result = ended(main, *["flux", "--recipe", "tests.reproduce.tiny:recipe", "--run", str(tmp_path / "run")])
    assert result.status == 2 and "real pictures for geneval of GenEval: set $L2P_NO_PHOTOGRAPHS" in result.output
    assert not (tmp_path / "run").exists()


def test_the_recipe_that_the_others_change_is_good(tiny_source):
    check_recipe(tiny.recipe())


def test_a_seed_that_is_too_large_is_refused(tiny_source, tmp_path):
    command = ("flux", "--recipe", "tests.reproduce.tiny:recipe", "--run", str(tmp_path / "run"))
    assert "transfer.seed" in refused(*command, "--seed", str(2**70))


@pytest.mark.parametrize(
    "text", ["[]", "null", "{", '{"format": 2}', '{"format": 2, "recipe": {"name": "tiny"}, "inputs": {}}', '"x"']
)
@pytest.mark.parametrize("option", [(), ("--status",)])
def test_a_damaged_manifest_is_named(tiny_source, tmp_path, text, option):
    (tmp_path / "run.json").write_text(text)
    output = refused("flux", "--recipe", "tests.reproduce.tiny:recipe", "--run", str(tmp_path), *option)
    assert "run.json" in output
    assert (tmp_path / "run.json").read_text() == text and len(list(tmp_path.iterdir())) == 1


def test_a_stage_on_nothing_makes_no_folder_and_is_said_once(tiny_source, tmp_path):
    command = ("flux", "--recipe", "tests.reproduce.tiny:recipe_of_two", "--run", str(tmp_path / "run"))
    assert refused(*command, "--stage", "score").count("stage score reads what sample writes") == 1
    assert "no run.json" in refused(*command, "--status")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "arguments",
    [("--redo", "bake"), ("--redo", "score", "--stage", "score"), ("--plan", "--status"), ("--limit", "2"),
     ("--json", "--stage", "score"), ("--source", "/no/such/folder")],
)  # fmt: skip
def test_options_that_cannot_be_are_refused(tiny_source, tmp_path, arguments):
    refused("flux", "--recipe", "tests.reproduce.tiny:recipe", "--run", str(tmp_path / "run"), *arguments)
    assert not (tmp_path / "run").exists()


def test_a_refusal_tells_the_differences_in_short_lines(tiny_source, tmp_path):
    other = tiny.recipe()
    suites = (replace(other.suites[0], arguments={"num_per_task": 3, "seed": 1}), other.suites[1])
    open_run(replace(other, suites=suites), tmp_path / "run", source_sha256="as it may be")
    result = ended(main, *["flux", "--recipe", "tests.reproduce.tiny:recipe", "--run", str(tmp_path / "run")])
    assert result.status == 2
    assert "suites.geneval.arguments.num_per_task 3 there, 2 here" in result.output and len(result.output) < 600


def test_many_differences_are_counted():
    theirs, ours = ({f"s{i}": f"{word}" * 99 for i in range(20)} for word in "ab")
    lines = told_differences(theirs, ours).splitlines()
    assert len(lines) == 9 and lines[-1] == "  and 12 more" and max(map(len, lines)) < 120
    assert json.dumps(theirs) != json.dumps(ours)
