"""Stable Diffusion 3: joint blocks; patches are embedded by a convolution with a cropped table of positions."""

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
    replace_norm_and_projection,
)


def _pixel_config(config: dict[str, Any], patch_size: int) -> dict[str, Any]:
    grid = config["sample_size"] // config["patch_size"]  # the scale of the position table: it must stay the source's
    return {**config, "in_channels": 3, "out_channels": 1, "patch_size": patch_size, "sample_size": grid * patch_size}


def _call(
    transformer: Any, noisy: Tensor, sigma: Tensor, prompt: EncodedPrompt, patch_size: int, distilled_guidance: float
) -> None:
    transformer(
        hidden_states=noisy,
        encoder_hidden_states=prompt["prompt_embeds"].to(noisy.dtype),  # [B, L, D_text]
        pooled_projections=prompt["pooled_prompt_embeds"].to(noisy.dtype),  # [B, D_pooled]
        timestep=sigma * 1000,
        return_dict=False,
    )


@torch.no_grad()
def _encode_prompt(pipeline: Any, prompts: list[str], max_sequence_length: int) -> EncodedPrompt:
    embeds, _, pooled, _ = pipeline.encode_prompt(
        prompt=prompts,
        prompt_2=None,
        prompt_3=None,
        device=get_module_execution_device(pipeline.text_encoder),
        do_classifier_free_guidance=False,
        max_sequence_length=max_sequence_length,
    )
    return {"prompt_embeds": embeds, "pooled_prompt_embeds": pooled}


def _source_projection(transformer: Any) -> tuple[Tensor, Tensor | None]:
    projection = transformer.pos_embed.proj  # a convolution, [D, C, p, p]
    return projection.weight.flatten(1), projection.bias


@torch.no_grad()
def _latent_tokens(pipeline: Any, images: Tensor) -> Tensor:
    return patchify(encode_images(pipeline, images), pipeline.transformer.config.patch_size, "c ph pw")


SD3 = Architecture(
    name="sd3",
    transformer_class="SD3Transformer2DModel",
    pipeline_class="StableDiffusion3Pipeline",
    block_lists=("transformer_blocks",),
    refiners=("time_text_embed", "context_embedder"),
    patch_layout="c ph pw",
    hidden_size=attention_width,
    input_projection=lambda patch_size: "pos_embed.proj",
    pixel_config=_pixel_config,
    # The forward unpatchifies its output: one channel is enough for that.
    replace_final_layer=lambda transformer, patch_size: replace_norm_and_projection(transformer, patch_size**2),
    call=_call,
    encode_prompt=_encode_prompt,
    prompt_tensors=("prompt_embeds", "pooled_prompt_embeds"),
    source_projection=_source_projection,
    latent_tokens=_latent_tokens,
)
