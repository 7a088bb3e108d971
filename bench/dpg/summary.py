"""From saved answers to scores and summaries, with no model and no image: the rules applied, again and again."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from bench.dpg.answers import answer_cells, collect_answers, saved_rows
from bench.dpg.questions import QuestionFile
from bench.dpg.rules import (
    UNANSWERED,
    Answers,
    ItemScore,
    answer_counts,
    category_scores,
    overall_score,
    score_items,
)
from bench.passport import read_passport
from bench.records import (
    IncompleteError,
    Score,
    Summary,
    read_summary,
    to_json,
    write_json,
    write_jsonl,
)
from bench.statistics import bootstrap_ci

BENCHMARK = "dpg"
FINDINGS = "answers.jsonl"
ALWAYS = ("official", "corrected")  # written whatever variant is asked for
CATEGORY = "dense"  # of every score: an item's questions have categories, the item has none
POINTS = (0.0, 100.0)  # what a summary may hold


def write_scores(
    directory: Path, file: QuestionFile, *, variant: str, allow_partial: bool, out_dir: Path | None = None
) -> Summary:
    """Apply the rules to the answers saved in `directory` and write scores and summaries there (or into `out_dir`).

    Raises before anything is written: ValueError for broken files, IncompleteError when items are unscored and no
    partial score was asked for.
    """
    rows = list(saved_rows(directory / FINDINGS))
    settings = read_passport(directory / "passport.json")
    answers = collect_answers(answer_cells(rows), file, directory / FINDINGS)
    unscored = {row["prompt_id"]: row["unscored"] for _, row in rows if "unscored" in row}
    return write_variants(
        out_dir or directory, file, answers, settings, variant=variant, allow_partial=allow_partial, unscored=unscored
    )


def write_variants(
    out_dir: Path,
    file: QuestionFile,
    answers: Answers,
    settings: Mapping[str, Any],
    *,
    variant: str,
    allow_partial: bool,
    unscored: Mapping[str, str] | None = None,
) -> Summary:
    """Write `scores-V.jsonl` and `summary-V.json` of official, corrected and the asked variant (also plainly).

    `unscored` says why items have no answers, where that is known. Raises IncompleteError, and then writes nothing,
    when items lack answers and `allow_partial` is not set, or when the asked variant scores no item.
    """
    scored: dict[str, list[ItemScore]] = {}
    for name in dict.fromkeys((*ALWAYS, variant)):
        items = score_items(file, answers, variant=name, num_crops=settings["images_per_prompt"])
        scored[name] = [_with_reason(item, (unscored or {}).get(item.item_id)) for item in items]
        lacking = [item for item in scored[name] if _lacks(item)]
        if (lacking and not allow_partial) or (name == variant and overall_score(items) is None):
            raise IncompleteError([f"{item.item_id}: {item.reason}" for item in lacking or scored[name]], len(items))
    for name, items in scored.items():
        for suffix in [f"-{name}", ""] if name == variant else [f"-{name}"]:
            write_jsonl(out_dir / f"scores{suffix}.jsonl", map(_score_row, items))
            if overall_score(items) is None:
                print(f"note: variant {name} scores no item here", file=sys.stderr)
                (out_dir / f"summary{suffix}.json").unlink(missing_ok=True)  # of an earlier, scored state
            else:
                write_json(out_dir / f"summary{suffix}.json", summarise(items, file, answers, settings, name))
    return read_summary(out_dir / "summary.json")


def _lacks(item: ItemScore) -> bool:
    """Whether the item is unscored for want of answers, not by the variant's own rule."""
    return item.value is None and item.reason.startswith(UNANSWERED)


def _with_reason(item: ItemScore, reason: str | None) -> ItemScore:
    return replace(item, reason=f"{UNANSWERED}: {reason}") if reason and _lacks(item) else item


def _score_row(item: ItemScore) -> dict[str, Any]:
    """A line of `scores.jsonl`: the Score, 0..1, and [sum, count] of raw answers by category."""
    score = Score(prompt_id=item.item_id, index=0, category=CATEGORY, value=item.value, reason=item.reason)
    return to_json(score) | {"categories": item.categories}


def summarise(
    items: list[ItemScore], file: QuestionFile, answers: Answers, settings: Mapping[str, Any], variant: str
) -> Summary:
    """Overall and categories x 100, with a 95 % interval bootstrapped over items.

    The passport names the items that the variant's rule leaves out (`left_out`), and says `partial` where answers lack.
    """
    scored = [item for item in items if item.value is not None]
    values = [100 * item.value for item in scored if item.value is not None]
    estimate = bootstrap_ci([CATEGORY] * len(scored), [item.item_id for item in scored], values, bounds=POINTS)
    overall = overall_score(items)
    assert overall is not None
    details = {
        "unscored_items": {item.item_id: item.reason for item in items if item.value is None},
        "by_category_ci95": {name: category_interval(scored, name) for name in sorted(_broad_names(file))},
        "question_file": file.finding_counts(),
        "answers": answer_counts(answers),
    }
    return Summary(
        benchmark=BENCHMARK,
        version=f"questions {file.sha256[:12]}",
        variant=variant,
        subject=settings["generation"]["subject"],
        overall=overall,
        overall_ci95=(estimate.low, estimate.high),
        by_category=category_scores(items),
        num_expected=len(items),
        num_scored=len(scored),
        passport={
            **settings,
            "thresholds": {"malformed": file.malformed, "yes": "normalised" if variant == "corrected" else "exact"},
            "left_out": [item.item_id for item in items if item.value is None and not _lacks(item)],
            "partial": any(map(_lacks, items)),
            "details": details,
        },
    )


def _broad_names(file: QuestionFile) -> set[str]:
    return {question.broad_category for question in file.rows}


def category_interval(scored: list[ItemScore], name: str) -> tuple[float, float] | None:
    """95 % interval of one category's score, bootstrapped over items; None where no scored item asks about it."""
    totals = [(item.item_id, *item.categories[name]) for item in scored if name in item.categories]
    if not totals:
        return None
    clusters = [item_id for item_id, _, count in totals for _ in range(count)]
    values = [100 * total / count for _, total, count in totals for _ in range(count)]
    estimate = bootstrap_ci([name] * len(values), clusters, values, bounds=POINTS)
    return estimate.low, estimate.high
