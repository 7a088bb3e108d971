"""The checks of a regression: what changed, by how much, and better, worse, within noise, or not compared.

Nothing that a baseline holds passes unseen: what lacks rows, was judged otherwise or is not there is "not compared".
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from math import sqrt
from statistics import mean, variance
from typing import Any

from bench.records import Summary, differing
from l2p.errors import InputError
from reports.estimates import NoEvidenceError, Rows, score_rows
from reports.pairs import differences
from reports.regression.costs import cost_checks
from reports.regression.outcome import BETTER, NOISE, NOT_COMPARED, WORSE, Check
from reports.regression.significance import EXACT, NORMAL_HALF, holm, interval, tested
from reports.runs import SUBJECT_NAMES, Run, Scored, alarms

FAMILY_ALPHA = 0.05
Key = tuple[str, str]  # subject, suite
# Of a score's passport; what a whole set is compared with is its "reference".
MEASURED_BY = ("prompts_sha256", "images_per_prompt", "models", "thresholds", "resampled", "reference")


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """All checks of one comparison, and what a reader must know beside them: which settings differ, what is new."""

    baseline: list[str]
    runs: list[str]
    notes: list[str]
    checks: list[Check]

    def count(self, outcome: str) -> int:
        """How many checks came out so."""
        return sum(check.outcome == outcome for check in self.checks)


def compare(baseline: Sequence[Run], current: Sequence[Run], *, latency: bool = False) -> Comparison:
    """Compare the seeds of one recipe with those of its baseline; measured latency only where it is asked for.

    Raises ValueError where family, world or size differ, or the baseline holds nothing that could be compared.
    """
    _refuse_incomparable(baseline[0], current[0])
    checks = [*_score_checks(baseline, current), *cost_checks(baseline, current, latency=latency)]
    if not checks:
        raise InputError(f"{baseline[0].name} holds no scores and no costs: nothing to compare")
    checks += _transfer_checks(baseline, current)
    return Comparison(
        baseline=[run.name for run in baseline],
        runs=[run.name for run in current],
        notes=_notes(baseline, current),
        checks=judged(checks),
    )


def judged(checks: Sequence[Check]) -> list[Check]:
    """The checks that have a p-value, corrected for all of them and judged; the others as they are.

    Half of the 5 % goes to overall scores and latencies, half to categories: the many do not hide the few.
    """
    tested = [check for check in checks if check.p_value is not None]
    parts = [sum(check.part == part for check in tested) for part in ("whole", "category")]
    weights = [1 / parts[check.part == "category"] for check in tested]
    corrected = iter(holm([check.p_value or 0.0 for check in tested], weights))
    return [check if check.p_value is None else _judge(check, next(corrected)) for check in checks]


def _judge(check: Check, corrected: float) -> Check:
    if corrected > FAMILY_ALPHA:
        return replace(check, p_corrected=corrected, outcome=NOISE)
    unchanged = 1 if check.unit == "x" else 0
    better = ((check.change or 0) > unchanged) == check.higher_is_better
    return replace(check, p_corrected=corrected, outcome=BETTER if better else WORSE)


def _score_checks(baseline: Sequence[Run], current: Sequence[Run]) -> Iterator[Check]:
    keys = dict.fromkeys(key for run in baseline for key in run.scored)
    for key in keys:
        name = f"{baseline[0].suites.get(key[1], key[1])} of {SUBJECT_NAMES[key[0]].lower()}"
        scored = next(run.scored[key] for run in baseline if key in run.scored)
        blank = Check(name=name, higher_is_better=scored.benchmark.higher_is_better, decimals=scored.benchmark.decimals)
        try:
            refuse_other_measure(baseline, current, key)
            if scored.benchmark.of_set:
                yield _set_check(blank, *([run.scored[key].summary for run in side] for side in (baseline, current)))
                continue
            before, after = ([score_rows(run, *key) for run in side] for side in (baseline, current))
            yield from _suite_checks(blank, before, after, scored, _other_seeds(baseline, current, key[0]))
        except NoEvidenceError as absent:
            yield replace(blank, outcome=NOT_COMPARED, why=str(absent))


def _set_check(blank: Check, before: Sequence[Summary], after: Sequence[Summary]) -> Check:
    """Figures of whole sets (FID): no rows pair, so each side brings its own intervals, taken as independent.

    Raises NoEvidenceError for sets of other sizes, with which such a figure changes, and where none has an interval.
    """
    from scipy.stats import t as student

    if len({summary.num_expected for summary in (*before, *after)}) > 1:
        raise NoEvidenceError("the sets are of different sizes, with which the figure changes")
    sides = [[summary.overall for summary in side] for side in (before, after)]
    means = [mean(figures) for figures in sides]
    change = means[1] - means[0]
    check = replace(blank, before=means[0], after=means[1], change=change)
    if sides[0] == sides[1]:
        return replace(check, low=0.0, high=0.0, why="the same figures")
    error, freedom = _error_of_sets(before, after)
    if not error:
        raise NoEvidenceError("the figures have no interval")
    half = float(student.ppf(0.975, freedom)) * error
    p_value = float(2 * student.sf(abs(change) / error, freedom))
    return replace(check, low=change - half, high=change + half, p_value=p_value)


def _error_of_sets(*sides: Sequence[Summary]) -> tuple[float, float]:
    """Standard error of the difference of two sides' means, and its degrees of freedom.

    A figure varies as its own interval says, or as the figures of one side's seeds differ where that is more: their
    spread, of both sides together, is known by so few seeds only (Satterthwaite, 1946).
    """
    freedom = sum(len(side) - 1 for side in sides)
    spread = 0.0
    if freedom:
        figures = [[summary.overall for summary in side] for side in sides]
        spread = sum((len(side) - 1) * variance(side) for side in figures if len(side) > 1) / freedom
    total, of_seeds = 0.0, 0.0
    for side in sides:
        own = mean(((high - low) / 2 / NORMAL_HALF) ** 2 for low, high in (summary.overall_ci95 for summary in side))
        total += max(own, spread) / len(side)
        of_seeds += spread / len(side) if spread > own else 0.0
    return sqrt(total), min(EXACT, freedom * (total / of_seeds) ** 2) if of_seeds else EXACT


def _suite_checks(
    blank: Check, before: list[Rows], after: list[Rows], scored: Scored, other_seeds: bool
) -> list[Check]:
    """Overall, then each category where there are several; NoEvidenceError where the two sides do not pair."""
    names = list(dict.fromkeys(before[0].categories))
    checks = []
    for category in [None, *(names if len(names) > 1 else ())]:
        sides = [[rows.only(category) if category else rows for rows in side] for side in (before, after)]
        means = [mean(rows.overall() if rows.values else 0.0 for rows in side) for side in sides]
        check = replace(blank, before=means[0], after=means[1], change=means[1] - means[0])
        if category:
            check = replace(check, name=f"{blank.name}, {category}", part="category")
        if _equal(before, after):
            checks.append(replace(check, low=0.0, high=0.0, why="the same verdicts"))
        else:
            checks.append(_tested(check, sides[0], sides[1], image_prompts(scored, category), other_seeds))
    return checks


def _tested(check: Check, before: list[Rows], after: list[Rows], num_image_prompts: int, other_seeds: bool) -> Check:
    try:
        found = tested(before, after, num_image_prompts=num_image_prompts, other_seeds=other_seeds)
        shown = interval(before, after, found)
    except ValueError as error:
        raise NoEvidenceError(str(error)) from error
    return replace(check, low=shown.low, high=shown.high, p_value=found.p_value)


def _equal(before: Sequence[Rows], after: Sequence[Rows]) -> bool:
    """Whether both sides hold the same verdicts: the scores of one and the same images raise no false alarm."""
    first, other = ({tuple(sorted(zip(*rows.parts(), strict=True))) for rows in side} for side in (before, after))
    return first == other


def image_prompts(scored: Scored, category: str | None) -> int:
    """The prompts of a category (None: of all), where a suite resamples images; 0 where it resamples prompts."""
    if scored.benchmark.resampled_name(scored.summary.passport) != "images":
        return 0
    of = scored.benchmark.category
    return len({row["prompt_id"] for row in scored.rows if category in (None, of(row))})


def _other_seeds(baseline: Sequence[Run], current: Sequence[Run], subject: str) -> bool:
    """Whether two transfers made the models: a source has none, and one transfer is known by its seed and last loss."""
    first, other = (sorted((str(run.seed), _last_loss(run)) for run in side) for side in (baseline, current))
    return subject != "source" and first != other


def _last_loss(run: Run) -> str:
    """A transfer's last loss with all its digits; the folder of the run where there is none, so that none is equal."""
    return str((run.transfer or {}).get("final_loss", run.path))


