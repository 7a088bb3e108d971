"""Z-Image, the paper's source: lists of images and captions; time ends at the image, and minus velocity comes out."""

from typing import Any

import diffusers
import torch
import transformers
from diffusers.utils.torch_utils import get_module_execution_device
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from l2p.architectures import tiny
from l2p.architectures.base import Architecture, EncodedPrompt, Patches, TokenTap, decode_images, encode_images
from l2p.architectures.tiny import TinySizes


def _key(patch_size: int) -> str:
    return f"{patch_size}-1"  # Z-Image names its layers "<patch>-<frames>"


# Z-Image's own names, which ComfyUI keeps -> diffusers'. Source: convert_z_image_transformer_checkpoint_to_diffusers.
COMFYUI_NAMES = {
    ".attention.qkv.": ".attention.to_qkv.",
    ".attention.out.": ".attention.to_out.0.",
    ".attention.q_norm.": ".attention.norm_q.",
    ".attention.k_norm.": ".attention.norm_k.",
}


def _comfyui_name(key: str, patch_size: int) -> str | None:
    if key == "norm_final.weight":
        return None
    for theirs, ours in COMFYUI_NAMES.items():
        key = key.replace(theirs, ours)
    if key.startswith("x_embedder."):
        return f"all_x_embedder.{_key(patch_size)}.{key.removeprefix('x_embedder.')}"
    return key


def _pixel_config(config: dict[str, Any], patch_size: int) -> dict[str, Any]:
    return {**config, "all_patch_size": [patch_size], "all_f_patch_size": [1], "in_channels": 3}


def _replace_final_layer(transformer: Any, patch_size: int) -> TokenTap:
    tap = TokenTap(out_features=3 * patch_size**2)  # the forward unpatchifies its output to RGB
    transformer.all_final_layer = nn.ModuleDict({_key(patch_size): tap})
    return tap


def _call(
    transformer: Any, noisy: Tensor, sigma: Tensor, prompt: EncodedPrompt, patches: Patches, distilled_guidance: float
) -> list[Tensor]:
    captions = [
        embeds[mask] for embeds, mask in zip(prompt["prompt_embeds"].to(noisy.dtype), prompt["mask"], strict=True)
    ]
    return transformer(
        x=list(noisy.unsqueeze(2)),  # B times [C, 1, H, W]
        t=1 - sigma,  # Z-Image's time is 0 at pure noise
        cap_feats=captions,  # B times [L, D_text]
        patch_size=patches.size,
        return_dict=False,
    )[0]


def _encode_prompt(pipeline: Any, prompts: list[str], max_sequence_length: int) -> EncodedPrompt:
    # The pipeline writes its chat template into the list that it is given: give it a copy.
    embeds, _ = pipeline.encode_prompt(
        prompt=list(prompts),
        device=get_module_execution_device(pipeline.text_encoder),
        do_classifier_free_guidance=False,
        max_sequence_length=max_sequence_length,
    )
    masks = [torch.ones(len(single), dtype=torch.bool, device=single.device) for single in embeds]
    return {"prompt_embeds": pad_sequence(embeds, batch_first=True), "mask": pad_sequence(masks, batch_first=True)}


def _unpack(output: list[Tensor], size: tuple[int, int], patches: Patches) -> Tensor:
    return torch.stack(output).squeeze(2)  # B times [C, 1, H, W] -> [B, C, H, W]


def _source_arguments(guidance_scale: float, distilled_guidance: float) -> dict[str, Any]:
    return {"guidance_scale": guidance_scale - 1}  # ZImagePipeline: pos + s (pos - neg), 0 = off


def _tiny_source(sizes: TinySizes) -> Any:
    tokenizer = tiny.word_tokenizer(sizes.words, 512)
    tokenizer.chat_template = "{% for message in messages %}{{ message['content'] }} a {% endfor %}"
    return diffusers.ZImagePipeline(
        transformer=diffusers.ZImageTransformer2DModel(
            dim=sizes.width,
            n_layers=sizes.num_blocks,
            n_refiner_layers=1,
            n_heads=sizes.num_heads,
            n_kv_heads=sizes.num_heads,
            cap_feat_dim=sizes.text_width,
            in_channels=sizes.latent_channels,
            axes_dims=list(sizes.rotary_axes),
            axes_lens=[1536, 64, 64],
        ),
        scheduler=tiny.scheduler(sizes),
        vae=tiny.autoencoder(sizes),
        text_encoder=transformers.Qwen3Model(transformers.Qwen3Config(**tiny.decoder_sizes(sizes))).eval(),
        tokenizer=tokenizer,
    )


ZIMAGE = Architecture(
    name="zimage",
    title="Z-Image",
    transformer_class="ZImageTransformer2DModel",
    pipeline_class="ZImagePipeline",
    block_lists=("layers",),
    # As the release: all but the layers in the middle.
    refiners=("noise_refiner", "context_refiner", "t_embedder", "cap_embedder", "x_pad_token", "cap_pad_token"),
    patch_layout="ph pw c",
    hidden_size=lambda config: config["dim"],
    input_projection=lambda patch_size: f"all_x_embedder.{_key(patch_size)}",
    pixel_config=_pixel_config,
    replace_final_layer=_replace_final_layer,
    call=_call,
    unpack=_unpack,
    encode_prompt=_encode_prompt,
    prompt_tensors=("prompt_embeds", "mask"),
    source_arguments=_source_arguments,
    source_patches=lambda config: Patches(config["all_patch_size"][0], "ph pw c"),
    encode_latents=encode_images,
    decode_latents=decode_images,
    tiny_source=_tiny_source,
    comfyui_name=_comfyui_name,
    velocity_sign=-1,  # the released head keeps Z-Image's own sign
)
