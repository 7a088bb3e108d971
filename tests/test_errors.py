"""Every command with every place, number and word of its line gone wrong in turn: a sentence, nothing written.

A command stands here once, as a line that works; what its places, numbers and words are replaced by stands below. The
sentences themselves are held by `docs/errors.md` (`tests/noted.py`).
"""

import shutil
from dataclasses import dataclass
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import save_file

from bench.__main__ import main as bench
from bench.geneval import people
from bench.records import write_jsonl
from l2p.__main__ import main as l2p
from l2p.ending import run_command
from reports.__main__ import main as reports
from reports.cost.__main__ import main as reports_cost
from reports.readme import BEGIN, END
from reports.regression import study
from reproduce.__main__ import main as reproduce
from reproduce.miniature import answers, check, label, pretrain
from tests import noted as notes
from tests.bench.geneval.conftest import suite, write_images
from tests.ended import ended
from tests.reports.fake_run import fake_run
from tests.tiny import source, write_corpus

pytestmark = pytest.mark.usefixtures("noted")
DETECTOR, VQA = "tests.bench.commands:truthful", "tests.bench.dpg.test_bad_input:vqa_fine"
EXTRACTOR, SCORER = "tests.bench.fidelity.conftest:toy", "tests.bench.clip.test_clip:own"
NETWORK = "tests.bench.diversity.test_diversity:levels"


def of(app, name):
    """The `main` of a module whose command line is run by its last lines."""
    return lambda words: run_command(app, words, name=f"python -m {name}")


@dataclass(frozen=True, kw_only=True)
class Command:
    """A line that works, and what of it is replaced: a word in braces, an option by being added.

    `reads` are files and folders that are read, `fills` folders and `writes` files that are written; `counts`
    (whole), `numbers` (of any kind) and `words` are options.
    """

    main: object
    line: str
    reads: tuple[str, ...] = ()
    fills: tuple[str, ...] = ()
    writes: tuple[str, ...] = ()
    counts: tuple[str, ...] = ()
    numbers: tuple[str, ...] = ()
    words: tuple[str, ...] = ()


