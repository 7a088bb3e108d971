"""GenEval's annotation files, in a small invented copy of their layout with both kinds of line break."""

import subprocess
import sys

import pytest

from bench.geneval.people import agreement, human_verdicts, read_annotations
from bench.geneval.prompts import as_prompts, generate

HEADER = (
    "HITId,Input.index,Input.prompt_id,Input.image_id,Input.image_url,Input.caption,Input.object_0_name,"
    "Input.object_1_name,Input.object_0_name_plural,Input.object_1_name_plural,Input.exclude,Answer.ee,"
    "Answer.task-color-0,Answer.task-color-1,Answer.task-count-0,Answer.task-count-1,Answer.task-objects,"
    "Answer.task-position-x,Answer.task-position-y,Answer.task-quality,Answer.task-real-0,Answer.task-real-1"
)
PROMPTS = as_prompts(generate())
POSITION = next(p for p in PROMPTS if p.category == "position" and p.spec["include"][1]["position"][0] == "above")
COUNTING = next(p for p in PROMPTS if p.category == "counting" and p.spec["include"][0]["count"] == 2)
COLORS = next(p for p in PROMPTS if p.category == "colors")


def line(prompt, image=0, counts=("1", ""), colors=("", ""), objects="things", position=("", "")):
    names = [clause["class"] for clause in prompt.spec["include"]] + [""]
    number = int(prompt.id)
    fields = [
        "H",
        f"{number}_{image}",
        str(number),
        str(image),
        "url",
        prompt.text,
        names[0],
        names[1],
        "",
        "",
        '"a,b"',
    ]
    return ",".join([*fields, "1.5", *colors, *counts, objects, *position, "4", "3.0", ""])


def written(tmp_path, *lines):
    path = tmp_path / "annotations.csv"
    path.write_bytes("\n".join([HEADER, *lines, ""]).encode())
    return path


def verdicts(tmp_path, *lines):
    return [v.verdicts for v in human_verdicts(read_annotations(written(tmp_path, *lines)), PROMPTS)]


def test_object_1_stands_where_people_say_seen_from_object_0(tmp_path):
    def seen(x, y):
        return line(POSITION, counts=("1", "1.0"), position=(x, y))

    answers = [seen("neither_x", "above"), seen("left", "above"), seen("neither_x", "below"), seen("left", "neither_y")]
    assert verdicts(tmp_path, *answers, seen("", "")) == [(True, True, False, False, False)]


def test_counts_are_exact_and_colours_may_be_several(tmp_path):
    assert verdicts(tmp_path, *[line(COUNTING, counts=(n, "")) for n in ("1", "2", "3", "5", "")]) == [
        (False, True, False, False, False)
    ]
    asked = COLORS.spec["include"][0]["color"]
    named = [f"gray|{asked}", asked, "gray", ""]
    assert verdicts(tmp_path, *[line(COLORS, colors=(c, "")) for c in named]) == [(True, True, False, False)]


def test_the_majority_decides():
    from bench.geneval.people import HumanVerdict

    assert HumanVerdict(prompt_id="0", index=0, verdicts=(True, True, False)).correct
    assert not HumanVerdict(prompt_id="0", index=0, verdicts=(True, False)).correct


def test_answers_with_line_breaks_stay_one_record(tmp_path):
    records = read_annotations(
        written(
            tmp_path,
            line(COUNTING, objects='"a cat\nand a dog"', counts=("2", "")),
            line(COUNTING, objects="a cat\nand a dog", counts=("2", "")),
            line(COUNTING, objects='"one, ""two""\r\n\r\nthree"', counts=("2", "")),
            line(COUNTING),
        )
    )
    assert [r["Answer.task-count-0"] for r in records] == ["2", "2", "2", "1"]
    assert records[1]["Answer.task-objects"] == "a cat and a dog"
    assert [len(r) for r in records] == [22] * 4


def test_broken_files_are_refused_by_line(tmp_path):
    with pytest.raises(ValueError, match="line 3: a record of 23 columns"):
        read_annotations(written(tmp_path, line(COUNTING), line(COUNTING) + ",more"))
    with pytest.raises(ValueError, match="line 2: the record ends early"):
        read_annotations(written(tmp_path, "H,1,2"))
    path = tmp_path / "other.csv"
    path.write_text("a,b\n")
    with pytest.raises(ValueError, match="no GenEval annotation file"):
        read_annotations(path)
    moved = line(COUNTING).replace(f",{int(COUNTING.id)},", ",3,")
    with pytest.raises(ValueError, match="not its own"):
        human_verdicts(read_annotations(written(tmp_path, moved)), PROMPTS)


def test_agreement_with_a_detectors_scores(tmp_path):
    records = read_annotations(written(tmp_path, *[line(COUNTING, image=i, counts=(str(i), "")) for i in (1, 2, 3)]))
    people = human_verdicts(records, PROMPTS)  # no, yes, no

    def rows(*values):
        return [{"prompt_id": COUNTING.id, "index": i, "value": v} for i, v in zip((1, 2, 3), values, strict=True)]

    assert agreement(people, rows(0.0, 1.0, 0.0)) == {"images": 3, "agreement": 1.0, "kappa": 1.0}
    assert agreement(people, rows(1.0, 1.0, 0.0))["agreement"] == pytest.approx(2 / 3)
    assert agreement(people, rows(0.0, None, 0.0))["images"] == 2
    with pytest.raises(ValueError, match="no image in common"):
        agreement(people, [])


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"counts": ("many", "")}, "line 3: the counts must be whole numbers"),
        ({"counts": ("nan", "")}, "line 3: the counts must be whole numbers"),
        ({"counts": ("1000000000", "")}, "line 3: the counts must be whole numbers up to 9999"),
        ({"position": ("beside", "")}, "line 3: a position must be one of left, right"),
        ({"image": "x"}, "line 3: prompt_id and image_id must be whole numbers"),
    ],
)
def test_cells_that_are_none_of_genevals_are_refused_by_line(tmp_path, change, told):
    with pytest.raises(ValueError, match=told):
        read_annotations(written(tmp_path, line(COUNTING), line(COUNTING, **change)))


def test_the_command_ends_in_a_sentence(tmp_path):
    path = written(tmp_path, "H,1,2")
    command = [sys.executable, "-m", "bench.geneval.people", str(path)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 2 and "Traceback" not in ended.stderr
    assert ended.stderr.startswith(f"error: {path}, line 2: the record ends early")
