"""How a command ends: one exit status for one meaning, a sentence for the user instead of a traceback.

0 done; 1 a finding, such as "worse"; 2 bad input, or too little of it; 3 interrupted, the same command goes on; 4 our
own fault. `--debug`, anywhere on the command line, adds the traceback.
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

DONE, FINDING, BAD_INPUT, INTERRUPTED, OWN_FAULT = 0, 1, 2, 3, 4
DEBUG = "--debug"
TOLD_INTERRUPTED = 130  # what typer returns for Ctrl-C


def run_command(app: Callable[..., Any], arguments: list[str] | None = None) -> int:
    """Run a typer app and return the exit status; what went wrong is told on stderr."""
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        with terminating_as_interrupted():
            status = app(args=[one for one in arguments if one != DEBUG], standalone_mode=False)
    except KeyboardInterrupt:
        status = TOLD_INTERRUPTED
    except typer.TyperException as error:  # a wrong option: typer's own words
        return _told(error.format_message(), BAD_INPUT, arguments)
    except (ValueError, OSError) as error:
        return _told(_sentence(error), BAD_INPUT, arguments)
    except SystemExit as error:  # of something that was loaded: ours do not call it
        return _told(f"something that was loaded ended the program (SystemExit {error.code})", BAD_INPUT, arguments)
    except Exception as error:
        what = f"this is a fault of the program, not yours ({type(error).__name__}: {error}); {DEBUG} shows where"
        return _told(what, OWN_FAULT, arguments)
    if status == TOLD_INTERRUPTED:
        typer.echo("interrupted: what is finished is saved; the same command goes on from there.", err=True)
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


def _told(what: str, status: int, arguments: list[str]) -> int:
    if DEBUG in arguments:
        typer.echo(traceback.format_exc(), err=True)
    typer.echo(f"error: {what}", err=True)
    return status


def _sentence(error: Exception) -> str:
    """The error's own words; those of the operating system with the file first and what to do."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"the disk is full{f' ({error.filename})' if error.filename else ''}: make room, and run it again"
    if isinstance(error, OSError) and error.errno and error.filename:
        return f"{error.filename}: {error.strerror}"
    return str(error) or type(error).__name__
