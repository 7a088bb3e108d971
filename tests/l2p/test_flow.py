"""The flow equations, against closed forms and diffusers' own scheduler."""

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler

from l2p.flow import clean_estimate, noisy_image, shift_sigma, sigmas, velocity_target


def test_the_path_runs_from_clean_to_noise() -> None:
    clean, noise = torch.randn(3, 3, 4, 4), torch.randn(3, 3, 4, 4)
    noisy = noisy_image(clean, noise, torch.tensor([0.0, 0.25, 1.0]))
    torch.testing.assert_close(noisy[0], clean[0])
    torch.testing.assert_close(noisy[1], 0.75 * clean[1] + 0.25 * noise[1])
    torch.testing.assert_close(noisy[2], noise[2])


def test_velocity_is_the_paths_derivative_and_gives_the_clean_image_back() -> None:
    clean, noise, sigma = torch.randn(2, 3, 4, 4), torch.randn(2, 3, 4, 4), torch.tensor([0.3, 0.8])
    velocity = velocity_target(clean, noise)
    slope = (noisy_image(clean, noise, sigma + 0.01) - noisy_image(clean, noise, sigma)) / 0.01
    torch.testing.assert_close(velocity, slope, atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(clean_estimate(noisy_image(clean, noise, sigma), velocity, sigma), clean)


@pytest.mark.parametrize("shift", [1.0, 3.0, 4.0])
def test_sigmas_are_those_of_the_flow_matching_scheduler(shift: float) -> None:
    scheduler = FlowMatchEulerDiscreteScheduler(shift=shift)
    scheduler.set_timesteps(sigmas=torch.linspace(1, 1 / 7, 7).tolist())
    torch.testing.assert_close(sigmas(7, shift), scheduler.sigmas)


def test_shift_moves_the_middle_and_keeps_the_ends() -> None:
    torch.testing.assert_close(shift_sigma(torch.tensor([0.0, 0.5, 1.0]), 3.0), torch.tensor([0.0, 0.75, 1.0]))


def test_no_steps_is_refused() -> None:
    with pytest.raises(ValueError, match="num_inference_steps is 0"):
        sigmas(0, 3.0)
