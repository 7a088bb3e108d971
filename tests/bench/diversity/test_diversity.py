"""`python -m bench diversity`: LPIPS by lpips itself, closed forms, folders that do not fit."""

import itertools
import warnings

import lpips
import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import models

from bench.__main__ import main
from bench.diversity.models import distance_judge, load_lpips, lpips_judge, to_signed
from bench.records import read_jsonl, read_summary
from l2p.errors import InputError

HERE = "tests.bench.diversity.test_diversity"
OWN = ["--judge", f"{HERE}:levels", "--device", "cpu"]


def levels():
    """A loader of a judge: the distance of two pictures is that of their means, as a share."""

    def ask(images):
        means = [np.asarray(image).mean() / 255 for image in images]
        return [[abs(one - other) for other in means[k + 1 :]] for k, one in enumerate(means)]

    return ask


def broken():
    """A loader of a judge that gives too few distances."""
    return lambda images: [[0.1]]


def write(folder, prompts=3, seeds=4, side=16):
    """Grey levels 10 k of prompt p's k-th picture, in two layouts."""
    for p, k in itertools.product(range(prompts), range(seeds)):
        path = folder / (f"a{p}_{k}.png" if p else f"a0/samples/{k:04}.png")
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (side, side), (10 * k * (p + 1),) * 3).save(path)
    return folder


def diversity(folder, out, *more):
    return main(["diversity", str(folder), "--out", str(out), *more])


@pytest.fixture(scope="module")
def backbone():
    torch.manual_seed(0)
    return models.squeezenet1_1().state_dict()


def test_lpips_is_lpips_own(backbone, tmp_path):
    torch.save(backbone, tmp_path / "squeeze.pth")
    judge = load_lpips("squeeze", str(tmp_path / "squeeze.pth"))
    random = np.random.default_rng(0)
    images = [Image.fromarray(random.integers(0, 256, (64, 64, 3), dtype=np.uint8)) for _ in range(3)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = lpips.LPIPS(net="squeeze", pnet_rand=True, verbose=False)
    names = {name: f"features.{name.partition('.')[2]}" for name in theirs.net.state_dict()}
    theirs.net.load_state_dict({name: backbone[own] for name, own in names.items()})
    with torch.no_grad():
        expected = [[float(theirs(to_signed(a), to_signed(b))) for b in images[k + 1 :]] for k, a in enumerate(images)]
    found = judge(images)
    assert [len(row) for row in found] == [2, 1, 0]
    assert np.allclose(sum(found, []), sum(expected, []), rtol=1e-4) and min(sum(expected, [])) > 1e-3
    assert judge.passport["name"] == "lpips-squeeze" and judge.passport["weights"] == "squeeze.pth"
    assert judge([images[0], images[0]]) == [[0.0], []]


def test_weights_of_another_network_are_refused(backbone, tmp_path):
    with pytest.raises(InputError, match="not those of torchvision's alexnet"):
        lpips_judge("alex", backbone, "cpu", {})
    with pytest.raises(InputError, match="unknown network 'resnet'; LPIPS has alex, vgg, squeeze"):
        load_lpips("resnet", "x")


def test_any_networks_maps_make_a_distance():
    """One place, two channels: unit vectors at a right angle are sqrt(2) apart."""
    maps = {"a": [torch.tensor([3.0, 0.0])[None, :, None, None]], "b": [torch.tensor([0.0, 5.0])[None, :, None, None]]}
    judge = distance_judge(maps.__getitem__, None, {})
    assert judge(["a", "b"])[0][0] == pytest.approx(2.0)
    halves = distance_judge(maps.__getitem__, [lambda squared: squared[:, :1] / 2], {})
    assert halves(["a", "b"])[0][0] == pytest.approx(0.5)


def test_the_value_is_the_mean_over_prompts_of_the_mean_over_pairs(tmp_path, capsys):
    images = write(tmp_path / "images")
    assert diversity(images, tmp_path / "out", *OWN) == 0
    pair_mean = 10 * np.mean([b - a for a, b in itertools.combinations(range(4), 2)]) / 255
    summary = read_summary(tmp_path / "out" / "summary.json")
    assert summary.overall == pytest.approx(pair_mean * np.mean([1, 2, 3]))
    assert summary.num_scored == 3 and summary.passport["images_per_prompt"] == 4
    rows = read_jsonl(tmp_path / "out" / "scores.jsonl")
    assert [row["prompt_id"] for row in rows] == ["a0", "a1", "a2"]
    assert [2 * row["value"] for row in rows] == pytest.approx([pair_mean * k for k in (1, 2, 3)])
    assert main(["rescore", str(tmp_path / "out")]) == 0
    assert read_summary(tmp_path / "out-rescored" / "summary.json") == summary
    assert main(["compare", *[str(tmp_path / "out")] * 2]) == 0
    assert "3 prompts: B is within noise" in capsys.readouterr().out


def test_a_size_is_named(tmp_path):
    images = write(tmp_path / "images")
    assert diversity(images, tmp_path / "out", *OWN, "--size", "8") == 0
    assert read_summary(tmp_path / "out" / "summary.json").variant == f"{HERE}:levels, at 8 px"
    assert diversity(images, tmp_path / "out", *OWN) == 2


def test_unequal_counts_are_noted_and_a_lone_picture_is_refused(tmp_path, capsys):
    images = write(tmp_path / "images")
    (images / "a1_3.png").unlink()
    assert diversity(images, tmp_path / "out", *OWN) == 0
    assert "note: prompts have 3 to 4 pictures" in capsys.readouterr().out
    Image.new("RGB", (16, 16)).save(images / "b0_0.png")
    assert diversity(images, tmp_path / "other", *OWN) == 2
    assert "needs 2 pictures of each prompt; one alone have 1 (b0) of 4 prompts" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["a1_0.png", "a1_3.png"])
