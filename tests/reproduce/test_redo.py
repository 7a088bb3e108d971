"""What was harmed is made again, what is asked for is made anew, and a run tells how it stands."""

import json
import re
import shutil
from pathlib import Path

import pytest

from bench.records import read_json, write_json
from reproduce.__main__ import main
from reproduce.files import find_harm, sweep
from reproduce.redo import OLD, followers, put_away, set_aside
from reproduce.run import NEEDS
from tests.ended import ended
from tests.reproduce import tiny
from tests.reproduce.conftest import tree

RESULTS = ("corpus", "transfer/model", "samples")
SCORES = ("scores/source/geneval/scores.jsonl", "scores/l2p/geneval/scores.jsonl", "scores/l2p/dpg/summary.json")


@pytest.fixture(scope="module")
def whole(tiny_source, child, tmp_path_factory) -> Path:
    """A run of all six stages."""
    run_dir = tmp_path_factory.mktemp("runs") / "whole"
    code, output = child(tiny.command, "flux", "--recipe", "tests.reproduce.tiny:recipe", "--run", str(run_dir))
    assert code == 0, output
    return run_dir


@pytest.fixture
def run(whole, tmp_path) -> Path:
    """A copy of it, alone in its folder; tests may harm it."""
    shutil.copytree(whole, tmp_path / "runs" / "run")
    return tmp_path / "runs" / "run"


def status(run_dir: Path) -> tuple[int, dict[str, dict]]:
    result = ended(main, *["flux", "--run", str(run_dir), "--status", "--json"])
    rows = json.loads(result.out)["stages"] if result.out else []
    return result.status, {row["stage"]: row for row in rows}


def scores(run_dir: Path) -> list[bytes]:
    return [(run_dir / name).read_bytes() for name in SCORES]


def test_a_whole_run_is_complete_and_a_harmed_one_names_its_files(run):
    assert status(run)[0] == 0
    image = run / "corpus/images/000003-0.png"
    image.write_bytes(image.read_bytes()[:100])
    (run / "samples/l2p/geneval/00001/samples/0000.png").unlink()
    code, rows = status(run)
    assert code == 2
    assert rows["corpus"]["state"] == "damaged" and rows["corpus"]["damaged"] == ["corpus/images/000003-0.png"]
    assert rows["sample"]["missing"] == ["samples/l2p/geneval/00001/samples/0000.png"]
    assert rows["transfer"]["state"] == rows["score"]["state"] == "done"


def test_a_run_without_a_record_is_read_by_its_images(run):
    (run / ".files.json").unlink()
    image = run / "corpus/images/000003-0.png"
    image.write_bytes(image.read_bytes()[:100])
    (run / "corpus/images/000004-0.png").unlink()
    harm = find_harm(tiny.recipe(), run, "corpus")
    assert harm.damaged == ("corpus/images/000003-0.png",) and harm.missing == ("corpus/images/000004-0.png",)
    assert not find_harm(tiny.recipe(), run, "sample")


def test_what_was_harmed_is_made_again_to_the_same_bytes(whole, run, child):
    corpus, tile = run / "corpus/images/000003-0.png", run / "samples/source/dpg/tiles/mini_001_2.png"
    corpus.write_bytes(corpus.read_bytes()[:100])
    (run / "corpus/images/000009-0.png").unlink()
    tile.unlink()
    (run / "samples/l2p/geneval/00001/samples/0000.png").write_bytes(b"no picture")
    (run / "scores/l2p/geneval/scores.jsonl").write_text("torn")
    weights = next((run / "transfer/model").glob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:1000])
    code, output = child(tiny.command, "flux", "--run", str(run))  # the recipe is known from run.json
    assert code == 0, output
    assert "corpus: 1 missing and 1 damaged" in output and "differ from the first" not in output
    assert tree(run, *RESULTS) == tree(whole, *RESULTS)
    assert scores(run) == scores(whole)
    assert status(run)[0] == 0


def test_redo_makes_a_stage_and_its_followers_anew_and_leaves_what_is_not_its_own(whole, run, child):
    (run / "transfer/notes.txt").write_text("mine")
    source = {path: path.stat().st_mtime_ns for path in (run / "samples/source").rglob("*.png") if "tiles" in str(path)}
    old = {path: path.stat().st_mtime_ns for path in (run / "samples/l2p/geneval").rglob("*.png")}
    code, output = child(tiny.command, "flux", "--run", str(run), "--redo", "transfer", "--quiet")
    assert code == 0 and not re.search(r"\d of \d|━", output) and "Page" not in output, output
    assert (run / "transfer/notes.txt").read_text() == "mine"
    (run / "transfer/notes.txt").unlink()
    assert not (run / OLD).exists() and "redo" not in read_json(run / "run.json")
    assert tree(run, *RESULTS) == tree(whole, *RESULTS) and scores(run) == scores(whole)
    assert {path: path.stat().st_mtime_ns for path in source} == source
    assert all(path.stat().st_mtime_ns != time for path, time in old.items())


