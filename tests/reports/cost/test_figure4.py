"""Figure 4's protocols from records: pairs by their fields, changes, the distance to the paper."""

from dataclasses import replace

import pytest

from bench.records import CostRecord, Training
from reports.cost.figure4 import gap, inside, protocols, verdict


def modelled(model, batch_size, flops, peak, seconds, *, family="zimage", counted=(), tile=0):
    return CostRecord(
        case="of any name", kind="predicted", family=family, model=model, counted=counted, tile=tile, resolution=4096,
        batch_size=batch_size, dtype="bfloat16", device="fake", protocol="words", flops=flops, peak_memory_bytes=peak,
        roofline_s={"h100": seconds},
    )  # fmt: skip


def test_pairs_differ_in_the_model_only():
    tiled = {"counted": ("vae", "text"), "tile": 512}
    pixel = modelled("l2p", 2, 20.0, 60, (0.2, 0.5), **tiled)
    records = [
        modelled("source", 1, 1000.0, 100, (10.0, 20.0), family="flux"),
        modelled("l2p", 1, 20.0, 70, (0.2, 0.5), family="flux"),
        modelled("source", 2, 1000.0, 100, (10.0, 20.0), **tiled),
        pixel,
        replace(pixel, tile=1024),  # the source of these is absent
        replace(pixel, counted=(), tile=0),
        replace(pixel, batch_size=1),
        replace(pixel, training=Training(num_trainable_blocks=5), peak_memory_bytes=1),
        replace(pixel, kind="measured", peak_memory_bytes=1),
    ]
    zimage, flux = protocols(records)
    assert zimage.name == "batch 2, VAE in tiles of 512 px, text encoder"
    assert zimage.latency == pytest.approx((-98.0, -97.5)) and zimage.memory == pytest.approx(-40.0)
    assert (flux.name, flux.family, flux.memory) == ("batch 1", "flux", pytest.approx(-30.0))
    assert verdict([zimage, flux])[1].count("1 protocols of zimage")  # the other family is shown, not judged


def test_gap_is_zero_inside_the_latency_band_and_counts_memory():
    (protocol,) = protocols([modelled("source", 1, 1e3, 10_000, (1e3, 1e3)), modelled("l2p", 1, 20, 6119, (20, 25))])
    assert gap(protocol) == pytest.approx(0.0)
    assert gap(replace(protocol, memory=-36.81)) == pytest.approx(2.0)
    assert gap(replace(protocol, latency=(-97.0, -90.0))) == pytest.approx(0.67)
    assert (inside(-97.67, (-98, -97)), inside(-97.67, (-97, -96))) == ("inside", "outside")
