"""The transfer: both ends of a source DiT learn pixels from images that the source drew (paper sections 3.2, 3.3)."""

import copy
import json
import shutil
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from diffusers.training_utils import EMAModel
from torch import Tensor, nn
from tqdm.auto import tqdm

from l2p import checkpoint
from l2p.alarms import Alarm, Probe, check_alarms
from l2p.architectures import EncodedPrompt, architecture_of, encode_prompt, split_prompts
from l2p.conversion import copy_source_weights, fit_input_projection, save_delta
from l2p.corpus import Corpus, PromptCache, cache_prompts, load_corpus
from l2p.flow import noisy_image, velocity_target
from l2p.objective import Slot, SlotRule, draw_slot, seeded, transfer_loss
from l2p.options import (
    FROZEN_DTYPES,
    TransferConfig,
    frozen_sha256,
    learning_rate_share,
    options,
    parameter_groups,
    split_indices,
    trainable_parameters,
)
from l2p.pipeline import load_source
from l2p.pixel_transformer import PixelTransformer2DModel

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


_DDP = DistributedDataParallelKwargs(find_unused_parameters=True)  # some families' last block has unused text weights
Micro = tuple[Tensor, Tensor, Tensor, EncodedPrompt]  # clean, noise [b, 3, H, W], sigma [b], prompt


@dataclass(kw_only=True)
class _Run:
    """The live objects of one transfer; `facts` is what the saved state remembers beside weights."""

    config: TransferConfig
    out_dir: Path
    accelerator: Accelerator
    model: PixelTransformer2DModel
    wrapped: nn.Module
    optimizer: Any
    ema: EMAModel | None
    trained: dict[str, nn.Parameter]
    corpus: Corpus
    prompts: PromptCache
    slots: SlotRule
    training: list[int]
    validation: list[int]
    facts: dict[str, Any]
    loader: ThreadPoolExecutor


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
        _refuse_other_options(summary["options"], config, out_dir)
        return TransferSummary(**summary)
    run = _prepare(source, corpus, config, out_dir, progress)
    with StopRequest() as stop, run.loader:
        _train(run, stop, progress and run.accelerator.is_main_process)
    return _finish(run)


def _prepare(source: str | Path, corpus: str | Path, config: TransferConfig, out_dir: Path, progress: bool) -> _Run:
    facts = checkpoint.load_facts(out_dir / "state")
    if facts is not None:
        _refuse_other_options(facts["options"], config, out_dir)
    accelerator = Accelerator(mixed_precision=config.mixed_precision, kwargs_handlers=[_DDP])
    _check_split(config, accelerator.num_processes)
    progress = progress and accelerator.is_main_process
    data = load_corpus(corpus, resolution=config.resolution, allow_missing=config.allow_missing, progress=progress)
    training, validation = split_indices(len(data), config)
    out_dir.mkdir(parents=True, exist_ok=True)
    pipeline = load_source(source, FROZEN_DTYPES[config.mixed_precision]).to(accelerator.device)
    with accelerator.main_process_first():
        prompts = _cache_prompts(pipeline, data, config, out_dir / "prompts", progress)
    model, facts = _model(pipeline, data, training, config, out_dir / "state", facts)
    del pipeline
    trained = trainable_parameters(model, config)
    for parameter in trained.values():
        parameter.data = parameter.data.float()  # frozen weights keep the source's dtype
    if config.gradient_checkpointing:
        model.enable_gradient_checkpointing()
    optimizer, ema = _optimizer(model, trained, config, out_dir / "state", resumed=facts["step"] > 0)
    wrapped, optimizer = accelerator.prepare(model, optimizer)
    if accelerator.is_main_process:
        checkpoint.cut_log(out_dir / "log.jsonl", facts["step"])
    slots = SlotRule(
        seed=config.seed,
        batch_size=config.batch_size,
        num_images=len(training),
        noise_shape=tuple(data.pixels(0).shape),
        sigma_distribution=config.sigma_distribution,
        shift=config.shift,
        prompt_dropout=config.prompt_dropout,
    )
    return _Run(
        config=config,
        out_dir=out_dir,
        accelerator=accelerator,
        model=model,
        wrapped=wrapped,
        optimizer=optimizer,
        ema=ema,
        trained=trained,
        corpus=data,
        prompts=prompts,
        slots=slots,
        training=training,
        validation=validation,
        facts=facts,
        loader=ThreadPoolExecutor(max_workers=1),
    )


def _check_split(config: TransferConfig, num_processes: int) -> None:
    if config.batch_size % (num_processes * config.gradient_accumulation_steps):
        raise ValueError(
            f"batch_size {config.batch_size} does not split over {num_processes} processes x "
            f"{config.gradient_accumulation_steps} accumulation steps"
        )


