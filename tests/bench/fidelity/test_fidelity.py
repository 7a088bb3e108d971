"""`python -m bench fidelity` on folders: the libraries' own figures, resumed, rescored, refused."""

import json
import random
import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
import torch_fidelity
from cleanfid import fid as clean
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch_fidelity.feature_extractor_base import FeatureExtractorBase
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
from torch_fidelity.interpolate_compat_tensorflow import interpolate_bilinear_2d_like_tensorflow1x
from torchmetrics.image.fid import FrechetInceptionDistance, NoTrainInceptionV3
from torchmetrics.image.inception import InceptionScore
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as TF  # noqa: N812

from bench.__main__ import main
from bench.fidelity import extractors, features, prepare
from bench.fidelity.features import load_features
from bench.records import read_jsonl, read_object, read_summary
from l2p.errors import InputError

from .conftest import NUM_FEATURES, SIDE, Toy, random_picture, write_pictures

HERE = "tests.bench.fidelity"
OWN = ["--extractor", f"{HERE}.conftest:toy", "--device", "cpu"]
PATCHES = ["--num-patches", "4", "--patch-side", "16", "--size", "32"]
PAIRED = ["fidelity", "{images}", "--out", "{out}", "--reference", "{real}"]  # the places of a test's own folders


def fidelity(images, reference, out, metric="fid", variant="torch-fidelity", *more):
    where = ["fidelity", str(images), "--reference", str(reference), "--out", str(out)]
    return main([*where, "--metric", metric, "--variant", variant, *OWN, *more])


def value(out, metric="fid"):
    return read_summary(out / metric / "summary.json").overall


def told(capsys):
    error = capsys.readouterr().err
    assert "Traceback" not in error
    return error


class LibraryToy(FeatureExtractorBase):
    """The same network as torch-fidelity wants one."""

    def __init__(self, name, features_list, **kwargs):
        super().__init__(name, features_list)
        self.network = Toy()

    @staticmethod
    def get_provided_features_list():
        return ("toy",)

    @staticmethod
    def get_default_feature_layer_for_metric(metric):
        return "toy"

    def forward(self, pixels):
        resized = interpolate_bilinear_2d_like_tensorflow1x(pixels.float(), size=(SIDE, SIDE), align_corners=False)
        return (self.network(resized),)


def test_all_metrics_are_torch_fidelitys(folders, tmp_path):
    images, real = folders
    torch_fidelity.register_feature_extractor("toy", LibraryToy)
    theirs = torch_fidelity.calculate_metrics(
        input1=str(images),
        input2=str(real),
        feature_extractor="toy",
        cuda=False,
        isc=True,
        fid=True,
        kid=True,
        prc=True,
        kid_subset_size=1000 if len(list(images.iterdir())) >= 1000 else 60,
        batch_size=1,
        cache=False,
        verbose=False,
        samples_find_ext="png",
    )
    assert fidelity(images, real, tmp_path, "fid,is,kid,precision,recall", "torch-fidelity", "--allow-few") == 0
    names = {
        "fid": "frechet_inception_distance",
        "is": "inception_score_mean",
        "precision": "precision",
        "recall": "recall",
        "kid": "kernel_inception_distance_mean",
    }
    for metric, name in names.items():
        assert value(tmp_path, metric) == pytest.approx(theirs[name], rel=1e-4), metric
        assert theirs[name] > 0.001
    assert read_summary(tmp_path / "kid" / "summary.json").variant == "torch-fidelity, few"
    assert read_summary(tmp_path / "fid" / "summary.json").variant == "torch-fidelity"


def test_fid_and_kid_are_clean_fids(folders, tmp_path):
    images, real = folders
    network = Toy()
    rows = [
        clean.get_folder_features(
            str(folder),
            network,
            num_workers=0,
            device=torch.device("cpu"),
            custom_fn_resize=clean.make_resizer("PIL", False, "bicubic", (SIDE, SIDE)),
            verbose=False,
        )
        for folder in (images, real)
    ]
    assert fidelity(images, real, tmp_path, "fid,kid", "clean") == 0
    assert value(tmp_path) == pytest.approx(clean.fid_from_feats(*rows), rel=1e-4)
    np.random.seed(0)
    assert value(tmp_path, "kid") == pytest.approx(clean.kernel_distance(*rows, num_subsets=1), rel=1e-4)
    assert read_summary(tmp_path / "kid" / "summary.json").variant == "clean"  # fewer is clean-fid's own rule


