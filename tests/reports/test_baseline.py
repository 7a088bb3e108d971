"""A baseline file stands for its runs: same checks, same bytes twice, small, and only of complete seeds of a recipe."""

import shutil
from pathlib import Path

import pytest

from bench.records import read_json, read_jsonl, write_json, write_jsonl
from reports.__main__ import main
from reports.estimates import score_rows
from reports.regression import compare
from reports.regression.baseline import load_side, matching, write_baseline
from reports.runs import alarms, load_run
from tests.reports.fake_run import fake_run

ROOT = Path(__file__).parents[2]
COMMITTED = ROOT / "docs/baselines/flux-mini.json"


@pytest.fixture(scope="module")
def seeds(tmp_path_factory):
    folder = tmp_path_factory.mktemp("seeds")
    return [fake_run(folder / f"flux-{k}", name="flux-mini", seed=k, num_prompts=6) for k in (0, 1)]


def status(*arguments):
    return main([*map(str, arguments)])


def test_a_baseline_file_stands_for_its_runs(seeds, tmp_path):
    assert status("baseline", *seeds, "--out", tmp_path / "base.json") == 0
    runs, saved = load_side(seeds), load_side([tmp_path / "base.json"])
    for run, kept in zip(runs, saved, strict=True):
        assert {key: score_rows(kept, *key).overall() for key in kept.scored} == pytest.approx(
            {key: score_rows(run, *key).overall() for key in run.scored}
        )
        assert (kept.manifest["recipe"], kept.costs, kept.seed) == (run.recipe, run.costs, run.seed)
    other = load_side([fake_run(tmp_path / "other", name="flux-mini", seed=5, num_prompts=6, pixel_accuracy=0.5)])
    for one, same in zip(compare(saved, other).checks, compare(runs, other).checks, strict=True):
        assert (one.name, one.outcome) == (same.name, same.outcome)
        assert (one.change, one.p_corrected) == (pytest.approx(same.change), pytest.approx(same.p_corrected))


def test_the_order_given_does_not_matter_and_its_own_file_is_replaced(seeds, tmp_path):
    write_baseline(seeds, tmp_path / "base.json")
    before = (tmp_path / "base.json").read_bytes()
    write_baseline(seeds[::-1], tmp_path / "base.json")
    assert (tmp_path / "base.json").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["base.json"]


def test_the_order_of_score_rows_does_not_matter(seeds, tmp_path):
    write_baseline(seeds, tmp_path / "base.json")
    turned = [shutil.copytree(run, tmp_path / run.name) for run in seeds]
    for path in (path for run in turned for path in run.rglob("scores*.jsonl")):
        write_jsonl(path, read_jsonl(path)[::-1])
    write_baseline(turned, tmp_path / "turned.json")
    assert (tmp_path / "turned.json").read_bytes() == (tmp_path / "base.json").read_bytes()


def test_alarms_are_kept(seeds, tmp_path):
    run = shutil.copytree(seeds[0], tmp_path / "flux-0")
    log = read_jsonl(run / "transfer/log.jsonl")
    rung = {"step": 0, "alarm": "dead-head", "message": "the head is dead"}
    write_jsonl(run / "transfer/log.jsonl", [rung, *log])
    write_baseline([run], tmp_path / "base.json")
    (kept,) = load_side([tmp_path / "base.json"])
    assert alarms(kept) == alarms(load_run(run)) == ["step 0, dead-head: the head is dead"]


def test_seeds_that_were_asked_other_prompts_are_no_baseline(seeds, tmp_path):
    run = shutil.copytree(seeds[1], tmp_path / "flux-1")
    path = run / "scores/l2p/geneval/scores.jsonl"
    write_jsonl(path, [{**row, "text": row["text"] + "!"} for row in read_jsonl(path)])
    with pytest.raises(ValueError, match="was asked other prompts than"):
        write_baseline([seeds[0], run], tmp_path / "base.json")


def test_of_several_recipes_the_one_of_the_same_name_is_compared(seeds, tmp_path):
    other = fake_run(tmp_path / "other", num_prompts=6)
    current = fake_run(tmp_path / "new", name="flux-mini", num_prompts=6, num_train_steps=2000)
    found = matching(load_side([*seeds, other]), load_side([current]))
    assert [run.recipe_name for run in found] == ["flux-mini", "flux-mini"]
    stranger = fake_run(tmp_path / "stranger", num_prompts=6, num_train_steps=3000)
    with pytest.raises(ValueError, match="holds several recipes"):
        matching(load_side([*seeds, other]), load_side([stranger]))


def test_what_it_did_not_write_is_not_replaced(seeds, tmp_path, capsys):
    (tmp_path / "mine.json").write_text("{}")
    for out in (tmp_path / "mine.json", seeds[0] / "base.json", tmp_path):
        assert status("baseline", *seeds, "--out", out) == 2
    assert (tmp_path / "mine.json").read_text() == "{}" and not (seeds[0] / "base.json").exists()
    assert "was not written by this command" in capsys.readouterr().err


def test_an_incomplete_run_or_another_recipe_is_no_baseline(seeds, tmp_path, capsys):
    run = fake_run(tmp_path / "flux-2", name="flux-mini", seed=2, num_prompts=6)
    write_jsonl(
        run / "scores/l2p/dpg/scores-corrected.jsonl", read_jsonl(run / "scores/l2p/dpg/scores-corrected.jsonl")[1:]
    )
    assert status("baseline", *seeds, run, "--out", tmp_path / "a.json") == 2
    assert "39 score rows of 40 expected" in capsys.readouterr().err
    other = fake_run(tmp_path / "other", num_prompts=6)
    assert status("baseline", *seeds, other, "--out", tmp_path / "a.json") == 2
    assert "several recipes" in capsys.readouterr().err and not (tmp_path / "a.json").exists()


@pytest.mark.parametrize("content", ["{", "[1]", "null", '{"format": 1, "runs": [1], "suites": {}}', '{"format": 9}'])
def test_a_broken_baseline_is_named(seeds, tmp_path, capsys, content):
    (tmp_path / "base.json").write_text(content)
    assert status("regression", tmp_path / "base.json", seeds[0]) == 2
    assert "base.json" in capsys.readouterr().err


def test_a_value_changed_by_hand_is_not_compared(seeds, tmp_path):
    write_baseline(seeds, tmp_path / "base.json")
    saved = read_json(tmp_path / "base.json")
    values = saved["runs"][0]["scores"]["l2p"]["geneval"]["values"]
    values[0] = 1.0 - values[0]
    write_json(tmp_path / "base.json", saved)
    checks = compare(load_side([tmp_path / "base.json"]), load_side(seeds)).checks
    assert next(check for check in checks if check.name == "GenEval of pixel model").outcome == "not compared"


def test_the_committed_baseline_is_small_and_three_seeds_agree_with_it():
    assert COMMITTED.stat().st_size < 200_000
    saved = load_side([COMMITTED])
    assert [run.seed for run in saved] == [0, 1, 2] and {run.recipe_name for run in saved} == {"flux-mini"}
    for run in saved:
        for key in run.scored:
            score_rows(run, *key)
