"""DPG-Bench's scoring as pure functions over answers, in three named variants.

official   the script of ELLA, `compute_dpg_bench.py`, defects repeated (`_official_questions`, `official_item`)
corrected  what the script means to do: every row, every crop, the gate follows the graph, answers are normalised
dsg        Davidsonian Scene Graph's own rule: one level, gated on the parents' raw answers

An answer is "yes" or not. A question whose parent failed counts 0 (the *gate*: no point in a car's colour where there
is no car). An item's value is the mean over questions, then over crops (0..1); the benchmark's the mean over items x
100. Category scores use the answers before the gate.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from bench.dpg.questions import Question, QuestionFile, cyclic_links, reachable
from l2p.errors import InputError

Crop = dict[int, str]  # proposition id -> answer
Answers = dict[str, list[Crop]]  # item id -> its crops in order

UNANSWERED = "unanswered"


@dataclass(frozen=True, kw_only=True)
class ItemScore:
    """One item: its value in 0..1 or None (unscored, with the reason), and [sum, count] of raw answers by category."""

    item_id: str
    value: float | None
    reason: str = ""
    categories: dict[str, tuple[float, int]] = field(default_factory=dict)


def raw_answers(crop: Crop, questions: tuple[Question, ...]) -> dict[int, float]:
    """1.0 where the answer is exactly "yes", as both published scripts ask; KeyError for an unanswered question."""
    return {question.proposition_id: float(crop[question.proposition_id] == "yes") for question in questions}


def normalised(answer: str) -> str:
    """The answer without case, outer spaces and full stops: "Yes." is "yes", "no bus" stays itself."""
    return answer.strip().rstrip(".").strip().lower()


def _by_category(questions: tuple[Question, ...], crops: list[dict[int, float]]) -> dict[str, tuple[float, int]]:
    """[sum, count] of raw answers by category, L1 and L2 side by side."""
    totals: dict[str, tuple[float, int]] = {}
    for question in questions:
        found = sum(crop[question.proposition_id] for crop in crops)
        for name in (question.broad_category, question.category):
            total, count = totals.get(name, (0.0, 0))
            totals[name] = total + found, count + len(crops)
    return totals


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)


def official_item(questions: tuple[Question, ...], crops: list[Crop]) -> ItemScore:
    """An item as the published script scores it.

    The gate runs in the file's order over values that it changes, so that it cascades only where parents come first; a
    missing parent is a KeyError (unless an earlier parent failed already) and the script leaves the item out;
    categories come from the last crop.
    """
    gated, raw = [], {}
    for crop in crops:
        raw = raw_answers(crop, questions)
        value = dict(raw)
        for question in questions:
            if any(value[parent] == 0 for parent in question.parents):
                value[question.proposition_id] = 0.0
        gated.append(_mean(list(value.values())))
    return ItemScore(item_id=questions[0].item_id, value=_mean(gated), categories=_by_category(questions, [raw]))


def corrected_item(questions: tuple[Question, ...], crops: list[Crop]) -> ItemScore:
    """An item under the meant rule: a question counts where it and all of its ancestors are answered yes.

    Links on a cycle (a question naming itself included) and to missing parents are ignored; categories take all crops.
    """
    ancestors = graph_ancestors(questions)
    raw = [{i: float(normalised(crop[i]) == "yes") for i in ancestors} for crop in crops]
    gated = [[float(all(crop[i] for i in above)) for above in ancestors.values()] for crop in raw]
    value = _mean([_mean(crop) for crop in gated])
    return ItemScore(item_id=questions[0].item_id, value=value, categories=_by_category(questions, raw))


def graph_ancestors(questions: tuple[Question, ...]) -> dict[int, set[int]]:
    """Each question's ancestors, itself included, by sound links: none on a cycle, none to a missing question."""
    looped = cyclic_links(questions)
    parents = {q.proposition_id: tuple(p for p in q.parents if (q.proposition_id, p) not in looped) for q in questions}
    return {child: reachable(parents, child) for child in parents}


def dsg_item(questions: tuple[Question, ...], crops: list[Crop]) -> ItemScore:
    """An item under DSG's rule (Cho et al. 2024): 0 where a direct parent's raw answer is no, a missing one ignored."""
    raw = [raw_answers(crop, questions) for crop in crops]
    gated = [
        [crop[q.proposition_id] * all(crop.get(parent, 1.0) for parent in q.parents) for q in questions] for crop in raw
    ]
    value = _mean([_mean(crop) for crop in gated])
    return ItemScore(item_id=questions[0].item_id, value=value, categories=_by_category(questions, raw))


