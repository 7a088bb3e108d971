"""Where a report may be written: nothing is replaced but what an earlier report wrote, and nothing that is read."""

import os
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from bench.records import read_json, write_json
from l2p.errors import InputError

LIST = "report.json"  # in a report's folder: the names of the files that were written there
PAGE_MARK = "(L2P, arXiv 2605.12013)"  # in every page, also of reports that wrote no list


def refuse_folder(out: Path, inputs: Sequence[Path]) -> None:
    """ValueError where a report may not be written into ``out``: it is one of the inputs, or a file."""
    target = out.resolve()
    for path in inputs:
        if target == path.resolve():
            raise InputError(f"{out} is one of the inputs: give another --out, such as {out / 'report'}")
    existing = next(parent for parent in (target, *target.parents) if parent.exists())
    if not existing.is_dir():
        raise InputError(f"{existing} is a file, so no report can be written into {out}: give another --out")


def refuse_foreign(out: Path, names: Iterable[str]) -> None:
    """ValueError where ``out`` holds a file of one of these names that no report wrote; touches nothing."""
    there = {name for name in names if (out / name).exists() or (out / name).is_symlink()}
    foreign = sorted(there - written_before(out))
    if foreign:
        shown = ", ".join(foreign[:5]) + (" ..." if len(foreign) > 5 else "")
        raise InputError(f"{out} holds files that no report wrote ({shown}): give another --out, or move them away")


def written_before(out: Path) -> set[str]:
    """The names that earlier reports wrote into a folder; where they left no list but a page, all that is there."""
    if stated := _stated(out):
        return {*map(str, stated["files"]), LIST}
    page = out / "index.html"
    if page.is_file() and PAGE_MARK in page.read_text(encoding="utf-8", errors="replace")[:20_000]:
        return {entry.name for entry in out.iterdir()}
    return set()


def _stated(out: Path) -> dict[str, Any] | None:
    """What an earlier report says of itself in a folder: its "files", and its "command" where it is no old one."""
    if not (out / LIST).is_file():
        return None
    stated = read_json(out / LIST)
    if not isinstance(stated, dict) or not isinstance(stated.get("files"), list):
        raise InputError(f"{out / LIST} is no list of a report's files: give another --out, or move it away")
    return stated


def publish(staging: Path, out: Path, command: str) -> None:
    """Move the files of ``staging`` into ``out`` and list them there with the command that wrote them.

    Those of an earlier report by the same command are replaced, and what it no longer writes is removed: a figure of
    runs that were not given this time would pass for one of these. Raises ValueError for another command's folder.
    """
    names = sorted(file.name for file in staging.iterdir())
    refuse_foreign(out, names)
    stated = _stated(out) or {"files": []}
    if (other := stated.get("command", command)) != command:
        raise InputError(f"{out} holds what `{other}` wrote: give another --out for `{command}`")
    out.mkdir(parents=True, exist_ok=True)
    for name in names:
        copy = out / f".{name}.{os.getpid()}.tmp"
        shutil.copyfile(staging / name, copy)
        os.replace(copy, out / name)
    write_json(out / LIST, {"command": command, "files": names})
    for old in (out / Path(str(name)).name for name in stated["files"]):
        if old.name not in (*names, LIST) and old.is_file():
            old.unlink()


def write_text(path: Path, text: str) -> None:
    """Write a text under a temporary name in the same folder, then rename: a reader never sees half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    staging = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        staging.write_text(text, encoding="utf-8")
        os.replace(staging, path)
    finally:
        staging.unlink(missing_ok=True)


def refuse_file(out: Path, inputs: Sequence[Path], mark: str) -> None:
    """ValueError where one file may not be written to ``out``; touches nothing.

    It must lie outside the inputs, and be absent or hold ``mark``, as what the command wrote before does.
    """
    target = out.resolve()
    for path in inputs:
        if target == path.resolve() or target.is_relative_to(path.resolve()):
            raise InputError(f"{out} lies in {path}, which is read: give another --out")
    if target.is_dir():
        raise InputError(f"{out} is a folder: give --out a file's name")
    if target.exists() and mark not in target.read_text(encoding="utf-8", errors="replace")[:400]:
        raise InputError(f"{out} was not written by this command: give another --out, or move it away")
