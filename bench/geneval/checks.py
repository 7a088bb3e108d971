"""Is the detector the right one, rightly fed? A wrong checkpoint or preprocessing scores near 0 without a word.

Three lines of defence beside the strict loading in `detectors.py`: labelled photographs (`self_test`), a comparison
on 50 images of the suite (`check_detector`), and a count over the first 50 images scored (`first_images_alarm`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from bench.geneval.images import Folder
from bench.geneval.rules import COLORS, PUBLISHED
from bench.records import Detection, Prompt, read_jsonl
from l2p.errors import InputError
from l2p.pictures import PictureError, read_picture

Detect = Callable[[Sequence[Image.Image], Sequence[Prompt]], list[list[Detection]]]

NUM_WATCHED = 50
SURE_SCORE = PUBLISHED.score_threshold  # what counts as a detection here
MIN_PER_IMAGE = 0.1  # fewer sure detections an image than this is "almost none"
MIN_FOUND = 0.8  # share of a photograph folder's labels that the self-test asks for
NUM_SHUFFLES = 1000
MIN_COMPARED = 10  # fewer objects than this say nothing about fit
MIN_LIFT = 2.0  # the detector must fit its prompts at least this many times better than shuffled ones

CAUSES = (
    "Likely causes: the wrong checkpoint or weights of another version, the wrong preprocessing (BGR for RGB, no "
    "normalisation, another size), a half-loaded head, or a dtype too short for the model."
)


class DetectorError(InputError):
    """The detector fails a check: it is not the one it should be, or not fed as it should be."""


def swap_red_blue(image: Image.Image) -> Image.Image:
    """The image with its red and blue channels exchanged: RGB for BGR."""
    return Image.fromarray(np.ascontiguousarray(np.asarray(image)[..., ::-1]))


def self_test(detect: Detect, directory: Path, batch_size: int) -> dict[str, Any]:
    """Look for the labels of photographs: `labels.jsonl` in `directory`, {"file_name": "a.jpg", "labels": ["red car"]}.

    A label is a class name, with one of GenEval's colours before it where the colour is to be checked too. Returns the
    share found; raises DetectorError below 80 %, and ValueError or FileNotFoundError for a folder of another layout.
    """
    photographs = read_photographs(directory)
    found = _share_found(detect, photographs, batch_size, lambda image: image)
    if found < MIN_FOUND:
        swapped = _share_found(detect, photographs, batch_size, swap_red_blue)
        hint = f" With red and blue swapped {swapped:.0%} are found: the channels are the wrong way round."
        raise DetectorError(
            f"Self-test: {found:.0%} of the labels in {directory} are found, at least {MIN_FOUND:.0%} are needed."
            f"{hint if swapped > found + 0.1 else ''} {CAUSES}"
        )
    return {"photographs": len(photographs), "share_found": round(found, 4)}


def read_photographs(directory: Path) -> list[tuple[Path, Prompt]]:
    """Each photograph of a self-test with a prompt that asks for its labels; ValueError or FileNotFoundError."""
    path = directory / "labels.jsonl"
    if not path.is_file():
        raise FileNotFoundError(f'{path} is missing: a line an image, {{"file_name": "a.jpg", "labels": ["dog"]}}.')
    photographs = []
    for row in read_jsonl(path):
        labels = row.get("labels") if isinstance(row, dict) else None
        named = isinstance(labels, list) and labels and all(isinstance(label, str) for label in labels)
        if not named or not isinstance(row.get("file_name"), str):
            raise InputError(
                f'{path}: a line must be {{"file_name": "a.jpg", "labels": ["dog", "red car"]}}; got {row}.'
            )
        if Path(row["file_name"]).name != row["file_name"]:
            raise InputError(f"{path}: {row['file_name']!r} must be the plain name of a file beside it.")
        spec = {"tag": "self_test", "include": [_clause(label) for label in row["labels"]]}
        prompt = Prompt(id=row["file_name"], text=", ".join(row["labels"]), category="self_test", spec=spec)
        photographs.append((directory / row["file_name"], prompt))
    if not photographs:
        raise InputError(f"{path} is empty: label some photographs.")
    return photographs


def _clause(label: str) -> dict[str, Any]:
    color, _, name = label.partition(" ")
    return {"class": name, "count": 1, "color": color} if name and color in COLORS else {"class": label, "count": 1}


def _share_found(
    detect: Detect, photographs: Sequence[tuple[Path, Prompt]], batch_size: int, change: Callable
) -> float:
    hits: list[float] = []
    for start in range(0, len(photographs), batch_size):
        paths, prompts = zip(*photographs[start : start + batch_size], strict=True)
        found = detect([change(_photograph(path)) for path in paths], prompts)
        for prompt, detections in zip(prompts, found, strict=True):
            hits += [_best_score(clause, detections) > SURE_SCORE for clause in prompt.spec["include"]]
    return float(np.mean(hits))


def _photograph(path: Path) -> Image.Image:
    try:
        return read_picture(path)
    except PictureError as error:
        raise InputError(f"The photograph {path} cannot be used: {error}.") from error


def _best_score(clause: dict[str, Any], detections: Sequence[Detection], with_color: bool = True) -> float:
    """Score of the best detection of the clause's class, and of its colour if that is asked for; 0 without one."""
    color = clause.get("color") if with_color else None
    fitting = [d.score for d in detections if d.label == clause["class"] and color in (None, d.color)]
    return max(fitting, default=0.0)


