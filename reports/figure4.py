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
    """Every pair of predicted records at 4096 px that differ in the model only; [] where there is none.

    Of two pairs that count the same, the one whose latency was modelled stands for both.
    """
    predicted = [record for record in costs if record.kind == "predicted" and record.resolution == RESOLUTION]
    usable = [record for record in predicted if record.flops and record.peak_memory_bytes]
    pixels = {_pair_key(record): record for record in usable if record.case.startswith("l2p-")}
    sources = [record for record in usable if not record.case.startswith("l2p-") and _pair_key(record) in pixels]
    pairs: dict[tuple[str, int], Protocol] = {}
    for source in sorted(sources, key=lambda record: len(record.latency_s)):
        pairs[source.case, source.batch_size] = _protocol(source, pixels[_pair_key(source)])
    return sorted(pairs.values(), key=lambda protocol: (protocol.family != FAMILY, protocol.family, protocol.name))


def _pair_key(record: CostRecord) -> tuple[str, int, str, int]:
    """What both records of a pair share: the case without its model, the batch, the device and its modelled ends."""
    return record.case.removeprefix("l2p-"), record.batch_size, record.device, len(record.latency_s)


def _protocol(source: CostRecord, pixel: CostRecord) -> Protocol:
    changes = [_change(first, second) for first, second in zip(source.latency_s, pixel.latency_s, strict=True)]
    changes.append(_change(source.flops or 0, pixel.flops or 0))
    family, _, counted = source.case.partition(f"-{RESOLUTION}")
    return Protocol(
        name=", ".join([f"batch {source.batch_size}", *filter(None, counted.split("+"))]),
        family=family,
        latency=(min(changes), max(changes)),
        memory=_change(source.peak_memory_bytes or 0, pixel.peak_memory_bytes or 0),
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


def judged(every: Sequence[Protocol]) -> list[Protocol]:
    """The paper's family's protocols; all of them where there is none of that family."""
    return [protocol for protocol in every if protocol.family == FAMILY] or list(every)


def verdict(every: Sequence[Protocol]) -> tuple[float, str]:
    """The smallest gap over the paper's family's protocols, and the sentence that the page prints."""
    family = judged(every)
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
