"""A judge with what it tells of itself: a detector, a VQA, a colour classifier, or any plain function as one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from bench.named import load_function


@dataclass(frozen=True, kw_only=True)
class Judge:
    """Called as `ask` is; `passport` says what it is (name, weights, settings), for the score's own passport.

    Of a detector: `labels` are the classes that it knows (None: not told), `colors` classifies the colours of what it
    finds (None: it gives them itself, or nobody does).
    """

    ask: Callable[..., Any]
    passport: Mapping[str, Any]
    labels: tuple[str, ...] | None = None
    colors: Callable[..., Any] | None = None

    def __call__(self, *arguments: Any) -> Any:
        return self.ask(*arguments)


def as_judge(given: Callable[..., Any], passport: Mapping[str, Any]) -> Judge:
    """`given` with what it tells of itself; a plain function tells nothing and gets `passport`.

    An object of the user's own may have `passport`, `labels` and `colors`.
    """
    if isinstance(given, Judge):
        return given
    labels = getattr(given, "labels", None)
    return Judge(
        ask=given,
        passport=getattr(given, "passport", passport),
        labels=None if labels is None else tuple(labels),
        colors=getattr(given, "colors", None),
    )


def load_judge(name: str) -> Callable[..., Any]:
    """What the loader `package.module:function`, called without arguments, returns.

    ValueError says which part of the name is not there, or that the loader returns nothing that can be called.
    """
    judge = load_function(name)()
    if not callable(judge):
        raise ValueError(f"{name} must be a function without arguments that returns a judge; got {judge!r}")
    return judge
