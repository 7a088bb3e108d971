"""What all tests share: no network, one thread a process, the folder of recorded cases."""

import os
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # nets this small are faster so, and bytes do not depend on the machine
os.environ["HF_HUB_OFFLINE"] = "1"

import pytest


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The recorded cases: $L2P_SHARED, or `shared/data` beside the repository; tests are skipped without it."""
    beside = Path(__file__).parents[2] / "shared" / "data"
    folder = Path(os.environ.get("L2P_SHARED", beside))
    if not folder.is_dir():
        pytest.skip(f"no recorded cases at {folder}: set L2P_SHARED to their folder")
    return folder
