"""`python -m bench geneval`, and GenEval's part of `rescore`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any

import typer

from bench.geneval.prompts import IMAGES_PER_PROMPT
from bench.geneval.rules import Thresholds
from bench.geneval.summary import official_results, write_scores
from bench.passport import NOT_STATED
from bench.records import Summary, check_file_to_write, read_jsonl, write_jsonl
from l2p.errors import InputError

EXAMPLE = """Score a folder of images in GenEval's layout (00000/metadata.jsonl, 00000/samples/0000.png).

Example: python -m bench geneval images/ --detector mask2former --weights mask2former_swin-s.pth --out scores/
"""


def geneval(
    images: Annotated[Path, typer.Argument(help="Folder with 00000/, 00001/, ... in it.")],
    out: Annotated[Path, typer.Option(help="Where detections, scores and summary go; a killed run goes on there.")],
    detector: Annotated[str, typer.Option(help="mask2former, mmdet, or your own package.module:function.")],
    weights: Annotated[str, typer.Option(help="Checkpoint file, or folder or hub id in transformers' format.")] = "",
    preprocessing: Annotated[str, typer.Option(help="mmdet-2 or mmdet-3 (default: as the checkpoint).")] = "",
    clip: Annotated[str, typer.Option(help="open_clip model for colours, package.module:function, or none.")] = "",
    clip_weights: Annotated[str, typer.Option(help="open_clip's tag, or a file of weights.")] = "openai",
    prompts: Annotated[Path | None, typer.Option(help="The suite's JSON Lines, if not the official one.")] = None,
    expected: Annotated[str, typer.Option(help="PROMPTSxIMAGES, such as 553x4.")] = "",
    batch_size: Annotated[int, typer.Option(min=1, max=4096)] = 8,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps.")] = "auto",
    allow_partial: Annotated[bool, typer.Option(help="Score what is there; the score is named partial.")] = False,
    self_test: Annotated[Path | None, typer.Option(help="Folder of labelled photographs with labels.jsonl.")] = None,
    no_self_test: Annotated[bool, typer.Option("--no-self-test", help="No alarm if the detector seems wrong.")] = False,
    subject: Annotated[str, typer.Option(help="Name of the model that drew the images.")] = "",
    results_jsonl: Annotated[Path | None, typer.Option(help="Also write the published script's own format.")] = None,
) -> None:
    """Score a folder; the imports wait, so that `--help` needs no torch."""
    from bench.geneval.detectors import check_detector_name, load_colors, load_detector
    from bench.geneval.score import ScoreConfig, check_inputs, score_folder
    from bench.runner import this_process

    check_file_to_write(results_jsonl, "--results-jsonl")
    if self_test and no_self_test:
        raise InputError("--self-test and --no-self-test contradict each other; give one of them.")
    num_prompts, num_images = parse_expected(expected)
    check_detector_name(detector, weights, preprocessing)
    config = ScoreConfig(
        num_prompts=num_prompts,
        images_per_prompt=num_images,
        batch_size=batch_size,
        device=device,
        allow_partial=allow_partial,
        watch_detector=not no_self_test,
        self_test_dir=self_test,
        subject=subject,
    )
    entries = read_jsonl(prompts) if prompts else None
    process = this_process(device)
    check_inputs(images, out, entries, config)  # before minutes are spent on loading a model
    summary = score_folder(
        images,
        load_detector(detector, weights, preprocessing, process.device),
        out,
        entries=entries,
        color_classifier=load_colors(clip, clip_weights, detector, process.device),
        detector_name=detector,
        config=config,
    )
    if process.index == 0 and results_jsonl:
        write_jsonl(results_jsonl, official_results(out))
    if process.index == 0:
        show_summary(summary, out)


geneval.__doc__ = EXAMPLE


def parse_expected(expected: str) -> tuple[int | None, int]:
    """`553x4` as (553, 4); empty: (None, 4). ValueError for anything else."""
    if not expected:
        return None, IMAGES_PER_PROMPT
    prompts, _, images = expected.partition("x")
    if not (prompts.isdecimal() and images.isdecimal() and int(prompts) and int(images)):
        raise InputError(f"--expected is PROMPTSxIMAGES, such as 553x4; got {expected!r}.")
    return int(prompts), int(images)


THRESHOLDS = tuple(field.name for field in fields(Thresholds))
RESCORE_OPTIONS = ("allow_partial", *THRESHOLDS)


def rescore_geneval(directory: Path | None, out: Path | None, options: Mapping[str, Any]) -> None:
    """Judge saved detections again, write scores and summary into `out` and print the summary.

    `options` are some of `RESCORE_OPTIONS`. Raises ValueError without a folder and for impossible thresholds.
    """
    if directory is None:
        raise InputError("rescore of GenEval needs the folder of saved detections.")
    thresholds = Thresholds(**{name: value for name, value in options.items() if name in THRESHOLDS})
    show_summary(write_scores(directory, thresholds, bool(options.get("allow_partial")), out_dir=out), out or directory)


def show_summary(summary: Summary, out: Path, print_line: Callable[[str], None] = typer.echo) -> None:
    """Print a summary and where it lies as plain text: prompts and names are untrusted and never read as markup."""
    low, high = summary.overall_ci95
    partial = f"  PARTIAL: {summary.num_scored} of {summary.num_expected}" if summary.passport.get("partial") else ""
    subject = "" if summary.subject == NOT_STATED else f" of {summary.subject}"
    print_line(f"GenEval ({summary.version}; {summary.variant}){subject}{partial}")
    for category, value in summary.by_category.items():
        print_line(f"  {category:<16} {value:.4f}")
    print_line(
        f"  {'overall':<16} {summary.overall:.4f}  95 % interval {low:.4f} to {high:.4f}, "
        f"{summary.num_scored} of {summary.num_expected} images"
    )
    for name, result in summary.passport.get("checks", {}).items():
        print_line(f"  {name.replace('_', '-')}: {result if isinstance(result, str) else check_sentence(result)}")
    print_line(f"Written to {out}: summary.json (with all settings), scores.jsonl (a row an image)")


def check_sentence(result: Mapping[str, Any]) -> str:
    """What a check of the detector found (`bench.geneval.checks`), in words."""
    if "share_found" in result:
        return f"{result['share_found']:.0%} of the labels of {result['photographs']} photographs found"
    parts = [f"{result['detections']} sure detections in {result['images']} images"]
    for name in ("classes", "colors"):
        if fit := result.get(name):
            parts.append(f"{name} fit their prompts {fit['own']:.2f}, shuffled ones {fit['shuffled']:.2f}")
    return f"no alarm: {'; '.join(parts)}"
