"""What a run will cost, before it begins: work, time, disk and memory of each stage.

The miniature's calls are timed on this machine, in processor seconds, with random weights; the paper's size is
predicted from the real classes on fake tensors, with a roofline of one GPU. Judging, cost and report are not predicted.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from bench.cost.cache import cached_prediction
from bench.cost.cases import Case
from bench.cost.devices import DEVICES
from bench.cost.families import FAMILIES, Family, Sampler, family_from_folder, family_named
from bench.cost.predict import count_parameters, predict, prepare
from bench.cost.roofline import device_named, latency_band_s
from reproduce.cases import case_of, train_case, with_head
from reproduce.ending import clock
from reproduce.launch import prepare_processor
from reproduce.memory import Gpus, advice, fits, gpus_named
from reproduce.recipes import Recipe, Suite, source_of
from reproduce.recipes.base import drawn_at
from reproduce.stages.sample import suite_samples

GIB = 2**30
PAPER_DEVICE = "h100"
PUBLISHED_PROMPTS = {"geneval": 553, "dpg": 1065}
LIBRARIES_BYTES = int(0.85 * GIB)  # resident memory of a process that has imported torch and diffusers, on a CPU


@dataclass(frozen=True, kw_only=True)
class Work:
    """`calls` of one case, shared among the run's processes where `shared`."""

    stage: str
    what: str
    case: Case
    calls: int
    shared: bool = True


def print_plan(recipe: Recipe, run_dir: Path, num_processes: int, gpus: Gpus | None = None) -> None:
    """Print each stage's work, time and memory, the run's disk, and what the figures rest on.

    Of a family that `bench.cost` does not know only the work and the disk. At the paper's size also the setting of each
    stage that fits on `gpus`, or which GPU would do.
    """
    device = gpus.name if gpus is not None and gpus.name in DEVICES else PAPER_DEVICE
    table = Table(title=f"Plan of {recipe.name} in {run_dir}, {num_processes} processes")
    for column in ("stage", "work", "calls", "seconds a call", "time", "tensors a process"):
        table.add_column(column)
    works = list(planned(recipe, num_processes))
    known = recipe.family in FAMILIES
    costs = (
        {case: call_cost(case, recipe, device) for case in {work.case for work in works}} if known else {}
    )  # once each
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
    console.print(
        _time_told(recipe, totals, device) if known else f"Time: bench/cost/families.py has no {recipe.family!r}."
    )
    console.print(
        f"Disk: up to {disk_bytes(recipe) / GIB:.2f} GiB. Memory: {LIBRARIES_BYTES / GIB:.2f} GiB of libraries"
    )
    console.print("a process, tensors as above; nothing was started.")
    if recipe.size == "paper" and known:
        _print_fits(recipe, gpus or gpus_named(f"1x{PAPER_DEVICE}"), console)


def _print_fits(recipe: Recipe, gpus: Gpus, console: Console) -> None:
    """The setting of each stage that these GPUs have room for, all predicted."""
    table = Table(title=f"On {gpus.num} x {gpus.name}, {gpus.memory_bytes / GIB:.0f} GiB each: predicted, not measured")
    for column in ("stage", "what", "setting", "peak a GPU", "fits"):
        table.add_column(column)
    found = fits(recipe, gpus)
    for fit in found:
        table.add_row(fit.stage, fit.what, fit.setting, f"{fit.peak_bytes / GIB:.1f} GiB", "yes" if fit.fits else "NO")
    console.print(table)
    if not all(fit.fits for fit in found):
        console.print(f"It does not fit. {advice(recipe, gpus)}")


def _time_told(recipe: Recipe, totals: list[float], device: str) -> str:
    basis = f"a roofline of one {device}, not measured; what GPUs exchange is not in it"
    if recipe.size == "miniature":
        basis = "processor time here: idle cores assumed"
    return f"Time: {_band(totals[0], totals[1], clock)} and the start of processes, scoring, cost and report ({basis})."


