"""Noise levels, the loss, learning rates, and batches that no number of processes changes."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from accelerate import Accelerator
from diffusers.training_utils import EMAModel

from l2p.config import TransferConfig
from l2p.corpora.stream import RowStream
from l2p.flow import transfer_loss
from l2p.training.data import (
    Data,
    MicroBatch,
    SlotRule,
    draw_slot,
    shard_order,
    split_indices,
    stored_order,
    windows_ahead,
)
from l2p.training.optimise import Trainer, learning_rate_share

RULE = SlotRule(
    seed=0,
    batch_size=4,
    num_images=6,
    noise_shape=(3, 8, 8),
    sigma_distribution="logit-normal",
    shift=3.0,
    prompt_dropout=0.25,
)


def test_a_slot_is_a_function_of_seed_step_and_slot() -> None:
    first, again, other = draw_slot(RULE, 5, 2), draw_slot(RULE, 5, 2), draw_slot(RULE, 5, 3)
    assert first.index == again.index and torch.equal(first.noise, again.noise) and first.sigma == again.sigma
    assert not torch.equal(first.noise, other.noise) and first.sigma != other.sigma


def test_each_epoch_sees_each_image_once_in_another_order() -> None:
    order = [draw_slot(RULE, step, slot).index for step in range(6) for slot in range(4)]
    epochs = [order[i : i + 6] for i in range(0, 24, 6)]
    assert all(sorted(epoch) == list(range(6)) for epoch in epochs) and len(set(map(tuple, epochs))) > 1


def test_drawn_sigmas_noise_and_dropped_prompts_have_the_stated_distributions() -> None:
    slots = [draw_slot(RULE, step, slot) for step in range(500) for slot in range(4)]
    sigma = torch.stack([s.sigma for s in slots])
    logits = torch.logit(sigma / (3 - 2 * sigma))  # undo the shift, then the sigmoid
    assert logits.mean().abs() < 0.07 and (logits.std() - 1).abs() < 0.05
    assert sum(s.dropped for s in slots) / len(slots) == pytest.approx(0.25, abs=0.04)
    assert torch.stack([s.noise for s in slots]).std().item() == pytest.approx(1, abs=0.01)


def test_a_dropped_prompt_is_empty_and_every_other_the_images_own() -> None:
    """The batch of a corpus in which each image is as grey as its prompt says."""
    told: list[list[str]] = []

    class Grey:
        stream = None
        items = [SimpleNamespace(text=str(i)) for i in range(64)]

        def images(self, indices: list[int]) -> torch.Tensor:
            return torch.tensor(indices).float().reshape(-1, 1, 1, 1)

    def prompts(texts: list[str]) -> dict:
        told.append(texts)
        return {}

    rule = replace(RULE, num_images=64, batch_size=64, prompt_dropout=0.25)
    data = Data(corpus=Grey(), prompts=prompts, training=list(range(64)), validation=[], slots=rule)
    dropped = [draw_slot(rule, 0, slot).dropped for slot in range(64)]
    [batch] = data.batch(0, 0, 64, 1)
    shown = [str(int(value)) for value in batch.clean.flatten()]
    assert told == [["" if drop else text for drop, text in zip(dropped, shown, strict=True)]]
    assert 5 < sum(dropped) < 30


def test_the_loss_is_the_mean_square_and_its_weight_is_constant_for_the_clean_image() -> None:
    clean_error, sigma = torch.randn(5, 3, 4, 4), torch.tensor([0.1, 0.2, 0.3, 0.6, 0.9])
    target = torch.randn(5, 3, 4, 4)
    velocity = target + clean_error / sigma[:, None, None, None]  # an error of the clean image, seen as velocity
    plain = clean_error.square().mean(dim=(1, 2, 3)) / sigma**2
    torch.testing.assert_close(transfer_loss(velocity, target, sigma), plain.mean())
    held = clean_error.square().mean(dim=(1, 2, 3)) / sigma.clamp(min=0.3) ** 2
    torch.testing.assert_close(transfer_loss(velocity, target, sigma, 0.3), held.mean())


def test_the_learning_rate_warms_up_holds_and_decays() -> None:
    schedule = {"num_train_steps": 100, "num_warmup_steps": 10, "num_decay_steps": 50, "final_share": 0.02}
    shares = [learning_rate_share(step, **schedule) for step in range(100)]
    assert shares[0] == pytest.approx(0.1) and shares[9] == 1 and shares[49] == 1 and shares[50] == 1
    assert shares[75] == pytest.approx(0.5) and shares[99] == pytest.approx(0.02)
    floored = [learning_rate_share(step, **schedule | {"final_share": 0.3}) for step in range(100)]
    assert floored == [max(share, 0.3) if step >= 10 else share for step, share in enumerate(shares)]
    assert floored[84:] == [0.32, *[0.3] * 15]
    level = schedule | {"num_warmup_steps": 0, "num_decay_steps": 0}
    assert all(learning_rate_share(step, **level) == 1 for step in range(100))


class Constant(torch.nn.Module):
    """Predicts one velocity for every pixel."""

    def __init__(self) -> None:
        super().__init__()
        self.velocity = torch.nn.Parameter(torch.zeros(()))

    def forward(self, noisy: torch.Tensor, sigma: torch.Tensor, prompt: dict, return_dict: bool) -> tuple[torch.Tensor]:
        return (self.velocity.expand_as(noisy),)


@pytest.mark.parametrize(("max_grad_norm", "slope"), [(1.0, 1.0), (4.0, 4.0), (100.0, 6.0), (None, 6.0)])
def test_a_step_goes_down_the_clipped_slope_at_the_steps_own_rate(max_grad_norm: float | None, slope: float) -> None:
    """Noise less image is 3 in every pixel, so at velocity 0 the loss is 9 and its slope -6."""
    model = Constant()
    trainer = Trainer(
        accelerator=Accelerator(cpu=True),
        model=model,
        optimizer=torch.optim.SGD([{"params": [model.velocity], "lr": 0.0, "base_lr": 0.1}]),
        trained={"velocity": model.velocity},
        ema=None,
        rate_share=lambda step: 1 / step,
        max_grad_norm=max_grad_norm,
        loss_weight_below=0.0,
    )
    images = torch.zeros(2, 3, 4, 4)
    batch = [MicroBatch(images, images + 3, torch.ones(2), {})] * 2
    assert trainer.step(batch, step=5) == pytest.approx(9)
    assert model.velocity.item() == pytest.approx(0.1 / 5 * slope, rel=1e-4)


def test_averaged_weights_are_the_models_for_a_while_only() -> None:
    model = Constant()
    trainer = Trainer(
        accelerator=Accelerator(cpu=True),
        model=model,
        optimizer=None,
        trained={"velocity": model.velocity},
        ema=EMAModel(model.parameters(), decay=0.9),
        rate_share=lambda step: 1.0,
        max_grad_norm=None,
        loss_weight_below=0.0,
    )
    model.velocity.data.fill_(5.0)
    with trainer.averaged():
        assert model.velocity.item() == 0
    assert model.velocity.item() == 5
    with pytest.raises(KeyboardInterrupt), trainer.averaged():
        raise KeyboardInterrupt
    assert model.velocity.item() == 5


def test_held_back_images_never_train() -> None:
    training, validation = split_indices(200, 50, seed=0)
    assert len(validation) == 50 and sorted(training + validation) == list(range(200))
    with pytest.raises(ValueError, match="a corpus of 99 images cannot hold back 50"):
        split_indices(99, 50, seed=0)


def test_the_defaults_are_the_papers() -> None:
    config = TransferConfig()
    assert (config.learning_rate, config.weight_decay, config.batch_size) == (5e-5, 0.01, 8)
    assert (config.gradient_accumulation_steps, config.num_trainable_blocks, config.shift) == (1, 5, 3.0)
    assert (config.prediction, config.loss_weight_below, config.input_projection) == ("velocity", 0.0, "random")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"trainable": "middle"}, r"unknown trainable 'middle'; known: \['all', 'ends', 'head', 'released'\]"),
        ({"sigma_distribution": "cosine"}, "unknown sigma_distribution"),
        ({"mixed_precision": "fp8"}, r"unknown mixed_precision 'fp8'; known: \['bf16', 'no'\]"),
        ({"batch_size": 6, "gradient_accumulation_steps": 4}, "splits not into 4"),
        ({"num_train_steps": 0}, "num_train_steps is 0"),
        ({"prompt_dropout": 1.0}, r"prompt_dropout 1.0 in \[0, 1\)"),
    ],
)
def test_impossible_options_are_refused(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TransferConfig(**options)


SHARDS = (5, 7, 1, 6)
STREAM = replace(RULE, num_images=sum(SHARDS), shards=SHARDS, window=4, batch_size=4)


def test_each_epoch_of_shards_sees_each_image_once_in_another_order() -> None:
    orders = [shard_order(0, epoch, SHARDS, 4).tolist() for epoch in range(3)]
    assert all(sorted(order) == list(range(19)) for order in orders) and len(set(map(tuple, orders))) == 3
    assert shard_order(1, 0, SHARDS, 4).tolist() != orders[0]
    stored = [stored_order(0, epoch, SHARDS).tolist() for epoch in range(3)]
    for order, forwards in zip(orders, stored, strict=True):
        windows = [(order[i : i + 4], forwards[i : i + 4]) for i in range(0, 19, 4)]
        assert all(set(shuffled) == set(read) for shuffled, read in windows)  # what is held is one window
        starts = {0: 5, 5: 7, 12: 1, 13: 6}
        heads = [image for image in forwards if image in starts]
        assert forwards == [image for head in heads for image in range(head, head + starts[head])]  # whole shards
    drawn = [draw_slot(STREAM, step, slot).index for step in range(10) for slot in range(4)]
    assert drawn[:38] == orders[0] + orders[1]


def test_the_order_of_a_folder_is_what_it_was_before_there_were_shards() -> None:
    """Recorded from the code that knew folders alone: running studies go on with it."""
    assert [draw_slot(RULE, step, slot).index for step in range(3) for slot in range(4)] == [
        *(5, 4, 3, 1, 0, 2),
        *(5, 0, 2, 1, 3, 4),
    ]


@pytest.mark.parametrize("num_ranks", [1, 2, 4])
def test_what_is_read_ahead_is_what_a_rank_will_ask_for(num_ranks: int) -> None:
    """From any step on; and nothing of another rank's is held."""
    share = STREAM.batch_size // num_ranks
    for rank in range(num_ranks):
        for step in range(12):
            windows = list(windows_ahead(STREAM, step, rank * share, share))
            asked = [draw_slot(STREAM, step, slot).index for slot in range(rank * share, (rank + 1) * share)]
            assert set(asked) <= {index for window in windows for index in window}
            assert all(len(window) <= STREAM.window for window in windows)
    whole = [set(window) for window in windows_ahead(STREAM, 0, 0, 4)]
    parts = [[set(window) for window in windows_ahead(STREAM, 0, rank * share, share)] for rank in range(num_ranks)]
    for number, window in enumerate(whole):
        assert set.union(*(part[number] for part in parts)) == window
        assert sum(len(part[number]) for part in parts) == len(window)


