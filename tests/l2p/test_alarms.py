"""Each alarm rings for its fault, and for nothing else."""

from dataclasses import replace

import pytest
import torch
from diffusers import FluxPipeline

from l2p.alarms import ALARMS, Probe, check_alarms, one_pixel_floor, patch_grid_energy
from l2p.architectures import encode_prompt, split_prompts, stack_prompts
from l2p.flow import noisy_image, velocity_target
from l2p.pixel_transformer import PixelTransformer2DModel


def smooth_images(number: int = 8, size: int = 48) -> torch.Tensor:
    """Images of a few soft blobs, [-1, 1]."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(number, 3, 5, 5, generator=generator) * 2 - 1
    return torch.nn.functional.interpolate(coarse, size=(size, size), mode="bicubic").clamp(-1, 1)


class Oracle(torch.nn.Module):
    """A stand-in for a pixel model with a chosen fault; `content` is the share of the image that it knows."""

    def __init__(
        self, probe_clean: torch.Tensor, content: float, reads_prompt: bool = True, tokens: float = 1.0
    ) -> None:
        super().__init__()
        self.clean, self.content, self.reads_prompt, self.scale = probe_clean, content, reads_prompt, tokens
        self.grid = torch.zeros(())
        self.config = type("Config", (), {"patch_size": 8})

    def forward(self, noisy: torch.Tensor, sigma: torch.Tensor, prompt: dict, return_dict: bool = True) -> tuple:
        own = prompt["id"] if self.reads_prompt else torch.arange(len(noisy))
        s = sigma[:, None, None, None]
        variance = self.clean.var()
        total = (1 - s) ** 2 * variance + s**2
        blind = noisy * (s - (1 - s) * variance) / total  # the best guess from one noisy pixel
        known = (noisy - self.clean[own] - self.grid) / s
        return (blind + self.content * (known - blind),)

    def token_map(self, noisy: torch.Tensor, sigma: torch.Tensor, prompt: dict) -> torch.Tensor:
        return prompt["id"].float()[:, None, None, None].expand(-1, 2, 6, 6)

    def detailer(self, noisy: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        return noisy + self.scale * tokens[:, :1].repeat_interleave(8, 2).repeat_interleave(8, 3)


def probe_of(clean: torch.Tensor, model: torch.nn.Module) -> Probe:
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(1))
    return Probe(model=model, clean=clean, prompt={"id": torch.arange(len(clean))}, noise=noise)  # type: ignore[arg-type]


def kinds(probe: Probe) -> list[str]:
    return [alarm.kind for alarm in check_alarms(probe)]


def test_a_model_that_knows_its_images_rings_nothing() -> None:
    clean = smooth_images()
    assert kinds(probe_of(clean, Oracle(clean, content=0.6))) == []


def test_a_model_without_content_predicts_only_noise() -> None:
    clean = smooth_images()
    found = check_alarms(probe_of(clean, Oracle(clean, content=0.0)))
    assert {alarm.kind for alarm in found} == {"predicts-only-noise", "ignores-prompt"}
    assert "share of it by sigma" in next(a.message for a in found if a.kind == "predicts-only-noise")


def test_a_model_that_does_not_read_the_prompt_is_told() -> None:
    clean = smooth_images()
    assert kinds(probe_of(clean, Oracle(clean, content=0.6, reads_prompt=False))) == ["ignores-prompt"]
    one_prompt = replace(
        probe_of(clean, Oracle(clean, content=0.6, reads_prompt=False)), prompt={"id": torch.zeros(8, dtype=torch.long)}
    )
    assert kinds(one_prompt) == ["dead-head"]  # the oracle's tokens are its prompt; nothing to compare prompts by


def test_a_head_that_tokens_do_not_move_is_dead() -> None:
    clean = smooth_images()
    assert kinds(probe_of(clean, Oracle(clean, content=0.6, tokens=0.0))) == ["dead-head"]


def test_a_grid_of_the_patchs_period_is_seen() -> None:
    clean = smooth_images()
    model = Oracle(clean, content=0.9)
    model.grid = torch.zeros(48, 48)
    model.grid[::8] = 0.2
    model.grid[:, ::8] = 0.2
    assert kinds(probe_of(clean, model)) == ["patch-grid"]


def test_the_floor_is_the_least_error_of_a_one_pixel_predictor() -> None:
    torch.manual_seed(0)
    clean, noise = torch.randn(200_000) * 0.4, torch.randn(200_000)
    for sigma in (0.2, 0.5, 0.9):
        noisy, velocity = noisy_image(clean, noise, torch.tensor([sigma])).flatten(), velocity_target(clean, noise)
        slope = (noisy * velocity).mean() / noisy.square().mean()
        least = (velocity - slope * noisy).square().mean().item()
        assert one_pixel_floor(0.16, sigma) == pytest.approx(least, rel=0.02)


def test_grid_energy_is_one_without_a_grid_and_grows_with_it() -> None:
    noise = torch.randn(64, 3, 48, 48, generator=torch.Generator().manual_seed(0))
    grid = torch.zeros(48, 48)
    grid[::8], grid[:, ::8] = 1.0, 1.0
    flat, weak, strong = (patch_grid_energy(noise + a * grid, 8) for a in (0.0, 0.5, 2.0))
    assert flat == pytest.approx(1, abs=0.15) and flat < weak < strong and strong > 5
    assert patch_grid_energy(noise + 2 * grid.roll(3, 0), 8) == pytest.approx(strong, rel=0.1)  # wherever it lies
    other = torch.zeros(48, 48)
    other[::12], other[:, ::12] = 1.0, 1.0
    assert patch_grid_energy(noise + 2 * other, 8) < strong / 2
    with pytest.raises(ValueError, match="fewer than four patches of 16"):
        patch_grid_energy(noise, 16)


def test_a_new_model_before_training_rings_for_its_dead_head(flux: FluxPipeline) -> None:
    model = PixelTransformer2DModel.from_source(flux.transformer, patch_size=8)
    prompt = encode_prompt(flux, "flux", ["a red star", "two blue"], 12)
    prompt = stack_prompts(split_prompts(prompt) * 2)
    clean = smooth_images(4)
    probe = Probe(model=model, clean=clean, prompt=prompt, noise=torch.randn_like(clean))
    assert "dead-head" in kinds(probe) and set(kinds(probe)) <= set(ALARMS)
    torch.nn.init.normal_(model.detailer.out_conv.weight)
    assert "dead-head" not in kinds(probe)
