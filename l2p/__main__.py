"""`python -m l2p`: transfer, convert, merge, sample and inspect pixel models.

Exit status: 0 done, 1 the loss is no longer finite, 2 bad input, 3 interrupted, 4 our own fault (--debug, anywhere
among the arguments, shows where an error arose).
"""

import sys
from collections import Counter
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from l2p.ending import DONE, FINDING, run_command
from l2p.errors import InputError
from l2p.transfer_command import transfer

# torch and diffusers take seconds to load: the commands import them, so that --help does not wait.

app = typer.Typer(help=__doc__, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
app.command()(transfer)

Out = Annotated[Path, typer.Option("--out", help="What to write; it must not exist yet.")]
Source = Annotated[str, typer.Argument(help="Source pipeline: a diffusers folder or a hub id.")]
Dtype = Annotated[str | None, typer.Option(help="float32 or bfloat16 for all weights; else as each is stored.")]


@app.command()
def convert(
    source: Source,
    out: Out,
    patch_size: Annotated[
        int, typer.Option(min=1, max=1024, help="Pixels along a patch's side; a release says its own.")
    ] = 16,
    weights: Annotated[Path | None, typer.Option(help="A release to merge over the source.")] = None,
    inherit: Annotated[Path | None, typer.Option(help="Another pixel model to start from, by name and shape.")] = None,
    corpus: Annotated[Path | None, typer.Option(help="Fit the input projection to this corpus's images.")] = None,
    release: Annotated[bool, typer.Option("--release", help="Write one file under the released keys.")] = False,
    allow_partial: Annotated[
        bool,
        typer.Option("--allow-partial", help="Leave what the release lacks, or has as NaN, as it is."),
    ] = False,
    dtype: Dtype = None,
) -> None:
    """Make a pixel model from a source, or from a source and a released file (.safetensors, an index or a folder).

    Example: python -m l2p convert Tongyi-MAI/Z-Image --weights model-1k-merge.safetensors --out l2p-1k

    From 4K to 8K: python -m l2p convert Tongyi-MAI/Z-Image --patch-size 128 --inherit 4k.safetensors --out 8k
    """
    from l2p import conversion
    from l2p.corpus import load_corpus
    from l2p.pipeline import pixel_pipeline
    from l2p.pixel_transformer import PixelTransformer2DModel
    from l2p.sources import load_source
    from l2p.weight_files import whole

    if weights is not None and (inherit or corpus):
        raise InputError("--weights holds all that is new: leave --inherit and --corpus out")
    with whole(out) as part:
        pipeline = load_source(source, _dtype(dtype))
        transformer = pipeline.transformer
        if weights is None:
            model = PixelTransformer2DModel.from_source(transformer, patch_size=patch_size)
        else:
            model = conversion.empty_model(transformer, weights)
        report = conversion.copy_source_weights(model, transformer, keep_dtypes=dtype is None)
        _say(f"copied {len(report.copied)} tensors; new: {', '.join(report.new)}; dropped: {report.dropped}")
        if inherit is not None:
            _say(f"inherited {len(conversion.inherit(model, inherit))} tensors of {inherit}")
        if corpus is not None:
            images = load_corpus(corpus, progress=True)
            fit = conversion.fit_input_projection(model, pipeline, images.batches(range(min(len(images), 2000))))
            _say(f"input projection: {fit.explained:.1%} of the latents explained, noise gain {fit.noise_gain:.2f}")
        if weights is not None:
            needed = conversion.release_needs(model, weights, report.new)
            options = {"allow_partial": allow_partial, "keep_dtypes": dtype is None}
            merged = conversion.merge_file(model, weights, needed=needed, **options)
            _say(f"merged {len(merged.merged)} tensors of {weights}")
            if merged.left_out:
                _say(f"left as they were: {', '.join(merged.left_out)}")
        if release:
            conversion.save_release(model, part)
        else:
            side = 64 * model.config.patch_size  # all releases are trained on 64 x 64 tokens
            pixel_pipeline(pipeline, model, defaults={"height": side, "width": side}).save_pretrained(part)
    _say(f"wrote {out}")


@app.command()
def merge(
    source: Source,
    delta: Annotated[Path, typer.Argument(help="delta.safetensors of a transfer.")],
    out: Out,
    release: Annotated[bool, typer.Option("--release", help="Write one file under the released keys.")] = False,
    allow_unverified: Annotated[
        bool,
        typer.Option("--allow-unverified", help="Take an old delta that does not say its source weights."),
    ] = False,
    dtype: Dtype = None,
) -> None:
    """Put a delta over its source and write a pixel pipeline, which draws as the transfer was trained.

    Example: python -m l2p merge models/flux runs/flux-mini/transfer/delta.safetensors --out flux-pixels
    """
    from l2p.conversion import delta_header, load_delta, save_release
    from l2p.pipeline import pixel_pipeline
    from l2p.sources import load_source
    from l2p.weight_files import whole

    with whole(out) as part:
        defaults = dict(delta_header(delta).sampling)
        drawn = {"shift": defaults.pop("shift", 3.0), "scheduler": defaults.pop("scheduler", "euler")}
        pipeline = load_source(source, _dtype(dtype))
        model = load_delta(pipeline, delta, allow_unverified=allow_unverified, keep_dtypes=dtype is None)
        if release:
            save_release(model, part)
        else:
            pixel_pipeline(pipeline, model, defaults=defaults, **drawn).save_pretrained(part)
    _say(f"wrote {out}")


@app.command()
def sample(
    pipeline: Annotated[Path, typer.Argument(help="Folder of a pixel pipeline (from convert or merge).")],
    prompt: Annotated[list[str], typer.Argument(help="One prompt or more.")],
    out: Annotated[Path, typer.Option("--out", help="New folder for 0000.png, 0001.png, ...")],
    height: Annotated[int | None, typer.Option(max=65_536, help="Pixels; by default as the model was trained.")] = None,
    width: Annotated[int | None, typer.Option(max=65_536, help="The same.")] = None,
    num_inference_steps: Annotated[
        int | None, typer.Option(max=10_000, help="By default as the pipeline has it.")
    ] = None,
    guidance_scale: Annotated[float | None, typer.Option(help="The same; 1 turns guidance off.")] = None,
    max_sequence_length: Annotated[
        int | None, typer.Option(min=1, max=32_768, help="By default as the model was trained.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, max=2**62, help="The first prompt's; the next ones count up.")] = 0,
    dtype: Annotated[str | None, typer.Option(help="float32 or bfloat16; by default as the weights are.")] = None,
) -> None:
    """Draw images, with the settings that the pipeline was trained with.

    Example: python -m l2p sample flux-pixels "a red star" "two blue rings" --out drawn
    """
    import math

    import torch

    from l2p.pipeline import load_pixel_pipeline
    from l2p.weight_files import whole

    if guidance_scale is not None and not math.isfinite(guidance_scale):
        raise InputError(f"guidance_scale {guidance_scale} is no number; give one, 1 turns guidance off")
    with whole(out) as part:
        drawer = load_pixel_pipeline(pipeline, _dtype(dtype)).to("cuda" if torch.cuda.is_available() else "cpu")
        images = drawer(
            prompt,
            height=height,
            width=width,
            num_inference_steps=num_inference_steps,
            guidance_scale=guidance_scale,
            generator=[torch.Generator().manual_seed(seed + i) for i in range(len(prompt))],
            max_sequence_length=max_sequence_length,
        ).images
        part.mkdir()
        for i, image in enumerate(images):
            image.save(part / f"{i:04d}.png")
    _say(f"wrote {len(images)} images to {out}")


@app.command()
def inspect(
    path: Annotated[Path, typer.Argument(help="A pixel model or pipeline folder, or a .safetensors file.")],
) -> None:
    """Say what a folder or a weight file holds, without loading its weights.

    Example: python -m l2p inspect runs/flux-mini/transfer/delta.safetensors
    """
    from l2p.conversion import describe, model_config

    parts = describe(path)
    for key, value in model_config(path).items():
        _say(f"{key}: {value}")
    table = Table("part", "tensors", "parameters", "dtypes")
    for part, tensors in parts.items():
        kinds = Counter(dtype for _, dtype in tensors)
        table.add_row(part, str(len(tensors)), f"{sum(size for size, _ in tensors):,}", ", ".join(map(str, kinds)))
    Console().print(table)


@app.command()
def inspect_corpus(
    path: Annotated[
        Path, typer.Argument(help="A corpus: folder with metadata.jsonl, a CSV or .tar shards, or a dataset.")
    ],
    against: Annotated[list[Path] | None, typer.Option(help="A benchmark's prompts (.jsonl, .csv, .txt).")] = None,
) -> int:
    """Count a corpus's images and prompts and name what is broken, double or a benchmark's; status 1 for broken ones.

    Example: python -m l2p inspect-corpus runs/flux-mini/corpus
    """
    from l2p import corpus_report

    report = corpus_report.inspect_corpus(path, against or [], progress=True)
    for line in corpus_report.told(report):
        _say(line)
    return FINDING if report.broken else DONE


def _say(message: str) -> None:
    Console(soft_wrap=True).print(message, markup=False, highlight=False)


def _dtype(name: str | None) -> Any:
    import torch

    known = {"float32": torch.float32, "bfloat16": torch.bfloat16}
    if name not in (None, *known):
        raise InputError(f"unknown dtype {name!r}; known: {sorted(known)}")
    return known[name] if name else None


def main(arguments: list[str] | None = None) -> int:
    """Run one command and return its exit status; whatever ends it early is told in one sentence."""
    return run_command(app, arguments, name="python -m l2p")


if __name__ == "__main__":
    sys.exit(main())
