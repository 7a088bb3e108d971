"""Studies: arms are found by what their recipes differ in, and verdicts follow from their scores."""

from dataclasses import replace

import pytest

from bench.benchmarks import BENCHMARKS
from bench.records import read_json, write_json
from reports.claims import judge_claims
from reports.estimates import NoEvidenceError
from reports.paper import CLAIMS
from reports.runs import load_run, load_runs
from reports.studies import STUDIES, arms, contrast, families_kept
from tests.reports.fake_run import fake_run

CORPUS = {"prompts": "fixture:prompts", "num_prompts": 25, "images_per_prompt": 1, "seed": 0, "image_filter": None}
EVERYTHING = {"trainable": "all", "initial_weights": "random"}


def run(folder, accuracy, *, corpus=None, seed=0, study="one", **changes):
    recipe = {"study": study, "corpus": {**CORPUS, **(corpus or {})}, **changes.pop("recipe", {})}
    given = {"num_prompts": 40, "num_images": 1, **changes}
    return load_run(fake_run(folder, pixel_accuracy=accuracy, recipe=recipe, seed=seed, **given))


def scratch(folder, accuracy, steps, **changes):
    options = {**EVERYTHING, **changes.pop("options", {})}
    return run(folder, accuracy, options=options, num_train_steps=steps, trainable=2_000_000, **changes)


def judged(runs, claim):
    found = [judgement for judgement in judge_claims(runs, []) if judgement.claim.id == claim]
    assert len(found) == 1
    return found[0]


@pytest.mark.parametrize(("rendered", "verdict"), [(0.5, "reproduced"), (0.9, "not reproduced")])
def test_c3_is_source_made_minus_rendered(tmp_path, rendered, verdict):
    runs = [
        run(tmp_path / "own", 0.9, study=None),
        run(tmp_path / "rendered", rendered, corpus={"maker": "fixture:rendered"}),
        run(tmp_path / "other", 0.7, corpus={"maker": "weights/sd3"}),
    ]
    found = judged(runs, "C3")
    assert (found.verdict, found.family) == (verdict, "flux") and "own (1 seed) minus rendered" in found.why
    (settings,) = arms(runs, STUDIES["data-source"])
    assert list(settings) == ["the source itself", "sd3's source", "rendered scenes"]


def test_of_equal_runs_the_usual_recipes_counts_before_a_studys(tmp_path):
    again = run(tmp_path / "a-study", 0.9)
    runs = [again, run(tmp_path / "usual", 0.9, study=None), run(tmp_path / "size", 0.5, corpus={"num_prompts": 99})]
    (settings,) = arms(runs, STUDIES["data-size"])
    assert [member.name for member in settings["25 images"]] == ["usual"]


def test_what_differs_in_something_else_is_no_arm(tmp_path):
    own = run(tmp_path / "own", 0.9)
    maker = {"maker": "fixture:rendered"}
    other = run(tmp_path / "other", 0.5, corpus=maker, recipe={"resolution": 96})
    longer = run(tmp_path / "longer", 0.5, corpus=maker, num_train_steps=2000)
    assert judged([own, other, longer], "C3").verdict == "not tested"
    assert arms([own, other, longer], STUDIES["data-source"]) == []
    (settings,) = arms([own, other, longer], STUDIES["data-source"], lengths=True)
    assert [one.name for one in settings["rendered scenes"]] == ["longer"]


def test_a_quick_look_shows_nothing(tmp_path):
    own, rendered = run(tmp_path / "own", 0.9), run(tmp_path / "rendered", 0.5, corpus={"maker": "fixture:rendered"})
    manifest = read_json(rendered.path / "run.json")
    write_json(rendered.path / "run.json", {**manifest, "asked": {"limit": 64}})
    assert judged([own, rendered], "C3").verdict == "reproduced"
    assert judged([own, load_run(rendered.path)], "C3").verdict == "not tested"


def sizes(folder, accuracies):
    counts = (500, 2_000, 4_000, 20_000)
    return [
        run(folder / f"size{count}", accuracy, corpus={"num_prompts": count})
        for count, accuracy in zip(counts, accuracies, strict=True)
    ]


def test_c5_is_saturation(tmp_path):
    assert judged(sizes(tmp_path / "a", (0.3, 0.9, 0.9, 0.9)), "C5").verdict == "reproduced"
    found = judged(sizes(tmp_path / "b", (0.3, 0.5, 0.5, 0.9)), "C5")
    assert found.verdict == "not reproduced" and "from 4,000 images to 20,000 images" in found.why
    assert judged(sizes(tmp_path / "c", (0.3, 0.9, 0.9, 0.9))[:3], "C5").verdict == "not tested"


