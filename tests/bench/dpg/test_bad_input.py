"""What people give to `python -m bench dpg`: a sentence and status 2, never a traceback."""

import gzip
import os

import numpy as np
import pytest
from PIL import Image

from bench.__main__ import main

from ..commands import contents, cut, told

HERE = "tests.bench.dpg.test_bad_input"
pytestmark = pytest.mark.usefixtures("noted")  # what is said stands in docs/errors.md
QUESTIONS = "item_id,text,proposition_id,dependency,tuple,question_natural_language\n" + "".join(
    f'{item},"a {item}",1,0,entity - whole (x),Is there {item}?\n' for item in "ab"
)


def _loader(answer):
    return lambda: answer


VQA = {
    "fine": lambda image, questions: ["yes" for _ in questions],
    "none": lambda image, questions: None,
    "numbers": lambda image, questions: [1 for _ in questions],
    "string": lambda image, questions: "y" * len(questions),
    "nothing": lambda image, questions: [None for _ in questions],
    "few": lambda image, questions: [],
    "fails": lambda image, questions: {}["x"],
}
for name, answer in VQA.items():
    globals()[f"vqa_{name}"] = _loader(answer)


@pytest.fixture
def grids(tmp_path):
    (tmp_path / "grids").mkdir()
    for item in "ab":
        Image.fromarray(np.full((8, 8, 3), 9, np.uint8)).save(tmp_path / "grids" / f"{item}.png")
    (tmp_path / "q.csv").write_text(QUESTIONS)
    return tmp_path / "grids"


def dpg(tmp_path, *more, vqa="fine"):
    where = ["dpg", str(tmp_path / "grids"), "--questions", str(tmp_path / "q.csv"), "--out", str(tmp_path / "out")]
    name = vqa if vqa in ("transformers", "openai") else f"{HERE}:vqa_{vqa}"
    return main([*where, "--vqa", name, "--resolution", "4", "--device", "cpu", "--variant", "corrected", *more])


@pytest.mark.parametrize(
    ("vqa", "words"),
    [
        ("none", "must give a list of texts, an answer each; it gave None"),
        ("numbers", "must give a list of texts, an answer each; it gave [1]"),
        ("string", "must give a list of texts, an answer each; it gave 'y'"),
        ("nothing", "must give a list of texts, an answer each; it gave [None]"),
        ("few", "gave 0 answers to 1 questions"),
        ("fails", "failed (KeyError: 'x'); --debug shows where"),
    ],
)
def test_a_broken_vqa_is_told_as_such(tmp_path, grids, capsys, vqa, words):
    assert dpg(tmp_path, vqa=vqa) == 2
    assert words in told(capsys)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--device", "cuda:99"], "'cuda:99' is not on this machine"),
        (["--insecure"], "--insecure would change nothing: it is for --vqa openai"),
        (["--pic-num", "1000000000"], "--pic-num must be 1 to 4"),
        (["--questions", "nowhere.csv"], "no file nowhere.csv"),
    ],
)
def test_bad_options_of_dpg_bench(tmp_path, grids, capsys, options, words):
    assert dpg(tmp_path, *options) == 2
    assert words in told(capsys)


def test_a_model_folder_that_is_not_there(tmp_path, grids, capsys):
    assert dpg(tmp_path, "--vqa-model", "/nope", vqa="transformers") == 2
    assert "there is no /nope: give a folder in transformers' format, or a hub id" in told(capsys)


def _grid_pipe(grids):
    (grids / "a.png").unlink()
    os.mkfifo(grids / "a.png")


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (_grid_pipe, "a.png, which is no regular file"),
        (lambda grids: (grids / "a.png").rename(grids / "a.bmp"), "a.png, but a.bmp is there"),
        (lambda grids: (grids / "generation.json").write_text("[1]"), "generation.json must hold a JSON object"),
        (lambda grids: (grids.parent / "q.csv").write_bytes(gzip.compress(b"x" * 999)[:-9]), "broken gzip"),
    ],
    ids=["a pipe for a grid", "a bmp for a png", "a list for settings", "questions of torn gzip"],
)
def test_a_spoilt_folder_of_grids_is_refused(tmp_path, grids, capsys, spoil, words):
    spoil(grids)
    assert dpg(tmp_path) == 2
    assert words in told(capsys)


def test_grids_beside_the_files_of_other_systems_are_scored_and_rescored_whole_or_not(tmp_path, grids, capsys):
    for name in (".DS_Store", "._a.png", "._b.png"):
        (grids / name).write_bytes(b"\0\5\26\7")
    assert dpg(tmp_path) == 0
    assert f"Written to {tmp_path / 'out'}" in capsys.readouterr().out
    out = tmp_path / "out"
    cut(out / "answers.jsonl")
    before = contents(out)
    assert main(["rescore", str(out), "--in-place"]) == 2
    assert "cannot be scored" in told(capsys) and contents(out) == before
    (out / "answers.jsonl").write_text('{"prompt_id": "a", "index": 0, "answers": {"1": 3}}\n')
    assert main(["rescore", str(out), "--in-place"]) == 2
    assert "an answer must be text; it is 3" in told(capsys)
    (out / "answers.jsonl").write_text('{"prompt_id": "a"}\n')
    assert main(["rescore", str(out), "--in-place"]) == 2
    assert "answers.jsonl, line 1: expected an object with prompt_id, index and answers" in told(capsys)


def test_a_turned_grid_and_one_of_another_size_are_told_apart(tmp_path, grids, capsys):
    """--pic-num 2 takes the first row alone, 8 x 4: a picture stored 4 x 8 that EXIF turns is one."""
    exif = Image.Exif()
    exif[0x0112] = 6
    for item in "ab":
        Image.new("RGB", (4, 8)).save(grids / f"{item}.png", exif=exif)
    assert dpg(tmp_path, "--pic-num", "2") == 0
    Image.new("RGB", (4, 8)).save(grids / "a.png")
    assert dpg(tmp_path, "--pic-num", "2") == 2
    assert "a.png: 4 x 8, expected 8 x 4 or 8 x 8" in told(capsys)