def test_the_same_out_after_a_picture_was_deleted_is_that_of_a_new_folder(tmp_path, name):
    images = write(tmp_path / "images")
    assert diversity(images, tmp_path / "out", *OWN) == 0
    (images / name).unlink()
    for out in ("out", "new"):
        assert diversity(images, tmp_path / out, *OWN) == 0
    for file in ("distances.jsonl", "scores.jsonl", "summary.json"):
        assert (tmp_path / "out" / file).read_bytes() == (tmp_path / "new" / file).read_bytes()


def test_two_seeds_of_one_suite_have_one_hash_of_what_was_asked(tmp_path):
    for name, seeds in (("a", 4), ("b", 4), ("c", 3)):
        images = write(tmp_path / name, seeds=seeds)
        if name == "b":
            Image.new("RGB", (16, 16), (200,) * 3).save(images / "a1_2.png")
        assert diversity(images, tmp_path / f"{name}-out", *OWN) == 0
    a, b, c = (read_summary(tmp_path / f"{name}-out" / "summary.json").passport for name in "abc")
    assert a["prompts_sha256"] == b["prompts_sha256"] != c["prompts_sha256"]
    assert a["pictures_sha256"] != b["pictures_sha256"]


def test_a_picture_that_stands_there_twice_is_named(tmp_path, capsys):
    images = write(tmp_path / "images")
    Image.new("RGB", (16, 16)).save(images / "a1.png")
    assert diversity(images, tmp_path / "out", *OWN) == 2
    assert "a1.png and a1_0.png are both picture 0 of a1" in capsys.readouterr().err


def test_scores_of_ones_own_are_not_replaced(tmp_path, capsys):
    images = write(tmp_path / "images")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "scores.jsonl").write_text("mine")
    assert diversity(images, tmp_path / "out", *OWN) == 2
    assert "holds scores.jsonl, but no settings.json" in capsys.readouterr().err
    assert (tmp_path / "out" / "scores.jsonl").read_text() == "mine"


def test_sizes_mixed_within_a_prompt_are_refused_and_between_prompts_noted(tmp_path, capsys):
    images = write(tmp_path / "images")
    for k in range(4):
        Image.new("RGB", (24, 16), (k,) * 3).save(images / f"a2_{k}.png")
    assert diversity(images, tmp_path / "out", *OWN) == 0
    assert "note: pictures of 2 sizes" in capsys.readouterr().out
    Image.new("RGB", (24, 16)).save(images / "a1_0.png")
    assert diversity(images, tmp_path / "other", *OWN) == 2
    assert "of one prompt must have one size; mixed are 1 (a1)" in capsys.readouterr().err


def test_a_broken_picture_or_judge_is_named(tmp_path, capsys):
    images = write(tmp_path / "images")
    content = (images / "a1_1.png").read_bytes()
    (images / "a1_1.png").write_bytes(content[: len(content) // 2])
    assert diversity(images, tmp_path / "out", *OWN) == 2
    assert "4 pictures cannot be read" in capsys.readouterr().err
    (images / "a1_1.png").write_bytes(content)
    assert diversity(images, tmp_path / "other", "--judge", f"{HERE}:broken", "--device", "cpu") == 2
    assert "of 4 pictures the distances to those after each are needed" in capsys.readouterr().err
    assert diversity(images, tmp_path / "more", "--device", "cpu") == 2
    assert "LPIPS' alex needs --weights" in capsys.readouterr().err
    assert diversity(images, tmp_path / "more", "--judge", f"{HERE}:broken", "--network", "vgg") == 2
    assert "give one of them" in capsys.readouterr().err


def test_the_miniatures_maps_tell_pictures_apart(tmp_path):
    images = write(tmp_path / "images", side=48)
    own = ["--judge", "reproduce.miniature.detector:perceptual", "--device", "cpu"]
    assert diversity(images, tmp_path / "o", *own) == 0
    summary = read_summary(tmp_path / "o" / "summary.json")
    assert 0 < summary.overall < 2 and summary.variant == "miniature shape detector's maps"
