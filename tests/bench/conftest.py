"""The small folder in GenEval's layout that commands are run on."""

import pytest

from bench.records import write_jsonl

from .commands import ASKED
from .geneval.conftest import suite, write_images


@pytest.fixture
def images(tmp_path):
    ASKED.clear()
    entries = suite(6)
    write_jsonl(tmp_path / "suite.jsonl", entries)
    return write_images(tmp_path / "images", entries)
