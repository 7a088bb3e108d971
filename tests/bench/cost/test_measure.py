"""Measurement of a step and of a case on the CPU (a GPU runs the same lines), and the command."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from bench.__main__ import main
from bench.cost import measure
from bench.cost.cases import parse
from bench.cost.measure import Measurement, check_fits, check_measurable, measure_case, measure_step
from bench.cost.predict import predict
from bench.cost.training import EightBitAdamWState
from bench.records import CostRecord, read_costs, read_json
from tests.bench.cost.small import small_family
from tests.bench.cost.test_fidelity import _source

pytestmark = pytest.mark.usefixtures("noted")  # what is said stands in docs/errors.md


def test_a_measured_step_keeps_every_latency_and_counts_residents():
    model, x = nn.Linear(256, 1024, bias=False), torch.ones(64, 256)
    calls = []

    @torch.no_grad()
    def step():
        calls.append(model(x))
        calls.clear()

    what = CostRecord(
        case="linear", kind="measured", family="flux", model="source", resolution=0, batch_size=64, dtype="float32",
        protocol="test",
    )  # fmt: skip
    record = measure_step(step, what, resident=[model, x], device="cpu", num_repeats=4)
    assert len(record.latency_s) == 4 and min(record.latency_s) > 0
    assert record.flops == 2 * 64 * 256 * 1024
    assert record.peak_memory_bytes == 4 * (256 * 1024 + 64 * 256 + 64 * 1024)  # weights, input, output
    assert (record.kind, record.device_type, record.case) == ("measured", "cpu", "linear")
    assert record.device.endswith("threads")


def test_a_case_measured_on_the_cpu_agrees_with_its_prediction():
    case, family = _source("flux"), small_family("flux")
    measured = measure_case(case, family, device="cpu", dtype=torch.float32, num_repeats=2)
    predicted = predict(case, family, dtype=torch.float32)
    assert measured.record.flops == predicted.flops
    # 512-byte rounding of each tensor is all that differs
    assert predicted.peak_memory_bytes == pytest.approx(measured.record.peak_memory_bytes, rel=0.15)
    assert measured.process_max_rss_bytes > measured.record.peak_memory_bytes
    assert measured.reserved_bytes == 0


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_a_device_that_is_not_there_is_refused():
    with pytest.raises(ValueError, match="it has cpu"):
        check_measurable("cuda")


def test_the_cpu_of_one_process_among_several_is_a_device():
    check_measurable("cpu")
    check_measurable("cpu:0")  # accelerate's name for it


def test_a_word_that_is_no_device_is_refused():
    with pytest.raises(ValueError, match="'graphics' is not on this machine; it has cpu"):
        check_measurable("graphics")


def test_a_case_larger_than_the_free_memory_is_refused_before_it_is_built():
    with pytest.raises(ValueError, match=r"flux-4096 needs 1024\.00 GiB \(predicted\) and cpu has .* GiB free"):
        check_fits("flux-4096", 2**40, "cpu")
    check_fits("flux-4096", 1, "cpu")


def test_eight_bit_state_refuses_to_pretend_to_train():
    parameter = nn.Parameter(torch.ones(3))
    parameter.grad = torch.ones(3)
    with pytest.raises(RuntimeError, match="would not train real tensors"):
        EightBitAdamWState([parameter]).step()


def test_the_command_predicts_into_a_file(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")
    path, cache = tmp_path / "out.json", tmp_path / "cache"
    arguments = ["cost", "--case", "vae-flux-512", "--json", str(path), "--cache", str(cache), "--operators"]
    assert main(arguments) == 0
    (record,) = read_costs(path)
    assert (record.case, record.kind, record.batch_size) == ("vae-flux-512", "predicted", 1)
    assert record.flops / 1e12 == pytest.approx(2.5, abs=0.3)  # a quarter of 1024's 10.5
    out = capsys.readouterr().out
    assert "vae-flux-512" in out and "no measurement" in out
    (row,) = [line.split() for line in out.splitlines() if " convolution " in line]
    assert float(row[-4]) == pytest.approx(record.flops / 1e12, rel=0.05)  # TFLOP by kind: nearly all of them
    assert len(list(cache.iterdir())) == 1
    assert read_json(tmp_path / "out.run.json")["measured"] == "nothing was measured"


def _measured(case, *, device, dtype, num_repeats):
    """A measurement of 1 GiB in 2, 3 and 4 seconds."""
    record = replace(
        case.record(dtype="float32", kind="measured"),
        device="a test's", device_type="cpu", flops=1.0, peak_memory_bytes=2**30, latency_s=[2.0, 4.0, 3.0],
    )  # fmt: skip
    return Measurement(record=record, reserved_bytes=0, process_max_rss_bytes=3 * 2**30)


def test_predicted_and_measured_stand_apart_with_the_error_between(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(measure, "measure_case", _measured)
    monkeypatch.setenv("COLUMNS", "200")
    path = tmp_path / "out.json"
    arguments = ["--case", "vae-flux-512", "--measure", "cpu", "--roofline", "a100", "--json", str(path)]
    assert main(["cost", *arguments, "--cache", str(tmp_path / "cache")]) == 0
    predicted, measured = read_costs(path)
    assert (predicted.kind, predicted.latency_s) == ("predicted", [])
    assert (measured.kind, measured.latency_s) == ("measured", [2.0, 4.0, 3.0])
    (row,) = [line for line in capsys.readouterr().out.splitlines() if "vae-flux-512" in line]
    cells = [cell.strip() for cell in row.strip("│ ").split("│")]
    error = 100 * (predicted.peak_memory_bytes / 2**30 - 1)
    assert cells[-4:] == ["1.00", f"{error:+.2f}", "3.00", "3 s"]
    (extra,) = read_json(tmp_path / "out.run.json")["measured"]
    assert (extra["case"], extra["process_max_rss_bytes"]) == ("vae-flux-512", 3 * 2**30)


def test_a_case_that_does_not_fit_is_refused_before_any_other_is_measured(tmp_path, monkeypatch, capsys):
    begun = []
    monkeypatch.setattr(measure, "measure_case", lambda case, **_: begun.append(case))
    free_bytes = 2 * predict(parse("vae-flux-128")).peak_memory_bytes
    monkeypatch.setattr(measure.psutil, "virtual_memory", lambda: SimpleNamespace(available=free_bytes))
    names = ["--case", "vae-flux-128", "--case", "vae-flux-512"]
    arguments = [*names, "--measure", "cpu", "--roofline", "a100", "--cache", str(tmp_path / "cache")]
    assert main(["cost", *arguments, "--json", str(tmp_path / "out.json")]) == 2
    assert "vae-flux-512 needs" in capsys.readouterr().err and not begun and not (tmp_path / "out.json").exists()


def test_an_interrupted_command_keeps_its_finished_cases(tmp_path, monkeypatch, capsys):
    def interrupted(case, *, device, dtype, num_repeats):
        if case.name == "vae-flux-256":
            raise KeyboardInterrupt
        return _measured(case, device=device, dtype=dtype, num_repeats=num_repeats)

    monkeypatch.setattr(measure, "measure_case", interrupted)
    path, names = tmp_path / "out.json", ["--case", "vae-flux-128", "--case", "vae-flux-256"]
    arguments = [*names, "--measure", "cpu", "--roofline", "a100", "--json", str(path)]
    assert main(["cost", *arguments, "--cache", str(tmp_path / "cache")]) == 3
    assert [(row["case"], row["kind"]) for row in read_json(path)] == [
        ("vae-flux-128", "predicted"),
        ("vae-flux-128", "measured"),
    ]
    assert len(list((tmp_path / "cache").iterdir())) == 2  # the second was predicted before its measurement stopped
    assert "the same command goes on from there" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["--case", "fluks-1024"], "close ones are flux-1024"),
        ([], "name at least one --case"),
        (["--case", "flux-1024", "--dtype", "int8"], "known are bfloat16, float32"),
        (["--case", "flux-1000"], "no multiple of 16"),
        (["--case", "flux-1024", "--batch-size", "1000000000"], "'--batch-size': Input should be less than or equal"),
        (["--case", "flux-1024", "--text-tokens", "1000000000"], "'--text-tokens': Input should be less than or equal"),
        (["--case", "flux-1024", "--repeats", "1000000000"], "'--repeats': Input should be less than or equal to 1000"),
        (["--paper", "--jobs", "1000000000"], "'--jobs': Input should be less than or equal to 256"),
        (["--case", "l2p-flux-1000000000"], "1000000000 px a side are too many; up to 16384 are predicted"),
        (["--case", "vae-flux-16384-tiled16"], "tiles of 16 px are too many; give tiles of at least 256 px"),
        (["--case", "flux-1024", "--measure", "cuda:99"], "--measure 'cuda:99' is not on this machine; it has cpu"),
        (["--case", "flux-1024", "--roofline", "b200"], "known are h100, a100, rtx4090, cpu"),
        (["--paper", "--case", "flux-1024"], "--paper has its own cases"),
    ],
)
def test_the_command_refuses_bad_input_with_status_2(arguments, words, capsys):
    assert main(["cost", *arguments]) == 2
    assert words in capsys.readouterr().err


def test_the_command_lists_its_cases(capsys):
    assert main(["cost", "--list"]) == 0
    assert "train-l2p-zimage-1024-5-checkpointed" in capsys.readouterr().out.split()
