"""GenEval's prompts as a language model rewrote them: a suite of its own, scored by the same rules."""

from __future__ import annotations

import os
from pathlib import Path

from bench.geneval.prompts import Entry
from bench.records import read_jsonl

PROMPTS = "L2P_GENEVAL_REWRITTEN"
"""Environment variable that names the file: GenEval's own lines with other texts in `prompt`."""


def entries() -> list[Entry]:
    """The lines of the file that $L2P_GENEVAL_REWRITTEN names. FileNotFoundError where there is none."""
    if sentences := missing():
        raise FileNotFoundError(sentences[0])
    return read_jsonl(os.environ[PROMPTS])


def missing() -> list[str]:
    """What `entries` needs and does not find here, in a sentence."""
    given = os.environ.get(PROMPTS, "")
    if Path(given).is_file():
        return []
    found = f"which names {given}, where no file is" if given else "which is not set"
    return [f"GenEval's rewritten prompts: set {PROMPTS}, {found}, to GenEval's metadata lines with other texts"]