def planned(recipe: Recipe, num_processes: int) -> Iterator[Work]:
    """The heavy calls of all stages."""
    suites = sum(num_images(recipe).values())
    source, pixel = recipe.source_sampler, recipe.l2p_sampler
    corpus = _num_drawn(recipe)
    drawn = {"corpus": math.ceil(corpus / source.batch_size), "sample": math.ceil(suites / source.batch_size)}
    for stage, batches in drawn.items():
        forwards = source.num_inference_steps * (1 if source.guidance_scale == 1 else 2)
        yield Work(stage=stage, what="source forward", case=case_of(recipe, "source"), calls=batches * forwards)
        yield Work(stage=stage, what="VAE decode", case=case_of(recipe, "vae"), calls=batches)
        if stage == "corpus":
            case = train_case(recipe, num_processes)
            calls = recipe.transfer.num_train_steps * recipe.transfer.gradient_accumulation_steps
            yield Work(stage="transfer", what="step", case=case, calls=calls, shared=False)
    batches = math.ceil(suites / pixel.batch_size)
    yield Work(
        stage="sample", what="pixel forward", case=case_of(recipe, "l2p"), calls=batches * pixel.num_inference_steps
    )


def _num_drawn(recipe: Recipe) -> int:
    """Images that the source draws for the corpus; none where a person brings them."""
    return 0 if recipe.corpus.folder is not None else recipe.corpus.num_prompts * recipe.corpus.images_per_prompt


def stage_hours(recipe: Recipe, gpus: Gpus, device: str) -> dict[str, tuple[float, float]]:
    """Fewest and most hours by stage on GPUs that share the work, by the roofline of one; scoring is not predicted."""
    hours: dict[str, tuple[float, float]] = {}
    for work in planned(recipe, gpus.num):
        calls = math.ceil(work.calls / gpus.num) if work.shared else work.calls
        low, high, _ = call_cost(work.case, recipe, device)
        before = hours.get(work.stage, (0.0, 0.0))
        hours[work.stage] = (before[0] + calls * low / 3600, before[1] + calls * high / 3600)
    return hours


def num_images(recipe: Recipe) -> dict[str, int]:
    """Images of one subject by suite; of a suite whose file is not there yet, as many as were published."""
    return {suite.name: _num_images(suite) for suite in recipe.suites}


def _num_images(suite: Suite) -> int:
    try:
        return len(suite_samples(suite))
    except FileNotFoundError:
        return PUBLISHED_PROMPTS[suite.benchmarks[0]] * suite.images_per_prompt


def call_cost(case: Case, recipe: Recipe, device: str = PAPER_DEVICE) -> tuple[float, float, int]:
    """Fewest and most seconds that one call takes, and the bytes of tensors that it needs at most.

    At the paper's size the seconds are those of a GPU's roofline.
    """
    family, dtype = family_of(recipe), getattr(torch, recipe.dtype)
    prediction = (cached_prediction if recipe.size == "paper" else predict)(case, family, dtype=dtype)
    averaged = case.kind == "train" and recipe.transfer.ema_decay is not None  # l2p.transfer's, float32
    memory = prediction.peak_memory_bytes + 4 * averaged * prediction.num_trainable_parameters
    if recipe.size == "paper":
        return *latency_band_s(prediction.operators, device_named(device)), memory
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
    """Configurations of the recipe's source, its folder's or the published ones for a hub id, and its own head's."""
    family = _family(recipe.family, source_of(recipe), recipe.source_sampler.max_sequence_length)
    return with_head(family, recipe.transfer.detailer)


def disk_bytes(recipe: Recipe) -> int:
    """At most what the run folder will hold: all images as raw pixels (grids beside their tiles), models, one state."""
    samples = sum(num_images(recipe).values())
    pixels = 3 * _num_drawn(recipe) * recipe.resolution**2
    pixels += sum(2 * 3 * samples * drawn_at(recipe, subject) ** 2 for subject in ("source", "l2p"))
    num_parameters, num_trained = count_parameters(train_case(recipe), family_of(recipe))
    element = torch.finfo(getattr(torch, recipe.dtype)).bits // 8
    model = num_parameters * element
    state = num_trained * 4 * 4  # float32: weights, two moments, average
    return pixels + 2 * model + 3 * state


def _band(low: float, high: float, show: Callable[[float], str]) -> str:
    return show(low) if low == high else f"{show(low)} to {show(high)}"
