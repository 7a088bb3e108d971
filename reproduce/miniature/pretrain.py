"""Train what the miniature ships: `python -m reproduce.miniature.pretrain detector | vae | source`.

A source of any family that `sources.py` knows learns in two parts: its text encoders learn to read and are frozen
(`reading.py`), then its transformer learns the latents of rendered scenes (`source_training.py`). Counted in steps;
killed anywhere, it goes on from the last saved state. Two single-threaded processes: `torchrun --nproc_per_node 2 -m
reproduce.miniature.pretrain -- source --family flux` (without `--`, torchrun takes `--start` for one of its own).
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from accelerate import PartialState
from safetensors.torch import load_file, load_model, save_file, save_model
from torch import Tensor, nn

from bench.passport import file_sha256
from bench.records import differing, read_json, write_json
from l2p.architectures import get_architecture
from l2p.ending import run_command
from l2p.errors import InputError
from l2p.sources import load_source
from reproduce.launch import prepare_processor
from reproduce.miniature import detector as shape_detector
from reproduce.miniature.autoencoder import begin_from, train_autoencoder
from reproduce.miniature.detector_training import DetectorConfig
from reproduce.miniature.detector_training import train as train_detector
from reproduce.miniature.pool import Shares, build_pool
from reproduce.miniature.reading import Reader, ReadingConfig, text_encoders, train_reader
from reproduce.miniature.scenes import RESOLUTION, Layout
from reproduce.miniature.source_training import SourceConfig, train_source, zero_modulation
from reproduce.miniature.sources import WEIGHTS, build, miniature_source

app = typer.Typer(add_completion=False, help=__doc__, no_args_is_help=True)


def trained_vae(family: str, folder: Path | None) -> tuple[Any, str]:
    """A family's trained VAE, frozen, and its hash: from `folder`, or what is shipped with it or with a family alike.

    Raises FileNotFoundError where none of its class is there, with the command that trains one.
    """
    vae = build(family).vae
    folders = [folder] if folder else [WEIGHTS / family / "vae", *sorted(WEIGHTS.glob("*/vae"))]
    for candidate in folders:
        config = candidate / "config.json"
        if config.is_file() and read_json(config)["_class_name"] == type(vae).__name__:
            trained = type(vae).from_pretrained(candidate).eval().requires_grad_(False)
            return trained, file_sha256(candidate / "diffusion_pytorch_model.safetensors")
    raise FileNotFoundError(
        f"no trained {type(vae).__name__} in {', '.join(map(str, folders))}; train one: "
        f"python -m reproduce.miniature.pretrain vae --family {family}"
    )


def tie(folder: Path, options: dict[str, Any]) -> None:
    """Write a training's options to its folder; ValueError where it was begun with others, saying which.

    Its state and its pool are theirs: with other options it would go on as neither.
    """
    path = folder / "options.json"
    if path.is_file():
        others = [f"{name} {began!r}, now {now!r}" for name, began, now in differing(read_json(path), options)]
        if others:
            raise InputError(
                f"{folder} was begun with other options: {'; '.join(others)}. Give the same ones, or another --out."
            )
    elif PartialState().is_main_process:
        write_json(path, options)


def reading_encoders(pipeline: Any, family: str, config: ReadingConfig, folder: Path, start: Path | None) -> None:
    """Give the pipeline text encoders that read, frozen: those it has where it starts from a trained one."""
    state = PartialState()
    path = folder / "encoders.safetensors"
    encoders = nn.ModuleDict(text_encoders(pipeline))
    if start is None:
        with state.main_process_first():
            if not path.is_file():
                train_reader(Reader(get_architecture(family), pipeline, miniature_source(family)), config, folder)
                save_model(encoders, str(path.with_suffix(".tmp")))  # some of them share tensors
                path.with_suffix(".tmp").rename(path)
        load_model(encoders, path)
    encoders.eval().requires_grad_(False)


def own_pool(pipeline: Any, family: str, config: SourceConfig, folder: Path) -> dict[str, Tensor]:
    """This process's share of the scenes, from its file or built into it."""
    state = PartialState()
    rank, world = state.process_index, state.num_processes
    path = folder / f"pool-{rank}-of-{world}.safetensors"
    if not path.is_file():
        pool = build_pool(
            get_architecture(family),
            pipeline,
            np.random.default_rng([config.seed, 71, rank]),
            num_scenes=config.num_scenes // world,
            shares=config.shares,
            layout=config.layout,
            max_sequence_length=miniature_source(family).max_sequence_length,
        )
        save_file(pool, path.with_suffix(".tmp"))
        path.with_suffix(".tmp").rename(path)
    return load_file(path)


