"""How images become better weights: learning rates over the steps, the step's losses, clipping, averaged weights."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator
from diffusers.training_utils import EMAModel
from torch import Tensor, nn

from l2p.flow import noisy_image, transfer_loss, velocity_target
from l2p.training.data import MicroBatch
from l2p.training.loop import train_step
from l2p.training.shard import let_go, whole


def learning_rate_share(
    step: int, *, num_train_steps: int, num_warmup_steps: int, num_decay_steps: int, final_share: float
) -> float:
    """Return the factor on the learning rates at a step counted from 0: linear warm-up, hold, linear decay."""
    warm = min(1.0, (step + 1) / num_warmup_steps) if num_warmup_steps else 1.0
    decay = min(1.0, (num_train_steps - step) / num_decay_steps) if num_decay_steps else 1.0
    return warm * max(decay, final_share)


@dataclass(frozen=True, kw_only=True)
class Trainer:
    """A model under training, with all that a step needs.

    model: called as model(noisy [b, 3, H, W], sigma [b], prompt, return_dict=False), returns (velocity,); it knows
    how to share gradients between processes. optimizer: parameter groups have their `base_lr`. trained: the
    parameters by name. ema: their averages, or None. rate_share(step): the factor on the learning rates.
    """

    accelerator: Accelerator
    model: nn.Module
    optimizer: Any
    trained: dict[str, nn.Parameter]
    ema: EMAModel | None
    rate_share: Callable[[int], float]
    max_grad_norm: float | None
    loss_weight_below: float

    def step(self, batch: Sequence[MicroBatch], step: int) -> float:
        """Take one optimizer step on this process's part of a batch; return its loss.

        Raises FloatingPointError, with the weights as they were, where a gradient is not finite.
        """
        losses: list[float] = []
        train_step(
            self._losses(batch, losses),
            self.optimizer,
            backward=self.accelerator.backward,
            before_update=lambda: self._limit(step, losses),
            after_update=lambda: self.ema and self.ema.step(self.trained.values()),
        )
        return sum(losses)

    def _losses(self, batch: Sequence[MicroBatch], losses: list[float]) -> Iterator[Tensor]:
        """Yield each micro-batch's share of the loss (paper eq. 5), then keep its value."""
        for i, micro in enumerate(batch):
            clean, noise, sigma, prompt = micro.to(self.accelerator.device)
            # Processes exchange gradients once, after the last part: its backward pass runs within this block.
            with nullcontext() if i == len(batch) - 1 else self.accelerator.no_sync(self.model):
                velocity = self.model(noisy_image(clean, noise, sigma), sigma, prompt, return_dict=False)[0]
                target = velocity_target(clean, noise)
                loss = transfer_loss(velocity, target, sigma, self.loss_weight_below) / len(batch)
                yield loss
            losses.append(loss.item())

    def _limit(self, step: int, losses: list[float]) -> None:
        """Clip the gradients and set the step's learning rates."""
        # After the gradients were averaged every process sees the same norm, so all of them stop or none.
        norm = whole(self.accelerator.clip_grad_norm_(self.trained.values(), self.max_grad_norm or float("inf")))
        if not torch.isfinite(norm):
            raise FloatingPointError(f"the loss is not finite at step {step + 1} (this process: {sum(losses)})")
        for group in self.optimizer.param_groups:
            group["lr"] = group["base_lr"] * self.rate_share(step)

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Let the model have its averaged weights for a while; nothing changes where none are kept."""
        if self.ema is None:
            yield
            return
        parameters = list(self.trained.values())
        self.ema.store(parameters)
        self.ema.copy_to(parameters)
        let_go(self.model)
        try:
            yield
        finally:
            self.ema.restore(parameters)
            let_go(self.model)
