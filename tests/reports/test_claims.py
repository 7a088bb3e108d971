"""Verdicts follow from files: each case changes the files and sees the verdict change."""

import shutil
from dataclasses import replace

import pytest

from bench.records import read_json, read_jsonl, write_json, write_jsonl
from reports.claims import apply_rule, judge_claims, to_rows, write_claims
from reports.evidence import Evidence, judging_group
from reports.paper import FAMILIES, Rule
from reports.runs import load_run, load_runs
from tests.reports.fake_run import fake_run, predicted_4k

OTHER_INPUTS = {
    "source_sha256": "other",
    "corpus": {"metadata_sha256": "other"},
    "judges": {"geneval": "other"},
}
KEYS = ["id", "statement", "part", "criterion", "scope", "family", "world", "verdict", "value", "ci95", "n", "source"]


def verdicts(runs, costs=()):
    return {judgement.claim.id: judgement for judgement in judge_claims(runs, list(costs))}


def edit(path, **changes):
    write_json(path, {**read_json(path), **changes})


@pytest.mark.parametrize(
    ("relation", "low", "value", "high", "expected"),
    [
        ("reaches", 0.80, 0.85, 0.90, "reproduced"),
        ("reaches", 0.80, 0.84, 0.87, "not reproduced"),
        ("reaches", 0.60, 0.84, 1.10, "not tested"),  # passes, but 0.5 wide
        ("reaches", 0.10, 0.30, 0.60, "not reproduced"),  # wide, but clear
        ("above", 0.88, 0.90, 0.92, "not reproduced"),
        ("above", 0.89, 0.90, 0.92, "reproduced"),
        ("at most", 0.0, 0.88, 9.9, "reproduced"),
        ("at least", 0.0, 0.87, 9.9, "not reproduced"),
    ],
)
def test_rules(relation, low, value, high, expected):
    max_width = 0.25 if relation == "reaches" else None
    rule = Rule(quantity="x", relation=relation, bound=0.88, max_width=max_width)
    evidence = Evidence(value=value, ci95=(low, high), n=1, why="", num_clusters=30)
    assert apply_rule(rule, evidence)[0] == expected
    assert apply_rule(rule, replace(evidence, num_clusters=29))[0] == "not tested"


@pytest.mark.parametrize(("accuracy", "expected"), [(0.85, "reproduced"), (0.5, "not reproduced")])
def test_c1_and_c14_follow_the_scores(tmp_path, accuracy, expected):
    run = load_run(fake_run(tmp_path / "flux-mini", pixel_accuracy=accuracy, num_prompts=40, num_images=1))
    judged = verdicts([run])
    assert judged["C1"].verdict == judged["C14"].verdict == expected
    assert judged["C1"].evidence.n == 240


def test_too_few_images_decide_nothing(tmp_path):
    """Five equal items decide nothing, however narrow their interval."""
    path = fake_run(tmp_path / "flux-mini", num_prompts=6, num_images=1)
    for subject, value in (("source", 0.5), ("l2p", 0.9)):
        rows = [{"prompt_id": item, "index": 0, "category": "dense", "value": value, "reason": ""} for item in "abcde"]
        write_jsonl(path / f"scores/{subject}/dpg/scores-corrected.jsonl", rows)
        summary = path / f"scores/{subject}/dpg/summary.json"
        write_json(summary, {**read_json(summary), "overall": 100 * value, "num_expected": 5, "num_scored": 5})
    judged = verdicts([load_run(path)])
    assert judged["C1"].verdict == "not tested" and "too few images" in judged["C1"].why  # 36 prompts: wide
    assert judged["C2"].evidence.value == pytest.approx(1.8) and judged["C2"].evidence.num_clusters == 5
    assert judged["C2"].verdict == "not tested" and "At least 30" in judged["C2"].why


