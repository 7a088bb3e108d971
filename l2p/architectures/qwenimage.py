"""Qwen-Image: joint blocks, packed tokens, captions of differing length under a mask, a video autoencoder."""

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
    packed_pixel_config,
    patchify,
    replace_norm_and_projection,
    unpatchify,
)
from l2p.architectures.tiny import TinySizes


def _call(
    transformer: Any, noisy: Tensor, sigma: Tensor, prompt: EncodedPrompt, patches: Patches, distilled_guidance: float
) -> Tensor:
    shape = (1, noisy.shape[-2] // patches.size, noisy.shape[-1] // patches.size)  # frames, rows, columns
    guided = transformer.config.guidance_embeds
    return transformer(
        hidden_states=patchify(noisy, *patches),  # [B, h * w, p * p * C]
        encoder_hidden_states=prompt["prompt_embeds"].to(noisy.dtype),  # [B, L, D_text]
        encoder_hidden_states_mask=prompt["mask"],  # [B, L]
        timestep=sigma.to(noisy.dtype),  # Qwen-Image multiplies by 1000 itself
        img_shapes=[[shape]] * len(noisy),
        guidance=torch.full_like(sigma, distilled_guidance) if guided else None,
        return_dict=False,
    )[0]


def _encode_prompt(pipeline: Any, prompts: list[str], max_sequence_length: int) -> EncodedPrompt:
    embeds, mask = pipeline.encode_prompt(
        prompt=prompts,
        device=get_module_execution_device(pipeline.text_encoder),
        max_sequence_length=max_sequence_length,
    )
    if mask is None:  # the pipeline's way of saying that no prompt is padded
        mask = torch.ones(embeds.shape[:2], device=embeds.device)
    return {"prompt_embeds": embeds, "mask": mask.bool()}


def _source_arguments(guidance_scale: float, distilled_guidance: float) -> dict[str, Any]:
    # The release has no guidance embedding, which `guidance_scale` would be there.
    guided = {"true_cfg_scale": guidance_scale}
    return guided if guidance_scale == 1 else guided | {"negative_prompt": ""}


def _statistics(vae: Any) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of latents, each [C, 1, 1]."""
    options = {"device": vae.device, "dtype": vae.dtype}
    mean = torch.tensor(vae.config.latents_mean, **options)[:, None, None]
    return mean, torch.tensor(vae.config.latents_std, **options)[:, None, None]


@torch.no_grad()
def _encode_latents(pipeline: Any, images: Tensor) -> Tensor:
    vae = pipeline.vae
    frames = images.to(vae.device, vae.dtype).unsqueeze(2)  # [B, 3, 1, H, W]
    latents = vae.encode(frames).latent_dist.mode()[:, :, 0]  # [B, C, h, w]
    mean, deviation = _statistics(vae)
    return (latents - mean) / deviation


@torch.no_grad()
def _decode_latents(pipeline: Any, latents: Tensor) -> Tensor:
    vae = pipeline.vae
    mean, deviation = _statistics(vae)
    latents = latents.to(vae.device, vae.dtype) / (1 / deviation) + mean  # the pipeline's order, to the last bit
    return vae.decode(latents.unsqueeze(2), return_dict=False)[0][:, :, 0]


def _tiny_source(sizes: TinySizes) -> Any:
    quarter = sizes.text_width // 4  # half of a text head's width
    rope = {"rope_type": "default", "mrope_section": [quarter - 2 * (quarter // 4)] + [quarter // 4] * 2}
    text = tiny.decoder_sizes(sizes) | {"rope_parameters": rope | {"rope_theta": 10000.0}}
    vision = {"depth": 1, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2}
    config = transformers.Qwen2_5_VLConfig(
        text_config=text, vision_config=vision | {"out_hidden_size": sizes.text_width}
    )
    vae = diffusers.AutoencoderKLQwenImage(
        base_dim=sizes.vae_channels[0],
        z_dim=sizes.latent_channels,
        dim_mult=[width // sizes.vae_channels[0] for width in sizes.vae_channels],
        num_res_blocks=1,
        temperal_downsample=[False] * (len(sizes.vae_channels) - 1),
        latents_mean=[0.1] * sizes.latent_channels,
        latents_std=[1.7] * sizes.latent_channels,
    )
    return diffusers.QwenImagePipeline(
        transformer=diffusers.QwenImageTransformer2DModel(
            attention_head_dim=sizes.head_dim,
            num_attention_heads=sizes.num_heads,
            in_channels=4 * sizes.latent_channels,
            out_channels=sizes.latent_channels,
            num_layers=sizes.num_blocks,
            joint_attention_dim=sizes.text_width,
            axes_dims_rope=sizes.rotary_axes,
        ),
        scheduler=tiny.scheduler(sizes),
        vae=vae,
        text_encoder=transformers.Qwen2_5_VLForConditionalGeneration(config).eval(),
        tokenizer=tiny.word_tokenizer(sizes.words, 1024),  # the pipeline puts a long template before the prompt
    )


QWENIMAGE = Architecture(
    name="qwenimage",
    title="Qwen-Image",
    transformer_class="QwenImageTransformer2DModel",
    pipeline_class="QwenImagePipeline",
    block_lists=("transformer_blocks",),
    refiners=("time_text_embed", "txt_norm", "txt_in"),
    patch_layout="ph pw c",
    hidden_size=attention_width,
    input_projection=lambda patch_size: "img_in",
    pixel_config=packed_pixel_config,
    replace_final_layer=lambda transformer, patch_size: replace_norm_and_projection(transformer, out_features=1),
    call=_call,
    unpack=unpatchify,
    encode_prompt=_encode_prompt,
    prompt_tensors=("prompt_embeds", "mask"),
    source_arguments=_source_arguments,
    source_patches=lambda config: Patches(2, "c ph pw"),  # as QwenImagePipeline._pack_latents
    encode_latents=_encode_latents,
    decode_latents=_decode_latents,
    tiny_source=_tiny_source,
    unread_text=True,
)
