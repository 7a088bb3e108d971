"""FLUX.1: joint blocks, then single blocks; packed tokens, rotary ids, a pooled CLIP vector beside T5's tokens."""

from typing import Any

import torch
from diffusers.utils.torch_utils import get_module_execution_device
from torch import Tensor

from l2p.architectures.base import (
    Architecture,
    EncodedPrompt,
    attention_width,
    encode_images,
    patchify,
    position_grid,
    replace_norm_and_projection,
)


def _pixel_config(config: dict[str, Any], patch_size: int) -> dict[str, Any]:
    # FLUX's own patch_size only scales its output projection, which is not kept.
    return {**config, "in_channels": 3 * patch_size**2, "out_channels": 1, "patch_size": 1}


def _call(
    transformer: Any, noisy: Tensor, sigma: Tensor, prompt: EncodedPrompt, patch_size: int, distilled_guidance: float
) -> None:
    height, width = noisy.shape[-2] // patch_size, noisy.shape[-1] // patch_size
    text = prompt["prompt_embeds"].to(noisy.dtype)  # [B, L, D_text]
    guided = transformer.config.guidance_embeds
    transformer(
        hidden_states=patchify(noisy, patch_size),  # [B, h * w, p * p * 3]
        encoder_hidden_states=text,
        pooled_projections=prompt["pooled_prompt_embeds"].to(noisy.dtype),  # [B, D_pooled]
        timestep=sigma.to(noisy.dtype),  # FLUX multiplies by 1000 itself
        img_ids=position_grid(height, width, 3, noisy.device),
        txt_ids=torch.zeros(text.shape[1], 3, device=noisy.device),
        guidance=torch.full_like(sigma, distilled_guidance) if guided else None,
        return_dict=False,
    )


@torch.no_grad()
def _encode_prompt(pipeline: Any, prompts: list[str], max_sequence_length: int) -> EncodedPrompt:
    embeds, pooled, _ = pipeline.encode_prompt(
        prompt=prompts,
        prompt_2=None,
        device=get_module_execution_device(pipeline.text_encoder),
        max_sequence_length=max_sequence_length,
    )
    return {"prompt_embeds": embeds, "pooled_prompt_embeds": pooled}


def _source_projection(transformer: Any) -> tuple[Tensor, Tensor | None]:
    return transformer.x_embedder.weight, transformer.x_embedder.bias


@torch.no_grad()
def _latent_tokens(pipeline: Any, images: Tensor) -> Tensor:
    return patchify(encode_images(pipeline, images), 2, "c ph pw")  # as FluxPipeline._pack_latents


FLUX = Architecture(
    name="flux",
    transformer_class="FluxTransformer2DModel",
    pipeline_class="FluxPipeline",
    block_lists=("transformer_blocks", "single_transformer_blocks"),
    refiners=("time_text_embed", "context_embedder"),
    patch_layout="ph pw c",
    hidden_size=attention_width,
    input_projection=lambda patch_size: "x_embedder",
    pixel_config=_pixel_config,
    replace_final_layer=lambda transformer, patch_size: replace_norm_and_projection(transformer, out_features=1),
    call=_call,
    encode_prompt=_encode_prompt,
    prompt_tensors=("prompt_embeds", "pooled_prompt_embeds"),
    source_projection=_source_projection,
    latent_tokens=_latent_tokens,
)
