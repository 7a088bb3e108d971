"""Early warnings of a transfer: only noise predicted, prompt or tokens ignored, a grid of the patch's period."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from l2p.architectures import EncodedPrompt
from l2p.errors import InputError
from l2p.flow import clean_estimate, noisy_image, velocity_target
from l2p.pixel_transformer import PixelTransformer2DModel

NOISE_FLOOR_SHARE = 0.9  # a loss above this share of the one-pixel floor means that no content is predicted
TOKEN_INFLUENCE = 1e-3  # below this relative change of the output the token map does nothing
GRID_RATIO = 4.0  # times the corpus's own energy at the patch's period


@dataclass(frozen=True, kw_only=True)
class Alarm:
    """What is wrong with a run: a kind from ALARMS, and a sentence with the numbers behind it."""

    kind: str
    message: str


@dataclass(frozen=True, kw_only=True)
class Probe:
    """What the alarms look at: the model, held-back images [B, 3, H, W] with prompts, and fixed noise for them."""

    model: PixelTransformer2DModel
    clean: Tensor
    prompt: EncodedPrompt
    noise: Tensor

    def at(self, sigma: float) -> tuple[Tensor, Tensor]:
        """Return the noisy images at one noise level, [B, 3, H, W], and the levels, [B]."""
        levels = torch.full((len(self.clean),), sigma, device=self.clean.device)
        return noisy_image(self.clean, self.noise, levels), levels

    def velocity(self, sigma: float, prompt: EncodedPrompt | None = None) -> Tensor:
        """Return the predicted velocity [B, 3, H, W], with the images' own prompts or with others."""
        noisy, levels = self.at(sigma)
        return self.model(noisy, levels, prompt or self.prompt, return_dict=False)[0].float()

    def loss(self, sigma: float, prompt: EncodedPrompt | None = None) -> float:
        """Return the mean squared error of the velocity at one noise level."""
        target = velocity_target(self.clean, self.noise)
        return (self.velocity(sigma, prompt) - target).square().mean().item()


def one_pixel_floor(variance: float, sigma: float) -> float:
    """Return the least velocity error of a predictor that sees one noisy pixel at a time, d^2 / ((1-s)^2 d^2 + s^2).

    variance: the pixels' d^2. This is the loss at which a transfer that "only predicts noise" is stuck: the linear
    guess from the noisy pixel itself, without content.
    """
    return variance / ((1 - sigma) ** 2 * variance + sigma**2)


def patch_grid_energy(images: Tensor, patch_size: int) -> float:
    """Return the energy at the patch's period relative to the frequencies beside it; 1 = no grid.

    images [B, C, H, W] of any range, at least four patches wide and high. Compare with the same number of the source's
    images. Raises ValueError for smaller images.
    """
    grey = images.float().mean(dim=1)  # [B, H, W]
    if min(grey.shape[-2:]) < 4 * patch_size:
        raise InputError(f"images of {tuple(grey.shape[-2:])} pixels show fewer than four patches of {patch_size}")
    ratios = [_harmonic_ratio(lines, patch_size) for lines in (grey, grey.transpose(1, 2))]
    return sum(ratios) / len(ratios)


def _harmonic_ratio(lines: Tensor, patch_size: int) -> float:
    length = lines.shape[-1]
    power = torch.fft.rfft(lines - lines.mean(-1, keepdim=True)).abs().square().mean(dim=(0, 1))  # [W/2 + 1]
    harmonics = torch.arange(1, (patch_size + 1) // 2) * length // patch_size  # without the Nyquist frequency
    beside = (power[harmonics - 1] + power[harmonics + 1]) / 2
    return (power[harmonics].sum() / beside.sum().clamp(min=1e-12)).item()


def _predicts_only_noise(probe: Probe) -> str | None:
    variance = probe.clean.var().item()
    shares = {sigma: probe.loss(sigma) / one_pixel_floor(variance, sigma) for sigma in (0.5, 0.7)}
    if min(shares.values()) < NOISE_FLOOR_SHARE:
        return None
    return f"the loss is at the floor of predicting only noise (share of it by sigma: {_rounded(shares)})"


def _ignores_prompt(probe: Probe) -> str | None:
    others = {name: tensor.roll(1, dims=0) for name, tensor in probe.prompt.items()}
    if all(torch.equal(others[name], probe.prompt[name]) for name in others):
        return None  # one prompt only: nothing to compare with
    gains = {sigma: 1 - probe.loss(sigma) / probe.loss(sigma, others) for sigma in (0.85, 0.97)}
    if max(gains.values()) > 0:
        return None
    return f"own prompts predict the images no better than others' (gain by sigma: {_rounded(gains)})"


def _dead_head(probe: Probe) -> str | None:
    noisy, levels = probe.at(0.85)
    tokens = probe.model.token_map(noisy, levels, probe.prompt)
    painted = probe.model.detailer(noisy, tokens)
    change = (probe.model.detailer(noisy, tokens.roll(1, dims=0)) - painted).norm() / painted.norm().clamp(min=1e-12)
    if change >= TOKEN_INFLUENCE:
        return None
    return f"the token map changes the Detailer Head's output by {change.item():.1e} of its size: the head is dead"


def _patch_grid(probe: Probe) -> str | None:
    patch_size = probe.model.config.patch_size
    if min(probe.clean.shape[-2:]) < 4 * patch_size:
        return None
    noisy, levels = probe.at(0.5)
    drawn = patch_grid_energy(clean_estimate(noisy, probe.velocity(0.5), levels), patch_size)
    own = patch_grid_energy(probe.clean, patch_size)
    if drawn < GRID_RATIO * own:
        return None
    return f"a grid of the patch's period: {drawn:.2f} times the energy beside it, {own:.2f} in the corpus"


ALARMS: dict[str, Callable[[Probe], str | None]] = {
    "predicts-only-noise": _predicts_only_noise,
    "ignores-prompt": _ignores_prompt,
    "dead-head": _dead_head,
    "patch-grid": _patch_grid,
}


@torch.no_grad()
def check_alarms(probe: Probe) -> list[Alarm]:
    """Run every alarm over a probe and return those that ring."""
    messages = {kind: alarm(probe) for kind, alarm in ALARMS.items()}
    return [Alarm(kind=kind, message=message) for kind, message in messages.items() if message]


def _rounded(values: dict[float, float]) -> dict[float, float]:
    return {key: round(value, 3) for key, value in values.items()}
