"""Recipes: every named run as a plain function. Miniature and paper size differ in sizes and paths, nothing else.

A family's recipes stand in the file of its name, in `RECIPES`; the first of a size is the usual one.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from bench.named import load_function
from bench.records import read_json
from l2p.architectures import get_architecture
from l2p.errors import InputError
from reproduce.dry import DRY, dry_name
from reproduce.dry import dry as made_dry
from reproduce.families import recipe_families
from reproduce.limit import limited
from reproduce.recipes.base import (
    Corpus,
    Recipe,
    Sampler,
    Suite,
    corpus_folder,
    source_of,
    usual_run_dir,
    with_source,
    with_transfer_seed,
)

__all__ = [
    "FAMILIES",
    "Corpus",
    "Recipe",
    "Sampler",
    "Suite",
    "asked_for",
    "corpus_folder",
    "find_recipe",
    "source_of",
    "usual",
    "usual_run_dir",
    "with_source",
    "with_transfer_seed",
]

FAMILIES: dict[str, dict[str, Callable[[], Recipe]]] = {
    family: importlib.import_module(f"reproduce.recipes.{family}").RECIPES for family in recipe_families()
}


def usual(family: str) -> dict[str, str]:
    """The usual recipe's name by size."""
    return {function().size: name for name, function in reversed(FAMILIES[family].items())}


def find_recipe(
    family: str,
    name: str | None = None,
    size: str | None = None,
    seed: int | None = None,
    run_dir: Path | None = None,
    source: Path | None = None,
    limit: int | None = None,
    dry: bool = False,
) -> Recipe:
    """The recipe that was asked for by name, by size, or neither.

    A name is one of the family's, a study's arm (`depth/all-1`, `reproduce.studies`) or `package.module:function`.

    With neither, a run folder that exists goes on with its own recipe; else the miniature's usual one. `seed` is the
    transfer's, `source` the folder of another pipeline of the family, `limit` a quick look's (`reproduce.limit`), `dry`
    a run on random weights (`reproduce.dry`); a run folder knows those it was begun with. Raises ValueError that lists
    the known names.
    """
    began = _began(run_dir, FAMILIES.get(family, {})) if run_dir is not None else {}
    if name is None and size is None:
        name, seed = began.get("recipe"), began.get("seed") if seed is None else seed
    recipe = _named(family, name, size)
    if recipe.family != family:
        raise InputError(f"recipe {name!r} is of family {recipe.family!r}, not {family!r}")
    if size is not None and recipe.size != size:
        raise InputError(f"recipe {name!r} is of size {recipe.size!r}, not {size!r}: give one of --recipe and --size")
    recipe = recipe if seed is None else with_transfer_seed(recipe, seed)
    source, limit = source or began.get("source"), limit or began.get("limit")
    recipe = recipe if source is None else with_source(recipe, source)
    recipe = recipe if limit is None else limited(recipe, limit)
    if not (dry or began.get("dry")):
        return recipe
    if recipe.size != "paper" or source is not None or limit is not None:
        raise InputError(
            "--dry is for recipes of the paper's size, and has sizes and a source of its own: give --size paper, and "
            "leave out --source and --limit"
        )
    return made_dry(recipe, run_dir or usual_run_dir(replace(recipe, name=dry_name(recipe))))


def _named(family: str, name: str | None, size: str | None) -> Recipe:
    if name is not None and "/" in name and ":" not in name:
        from reproduce.studies import find_arm  # which is made of recipes itself

        return find_arm(name, _named(family, None, None))
    if name is None or ":" not in name:
        known = _one_of("family with recipes", family, FAMILIES)
        if name is None and size in (None, "miniature") and "miniature" not in usual(family):
            raise InputError(f"{family} has no miniature yet: give --size paper, or --recipe one of {', '.join(known)}")
        return _one_of(f"recipe of {family}", name or _one_of("size", size or "miniature", usual(family)), known)()
    get_architecture(family)
    recipe = load_function(name)()
    if not isinstance(recipe, Recipe):
        raise InputError(f"{name} returned {type(recipe).__name__}; a recipe's function returns a Recipe")
    return recipe


def asked_for(
    run_dir: Path, name: str | None, source: Path | None, limit: int | None, dry: bool = False
) -> dict[str, Any] | None:
    """What run.json keeps so that later calls find the recipe again; None where this call named nothing."""
    asked: dict[str, Any] = {}
    if name is not None and (":" in name or "/" in name):
        asked["recipe"] = name
    if source is not None:  # seen from the run: no absolute path stands in run.json
        asked["source"] = Path(os.path.relpath(source.resolve(), run_dir.resolve())).as_posix()
    if limit is not None:
        asked["limit"] = limit
    if dry:
        asked["dry"] = True
    return asked or None


def _one_of(what: str, name: str, known: Mapping[str, Any]) -> Any:
    if name not in known:
        raise InputError(f"unknown {what} {name!r}; known: {', '.join(known)}")
    return known[name]


def _began(run_dir: Path, known: Mapping[str, Any]) -> dict[str, Any]:
    """How a run folder was begun: `recipe`, `seed`, `source`, `limit`, `dry`; {} where it was not.

    The recipe is a name, a study's arm or package.module:function.
    """
    if not (run_dir / "run.json").is_file():
        return {}
    manifest = read_json(run_dir / "run.json")
    recipe = manifest.get("recipe") if isinstance(manifest, dict) else None
    asked = manifest.get("asked", {}) if isinstance(manifest, dict) else None
    if not isinstance(recipe, dict) or not isinstance(asked, dict):
        path = run_dir / "run.json"
        raise InputError(f"{path} is damaged (no recipe in it): bring its copy back, or give another --run")
    name = str(recipe.get("name", "")).removesuffix(DRY).replace("-", "_")
    found = {
        "recipe": asked.get("recipe", name if name in known else None),
        "limit": asked.get("limit"),
        "dry": asked.get("dry"),
    }
    if "source" in asked:
        found["source"] = (run_dir / asked["source"]).resolve()
    transfer = recipe.get("transfer")
    if found["recipe"] is not None and isinstance(transfer, dict):
        found["seed"] = transfer.get("seed")
    return found
