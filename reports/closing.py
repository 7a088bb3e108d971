"""What a run ends by saying: its scores, what was kept of them, and the claims' verdicts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bench.records import Summary, read_json
from reports.estimates import NoEvidenceError, run_retention
from reports.runs import Run, load_run


def closing_rows(run_dir: Path | str) -> dict[str, Any]:
    """Plain data of a reported run: "scores" (a row a suite, all texts), "claims" (claims.json's rows), "page" (Path).

    Raises as `load_run` does, and FileNotFoundError where no report was written.
    """
    run, report = load_run(run_dir), Path(run_dir) / "report"
    scores = [_row(run, suite, title) for suite, title in run.suites.items()]
    return {"scores": scores, "claims": read_json(report / "claims.json"), "page": report / "index.html"}


def _row(run: Run, suite: str, title: str) -> dict[str, str]:
    scored = {name: run.scored.get((subject, suite)) for name, subject in (("source", "source"), ("pixel", "l2p"))}
    texts = {name: "" if one is None else _score(one.summary, one.benchmark.decimals) for name, one in scored.items()}
    try:
        kept = run_retention(run, suite)
        text = f"{kept.value:.3f} ({kept.low:.3f}, {kept.high:.3f})"
    except NoEvidenceError:
        text = ""
    return {"suite": title, **texts, "kept": text}


def _score(summary: Summary, decimals: int) -> str:
    low, high = summary.overall_ci95
    return f"{summary.overall:.{decimals}f} ({low:.{decimals}f}, {high:.{decimals}f})"