def pretrain(
    family: str, reading: ReadingConfig, config: SourceConfig, out: Path, vae: Path | None, start: Path | None
) -> None:
    """Train a family's miniature source into `out`/pipeline; `start`: a trained one to go on from.

    Raises ValueError for an unknown family, for a folder that was begun with other options, and for a guidance to
    learn without a start.
    """
    if config.guidance > 1 and not start:
        raise InputError(f"--guidance {config.guidance:g} is what a trained source draws with: give --start FOLDER")
    PartialState(cpu=not torch.cuda.is_available())  # before any other: without a GPU it would not look for a launcher
    torch.manual_seed(config.seed)
    pipeline = load_source(start) if start else build(family)
    trained, vae_sha256 = trained_vae(family, vae)
    pipeline.register_modules(vae=trained)
    out.mkdir(parents=True, exist_ok=True)
    tie(
        out,
        {
            "family": family,
            "reading": asdict(reading),
            "source": asdict(config),
            "vae_sha256": vae_sha256,
            "start_sha256": start and file_sha256(start / "transformer" / "diffusion_pytorch_model.safetensors"),
            "num_processes": PartialState().num_processes,
        },
    )
    if not start:
        zero_modulation(pipeline.transformer)
    reading_encoders(pipeline, family, reading, out, start)
    train_source(get_architecture(family), pipeline, own_pool(pipeline, family, config, out), config, out)


Started = Annotated[
    Path | None, typer.Option(help="a trained miniature's folder to start from instead of from nothing")
]
World = Annotated[Layout, typer.Option(help="what a prompt leaves open is drawn one way (said) or any way (open)")]
InShares = Annotated[Shares, typer.Option(help="the tasks' shares of the scenes; unnamed is for the end")]
Densely = Annotated[float, typer.Option(help="how often a scene of a GenEval task is told by its dense prompt")]
Shift = Annotated[float, typer.Option(help="noise shift: high teaches layout, low drawing")]
Guided = Annotated[float, typer.Option(min=1, help="learn what START draws with this guidance, to draw so without")]
ReadingSteps = Annotated[int, typer.Option(help="of the text encoders, before the source's own")]


@app.command()
def source(
    family: str = "flux",
    out: Annotated[Path | None, typer.Option(help="the training's folder, else runs/pretrain-FAMILY-LAYOUT")] = None,
    vae: Annotated[Path | None, typer.Option(help="the trained VAE's folder, else the shipped one")] = None,
    start: Started = None,
    num_steps: int = SourceConfig.num_steps,
    batch_size: int = SourceConfig.batch_size,
    num_scenes: int = SourceConfig.num_scenes,
    num_reading_steps: ReadingSteps = ReadingConfig.num_steps,
    shares: InShares = SourceConfig.shares,
    layout: World = SourceConfig.layout,
    dense_probability: Densely = SourceConfig.dense_probability,
    learning_rate: float = SourceConfig.learning_rate,
    shift: Shift = SourceConfig.shift,
    guidance: Guided = SourceConfig.guidance,
    seed: int = 0,
) -> None:
    """Pre-train a family's miniature source into OUT/pipeline.

    Example: torchrun --nproc_per_node 2 -m reproduce.miniature.pretrain -- source --family sd3 --num-steps 6000
    """
    prepare_processor()
    config = SourceConfig(
        num_steps=num_steps,
        batch_size=batch_size,
        num_scenes=num_scenes,
        shares=shares,
        layout=layout,
        dense_probability=dense_probability,
        learning_rate=learning_rate,
        muon_learning_rate=10 * learning_rate,
        shift=shift,
        guidance=guidance,
        seed=seed,
    )
    reading = ReadingConfig(num_steps=num_reading_steps, seed=seed)
    pretrain(family, reading, config, out or Path("runs") / f"pretrain-{family}-{layout}", vae, start)


