"""CLIP in transformers' format: scorers of pictures and captions, and the image tower that CMMD looks through.

A scorer is called with pictures and as many captions and gives a cosine for each pair.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from bench.clip.variants import ClipVariant, max_num_patches
from bench.judges import Judge
from bench.named import refuse_missing_path
from bench.passport import weights_sha256
from l2p.errors import InputError

if TYPE_CHECKING:
    from PIL.Image import Image

FORMAT = "a folder in transformers' format, or a hub id"
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)  # CLIP's, of RGB in 0..1


class ClipScorer:
    """CLIP or Long-CLIP with its processor; see `ClipVariant` for what differs."""

    def __init__(self, model: Any, processor: Any, variant: ClipVariant, name: str):
        self.model, self.processor, self.variant = model.eval().requires_grad_(False), processor, variant
        self.passport = _passport(model, variant, name)

    @torch.inference_mode()
    def __call__(self, images: Sequence[Image], captions: Sequence[str]) -> list[float]:
        """The cosine of each picture and its caption."""
        texts = {text: self._text(text) for text in dict.fromkeys(captions)}
        seen = torch.cat([self._image(image) for image in images])
        return _cosines(seen, torch.cat([texts[text] for text in captions]))

    def num_tokens(self, caption: str) -> int:
        """How long a caption is, marks counted; what is above `max_tokens` is not read."""
        return len(self.processor.tokenizer(caption)["input_ids"])

    def _image(self, image: Image) -> Tensor:
        pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)
        given = pixels.float() if self.variant.pixels == "float" else pixels
        inputs = self.processor.image_processor(images=[given], return_tensors="pt")["pixel_values"]
        return _embedding(self.model.get_image_features(pixel_values=inputs.to(self.model.device)))

    def _text(self, caption: str) -> Tensor:
        cut = {"truncation": True, "max_length": self.variant.max_tokens} if self.variant.keep_end else {}
        tokens = self.processor.tokenizer([caption], return_tensors="pt", **cut).to(self.model.device)
        most = self.variant.max_tokens
        found = self.model.get_text_features(
            input_ids=tokens["input_ids"][:, :most], attention_mask=tokens["attention_mask"][:, :most]
        )
        return _embedding(found)


class FineGrainedScorer:
    """FG-CLIP 2 as PixVerve asks it: captions in lower case padded to 196 tokens, the long walk."""

    def __init__(self, model: Any, image_processor: Any, tokenizer: Any, variant: ClipVariant, name: str):
        self.model, self.variant = model.eval().requires_grad_(False), variant
        self.image_processor, self.tokenizer = image_processor, tokenizer
        self.passport = _passport(model, variant, name)

    @torch.inference_mode()
    def __call__(self, images: Sequence[Image], captions: Sequence[str]) -> list[float]:
        """The cosine of each picture and its caption."""
        return [
            cosine
            for image, caption in zip(images, captions, strict=True)
            for cosine in _cosines(self._image(image), self._text(caption))
        ]

    def num_tokens(self, caption: str) -> int:
        """How long a caption is, marks counted; what is above `max_tokens` is not read."""
        return len(self.tokenizer(caption.lower())["input_ids"])

    def _image(self, image: Image) -> Tensor:
        most = max_num_patches(*image.size)
        inputs = self.image_processor(images=image, max_num_patches=most, return_tensors="pt").to(self.model.device)
        return _embedding(self.model.get_image_features(**inputs))

    def _text(self, caption: str) -> Tensor:
        padded = {"padding": "max_length", "max_length": self.variant.max_tokens, "truncation": True}
        tokens = self.tokenizer([caption.lower()], return_tensors="pt", **padded).to(self.model.device)
        return _embedding(self.model.get_text_features(**tokens, walk_type="long"))


def load_scorer(variant: ClipVariant, name: str = "", device: str = "cpu", trust_remote_code: bool = False) -> Judge:
    """A variant's model from a folder or hub id (safetensors only), its own where none is named.

    Raises InputError for weights that cannot be loaded, and for FG-CLIP 2, whose code comes from the hub, where that is
    not trusted.
    """
    name = name or variant.model
    refuse_missing_path(name, FORMAT)
    if variant.kind == "fg-clip-2" and not trust_remote_code:
        raise InputError(
            f"{name} brings code of its own, which would be run: read it, then say so with --trust-remote-code"
        )
    try:
        scorer = (
            _load_fine_grained(variant, name, device) if variant.kind == "fg-clip-2" else _load(variant, name, device)
        )
    except (InputError, OSError):
        raise
    except Exception as error:  # safetensors and transformers have their own; the files are at fault in all cases
        raise InputError(f"{name} cannot be loaded ({type(error).__name__}: {error})") from error
    return Judge(ask=scorer, passport=scorer.passport)


def _load(variant: ClipVariant, name: str, device: str) -> ClipScorer:
    from transformers import CLIPConfig, CLIPModel, CLIPProcessor

    config = CLIPConfig.from_pretrained(name)
    config.text_config.max_position_embeddings = max(variant.max_tokens, config.text_config.max_position_embeddings)
    model = CLIPModel.from_pretrained(name, config=config, use_safetensors=True).to(device)
    return ClipScorer(model, CLIPProcessor.from_pretrained(name), variant, _shown(name))


def _load_fine_grained(variant: ClipVariant, name: str, device: str) -> FineGrainedScorer:
    from transformers import AutoImageProcessor, AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(name, trust_remote_code=True, use_safetensors=True).to(device)
    image_processor = AutoImageProcessor.from_pretrained(name, trust_remote_code=True)
    return FineGrainedScorer(
        model, image_processor, AutoTokenizer.from_pretrained(name, trust_remote_code=True), variant, _shown(name)
    )


LOADERS: dict[str, Callable[[ClipVariant, str, str], ClipScorer | FineGrainedScorer]] = {
    "clip": _load,
    "fg-clip-2": _load_fine_grained,
}


def image_tower(name: str, device: str = "cpu") -> Judge:
    """An extractor of `bench.fidelity`: CLIP's projected image embedding of squares as large as the tower takes."""
    from transformers import CLIPVisionModelWithProjection

    refuse_missing_path(name, FORMAT)
    try:
        model = CLIPVisionModelWithProjection.from_pretrained(name, use_safetensors=True).to(device).eval()
    except (InputError, OSError):
        raise
    except Exception as error:  # as in load_scorer
        raise InputError(f"{name} cannot be loaded ({type(error).__name__}: {error})") from error
    mean, std = (torch.tensor(part, device=device)[:, None, None] for part in (MEAN, STD))

    def extract(pixels: Tensor) -> Tensor:
        return model(pixel_values=(pixels.to(device) / 255 - mean) / std).image_embeds

    passport = {"name": "CLIP image tower", "model": _shown(name), "sha256": weights_sha256(model.state_dict())}
    return Judge(ask=extract, passport=passport, side=model.config.image_size)


def _cosines(images: Tensor, texts: Tensor) -> list[float]:
    return (F.normalize(images, dim=-1) * F.normalize(texts, dim=-1)).sum(-1).tolist()


def _embedding(found: Any) -> Tensor:
    """The projected embedding [1, D]: transformers 5 wraps it, FG-CLIP 2's own code does not."""
    return found if isinstance(found, Tensor) else found.pooler_output


def _passport(model: Any, variant: ClipVariant, name: str) -> dict[str, Any]:
    return {
        "name": variant.kind,
        "model": name,
        "sha256": weights_sha256(model.state_dict()),
        "dtype": str(model.dtype).removeprefix("torch."),
        "max_tokens": variant.max_tokens,
    }


def _shown(name: str) -> str:
    return Path(name).name if Path(name).is_dir() else name
