"""What fits on which GPUs: the settings in order of speed, the first with room, and what would fit where none does."""

from dataclasses import replace

import pytest

from bench.cost.predict import Prediction
from reproduce import memory
from reproduce.memory import GIB, Gpus, advice, fits, gpus_named, placement, sampling, sampling_peaks, training_peaks
from reproduce.recipes.flux import flux_mini, flux_paper

NUM_PARAMETERS, NUM_TRAINED, WORKING = 12 * GIB, 2 * GIB, 3 * GIB
CARD = Gpus(num=1, name="card", memory_bytes=80 * GIB)


@pytest.fixture(autouse=True)
def made_up(monkeypatch):
    """Peaks that can be reckoned by hand: 12 Gi parameters, 2 Gi of them trained, working memory of 3 GiB an image."""

    def predicted(case, detailer):
        train = case.kind == "train"
        num_trained = NUM_TRAINED * (1 if case.num_trainable_blocks is None else case.num_trainable_blocks) // 5
        num_trained = num_trained if train else 0
        moments = 2 if case.optimizer == "8bit" else 8
        num_parameters = {"text": 5 * GIB, "vae": GIB}.get(case.kind, NUM_PARAMETERS)
        weights = 2 * (num_parameters - num_trained) + (4 + moments) * num_trained
        working = WORKING * (case.batch_size if train else 1)
        return Prediction(
            case=case,
            dtype="bfloat16",
            num_parameters=num_parameters,
            num_trainable_parameters=num_trained,
            flops=0,
            peak_memory_bytes=weights + working,
            resident_bytes=weights,
            peak_operator="",
            peak_stage="",
            stage_peaks={},
            operators=[],
        )

    monkeypatch.setattr(memory, "_predicted", predicted)
    monkeypatch.setattr(memory, "_gathered", lambda case, detailer: 2 * GIB)
    monkeypatch.setattr(memory, "largest_layer_bytes", lambda family: GIB)


def recipe(**transfer):
    paper = flux_paper()
    return replace(paper, transfer=replace(paper.transfer, batch_size=8, **transfer))


def test_peaks_of_training_are_shared_out():
    whole = 2 * 10 + 12 * 2 + 3  # one image a GPU: frozen, trained with moments, working
    assert training_peaks(recipe(), 8) == [
        ("replicate", (whole + 4 * 2) * GIB),  # and what DDP exchanges
        ("shard", (2 * 10 + 12 * 2) // 8 * GIB + (2 * 10 + 12 * 2) % 8 * GIB // 8 + (3 + 2) * GIB),
        ("offload", 12 * 2 // 8 * GIB + (3 + 2) * GIB),
    ]
    assert [name for name, _ in training_peaks(recipe(), 1)] == ["replicate", "offload"]
    averaged = dict(training_peaks(recipe(ema_decay=0.99), 8))
    assert averaged["replicate"] - (whole + 4 * 2) * GIB == 4 * NUM_TRAINED
    assert averaged["offload"] - 8 * GIB == 4 * NUM_TRAINED // 8


def test_parts_that_take_turns_need_the_largest_alone():
    assert dict(sampling_peaks(recipe(), "source")) == {
        "whole": (2 * (5 + 12 + 1) + 3) * GIB,
        "turns": (2 * 12 + 3) * GIB,
        "layers": (2 + 3) * GIB,
    }
    assert dict(sampling_peaks(recipe(), "l2p"))["whole"] == (2 * (5 + 12) + 3) * GIB


@pytest.mark.parametrize(
    ("num", "memory_gib", "lies"), [(8, 80, "replicate"), (8, 24, "shard"), (8, 13, "shard"), (8, 11, "offload")]
)
def test_the_fastest_setting_that_fits_is_taken(num, memory_gib, lies):
    assert placement(recipe(), Gpus(num=num, name="card", memory_bytes=memory_gib * GIB)) == lies


def test_drawing_falls_back_to_turns_and_layers():
    cards = [Gpus(num=1, name="card", memory_bytes=size * GIB) for size in (80, 32, 24)]
    assert [sampling(recipe(), "source", card) for card in cards] == ["whole", "turns", "layers"]


def test_where_nothing_fits_a_smaller_share_or_a_larger_card_is_named():
    small = Gpus(num=1, name="card", memory_bytes=24 * GIB)
    with pytest.raises(ValueError, match="gradient_accumulation_steps=8 and optimizer_bits=8 fits: 19 GiB"):
        placement(recipe(), small)
    tiny = Gpus(num=1, name="card", memory_bytes=4 * GIB)
    assert advice(recipe(), tiny) == "H100 SXM 80 GB would do."
    assert not next(fit for fit in fits(recipe(), tiny) if fit.what == "training step").fits


def test_the_miniature_and_machines_without_a_gpu_are_left_alone():
    assert placement(flux_mini(), CARD) == "replicate" and sampling(flux_mini(), "l2p", CARD) == "whole"
    assert placement(recipe(), None) == "replicate" and sampling(recipe(), "l2p", None) == "whole"


def test_gpus_are_named():
    assert gpus_named("8xh100") == Gpus(num=8, name="h100", memory_bytes=80 * GIB)
    for wrong in ("h100", "0xh100", "8xb200"):
        with pytest.raises(ValueError, match="h100, a100, rtx4090"):
            gpus_named(wrong)