COMMANDS = {
    "bench geneval": Command(
        main=bench,
        line=f"geneval {{images}} --detector {DETECTOR} --prompts {{suite}} --expected 6x2 --device cpu --no-self-test"
        " --out {new}",
        reads=("images", "suite", "--self-test"),
        fills=("new",),
        writes=("--results-jsonl",),
        counts=("--batch-size", "--expected"),
        words=("--detector", "--device", "--clip", "--preprocessing"),
    ),
    "bench dpg": Command(
        main=bench,
        line=f"dpg {{grids}} --questions {{questions}} --vqa {VQA} --resolution 4 --device cpu --variant corrected"
        " --out {new}",
        reads=("grids", "questions"),
        fills=("new",),
        counts=("--resolution", "--pic-num"),
        words=("--variant", "--malformed", "--vqa", "--device"),
    ),
    "bench fidelity": Command(
        main=bench,
        line=f"fidelity {{pictures}} --reference {{real}} --extractor {EXTRACTOR} --device cpu --allow-few"
        " --out {new}",
        reads=("pictures", "--reference", "--order"),
        fills=("new",),
        counts=("--batch-size", "--num-patches"),
        words=("--metric", "--variant", "--extractor", "--device"),
    ),
    "bench fidelity stats": Command(
        main=bench,
        line=f"fidelity stats {{pictures}} --variant clean --extractor {EXTRACTOR} --device cpu --out new.safetensors",
        reads=("pictures", "--order"),
        counts=("--batch-size", "--size", "--patch-side"),
        words=("--variant", "--metric", "--extractor", "--out", "--device"),
    ),
    "bench clip": Command(
        main=bench,
        line=f"clip {{pictures}} --prompts {{captions}} --variant clip --scorer {SCORER} --device cpu --out {{new}}",
        reads=("pictures", "captions"),
        fills=("new",),
        counts=("--batch-size",),
        words=("--variant", "--scorer", "--device", "--caption"),
    ),
    "bench diversity": Command(
        main=bench,
        line=f"diversity {{images}} --judge {NETWORK} --device cpu --out {{new}}",
        reads=("images",),
        fills=("new",),
        counts=("--size",),
        words=("--judge", "--device"),
    ),
    "bench cost": Command(
        main=bench,
        line="cost --case vae-flux-64 --cache {new}",
        writes=("--json",),
        counts=("--batch-size", "--text-tokens", "--repeats", "--jobs"),
        words=("--case", "--dtype", "--roofline", "--measure"),
    ),
    "bench compare": Command(main=bench, line="compare {scores} {scores}", reads=("scores",), writes=("--out",)),
    "bench rescore": Command(
        main=bench,
        line="rescore {scores} --out {new}",
        reads=("scores",),
        fills=("new",),
        counts=("--max-objects",),
        numbers=("--score-threshold", "--counting-threshold", "--max-overlap", "--position-threshold"),
        words=("--benchmark",),
    ),
    "bench.geneval.people": Command(
        main=of(people.app, "bench.geneval.people"), line="{annotations}", reads=("annotations",)
    ),
    "l2p transfer": Command(
        main=l2p,
        line="transfer {source} {corpus} --patch-size 8 --num-train-steps 1 --num-validation-images 4"
        " --num-trainable-blocks 1 --max-sequence-length 12 --out {new}",
        reads=("source", "corpus", "--inherit"),
        fills=("new",),
        counts=(
            *("--patch-size", "--num-train-steps", "--batch-size", "--gradient-accumulation-steps"),
            *("--num-trainable-blocks", "--num-warmup-steps", "--num-decay-steps", "--max-sequence-length"),
            *("--resolution", "--num-validation-images", "--save-every", "--seed", "--num-inference-steps"),
        ),
        numbers=(
            *("--learning-rate", "--max-grad-norm", "--ema-decay", "--shift", "--prompt-dropout", "--guidance-scale"),
        ),
        words=("--prediction", "--input-projection", "--trainable", "--mixed-precision"),
    ),
    "l2p convert": Command(
        main=l2p,
        line="convert {source} --patch-size 8 --out {new}",
        reads=("source", "--weights", "--inherit", "--corpus"),
        fills=("new",),
        counts=("--patch-size",),
        words=("--dtype",),
    ),
    "l2p merge": Command(
        main=l2p,
        line="merge {source} {weights} --out {new}",
        reads=("source", "weights"),
        fills=("new",),
        words=("--dtype",),
    ),
    "l2p sample": Command(
        main=l2p,
        line="sample {pixels} prompt --height 16 --width 16 --num-inference-steps 1 --max-sequence-length 12"
        " --out {new}",
        reads=("pixels",),
        fills=("new",),
        counts=("--height", "--width", "--num-inference-steps", "--max-sequence-length", "--seed"),
        numbers=("--guidance-scale",),
        words=("--dtype",),
    ),
    "l2p inspect": Command(main=l2p, line="inspect {pixels}", reads=("pixels",)),
    "l2p inspect-corpus": Command(main=l2p, line="inspect-corpus {corpus}", reads=("corpus", "--against")),
    "reproduce": Command(
        main=reproduce,
        line="flux --recipe tests.reproduce.tiny:recipe --stage score --run {new}",
        reads=("--source", "--reuse"),
        fills=("new",),
        counts=("--seed", "--limit"),
        words=("--recipe", "--size", "--stage"),
    ),
    "reproduce prompts": Command(
        main=reproduce,
        line="prompts --num 3 --plan --out {prompts}",
        reads=("--dpg-questions",),
        writes=("prompts",),
        counts=("--num", "--seed", "--expand", "--max-tokens"),
        words=("--writer", "--verdict"),
    ),
    "reproduce study": Command(
        main=reproduce,
        line="study depth --plan",
        counts=("--seeds", "--limit"),
        words=("--family", "--arm"),
    ),
    "reports": Command(main=reports, line="{run} --out {new}", reads=("run", "--costs"), fills=("new",)),
    "reports regression": Command(
        main=reports,
        line="regression {run} {run}",
        reads=("run", "--baseline-run"),
        writes=("--out",),
        words=("--format",),
    ),
    "reports baseline": Command(
        main=reports, line="baseline {run} --out {prompts}", reads=("run",), writes=("prompts",)
    ),
    "reports readme": Command(main=reports, line="readme {run} --readme {page}", reads=("run", "page")),
    "reports scorecard": Command(
        main=reports, line="scorecard {run} --out {new}", reads=("run", "--costs"), fills=("new",)
    ),
    "reports tables": Command(main=reports, line="tables {run} --out {new}", reads=("run", "--costs"), fills=("new",)),
    "reports.cost": Command(main=reports_cost, line="{costs}", reads=("costs",)),
    "reports.regression.study": Command(
        main=of(study.app, "reports.regression.study"),
        line="{runs} --num-draws 1",
        reads=("runs",),
        counts=("--num-draws",),
    ),
    "reproduce.miniature.check": Command(
        main=of(check.app, "reproduce.miniature.check"),
        line="source --num-per-task 1 --num-inference-steps 1",
        reads=("--weights",),
        counts=("--num-per-task", "--num-inference-steps"),
        words=("--family", "--layout"),
    ),
    "reproduce.miniature.pretrain": Command(
        main=of(pretrain.app, "reproduce.miniature.pretrain"),
        line="source --num-steps 1 --out {new}",
        words=("--family", "--layout"),
    ),
    "reproduce.miniature.label": Command(
        main=of(label.app, "reproduce.miniature.label"),
        line="{images} --num 2 --out {new}",
        reads=("images", "--compare"),
        counts=("--num",),
    ),
    "reproduce.miniature.answers": Command(
        main=of(answers.app, "reproduce.miniature.answers"),
        line="--num-items 1",
        counts=("--num-items",),
        numbers=("--floor",),
    ),
}
READ = {  # what stands where a file or folder is read
    "nothing there": "absent",
    "an empty folder": "hollow",
    "an empty file": "empty",
    "a text": "text",
    "noise": "noise",
}
FILLED = {"a place below a file": "text/below", "a file": "text"}
WRITTEN = {"a place below a file": "text/below.jsonl", "a folder": "hollow"}
COUNTS = ("nan", "-1", "0", "x", "1000000000000000000000")
NUMBERS = ("nan", "inf", "x")
NOTHING = ("num-trainable-blocks", "num-warmup-steps", "num-decay-steps", "seed")
FINE = {*(f"l2p transfer: --{name} 0" for name in NOTHING)}  # which means something
FINE |= {f"{name}: --seed 0" for name in ("l2p sample", "reproduce", "reproduce prompts")}


