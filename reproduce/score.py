"""Stage 4: the benchmarks score what source and pixel model drew."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench.geneval.score import ScoreConfig, score_folder
from reproduce.named import load_function
from reproduce.recipes import Recipe, Suite
from reproduce.sample import SUBJECTS, suite_rows

DETECTOR_BATCH_SIZE = 32


def run(recipe: Recipe, run_dir: Path) -> None:
    """Write `scores/{source,l2p}/<suite>/`; the judges are loaded once."""
    judges = {name: load(recipe) for name, load in JUDGES.items() if any(s.benchmark == name for s in recipe.suites)}
    for subject in SUBJECTS:
        for suite in recipe.suites:
            images, scores = (run_dir / part / subject / suite.name for part in ("samples", "scores"))
            SCORERS[suite.benchmark](recipe, suite, judges[suite.benchmark], images, scores, subject)


def score_geneval(recipe: Recipe, suite: Suite, detector: Any, images: Path, scores: Path, subject: str) -> None:
    """Detect and judge one subject's images of a GenEval suite."""
    score_folder(
        images,
        detector,
        scores,
        entries=suite_rows(suite),
        detector_name=recipe.detector,
        config=ScoreConfig(
            images_per_prompt=suite.images_per_prompt,
            batch_size=DETECTOR_BATCH_SIZE,
            subject=f"{recipe.name} {subject}",
            # A model that draws nothing gets its honest 0 here; the miniature's detector has its own check, and at the
            # paper's size the source, whose images are known to be good, shows whether the detector works.
            watch_detector=recipe.size == "paper" and subject == "source",
        ),
    )


JUDGES: dict[str, Callable[[Recipe], Any]] = {"geneval": lambda recipe: load_function(recipe.detector)()}
SCORERS: dict[str, Callable[..., None]] = {"geneval": score_geneval}
