"""The transfer: both ends of a source DiT learn pixels from images that the source drew (paper sections 3.2, 3.3)."""

import json
import shutil
import signal
import time
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from accelerate import Accelerator

from l2p import checkpoint
from l2p.alarms import Alarm, Probe, check_alarms
from l2p.conversion import save_delta
from l2p.flow import noisy_image, velocity_target
from l2p.objective import seeded, transfer_loss
from l2p.options import (
    FROZEN_DTYPES,
    TransferConfig,
    frozen_sha256,
    learning_rate_share,
    refuse_other_options,
    trainable_parameters,
)
from l2p.preparation import Micro, Run, prepare
from l2p.progress import counted, say

__all__ = ["StopRequest", "TransferConfig", "TransferSummary", "run_transfer", "trainable_parameters"]

VALIDATION_SIGMAS = (0.15, 0.3, 0.5, 0.7, 0.85, 0.97)
NUM_ALARM_IMAGES = 16


@dataclass(frozen=True, kw_only=True)
class TransferSummary:
    """What a finished transfer was and cost; written as summary.json."""

    num_train_steps: int
    batch_size: int
    num_trainable_parameters: int
    num_parameters: int
    num_trainable_blocks: int
    seconds: float
    final_loss: float
    options: dict[str, Any]
    frozen_sha256_before: str
    frozen_sha256_after: str
    conversion: dict[str, Any]
    alarms: list[dict[str, Any]]
    rejected: list[tuple[str, str]]


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


def run_transfer(
    source: str | Path, corpus: str | Path, config: TransferConfig, out_dir: str | Path, *, progress: bool = True
) -> TransferSummary:
    """Turn a source pipeline into a pixel model, and leave it in out_dir.

    source: diffusers folder or hub id; corpus: see l2p.corpus. Leaves model/, delta.safetensors, state/, log.jsonl and
    summary.json; an interrupted transfer goes on from state/, a finished one is returned as it is. Works under
    `accelerate launch`. Raises ValueError for bad input or a folder of other options, FloatingPointError when the loss
    is no longer finite, KeyboardInterrupt (state saved) on Ctrl-C or SIGTERM.
    """
    out_dir = Path(out_dir)
    if (out_dir / "summary.json").is_file():
        summary = json.loads((out_dir / "summary.json").read_text("utf-8"))
        refuse_other_options(summary["options"], config, out_dir)
        return TransferSummary(**summary)
    run = prepare(source, corpus, config, out_dir, progress)
    with StopRequest() as stop, run.loader:
        _train(run, stop, progress and run.accelerator.is_main_process)
    return _finish(run)


def _train(run: Run, stop: StopRequest, shown: bool) -> None:
    config, facts = run.config, run.facts
    pending = run.loader.submit(_batch, run, facts["step"])  # the next batch is decoded while this one trains
    with counted(config.num_train_steps, "transfer", done=facts["step"], shown=shown) as advance:
        while facts["step"] < config.num_train_steps:
            started = time.perf_counter()
            batch = pending.result()
            pending = run.loader.submit(_batch, run, facts["step"] + 1)
            facts["losses"].append(_step(run, batch))
            facts["step"] += 1
            facts["seconds"] += time.perf_counter() - started
            _report(run)
            advance(f"loss {facts['final_loss']:.4f}" if "final_loss" in facts else "")
            stopped = _agree(run.accelerator, stop.requested)
            if stopped or facts["step"] % config.save_every == 0 or facts["step"] == config.num_train_steps:
                _save(run)
            if stopped:
                raise KeyboardInterrupt(f"stopped at step {facts['step']}; the same command goes on from there")


def _batch(run: Run, step: int) -> list[Micro]:
    """Load this process's share of a step's batch."""
    share = run.config.batch_size // run.accelerator.num_processes
    first = run.accelerator.process_index * share
    return run.data.batch(step, first, share, run.config.gradient_accumulation_steps)


def _step(run: Run, batch: list[Micro]) -> float:
    """Take one optimizer step; return this process's loss. Weights stay as they are when a gradient is not finite."""
    device, total = run.accelerator.device, 0.0
    for i, micro in enumerate(batch):
        clean, noise, sigma = (tensor.to(device, non_blocking=True) for tensor in micro[:3])
        prompt = {name: tensor.to(device, non_blocking=True) for name, tensor in micro[3].items()}
        with nullcontext() if i == len(batch) - 1 else run.accelerator.no_sync(run.wrapped):
            velocity = run.wrapped(noisy_image(clean, noise, sigma), sigma, prompt, return_dict=False)[0]
            target = velocity_target(clean, noise)
            loss = transfer_loss(velocity, target, sigma, run.config.loss_weight_below) / len(batch)
            run.accelerator.backward(loss)
        total += loss.item()
    # After the gradients were averaged every process sees the same norm, so all of them stop or none.
    norm = run.accelerator.clip_grad_norm_(run.trained.values(), run.config.max_grad_norm or float("inf"))
    if not torch.isfinite(norm):
        raise FloatingPointError(
            f"the loss is not finite at step {run.facts['step'] + 1} (this process: {total}); the last good state is "
            f"kept in {run.out_dir / 'state'}: lower learning_rate or set max_grad_norm, in another folder"
        )
    share = learning_rate_share(run.config, run.facts["step"])
    for group in run.optimizer.param_groups:
        group["lr"] = group["base_lr"] * share
    run.optimizer.step()
    run.optimizer.zero_grad()
    if run.ema is not None:
        run.ema.step(run.trained.values())
    return total


