"""Tables and files of records whose predictions the test makes up."""

import csv
from dataclasses import replace
from pathlib import Path

import pytest

from bench.__main__ import main as bench_main
from bench.cost import paper
from bench.records import CostRecord, read_json, write_json
from reports.cost import figure4
from reports.cost.__main__ import main
from reports.cost.load import load_records
from reports.cost.tables import NOT_MEASURED, all_tables, cost_an_image, figure4_table, largest_resolution, small_card
from reports.cost.write import as_csv, as_markdown, draw_folder
from tests.bench.cost.made_up import made_up, records


def test_figure_4_has_every_protocol_and_says_where_the_paper_lies():
    table = figure4_table(records())
    assert len(table.rows) == 2 * 2 * 4
    bare = table.rows[0]
    assert bare["source_gib"] == 10 + 16
    assert bare["l2p_gib"] == 11
    assert bare["memory_change_percent"] == pytest.approx(100 * (11 / 26 - 1), abs=0.01)
    assert bare["flops_change_percent"] == pytest.approx(-93.75)
    assert bare["paper_latency_inside"] is False
    assert "outside" in table.notes[0]  # -93.75 % and, with the VAE's FLOPs, -96.88 %
    assert "outside" in table.notes[1]
    assert table.notes[4] == NOT_MEASURED
    assert {row["measured_gpu"] for row in table.rows} == {"no CUDA measurement was made"}


def test_the_paper_lies_inside_where_a_protocol_gives_its_figure():
    def get(name, batch_size=1):
        cost = made_up(name, batch_size)
        if name.startswith("l2p-"):
            return replace(cost, peak_memory_bytes=int(0.6119 * made_up("zimage-4096", batch_size).peak_memory_bytes))
        return cost

    table = figure4_table(records(get))
    assert table.rows[0]["memory_difference_points"] == 0
    assert "inside" in table.notes[1]


def test_an_image_costs_its_sampler_s_forwards():
    rows = {(row["family"], row["model"], row["resolution"]): row for row in cost_an_image(records()).rows}
    source, pixel = rows["zimage", "source", 1024], rows["zimage", "l2p", 1024]
    assert source["pflop"] == pytest.approx(0.01 * (8 + 1 + 1))  # 8 forwards, text encoder, VAE
    assert pixel["pflop"] == pytest.approx(0.01 * (60 + 1))
    assert pixel["times_source"] == pytest.approx(6.1)
    assert rows["zimage", "l2p", 4096]["forwards"] == 100
    assert ("sd3", "source", 4096) not in rows  # its positions end before


def test_the_largest_resolution_is_the_last_that_fits():
    rows = {(row["family"], row["model"]): row for row in largest_resolution(records()).rows}
    assert rows["flux", "source"]["8_gib"] == "-"
    assert rows["flux", "source"]["16_gib"] == 2048  # 10 + 4 GiB; 4096 needs 26
    assert rows["flux", "l2p"]["16_gib"] == 10240
    assert rows["sd3", "source"]["80_gib"] == 2048  # of the resolutions asked, below its limit


def test_csv_and_markdown_hold_every_row():
    for table in all_tables(records()):
        assert [list(row) for row in table.rows] == [list(table.rows[0])] * len(table.rows), table.name
        assert len(list(csv.DictReader(as_csv(table).splitlines()))) == len(table.rows)
        assert as_markdown(table).count("\n|") == len(table.rows) + 2


def measured(record: CostRecord, peak: int, seconds: float, device_type: str = "cuda") -> CostRecord:
    return replace(
        record, kind="measured", device="A GPU", device_type=device_type, peak_memory_bytes=peak, roofline_s={},
        latency_s=[9 * seconds, seconds, seconds],
    )  # fmt: skip


def test_what_gpus_measured_is_told_of_and_only_that():
    pair = figure4.protocols(records())[0]
    on_cpu = [measured(pair.source, 100, 1.0, "cpu"), measured(pair.pixel, 60, 0.5, "cpu")]
    assert figure4_table([*records(), *on_cpu]).notes[-1] == NOT_MEASURED
    on_gpu = [measured(pair.source, 100, 1.0), measured(pair.pixel, 60, 0.5)]
    table = figure4_table([*records(), *on_cpu, *on_gpu])
    assert table.notes[-1] == "Measured on A GPU: 2 records."
    words = [row["measured_gpu"] for row in table.rows]
    assert words[0] == "memory -40.00 %, latency -50.00 % (A GPU)"
    assert set(words[1:]) == {"not measured under this protocol"}


def test_a_small_card_s_table_holds_every_training_step_smallest_first():
    rows = small_card(records()).rows
    assert len(rows) == sum(record.training is not None for record in records())
    assert [row["peak_gib"] for row in rows] == sorted(row["peak_gib"] for row in rows)


def test_a_folder_is_drawn_whole(tmp_path, capsys):
    write_json(tmp_path / "predicted.json", records())
    page = draw_folder(tmp_path)
    files = {path.name for path in (tmp_path / "tables").iterdir()}
    names = {table.name for table in all_tables(records())}
    charts = {f"{name}.png" for name in ("figure4", "image", "training", "growth")}
    assert files == {f"{name}.{kind}" for name in names for kind in ("json", "csv", "md")} | charts | {"paper.md"}
    assert (tmp_path / "tables/paper.md").read_text() == page
    assert read_json(tmp_path / "tables/figure4.json")["notes"][-1] == NOT_MEASURED
    before = (tmp_path / "tables/fits.csv").read_bytes()
    assert main([str(tmp_path)]) == 0 and (tmp_path / "tables/fits.csv").read_bytes() == before
    write_json(tmp_path / "predicted.json", records()[:1])
    assert main([str(tmp_path)]) == 2
    assert "no pair of predicted records" in capsys.readouterr().err
    assert (tmp_path / "tables/fits.csv").read_bytes() == before


def test_the_paper_command_leaves_records_tables_and_provenance(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(paper, "predict_all", lambda *args, **options: None)
    monkeypatch.setattr(paper, "Predictions", lambda **options: made_up)
    assert bench_main(["cost", "--paper", "--out", str(tmp_path / "out")]) == 0
    assert load_records(tmp_path / "out") == records()
    assert (tmp_path / "out/tables/figure4.png").is_file()
    assert read_json(tmp_path / "out/tables/run.json")["measured"] == "nothing was measured"
    out = capsys.readouterr().out
    assert (tmp_path / "out/tables/paper.md").read_text() in out and out.endswith(f"written to {tmp_path / 'out'}\n")


def test_what_is_committed_is_drawn_from_its_records():
    folder = Path(__file__).parents[3] / "docs" / "results" / "cost"
    tables = all_tables(load_records(folder))
    assert len(tables) == 8
    for table in tables:
        assert (folder / "tables" / f"{table.name}.csv").read_text() == as_csv(table)
        assert (folder / "tables" / f"{table.name}.md").read_text() == as_markdown(table)
