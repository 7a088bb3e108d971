"""Families side by side: what each kept, and which differences between them are more than noise.

Two families are compared by the points that each lost, pixel model less source, on the same prompts: a family whose
source was the better one is not taken for the better transfer. The p-values are corrected for all comparisons (Holm).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import pandas as pd

from reports import paper
from reports.estimates import NoEvidenceError, Rows, pooled_retention, score_rows
from reports.evidence import keeps_to_paper
from reports.regression.checks import FAMILY_ALPHA, image_prompts, refuse_other_measure
from reports.regression.significance import averaged, holm, tested
from reports.runs import SUBJECTS, Run, groups, suite_titles
from reports.tables import interval, number, or_none

NOISE, NOT_COMPARED = "within noise", "not compared"
COLUMNS = ("suite", "title", "first", "other", "change", "p_value", "p_corrected", "outcome", "why")


@dataclass(frozen=True, kw_only=True)
class Pair:
    """The other family's change (pixel model less source) less the first's, in points of the suite.

    Below 0 the other family lost more. p-values None: not compared.
    """

    suite: str
    title: str
    first: str
    other: str
    change: float | None = None
    p_value: float | None = None
    p_corrected: float | None = None
    outcome: str = NOT_COMPARED
    why: str = ""


def place(family: str) -> int:
    """Where a family stands among those that claim C13 names; one that it does not name comes after them."""
    return paper.FAMILIES.index(family) if family in paper.FAMILIES else len(paper.FAMILIES)


def at_one_length(families: Sequence[Sequence[Run]], leading: Sequence[Sequence[Run]]) -> list[Sequence[Run]]:
    """Each family's seeds of a transfer of one length that all have; ``leading`` where they have none in common.

    Of several lengths the one with most seeds in every family, then the longest: never by result.
    """
    by_length = [_by_length(runs) for runs in families]
    common = set.intersection(*map(set, by_length))
    if not common:
        return list(leading)
    best = max(common, key=lambda length: (min(len(found[length]) for found in by_length), length))
    return [found[best] for found in by_length]


def _by_length(runs: Sequence[Run]) -> dict[int, list[Run]]:
    """The seeds of each transfer that keeps to the paper, by images trained on; of several those of most seeds."""
    eligible = groups([run for run in runs if keeps_to_paper(run) is None])
    fewest_first = sorted(eligible.values(), key=lambda members: (-len(members), members[0].name), reverse=True)
    return {members[0].num_train_images: members for members in fewest_first}


def compared(leading: Sequence[Sequence[Run]]) -> list[Pair]:
    """Every two families on every suite; ``leading``: each family's runs of one transfer, all of one size and world."""
    pairs = [
        _pair(first, other, suite, title)
        for suite, title in suite_titles([members[0] for members in leading]).items()
        for first, other in combinations(leading, 2)
    ]
    p_values = [pair.p_value for pair in pairs if pair.p_value is not None]
    corrected = iter(holm(p_values, [1.0] * len(p_values)))
    return [pair if pair.p_value is None else _judged(pair, next(corrected)) for pair in pairs]


def _pair(first: Sequence[Run], other: Sequence[Run], suite: str, title: str) -> Pair:
    pair = Pair(suite=suite, title=title, first=first[0].family_title, other=other[0].family_title)
    try:
        lengths = [members[0].num_train_images for members in (first, other)]
        if lengths[0] != lengths[1]:
            raise NoEvidenceError(f"trained on {lengths[0]:,} and on {lengths[1]:,} images")
        for subject in SUBJECTS:
            refuse_other_measure(first, other, (subject, suite))
        prompts = image_prompts(first[0].scored["l2p", suite], None)
        found = tested(_lost(first, suite), _lost(other, suite), num_image_prompts=prompts, other_seeds=True)
    except ValueError as absent:
        return replace(pair, why=str(absent))
    return replace(pair, change=found.change, p_value=found.p_value)


def _lost(members: Sequence[Run], suite: str) -> list[Rows]:
    """Pixel model less source by prompt, in the suite's unit, for each transfer seed."""
    return [_less(*(score_rows(run, subject, suite) for subject in SUBJECTS)) for run in members]


def _less(source: Rows, pixel: Rows) -> Rows:
    source, pixel = averaged([source]), averaged([pixel])
    keys = [sorted(zip(rows.categories, rows.clusters, strict=True)) for rows in (source, pixel)]
    if keys[0] != keys[1]:
        raise NoEvidenceError("source and pixel model did not score the same prompts")
    of_source = dict(zip(zip(source.categories, source.clusters, strict=True), source.values, strict=True))
    values = [
        value - of_source[key]
        for key, value in zip(zip(pixel.categories, pixel.clusters, strict=True), pixel.values, strict=True)
    ]
    return replace(pixel, values=values)


