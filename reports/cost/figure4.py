"""Figure 4 from cost records: one step at 4K, source against pixel model, under every protocol that the files hold.

Here alone are its changes computed, its verdict worded and its picture drawn.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.figure import Figure

from bench.cost.families import FIGURE4_FAMILY, FIGURE4_RESOLUTION
from bench.records import CostRecord
from reports.paper import FIGURE4_LATENCY, FIGURE4_MEMORY
from reports.theme import Theme

DEVICE = "h100"  # whose roofline gives the latency


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """Changes in percent under one protocol; ``latency`` is a band from FLOPs and roofline (low = faster)."""

    name: str
    family: str
    latency: tuple[float, float]
    flops: float
    memory: float
    source: CostRecord
    pixel: CostRecord


def protocols(costs: Sequence[CostRecord]) -> list[Protocol]:
    """Every pair of predicted records at 4096 px that differ in the model only; [] where there is none."""
    usable = [record for record in costs if record.kind == "predicted" and record.flops and record.peak_memory_bytes]
    every = [_protocol(source, pixel) for source, pixel in pairs(usable)]
    return sorted(every, key=_order)


def _order(protocol: Protocol) -> tuple:
    """The paper's family first; by batch, text encoder, and the VAE not counted, untiled, in large and small tiles."""
    one = protocol.source
    ways = one.batch_size, "text" in one.counted, "vae" in one.counted, bool(one.tile), -one.tile
    return one.family != FIGURE4_FAMILY, one.family, *ways


def pairs(costs: Sequence[CostRecord]) -> list[tuple[CostRecord, CostRecord]]:
    """Source and pixel model of one step at figure 4's resolution, counted in the same way, on the same device."""
    steps = [record for record in costs if record.resolution == FIGURE4_RESOLUTION and record.training is None]
    pixels = {_counted(record): record for record in steps if record.model == "l2p"}
    sources = {_counted(record): record for record in steps if record.model == "source"}
    return [(source, pixels[counted]) for counted, source in sources.items() if counted in pixels]


def _counted(record: CostRecord) -> tuple:
    """What both records of a pair share."""
    return record.family, record.counted, record.tile, record.batch_size, record.dtype, record.device


def _protocol(source: CostRecord, pixel: CostRecord) -> Protocol:
    flops = change(source.flops or 0, pixel.flops or 0)
    ends = zip(source.roofline_s.get(DEVICE, ()), pixel.roofline_s.get(DEVICE, ()), strict=True)
    changes = [*(change(first, second) for first, second in ends), flops]
    words = {"vae": f"VAE in tiles of {source.tile} px" if source.tile else "VAE untiled", "text": "text encoder"}
    return Protocol(
        name=", ".join([f"batch {source.batch_size}", *(words[what] for what in source.counted)]),
        family=source.family,
        latency=(min(changes), max(changes)),
        flops=flops,
        memory=change(source.peak_memory_bytes or 0, pixel.peak_memory_bytes or 0),
        source=source,
        pixel=pixel,
    )


def change(before: float, after: float) -> float:
    """Percent more (+) or less (-)."""
    return 100 * (after - before) / before


def gap(protocol: Protocol) -> float:
    """Percentage points to the paper: the worse of memory's distance and latency's distance to its band."""
    low, high = protocol.latency
    latency = max(low - FIGURE4_LATENCY, FIGURE4_LATENCY - high, 0.0)
    return max(latency, abs(protocol.memory - FIGURE4_MEMORY))


def inside(value: float, band: tuple[float, float]) -> str:
    """ "inside" or "outside" the band."""
    return "inside" if band[0] <= value <= band[1] else "outside"


def judged(every: Sequence[Protocol]) -> list[Protocol]:
    """The paper's family's protocols; all of them where there is none of that family."""
    return [protocol for protocol in every if protocol.family == FIGURE4_FAMILY] or list(every)


def bands(every: Sequence[Protocol]) -> tuple[tuple[float, float], tuple[float, float]]:
    """Lowest and highest change of latency, and of memory, over the protocols."""
    latencies = [end for protocol in every for end in protocol.latency]
    memories = [protocol.memory for protocol in every]
    return (min(latencies), max(latencies)), (min(memories), max(memories))


def verdict(every: Sequence[Protocol]) -> tuple[float, str]:
    """The smallest gap over the paper's family's protocols, and the sentence that the page prints."""
    family = judged(every)
    nearest = min(family, key=gap)
    latency, memory = bands(family)
    why = (
        f"Consistent by prediction, not measured: the paper's latency lies {inside(FIGURE4_LATENCY, latency)} the band "
        f"{latency[0]:.1f} to {latency[1]:.1f} %, its memory {inside(FIGURE4_MEMORY, memory)} {memory[0]:.1f} to "
        f"{memory[1]:.1f} % ({len(family)} protocols of {family[0].family}); nearest: {nearest.name}, "
        f"memory {nearest.memory:.2f} %."
    )
    return gap(nearest), why


def draw(costs: Sequence[CostRecord], theme: Theme, *, width: float, beside: bool = False) -> Figure | None:
    """The change of a 4K step by protocol, the paper's as a dashed line; latency above memory, or ``beside`` it."""
    every = judged(protocols(costs))
    if not every:
        return None
    height = 0.22 * len(every) + 0.95
    figure = Figure(figsize=(width, height if beside else 2 * height))
    first, second = figure.subplots(1, 2, sharey=True) if beside else figure.subplots(2, 1)
    for k, protocol in enumerate(every):
        first.plot(protocol.latency, [k, k], color=theme.pixel, lw=4, solid_capstyle="round", marker="o", ms=4)
        second.plot(protocol.memory, k, "o", color=theme.pixel, ms=6)
    panels = (
        (first, FIGURE4_LATENCY, "Latency of a step, change in %"),
        (second, FIGURE4_MEMORY, "Peak memory, change in %"),
    )
    for axes, value, title in panels:
        axes.axvline(value, color=theme.text, lw=1, ls=(0, (4, 3)))
        axes.text(value, -0.75, f" paper {value:g}", color=theme.text, fontsize=8.5, ha="left", va="center")
        axes.set_title(title)
        axes.set_yticks(range(len(every)), [protocol.name for protocol in every], fontsize=8.5)
        axes.tick_params(axis="y", labelcolor=theme.text)
        axes.set_ylim(len(every) - 0.5, -1.1)
        axes.margins(x=0.15)
        axes.grid(axis="x")
    return figure
