"""The command line: exit statuses, one-line errors, an example in every help."""

from dataclasses import replace

import pytest

from bench.__main__ import main
from bench.benchmarks import BENCHMARKS
from bench.geneval.prompts import write_suite
from bench.records import Summary, read_json, to_json, write_json, write_jsonl

OWN = "tests.bench.test_main:nothing"
pytestmark = pytest.mark.usefixtures("noted")  # what is said stands in docs/errors.md


def nothing():
    """A loader of a detector that finds nothing."""
    return lambda images: [[] for _ in images]


@pytest.mark.parametrize("command", ["geneval", "dpg", "fidelity", "clip", "diversity", "cost", "compare", "rescore"])
def test_every_help_has_an_example(command, capsys):
    assert main([command, "--help"]) == 0
    assert "python -m bench " + command in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["geneval", "{tmp}/none", "--detector", "nobody", "--out", "{tmp}/o"], "neither mask2former nor mmdet nor a"),
        (["geneval", "{tmp}/none", "--detector", "no.such:load", "--out", "{tmp}/o"], "there is no module 'no' here"),
        (["geneval", "{tmp}/none", "--detector", "json:nothing", "--out", "{tmp}/o"], "has no function 'nothing'"),
        (
            ["geneval", "{tmp}/none", "--detector", OWN, "--out", "{tmp}/o"],
            "is not a folder",
        ),
        (["geneval", "x", "--detector", "json:a", "--out", "o", "--expected", "553"], "PROMPTSxIMAGES"),
        (["geneval", "x", "--detector", "json:a", "--out", "o", "--self-test", "s", "--no-self-test"], "contradict"),
        (
            ["geneval", "x", "--detector", OWN, "--out", "o", "--weights", "w"],
            "brings its own",
        ),
        (["geneval", "x"], "Missing option"),
        (["rescore", "{tmp}"], "neither detections.jsonl"),
        (["rescore", "{tmp}", "--benchmark", "geneval", "--score-threshold", "0.01"], "at least 0.05"),
        (
            ["rescore", "{tmp}", "--benchmark", "geneval", "--variant", "dsg"],
            "--variant would change nothing: rescore of GenEval",
        ),
        (
            ["rescore", "{tmp}", "--benchmark", "dpg", "--max-objects", "3", "--allow-partial"],
            "--allow-partial, --max-objects would change nothing: rescore of DPG-Bench takes --questions, --answers",
        ),
        (["rescore", "{tmp}", "--benchmark", "fdi"], "unknown benchmark 'fdi'; known: geneval, dpg, fid, fid-patch"),
        (["rescore"], "Name the folder of saved"),
        (["rescore", "--benchmark", "geneval"], "needs the folder of saved detections"),
        (["compare", "{tmp}/a", "{tmp}/b"], "holds no summary.json"),
        (["no-such-command"], "No such command"),
    ],
)
def test_bad_input_is_one_line_and_status_2(tmp_path, capsys, arguments, told):
    assert main([argument.replace("{tmp}", str(tmp_path)) for argument in arguments]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and told in error


def test_an_incomplete_folder_is_listed_and_status_2(tmp_path, capsys):
    write_suite(tmp_path / "images")
    arguments = ["geneval", str(tmp_path / "images"), "--detector", OWN, "--device", "cpu"]
    assert main([*arguments, "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert "2212 of 2212 expected images" in error and "00000/samples/0000.png" in error and "..." in error


def test_an_interrupted_run_is_status_3(monkeypatch, capsys, tmp_path):
    def interrupted(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setitem(BENCHMARKS, "geneval", replace(BENCHMARKS["geneval"], rescore=interrupted))
    assert main(["rescore", str(tmp_path), "--benchmark", "geneval"]) == 3
    assert "goes on from there" in capsys.readouterr().err


def write_score(folder, values, **changes):
    """A folder of GenEval scores, one image a prompt."""
    folder.mkdir()
    rows = [
        {"prompt_id": f"{i:05}", "index": 0, "category": "t", "value": value, "text": f"p{i}"}
        for i, value in enumerate(values)
    ]
    summary = Summary(
        benchmark="geneval",
        version="suite",
        variant="published",
        subject="toy",
        overall=0.5,
        overall_ci95=(0.0, 1.0),
        by_category={},
        num_expected=len(rows),
        num_scored=len(rows),
        passport={"thresholds": folder.name},
    )
    write_jsonl(folder / "scores.jsonl", rows)
    write_json(folder / "summary.json", to_json(summary) | changes)


def test_compare_says_what_b_is(tmp_path, capsys):
    for name, value in (("a", 1.0), ("b", 0.0)):
        write_score(tmp_path / name, [value] * 9)
    out = tmp_path / "comparison.json"
    assert main(["compare", str(tmp_path / "a"), str(tmp_path / "b"), "--out", str(out)]) == 1  # a finding
    assert "B is worse" in capsys.readouterr().out
    assert read_json(out)["difference"]["value"] == -1 and read_json(out)["verdict"] == "worse"
    assert main(["compare", str(tmp_path / "b"), str(tmp_path / "a")]) == 0 and "B is better" in capsys.readouterr().out
    assert main(["compare", str(tmp_path / "a"), str(tmp_path / "a")]) == 0
