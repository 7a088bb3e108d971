"""A run is what its run.json says: groups, seeds, copies; and every suite that lies in its folder is read."""

import shutil
from dataclasses import replace

import pytest

from bench.benchmarks import BENCHMARKS
from bench.records import read_json, write_json
from reports import write_report
from reports.claims import judge_claims
from reports.page import headline, leading_groups
from reports.regression import compare
from reports.runs import groups, load_run, load_runs
from reports.tables import retention_table, scorecard
from tests.reports.fake_run import fake_run


def grouped(*paths):
    return {label: [run.name for run in members] for label, members in groups(load_runs(paths)).items()}


def edit(path, **changes):
    write_json(path, {**read_json(path), **changes})


def test_seeds_of_one_recipe_are_a_group_whatever_their_folders(tmp_path):
    paths = [fake_run(tmp_path / folder, name="x", seed=k, num_prompts=1) for k, folder in enumerate(("b", "x-seed9"))]
    assert grouped(*paths) == {"x": ["b", "x-seed9"]}


def test_two_recipes_are_two_groups_whatever_their_folders(tmp_path):
    paths = [fake_run(tmp_path / f"x-seed{k}", name=f"recipe{k}", seed=k, num_prompts=1) for k in (1, 2)]
    assert grouped(*paths) == {"recipe1": ["x-seed1"], "recipe2": ["x-seed2"]}


def test_one_name_for_two_recipes_is_told_apart(tmp_path):
    paths = [fake_run(tmp_path / f"x{k}", name="x", seed=k, num_prompts=1, num_train_steps=100 * k) for k in (1, 2)]
    assert grouped(*paths) == {"x": ["x1"], "x (x2)": ["x2"]}


@pytest.mark.parametrize("changes", [{"source_sha256": "other"}, {"judges": {"geneval": "other"}}])
def test_other_weights_or_judges_are_another_group(tmp_path, changes):
    paths = [fake_run(tmp_path / f"x{k}", name="x", seed=k, num_prompts=1) for k in (1, 2)]
    assert len(grouped(*paths)) == 1
    edit(paths[1] / "run.json", inputs={**read_json(paths[1] / "run.json")["inputs"], **changes})
    assert len(grouped(*paths)) == 2


def test_a_copied_run_is_refused_even_in_another_place(tmp_path):
    first = fake_run(tmp_path / "y", num_prompts=1)
    copy = shutil.copytree(first, tmp_path / "y-seed1")
    recipe = read_json(copy / "run.json")["recipe"]
    edit(copy / "run.json", recipe={**recipe, "source": "elsewhere"})
    with pytest.raises(ValueError, match="y-seed1 are one recipe, 'y', with one transfer seed, 0"):
        load_runs([first, copy])


def add_suite(run, folder, benchmark="geneval"):
    """A suite of another name: a copy of GenEval's scores, summary by ``benchmark``."""
    for subject in ("source", "l2p"):
        copy = shutil.copytree(run / f"scores/{subject}/geneval", run / f"scores/{subject}/{folder}")
        edit(copy / "summary.json", benchmark=benchmark)
    return run


def test_a_suite_of_any_name_is_read_and_shown(tmp_path):
    path = add_suite(fake_run(tmp_path / "flux-mini", num_prompts=3), "colours-only")
    run = load_run(path)
    assert list(run.suites.items())[-2:] == [("dpg", "DPG-Bench"), ("colours-only", "colours-only")]
    assert run.missing == []
    write_report([path], tmp_path / "out", cost_dir=tmp_path / "none")
    page = (tmp_path / "out/index.html").read_text()
    assert "<h3>colours-only kept" in page and "flux-mini, source, colours-only" in page
    assert "colours-only" in set(retention_table([run])["suite"]) and "colours-only" in scorecard([run])
    before = load_run(add_suite(fake_run(tmp_path / "before/flux-mini", num_prompts=3), "colours-only"))
    (path / "scores/l2p/colours-only/scores.jsonl").unlink()
    checks = {check.name: check.outcome for check in compare([before], [load_run(path)]).checks}
    assert checks["colours-only of pixel model"] == "not compared"


