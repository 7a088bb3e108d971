"""Records go to JSON and back; files are written whole; a Summary never hides what is unscored."""

import json

import numpy as np
import pytest

from bench.records import (
    Detection,
    Summary,
    append_jsonl,
    differing,
    read_jsonl,
    to_json,
    write_json,
    write_jsonl,
)


def summary(**changes):
    values = dict(
        benchmark="geneval",
        version="v",
        variant="published",
        subject="s",
        overall=0.5,
        overall_ci95=(0.4, 0.6),
        by_category={"a": 0.5},
        num_expected=4,
        num_scored=4,
        passport={},
    )
    return Summary(**(values | changes))


def test_a_mask_is_never_saved():
    detection = Detection(label="cat", box=(0, 0, 1, 1), score=0.5, mask=np.ones((2, 2), bool))
    assert to_json(detection) == {"label": "cat", "box": [0, 0, 1, 1], "score": 0.5, "color": None}


def test_a_summary_refuses_unscored_images_unless_it_says_so():
    with pytest.raises(ValueError, match="3 scored .* of 4 expected"):
        summary(num_scored=3)
    assert summary(num_scored=3, passport={"partial": True}).num_scored == 3
    assert summary(num_scored=3, passport={"left_out": ["item"]}).num_scored == 3
    with pytest.raises(ValueError):
        summary(num_scored=2, passport={"left_out": ["item"]})


def test_json_is_written_whole_or_not_at_all(tmp_path):
    path = tmp_path / "a.json"
    write_json(path, summary())
    before = path.read_text()
    with pytest.raises(ValueError):
        write_json(path, {"value": float("nan")})
    assert path.read_text() == before
    assert json.loads(before)["overall_ci95"] == [0.4, 0.6]
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_appending_cuts_a_line_that_a_kill_tore(tmp_path):
    path = tmp_path / "rows.jsonl"
    write_jsonl(path, [{"n": 1}, {"text": "zwei\u2028Zeilen"}])
    with open(path, "a") as file:
        file.write('{"n": 2, "torn')
    append_jsonl(path, [{"n": 3}])
    assert [row.get("n") for row in read_jsonl(path)] == [1, None, 3]


def test_a_broken_line_is_named(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"n": 1}\n{oops}\n')
    with pytest.raises(ValueError, match="line 2"):
        read_jsonl(path)


def test_differences_of_nested_settings_are_named_by_their_dotted_names():
    theirs = {"a": 1, "deep": {"b": [1, 2], "c": None}, "only": 3}
    ours = {"a": 1, "deep": {"b": [1], "c": None, "d": 0}}
    assert list(differing(theirs, ours)) == [("deep.b", [1, 2], [1]), ("deep.d", None, 0), ("only", 3, None)]
    assert not list(differing(theirs, theirs))
