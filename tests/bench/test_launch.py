"""Two real processes, started by torchrun, write what one writes: the miniature's judges on rendered scenes."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bench.__main__ import main
from bench.geneval.prompts import write_suite
from bench.runner import this_process

ROOT = Path(__file__).parents[2]
SIDE = 48


def geneval(folder: Path) -> list[str]:
    """A suite of six prompts, two rendered images each; the command that scores it."""
    from reproduce.miniature.prompts import task_entry
    from reproduce.miniature.render import render
    from reproduce.miniature.scenes import TASKS, task_scene

    random = np.random.default_rng(3)
    scenes = {task: task_scene(random, task) for task in TASKS}
    write_suite(folder, [task_entry(scene, task) for task, scene in scenes.items()])
    for number, scene in enumerate(scenes.values()):
        for index, shown in enumerate((scene, scenes["counting"])):
            Image.fromarray(render(shown, SIDE)).save(folder / f"{number:05}/samples/{index:04}.png")
    options = ["--detector", "reproduce.miniature.detector:load", "--no-self-test"]
    return ["geneval", str(folder), *options, "--expected", f"{len(scenes)}x2", "--batch-size", "2"]


def dpg(folder: Path) -> list[str]:
    """Four grids, two tiles of each rendered from another item's scene; the command that scores them."""
    from reproduce.miniature.questions import dpg_scenes, write_questions
    from reproduce.miniature.render import render

    scenes = list(dpg_scenes(4, 3).items())
    questions = write_questions(folder.with_suffix(".csv"), 4, 3)
    folder.mkdir()
    for number, (item_id, scene) in enumerate(scenes):
        right, wrong = (Image.fromarray(render(one, SIDE)) for one in (scene, scenes[number - 1][1]))
        grid = Image.new("RGB", (2 * SIDE, 2 * SIDE))
        for k, tile in enumerate((right, wrong, wrong, right)):
            grid.paste(tile, (k % 2 * SIDE, k // 2 * SIDE))
        grid.save(folder / f"{item_id}.png")
    options = ["--vqa", "reproduce.miniature.answers:answerer", "--resolution", str(SIDE)]
    return ["dpg", str(folder), "--questions", str(questions), *options]


def fidelity(folder: Path) -> list[str]:
    """Two sets of twenty pictures, and the command that compares them by the miniature's extractor."""
    for name, seed in ((folder, 1), (folder.with_name("real"), 2)):
        name.mkdir()
        pixels = np.random.default_rng(seed).integers(0, 255, (20, 4, 4, 3)).astype(np.uint8)
        for number, one in enumerate(pixels):
            Image.fromarray(one).resize((SIDE, SIDE)).save(name / f"{number}.png")
    options = [
        "--extractor",
        "reproduce.miniature.detector:features",
        "--variant",
        "clean",
        "--metric",
        "fid,precision",
    ]
    more = ["--batch-size", "3", "--allow-few"]
    return ["fidelity", str(folder), "--reference", str(folder.with_name("real")), *options, *more]


FILES = {
    geneval: ("detections.jsonl", "scores.jsonl", "summary.json"),
    dpg: ("answers.jsonl", "scores-official.jsonl", "scores-corrected.jsonl", "summary.json", "summary-corrected.json"),
    fidelity: ("features.jsonl", "features/*.safetensors", "fid/summary.json", "precision/scores.jsonl"),
}


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@pytest.mark.parametrize("make", FILES, ids=lambda function: function.__name__)
def test_two_processes_of_torchrun_write_what_one_writes(make, tmp_path):
    command = make(tmp_path / "images")
    assert main([*command, "--out", str(tmp_path / "one")]) == 0
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", f"--master-port={free_port()}"]
    ended = subprocess.run(
        [*torchrun, "-m", "bench", *command, "--out", str(tmp_path / "two")],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 0, ended.stderr[-2000:]
    assert ended.stdout.count("Written to") == 1  # the first process alone reports
    one, two = (
        {path.name: path.read_bytes() for name in FILES[make] for path in (tmp_path / out).glob(name)}
        for out in ("one", "two")
    )
    assert one == two and all(one.values()) and len(one) >= len(FILES[make])
    assert sorted(path.name for path in (tmp_path / "two").iterdir()) == sorted(
        path.name for path in (tmp_path / "one").iterdir()
    )


def test_processes_that_do_not_find_each_other_stop(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="2 processes were started, but 1 found each other"):
        this_process("cpu")
