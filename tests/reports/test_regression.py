"""A real drop is found, noise and equality are not, and what cannot be compared is refused."""

from dataclasses import replace

import pytest

from bench.records import CostRecord, append_jsonl, read_json, write_json, write_jsonl
from reports.__main__ import main
from reports.regression import compare, cost_check, failures
from reports.runs import load_run
from tests.reports.fake_run import fake_run


@pytest.fixture(scope="module")
def baseline(tmp_path_factory):
    return fake_run(tmp_path_factory.mktemp("baseline") / "flux-mini", pixel_accuracy=0.8, num_prompts=30)


def status(*arguments):
    with pytest.raises(SystemExit) as ended:
        main(["regression", *map(str, arguments)])
    return ended.value.code or 0


def test_a_run_is_no_worse_than_itself(baseline, capsys):
    assert status(baseline, baseline) == 0
    assert "0 regressions" in capsys.readouterr().out


def test_noise_between_seeds_is_no_regression(baseline, tmp_path):
    found = [
        failures(
            compare(baseline, fake_run(tmp_path / f"{seed}/flux-mini", pixel_accuracy=0.8, num_prompts=30, seed=seed))
        )
        for seed in range(1, 6)
    ]
    assert found == [[]] * 5


def test_a_real_drop_is_found(baseline, tmp_path, capsys):
    worse = fake_run(tmp_path / "flux-mini", pixel_accuracy=0.65, num_prompts=30, seed=7)
    assert status(baseline, worse) == 1
    assert "GenEval of pixel model:" in capsys.readouterr().out
    assert all("source" not in message for message in failures(compare(baseline, worse)))


def test_a_gain_is_no_regression(baseline, tmp_path):
    better = fake_run(tmp_path / "flux-mini", pixel_accuracy=0.95, num_prompts=30, seed=7)
    assert failures(compare(baseline, better)) == []


def test_without_score_rows_the_intervals_decide(baseline, tmp_path):
    worse = fake_run(tmp_path / "flux-mini", pixel_accuracy=0.5, num_prompts=30)
    (worse / "scores/l2p/geneval/scores.jsonl").unlink()
    messages = failures(compare(baseline, worse))
    assert any("GenEval of pixel model" in message and "unpaired" in message for message in messages)


def test_a_benchmark_that_vanished_is_a_finding(baseline, tmp_path):
    run = fake_run(tmp_path / "flux-mini", num_prompts=30)
    (run / "scores/l2p/heldout/summary.json").unlink()
    assert any("Held-out pairs of pixel model: scored in" in message for message in failures(compare(baseline, run)))


def test_a_new_alarm_and_a_changed_frozen_block_are_findings(baseline, tmp_path):
    run = fake_run(tmp_path / "flux-mini", num_prompts=30, seed=0, pixel_accuracy=0.8)
    append_jsonl(run / "transfer/log.jsonl", [{"step": 90, "alarm": "dead-head", "message": "the head is dead"}])
    summary = read_json(run / "transfer/summary.json")
    write_json(run / "transfer/summary.json", {**summary, "frozen_sha256_after": "changed"})
    messages = failures(compare(baseline, run))
    assert len(messages) == 2 and "dead-head" in messages[1] and "frozen" in messages[0]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({}, None),
        ({"peak_memory_bytes": 104}, None),
        ({"peak_memory_bytes": 110}, "peak memory x 1.100"),
        ({"flops": 1.01e9}, "FLOPs x 1.010"),
        ({"latency_s": [1.2, 1.3, 1.4]}, None),  # timings overlap
        ({"latency_s": [1.6, 1.7, 1.8]}, "latency x 1.55"),
    ],
)
def test_costs(baseline, change, expected):
    record = CostRecord(
        case="l2p-flux-48", kind="measured", family="flux", model="l2p", resolution=48, batch_size=1, dtype="float32",
        device="cpu", device_type="cpu", protocol="x", flops=1e9, peak_memory_bytes=100, latency_s=[1.0, 1.1, 1.3],
    )  # fmt: skip
    before = replace(load_run(baseline), costs=[record])
    after = replace(before, costs=[replace(record, **change)])
    message = cost_check(record).fails(after, before)
    assert message is None if expected is None else expected in message


def test_other_prompts_or_families_are_refused(baseline, tmp_path, capsys):
    other = fake_run(tmp_path / "sd3-mini", family="sd3", num_prompts=2)
    assert status(baseline, other) == 2
    assert "'flux'" in capsys.readouterr().err
    path = fake_run(tmp_path / "flux-mini", num_prompts=2)
    summary = read_json(path / "scores/l2p/geneval/summary.json")
    write_json(path / "scores/l2p/geneval/summary.json", {**summary, "passport": {"prompts_sha256": "0"}})
    assert status(baseline, path) == 2
    assert "other prompts" in capsys.readouterr().err


def test_nothing_in_common_is_no_success(tmp_path, capsys):
    for name in ("a", "b"):
        write_jsonl(tmp_path / name / "corpus/metadata.jsonl", [{"file_name": "x.png"}])
    assert status(tmp_path / "a", tmp_path / "b") == 2
    assert "nothing to compare" in capsys.readouterr().err


def test_a_missing_folder_is_bad_input(baseline, tmp_path, capsys):
    assert status(baseline, tmp_path / "nowhere") == 2
    assert "nowhere" in capsys.readouterr().err
