"""Training corpora of every layout (`l2p.corpora`) -> batches of images; prompts are encoded once."""

import json
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from PIL import Image, ImageOps
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from l2p.architectures import EncodedPrompt, stack_prompts
from l2p.corpora import CorpusItem, list_corpus
from l2p.corpora.stream import RowStream
from l2p.errors import InputError
from l2p.pictures import MAX_PIXELS, PictureError, named_otherwise, read_picture
from l2p.progress import track

T = TypeVar("T")

SHARD_SIZE = 256  # prompts in one file of cached embeddings
CHUNK = 256  # images that are looked at before the next ones are read


class Corpus:
    """Items with their decoded images; small corpora are decoded once, big ones each time they are asked for.

    items: the usable ones; rejected: (name, reason) of those left out by allow_missing; stream: where the pictures can
    only be read forwards, their reader. Of a stream only images that were kept are remembered, and an image that cannot
    be used or has another size than the first one is a ValueError when it is read.
    """

    def __init__(
        self, items: Sequence[CorpusItem], resolution: int | None, cache_bytes: int, stream: RowStream | None = None
    ) -> None:
        self.items, self.stream = list(items), stream
        self.rejected: list[tuple[str, str]] = []
        self._resolution, self._cache_left = resolution, 0 if stream else cache_bytes
        self._cache: dict[str, Tensor] = {}
        self._first: tuple[str, tuple[int, ...]] | None = None
        self._pool = ThreadPoolExecutor(max_workers=8)  # Pillow decodes outside the interpreter's lock

    def __len__(self) -> int:
        return len(self.items)

    @property
    def texts(self) -> list[str]:
        """The prompts of all items, in order."""
        return [item.text for item in self.items]

    def images(self, indices: Sequence[int]) -> Tensor:
        """Return images by index, [B, 3, H, W] in [-1, 1], float32."""
        self._expect(indices)
        found = list(self._pool.map(self.pixels, indices))
        self._check_streamed(indices, found)
        return torch.stack(found).float() / 127.5 - 1

    def batches(self, indices: Sequence[int], batch_size: int = 32) -> Iterator[Tensor]:
        """Yield images by index in batches, each [b, 3, H, W] in [-1, 1]."""
        for start in range(0, len(indices), batch_size):
            yield self.images(indices[start : start + batch_size])

    def pixels(self, index: int) -> Tensor:
        """Return one image [3, H, W], uint8, from memory where it was kept."""
        item = self.items[index]
        if item.name in self._cache:
            return self._cache[item.name]
        pixels = decode(item, self._resolution) if self.stream is None else self._streamed(item)
        if pixels.nbytes <= self._cache_left:
            self._cache_left -= pixels.nbytes
            self._cache[item.name] = pixels
        return pixels

    def keep(self, indices: Sequence[int]) -> None:
        """Decode images of a stream once and keep them: they will be asked for again and again."""
        for start in range(0, len(indices), CHUNK):
            chunk = indices[start : start + CHUNK]
            self._expect(chunk)
            found = [self.pixels(i) for i in chunk]
            self._check_streamed(chunk, found)
            self._cache |= {self.items[i].name: pixels for i, pixels in zip(chunk, found, strict=True)}

    def check(self, index: int) -> tuple[int, ...] | str:
        """Return an image's shape, or what is wrong with it; a good image stays decoded if there is room."""
        return self.look_at(index, lambda: tuple(self.pixels(index).shape))

    def look_at(self, index: int, look: Callable[[], T]) -> T | str:
        """What a function finds at an image, or, in words, why the image cannot be used."""
        try:
            return look()
        except FileNotFoundError:
            item = self.items[index]
            source = None if item.shard else item.source()
            return "missing" + (named_otherwise(source) if isinstance(source, Path) else "")
        except (PictureError, OSError) as error:
            return f"unreadable: {error}"

    def each(self, look: Callable[[int], T], label: str, progress: bool) -> list[T]:
        """Call a function with every index, several at a time, with a progress bar on demand."""
        starts = range(0, len(self), CHUNK)
        found = (one for start in starts for one in self._chunk(look, range(start, min(start + CHUNK, len(self)))))
        return list(track(found, label, total=len(self), shown=progress))

    def check_all(self, progress: bool) -> list[tuple[int, ...] | str]:
        """Check every image, with a progress bar on demand."""
        return self.each(self.check, "checking corpus", progress)

    def _chunk(self, look: Callable[[int], T], indices: range) -> Iterator[T]:
        self._expect(indices)
        return self._pool.map(look, indices)

    def _expect(self, indices: Sequence[int]) -> None:
        """Have a stream read rows that nobody has announced."""
        if self.stream is not None:
            needed = [i for i in indices if self.items[i].name not in self._cache]
            if not all(self.stream.expects(i) for i in needed):
                self.stream.expect(tuple(needed))

    def _streamed(self, item: CorpusItem) -> Tensor:
        try:
            return decode(item, self._resolution)
        except PictureError as error:
            raise InputError(f"{item.name} is unreadable: {error}; mend it in the dataset") from error

    def _check_streamed(self, indices: Sequence[int], images: Sequence[Tensor]) -> None:
        """Raise ValueError where a stream's image has another size than the first one that was read."""
        if self.stream is not None and images:
            shapes = [(self.items[i].name, tuple(image.shape)) for i, image in zip(indices, images, strict=True)]
            self._first = self._first or shapes[0]
            _check_sizes([self._first, *shapes])


