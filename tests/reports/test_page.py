"""The page: self-contained, escaped, complete, and honest about what is not there."""

import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

from bench.records import append_jsonl, read_json, read_jsonl, write_json, write_jsonl
from reports import write_report
from reports.__main__ import main
from reports.claims import judge_claims
from reports.page import headline
from reports.runs import load_run, load_runs
from reports.shown import clock, disagreement_rows, judge_check_rows, option_differences
from tests.reports.fake_run import fake_run, predicted_4k

TABLES = ("table1", "retention", "tasks", "variants")
FILES = {"index.html", "claims.json", "scorecard.md", "report.json"}
FILES |= {f"{name}.{kind}" for name in TABLES for kind in ("csv", "md", "tex")}
EVIL = "<script>alert('x')</script> \"quoted\" & ${{ 7 * 7 }}"


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """The report of a run whose prompts, alarms and names try to break out, with predicted costs beside it."""
    folder = tmp_path_factory.mktemp("report")
    run = fake_run(folder / "flux-mini", num_prompts=3, pictures=True)
    for subject in ("source", "l2p"):
        scores = run / f"scores/{subject}/geneval/scores.jsonl"
        write_jsonl(scores, [{**row, "text": f"{EVIL} {row['text']}", "reason": EVIL} for row in read_jsonl(scores)])
    append_jsonl(run / "transfer/log.jsonl", [{"step": 50, "alarm": "patch-grid", "message": EVIL}])
    manifest = read_json(run / "run.json")
    write_json(run / "run.json", {**manifest, "allow_missing": True, "device": EVIL})
    write_json(folder / "costs/predicted.json", predicted_4k())
    write_report([run], folder / "out", cost_dir=folder / "costs")
    return folder / "out"


class Outside(HTMLParser):
    """Collects every address that a page would load, and every script."""

    def __init__(self):
        super().__init__()
        self.loads, self.scripts, self.images = [], 0, 0

    def handle_starttag(self, tag, attrs):
        self.scripts += tag in ("script", "iframe", "object", "link")
        self.images += tag == "img"
        self.loads += [value for name, value in attrs if name in ("src", "srcset", "href", "data") and value]


def test_all_files_are_written_and_no_other(report):
    names = {file.name for file in report.iterdir()}
    figures = {"grid", "training-curve", "geneval-tasks", "retention", "cost", "figure4"}
    assert names == FILES | {f"{name}.{kind}" for name in figures for kind in ("png", "svg")}


def test_the_page_loads_nothing_from_outside(report):
    text = (report / "index.html").read_text()
    parser = Outside()
    parser.feed(text)
    assert parser.scripts == 0 and parser.images >= 12
    assert all(value.startswith(("data:image/png;base64,", "#")) for value in parser.loads)
    assert not re.search(r"@import|url\(", text)


def test_outside_text_is_escaped(report):
    text = (report / "index.html").read_text()
    assert "<script" not in text and "&lt;script&gt;" in text
    assert "{{ 7 * 7 }}" in text and "$49" not in text


def test_the_page_says_what_a_reader_must_know(report):
    text = (report / "index.html").read_text()
    for needed in ("patch-grid", "--allow-missing", *(f"<b>C{k}</b>" for k in range(1, 15))):
        assert needed in text
    for section in (
        "verdicts",
        "pictures",
        "table1",
        "retention",
        "training",
        "cost",
        "claims",
        "scorecard",
        "settings",
    ):
        assert f'id="{section}"' in text
    assert text.index('id="verdicts"') < text.index('id="pictures"') < text.index('id="table1"')
    assert "prefers-color-scheme: dark" in text and 'name="viewport"' in text
    assert "published rows mix protocols" in text
    assert "Every stage’s files were there" in text


def test_a_run_without_later_stages_names_what_is_missing(tmp_path):
    run = fake_run(tmp_path / "flux-mini", num_prompts=2)
    for folder in ("scores", "cost"):
        shutil.rmtree(run / folder)
    write_report([run], tmp_path / "out", cost_dir=tmp_path / "none")
    text = (tmp_path / "out/index.html").read_text()
    for needed in ("scores/l2p/geneval/summary.json", "cost/measured.json", "No pictures", "No measured costs"):
        assert needed in text
    assert not (tmp_path / "out/grid.png").exists() and (tmp_path / "out/training-curve.png").exists()
    assert {row["verdict"] for row in read_json(tmp_path / "out/claims.json")} == {"not tested"}


def test_a_source_that_draws_nothing_is_shown_without_a_ratio(tmp_path):
    runs = [load_run(fake_run(tmp_path / "flux-mini", num_prompts=2, source_accuracy=0.0, pixel_accuracy=0.0))]
    entry = headline(runs, judge_claims(runs, []))[0]
    assert entry["name"] == "GenEval" and entry["value"] is None
    assert (entry["source"], entry["l2p"]) == (0.0, 0.0)


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("run.json", "{"),
        ("scores/l2p/geneval/summary.json", '{"overall": 1}'),
        ("cost/measured.json", '[{"case": "x"}]'),
    ],
)
def test_a_broken_file_is_named_and_nothing_written(tmp_path, capsys, file, content):
    run = fake_run(tmp_path / "flux-mini", num_prompts=1)
    (run / file).write_text(content)
    assert main([str(run), "--out", str(tmp_path / "out")]) == 2
    assert file in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_options_in_which_recipes_differ_stand_side_by_side(tmp_path):
    options = [{}, {}, {"prediction": "velocity", "detailer": {"channels": None}}]
    names = ["flux-mini", "flux-mini-seed1", "flux-mini-plain"]
    runs = [fake_run(tmp_path / name, options=given) for name, given in zip(names[::2], options[::2], strict=True)]
    runs.insert(1, fake_run(tmp_path / names[1], name="flux-mini", seed=1))
    table = option_differences(load_runs(runs)).set_index("Option")
    assert list(table.columns) == ["flux-mini", "flux-mini-plain"]
    assert table.loc["prediction"].tolist() == ["clean", "velocity"]
    assert table.loc["detailer"].tolist() == ["–", "{'channels': None}"]
    assert "save_every" not in table.index
    assert option_differences(load_runs(runs[:2])).empty