def test_without_scores_nothing_is_claimed(tmp_path):
    path = fake_run(tmp_path / "flux-mini", num_prompts=2)
    shutil.rmtree(path / "scores")
    judged = verdicts([load_run(path)])
    assert {judgement.verdict for judgement in judged.values()} == {"not tested"}
    assert all(judgement.why for judgement in judged.values())


def test_a_changed_frozen_block_disqualifies(tmp_path):
    path = fake_run(tmp_path / "flux-mini", num_prompts=40)
    edit(path / "transfer/summary.json", frozen_sha256_after="other")
    judgement = verdicts([load_run(path)])["C1"]
    assert judgement.verdict == "not tested" and "not shown unchanged by hash" in judgement.why


def test_the_longest_transfer_judges_whatever_it_scored(tmp_path):
    fake_run(tmp_path / "flux-mini", pixel_accuracy=0.95, num_prompts=20)
    for seed in (1, 2, 3):
        folder = tmp_path / f"flux-mini-long-seed{seed}"
        fake_run(folder, name="flux-mini-long", pixel_accuracy=0.4, num_train_steps=3000, seed=seed, num_prompts=20)
    fake_run(tmp_path / "flux-mini-full", num_train_steps=9000, trainable=2_000_000, num_prompts=2)
    runs = load_runs(tmp_path.iterdir())
    assert [run.name for run in judging_group(runs)] == [f"flux-mini-long-seed{k}" for k in (1, 2, 3)]
    judgement = verdicts(runs)["C1"]
    assert judgement.verdict == "not reproduced" and "3 transfer seeds" in judgement.why


def test_a_verdict_of_one_seed_tells_what_three_seeds_say(tmp_path):
    for seed in (0, 1, 2):
        fake_run(tmp_path / f"flux-mini-seed{seed}", name="flux-mini", seed=seed, pixel_accuracy=0.7, num_prompts=20)
    three = load_runs(tmp_path.iterdir())
    said = "With 3 transfer seeds the longest is flux-mini: "
    assert said not in verdicts(three)["C1"].why
    fake_run(tmp_path / "flux-mini-long", num_train_steps=3000, pixel_accuracy=0.9, num_prompts=20)
    why = verdicts(load_runs(tmp_path.iterdir()))["C1"].why
    assert why.startswith("flux-mini-long, one transfer seed") and said in why
    assert f"{said}{verdicts(three)['C1'].evidence.value:.3f} (" in why
    assert said not in verdicts([*three[:2], load_run(tmp_path / "flux-mini-long")])["C1"].why


def c4_pair(folder, shallow=0.8, full=0.6, *, both=False, **changes):
    """A run that tunes both ends and one that tunes everything, which differ in ``changes`` of the recipe too.

    both: the options change on both sides, another transfer seed such as.
    """
    options = changes.pop("options", {})
    seed = options.get("seed", 0) if both else 0
    paths = [fake_run(folder / "flux-mini", pixel_accuracy=shallow, num_prompts=40, seed=seed)]
    options = {"trainable": "all", **options}
    everything = {"options": options, "trainable": 1_950_000, "recipe": {"study": "all blocks", **changes}}
    paths.append(fake_run(folder / "flux-mini-full", pixel_accuracy=full, num_prompts=40, **everything))
    return load_runs(paths)


@pytest.mark.parametrize(
    "changes",
    [
        {"options": {"num_train_steps": 999}},
        {"options": {"seed": 1}},
        {"corpus": {"prompts": "fixture:others", "num_prompts": 25}},
        {"l2p_sampler": {"num_inference_steps": 50}},
        {"resolution": 96},
        {"num_processes": 8},
    ],
)
def test_c4_compares_only_what_differs_in_nothing_else(tmp_path, changes):
    assert verdicts(c4_pair(tmp_path / "alike"))["C4"].verdict == "reproduced"
    assert verdicts(c4_pair(tmp_path / "other", **changes))["C4"].verdict == "not tested"


