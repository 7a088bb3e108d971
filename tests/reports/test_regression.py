"""The gate: a real drop is found, noise and equality are not, and what was not compared is counted, never passed."""

import json
import shutil
from dataclasses import replace
from types import SimpleNamespace

import pytest
from scipy.stats import ttest_ind

from bench.records import CostRecord, append_jsonl, read_json, read_jsonl, write_json, write_jsonl
from reports.__main__ import main
from reports.estimates import score_rows
from reports.regression import compare, significance
from reports.regression.checks import _set_check
from reports.regression.costs import cost_checks
from reports.regression.outcome import Check
from reports.runs import load_run
from tests.reports.fake_run import fake_run

ROWS = "scores/l2p/geneval/scores.jsonl"


@pytest.fixture(scope="module")
def baseline(tmp_path_factory):
    return fake_run(tmp_path_factory.mktemp("baseline") / "flux-mini", pixel_accuracy=0.8, num_prompts=30)


@pytest.fixture
def copy(baseline, tmp_path):
    """The baseline once more, to be changed."""
    return shutil.copytree(baseline, tmp_path / "flux-mini")


def status(*arguments):
    return main(["regression", *map(str, arguments)])


def outcomes(before, after, **options):
    """Names of the checks by outcome."""
    found = {}
    for check in compare([load_run(before)], [load_run(after)], **options).checks:
        found.setdefault(check.outcome, {})[check.name] = check
    return found


def test_a_run_is_no_worse_than_itself_and_every_check_says_its_change(baseline, capsys):
    assert status(baseline, baseline) == 0
    out = capsys.readouterr().out
    assert "0 worse, 0 not compared, 0 better" in out and "GenEval of pixel model, counting" in out
    assert "+0.000 (+0.000, +0.000)" in out


def test_noise_between_seeds_is_no_finding(baseline, tmp_path):
    for seed in range(1, 4):
        other = fake_run(tmp_path / f"{seed}/flux-mini", pixel_accuracy=0.8, num_prompts=30, seed=seed)
        assert set(outcomes(baseline, other)) == {"within noise"}


def test_a_real_drop_is_found_and_a_real_gain(baseline, tmp_path):
    worse = fake_run(tmp_path / "worse/flux-mini", pixel_accuracy=0.6, num_prompts=30, seed=7)
    assert status(baseline, worse) == 1
    found = outcomes(baseline, worse)["worse"]
    check = found["GenEval of pixel model"]
    assert check.change < -0.1 and check.low < check.change < check.high < 0
    assert check.p_value < check.p_corrected <= 0.05
    assert not any("source" in name for name in found)
    back = outcomes(worse, baseline)
    assert "worse" not in back and "GenEval of pixel model" in back["better"]


def test_three_seeds_see_what_one_does_not(tmp_path):
    sides = {
        side: [
            fake_run(tmp_path / f"{side}{k}", name="x", seed=10 * n + k, pixel_accuracy=accuracy, num_prompts=20)
            for k in range(3)
        ]
        for n, (side, accuracy) in enumerate({"before": 0.8, "after": 0.68}.items())
    }
    (tmp_path / "all").mkdir()
    for k, run in enumerate(sides["before"]):
        shutil.copytree(run, tmp_path / f"all/run{k}")
    several = outcomes_of(sides["before"], sides["after"])["GenEval of pixel model"]
    one = outcomes_of(sides["before"][:1], sides["after"][:1])["GenEval of pixel model"]
    assert several.outcome == "worse" and several.p_value < one.p_value
    assert several.high - several.low < one.high - one.low
    assert status(tmp_path / "all", *sides["after"]) == 1
    more = [f"--baseline-run={run}" for run in sides["before"][1:]]
    assert status(sides["before"][0], *sides["after"], *more) == 1


def outcomes_of(before, after):
    return {
        check.name: check for check in compare(*([load_run(run) for run in side] for side in (before, after))).checks
    }


