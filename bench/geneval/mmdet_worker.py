"""mmdet's own Mask2Former as a worker process: runs in `.venv-mmdet`, speaks JSON lines (see `bench.geneval.mmdet`).

Greeting {"passport": {...}}; a request {"images": [base64 PNG, ...]} is answered by {"detections": [[...], ...]}, each
detection with the class's number, score, box and its mask's packed bits, or by {"error": "..."}.
"""

from __future__ import annotations

import argparse
import base64
import io
import json
import os
import re
import sys
import warnings
import zlib
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from PIL import Image

from bench.geneval import mmdet_model, mmdet_stub
from bench.geneval.convert import TO_MMDET_3, checkpoint_format, read_checkpoint
from bench.geneval.rules import SAVED_SCORE
from bench.passport import file_sha256
from l2p.errors import InputError


def load(weights: str, config: str, device: str) -> Any:
    """mmdet's model with every tensor of the checkpoint, 2.x names renamed; ValueError when they do not fit.

    mmdet itself would load what fits and only warn about the rest: so a 2.x checkpoint quietly scores 0.
    """
    model = mmdet_model.untrained(mmdet_model.config(config), device)
    state_dict = read_checkpoint(weights)
    if checkpoint_format(state_dict) == "mmdet-2":
        state_dict = {_renamed(name): tensor for name, tensor in state_dict.items()}
    try:
        model.load_state_dict(state_dict, strict=True)
    except RuntimeError as error:
        raise InputError(f"{weights} does not fit mmdet's model: {error}") from error
    return model


def _renamed(name: str) -> str:
    for pattern, replacement in TO_MMDET_3:
        name = re.sub(pattern, replacement, name)
    return name


def detect(model: Any, images: list[str]) -> list[list[dict[str, Any]]]:
    """Detections above `SAVED_SCORE` in images given as base64 PNG, one list an image."""
    found = []
    for image in images:
        rgb = np.asarray(Image.open(io.BytesIO(base64.b64decode(image))).convert("RGB"))
        instances = mmdet_model.infer(model, rgb).cpu()
        sure = instances[instances.scores > SAVED_SCORE]
        found.append([_row(*one) for one in zip(sure.labels, sure.scores, sure.bboxes, sure.masks, strict=True)])
    return found


def _row(label: Any, score: Any, box: Any, mask: Any) -> dict[str, Any]:
    bits = base64.b64encode(zlib.compress(np.packbits(mask.numpy()).tobytes())).decode()
    return {"label": int(label), "score": float(score), "box": box.tolist(), "mask": bits}


def serve(model: Any, passport: dict[str, Any], replies: TextIO) -> None:
    """Greet, then answer each request line until the input ends."""
    print(json.dumps({"passport": passport}), file=replies, flush=True)
    for line in sys.stdin:
        reply = {"detections": detect(model, json.loads(line)["images"])}
        print(json.dumps(reply), file=replies, flush=True)


def main() -> None:
    """The command line; all that mmdet prints goes to stderr, so that stdout holds replies alone."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--weights", required=True)
    parser.add_argument("--config", default="")
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    warnings.filterwarnings("ignore")
    mmdet_stub.install()
    model = load(arguments.weights, arguments.config, arguments.device)
    passport = {"name": f"mmdet {mmdet_model.version()}", "weights": Path(arguments.weights).name}
    serve(model, passport | {"sha256": file_sha256(arguments.weights), "preprocessing": "mmdet-3"}, replies)


if __name__ == "__main__":
    main()
