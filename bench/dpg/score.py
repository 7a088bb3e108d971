"""From a folder of images to DPG-Bench's scores: ask, save every answer, then apply the rules."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.dpg.answers import MAX_PIC_NUM
from bench.dpg.images import Folder, read_crops, read_folder
from bench.dpg.questions import QuestionFile, read_questions
from bench.dpg.rules import VARIANTS
from bench.dpg.summary import BENCHMARK, write_scores
from bench.dpg.vqa import NOT_COMPARABLE
from bench.judges import JudgeError, as_judge
from bench.machine import device_name
from bench.passport import NOT_STATED, file_sha256, generation_settings, library_versions, passport
from bench.records import ImageSample, IncompleteError, Summary, read_summary, write_json
from bench.runner import (
    Process,
    Row,
    check_output,
    check_settings,
    locked,
    run_batches,
    this_process,
    without_stale_scores,
)
from l2p.errors import InputError
from l2p.pictures import PictureError
from l2p.tables import read_table_bytes

if TYPE_CHECKING:
    from bench.records import VQA


@dataclass(frozen=True, kw_only=True)
class ScoreConfig:
    """How a folder is scored; `variant` is what `summary.json` holds, official and corrected are written too."""

    variant: str = "official"
    malformed: str = "no-parent"
    allow_partial: bool = False
    device: str = "auto"
    subject: str = ""
    generation: Mapping[str, Any] | None = None  # None: `generation.json` in the images' folder, if there


def score_folder(
    images_dir: Path | str,
    questions: Path | str,
    vqa: VQA,
    out_dir: Path | str,
    *,
    resolution: int,
    pic_num: int = MAX_PIC_NUM,
    vqa_name: str = NOT_STATED,
    config: ScoreConfig | None = None,
) -> Summary:
    """Score images of `questions`' items and write answers, scores and summaries into `out_dir`.

    `resolution` is the side of one tile, `pic_num` the number of tiles scored, `vqa` a function or a
    `bench.judges.Judge`. Files: `answers.jsonl` (a row an image), `scores-<variant>.jsonl`, `summary-<variant>.json`
    for official, corrected and the asked variant, which is also `scores.jsonl` and `summary.json`. Resumable; processes
    of a launcher such as torchrun share the items. Raises IncompleteError for missing or unreadable images, ValueError
    for bad input and for an `out_dir` that lies in the image folder or holds results of other settings, ConnectionError
    for a VQA without answers.
    """
    images_dir, out_dir, config = Path(images_dir), Path(out_dir), config or ScoreConfig()
    file, folder = check_inputs(images_dir, questions, out_dir, resolution=resolution, pic_num=pic_num, config=config)
    vqa = as_judge(vqa, {"vqa": vqa_name, "comparability": NOT_COMPARABLE})
    process = this_process(config.device)
    with locked(out_dir) if process.index == 0 else nullcontext():
        if process.index == 0:
            check_settings(out_dir / "settings.json", _settings(file, vqa.passport, pic_num, resolution))
            (out_dir / "questions.csv").write_bytes(read_table_bytes(file.path))
        batches = list(folder.items.values())
        run_batches(batches, _worker(vqa, file, resolution), out_dir, name="answers", process=process)
        if process.index == 0:
            settings = _passport(images_dir, file, vqa.passport, process, pic_num, resolution, config)
            write_json(out_dir / "passport.json", settings)
            with without_stale_scores(out_dir):
                write_scores(out_dir, file, variant=config.variant, allow_partial=config.allow_partial)
        process.wait()
        return read_summary(out_dir / "summary.json")


def check_inputs(
    images_dir: Path, questions: Path | str, out_dir: Path, *, resolution: int, pic_num: int, config: ScoreConfig
) -> tuple[QuestionFile, Folder]:
    """Look at everything that can be wrong before a model is loaded; make the folder of results.

    Raises IncompleteError, ValueError or OSError: an unknown variant, the question file, missing images,
    `generation.json`, no place for results.
    """
    if config.variant not in VARIANTS:
        raise InputError(f"unknown variant {config.variant!r}; known: {', '.join(VARIANTS)}")
    file = read_questions(questions, malformed=config.malformed)
    folder = read_folder(images_dir, file, pic_num=pic_num, resolution=resolution)
    if folder.missing and not (config.allow_partial and folder.items):
        raise IncompleteError(folder.missing, len(file.items) * pic_num)
    generation_settings(_given(images_dir, config))
    check_output(out_dir, images_dir)
    return file, folder


def _given(images_dir: Path, config: ScoreConfig) -> Mapping[str, Any] | Path:
    return config.generation if config.generation is not None else images_dir / "generation.json"


def _settings(file: QuestionFile, model: Mapping[str, Any], pic_num: int, resolution: int) -> dict[str, Any]:
    """What saved answers depend on; variant and malformed cells are no part of it."""
    settings = {"benchmark": BENCHMARK, "questions_sha256": file.sha256, "vqa": dict(model)}
    return settings | {"pic_num": pic_num, "resolution": resolution}


def _passport(
    images_dir: Path,
    file: QuestionFile,
    model: Mapping[str, Any],
    process: Process,
    pic_num: int,
    resolution: int,
    config: ScoreConfig,
) -> dict[str, Any]:
    """Every setting that the score depends on, but what the rules add (`bench.dpg.summary`)."""
    generation = generation_settings(_given(images_dir, config))
    return passport(
        prompts=f"{file.path.name}, {len(file.items)} items, {len(file.rows)} questions",
        prompts_sha256=file.sha256,
        images_per_prompt=pic_num,
        resolution=resolution,
        generation=generation | ({"subject": config.subject} if config.subject else {}),
        device=device_name(process.device),
        dtype=model.get("dtype", NOT_STATED),
        versions=library_versions(),
        models={"vqa": dict(model)},
        thresholds={},
        allow_partial=config.allow_partial,
    )


def _worker(vqa: VQA, file: QuestionFile, resolution: int) -> Callable[[list[ImageSample]], list[Row]]:
    """The work on one item: read its crops, ask all questions of each; an unreadable image gets rows that say so."""

    def work(samples: list[ImageSample]) -> list[Row]:
        questions = file.items[samples[0].prompt_id]
        rows = [{"prompt_id": s.prompt_id, "index": s.index, "sha256": file_sha256(s.path)} for s in samples]
        try:
            crops = list(read_crops(samples, resolution))
        except PictureError as error:
            return [row | {"unscored": str(error)} for row in rows]
        for row, crop in zip(rows, crops, strict=True):
            answers = vqa(crop, [question.text for question in questions])
            sound = isinstance(answers, list | tuple) and all(isinstance(answer, str) for answer in answers)
            if not sound:
                raise JudgeError(f"The VQA must give a list of texts, an answer each; it gave {repr(answers)[:200]}")
            if len(answers) != len(questions):
                raise JudgeError(
                    f"The VQA gave {len(answers)} answers to {len(questions)} questions; one each is needed"
                )
            row["answers"] = {str(q.proposition_id): answer for q, answer in zip(questions, answers, strict=True)}
        return rows

    return work