def _report(run: Run) -> None:
    """Write the log's rows that are due at this step: loss, validation, alarms."""
    config, facts = run.config, run.facts
    step, last = facts["step"], facts["step"] == config.num_train_steps
    if step % config.log_every == 0 or last:
        mean = torch.tensor(facts["losses"], device=run.accelerator.device).mean()
        facts["final_loss"] = run.accelerator.reduce(mean, "mean").item()
        facts["losses"] = []
        rate = config.learning_rate * learning_rate_share(config, step - 1)
        counts = {"num_images": step * config.batch_size, "seconds": round(facts["seconds"], 3)}
        _log(run, {"step": step, "loss": facts["final_loss"], "learning_rate": rate, **counts})
    if step % config.validate_every == 0 or last:
        _log(run, {"step": step, "validation_loss": _validate(run)})
    if step == max(1, config.num_train_steps // 5):
        for alarm in _alarms(run):
            facts["alarms"].append({"step": step, "alarm": alarm.kind, "message": alarm.message})
            _log(run, facts["alarms"][-1])
            if run.accelerator.is_main_process:
                say(f"ALARM at step {step}: {alarm.kind}: {alarm.message}")


def _log(run: Run, row: dict[str, Any]) -> None:
    if run.accelerator.is_main_process:
        checkpoint.append_row(run.out_dir / "log.jsonl", row)


@torch.no_grad()
def _validate(run: Run) -> dict[str, float]:
    """Return the averaged model's loss on held-back images at fixed noise, by sigma; the work is shared."""
    held_back = run.data.validation
    mine = held_back[run.accelerator.process_index :: run.accelerator.num_processes]
    totals = torch.zeros(len(VALIDATION_SIGMAS), device=run.accelerator.device)
    with run.averaged():
        for start in range(0, len(mine), run.config.batch_size):
            probe = _probe(run, mine[start : start + run.config.batch_size])
            losses = [probe.loss(sigma) * len(probe.clean) for sigma in VALIDATION_SIGMAS]
            totals += torch.tensor(losses, device=totals.device)
    means = run.accelerator.reduce(totals, "sum") / len(held_back)
    return {str(sigma): mean for sigma, mean in zip(VALIDATION_SIGMAS, means.tolist(), strict=True)}


def _alarms(run: Run) -> list[Alarm]:
    with run.averaged(), run.accelerator.autocast():
        return check_alarms(_probe(run, run.data.validation[:NUM_ALARM_IMAGES]))


def _probe(run: Run, indices: list[int]) -> Probe:
    data, device = run.data, run.accelerator.device
    clean = data.corpus.images(indices)
    noise = torch.stack([torch.randn(clean.shape[1:], generator=seeded(run.config.seed, 4, i)) for i in indices])
    prompt = data.prompts([data.corpus.items[i].text for i in indices])
    prompt = {name: tensor.to(device) for name, tensor in prompt.items()}
    return Probe(model=run.model, clean=clean.to(device), prompt=prompt, noise=noise.to(device))


def _agree(accelerator: Accelerator, requested: bool) -> bool:
    """Return whether any process was asked to stop, so that all stop at the same step."""
    if accelerator.num_processes == 1:
        return requested
    return accelerator.reduce(torch.tensor(float(requested), device=accelerator.device), "sum").item() > 0


def _save(run: Run) -> None:
    if run.accelerator.is_main_process:
        states = {"optimizer": run.optimizer.state_dict()}
        if run.ema is not None:
            states["ema"] = run.ema.state_dict()
        checkpoint.save_state(run.out_dir / "state", run.facts["step"], run.own_tensors(), states, run.facts)
    run.accelerator.wait_for_everyone()


def _finish(run: Run) -> TransferSummary:
    config, facts = run.config, run.facts
    summary = TransferSummary(
        num_train_steps=config.num_train_steps,
        batch_size=config.batch_size,
        num_trainable_parameters=sum(p.numel() for p in run.trained.values()),
        num_parameters=sum(p.numel() for p in run.model.parameters()),
        num_trainable_blocks=config.num_trainable_blocks,
        seconds=facts["seconds"],
        final_loss=facts["final_loss"],
        options=facts["options"],
        frozen_sha256_before=facts["frozen_sha256_before"],
        frozen_sha256_after=frozen_sha256(run.model),
        conversion=facts["conversion"],
        alarms=facts["alarms"],
        rejected=run.data.corpus.rejected,
    )
    if run.ema is not None:
        run.ema.copy_to(list(run.trained.values()))
    if run.accelerator.is_main_process:
        save_delta(run.model, run.own_tensors(), run.out_dir / "delta.safetensors")
        _save_model(run)
        shutil.rmtree(run.out_dir / "prompts", ignore_errors=True)
        checkpoint.write_json(run.out_dir / "summary.json", asdict(summary))
    run.accelerator.wait_for_everyone()
    return summary


def _save_model(run: Run) -> None:
    folder, temporary = run.out_dir / "model", run.out_dir / "model.tmp"
    shutil.rmtree(temporary, ignore_errors=True)
    if run.config.mixed_precision != "no":
        run.model.to(FROZEN_DTYPES[run.config.mixed_precision])  # one dtype for sampling
    run.model.detailer.to(memory_format=torch.contiguous_format)
    run.model.save_pretrained(temporary)
    shutil.rmtree(folder, ignore_errors=True)
    temporary.rename(folder)
