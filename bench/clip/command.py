"""`python -m bench clip`, and its part of `rescore`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from bench.clip.variants import VARIANTS, find_variant
from bench.passport import NOT_STATED
from bench.records import Summary
from l2p.errors import InputError

EXAMPLE = """Score pictures against their captions: the cosine of CLIP, Long-CLIP or FG-CLIP 2, times 100.

Pictures are <id>.png, <id>_<k>.png or <id>/<k>.png; the captions' JSON Lines have id (or file_name) and text.

Example: python -m bench clip images/ --prompts captions.jsonl --variant long-clip --out scores/long-clip
"""


def clip(
    images: Annotated[Path, typer.Argument(help="Folder of pictures, named by their caption's id.")],
    prompts: Annotated[Path, typer.Option(help="JSON Lines with id or file_name, and text.")],
    caption: Annotated[str, typer.Option(help="The text's key, such as short_caption (default: text, prompt).")] = "",
    variant: Annotated[str, typer.Option(help=f"Whose recipe: {', '.join(VARIANTS)}.")] = "pixverve",
    weights: Annotated[str, typer.Option(help="transformers' folder or hub id (default: the recipe's).")] = "",
    scorer: Annotated[str, typer.Option(help="Your own package.module:function instead of a model.")] = "",
    out: Annotated[Path | None, typer.Option(help="Where results go; default: scores/<folder's name>-clip.")] = None,
    batch_size: Annotated[int, typer.Option(min=1, max=4096, help="Pictures held at once.")] = 4,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps.")] = "auto",
    trust_remote_code: Annotated[
        bool, typer.Option("--trust-remote-code", help="FG-CLIP 2: run the code that comes with its weights.")
    ] = False,
    subject: Annotated[str, typer.Option(help="Name of the model that drew the images.")] = "",
) -> None:
    """Score a folder; the imports wait, so that `--help` needs no torch."""
    from bench.clip.models import load_scorer
    from bench.clip.score import ClipConfig, match_captions, score_clip
    from bench.judges import as_judge, load_judge
    from bench.runner import check_output, this_process
    from bench.sets import read_captions, read_set

    if scorer and weights:
        raise InputError(f"--weights would change nothing: {scorer} brings its own.")
    out = out or Path("scores") / f"{images.resolve().name}-clip"
    config = ClipConfig(variant=find_variant(variant), batch_size=batch_size, device=device, subject=subject)
    captions, pictures = read_captions(prompts, caption), read_set(images)
    match_captions(pictures, captions)  # before a model is loaded
    check_output(out, images)
    process = this_process(device)
    if scorer:
        judge = as_judge(load_judge(scorer), {"name": scorer})
    else:
        judge = load_scorer(config.variant, weights, process.device, trust_remote_code)
    summary = score_clip(pictures, captions, judge, out, config)
    if process.index == 0:
        show(summary, out)


clip.__doc__ = EXAMPLE


def rescore_clip(directory: Path | None, out: Path | None, options: Mapping[str, Any]) -> None:
    """Take the mean of the cosines saved in `directory` again, into `out`, and print it."""
    from bench.clip.score import write_scores

    if directory is None:
        raise InputError("rescore of the CLIP score needs the folder of saved cosines.")
    show(write_scores(directory, out or directory), out or directory)


def show(summary: Summary, out: Path) -> None:
    """Print the score with its interval and what must be known of pictures and captions."""
    low, high = summary.overall_ci95
    subject = "" if summary.subject == NOT_STATED else f" of {summary.subject}"
    model = summary.passport["models"]["scorer"]
    typer.echo(f"CLIP score{subject} ({summary.variant}; {model.get('model', model.get('name', NOT_STATED))})")
    typer.echo(
        f"  overall {summary.overall:.2f}  95 % interval {low:.2f} to {high:.2f}, {summary.num_scored} images of "
        f"{summary.version}"
    )
    for note in summary.passport["notes"]:
        typer.echo(f"  note: {note}")
    typer.echo(f"Written to {out}: summary.json (with all settings), scores.jsonl (a row an image)")