class Told:
    """A stream of numbered rows that says what it is asked; and a corpus of them, each image as grey as its number."""

    def __init__(self, sizes: tuple[int, ...]) -> None:
        self.opened: list[int] = []
        starts = [sum(sizes[:shard]) for shard in range(len(sizes))]

        def rows(shard: int):
            self.opened.append(shard)
            return (bytes([starts[shard] + row]) for row in range(sizes[shard]))

        self.stream = RowStream(rows, sizes)
        self.items = [SimpleNamespace(text=str(i), shard=str(s)) for s, n in enumerate(sizes) for i in range(n)]

    def images(self, indices: list[int]) -> torch.Tensor:
        assert all(self.stream.expects(index) for index in indices)
        return torch.tensor([self.stream.row(index)[0] for index in indices]).float().reshape(-1, 1, 1, 1)


def read_steps(steps: range, first: int, share: int) -> tuple[list[float], list[int]]:
    """The images that a process reads in those steps, from nothing on; and the shards that it opened for them."""
    corpus = Told(SHARDS)
    data = Data(corpus=corpus, prompts=lambda texts: {}, training=list(range(19)), validation=[], slots=STREAM)
    seen = [value for step in steps for batch in data.batch(step, first, share, 1) for value in batch.clean.flatten()]
    return [int(value) for value in seen], corpus.opened


