"""Corpora of the library `datasets`: saved to disk, in parquet files, as an image folder with splits; streamed ones."""

import csv
import io
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from l2p.corpora import list_corpus
from l2p.corpora.stream import RowStream
from l2p.corpus import load_corpus
from l2p.corpus_report import inspect_corpus

datasets = pytest.importorskip("datasets")
TEXTS = [f"image {i}" for i in range(12)]


@pytest.fixture(autouse=True)
def apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is asked of a network, and nothing is cached beside other tests'."""
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def png(i: int, size: int = 8) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (size, size), (i, 2 * i, 255 - i)).save(file, "PNG")
    return file.getvalue()


def table(pictures: list, texts: list, **columns: list):
    types = {"image": datasets.Image(), "text": datasets.Value("string"), "category": datasets.Value("string")}
    rows = {"image": [{"bytes": picture, "path": None} for picture in pictures], "text": texts, **columns}
    return datasets.Dataset.from_dict(rows, features=datasets.Features({name: types[name] for name in rows}))


def parquet(folder: Path, pictures: list | None = None, **columns: list) -> Path:
    """Three files of 5, 5 and 2 rows, as a clone of a hub dataset has them."""
    data = table(pictures or [png(i) for i in range(12)], TEXTS, **columns)
    (folder / "data").mkdir(parents=True)
    for number, rows in enumerate((range(5), range(5, 10), range(10, 12))):
        data.select(rows).to_parquet(folder / "data" / f"train-{number:05d}-of-00003.parquet")
    return folder


def saved(folder: Path) -> Path:
    table([png(i) for i in range(12)], TEXTS).save_to_disk(folder)
    return folder


def saved_splits(folder: Path) -> Path:
    data = table([png(i) for i in range(12)], TEXTS)
    datasets.DatasetDict({"train": data, "test": data.select([0])}).save_to_disk(folder)
    return folder


def image_folder(folder: Path) -> Path:
    (folder / "train").mkdir(parents=True)
    with open(folder / "train/metadata.csv", "w", newline="") as file:
        csv.writer(file).writerows([["file_name", "text"], *((f"{i:02}.png", text) for i, text in enumerate(TEXTS))])
    for i in range(12):
        (folder / f"train/{i:02}.png").write_bytes(png(i))
    return folder


@pytest.mark.parametrize("layout", [parquet, saved, saved_splits, image_folder])
def test_every_layout_gives_the_same_images_and_prompts(layout, tmp_path: Path) -> None:
    corpus = load_corpus(layout(tmp_path / "corpus"))
    assert corpus.texts == TEXTS and (corpus.stream is not None) == (layout in (parquet, image_folder))
    levels = torch.tensor([[i, 2 * i, 255 - i] for i in (11, 3, 4)])
    torch.testing.assert_close(corpus.images([11, 3, 4])[:, :, 0, 0], levels.float() / 127.5 - 1)


def test_inspect_tells_of_a_stream_what_it_tells_of_folders(tmp_path: Path) -> None:
    pictures = [png(i) for i in range(12)]
    pictures[7], pictures[8] = b"no picture", pictures[2]
    path = parquet(tmp_path / "corpus", pictures, category=["Nature/Food/fig"] * 12)
    report = inspect_corpus(path)
    assert (report.num_images, report.num_shards, report.sizes) == (12, 3, {(8, 8): 11})
    assert report.broken == [(f"{path}, shard 1, row 2", report.broken[0][1])] and "no picture" in report.broken[0][1]
    assert report.same_images == [[f"{path}, shard 0, row 2", f"{path}, shard 1, row 3"]]
    assert report.categories == {"Nature/Food": 12}