def edit_rows(run, change):
    write_jsonl(run / ROWS, change(read_jsonl(run / ROWS)))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda rows: rows[: len(rows) // 2], "score rows of 360 expected"),
        (lambda rows: [row for row in rows if row["value"]], "of 360 expected"),
        (lambda rows: [{**row, "value": None} for row in rows], "360 images are unscored"),
        (lambda rows: [{**row, "value": 1.0 - row["value"]} for row in rows], "its summary says"),
        (lambda rows: [], "no score rows"),
    ],
)
def test_rows_that_do_not_stand_for_the_score_are_not_compared(baseline, copy, capsys, change, said):
    edit_rows(copy, change)
    check = outcomes(baseline, copy)["not compared"]["GenEval of pixel model"]
    assert said in check.why
    assert status(baseline, copy) == 2 and "1 not compared" in capsys.readouterr().out


@pytest.mark.parametrize("value", ["NaN", "2.0", '"1"', "true"])
def test_values_that_are_no_scores_are_bad_input(baseline, copy, capsys, value):
    lines = (copy / ROWS).read_text().splitlines()
    row = json.loads(lines[3])
    lines[3] = json.dumps({**row, "value": 0}).replace('"value": 0', f'"value": {value}')
    (copy / ROWS).write_text("\n".join(lines) + "\n")
    assert status(baseline, copy) == 2
    where = "line 4" if value == "NaN" else "row 4"  # NaN is no JSON: the reader of the file refuses it already
    assert f"scores.jsonl, {where}" in capsys.readouterr().err


def test_a_row_that_stands_twice_is_bad_input(baseline, copy, capsys):
    edit_rows(copy, lambda rows: [*rows, rows[0]])
    assert status(baseline, copy) == 2 and "in an earlier row already" in capsys.readouterr().err


def test_a_halved_summary_is_not_compared(baseline, copy):
    summary = read_json(copy / "scores/l2p/geneval/summary.json")
    write_json(copy / "scores/l2p/geneval/summary.json", {**summary, "overall": summary["overall"] / 2})
    assert "GenEval of pixel model" in outcomes(baseline, copy)["not compared"]


def test_a_suite_or_cost_that_vanished_is_not_compared(baseline, copy):
    (copy / "scores/l2p/heldout/summary.json").unlink()
    shutil.rmtree(copy / "cost")
    found = outcomes(baseline, copy)["not compared"]
    assert "Held-out pairs of pixel model" in found
    assert sum("measured cost" in name for name in found) == 4 and "worse" not in outcomes(baseline, copy)


@pytest.mark.parametrize("name", ["prompts_sha256", "thresholds", "models"])
def test_a_score_of_other_prompts_or_another_judge_is_not_compared(baseline, copy, name):
    path = copy / "scores/l2p/geneval/summary.json"
    summary = read_json(path)
    write_json(path, {**summary, "passport": {**summary["passport"], name: "other"}})
    check = outcomes(baseline, copy)["not compared"]["GenEval of pixel model"]
    assert name in check.why


def test_another_judge_by_hash_is_not_compared_and_another_recipe_is_said(baseline, copy, capsys):
    manifest = read_json(copy / "run.json")
    manifest["inputs"]["judges"]["dpg"] = "other"
    manifest["recipe"]["transfer"]["batch_size"] = 99
    manifest["inputs"]["source_sha256"] = "6" * 64
    write_json(copy / "run.json", manifest)
    assert status(baseline, copy) == 2
    out = capsys.readouterr().out
    assert "judge's sha256 differ" in out and "transfer.batch_size" in out and "source" in out


def test_a_seed_of_the_baseline_that_was_judged_otherwise_is_not_compared(baseline, copy):
    path = copy / "scores/l2p/geneval/summary.json"
    summary = read_json(path)
    write_json(path, {**summary, "passport": {**summary["passport"], "thresholds": {"score": 0.9}}})
    checks = compare([load_run(baseline), load_run(copy)], [load_run(baseline)]).checks
    check = next(check for check in checks if check.name == "GenEval of pixel model")
    assert check.outcome == "not compared" and "thresholds" in check.why


