"""The picture grid's choice: by rule, blind to verdicts, inside the run folder only."""

import pytest

from bench.records import read_jsonl, write_jsonl
from reports import write_report
from reports.pictures import data_uri, failed_pairs, picture_pairs
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


def test_the_failures_are_those_of_the_scorer_and_all_are_counted(tmp_path):
    """At most so many a task; where all are asked for, exactly the rows that the pixel model's scores call wrong."""
    path = fake_run(tmp_path / "flux-mini", pictures=True, num_prompts=5, pixel_accuracy=0.5)
    rows = read_jsonl(path / "scores/l2p/geneval/scores.jsonl")
    wrong = sorted((row["category"], row["text"]) for row in rows if row["value"] == 0)
    every, num = failed_pairs(load_run(path), per_task=100)
    assert sorted((pair.task, pair.prompt) for pair in every) == wrong and num == len(wrong) > 12
    few, num = failed_pairs(load_run(path), per_task=2)
    assert num == len(wrong) and len(few) == 12 and all(pair in every for pair in few)
    assert all(pair.pictures["l2p"].correct is False for pair in few)


def test_the_page_shows_failures_with_the_scorers_reason_or_says_that_none_were_kept(tmp_path):
    path = fake_run(tmp_path / "flux-mini", pictures=True, num_prompts=2, pixel_accuracy=0.0)
    write_report([path], tmp_path / "out", keep_records=True)
    page = (tmp_path / "out/index.html").read_text("utf-8")
    _, num = failed_pairs(load_run(path))
    assert f"of the {num} GenEval images of flux-mini that the scorer calls wrong" in page
    kept, again = failed_pairs(load_run(tmp_path / "out/runs/flux-mini"))
    assert kept and again == num
    for picture in (tmp_path / "out/runs/flux-mini").rglob("*.png"):
        picture.unlink()
    write_report([tmp_path / "out/runs/flux-mini"], tmp_path / "bare")
    assert f"{num} images were judged wrong; their pictures were not kept" in (tmp_path / "bare/index.html").read_text()


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
