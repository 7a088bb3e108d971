"""The roofline's closed form, and what the paper-size block's records count, from made-up predictions."""

import pytest

from bench.cost.devices import DEVICES
from bench.cost.meter import OperatorWork
from bench.cost.roofline import LAUNCH_S, device_named, latency_band_s
from tests.bench.cost.made_up import WEIGHTS, records


def test_the_roofline_is_its_closed_form():
    work = OperatorWork(stage="denoiser", name="mm", dtype="bfloat16", flops=10**12, bytes=10**9, count=3)
    copy = OperatorWork(stage="denoiser", name="copy_", dtype="bfloat16", flops=0, bytes=10**9, count=1)
    device = DEVICES["h100"]
    fast, slow = latency_band_s([work, copy], device)
    assert fast == pytest.approx(3 * 10**12 / 989e12 + 10**9 / 3.35e12)
    assert slow == pytest.approx(3 * 10**12 / (0.5 * 989e12) + 10**9 / (0.7 * 3.35e12) + 4 * LAUNCH_S[1])
    with pytest.raises(ValueError, match="known are h100, a100, rtx4090, cpu"):
        device_named("abacus")


def test_a_protocol_counts_what_it_says():
    found = {
        (r.model, r.batch_size, r.counted, r.tile): r for r in records() if r.family == "zimage" and not r.training
    }
    bare, untiled = found["source", 1, (), 0], found["source", 1, ("vae",), 0]
    assert untiled.peak_memory_bytes == bare.peak_memory_bytes + WEIGHTS  # equal peaks: the other's weights add
    assert untiled.flops == 2 * bare.flops
    for ends in bare.roofline_s.values():
        assert ends[0] > 0
    assert untiled.roofline_s["h100"][0] == pytest.approx(2 * bare.roofline_s["h100"][0])
    pixel, with_vae = found["l2p", 1, (), 0], found["l2p", 1, ("vae",), 0]
    assert (with_vae.flops, with_vae.peak_memory_bytes) == (pixel.flops, pixel.peak_memory_bytes)
    assert found["l2p", 1, ("text",), 0].peak_memory_bytes == pixel.peak_memory_bytes + WEIGHTS  # the text encoder's
    names = [found[model, 2, ("vae", "text"), 512].case for model in ("source", "l2p")]
    assert names == ["zimage-4096+vae-tiled512+text", "l2p-zimage-4096+vae-tiled512+text"]


def test_the_block_s_records_are_each_there_once():
    names = [(record.case, record.batch_size) for record in records()]
    assert len(set(names)) == len(names) > 100
    assert {record.kind for record in records()} == {"predicted"}
    assert all(record.roofline_s.keys() == DEVICES.keys() and not record.latency_s for record in records())