def test_a_source_has_no_spread_of_transfer_seeds(baseline, tmp_path):
    other = fake_run(tmp_path / "flux-mini", pixel_accuracy=0.8, source_accuracy=0.8, num_prompts=30, seed=1)
    sides = [[load_run(run)] for run in (baseline, other)]
    checks = {check.name: check for check in compare(*sides).checks}
    for subject, name in (("source", "source"), ("l2p", "pixel model")):
        rows = [[score_rows(run, subject, "geneval") for run in side] for side in sides]
        found = significance.tested(*rows, num_image_prompts=0, other_seeds=subject == "l2p")
        assert checks[f"GenEval of {name}"].p_value == pytest.approx(found.p_value)


def test_another_size_is_refused(baseline, tmp_path, capsys):
    paper = fake_run(tmp_path / "flux-mini", num_prompts=2, size="paper")
    assert status(baseline, paper) == 2 and "not comparable" in capsys.readouterr().err


def test_frozen_blocks_of_which_one_hash_is_missing_are_not_compared(baseline, copy):
    summary = read_json(copy / "transfer/summary.json")
    del summary["frozen_sha256_after"]
    write_json(copy / "transfer/summary.json", summary)
    assert "does not show by hash" in outcomes(baseline, copy)["not compared"]["frozen blocks unchanged"].why


def test_an_alarm_that_the_baseline_had_too_is_no_finding(baseline, copy, tmp_path):
    append_jsonl(copy / "transfer/log.jsonl", [{"step": 90, "alarm": "dead-head", "message": "the head is dead"}])
    assert set(outcomes(copy, copy)) == {"within noise"}


def test_a_new_suite_is_said(baseline, copy):
    for subject in ("source", "l2p"):
        shutil.copytree(copy / f"scores/{subject}/geneval", copy / f"scores/{subject}/wide")
    comparison = compare([load_run(baseline)], [load_run(copy)])
    assert any("not in the baseline: wide of l2p, wide of source" in note for note in comparison.notes)


def test_a_new_alarm_and_a_changed_frozen_block_are_worse(baseline, copy):
    append_jsonl(copy / "transfer/log.jsonl", [{"step": 90, "alarm": "dead-head", "message": "the head is dead"}])
    summary = read_json(copy / "transfer/summary.json")
    write_json(copy / "transfer/summary.json", {**summary, "frozen_sha256_after": "changed"})
    found = outcomes(baseline, copy)["worse"]
    assert "dead-head" in found["alarms of the transfer"].why and "frozen blocks unchanged" in found


def test_a_transfer_that_says_nothing_is_not_compared(baseline, copy):
    shutil.rmtree(copy / "transfer")
    assert {"frozen blocks unchanged", "alarms of the transfer"} <= outcomes(baseline, copy)["not compared"].keys()


RECORD = CostRecord(
    case="l2p-flux-48", kind="measured", family="flux", model="l2p", resolution=48, batch_size=1, dtype="float32",
    device="cpu", device_type="cpu", protocol="x", flops=1e9, peak_memory_bytes=100, latency_s=[1.0, 1.1, 1.3],
)  # fmt: skip


def cost_outcomes(baseline, before, after, latency=False):
    sides = [[replace(load_run(baseline), costs=[record]) for record in side] for side in (before, after)]
    return {check.name.split(", ")[-1]: check for check in cost_checks(*sides, latency=latency)}


@pytest.mark.parametrize(
    ("change", "outcome", "which"),
    [
        ({}, "within noise", "peak MiB"),
        ({"peak_memory_bytes": 104}, "within noise", "peak MiB"),
        ({"peak_memory_bytes": 110}, "worse", "peak MiB"),
        ({"peak_memory_bytes": None}, "not compared", "peak MiB"),
        ({"flops": 1.01e9}, "worse", "GFLOP"),
        ({"flops": 0.9e9}, "better", "GFLOP"),
    ],
)
def test_amounts_are_compared_by_factor(baseline, change, outcome, which):
    assert cost_outcomes(baseline, [RECORD], [replace(RECORD, **change)])[which].outcome == outcome


