"""Kept records: small, the same bytes twice, read as the run was; and nothing that they did not write is replaced."""

import shutil

import pytest
from PIL import Image

from bench.records import read_json, write_json
from reports.__main__ import main
from reports.kept import keep_records
from reports.pictures import failed_pairs, picture_pairs
from reports.runs import load_run
from tests.reports.fake_run import fake_run


def status(*arguments):
    return main([str(argument) for argument in arguments])


def contents(folder):
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_kept_records_report_as_the_run_did(run_dir, tmp_path):
    assert status(run_dir, "--out", tmp_path / "first", "--records") == 0
    kept = tmp_path / "first" / "runs" / run_dir.name
    assert {file.suffix for file in kept.rglob("*") if file.is_file()} == {".json", ".gz"}
    assert not (kept / "corpus").exists()
    assert status(kept, "--out", tmp_path / "second") == 0
    for name in ("claims.json", "table1.csv", "scorecard.md"):
        assert (tmp_path / "second" / name).read_text() == (tmp_path / "first" / name).read_text()
    pages = [(tmp_path / folder / "index.html").read_text().splitlines() for folder in ("first", "second")]
    assert [line for line in pages[0] if "UTC" not in line] == [line for line in pages[1] if "UTC" not in line]


def test_further_records_are_reported_with_those_that_are_kept(tmp_path, capsys):
    """What lay there stays judged: two seeds given one after the other are two seeds."""
    out = tmp_path / "out"
    options = {"num_prompts": 40, "recipe": {"name": "one"}}
    first, other = (fake_run(tmp_path / name, seed=seed, **options) for seed, name in enumerate(("a", "a-seed1")))
    assert status(first, "--out", out, "--records") == 0
    kept = contents(out / "runs" / "a")
    assert status(other, "--out", out, "--records") == 0
    assert "with them: 1 runs whose records lie in" in capsys.readouterr().err
    assert contents(out / "runs" / "a") == kept and (out / "runs" / "a-seed1").is_dir()
    assert "mean of 2 seeds" in (out / "table1.md").read_text()
    assert status(*sorted((out / "runs").iterdir()), "--out", out, "--records") == 0
    assert contents(out / "runs" / "a") == kept


def test_kept_records_hold_all_that_a_report_reads(run_dir, tmp_path):
    keep_records(run_dir, tmp_path / "kept")
    run, kept = load_run(run_dir), load_run(tmp_path / "kept")
    for name in ("manifest", "corpus", "transfer", "log", "suites", "scored", "costs", "judge_checks", "missing"):
        assert getattr(kept, name) == getattr(run, name)
    assert (kept.corpus.num_images, kept.corpus.num_rejected, kept.corpus.num_traced) == (24, 1, 24)


def test_the_same_run_is_kept_as_the_same_bytes_also_from_kept_records(run_dir, tmp_path):
    keep_records(run_dir, tmp_path / "one")
    keep_records(run_dir, tmp_path / "two")
    keep_records(tmp_path / "one", tmp_path / "three")
    assert contents(tmp_path / "one") == contents(tmp_path / "two") == contents(tmp_path / "three")


def test_rows_that_stand_twice_are_kept_once(tmp_path):
    path = fake_run(tmp_path / "flux-mini", num_prompts=1)
    folder = path / "scores/l2p/dpg"
    shutil.copyfile(folder / "scores-corrected.jsonl", folder / "scores.jsonl")
    keep_records(path, tmp_path / "kept")
    assert not (tmp_path / "kept/scores/l2p/dpg/scores.jsonl.gz").exists()
    assert load_run(tmp_path / "kept").scored == load_run(path).scored


def test_the_pictures_of_the_page_are_kept_small_and_no_other(tmp_path):
    path = fake_run(tmp_path / "flux-mini", num_prompts=5, pictures=True)
    large = path / "samples/l2p/geneval/00001/samples/0000.png"
    Image.new("RGB", (300, 200), "red").save(large)
    assert status(path, "--out", tmp_path / "out", "--records") == 0
    kept = tmp_path / "out/runs/flux-mini"
    pictures = sorted(file.relative_to(kept) for file in kept.rglob("*.png"))
    shown = [*picture_pairs(load_run(path)), *failed_pairs(load_run(path))[0]]
    paths = {picture.path.relative_to(path) for pair in shown for picture in pair.pictures.values()}
    assert set(pictures) == paths and 24 < len(paths) < 60  # two a task from both models, and what was judged wrong
    assert Image.open(kept / large.relative_to(path)).size == (96, 64)
    assert status(kept, "--out", tmp_path / "again") == 0
    assert (tmp_path / "again/grid.png").is_file()


