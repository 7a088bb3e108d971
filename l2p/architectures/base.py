"""What an architecture declares about its source transformer, and the helpers that the families share."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import diffusers
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedModel

from l2p.architectures.tiny import TinySizes
from l2p.errors import InputError

# The text inputs of a transformer's forward by name, each [B, ...]; a boolean "mask" [B, L] marks the real tokens of
# prompts that differ in length.
EncodedPrompt = dict[str, Tensor]

DROPPABLE = ("text_encoder_3", "tokenizer_3")  # Stable Diffusion 3 also runs without T5


class Patches(NamedTuple):
    """How images or latents are cut into tokens: the side of a patch and the order of its numbers within a token."""

    size: int
    layout: Literal["ph pw c", "c ph pw"]


def linear_mu(scheduler_config: Any, num_tokens: int, num_inference_steps: int) -> float:
    """Return the exponent of a dynamic noise shift that grows linearly with the number of image tokens.

    Source: `calculate_shift` in diffusers' FluxPipeline, with its defaults.
    """
    few, many = scheduler_config.get("base_image_seq_len", 256), scheduler_config.get("max_image_seq_len", 4096)
    low, high = scheduler_config.get("base_shift", 0.5), scheduler_config.get("max_shift", 1.15)
    slope = (high - low) / (many - few)
    return num_tokens * slope + low - slope * few


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """All that the rest of the package needs to know about a source family.

    title: the family's name for people. transformer_class, pipeline_class: names in diffusers.
    block_lists: the lists of transformer blocks in the order in which they run.
    refiners: what else the release trains beside the ends (embedders, refiner blocks): modules and parameters by name.
    patch_layout: the order in which the pixel model's input projection reads a patch's numbers.
    hidden_size(config): the width of a token.
    input_projection(patch_size): the name of the layer that takes patches, the source's or the pixel model's.
    pixel_config(source_config, patch_size): the source's config with an input projection for RGB patches.
    replace_final_layer(transformer, patch_size): put a TokenTap there and return it.
    call(transformer, noisy, sigma, prompt, patches, distilled_guidance): run the family's own forward, on pixels or on
    the source's latents [B, C, H, W], and return what it returns.
    unpack(output, size, patches): what `call` returned -> [B, C, *size], size (H, W) as `noisy` had it.
    encode_prompt(pipeline, prompts, max_sequence_length): the pipeline is of the family's own class. Gradients flow.
    prompt_tensors: the names of what it returns.
    source_arguments(guidance_scale, distilled_guidance): how the family's own pipeline is called for that guidance
    (uncond + w (cond - uncond), 1 = off); raises ValueError for what the pipeline cannot do.
    source_patches(source_config): how the source cuts its latents.
    encode_latents(pipeline, images): images [B, 3, H, W] in [-1, 1] -> latents [B, C, h, w], normalised and in the
    form that the source denoises, before they are cut into tokens.
    decode_latents(pipeline, latents): the way back, as the pipeline does it at the end.
    tiny_source(sizes): the family's pipeline with random weights, small, for tests and dry runs.
    unread_text: whether the last block computes text that nothing reads, with weights that no gradient reaches.
    text_first: whether the text stands before the image where a block takes both as one sequence.
    velocity_sign: 1, or -1 where the family's own output is minus the velocity.
    dynamic_shift(scheduler_config, num_tokens, num_inference_steps): the exponent `mu` of a noise shift that follows
    the image's size, as the family's pipeline computes it.
    comfyui_name(key, patch_size): diffusers' name of a pixel model's tensor that ComfyUI names otherwise, others' as
    they are; None for a tensor that diffusers does not keep.
    """

    name: str
    title: str
    transformer_class: str
    pipeline_class: str
    block_lists: tuple[str, ...]
    refiners: tuple[str, ...]
    patch_layout: Literal["ph pw c", "c ph pw"]
    hidden_size: Callable[[dict[str, Any]], int]
    input_projection: Callable[[int], str]
    pixel_config: Callable[[dict[str, Any], int], dict[str, Any]]
    replace_final_layer: Callable[[nn.Module, int], "TokenTap"]
    call: Callable[[nn.Module, Tensor, Tensor, EncodedPrompt, Patches, float], Any]
    unpack: Callable[[Any, tuple[int, int], Patches], Tensor]
    encode_prompt: Callable[[Any, list[str], int], EncodedPrompt]
    prompt_tensors: tuple[str, ...]
    source_arguments: Callable[[float, float], dict[str, Any]]
    source_patches: Callable[[Mapping[str, Any]], Patches]
    encode_latents: Callable[[Any, Tensor], Tensor]
    decode_latents: Callable[[Any, Tensor], Tensor]
    tiny_source: Callable[[TinySizes], Any]
    unread_text: bool = False
    text_first: bool = False
    velocity_sign: Literal[1, -1] = 1
    dynamic_shift: Callable[[Any, int, int], float] = linear_mu
    comfyui_name: Callable[[str, int], str | None] = lambda key, patch_size: key

    def source_projection(self, transformer: Any) -> tuple[Tensor, Tensor | None]:
        """Return weight [D, C] and bias [D] of the source's own input projection, a convolution's flattened."""
        patch_size = self.source_patches(transformer.config).size
        projection = transformer.get_submodule(self.input_projection(patch_size))
        return projection.weight.flatten(1), projection.bias


def source_velocity(
    architecture: Architecture,
    transformer: Any,
    latents: Tensor,
    sigma: Tensor,
    prompt: EncodedPrompt,
    distilled_guidance: float = 3.5,
) -> Tensor:
    """Return the velocity noise - clean that a source's transformer predicts, [B, C, h, w].

    latents [B, C, h, w]: noisy, normalised as encode_latents gives them; sigma [B], 1 = pure noise; prompt as
    encode_prompt gives it. Gradients flow.
    """
    patches = architecture.source_patches(transformer.config)
    output = architecture.call(transformer, latents, sigma, prompt, patches, distilled_guidance)
    height, width = latents.shape[-2:]
    return architecture.velocity_sign * architecture.unpack(output, (height, width), patches)


def latent_tokens(architecture: Architecture, pipeline: Any, images: Tensor) -> Tensor:
    """Return what the source's input projection reads of images [B, 3, H, W] in [-1, 1]: tokens [B, N, C * p * p]."""
    patches = architecture.source_patches(pipeline.transformer.config)
    return patchify(architecture.encode_latents(pipeline, images), *patches)