def cases():
    """Every command with each of its parts replaced: its name, the part and what stands there."""
    for name, command in COMMANDS.items():
        for parts, values in (
            (command.reads, READ),
            (command.fills, FILLED),
            (command.writes, WRITTEN),
            (command.counts, COUNTS),
            (command.numbers, NUMBERS),
            (command.words, ("nonsense",)),
        ):
            for part in parts:
                for value in values:
                    if f"{name}: {part} {value}" not in FINE:
                        yield pytest.param(name, part, value, id=f"{name}: {part} {value}")


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """Good inputs of every command, and what else lies about; no command may touch any of it."""
    folder = tmp_path_factory.mktemp("places")
    (folder / "hollow").mkdir()
    (folder / "empty").touch()
    (folder / "text").write_text("once upon a time\n")
    (folder / "noise").write_bytes(bytes(range(256)))
    (folder / "page.md").write_text(f"{BEGIN}\n{END}\n")
    write_jsonl(folder / "suite.jsonl", suite(6))
    write_images(folder / "images", suite(6))
    columns = "item_id,text,proposition_id,dependency,tuple,question_natural_language"
    (folder / "questions.csv").write_text(f"{columns}\na,a,1,0,entity - whole (x),Is it?\n")
    (folder / "grids").mkdir()
    (folder / "grids" / "a.png").write_bytes((folder / "images/00000/samples/0000.png").read_bytes())
    fake_run(folder / "runs" / "run", num_prompts=1)
    source().save_pretrained(folder / "source")
    write_corpus(folder / "corpus")
    shutil.copytree(folder / "corpus/images", folder / "real")
    captions = ({"id": path.stem, "text": "a star"} for path in sorted((folder / "real").iterdir()))
    write_jsonl(folder / "captions.jsonl", captions)
    save_file({"a": torch.ones(4)}, folder / "weights.safetensors")
    given = _at(folder)
    done = ended(l2p, *_filled(COMMANDS["l2p convert"].line, {**given, "new": folder / "pixels"}))
    assert done.status == 0, done.err
    done = ended(bench, *_filled(COMMANDS["bench geneval"].line, {**given, "new": folder / "scores"}))
    assert done.status == 0, done.err
    before = _contents(folder)
    yield given
    assert _contents(folder) == before


