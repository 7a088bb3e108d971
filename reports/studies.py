"""What studies show: runs that differ in one thing, put side by side with all their transfer seeds.

A study's runs are found by their recipes, not by their names: whatever differs under a study's paths, and in nothing
else but the transfer's seed, belongs together. The criteria that judge these quantities stand in ``reports.paper``.
"""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from bench.statistics import Estimate, paired_difference
from reports import paper
from reports.estimates import NoEvidenceError, pool, pooled_retention, rows_retention, score_rows, with_seed_spread
from reports.evidence import Evidence, keeps_to_paper, of_estimate, trains_everything, tuned_otherwise
from reports.pairs import shared_key
from reports.regression.significance import averaged, seed_variance
from reports.runs import Run, groups

LENGTH = tuple(
    f"transfer.{name}" for name in ("num_train_steps", "num_decay_steps", "num_warmup_steps", "validate_every")
)


@dataclass(frozen=True, kw_only=True)
class Study:
    """One thing that runs may differ in: its ``paths`` in ``run.json``'s recipe, and how a run's setting is called.

    ``order`` sorts the settings for reading. ``curve``: a setting may have runs of several lengths, shown side by side;
    without it settings compare at equal steps alone.
    """

    title: str
    paths: tuple[str, ...]
    setting: Callable[[Run], str]
    order: Callable[[Run], float]
    curve: bool = False


def _corpus_maker(run: Run) -> str:
    maker = (run.recipe.get("corpus") or {}).get("maker")
    if maker is None:
        return "the source itself"
    return "rendered scenes" if ":" in maker else f"{str(maker).rstrip('/').rsplit('/', 1)[-1]}'s source"


def _trained_blocks(run: Run) -> float:
    transfer = run.recipe.get("transfer") or {}
    counts = {"all": float("inf"), "head": 0.0}
    return counts.get(str(transfer.get("trainable")), float(transfer.get("num_trainable_blocks", 0)))


def _depth(run: Run) -> str:
    count = _trained_blocks(run)
    names = {0.0: "head alone", float("inf"): "all blocks"}
    return names.get(count, f"{count:.0f} + {count:.0f} blocks")


def _num_prompts(run: Run) -> float:
    corpus = run.recipe.get("corpus") or {}
    return float(corpus.get("num_prompts", 0)) * float(corpus.get("images_per_prompt", 1))


def _shift(run: Run) -> float:
    return float((run.recipe.get("transfer") or {}).get("shift", 0.0))


def from_scratch(run: Run) -> bool:
    """Whether the transfer began from random weights instead of the source's."""
    return (run.recipe.get("transfer") or {}).get("initial_weights") == "random"


STUDIES = {
    "data-source": Study(
        title="Who drew the training images",
        paths=("corpus.maker", "inputs.corpus"),
        setting=_corpus_maker,
        order=lambda run: (
            ("the source itself", "rendered scenes").index(_corpus_maker(run)) * 2.0
            if _corpus_maker(run) in ("the source itself", "rendered scenes")
            else 1.0
        ),
        curve=True,
    ),
    "depth": Study(
        title="How much of the transformer trains",
        paths=("transfer.trainable", "transfer.num_trainable_blocks"),
        setting=_depth,
        order=_trained_blocks,
        curve=True,
    ),
    "data-size": Study(
        title="How many training images there are",
        paths=("corpus.num_prompts", "inputs.corpus"),
        setting=lambda run: f"{_num_prompts(run):,.0f} images",
        order=_num_prompts,
    ),
    "noise-shift": Study(
        title="Noise shift at high resolution",
        paths=("transfer.shift", "l2p_sampler.shift"),
        setting=lambda run: f"shift {_shift(run):g}",
        order=_shift,
    ),
    "scratch": Study(
        title="The transfer against training from scratch",
        paths=(
            *("transfer.initial_weights", "transfer.input_projection"),
            *("transfer.trainable", "transfer.num_trainable_blocks"),
        ),
        setting=lambda run: "from scratch" if from_scratch(run) else "transfer",
        order=from_scratch,
        curve=True,
    ),
}
"""By the name that ``python -m reproduce study`` knows them by."""


