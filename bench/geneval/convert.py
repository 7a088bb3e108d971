"""mmdet's Mask2Former checkpoints as transformers' tensors: a strict key map, every tensor accounted for.

The two are the same network (benchmarks.md "The software stack"). mmdet 2.x names differ from 3.x in the attention and
feed-forward layers only; Swin's patch merging differs in channel order, on its norm and its reduction.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from l2p.errors import InputError

FORMATS = ("mmdet-2", "mmdet-3")

_ENCODER, _DECODER = r"panoptic_head\.pixel_decoder\.encoder\.layers", r"panoptic_head\.transformer_decoder\.layers"

TO_MMDET_3 = (
    (rf"^({_ENCODER}\.\d+)\.attentions\.0\.", r"\1.self_attn."),
    (rf"^({_ENCODER}\.\d+)\.ffns\.0\.", r"\1.ffn."),
    (rf"^({_DECODER}\.\d+)\.attentions\.0\.", r"\1.cross_attn."),
    (rf"^({_DECODER}\.\d+)\.attentions\.1\.", r"\1.self_attn."),
    (rf"^({_DECODER}\.\d+)\.ffns\.0\.", r"\1.ffn."),
)
"""mmdet 2.x names to 3.x names: layers were lists in 2.x, in the order cross attention, self attention."""

_SWIN, _PIXEL = "model.pixel_level_module.encoder.swin", "model.pixel_level_module.decoder"
_QUERIES = "model.transformer_module"
_BLOCK, _BLOCK_OUT = r"^backbone\.stages\.(\d+)\.blocks\.(\d+)", rf"{_SWIN}.encoder.layers.\1.blocks.\2"
_ENCODER_OUT, _DECODER_OUT = rf"{_PIXEL}.encoder.layers.\1", rf"{_QUERIES}.decoder.layers.\1"
_HEAD, _PIXEL_HEAD = r"^panoptic_head", r"^panoptic_head\.pixel_decoder"


def _stage(match: re.Match) -> str:
    return f"model.pixel_level_module.encoder.hidden_states_norms.stage{int(match[1]) + 1}."


def _mask_layer(match: re.Match) -> str:
    return f"{_QUERIES}.decoder.mask_predictor.mask_embedder.{int(match[1]) // 2}.0."  # mmdet counts the ReLUs


TO_TRANSFORMERS: tuple[tuple[str, str | Callable[[re.Match], str]], ...] = (
    (r"^backbone\.patch_embed\.projection\.", f"{_SWIN}.embeddings.patch_embeddings.projection."),
    (r"^backbone\.patch_embed\.norm\.", f"{_SWIN}.embeddings.norm."),
    (r"^backbone\.norm(\d)\.", _stage),
    (r"^backbone\.stages\.(\d+)\.downsample\.", rf"{_SWIN}.encoder.layers.\1.downsample."),
    (rf"{_BLOCK}\.norm1\.", rf"{_BLOCK_OUT}.layernorm_before."),
    (rf"{_BLOCK}\.norm2\.", rf"{_BLOCK_OUT}.layernorm_after."),
    (rf"{_BLOCK}\.ffn\.layers\.0\.0\.", rf"{_BLOCK_OUT}.mlp.fc1."),
    (rf"{_BLOCK}\.ffn\.layers\.1\.", rf"{_BLOCK_OUT}.mlp.fc2."),
    (rf"{_BLOCK}\.attn\.w_msa\.proj\.", rf"{_BLOCK_OUT}.attention.o_proj."),
    (
        rf"{_BLOCK}\.attn\.w_msa\.relative_position_bias_table$",
        rf"{_BLOCK_OUT}.attention.relative_position_bias.relative_position_bias_table",
    ),
    (rf"{_BLOCK}\.attn\.w_msa\.qkv\.", rf"{_BLOCK_OUT}.attention.[qkv]_proj."),
    (rf"{_PIXEL_HEAD}\.input_convs\.(\d)\.conv\.", rf"{_PIXEL}.input_projections.\1.0."),
    (rf"{_PIXEL_HEAD}\.input_convs\.(\d)\.gn\.", rf"{_PIXEL}.input_projections.\1.1."),
    (rf"{_PIXEL_HEAD}\.level_encoding\.weight$", f"{_PIXEL}.level_embed"),
    (rf"{_PIXEL_HEAD}\.lateral_convs\.0\.conv\.", f"{_PIXEL}.adapter_1.0."),
    (rf"{_PIXEL_HEAD}\.lateral_convs\.0\.gn\.", f"{_PIXEL}.adapter_1.1."),
    (rf"{_PIXEL_HEAD}\.output_convs\.0\.conv\.", f"{_PIXEL}.layer_1.0."),
    (rf"{_PIXEL_HEAD}\.output_convs\.0\.gn\.", f"{_PIXEL}.layer_1.1."),
    (rf"{_PIXEL_HEAD}\.mask_feature\.", f"{_PIXEL}.mask_projection."),
    (rf"^{_ENCODER}\.(\d+)\.self_attn\.", rf"{_ENCODER_OUT}.self_attn."),
    (rf"^{_ENCODER}\.(\d+)\.ffn\.layers\.0\.0\.", rf"{_ENCODER_OUT}.fc1."),
    (rf"^{_ENCODER}\.(\d+)\.ffn\.layers\.1\.", rf"{_ENCODER_OUT}.fc2."),
    (rf"^{_ENCODER}\.(\d+)\.norms\.0\.", rf"{_ENCODER_OUT}.self_attn_layer_norm."),
    (rf"^{_ENCODER}\.(\d+)\.norms\.1\.", rf"{_ENCODER_OUT}.final_layer_norm."),
    (rf"{_HEAD}\.query_embed\.", f"{_QUERIES}.queries_embedder."),
    (rf"{_HEAD}\.query_feat\.", f"{_QUERIES}.queries_features."),
    (rf"{_HEAD}\.level_embed\.", f"{_QUERIES}.level_embed."),
    (rf"{_HEAD}\.cls_embed\.", "class_predictor."),
    (rf"{_HEAD}\.mask_embed\.([024])\.", _mask_layer),
    (rf"{_HEAD}\.transformer_decoder\.post_norm\.", f"{_QUERIES}.decoder.layernorm."),
    (rf"^{_DECODER}\.(\d+)\.cross_attn\.attn\.", rf"{_DECODER_OUT}.cross_attn."),
    (rf"^{_DECODER}\.(\d+)\.self_attn\.attn\.out_proj\.", rf"{_DECODER_OUT}.self_attn.out_proj."),
    (rf"^{_DECODER}\.(\d+)\.self_attn\.attn\.in_proj_(?=weight$|bias$)", rf"{_DECODER_OUT}.self_attn.[qkv]_proj."),
    (rf"^{_DECODER}\.(\d+)\.ffn\.layers\.0\.0\.", rf"{_DECODER_OUT}.fc1."),
    (rf"^{_DECODER}\.(\d+)\.ffn\.layers\.1\.", rf"{_DECODER_OUT}.fc2."),
    (rf"^{_DECODER}\.(\d+)\.norms\.0\.", rf"{_DECODER_OUT}.cross_attn_layer_norm."),
    (rf"^{_DECODER}\.(\d+)\.norms\.1\.", rf"{_DECODER_OUT}.self_attn_layer_norm."),
    (rf"^{_DECODER}\.(\d+)\.norms\.2\.", rf"{_DECODER_OUT}.final_layer_norm."),
)
"""mmdet 3.x names to transformers' names; `[qkv]` splits a tensor in three."""


