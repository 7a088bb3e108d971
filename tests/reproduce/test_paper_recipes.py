"""The recipes of the paper's size: the paper's settings, and all that is missing is told before anything starts."""

from dataclasses import replace

import pytest

from bench.dpg.published import QUESTIONS
from bench.geneval.detectors import WEIGHTS
from bench.geneval.prompts import generate
from bench.geneval.rewritten import PROMPTS
from bench.records import write_jsonl
from l2p.architectures import ARCHITECTURES
from reproduce import preflight
from reproduce.manifest import check_manifest, recipe_json
from reproduce.plan import disk_bytes, num_images, planned
from reproduce.recipes import FAMILIES, find_recipe
from reproduce.recipes.flux import flux_4k, flux_mini, flux_paper, flux_paper_rewritten

VARIABLES = (QUESTIONS, WEIGHTS, PROMPTS, "L2P_CORPUS_4K")


@pytest.fixture(autouse=True)
def nothing_named(monkeypatch, tmp_path):
    """None of a person's files are named, and no mPLUG environment is there."""
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("L2P_MPLUG_PYTHON", str(tmp_path / "no/python"))


@pytest.mark.parametrize("family", ARCHITECTURES)
def test_every_family_has_the_papers_size_with_the_releases_settings(family):
    recipe, large = find_recipe(family, size="paper"), FAMILIES[family][f"{family}_4k"]()
    drawn = [(s.num_inference_steps, s.guidance_scale, s.shift) for s in (recipe.l2p_sampler, large.l2p_sampler)]
    assert drawn == [(30, 2.0, 3.0), (50, 4.0, 4.0)]
    assert (recipe.resolution // recipe.transfer.patch_size, large.resolution // large.transfer.patch_size) == (64, 64)
    assert num_images(recipe) == num_images(large) == {"geneval": 553 * 4, "dpg": 1065 * 4}
    assert recipe.corpus.num_prompts * recipe.corpus.images_per_prompt == 20_000
    assert recipe.transfer.distilled_guidance == recipe.source_sampler.distilled_guidance
    for one in (recipe, large):
        preflight.check_recipe(one)
        family_ = ARCHITECTURES[family]
        family_.source_arguments(one.source_sampler.guidance_scale, one.source_sampler.distilled_guidance)


def test_all_that_is_missing_is_told_at_once(tmp_path):
    with pytest.raises(FileNotFoundError) as refused:
        preflight.check(replace(flux_4k(), suites=flux_paper_rewritten().suites), tmp_path / "run")
    told = str(refused.value)
    assert all(name in told for name in (*VARIABLES, "nox -s dpg-mplug", "https://huggingface.co/black-forest-labs"))
    assert not (tmp_path / "run").exists()


def test_what_is_named_is_missed_no_more(tmp_path, monkeypatch):
    (tmp_path / "questions.csv").write_text("item_id")
    monkeypatch.setenv(QUESTIONS, str(tmp_path / "questions.csv"))
    with pytest.raises(FileNotFoundError) as refused:
        preflight.check_missing(flux_paper())
    assert QUESTIONS not in str(refused.value) and WEIGHTS in str(refused.value)


def test_the_miniature_needs_nothing():
    preflight.check_missing(flux_mini())


def test_rewritten_prompts_are_a_suite_that_says_so(tmp_path, monkeypatch):
    rewritten = [entry | {"prompt": "A sleek thing on a table."} for entry in generate()[:2]]
    write_jsonl(tmp_path / "rewritten.jsonl", rewritten)
    monkeypatch.setenv(PROMPTS, str(tmp_path / "rewritten.jsonl"))
    recipe = flux_paper_rewritten()
    named = replace(recipe, suites=(recipe.suites[0], recipe.suites[2]))
    assert num_images(named) == {"geneval": 553 * 4, "geneval-rewritten": 2 * 4}
    preflight.check_rewritten(named)
    unnamed = replace(named, suites=(replace(recipe.suites[2], rewritten_by=None),))
    with pytest.raises(ValueError, match="2 prompts do not name what their images are judged by.*sleek.*rewritten_by"):
        preflight.check_rewritten(unnamed)


def test_photographs_are_not_drawn_and_the_source_draws_at_its_own_size():
    large = flux_4k()
    assert [work.what for work in planned(large, 1) if work.stage == "corpus" and work.calls] == []
    sizes = {work.case.kind: work.case.resolution for work in planned(large, 1)}
    assert sizes == {"source": 1024, "vae": 1024, "train": 4096, "l2p": 4096}
    drawn = replace(large, corpus=replace(large.corpus, folder=None))
    assert disk_bytes(drawn) - disk_bytes(large) == 3 * 4096**2 * 100_000
    with pytest.raises(ValueError, match="1024 px for a pixel model of 4096 px"):
        preflight.check_recipe(drawn)


def test_a_run_of_before_these_settings_goes_on(tmp_path):
    recipe = flux_mini()
    manifest = {"format": 2, "recipe": recipe_json(recipe), "inputs": {"source_sha256": "same"}}
    del manifest["recipe"]["source_resolution"], manifest["recipe"]["corpus"]["folder"]
    for suite in manifest["recipe"]["suites"]:
        del suite["rewritten_by"]
    check_manifest(manifest, recipe, tmp_path, "same")
    with pytest.raises(ValueError, match="source_resolution none there, 24 here"):
        check_manifest(manifest, replace(recipe, source_resolution=24), tmp_path, "same")
