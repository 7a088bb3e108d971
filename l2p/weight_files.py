"""Weight files: every damage is named when they are read; they are written whole, with the user's usual permissions."""

from __future__ import annotations

import json
import math
import os
import shutil
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from l2p.errors import InputError

# The dtypes of weights, by safetensors' words for them. Numbers of other kinds (int8, float8) mean nothing without the
# scales and rules of the program that wrote them.
FLOATS = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
PICKLES = (".pt", ".pth", ".bin", ".ckpt", ".pkl")
INDEX = ".safetensors.index.json"


@dataclass(frozen=True, kw_only=True)
class Stored:
    """One tensor of a weight file of which only the header was read.

    dtype: safetensors' word for it. part: (i, n) for the i-th of n equal pieces of its rows.
    """

    path: Path
    key: str
    shape: tuple[int, ...]
    dtype: str
    part: tuple[int, int] = (0, 1)

    @property
    def numel(self) -> int:
        """The number of its elements."""
        return math.prod(self.shape)

    def split(self, number: int) -> list[Stored]:
        """Return the equal pieces of its rows."""
        rows, *rest = self.shape
        return [replace(self, shape=(rows // number, *rest), part=(i, number)) for i in range(number)]

    def read(self) -> Tensor:
        """Load the tensor, or its piece."""
        with safe_open(self.path, framework="pt") as file:
            tensor = file.get_tensor(self.key)
        index, number = self.part
        return tensor if number == 1 else tensor.chunk(number)[index]


def list_tensors(path: str | Path) -> dict[str, Stored]:
    """Read the header of a .safetensors file, or the headers of all that an index or a folder holds: tensors by key.

    Raises FileNotFoundError, or ValueError that says what is wrong with which file.
    """
    path = Path(path)
    if path.is_dir():
        path = _only_weights(path)
    if path.name.endswith(INDEX):
        return _list_shards(path)
    with open_weights(path) as file:
        slices = {key: file.get_slice(key) for key in file.keys()}  # noqa: SIM118 (safe_open is no dict)
        return {
            key: Stored(path=path, key=key, shape=tuple(part.get_shape()), dtype=part.get_dtype())
            for key, part in slices.items()
        }


@contextmanager
def open_weights(path: Path) -> Iterator[Any]:
    """Open one .safetensors file for its header and tensors. Raises as list_tensors does."""
    if not path.is_file():  # opening a pipe would wait for ever
        raise FileNotFoundError(f"no weights at {path}; give a .safetensors file")
    problem = _looks_like(path)
    if problem:
        raise InputError(f"{path} {problem}")
    try:
        file = safe_open(path, framework="pt")
    except (SafetensorError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is no whole .safetensors file ({error}); copy or download it again") from error
    with file:
        yield file


def _looks_like(path: Path) -> str:
    """What a file is that is not safetensors, and what to do about it; "" where it may be safetensors."""
    with open(path, "rb") as file:
        start = file.read(40)
    if not start:
        return "is empty; copy or download it again"
    if start.startswith(b"version https://git-lfs"):
        return "is a Git LFS pointer and not the weights; fetch them with `git lfs pull`"
    if path.suffix in PICKLES or start.startswith((b"PK\x03\x04", b"\x80\x02", b"\x80\x04")):
        return "is a pickle, which can run code and is not read; save its tensors as .safetensors first"
    return ""


def _only_weights(folder: Path) -> Path:
    """The one index or the one .safetensors file of a folder; of a pipeline's, that of its transformer."""
    folder = folder / "transformer" if (folder / "transformer").is_dir() else folder
    for candidates in (sorted(folder.glob(f"*{INDEX}")), sorted(folder.glob("*.safetensors"))):
        if len(candidates) == 1:
            return candidates[0]
        if candidates:
            raise InputError(f"{folder} holds {[c.name for c in candidates]}; name one of them")
    found = sorted(path.name for path in folder.iterdir())[:8]
    raise FileNotFoundError(f"the folder {folder} holds no .safetensors file; found {found or 'nothing'}")


def _list_shards(index: Path) -> dict[str, Stored]:
    if not index.is_file():
        raise FileNotFoundError(f"no weights at {index}; give a .safetensors file")
    try:
        shards: dict[str, str] = json.loads(index.read_text("utf-8"))["weight_map"]
        names = sorted(set(shards.values()))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{index} is no index of weights (a JSON object with weight_map): {error}") from error
    missing = [name for name in names if not (index.parent / name).is_file()]
    if missing:
        raise InputError(f"{index} names {len(names)} files, of which {missing} are missing; download them")
    held = {name: list_tensors(index.parent / name) for name in names}
    absent = sorted(key for key, name in shards.items() if key not in held[name])
    if absent:
        raise InputError(f"{index} names {len(absent)} tensors that its files do not hold, first {absent[:3]}")
    return {key: held[name][key] for key, name in shards.items()}


def metadata(path: Path) -> dict[str, str]:
    """Return what a .safetensors file's header says beside its tensors. Raises as list_tensors does."""
    with open_weights(path) as file:
        return file.metadata() or {}


def check_folder(folder: Path, without: Collection[str] = ()) -> None:
    """Raise ValueError that names the first damaged weight file, incomplete index or part without weights in a folder.

    without: names of parts that may lack weights.
    """
    for part in sorted(path.parent for path in folder.glob("*/config.json")):
        if part.name not in without and not any(part.glob("*.safetensors")):
            found = sorted(path.name for path in part.iterdir())
            raise InputError(f"{part} holds no .safetensors file (pickles are not read); found {found[:8]}")
    for path in sorted(folder.rglob("*.safetensors")):
        list_tensors(path)
    for path in sorted(folder.rglob(f"*{INDEX}")):
        list_tensors(path)


def check_floats(tensors: Mapping[str, Stored], path: Path) -> None:
    """Raise ValueError that names tensors of other numbers than floats: int8 and float8 are nothing by themselves."""
    other = {name: tensor.dtype for name, tensor in tensors.items() if tensor.dtype not in FLOATS}
    if other:
        first = ", ".join(f"{name} ({dtype})" for name, dtype in list(other.items())[:3])
        raise InputError(
            f"{path} holds {len(other)} tensors of quantised numbers, first {first}: without their scales they are no "
            f"weights; give a file in float32, float16 or bfloat16"
        )


def not_finite(tensors: Iterable[tuple[str, Tensor]]) -> list[str]:
    """Return the names of float tensors that hold NaN or infinity."""
    return [name for name, tensor in tensors if tensor.is_floating_point() and not tensor.isfinite().all()]


def most_common_dtype(tensors: Mapping[str, Stored]) -> torch.dtype:
    """Return the dtype that most numbers have; float32 where none is a float."""
    counts: Counter[str] = Counter()
    for tensor in tensors.values():
        counts[tensor.dtype] += tensor.numel
    floats = [word for word, _ in counts.most_common() if word in FLOATS]
    return FLOATS[floats[0]] if floats else torch.float32


def save_tensors(tensors: Mapping[str, Tensor], path: Path, header: tuple[str, str] = ("format", "pt")) -> None:
    """Write named tensors to one safetensors file, whole or not at all.

    header: one key and its value; of several, safetensors would write the order by chance, and bytes would differ.
    """
    temporary = Path(path).with_name(Path(path).name + ".tmp")
    contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    try:
        save_file(contiguous, temporary, metadata=dict([header]))
        usual_permissions(temporary)
        temporary.replace(path)
    except SafetensorError as error:  # its words for a full or read-only disk
        raise OSError(f"{path} cannot be written: {error}") from error
    finally:
        temporary.unlink(missing_ok=True)


def usual_permissions(path: str | Path) -> None:
    """Give a file, or all files of a folder, what any new file gets: safetensors makes them their owner's alone."""
    mask = os.umask(0)
    os.umask(mask)
    for file in [Path(path)] if Path(path).is_file() else Path(path).rglob("*.safetensors"):
        file.chmod(0o666 & ~mask)


@contextmanager
def whole(out: Path) -> Iterator[Path]:
    """Yield a path beside `out` to write a file or folder to; it becomes `out` at the end, and goes when that fails.

    Raises ValueError where `out` exists.
    """
    if os.path.lexists(out):
        raise InputError(f"{out} exists; give another --out or remove it")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise InputError(f"{out} cannot be made: {error.filename} is a file, not a folder") from error
    part = out.with_name(f".{out.name}.part")
    _remove(part)  # what a killed command left
    try:
        yield part
        part.replace(out)
    except SafetensorError as error:
        raise OSError(f"{out} cannot be written: {error}") from error
    finally:
        _remove(part)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
