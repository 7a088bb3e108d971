"""The transfer: both ends of a source DiT learn pixels from images that the source drew (paper sections 3.2, 3.3)."""

import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor

from l2p.alarms import Probe, check_alarms
from l2p.architectures import EncodedPrompt, architecture_of, encode_prompt, split_prompts
from l2p.config import FROZEN_DTYPES, TransferConfig, options, refuse_other_options
from l2p.conversion import save_delta
from l2p.corpus import Corpus, PromptCache, cache_prompts, load_corpus
from l2p.empty import give_back_memory, without_weights
from l2p.errors import InputError
from l2p.initialise import initial_model, restore_model
from l2p.pixel_transformer import PixelTransformer2DModel
from l2p.progress import say
from l2p.sources import load_source, text_components
from l2p.trainable import choose_trained, make_accelerator, start_training
from l2p.training import state as saved
from l2p.training.data import Data, MicroBatch, SlotRule, seeded, shard_sizes, split_corpus
from l2p.training.loop import Steps, train
from l2p.training.optimise import Trainer
from l2p.training.shard import Placement, is_sharded, on_first, state_on_first
from l2p.weight_files import list_tensors

__all__ = ["TransferConfig", "TransferSummary", "run_transfer"]

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


@dataclass(frozen=True, kw_only=True)
class Transfer:
    """The live objects of one transfer; `facts` is what the saved state remembers beside weights."""

    config: TransferConfig
    out_dir: Path
    accelerator: Accelerator
    model: PixelTransformer2DModel
    trainer: Trainer
    data: Data
    facts: dict[str, Any]

    def own_tensors(self) -> dict[str, Tensor]:
        """Return what the source does not have: the trained tensors, the new and the inherited ones, whole.

        All processes must ask; where the model is cut over them the first alone is given the tensors.
        """
        conversion = self.facts["conversion"]
        names = {*self.trainer.trained, *conversion["new"], *conversion.get("inherited", ())}
        return {name: on_first(tensor) for name, tensor in self.model.state_dict().items() if name in names}


def run_transfer(
    source: str | Path,
    corpus: str | Path,
    config: TransferConfig,
    out_dir: str | Path,
    *,
    start: Path | None = None,
    sampling: Mapping[str, Any] | None = None,
    placement: Placement = "replicate",
    progress: bool = True,
) -> TransferSummary:
    """Turn a source pipeline into a pixel model, and leave it in out_dir.

    source: diffusers folder or hub id; corpus: see l2p.corpora; start: a pixel model whose weights are inherited by
    name and shape; sampling: settings to draw with, which the delta keeps (names of L2PPipeline.defaults, "shift" and
    "scheduler"), over those that were trained with; placement: where weights lie, no part of what is trained. Leaves
    model/, delta.safetensors, state/, log.jsonl and summary.json; an interrupted transfer goes on from state/ with any
    number of processes and any placement, a finished one is returned as it is. Works under `accelerate launch`. Raises
    ValueError for bad input, a folder of other options or of other things, FloatingPointError when the loss is no
    longer finite, KeyboardInterrupt (state saved) on Ctrl-C or SIGTERM.
    """
    out_dir = Path(out_dir)
    if (out_dir / "summary.json").is_file():
        summary = json.loads((out_dir / "summary.json").read_text("utf-8"))
        refuse_other_options(summary["options"], config, out_dir)
        return TransferSummary(**summary)
    _check_folder(out_dir)
    run = _prepare(source, corpus, config, out_dir, start, placement, progress)
    steps = Steps(
        num_steps=config.num_train_steps,
        save_every=config.save_every,
        load=partial(_batch, run),
        take=lambda batch: _step(run, batch),
        report=lambda: _report(run),
        save=partial(_save, run),
    )
    train(steps, run.facts, run.accelerator, "transfer", progress)
    return _finish(run, sampling or {})


# --- before the first step ------------------------------------------------------------------------------------------


