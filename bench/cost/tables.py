"""The tables of the paper-size block as plain rows: figure 4 with every protocol, cost an image, training, growth,
what fits.

Every figure is predicted (FLOPs and bytes by the meter, seconds by the roofline); what is published elsewhere says so.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from bench.cost.cases import TRAINED_BLOCKS
from bench.cost.families import FAMILIES, L2P_HIGH_RESOLUTION_SAMPLER, L2P_SAMPLER, Family, Sampler
from bench.cost.paper import FIGURE4_FAMILY, GROWTH_RESOLUTIONS, IMAGE_RESOLUTIONS, Get, small_card_asks, training_asks
from bench.cost.predict import Prediction
from bench.cost.protocols import Protocol, figure4_protocols
from bench.cost.roofline import DEVICES, GIB, latency_band_s

PAPER_LATENCY_CHANGE, PAPER_MEMORY_CHANGE = -97.67, -38.81  # percent; paper figure 4
CAPACITIES_GIB = (8, 16, 24, 48, 80)
TRAINING_LENGTHS = (10_000, 50_000, 100_000)
TRAINING_BATCH = 8  # the paper's
SMALL_CARD_GIB = 24
HOUR_S = 3600
KNOWN_GAP = (
    "Predicted memory is that of tensors: within 0.1 % of a CPU's allocator for transformers (tests/bench/cost), but "
    "buffers inside convolutions are not seen. Measured on a CPU (AMD EPYC, `python -m bench cost --case vae-flux-128 "
    "--measure cpu --dtype float32`): a VAE decode holds 3.9 % more than predicted, 30 % more besides the weights."
)


@dataclass(frozen=True, kw_only=True)
class Table:
    """Rows of one table, all with the same columns; `notes` say how to read them."""

    name: str
    title: str
    rows: list[dict[str, Any]]
    notes: tuple[str, ...] = ()


def all_tables(get: Get) -> list[Table]:
    """Every table, from the predictions that `get(name, batch_size)` gives."""
    makers = (figure4, cost_an_image, training_overhead, training_hours, growth, largest_resolution, small_card)
    return [*(make(get) for make in makers), pixel_decoder()]


def figure4(get: Get) -> Table:
    """The paper's figure 4 under every protocol, each with its distance to the paper's two figures (claim C6)."""
    protocols = figure4_protocols(get)
    latencies = [change for protocol in protocols for change in protocol.latency_changes]
    memories = [protocol.memory_change for protocol in protocols]
    return Table(
        name="figure4",
        title=f"Figure 4: one step at 4096 px, {FIGURE4_FAMILY} against its pixel model, every protocol",
        rows=[_figure4_row(protocol) for protocol in protocols],
        notes=(
            _band_note("latency", PAPER_LATENCY_CHANGE, latencies),
            _band_note("memory", PAPER_MEMORY_CHANGE, memories),
            "The paper does not state its protocol. Latency is a roofline's band (eager, H100), not a measurement.",
            KNOWN_GAP,
            "No CUDA measurement was made: no GPU was at hand.",
        ),
    )


def _figure4_row(protocol: Protocol) -> dict[str, Any]:
    low, high = min(protocol.latency_changes), max(protocol.latency_changes)
    return {
        "guidance_batch": protocol.batch_size,
        "text_encoder_resident": protocol.with_text,
        "vae": protocol.vae,
        "source_gib": _gib(protocol.source_bytes),
        "l2p_gib": _gib(protocol.pixel_bytes),
        "memory_change_percent": round(protocol.memory_change, 2),
        "memory_paper": PAPER_MEMORY_CHANGE,
        "memory_difference_points": round(protocol.memory_change - PAPER_MEMORY_CHANGE, 2),
        "flops_change_percent": round(protocol.flops_change, 2),
        "latency_change_low_percent": round(low, 2),
        "latency_change_high_percent": round(high, 2),
        "latency_paper": PAPER_LATENCY_CHANGE,
        "paper_latency_inside": low <= PAPER_LATENCY_CHANGE <= high,
        "measured_gpu": "no CUDA measurement was made",
    }


def _band_note(what: str, paper: float, values: list[float]) -> str:
    low, high = min(values), max(values)
    where = "inside" if low <= paper <= high else "outside"
    return f"C6, {what}: the paper's {paper} % lies {where} the band of all protocols, {low:.2f} to {high:.2f} %."


def cost_an_image(get: Get) -> Table:
    """A whole image at each model's published sampler: what a comparison of single steps leaves out."""
    rows = []
    for family in FAMILIES.values():
        for resolution in IMAGE_RESOLUTIONS:
            pixel = L2P_SAMPLER if resolution < 4096 else L2P_HIGH_RESOLUTION_SAMPLER
            source_row = None
            if resolution <= family.max_resolution:
                source_row = _image_row(get, family, resolution, "source", family.sampler)
                rows.append(source_row)
            rows.append(_image_row(get, family, resolution, "l2p", pixel, source_row))
    return Table(
        name="image",
        title="Cost of an image at each model's published sampler",
        rows=rows,
        notes=(
            "PFLOP = forwards x one forward + text encoder + VAE decode. The pixel model's sampler is the release's "
            "for Z-Image and assumed for the other families.",
            "The Z-Image source is the few-step Turbo model; the pixel model samples with guidance.",
        ),
    )


