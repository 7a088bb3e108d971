"""A command run in this process, as a person would: what it returns and prints."""

import contextlib
import io
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Ended:
    """Exit status of a command, and what it printed."""

    status: int
    out: str
    err: str

    @property
    def output(self) -> str:
        """All that it printed."""
        return self.out + self.err


def ended(main: Callable[[list[str]], int], *arguments: object) -> Ended:
    """Run `main` with these words; what it prints lies in the answer, and nothing may end in another way."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = main([str(word) for word in arguments])
    return Ended(status=status, out=out.getvalue(), err=err.getvalue())
