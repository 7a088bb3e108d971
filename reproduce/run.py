"""A run: its stages in order, in this process or in several, resumed where it was left."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from bench.records import read_json, write_json
from l2p.errors import InputError
from l2p.progress import say
from reproduce import launch, preflight
from reproduce.dry import is_dry, prepare
from reproduce.files import clear, find_harm, keep_record, sweep, was_taken
from reproduce.inputs import check_judges, keep_files, load_judges, source_files, source_sha256
from reproduce.manifest import LOCK, check_folder, finished, open_run, read_manifest, recorded
from reproduce.prompts import DEFAULT_OUT, PAPER_NUM
from reproduce.quiet import hide_loading_bars
from reproduce.recipes import Recipe
from reproduce.redo import followers, is_redone, put_away, set_aside

Work = Callable[[Recipe, Path], dict[str, Any] | None]
"""A stage: the recipe and the run folder in; out what run.json keeps of it, if anything."""

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


@dataclass(frozen=True, kw_only=True)
class Options:
    """What a command may ask beside its recipe, folder and stages.

    `reuse` is a run to take finished parts from (`reproduce.reuse`), `redo` are stages to make anew
    (`reproduce.redo`), `asked` is how later calls find the recipe again; `quiet` tells neither progress nor the end,
    `as_json` prints the end as JSON.
    """

    allow_missing: bool = False
    reuse: Path | None = None
    redo: tuple[str, ...] = ()
    asked: dict[str, Any] | None = None
    quiet: bool = False
    as_json: bool = False


def reproduce(
    recipe: Recipe, run_dir: Path, stages: Sequence[str], *, arguments: Sequence[str], options: Options
) -> int:
    """Run `stages` of `recipe` in `run_dir` and return the exit status.

    `arguments` is this command's own line: processes that it starts are given the same. Raises ValueError,
    FileNotFoundError or OSError for what is wrong with the recipe, the folder, the source or the disk, before anything
    is written.
    """
    begins = not launch.is_ours() and launch.is_main()
    if begins:
        _open(recipe, run_dir, stages, options)
    num_processes = preflight.num_processes(recipe)
    if num_processes == 1 or launch.is_launched() or set(stages) <= set(ON_ONE_PROCESS):
        run_stages(recipe, run_dir, stages, options.reuse)
        status = 0
    else:
        status = launch.launch(arguments, num_processes, cpu=preflight.num_gpus() == 0)
    if status == 0 and begins and "report" in stages and not (options.quiet and not options.as_json):
        from reproduce.stages import report

        report.end(run_dir, as_json=options.as_json)
    return status


def _open(recipe: Recipe, run_dir: Path, stages: Sequence[str], options: Options) -> None:
    """Check all that can be checked before a run, then begin its folder or go on with it."""
    if set(stages) <= {"report"} and (run_dir / "run.json").is_file():
        check_needs(read_manifest(run_dir), run_dir, stages)  # what lies there is told, and nothing is added
        return
    if is_dry(recipe):
        prepare(recipe, run_dir)
    preflight.check(recipe, run_dir)
    preflight.check_reuse(options.reuse)
    files = source_files(recipe, run_dir)
    source = source_sha256(files)
    check_folder(recipe, run_dir, source)
    is_there = (run_dir / "run.json").is_file()
    manifest = read_manifest(run_dir) if is_there else {"stages": {}, "inputs": {}}
    check_needs(manifest, run_dir, stages)
    if "score" in stages and manifest["inputs"].get("judges") and "score" not in followers(options.redo, NEEDS):
        check_judges(recipe, manifest["inputs"]["judges"], run_dir, load_judges(recipe))
    if "transfer" in stages and not finished(manifest, "transfer") and not is_redone(manifest, "transfer"):
        preflight.check_state(run_dir / "transfer" / "state")
    if preflight.is_made(recipe.corpus.prompts):
        make_missing(recipe)
    with _locked(run_dir):
        manifest = open_run(
            recipe, run_dir, source_sha256=source, allow_missing=options.allow_missing, asked=options.asked
        )
        keep_files(files, run_dir)
        _prepare(recipe, run_dir, stages, manifest, options.redo)


def _prepare(
    recipe: Recipe, run_dir: Path, stages: Sequence[str], manifest: dict[str, Any], redo: Sequence[str]
) -> None:
    """Sweep what a kill left, set aside what is made anew, and open finished stages again whose files are harmed."""
    sweep(run_dir)
    if redo or manifest.get("redo"):
        set_aside(run_dir, manifest, redo, followers(redo, NEEDS))
    for stage in stages:
        if finished(manifest, stage) and (harm := find_harm(recipe, run_dir, stage)):
            say(f"{stage}: {harm}: made again")
            manifest["stages"][stage]["finished"] = None
            if stage == "transfer" and was_taken(run_dir):
                manifest["reused"].pop("transfer", None)
            write_json(run_dir / "run.json", manifest)
            clear(run_dir, stage, harm)


def check_needs(manifest: dict[str, Any], run_dir: Path, stages: Sequence[str]) -> None:
    """Raise ValueError when a stage reads what another writes that is neither finished nor asked for before it."""
    for stage in stages:
        missing = [before for before in NEEDS[stage] if before not in stages and not finished(manifest, before)]
        if missing:
            raise InputError(f"stage {stage} reads what {', '.join(missing)} writes in {run_dir}: run that stage first")


def make_missing(recipe: Recipe) -> None:
    """Write the prompts that the recipe reads and nobody has made: by the grammar, as `python -m reproduce prompts`."""
    from reproduce.prompts.make import PromptsConfig, make_prompts

    num = max(recipe.corpus.num_prompts, PAPER_NUM)  # a quick look at few leaves a file that a whole run can use
    config = PromptsConfig(num=num, out=Path(DEFAULT_OUT), seed=recipe.corpus.seed)
    numbers = make_prompts(config)
    say(f"wrote {numbers['accepted']:,} prompts to {config.out} ({numbers['rejected']:,} rejected): it was not there")


def run_stages(recipe: Recipe, run_dir: Path, stages: Sequence[str], reuse: Path | None = None) -> None:
    """Run the stages in this process, beside the other processes of its launcher if there are any."""
    import torch
    from accelerate import PartialState

    launch.die_with_launcher()
    launch.raise_on_signals()
    if recipe.size == "miniature" or not sys.stderr.isatty():
        hide_loading_bars()
    if not torch.cuda.is_available():
        launch.prepare_processor()
    # accelerate groups processes on CPUs only when told that they are; one may score for long while the others wait
    state = PartialState(cpu=not torch.cuda.is_available(), timeout=timedelta(days=2))
    launch.check_group(state.num_processes)
    state.wait_for_everyone()  # the first has checked the folder by now
    with _locked(run_dir) if state.is_main_process else _unlocked():
        for stage in stages:
            run_stage(recipe, run_dir, stage, reuse)


def run_stage(recipe: Recipe, run_dir: Path, stage: str, reuse: Path | None = None) -> None:
    """Run one stage unless it is finished; the main process records it. ValueError when an earlier one is missing."""
    from accelerate import PartialState

    state = PartialState()
    manifest = read_json(run_dir / "run.json")
    state.wait_for_everyone()  # all have read it before one of them changes it
    if finished(manifest, stage) and stage not in ALWAYS:
        return
    check_needs(manifest, run_dir, [stage])
    work = importlib.import_module(f"reproduce.stages.{stage}").run
    if state.is_main_process:
        _run_recorded(work, recipe, run_dir, stage, manifest, reuse)
    elif stage not in ON_ONE_PROCESS:
        state.wait_for_everyone()  # what is taken from another run is there
        work(recipe, run_dir)
    state.wait_for_everyone()


def _run_recorded(
    work: Work, recipe: Recipe, run_dir: Path, stage: str, manifest: dict[str, Any], reuse: Path | None
) -> None:
    """The main process's way through a stage: take what another run has drawn, work, keep the record of both."""
    from accelerate import PartialState

    from reproduce.reuse import adopt, remember

    state = PartialState()
    if not is_redone(manifest, stage):
        adopt(recipe, run_dir, stage, manifest, reuse)
    if stage not in ON_ONE_PROCESS:
        state.wait_for_everyone()
    with recorded(manifest, run_dir, stage, state.num_processes) as found:
        found |= work(recipe, run_dir) or {}
        found |= remember(recipe, run_dir, stage, manifest)
        keep_record(run_dir, stage)
    put_away(run_dir, manifest, stage)


@contextmanager
def _locked(run_dir: Path) -> Iterator[None]:
    """Hold the run folder; the system lets go of it when this process ends, however it ends."""
    run_dir.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(run_dir / LOCK, timeout=5):
            yield
    except Timeout as error:
        raise InputError(f"another process is at work in {run_dir}: wait for it or stop it") from error


@contextmanager
def _unlocked() -> Iterator[None]:
    yield