def _image_row(
    get: Get, family: Family, resolution: int, model: str, sampler: Sampler, source: dict[str, Any] | None = None
) -> dict[str, Any]:
    prefix = "l2p-" if model == "l2p" else ""
    forwards = sampler.num_inference_steps * sampler.forwards_per_step
    parts = [(get(f"{prefix}{family.name}-{resolution}"), forwards), (get(f"text-{family.name}"), 1)]
    if model == "source":
        parts.append((get(f"vae-{family.name}-{resolution}"), 1))
    petaflop = sum(part.flops * times for part, times in parts) / 1e15
    row: dict[str, Any] = {
        "family": family.name,
        "model": model,
        "resolution": resolution,
        "steps": sampler.num_inference_steps,
        "forwards": forwards,
        "pflop": round(petaflop, 3),
        "times_source": round(petaflop / source["pflop"], 2) if source else None,
    }
    for device in DEVICES:
        low, high = (sum(_band(part, device)[end] * times for part, times in parts) for end in (0, 1))
        row |= {f"{device}_s_low": _round(low), f"{device}_s_high": _round(high)}
    return row | {"sampler_source": sampler.source}


def training_overhead(get: Get) -> Table:
    """What a training step needs, against full fine-tuning of the same pixel model (claim C12)."""
    rows = []
    for name, batch_size in training_asks():
        cost = get(name, batch_size)
        checkpointed = "-checkpointed" if cost.case.checkpointed else ""
        full = get(f"train-l2p-{cost.case.family}-1024-full{checkpointed}")
        rows.append(_training_row(cost, full))
    return Table(
        name="training",
        title="One training step of the pixel model at 1024 px, batch 1",
        rows=rows,
        notes=(
            "Blocks n means n at each end, the input projection and the Detailer Head (paper); `released` also trains "
            "the refiners and embedders, as the public release does.",
            "The percentages compare with full fine-tuning under the same checkpointing, pure bfloat16, AdamW foreach.",
        ),
    )


def _training_row(cost: Prediction, full: Prediction) -> dict[str, Any]:
    case, count = cost.case, cost.case.num_trainable_blocks
    return {
        "case": case.name,
        "family": case.family,
        "blocks": "all" if count is None else f"{count} + {count}",
        "released": case.released,
        "checkpointed": case.checkpointed,
        "precision": "mixed" if case.mixed else "bfloat16",
        "optimizer": case.optimizer,
        "trained_billion": round(cost.num_trainable_parameters / 1e9, 3),
        "trained_percent": round(100 * cost.num_trainable_parameters / cost.num_parameters, 1),
        "tflop": round(cost.flops / 1e12, 1),
        "flops_percent_of_full": round(100 * cost.flops / full.flops, 1),
        "peak_gib": _gib(cost.peak_memory_bytes),
        "memory_percent_of_full": round(100 * cost.peak_memory_bytes / full.peak_memory_bytes, 1),
    }


def training_hours(get: Get) -> Table:
    """GPU-hours of 10k, 50k and 100k steps of batch 8 with 5 + 5 blocks, by device."""
    rows = []
    for name in FAMILIES:
        cost = get(f"train-l2p-{name}-1024-5-checkpointed")
        for device, limits in DEVICES.items():
            low, high = _band(cost, device)
            row: dict[str, Any] = {"family": name, "device": limits.name, "kind": "roofline"}
            row["fits"] = cost.peak_memory_bytes <= limits.memory_bytes
            for steps in TRAINING_LENGTHS:
                images = steps * TRAINING_BATCH
                row[f"gpu_hours_{steps // 1000}k_low"] = round(low * images / HOUR_S)
                row[f"gpu_hours_{steps // 1000}k_high"] = round(high * images / HOUR_S)
            rows.append(row)
    return Table(
        name="training-hours",
        title="GPU-hours of a transfer, 5 + 5 blocks, 1024 px, batch 8, gradient checkpointing",
        rows=rows,
        notes=(
            "The paper does not state its number of steps; its ablations run to 100k. A step of batch 8 = eight "
            "steps of batch 1 (the paper's eight devices), each with its optimiser. `fits`: batch 1 on one device.",
        ),
    )


