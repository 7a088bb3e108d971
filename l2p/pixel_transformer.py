"""PixelTransformer2DModel: a source DiT with both ends replaced, so that it denoises RGB pixels (paper section 3.3)."""

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import diffusers
from diffusers import ModelMixin
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_outputs import Transformer2DModelOutput
from torch import Tensor, nn

from l2p.architectures import EncodedPrompt, Patches, architecture_of, get_architecture
from l2p.detailer import DetailerConfig, DetailerHead
from l2p.flow import per_image

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


class PixelTransformer2DModel(ModelMixin, ConfigMixin):
    """A source family's transformer on RGB patches with a Detailer Head instead of its final layer.

    architecture: a name in l2p.architectures. patch_size: pixels along a patch's side. source_config: config of the
    source's transformer class. prediction: what the head paints, a key of PREDICTIONS ("velocity" as released).
    output_scale: factor on what it paints. detailer_config: fields of DetailerConfig. distilled_guidance: the constant
    fed to sources that have a guidance embedding (FLUX.1-dev), unused by others.
    Raises ValueError for an unknown architecture, prediction or detailer option.
    """

    _supports_gradient_checkpointing = True

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
            raise ValueError(f"unknown prediction {prediction!r}; known: {sorted(PREDICTIONS)}")
        family = get_architecture(architecture)
        self._scale = output_scale * (family.velocity_sign if prediction == "velocity" else 1)
        transformer_class: Any = getattr(diffusers, family.transformer_class)
        self.transformer = transformer_class.from_config(family.pixel_config(source_config, patch_size))
        self._tap = [family.replace_final_layer(self.transformer, patch_size)]  # in a list: no second module path
        self.detailer = DetailerHead(family.hidden_size(source_config), patch_size, _detailer_config(detailer_config))

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
            raise ValueError(f"{type(transformer).__name__} is of architecture {family.name!r}, not {architecture!r}")
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

        noisy [B, 3, H, W] in the model's dtype, H and W multiples of the patch size; sigma [B], 1 = pure noise; prompt
        as the architecture's encode_prompt gives it. Returns [B, 3, H, W]. Raises ValueError for other image sizes.
        """
        painted = self.detailer(noisy, self.token_map(noisy, sigma, prompt)) * self._scale  # [B, 3, H, W]
        velocity = PREDICTIONS[self.config.prediction](painted, noisy, per_image(sigma))
        return Transformer2DModelOutput(sample=velocity) if return_dict else (velocity,)

    def token_map(self, noisy: Tensor, sigma: Tensor, prompt: EncodedPrompt) -> Tensor:
        """Return the last block's raw image tokens on their grid, [B, D, H/p, W/p]; arguments as for forward."""
        patch_size = self.config.patch_size
        batch, _, height, width = noisy.shape
        if height % patch_size or width % patch_size:
            raise ValueError(f"image of {height} x {width} pixels: both must be multiples of {patch_size}")
        h, w = height // patch_size, width // patch_size
        family = get_architecture(self.config.architecture)
        patches = Patches(patch_size, family.patch_layout)
        family.call(self.transformer, noisy, sigma, prompt, patches, self.config.distilled_guidance)
        tokens = self._tap[0].take()[:, : h * w]  # [B, h * w, D]; some families append text or padding
        return tokens.transpose(1, 2).reshape(batch, -1, h, w)

    def blocks(self) -> list[nn.Module]:
        """Return the transformer's blocks in the order in which they run."""
        family = get_architecture(self.config.architecture)
        return [block for name in family.block_lists for block in getattr(self.transformer, name)]

    def input_projection(self) -> nn.Module:
        """Return the layer that takes pixel patches."""
        family = get_architecture(self.config.architecture)
        return self.transformer.get_submodule(family.input_projection(self.config.patch_size))


def _detailer_config(options: dict[str, Any] | None) -> DetailerConfig:
    options = dict(options or {})
    if options.get("channels") is not None:
        options["channels"] = tuple(options["channels"])  # JSON has lists
    return DetailerConfig(**options)
