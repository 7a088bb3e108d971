"""Regression: is RUN worse than BASELINE by more than noise? Each check is a small value, ``fails`` says why or None.

Scores are compared prompt by prompt where both sides hold score rows. Among several checks that differ, each is asked
for so much evidence that all together raise a false alarm in at most 5 % of comparisons (Bonferroni).
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from bench.records import CostRecord
from bench.statistics import Comparison
from reports.estimates import NoEvidenceError, run_difference
from reports.runs import SUBJECT_NAMES, Run, alarms, load_run

FAMILY_ALPHA = 0.05
LATENCY_FACTOR, MEASURED_MEMORY_FACTOR, PREDICTED_FACTOR = 1.25, 1.05, 1.001  # above these a cost counts as worse


@dataclass(frozen=True, kw_only=True)
class Check:
    """One thing that must not get worse; ``fails(current, baseline)`` gives the message of a regression or None."""

    name: str
    fails: Callable[[Run, Run], str | None]


def compare(baseline: Path | str, current: Path | str) -> list[tuple[str, str | None]]:
    """Run every check that both folders allow: (name, message or None).

    Raises ValueError where the two cannot be compared (family, size or prompts differ) or share nothing.
    """
    before, after = load_run(baseline), load_run(current)
    _refuse_incomparable(before, after)
    checks = list(checks_for(before, after))
    if not checks:
        raise ValueError(f"{before.path} and {after.path} share no scores and no costs: nothing to compare")
    return [(check.name, check.fails(after, before)) for check in checks]


def checks_for(baseline: Run, current: Run) -> Iterator[Check]:
    """The checks for what the baseline holds: overall scores, categories, alarms, frozen blocks, costs."""
    keys = list(baseline.scored)
    overall = [key for key in keys if key in current.scored and _differs(baseline, current, key)]
    categories = [
        (key, name)
        for key in overall
        for name in baseline.scored[key].summary.by_category
        if name in _averaged(baseline, key) and name in current.scored[key].summary.by_category
    ]
    titles = baseline.suites
    yield from (score_check(key, titles[key[1]], None, FAMILY_ALPHA / max(1, len(overall))) for key in keys)
    yield from (score_check(key, titles[key[1]], name, FAMILY_ALPHA / len(categories)) for key, name in categories)
    if baseline.transfer and current.transfer:
        yield Check(name="frozen blocks unchanged", fails=_frozen_fails)
        yield Check(name="alarms", fails=_alarms_fail)
    yield from (cost_check(record) for record in baseline.costs)


def _averaged(run: Run, key: tuple[str, str]) -> set[str]:
    """The categories that a score is the mean of, so that each can be compared; DPG-Bench has one, of no name."""
    scored = run.scored[key]
    return {scored.benchmark.category(row) for row in scored.rows}


def score_check(key: tuple[str, str], title: str, category: str | None, alpha: float) -> Check:
    """A score that must not get worse: overall, or one category; ``alpha`` is its allowed two-sided error."""
    subject, suite = key
    name = f"{title} of {SUBJECT_NAMES[subject].lower()}"
    name += f", {category}" if category else ""

    def fails(current: Run, baseline: Run) -> str | None:
        if key not in current.scored:
            return f"{name}: scored in {baseline.name}, not in {current.name}"
        try:
            comparison = run_difference(baseline, current, subject, suite, category)
        except NoEvidenceError:
            return None if category else _unpaired_fails(current, baseline, key, name)
        return _worse(comparison, alpha, name, baseline.scored[key].benchmark.higher_is_better)

    return Check(name=name, fails=fails)


def _worse(comparison: Comparison, alpha: float, name: str, higher_is_better: bool) -> str | None:
    difference = comparison.difference
    if comparison.verdict != ("worse" if higher_is_better else "better") or comparison.p_value > alpha:
        return None
    return (
        f"{name}: {difference.value:+.3f} ({difference.low:+.3f}, {difference.high:+.3f}), "
        f"p = {comparison.p_value:.4f} on {difference.num_clusters} paired prompts"
    )


def _unpaired_fails(current: Run, baseline: Run, key: tuple[str, str], name: str) -> str | None:
    """Without score rows that pair: worse where the whole interval lies on the worse side of the baseline's."""
    before, after = baseline.scored[key].summary, current.scored[key].summary
    better, worse = (before, after) if baseline.scored[key].benchmark.higher_is_better else (after, before)
    if worse.overall_ci95[1] >= better.overall_ci95[0]:
        return None
    return f"{name}: {after.overall:.3f} after {before.overall:.3f}, intervals apart (unpaired: no common score rows)"