def test_a_streams_images_are_checked_when_they_are_read(tmp_path: Path) -> None:
    pictures = [png(i) for i in range(12)]
    pictures[6], pictures[11] = b"no picture", png(1, size=10)
    path = parquet(tmp_path / "corpus", pictures)
    corpus = load_corpus(path)
    assert corpus.images([0, 5]).shape == (2, 3, 8, 8)
    with pytest.raises(ValueError, match="shard 1, row 1 is unreadable: it is no picture"):
        corpus.images([5, 6])
    with pytest.raises(
        ValueError, match="shard 2, row 1 has 10 x 10 pixels, .*shard 0, row 0 8 x 8; give a resolution"
    ):
        corpus.images([11])
    assert load_corpus(path, resolution=4).images([0, 11]).shape == (2, 3, 4, 4)
    with pytest.raises(ValueError, match="is streamed: which images are damaged is not known"):
        load_corpus(path, allow_missing=True)


def test_what_is_wrong_with_a_dataset_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = table([png(0)], [None])
    data.save_to_disk(tmp_path / "untold")
    with pytest.raises(ValueError, match="untold: row 0 has no caption; it has None"):
        load_corpus(tmp_path / "untold")
    data.rename_column("text", "words").save_to_disk(tmp_path / "words")
    with pytest.raises(ValueError, match=r"words: it has the columns \['image', 'words'\]; needed are one of images"):
        load_corpus(tmp_path / "words")
    datasets.DatasetDict({"a": data, "b": data}).save_to_disk(tmp_path / "splits")
    with pytest.raises(ValueError, match=r"it has the splits \['a', 'b'\]; needed is train"):
        load_corpus(tmp_path / "splits")
    [arrow] = saved(tmp_path / "cut").glob("*.arrow")
    arrow.write_bytes(arrow.read_bytes()[:200])
    with pytest.raises(ValueError, match="no corpus can be read from .*cut"):
        load_corpus(tmp_path / "cut")
    with pytest.raises(ValueError, match="no corpus can be read from nobody/nothing"):
        load_corpus("nobody/nothing")
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ValueError, match="needs the library: pip install 'datasets>=4'"):
        load_corpus(tmp_path / "words")


def test_a_row_cannot_name_a_file_outside_of_the_dataset(tmp_path: Path) -> None:
    (tmp_path / "secret.png").write_bytes(png(0))
    rows = {"image": [{"bytes": None, "path": str(tmp_path / "secret.png")}], "text": ["a"]}
    features = datasets.Features(
        {
            "image": {"bytes": datasets.Value("binary"), "path": datasets.Value("string")},
            "text": datasets.Value("string"),
        }
    )
    data = datasets.Dataset.from_dict(rows, features=features).cast_column("image", datasets.Image())
    with pytest.MonkeyPatch.context() as patch:  # as one who means it would write it: without the file's bytes
        patch.setattr(datasets.Image, "embed_storage", lambda self, storage, *_, **__: storage)
        (tmp_path / "corpus/data").mkdir(parents=True)
        data.to_parquet(tmp_path / "corpus/data/train.parquet")
    with pytest.raises(ValueError, match="outside of the dataset"):
        load_corpus(tmp_path / "corpus").images([0])


def test_a_stream_is_opened_once_a_shard_and_holds_what_is_expected_alone() -> None:
    opened: list[int] = []
    read: list[str] = []

    def rows(shard: int):
        opened.append(shard)
        for i in range(4):
            read.append(f"{shard}.{i}")
            yield f"{shard}.{i}".encode()

    stream = RowStream(rows, [4, 4, 4])
    stream.expect((9, 11), (1, 2), (4,))
    assert [stream.row(i) for i in (2, 11, 4, 9, 1)] == [b"0.2", b"2.3", b"1.0", b"2.1", b"0.1"]
    assert opened == [2, 0, 1] and read == ["2.0", "2.1", "2.2", "2.3", "0.0", "0.1", "0.2", "1.0"]
    stream.expect((4,), (6, 7))
    assert not stream.expects(9) and stream.row(7) == b"1.3" and opened == [2, 0, 1]  # it went on from its place
    assert stream.row(0) == b"0.0" and opened == [2, 0, 1, 0]  # unannounced: looked for


def test_a_dataset_is_listed_without_any_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from l2p.corpora import hub

    def refuse(*_):
        raise AssertionError("a picture was read")

    monkeypatch.setattr(hub, "_picture_bytes", refuse)
    assert [item.text for item in list_corpus(parquet(tmp_path / "corpus")).items] == TEXTS
