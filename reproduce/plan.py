"""What a run will cost, before it begins: work, time, disk and memory of each stage.

The miniature's calls are timed on this machine, in processor seconds, with random weights; the paper's size is
predicted from the real classes on fake tensors, with a roofline of one GPU. Judging, cost and report are not predicted.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from bench.cost.cases import Case, Kind
from bench.cost.families import FAMILIES, Family, Sampler, family_from_folder, family_named
from bench.cost.predict import count_parameters, predict, prepare
from bench.cost.roofline import device_named, latency_band_s
from l2p.config import TransferConfig
from reproduce.ending import clock
from reproduce.launch import prepare_processor
from reproduce.recipes import Recipe, source_of
from reproduce.recipes.base import drawn_at
from reproduce.stages.sample import suite_samples

GIB = 2**30
PAPER_DEVICE = "h100"
LIBRARIES_BYTES = int(0.85 * GIB)  # resident memory of a process that has imported torch and diffusers, on a CPU


@dataclass(frozen=True, kw_only=True)
class Work:
    """`calls` of one case, shared among the run's processes where `shared`."""

    stage: str
    what: str
    case: Case
    calls: int
    shared: bool = True


def print_plan(recipe: Recipe, run_dir: Path, num_processes: int) -> None:
    """Print each stage's work, time and memory, the run's disk, and what the figures rest on.

    Of a family that `bench.cost` does not know only the work and the disk.
    """
    table = Table(title=f"Plan of {recipe.name} in {run_dir}, {num_processes} processes")
    for column in ("stage", "work", "calls", "seconds a call", "time", "tensors a process"):
        table.add_column(column)
    works = list(planned(recipe, num_processes))
    known = recipe.family in FAMILIES
    costs = {case: call_cost(case, recipe) for case in {work.case for work in works}} if known else {}  # once each
    totals = [0.0, 0.0]
    for work in works:
        calls = math.ceil(work.calls / num_processes) if work.shared else work.calls
        figures = ["not known"] * 3
        if known:
            low, high, memory = costs[work.case]
            totals = [totals[0] + calls * low, totals[1] + calls * high]
            seconds = _band(low, high, lambda value: f"{value:.3g}")
            figures = [seconds, _band(calls * low, calls * high, clock), f"{memory / GIB:.2f} GiB"]
        table.add_row(work.stage, work.what, f"{calls:,}", *figures)
    console = Console(soft_wrap=True)
    console.print(table)
    console.print(_time_told(recipe, totals) if known else f"Time: bench/cost/families.py has no {recipe.family!r}.")
    console.print(
        f"Disk: up to {disk_bytes(recipe) / GIB:.2f} GiB. Memory: {LIBRARIES_BYTES / GIB:.2f} GiB of libraries"
    )
    console.print("a process, tensors as above; nothing was started.")


def _time_told(recipe: Recipe, totals: list[float]) -> str:
    basis = f"a roofline of one {PAPER_DEVICE}, not measured"
    if recipe.size == "miniature":
        basis = "processor time here: idle cores assumed"
    return f"Time: {_band(totals[0], totals[1], clock)} and the start of processes, scoring, cost and report ({basis})."


def planned(recipe: Recipe, num_processes: int) -> Iterator[Work]:
    """The heavy calls of all stages."""
    suites = sum(num_images(recipe).values())
    source, pixel = recipe.source_sampler, recipe.l2p_sampler
    corpus = recipe.corpus.num_prompts * recipe.corpus.images_per_prompt
    drawn = {"corpus": math.ceil(corpus / source.batch_size), "sample": math.ceil(suites / source.batch_size)}
    for stage, batches in drawn.items():
        forwards = source.num_inference_steps * (1 if source.guidance_scale == 1 else 2)
        yield Work(stage=stage, what="source forward", case=_case(recipe, "source"), calls=batches * forwards)
        yield Work(stage=stage, what="VAE decode", case=_case(recipe, "vae"), calls=batches)
        if stage == "corpus":
            case = _train_case(recipe, num_processes)
            yield Work(stage="transfer", what="step", case=case, calls=recipe.transfer.num_train_steps, shared=False)
    batches = math.ceil(suites / pixel.batch_size)
    yield Work(
        stage="sample", what="pixel forward", case=_case(recipe, "l2p"), calls=batches * pixel.num_inference_steps
    )


