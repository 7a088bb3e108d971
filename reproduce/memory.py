"""Which setting of a run fits which GPUs: each stage's predicted peak by bench/cost's model, and the first that fits.

A setting changes nothing of what is computed. 8-bit moments and a smaller share of trained blocks would, so only a
recipe may say them; they are named where nothing else fits.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, Literal, TypeVar

import torch
from torch import nn

from bench.cost.cache import cached_prediction
from bench.cost.cases import Case
from bench.cost.components import build
from bench.cost.devices import DEVICES, GIB
from bench.cost.families import family_named
from bench.cost.predict import Prediction, make_pixel_model
from l2p.config import TransferConfig
from l2p.detailer import DetailerConfig
from l2p.errors import InputError
from l2p.pixel_transformer import PixelTransformer2DModel
from l2p.trainable import shard_units
from l2p.training.shard import PLACEMENTS, Placement
from reproduce.cases import case_of, train_case, with_head
from reproduce.recipes.base import Recipe

SPARE_BYTES = 2 * GIB  # the CUDA context, workspaces inside operators, what the allocator cannot use
PROMPTS_AT_ONCE = 32  # that a transfer encodes in one call
Sampling = Literal["whole", "turns", "layers"]
Setting = TypeVar("Setting", bound=str)
SAMPLING: dict[Sampling, str] = {
    "whole": "all parts on the GPU",
    "turns": "one part at a time on the GPU",
    "layers": "layer by layer from the CPU's memory",
}
TRAINING: dict[Placement, str] = {
    "replicate": "whole on each GPU",
    "shard": "cut over the GPUs (FSDP2)",
    "offload": "cut, frozen blocks in the CPU's memory",
}


@dataclass(frozen=True, kw_only=True)
class Gpus:
    """The GPUs of a run: how many of one kind, and the bytes of each."""

    num: int
    name: str
    memory_bytes: int


@dataclass(frozen=True, kw_only=True)
class Fit:
    """One stage's setting on some GPUs and its predicted peak, bytes a GPU; `fits` says whether there is room."""

    stage: str
    what: str
    setting: str
    peak_bytes: int
    fits: bool


def gpus_here() -> Gpus | None:
    """This machine's GPUs, None without one."""
    if not torch.cuda.is_available():
        return None
    facts = torch.cuda.get_device_properties(0)
    return Gpus(num=torch.cuda.device_count(), name=facts.name, memory_bytes=facts.total_memory)


def gpus_named(text: str) -> Gpus:
    """GPUs as `8xh100`: how many, and a name of bench/cost/devices.py. ValueError lists what there is."""
    num, _, name = text.partition("x")
    if not num.isdigit() or int(num) < 1 or name not in DEVICES:
        raise InputError(f"--gpus {text!r} is not such as 8xh100; known GPUs: {', '.join(DEVICES)}")
    return Gpus(num=int(num), name=name, memory_bytes=DEVICES[name].memory_bytes)


def fits(recipe: Recipe, gpus: Gpus) -> list[Fit]:
    """Each stage's first setting that fits, or its smallest, in the order of the stages."""
    source = _first(sampling_peaks(recipe, "source"), gpus)
    pixel = _first(sampling_peaks(recipe, "l2p"), gpus)
    training = _first(training_peaks(recipe, gpus.num), gpus)
    encoding = text_prediction(recipe).peak_memory_bytes
    rows = [
        ("corpus", "source draws", SAMPLING[source[0]], source[1]),
        ("transfer", "prompts encoded", SAMPLING["turns"], encoding),
        ("transfer", "training step", TRAINING[training[0]], training[1]),
        ("sample", "source draws", SAMPLING[source[0]], source[1]),
        ("sample", "pixel model draws", SAMPLING[pixel[0]], pixel[1]),
    ]
    return [
        Fit(stage=stage, what=what, setting=setting, peak_bytes=peak, fits=_has_room(peak, gpus))
        for stage, what, setting, peak in rows
        if stage != "corpus" or recipe.corpus.folder is None
    ]


def placement(recipe: Recipe, gpus: Gpus | None) -> Placement:
    """Where the transfer's weights lie on these GPUs: "replicate" without one, and in a miniature.

    Raises ValueError that says what would fit, where nothing does.
    """
    if gpus is None or recipe.size == "miniature":
        return "replicate"
    setting, peak = _first(training_peaks(recipe, gpus.num), gpus)
    if not _has_room(peak, gpus):
        raise InputError(
            f"a training step of {recipe.name} needs {(peak + SPARE_BYTES) / GIB:.0f} GiB on each GPU at best, "
            f"{gpus.name} has {gpus.memory_bytes / GIB:.0f}. {advice(recipe, gpus)}"
        )
    return setting


def trains_whole(recipe: Recipe, gpus: Gpus | None) -> bool:
    """Whether one of these GPUs alone has room for a training step on the whole batch with nothing cut."""
    if gpus is None or recipe.size == "miniature":
        return True
    return _has_room(dict(training_peaks(recipe, 1))["replicate"], gpus)


def sampling(recipe: Recipe, subject: Literal["source", "l2p"], gpus: Gpus | None) -> Sampling:
    """How one of the models that draw lies on these GPUs: "whole" without one, and in a miniature."""
    if gpus is None or recipe.size == "miniature":
        return "whole"
    return _first(sampling_peaks(recipe, subject), gpus)[0]