class TokenTap(nn.Module):
    """Stand-in for a final layer: keeps the raw tokens it is given and hands on zeros of `out_features` channels.

    So the family's own forward runs unchanged, norm and modulation are skipped as in the release, and what the forward
    does with the output afterwards (unpatchify) costs next to nothing.
    """

    def __init__(self, out_features: int) -> None:
        super().__init__()
        self.out_features = out_features
        self._tokens: Tensor | None = None

    def forward(self, tokens: Tensor, *_args: object, **_kwargs: object) -> Tensor:
        """Keep tokens [B, N, D]; return zeros [B, N, out_features] that take no memory."""
        self._tokens = tokens
        return tokens.new_zeros(()).expand(*tokens.shape[:-1], self.out_features)

    def take(self) -> Tensor:
        """Return the tokens of the last forward, [B, N, D], and let go of them."""
        tokens, self._tokens = self._tokens, None
        assert tokens is not None, "the transformer's forward did not reach its final layer"
        return tokens


def replace_norm_and_projection(transformer: Any, out_features: int) -> TokenTap:
    """Put a tap in place of `norm_out` and nothing in place of `proj_out`, the final layer of most families."""
    transformer.norm_out, transformer.proj_out = TokenTap(out_features), nn.Identity()
    return transformer.norm_out


def attention_width(config: dict[str, Any]) -> int:
    """Return the width of a token, number of heads times their width."""
    return config["num_attention_heads"] * config["attention_head_dim"]


def packed_pixel_config(config: dict[str, Any], patch_size: int) -> dict[str, Any]:
    """Return the pixel transformer's configuration where a family's tokens come packed: a token a patch of RGB.

    The source's own patch_size only scales its output projection, which is not kept.
    """
    return {**config, "in_channels": 3 * patch_size**2, "out_channels": 1, "patch_size": 1}


def patchify(images: Tensor, patch_size: int, layout: str = "ph pw c") -> Tensor:
    """Cut images [B, C, H, W] into flattened patches [B, H/p * W/p, p * p * C], rows first.

    layout: order within a patch, "ph pw c" as in the release or "c ph pw" as a convolution's weight has it.
    """
    batch, channels, height, width = images.shape
    h, w = height // patch_size, width // patch_size
    patches = images.reshape(batch, channels, h, patch_size, w, patch_size)
    order = {"ph pw c": (0, 2, 4, 3, 5, 1), "c ph pw": (0, 2, 4, 1, 3, 5)}[layout]
    return patches.permute(*order).reshape(batch, h * w, patch_size * patch_size * channels)


