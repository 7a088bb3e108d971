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
from reports.paper import CLAIMS, Claim, Rule
from reports.runs import Run, groups

REPRODUCED, NOT_REPRODUCED, NOT_TESTED = "reproduced", "not reproduced", "not tested"
TUNED_AS_PAPER = ("ends", "released")  # TransferConfig.trainable: both ends and the head, as stated or as released
EVERYTHING = 0.9  # share of parameters from which a transfer counts as full tuning: all blocks, embedders or not
# Options in which a pair of runs may differ and still be the same transfer but for what is tuned
TUNING_OPTIONS = (
    "trainable",
    "num_trainable_blocks",
    "gradient_checkpointing",
    "save_every",
    "log_every",
    "validate_every",
)
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
    """A claim with its verdict; ``why`` says, for a reader, what the verdict rests on or what is missing."""

    claim: Claim
    scope: str
    verdict: str
    evidence: Evidence | None
    why: str


def judge_claims(runs: Sequence[Run], costs: Sequence[CostRecord]) -> list[Judgement]:
    """Judge every claim at every size that has runs; a claim of scope "paper" uses ``costs`` (predicted, any run's).

    Miniature and paper-size runs are judged apart: a claim tested at both stands twice.
    """
    sizes = [size for size in SIZES if any(run.size == size for run in runs)]
    judgements = []
    for claim in CLAIMS:
        scopes = ["paper"] if claim.scope == "paper" else sizes or ["miniature"]
        judgements += [judge(claim, scope, [run for run in runs if run.size == scope], costs) for scope in scopes]
    return judgements


def judge(claim: Claim, scope: str, runs: Sequence[Run], costs: Sequence[CostRecord]) -> Judgement:
    """Judge one claim by its rule on these runs; without evidence the verdict is "not tested" and says why."""
    measure = MEASURES.get(claim.rule.quantity)
    if measure is None:
        return Judgement(claim=claim, scope=scope, verdict=NOT_TESTED, evidence=None, why=claim.untested)
    try:
        evidence = measure(runs, costs)
    except NoEvidenceError as absent:
        why = f"{claim.untested} ({absent})" if str(absent) else claim.untested
        return Judgement(claim=claim, scope=scope, verdict=NOT_TESTED, evidence=None, why=why)
    verdict, reason = apply_rule(claim.rule, evidence)
    return Judgement(claim=claim, scope=scope, verdict=verdict, evidence=evidence, why=f"{evidence.why}{reason}")


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
    tuned = summary.get("options", {}).get("trainable", "ends")
    if trains_everything(run) or tuned not in TUNED_AS_PAPER:
        return f"{run.name} does not tune the two ends as the paper does"
    before, after = summary.get("frozen_sha256_before"), summary.get("frozen_sha256_after")
    return None if before and before == after else f"{run.name}'s frozen blocks are not shown unchanged by hash"


def trains_everything(run: Run) -> bool:
    """Whether the transfer tuned all blocks (at least ``EVERYTHING`` of the pixel model's parameters)."""
    summary = run.transfer or {}
    return bool(summary) and summary["num_trainable_parameters"] >= EVERYTHING * summary["num_parameters"]


def judging_group(runs: Sequence[Run], family: str | None = None) -> list[Run]:
    """The runs that judge retention: all seeds of the longest transfer that keeps to the paper.

    Longest = most images trained on, then most seeds, then first by name: never by result.
    Raises NoEvidenceError where no run fits.
    """
    fitting = [run for run in runs if family in (None, run.family)]
    refused = [reason for run in fitting if (reason := keeps_to_paper(run))]
    eligible = groups([run for run in fitting if keeps_to_paper(run) is None])
    if not eligible:
        raise NoEvidenceError("; ".join(refused))
    return min(eligible.values(), key=lambda members: (-members[0].num_train_images, -len(members), members[0].name))


def retention_evidence(runs: Sequence[Run], benchmark: str) -> Evidence:
    """Retention on one benchmark over the judging group's seeds."""
    members = judging_group(runs)
    scored = [run for run in members if all((subject, benchmark) in run.scored for subject in ("source", "l2p"))]
    if not scored:
        raise NoEvidenceError(f"{members[0].group} has no {benchmark} scores of both models")
    estimate = pooled_retention(scored, benchmark)
    seeds = f"{len(scored)} transfer seeds" if len(scored) > 1 else "one transfer seed"
    return _evidence(estimate, f"{scored[0].group}, {seeds}, {_clusters(estimate, benchmark)}.")


def _clusters(estimate: Estimate, benchmark: str) -> str:
    """How many independent units the interval rests on, in words."""
    return f"{estimate.num_clusters} {({'dpg': 'items', 'heldout': 'image pairs'}).get(benchmark, 'prompts')}"


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
        if trains_everything(full) and keeps_to_paper(shallow) is None and _same_transfer(full, shallow)
    ]
    if not pairs:
        raise NoEvidenceError("")
    full, shallow = max(pairs, key=lambda pair: pair[0].num_train_images)
    difference = run_difference(full, shallow, "l2p", "geneval").difference
    return _evidence(difference, f"{shallow.name} minus {full.name}, {difference.num_clusters} prompts.")


def _same_transfer(one: Run, other: Run) -> bool:
    """Same family, steps, batch and options but for what is tuned."""
    parts = [run.transfer or {} for run in (one, other)]
    counts = [(part.get("num_train_steps"), part.get("batch_size")) for part in parts]
    options = [{k: v for k, v in part.get("options", {}).items() if k not in TUNING_OPTIONS} for part in parts]
    return one.family == other.family and counts[0] == counts[1] and options[0] == options[1]


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
    """C14: C1's evidence, if every training image of its runs has the prompt and seed that the source drew it from."""
    for run in judging_group(runs):
        drawn = [row for row in run.corpus if row.get("prompt_id") is not None and row.get("seed") is not None]
        if not run.corpus or len(drawn) < len(run.corpus):
            raise NoEvidenceError(
                f"{run.name}: {len(drawn)} of {len(run.corpus)} corpus images have a prompt and a seed"
            )
    evidence = retention_evidence(runs, "geneval")
    num_images = len(judging_group(runs)[0].corpus)
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
    """The rows of ``claims.json``: id, statement, criterion, scope, verdict, value, ci95, n, source."""
    return [
        {
            "id": judgement.claim.id,
            "statement": judgement.claim.statement,
            "criterion": judgement.claim.criterion,
            "scope": judgement.scope,
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
