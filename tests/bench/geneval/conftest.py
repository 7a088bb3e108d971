"""A small suite whose images say themselves what a detector should find in them."""

import json

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from bench.records import Detection

SHAPES = ("circle", "square", "star")


def entry(shape, count=1, color=None, tag="single_object"):
    clause = {"class": shape, "count": count} | ({"color": color} if color else {})
    text = f"a photo of {count} {color or ''} {shape}s"
    return {"tag": tag, "include": [clause], "prompt": text}


def suite(num_prompts=12):
    """Entries of two tasks over three shapes, each text once."""
    entries = []
    for number in range(num_prompts):
        shape, task = SHAPES[number % 3], ("single_object", "colors")[number % 2]
        made = entry(shape, color="red" if task == "colors" else None, tag=task)
        entries.append(made | {"prompt": f"{made['prompt']}, number {number}"})
    return entries


class TruthfulDetector:
    """Reads what to find from an image's first pixel: red = shape's number, green = score; draws on nothing else."""

    labels = SHAPES
    passport = {"name": "truthful", "weights": "none"}

    def __init__(self):
        self.num_images = 0

    def __call__(self, images):
        self.num_images += len(images)
        found = []
        for image in images:
            shape, score, color = np.asarray(image)[0, 0].tolist()
            label = SHAPES[shape % 3]
            found.append(
                [Detection(label=label, box=(1, 2, 9, 9), score=score / 255, color=("red", "blue")[color % 2])]
            )
        return found


def write_images(directory, entries, images_per_prompt=2, size=8, seed=0):
    """The suite's folders with images whose first pixel asks for the right shape, in most of them."""
    random = np.random.default_rng(seed)
    for number, one in enumerate(entries):
        folder = directory / f"{number:05}"
        (folder / "samples").mkdir(parents=True)
        (folder / "metadata.jsonl").write_text(json.dumps(one) + "\n")
        for index in range(images_per_prompt):
            pixels = random.integers(0, 256, (size, size, 3), dtype=np.uint8)
            shape = SHAPES.index(one["include"][0]["class"])
            pixels[0, 0] = (shape if random.random() < 0.8 else random.integers(3), random.integers(100, 256), 0)
            Image.fromarray(pixels).save(folder / "samples" / f"{index:04}.png", pnginfo=PngImagePlugin.PngInfo())
    return directory


@pytest.fixture
def entries():
    return suite()


@pytest.fixture
def images(tmp_path, entries):
    return write_images(tmp_path / "images", entries)


@pytest.fixture
def detector():
    return TruthfulDetector()
