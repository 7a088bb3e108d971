"""Figure 4's protocols: what "one step" may count, as cost records of source and pixel model, always in pairs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from bench.cost.families import FIGURE4_FAMILY, FIGURE4_RESOLUTION
from bench.cost.predict import Prediction
from bench.records import CostRecord

BATCH_SIZES = (1, 2)  # 2 = an image with its guidance
VAE_TILES = (0, 1024, 512)  # the ways to decode; 0 = untiled

Get = Callable[..., Prediction]


def vae_case(family: str, resolution: int, tile: int) -> str:
    """The name of a decode's case."""
    return f"vae-{family}-{resolution}" + (f"-tiled{tile}" if tile else "")


def protocol_records(get: Get) -> list[CostRecord]:
    """Both models under every protocol: guidance batched or not, text encoder resident or not, VAE not counted, untiled
    or tiled; the first of all, nothing counted beside the denoiser, is the bare case."""
    text, records = get(f"text-{FIGURE4_FAMILY}"), []
    for batch_size in BATCH_SIZES:
        models = [get(f"{model}{FIGURE4_FAMILY}-{FIGURE4_RESOLUTION}", batch_size) for model in ("", "l2p-")]
        for with_text in (False, True):
            for tile in (None, *VAE_TILES):
                decode = None if tile is None else get(vae_case(FIGURE4_FAMILY, FIGURE4_RESOLUTION, tile))
                source, pixel = models
                records.append(_counted(source, text if with_text else None, tile, decode))
                records.append(_counted(pixel, text if with_text else None, tile, None))
    return records


def _counted(denoiser: Prediction, text: Prediction | None, tile: int | None, decode: Prediction | None) -> CostRecord:
    """The step and, where the model has one, the decode after it: the larger peak, each beside the other's resident
    weights; the text encoder's weights lie beside both."""
    record, parts = denoiser.record(), [denoiser, *([decode] if decode else [])]
    peak = denoiser.peak_memory_bytes
    if decode:
        peak = max(peak + decode.resident_bytes, decode.peak_memory_bytes + denoiser.resident_bytes)
    bands = [part.record().roofline_s for part in parts]
    vae = "not counted" if tile is None else f"tiled {tile}" if tile else "untiled"
    return replace(
        record,
        case=record.case + ("" if tile is None else f"+vae-{vae.replace(' ', '')}") + ("+text" if text else ""),
        counted=(*(() if tile is None else ("vae",)), *(("text",) if text else ())),
        tile=tile or 0,
        protocol=f"guidance batch {record.batch_size}, VAE {vae}, text encoder {'' if text else 'not '}resident",
        flops=float(sum(part.flops for part in parts)),
        peak_memory_bytes=peak + (text.resident_bytes if text else 0),
        roofline_s={name: (sum(b[name][0] for b in bands), sum(b[name][1] for b in bands)) for name in bands[0]},
    )