def _check_folder(out_dir: Path) -> None:
    """Raise ValueError where a file lies, or what a transfer would replace though none has written it."""
    if out_dir.exists() and not out_dir.is_dir():
        raise InputError(f"{out_dir} is a file; give a folder for the transfer")
    if any((out_dir / name).exists() for name in ("state", "log.jsonl", "summary.json")):
        return
    found = [name for name in ("model", "model.tmp", "delta.safetensors") if (out_dir / name).exists()]
    prompts = (out_dir / "prompts").glob("*")
    found += ["prompts"] * any(path.suffix not in (".safetensors", ".json", ".tmp") for path in prompts)
    if found:
        raise InputError(f"{out_dir} holds {found}, which no transfer left there; use another folder")


def _prepare(
    source: str | Path,
    corpus: str | Path,
    config: TransferConfig,
    out_dir: Path,
    start: Path | None,
    placement: Placement,
    progress: bool,
) -> Transfer:
    """Load and build everything, from the saved state where there is one; arguments as for run_transfer."""
    facts = saved.load_facts(out_dir / "state")
    if facts is not None:
        refuse_other_options(facts["options"], config, out_dir)
    accelerator = make_accelerator(config)
    _check_split(config, accelerator.num_processes)
    shown = progress and accelerator.is_main_process
    images = load_corpus(corpus, resolution=config.resolution, allow_missing=config.allow_missing, progress=shown)
    indices = split_corpus(images, config.num_validation_images, config.seed)  # before anything is written
    if start is not None and facts is None:
        list_tensors(start)  # a damaged one is named before prompts are encoded
    out_dir.mkdir(parents=True, exist_ok=True)
    with accelerator.main_process_first():
        prompts = _prompts(source, images, config, out_dir / "prompts", accelerator.device, shown)
    data = _data(images, prompts, indices, config)
    # What is to be cut goes to the GPU in parts, later.
    pipeline = _without_text(source, config, accelerator.device if placement == "replicate" else torch.device("cpu"))
    model, conversion = initial_model(pipeline, data, config, resumed=facts is not None, start=start)
    del pipeline
    give_back_memory()
    choose_trained(model, config)
    if facts is None:
        facts = {"step": 0, "seconds": 0.0, "losses": [], "alarms": [], "options": options(config)}
        facts |= {"conversion": conversion, "frozen_sha256_before": saved.frozen_sha256(model)}
    else:
        facts["losses"] = facts["losses"][accelerator.process_index % len(facts["losses"])]
        restore_model(model, facts, out_dir / "state")
    state = out_dir / "state" if facts["step"] else None
    trainer = start_training(model, config, accelerator, state, placement=placement)
    if accelerator.is_main_process:
        saved.cut_log(out_dir / "log.jsonl", facts["step"])
    return Transfer(
        config=config, out_dir=out_dir, accelerator=accelerator, model=model, trainer=trainer, data=data, facts=facts
    )


def _check_split(config: TransferConfig, num_processes: int) -> None:
    if config.batch_size % (num_processes * config.gradient_accumulation_steps):
        raise InputError(
            f"batch_size {config.batch_size} does not split over {num_processes} processes x "
            f"{config.gradient_accumulation_steps} accumulation steps"
        )


def _prompts(
    source: str | Path, corpus: Corpus, config: TransferConfig, folder: Path, device: torch.device, shown: bool
) -> PromptCache:
    """The corpus's prompts, encoded; the text encoders alone are loaded for it, where it was not done, and let go."""

    @cache
    def pipeline() -> Any:
        return load_source(source, FROZEN_DTYPES[config.mixed_precision], without=("transformer", "vae")).to(device)

    def encode(texts: list[str]) -> list[EncodedPrompt]:
        family = architecture_of(type(pipeline()).__name__).name
        return split_prompts(encode_prompt(pipeline(), family, texts, config.max_sequence_length))

    prompts = cache_prompts(encode, [*corpus.texts, ""], folder, progress=shown)
    pipeline.cache_clear()
    give_back_memory()
    return prompts