def unpatchify(tokens: Tensor, size: tuple[int, int], patches: Patches) -> Tensor:
    """Put patches [B, H/p * W/p, p * p * C] together again to [B, C, H, W]; the inverse of patchify."""
    (height, width), p = size, patches.size
    h, w, channels = height // p, width // p, tokens.shape[-1] // p**2
    inner, order = {
        "ph pw c": ((p, p, channels), (0, 5, 1, 3, 2, 4)),
        "c ph pw": ((channels, p, p), (0, 3, 1, 4, 2, 5)),
    }[patches.layout]
    return tokens.reshape(-1, h, w, *inner).permute(*order).reshape(-1, channels, height, width)


def position_grid(height: int, width: int, num_axes: int, device: torch.device) -> Tensor:
    """Return position ids [height * width, num_axes] with the row in axis 1 and the column in axis 2."""
    ids = torch.zeros(height, width, num_axes, device=device)
    ids[..., 1] = torch.arange(height, device=device)[:, None]
    ids[..., 2] = torch.arange(width, device=device)[None, :]
    return ids.reshape(height * width, num_axes)


def split_prompts(prompt: EncodedPrompt) -> list[EncodedPrompt]:
    """Take a batch of encoded prompts apart, one dict of tensors without batch axis each, padding removed."""
    singles = [dict(zip(prompt, tensors, strict=True)) for tensors in zip(*prompt.values(), strict=True)]
    if "mask" not in prompt:
        return singles
    return [{name: _unpad(tensor, single["mask"]) for name, tensor in single.items()} for single in singles]


def _unpad(tensor: Tensor, mask: Tensor) -> Tensor:
    return tensor[mask] if tensor.shape[0] == mask.shape[0] else tensor


def stack_prompts(singles: list[EncodedPrompt]) -> EncodedPrompt:
    """Put single encoded prompts together as a batch, the inverse of split_prompts.

    Under a mask shorter ones are padded with zeros. Raises ValueError for prompts that differ in length without one.
    """
    names = singles[0].keys()
    lengths = {len(single["prompt_embeds"]) for single in singles}
    if len(lengths) > 1 and "mask" not in names:
        raise InputError(
            f"encoded prompts of {sorted(lengths)} tokens do not go into one batch: this family has no mask, so encode "
            "all with the same max_sequence_length"
        )
    return {name: pad_sequence([single[name] for single in singles], batch_first=True) for name in names}


def source_pipeline(pipeline: Any, class_name: str) -> Any:
    """Return a pipeline of the family's own class over the same text encoders, for its own prompt encoding.

    A pixel pipeline has no VAE and its transformer stands inside the pixel transformer; text encoding needs neither
    weights of both. Source: diffusers lets each component be None. Raises ValueError where text encoders are missing
    or are of another class: a kindred family's (FLUX.2-klein's beside FLUX.2's) would be asked by the wrong rule.
    """
    cls = getattr(diffusers, class_name)
    _check_text_encoders(pipeline, cls)
    if isinstance(pipeline, cls):
        return pipeline
    components = {name: getattr(pipeline, name, None) for name in cls._get_signature_keys(cls)[0]}
    components["transformer"] = getattr(getattr(pipeline, "transformer", None), "transformer", None)
    return cls(**components)


def _check_text_encoders(pipeline: Any, cls: Any) -> None:
    types = cls._get_signature_types()  # name -> the classes that the family's pipeline is declared with
    for name in sorted(name for name in types if name.startswith(("text_encoder", "tokenizer"))):
        component = getattr(pipeline, name, None)
        if component is None and name not in DROPPABLE:
            raise InputError(f"this pipeline has no {name} to encode prompts with; load it, or give prompt_embeds")
        # A compiled, parallel or adapted encoder is a wrapper, which tells nothing.
        if isinstance(component, PreTrainedModel) and not isinstance(component, types[name]):
            raise InputError(
                f"{name} is a {type(component).__name__}, and {cls.__name__} encodes prompts with a "
                f"{types[name][0].__name__}: this is another family's text encoder"
            )


@torch.no_grad()
def encode_images(pipeline: Any, images: Tensor) -> Tensor:
    """Encode images [B, 3, H, W] in [-1, 1] with the source's AutoencoderKL to normalised latents [B, C, h, w]."""
    vae = pipeline.vae
    latents = vae.encode(images.to(vae.device, vae.dtype)).latent_dist.mode()
    return (latents - (vae.config.shift_factor or 0.0)) * vae.config.scaling_factor


@torch.no_grad()
def decode_images(pipeline: Any, latents: Tensor) -> Tensor:
    """Decode normalised latents [B, C, h, w] with the source's AutoencoderKL to images [B, 3, H, W], about [-1, 1]."""
    vae = pipeline.vae
    latents = latents.to(vae.device, vae.dtype) / vae.config.scaling_factor + (vae.config.shift_factor or 0.0)
    return vae.decode(latents, return_dict=False)[0]
