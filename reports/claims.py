"""Verdicts of the claims C1..C14, computed from the files of runs; ``claims.json`` for others to read.

``reports.paper`` says what counts as reproduced; here stands only how each quantity is found.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bench.records import CostRecord, write_json
from reports import studies
from reports.cost import figure4
from reports.estimates import NoEvidenceError
from reports.evidence import Evidence, judging_group, retention_evidence
from reports.paper import CLAIMS, Claim, Rule
from reports.runs import Run, other_corpus

REPRODUCED, NOT_REPRODUCED, NOT_TESTED = "reproduced", "not reproduced", "not tested"
ACROSS_FAMILIES = ("families_kept",)  # quantities that count families; every other is judged for each of them
STUDIED = (  # quantities that take a study: judged for the families that have one
    *("data_source_gain", "corpus_size_saturation", "shift_gain", "diversity_gain"),
    *("extrapolation_retention", "transfer_minus_scratch"),
)
SIZES = ("miniature", "paper")
Case = tuple[str, str]  # family and world
NO_CASE: Case = ("", "")


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """A claim with its verdict; ``why`` says, for a reader, what the verdict rests on or what is missing.

    ``family`` is the source family that was judged and ``world`` what its prompts are about (``Run.world``); "" where
    the claim is of none alone or no run bears on it.
    """

    claim: Claim
    scope: str
    family: str
    world: str
    verdict: str
    evidence: Evidence | None
    why: str


def judge_claims(runs: Sequence[Run], costs: Sequence[CostRecord]) -> list[Judgement]:
    """Judge every claim for every size, family and world that has runs.

    Scope "paper" uses ``costs`` (predicted, any run's).

    Miniature and paper-size runs are judged apart, and so are families: a claim tested at both stands twice. What no
    file can show stands once a size.
    """
    return [judgement for claim in CLAIMS for judgement in _judged(claim, runs, costs)]


def _judged(claim: Claim, runs: Sequence[Run], costs: Sequence[CostRecord]) -> list[Judgement]:
    """A claim's judgements; where it takes a study, those of the families that have one, or one for all."""
    found = []
    for scope, case in _cases(claim, runs):
        members = [run for run in runs if run.size == scope and case in (NO_CASE, run.case)]
        found.append(judge(claim, scope, case, members, costs))
    if claim.rule.quantity not in STUDIED:
        return found
    sizes = dict.fromkeys(judgement.scope for judgement in found)
    shown = {size: [one for one in found if one.scope == size and one.evidence] for size in sizes}
    return [
        one
        for size in sizes
        for one in shown[size] or [judge(claim, size, NO_CASE, [run for run in runs if run.size == size], costs)]
    ]


def _cases(claim: Claim, runs: Sequence[Run]) -> list[tuple[str, Case]]:
    """Where a claim is judged: size and ``Run.case``, ``NO_CASE`` for a claim that no family's runs decide."""
    if claim.scope == "paper":
        return [("paper", NO_CASE)]
    sizes = [size for size in SIZES if any(run.size == size for run in runs)] or ["miniature"]
    if claim.rule.quantity not in MEASURES or claim.rule.quantity in ACROSS_FAMILIES:
        return [(size, NO_CASE) for size in sizes]
    cases = {size: dict.fromkeys(run.case for run in runs if run.size == size) for size in sizes}
    return [(size, case) for size in sizes for case in cases[size] or (NO_CASE,)]


def judge(claim: Claim, scope: str, case: Case, runs: Sequence[Run], costs: Sequence[CostRecord]) -> Judgement:
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
    family, world = case
    return Judgement(claim=claim, scope=scope, family=family, world=world, verdict=verdict, evidence=evidence, why=why)


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


def source_made_retention(runs: Sequence[Run], costs: Sequence[CostRecord]) -> Evidence:
    """C14: C1's evidence, if every training image of its runs has the prompt and seed that the source drew it from.

    The corpus's counts and hashes suffice, where they are of the corpus that ``run.json`` states.
    """
    members = judging_group(runs)
    for run in members:
        if maker := (run.recipe.get("corpus") or {}).get("maker"):
            raise NoEvidenceError(f"{run.name}: its images were made by {maker}, not by the source")
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
    "shallow_minus_full": lambda runs, costs: studies.shallow_minus_full(runs),
    "figure4_gap": figure4_gap,
    "data_source_gain": lambda runs, costs: studies.data_source_gain(runs),
    "corpus_size_saturation": lambda runs, costs: studies.corpus_size_saturation(runs),
    "shift_gain": lambda runs, costs: studies.shift_gain(runs),
    "diversity_gain": lambda runs, costs: studies.diversity_gain(runs),
    "extrapolation_retention": lambda runs, costs: studies.extrapolation_retention(runs),
    "transfer_minus_scratch": lambda runs, costs: studies.transfer_minus_scratch(runs),
    "families_kept": lambda runs, costs: studies.families_kept(runs),
    "source_made_retention": source_made_retention,
}


def to_rows(judgements: Sequence[Judgement]) -> list[dict[str, Any]]:
    """The rows of ``claims.json``; "part" is what the verdict is about where that is less than the statement."""
    return [
        {
            "id": judgement.claim.id,
            "statement": judgement.claim.statement,
            "part": judgement.claim.part or None,
            "criterion": judgement.claim.criterion,
            "scope": judgement.scope,
            "family": judgement.family or None,
            "world": judgement.world or None,
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
