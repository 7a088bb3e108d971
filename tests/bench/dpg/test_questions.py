"""Question files: the layout, what is refused, what is only counted."""

import gzip

import pytest

from bench.dpg.questions import FINDINGS, cyclic_links, read_questions

GOOD = (
    "item_id,text,keywords,proposition_id,dependency,category_broad,category_detailed,tuple,question_natural_language\n"
    '7,"a cat, asleep",cat,1,0,entity,whole,entity - whole (cat),Is there a cat?\n'
    '7,"a cat, asleep",asleep,2,1,attribute,state,"attribute - state (cat, asleep)",Is the cat asleep?\n'
)


def test_plain_gzip_and_byte_order_mark_read_the_same(tmp_path):
    forms = {"a.csv": GOOD.encode(), "b.csv": b"\xef\xbb\xbf" + GOOD.encode(), "c.csv.gz": gzip.compress(GOOD.encode())}
    read = []
    for name, content in forms.items():
        (tmp_path / name).write_bytes(content)
        read.append(read_questions(tmp_path / name))
    first, second = read[0].items["7"]
    assert (first.category, first.parents, first.line) == ("entity - whole", (), 2)
    assert (second.category, second.broad_category, second.parents) == ("attribute - state", "attribute", (1,))
    assert read[0].prompts == {"7": "a cat, asleep"}
    assert read[0].rows == read[1].rows == read[2].rows
    assert read[0].sha256 == read[2].sha256


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("7,", "../7,", "can't name an image"),
        ("7,", "a/b,", "can't name an image"),
        ("7,", "..,", "can't name an image"),
        ("7,", "a\\b,", "can't name an image"),
        ("7,", ",", "can't name an image"),
        (",1,0,", ",x,0,", "line 2, item 7: proposition_id must be a number"),
        (",1,0,", ",0,0,", "proposition_id must be a number"),
        (",2,1,", ",1,1,", "line 3, item 7: proposition 1 stands in line 2 already"),
        ("Is there a cat?", " ", "line 2, item 7: the question is empty"),
        ("entity - whole (cat)", "(cat)", "names no category"),
        ("question_natural_language", "question", "lacks the columns question_natural_language"),
        (",Is the cat asleep?", "", "line 3: the row has too few cells"),
    ],
)
def test_broken_files_are_refused_with_the_place(tmp_path, old, new, message):
    path = tmp_path / "q.csv"
    path.write_text(GOOD.replace(old, new))
    with pytest.raises(ValueError, match=message):
        read_questions(path)


def test_unreadable_files_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="no file"):
        read_questions(tmp_path / "absent.csv")
    (tmp_path / "latin.csv").write_bytes(GOOD.replace("cat", "ca\u00e9").encode("latin-1"))
    with pytest.raises(ValueError, match="not UTF-8"):
        read_questions(tmp_path / "latin.csv")
    (tmp_path / "torn.csv.gz").write_bytes(gzip.compress(GOOD.encode())[:-12])
    with pytest.raises(ValueError, match="broken gzip"):
        read_questions(tmp_path / "torn.csv.gz")
    (tmp_path / "empty.csv").write_text(GOOD.splitlines()[0] + "\n")
    with pytest.raises(ValueError, match="no question"):
        read_questions(tmp_path / "empty.csv")


def test_malformed_cells_follow_the_choice(questions):
    rows = [("a", 1, 0), ("a", 2, "1, left"), ("b", 1, 0)]
    kept = questions(*rows)
    assert kept.items["a"][1].parents == () and kept.skipped == ()
    assert kept.finding_counts()["malformed dependency"] == {"questions": 1, "items": 1}
    assert str(kept.findings[0]) == "line 3, item a: malformed dependency in dependency '1, left'"
    assert questions(*rows, malformed="skip").skipped == ("a",)
    with pytest.raises(ValueError, match="line 3, item a: malformed dependency"):
        questions(*rows, malformed="strict")
    with pytest.raises(ValueError, match="known: strict, skip, no-parent"):
        questions(*rows, malformed="drop")


def test_odd_graphs_are_counted(questions):
    file = questions(("a", 1, "1"), ("a", 2, "3"), ("a", 3, "9"), ("b", 1, "3"), ("b", 2, "1"), ("b", 3, "2"))
    counts = {kind: count["questions"] for kind, count in file.finding_counts().items()}
    assert counts == {
        "malformed dependency": 0,
        "own id as parent": 1,
        "later id as parent": 2,
        "missing parent": 1,
        "cycle": 3,
    }
    assert cyclic_links(file.items["b"]) == {(1, 3), (2, 1), (3, 2)}
    assert cyclic_links(file.items["a"]) == {(1, 1)}


def test_dsg1k_holds_every_kind_of_dirt(recorded):
    """10 malformed rows of 8 items; 35 items with own ids as parents, 30 with later ones, one with a missing one."""
    file = read_questions(recorded / "dsg1k_questions.csv.gz")
    assert (len(file.items), len(file.rows)) == (1060, 8182)
    counts = file.finding_counts()
    assert set(counts) == set(FINDINGS)
    assert counts["malformed dependency"] == {"questions": 10, "items": 8}
    assert [counts[kind]["items"] for kind in FINDINGS[1:]] == [35, 30, 1, 3]
    skipped = read_questions(recorded / "dsg1k_questions.csv.gz", malformed="skip").skipped
    assert len(skipped) == 8 and "posescript_19" in skipped
