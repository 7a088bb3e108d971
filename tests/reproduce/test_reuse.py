"""What another run drew of the same inputs is taken from it, whole and unharmed, or not at all."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from reproduce.manifest import open_run
from reproduce.reuse import adopt, parts
from tests.reproduce import tiny
from tests.reproduce.conftest import tree

STAGES = ("--stage=corpus", "--stage=transfer", "--stage=sample")
RECIPE = ("flux", "--recipe", "tests.reproduce.tiny:recipe", *STAGES)
TAKEN = ("corpus", "samples/source/geneval", "samples/source/dpg")


@pytest.fixture(scope="module")
def first(child, tmp_path_factory) -> Path:
    """A run that drew everything itself."""
    run_dir = tmp_path_factory.mktemp("runs") / "first"
    code, output = child(tiny.command, *RECIPE, "--run", str(run_dir))
    assert code == 0, output
    assert "taken from" not in output
    return run_dir


@pytest.fixture
def donor(first, tmp_path) -> Path:
    """The only run of its folder; tests may harm it."""
    shutil.copytree(first, tmp_path / "runs" / "first")
    return tmp_path / "runs" / "first"


def adopted(
    recipe,
    run_dir: Path,
    asked: Path | None = None,
    source_sha256: str | None = None,
    stages: tuple[str, ...] = ("corpus", "sample"),
) -> dict:
    """What a new run would take for these stages, as if its corpus were the other's."""
    source = (
        source_sha256
        or json.loads(((asked or run_dir.parent / "first") / "run.json").read_text())["inputs"]["source_sha256"]
    )
    manifest = open_run(recipe, run_dir, source_sha256=source)
    there = json.loads(((asked or run_dir.parent / "first") / "run.json").read_text())
    for stage in stages:
        manifest["inputs"] |= {"corpus": there["inputs"]["corpus"]} if "inputs" in there else {}
        adopt(recipe, run_dir, stage, manifest, asked)
    assert json.loads((run_dir / "run.json").read_text())["reused"] == manifest["reused"]
    return manifest["reused"]


def test_a_run_beside_another_takes_its_pictures_and_ends_with_the_same_bytes(first, child):
    run_dir = first.parent / "seed1"
    code, output = child(tiny.command, *RECIPE, "--run", str(run_dir), "--seed", "1")
    assert code == 0, output
    assert output.count("taken from") == 3 and "source draws" not in output
    manifest = json.loads((run_dir / "run.json").read_text())
    assert manifest["reused"] == {
        "corpus": {"run": "first", "num_files": 16},
        "samples/source/geneval": {"run": "first", "num_files": 24},
        "samples/source/dpg": {"run": "first", "num_files": 8},
    }
    assert tree(run_dir, "corpus", "samples/source") == tree(first, "corpus", "samples/source")
    assert manifest["inputs"] == json.loads((first / "run.json").read_text())["inputs"]
    assert tree(run_dir, "samples/l2p") != tree(first, "samples/l2p")
    image = "corpus/images/000003-0.png"
    assert (run_dir / image).samefile(first / image)  # a link: no second copy on the disk


def test_an_equal_run_takes_the_transfer_and_what_it_drew_too(first, child):
    """As a study's arm that another study has: nothing is trained or drawn again, and a kill leaves no half of it."""
    run_dir = first.parent / "again"
    code, output = child(tiny.command_killed, "reproduce.reuse:_link", 18, *RECIPE, "--run", str(run_dir))
    assert code != 0 and (run_dir / ".transfer.taking").is_dir() and not (run_dir / "transfer").exists(), output
    code, output = child(tiny.command, *RECIPE, "--run", str(run_dir))
    assert code == 0, output
    manifest = json.loads((run_dir / "run.json").read_text())
    pixel = {f"samples/l2p/{suite}": num for suite, num in (("geneval", 24), ("dpg", 8))}
    assert {name: manifest["reused"][name]["num_files"] for name in pixel} == pixel
    assert manifest["reused"]["transfer"]["run"] == "first" and "draws" not in output and "training" not in output
    folders = ("corpus", "transfer/model", "samples")
    assert tree(run_dir, *folders) == tree(first, *folders)
    assert (run_dir / "transfer/summary.json").samefile(first / "transfer/summary.json")
    assert not list(run_dir.glob(".*taking"))


def test_a_studys_run_finds_the_usual_ones_and_other_studies(tiny_source, donor):
    runs = donor.parent
    source = json.loads((donor / "run.json").read_text())["inputs"]["source_sha256"]

    def finds(place: str) -> bool:
        manifest = open_run(tiny.recipe(), runs / place, source_sha256=source)
        adopt(tiny.recipe(), runs / place, "corpus", manifest, None)
        return "corpus" in manifest["reused"]

    assert finds("data-size-tiny/500")
    shutil.rmtree(runs / "data-size-tiny")
    (runs / "scratch-tiny").mkdir()
    shutil.move(donor, runs / "scratch-tiny" / "transfer-1")
    assert finds("depth-tiny/1+1-1") and not finds("elsewhere/run")


def test_a_transfer_that_was_begun_here_goes_on(tiny_source, donor):
    run_dir = donor.parent / "second"
    assert "transfer" not in adopted(tiny.recipe(), run_dir, stages=("corpus",))
    (run_dir / "transfer" / "state").mkdir(parents=True)
    assert "transfer" not in adopted(tiny.recipe(), run_dir, stages=("transfer",))
    (run_dir / "transfer" / "state").rmdir()
    (run_dir / "transfer").rmdir()
    assert "transfer" in adopted(tiny.recipe(), run_dir, stages=("transfer",))


