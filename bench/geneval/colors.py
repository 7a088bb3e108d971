"""GenEval's colours: CLIP's zero-shot verdict on an object's crop, pixels outside its mask grey (benchmarks.md)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from bench.geneval.rules import COLORS
from bench.passport import weights_sha256
from bench.records import Detection
from l2p.errors import InputError

BACKGROUND = "#999"
BATCH_SIZE = 64

Crop = tuple[Image.Image, Detection]
"""An image and a detection in it; without a mask the box alone is cut out."""


class ColorClassifier:
    """Colours of many crops at once, from any images; a class name's classifier is built once.

    `model`, `transform` and `tokenizer` are open_clip's. Text and image steps are those of clip_benchmark's
    `zero_shot_classifier` and `run_classification`, which GenEval calls one class and one object at a time.
    """

    def __init__(self, model: Any, transform: Any, tokenizer: Any, device: str, passport: dict[str, Any] | None = None):
        self.model, self.transform, self.tokenizer, self.device = model, transform, tokenizer, torch.device(device)
        self.classifiers: dict[str, Tensor] = {}
        self.passport = {**(passport or {}), "background": BACKGROUND, "colors": list(COLORS)}

    def __call__(self, crops: Sequence[Crop]) -> list[str]:
        batches = [crops[start : start + BATCH_SIZE] for start in range(0, len(crops), BATCH_SIZE)]
        return [color for batch in batches for color in self._classify(batch)]

    @torch.no_grad()
    def _classify(self, crops: Sequence[Crop]) -> list[str]:
        """One batch of crops, each against the texts of its own class."""
        classifiers = [self.classifier(detection.label) for _, detection in crops]  # each [D, colours]
        pixels = torch.stack([self.transform(cut_out(*crop)) for crop in crops]).to(self.device)
        with self._autocast():
            features = F.normalize(self.model.encode_image(pixels), dim=-1)  # [crops, D]
            logits = torch.stack([100.0 * row @ own for row, own in zip(features, classifiers, strict=True)])
        return [COLORS[index] for index in logits.argmax(-1).tolist()]

    @torch.no_grad()
    def classifier(self, name: str) -> Tensor:
        """Unit text embeddings of the ten colours of a `name` [D, colours]."""
        if name not in self.classifiers:
            texts = [
                text
                for c in COLORS
                for text in (f"a photo of a {c} {name}", f"a photo of a {c}-colored {name}", f"a photo of a {c} object")
            ]
            with self._autocast():
                embeddings = F.normalize(self.model.encode_text(self.tokenizer(texts).to(self.device)), dim=-1)
                means = embeddings.unflatten(0, (len(COLORS), -1)).mean(1)  # [colours, D]
                self.classifiers[name] = (means / means.norm(dim=-1, keepdim=True)).T
        return self.classifiers[name]

    def _autocast(self) -> torch.autocast:
        """Half precision on a GPU, as GenEval has it."""
        return torch.autocast(self.device.type, enabled=self.device.type == "cuda")


def cut_out(image: Image.Image, detection: Detection) -> Image.Image:
    """The detection's box cut out of the image, with #999 outside the mask; ValueError for a mask of another size."""
    if detection.mask is not None:
        if detection.mask.shape != (image.height, image.width):
            raise InputError(
                f"A mask of {detection.mask.shape} does not fit an image of {(image.height, image.width)}."
            )
        grey = Image.new("RGB", image.size, color=BACKGROUND)
        image = Image.composite(image, grey, Image.fromarray(detection.mask))
    return image.crop(detection.box)


def load_colors(name: str = "ViT-L-14-quickgelu", weights: str = "openai", device: str = "cpu") -> ColorClassifier:
    """The classifier from open_clip's model `name` with `weights` (a tag of its own, or a file of weights).

    Raises ValueError for an unknown model, and when the model's activation does not fit the weights: for OpenAI's
    weights, trained with QuickGELU, open_clip builds `ViT-L-14` with GELU and only warns. A file does not tell with
    which activation it was trained; the passport says so then. Also when the weights cannot be fetched or do not fit.
    """
    import open_clip

    config = open_clip.get_model_config(name)
    if config is None:
        raise InputError(f"Unknown CLIP model {name!r}; GenEval's is ViT-L-14-quickgelu.")
    quick = bool(config.get("quick_gelu", False))
    tag = open_clip.get_pretrained_cfg(name.removesuffix("-quickgelu"), weights)
    if tag and bool(tag.get("quick_gelu", False)) != quick:
        wanted = name.removesuffix("-quickgelu") + ("" if quick else "-quickgelu")
        raise InputError(
            f"{name} has not the activation that the weights {weights!r} were trained with: take {wanted}."
        )
    if not tag and not Path(weights).is_file():
        known = ", ".join(open_clip.list_pretrained_tags_by_model(name.removesuffix("-quickgelu")))
        raise InputError(f"{weights!r} is neither a file nor a tag of {name}; known tags are {known}.")
    try:
        model, _, transform = open_clip.create_model_and_transforms(name, pretrained=weights, device=device)
    except RuntimeError as error:  # no connection, or tensors that do not fit
        raise InputError(f"{name}: {error}. A file of weights can be given with --clip-weights.") from error
    passport = {
        "name": f"open_clip {name}",
        "weights": weights if tag else Path(weights).name,
        "sha256": weights_sha256(model.state_dict()),
        "activation": f"{'QuickGELU' if quick else 'GELU'}, {'as the tag says' if tag else 'not verified: a file'}",
    }
    model.eval().requires_grad_(False)
    return ColorClassifier(model, transform, open_clip.get_tokenizer(name), device, passport)


def random_colors(name: str) -> ColorClassifier:
    """open_clip's model of this name with seeded random weights: to time and to try the path, never to score."""
    import open_clip

    torch.manual_seed(0)
    model, _, transform = open_clip.create_model_and_transforms(name, pretrained=None)
    model.eval().requires_grad_(False)
    return ColorClassifier(model, transform, open_clip.get_tokenizer(name), "cpu", {"name": f"{name}, random weights"})
