"""All that is asked of mmdet itself: the one file that imports it, for programs of `.venv-mmdet` only."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch

CONFIG = ".mim/configs/mask2former/mask2former_swin-s-p4-w7-224_8xb2-lsj-50e_coco.py"


def version() -> str:
    """mmdet's version."""
    import mmdet

    return mmdet.__version__


def config(path: str = "") -> Any:
    """An mmengine Config from a file; by default that of GenEval's Mask2Former, as mmdet ships it."""
    import mmdet
    from mmengine.config import Config

    return Config.fromfile(path or str(Path(mmdet.__file__).parent / CONFIG))


def untrained(settings: Any, device: str) -> Any:
    """mmdet's model of a Config, without a checkpoint, in evaluation mode."""
    from mmdet.apis import init_detector

    return init_detector(settings, None, device=device).eval()


def infer(model: Any, image: np.ndarray) -> Any:
    """mmdet's own loading, resizing, normalising, padding and post-processing of uint8 RGB [H, W, 3]: its instances."""
    from mmdet.apis import inference_detector

    return inference_detector(model, np.ascontiguousarray(image[..., ::-1])).pred_instances


def data_sample(meta: dict[str, Any]) -> Any:
    """A DetDataSample that carries an input's sizes."""
    from mmdet.structures import DetDataSample

    return DetDataSample(metainfo=meta)


@contextmanager
def no_float32() -> Iterator[None]:
    """Have mmdet compute in float64 what it has in float32 always: position encodings and reference points."""
    from mmdet.models.task_modules.prior_generators import MlvlPointGenerator

    points = MlvlPointGenerator.single_level_grid_priors
    defaults = tuple(torch.float64 if value is torch.float32 else value for value in points.__defaults__)
    with patch.object(points, "__defaults__", defaults), patch.object(torch, "float32", torch.float64):
        yield
