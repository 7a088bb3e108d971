"""Rows that can only be read forwards: what will be asked for is said before, and read ahead in one thread."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import accumulate, islice

from l2p.errors import InputError


class RowStream:
    """Rows of several shards by one index over all of them.

    open_shard: a shard's number -> its rows from the first on. sizes: rows of each shard. In memory are the rows that
    are expected, no others.
    """

    def __init__(self, open_shard: Callable[[int], Iterator[bytes]], sizes: Sequence[int]) -> None:
        self._open, self._starts = open_shard, [0, *accumulate(sizes)]
        self._reader = ThreadPoolExecutor(max_workers=1)  # one place in the stream, so one reader
        self._groups: dict[tuple[int, ...], Future[dict[int, bytes]]] = {}
        self._shard, self._place = -1, 0
        self._rows: Iterator[bytes] = iter(())

    def expect(self, *groups: tuple[int, ...]) -> None:
        """Read groups of rows one after the other, each in its own order, and forget what was expected before."""
        known = self._groups
        self._groups = {group: known.get(group) or self._reader.submit(self._read, group) for group in groups}
        for group in known.keys() - self._groups.keys():
            known[group].cancel()

    def expects(self, index: int) -> bool:
        """Whether a row is among the expected ones."""
        return any(index in group for group in self._groups)

    def row(self, index: int) -> bytes:
        """One row; one that was not expected is looked for by itself, which may mean to read its shard again."""
        for group, rows in self._groups.items():
            if index in group:
                return rows.result()[index]
        return self._reader.submit(self._read, (index,)).result()[index]

    def _read(self, group: tuple[int, ...]) -> dict[int, bytes]:
        return {index: self._go_to(index) for index in group}

    def _go_to(self, index: int) -> bytes:
        shard = bisect_right(self._starts, index) - 1
        place = index - self._starts[shard]
        if shard != self._shard or place < self._place:
            self._shard, self._place, self._rows = shard, 0, self._open(shard)
        row = next(islice(self._rows, place - self._place, None), None)
        if row is None:
            self._shard = -1
            raise InputError(f"shard {shard} ends before its row {place}, which was there when the corpus was listed")
        self._place = place + 1
        return row
