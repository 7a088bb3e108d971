"""L2PPipeline: from prompt to image with no VAE; the sampler is Euler on the source's flow."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from diffusers import DiffusionPipeline, FlowMatchEulerDiscreteScheduler, ImagePipelineOutput
from diffusers.image_processor import VaeImageProcessor
from torch import Tensor

from l2p.architectures import EncodedPrompt, encode_prompt, split_prompts, stack_prompts
from l2p.pixel_transformer import PixelTransformer2DModel

TEXT_COMPONENTS = ("text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2", "text_encoder_3", "tokenizer_3")
Generators = torch.Generator | list[torch.Generator] | None


class L2PPipeline(DiffusionPipeline):
    """Draw images with a pixel transformer; text encoders and tokenizers are those that the source family has."""

    model_cpu_offload_seq = "text_encoder->text_encoder_2->text_encoder_3->transformer"
    _optional_components = list(TEXT_COMPONENTS)
    _callback_tensor_inputs = ["noisy"]

    def __init__(
        self,
        transformer: PixelTransformer2DModel,
        scheduler: FlowMatchEulerDiscreteScheduler,
        text_encoder: Any = None,
        tokenizer: Any = None,
        text_encoder_2: Any = None,
        tokenizer_2: Any = None,
        text_encoder_3: Any = None,
        tokenizer_3: Any = None,
    ) -> None:
        super().__init__()
        self.register_modules(
            transformer=transformer,
            scheduler=scheduler,
            text_encoder=text_encoder,
            tokenizer=tokenizer,
            text_encoder_2=text_encoder_2,
            tokenizer_2=tokenizer_2,
            text_encoder_3=text_encoder_3,
            tokenizer_3=tokenizer_3,
        )
        self.image_processor = VaeImageProcessor(vae_scale_factor=1)

    @torch.no_grad()
    def encode_prompt(self, prompt: str | list[str], max_sequence_length: int = 512) -> EncodedPrompt:
        """Encode prompts as the source family does; tensors [B, ...] by name, to be reused or cached."""
        prompts = [prompt] if isinstance(prompt, str) else list(prompt)
        return encode_prompt(self, self.transformer.config.architecture, prompts, max_sequence_length)

    @torch.no_grad()
    def __call__(
        self,
        prompt: str | list[str] | None = None,
        negative_prompt: str | list[str] = "",
        height: int = 1024,
        width: int = 1024,
        num_inference_steps: int = 30,
        guidance_scale: float = 2.0,
        generator: Generators = None,
        prompt_embeds: EncodedPrompt | None = None,
        negative_prompt_embeds: EncodedPrompt | None = None,
        max_sequence_length: int = 512,
        output_type: str = "pil",
        return_dict: bool = True,
        callback_on_step_end: Callable[..., dict[str, Tensor]] | None = None,
    ) -> ImagePipelineOutput | tuple[Any]:
        """Draw one image a prompt; the defaults are the 1K release's.

        guidance_scale: uncond + w (cond - uncond), 1 = off. generator: one an image makes an image independent of its
        batch; noise is drawn on the CPU. prompt_embeds: from encode_prompt, instead of prompt. output_type: "pil",
        "np" or "pt" in [0, 1], "latent" for the raw tensor. callback_on_step_end(pipeline, step, timestep, {"noisy"})
        may return another "noisy". Raises ValueError for sizes that patches do not tile, and for missing prompts.
        """
        embeds = self._prompts(prompt, prompt_embeds, max_sequence_length)
        batch_size = len(next(iter(embeds.values())))
        if guidance_scale != 1:
            negative = self._negatives(negative_prompt, negative_prompt_embeds, batch_size, max_sequence_length)
            embeds = stack_prompts(split_prompts(negative) + split_prompts(embeds))  # [2B, ...]
        device, dtype = self._execution_device, self.transformer.dtype
        embeds = {name: t.to(device, dtype if t.is_floating_point() else None) for name, t in embeds.items()}
        noisy = draw_noise((batch_size, 3, height, width), generator).to(device)  # [B, 3, H, W]
        self.scheduler.set_timesteps(sigmas=torch.linspace(1, 1 / num_inference_steps, num_inference_steps).tolist())
        with self.progress_bar(total=num_inference_steps) as progress_bar:
            for i, timestep in enumerate(self.scheduler.timesteps):
                velocity = self._velocity(noisy, self.scheduler.sigmas[i], embeds, guidance_scale)
                noisy = self.scheduler.step(velocity, timestep, noisy, return_dict=False)[0]
                if callback_on_step_end is not None:
                    noisy = callback_on_step_end(self, i, timestep, {"noisy": noisy}).get("noisy", noisy)
                progress_bar.update()
        images = self.image_processor.postprocess(noisy, output_type=output_type)
        self.maybe_free_model_hooks()
        return ImagePipelineOutput(images=images) if return_dict else (images,)

    def _velocity(self, noisy: Tensor, sigma: Tensor, embeds: EncodedPrompt, guidance_scale: float) -> Tensor:
        guided = guidance_scale != 1
        inputs = torch.cat([noisy, noisy]) if guided else noisy  # [2B, 3, H, W]
        levels = sigma.to(noisy.device).expand(len(inputs))  # [2B]
        velocity = self.transformer(inputs.to(self.transformer.dtype), levels, embeds, return_dict=False)[0].float()
        if not guided:
            return velocity
        uncond, cond = velocity.chunk(2)
        return uncond + guidance_scale * (cond - uncond)

    def _prompts(
        self, prompt: str | list[str] | None, embeds: EncodedPrompt | None, max_sequence_length: int
    ) -> EncodedPrompt:
        if (prompt is None) == (embeds is None):
            raise ValueError("give either `prompt` or `prompt_embeds` (from encode_prompt), and not both")
        return self.encode_prompt(prompt, max_sequence_length) if embeds is None else embeds  # type: ignore[arg-type]

    def _negatives(
        self, prompt: str | list[str], embeds: EncodedPrompt | None, batch_size: int, max_sequence_length: int
    ) -> EncodedPrompt:
        singles = split_prompts(embeds if embeds is not None else self.encode_prompt(prompt, max_sequence_length))
        if len(singles) not in (1, batch_size):
            raise ValueError(f"{len(singles)} negative prompts for {batch_size} prompts; give one, or one each")
        return stack_prompts(singles * (batch_size // len(singles)))


def draw_noise(shape: tuple[int, int, int, int], generator: Generators) -> Tensor:
    """Draw Gaussian noise [B, C, H, W] in float32 on the CPU, image by image.

    generator: one for all images, or one an image. Raises ValueError when their number is not the batch's.
    """
    batch_size, *size = shape
    if isinstance(generator, list) and len(generator) != batch_size:
        raise ValueError(f"{len(generator)} generators for {batch_size} images; give one an image, or a single one")
    each = generator if isinstance(generator, list) else [generator] * batch_size
    return torch.stack([torch.randn(size, generator=g) for g in each])


def source_folder(source: str | Path) -> Path | None:
    """Return the folder that a source names, or None for a hub id.

    Raises FileNotFoundError or ValueError that says what lies at the path instead of a diffusers pipeline.
    """
    folder = Path(source)
    if not folder.exists():
        if folder.is_absolute() or str(source).startswith((".", "~")) or str(source).count("/") != 1:
            raise FileNotFoundError(
                f"no source at {folder}; give the folder of a diffusers pipeline or a hub id owner/name"
            )
        return None
    if not folder.is_dir():
        raise ValueError(f"{folder} is a file; give the folder of a diffusers pipeline")
    if not (folder / "model_index.json").is_file():
        found = sorted(path.name for path in folder.iterdir())[:8]
        raise ValueError(f"{folder} is no diffusers pipeline: model_index.json is missing; found {found or 'nothing'}")
    return folder


def load_source(source: str | Path, dtype: torch.dtype = torch.float32) -> Any:
    """Load a source pipeline from a diffusers folder or hub id. Raises as source_folder does."""
    source_folder(source)
    return DiffusionPipeline.from_pretrained(str(source), dtype=dtype)


def pixel_pipeline(source: DiffusionPipeline, transformer: PixelTransformer2DModel, shift: float = 3.0) -> L2PPipeline:
    """Put a pixel transformer into a pipeline with the source's own text encoders and tokenizers.

    shift: the sampler's noise shift (3 at 1K as released).
    """
    text = {name: getattr(source, name) for name in TEXT_COMPONENTS if hasattr(source, name)}
    return L2PPipeline(transformer=transformer, scheduler=FlowMatchEulerDiscreteScheduler(shift=shift), **text)
