"""VQA by an OpenAI-compatible server (`/chat/completions` with an image): any hosted or local vision-language model."""

from __future__ import annotations

import json
import os
import random
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bench.dpg.vqa import NOT_COMPARABLE
from bench.worker import encode_png

if TYPE_CHECKING:
    from PIL.Image import Image

DEFAULT_BASE_URL = "https://api.openai.com/v1"
PROMPT = "{question} Answer with one word, yes or no, if the question allows it."
RETRIED = (408, 409, 425, 429, 500, 502, 503, 504)  # statuses that may pass; others are the request's own fault


@dataclass(frozen=True, kw_only=True)
class ServerConfig:
    """How the server is asked; every default is stated in the score's passport."""

    timeout_s: float = 60.0
    max_tries: int = 6
    first_wait_s: float = 1.0  # doubled with each try, with jitter
    max_wait_s: float = 60.0
    max_concurrent: int = 4
    max_tokens: int = 16


class _Refused(urllib.request.HTTPRedirectHandler):
    """Follow no redirect: the key would go along to another host."""

    def redirect_request(self, *_: Any) -> None:
        return None


class ServerVQA:
    """A VQA that asks a server: the image is encoded once, questions go out `max_concurrent` at a time.

    The address comes from $OPENAI_BASE_URL, the key from $OPENAI_API_KEY (sent only if set; never logged). Lost
    connections, time-outs, broken replies and busy statuses are tried again with growing waits; then ConnectionError.
    """

    def __init__(self, model: str, *, config: ServerConfig | None = None, sleep: Callable[[float], None] = time.sleep):
        self.config, self.model, self._sleep = config or ServerConfig(), model, sleep
        base = os.environ.get("OPENAI_BASE_URL", DEFAULT_BASE_URL).rstrip("/")
        if not base.startswith(("http://", "https://")):
            raise ValueError(f"OPENAI_BASE_URL must start with http:// or https://, not {base!r}")
        self._url = f"{base}/chat/completions"
        self._opener = urllib.request.build_opener(_Refused)
        self.passport = {
            "vqa": "openai",
            "model": model,
            "server": base,
            "prompt": PROMPT,
            "max_tokens": self.config.max_tokens,
            "temperature": 0,
            "comparability": NOT_COMPARABLE,
        }

    def __call__(self, image: Image, questions: list[str]) -> list[str]:
        """The questions' answers, in order."""
        picture = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{encode_png(image)}"}}
        with ThreadPoolExecutor(self.config.max_concurrent) as pool:
            return list(pool.map(lambda question: self._ask(picture, question), questions))

    def _ask(self, picture: dict[str, Any], question: str) -> str:
        body = {
            "model": self.model,
            "temperature": 0,
            "max_tokens": self.config.max_tokens,
            "messages": [
                {"role": "user", "content": [picture, {"type": "text", "text": PROMPT.format(question=question)}]}
            ],
        }
        headers = {"Content-Type": "application/json"}
        if key := os.environ.get("OPENAI_API_KEY"):
            headers["Authorization"] = f"Bearer {key}"
        request = urllib.request.Request(self._url, json.dumps(body).encode(), headers)
        return self._with_retries(lambda: self._answer(request))

    def _answer(self, request: urllib.request.Request) -> str:
        """One try. ValueError for a reply without an answer."""
        with self._opener.open(request, timeout=self.config.timeout_s) as response:
            reply = json.load(response)
        try:
            answer = reply["choices"][0]["message"]["content"].strip()
        except (KeyError, IndexError, TypeError, AttributeError) as error:
            raise ValueError(f"a reply without an answer: {str(reply)[:200]}") from error
        if not answer:
            raise ValueError("an empty answer")
        return answer

    def _with_retries(self, ask: Callable[[], str]) -> str:
        for attempt in range(1, self.config.max_tries + 1):
            asked_wait = 0.0
            try:
                return ask()
            except urllib.error.HTTPError as error:
                what = f"status {error.code}: {error.read(200).decode(errors='replace')}"
                if error.code not in RETRIED:
                    raise ConnectionError(f"{self._url} refuses the question, {what}") from error
                asked_wait = _seconds(error.headers.get("Retry-After"))
            except (OSError, ValueError) as error:  # lost or slow connection; broken JSON or no answer in it
                what = f"{type(error).__name__}: {error}"
            if attempt < self.config.max_tries:
                wait = self.config.first_wait_s * 2 ** (attempt - 1) * random.uniform(0.5, 1.0)
                self._sleep(min(max(wait, asked_wait), self.config.max_wait_s))
        raise ConnectionError(f"{self._url} gave no answer in {self.config.max_tries} tries; the last: {what}")


def _seconds(header: str | None) -> float:
    """A Retry-After header in seconds; 0 where it is absent or a date."""
    return float(header) if header and header.isdecimal() else 0.0
