"""Saved findings and scores: `rescore` writes whole scores or nothing, `compare` compares what it says it does."""

import pytest

from bench.__main__ import main
from bench.geneval.rules import Thresholds
from bench.records import read_json

from .commands import changed, contents, cut, geneval, told

pytestmark = pytest.mark.usefixtures("noted")  # what is said stands in docs/errors.md


def test_rescore_writes_beside_unless_it_is_told_to_replace(tmp_path, images, capsys):
    geneval(tmp_path)
    out, before = tmp_path / "out", contents(tmp_path / "out")
    assert main(["rescore", str(out), "--score-threshold", "0.9"]) == 0
    assert f"Written to {tmp_path / 'out-rescored'}" in capsys.readouterr().out
    beside = read_json(tmp_path / "out-rescored" / "summary.json")
    assert contents(out) == before and beside["overall"] < read_json(out / "summary.json")["overall"]
    assert main(["rescore", str(out), "--out", str(out)]) == 2
    assert "is the folder itself: --in-place replaces its scores" in told(capsys)
    assert main(["rescore", str(out), "--in-place", "--score-threshold", "0.9"]) == 0
    assert read_json(out / "summary.json") == beside
    geneval(tmp_path, out="other")
    (tmp_path / "other" / "detections.jsonl").write_text("")
    assert main(["rescore", str(out), "--out", str(tmp_path / "other")]) == 2
    assert "holds findings of its own" in told(capsys)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "summary.json").write_text('"my own file"')
    assert main(["rescore", str(out), "--out", str(tmp_path / "mine")]) == 2
    assert (tmp_path / "mine" / "summary.json").read_text() == '"my own file"'


BROKEN = {
    "half of the detections": (lambda out: cut(out / "detections.jsonl"), "6 of 12 expected images cannot be scored"),
    "an unknown prompt": (
        changed("detections.jsonl", lambda rows: rows[0].update(prompt_id="00077")),
        "image 00077/0 is of no prompt of the suite's 6",
    ),
    "an image twice": (
        changed("detections.jsonl", lambda rows: rows.append(rows[0])),
        "image 00000/0 is detected twice",
    ),
    "a row without keys": (
        changed("detections.jsonl", lambda rows: rows.append({"a": 1})),
        "line 13: an object with prompt_id, index is needed",
    ),
    "detections of no form": (
        changed("detections.jsonl", lambda rows: rows[0].update(detections=[{"label": "circle"}])),
        "The saved detections of image 00000/0 are broken (KeyError: 'box')",
    ),
    "detections that are none": (
        changed("detections.jsonl", lambda rows: rows[0].update(detections=None)),
        "The saved detections of image 00000/0 are broken",
    ),
    "an empty passport": (lambda out: (out / "passport.json").write_text("{}"), "passport.json lacks prompts"),
    "a passport of a list": (lambda out: (out / "passport.json").write_text("[]"), "must hold a JSON object"),
    "no passport": (lambda out: (out / "passport.json").unlink(), "passport.json: No such file"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_folder_is_not_rescored_and_stays_as_it_is(tmp_path, images, capsys, name):
    geneval(tmp_path)
    spoil, words = BROKEN[name]
    spoil(tmp_path / "out")
    before = contents(tmp_path / "out")
    assert main(["rescore", str(tmp_path / "out"), "--in-place"]) == 2
    assert words in told(capsys)
    assert contents(tmp_path / "out") == before


@pytest.mark.parametrize("name", ["score_threshold", "counting_threshold", "max_overlap", "position_threshold"])
@pytest.mark.parametrize("value", ["nan", "inf", "-1", "2"])
def test_impossible_thresholds_are_refused_before_anything_is_written(tmp_path, images, capsys, name, value):
    if (name, value) == ("position_threshold", "2"):
        assert Thresholds(position_threshold=2.0).position_threshold == 2
        return
    geneval(tmp_path)
    before = contents(tmp_path / "out")
    option = f"--{name.replace('_', '-')}"
    assert main(["rescore", str(tmp_path / "out"), "--in-place", option, value]) == 2
    assert "threshold" in told(capsys) and contents(tmp_path / "out") == before


COMPARED = {
    "dropped rows": (changed("scores.jsonl", lambda rows: rows.pop()), "has 11 rows, its summary.json tells of 12"),
    "a row twice": (changed("scores.jsonl", lambda rows: rows.__setitem__(1, rows[0])), "1 rows stand there more than"),
    "a value of 2": (changed("scores.jsonl", lambda rows: rows[0].update(value=2.0)), "must be 0 to 1; it is 2.0"),
    "an unscored row": (changed("scores.jsonl", lambda rows: rows[0].update(value=None)), "must be 0 to 1; it is None"),
    "a row without keys": (changed("scores.jsonl", lambda rows: rows.append({"a": 1})), "line 13: an object with"),
    "NaN": (
        lambda out: (out / "scores.jsonl").write_text((out / "scores.jsonl").read_text().replace("1.0", "NaN")),
        "NaN is no JSON value",
    ),
    "an empty summary": (lambda out: (out / "summary.json").write_text("{}"), "summary.json lacks benchmark"),
    "a summary of a list": (
        lambda out: (out / "summary.json").write_text("[]"),
        "must hold a JSON object",
    ),
}


@pytest.mark.parametrize("side", ["a", "b"])
@pytest.mark.parametrize("name", COMPARED)
def test_scores_that_cannot_be_compared_are_refused(tmp_path, images, capsys, name, side):
    for out in ("a", "b"):
        geneval(tmp_path, out=out)
    assert main(["compare", str(tmp_path / "a"), str(tmp_path / "b")]) == 0
    capsys.readouterr()
    spoil, words = COMPARED[name]
    spoil(tmp_path / side)
    assert main(["compare", str(tmp_path / "a"), str(tmp_path / "b")]) == 2
    assert words in told(capsys)


def test_another_number_of_images_of_a_prompt_is_refused(tmp_path, images, capsys):
    geneval(tmp_path, out="a")
    for folder in images.iterdir():
        (folder / "samples/0001.png").unlink()
    geneval(tmp_path, "--expected", "6x1", out="b")
    capsys.readouterr()
    assert main(["compare", str(tmp_path / "a"), str(tmp_path / "b")]) == 2
    assert "6 of 6 have another number of images" in told(capsys)