def _refuse_other_options(saved: dict[str, Any], config: TransferConfig, out_dir: Path) -> None:
    given = options(config)
    other = {name: (saved.get(name), given[name]) for name in given if saved.get(name) != given[name]}
    if other:
        raise ValueError(f"{out_dir} holds a transfer with other options (there, here): {other}; use another folder")


def _cache_prompts(pipeline: Any, data: Corpus, config: TransferConfig, folder: Path, progress: bool) -> PromptCache:
    family = architecture_of(type(pipeline).__name__).name

    def encode(texts: list[str]) -> list[EncodedPrompt]:
        return split_prompts(encode_prompt(pipeline, family, texts, config.max_sequence_length))

    return cache_prompts(encode, [*data.texts, ""], folder, progress=progress)


def _model(
    pipeline: Any, data: Corpus, training: list[int], config: TransferConfig, state: Path, facts: dict[str, Any] | None
) -> tuple[PixelTransformer2DModel, dict[str, Any]]:
    """Build the pixel model: from the source at the start, with the saved tensors over it when resuming."""
    with torch.random.fork_rng():
        torch.manual_seed(config.seed)
        model = PixelTransformer2DModel.from_source(
            pipeline.transformer,
            patch_size=config.patch_size,
            prediction=config.prediction,
            output_scale=config.output_scale,
            detailer=config.detailer,
            distilled_guidance=config.distilled_guidance,
        )
    report = copy_source_weights(model, pipeline.transformer)
    if facts is not None:
        saved, own = checkpoint.load_weights(state), model.state_dict()
        for name, tensor in saved.items():
            own[name].copy_(tensor)
        return model, facts
    conversion: dict[str, Any] = {"copied": len(report.copied), "new": report.new, "dropped": report.dropped}
    if config.input_projection == "ridge":
        images = data.images(training[: config.num_ridge_images])
        fit = fit_input_projection(model, pipeline, images, config.ridge_strength)
        conversion["projection"] = {"explained": fit.explained, "noise_gain": fit.noise_gain}
    trainable_parameters(model, config)
    frozen = {"frozen_sha256_before": frozen_sha256(model)}
    start = {"step": 0, "seconds": 0.0, "losses": [], "alarms": [], "options": options(config)}
    return model, {**start, **frozen, "conversion": conversion}


def _optimizer(
    model: PixelTransformer2DModel, trained: dict[str, nn.Parameter], config: TransferConfig, state: Path, resumed: bool
) -> tuple[torch.optim.Optimizer, EMAModel | None]:
    optimizer = torch.optim.AdamW(
        parameter_groups(model, config), betas=config.adam_betas, weight_decay=config.weight_decay, fused=True
    )
    ema = None if config.ema_decay is None else EMAModel(trained.values(), decay=config.ema_decay, foreach=True)
    if resumed:
        optimizer.load_state_dict(checkpoint.load_state(state, "optimizer"))
        if ema is not None:
            ema.load_state_dict(checkpoint.load_state(state, "ema"))
            ema.to(next(iter(trained.values())).device)
    return optimizer, ema


def _train(run: _Run, stop: StopRequest, progress: bool) -> None:
    config, facts = run.config, run.facts
    pending = run.loader.submit(_batch, run, facts["step"])  # the next batch is decoded while this one trains
    with tqdm(total=config.num_train_steps, initial=facts["step"], desc="transfer", disable=not progress) as bar:
        while facts["step"] < config.num_train_steps:
            started = time.perf_counter()
            batch = pending.result()
            pending = run.loader.submit(_batch, run, facts["step"] + 1)
            facts["losses"].append(_step(run, batch))
            facts["step"] += 1
            facts["seconds"] += time.perf_counter() - started
            bar.update()
            _report(run, bar)
            stopped = _agree(run.accelerator, stop.requested)
            if stopped or facts["step"] % config.save_every == 0 or facts["step"] == config.num_train_steps:
                _save(run)
            if stopped:
                raise KeyboardInterrupt(f"stopped at step {facts['step']}; the same command goes on from there")


def _batch(run: _Run, step: int) -> list[Micro]:
    """Load this process's share of a step's batch, in as many parts as gradients are accumulated over."""
    share = run.config.batch_size // run.accelerator.num_processes
    first = run.accelerator.process_index * share
    slots = [draw_slot(run.slots, step, slot) for slot in range(first, first + share)]
    size = share // run.config.gradient_accumulation_steps
    return [_micro(run, slots[i : i + size]) for i in range(0, share, size)]


def _micro(run: _Run, slots: list[Slot]) -> Micro:
    indices = [run.training[slot.index] for slot in slots]
    texts = ["" if slot.dropped else run.corpus.items[i].text for slot, i in zip(slots, indices, strict=True)]
    noise, sigma = torch.stack([slot.noise for slot in slots]), torch.stack([slot.sigma for slot in slots])
    return run.corpus.images(indices), noise, sigma, run.prompts(texts)


