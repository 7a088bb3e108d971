"""Stable Diffusion 3: joint blocks; patches are embedded by a convolution with a cropped table of positions."""

from typing import Any

import diffusers
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
    replace_norm_and_projection,
)
from l2p.architectures.tiny import TinySizes


def _pixel_config(config: dict[str, Any], patch_size: int) -> dict[str, Any]:
    grid = config["sample_size"] // config["patch_size"]  # the scale of the position table: it must stay the source's
    return {**config, "in_channels": 3, "out_channels": 1, "patch_size": patch_size, "sample_size": grid * patch_size}


def _call(
    transformer: Any, noisy: Tensor, sigma: Tensor, prompt: EncodedPrompt, patches: Patches, distilled_guidance: float
) -> Tensor:
    return transformer(
        hidden_states=noisy,
        encoder_hidden_states=prompt["prompt_embeds"].to(noisy.dtype),  # [B, L, D_text]
        pooled_projections=prompt["pooled_prompt_embeds"].to(noisy.dtype),  # [B, D_pooled]
        timestep=sigma * 1000,
        return_dict=False,
    )[0]


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


def _tiny_source(sizes: TinySizes) -> Any:
    tokenizer = tiny.word_tokenizer(sizes.words, sizes.max_length)
    clip = tiny.clip_config(sizes, tokenizer, sizes.text_width // 4)
    return diffusers.StableDiffusion3Pipeline(
        transformer=diffusers.SD3Transformer2DModel(
            sample_size=8,
            patch_size=2,
            in_channels=sizes.latent_channels,
            out_channels=sizes.latent_channels,
            num_layers=sizes.num_blocks,
            attention_head_dim=sizes.head_dim,
            num_attention_heads=sizes.num_heads,
            joint_attention_dim=sizes.text_width,
            caption_projection_dim=sizes.width,
            pooled_projection_dim=sizes.text_width // 2,
            pos_embed_max_size=16,
        ),
        scheduler=tiny.scheduler(sizes),
        vae=tiny.autoencoder(sizes),
        text_encoder=transformers.CLIPTextModelWithProjection(clip),
        tokenizer=tokenizer,
        text_encoder_2=transformers.CLIPTextModelWithProjection(clip),
        tokenizer_2=tokenizer,
        text_encoder_3=tiny.t5_encoder(sizes, tokenizer),
        tokenizer_3=tokenizer,
    )


SD3 = Architecture(
    name="sd3",
    title="SD3",
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
    unpack=lambda output, size, patches: output,
    encode_prompt=_encode_prompt,
    prompt_tensors=("prompt_embeds", "pooled_prompt_embeds"),
    source_arguments=lambda guidance_scale, distilled_guidance: {"guidance_scale": guidance_scale},
    source_patches=lambda config: Patches(config["patch_size"], "c ph pw"),
    encode_latents=encode_images,
    decode_latents=decode_images,
    tiny_source=_tiny_source,
)
