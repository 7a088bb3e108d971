"""The three variants: recorded figures of the published script and of DSG, and what makes them differ."""

import csv
import gzip
import json
from collections import defaultdict

import numpy as np
import pytest
from scipy.stats import spearmanr

from bench.dpg.answers import read_answers
from bench.dpg.questions import read_questions
from bench.dpg.rules import VARIANTS, answer_counts, category_scores, overall_score, score_items

SOURCES = {
    "tifa160": "tifa",
    "stanford_paragraph": "paragraph",
    "localized_narratives": "paragraph",
    "countbench": "count",
    "vrd": "relation",
    "diffusiondb": "real_user",
    "midjourney": "real_user",
    "posescript": "pose",
    "whoops": "defying",
    "drawtext": "text",
}


def crops(*answers: str) -> list[dict[int, str]]:
    """Crops from words such as "yny": a letter a question, ids from 1."""
    return [{i: {"y": "yes", "n": "no"}[letter] for i, letter in enumerate(word, 1)} for word in answers]


def value(file, answers, variant, item="a", **options):
    (score,) = (s for s in score_items(file, answers, variant=variant, **options) if s.item_id == item)
    return score.value


@pytest.fixture(scope="module")
def published(recorded):
    file = read_questions(recorded / "dpg_rules_questions.csv")
    expected = json.loads((recorded / "dpg_rules_expected.json").read_text())
    return file, read_answers(recorded / "dpg_rules_answers.csv.gz", file), expected


def test_official_is_the_published_script(published):
    file, answers, expected = published
    items = score_items(file, answers, variant="official")
    assert overall_score(items) == pytest.approx(expected["official"]["score"], abs=1e-9)
    categories = expected["official"]["l1"] | expected["official"]["l2"]
    assert category_scores(items) == pytest.approx(categories, abs=1e-9)
    by_name = expected["item_scores"]
    assert {item.item_id for item in items if item.value is None} == {name for name, v in by_name.items() if v is None}
    assert all(item.value == pytest.approx(by_name[item.item_id], abs=1e-9) for item in items if item.value is not None)


def test_corrected_scores_every_item(published):
    file, answers, _ = published
    items = score_items(file, answers, variant="corrected")
    assert all(item.value is not None for item in items)
    assert answer_counts(answers)["normalised_to_yes"] > 0


@pytest.fixture(scope="module")
def dsg1k(recorded):
    """Answers of mPLUG by text-to-image model, in DSG-1k's own table."""
    answers = defaultdict(dict)
    with gzip.open(recorded / "dsg1k_mplug_answers.csv.gz", "rt", encoding="utf-8", newline="") as table:
        for row in csv.DictReader(table):
            crop = answers[row["t2i_model"]].setdefault(row["item_id"], [{}])[0]
            crop[int(row["question_id"])] = row["answer"]
    return dict(answers)


@pytest.mark.parametrize(("malformed", "overall", "num_scored"), [("no-parent", 83.13, 1059), ("skip", 83.02, 1051)])
def test_dsg_gives_the_known_figure(recorded, dsg1k, malformed, overall, num_scored):
    file = read_questions(recorded / "dsg1k_questions.csv.gz", malformed=malformed)
    items = score_items(file, dsg1k["sd2dot1"], variant="dsg")
    assert overall_score(items) == pytest.approx(overall, abs=0.005)
    assert sum(item.value is not None for item in items) == num_scored


def test_dsg_gives_the_known_figures_by_source(recorded, dsg1k):
    file = read_questions(recorded / "dsg1k_questions.csv.gz")
    by_source = defaultdict(list)
    for item in score_items(file, dsg1k["sd2dot1"], variant="dsg"):
        by_source[SOURCES[item.item_id.rpartition("_")[0]]].append(item)
    known = {"count": 73.7, "defying": 84.1, "paragraph": 89.9, "pose": 93.4, "real_user": 85.1}
    known |= {"relation": 43.7, "text": 86.0, "tifa": 93.9}
    assert {name: overall_score(items) for name, items in by_source.items()} == pytest.approx(known, abs=0.05)


