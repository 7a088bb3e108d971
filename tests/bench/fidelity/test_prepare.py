"""How pictures come to the extractor: each filter against the library whose it is."""

import random

import numpy as np
import pytest
import torch
from cleanfid.resize import build_resizer, make_resizer
from torch_fidelity.interpolate_compat_tensorflow import interpolate_bilinear_2d_like_tensorflow1x
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as TF  # noqa: N812

from bench.fidelity import prepare
from bench.fidelity.variants import VARIANTS, Patches, find_variant, recipe_of, views_of, with_patches
from l2p.errors import InputError

from .conftest import random_picture

SHAPES = [(64, 64), (90, 50), (37, 80), (20, 16)]  # width, height; larger and smaller than the target


@pytest.fixture(params=SHAPES, ids=str)
def picture(request):
    return random_picture(np.random.default_rng(5), *request.param)


def test_tensorflows_bilinear_is_torch_fidelitys(picture):
    pixels = prepare.to_tensor(picture)
    theirs = interpolate_bilinear_2d_like_tensorflow1x(pixels[None].float(), size=(24, 24), align_corners=False)[0]
    assert torch.equal(prepare.tensorflow(pixels, 24), theirs)


def test_clean_is_clean_fids(picture):
    theirs = make_resizer("PIL", False, "bicubic", (24, 24))(np.asarray(picture))
    ours = prepare.clean(prepare.to_tensor(picture), 24)
    assert np.array_equal(ours.permute(1, 2, 0), theirs)
    assert build_resizer("clean")(np.asarray(picture)).shape == (299, 299, 3)


def test_antialias_is_torchmetrics(picture):
    pixels = prepare.to_tensor(picture)
    theirs = torch.nn.functional.interpolate(
        pixels[None].float(), size=(24, 24), mode="bilinear", align_corners=False, antialias=True
    )[0]
    assert torch.equal(prepare.antialias(pixels, 24), theirs)


def test_squash_is_pixverves(picture):
    """PixVerve: resized, cropped to the same size, to floats and back to bytes."""
    theirs = TF.center_crop(TF.resize(picture, (32, 32)), (32, 32))
    assert torch.equal(prepare.squash(picture, 32), (TF.to_tensor(theirs) * 255).to(torch.uint8))


@pytest.mark.parametrize("size", [32, 20])
def test_crop_is_diffusion_4ks(picture, size):
    if min(picture.size) < size and size == 20:
        pytest.skip("the enlargement is the other size's case")
    pixels = prepare.to_tensor(picture)[None]
    theirs = TF.center_crop(TF.resize(pixels, size), (size, size))[0]
    assert torch.equal(prepare.crop(picture, size), theirs)


def test_patches_are_pixverves():
    """One generator for all pictures, top before left, Lanczos to the size, the same place in both."""
    patches, size = Patches(count=3, side=10, seed=42), 32
    pictures = [random_picture(np.random.default_rng(k), 50, 40) for k in range(3)]
    random.seed(42)
    theirs = []
    for one in pictures:
        resized = TF.resize(one, (size, size), interpolation=InterpolationMode.LANCZOS)
        for _ in range(3):
            top, left = random.randint(0, size - 10), random.randint(0, size - 10)
            theirs.append((TF.to_tensor(TF.crop(resized, top, left, 10, 10)) * 255).to(torch.uint8))
    places = prepare.patch_places(3, patches, size)
    variant = find_variant("pixverve")
    ours = [prepare.patch_views(one, at, patches, size, variant, 10) for one, at in zip(pictures, places, strict=True)]
    assert torch.equal(torch.cat(ours), torch.stack(theirs).float())
    shrunk = prepare.patch_views(pictures[0], places[0], patches, size, variant, 5)
    assert torch.equal(shrunk[0], prepare.antialias(theirs[0], 5))


def test_a_picture_of_the_size_is_left_alone():
    picture = random_picture(np.random.default_rng(5), 24, 24)
    for variant in VARIANTS.values():
        view = prepare.whole_view(picture, variant, 24, 24)
        assert view.shape == (1, 3, 24, 24)
        assert torch.allclose(view[0], prepare.to_tensor(picture).float(), atol=1e-3), variant.name


def test_patches_larger_than_the_picture_are_refused():
    with pytest.raises(InputError, match="patches of 299 x 299 pixels cannot be cut from 256 x 256"):
        prepare.patch_places(1, Patches(), 256)


def test_variants_are_known_by_name_and_changes_are_named():
    with pytest.raises(InputError, match="unknown variant 'pix'; known: pixverve, diffusion4k, clean, torch-fidelity"):
        find_variant("pix")
    with pytest.raises(InputError, match="clean has no FID-patch; variants that have it: pixverve"):
        views_of(find_variant("clean"), ("fid", "fid-patch"))
    with pytest.raises(InputError, match="the variant clean has no patches"):
        with_patches(find_variant("clean"), ("fid-patch",), 3, None, None)
    with pytest.raises(InputError, match="1 at least"):
        with_patches(find_variant("pixverve"), ("fid-patch",), 0, None, None)
    assert with_patches(find_variant("pixverve"), ("fid-patch",), 20, 299, 42) is VARIANTS["pixverve"]
    changed = with_patches(find_variant("pixverve"), ("fid-patch",), None, 24, None)
    assert changed.name == "pixverve, changed patches" and changed.patches == Patches(side=24)
    assert views_of(changed, ("fid-patch",)) == ("patches",) and views_of(changed, ("is",)) == ("whole",)
    assert recipe_of(changed, 48)["patches"] == {"count": 20, "side": 24, "seed": 42}
