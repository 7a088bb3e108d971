"""Detectors by name: your own `package.module:function`, transformers' Mask2Former, mmdet in its own environment."""

from __future__ import annotations

import os
from dataclasses import replace
from importlib.util import find_spec
from typing import TYPE_CHECKING

from bench.judges import Judge, as_judge, load_judge
from bench.named import load_function, refuse_missing_path
from l2p.errors import InputError

if TYPE_CHECKING:
    from bench.geneval.score import ColorClassifier
    from bench.records import Detector

BUILT_IN = ("mask2former", "mmdet")
WEIGHTS = "L2P_GENEVAL_WEIGHTS"
"""Environment variable that tells `published` where the detector's weights lie."""


def check_detector_name(name: str, weights: str = "", preprocessing: str = "") -> None:
    """Raise what `load_detector` would for a name that names nothing and for options of another, without loading it."""
    if name in BUILT_IN:
        refuse_missing_path(weights, "a checkpoint file, a folder in transformers' format, or a hub id")
        return
    if weights or preprocessing:
        raise InputError(f"--weights and --preprocessing are for {' and '.join(BUILT_IN)}; {name!r} brings its own.")
    if ":" not in name:
        raise InputError(f"{name!r} is neither {' nor '.join(BUILT_IN)} nor a package.module:function.")
    load_function(name)


def load_detector(name: str, weights: str = "", preprocessing: str = "", device: str = "cpu") -> Detector:
    """A detector by name; `weights` and `preprocessing` are for the built-in ones.

    Raises ValueError for an unknown name and for weights that do not fit, FileNotFoundError for missing ones.
    """
    check_detector_name(name, weights, preprocessing)
    if name == "mask2former":
        from bench.geneval.mask2former import load_mask2former

        return load_mask2former(weights, preprocessing, device)
    if name == "mmdet":
        from bench.geneval.mmdet import start_mmdet

        return start_mmdet(weights, device)
    return load_judge(name)


NO_WEIGHTS = (
    f"GenEval's detector needs its weights: set {WEIGHTS} to GenEval's checkpoint (OpenMMLab's "
    "mask2former_swin-s-p4-w7-224_lsj_8x2_50e_coco_20220504_001756-743b7d99.pth), mmdet 3.x's, or a folder or hub id "
    "in transformers' format."
)


def missing() -> list[str]:
    """What `published` needs and does not find here, a sentence each."""
    weights = os.environ.get(WEIGHTS, "")
    sentences = [] if weights else [NO_WEIGHTS]
    try:
        refuse_missing_path(weights, "a checkpoint file, a folder in transformers' format, or a hub id")
    except FileNotFoundError as error:
        sentences.append(f"GenEval's detector, which {WEIGHTS} names: {error}")
    if find_spec("open_clip") is None:
        sentences.append("GenEval's colours: open_clip is not installed; `pip install open_clip_torch`")
    return sentences


def published() -> Judge:
    """GenEval's Mask2Former with GenEval's colours as its `colors`: a loader without arguments, for recipes.

    The detector's weights are what $L2P_GENEVAL_WEIGHTS names, CLIP's come from the hub or its cache; the device is
    this process's. Raises ValueError or OSError when either cannot be had.
    """
    from bench.geneval.mask2former import load_mask2former
    from bench.runner import this_process

    weights, device = os.environ.get(WEIGHTS, ""), this_process().device
    if not weights:
        raise InputError(NO_WEIGHTS)
    detector = as_judge(load_mask2former(weights, device=device), {})
    return replace(detector, colors=load_colors("", "openai", "mask2former", device))


def load_colors(name: str, weights: str, detector: str, device: str) -> ColorClassifier | None:
    """The colour classifier: an open_clip model's name, `none`, or your own `package.module:function`.

    Without a name it is GenEval's own for the built-in detectors, and none for others, which bring their colours.
    """
    chosen = name or ("ViT-L-14-quickgelu" if detector in BUILT_IN else "none")
    if chosen == "none":
        return None
    if ":" in chosen:
        return load_judge(chosen)
    from bench.geneval import colors

    return colors.load_colors(chosen, weights, device)
