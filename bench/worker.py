"""A model in a process of its own, spoken to in JSON lines: for models that need another environment.

The worker's first line is a greeting, {"passport": {...}}. Then each request, an object, is answered by an object, such
as {"answers": [...]}, or by {"error": "..."}.
"""

from __future__ import annotations

import base64
import io
import json
import os
import select
import subprocess
import tempfile
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from PIL.Image import Image

ANSWER_TIMEOUT_S = 600.0
START_TIMEOUT_S = 1800.0  # the first start may fetch the weights


class WorkerDiedError(RuntimeError):
    """The worker ended, fell silent or said something that is not JSON; the message quotes its last words."""


def encode_png(image: Image) -> str:
    """The image as base64 of a PNG."""
    buffer = io.BytesIO()
    image.convert("RGB").save(buffer, "png", compress_level=1)
    return base64.b64encode(buffer.getvalue()).decode("ascii")


class Worker:
    """A process started by `command`; `passport` is the greeting's.

    A worker that dies is started once more and the request repeated; dying on it again is a ConnectionError.
    """

    def __init__(self, command: Sequence[str], *, timeout_s: float = ANSWER_TIMEOUT_S) -> None:
        self.command = list(command)
        self.timeout_s = timeout_s
        self._start()

    def ask(self, request: dict[str, Any]) -> dict[str, Any]:
        """The worker's reply to one request, by a second worker where the first one dies on it."""
        try:
            return self._ask(request)
        except WorkerDiedError:
            self.close()
            self._start()
        try:
            return self._ask(request)
        except WorkerDiedError as second:
            self.close()
            raise ConnectionError(f"the worker died twice on the same request. {second}") from second

    def close(self) -> None:
        """End the worker; it is started again by nobody."""
        self._process.kill()
        self._process.wait()
        self._log.close()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            pipe.close()

    def _start(self) -> None:
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 (closed with the worker)
        self._buffer = b""
        self._process = subprocess.Popen(
            self.command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._log, bufsize=0
        )
        try:
            self.passport: dict[str, Any] = self._read_line(START_TIMEOUT_S)["passport"]
        except WorkerDiedError as error:
            self.close()
            raise ConnectionError(f"the worker did not start. {error}") from error

    def _ask(self, request: dict[str, Any]) -> dict[str, Any]:
        assert self._process.stdin is not None
        line = memoryview(json.dumps(request).encode() + b"\n")
        try:
            while line:
                line = line[self._process.stdin.write(line) :]
        except BrokenPipeError as error:
            raise WorkerDiedError(self._last_words("it ended")) from error
        return self._read_line(self.timeout_s)

    def _read_line(self, timeout_s: float) -> dict[str, Any]:
        assert self._process.stdout is not None
        pipe, end = self._process.stdout.fileno(), time.monotonic() + timeout_s
        while b"\n" not in self._buffer:
            ready, _, _ = select.select([pipe], [], [], max(0.0, end - time.monotonic()))
            chunk = os.read(pipe, 1 << 16) if ready else b""
            if not chunk:
                raise WorkerDiedError(self._last_words("it ended" if ready else f"no answer within {timeout_s:g} s"))
            self._buffer += chunk
        line, self._buffer = self._buffer.split(b"\n", 1)
        try:
            return json.loads(line)
        except json.JSONDecodeError as error:
            raise WorkerDiedError(self._last_words(f"it wrote {line[:200]!r}, which is not JSON")) from error

    def _last_words(self, what: str) -> str:
        self._log.seek(0, os.SEEK_END)
        self._log.seek(max(0, self._log.tell() - 2000))
        words = self._log.read().decode(errors="replace").strip()
        return f"{' '.join(self.command)}: {what}; its last words: {words or 'none'}"
