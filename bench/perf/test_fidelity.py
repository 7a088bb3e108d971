"""How fast FID and FID-patch are made, against the way of PixVerve's script: `pytest bench/perf/test_fidelity.py`.

The script's way: one picture at a time, read once for FID and once for FID-patch, each patch cut out and turned into a
tensor by itself, torchmetrics' Inception as PyTorch runs it, the root by eigenvalues of a product. It looks at the real
side again for every model; ours, whose statistics are kept, is judged where they are there. Same random weights,
same random pictures, both sides of each pair. Processor seconds, so that other work on the machine does not count;
L2P_PERF_PAIRS, L2P_PERF_SIDE and L2P_PERF_PATCHES (20 in the script) make the study larger.
"""

from __future__ import annotations

import os
import random
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import PartialState
from PIL import Image
from torchmetrics.image.fid import FrechetInceptionDistance
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as TF  # noqa: N812

from bench.fidelity.extractors import inception, random_inception_weights
from bench.fidelity.prepare import patch_places, patch_views, whole_view
from bench.fidelity.score import FidelityConfig, score_set
from bench.fidelity.variants import find_variant, with_patches
from bench.sets import read_set
from l2p.pictures import read_picture

NUM_PAIRS = int(os.environ.get("L2P_PERF_PAIRS", "4"))
SIDE = int(os.environ.get("L2P_PERF_SIDE", "1024"))
NUM_PATCHES = int(os.environ.get("L2P_PERF_PATCHES", "2"))
PATCH = 299
LARGE = 4096

FOUND: dict[str, Any] = {}
"""What each way found, by name, to hold against the other's."""


