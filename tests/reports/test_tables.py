"""Table 1 and its kin: columns, blocks, values equal to the summaries, escaping."""

import csv
import re

import pytest

from reports import table_files, tables
from reports.paper import TABLE1
from reports.runs import load_run, load_runs
from tests.reports.fake_run import fake_run

EVIL = "flux $x$ & <b>|_%{}#~^ \\input"


@pytest.fixture(scope="module")
def frame(run_dir):
    return tables.table1([load_run(run_dir)])


def test_columns_stand_as_others_read_them(frame):
    metrics = ["global", "entity", "attribute", "relation", "other", "dpg", "geneval"]
    expected = [name for metric in metrics for name in (metric, f"{metric}_low", f"{metric}_high")]
    assert list(frame.columns)[:4] == ["kind", "method", "family", "size"]
    assert list(frame.columns)[4:-3] == expected
    assert list(frame.columns)[-3:] == ["n", "n_dpg", "space"]


def test_measured_rows_are_the_summaries(frame, run_dir):
    run = load_run(run_dir)
    measured = frame[frame["kind"] == "measured"].set_index("space")
    for space, subject in (("latent", "source"), ("pixel", "l2p")):
        for benchmark in ("geneval", "dpg"):
            summary = run.scored[subject, benchmark].summary
            row = measured.loc[space, [benchmark, f"{benchmark}_low", f"{benchmark}_high"]]
            assert row.tolist() == pytest.approx([summary.overall, *summary.overall_ci95])
    assert measured.loc["pixel", ["entity", "entity_low", "entity_high"]].tolist() == [90.0, 88.5, 91.5]
    assert measured["n"].tolist() == [96, 96]


def test_blocks_never_mix_kinds_or_sizes(frame):
    blocks = tables.blocks(frame)
    assert [len(part) for _, part in blocks] == [len(TABLE1), 2]
    for _, part in blocks:
        assert part[["kind", "size"]].drop_duplicates().shape[0] == 1


def test_csv_reads_back_with_unrounded_values(frame, tmp_path):
    table_files.write_table1(frame, tmp_path)
    rows = list(csv.DictReader((tmp_path / "table1.csv").open()))
    assert len(rows) == len(frame)
    assert float(rows[-1]["geneval"]) == frame["geneval"].iloc[-1]
    assert rows[0]["geneval_low"] == ""


def test_names_from_outside_cannot_break_markdown_or_latex(tmp_path):
    run_dir = fake_run(tmp_path / EVIL.replace("/", ""), num_prompts=2)
    frame = tables.table1([load_run(run_dir)])
    table_files.write_table1(frame, tmp_path)
    markdown = (tmp_path / "table1.md").read_text()
    block = markdown.split("## Measured here")[1].splitlines()
    rows = [line for line in block if "flux $x$" in line]
    assert len(rows) == 2 and "<b>" not in markdown
    header = next(line for line in block if line.startswith("| Method"))
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in rows} == {header.count("|")}
    latex = (tmp_path / "table1.tex").read_text()
    assert r"\$x\$ \& <b>" in latex and r"\textbackslash input" in latex and "$x$" not in latex


def test_seeds_get_a_mean_row_and_share_the_source_row(tmp_path):
    paths = [fake_run(tmp_path / f"flux-mini-seed{k}", name="flux-mini", seed=k, num_prompts=3) for k in (1, 2)]
    runs = load_runs(paths)
    measured = tables.table1(runs).query("kind == 'measured'")
    assert list(measured["space"]) == ["latent", "pixel", "pixel", "pixel"]
    mean = measured.iloc[-1]
    assert "mean of 2 seeds" in mean["method"]
    for benchmark in ("geneval", "dpg"):
        seeds = [run.scored["l2p", benchmark].summary.overall for run in runs]
        assert mean[benchmark] == pytest.approx(sum(seeds) / 2)


def test_task_table_has_an_interval_round_each_value(run_dir):
    tasks = tables.task_table([load_run(run_dir)])
    assert len(tasks) == 12
    assert ((tasks["low"] <= tasks["value"]) & (tasks["value"] <= tasks["high"])).all()


def test_a_run_without_scores_adds_no_row(tmp_path):
    (tmp_path / "flux-mini/transfer").mkdir(parents=True)
    frame = tables.table1([load_run(tmp_path / "flux-mini")])
    assert set(frame["kind"]) == {"published"}
    assert tables.retention_table([load_run(tmp_path / "flux-mini")]).empty


def test_numbers_for_reading():
    assert tables.interval(0.62, 0.571, 0.664) == "0.620 (0.571, 0.664)"
    assert tables.interval(12.345, None, None, 1) == "12.3"
    assert tables.number(float("nan")) == "–"
