"""The miniature's DPG-Bench: question graphs from scenes, and the detector that answers them on rendered scenes."""

import numpy as np
import pytest
from PIL import Image

from bench.dpg.questions import read_questions
from bench.dpg.rules import VARIANTS, score_items
from bench.dpg.vqa import load_vqa
from bench.geneval.rules import COLORS
from reproduce.miniature.answers import accuracy, answerer
from reproduce.miniature.prompts import dense_prompt, has_held_out_pair
from reproduce.miniature.questions import dpg_scenes, dpg_suite, is_true, scene_questions, write_questions
from reproduce.miniature.render import render
from reproduce.miniature.scenes import SHAPES, Scene, SceneObject

SEED = 977


def thing(shape: str, color: str, x: float, y: float, radius: float = 0.17) -> SceneObject:
    return SceneObject(shape=shape, color=color, x=x, y=y, radius=radius)


SCENE = Scene(
    objects=(
        thing("ring", "brown", 0.2, 0.5, 0.13),
        thing("cross", "black", 0.8, 0.5, 0.2),
        thing("cross", "black", 0.5, 0.2),
    ),
    background="dark",
    background_rgb=(0.3, 0.3, 0.3),
)


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        ("Is there a ring?", True),
        ("Are there crosses?", True),
        ("Is there a star?", False),
        ("Is the ring brown?", True),
        ("Is the ring black?", False),
        ("Is the star black?", False),
        ("Is the ring small?", True),
        ("Are the crosses large?", False),  # one of two
        ("Are the black objects crosses?", True),
        ("Is the brown object a cross?", False),
        ("Is the white object a cross?", False),
        ("Is the ring left of the cross?", True),
        ("Is the ring right of the cross?", False),
        ("Is the background dark?", True),
        ("Is the background light?", False),
        ("Are there exactly two crosses?", True),
        ("Are there exactly three crosses?", False),
        ("Are there exactly three objects?", True),
    ],
)
def test_the_grammar_is_answered_from_the_scene(question, answer):
    assert is_true(question, SCENE.objects, SCENE.background) is answer


def test_a_question_outside_the_grammar_is_an_error():
    with pytest.raises(ValueError, match="no question of the miniature world"):
        is_true("Is the ring happy?", SCENE.objects, SCENE.background)


def test_every_question_is_true_of_its_own_scene_and_said_by_its_prompt():
    for scene in dpg_scenes(60, SEED).values():
        prompt = dense_prompt(scene)
        for asked in scene_questions(scene):
            assert is_true(asked.question, scene.objects, scene.background), (prompt, asked.question)
            said = [word for word in asked.question.rstrip("?").split() if word in (*SHAPES, *COLORS, "small", "large")]
            assert all(word in prompt for word in said), (prompt, asked.question)


def test_the_question_file_is_sound_and_covers_every_class(tmp_path):
    path = write_questions(tmp_path / "questions.csv", 60, SEED)
    file = read_questions(path, malformed="strict")
    assert not file.findings and len(file.items) == 60
    assert {q.broad_category for q in file.rows} == {"entity", "attribute", "relation", "global", "other"}
    assert {q.category for q in file.rows if q.broad_category == "attribute"} == {
        "attribute - color",
        "attribute - size",
        "attribute - shape",
    }
    for questions in file.items.values():
        by_id = {q.proposition_id: q for q in questions}
        for question in questions:
            assert all(parent < question.proposition_id for parent in question.parents)
            assert all(by_id[parent].broad_category == "entity" for parent in question.parents)
    assert [row["text"] for row in dpg_suite(60, SEED)] == list(file.prompts.values())
    assert write_questions(tmp_path / "again.csv", 60, SEED).read_bytes() == path.read_bytes()


def test_items_are_distinct_and_hold_no_held_out_pair():
    scenes = dpg_scenes(100, SEED)
    assert len({dense_prompt(scene) for scene in scenes.values()}) == 100
    assert not any(has_held_out_pair([(o.color, o.shape) for o in scene.objects]) for scene in scenes.values())


def test_the_detector_answers_rendered_scenes():
    """The ceiling of the miniature's DPG scores, on questions that are true and on questions that mostly are not."""
    figures = accuracy(answerer(), 80, SEED)
    assert figures["own"]["all"] >= 0.95 and figures["other"]["all"] >= 0.95
    always_yes = accuracy(lambda image, questions: ["yes"] * len(questions), 20, SEED)
    assert always_yes["own"]["all"] == 1.0 and always_yes["other"]["all"] < 0.5


def test_a_wrong_picture_loses_what_is_wrong(tmp_path):
    """The right picture scores 1 in every variant; with one object taken away its questions fall."""
    vqa = load_vqa("reproduce.miniature.answers:answerer")
    file = read_questions(write_questions(tmp_path / "questions.csv", 8, SEED))
    answers = {}
    for number, (item_id, scene) in enumerate(dpg_scenes(8, SEED).items()):
        drawn = Scene(
            objects=scene.objects[1:] if number == 7 else scene.objects,
            background=scene.background,
            background_rgb=scene.background_rgb,
        )
        image = Image.fromarray(np.asarray(render(drawn, 96)))  # twice the detector's size
        questions = file.items[item_id]
        given = vqa(image, [question.text for question in questions])
        answers[item_id] = [{q.proposition_id: answer for q, answer in zip(questions, given, strict=True)}]
    for variant in VARIANTS:
        values = [item.value for item in score_items(file, answers, variant=variant)]
        assert values[1:7] == [1.0] * 6
        assert values[7] < 1.0
