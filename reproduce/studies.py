"""Studies: recipes that differ in one thing from the family's usual one, run one after another (figures 9 to 15).

An arm is a recipe called "<study>/<arm>" (`python -m reproduce flux --recipe depth/all-1`); what arms have in
common, of the same study or of others, is drawn and trained once (`reproduce.reuse`). Of the suites only GenEval is
kept.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from l2p.errors import InputError
from reproduce.families import ROOT, recipe_families
from reproduce.recipes.base import Recipe, Suite, of_steps

WEIGHTS = "reproduce/miniature/weights"
RENDERED = "reproduce.miniature.prompts:rendered"
RENDERED_SUITE = "reproduce.miniature.prompts:rendered_suite"
FEATURES = "reproduce.miniature.detector:features"
PERCEPTUAL = "reproduce.miniature.detector:perceptual"
SIZES = (500, 1_000, 2_000, 4_000, 20_000)  # images of the corpus
SHARES = (0.25, 0.5, 1.0)  # of the usual steps: a curve's points, each a run of its own
DEPTHS = {"head": 0, "1+1": 1, "2+2": 2, "all": None}
SCRATCH = {"transfer": (0.25, 0.5, 1.0), "scratch": (1.0, 3.0, 10.0)}  # shares of the usual steps
HIGH_SCALE = 4  # of the noise-shift study: its resolution in that of the usual pixel model
HIGH_CHANNELS: tuple[int, ...] = (8, 8)  # of the two levels that its Detailer Head has more
SHIFTS = (1, 2, 3, 4, 5)
MAX_NUM_SEEDS = 3


@dataclass(frozen=True, kw_only=True)
class Study:
    """A question of the paper: its title, the claims that it decides, its arms by name, and how long they take.

    `arms` is called with the family's usual miniature recipe. `time` is that of all arms with three seeds on two cores
    with AVX-512, by what runs of them took (docs/log/2026-11-30-studies.md) and their number of steps.
    """

    title: str
    claims: tuple[str, ...]
    arms: Callable[[Recipe], dict[str, Recipe]]
    time: str


def of_length(recipe: Recipe, share: float) -> Recipe:
    """The recipe with a share of its steps, its schedule shortened alike."""
    steps = max(1, round(share * recipe.transfer.num_train_steps))
    return replace(recipe, transfer=of_steps(recipe.transfer, steps))


def of_maker(recipe: Recipe, maker: str | None) -> Recipe:
    """The recipe with a corpus that another makes."""
    return replace(recipe, corpus=replace(recipe.corpus, maker=maker))


def of_depth(recipe: Recipe, num_blocks: int | None) -> Recipe:
    """The recipe with `num_blocks` trained at each end: 0 the Detailer Head alone, None all of the model."""
    if num_blocks:
        return replace(recipe, transfer=replace(recipe.transfer, num_trainable_blocks=num_blocks))
    return replace(recipe, transfer=replace(recipe.transfer, trainable="all" if num_blocks is None else "head"))


def from_scratch(recipe: Recipe) -> Recipe:
    """The recipe with none of the source's weights: the pixel model is trained whole, from random ones."""
    scratch = replace(recipe.transfer, initial_weights="random", trainable="all", input_projection="random")
    return replace(recipe, transfer=scratch)


def measured_by(recipe: Recipe, benchmark: str, judge: str, reference: str | None = None) -> Recipe:
    """The recipe whose first suite's pictures are measured by one more benchmark."""
    first, *others = recipe.suites
    first = replace(first, benchmarks=(*first.benchmarks, benchmark), reference=reference)
    return replace(recipe, suites=(first, *others), judges={**recipe.judges, benchmark: judge})


def with_diversity(recipe: Recipe) -> Recipe:
    """The recipe whose first suite's pictures are measured by their diversity too."""
    return measured_by(recipe, "diversity", PERCEPTUAL)


def other_source(recipe: Recipe) -> str | None:
    """The folder of the first other family's shipped miniature source; None where none is shipped."""
    folders = (f"{WEIGHTS}/{family}" for family in recipe_families() if family != recipe.family)
    return next((folder for folder in folders if (ROOT / folder / "model_index.json").is_file()), None)


def data_source(usual: Recipe) -> dict[str, Recipe]:
    """Corpora of the same prompts drawn by the source, by another family's source (where one ships), and rendered."""
    makers = {"own": None, "other": other_source(usual), "rendered": RENDERED}
    return {
        f"{name}-{share:g}": of_length(of_maker(usual, maker), share)
        for name, maker in makers.items()
        if name != "other" or maker is not None
        for share in SHARES
    }


def depth(usual: Recipe) -> dict[str, Recipe]:
    """The head alone, one and two blocks at each end, and everything."""
    return {
        f"{name}-{share:g}": of_length(of_depth(usual, num_blocks), share)
        for name, num_blocks in DEPTHS.items()
        for share in SHARES
    }


def data_size(usual: Recipe) -> dict[str, Recipe]:
    """Corpora of several sizes, at equal steps."""
    return {str(size): replace(usual, corpus=replace(usual.corpus, num_prompts=size)) for size in SIZES}


def scratch(usual: Recipe) -> dict[str, Recipe]:
    """The transfer, and training from scratch with as many steps, three and ten times as many.

    GenEval's pictures are also measured by their diversity, four seeds a prompt.
    """
    makers = {"transfer": lambda recipe: recipe, "scratch": from_scratch}
    measured = with_diversity(usual)
    return {
        f"{name}-{share:g}": of_length(makers[name](measured), share)
        for name, shares in SCRATCH.items()
        for share in shares
    }


