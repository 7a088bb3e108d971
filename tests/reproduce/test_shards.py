"""A corpus in shards: what a folder would hold, packed; killed, harmed, shared and taken from another run."""

import json
import signal
from dataclasses import replace
from pathlib import Path

import pytest

from l2p.corpora import list_corpus
from reproduce.manifest import check_manifest, new_manifest
from reproduce.recipes import Recipe
from tests.reproduce import tiny
from tests.reproduce.conftest import tree

STAGE = ("flux", "--recipe", "tests.reproduce.tiny:in_shards", "--stage=corpus", "--run")


def rows(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture(scope="module")
def whole(child, tmp_path_factory) -> Path:
    """A run's corpus that nothing disturbed, and the transfer from it."""
    run_dir = tmp_path_factory.mktemp("runs") / "whole"
    code, output = child(tiny.command, *STAGE[:3], "--stage=corpus", "--stage=transfer", "--run", str(run_dir))
    assert code == 0, output
    return run_dir


def test_shards_hold_the_kept_images_with_their_rows_and_rejected_ones_stay_outside(whole):
    corpus = whole / "corpus"
    kept, rejected = rows(corpus / "metadata.jsonl"), rows(corpus / "rejected.jsonl")
    assert len(kept) + len(rejected) == 16 and kept and rejected
    assert [path.name for path in sorted((corpus / "shards").iterdir())] == [f"0000{i}.tar" for i in range(4)]
    items = list_corpus(corpus / "shards").items
    assert [item.text for item in items] == [row["text"] for row in kept]
    assert [item.category for item in items] == [row["category"] for row in kept]
    assert [f"images/{item.name.split('/')[1]}" for item in items] == [row["file_name"] for row in kept]
    assert {row["index"] for row in kept} == {0, 1}  # two seeds a prompt
    left = sorted(f"images/{path.name}" for path in (corpus / "images").iterdir())
    assert left == sorted(row["file_name"] for row in rejected)
    facts = json.loads((whole / "run.json").read_text())["inputs"]["corpus"]
    assert (facts["num_images"], facts["num_rejected"]) == (len(kept), len(rejected))
    summary = json.loads((whole / "transfer/summary.json").read_text())
    assert summary["num_train_steps"] == 12 and summary["rejected"] == []


KILLS = (  # where SIGKILL falls, at which call
    ("reproduce.draw:save_image", 7),
    ("reproduce.stages.corpus:write_jsonl", 2),
    ("reproduce.stages.corpus:write_shard", 3),
)


@pytest.mark.parametrize(("place", "num_calls"), KILLS)
def test_a_killed_stage_ends_with_the_same_bytes(whole, child, tmp_path, place, num_calls):
    run_dir = tmp_path / "broken"
    code, output = child(tiny.command_killed, place, num_calls, *STAGE, str(run_dir))
    assert code == -signal.SIGKILL, output
    assert child(tiny.command, *STAGE, str(run_dir))[0] == 0
    assert tree(run_dir, "corpus") == tree(whole, "corpus")


def test_a_lost_shard_is_drawn_again_and_two_processes_and_another_run_have_the_same(whole, child, tmp_path):
    taken = whole.parent / "second"
    code, output = child(tiny.command, *STAGE, str(taken))
    assert code == 0 and "4 files taken from" in output, output
    assert tree(taken, "corpus") == tree(whole, "corpus")
    assert (taken / "corpus/shards/00001.tar").samefile(whole / "corpus/shards/00001.tar")
    (taken / "corpus/shards/00001.tar").unlink()
    run_dir = tmp_path / "alone"
    taken.rename(run_dir)  # away from the run that has it
    before = (run_dir / "corpus/shards/00000.tar").stat().st_mtime_ns
    code, output = child(tiny.command, *STAGE, str(run_dir))
    assert code == 0 and "1 missing (corpus/shards/00001.tar)" in output, output
    assert tree(run_dir, "corpus") == tree(whole, "corpus")
    assert (run_dir / "corpus/shards/00000.tar").stat().st_mtime_ns == before
    two = tmp_path / "apart" / "two"
    command = ("flux", "--recipe", "tests.reproduce.tiny:in_shards_of_two", "--stage=corpus", "--run", str(two))
    code, output = child(tiny.command, *command)
    assert code == 0, output
    assert tree(two, "corpus") == tree(whole, "corpus")


def test_a_run_that_was_begun_before_a_setting_existed_goes_on(tiny_source, tmp_path):
    recipe = tiny.recipe()
    manifest = new_manifest(recipe, "0" * 64)
    del manifest["recipe"]["corpus"]["images_per_shard"]
    check_manifest(manifest, recipe, tmp_path, "0" * 64)
    packed: Recipe = replace(recipe, corpus=replace(recipe.corpus, images_per_shard=5))
    with pytest.raises(ValueError, match="corpus.images_per_shard none there, 5 here"):
        check_manifest(manifest, packed, tmp_path, "0" * 64)
