"""Stage 4: the benchmarks score what source and pixel model drew."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

from accelerate import PartialState

from bench.benchmarks import BENCHMARKS
from bench.fidelity.benchmark import NEEDS_REFERENCE
from bench.images import save_image
from bench.named import load_function
from bench.records import ScoreSettings, read_json, write_json
from reproduce.draw import SUBJECTS, SubjectName
from reproduce.dry import is_dry
from reproduce.inputs import check_judges, judges_sha256, load_judges
from reproduce.recipes import Recipe, Suite
from reproduce.recipes.base import drawn_at
from reproduce.stages.sample import suite_prompts, suite_samples


def run(recipe: Recipe, run_dir: Path) -> dict[str, Any]:
    """Write `scores/{source,l2p}/<suite>/`, `scores/checks.json` and `disagreement.json`; each judge is loaded once.

    Returns the judges' hashes, which run.json keeps. Raises ValueError when other judges began to score this run.
    """
    judges = load_judges(recipe)
    check_judges(recipe, read_json(run_dir / "run.json")["inputs"].get("judges", {}), run_dir, judges)
    for subject in SUBJECTS:
        for suite in recipe.suites:
            for benchmark in suite.benchmarks:
                score(recipe, suite, benchmark, judges[benchmark], subject, run_dir)
    if PartialState().is_main_process:
        write_json(run_dir / "scores" / "checks.json", judge_checks(recipe))
        if recipe.cross_check is not None:
            write_json(run_dir / "scores" / "disagreement.json", load_function(recipe.cross_check)(run_dir))
    return {"inputs": {"judges": judges_sha256(recipe, judges)}}


def judge_checks(recipe: Recipe) -> list[dict[str, Any]]:
    """What the judges are worth where the truth is known: the rows of all checks."""
    rows: list[dict[str, Any]] = []
    for check in recipe.judge_checks:
        found = load_function(check)()
        rows += found if isinstance(found, list) else [found]
    return rows


def score(recipe: Recipe, suite: Suite, benchmark: str, judge: Any, subject: SubjectName, run_dir: Path) -> None:
    """Judge one subject's images of a suite by one benchmark."""
    folder = Path(subject, suite.name)
    settings = ScoreSettings(
        prompts=suite_prompts(suite),
        samples=suite_samples(suite),
        images_per_prompt=suite.images_per_prompt,
        resolution=drawn_at(recipe, subject, suite.scale),
        subject=f"{recipe.name} {subject}",
        judge_name=recipe.judges[benchmark],
        # A model that draws nothing gets its honest 0 here; the miniature's detector has a check of its own, and at the
        # paper's size the source, whose images are known to be good, shows whether the detector works. A dry run's is
        # random.
        watch_judge=recipe.size == "paper" and subject == "source" and not is_dry(recipe),
        reference=reference_of(recipe, suite, subject, run_dir) if benchmark in NEEDS_REFERENCE else None,
    )
    BENCHMARKS[benchmark].score(
        run_dir / "samples" / folder, judge, scores_folder(run_dir / "scores" / folder, suite, benchmark), settings
    )


def reference_of(recipe: Recipe, suite: Suite, subject: SubjectName, run_dir: Path) -> Path | None:
    """What a suite's pictures are compared with; a function's are made here, in `references/<suite>-<side>px/`.

    All processes must ask.
    """
    if suite.reference is None:
        return None
    if ":" not in suite.reference:
        return Path(os.path.expandvars(suite.reference))
    side = drawn_at(recipe, subject, suite.scale)
    folder, state = run_dir / "references" / f"{suite.name}-{side}px", PartialState()
    if state.is_main_process:
        shutil.rmtree(folder, ignore_errors=True)  # of another function there may have been more
        for number, picture in enumerate(load_function(suite.reference)(side, **suite.arguments)):
            save_image(picture, folder / f"{number:05}.png")
    state.wait_for_everyone()
    return folder


def scores_folder(folder: Path, suite: Suite, benchmark: str) -> Path:
    """Where scores lie: the first benchmark's in the suite's folder, a further one's in a folder of its own there."""
    return folder if benchmark == suite.benchmarks[0] else folder / benchmark
