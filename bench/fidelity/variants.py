"""The published recipes by name: how a picture becomes what the extractor sees, and the rule of each statistic.

A resize filter moves FID by a point, a crop by more: a figure without its recipe compares with nothing.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from l2p.errors import InputError

Fit = Literal["as it is", "squash", "crop"]
Shrink = Literal["antialias", "tensorflow", "clean", "bicubic"]


@dataclass(frozen=True, kw_only=True)
class Patches:
    """FID-patch: `count` squares of `side` pixels a picture, at places drawn by `seed` in the order of the pictures."""

    count: int = 20
    side: int = 299
    seed: int = 42


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One recipe. `fit` brings the whole picture to size x size, `shrink` that to the extractor's side.

    fit: `squash` (bilinear, aspect not kept, 8 bits), `crop` (short side, centre). shrink: `antialias` (bilinear, as
    torchmetrics), `tensorflow` (bilinear of TensorFlow 1, as torch-fidelity), `clean` (Pillow's bicubic on floats, as
    clean-fid), `bicubic` (torch's, as CMMD). `paired`: each image has its reference picture, by name. `published`:
    which statistics its authors' script has; the others take its pictures and torch-fidelity's rules. `kid_fewer`:
    where there are fewer pictures than a subset, KID's subsets are of all of them.
    """

    name: str
    source: str
    paired: bool
    fit: Fit
    shrink: Shrink
    published: tuple[str, ...]
    patches: Patches | None = None
    splits: int = 10
    split_seed: int = 2020
    kid_subsets: int = 100
    kid_subset_size: int = 1000
    kid_fewer: bool = False
    kid_seed: int = 2020
    neighbours: int = 3


VARIANTS: dict[str, Variant] = {
    "pixverve": Variant(
        name="pixverve",
        source="PixVerve-95K, eval/metrics.py",
        paired=True,
        fit="squash",
        shrink="antialias",
        published=("fid", "fid-patch"),
        patches=Patches(),
    ),
    "diffusion4k": Variant(
        name="diffusion4k",
        source="Diffusion-4K, generate_and_eval_fid.py",
        paired=True,
        fit="crop",
        shrink="antialias",
        published=("fid",),
    ),
    "clean": Variant(
        name="clean",
        source="clean-fid 0.1.35, mode='clean'",
        paired=False,
        fit="as it is",
        shrink="clean",
        published=("fid", "kid"),
        kid_fewer=True,
    ),
    "torch-fidelity": Variant(
        name="torch-fidelity",
        source="torch-fidelity 0.4",
        paired=False,
        fit="as it is",
        shrink="tensorflow",
        published=("fid", "is", "kid", "precision", "recall"),
    ),
    "cmmd": Variant(
        name="cmmd",
        source="google-research, cmmd",
        paired=False,
        fit="as it is",
        shrink="bicubic",
        published=("cmmd",),
    ),
}
"""The published recipes."""


PATCH_OPTIONS = {"count": "--num-patches", "side": "--patch-side", "seed": "--patch-seed"}


def find_variant(name: str) -> Variant:
    """The variant of that name; InputError lists the known ones."""
    if name not in VARIANTS:
        raise InputError(f"unknown variant {name!r}; known: {', '.join(VARIANTS)}")
    return VARIANTS[name]


def with_patches(
    variant: Variant, metrics: tuple[str, ...], count: int | None, side: int | None, seed: int | None
) -> Variant:
    """The variant with other patches, named `changed`; InputError where nothing has patches, or for numbers below 1."""
    given = {key: value for key, value in (("count", count), ("side", side), ("seed", seed)) if value is not None}
    if not given:
        return variant
    if variant.patches is None:
        raise InputError(f"the variant {variant.name} has no patches; those with: {', '.join(_with_patches())}")
    if "fid-patch" not in metrics:
        options = ", ".join(PATCH_OPTIONS[key] for key in given)
        raise InputError(f"{options} would change nothing: the metrics are {','.join(metrics)}; add fid-patch to them")
    if min(given.get("count", 1), given.get("side", 1)) < 1:
        raise InputError(f"patches are 1 at least, of 1 pixel at least; got {given}")
    patches = replace(variant.patches, **given)
    if patches == variant.patches:
        return variant
    return replace(variant, patches=patches, name=f"{variant.name}, changed patches")


def _with_patches() -> list[str]:
    return [name for name, variant in VARIANTS.items() if variant.patches]


def views_of(variant: Variant, metrics: tuple[str, ...]) -> tuple[str, ...]:
    """What of each picture the extractor must see: `whole`, `patches`. InputError for patches that it has not."""
    if "fid-patch" in metrics and variant.patches is None:
        raise InputError(f"{variant.name} has no FID-patch; variants that have it: {', '.join(_with_patches())}")
    views = ("whole",) if set(metrics) - {"fid-patch"} else ()
    return (*views, "patches") if "fid-patch" in metrics else views


def recipe_of(variant: Variant, size: int | None) -> dict[str, Any]:
    """The recipe as a passport has it; `size` is the square that `fit` brings pictures to."""
    return {**asdict(variant), "published": list(variant.published), "size": size}


def preparation_of(variant: Variant, size: int | None, views: tuple[str, ...]) -> dict[str, Any]:
    """What saved features depend on: two variants of one preparation may share them."""
    recipe = recipe_of(variant, size)
    names = ("fit", "shrink", "size", *(("patches",) if "patches" in views else ()))
    return {name: recipe[name] for name in names}


def needs_size(variant: Variant, views: tuple[str, ...]) -> bool:
    """Whether pictures are brought to a square of a size that must be known."""
    return variant.fit != "as it is" or "patches" in views
