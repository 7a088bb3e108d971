"""The tiny source, and children that start quickly: a fork server that has imported the heavy libraries once."""

import hashlib
import multiprocessing
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.reproduce import tiny

PRELOADED = ["torch", "diffusers", "transformers", "tests.reproduce.tiny", "reproduce.run", "reproduce.reuse"]


@pytest.fixture(scope="session")
def tiny_source(tmp_path_factory) -> Path:
    """A random FluxPipeline's folder; $L2P_TINY_SOURCE says so to recipes, here and in children."""
    folder = tmp_path_factory.mktemp("source") / "flux"
    tiny.save_source(folder)
    os.environ["L2P_TINY_SOURCE"] = str(folder)
    yield folder
    del os.environ["L2P_TINY_SOURCE"]


@pytest.fixture(scope="session")
def child(tiny_source, tmp_path_factory) -> Callable[..., tuple[int, str]]:
    """Run a function of `tiny` in a fresh process: returns its exit code (negative: the signal) and what it printed."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    folder = tmp_path_factory.mktemp("logs")

    def run(function: Callable, *arguments) -> tuple[int, str]:
        log = folder / f"{len(list(folder.iterdir()))}.log"
        log.touch()
        process = context.Process(target=function, args=arguments, kwargs={"log": str(log)})
        process.start()
        process.join()
        return process.exitcode, log.read_text()

    return run


def tree(folder: Path, *parts: str) -> dict[str, str]:
    """SHA-256 of every file under the parts of a folder; the parts must hold some, or nothing would be compared."""
    files = [path for part in parts for path in sorted((folder / part).rglob("*")) if path.is_file()]
    assert files, f"{folder} has no files under {parts}"
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
