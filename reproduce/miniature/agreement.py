"""How well a judge agrees with people: labels read back, figures of a judge on them, disagreement of two judges.

A label is a picture and what a person said of it (`reproduce.miniature.label` makes them). Agreement is the share of
labels on which judge and person say the same; *refused* the share of the right pictures that the judge refuses,
*passed* the share of the wrong ones that it passes. What the person was not sure of is counted and left out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from types import MappingProxyType
from typing import Any, Literal

from PIL import Image

from bench.dpg.questions import read_questions
from bench.geneval.rules import judge
from bench.named import load_function
from bench.records import Detection, read_jsonl
from bench.statistics import Estimate, bootstrap_ci, category_means
from l2p.errors import InputError
from l2p.pictures import PictureError, read_picture
from l2p.tables import csv_rows
from reproduce.miniature.answers import answers_from

LABEL_COLUMNS = ("sheet", "number", "subject", "suite", "prompt_id", "index", "sha256", "prompt", "right", "remark")
MOSAIC_COLUMNS = 20
ANSWERS = {"yes": True, "no": False, "unsure": None}
LABELS = Path(__file__).parents[2] / "tests" / "recorded" / "labels"
JUDGES = {"detector": "reproduce.miniature.detector:load", "shape fit": "reproduce.miniature.fit:load"}
BATCH = 64
MOST_DISAGREEMENT = 0.05  # above it, a subject's score is shown with a warning
Detect = Callable[[list[Image.Image]], list[list[Detection]]]
Part = Literal["tuning", "reported"]


@dataclass(frozen=True, kw_only=True)
class Label:
    """One picture and what a person said of it; `right` is None where the person was not sure.

    `run` is its folder's name; `asked` is GenEval's metadata line, or {"tag", "question"} for a question of DPG-Bench.
    """

    run: str
    number: int
    subject: str
    suite: str
    prompt_id: str
    index: int
    sha256: str
    prompt: str
    asked: dict[str, Any]
    right: bool | None
    remark: str
    picture: Image.Image

    @property
    def task(self) -> str:
        """GenEval's task, or the question's L1 category."""
        return self.asked["tag"]

    @property
    def part(self) -> Part:
        """Which half it belongs to, by its file's hash: judges are tuned on one half and reported on the other."""
        return "reported" if int(self.sha256[:8], 16) % 2 else "tuning"


def read_labels(folder: Path) -> list[Label]:
    """The filled-in labels of a folder that `write_sheets` made.

    Raises ValueError for a row whose `right` is neither yes, no nor unsure, and for files of different lengths.
    """
    rows = [row for _, row in csv_rows(folder / "labels.csv", LABEL_COLUMNS)]
    asked = read_jsonl(folder / "asked.jsonl")
    if len(rows) != len(asked):
        raise InputError(f"{folder}: labels.csv has {len(rows)} rows, asked.jsonl {len(asked)}; they belong together")
    open_rows = [row["number"] for row in rows if row["right"].strip().lower() not in ANSWERS]
    if open_rows:
        raise InputError(f"{folder / 'labels.csv'}: right is not yes, no or unsure in rows {', '.join(open_rows[:9])}")
    pictures = _tiles(picture_of(folder / "pictures.webp"), len(rows))
    return [
        Label(
            run=folder.resolve().name,
            number=int(row["number"]),
            subject=row["subject"],
            suite=row["suite"],
            prompt_id=row["prompt_id"],
            index=int(row["index"]),
            sha256=row["sha256"],
            prompt=row["prompt"],
            asked=spec,
            right=ANSWERS[row["right"].strip().lower()],
            remark=row["remark"],
            picture=picture,
        )
        for row, spec, picture in zip(rows, asked, pictures, strict=True)
    ]


def picture_of(path: Path) -> Image.Image:
    """The picture as RGB; ValueError naming a file that is none."""
    try:
        return read_picture(path)
    except PictureError as error:
        raise InputError(f"{path}: {error}") from error