def _without_text(source: str | Path, config: TransferConfig, device: torch.device) -> Any:
    """The source without its text encoders, and without its VAE unless the projection is fitted to its latents."""
    needs_vae = config.input_projection == "ridge"
    without = (*text_components(source), *(() if needs_vae else ("vae",)))
    return load_source(source, FROZEN_DTYPES[config.mixed_precision], without=without).to(device)


def _data(corpus: Corpus, prompts: PromptCache, indices: tuple[list[int], list[int]], config: TransferConfig) -> Data:
    training, validation = indices
    if corpus.stream is not None:
        corpus.keep(sorted(validation))
    slots = SlotRule(
        seed=config.seed,
        batch_size=config.batch_size,
        num_images=len(training),
        noise_shape=tuple(corpus.pixels(validation[0]).shape),
        sigma_distribution=config.sigma_distribution,
        shift=config.shift,
        prompt_dropout=config.prompt_dropout,
        shards=shard_sizes(corpus.items, training),
    )
    return Data(corpus=corpus, prompts=prompts, training=training, validation=validation, slots=slots)


# --- each step ------------------------------------------------------------------------------------------------------


def _batch(run: Transfer, step: int) -> list[MicroBatch]:
    """Load this process's share of a step's batch."""
    share = run.config.batch_size // run.accelerator.num_processes
    first = run.accelerator.process_index * share
    return run.data.batch(step, first, share, run.config.gradient_accumulation_steps)


def _step(run: Transfer, batch: list[MicroBatch]) -> float:
    try:
        return run.trainer.step(batch, run.facts["step"])
    except FloatingPointError as error:
        raise FloatingPointError(
            f"{error}; the last good state is kept in {run.out_dir / 'state'}: lower learning_rate or set "
            "max_grad_norm, in another folder"
        ) from error