def test_old_results_are_kept_until_the_new_ones_are_whole(run):
    manifest, before = read_json(run / "run.json"), tree(run, "samples", "scores")
    set_aside(run, manifest, ["sample"], followers(["sample"], NEEDS))
    assert tree(run / OLD, "samples", "scores") == before and not (run / "samples").exists()
    manifest["stages"]["sample"]["seconds"] = 1.0  # it is under way
    (run / "samples").mkdir()
    set_aside(run, manifest, ["sample"], followers(["sample"], NEEDS))  # the same command, after a kill
    assert tree(run / OLD, "samples", "scores") == before
    put_away(run, manifest, "score")
    assert tree(run, "scores").keys() == {name for name in before if name.startswith("scores")}  # nothing new: all back


def test_followers_are_in_order():
    assert followers(["score"], NEEDS) == ["score"]
    assert followers(["transfer"], NEEDS) == ["transfer", "sample", "score", "cost"]


def test_a_quick_look_is_marked_and_lies_in_a_folder_of_its_own(tiny_source, child, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, output = child(
        tiny.command, "flux", "--recipe", "tests.reproduce.tiny:quick", "--limit", "8", "--json", "--quiet"
    )
    assert code == 0, output
    run_dir = next(Path("runs").iterdir())
    assert run_dir.name == "tiny-limit8"
    manifest = read_json(run_dir / "run.json")
    assert manifest["asked"]["limit"] == 8 and "no score" in manifest["recipe"]["study"]
    assert len(list((run_dir / "corpus/images").iterdir())) == 8
    assert "a quick look (--limit 8)" in (run_dir / "report/index.html").read_text()
    closing = json.loads(output[re.search(r"^\{", output, re.MULTILINE).start() :])  # alarms stand on stderr
    assert closing["run"] == "runs/tiny-limit8" and closing["scores"] and closing["claims"]
    assert child(tiny.command, "flux", "--run", str(run_dir), "--status")[0] == 0


def test_a_source_of_one_s_own_is_known_to_later_calls(tiny_source, child, tmp_path):
    own, run_dir = tmp_path / "mine", tmp_path / "run"
    shutil.copytree(tiny_source, own)
    command = ("flux", "--run", str(run_dir), "--stage=corpus")
    named = ("--recipe", "tests.reproduce.tiny:recipe", "--source", str(own))
    code, output = child(tiny.command_of_source, "/nowhere", *command, *named)
    assert code == 0, output
    assert read_json(run_dir / "run.json")["asked"] == {
        "recipe": "tests.reproduce.tiny:recipe",
        "source": "../mine",
    }
    code, output = child(tiny.command_of_source, "/nowhere", *command)
    assert code == 0, output
    shutil.rmtree(own)
    assert child(tiny.command_of_source, "/nowhere", *command)[0] == 2


def test_what_a_kill_left_is_swept(tmp_path):
    for name in ("report/.writing-abc/page.html", "samples/l2p/.0000.png.12.tmp", "samples/l2p/.mine"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("")
    sweep(tmp_path)
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == [".mine"]


def test_a_second_command_on_a_run_folder_ends_with_one_sentence(run):
    from filelock import FileLock

    with FileLock(run / ".lock"):
        result = ended(main, *["flux", "--run", str(run), "--redo", "score"])
    assert result.status == 2 and "another process is at work" in result.output
    assert len(result.output.splitlines()) == 1 and not (run / OLD).exists()


def test_a_torn_training_state_is_refused_before_the_start(run):
    manifest = read_json(run / "run.json")
    manifest["stages"]["transfer"]["finished"] = None
    write_json(run / "run.json", manifest)
    for name in ("optimizer.pt", "weights.safetensors"):
        state = next((run / "transfer/state").glob(f"step-*/{name}"))
        content = state.read_bytes()
        state.write_bytes(content[: len(content) // 2])
        result = ended(main, *["flux", "--run", str(run)])
        assert result.status == 2 and name in result.output and "--redo transfer" in result.output
        state.write_bytes(content)
