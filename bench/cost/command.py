"""`python -m bench cost`: predict cases, measure them on a device, or write the paper-size block."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import track
from rich.table import Table as Grid

from l2p.errors import InputError

if TYPE_CHECKING:
    from bench.cost.cases import Case
    from bench.cost.measure import Measurement
    from bench.cost.meter import OperatorWork
    from bench.cost.predict import Prediction
    from bench.cost.roofline import Device
    from bench.records import CostRecord

GIB, TERA = 2**30, 1e12
EXAMPLE = """What a model costs: FLOPs and peak memory predicted at full size on any machine, or measured on a device.

Example: python -m bench cost --case zimage-4096 --case l2p-zimage-4096 --batch-size 2 --text-tokens 256 --json out.json

What --paper wrote is drawn again, and nothing predicted, by: python -m reports.cost runs/cost-paper
"""


def cost(
    case: Annotated[list[str] | None, typer.Option(help="A case's name, repeatable; see --list.")] = None,
    batch_size: Annotated[int, typer.Option(min=1, max=4096, help="2 = an image with its guidance.")] = 1,
    text_tokens: Annotated[
        int | None, typer.Option(min=1, max=32_768, help="Prompt length; default: the family's.")
    ] = None,
    json: Annotated[Path | None, typer.Option(help="Write the records here, after each case.")] = None,
    show: Annotated[bool, typer.Option("--list", help="Print the cases' names and stop.")] = False,
    paper: Annotated[
        bool,
        typer.Option(
            "--paper",
            help="Every table of the paper-size block, into --out; `python -m reports.cost OUT` draws them again.",
        ),
    ] = False,
    out: Annotated[Path, typer.Option(help="Folder of --paper.")] = Path("runs/cost-paper"),
    measure: Annotated[str, typer.Option(help="Also measure on this device (cpu, cuda, cuda:1), random weights.")] = "",
    repeats: Annotated[int, typer.Option(min=1, max=1000, help="Timed calls of a measurement.")] = 10,
    dtype: Annotated[str, typer.Option(help="bfloat16 or float32.")] = "bfloat16",
    roofline: Annotated[
        str,
        typer.Option(help="Device of the modelled time: h100, a100, rtx4090, cpu [default: h100; cpu beside a CPU]."),
    ] = "",
    operators: Annotated[bool, typer.Option("--operators", help="FLOPs and traffic by stage and operator.")] = False,
    jobs: Annotated[int, typer.Option(min=1, max=256, help="Processes of --paper.")] = 2,
    cache: Annotated[Path, typer.Option(help="Finished predictions are kept here.")] = Path("runs/cost-cache"),
    force: Annotated[bool, typer.Option(help="Go on with a torch that the meter was not checked on.")] = False,
) -> None:
    """Check everything first, then run; the imports wait, so that `--help` needs no torch."""
    from bench.cost import cases, torch_private
    from bench.cost.measure import check_measurable
    from bench.cost.roofline import device_named
    from bench.records import check_file_to_write

    if show:
        typer.echo("\n".join(cases.known_names()))
        return
    if warning := torch_private.check_torch(force=force):
        typer.echo(f"warning: {warning}", err=True)
    if paper and (case or measure or json):
        raise InputError("--paper has its own cases and predicts only: leave --case, --measure and --json out")
    if paper:
        _paper(out, cache, jobs, force)
        return
    if not case:
        raise InputError("name at least one --case (see --list), or ask for --paper")
    check_file_to_write(json, "--json")
    if measure:
        check_measurable(measure)
    parsed = [cases.parse(name, batch_size=batch_size, text_tokens=text_tokens) for name in case]
    limits = device_named(roofline or ("cpu" if measure == "cpu" else "h100"))
    get = partial(_prediction, dtype=_dtype(dtype), cache=cache, force=force)
    _run_cases(parsed, get, limits, device=measure, repeats=repeats, path=json, operators=operators)


cost.__doc__ = EXAMPLE


def _dtype(name: str) -> str:
    if name not in ("bfloat16", "float32"):
        raise InputError(f"unknown dtype {name!r}: known are bfloat16, float32")
    return name


def _prediction(case: Case, *, dtype: str, cache: Path, force: bool) -> Prediction:
    import torch

    from bench.cost.cache import cached_prediction

    return cached_prediction(case, folder=cache, dtype=getattr(torch, dtype), force=force)


def _run_cases(
    cases: list[Case],
    get: Callable[[Case], Prediction],
    limits: Device,
    *,
    device: str,
    repeats: int,
    path: Path | None,
    operators: bool,
) -> None:
    from bench.cost.roofline import latency_band_s
    from bench.cost.write import write_records

    if device:
        _check_all_fit(cases, get, limits, device, repeats)
    console, grid = Console(), _grid(limits, device)
    records: list[CostRecord] = []
    measurements: list[Measurement] = []
    for case in track(cases, "cases", console=Console(stderr=True), transient=True):
        predicted = get(case)
        records.append(predicted.record())
        cells = _predicted_cells(predicted, latency_band_s(predicted.operators, limits))
        if device:
            measurements.append(_measurement(predicted, device, repeats))
            records.append(measurements[-1].record)
            cells += _measured_cells(predicted, measurements[-1])
        if path:
            write_records(path, records, measurements)  # after each case: an interruption loses one
        grid.add_row(*cells)
        if operators:
            console.print(_operators_grid(predicted))
    console.print(grid)


def _check_all_fit(
    cases: list[Case], get: Callable[[Case], Prediction], limits: Device, device: str, repeats: int
) -> None:
    """Raise InputError, before anything runs, for a case that the device cannot hold; say how long the others take."""
    from bench.cost.measure import check_fits, num_calls
    from bench.cost.roofline import latency_band_s

    predictions = [get(case) for case in track(cases, "predictions", console=Console(stderr=True), transient=True)]
    for predicted in predictions:
        check_fits(predicted.case.name, predicted.peak_memory_bytes, device)
    for predicted in predictions:
        fast, slow = (_clock(seconds) for seconds in latency_band_s(predicted.operators, limits))
        calls = num_calls(repeats)
        typer.echo(f"{predicted.case.name}: {calls} calls on {device}, modelled {fast} to {slow} each", err=True)


def _measurement(predicted: Prediction, device: str, repeats: int) -> Measurement:
    import torch

    from bench.cost.measure import measure_case

    return measure_case(predicted.case, device=device, dtype=getattr(torch, predicted.dtype), num_repeats=repeats)


def _grid(limits: Device, device: str) -> Grid:
    grid = Grid(
        title="predicted and measured" if device else "predicted",
        caption=f"Modelled time: a roofline's fast and slow end for {limits.name} ({limits.source}), no measurement.",
    )
    grid.add_column("case", no_wrap=True)
    for column in ("batch", "TFLOP", "predicted peak GiB", "modelled time"):
        grid.add_column(column)
    held = "max RSS of the process GiB" if device == "cpu" else "reserved GiB"
    for column in ("measured peak GiB", "error %", held, "measured time (median)") if device else ():
        grid.add_column(column)
    return grid


def _predicted_cells(predicted: Prediction, band_s: tuple[float, float]) -> list[str]:
    return [
        predicted.case.name,
        str(predicted.case.batch_size),
        f"{predicted.flops / TERA:.2f}",
        f"{predicted.peak_memory_bytes / GIB:.2f}",
        " - ".join(map(_clock, band_s)),
    ]


def _measured_cells(predicted: Prediction, measured: Measurement) -> list[str]:
    assert measured.record.peak_memory_bytes
    error = 100 * (predicted.peak_memory_bytes / measured.record.peak_memory_bytes - 1)
    return [
        f"{measured.record.peak_memory_bytes / GIB:.2f}",
        f"{error:+.2f}",
        f"{(measured.reserved_bytes or measured.process_max_rss_bytes) / GIB:.2f}",
        _clock(statistics.median(measured.record.latency_s)),
    ]


def _clock(seconds: float) -> str:
    if seconds < 1:
        return f"{1e3 * seconds:.3g} ms"
    return f"{seconds:.3g} s" if seconds < 1000 else f"{seconds / 3600:.3g} h"


def _operators_grid(predicted: Prediction, num_shown: int = 12) -> Grid:
    """FLOPs and traffic by stage and kind of operator, the heaviest of each first."""
    grid = Grid(
        *("stage", "operator", "dtype", "calls", "TFLOP", "GB moved"),
        title=f"{predicted.case.name}: peak {predicted.peak_memory_bytes / GIB:.2f} GiB at `{predicted.peak_operator}` "
        f"in the {predicted.peak_stage}; {predicted.resident_bytes / GIB:.2f} GiB live throughout",
    )
    for (stage, name, dtype), (calls, flops, size) in _sums_by_kind(predicted.operators)[:num_shown]:
        grid.add_row(stage, name, dtype, f"{calls:,}", f"{flops / TERA:.3f}", f"{size / 1e9:.1f}")
    return grid


def _sums_by_kind(operators: Iterable[OperatorWork]) -> list[tuple[tuple[str, str, str], tuple[int, int, int]]]:
    """(stage, operator, dtype) and its calls, FLOPs and bytes over all shapes, most FLOPs first, then most bytes."""
    calls: Counter[tuple[str, str, str]] = Counter()
    flops, sizes = calls.copy(), calls.copy()
    for work in operators:
        kind = work.stage, work.name, work.dtype
        calls[kind] += work.count
        flops[kind] += work.count * work.flops
        sizes[kind] += work.count * work.bytes
    kinds = sorted(calls, key=lambda kind: (-flops[kind], -sizes[kind], kind))
    return [(kind, (calls[kind], flops[kind], sizes[kind])) for kind in kinds]


def _paper(out: Path, cache: Path, jobs: int, force: bool) -> None:
    from rich.progress import Progress

    from bench.cost.paper import Predictions, all_asks, paper_records, predict_all
    from bench.cost.write import provenance
    from bench.records import write_json
    from reports.cost.write import draw_folder

    asks, predictions = all_asks(), Predictions(cache=cache, force=force)
    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("predictions", total=len(asks))
        predict_all(asks, predictions, num_jobs=jobs, done=lambda ask: progress.advance(task))
    write_json(out / "predicted.json", paper_records(predictions, asks))
    write_json(out / "tables" / "run.json", provenance([]))
    typer.echo(draw_folder(out))
    typer.echo(f"written to {out}")