def test_a_cost_in_another_dtype_is_another_cost(baseline):
    checks = cost_outcomes(baseline, [RECORD], [replace(RECORD, dtype="bfloat16")])
    assert {check.outcome for check in checks.values()} == {"not compared"}


def test_latency_is_left_out_unless_asked_for(baseline):
    slow = replace(RECORD, latency_s=[9.0, 9.1])
    assert "latency ms" not in cost_outcomes(baseline, [RECORD], [slow])
    check = cost_outcomes(baseline, [RECORD], [slow], latency=True)["latency ms"]
    assert check.outcome == "not compared" and "2 runs or more a side" in check.why


def test_latency_of_another_machine_is_not_compared_and_repeats_are_tested(baseline):
    runs = [replace(RECORD, latency_s=[second]) for second in (1.0, 1.02, 1.04)]
    slow = [replace(RECORD, latency_s=[2 * record.latency_s[0]]) for record in runs]
    check = cost_outcomes(baseline, runs, slow, latency=True)["latency ms"]
    assert check.change == pytest.approx(2) and check.p_value < 1e-4 and check.low < 2 < check.high
    elsewhere = [replace(record, device="another processor") for record in slow]
    check = cost_outcomes(baseline, runs, elsewhere, latency=True)["latency ms"]
    assert check.outcome == "not compared" and "other machines" in check.why


def test_a_faster_run_is_better_and_a_slower_one_worse(baseline):
    def timed(*seconds):
        return [
            replace(load_run(baseline), scored={}, transfer=None, costs=[replace(RECORD, latency_s=[second])])
            for second in seconds
        ]

    fast, slow = timed(1.0, 1.01, 1.02), timed(2.0, 2.02, 2.04)
    for before, after, outcome in ((fast, slow, "worse"), (slow, fast, "better"), (fast, fast, "within noise")):
        checks = {check.name: check for check in compare(before, after, latency=True).checks}
        assert checks["measured cost of l2p-flux-48, batch 1, latency ms"].outcome == outcome


def test_formats_and_the_file(baseline, copy, tmp_path, capsys):
    (copy / "scores/l2p/heldout/summary.json").unlink()
    for form in ("text", "markdown", "json"):
        assert status(baseline, copy, "--format", form, "--out", tmp_path / f"out.{form}") == 2
        assert status(baseline, copy, "--format", form, "--out", tmp_path / f"out.{form}") == 2  # its own: replaced
    capsys.readouterr()
    markdown = (tmp_path / "out.markdown").read_text()
    assert markdown.startswith("<!-- python -m reports regression -->\n\n### ❓ Not all was compared")
    assert "<details>" in markdown and "| Held-out pairs of pixel model |" in markdown
    saved = json.loads((tmp_path / "out.json").read_text())
    assert saved["counts"]["not compared"] == 1 and saved["checks"][0]["name"] == "GenEval of source"
    assert status(baseline, copy, "--format", "yaml") == 2 and "text, markdown, json" in capsys.readouterr().err


@pytest.mark.parametrize("where", ["run/notes.md", "baseline/run.json", "mine.txt", "."])
def test_the_file_replaces_nothing_of_others(tmp_path, capsys, where):
    for name in ("baseline", "run"):
        fake_run(tmp_path / name, num_prompts=1)
    (tmp_path / "mine.txt").write_text("mine")
    before = {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()}
    assert status(tmp_path / "baseline", tmp_path / "run", "--out", tmp_path / where) == 2
    assert {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()} == before
    assert "give" in capsys.readouterr().err


def test_other_families_several_recipes_and_copies_are_refused(baseline, tmp_path, capsys):
    sd3 = fake_run(tmp_path / "sd3-mini", family="sd3", num_prompts=2)
    assert status(baseline, sd3) == 2 and "'flux'" in capsys.readouterr().err
    other = fake_run(tmp_path / "other", num_prompts=2)
    assert status(baseline, other, baseline) == 2 and "several recipes" in capsys.readouterr().err
    again = shutil.copytree(baseline, tmp_path / "again")
    assert status(baseline, baseline, again) == 2 and "one transfer seed" in capsys.readouterr().err


