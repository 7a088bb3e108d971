"""Small pixel models, and files to spoil."""

from pathlib import Path
from typing import Any

import torch
from diffusers import FluxPipeline
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from l2p.pixel_transformer import PixelTransformer2DModel
from tests.tiny import source


def pixel_model(flux: FluxPipeline) -> PixelTransformer2DModel:
    """A FLUX pixel model of patch size 8 with random weights."""
    torch.manual_seed(3)
    return PixelTransformer2DModel.from_source(flux.transformer, patch_size=8)


def tiny_zimage() -> PixelTransformer2DModel:
    """A Z-Image pixel model of patch size 8 with random weights."""
    torch.manual_seed(4)
    return PixelTransformer2DModel.from_source(source("zimage").transformer, patch_size=8)


def rewrite(path: Path, change: Any) -> None:
    """Change a file's tensors and keep what its header says."""
    with safe_open(path, framework="pt") as file:
        said = file.metadata()
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path, metadata=said)
