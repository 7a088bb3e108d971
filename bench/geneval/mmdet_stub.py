"""mmcv without its compiled operators, enough for mmdet's Mask2Former: for the environment `.venv-mmdet` only."""

from __future__ import annotations

import importlib.machinery
import sys
import types
from typing import Any


class _Extension(types.ModuleType):
    """A module whose every operator exists, and raises NotImplementedError only when it is called."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)

        def operator(*arguments: Any) -> None:
            raise NotImplementedError(f"mmcv's compiled operator {name} is not in this environment.")

        return operator


def install() -> None:
    """Stand in for `mmcv._ext`, unless a compiled one is there; Mask2Former calls none of its operators on the CPU."""
    try:
        import mmcv._ext  # noqa: F401
    except ModuleNotFoundError:
        extension = _Extension("mmcv._ext")
        extension.__spec__ = importlib.machinery.ModuleSpec("mmcv._ext", None)
        sys.modules["mmcv._ext"] = extension
