"""GenEval's colours: CLIP's zero-shot verdict on an object's crop, pixels outside its mask grey (benchmarks.md)."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from bench.geneval.rules import COLORS
from bench.passport import weights_sha256
from bench.records import Detection

BACKGROUND = "#999"
BATCH_SIZE = 64

Crop = tuple[Image.Image, Detection]
"""An image and a detection in it; without a mask the box alone is cut out."""


class ColorClassifier:
    """Colours of many crops at once, from any images; a class name's classifier is built once.

    `model`, `transform` and `tokenizer` are open_clip's. The text and image steps are clip_benchmark's own.
    """

    def __init__(
        self, model: nn.Module, transform: Any, tokenizer: Any, device: str, passport: dict[str, Any] | None = None
    ):
        from clip_benchmark.metrics import zeroshot_classification

        self._zero_shot = zeroshot_classification
        self.model, self.transform, self.tokenizer, self.device = model, transform, tokenizer, torch.device(device)
        self.classifiers: dict[str, Tensor] = {}
        self.passport = {**(passport or {}), "background": BACKGROUND, "colors": list(COLORS)}

    def __call__(self, crops: Sequence[Crop]) -> list[str]:
        names = [detection.label for _, detection in crops]
        columns = {name: self.classifier(name) for name in dict.fromkeys(names)}  # each [D, colours]
        first = {name: i * len(COLORS) for i, name in enumerate(columns)}
        batches = [crops[start : start + BATCH_SIZE] for start in range(0, len(crops), BATCH_SIZE)]
        loader = [(torch.stack([self.transform(cut_out(*crop)) for crop in b]), torch.zeros(len(b))) for b in batches]
        joined = torch.cat(list(columns.values()), dim=1)  # [D, names * colours]
        with self._quiet():
            logits, _ = self._zero_shot.run_classification(
                self.model, joined, loader, self.device.type, amp=self.device.type == "cuda"
            )  # [crops, names * colours]
        starts = [first[name] for name in names]
        return [COLORS[int(row[k : k + len(COLORS)].argmax())] for row, k in zip(logits, starts, strict=True)]

    def classifier(self, name: str) -> Tensor:
        """Unit text embeddings of the ten colours of a `name` [D, 10]."""
        if name not in self.classifiers:
            safe = name.replace("{", "{{").replace("}", "}}")  # names come from outside; `{c}` alone is filled in
            templates = [f"a photo of a {{c}} {safe}", f"a photo of a {{c}}-colored {safe}", "a photo of a {c} object"]
            with self._quiet():
                self.classifiers[name] = self._zero_shot.zero_shot_classifier(
                    self.model, self.tokenizer, COLORS, templates, self.device.type, amp=self.device.type == "cuda"
                )
        return self.classifiers[name]

    @contextlib.contextmanager
    def _quiet(self) -> Any:
        """On this device, without clip_benchmark's progress bars."""
        shown, self._zero_shot.tqdm = self._zero_shot.tqdm, lambda items: items
        try:
            with torch.cuda.device(self.device) if self.device.type == "cuda" else contextlib.nullcontext():
                yield
        finally:
            self._zero_shot.tqdm = shown


def cut_out(image: Image.Image, detection: Detection) -> Image.Image:
    """The detection's box cut out of the image, with #999 outside the mask; ValueError for a mask of another size."""
    if detection.mask is not None:
        if detection.mask.shape != (image.height, image.width):
            raise ValueError(
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
        raise ValueError(f"Unknown CLIP model {name!r}; GenEval's is ViT-L-14-quickgelu.")
    quick = bool(config.get("quick_gelu", False))
    tag = open_clip.get_pretrained_cfg(name.removesuffix("-quickgelu"), weights)
    if tag and bool(tag.get("quick_gelu", False)) != quick:
        wanted = name.removesuffix("-quickgelu") + ("" if quick else "-quickgelu")
        raise ValueError(
            f"{name} has not the activation that the weights {weights!r} were trained with: take {wanted}."
        )
    if not tag and not Path(weights).is_file():
        known = ", ".join(open_clip.list_pretrained_tags_by_model(name.removesuffix("-quickgelu")))
        raise ValueError(f"{weights!r} is neither a file nor a tag of {name}; known tags are {known}.")
    try:
        model, _, transform = open_clip.create_model_and_transforms(name, pretrained=weights, device=device)
    except RuntimeError as error:  # no connection, or tensors that do not fit
        raise ValueError(f"{name}: {error}. A file of weights can be given with --clip-weights.") from error
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
