"""PixelTransformer2DModel: a source DiT with both ends replaced, so that it denoises RGB pixels (paper section 3.3)."""

import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from numbers import Integral
from pathlib import Path
from typing import Any

import diffusers
from diffusers import CacheMixin, ModelMixin
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.loaders import PeftAdapterMixin
from diffusers.models.attention import AttentionMixin
from diffusers.models.modeling_outputs import Transformer2DModelOutput
from torch import Tensor, nn

from l2p.architectures import ARCHITECTURES, EncodedPrompt, Patches, architecture_of, get_architecture
from l2p.detailer import DetailerConfig, DetailerHead
from l2p.errors import InputError
from l2p.flow import per_image
from l2p.weight_files import usual_permissions

SMALLEST_SIGMA = 0.05  # a clean-image head's velocity divides by sigma: never by less
SIGMA_DATA = 0.33  # standard deviation of pixels in [-1, 1] that "preconditioned" counts on


def _velocity(painted: Tensor, noisy: Tensor, sigma: Tensor) -> Tensor:
    return painted


def _from_clean(painted: Tensor, noisy: Tensor, sigma: Tensor) -> Tensor:
    return (noisy - painted) / sigma.clamp(min=SMALLEST_SIGMA)


def _from_preconditioned(painted: Tensor, noisy: Tensor, sigma: Tensor) -> Tensor:
    # EDM (arXiv 2206.00364) for the rectified-flow path: the skip is the best linear guess of the velocity from one
    # noisy pixel, and the head adds what is left of it, at unit variance.
    variance = SIGMA_DATA**2
    total = (1 - sigma) ** 2 * variance + sigma**2
    return noisy * (sigma - (1 - sigma) * variance) / total - painted * SIGMA_DATA / total.sqrt()


# What the head paints -> how the velocity follows from it: (painted, noisy, sigma [B, 1, 1, 1]) -> [B, 3, H, W].
PREDICTIONS: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "velocity": _velocity,
    "clean": _from_clean,
    "preconditioned": _from_preconditioned,
}


ROUNDINGS = (math.floor, math.ceil)


