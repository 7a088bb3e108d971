"""What the files of runs show about a quantity, and which runs may show it; ``reports.claims`` judges it."""

from collections.abc import Sequence
from dataclasses import dataclass

from bench.statistics import Estimate
from reports.estimates import NoEvidenceError, pooled_retention
from reports.runs import SUBJECTS, Run, Scored, groups

TUNED_AS_PAPER = ("ends", "released")  # TransferConfig.trainable: both ends and the head, as stated or as released
SEEDS = 3  # from which an interval knows what transfers of one recipe differ by
EVERYTHING = 0.9  # share of parameters from which a transfer counts as full tuning: all blocks, embedders or not


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """What the files say about a quantity: a value, its 95 % interval (None: exact), count, and where it comes from.

    ``num_clusters`` counts what the interval was resampled over: prompts, items or images.
    """

    value: float
    ci95: tuple[float, float] | None
    n: int
    why: str
    num_clusters: int = 0


def keeps_to_paper(run: Run) -> str | None:
    """None where a transfer may judge claims, else the reason why not: see C1's criterion."""
    if run.transfer is None:
        return f"{run.name} has no transfer/summary.json"
    if run.recipe.get("study"):
        return f"{run.name} is an ablation ({run.recipe['study']})"
    return tuned_otherwise(run)


def tuned_otherwise(run: Run) -> str | None:
    """None where a transfer tuned what the paper's does, an ablation or not, else the reason why not."""
    summary = run.transfer or {}
    tuned = summary.get("options", {}).get("trainable", "ends")
    if trains_everything(run) or tuned not in TUNED_AS_PAPER:
        return f"{run.name} does not tune the two ends as the paper does"
    before, after = summary.get("frozen_sha256_before"), summary.get("frozen_sha256_after")
    return None if before and before == after else f"{run.name}'s frozen blocks are not shown unchanged by hash"


def trains_everything(run: Run) -> bool:
    """Whether the transfer tuned all blocks (at least ``EVERYTHING`` of the pixel model's parameters)."""
    summary = run.transfer or {}
    return bool(summary) and summary["num_trainable_parameters"] >= EVERYTHING * summary["num_parameters"]


def judging_group(runs: Sequence[Run]) -> list[Run]:
    """The runs of one family and size that judge retention: all seeds of the longest transfer that keeps to the paper.

    Longest = most images trained on, then most seeds, then first by name: never by result.
    Raises NoEvidenceError where no run fits.
    """
    refused = [reason for run in runs if (reason := keeps_to_paper(run))]
    eligible = groups([run for run in runs if keeps_to_paper(run) is None])
    if not eligible:
        raise NoEvidenceError("; ".join(refused))
    return min(eligible.values(), key=lambda members: (-members[0].num_train_images, -len(members), members[0].name))


def retention_evidence(runs: Sequence[Run], suite: str) -> Evidence:
    """Retention on one suite over the judging group's seeds."""
    members = judging_group(runs)
    scored = _scored_on(members, suite)
    if not scored:
        raise NoEvidenceError(f"{members[0].recipe_name} has no {suite} scores of both models")
    estimate = pooled_retention(scored, suite)
    seeds = f"{len(scored)} transfer seeds" if len(scored) > 1 else "one transfer seed"
    why = f"{scored[0].recipe_name}, {seeds}, {units(estimate, scored[0].scored['l2p', suite])}."
    return of_estimate(estimate, why + ("" if len(scored) >= SEEDS else _with_seeds(runs, suite)))


def _scored_on(runs: Sequence[Run], suite: str) -> list[Run]:
    return [run for run in runs if all((subject, suite) in run.scored for subject in SUBJECTS)]


def _with_seeds(runs: Sequence[Run], suite: str) -> str:
    """What the longest transfer of ``SEEDS`` seeds keeps, as a sentence beside a verdict of fewer; "" without one."""
    several = [run for run in runs if keeps_to_paper(run) is None]
    several = [run for of in groups(several).values() if len(_scored_on(of, suite)) >= SEEDS for run in of]
    if not several:
        return ""
    seeds = _scored_on(judging_group(several), suite)
    kept = pooled_retention(seeds, suite)
    return (
        f" With {len(seeds)} transfer seeds the longest is {seeds[0].recipe_name}: {kept.value:.3f} "
        f"({kept.low:.3f}, {kept.high:.3f})."
    )


def units(estimate: Estimate, scored: Scored) -> str:
    """How many independent units the interval rests on, in words."""
    name = scored.benchmark.resampled_name(scored.summary.passport)
    return f"{estimate.num_clusters} {'image pairs' if name == 'images' else name}"


def of_estimate(estimate: Estimate, why: str) -> Evidence:
    """An estimate as evidence."""
    return Evidence(
        value=estimate.value,
        ci95=(estimate.low, estimate.high),
        n=estimate.num_values,
        why=why,
        num_clusters=estimate.num_clusters,
    )
