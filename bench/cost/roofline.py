"""Latency as a band from a roofline: always a model, never a measurement.

Per operator: time = max(FLOPs / (peak x efficiency), bytes / (bandwidth x efficiency)) + launch overhead; operators
run one after another (eager mode). The band's fast end has perfect efficiency, its slow end the named ones below.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from functools import lru_cache

import psutil
import torch

from bench.cost.devices import DEVICES, Device
from bench.cost.meter import OperatorWork
from l2p.errors import InputError

COMPUTE_EFFICIENCY = (1.0, 0.5)  # large matrix products reach some 50-80 % of the data sheet
BANDWIDTH_EFFICIENCY = (1.0, 0.7)
LAUNCH_S = (0.0, 5e-6)  # an eager kernel launch costs some microseconds


def device_named(name: str) -> Device:
    """A device of DEVICES, or `cpu`: this machine's, measured now. ValueError lists the known ones."""
    if name == "cpu":
        return this_cpu()
    if name not in DEVICES:
        raise InputError(f"unknown device {name!r} for the roofline: known are {', '.join([*DEVICES, 'cpu'])}")
    return DEVICES[name]


def latency_band_s(operators: Iterable[OperatorWork], device: Device) -> tuple[float, float]:
    """Fast and slow end of the modelled seconds for the counted operators."""
    operators = list(operators)
    fast, slow = (_seconds(operators, device, end) for end in (0, 1))
    return fast, slow


def _seconds(operators: list[OperatorWork], device: Device, end: int) -> float:
    bandwidth = device.bytes_per_s * BANDWIDTH_EFFICIENCY[end]
    total = 0.0
    for work in operators:
        rate = device.flops_per_s.get(work.dtype, device.flops_per_s["float32"]) * COMPUTE_EFFICIENCY[end]
        total += work.count * (max(work.flops / rate, work.bytes / bandwidth) + LAUNCH_S[end])
    return total


# sides of the measured products: processors without bfloat16 units are slow at it
_MATRIX_SIDES = {torch.float32: 512, torch.bfloat16: 192}


@lru_cache
def this_cpu(num_repeats: int = 3) -> Device:
    """This machine's rates as it is now, busy or not: the best of a few matrix products and of a copy of 64 MiB."""
    rates = {str(dtype).removeprefix("torch."): _matmul_rate(dtype, num_repeats) for dtype in _MATRIX_SIDES}
    source = torch.ones(16 * 2**20)
    copied = 2 * source.numel() * source.element_size()  # read and written
    rate = copied / best_s(lambda: source.clone(), num_repeats)
    return Device(
        name="this CPU",
        flops_per_s=rates,
        bytes_per_s=rate,
        memory_bytes=psutil.virtual_memory().total,
        source="matrix product and copy, measured now: "
        + ", ".join(f"{dtype} {flops / 1e9:.3g} GFLOP/s" for dtype, flops in rates.items())
        + f", copy {rate / 1e9:.3g} GB/s, {torch.get_num_threads()} threads",
    )


def _matmul_rate(dtype: torch.dtype, num_repeats: int) -> float:
    side = _MATRIX_SIDES[dtype]
    matrix = torch.ones(side, side, dtype=dtype)
    return 2 * side**3 / best_s(lambda: matrix @ matrix, num_repeats)


def best_s(step: Callable[[], object], num_repeats: int) -> float:
    """Seconds of the fastest of some calls, after one to warm up."""
    step()
    seconds = []
    for _ in range(num_repeats):
        start = time.perf_counter()
        step()
        seconds.append(time.perf_counter() - start)
    return min(seconds)
