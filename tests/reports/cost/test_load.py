"""The paper-size block: records, tables and charts of a folder, and figure 4's protocols from records."""

from dataclasses import replace

import pytest

from bench.records import CostRecord, write_json
from reports.costs import all_records, load_paper_costs
from reports.figure4 import gap, inside, protocols, verdict
from reports.runs import load_run
from tests.reports.fake_run import predicted_4k


def modelled(case, batch_size, flops, peak, latency):
    return CostRecord(
        case=case, kind="predicted", resolution=4096, batch_size=batch_size, dtype="bfloat16", device="H100 (roofline)",
        protocol="words", flops=flops, peak_memory_bytes=peak, latency_s=latency,
    )  # fmt: skip


def test_pairs_differ_in_the_model_only():
    records = [
        modelled("zimage-4096+vae-tiled512+text", 2, 1000.0, 100, [10.0, 20.0]),
        modelled("l2p-zimage-4096+vae-tiled512+text", 2, 20.0, 60, [0.2, 0.5]),
        modelled("l2p-zimage-4096", 2, 20.0, 60, [0.2, 0.5]),  # its source is absent
        modelled("flux-4096", 1, 1000.0, 100, [10.0, 20.0]),
        modelled("l2p-flux-4096", 1, 20.0, 70, [0.2, 0.5]),
    ]
    zimage, flux = protocols(records)
    assert zimage.name == "batch 2, vae-tiled512, text"
    assert zimage.latency == pytest.approx((-98.0, -97.5)) and zimage.memory == pytest.approx(-40.0)
    assert (flux.family, flux.memory) == ("flux", pytest.approx(-30.0))
    assert verdict([zimage, flux])[1].count("1 protocols of zimage")  # the other family is shown, not judged


def test_gap_is_zero_inside_the_latency_band_and_counts_memory():
    protocol = protocols(
        [modelled("zimage-4096", 1, 1e3, 10_000, [1e3, 1e3]), modelled("l2p-zimage-4096", 1, 20, 6119, [20, 25])]
    )
    assert gap(protocol[0]) == pytest.approx(0.0)
    assert gap(replace(protocol[0], memory=-36.81)) == pytest.approx(2.0)
    assert gap(replace(protocol[0], latency=(-97.0, -90.0))) == pytest.approx(0.67)
    assert (inside(-97.67, (-98, -97)), inside(-97.67, (-97, -96))) == ("inside", "outside")


def test_a_modelled_latency_stands_for_the_bare_pair_of_the_same_count():
    bare = predicted_4k()
    records = [replace(record, device="H100 (roofline)", latency_s=[1.0, 2.0]) for record in bare]
    assert len(protocols(bare + records)) == len(protocols(bare)) == 2
    assert protocols(bare + records)[0].latency[1] == 0.0  # the modelled latencies are equal


def test_a_folder_of_predictions_is_read_whole(tmp_path, run_dir):
    write_json(tmp_path / "records.json", predicted_4k())
    rows = [{"family": "flux", "fits_24_gib": True, "peak_gib": 12.5, "note": None}]
    write_json(tmp_path / "tables/run.json", {"command": "python -m bench cost --paper"})
    write_json(tmp_path / "tables/fits.json", {"name": "fits", "title": "What fits", "rows": rows, "notes": ["a note"]})
    write_json(tmp_path / "records.run.json", {"command": "python -m bench cost --case zimage-4096"})
    write_json(tmp_path / "other.json", {"seconds": 3})
    (tmp_path / "tables/growth.png").write_bytes(b"png")
    costs = load_paper_costs(tmp_path)
    assert costs.records == predicted_4k()
    assert costs.tables[0].rows.to_dict("records") == [
        {"family": "flux", "fits 24 gib": "yes", "peak gib": "12.5", "note": "–"}
    ]
    assert ([chart.name for chart in costs.charts], costs.unread) == (["growth.png"], ["other.json"])
    run = load_run(run_dir)
    assert all_records([run, run], costs) == run.costs  # each once, also those that the run carries itself


def test_no_folder_is_no_costs(tmp_path):
    costs = load_paper_costs(tmp_path / "none")
    assert (costs.records, costs.tables, costs.charts, costs.unread) == ([], [], [], [])


def test_broken_json_is_named(tmp_path):
    (tmp_path / "figure4.json").write_text("{")
    with pytest.raises(ValueError, match="figure4.json"):
        load_paper_costs(tmp_path)
