"""Qwen-Image: joint blocks, packed tokens, captions of differing length under a mask, a video autoencoder."""

from typing import Any

import torch
from diffusers.utils.torch_utils import get_module_execution_device
from torch import Tensor

from l2p.architectures.base import (
    Architecture,
    EncodedPrompt,
    attention_width,
    patchify,
    replace_norm_and_projection,
)


def _pixel_config(config: dict[str, Any], patch_size: int) -> dict[str, Any]:
    # Qwen-Image's own patch_size only scales its output projection, which is not kept.
    return {**config, "in_channels": 3 * patch_size**2, "out_channels": 1, "patch_size": 1}


def _call(
    transformer: Any, noisy: Tensor, sigma: Tensor, prompt: EncodedPrompt, patch_size: int, distilled_guidance: float
) -> None:
    shape = (1, noisy.shape[-2] // patch_size, noisy.shape[-1] // patch_size)  # frames, rows, columns
    guided = transformer.config.guidance_embeds
    transformer(
        hidden_states=patchify(noisy, patch_size),  # [B, h * w, p * p * 3]
        encoder_hidden_states=prompt["prompt_embeds"].to(noisy.dtype),  # [B, L, D_text]
        encoder_hidden_states_mask=prompt["mask"],  # [B, L]
        timestep=sigma.to(noisy.dtype),  # Qwen-Image multiplies by 1000 itself
        img_shapes=[[shape]] * len(noisy),
        guidance=torch.full_like(sigma, distilled_guidance) if guided else None,
        return_dict=False,
    )


@torch.no_grad()
def _encode_prompt(pipeline: Any, prompts: list[str], max_sequence_length: int) -> EncodedPrompt:
    embeds, mask = pipeline.encode_prompt(
        prompt=prompts,
        device=get_module_execution_device(pipeline.text_encoder),
        max_sequence_length=max_sequence_length,
    )
    if mask is None:  # the pipeline's way of saying that no prompt is padded
        mask = torch.ones(embeds.shape[:2], device=embeds.device)
    return {"prompt_embeds": embeds, "mask": mask.bool()}


def _source_projection(transformer: Any) -> tuple[Tensor, Tensor | None]:
    return transformer.img_in.weight, transformer.img_in.bias


@torch.no_grad()
def _latent_tokens(pipeline: Any, images: Tensor) -> Tensor:
    vae = pipeline.vae
    frames = images.to(vae.device, vae.dtype).unsqueeze(2)  # [B, 3, 1, H, W]
    latents = vae.encode(frames).latent_dist.mode()[:, :, 0]  # [B, C, h, w]
    mean = latents.new_tensor(vae.config.latents_mean)[:, None, None]
    deviation = latents.new_tensor(vae.config.latents_std)[:, None, None]
    return patchify((latents - mean) / deviation, 2, "c ph pw")  # as QwenImagePipeline._pack_latents


QWENIMAGE = Architecture(
    name="qwenimage",
    transformer_class="QwenImageTransformer2DModel",
    pipeline_class="QwenImagePipeline",
    block_lists=("transformer_blocks",),
    refiners=("time_text_embed", "txt_norm", "txt_in"),
    patch_layout="ph pw c",
    hidden_size=attention_width,
    input_projection=lambda patch_size: "img_in",
    pixel_config=_pixel_config,
    replace_final_layer=lambda transformer, patch_size: replace_norm_and_projection(transformer, out_features=1),
    call=_call,
    encode_prompt=_encode_prompt,
    prompt_tensors=("prompt_embeds", "mask"),
    source_projection=_source_projection,
    latent_tokens=_latent_tokens,
    unread_text=True,
)
