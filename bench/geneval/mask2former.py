"""GenEval's detector, Mask2Former swin-s, through transformers, with mmdet's own pre- and post-processing."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from bench.geneval.convert import checkpoint_format, from_mmdet, read_checkpoint
from bench.geneval.prompts import OBJECT_NAMES
from bench.geneval.resize import resize_float, resize_uint8
from bench.geneval.rules import SAVED_SCORE
from bench.named import refuse_missing_path
from bench.passport import file_sha256, weights_sha256
from bench.records import Detection
from l2p.errors import InputError

if TYPE_CHECKING:
    pass

SCALE = (1333, 800)  # longest and shortest side, pixels
MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)  # of RGB in 0..255
SIZE_DIVISOR = 32
MAX_PER_IMAGE = 100

KNOWN_CHECKPOINTS = {
    "743b7d99015f1224c6d57fd4b14d04b15cc8ec72ae7ee7831e7c71d8873b7a54": "mmdet v2.0 swin-s, GenEval's own download",
}
"""SHA-256 of checkpoint files by what they are."""

KNOWN_PREFIXES = {"c9d0c4f2": "mmdet v3.0 swin-s"}
"""As OpenMMLab names its files: the first eight hex digits of the file's SHA-256."""

RENAMED = {"mouse": "computer mouse", "remote": "tv remote", "keyboard": "computer keyboard"}
"""COCO's names that GenEval has otherwise."""

UNUSED = (
    "criterion.empty_weight",  # of the training loss
    "model.pixel_level_module.encoder.swin.layernorm.weight",  # Swin's last norm, before a classifier that is not there
    "model.pixel_level_module.encoder.swin.layernorm.bias",
)
"""Tensors of transformers' model that no detection depends on, and that mmdet's has not."""

Preprocess = Callable[[Image.Image, tuple[int, int]], tuple[Tensor, tuple[int, int]]]


def scaled_size(height: int, width: int, scale: tuple[int, int] = SCALE) -> tuple[int, int]:
    """Height and width after mmdet's Resize with kept ratio: as large as fits into the scale, in either direction."""
    factor = min(max(scale) / max(height, width), min(scale) / min(height, width))
    return int(height * factor + 0.5), int(width * factor + 0.5)


def preprocess_mmdet_2(image: Image.Image, scale: tuple[int, int] = SCALE) -> tuple[Tensor, tuple[int, int]]:
    """mmdet 2.x: resize 8-bit values, pad with grey 128, then normalise: [3, H, W] and the size without padding."""
    pixels = _pixels(image)
    size = scaled_size(image.height, image.width, scale)
    return normalise(_pad(resize_uint8(pixels, size).float(), 128.0)), size


def preprocess_mmdet_3(image: Image.Image, scale: tuple[int, int] = SCALE) -> tuple[Tensor, tuple[int, int]]:
    """mmdet 3.x: resize float values, normalise, then pad with 0: [3, H, W] and the size without padding."""
    pixels = _pixels(image)
    size = scaled_size(image.height, image.width, scale)
    return _pad(normalise(resize_float(pixels.float(), size)), 0.0), size


PREPROCESSING: dict[str, Preprocess] = {"mmdet-2": preprocess_mmdet_2, "mmdet-3": preprocess_mmdet_3}


def _pixels(image: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)  # uint8 [3, H, W]


def _pad(pixels: Tensor, value: float) -> Tensor:
    height, width = pixels.shape[-2:]
    return F.pad(pixels, (0, -width % SIZE_DIVISOR, 0, -height % SIZE_DIVISOR), value=value)


def normalise(pixels: Tensor) -> Tensor:
    """RGB 0..255 [3, H, W] to zero mean and unit deviation, by ImageNet's figures."""
    return (pixels - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]


