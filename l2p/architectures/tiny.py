"""Small random parts of source pipelines, classes and all as released: what the families' `tiny_source` share."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import diffusers
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers, processors

PAD, END, UNKNOWN = "<pad>", "</s>", "<unk>"
WORDS = (PAD, END, UNKNOWN, "a", "red", "blue", "star", "circle", "and", "two")


@dataclass(frozen=True, kw_only=True)
class TinySizes:
    """How large a random source is; the defaults suffice to run every line of it in milliseconds.

    num_blocks: transformer blocks; a family with two kinds takes a third of them from the first. words: the vocabulary,
    with "<pad>", "</s>" and "<unk>" in it. max_length: the longest prompt in tokens, where the family has a limit.
    text_width: of the text encoder's tokens, a multiple of 8. num_text_layers: of a T5 encoder. head_dim: a multiple
    of 4, for FLUX.2 of 8, for Qwen-Image of 2. latent_channels, vae_channels: of the autoencoder, whose factor is 2
    to the power of len(vae_channels) - 1. shift: the scheduler's noise shift.
    """

    num_blocks: int = 6
    num_heads: int = 2
    head_dim: int = 16
    words: Sequence[str] = WORDS
    max_length: int = 16
    text_width: int = 32
    num_text_layers: int = 1
    latent_channels: int = 8
    vae_channels: tuple[int, ...] = (8, 8, 16)
    shift: float = 2.0

    @property
    def width(self) -> int:
        """The width of a transformer token."""
        return self.num_heads * self.head_dim

    @property
    def rotary_axes(self) -> tuple[int, int, int]:
        """How a head's channels are shared by the three position axes: rows and columns get three eighths each."""
        side = self.head_dim * 3 // 8 // 2 * 2
        return (self.head_dim - 2 * side, side, side)


def word_tokenizer(words: Sequence[str], max_length: int) -> Any:
    """Return a tokenizer of one token a word or sign, that appends its end token."""
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    end = (END, list(words).index(END))
    tokenizer.post_processor = processors.TemplateProcessing(single=f"$A {END}", special_tokens=[end])
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=PAD, eos_token=END, unk_token=UNKNOWN, model_max_length=max_length
    )


def autoencoder(sizes: TinySizes) -> Any:
    """Return an AutoencoderKL whose latents are scaled and shifted."""
    return diffusers.AutoencoderKL(
        block_out_channels=sizes.vae_channels,
        down_block_types=("DownEncoderBlock2D",) * len(sizes.vae_channels),
        up_block_types=("UpDecoderBlock2D",) * len(sizes.vae_channels),
        latent_channels=sizes.latent_channels,
        norm_num_groups=4,
        layers_per_block=1,
        scaling_factor=0.8,
        shift_factor=0.1,
        use_quant_conv=False,
        use_post_quant_conv=False,
    )


def clip_config(sizes: TinySizes, tokenizer: Any, projection_dim: int) -> Any:
    """Return a CLIP text encoder's configuration, half as wide as the family's text tokens."""
    return transformers.CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=sizes.text_width // 2,
        intermediate_size=sizes.text_width,
        projection_dim=projection_dim,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=sizes.max_length,
        bos_token_id=tokenizer.eos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


def t5_encoder(sizes: TinySizes, tokenizer: Any) -> Any:
    """Return a T5 encoder."""
    config = transformers.T5Config(
        vocab_size=len(tokenizer),
        d_model=sizes.text_width,
        d_kv=sizes.text_width // 4,
        d_ff=sizes.text_width,
        num_layers=sizes.num_text_layers,
        num_heads=2,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        use_cache=False,
        is_encoder_decoder=False,
    )
    return transformers.T5EncoderModel(config).eval()


def decoder_sizes(sizes: TinySizes, num_layers: int = 3) -> dict[str, Any]:
    """Return the size options that language models share, `text_width` wide."""
    return {
        "vocab_size": len(sizes.words),
        "hidden_size": sizes.text_width,
        "intermediate_size": sizes.text_width,
        "num_hidden_layers": num_layers,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "head_dim": sizes.text_width // 2,
    }


def scheduler(sizes: TinySizes) -> Any:
    """Return the flow-matching Euler scheduler with a fixed shift."""
    return diffusers.FlowMatchEulerDiscreteScheduler(shift=sizes.shift)
