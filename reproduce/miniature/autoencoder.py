"""Train the miniature's VAE on rendered scenes and bring its latents to mean 0, deviation 1 a channel."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import Tensor

from reproduce.miniature.detector import to_tensor
from reproduce.miniature.render import render_batch
from reproduce.miniature.scenes import Scene, mixed_scenes

_OBJECT_WEIGHT = 5.0  # objects cover a tenth of the picture, and are what is judged


def _object_weights(pictures: Tensor, scenes: list[Scene]) -> Tensor:
    """1 on the background, 6 where a picture [B, 3, H, W] departs from it: [B, 1, H, W]."""
    background = torch.tensor([s.background_rgb for s in scenes])[:, :, None, None] * 2 - 1
    return 1 + _OBJECT_WEIGHT * ((pictures - background).abs().amax(1, keepdim=True) > 0.06).float()


def train_autoencoder(
    vae: AutoencoderKL,
    resolution: int,
    num_steps: int,
    *,
    seed: int = 0,
    batch_size: int = 16,
    learning_rate: float = 1e-3,
    decoder_only: bool = False,
    log: Callable[[str], None] = print,
) -> AutoencoderKL:
    """Object-weighted L1 + squared error and a faint KL term; AdamW, linear decay; latents standardised at the end.

    With `decoder_only` the encoder, and so every latent, stays as it is: a source trained on them goes on as it was.
    """
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    vae.requires_grad_(not decoder_only)
    vae.decoder.requires_grad_(True)
    vae.post_quant_conv.requires_grad_(True)
    optimizer = torch.optim.AdamW(
        [p for p in vae.parameters() if p.requires_grad], learning_rate, betas=(0.9, 0.99), weight_decay=0.0
    )
    for step in range(num_steps):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate * min(1, (step + 1) / 50) * max(0.02, 1 - step / num_steps)
        scenes = mixed_scenes(rng, batch_size)
        pictures = to_tensor(render_batch(scenes, resolution))
        posterior = vae.encode(pictures).latent_dist
        error = vae.decode(posterior.sample()).sample - pictures
        kl = posterior.kl().mean() / pictures[0].numel()
        loss = (_object_weights(pictures, scenes) * (error.abs() + 2 * error.square())).mean() + 1e-3 * kl
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        optimizer.step()
        if (step + 1) % 100 == 0:
            psnr = -10 * torch.log10(error.square().mean() / 4).item()
            log(f"vae step {step + 1}/{num_steps} loss {loss.item():.4f} psnr {psnr:.2f} dB")
    if not decoder_only:
        standardise(vae, *latent_statistics(vae, resolution, rng))
    return vae


@torch.no_grad()
def latent_statistics(vae: AutoencoderKL, resolution: int, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation a latent channel over 512 fresh scenes."""
    pictures = to_tensor(render_batch(mixed_scenes(rng, 512), resolution))
    latents = torch.cat([vae.encode(part).latent_dist.mode() for part in pictures.split(64)])
    return latents.mean((0, 2, 3)), latents.std((0, 2, 3))


@torch.no_grad()
def standardise(vae: AutoencoderKL, mean: Tensor, std: Tensor) -> None:
    """Fold "subtract mean, divide by std" into `quant_conv` and its inverse into `post_quant_conv` (both 1 x 1)."""
    channels = len(mean)
    encode, decode = vae.quant_conv, vae.post_quant_conv
    decode.bias += decode.weight[:, :, 0, 0] @ mean
    decode.weight *= std[None, :, None, None]
    encode.weight[:channels] /= std[:, None, None, None]
    encode.bias[:channels] = (encode.bias[:channels] - mean) / std
    encode.bias[channels:] -= 2 * std.log()  # the second half is the log-variance