def advice(recipe: Recipe, gpus: Gpus) -> str:
    """What would train where a recipe does not fit: a smaller share of it, or another GPU."""
    for change in _smaller(recipe.transfer, gpus.num):
        smaller = replace(recipe, transfer=replace(recipe.transfer, **change))
        _, peak = _first(training_peaks(smaller, gpus.num), gpus)
        if _has_room(peak, gpus):
            words = " and ".join(f"{name}={value}" for name, value in change.items())
            return f"A recipe with {words} fits: {(peak + SPARE_BYTES) / GIB:.0f} GiB."
    least = min(peak for _, peak in training_peaks(recipe, gpus.num)) + SPARE_BYTES
    larger = [device.name for device in DEVICES.values() if device.memory_bytes >= least]
    return f"{larger[0]} would do." if larger else f"No GPU known here has {least / GIB:.0f} GiB: take more of them."


def _smaller(transfer: TransferConfig, num_gpus: int) -> Iterator[dict[str, Any]]:
    """Changes that save memory, those first that change least of what is computed."""
    split = {"gradient_accumulation_steps": transfer.batch_size // num_gpus}
    yield split
    yield split | {"optimizer_bits": 8}
    for num_blocks in (3, 2, 1, 0):
        if num_blocks < transfer.num_trainable_blocks:
            yield split | {"optimizer_bits": 8, "num_trainable_blocks": num_blocks}


def _first(peaks: list[tuple[Setting, int]], gpus: Gpus) -> tuple[Setting, int]:
    """The first setting with room, else the smallest."""
    return next((one for one in peaks if _has_room(one[1], gpus)), min(peaks, key=lambda one: one[1]))


def _has_room(peak: int, gpus: Gpus) -> bool:
    return peak + SPARE_BYTES <= gpus.memory_bytes


# --- the peaks ------------------------------------------------------------------------------------------------------


def training_peaks(recipe: Recipe, num_gpus: int) -> list[tuple[Placement, int]]:
    """A training step's peak a GPU by placement, fastest first: what is measured whole, shared out where it is cut.

    A cut model needs its share of weights, moments and averages, what is gathered of others' shares, and the same
    activations; gradients are counted whole with them, so this is a bound from above.
    """
    prediction = train_prediction(recipe, num_gpus)
    num_trained = prediction.num_trainable_parameters
    moments = 2 if recipe.transfer.optimizer_bits == 8 else 8  # bytes a trained weight
    kept = num_trained * (4 + moments + (4 if recipe.transfer.ema_decay is not None else 0))
    frozen = (prediction.num_parameters - num_trained) * 2
    whole = prediction.peak_memory_bytes + (4 * num_trained if recipe.transfer.ema_decay is not None else 0)
    working = whole - kept - frozen
    gathered = gathered_bytes(recipe)
    peaks = {
        "replicate": whole + (4 * num_trained if num_gpus > 1 else 0),  # DDP exchanges a copy of the gradients
        "shard": (kept + frozen) // num_gpus + working + gathered,
        "offload": kept // num_gpus + working + gathered,
    }
    return [(name, peaks[name]) for name in PLACEMENTS if num_gpus > 1 or name != "shard"]


def sampling_peaks(recipe: Recipe, subject: Literal["source", "l2p"]) -> list[tuple[Sampling, int]]:
    """A drawing pipeline's peak by setting, fastest first; layer by layer the two largest may be there at once."""
    parts = [text_prediction(recipe), denoiser_prediction(recipe, subject)]
    if subject == "source":
        parts.append(denoiser_prediction(recipe, "vae"))
    weights = [2 * part.num_parameters for part in parts]
    working = [part.peak_memory_bytes - size for part, size in zip(parts, weights, strict=True)]
    return [
        ("whole", sum(weights) + max(working)),
        ("turns", max(part.peak_memory_bytes for part in parts)),
        ("layers", 2 * largest_layer_bytes(recipe.family) + max(working)),
    ]


def text_prediction(recipe: Recipe) -> Prediction:
    """What encoding prompts takes, all encoders of the family's published size."""
    tokens = recipe.source_sampler.max_sequence_length
    case = Case(kind="text", family=recipe.family, batch_size=PROMPTS_AT_ONCE, text_tokens=tokens)
    return _predicted(case, recipe.transfer.detailer)


def denoiser_prediction(recipe: Recipe, kind: Literal["source", "l2p", "vae"]) -> Prediction:
    """What one forward of a denoiser, or a decode, takes on the recipe's batch."""
    return _predicted(case_of(recipe, kind), recipe.transfer.detailer)


def train_prediction(recipe: Recipe, num_gpus: int) -> Prediction:
    """What a process's share of a training step takes, nothing cut."""
    return _predicted(train_case(recipe, num_gpus), recipe.transfer.detailer)


@cache
def _predicted(case: Case, detailer: DetailerConfig) -> Prediction:
    # Of the family's published size, whatever folder the recipe names
    return cached_prediction(case, with_head(family_named(case.family), detailer))


def gathered_bytes(recipe: Recipe) -> int:
    """What is gathered at once of a model that is cut: the two largest units, and all outside of units, in float32."""
    return _gathered(train_case(recipe, 1), recipe.transfer.detailer)


@cache
def _gathered(case: Case, detailer: DetailerConfig) -> int:
    with torch.device("meta"):
        model = make_pixel_model(case, with_head(family_named(case.family), detailer))
    assert isinstance(model, PixelTransformer2DModel)
    sizes = [_size(unit) for unit in shard_units(model)]
    return 4 * (2 * max(sizes) + _size(model) - sum(sizes))


@cache
def largest_layer_bytes(family: str) -> int:
    """The largest layer of a family's denoiser and text encoders, in bfloat16."""
    published = family_named(family)
    with torch.device("meta"):
        modules = [build(component) for component in (published.transformer, *published.text_encoders)]
    return max(2 * _size(leaf) for module in modules for leaf in module.modules() if not list(leaf.children()))


def _size(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