class TorchmetricsToy(torch.nn.Module):
    """The same network, resizing as torchmetrics' Inception does."""

    num_features = NUM_FEATURES

    def __init__(self):
        super().__init__()
        self.network = Toy()

    def forward(self, pixels):
        shape = {"size": (SIDE, SIDE), "mode": "bilinear", "align_corners": False, "antialias": True}
        return self.network(torch.nn.functional.interpolate(pixels.float(), **shape))


def pairs(folders):
    images, real = (sorted(folder.iterdir()) for folder in folders)
    return [tuple(Image.open(path).convert("RGB") for path in pair) for pair in zip(images, real, strict=True)]


def test_fid_and_fid_patch_are_pixverves_by_torchmetrics(folders, tmp_path):
    whole, patch = (FrechetInceptionDistance(feature=TorchmetricsToy()) for _ in range(2))
    random.seed(42)
    for pair in pairs(folders):
        sides = [(pair[1], True), (pair[0], False)]
        for picture, is_real in sides:
            squashed = TF.center_crop(TF.resize(picture, (32, 32)), (32, 32))
            whole.update((TF.to_tensor(squashed) * 255).to(torch.uint8)[None], real=is_real)
        places = [(random.randint(0, 16), random.randint(0, 16)) for _ in range(4)]
        for picture, is_real in sides:
            resized = TF.resize(picture, (32, 32), interpolation=InterpolationMode.LANCZOS)
            cut = [(TF.to_tensor(TF.crop(resized, *place, 16, 16)) * 255).to(torch.uint8) for place in places]
            patch.update(torch.stack(cut), real=is_real)
    assert fidelity(*folders, tmp_path, "fid,fid-patch", "pixverve", *PATCHES) == 0
    assert value(tmp_path) == pytest.approx(float(whole.compute()), rel=1e-4)
    assert value(tmp_path, "fid-patch") == pytest.approx(float(patch.compute()), rel=1e-4)
    summary = read_summary(tmp_path / "fid-patch" / "summary.json")
    assert summary.variant == "pixverve, changed patches"
    assert summary.passport["recipe"]["patches"] == {"count": 4, "side": 16, "seed": 42}
    assert summary.passport["details"]["rows"] == 240


def test_fid_is_diffusion_4ks_by_torchmetrics(folders, tmp_path):
    theirs = FrechetInceptionDistance(feature=TorchmetricsToy())
    for pair in pairs(folders):
        for picture, is_real in zip(pair, (False, True), strict=True):
            pixels = torch.tensor(np.array(picture))[None].permute(0, 3, 1, 2)
            theirs.update(TF.center_crop(TF.resize(pixels, 32), (32, 32)), real=is_real)
    assert fidelity(*folders, tmp_path, "fid", "diffusion4k", "--size", "32") == 0
    assert value(tmp_path) == pytest.approx(float(theirs.compute()), rel=1e-4)


def test_is_of_one_split_is_torchmetrics(folders):
    """Its shuffling has no seed, which one split does not see."""
    from bench.fidelity.metrics import inception_score

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = InceptionScore(feature=TorchmetricsToy(), splits=1)
    rows = []
    for picture, _ in pairs(folders)[:20]:
        pixels = torch.tensor(np.array(picture))[None].permute(0, 3, 1, 2)
        theirs.update(pixels)
        rows.append(Toy()(prepare.antialias(pixels[0], SIDE)[None]).numpy())
    assert inception_score(np.concatenate(rows), splits=1) == pytest.approx(float(theirs.compute()[0]), rel=1e-4)


