"""`python -m bench dpg` and DPG-Bench's part of `python -m bench rescore`."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from bench.dpg.answers import read_answers
from bench.dpg.questions import QuestionFile, read_questions
from bench.dpg.rules import VARIANTS
from bench.dpg.summary import ALWAYS, write_scores, write_variants
from bench.passport import NOT_STATED, generation_settings, library_versions, passport, read_passport
from bench.records import Summary, read_summary, write_json
from l2p.errors import InputError

EXAMPLE = """Score a folder of DPG-Bench images: <item>.png, a 2 x 2 grid, or <item>_<k>.png, k from 0.

Example: python -m bench dpg images/ --questions dpg_bench.csv --vqa mplug --resolution 1024 --out scores/
"""


def dpg(
    images: Annotated[Path, typer.Argument(help="Folder of images named by item.")],
    questions: Annotated[Path, typer.Option(help="The questions' CSV (dpg_bench.csv), plain or .gz.")],
    vqa: Annotated[str, typer.Option(help="mplug, transformers, openai, replay, or your own package.module:function.")],
    resolution: Annotated[int, typer.Option(help="Side of one image in pixels (a grid has twice that).")],
    pic_num: Annotated[int, typer.Option(help="Images an item, 1 to 4.")] = 4,
    out: Annotated[
        Path | None, typer.Option(help="Where results go, a killed run goes on there; default: scores/<folder's name>.")
    ] = None,
    vqa_model: Annotated[
        str, typer.Option(help="Weights folder or hub id; the server's model; for replay the file of answers.")
    ] = "",
    variant: Annotated[str, typer.Option(help="What summary.json holds: official, corrected or dsg.")] = "official",
    malformed: Annotated[
        str, typer.Option(help="Malformed dependency cells: strict, skip or no-parent.")
    ] = "no-parent",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps.")] = "auto",
    allow_partial: Annotated[bool, typer.Option(help="Score what is there; the score is named partial.")] = False,
    subject: Annotated[str, typer.Option(help="Name of the model that drew the images.")] = "",
    insecure: Annotated[bool, typer.Option(help="openai: send the key unencrypted, by http to another host.")] = False,
) -> None:
    """Score a folder; the imports wait, so that `--help` needs no torch."""
    from bench.dpg.score import ScoreConfig, check_inputs, score_folder
    from bench.dpg.vqa import load_vqa
    from bench.runner import this_process

    if insecure and vqa != "openai":
        raise InputError(f"--insecure would change nothing: it is for --vqa openai, not {vqa}")
    process, out = this_process(device), out or Path("scores") / images.resolve().name
    config = ScoreConfig(
        variant=variant, malformed=malformed, allow_partial=allow_partial, device=device, subject=subject
    )
    # before minutes are spent on loading
    file, _ = check_inputs(images, questions, out, resolution=resolution, pic_num=pic_num, config=config)
    judge = load_vqa(vqa, model=vqa_model, device=process.device, file=file, insecure=insecure)
    score_folder(images, questions, judge, out, resolution=resolution, pic_num=pic_num, vqa_name=vqa, config=config)
    if process.index == 0:
        show(out, file, variant)


dpg.__doc__ = EXAMPLE


RESCORE_OPTIONS = ("questions", "answers", "variant", "malformed")


def rescore_dpg(directory: Path | None, out: Path | None, options: Mapping[str, Any]) -> None:
    """Apply the rules again to the answers saved in `directory`, or to plain tables of questions and answers.

    `options` are some of `RESCORE_OPTIONS`. Tables may lack items: those are unscored, named, and the summary says
    partial. Raises ValueError where neither a folder nor both tables with `out` are given.
    """
    questions, answers = options.get("questions"), options.get("answers")
    variant, malformed = options.get("variant", "official"), options.get("malformed", "no-parent")
    if variant not in VARIANTS:
        raise InputError(f"unknown variant {variant!r}; known: {', '.join(VARIANTS)}")
    if directory is not None and (questions or answers):
        raise InputError("give a folder of saved answers, or --questions with --answers, not both")
    if directory is not None:
        file, out = read_questions(directory / "questions.csv", malformed=malformed), out or directory
        partial = bool(read_passport(directory / "passport.json").get("allow_partial"))
        write_scores(directory, file, variant=variant, allow_partial=partial, out_dir=out)
        _copy_answers(directory, out)
    elif questions and answers and out:
        file = read_questions(questions, malformed=malformed)
        _score_tables(file, answers, out, variant)
    else:
        raise InputError("rescore --benchmark dpg needs a folder of saved answers, or --questions, --answers and --out")
    show(out, file, variant)


def _copy_answers(directory: Path, out: Path) -> None:
    """Put the saved answers beside the scores that were made of them."""
    for name in ("answers.jsonl", "questions.csv", "passport.json", "settings.json"):
        if out.resolve() != directory.resolve() and (directory / name).is_file():
            shutil.copyfile(directory / name, out / name)


def _score_tables(file: QuestionFile, answers_path: Path, out: Path, variant: str) -> Summary:
    """Scores of plain tables; what they do not say is `not stated` in the passport."""
    answers = read_answers(answers_path, file)
    settings = passport(
        prompts=f"{file.path.name}, {len(file.items)} items, {len(file.rows)} questions",
        prompts_sha256=file.sha256,
        images_per_prompt=max(map(len, answers.values()), default=1),
        resolution=NOT_STATED,
        generation=generation_settings(None),
        device=NOT_STATED,
        dtype=NOT_STATED,
        versions=library_versions(),
        models={"vqa": {"vqa": f"answers in {answers_path.name}", "comparability": NOT_STATED}},
        thresholds={},
    )
    summary = write_variants(out, file, answers, settings, variant=variant, allow_partial=True)
    write_json(out / "passport.json", settings)
    return summary


def show(directory: Path, file: QuestionFile, variant: str) -> None:
    """Print the variants side by side, what was left out, and what was odd, as plain text."""
    names = [name for name in dict.fromkeys((*ALWAYS, variant)) if (directory / f"summary-{name}.json").is_file()]
    summaries = [read_summary(directory / f"summary-{name}.json") for name in names]
    subject = "" if summaries[0].subject == NOT_STATED else f" of {summaries[0].subject}"
    typer.echo(f"DPG-Bench{subject}: {file.path.name}, VQA {summaries[0].passport['models']['vqa']['vqa']}")
    typer.echo(f"  {'':<12}" + "".join(f"{name:>24}" for name in names))
    for category in sorted({question.broad_category for question in file.rows}):
        cells = [summary.by_category.get(category) for summary in summaries]
        typer.echo(f"  {category:<12}" + "".join(f"{'-' if c is None else f'{c:.2f}':>24}" for c in cells))
    overall = [f"{s.overall:.2f} [{s.overall_ci95[0]:.2f}, {s.overall_ci95[1]:.2f}]" for s in summaries]
    typer.echo(f"  {'overall':<12}" + "".join(f"{cell:>24}" for cell in overall))
    typer.echo(f"  {'items':<12}" + "".join(f"{f'{s.num_scored} of {s.num_expected}':>24}" for s in summaries))
    for summary in summaries:
        unscored = summary.passport["details"]["unscored_items"]
        for item_id, reason in list(unscored.items())[:5]:
            typer.echo(f"  {summary.variant}: {item_id} is not scored: {reason}")
        if len(unscored) > 5:
            typer.echo(f"  {summary.variant}: and {len(unscored) - 5} more; see its scores")
        if summary.passport["partial"]:
            typer.echo(f"  {summary.variant}: PARTIAL, answers are missing")
    for kind, count in file.finding_counts().items():
        if count["questions"]:
            typer.echo(f"  question file: {kind} in {count['questions']} questions of {count['items']} items")
    counts = summaries[0].passport["details"]["answers"]
    typer.echo(f"  {counts['normalised_to_yes']} of {counts['answers']} answers are yes only when normalised")
    typer.echo(f"  {summaries[0].passport['models']['vqa'].get('comparability', NOT_STATED)}")
    typer.echo(f"Written to {directory}: summary.json ({variant}, with all settings), scores.jsonl (a row an item)")