@pytest.mark.parametrize("name", OTHER_INPUTS)
def test_c4_compares_only_runs_of_the_same_inputs(tmp_path, name):
    run, full = c4_pair(tmp_path)
    inputs = {**full.manifest["inputs"], name: OTHER_INPUTS[name]}
    edit(full.path / "run.json", inputs=inputs)
    assert verdicts(load_runs([run.path, full.path]))["C4"].verdict == "not tested"


def test_c4_pairs_the_seeds_that_both_sides_have(tmp_path):
    """The interval is of all of them; a seed of one side alone is left out."""
    one = c4_pair(tmp_path / "0", shallow=0.8, full=0.78)
    more = [run for seed in (1, 2) for run in c4_pair(tmp_path / str(seed), options={"seed": seed}, both=True)]
    judgement = verdicts([*one, *more])["C4"]
    assert judgement.why.count("(3 seeds)") == 2, judgement.why
    assert "(2 seeds)" in verdicts([*one, more[0], *more[2:]])["C4"].why
    # A study's run of the usual settings takes the usual one's place, and no seed goes.
    study = fake_run(tmp_path / "1+1-1", name="depth", pixel_accuracy=0.8, num_prompts=40, recipe={"study": "depth"})
    assert verdicts([*one, *more, load_run(study)])["C4"].why.count("(3 seeds)") == 2


def test_c4_is_refuted_when_full_tuning_wins(tmp_path):
    assert verdicts(c4_pair(tmp_path, shallow=0.5, full=0.9))["C4"].verdict == "not reproduced"


def test_an_ablation_never_judges_what_is_kept(tmp_path):
    """Neither by the longer transfer nor by its name, which comes first."""
    study = {"num_train_steps": 9000, "recipe": {"study": "velocity prediction"}, "pixel_accuracy": 0.3}
    paths = [fake_run(tmp_path / "a-study", num_prompts=20, **study), fake_run(tmp_path / "flux-mini", num_prompts=20)]
    runs = load_runs(paths)
    assert [run.name for run in judging_group(runs)] == ["flux-mini"]
    judgement = verdicts(load_runs(paths[:1]))["C1"]
    assert judgement.verdict == "not tested" and "a-study is an ablation (velocity prediction)" in judgement.why


def test_families_are_judged_apart(tmp_path):
    flux = fake_run(tmp_path / "flux-mini", pixel_accuracy=0.85, num_prompts=40)
    sd3 = fake_run(tmp_path / "sd3-mini", family="sd3", pixel_accuracy=0.4, num_prompts=40, num_train_steps=5000)
    judged = judge_claims(load_runs([flux, sd3]), [])
    by_family = {(j.claim.id, j.family): j.verdict for j in judged}
    assert by_family["C1", "flux"] == by_family["C14", "flux"] == "reproduced"
    assert by_family["C1", "sd3"] == by_family["C14", "sd3"] == "not reproduced"
    assert [family for claim, family in by_family if claim in ("C3", "C6", "C13")] == ["", "", ""]  # of no family alone


def test_worlds_of_a_family_are_judged_apart_and_the_easy_one_lends_nothing(tmp_path):
    said = {"recipe": {"world": "layouts said"}, "num_prompts": 40}
    opened = {"recipe": {"world": "layouts open"}, "num_prompts": 40, "pixel_accuracy": 0.4, "num_train_steps": 5000}
    runs = load_runs([fake_run(tmp_path / "said", **said), fake_run(tmp_path / "open", **opened)])
    found = {(row["id"], row["world"]): row["verdict"] for row in to_rows(judge_claims(runs, []))}
    assert found["C1", "layouts said"] == "reproduced" and found["C1", "layouts open"] == "not reproduced"
    assert {run.case_title for run in runs} == {"FLUX, layouts said", "FLUX, layouts open"}


def test_c6_needs_predicted_costs_and_checks_them(run_dir):
    run = load_run(run_dir)
    assert verdicts([run])["C6"].verdict == "not tested"
    judged = verdicts([run], predicted_4k())["C6"]
    assert judged.verdict == "reproduced" and judged.scope == "paper" and judged.evidence.n == 2
    only_batch_1 = [record for record in predicted_4k() if record.batch_size == 1]
    assert verdicts([run], only_batch_1)["C6"].verdict == "not reproduced"  # -26.3 % memory, not -38.8 %


