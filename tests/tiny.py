"""Tiny random sources of every family, for every test that needs one."""

from typing import Any

import torch

from l2p.architectures import TinySizes, get_architecture

torch.set_num_threads(1)


def source(family: str = "flux", seed: int = 0, **sizes: Any) -> Any:
    """The family's own pipeline with random weights; `sizes` are fields of TinySizes."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        pipeline = get_architecture(family).tiny_source(TinySizes(**sizes))
    pipeline.set_progress_bar_config(disable=True)
    return pipeline
