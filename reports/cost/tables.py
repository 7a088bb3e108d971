"""The paper-size block's tables as plain rows, from cost records alone: figure 4 with every protocol, cost an image,
training, growth, what fits.

Every figure is predicted (FLOPs and bytes by the meter, seconds by the roofline); what is measured or published
elsewhere says so.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from bench.cost.devices import DEVICES, GIB
from bench.cost.families import FAMILIES, FIGURE4_FAMILY, L2P_HIGH_RESOLUTION_SAMPLER, L2P_SAMPLER, Family, Sampler
from bench.records import CostRecord, Training
from l2p.errors import InputError
from reports.cost import figure4
from reports.paper import FIGURE4_LATENCY, FIGURE4_MEMORY

CAPACITIES_GIB = (8, 16, 24, 48, 80)
IMAGE_RESOLUTIONS = (1024, 4096)
TRAINING_LENGTHS = (10_000, 50_000, 100_000)
TRAINING_BATCH = 8  # the paper's
SMALL_CARD_GIB = 24
NOT_MEASURED = "No CUDA measurement was made."
HOUR_S = 3600
KNOWN_GAP = (
    "Predicted memory is that of tensors: within 0.1 % of a CPU's allocator for transformers (tests/bench/cost), but "
    "buffers inside one operator are not seen: convolutions', and on some processors those of matrix products and "
    "attention. Measured on a CPU (AMD EPYC, `python -m bench cost --case vae-flux-128 "
    "--measure cpu --dtype float32`): a VAE decode holds 3.9 % more than predicted, 30 % more besides the weights."
)


@dataclass(frozen=True, kw_only=True)
class Table:
    """Rows of one table, all with the same columns; `notes` say how to read them."""

    name: str
    title: str
    rows: list[dict[str, Any]]
    notes: tuple[str, ...] = ()


def all_tables(records: Sequence[CostRecord]) -> list[Table]:
    """Every table that the records of a folder give; ValueError for a record that a table needs and that is missing."""
    makers = (figure4_table, cost_an_image, training_overhead, training_hours, growth, largest_resolution, small_card)
    return [*(make(records) for make in makers), pixel_decoder()]


def figure4_table(records: Sequence[CostRecord]) -> Table:
    """The paper's figure 4 under every protocol, each with its distance to the paper's two figures (claim C6)."""
    protocols = figure4.judged(figure4.protocols(records))
    if not protocols:
        raise InputError("no pair of predicted records for figure 4: write them with `python -m bench cost --paper`")
    latency, memory = figure4.bands(protocols)
    on_gpus = [record for record in records if record.kind == "measured" and record.device_type == "cuda"]
    devices = sorted({record.device for record in on_gpus})
    measured = f"Measured on {', '.join(devices)}: {len(on_gpus)} records." if devices else NOT_MEASURED
    return Table(
        name="figure4",
        title=f"Figure 4: one step at 4096 px, {FIGURE4_FAMILY} against its pixel model, every protocol",
        rows=[_figure4_row(protocol, on_gpus) for protocol in protocols],
        notes=(
            _band_note("latency", FIGURE4_LATENCY, latency),
            _band_note("memory", FIGURE4_MEMORY, memory),
            "The paper does not state its protocol. Latency is a roofline's band (eager, H100), not a measurement.",
            KNOWN_GAP,
            measured,
        ),
    )


def _figure4_row(protocol: figure4.Protocol, on_gpus: Sequence[CostRecord]) -> dict[str, Any]:
    source, pixel, (low, high) = protocol.source, protocol.pixel, protocol.latency
    vae = f"tiled {source.tile}" if source.tile else "untiled"
    return {
        "guidance_batch": source.batch_size,
        "text_encoder_resident": "text" in source.counted,
        "vae": vae if "vae" in source.counted else "not counted",
        "source_gib": _gib(source.peak_memory_bytes),
        "l2p_gib": _gib(pixel.peak_memory_bytes),
        "memory_change_percent": round(protocol.memory, 2),
        "memory_paper": FIGURE4_MEMORY,
        "memory_difference_points": round(protocol.memory - FIGURE4_MEMORY, 2),
        "flops_change_percent": round(protocol.flops, 2),
        "latency_change_low_percent": round(low, 2),
        "latency_change_high_percent": round(high, 2),
        "latency_paper": FIGURE4_LATENCY,
        "paper_latency_inside": low <= FIGURE4_LATENCY <= high,
        "measured_gpu": _measured_change(source, on_gpus),
    }


def _measured_change(source: CostRecord, on_gpus: Sequence[CostRecord]) -> str:
    """What GPUs measured under the protocol of a predicted record, in words."""
    if not on_gpus:
        return "no CUDA measurement was made"
    same = [
        (first, second)
        for first, second in figure4.pairs(on_gpus)
        if (first.family, first.counted, first.tile, first.batch_size, first.dtype)
        == (source.family, source.counted, source.tile, source.batch_size, source.dtype)
    ]
    words = [
        f"memory {figure4.change(first.peak_memory_bytes or 0, second.peak_memory_bytes or 0):.2f} %, "
        f"latency {figure4.change(median(first.latency_s), median(second.latency_s)):.2f} % ({first.device})"
        for first, second in same
    ]
    return "; ".join(words) or "not measured under this protocol"


def _band_note(what: str, paper: float, band: tuple[float, float]) -> str:
    where = figure4.inside(paper, band)
    return (
        f"C6, {what}: the paper's {paper} % lies {where} the band of all protocols, {band[0]:.2f} to {band[1]:.2f} %."
    )


def _forwards(records: Sequence[CostRecord], family: str, model: str) -> list[CostRecord]:
    """Predicted calls of one model alone on one image, smallest first (VAEs untiled)."""
    alone = [
        record
        for record in records
        if (record.kind, record.family, record.model, record.batch_size) == ("predicted", family, model, 1)
        and not (record.counted or record.tile or record.training)
    ]
    return sorted(alone, key=lambda record: record.resolution)


def _forward(records: Sequence[CostRecord], family: str, model: str, resolution: int) -> CostRecord:
    for record in _forwards(records, family, model):
        if record.resolution == resolution:
            return record
    raise InputError(
        f"no predicted record of {family}'s {model} at {resolution} px: `python -m bench cost --paper` writes them all"
    )


def cost_an_image(records: Sequence[CostRecord]) -> Table:
    """A whole image at each model's published sampler: what a comparison of single steps leaves out."""
    rows = []
    for family in FAMILIES.values():
        for resolution in IMAGE_RESOLUTIONS:
            pixel = L2P_SAMPLER if resolution < 4096 else L2P_HIGH_RESOLUTION_SAMPLER
            source_row = None
            if resolution <= family.max_resolution:
                source_row = _image_row(records, family, resolution, "source", family.sampler)
                rows.append(source_row)
            rows.append(_image_row(records, family, resolution, "l2p", pixel, source_row))
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
    records: Sequence[CostRecord],
    family: Family,
    resolution: int,
    model: str,
    sampler: Sampler,
    source: dict[str, Any] | None = None,
) -> dict[str, Any]:
    forwards = sampler.num_inference_steps * sampler.forwards_per_step
    parts = [(_forward(records, family.name, model, resolution), forwards)]
    parts.append((_forward(records, family.name, "text", 0), 1))
    if model == "source":
        parts.append((_forward(records, family.name, "vae", resolution), 1))
    petaflop = sum((part.flops or 0) * times for part, times in parts) / 1e15
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
        low, high = (sum(part.roofline_s[device][end] * times for part, times in parts) for end in (0, 1))
        row |= {f"{device}_s_low": _round(low), f"{device}_s_high": _round(high)}
    return row | {"sampler_source": sampler.source}


