"""The contract between a run and its readers: all six stages of a tiny recipe by the command, and the page of it.

What reports read is what the run wrote: every file, and every key that is looked up by name.
"""

import json
import re
from html import unescape
from pathlib import Path

import pytest

from bench import records
from reports import kept, runs
from reports.closing import closing_rows
from reports.page import write_report
from reproduce.run import NEEDS

NOISE = ("USDT", "gpuGetDeviceCount", "CPUAllocator", "Loading", "it/s", "deprecated", "Warning", "\r")
# Keys that a reader may ask for and that not every run has, each with when it has it.
NOT_ALWAYS = {
    "left_out": "a variant whose rule leaves items out",
    "limit": "a quick look at small counts",
    "validation_loss": "a row of the log that tells a validation",
    "partial": "a score of fewer images than expected, on demand",
    "peak_device_memory_bytes": "a stage on a GPU",
}


class Watched(dict):
    """A JSON object that notes the keys that were looked up in it and are not there."""

    absent: set[str] = set()

    def __getitem__(self, key):
        if key not in self:
            self.absent.add(key)
        return super().__getitem__(key)

    def get(self, key, default=None):
        if key not in self:
            self.absent.add(key)
        return super().get(key, default)


def watched(value):
    """The value with all objects in it watched."""
    if isinstance(value, dict):
        return Watched({key: watched(one) for key, one in value.items()})
    return [watched(one) for one in value] if isinstance(value, list) else value


@pytest.fixture
def absent(monkeypatch) -> set[str]:
    """The keys that reports look up in a run's files and do not find, while the test runs."""
    monkeypatch.setattr(Watched, "absent", set())
    for module in (runs, kept):
        for name in ("read_json", "read_jsonl"):
            if hasattr(module, name):
                read = getattr(records, name)
                monkeypatch.setattr(module, name, lambda path, read=read: watched(read(path)))
    return Watched.absent


def test_all_six_stages_end_well(contract_run):
    manifest = json.loads((contract_run / "run.json").read_text())
    assert list(manifest["stages"]) == list(NEEDS)
    assert all(stage["finished"] for stage in manifest["stages"].values())


def test_reports_find_every_file_and_key_that_they_read(contract_run, absent, tmp_path):
    run = runs.load_run(contract_run)
    assert run.missing == []
    write_report([contract_run], tmp_path / "report")
    closing_rows(contract_run)
    assert absent <= NOT_ALWAYS.keys()


def test_the_watch_sees_what_is_not_there(contract_run, absent):
    """The test above would pass on a watch that sees nothing."""
    manifest = runs.load_run(contract_run).manifest
    manifest["recipe"].get("upsample")
    assert "upsample" in absent


def test_the_page_tells_every_score_of_the_run(contract_run):
    page = unescape((contract_run / "report" / "index.html").read_text())
    closing = closing_rows(contract_run)
    recipe = json.loads((contract_run / "run.json").read_text())["recipe"]
    assert [row["suite"] for row in closing["scores"]] == [suite["title"] for suite in recipe["suites"]]
    for row in closing["scores"]:
        assert row["suite"] in page
        for subject in ("source", "pixel"):
            value = row[subject].partition(" ")[0]
            assert re.fullmatch(r"\d+\.\d+", value) and value in page
    assert closing["page"].is_file() and closing["page"].read_text() == (contract_run / "report/index.html").read_text()


def test_a_run_holds_no_path_of_this_machine(contract_run):
    for file in (contract_run / "run.json", contract_run / ".source.json"):
        text = file.read_text()
        assert str(contract_run.parents[1]) not in text and str(Path.cwd()) not in text


def test_the_command_ends_by_telling_what_happened(contract_run):
    told = (contract_run.parent / "stdout.txt").read_text()
    for row in closing_rows(contract_run)["scores"]:
        assert all(row[name] in told for name in ("suite", "source", "pixel", "kept")), told
    assert all(stage in told for stage in NEEDS) and "GiB" in told
    assert "not tested" in told
    assert told.rstrip().endswith(str(contract_run / "report" / "index.html"))


def test_nothing_else_is_told_than_how_far_the_work_is(contract_run):
    log = (contract_run.parent / "stderr.txt").read_text()
    assert not [line for line in log.splitlines(keepends=True) for noise in NOISE if noise in line]
    assert "corpus: source draws" in log and "transfer" in log
    assert len(log.splitlines()) < 20, log
