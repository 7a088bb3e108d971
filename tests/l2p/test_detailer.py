"""The Detailer Head, against the released files' layout and a plain transcription of the paper's table 3."""

import pytest
import torch
import torch.nn.functional as F

from l2p.detailer import LADDERS, DetailerConfig, DetailerHead, ladder

HIDDEN = 3840
# name -> (output channels, input channels, kernel): what the released files hold (checkpoints.md).
RELEASED_1K = {
    "enc1.0": (64, 3, 3),
    "enc2.0": (128, 64, 3),
    "enc3.0": (256, 128, 3),
    "enc4.0": (512, 256, 3),
    "bottleneck.0": (512, 512 + HIDDEN, 1),
    "up4.1": (512, 512, 3),
    "dec4.0": (256, 1024, 3),
    "up3.1": (256, 256, 3),
    "dec3.0": (128, 512, 3),
    "up2.1": (128, 128, 3),
    "dec2.0": (64, 256, 3),
    "up1.1": (64, 64, 3),
    "dec1.0": (64, 128, 3),
    "out_conv": (3, 64, 1),
}
RELEASED_4K = {
    "enc0.0": (16, 3, 3),
    "enc0b.0": (32, 16, 3),
    "enc1.0": (64, 32, 3),
    "enc2.0": (128, 64, 3),
    "enc3.0": (256, 128, 3),
    "enc4.0": (512, 256, 3),
    "bottleneck.0": (512, 512 + HIDDEN, 1),
    "up4.1": (512, 512, 3),
    "dec4.0": (256, 1024, 3),
    "up3.1": (256, 256, 3),
    "dec3.0": (128, 512, 3),
    "up2.1": (128, 128, 3),
    "dec2.0": (64, 256, 3),
    "up1.1": (64, 64, 3),
    "dec1.0": (32, 128, 3),
    "up0b.1": (32, 32, 3),
    "dec0b.0": (16, 64, 3),
    "up0.1": (16, 16, 3),
    "dec0.0": (16, 32, 3),
    "out_conv": (3, 16, 1),
}
RELEASED_8K = RELEASED_4K | {"enc_8k.0": (3, 3, 3), "up_8k.1": (16, 16, 3), "dec_8k.0": (16, 19, 3)}
RELEASED_10K = {k: v for k, v in RELEASED_4K.items() if "4." not in k} | {
    "enc_10k_a.0": (3, 3, 3),
    "bottleneck.0": (512, 256 + HIDDEN, 1),
    "up3.1": (256, 512, 3),
    "up_10k_a.1": (16, 16, 3),
    "dec_10k_a.0": (16, 19, 3),
}


@pytest.mark.parametrize(
    ("patch_size", "released"), [(16, RELEASED_1K), (64, RELEASED_4K), (128, RELEASED_8K), (160, RELEASED_10K)]
)
def test_names_and_shapes_are_the_released_ones(patch_size: int, released: dict[str, tuple[int, int, int]]) -> None:
    with torch.device("meta"):
        own = {name: tuple(t.shape) for name, t in DetailerHead(HIDDEN, patch_size).state_dict().items()}
    expected = {f"{name}.weight": (out, into, size, size) for name, (out, into, size) in released.items()}
    expected |= {f"{name}.bias": (out,) for name, (out, _, _) in released.items()}
    assert own == expected


def random_head(hidden: int, patch_size: int, config: DetailerConfig | None = None) -> DetailerHead:
    torch.manual_seed(1)
    head = DetailerHead(hidden, patch_size, config)
    torch.nn.init.normal_(head.out_conv.weight)
    return head


def test_forward_is_the_papers_table() -> None:
    head = random_head(5, 16)
    w = head.state_dict()
    image, tokens = torch.randn(2, 3, 32, 48), torch.randn(2, 5, 2, 3)

    def convolve(name: str, x: torch.Tensor) -> torch.Tensor:
        weight = w[f"{name}.weight"]
        return F.conv2d(x, weight, w[f"{name}.bias"], padding=weight.shape[-1] // 2)

    x, skips = image, {}
    for level in (1, 2, 3, 4):
        skips[level] = F.silu(convolve(f"enc{level}.0", x))
        x = F.max_pool2d(skips[level], 2)
    x = F.silu(convolve("bottleneck.0", torch.cat([x, tokens], 1)))
    for level in (4, 3, 2, 1):
        x = convolve(f"up{level}.1", x.repeat_interleave(2, 2).repeat_interleave(2, 3))  # no activation after it
        x = F.silu(convolve(f"dec{level}.0", torch.cat([x, skips[level]], 1)))
    torch.testing.assert_close(head(image, tokens), convolve("out_conv", x), atol=1e-4, rtol=1e-4)


def test_a_new_head_paints_nothing() -> None:
    head = DetailerHead(5, 8)
    assert head(torch.randn(1, 3, 16, 16), torch.randn(1, 5, 2, 2)).abs().max() == 0


def test_unfolding_gives_each_pixel_of_a_token_its_own_channels() -> None:
    """A constant token map and image: nearest upsampling must paint a flat inside, unfolding need not."""
    image, tokens = torch.zeros(1, 3, 64, 64), torch.ones(1, 5, 8, 8)
    flat, free = (
        random_head(5, 8, DetailerConfig(upsampling=up))(image, tokens)[..., 24:40, 24:40]
        for up in ("nearest", "unfold")
    )
    assert flat.std(dim=(2, 3)).max() < 1e-5
    assert free.std(dim=(2, 3)).max() > 1e-3


def test_more_pixels_than_pooled_tokens_are_met_by_nearest_neighbours() -> None:
    """Patch 160 pools by 64: the token map is enlarged to the bottleneck's grid."""
    head = random_head(2, 160)
    image, tokens = torch.randn(1, 3, 320, 320), torch.randn(1, 2, 2, 2)
    enlarged = tokens.repeat_interleave(3, 2)[:, :, :5].repeat_interleave(3, 3)[..., :5]  # 2 -> 5: 3 and 2
    torch.testing.assert_close(head(image, tokens), head(image, enlarged))


def test_channels_override_the_ladder() -> None:
    plan = ladder(8, (4, 6, 10))
    assert [level.encoder for level in plan.levels] == [4, 6] and plan.bottleneck == 10
    head = random_head(5, 4, DetailerConfig(channels=(4, 6, 10)))
    assert head(torch.randn(1, 3, 8, 8), torch.randn(1, 5, 2, 2)).shape == (1, 3, 8, 8)


def test_unknown_choices_list_the_known() -> None:
    with pytest.raises(ValueError, match=r"no ladder for patch size 7; known: \[8, 16, 64, 128, 160\]"):
        DetailerHead(5, 7)
    with pytest.raises(ValueError, match=r"unknown upsampling 'cubic'; known: \['nearest', 'unfold'\]"):
        DetailerHead(5, 8, DetailerConfig(upsampling="cubic"))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="allows 1 to 3"):
        ladder(8, (4, 4, 4, 4, 8))
    assert sorted(LADDERS) == [8, 16, 64, 128, 160]
