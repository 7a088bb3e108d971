"""The set metrics as values of `bench.benchmarks`: each a benchmark of its own, all of the same features."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.fidelity.command import RESCORE_OPTIONS, rescore_fidelity
from bench.judges import load_judge
from bench.named import load_rows
from bench.records import Benchmark, ImageSample, Prompt, ScoreSettings, Summary, write_jsonl

FINDINGS = "features.jsonl"
RECIPES = {"fid-patch": "pixverve", "cmmd": "cmmd"}
"""Whose recipe scores a run's images, where it is not torch-fidelity's."""


def load_prompts(name: str, arguments: Mapping[str, Any]) -> list[Prompt]:
    """Prompts of rows with `text` (and `id`, else the row's number); errors as of `bench.named.load_rows`."""
    rows = load_rows(name, arguments, ("text",))
    return [
        Prompt(id=str(row.get("id", f"{number:05}")), text=row["text"], category="all", spec=dict(row))
        for number, row in enumerate(rows)
    ]


def layout(prompts: Sequence[Prompt], images_per_prompt: int) -> list[ImageSample]:
    """`<id>_<k>.png`, flat."""
    return [
        ImageSample(prompt_id=prompt.id, index=k, seed=-1, path=Path(f"{prompt.id}_{k}.png"))
        for prompt in prompts
        for k in range(images_per_prompt)
    ]


def finish(folder: Path, prompts: Sequence[Prompt], name: str, arguments: Mapping[str, Any]) -> None:
    """Write the prompts beside the images, `prompts.jsonl`."""
    write_jsonl(folder / "prompts.jsonl", ({"id": prompt.id, "text": prompt.text} for prompt in prompts))


def score_metric(metric: str) -> Callable[[Path, Callable[..., Any], Path, ScoreSettings], Summary]:
    """The `score` of one metric: the extractor is the judge, the reference a setting, the recipe one of `RECIPES`."""

    def score(images: Path, extractor: Callable[..., Any], out: Path, settings: ScoreSettings) -> Summary:
        from bench.fidelity.extractors import as_extractor
        from bench.fidelity.score import FidelityConfig, score_set
        from bench.fidelity.variants import find_variant
        from bench.sets import set_of

        variant = find_variant(RECIPES.get(metric, "torch-fidelity"))
        config = FidelityConfig(
            metrics=(metric,), variant=variant, subject=settings.subject, prompts=f"{len(settings.prompts)} prompts"
        )
        pictures = set_of(images, settings.samples)
        judge = as_extractor(extractor, settings.judge_name)
        return score_set(pictures, settings.reference, judge, out, config, alone=True)[metric]

    return score


def _benchmark(name: str, title: str, unit: str, decimals: int, higher_is_better: bool) -> Benchmark:
    return Benchmark(
        name=name,
        title=title,
        unit=unit,
        decimals=decimals,
        scale=1.0,
        higher_is_better=higher_is_better,
        category=lambda row: "all",
        resampled=lambda row, passport: str(row["prompt_id"]),
        resampled_name=lambda passport: "pictures",
        load_prompts=load_prompts,
        layout=layout,
        finish=finish,
        load_judge=load_judge,
        score=score_metric(name),
        findings=FINDINGS,
        rescore=rescore_fidelity,
        rescore_options=RESCORE_OPTIONS,
        of_set=name not in ("precision", "recall"),
    )


FIDELITY: tuple[Benchmark, ...] = (
    _benchmark("fid", "FID", "squared distance of features", 2, False),
    _benchmark("fid-patch", "FID-patch", "squared distance of features", 2, False),
    _benchmark("is", "Inception Score", "1 to the number of classes", 2, True),
    _benchmark("kid", "KID", "squared distance of features", 5, False),
    _benchmark("precision", "Precision", "share of images", 3, True),
    _benchmark("recall", "Recall", "share of reference pictures", 3, True),
    _benchmark("cmmd", "CMMD", "squared distance of features x 1000", 3, False),
)
"""All of them; `python -m bench fidelity` computes several at once."""

NEEDS_REFERENCE = {benchmark.name for benchmark in FIDELITY} - {"is"}
"""Those that compare with real pictures."""
