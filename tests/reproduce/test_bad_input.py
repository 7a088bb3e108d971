"""What a person may get wrong: the message names what was given and what is allowed, and nothing is touched."""

import json
import shutil
import subprocess
import sys
import threading
from collections import namedtuple
from dataclasses import replace
from pathlib import Path

import pytest

from bench.named import load_function, load_rows
from l2p.architectures import ARCHITECTURES
from reproduce import launch, preflight
from reproduce.__main__ import main
from reproduce.launch import check_group
from reproduce.recipes import FAMILIES, find_recipe, usual, usual_run_dir
from reproduce.run import run_stage
from tests.ended import ended
from tests.reproduce import tiny
from tests.reproduce.conftest import tree

RECIPE = ("flux", "--recipe", "tests.reproduce.tiny:recipe", "--run")
pytestmark = pytest.mark.usefixtures("noted")  # what is said stands in docs/errors.md


def refused(*arguments: str) -> str:
    """What the command prints when it refuses; it must exit with 2."""
    result = ended(main, *arguments)
    assert result.status == 2, (result.status, result.output)
    return " ".join(result.output.split())


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("fluks",), ["fluks", "flux"]),
        (("fluks", "--recipe", "tests.reproduce.tiny:recipe"), ["fluks", "flux", "sd3"]),
        (("sd3", "--recipe", "flux_mini"), ["flux_mini", "sd3_mini", "sd3_mini_long", "sd3_paper"]),
        (("sd3", "--recipe", "reproduce.recipes.flux:flux_mini"), ["flux_mini", "flux", "sd3"]),
        (("flux", "--reuse", "no/such/run"), ["no/such/run", "run.json"]),
        (("flux", "--recipe", "flux_maxi"), ["flux_maxi", "flux_mini", "flux_mini_long", "flux_paper"]),
        (("flux", "--size", "huge"), ["huge", "miniature", "paper"]),
        (("flux", "--stage", "bake"), ["bake", "corpus", "transfer", "sample", "score", "cost", "report"]),
        (("flux", "--recipe", "flux_paper", "--size", "miniature"), ["flux_paper", "paper", "miniature"]),
        (("flux", "--recipe", "tests.reproduce.tiny:nothing"), ["nothing", "recipe_of_two"]),
        (("flux", "--recipe", "no.such.module:recipe"), ["no.such.module:recipe"]),
    ],
)
def test_an_unknown_name_lists_the_known_ones(arguments, named):
    output = refused(*arguments)
    assert all(name in output for name in named), output


def test_a_family_without_a_miniature_has_the_papers_size(monkeypatch):
    monkeypatch.setitem(FAMILIES, "sd3", {"sd3_paper": FAMILIES["sd3"]["sd3_paper"]})
    with pytest.raises(ValueError, match="sd3 has no miniature yet: give --size paper, or --recipe one of sd3_paper"):
        find_recipe("sd3")
    assert find_recipe("sd3", size="paper").size == "paper"


def test_a_run_folder_of_another_recipe_is_left_alone(tiny_source, tmp_path):
    from reproduce.manifest import open_run

    run_dir = tmp_path / "run"
    open_run(tiny.other_recipe(), run_dir, source_sha256="as it may be")
    before = tree(tmp_path, "run")
    output = refused(*RECIPE, str(run_dir))
    assert "'other'" in output and "'tiny'" in output and "resolution 48 there, 32 here" in output
    assert tree(tmp_path, "run") == before


def test_a_run_folder_of_another_format_is_left_alone(tiny_source, tmp_path):
    run_dir = tmp_path / "run"
    run_dir.mkdir()
    (run_dir / "run.json").write_text(json.dumps({"format": 7, "git": {"commit": "abc123"}, "recipe": {}}))
    before = tree(tmp_path, "run")
    output = refused(*RECIPE, str(run_dir))
    assert "format 7" in output and "abc123" in output and "format 2" in output
    assert tree(tmp_path, "run") == before