def check_detector(detect: Detect, folder: Folder, batch_size: int) -> dict[str, Any]:
    """Try the detector on 50 images spread over the suite, as they are and with red and blue swapped.

    Raises DetectorError when it finds almost nothing, when its classes or its colours fit the prompts hardly better
    than the same prompts shuffled, or when they fit clearly better with the channels swapped. Returns the figures.
    """
    images, prompts = _spread(folder)
    given = _detect_all(detect, images, prompts, batch_size)
    num_sure = sum(detection.score > SURE_SCORE for one in given for detection in one)
    if num_sure < MIN_PER_IMAGE * len(images):
        raise DetectorError(_almost_nothing(num_sure, len(images)))
    fits = {"classes": _class_fits(given, prompts), "colors": _color_fits(given, prompts)}
    report: dict[str, Any] = {"images": len(images), "detections": int(num_sure)}
    for name, matrix in fits.items():
        report[name] = _against_shuffled(matrix)
        _refuse_unrelated(name, report[name])
    swapped = _detect_all(detect, [swap_red_blue(image) for image in images], prompts, batch_size)
    gain = _agreement(swapped, prompts) - _agreement(given, prompts)  # [images]
    _refuse_swapped(gain)
    return report | {"gain_with_swapped_channels": round(float(gain.mean()), 4)}


def _refuse_unrelated(name: str, fit: dict[str, float] | None) -> None:
    if fit and (fit["p_value"] > 0.05 or fit["own"] < MIN_LIFT * fit["shuffled"]):
        raise DetectorError(
            f"The {name} that the detector finds fit the prompts hardly better ({fit['own']:.2f}) than shuffled ones "
            f"({fit['shuffled']:.2f}, p = {fit['p_value']:.2f}). {CAUSES} Or the images do not show what was asked: "
            "--no-self-test goes on all the same."
        )


def _refuse_swapped(gain: np.ndarray) -> None:
    error = max(gain.std(ddof=1) / np.sqrt(len(gain)), 1e-9) if len(gain) > 1 else np.inf
    if gain.mean() > 0.05 and gain.mean() / error > 3:
        raise DetectorError(
            f"The detector fits the prompts better by {gain.mean():.2f} (over 3 standard errors) when red and blue are "
            "swapped: it is fed BGR for RGB, or the reverse. (--no-self-test goes on all the same.)"
        )


