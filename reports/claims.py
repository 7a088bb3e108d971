"""Verdicts of the claims C1..C14, computed from the files of runs; ``claims.json`` for others to read.

``reports.paper`` says what counts as reproduced; here stands only how each quantity is found.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bench.records import CostRecord, write_json
from bench.statistics import Estimate
from reports.cost import figure4
from reports.estimates import NoEvidenceError, pooled_retention, run_difference
from reports.pairs import differ_only_in
from reports.paper import CLAIMS, Claim, Rule
from reports.runs import SUBJECTS, Run, Scored, groups, other_corpus

REPRODUCED, NOT_REPRODUCED, NOT_TESTED = "reproduced", "not reproduced", "not tested"
TUNED_AS_PAPER = ("ends", "released")  # TransferConfig.trainable: both ends and the head, as stated or as released
EVERYTHING = 0.9  # share of parameters from which a transfer counts as full tuning: all blocks, embedders or not
TUNING = ("transfer.trainable", "transfer.num_trainable_blocks")  # all that C4's pair may differ in
ACROSS_FAMILIES = ("families_meeting_c1",)  # quantities that count families; every other is judged for each of them
SIZES = ("miniature", "paper")


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


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """A claim with its verdict; ``why`` says, for a reader, what the verdict rests on or what is missing.

    ``family`` is the source family that was judged, "" where the claim is of none alone or no run bears on it.
    """

    claim: Claim
    scope: str
    family: str
    verdict: str
    evidence: Evidence | None
    why: str


def judge_claims(runs: Sequence[Run], costs: Sequence[CostRecord]) -> list[Judgement]:
    """Judge every claim for every size and family that has runs; scope "paper" uses ``costs`` (predicted, any run's).

    Miniature and paper-size runs are judged apart, and so are families: a claim tested at both stands twice. What no
    file can show stands once a size.
    """
    judgements = []
    for claim in CLAIMS:
        for scope, family in _cases(claim, runs):
            members = [run for run in runs if run.size == scope and family in ("", run.family)]
            judgements.append(judge(claim, scope, family, members, costs))
    return judgements


def _cases(claim: Claim, runs: Sequence[Run]) -> list[tuple[str, str]]:
    """Where a claim is judged: (size, family), the family "" for a claim that no family's runs decide."""
    if claim.scope == "paper":
        return [("paper", "")]
    sizes = [size for size in SIZES if any(run.size == size for run in runs)] or ["miniature"]
    if claim.rule.quantity not in MEASURES or claim.rule.quantity in ACROSS_FAMILIES:
        return [(size, "") for size in sizes]
    families = {size: dict.fromkeys(run.family for run in runs if run.size == size) for size in sizes}
    return [(size, family) for size in sizes for family in families[size] or ("",)]


def judge(claim: Claim, scope: str, family: str, runs: Sequence[Run], costs: Sequence[CostRecord]) -> Judgement:
    """Judge one claim by its rule on these runs; without evidence the verdict is "not tested" and says why."""
    measure = MEASURES.get(claim.rule.quantity)
    evidence, verdict, why = None, NOT_TESTED, claim.untested
    try:
        evidence = measure(runs, costs) if measure else None
    except NoEvidenceError as absent:
        why = f"{claim.untested} ({absent})" if str(absent) else claim.untested
    if evidence:
        verdict, remark = apply_rule(claim.rule, evidence)
        why = f"{evidence.why}{remark}"
    return Judgement(claim=claim, scope=scope, family=family, verdict=verdict, evidence=evidence, why=why)


def verdict_counts(judgements: Sequence[Judgement]) -> dict[str, int]:
    """How many claims have each verdict; all three verdicts are there, also those with none."""
    verdicts = [judgement.verdict for judgement in judgements]
    return {verdict: verdicts.count(verdict) for verdict in (REPRODUCED, NOT_REPRODUCED, NOT_TESTED)}


def apply_rule(rule: Rule, evidence: Evidence) -> tuple[str, str]:
    """The verdict of a rule, and a remark for the reader where the interval is too wide to decide."""
    low, high = evidence.ci95 or (evidence.value, evidence.value)
    if evidence.ci95 and evidence.num_clusters < rule.min_clusters:
        return NOT_TESTED, f" At least {rule.min_clusters} are needed for an interval that means something."
    passes = {
        "reaches": high >= rule.bound,
        "above": low > rule.bound,
        "at least": evidence.value >= rule.bound,
        "at most": evidence.value <= rule.bound,
    }[rule.relation]
    if passes and rule.max_width is not None and high - low > rule.max_width:
        return (
            NOT_TESTED,
            f" The interval is {high - low:.2f} wide, above {rule.max_width:.2f}: too few images to tell.",
        )
    return (REPRODUCED if passes else NOT_REPRODUCED), ""


def keeps_to_paper(run: Run) -> str | None:
    """None where a transfer may judge claims, else the reason why not: see C1's criterion."""
    summary = run.transfer
    if summary is None:
        return f"{run.name} has no transfer/summary.json"
    if run.recipe.get("study"):
        return f"{run.name} is an ablation ({run.recipe['study']})"
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
    scored = [run for run in members if all((subject, suite) in run.scored for subject in SUBJECTS)]
    if not scored:
        raise NoEvidenceError(f"{members[0].recipe_name} has no {suite} scores of both models")
    estimate = pooled_retention(scored, suite)
    seeds = f"{len(scored)} transfer seeds" if len(scored) > 1 else "one transfer seed"
    return _evidence(estimate, f"{scored[0].recipe_name}, {seeds}, {_units(estimate, scored[0].scored['l2p', suite])}.")


def _units(estimate: Estimate, scored: Scored) -> str:
    """How many independent units the interval rests on, in words."""
    name = scored.benchmark.resampled_name(scored.summary.passport)
    return f"{estimate.num_clusters} {'image pairs' if name == 'images' else name}"


def _evidence(estimate: Estimate, why: str) -> Evidence:
    return Evidence(
        value=estimate.value,
        ci95=(estimate.low, estimate.high),
        n=estimate.num_values,
        why=why,
        num_clusters=estimate.num_clusters,
    )


def shallow_minus_full(runs: Sequence[Run], costs: Sequence[CostRecord]) -> Evidence:
    """C4: the pixel model's GenEval with shallow blocks tuned minus that with all tuned, the longest such pair."""
    pairs = [
        (full, shallow)
        for full in runs
        for shallow in runs
        if trains_everything(full)
        and keeps_to_paper(shallow) is None
        and differ_only_in(full, shallow, TUNING, suite="geneval")
    ]
    if not pairs:
        raise NoEvidenceError("")
    full, shallow = max(pairs, key=lambda pair: pair[0].num_train_images)
    difference = run_difference(full, shallow, "l2p", "geneval").difference
    return _evidence(difference, f"{shallow.name} minus {full.name}, {difference.num_clusters} prompts.")


def families_meeting_c1(runs: Sequence[Run], costs: Sequence[CostRecord]) -> Evidence:
    """C13: how many families' transfers meet C1's criterion; no evidence from fewer than two families."""
    rule = next(claim.rule for claim in CLAIMS if claim.id == "C1")
    verdicts = {}
    for family in sorted({run.family for run in runs}):
        try:
            verdicts[family], _ = apply_rule(
                rule, retention_evidence([r for r in runs if r.family == family], "geneval")
            )
        except NoEvidenceError:
            continue
    if len(verdicts) < 2:
        raise NoEvidenceError(f"this report has {', '.join(verdicts) or 'none'}")
    why = ", ".join(f"{family}: {verdict}" for family, verdict in verdicts.items()) + "."
    return Evidence(value=list(verdicts.values()).count(REPRODUCED), ci95=None, n=len(verdicts), why=why)


def source_made_retention(runs: Sequence[Run], costs: Sequence[CostRecord]) -> Evidence:
    """C14: C1's evidence, if every training image of its runs has the prompt and seed that the source drew it from.

    The corpus's counts and hashes suffice, where they are of the corpus that ``run.json`` states.
    """
    members = judging_group(runs)
    for run in members:
        num_images, num_traced = (run.corpus.num_images, run.corpus.num_traced) if run.corpus else (0, 0)
        if not num_images or num_traced < num_images:
            raise NoEvidenceError(f"{run.name}: {num_traced} of {num_images} corpus images have a prompt and a seed")
        if message := other_corpus(run):
            raise NoEvidenceError(message)
    evidence = retention_evidence(runs, "geneval")
    num_images = members[0].corpus.num_images if members[0].corpus else 0
    why = f"{evidence.why} All {num_images} training images carry the prompt and seed that the source drew them from."
    return replace(evidence, why=why)


def figure4_gap(runs: Sequence[Run], costs: Sequence[CostRecord]) -> Evidence:
    """C6: percentage points between the paper and the nearest of the predicted protocols."""
    protocols = figure4.protocols(costs)
    if not protocols:
        raise NoEvidenceError("")
    gap, why = figure4.verdict(protocols)
    return Evidence(value=gap, ci95=None, n=len(protocols), why=why)


Measure = Callable[[Sequence[Run], Sequence[CostRecord]], Evidence]
MEASURES: dict[str, Measure] = {
    "geneval_retention": lambda runs, costs: retention_evidence(runs, "geneval"),
    "dpg_retention": lambda runs, costs: retention_evidence(runs, "dpg"),
    "heldout_retention": lambda runs, costs: retention_evidence(runs, "heldout"),
    "shallow_minus_full": shallow_minus_full,
    "figure4_gap": figure4_gap,
    "families_meeting_c1": families_meeting_c1,
    "source_made_retention": source_made_retention,
}


def to_rows(judgements: Sequence[Judgement]) -> list[dict[str, Any]]:
    """The rows of ``claims.json``: id, statement, criterion, scope, family, verdict, value, ci95, n, source."""
    return [
        {
            "id": judgement.claim.id,
            "statement": judgement.claim.statement,
            "criterion": judgement.claim.criterion,
            "scope": judgement.scope,
            "family": judgement.family or None,
            "verdict": judgement.verdict,
            "value": judgement.evidence.value if judgement.evidence else None,
            "ci95": list(judgement.evidence.ci95) if judgement.evidence and judgement.evidence.ci95 else None,
            "n": judgement.evidence.n if judgement.evidence else 0,
            "source": judgement.claim.source,
        }
        for judgement in judgements
    ]


def write_claims(judgements: Sequence[Judgement], path: Path) -> None:
    """Write ``claims.json``."""
    write_json(path, to_rows(judgements))
