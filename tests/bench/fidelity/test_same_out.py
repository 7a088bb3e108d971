"""The same `--out` after pictures were added, removed or reordered: the figure of a new folder, or a refusal."""

import json
import shutil
from pathlib import Path

import numpy as np

from bench.__main__ import main
from bench.fidelity import extractors, features

from .conftest import random_picture, write_pictures
from .test_fidelity import OWN, PATCHES, fidelity, told, value


def same(first: Path, other: Path) -> bool:
    """Whether two folders of results hold the same features, in the same shards, and no others."""
    found = [
        {path.name: path.read_bytes() for path in [out / "features.jsonl", *(out / "features").iterdir()]}
        for out in (first, other)
    ]
    return found[0] == found[1] and len(found[0]) > 2


def test_added_and_removed_pictures_give_the_figure_of_a_new_folder(folders, tmp_path, monkeypatch):
    asked, run = [], extractors.run_extractor
    monkeypatch.setattr(
        features, "run_extractor", lambda judge, pixels: asked.append(len(pixels)) or run(judge, pixels)
    )
    images = Path(shutil.copytree(folders[0], tmp_path / "images"))
    given = ("fid", "clean", "--batch-size", "8")
    assert fidelity(images, folders[1], tmp_path / "o", *given) == 0
    before = value(tmp_path / "o")
    random = np.random.default_rng(5)
    for name in ("p010a", "p010b", "p010c", "p010d", "p010e"):  # behind the first batch
        random_picture(random, 40, 40).save(images / f"{name}.png")
    asked.clear()
    assert fidelity(images, folders[1], tmp_path / "o", *given) == 0
    assert sum(asked) == 65 - 8  # the first batch is as it was
    assert fidelity(images, folders[1], tmp_path / "new", *given) == 0
    assert value(tmp_path / "o") == value(tmp_path / "new") != before
    assert same(tmp_path / "o", tmp_path / "new")
    (images / "p000.png").unlink()
    assert fidelity(images, folders[1], tmp_path / "o", *given) == 0
    assert fidelity(images, folders[1], tmp_path / "less", *given) == 0
    assert value(tmp_path / "o") == value(tmp_path / "less") and same(tmp_path / "o", tmp_path / "less")


def test_another_order_is_refused_where_it_decides_places_and_followed_where_not(tmp_path, capsys):
    images, real = (write_pictures(tmp_path / name, 24, k) for k, name in enumerate(("i", "r")))
    names = sorted((path.name for path in images.iterdir()), reverse=True)
    (tmp_path / "order.jsonl").write_text("".join(json.dumps({"file_name": name}) + "\n" for name in names))
    order = ("--order", str(tmp_path / "order.jsonl"))
    stats = ["fidelity", "stats", str(real), "--metric", "fid,fid-patch", "--variant", "pixverve", *OWN, *PATCHES]
    for name, more in (("a", ()), ("b", order)):
        assert main([*stats, "--out", str(tmp_path / f"{name}.safetensors"), *more]) == 0
    given = ("fid-patch", "pixverve", *PATCHES)
    assert fidelity(images, tmp_path / "a.safetensors", tmp_path / "o", *given) == 0
    before = value(tmp_path / "o", "fid-patch")
    assert fidelity(images, tmp_path / "b.safetensors", tmp_path / "o", *given, *order) == 2
    assert "holds results of other settings (names_in_order_sha256: there" in told(capsys)
    assert value(tmp_path / "o", "fid-patch") == before
    given = ("fid", "pixverve", "--size", "32")
    for out, sides in (("w", (("a", ()), ("b", order))), ("v", (("b", order),))):
        for name, more in sides:
            assert fidelity(images, tmp_path / f"{name}.safetensors", tmp_path / out, *given, *more) == 0
    assert value(tmp_path / "w") == value(tmp_path / "v") and same(tmp_path / "w", tmp_path / "v")
