"""Z-Image, the paper's source: lists of images and captions; time ends at the image, and minus velocity comes out."""

from typing import Any

import torch
from diffusers.utils.torch_utils import get_module_execution_device
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from l2p.architectures.base import Architecture, EncodedPrompt, TokenTap, encode_images, patchify


def _key(patch_size: int) -> str:
    return f"{patch_size}-1"  # Z-Image names its layers "<patch>-<frames>"


def _pixel_config(config: dict[str, Any], patch_size: int) -> dict[str, Any]:
    return {**config, "all_patch_size": [patch_size], "all_f_patch_size": [1], "in_channels": 3}


def _replace_final_layer(transformer: Any, patch_size: int) -> TokenTap:
    tap = TokenTap(out_features=3 * patch_size**2)  # the forward unpatchifies its output to RGB
    transformer.all_final_layer = nn.ModuleDict({_key(patch_size): tap})
    return tap


def _call(
    transformer: Any, noisy: Tensor, sigma: Tensor, prompt: EncodedPrompt, patch_size: int, distilled_guidance: float
) -> None:
    captions = [
        embeds[mask] for embeds, mask in zip(prompt["prompt_embeds"].to(noisy.dtype), prompt["mask"], strict=True)
    ]
    transformer(
        x=list(noisy.unsqueeze(2)),  # B times [3, 1, H, W]
        t=1 - sigma,  # Z-Image's time is 0 at pure noise
        cap_feats=captions,  # B times [L, D_text]
        patch_size=patch_size,
        return_dict=False,
    )


@torch.no_grad()
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


def _source_projection(transformer: Any) -> tuple[Tensor, Tensor | None]:
    projection = transformer.all_x_embedder[_key(transformer.config.all_patch_size[0])]
    return projection.weight, projection.bias


@torch.no_grad()
def _latent_tokens(pipeline: Any, images: Tensor) -> Tensor:
    return patchify(encode_images(pipeline, images), pipeline.transformer.config.all_patch_size[0], "ph pw c")


ZIMAGE = Architecture(
    name="zimage",
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
    encode_prompt=_encode_prompt,
    prompt_tensors=("prompt_embeds", "mask"),
    source_projection=_source_projection,
    latent_tokens=_latent_tokens,
    velocity_sign=-1,  # the released head keeps Z-Image's own sign
)
