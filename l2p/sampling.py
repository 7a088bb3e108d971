"""What a sampler starts from and goes by: noise, and noise levels of any of diffusers' flow schedulers."""

import math
from collections.abc import Callable, Sequence
from inspect import signature
from typing import Any

import numpy as np
import torch
from diffusers import (
    DPMSolverMultistepScheduler,
    FlowMatchEulerDiscreteScheduler,
    FlowMatchHeunDiscreteScheduler,
    UniPCMultistepScheduler,
)
from torch import Tensor

from l2p.errors import InputError

Generators = torch.Generator | list[torch.Generator] | None

FLOW: dict[str, Any] = {"use_flow_sigmas": True, "prediction_type": "flow_prediction"}

SCHEDULERS: dict[str, Callable[[float], Any]] = {
    "euler": lambda shift: FlowMatchEulerDiscreteScheduler(shift=shift),
    "unipc": lambda shift: UniPCMultistepScheduler(flow_shift=shift, **FLOW),
    "dpm++": lambda shift: DPMSolverMultistepScheduler(flow_shift=shift, **FLOW),
}
"""By name, made from the noise shift: one forward a step each; UniPC and DPM-Solver++ are of second order."""

WHAT_WORKS = (
    "FlowMatchEulerDiscreteScheduler and FlowMatchHeunDiscreteScheduler do, and so do UniPCMultistepScheduler, "
    "DPMSolverMultistepScheduler and their kin with use_flow_sigmas=True, prediction_type='flow_prediction' and "
    "flow_shift=<the noise shift>"
)


def flow_scheduler(name: str, shift: float) -> Any:
    """One of SCHEDULERS with a noise shift. ValueError that lists the names for another."""
    if name not in SCHEDULERS:
        raise InputError(f"unknown scheduler {name!r}; known: {', '.join(SCHEDULERS)}")
    return SCHEDULERS[name](shift)


def check_scheduler(scheduler: Any) -> None:
    """Raise ValueError that says what works, unless the scheduler goes along the flow from noise to image."""
    name, config = type(scheduler).__name__, scheduler.config
    euler_or_heun = isinstance(scheduler, FlowMatchEulerDiscreteScheduler | FlowMatchHeunDiscreteScheduler)
    flow = euler_or_heun and not config.get("invert_sigmas")
    if not (flow or (config.get("use_flow_sigmas") and config.get("prediction_type") == "flow_prediction")):
        raise InputError(f"{name} as configured does not sample this model's flow; {WHAT_WORKS}")


def set_noise_levels(
    scheduler: Any,
    num_inference_steps: int,
    sigmas: Sequence[float] | None = None,
    timesteps: Sequence[float] | None = None,
    mu: float | None = None,
) -> None:
    """Set a scheduler's steps.

    sigmas: falling levels in (0, 1] before the scheduler's shift, instead of 1, 1 - 1/n, ... 1/n; timesteps: 1000 times
    the levels after the shift, as `scheduler.timesteps` has them. mu: the exponent of a dynamic shift, for schedulers
    that have one. Raises ValueError for another kind of scheduler and for levels that it cannot take.
    """
    check_scheduler(scheduler)
    if num_inference_steps < 1:
        raise InputError(f"{num_inference_steps} steps draw nothing; give num_inference_steps of at least 1")
    if sigmas is not None and timesteps is not None:
        raise InputError("give either `sigmas` (before the shift) or `timesteps` (after it), and not both")
    dynamic = {"mu": mu} if scheduler.config.get("use_dynamic_shifting") else {}
    if "sigmas" not in signature(scheduler.set_timesteps).parameters:
        if sigmas is not None or timesteps is not None:
            raise InputError(
                f"{type(scheduler).__name__} makes its own noise levels: leave `sigmas` and `timesteps` out, or use "
                "FlowMatchEulerDiscreteScheduler or UniPCMultistepScheduler"
            )
        scheduler.set_timesteps(num_inference_steps, **dynamic)
    else:
        if timesteps is not None:
            num_train_timesteps = scheduler.config.num_train_timesteps
            sigmas = _unshifted(scheduler, _falling([t / num_train_timesteps for t in timesteps]), **dynamic)
        elif sigmas is None:
            sigmas = torch.linspace(1, 1 / num_inference_steps, num_inference_steps).tolist()
        scheduler.set_timesteps(sigmas=np.array(_falling(sigmas)), **dynamic)
        _check_kept(scheduler, timesteps)
    scheduler.set_begin_index(0)


def _unshifted(scheduler: Any, levels: list[float], mu: float | None = None) -> list[float]:
    # The shift is s -> k s / (1 + (k - 1) s), and dynamic shifts are the same with k = exp(mu), or mu.
    config = scheduler.config
    if mu is not None:
        k = mu if config.get("time_shift_type") == "linear" else math.exp(mu)
    else:
        k = config.flow_shift if "flow_shift" in config else scheduler.shift
    return [s / (k - (k - 1) * s) for s in levels]


def _falling(sigmas: Sequence[float]) -> list[float]:
    levels = [float(sigma) for sigma in sigmas]
    if not levels or not 0 < levels[0] <= 1 or not all(a > b > 0 for a, b in zip(levels, levels[1:], strict=False)):
        raise InputError(f"noise levels must fall from at most 1 (timestep 1000) and stay above 0; got {levels}")
    return levels


def _check_kept(scheduler: Any, timesteps: Sequence[float] | None) -> None:
    if timesteps is None:
        return
    made = (scheduler.sigmas[:-1] * scheduler.config.num_train_timesteps).tolist()
    if not np.allclose(made, list(timesteps), atol=1e-2, rtol=0):
        raise InputError(
            f"{type(scheduler).__name__} turned the timesteps {list(timesteps)} into {made}: its options (Karras, "
            "exponential or beta levels, shift_terminal) make their own; turn them off, or give `sigmas`"
        )


def draw_noise(shape: tuple[int, int, int, int], generator: Generators) -> Tensor:
    """Draw Gaussian noise [B, C, H, W] in float32, image by image, each on its generator's device, on the CPU.

    generator: one for all images, or one an image. Raises ValueError when their number is not the batch's.
    """
    batch_size, *size = shape
    if isinstance(generator, list) and len(generator) != batch_size:
        raise InputError(f"{len(generator)} generators for {batch_size} images; give one an image, or a single one")
    each = generator if isinstance(generator, list) else [generator] * batch_size
    return torch.stack([torch.randn(size, generator=g, device=g.device if g else "cpu").cpu() for g in each])


def start_noise(shape: tuple[int, int, int, int], generator: Generators, given: Tensor | None) -> Tensor:
    """Return the noise to start from in float32: drawn as draw_noise does, or given.

    Raises ValueError for no image at all, and for given noise of another shape.
    """
    if shape[0] < 1:
        raise InputError("no image is asked for; give num_images_per_prompt of at least 1")
    if given is None:
        return draw_noise(shape, generator)
    if tuple(given.shape) != shape:
        raise InputError(f"`latents` are {list(given.shape)}; the noise for these images is {list(shape)}")
    return given.float()
