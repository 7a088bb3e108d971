"""An OpenAI-compatible server (`/chat/completions`), hosted or local: judges and prompt writers ask by this alone.

Keys and passwords stand in no message, whatever the server sends back.
"""

from __future__ import annotations

import base64
import http.client
import json
import os
import random
import re
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import SplitResult, parse_qsl, quote, unquote, urlsplit, urlunsplit

from l2p.errors import InputError
from l2p.tables import parse_json

DEFAULT_BASE_URL = "https://api.openai.com/v1"
SHORTEST_SECRET = 4  # shorter ones would take ordinary words out of messages
MAX_REPLY_BYTES = 1 << 20
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
    insecure: bool = False  # send key or password by http to another host


class _Refused(urllib.request.HTTPRedirectHandler):
    """Follow no redirect: the key would go along to another host."""

    def redirect_request(self, *_: Any) -> None:
        return None


@dataclass(frozen=True, kw_only=True)
class Address:
    """Where and as whom the server is asked; `shown` is all that may be told of it, `secrets` what never may."""

    url: str
    shown: str
    authorization: str | None
    secrets: tuple[str, ...]

    def redacted(self, text: str) -> str:
        """The text with every secret replaced: servers echo what they are sent."""
        for secret in self.secrets:
            text = text.replace(secret, "***")
        return text


def read_address(insecure: bool = False) -> Address:
    """The address in $OPENAI_BASE_URL and the key in $OPENAI_API_KEY.

    Raises ValueError, which tells neither key nor password: no http address, a key with a control character or a space
    in it, a key beside a password, and either for another host without encryption, unless `insecure`.
    """
    key = os.environ.get("OPENAI_API_KEY", "").strip()
    parts, host = _parts(os.environ.get("OPENAI_BASE_URL", DEFAULT_BASE_URL).strip())
    user = unquote(parts.username or "") + ":" + unquote(parts.password or "")
    if not all("!" <= letter <= "~" for letter in key):
        raise InputError("OPENAI_API_KEY holds a space, a control character or no ASCII inside: set it again")
    if key and user != ":":
        raise InputError("OPENAI_BASE_URL holds a user or password, and OPENAI_API_KEY is set too: give one of them")
    queries = [value for _, value in parse_qsl(parts.query)]
    is_open = parts.scheme == "http" and not _is_this_machine(parts.hostname)
    if is_open and not insecure and (key or user != ":" or queries):
        raise InputError(
            f"OPENAI_BASE_URL is http://{host}: key or password would cross the network unencrypted. Use https, or "
            "--insecure where that network is yours"
        )
    encoded = base64.b64encode(user.encode()).decode()
    spellings = [key, parts.password or "", unquote(parts.password or ""), encoded, *queries, *map(quote, queries)]
    path = parts.path.rstrip("/")
    return Address(
        url=urlunsplit((parts.scheme, host, f"{path}/chat/completions", parts.query, "")),
        shown=urlunsplit((parts.scheme, host, path, "", "")),
        authorization=f"Bearer {key}" if key else f"Basic {encoded}" if user != ":" else None,
        secrets=tuple(sorted({one for one in spellings if len(one) >= SHORTEST_SECRET}, key=len, reverse=True)),
    )


def _parts(base: str) -> tuple[SplitResult, str]:
    """The address taken apart, and its host with its port; ValueError for none of http and for control characters."""
    try:
        parts = urlsplit(base)
        port = f":{parts.port}" if parts.port else ""
    except ValueError:  # whose words hold the password
        raise InputError("OPENAI_BASE_URL is no address: its host or port cannot be read") from None
    if parts.scheme not in ("http", "https") or not parts.hostname or not base.isprintable() or " " in base:
        raise InputError("OPENAI_BASE_URL must start with http:// or https:// and a host, without spaces in it")
    return parts, (f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname) + port


def _is_this_machine(host: str | None) -> bool:
    return host in ("localhost", "::1") or bool(re.fullmatch(r"127\.\d+\.\d+\.\d+", host or ""))


