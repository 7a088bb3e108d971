"""What all tests share: no network, one thread a process, the folder of recorded cases."""

import os
import subprocess
import sys
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # nets this small are faster so, and bytes do not depend on the machine
os.environ["HF_HUB_OFFLINE"] = "1"
# Processes that tests start find this checkout first, wherever they are started.
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH")]))

import pytest

from tests import noted as notes

WRITE_ERRORS = "--write-errors"
LAST = "test_no_row_of_the_table_stands_without_an_input"  # compares what all others noted


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(WRITE_ERRORS, action="store_true", help="run the bad inputs alone and write docs/errors.md anew")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: item.name == LAST)
    if config.getoption(WRITE_ERRORS):
        items[:] = [item for item in items if "noted" in getattr(item, "fixturenames", ())]


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    if session.config.getoption(WRITE_ERRORS) and exitstatus == 0 and notes.is_whole(session):
        notes.TABLE.write_text(notes.as_table(notes.SEEN), encoding="utf-8")


@pytest.fixture
def noted(request, tmp_path_factory):
    """Every bad input that the test gives to a command in this process stands in docs/errors.md as it ends."""
    folder, given = tmp_path_factory.getbasetemp(), notes.given_to(request.node)
    with notes.noting(request.module, given, folder) as rows:
        yield
    if not request.config.getoption(WRITE_ERRORS):
        notes.refuse_unknown(rows, notes.TABLE.read_text("utf-8"))


@pytest.fixture(scope="session")
def recorded() -> Path:
    """The folder of recorded cases; its README says where each comes from."""
    return Path(__file__).parent / "recorded"


@pytest.fixture(scope="session")
def contract_run(tmp_path_factory) -> Path:
    """A run folder that the command filled as for a user: the tiny recipe, all six stages; read only.

    What it printed lies beside the folder, in `stdout.txt` and `stderr.txt`.
    """
    from tests.reproduce import tiny

    folder = tmp_path_factory.mktemp("contract")
    tiny.save_source(folder / "source" / "flux")
    run_dir = folder / "runs" / "tiny"
    command = [sys.executable, "-m", "reproduce", "flux", "--recipe", "tests.reproduce.tiny:recipe"]
    done = subprocess.run(
        [*command, "--run", str(run_dir)],
        env=os.environ | {"L2P_TINY_SOURCE": str(folder / "source" / "flux")},
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
    )
    for name, text in (("stdout", done.stdout), ("stderr", done.stderr)):
        (run_dir.parent / f"{name}.txt").write_text(text)
    assert done.returncode == 0, done.stderr
    return run_dir
