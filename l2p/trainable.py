"""Which of a pixel model's weights train, at which rate, and the trainer that does it."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from accelerate.state import AcceleratorState
from diffusers.training_utils import EMAModel
from torch import nn

from l2p.architectures import get_architecture
from l2p.pixel_transformer import PixelTransformer2DModel
from l2p.training import state as saved
from l2p.training.eight_bit import eight_bit_adamw
from l2p.training.optimise import Trainer, learning_rate_share
from l2p.training.shard import Placement, is_sharded, like, like_parameters, shard

if TYPE_CHECKING:
    from l2p.config import TransferConfig  # which reads TRAINABLE


def _ends(model: PixelTransformer2DModel, num_blocks: int) -> list[nn.Module]:
    blocks = model.blocks()
    chosen = blocks if 2 * num_blocks >= len(blocks) else blocks[:num_blocks] + blocks[len(blocks) - num_blocks :]
    return [model.input_projection(), *chosen, model.detailer]


def _released(model: PixelTransformer2DModel, num_blocks: int) -> list[nn.Module]:
    refiners = get_architecture(model.config.architecture).refiners
    return [*_ends(model, num_blocks), *(getattr(model.transformer, name) for name in refiners)]


# Name -> the modules and parameters that train. "ends": input projection, first and last n blocks, Detailer Head (paper
# section 3.3). "released": also the embedders and refiners, as the public release does.
TRAINABLE = {
    "ends": _ends,
    "released": _released,
    "head": lambda model, num_blocks: [model.detailer],
    "all": lambda model, num_blocks: [model],
}


def trainable_parameters(model: PixelTransformer2DModel, config: TransferConfig) -> dict[str, nn.Parameter]:
    """Mark what trains and freeze the rest; return the trainable parameters by name, in the model's order."""
    model.requires_grad_(False)
    for part in TRAINABLE[config.trainable](model, config.num_trainable_blocks):
        part.requires_grad_(True)
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def parameter_groups(model: PixelTransformer2DModel, config: TransferConfig) -> list[dict[str, Any]]:
    """Return AdamW's groups, each with its rate: new layers (input projection, head), the transformer's own.

    An input projection with a rate of its own is a third group.
    """
    projection, head = ({id(p) for p in part.parameters()} for part in (model.input_projection(), model.detailer))
    blocks = {id(p) for p in model.parameters()} - projection - head
    rate = config.learning_rate if config.block_learning_rate is None else config.block_learning_rate
    parts = [(head | projection, config.learning_rate), (blocks, rate)]
    if config.projection_learning_rate is not None:
        parts = [(head, config.learning_rate), (blocks, rate), (projection, config.projection_learning_rate)]
    trained = [p for p in model.parameters() if p.requires_grad]
    return [{"params": [p for p in trained if id(p) in part], "base_lr": base_lr} for part, base_lr in parts]


def choose_trained(model: PixelTransformer2DModel, config: TransferConfig) -> dict[str, nn.Parameter]:
    """Mark what trains, and give it float32 weights: frozen ones keep the source's dtype. Returns them by name."""
    trained = trainable_parameters(model, config)
    for parameter in trained.values():
        parameter.data = parameter.data.float()
    return trained


def make_accelerator(config: TransferConfig) -> Accelerator:
    """Return the accelerator of a transfer: its precision, and its way of sharing gradients between processes."""
    # A process may train twice, first in float32, then in bfloat16; accelerate has one precision a process and offers
    # no public way to begin anew. Devices and process groups (its PartialState) stay.
    AcceleratorState._reset_state()
    return Accelerator(mixed_precision=config.mixed_precision, kwargs_handlers=[DistributedDataParallelKwargs()])


def start_training(
    model: PixelTransformer2DModel,
    config: TransferConfig,
    accelerator: Accelerator,
    state: Path | None = None,
    *,
    alone: bool = False,
    placement: Placement = "replicate",
) -> Trainer:
    """Choose what trains and make all that a step needs, from a saved state where one is given.

    alone: this process trains by itself, whatever others there are (to time a step). placement: where weights lie; a
    state that was saved with one placement and number of processes goes on with any other.
    """
    choose_trained(model, config)
    if config.gradient_checkpointing:
        model.enable_gradient_checkpointing()
    cut = placement != "replicate"
    if not cut:  # FSDP takes contiguous parameters only
        # On CPUs this makes the head's training step about 13 % faster; what is saved is contiguous again.
        model.detailer.to(memory_format=torch.channels_last)
    else:
        # The source's forward gives out zeros (TokenTap): no backward pass would gather its own parameters again.
        shard(model, shard_units(model), model.transformer, accelerator.device, offload=placement == "offload")
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    optimizer = make_optimizer(config, parameter_groups(model, config))
    ema = None if config.ema_decay is None else EMAModel(trained.values(), decay=config.ema_decay, foreach=not cut)
    if state is not None:
        optimizer.load_state_dict(like_parameters(optimizer, saved.load_state(state, "optimizer")))
        if ema is not None:
            _load_averages(ema, saved.load_state(state, "ema"), list(trained.values()))
    if accelerator.ddp_handler is not None:
        accelerator.ddp_handler.find_unused_parameters = get_architecture(model.config.architecture).unread_text
    return Trainer(
        accelerator=accelerator,
        # Evaluation mode only leaves out DDP.
        model=accelerator.prepare_model(model, evaluation_mode=alone or cut, device_placement=not cut),
        optimizer=accelerator.prepare_optimizer(optimizer),
        trained=trained,
        ema=ema,
        rate_share=partial(_rate_share, config),
        max_grad_norm=config.max_grad_norm,
        loss_weight_below=config.loss_weight_below,
    )


def shard_units(model: PixelTransformer2DModel) -> list[nn.Module]:
    """What is gathered by itself where a model is cut over processes: every block, refiners' too, and the head."""
    lists = [part for part in model.transformer.children() if isinstance(part, nn.ModuleList)]
    return [*(block for blocks in lists for block in blocks), model.detailer]


def make_optimizer(config: TransferConfig, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
    """AdamW with a configuration's settings, its two moments in as many bits as asked for."""
    if config.optimizer_bits == 8:
        return eight_bit_adamw(groups, betas=config.adam_betas, weight_decay=config.weight_decay)
    return torch.optim.AdamW(groups, betas=config.adam_betas, weight_decay=config.weight_decay, fused=True)


def _load_averages(ema: EMAModel, state: dict[str, Any], parameters: list[nn.Parameter]) -> None:
    averages = [like(average, p) for average, p in zip(state["shadow_params"], parameters, strict=True)]
    ema.load_state_dict({**state, "shadow_params": averages})
    if not is_sharded(parameters[0]):
        ema.to(parameters[0].device)


def _rate_share(config: TransferConfig, step: int) -> float:
    return learning_rate_share(
        step,
        num_train_steps=config.num_train_steps,
        num_warmup_steps=config.num_warmup_steps,
        num_decay_steps=config.num_decay_steps,
        final_share=config.final_learning_rate_share,
    )
