"""Mask2Former through transformers: mmdet's recorded outputs, strict loading, mmdet's steps around the network."""

import gzip
import json
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from bench.geneval.convert import TO_MMDET_3, checkpoint_format, from_mmdet, read_checkpoint
from bench.geneval.detectors import load_detector
from bench.geneval.mask2former import (
    Mask2Former,
    build_model,
    geneval_labels,
    load_mask2former,
    mask2former_config,
    mask_boxes,
    postprocess,
    preprocess_mmdet_2,
    preprocess_mmdet_3,
    scaled_size,
)
from bench.geneval.prompts import OBJECT_NAMES
from bench.geneval.resize import resize_uint8

SMALL = {"width": 24, "depths": (2, 2, 2, 2), "num_queries": 10}


@pytest.fixture(scope="module")
def recorded():
    """Names and shapes of mmdet 3.5's own reduced model, and its outputs for the weights of `weights`."""
    with gzip.open(Path(__file__).parent / "mmdet_recorded.json.gz") as file:
        return json.load(file)


def weights(name, shape):
    """The weights that the recording used: drawn from the tensor's name."""
    drawn = np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape)
    if "bias_table" in name:
        return drawn * 0.5
    if "sampling_offsets.weight" in name:
        return drawn * 0.02
    if len(shape) == 1:
        return drawn * 0.1 + (1.0 if name.endswith(".weight") else 0.0)
    return drawn / np.sqrt(np.prod(shape[1:]))


@pytest.fixture(scope="module")
def mmdet_3(recorded):
    return {name: torch.from_numpy(weights(name, shape)).float() for name, shape in recorded["shapes"].items()}


@pytest.fixture(scope="module")
def network(mmdet_3):
    return build_model(mask2former_config(**SMALL), from_mmdet(mmdet_3))


def as_mmdet_2(state_dict):
    """2.x names: written out here by hand, against the rules under test."""
    renamed = {}
    for name, tensor in state_dict.items():
        if ".pixel_decoder.encoder.layers." in name:
            name = name.replace(".self_attn.", ".attentions.0.").replace(".ffn.", ".ffns.0.")
        if ".transformer_decoder.layers." in name:
            name = name.replace(".cross_attn.", ".attentions.0.").replace(".self_attn.", ".attentions.1.")
            name = name.replace(".ffn.", ".ffns.0.")
        renamed[name] = tensor
    return renamed


def test_the_converted_network_gives_mmdets_own_outputs(network, recorded):
    x = torch.from_numpy(np.random.default_rng(0).standard_normal((1, 3, 96, 160))).float()
    with torch.inference_mode():
        output = network(pixel_values=x)
    classes, masks = output.class_queries_logits[0], output.masks_queries_logits[0]
    torch.testing.assert_close(classes, torch.tensor(recorded["classes"]), atol=2e-4, rtol=0)
    torch.testing.assert_close(masks[:, ::6, ::8].flatten(1), torch.tensor(recorded["masks"]), atol=2e-3, rtol=0)


def test_mmdet_2_names_lead_to_the_same_tensors(mmdet_3):
    older = as_mmdet_2(mmdet_3)
    assert len(TO_MMDET_3) == 5
    assert (checkpoint_format(older), checkpoint_format(mmdet_3)) == ("mmdet-2", "mmdet-3")
    ours, theirs = from_mmdet(older), from_mmdet(mmdet_3)
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_every_tensor_is_accounted_for(mmdet_3):
    config = mask2former_config(**SMALL)
    name = "panoptic_head.cls_embed.weight"
    with pytest.raises(ValueError, match="1 missing .class_predictor.weight"):
        build_model(config, from_mmdet({n: t for n, t in mmdet_3.items() if n != name}))
    with pytest.raises(ValueError, match="1 tensors are unknown, such as backbone.extra"):
        from_mmdet(mmdet_3 | {"backbone.extra": torch.zeros(1)})
    with pytest.raises(ValueError, match="1 of another shape .class_predictor.weight"):
        build_model(config, from_mmdet(mmdet_3 | {name: torch.zeros(3, 256)}))
    with pytest.raises(ValueError, match="1 surplus"):
        build_model(config, from_mmdet(mmdet_3) | {"more": torch.zeros(1)})
    with pytest.raises(ValueError, match="no mmdet Mask2Former checkpoint"):
        from_mmdet({"conv.weight": torch.zeros(1)})
    index = "backbone.stages.0.blocks.0.attn.w_msa.relative_position_index"
    with pytest.raises(ValueError, match="is not the index of a 7 x 7 window"):
        from_mmdet(mmdet_3 | {index: torch.zeros(49, 49)})


