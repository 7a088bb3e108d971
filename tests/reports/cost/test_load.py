"""The paper-size block: records, tables and charts of a folder."""

import json
from dataclasses import replace
from types import SimpleNamespace

import pytest

from bench.records import CostRecord, Training, read_costs, to_json, write_json
from reports.cost.load import all_records, load_paper_costs, load_records
from tests.reports.fake_run import predicted_4k


def test_a_folder_of_predictions_is_read_whole(tmp_path):
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
    other = replace(predicted_4k()[0], kind="measured")
    run = SimpleNamespace(costs=[other, *predicted_4k()])
    assert all_records([run, run], costs) == run.costs  # each once, also those that the run carries itself


def test_no_folder_is_no_costs(tmp_path):
    costs = load_paper_costs(tmp_path / "none")
    assert (costs.records, costs.tables, costs.charts, costs.unread) == ([], [], [], [])


def test_broken_json_is_named(tmp_path):
    (tmp_path / "figure4.json").write_text("{")
    with pytest.raises(ValueError, match="figure4.json"):
        load_paper_costs(tmp_path)


def test_every_field_of_a_record_comes_back(tmp_path):
    record = CostRecord(
        case="train-l2p-flux-1024-5", kind="measured", family="flux", model="l2p", counted=("vae", "text"), tile=512,
        training=Training(num_trainable_blocks=5, released=True, mixed=True, optimizer="fused"), resolution=1024,
        batch_size=2, patch_size=16, dtype="bfloat16", device="a GPU", device_type="cuda", protocol="words",
        num_parameters=7, num_trainable_parameters=3, flops=1.0, peak_memory_bytes=2, latency_s=[0.5, 0.25],
        roofline_s={"h100": (0.1, 0.2)},
    )  # fmt: skip
    write_json(tmp_path / "x.json", [record, replace(record, training=None)])
    assert read_costs(tmp_path / "x.json") == [record, replace(record, training=None)]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"speed": 1}, "unknown fields speed, missing fields none"),
        ({"family": None}, "unknown fields none, missing fields family"),
        ({"training": {"blocks": 5}}, "training of another version.*unknown fields blocks, missing.*num_trainable"),
    ],
)
def test_records_of_other_fields_are_refused_by_name(tmp_path, change, words):
    row = {**to_json(predicted_4k()[0]), **change}
    (tmp_path / "x.json").write_text(json.dumps([{name: value for name, value in row.items() if value is not None}]))
    with pytest.raises(ValueError, match=rf"x\.json holds a cost.*{words}"):
        load_paper_costs(tmp_path)


def test_a_folder_without_records_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="holds no cost records"):
        load_records(tmp_path)