def test_inception_is_torch_fidelitys_and_torchmetrics_with_the_same_weights(tmp_path):
    state = extractors.random_inception_weights()
    torch.save(state, tmp_path / "weights.pth")
    save_file(state, tmp_path / "weights.safetensors")
    judge = extractors.load_inception(str(tmp_path / "weights.safetensors"))
    assert judge.passport["published"] is False and len(judge.passport["sha256"]) == 64
    picture = random_picture(np.random.default_rng(1), 60, 90)
    pixels = prepare.to_tensor(picture)
    path = str(tmp_path / "weights.pth")
    theirs = FeatureExtractorInceptionV3("own", ["2048", "logits_unbiased"], feature_extractor_weights_path=path)
    for shrink, expected in (
        (prepare.tensorflow, theirs(pixels[None])),
        (prepare.antialias, NoTrainInceptionV3("own", ["2048"], path)(pixels[None])),
    ):
        found = extractors.run_extractor(judge, shrink(pixels, 299)[None])
        reference = expected[0] if isinstance(expected, tuple) else expected
        assert reference.std() > 0.05
        assert torch.allclose(found["features"], reference, atol=1e-4)
    logits = theirs(pixels[None])[1]
    found = extractors.run_extractor(judge, prepare.tensorflow(pixels, 299)[None])
    assert torch.allclose(found["logits"], logits, atol=1e-4 * float(logits.abs().max()))


