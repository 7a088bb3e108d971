"""`python -m bench dpg` and DPG-Bench's `rescore`, with their exit status."""

import shutil

import pytest
from PIL import Image

from bench.__main__ import main
from bench.records import read_json, read_jsonl


@pytest.fixture
def images(tmp_path, questions):
    """Grids of two items and their question file."""
    questions(("a", 1, 0), ("b", 1, 0), ("b", 2, 1))
    folder = tmp_path / "images"
    folder.mkdir()
    for item_id in "ab":
        Image.new("RGB", (8, 8), (9, 9, 9)).save(folder / f"{item_id}.png")
    (tmp_path / "toy_vqa.py").write_text("def load():\n    return lambda image, q: ['Yes.', 'no'][: len(q)]\n")
    return folder


def run(images, tmp_path, *more: str) -> int:
    questions, out = str(tmp_path / "questions.csv"), str(tmp_path / "out")
    arguments = ["dpg", str(images), "--questions", questions, "--vqa", "toy_vqa:load", "--resolution", "4"]
    return main([*arguments, "--device", "cpu", "--out", out, *more])


def test_a_folder_is_scored_and_rescored(images, tmp_path, monkeypatch, capsys):
    monkeypatch.syspath_prepend(tmp_path)
    assert run(images, tmp_path, "--variant", "corrected") == 0
    shown = capsys.readouterr().out
    assert "official" in shown and "corrected" in shown and "8 of 12 answers are yes only when normalised" in shown
    assert "a is not scored" in shown and "not comparable with published scores" in shown
    before = read_json(tmp_path / "out" / "summary.json")
    assert (before["variant"], before["overall"]) == ("corrected", 75.0)
    shutil.rmtree(images)  # no image and no model from here on
    assert main(["rescore", str(tmp_path / "out"), "--variant", "dsg", "--out", str(tmp_path / "dsg")]) == 0
    assert read_json(tmp_path / "dsg" / "summary.json")["overall"] == 0.0  # "Yes." is no exact yes
    assert read_json(tmp_path / "dsg" / "summary-corrected.json") == before
    assert read_json(tmp_path / "out" / "summary.json") == before


def test_incomplete_and_bad_input_exit_with_2(images, tmp_path, monkeypatch, capsys):
    monkeypatch.syspath_prepend(tmp_path)
    (images / "b.png").unlink()
    assert run(images, tmp_path) == 2
    assert "b.png" in capsys.readouterr().err
    assert run(images, tmp_path, "--pic-num", "5", "--allow-partial") == 2
    assert run(images, tmp_path, "--variant", "best", "--allow-partial") == 2
    assert run(images, tmp_path, "--variant", "corrected", "--allow-partial") == 0
    assert "PARTIAL" in capsys.readouterr().out


def test_without_out_results_go_to_a_folder_named_like_the_images(images, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    arguments = ["dpg", "images", "--questions", "questions.csv", "--vqa", "toy_vqa:load", "--resolution", "4"]
    assert main([*arguments, "--variant", "corrected", "--device", "cpu"]) == 0
    assert (tmp_path / "scores" / "images" / "summary.json").is_file()


def test_plain_tables_are_rescored(recorded, tmp_path, capsys):
    tables = ["--questions", str(recorded / "dpg_rules_questions.csv")]
    tables += ["--answers", str(recorded / "dpg_rules_answers.csv.gz")]
    command = ["rescore", "--benchmark", "dpg", *tables, "--out", str(tmp_path / "out")]
    assert main([*command, "--variant", "official"]) == 0
    summary = read_json(tmp_path / "out" / "summary.json")
    assert summary["overall"] == pytest.approx(67.34405082465426, abs=1e-9)
    assert summary["by_category"]["global"] == pytest.approx(60, abs=1e-9)
    assert summary["by_category"]["other - count"] == pytest.approx(77.77777777777779, abs=1e-9)
    assert (summary["num_expected"], summary["num_scored"]) == (60, 58)
    assert summary["passport"]["left_out"] == ["stanford_paragraph_40", "tifa160_134"]
    low, high = summary["overall_ci95"]
    assert low < summary["overall"] < high
    rows = read_jsonl(tmp_path / "out" / "scores.jsonl")
    assert (
        len(rows) == 60
        and [row["prompt_id"] for row in rows if row["value"] is None] == summary["passport"]["left_out"]
    )
    assert "not scored" in capsys.readouterr().out


def test_tables_that_lack_items_give_a_partial_summary(questions, tmp_path, capsys):
    questions(("a", 1, 0), ("b", 1, 0))
    (tmp_path / "answers.csv").write_text("item_id,crop,proposition_id,answer\nb,0,1,yes\n")
    tables = ["--questions", str(tmp_path / "questions.csv"), "--answers", str(tmp_path / "answers.csv")]
    out = ["--out", str(tmp_path / "out"), "--benchmark", "dpg"]
    assert main(["rescore", *tables, *out, "--variant", "corrected"]) == 0
    summary = read_json(tmp_path / "out" / "summary.json")
    assert (summary["overall"], summary["num_scored"], summary["passport"]["partial"]) == (100.0, 1, True)
    assert list(summary["passport"]["details"]["unscored_items"]) == ["a"]
    assert "PARTIAL" in capsys.readouterr().out
    for lacking in (tables[:2] + out, tables + ["--benchmark", "dpg"]):
        assert main(["rescore", *lacking]) == 2


def test_two_folders_are_compared_by_item_in_points(questions, tmp_path, capsys):
    """`official` leaves the first item out on both sides; the difference is in DPG-Bench's points."""
    questions(("first", 1, 0), *((f"item{k}", 1, 0) for k in range(20)))
    for name, answer in (("a", "no"), ("b", "yes")):
        rows = ["item_id,crop,proposition_id,answer"]
        rows += [
            f"{item},0,1,{answer if item == 'item3' else 'yes'}" for item in ["first", *(f"item{k}" for k in range(20))]
        ]
        (tmp_path / f"{name}.csv").write_text("\n".join(rows) + "\n")
        tables = ["--questions", str(tmp_path / "questions.csv"), "--answers", str(tmp_path / f"{name}.csv")]
        assert main(["rescore", "--benchmark", "dpg", *tables, "--out", str(tmp_path / name)]) == 0
    capsys.readouterr()
    assert main(["compare", str(tmp_path / "a"), str(tmp_path / "b")]) == 0
    shown = capsys.readouterr().out
    assert "B - A = +5.0000" in shown and "20 items: B is within noise" in shown


def test_help_has_an_example(capsys):
    assert main(["dpg", "--help"]) == 0
    assert "Example: python -m bench dpg" in capsys.readouterr().out