@pytest.mark.parametrize("version", ["mmdet-2", "mmdet-3"])
def test_a_checkpoint_file_is_told_by_its_names(tmp_path, mmdet_3, version):
    path = tmp_path / "checkpoint.pth"
    torch.save({"meta": {"epoch": 50}, "state_dict": as_mmdet_2(mmdet_3) if version == "mmdet-2" else mmdet_3}, path)
    detector = load_detector("mask2former", str(path))
    assert detector.passport["format"] == detector.passport["preprocessing"] == version
    assert detector.passport["checkpoint"] == "unknown" and len(detector.passport["sha256"]) == 64
    assert detector.labels == OBJECT_NAMES
    named = load_mask2former(str(path), "mmdet-3").passport["preprocessing"]
    assert named == "mmdet-3"
    with pytest.raises(ValueError, match="known are mmdet-2, mmdet-3"):
        load_mask2former(str(path), "coco")


def test_a_checkpoint_file_that_lacks_a_tensor_or_has_one_more_is_refused(tmp_path, mmdet_3):
    def saved(state_dict):
        torch.save({"state_dict": state_dict}, tmp_path / "checkpoint.pth")
        return str(tmp_path / "checkpoint.pth")

    for name, told in (
        ("panoptic_head.query_feat.weight", "lacks the tensor 'panoptic_head.query_feat.weight'"),
        ("backbone.patch_embed.norm.weight", "lacks the tensor 'backbone.patch_embed.norm.weight'"),
        ("panoptic_head.mask_embed.0.bias", "tensors 1 missing"),
    ):
        with pytest.raises(ValueError, match=told):
            load_mask2former(saved({n: t for n, t in mmdet_3.items() if n != name}))
    with pytest.raises(ValueError, match="1 tensors are unknown, such as ema_backbone"):
        load_mask2former(saved(mmdet_3 | {"ema_backbone": torch.zeros(1)}))


def test_a_transformers_folder_is_loaded_whole_or_not_at_all(tmp_path, network):
    network.save_pretrained(tmp_path / "m")
    detector = load_mask2former(str(tmp_path / "m"))
    assert detector.passport["format"] == "transformers" and detector.labels == OBJECT_NAMES
    same = zip(detector.network.parameters(), network.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in same)
    from safetensors.torch import load_file, save_file

    tensors = load_file(tmp_path / "m/model.safetensors")
    save_file({n: t for n, t in tensors.items() if n != "class_predictor.bias"}, tmp_path / "m/model.safetensors")
    with pytest.raises(ValueError, match="missing_keys: class_predictor.bias"):
        load_mask2former(str(tmp_path / "m"))
    with pytest.raises(FileNotFoundError, match="no config.json"):
        load_mask2former(str(tmp_path))
    with pytest.raises(ValueError, match="needs --weights"):
        load_mask2former("")


def test_a_pickle_is_never_executed(tmp_path):
    class Evil:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "pwned",))

    torch.save({"state_dict": Evil()}, tmp_path / "evil.pth")
    with pytest.raises(ValueError, match="cannot be read as plain weights"):
        read_checkpoint(tmp_path / "evil.pth")
    assert not (tmp_path / "pwned").exists()
    (tmp_path / "short.pth").write_bytes(b"PK\x03\x04 not a zip")
    with pytest.raises(ValueError, match="cannot be read"):
        read_checkpoint(tmp_path / "short.pth")
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(ValueError, match="no `state_dict`"):
        read_checkpoint(tmp_path / "list.pth")
    with pytest.raises(FileNotFoundError):
        read_checkpoint(tmp_path / "none.pth")


def test_sizes_follow_mmdets_resize():
    assert scaled_size(512, 512) == (800, 800)
    assert scaled_size(480, 640) == (800, 1067)
    assert scaled_size(200, 1000) == (267, 1333)
    assert scaled_size(1024, 1024, (480, 320)) == (320, 320)


def test_the_two_preprocessings_differ_where_mmdets_versions_do():
    pixels = np.random.default_rng(0).integers(0, 256, (30, 47, 3), dtype=np.uint8)
    (older, size), (newer, same) = (
        f(Image.fromarray(pixels), (66, 40)) for f in (preprocess_mmdet_2, preprocess_mmdet_3)
    )
    assert size == same == (40, 63) and older.shape == newer.shape == (3, 64, 64)
    grey = (128 - torch.tensor([123.675, 116.28, 103.53])) / torch.tensor([58.395, 57.12, 57.375])
    assert torch.allclose(older[:, 50, 10], grey) and torch.equal(newer[:, 50, 10], torch.zeros(3))
    inside = (older - newer)[:, :40, :63].abs()
    assert 0 < inside.max() < 0.02  # half a step of 255, over a deviation of 57
    eight_bit = older[:, :40, :63] * torch.tensor([58.395, 57.12, 57.375])[:, None, None]
    eight_bit += torch.tensor([123.675, 116.28, 103.53])[:, None, None]
    assert torch.allclose(eight_bit, eight_bit.round(), atol=1e-3)


