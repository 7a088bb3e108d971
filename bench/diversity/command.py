"""`python -m bench diversity`, and its part of `rescore`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from bench.passport import NOT_STATED
from bench.records import Summary
from l2p.errors import InputError

USUAL = "alex"  # LPIPS' network where none is named
EXAMPLE = """Measure how different the pictures of one prompt are: mean LPIPS of its pairs, then the mean over prompts.

Pictures are <id>_<k>.png or <id>/<k>.png, k from 0; GenEval's folders (00000/samples/0000.png) are read too.

Example: python -m bench diversity images/ --network alex --weights alexnet-owt-7be5be79.pth --out scores/diversity
"""


def diversity(
    images: Annotated[Path, typer.Argument(help="Folder with several pictures of each prompt.")],
    network: Annotated[str | None, typer.Option(help="LPIPS' network: alex (default), vgg or squeeze.")] = None,
    weights: Annotated[str, typer.Option(help="torchvision's weights of it, or ORG/NAME:FILE of the hub.")] = "",
    judge: Annotated[str, typer.Option(help="Your own package.module:function instead of LPIPS.")] = "",
    size: Annotated[int | None, typer.Option(min=1, max=65536, help="Average pictures to this square first.")] = None,
    out: Annotated[Path | None, typer.Option(help="Where results go; default: scores/<name>-diversity.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps.")] = "auto",
    subject: Annotated[str, typer.Option(help="Name of the model that drew the images.")] = "",
) -> None:
    """Measure a folder; the imports wait, so that `--help` needs no torch."""
    from bench.diversity.score import DiversityConfig, group_prompts, score_diversity
    from bench.judges import as_judge, load_judge
    from bench.runner import check_output, this_process
    from bench.sets import read_set

    if bool(judge) == bool(weights):
        raise InputError(
            f"LPIPS' {network or USUAL} needs --weights, torchvision's file of its backbone; or give --judge instead, "
            "not both."
        )
    if judge and network:
        raise InputError(f"--network {network} is LPIPS', and --judge {judge} takes its place: give one of them.")
    out = out or Path("scores") / f"{images.resolve().name}-diversity"
    pictures = read_set(images)
    group_prompts(pictures)  # before a model is loaded
    check_output(out, images)
    process = this_process(device)
    if judge:
        measure = as_judge(load_judge(judge), {"name": judge})
    else:
        from bench.diversity.models import load_lpips

        measure = load_lpips(network or USUAL, weights, process.device)
    config = DiversityConfig(size=size, device=device, subject=subject)
    summary = score_diversity(pictures, measure, out, config)
    if process.index == 0:
        show(summary, out)


diversity.__doc__ = EXAMPLE


def rescore_diversity(directory: Path | None, out: Path | None, options: Mapping[str, Any]) -> None:
    """Take the means of the distances saved in `directory` again, into `out`, and print them."""
    from bench.diversity.score import write_scores

    if directory is None:
        raise InputError("rescore of diversity needs the folder of saved distances.")
    show(write_scores(directory, out or directory), out or directory)


def show(summary: Summary, out: Path) -> None:
    """Print the diversity with its interval and what must be known of the pictures."""
    low, high = summary.overall_ci95
    subject = "" if summary.subject == NOT_STATED else f" of {summary.subject}"
    typer.echo(f"Diversity{subject} ({summary.variant}; {summary.version})")
    typer.echo(f"  overall {summary.overall:.4f}  95 % interval {low:.4f} to {high:.4f}")
    for note in summary.passport["notes"]:
        typer.echo(f"  note: {note}")
    typer.echo(f"Written to {out}: summary.json (with all settings), scores.jsonl (a row a prompt)")