def quick_look(run: Run) -> bool:
    """Whether a run was cut down by ``--limit``: it shows nothing."""
    return bool((run.manifest.get("asked") or {}).get("limit"))


def arms(
    runs: Sequence[Run], study: Study, *, lengths: bool = False, suite: str = "geneval"
) -> list[dict[str, list[Run]]]:
    """Sets of runs that differ in the study's paths alone: setting -> the transfer seeds of it, in the study's order.

    Only sets with two settings or more. With ``lengths`` the number of steps may differ too: each setting holds the
    runs of all lengths. Runs without a transfer or a score on ``suite``, or cut down by --limit, are left out.
    """
    paths = (*study.paths, *LENGTH) if lengths else study.paths
    sets: dict[str, list[Run]] = {}
    for run in runs:
        if run.recipe and run.transfer and not quick_look(run) and ("l2p", suite) in run.scored:
            sets.setdefault(shared_key(run, paths, suite=suite.split("/")[0]), []).append(run)
    found = []
    for members in sets.values():
        settings: dict[str, list[Run]] = {}
        seen = set()
        for run in sorted(members, key=_in_order(study)):
            once = (study.setting(run), run.num_train_images, run.seed)
            if once not in seen:  # a run that two studies share counts once
                settings.setdefault(study.setting(run), []).append(run)
            seen.add(once)
        if len(settings) > 1:
            found.append(settings)
    return found


def _in_order(study: Study) -> Callable[[Run], tuple[float, int, bool, str]]:
    """By setting and length; of equal runs the usual recipe's before a study's, so that it is the one that counts."""
    return lambda run: (study.order(run), run.num_train_images, bool(run.recipe.get("study")), run.name)


def contrast(
    plus: Sequence[Sequence[Run]], minus: Sequence[Sequence[Run]], suite: str = "geneval", subject: str = "l2p"
) -> Estimate:
    """The sum of the recipes' scores in ``plus`` less that of ``minus``, paired by prompt: as many on either side.

    Each recipe is its transfer seeds. The interval is the paired bootstrap's over prompts, widened by the spread of
    seeds (``reports.regression.significance``). Raises NoEvidenceError where rows lack or prompts differ.
    """
    from scipy.stats import t as student

    rows = [[[score_rows(run, subject, suite) for run in seeds] for seeds in side] for side in (minus, plus)]
    try:
        first, other = (averaged([averaged(seeds) for seeds in side]) for side in rows)
        images = paired_difference(*first.parts(), *other.parts(), bounds=first.bounds).difference
    except ValueError as error:
        raise NoEvidenceError(f"{plus[0][0].name} and {minus[0][0].name} do not pair: {error}") from error
    every = [seeds for side in rows for seeds in side]
    of_one, freedom = seed_variance(every, 0)
    seeds_half = float(student.ppf(0.975, freedom)) * (of_one * sum(1 / len(seeds) for seeds in every)) ** 0.5
    times, half = len(plus), seeds_half * first.scale
    below, above = times * (images.value - images.low), times * (images.high - images.value)
    value = times * images.value
    low, high = value - (below**2 + half**2) ** 0.5, value + (above**2 + half**2) ** 0.5
    return replace(images, value=value, low=low, high=high)


def longest(sets: Sequence[tuple[list[Run], ...]]) -> tuple[list[Run], ...]:
    """Of several comparisons the one of most training, then of most seeds, then first by name: never by result."""
    if not sets:
        raise NoEvidenceError("")
    return min(sets, key=lambda parts: (-parts[0][0].num_train_images, -sum(map(len, parts)), parts[0][0].name))


