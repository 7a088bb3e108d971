"""The loop: one training step, and steps one after the other until all are done or the user asks to stop."""

import signal
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from types import FrameType
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from l2p.progress import counted


def train_step(
    losses: Iterable[Tensor],
    optimizer: torch.optim.Optimizer,
    *,
    backward: Callable[[Tensor], object] = Tensor.backward,
    before_update: Callable[[], object] | None = None,
    after_update: Callable[[], object] | None = None,
) -> None:
    """Take one optimizer step: the one of every training here, be it run, timed or predicted.

    losses: each part's share of the batch's loss, computed when it is asked for, so that one graph lives at a time.
    before_update: with all gradients there (clipping); where it raises, weights stay as they are. after_update: with
    the new weights (averaging).
    """
    for loss in losses:
        backward(loss)
        del loss  # nothing of the graph stays while the optimizer works
    if before_update is not None:
        before_update()
    optimizer.step()
    optimizer.zero_grad()
    if after_update is not None:
        after_update()


@dataclass(frozen=True, kw_only=True)
class Steps:
    """What the loop does; steps are counted from 0.

    load(step): a step's batch, called in another thread while the step before trains. take(batch): the step, returns
    its loss. report(): write the log's rows that are due. save(): write the state.
    """

    num_steps: int
    save_every: int
    load: Callable[[int], Any]
    take: Callable[[Any], float]
    report: Callable[[], None]
    save: Callable[[], None]


def train(steps: Steps, facts: dict[str, Any], accelerator: Accelerator, label: str, shown: bool) -> None:
    """Take the steps that are left; facts["step"], ["losses"], ["seconds"] (and "final_loss", if reported) tell them.

    Raises KeyboardInterrupt, with the state saved, when any process was asked to stop.
    """
    with (
        StopRequest() as stop,
        ThreadPoolExecutor(max_workers=1) as loader,
        counted(steps.num_steps, label, done=facts["step"], shown=shown and accelerator.is_main_process) as advance,
    ):
        pending = loader.submit(steps.load, facts["step"])  # the next batch is decoded while this one trains
        while facts["step"] < steps.num_steps:
            started = time.perf_counter()
            batch = pending.result()
            pending = loader.submit(steps.load, facts["step"] + 1)
            facts["losses"].append(steps.take(batch))
            facts["step"] += 1
            facts["seconds"] += time.perf_counter() - started
            steps.report()
            advance(f"loss {facts['final_loss']:.4f}" if "final_loss" in facts else "")
            stopped = _any_process(accelerator, stop.requested)
            if stopped or facts["step"] % steps.save_every == 0 or facts["step"] == steps.num_steps:
                steps.save()
            if stopped:
                raise KeyboardInterrupt(f"stopped at step {facts['step']}; the same command goes on from there")


class StopRequest:
    """While open, Ctrl-C and SIGTERM only set `requested`: no step is cut in two. A second one is final."""

    def __init__(self) -> None:
        self.requested = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "StopRequest":
        for number in (signal.SIGINT, signal.SIGTERM):
            self._before[number] = signal.signal(number, self._request)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _request(self, number: int, frame: FrameType | None) -> None:
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True


def _any_process(accelerator: Accelerator, requested: bool) -> bool:
    """Return whether any process was asked to stop, so that all stop at the same step."""
    if accelerator.num_processes == 1:
        return requested
    return accelerator.reduce(torch.tensor(float(requested), device=accelerator.device), "sum").item() > 0
