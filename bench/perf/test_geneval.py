"""GenEval's speed: our path and the published script's way of working, same images, same random weights, one process.

Published: one image at a time, every query's mask enlarged, a new loader with four workers for each colour check, which
is one object's: no prompt of GenEval asks a colour of more. Four checks an image is the issue's case; the suite itself
has 294 in 553 prompts, so the ratio at that rate is printed beside it, from the same timings.
Run: pytest bench/perf/test_geneval.py -s          (L2P_PERF_IMAGES=8 for a shorter study; the full sizes take minutes)
"""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from clip_benchmark.metrics.zeroshot_classification import run_classification
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from bench.geneval.colors import ColorClassifier, cut_out, random_colors
from bench.geneval.mask2former import Mask2Former, postprocess
from bench.geneval.rules import COLORS, judge
from bench.perf.reduced import FULL, REDUCED, random_detector
from bench.records import Detection

NUM_IMAGES = int(os.environ.get("L2P_PERF_IMAGES", "64"))
NUM_OBJECTS = 4
BATCH_SIZE = 8
CHECKS_PER_IMAGE = 294 / 553  # colour clauses in GenEval's prompts

Seconds = dict[str, float]
"""Time spent in the `detector` and on `colors`."""


@contextmanager
def adding_to(spent: Seconds, part: str) -> Iterator[None]:
    """Add the time that the block takes to a part."""
    start = time.perf_counter()
    yield
    spent[part] = spent.get(part, 0.0) + time.perf_counter() - start


@dataclass(frozen=True)
class Crops(Dataset):
    """One image's objects of one class, as the published script hands them to its loader."""

    image: Image.Image
    objects: list[Detection]
    transform: Any

    def __len__(self) -> int:
        return len(self.objects)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return self.transform(cut_out(self.image, self.objects[index])), 0


def four_objects(found: list[Detection]) -> list[Detection]:
    """The four best detections."""
    return sorted(found, key=lambda d: (-d.score, d.label, d.box))[:NUM_OBJECTS]


def ours(detector: Mask2Former, colors: ColorClassifier, images: list[Image.Image], spent: Seconds) -> list[tuple]:
    """Batches through the detector, all crops of a batch through CLIP at once."""
    results = []
    for start in range(0, len(images), BATCH_SIZE):
        batch = images[start : start + BATCH_SIZE]
        with adding_to(spent, "detector"):
            pairs = zip(batch, detector(batch), strict=True)
            chosen = [(image, d) for image, found in pairs for d in four_objects(found)]
        with adding_to(spent, "colors"):
            results += [(d.label, d.box, d.score, color) for (_, d), color in zip(chosen, colors(chosen), strict=True)]
    return results


def published(detector: Mask2Former, colors: ColorClassifier, images: list[Image.Image], spent: Seconds) -> list[tuple]:
    """One image, then one object at a time, a loader of four workers for each."""
    results = []
    for image in images:
        with adding_to(spent, "detector"):
            chosen = four_objects(_detect_all_masks(detector, image))
        for d in chosen:
            with adding_to(spent, "colors"):
                loader = DataLoader(Crops(image, [d], colors.transform), batch_size=16, num_workers=4)
                logits, _ = run_classification(colors.model, colors.classifier(d.label), loader, "cpu", amp=False)
            results.append((d.label, d.box, d.score, COLORS[int(logits[0].argmax())]))
    return results


def _detect_all_masks(detector: Mask2Former, image: Image.Image) -> list[Detection]:
    pixels, size = detector.preprocess(image, detector.scale)
    classes, masks = detector.forward(pixels[None])
    padded, shape = (pixels.shape[-2], pixels.shape[-1]), (image.height, image.width)
    every = postprocess(classes[0], masks[0], padded, size, shape, min_score=-1.0)
    return [detector._detection(*one) for one in zip(*every, strict=True)]


def pictures(number: int, side: int = 512) -> list[Image.Image]:
    """Images of coloured rectangles on noise."""
    random, made = np.random.default_rng(0), []
    for _ in range(number):
        pixels = random.integers(90, 160, (side, side, 3), dtype=np.uint8)
        for _ in range(6):
            (x, y), (w, h) = random.integers(0, side - 150, 2), random.integers(60, 150, 2)
            pixels[y : y + h, x : x + w] = random.integers(0, 256, 3)
        made.append(Image.fromarray(pixels))
    return made