def _report(run: Transfer) -> None:
    """Write the log's rows that are due at this step: loss, validation, alarms."""
    config, facts = run.config, run.facts
    step, last = facts["step"], facts["step"] == config.num_train_steps
    if step % config.log_every == 0 or last:
        mean = torch.tensor(facts["losses"], device=run.accelerator.device).mean()
        facts["final_loss"] = run.accelerator.reduce(mean, "mean").item()
        facts["losses"] = []
        rate = config.learning_rate * run.trainer.rate_share(step - 1)
        counts = {"num_images": step * config.batch_size, "seconds": round(facts["seconds"], 3)}
        _log(run, {"step": step, "loss": facts["final_loss"], "learning_rate": rate, **counts})
    if step % config.validate_every == 0 or last:
        _log(run, {"step": step, "validation_loss": _validate(run)})
    if step == max(1, config.num_train_steps // 5):
        with run.trainer.averaged(), run.accelerator.autocast():
            alarms = check_alarms(_probe(run, run.data.validation[:NUM_ALARM_IMAGES]))
        for alarm in alarms:
            facts["alarms"].append({"step": step, "alarm": alarm.kind, "message": alarm.message})
            _log(run, facts["alarms"][-1])
            if run.accelerator.is_main_process:
                say(f"ALARM at step {step}: {alarm.kind}: {alarm.message}")


def _log(run: Transfer, row: dict[str, Any]) -> None:
    if run.accelerator.is_main_process:
        saved.append_row(run.out_dir / "log.jsonl", row)


@torch.no_grad()
def _validate(run: Transfer) -> dict[str, float]:
    """Return the averaged model's loss on held-back images at fixed noise, by sigma; the work is shared."""
    held_back = run.data.validation
    mine = held_back[run.accelerator.process_index :: run.accelerator.num_processes]
    totals = torch.zeros(len(VALIDATION_SIGMAS), device=run.accelerator.device)
    with run.trainer.averaged():
        for start in range(0, len(mine), run.config.batch_size):
            probe = _probe(run, mine[start : start + run.config.batch_size])
            losses = [probe.loss(sigma) * len(probe.clean) for sigma in VALIDATION_SIGMAS]
            totals += torch.tensor(losses, device=totals.device)
    means = run.accelerator.reduce(totals, "sum") / len(held_back)
    return {str(sigma): mean for sigma, mean in zip(VALIDATION_SIGMAS, means.tolist(), strict=True)}


def _probe(run: Transfer, indices: list[int]) -> Probe:
    data, device = run.data, run.accelerator.device
    clean = data.corpus.images(indices)
    noise = torch.stack([torch.randn(clean.shape[1:], generator=seeded(run.config.seed, 4, i)) for i in indices])
    prompt = data.prompts([data.corpus.items[i].text for i in indices])
    prompt = {name: tensor.to(device) for name, tensor in prompt.items()}
    return Probe(model=run.model, clean=clean.to(device), prompt=prompt, noise=noise.to(device))


def _save(run: Transfer) -> None:
    facts = {**run.facts, "losses": gather_object([run.facts["losses"]])}  # each process goes on with its own
    # Whole, however it is cut: so any number of processes goes on from it.
    states = {"optimizer": state_on_first(run.trainer.optimizer.state_dict())}
    if run.trainer.ema is not None:
        states["ema"] = state_on_first(run.trainer.ema.state_dict())
    own = run.own_tensors()
    if run.accelerator.is_main_process:
        saved.save_state(run.out_dir / "state", run.facts["step"], own, states, facts)
    run.accelerator.wait_for_everyone()


# --- after the last step --------------------------------------------------------------------------------------------


def _finish(run: Transfer, sampling: Mapping[str, Any]) -> TransferSummary:
    config, facts, trained = run.config, run.facts, run.trainer.trained
    summary = TransferSummary(
        num_train_steps=config.num_train_steps,
        batch_size=config.batch_size,
        num_trainable_parameters=sum(p.numel() for p in trained.values()),
        num_parameters=sum(p.numel() for p in run.model.parameters()),
        num_trainable_blocks=config.num_trainable_blocks,
        seconds=facts["seconds"],
        final_loss=facts["final_loss"],
        options=facts["options"],
        frozen_sha256_before=facts["frozen_sha256_before"],
        frozen_sha256_after=saved.frozen_sha256(run.model),
        conversion=facts["conversion"],
        alarms=facts["alarms"],
        rejected=run.data.corpus.rejected,
    )
    if run.trainer.ema is not None:
        run.trainer.ema.copy_to(list(trained.values()))
    own, model = run.own_tensors(), _whole_model(run)
    if run.accelerator.is_main_process:
        save_delta(
            run.model,
            own,
            run.out_dir / "delta.safetensors",
            source_sha256=facts["conversion"]["source_sha256"],
            sampling={**_trained_with(run), **sampling},
        )
        _save_model(run, model)
        shutil.rmtree(run.out_dir / "prompts", ignore_errors=True)
        saved.write_json(run.out_dir / "summary.json", asdict(summary))
    run.accelerator.wait_for_everyone()
    return summary


def _trained_with(run: Transfer) -> dict[str, Any]:
    _, height, width = run.data.slots.noise_shape
    length, shift = run.config.max_sequence_length, run.config.shift
    return {"height": height, "width": width, "max_sequence_length": length, "shift": shift}


def _whole_model(run: Transfer) -> PixelTransformer2DModel:
    """The model with whole tensors: itself, or a new one for the first of the processes that it was cut over.

    All of them must ask.
    """
    if not any(is_sharded(parameter) for parameter in run.model.parameters()):
        return run.model
    tensors = {name: on_first(tensor) for name, tensor in run.model.state_dict().items()}
    if not run.accelerator.is_main_process:
        return run.model
    with without_weights():
        model: Any = PixelTransformer2DModel.from_config(run.model.config)
    model.load_state_dict(tensors, assign=True)
    return model


def _save_model(run: Transfer, model: PixelTransformer2DModel) -> None:
    folder, temporary = run.out_dir / "model", run.out_dir / "model.tmp"
    shutil.rmtree(temporary, ignore_errors=True)
    if run.config.mixed_precision != "no":
        model.to(FROZEN_DTYPES[run.config.mixed_precision])  # one dtype for sampling
    model.detailer.to(memory_format=torch.contiguous_format)
    model.save_pretrained(temporary)
    shutil.rmtree(folder, ignore_errors=True)
    temporary.rename(folder)