def short_recipes(folder, accuracies, seeds=(0, 1, 2)):
    """Three seeds of each family's short recipe; ``accuracies`` is the pixel model's by family."""
    return [
        fake_run(
            folder / f"{family}-mini-seed{seed}", name=f"{family}-mini", family=family, seed=seed,
            pixel_accuracy=accuracy, source_accuracy=0.95, num_prompts=15, num_images=2,
        )
        for family, accuracy in accuracies.items()
        for seed in seeds
    ]  # fmt: skip


def test_c13_wants_five_families_of_three_seeds(tmp_path):
    four = short_recipes(tmp_path, dict.fromkeys(FAMILIES[:4], 0.93))
    judged = verdicts(load_runs(four))["C13"]
    assert judged.verdict == "not tested" and "flux2: 0 of 3 transfer seeds" in judged.why
    two_seeds = short_recipes(tmp_path, {"flux2": 0.93}, seeds=(0, 1))
    assert "flux2: 2 of 3 transfer seeds" in verdicts(load_runs(four + two_seeds))["C13"].why
    five = four + two_seeds + short_recipes(tmp_path, {"flux2": 0.93}, seeds=(2,))
    judged = verdicts(load_runs(five))["C13"]
    assert (judged.verdict, judged.evidence.value, judged.evidence.n) == ("reproduced", 5, 5)


def test_c13_is_refuted_by_one_family_that_keeps_too_little(tmp_path):
    runs = load_runs(short_recipes(tmp_path, {"flux": 0.93, "sd3": 0.6}))
    judged = verdicts(runs)["C13"]
    assert (judged.verdict, judged.evidence.value, judged.evidence.n) == ("not reproduced", 1, 2)
    longer = fake_run(
        tmp_path / "sd3-long", family="sd3", pixel_accuracy=0.95, source_accuracy=0.95, num_train_steps=5000
    )
    assert verdicts([*runs, load_run(longer)])["C13"].verdict == "not reproduced"  # the short recipe judges


def test_c14_wants_every_image_drawn_by_the_source(tmp_path):
    path = fake_run(tmp_path / "flux-mini", num_prompts=40)
    corpus = path / "corpus/metadata.jsonl"
    rows = read_jsonl(corpus)
    write_jsonl(corpus, [*rows[:-1], {"file_name": "images/photo.png", "text": "a photograph"}])
    judgement = verdicts([load_run(path)])["C14"]
    assert judgement.verdict == "not tested" and "23 of 24" in judgement.why


def test_c14_wants_the_corpus_that_the_run_states(tmp_path):
    path = fake_run(tmp_path / "flux-mini", num_prompts=40)
    corpus = path / "corpus/metadata.jsonl"
    write_jsonl(corpus, read_jsonl(corpus)[1:])
    judgement = verdicts([load_run(path)])["C14"]
    assert judgement.verdict == "not tested" and "not the file that run.json states" in judgement.why


def test_sizes_are_judged_apart(tmp_path):
    runs = load_runs(
        [
            fake_run(tmp_path / "flux-mini", num_prompts=30),
            fake_run(tmp_path / "flux-paper", size="paper", num_prompts=30),
        ]
    )
    scopes = [judgement.scope for judgement in judge_claims(runs, []) if judgement.claim.id == "C1"]
    assert scopes == ["miniature", "paper"]


def test_claims_json_has_the_agreed_keys(run_dir, tmp_path):
    judgements = judge_claims([load_run(run_dir)], [])
    write_claims(judgements, tmp_path / "claims.json")
    rows = read_json(tmp_path / "claims.json")
    assert rows == to_rows(judgements)
    assert all(list(row) == KEYS for row in rows) and len(rows) == 14
    assert {row["verdict"] for row in rows} <= {"reproduced", "not reproduced", "not tested"}
