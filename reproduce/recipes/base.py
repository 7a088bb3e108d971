"""What a recipe is made of. Budgets are counts (images, steps), never seconds: a resumed run ends with the same bytes
as an unbroken one."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from l2p.transfer import TransferConfig
from reproduce.families import ROOT

REPORT_SEED = 2605  # of suites and images that reports score; no tuning has seen them


@dataclass(frozen=True, kw_only=True)
class Sampler:
    """How one model draws: source and pixel model each have their own best settings.

    `guidance_scale` is uncond + w (cond - uncond), 1 = off; `distilled_guidance` the constant that a guidance embedding
    is fed; `shift` None keeps the pipeline's own schedule, `scheduler` None its own kind (Euler), else a name in
    `l2p.sampling.SCHEDULERS`, which needs a shift; `max_sequence_length` in tokens.
    """

    num_inference_steps: int
    guidance_scale: float
    max_sequence_length: int
    batch_size: int
    shift: float | None = None
    scheduler: str | None = None
    distilled_guidance: float = 3.5


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """What the source draws for the transfer: `num_prompts` x `images_per_prompt` images.

    `prompts` is `package.module:function`, called with (num, seed), or a JSON Lines file; rows have `text` and
    `category`. `image_filter` is `package.module:function` (`reproduce.stages.corpus.ImageFilter`) or None. `maker` is
    who makes the images: None the recipe's source, as in the paper; the folder or hub id of another pipeline; or
    `package.module:function`, called with (num, seed, resolution), which returns a function from a prompt's number to
    its image (`reproduce.miniature.prompts:rendered`). `images_per_shard`: pack the images into WebDataset shards of so
    many (`corpus/shards/`), and train from those. `folder` is a corpus of real images instead, in any layout of
    `l2p.corpora`, a path or "$NAME", the environment variable that holds it: then nothing is drawn, and `num_prompts`
    is how many images are expected there.
    """

    prompts: str
    num_prompts: int
    images_per_prompt: int = 1
    seed: int = 0
    image_filter: str | None = None
    maker: str | None = None
    images_per_shard: int | None = None
    folder: str | None = None


@dataclass(frozen=True, kw_only=True)
class Suite:
    """A set of prompts that both models draw and benchmarks score; `name` is its folder under samples/ and scores/.

    `benchmarks` are keys of `bench.benchmarks.BENCHMARKS`. The first lays the images out, and its scores lie in the
    suite's folder; a further one scores the same images into a folder of its own there. `prompts` is what the first
    one's `load_prompts` takes: a file in the benchmark's format or `package.module:function`, with `arguments`.
    `title` is what reports call the suite. `scale` draws it at so many times the recipe's resolution (None: at it).
    `rewritten_by` says what rewrote the prompts, whose texts then need not name what is judged; None = they are the
    benchmark's own. `reference` is what metrics of whole sets (FID) compare with: a folder of pictures or a file of
    their statistics ($VARIABLES are the user's), or `package.module:function`, which is called with the side in px and
    `arguments`, and gives pictures.
    """

    name: str
    title: str
    prompts: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    images_per_prompt: int = 4
    benchmarks: tuple[str, ...] = ("geneval",)
    scale: int | None = None
    rewritten_by: str | None = None
    reference: str | None = None


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One run, whole: `source` and sizes are all that make it small or large.

    `source` is a hub id or the folder of a diffusers pipeline, a relative one seen from the repository (`source_of`).
    `judges` name each benchmark's judge, `package.module:function`, a loader without arguments; `judge_checks` are
    functions without arguments that measure those judges where the truth is known, and return a row {"judge", "what",
    "value", "n"} or several: the ceiling of any score. `cross_check` is a function of the run's folder that holds a
    second judge against the scores there (`reproduce.miniature.agreement.disagreement`). `num_processes` None =
    one a GPU. Another `transfer.seed` is the same recipe, repeated. `study` says what an ablation varies: its runs
    judge no claim but the one that it is made for. `world` names what the prompts are about where a family has sources
    of several; claims are judged in each by itself. `start` is the folder of a pixel model whose weights the transfer
    inherits by name and shape, seen from the run's folder; `source_resolution` is where the source draws its pictures,
    where the pixel model's `resolution` is not its own.
    """

    name: str
    family: str
    size: Literal["miniature", "paper"]
    source: str
    dtype: Literal["float32", "bfloat16"]
    resolution: int
    corpus: Corpus
    transfer: TransferConfig
    source_sampler: Sampler
    l2p_sampler: Sampler
    suites: tuple[Suite, ...]
    judges: Mapping[str, str]
    judge_checks: tuple[str, ...] = ()
    cross_check: str | None = None
    sample_seed: int = 0
    num_processes: int | None = None
    study: str | None = None
    world: str | None = None
    start: str | None = None
    source_resolution: int | None = None


def source_of(recipe: Recipe) -> str:
    """Where the source lies: the folder's absolute path, or the recipe's own words for a hub id."""
    return place_of(recipe.source)


def place_of(source: str) -> str:
    """Where a pipeline lies: the folder's absolute path, seen from the repository, or the same words for a hub id."""
    folder = ROOT / source  # an absolute path stays itself
    return str(folder) if folder.exists() else source


def drawn_at(recipe: Recipe, subject: str, scale: int | None = None) -> int:
    """The resolution in px at which a subject ("source" or "l2p") draws a suite of that scale."""
    own = recipe.source_resolution if subject == "source" and recipe.source_resolution else recipe.resolution
    return own * (scale or 1)


def corpus_folder(recipe: Recipe, run_dir: Path) -> Path:
    """Where the images lie that are trained on: the run's own, or those that a person brings (`Corpus.folder`)."""
    return run_dir / "corpus" if recipe.corpus.folder is None else Path(os.path.expandvars(recipe.corpus.folder))


def with_transfer_seed(recipe: Recipe, seed: int) -> Recipe:
    """The recipe with another transfer seed: the same corpus and suites, a run of its own."""
    return replace(recipe, transfer=replace(recipe.transfer, seed=seed))


def of_steps(transfer: TransferConfig, num_train_steps: int) -> TransferConfig:
    """A transfer at another length, its schedule and validations in proportion."""
    share = num_train_steps / transfer.num_train_steps
    return replace(
        transfer,
        num_train_steps=num_train_steps,
        num_decay_steps=round(share * transfer.num_decay_steps),
        validate_every=max(1, round(share * transfer.validate_every)),
    )


def with_source(recipe: Recipe, folder: Path) -> Recipe:
    """The recipe with a pipeline of one's own. FileNotFoundError where the folder is not there."""
    if not folder.is_dir():
        raise FileNotFoundError(f"there is no folder {folder}: give a diffusers pipeline's with --source")
    return replace(recipe, source=str(folder.resolve()))


def usual_run_dir(recipe: Recipe, source: Path | None = None, limit: int | None = None) -> Path:
    """Where a run goes when no folder is given: `runs/flux-mini`, `runs/flux-mini-seed1`, `runs/flux-mini-limit8`."""
    seed = recipe.transfer.seed
    marks = (f"seed{seed}" if seed else "", source.resolve().name if source else "", f"limit{limit}" if limit else "")
    return Path("runs") / "-".join((recipe.name, *filter(None, marks)))