def extrapolation(usual: Recipe) -> dict[str, Recipe]:
    """The usual transfer, whose GenEval is also drawn at twice its resolution, nothing trained for it."""
    geneval = usual.suites[0]
    twice = replace(geneval, name=f"{geneval.name}_x2", title=f"{geneval.title} at twice the resolution", scale=2)
    return {"twice": replace(usual, suites=(geneval, twice), cross_check=None)}


def noise_shift(usual: Recipe) -> dict[str, Recipe]:
    """The usual transfer, then a pixel model of four times its resolution on rendered scenes, at shifts 1 to 5.

    Its patches are four times as large, so its tokens are as many, as in the paper's 4K model; it starts from the usual
    one's weights, where names and shapes agree. Two levels more in the Detailer Head reach the pixels. Beside GenEval
    stands the FID against rendered scenes, by the miniature detector's features.
    """
    channels = (*HIGH_CHANNELS, *(usual.transfer.detailer.channels or ()))
    detailer = replace(usual.transfer.detailer, channels=channels)
    high = replace(
        measured_by(of_maker(usual, RENDERED), "fid", FEATURES, RENDERED_SUITE),
        resolution=HIGH_SCALE * usual.resolution,
        source_resolution=usual.resolution,
        start="../usual/transfer/model",
        transfer=replace(
            usual.transfer,
            patch_size=HIGH_SCALE * usual.transfer.patch_size,
            detailer=detailer,
            input_projection="random",
        ),
    )
    return {"usual": usual} | {
        str(shift): replace(
            high,
            transfer=replace(high.transfer, shift=float(shift)),
            l2p_sampler=replace(high.l2p_sampler, shift=float(shift)),
        )
        for shift in SHIFTS
    }


STUDIES = {
    "data-source": Study(
        title="who drew the training images (figure 9a)", claims=("C3",), arms=data_source, time="some 75 min"
    ),
    "depth": Study(
        title="how much of the transformer trains (figure 9b)", claims=("C4",), arms=depth, time="some 95 min"
    ),
    "data-size": Study(
        title="how many training images (figure 9c)", claims=("C5",), arms=data_size, time="some 75 min"
    ),
    "scratch": Study(
        title="the transfer against training from scratch", claims=("C8", "C12"), arms=scratch, time="some 3 h"
    ),
    "noise-shift": Study(
        title="noise shift at four times the resolution (figure 12)",
        claims=("C7",),
        arms=noise_shift,
        time="some 2.5 h",
    ),
    "extrapolation": Study(
        title="twice the resolution, untrained (figure 15)", claims=("C10",), arms=extrapolation, time="16 min"
    ),
}


def find_study(name: str) -> Study:
    """The study of that name; ValueError lists the known ones."""
    if name not in STUDIES:
        raise InputError(f"unknown study {name!r}; known: {', '.join(STUDIES)}")
    return STUDIES[name]


def arms(name: str, usual: Recipe) -> dict[str, Recipe]:
    """The recipes of a study by arm, each with its name, GenEval alone, and the word that it is an ablation."""
    found = find_study(name).arms(usual)
    return {
        arm: replace(recipe, name=f"{usual.name}-{name}-{arm}", suites=geneval_of(recipe), study=f"{name}: {arm}")
        for arm, recipe in found.items()
    }


def geneval_of(recipe: Recipe) -> tuple[Suite, ...]:
    """The suites of GenEval's prompts: the first, and what is drawn of it at another scale."""
    first = recipe.suites[0]
    return tuple(suite for suite in recipe.suites if suite.prompts == first.prompts)


def find_arm(name: str, usual: Recipe) -> Recipe:
    """The recipe "<study>/<arm>"; ValueError lists the known ones."""
    study, _, arm = name.partition("/")
    known = arms(study, usual)
    if arm not in known:
        raise InputError(f"unknown arm {arm!r} of study {study}; known: {', '.join(known)}")
    return known[arm]


def study_folder(name: str, usual: Recipe, limit: int | None = None) -> Path:
    """Where a study's runs lie: `runs/depth-flux-mini`, a folder an arm and seed."""
    return Path("runs") / "-".join((name, usual.name, *(["limit", str(limit)] if limit else [])))


def folders_beside(run_dir: Path) -> list[Path]:
    """Where runs lie that may share parts with this one: its own folder; of a study's run the other studies' too.

    And the folder in which those lie, where the family's usual runs are.
    """
    own = run_dir.absolute().parent
    if not _is_study_folder(own):
        return [own]
    return [own, own.parent, *sorted(path for path in own.parent.iterdir() if path != own and _is_study_folder(path))]


def _is_study_folder(path: Path) -> bool:
    return any(path.name.startswith(f"{name}-") for name in STUDIES)


def runs_of(
    name: str, usual: Recipe, *, num_seeds: int, limit: int | None = None, only: tuple[str, ...] = ()
) -> list[tuple[Path, list[str]]]:
    """Each run of a study in order: its folder, and the words for `python -m reproduce` that make it or go on with it.

    `only` are the arms that are wanted, () all. Raises ValueError for an arm that is none, or seeds below 1.
    """
    if num_seeds < 1:
        raise InputError(f"--seeds {num_seeds}: give 1 or more")
    known = arms(name, usual)
    if unknown := [arm for arm in only if arm not in known]:
        raise InputError(f"unknown arm {unknown[0]!r} of study {name}; known: {', '.join(known)}")
    folder = study_folder(name, usual, limit)
    found = []
    for seed in range(num_seeds):
        for arm in dict.fromkeys(only or known):
            path = folder / (f"{arm}-seed{seed}" if seed else arm)
            words = [usual.family, "--recipe", f"{name}/{arm}", "--run", str(path), "--seed", str(seed)]
            found.append((path, [*words, *(["--limit", str(limit)] if limit else [])]))
    return found
