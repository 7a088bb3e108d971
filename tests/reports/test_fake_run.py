"""The invented run folder of these tests has no file and no key that a real run does not write."""

import json
from pathlib import Path

from bench.records import append_jsonl, write_json
from tests.reports.fake_run import fake_run

KEYS_ARE_DATA = {"arguments", "by_category", "by_category_ci95", "details", "judges", "thresholds", "validation_loss"}
SAME_KIND = {"scores/source/heldout": "scores/source/geneval", "scores/l2p/heldout": "scores/l2p/geneval"}


def dotted(value, prefix="") -> set[str]:
    """The dotted names of all keys in a JSON value; rows of a list count as one."""
    if isinstance(value, list):
        return {name for one in value for name in dotted(one, prefix)}
    if not isinstance(value, dict):
        return set()
    inner = {name for key, one in value.items() if key not in KEYS_ARE_DATA for name in dotted(one, f"{prefix}{key}.")}
    return {f"{prefix}{key}" for key in value} | inner


def keys_of(file: Path) -> set[str]:
    text = file.read_text()
    return dotted([json.loads(line) for line in text.splitlines()] if file.suffix == ".jsonl" else json.loads(text))


def invented(real: Path, fake: Path) -> dict[str, list[str]]:
    """By file of ``fake``: the keys that ``real``'s file of that name lacks, ["the file"] where there is none.

    A file that is empty in ``real`` (no image of so small a corpus was rejected) says nothing of its rows.
    """
    found = {}
    for file in sorted(fake.rglob("*.json*")):
        name = file.relative_to(fake).as_posix()
        folder, _, end = name.rpartition("/")
        model = real / SAME_KIND.get(folder, folder) / end
        unknown = sorted(keys_of(file) - keys_of(model)) if model.is_file() else ["the file"]
        is_empty = model.is_file() and not model.stat().st_size
        found |= {name: unknown} if unknown and not is_empty else {}
    return found


def test_a_real_run_writes_all_that_is_invented(run_dir, contract_run):
    assert invented(contract_run, run_dir) == {}


def test_the_comparison_sees_files_and_keys_that_no_run_writes(tmp_path, contract_run):
    path = fake_run(tmp_path / "flux-mini", num_prompts=1)
    append_jsonl(path / "transfer/log.jsonl", [{"step": 1, "mood": "good"}])
    write_json(path / "cost/guessed.json", [])
    assert invented(contract_run, path) == {"cost/guessed.json": ["the file"], "transfer/log.jsonl": ["mood"]}
