"""The sampler under diffusers' schedulers: against a flow with a known solution, and on the pixel model."""

from inspect import signature
from typing import Any

import diffusers
import pytest
import torch
from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler, UniPCMultistepScheduler

from l2p.architectures import ARCHITECTURES
from l2p.flow import per_image
from l2p.pixel_transformer import SIGMA_DATA
from l2p.sampling import SCHEDULERS, check_scheduler, draw_noise, flow_scheduler, set_noise_levels
from tests.l2p.pixels import close, draw, generators, moved, pixels
from tests.tiny import source

FLOW = {"use_flow_sigmas": True, "prediction_type": "flow_prediction", "flow_shift": 3.0}
# Name -> (class, options, largest error at 12 steps for noise of deviation 1). Euler's is 0.08.
ODE: dict[str, tuple[str, dict[str, Any], float]] = {
    "euler": ("FlowMatchEulerDiscreteScheduler", {"shift": 3.0}, 0.09),
    "heun": ("FlowMatchHeunDiscreteScheduler", {"shift": 3.0}, 0.001),
    "unipc": ("UniPCMultistepScheduler", FLOW, 0.07),
    "dpm++": ("DPMSolverMultistepScheduler", FLOW, 0.07),
    "dpm++ 3": ("DPMSolverMultistepScheduler", {**FLOW, "solver_order": 3}, 0.07),
    "dpm++ singlestep": ("DPMSolverSinglestepScheduler", FLOW, 0.08),
    "deis": ("DEISMultistepScheduler", FLOW, 0.01),
}
SDE: dict[str, tuple[str, dict[str, Any]]] = {
    "sde-dpm++": ("DPMSolverMultistepScheduler", {**FLOW, "algorithm_type": "sde-dpmsolver++"}),
    "sa": ("SASolverScheduler", FLOW),
}


