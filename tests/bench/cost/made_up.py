"""Predictions that tests make up, for every case of the paper-size block."""

from bench.cost.cases import parse
from bench.cost.devices import GIB
from bench.cost.meter import OperatorWork
from bench.cost.paper import all_asks, paper_records
from bench.cost.predict import Prediction
from bench.records import CostRecord

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


def records(get=made_up) -> list[CostRecord]:
    """The block's records, as `python -m bench cost --paper` would write them."""
    return paper_records(get, all_asks())
