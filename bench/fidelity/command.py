"""`python -m bench fidelity`, `python -m bench fidelity stats`, and their part of `rescore`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from bench.fidelity.variants import VARIANTS, find_variant, views_of, with_patches
from bench.passport import NOT_STATED
from bench.records import Summary, read_object
from bench.runner import check_output, this_process
from bench.sets import notes_on, read_set
from l2p.errors import InputError

EXAMPLE = """Score a folder of pictures against real ones: fid, fid-patch, is, kid, precision, recall, cmmd.

The reference is a folder, or a file of its statistics, made once for many models by
python -m bench fidelity stats REAL --variant pixverve --size 4096 --weights inception.pth --out ref.safetensors

Example: python -m bench fidelity images/ --reference ref.safetensors --metric fid,fid-patch,is --variant pixverve
--weights inception.pth --out scores/
"""

STATS_EXAMPLE = """Write the statistics of a folder of real pictures, with their count, to score many models against.

Example: python -m bench fidelity stats real/ --variant clean --weights inception.pth --out ref.safetensors
"""

SCORE = "score"
MAX_SEED = 2**32 - 1
RESCORE_OPTIONS = ("metric", "reference", "allow_few")

Metric = Annotated[str, typer.Option(help="Some of fid,fid-patch,is,kid,precision,recall,cmmd.")]
VariantName = Annotated[str, typer.Option(help=f"Whose recipe: {', '.join(VARIANTS)}.")]
Extractor = Annotated[str, typer.Option(help="inception, clip (for cmmd), or your own package.module:function.")]
Weights = Annotated[str, typer.Option(help="Inception's file or ORG/NAME:FILE of the hub; CLIP's folder or hub id.")]
Size = Annotated[int | None, typer.Option(min=1, max=65536, help="Square that pixverve, diffusion4k fit pictures to.")]
NumPatches = Annotated[int | None, typer.Option(min=1, max=10000, help="FID-patch: patches a picture; published: 20.")]
PatchSide = Annotated[int | None, typer.Option(min=1, max=65536, help="FID-patch: side in pixels; published: 299.")]
PatchSeed = Annotated[int | None, typer.Option(min=0, max=MAX_SEED, help="FID-patch: draws the places; published: 42.")]
Order = Annotated[Path | None, typer.Option(help="JSON Lines whose file_names order the pictures (default: by name).")]
BatchSize = Annotated[int, typer.Option(min=1, max=4096, help="Pictures read and looked at together.")]
AllowFew = Annotated[bool, typer.Option(help="Fewer pictures than the statistic needs; the score is named so.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps.")]


class ScoreByDefault(TyperGroup):
    """`fidelity IMAGES` is `fidelity score IMAGES`: only `stats` has to be named."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Put `score` before what names no command."""
        return super().parse_args(ctx, args if args and args[0] in self.commands else [SCORE, *args])


app = typer.Typer(cls=ScoreByDefault, rich_markup_mode=None, pretty_exceptions_enable=False)


@app.command(SCORE, help=EXAMPLE)
def fidelity(
    images: Annotated[Path, typer.Argument(help="Folder of pictures; those in folders in it count too.")],
    out: Annotated[Path, typer.Option(help="Where features and scores go; a killed run goes on there.")],
    reference: Annotated[Path | None, typer.Option(help="Folder of real pictures, or a file that stats wrote.")] = None,
    metric: Metric = "fid",
    variant: VariantName = "pixverve",
    extractor: Extractor = "inception",
    weights: Weights = "",
    size: Size = None,
    num_patches: NumPatches = None,
    patch_side: PatchSide = None,
    patch_seed: PatchSeed = None,
    order: Order = None,
    batch_size: BatchSize = 8,
    device: Device = "auto",
    allow_few: AllowFew = False,
    subject: Annotated[str, typer.Option(help="Name of the model that drew the images.")] = "",
) -> None:
    """Score a folder; the imports wait, so that `--help` needs no torch."""
    from bench.fidelity.extractors import check_extractor_name, load_extractor
    from bench.fidelity.score import FidelityConfig, check_inputs, score_set

    metrics = _metrics(metric)
    config = FidelityConfig(
        metrics=metrics,
        variant=with_patches(find_variant(variant), metrics, num_patches, patch_side, patch_seed),
        size=size,
        batch_size=batch_size,
        device=device,
        allow_few=allow_few,
        order=order,
        subject=subject,
    )
    check_extractor_name(extractor, weights)
    pictures = read_set(images, order)
    check_inputs(pictures, reference, out, config)  # before a model is loaded
    process = this_process(device)
    judge = load_extractor(extractor, weights, process.device)
    summaries = score_set(pictures, reference, judge, out, config)
    if process.index == 0:
        show(summaries, out)