def test_8_bit_resizing_is_opencvs_bit_for_bit():
    """Hashes of what cv2.resize 4.12 (INTER_LINEAR) made of the same pixels."""
    import hashlib

    for (height, width), size, recorded in (
        ((37, 53), (64, 91), "49f6be0e9016c4cf"),
        ((64, 64), (40, 40), "833c4dd285a9c27b"),
        ((21, 90), (60, 33), "9003fc6c2e1a5674"),
    ):
        pixels = np.random.default_rng(height).integers(0, 256, (height, width, 3), dtype=np.uint8)
        resized = resize_uint8(torch.from_numpy(pixels).permute(2, 0, 1), size).permute(1, 2, 0).contiguous()
        assert hashlib.sha256(resized.numpy().tobytes()).hexdigest()[:16] == recorded


def test_8_bit_resizing_is_bilinear_without_antialiasing():
    pixels = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (3, 9, 14), dtype=np.uint8))
    for size in ((20, 31), (4, 5), (9, 14)):
        exact = torch.nn.functional.interpolate(pixels[None].double(), size=size, mode="bilinear")[0]
        error = (resize_uint8(pixels, size).double() - exact).abs()
        assert error.max() < 1 and error.mean() < 0.3  # OpenCV's fixed point cuts off twice


def test_postprocessing_by_hand():
    # two queries, two classes; the first sees the left half, the second one a single column
    classes = torch.tensor([[2.0, 0.0, 0.0], [0.0, 3.0, 0.0]])
    masks = torch.full((2, 4, 4), -4.0)
    masks[0, :, :2], masks[1, :, 3] = 4.0, 1.0
    labels, scores, boxes, binary = postprocess(classes, masks, (4, 4), (4, 4), (4, 4))
    likely = classes.softmax(-1)[:, :2]
    expected = likely * torch.tensor([4.0, 1.0]).sigmoid()[:, None]
    assert {(int(k), round(float(s), 5)) for k, s in zip(labels, scores, strict=True)} == {
        (k, round(float(expected[q, k]), 5)) for q in (0, 1) for k in (0, 1) if expected[q, k] > 0.05
    }
    best = scores.argmax()
    assert int(labels[best]) == 0 and boxes[best].tolist() == [0, 0, 2, 4] and binary[best].sum() == 8


def test_what_is_left_out_could_not_have_mattered(network):
    random = torch.Generator().manual_seed(0)
    classes, masks = torch.randn(10, 81, generator=random) * 2, torch.randn(10, 12, 12, generator=random) * 3
    every = postprocess(classes, masks, (48, 48), (40, 48), (30, 36), min_score=0.0)
    some = postprocess(classes, masks, (48, 48), (40, 48), (30, 36), min_score=0.05)
    assert len(every[0]) == 100 > len(some[0]) > 3
    kept = every[1] > 0.05
    for all_of, part in zip(every, some, strict=True):
        assert torch.equal(all_of[kept], part)


def test_masks_and_boxes_of_nothing():
    masks = torch.zeros(2, 5, 6, dtype=torch.bool)
    masks[1, 2, 3] = True
    assert mask_boxes(masks).tolist() == [[0, 0, 0, 0], [3, 2, 4, 3]]


def test_an_images_detections_do_not_depend_on_its_batch(network):
    with torch.no_grad():
        network.class_predictor.weight.mul_(4)
    detector = Mask2Former(network, "mmdet-3", scale=(96, 64))
    random = np.random.default_rng(0)
    sizes = [(40, 40), (30, 50), (40, 40), (64, 20)]
    images = [Image.fromarray(random.integers(0, 256, (*size, 3), dtype=np.uint8)) for size in sizes]
    together, alone = detector(images), [detector([image])[0] for image in images]
    assert sum(len(found) for found in alone) > 10
    for found, own, image in zip(together, alone, images, strict=True):
        assert [d.label for d in found] == [d.label for d in own]
        for a, b in zip(found, own, strict=True):
            assert a.score == pytest.approx(b.score, abs=1e-4) and a.mask.shape == (image.height, image.width)
            assert (a.mask != b.mask).mean() < 0.01


def test_labels_are_genevals():
    coco = {
        number: {"computer mouse": "mouse", "tv remote": "remote"}.get(n, n) for number, n in enumerate(OBJECT_NAMES)
    }
    assert geneval_labels(coco) == OBJECT_NAMES
    assert geneval_labels({number: f"LABEL_{number}" for number in range(80)}) == OBJECT_NAMES
    assert geneval_labels({0: "circle"}) == ("circle",)
