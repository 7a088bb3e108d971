"""FLUX.2: joint and single blocks that share their modulation, four position axes, one text encoder, no biases."""

from typing import Any

import torch
from diffusers.utils.torch_utils import get_module_execution_device
from torch import Tensor

from l2p.architectures.base import (
    Architecture,
    EncodedPrompt,
    attention_width,
    patchify,
    position_grid,
    replace_norm_and_projection,
)


def _pixel_config(config: dict[str, Any], patch_size: int) -> dict[str, Any]:
    return {**config, "in_channels": 3 * patch_size**2, "out_channels": 1, "patch_size": 1}


def _call(
    transformer: Any, noisy: Tensor, sigma: Tensor, prompt: EncodedPrompt, patch_size: int, distilled_guidance: float
) -> None:
    height, width = noisy.shape[-2] // patch_size, noisy.shape[-1] // patch_size
    text = prompt["prompt_embeds"].to(noisy.dtype)  # [B, L, D_text]
    text_ids = torch.zeros(text.shape[1], 4, device=noisy.device)
    text_ids[:, 3] = torch.arange(text.shape[1], device=noisy.device)  # the fourth axis counts text tokens
    guided = transformer.config.guidance_embeds
    transformer(
        hidden_states=patchify(noisy, patch_size),  # [B, h * w, p * p * 3]
        encoder_hidden_states=text,
        timestep=sigma.to(noisy.dtype),  # FLUX.2 multiplies by 1000 itself
        img_ids=position_grid(height, width, 4, noisy.device),
        txt_ids=text_ids,
        guidance=torch.full_like(sigma, distilled_guidance) if guided else None,
        return_dict=False,
    )


@torch.no_grad()
def _encode_prompt(pipeline: Any, prompts: list[str], max_sequence_length: int) -> EncodedPrompt:
    embeds, _ = pipeline.encode_prompt(
        prompt=prompts,
        device=get_module_execution_device(pipeline.text_encoder),
        max_sequence_length=max_sequence_length,
    )
    return {"prompt_embeds": embeds}


def _source_projection(transformer: Any) -> tuple[Tensor, Tensor | None]:
    return transformer.x_embedder.weight, transformer.x_embedder.bias


@torch.no_grad()
def _latent_tokens(pipeline: Any, images: Tensor) -> Tensor:
    vae = pipeline.vae
    latents = vae.encode(images.to(vae.device, vae.dtype)).latent_dist.mode()
    tokens = patchify(latents, 2, "c ph pw")  # as Flux2Pipeline._patchify_latents
    deviation = torch.sqrt(vae.bn.running_var + vae.config.batch_norm_eps)
    return (tokens - vae.bn.running_mean) / deviation


def _dynamic_shift(scheduler_config: Any, num_tokens: int, num_inference_steps: int) -> float:
    from diffusers.pipelines.flux2.pipeline_flux2 import compute_empirical_mu

    return compute_empirical_mu(num_tokens, num_inference_steps)


FLUX2 = Architecture(
    name="flux2",
    transformer_class="Flux2Transformer2DModel",
    pipeline_class="Flux2Pipeline",
    block_lists=("transformer_blocks", "single_transformer_blocks"),
    refiners=(
        "time_guidance_embed",
        "context_embedder",
        "double_stream_modulation_img",
        "double_stream_modulation_txt",
        "single_stream_modulation",
    ),
    patch_layout="ph pw c",
    hidden_size=attention_width,
    input_projection=lambda patch_size: "x_embedder",
    pixel_config=_pixel_config,
    replace_final_layer=lambda transformer, patch_size: replace_norm_and_projection(transformer, out_features=1),
    call=_call,
    encode_prompt=_encode_prompt,
    prompt_tensors=("prompt_embeds",),
    source_projection=_source_projection,
    latent_tokens=_latent_tokens,
    dynamic_shift=_dynamic_shift,
)