def growth(get: Get) -> Table:
    """FLOPs, memory and modelled time of one forward as the image grows, source against pixel model."""
    rows = []
    for name, family in FAMILIES.items():
        for resolution in GROWTH_RESOLUTIONS:
            if resolution <= family.max_resolution:
                rows.append(_growth_row(get(f"{name}-{resolution}"), "source"))
            rows.append(_growth_row(get(f"l2p-{name}-{resolution}"), "l2p"))
    return Table(
        name="growth",
        title="One denoiser forward as the image grows",
        rows=rows,
        notes=(
            "Patches as released: 16 at 1K and 2K, 64 at 4K, 128 at 8K, 160 at 10K; at 2K the pixel model has four "
            "times the tokens because no head for patch 32 was released.",
            "SD3's positions end at 3072 px and Z-Image's at 8192 px: no source rows beyond.",
        ),
    )


def _growth_row(cost: Prediction, model: str) -> dict[str, Any]:
    low, high = _band(cost, "h100")
    return {
        "family": cost.case.family,
        "model": model,
        "resolution": cost.case.resolution,
        "patch_size": cost.case.patch_size or None,
        "tflop": round(cost.flops / 1e12, 2),
        "peak_gib": _gib(cost.peak_memory_bytes),
        "h100_s_low": _round(low),
        "h100_s_high": _round(high),
    }


def largest_resolution(get: Get) -> Table:
    """The largest of the growth resolutions whose forward fits into each memory, batch 1, denoiser alone."""
    rows = []
    for name, family in FAMILIES.items():
        for model in ("source", "l2p"):
            limit = family.max_resolution if model == "source" else max(GROWTH_RESOLUTIONS)
            costs = [get(_denoiser(name, model, side)) for side in GROWTH_RESOLUTIONS if side <= limit]
            fits = {f"{size}_gib": _largest(costs, size) for size in CAPACITIES_GIB}
            rows.append({"family": name, "model": model, **fits})
    return Table(
        name="fits",
        title="Largest resolution that fits, in px (denoiser alone, bfloat16, batch 1)",
        rows=rows,
        notes=(
            f"Of {', '.join(map(str, GROWTH_RESOLUTIONS))} px; `-` means not even 1024. Text encoders are unloaded, "
            "and the source's VAE decode, which comes after, must be tiled at 4K and more (see figure4).",
        ),
    )


def _denoiser(family: str, model: str, resolution: int) -> str:
    return ("l2p-" if model == "l2p" else "") + f"{family}-{resolution}"


def _largest(costs: Iterable[Prediction], capacity_gib: int) -> int | str:
    fitting = [cost.case.resolution for cost in costs if cost.peak_memory_bytes <= capacity_gib * GIB]
    return max(fitting, default="-")


def small_card(get: Get) -> Table:
    """Which transfers at 1024 px a 24 GB card can run."""
    rows = []
    for name, batch_size in dict.fromkeys([*small_card_asks(), *training_asks()]):
        cost = get(name, batch_size)
        fits = cost.peak_memory_bytes <= SMALL_CARD_GIB * GIB
        rows.append({"case": name, "peak_gib": _gib(cost.peak_memory_bytes), "fits_24_gib": fits})
    return Table(
        name="card24",
        title=f"What a {SMALL_CARD_GIB} GB card can train (1024 px, batch 1)",
        rows=sorted(rows, key=lambda row: row["peak_gib"]),
        notes=(
            "8-bit optimiser state is computed from bitsandbytes' published layout. Tensor memory only: leave a GiB or "
            "two for the CUDA context and for workspaces inside operators.",
            f"Depths asked: {', '.join(map(str, TRAINED_BLOCKS))} and all, as the cases' names say.",
        ),
    )


def pixel_decoder() -> Table:
    """NVIDIA's pixel diffusion decoder: published figures only, because its architecture is not published in full."""
    published = "arXiv 2605.23902, abstract"
    rows = [
        {
            "model": "PiD, latents of 512 px to 2048 px, 4 steps",
            "predicted": "not modelled",
            "published_peak_gb": 13,
            "published_latency": "below 1 s on RTX 5090; 0.21 s on GB200",
            "source": published,
        }
    ]
    reason = (
        "Not modelled: the sources at hand give the backbone's sizes (PixelDiT, 1.3 B parameters, patch 16, 14 patch "
        "blocks of width 1536, 2 pixel blocks) but not the layout of the latent adapter injected into them, so a "
        "parameter count could not be checked within 1 %."
    )
    return Table(name="pid", title="A pixel diffusion decoder for comparison", rows=rows, notes=(reason,))


def _band(cost: Prediction, device: str) -> tuple[float, float]:
    return latency_band_s(cost.operators, DEVICES[device])


def _gib(size: float) -> float:
    return round(size / GIB, 2)


def _round(seconds: float) -> float:
    return float(f"{seconds:.3g}")
