"""BLIP-VQA, ViLT and Qwen2.5-VL with random weights: the image is encoded once, and a batch changes no answer."""

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from bench.dpg.models import TransformersVQA, load_transformers

WORDS = (
    "is,there,a,the,red,green,cat,dog,left,of,two,are,bench,yes,no,?,.,comma,and,one,word,or,with,answer,if,allows,it"
)
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
QUESTIONS = [
    "Is there a cat?",
    "Is the red dog left of the green bench?",
    "Are there two?",
    "Is it red?",
    "Is the cat green?",
]


def word_tokenizer(special: list[str], **names: str) -> transformers.PreTrainedTokenizerFast:
    words = [*special, *WORDS.split(","), *(f"w{k}" for k in range(40))]
    tokenizer = Tokenizer(models.WordLevel({word: k for k, word in enumerate(words)}, unk_token=names["unk_token"]))
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizers.Lowercase(), pre_tokenizers.Whitespace()
    if "cls_token" in names:
        pair = [("[CLS]", words.index("[CLS]")), ("[SEP]", words.index("[SEP]"))]
        tokenizer.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=pair)
    tokenizer.decoder = decoders.WordPiece()
    return transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=24, **names)


def bert_words() -> transformers.PreTrainedTokenizerFast:
    return word_tokenizer(SPECIAL, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]")


def shaken(model, strength: float = 1.6):
    """Weights large enough that different questions get different answers."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1:
                scale = 0.5 if "embed" in name else strength / parameter.flatten(1).shape[1] ** 0.5
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * scale)
    return model.eval()


def blip():
    tokenizer = bert_words()
    text = {"vocab_size": len(tokenizer), "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    text |= {"num_attention_heads": 2, "encoder_hidden_size": 32, "max_position_embeddings": 32}
    text |= {"bos_token_id": 2, "pad_token_id": 0, "eos_token_id": 3, "sep_token_id": 3}
    vision = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = transformers.BlipConfig(text_config=text, vision_config=vision | {"image_size": 32, "patch_size": 8})
    images = transformers.BlipImageProcessor(size={"height": 32, "width": 32})
    model = shaken(transformers.BlipForQuestionAnswering(config), strength=4.0)
    return model, transformers.BlipProcessor(images, tokenizer), model.vision_model


def vilt():
    tokenizer = bert_words()
    answers = {k: f"answer {k}" for k in range(50)}
    config = transformers.ViltConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=32, image_size=32, patch_size=8, max_image_length=-1, type_vocab_size=2,
        id2label=answers, label2id={label: k for k, label in answers.items()},
    )  # fmt: skip
    images = transformers.ViltImageProcessor(size={"shortest_edge": 32}, size_divisor=8)
    model = shaken(transformers.ViltForQuestionAnswering(config))
    return model, transformers.ViltProcessor(images, tokenizer), None


def qwen():
    special = ["<pad>", "<unk>", "<end>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"]
    tokenizer = word_tokenizer(special, pad_token="<pad>", unk_token="<unk>", eos_token="<end>")
    tokenizer.add_special_tokens({"additional_special_tokens": special[3:]})
    ids = {name: tokenizer.convert_tokens_to_ids(name) for name in special}
    text = {"vocab_size": len(tokenizer), "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    text |= {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 512, "bos_token_id": None}
    text |= {"eos_token_id": ids["<end>"], "pad_token_id": 0, "tie_word_embeddings": False}
    text |= {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [1, 1, 2]}}
    vision = {"depth": 2, "hidden_size": 32, "intermediate_size": 64, "num_heads": 2, "out_hidden_size": 32}
    config = transformers.Qwen2_5_VLConfig(
        text_config=text,
        vision_config=vision | {"fullatt_block_indexes": [1], "window_size": 56},
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
    )
    images = transformers.Qwen2VLImageProcessor(min_pixels=56 * 56, max_pixels=112 * 112)
    template = (
        "{% for m in messages %}{% for c in m['content'] %}{% if c['type'] == 'image' %}"
        "<|vision_start|><|image_pad|><|vision_end|>{% else %} {{ c['text'] }}{% endif %}{% endfor %}{% endfor %}"
    )
    model = shaken(transformers.Qwen2_5_VLForConditionalGeneration(config))
    processor = transformers.Qwen2_5_VLProcessor(
        images, tokenizer, transformers.Qwen2VLVideoProcessor(), chat_template=template
    )
    return model, processor, model.model.visual


BUILDERS = {"blip": blip, "vilt": vilt, "qwen": qwen}


def picture(seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (64, 64, 3), dtype=np.uint8))


def reference(name, model, processor, image, question):
    """One question the library's own way."""
    if name == "qwen":
        from bench.dpg.models import INSTRUCTION, MAX_NEW_TOKENS

        text = INSTRUCTION.format(question=question)
        messages = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": text}]}]
        prompt = processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        inputs = processor(text=[prompt], images=[image], return_tensors="pt")
        tokens = model.generate(**inputs, max_new_tokens=MAX_NEW_TOKENS, do_sample=False)
        return processor.tokenizer.decode(tokens[0, inputs.input_ids.shape[1] :], skip_special_tokens=True).strip()
    inputs = processor(images=image, text=question, return_tensors="pt")
    with torch.no_grad():
        if name == "vilt":
            return model.config.id2label[model(**inputs).logits.argmax(-1).item()]
        return processor.tokenizer.decode(model.generate(**inputs, max_new_tokens=10)[0], skip_special_tokens=True)


@pytest.fixture(scope="module", params=BUILDERS)
def built(request):
    return (request.param, *BUILDERS[request.param]())


def test_batched_answers_are_the_librarys_own(built):
    name, model, processor, _ = built
    vqa = TransformersVQA(model, processor, "toy")
    answers = vqa(picture(), QUESTIONS)
    assert answers == [reference(name, model, processor, picture(), question) for question in QUESTIONS]
    assert len(set(answers)) > 1, "all answers alike: the comparison shows nothing"
    others = [vqa(picture(seed), QUESTIONS) for seed in range(1, 4)]
    assert any(other != answers for other in others), "the answers do not depend on the image"


def test_the_image_is_encoded_once(built):
    name, model, processor, encoder = built
    if encoder is None:
        pytest.skip("ViLT has no image encoder of its own")
    calls = []
    hook = encoder.register_forward_hook(lambda *_: calls.append(1))
    TransformersVQA(model, processor, "toy")(picture(), QUESTIONS * 5)
    hook.remove()
    assert len(calls) == 1


def test_a_saved_model_loads_and_is_marked(built, tmp_path):
    name, model, processor, _ = built
    model.save_pretrained(tmp_path / "toy")
    processor.save_pretrained(tmp_path / "toy")
    vqa = load_transformers(str(tmp_path / "toy"), "cpu")
    assert vqa(picture(), QUESTIONS) == TransformersVQA(model, processor, "toy")(picture(), QUESTIONS)
    assert vqa.passport["comparability"] == "not comparable with published scores"
    assert vqa.passport["model"] == "toy" and len(vqa.passport["weights_sha256"]) == 64


def test_a_model_that_answers_no_questions_is_refused(tmp_path):
    config = transformers.BertConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8)
    transformers.BertModel(config).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="is a BertModel; known VQA models: BlipForQuestionAnswering"):
        load_transformers(str(tmp_path), "cpu")
