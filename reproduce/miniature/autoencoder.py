"""Train a miniature's VAE on rendered scenes and bring its latents to mean 0, deviation 1 a channel.

Every family's own class: `AutoencoderKL`, Qwen-Image's of videos (one frame each), FLUX.2's with its statistics.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor

from l2p.errors import InputError
from reproduce.miniature.detector import to_tensor
from reproduce.miniature.render import render_batch
from reproduce.miniature.scenes import Scene, mixed_scenes

_OBJECT_WEIGHT = 5.0  # objects cover a tenth of the picture, and are what is judged


def _object_weights(pictures: Tensor, scenes: list[Scene]) -> Tensor:
    """1 on the background, 6 where a picture [B, 3, H, W] departs from it: [B, 1, H, W]."""
    background = torch.tensor([s.background_rgb for s in scenes])[:, :, None, None] * 2 - 1
    return 1 + _OBJECT_WEIGHT * ((pictures - background).abs().amax(1, keepdim=True) > 0.06).float()


def _is_of_videos(vae: Any) -> bool:
    return "temperal_downsample" in vae.config


def posterior_of(vae: Any, pictures: Tensor) -> Any:
    """The distribution of latents of pictures [B, 3, H, W]."""
    return vae.encode(pictures.unsqueeze(2) if _is_of_videos(vae) else pictures).latent_dist


def decoded(vae: Any, latents: Tensor) -> Tensor:
    """Pictures [B, 3, H, W] of raw latents, as `posterior_of` gives them."""
    pictures = vae.decode(latents).sample
    return pictures.squeeze(2) if _is_of_videos(vae) else pictures


def begin_from(vae: Any, folder: Path) -> None:
    """Give a VAE the weights of a trained one in `folder`: of its class, or of another with the same layers.

    FLUX.2's class has FLUX's layers; its statistics, which the other lacks, are measured at the training's end. Raises
    ValueError where layers differ, with the first.
    """
    path = folder / "diffusion_pytorch_model.safetensors"
    if not path.is_file():
        raise InputError(f"no VAE in {folder}: give a diffusers folder with {path.name}")
    weights, own = load_file(path), vae.state_dict()
    wanted = {name: tensor.shape for name, tensor in own.items() if not name.startswith("bn.") or name in weights}
    given = {name: tensor.shape for name, tensor in weights.items()}
    if unlike := sorted(name for name in {*wanted, *given} if wanted.get(name) != given.get(name)):
        name = unlike[0]
        shapes = (tuple(shape) if shape is not None else "absent" for shape in (given.get(name), wanted.get(name)))
        raise InputError(
            f"{folder} is no VAE of {type(vae).__name__}'s layers: {name} is {' there, here '.join(map(str, shapes))}"
        )
    vae.load_state_dict(own | weights)


def train_autoencoder(
    vae: Any,
    resolution: int,
    num_steps: int,
    *,
    seed: int = 0,
    batch_size: int = 16,
    learning_rate: float = 1e-3,
    decoder_only: bool = False,
    log: Callable[[str], None] = print,
) -> Any:
    """Object-weighted L1 + squared error and a faint KL term; AdamW, linear decay; latents standardised at the end.

    With `decoder_only` the encoder, and so every latent, stays as it is: a source trained on them goes on as it was.
    No steps: the latents alone are standardised.
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
        posterior = posterior_of(vae, pictures)
        error = decoded(vae, posterior.sample()) - pictures
        kl = posterior.kl().sum() / pictures.numel()
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
def latent_statistics(vae: Any, resolution: int, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation a channel over 512 fresh scenes, of what the source denoises.

    That is a latent's channel; for FLUX.2 a patch's of 2 x 2 latents, as its statistics are kept.
    """
    pictures = to_tensor(render_batch(mixed_scenes(rng, 512), resolution))
    latents = torch.cat([posterior_of(vae, part).mode() for part in pictures.split(64)])
    if _is_of_videos(vae):
        latents = latents.squeeze(2)
    if hasattr(vae, "bn"):
        latents = F.pixel_unshuffle(latents, 2)
    return latents.mean((0, 2, 3)), latents.std((0, 2, 3))


@torch.no_grad()
def standardise(vae: Any, mean: Tensor, std: Tensor) -> None:
    """Have the source see latents of mean 0, deviation 1, where the VAE's class keeps its statistics.

    FLUX.2's in its batch norm, Qwen-Image's in its config; an `AutoencoderKL` has one number for all channels, so there
    they are folded into `quant_conv`, and their inverse into `post_quant_conv` (both 1 x 1).
    """
    if hasattr(vae, "bn"):
        vae.bn.running_mean.copy_(mean)
        vae.bn.running_var.copy_(std.square() - vae.config.batch_norm_eps)
    elif vae.config.get("latents_mean") is not None:
        vae.register_to_config(latents_mean=mean.tolist(), latents_std=std.tolist())
    else:
        _fold(vae, mean, std)


def _fold(vae: Any, mean: Tensor, std: Tensor) -> None:
    channels = len(mean)
    encode, decode = vae.quant_conv, vae.post_quant_conv
    decode.bias += decode.weight[:, :, 0, 0] @ mean
    decode.weight *= std[None, :, None, None]
    encode.weight[:channels] /= std[:, None, None, None]
    encode.bias[:channels] = (encode.bias[:channels] - mean) / std
    encode.bias[channels:] -= 2 * std.log()  # the second half is the log-variance
