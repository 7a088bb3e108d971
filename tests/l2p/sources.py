"""Builders of tiny random sources, real classes all of them, and of a tiny corpus."""

import json
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import CLIPTextConfig, CLIPTextModel, PreTrainedTokenizerFast, T5Config, T5EncoderModel

torch.set_num_threads(1)

WORDS = ("<pad>", "</s>", "<unk>", "a", "red", "blue", "star", "circle", "and", "two")


def word_tokenizer(max_length: int = 16) -> PreTrainedTokenizerFast:
    """A tokenizer of ten words that appends its end token."""
    tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(WORDS)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        eos_token="</s>",
        unk_token="<unk>",
        model_max_length=max_length,
    )


def tiny_vae(latent_channels: int = 8) -> AutoencoderKL:
    """An autoencoder of factor 4."""
    return AutoencoderKL(
        block_out_channels=(8, 8, 16),
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        latent_channels=latent_channels,
        norm_num_groups=4,
        layers_per_block=1,
        scaling_factor=0.8,
        shift_factor=0.1,
        use_quant_conv=False,
        use_post_quant_conv=False,
    )


def tiny_flux() -> FluxPipeline:
    """A FLUX source: two joint and four single blocks of width 32, packed latents of 32 channels."""
    torch.manual_seed(0)
    clip = CLIPTextConfig(
        vocab_size=len(WORDS),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=16,
        eos_token_id=1,
        pad_token_id=0,
        bos_token_id=2,
    )
    t5 = T5Config(vocab_size=len(WORDS), d_model=24, d_kv=8, d_ff=32, num_layers=1, num_heads=2)
    transformer = FluxTransformer2DModel(
        patch_size=1,
        in_channels=32,
        num_layers=2,
        num_single_layers=4,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=24,
        pooled_projection_dim=16,
        axes_dims_rope=(4, 6, 6),
    )
    return FluxPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(shift=2.0),
        vae=tiny_vae(),
        text_encoder=CLIPTextModel(clip),
        tokenizer=word_tokenizer(),
        text_encoder_2=T5EncoderModel(t5).eval(),
        tokenizer_2=word_tokenizer(),
        transformer=transformer,
    )


def write_corpus(folder: Path, num_images: int = 24, size: int = 16) -> Path:
    """A corpus of flat colours with a square: red images say "a red star", blue ones "two blue"."""
    generator = np.random.default_rng(0)
    (folder / "images").mkdir(parents=True)
    rows = []
    for i in range(num_images):
        pixels = np.full((size, size, 3), 30, np.uint8)
        corner = generator.integers(0, size // 2, 2)
        pixels[corner[0] : corner[0] + size // 2, corner[1] : corner[1] + size // 2, 0 if i % 2 else 2] = 230
        Image.fromarray(pixels).save(folder / f"images/{i}.png")
        rows.append({"file_name": f"images/{i}.png", "text": "a red star" if i % 2 else "two blue"})
    (folder / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder
