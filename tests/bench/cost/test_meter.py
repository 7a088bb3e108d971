"""The meter against closed forms, against itself on real tensors, and against the CPU allocator's own events."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from bench.cost import torch_private
from bench.cost.meter import Meter, materialise, resident_bytes
from bench.cost.torch_private import fake_tensors, profiled_growth_bytes
from tests.bench.cost.test_fidelity import KERNELS


def test_flops_and_bytes_of_a_matrix_product_are_the_closed_form():
    left, right = torch.ones(8, 16), torch.ones(16, 32)
    with Meter() as meter:
        left @ right
    (work,) = [work for work in meter.operators if work.flops]
    assert work.flops == 2 * 8 * 16 * 32
    assert work.bytes == 4 * (8 * 16 + 16 * 32 + 8 * 32)


def test_views_cost_no_traffic_and_in_place_operators_do():
    values = torch.ones(64, 64)
    with Meter() as meter:
        values.t()[3:].unsqueeze(0).expand(5, -1, -1)
        values.add_(1)
    assert [work.name for work in meter.operators] == ["add_"]


def test_operators_that_write_and_return_nothing_cost_what_they_read_and_write():
    weights, steps = [torch.ones(8), torch.ones(24)], [torch.ones(8), torch.ones(24)]
    with Meter() as meter:
        torch._foreach_add_(weights, steps)
    (work,) = meter.operators
    assert (work.name, work.dtype, work.bytes) == ("_foreach_add_", "float32", 4 * 3 * (8 + 24))


def test_peak_counts_what_lives_at_once_and_forgets_what_is_freed():
    meter = Meter(block=1)
    with meter:
        first = torch.empty(1000)
        del first
        second = torch.empty(600)
        third = torch.empty(600)
    assert meter.peak_bytes == 4 * 1200
    assert meter.live_bytes == second.nbytes + third.nbytes


def test_sizes_are_rounded_like_the_cuda_allocator():
    meter = Meter()
    with meter:
        kept = torch.empty(1)
    assert (kept.nbytes, meter.live_bytes) == (4, 512)


def test_stages_keep_their_own_peaks_and_operators():
    meter, values = Meter(block=1), torch.ones(10, 10)
    meter.watch(values)
    with meter, meter.stage("vae"):
        values @ values
    assert {work.stage for work in meter.operators} == {"vae"}
    assert meter.stage_peaks["vae"] == 2 * 400
    assert meter.peak_stage == "vae"


@pytest.mark.parametrize("length", [32, 96])
def test_cpu_attention_is_counted_where_torch_counts_nothing(length):
    query = torch.randn(1, 2, length, 16, requires_grad=True)
    with Meter() as meter:
        out = nn.functional.scaled_dot_product_attention(query, query, query)
        forward = meter.flops
        out.sum().backward()
    assert forward == 2 * 2 * 2 * length * length * 16  # heads x (scores + values) x 2 a multiply-add
    assert meter.flops - forward == pytest.approx(2.5 * forward)  # the backward recomputes the scores


def test_an_attention_operator_without_a_formula_is_an_error():
    operator = SimpleNamespace(_overloadpacket="mine", _schema=SimpleNamespace(name="mine::my_attention"))
    with pytest.raises(ValueError, match="no FLOP formula for the attention operator"):
        torch_private.operator_flops(operator, (), {}, None)


class Small(nn.Module):
    """Products, normalisation and attention: what a transformer block is made of."""

    def __init__(self):
        super().__init__()
        self.first, self.norm, self.second = nn.Linear(32, 96), nn.LayerNorm(32), nn.Linear(32, 32)

    def forward(self, x):
        heads = self.first(self.norm(x)).unflatten(-1, (3, 2, 16)).permute(2, 0, 3, 1, 4)
        out = nn.functional.scaled_dot_product_attention(*heads)
        return x + self.second(out.transpose(1, 2).flatten(2))


def _train(model, x, optimizer):
    def step():
        model(x).float().pow(2).mean().backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def _metered_training(device_context, dtype, fused):
    with device_context:
        model = materialise(Small, dtype=dtype).requires_grad_(True)
        x = torch.zeros(128, 64, 32, dtype=dtype)
        optimizer = torch.optim.AdamW(model.parameters(), fused=fused, foreach=not fused)
        meter = Meter(block=1)
        meter.watch(model, x)
        step = _train(model, x, optimizer)
        with meter:
            step()
            meter.restart()
            step()
    return meter, model, x, optimizer, step


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_fake_and_real_training_give_the_same_flops_bytes_and_operators(dtype, fused):
    fake, *_ = _metered_training(fake_tensors(), dtype, fused)
    real, *_ = _metered_training(torch.enable_grad(), dtype, fused)
    assert fake.operators == real.operators
    assert fake.peak_bytes == real.peak_bytes
    assert fake.flops == real.flops > 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_meter_agrees_with_the_cpu_allocator_within_a_thousandth(dtype):
    meter, model, x, optimizer, step = _metered_training(torch.enable_grad(), dtype, True)
    allocated = resident_bytes(model, x, optimizer) + profiled_growth_bytes(step, KERNELS)
    assert meter.peak_bytes == pytest.approx(allocated, rel=1e-3)


def test_materialised_modules_are_usable_and_fake_ones_take_no_memory():
    real = materialise(lambda: nn.Embedding(4, 3), dtype=torch.float32)
    assert real(torch.tensor([3])).isfinite().all()
    with fake_tensors():
        fake = materialise(lambda: nn.Linear(10**6, 10**5), dtype=torch.bfloat16)  # 200 GB
    assert torch_private.is_fake(fake.weight)
    assert not torch_private.is_fake(real.weight)


@pytest.mark.parametrize(
    "version, is_checked", [("2.12.1", False), ("2.13.0", True), ("2.14.1+cpu", True), ("2.15.0", False)]
)
def test_an_unchecked_torch_is_refused_unless_forced(version, is_checked):
    if is_checked:
        assert torch_private.check_torch(version=version) is None
        return
    with pytest.raises(ValueError, match="--force"):
        torch_private.check_torch(version=version)
    assert version in torch_private.check_torch(version=version, force=True)