def test_weights_that_do_not_fit_or_are_not_safe_are_refused(tmp_path):
    save_file({"a": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(InputError, match="not those of torch-fidelity's Inception"):
        extractors.load_inception(str(tmp_path / "other.safetensors"))
    torch.save({"a": Path("x")}, tmp_path / "code.pth")
    with pytest.raises(InputError, match="no weights that are safe to read"):
        extractors.load_inception(str(tmp_path / "code.pth"))
    torch.save([1], tmp_path / "list.pth")
    with pytest.raises(InputError, match="holds no state dict"):
        extractors.load_inception(str(tmp_path / "list.pth"))
    with pytest.raises(FileNotFoundError, match=r"there is no nowhere\.pth"):
        extractors.check_extractor_name("inception", "nowhere.pth")
    with pytest.raises(InputError, match="needs --weights: torch-fidelity's weights-inception-2015"):
        extractors.check_extractor_name("inception", "")
    with pytest.raises(InputError, match="neither inception nor clip nor a package.module:function"):
        extractors.check_extractor_name("resnet", "")


def test_statistics_stand_for_their_folder_and_hold_the_count(folders, tmp_path, capsys):
    images, real = folders
    stats = [
        "fidelity",
        "stats",
        str(real),
        "--out",
        str(tmp_path / "ref.safetensors"),
        "--metric",
        "fid,kid,fid-patch",
    ]
    assert main([*stats, "--variant", "pixverve", *OWN, *PATCHES]) == 0
    assert "statistics of 60 pictures for fid, kid, fid-patch" in capsys.readouterr().out.splitlines()[-1]
    with safe_open(tmp_path / "ref.safetensors", "np") as file:
        about = json.loads(file.metadata()["about"])
        assert about["count"] == 60 and about["extractor"] == {"name": "toy"} and len(about["names"]) == 60
        assert file.get_tensor("whole.mean").dtype == np.float64
    assert not (tmp_path / "ref.safetensors.parts").exists()
    given = ("fid,kid,fid-patch", "pixverve", *PATCHES, "--allow-few")
    assert fidelity(images, tmp_path / "ref.safetensors", tmp_path / "a", *given) == 0
    assert fidelity(images, real, tmp_path / "b", *given) == 0
    for metric in ("fid", "kid", "fid-patch"):
        assert value(tmp_path / "a", metric) == value(tmp_path / "b", metric)
    assert main([*stats, "--variant", "pixverve", *OWN, *PATCHES]) == 0  # it is there already
    assert main([*stats, "--variant", "pixverve", *OWN, *PATCHES[:-1], "40"]) == 2
    assert "of other pictures or settings (preparation.size: there 32, now 40)" in told(capsys)
    assert fidelity(images, tmp_path / "ref.safetensors", tmp_path / "c", "fid", "diffusion4k", "--size", "32") == 2
    assert "made another way" in told(capsys)
    assert fidelity(images, tmp_path / "ref.safetensors", tmp_path / "d", "fid", "clean") == 2
    assert "preparation.fit" in told(capsys)


def test_statistics_of_moments_alone_cannot_serve_kid(folders, tmp_path, capsys):
    images, real = folders
    assert (
        main(["fidelity", "stats", str(real), "--out", str(tmp_path / "r.safetensors"), "--variant", "clean", *OWN])
        == 0
    )
    assert fidelity(images, tmp_path / "r.safetensors", tmp_path / "o", "fid,kid", "clean") == 2
    assert "r.safetensors lacks what kid needs: make it with `stats ... --metric fid,kid`" in told(capsys)


def test_statistics_that_lack_a_metric_twice_over_name_it_once(folders, tmp_path, capsys):
    """Of patches alone there are neither moments nor features of whole pictures."""
    assert fidelity(*folders, tmp_path / "o", "fid-patch", "pixverve", *PATCHES) == 0
    assert main(["rescore", str(tmp_path / "o"), "--metric", "kid", "--out", str(tmp_path / "p")]) == 2
    assert "lacks what kid needs" in told(capsys)


def test_a_reference_that_is_refused_leaves_nothing_behind(folders, tmp_path, capsys):
    images, real = folders
    other = tmp_path / "other.safetensors"
    stats = ["fidelity", "stats", str(real), "--out", str(other), "--variant", "clean"]
    assert main([*stats, *OWN]) == 0
    refused = [
        ("fid", "torch-fidelity"),
        ("fid,kid", "clean"),
        ("fid", "clean", "--extractor", f"{HERE}.conftest:blind"),
    ]
    for given in refused:
        assert fidelity(images, other, tmp_path / "o", *given) == 2
        assert f"error: {other} " in told(capsys)
        assert not [path.name for path in (tmp_path / "o").iterdir() if not path.name.startswith(".")]
    assert fidelity(images, real, tmp_path / "o", "fid", "torch-fidelity") == 0


def test_whose_size_wins_is_told(tmp_path, capsys):
    images, real = (
        write_pictures(tmp_path / name, 16, k, ((side, side),)) for name, k, side in (("i", 1, 48), ("r", 2, 32))
    )
    stats = ["fidelity", "stats", str(real), "--out", str(tmp_path / "r.safetensors"), "--variant", "pixverve"]
    assert main([*stats, *OWN]) == 0
    assert fidelity(images, real, tmp_path / "folder", "fid", "pixverve") == 0
    assert "are brought to" not in capsys.readouterr().out
    assert fidelity(images, tmp_path / "r.safetensors", tmp_path / "file", "fid", "pixverve") == 0
    assert "note: pictures are brought to 32x32; they are 48x48" in capsys.readouterr().out
    sizes = [
        read_summary(tmp_path / out / "fid" / "summary.json").passport["recipe"]["size"] for out in ("folder", "file")
    ]
    assert sizes == [48, 32]


def test_what_was_asked_has_one_hash_and_what_was_drawn_another(folders, tmp_path):
    """Two seeds of one recipe are compared by what was asked."""
    other = write_pictures(tmp_path / "other", 60, 7)
    found = []
    for name, images in (("a", folders[0]), ("b", other)):
        assert fidelity(images, folders[1], tmp_path / name, "fid", "clean") == 0
        found.append(read_summary(tmp_path / name / "fid" / "summary.json").passport)
    assert found[0]["prompts_sha256"] == found[1]["prompts_sha256"]
    assert found[0]["pictures_sha256"] != found[1]["pictures_sha256"]
    (other / "p000.png").rename(other / "q000.png")
    assert fidelity(other, folders[1], tmp_path / "c", "fid", "clean") == 0
    renamed = read_summary(tmp_path / "c" / "fid" / "summary.json").passport
    assert renamed["prompts_sha256"] != found[0]["prompts_sha256"]


def test_scores_of_unknown_settings_are_not_replaced(folders, tmp_path, capsys):
    (tmp_path / "o" / "fid").mkdir(parents=True)
    (tmp_path / "o" / "fid" / "summary.json").write_text('"my own"')
    assert fidelity(*folders, tmp_path / "o", "fid", "clean") == 2
    assert "holds summary.json, but no settings.json" in told(capsys)
    assert (tmp_path / "o" / "fid" / "summary.json").read_text() == '"my own"'
    assert not (tmp_path / "o" / "settings.json").exists()
    assert fidelity(*folders, tmp_path / "o", "precision", "clean") == 0  # which touches none of it


def test_scores_are_made_again_from_features_without_a_model(folders, tmp_path, capsys):
    assert fidelity(*folders, tmp_path / "out", "fid,precision", "torch-fidelity") == 0
    before = {metric: value(tmp_path / "out", metric) for metric in ("fid", "precision")}
    assert main(["rescore", str(tmp_path / "out")]) == 0
    assert {metric: value(tmp_path / "out-rescored", metric) for metric in before} == before
    assert main(["rescore", str(tmp_path / "out"), "--metric", "recall", "--out", str(tmp_path / "more")]) == 0
    assert 0 < value(tmp_path / "more", "recall") < 1
    assert main(["rescore", str(tmp_path / "out"), "--metric", "kid", "--out", str(tmp_path / "k")]) == 2
    assert "KID needs 1,000 pictures (a subset); there are 60" in told(capsys)
    logits = ["rescore", str(tmp_path / "out"), "--metric", "is", "--out", str(tmp_path / "logits")]
    assert main(logits) == 2
    assert "IS needs 500 pictures (50 in each of 10 splits); there are 60" in told(capsys)
    assert main([*logits, "--allow-few"]) == 0 and value(tmp_path / "logits", "is") > 1
    assert main(["compare", str(tmp_path / "out" / "precision"), str(tmp_path / "more" / "recall")]) == 2
    assert main(["compare", *[str(tmp_path / "out" / "precision")] * 2]) == 0
    assert "60 pictures: B is within noise" in capsys.readouterr().out
    assert main(["rescore", str(tmp_path / "out"), "--variant", "dsg"]) == 2
    assert "rescore of FID takes --metric, --reference, --allow-few" in told(capsys)


def test_a_killed_run_goes_on_and_a_changed_picture_is_looked_at_again(folders, tmp_path, monkeypatch):
    images = Path(shutil.copytree(folders[0], tmp_path / "images"))
    assert fidelity(images, folders[1], tmp_path / "whole", "fid", "clean", "--batch-size", "4") == 0
    asked, run = [], extractors.run_extractor

    def dies(judge, pixels):
        asked.append(len(pixels))
        if len(asked) == 22:  # 15 batches of the reference, 6 of the images
            raise KeyboardInterrupt
        return run(judge, pixels)

    monkeypatch.setattr(features, "run_extractor", dies)
    assert fidelity(images, folders[1], tmp_path / "killed", "fid", "clean", "--batch-size", "4") == 3
    assert fidelity(images, folders[1], tmp_path / "killed", "fid", "clean", "--batch-size", "4") == 0
    assert len(asked) == 22 + 9  # what was finished is not asked again
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert (whole / "features.jsonl").read_bytes() == (killed / "features.jsonl").read_bytes()
    assert (whole / "fid" / "summary.json").read_bytes() == (killed / "fid" / "summary.json").read_bytes()
    random_picture(np.random.default_rng(9), 40, 40).save(images / "p005.png")
    assert (killed / "fid" / "summary.json").is_file()
    assert fidelity(images, folders[1], tmp_path / "killed", "fid", "clean", "--batch-size", "4") == 0
    assert len(asked) == 31 + 1 and value(killed) != value(whole)
    assert fidelity(images, folders[1], tmp_path / "killed", "fid", "torch-fidelity", "--batch-size", "4") == 2


def test_features_do_not_depend_on_the_batch(folders, tmp_path):
    for size in ("1", "16"):
        assert fidelity(*folders, tmp_path / size, "fid", "clean", "--batch-size", size) == 0
    one, many = (load_features(tmp_path / size, "whole") for size in ("1", "16"))
    assert one.shape == (60, NUM_FEATURES) and np.allclose(one, many, atol=1e-4)


def test_what_is_missing_on_a_side_is_named(folders, tmp_path, capsys):
    images = Path(shutil.copytree(folders[0], tmp_path / "images"))
    (images / "p007.png").rename(images / "q007.png")
    assert fidelity(images, folders[1], tmp_path / "o", "fid", "pixverve", "--size", "32") == 2
    error = told(capsys)
    assert "1 (q007) of the images and 1 (p007) of the reference" in error
    assert fidelity(images, folders[1], tmp_path / "o", "fid", "clean") == 0  # a recipe of sets, not of pairs


def test_too_few_pictures_say_how_many_are_needed(tmp_path, capsys):
    images, real = write_pictures(tmp_path / "i", 8, 1), write_pictures(tmp_path / "r", 8, 2)
    assert fidelity(images, real, tmp_path / "o") == 2
    error = told(capsys)
    assert "FID needs 13 pictures (so that its covariance is not singular); there are 8 of the images and 8" in error
    assert fidelity(images, real, tmp_path / "o", "fid", "torch-fidelity", "--allow-few") == 0
    summary = read_summary(tmp_path / "o" / "fid" / "summary.json")
    assert summary.variant == "torch-fidelity, few" and summary.overall > 0
    assert summary.passport["details"]["needed"] == 13
    assert fidelity(images, real, tmp_path / "p", "precision") == 0
    assert fidelity(images, real, tmp_path / "q", "is", "torch-fidelity", "--allow-few") == 2
    assert (
        "IS needs 500 pictures (50 in each of 10 splits); there are 8 of the images. Give more, or use another metric "
        "(KID needs fewer than FID)." in told(capsys)  # --allow-few would not help
    )


def test_the_inception_score_of_few_is_named_so_and_claims_no_certainty(tmp_path, capsys):
    for count in (12, 40):
        images = write_pictures(tmp_path / f"i{count}", count, 1)
        where = ["fidelity", str(images), "--metric", "is", "--variant", "torch-fidelity", *OWN]
        assert main([*where, "--out", str(tmp_path / f"o{count}")]) == 2
        assert f"50 in each of 10 splits); there are {count} of the images" in told(capsys)
        assert main([*where, "--out", str(tmp_path / f"o{count}"), "--allow-few"]) == 0
        summary = read_summary(tmp_path / f"o{count}" / "is" / "summary.json")
        assert summary.variant == "torch-fidelity, few"
        low, high = summary.overall_ci95
        line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("  is "))
        if count == 12:  # one or two in a split: no interval
            assert low == high and "interval" not in line and "  is         1." in line
            assert summary.passport["details"]["interval"] == "none"
        else:
            assert low < summary.overall < high and "95 % interval" in line


@pytest.mark.parametrize(
    ("metric", "sides", "name"),
    [("precision", (24, 3), "24 of the images and 3"), ("recall", (3, 24), "3 of the images")],
)
def test_too_few_for_a_manifold_says_which_side_and_offers_no_way_round(tmp_path, capsys, metric, sides, name):
    images, real = (write_pictures(tmp_path / str(k), count, k) for k, count in enumerate(sides))
    for more in ((), ("--allow-few",)):
        assert fidelity(images, real, tmp_path / "o", metric, "torch-fidelity", *more) == 2
        error = told(capsys)
        assert f"{metric} needs 4 pictures (the 3 neighbours of a picture); there are {name}" in error
        assert "--allow-few" not in error


@pytest.mark.parametrize(("count", "status"), [(1, 2), (2, 2), (3, 0)])
def test_kid_of_one_or_two_pictures_is_refused_where_its_variant_asks_for_no_number(tmp_path, capsys, count, status):
    images, real = (write_pictures(tmp_path / str(k), many, k) for k, many in enumerate((count, 5)))
    assert fidelity(images, real, tmp_path / "o", "kid", "clean") == status
    assert ("KID needs 3 pictures (its interval leaves each out once)" in told(capsys)) == (status == 2)


def test_sizes_grey_and_alpha_are_named_and_scored(folders, tmp_path, capsys):
    images = Path(shutil.copytree(folders[0], tmp_path / "images"))
    Image.open(images / "p001.png").convert("L").save(images / "p001.png")
    Image.open(images / "p002.png").convert("RGBA").save(images / "p002.png")
    assert fidelity(images, folders[1], tmp_path / "o", "fid", "clean") == 0
    shown = capsys.readouterr().out
    assert "note: pictures of 3 sizes: {'40x40': 20, '40x64': 20, '56x40': 20}" in shown
    assert "note: grey, read as RGB: 1 (p001)" in shown and "note: with alpha (RGBA), read as RGB: 1 (p002)" in shown
    summary = read_summary(tmp_path / "o" / "fid" / "summary.json")
    assert summary.num_scored == 60 and len(summary.passport["notes"]) == 3
    assert fidelity(images, folders[1], tmp_path / "p", "fid", "pixverve") == 2
    assert "give --size" in told(capsys)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda images: (images / "p003.png").write_bytes(b"\x89PNG\r\n\x1a\nbroken"), "p003.png: it cannot be read"),
        (lambda images: (images / "p003.bmp").write_bytes(b"BM"), "1 (p003.bmp) cannot be scored: save them as PNG"),
        (lambda images: shutil.copy(images / "p003.png", images / "p003.jpg"), "1 (p003) stand there in two forms"),
    ],
)
def test_a_spoilt_folder_is_refused_before_a_model_is_asked(folders, tmp_path, capsys, spoil, words):
    images = Path(shutil.copytree(folders[0], tmp_path / "images"))
    spoil(images)
    assert fidelity(images, folders[1], tmp_path / "o") == 2
    assert words in told(capsys) and not (tmp_path / "o").exists()


