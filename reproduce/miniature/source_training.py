"""A miniature source learns by its own objective, flow matching on latents, whatever its family.

Two helps beside it: Muon on the blocks' matrices, and a linear head on a middle block's image tokens that predicts each
token's shape and colour and is thrown away afterwards. Counted in steps; killed anywhere, it goes on from the last
saved state to the same bytes.
"""

from __future__ import annotations

import json
import time
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from accelerate import Accelerator, DistributedDataParallelKwargs
from torch import Tensor, nn

from bench.geneval.rules import COLORS
from l2p.architectures import Architecture, EncodedPrompt, source_velocity
from l2p.flow import noisy_image, shift_sigma, velocity_target
from reproduce.miniature.muon import Muon
from reproduce.miniature.pool import GRID, Shares, told_rows
from reproduce.miniature.reading import rate
from reproduce.miniature.scenes import DEFAULT_LAYOUT, SHAPES, Layout

_MODULATION = ("norm", "mod")  # in the names of the layers that modulate, which start at nought
_CLASSES = [len(SHAPES) + 1, len(COLORS) + 1]
_BACKGROUND_WEIGHT = 0.3  # most tokens are background


@dataclass(frozen=True, kw_only=True)
class SourceConfig:
    """Settings of a source's training; `batch_size` is a process's own."""

    num_steps: int = 6000
    batch_size: int = 48
    num_scenes: int = 65536
    shares: Shares = "bound"
    layout: Layout = DEFAULT_LAYOUT
    learning_rate: float = 1e-3
    muon_learning_rate: float = 1e-2
    warmup_steps: int = 100
    hold: float = 0.6  # share of the steps before the learning rate falls
    shift: float = 5.0  # the layout is decided above sigma 0.9: a third of the batch
    semantic_weight: float = 0.25
    null_probability: float = 0.1
    dense_probability: float = 0.35  # how often a scene of a GenEval task is told by its dense prompt
    guidance: float = 1.0  # above 1: the velocity to learn is the start's own under guidance, not the scenes'
    ema_decay: float = 0.998
    seed: int = 0
    save_every: int = 250
    log_every: int = 50


def blocks_of(architecture: Architecture, transformer: Any) -> list[nn.Module]:
    """A source's transformer blocks in the order in which they run."""
    return [block for name in architecture.block_lists for block in getattr(transformer, name)]


def image_tokens(output: Any, num_tokens: int, text_first: bool) -> Tensor:
    """The image's tokens [B, N, D] in what a block returns: a stream of their own, or one end of a joint one."""
    streams = [stream for stream in (output if isinstance(output, tuple) else (output,)) if stream is not None]
    own = [stream for stream in streams if stream.shape[1] == num_tokens]
    if own:
        return own[-1]
    return streams[-1][:, -num_tokens:] if text_first else streams[-1][:, :num_tokens]


