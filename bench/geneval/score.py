"""From a folder of images to GenEval's scores: detect, colour, save, judge, summarise."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from bench.geneval.checks import Detect, check_detector, first_images_alarm, read_photographs, self_test
from bench.geneval.images import Folder, read_folder
from bench.geneval.prompts import IMAGES_PER_PROMPT, Entry, is_rewritten
from bench.geneval.rules import PUBLISHED, SAVED_SCORE, Thresholds, needs_color
from bench.geneval.summary import BENCHMARK, checked_detection, write_scores
from bench.judges import Judge, JudgeError, as_judge
from bench.machine import device_name
from bench.passport import NOT_STATED, file_sha256, generation_settings, library_versions, passport
from bench.records import (
    Detection,
    ImageSample,
    IncompleteError,
    Prompt,
    Summary,
    iter_jsonl,
    read_summary,
    write_json,
    write_jsonl,
)
from bench.runner import (
    Process,
    Row,
    check_output,
    check_settings,
    cut_batches,
    locked,
    run_batches,
    this_process,
    without_stale_scores,
)
from l2p.errors import InputError
from l2p.pictures import PictureError, read_picture

if TYPE_CHECKING:
    from bench.records import Detector

LIBRARIES = ("torch", "torchvision", "transformers", "open_clip_torch", "numpy", "pillow")

ColorClassifier = Callable[[list[Any]], list[str]]
"""Crops (`bench.geneval.colors.Crop`) in, a colour of `COLORS` for each out."""


@dataclass(frozen=True, kw_only=True)
class ScoreConfig:
    """How a folder is scored; every default is the published setting or changes no score."""

    num_prompts: int | None = None
    images_per_prompt: int = IMAGES_PER_PROMPT
    batch_size: int = 8
    device: str = "auto"
    thresholds: Thresholds = PUBLISHED
    allow_partial: bool = False
    watch_detector: bool = True  # the alarm of `bench.geneval.checks`; off under --no-self-test
    self_test_dir: Path | None = None
    subject: str = ""
    generation: Mapping[str, Any] | None = None  # None: `generation.json` in the images' folder, if there
    num_resamples: int = 2000


def score_folder(
    images_dir: Path | str,
    detector: Detector,
    out_dir: Path | str,
    *,
    entries: Sequence[Entry] | None = None,
    color_classifier: ColorClassifier | None = None,
    detector_name: str = NOT_STATED,
    config: ScoreConfig | None = None,
) -> Summary:
    """Score the images of a suite and write `detections.jsonl`, `scores.jsonl` and `summary.json` into `out_dir`.

    `entries` is the suite (default: see `bench.geneval.images.read_folder`). `detector` is a function or a
    `bench.judges.Judge` with `labels` (then a prompt's unknown class is refused), `passport` (name, weights,
    preprocessing) and `colors` (its `color_classifier`, where none is given). Resumable; processes of a launcher such
    as torchrun share the work. Raises IncompleteError for missing or unreadable images, and ValueError for bad input,
    for a detector that fails its checks, and for an `out_dir` that holds results of other settings.
    """
    images_dir, out_dir, config = Path(images_dir), Path(out_dir), config or ScoreConfig()
    folder = check_inputs(images_dir, out_dir, entries, config)
    judge = as_judge(detector, {"name": detector_name, "weights": NOT_STATED})
    colors = color_classifier or judge.colors
    color_judge = as_judge(colors, {"name": NOT_STATED}) if colors else None
    _refuse_unknown_classes(folder, judge)
    process = this_process(config.device)
    with locked(out_dir) if process.index == 0 else nullcontext():
        _score(folder, judge, color_judge, process, images_dir, out_dir, config)
        process.wait()
        return read_summary(out_dir / "summary.json")


def check_inputs(images_dir: Path, out_dir: Path, entries: Sequence[Entry] | None, config: ScoreConfig) -> Folder:
    """Look at everything that can be wrong before a model is loaded; make the folder of results.

    Raises IncompleteError, ValueError or OSError: missing images, no or bad photographs, `generation.json`, no place.
    """
    folder = read_folder(images_dir, entries, config.num_prompts, config.images_per_prompt)
    if folder.missing and (not config.allow_partial or len(folder.missing) == len(folder.samples)):
        raise IncompleteError(folder.missing, len(folder.samples))
    generation_settings(_given(images_dir, config))
    if config.self_test_dir:
        read_photographs(config.self_test_dir)
    check_output(out_dir, images_dir)
    return folder


def _score(
    folder: Folder,
    judge: Judge,
    colors: Judge | None,
    process: Process,
    images_dir: Path,
    out_dir: Path,
    config: ScoreConfig,
) -> None:
    """Detect and judge this process's share; the first process writes the results."""
    models = {"detector": dict(judge.passport), "colors": dict(colors.passport) if colors else "given by the detector"}
    if process.index == 0:
        check_settings(out_dir / "settings.json", _settings(folder, models, config))
        write_jsonl(out_dir / "prompts.jsonl", [prompt.spec for prompt in folder.prompts])
    detect = detect_and_color(judge, colors)
    checks = _check(detect, folder, config)
    work = _worker(detect, folder, first_images_alarm() if config.watch_detector else None)
    batches = cut_batches(folder.samples, config.batch_size)
    rows = run_batches(batches, work, out_dir, name="detections", process=process)
    if process.index == 0:
        write_json(out_dir / "passport.json", _passport(images_dir, folder, rows, models, checks, process, config))
        with without_stale_scores(out_dir):
            write_scores(out_dir, config.thresholds, config.allow_partial, config.num_resamples)


