"""Stage 2: the transfer; all of it is `l2p.transfer`'s."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from accelerate import PartialState

from bench.records import read_json
from l2p.progress import say
from l2p.transfer import run_transfer
from reproduce.memory import TRAINING, gpus_here, placement
from reproduce.recipes import Recipe, source_of
from reproduce.stages.corpus import training_corpus


def run(recipe: Recipe, run_dir: Path) -> None:
    """Train on the corpus, write `transfer/`; images that are missing stop it unless the run's manifest allows them."""
    allow_missing = read_json(run_dir / "run.json")["allow_missing"]
    config = replace(recipe.transfer, allow_missing=allow_missing)
    start = run_dir / recipe.start if recipe.start is not None else None
    corpus = training_corpus(recipe, run_dir)
    gpus, num_processes = gpus_here(), PartialState().num_processes  # on all nodes
    lies = placement(recipe, None if gpus is None else replace(gpus, num=num_processes))
    if lies != "replicate":
        say(f"transfer: {TRAINING[lies]}, as the plan has it")
    out = run_dir / "transfer"
    run_transfer(source_of(recipe), corpus, config, out, start=start, sampling=sampling(recipe), placement=lies)


def sampling(recipe: Recipe) -> dict[str, Any]:
    """The settings to draw with that the delta keeps."""
    drawn = recipe.l2p_sampler
    return {
        "num_inference_steps": drawn.num_inference_steps,
        "guidance_scale": drawn.guidance_scale,
        "max_sequence_length": drawn.max_sequence_length,
        "shift": drawn.shift or 1.0,
        "scheduler": drawn.scheduler or "euler",
    }
