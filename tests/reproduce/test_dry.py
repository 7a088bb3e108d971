"""A recipe of the paper's size goes all the way on tiny random weights: the recipe's own settings but for sizes."""

import json
import subprocess
import sys
from dataclasses import fields

import pytest

from reproduce.__main__ import main
from reproduce.dry import files_of
from reproduce.recipes import FAMILIES, find_recipe
from reproduce.run import NEEDS
from tests.ended import ended

SIZED = {
    *("resolution", "num_train_steps", "num_validation_images", "validate_every", "save_every", "log_every"),
    *("max_sequence_length", "detailer"),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_a_dry_recipe_is_the_recipe_but_for_sizes(family, tmp_path):
    whole, dry = (find_recipe(family, size="paper", run_dir=tmp_path / "run", dry=dry) for dry in (False, True))
    other = {f.name for f in fields(whole) if getattr(whole, f.name) != getattr(dry, f.name)}
    assert other == {
        *("name", "source", "resolution", "corpus", "transfer", "source_sampler", "l2p_sampler", "suites", "judges"),
        "study",
    }
    trained = {
        f.name for f in fields(whole.transfer) if getattr(whole.transfer, f.name) != getattr(dry.transfer, f.name)
    }
    assert trained and trained <= SIZED
    for name in ("source_sampler", "l2p_sampler"):
        one, two = getattr(whole, name), getattr(dry, name)
        drawn = {f.name for f in fields(one) if getattr(one, f.name) != getattr(two, f.name)}
        assert drawn == {"num_inference_steps", "max_sequence_length"}
    assert [suite.name for suite in dry.suites] == [suite.name for suite in whole.suites]


def test_all_six_stages_run_and_a_later_call_finds_the_recipe_again(tmp_path, monkeypatch):
    monkeypatch.setattr("reproduce.launch.raise_on_signals", lambda: None)  # pytest keeps its own handlers
    run_dir = tmp_path / "run"
    result = ended(main, *["zimage", "--size", "paper", "--dry", "--run", str(run_dir), "--debug"])
    assert result.status == 0, result.output
    manifest = json.loads((run_dir / "run.json").read_text())
    assert all(manifest["stages"][stage]["finished"] for stage in NEEDS)
    assert (
        manifest["recipe"]["study"] == "a dry run on random weights, no score" and manifest["recipe"]["size"] == "paper"
    )
    for subject in ("source", "l2p"):
        assert list((run_dir / "samples" / subject / "dpg").glob("dry-*.png"))
        summary = json.loads((run_dir / "scores" / subject / "geneval" / "summary.json").read_text())
        assert summary["num_scored"] == summary["num_expected"] == 24
        assert summary["passport"]["generation"]["prompts_rewritten"] is False
    assert (files_of(run_dir) / "source" / "model_index.json").is_file()
    again = ended(main, *["zimage", "--run", str(run_dir), "--status"])
    assert again.status == 0, again.output


def test_two_processes_of_torchrun_go_all_the_way(tmp_path):
    """As docs/paper-size.md types it, with a folder of one's own: `--run` is an option of torchrun too."""
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    words = ["-m", "reproduce", "--", "flux", "--size", "paper", "--dry", "--run", str(tmp_path / "run")]
    done = subprocess.run([*torchrun, *words], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    manifest = json.loads((tmp_path / "run" / "run.json").read_text())
    assert all(manifest["stages"][stage]["finished"] for stage in NEEDS)
    assert manifest["stages"]["transfer"]["num_processes"] == 2


def test_dry_is_for_the_papers_size(tmp_path):
    for arguments, told in ((["--dry"], "--size paper"), (["--size", "paper", "--dry", "--plan"], "--plan without it")):
        result = ended(main, *["flux", "--run", str(tmp_path / "run"), *arguments])
        assert result.status == 2 and told in " ".join(result.output.split())
    assert not list(tmp_path.iterdir())
