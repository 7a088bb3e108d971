"""Checks of cost: FLOPs and memory by factor, latency by a test of runs, and only where both were timed alike."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from math import exp, log
from statistics import mean, median, variance

from bench.records import CostRecord
from reports.regression.outcome import BETTER, NOT_COMPARED, WORSE, Check, Outcome
from reports.runs import Run

PREDICTED_FACTOR, MEASURED_MEMORY_FACTOR = 1.001, 1.05  # beyond these a cost has changed
SAME_CASE = ("case", "kind", "resolution", "batch_size", "dtype", "device_type", "protocol")
LEAST_RUNS = 2  # a side: timings of one run follow each other, so they are no repeats
Found = list[tuple[Run, CostRecord]]


def cost_checks(baseline: Sequence[Run], current: Sequence[Run], *, latency: bool) -> Iterator[Check]:
    """FLOPs and peak memory of every case of the baseline; with ``latency`` how long the measured ones took."""
    for record in _cases(baseline):
        before, after = ([_found(run, record) for run in side] for side in (baseline, current))
        name = f"{record.kind} cost of {record.case}, batch {record.batch_size}"
        absent = [run.name for run, other in [*before, *after] if other is None]
        if absent:
            why = f"{', '.join(absent)} has no such cost"
            yield Check(name=name, part="cost", outcome=NOT_COMPARED, why=why)
            continue
        sides = [[(run, other) for run, other in side if other] for side in (before, after)]
        yield from _amounts(name, *sides)
        if latency and record.latency_s:
            yield _latency(f"{name}, latency", *sides)


def _cases(runs: Sequence[Run]) -> list[CostRecord]:
    """Every case of several runs once."""
    first: dict[tuple, CostRecord] = {}
    for record in (record for run in runs for record in run.costs):
        first.setdefault(_key(record), record)
    return list(first.values())


def _key(record: CostRecord) -> tuple:
    device = record.device if record.device_type == "cuda" else ""  # memory differs between GPUs, not between CPUs
    return (*(getattr(record, name) for name in SAME_CASE), device)


def _found(run: Run, record: CostRecord) -> tuple[Run, CostRecord | None]:
    return run, next((other for other in run.costs if _key(other) == _key(record)), None)


def _amounts(name: str, before: Found, after: Found) -> Iterator[Check]:
    measured = before[0][1].kind == "measured"
    memory_factor = MEASURED_MEMORY_FACTOR if measured else PREDICTED_FACTOR
    for what, field, factor, unit in (
        ("FLOPs", "flops", PREDICTED_FACTOR, 1e9),
        ("peak memory", "peak_memory_bytes", memory_factor, 2**20),
    ):
        amounts = [[getattr(record, field) for _, record in side] for side in (before, after)]
        if all(amount is None for amount in amounts[0]):
            continue
        title = f"{name}, {'GFLOP' if field == 'flops' else 'peak MiB'}"
        check = Check(name=title, part="cost", unit="x", higher_is_better=False, decimals=1)
        if any(amount is None for side in amounts for amount in side):
            yield replace(check, outcome=NOT_COMPARED, why=f"one side has no {what}")
            continue
        old, new = (max(side) / unit for side in amounts)
        ratio = new / old if old else float(new > 0) + 1
        outcome: Outcome = WORSE if ratio > factor else BETTER if ratio < 1 / factor else check.outcome
        yield replace(check, before=old, after=new, change=ratio, outcome=outcome)


def _latency(name: str, before: Found, after: Found) -> Check:
    """Geometric means of the runs' medians, by Student's t on their logarithms; ``change`` is their ratio."""
    from scipy.stats import t as student

    check = Check(name=f"{name} ms", part="whole", unit="x", higher_is_better=False, decimals=2)
    if why := _not_timed_alike(before, after):
        return replace(check, part="cost", outcome=NOT_COMPARED, why=why)
    logs = [[log(median(record.latency_s)) for _, record in side] for side in (before, after)]
    freedom = len(before) + len(after) - 2
    pooled = sum((len(side) - 1) * variance(side) for side in logs) / freedom
    error = (pooled * (1 / len(before) + 1 / len(after))) ** 0.5
    change = mean(logs[1]) - mean(logs[0])
    half = float(student.ppf(0.975, freedom)) * error
    p_value = float(2 * student.sf(abs(change) / error, freedom)) if error else float(change == 0)
    old, new = (1e3 * exp(mean(side)) for side in logs)
    low, high = exp(change - half), exp(change + half)
    return replace(check, before=old, after=new, change=exp(change), low=low, high=high, p_value=p_value)


def _not_timed_alike(before: Found, after: Found) -> str:
    """Why two sides' timings cannot be compared; "" where they can."""
    machines = {_machine(run, record) for run, record in [*before, *after]}
    if len(machines) > 1:
        return "timed on other machines: latency is compared on one and the same"
    if not all(record.latency_s and min(record.latency_s) > 0 for _, record in [*before, *after]):
        return "a run has no timings"
    if min(len(before), len(after)) < LEAST_RUNS:
        return f"needs {LEAST_RUNS} runs or more a side: the timings of one run are no repeats"
    return ""


def _machine(run: Run, record: CostRecord) -> str:
    stated = run.manifest.get("machine") or {}
    return str([record.device, *(stated.get(name) for name in ("processor", "num_cores", "num_gpus"))])