def _said(*parts: Sequence[Run]) -> str:
    names = (f"{members[0].recipe_name} ({len(members)} seed{'s'[: len(members) - 1]})" for members in parts)
    return " and ".join(names)


def _difference(pair: tuple[list[Run], ...], suite: str = "geneval") -> Evidence:
    """The first recipe's score minus the second's."""
    plus, minus = pair
    estimate = contrast([plus], [minus], suite)
    return of_estimate(estimate, f"{_said(plus)} minus {_said(minus)}, {estimate.num_clusters} prompts.")


def _tuned_as_paper(run: Run) -> bool:
    return tuned_otherwise(run) is None


def data_source_gain(runs: Sequence[Run]) -> Evidence:
    """C3: source-made minus rendered."""
    names = ("the source itself", "rendered scenes")
    sets = arms([run for run in runs if _tuned_as_paper(run)], STUDIES["data-source"])
    return _difference(longest([(of[names[0]], of[names[1]]) for of in sets if set(names) <= of.keys()]))


def shallow_minus_full(runs: Sequence[Run]) -> Evidence:
    """C4: the shallow blocks tuned minus all of them, over the transfer seeds that both have."""
    found = []
    for of in arms(runs, STUDIES["depth"]):
        whole = [run for run in itertools.chain(*of.values()) if trains_everything(run)]
        for members in of.values():  # of one setting, which differ by seed alone
            shallow = [run for run in members if _tuned_as_paper(run)]
            seeds = {run.seed for run in shallow} & {run.seed for run in whole}
            pair = tuple([run for run in side if run.seed in seeds] for side in (shallow, whole))
            found += [pair] if seeds else []
    return _difference(longest(found))


def corpus_size_saturation(runs: Sequence[Run]) -> Evidence:
    """C5: what the first enlargement of the corpus gains, less what the second does."""
    names = [[f"{size:,} images" for size in step] for step in paper.SIZE_STEPS]
    wanted = {name for step in names for name in step}
    sets = arms([run for run in runs if _tuned_as_paper(run)], STUDIES["data-size"])
    found = longest([tuple(of[name] for step in names for name in step) for of in sets if wanted <= of.keys()])
    small, more, large, most = found
    estimate = contrast([more, large], [small, most])
    gains = [contrast([after], [before]).value for before, after in ((small, more), (large, most))]
    said = (f"{gain:+.3f} from {step[0]} to {step[1]}" for gain, step in zip(gains, names, strict=True))
    why = f"Gained {', '.join(said)}"
    return of_estimate(estimate, f"{why}; {_said(*found)}, {estimate.num_clusters} prompts.")


def shift_gain(runs: Sequence[Run]) -> Evidence:
    """C7: the largest shift of the criterion minus the smallest, of pixel models trained on from another's weights."""
    names = [f"shift {shift:g}" for shift in paper.SHIFTS]
    sets = arms([run for run in runs if run.recipe.get("start") and _tuned_as_paper(run)], STUDIES["noise-shift"])
    return _difference(longest([(of[names[1]], of[names[0]]) for of in sets if set(names) <= of.keys()]))


def diversity_gain(runs: Sequence[Run]) -> Evidence:
    """C8: the distance between seeds' pictures, the transfer's minus that of training from scratch."""
    suites = dict.fromkeys(
        suite for run in runs for (_, suite), scored in run.scored.items() if scored.benchmark.name == "diversity"
    )
    found = [
        (of["transfer"], of["from scratch"], suite)
        for suite in suites
        for of in arms(runs, STUDIES["scratch"], suite=suite)
        if {"transfer", "from scratch"} <= of.keys() and all(map(_tuned_as_paper, of["transfer"]))
    ]
    pair = longest([(transfer, scratch) for transfer, scratch, _ in found])
    return _difference(pair, next(suite for transfer, _, suite in found if transfer is pair[0]))


