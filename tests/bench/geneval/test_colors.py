"""Colours by CLIP: the published crop, many crops at once as one at a time, and no model with the wrong activation."""

import numpy as np
import pytest
import torch
from PIL import Image

from bench.geneval.colors import ColorClassifier, cut_out, load_colors
from bench.geneval.detectors import load_colors as load_named
from bench.geneval.rules import COLORS
from bench.records import Detection

open_clip = pytest.importorskip("open_clip")
published = pytest.importorskip("clip_benchmark.metrics.zeroshot_classification")


@pytest.fixture(scope="module")
def classifier():
    """A tiny CLIP with random weights; text and image towers of open_clip itself."""
    torch.manual_seed(0)
    model = open_clip.CLIP(
        32,
        {"image_size": 32, "layers": 2, "width": 64, "patch_size": 8, "head_width": 16},
        {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2},
        quick_gelu=True,
    ).eval()
    transform = open_clip.image_transform(32, is_train=False)
    return ColorClassifier(model, transform, open_clip.get_tokenizer("ViT-B-16"), "cpu")


def found(label, box, mask=None):
    return Detection(label=label, box=box, score=0.9, mask=mask)


def picture(seed=0, size=(40, 50)):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8))


def test_pixels_outside_the_mask_are_grey_and_the_box_is_cut_out():
    image, mask = picture(), np.zeros((40, 50), bool)
    mask[10:20, 5:15] = True
    cut = np.asarray(cut_out(image, found("cat", (4.0, 9.0, 16.0, 21.0), mask)))
    assert cut.shape == (12, 12, 3)
    assert (cut[0] == 0x99).all() and (cut[:, 0] == 0x99).all()
    assert (cut[1:11, 1:11] == np.asarray(image)[10:20, 5:15]).all()
    whole = np.asarray(cut_out(image, found("cat", (4.4, 9.0, 15.6, 21.0))))
    assert (whole == np.asarray(image)[9:21, 4:16]).all()
    with pytest.raises(ValueError, match="does not fit"):
        cut_out(image, found("cat", (0, 0, 5, 5), mask[:5]))


def test_many_crops_at_once_are_each_as_alone(classifier):
    crops = [
        (picture(seed), found(label, (seed, 2, 20 + seed, 30)))
        for seed, label in enumerate(["cat", "dog", "cat", "hot dog", "dog", "bench", "cat"])
    ]
    together = classifier(crops)
    assert together == [classifier([crop])[0] for crop in crops]
    assert set(together) <= set(COLORS) and len(set(together)) > 1
    assert sorted(classifier.classifiers) == ["bench", "cat", "dog", "hot dog"]


def test_texts_and_verdicts_are_those_of_clip_benchmark(classifier):
    """GenEval's own calls: a classifier a class name, `run_classification` an object."""
    verdicts = set()
    for seed, name in enumerate(["cat", "teddy bear", "cat", "dog", "bench", "hot dog"]):
        templates = [f"a photo of a {{c}} {name}", f"a photo of a {{c}}-colored {name}", "a photo of a {c} object"]
        texts = published.zero_shot_classifier(
            classifier.model, classifier.tokenizer, COLORS, templates, "cpu", amp=False
        )
        torch.testing.assert_close(classifier.classifier(name), texts, atol=1e-6, rtol=1e-5)
        crop = (picture(seed), found(name, (seed, 2, 20 + seed, 30)))
        loader = [(classifier.transform(cut_out(*crop))[None], torch.zeros(1))]
        logits, _ = published.run_classification(classifier.model, texts, loader, "cpu", amp=False)
        assert classifier([crop]) == [COLORS[int(logits[0].argmax())]]
        verdicts |= set(classifier([crop]))
    assert len(verdicts) > 1


def test_the_verdict_is_the_most_similar_text_of_the_crops_own_class(classifier):
    crop = (picture(3), found("teddy bear", (0, 0, 30, 30)))
    with torch.inference_mode():
        image = classifier.model.encode_image(classifier.transform(cut_out(*crop))[None], normalize=True)[0]
        similarity = []
        for color in COLORS:
            texts = [f"a photo of a {color} teddy bear", f"a photo of a {color}-colored teddy bear"]
            texts.append(f"a photo of a {color} object")
            mean = classifier.model.encode_text(classifier.tokenizer(texts), normalize=True).mean(0)
            similarity.append(float(image @ mean / mean.norm()))
    assert classifier([crop]) == [COLORS[int(np.argmax(similarity))]]


def test_a_class_name_is_no_format_string(classifier):
    assert classifier([(picture(), found("{c} {0}", (0, 0, 9, 9)))])[0] in COLORS


def test_a_model_whose_activation_does_not_fit_its_weights_is_refused():
    with pytest.raises(ValueError, match="take ViT-L-14-quickgelu"):
        load_colors("ViT-L-14", "openai")
    with pytest.raises(ValueError, match="take ViT-L-14"):
        load_colors("ViT-L-14-quickgelu", "laion2b_s32b_b82k")
    with pytest.raises(ValueError, match="Unknown CLIP model"):
        load_colors("ViT-nope", "openai")
    with pytest.raises(ValueError, match="neither a file nor a tag .* openai"):
        load_colors("ViT-L-14-quickgelu", "mine.pt")


def test_own_detectors_bring_their_colours():
    assert load_named("", "openai", "package.module:function", "cpu") is None
    assert load_named("none", "openai", "mask2former", "cpu") is None
