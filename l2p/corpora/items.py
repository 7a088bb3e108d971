"""One image and its prompt, and a corpus as a list of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from l2p.corpora.stream import RowStream

CAPTIONS = ("text", "caption", "prompt")
"""What a caption's column or key is called, the first that is there."""


@dataclass(frozen=True, kw_only=True)
class CorpusItem:
    """One image and its prompt.

    source: gives the picture's file, or its bytes. shard: the file that holds it among others, None where each image is
    a file of its own. category: class/sub-class/fine category, where the corpus says so.
    """

    name: str
    text: str
    source: Callable[[], Path | bytes]
    shard: str | None = None
    category: str | None = None


@dataclass(frozen=True, kw_only=True)
class Listing:
    """A corpus's items in stored order; `stream` where their pictures can only be read forwards."""

    items: list[CorpusItem]
    stream: RowStream | None = None
