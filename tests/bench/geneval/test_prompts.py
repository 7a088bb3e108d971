"""The official suite is drawn again exactly; other suites are checked before anything is scored with them."""

import json

import pytest

from bench.geneval.prompts import OBJECT_NAMES, OFFICIAL_SHA256, as_prompts, generate, suite_sha256, write_suite
from bench.geneval.rules import TASKS


def test_the_official_553_in_their_order(recorded):
    with open(recorded / "geneval_metadata.jsonl") as file:
        lines = file.read().splitlines()
    assert [json.dumps(entry) for entry in generate()] == lines
    assert suite_sha256(generate()) == OFFICIAL_SHA256
    assert list(OBJECT_NAMES) == (recorded / "geneval_object_names.txt").read_text().split("\n")[:80]


def test_another_seed_gives_another_suite_of_the_same_making():
    other = generate(seed=7, num_per_task=30)
    assert other != generate(num_per_task=30)
    assert {entry["tag"] for entry in other} == set(TASKS)
    assert len({json.dumps(entry) for entry in other}) == len(other) == len(as_prompts(other))
    with pytest.raises(ValueError):
        generate(num_per_task=0)


def test_a_suite_is_laid_out_once(tmp_path):
    assert write_suite(tmp_path) == 553
    assert json.loads((tmp_path / "00552" / "metadata.jsonl").read_text()) == generate()[552]
    assert (tmp_path / "00000" / "samples").is_dir()
    assert write_suite(tmp_path) == 553  # the same again is fine
    with pytest.raises(ValueError, match="another prompt"):
        write_suite(tmp_path, generate(seed=1))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"include": []}, "at least one object"),
        ({"include": [{"class": "cat", "count": 0}]}, "at least 1"),
        ({"include": [{"class": "cat", "count": 1, "color": "mauve"}]}, "unknown colour"),
        ({"include": [{"class": "cat", "count": 1, "position": ["left of", 0]}]}, "earlier object"),
        ({"include": [{"class": "cat", "count": 1, "position": ["behind", 0]}]}, "relation"),
        ({"tag": None}, "object with"),
    ],
)
def test_an_entry_that_cannot_be_judged_is_named(change, told):
    good = {"tag": "single_object", "include": [{"class": "cat", "count": 1}], "prompt": "a photo of a cat"}
    with pytest.raises(ValueError, match=f"prompt 00001.*{told}"):
        as_prompts([good, good | change])


def test_prompts_never_name_files(tmp_path):
    evil = "../../evil <script>alert(1)</script> [bold]cat"
    entry = {"tag": "../x", "include": [{"class": "cat", "count": 1}], "prompt": evil}
    write_suite(tmp_path / "suite", [entry])
    names = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*"))
    assert names == [
        "suite",
        "suite/00000",
        "suite/00000/metadata.jsonl",
        "suite/00000/samples",
        "suite/evaluation_metadata.jsonl",
    ]
