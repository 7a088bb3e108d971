"""Language models behind one callable: a `transformers` model of a folder or hub id, or an OpenAI-compatible server."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from bench.named import refuse_missing_path
from bench.server import ChatServer, Reply, ServerConfig
from l2p.errors import InputError
from reproduce.prompts.replies import Model

KINDS = ("transformers", "openai")
MAX_REPLY_TOKENS = 700
TEMPERATURE = 0.9


class BudgetError(InputError):
    """The tokens that were allowed are spent."""


def load_model(name: str, *, max_tokens: int | None = None, seed: int = 0) -> Model:
    """The model of `transformers:FOLDER-OR-ID` or `openai:MODEL`; ValueError for any other name.

    max_tokens: of an OpenAI-compatible server, prompts and replies together; when they are spent, BudgetError.
    """
    kind, which = check_name(name)
    return _transformers(which, seed) if kind == "transformers" else ServerModel(which, max_tokens)


def check_name(name: str) -> tuple[str, str]:
    """Kind and model that a name tells; InputError for any other name than `load_model` takes."""
    kind, _, which = name.partition(":")
    if kind not in KINDS or not which:
        raise InputError(f"unknown model {name!r}; give transformers:FOLDER-OR-ID or openai:MODEL")
    return kind, which


class ServerModel:
    """Asks a server (`bench.server.ChatServer`: address, key, tries, errors), several instructions at a time.

    `num_tokens` counts what the server says it has used, or a quarter of the characters where it does not say.
    """

    def __init__(self, model: str, max_tokens: int | None = None, server: ChatServer | None = None) -> None:
        self._server = server or ChatServer(model, config=ServerConfig(max_tokens=MAX_REPLY_TOKENS, timeout_s=120))
        self._max_tokens, self.num_tokens = max_tokens, 0

    def __call__(self, instructions: Sequence[str]) -> list[str]:
        """One reply an instruction, in order."""
        if self._max_tokens is not None and self.num_tokens >= self._max_tokens:
            raise BudgetError(
                f"{self.num_tokens:,} tokens are used, --max-tokens allows {self._max_tokens:,}: what is written is "
                "kept; the same command with a larger limit goes on"
            )
        with ThreadPoolExecutor(self._server.config.max_concurrent) as pool:
            replies = list(pool.map(lambda asked: self._server.ask(asked, TEMPERATURE), instructions))
        self.num_tokens += sum(map(_num_tokens, instructions, replies))
        return [reply.text for reply in replies]


def _num_tokens(asked: str, reply: Reply) -> int:
    return (len(asked) + len(reply.text)) // 4 if reply.num_tokens is None else reply.num_tokens


def _transformers(name: str, seed: int) -> Model:
    """A causal model that is asked by its chat template, or plainly where it has none."""
    refuse_missing_path(name, "the folder of a transformers model, or a hub id")
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(name, padding_side="left")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model: Any = AutoModelForCausalLM.from_pretrained(name, dtype="auto").to(device).eval()
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    torch.manual_seed(seed)

    def ask(instructions: Sequence[str]) -> list[str]:
        told = [_templated(tokenizer, instruction) for instruction in instructions]
        batch = tokenizer(told, return_tensors="pt", padding=True, add_special_tokens=not tokenizer.chat_template)
        with torch.inference_mode():
            found = model.generate(
                **batch.to(device), max_new_tokens=MAX_REPLY_TOKENS, do_sample=True, temperature=TEMPERATURE
            )
        return tokenizer.batch_decode(found[:, batch["input_ids"].shape[1] :], skip_special_tokens=True)

    return ask


def _templated(tokenizer: Any, instruction: str) -> str:
    if not tokenizer.chat_template:
        return instruction
    messages = [{"role": "user", "content": instruction}]
    return tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
