"""From pictures and captions to a CLIP score: cosines on disk, then the recipe's mean of them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bench.clip.variants import ClipVariant, find_variant
from bench.judges import Judge, JudgeError, as_judge
from bench.machine import device_name
from bench.passport import NOT_STATED, file_sha256, generation_settings, library_versions, passport, read_passport
from bench.records import ImageSample, Score, Summary, iter_objects, read_summary, write_json, write_jsonl
from bench.runner import (
    Process,
    Row,
    check_output,
    check_settings,
    cut_batches,
    locked,
    run_batches,
    this_process,
)
from bench.sets import MAX_PIXELS, PictureSet, by_prompt, name_of, notes_on, refuse_broken, shown_sizes, some
from bench.statistics import bootstrap_ci
from l2p.errors import InputError
from l2p.pictures import PictureError, read_picture

BENCHMARK = "clip"
NAME = "cosines"
FINDINGS = f"{NAME}.jsonl"
SCALE = 100.0


@dataclass(frozen=True, kw_only=True)
class ClipConfig:
    """How captions are scored; `batch_size` pictures are held at once."""

    variant: ClipVariant
    batch_size: int = 4
    device: str = "auto"
    subject: str = ""


def match_captions(pictures: PictureSet, captions: Mapping[str, str]) -> list[ImageSample]:
    """The pictures, each with its caption's id as `prompt_id`; InputError names those of either without a partner."""
    samples = by_prompt(pictures, captions)
    strangers = [name_of(sample) for sample in samples if sample.prompt_id not in captions]
    lonely = sorted(set(captions) - {sample.prompt_id for sample in samples})
    if strangers or lonely:
        raise InputError(
            f"{pictures.directory}: without a caption are {some(strangers)} of {len(samples)} pictures; without a "
            f"picture are {some(lonely)} of {len(captions)} captions. Pictures are named <id>.png, <id>_<k>.png or "
            "<id>/<k>.png"
        )
    return samples


def score_clip(
    pictures: PictureSet,
    captions: Mapping[str, str],
    scorer: Callable[..., Any],
    out_dir: Path,
    config: ClipConfig,
) -> Summary:
    """Score each picture against its caption and write `cosines.jsonl`, `scores.jsonl`, `summary.json`.

    Resumable; processes of a launcher share the pictures. Raises InputError: pictures or captions without a partner,
    pictures that cannot be read, an `out_dir` with results of other settings; JudgeError for what is no cosine.
    """
    samples = match_captions(pictures, captions)
    check_output(out_dir, pictures.directory)
    judge = as_judge(scorer, {"name": NOT_STATED})
    process = this_process(config.device)
    with locked(out_dir) if process.index == 0 else nullcontext():
        if process.index == 0:
            check_settings(out_dir / "settings.json", _settings(judge, captions, config))
        batches = cut_batches(samples, config.batch_size)
        path = run_batches(batches, _worker(judge, captions), out_dir, name=NAME, process=process)
        if process.index == 0:
            broken = [f"{row['prompt_id']}/{row['index']}: {row['unscored']}" for row in _unscored(path)]
            if broken:
                refuse_broken(pictures.directory, broken)
            long = _too_long(judge, captions, config.variant)
            write_json(out_dir / "passport.json", _passport(pictures, captions, judge, long, process, config))
            write_scores(out_dir, out_dir)
        process.wait()
        return read_summary(out_dir / "summary.json")


def _settings(judge: Judge, captions: Mapping[str, str], config: ClipConfig) -> dict[str, Any]:
    """What saved cosines depend on; how their mean is taken is no part of it."""
    return {
        "captions_sha256": captions_sha256(captions),
        "model": dict(judge.passport),
        "variant": {key: value for key, value in asdict(config.variant).items() if key != "mean_of"},
        "batch_size": config.batch_size,
    }


def captions_sha256(captions: Mapping[str, str]) -> str:
    """SHA-256 over ids and texts."""
    return hashlib.sha256(json.dumps(dict(captions), ensure_ascii=False).encode()).hexdigest()


