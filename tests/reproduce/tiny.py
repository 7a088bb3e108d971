"""A run small enough for tests: a random FLUX of some 60 k parameters, a detector that guesses, a child that dies.

The recipe's source lies at $L2P_TINY_SOURCE, so that processes started anew find it.
"""

import contextlib
import hashlib
import importlib
import os
import signal
import sys
from dataclasses import replace
from pathlib import Path

from bench.geneval.rules import COLORS
from bench.records import Detection
from l2p.detailer import DetailerConfig
from l2p.transfer import TransferConfig
from reproduce.miniature.prompts import vocabulary
from reproduce.miniature.scenes import SHAPES
from reproduce.recipes import Corpus, Recipe, Sampler, Suite
from tests.tiny import source as tiny_source

SAMPLER = Sampler(num_inference_steps=2, guidance_scale=3.0, max_sequence_length=24, batch_size=4, shift=3.0)


def save_source(folder: Path, family: str = "flux") -> None:
    """Write a random pipeline of a family (FLUX: 2 heads of 12, one double and two single blocks, VAE of factor 4)."""
    sizes = {"num_blocks": 3, "head_dim": 12, "text_width": 24, "latent_channels": 4, "vae_channels": (4, 8, 8)}
    if family == "flux2":
        sizes["head_dim"] = 16  # four axes share its channels
    tiny_source(family, words=vocabulary(), max_length=24, shift=3.0, **sizes).save_pretrained(folder)


def recipe() -> Recipe:
    """32 px, 16 corpus images, 12 transfer steps, 8 prompts of two images."""
    return Recipe(
        name="tiny",
        family="flux",
        size="miniature",
        source=os.environ["L2P_TINY_SOURCE"],
        dtype="float32",
        resolution=32,
        corpus=Corpus(prompts="reproduce.miniature.prompts:corpus_prompts", num_prompts=16),
        transfer=TransferConfig(
            patch_size=8,
            prediction="preconditioned",  # its skip of the noisy image makes images differ after a few steps already
            detailer=DetailerConfig(channels=(4, 8, 16), upsampling="unfold"),
            input_projection="ridge",
            num_trainable_blocks=1,
            num_train_steps=12,
            batch_size=4,
            learning_rate=1e-2,
            ema_decay=0.9,
            max_sequence_length=24,
            num_validation_images=4,
            validate_every=6,
            save_every=3,
            log_every=2,
        ),
        source_sampler=SAMPLER,
        l2p_sampler=SAMPLER,
        suites=(
            Suite(
                name="geneval",
                title="GenEval",
                prompts="reproduce.miniature.prompts:geneval_suite",
                arguments={"num_per_task": 2, "seed": 1},
                images_per_prompt=2,
            ),
            Suite(
                name="dpg",
                title="DPG-Bench",
                prompts="reproduce.miniature.questions:write_questions",
                arguments={"num_items": 2, "seed": 1},
                benchmarks=("dpg",),
            ),
        ),
        judges={"geneval": "tests.reproduce.tiny:detector", "dpg": "tests.reproduce.tiny:vqa"},
        num_processes=1,
    )


def recipe_of_two() -> Recipe:
    """The same on two processes."""
    return replace(recipe(), num_processes=2)


def in_shards() -> Recipe:
    """The same, two images a prompt, in shards of 5 (which no batch of 4 divides), without the images that are odd."""
    small = recipe()
    corpus = replace(
        small.corpus,
        num_prompts=8,
        images_per_prompt=2,
        images_per_shard=5,
        image_filter="tests.reproduce.tiny:odd_ones",
    )
    return replace(small, corpus=corpus)


def in_shards_of_two() -> Recipe:
    """That one on two processes."""
    return replace(in_shards(), num_processes=2)


def odd_ones(images, rows):
    """A filter that rejects an image by its bytes: about one of four."""
    return ["odd" if hashlib.sha256(image.tobytes()).digest()[0] % 4 == 0 else None for image in images]


def quick() -> Recipe:
    """The same, whose corpus is twice as large: there is something to leave out."""
    small = recipe()
    return replace(small, corpus=replace(small.corpus, num_prompts=32))


def diverging() -> Recipe:
    """A transfer whose loss is soon no longer finite, after a good first step that was saved."""
    small = recipe()
    return replace(small, transfer=replace(small.transfer, learning_rate=1e18, num_warmup_steps=0, save_every=1))


def other_recipe() -> Recipe:
    """Another run altogether: it differs in name and in one setting."""
    return replace(recipe(), name="other", resolution=48)


def detector():
    """A detector that guesses one shape and colour from the picture's bytes: the same picture, the same guess."""

    def detect(images):
        return [[_guess(hashlib.sha256(image.tobytes()).digest())] for image in images]

    return detect


def other_detector():
    """Another judge that guesses no better."""
    return detector()


def vqa():
    """A VQA that answers by the picture's and the question's bytes."""

    def answer(image, questions):
        return ["yes" if hashlib.sha256(image.tobytes() + q.encode()).digest()[0] % 2 else "no" for q in questions]

    return answer


def _guess(digest: bytes) -> Detection:
    label, color = SHAPES[digest[0] % len(SHAPES)], COLORS[digest[1] % len(COLORS)]
    return Detection(label=label, box=(2.0, 2.0, 20.0, 20.0), score=0.95, color=color)


def command(*arguments: str, log: str) -> None:
    """Run `python -m reproduce <arguments>` in this process and leave it with the command's exit status."""
    with open(log, "a") as file, contextlib.redirect_stdout(file), contextlib.redirect_stderr(file):
        sys.argv = ["reproduce", *arguments]
        sys.exit(importlib.import_module("reproduce.__main__").main(list(arguments)))


def command_of_source(source: str, *arguments: str, log: str) -> None:
    """The same with the recipe's source at another place."""
    os.environ["L2P_TINY_SOURCE"] = source
    command(*arguments, log=log)


def command_killed(place: str, num_calls: int, *arguments: str, log: str) -> None:
    """The same, killed by SIGKILL at the `num_calls`-th call of `place` (`module:function`, as looked up there)."""
    module_name, name = place.split(":")
    module = importlib.import_module(module_name)
    original, calls = getattr(module, name), 0

    def counted(*args, **kwargs):
        nonlocal calls
        calls += 1
        if calls == num_calls:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(*args, **kwargs)

    setattr(module, name, counted)
    command(*arguments, log=log)