def test_a_folder_of_something_else_is_no_run_folder(tiny_source, tmp_path):
    (tmp_path / "thesis.tex").write_text("precious")
    assert "thesis.tex" in refused(*RECIPE, str(tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_file_is_no_run_folder(tiny_source, tmp_path):
    (tmp_path / "run").write_text("")
    assert "is a file" in refused(*RECIPE, str(tmp_path / "run"))


def test_a_source_that_is_no_pipeline_says_what_was_found(tmp_path):
    (tmp_path / "weights.ckpt").write_text("")
    with pytest.raises(ValueError, match="weights.ckpt.*model_index.json|model_index.json.*weights.ckpt"):
        preflight.check_source(str(tmp_path), "FluxPipeline")
    (tmp_path / "model_index.json").write_text('{"_class_name": "StableDiffusionPipeline"}')
    with pytest.raises(ValueError, match="StableDiffusionPipeline.*FluxPipeline"):
        preflight.check_source(str(tmp_path), "FluxPipeline")
    with pytest.raises(FileNotFoundError, match="nowhere"):
        preflight.check_source(str(tmp_path / "nowhere"), "FluxPipeline")


def test_a_full_disk_is_noticed_before_the_start(tiny_source, tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(2**40, 2**40 - 2**20, 2**20))
    output = refused(*RECIPE, str(tmp_path / "run"))
    assert "GiB free" in output and "--run" in output
    assert not (tmp_path / "run").exists()


def test_no_permission_to_write_is_noticed_before_the_start(tiny_source, tmp_path, monkeypatch):
    monkeypatch.setattr(
        preflight.os, "access", lambda path, mode: False
    )  # tests may run as root, whom modes don't stop
    output = refused(*RECIPE, str(tmp_path / "run"))
    assert "no permission" in output and str(tmp_path) in output
    assert not (tmp_path / "run").exists()


def test_a_judge_or_prompts_that_are_not_there_are_noticed_before_the_start(tiny_source):
    with pytest.raises(ValueError, match="no function 'looad'; it has .* load, "):
        preflight.check_names(replace(tiny.recipe(), judges={"geneval": "reproduce.miniature.detector:looad"}))
    corpus = replace(tiny.recipe().corpus, prompts="no/prompts.jsonl")
    with pytest.raises(FileNotFoundError, match="no/prompts.jsonl"):
        preflight.check_names(replace(tiny.recipe(), corpus=corpus))


def test_a_stage_before_its_input_names_the_missing_stage(tiny_source, tmp_path):
    from reproduce.manifest import open_run

    open_run(tiny.recipe(), tmp_path / "run", source_sha256="not read")
    with pytest.raises(ValueError, match="stage sample reads what transfer writes"):
        run_stage(tiny.recipe(), tmp_path / "run", "sample")


def test_processes_that_do_not_find_each_other_are_refused(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    check_group(2)
    with pytest.raises(RuntimeError, match="2 processes were started"):
        check_group(1)


def test_prompt_rows_must_have_their_keys(tmp_path):
    path = tmp_path / "prompts.jsonl"
    path.write_text('{"text": "a", "category": "b"}\n{"text": "a"}\n')
    with pytest.raises(ValueError, match="row 2: no category"):
        load_rows(str(path), {}, ("text", "category"))
    with pytest.raises(ValueError, match="package.module:function"):
        load_function("prompts")


@pytest.fixture(scope="module")
def corpus_run(child, tmp_path_factory) -> Path:
    """A run folder with its corpus drawn."""
    run_dir = tmp_path_factory.mktemp("corpus") / "run"
    code, output = child(tiny.command, *RECIPE, str(run_dir), "--stage", "corpus")
    assert code == 0, output
    return run_dir


def test_damaged_corpus_images_are_named_and_passed_over_only_on_demand(corpus_run, child, tmp_path):
    run_dir = tmp_path / "run"
    shutil.copytree(corpus_run, run_dir)
    truncated, missing = run_dir / "corpus/images/000003-0.png", run_dir / "corpus/images/000009-0.png"
    truncated.write_bytes(truncated.read_bytes()[:200])
    missing.unlink()
    code, output = child(tiny.command, *RECIPE, str(run_dir), "--stage", "transfer")
    assert code == 2 and truncated.name in output and missing.name in output, output
    assert not (run_dir / "transfer/summary.json").exists()
    code, output = child(tiny.command, *RECIPE, str(run_dir), "--stage", "transfer", "--allow-missing")
    assert code == 0, output
    assert json.loads((run_dir / "run.json").read_text())["allow_missing"] is True
    rejected = json.loads((run_dir / "transfer/summary.json").read_text())["rejected"]
    assert sorted(Path(name).name for name, _ in rejected) == [truncated.name, missing.name]


def test_a_diverging_loss_stops_with_a_message_and_keeps_the_last_good_state(tiny_source, child, tmp_path):
    run_dir = tmp_path / "run"
    stages = ("--stage=corpus", "--stage=transfer")
    recipe = ("flux", "--recipe", "tests.reproduce.tiny:diverging", "--run", str(run_dir))
    code, output = child(tiny.command, *recipe, *stages)
    assert code == 1 and "not finite" in output and "last good state" in output, output
    assert not (run_dir / "transfer/summary.json").exists()
    assert not json.loads((run_dir / "run.json").read_text())["stages"]["transfer"]["finished"]
    assert list((run_dir / "transfer/state").glob("step-*/weights.safetensors"))


def test_the_named_recipes_are_whole(tmp_path):
    for family, recipes in FAMILIES.items():
        for name, function in recipes.items():
            recipe = function()
            assert recipe.name == name.replace("_", "-") and recipe.family == family
            assert function.__doc__ and "Hardware" in function.__doc__
            assert {benchmark for suite in recipe.suites for benchmark in suite.benchmarks} <= recipe.judges.keys()
        assert {size: find_recipe(family, size=size).size for size in usual(family)} == {s: s for s in usual(family)}
    assert usual("flux") == {"miniature": "flux_mini", "paper": "flux_paper"}


def test_a_seed_is_the_same_recipe_in_a_folder_of_its_own(tmp_path):
    recipe, seeded = find_recipe("flux"), find_recipe("flux", seed=2)
    assert seeded == replace(recipe, transfer=replace(recipe.transfer, seed=2))
    assert [usual_run_dir(one).as_posix() for one in (recipe, seeded)] == ["runs/flux-mini", "runs/flux-mini-seed2"]
    began = {"recipe": {"name": "flux-mini-long", "transfer": {"seed": 2}}}
    (tmp_path / "run.json").write_text(json.dumps(began))
    resumed = find_recipe("flux", run_dir=tmp_path)
    assert (resumed.name, resumed.transfer.seed) == ("flux-mini-long", 2)


@pytest.mark.parametrize("debug", [False, True])
def test_an_unforeseen_error_is_one_sentence_with_a_status_of_its_own(monkeypatch, debug):
    def fail(*_arguments, **_options):
        raise RuntimeError("the roof is on fire\nand more")

    monkeypatch.setattr("reproduce.run.reproduce", fail)
    result = ended(main, *["flux", *(["--debug"] if debug else [])])
    assert result.status == 4
    assert "(RuntimeError: the roof is on fire); --debug shows where" in result.output
    assert ("Traceback" in result.output) == debug
    assert debug or len(result.output.splitlines()) == 1


@pytest.mark.parametrize(
    ("code", "status", "told"),
    [
        ("import sys; sys.exit(4)", 4, ""),
        ("import os; os.kill(os.getpid(), 9)", 137, "SIGKILL"),
    ],
)
def test_the_first_failure_of_a_launched_process_is_handed_on(code, status, told, capsys):
    processes = [subprocess.Popen([sys.executable, "-c", text]) for text in ("import time; time.sleep(60)", code)]
    try:
        assert launch._wait(processes, threading.Event()) == status
    finally:
        launch._stop(processes)
    assert told in capsys.readouterr().err


def test_help_and_sessions_know_the_families_without_torch():
    code = "import sys, reproduce.__main__ as main; print(main.FAMILIES); assert 'torch' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip().split(", ") == sorted(FAMILIES) and set(FAMILIES) <= set(ARCHITECTURES)


def test_the_help_shows_defaults_that_stand_in_brackets(monkeypatch):
    monkeypatch.setenv("COLUMNS", "300")
    shown = ended(main, "--help").out
    assert "[default: runs/<recipe's name>]" in shown and "[default: any run beside this one]" in shown