def _passport(
    images_dir: Path,
    folder: Folder,
    rows: Path,
    models: dict[str, Any],
    checks: dict[str, Any],
    process: Process,
    config: ScoreConfig,
) -> dict[str, Any]:
    """Every setting that the score depends on, but the thresholds, which the rules add."""
    sizes = Counter("x".join(map(str, row["size"])) for row in iter_jsonl(rows) if "size" in row)
    generation = generation_settings(_given(images_dir, config))
    generation |= {"subject": config.subject} if config.subject else {}
    rewritten = [prompt.id for prompt in folder.prompts if is_rewritten(prompt.spec)]
    if rewritten:
        if generation["prompts_rewritten"] == NOT_STATED:
            generation["prompts_rewritten"] = True
        some = f"{len(rewritten)} of {len(folder.prompts)} prompts, such as {rewritten[0]}"
        checks = checks | {"prompts_rewritten": f"{some}, do not name what their images are judged by"}
    return passport(
        prompts="GenEval, 553 published prompts" if folder.is_official else f"{len(folder.prompts)} prompts",
        prompts_sha256=folder.sha256,
        images_per_prompt=folder.images_per_prompt,
        resolution=dict(sorted(sizes.items())),
        generation=generation,
        device=device_name(process.device),
        dtype=models["detector"].get("dtype", NOT_STATED),
        versions=library_versions(LIBRARIES),
        models=models,
        checks=checks,
        batch_size=config.batch_size,
        thresholds={},
    )


def _given(images_dir: Path, config: ScoreConfig) -> Mapping[str, Any] | Path:
    return config.generation if config.generation is not None else images_dir / "generation.json"


def _settings(folder: Folder, models: dict[str, Any], config: ScoreConfig) -> dict[str, Any]:
    """What saved detections depend on; thresholds are no part of it."""
    return {
        "benchmark": BENCHMARK,
        "prompts_sha256": folder.sha256,
        "images_per_prompt": folder.images_per_prompt,
        "batch_size": config.batch_size,
        "models": models,
    }


def _refuse_unknown_classes(folder: Folder, detector: Judge) -> None:
    if detector.labels is None:
        return
    for prompt in folder.prompts:
        for clause in [*prompt.spec["include"], *prompt.spec.get("exclude", ())]:
            if clause["class"] not in detector.labels:
                raise InputError(
                    f"Prompt {prompt.id} asks for {clause['class']!r}, which the detector does not know; "
                    f"it knows {', '.join(detector.labels)}."
                )


