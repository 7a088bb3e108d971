"""VQA by transformers' own classes: BLIP-VQA, ViLT, Qwen2.5-VL. Not comparable with published DPG-Bench scores.

Each encodes an image once and asks its questions in batches; a batch changes no answer.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from bench.dpg.vqa import NOT_COMPARABLE
from bench.named import refuse_missing_path
from bench.passport import weights_sha256
from l2p.errors import InputError

if TYPE_CHECKING:
    from PIL.Image import Image

QUESTIONS_AT_ONCE = 16
MAX_NEW_TOKENS = 10
INSTRUCTION = "{question} Answer with one word, yes or no, if the question allows it."


class TransformersVQA:
    """A model with its processor; `answer` gives the answers to one batch of questions about one encoded image."""

    def __init__(self, model: Any, processor: Any, name: str):
        architecture = type(model).__name__
        if architecture not in ARCHITECTURES:
            raise InputError(f"{name} is a {architecture}; known VQA models: {', '.join(ARCHITECTURES)}")
        self.model, self.processor = model.eval(), processor
        keep_cross_attention_masks(model)
        self._encode, self._answer = ARCHITECTURES[architecture]
        self.passport = {
            "vqa": "transformers",
            "model": name,
            "architecture": architecture,
            "weights_sha256": weights_sha256(model.state_dict()),
            "dtype": str(model.dtype).removeprefix("torch."),
            "comparability": NOT_COMPARABLE,
        }

    @torch.no_grad()
    def __call__(self, image: Image, questions: list[str]) -> list[str]:
        """The questions' answers, in order."""
        encoded = self._encode(self.model, self.processor, image.convert("RGB"))
        cuts = [questions[i : i + QUESTIONS_AT_ONCE] for i in range(0, len(questions), QUESTIONS_AT_ONCE)]
        return [text for cut in cuts for text in self._answer(self.model, self.processor, encoded, cut)]


def load_transformers(name: str, device: str) -> TransformersVQA:
    """Load a folder or hub id (safetensors only).

    Raises ValueError for a model that is none of ARCHITECTURES, and for weights that cannot be loaded.
    """
    import transformers

    refuse_missing_path(name, "a folder in transformers' format, or a hub id")
    try:
        config = transformers.AutoConfig.from_pretrained(name)
        architecture = (config.architectures or ["unknown"])[0]
        if architecture not in ARCHITECTURES:
            raise InputError(f"{name} is a {architecture}; known VQA models: {', '.join(ARCHITECTURES)}")
        model = getattr(transformers, architecture).from_pretrained(name, use_safetensors=True).to(device)
        processor = transformers.AutoProcessor.from_pretrained(name)
    except (InputError, OSError):
        raise
    except Exception as error:  # safetensors and transformers have their own; the files are at fault in all cases
        raise InputError(f"{name} cannot be loaded ({type(error).__name__}: {error})") from error
    return TransformersVQA(model, processor, str(Path(name).name if Path(name).is_dir() else name))


