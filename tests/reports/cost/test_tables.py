"""Tables, protocols, records and files from predictions that the test makes up; roofline's closed form."""

import csv
import json
from dataclasses import replace

import pytest

from bench.cost.cases import parse
from bench.cost.meter import OperatorWork
from bench.cost.paper import all_asks
from bench.cost.predict import Prediction
from bench.cost.protocols import figure4_protocols
from bench.cost.roofline import DEVICES, GIB, LAUNCH_S, device_named, latency_band_s
from bench.cost.tables import all_tables, cost_an_image, figure4, largest_resolution
from bench.cost.write import as_csv, as_markdown, write_paper
from bench.records import CostRecord, read_json

# bytes and FLOPs of every made-up prediction: weights, and work that grows with pixels (source) or not (pixel model)
WEIGHTS, ACTIVATIONS, WORK = 10 * GIB, GIB, 10**13


def made_up(name: str, batch_size: int = 1) -> Prediction:
    """10 GiB of weights; 1 GiB and 10 TFLOP an image of a megapixel, which the pixel model keeps at any size."""
    case = parse(name, batch_size=batch_size)
    megapixels = 1 if case.kind in ("l2p", "train", "text") else case.resolution**2 // 2**20
    scale = megapixels * batch_size
    share = 1.0 if case.num_trainable_blocks is None else 0.1 * (1 + case.num_trainable_blocks)
    work = OperatorWork(stage="denoiser", name="mm", dtype="bfloat16", flops=WORK * scale, bytes=0, count=1)
    return Prediction(
        case=case,
        dtype="bfloat16",
        num_parameters=5 * 10**9,
        num_trainable_parameters=int(share * 10**9),
        flops=WORK * scale,
        peak_memory_bytes=WEIGHTS + ACTIVATIONS * scale,
        resident_bytes=WEIGHTS,
        peak_operator="mm",
        peak_stage="denoiser",
        stage_peaks={},
        operators=[work],
    )


def test_the_roofline_is_its_closed_form():
    work = OperatorWork(stage="denoiser", name="mm", dtype="bfloat16", flops=10**12, bytes=10**9, count=3)
    copy = OperatorWork(stage="denoiser", name="copy_", dtype="bfloat16", flops=0, bytes=10**9, count=1)
    device = DEVICES["h100"]
    fast, slow = latency_band_s([work, copy], device)
    assert fast == pytest.approx(3 * 10**12 / 989e12 + 10**9 / 3.35e12)
    assert slow == pytest.approx(3 * 10**12 / (0.5 * 989e12) + 10**9 / (0.7 * 3.35e12) + 4 * LAUNCH_S[1])
    with pytest.raises(ValueError, match="known are h100, a100, rtx4090, cpu"):
        device_named("abacus")


def test_figure_4_has_every_protocol_and_says_where_the_paper_lies():
    table = figure4(made_up)
    assert len(table.rows) == 2 * 2 * 4
    bare = table.rows[0]
    assert bare["source_gib"] == 10 + 16
    assert bare["l2p_gib"] == 11
    assert bare["memory_change_percent"] == pytest.approx(100 * (11 / 26 - 1), abs=0.01)
    assert bare["flops_change_percent"] == pytest.approx(-93.75)
    assert bare["paper_latency_inside"] is False
    assert "outside" in table.notes[0]  # -93.75 % and, with the VAE's FLOPs, -96.88 %
    assert "outside" in table.notes[1]
    assert "No CUDA measurement was made" in table.notes[4]


def test_the_paper_lies_inside_where_a_protocol_gives_its_figure():
    def get(name: str, batch_size: int = 1) -> Prediction:
        cost = made_up(name, batch_size)
        if name.startswith("l2p-"):
            return replace(cost, peak_memory_bytes=int(0.6119 * made_up("zimage-4096", batch_size).peak_memory_bytes))
        return cost

    table = figure4(get)
    assert table.rows[0]["memory_difference_points"] == 0
    assert "inside" in table.notes[1]


def test_a_protocol_counts_what_it_says():
    by_name = {(p.batch_size, p.with_text, p.vae): p for p in figure4_protocols(made_up)}
    bare, untiled = by_name[1, False, "not counted"], by_name[1, False, "untiled"]
    assert untiled.source_bytes == bare.source_bytes + WEIGHTS  # here both peaks are equal: the other's weights add
    assert untiled.source.flops == 2 * bare.source.flops
    assert untiled.pixel == bare.pixel
    assert by_name[1, True, "not counted"].pixel_bytes == bare.pixel_bytes + WEIGHTS  # the text encoder's
    names = [record.case for record in by_name[2, True, "tiled 512"].records()]
    assert names == ["zimage-4096+vae-tiled512+text", "l2p-zimage-4096+vae-tiled512+text"]


def test_an_image_costs_its_sampler_s_forwards():
    rows = {(row["family"], row["model"], row["resolution"]): row for row in cost_an_image(made_up).rows}
    source, pixel = rows["zimage", "source", 1024], rows["zimage", "l2p", 1024]
    assert source["pflop"] == pytest.approx(0.01 * (8 + 1 + 1))  # 8 forwards, text encoder, VAE
    assert pixel["pflop"] == pytest.approx(0.01 * (60 + 1))
    assert pixel["times_source"] == pytest.approx(6.1)
    assert rows["zimage", "l2p", 4096]["forwards"] == 100
    assert ("sd3", "source", 4096) not in rows  # its positions end before


def test_the_largest_resolution_is_the_last_that_fits():
    rows = {(row["family"], row["model"]): row for row in largest_resolution(made_up).rows}
    assert rows["flux", "source"]["8_gib"] == "-"
    assert rows["flux", "source"]["16_gib"] == 2048  # 10 + 4 GiB; 4096 needs 26
    assert rows["flux", "l2p"]["16_gib"] == 10240
    assert rows["sd3", "source"]["80_gib"] == 2048  # of the resolutions asked, below its limit


def test_csv_and_markdown_hold_every_row():
    for table in all_tables(made_up):
        assert [list(row) for row in table.rows] == [list(table.rows[0])] * len(table.rows), table.name
        assert len(list(csv.DictReader(as_csv(table).splitlines()))) == len(table.rows)
        assert as_markdown(table).count("\n|") == len(table.rows) + 2


def test_the_paper_folder_is_what_reports_reads(tmp_path):
    write_paper(tmp_path, all_tables(made_up), made_up, all_asks())
    records = [CostRecord(**row) for row in read_json(tmp_path / "predicted.json")]
    names = [(record.case, record.batch_size) for record in records]
    assert len(set(names)) == len(names)
    assert {record.kind for record in records} == {"predicted"}
    assert all(len(record.latency_s) == 2 for record in records)
    assert {path.name for path in (tmp_path / "tables").glob("*.png")} == {
        "figure4.png",
        "image.png",
        "training.png",
        "growth.png",
    }
    provenance = json.loads((tmp_path / "tables" / "run.json").read_text())
    assert provenance["measured"].startswith("no CUDA measurement was made")