def test_every_familys_first_run_keeps_the_pictures_of_its_card(tmp_path):
    given = {"num_prompts": 3, "pictures": True}
    names = {"flux": "flux", "sd3": "sd3", "sd3-short": "sd3"}
    lengths = {"sd3-short": 10}
    paths = [
        fake_run(tmp_path / name, family=family, name=name, num_train_steps=lengths.get(name, 1000), **given)
        for name, family in names.items()
    ]
    assert status(*paths, "--out", tmp_path / "out", "--records") == 0
    shown = {
        path: {one.path for pair in picture_pairs(load_run(path)) for one in pair.pictures.values()} for path in paths
    }
    kept = {path: {*(tmp_path / "out/runs" / path.name).rglob("*.png")} for path in paths}
    flux, longest, short = paths
    assert {path.relative_to(longest) for path in shown[longest]} == {
        path.relative_to(tmp_path / "out/runs/sd3") for path in kept[longest]
    }
    assert len(kept[flux]) >= len(shown[flux]) == len(kept[longest]) == 24 and not kept[short]


def test_a_run_at_the_target_is_never_replaced(tmp_path, monkeypatch, capsys):
    """`python -m reports results/runs/flux-mini --out . --records` where ./runs/flux-mini is the real run."""
    real = fake_run(tmp_path / "runs/flux-mini", num_prompts=1, pictures=True)
    keep_records(real, tmp_path / "results/runs/flux-mini")
    before = contents(real)
    monkeypatch.chdir(tmp_path)
    assert status("results/runs/flux-mini", "--out", ".", "--records") == 2
    assert contents(real) == before and not (tmp_path / "index.html").exists()
    assert "holds no kept records" in capsys.readouterr().err


@pytest.mark.parametrize("out", [".", "report", "..", "../.."])
def test_records_of_a_run_go_nowhere_near_it(tmp_path, monkeypatch, out):
    run = fake_run(tmp_path / "runs/flux-mini", num_prompts=1)
    before = contents(tmp_path)
    monkeypatch.chdir(run)
    assert status(run, "--out", out, "--records") == (0 if out == ".." else 2)
    if out != "..":  # beside the run there is room: runs/runs/flux-mini
        assert contents(tmp_path) == before
    assert contents(run) == {name[len("runs/flux-mini/") :]: data for name, data in before.items()}


def test_a_report_is_not_written_over_a_run(tmp_path, capsys):
    run = fake_run(tmp_path / "flux-mini", num_prompts=1)
    before = contents(run)
    assert status(run, "--out", run) == 2
    assert contents(run) == before and "give another --out" in capsys.readouterr().err


def test_kept_records_are_replaced_by_the_same_run_only_and_when_nothing_else_is_there(tmp_path):
    run, target = fake_run(tmp_path / "flux-mini", num_prompts=1), tmp_path / "out/runs/flux-mini"
    keep_records(run, target)
    (run / "scores/checks.json").write_text("[]")
    keep_records(run, target)
    assert (target / "scores/checks.json").is_file()
    other = fake_run(tmp_path / "other/flux-mini", num_prompts=1, seed=1)
    with pytest.raises(ValueError, match="records of another run"):
        keep_records(other, target)
    (target / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match=r"no kept records \(notes.txt\)"):
        keep_records(run, target)
    assert (target / "notes.txt").read_text() == "mine"
    assert not list(target.parent.glob(".writing-*"))


def test_one_target_that_is_refused_keeps_all_from_being_written(tmp_path):
    runs = [fake_run(tmp_path / f"flux-{k}", num_prompts=1) for k in (1, 2)]
    write_json(tmp_path / "out/runs/flux-2/mine.json", {})
    assert status(*runs, "--out", tmp_path / "out", "--records") == 2
    assert contents(tmp_path / "out") == {
        "runs/flux-2/mine.json": (tmp_path / "out/runs/flux-2/mine.json").read_bytes()
    }


def test_broken_gzip_is_named(run_dir, tmp_path):
    keep_records(run_dir, tmp_path / "kept")
    (tmp_path / "kept/transfer/log.jsonl.gz").write_bytes(b"no gzip")
    with pytest.raises(ValueError, match="log.jsonl.gz is no gzipped JSON Lines file"):
        load_run(tmp_path / "kept")
    assert read_json(tmp_path / "kept/kept.json")["corpus"]["num_traced"] == 24
