"""DPG-Bench as published, for recipes: the question file that a person has, and mPLUG."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from bench.dpg.vqa import Options, mplug, mplug_python

if TYPE_CHECKING:
    from bench.records import VQA

QUESTIONS = "L2P_DPG_QUESTIONS"
"""Environment variable that names the question file, DPG-Bench's `dpg_bench.csv` (1,065 items)."""

WEIGHTS = "L2P_MPLUG_WEIGHTS"
"""Environment variable that names a folder of mPLUG's weights; without it they come from modelscope."""


def questions(path: Path) -> None:
    """Put the question file that $L2P_DPG_QUESTIONS names at `path`. FileNotFoundError where there is none."""
    given = os.environ.get(QUESTIONS, "")
    if not Path(given).is_file():
        raise FileNotFoundError("; ".join(missing_questions()))
    shutil.copyfile(given, path)


def vqa() -> VQA:
    """MPLUG-large in its own environment, on this process's device: a loader without arguments.

    Raises FileNotFoundError without that environment.
    """
    from bench.runner import this_process

    return mplug(Options(model=os.environ.get(WEIGHTS, ""), device=this_process().device))


def missing_questions() -> Iterator[str]:
    """What is wrong with $L2P_DPG_QUESTIONS, in a sentence."""
    given = os.environ.get(QUESTIONS, "")
    if not Path(given).is_file():
        found = f"which names {given}, where no file is" if given else "which is not set"
        yield f"DPG-Bench's questions: set {QUESTIONS}, {found}, to its question file (dpg_bench.csv)"


def missing() -> list[str]:
    """What these functions need and do not find here, a sentence each."""
    sentences = list(missing_questions())
    if not mplug_python().exists():
        sentences.append("DPG-Bench's VQA model mPLUG: make its environment with `nox -s dpg-mplug`")
    weights = os.environ.get(WEIGHTS, "")
    if weights and not Path(weights).is_dir():
        sentences.append(f"mPLUG's weights: {WEIGHTS} names {weights}, where no folder is")
    return sentences
