"""A miniature's text encoders learn to read, and are then frozen: released ones come trained, these start from nothing.

The task: each word's token tells what its noun phrase says (`phrase_labels`), a pooled vector which shapes and colours
are named. The heads that answer are thrown away. Texts reach the encoders through the family's own `encode_prompt`.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.geneval.rules import COLORS, TASKS
from l2p.architectures import Architecture
from reproduce.miniature.prompts import PHRASE_CLASSES, dense_prompt, phrase_labels, task_entry
from reproduce.miniature.scenes import SHAPES, dense_scene, task_scene
from reproduce.miniature.sources import MiniatureSource

_UNREAD = -100  # `cross_entropy`'s own mark of what is not asked


@dataclass(frozen=True, kw_only=True)
class ReadingConfig:
    """Settings of the text encoders' training."""

    num_steps: int = 1500
    batch_size: int = 128
    learning_rate: float = 2e-3
    warmup_steps: int = 50
    hold: float = 0.3  # share of the steps before the learning rate falls
    seed: int = 0
    save_every: int = 250
    log_every: int = 50


def text_encoders(pipeline: Any) -> dict[str, nn.Module]:
    """A pipeline's text encoders by the name of their component."""
    return {
        name: part for name, part in pipeline.components.items() if name.startswith("text_encoder") and part is not None
    }


def texts_of(config: ReadingConfig, step: int) -> list[str]:
    """The prompts of one step, half of GenEval's tasks, half dense: a function of (seed, step) alone."""
    rng = np.random.default_rng([config.seed, 73, step])
    tasks = [TASKS[k] for k in rng.integers(0, len(TASKS), config.batch_size // 2)]
    texts = [task_entry(task_scene(rng, task), task)["prompt"] for task in tasks]
    return texts + [dense_prompt(dense_scene(rng)) for _ in range(config.batch_size - len(texts))]


def word_labels(texts: list[str]) -> Tensor:
    """`phrase_labels` of each text, long [B, 24, 7]; -100 after its last word."""
    labels = torch.from_numpy(np.stack([phrase_labels(text) for text in texts])).long()
    for row, text in zip(labels, texts, strict=True):
        row[len(text.split()) :] = _UNREAD
    return labels


def named(labels: Tensor) -> Tensor:
    """Which shapes and colours a text names, from its word labels: float [B, 6 + 10]."""
    said = [
        (labels[..., column, None] == torch.arange(1, count + 1, device=labels.device)).any(1)
        for column, count in enumerate((len(SHAPES), len(COLORS)))
    ]
    return torch.cat(said, 1).float()


class Reader(nn.Module):
    """A family's text encoders under the heads that answer; one head for each encoder's run of tokens."""

    def __init__(self, architecture: Architecture, pipeline: Any, source: MiniatureSource) -> None:
        super().__init__()
        self.encoders = nn.ModuleDict(text_encoders(pipeline))
        self._encode = lambda texts: architecture.encode_prompt(pipeline, texts, source.max_sequence_length)
        self._starts = source.prompt_starts
        with torch.no_grad():
            prompt = self._encode(["a"])
        width = prompt["prompt_embeds"].shape[-1]
        self.words = nn.ModuleList(nn.Linear(width, sum(PHRASE_CLASSES)) for _ in self._starts)
        pooled = prompt.get("pooled_prompt_embeds")
        self.whole = None if pooled is None else nn.Linear(pooled.shape[-1], len(SHAPES) + len(COLORS))

    def forward(self, texts: list[str]) -> tuple[Tensor, Tensor]:
        """The loss, and the share of all answers about words that are right."""
        prompt, labels = self._encode(texts), word_labels(texts).to(next(self.parameters()).device)
        losses, right = [], []
        for start, head in zip(self._starts, self.words, strict=True):
            tokens = prompt["prompt_embeds"][:, start : start + labels.shape[1]]
            asked = labels[:, : tokens.shape[1]].flatten(0, 1)  # [B * L, 7]
            guesses = head(tokens).flatten(0, 1).split(list(PHRASE_CLASSES), dim=-1)
            for guess, column in zip(guesses, asked.T, strict=True):
                losses.append(F.cross_entropy(guess, column, ignore_index=_UNREAD))
                right.append((guess.argmax(-1) == column)[column != _UNREAD].float().mean())
        loss = torch.stack(losses).sum() / len(self._starts)
        if self.whole is not None:
            guess = self.whole(prompt["pooled_prompt_embeds"])
            loss = loss + F.binary_cross_entropy_with_logits(guess, named(labels)) * len(PHRASE_CLASSES)
        return loss, torch.stack(right).mean().detach()


def rate(step: int, num_steps: int, *, warmup: int, hold: float, floor: float = 0.03) -> float:
    """Warm-up, hold for a share of the steps, linear fall to the floor: a factor of the learning rate."""
    return min(1.0, (step + 1) / warmup) * min(1.0, max(floor, (num_steps - step) / (num_steps * (1 - hold))))


def train_reader(reader: Reader, config: ReadingConfig, folder: Path) -> None:
    """Train text encoders and heads together (AdamW); goes on from the state in `folder` where there is one."""
    optimizer = torch.optim.AdamW(reader.parameters(), config.learning_rate, betas=(0.9, 0.98), weight_decay=0.01)
    first, path, started = 0, folder / "reading.pt", time.monotonic()
    if path.is_file():
        saved = torch.load(path, weights_only=True)
        reader.load_state_dict(saved["reader"])
        optimizer.load_state_dict(saved["optimizer"])
        first = saved["step"]
    reader.train()
    for step in range(first, config.num_steps):
        factor = rate(step, config.num_steps, warmup=config.warmup_steps, hold=config.hold)
        optimizer.param_groups[0]["lr"] = config.learning_rate * factor
        loss, right = reader(texts_of(config, step))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(reader.parameters(), 1.0)
        optimizer.step()
        if (step + 1) % config.log_every == 0:
            row = {"step": step + 1, "reading_loss": round(loss.item(), 4), "right": round(right.item(), 4)}
            with (folder / "reading.jsonl").open("a") as log:
                log.write(json.dumps(row | {"seconds": round(time.monotonic() - started, 1)}) + "\n")
        if (step + 1) % config.save_every == 0:
            state = {"reader": reader.state_dict(), "optimizer": optimizer.state_dict(), "step": step + 1}
            torch.save(state, path.with_suffix(".tmp"))
            path.with_suffix(".tmp").rename(path)