def _differs(baseline: Run, current: Run, key: tuple[str, str]) -> bool:
    """Whether any row changed: equal scores cannot raise a false alarm, and so take no part in the correction."""
    return baseline.scored[key].rows != current.scored[key].rows or not baseline.scored[key].rows


def _frozen_fails(current: Run, baseline: Run) -> str | None:
    summary = current.transfer or {}
    before, after = summary.get("frozen_sha256_before"), summary.get("frozen_sha256_after")
    if before is None or after is None:
        return f"{current.name}: transfer/summary.json does not show by hash that the frozen blocks are unchanged"
    return None if before == after else f"{current.name}: the transfer changed blocks that it must keep frozen"


def _alarms_fail(current: Run, baseline: Run) -> str | None:
    rung = alarms(current)
    return None if not rung or alarms(baseline) else f"{current.name}: an alarm that {baseline.name} had not: {rung[0]}"


def cost_check(record: CostRecord) -> Check:
    """A cost that must not grow: predicted ones exactly, measured ones beyond what a second run of them differs by."""
    name = f"{record.kind} cost of {record.case}, batch {record.batch_size}, {record.device}"

    def fails(current: Run, baseline: Run) -> str | None:
        found = next((other for other in current.costs if _same_case(other, record)), None)
        if found is None:
            return None if record.kind == "measured" else f"{name}: in {baseline.name}, not in {current.name}"
        return next(iter(_cost_messages(name, found, record)), None)

    return Check(name=name, fails=fails)


def _same_case(one: CostRecord, other: CostRecord) -> bool:
    names = ("case", "kind", "resolution", "batch_size", "dtype", "device", "protocol")
    return all(getattr(one, name) == getattr(other, name) for name in names)


def _cost_messages(name: str, after: CostRecord, before: CostRecord) -> Iterator[str]:
    memory_factor = MEASURED_MEMORY_FACTOR if before.kind == "measured" else PREDICTED_FACTOR
    if after.peak_memory_bytes and before.peak_memory_bytes:
        ratio = after.peak_memory_bytes / before.peak_memory_bytes
        if ratio > memory_factor:
            yield f"{name}: peak memory x {ratio:.3f}"
    if after.flops and before.flops and after.flops / before.flops > PREDICTED_FACTOR:
        yield f"{name}: FLOPs x {after.flops / before.flops:.3f}"
    if before.kind == "measured" and after.latency_s and before.latency_s:
        ratio = median(after.latency_s) / median(before.latency_s)
        if ratio > LATENCY_FACTOR and min(after.latency_s) > max(before.latency_s):
            yield f"{name}: latency x {ratio:.2f}, every timing above the slowest of {len(before.latency_s)} before"


def _refuse_incomparable(baseline: Run, current: Run) -> None:
    for what in ("family", "size"):
        before, after = getattr(baseline, what), getattr(current, what)
        if before != after:
            raise ValueError(f"{baseline.name} is of {what} {before!r}, {current.name} of {after!r}: not comparable")
    for key in baseline.scored.keys() & current.scored.keys():
        hashes = [run.scored[key].summary.passport.get("prompts_sha256") for run in (baseline, current)]
        if hashes[0] != hashes[1]:
            raise ValueError(
                f"{' '.join(key)}: {baseline.name} and {current.name} scored other prompts (sha256 {hashes[0]} and "
                f"{hashes[1]}): draw and score both with one suite"
            )


def failures(results: Sequence[tuple[str, str | None]]) -> list[str]:
    """The messages of the checks that failed."""
    return [message for _, message in results if message]
