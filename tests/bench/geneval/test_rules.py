"""The rules against 2,000 verdicts of the published evaluator, and their corner cases."""

import gzip
import json

import pytest

from bench.geneval.rules import COLORS, Thresholds, box_iou, judge, keep, needs_color, relations
from bench.records import Detection


def found(label="cat", score=0.9, box=(0, 0, 10, 10), color=None):
    return Detection(label=label, box=box, score=score, color=color)


def asks(**clause):
    return {"tag": "t", "include": [{"class": "cat", "count": 1} | clause]}


def test_all_recorded_cases_agree_in_verdict_and_reason(recorded):
    with gzip.open(recorded / "geneval_rules_cases.jsonl.gz", "rt") as file:
        cases = [json.loads(line) for line in file]
    assert len(cases) == 2000
    for case in cases:
        detections = [
            Detection(label=d["cls"], box=tuple(d["box"]), score=d["score"], color=d["color"])
            for d in case["detections"]
        ]
        assert judge(case["metadata"], detections, Thresholds(**case["options"])) == (case["correct"], case["reason"])


def test_scores_must_be_above_the_threshold_of_their_task():
    assert judge(asks(), [found(score=0.3)]) == (False, "expected cat>=1, found 0")
    assert judge(asks(), [found(score=0.31)])[0]
    counting = {"tag": "counting", "include": [{"class": "cat", "count": 1}], "exclude": [{"class": "cat", "count": 2}]}
    assert not judge(counting, [found(score=0.9)])[0]
    assert judge(counting, [found(score=0.91), found(score=0.89)])[0]
    assert judge(counting, [found(score=0.91)] * 2) == (False, "expected cat<2, found 2")


def test_the_best_of_a_class_are_kept_and_later_wins_a_tie():
    many = [found(score=0.5 + i / 100) for i in range(20)]
    assert [d.score for d in keep(many, 0.3, 16, 1.0)["cat"]] == [d.score for d in many[:3:-1]]
    tied = [found(color="red"), found(color="blue")]
    assert judge(asks(color="blue"), tied)[0] and not judge(asks(color="red"), tied)[0]


def test_suppression_counts_pixels_with_their_edges():
    assert box_iou((0, 0, 9, 9), (0, 0, 9, 9)) == 1
    assert box_iou((0, 0, 9, 9), (10, 0, 19, 9)) == 0
    assert box_iou((0, 0, 9, 9), (9, 0, 18, 9)) == pytest.approx(10 / 190)  # one shared column
    near = [found(score=0.9), found(score=0.8, box=(0, 0, 10, 9)), found(score=0.7, box=(50, 50, 60, 60))]
    assert [d.score for d in keep(near, 0.3, 16, 0.9)["cat"]] == [0.9, 0.7]
    assert len(keep(near, 0.3, 16, 1.0)["cat"]) == 3


def test_relations_of_boxes():
    here = (0, 0, 10, 10)
    assert relations((100, 0, 110, 10), here) == ["right of"]
    assert relations(here, (100, 0, 110, 10)) == ["left of"]
    assert relations((0, 100, 10, 110), here) == ["below"]
    assert relations((100, 100, 110, 110), here) == ["right of", "below"]
    assert relations(here, here) == []
    assert relations((2, 0, 12, 10), here) == []  # within the margin of 0.1 x (10 + 10)
    assert relations((3.8, 0, 13.8, 10), here) == []  # (3.8 - 2) / 3.8 is below one half
    assert relations((4.2, 0, 14.2, 10), here) == ["right of"]


def test_a_target_that_failed_is_no_target():
    metadata = {
        "tag": "position",
        "include": [{"class": "dog", "count": 1}, {"class": "cat", "count": 1, "position": ["left of", 0]}],
    }
    assert judge(metadata, [found()]) == (False, "expected dog>=1, found 0\nno target for cat to be left of")


def test_a_colour_that_nobody_classified_is_an_error_not_a_miss():
    with pytest.raises(ValueError, match="classify colours first"):
        judge(asks(color="red"), [found()])


def test_the_colours_asked_for_suffice_at_any_thresholds():
    import itertools

    import numpy as np

    random = np.random.default_rng(0)
    for count in (1, 2, 3):
        metadata = {"tag": "t", "include": [{"class": "cat", "count": count, "color": "red"}]}
        boxes = random.integers(0, 40, (20, 4))
        boxes[:, 2:] += boxes[:, :2] + 1
        bare = [found(score=s, box=tuple(b)) for s, b in zip(random.uniform(0, 1, 20), boxes.tolist(), strict=True)]
        places = needs_color(metadata, bare)
        assert len(places) == (1 if count == 1 else 16)
        colored = [found(d.label, d.score, d.box, COLORS[i % 2]) if i in places else d for i, d in enumerate(bare)]
        for threshold, overlap, most in itertools.product((0.05, 0.3, 0.8), (0.1, 0.5, 1.0), (1, 4, 16)):
            try:
                judge(metadata, colored, Thresholds(score_threshold=threshold, max_overlap=overlap, max_objects=most))
            except ValueError:
                # only suppression among more than 16 candidates may look beyond them, and max_objects forbids that
                pytest.fail(f"colour missing at {threshold}, {overlap}, {most}")


def test_impossible_thresholds_are_refused():
    for wrong in ({"score_threshold": 0.01}, {"counting_threshold": 0.0}, {"max_overlap": 0.0}, {"max_objects": 0}):
        with pytest.raises(ValueError):
            Thresholds(**wrong)
