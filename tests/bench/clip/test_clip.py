"""`python -m bench clip` with small CLIPs of random weights, against torchmetrics' own clip_score."""

import json
import shutil

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torchmetrics.functional.multimodal import clip_score

from bench.__main__ import main
from bench.clip.models import ClipScorer, FineGrainedScorer, image_tower, load_scorer
from bench.clip.score import recipe_mean
from bench.clip.variants import VARIANTS, find_variant, max_num_patches
from bench.fidelity.extractors import run_extractor
from bench.records import read_jsonl, read_summary, write_jsonl
from l2p.errors import InputError

WORDS = [f"w{k}" for k in range(90)]
MAX_TOKENS = 77


def tokenizer() -> transformers.PreTrainedTokenizerFast:
    """Words as tokens, CLIP's marks around them; the end mark has the highest id, as CLIP's."""
    vocabulary = {word: k for k, word in enumerate(["<s>", "[UNK]", *WORDS, "</s>"])}
    plain = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    plain.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    marks = [("<s>", 0), ("</s>", len(vocabulary) - 1)]
    plain.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=marks)
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=plain, bos_token="<s>", eos_token="</s>", pad_token="</s>", unk_token="[UNK]"
    )


def config(max_tokens: int = MAX_TOKENS) -> transformers.CLIPConfig:
    shape = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
    marks = {"bos_token_id": 0, "eos_token_id": len(WORDS) + 2, "pad_token_id": len(WORDS) + 2}
    return transformers.CLIPConfig(
        text_config=shape | marks | {"vocab_size": len(WORDS) + 3, "max_position_embeddings": max_tokens},
        vision_config=shape | {"image_size": 32, "patch_size": 8, "projection_dim": 16},
        projection_dim=16,
    )


def processor() -> transformers.CLIPProcessor:
    size = {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}}
    return transformers.CLIPProcessor(transformers.CLIPImageProcessor(**size), tokenizer())


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A CLIP in transformers' format."""
    path = tmp_path_factory.mktemp("clip")
    torch.manual_seed(0)
    model = transformers.CLIPModel(config())
    for parameter in model.parameters():
        parameter.data.normal_(0, 0.2)
    model.save_pretrained(path)
    processor().save_pretrained(path)
    return path


@pytest.fixture
def drawn(tmp_path):
    """Seven pictures and their captions, the last one too long."""
    random, captions = np.random.default_rng(0), []
    (tmp_path / "images").mkdir()
    for k in range(7):
        coarse = random.integers(0, 255, (5, 4, 3)).astype(np.uint8)
        Image.fromarray(coarse).resize((50, 60)).save(tmp_path / "images" / f"c{k}.png")
        words = random.choice(WORDS, 100 if k == 6 else 3 + k)
        captions.append({"file_name": f"c{k}.png", "short_caption": " ".join(words)})
    write_jsonl(tmp_path / "captions.jsonl", captions)
    return tmp_path


def clip(drawn, folder, variant, *more, out="out"):
    where = ["clip", str(drawn / "images"), "--prompts", str(drawn / "captions.jsonl"), "--caption", "short_caption"]
    given = ["--weights", str(folder), "--variant", variant, "--out", str(drawn / out), "--device", "cpu"]
    return main([*where, *given, *more])


class Unwrapped:
    """The model as torchmetrics takes it: features as plain tensors (transformers 5 wraps them)."""

    def __init__(self, model):
        self.model, self.config = model, model.config

    def to(self, device):
        return self

    def get_image_features(self, pixels):
        return self.model.get_image_features(pixel_values=pixels).pooler_output

    def get_text_features(self, ids, mask):
        return self.model.get_text_features(input_ids=ids, attention_mask=mask).pooler_output


