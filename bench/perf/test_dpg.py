"""How fast DPG-Bench is scored, against the published script's way: `pytest bench/perf/test_dpg.py -s`.

Random weights; BLIP-VQA at a quarter of the published widths (`L2P_PERF_FULL=1`: also the published size, four items).
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from bench.dpg.models import MAX_NEW_TOKENS, TransformersVQA
from bench.dpg.questions import Question, QuestionFile
from bench.dpg.rules import VARIANTS, score_items

NUM_QUESTIONS = 12
WORDS = [f"word{k}" for k in range(200)]


def blip(width: int) -> tuple[Any, Any]:
    """BLIP-VQA-base's shape (ViT-B/16 at 384 px, 12 + 12 + 12 layers) at `width` instead of 768, heads of 64."""
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *WORDS]
    tokenizer = Tokenizer(models.WordLevel({word: k for k, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", model_max_length=32
    )
    shape = {"hidden_size": width, "intermediate_size": 4 * width, "num_attention_heads": width // 64}
    text = shape | {"encoder_hidden_size": width, "vocab_size": 30524, "bos_token_id": 2, "sep_token_id": 3}
    torch.manual_seed(0)
    model = transformers.BlipForQuestionAnswering(
        transformers.BlipConfig(
            text_config=text | {"num_hidden_layers": 12, "pad_token_id": 0, "eos_token_id": 3},
            vision_config=shape | {"num_hidden_layers": 12, "image_size": 384, "patch_size": 16},
        )
    ).eval()
    images = transformers.BlipImageProcessor(size={"height": 384, "width": 384})
    return model, transformers.BlipProcessor(images, fast)


def items(count: int) -> list[tuple[Image.Image, list[str]]]:
    """Images of noise, each with twelve questions of five to ten words."""
    rng = np.random.default_rng(0)
    return [
        (
            Image.fromarray(rng.integers(0, 256, (512, 512, 3), dtype=np.uint8)),
            [" ".join(rng.choice(WORDS, rng.integers(5, 11))) for _ in range(NUM_QUESTIONS)],
        )
        for _ in range(count)
    ]


@torch.no_grad()
def published_way(model: Any, processor: Any, image: Image.Image, questions: list[str]) -> list[str]:
    """One question at a time, the image prepared and encoded again for each."""
    answers = []
    for question in questions:
        inputs = processor(images=image, text=question, return_tensors="pt")
        tokens = model.generate(**inputs, max_new_tokens=MAX_NEW_TOKENS)
        answers.append(processor.tokenizer.decode(tokens[0], skip_special_tokens=True))
    return answers


def compare(benchmark: Any, width: int, num_items: int, name: str, rounds: int) -> float:
    """Time both ways on the same items (ours the best of `rounds`, the other once), check that they agree.

    Prints and returns the ratio.
    """
    model, processor = blip(width)
    ours, asked = TransformersVQA(model, processor, name), items(num_items)
    ours(*asked[0])  # warm up
    answers = benchmark.pedantic(lambda: [ours(*item) for item in asked], rounds=rounds)
    start = time.perf_counter()
    theirs = [published_way(model, processor, *item) for item in asked]
    published_s = time.perf_counter() - start
    ratio = published_s / benchmark.stats.stats.min
    benchmark.extra_info |= {"published_s": published_s, "ratio": ratio, "threads": torch.get_num_threads()}
    print(f"\n{name}: {num_items} items of {NUM_QUESTIONS} questions, {torch.get_num_threads()} threads")
    print(f"ours {benchmark.stats.stats.min:.2f} s, one at a time {published_s:.2f} s: {ratio:.1f} x")
    assert answers == theirs
    return ratio


def test_batched_questions_reduced(benchmark):
    assert compare(benchmark, 192, 2, "BLIP-VQA, quarter width", rounds=3) >= 5


@pytest.mark.skipif("L2P_PERF_FULL" not in os.environ, reason="minutes: set L2P_PERF_FULL=1")
def test_batched_questions_published_size(benchmark):
    """The ratio is reported, not judged."""
    compare(benchmark, 768, 4, "BLIP-VQA, published size", rounds=1)


def question_file(num_items: int) -> QuestionFile:
    """Items of twelve questions in a graph of three levels."""
    parents = [(), (), (), (1,), (1,), (2,), (2, 3), (3,), (4,), (4, 5), (6,), (7, 8)]
    questions = {
        f"item{k}": tuple(
            Question(
                item_id=f"item{k}",
                proposition_id=i,
                text=f"Question {i}?",
                parents=above,
                category="entity - whole",
                line=1,
            )
            for i, above in enumerate(parents, 1)
        )
        for k in range(num_items)
    }
    rows = tuple(question for item in questions.values() for question in item)
    return QuestionFile(
        path=Path("synthetic"),
        sha256="",
        rows=rows,
        items=questions,
        prompts={},
        findings=(),
        skipped=(),
        malformed="no-parent",
    )


@pytest.mark.benchmark(timer=time.process_time)  # on one core of its own, whatever else the machine does
@pytest.mark.parametrize("variant", VARIANTS)
def test_rules(benchmark, variant):
    """At least 100,000 answered questions a second, one image an item (four images are cheaper a question)."""
    file, rng = question_file(1000), np.random.default_rng(0)
    answers = {
        item_id: [{q.proposition_id: str(rng.choice(["yes", "no"])) for q in questions}]
        for item_id, questions in file.items.items()
    }
    benchmark(lambda: score_items(file, answers, variant=variant))
    rate = len(file.rows) / benchmark.stats.stats.min
    print(f"\n{variant}: {rate:,.0f} questions a second")
    assert rate >= 100_000


def peak_of_scoring(folder: Path, num_items: int) -> int:
    """Peak resident bytes of a fresh process that scores so many grids of 1024 x 1024."""
    images = folder / f"images{num_items}"
    images.mkdir()
    Image.new("RGB", (1024, 1024)).save(images / "item0.png")
    rows = ["item_id,text,proposition_id,dependency,tuple,question_natural_language"]
    for k in range(num_items):
        if k:
            os.link(images / "item0.png", images / f"item{k}.png")
        rows += [f"item{k},a prompt,{i},0,entity - whole (x),Question {i}?" for i in range(1, NUM_QUESTIONS + 1)]
    (folder / f"{num_items}.csv").write_text("\n".join(rows) + "\n")
    command = [sys.executable, __file__, str(images), str(folder / f"{num_items}.csv"), str(folder / f"out{num_items}")]
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(
        command, check=True, capture_output=True, text=True, cwd=root, env=os.environ | {"PYTHONPATH": str(root)}
    )
    return int(done.stdout.split()[-1])


def test_memory_is_flat(tmp_path):
    """200 items more would be 600 MB of pixels if they were kept; the answers themselves are small."""
    few, many = (peak_of_scoring(tmp_path, count) for count in (20, 220))
    print(f"\npeak memory: {few / 2**20:.0f} MiB for 20 items, {many / 2**20:.0f} MiB for 220")
    assert many - few < 60 * 2**20


def main() -> None:
    """Score a folder in this process with a VQA that says yes, and print the peak memory in bytes."""
    from bench.dpg.score import ScoreConfig, score_folder

    images, questions, out = sys.argv[1:]
    config = ScoreConfig(variant="corrected", device="cpu")
    score_folder(images, questions, lambda image, asked: ["yes"] * len(asked), out, resolution=512, config=config)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)


if __name__ == "__main__":
    main()