def test_a_picture_whose_pixels_are_cut_off_is_named_not_skipped(folders, tmp_path, capsys):
    images = Path(shutil.copytree(folders[0], tmp_path / "images"))
    content = (images / "p003.png").read_bytes()
    (images / "p003.png").write_bytes(content[: len(content) // 2])
    assert fidelity(images, folders[1], tmp_path / "o") == 2
    assert "1 pictures cannot be read" in (error := told(capsys)) and "p003" in error
    (images / "p003.png").write_bytes(content)
    assert fidelity(images, folders[1], tmp_path / "o") == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["fidelity", "none", "--out", "o", *OWN], "none is not a folder of pictures"),
        (["fidelity", "{images}", "--out", "{out}", *OWN], "fid needs --reference"),
        (["fidelity", "{images}", "--out", "{out}", "--metric", "fid,fdi", *OWN], "--metric is some of fid,fid-patch"),
        (["fidelity", "{images}", "--out", "{out}", "--reference", "no.safetensors", *OWN], "no file of statistics"),
        (["fidelity", "{images}", "--out", "{images}/o", *OWN], "lies in the image folder"),
        (["fidelity", "{images}", "--out", "{out}", "--variant", "x", *OWN], "unknown variant 'x'"),
        (["fidelity", "{images}", "--out", "{out}"], "--extractor inception needs --weights"),
        (["fidelity", "stats", "{images}", "--out", "{out}", *OWN], "ends in .safetensors"),
        (
            ["fidelity", "{images}", "--out", "{out}", "--reference", "{images}", *OWN],
            "is given as the images and as the --reference: give a folder of real pictures",
        ),
        (
            ["fidelity", "{images}", "--out", "{out}", "--reference", "{images}/..", *OWN],
            "lie one in the other, and the pictures in folders count too: move one of them beside the other",
        ),
        (
            [*PAIRED, "--variant", "clean", "--size", "99", *OWN],
            "--size 99 would change nothing: clean takes pictures as they are; brought to a square are those of "
            "pixverve, diffusion4k",
        ),
        (
            ["fidelity", "stats", "{real}", "--out", "{out}.safetensors", "--variant", "clean", "--size", "99", *OWN],
            "--size 99 would change nothing",
        ),
        (
            [*PAIRED, "--metric", "fid,is", "--num-patches", "3", "--patch-seed", "1", *OWN],
            "--num-patches, --patch-seed would change nothing: the metrics are fid,is; add fid-patch to them",
        ),
        (
            ["fidelity", "stats", "{real}", "--out", "{out}.safetensors", "--patch-side", "9", *OWN],
            "--patch-side would change nothing: the metrics are fid; add fid-patch to them",
        ),
    ],
)
def test_bad_input_is_one_sentence(folders, tmp_path, capsys, arguments, words):
    places = {"images": str(folders[0]), "real": str(folders[1]), "out": str(tmp_path / "o")}
    given = [argument.format(**places) if "{" in argument else argument for argument in arguments]
    assert main(given) == 2
    assert words in told(capsys)


