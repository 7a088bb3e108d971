"""L2PPipeline: from prompt to image with no VAE; any of diffusers' flow schedulers on the source's flow."""

import json
import shutil
from collections.abc import Callable, Sequence
from inspect import signature
from pathlib import Path
from typing import Any

import torch
from diffusers import DiffusionPipeline, FlowMatchEulerDiscreteScheduler, ImagePipelineOutput
from diffusers.callbacks import MultiPipelineCallbacks, PipelineCallback
from diffusers.image_processor import VaeImageProcessor
from torch import Tensor

from l2p.architectures import (
    EncodedPrompt,
    check_source_class,
    encode_prompt,
    get_architecture,
    split_prompts,
    stack_prompts,
)
from l2p.errors import InputError
from l2p.pixel_transformer import PixelTransformer2DModel
from l2p.sampling import Generators, flow_scheduler, set_noise_levels, start_noise
from l2p.sources import loading
from l2p.weight_files import check_folder, list_tensors, most_common_dtype, not_finite, usual_permissions

TEXT_COMPONENTS = ("text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2", "text_encoder_3", "tokenizer_3")
# How an image is drawn where neither the call nor the saved pipeline says it: as the 1K release.
RELEASED = {
    "height": 1024,
    "width": 1024,
    "num_inference_steps": 30,
    "guidance_scale": 2.0,
    "max_sequence_length": 512,
}
Texts = tuple[str | Sequence[str] | None, EncodedPrompt | None]  # prompts as texts or encoded


