"""What a corpus holds and what is wrong with it: `python -m l2p inspect-corpus`."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

from l2p.corpora import CorpusItem
from l2p.corpus import decode, open_corpus
from l2p.errors import InputError
from l2p.likeness import KnownPrompts, NearDuplicates
from l2p.progress import track
from l2p.tables import csv_columns, csv_rows, jsonl_rows, read_table_text

NUM_NAMED = 5
CAPTION_NAMES = ("prompt", "text", "Prompt", "caption")


@dataclass(frozen=True, kw_only=True)
class CorpusReport:
    """`sizes`: (height, width) -> images; `broken`: (name, reason); `categories`: class/sub-class -> images.

    `num_shards`: of a corpus in shards, else 0; `same_images`: groups of names with the same bytes; `near_prompts`:
    pairs of different prompts that nearly agree; `overlaps`: file of known prompts -> (ours, theirs).
    """

    num_images: int
    num_prompts: int
    num_shards: int
    sizes: dict[tuple[int, int], int]
    broken: list[tuple[str, str]]
    same_images: list[list[str]]
    near_prompts: list[tuple[str, str]]
    categories: dict[str, int]
    overlaps: dict[str, list[tuple[str, str]]]


def inspect_corpus(path: str | Path, against: Sequence[Path] = (), *, progress: bool = False) -> CorpusReport:
    """Decode every image and compare every prompt of a corpus that `l2p.corpora.list_corpus` can read.

    against: files of known prompts (`read_prompts`). Raises FileNotFoundError for no corpus or file, ValueError for a
    table, shard or dataset that is not whole, or a corpus without items.
    """
    known = {str(file): KnownPrompts(read_prompts(file)) for file in against}
    corpus = open_corpus(path)
    items = corpus.items
    looks = corpus.each(lambda i: corpus.look_at(i, partial(_look, items[i])), "looking at images", progress)
    seen = [(item, look) for item, look in zip(items, looks, strict=True) if not isinstance(look, str)]
    texts = list(dict.fromkeys(item.text for item in items))
    by_hash: dict[str, list[str]] = {}
    for item, look in seen:
        by_hash.setdefault(look.sha256, []).append(item.name)
    return CorpusReport(
        num_images=len(items),
        num_prompts=len(texts),
        num_shards=len({item.shard for item in items} - {None}),
        sizes=dict(Counter(look.size for _, look in seen).most_common()),
        broken=[(item.name, why) for item, why in zip(items, looks, strict=True) if isinstance(why, str)],
        same_images=[names for names in by_hash.values() if len(names) > 1],
        near_prompts=_near(texts, progress),
        categories=_categories(items),
        overlaps={name: [(t, hit) for t in texts if (hit := one.find(t)) is not None] for name, one in known.items()},
    )


class Look(NamedTuple):
    """What is remembered of an image: (height, width), and the SHA-256 of its file."""

    size: tuple[int, int]
    sha256: str


def _look(item: CorpusItem) -> Look:
    source = item.source()
    _, height, width = decode(item).shape
    content = source if isinstance(source, bytes) else source.read_bytes()
    return Look((height, width), hashlib.sha256(content).hexdigest())


def read_prompts(path: Path) -> list[str]:
    """Known prompts: a JSON Lines or CSV file with a column `prompt` or `text`, or plain text, one a line.

    Raises FileNotFoundError, and InputError for a file of another name, a broken one, and one without prompts.
    """
    suffix = Path(path.name.removesuffix(".gz")).suffix
    if suffix not in (".jsonl", ".csv", ".txt"):
        raise InputError(f"{path} is no list of prompts by its name; give a .jsonl, .csv or .txt")
    if suffix == ".txt":
        lines = read_table_text(path).split("\n")  # no other sign ends a line: prompts hold line separators
        found = [line.strip() for line in lines if line.strip()]
    else:
        found = list(_prompts_of(path, jsonl_rows(path) if suffix == ".jsonl" else csv_rows(path, csv_columns(path))))
    if not found:
        raise InputError(f"{path} holds no prompt")
    return list(dict.fromkeys(found))


def _prompts_of(path: Path, rows: Iterable) -> Iterator[str]:
    for number, row in rows:
        name = next((name for name in CAPTION_NAMES if isinstance(row, dict) and row.get(name)), None)
        if name is None:
            raise InputError(f"{path}:{number} has neither prompt nor text")
        yield row[name]


def told(report: CorpusReport) -> Iterator[str]:
    """The report in lines."""
    shards = f"; shards: {report.num_shards:,}" if report.num_shards else ""
    yield f"images: {report.num_images:,}; prompts: {report.num_prompts:,}{shards}"
    sizes = [f"{height} x {width}: {number:,}" for (height, width), number in report.sizes.items()]
    yield f"sizes (height x width): {', '.join(sizes[:NUM_NAMED]) or 'none'}{_more(sizes)}"
    yield _listed("broken images", [f"{name} ({why})" for name, why in report.broken])
    yield _listed("images with the same bytes", [" = ".join(names) for names in report.same_images])
    yield _listed("prompts that nearly agree", [f"{one!r} and {other!r}" for one, other in report.near_prompts])
    if report.categories:
        total = sum(report.categories.values())
        yield "classes: " + ", ".join(f"{name} {n:,} ({n / total:.1%})" for name, n in report.categories.items())
    else:
        yield "classes: not told (the corpus has no `category`)"
    for name, pairs in report.overlaps.items():
        yield _listed(f"prompts that repeat one of {name}", [f"{ours!r} ({theirs!r})" for ours, theirs in pairs])


def _near(texts: Sequence[str], progress: bool) -> list[tuple[str, str]]:
    seen, pairs = NearDuplicates(), []
    for text in track(texts, "comparing prompts", shown=progress):
        if (other := seen.find(text)) is not None:
            pairs.append((text, other))
        seen.add(text)
    return pairs


def _categories(items: Sequence[CorpusItem]) -> dict[str, int]:
    """Images by class and sub-class (a category's first two parts); empty where the corpus tells none."""
    found = Counter("/".join(item.category.split("/")[:2]) for item in items if item.category is not None)
    return dict(sorted(found.items()))


def _listed(what: str, entries: Sequence[str]) -> str:
    shown = "".join(f"\n  {entry}" for entry in entries[:NUM_NAMED])
    return f"{what}: {len(entries):,}{shown}{_more(entries)}"


def _more(entries: Sequence[str]) -> str:
    return f"\n  and {len(entries) - NUM_NAMED:,} more" if len(entries) > NUM_NAMED else ""