@pytest.mark.parametrize(("variant", "batch"), [("pixverve", 4), ("diffusion4k", 1)])
def test_clip_scores_are_the_scripts_by_torchmetrics(drawn, folder, variant, batch, capsys):
    model = Unwrapped(transformers.CLIPModel.from_pretrained(folder).eval())
    load = lambda: (model, transformers.CLIPProcessor.from_pretrained(folder))  # noqa: E731
    rows, scores = read_jsonl(drawn / "captions.jsonl"), []
    for start in range(0, len(rows), batch):
        part = rows[start : start + batch]
        pixels = [torch.tensor(np.array(Image.open(drawn / "images" / row["file_name"]))) for row in part]
        images = torch.stack(pixels).permute(0, 3, 1, 2)
        images = images / 255 * 255 if variant == "pixverve" else images
        texts = [row["short_caption"] for row in part]
        scores.append(float(clip_score(images, texts, model_name_or_path=load)))
    assert clip(drawn, folder, variant) == 0
    summary = read_summary(drawn / "out" / "summary.json")
    assert summary.overall == pytest.approx(np.mean(scores), rel=1e-4)
    assert summary.overall > 1 and summary.overall_ci95[0] < summary.overall < summary.overall_ci95[1]
    assert "longer than 77 tokens: 1 (c6); cut without their end mark" in capsys.readouterr().out
    assert summary.passport["recipe"]["name"] == variant


def test_a_long_caption_keeps_its_end_mark_or_is_read_whole(drawn, folder, tmp_path):
    rows = {}
    for variant, path in (("pixverve", folder), ("clip", folder), ("long-clip", _long(folder, tmp_path))):
        assert clip(drawn, path, variant, out=variant) == 0
        rows[variant] = [row["cosine"] for row in read_jsonl(drawn / variant / "cosines.jsonl")]
    assert rows["pixverve"][:6] == pytest.approx(rows["clip"][:6], abs=1e-3)  # floats and bytes are resized alike
    assert abs(rows["pixverve"][6] - rows["clip"][6]) > 1e-3
    assert rows["long-clip"][:6] == pytest.approx(rows["clip"][:6], abs=1e-5)
    assert abs(rows["long-clip"][6] - rows["clip"][6]) > 1e-3
    notes = read_summary(drawn / "long-clip" / "summary.json").passport["notes"]
    assert notes == []


def _long(folder, tmp_path):
    """The same CLIP with 248 positions, the first 77 the same."""
    short = transformers.CLIPModel.from_pretrained(folder)
    torch.manual_seed(1)
    model = transformers.CLIPModel(config(248))
    state = short.state_dict()
    name = "text_model.embeddings.position_embedding.weight"
    more = model.state_dict()[name].clone()
    more[:MAX_TOKENS] = state[name]
    kept = {key: value for key, value in state.items() if "position_ids" not in key}
    model.load_state_dict(kept | {name: more}, strict=False)
    model.save_pretrained(tmp_path / "long")
    processor().save_pretrained(tmp_path / "long")
    return tmp_path / "long"


def test_scores_are_made_again_and_compared_by_caption(drawn, folder, capsys):
    assert clip(drawn, folder, "clip") == 0
    assert main(["rescore", str(drawn / "out")]) == 0
    made = [(drawn / name / "summary.json").read_bytes() for name in ("out", "out-rescored")]
    assert made[0] == made[1]
    assert main(["compare", *[str(drawn / "out")] * 2]) == 0
    assert "7 captions: B is within noise" in capsys.readouterr().out
    assert clip(drawn, folder, "pixverve") == 2
    assert "holds results of other settings" in capsys.readouterr().err


def test_the_means_of_the_recipes():
    cosines = [0.1, 0.2, 0.3, 0.4, -0.5]
    assert recipe_mean(cosines, VARIANTS["pixverve"]) == pytest.approx(100 * (0.25 + 0) / 2)
    assert recipe_mean(cosines, VARIANTS["diffusion4k"]) == pytest.approx(100 * 1.0 / 5)
    assert recipe_mean(cosines, VARIANTS["fg-clip-2"]) == pytest.approx(100 * 1.0 / 5)
    with pytest.raises(InputError, match="unknown variant 'x'; known: pixverve, diffusion4k, clip, long-clip"):
        find_variant("x")


