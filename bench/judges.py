"""A judge with what it tells of itself: a detector, a VQA, a colour classifier, or any plain function as one."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from bench.named import load_function
from l2p.errors import InputError


class JudgeError(InputError):
    """A judge that fails, or answers what no judge of its kind may."""


@dataclass(frozen=True, kw_only=True)
class Judge:
    """Called as `ask` is; `passport` says what it is (name, weights, settings), for the score's own passport.

    Of a detector: `labels` are the classes that it knows (None: not told), `colors` classifies the colours of what it
    finds (None: it gives them itself, or nobody does). Of a feature extractor: `side` is that of the squares it takes.
    """

    ask: Callable[..., Any]
    passport: Mapping[str, Any]
    labels: tuple[str, ...] | None = None
    colors: Callable[..., Any] | None = None
    side: int | None = None

    def __call__(self, *arguments: Any) -> Any:
        """The judge's answer; JudgeError says which judge failed, and how."""
        try:
            return self.ask(*arguments)
        except (InputError, OSError):
            raise  # these tell of themselves
        except (Exception, SystemExit) as error:
            name = self.passport.get("name") or self.passport.get("vqa") or self.ask
            raise JudgeError(
                f"the judge {name} failed ({type(error).__name__}: {error}); --debug shows where"
            ) from error


def as_judge(given: Callable[..., Any], passport: Mapping[str, Any]) -> Judge:
    """`given` with what it tells of itself; a plain function tells nothing and gets `passport`.

    An object of the user's own may have `passport`, `labels`, `colors` and `side`. JudgeError for a passport that is no
    JSON object, and labels that are no list of names.
    """
    if isinstance(given, Judge):
        return given
    labels, told = getattr(given, "labels", None), getattr(given, "passport", passport)
    try:
        json.dumps(dict(told), allow_nan=False)
    except (TypeError, ValueError) as error:
        raise JudgeError(f"a judge's passport must be a dict of plain JSON values; got {told!r} ({error})") from error
    if labels is not None and (isinstance(labels, str) or not all(isinstance(label, str) for label in labels)):
        raise JudgeError(f"a judge's labels must be a list of names; got {labels!r}")
    return Judge(
        ask=given,
        passport=told,
        labels=None if labels is None else tuple(labels),
        colors=getattr(given, "colors", None),
        side=getattr(given, "side", None),
    )


def load_judge(name: str) -> Callable[..., Any]:
    """What the loader `package.module:function`, called without arguments, returns.

    ValueError says which part of the name is not there, or that the loader returns nothing that can be called.
    """
    load = load_function(name)
    try:
        judge = load()
    except (InputError, OSError):
        raise
    except (Exception, SystemExit) as error:
        raise JudgeError(f"{name}() failed ({type(error).__name__}: {error}); --debug shows where") from error
    if not callable(judge):
        raise InputError(f"{name} must be a function without arguments that returns a judge; got {judge!r}")
    return judge
