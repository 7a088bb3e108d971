"""Measure a step on a real device: every raw latency, peak memory by the device's own allocator, FLOPs by the meter.

For any callable, with a record that says what it is:

    what = CostRecord(case="transfer-shallow", kind="measured", family="flux", model="l2p", resolution=64, batch_size=8,
                      dtype="float32", protocol="one training step, 1 + 1 blocks")
    record = measure_step(step, what, resident=[model, optimizer], device="cpu")

and `measure_case` for the named cases, with random weights and no download. The same lines run on the CPU and on CUDA.
"""

from __future__ import annotations

import gc
import resource
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

import psutil
import torch

from bench.cost import torch_private
from bench.cost.cases import Case
from bench.cost.families import Family
from bench.cost.meter import Meter, resident_bytes
from bench.cost.predict import prepare
from bench.machine import check_device, device_name
from bench.records import CostRecord
from l2p.errors import InputError

KIBIBYTE, GIB = 1024, 2**30
NUM_WARMUP = 2  # calls of a case before the timed ones


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """A record and what it has no field for: `reserved_bytes`, what CUDA's allocator reserved at most (0 on the CPU),
    and the most memory that the process has held so far, libraries and earlier cases included."""

    record: CostRecord
    reserved_bytes: int
    process_max_rss_bytes: int


def measure_step(
    step: Callable[[], object],
    what: CostRecord,
    *,
    resident: Iterable[Any],
    device: str,
    num_warmup: int = 1,
    num_repeats: int = 5,
    count_flops: bool = True,
) -> CostRecord:
    """Run `step` for warm-up, then timed, then once for memory and once for FLOPs; returns `what` with these filled in.

    resident: the modules, optimisers and tensors that live through the step; peak memory = their bytes (with gradients)
    + what one step held at most above its start (CUDA: the allocator's statistics; CPU: the allocator's profiled
    events). latency_s: seconds of each of `num_repeats` calls, in order, unrounded. The step runs num_warmup +
    num_repeats + 1 (+ 1) times, so a step that trains does train. Raises ValueError for a device that is not there.
    """
    check_measurable(device)
    for _ in range(num_warmup):
        step()
    latencies = [timed(step, device) for _ in range(num_repeats)]
    growth = peak_growth_bytes(step, device)
    return replace(
        what,
        device=timed_on(device),
        device_type="cuda" if _is_cuda(device) else "cpu",
        flops=float(_counted_flops(step)) if count_flops else None,
        peak_memory_bytes=resident_bytes(*resident) + growth,
        latency_s=latencies,
    )


def measure_case(
    case: Case,
    family: Family | None = None,
    *,
    device: str,
    dtype: torch.dtype = torch.bfloat16,
    num_repeats: int = 10,
) -> Measurement:
    """Measure a named case with random weights on a device, after giving back what earlier cases reserved there.

    Raises ValueError for a device that is not there or a case that only predicts (8-bit state); the device's own
    out-of-memory error passes through.
    """
    check_measurable(device)
    if case.optimizer == "8bit":
        raise InputError(f"{case.name} is only predicted: its 8-bit state is a memory layout, not an optimiser")
    gc.collect()
    if _is_cuda(device):
        torch.cuda.empty_cache()
    prepared = prepare(case, family, dtype=dtype, device=device)
    what = case.record(dtype=str(dtype).removeprefix("torch."), kind="measured")
    record = measure_step(
        prepared.run, what, resident=prepared.resident, device=device, num_warmup=NUM_WARMUP, num_repeats=num_repeats
    )
    reserved = torch.cuda.max_memory_reserved(device) if _is_cuda(device) else 0
    rss = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * KIBIBYTE
    return Measurement(record=record, reserved_bytes=reserved, process_max_rss_bytes=rss)


def num_calls(num_repeats: int) -> int:
    """How often `measure_case` calls its case: warm-up, timed calls, one for memory and one for FLOPs."""
    return NUM_WARMUP + num_repeats + 2


def check_measurable(device: str) -> None:
    """Raise InputError for a device that is not here, or whose memory and time are not measured (MPS and others)."""
    check_device(device, option="--measure", allowed=("cuda",))


def check_fits(name: str, needed_bytes: int, device: str) -> None:
    """Raise ValueError when a case's predicted peak is more than the device has free: nothing is built first."""
    free_bytes = torch.cuda.mem_get_info(device)[0] if _is_cuda(device) else psutil.virtual_memory().available
    if needed_bytes > free_bytes:
        raise InputError(
            f"{name} needs {needed_bytes / GIB:.2f} GiB (predicted) and {device} has {free_bytes / GIB:.2f} GiB free: "
            "measure a smaller resolution or batch, or leave the device out to predict only."
        )


def timed(step: Callable[[], object], device: str) -> float:
    """Seconds that one call takes: CUDA events on a GPU, the monotonic clock on the CPU."""
    if not _is_cuda(device):
        start = time.perf_counter()
        step()
        return time.perf_counter() - start
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    torch.cuda.synchronize(device)
    begin.record()
    step()
    end.record()
    torch.cuda.synchronize(device)
    return begin.elapsed_time(end) / 1e3


def peak_growth_bytes(step: Callable[[], object], device: str) -> int:
    """The most that one call held above its start, by the device's allocator."""
    if not _is_cuda(device):
        return torch_private.profiled_growth_bytes(step)
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    step()
    torch.cuda.synchronize(device)
    return torch.cuda.max_memory_allocated(device) - before


def timed_on(device: str) -> str:
    """The GPU's name, or the processor's with the threads that torch uses."""
    return device_name(device) if _is_cuda(device) else f"{device_name(device)}, {torch.get_num_threads()} threads"


def _counted_flops(step: Callable[[], object]) -> int:
    with Meter() as meter:
        step()
    return meter.flops


def _is_cuda(device: str) -> bool:
    return torch.device(device).type == "cuda"
