"""Recipes: every named run as a plain function. Miniature and paper size differ in sizes and paths, nothing else.

A family's recipes stand in the file of its name, in `RECIPES`; the first of a size is the usual one.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from bench.named import load_function
from bench.records import read_json
from l2p.architectures import get_architecture
from reproduce.families import recipe_families
from reproduce.recipes.base import (
    Corpus,
    Recipe,
    Sampler,
    Suite,
    source_of,
    usual_run_dir,
    with_transfer_seed,
)

__all__ = [
    "FAMILIES",
    "Corpus",
    "Recipe",
    "Sampler",
    "Suite",
    "find_recipe",
    "source_of",
    "usual",
    "usual_run_dir",
    "with_transfer_seed",
]

FAMILIES: dict[str, dict[str, Callable[[], Recipe]]] = {
    family: importlib.import_module(f"reproduce.recipes.{family}").RECIPES for family in recipe_families()
}


def usual(family: str) -> dict[str, str]:
    """The usual recipe's name by size."""
    return {function().size: name for name, function in reversed(FAMILIES[family].items())}


def find_recipe(
    family: str, name: str | None = None, size: str | None = None, seed: int | None = None, run_dir: Path | None = None
) -> Recipe:
    """The recipe that was asked for by name (one of the family's, or `package.module:function`), by size, or neither.

    With neither, a run folder that exists goes on with its own recipe; else the miniature's usual one. `seed` is the
    transfer's. Raises ValueError that lists the known names.
    """
    if name is None and size is None and run_dir is not None and (run_dir / "run.json").is_file():
        name, seed = _began(run_dir, FAMILIES.get(family, {}), seed)
    if name is not None and ":" in name:
        get_architecture(family)
        recipe: Recipe = load_function(name)()
    else:
        known = _one_of("family with recipes", family, FAMILIES)
        name = name or _one_of("size", size or "miniature", usual(family))
        recipe = _one_of(f"recipe of {family}", name, known)()
    if recipe.family != family:
        raise ValueError(f"recipe {name!r} is of family {recipe.family!r}, not {family!r}")
    if size is not None and recipe.size != size:
        raise ValueError(f"recipe {name!r} is of size {recipe.size!r}, not {size!r}: give one of --recipe and --size")
    return recipe if seed is None else with_transfer_seed(recipe, seed)


def _one_of(what: str, name: str, known: Mapping[str, Any]) -> Any:
    if name not in known:
        raise ValueError(f"unknown {what} {name!r}; known: {', '.join(known)}")
    return known[name]


def _began(run_dir: Path, known: Mapping[str, Any], seed: int | None) -> tuple[str | None, int | None]:
    """The recipe's name here and the transfer seed, as a run folder tells them; None for a recipe not of ours."""
    began = read_json(run_dir / "run.json").get("recipe", {})
    name = began.get("name", "").replace("-", "_")
    if name not in known:
        return None, seed
    return name, (began["transfer"]["seed"] if seed is None else seed)
