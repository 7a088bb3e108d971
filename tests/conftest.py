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
PARTS = pytest.StashKey[list[tuple[bool, list]]]()  # of each process of pytest-xdist: whether whole, what was noted
STALE = pytest.StashKey[list[tuple[str, str]]]()  # rows of docs/errors.md that no test gives


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(WRITE_ERRORS, action="store_true", help="run the bad inputs alone and write docs/errors.md anew")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption(WRITE_ERRORS):
        items[:] = [item for item in items if "noted" in getattr(item, "fixturenames", ())]


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node) -> None:
    """One process of pytest-xdist has ended: keep what it noted."""
    if part := getattr(node, "workeroutput", {}).get("noted"):
        node.config.stash.setdefault(PARTS, []).append(part)


@pytest.hookimpl(tryfirst=True)  # the closing lines tell of it
def pytest_sessionfinish(session: pytest.Session) -> None:
    """With all bad inputs given, docs/errors.md is what they noted, no row more: or it is written anew."""
    config = session.config
    own = (notes.is_whole(session), sorted(notes.SEEN))
    if hasattr(config, "workeroutput"):
        config.workeroutput["noted"] = own
        return
    parts = config.stash.get(PARTS, [own])
    if session.testsfailed or not all(whole for whole, _ in parts):
        return  # a part of them was given
    seen = {(command, line) for _, rows in parts for command, line in rows}
    if config.getoption(WRITE_ERRORS):
        notes.TABLE.write_text(notes.as_table(seen), encoding="utf-8")
    elif stale := notes.in_table(notes.TABLE.read_text("utf-8")) - seen:
        config.stash[STALE] = sorted(stale)
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter, config: pytest.Config) -> None:
    for command, line in config.stash.get(STALE, []):
        terminalreporter.line(f"docs/errors.md has a row that no test gives: {command}: {line}", red=True)


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
