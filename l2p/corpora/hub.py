"""Datasets of the library `datasets`: saved to disk, in parquet files, as image folders with splits, or on the hub.

The library is optional and imported here alone. What it saved to disk is read by row; all else is streamed.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from l2p.corpora.items import CAPTIONS, CorpusItem, Listing
from l2p.corpora.stream import RowStream
from l2p.errors import InputError

CAPTION_COLUMNS = (*CAPTIONS, "txt")  # as the library calls a WebDataset's


def saved_dataset(folder: Path) -> Listing:
    """The items of a dataset saved by `save_to_disk`, mapped into memory and read by row.

    Raises ValueError for a missing library, a damaged folder, several splits without train, and other columns.
    """
    datasets = _library(folder)
    with _reading(folder):
        data: Any = _split(datasets.load_from_disk(str(folder)), folder)
        image, caption = _columns(datasets, data.features, folder)
        data = data.cast_column(image, datasets.Image(decode=False))
        texts = list(data[caption])
        categories = list(data["category"]) if "category" in data.column_names else [None] * len(texts)
    _check_texts(texts, folder)
    names = [f"{folder.name}, row {i}" for i in range(len(texts))]
    return Listing(
        items=[
            CorpusItem(name=name, text=text, source=partial(_saved_bytes, data, image, i, name), category=category)
            for i, (name, text, category) in enumerate(zip(names, texts, categories, strict=True))
        ]
    )


def stream_dataset(name: str) -> Listing:
    """The items of a hub id, or of a local folder that `datasets` can load: captions are read now, pictures streamed.

    Of parquet files the captions' column alone is fetched; all else is read once from end to end. Raises ValueError as
    `saved_dataset` does.
    """
    datasets = _library(name)
    with _reading(name):
        data: Any = _split(datasets.load_dataset(name, streaming=True), name)
        image, caption = _columns(datasets, data.features, name)
        wanted = [column for column in (caption, "category") if column in data.features]
        listed = data.select_columns(wanted)
        if hasattr(datasets.load_dataset_builder(name).config, "columns"):
            listed = datasets.load_dataset(name, split=str(data.split), streaming=True, columns=wanted)
        pictures = data.select_columns([image]).cast_column(image, datasets.Image(decode=False))
        rows = [list(_shard(listed, number)) for number in range(data.num_shards)]
    _check_texts([row[caption] for shard in rows for row in shard], name)
    stream = RowStream(partial(_shard_bytes, pictures, image, name), [len(shard) for shard in rows])
    numbered = [(number, place, row) for number, shard in enumerate(rows) for place, row in enumerate(shard)]
    return Listing(
        items=[
            CorpusItem(
                name=f"{name}, shard {number}, row {place}",
                text=row[caption],
                source=partial(stream.row, index),
                shard=str(number),
                category=row.get("category"),
            )
            for index, (number, place, row) in enumerate(numbered)
        ],
        stream=stream,
    )


def _library(place: str | Path) -> Any:
    try:
        import datasets
    except ImportError as error:
        raise InputError(
            f"{place} is no folder of images or .tar shards; as a Hugging Face dataset it needs the library: "
            "pip install 'datasets>=4'"
        ) from error
    return datasets


@contextmanager
def _reading(place: str | Path) -> Iterator[None]:
    """Turn what the library raises, of a dozen kinds, into ValueError that names the dataset."""
    try:
        yield
    except Exception as error:
        reason = " ".join(str(error).split())[:400] or type(error).__name__
        raise InputError(f"no corpus can be read from {place}: {reason}") from error


def _split(data: Any, place: str | Path) -> Any:
    if not isinstance(data, dict):
        return data
    if "train" not in data and len(data) != 1:
        raise InputError(f"it has the splits {sorted(data)}; needed is train, or a single one")
    return data["train"] if "train" in data else next(iter(data.values()))


def _columns(datasets: Any, features: Any, place: str | Path) -> tuple[str, str]:
    images = [name for name, feature in features.items() if isinstance(feature, datasets.Image)]
    caption = next((name for name in CAPTION_COLUMNS if name in features), None)
    if len(images) != 1 or caption is None:
        raise InputError(f"it has the columns {sorted(features)}; needed are one of images and text, prompt or caption")
    return images[0], caption


def _check_texts(texts: list[Any], place: str | Path) -> None:
    for number, text in enumerate(texts):
        if not isinstance(text, str):
            raise InputError(f"{place}: row {number} has no caption; it has {text!r}")


def _shard(data: Any, number: int) -> Any:
    return data.shard(num_shards=data.num_shards, index=number)


def _shard_bytes(data: Any, image: str, name: str, number: int) -> Iterator[bytes]:
    with _reading(f"{name}, shard {number}"):
        for row in _shard(data, number):
            yield _picture_bytes(row[image], name)


def _saved_bytes(data: Any, image: str, index: int, name: str) -> bytes:
    with _reading(name):
        return _picture_bytes(data[index][image], None)


def _picture_bytes(picture: Any, place: str | None) -> bytes:
    """A picture as the library has it undecoded: its bytes, or the path that they lie at, in the dataset itself."""
    if picture is None:
        return b""  # which the reader of pictures refuses
    if picture["bytes"] is not None:
        return picture["bytes"]
    path = str(picture["path"])
    if place is None or not _is_inside(path, place):
        raise InputError(f"a row names the file {path!r} outside of the dataset, which is not read")
    import fsspec  # comes with `datasets`

    with fsspec.open(path, "rb") as file:
        return file.read()


def _is_inside(path: str, place: str) -> bool:
    if Path(place).is_dir():
        return Path(path).resolve().is_relative_to(Path(place).resolve())
    return path.rpartition("::")[2].startswith(f"hf://datasets/{place}")
