"""mmdet itself behind the `Detector` type, as a worker process in an environment of its own."""

from __future__ import annotations

import base64
import os
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from bench.geneval.prompts import OBJECT_NAMES
from bench.records import Detection
from bench.worker import Worker, encode_png
from l2p.errors import InputError

ROOT = Path(__file__).parents[2]


def mmdet_python() -> Path:
    """The Python that has mmdet: `L2P_MMDET_PYTHON`, else `.venv-mmdet`; FileNotFoundError says how to make it."""
    python = Path(os.environ.get("L2P_MMDET_PYTHON", ROOT / ".venv-mmdet" / "bin" / "python"))
    if not python.is_file():
        raise FileNotFoundError(f"{python} is not there: `nox -s parity-mmdet` makes it, or set L2P_MMDET_PYTHON.")
    return python


class MMDet:
    """A `Detector` whose network, pre- and post-processing are mmdet's own; labels are GenEval's names."""

    labels = OBJECT_NAMES

    def __init__(self, weights: str, device: str = "cpu", config: str = ""):
        command = [str(mmdet_python()), "-m", "bench.geneval.mmdet_worker", "--weights", str(Path(weights).resolve())]
        self.worker = Worker([*command, "--device", device, *(["--config", config] if config else [])])
        self.passport: dict[str, Any] = self.worker.passport

    def __call__(self, images: list[Image.Image]) -> list[list[Detection]]:
        reply = self.worker.ask({"images": [encode_png(image) for image in images]})
        if len(reply.get("detections", ())) != len(images):
            raise ConnectionError(f"The mmdet worker gave no detections for {len(images)} images: {reply}")
        pairs = zip(images, reply["detections"], strict=True)
        return [[self._detection(row, image) for row in rows] for image, rows in pairs]

    def _detection(self, row: dict[str, Any], image: Image.Image) -> Detection:
        bits = np.frombuffer(zlib.decompress(base64.b64decode(row["mask"])), np.uint8)
        mask = np.unpackbits(bits, count=image.height * image.width).reshape(image.height, image.width).astype(bool)
        x0, y0, x1, y1 = row["box"]
        return Detection(label=self.labels[row["label"]], box=(x0, y0, x1, y1), score=row["score"], mask=mask)

    def close(self) -> None:
        """End the worker process."""
        self.worker.close()


def start_mmdet(weights: str, device: str = "cpu") -> MMDet:
    """The detector, its worker started; ValueError without weights, FileNotFoundError without the environment."""
    if not weights:
        raise InputError("mmdet needs --weights: an mmdet 2.x or 3.x checkpoint file.")
    if not Path(weights).is_file():
        raise FileNotFoundError(f"{weights} is no file; give mmdet's checkpoint.")
    return MMDet(weights, device)