def test_a_suite_has_the_title_of_the_recipe_and_is_missed_by_name(tmp_path):
    path = fake_run(tmp_path / "flux-mini", num_prompts=1)
    suites = read_json(path / "run.json")["recipe"]["suites"]
    suites.append({**suites[0], "name": "wide", "title": "Wide <prompts>", "benchmarks": ["geneval", "dpg"]})
    edit(path / "run.json", recipe={**read_json(path / "run.json")["recipe"], "suites": suites})
    run = load_run(path)
    assert run.suites["wide"] == "Wide <prompts>" and run.suites["wide/dpg"] == "Wide <prompts>, DPG-Bench"
    named = [f"scores/{subject}/wide{part}/summary.json" for subject in ("source", "l2p") for part in ("", "/dpg")]
    assert run.missing == named


def test_a_further_benchmark_of_a_suite_is_read_from_its_own_folder(tmp_path):
    run = load_run(add_suite(fake_run(tmp_path / "flux-mini", num_prompts=2), "geneval/dpg"))
    assert run.scored["l2p", "geneval/dpg"].rows == run.scored["l2p", "geneval"].rows
    assert {"GenEval", "geneval/dpg"} <= {entry["name"] for entry in headline([run], [])}


def test_a_new_benchmark_is_one_value_and_reports_follow_it(tmp_path, monkeypatch):
    """One whose values are better when lower, in hundredths: nothing in reports knows its name."""
    distance = replace(
        BENCHMARKS["geneval"], name="distance", title="Distance", decimals=2, scale=0.01, higher_is_better=False
    )
    monkeypatch.setitem(BENCHMARKS, "distance", distance)
    near = add_suite(fake_run(tmp_path / "near", pixel_accuracy=0.4, num_prompts=30), "far", "distance")
    far = add_suite(fake_run(tmp_path / "far", name="near", pixel_accuracy=0.9, num_prompts=30), "far", "distance")
    for pair, outcome in (((near, far), "worse"), ((far, near), "better")):
        checks = {check.name: check for check in compare(*([load_run(path)] for path in pair)).checks}
        assert checks["far of pixel model"].outcome == outcome and abs(checks["far of pixel model"].change) < 0.01
    run = load_run(near)
    entry = next(entry for entry in headline([run], judge_claims([run], [])) if entry["name"] == "far")
    assert entry["value"] is None and entry["decimals"] == 2 and entry["judgement"] is None


def test_a_benchmark_that_nobody_knows_is_an_error_that_names_it(tmp_path):
    path = add_suite(fake_run(tmp_path / "flux-mini", num_prompts=1), "odd", "odd-bench")
    with pytest.raises(
        ValueError, match=r"source/odd/summary.json is of benchmark 'odd-bench'; known are geneval, dpg"
    ):
        load_run(path)


@pytest.mark.parametrize(
    ("manifest", "message"),
    [([1], "has format 'list'"), ({"format": 1}, "has format 1"), ({"format": 2, "recipe": "x"}, "holds no recipe")],
)
def test_a_manifest_of_another_form_is_refused(tmp_path, manifest, message):
    path = fake_run(tmp_path / "flux-mini", num_prompts=1)
    write_json(path / "run.json", manifest)
    with pytest.raises(ValueError, match=message):
        load_run(path)


@pytest.mark.parametrize("row", ['{"a": 1}', "[1]"])
def test_a_row_that_is_no_score_is_named(tmp_path, row):
    path = fake_run(tmp_path / "flux-mini", num_prompts=1)
    (path / "scores/l2p/geneval/scores.jsonl").write_text(row + "\n")
    with pytest.raises(ValueError, match=r"l2p/geneval/scores.jsonl"):
        load_run(path)


def test_each_family_has_its_own_leading_runs_and_cards(tmp_path):
    flux = fake_run(tmp_path / "flux-mini", num_prompts=3)
    sd3 = fake_run(tmp_path / "sd3-mini", family="sd3", num_prompts=3, num_train_steps=5000)
    runs = load_runs([flux, sd3])
    assert [[run.name for run in members] for members in leading_groups(runs)] == [["flux-mini"], ["sd3-mini"]]
    write_report([flux, sd3], tmp_path / "out", cost_dir=tmp_path / "none")
    page = (tmp_path / "out/index.html").read_text()
    assert "<h3>FLUX, GenEval kept" in page and "<h3>SD3, GenEval kept" in page and "L2P on FLUX, SD3" in page
