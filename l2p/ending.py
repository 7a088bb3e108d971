"""How a command ends: one exit status for one meaning, a sentence for the user instead of a traceback.

0 done; 1 a finding, such as "worse" or a transfer that diverged; 2 bad input, or too little of it; 3 interrupted, the
same command goes on; 4 our own fault. `--debug`, anywhere on the command line, adds the traceback. The one handler of
all command lines, in the room that every other may import from.
"""

from __future__ import annotations

import errno
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import typer

from l2p.errors import InputError

DONE, FINDING, BAD_INPUT, INTERRUPTED, OWN_FAULT = range(5)
DEBUG = "--debug"
TOLD_INTERRUPTED = 130  # what typer returns for Ctrl-C


def run_command(app: Callable[..., Any], arguments: list[str] | None = None, *, name: str | None = None) -> int:
    """Run a typer app and return the exit status; what went wrong is told on stderr.

    arguments: else the command line's. name: how the help calls the command, such as `python -m l2p`.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    words = [word for word in arguments if word != DEBUG]
    try:
        with terminating_as_interrupted():
            status = app(args=words, prog_name=name, standalone_mode=False)
    except KeyboardInterrupt:
        status = TOLD_INTERRUPTED
    except (Exception, SystemExit) as error:
        status, sentence = _told(error)
        if DEBUG in arguments:
            typer.echo(traceback.format_exc(), err=True)
        typer.secho(f"error: {sentence}", fg="red", err=True)
        return status
    if status == TOLD_INTERRUPTED:
        typer.echo(
            "interrupted: what is finished is kept, nothing half-written counts; the same command goes on from there",
            err=True,
        )
        return INTERRUPTED
    return int(status or DONE)


@contextmanager
def terminating_as_interrupted() -> Iterator[None]:
    """SIGTERM, as batch systems send it, becomes KeyboardInterrupt, as Ctrl-C is."""
    if threading.current_thread() is not threading.main_thread():
        yield  # only there can signals be handled
        return

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _told(error: BaseException) -> tuple[int, str]:
    """Exit status and sentence for what ended a command."""
    kind, words = type(error).__name__, str(error).strip()
    if isinstance(error, typer.TyperException):  # a wrong option: typer's own words
        return BAD_INPUT, error.format_message()
    if isinstance(error, OSError):
        return BAD_INPUT, _of_the_system(error)
    if isinstance(error, InputError):
        return BAD_INPUT, words or kind
    if isinstance(error, FloatingPointError):
        return FINDING, f"the transfer diverged: {words}"
    if isinstance(error, SystemExit):  # ours do not call it
        return BAD_INPUT, f"something that was loaded ended the program (SystemExit {error.code})"
    first_line = words.partition("\n")[0]
    if isinstance(error, MemoryError) or kind == "OutOfMemoryError":  # the latter is torch's
        return BAD_INPUT, f"there is not enough memory for this ({first_line or kind})"
    return OWN_FAULT, f"this is a fault of the program, not yours ({kind}: {first_line}); {DEBUG} shows where"


def _of_the_system(error: OSError) -> str:
    """The error's own words; those of the operating system with the file first and what to do."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"the disk is full{f' ({error.filename})' if error.filename else ''}: make room, and run it again"
    if error.errno and error.filename:
        return f"{error.filename}: {error.strerror}"
    return str(error) or type(error).__name__
