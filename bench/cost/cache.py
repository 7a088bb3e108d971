"""Finished predictions, one JSON file each, named by everything that they depend on: an interrupted run loses
nothing."""

from __future__ import annotations

import ast
import hashlib
import importlib.metadata
import importlib.resources
import json
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path

import torch

from bench.cost.cases import Case
from bench.cost.families import Family, family_named
from bench.cost.meter import OperatorWork
from bench.cost.predict import Prediction, predict
from bench.records import read_json, to_json, write_json

DEFAULT_FOLDER = Path("runs/cost-cache")
_METER_FILES = ("meter", "torch_private", "components", "families", "inputs", "predict", "training")
_OF_L2P = ("l2p", "train")  # kinds whose models l2p builds


def cached_prediction(
    case: Case,
    family: Family | None = None,
    *,
    folder: Path = DEFAULT_FOLDER,
    dtype: torch.dtype = torch.bfloat16,
    force: bool = False,
) -> Prediction:
    """The prediction of a case, read from `folder` when code, configuration and library versions are the same."""
    family = family or family_named(case.family)
    path = folder / f"{case.name}-{_key(case, family, str(dtype))}.json"
    if path.is_file():
        return _from_json(read_json(path))
    prediction = predict(case, family, dtype=dtype, force=force)
    write_json(path, prediction)
    return prediction


def _key(case: Case, family: Family, dtype: str) -> str:
    parts = [to_json(asdict(case)), to_json(asdict(family)), dtype, _versions(), _code(case.kind)]
    text = json.dumps(parts, sort_keys=True, default=lambda function: function.__qualname__)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@lru_cache
def _versions() -> list[str]:
    return [importlib.metadata.version(name) for name in ("torch", "diffusers", "transformers")]


@lru_cache
def _code(kind: str) -> str:
    """A digest of the code that a prediction runs through, besides the libraries'."""
    files = [Path(__file__).with_name(f"{name}.py") for name in _METER_FILES]
    if kind in _OF_L2P:
        files += source_files(Path(str(importlib.resources.files("l2p"))))
    return hashlib.sha256("".join(_without_words(path) for path in files).encode()).hexdigest()


def source_files(folder: Path) -> list[Path]:
    """The Python files below a folder, all of them, so that no list can fall behind a renamed file.

    Raises FileNotFoundError where there is none: a prediction kept under no code at all would be served for any.
    """
    files = sorted(folder.rglob("*.py"))
    if not files:
        raise FileNotFoundError(
            f"{folder} holds no Python file: a prediction cannot be kept by the code it ran through"
        )
    return files


def _without_words(path: Path) -> str:
    """The code of a file without comments, layout and docstrings, which change no prediction."""
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node) is not None:
            node.body = node.body[1:]
    return ast.dump(tree)


def _from_json(values: dict) -> Prediction:
    operators = [OperatorWork(**row) for row in values["operators"]]
    return Prediction(**{**values, "case": Case(**values["case"]), "operators": operators})
