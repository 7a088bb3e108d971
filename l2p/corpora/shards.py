"""WebDataset shards: plain .tar files with `key.png`, `key.txt` (the prompt) and `key.json` beside each other.

A shard is listed, never unpacked, and of its members pictures and captions alone are read: whatever else lies in it
(pickles, arrays) stays closed.
"""

from __future__ import annotations

import io
import os
import tarfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

from l2p.corpora.items import CAPTIONS, CorpusItem
from l2p.errors import InputError
from l2p.pictures import SUFFIXES, is_hidden
from l2p.tables import parse_json

END = 512  # bytes of a tar's blocks: one of zeros ends it
AGAIN = "fetch or write it again"


def read_shard(path: Path) -> list[CorpusItem]:
    """The items of one shard in stored order; pictures are read from their place in it.

    Raises FileNotFoundError, and ValueError that names shard and member: cut short or compressed, a member outside of
    it (absolute, `..`), a link, a picture without caption or a caption without picture, two pictures of one key.
    """
    try:
        with open(path, "rb") as file, tarfile.open(fileobj=file, mode="r:") as archive:
            members = list(_members(archive, path))
            _check_end(archive, file, path, members)
            members = [member for member in members if member.isreg() and not is_hidden(member.name)]
            captions = _captions(archive, path, members)
    except tarfile.TarError as error:
        raise InputError(f"{path} is no plain tar ({error}): unpack it if it is compressed, else {AGAIN}") from error
    pictures = [member for member in members if member.name.lower().endswith(SUFFIXES)]
    _check_pairs(path, pictures, captions)
    return [_item(path, member, *captions[_key(member.name)]) for member in pictures]


def write_shard(path: Path, samples: Iterable[tuple[str, Mapping[str, bytes | Path]]]) -> None:
    """Write a shard under a temporary name, then rename it; the same samples give the same bytes.

    samples: a key and its members by suffix (`.png`, `.txt`), as bytes or as files.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with tarfile.open(temporary, "w", format=tarfile.PAX_FORMAT) as archive:
        for key, parts in samples:
            for suffix, part in parts.items():
                content = part if isinstance(part, bytes) else part.read_bytes()
                member = tarfile.TarInfo(key + suffix)  # no time, no owner
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
    os.replace(temporary, path)


def _members(archive: tarfile.TarFile, path: Path) -> Iterator[tarfile.TarInfo]:
    last = "its start"
    try:
        for member in archive:
            last = member.name
            name = PurePosixPath(member.name)
            if name.is_absolute() or ".." in name.parts:
                raise InputError(f"{path}: the member {member.name!r} lies outside of the shard: it is not read")
            if not (member.isreg() or member.isdir()) or member.issparse():
                raise InputError(f"{path}: the member {member.name!r} is a link or no plain file: it is not read")
            yield member
    except tarfile.TarError as error:
        raise InputError(f"{path} is cut short or damaged at {last} ({error}): {AGAIN}") from error


def _check_end(archive: tarfile.TarFile, file: Any, path: Path, members: list[tarfile.TarInfo]) -> None:
    """Raise ValueError where the tar's end mark is missing, or something lies behind it: tarfile says nothing then."""
    file.seek(archive.offset)
    rest = file.read(1 << 16)
    last = members[-1].name if members else "its start"
    if len(rest) < END or any(rest[:END]):
        raise InputError(f"{path} is cut short or damaged after {last}: its end mark is missing; {AGAIN}")
    if any(rest):
        raise InputError(f"{path} goes on behind its end mark, after {last}: give each shard a file of its own")


def _captions(
    archive: tarfile.TarFile, path: Path, members: Iterable[tarfile.TarInfo]
) -> dict[str, tuple[str, str | None]]:
    """Caption and category by key; a .txt goes before a .json."""
    texts: dict[str, str] = {}
    rows: dict[str, dict[str, Any]] = {}
    for member in members:
        if not member.name.endswith((".txt", ".json")):
            continue
        file = archive.extractfile(member)
        assert file is not None  # a regular file
        where, content = f"{path}: {member.name}", file.read()
        if member.name.endswith(".txt"):
            texts[_key(member.name)] = _decoded(content, where)
        elif isinstance(row := parse_json(content, where), dict):
            rows[_key(member.name)] = row
            caption = next((row[name] for name in CAPTIONS if name in row), "")
            if not isinstance(caption, str):
                raise InputError(f"{where}: the caption must be text; it is {caption!r}")
    told = {key: next(row[name] for name in CAPTIONS if name in row) for key, row in rows.items() if _tells(row)}
    return {key: (text, _category(rows.get(key, {}))) for key, text in {**told, **texts}.items()}


def _tells(row: dict[str, Any]) -> bool:
    return any(name in row for name in CAPTIONS)


def _category(row: dict[str, Any]) -> str | None:
    category = row.get("category")
    return category if isinstance(category, str) else None


def _decoded(content: bytes, where: str) -> str:
    try:
        return content.decode("utf-8-sig").strip()
    except UnicodeDecodeError as error:
        raise InputError(f"{where} is not UTF-8 (byte {error.start})") from error


def _check_pairs(path: Path, pictures: list[tarfile.TarInfo], captions: Mapping[str, Any]) -> None:
    counts = Counter(_key(member.name) for member in pictures)
    for member in pictures:
        if _key(member.name) not in captions:
            raise InputError(f"{path}: {member.name} has neither a .txt nor a .json caption beside it")
        if counts[_key(member.name)] > 1:
            raise InputError(f"{path}: {member.name} is one of several pictures of its key: give each a key of its own")
    for key in captions:
        if key not in counts:
            raise InputError(f"{path}: {key.lstrip('/')} has a caption and no picture; needed is {', '.join(SUFFIXES)}")


def _key(name: str) -> str:
    folder, _, base = name.rpartition("/")
    return f"{folder}/{base.split('.')[0]}"  # WebDataset: the key ends at the base name's first dot


def _item(path: Path, member: tarfile.TarInfo, text: str, category: str | None) -> CorpusItem:
    source = partial(_read_part, path, member.offset_data, member.size)
    return CorpusItem(name=f"{path.name}/{member.name}", text=text, source=source, shard=path.name, category=category)


def _read_part(path: Path, offset: int, size: int) -> bytes:
    with open(path, "rb") as file:
        file.seek(offset)
        return file.read(size)
