"""Which cases the paper-size block needs, their predictions, several processes at a time, and the records of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

import torch

from bench.cost.cache import DEFAULT_FOLDER, cached_prediction
from bench.cost.cases import parse
from bench.cost.families import FAMILIES, FIGURE4_FAMILY, FIGURE4_RESOLUTION
from bench.cost.predict import Prediction
from bench.cost.protocols import BATCH_SIZES, VAE_TILES, Get, protocol_records, vae_case
from bench.records import CostRecord

GROWTH_RESOLUTIONS = (1024, 2048, 4096, 8192, 10240)
IMAGE_RESOLUTIONS = (1024, 4096)

Ask = tuple[str, int]  # a case's name and its batch size


def figure4_asks() -> list[Ask]:
    """Source and pixel model at 4K alone and with a guidance batch, the VAE's ways to decode, the text encoder."""
    models = [
        (f"{model}{FIGURE4_FAMILY}-{FIGURE4_RESOLUTION}", batch) for model in ("", "l2p-") for batch in BATCH_SIZES
    ]
    decodes = [(vae_case(FIGURE4_FAMILY, FIGURE4_RESOLUTION, tile), 1) for tile in VAE_TILES]
    return [*models, (f"text-{FIGURE4_FAMILY}", 1), *decodes]


def image_asks() -> list[Ask]:
    """Every family's denoisers, text encoders and VAE at 1K and 4K."""
    asks: list[Ask] = []
    for name, family in FAMILIES.items():
        asks.append((f"text-{name}", 1))
        for resolution in IMAGE_RESOLUTIONS:
            asks.append((f"l2p-{name}-{resolution}", 1))
            if resolution <= family.max_resolution:
                asks += [(f"{name}-{resolution}", 1), (vae_case(name, resolution, 0), 1)]
    return asks


def growth_asks() -> list[Ask]:
    """Every family's denoisers from 1K to 10K, as far as its positions go."""
    asks = []
    for name, family in FAMILIES.items():
        resolutions = [r for r in GROWTH_RESOLUTIONS if r <= family.max_resolution]
        asks += [(f"{name}-{resolution}", 1) for resolution in resolutions]
        asks += [(f"l2p-{name}-{resolution}", 1) for resolution in GROWTH_RESOLUTIONS]
    return asks


def training_asks() -> list[Ask]:
    """5 + 5 blocks against all for every family; for Z-Image every depth, the release's choice and our own
    precision."""
    ends = [f"train-l2p-{name}-1024-{blocks}-checkpointed" for name in FAMILIES for blocks in ("5", "full")]
    zimage = [
        *("0-checkpointed", "1-checkpointed", "3-checkpointed", "10-checkpointed"),
        *("5", "full", "5-released-checkpointed", "5-checkpointed-mixed-fused"),
    ]
    return [(name, 1) for name in [*ends, *(f"train-l2p-zimage-1024-{way}" for way in zimage)]]


def small_card_asks() -> list[Ask]:
    """Candidates for a 24 GB card: checkpointed, with the smallest optimisers."""
    ways = {
        "sd3": ("full-checkpointed-fused", "full-checkpointed-8bit"),
        "zimage": ("10-checkpointed-8bit", "5-checkpointed-8bit", "3-checkpointed-fused"),
        "flux": ("0-checkpointed-8bit",),
    }
    return [(f"train-l2p-{name}-1024-{way}", 1) for name, some in ways.items() for way in some]


def all_asks() -> list[Ask]:
    """All of them, each once, those that decide figure 4 first and the slow tiled decodes last."""
    parts = [figure4_asks(), image_asks(), training_asks(), small_card_asks(), growth_asks()]
    unique = dict.fromkeys(ask for part in parts for ask in part)
    return sorted(unique, key=lambda ask: "-tiled" in ask[0])


@dataclass(frozen=True, kw_only=True)
class Predictions:
    """Looks predictions up by name and batch size; those not in the cache are made on the spot."""

    cache: Path = DEFAULT_FOLDER
    force: bool = False

    def __call__(self, name: str, batch_size: int = 1) -> Prediction:
        """The prediction of a case; ValueError for an unknown name."""
        return cached_prediction(parse(name, batch_size=batch_size), folder=self.cache, force=self.force)


def predict_all(
    asks: Iterable[Ask], predictions: Predictions, *, num_jobs: int, done: Callable[[Ask], None] = lambda ask: None
) -> None:
    """Fill the cache in `num_jobs` processes; `done` is told of each; Ctrl-C keeps what is finished."""
    with ProcessPoolExecutor(num_jobs, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        futures = {pool.submit(predictions, *ask): ask for ask in asks}
        try:
            for future in as_completed(futures):
                future.result()
                done(futures[future])
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def paper_records(get: Get, asks: Iterable[Ask]) -> list[CostRecord]:
    """A record of each predicted case, and of figure 4's protocols, whose bare pairs stand for those cases."""
    pairs = protocol_records(get)
    names = {(record.case, record.batch_size) for record in pairs}
    return [*(get(*ask).record() for ask in asks if ask not in names), *pairs]
