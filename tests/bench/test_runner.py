"""Batches and the rows that are kept of them: a row counts with its whole batch alone."""

from pathlib import Path

import pytest

from bench.passport import file_sha256
from bench.records import ImageSample, read_jsonl, write_jsonl
from bench.runner import batch_key, check_settings, cut_batches, run_batches, this_process
from l2p.errors import InputError


@pytest.fixture
def scored(tmp_path):
    """A function that scores pictures by name in batches of two; it gives the rows and the names that it looked at."""
    for name in "abcdef":
        (tmp_path / name).write_text(name)

    def score(names):
        seen = []

        def work(batch):
            seen.extend(sample.prompt_id for sample in batch)
            together = "".join(sample.prompt_id for sample in batch)
            return [
                {"prompt_id": s.prompt_id, "index": 0, "sha256": file_sha256(s.path), "together": together}
                for s in batch
            ]

        samples = [ImageSample(prompt_id=name, index=0, seed=-1, path=tmp_path / name) for name in names]
        path = run_batches(cut_batches(samples, 2), work, tmp_path / "out", name="rows", process=this_process("cpu"))
        return [row["together"] for row in read_jsonl(path)], "".join(seen)

    return score


def test_a_row_is_kept_while_its_batch_is_the_same(scored, tmp_path):
    assert scored("abcd") == (["ab", "ab", "cd", "cd"], "abcd")
    assert scored("abcd")[1] == ""
    assert scored("abdc") == (["ab", "ab", "dc", "dc"], "dc")  # another order
    assert scored("abd") == (["ab", "ab", "d"], "d")  # a neighbour is gone
    assert scored("eabd") == (["ea", "ea", "bd", "bd"], "eabd")  # all have another neighbour
    (tmp_path / "a").write_text("changed")
    assert scored("eabd")[1] == "ea"


def test_rows_that_do_not_say_their_batch_are_made_again(scored, tmp_path):
    scored("ab")
    rows = read_jsonl(tmp_path / "out" / "rows.jsonl")
    expected = batch_key((row["prompt_id"], row["index"], row["sha256"]) for row in rows)
    assert [row.pop("batch") for row in rows] == [expected] * 2
    write_jsonl(tmp_path / "out" / "rows.jsonl", rows)
    assert scored("ab")[1] == "ab"


@pytest.mark.parametrize("name", ["summary.json", "summary-official.json", "scores.jsonl", "scores-dsg.jsonl"])
def test_scores_without_settings_are_somebodys(tmp_path, name):
    (tmp_path / name).write_text("mine")
    with pytest.raises(InputError, match=f"holds {name}, but no settings.json .* Use another --out, or move them away"):
        check_settings(tmp_path / "settings.json", {"a": 1})
    assert [path.name for path in Path(tmp_path).iterdir()] == [name]
    (tmp_path / name).rename(tmp_path / "other.json")
    check_settings(tmp_path / "settings.json", {"a": 1})
    (tmp_path / "other.json").rename(tmp_path / name)
    check_settings(tmp_path / "settings.json", {"a": 1})  # ours, by its settings