def _at(folder):
    names = ("images", "grids", "source", "corpus", "pixels", "scores", "hollow", "runs", "real")
    files = {
        "suite": "suite.jsonl",
        "questions": "questions.csv",
        "weights": "weights.safetensors",
        "run": "runs/run",
        "page": "page.md",
        "pictures": "corpus/images",
        "captions": "captions.jsonl",
    }
    return {name: folder / name for name in names} | {name: folder / path for name, path in files.items()}


def _filled(line, given):
    return [word.format(**given) for word in line.split()]


def _contents(folder):
    return {path: path.read_bytes() if path.is_file() else None for path in sorted(folder.rglob("*"))}


@pytest.mark.parametrize(("command", "part", "value"), list(cases()))
def test_a_part_that_is_wrong_ends_in_a_sentence(command, part, value, places, tmp_path, tiny_source_at, monkeypatch):
    known, folder = COMMANDS[command], places["images"].parent
    monkeypatch.chdir(tmp_path)
    new = {"new": tmp_path / "new", "prompts": tmp_path / "new.jsonl", "costs": folder}
    given = {**new, "annotations": folder / "text", **places}
    there = (READ | FILLED | WRITTEN).get(value)
    wrong = folder / there if there else value
    if part.startswith("--"):
        words = [*_filled(known.line, given), part, str(wrong)]
    else:
        words = _filled(known.line, {**given, part: wrong})
    done = ended(known.main, *words)
    assert done.status == 2, (words, done)
    assert done.err.count("error: ") == 1 and "Traceback" not in done.output
    written = [path for path in tmp_path.rglob("*") if path.is_file() and path.name != ".lock"]
    assert not written, "a command that ends so may leave the empty folder of its results"


@pytest.fixture(scope="module")
def tiny_source_at(places):
    """$L2P_TINY_SOURCE, where the tests' recipe looks for its source."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("L2P_TINY_SOURCE", str(places["source"]))
        yield


def test_a_sentence_that_changed_is_refused():
    """The fixture that all bad inputs share would pass on a table that it does not read."""
    row = notes.Row(command="python -m bench dpg", given="--pic-num 9", status=2, sentence="give 1 | 4")
    text = notes.as_table([(row.command, row.line)])
    notes.refuse_unknown([row], text)
    assert notes.in_table(text) == {(row.command, row.line)}
    for other in ({"status": 4}, {"sentence": "give 1 | 5"}, {"command": "python -m bench geneval"}):
        with pytest.raises(AssertionError, match="--write-errors"):
            notes.refuse_unknown([notes.Row(**{**vars(row), **other})], text)


def test_a_sentence_is_told_as_any_machine_has_it(tmp_path_factory):
    folder, told = tmp_path_factory.getbasetemp(), partial(notes.portable, folder=tmp_path_factory.getbasetemp())
    assert told(f"{folder}/test_x0/images/a.png: {folder}/test_x0 is no folder") == "images/a.png: FOLDER is no folder"
    assert told("it has 12.31 GiB free\n  and more") == "it has … GiB free and more"
    assert told("sha256 0123456789ab, facade") == "sha256 …, facade"
    assert told("'x' is not on this machine; it has cpu, cuda, cuda:0.") == "'x' is not on this machine; it has …."


@pytest.mark.parametrize("parts", [1, 2])
def test_a_row_of_the_table_that_no_test_gives_fails_the_session(parts, monkeypatch):
    """In one process and in two of pytest-xdist, each with a part of the rows."""
    from tests import conftest

    rows = sorted(notes.in_table(notes.TABLE.read_text("utf-8")))
    monkeypatch.setattr(notes, "is_whole", lambda session: True)

    def ended(given):
        config = SimpleNamespace(stash=pytest.Stash(), getoption=lambda name: False)
        session = SimpleNamespace(config=config, testsfailed=0, exitstatus=pytest.ExitCode.OK)
        for part in range(parts) if parts > 1 else ():
            node = SimpleNamespace(config=config, workeroutput={"noted": (True, given[part::parts])})
            conftest.pytest_testnodedown(node)
        monkeypatch.setattr(notes, "SEEN", set(given) if parts == 1 else set())
        conftest.pytest_sessionfinish(session)
        return session.exitstatus, config.stash.get(conftest.STALE, [])

    assert ended(rows) == (pytest.ExitCode.OK, [])
    assert ended(rows[1:]) == (pytest.ExitCode.TESTS_FAILED, rows[:1])
