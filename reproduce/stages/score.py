"""Stage 4: the benchmarks score what source and pixel model drew."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from accelerate import PartialState

import bench.dpg.score as dpg
import bench.geneval.score as geneval
from bench.named import load_function
from bench.records import write_json
from reproduce.recipes import Recipe, Suite
from reproduce.sample import QUESTIONS, SUBJECTS, geneval_rows

DETECTOR_BATCH_SIZE = 32


def run(recipe: Recipe, run_dir: Path) -> None:
    """Write `scores/{source,l2p}/<suite>/` and `scores/checks.json`; each judge is loaded once."""
    judges = {suite.benchmark: JUDGES[suite.benchmark](recipe) for suite in recipe.suites}
    for subject in SUBJECTS:
        for suite in recipe.suites:
            images, scores = (run_dir / part / subject / suite.name for part in ("samples", "scores"))
            SCORERS[suite.benchmark](recipe, suite, judges[suite.benchmark], images, scores, subject)
    if PartialState().is_main_process:
        write_json(run_dir / "scores" / "checks.json", [load_function(check)() for check in recipe.judge_checks])


def score_geneval(recipe: Recipe, suite: Suite, detector: Any, images: Path, scores: Path, subject: str) -> None:
    """Detect and judge one subject's images of a GenEval suite."""
    config = geneval.ScoreConfig(
        images_per_prompt=suite.images_per_prompt,
        batch_size=DETECTOR_BATCH_SIZE,
        subject=f"{recipe.name} {subject}",
        # A model that draws nothing gets its honest 0 here; the miniature's detector has a check of its own, and at the
        # paper's size the source, whose images are known to be good, shows whether the detector works.
        watch_detector=recipe.size == "paper" and subject == "source",
    )
    entries = geneval_rows(suite)
    geneval.score_folder(images, detector, scores, entries=entries, detector_name=recipe.detector, config=config)


def score_dpg(recipe: Recipe, suite: Suite, vqa: Any, images: Path, scores: Path, subject: str) -> None:
    """Ask and score one subject's grids of a DPG suite; what `summary.json` holds is the official variant."""
    config = dpg.ScoreConfig(subject=f"{recipe.name} {subject}")
    name = recipe.vqa or ""
    dpg.score_folder(
        images, images / QUESTIONS, vqa, scores, resolution=recipe.resolution, vqa_name=name, config=config
    )


def load_vqa(recipe: Recipe) -> Any:
    """The recipe's VQA. Raises ValueError when it has a DPG suite and no VQA."""
    if recipe.vqa is None:
        raise ValueError(f"recipe {recipe.name!r} has a DPG suite but no vqa: name a loader, package.module:function")
    return load_function(recipe.vqa)()


JUDGES: dict[str, Callable[[Recipe], Any]] = {
    "geneval": lambda recipe: load_function(recipe.detector)(),
    "dpg": load_vqa,
}
SCORERS: dict[str, Callable[..., None]] = {"geneval": score_geneval, "dpg": score_dpg}
