"""FLUX.1: joint blocks, then single blocks; packed tokens, rotary ids, a pooled CLIP vector beside T5's tokens."""

from typing import Any

import diffusers
import torch
import transformers
from diffusers.utils.torch_utils import get_module_execution_device
from torch import Tensor

from l2p.architectures import tiny
from l2p.architectures.base import (
    Architecture,
    EncodedPrompt,
    Patches,
    attention_width,
    decode_images,
    encode_images,
    packed_pixel_config,
    patchify,
    position_grid,
    replace_norm_and_projection,
    unpatchify,
)
from l2p.architectures.tiny import TinySizes


def _call(
    transformer: Any, noisy: Tensor, sigma: Tensor, prompt: EncodedPrompt, patches: Patches, distilled_guidance: float
) -> Tensor:
    height, width = noisy.shape[-2] // patches.size, noisy.shape[-1] // patches.size
    text = prompt["prompt_embeds"].to(noisy.dtype)  # [B, L, D_text]
    guided = transformer.config.guidance_embeds
    return transformer(
        hidden_states=patchify(noisy, *patches),  # [B, h * w, p * p * C]
        encoder_hidden_states=text,
        pooled_projections=prompt["pooled_prompt_embeds"].to(noisy.dtype),  # [B, D_pooled]
        timestep=sigma.to(noisy.dtype),  # FLUX multiplies by 1000 itself
        img_ids=position_grid(height, width, 3, noisy.device),
        txt_ids=torch.zeros(text.shape[1], 3, device=noisy.device),
        guidance=torch.full_like(sigma, distilled_guidance) if guided else None,
        return_dict=False,
    )[0]


def _encode_prompt(pipeline: Any, prompts: list[str], max_sequence_length: int) -> EncodedPrompt:
    embeds, pooled, _ = pipeline.encode_prompt(
        prompt=prompts,
        prompt_2=None,
        device=get_module_execution_device(pipeline.text_encoder),
        max_sequence_length=max_sequence_length,
    )
    return {"prompt_embeds": embeds, "pooled_prompt_embeds": pooled}


def _source_arguments(guidance_scale: float, distilled_guidance: float) -> dict[str, Any]:
    # FluxPipeline's `guidance_scale` is the distilled embedding; true guidance asks for a negative prompt.
    arguments: dict[str, Any] = {"guidance_scale": distilled_guidance}
    if guidance_scale != 1:
        arguments |= {"true_cfg_scale": guidance_scale, "negative_prompt": ""}
    return arguments


def _tiny_source(sizes: TinySizes) -> Any:
    tokenizer = tiny.word_tokenizer(sizes.words, sizes.max_length)
    clip = tiny.clip_config(sizes, tokenizer, sizes.text_width // 2)
    transformer = diffusers.FluxTransformer2DModel(
        patch_size=1,
        in_channels=4 * sizes.latent_channels,
        num_layers=sizes.num_blocks // 3,
        num_single_layers=sizes.num_blocks - sizes.num_blocks // 3,
        attention_head_dim=sizes.head_dim,
        num_attention_heads=sizes.num_heads,
        joint_attention_dim=sizes.text_width,
        pooled_projection_dim=sizes.text_width // 2,
        guidance_embeds=False,
        axes_dims_rope=sizes.rotary_axes,
    )
    return diffusers.FluxPipeline(
        scheduler=tiny.scheduler(sizes),
        vae=tiny.autoencoder(sizes),
        text_encoder=transformers.CLIPTextModel(clip),
        tokenizer=tokenizer,
        text_encoder_2=tiny.t5_encoder(sizes, tokenizer),
        tokenizer_2=tokenizer,
        transformer=transformer,
    )


FLUX = Architecture(
    name="flux",
    title="FLUX",
    transformer_class="FluxTransformer2DModel",
    pipeline_class="FluxPipeline",
    block_lists=("transformer_blocks", "single_transformer_blocks"),
    refiners=("time_text_embed", "context_embedder"),
    patch_layout="ph pw c",
    hidden_size=attention_width,
    input_projection=lambda patch_size: "x_embedder",
    pixel_config=packed_pixel_config,
    replace_final_layer=lambda transformer, patch_size: replace_norm_and_projection(transformer, out_features=1),
    call=_call,
    unpack=unpatchify,
    encode_prompt=_encode_prompt,
    prompt_tensors=("prompt_embeds", "pooled_prompt_embeds"),
    source_arguments=_source_arguments,
    source_patches=lambda config: Patches(2, "c ph pw"),  # as FluxPipeline._pack_latents
    encode_latents=encode_images,
    decode_latents=decode_images,
    tiny_source=_tiny_source,
)
