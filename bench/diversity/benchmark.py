"""Diversity among seeds as one value: layout, judge, scores (`bench.benchmarks`)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench.diversity.command import diversity, rescore_diversity
from bench.fidelity.benchmark import finish, layout, load_prompts
from bench.judges import as_judge, load_judge
from bench.records import Benchmark, ScoreSettings, Summary


def score(images: Path, judge: Callable[..., Any], out: Path, settings: ScoreSettings) -> Summary:
    """Measure a run's images, several of each prompt."""
    from bench.diversity.score import DiversityConfig, score_diversity
    from bench.sets import set_of

    config = DiversityConfig(subject=settings.subject)
    named = as_judge(judge, {"name": settings.judge_name})
    return score_diversity(set_of(images, settings.samples), named, out, config)


DIVERSITY = Benchmark(
    name="diversity",
    title="Diversity",
    unit="LPIPS among a prompt's seeds",
    decimals=4,
    scale=2.0,
    higher_is_better=True,
    category=lambda row: "all",
    resampled=lambda row, passport: str(row["prompt_id"]),
    resampled_name=lambda passport: "prompts",
    load_prompts=load_prompts,
    layout=layout,
    finish=finish,
    load_judge=load_judge,
    score=score,
    findings="distances.jsonl",
    rescore=rescore_diversity,
    command=diversity,
)