def test_dsg_correlates_with_people_as_published(recorded, dsg1k):
    ratings = defaultdict(list)
    with gzip.open(recorded / "tifa160_likert.csv.gz", "rt", encoding="utf-8", newline="") as table:
        for row in csv.DictReader(table):
            ratings[row["t2i_model"], row["item_id"]].append(float(row["answer"]))
    file = read_questions(recorded / "dsg1k_questions.csv.gz")
    score = {
        (model, item.item_id): item.value
        for model, answers in dsg1k.items()
        for item in score_items(file, answers, variant="dsg")
    }
    pairs = [(score[key], np.mean(given)) for key, given in ratings.items()]
    assert len(pairs) == 800
    rho, _ = spearmanr([s or 0 for s, _ in pairs], [r for _, r in pairs])
    assert rho == pytest.approx(0.463, abs=0.001)
    answered = [pair for pair in pairs if pair[0] is not None]
    assert len(answered) == 795
    assert spearmanr(*zip(*answered, strict=True))[0] == pytest.approx(0.457, abs=0.001)


def test_the_gate_cascades_one_level_or_by_order(questions):
    """1 <- 2 <- 3 with 1 = no: DSG forgives 3 (its parent's raw answer is yes), the others do not."""
    file = questions(("z", 1, 0), ("a", 1, 0), ("a", 2, 1), ("a", 3, 2))
    answers = {"a": crops("nyy")}
    assert value(file, answers, "official") == 0
    assert value(file, answers, "corrected") == 0
    assert value(file, answers, "dsg") == pytest.approx(1 / 3)


def test_a_later_parent_gates_only_by_graph(questions):
    """2 -> 3 -> 1 with 1 = no: in file order 2 looks at 3 before 3 is zeroed."""
    file = questions(("z", 1, 0), ("a", 1, 0), ("a", 2, 3), ("a", 3, 1))
    answers = {"a": crops("nyy")}
    assert value(file, answers, "official") == pytest.approx(1 / 3)
    assert value(file, answers, "corrected") == 0


def test_corrected_ignores_loops_and_missing_parents(questions):
    file = questions(("a", 1, "1"), ("a", 2, "3"), ("a", 3, "2"), ("a", 4, "9"), ("a", 5, "3"))
    assert value(file, {"a": crops("ynyyy")}, "corrected") == pytest.approx(4 / 5)
    assert value(file, {"a": crops("yynyy")}, "corrected") == pytest.approx(3 / 5)  # 5 hangs on 3 by a sound link
    assert value(file, {"a": crops("nyyyy")}, "corrected") == pytest.approx(4 / 5)


def test_the_order_of_rows_changes_only_official(questions):
    rows = [("a", 1, 0), ("a", 2, 1), ("a", 3, 2), ("a", 4, 1)]
    answers = {"a": crops("ynyy", "yyny", "nyyy"), "z": crops("y", "y", "y")}
    forward = questions(("z", 1, 0), *rows)
    backward = questions(("z", 1, 0), *rows[::-1])
    for variant in ("corrected", "dsg"):
        assert value(forward, answers, variant) == value(backward, answers, variant)
    assert value(forward, answers, "official") != value(backward, answers, "official")


