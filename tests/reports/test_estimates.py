"""Retention and differences from score rows, and the spread between seeds."""

from dataclasses import replace

import pytest

from bench.records import read_jsonl, write_jsonl
from bench.statistics import Estimate
from reports.estimates import (
    NoEvidenceError,
    pooled_overall,
    pooled_retention,
    run_retention,
    score_rows,
    with_seed_spread,
)
from reports.runs import load_run
from tests.reports.fake_run import fake_run


def test_retention_is_the_ratio_of_the_summaries(run_dir):
    run = load_run(run_dir)
    for benchmark in ("geneval", "dpg", "heldout"):
        source, pixel = (run.scored[subject, benchmark].summary.overall for subject in ("source", "l2p"))
        estimate = run_retention(run, benchmark)
        assert estimate.value == pytest.approx(pixel / source)
        assert estimate.low < estimate.value < estimate.high


def test_the_mean_of_equal_seeds_is_each_seed_and_no_wider_than_their_pool(run_dir):
    run = load_run(run_dir)
    one, three = pooled_retention([run], "geneval"), pooled_retention([run] * 3, "geneval")
    assert three.value == pytest.approx(one.value)
    assert three.high - three.low == pytest.approx(one.high - one.low, rel=0.01)  # no spread, and the same prompts


def test_an_interval_ends_where_the_score_does(tmp_path):
    runs = [
        load_run(fake_run(tmp_path / str(seed), pixel_accuracy=accuracy, seed=seed, num_prompts=40))
        for seed, accuracy in enumerate((1.0, 0.95, 0.4))
    ]
    found = pooled_overall(runs, "l2p", "geneval")
    assert 0.0 <= found.low < found.value < found.high == 1.0


def test_seed_spread_adds_student_t_in_quadrature():
    pooled = Estimate(value=0.90, low=0.87, high=0.94, num_values=10, num_clusters=5)
    widened = with_seed_spread(pooled, [0.88, 0.90, 0.92])
    half = 4.302653 * 0.02 / 3**0.5  # t(0.975, 2) x standard error of the mean
    assert widened.value == pytest.approx(0.90)
    assert widened.low == pytest.approx(0.90 - (0.03**2 + half**2) ** 0.5, abs=1e-6)
    assert widened.high == pytest.approx(0.90 + (0.04**2 + half**2) ** 0.5, abs=1e-6)


def test_unscored_images_are_no_evidence_unless_the_summary_says_partial(tmp_path):
    path = fake_run(tmp_path / "flux-mini", num_prompts=2)
    scores = path / "scores/l2p/geneval/scores.jsonl"
    rows = read_jsonl(scores)
    write_jsonl(scores, [{**rows[0], "value": None}, *rows[1:]])
    run = load_run(path)
    with pytest.raises(NoEvidenceError, match="l2p on geneval: 1 images are unscored"):
        score_rows(run, "l2p", "geneval")
    scored = run.scored["l2p", "geneval"]
    partial = replace(scored, summary=replace(scored.summary, passport={"partial": True}))
    run = replace(run, scored={**run.scored, ("l2p", "geneval"): partial})
    assert len(score_rows(run, "l2p", "geneval").values) == len(rows) - 1


def test_other_prompts_do_not_pair(tmp_path):
    path = fake_run(tmp_path / "flux-mini", num_prompts=2)
    scores = path / "scores/l2p/geneval/scores.jsonl"
    write_jsonl(scores, [{**row, "text": row["text"] + "!"} for row in read_jsonl(scores)])
    with pytest.raises(NoEvidenceError, match="pair the same prompts"):
        run_retention(load_run(path), "geneval")


def test_a_source_that_draws_nothing_has_no_retention(tmp_path):
    path = fake_run(tmp_path / "flux-mini", num_prompts=2, source_accuracy=0.0)
    with pytest.raises(NoEvidenceError, match="too little for a ratio"):
        run_retention(load_run(path), "geneval")


def test_heldout_pairs_have_one_prompt_each_and_still_an_interval(run_dir):
    rows = score_rows(load_run(run_dir), "l2p", "heldout")
    assert len(set(rows.categories)) == 6 and len(set(rows.clusters)) == len(rows.values)
    estimate = run_retention(load_run(run_dir), "heldout")
    assert estimate.high - estimate.low > 0.1