def _judged(pair: Pair, corrected: float) -> Pair:
    if corrected > FAMILY_ALPHA:
        return replace(pair, p_corrected=corrected, outcome=NOISE)
    better = pair.other if (pair.change or 0) > 0 else pair.first
    return replace(pair, p_corrected=corrected, outcome=f"{better} keeps more")


def pairs_table(pairs: Sequence[Pair]) -> pd.DataFrame:
    """The comparisons as raw values."""
    return pd.DataFrame([vars(pair) for pair in pairs], columns=list(COLUMNS))


def pairs_shown(pairs: Sequence[Pair], decimals: dict[str, int]) -> pd.DataFrame:
    """The comparisons as text: a row two families, a column a suite; ``decimals`` by suite."""
    rows: dict[tuple[str, str], dict[str, str]] = {}
    for pair in pairs:
        names = (pair.first, pair.other)
        cells = rows.setdefault(names, {"Families": f"{pair.other} against {pair.first}"})
        if pair.change is None or pair.p_corrected is None:
            cells[pair.title] = pair.outcome
        else:
            change = f"{pair.change:+.{decimals[pair.suite]}f}"
            chance = "p < 0.001" if pair.p_corrected < 0.001 else f"p = {pair.p_corrected:.3f}"
            cells[pair.title] = f"{pair.outcome} ({change}, {chance})"
    return pd.DataFrame(list(rows.values())).fillna("–")


def families_table(leading: Sequence[Sequence[Run]], pairs: Sequence[Pair]) -> pd.DataFrame:
    """A row a family and suite, raw: both scores, what was kept, and the families that it keeps more or less than."""
    rows = []
    for members in leading:
        for suite, title in members[0].suites.items():
            kept = or_none(pooled_retention, members, suite)
            scored = [
                [run.scored[subject, suite] for run in members if (subject, suite) in run.scored]
                for subject in SUBJECTS
            ]
            if not all(scored):
                continue
            source, pixel = (sum(one.summary.overall for one in part) / len(part) for part in scored)
            row = {"family": members[0].family_title, "size": members[0].size, "seeds": len(members), "suite": suite}
            row |= {"title": title, "decimals": scored[0][0].benchmark.decimals, "source": source, "pixel": pixel}
            row |= {"kept": kept and kept.value, "low": kept and kept.low, "high": kept and kept.high}
            rows.append(row | {"verdict": _standing(members[0].family_title, suite, pairs)})
    columns = ("family", "size", "seeds", "suite", "title", "decimals", "source", "pixel", "kept", "low", "high")
    return pd.DataFrame(rows, columns=[*columns, "verdict"])


def _standing(family: str, suite: str, pairs: Sequence[Pair]) -> str:
    """How a family stands on a suite: "more than SD3", "less than FLUX", "within noise of the others"."""
    mine = [pair for pair in pairs if pair.suite == suite and family in (pair.first, pair.other)]
    if not mine:
        return "alone"
    told = [pair for pair in mine if pair.p_corrected is not None]
    apart = [pair for pair in told if pair.outcome != NOISE]
    keeps = f"{family} keeps more"
    more = [pair.other if pair.first == family else pair.first for pair in apart if pair.outcome == keeps]
    less = [pair.other if pair.first == family else pair.first for pair in apart if pair.outcome != keeps]
    parts = [f"more than {', '.join(more)}"] * bool(more) + [f"less than {', '.join(less)}"] * bool(less)
    parts += ["within noise of " + ("the others" if apart else "all")] * (len(told) > len(apart))
    parts += [f"{len(mine) - len(told)} {NOT_COMPARED}"] * (len(mine) > len(told))
    return "; ".join(parts)


def families_shown(table: pd.DataFrame, facts: dict[tuple[str, str], dict[str, str]]) -> pd.DataFrame:
    """The families' table as text: a row a family and size, a column a suite, then ``facts`` of it."""
    rows: dict[tuple[str, str], dict[str, str]] = {}
    for row in table.itertuples():
        key = (row.family, row.size)
        cells = rows.setdefault(key, {"Family": row.family, "Size": row.size, "Seeds": str(row.seeds)})
        scores = " → ".join(number(value, row.decimals) for value in (row.source, row.pixel))
        cells[row.title] = f"{scores}, kept {interval(row.kept, row.low, row.high, 2)}"
        if row.verdict != "alone":
            cells[row.title] += f"; {row.verdict}"
    return pd.DataFrame([{**cells, **facts.get(key, {})} for key, cells in rows.items()]).fillna("–")
