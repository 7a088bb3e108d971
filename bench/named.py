"""What is given by name: functions as `package.module:function`, prompts as such a function or as a JSON Lines file."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.records import read_jsonl
from l2p.errors import InputError

WEIGHTS_SUFFIXES = (".safetensors", ".pth", ".pt", ".bin", ".ckpt")


def load_function(name: str) -> Callable[..., Any]:
    """The function that `package.module:function` names. ValueError says which part is not there."""
    module_name, _, function_name = name.partition(":")
    if not all(part.isidentifier() for part in [*module_name.split("."), function_name]):
        raise InputError(f"{name!r} names no function; write package.module:function")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise InputError(f"{name!r}: there is no module {error.name!r} here") from error
    except (Exception, SystemExit) as error:  # whatever the user's module does when it is imported, an exit too
        what = f"{type(error).__name__}: {error}"
        raise InputError(f"{name!r}: {module_name} cannot be imported ({what}); --debug shows where") from error
    if not callable(getattr(module, function_name, None)):
        own = [function for function in vars(module).values() if inspect.isfunction(function)]
        known = [f.__name__ for f in own if f.__module__ == module_name and not f.__name__.startswith("_")]
        raise InputError(f"{name!r}: {module_name} has no function {function_name!r}; it has {', '.join(known)}")
    return getattr(module, function_name)


def refuse_missing_path(name: str, what: str) -> None:
    """FileNotFoundError for a name that can only be a path, and is none; another may be an id of the hub's."""
    is_path = name.startswith((".", "/", "~", "\\")) or name.count("/") > 1 or name.endswith(WEIGHTS_SUFFIXES)
    if is_path and not Path(name).exists():
        raise FileNotFoundError(f"there is no {name}: give {what}")


def load_rows(source: str, arguments: Mapping[str, Any], required: Sequence[str]) -> list[dict[str, Any]]:
    """Prompt rows from a function (called with `arguments`) or from a JSONL file; each has the `required` keys.

    Raises FileNotFoundError for a file that is not there, ValueError naming the first row that lacks a key.
    """
    if ":" in source:
        rows = load_function(source)(**arguments)
    elif Path(source).is_file():
        rows = read_jsonl(source)
    else:
        raise FileNotFoundError(f"no prompts at {source}: give a JSON Lines file there, or package.module:function")
    for number, row in enumerate(rows, 1):
        if not isinstance(row, Mapping):
            raise InputError(f"{source}, row {number}: an object with {', '.join(required)} is needed; it is {row!r}")
        missing = [name for name in required if name not in row]
        if missing:
            raise InputError(f"{source}, row {number}: no {', '.join(missing)} (it has {', '.join(row)})")
    return rows
