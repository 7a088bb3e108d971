"""Training corpora: folders, CSV tables and WebDataset shards -> batches of images; prompts are encoded once."""

import json
import tarfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from l2p.architectures import EncodedPrompt, stack_prompts
from l2p.pictures import MAX_PIXELS, SUFFIXES, PictureError, is_hidden, named_otherwise, read_picture
from l2p.progress import track
from l2p.tables import csv_columns, csv_rows, jsonl_rows, parse_json

CAPTION_COLUMNS = {"text": "file_name", "prompt": "image"}  # caption column -> file column: the releases' two tables
SHARD_SIZE = 256  # prompts in one file of cached embeddings


@dataclass(frozen=True, kw_only=True)
class CorpusItem:
    """One image and its prompt; `size` bytes at `offset` of a shard, or the whole file when size is None."""

    name: str
    path: Path
    text: str
    offset: int = 0
    size: int | None = None

    def source(self) -> Path | bytes:
        """Return the image's file, or its bytes out of a shard. Raises FileNotFoundError when the shard is gone."""
        if self.size is None:
            return self.path
        with open(self.path, "rb") as file:
            file.seek(self.offset)
            return file.read(self.size)


class Corpus:
    """Checked items with their decoded images; small corpora are decoded once, big ones each time they are asked for.

    items: the usable ones; rejected: (name, reason) of those left out by allow_missing.
    """

    def __init__(self, items: Sequence[CorpusItem], resolution: int | None, cache_bytes: int) -> None:
        self.items = list(items)
        self.rejected: list[tuple[str, str]] = []
        self._resolution, self._cache_left = resolution, cache_bytes
        self._cache: dict[str, Tensor] = {}
        self._pool = ThreadPoolExecutor(max_workers=8)  # Pillow decodes outside the interpreter's lock

    def __len__(self) -> int:
        return len(self.items)

    @property
    def texts(self) -> list[str]:
        """The prompts of all items, in order."""
        return [item.text for item in self.items]

    def images(self, indices: Sequence[int]) -> Tensor:
        """Return images by index, [B, 3, H, W] in [-1, 1], float32."""
        return torch.stack(list(self._pool.map(self.pixels, indices))).float() / 127.5 - 1

    def batches(self, indices: Sequence[int], batch_size: int = 32) -> Iterator[Tensor]:
        """Yield images by index in batches, each [b, 3, H, W] in [-1, 1]."""
        for start in range(0, len(indices), batch_size):
            yield self.images(indices[start : start + batch_size])

    def pixels(self, index: int) -> Tensor:
        """Return one image [3, H, W], uint8, from memory where it was kept."""
        item = self.items[index]
        if item.name in self._cache:
            return self._cache[item.name]
        pixels = decode(item, self._resolution)
        if pixels.nbytes <= self._cache_left:
            self._cache_left -= pixels.nbytes
            self._cache[item.name] = pixels
        return pixels

    def check(self, index: int) -> tuple[int, ...] | str:
        """Return an image's shape, or what is wrong with it; a good image stays decoded if there is room."""
        try:
            return tuple(self.pixels(index).shape)
        except FileNotFoundError:
            return f"missing{named_otherwise(self.items[index].path)}"
        except (PictureError, OSError) as error:
            return f"unreadable: {error}"

    def check_all(self, progress: bool) -> list[tuple[int, ...] | str]:
        """Check every image, with a progress bar on demand."""
        checks = self._pool.map(self.check, range(len(self)))
        return list(track(checks, "checking corpus", total=len(self), shown=progress))


def decode(item: CorpusItem, resolution: int | None = None) -> Tensor:
    """Decode one image to [3, H, W], uint8; with a resolution, scaled and centre-cropped to that square.

    Raises FileNotFoundError, or `l2p.pictures.PictureError` for one that is damaged or no 8-bit RGB.
    """
    rgb = read_picture(item.source(), max(MAX_PIXELS, (resolution or 0) ** 2))
    if resolution is not None and rgb.size != (resolution, resolution):
        rgb = ImageOps.fit(rgb, (resolution, resolution), Image.Resampling.LANCZOS)
    return torch.from_numpy(np.array(rgb)).permute(2, 0, 1).contiguous()


def load_corpus(
    path: str | Path,
    *,
    resolution: int | None = None,
    allow_missing: bool = False,
    cache_bytes: int = 2 << 30,
    progress: bool = False,
) -> Corpus:
    """Read a corpus and check every image of it before anything is trained.

    path: a folder with metadata.jsonl, with a CSV (file_name,text or image,prompt), or with WebDataset .tar shards (or
    one such file). resolution: make every image that square. cache_bytes: decoded images are kept up to this size.
    Raises FileNotFoundError for no corpus, ValueError naming damaged or missing images (unless allow_missing) and
    images of differing sizes.
    """
    items = list(corpus_items(Path(path)))
    if not items:
        raise ValueError(f"the corpus at {path} has no items")
    corpus = Corpus(items, resolution, cache_bytes)
    findings = list(zip(items, corpus.check_all(progress), strict=True))
    bad = [(item.name, finding) for item, finding in findings if isinstance(finding, str)]
    if bad and (not allow_missing or len(bad) == len(items)):
        named = "; ".join(f"{name} ({reason})" for name, reason in bad[:5])
        raise ValueError(f"{len(bad)} of {len(items)} images of {path} cannot be used: {named}; mend or allow missing")
    corpus.items = [item for item, finding in findings if not isinstance(finding, str)]
    corpus.rejected = bad
    _check_sizes([(item.name, finding) for item, finding in findings if not isinstance(finding, str)])
    return corpus


