"""VQA by an OpenAI-compatible server: any hosted or local vision-language model."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from bench.dpg.vqa import NOT_COMPARABLE
from bench.server import ChatServer, ServerConfig
from bench.worker import encode_png

if TYPE_CHECKING:
    from PIL.Image import Image

PROMPT = "{question} Answer with one word, yes or no, if the question allows it."


class ServerVQA:
    """A VQA that asks a server: the image is encoded once, questions go out `max_concurrent` at a time.

    Address, key, tries and errors are `bench.server.ChatServer`'s.
    """

    def __init__(self, model: str, *, config: ServerConfig | None = None, sleep: Callable[[float], None] = time.sleep):
        self._server = ChatServer(model, config=config, sleep=sleep)
        self.passport = {
            "vqa": "openai",
            "model": model,
            "server": self._server.shown,
            "prompt": PROMPT,
            "max_tokens": self._server.config.max_tokens,
            "temperature": 0,
            "comparability": NOT_COMPARABLE,
        }

    def __call__(self, image: Image, questions: list[str]) -> list[str]:
        """The questions' answers, in order."""
        picture = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{encode_png(image)}"}}
        with ThreadPoolExecutor(self._server.config.max_concurrent) as pool:
            return list(pool.map(lambda question: self._ask(picture, question), questions))

    def _ask(self, picture: dict[str, Any], question: str) -> str:
        content = [picture, {"type": "text", "text": PROMPT.format(question=question)}]
        return self._server.ask(content, temperature=0).text