def zero_modulation(transformer: nn.Module) -> None:
    """adaLN-zero: every layer that modulates starts at nought (Peebles and Xie 2023)."""
    for name, layer in transformer.named_modules():
        if isinstance(layer, nn.Linear) and any(word in name for word in _MODULATION):
            nn.init.zeros_(layer.weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


class SourceTraining(nn.Module):
    """Transformer and auxiliary head as one module whose forward is the training's losses."""

    def __init__(self, architecture: Architecture, transformer: Any) -> None:
        super().__init__()
        self.architecture, self.transformer = architecture, transformer
        self.semantic = nn.Linear(architecture.hidden_size(dict(transformer.config)), sum(_CLASSES))
        self._middle: Tensor | None = None
        blocks = blocks_of(architecture, transformer)
        blocks[len(blocks) // 2].register_forward_hook(self._keep_middle)

    def _keep_middle(self, module: nn.Module, inputs: tuple, output: Any) -> None:
        self._middle = image_tokens(output, GRID * GRID, self.architecture.text_first)

    def forward(
        self,
        clean: Tensor,
        noise: Tensor,
        sigma: Tensor,
        prompt: EncodedPrompt,
        labels: Tensor,
        target: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Flow-matching loss of latents [B, C, h, w] at sigma [B], and semantic loss against labels [B, 2, 36].

        `target` is the velocity to learn, noise less clean latents where none is given.
        """
        velocity = source_velocity(self.architecture, self.transformer, noisy_image(clean, noise, sigma), sigma, prompt)
        assert self._middle is not None  # the forward has just kept it
        guesses = self.semantic(self._middle).split(_CLASSES, dim=-1)  # [B, 36, 7], [B, 36, 11]
        weight = torch.ones(max(_CLASSES), device=clean.device)
        weight[0] = _BACKGROUND_WEIGHT
        semantic = torch.stack(
            [
                F.cross_entropy(guess.flatten(0, 1), labels[:, k].flatten(), weight[: guess.shape[-1]])
                for k, guess in enumerate(guesses)
            ]
        )
        return F.mse_loss(velocity, velocity_target(clean, noise) if target is None else target), semantic.sum()


@dataclass(frozen=True, kw_only=True)
class Teacher:
    """A trained source whose guided velocity another learns to draw without guidance (guidance distillation).

    Released FLUX.2 is such a student. `unprompted` is the encoded empty prompt, one row.
    """

    architecture: Architecture
    transformer: Any
    guidance: float
    unprompted: EncodedPrompt

    @torch.no_grad()
    def velocity(self, clean: Tensor, noise: Tensor, sigma: Tensor, prompt: EncodedPrompt, labels: Tensor) -> Tensor:
        """The guided velocity v(empty) + g (v(prompt) - v(empty)) [B, C, h, w] of a batch."""
        noisy, size = noisy_image(clean, noise, sigma), len(clean)
        unprompted = {name: rows.expand(size, *rows.shape[1:]) for name, rows in self.unprompted.items()}
        with_prompt, without = (
            source_velocity(self.architecture, self.transformer, noisy, sigma, told) for told in (prompt, unprompted)
        )
        return without + self.guidance * (with_prompt - without)


def optimizers_of(module: SourceTraining, config: SourceConfig) -> list[torch.optim.Optimizer]:
    """Muon for the blocks' matrices, AdamW for the rest."""
    named = dict(module.named_parameters())
    blocks = tuple(f"transformer.{name}." for name in module.architecture.block_lists)
    matrices = {
        name
        for name, parameter in named.items()
        if parameter.ndim == 2 and name.startswith(blocks) and not any(word in name for word in _MODULATION)
    }
    muon = Muon([named[name] for name in sorted(matrices)], lr=config.muon_learning_rate)
    rest = [parameter for name, parameter in named.items() if name not in matrices]
    return [muon, torch.optim.AdamW(rest, lr=config.learning_rate, betas=(0.9, 0.98), weight_decay=0.01)]


def batch_of(pool: dict[str, Tensor], config: SourceConfig, step: int, rank: int) -> tuple[Any, ...]:
    """The batch of one step and rank: a function of (seed, step, rank) alone; what `SourceTraining` takes."""
    g = torch.Generator().manual_seed(int(np.random.SeedSequence([config.seed, step, rank]).generate_state(1)[0]))
    size = config.batch_size
    pick = torch.randint(0, len(pool["latents"]), (size,), generator=g)
    told_densely = torch.rand(size, generator=g) < config.dense_probability
    rows = torch.where(told_densely, pool["dense"][pick], pool["caption"][pick])
    rows = rows.masked_fill(torch.rand(size, generator=g) < config.null_probability, 0)
    clean = pool["latents"][pick].float()
    noise = torch.randn(clean.shape, generator=g)
    sigma = torch.randn(size, generator=g).sigmoid()
    sigma = shift_sigma(sigma, config.shift)
    return clean, noise, sigma, told_rows(pool, rows.long()), pool["labels"][pick].long()


@dataclass(kw_only=True)
class TrainingState:
    """What a killed training goes on from: module, its running average, optimizers, steps done, smoothed losses."""

    module: SourceTraining
    optimizers: list[torch.optim.Optimizer]
    average: dict[str, Tensor]
    step: int = 0
    losses: list[float] = field(default_factory=lambda: [0.0, 0.0])

    @classmethod
    def begin(cls, architecture: Architecture, transformer: Any, config: SourceConfig, device: Any) -> TrainingState:
        """The state before the first step."""
        torch.manual_seed(config.seed)
        module = SourceTraining(architecture, transformer).to(device)
        average = {name: value.clone() for name, value in module.state_dict().items()}
        return cls(module=module, optimizers=optimizers_of(module, config), average=average)

    def resume(self, path: Path) -> None:
        """Take up the state in a file, where there is one."""
        if not path.is_file():
            return
        saved = torch.load(path, weights_only=True, map_location="cpu")
        self.module.load_state_dict(saved["module"])
        for optimizer, state in zip(self.optimizers, saved["optimizers"], strict=True):
            optimizer.load_state_dict(state)
        for name, value in saved["average"].items():
            self.average[name].copy_(value)
        self.step, self.losses = saved["step"], saved["losses"]

    def save(self, path: Path) -> None:
        """Write the state to a file, whole or not at all."""
        state = {"module": self.module.state_dict(), "average": self.average, "step": self.step, "losses": self.losses}
        torch.save(state | {"optimizers": [o.state_dict() for o in self.optimizers]}, path.with_suffix(".tmp"))
        path.with_suffix(".tmp").rename(path)

    def update(self, losses: list[float], config: SourceConfig) -> None:
        """Take a step's weights into the average and its losses into the smoothed ones."""
        decay = min(config.ema_decay, (1 + self.step) / (10 + self.step))
        for name, value in self.module.state_dict().items():
            self.average[name].lerp_(value, 1 - decay)
        keep = 0.98 if self.step else 0.0
        self.losses = [keep * old + (1 - keep) * new for old, new in zip(self.losses, losses, strict=True)]
        self.step += 1


def train_step(wrapped: nn.Module, state: TrainingState, config: SourceConfig, batch: tuple[Any, ...]) -> None:
    """One update of the state by the losses of one batch; `wrapped` is the state's module or its parallel form."""
    factor = rate(state.step, config.num_steps, warmup=config.warmup_steps, hold=config.hold)
    bases = (config.muon_learning_rate, config.learning_rate)
    for optimizer, base in zip(state.optimizers, bases, strict=True):
        optimizer.param_groups[0]["lr"] = base * factor
        optimizer.zero_grad()
    velocity, semantic = wrapped(*batch)
    (velocity + config.semantic_weight * semantic).backward()
    torch.nn.utils.clip_grad_norm_(state.module.parameters(), 1.0)
    for optimizer in state.optimizers:
        optimizer.step()
    state.update([velocity.item(), semantic.item()], config)


def train_source(
    architecture: Architecture, pipeline: Any, pool: dict[str, Tensor], config: SourceConfig, folder: Path
) -> None:
    """Train the pipeline's transformer; the averaged weights lie in `folder`/pipeline after each saved state."""
    unread = DistributedDataParallelKwargs(find_unused_parameters=architecture.unread_text)
    accelerator = Accelerator(cpu=not torch.cuda.is_available(), kwargs_handlers=[unread])
    rank, device = accelerator.process_index, accelerator.device
    state = TrainingState.begin(architecture, pipeline.transformer, config, device)
    teacher = None
    if config.guidance > 1:  # before the state is taken up: the teacher is what the training started from
        unprompted = _on(device, (told_rows(pool, torch.zeros(1).long()),))[0]
        transformer = deepcopy(pipeline.transformer).to(device).eval().requires_grad_(False)
        teacher = Teacher(
            architecture=architecture, transformer=transformer, guidance=config.guidance, unprompted=unprompted
        )
    state.resume(folder / "state.pt")
    wrapped, started = accelerator.prepare(state.module), time.monotonic()
    while state.step < config.num_steps:
        batch = _on(device, batch_of(pool, config, state.step, rank))
        batch = batch if teacher is None else (*batch, teacher.velocity(*batch))
        train_step(wrapped, state, config, batch)
        if rank == 0 and state.step % config.log_every == 0:
            _log(folder / "log.jsonl", state, config.batch_size * accelerator.num_processes, time.monotonic() - started)
        if rank == 0 and (state.step % config.save_every == 0 or state.step == config.num_steps):
            state.save(folder / "state.pt")
            save_pipeline(pipeline, state.average, folder / "pipeline")
    accelerator.wait_for_everyone()


def _on(device: torch.device, batch: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(
        {k: t.to(device) for k, t in part.items()} if isinstance(part, dict) else part.to(device) for part in batch
    )


def _log(path: Path, state: TrainingState, num_a_step: int, seconds: float) -> None:
    row = {
        "step": state.step,
        "velocity_loss": round(state.losses[0], 5),
        "semantic_loss": round(state.losses[1], 4),
        "num_images": state.step * num_a_step,
        "seconds": round(seconds, 1),
    }
    with path.open("a") as log:
        log.write(json.dumps(row) + "\n")


def save_pipeline(pipeline: Any, average: dict[str, Tensor], folder: Path) -> None:
    """The pipeline with the averaged transformer as a diffusers folder."""
    averaged = type(pipeline.transformer).from_config(pipeline.transformer.config)
    prefix = "transformer."
    averaged.load_state_dict({k.removeprefix(prefix): v for k, v in average.items() if k.startswith(prefix)})
    type(pipeline)(**pipeline.components | {"transformer": averaged}).save_pretrained(folder)