def read_checkpoint(path: Path | str) -> dict[str, Tensor]:
    """The tensors of a checkpoint file: safetensors, or upstream's pickle read with `weights_only=True`.

    Raises FileNotFoundError, and ValueError for a file that is damaged or holds more than tensors and plain values.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} is no file; give a checkpoint (.pth, .safetensors) or a transformers folder.")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # pickle, zip and safetensors each have their own; the file is at fault in all cases
        raise InputError(f"{path} cannot be read as plain weights ({type(error).__name__}: {error})") from error
    tensors = loaded.get("state_dict", loaded) if isinstance(loaded, dict) else loaded
    if not isinstance(tensors, dict) or not all(isinstance(value, Tensor) for value in tensors.values()):
        raise InputError(f"{path} holds no `state_dict` of tensors.")
    return dict(tensors)


def checkpoint_format(state_dict: Mapping[str, Tensor]) -> str:
    """`mmdet-2` or `mmdet-3`, told by the names; ValueError for neither."""
    if any(name.startswith("panoptic_head.transformer_decoder.") for name in state_dict):
        return "mmdet-2" if any(".attentions." in name for name in state_dict) else "mmdet-3"
    shown = ", ".join(list(state_dict)[:3])
    raise InputError(f"This is no mmdet Mask2Former checkpoint: its tensors are named {shown}, ...")


def from_mmdet(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """mmdet's tensors (2.x or 3.x) under transformers' names and in its layout.

    Raises ValueError naming every tensor that no rule knows, or whose relative position index is not the expected one.
    """
    older = checkpoint_format(state_dict) == "mmdet-2"
    converted: dict[str, Tensor] = {}
    unknown: list[str] = []
    for name, tensor in state_dict.items():
        if name.endswith(".relative_position_index"):
            _check_position_index(name, tensor)  # a constant, which transformers computes for itself
            continue
        target = _transformers_name(_mmdet_3_name(name) if older else name)
        if target is None:
            unknown.append(name)
        else:
            converted |= _converted(target, tensor)
    if unknown:
        raise InputError(f"{len(unknown)} tensors are unknown, such as {', '.join(unknown[:5])}: another network?")
    return converted


def _mmdet_3_name(name: str) -> str:
    for pattern, replacement in TO_MMDET_3:
        name = re.sub(pattern, replacement, name)
    return name


def _transformers_name(name: str) -> str | None:
    for pattern, replacement in TO_TRANSFORMERS:
        target, found = re.subn(pattern, replacement, name)
        if found:
            return target
    return None


def _converted(target: str, tensor: Tensor) -> dict[str, Tensor]:
    """One of mmdet's tensors as one or three of transformers'."""
    if target.endswith(".downsample.reduction.weight"):
        return {target: _patches_outermost(tensor)}
    if ".downsample.norm." in target:
        return {target: _patches_outermost(tensor[None])[0]}
    if "[qkv]" in target:
        return {target.replace("[qkv]", c): part.clone() for c, part in zip("qkv", tensor.chunk(3), strict=True)}
    return {target: tensor}


def _patches_outermost(weight: Tensor) -> Tensor:
    """Reorder merged channels [out, 4 C]: mmdet (nn.Unfold) has the patch innermost, row by row; Swin's own code
    concatenates the four patches, column by column."""
    patches = weight.unflatten(1, (-1, 4)).transpose(1, 2)  # [out, 4, C]
    return patches[:, [0, 2, 1, 3]].flatten(1)


def _check_position_index(name: str, index: Tensor) -> None:
    """ValueError unless the index is Swin's own for its window: relative offsets of all pairs of places."""
    side = round(len(index) ** 0.5)
    places = torch.stack(torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")).flatten(1)  # [2, N]
    offsets = places[:, :, None] - places[:, None] + side - 1  # [2, N, N]
    if not torch.equal(index.long().cpu(), offsets[0] * (2 * side - 1) + offsets[1]):
        raise InputError(f"{name} is not the index of a {side} x {side} window: another network?")
