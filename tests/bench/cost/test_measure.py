"""Measurement of a step and of a case on the CPU (a GPU runs the same lines), and the command."""

import pytest
import torch
from torch import nn

from bench.__main__ import main
from bench.cost.measure import check_device, measure_case, measure_step
from bench.cost.predict import predict
from bench.cost.training import EightBitAdamWState
from bench.records import CostRecord, read_json
from tests.bench.cost.small import small_family
from tests.bench.cost.test_fidelity import _source


def test_a_measured_step_keeps_every_latency_and_counts_residents():
    model, x = nn.Linear(256, 1024, bias=False), torch.ones(64, 256)
    calls = []

    @torch.no_grad()
    def step():
        calls.append(model(x))
        calls.clear()

    record = measure_step(
        step,
        resident=[model, x],
        case="linear",
        resolution=0,
        batch_size=64,
        dtype="float32",
        device="cpu",
        protocol="test",
        num_repeats=4,
    )
    assert len(record.latency_s) == 4 and min(record.latency_s) > 0
    assert record.flops == 2 * 64 * 256 * 1024
    assert record.peak_memory_bytes == 4 * (256 * 1024 + 64 * 256 + 64 * 1024)  # weights, input, output
    assert record.kind == "measured"


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
    with pytest.raises(ValueError, match="which has cpu"):
        check_device("cuda")


def test_eight_bit_state_refuses_to_pretend_to_train():
    parameter = nn.Parameter(torch.ones(3))
    parameter.grad = torch.ones(3)
    with pytest.raises(RuntimeError, match="would not train real tensors"):
        EightBitAdamWState([parameter]).step()


def test_the_command_predicts_into_a_file(tmp_path, capsys):
    path, cache = tmp_path / "out.json", tmp_path / "cache"
    arguments = ["cost", "--case", "vae-flux-512", "--json", str(path), "--cache", str(cache)]
    assert main(arguments) == 0
    (record,) = [CostRecord(**row) for row in read_json(path)]
    assert (record.case, record.kind, record.batch_size) == ("vae-flux-512", "predicted", 1)
    assert record.flops / 1e12 == pytest.approx(2.5, abs=0.3)  # a quarter of 1024's 10.5
    assert "vae-flux-512" in capsys.readouterr().out
    assert len(list(cache.iterdir())) == 1


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["--case", "fluks-1024"], "close ones are flux-1024"),
        ([], "name at least one --case"),
        (["--case", "flux-1024", "--dtype", "int8"], "known are bfloat16, float32"),
        (["--case", "flux-1000"], "no multiple of 16"),
    ],
)
def test_the_command_refuses_bad_input_with_status_2(arguments, words, capsys):
    assert main(["cost", *arguments]) == 2
    assert words in capsys.readouterr().err


def test_the_command_lists_its_cases(capsys):
    assert main(["cost", "--list"]) == 0
    assert "train-l2p-zimage-1024-5-checkpointed" in capsys.readouterr().out.split()
