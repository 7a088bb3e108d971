"""A suite is a set of prompts: several benchmarks may score the same images."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from accelerate import PartialState
from PIL import Image

from bench.benchmarks import BENCHMARKS
from bench.records import Summary, write_json
from reproduce import preflight
from reproduce.stages import score as stage
from reproduce.stages.sample import layout_of, suite_drawings, suite_prompts, suite_samples
from tests.reproduce import tiny


def brightness(images: Path, judge, out: Path, settings) -> Summary:
    """A metric of the whole set: the mean grey level of all its images."""
    level = float(np.mean([judge(Image.open(images / sample.path)) for sample in settings.samples]))
    counts = {"num_expected": len(settings.samples), "num_scored": len(settings.samples)}
    summary = Summary(
        benchmark="brightness",
        version="1",
        variant="mean",
        subject=settings.subject,
        overall=level,
        overall_ci95=(level, level),
        by_category={},
        passport={},
        **counts,
    )
    write_json(out / "summary.json", summary)
    return summary


def grey():
    return lambda image: float(np.asarray(image).mean())


@pytest.fixture
def recipe(tiny_source, monkeypatch):
    """The tiny recipe with GenEval's images scored by another benchmark too."""
    small = tiny.recipe()
    monkeypatch.setitem(BENCHMARKS, "brightness", replace(BENCHMARKS["geneval"], name="brightness", score=brightness))
    geneval = replace(small.suites[0], benchmarks=("geneval", "brightness"))
    judges = {**small.judges, "brightness": "tests.reproduce.test_suites:grey"}
    return replace(small, suites=(geneval,), judges=judges)


def test_a_second_benchmark_scores_the_same_images_into_a_folder_of_its_own(recipe, tmp_path):
    PartialState(cpu=True)
    (suite,) = recipe.suites
    for level, subject in ((10, "source"), (200, "l2p")):
        folder = tmp_path / "samples" / subject / suite.name
        for drawing in suite_drawings(recipe, suite, folder):
            drawing.path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (32, 32), (level,) * 3).save(drawing.path)
        layout_of(suite).finish(folder, suite_prompts(suite), suite.prompts, suite.arguments)
    write_json(tmp_path / "run.json", {"inputs": {}})
    found = stage.run(recipe, tmp_path)
    assert found["inputs"]["judges"].keys() == {"geneval", "brightness"}
    for level, subject in ((10, "source"), (200, "l2p")):
        scores = tmp_path / "scores" / subject / "geneval"
        assert json.loads((scores / "summary.json").read_text())["benchmark"] == "geneval"
        second = json.loads((scores / "brightness" / "summary.json").read_text())
        assert (second["overall"], second["num_scored"]) == (level, len(suite_samples(suite)))


def test_a_benchmark_that_is_not_there_lists_the_known_ones(recipe):
    suite = replace(recipe.suites[0], benchmarks=("geneval", "fidd"))
    with pytest.raises(ValueError, match="fidd.*geneval.*dpg"):
        preflight.check_names(replace(recipe, suites=(suite,)))