VARIANTS: dict[str, Callable[[tuple[Question, ...], list[Crop]], ItemScore]] = {
    "official": official_item,
    "corrected": corrected_item,
    "dsg": dsg_item,
}


def _official_questions(file: QuestionFile) -> dict[str, tuple[Question, ...]]:
    """Questions by item as the published script holds them.

    It skips the file's first row, starts an item anew where its rows are not together (the last block stays), and finds
    an image's item by the file name up to the first dot, so never one whose id has a dot.
    """
    items: dict[str, list[Question]] = {}
    previous = None
    for row in file.rows[1:]:
        if row.item_id != previous:
            items[row.item_id] = []
        items[row.item_id].append(row)
        previous = row.item_id
    return {item_id: tuple(rows) for item_id, rows in items.items() if "." not in item_id}


def score_items(file: QuestionFile, answers: Answers, *, variant: str, num_crops: int | None = None) -> list[ItemScore]:
    """Score every item of the question file, in its order; what can't be scored has the value None and a reason.

    `num_crops` is the number of images an item must have, by default the most that any has. Raises ValueError for an
    unknown variant and for answers of unknown items.
    """
    if variant not in VARIANTS:
        raise InputError(f"unknown variant {variant!r}; known: {', '.join(VARIANTS)}")
    unknown = sorted(set(answers) - set(file.items))
    if unknown:
        raise InputError(f"answers of {len(unknown)} items that {file.path} does not hold: {', '.join(unknown[:5])}")
    num_crops = num_crops or max(map(len, answers.values()), default=1)
    held = _official_questions(file) if variant == "official" else file.items
    return [
        _score_item(VARIANTS[variant], file, item_id, held.get(item_id), answers.get(item_id), num_crops)
        for item_id in file.items
    ]


def _score_item(
    rule: Callable,
    file: QuestionFile,
    item_id: str,
    questions: tuple[Question, ...] | None,
    crops: list[Crop] | None,
    num_crops: int,
) -> ItemScore:
    """One item's score, or an unscored one with the reason."""
    if item_id in file.skipped:
        return ItemScore(item_id=item_id, value=None, reason="malformed dependency, --malformed skip")
    if questions is None:
        return ItemScore(item_id=item_id, value=None, reason="the published script does not find it")
    if crops is None or len(crops) < num_crops:
        return ItemScore(item_id=item_id, value=None, reason=f"{UNANSWERED}: {len(crops or ())} of {num_crops} images")
    lacking = [q.proposition_id for q in questions if any(q.proposition_id not in crop for crop in crops)]
    if lacking:
        return ItemScore(
            item_id=item_id, value=None, reason=f"{UNANSWERED}: propositions {', '.join(map(str, lacking))}"
        )
    try:
        return rule(questions, crops)
    except KeyError as error:  # only the official rule lets one out
        return ItemScore(item_id=item_id, value=None, reason=f"the published script fails: no parent {error}")


def overall_score(items: list[ItemScore]) -> float | None:
    """Mean over scored items x 100, or None where none is scored."""
    values = [item.value for item in items if item.value is not None]
    return 100 * _mean(values) if values else None


def category_scores(items: list[ItemScore]) -> dict[str, float]:
    """Mean raw answer of each category x 100, over all questions of scored items, L1 and L2 names side by side."""
    totals: Counter[str] = Counter()
    counts: Counter[str] = Counter()
    for item in items:
        for name, (total, count) in item.categories.items():
            totals[name] += total  # type: ignore[assignment]
            counts[name] += count
    return {name: 100 * totals[name] / counts[name] for name in sorted(counts)}


def answer_counts(answers: Answers) -> dict[str, int]:
    """How many answers, how many only normalisation makes "yes", and how many are empty (they count as no)."""
    given = [answer for crops in answers.values() for crop in crops for answer in crop.values()]
    return {
        "answers": len(given),
        "normalised_to_yes": sum(answer != "yes" and normalised(answer) == "yes" for answer in given),
        "empty": sum(not answer.strip() for answer in given),
    }