@app.command()
def vae(
    family: str = "flux",
    out: Annotated[Path | None, typer.Option(help="else where FAMILY's VAE is shipped")] = None,
    start: Annotated[Path | None, typer.Option(help="a trained VAE's folder, of a class with the same layers")] = None,
    num_steps: int = 6000,
    learning_rate: float = 1e-3,
    decoder_only: bool = False,
    seed: int = 0,
) -> None:
    """Train a family's VAE into OUT, from scratch or from the diffusers folder START; FLUX.2's layers are FLUX's.

    Example: python -m reproduce.miniature.pretrain vae --family qwenimage --num-steps 6000

    As it is: python -m reproduce.miniature.pretrain vae --family flux2 --start WEIGHTS/flux/vae --num-steps 0
    """
    prepare_processor()
    torch.manual_seed(seed)
    model = build(family).vae
    if start:
        begin_from(model, start)
    train_autoencoder(model, RESOLUTION, num_steps, seed=seed, learning_rate=learning_rate, decoder_only=decoder_only)
    model.eval().save_pretrained(out or WEIGHTS / family / "vae")


@app.command()
def ship(run: Path, out: Path) -> None:
    """Write a trained source from RUN/pipeline to OUT as it is shipped: weights in bfloat16, half the bytes.

    A part that a source beside OUT holds too becomes a link to its file there.

    Example: python -m reproduce.miniature.pretrain ship runs/pretrain-sd3-said reproduce/miniature/weights/sd3
    """
    load_source(run / "pipeline").to(torch.bfloat16).save_pretrained(out)
    for path in out.rglob("*.json"):
        config = json.loads(path.read_text("utf-8"))
        if not isinstance(config, dict):
            continue
        told = dict(config)
        told.pop("_name_or_path", None)  # where the weights were read, which is nobody's business
        if "dtype" in told:  # transformers loads what this says, diffusers always single precision: all parts alike
            told["dtype"] = "float32"
        if told != config:
            path.write_text(json.dumps(told, indent=2) + "\n", "utf-8")
    link_shared(run / "pipeline", out)


def link_shared(trained: Path, out: Path) -> None:
    """Put links in place of OUT's weights that a source beside it holds, as they were trained or as they are now."""
    for path in list(out.rglob("*.safetensors")):
        part = path.relative_to(out)
        hashes = {file_sha256(path), file_sha256(trained / part)}
        others = (other for other in sorted(out.parent.glob(f"*/{part}")) if not other.is_symlink() and other != path)
        held = next((other for other in others if file_sha256(other) in hashes), None)
        if held is not None:
            path.unlink()
            path.symlink_to(os.path.relpath(held, path.parent))


@app.command()
def detector(
    out: Path = shape_detector.WEIGHTS,
    state: Annotated[Path, typer.Option(help="where an interrupted training goes on from")] = Path(
        "runs/pretrain-detector"
    ),
    num_steps: int = DetectorConfig.num_steps,
    channels: int = DetectorConfig.channels,
    seed: int = 0,
) -> None:
    """Train the shape detector on deformed renders into OUT.

    Example: python -m reproduce.miniature.pretrain detector
    """
    prepare_processor()
    config = DetectorConfig(num_steps=num_steps, channels=channels, seed=seed)
    shape_detector.save(train_detector(config, state), out)


if __name__ == "__main__":
    sys.exit(run_command(app, name="python -m reproduce.miniature.pretrain"))