def extrapolation_retention(runs: Sequence[Run]) -> Evidence:
    """C10: the pixel model's score at twice its resolution divided by that at its own."""
    found = []
    shown = [run for run in runs if run.transfer and not quick_look(run) and _tuned_as_paper(run)]
    for members in groups(shown).values():
        for large, usual in twice(members[0]):
            having = [run for run in members if {("l2p", large), ("l2p", usual)} <= run.scored.keys()]
            found += [(having, large, usual)] if having else []
    (members,) = longest([(having,) for having, _, _ in found])
    large, usual = next((large, usual) for having, large, usual in found if having is members)
    sides = [[score_rows(run, "l2p", suite) for run in members] for suite in (usual, large)]
    by_seed = [rows_retention(one, other, run).value for one, other, run in zip(*sides, members, strict=True)]
    estimate = rows_retention(pool(sides[0]), pool(sides[1]), members[0])
    estimate = with_seed_spread(estimate, by_seed) if len(members) > 1 else estimate
    return of_estimate(estimate, f"{_said(members)}: {large} divided by {usual}, {estimate.num_clusters} prompts.")


def twice(run: Run) -> list[tuple[str, str]]:
    """Suites drawn at twice the recipe's resolution, each with the suite of the same prompts at the usual one."""
    suites = {suite["name"]: suite for suite in run.recipe.get("suites", ())}
    same = ("prompts", "arguments", "images_per_prompt")
    return [
        (name, other)
        for name, suite in suites.items()
        for other, usual in suites.items()
        if suite.get("scale") == 2 and usual.get("scale") is None and all(suite.get(k) == usual.get(k) for k in same)
    ]


def transfer_minus_scratch(runs: Sequence[Run]) -> Evidence:
    """C12: the transfer minus the training from scratch that had ``SCRATCH_TIMES`` its images."""
    found = []
    for settings in arms(runs, STUDIES["scratch"], lengths=True):
        for transfer in groups([run for run in settings.get("transfer", ()) if _tuned_as_paper(run)]).values():
            images = paper.SCRATCH_TIMES * transfer[0].num_train_images
            scratch = [run for run in settings.get("from scratch", ()) if run.num_train_images == images]
            found += [(transfer, scratch)] if scratch else []
    return _difference(longest(found))


def families_kept(runs: Sequence[Run]) -> Evidence:
    """C13: how many of the known families keep what the criterion asks; no evidence while that is open.

    Each is judged by its shortest transfer that keeps to the paper, of those with seeds enough.
    """
    verdicts = {family: _family_keeps([run for run in runs if run.family == family]) for family in paper.FAMILIES}
    said = "; ".join(f"{family}: {why}" for family, (_, why) in verdicts.items())
    kept = [keeps for keeps, _ in verdicts.values()]
    if False not in kept and None in kept:
        raise NoEvidenceError(f"so far {said}")
    return Evidence(value=kept.count(True), ci95=None, n=len(kept) - kept.count(None), why=f"{said}.")


def _family_keeps(runs: Sequence[Run]) -> tuple[bool | None, str]:
    """Whether a family keeps what C13 asks, None where that is open, and why."""
    eligible = groups([run for run in runs if keeps_to_paper(run) is None])
    having = [members for members in eligible.values() if len(members) >= paper.KEPT_SEEDS]
    if not having:
        most = max(map(len, eligible.values()), default=0)
        return None, f"{most} of {paper.KEPT_SEEDS} transfer seeds"
    members = min(having, key=lambda members: (members[0].num_train_images, members[0].name))
    try:
        kept = pooled_retention(members, "geneval")
    except NoEvidenceError as absent:
        return None, str(absent)
    said = f"{kept.value:.3f} ({kept.low:.3f}, {kept.high:.3f}) of {len(members)} seeds"
    if kept.num_clusters < 30:
        return None, f"{said}, from {kept.num_clusters} prompts"
    return kept.value >= paper.KEPT_MEAN and kept.low > paper.KEPT_LOW, said