def test_a_reference_within_the_images_is_refused(folders, tmp_path, capsys):
    images = Path(shutil.copytree(folders[0], tmp_path / "images"))
    shutil.copytree(folders[1], images / "real")
    assert fidelity(images, images / "real", tmp_path / "o", "fid", "clean") == 2
    assert "lie one in the other" in told(capsys) and not (tmp_path / "o" / "settings.json").exists()


def test_is_asks_for_logits_and_for_no_reference(folders, tmp_path, capsys):
    where = ["fidelity", str(folders[0]), "--metric", "is", "--variant", "torch-fidelity", "--device", "cpu"]
    given = ["--extractor", f"{HERE}.conftest:toy", "--allow-few"]
    assert main([*where, "--out", str(tmp_path / "o"), *given]) == 0
    assert value(tmp_path / "o", "is") > 1
    assert main([*where, "--out", str(tmp_path / "p"), "--extractor", f"{HERE}.conftest:blind"]) == 2
    assert "the extractor blind does not give" in told(capsys)


def test_the_order_of_the_pictures_decides_the_places(folders, tmp_path):
    names = sorted((path.name for path in folders[0].iterdir()), reverse=True)
    (tmp_path / "order.jsonl").write_text("".join(json.dumps({"file_name": name}) + "\n" for name in names))
    given = ("fid-patch", "pixverve", *PATCHES)
    assert fidelity(*folders, tmp_path / "a", *given) == 0
    assert fidelity(*folders, tmp_path / "b", *given, "--order", str(tmp_path / "order.jsonl")) == 0
    assert value(tmp_path / "a", "fid-patch") != value(tmp_path / "b", "fid-patch")