def test_a_stream_resumed_in_the_middle_of_an_epoch_goes_on_with_the_same_images() -> None:
    whole, opened = read_steps(range(14), 0, 4)
    assert sorted(whole[:19]) == list(range(19)) and sorted(whole[19:38]) == list(range(19))
    for start in (1, 2, 3, 7, 9):
        assert read_steps(range(start, 14), 0, 4)[0] == whole[4 * start :]
    assert len(opened) <= 4 * 4  # three epochs and the window ahead: no shard is opened twice in one


def test_two_ranks_see_each_image_once_an_epoch_and_together_what_one_sees() -> None:
    whole, _ = read_steps(range(19), 0, 4)
    ranks = [read_steps(range(19), 2 * rank, 2)[0] for rank in (0, 1)]
    together = [ranks[place % 4 // 2][place // 4 * 2 + place % 2] for place in range(76)]
    assert together == whole
    assert all(sorted(together[epoch * 19 : (epoch + 1) * 19]) == list(range(19)) for epoch in range(4))


def test_a_streams_held_back_images_are_among_its_first() -> None:
    training, validation = split_indices(200, 10, seed=0, among=40)
    assert len(validation) == 10 and max(validation) < 40 and sorted(training + validation) == list(range(200))
    assert split_indices(200, 10, seed=0, among=900) == split_indices(200, 10, seed=0)