def _trainings(records: Sequence[CostRecord], *, for_small_cards: bool) -> list[tuple[CostRecord, Training]]:
    """Predicted training steps as they stand in the file; those with the smallest optimisers are for small cards."""
    return [
        (record, record.training)
        for record in records
        if record.kind == "predicted"
        and record.training
        and for_small_cards == (record.training.optimizer != "foreach" and not record.training.mixed)
    ]


def training_overhead(records: Sequence[CostRecord]) -> Table:
    """What a training step needs, against full fine-tuning of the same pixel model (claim C12)."""
    trainings = _trainings(records, for_small_cards=False)
    full = {
        (record.family, training.checkpointed): record
        for record, training in trainings
        if training == Training(num_trainable_blocks=None, checkpointed=training.checkpointed)
    }
    return Table(
        name="training",
        title="One training step of the pixel model at 1024 px, batch 1",
        rows=[_training_row(cost, way, full[cost.family, way.checkpointed]) for cost, way in trainings],
        notes=(
            "Blocks n means n at each end, the input projection and the Detailer Head (paper); `released` also trains "
            "the refiners and embedders, as the public release does.",
            "The percentages compare with full fine-tuning under the same checkpointing, pure bfloat16, AdamW foreach.",
        ),
    )


def _training_row(cost: CostRecord, way: Training, full: CostRecord) -> dict[str, Any]:
    blocks, trained = way.num_trainable_blocks, cost.num_trainable_parameters or 0
    return {
        "case": cost.case,
        "family": cost.family,
        "blocks": "all" if blocks is None else f"{blocks} + {blocks}",
        "released": way.released,
        "checkpointed": way.checkpointed,
        "precision": "mixed" if way.mixed else "bfloat16",
        "optimizer": way.optimizer,
        "trained_billion": round(trained / 1e9, 3),
        "trained_percent": _percent(trained, cost.num_parameters),
        "tflop": round((cost.flops or 0) / 1e12, 1),
        "flops_percent_of_full": _percent(cost.flops, full.flops),
        "peak_gib": _gib(cost.peak_memory_bytes),
        "memory_percent_of_full": _percent(cost.peak_memory_bytes, full.peak_memory_bytes),
    }


