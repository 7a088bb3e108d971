"""Our Mask2Former against mmdet's own, with shared random weights: `nox -s parity-mmdet` (environment `.venv-mmdet`).

Writes the figures as Markdown. Exit status 1 when a figure is beyond its tolerance.
Example: PYTHONPATH=. .venv-mmdet/bin/python tests/tools/parity.py --out docs/parity-mmdet.md
"""

from __future__ import annotations

import argparse
import re
import sys
import warnings
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from bench.geneval import mmdet_model, mmdet_stub
from bench.geneval.convert import TO_MMDET_3, from_mmdet
from bench.geneval.mask2former import MEAN, STD, Mask2Former, build_model, mask2former_config, scaled_size
from bench.geneval.resize import resize_uint8
from bench.records import Detection

LOGIT_SIZES = ((128, 128), (160, 224), (224, 320))
CASES = (((512, 512), (480, 320)), ((480, 640), (480, 320)), ((300, 200), (480, 320)), ((512, 512), (1333, 800)))
"""End to end: size of the image, scale it is resized to; the last one is the real scale."""

MAX_LOGIT_DIFFERENCE = 1e-10
"""In float64 throughout. mmdet by itself keeps position encodings and reference points in float32 (its float64 rows
show what that makes), and in float32 a mask logit within rounding of 0 may flip a bit of an attention mask, in either
program, and then both are right: reported, not judged."""

THROUGHOUT = "float64 throughout"
PRECISIONS: dict[str, tuple[torch.dtype, Callable[[], AbstractContextManager[None]]]] = {
    THROUGHOUT: (torch.float64, mmdet_model.no_float32),
    "float64": (torch.float64, nullcontext),
    "float32": (torch.float32, nullcontext),
}
MAX_SCORE_DIFFERENCE = 1e-3
MIN_MASK_IOU = 0.99


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """How well two detectors agree on one image."""

    num_mmdet: int
    num_ours: int
    num_matched: int
    max_score_difference: float
    max_box_difference: float
    min_mask_iou: float


def random_mmdet(width: int = 96, depths: Sequence[int] = (2, 2, 18, 2)) -> Any:
    """mmdet's swin-s Mask2Former with random weights that leave nothing trivial (biases, position tables, offsets)."""
    config = mmdet_model.config()
    config.model.backbone.update(init_cfg=None, embed_dims=width, depths=list(depths))
    config.model.panoptic_head.in_channels = [width * 2**i for i in range(4)]
    torch.manual_seed(0)
    model = mmdet_model.untrained(config, "cpu")
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, tensor in model.named_parameters():
            deviation = 0.5 if "bias_table" in name else 0.02 if "sampling_offsets.w" in name else 0.1
            if tensor.ndim == 1 or deviation != 0.1:
                tensor.add_(torch.randn(tensor.shape, generator=generator) * deviation)
        model.panoptic_head.cls_embed.weight.mul_(6.0)  # so that some classes are likely: else nothing is detected
    return model


def set_scale(model: Any, scale: tuple[int, int]) -> None:
    """Have mmdet's own pipeline resize to another scale."""
    for step in model.cfg.test_dataloader.dataset.pipeline:
        if step["type"] == "Resize":
            step["scale"] = scale


def ours(model: nn.Module, width: int = 96, depths: Sequence[int] = (2, 2, 18, 2)) -> nn.Module:
    """transformers' network with the same weights, through the same conversion that a checkpoint takes."""
    return build_model(mask2former_config(width, depths), from_mmdet(model.state_dict()))


