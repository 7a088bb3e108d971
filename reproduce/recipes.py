"""Recipes: every named run as a plain function. Miniature and paper size differ in sizes and paths, nothing else.

Budgets are counts (images, steps), never seconds: a resumed run ends with the same bytes as an unbroken one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from bench.named import load_function
from bench.records import read_json
from l2p.detailer import DetailerConfig
from l2p.transfer import TransferConfig

MINIATURE = Path(__file__).parent / "miniature"
REPORT_SEED = 2605  # of suites and images that reports score; no tuning has seen them


@dataclass(frozen=True, kw_only=True)
class Sampler:
    """How one model draws: source and pixel model each have their own best settings.

    `guidance_scale` is uncond + w (cond - uncond), 1 = off; `distilled_guidance` the constant that a guidance embedding
    is fed; `shift` None keeps the pipeline's own schedule; `max_sequence_length` in tokens.
    """

    num_inference_steps: int
    guidance_scale: float
    max_sequence_length: int
    batch_size: int
    shift: float | None = None
    distilled_guidance: float = 3.5


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """What the source draws for the transfer: `num_prompts` x `images_per_prompt` images.

    `prompts` is `package.module:function`, called with (num, seed), or a JSON Lines file; rows have `text` and
    `category`. `image_filter` is `package.module:function` (`reproduce.corpus.ImageFilter`) or None.
    """

    prompts: str
    num_prompts: int
    images_per_prompt: int = 1
    seed: int = 0
    image_filter: str | None = None


@dataclass(frozen=True, kw_only=True)
class Suite:
    """A set of prompts that both models draw and a benchmark scores; `name` is its folder under samples/ and scores/.

    `prompts` is `package.module:function` or a file in the benchmark's format. GenEval: the function returns metadata
    lines for `arguments`, the file is JSON Lines. DPG: the function writes the question CSV to (path, **arguments); an
    item has always four images.
    """

    name: str
    benchmark: Literal["geneval", "dpg"]
    prompts: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    images_per_prompt: int = 4


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One run, whole: `source` (a diffusers pipeline folder or a hub id) and sizes are all that make it small or large.

    `num_processes` None = one a GPU. `detector` and `vqa` are `package.module:function`, a loader without arguments;
    `judge_checks` are functions without arguments that measure those judges where the truth is known, and return
    {"judge", "what", "value", "n"}: the ceiling of any score.
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
    detector: str
    vqa: str | None = None
    judge_checks: tuple[str, ...] = ()
    sample_seed: int = 0
    num_processes: int | None = None


def miniature_transfer(num_train_steps: int) -> TransferConfig:
    """The options that a prototype found best for a source of hidden 128 of 6 blocks at 48 px, one trained at each end.

    What the paper fixes stays: frozen middle, both ends and a Detailer Head trained on source-made images only.
    """
    return TransferConfig(
        patch_size=8,
        prediction="clean",
        output_scale=0.33,
        detailer=DetailerConfig(channels=(16, 32, 64, 128), upsampling="unfold"),
        input_projection="ridge",
        ridge_strength=0.02,
        num_trainable_blocks=1,
        num_train_steps=num_train_steps,
        batch_size=16,
        learning_rate=3e-3,
        block_learning_rate=1e-3,
        adam_betas=(0.9, 0.98),
        num_warmup_steps=30,
        num_decay_steps=round(0.7 * num_train_steps),
        max_grad_norm=1.0,
        ema_decay=0.999,
        shift=3.0,
        loss_weight_below=0.3,
        max_sequence_length=24,
        num_validation_images=192,
        validate_every=max(1, num_train_steps // 5),
        save_every=200,
    )


def flux_mini() -> Recipe:
    """The paper in miniature, on a laptop: `nox -s reproduce-flux`.

    Hardware: two cores, no GPU: 7 (AVX-512) to 13 minutes (AVX2), 3.0 GiB. Settings: what a prototype found best.
    Three seeds: GenEval 0.971 (source) and 0.917 (pixel model), retention 0.945 (0.913, 0.976).
    """
    return Recipe(
        name="flux-mini",
        family="flux",
        size="miniature",
        source=str(MINIATURE / "weights" / "flux"),
        dtype="float32",
        resolution=48,
        corpus=Corpus(
            prompts="reproduce.miniature.prompts:corpus_prompts",
            num_prompts=2400,
            image_filter="reproduce.miniature.detector:reject_held_out",
        ),
        transfer=miniature_transfer(num_train_steps=2000),
        source_sampler=Sampler(
            num_inference_steps=10, guidance_scale=3.0, max_sequence_length=24, batch_size=32, shift=3.0
        ),
        l2p_sampler=Sampler(
            num_inference_steps=20, guidance_scale=3.0, max_sequence_length=24, batch_size=32, shift=3.0
        ),
        suites=(
            Suite(
                name="geneval",
                benchmark="geneval",
                prompts="reproduce.miniature.prompts:geneval_suite",
                arguments={"num_per_task": 15, "seed": REPORT_SEED},
            ),
            Suite(
                name="heldout",
                benchmark="geneval",
                prompts="reproduce.miniature.prompts:heldout_suite",
                images_per_prompt=16,
            ),
            Suite(
                name="dpg",
                benchmark="dpg",
                prompts="reproduce.miniature.questions:write_questions",
                arguments={"num_items": 100, "seed": REPORT_SEED},
            ),
        ),
        detector="reproduce.miniature.detector:load",
        vqa="reproduce.miniature.answers:answerer",
        judge_checks=("reproduce.miniature.check:judge_check", "reproduce.miniature.answers:judge_check"),
        sample_seed=REPORT_SEED,
        num_processes=2,
    )


def flux_mini_long() -> Recipe:
    """The same, longer, for the claims: `nox -s reproduce-flux -- --recipe flux_mini_long`, then with `--seed 1`, `2`.

    Hardware: two cores, no GPU: some 20 (AVX-512) to 45 minutes (AVX2) a seed. A larger corpus, three times the steps
    and more images to score, nothing else. Three seeds: GenEval 0.975 (source) and 0.943 (pixel model), retention
    0.967 (0.931, 1.003).
    """
    short = flux_mini()
    geneval, heldout, dpg = short.suites
    return replace(
        short,
        name="flux-mini-long",
        corpus=replace(short.corpus, num_prompts=6_000),
        transfer=miniature_transfer(num_train_steps=6_000),
        suites=(
            replace(geneval, arguments={"num_per_task": 60, "seed": REPORT_SEED}),
            replace(heldout, images_per_prompt=50),
            replace(dpg, arguments={"num_items": 200, "seed": REPORT_SEED}),
        ),
    )


def flux_mini_all() -> Recipe:
    """`flux_mini` with every block trained: claim C4's other side, GenEval alone.

    Hardware: two cores, no GPU. Nothing but what is trained differs.
    """
    short = flux_mini()
    return replace(
        short,
        name="flux-mini-all",
        transfer=replace(short.transfer, trainable="all"),
        suites=short.suites[:1],
    )


def flux_mini_plain() -> Recipe:
    """`flux_mini` with the plain setting of every option that the paper leaves open, GenEval alone.

    Hardware: two cores, no GPU. Random input projection, velocity from the head as released, nearest upsampling, one
    learning rate (the prototype's 1e-3; the paper's 5e-5 moves nothing in so few steps), an unweighted loss.
    """
    short = flux_mini()
    return replace(
        short,
        name="flux-mini-plain",
        transfer=replace(
            short.transfer,
            input_projection="random",
            prediction="velocity",
            output_scale=1.0,
            detailer=DetailerConfig(),
            learning_rate=1e-3,
            block_learning_rate=None,
            loss_weight_below=0.0,
        ),
        suites=short.suites[:1],
    )


def flux_paper() -> Recipe:
    """FLUX.1-dev at the paper's size: `nox -s reproduce-flux -- --size paper`.

    Hardware: GPUs of 80 GB, as many as there are; weights from the hub (its licence must be accepted there), corpus
    prompts from `prompts/corpus.jsonl` (rows with `text` and `category`), GenEval's detector from the file that
    $L2P_GENEVAL_WEIGHTS names (docs/geneval.md), its CLIP from the hub. Not measured by us yet.
    """
    return Recipe(
        name="flux-paper",
        family="flux",
        size="paper",
        source="black-forest-labs/FLUX.1-dev",
        dtype="bfloat16",
        resolution=1024,
        corpus=Corpus(prompts="prompts/corpus.jsonl", num_prompts=10_000, images_per_prompt=2),  # appendix B
        transfer=TransferConfig(mixed_precision="bf16", gradient_checkpointing=True),
        source_sampler=Sampler(num_inference_steps=50, guidance_scale=1.0, max_sequence_length=512, batch_size=8),
        l2p_sampler=Sampler(
            num_inference_steps=30, guidance_scale=2.0, max_sequence_length=512, batch_size=8, shift=3.0
        ),
        suites=(Suite(name="geneval", benchmark="geneval", prompts="bench.geneval.prompts:generate"),),
        detector="bench.geneval.detectors:published",
        sample_seed=REPORT_SEED,
    )


FAMILIES: dict[str, dict[str, Callable[[], Recipe]]] = {
    "flux": {
        "flux_mini": flux_mini,
        "flux_mini_long": flux_mini_long,
        "flux_mini_all": flux_mini_all,
        "flux_mini_plain": flux_mini_plain,
        "flux_paper": flux_paper,
    },
}
USUAL = {"flux": {"miniature": "flux_mini", "paper": "flux_paper"}}


def find_recipe(
    family: str, name: str | None = None, size: str | None = None, seed: int | None = None, run_dir: Path | None = None
) -> Recipe:
    """The recipe that was asked for by name (one of the family's, or `package.module:function`), by size, or neither.

    With neither, a run folder that exists goes on with its own recipe; else the miniature's usual one. `seed` is the
    transfer's, and part of the run's name. Raises ValueError that lists the known names.
    """
    known = _one_of("family", family, FAMILIES)
    if name is None and size is None and run_dir is not None and (run_dir / "run.json").is_file():
        name, seed = _began(run_dir, known, seed)
    if name is None:
        name = _one_of("size", size or "miniature", USUAL[family])
    recipe: Recipe = load_function(name)() if ":" in name else _one_of(f"recipe of {family}", name, known)()
    if size is not None and recipe.size != size:
        raise ValueError(f"recipe {name!r} is of size {recipe.size!r}, not {size!r}: give one of --recipe and --size")
    return with_transfer_seed(recipe, seed) if seed else recipe


def _one_of(what: str, name: str, known: Mapping[str, Any]) -> Any:
    if name not in known:
        raise ValueError(f"unknown {what} {name!r}; known: {', '.join(known)}")
    return known[name]


def _began(run_dir: Path, known: Mapping[str, Any], seed: int | None) -> tuple[str | None, int | None]:
    """The recipe's name here and the transfer seed, as a run folder tells them; None for a recipe not of ours."""
    began = read_json(run_dir / "run.json").get("recipe", {}).get("name", "")
    stem, _, number = began.partition("-seed")
    name = stem.replace("-", "_")
    return (name if name in known else None), (int(number) if number.isdigit() and seed is None else seed)


def with_transfer_seed(recipe: Recipe, seed: int) -> Recipe:
    """The recipe with another transfer seed: the same corpus and suites, a run of its own."""
    return replace(recipe, name=f"{recipe.name}-seed{seed}", transfer=replace(recipe.transfer, seed=seed))