def refuse_other_measure(baseline: Sequence[Run], current: Sequence[Run], key: Key) -> None:
    """Raise NoEvidenceError where a run lacks the score, or was asked, judged or counted otherwise."""
    for run in (*baseline, *current):
        if key not in run.scored:
            raise NoEvidenceError(f"{run.name} has no summary.json for it")
    first = _measure(baseline[0], key)
    for run in (*baseline[1:], *current):
        if found := [name for name, _, _ in differing(first, _measure(run, key))]:
            raise NoEvidenceError(f"{run.name} was measured otherwise: {', '.join(found)} differ")


def _measure(run: Run, key: Key) -> dict[str, Any]:
    summary = run.scored[key].summary
    benchmark = summary.benchmark
    judge = ((run.manifest.get("inputs") or {}).get("judges") or {}).get(benchmark)
    passport = {name: summary.passport.get(name) for name in MEASURED_BY}
    return {"benchmark": benchmark, "variant": summary.variant, "judge's sha256": judge, **passport}


def _transfer_checks(baseline: Sequence[Run], current: Sequence[Run]) -> list[Check]:
    if not any(run.transfer for run in baseline):
        return []
    return [_frozen_check(current), _alarm_check(baseline, current)]


def _frozen_check(current: Sequence[Run]) -> Check:
    check = Check(name="frozen blocks unchanged", part="transfer")
    for run in current:
        hashes = [(run.transfer or {}).get(f"frozen_sha256_{when}") for when in ("before", "after")]
        if None in hashes:
            return replace(
                check,
                outcome=NOT_COMPARED,
                why=f"{run.name}: transfer/summary.json does not show by hash that they are",
            )
        if hashes[0] != hashes[1]:
            return replace(
                check, outcome=WORSE, why=f"{run.name}: the transfer changed blocks that it must keep frozen"
            )
    return check


