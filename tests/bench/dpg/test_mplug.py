"""mPLUG's path with random weights in its own environment: `nox -s dpg-mplug` makes that and runs this."""

import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bench.dpg.score import ScoreConfig, score_folder
from bench.dpg.vqa import load_vqa
from bench.records import read_json, read_jsonl

ROOT = Path(__file__).resolve().parents[3]
PYTHON = Path(os.environ.get("L2P_MPLUG_PYTHON", ROOT / ".venv-mplug/bin/python"))
SIZE = os.environ.get("L2P_MPLUG_SIZE", "")  # small, or large: the published widths, many minutes and 8 GB

pytestmark = pytest.mark.skipif(not SIZE, reason="mPLUG's path is tried by `nox -s dpg-mplug`")


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    """A model folder with random weights; making it compares our batched answers with the network's own forward."""
    folder = tmp_path_factory.mktemp("mplug") / "model"
    command = [PYTHON, "-W", "ignore", ROOT / "tests/tools/mplug_check.py", folder, "--size", SIZE]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(ROOT)})
    print(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "12 of 12 answers equal" in done.stdout
    return folder


def picture(seed: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (64, 64, 3), dtype=np.uint8))


def test_a_folder_is_scored_by_the_worker_even_when_it_dies(model, questions, tmp_path):
    file = questions(("a", 1, 0), ("a", 2, 1), ("b", 1, 0))
    images = tmp_path / "images"
    images.mkdir()
    for seed, item_id in enumerate("ab"):
        picture(seed).resize((128, 128)).save(images / f"{item_id}.png")
    vqa = load_vqa("mplug", model=str(model))
    config = ScoreConfig(variant="corrected", device="cpu")
    try:
        summary = score_folder(images, file.path, vqa, tmp_path / "out", resolution=64, vqa_name="mplug", config=config)
        first = vqa(picture(0), ["Is there a circle?", "Are there stars?"])
        vqa.ask._process.kill()  # as the system does when memory runs out
        assert vqa(picture(0), ["Is there a circle?", "Are there stars?"]) == first
    finally:
        vqa.ask.close()
    print(
        *((row["prompt_id"], row["index"], row["answers"]) for row in read_jsonl(tmp_path / "out/answers.jsonl")),
        sep="\n",
    )
    assert (summary.num_expected, summary.num_scored) == (2, 2)
    passport = read_json(tmp_path / "out" / "summary.json")["passport"]["models"]["vqa"]
    assert passport["versions"]["transformers"] == "4.57.6" and passport["versions"]["modelscope"].startswith("1.40")
    assert len(passport["weights_sha256"]) == 64


BAD_FILES = """
import os, pickle, sys
from pathlib import Path
import torch
sys.path.insert(0, sys.argv[1])
import mplug_worker as worker

folder, bad = Path(sys.argv[2]), Path(sys.argv[3])
model = worker.build_model(folder)
state = torch.load(folder / "pytorch_model.bin", weights_only=True)
state.pop(next(name for name in state if name.startswith("text_decoder") and name.endswith("weight")))
torch.save({"module": state}, bad)

class Trap:
    def __reduce__(self):
        return os.mkdir, (sys.argv[3] + ".ran",)

trap = bad.with_name("trap.bin")
trap.write_bytes(pickle.dumps({"x": Trap()}))
for path in (bad, trap):
    try:
        worker.load_weights(model, path)
        print("loaded", path)
    except (ValueError, pickle.UnpicklingError) as error:
        print(type(error).__name__, error)
"""


def test_weights_that_lack_a_tensor_or_run_code_are_refused(model, tmp_path):
    command = [PYTHON, "-W", "ignore", "-c", BAD_FILES, ROOT / "bench/dpg", model, tmp_path / "bad.bin"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "lacks 1 of the network's tensors, such as ['text_decoder" in done.stdout
    assert "UnpicklingError" in done.stdout and "loaded" not in done.stdout
    assert not (tmp_path / "bad.bin.ran").exists()