def named_as_2x(state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
    """mmdet 3.x tensors under their 2.x names: the rename rules run backwards."""
    backwards = [
        (r"^(panoptic_head\.pixel_decoder\.encoder\.layers\.\d+)\.self_attn\.", r"\1.attentions.0."),
        (r"^(panoptic_head\.pixel_decoder\.encoder\.layers\.\d+)\.ffn\.", r"\1.ffns.0."),
        (r"^(panoptic_head\.transformer_decoder\.layers\.\d+)\.cross_attn\.", r"\1.attentions.0."),
        (r"^(panoptic_head\.transformer_decoder\.layers\.\d+)\.self_attn\.", r"\1.attentions.1."),
        (r"^(panoptic_head\.transformer_decoder\.layers\.\d+)\.ffn\.", r"\1.ffns.0."),
    ]
    assert len(backwards) == len(TO_MMDET_3)
    renamed = {}
    for name, tensor in state_dict.items():
        for pattern, replacement in backwards:
            name = re.sub(pattern, replacement, name)
        renamed[name] = tensor
    return renamed


@torch.no_grad()
def logit_differences(
    model: Any, network: nn.Module, height: int, width: int, dtype: torch.dtype
) -> tuple[float, float, float]:
    """Largest differences of class and mask logits at one input size, and the largest mask logit."""
    model.to(dtype)
    network.to(dtype)
    x = torch.randn(1, 3, height, width, generator=torch.Generator().manual_seed(1)).to(dtype)
    shape = (height, width)
    sample = mmdet_model.data_sample(
        {"batch_input_shape": shape, "img_shape": shape, "ori_shape": shape, "scale_factor": (1.0, 1.0)}
    )
    classes, masks = model.panoptic_head(model.extract_feat(x), [sample])
    output = network(pixel_values=x)
    class_difference = (output.class_queries_logits - classes[-1]).abs().max()
    mask_difference = (output.masks_queries_logits - masks[-1]).abs().max()
    return float(class_difference), float(mask_difference), float(masks[-1].abs().max())


def test_image(height: int, width: int) -> np.ndarray:
    """Blurred noise with strong contrast, uint8 RGB [H, W, 3]."""
    import cv2

    noise = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    blurred = cv2.GaussianBlur(noise, (0, 0), 3).astype(np.float32)
    return ((blurred - 110) * 6 + 110).clip(0, 255).astype(np.uint8)


def detect_3x(model: Any, image: np.ndarray, scale: tuple[int, int]) -> Any:
    """mmdet 3.x's own inference: its loading, resizing, normalising and padding."""
    return mmdet_model.infer(model, image)


@torch.no_grad()
def detect_2x(model: Any, image: np.ndarray, scale: tuple[int, int]) -> Any:
    """mmdet's network and post-processing behind 2.x's steps: 8-bit cv2 resize, grey padding, then normalising."""
    import cv2

    height, width = image.shape[:2]
    size = scaled_size(height, width, scale)
    resized = cv2.resize(image, size[::-1], interpolation=cv2.INTER_LINEAR)
    padded = np.full((-(-size[0] // 32) * 32, -(-size[1] // 32) * 32, 3), 128, np.uint8)
    padded[: size[0], : size[1]] = resized
    mean, std = np.array(MEAN, np.float32), np.array(STD, np.float32)
    x = ((padded.astype(np.float32) - mean) / std).transpose(2, 0, 1)
    meta = {"batch_input_shape": padded.shape[:2], "img_shape": size, "ori_shape": (height, width)}
    sample = mmdet_model.data_sample(meta | {"scale_factor": (size[1] / width, size[0] / height)})
    return model.predict(torch.from_numpy(x)[None], [sample], rescale=True)[0].pred_instances


def compare(instances: Any, found: Sequence[Detection], labels: Sequence[str]) -> Agreement:
    """Match mmdet's instances above 0.05 with ours, by label and mask."""
    sure = instances[instances.scores > 0.05]
    theirs = list(zip(sure.labels.tolist(), sure.scores.tolist(), sure.bboxes, sure.masks, strict=True))
    left, scores, boxes, ious = list(found), [0.0], [0.0], [1.0]
    for label, score, box, mask in theirs:
        same = [detection for detection in left if detection.label == labels[label]]
        if not same:
            continue
        best = max(same, key=lambda detection: _mask_iou(mask.numpy(), detection.mask))
        left.remove(best)
        scores.append(abs(score - best.score))
        boxes.append(float((box - torch.tensor(best.box)).abs().max()))
        ious.append(_mask_iou(mask.numpy(), best.mask))
    return Agreement(
        num_mmdet=len(theirs),
        num_ours=len(found),
        num_matched=len(ious) - 1,
        max_score_difference=max(scores),
        max_box_difference=max(boxes),
        min_mask_iou=min(ious),
    )


def _mask_iou(a: np.ndarray, b: np.ndarray | None) -> float:
    return float((a & b).sum() / max((a | b).sum(), 1)) if b is not None else 0.0


def study(out: Path) -> int:
    """Run every comparison, write the report, return the number of figures beyond tolerance."""
    model = random_mmdet()
    network = ours(model)
    lines, faults = _header(model), 0
    again = from_mmdet(named_as_2x(model.state_dict()))
    same = all(torch.equal(again[name], value) for name, value in from_mmdet(model.state_dict()).items())
    faults += not same
    lines += [f"- The same tensors under mmdet 2.x names convert to identical ones: {'yes' if same else 'NO'}.", ""]
    rows, beyond = _logits(model, network)
    lines, faults = [*lines, *rows], faults + beyond
    for variant, detect in (("mmdet-3", detect_3x), ("mmdet-2", detect_2x)):
        rows, beyond = _end_to_end(variant, detect, model, network)
        lines, faults = [*lines, *rows], faults + beyond
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text("\n".join([*lines, "", f"Figures beyond tolerance: {faults}.", ""]))
    print(out.read_text())
    return faults


def _logits(model: Any, network: nn.Module) -> tuple[list[str], int]:
    lines, faults = ["## Logits, same input: largest differences", ""], 0
    lines += ["| input | dtype | class logits | mask logits | (largest mask logit) |", "|---|---|---|---|---|"]
    for name, (dtype, context) in PRECISIONS.items():
        for size in LOGIT_SIZES:
            with context():
                classes, masks, largest = logit_differences(model, network, *size, dtype)
            faults += name == THROUGHOUT and max(classes, masks) > MAX_LOGIT_DIFFERENCE
            lines.append(f"| {size[0]} x {size[1]} | {name} | {classes:.2g} | {masks:.2g} | {largest:.3g} |")
    notes = [
        "",
        "mmdet keeps position encodings and reference points in float32 whatever the weights are; `throughout` has it",
        "compute them in float64 too. In float32 a mask logit within rounding of 0 may flip a bit of an attention",
        "mask: a larger difference then.",
    ]
    return lines + notes, faults


def _end_to_end(variant: str, detect: Callable, model: Any, network: nn.Module) -> tuple[list[str], int]:
    lines, faults = (
        [
            "",
            f"## End to end, `{variant}` preprocessing (detections above 0.05)",
            "",
            "| image | scale | mmdet | ours | matched | score | box (px) | smallest mask IoU |",
            "|---|---|---|---|---|---|---|---|",
        ],
        0,
    )
    for size, scale in CASES:
        image = test_image(*size)
        detector = Mask2Former(network, variant, scale=scale)
        found = detector([Image.fromarray(image)])[0]
        set_scale(model, scale)
        a = compare(detect(model, image, scale), found, detector.labels)
        faults += a.num_matched != a.num_mmdet or a.max_score_difference > MAX_SCORE_DIFFERENCE
        faults += a.min_mask_iou < MIN_MASK_IOU
        lines.append(
            f"| {size[0]} x {size[1]} | {scale} | {a.num_mmdet} | {a.num_ours} | {a.num_matched} | "
            f"{a.max_score_difference:.2g} | {a.max_box_difference:.2g} | {a.min_mask_iou:.5f} |"
        )
    if variant == "mmdet-2":
        lines += ["", _resize_line(torch.from_numpy(test_image(512, 512)).permute(2, 0, 1))]
    return lines, faults


def _resize_line(image: Tensor) -> str:
    import cv2

    theirs = cv2.resize(image.permute(1, 2, 0).numpy(), (800, 800), interpolation=cv2.INTER_LINEAR).astype(int)
    difference = np.abs(theirs - resize_uint8(image, (800, 800)).permute(1, 2, 0).numpy())
    share = (difference > 0).mean()
    return f"8-bit resize 512 to 800 against OpenCV: at most {difference.max()} of 255, in {share:.3%} of the values."


def _header(model: Any) -> list[str]:
    import mmcv
    import transformers

    return [
        "# Mask2Former: our path against mmdet itself",
        "",
        "Written by `nox -s parity-mmdet` (tests/tools/parity.py): shared random weights, on the CPU.",
        f"mmdet {mmdet_model.version()}, mmcv {mmcv.__version__}, torch {torch.__version__}, "
        f"transformers {transformers.__version__}.",
        "",
        f"- {len(model.state_dict())} tensors of mmdet 3.x become {len(from_mmdet(model.state_dict()))} of "
        "transformers, none missing, none surplus.",
    ]


def main() -> int:
    """The command line; exit status 0 or 1."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("docs/parity-mmdet.md"))
    warnings.filterwarnings("ignore")
    mmdet_stub.install()
    return 1 if study(parser.parse_args().out) else 0


if __name__ == "__main__":
    sys.exit(main())