def write_pictures(folder: Path, seed: int, count: int, side: int) -> None:
    """JPEG pictures of coarse and fine noise."""
    folder.mkdir()
    draw = np.random.default_rng(seed)
    for number in range(count):
        coarse = Image.fromarray(draw.integers(0, 256, (16, 16, 3), dtype=np.uint8)).resize((side, side))
        fine = draw.integers(-20, 20, (side, side, 3))
        pixels = (np.asarray(coarse).astype(int) + fine).clip(0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{number:03}.jpg", quality=95)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: Any) -> tuple[Path, Path]:
    """Drawn and real pictures."""
    root = tmp_path_factory.mktemp("perf")
    for seed, name in enumerate(("images", "real")):
        write_pictures(root / name, seed, NUM_PAIRS, SIDE)
    return root / "images", root / "real"


@pytest.fixture(scope="module")
def weights(tmp_path_factory: Any) -> dict[str, torch.Tensor]:
    """Random weights of Inception."""
    return random_inception_weights()


def scripts_metric(weights: dict[str, torch.Tensor], folder: Path) -> FrechetInceptionDistance:
    """torchmetrics' FID with these weights."""
    path = folder.with_name("weights.pth")
    if not path.exists():
        torch.save(weights, path)
    return FrechetInceptionDistance(normalize=False, feature_extractor_weights_path=str(path))


@torch.no_grad()
def scripts_way(folders: tuple[Path, Path], weights: dict[str, torch.Tensor]) -> dict[str, float]:
    """FID, then FID-patch, as PixVerve's compute_fid and compute_fid_patch make them."""
    images, real = (sorted(folder.iterdir()) for folder in folders)
    whole, patch = (scripts_metric(weights, folders[0]) for _ in range(2))
    for r, g in zip(real, images, strict=True):
        for path, is_real in ((r, True), (g, False)):
            picture = TF.center_crop(TF.resize(Image.open(path).convert("RGB"), (SIDE, SIDE)), (SIDE, SIDE))
            whole.update((TF.to_tensor(picture) * 255).to(torch.uint8).unsqueeze(0), real=is_real)
    random.seed(42)
    for r, g in zip(real, images, strict=True):
        pair = [TF.resize(Image.open(r).convert("RGB"), (SIDE, SIDE), interpolation=InterpolationMode.LANCZOS)]
        pair.append(Image.open(g).convert("RGB"))
        cut: list[list[torch.Tensor]] = [[], []]
        for _ in range(NUM_PATCHES):
            top, left = random.randint(0, SIDE - PATCH), random.randint(0, SIDE - PATCH)
            for patches, picture in zip(cut, pair, strict=True):
                one = TF.crop(picture, top, left, PATCH, PATCH)
                patches.append((TF.to_tensor(one) * 255).to(torch.uint8))
        patch.update(torch.stack(cut[0]), real=True)
        patch.update(torch.stack(cut[1]), real=False)
    return {"fid": float(whole.compute()), "fid-patch": float(patch.compute())}


def our_way(
    folders: tuple[Path, Path], weights: dict[str, torch.Tensor], out: Path, reference: Path | None = None
) -> dict[str, float]:
    """What `python -m bench fidelity` does, from folders to summaries."""
    PartialState(cpu=True)
    variant = with_patches(find_variant("pixverve"), ("fid", "fid-patch"), NUM_PATCHES, None, None)
    config = FidelityConfig(metrics=("fid", "fid-patch"), variant=variant, allow_few=True, device="cpu")
    judge = inception(weights, "cpu", {"name": "random"})
    summaries = score_set(read_set(folders[0]), reference or folders[1], judge, out, config)
    return {metric: summary.overall for metric, summary in summaries.items()}


@pytest.mark.benchmark(group="FID and FID-patch of pairs", timer=time.process_time)
@pytest.mark.parametrize("way", ["script", "ours", "ours, reference known"])
def test_pairs(benchmark: Any, way: str, folders: tuple[Path, Path], weights: Any, tmp_path: Path) -> None:
    """Both metrics, from files to figures; a further model needs no look at the reference."""
    if way == "script":
        found = benchmark.pedantic(lambda: scripts_way(folders, weights), rounds=1)
    elif way == "ours":
        found = benchmark.pedantic(lambda: our_way(folders, weights, tmp_path / "out"), rounds=1)
        FOUND["reference"] = tmp_path / "out" / "reference.safetensors"
    else:
        known = FOUND["reference"]
        found = benchmark.pedantic(lambda: our_way(folders, weights, tmp_path / "out", known), rounds=1)
    seconds = benchmark.stats.stats.min
    FOUND[way] = (found, seconds)
    benchmark.extra_info |= {"pairs": NUM_PAIRS, "side": SIDE, "patches": NUM_PATCHES}
    if way != "script":
        theirs, script_s = FOUND["script"]
        print(f"\n{NUM_PAIRS} pairs of {SIDE} px, {NUM_PATCHES} patches: {script_s:.1f} s against {seconds:.1f} s")
        print(f"{way}: {script_s / seconds:.1f} x; {theirs} against {found}")
        assert found == pytest.approx(theirs, rel=1e-4)
        # both sides anew is bound by the network, whose arithmetic is the same: reported, not judged
        assert way == "ours" or script_s / seconds >= 3


@pytest.fixture(scope="module")
def large(tmp_path_factory: Any) -> Path:
    """A picture of 4096 x 4096."""
    folder = tmp_path_factory.mktemp("large") / "pictures"
    write_pictures(folder, 0, 1, LARGE)
    return folder / "000.jpg"


def scripts_squares(path: Path) -> torch.Tensor:
    """One picture's squares [21, 3, 299, 299] as the script and torchmetrics make them."""
    squashed = TF.center_crop(TF.resize(Image.open(path).convert("RGB"), (LARGE, LARGE)), (LARGE, LARGE))
    pixels = (TF.to_tensor(squashed) * 255).to(torch.uint8).unsqueeze(0).float()
    whole = torch.nn.functional.interpolate(
        pixels, size=(PATCH, PATCH), mode="bilinear", align_corners=False, antialias=True
    )
    picture = TF.resize(Image.open(path).convert("RGB"), (LARGE, LARGE), interpolation=InterpolationMode.LANCZOS)
    random.seed(42)
    patches = []
    for _ in range(20):
        top, left = random.randint(0, LARGE - PATCH), random.randint(0, LARGE - PATCH)
        patches.append((TF.to_tensor(TF.crop(picture, top, left, PATCH, PATCH)) * 255).to(torch.uint8).float())
    return torch.cat([whole, torch.stack(patches)])


def our_squares(path: Path) -> torch.Tensor:
    """The same squares, the picture read once and never turned into floats as a whole but for the antialiasing."""
    variant = find_variant("pixverve")
    assert variant.patches
    picture = read_picture(path)
    (places,) = patch_places(1, variant.patches, LARGE)
    patches = patch_views(picture, places, variant.patches, LARGE, variant, PATCH)
    return torch.cat([whole_view(picture, variant, LARGE, PATCH), patches])


@pytest.mark.benchmark(group="a 4096 x 4096 picture, prepared", timer=time.process_time)
@pytest.mark.parametrize("way", ["script", "ours"])
def test_preparation(benchmark: Any, way: str, large: Path) -> None:
    """Reading, fitting and cutting alone; how much faster is printed, not judged: the network decides the whole."""
    make = {"script": scripts_squares, "ours": our_squares}[way]
    found = benchmark.pedantic(lambda: make(large), rounds=3)
    FOUND[f"prepared, {way}"] = (found, benchmark.stats.stats.min)
    if way == "ours":
        theirs, script_s = FOUND["prepared, script"]
        print(f"\na 4K picture prepared: {script_s:.2f} s against {benchmark.stats.stats.min:.2f} s")
        assert torch.allclose(found, theirs, atol=1e-3)
