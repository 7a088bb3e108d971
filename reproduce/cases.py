"""A run's heavy calls as cases of bench/cost: what is planned, and what must fit."""

from __future__ import annotations

from dataclasses import asdict, replace

from bench.cost.cases import Case, Kind
from bench.cost.families import Family
from l2p.config import TransferConfig
from l2p.detailer import DetailerConfig
from reproduce.recipes.base import Recipe, drawn_at


def case_of(recipe: Recipe, kind: Kind) -> Case:
    """One call of a run's: a forward of source or pixel model, a decode, a training step, on the recipe's batch."""
    batch = {
        "source": recipe.source_sampler.batch_size,
        "vae": recipe.source_sampler.batch_size,
        "l2p": recipe.l2p_sampler.batch_size * (1 if recipe.l2p_sampler.guidance_scale == 1 else 2),
        "train": recipe.transfer.batch_size,
    }[kind]
    return Case(
        kind=kind,
        family=recipe.family,
        resolution=drawn_at(recipe, "source" if kind in ("source", "vae") else "l2p"),
        batch_size=batch,
        text_tokens=recipe.source_sampler.max_sequence_length,
        patch_size=recipe.transfer.patch_size if kind in ("l2p", "train") else 0,
    )


def train_case(recipe: Recipe, num_processes: int = 1) -> Case:
    """A process's share of a step, trained as `l2p.transfer` does it: weights that train in float32, AdamW fused."""
    transfer = recipe.transfer
    return replace(
        case_of(recipe, "train"),
        batch_size=max(1, transfer.batch_size // num_processes // transfer.gradient_accumulation_steps),
        num_trainable_blocks=num_blocks_trained(transfer),
        released=transfer.trainable == "released",
        checkpointed=transfer.gradient_checkpointing,
        mixed=transfer.mixed_precision != "no",
        optimizer="8bit" if transfer.optimizer_bits == 8 else "fused",
    )


def with_head(family: Family, detailer: DetailerConfig) -> Family:
    """The family whose pixel model has that Detailer Head; with the releases' own it is the family as it stands."""
    return family if detailer == DetailerConfig() else replace(family, pixel_options={"detailer": asdict(detailer)})


def num_blocks_trained(transfer: TransferConfig) -> int | None:
    """Blocks that train at each end; None = all of them."""
    return {"all": None, "head": 0}.get(transfer.trainable, transfer.num_trainable_blocks)