def test_c7_wants_a_model_trained_on_from_another(tmp_path):
    def pair(folder, start):
        return [
            run(
                folder / f"shift{shift}",
                accuracy,
                options={"shift": shift},
                recipe={"start": start, "l2p_sampler": {"shift": shift}},
            )
            for shift, accuracy in ((1.0, 0.4), (4.0, 0.8), (5.0, 0.7))
        ]

    assert judged(pair(tmp_path / "a", "runs/flux-mini/transfer/model"), "C7").verdict == "reproduced"
    assert judged(pair(tmp_path / "b", None), "C7").verdict == "not tested"


def test_c8_compares_how_far_seeds_lie_apart(tmp_path, monkeypatch):
    monkeypatch.setitem(BENCHMARKS, "diversity", replace(BENCHMARKS["geneval"], name="diversity"))

    def pair(folder, transfer, other):
        paths = [
            run(folder / "transfer", transfer, extra_suites=("geneval/diversity",)).path,
            scratch(folder / "scratch", other, 1000, extra_suites=("geneval/diversity",)).path,
        ]
        for path in paths:
            for subject in ("source", "l2p"):
                summary = path / f"scores/{subject}/geneval/diversity/summary.json"
                write_json(summary, {**read_json(summary), "benchmark": "diversity"})
        return load_runs(paths)

    assert judged(pair(tmp_path / "a", 0.8, 0.4), "C8").verdict == "reproduced"
    assert judged(pair(tmp_path / "b", 0.4, 0.8), "C8").verdict == "not reproduced"
    # The usual run is the same transfer, and has no diversity: it takes no one's place.
    usual = run(tmp_path / "flux-mini", 0.8, study=None)
    assert judged([usual, *pair(tmp_path / "c", 0.8, 0.4)], "C8").verdict == "reproduced"


def test_c10_divides_by_the_score_at_the_trained_resolution(tmp_path):
    def extrapolating(folder, scale=2):
        recipe = {"suites": [SUITE, {**SUITE, "name": "geneval_x2", "scale": scale}]}
        return run(folder, 0.9, recipe=recipe, extra_suites=("geneval_x2",))

    found = judged([extrapolating(tmp_path / "twice")], "C10")
    assert found.verdict == "reproduced" and found.evidence.value == pytest.approx(1, abs=0.15)
    assert "geneval_x2 divided by geneval" in found.why
    assert judged([extrapolating(tmp_path / "three", scale=3)], "C10").verdict == "not tested"


SUITE = {
    "name": "geneval",
    "title": "GenEval",
    "prompts": "fixture:geneval",
    "arguments": {},
    "images_per_prompt": 2,
    "benchmarks": ["geneval"],
}


def test_c12_gives_scratch_ten_times_the_images(tmp_path):
    transfer = run(tmp_path / "transfer", 0.85, study=None)
    equal = scratch(tmp_path / "scratch", 0.2, 1000)
    assert judged([transfer, equal], "C12").verdict == "not tested"
    better = scratch(tmp_path / "better", 0.99, 10_000)
    assert judged([transfer, equal, better], "C12").verdict == "not reproduced"
    worse = scratch(tmp_path / "worse", 0.6, 10_000, options={"learning_rate": 1.0})
    assert judged([transfer, equal, worse], "C12").verdict == "not tested"  # another learning rate: another study


def test_a_contrast_sums_both_sides_and_adds_the_spread_of_seeds(tmp_path):
    a, b = run(tmp_path / "a", 0.9), run(tmp_path / "b", 0.4)
    one, twice = contrast([[a]], [[b]]), contrast([[a], [a]], [[b], [b]])
    overall = [one_run.scored["l2p", "geneval"].summary.overall for one_run in (a, b)]
    assert one.value == pytest.approx(overall[0] - overall[1]) and twice.value == pytest.approx(2 * one.value)
    assert one.low < one.value < one.high
    assert contrast([[a]], [[a]]).high > 0.02, "a second seed of an equal recipe would not score the same"
    other = load_run(fake_run(tmp_path / "c", num_prompts=39, num_images=1))
    with pytest.raises(NoEvidenceError, match="do not pair"):
        contrast([[a]], [[other]])


def test_recipes_written_before_a_setting_was_known_are_the_same(tmp_path):
    before = run(tmp_path / "before", 0.9)
    after = run(tmp_path / "after", 0.9, corpus={"maker": None}, recipe={"start": None}, name="before", seed=1)
    rendered = run(tmp_path / "rendered", 0.5, corpus={"maker": "fixture:rendered"}, name="before")
    (settings,) = arms([before, after, rendered], STUDIES["data-source"])
    assert len(settings["the source itself"]) == 2


def test_families_are_those_of_the_code():
    from l2p.architectures import ARCHITECTURES
    from reports.paper import FAMILIES

    assert set(FAMILIES) == set(ARCHITECTURES)
    with pytest.raises(NoEvidenceError, match="flux: 0 of 3"):
        families_kept([])
    assert next(claim for claim in CLAIMS if claim.id == "C13").rule.bound == len(FAMILIES)
