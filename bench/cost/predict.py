"""Predict a case at full size without weights or a GPU: the real classes run on fake tensors under the meter.

`prepare` builds the same step for a real device (`bench.cost.measure`), so prediction and measurement share every line.
This is the one file of `bench` that may build `l2p` models.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import nn

from bench.cost import torch_private
from bench.cost.cases import Case, check_resolution
from bench.cost.components import build
from bench.cost.devices import DEVICES
from bench.cost.families import Family, family_named
from bench.cost.inputs import Shape, denoiser_inputs, encoded_prompt
from bench.cost.meter import Meter, OperatorWork, materialise
from bench.cost.roofline import latency_band_s
from bench.cost.training import fill_state, make_optimizer
from bench.records import CostRecord
from l2p.errors import InputError


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """A case ready to run: `run` once is what is counted, after `warm_up`; `resident` lives through it."""

    run: Callable[[], Any]
    resident: tuple
    num_parameters: int
    num_trainable_parameters: int = 0
    warm_up: Callable[[], Any] | None = None
    stage: str = "denoiser"


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """What the meter saw of one case; bytes by the CUDA allocator's rounding, operators by kind."""

    case: Case
    dtype: str
    num_parameters: int
    num_trainable_parameters: int
    flops: int
    peak_memory_bytes: int
    resident_bytes: int
    peak_operator: str
    peak_stage: str
    stage_peaks: dict[str, int]
    operators: list[OperatorWork]

    def record(self) -> CostRecord:
        """The prediction as a CostRecord, its time as each device's roofline has it."""
        return replace(
            self.case.record(dtype=self.dtype, kind="predicted"),
            device="fake",
            num_parameters=self.num_parameters,
            num_trainable_parameters=self.num_trainable_parameters,
            flops=float(self.flops),
            peak_memory_bytes=self.peak_memory_bytes,
            roofline_s={name: latency_band_s(self.operators, device) for name, device in DEVICES.items()},
        )


def predict(
    case: Case, family: Family | None = None, *, dtype: torch.dtype = torch.bfloat16, force: bool = False
) -> Prediction:
    """Run a case on fake tensors: FLOPs and peak tensor memory exactly, in seconds, with next to no memory.

    Raises ValueError for a torch outside the checked range (unless `force`) and for a resolution that does not fit.
    """
    torch_private.check_torch(force=force)
    with torch_private.fake_tensors():
        prepared = prepare(case, family, dtype=dtype)
        meter = count(prepared)
    return Prediction(
        case=case,
        dtype=str(dtype).removeprefix("torch."),
        num_parameters=prepared.num_parameters,
        num_trainable_parameters=prepared.num_trainable_parameters,
        flops=meter.flops,
        peak_memory_bytes=meter.peak_bytes,
        resident_bytes=meter.watched_bytes,
        peak_operator=meter.peak_operator,
        peak_stage=meter.peak_stage,
        stage_peaks=meter.stage_peaks,
        operators=meter.operators,
    )


def count(prepared: Prepared, *, block: int = 512) -> Meter:
    """Run a prepared case under the meter, its warm-up first, and return the meter.

    What its optimisers do is booked under the stage `optimiser`, all else under the case's own.
    """
    meter = Meter(block=block)
    meter.watch(*prepared.resident)
    for part in prepared.resident:
        if isinstance(part, torch.optim.Optimizer):
            _book_steps(part, meter)
    with meter, meter.stage(prepared.stage):
        if prepared.warm_up:
            prepared.warm_up()
        meter.restart()
        prepared.run()
    return meter


def _book_steps(optimizer: torch.optim.Optimizer, meter: Meter) -> None:
    stage = contextlib.ExitStack()
    optimizer.register_step_pre_hook(lambda *_: stage.enter_context(meter.stage("optimiser")))
    optimizer.register_step_post_hook(lambda *_: stage.close())


def prepare(
    case: Case, family: Family | None = None, *, dtype: torch.dtype = torch.bfloat16, device: str = "cpu"
) -> Prepared:
    """Build the case's modules with random weights and its inputs on `device` (fake inside `fake_tensors()`).

    Raises ValueError for a resolution that does not fit.
    """
    family = family or family_named(case.family)
    if case.kind != "text":
        check_resolution(case, family)
    return _PREPARE[case.kind](case, family, dtype, device)


def _prepare_source(case: Case, family: Family, dtype: torch.dtype, device: str) -> Prepared:
    model = materialise(lambda: build(family.transformer), dtype=dtype, device=device)
    inputs = denoiser_inputs(family, _shape(case, family.pixels_per_token, dtype, device))
    return Prepared(run=_without_gradients(model, inputs), resident=(model, inputs), num_parameters=_size(model))


def _prepare_l2p(case: Case, family: Family, dtype: torch.dtype, device: str) -> Prepared:
    model = pixel_model(case, family, dtype, device)
    inputs = _pixel_inputs(case, family, dtype, device)
    return Prepared(run=_without_gradients(model, inputs), resident=(model, inputs), num_parameters=_size(model))


def _prepare_train(case: Case, family: Family, dtype: torch.dtype, device: str) -> Prepared:
    from l2p.training.loop import train_step

    model: Any = pixel_model(case, family, dtype, device).train()
    trained = _choose_trained(model, case)
    if case.mixed:
        for parameter in trained:
            parameter.data = parameter.data.float()
    if case.checkpointed:
        model.enable_gradient_checkpointing()
    inputs = _pixel_inputs(case, family, dtype, device)
    target = torch.zeros_like(inputs["noisy"])
    optimizer = make_optimizer(case.optimizer, trained)

    def forward() -> torch.Tensor:
        with torch.autocast(torch.device(device).type, dtype=dtype, enabled=case.mixed):
            return model(**inputs)[0]

    def losses() -> Iterator[torch.Tensor]:
        yield (forward().float() - target.float()).square().mean()  # paper eq. 5

    return Prepared(
        run=lambda: train_step(losses(), optimizer),
        resident=(model, inputs, target, optimizer),
        num_parameters=_size(model),
        num_trainable_parameters=sum(parameter.numel() for parameter in trained),
        warm_up=lambda: fill_state(optimizer, forward()),  # what is counted is a later step, the steady state
    )