def _check_sizes(shapes: Sequence[tuple[str, tuple[int, ...]]]) -> None:
    first_name, first = shapes[0]
    for name, shape in shapes:
        if shape != first:
            raise ValueError(
                f"{name} has {shape[1]} x {shape[2]} pixels, {first_name} {first[1]} x {first[2]}; "
                "give a resolution to scale them to one size"
            )


def corpus_items(path: Path) -> Iterator[CorpusItem]:
    """The items of a corpus as its table or shards name them, none of them opened; errors as of `load_corpus`."""
    if path.suffix == ".tar":
        return _from_shards([path])
    if not path.is_dir():
        raise FileNotFoundError(f"no corpus at {path}; give a folder or a .tar shard")
    if (path / "metadata.jsonl").is_file():
        return _from_jsonl(path / "metadata.jsonl")
    if shards := _files(path, "*.tar"):
        return _from_shards(shards)
    tables = _files(path, "*.csv")
    if len(tables) == 1:
        return _from_csv(tables[0])
    raise FileNotFoundError(
        f"{path} holds neither metadata.jsonl, nor one CSV table, nor .tar shards; found {len(tables)} tables"
    )


def _files(folder: Path, pattern: str) -> list[Path]:
    return sorted(path for path in folder.glob(pattern) if not is_hidden(path.name))


def _from_jsonl(path: Path) -> Iterator[CorpusItem]:
    for number, row in jsonl_rows(path):
        if not isinstance(row, dict) or not all(isinstance(row.get(name), str) for name in ("file_name", "text")):
            has = sorted(row) if isinstance(row, dict) else row
            raise ValueError(f"{path}:{number} needs file_name and text, each a string; it has {has}")
        yield _in_folder(path.parent, row["file_name"], row["text"])


def _from_csv(path: Path) -> Iterator[CorpusItem]:
    columns = csv_columns(path)
    caption = next((c for c, name in CAPTION_COLUMNS.items() if c in columns and name in columns), None)
    if caption is None:
        raise ValueError(f"{path} has the columns {columns}; needed are file_name,text or image,prompt")
    for number, row in csv_rows(path, columns):
        if not row[CAPTION_COLUMNS[caption]]:
            raise ValueError(f"{path}:{number} names no image")
        yield _in_folder(path.parent, row[CAPTION_COLUMNS[caption]], row[caption])


def _in_folder(folder: Path, name: str, text: str) -> CorpusItem:
    if Path(name).is_absolute() or ".." in Path(name).parts:
        raise ValueError(f"the image {name!r} lies outside the corpus folder {folder}")
    candidates = (folder / name, folder / "images" / name)
    path = next((c for c in candidates if c.is_file()), candidates[0])
    return CorpusItem(name=name, path=path, text=text)


def _from_shards(shards: Sequence[Path]) -> Iterator[CorpusItem]:
    for shard in shards:
        with tarfile.open(shard) as archive:  # listed only, never unpacked
            members = [m for m in archive.getmembers() if m.isfile() and not is_hidden(m.name)]
            captions = {_stem(m.name): _caption(archive, m) for m in members if m.name.endswith((".txt", ".json"))}
        for member in members:
            if not member.name.lower().endswith(SUFFIXES):
                continue
            text = captions.get(_stem(member.name))
            if text is None:
                raise ValueError(f"{shard}: {member.name} has neither a .txt nor a .json caption beside it")
            name = f"{shard.name}/{member.name}"
            yield CorpusItem(name=name, path=shard, text=text, offset=member.offset_data, size=member.size)


def _stem(name: str) -> str:
    folder, _, base = name.rpartition("/")
    return f"{folder}/{base.split('.')[0]}"  # WebDataset: the key ends at the base name's first dot


def _caption(archive: tarfile.TarFile, member: tarfile.TarInfo) -> str | None:
    file = archive.extractfile(member)
    assert file is not None
    where = f"{archive.name!s}: {member.name}"
    content = file.read()
    if member.name.endswith(".txt"):
        try:
            return content.decode("utf-8-sig").strip()
        except UnicodeDecodeError as error:
            raise ValueError(f"{where} is not UTF-8 (byte {error.start})") from error
    row = parse_json(content, where)
    captions = [row[key] for key in ("text", "caption", "prompt") if key in row] if isinstance(row, dict) else []
    if captions and not isinstance(captions[0], str):
        raise ValueError(f"{where}: the caption must be text; it is {captions[0]!r}")
    return captions[0] if captions else None


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
            raise ValueError(f"{folder} holds the embeddings of other prompts; remove it or use another folder")
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