class PixelTransformer2DModel(ModelMixin, ConfigMixin, PeftAdapterMixin, AttentionMixin, CacheMixin):
    """A source family's transformer on RGB patches with a Detailer Head instead of its final layer.

    architecture: a name in l2p.architectures. patch_size: pixels along a patch's side. source_config: config of the
    source's transformer class. prediction: what the head paints, a key of PREDICTIONS ("velocity" as released).
    output_scale: factor on what it paints. detailer_config: fields of DetailerConfig. distilled_guidance: the constant
    fed to sources that have a guidance embedding (FLUX.1-dev), unused by others.
    Raises ValueError for an unknown architecture, prediction or detailer option.
    """

    _supports_gradient_checkpointing = True
    _no_split_modules = ["DetailerHead"]  # its skips cross its levels; the source's own list is read beside this one
    _group_offload_block_modules = ["transformer", "detailer"]  # blocks stand a module deeper than diffusers looks

    @register_to_config
    def __init__(
        self,
        architecture: str,
        patch_size: int,
        source_config: dict[str, Any],
        prediction: str = "velocity",
        output_scale: float = 1.0,
        detailer_config: dict[str, Any] | None = None,
        distilled_guidance: float = 3.5,
    ) -> None:
        super().__init__()
        if prediction not in PREDICTIONS:
            raise InputError(f"unknown prediction {prediction!r}; known: {sorted(PREDICTIONS)}")
        family = get_architecture(architecture)
        self._scale = output_scale * (family.velocity_sign if prediction == "velocity" else 1)
        transformer_class: Any = getattr(diffusers, family.transformer_class)
        self.transformer = transformer_class.from_config(family.pixel_config(source_config, patch_size))
        self._tap = [family.replace_final_layer(self.transformer, patch_size)]  # in a list: no second module path
        self._repeated_blocks = sorted({type(block).__name__ for block in self.blocks()})
        # fp8 stores neither what the source keeps from it nor the head, whose last layers are the picture.
        self._skip_layerwise_casting_patterns = [*(self.transformer._skip_layerwise_casting_patterns or ()), "detailer"]
        self.detailer = DetailerHead(
            family.hidden_size(source_config), patch_size, DetailerConfig(**(detailer_config or {}))
        )

    @classmethod
    def from_source(
        cls,
        transformer: ModelMixin,
        architecture: str | None = None,
        *,
        patch_size: int,
        prediction: str = "velocity",
        output_scale: float = 1.0,
        detailer: DetailerConfig | None = None,
        distilled_guidance: float = 3.5,
    ) -> "PixelTransformer2DModel":
        """Build a pixel model for a source transformer, without its weights (l2p.conversion copies those).

        architecture None: found from the transformer's class. Raises ValueError when that class is unknown or is not
        the architecture's.
        """
        family = architecture_of(type(transformer).__name__)
        if architecture not in (None, family.name):
            raise InputError(f"{type(transformer).__name__} is of architecture {family.name!r}, not {architecture!r}")
        config = {k: v for k, v in transformer.config.items() if not k.startswith("_")}
        return cls(
            architecture=family.name,
            patch_size=patch_size,
            source_config=config,
            prediction=prediction,
            output_scale=output_scale,
            detailer_config=asdict(detailer or DetailerConfig()),
            distilled_guidance=distilled_guidance,
        )

    def forward(
        self, noisy: Tensor, sigma: Tensor, prompt: EncodedPrompt, return_dict: bool = True
    ) -> Transformer2DModelOutput | tuple[Tensor]:
        """Predict the velocity noise - clean.

        noisy [B, 3, H, W] in the model's dtype, H and W multiples of `size_multiple`; sigma [B], 1 = pure noise; prompt
        as the architecture's encode_prompt gives it. Returns [B, 3, H, W]. Raises ValueError for other image sizes.
        """
        painted = self.detailer(noisy, self.token_map(noisy, sigma, prompt)) * self._scale  # [B, 3, H, W]
        velocity = PREDICTIONS[self.config.prediction](painted, noisy, per_image(sigma))
        return Transformer2DModelOutput(sample=velocity) if return_dict else (velocity,)

    def token_map(self, noisy: Tensor, sigma: Tensor, prompt: EncodedPrompt) -> Tensor:
        """Return the last block's raw image tokens on their grid, [B, D, H/p, W/p]; arguments as for forward."""
        patch_size = self.config.patch_size
        batch, _, height, width = noisy.shape
        self.check_size(height, width)
        h, w = height // patch_size, width // patch_size
        family = get_architecture(self.config.architecture)
        patches = Patches(patch_size, family.patch_layout)
        family.call(self.transformer, noisy, sigma, prompt, patches, self.config.distilled_guidance)
        tokens = self._tap[0].take()[:, : h * w]  # [B, h * w, D]; some families append text or padding
        return tokens.transpose(1, 2).reshape(batch, -1, h, w)

    @property
    def size_multiple(self) -> int:
        """What an image's height and width must divide by: the patch size, and what the head's levels pool."""
        return math.lcm(self.config.patch_size, self.detailer.pooling)

    def check_size(self, height: int, width: int) -> None:
        """Raise ValueError that names the nearest sizes, unless the whole model can paint height x width pixels."""
        multiple = self.size_multiple
        if not (isinstance(height, Integral) and isinstance(width, Integral)):
            raise InputError(f"height {height!r} and width {width!r} are pixels: give whole numbers")
        if height > 0 and width > 0 and not (height % multiple or width % multiple):
            return
        down, up = (tuple(max(round_(n / multiple), 1) * multiple for n in (height, width)) for round_ in ROUNDINGS)
        nearest = " or ".join(f"{h} x {w}" for h, w in sorted({down, up}))
        raise InputError(
            f"image of {height} x {width} pixels: both must be multiples of {multiple} (patch size "
            f"{self.config.patch_size}, the head's levels pool {self.detailer.pooling}); nearest: {nearest}"
        )

    @property
    def is_cache_enabled(self) -> bool:
        """Whether the source transformer's blocks are under one of diffusers' caches."""
        return getattr(self.transformer, "is_cache_enabled", False)

    def enable_cache(self, config: Any) -> None:
        """Put the source transformer's blocks under a cache of diffusers (FirstBlockCacheConfig and others).

        Raises ValueError for families that diffusers has no caches for.
        """
        if not isinstance(self.transformer, CacheMixin):
            raise InputError(
                f"diffusers has no caches for {type(self.transformer).__name__}; it has them for {_cached_families()}"
            )
        self.transformer.enable_cache(config)

    def disable_cache(self) -> None:
        """Take the cache off again."""
        if self.is_cache_enabled:
            self.transformer.disable_cache()

    def cache_context(self, name: str, **where: Any) -> AbstractContextManager[None]:
        """The context in which a cache's states live; nothing without a cache. Source: diffusers' CacheMixin."""
        return self.transformer.cache_context(name, **where) if self.is_cache_enabled else nullcontext()

    def _reset_stateful_cache(self, recurse: bool = True) -> None:
        if self.is_cache_enabled:
            self.transformer._reset_stateful_cache(recurse)

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | Path, **options: Any
    ) -> "PixelTransformer2DModel | tuple[PixelTransformer2DModel, dict[str, Any]]":
        """Load a saved model as diffusers does; raises ValueError for tensors that the file lacks.

        diffusers would draw them at random and say so in a warning.
        """
        asked = options.pop("output_loading_info", False)
        model, info = super().from_pretrained(pretrained_model_name_or_path, output_loading_info=True, **options)
        missing = sorted(info["missing_keys"])
        if missing:
            raise InputError(
                f"the weights at {pretrained_model_name_or_path} lack {len(missing)} of the model's tensors, first "
                f"{missing[:3]}: copy or convert them again"
            )
        return (model, info) if asked else model

    def save_pretrained(self, save_directory: str | Path, *arguments: Any, **options: Any) -> None:
        """Save as diffusers does, with the user's usual permissions (safetensors makes files their owner's alone)."""
        super().save_pretrained(save_directory, *arguments, **options)
        usual_permissions(save_directory)

    def blocks(self) -> list[nn.Module]:
        """Return the transformer's blocks in the order in which they run."""
        family = get_architecture(self.config.architecture)
        return [block for name in family.block_lists for block in getattr(self.transformer, name)]

    def input_projection(self) -> nn.Module:
        """Return the layer that takes pixel patches."""
        family = get_architecture(self.config.architecture)
        return self.transformer.get_submodule(family.input_projection(self.config.patch_size))


def _cached_families() -> list[str]:
    classes = {name: getattr(diffusers, family.transformer_class) for name, family in ARCHITECTURES.items()}
    return [name for name, cls in classes.items() if issubclass(cls, CacheMixin)]
