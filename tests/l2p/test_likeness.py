"""Near duplicates and known prompts, and what inspect-corpus tells of a corpus with known faults."""

import json

import pytest
from PIL import Image

from l2p.__main__ import main
from l2p.corpus_report import inspect_corpus, read_prompts
from l2p.likeness import KnownPrompts, NearDuplicates, jaccard, shingles

FOX = "A red fox is stepping over a fallen log in a misty pine forest while the snow falls slowly around its paws"


def test_one_changed_word_is_a_near_duplicate_and_another_prompt_is_not():
    seen = NearDuplicates()
    seen.add(FOX)
    assert seen.find(FOX.replace("paws", "feet")) == FOX
    assert seen.find("A red fox is sleeping in an old beech wood") is None


def test_every_pair_that_is_alike_enough_is_found():
    seen, words = NearDuplicates(0.7), FOX.split()
    seen.add(FOX)
    for i in range(len(words)):
        other = " ".join(["bright" if i == j else word for j, word in enumerate(words)])
        assert (seen.find(other) is not None) == (jaccard(shingles(FOX), shingles(other)) >= 0.7), other


def test_a_known_prompt_is_found_inside_a_longer_text_but_not_inside_a_word():
    known = KnownPrompts(["a photo of a cat"])
    assert known.find("This is, at dusk, a photo of a cat; nothing else.") == "a photo of a cat"
    assert known.find("This is a photo of a caterpillar.") is None


def test_chinese_texts_are_compared_by_character():
    seen = NearDuplicates()
    seen.add("一只红色的狐狸站在雪地里看着远方的山")
    assert seen.find("一只红色的狐狸站在雪地里看着远方的树") is not None
    assert seen.find("桌子上有一杯热茶和两本旧书") is None


def corpus(folder):
    (folder / "images").mkdir()
    Image.new("RGB", (8, 6), "red").save(folder / "images/0.png")
    Image.new("RGB", (8, 6), "red").save(folder / "images/1.png")
    Image.new("RGB", (4, 4), "blue").save(folder / "images/2.png")
    (folder / "images/3.png").write_bytes(b"\x89PNG\r\n\x1a\n cut")
    texts = [FOX, FOX.replace("paws", "feet"), "a photo of a cat", "a blue square"]
    rows = [
        {"file_name": f"images/{i}.png", "text": text, "category": f"Nature/{'Animals' if i < 3 else 'Objects'}/x"}
        for i, text in enumerate(texts)
    ]
    (folder / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "known.jsonl").write_text('{"prompt": "a photo of a cat"}\n')
    return folder


def test_a_corpus_with_known_faults_is_told_as_it_is(tmp_path):
    report = inspect_corpus(corpus(tmp_path), [tmp_path / "known.jsonl"])
    assert (report.num_images, report.num_prompts) == (4, 4)
    assert report.sizes == {(6, 8): 2, (4, 4): 1}
    assert [name for name, _ in report.broken] == ["images/3.png"]
    assert report.same_images == [["images/0.png", "images/1.png"]]
    assert [other for _, other in report.near_prompts] == [FOX]
    assert report.categories == {"Nature/Animals": 3, "Nature/Objects": 1}
    assert report.overlaps == {str(tmp_path / "known.jsonl"): [("a photo of a cat", "a photo of a cat")]}


def test_the_command_ends_with_a_finding_for_a_broken_image_and_bad_input_for_no_corpus(tmp_path, capsys):
    assert main(["inspect-corpus", str(corpus(tmp_path)), "--against", str(tmp_path / "known.jsonl")]) == 1
    told = capsys.readouterr().out
    assert "broken images: 1" in told and "Nature/Animals 3 (75.0%)" in told
    assert main(["inspect-corpus", str(tmp_path / "none")]) == 2


def test_known_prompts_in_plain_text_are_lines_whatever_signs_they_hold(tmp_path):
    path = tmp_path / "known.txt"
    path.write_bytes("\ufeffa red star\u2028by night\r\n\r\ntwo \x0c blue\n".encode())
    assert read_prompts(path) == ["a red star\u2028by night", "two \x0c blue"]
    path.write_bytes(b"a red star\n\xff\n")
    with pytest.raises(ValueError, match=r"known.txt, line 2, is not UTF-8"):
        read_prompts(path)