def _choose_trained(model: Any, case: Case) -> list[nn.Parameter]:
    from l2p.config import TransferConfig
    from l2p.trainable import trainable_parameters

    if case.num_trainable_blocks is None:
        config = TransferConfig(trainable="all")
    else:
        trainable = "released" if case.released else "ends"
        config = TransferConfig(trainable=trainable, num_trainable_blocks=case.num_trainable_blocks)
    return list(trainable_parameters(model, config).values())


def _prepare_vae(case: Case, family: Family, dtype: torch.dtype, device: str) -> Prepared:
    model: Any = materialise(lambda: build(family.vae), dtype=dtype, device=device)
    if case.tile:
        _set_tiles(model, case.tile)
    latents = _latents(case, family, dtype, device)
    decode = _without_gradients(model.decode, {"z": latents, "return_dict": False})
    return Prepared(run=decode, resident=(model, latents), num_parameters=_size(model), stage="vae")


def _prepare_text(case: Case, family: Family, dtype: torch.dtype, device: str) -> Prepared:
    models: list[Any] = [materialise(partial(build, c), dtype=dtype, device=device) for c in family.text_encoders]
    tokens = torch.zeros(case.batch_size, case.text_tokens, dtype=torch.long, device=device)

    def run() -> None:
        for model in models:
            model(input_ids=tokens[:, : _longest(model)])

    return Prepared(
        run=torch.no_grad()(run),
        resident=(models, tokens),
        num_parameters=sum(_size(model) for model in models),
        stage="text encoder",
    )


def pixel_model(case: Case, family: Family, dtype: torch.dtype, device: str) -> nn.Module:
    """The real PixelTransformer2DModel for the family's configuration and the case's patch, random weights."""
    return materialise(partial(make_pixel_model, case, family), dtype=dtype, device=device)


def make_pixel_model(case: Case, family: Family) -> nn.Module:
    """The same, on torch's default device (the meter's is meta) in float32."""
    from l2p.detailer import DetailerConfig
    from l2p.pixel_transformer import PixelTransformer2DModel

    options = dict(family.pixel_options)
    options["detailer"] = DetailerConfig(**options.get("detailer", {}))
    source = build(family.transformer)
    return PixelTransformer2DModel.from_source(source, family.name, patch_size=case.patch_size, **options).eval()


def count_parameters(case: Case, family: Family) -> tuple[int, int]:
    """Parameters of a training case's pixel model, all and those that train, counted on meta: no memory, no tensors.

    Raises ValueError for a case that does not train.
    """
    if case.kind != "train":
        raise InputError(f"{case.name} trains nothing: count the parameters of a case such as train-l2p-flux-1024-5")
    with torch.device("meta"):
        model = make_pixel_model(case, family)
    return _size(model), sum(parameter.numel() for parameter in _choose_trained(model, case))


def _pixel_inputs(case: Case, family: Family, dtype: torch.dtype, device: str) -> dict[str, Any]:
    shape = _shape(case, case.patch_size, dtype, device)
    noisy = shape.empty(case.batch_size, 3, case.resolution, case.resolution)
    return {"noisy": noisy, "sigma": shape.sigma, "prompt": encoded_prompt(family, shape), "return_dict": False}


def _shape(case: Case, pixels_per_token: int, dtype: torch.dtype, device: str) -> Shape:
    return Shape(
        side=case.resolution // pixels_per_token,
        text_tokens=case.text_tokens,
        batch_size=case.batch_size,
        dtype=dtype,
        device=device,
    )


def _latents(case: Case, family: Family, dtype: torch.dtype, device: str) -> torch.Tensor:
    """Latents [B, C, h, w] as the family's VAE decodes them (Qwen's is a video VAE: [B, C, 1, h, w])."""
    side = case.resolution // (family.pixels_per_token // 2)
    config = family.vae.config
    if "z_dim" in config:
        return torch.zeros(case.batch_size, config["z_dim"], 1, side, side, dtype=dtype, device=device)
    return torch.zeros(case.batch_size, config["latent_channels"], side, side, dtype=dtype, device=device)


def _set_tiles(vae: Any, tile: int) -> None:
    """Tiles of `tile` pixels with diffusers' own overlap of a quarter."""
    vae.enable_tiling()
    if hasattr(vae, "tile_sample_min_size"):
        vae.tile_sample_min_size = tile
        vae.tile_latent_min_size = tile // 2 ** (len(vae.config.block_out_channels) - 1)
    else:
        vae.tile_sample_min_height = vae.tile_sample_min_width = tile
        vae.tile_sample_stride_height = vae.tile_sample_stride_width = tile * 3 // 4


def _longest(encoder: Any) -> int | None:
    """The most tokens an encoder takes: CLIP's 77 positions; None = no such limit."""
    return 77 if encoder.config.model_type.startswith("clip") else None


def _without_gradients(call: Callable[..., Any], inputs: dict[str, Any]) -> Callable[[], Any]:
    @torch.no_grad()
    def run() -> Any:
        return call(**inputs)

    return run


def _size(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


_PREPARE: dict[str, Callable[[Case, Family, torch.dtype, str], Prepared]] = {
    "source": _prepare_source,
    "l2p": _prepare_l2p,
    "train": _prepare_train,
    "vae": _prepare_vae,
    "text": _prepare_text,
}
