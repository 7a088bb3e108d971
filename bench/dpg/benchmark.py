"""DPG-Bench as one value: layout, files, judge, scores (`bench.benchmarks`)."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from bench.dpg.answers import MAX_PIC_NUM
from bench.dpg.command import RESCORE_OPTIONS, dpg, rescore_dpg
from bench.dpg.questions import read_questions
from bench.dpg.summary import BENCHMARK, CATEGORY, FINDINGS
from bench.images import save_grid
from bench.judges import load_judge
from bench.named import load_function
from bench.records import Benchmark, ImageSample, Prompt, ScoreSettings, Summary
from l2p.errors import InputError

QUESTIONS = "questions.csv"


def write_question_file(path: Path, name: str, arguments: Mapping[str, Any]) -> None:
    """Put a suite's question file at `path`: written there by the function that `name` names, or copied."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if ":" in name:
        load_function(name)(path, **arguments)
    else:
        shutil.copyfile(name, path)


def load_prompts(name: str, arguments: Mapping[str, Any]) -> list[Prompt]:
    """An item a prompt, as the question file has them: its function is called with (path, **arguments), or it is a CSV.

    Raises FileNotFoundError without the file, ValueError for one that is not in DPG-Bench's layout.
    """
    with TemporaryDirectory() as folder:  # each process reads its own: none waits for another
        path = Path(folder) / QUESTIONS
        write_question_file(path, name, arguments)
        prompts = read_questions(path).prompts
    return [Prompt(id=item_id, text=text, category=CATEGORY, spec={}) for item_id, text in prompts.items()]


def layout(prompts: Sequence[Prompt], images_per_prompt: int = MAX_PIC_NUM) -> list[ImageSample]:
    """The tiles of each item's grid, `tiles/<item>_<k>.png`; ValueError unless there are four."""
    if images_per_prompt != MAX_PIC_NUM:
        raise InputError(f"DPG-Bench's grids have {MAX_PIC_NUM} tiles: images_per_prompt cannot be {images_per_prompt}")
    return [
        ImageSample(prompt_id=prompt.id, index=k, seed=-1, path=Path("tiles", f"{prompt.id}_{k}.png"))
        for prompt in prompts
        for k in range(images_per_prompt)
    ]


def finish(folder: Path, prompts: Sequence[Prompt], name: str, arguments: Mapping[str, Any]) -> None:
    """Write the questions, and each item's tiles as DPG-Bench wants them, `<item>.png`, 2 x 2, row by row."""
    write_question_file(folder / QUESTIONS, name, arguments)
    for prompt in prompts:
        tiles = [folder / sample.path for sample in layout([prompt])]
        save_grid(tiles, folder / f"{prompt.id}.png")


def score(images: Path, vqa: Callable[..., Any], out: Path, settings: ScoreSettings) -> Summary:
    """Ask and score a folder of grids; what `summary.json` holds is the official variant."""
    from bench.dpg.score import ScoreConfig, score_folder

    return score_folder(
        images,
        images / QUESTIONS,
        vqa,
        out,
        resolution=settings.resolution,
        vqa_name=settings.judge_name,
        config=ScoreConfig(subject=settings.subject),
    )


DPG = Benchmark(
    name=BENCHMARK,
    title="DPG-Bench",
    unit="points, 0 to 100",
    decimals=1,
    scale=100.0,
    higher_is_better=True,
    category=lambda row: "all",  # the overall is a mean over items
    resampled=lambda row, passport: str(row["prompt_id"]),
    resampled_name=lambda passport: "items",
    load_prompts=load_prompts,
    layout=layout,
    finish=finish,
    load_judge=load_judge,
    score=score,
    findings=FINDINGS,
    rescore=rescore_dpg,
    rescore_options=RESCORE_OPTIONS,
    command=dpg,
)
