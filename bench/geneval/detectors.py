"""Detectors by name: your own `package.module:function`, transformers' Mask2Former, mmdet in its own environment."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bench.geneval.score import ColorClassifier
    from bench.records import Detector


def load_by_name(name: str) -> Any:
    """Call the zero-argument loader named `package.module:function`; ValueError says what is wrong with the name."""
    module_name, _, function = name.partition(":")
    if not function or not all(part.isidentifier() for part in [*module_name.split("."), function]):
        raise ValueError(f"{name!r} is no `package.module:function`.")
    try:
        module = import_module(module_name)
    except ModuleNotFoundError as error:
        raise ValueError(f"{name!r}: module {error.name!r} is not found from here.") from error
    if not callable(getattr(module, function, None)):
        raise ValueError(f"{name!r}: module {module_name} has no function {function!r}.")
    return getattr(module, function)()


def load_detector(name: str, weights: str, preprocessing: str, device: str) -> Detector:
    """A detector by name."""
    return load_by_name(name)


def load_colors(name: str, weights: str, detector: str, device: str) -> ColorClassifier | None:
    """The colour classifier."""
    return None
