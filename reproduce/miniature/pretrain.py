"""Train what the miniature ships: `python -m reproduce.miniature.pretrain detector | vae | flux`.

The source learns by its own objective (flow matching on latents) from rendered scenes, encoded once. It has three
helps: Muon on the blocks' matrices; a linear head on a middle block's image tokens that predicts each token's shape
and colour; one on the text encoder's tokens that predicts what their noun phrase says (released text encoders come
trained, this one starts from nothing). Both heads are thrown away afterwards. Counted in steps; killed anywhere, it
goes on from the last saved state. Two single-threaded processes: `torchrun --nproc_per_node 2 -m
reproduce.miniature.pretrain -- flux` (without `--`, torchrun takes `--start` for one of its own options).
"""

from __future__ import annotations

import copy
import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import torch
import torch.nn.functional as F
import typer
from accelerate import Accelerator
from diffusers import FluxPipeline
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from bench.geneval.rules import COLORS, RELATIONS, TASKS
from reproduce.launch import prepare_processor
from reproduce.miniature import detector as shape_detector
from reproduce.miniature.autoencoder import train_autoencoder
from reproduce.miniature.detector import to_tensor
from reproduce.miniature.detector_training import DetectorConfig
from reproduce.miniature.detector_training import train as train_detector
from reproduce.miniature.muon import Muon
from reproduce.miniature.prompts import MAX_SEQUENCE_LENGTH, dense_prompt, phrase_labels, task_entry
from reproduce.miniature.render import render_batch
from reproduce.miniature.scenes import DEFAULT_LAYOUT, SHAPES, Layout, Scene, dense_scene, task_scene
from reproduce.miniature.sources import RESOLUTION, SOURCES, WEIGHTS

app = typer.Typer(add_completion=False, help=__doc__, no_args_is_help=True)
TOKEN = 8  # pixels a token covers
GRID = RESOLUTION // TOKEN
PHRASE_CLASSES = (len(SHAPES) + 1, len(COLORS) + 1, len(RELATIONS) + 1, 5, 3)  # as `phrase_labels` numbers them
Pool = Literal["bound", "unnamed"]
# Name -> each task's share of the scenes, the rest dense. "unnamed" is for the end: what it has more of are the tasks
# whose prompts name neither colour nor side, the last that a source learns.
POOL_SHARES: dict[Pool, dict[str, float]] = {
    "bound": {
        "single_object": 0.04,
        "two_object": 0.12,
        "counting": 0.18,
        "colors": 0.07,
        "position": 0.21,
        "color_attr": 0.22,
    },
    "unnamed": {
        "single_object": 0.03,
        "two_object": 0.25,
        "counting": 0.30,
        "colors": 0.04,
        "position": 0.12,
        "color_attr": 0.11,
    },
}


@dataclass(frozen=True, kw_only=True)
class PretrainConfig:
    """Settings of the source's training; `batch_size` is a process's own."""

    num_steps: int = 6000
    batch_size: int = 48
    num_scenes: int = 65536
    pool: Pool = "bound"
    layout: Layout = DEFAULT_LAYOUT
    learning_rate: float = 1e-3
    muon_learning_rate: float = 1e-2
    warmup_steps: int = 100
    hold: float = 0.6  # share of the steps before the learning rate falls
    shift: float = 5.0  # the layout is decided above sigma 0.9: a third of the batch
    semantic_weight: float = 0.25
    phrase_weight: float = 0.1
    null_probability: float = 0.1
    dense_probability: float = 0.35  # how often a scene of a GenEval task is told by its dense prompt
    ema_decay: float = 0.998
    seed: int = 0
    save_every: int = 250


def token_labels(scene: Scene) -> np.ndarray:
    """What each 8 px token shows, uint8 [2, 36]: shape and colour index + 1, 0 for background."""
    labels = np.zeros((2, GRID, GRID), np.uint8)
    nearest = np.full((GRID, GRID), 2.0 / RESOLUTION)
    centre = (np.arange(GRID) + 0.5) / GRID
    for item in scene.objects:
        outside = np.hypot(centre[None] - item.x, centre[:, None] - item.y) - item.radius
        won = outside < nearest
        nearest = np.where(won, outside, nearest)
        labels[:, won] = np.array([[SHAPES.index(item.shape) + 1], [COLORS.index(item.color) + 1]])
    return labels.reshape(2, -1)