def velocity(x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
    """The expected velocity where clean images are normal with deviation SIGMA_DATA: linear in x."""
    variance = SIGMA_DATA**2
    return x * (sigma - (1 - sigma) * variance) / ((1 - sigma) ** 2 * variance + sigma**2)


def solve(scheduler: Any, num_inference_steps: int, noise: torch.Tensor) -> torch.Tensor:
    """Go along the flow of `velocity` from noise to an image."""
    set_noise_levels(scheduler, num_inference_steps)
    generator, x = torch.Generator().manual_seed(1), noise
    drawing = {"generator": generator} if "generator" in signature(scheduler.step).parameters else {}
    for sigma, timestep in zip(scheduler.sigmas, scheduler.timesteps, strict=False):
        x = scheduler.step(velocity(x, sigma), timestep, x, return_dict=False, **drawing)[0]
    return x


@pytest.fixture(scope="module")
def noise() -> torch.Tensor:
    return torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", ODE)
def test_each_scheduler_solves_the_flow_of_normal_images(name: str, noise: torch.Tensor) -> None:
    """The solution is SIGMA_DATA times the noise. At 400 steps whole-numbered timesteps repeat: none is left out."""
    kind, options, bound = ODE[name]
    errors = [
        (solve(getattr(diffusers, kind)(**options), steps, noise) - SIGMA_DATA * noise).abs().mean().item()
        for steps in (12, 400)
    ]
    assert errors[0] < bound and errors[1] < 0.011


@pytest.mark.parametrize("name", SCHEDULERS)
def test_a_scheduler_by_name_solves_the_flow_of_normal_images(name: str, noise: torch.Tensor) -> None:
    error = (solve(flow_scheduler(name, 3.0), 12, noise) - SIGMA_DATA * noise).abs().mean()
    assert error < ODE[name][2]


def test_an_unknown_scheduler_is_refused_and_the_names_are_said() -> None:
    with pytest.raises(ValueError, match=r"unknown scheduler 'heun'; known: euler, unipc, dpm\+\+"):
        flow_scheduler("heun", 3.0)


@pytest.mark.parametrize("name", SDE)
def test_each_stochastic_scheduler_ends_at_the_images_deviation(name: str, noise: torch.Tensor) -> None:
    kind, options = SDE[name]
    assert solve(getattr(diffusers, kind)(**options), 100, noise).std().item() == pytest.approx(SIGMA_DATA, abs=0.02)


@pytest.mark.parametrize("name", ODE)
def test_the_pipeline_goes_along_the_flow_with_each(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The flow of normal images in the transformer's place: what it is told and what is stepped must be one level."""
    pipeline, (kind, options, bound) = pixels("flux"), ODE[name]
    pipeline.scheduler = getattr(diffusers, kind)(**options)
    noise = draw_noise((2, 3, 16, 24), generators(1, 2))
    monkeypatch.setattr(pipeline.transformer, "forward", lambda x, sigma, *_, **__: (velocity(x, per_image(sigma)),))
    drawn = draw(pipeline, num_inference_steps=12)
    assert (drawn - SIGMA_DATA * noise).abs().mean() < bound
    assert pipeline.num_timesteps == (23 if name == "heun" else 12)


def test_a_stochastic_scheduler_draws_with_the_images_own_generators() -> None:
    pipeline = pixels("flux")
    pipeline.scheduler = getattr(diffusers, SDE["sde-dpm++"][0])(**SDE["sde-dpm++"][1])
    together = draw(pipeline, seeds=(1, 2))
    assert torch.equal(together, draw(pipeline, seeds=(1, 2)))
    close(draw(pipeline, "two blue", seeds=(2,)), together[1:])
    assert moved(together, draw(pipeline, seeds=(1, 3))) > 0.03


def test_unipc_takes_eulers_levels() -> None:
    euler, unipc = FlowMatchEulerDiscreteScheduler(shift=3.0), UniPCMultistepScheduler(**FLOW)
    for scheduler in (euler, unipc):
        set_noise_levels(scheduler, 5)
    torch.testing.assert_close(unipc.sigmas, euler.sigmas, atol=2e-6, rtol=0)
    set_noise_levels(unipc, 5, timesteps=[1000, 500, 250])
    torch.testing.assert_close(unipc.sigmas, torch.tensor([1, 0.5, 0.25, 0]), atol=2e-6, rtol=0)


@pytest.mark.parametrize("kind", ["exponential", "linear"])
def test_timesteps_are_levels_after_a_dynamic_shift_of_either_kind(kind: str) -> None:
    scheduler = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, time_shift_type=kind)
    set_noise_levels(scheduler, 3, timesteps=[1000, 500, 250], mu=1.7)
    torch.testing.assert_close(scheduler.sigmas, torch.tensor([1, 0.5, 0.25, 0]), atol=2e-6, rtol=0)


@pytest.mark.parametrize("family", ARCHITECTURES)
def test_a_dynamic_shift_is_the_source_pipelines_own(family: str) -> None:
    """The source is asked for as many tokens as the pixel model has: latents of factor 4 under patches of 2."""
    origin, pipeline, asked = source(family, max_length=64), pixels(family), []
    scheduler = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, base_shift=0.4, max_shift=0.9)
    set_timesteps = scheduler.set_timesteps

    def spy(*args: Any, mu: float | None = None, **options: Any) -> None:
        asked.append(mu)
        set_timesteps(*args, mu=mu, **options)

    scheduler.set_timesteps = spy  # type: ignore[method-assign]
    spy.__signature__ = signature(set_timesteps)  # type: ignore[attr-defined]
    origin.scheduler = pipeline.scheduler = scheduler
    factor = 8 * getattr(origin, "vae_scale_factor", 4) // 4
    unguided = ARCHITECTURES[family].source_arguments(1.0, 3.5)
    origin(prompt="a", height=2 * factor, width=3 * factor, num_inference_steps=3, max_sequence_length=48, **unguided)
    draw(pipeline)
    assert len(asked) == 2 and asked[1] == pytest.approx(asked[0]) and asked[0] is not None
    sigmas = scheduler.sigmas
    draw(pipeline, sigmas=[1.0, 2 / 3, 1 / 3])
    assert torch.allclose(scheduler.sigmas, sigmas)
    draw(pipeline, timesteps=(sigmas[:-1] * 1000).tolist())
    torch.testing.assert_close(scheduler.sigmas, sigmas, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize(
    "scheduler",
    [
        DDIMScheduler(),
        UniPCMultistepScheduler(),
        UniPCMultistepScheduler(use_flow_sigmas=True),
        diffusers.FlowMatchLCMScheduler(),
        FlowMatchEulerDiscreteScheduler(invert_sigmas=True),
    ],
    ids=lambda scheduler: type(scheduler).__name__,
)
def test_a_scheduler_of_another_kind_is_refused_and_what_works_is_said(scheduler: Any) -> None:
    message = f"{type(scheduler).__name__} as configured does not sample .* use_flow_sigmas=True"
    with pytest.raises(ValueError, match=message):
        check_scheduler(scheduler)
    with pytest.raises(ValueError, match=message):
        set_noise_levels(scheduler, 3)


@pytest.mark.parametrize("name", ["heun", "dpm++"])
def test_a_scheduler_that_makes_its_own_levels_takes_none(name: str) -> None:
    kind, options, _ = ODE[name]
    with pytest.raises(ValueError, match=f"{kind} makes its own noise levels"):
        set_noise_levels(getattr(diffusers, kind)(**options), 3, sigmas=[1.0, 0.5])


def test_timesteps_that_the_scheduler_would_change_are_refused() -> None:
    karras = FlowMatchEulerDiscreteScheduler(use_karras_sigmas=True)
    with pytest.raises(ValueError, match=r"turned the timesteps \[1000, 500, 100\] into"):
        set_noise_levels(karras, 3, timesteps=[1000, 500, 100])
