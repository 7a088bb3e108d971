"""`python -m l2p`: convert, merge, sample and inspect pixel models."""

from collections import Counter
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

# torch and diffusers take seconds to load: the commands import them, so that --help does not wait.

app = typer.Typer(help=__doc__, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
console = Console()

Out = Annotated[Path, typer.Option("--out", help="What to write; it must not exist yet.")]
Source = Annotated[str, typer.Argument(help="Source pipeline: a diffusers folder or a hub id.")]


@app.command()
def convert(
    source: Source,
    out: Out,
    patch_size: Annotated[int, typer.Option(help="Pixels along a patch's side; a release says its own.")] = 16,
    weights: Annotated[Path | None, typer.Option(help="A released .safetensors file to merge over the source.")] = None,
    corpus: Annotated[Path | None, typer.Option(help="Fit the input projection to this corpus's images.")] = None,
    release: Annotated[bool, typer.Option(help="Write one file under the released keys, not a folder.")] = False,
    dtype: Annotated[str, typer.Option(help="float32 or bfloat16.")] = "float32",
) -> None:
    """Make a pixel model from a source, or from a source and a released file.

    Example: python -m l2p convert Tongyi-MAI/Z-Image --weights model-1k-merge.safetensors --out l2p-1k --dtype bfloat16
    """
    from l2p.conversion import (
        copy_source_weights,
        fit_input_projection,
        merge_file,
        released_patch_size,
        save_release,
    )
    from l2p.corpus import load_corpus
    from l2p.pipeline import load_source, pixel_pipeline
    from l2p.pixel_transformer import PixelTransformer2DModel

    _check_new(out)
    pipeline = load_source(source, _dtype(dtype))
    size = patch_size if weights is None else released_patch_size(weights)
    model = PixelTransformer2DModel.from_source(pipeline.transformer, patch_size=size)
    report = copy_source_weights(model, pipeline.transformer)
    console.print(f"copied {len(report.copied)} tensors; new: {', '.join(report.new)}; dropped: {report.dropped}")
    if corpus is not None:
        images = load_corpus(corpus, progress=True)
        fit = fit_input_projection(model, pipeline, images.batches(range(min(len(images), 2000))))
        console.print(
            f"input projection: {fit.explained:.1%} of the latents explained, noise gain {fit.noise_gain:.2f}"
        )
    if weights is not None:
        merged = merge_file(model, weights)
        console.print(f"merged {len(merged)} tensors of {weights}")
    if release:
        save_release(model, out)
    else:
        pixel_pipeline(pipeline, model).save_pretrained(out)
    console.print(f"wrote {out}")


@app.command()
def merge(
    source: Source,
    delta: Annotated[Path, typer.Argument(help="delta.safetensors of a transfer.")],
    out: Out,
    dtype: Annotated[str, typer.Option(help="float32 or bfloat16.")] = "float32",
) -> None:
    """Put a delta over its source and write a pixel pipeline.

    Example: python -m l2p merge models/flux runs/flux-mini/transfer/delta.safetensors --out flux-pixels
    """
    from l2p.conversion import load_delta
    from l2p.pipeline import load_source, pixel_pipeline

    _check_new(out)
    pipeline = load_source(source, _dtype(dtype))
    pixel_pipeline(pipeline, load_delta(pipeline, delta)).save_pretrained(out)
    console.print(f"wrote {out}")


@app.command()
def sample(
    pipeline: Annotated[Path, typer.Argument(help="Folder of a pixel pipeline (from convert or merge).")],
    prompt: Annotated[list[str], typer.Argument(help="One prompt or more.")],
    out: Annotated[Path, typer.Option("--out", help="Folder for 0000.png, 0001.png, ...")],
    height: int = 1024,
    width: int = 1024,
    num_inference_steps: int = 30,
    guidance_scale: Annotated[float, typer.Option(help="1 turns guidance off.")] = 2.0,
    max_sequence_length: int = 512,
    seed: Annotated[int, typer.Option(help="The first prompt's; the next ones count up.")] = 0,
    dtype: Annotated[str, typer.Option(help="float32 or bfloat16.")] = "float32",
) -> None:
    """Draw images.

    Example: python -m l2p sample flux-pixels "a red star" "two blue rings" --height 48 --width 48 --out drawn
    """
    import torch

    from l2p.pipeline import L2PPipeline

    if not (pipeline / "model_index.json").is_file():
        raise ValueError(
            f"{pipeline} is no pixel pipeline: model_index.json is missing; make one with convert or merge"
        )
    drawer = L2PPipeline.from_pretrained(pipeline, dtype=_dtype(dtype))
    drawer.to("cuda" if torch.cuda.is_available() else "cpu")
    images = drawer(
        prompt,
        height=height,
        width=width,
        num_inference_steps=num_inference_steps,
        guidance_scale=guidance_scale,
        generator=[torch.Generator().manual_seed(seed + i) for i in range(len(prompt))],
        max_sequence_length=max_sequence_length,
    ).images
    out.mkdir(parents=True, exist_ok=True)
    for i, image in enumerate(images):
        image.save(out / f"{i:04d}.png")
    console.print(f"wrote {len(images)} images to {out}")


@app.command()
def inspect(
    path: Annotated[Path, typer.Argument(help="A pixel model or pipeline folder, or a .safetensors file.")],
) -> None:
    """Say what a folder or a weight file holds, without loading its weights.

    Example: python -m l2p inspect runs/flux-mini/transfer/model
    """
    from l2p.conversion import describe_files, model_config

    files = sorted(path.rglob("*.safetensors")) if path.is_dir() else [path]
    if not files or not files[0].is_file():
        raise FileNotFoundError(f"no .safetensors file at {path}")
    for key, value in model_config(path).items():
        console.print(f"{key}: {value}")
    table = Table("part", "tensors", "parameters", "dtypes")
    for part, tensors in describe_files(files).items():
        kinds = Counter(dtype for _, dtype in tensors)
        table.add_row(part, str(len(tensors)), f"{sum(size for size, _ in tensors):,}", ", ".join(map(str, kinds)))
    console.print(table)


def _check_new(out: Path) -> None:
    if out.exists():
        raise ValueError(f"{out} exists; give another --out or remove it")


def _dtype(name: str) -> Any:
    import torch

    known = {"float32": torch.float32, "bfloat16": torch.bfloat16}
    if name not in known:
        raise ValueError(f"unknown dtype {name!r}; known: {sorted(known)}")
    return known[name]


def main() -> None:
    """Run the command line; bad input is a message and exit status 2, not a traceback."""
    try:
        app()
    except (ValueError, FileNotFoundError) as error:
        Console(stderr=True).print(f"error: {error}", style="red", markup=False, highlight=False, soft_wrap=True)
        raise SystemExit(2) from error


if __name__ == "__main__":
    main()
