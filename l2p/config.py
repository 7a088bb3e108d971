"""TransferConfig: every choice of a transfer, in one flat record."""

import json
import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch

from l2p.detailer import DetailerConfig
from l2p.errors import InputError
from l2p.pixel_transformer import PREDICTIONS
from l2p.trainable import TRAINABLE
from l2p.training.data import SIGMA_DISTRIBUTIONS

# Mixed precision -> the dtype of weights that are not trained; trained ones are float32 always.
FROZEN_DTYPES = {"no": torch.float32, "bf16": torch.bfloat16}


@dataclass(frozen=True, kw_only=True)
class TransferConfig:
    """All choices of a transfer; the defaults are the paper's (appendix, section 3.3) where it states one.

    Not stated there, hence ours: shift and sigma_distribution of training, prompt_dropout, num_train_steps (100,000 is
    the length of its ablations). Raises ValueError for values that cannot be.
    """

    # The model (l2p.pixel_transformer, l2p.detailer) and its start.
    patch_size: int = 16
    prediction: str = "velocity"
    output_scale: float = 1.0
    detailer: DetailerConfig = field(default_factory=DetailerConfig)
    distilled_guidance: float = 3.5
    input_projection: Literal["random", "ridge"] = "random"  # "ridge": fitted to the source's latents of the corpus
    ridge_strength: float = 0.02
    num_ridge_images: int = 2000
    initial_weights: Literal["random"] | None = None  # None: the source's; "random": training from scratch, all of it
    # What is trained.
    trainable: str = "ends"  # a key of TRAINABLE
    num_trainable_blocks: int = 5  # at each end
    # How.
    num_train_steps: int = 100_000
    batch_size: int = 8  # images of one optimizer step, over all processes and accumulation steps
    gradient_accumulation_steps: int = 1
    learning_rate: float = 5e-5
    block_learning_rate: float | None = None  # of the transformer's blocks; None: learning_rate
    projection_learning_rate: float | None = None  # of the input projection; None: learning_rate
    weight_decay: float = 0.01
    adam_betas: tuple[float, float] = (0.9, 0.999)
    num_warmup_steps: int = 0
    num_decay_steps: int = 0  # the last so many steps, linearly down to final_learning_rate_share
    final_learning_rate_share: float = 0.02
    max_grad_norm: float | None = None
    ema_decay: float | None = None
    # The objective.
    sigma_distribution: str = "logit-normal"  # a key of SIGMA_DISTRIBUTIONS
    shift: float = 3.0
    loss_weight_below: float = 0.0  # below this sigma the loss is weighted by (sigma / it)^2
    prompt_dropout: float = 0.1  # share of images trained on the empty prompt, which guidance needs
    # The run.
    seed: int = 0
    max_sequence_length: int = 512
    resolution: int | None = None
    allow_missing: bool = False
    mixed_precision: Literal["no", "bf16"] = "no"
    gradient_checkpointing: bool = False
    optimizer_bits: Literal[8] | None = None  # of AdamW's moments; None: float32
    num_validation_images: int = 64
    validate_every: int = 1000
    save_every: int = 1000
    log_every: int = 10

    def __post_init__(self) -> None:
        _known("prediction", self.prediction, PREDICTIONS)
        _known("trainable", self.trainable, TRAINABLE)
        _known("sigma_distribution", self.sigma_distribution, SIGMA_DISTRIBUTIONS)
        _known("mixed_precision", self.mixed_precision, FROZEN_DTYPES)
        _known("optimizer_bits", self.optimizer_bits, (None, 8))
        _known("input_projection", self.input_projection, ("random", "ridge"))
        if self.batch_size < 1 or self.batch_size % self.gradient_accumulation_steps:
            raise InputError(
                f"batch_size {self.batch_size} splits not into {self.gradient_accumulation_steps} accumulation steps"
            )
        for name in ("num_train_steps", "validate_every", "save_every", "log_every", "num_validation_images"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)}; give 1 or more")
        if self.initial_weights not in (None, "random"):
            raise InputError(f"initial_weights is {self.initial_weights!r}; give None (the source's) or 'random'")
        if self.initial_weights == "random" and self.trainable != "all":
            raise InputError(f"initial_weights 'random' with trainable {self.trainable!r}: give trainable 'all'")
        for name in ("learning_rate", "block_learning_rate", "projection_learning_rate", "shift", "max_grad_norm"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:  # which NaN is not either
                raise InputError(f"{name} is {value}; give a finite number above 0")
        if self.ema_decay is not None and not 0 <= self.ema_decay < 1:
            raise InputError(f"ema_decay is {self.ema_decay}; give a number from 0 to below 1")
        if self.seed < 0 or not 0 <= self.prompt_dropout < 1:
            raise InputError(f"seed {self.seed} must be >= 0, prompt_dropout {self.prompt_dropout} in [0, 1)")


def _known(name: str, value: Any, choices: Any) -> None:
    if value not in choices:
        raise InputError(f"unknown {name} {value!r}; known: {sorted(choices, key=str)}")


def options(config: TransferConfig) -> dict[str, Any]:
    """Return a configuration as JSON has it, nested and with lists."""
    return json.loads(json.dumps(asdict(config)))


def refuse_other_options(saved: dict[str, Any], config: TransferConfig, folder: Path) -> None:
    """Raise ValueError that names what differs when a folder's transfer was started with other options."""
    given = options(config)
    other = {name: (saved.get(name), given[name]) for name in given if saved.get(name) != given[name]}
    if other:
        raise InputError(f"{folder} holds a transfer with other options (there, here): {other}; use another folder")
