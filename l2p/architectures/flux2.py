"""FLUX.2: joint and single blocks that share their modulation, four position axes, one text encoder, no biases."""

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
    position_grid,
    replace_norm_and_projection,
    unpatchify,
)
from l2p.architectures.tiny import TinySizes
from l2p.errors import InputError


def _call(
    transformer: Any, noisy: Tensor, sigma: Tensor, prompt: EncodedPrompt, patches: Patches, distilled_guidance: float
) -> Tensor:
    height, width = noisy.shape[-2] // patches.size, noisy.shape[-1] // patches.size
    text = prompt["prompt_embeds"].to(noisy.dtype)  # [B, L, D_text]
    text_ids = torch.zeros(text.shape[1], 4, device=noisy.device)
    text_ids[:, 3] = torch.arange(text.shape[1], device=noisy.device)  # the fourth axis counts text tokens
    guided = transformer.config.guidance_embeds
    return transformer(
        hidden_states=patchify(noisy, *patches),  # [B, h * w, p * p * C]
        encoder_hidden_states=text,
        timestep=sigma.to(noisy.dtype),  # FLUX.2 multiplies by 1000 itself
        img_ids=position_grid(height, width, 4, noisy.device),
        txt_ids=text_ids,
        guidance=torch.full_like(sigma, distilled_guidance) if guided else None,
        return_dict=False,
    )[0]


def _encode_prompt(pipeline: Any, prompts: list[str], max_sequence_length: int) -> EncodedPrompt:
    embeds, _ = pipeline.encode_prompt(
        prompt=prompts,
        device=get_module_execution_device(pipeline.text_encoder),
        max_sequence_length=max_sequence_length,
    )
    return {"prompt_embeds": embeds}


def _source_arguments(guidance_scale: float, distilled_guidance: float) -> dict[str, Any]:
    if guidance_scale != 1:
        raise InputError(
            f"Flux2Pipeline knows no true guidance, so guidance_scale {guidance_scale} must be 1 (off) for the source; "
            "set distilled_guidance instead"
        )
    return {"guidance_scale": distilled_guidance}


def _statistics(vae: Any) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of latent patches, each [1, 4 C, 1, 1]."""
    deviation = torch.sqrt(vae.bn.running_var + vae.config.batch_norm_eps)
    return vae.bn.running_mean.view(1, -1, 1, 1), deviation.view(1, -1, 1, 1)


@torch.no_grad()
def _encode_latents(pipeline: Any, images: Tensor) -> Tensor:
    # FLUX.2 normalises patches of 2 x 2 latents, channel by channel, and denoises those: [B, 4 C, h / 2, w / 2].
    vae = pipeline.vae
    latents = vae.encode(images.to(vae.device, vae.dtype)).latent_dist.mode()
    mean, deviation = _statistics(vae)
    return (pipeline._patchify_latents(latents) - mean) / deviation


@torch.no_grad()
def _decode_latents(pipeline: Any, latents: Tensor) -> Tensor:
    vae = pipeline.vae
    mean, deviation = _statistics(vae)
    patches = latents.to(vae.device, vae.dtype) * deviation + mean
    return vae.decode(pipeline._unpatchify_latents(patches), return_dict=False)[0]


def _tiny_source(sizes: TinySizes) -> Any:
    tokenizer = tiny.word_tokenizer(sizes.words, 512)
    # Without the long system message, whose words a small vocabulary lacks.
    tokenizer.chat_template = "{{ messages[-1]['content'][0]['text'] }}"
    vae = diffusers.AutoencoderKLFlux2(
        block_out_channels=sizes.vae_channels,
        down_block_types=("DownEncoderBlock2D",) * len(sizes.vae_channels),
        up_block_types=("UpDecoderBlock2D",) * len(sizes.vae_channels),
        latent_channels=sizes.latent_channels,
        norm_num_groups=4,
        layers_per_block=1,
    )
    vae.bn.running_mean.normal_(std=0.1)
    vae.bn.running_var.uniform_(0.5, 2.0)
    return diffusers.Flux2Pipeline(
        scheduler=tiny.scheduler(sizes),
        vae=vae,
        text_encoder=_tiny_text_encoder(sizes),
        tokenizer=tokenizer,
        transformer=diffusers.Flux2Transformer2DModel(
            in_channels=4 * sizes.latent_channels,
            num_layers=sizes.num_blocks // 3,
            num_single_layers=sizes.num_blocks - sizes.num_blocks // 3,
            attention_head_dim=sizes.head_dim,
            num_attention_heads=sizes.num_heads,
            joint_attention_dim=3 * sizes.text_width,  # three of the text encoder's layers, side by side
            axes_dims_rope=(sizes.head_dim // 4,) * 4,
        ),
    )


def _tiny_text_encoder(sizes: TinySizes) -> Any:
    vision: dict[str, Any] = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
    vision |= {"num_attention_heads": 2, "head_dim": 8, "image_size": 28, "patch_size": 14, "model_type": "pixtral"}
    # Flux2Pipeline reads layers 10, 20 and 30.
    text = tiny.decoder_sizes(sizes, num_layers=30) | {"model_type": "mistral"}
    config = transformers.Mistral3Config(text_config=text, vision_config=vision)
    return transformers.Mistral3ForConditionalGeneration(config).eval()


def _dynamic_shift(scheduler_config: Any, num_tokens: int, num_inference_steps: int) -> float:
    from diffusers.pipelines.flux2.pipeline_flux2 import compute_empirical_mu

    return compute_empirical_mu(num_tokens, num_inference_steps)


FLUX2 = Architecture(
    name="flux2",
    title="FLUX.2",
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
    pixel_config=packed_pixel_config,
    replace_final_layer=lambda transformer, patch_size: replace_norm_and_projection(transformer, out_features=1),
    call=_call,
    unpack=unpatchify,
    encode_prompt=_encode_prompt,
    prompt_tensors=("prompt_embeds",),
    source_arguments=_source_arguments,
    source_patches=lambda config: Patches(1, "c ph pw"),  # its latents are patches already
    encode_latents=_encode_latents,
    decode_latents=_decode_latents,
    tiny_source=_tiny_source,
    text_first=True,
    dynamic_shift=_dynamic_shift,
)