def test_after_a_change_of_our_code_nothing_it_made_is_taken(tiny_source, donor, monkeypatch):
    """What the source drew is: its libraries are the same."""
    monkeypatch.setattr("reproduce.reuse.code_sha256", lambda: "another")
    taken = adopted(tiny.recipe(), donor.parent / "second", stages=("corpus", "transfer", "sample"))
    assert taken.keys() == set(TAKEN)


def test_a_transfer_on_images_of_ones_own_is_never_taken(tiny_source, tmp_path):
    """Nobody hashes them: the same names and captions may be other pictures."""
    small = tiny.recipe()
    manifest = {"inputs": {"source_sha256": "5" * 64, "corpus": {}}, "stages": {}, "allow_missing": False}
    assert len(parts(small, "transfer", tmp_path, manifest)) == 1
    own = replace(small, corpus=replace(small.corpus, folder=str(tmp_path)))
    assert parts(own, "transfer", tmp_path, manifest) == []
    assert parts(replace(small, start="../usual"), "transfer", tmp_path, manifest) == []
    mixed = {**manifest, "stages": {"transfer": {"mixed_processes": True}}}
    assert parts(small, "transfer", tmp_path, mixed) == []


@pytest.mark.parametrize("name", ["transfer/log.jsonl", "transfer/model/config.json"])
def test_a_harmed_transfer_that_was_taken_is_taken_again(tiny_source, donor, first, child, name):
    run_dir = donor.parent / "second"
    code, output = child(tiny.command, *RECIPE, "--run", str(run_dir))
    assert code == 0 and "transfer" in json.loads((run_dir / "run.json").read_text())["reused"], output
    (run_dir / name).unlink()
    code, output = child(tiny.command, *RECIPE, "--run", str(run_dir))
    assert code == 0 and "1 missing" in output, output
    assert "transfer" in json.loads((run_dir / "run.json").read_text())["reused"]
    assert tree(run_dir, "transfer/model", "samples") == tree(first, "transfer/model", "samples")


@pytest.mark.parametrize(
    ("name", "value"), [("seed", 1), ("learning_rate", 2e-2), ("num_train_steps", 11), ("trainable", "all")]
)
def test_another_transfer_is_not_taken(tiny_source, donor, name, value):
    other = replace(tiny.recipe(), transfer=replace(tiny.recipe().transfer, **{name: value}))
    assert "transfer" not in adopted(other, donor.parent / "second", stages=("corpus", "transfer"))


def test_files_are_copied_where_there_are_no_links(tiny_source, donor, monkeypatch):
    def refuse(*_arguments, **_options):
        raise OSError("no links here")

    monkeypatch.setattr("os.link", refuse)
    run_dir = donor.parent / "second"
    assert adopted(tiny.recipe(), run_dir).keys() == set(TAKEN)
    image = "corpus/images/000003-0.png"
    assert not (run_dir / image).samefile(donor / image)
    assert tree(run_dir, "corpus/images") == tree(donor, "corpus/images")


def test_a_run_elsewhere_is_asked_for_by_name(tiny_source, donor, tmp_path):
    assert adopted(tiny.recipe(), tmp_path / "elsewhere" / "run", asked=donor).keys() == set(TAKEN)


SAMPLER = tiny.SAMPLER
OTHERS = {
    "sampler": (
        lambda recipe: replace(recipe, source_sampler=replace(SAMPLER, guidance_scale=2.0)),
        set(),
        "guidance_scale 3.0 there, 2.0 here",
    ),
    "batch": (lambda recipe: replace(recipe, source_sampler=replace(SAMPLER, batch_size=8)), set(), "batch_size"),
    "corpus seed": (
        lambda recipe: replace(recipe, corpus=replace(recipe.corpus, seed=7)),
        set(TAKEN[1:]),
        "prompts_sha256",
    ),
    "sample seed": (lambda recipe: replace(recipe, sample_seed=7), {"corpus"}, "prompts_sha256"),
    "transfer": (lambda recipe: replace(recipe, transfer=replace(recipe.transfer, batch_size=2)), set(TAKEN), ""),
}


@pytest.mark.parametrize("what", OTHERS)
def test_only_what_depends_on_the_same_inputs_is_taken(tiny_source, donor, tmp_path, capsys, what):
    change, taken, told = OTHERS[what]
    assert adopted(change(tiny.recipe()), tmp_path / "elsewhere" / "run", asked=donor).keys() == taken
    assert told in " ".join(capsys.readouterr().err.split())
    if len(taken) < len(TAKEN):
        assert not (tmp_path / "elsewhere/run" / (set(TAKEN) - taken).pop()).exists()


def test_another_source_s_pictures_are_not_taken(tiny_source, donor):
    assert adopted(tiny.recipe(), donor.parent / "second", source_sha256="0" * 64) == {}


@pytest.mark.parametrize("harm", ["changed", "missing"])
def test_a_damaged_part_is_not_taken_and_that_is_told(tiny_source, donor, capsys, harm):
    image = donor / "corpus/images/000003-0.png"
    content = image.read_bytes()
    image.unlink()  # the first run's file is linked no more
    if harm == "changed":
        image.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert adopted(tiny.recipe(), donor.parent / "second").keys() == set(TAKEN[1:])
    told = " ".join(capsys.readouterr().err.split())
    assert (
        "corpus: not taken from" in told
        and ("have changed" if harm == "changed" else "1 of 16 files are missing") in told
    )
    assert not (donor.parent / "second" / "corpus").exists()


def test_a_folder_of_another_format_is_passed_over(tiny_source, donor):
    (donor / "run.json").write_text(json.dumps({"format": 1}))
    assert adopted(tiny.recipe(), donor.parent / "second", source_sha256="0" * 64) == {}
