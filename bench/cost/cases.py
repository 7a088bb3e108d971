"""Cases: what can be predicted or measured, each a small value with a name.

`flux-1024` (one denoiser forward of the source), `l2p-flux-4096` (of the pixel model), `vae-flux-4096`,
`vae-flux-4096-tiled512` (decode), `text-flux` (the text encoders), `train-l2p-zimage-1024-5` (one training step, 5 + 5
blocks; `-full`). Training takes, in this order, `-released` (refiners and embedders train too, as in the public
release), `-checkpointed`, `-mixed` (trained weights in float32 under autocast, as `l2p.transfer` runs it, instead of
pure bfloat16), `-fused` or `-8bit` (the optimiser).
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from bench.cost.families import FAMILIES, Family, family_named
from bench.records import CostRecord, Training
from l2p.errors import InputError

Kind = Literal["source", "l2p", "vae", "text", "train"]
Optimizer = Literal["foreach", "fused", "8bit"]

RESOLUTIONS = (512, 1024, 2048, 3072, 4096, 6144, 8192, 10240)
TILES = (512, 1024)
TRAINED_BLOCKS = (0, 1, 3, 5, 10)
PATCH_SIZES = (16, 64, 128, 160)  # the released ones (checkpoints.md)
MAX_RESOLUTION = 16_384  # px: beyond the paper's 10K; an absurd one would be predicted for hours
MAX_TILES_A_SIDE = 64  # of a VAE's decode, each of which is predicted by itself
TOKENS_A_SIDE = 64  # paper section 3.4: the patch grows with resolution so that the grid stays 64 x 64


@dataclass(frozen=True, kw_only=True)
class Case:
    """One thing to cost; `num_trainable_blocks` None = all, `tile` 0 = untiled, `patch_size` 0 = not a pixel model."""

    kind: Kind
    family: str
    resolution: int = 0
    batch_size: int = 1
    text_tokens: int = 0
    patch_size: int = 0
    tile: int = 0
    num_trainable_blocks: int | None = None
    released: bool = False
    checkpointed: bool = False
    mixed: bool = False
    optimizer: Optimizer = "foreach"

    @property
    def name(self) -> str:
        """The name that `parse` reads; batch and text length are not part of it."""
        if self.kind == "text":
            return f"text-{self.family}"
        if self.kind == "vae":
            return f"vae-{self.family}-{self.resolution}" + (f"-tiled{self.tile}" if self.tile else "")
        if self.kind == "train":
            return f"train-l2p-{self.family}-{self.resolution}-{self._training_suffix()}"
        return ("l2p-" if self.kind == "l2p" else "") + f"{self.family}-{self.resolution}"

    def _training_suffix(self) -> str:
        blocks = "full" if self.num_trainable_blocks is None else str(self.num_trainable_blocks)
        chosen = {"released": self.released, "checkpointed": self.checkpointed, "mixed": self.mixed}
        words = [word for word, is_chosen in chosen.items() if is_chosen]
        return "-".join([blocks, *words, *([self.optimizer] if self.optimizer != "foreach" else [])])

    @property
    def protocol(self) -> str:
        """What is counted, in words, for a record."""
        what = {
            "source": "one denoiser forward, no text encoder, no VAE",
            "l2p": f"one denoiser forward with Detailer Head, patch {self.patch_size}, no text encoder",
            "vae": f"VAE decode, {f'tiles of {self.tile} px' if self.tile else 'untiled'}",
            "text": "all text encoders resident, one forward each",
            "train": f"steady training step, pixel model, patch {self.patch_size}, {self._training_words()}",
        }[self.kind]
        return what + (f", {self.text_tokens} text tokens" if self.kind != "vae" else "")

    def record(self, *, dtype: str, kind: Literal["predicted", "measured"]) -> CostRecord:
        """The case as a record whose cost is not known yet."""
        training = Training(
            num_trainable_blocks=self.num_trainable_blocks,
            released=self.released,
            checkpointed=self.checkpointed,
            mixed=self.mixed,
            optimizer=self.optimizer,
        )
        return CostRecord(
            case=self.name,
            kind=kind,
            family=self.family,
            model="l2p" if self.kind == "train" else self.kind,
            training=training if self.kind == "train" else None,
            resolution=self.resolution,
            batch_size=self.batch_size,
            patch_size=self.patch_size,
            tile=self.tile,
            dtype=dtype,
            protocol=self.protocol,
        )

    def _training_words(self) -> str:
        blocks = (
            "all" if self.num_trainable_blocks is None else f"{self.num_trainable_blocks} + {self.num_trainable_blocks}"
        )
        state = (
            "8-bit AdamW (state computed from its published layout)"
            if self.optimizer == "8bit"
            else f"AdamW {self.optimizer}"
        )
        others = " and refiners" if self.released else ""
        precision = "trained weights float32, bfloat16 autocast" if self.mixed else "pure bfloat16"
        checkpointing = f"gradient checkpointing {'on' if self.checkpointed else 'off'}"
        return f"{blocks} blocks{others}, {state}, {checkpointing}, {precision}"


def released_patch_size(resolution: int) -> int:
    """The largest released patch whose grid still has 64 tokens a side (16 below 1024): 1K 16, 4K 64, 8K 128, 10K 160.

    Resolutions between the releases keep the smaller patch and so have more tokens; a head for patch 32 was not
    released.
    """
    fitting = [size for size in PATCH_SIZES if resolution % size == 0 and resolution // size >= TOKENS_A_SIDE]
    return max(fitting, default=PATCH_SIZES[0])


_PATTERN = re.compile(
    r"(?:(?P<l2p>l2p-)|(?P<vae>vae-)|(?P<train>train-l2p-))?(?P<family>[a-z0-9]+)-(?P<resolution>\d+)"
    r"(?:-tiled(?P<tile>\d+))?(?:-(?P<blocks>full|\d+)(?P<released>-released)?"
    r"(?P<checkpointed>-checkpointed)?(?P<mixed>-mixed)?(?:-(?P<optimizer>fused|8bit))?)?"
)


def parse(
    name: str, *, batch_size: int = 1, text_tokens: int | None = None, family: Family | None = None, patch_size: int = 0
) -> Case:
    """The case of that name; `family` replaces the published one of the same name, `patch_size` the released one.

    Raises ValueError for an unknown name (listing close ones) or a resolution that the family or the patch does not
    allow.
    """
    if batch_size < 1 or (text_tokens is not None and text_tokens < 1):
        raise InputError(f"batch size {batch_size} and text tokens {text_tokens} must be at least 1")
    if name.startswith("text-"):
        family = family or family_named(name.removeprefix("text-"))
        return Case(
            kind="text", family=family.name, batch_size=batch_size, text_tokens=text_tokens or family.text_tokens
        )
    match = _PATTERN.fullmatch(name)
    if match is None or match["family"] not in FAMILIES or not _consistent(match):
        close = difflib.get_close_matches(name, list(known_names()), n=5, cutoff=0.4)
        raise InputError(f"unknown case {name!r}: close ones are {', '.join(close) or 'none'}; `--list` shows all")
    family = family or FAMILIES[match["family"]]
    kind: Kind = "train" if match["train"] else "l2p" if match["l2p"] else "vae" if match["vae"] else "source"
    resolution = int(match["resolution"])
    optimizer: Optimizer = match["optimizer"] or "foreach"  # type: ignore[assignment]  # the pattern allows no other
    pixel_patch = (patch_size or released_patch_size(resolution)) if kind in ("l2p", "train") else 0
    case = Case(
        kind=kind,
        family=family.name,
        resolution=resolution,
        batch_size=batch_size,
        text_tokens=text_tokens or family.text_tokens,
        patch_size=pixel_patch,
        tile=int(match["tile"] or 0),
        num_trainable_blocks=None if match["blocks"] in (None, "full") else int(match["blocks"]),
        released=bool(match["released"]),
        checkpointed=bool(match["checkpointed"]),
        mixed=bool(match["mixed"]),
        optimizer=optimizer,
    )
    check_resolution(case, family)
    return case


def _consistent(match: re.Match) -> bool:
    """Tiles belong to a VAE, blocks to training, and training needs blocks."""
    return (not match["tile"] or bool(match["vae"])) and bool(match["train"]) == bool(match["blocks"])


def check_resolution(case: Case, family: Family) -> None:
    """Raise InputError for an absurd size, a grid of tokens that does not divide the image, too large a source."""
    if case.resolution > MAX_RESOLUTION:
        raise InputError(f"{case.name}: {case.resolution} px a side are too many; up to {MAX_RESOLUTION} are predicted")
    if case.tile and case.resolution > MAX_TILES_A_SIDE * case.tile:
        least = -(-case.resolution // MAX_TILES_A_SIDE)
        raise InputError(f"{case.name}: tiles of {case.tile} px are too many; give tiles of at least {least} px")
    step = case.patch_size or family.pixels_per_token
    if case.resolution % step or case.resolution == 0:
        near = max(1, round(case.resolution / step)) * step
        raise InputError(
            f"{case.name}: {case.resolution} px is no multiple of {step} px a token; the nearest is {near}"
        )
    if case.kind == "source" and case.resolution > family.max_resolution:
        raise InputError(
            f"{case.name}: {family.name} has positions up to {family.max_resolution} px only; ask for at most "
            f"that, or for l2p-{family.name}-{case.resolution}"
        )


def known_names() -> Iterator[str]:
    """The names that `--list` shows: any other resolution, tile or number of blocks that fits works as well."""
    for name, family in FAMILIES.items():
        for resolution in RESOLUTIONS:
            if resolution <= family.max_resolution:
                yield f"{name}-{resolution}"
            yield f"l2p-{name}-{resolution}"
        for resolution in (1024, 2048, 4096):
            yield f"vae-{name}-{resolution}"
            yield from (f"vae-{name}-{resolution}-tiled{tile}" for tile in TILES if tile < resolution)
        yield f"text-{name}"
        for blocks in (*TRAINED_BLOCKS, "full"):
            for way in ("", "-checkpointed", "-checkpointed-mixed", "-checkpointed-fused", "-checkpointed-8bit"):
                yield f"train-l2p-{name}-1024-{blocks}{way}"
