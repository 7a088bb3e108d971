"""GenEval as one value: layout, files, judge, scores (`bench.benchmarks`)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.geneval.command import RESCORE_OPTIONS, geneval, rescore_geneval
from bench.geneval.prompts import as_prompts, write_suite
from bench.geneval.summary import BENCHMARK, FINDINGS
from bench.judges import load_judge
from bench.named import load_rows
from bench.records import Benchmark, ImageSample, Prompt, ScoreSettings, Summary

BATCH_SIZE = 32


def load_prompts(name: str, arguments: Mapping[str, Any]) -> list[Prompt]:
    """A suite's prompts from metadata lines: what a function returns for `arguments`, or a JSON Lines file.

    Raises FileNotFoundError without the file, ValueError naming a line that GenEval cannot judge.
    """
    return as_prompts(load_rows(name, arguments, ("tag", "include", "prompt")))


def layout(prompts: Sequence[Prompt], images_per_prompt: int) -> list[ImageSample]:
    """GenEval's official layout: `00000/samples/0000.png`, a folder a prompt."""
    return [
        ImageSample(prompt_id=prompt.id, index=k, seed=-1, path=Path(prompt.id, "samples", f"{k:04}.png"))
        for prompt in prompts
        for k in range(images_per_prompt)
    ]


def finish(folder: Path, prompts: Sequence[Prompt], name: str, arguments: Mapping[str, Any]) -> None:
    """Write each prompt's `metadata.jsonl` into its folder, and the whole suite beside them."""
    write_suite(folder, [prompt.spec for prompt in prompts])


def resampled(row: Mapping[str, Any], passport: Mapping[str, Any]) -> str:
    """The prompt's text (a suite may hold one twice), or the image where the summary says that images are resampled."""
    if passport.get("resampled") == "images":
        return f"{row['prompt_id']}/{row['index']}"
    return str(row.get("text", row["prompt_id"]))


def score(images: Path, detector: Callable[..., Any], out: Path, settings: ScoreSettings) -> Summary:
    """Detect and judge a folder of images; the published thresholds."""
    from bench.geneval.score import ScoreConfig, score_folder

    config = ScoreConfig(
        images_per_prompt=settings.images_per_prompt,
        batch_size=BATCH_SIZE,
        subject=settings.subject,
        watch_detector=settings.watch_judge,
    )
    entries = [prompt.spec for prompt in settings.prompts]
    return score_folder(images, detector, out, entries=entries, detector_name=settings.judge_name, config=config)


GENEVAL = Benchmark(
    name=BENCHMARK,
    title="GenEval",
    unit="share of images, 0 to 1",
    decimals=3,
    scale=1.0,
    higher_is_better=True,
    category=lambda row: row["category"],
    resampled=resampled,
    resampled_name=lambda passport: passport.get("resampled", "prompts"),
    load_prompts=load_prompts,
    layout=layout,
    finish=finish,
    load_judge=load_judge,
    score=score,
    findings=FINDINGS,
    rescore=rescore_geneval,
    rescore_options=RESCORE_OPTIONS,
    command=geneval,
)