def mask2former_config(
    width: int = 96,
    depths: Sequence[int] = (2, 2, 18, 2),
    num_heads: Sequence[int] = (3, 6, 12, 24),
    num_queries: int = 100,
    labels: Sequence[str] = OBJECT_NAMES,
) -> Any:
    """transformers' configuration of mmdet's swin-s (the defaults), or of a smaller Swin of the same making."""
    from transformers import Mask2FormerConfig, SwinConfig

    stages = [f"stage{number}" for number in range(1, 5)]
    swin = SwinConfig(
        embed_dim=width, depths=list(depths), num_heads=list(num_heads), window_size=7, out_features=stages
    )
    return Mask2FormerConfig(backbone_config=swin, num_queries=num_queries, id2label=dict(enumerate(labels)))


def build_model(config: Any, state_dict: dict[str, Tensor] | None = None) -> Any:
    """The network of a configuration, with random weights or these; ValueError names missing and surplus tensors."""
    from transformers import Mask2FormerForUniversalSegmentation
    from transformers.initialization import no_init_weights

    with no_init_weights() if state_dict is not None else nullcontext():
        model = Mask2FormerForUniversalSegmentation(config).eval().requires_grad_(False)
    if state_dict is not None:
        _load_strictly(model, state_dict)
        # no tensor of the checkpoint's is for Swin's last norm: without this it holds whatever lay in memory
        model.get_submodule("model.pixel_level_module.encoder.swin.layernorm").reset_parameters()
    return model


def _load_strictly(model: nn.Module, state_dict: dict[str, Tensor]) -> None:
    own = {name: value for name, value in model.state_dict().items() if name not in UNUSED}
    faults = {
        "missing": sorted(own.keys() - state_dict.keys()),
        "surplus": sorted(state_dict.keys() - own.keys()),
        "of another shape": sorted(n for n in own.keys() & state_dict.keys() if own[n].shape != state_dict[n].shape),
    }
    told = [f"{len(names)} {kind} ({', '.join(names[:3])}, ...)" for kind, names in faults.items() if names]
    if told:
        raise InputError(f"The checkpoint does not fit this Mask2Former: tensors {'; '.join(told)}.")
    model.load_state_dict(state_dict, strict=False)


class Mask2Former:
    """GenEval's detector as a `Detector`: a batch of images in, detections with masks for each out.

    `network` is transformers' Mask2FormerForUniversalSegmentation; images of one size go through it together, so that
    padding, and with it every result, depends on the image alone. Labels are GenEval's names.
    """

    def __init__(
        self,
        network: Any,
        preprocessing: str,
        device: str = "cpu",
        scale: tuple[int, int] = SCALE,
        passport: dict[str, Any] | None = None,
    ):
        if preprocessing not in PREPROCESSING:
            raise InputError(f"Unknown preprocessing {preprocessing!r}; known are {', '.join(PREPROCESSING)}.")
        self.network, self.device, self.scale = network.to(device), device, scale
        self.preprocess = PREPROCESSING[preprocessing]
        self.labels = geneval_labels(network.config.id2label)
        self.passport = {
            "name": "mask2former",
            **(passport or {}),
            "preprocessing": preprocessing,
            "scale": list(scale),
            "postprocessing": "mmdet instance: class probability x mean mask probability",
            "dtype": str(next(network.parameters()).dtype).removeprefix("torch."),
        }

    def __call__(self, images: list[Image.Image]) -> list[list[Detection]]:
        inputs = [self.preprocess(image, self.scale) for image in images]
        found: list[list[Detection]] = [[] for _ in images]
        for shape in dict.fromkeys((pixels.shape, size) for pixels, size in inputs):
            group = [i for i, (pixels, size) in enumerate(inputs) if (pixels.shape, size) == shape]
            batch = torch.stack([inputs[i][0] for i in group])  # [B, 3, H, W], padded
            class_logits, mask_logits = self.forward(batch)
            for row, i in enumerate(group):
                original = (images[i].height, images[i].width)
                padded = (batch.shape[-2], batch.shape[-1])
                instances = postprocess(class_logits[row], mask_logits[row], padded, shape[1], original)
                found[i] = [self._detection(*instance) for instance in zip(*instances, strict=True)]
        return found

    @torch.inference_mode()
    def forward(self, batch: Tensor) -> tuple[Tensor, Tensor]:
        """Class logits [B, Q, classes + 1] and mask logits [B, Q, H/4, W/4] of normalised images [B, 3, H, W]."""
        dtype = next(self.network.parameters()).dtype
        output = self.network(pixel_values=batch.to(self.device, dtype))
        return output.class_queries_logits.float(), output.masks_queries_logits.float()

    def _detection(self, label: Tensor, score: Tensor, box: Tensor, mask: Tensor) -> Detection:
        x0, y0, x1, y1 = box.tolist()
        return Detection(label=self.labels[int(label)], box=(x0, y0, x1, y1), score=float(score), mask=mask.numpy())


