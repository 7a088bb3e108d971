"""What a language model is here: a function from instructions to replies, and its JSON read out of what it says."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

Model = Callable[[Sequence[str]], list[str]]
"""Instructions in, one reply each, in order."""


def read_reply(reply: str, key: str) -> Any:
    """The value of `key` in the first JSON object of a reply, with or without talk around it; or None."""
    start = reply.find("{")
    while start >= 0:
        try:
            found, _ = json.JSONDecoder().raw_decode(reply[start:])
        except (json.JSONDecodeError, RecursionError):
            found = None
        if isinstance(found, dict) and key in found:
            return found[key]
        start = reply.find("{", start + 1)
    return None