def test_the_miniatures_extractor_is_the_shape_detectors(tmp_path):
    from reproduce.miniature.detector import features as shape_features

    judge = shape_features()
    assert judge.side == 48 and "shape detector" in judge.passport["name"]
    rows = extractors.run_extractor(judge, torch.full((3, 3, 48, 48), 200.0))["features"]
    assert rows.shape == (3, 132) and torch.allclose(rows[0], rows[1], atol=1e-5)
    images, real = (write_pictures(tmp_path / name, 20, k, ((48, 48),)) for k, name in enumerate(("i", "r")))
    own = ["--extractor", "reproduce.miniature.detector:features", "--device", "cpu"]
    where = ["fidelity", str(images), "--reference", str(real), "--out", str(tmp_path / "o")]
    given = ["--metric", "fid,fid-patch", "--variant", "pixverve", "--patch-side", "24", "--allow-few"]
    assert main([*where, *given, *own]) == 0
    passport = read_object(tmp_path / "o" / "passport.json")
    assert passport["models"]["extractor"]["name"] == "miniature shape detector's features"


def test_a_run_scores_a_metric_through_its_benchmark(folders, tmp_path):
    """What `reproduce` does: samples and a reference by settings, the summary straight in the folder."""
    from bench.benchmarks import BENCHMARKS
    from bench.records import ImageSample, Prompt, ScoreSettings

    names = sorted(path.stem for path in folders[0].iterdir())
    settings = ScoreSettings(
        prompts=[Prompt(id=name, text="a", category="all", spec={}) for name in names],
        samples=[ImageSample(prompt_id=name, index=0, seed=0, path=Path(f"{name}.png")) for name in names],
        images_per_prompt=1,
        resolution=40,
        subject="toy",
        judge_name="toy",
        reference=folders[1],
    )
    fid = BENCHMARKS["fid"]
    summary = fid.score(folders[0], fid.load_judge(f"{HERE}.conftest:toy"), tmp_path / "fid", settings)
    assert summary == read_summary(tmp_path / "fid" / "summary.json")
    assert summary.subject == "toy" and not fid.higher_is_better and BENCHMARKS["is"].higher_is_better
    assert fidelity(*folders, tmp_path / "own") == 0
    assert value(tmp_path / "own") == summary.overall
    assert main(["rescore", str(tmp_path / "fid")]) == 0
    assert read_summary(tmp_path / "fid-rescored" / "summary.json") == summary
    first = read_jsonl(tmp_path / "fid" / "features.jsonl")[0]["shard"]
    saved = load_file(tmp_path / "fid" / "features" / first)
    assert saved["whole"].shape == (8, NUM_FEATURES)
