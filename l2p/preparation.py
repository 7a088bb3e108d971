"""All that a transfer needs before its first step: checked corpus, encoded prompts, pixel model, optimizer, state."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from diffusers.training_utils import EMAModel
from torch import Tensor, nn

from l2p import checkpoint
from l2p.architectures import EncodedPrompt, architecture_of, encode_prompt, get_architecture, split_prompts
from l2p.conversion import copy_source_weights, fit_input_projection
from l2p.corpus import Corpus, PromptCache, cache_prompts, load_corpus
from l2p.objective import Slot, SlotRule, draw_slot
from l2p.options import (
    FROZEN_DTYPES,
    TransferConfig,
    frozen_sha256,
    options,
    parameter_groups,
    refuse_other_options,
    split_indices,
    trainable_parameters,
)
from l2p.pipeline import load_source
from l2p.pixel_transformer import PixelTransformer2DModel

Micro = tuple[Tensor, Tensor, Tensor, EncodedPrompt]  # clean, noise [b, 3, H, W], sigma [b], prompt


@dataclass(frozen=True, kw_only=True)
class Data:
    """The corpus with its encoded prompts, the indices that train and those held back, and how batches are drawn."""

    corpus: Corpus
    prompts: PromptCache
    training: list[int]
    validation: list[int]
    slots: SlotRule

    def batch(self, step: int, first: int, share: int, parts: int) -> list[Micro]:
        """Load `share` slots of a step's global batch, from slot `first` on, in as many parts as are accumulated."""
        slots = [draw_slot(self.slots, step, slot) for slot in range(first, first + share)]
        return [self._micro(slots[i : i + share // parts]) for i in range(0, share, share // parts)]

    def _micro(self, slots: list[Slot]) -> Micro:
        indices = [self.training[slot.index] for slot in slots]
        texts = ["" if slot.dropped else self.corpus.items[i].text for slot, i in zip(slots, indices, strict=True)]
        noise, sigma = torch.stack([slot.noise for slot in slots]), torch.stack([slot.sigma for slot in slots])
        return self.corpus.images(indices), noise, sigma, self.prompts(texts)


@dataclass(kw_only=True)
class Run:
    """The live objects of one transfer; `facts` is what the saved state remembers beside weights."""

    config: TransferConfig
    out_dir: Path
    accelerator: Accelerator
    model: PixelTransformer2DModel
    wrapped: nn.Module
    optimizer: Any
    ema: EMAModel | None
    trained: dict[str, nn.Parameter]
    data: Data
    facts: dict[str, Any]
    loader: ThreadPoolExecutor

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Let the model have its averaged weights for a while."""
        if self.ema is None:
            yield
            return
        parameters = list(self.trained.values())
        self.ema.store(parameters)
        self.ema.copy_to(parameters)
        try:
            yield
        finally:
            self.ema.restore(parameters)

    def own_tensors(self) -> dict[str, Tensor]:
        """Return what the source does not have: the trained tensors and the new ones."""
        names = {*self.trained, *self.facts["conversion"]["new"]}
        return {name: tensor for name, tensor in self.model.state_dict().items() if name in names}


def prepare(source: str | Path, corpus: str | Path, config: TransferConfig, out_dir: Path, progress: bool) -> Run:
    """Load and build everything, from the saved state where there is one; arguments as for run_transfer."""
    facts = checkpoint.load_facts(out_dir / "state")
    if facts is not None:
        refuse_other_options(facts["options"], config, out_dir)
    ddp = DistributedDataParallelKwargs()
    accelerator = Accelerator(mixed_precision=config.mixed_precision, kwargs_handlers=[ddp])
    _check_split(config, accelerator.num_processes)
    progress = progress and accelerator.is_main_process
    images = load_corpus(corpus, resolution=config.resolution, allow_missing=config.allow_missing, progress=progress)
    split_indices(len(images), config)  # refuse a corpus that is too small before anything is written
    out_dir.mkdir(parents=True, exist_ok=True)
    pipeline = load_source(source, FROZEN_DTYPES[config.mixed_precision]).to(accelerator.device)
    with accelerator.main_process_first():
        data = _data(pipeline, images, config, out_dir / "prompts", progress)
    model, start = _initial_model(pipeline, data, config, resumed=facts is not None)
    del pipeline
    trained = trainable_parameters(model, config)
    for parameter in trained.values():
        parameter.data = parameter.data.float()  # frozen weights keep the source's dtype
    if facts is None:
        facts = start
    else:
        _restore(model, facts, out_dir / "state")
    facts.setdefault("frozen_sha256_before", frozen_sha256(model))
    # On CPUs this makes the head's training step about 13 % faster; what is saved is contiguous again.
    model.detailer.to(memory_format=torch.channels_last)
    if config.gradient_checkpointing:
        model.enable_gradient_checkpointing()
    optimizer, ema = _optimizer(model, trained, config, out_dir / "state", resumed=facts["step"] > 0)
    # accelerate reads it when it wraps the model; the architecture is known only once the source is loaded
    ddp.find_unused_parameters = get_architecture(model.config.architecture).unread_text
    wrapped, optimizer = accelerator.prepare(model, optimizer)
    if accelerator.is_main_process:
        checkpoint.cut_log(out_dir / "log.jsonl", facts["step"])
    return Run(
        config=config,
        out_dir=out_dir,
        accelerator=accelerator,
        model=model,
        wrapped=wrapped,
        optimizer=optimizer,
        ema=ema,
        trained=trained,
        data=data,
        facts=facts,
        loader=ThreadPoolExecutor(max_workers=1),
    )


def _check_split(config: TransferConfig, num_processes: int) -> None:
    if config.batch_size % (num_processes * config.gradient_accumulation_steps):
        raise ValueError(
            f"batch_size {config.batch_size} does not split over {num_processes} processes x "
            f"{config.gradient_accumulation_steps} accumulation steps"
        )


def _data(pipeline: Any, corpus: Corpus, config: TransferConfig, folder: Path, progress: bool) -> Data:
    family = architecture_of(type(pipeline).__name__).name
    training, validation = split_indices(len(corpus), config)

    def encode(texts: list[str]) -> list[EncodedPrompt]:
        return split_prompts(encode_prompt(pipeline, family, texts, config.max_sequence_length))

    slots = SlotRule(
        seed=config.seed,
        batch_size=config.batch_size,
        num_images=len(training),
        noise_shape=tuple(corpus.pixels(0).shape),
        sigma_distribution=config.sigma_distribution,
        shift=config.shift,
        prompt_dropout=config.prompt_dropout,
    )
    prompts = cache_prompts(encode, [*corpus.texts, ""], folder, progress=progress)
    return Data(corpus=corpus, prompts=prompts, training=training, validation=validation, slots=slots)


def new_model(pipeline: Any, config: TransferConfig) -> PixelTransformer2DModel:
    """Build the pixel model that a configuration describes for a source pipeline; its weights are drawn by the seed."""
    with torch.random.fork_rng():
        torch.manual_seed(config.seed)
        return PixelTransformer2DModel.from_source(
            pipeline.transformer,
            patch_size=config.patch_size,
            prediction=config.prediction,
            output_scale=config.output_scale,
            detailer=config.detailer,
            distilled_guidance=config.distilled_guidance,
        )


def _initial_model(
    pipeline: Any, data: Data, config: TransferConfig, resumed: bool
) -> tuple[PixelTransformer2DModel, dict[str, Any]]:
    """Build the pixel model with the source's weights, and the facts of a run that starts with it."""
    model = new_model(pipeline, config)
    report = copy_source_weights(model, pipeline.transformer)
    conversion: dict[str, Any] = {"copied": len(report.copied), "new": report.new, "dropped": report.dropped}
    if config.input_projection == "ridge" and not resumed:
        images = data.corpus.batches(data.training[: config.num_ridge_images])
        fit = fit_input_projection(model, pipeline, images, config.ridge_strength)
        conversion["projection"] = {"explained": fit.explained, "noise_gain": fit.noise_gain}
    start = {"step": 0, "seconds": 0.0, "losses": [], "alarms": [], "options": options(config)}
    return model, {**start, "conversion": conversion}


def _restore(model: PixelTransformer2DModel, facts: dict[str, Any], state: Path) -> None:
    own = model.state_dict()
    for name, tensor in checkpoint.load_weights(state).items():
        own[name].copy_(tensor)
    if frozen_sha256(model) != facts["frozen_sha256_before"]:
        raise ValueError(f"the source's weights are not those that the transfer in {state.parent} started from")


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
