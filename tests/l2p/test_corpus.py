"""Corpora: every layout that users hold, damage found before training, nothing read twice."""

import csv
import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from l2p import corpus as corpus_module
from l2p.corpus import cache_prompts, decode, load_corpus

TEXTS = ["a red star", "two blue", "a circle"]


def picture(i: int, size: int = 16) -> np.ndarray:
    return np.random.default_rng(i).integers(0, 256, (size, size, 3), dtype=np.uint8)


def write_images(folder: Path, size: int = 16) -> list[str]:
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(len(TEXTS)):
        Image.fromarray(picture(i, size)).save(folder / f"{i}.png")
    return [f"{i}.png" for i in range(len(TEXTS))]


def write_jsonl(folder: Path) -> Path:
    names = write_images(folder / "images")
    rows = [{"file_name": f"images/{n}", "text": t, "prompt_id": "x"} for n, t in zip(names, TEXTS, strict=True)]
    (folder / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def write_csv(folder: Path, file_column: str, text_column: str) -> Path:
    names = write_images(folder)
    with open(folder / "captions.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerows([["id", file_column, text_column], *zip("123", names, TEXTS, strict=True)])
    return folder


def write_shards(folder: Path) -> Path:
    write_images(folder / "raw")
    for shard, members in {"a.tar": (0, 1), "b.tar": (2,)}.items():
        with tarfile.open(folder / shard, "w") as archive:
            for i in members:
                archive.add(folder / "raw" / f"{i}.png", f"0000{i}.png")
                text = TEXTS[i].encode() if i else json.dumps({"caption": TEXTS[i]}).encode()
                member = tarfile.TarInfo(f"0000{i}.txt" if i else f"0000{i}.json")
                member.size = len(text)
                archive.addfile(member, io.BytesIO(text))
    return folder


@pytest.mark.parametrize("layout", ["jsonl", "1k csv", "high-resolution csv", "shards"])
def test_every_layout_gives_the_same_images_and_prompts(layout: str, tmp_path: Path) -> None:
    folder = {
        "jsonl": write_jsonl,
        "1k csv": lambda path: write_csv(path, "file_name", "text"),
        "high-resolution csv": lambda path: write_csv(path, "image", "prompt"),
        "shards": write_shards,
    }[layout](tmp_path)
    corpus = load_corpus(folder)
    assert corpus.texts == TEXTS and corpus.rejected == []
    expected = torch.stack([torch.from_numpy(picture(i)).permute(2, 0, 1) for i in (2, 0)]).float() / 127.5 - 1
    torch.testing.assert_close(corpus.images([2, 0]), expected)


def test_no_small_image_is_decoded_twice_and_no_big_one_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded: list[str] = []

    def counted(item: corpus_module.CorpusItem, resolution: int | None) -> torch.Tensor:
        decoded.append(item.name)
        return decode(item, resolution)

    monkeypatch.setattr(corpus_module, "decode", counted)
    folder = write_jsonl(tmp_path)
    corpus = load_corpus(folder)
    for _ in range(3):
        corpus.images([0, 1, 2])
    assert sorted(decoded) == [f"images/{i}.png" for i in range(3)]
    decoded.clear()
    one_image = 3 * 16 * 16
    corpus = load_corpus(folder, cache_bytes=one_image)
    corpus.images([0, 1, 2])
    assert len(decoded) == 5  # all three checked, one kept, two read again


def test_damaged_and_missing_images_are_named_or_left_out_on_demand(tmp_path: Path) -> None:
    folder = write_jsonl(tmp_path)
    whole = (folder / "images/1.png").read_bytes()
    (folder / "images/1.png").write_bytes(whole[: len(whole) // 2])
    (folder / "images/2.png").unlink()
    with pytest.raises(ValueError, match=r"2 of 3 images .*images/1.png \(unreadable.*images/2.png \(missing\)"):
        load_corpus(folder)
    corpus = load_corpus(folder, allow_missing=True)
    assert corpus.texts == TEXTS[:1] and [name for name, _ in corpus.rejected] == ["images/1.png", "images/2.png"]
    (folder / "images/0.png").unlink()
    with pytest.raises(ValueError, match="3 of 3 images"):
        load_corpus(folder, allow_missing=True)


def test_differing_sizes_need_a_resolution(tmp_path: Path) -> None:
    folder = write_jsonl(tmp_path)
    Image.fromarray(picture(1, 24)).resize((24, 20)).save(folder / "images/1.png")
    with pytest.raises(ValueError, match="images/1.png has 20 x 24 pixels, images/0.png 16 x 16; give a resolution"):
        load_corpus(folder)
    assert load_corpus(folder, resolution=8).images([0, 1, 2]).shape == (3, 3, 8, 8)


def test_what_is_no_corpus_is_said(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no corpus at"):
        load_corpus(tmp_path / "absent")
    with pytest.raises(FileNotFoundError, match="neither metadata.jsonl"):
        load_corpus(tmp_path)
    (tmp_path / "metadata.jsonl").write_text('{"file": "a.png"}\n')
    with pytest.raises(ValueError, match="metadata.jsonl:1 needs file_name and text"):
        load_corpus(tmp_path)
    (tmp_path / "metadata.jsonl").write_text('{"file_name": "../../etc/a.png", "text": "a"}\n')
    with pytest.raises(ValueError, match="lies outside the corpus folder"):
        load_corpus(tmp_path)
    (tmp_path / "metadata.jsonl").unlink()
    (tmp_path / "t.csv").write_text("name,caption\n")
    with pytest.raises(ValueError, match="needed are file_name,text or image,prompt"):
        load_corpus(tmp_path)


def test_each_prompt_is_encoded_once_and_comes_back_padded(tmp_path: Path) -> None:
    asked: list[str] = []

    def encode(texts: list[str]) -> list[dict[str, torch.Tensor]]:
        asked.extend(texts)
        return [
            {"prompt_embeds": torch.full((len(t), 2), float(len(t))), "mask": torch.ones(len(t)) > 0} for t in texts
        ]

    texts = [f"{'x' * (i % 5 + 1)}{i}" for i in range(300)] * 2  # more than one shard, all twice
    cache = cache_prompts(encode, texts, tmp_path / "prompts")
    assert len(asked) == 300
    batch = cache(["x0", texts[299], "x0"])
    assert batch["prompt_embeds"].shape == (3, 8, 2) and batch["mask"].sum(1).tolist() == [2, 8, 2]
    assert batch["prompt_embeds"][0, :2].eq(2).all() and batch["prompt_embeds"][0, 2:].eq(0).all()
    cache_prompts(encode, texts, tmp_path / "prompts")
    assert len(asked) == 300
    with pytest.raises(ValueError, match="embeddings of other prompts"):
        cache_prompts(encode, ["another"], tmp_path / "prompts")


def test_captions_and_names_of_every_kind_stay_whole(tmp_path: Path) -> None:
    """Line separators in a caption, quotes, CRLF, a byte order mark, the files of other systems beside the images."""
    captions = ["one\u2028two", 'a "quoted", red\nstar', "three"]
    names = write_images(tmp_path)
    rows = [{"file_name": n, "text": t} for n, t in zip(names, captions, strict=True)]
    lines = "\r\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    (tmp_path / "metadata.jsonl").write_bytes(("\ufeff" + lines).encode())
    for name in (".DS_Store", "._0.png", "._metadata.jsonl", "._captions.csv", "._a.tar"):
        (tmp_path / name).write_bytes(b"\0\5\26\7")
    assert load_corpus(tmp_path).texts == captions
    (tmp_path / "metadata.jsonl").unlink()
    with open(tmp_path / "captions.csv", "w", newline="", encoding="utf-8-sig") as file:
        csv.writer(file).writerows([["file_name", "text"], *zip(names, captions, strict=True)])
    assert load_corpus(tmp_path).texts == captions


def test_the_files_of_other_systems_in_a_shard_are_ignored(tmp_path: Path) -> None:
    write_images(tmp_path / "raw")
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        for name in ("__MACOSX/._00000.png", "._00000.png", "._00000.txt", ".DS_Store"):
            member = tarfile.TarInfo(name)
            member.size = 4
            archive.addfile(member, io.BytesIO(b"\0\5\26\7"))
        archive.add(tmp_path / "raw" / "0.png", "00000.png")
        member = tarfile.TarInfo("00000.txt")
        member.size = 5
        archive.addfile(member, io.BytesIO(b"a cat"))
    corpus = load_corpus(tmp_path / "a.tar")
    assert corpus.texts == ["a cat"] and (corpus.pixels(0).permute(1, 2, 0).numpy() == picture(0)).all()


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ('{"file_name": "0.png", "text": NaN}', "metadata.jsonl, line 2: NaN"),
        ('{"file_name": "0.png", "text": 3}', "metadata.jsonl:2 needs file_name and text, each a string"),
        ('{"file_name": "0.png"', "metadata.jsonl, line 2 is not valid JSON"),
        ("[1]", "metadata.jsonl:2 needs"),
    ],
)
def test_a_row_that_is_no_row_is_named_by_its_line(tmp_path: Path, row: str, told: str) -> None:
    write_images(tmp_path)
    (tmp_path / "metadata.jsonl").write_text('{"file_name": "0.png", "text": "a"}\n' + row + "\n")
    with pytest.raises(ValueError, match=told):
        load_corpus(tmp_path)


def test_deep_turned_and_misnamed_pictures_of_a_corpus(tmp_path: Path) -> None:
    folder = write_jsonl(tmp_path)
    Image.fromarray(np.full((16, 16), 40_000, np.uint16)).save(folder / "images/1.png")
    (folder / "images/2.png").rename(folder / "images/2.jpg")
    told = r"images/1.png \(unreadable: it has more than 8 bits a channel.*images/2.png \(missing, but 2.jpg is there"
    with pytest.raises(ValueError, match=told):
        load_corpus(folder)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(picture(1)).save(folder / "images/1.png", exif=exif)
    (folder / "images/2.jpg").rename(folder / "images/2.png")
    assert (load_corpus(folder).pixels(1).permute(1, 2, 0).numpy() == np.rot90(picture(1), -1)).all()