class L2PPipeline(DiffusionPipeline):
    """Draw images with a pixel transformer; text encoders and tokenizers are those that the source family has.

    architecture: the source family's name, kept in the pipeline's config, so that prompts can be encoded without the
    transformer; None takes the transformer's. defaults: what a call takes where it says nothing, some of the names of
    RELEASED, kept too: a model that was trained on 24 tokens draws blanks at 512. Raises ValueError when the two
    architectures differ, and for unknown names.
    """

    model_cpu_offload_seq = "text_encoder->text_encoder_2->text_encoder_3->transformer"
    _optional_components = ["transformer", *TEXT_COMPONENTS]
    _guidance_scale, _num_timesteps = 1.0, 0
    _interrupt, _current_timestep = False, None
    _callback_tensor_inputs = ["latents", "prompt_embeds", "negative_prompt_embeds"]

    def __init__(
        self,
        transformer: PixelTransformer2DModel | None,
        scheduler: FlowMatchEulerDiscreteScheduler,
        text_encoder: Any = None,
        tokenizer: Any = None,
        text_encoder_2: Any = None,
        tokenizer_2: Any = None,
        text_encoder_3: Any = None,
        tokenizer_3: Any = None,
        architecture: str | None = None,
        defaults: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        unknown = sorted(set(defaults or {}) - set(RELEASED))
        if unknown:
            raise InputError(f"unknown defaults {unknown}; known: {sorted(RELEASED)}")
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
        if transformer is not None:
            if architecture not in (None, transformer.config.architecture):
                raise InputError(f"the transformer is of {transformer.config.architecture!r}, not of {architecture!r}")
            architecture = transformer.config.architecture
        self.register_to_config(architecture=architecture, defaults=dict(defaults or {}))
        self.image_processor = VaeImageProcessor(vae_scale_factor=1)

    @property
    def defaults(self) -> dict[str, Any]:
        """What a call takes where it says nothing, by name."""
        return {**RELEASED, **(self.config.defaults or {})}

    @property
    def guidance_scale(self) -> float:
        """The running call's; a callback may change `_guidance_scale`."""
        return self._guidance_scale

    @property
    def do_classifier_free_guidance(self) -> bool:
        """Whether each step also runs the negative prompts."""
        return self._guidance_scale > 1

    @property
    def num_timesteps(self) -> int:
        """How many forwards the last call made, or will make."""
        return self._num_timesteps

    @property
    def current_timestep(self) -> Tensor | None:
        """The running step's timestep, None outside a call."""
        return self._current_timestep

    @property
    def interrupt(self) -> bool:
        """Whether the remaining steps are left out; a callback sets `_interrupt`."""
        return self._interrupt

    @torch.no_grad()
    def encode_prompt(self, prompt: str | Sequence[str], max_sequence_length: int | None = None) -> EncodedPrompt:
        """Encode prompts as the source family does; tensors [B, ...] by name, to be reused or cached.

        The transformer is not needed. Raises ValueError where text encoders are missing.
        """
        if self.config.architecture is None:
            raise InputError(
                "this pipeline was saved before it kept its family's name: load its transformer too, or name the "
                "family: from_pretrained(..., architecture='flux')"
            )
        length = self.defaults["max_sequence_length"] if max_sequence_length is None else max_sequence_length
        return encode_prompt(self, self.config.architecture, _texts(prompt), length)

    @torch.no_grad()
    def __call__(
        self,
        prompt: str | Sequence[str] | None = None,
        negative_prompt: str | Sequence[str] | None = "",
        height: int | None = None,
        width: int | None = None,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        generator: Generators = None,
        prompt_embeds: EncodedPrompt | None = None,
        negative_prompt_embeds: EncodedPrompt | None = None,
        max_sequence_length: int | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
        callback_on_step_end: Callable[..., dict[str, Any] | None] | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("latents",),
        num_images_per_prompt: int = 1,
        latents: Tensor | None = None,
        sigmas: Sequence[float] | None = None,
        timesteps: Sequence[float] | None = None,
    ) -> ImagePipelineOutput | tuple[Any]:
        """Draw images; None is the pipeline's own default (`defaults`), by itself the 1K release's.

        guidance_scale: uncond + w (cond - uncond), at most 1 = off. negative_prompt: one, or one a prompt; None is "".
        generator: one an image makes an image independent of its batch; noise is drawn image by image, on the
        generator's device. prompt_embeds, negative_prompt_embeds: what encode_prompt gives, instead of texts; a text
        beside them is encoded at their length. num_images_per_prompt: images of one prompt follow each other.
        latents: the noise [B, 3, H, W] itself, instead of drawing it. sigmas: noise levels before the scheduler's
        shift; timesteps: 1000 times the levels after it; num_inference_steps is then not read.
        output_type: "pil", "np" or "pt" in [0, 1], "latent" for the raw tensor. callback_on_step_end(pipeline, step,
        timestep, tensors) is given the tensors that callback_on_step_end_tensor_inputs names ("latents": the noisy
        images [B, 3, H, W]) and may return others. Raises ValueError for what does not fit, before anything runs.
        """
        if isinstance(callback_on_step_end, PipelineCallback | MultiPipelineCallbacks):
            callback_on_step_end_tensor_inputs = callback_on_step_end.tensor_inputs
        if num_inference_steps is None:
            num_inference_steps = self.defaults["num_inference_steps"]
        if max_sequence_length is None:
            max_sequence_length = self.defaults["max_sequence_length"]
        self._guidance_scale = self.defaults["guidance_scale"] if guidance_scale is None else guidance_scale
        self._interrupt, self._current_timestep = False, None
        height, width = self._size(height, width, latents)
        positive, negative = (prompt, prompt_embeds), (negative_prompt, negative_prompt_embeds)
        num_prompts = self._num_prompts(positive, negative)
        names = self._callback_names(callback_on_step_end_tensor_inputs)
        levels = timesteps if sigmas is None else sigmas
        mu = self._mu(height, width, num_inference_steps if levels is None else len(levels))
        set_noise_levels(self.scheduler, num_inference_steps, sigmas, timesteps, mu)
        noisy = start_noise((num_prompts * num_images_per_prompt, 3, height, width), generator, latents)
        cond, uncond = self._encoded(positive, negative, max_sequence_length, num_images_per_prompt)
        noisy = noisy.to(self._execution_device)  # [B, 3, H, W]
        noisy = self._denoise(noisy, cond, uncond, generator, callback_on_step_end, names)
        images = self.image_processor.postprocess(noisy, output_type=output_type)
        self.maybe_free_model_hooks()
        return ImagePipelineOutput(images=images) if return_dict else (images,)

    def _denoise(
        self,
        noisy: Tensor,
        cond: EncodedPrompt,
        uncond: EncodedPrompt | None,
        generator: Generators,
        callback: Callable[..., dict[str, Any] | None] | None,
        names: tuple[str, ...],
    ) -> Tensor:
        # Schedulers that draw noise of their own take the generators; the others' `step` does not know the word.
        drawing = {"generator": generator} if "generator" in signature(self.scheduler.step).parameters else {}
        self._num_timesteps = len(self.scheduler.timesteps)
        embeds = self._stacked(cond, uncond)
        with self.progress_bar(total=self._num_timesteps) as progress_bar:
            for i, timestep in enumerate(self.scheduler.timesteps):
                if self.interrupt:
                    continue
                self._current_timestep, sigma = timestep, self.scheduler.sigmas[i]
                where = {"step_index": i, "num_inference_steps": self._num_timesteps, "sigma": sigma.item()}
                with self.transformer.cache_context("cond_uncond", timestep=timestep, **where):
                    velocity = self._velocity(noisy, sigma, embeds)
                noisy = self.scheduler.step(velocity, timestep, noisy, return_dict=False, **drawing)[0]
                if callback is not None:
                    tensors = {"latents": noisy, "prompt_embeds": cond, "negative_prompt_embeds": uncond}
                    changed = callback(self, i, timestep, {name: tensors[name] for name in names}) or {}
                    noisy, cond, uncond = (changed.get(name, tensor) for name, tensor in tensors.items())
                    embeds = self._stacked(cond, uncond)
                progress_bar.update()
        self._current_timestep = None
        return noisy

    def _velocity(self, noisy: Tensor, sigma: Tensor, embeds: EncodedPrompt) -> Tensor:
        guided = len(next(iter(embeds.values()))) == 2 * len(noisy)
        inputs = torch.cat([noisy, noisy]) if guided else noisy  # [2B, 3, H, W]
        levels = sigma.to(noisy.device).expand(len(inputs))  # [2B]
        velocity = self.transformer(inputs.to(self.transformer.dtype), levels, embeds, return_dict=False)[0].float()
        if not guided:
            return velocity
        uncond, cond = velocity.chunk(2)
        return uncond + self.guidance_scale * (cond - uncond)

    def _stacked(self, cond: EncodedPrompt, uncond: EncodedPrompt | None) -> EncodedPrompt:
        """What one forward reads: [2B, ...] with guidance, else [B, ...]."""
        if uncond is None or not self.do_classifier_free_guidance:
            return cond
        return stack_prompts(split_prompts(uncond) + split_prompts(cond))

    def _encoded(
        self, positive: Texts, negative: Texts, max_sequence_length: int, num_images_per_prompt: int
    ) -> tuple[EncodedPrompt, EncodedPrompt | None]:
        """Encode what is not yet encoded: a row an image, on the transformer's device; the second None unguided."""
        prompt, given = positive
        cond = self.encode_prompt(prompt, max_sequence_length) if given is None else given  # type: ignore[arg-type]
        cond = self._to_device(cond)
        uncond = None
        if self.do_classifier_free_guidance:
            text, given = negative
            uncond = self._encode_like(cond, text or "", max_sequence_length) if given is None else given
            singles = split_prompts(self._to_device(uncond))
            uncond = stack_prompts(singles * (len(cond["prompt_embeds"]) // len(singles)))
            uncond = _repeated(uncond, num_images_per_prompt)
        return _repeated(cond, num_images_per_prompt), uncond

    def _to_device(self, embeds: EncodedPrompt) -> EncodedPrompt:
        device, dtype = self._execution_device, self.transformer.dtype
        return {name: t.to(device, dtype if t.is_floating_point() else None) for name, t in embeds.items()}

    def _encode_like(self, cond: EncodedPrompt, text: str | Sequence[str], max_sequence_length: int) -> EncodedPrompt:
        """Encode a text at the length of `cond`, where the family pads all prompts to one length (it has no mask)."""
        embeds = self.encode_prompt(text, max_sequence_length)
        if "mask" in embeds:
            return embeds
        longer = embeds["prompt_embeds"].shape[1] - cond["prompt_embeds"].shape[1]
        return embeds if longer == 0 else self.encode_prompt(text, max_sequence_length - longer)

    def _size(self, height: int | None, width: int | None, latents: Tensor | None) -> tuple[int, int]:
        """The images' size, by default that of `latents`; raises ValueError for what the transformer cannot paint."""
        if self.transformer is None:
            raise InputError("this pipeline was loaded without its transformer: it encodes prompts, but cannot draw")
        usual = (self.defaults["height"], self.defaults["width"])
        given = tuple(latents.shape[-2:]) if latents is not None else usual
        size = (given[0] if height is None else height, given[1] if width is None else width)
        self.transformer.check_size(*size)
        return size

    def _num_prompts(self, positive: Texts, negative: Texts) -> int:
        """How many prompts there are; raises ValueError where texts and embeds do not fit together."""
        prompt, embeds = positive
        if (prompt is None) == (embeds is None):
            raise InputError("give either `prompt` or `prompt_embeds` (from encode_prompt), and not both")
        names = get_architecture(self.config.architecture).prompt_tensors
        num_prompts, num_negatives = _count(*positive, names), _count(*negative, names)
        if num_negatives not in (1, num_prompts):
            raise InputError(f"{num_negatives} negative prompts for {num_prompts} prompts; give one, or one each")
        return num_prompts

    def _callback_names(self, names: Sequence[str]) -> tuple[str, ...]:
        unknown = set(names) - set(self._callback_tensor_inputs)
        if unknown:
            raise InputError(f"unknown callback tensors {sorted(unknown)}; known: {self._callback_tensor_inputs}")
        return tuple(names)

    def _mu(self, height: int, width: int, num_inference_steps: int) -> float:
        """The exponent of a dynamic shift, as the source family's pipeline computes it."""
        patch_size = self.transformer.config.patch_size
        num_tokens = (height // patch_size) * (width // patch_size)
        family = get_architecture(self.config.architecture)
        return family.dynamic_shift(self.scheduler.config, num_tokens, num_inference_steps)

    def save_config(self, save_directory: str | Path, push_to_hub: bool = False, **kwargs: Any) -> None:
        """Write model_index.json, and beside it the module that loads this class where nobody imported it."""
        folder = Path(save_directory)
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(Path(__file__).with_name("saved_pipeline.py"), folder / "pipeline.py")
        super().save_config(save_directory, push_to_hub=push_to_hub, **kwargs)

    def save_pretrained(self, save_directory: str | Path, *arguments: Any, **options: Any) -> None:
        """Save as diffusers does, with the user's usual permissions (safetensors makes files their owner's alone)."""
        super().save_pretrained(save_directory, *arguments, **options)
        usual_permissions(save_directory)

    def to_json_string(self) -> str:
        """The config as JSON; the class by module and name, as diffusers marks pipelines that it does not have."""
        config = json.loads(super().to_json_string())
        return json.dumps({**config, "_class_name": ["pipeline", type(self).__name__]}, indent=2, sort_keys=True) + "\n"

    @classmethod
    def _dict_from_json_file(cls, json_file: str | Path) -> dict[str, Any]:
        # Who loads through this class needs no code from the folder, and none is run.
        config = super()._dict_from_json_file(json_file)
        if isinstance(config.get("_class_name"), list):
            config["_class_name"] = config["_class_name"][-1]
        return config


def _texts(prompt: str | Sequence[str]) -> list[str]:
    texts = list(prompt) if isinstance(prompt, Sequence) and not isinstance(prompt, str) else [prompt]
    if not texts:
        raise InputError("there is no prompt in the list")
    other = [text for text in texts if not isinstance(text, str)]
    if other:  # some families would encode the word "None"
        raise InputError(f"each prompt must be a text; got {other[0]!r}")
    return texts


def _count(text: str | Sequence[str] | None, embeds: EncodedPrompt | None, names: tuple[str, ...]) -> int:
    if embeds is None:
        return len(_texts("" if text is None else text))
    given = {n: list(t.shape) for n, t in embeds.items()} if isinstance(embeds, dict) else type(embeds).__name__
    if not isinstance(embeds, dict) or set(embeds) != set(names) or len({len(t) for t in embeds.values()}) != 1:
        raise InputError(
            f"encoded prompts are what encode_prompt gives: a dict of tensors, one row a prompt, here {list(names)} "
            f"('mask' is true for real tokens); got {given}"
        )
    return len(embeds["prompt_embeds"])


def _repeated(embeds: EncodedPrompt, times: int) -> EncodedPrompt:
    return {name: tensor.repeat_interleave(times, dim=0) for name, tensor in embeds.items()}


def pixel_pipeline(
    source: DiffusionPipeline,
    transformer: PixelTransformer2DModel,
    shift: float = 3.0,
    defaults: dict[str, Any] | None = None,
    scheduler: str = "euler",
) -> L2PPipeline:
    """Put a pixel transformer into a pipeline with the source's own text encoders and tokenizers.

    shift: the sampler's noise shift (3 at 1K as released). scheduler: a name in l2p.sampling.SCHEDULERS. defaults: the
    pipeline's, see L2PPipeline. Raises ValueError unless the source is of the family's own class: a kindred pipeline
    (FLUX.2-klein beside FLUX.2) encodes prompts by another rule.
    """
    check_source_class(type(source).__name__, transformer.config.architecture)
    text = {name: getattr(source, name) for name in TEXT_COMPONENTS if hasattr(source, name)}
    return L2PPipeline(transformer=transformer, scheduler=flow_scheduler(scheduler, shift), defaults=defaults, **text)


def load_pixel_pipeline(folder: str | Path, dtype: torch.dtype | None = None) -> L2PPipeline:
    """Load a pixel pipeline's folder as a whole.

    dtype: None takes the one that most of the transformer's numbers are stored in. Raises FileNotFoundError or
    ValueError for another folder, damaged files, and weights that are missing or no numbers.
    """
    folder = Path(folder)
    if not (folder / "model_index.json").is_file():
        raise InputError(f"{folder} is no pixel pipeline: model_index.json is missing; make one with convert or merge")
    with loading(folder):
        named = L2PPipeline.load_config(str(folder))["_class_name"]
    if named != L2PPipeline.__name__:
        raise InputError(f"{folder} holds a {named}, not a pixel pipeline; make one of it with convert or merge")
    with loading(folder):
        check_folder(folder)
        dtype = dtype or most_common_dtype(list_tensors(folder / "transformer"))
        pipeline = L2PPipeline.from_pretrained(folder, dtype=dtype)
        bad = not_finite(pipeline.transformer.state_dict().items())
        if bad:
            raise InputError(f"its transformer holds NaN or infinity in {len(bad)} tensors, first {bad[:3]}")
    return pipeline
