"""Figure 4 from cost records: one step at 4K, source against pixel model, under every protocol that the files hold."""

from collections.abc import Sequence
from dataclasses import dataclass

from bench.records import CostRecord
from reports.paper import FIGURE4_LATENCY, FIGURE4_MEMORY

RESOLUTION = 4096
FAMILY = "zimage"  # the paper's figure 4 is of Z-Image; other families are shown, not judged


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """Changes in percent under one protocol; ``latency`` is a band from FLOPs and roofline (low = faster)."""

    name: str
    family: str
    latency: tuple[float, float]
    memory: float


def protocols(costs: Sequence[CostRecord]) -> list[Protocol]:
    """Every pair of predicted records at 4096 px that differ in the model only; [] where there is none."""
    predicted = [record for record in costs if record.kind == "predicted" and record.resolution == RESOLUTION]
    pixels = {_pair_key(record): record for record in predicted if record.case.startswith("l2p-")}
    pairs = [(record, pixels[_pair_key(record)]) for record in predicted if _is_source(record, pixels)]
    return [_protocol(source, pixel) for source, pixel in pairs]


def _is_source(record: CostRecord, pixels: dict) -> bool:
    return not record.case.startswith("l2p-") and _pair_key(record) in pixels


def _pair_key(record: CostRecord) -> tuple[str, int, str]:
    """What both records of a pair share: the case without its model, the batch, the device."""
    return record.case.removeprefix("l2p-"), record.batch_size, record.device


def _protocol(source: CostRecord, pixel: CostRecord) -> Protocol:
    changes = [_change(first, second) for first, second in zip(source.latency_s, pixel.latency_s, strict=True)]
    if source.flops and pixel.flops:
        changes.append(_change(source.flops, pixel.flops))
    assert source.peak_memory_bytes and pixel.peak_memory_bytes
    return Protocol(
        name=f"guidance batch {source.batch_size}",
        family=source.case.split("-")[0],
        latency=(min(changes), max(changes)),
        memory=_change(source.peak_memory_bytes, pixel.peak_memory_bytes),
    )


def _change(before: float, after: float) -> float:
    return 100 * (after - before) / before


def gap(protocol: Protocol) -> float:
    """Percentage points to the paper: the worse of memory's distance and latency's distance to its band."""
    low, high = protocol.latency
    latency = max(low - FIGURE4_LATENCY, FIGURE4_LATENCY - high, 0.0)
    return max(latency, abs(protocol.memory - FIGURE4_MEMORY))


def inside(value: float, band: tuple[float, float]) -> str:
    """ "inside" or "outside" the band."""
    return "inside" if band[0] <= value <= band[1] else "outside"


def verdict(every: Sequence[Protocol]) -> tuple[float, str]:
    """The smallest gap over the paper's family's protocols, and the sentence that the page prints."""
    family = [protocol for protocol in every if protocol.family == FAMILY] or list(every)
    nearest = min(family, key=gap)
    latency = (min(p.latency[0] for p in family), max(p.latency[1] for p in family))
    memory = (min(p.memory for p in family), max(p.memory for p in family))
    why = (
        f"Consistent by prediction, not measured: the paper's latency lies {inside(FIGURE4_LATENCY, latency)} the band "
        f"{latency[0]:.1f} to {latency[1]:.1f} %, its memory {inside(FIGURE4_MEMORY, memory)} {memory[0]:.1f} to "
        f"{memory[1]:.1f} % ({len(family)} protocols of {family[0].family}); nearest: {nearest.name}, "
        f"memory {nearest.memory:.2f} %."
    )
    return gap(nearest), why
