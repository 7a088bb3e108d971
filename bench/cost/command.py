"""`python -m bench cost`: predict cases, measure them on a device, or write the paper-size block."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import track
from rich.table import Table as Grid

if TYPE_CHECKING:
    from bench.cost.cases import Case
    from bench.records import CostRecord

GIB, TERA = 2**30, 1e12
EXAMPLE = """What a model costs: FLOPs and peak memory predicted at full size on any machine, or measured on a device.

Example: python -m bench cost --case zimage-4096 --case l2p-zimage-4096 --batch-size 2 --text-tokens 256 --json out.json
"""


def cost(
    case: Annotated[list[str] | None, typer.Option(help="A case's name, repeatable; see --list.")] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="2 = an image with its guidance.")] = 1,
    text_tokens: Annotated[int | None, typer.Option(min=1, help="Prompt length; default: the family's.")] = None,
    json: Annotated[Path | None, typer.Option(help="Write the records here, after each case.")] = None,
    show: Annotated[bool, typer.Option("--list", help="Print the cases' names and stop.")] = False,
    paper: Annotated[bool, typer.Option("--paper", help="Every table of the paper-size block, into --out.")] = False,
    out: Annotated[Path, typer.Option(help="Folder of --paper.")] = Path("runs/cost-paper"),
    measure: Annotated[str, typer.Option(help="Also measure on this device (cpu, cuda, cuda:1), random weights.")] = "",
    repeats: Annotated[int, typer.Option(min=1, help="Timed calls of a measurement.")] = 10,
    dtype: Annotated[str, typer.Option(help="bfloat16 or float32.")] = "bfloat16",
    roofline: Annotated[str, typer.Option(help="Device of the modelled latency: h100, a100, rtx4090, cpu.")] = "h100",
    jobs: Annotated[int, typer.Option(min=1, help="Processes of --paper.")] = 2,
    cache: Annotated[Path, typer.Option(help="Finished predictions are kept here.")] = Path("runs/cost-cache"),
    force: Annotated[bool, typer.Option(help="Go on with a torch that the meter was not checked on.")] = False,
) -> None:
    """Check everything first, then run; the imports wait, so that `--help` needs no torch."""
    from bench.cost import cases, torch_private
    from bench.cost.measure import check_device

    if show:
        typer.echo("\n".join(cases.known_names()))
        return
    if warning := torch_private.check_torch(force=force):
        typer.echo(f"warning: {warning}", err=True)
    if paper:
        _paper(out, cache, jobs, force)
        return
    if not case:
        raise ValueError("name at least one --case (see --list), or ask for --paper")
    if measure:
        check_device(measure)
    parsed = [cases.parse(name, batch_size=batch_size, text_tokens=text_tokens) for name in case]
    _run_cases(parsed, json, measure, repeats, _dtype(dtype), roofline, cache, force)


cost.__doc__ = EXAMPLE


def _dtype(name: str) -> str:
    if name not in ("bfloat16", "float32"):
        raise ValueError(f"unknown dtype {name!r}: known are bfloat16, float32")
    return name


def _run_cases(
    cases: list[Case], path: Path | None, device: str, repeats: int, dtype: str, roofline: str, cache: Path, force: bool
) -> None:
    import torch

    from bench.cost.cache import cached_prediction
    from bench.cost.measure import measure_case
    from bench.cost.roofline import device_named, latency_band_s
    from bench.records import write_json

    console, limits, number = Console(), device_named(roofline), getattr(torch, dtype)
    grid = _grid(limits.name, device)
    records: list[CostRecord] = []
    for case in track(cases, "cases", console=Console(stderr=True), transient=True):
        predicted = cached_prediction(case, folder=cache, dtype=number, force=force)
        records.append(predicted.record())
        measured = measure_case(case, device=device, dtype=number, num_repeats=repeats).record if device else None
        records += [measured] if measured else []
        grid.add_row(
            *_row(records[-2] if measured else records[-1], latency_band_s(predicted.operators, limits), measured)
        )
        if path:
            write_json(path, records)  # after each case: an interruption loses one
    console.print(grid)


def _grid(roofline: str, device: str) -> Grid:
    grid = Grid("case", "batch", "TFLOP", "peak GiB", f"{roofline}, ms (model)", title="predicted")
    for column in ("measured peak GiB", "error %", "measured ms (median)") if device else ():
        grid.add_column(column)
    return grid


def _row(predicted: CostRecord, band_s: tuple[float, float], measured: CostRecord | None) -> list[str]:
    assert predicted.flops is not None and predicted.peak_memory_bytes is not None
    cells = [
        predicted.case,
        str(predicted.batch_size),
        f"{predicted.flops / TERA:.2f}",
        f"{predicted.peak_memory_bytes / GIB:.2f}",
        f"{1e3 * band_s[0]:.1f} - {1e3 * band_s[1]:.1f}",
    ]
    if measured:
        assert measured.peak_memory_bytes
        error = 100 * (predicted.peak_memory_bytes / measured.peak_memory_bytes - 1)
        middle = sorted(measured.latency_s)[len(measured.latency_s) // 2]
        cells += [f"{measured.peak_memory_bytes / GIB:.2f}", f"{error:+.2f}", f"{1e3 * middle:.1f}"]
    return cells


def _paper(out: Path, cache: Path, jobs: int, force: bool) -> None:
    from rich.progress import Progress

    from bench.cost.paper import Predictions, all_asks, predict_all
    from bench.cost.tables import all_tables
    from bench.cost.write import as_markdown, write_paper

    asks, predictions = all_asks(), Predictions(cache=cache, force=force)
    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("predictions", total=len(asks))
        predict_all(asks, predictions, num_jobs=jobs, done=lambda ask: progress.advance(task))
    tables = all_tables(predictions)
    write_paper(out, tables, predictions, asks)
    for table in tables:
        typer.echo(as_markdown(table))
    typer.echo(f"written to {out}")