def keep_cross_attention_masks(model: Any) -> None:
    """Hand BLIP's cross-attention the mask that transformers 5.23 drops, so that padding is not looked at.

    There `BlipTextAttention` passes it on as `attention_mask`, where only `encoder_attention_mask` is read.
    """

    def add_mask(module: Any, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
        return args, kwargs | {"encoder_attention_mask": kwargs.get("attention_mask")}

    for name, module in model.named_modules():
        if name.endswith("crossattention.self"):
            module.register_forward_pre_hook(add_mask, with_kwargs=True)


def _text(model: Any, processor: Any, questions: list[str]) -> Any:
    """Padded token ids and masks [N, L] on the model's device."""
    return processor.tokenizer(questions, padding=True, truncation=True, return_tensors="pt").to(model.device)


def _pixel_values(model: Any, processor: Any, image: Image) -> Any:
    """The image processor's tensors, each [1, ...], on the model's device."""
    return processor.image_processor(images=image, return_tensors="pt").to(model.device)


def encode_blip(model: Any, processor: Any, image: Image) -> torch.Tensor:
    """BLIP's image tokens [1, T, D]."""
    return model.vision_model(pixel_values=_pixel_values(model, processor, image).pixel_values)[0]


def answer_blip(model: Any, processor: Any, image_tokens: torch.Tensor, questions: list[str]) -> list[str]:
    """BLIP's answers: question tokens attend to the image, the decoder to them (Li et al. 2022, figure 5).

    Upstream's `generate` lets the decoder see padding; here padding is masked, so that a batch changes no answer.
    """
    text = _text(model, processor, questions)
    states = model.text_encoder(
        input_ids=text.input_ids,
        attention_mask=text.attention_mask,
        encoder_hidden_states=image_tokens,  # [1, T, D]: keys and values are computed once and broadcast
        return_dict=False,
    )[0]  # [N, L, D]
    config = model.config.text_config
    token_ids = model.text_decoder.generate(
        input_ids=torch.full((len(questions), 1), model.decoder_start_token_id, device=states.device),
        eos_token_id=config.sep_token_id,
        pad_token_id=config.pad_token_id,
        encoder_hidden_states=states,
        encoder_attention_mask=text.attention_mask,
        max_new_tokens=MAX_NEW_TOKENS,
    )
    return processor.tokenizer.batch_decode(token_ids, skip_special_tokens=True)


def encode_vilt(model: Any, processor: Any, image: Image) -> Any:
    """ViLT has no image encoder apart: its pixels and mask, prepared once."""
    return _pixel_values(model, processor, image)


def answer_vilt(model: Any, processor: Any, pixels: Any, questions: list[str]) -> list[str]:
    """ViLT's answers: the best of its fixed list, one forward for all questions."""
    text = _text(model, processor, questions)
    image = {name: tensor.expand(len(questions), *tensor.shape[1:]) for name, tensor in pixels.items()}
    best = model(**text, **image).logits.argmax(-1)  # [N]
    return [model.config.id2label[index] for index in best.tolist()]


def encode_qwen(model: Any, processor: Any, image: Image) -> tuple[Any, torch.Tensor]:
    """Qwen2.5-VL's image features and the image's grid [1, 3]."""
    pixels = _pixel_values(model, processor, image)
    features = model.model.get_image_features(pixels.pixel_values, pixels.image_grid_thw, return_dict=True)
    return features, pixels.image_grid_thw


def answer_qwen(model: Any, processor: Any, encoded: tuple[Any, torch.Tensor], questions: list[str]) -> list[str]:
    """Qwen2.5-VL's answers by greedy decoding; the image's features are repeated, not computed again."""
    features, grid = encoded
    num_tokens = int(grid.prod()) // processor.image_processor.merge_size**2
    prompts = [_chat(processor, question, num_tokens) for question in questions]
    text = processor.tokenizer(prompts, padding=True, padding_side="left", return_tensors="pt").to(model.device)
    repeated = type(features)(pooler_output=tuple(features.pooler_output) * len(questions))
    token_ids = model.generate(
        **text,
        mm_token_type_ids=(text.input_ids == model.config.image_token_id).int(),
        image_grid_thw=grid.expand(len(questions), -1),
        mm_encoder_outputs={"image": repeated},
        max_new_tokens=MAX_NEW_TOKENS,
        do_sample=False,
    )
    answers = token_ids[:, text.input_ids.shape[1] :]
    return [answer.strip() for answer in processor.tokenizer.batch_decode(answers, skip_special_tokens=True)]


def _chat(processor: Any, question: str, num_image_tokens: int) -> str:
    """The chat prompt with the image's placeholder repeated for each of its tokens."""
    content = [{"type": "image"}, {"type": "text", "text": INSTRUCTION.format(question=question)}]
    messages = [{"role": "user", "content": content}]
    text = processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    return text.replace(processor.image_token, processor.image_token * num_image_tokens)


ARCHITECTURES: dict[str, tuple[Callable[..., Any], Callable[..., list[str]]]] = {
    "BlipForQuestionAnswering": (encode_blip, answer_blip),
    "ViltForQuestionAnswering": (encode_vilt, answer_vilt),
    "Qwen2_5_VLForConditionalGeneration": (encode_qwen, answer_qwen),
}