def build_pool(pipe: FluxPipeline, config: PretrainConfig, rank: int, num_processes: int) -> dict[str, Tensor]:
    """This process's share of the scenes, encoded once: latents, task and dense captions, token and phrase labels."""
    rng = np.random.default_rng([config.seed, 71, rank])
    shares = [*POOL_SHARES[config.pool].values()]
    shares.append(1 - sum(shares))
    latents, captions, dense, labels = [], [], [], []
    for _ in range(config.num_scenes // num_processes // 64):
        scenes = []
        for kind in rng.choice(len(shares), 64, p=shares):
            scene = task_scene(rng, TASKS[kind], config.layout) if kind < len(TASKS) else dense_scene(rng)
            told = dense_prompt(scene)
            captions.append(task_entry(scene, TASKS[kind])["prompt"] if kind < len(TASKS) else told)
            dense.append(told)
            scenes.append(scene)
            labels.append(token_labels(scene))
        with torch.no_grad():
            pictures = to_tensor(render_batch(scenes, RESOLUTION))
            latents.append(pipe.vae.encode(pictures).latent_dist.mode().half())
    z = torch.cat(latents)
    return {
        "latents": pipe._pack_latents(z, len(z), z.shape[1], z.shape[2], z.shape[3]),  # [N, 36, 32]
        "captions": _token_ids(pipe, captions),
        "dense": _token_ids(pipe, dense),
        "labels": torch.from_numpy(np.stack(labels)),
        "caption_phrases": torch.from_numpy(np.stack([phrase_labels(text) for text in captions])),
        "dense_phrases": torch.from_numpy(np.stack([phrase_labels(text) for text in dense])),
    }


def _token_ids(pipe: FluxPipeline, texts: list[str]) -> Tensor:
    padded = pipe.tokenizer_2(
        texts, padding="max_length", max_length=MAX_SEQUENCE_LENGTH, truncation=True, return_tensors="pt"
    )
    return padded.input_ids.to(torch.int16)


class SourceTraining(nn.Module):
    """Text encoders, transformer and the two auxiliary heads as one module whose forward is the training loss."""

    def __init__(self, pipe: FluxPipeline, config: PretrainConfig):
        super().__init__()
        self.clip, self.t5, self.transformer = pipe.text_encoder, pipe.text_encoder_2, pipe.transformer
        width = self.transformer.config.num_attention_heads * self.transformer.config.attention_head_dim
        self.semantic = nn.Linear(width, len(SHAPES) + 1 + len(COLORS) + 1)
        self.phrase = nn.Linear(self.t5.config.d_model, sum(PHRASE_CLASSES))
        image_ids = torch.zeros(GRID, GRID, 3)
        image_ids[..., 1], image_ids[..., 2] = torch.arange(GRID)[:, None], torch.arange(GRID)
        self.register_buffer("image_ids", image_ids.reshape(-1, 3))
        self.register_buffer("text_ids", torch.zeros(MAX_SEQUENCE_LENGTH, 3))
        self._middle: Tensor | None = None
        self.transformer.single_transformer_blocks[1].register_forward_hook(self._keep_middle)

    def _keep_middle(self, module: nn.Module, inputs: tuple, output: tuple) -> None:
        self._middle = output[1]

    def velocity(self, noisy: Tensor, sigma: Tensor, ids: Tensor, told: Tensor) -> Tensor:
        """Velocity [B, 36, 32] of packed latents, as FluxPipeline calls the transformer; `told` is the T5's output."""
        return self.transformer(
            hidden_states=noisy,
            timestep=sigma,
            encoder_hidden_states=told,
            pooled_projections=self.clip(ids).pooler_output,
            img_ids=self.image_ids,
            txt_ids=self.text_ids,
            return_dict=False,
        )[0]

    def forward(
        self, clean: Tensor, noise: Tensor, sigma: Tensor, ids: Tensor, labels: Tensor, phrases: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Flow-matching loss, semantic loss and phrase loss."""
        s = sigma[:, None, None]
        told = self.t5(ids)[0]  # [B, 24, 96]
        velocity = self.velocity((1 - s) * clean + s * noise, sigma, ids, told)
        guess = self.semantic(self._middle)  # [B, 36, 7 + 11]
        shapes, colors = guess.split([len(SHAPES) + 1, len(COLORS) + 1], dim=-1)
        quiet = torch.ones(len(COLORS) + 1)
        quiet[0] = 0.3  # most tokens are background
        semantic = F.cross_entropy(shapes.flatten(0, 1), labels[:, 0].flatten(), quiet[: len(SHAPES) + 1])
        semantic = semantic + F.cross_entropy(colors.flatten(0, 1), labels[:, 1].flatten(), quiet)
        said = self.phrase(told).flatten(0, 1).split(list(PHRASE_CLASSES), dim=-1)
        phrase = torch.stack([F.cross_entropy(g, k) for g, k in zip(said, phrases.flatten(0, 1).T, strict=True)]).sum()
        return F.mse_loss(velocity, noise - clean), semantic, phrase


def _optimizers(module: SourceTraining, config: PretrainConfig) -> list[torch.optim.Optimizer]:
    """Muon for the blocks' matrices, AdamW for the rest."""
    named = dict(module.named_parameters())
    matrices = {k for k, p in named.items() if p.ndim == 2 and "transformer_blocks" in k and "norm" not in k}
    muon = Muon([named[k] for k in sorted(matrices)], lr=config.muon_learning_rate)
    rest = [p for k, p in named.items() if k not in matrices]
    return [muon, torch.optim.AdamW(rest, lr=config.learning_rate, betas=(0.9, 0.98), weight_decay=0.01)]


def _zero_start(pipe: FluxPipeline) -> None:
    """adaLN-zero: every modulation and the output start at nought (Peebles and Xie 2023)."""
    blocks = pipe.transformer.transformer_blocks
    layers = [norm.linear for b in blocks for norm in (b.norm1, b.norm1_context)]
    layers += [b.norm.linear for b in pipe.transformer.single_transformer_blocks]
    for layer in [*layers, pipe.transformer.norm_out.linear, pipe.transformer.proj_out]:
        nn.init.zeros_(layer.weight)
        nn.init.zeros_(layer.bias)


def _batch(pool: dict[str, Tensor], config: PretrainConfig, step: int, rank: int, null: Tensor) -> tuple[Tensor, ...]:
    """The batch of one step and rank: a function of (seed, step, rank) alone."""
    g = torch.Generator().manual_seed(int(np.random.SeedSequence([config.seed, step, rank]).generate_state(1)[0]))
    size = config.batch_size
    pick = torch.randint(0, len(pool["latents"]), (size,), generator=g)
    told_densely = torch.rand(size, 1, generator=g) < config.dense_probability
    ids = torch.where(told_densely, pool["dense"][pick], pool["captions"][pick])
    phrases = torch.where(told_densely[..., None], pool["dense_phrases"][pick], pool["caption_phrases"][pick])
    untold = torch.rand(size, 1, generator=g) < config.null_probability
    ids, phrases = torch.where(untold, null, ids).long(), phrases.masked_fill(untold[..., None], 0).long()
    clean = pool["latents"][pick].float()
    noise = torch.randn(clean.shape, generator=g)
    sigma = torch.randn(size, generator=g).sigmoid()
    sigma = config.shift * sigma / (1 + (config.shift - 1) * sigma)
    return clean, noise, sigma, ids, pool["labels"][pick].long(), phrases


def _rate(step: int, config: PretrainConfig) -> float:
    """Warm-up, hold, linear fall to 3 %."""
    left = (config.num_steps - step) / (config.num_steps * (1 - config.hold))
    return min(1.0, (step + 1) / config.warmup_steps) * min(1.0, max(0.03, left))


def _save_state(folder: Path, state: dict) -> None:
    torch.save(state, folder / "state.tmp")
    (folder / "state.tmp").rename(folder / "state.pt")


def train_source(pipe: FluxPipeline, config: PretrainConfig, folder: Path) -> None:
    """Train text encoders and transformer; the averaged weights lie in `folder`/pipeline after each saved state."""
    accelerator = Accelerator(cpu=True)
    rank, world = accelerator.process_index, accelerator.num_processes
    torch.manual_seed(config.seed)
    module = SourceTraining(pipe, config)
    average = copy.deepcopy({k: v for k, v in module.state_dict().items()})
    optimizers, first, losses = _optimizers(module, config), 0, [0.0, 0.0, 0.0]
    bases = [o.param_groups[0]["lr"] for o in optimizers]
    if (folder / "state.pt").is_file():
        state = torch.load(folder / "state.pt", weights_only=True)
        module.load_state_dict(state["module"])
        for optimizer, saved in zip(optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        average, first, losses = state["average"], state["step"], state["losses"]
    pool_file = folder / f"pool-{rank}-of-{world}.safetensors"
    if not pool_file.is_file():
        save_file(build_pool(pipe, config, rank, world), pool_file.with_suffix(".tmp"))
        pool_file.with_suffix(".tmp").rename(pool_file)
    pool, null = load_file(pool_file), _token_ids(pipe, [""])
    wrapped = accelerator.prepare(module)
    started = time.monotonic()
    for step in range(first, config.num_steps):
        for optimizer, base in zip(optimizers, bases, strict=True):
            optimizer.param_groups[0]["lr"] = base * _rate(step, config)
            optimizer.zero_grad()
        velocity, semantic, phrase = wrapped(*_batch(pool, config, step, rank, null))
        (velocity + config.semantic_weight * semantic + config.phrase_weight * phrase).backward()
        torch.nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
        decay = min(config.ema_decay, (1 + step) / (10 + step))
        for name, value in module.state_dict().items():
            average[name].lerp_(value, 1 - decay)
        keep = 0.98 if step else 0.0
        now = (velocity.item(), semantic.item(), phrase.item())
        losses = [keep * old + (1 - keep) * new for old, new in zip(losses, now, strict=True)]
        if rank == 0 and (step + 1) % 50 == 0:
            row = {"step": step + 1, "velocity_loss": round(losses[0], 5), "semantic_loss": round(losses[1], 4)}
            row["phrase_loss"] = round(losses[2], 4)
            row |= {
                "num_images": (step + 1) * config.batch_size * world,
                "seconds": round(time.monotonic() - started, 1),
            }
            with (folder / "log.jsonl").open("a") as log:
                log.write(json.dumps(row) + "\n")
        if rank == 0 and ((step + 1) % config.save_every == 0 or step + 1 == config.num_steps):
            saved = [o.state_dict() for o in optimizers]
            _save_state(
                folder,
                {
                    "module": module.state_dict(),
                    "average": average,
                    "optimizers": saved,
                    "step": step + 1,
                    "losses": losses,
                },
            )
            _save_pipeline(pipe, average, folder / "pipeline")
    accelerator.wait_for_everyone()


def _save_pipeline(pipe: FluxPipeline, average: dict[str, Tensor], folder: Path) -> None:
    """A pipeline with the averaged weights as a diffusers folder."""
    averaged = SOURCES["flux"]()
    averaged.register_modules(vae=pipe.vae)
    parts = {"clip": averaged.text_encoder, "t5": averaged.text_encoder_2, "transformer": averaged.transformer}
    for name, part in parts.items():
        part.load_state_dict({k.removeprefix(f"{name}."): v for k, v in average.items() if k.startswith(f"{name}.")})
    averaged.save_pretrained(folder)


@app.command()
def flux(
    out: Path = Path("runs/pretrain-flux"),
    vae: Annotated[Path, typer.Option(help="the trained VAE's folder")] = WEIGHTS / "flux" / "vae",
    start: Annotated[
        Path | None, typer.Option(help="a trained miniature's folder to start from instead of from nothing")
    ] = None,
    num_steps: int = PretrainConfig.num_steps,
    batch_size: int = PretrainConfig.batch_size,
    num_scenes: int = PretrainConfig.num_scenes,
    pool: Annotated[Pool, typer.Option(help="the tasks' shares of the scenes; unnamed is for the end")] = (
        PretrainConfig.pool
    ),
    layout: Annotated[
        Layout, typer.Option(help="what a prompt leaves open is drawn one way (said) or any way (open)")
    ] = PretrainConfig.layout,
    dense_probability: Annotated[
        float, typer.Option(help="how often a scene of a GenEval task is told by its dense prompt")
    ] = PretrainConfig.dense_probability,
    learning_rate: float = PretrainConfig.learning_rate,
    shift: Annotated[float, typer.Option(help="noise shift: high teaches layout, low drawing")] = PretrainConfig.shift,
    seed: int = 0,
) -> None:
    """Pre-train the FLUX miniature into OUT/pipeline.

    Example: torchrun --nproc_per_node 2 -m reproduce.miniature.pretrain -- flux --num-steps 6000
    """
    config = PretrainConfig(
        num_steps=num_steps,
        batch_size=batch_size,
        num_scenes=num_scenes,
        pool=pool,
        layout=layout,
        dense_probability=dense_probability,
        learning_rate=learning_rate,
        muon_learning_rate=10 * learning_rate,
        shift=shift,
        seed=seed,
    )
    prepare_processor()
    torch.manual_seed(seed)
    out.mkdir(parents=True, exist_ok=True)
    pipe = FluxPipeline.from_pretrained(start) if start else SOURCES["flux"]()
    pipe.register_modules(vae=type(pipe.vae).from_pretrained(vae).eval().requires_grad_(False))
    if not start:
        _zero_start(pipe)
    (out / "config.json").write_text(json.dumps(asdict(config) | {"start": start and str(start)}, indent=1))
    train_source(pipe, config, out)


@app.command()
def vae(
    out: Path = WEIGHTS / "flux" / "vae",
    start: Path | None = None,
    num_steps: int = 6000,
    learning_rate: float = 1e-3,
    decoder_only: bool = False,
    seed: int = 0,
) -> None:
    """Train the miniature's VAE into OUT, from scratch or from a diffusers folder START.

    Example: python -m reproduce.miniature.pretrain vae --num-steps 6000
    """
    prepare_processor()
    torch.manual_seed(seed)
    model = type(SOURCES["flux"]().vae).from_pretrained(start) if start else SOURCES["flux"]().vae
    train_autoencoder(model, RESOLUTION, num_steps, seed=seed, learning_rate=learning_rate, decoder_only=decoder_only)
    model.eval().save_pretrained(out)


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

    Example: python -m reproduce.miniature.pretrain detector --num-steps 6000
    """
    prepare_processor()
    config = DetectorConfig(num_steps=num_steps, channels=channels, seed=seed)
    shape_detector.save(train_detector(config, state), out)


if __name__ == "__main__":
    app()
