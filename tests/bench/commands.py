"""`python -m bench geneval` on a small folder, as several tests run it."""

from bench.__main__ import main
from bench.records import Detection, read_jsonl, write_jsonl

from .geneval.conftest import TruthfulDetector

HERE = "tests.bench.commands"
ASKED = []


def truthful():
    """A loader of a detector that finds what the image says, and counts what it is asked."""
    detector = TruthfulDetector()

    def ask(images):
        ASKED.extend(images)
        return detector(images)

    return ask


def found(score=0.9, box=(0, 0, 4, 4), label="circle", color="red"):
    return Detection(label=label, box=box, score=score, color=color)


def geneval(tmp_path, *more, detector=f"{HERE}:truthful", images="images", out="out"):
    where = ["geneval", str(tmp_path / images), "--detector", detector, "--out", str(tmp_path / out)]
    given = ["--prompts", str(tmp_path / "suite.jsonl"), "--expected", "6x2", "--device", "cpu", "--no-self-test"]
    return main([*where, *given, *more])


def told(capsys):
    """The error, which is one that a person can read."""
    error = capsys.readouterr().err
    assert "error: " in error and "Traceback" not in error
    return error[error.index("error: ") :]


def contents(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def cut(path):
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[: len(lines) // 2]))


def changed(name, change):
    def spoil(out):
        rows = read_jsonl(out / name)
        change(rows)
        write_jsonl(out / name, rows)

    return spoil
