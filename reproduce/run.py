"""A run: its stages in order, in this process or in several, resumed where it was left."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

from filelock import FileLock, Timeout

from bench.records import read_json
from reproduce import launch, preflight
from reproduce.manifest import check_manifest, finished, open_run, recorded
from reproduce.recipes import Recipe

NEEDS: dict[str, tuple[str, ...]] = {
    "corpus": (),
    "transfer": ("corpus",),
    "sample": ("transfer",),
    "score": ("sample",),
    "cost": ("transfer",),
    "report": (),
}
"""The stages in order, each with those that it reads."""

ON_ONE_PROCESS = ("cost", "report")  # the others share their work among the processes
ALWAYS = ("report",)  # reads the folder as it is now, and takes seconds


def reproduce(
    recipe: Recipe, run_dir: Path, stages: Sequence[str], *, arguments: Sequence[str], allow_missing: bool = False
) -> int:
    """Run `stages` of `recipe` in `run_dir` and return the exit status.

    `arguments` is this command's own line: processes that it starts are given the same. Raises ValueError,
    FileNotFoundError or OSError for what is wrong with the folder, the source or the disk, before anything is written.
    """
    if not launch.is_ours() and launch.is_main():
        preflight.check(recipe, run_dir)
        open_run(recipe, run_dir, allow_missing=allow_missing)
    num_processes = preflight.num_processes(recipe)
    if num_processes == 1 or launch.is_launched() or set(stages) <= set(ON_ONE_PROCESS):
        run_stages(recipe, run_dir, stages)
        return 0
    return launch.launch(arguments, num_processes, cpu=preflight.num_gpus() == 0)


def run_stages(recipe: Recipe, run_dir: Path, stages: Sequence[str]) -> None:
    """Run the stages in this process, beside the other processes of its launcher if there are any."""
    import torch
    from accelerate import PartialState

    launch.die_with_launcher()
    launch.raise_on_signals()
    if not torch.cuda.is_available():
        launch.prepare_processor()
    # accelerate groups processes on CPUs only when told that they are; one may score for long while the others wait
    state = PartialState(cpu=not torch.cuda.is_available(), timeout=timedelta(days=2))
    launch.check_group(state.num_processes)
    state.wait_for_everyone()
    check_manifest(read_json(run_dir / "run.json"), recipe, run_dir)
    with _locked(run_dir) if state.is_main_process else _unlocked():
        for stage in stages:
            run_stage(recipe, run_dir, stage)


def run_stage(recipe: Recipe, run_dir: Path, stage: str) -> None:
    """Run one stage unless it is finished; the main process records it. ValueError when an earlier one is missing."""
    from accelerate import PartialState

    state = PartialState()
    manifest = read_json(run_dir / "run.json")
    state.wait_for_everyone()  # all have read it before one of them changes it
    if finished(manifest, stage) and stage not in ALWAYS:
        return
    missing = [before for before in NEEDS[stage] if not finished(manifest, before)]
    if missing:
        raise ValueError(f"stage {stage} reads what {', '.join(missing)} writes in {run_dir}: run that stage first")
    work = importlib.import_module(f"reproduce.{stage}").run
    if state.is_main_process:
        with recorded(manifest, run_dir, stage, state.num_processes):
            work(recipe, run_dir)
    elif stage not in ON_ONE_PROCESS:
        work(recipe, run_dir)
    state.wait_for_everyone()


@contextmanager
def _locked(run_dir: Path) -> Iterator[None]:
    """Hold the run folder; the system lets go of it when this process ends, however it ends."""
    try:
        with FileLock(run_dir / ".lock", timeout=5):
            yield
    except Timeout as error:
        raise ValueError(f"another process is at work in {run_dir}: wait for it or stop it") from error


@contextmanager
def _unlocked() -> Iterator[None]:
    yield