def _check(detect: Detect, folder: Folder, config: ScoreConfig) -> dict[str, Any]:
    """Run the detector's checks that were asked for; what ran and what did not goes into the passport."""
    tested: Any = "not run: no --self-test folder given"
    if config.self_test_dir:
        tested = self_test(detect, config.self_test_dir, config.batch_size)
    watched: Any = "not run: --no-self-test"
    if config.watch_detector:
        watched = check_detector(detect, folder, config.batch_size)
    return {"self_test": tested, "alarm": watched}


def detect_and_color(detector: Detector, color_classifier: ColorClassifier | None) -> Detect:
    """A function from images and their prompts to the detections that are kept, coloured where the prompt asks.

    It raises JudgeError for a detector that answers anything but a list of detections an image.
    """

    def detect(images: Sequence[Image.Image], prompts: Sequence[Prompt]) -> list[list[Detection]]:
        found = _checked(detector(list(images)), len(images))
        found = [[detection for detection in one if detection.score > SAVED_SCORE] for one in found]
        return _color(images, prompts, found, color_classifier)

    return detect


def _checked(found: Any, num_images: int) -> list[list[Detection]]:
    if not isinstance(found, list | tuple) or not all(isinstance(one, list | tuple) for one in found):
        raise JudgeError(f"The detector must give a list of detections for each image; it gave {_shown(found)}.")
    if len(found) != num_images:
        raise JudgeError(f"The detector gave {len(found)} results for {num_images} images; one each is needed.")
    try:
        return [[checked_detection(detection) for detection in one] for one in found]
    except ValueError as error:
        raise JudgeError(f"The detector gave no detection: {error}.") from error


def _shown(value: Any) -> str:
    return repr(value)[:200]


def _color(
    images: Sequence[Image.Image],
    prompts: Sequence[Prompt],
    found: list[list[Detection]],
    classify: ColorClassifier | None,
) -> list[list[Detection]]:
    """Set the colours that the rules may ask for and the detector left open, all crops of the batch at once."""
    places = [
        (i, j)
        for i, (prompt, detections) in enumerate(zip(prompts, found, strict=True))
        for j in needs_color(prompt.spec, detections)
        if detections[j].color is None
    ]
    if not places:
        return found
    if classify is None:
        raise InputError(
            "The prompts ask for colours, the detector gives none: a colour classifier is needed (--clip, or the "
            "detector's own `colors`)."
        )
    colors = classify([(images[i], found[i][j]) for i, j in places])
    sound = isinstance(colors, list | tuple) and all(isinstance(color, str) for color in colors)
    if not sound or len(colors) != len(places):
        raise JudgeError(f"The colour classifier must give {len(places)} colours; it gave {_shown(colors)}.")
    for (i, j), color in zip(places, colors, strict=True):
        found[i][j] = replace(found[i][j], color=color)
    return found


def _worker(detect: Detect, folder: Folder, watch: Callable | None) -> Callable[[list[ImageSample]], list[Row]]:
    """The work on one batch: read, detect, colour; an unreadable image gets a row that says so."""
    prompts = {prompt.id: prompt for prompt in folder.prompts}

    def work(batch: list[ImageSample]) -> list[Row]:
        rows: list[Row] = [{"prompt_id": s.prompt_id, "index": s.index, "sha256": file_sha256(s.path)} for s in batch]
        readable = [
            (row, image, prompts[sample.prompt_id])
            for sample, row in zip(batch, rows, strict=True)
            if (image := _open_or_none(sample, row)) is not None
        ]
        found = detect([image for _, image, _ in readable], [p for *_, p in readable]) if readable else []
        for (row, image, _), detections in zip(readable, found, strict=True):
            row |= {"size": list(image.size), "detections": [detection_row(d) for d in detections]}
        if watch:
            watch(found)
        return rows

    return work


def _open_or_none(sample: ImageSample, row: Row) -> Image.Image | None:
    try:
        return read_picture(sample.path)
    except PictureError as error:
        row["unscored"] = str(error)
        return None


def detection_row(detection: Detection) -> dict[str, Any]:
    """A detection as saved: the mask's area stands for the mask."""
    return {
        "label": detection.label,
        "box": list(detection.box),
        "score": detection.score,
        "color": detection.color,
        "mask_area": None if detection.mask is None else int(np.count_nonzero(detection.mask)),
    }
