"""mPLUG's path with random weights, in `.venv-mplug`: make a model folder, compare our way with upstream's forward.

    PYTHONPATH=. .venv-mplug/bin/python tests/tools/mplug_check.py FOLDER --size small|large

No weights can be fetched in CI, so that the network's own `forward`, one question at a time, is the reference: our
batched answers must be the same. The folder is then a model for `--vqa mplug --vqa-model FOLDER`.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import torch
import yaml
from PIL import Image

from bench.dpg.mplug_worker import MAX_QUESTION_TOKENS, answer, build_model, load_weights, pixels

WORDS = "is,the,there,are,in,of,on,left,right,above,below,red,blue,green,circle,square,star,yes,no,dog,bench"
QUESTIONS = [
    f"Is the {a} circle {b} the {c} square?"
    for a in ("red", "blue")
    for b in ("left of", "above")
    for c in ("a", "green")
]
QUESTIONS += ["Are there stars?", "Is there a dog on the bench?", "Is the star red?", "Is there a circle?"]
BERT: dict[str, Any] = {
    "attention_probs_dropout_prob": 0.1,
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.1,
    "initializer_range": 0.4,
    "layer_norm_eps": 1e-12,
    "max_position_embeddings": 512,
    "model_type": "bert",
    "pad_token_id": 0,
    "type_vocab_size": 2,
    "add_cross_attention": False,
}
SIZES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {  # BERT's settings, the rest's
    "small": (
        {
            "hidden_size": 48,
            "intermediate_size": 96,
            "num_attention_heads": 4,
            "num_hidden_layers": 4,
            "encoder_width": 48,
        }
        | {"fusion_layers": 2, "text_encoder_layers": 2, "text_decode_layers": 3, "stride_layer": 2},
        {"image_res": 56, "clip_vision_layers": 2, "clip_image_resolution": 28, "max_length": 10, "beam_size": 5}
        | {
            "clip_embed_dim": 32,
            "clip_transformer_width": 32,
            "clip_transformer_heads": 2,
            "clip_transformer_layers": 1,
        },
    ),
    "large": (  # ViT-L/14 at 504 px, BERT-base widths
        {"hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12, "num_hidden_layers": 12}
        | {
            "encoder_width": 768,
            "fusion_layers": 6,
            "text_encoder_layers": 6,
            "text_decode_layers": 12,
            "stride_layer": 6,
        },
        {"image_res": 504, "max_length": 10, "beam_size": 5},
    ),
}


def write_vocabulary(path: Path, size: int) -> int:
    """A BERT vocabulary with the special tokens at BERT's places ([CLS] 101, [SEP] 102), filled up to `size`."""
    letters = "abcdefghijklmnopqrstuvwxyz"
    words = ["[PAD]", *(f"[unused{i}]" for i in range(99)), "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    words += [*letters, *"?.,'", *(f"##{letter}" for letter in letters), *WORDS.split(",")]
    words += [f"[filler{i}]" for i in range(size - len(words))]
    path.write_text("\n".join(words) + "\n", encoding="utf-8")
    return len(words)


def write_random_model(folder: Path, size: str) -> None:
    """A model folder of the published layout with random weights (seed 0)."""
    bert, rest = SIZES[size]
    folder.mkdir(parents=True, exist_ok=True)
    num_words = write_vocabulary(folder / "vocab.txt", 30522 if size == "large" else 0)
    (folder / "config_bert.json").write_text(json.dumps(BERT | bert | {"vocab_size": num_words}, indent=1))
    common = {"task": "visual-question-answering", "bert_config": "config_bert.json", "vision_width": 1024}
    (folder / "config.yaml").write_text(yaml.safe_dump(common | {"distill": False, "clip_name": "ViT-L-14"} | rest))
    torch.manual_seed(0)
    torch.save(build_model(folder).state_dict(), folder / "pytorch_model.bin")


@torch.no_grad()
def upstream_answer(model: Any, image: Image.Image, question: str) -> str:
    """One question the published way: the network's own forward, the image encoded again."""
    text = model.tokenizer(
        question.lower(), padding="max_length", truncation=True, max_length=MAX_QUESTION_TOKENS, return_tensors="pt"
    )
    token_ids, _ = model(pixels(image, model.config.image_res), text, train=False)
    return model.tokenizer.decode(token_ids[0][0], skip_special_tokens=True)


def main() -> None:
    """Make the folder, answer twelve questions both ways, exit 1 where they differ or are all alike."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--size", choices=SIZES, default="small")
    arguments = parser.parse_args()
    write_random_model(arguments.folder, arguments.size)
    model = build_model(arguments.folder)
    load_weights(model, arguments.folder / "pytorch_model.bin")
    print(f"{arguments.size}: {sum(p.numel() for p in model.parameters()) / 1e6:.1f} M parameters")
    image = Image.radial_gradient("L").convert("RGB")
    start = time.perf_counter()
    ours = answer(model, image, QUESTIONS)
    middle = time.perf_counter()
    theirs = [upstream_answer(model, image, question) for question in QUESTIONS]
    end = time.perf_counter()
    same = sum(a == b for a, b in zip(ours, theirs, strict=True))
    print(f"{same} of {len(QUESTIONS)} answers equal, {len(set(ours))} different ones")
    print(f"batched {middle - start:.2f} s, one by one {end - middle:.2f} s")
    for question, mine, other in zip(QUESTIONS, ours, theirs, strict=True):
        print(f"  {question}  ours {mine!r}  upstream {other!r}")
    sys.exit(same != len(QUESTIONS) or len(set(ours)) == 1)  # answers all alike would show nothing


if __name__ == "__main__":
    main()
