"""What people give to `python -m bench`: a sentence and status 2 before a model is asked, never a traceback."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bench.__main__ import main
from bench.records import read_json, read_jsonl, write_jsonl
from bench.runner import locked
from l2p.ending import run_command

from .commands import ASKED, found, geneval, told
from .geneval.conftest import suite, write_images

HERE = "tests.bench.test_bad_input"
ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.usefixtures("noted")  # what is said stands in docs/errors.md

ANSWERS = {  # of broken detectors, to a batch of images
    "none": lambda images: None,
    "number": lambda images: 3,
    "flat": lambda images: [found() for _ in images],
    "few": lambda images: [[]],
    "dicts": lambda images: [[{"label": "circle", "box": [0, 0, 4, 4], "score": 0.9}] for _ in images],
    "nan": lambda images: [[found(score=float("nan"))] for _ in images],
    "large": lambda images: [[found(score=7.5)] for _ in images],
    "corners": lambda images: [[found(box=(0, 0, 4))] for _ in images],
    "endless": lambda images: [[found(box=(0, 0, float("inf"), 4))] for _ in images],
    "unnamed": lambda images: [[found(label=3)] for _ in images],
    "tinted": lambda images: [[found(color=("red", 0.9))] for _ in images],
}


def _loader(answer):
    return lambda: answer


for name, answer in ANSWERS.items():
    globals()[f"gives_{name}"] = _loader(answer)


def fails():
    """A loader of a detector that fails."""
    return lambda images: 1 / 0


def exits():
    """A loader of a detector that ends the program as if all were well."""
    return lambda images: sys.exit(0)


def cannot_load():
    """A loader that fails."""
    raise KeyError("weights")


def test_a_sound_folder_is_scored_and_says_where_the_result_lies(tmp_path, images, capsys):
    for name in (".DS_Store", "00000/samples/._0000.png", "00000/._metadata.jsonl", "._00001"):
        (images / name).write_bytes(b"\0\5\26\7")
    assert geneval(tmp_path) == 0
    shown = capsys.readouterr().out
    assert (
        shown.splitlines()[-1]
        == f"Written to {tmp_path / 'out'}: summary.json (with all settings), scores.jsonl (a row an image)"
    )
    assert shown.startswith("GenEval (suite ") and "not stated" not in shown
    assert len(ASKED) == 12


def _spoil(path: str, content: bytes):
    return lambda tmp_path: (tmp_path / path).write_bytes(content)


def _pipe(tmp_path):
    (tmp_path / "images/00001/samples/0001.png").unlink()
    os.mkfifo(tmp_path / "images/00001/samples/0001.png")


def _rename(suffix):
    path = "images/00001/samples/0001"
    return lambda tmp_path: (tmp_path / f"{path}.png").rename(tmp_path / f"{path}{suffix}")


def _out_is_a_file(tmp_path):
    (tmp_path / "out").write_text("mine")


SPOILT = {
    "a pipe for an image": (_pipe, "00001/samples/0001.png, which is no regular file"),
    "a jpg for a png": (_rename(".jpg"), "0001.png, but 0001.jpg is there: save it as 0001.png"),
    "a webp for a png": (_rename(".webp"), "0001.png, but 0001.webp is there"),
    "capitals for a png": (_rename(".PNG"), "0001.png, but 0001.PNG is there"),
    "a list for settings": (_spoil("images/generation.json", b"[1]"), "generation.json must hold a JSON object"),
    "settings with NaN": (_spoil("images/generation.json", b'{"guidance_scale": NaN}'), "generation.json: NaN is no"),
    "no suite": (_spoil("suite.jsonl", b""), "6 prompts are expected, but the suite has 0"),
    "a suite of lists": (_spoil("suite.jsonl", b"[1]\n" * 6), "prompt 00000: a GenEval entry is an object"),
    "a torn suite": (_spoil("suite.jsonl", b'{"tag": "colo'), "suite.jsonl, line 1 is not valid JSON"),
    "garbage that begins like gzip": (_spoil("suite.jsonl", b"\x1f\x8bgarbage"), "suite.jsonl is a broken gzip file"),
    "metadata of a number": (
        _spoil("images/00002/metadata.jsonl", b"3\n"),
        "metadata.jsonl: a GenEval entry is",
    ),
    "a file for a folder": (_out_is_a_file, "out is a file; results need a folder"),
}


@pytest.mark.parametrize("name", SPOILT)
def test_a_spoilt_folder_is_refused_before_an_image_is_looked_at(tmp_path, images, capsys, name):
    spoil, words = SPOILT[name]
    spoil(tmp_path)
    assert geneval(tmp_path) == 2
    assert words in told(capsys) and not ASKED


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--device", "bogus"], "--device 'bogus' is not on this machine; it has auto, cpu"),
        (["--device", "cuda:99"], "--device 'cuda:99' is not on this machine"),
        (["--expected", "2x1000000000"], "2 x 1000000000 images are expected; 1 to 1,000,000 can be"),
        (["--expected", "1000000000x1"], "1000000000 x 1 images are expected"),
        (["--expected", "3x2"], "the suite has 6. To score those that are drawn: --expected 6x2 with --allow-partial"),
        (["--batch-size", "1000000000"], "'--batch-size': Input should be less than or equal to 4096"),
        (["--clip", "no.such:load"], "there is no module 'no' here"),
        (["--results-jsonl", "."], "is a folder; name a file"),
    ],
)
def test_bad_options_are_refused_before_an_image_is_looked_at(tmp_path, images, capsys, options, words):
    assert geneval(tmp_path, *options) == 2
    assert words in told(capsys) and not ASKED


def test_missing_weights_speak_of_the_file_not_of_the_hub(tmp_path, images, capsys):
    assert geneval(tmp_path, "--weights", "nope.pth", detector="mask2former") == 2
    assert "there is no nope.pth: give a checkpoint file" in told(capsys)
    assert geneval(tmp_path, "--weights", str(tmp_path / "nope"), detector="mask2former") == 2
    assert "nope: give a checkpoint file" in told(capsys)


def test_results_never_land_among_the_images(tmp_path, images, capsys):
    assert geneval(tmp_path, out="images/scores") == 2
    assert "lies in the image folder" in told(capsys)
    assert not (images / "scores").exists()


@pytest.mark.parametrize(
    ("detector", "words"),
    [
        *((f"gives_{name}", "The detector g") for name in ("none", "number", "flat", "few")),
        ("gives_dicts", "bench.records.Detection is needed"),
        ("gives_nan", "score 0 to 1; got (0, 0, 4, 4), nan"),
        ("gives_large", "score 0 to 1; got (0, 0, 4, 4), 7.5"),
        ("gives_corners", "box must be four numbers"),
        ("gives_endless", "box must be four numbers"),
        ("gives_unnamed", "label must be text"),
        ("gives_tinted", "color text or None"),
        ("fails", "failed (ZeroDivisionError: division by zero); --debug shows where"),
        ("exits", "failed (SystemExit: 0)"),
        ("cannot_load", f"{HERE}:cannot_load() failed (KeyError: 'weights')"),
    ],
)
def test_a_broken_detector_is_told_as_such(tmp_path, images, capsys, detector, words):
    assert geneval(tmp_path, detector=f"{HERE}:{detector}") == 2
    assert words.replace("The detector g", "The detector ") in told(capsys)
    assert not (tmp_path / "out" / "summary.json").exists()


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("import sys\nsys.exit(0)\n", "my_judge cannot be imported (SystemExit: 0)"),
        ("def load(:\n", "my_judge cannot be imported (SyntaxError"),
        ("1 / 0\n", "my_judge cannot be imported (ZeroDivisionError"),
        ("def load():\n    return 3\n", "must be a function without arguments that returns a judge"),
        ("def load():\n    f = lambda images: []\n    f.passport = [1]\n    return f\n", "passport must be a dict"),
        (
            "def load():\n    f = lambda images: []\n    f.labels = 'cat'\n    return f\n",
            "labels must be a list of names",
        ),
    ],
)
def test_a_broken_module_is_told_as_such(tmp_path, images, monkeypatch, capsys, source, words):
    (tmp_path / "my_judge.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "my_judge", raising=False)
    assert geneval(tmp_path, detector="my_judge:load") == 2
    assert words in told(capsys)
    monkeypatch.delitem(sys.modules, "my_judge", raising=False)


def test_two_commands_do_not_write_into_one_folder(tmp_path, images, capsys):
    (tmp_path / "out").mkdir()
    with locked(tmp_path / "out"):
        assert geneval(tmp_path) == 2
        assert "another command is writing into" in told(capsys) and not ASKED
    assert geneval(tmp_path) == 0
    with locked(tmp_path / "out"):
        assert main(["rescore", str(tmp_path / "out"), "--in-place"]) == 2
        assert main(["rescore", str(tmp_path / "out")]) == 0  # beside


def test_a_full_disk_is_said_before_an_image_is_looked_at(tmp_path, images, monkeypatch, capsys):
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 3 << 20}))
    assert geneval(tmp_path) == 2
    assert "has 3 MiB left, 64 are needed: make room" in told(capsys) and not ASKED


def test_saved_rows_of_another_kind_are_named(tmp_path, images, capsys):
    assert geneval(tmp_path) == 0
    for row in ('{"a": 1}\n', "[1]\n", "{\n"):
        (tmp_path / "out" / "detections.jsonl").write_text(row)
        assert geneval(tmp_path) == 2
        assert "detections.jsonl, line 1" in told(capsys)


REWRITTEN = {
    "tag": "single_object",
    "include": [{"class": "tv remote", "count": 1}],
    "prompt": "A sleek remote control",
}


def test_rewritten_prompts_are_scored_and_the_passport_says_so(tmp_path, capsys):
    entries = [*suite(5), REWRITTEN]
    write_jsonl(tmp_path / "suite.jsonl", entries)
    write_images(tmp_path / "images", [*entries[:5], suite(1)[0]])
    (tmp_path / "images/00005/metadata.jsonl").write_text(json.dumps(REWRITTEN))
    assert geneval(tmp_path) == 0
    summary = read_json(tmp_path / "out" / "summary.json")
    assert summary["passport"]["generation"]["prompts_rewritten"] is True
    assert "prompts-rewritten: 1 of 6 prompts, such as 00005, do not name" in capsys.readouterr().out
    assert [row["value"] for row in read_jsonl(tmp_path / "out" / "scores.jsonl")[-2:]] == [0.0, 0.0]
    write_jsonl(tmp_path / "suite.jsonl", entries[:5])
    for path in sorted((tmp_path / "images/00005").rglob("*"), reverse=True):
        path.unlink() if path.is_file() else path.rmdir()
    (tmp_path / "images/00005").rmdir()
    assert geneval(tmp_path, "--expected", "5x2", out="own") == 0
    own = read_json(tmp_path / "own" / "summary.json")["passport"]
    assert own["generation"]["prompts_rewritten"] == "not stated" and "prompts_rewritten" not in own["checks"]


def test_our_own_fault_is_status_4_and_its_traceback_is_asked_for(capsys):
    def broken(**_):
        raise AttributeError("no such thing")

    assert run_command(broken, []) == 4
    error = capsys.readouterr().err
    assert "this is a fault of the program" in error and "Traceback" not in error
    assert run_command(broken, ["--debug"]) == 4
    assert 'raise AttributeError("no such thing")' in capsys.readouterr().err


def test_debug_shows_where_a_judge_failed(tmp_path, images, capsys):
    assert geneval(tmp_path, "--debug", detector=f"{HERE}:fails") == 2
    assert "return lambda images: 1 / 0" in capsys.readouterr().err


def test_a_full_disk_and_a_file_of_the_system_s_are_told_in_words(capsys):
    def full(**_):
        raise OSError(28, "No space left on device")

    def missing(**_):
        raise FileNotFoundError(2, "No such file or directory", "/a/b")

    assert run_command(full, []) == 2 and "error: the disk is full: make room" in capsys.readouterr().err
    assert run_command(missing, []) == 2 and "error: /a/b: No such file or directory" in capsys.readouterr().err


SLOW = """
import time
def load():
    def detect(images):
        print("asked", flush=True)
        time.sleep(60)
    return detect
"""


def test_a_terminated_command_is_status_3_and_says_that_it_goes_on(tmp_path, images):
    (tmp_path / "slow_judge.py").write_text(SLOW)
    command = [
        sys.executable,
        "-m",
        "bench",
        "geneval",
        str(images),
        "--detector",
        "slow_judge:load",
        "--device",
        "cpu",
    ]
    command += ["--prompts", str(tmp_path / "suite.jsonl"), "--expected", "6x2", "--no-self-test"]
    environment = os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{tmp_path}"}
    process = subprocess.Popen(
        [*command, "--out", str(tmp_path / "out")],
        env=environment,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "asked\n"
    time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 3 and "interrupted: what is finished is kept" in error and "Traceback" not in error
