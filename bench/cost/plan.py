"""What a whole recipe will need before it starts: hours, memory and disk of each stage, by prediction.

    rows = plan(family="flux", source="weights/flux", resolution=48, patch_size=8, ..., device="cpu")
    for row in rows: print(row.stage, row.hours, row.peak_memory_bytes, row.disk_bytes)

Hours are a roofline's band, a model: never a promise. Scoring is not modelled: its row has no hours.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from bench.cost.cache import DEFAULT_FOLDER, cached_prediction
from bench.cost.cases import Case
from bench.cost.families import Family, Sampler, family_from_folder, family_named
from bench.cost.predict import Prediction
from bench.cost.roofline import Device, device_named, latency_band_s

HOUR_S = 3600
FLOAT32_BYTES = 4


@dataclass(frozen=True, kw_only=True)
class StagePlan:
    """One stage: hours from fast to slow end of the model (None: not modelled), peak bytes of a process, bytes on
    disk."""

    stage: str
    hours: tuple[float, float] | None
    peak_memory_bytes: int
    disk_bytes: int
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class Workload:
    """The counts and sizes of a recipe that decide what it costs; `num_trainable_blocks` None = all.

    source: a diffusers pipeline folder (its configurations are read) or anything else (the family's published size).
    forwards a step are 2 with guidance, 1 without. pixel_options: see `Family`. batch_size: of one training step, all
    processes together; sample_batch_size: images drawn at once by one process.
    """

    family: str
    source: str
    resolution: int
    patch_size: int
    dtype: str
    num_corpus_images: int
    num_train_steps: int
    batch_size: int
    num_trainable_blocks: int | None
    num_sample_images: int
    source_sampler: Sampler
    l2p_sampler: Sampler
    text_tokens: int
    sample_batch_size: int = 1
    checkpointed: bool = False
    mixed: bool = False
    with_ema: bool = False
    pixel_options: dict[str, Any] | None = None


def plan(
    work: Workload, *, device: str = "h100", num_processes: int = 1, cache: Path = DEFAULT_FOLDER, force: bool = False
) -> list[StagePlan]:
    """The stages of a workload on `num_processes` devices of that name (`cpu`: this machine, measured now).

    Runs four to five predictions, some seconds each, kept in `cache`. Raises ValueError for an unknown family, device
    or a resolution that does not fit, FileNotFoundError for a source folder without its configurations.
    """
    family, target = _family(work), device_named(device)
    share = -(-work.batch_size // num_processes)  # images of a training step that one process sees
    batches = {kind: work.sample_batch_size for kind in ("source", "l2p", "vae")} | {"train": share}
    costs = {kind: _predict(work, family, kind, size, cache, force) for kind, size in batches.items()}
    seconds = {name: latency_band_s(cost.operators, target) for name, cost in costs.items()}
    return [
        _corpus(work, family, costs, seconds, num_processes),
        _transfer(work, costs["train"], seconds["train"]),
        _sample(work, family, costs, seconds, num_processes),
        StagePlan(stage="score", hours=None, peak_memory_bytes=0, disk_bytes=0, note="not modelled: the judge decides"),
    ]


def free_memory_note(rows: list[StagePlan], device: Device) -> str:
    """A sentence on whether the largest stage fits into the device."""
    worst = max(rows, key=lambda row: row.peak_memory_bytes)
    fits = "fits into" if worst.peak_memory_bytes <= device.memory_bytes else "does NOT fit into"
    return f"the largest stage ({worst.stage}, {worst.peak_memory_bytes / 2**30:.1f} GiB) {fits} {device.name}"


Band = tuple[float, float]


def _family(work: Workload) -> Family:
    folder = Path(work.source)
    if not folder.is_dir():
        return family_named(work.family)
    return family_from_folder(
        work.family,
        folder,
        text_tokens=work.text_tokens,
        sampler=work.source_sampler,
        pixel_options=work.pixel_options,
    )


def _predict(work: Workload, family: Family, kind: Any, batch: int, cache: Path, force: bool) -> Prediction:
    """One forward of the guidance batch of `batch` images, one decode of them, or one training step on them."""
    samplers = {"source": work.source_sampler, "l2p": work.l2p_sampler}
    forwards = samplers[kind].forwards_per_step if kind in samplers else 1
    is_pixel = kind in ("l2p", "train")
    case = Case(
        kind=kind,
        family=family.name,
        resolution=work.resolution,
        batch_size=forwards * batch,
        text_tokens=work.text_tokens,
        patch_size=work.patch_size if is_pixel else 0,
        num_trainable_blocks=work.num_trainable_blocks if kind == "train" else None,
        checkpointed=work.checkpointed and kind == "train",
        mixed=work.mixed and kind == "train",
    )
    return cached_prediction(case, family, folder=cache, dtype=getattr(torch, work.dtype), force=force)


def _corpus(work: Workload, family: Family, costs: dict, seconds: dict[str, Band], num_processes: int) -> StagePlan:
    return StagePlan(
        stage="corpus",
        hours=_hours(_source_image_s(work, seconds), work.num_corpus_images / num_processes),
        peak_memory_bytes=_pipeline_bytes(family, costs),
        disk_bytes=work.num_corpus_images * _image_bytes(work),
        note="images as raw pixels: PNG is smaller",
    )


def _transfer(work: Workload, cost: Prediction, seconds: Band) -> StagePlan:
    copies = 3 + work.with_ema  # trained weights, two moments, their average
    model = cost.num_parameters * torch.finfo(getattr(torch, work.dtype)).bits // 8
    return StagePlan(
        stage="transfer",
        hours=_hours(seconds, work.num_train_steps),
        peak_memory_bytes=cost.peak_memory_bytes,
        disk_bytes=model + (copies + 1) * FLOAT32_BYTES * cost.num_trainable_parameters,
        note="without validation and accumulation",
    )


def _sample(work: Workload, family: Family, costs: dict, seconds: dict[str, Band], num_processes: int) -> StagePlan:
    steps, batch = work.l2p_sampler.num_inference_steps, work.sample_batch_size
    pixel = tuple(steps * end / batch for end in seconds["l2p"])
    both = tuple(a + b for a, b in zip(_source_image_s(work, seconds), pixel, strict=True))
    return StagePlan(
        stage="sample",
        hours=_hours((both[0], both[1]), work.num_sample_images / num_processes),
        peak_memory_bytes=max(_pipeline_bytes(family, costs), costs["l2p"].peak_memory_bytes),
        disk_bytes=2 * work.num_sample_images * _image_bytes(work),
        note="source and pixel model, the same prompts",
    )


def _source_image_s(work: Workload, seconds: dict[str, Band]) -> Band:
    steps, batch = work.source_sampler.num_inference_steps, work.sample_batch_size
    fast, slow = ((steps * seconds["source"][end] + seconds["vae"][end]) / batch for end in (0, 1))
    return fast, slow


def _pipeline_bytes(family: Family, costs: dict[str, Prediction]) -> int:
    """Denoiser or decode at its peak, the other modules resident (two bytes a parameter of the text encoders)."""
    text = 2 * sum(encoder.num_parameters for encoder in family.text_encoders)
    source, vae = costs["source"], costs["vae"]
    return text + max(source.peak_memory_bytes + vae.resident_bytes, vae.peak_memory_bytes + source.resident_bytes)


def _image_bytes(work: Workload) -> int:
    return 3 * work.resolution**2


def _hours(seconds: Band, count: float) -> Band:
    return seconds[0] * count / HOUR_S, seconds[1] * count / HOUR_S