def test_no_run_folder_is_refused(tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos/cat.txt").touch()
    with pytest.raises(FileNotFoundError, match=r"photos holds no run \(found: cat.txt\)"):
        write_report([tmp_path / "photos"], tmp_path / "out")
    other = fake_run(tmp_path / "a/flux-mini", num_prompts=1)
    with pytest.raises(ValueError, match="Two runs are named 'flux-mini'"):
        write_report([other, fake_run(tmp_path / "b/flux-mini", num_prompts=1)], tmp_path / "out")
    write_json(other / "run.json", {"format": 99})
    with pytest.raises(ValueError, match="has format 99"):
        load_run(other)


def test_other_folders_among_many_are_left_out_by_name(tmp_path, capsys):
    run = fake_run(tmp_path / "flux-mini", num_prompts=1)
    (tmp_path / "cache").mkdir()
    status = main([str(run), str(tmp_path / "cache"), "--out", str(tmp_path / "out"), "--check-claims"])
    assert status in (0, 1)
    assert "cache is no run folder" in capsys.readouterr().err
    rows = read_json(tmp_path / "out/claims.json")
    assert (status == 1) == any(row["verdict"] == "not reproduced" for row in rows)


def test_reports_need_no_torch():
    code = "import sys, reports.__main__, reports.regression; assert 'torch' not in sys.modules, 'torch was imported'"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])


@pytest.mark.parametrize(
    ("seconds", "text"), [(None, "–"), (42, "42 s"), (200, "3 min 20 s"), (7500, "2 h 05 min"), (59.6, "1 min 00 s")]
)
def test_clock(seconds, text):
    assert clock(seconds) == text


def test_judges_that_several_runs_measured_alike_stand_once(tmp_path):
    runs = [fake_run(tmp_path / name, num_prompts=1) for name in ("flux-mini", "flux-mini-seed1", "flux-mini-long")]
    checks = [{"judge": "detector", "what": "rendered scenes", "value": 1.0, "n": 9}]
    values = (0.9, 0.9, 0.8)
    for run, value in zip(runs, values, strict=True):
        write_json(run / "scores/checks.json", [*checks, {**checks[0], "what": "drawn pictures", "value": value}])
    rows = judge_check_rows(load_runs(runs))
    assert rows["Run"].tolist() == ["all", "flux-mini, flux-mini-seed1", "flux-mini-long"]


def test_the_page_opens_with_what_must_be_known_of_the_runs_that_it_opens_with(tmp_path):
    """What concerns the other runs is a click away, not a wall before the pictures."""
    runs = [fake_run(tmp_path / name, num_prompts=1) for name in ("flux-mini", "flux-mini-seed1")]
    for run in runs:
        manifest = read_json(run / "run.json")
        write_json(run / "run.json", {**manifest, "allow_missing": True})
    write_report(runs, tmp_path / "out")
    page = (tmp_path / "out" / "index.html").read_text("utf-8")
    before, _, after = page.partition("To be known beside the other runs")
    assert before.count('class="alert note">flux-mini:') and not before.count('class="alert note">flux-mini-seed1')
    assert after.count('class="alert note">flux-mini-seed1')


def test_a_second_judge_s_score_and_what_it_would_keep_stand_beside_the_first(tmp_path):
    run = fake_run(tmp_path / "flux-mini", num_prompts=3)
    of = {"suite": "geneval", "of": "pictures", "value": 0.2, "n": 18, "warn": True}
    rows = [{**of, "subject": "l2p", "other_score": 0.5}, {**of, "subject": "source", "other_score": 0.8}]
    write_json(run / "scores/disagreement.json", rows)
    shown = disagreement_rows([load_run(run)])
    assert list(shown["By the second judge"]) == ["0.500", "0.800"] and list(shown["Kept by it"]) == ["0.625", "–"]
    first = read_json(run / "scores/l2p/geneval/summary.json")["overall"]
    assert shown["Score"][0] == f"{first:.3f}"
    write_report([run], tmp_path / "out")
    assert "by that judge the score is 0.500; look at them" in (tmp_path / "out/index.html").read_text()
    write_json(run / "scores/disagreement.json", [{**of, "subject": "l2p"}])  # as runs wrote it before
    assert disagreement_rows([load_run(run)])["By the second judge"][0] == "–"
    write_json(run / "scores/disagreement.json", [{**rows[0], "other_score": "high"}])
    with pytest.raises(ValueError, match="other_score of a disagreement is a number"):
        load_run(run)
