"""Estimates from score rows: retention and category means, paired by prompt; seeds pooled.

All intervals come from ``bench.statistics``; only the spread between transfer seeds is added here.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import mean, stdev

from bench.statistics import Estimate, bootstrap_ci, category_means, retention
from l2p.errors import InputError
from reports.runs import Run, Scored

SAME_SHARE = 1e-6  # of the scale: a summary and the mean of its rows differ by rounding alone


class NoEvidenceError(InputError):
    """A quantity cannot be estimated from these files; the message says what is missing, for the reader of the page."""


@dataclass(frozen=True, kw_only=True)
class Rows:
    """Score rows as ``bench.statistics`` takes them: three parallel lists, one entry an image (DPG: an item).

    Values lie between 0 and ``scale``, the summaries' unit.
    """

    categories: list[str]
    clusters: list[str]
    values: list[float]
    scale: float

    @property
    def bounds(self) -> tuple[float, float]:
        """The least and the greatest value possible."""
        return 0.0, self.scale

    def overall(self) -> float:
        """The mean of category means."""
        return mean(category_means(self.categories, self.values).values())

    def only(self, category: str) -> "Rows":
        """The rows of one category."""
        kept = [index for index, name in enumerate(self.categories) if name == category]
        return Rows(
            categories=[category] * len(kept),
            clusters=[self.clusters[index] for index in kept],
            values=[self.values[index] for index in kept],
            scale=self.scale,
        )

    def parts(self) -> tuple[list[str], list[str], list[float]]:
        """Categories, clusters, values: the arguments' order of ``bench.statistics``."""
        return self.categories, self.clusters, self.values


def score_rows(run: Run, subject: str, suite: str) -> Rows:
    """Rows of one subject on one suite, values in the summaries' unit (GenEval 0..1, DPG 0..100).

    The suite's benchmark says what is averaged and what an interval resamples: GenEval's prompt texts (a suite may hold
    one text twice), or its images where the prompts are all there are; DPG's items, in one category.
    Raises NoEvidenceError when rows are absent, fewer than the summary says, unscored without the summary saying so, or
    not those that the summary was made of.
    """
    scored = run.scored.get((subject, suite))
    if scored is None or not scored.rows:
        raise NoEvidenceError(f"{run.name}: no score rows of {subject} on {suite}")
    return scored_rows(scored, f"{run.name}: {subject} on {suite}")


def scored_rows(scored: Scored, name: str) -> Rows:
    """The rows of one folder of scores, as ``score_rows`` gives them; ``name`` begins the errors."""
    summary, benchmark, passport = scored.summary, scored.benchmark, scored.summary.passport
    if len(scored.rows) != summary.num_expected:
        raise NoEvidenceError(f"{name}: {len(scored.rows)} score rows of {summary.num_expected} expected")
    unscored = [row for row in scored.rows if row["value"] is None]
    explained = {row["prompt_id"] for row in unscored if passport.get("partial")} | {*passport.get("left_out", ())}
    if any(row["prompt_id"] not in explained for row in unscored):
        raise NoEvidenceError(f"{name}: {len(unscored)} images are unscored")
    rows = [row for row in scored.rows if row["value"] is not None]
    found = Rows(
        categories=[benchmark.category(row) for row in rows],
        clusters=[benchmark.resampled(row, passport) for row in rows],
        values=[float(row["value"]) * benchmark.scale for row in rows],
        scale=benchmark.scale,
    )
    overall = found.overall() if rows else 0.0
    if abs(overall - summary.overall) > SAME_SHARE * benchmark.scale:
        raise NoEvidenceError(f"{name}: its summary says {summary.overall:.4f}, its score rows give {overall:.4f}")
    return found


def category_estimate(run: Run, subject: str, suite: str, category: str) -> Estimate:
    """One category's mean with its interval; NoEvidenceError without rows of it."""
    rows = score_rows(run, subject, suite).only(category)
    if not rows.values:
        raise NoEvidenceError(f"{run.name}: no rows of {category} for {subject} on {suite}")
    return bootstrap_ci(*rows.parts(), bounds=rows.bounds)


def run_retention(run: Run, suite: str) -> Estimate:
    """Pixel model / source on one suite, paired by prompt; NoEvidenceError where that has no value.

    There is none for a benchmark whose values are better when lower: a ratio of them keeps nothing.
    """
    scored = run.scored.get(("l2p", suite))
    if scored and not scored.benchmark.higher_is_better:
        raise NoEvidenceError(f"{run.name}: lower is better on {scored.benchmark.title}, so no share of it is kept")
    source, pixel = (score_rows(run, subject, suite) for subject in ("source", "l2p"))
    return rows_retention(source, pixel, run)


def rows_retention(source: Rows, pixel: Rows, run: Run) -> Estimate:
    """The second's score divided by the first's, paired by prompt; NoEvidenceError, of ``run``, where none pair."""
    try:
        return retention(*source.parts(), *pixel.parts(), bounds=source.bounds)
    except ValueError as error:
        raise NoEvidenceError(f"{run.name}: {error}") from error


def pooled_retention(runs: Sequence[Run], suite: str) -> Estimate:
    """Mean retention over transfer seeds of one recipe, with an interval for prompts and seeds together.

    The prompts' part is the paired bootstrap of all seeds' images pooled; the seeds' part is Student's t of the mean of
    k seeds. Their half-widths add in quadrature (a little too wide: images' own noise is in both). One seed: the
    prompts' part alone.
    """
    if len(runs) == 1:
        return run_retention(runs[0], suite)
    source, pixel = (pool([score_rows(run, subject, suite) for run in runs]) for subject in ("source", "l2p"))
    pooled = rows_retention(source, pixel, runs[0])
    by_seed = [run_retention(run, suite).value for run in runs]
    return with_seed_spread(pooled, by_seed)


def with_seed_spread(pooled: Estimate, by_seed: Sequence[float]) -> Estimate:
    """Widen a pooled estimate by the spread between seeds; its value becomes the mean over seeds."""
    from scipy.stats import t as student

    seeds_half = float(student.ppf(0.975, len(by_seed) - 1)) * stdev(by_seed) / len(by_seed) ** 0.5
    value = mean(by_seed)
    return replace(
        pooled,
        value=value,
        low=value - ((pooled.value - pooled.low) ** 2 + seeds_half**2) ** 0.5,
        high=value + ((pooled.high - pooled.value) ** 2 + seeds_half**2) ** 0.5,
    )


def pooled_overall(runs: Sequence[Run], subject: str, suite: str) -> Estimate:
    """Mean overall score over transfer seeds, with prompts' and seeds' noise; one seed: the prompts' alone.

    The interval ends where the score does: three seeds near 0 differ by more than lies below them.
    """
    rows = [score_rows(run, subject, suite) for run in runs]
    least, most = rows[0].bounds
    pooled = bootstrap_ci(*pool(rows).parts(), bounds=(least, most))
    if len(runs) == 1:
        return pooled
    spread = with_seed_spread(pooled, [part.overall() for part in rows])
    return replace(spread, low=max(least, spread.low), high=min(most, spread.high))


def pool(parts: Sequence[Rows]) -> Rows:
    """The rows of several seeds as one list: a prompt's images of all seeds stand together."""
    return Rows(
        categories=[name for rows in parts for name in rows.categories],
        clusters=[name for rows in parts for name in rows.clusters],
        values=[value for rows in parts for value in rows.values],
        scale=parts[0].scale,
    )