def decode(item: CorpusItem, resolution: int | None = None) -> Tensor:
    """Decode one image to [3, H, W], uint8; with a resolution, scaled and centre-cropped to that square.

    Raises FileNotFoundError, or `l2p.pictures.PictureError` for one that is damaged or no 8-bit RGB.
    """
    rgb = read_picture(item.source(), max(MAX_PIXELS, (resolution or 0) ** 2))
    if resolution is not None and rgb.size != (resolution, resolution):
        rgb = ImageOps.fit(rgb, (resolution, resolution), Image.Resampling.LANCZOS)
    return torch.from_numpy(np.array(rgb)).permute(2, 0, 1).contiguous()


def open_corpus(path: str | Path, *, resolution: int | None = None, cache_bytes: int = 0) -> Corpus:
    """Read what a corpus lists, no picture of it; arguments and errors as of `load_corpus`."""
    listing = list_corpus(path)
    if not listing.items:
        raise InputError(f"the corpus at {path} has no items")
    return Corpus(listing.items, resolution, cache_bytes, listing.stream)


def load_corpus(
    path: str | Path,
    *,
    resolution: int | None = None,
    allow_missing: bool = False,
    cache_bytes: int = 2 << 30,
    progress: bool = False,
) -> Corpus:
    """Read a corpus and check every image of it before anything is trained.

    path: as of `l2p.corpora.list_corpus`. resolution: make every image that square. cache_bytes: decoded images are
    kept up to this size. A streamed corpus is not read beforehand: each image is checked when it is read.
    Raises FileNotFoundError for no corpus, ValueError naming damaged or missing images (unless allow_missing, which a
    stream cannot have) and images of differing sizes.
    """
    corpus = open_corpus(path, resolution=resolution, cache_bytes=cache_bytes)
    items = corpus.items
    if corpus.stream is not None:
        if allow_missing:
            raise InputError(f"{path} is streamed: which images are damaged is not known beforehand; save it to disk")
        return corpus
    findings = list(zip(items, corpus.check_all(progress), strict=True))
    bad = [(item.name, finding) for item, finding in findings if isinstance(finding, str)]
    if bad and (not allow_missing or len(bad) == len(items)):
        named = "; ".join(f"{name} ({reason})" for name, reason in bad[:5])
        raise InputError(f"{len(bad)} of {len(items)} images of {path} cannot be used: {named}; mend or allow missing")
    corpus.items = [item for item, finding in findings if not isinstance(finding, str)]
    corpus.rejected = bad
    _check_sizes([(item.name, finding) for item, finding in findings if not isinstance(finding, str)])
    return corpus


def _check_sizes(shapes: Sequence[tuple[str, tuple[int, ...]]]) -> None:
    first_name, first = shapes[0]
    for name, shape in shapes:
        if shape != first:
            raise InputError(
                f"{name} has {shape[1]} x {shape[2]} pixels, {first_name} {first[1]} x {first[2]}; "
                "give a resolution to scale them to one size"
            )


class PromptCache:
    """Encoded prompts on disk, read by text; the operating system keeps what is used often."""

    def __init__(self, folder: Path) -> None:
        index = json.loads((folder / "index.json").read_text("utf-8"))
        self._positions = {text: i for i, text in enumerate(index["texts"])}
        self._files = [safe_open(shard, framework="pt") for shard in sorted(folder.glob("*.safetensors"))]
        self._names: list[str] = index["names"]

    def __call__(self, texts: Sequence[str]) -> EncodedPrompt:
        """Return the prompts' tensors as one batch, [B, ...] by name. Raises KeyError for a text never encoded."""
        return stack_prompts([self._single(self._positions[text]) for text in texts])

    def _single(self, position: int) -> EncodedPrompt:
        file = self._files[position // SHARD_SIZE]
        return {name: file.get_tensor(f"{position}.{name}") for name in self._names}


def cache_prompts(
    encode: Callable[[list[str]], list[EncodedPrompt]], texts: Sequence[str], folder: Path, *, progress: bool = False
) -> PromptCache:
    """Encode each different text once and keep it under `folder`; finished shards are not encoded again.

    encode: prompts -> one dict of tensors each, as split_prompts gives them. A folder of other texts is refused with
    ValueError.
    """
    unique = sorted(set(texts))
    index_path = folder / "index.json"
    if index_path.is_file():
        if json.loads(index_path.read_text("utf-8"))["texts"] != unique:
            raise InputError(f"{folder} holds the embeddings of other prompts; remove it or use another folder")
        return PromptCache(folder)
    folder.mkdir(parents=True, exist_ok=True)
    names: list[str] = []
    starts = range(0, len(unique), SHARD_SIZE)
    for start in track(starts, "encoding prompts", shown=progress):
        singles = [s for i in range(start, start + SHARD_SIZE, 32) for s in _encode(encode, unique[i : i + 32])]
        names = sorted(singles[0])
        tensors = {f"{start + i}.{name}": single[name].cpu() for i, single in enumerate(singles) for name in names}
        save_file({key: tensor.contiguous().clone() for key, tensor in tensors.items()}, folder / _shard_name(start))
    temporary = index_path.with_suffix(".tmp")
    temporary.write_text(json.dumps({"texts": unique, "names": names}), "utf-8")
    temporary.replace(index_path)
    return PromptCache(folder)


def _encode(encode: Callable[[list[str]], list[EncodedPrompt]], texts: list[str]) -> list[EncodedPrompt]:
    return encode(texts) if texts else []


def _shard_name(start: int) -> str:
    return f"{start // SHARD_SIZE:05d}.safetensors"
