"""How alike texts are: near duplicates by MinHash, and known prompts that a text repeats."""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterable
from typing import TypeVar

import numpy as np

Key = TypeVar("Key")

NUM_BANDS, ROWS_PER_BAND = 16, 4  # pairs of Jaccard 0.7 meet in a band with probability 0.99, of 0.3 with 0.12
PRIME = (1 << 31) - 1  # products of two numbers below it fit into 64 bits
DUPLICATE_FROM = 0.7  # Jaccard of three-word shingles

_generator = np.random.default_rng(2605)
_FACTORS = _generator.integers(1, PRIME, NUM_BANDS * ROWS_PER_BAND, dtype=np.uint64)[:, None]
_OFFSETS = _generator.integers(0, PRIME, NUM_BANDS * ROWS_PER_BAND, dtype=np.uint64)[:, None]


def words(text: str) -> list[str]:
    """The words of a text in lower case, without punctuation; each Chinese, Japanese or Korean character is one."""
    return re.findall(r"[\u3040-\u9fff\uac00-\ud7af]|[^\W\u3040-\u9fff\uac00-\ud7af]+", text.lower())


def shingles(text: str) -> frozenset[str]:
    """All runs of three words (the whole text where it has fewer)."""
    found = words(text)
    return frozenset(" ".join(found[i : i + 3]) for i in range(max(1, len(found) - 2)))


def jaccard(one: frozenset[str], other: frozenset[str]) -> float:
    """Shared shingles as a part of all, 0 to 1."""
    return len(one & other) / len(one | other)


class NearDuplicates:
    """Texts seen so far, found again by MinHash and confirmed by their exact Jaccard similarity."""

    def __init__(self, at_least: float = DUPLICATE_FROM) -> None:
        self._at_least = at_least
        self._seen: list[tuple[frozenset[str], str]] = []
        self._bands: dict[tuple[int, bytes], list[int]] = {}

    def find(self, text: str) -> str | None:
        """The first text seen before that is nearly this one, or None."""
        own = shingles(text)
        candidates = {i for band in _signature(own) for i in self._bands.get(band, ())}
        return next(
            (self._seen[i][1] for i in sorted(candidates) if jaccard(own, self._seen[i][0]) >= self._at_least), None
        )

    def add(self, text: str) -> None:
        """Remember a text."""
        own = shingles(text)
        for band in _signature(own):
            self._bands.setdefault(band, []).append(len(self._seen))
        self._seen.append((own, text))


def _signature(own: frozenset[str]) -> list[tuple[int, bytes]]:
    hashed = np.array([zlib.crc32(shingle.encode()) % PRIME for shingle in own], dtype=np.uint64)
    smallest = ((_FACTORS * hashed + _OFFSETS) % PRIME).min(axis=1).reshape(NUM_BANDS, ROWS_PER_BAND)
    return [(band, smallest[band].tobytes()) for band in range(NUM_BANDS)]


class KnownPrompts:
    """A benchmark's prompts: which of them a text holds word for word, or is nearly."""

    def __init__(self, prompts: Iterable[str]) -> None:
        self._near, self._phrases = NearDuplicates(0.5), {}
        for prompt in prompts:
            self._phrases[tuple(words(prompt))] = prompt
            self._near.add(prompt)
        self._lengths = sorted({len(phrase) for phrase in self._phrases} - {0})

    def find(self, text: str) -> str | None:
        """The known prompt that this text repeats, or None."""
        own = words(text)
        for length in self._lengths:
            for start in range(len(own) - length + 1):
                if (phrase := tuple(own[start : start + length])) in self._phrases:
                    return self._phrases[phrase]
        return self._near.find(text)
