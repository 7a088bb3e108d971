"""The families that have recipes, told from file names alone: `--help` and noxfile ask before torch is imported."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]  # the repository


def recipe_families() -> list[str]:
    """The names of all files that both `l2p/architectures/` and `reproduce/recipes/` have: a family's own two."""
    architectures, recipes = (ROOT / folder for folder in ("l2p/architectures", "reproduce/recipes"))
    return sorted(
        path.stem
        for path in recipes.glob("*.py")
        if path.stem not in ("__init__", "base") and (architectures / path.name).is_file()
    )
