"""Folders of scores alone: several models in one table, told apart by name, compared where they can be."""

import shutil

import pandas as pd
import pytest

from bench.records import read_json, write_json
from reports.__main__ import main
from tests.reports.fake_run import fake_run


def status(*arguments):
    return main([str(argument) for argument in arguments])


@pytest.fixture
def scores(tmp_path):
    """Score folders a and b, of two models; c is of the first model's other benchmark."""
    for name, seed in (("a", 0), ("b", 1)):
        run = fake_run(tmp_path / f"run-{name}", num_prompts=6, seed=seed, pixel_accuracy=0.9 - 0.3 * seed)
        shutil.copytree(run / "scores/l2p/geneval", tmp_path / name)
        named(tmp_path / name, "not stated")
    shutil.copytree(tmp_path / "run-a/scores/l2p/dpg", tmp_path / "c")
    return tmp_path


def named(folder, name):
    write_json(folder / "summary.json", {**read_json(folder / "summary.json"), "subject": name})


def test_models_stand_in_one_table_and_are_compared(scores, capsys):
    assert status(scores / "a", scores / "b", "--out", scores / "out") == 0
    assert "scores of 2 models" in capsys.readouterr().out
    table = pd.read_csv(scores / "out/models.csv").set_index("model")
    for name in ("a", "b"):
        assert table.loc[name, "value"] == read_json(scores / name / "summary.json")["overall"]
    names = {file.name for file in (scores / "out").iterdir()}
    assert {"geneval.png", "geneval.svg", "models.tex", "geneval-categories.csv", "geneval-differences.md"} <= names
    differences = pd.read_csv(scores / "out/geneval-differences.csv")
    assert differences.loc[0, "Model"] == "b minus a" and float(differences.loc[0, "p, corrected"]) < 0.05
    page = (scores / "out/index.html").read_text()
    assert "Scores of a, b" in page and "<script" not in page


def test_a_folder_of_suites_is_one_model_and_names_are_escaped(scores):
    (scores / "mine").mkdir()
    for name in ("a", "c"):
        shutil.copytree(scores / name, scores / "mine" / name)
        named(scores / "mine" / name, "<b>sd & xl</b>")
    assert status(scores / "mine", "--out", scores / "out") == 0
    assert list(pd.read_csv(scores / "out/models.csv")["suite"]) == ["a", "c"]
    page = (scores / "out/index.html").read_text()
    assert "<b>sd" not in page and "&lt;b&gt;sd" in page
    assert r"\&" in (scores / "out/models.tex").read_text()


def test_what_does_not_compare_says_why(scores):
    summary = read_json(scores / "b/summary.json")
    passport = {**summary["passport"], "prompts_sha256": "other"}
    write_json(scores / "b/summary.json", {**summary, "passport": passport})
    assert status(scores / "a", scores / "b", "--out", scores / "out") == 0
    assert "not compared: measured otherwise" in (scores / "out/geneval-differences.csv").read_text()


def test_a_score_that_stands_twice_a_mix_and_a_broken_folder_are_refused(scores, capsys):
    for name in ("a", "b"):
        named(scores / name, "one model")
    assert status(scores / "a", scores / "b", "--out", scores / "out") == 2
    assert "both hold 'one model'" in capsys.readouterr().err
    assert status(scores / "a", scores / "run-a", "--out", scores / "out") == 2
    assert "is a folder of scores" in capsys.readouterr().err
    assert status(scores / "a", "--out", scores / "a") == 2 and "one of the inputs" in capsys.readouterr().err
    (scores / "a/summary.json").write_text("[]")
    assert status(scores / "a", "--out", scores / "out") == 2
    assert "a/summary.json" in capsys.readouterr().err and not (scores / "out").exists()
