"""The paper's prompts: what the grammar writes, what the audit rejects, how a run ends and goes on."""

import json
from collections import Counter
from dataclasses import replace

import pytest

from reproduce import preflight
from reproduce.prompts.audit import Auditor, ask_verdicts, num_sentences
from reproduce.prompts.briefs import draw_brief
from reproduce.prompts.grammar import with_article, write_one
from reproduce.prompts.make import PromptsConfig, beside, known_prompts, make_prompts
from reproduce.prompts.replies import read_reply
from reproduce.prompts.taxonomy import expand, load_taxonomy, num_categories, to_rows
from reproduce.prompts.writers import by_model
from reproduce.recipes import find_recipe

GOOD = "A red fox is stepping over a fallen log in a misty pine forest."


def row(text=GOOD, kind="simple", rendered=None):
    return {"text": text, "kind": kind, "rendered": rendered, "category": "Nature/Animals/red fox"}


def test_the_seed_has_the_papers_classes_and_subclasses_and_enough_categories():
    groups = load_taxonomy()
    subclasses = {(group.major, group.sub) for group in groups}
    assert Counter(major for major, _ in subclasses) == {"Nature": 7, "Design": 6, "People": 4, "Synthetic": 3}
    assert num_categories(groups) >= 400
    for group in groups:
        assert len(set(group.subjects)) == len(group.subjects) and len(group.details) >= 4, group.name
        assert bool(group.inscriptions) == bool(group.english or group.chinese), group.name


@pytest.fixture(scope="module")
def drawn():
    groups = load_taxonomy()
    briefs = [draw_brief(groups, 0, number) for number in range(2000)]
    return briefs, [write_one(brief) for brief in briefs]


def test_the_grammars_prompts_pass_the_rules_and_are_as_long_as_the_papers(drawn):
    briefs, texts = drawn
    auditor = Auditor(known_prompts(None))
    rejected = []
    for brief, text in zip(briefs, texts, strict=True):
        found = auditor({"text": text, "kind": brief.kind, "rendered": brief.text})
        rejected += [(text, *found)] if found else []
    assert all(rule == "duplicate" for _, rule, _ in rejected), rejected[:3]
    assert len(rejected) < 0.02 * len(texts)
    detailed = [len(text) for brief, text in zip(briefs, texts, strict=True) if brief.kind == "detailed"]
    assert sum(200 <= length <= 350 for length in detailed) > 0.75 * len(detailed)


def test_the_grammar_agrees_in_number_and_article(drawn):
    assert [with_article(noun) for noun in ("owl", "hourglass", "unicycle", "fox", "*red tulips")] == [
        "an owl",
        "an hourglass",
        "a unicycle",
        "a fox",
        "red tulips",
    ]
    briefs, texts = drawn
    for brief, text in zip(briefs, texts, strict=True):
        if brief.subject.startswith("*"):
            noun = brief.subject[1:]
            assert f"{noun} is " not in text and f"a {noun}" not in text.lower(), text


def test_same_seed_same_prompt_and_every_category_before_any_twice():
    groups = load_taxonomy()
    num = num_categories(groups)
    briefs = [draw_brief(groups, 3, number) for number in range(num)]
    assert len({brief.category for brief in briefs}) == num
    assert write_one(briefs[5]) == write_one(draw_brief(groups, 3, 5))
    assert [brief.category for brief in briefs] != [draw_brief(groups, 4, n).category for n in range(num)]


@pytest.mark.parametrize(
    ("rule", "bad"),
    [
        ("format", row("")),
        ("format", row("a red fox is stepping over a fallen log.")),
        ("format", row("Prompt: a red fox steps over a log.")),
        ("format", row("A red fox is stepping over a fallen log in the snow")),
        ("format", row("A red fox is stepping over the the log in a forest.")),
        ("format", row("A fox, forest, snow, soft light, highly detailed, sharp, cinematic.")),
        ("format", row("One line.\nAnother line of the prompt.")),
        ("format", row(GOOD, kind="detailed")),
        ("quotes", row('A wooden sign on a door reads "OPEN.')),
        ("quotes", row("A wooden sign on a door reads “OPEN DAILY”.", rendered="OPEN DAILY")),
        ("quotes", row('A wooden sign on a door reads "CLOSED".', rendered="OPEN DAILY")),
        ("quotes", row('A wooden sign on a door reads "OPEN".')),
        ("length", row("A small fox.")),
        ("length", row("A fox " + "walks slowly through deep snow and " * 12 + "rests.")),
        ("safety", row("A naked man is standing in a quiet forest at dusk.")),
        ("copyright", row("A statue of Mickey Mouse is standing in a quiet park.")),
        ("overlap", row("In the morning, this is a photo of a bench.")),
    ],
)
def test_each_rule_rejects_what_it_is_for(rule, bad):
    found = Auditor(known_prompts(None))(bad)
    assert found is not None and found[0] == rule, found


def test_near_duplicates_are_rejected_and_overlaps_are_kept_on_demand():
    auditor = Auditor(known_prompts(None), keep_overlap=True)
    assert auditor(row()) is None
    assert auditor(row())[0] == "duplicate"
    assert auditor(row("In the morning, this is a photo of a bench.")) is None
    assert auditor.num_overlaps == {"GenEval": 1}


def test_sentences_are_counted_without_those_in_quotes():
    assert num_sentences('A sign reads "Stop. Look. Listen!". It is red.') == 2


