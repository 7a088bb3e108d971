"""From a folder of several pictures a prompt to their diversity: distances on disk, then means of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from bench.judges import Judge, JudgeError, as_judge
from bench.machine import device_name
from bench.passport import NOT_STATED, file_sha256, generation_settings, library_versions, passport, read_passport
from bench.records import ImageSample, Score, Summary, iter_objects, read_summary, write_json, write_jsonl
from bench.runner import Process, Row, check_output, check_settings, locked, run_batches, this_process
from bench.sets import (
    MAX_PIXELS,
    PictureSet,
    by_prompt,
    names_sha256,
    notes_on,
    refuse_broken,
    set_sha256,
    shown_sizes,
    some,
)
from bench.statistics import bootstrap_ci
from l2p.errors import InputError
from l2p.pictures import PictureError, picture_size, read_picture

BENCHMARK = "diversity"
NAME = "distances"
FINDINGS = f"{NAME}.jsonl"
GREATEST = 2.0
"""Above every LPIPS that pictures have: the unit of the score rows."""


@dataclass(frozen=True, kw_only=True)
class DiversityConfig:
    """How diversity is measured; `size`: pictures are averaged down to size x size first, and the variant says so."""

    size: int | None = None
    device: str = "auto"
    subject: str = ""


def group_prompts(pictures: PictureSet) -> list[list[ImageSample]]:
    """The pictures of each prompt, two at least and of one size; InputError names the prompts where that is not so."""
    groups: dict[str, list[ImageSample]] = {}
    for sample in by_prompt(pictures):
        groups.setdefault(sample.prompt_id, []).append(sample)
    alone = [prompt_id for prompt_id, samples in groups.items() if len(samples) < 2]
    if alone:
        raise InputError(
            f"{pictures.directory}: diversity needs 2 pictures of each prompt; one alone have {some(alone)} of "
            f"{len(groups)} prompts. Pictures are named <id>_<k>.png or <id>/<k>.png, k from 0"
        )
    ordered = [sorted(samples, key=lambda sample: sample.index) for samples in groups.values()]
    mixed = [g[0].prompt_id for g in ordered if len(pictures.sizes) > 1 and len({picture_size(s.path) for s in g}) > 1]
    if mixed:
        raise InputError(f"{pictures.directory}: pictures of one prompt must have one size; mixed are {some(mixed)}")
    return ordered


def score_diversity(
    pictures: PictureSet, judge: Callable[..., Any], out_dir: Path, config: DiversityConfig | None = None
) -> Summary:
    """Measure the pictures of each prompt and write `distances.jsonl`, `scores.jsonl`, `summary.json`.

    The value is the mean over prompts of the mean over a prompt's pairs. Resumable; processes of a launcher share the
    prompts. Raises InputError: a prompt with one picture or several sizes, pictures that cannot be read; JudgeError.
    """
    config = config or DiversityConfig()
    batches = group_prompts(pictures)
    check_output(out_dir, pictures.directory)
    measure = as_judge(judge, {"name": NOT_STATED})
    process = this_process(config.device)
    with locked(out_dir) if process.index == 0 else nullcontext():
        if process.index == 0:
            check_settings(out_dir / "settings.json", {"judge": dict(measure.passport), "size": config.size})
        path = run_batches(batches, _worker(measure, config.size), out_dir, name=NAME, process=process)
        if process.index == 0:
            rows = [row for row in iter_objects(path) if "unscored" in row]
            if rows:
                refuse_broken(pictures.directory, [f"{r['prompt_id']}/{r['index']}: {r['unscored']}" for r in rows])
            write_json(out_dir / "passport.json", _passport(pictures, batches, measure, process, config))
            write_scores(out_dir, out_dir)
        process.wait()
        return read_summary(out_dir / "summary.json")


def _worker(judge: Judge, size: int | None) -> Callable[[list[ImageSample]], list[Row]]:
    """The work on one prompt: read its pictures, measure every pair; an unreadable one leaves all unscored."""

    def work(samples: list[ImageSample]) -> list[Row]:
        rows: list[Row] = [{"prompt_id": s.prompt_id, "index": s.index, "sha256": file_sha256(s.path)} for s in samples]
        try:
            images = [_read(sample.path, size) for sample in samples]
        except PictureError as error:
            return [row | {"unscored": f"one of its prompt's pictures: {error}"} for row in rows]
        found = _checked(judge(images), len(images))
        return [row | {"distances": distances} for row, distances in zip(rows, found, strict=True)]

    return work


def _read(path: Path, size: int | None) -> Image.Image:
    picture = read_picture(path, MAX_PIXELS)
    return picture.resize((size, size), Image.Resampling.BOX) if size else picture


def _checked(found: Any, count: int) -> list[list[float]]:
    """The upper triangle of distances; JudgeError for anything else."""
    try:
        triangle = [[float(one) for one in row] for row in found]
    except TypeError as error:
        raise JudgeError(f"a judge of distances must give lists of numbers; it gave {repr(found)[:200]}") from error
    if [len(row) for row in triangle] != list(range(count - 1, -1, -1)):
        raise JudgeError(f"of {count} pictures the distances to those after each are needed; got {repr(found)[:200]}")
    if not all(0 <= one <= GREATEST and math.isfinite(one) for one in chain.from_iterable(triangle)):
        raise JudgeError(f"distances must be 0 to {GREATEST:g}; got {repr(found)[:200]}")
    return triangle


def _passport(
    pictures: PictureSet,
    batches: Sequence[list[ImageSample]],
    judge: Judge,
    process: Process,
    config: DiversityConfig,
) -> dict[str, Any]:
    generation = generation_settings(pictures.directory / "generation.json")
    counts = {len(batch) for batch in batches}
    notes = notes_on(pictures)
    if len(counts) > 1:
        notes.append(f"prompts have {min(counts)} to {max(counts)} pictures; each prompt weighs the same")
    return passport(
        prompts=f"{len(batches)} prompts",
        prompts_sha256=names_sha256(chain.from_iterable(batches)),
        pictures_sha256=set_sha256(pictures),
        images_per_prompt=max(counts),
        resolution=shown_sizes(pictures),
        generation=generation | ({"subject": config.subject} if config.subject else {}),
        device=device_name(process.device),
        dtype=judge.passport.get("dtype", "float32"),
        versions=library_versions(("torch", "torchvision", "lpips", "numpy", "pillow")),
        models={"judge": dict(judge.passport)},
        thresholds={},
        recipe={"size": config.size, "mean": "over pairs of a prompt, then over prompts"},
        notes=notes,
    )


def write_scores(directory: Path, out_dir: Path) -> Summary:
    """Means of the distances saved in `directory`: `scores.jsonl`, a row a prompt, and `summary.json`, in `out_dir`."""
    settings = read_passport(directory / "passport.json")
    pairs: dict[str, list[float]] = {}
    for row in iter_objects(directory / FINDINGS, ("prompt_id", "index", "distances")):
        pairs.setdefault(row["prompt_id"], []).extend(row["distances"])
    values = {prompt_id: float(np.mean(distances)) for prompt_id, distances in pairs.items()}
    estimate = bootstrap_ci(["all"] * len(values), list(values), list(values.values()), bounds=(0.0, GREATEST))
    size, name = settings["recipe"]["size"], settings["models"]["judge"].get("name", NOT_STATED)
    summary = Summary(
        benchmark=BENCHMARK,
        version=f"{len(values)} prompts, {settings['images_per_prompt']} pictures each at most",
        variant=name + (f", at {size} px" if size else ""),
        subject=settings["generation"]["subject"],
        overall=estimate.value,
        overall_ci95=(estimate.low, estimate.high),
        by_category={},
        num_expected=len(values),
        num_scored=len(values),
        passport=settings,
    )
    rows = (
        Score(prompt_id=prompt_id, index=0, category="all", value=value / GREATEST, reason="")
        for prompt_id, value in values.items()
    )
    write_jsonl(out_dir / "scores.jsonl", rows)
    write_json(out_dir / "summary.json", summary)
    return summary
