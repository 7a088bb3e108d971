"""The miniature's source models: real diffusers pipelines of a few million parameters, built untrained."""

from __future__ import annotations

from pathlib import Path

from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import CLIPTextConfig, CLIPTextModel, PreTrainedTokenizerFast, T5Config, T5EncoderModel

from reproduce.miniature.prompts import MAX_SEQUENCE_LENGTH, vocabulary
from reproduce.miniature.scenes import DEFAULT_LAYOUT, Layout

RESOLUTION = 48
WEIGHTS = Path(__file__).parent / "weights"
CLIP_WIDTH, T5_WIDTH, HEADS, HEAD_DIM = 64, 96, 4, 32


def source_folder(family: str, layout: Layout = DEFAULT_LAYOUT, weights: Path = WEIGHTS) -> Path:
    """Where a family's trained source for one of the two worlds lies: "flux", or "flux-open" with layouts left open."""
    return weights / (family if layout == "said" else f"{family}-{layout}")


def word_tokenizer() -> PreTrainedTokenizerFast:
    """One token a word, `</s>` appended; padded to at most 24 tokens."""
    words = vocabulary()
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    end = words.index("</s>")
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", end)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        eos_token="</s>",
        unk_token="<unk>",
        model_max_length=MAX_SEQUENCE_LENGTH,
    )


def autoencoder() -> AutoencoderKL:
    """The VAE: factor 4, 8 latent channels, 0.66 M parameters."""
    return AutoencoderKL(
        in_channels=3,
        out_channels=3,
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(16, 32, 64),
        layers_per_block=1,
        latent_channels=8,
        norm_num_groups=8,
        mid_block_add_attention=False,
        sample_size=RESOLUTION,
        scaling_factor=1.0,
        shift_factor=0.0,
    )


def text_encoders(tokenizer: PreTrainedTokenizerFast) -> tuple[CLIPTextModel, T5EncoderModel]:
    """A one-layer CLIP and a two-layer T5 over the word tokenizer."""
    end, pad = tokenizer.eos_token_id, tokenizer.pad_token_id
    clip = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=CLIP_WIDTH,
        intermediate_size=2 * CLIP_WIDTH,
        projection_dim=CLIP_WIDTH,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=MAX_SEQUENCE_LENGTH,
        bos_token_id=end,
        eos_token_id=end,
        pad_token_id=pad,
    )
    t5 = T5Config(
        vocab_size=len(tokenizer),
        d_model=T5_WIDTH,
        d_kv=24,
        d_ff=2 * T5_WIDTH,
        num_layers=2,
        num_heads=4,
        relative_attention_num_buckets=16,
        relative_attention_max_distance=MAX_SEQUENCE_LENGTH,
        dropout_rate=0.0,
        pad_token_id=pad,
        eos_token_id=end,
        use_cache=False,
        is_encoder_decoder=False,
    )
    return CLIPTextModel(clip), T5EncoderModel(t5)


def flux() -> FluxPipeline:
    """An untrained FLUX: hidden 128, 2 double and 4 single blocks, 36 image tokens of 8 px at 48 px, noise shift 3."""
    tokenizer = word_tokenizer()
    clip, t5 = text_encoders(tokenizer)
    transformer = FluxTransformer2DModel(
        patch_size=1,
        in_channels=32,
        num_layers=2,
        num_single_layers=4,
        attention_head_dim=HEAD_DIM,
        num_attention_heads=HEADS,
        joint_attention_dim=T5_WIDTH,
        pooled_projection_dim=CLIP_WIDTH,
        guidance_embeds=False,
        axes_dims_rope=(8, 12, 12),
    )
    return FluxPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=False),
        vae=autoencoder(),
        text_encoder=clip,
        tokenizer=tokenizer,
        text_encoder_2=t5,
        tokenizer_2=tokenizer,
        transformer=transformer,
    )


SOURCES = {"flux": flux}