@torch.inference_mode()
def postprocess(
    class_logits: Tensor,
    mask_logits: Tensor,
    padded: tuple[int, int],
    resized: tuple[int, int],
    original: tuple[int, int],
    min_score: float = SAVED_SCORE,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """mmdet's instance post-processing of one image (MaskFormerFusionHead): labels, scores, boxes, masks, on the CPU.

    `class_logits` [Q, classes + 1], `mask_logits` [Q, h, w]; the sizes are (height, width) of the network's input, of
    the image in it and of the original. The best 100 of query x class; score = class probability x mean probability
    inside the mask; a box encloses its mask (xyxy, end exclusive). Those at or below `min_score` are left out: a score
    never exceeds its class probability, so most masks need not be enlarged at all.
    """
    num_classes = class_logits.shape[-1] - 1
    candidates = class_logits.softmax(-1)[:, :-1].flatten()  # [Q * classes]
    probabilities, places = candidates.topk(min(MAX_PER_IMAGE, len(candidates)))
    likely = probabilities > min_score
    probabilities, places = probabilities[likely], places[likely]
    queries, rows = torch.unique(places // num_classes, return_inverse=True)
    masks, mask_scores = _enlarge(mask_logits[queries], padded, resized, original)  # [q, H, W] bool, [q]
    scores = probabilities * mask_scores[rows]
    kept = scores > min_score
    rows, labels = rows[kept].cpu(), (places % num_classes)[kept].cpu()
    return labels, scores[kept].cpu(), mask_boxes(masks)[rows], masks[rows]


def _enlarge(
    mask_logits: Tensor, padded: tuple[int, int], resized: tuple[int, int], original: tuple[int, int]
) -> tuple[Tensor, Tensor]:
    """Masks at the original size [q, H, W] bool on the CPU, and the mean probability inside each [q]; one at a time."""
    masks = torch.empty(len(mask_logits), *original, dtype=torch.bool)
    scores = mask_logits.new_empty(len(mask_logits))
    for i, logits in enumerate(mask_logits):
        logits = resize_float(logits[None], padded)[:, : resized[0], : resized[1]]
        logits = resize_float(logits, original)[0]  # [H, W]
        inside = (logits > 0).float()
        scores[i] = (logits.sigmoid() * inside).sum() / (inside.sum() + 1e-6)
        masks[i] = inside.bool().cpu()
    return masks, scores


def mask_boxes(masks: Tensor) -> Tensor:
    """Boxes [N, 4] xyxy, end exclusive, that enclose the masks [N, H, W]; zeros for an empty mask."""
    boxes = torch.zeros(len(masks), 4)
    for box, mask in zip(boxes, masks, strict=True):
        columns, rows = mask.any(0).nonzero().flatten(), mask.any(1).nonzero().flatten()
        if len(columns):
            box[:] = torch.stack([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1])
    return boxes


def geneval_labels(id2label: dict[int, str]) -> tuple[str, ...]:
    """GenEval's name of each class; ValueError unless they are COCO's 80 in COCO's order, or a suite's own."""
    names = [id2label[i] for i in range(len(id2label))]
    if all(name == f"LABEL_{i}" for i, name in enumerate(names)) and len(names) == len(OBJECT_NAMES):
        return OBJECT_NAMES
    return tuple(RENAMED.get(name, name) for name in names)


def load_mask2former(weights: str, preprocessing: str = "", device: str = "cpu") -> Mask2Former:
    """The detector from a transformers folder or hub id, or an mmdet 2.x or 3.x checkpoint file (converted on load).

    `preprocessing` defaults to the checkpoint's own, `mmdet-3` for transformers' format. The passport says whether the
    file is a known checkpoint. Raises ValueError when the weights do not fit, FileNotFoundError when there are none.
    """
    if not weights:
        raise InputError("mask2former needs --weights: an mmdet checkpoint, or a folder or hub id of transformers'.")
    refuse_missing_path(weights, "a checkpoint file, a folder in transformers' format, or a hub id")
    path = Path(weights)
    if path.is_file():
        state_dict = read_checkpoint(path)
        kind = checkpoint_format(state_dict)
        converted = from_mmdet(state_dict)
        try:
            network = build_model(_config_of(state_dict), converted)
        except KeyError as error:
            raise InputError(f"{path} lacks the tensor {error}, by which its network's size is told.") from error
        identity = {"weights": path.name, "format": kind, **_known(file_sha256(path))}
    else:
        kind, network = "transformers", _from_pretrained(path, weights)
        identity = {"weights": path.name, "format": kind, **_known(weights_sha256(network.state_dict()))}
    default = kind if kind in PREPROCESSING else "mmdet-3"
    return Mask2Former(network, preprocessing or default, device, passport=identity)


def _known(sha256: str) -> dict[str, str]:
    name = KNOWN_CHECKPOINTS.get(sha256) or KNOWN_PREFIXES.get(sha256[:8])
    return {"sha256": sha256, "checkpoint": f"known: {name}" if name else "unknown"}


def _from_pretrained(path: Path, name: str) -> nn.Module:
    from transformers import Mask2FormerForUniversalSegmentation

    if path.exists() and not (path / "config.json").is_file():
        raise FileNotFoundError(f"{path} holds no config.json: no folder in transformers' format.")
    try:
        model, report = Mask2FormerForUniversalSegmentation.from_pretrained(
            name, use_safetensors=True, output_loading_info=True
        )
    except OSError as error:
        raise FileNotFoundError(
            f"{name} is no checkpoint file, no folder in transformers' format, and cannot be had from the hub: {error}"
        ) from error
    except Exception as error:  # safetensors and transformers have their own; the files are at fault in all cases
        raise InputError(f"{name} cannot be loaded ({type(error).__name__}: {error})") from error
    faults = {kind: sorted(map(str, names)) for kind, names in report.items() if names}
    if faults:
        told = "; ".join(f"{kind}: {', '.join(names[:3])}" for kind, names in faults.items())
        raise InputError(f"{name} does not fit Mask2FormerForUniversalSegmentation ({told}).")
    return model.eval().requires_grad_(False)


def _config_of(state_dict: Mapping[str, Tensor]) -> Any:
    """The configuration whose sizes an mmdet checkpoint shows: Swin's width and depths, the number of queries."""
    width = len(state_dict["backbone.patch_embed.norm.weight"])
    block = re.compile(r"backbone\.stages\.(\d)\.blocks\.(\d+)\.norm1\.weight")
    blocks = Counter(match[1] for name in state_dict if (match := block.match(name)))
    tables = [state_dict[f"backbone.stages.{i}.blocks.0.attn.w_msa.relative_position_bias_table"] for i in range(4)]
    num_classes = len(state_dict["panoptic_head.cls_embed.bias"]) - 1
    if num_classes != len(OBJECT_NAMES):
        raise InputError(f"The checkpoint tells {num_classes} classes apart; GenEval's detector knows COCO's 80.")
    return mask2former_config(
        width=width,
        depths=[blocks[str(i)] for i in range(4)],
        num_heads=[table.shape[1] for table in tables],
        num_queries=len(state_dict["panoptic_head.query_feat.weight"]),
    )
