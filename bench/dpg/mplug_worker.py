"""mPLUG-large VQA behind JSON lines; runs in `.venv-mplug` (modelscope 1.40, transformers 4.57), imports none of ours.

    .venv-mplug/bin/python bench/dpg/mplug_worker.py MODEL --device cpu      MODEL: a folder or a modelscope id

The model class is used, not `pipeline()`, which drags in fairseq. Preprocessing is modelscope's `MPlugPreprocessor`:
questions lower-cased and cut to 25 tokens, the image squashed to a square (bicubic), CLIP's mean and deviation.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import io
import json
import os
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from PIL import Image

from l2p.errors import InputError

MEAN = (0.48145466, 0.4578275, 0.40821073)  # CLIP's
STD = (0.26862954, 0.26130258, 0.27577711)
MAX_QUESTION_TOKENS = 25
QUESTIONS_AT_ONCE = 8
# Tensors that answering does not touch: CLIP's text tower, momentum copies, position counters.
UNUSED = (
    "visual_encoder.transformer.",
    "visual_encoder.token_embedding",
    "visual_encoder.positional_embedding",
    "visual_encoder.ln_final.",
    "visual_encoder.text_projection",
    "visual_encoder.logit_scale",
)


def model_folder(name: str) -> Path:
    """The model's folder: `name` itself, or where modelscope puts that hub id's files."""
    if Path(name).is_dir():
        return Path(name)
    from modelscope import snapshot_download

    try:
        return Path(snapshot_download(name))
    except Exception as error:  # modelscope's own kinds, and what lies below them
        raise SystemExit(f"{name} is no folder, and the hub does not give it: give --vqa-model a folder") from error


def build_model(folder: Path) -> torch.nn.Module:
    """The VQA network of a model folder, without its weights (`config.yaml` read by the safe loader)."""
    from modelscope.models.multi_modal.mplug.configuration_mplug import MPlugConfig
    from modelscope.models.multi_modal.mplug.modeling_mplug import MPlugForVisualQuestionAnswering

    config = MPlugConfig(**yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8")))
    config.model_dir = str(folder)
    return MPlugForVisualQuestionAnswering(config).eval()


def load_weights(model: torch.nn.Module, path: Path) -> None:
    """Load `pytorch_model.bin` as modelscope does, with `weights_only=True`; ValueError for a missing tensor."""
    state = torch.load(path, map_location="cpu", weights_only=True)
    for wrapper in ("model", "module"):
        state = state.get(wrapper, state)
    state = {name.replace("model.", ""): tensor for name, tensor in state.items()}
    missing, unexpected = model.load_state_dict(state, strict=False)
    lacking = [
        name for name in missing if not name.startswith(UNUSED) and "_m." not in name and "position_ids" not in name
    ]
    if lacking:
        raise InputError(f"{path} lacks {len(lacking)} of the network's tensors, such as {lacking[:3]}")
    print(
        f"{path}: {len(state)} tensors; not in the file {len(missing)}, not in the network {len(unexpected)}",
        file=sys.stderr,
    )


def pixels(image: Image.Image, resolution: int) -> torch.Tensor:
    """[1, 3, R, R] normalised; the image is squashed, not cropped."""
    squashed = image.convert("RGB").resize((resolution, resolution), Image.Resampling.BICUBIC)
    values = torch.from_numpy(np.asarray(squashed, dtype=np.float32) / 255)  # [R, R, 3]
    return ((values - torch.tensor(MEAN)) / torch.tensor(STD)).permute(2, 0, 1)[None]


@torch.no_grad()
def encode_image(model: Any, image: Image.Image) -> torch.Tensor:
    """Image tokens [1, T, D]: the part of the network's forward that no question touches."""
    parameter = next(model.parameters())
    tokens = model.visual_encoder.visual(pixels(image, model.config.image_res).to(parameter), skip_last_layer=True)
    return model.visn_layer_norm(model.visn_fc(tokens)) if model.large else tokens


@torch.no_grad()
def answer_batch(model: Any, image_tokens: torch.Tensor, questions: list[str]) -> list[str]:
    """Answers by beam search to questions [N] about one encoded image [1, T, D]."""
    text = model.tokenizer(
        [question.lower() for question in questions],
        padding="max_length",
        truncation=True,
        max_length=MAX_QUESTION_TOKENS,
        return_tensors="pt",
    ).to(image_tokens.device)
    image_tokens = image_tokens.expand(len(questions), -1, -1)  # [N, T, D]
    image_mask = torch.ones(image_tokens.shape[:2], dtype=torch.long, device=image_tokens.device)
    encoded = model.text_encoder(text.input_ids, attention_mask=text.attention_mask, return_dict=True)
    fused = model.fusion_encoder(
        encoder_embeds=encoded.last_hidden_state,
        attention_mask=text.attention_mask,
        encoder_hidden_states=image_tokens,
        encoder_attention_mask=image_mask,
        return_dict=False,
    )
    states = torch.cat(fused, dim=1)  # [N, T + 25, D], image first
    token_ids, _ = model.generation(states, torch.cat([image_mask, text.attention_mask], dim=1))
    return [model.tokenizer.decode(best[0], skip_special_tokens=True) for best in token_ids]


def answer(model: Any, image: Image.Image, questions: list[str]) -> list[str]:
    """Answers to all questions about one image, which is encoded once."""
    tokens = encode_image(model, image)
    cuts = [questions[i : i + QUESTIONS_AT_ONCE] for i in range(0, len(questions), QUESTIONS_AT_ONCE)]
    return [text for cut in cuts for text in answer_batch(model, tokens, cut)]


def passport(folder: Path, name: str) -> dict[str, Any]:
    """What a score must carry about its VQA model."""
    with open(folder / "pytorch_model.bin", "rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    versions = {library: version(library) for library in ("torch", "modelscope", "transformers")}
    return {"vqa": "mplug", "model": name, "weights_sha256": sha256, "versions": versions}


def main() -> None:
    """Load the model, greet, then answer a request a line until standard input ends."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "model", help="folder or modelscope id, e.g. damo/mplug_visual-question-answering_coco_large_en"
    )
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    channel = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print must not mix with the answers
    folder = model_folder(arguments.model)
    model = build_model(folder)
    load_weights(model, folder / "pytorch_model.bin")
    model.to(arguments.device)
    print(json.dumps({"passport": passport(folder, arguments.model)}), file=channel, flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        image = Image.open(io.BytesIO(base64.b64decode(request["image"])))
        print(json.dumps({"answers": answer(model, image, request["questions"])}), file=channel, flush=True)


if __name__ == "__main__":
    main()