def _percent(part: float | None, whole: float | None) -> float | None:
    return round(100 * part / whole, 1) if part is not None and whole else None


def training_hours(records: Sequence[CostRecord]) -> Table:
    """GPU-hours of 10k, 50k and 100k steps of batch 8 with 5 + 5 blocks, by device."""
    ends = Training(num_trainable_blocks=5, checkpointed=True)
    costs = [cost for cost, training in _trainings(records, for_small_cards=False) if training == ends]
    rows = []
    for cost in costs:
        for device, limits in DEVICES.items():
            low, high = cost.roofline_s[device]
            row: dict[str, Any] = {"family": cost.family, "device": limits.name, "kind": "roofline"}
            row["fits"] = _fits(cost, limits.memory_bytes)
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


def growth(records: Sequence[CostRecord]) -> Table:
    """FLOPs, memory and modelled time of one forward as the image grows, source against pixel model."""
    rows = []
    for name in FAMILIES:
        costs = [cost for model in ("source", "l2p") for cost in _forwards(records, name, model)]
        rows += [_growth_row(cost) for cost in sorted(costs, key=lambda cost: cost.resolution)]
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


def _growth_row(cost: CostRecord) -> dict[str, Any]:
    low, high = cost.roofline_s["h100"]
    return {
        "family": cost.family,
        "model": cost.model,
        "resolution": cost.resolution,
        "patch_size": cost.patch_size or None,
        "tflop": round((cost.flops or 0) / 1e12, 2),
        "peak_gib": _gib(cost.peak_memory_bytes),
        "h100_s_low": _round(low),
        "h100_s_high": _round(high),
    }


def largest_resolution(records: Sequence[CostRecord]) -> Table:
    """The largest of the predicted resolutions whose forward fits into each memory, batch 1, denoiser alone."""
    models = [(name, model) for name in FAMILIES for model in ("source", "l2p")]
    costs = {(name, model): _forwards(records, name, model) for name, model in models}
    asked = sorted({cost.resolution for some in costs.values() for cost in some})
    rows = [
        {"family": name, "model": model, **{f"{size}_gib": _largest(some, size) for size in CAPACITIES_GIB}}
        for (name, model), some in costs.items()
    ]
    return Table(
        name="fits",
        title="Largest resolution that fits, in px (denoiser alone, bfloat16, batch 1)",
        rows=rows,
        notes=(
            f"Of {', '.join(map(str, asked))} px; `-` means not even {asked[0]}. Text encoders are unloaded, "
            "and the source's VAE decode, which comes after, must be tiled at 4K and more (see figure4).",
        ),
    )


def _largest(costs: Iterable[CostRecord], capacity_gib: int) -> int | str:
    return max((cost.resolution for cost in costs if _fits(cost, capacity_gib * GIB)), default="-")


def _fits(cost: CostRecord, memory_bytes: int) -> bool:
    return cost.peak_memory_bytes is not None and cost.peak_memory_bytes <= memory_bytes


def small_card(records: Sequence[CostRecord]) -> Table:
    """Which transfers at 1024 px a 24 GB card can run."""
    trainings = [pair for small in (True, False) for pair in _trainings(records, for_small_cards=small)]
    rows = [
        {
            "case": cost.case,
            "peak_gib": _gib(cost.peak_memory_bytes),
            "fits_24_gib": _fits(cost, SMALL_CARD_GIB * GIB),
        }
        for cost, _ in trainings
    ]
    depths = sorted({way.num_trainable_blocks for _, way in trainings if way.num_trainable_blocks is not None})
    return Table(
        name="card24",
        title=f"What a {SMALL_CARD_GIB} GB card can train (1024 px, batch 1)",
        rows=sorted(rows, key=lambda row: row["peak_gib"]),
        notes=(
            "8-bit optimiser state is computed from bitsandbytes' published layout. Tensor memory only: leave a GiB or "
            "two for the CUDA context and for workspaces inside operators.",
            f"Depths asked: {', '.join(map(str, depths))} and all, as the cases' names say.",
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


def _gib(size: float | None) -> float | None:
    return None if size is None else round(size / GIB, 2)


def _round(seconds: float) -> float:
    return float(f"{seconds:.3g}")