def _tiles(mosaic: Image.Image, count: int) -> list[Image.Image]:
    """The first `count` pictures of a mosaic of square pictures, `MOSAIC_COLUMNS` a row."""
    side = mosaic.width // min(count, MOSAIC_COLUMNS)
    corners = ((i % MOSAIC_COLUMNS * side, i // MOSAIC_COLUMNS * side) for i in range(count))
    return [mosaic.crop((x, y, x + side, y + side)) for x, y in corners]


def recorded_labels(folder: Path = LABELS) -> list[Label]:
    """All labels that are kept in the repository, of all runs."""
    return [label for part in sorted(folder.glob("*/labels.csv")) for label in read_labels(part.parent)]


def verdicts(labels: Sequence[Label], detect: Detect) -> list[bool]:
    """What a judge says of each label's picture: GenEval's rules, or the answer to the question, on its detections."""
    found: list[list[Detection]] = []
    for start in range(0, len(labels), BATCH):
        found += detect([label.picture for label in labels[start : start + BATCH]])
    return [_verdict(label, detections) for label, detections in zip(labels, found, strict=True)]


def _verdict(label: Label, detections: list[Detection]) -> bool:
    if "question" in label.asked:
        return answers_from(label.picture, detections, [label.asked["question"]]) == ["yes"]
    return judge(label.asked, detections)[0]


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """A judge against a person on one group of labels; `refused` and `passed` are None where the group has none."""

    name: str
    agreement: Estimate
    refused: Estimate | None
    passed: Estimate | None
    num_unsure: int


def agreement(name: str, labels: Sequence[Label], said: Sequence[bool]) -> Agreement | None:
    """The figures of one group; None where the person was sure of nothing in it."""
    pairs = [(label, value) for label, value in zip(labels, said, strict=True) if label.right is not None]
    if not pairs:
        return None
    return Agreement(
        name=name,
        agreement=_share([(label, value == label.right) for label, value in pairs]),
        refused=_share([(label, not value) for label, value in pairs if label.right]) if _any(pairs, True) else None,
        passed=_share([(label, value) for label, value in pairs if not label.right]) if _any(pairs, False) else None,
        num_unsure=len(labels) - len(pairs),
    )


def _any(pairs: Iterable[tuple[Label, bool]], right: bool) -> bool:
    return any(label.right is right for label, _ in pairs)


def _share(hits: Sequence[tuple[Label, bool]]) -> Estimate:
    """A share with its interval over distinct prompts."""
    return bootstrap_ci(["all"] * len(hits), [label.prompt for label, _ in hits], [float(hit) for _, hit in hits])


def compare_with(labels: Sequence[Label], detect: Detect) -> list[Agreement]:
    """A judge's figures over all labels, then by subject, by run and by task."""
    said = verdicts(labels, detect)
    rows = []
    keys: tuple[Callable[[Label], str], ...] = (
        lambda label: "all",
        lambda label: label.subject,
        lambda label: f"({label.run})",
        lambda label: label.suite if label.suite == "heldout" else label.task,
    )
    for key in keys:
        for name in dict.fromkeys(key(label) for label in labels):
            of = [i for i, label in enumerate(labels) if key(label) == name]
            rows.append(agreement(name, [labels[i] for i in of], [said[i] for i in of]))
    return [row for row in rows if row]


def table(rows: Sequence[Agreement]) -> str:
    """The figures as lines of text."""
    head = f"{'':18s}{'n':>4s} {'unsure':>6s}  {'agreement':22s} {'right but refused':28s} wrong but passed"
    lines = [
        f"{row.name:18s}{row.agreement.num_values:4d} {row.num_unsure:6d}  {_figure(row.agreement):22s} "
        f"{_figure(row.refused):28s} {_figure(row.passed)}"
        for row in rows
    ]
    return "\n".join([head, *lines])


def _figure(share: Estimate | None) -> str:
    if share is None:
        return "-"
    return f"{share.value:.3f} ({share.low:.3f}, {share.high:.3f}) of {share.num_values}"


def figures(name: str, detect: Detect, labels: Sequence[Label]) -> str:
    """One judge's tables: the tuned and the reported half, pictures and questions apart."""
    lines = []
    for part in ("reported", "tuning"):
        for kind, of in kinds(labels, part).items():
            lines += [f"{name}, {kind}, {part} half", table(compare_with(of, detect)), ""]
    return "\n".join(lines)


def kinds(labels: Sequence[Label], part: Part) -> dict[str, list[Label]]:
    """One half's labels, pictures judged by GenEval's rules and questions of DPG-Bench apart."""
    return {
        "pictures": [label for label in labels if label.part == part and "question" not in label.asked],
        "questions": [label for label in labels if label.part == part and "question" in label.asked],
    }


def judge_rows(judges: Mapping[str, str] = MappingProxyType(JUDGES)) -> list[dict[str, Any]]:
    """What the judges are worth on drawn pictures, by the labels that are only reported.

    Rows {"judge", "what", "value", "n", "ci95"}: agreement with people, right but refused, wrong but passed.
    """
    labels, rows = recorded_labels(), []
    for name, loader in judges.items():
        detect = load_function(loader)()
        for kind, of in kinds(labels, "reported").items():
            figure = agreement("all", of, verdicts(of, detect))
            for what, share in _shares(figure).items() if figure else ():
                told = f"{what}, drawn {kind} labelled by eye"
                row = {"judge": name, "what": told, "value": share.value, "n": share.num_values}
                rows.append(row | {"ci95": [share.low, share.high]})
    return rows


def _shares(figure: Agreement) -> dict[str, Estimate]:
    told = {"agreement": figure.agreement, "right but refused": figure.refused, "wrong but passed": figure.passed}
    return {what: share for what, share in told.items() if share}


def cross_check(run_dir: Path) -> list[dict[str, Any]]:
    """The disagreement of the second judge, the one without weights, with a run's scores."""
    return disagreement(run_dir, load_function(JUDGES["shape fit"])())


def disagreement(run_dir: Path, other: Detect) -> list[dict[str, Any]]:
    """On how many of a run's pictures another judge says something else than the scores that lie there.

    Rows {"subject", "suite", "of", "value", "n", "warn"}, a row for each `scores/<subject>/<suite>`: the share of
    pictures (GenEval) or of answers (DPG-Bench) on which the two disagree; `warn` where it is above 5 %. A row of
    pictures also has `other_score`, what the other judge's verdicts give: the mean over tasks.
    """
    rows = []
    for scores in sorted(path.parent for path in run_dir.glob("scores/*/*/scores.jsonl")):
        images = run_dir / "samples" / scores.parent.name / scores.name
        row: dict[str, Any] = {"subject": scores.parent.name, "suite": scores.name}
        if (scores / "detections.jsonl").is_file():
            scored = [one for one in read_jsonl(scores / "scores.jsonl") if one["value"] is not None]
            said = _other_verdicts(scores, images, scored, other)
            differ = [bool(one["value"]) != verdict for one, verdict in zip(scored, said, strict=True)]
            tasks = category_means([one["category"] for one in scored], [float(verdict) for verdict in said])
            row |= {"of": "pictures", "other_score": fmean(tasks.values())}
        else:
            differ = _answers_differ(scores, images, other)
            row["of"] = "answers"
        share = sum(differ) / len(differ)
        rows.append(row | {"value": share, "n": len(differ), "warn": share > MOST_DISAGREEMENT})
    return rows


def _other_verdicts(scores: Path, images: Path, scored: Sequence[dict[str, Any]], other: Detect) -> list[bool]:
    """What the other judge says of each scored image of a GenEval suite."""
    asked = read_jsonl(scores / "prompts.jsonl")
    paths = [images / row["prompt_id"] / "samples" / f"{row['index']:04d}.png" for row in scored]
    return [
        judge(asked[int(row["prompt_id"])], detections)[0]
        for row, detections in zip(scored, _detect_all(paths, other), strict=True)
    ]


def _answers_differ(scores: Path, images: Path, other: Detect) -> list[bool]:
    """Of each answer of a DPG suite, whether the other judge's is another."""
    questions = read_questions(scores / "questions.csv").items
    rows = read_jsonl(scores / "answers.jsonl")
    paths = [images / "tiles" / f"{row['prompt_id']}_{row['index']}.png" for row in rows]
    differ = []
    for row, path, detections in zip(rows, paths, _detect_all(paths, other), strict=True):
        asked = {str(question.proposition_id): question.text for question in questions[row["prompt_id"]]}
        answers = answers_from(picture_of(path), detections, list(asked.values()))
        differ += [row["answers"][key] != answer for key, answer in zip(asked, answers, strict=True)]
    return differ


def _detect_all(paths: Sequence[Path], detect: Detect) -> list[list[Detection]]:
    found: list[list[Detection]] = []
    for start in range(0, len(paths), BATCH):
        found += detect([picture_of(path) for path in paths[start : start + BATCH]])
    return found