def test_nothing_in_common_is_no_success(tmp_path, capsys):
    for name in ("a", "b"):
        write_jsonl(tmp_path / name / "corpus/metadata.jsonl", [{"file_name": "x.png"}])
    assert status(tmp_path / "a", tmp_path / "b") == 2
    assert "nothing to compare" in capsys.readouterr().err
    assert status(tmp_path / "a", tmp_path / "nowhere") == 2
    assert "nowhere" in capsys.readouterr().err


def with_fid(run, value, *, half=0.4, count=600):
    """The run with FIDs of its GenEval pictures, as a further benchmark leaves them: a summary, no rows."""
    for subject in ("source", "l2p"):
        saved = read_json(run / f"scores/{subject}/geneval/summary.json")
        passport = {**saved["passport"], "reference": {"count": 900}}
        fid = {"benchmark": "fid", "overall": value, "overall_ci95": [value - half, value + half], "by_category": {}}
        counts = {"num_expected": count, "num_scored": count}
        write_json(run / f"scores/{subject}/geneval/fid/summary.json", saved | fid | counts | {"passport": passport})
    return run


def test_figures_of_whole_sets_are_compared_by_their_intervals(baseline, tmp_path):
    """FID has no rows that pair: lower is better, what lies within both intervals is noise."""
    before = with_fid(shutil.copytree(baseline, tmp_path / "before/flux-mini"), 20.0)
    cases = {"same": (20.0, "within noise"), "near": (20.4, "within noise")}
    cases |= {"worse": (23.0, "worse"), "better": (17.0, "better")}
    for name, (value, outcome) in cases.items():
        after = with_fid(shutil.copytree(baseline, tmp_path / name / "flux-mini"), value)
        found = outcomes(before, after)[outcome]["geneval/fid of pixel model"]
        assert found.change == pytest.approx(value - 20.0) and found.low <= found.change <= found.high
    fewer = with_fid(shutil.copytree(baseline, tmp_path / "fewer/flux-mini"), 20.0, count=500)
    assert "different sizes" in outcomes(before, fewer)["not compared"]["geneval/fid of pixel model"].why
    bare = with_fid(shutil.copytree(baseline, tmp_path / "bare/flux-mini"), 19.0, half=0.0)
    same = with_fid(shutil.copytree(baseline, tmp_path / "same2/flux-mini"), 20.0, half=0.0)
    assert "no interval" in outcomes(same, bare)["not compared"]["geneval/fid of pixel model"].why


def test_few_seeds_of_whole_sets_know_their_own_spread_badly():
    """Where seeds differ by more than the figures' intervals the check is Student's t; else the intervals decide."""

    def summaries(values, half):
        return [SimpleNamespace(overall=v, overall_ci95=(v - half, v + half), num_expected=600) for v in values]

    before, after = [20.0, 20.8, 21.3], [22.4, 21.9]
    found = _set_check(Check(name="fid"), summaries(before, 0.01), summaries(after, 0.01))
    theirs = ttest_ind(after, before)
    assert found.p_value == pytest.approx(theirs.pvalue)
    assert (found.low, found.high) == pytest.approx(tuple(theirs.confidence_interval()))
    wide = _set_check(Check(name="fid"), summaries(before, 4.0), summaries(after, 4.0))
    assert wide.high - wide.change == pytest.approx(4.0 * (1 / 3 + 1 / 2) ** 0.5, rel=1e-4)


def test_a_baseline_keeps_figures_of_whole_sets(baseline, tmp_path):
    run = with_fid(shutil.copytree(baseline, tmp_path / "flux-mini"), 20.0)
    assert main(["baseline", str(run), "--out", str(tmp_path / "baseline.json")]) == 0
    assert status(tmp_path / "baseline.json", run) == 0
    worse = with_fid(shutil.copytree(baseline, tmp_path / "worse/flux-mini"), 25.0)
    assert status(tmp_path / "baseline.json", worse) == 1