@pytest.mark.parametrize(
    ("size", "most"), [((128, 128), 128), ((256, 256), 256), ((272, 256), 576), ((448, 448), 784), ((4096, 4096), 1024)]
)
def test_fg_clip_2s_patches_grow_with_the_picture(size, most):
    assert max_num_patches(*size) == most


class FineGrained(torch.nn.Module):
    """What FG-CLIP 2's own code offers: features as tensors, `walk_type` for captions."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.look, self.read = torch.nn.Linear(768, 8), torch.nn.Embedding(100, 8)
        self.device, self.dtype, self.asked = torch.device("cpu"), torch.float32, []

    def get_image_features(self, pixel_values, pixel_attention_mask, spatial_shapes):
        self.asked.append(tuple(pixel_values.shape))
        return (self.look(pixel_values) * pixel_attention_mask[..., None]).mean(1)

    def get_text_features(self, input_ids, attention_mask, walk_type):
        self.asked.append((tuple(input_ids.shape), walk_type))
        return self.read(input_ids).mean(1)


def test_fg_clip_2_is_asked_as_pixverve_asks_it():
    model, words = FineGrained(), tokenizer()
    scorer = FineGrainedScorer(model, transformers.Siglip2ImageProcessor(), words, VARIANTS["fg-clip-2"], "toy")
    images = [Image.new("RGB", (40, 40), "red"), Image.new("RGB", (300, 300), "blue")]
    cosines = scorer(images, ["W1 w2", "w3"])
    assert len(cosines) == 2 and all(-1 <= one <= 1 for one in cosines) and cosines[0] != cosines[1]
    assert model.asked[0][1] == 128 and model.asked[2][1] == 576  # patches, by the picture's size
    assert model.asked[1] == ((1, 196), "long")
    assert scorer(images[:1], ["w1 w2"]) == cosines[:1]  # lower case
    assert scorer.num_tokens("w1 w2") == 4


def test_models_that_cannot_be_had_are_refused(tmp_path):
    with pytest.raises(InputError, match="brings code of its own.*--trust-remote-code"):
        load_scorer(VARIANTS["fg-clip-2"])
    with pytest.raises(FileNotFoundError, match="there is no ./none"):
        load_scorer(VARIANTS["clip"], "./none")
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises((InputError, OSError)):
        load_scorer(VARIANTS["clip"], str(tmp_path))


def test_cmmds_tower_gives_clips_own_embeddings(folder):
    judge = image_tower(str(folder))
    assert judge.side == 32
    pixels = torch.randint(0, 256, (2, 3, 32, 32)).float()
    found = run_extractor(judge, pixels)["features"]
    model = transformers.CLIPModel.from_pretrained(folder).eval()
    options = {"do_resize": False, "do_center_crop": False, "return_tensors": "pt"}
    inputs = transformers.CLIPImageProcessor.from_pretrained(folder)(list(pixels), **options)["pixel_values"]
    with torch.no_grad():
        theirs = model.get_image_features(pixel_values=inputs).pooler_output
    assert torch.allclose(found, theirs, atol=1e-4) and theirs.std() > 0.01


def test_a_killed_run_goes_on(drawn, folder, monkeypatch):
    assert clip(drawn, folder, "clip", "--batch-size", "2", out="whole") == 0
    call, asked = ClipScorer.__call__, []

    def dies(self, images, captions):
        asked.append(len(images))
        if len(asked) == 3:
            raise KeyboardInterrupt
        return call(self, images, captions)

    monkeypatch.setattr(ClipScorer, "__call__", dies)
    assert clip(drawn, folder, "clip", "--batch-size", "2") == 3
    assert clip(drawn, folder, "clip", "--batch-size", "2") == 0
    assert asked == [2, 2, 2, 2, 1]
    for name in ("cosines.jsonl", "summary.json"):
        assert (drawn / "out" / name).read_bytes() == (drawn / "whole" / name).read_bytes()


def own():
    """A loader of a scorer without a model."""
    return lambda images, captions: [0.5] * len(images)


def wrong():
    """A loader of a scorer that gives no cosines."""
    return lambda images, captions: [2.0] * len(images)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda d: shutil.copy(d / "images/c1.png", d / "images/x.png"), "without a caption are 1 (x) of 8 pictures"),
        (lambda d: (d / "images/c1.png").unlink(), "without a picture are 1 (c1) of 7 captions"),
        (lambda d: (d / "captions.jsonl").write_text(json.dumps({"id": "c1", "text": " "}) + "\n"), "no text under"),
        (
            lambda d: (d / "captions.jsonl").write_text('{"id": 1, "short_caption": "b"}\n' * 2),
            "'1' stands twice",
        ),
        (lambda d: (d / "captions.jsonl").write_text(""), "holds no captions"),
        (lambda d: (d / "images/c1.png").write_bytes(b""), "c1.png: it is empty"),
    ],
)
def test_what_does_not_fit_is_named_before_a_model_is_asked(drawn, capsys, spoil, words):
    spoil(drawn)
    assert clip(drawn, "no/model", "clip") == 2
    error = capsys.readouterr().err
    assert words in error and "Traceback" not in error


OWN = "tests.bench.clip.test_clip:own"


def by_own_scorer(drawn, *more, out="out"):
    """Score the drawn pictures with no model; options in `more` take the place of these."""
    where = ["clip", str(drawn / "images"), "--prompts", str(drawn / "captions.jsonl"), "--caption", "short_caption"]
    return main([*where, "--variant", "clip", "--device", "cpu", "--scorer", OWN, "--out", str(drawn / out), *more])


def test_a_scorer_of_ones_own(drawn, capsys):
    assert by_own_scorer(drawn, out="o") == 0
    assert read_summary(drawn / "o" / "summary.json").overall == 50
    assert by_own_scorer(drawn, "--scorer", "tests.bench.clip.test_clip:wrong", out="p") == 2
    assert "must give 4 cosines" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("option", "given", "words"),
    [
        ("--device", "nonsense", "--device 'nonsense' is not on this machine"),
        ("--scorer", "nonsense", "'nonsense' names no function; write package.module:function"),
        ("--out", "{captions}", "captions.jsonl is a file; results need a folder"),
        ("--out", "{captions}/below", "captions.jsonl/below: Not a directory"),
        ("--prompts", "{array}", "array.jsonl, line 1: a JSON object is needed; it is [{"),
    ],
)
def test_a_bad_option_is_told_where_pictures_and_captions_fit(drawn, capsys, option, given, words):
    captions = drawn / "captions.jsonl"
    array = drawn / "array.jsonl"
    array.write_text(json.dumps(read_jsonl(captions)))
    assert by_own_scorer(drawn, option, given.format(captions=captions, array=array)) == 2
    error = capsys.readouterr().err
    assert words in error and "Traceback" not in error and "without a caption" not in error
    assert by_own_scorer(drawn) == 0  # the rest is as it must be


def test_scores_of_ones_own_are_not_replaced(drawn, capsys):
    (drawn / "out").mkdir()
    (drawn / "out" / "summary.json").write_text('"mine"')
    assert by_own_scorer(drawn) == 2
    assert "holds summary.json, but no settings.json that says what they were made of" in capsys.readouterr().err
    assert (drawn / "out" / "summary.json").read_text() == '"mine"'


def test_a_picture_that_stands_there_twice_is_named(drawn, capsys):
    shutil.copy(drawn / "images/c1.png", drawn / "images/c1_0.png")
    assert by_own_scorer(drawn) == 2
    assert "c1.png and c1_0.png are both picture 0 of c1" in capsys.readouterr().err
