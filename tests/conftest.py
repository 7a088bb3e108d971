"""What all tests share: no network, one thread a process, the folder of recorded cases."""

import os
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # nets this small are faster so, and bytes do not depend on the machine
os.environ["HF_HUB_OFFLINE"] = "1"

import pytest


@pytest.fixture(scope="session")
def recorded() -> Path:
    """The folder of recorded cases; its README says where each comes from."""
    return Path(__file__).parent / "recorded"