def num_images(recipe: Recipe) -> dict[str, int]:
    """Images of one subject by suite."""
    return {suite.name: len(suite_samples(suite)) for suite in recipe.suites}


def _case(recipe: Recipe, kind: Kind) -> Case:
    batch = {
        "source": recipe.source_sampler.batch_size,
        "vae": recipe.source_sampler.batch_size,
        "l2p": recipe.l2p_sampler.batch_size * (1 if recipe.l2p_sampler.guidance_scale == 1 else 2),
        "train": recipe.transfer.batch_size,
    }[kind]
    return Case(
        kind=kind,
        family=recipe.family,
        resolution=drawn_at(recipe, "source" if kind in ("source", "vae") else "l2p"),
        batch_size=batch,
        text_tokens=recipe.source_sampler.max_sequence_length,
        patch_size=recipe.transfer.patch_size if kind in ("l2p", "train") else 0,
    )


def _train_case(recipe: Recipe, num_processes: int = 1) -> Case:
    """A process's share of a step, trained as `l2p.transfer` does it: weights that train in float32, AdamW fused."""
    transfer = recipe.transfer
    return replace(
        _case(recipe, "train"),
        batch_size=max(1, transfer.batch_size // num_processes),
        num_trainable_blocks=num_blocks_trained(transfer),
        released=transfer.trainable == "released",
        checkpointed=transfer.gradient_checkpointing,
        mixed=transfer.mixed_precision != "no",
        optimizer="fused",
    )


def num_blocks_trained(transfer: TransferConfig) -> int | None:
    """Blocks that train at each end; None = all of them."""
    return {"all": None, "head": 0}.get(transfer.trainable, transfer.num_trainable_blocks)


def call_cost(case: Case, recipe: Recipe) -> tuple[float, float, int]:
    """Fewest and most seconds that one call takes, and the bytes of tensors that it needs at most."""
    family, dtype = family_of(recipe), getattr(torch, recipe.dtype)
    prediction = predict(case, family, dtype=dtype)
    averaged = case.kind == "train" and recipe.transfer.ema_decay is not None  # l2p.transfer's, float32
    memory = prediction.peak_memory_bytes + 4 * averaged * prediction.num_trainable_parameters
    if recipe.size == "paper":
        return *latency_band_s(prediction.operators, device_named(PAPER_DEVICE)), memory
    prepare_processor()  # as the run's processes do
    seconds = processor_seconds(prepare(case, family, dtype=dtype).run)
    return seconds, seconds, memory


def processor_seconds(run: Callable[[], object], num_repeats: int = 3) -> float:
    """Seconds of one core that a call takes, the best of a few: what else runs on the machine hardly counts."""
    run()
    seconds = []
    for _ in range(num_repeats):
        start = time.process_time()
        run()
        seconds.append(time.process_time() - start)
    return min(seconds)


@cache
def _family(name: str, source: str, text_tokens: int) -> Family:
    folder = Path(source)
    if not folder.is_dir():
        return family_named(name)
    sampler = Sampler(num_inference_steps=1, forwards_per_step=1, source="this recipe")  # not used here
    return family_from_folder(name, folder, text_tokens=text_tokens, sampler=sampler)


def family_of(recipe: Recipe) -> Family:
    """Configurations of the recipe's source: its folder's, or the published ones for a hub id."""
    return _family(recipe.family, source_of(recipe), recipe.source_sampler.max_sequence_length)


def disk_bytes(recipe: Recipe) -> int:
    """At most what the run folder will hold: all images as raw pixels (grids beside their tiles), models, one state."""
    pixels = 3 * recipe.resolution**2
    corpus = recipe.corpus.num_prompts * recipe.corpus.images_per_prompt
    samples = sum(num_images(recipe).values())
    num_parameters, num_trained = count_parameters(_train_case(recipe), family_of(recipe))
    element = torch.finfo(getattr(torch, recipe.dtype)).bits // 8
    model = num_parameters * element
    state = num_trained * 4 * 4  # float32: weights, two moments, average
    return pixels * (corpus + 4 * samples) + 2 * model + 3 * state


def _band(low: float, high: float, show: Callable[[float], str]) -> str:
    return show(low) if low == high else f"{show(low)} to {show(high)}"
