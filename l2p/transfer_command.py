"""`python -m l2p transfer`: the method by itself, on one's own source and corpus."""

import math
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from l2p.errors import InputError

# torch takes seconds to load and is imported by the command. The defaults repeat TransferConfig's; a test compares.

MOST = 10**9  # of counts: more is a slip of the keyboard


def transfer(
    source: Annotated[str, typer.Argument(help="Source pipeline: a diffusers folder or a hub id.")],
    corpus: Annotated[
        Path, typer.Argument(help="Images and prompts: a folder (metadata.jsonl, CSV, .tar) or dataset.")
    ],
    out: Annotated[Path, typer.Option("--out", help="Folder of the transfer; an interrupted one goes on there.")],
    patch_size: Annotated[int, typer.Option(min=1, max=1024, help="Pixels along a patch's side.")] = 16,
    prediction: Annotated[str, typer.Option(help="velocity, clean or preconditioned.")] = "velocity",
    input_projection: Annotated[str, typer.Option(help="random, or ridge: fitted to the source's latents.")] = "random",
    inherit: Annotated[Path | None, typer.Option(help="Start from another pixel model's weights.")] = None,
    trainable: Annotated[str, typer.Option(help="ends, released, head or all.")] = "ends",
    num_trainable_blocks: Annotated[int, typer.Option(min=0, max=10_000, help="Blocks trained at each end.")] = 5,
    num_train_steps: Annotated[int, typer.Option(min=1, max=MOST, help="Optimizer steps.")] = 100_000,
    batch_size: Annotated[int, typer.Option(min=1, max=65_536, help="Images of one step, over all processes.")] = 8,
    gradient_accumulation_steps: Annotated[int, typer.Option(min=1, max=65_536, help="Parts of a batch.")] = 1,
    learning_rate: Annotated[float, typer.Option(help="AdamW's.")] = 5e-5,
    num_warmup_steps: Annotated[int, typer.Option(min=0, max=MOST, help="Steps up to that rate.")] = 0,
    num_decay_steps: Annotated[int, typer.Option(min=0, max=MOST, help="Last steps, down to a fiftieth of it.")] = 0,
    max_grad_norm: Annotated[float | None, typer.Option(help="Clip gradients to this norm; none: never.")] = None,
    ema_decay: Annotated[float | None, typer.Option(help="Keep averaged weights; none: the last ones.")] = None,
    shift: Annotated[float, typer.Option(help="Noise shift of training and sampling.")] = 3.0,
    prompt_dropout: Annotated[float, typer.Option(help="Share of images trained on the empty prompt.")] = 0.1,
    max_sequence_length: Annotated[
        int, typer.Option(min=1, max=32_768, help="Tokens of a prompt, also when sampling.")
    ] = 512,
    resolution: Annotated[int | None, typer.Option(min=1, max=65_536, help="Scale images to this square.")] = None,
    allow_missing: Annotated[bool, typer.Option("--allow-missing", help="Leave out damaged images.")] = False,
    mixed_precision: Annotated[str, typer.Option(help="no or bf16.")] = "no",
    gradient_checkpointing: Annotated[bool, typer.Option("--gradient-checkpointing", help="Less memory.")] = False,
    num_validation_images: Annotated[int, typer.Option(min=1, max=1_000_000, help="Images held back.")] = 64,
    save_every: Annotated[int, typer.Option(min=1, max=MOST, help="Steps between saved states.")] = 1000,
    seed: Annotated[int, typer.Option(min=0, max=2**62, help="Of weights, batches and noise.")] = 0,
    num_inference_steps: Annotated[int, typer.Option(min=1, max=10_000, help="Kept for `sample`.")] = 30,
    guidance_scale: Annotated[float, typer.Option(help="Kept for `sample`; 1 turns guidance off.")] = 2.0,
) -> None:
    """Turn a source into a pixel model on a corpus of images; the same command goes on after an interruption.

    Example: python -m l2p transfer models/flux corpus --out flux-transfer --resolution 1024 --mixed-precision bf16

    Several GPUs: accelerate launch -m l2p transfer ...
    """
    from l2p.transfer import TransferConfig, run_transfer

    _check_apart(out, Path(source), corpus)
    if not math.isfinite(guidance_scale):
        raise InputError(f"guidance_scale {guidance_scale} is no number; give one, 1 turns guidance off")
    config = TransferConfig(
        patch_size=patch_size,
        prediction=prediction,
        input_projection=_word(input_projection),
        trainable=trainable,
        num_trainable_blocks=num_trainable_blocks,
        num_train_steps=num_train_steps,
        batch_size=batch_size,
        gradient_accumulation_steps=gradient_accumulation_steps,
        learning_rate=learning_rate,
        num_warmup_steps=num_warmup_steps,
        num_decay_steps=num_decay_steps,
        max_grad_norm=max_grad_norm,
        ema_decay=ema_decay,
        shift=shift,
        prompt_dropout=prompt_dropout,
        max_sequence_length=max_sequence_length,
        resolution=resolution,
        allow_missing=allow_missing,
        mixed_precision=_word(mixed_precision),
        gradient_checkpointing=gradient_checkpointing,
        num_validation_images=num_validation_images,
        save_every=save_every,
        seed=seed,
    )
    sampling = {"num_inference_steps": num_inference_steps, "guidance_scale": guidance_scale}
    summary = run_transfer(source, corpus, config, out, start=inherit, sampling=sampling)
    said = f"{summary.num_train_steps} steps, loss {summary.final_loss:.4f}; wrote {out / 'delta.safetensors'}"
    following = f"next: python -m l2p merge {source} {out / 'delta.safetensors'} --out pixels"
    Console(soft_wrap=True).print(f"{said}\n{following}", markup=False, highlight=False)


def _word(choice: str) -> Any:
    return choice  # TransferConfig checks it and lists the known ones


def _check_apart(out: Path, source: Path, corpus: Path) -> None:
    for name, place in (("source", source), ("corpus", corpus)):
        if place.exists() and out.resolve() == place.resolve():
            raise InputError(f"--out {out} is the {name}'s own folder; give another")
