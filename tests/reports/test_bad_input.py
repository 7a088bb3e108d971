"""Broken files end in one sentence that names the file, status 2 and no output; a broken picture stops nothing."""

import gzip
import shutil
import struct
import zlib

import pytest

from reports import __main__ as command
from reports.__main__ import main
from tests.reports.fake_run import fake_run

pytestmark = pytest.mark.usefixtures("noted")  # what is said stands in docs/errors.md


def status(*arguments):
    return main([str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return fake_run(tmp_path_factory.mktemp("whole") / "flux-mini", num_prompts=2)


SUMMARY = "scores/l2p/geneval/summary.json"
BROKEN = [
    *((name, text) for name in ("run.json", SUMMARY, "transfer/summary.json") for text in ("{", "[1]", "null", '"x"')),
    ("run.json", '{"format": 2, "recipe": "x"}'),
    ("run.json", '{"format": 2, "recipe": {}, "inputs": [1]}'),
    ("run.json", '{"format": 2, "recipe": {"transfer": []  , "suites": ["x"]}}'),
    ("transfer/summary.json", "{}"),
    ("transfer/log.jsonl", "[1]"),
    ("transfer/log.jsonl", '{"a": 1}'),
    ("corpus/metadata.jsonl", "[1]"),
    ("scores/l2p/geneval/scores.jsonl", '{"a": 1}'),
    ("scores/l2p/geneval/scores.jsonl", "[1]"),
    ("scores/l2p/geneval/scores.jsonl", '{"prompt_id": "1", "index": 0, "category": "a", "value": "yes"}'),
    ("scores/checks.json", '[{"a": 1}]'),
    ("scores/checks.json", '{"a": 1}'),
    ("cost/measured.json", "null"),
    ("cost/measured.json", '[{"a": 1}]'),
]


@pytest.mark.parametrize(("name", "content"), BROKEN)
def test_a_broken_file_is_named_and_nothing_is_written(whole, tmp_path, capsys, name, content):
    run = shutil.copytree(whole, tmp_path / "flux-mini")
    (run / name).write_text(content + "\n")
    for arguments in ((run, "--out", tmp_path / "out"), ("baseline", run, "--out", tmp_path / "out")):
        assert status(*arguments) == 2
        said = capsys.readouterr().err
        assert name in said and said.count("\n") == 1 and "Traceback" not in said
    assert status("regression", whole, run) == 2
    assert name in capsys.readouterr().err and not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"passport": {', '"passport": [], "old": {'),
        ('"overall": ', '"overall": NaN, "old": '),
        ('"latency_s": [', '"latency_s": ["x",'),
        ('"flops": ', '"flops": NaN, "old": '),
    ],
)
def test_a_broken_value_is_named(whole, tmp_path, capsys, old, new):
    run = shutil.copytree(whole, tmp_path / "flux-mini")
    name = "cost/measured.json" if old in (run / "cost/measured.json").read_text() else SUMMARY
    text = (run / name).read_text().replace(old, new, 1)
    (run / name).write_text(text)
    assert status(run, "--out", tmp_path / "out") == 2
    assert name in capsys.readouterr().err


def test_text_that_is_no_utf8_and_torn_gzip_are_named(whole, tmp_path, capsys):
    run = shutil.copytree(whole, tmp_path / "flux-mini")
    log = run / "transfer/log.jsonl"
    packed = gzip.compress(log.read_bytes())[:-9]
    log.write_bytes(b"\xff\xfe{}")
    assert status(run, "--out", tmp_path / "out") == 2 and "log.jsonl" in capsys.readouterr().err
    log.unlink()
    log.with_name("log.jsonl.gz").write_bytes(packed)
    assert status(run, "--out", tmp_path / "out") == 2 and "log.jsonl.gz" in capsys.readouterr().err


def bomb():
    """A PNG of 60,000 x 60,000 pixels in a few bytes."""

    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    head = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"\0" * 99)) + chunk(b"IEND", b"")


@pytest.mark.parametrize("content", [b"", b"no picture", bomb()])
def test_one_broken_picture_is_said_and_stops_nothing(tmp_path, capsys, content):
    run = fake_run(tmp_path / "flux-mini", num_prompts=2, pictures=True)
    broken = run / "samples/l2p/geneval/00000/samples/0000.png"
    broken.write_bytes(content)
    assert status(run, "--out", tmp_path / "out", "--records") == 0
    assert f"{broken} cannot be read as a picture" in capsys.readouterr().err
    page = (tmp_path / "out/index.html").read_text()
    assert "00000/samples/0000.png cannot be read as a picture" in page and page.count("<figcaption>") > 10


def test_our_own_fault_has_a_status_of_its_own(whole, tmp_path, capsys, monkeypatch):
    def fails(*arguments, **options):
        raise KeyError("ours")

    monkeypatch.setattr(command, "write_report", fails)
    assert status(whole, "--out", tmp_path / "out") == 4
    said = capsys.readouterr().err
    assert "a fault of the program, not yours (KeyError" in said and "Traceback" not in said
    assert status(whole, "--out", tmp_path / "out", "--debug") == 4
    assert "Traceback" in capsys.readouterr().err


def test_a_report_replaces_its_own_files_and_no_other(whole, tmp_path, capsys):
    out = tmp_path / "out"
    assert status(whole, "--out", out) == 0 and status(whole, "--out", out) == 0
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/table1.csv").write_text("mine")
    assert status(whole, "--out", tmp_path / "mine") == 2
    assert "no report wrote (table1.csv)" in capsys.readouterr().err
    assert [file.name for file in (tmp_path / "mine").iterdir()] == ["table1.csv"]
    (tmp_path / "file").write_text("mine")
    assert status(whole, "--out", tmp_path / "file") == 2 and status(whole, "--out", tmp_path / "file/deep") == 2
    assert (tmp_path / "file").read_text() == "mine"


def test_equal_runs_give_equal_figures_and_tables(whole, tmp_path):
    for name in ("a", "b"):
        assert status(whole, "--out", tmp_path / name) == 0
    files = sorted(file.name for file in (tmp_path / "a").iterdir() if file.name != "index.html")
    assert any(name.endswith(".svg") for name in files)
    assert all((tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes() for name in files)
    tex = (tmp_path / "a/retention.tex").read_text()
    assert (
        r"\toprule" in tex and r"\label{tab:retention}" in tex and "Kind" not in (tmp_path / "a/table1.tex").read_text()
    )
