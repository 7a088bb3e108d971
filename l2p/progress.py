"""How far the work is, on stderr: a bar on a terminal, elsewhere a line every half minute and one at the end."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

Item = TypeVar("Item")
Advance = Callable[[str], None]
"""Counts one more step as done; the text (a loss) stands beside the count."""
EVERY_S = 30.0
QUIET = "L2P_QUIET"  # in the environment: progress is not told, here and in processes started from here


def track(items: Iterable[Item], label: str, *, total: int | None = None, shown: bool = True) -> Iterator[Item]:
    """Yield the items and tell how many are done; nothing is told of no items or where `shown` is false.

    `total` is for items that do not know their number.
    """
    number = len(items) if isinstance(items, Sequence) else total or 0
    with counted(number, label, shown=shown and number > 0) as advance:
        for item in items:
            yield item
            advance("")


def counted(total: int, label: str, *, done: int = 0, shown: bool = True) -> AbstractContextManager[Advance]:
    """A function to be called after each of `total` steps, of which `done` were done before."""
    if not shown or QUIET in os.environ:
        return nullcontext(lambda text: None)
    console = Console(stderr=True, soft_wrap=True)
    return _bar(console, total, label, done) if console.is_terminal else _lines(console, total, label, done)


def say(message: str) -> None:
    """Print a line on stderr, above a bar that may be there."""
    Console(stderr=True, soft_wrap=True).print(message, markup=False, highlight=False)


@contextmanager
def _bar(console: Console, total: int, label: str, done: int) -> Iterator[Advance]:
    columns: list[Any] = [TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()]
    columns += [TimeRemainingColumn(), TextColumn("{task.fields[text]}")]
    with Progress(*columns, console=console) as bar:  # what is printed meanwhile appears above it
        task = bar.add_task(label, total=total, completed=done, text="")

        def advance(text: str) -> None:
            bar.update(task, advance=1)
            if text:
                bar.update(task, text=text)

        yield advance


@contextmanager
def _lines(console: Console, total: int, label: str, done: int) -> Iterator[Advance]:
    start = said = time.monotonic()
    known = ""

    def advance(text: str) -> None:
        nonlocal done, said, known
        done, known, now = done + 1, text or known, time.monotonic()
        if now - said >= EVERY_S or done == total:
            said, beside = now, f", {known}" if known else ""
            console.print(f"{label}: {done:,} of {total:,}{beside}, {now - start:.0f} s", highlight=False)

    yield advance
