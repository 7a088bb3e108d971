"""From saved detections to scores and a summary: the rules applied, again and again, with no model and no image."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from math import isfinite
from pathlib import Path
from typing import Any

from bench.geneval.prompts import OFFICIAL_SHA256, as_prompts, suite_sha256
from bench.geneval.rules import PUBLISHED, Thresholds, judge, keep
from bench.passport import read_passport
from bench.records import (
    Detection,
    IncompleteError,
    Prompt,
    Score,
    Summary,
    iter_objects,
    read_jsonl,
    read_summary,
    write_json,
    write_jsonl,
)
from bench.runner import Row
from bench.statistics import bootstrap_ci, category_means
from l2p.errors import InputError

BENCHMARK = "geneval"
FINDINGS = "detections.jsonl"


def read_detections(row: Row) -> list[Detection]:
    """The detections of a saved row; ValueError names the image whose detections are no detections."""
    try:
        return [
            checked_detection(Detection(label=d["label"], box=tuple(d["box"]), score=d["score"], color=d["color"]))
            for d in row["detections"]
        ]
    except (KeyError, TypeError, ValueError) as error:
        what = f"{type(error).__name__}: {error}"
        raise InputError(
            f"The saved detections of image {row['prompt_id']}/{row['index']} are broken ({what})."
        ) from error


def checked_detection(detection: Detection) -> Detection:
    """The detection with its box to 1/1000 px and its score to 1e-6, so that saved ones give the same verdicts.

    ValueError for what is no detection: a label or colour that is no text, a box that is no four numbers, a score that
    is none of 0 to 1 (NaN would count as "not found").
    """
    if not isinstance(detection, Detection):
        raise InputError(f"bench.records.Detection is needed; got {detection!r}")
    if not isinstance(detection.label, str) or not isinstance(detection.color, str | None):
        raise InputError(f"label must be text, color text or None; got {detection.label!r}, {detection.color!r}")
    try:
        box, score = [round(float(side), 3) for side in detection.box], round(float(detection.score), 6)
    except (TypeError, ValueError, OverflowError) as error:
        raise InputError(f"box and score must be numbers; got {detection.box!r}, {detection.score!r}") from error
    if len(box) != 4 or not all(map(isfinite, box)) or not 0 <= score <= 1:
        raise InputError(
            f"box must be four numbers (xyxy in pixels), score 0 to 1; got {detection.box!r}, {detection.score!r}"
        )
    return replace(detection, box=(box[0], box[1], box[2], box[3]), score=score)


def judge_rows(prompts: Sequence[Prompt], rows: Iterable[Row], thresholds: Thresholds) -> list[Score]:
    """A score for each saved row; an unscored image keeps its reason and has the value None.

    ValueError for a row of an unknown prompt, and for an image with two rows.
    """
    by_id = {prompt.id: prompt for prompt in prompts}
    scores: dict[tuple[str, int], Score] = {}
    for row in rows:
        prompt_id, index = row["prompt_id"], row["index"]
        if prompt_id not in by_id or (prompt_id, index) in scores:
            fault = "is detected twice" if prompt_id in by_id else f"is of no prompt of the suite's {len(by_id)}"
            raise InputError(f"{FINDINGS}: image {prompt_id}/{index} {fault}.")
        scores[prompt_id, index] = _judge_row(by_id[prompt_id], row, thresholds)
    return list(scores.values())


def _judge_row(prompt: Prompt, row: Row, thresholds: Thresholds) -> Score:
    value, reason = None, row.get("unscored", "")
    if "unscored" not in row:
        correct, reason = judge(prompt.spec, read_detections(row), thresholds)
        value = float(correct)
    return Score(prompt_id=prompt.id, index=row["index"], category=prompt.category, value=value, reason=reason)


def write_scores(
    directory: Path,
    thresholds: Thresholds,
    allow_partial: bool = False,
    num_resamples: int = 2000,
    out_dir: Path | None = None,
) -> Summary:
    """Judge the detections saved in `directory` and write `scores.jsonl` and `summary.json` (into `out_dir`).

    Raises before anything is written: FileNotFoundError when nothing was saved there, ValueError for broken files, and
    IncompleteError when images are missing or unscored and no partial score was asked for.
    """
    out_dir = out_dir or directory
    settings, prompts = read_passport(directory / "passport.json"), as_prompts(read_jsonl(directory / "prompts.jsonl"))
    scores = judge_rows(prompts, iter_objects(directory / FINDINGS, ("prompt_id", "index")), thresholds)
    scores = _with_missing(scores, prompts, settings["images_per_prompt"])
    unscored = [f"{s.prompt_id}/samples/{s.index:04}.png: {s.reason}" for s in scores if s.value is None]
    if unscored and (not allow_partial or len(unscored) == len(scores)):
        raise IncompleteError(unscored, len(scores))
    summary = summarise(scores, prompts, settings | {"thresholds": asdict(thresholds)}, num_resamples)
    text = {prompt.id: prompt.text for prompt in prompts}
    write_jsonl(out_dir / "scores.jsonl", (asdict(score) | {"text": text[score.prompt_id]} for score in scores))
    write_json(out_dir / "summary.json", summary)
    return summary


def _with_missing(scores: list[Score], prompts: Sequence[Prompt], images_per_prompt: int) -> list[Score]:
    """All expected scores in order; those without a row are unscored because missing."""
    there = {(score.prompt_id, score.index): score for score in scores}
    return [
        there.get((p.id, i)) or Score(prompt_id=p.id, index=i, category=p.category, value=None, reason="missing")
        for p in prompts
        for i in range(images_per_prompt)
    ]


def summarise(
    scores: Sequence[Score], prompts: Sequence[Prompt], settings: Mapping[str, Any], num_resamples: int = 2000
) -> Summary:
    """Overall = mean of the tasks' shares of correct images, with a 95 % interval bootstrapped by prompt text.

    Where no task has two texts (the miniature's held-out pairs) prompts have no spread, and images are resampled: the
    passport's `resampled` says which. Unscored images make the summary partial: its variant and its passport say so.
    """
    text = {prompt.id: prompt.text for prompt in prompts}
    scored = [score for score in scores if score.value is not None]
    categories, values = [score.category for score in scored], [score.value or 0.0 for score in scored]
    texts = [text[score.prompt_id] for score in scored]
    by_prompt = len(set(zip(categories, texts, strict=True))) > len(set(categories))
    clusters = texts if by_prompt else [f"{score.prompt_id}/{score.index}" for score in scored]
    estimate = bootstrap_ci(categories, clusters, values, num_resamples=num_resamples)
    partial = len(scored) < len(scores)
    official = suite_sha256([prompt.spec for prompt in prompts]) == OFFICIAL_SHA256
    published = settings["thresholds"] == asdict(PUBLISHED)
    return Summary(
        benchmark=BENCHMARK,
        version="553 prompts, seed 43" if official else f"suite {settings['prompts_sha256'][:12]}",
        variant=("published" if published else "changed thresholds") + (", partial" if partial else ""),
        subject=settings["generation"]["subject"],
        overall=estimate.value,
        overall_ci95=(estimate.low, estimate.high),
        by_category=category_means(categories, values),
        num_expected=len(scores),
        num_scored=len(scored),
        passport={
            **settings,
            "partial": partial,
            "num_resamples": num_resamples,
            "resampled": "prompts" if by_prompt else "images",
        },
    )


def official_results(directory: Path) -> list[dict[str, Any]]:
    """Scores and detections as rows of the published script's `results.jsonl`, for its own `summary_scores.py`."""
    import json

    thresholds = Thresholds(**read_summary(directory / "summary.json").passport["thresholds"])
    prompts = {prompt.id: prompt for prompt in as_prompts(read_jsonl(directory / "prompts.jsonl"))}
    rows = {(row["prompt_id"], row["index"]): row for row in iter_objects(directory / FINDINGS)}
    results = []
    for score in read_jsonl(directory / "scores.jsonl"):
        if score["value"] is None:
            continue  # the published script has no word for unscored; the summary counts it
        spec, row = prompts[score["prompt_id"]].spec, rows[score["prompt_id"], score["index"]]
        threshold = thresholds.score_of(spec["tag"])
        kept = keep(read_detections(row), threshold, thresholds.max_objects, thresholds.max_overlap)
        details = {label: [[*found.box, found.score] for found in group] for label, group in kept.items()}
        results.append(
            {
                "filename": f"{score['prompt_id']}/samples/{score['index']:04}.png",
                "tag": spec["tag"],
                "prompt": spec["prompt"],
                "correct": bool(score["value"]),
                "reason": score["reason"],
                "metadata": json.dumps(spec),
                "details": json.dumps(details),
            }
        )
    return results