def _step(run: _Run, batch: list[Micro]) -> float:
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


def _report(run: _Run, bar: tqdm) -> None:
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
        bar.set_postfix(loss=f"{facts['final_loss']:.4f}")
    if step % config.validate_every == 0 or last:
        _log(run, {"step": step, "validation_loss": _validate(run)})
    if step == max(1, config.num_train_steps // 5):
        for alarm in _alarms(run):
            facts["alarms"].append({"step": step, "alarm": alarm.kind, "message": alarm.message})
            _log(run, facts["alarms"][-1])
            bar.write(f"ALARM at step {step}: {alarm.kind}: {alarm.message}")


def _log(run: _Run, row: dict[str, Any]) -> None:
    if run.accelerator.is_main_process:
        checkpoint.append_row(run.out_dir / "log.jsonl", row)


@contextmanager
def _averaged(run: _Run) -> Iterator[None]:
    """Let the model have its averaged weights for a while."""
    if run.ema is None:
        yield
        return
    parameters = list(run.trained.values())
    run.ema.store(parameters)
    run.ema.copy_to(parameters)
    try:
        yield
    finally:
        run.ema.restore(parameters)


def _probe(run: _Run, indices: list[int]) -> Probe:
    clean = run.corpus.images(indices)
    noise = torch.stack([torch.randn(clean.shape[1:], generator=seeded(run.config.seed, 4, i)) for i in indices])
    prompt = run.prompts([run.corpus.items[i].text for i in indices])
    device = run.accelerator.device
    prompt = {name: tensor.to(device) for name, tensor in prompt.items()}
    return Probe(model=run.model, clean=clean.to(device), prompt=prompt, noise=noise.to(device))


@torch.no_grad()
def _validate(run: _Run) -> dict[str, float]:
    """Return the averaged model's loss on held-back images at fixed noise, by sigma; the work is shared."""
    mine = run.validation[run.accelerator.process_index :: run.accelerator.num_processes]
    totals = torch.zeros(len(VALIDATION_SIGMAS), device=run.accelerator.device)
    with _averaged(run), run.accelerator.autocast():
        for start in range(0, len(mine), run.config.batch_size):
            probe = _probe(run, mine[start : start + run.config.batch_size])
            losses = [probe.loss(sigma) * len(probe.clean) for sigma in VALIDATION_SIGMAS]
            totals += torch.tensor(losses, device=totals.device)
    means = run.accelerator.reduce(totals, "sum") / len(run.validation)
    return {str(sigma): mean for sigma, mean in zip(VALIDATION_SIGMAS, means.tolist(), strict=True)}


def _alarms(run: _Run) -> list[Alarm]:
    with _averaged(run), run.accelerator.autocast():
        return check_alarms(_probe(run, run.validation[:NUM_ALARM_IMAGES]))


def _agree(accelerator: Accelerator, requested: bool) -> bool:
    """Return whether any process was asked to stop, so that all stop at the same step."""
    if accelerator.num_processes == 1:
        return requested
    return accelerator.reduce(torch.tensor(float(requested), device=accelerator.device), "sum").item() > 0


def _save(run: _Run) -> None:
    if run.accelerator.is_main_process:
        states = {"optimizer": run.optimizer.state_dict()}
        if run.ema is not None:
            states["ema"] = run.ema.state_dict()
        checkpoint.save_state(run.out_dir / "state", run.facts["step"], _own_tensors(run), states, run.facts)
    run.accelerator.wait_for_everyone()


def _own_tensors(run: _Run) -> dict[str, Tensor]:
    """Return what the source does not have: the trained tensors and the new ones."""
    names = {*run.trained, *run.facts["conversion"]["new"]}
    return {name: tensor for name, tensor in run.model.state_dict().items() if name in names}


def _finish(run: _Run) -> TransferSummary:
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
        rejected=run.corpus.rejected,
    )
    if run.accelerator.is_main_process:
        with _averaged(run):
            save_delta(_own_tensors(run), run.out_dir / "delta.safetensors")
            _save_model(run)
        shutil.rmtree(run.out_dir / "prompts", ignore_errors=True)
        checkpoint.write_json(run.out_dir / "summary.json", asdict(summary))
    run.accelerator.wait_for_everyone()
    return summary


def _save_model(run: _Run) -> None:
    folder, temporary = run.out_dir / "model", run.out_dir / "model.tmp"
    shutil.rmtree(temporary, ignore_errors=True)
    merged = copy.deepcopy(run.model).to(FROZEN_DTYPES[run.config.mixed_precision])
    merged.save_pretrained(temporary)
    shutil.rmtree(folder, ignore_errors=True)
    temporary.rename(folder)
