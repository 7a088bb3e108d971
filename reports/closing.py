"""What the main command says at its end: scores with intervals, what was kept, verdicts, and where the page is."""

from pathlib import Path
from typing import Any

from bench.records import read_json
from bench.statistics import Estimate
from reports.estimates import pooled_retention
from reports.runs import SUBJECTS, Run, load_run
from reports.tables import interval, or_none


def closing_rows(run_dir: Path) -> dict[str, Any]:
    """A reported run in short: ``scores`` (a row a suite, as text), ``claims`` (its report's claims.json) and ``page``.

    A row of ``scores`` has ``suite``, ``source``, ``pixel`` and ``kept``, values with their 95 % intervals, an en dash
    where there is none. Raises FileNotFoundError without a report, and otherwise as ``load_run`` does.
    """
    run, report = load_run(run_dir), Path(run_dir) / "report"
    return {
        "scores": [_score_row(run, suite, title) for suite, title in run.suites.items()],
        "claims": read_json(report / "claims.json"),
        "page": report / "index.html",
    }


def _score_row(run: Run, suite: str, title: str) -> dict[str, str]:
    kept = or_none(pooled_retention, [run], suite)
    source, pixel = (score_text(run, subject, suite) for subject in SUBJECTS)
    return {"suite": title, "source": source, "pixel": pixel, "kept": share_text(kept)}


def score_text(run: Run, subject: str, suite: str) -> str:
    """One subject's overall score with its interval, "0.971 (0.951, 0.989)"; an en dash without one."""
    scored = run.scored.get((subject, suite))
    if scored is None:
        return "–"
    return interval(scored.summary.overall, *scored.summary.overall_ci95, scored.benchmark.decimals)


def share_text(kept: Estimate | None) -> str:
    """What was kept in percent with its interval, "94.5 % (91.3, 97.6)"; an en dash for None."""
    if kept is None:
        return "–"
    return f"{100 * kept.value:.1f} % ({100 * kept.low:.1f}, {100 * kept.high:.1f})"