def _worker(judge: Judge, captions: Mapping[str, str]) -> Callable[[list[ImageSample]], list[Row]]:
    """The work on one batch: read, ask; an unreadable picture gets a row that says so."""

    def work(batch: list[ImageSample]) -> list[Row]:
        rows: list[Row] = [{"prompt_id": s.prompt_id, "index": s.index, "sha256": file_sha256(s.path)} for s in batch]
        images, seen = [], []
        for sample, row in zip(batch, rows, strict=True):
            try:
                images.append(read_picture(sample.path, MAX_PIXELS))
                seen.append(row)
            except PictureError as error:
                row["unscored"] = str(error)
        texts = [captions[row["prompt_id"]] for row in seen]
        for row, cosine in zip(seen, _checked(judge(images, texts), len(seen)) if seen else [], strict=True):
            row["cosine"] = cosine
        return rows

    return work


def _checked(found: Any, count: int) -> list[float]:
    numbers = isinstance(found, list | tuple) and all(isinstance(one, int | float) for one in found)
    if not numbers or len(found) != count or not all(abs(one) < 1.001 for one in found):  # NaN is none either
        raise JudgeError(f"the scorer must give {count} cosines, -1 to 1; it gave {repr(found)[:200]}")
    return [float(min(1.0, max(-1.0, one))) for one in found]


def _unscored(path: Path) -> list[dict[str, Any]]:
    return [row for row in iter_objects(path) if "unscored" in row]


def _too_long(judge: Judge, captions: Mapping[str, str], variant: ClipVariant) -> list[str]:
    """The ids of captions that are longer than what is read of them."""
    count = getattr(judge.ask, "num_tokens", None)
    return [name for name, text in captions.items() if count(text) > variant.max_tokens] if count else []


def _passport(
    pictures: PictureSet,
    captions: Mapping[str, str],
    judge: Judge,
    long: Sequence[str],
    process: Process,
    config: ClipConfig,
) -> dict[str, Any]:
    generation = generation_settings(pictures.directory / "generation.json")
    notes = notes_on(pictures)
    if long:
        cut = "their end is not read" if config.variant.keep_end else "cut without their end mark, which lowers scores"
        notes.append(f"captions longer than {config.variant.max_tokens} tokens: {some(long)}; {cut}")
    return passport(
        prompts=f"{len(captions)} captions",
        prompts_sha256=captions_sha256(captions),
        images_per_prompt=max(1, len(pictures.samples) // len(captions)),
        resolution=shown_sizes(pictures),
        generation=generation | ({"subject": config.subject} if config.subject else {}),
        device=device_name(process.device),
        dtype=judge.passport.get("dtype", NOT_STATED),
        versions=library_versions(),
        models={"scorer": dict(judge.passport)},
        thresholds={},
        recipe=asdict(config.variant),
        notes=notes,
    )


def write_scores(directory: Path, out_dir: Path) -> Summary:
    """The recipe's mean of the cosines saved in `directory`: `scores.jsonl` and `summary.json` into `out_dir`.

    A picture's value is max(cosine, 0), as 100 points; the interval resamples captions.
    """
    settings = read_passport(directory / "passport.json")
    rows = list(iter_objects(directory / FINDINGS, ("prompt_id", "index", "cosine")))
    variant = find_variant(settings["recipe"]["name"])
    values = [max(0.0, row["cosine"]) for row in rows]
    ids = [row["prompt_id"] for row in rows]
    estimate = bootstrap_ci(["all"] * len(rows), ids, [SCALE * value for value in values], bounds=(0.0, SCALE))
    overall = recipe_mean([row["cosine"] for row in rows], variant)
    summary = Summary(
        benchmark=BENCHMARK,
        version=f"{len(set(ids))} captions",
        variant=variant.name,
        subject=settings["generation"]["subject"],
        overall=overall,
        overall_ci95=(estimate.low + overall - estimate.value, estimate.high + overall - estimate.value),
        by_category={},
        num_expected=len(rows),
        num_scored=len(rows),
        passport=settings,
    )
    scores = (
        Score(prompt_id=row["prompt_id"], index=row["index"], category="all", value=value, reason="")
        for row, value in zip(rows, values, strict=True)
    )
    write_jsonl(out_dir / "scores.jsonl", scores)
    write_json(out_dir / "summary.json", summary)
    return summary


def recipe_mean(cosines: Sequence[float], variant: ClipVariant) -> float:
    """100 x the mean: of max(cosine, 0), or of batches' means, each cut off at 0 as torchmetrics does."""
    if not variant.mean_of:
        return SCALE * float(np.mean([max(0.0, cosine) for cosine in cosines]))
    batches = [cosines[start : start + variant.mean_of] for start in range(0, len(cosines), variant.mean_of)]
    return SCALE * float(np.mean([max(0.0, float(np.mean(batch))) for batch in batches]))
