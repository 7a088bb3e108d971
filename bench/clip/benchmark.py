"""The CLIP score as one value: layout, judge, scores (`bench.benchmarks`)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench.clip.command import clip, rescore_clip
from bench.fidelity.benchmark import finish, layout, load_prompts
from bench.judges import as_judge, load_judge
from bench.records import Benchmark, ScoreSettings, Summary


def score(images: Path, scorer: Callable[..., Any], out: Path, settings: ScoreSettings) -> Summary:
    """Score a run's images against their prompts, the mean of images (variant `clip`)."""
    from bench.clip.score import ClipConfig, score_clip
    from bench.clip.variants import find_variant
    from bench.sets import set_of

    captions = {prompt.id: prompt.text for prompt in settings.prompts}
    config = ClipConfig(variant=find_variant("clip"), subject=settings.subject)
    return score_clip(
        set_of(images, settings.samples), captions, as_judge(scorer, {"name": settings.judge_name}), out, config
    )


CLIP = Benchmark(
    name="clip",
    title="CLIP score",
    unit="100 x cosine",
    decimals=2,
    scale=100.0,
    higher_is_better=True,
    category=lambda row: "all",
    resampled=lambda row, passport: str(row["prompt_id"]),
    resampled_name=lambda passport: "captions",
    load_prompts=load_prompts,
    layout=layout,
    finish=finish,
    load_judge=load_judge,
    score=score,
    findings="cosines.jsonl",
    rescore=rescore_clip,
    command=clip,
)