def test_replies_are_read_with_talk_and_fences_and_never_guessed():
    assert read_reply('Sure!\n```json\n{"prompt": "A \\"red\\" fox."}\n```', "prompt") == 'A "red" fox.'
    assert read_reply("{broken {", "prompt") is None
    assert ask_verdicts(lambda asked: ["yes, fine"], ["A fox."])[0]["is_valid"] is False
    assert ask_verdicts(lambda asked: ['{"is_valid": true, "reason": ""}'], ["A fox."])[0]["is_valid"] is True


def test_a_model_expands_the_taxonomy_and_one_that_cannot_is_told():
    groups = load_taxonomy()[:2]
    asked = []

    def model(questions):
        asked.extend(questions)
        names = [f"creature {len(asked)}-{i}" for i in range(20)]
        return [json.dumps({"categories": [name + str(j) for name in names]}) for j in range(len(questions))]

    grown = expand(groups, model, 50)
    assert num_categories(grown) >= 50 and grown[0].subjects[: len(groups[0].subjects)] == groups[0].subjects
    assert groups[0].subjects[0] in asked[0]
    assert [row["class"] for row in to_rows(grown)] == ["Nature", "Nature"]
    with pytest.raises(ValueError, match="try another model"):
        expand(groups, lambda questions: ["no"] * len(questions), 50)


def config(tmp_path, **changed):
    return replace(PromptsConfig(num=120, out=tmp_path / "corpus.jsonl"), **changed)


def lines(path):
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def test_a_run_writes_rows_with_their_provenance_report_and_picture(tmp_path):
    make_prompts(config(tmp_path))
    rows = lines(tmp_path / "corpus.jsonl")
    assert len(rows) == 120 and len({row["text"] for row in rows}) == 120
    assert rows[0].keys() == {"text", "category", "number", "kind", "rendered", "writer", "seed"}
    assert "| all | 120 |" in beside(tmp_path / "corpus.jsonl", "report.md").read_text()
    assert beside(tmp_path / "corpus.jsonl", "lengths.png").stat().st_size > 1000


def test_a_killed_writer_loses_nothing_and_a_larger_number_adds(tmp_path):
    make_prompts(config(tmp_path / "whole"))
    make_prompts(config(tmp_path / "part", num=50))
    out = tmp_path / "part/corpus.jsonl"
    out.unlink()  # as if it had been killed before the end, in the middle of a row
    with beside(out, "written.jsonl").open("a") as file:
        file.write('{"text": "half a ro')
    make_prompts(config(tmp_path / "part"))
    assert out.read_bytes() == (tmp_path / "whole/corpus.jsonl").read_bytes()


def test_other_settings_and_files_of_others_are_refused(tmp_path):
    make_prompts(config(tmp_path, num=10))
    with pytest.raises(ValueError, match="seed 0, now 1"):
        make_prompts(config(tmp_path, seed=1))
    (tmp_path / "mine.jsonl").write_text("{}\n")
    with pytest.raises(ValueError, match="not made by this command"):
        make_prompts(config(tmp_path, out=tmp_path / "mine.jsonl"))
    with pytest.raises(ValueError, match="unknown model 'magic'"):
        make_prompts(config(tmp_path, out=tmp_path / "other.jsonl", writer="magic"))
    make_prompts(config(tmp_path, num=10, out=tmp_path / "other.jsonl"))  # the wrong name has left nothing


def test_a_models_prompts_are_audited_and_nonsense_ends_the_run(tmp_path, monkeypatch):
    def load(names):
        monkeypatch.setattr("reproduce.prompts.models.load_model", lambda name, **_: names[name])

    def talker(questions):
        return ["I cannot help with that."] * len(questions)

    load({"openai:talker": talker})
    with pytest.raises(ValueError, match="all rejected"):
        make_prompts(config(tmp_path, writer="openai:talker"))
    kept = lines(beside(tmp_path / "corpus.jsonl", "written.jsonl"))
    assert len(kept) >= 200 and kept[0]["reply"] == "I cannot help with that."


def test_a_models_verdict_rejects_with_its_reason_and_is_asked_once(tmp_path, monkeypatch):
    asked = []

    def judge(questions):
        asked.extend(questions)
        return [json.dumps({"is_valid": "fox" not in q, "reason": "no foxes"}) for q in questions]

    monkeypatch.setattr("reproduce.prompts.models.load_model", lambda name, **_: judge)
    make_prompts(config(tmp_path, num=900, verdict="openai:judge"))
    rejected = [row for row in lines(beside(tmp_path / "corpus.jsonl", "rejected.jsonl")) if row["rule"] == "verdict"]
    assert rejected and all("fox" in row["text"] and row["reason"] == "no foxes" for row in rejected)
    before = len(asked)
    make_prompts(config(tmp_path, num=900, verdict="openai:judge"))
    assert len(asked) == before


def test_a_model_is_told_the_text_that_it_must_quote():
    brief = next(b for b in (draw_brief(load_taxonomy(), 0, n) for n in range(200)) if b.text)
    told = []

    def model(questions):
        told.extend(questions)
        return ['{"prompt": "A sign."}', "nothing"]

    assert by_model(model)([brief, brief]) == [("A sign.", None), ("", "nothing")]
    assert brief.text in told[0] and brief.subject.lstrip("*") in told[0]


def test_the_papers_recipe_makes_its_own_prompts(tmp_path, monkeypatch):
    from reproduce.run import make_missing

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("reproduce.run.PAPER_NUM", 30)
    monkeypatch.setattr(preflight, "load_function", lambda name: None)
    recipe = find_recipe("flux", size="paper")
    preflight.check_names(recipe)  # the file is not there, and that is no error
    make_missing(replace(recipe, corpus=replace(recipe.corpus, num_prompts=4)))  # a quick look
    assert len(lines(tmp_path / "prompts/corpus.jsonl")) == 30