@app.command("stats", help=STATS_EXAMPLE)
def stats(
    reference: Annotated[Path, typer.Argument(help="Folder of real pictures.")],
    out: Annotated[Path, typer.Option(help="The file to write, such as ref.safetensors; a killed run goes on.")],
    metric: Metric = "fid",
    variant: VariantName = "pixverve",
    extractor: Extractor = "inception",
    weights: Weights = "",
    size: Size = None,
    num_patches: NumPatches = None,
    patch_side: PatchSide = None,
    patch_seed: PatchSeed = None,
    order: Order = None,
    batch_size: BatchSize = 8,
    device: Device = "auto",
) -> None:
    """Write statistics; the imports wait, so that `--help` needs no torch."""
    from bench.fidelity.extractors import check_extractor_name, load_extractor
    from bench.fidelity.reference import NEEDS_FEATURES, make_reference
    from bench.fidelity.score import FidelityConfig, check_metrics, with_size

    if out.is_dir() or out.suffix != ".safetensors":
        raise InputError(f"--out {out}: name a file that ends in .safetensors")
    metrics = _metrics(metric)
    check_metrics(metrics)
    check_extractor_name(extractor, weights)
    chosen = with_patches(find_variant(variant), metrics, num_patches, patch_side, patch_seed)
    views = views_of(chosen, metrics)
    pictures = read_set(reference, order)
    config = with_size(FidelityConfig(metrics=metrics, variant=chosen, size=size), pictures, views)
    check_output(out.resolve().parent, reference)
    process = this_process(device)
    make_reference(
        pictures,
        load_extractor(extractor, weights, process.device),
        out,
        variant=chosen,
        views=views,
        keep_features=any(one in NEEDS_FEATURES for one in metrics),
        size=config.size,
        batch_size=batch_size,
        process=process,
    )
    if process.index == 0:
        for note in notes_on(pictures):
            typer.echo(f"note: {note}")
        typer.echo(
            f"Written to {out}: statistics of {len(pictures.samples)} pictures for {', '.join(metrics)} ({chosen.name})"
        )


def _metrics(given: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in given.split(",") if part.strip())


def rescore_fidelity(directory: Path | None, out: Path | None, options: Mapping[str, Any]) -> None:
    """Compute metrics again from the features saved in `directory`, into `out`, and print them; no model is loaded.

    `options` are some of `RESCORE_OPTIONS`; without them the metrics and the reference are those of the first time.
    """
    from bench.fidelity.reference import NO_REFERENCE, check_reference, read_reference
    from bench.fidelity.score import PASSPORT, REFERENCE, FidelityConfig, check_metrics, saved_variant, write_summaries
    from bench.fidelity.variants import preparation_of

    if directory is None:
        raise InputError("rescore of fidelity needs the folder of saved features.")
    settings = read_object(directory / PASSPORT, ("recipe", "metrics", "models"))
    metrics = _metrics(options.get("metric") or ",".join(settings["metrics"]))
    check_metrics(metrics)
    variant, size = saved_variant(settings), settings["recipe"]["size"]
    given, own = options.get("reference"), directory / REFERENCE
    compared = [one for one in metrics if one != "is"]
    if given and Path(given).is_dir():
        raise InputError(f"--reference {given}: rescore loads no model; give a file that `fidelity stats` wrote.")
    path = Path(given) if given else own
    known = read_reference(path) if compared else NO_REFERENCE
    if compared:
        preparation = preparation_of(variant, size, views_of(variant, metrics))
        check_reference(known, path, preparation, settings["models"]["extractor"], compared)
    few = bool(options.get("allow_few", settings["allow_few"]))
    config = FidelityConfig(metrics=metrics, variant=variant, size=size, allow_few=few)
    show(write_summaries(directory, known, config, out=out), out or directory)


def show(summaries: Mapping[str, Summary], out: Path) -> None:
    """Print each metric with its interval, how FID falls with n, and what must be known of the pictures."""
    from bench.benchmarks import BENCHMARKS

    first = next(iter(summaries.values()))
    subject = "" if first.subject == NOT_STATED else f" of {first.subject}"
    extractor = first.passport["models"]["extractor"].get("name", NOT_STATED)
    typer.echo(f"Fidelity{subject} ({first.version}; extractor {extractor})")
    for metric, summary in summaries.items():
        places = BENCHMARKS[metric].decimals
        low, high = (f"{end:.{places}f}" for end in summary.overall_ci95)
        interval = f"  95 % interval {low} to {high}" if low != high else ""  # one of no width would claim certainty
        typer.echo(
            f"  {metric:<10} {summary.overall:.{places}f}{interval}  "
            f"({summary.variant}; {summary.passport['recipe']['rule']})"
        )
        bias = summary.passport["details"].get("bias")
        if bias:
            curve = ", ".join(f"{row['value']:.{places}f} at n {row['n']:,}" for row in bias["curve"])
            typer.echo(f"  {'':<10} by n: {curve}; {bias['at_infinity']:.{places}f} where 1 / n is 0")
    for note in first.passport["notes"]:
        typer.echo(f"  note: {note}")
    typer.echo(f"Written to {out}: {', '.join(f'{metric}/summary.json' for metric in summaries)} (with all settings)")
