"""mmdet as a worker process: its detections are our Mask2Former's. Run by `nox -s parity-mmdet`."""

import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from bench.geneval.convert import from_mmdet
from bench.geneval.detectors import load_detector
from bench.geneval.mask2former import Mask2Former, build_model, mask2former_config
from bench.geneval.mmdet import MMDet, mmdet_python

from .test_mask2former import as_mmdet_2, weights

WRITE = """
import sys
from bench.geneval import mmdet_model, mmdet_stub
mmdet_stub.install()
config = mmdet_model.config()
config.model.backbone.update(init_cfg=None, embed_dims=24, depths=[2, 2, 2, 2])
config.model.panoptic_head.update(in_channels=[24, 48, 96, 192], num_queries=10)
for step in config.test_dataloader.dataset.pipeline:
    if step["type"] == "Resize":
        step["scale"] = (96, 64)
config.dump(sys.argv[1])
"""


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A reduced configuration of mmdet's, and a 2.x checkpoint of its weights."""
    import gzip
    import json

    if "L2P_MMDET_PYTHON" not in os.environ:
        pytest.skip("needs mmdet in an environment of its own: nox -s parity-mmdet makes it and runs this")
    folder = tmp_path_factory.mktemp("mmdet")
    subprocess.run([mmdet_python(), "-c", WRITE, folder / "config.py"], check=True, capture_output=True)
    with gzip.open(Path(__file__).parent / "mmdet_recorded.json.gz") as file:
        shapes = json.load(file)["shapes"]
    tensors = {name: torch.from_numpy(weights(name, shape)).float() for name, shape in shapes.items()}
    tensors["panoptic_head.cls_embed.weight"] *= 4
    index = np.arange(7)
    places = np.stack(np.meshgrid(index, index, indexing="ij")).reshape(2, -1)
    offsets = places[:, :, None] - places[:, None] + 6
    for stage in range(4):
        for block in range(2):
            name = f"backbone.stages.{stage}.blocks.{block}.attn.w_msa.relative_position_index"
            tensors[name] = torch.from_numpy(offsets[0] * 13 + offsets[1])
    torch.save({"state_dict": as_mmdet_2(tensors)}, folder / "old.pth")
    return folder, tensors


def test_the_worker_finds_what_our_network_finds(files):
    folder, tensors = files
    worker = MMDet(str(folder / "old.pth"), config=str(folder / "config.py"))
    own = Mask2Former(
        build_model(mask2former_config(24, (2, 2, 2, 2), num_queries=10), from_mmdet(tensors)),
        "mmdet-3",
        scale=(96, 64),
    )
    random = np.random.default_rng(0)
    images = [Image.fromarray(random.integers(0, 256, (*size, 3), dtype=np.uint8)) for size in ((40, 40), (30, 50))]
    theirs, ours = worker(images), own(images)
    worker.close()
    assert worker.passport["name"].startswith("mmdet 3") and len(worker.passport["sha256"]) == 64
    for a, b in zip(theirs, ours, strict=True):
        assert len(a) == len(b) > 5
        a, b = (sorted(found, key=lambda d: (d.label, -d.score)) for found in (a, b))
        for x, y in zip(a, b, strict=True):
            assert x.label == y.label and x.score == pytest.approx(y.score, abs=1e-3)
            assert (x.mask != y.mask).mean() < 0.01


def test_weights_that_do_not_fit_are_refused(files):
    folder, tensors = files
    torch.save({"state_dict": {k: v for k, v in tensors.items() if "query_feat" not in k}}, folder / "short.pth")
    with pytest.raises(ConnectionError, match="(?s)does not fit mmdet's model.*query_feat"):
        MMDet(str(folder / "short.pth"), config=str(folder / "config.py"))
    with pytest.raises(FileNotFoundError):
        load_detector("mmdet", str(folder / "none.pth"))
    with pytest.raises(ValueError, match="needs --weights"):
        load_detector("mmdet")