def test_official_repeats_the_defects(questions):
    """First row dropped, last crop's categories, no image without all parents, no id with a dot."""
    rows = [("a", 1, 0), ("a", 2, 0), ("b", 1, 0, "other - count (2)"), ("b", 2, "7"), ("c.d", 1, 0), ("e", 1, 0)]
    file = questions(*rows, ("e", 2, "1,7"))
    answers = {"a": crops("ny", "ny"), "b": crops("yy", "yy"), "c.d": crops("y", "y"), "e": crops("ny", "ny")}
    official = {item.item_id: item for item in score_items(file, answers, variant="official")}
    assert official["a"].value == 1.0  # its first question, answered no, is gone
    assert official["b"].value is None and "no parent 7" in official["b"].reason
    assert official["c.d"].value is None
    assert official["e"].value == 0.0  # the first parent fails, so the missing one is never asked for
    last = score_items(file, {"a": crops("nn", "ny")} | {k: answers[k] for k in "e"}, variant="official")
    assert category_scores(last)["entity"] == pytest.approx(100 * 2 / 3)  # a: y; e: n, y, of the last crop alone
    corrected = score_items(file, {"a": crops("nn", "ny")} | {k: answers[k] for k in "e"}, variant="corrected")
    assert category_scores(corrected)["entity"] == pytest.approx(100 * (1 + 2) / 8)


def test_official_keeps_only_the_last_block_of_a_scattered_item(questions):
    file = questions(("z", 1, 0), ("a", 1, 0), ("z", 2, 0), ("a", 2, 0))
    assert value(file, {"a": crops("ny")}, "official") == 1.0
    assert value(file, {"a": crops("ny")}, "corrected") == 0.5


@pytest.mark.parametrize(
    ("answer", "exact", "normalised"),
    [("yes", 1, 1), ("Yes", 0, 1), ("yes.", 0, 1), (" YES. ", 0, 1), ("no bus", 0, 0), ("yes it is", 0, 0), ("", 0, 0)],
)
def test_what_counts_as_yes(questions, answer, exact, normalised):
    file = questions(("z", 1, 0), ("a", 1, 0))
    answers = {"a": [{1: answer}]}
    assert value(file, answers, "official") == value(file, answers, "dsg") == exact
    assert value(file, answers, "corrected") == normalised
    counts = answer_counts(answers)
    assert counts == {"answers": 1, "normalised_to_yes": normalised - exact, "empty": int(not answer)}


def test_an_item_without_all_answers_is_unscored_and_named(questions):
    file = questions(("z", 1, 0), ("a", 1, 0), ("a", 2, 0), ("b", 1, 0), ("c", 1, 0))
    answers = {"z": crops("y", "y"), "a": crops("y", "yy"), "b": crops("y")}
    for variant in ("corrected", "dsg"):
        items = {item.item_id: item for item in score_items(file, answers, variant=variant)}
        assert [items[name].value for name in "zabc"] == [1.0, None, None, None]
        assert items["a"].reason == "unanswered: propositions 2"
        assert items["b"].reason == "unanswered: 1 of 2 images"
    assert overall_score(score_items(file, answers, variant="corrected")) == 100


def test_skip_leaves_the_malformed_item_unscored(questions):
    rows = (("z", 1, 0), ("a", 1, "2, left"), ("b", 1, 0))
    answers = {name: crops("y") for name in "zab"}
    assert value(questions(*rows), answers, "corrected") == 1.0
    assert value(questions(*rows, malformed="skip"), answers, "corrected") is None


def test_unknown_names_are_refused(questions):
    file = questions(("a", 1, 0))
    with pytest.raises(ValueError, match="known: official, corrected, dsg"):
        score_items(file, {}, variant="best")
    with pytest.raises(ValueError, match="answers of 1 items"):
        score_items(file, {"b": crops("y")}, variant="dsg")


@pytest.mark.parametrize("variant", VARIANTS)
def test_more_yes_never_scores_less(published, variant):
    """Turning a no into a yes can only raise an item."""
    file, answers, _ = published
    better = {
        item_id: [{i: "yes" if i % 3 == 0 else answer for i, answer in crop.items()} for crop in item]
        for item_id, item in answers.items()
    }
    before, after = (score_items(file, given, variant=variant) for given in (answers, better))
    assert all(a.value >= b.value for a, b in zip(after, before, strict=True) if b.value is not None)
