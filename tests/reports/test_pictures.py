"""The picture grid's choice: by rule, blind to verdicts, inside the run folder only."""

import pytest

from bench.records import read_jsonl, write_jsonl
from reports.pictures import data_uri, picture_pairs
from reports.runs import load_run
from tests.reports.fake_run import fake_run


def chosen(path):
    return [(pair.task, pair.prompt) for pair in picture_pairs(load_run(path))]


def test_two_prompts_a_task_whatever_their_verdicts(tmp_path):
    path = fake_run(tmp_path / "flux-mini", pictures=True, num_prompts=5)
    before = chosen(path)
    assert len(before) == 12 and len({task for task, _ in before}) == 6
    for subject in ("source", "l2p"):
        scores = path / f"scores/{subject}/geneval/scores.jsonl"
        write_jsonl(scores, [{**row, "value": 1 - row["value"]} for row in read_jsonl(scores)])
    assert chosen(path) == before


def test_marks_are_the_scorers(tmp_path):
    path = fake_run(tmp_path / "flux-mini", pictures=True, num_prompts=4)
    rows = {(row["text"], row["index"]): row for row in read_jsonl(path / "scores/l2p/geneval/scores.jsonl")}
    for pair in picture_pairs(load_run(path)):
        assert pair.pictures["l2p"].correct == (rows[pair.prompt, 0]["value"] == 1)


def test_an_id_that_is_a_path_is_not_followed(tmp_path):
    path = fake_run(tmp_path / "flux-mini", pictures=True, num_prompts=1)
    for subject in ("source", "l2p"):
        scores = path / f"scores/{subject}/geneval/scores.jsonl"
        write_jsonl(scores, [{**row, "prompt_id": "../geneval/" + row["prompt_id"]} for row in read_jsonl(scores)])
    assert chosen(path) == []


def test_a_broken_image_is_an_error_that_names_it(tmp_path):
    (tmp_path / "0000.png").write_bytes(b"no picture")
    with pytest.raises(ValueError, match="0000.png"):
        data_uri(tmp_path / "0000.png")