@dataclass(frozen=True, kw_only=True)
class Reply:
    """What a server answered; `num_tokens` are those of question and answer together, None where it does not say."""

    text: str
    num_tokens: int | None


class ChatServer:
    """Asks one model of a server one question at a time; may be used by several threads at once.

    Address and key are `read_address`'s; `shown` is all that may be told of the address. Lost connections, time-outs,
    broken replies and busy statuses are tried again with growing waits; then ConnectionError.
    """

    def __init__(self, model: str, *, config: ServerConfig | None = None, sleep: Callable[[float], None] = time.sleep):
        self.config, self.model, self._sleep = config or ServerConfig(), model, sleep
        self._address = read_address(self.config.insecure)
        self._opener = urllib.request.build_opener(_Refused)

    @property
    def shown(self) -> str:
        """The address without user, password and query."""
        return self._address.shown

    def ask(self, content: str | list[dict[str, Any]], temperature: float) -> Reply:
        """The model's reply to one message of a user: a text, or parts (`image_url`, `text`) as the protocol has them.

        Raises ConnectionError where the server refuses it, or gives no answer in `max_tries`.
        """
        body = {
            "model": self.model,
            "temperature": temperature,
            "max_tokens": self.config.max_tokens,
            "messages": [{"role": "user", "content": content}],
        }
        headers = {"Content-Type": "application/json"}
        if self._address.authorization:
            headers["Authorization"] = self._address.authorization
        request = urllib.request.Request(self._address.url, json.dumps(body).encode(), headers)
        for attempt in range(1, self.config.max_tries + 1):
            asked_wait = 0.0
            try:
                return self._answer(request)
            except urllib.error.HTTPError as error:
                what = self._told(f"status {error.code}: {_body(error)}")
                if error.code not in RETRIED:
                    raise ConnectionError(f"{self._address.shown} refuses the question, {what}") from None
                asked_wait = _seconds(error.headers.get("Retry-After"))
            # a lost or slow connection, a reply that breaks off or is no HTTP, broken JSON or no answer in it
            except (OSError, http.client.HTTPException, ValueError) as error:
                what = self._told(f"{type(error).__name__}: {error}")
            if attempt < self.config.max_tries:
                wait = self.config.first_wait_s * 2 ** (attempt - 1) * random.uniform(0.5, 1.0)
                self._sleep(min(max(wait, asked_wait), self.config.max_wait_s))
        tries = f"{self.config.max_tries} tries"
        raise ConnectionError(f"{self._address.shown} gave no answer in {tries}; the last: {what}")

    def _answer(self, request: urllib.request.Request) -> Reply:
        """One try. ValueError for a reply without an answer."""
        with self._opener.open(request, timeout=self.config.timeout_s) as response:
            content = response.read(MAX_REPLY_BYTES)
        reply = parse_json(content, "the reply")
        try:
            answer = reply["choices"][0]["message"]["content"].strip()
        except (KeyError, IndexError, TypeError, AttributeError) as error:
            raise InputError(f"a reply without an answer: {reply}") from error
        if not answer:
            raise InputError("an empty answer")
        usage = reply.get("usage")
        used = usage.get("total_tokens") if isinstance(usage, dict) else None
        return Reply(text=self._address.redacted(answer), num_tokens=used if isinstance(used, int) else None)

    def _told(self, text: str) -> str:
        """What a server said, cut short: without secrets, and without control characters of a terminal's."""
        return "".join(c if c.isprintable() else " " for c in self._address.redacted(text))[:300]


def _body(error: urllib.error.HTTPError) -> str:
    """The beginning of an error's page, if it can be read."""
    try:
        return error.read(MAX_REPLY_BYTES).decode(errors="replace")
    except (OSError, http.client.HTTPException):
        return "(its text breaks off)"


def _seconds(header: str | None) -> float:
    """A Retry-After header in seconds; 0 where it is absent or a date."""
    return float(header) if header and header.isdecimal() else 0.0
