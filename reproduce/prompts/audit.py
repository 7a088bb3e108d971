"""Stage 3: rules in code that a prompt must pass, and a model's verdict on request."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from bench.records import read_json
from l2p.likeness import KnownPrompts, NearDuplicates
from reproduce.prompts.replies import Model, read_reply

Row = Mapping[str, Any]
Rule = Callable[[Row], str | None]
"""A row in; why it is rejected, or None."""

LENGTHS = {"simple": (20, 300), "detailed": (100, 900)}  # characters
SENTENCES = {"simple": (1, 2), "detailed": (3, 5)}
OTHER_QUOTES = "“”„«»「」『』"


def check_format(row: Row) -> str | None:
    """One paragraph of whole sentences, as many as its kind has; no markup, no label, no list of tags."""
    text = row["text"]
    if not text:
        return "the reply holds no prompt"
    if text != text.strip() or not text.isprintable():
        return "line breaks, control characters or outer spaces"
    if re.match(r"(prompt|caption|image|title)\s*:|[-*#{\[]|\d+[.)] ", text, re.IGNORECASE):
        return "a label, a list or markup at the beginning"
    if not re.search(r"[.!?][\"”]?$", text) and not text.endswith('"'):
        return "the last sentence has no end"
    if text[0].islower():
        return "no capital letter at the beginning"
    if repeated := re.search(r"\b(\w+) \1\b", _without_quotes(text), re.IGNORECASE):
        return f"a word twice: {repeated[0]}"
    if _is_list_of_tags(text):
        return "a list of tags"
    low, high = SENTENCES[row["kind"]]
    number = num_sentences(text)
    return None if low <= number <= high else f"{number} sentences, {row['kind']} has {low} to {high}"


def check_quotes(row: Row) -> str | None:
    """Straight double quotes in pairs round the text to be rendered, just as it was asked for."""
    text, wanted = row["text"], row.get("rendered")
    if text.count('"') % 2 or any(not quoted.strip() for quoted in re.findall(r'"([^"]*)"', text)):
        return "quotes without partner or text"
    if any(mark in text for mark in OTHER_QUOTES):
        return "quotes other than straight double ones"
    if wanted is not None and f'"{wanted}"' not in text:
        return "the text to be rendered is not quoted"
    return "quotes, and no text is to be rendered" if wanted is None and '"' in text else None


def check_length(row: Row) -> str | None:
    """Not shorter or longer than its kind may be."""
    low, high = LENGTHS[row["kind"]]
    return (
        None if low <= len(row["text"]) <= high else f"{len(row['text'])} characters, {row['kind']} has {low} to {high}"
    )


def check_safety(row: Row) -> str | None:
    """No word of the safety list."""
    return _listed("safety", row["text"])


def check_names(row: Row) -> str | None:
    """No brand, character or person of the copyright list."""
    return _listed("names", row["text"])


RULES: dict[str, Rule] = {
    "format": check_format,
    "quotes": check_quotes,
    "length": check_length,
    "safety": check_safety,
    "copyright": check_names,
}


class Auditor:
    """All rules, in order; remembers what it has accepted, so that later near duplicates are told.

    known: benchmark -> its prompts; what overlaps them is rejected, unless `keep_overlap`, and counted in either case.
    """

    def __init__(self, known: Mapping[str, Sequence[str]], keep_overlap: bool = False) -> None:
        self._known = {name: KnownPrompts(prompts) for name, prompts in known.items()}
        self._keep_overlap, self._seen = keep_overlap, NearDuplicates()
        self.num_overlaps: dict[str, int] = dict.fromkeys(known, 0)

    def __call__(self, row: Row) -> tuple[str, str] | None:
        """(rule, reason) for which the row is rejected, or None; an accepted row is remembered."""
        for name, rule in RULES.items():
            if (reason := rule(row)) is not None:
                return name, reason
        if (found := self._seen.find(row["text"])) is not None:
            return "duplicate", f"nearly: {found}"
        for benchmark, known in self._known.items():
            if (found := known.find(row["text"])) is not None:
                self.num_overlaps[benchmark] += 1
                if not self._keep_overlap:
                    return "overlap", f"{benchmark}: {found}"
        self._seen.add(row["text"])
        return None


def ask_verdicts(model: Model, texts: Sequence[str]) -> list[dict[str, Any]]:
    """A model's {is_valid, reason} for each text; a reply that cannot be read is no verdict and rejects the text."""
    replies = model([_question(text) for text in texts])
    return [_verdict(reply) for reply in replies]


def _question(text: str) -> str:
    return (
        "You check prompts for an image generator. A prompt is valid when it is fluent English that describes one "
        "possible picture, quotes text to be rendered in double quotes, is safe for everyone, and names no brand, "
        'protected character or living person. Answer with JSON only: {"is_valid": true or false, "reason": "..."}'
        f"\n\nPrompt: {text}"
    )


def _verdict(reply: str) -> dict[str, Any]:
    valid, reason = read_reply(reply, "is_valid"), read_reply(reply, "reason")
    if not isinstance(valid, bool):
        return {"is_valid": False, "reason": f"no verdict in the reply: {reply[:200]}"}
    return {"is_valid": valid, "reason": reason if isinstance(reason, str) else ""}


def num_sentences(text: str) -> int:
    """Sentences, without counting what ends inside quotes."""
    bare = _without_quotes(text)
    return len([part for part in re.split(r"[.!?]+(?:\s|$)", bare) if part.strip()])


def _without_quotes(text: str) -> str:
    return re.sub(r'"[^"]*"', "QUOTED", text)


def _is_list_of_tags(text: str) -> bool:
    parts = [part.split() for part in re.split(r",\s*", _without_quotes(text))]
    return len(parts) >= 5 and sum(map(len, parts)) / len(parts) <= 3.5


def _listed(name: str, text: str) -> str | None:
    found = _pattern(name).search(text)
    return found[0].lower() if found else None


@cache
def _pattern(name: str) -> re.Pattern[str]:
    listed = read_json(Path(__file__).parent / "data" / "words.json")[name]
    ascii_words = "|".join(re.escape(word) for word in listed if word[0].isascii())
    others = "|".join(re.escape(word) for word in listed if not word[0].isascii())
    return re.compile(rf"\b(?:{ascii_words})(?:s|'s)?\b|{others}", re.IGNORECASE)
