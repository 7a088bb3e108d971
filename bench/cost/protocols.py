"""Figure 4's protocols: what "one step" may count. Source and pixel model always under the same one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from bench.cost.paper import FIGURE4_FAMILY, Get
from bench.cost.predict import Prediction
from bench.cost.roofline import DEVICES, latency_band_s
from bench.records import CostRecord

RESOLUTION = 4096
DEVICE = "h100"
# how the source's VAE decode is counted -> its case; None = not at all
DECODES: dict[str, str | None] = {
    "not counted": None,
    "untiled": f"vae-{FIGURE4_FAMILY}-{RESOLUTION}",
    "tiled 1024": f"vae-{FIGURE4_FAMILY}-{RESOLUTION}-tiled1024",
    "tiled 512": f"vae-{FIGURE4_FAMILY}-{RESOLUTION}-tiled512",
}


@dataclass(frozen=True, kw_only=True)
class Cost:
    """One model's side of a protocol."""

    flops: int
    peak_memory_bytes: int
    latency_s: tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """One way to count: batch of the guidance, text encoder resident or not, VAE decode; both models' costs."""

    batch_size: int
    with_text: bool
    vae: str
    source: Cost
    pixel: Cost

    @property
    def source_bytes(self) -> int:
        """The source's peak."""
        return self.source.peak_memory_bytes

    @property
    def pixel_bytes(self) -> int:
        """The pixel model's peak."""
        return self.pixel.peak_memory_bytes

    @property
    def memory_change(self) -> float:
        """Percent that the pixel model needs more (+) or less (-) memory."""
        return _change(self.source_bytes, self.pixel_bytes)

    @property
    def flops_change(self) -> float:
        """Percent of FLOPs more or less."""
        return _change(self.source.flops, self.pixel.flops)

    @property
    def latency_changes(self) -> tuple[float, ...]:
        """Percent of time more or less: by FLOPs alone, by the roofline's fast end and by its slow end."""
        ends = (_change(a, b) for a, b in zip(self.source.latency_s, self.pixel.latency_s, strict=True))
        return (self.flops_change, *ends)

    def records(self) -> list[CostRecord]:
        """Both sides as CostRecords whose cases differ in `l2p-` only: `zimage-4096+vae-tiled512+text`."""
        vae = "" if self.vae == "not counted" else f"+vae-{self.vae.replace(' ', '')}"
        name = f"{FIGURE4_FAMILY}-{RESOLUTION}{vae}{'+text' if self.with_text else ''}"
        words = (
            f"guidance batch {self.batch_size}, VAE {self.vae}, text encoder {'' if self.with_text else 'not '}resident"
        )
        return [self._record(name, words, self.source), self._record(f"l2p-{name}", words, self.pixel)]

    def _record(self, name: str, words: str, cost: Cost) -> CostRecord:
        return CostRecord(
            case=name,
            kind="predicted",
            resolution=RESOLUTION,
            batch_size=self.batch_size,
            dtype="bfloat16",
            device=f"{DEVICES[DEVICE].name} (roofline: fast, slow)",
            protocol=words,
            flops=float(cost.flops),
            peak_memory_bytes=cost.peak_memory_bytes,
            latency_s=list(cost.latency_s),
        )


def figure4_protocols(get: Get) -> list[Protocol]:
    """Every protocol: guidance batched or not, text encoder resident or not, VAE not counted, untiled or tiled."""
    return list(_protocols(get))


def _protocols(get: Get) -> Iterator[Protocol]:
    text = get(f"text-{FIGURE4_FAMILY}")
    for batch_size in (1, 2):
        source = get(f"{FIGURE4_FAMILY}-{RESOLUTION}", batch_size)
        pixel = get(f"l2p-{FIGURE4_FAMILY}-{RESOLUTION}", batch_size)
        for with_text in (False, True):
            extra = text.resident_bytes if with_text else 0
            for vae, case in DECODES.items():
                decode = get(case) if case else None
                yield Protocol(
                    batch_size=batch_size,
                    with_text=with_text,
                    vae=vae,
                    source=_cost(source, extra, decode),
                    pixel=_cost(pixel, extra, None),
                )


def _cost(denoiser: Prediction, extra_bytes: int, decode: Prediction | None) -> Cost:
    """The step and, where counted, the decode after it: the larger peak, each beside the other's resident weights."""
    parts = [denoiser] if decode is None else [denoiser, decode]
    peaks = [denoiser.peak_memory_bytes]
    if decode is not None:
        peaks = [peaks[0] + decode.resident_bytes, decode.peak_memory_bytes + denoiser.resident_bytes]
    bands = [latency_band_s(part.operators, DEVICES[DEVICE]) for part in parts]
    return Cost(
        flops=sum(part.flops for part in parts),
        peak_memory_bytes=max(peaks) + extra_bytes,
        latency_s=(sum(fast for fast, _ in bands), sum(slow for _, slow in bands)),
    )


def _change(before: float, after: float) -> float:
    return 100 * (after - before) / before
