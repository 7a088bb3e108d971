"""All that is asked of mmdet itself: the one file that imports it, for programs of `.venv-mmdet` only."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

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