def _alarm_check(baseline: Sequence[Run], current: Sequence[Run]) -> Check:
    check = Check(name="alarms of the transfer", part="transfer")
    silent = [run.name for run in current if not run.log]
    if silent:
        return replace(check, outcome=NOT_COMPARED, why=f"{', '.join(silent)}: transfer/log.jsonl is not there")
    rung = [f"{run.name}: {message}" for run in current for message in alarms(run)]
    if rung and not any(alarms(run) for run in baseline):
        return replace(check, outcome=WORSE, why=f"an alarm that the baseline had not: {rung[0]}")
    return check


def _refuse_incomparable(baseline: Run, current: Run) -> None:
    for what in ("family", "world", "size"):
        before, after = getattr(baseline, what), getattr(current, what)
        if before != after:
            raise InputError(f"{baseline.name} is of {what} {before!r}, {current.name} of {after!r}: not comparable")


def _notes(baseline: Sequence[Run], current: Sequence[Run]) -> list[str]:
    """Sentences on what differs besides the results."""
    found = [name for name in differences(baseline[0], current[0]) if name != "transfer.seed"]
    notes = [f"Recipes or inputs differ in {', '.join(found)}."] if found else []
    for name in (run.name for run in (baseline[0], current[0]) if not run.recipe):
        notes.append(f"{name} has no run.json: its recipe, judges and source are unknown.")
    known = {key for run in baseline for key in run.scored}
    new = sorted({f"{suite} of {subject}" for run in current for subject, suite in run.scored.keys() - known})
    if new:
        notes.append(f"Scored now, but not in the baseline: {', '.join(new)}.")
    return notes