def _spread(folder: Folder) -> tuple[list[Image.Image], list[Prompt]]:
    """At most 50 readable images, evenly spread over those that are there, with their prompts."""
    by_id = {prompt.id: prompt for prompt in folder.prompts}
    there = [sample for sample in folder.samples if sample is not None]
    chosen = np.unique(np.linspace(0, len(there) - 1, min(NUM_WATCHED, len(there))).round().astype(int))
    images, prompts = [], []
    for sample in (there[i] for i in chosen):
        try:
            images.append(read_picture(sample.path))
        except PictureError:
            continue  # the run itself reports an unreadable image, by name
        prompts.append(by_id[sample.prompt_id])
    return images, prompts


def _detect_all(
    detect: Detect, images: Sequence[Image.Image], prompts: Sequence[Prompt], batch_size: int
) -> list[list[Detection]]:
    found: list[list[Detection]] = []
    for start in range(0, len(images), batch_size):
        found += detect(images[start : start + batch_size], prompts[start : start + batch_size])
    return found


def _agreement(found: Sequence[Sequence[Detection]], prompts: Sequence[Prompt]) -> np.ndarray:
    """For each image the mean best score over what its prompt asks for, colours included [images]."""
    pairs = zip(found, prompts, strict=True)
    return np.array([np.mean([_best_score(c, one) for c in prompt.spec["include"]]) for one, prompt in pairs])


def _class_fits(found: Sequence[Sequence[Detection]], prompts: Sequence[Prompt]) -> np.ndarray:
    """How well each image's detections fit each prompt, by class: mean best score [images, prompts]."""
    return np.array(
        [
            [np.mean([_best_score(c, one, with_color=False) for c in prompt.spec["include"]]) for prompt in prompts]
            for one in found
        ]
    )


def _color_fits(found: Sequence[Sequence[Detection]], prompts: Sequence[Prompt]) -> np.ndarray:
    """For all asked and surely found objects, whether the colour of one [n] is the colour asked of another [n]."""
    seen, asked = [], []
    for one, prompt in zip(found, prompts, strict=True):
        for clause in (clause for clause in prompt.spec["include"] if "color" in clause):
            same = [d for d in one if d.label == clause["class"] and d.score > SURE_SCORE]
            if same:
                seen.append(max(same, key=lambda d: d.score).color)
                asked.append(clause["color"])
    return np.array([[float(color == wanted) for wanted in asked] for color in seen])


def _against_shuffled(fits: np.ndarray) -> dict[str, float] | None:
    """Mean of the diagonal, mean over shuffled columns, and the p-value of the first among the second.

    None where it cannot be told: fewer than ten rows, or all prompts ask alike.
    """
    if len(fits) < MIN_COMPARED:
        return None
    generator, rows = np.random.default_rng(0), np.arange(len(fits))
    shuffled = np.array([fits[rows, generator.permutation(len(fits))].mean() for _ in range(NUM_SHUFFLES)])
    own = float(np.trace(fits) / len(fits))
    if shuffled.std() < 1e-9:
        return None
    p_value = (np.sum(shuffled >= own - 1e-9) + 1) / (NUM_SHUFFLES + 1)
    return {"own": round(own, 4), "shuffled": round(float(shuffled.mean()), 4), "p_value": round(float(p_value), 4)}


def first_images_alarm() -> Callable[[Sequence[Sequence[Detection]]], None]:
    """A function that is shown each batch's detections and raises DetectorError after 50 images with almost none."""
    num_images = num_sure = 0

    def watch(found: Sequence[Sequence[Detection]]) -> None:
        nonlocal num_images, num_sure
        if num_images >= NUM_WATCHED:
            return
        num_images += len(found)
        num_sure += sum(detection.score > SURE_SCORE for one in found for detection in one)
        if num_images >= NUM_WATCHED and num_sure < MIN_PER_IMAGE * num_images:
            raise DetectorError(_almost_nothing(num_sure, num_images))

    return watch


def _almost_nothing(num_sure: int, num_images: int) -> str:
    return (
        f"The detector finds almost nothing: {num_sure} objects above {SURE_SCORE} in {num_images} images. {CAUSES} "
        "If the images really show nothing, --no-self-test goes on."
    )