def compared(detector: Mask2Former, colors: ColorClassifier, images: list[Image.Image]) -> None:
    """Time both ways, demand equal results, print the ratio."""
    ours(detector, colors, images, {})  # warm, and the classifiers made: both ways keep them
    spent: dict[Any, Seconds] = {ours: {}, published: {}}
    results = {way: way(detector, colors, images, spent[way]) for way in spent}
    for a, b in zip(results[ours], results[published], strict=True):
        assert a[0] == b[0] and a[3] == b[3]
        assert a[2] == pytest.approx(b[2], abs=1e-3) and np.allclose(a[1], b[1], atol=2)
    assert len(results[ours]) == NUM_OBJECTS * len(images)
    print(f"\n{len(images)} images, {torch.get_num_threads()} threads; all {len(results[ours])} objects alike")
    for way, parts in spent.items():
        shown = ", ".join(f"{part} {seconds / len(images):.2f} s" for part, seconds in parts.items())
        print(f"{way.__name__}: {sum(parts.values()) / len(images):.2f} s an image ({shown})")
    ratio = sum(spent[published].values()) / sum(spent[ours].values())
    old, new = (s["detector"] + s["colors"] * CHECKS_PER_IMAGE / NUM_OBJECTS for s in (spent[published], spent[ours]))
    print(f"ratio {ratio:.2f}; {old / new:.2f} at the suite's own {CHECKS_PER_IMAGE:.2f} colour checks an image")


def test_the_reduced_networks():
    """Swin width 48, depths 2-2-2-2, 20 queries, CLIP ViT-B-16; reported: both ways pay the same detector at 800 px."""
    compared(random_detector(REDUCED), random_colors("ViT-B-16-quickgelu"), pictures(NUM_IMAGES))


def test_the_full_networks_once():
    """Swin-s and ViT-L-14 on four images: the ratio is reported, not judged."""
    compared(random_detector(FULL), random_colors("ViT-L-14-quickgelu"), pictures(4))


def test_the_rules_alone():
    """The recorded cases at 20,000 images a second or more."""
    recorded = Path(__file__).parents[2] / "tests" / "recorded"
    with gzip.open(recorded / "geneval_rules_cases.jsonl.gz", "rt") as file:
        cases = [json.loads(line) for line in file]
    ready = [
        (
            c["metadata"],
            [
                Detection(label=d["cls"], box=tuple(d["box"]), score=d["score"], color=d["color"])
                for d in c["detections"]
            ],
        )
        for c in cases
    ]
    start = time.perf_counter()
    for metadata, detections in ready:
        judge(metadata, detections)
    rate = len(ready) / (time.perf_counter() - start)
    print(f"\nrules: {rate:,.0f} images a second")
    assert rate >= 20_000


MEMORY = """
import resource, sys, tempfile
from pathlib import Path
import numpy as np
from PIL import Image
from bench.geneval.score import ScoreConfig, score_folder
from bench.geneval.prompts import generate, write_suite
from bench.records import Detection
number = int(sys.argv[1])
entries = generate()[: number // 4]
folder = Path(tempfile.mkdtemp())
write_suite(folder / "images", entries)
pixels = np.random.default_rng(0).integers(0, 256, (512, 512, 3), dtype=np.uint8)
for i in range(len(entries)):
    for k in range(4):
        Image.fromarray(pixels).save(folder / f"images/{i:05}/samples/{k:04}.png", compress_level=0)
mask = np.ones((512, 512), bool)
def detector(images):
    one = [Detection(label="cat", box=(0, 0, 9, 9), score=0.5, color="red", mask=mask.copy()) for _ in range(20)]
    return [list(one) for _ in images]
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
config = ScoreConfig(watch_detector=False, device="cpu", num_resamples=200)
score_folder(folder / "images", detector, folder / "out", entries=entries, config=config)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
"""


def test_memory_does_not_grow_with_the_number_of_images():
    """Peak memory of scoring 200 and 2,000 images of 512 px with 20 masks each."""
    grown = {}
    for number in (200, 2000):
        ended = subprocess.run([sys.executable, "-c", MEMORY, str(number)], capture_output=True, text=True, check=True)
        grown[number] = float(ended.stdout.split()[-1])
    print(f"\npeak memory above the start: {grown[200]:.0f} MiB for 200 images, {grown[2000]:.0f} MiB for 2,000")
    assert grown[2000] < grown[200] + 30
