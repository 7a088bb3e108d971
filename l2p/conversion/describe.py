"""What a folder or a weight file holds, told from headers alone."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from l2p.conversion.delta import DELTA_HEADER, FIRST_HEADER, delta_header
from l2p.conversion.release import PREFIXES, RELEASE_HEADER
from l2p.errors import InputError
from l2p.weight_files import INDEX, list_tensors, metadata


def model_config(path: Path) -> dict[str, Any]:
    """Return the configuration of a model's or pipeline's folder, or what a delta or our release says; {} for none.

    Raises ValueError for a config.json that is no JSON object.
    """
    for candidate in (path / "config.json", path / "transformer" / "config.json"):
        if candidate.is_file():
            return _json_object(candidate)
    if not path.is_file() or path.name.endswith(INDEX):
        return {}
    said = metadata(path)
    if DELTA_HEADER in said or FIRST_HEADER in said:
        header = asdict(delta_header(path))
        tensors = header.pop("tensors")
        return {**header.pop("config"), **header, "num_tensors": None if tensors is None else len(tensors)}
    return json.loads(said.get(RELEASE_HEADER, "{}"))


def _json_object(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise InputError(f"{path} is no JSON: {error}") from error
    if not isinstance(value, dict):
        raise InputError(f"{path} is no JSON object")
    return value


def describe(path: Path) -> dict[str, list[tuple[int, str]]]:
    """List the number of elements and the dtype of each tensor, by part of the model.

    path: a .safetensors file, an index, or a folder, of which all files are read. A part is the first words of the
    tensors' names without block numbers; of several files, below their folder's name. Raises FileNotFoundError or
    ValueError for no weights and for damaged ones.
    """
    parts: dict[str, list[tuple[int, str]]] = {}
    files = _weight_files(path)
    for file in files:
        for key, tensor in list_tensors(file).items():
            part = f"{file.parent.name}/{_part(key)}" if len(files) > 1 else _part(key)
            parts.setdefault(part, []).append((tensor.numel, tensor.dtype))
    return parts


def _weight_files(path: Path) -> list[Path]:
    """The file itself; of a folder its indexes, and the files that no index names."""
    if not path.is_dir():
        return [path]
    indexes = sorted(path.rglob(f"*{INDEX}"))
    in_shards = {tensor.path for index in indexes for tensor in list_tensors(index).values()}
    files: list[Path] = [*indexes, *(file for file in sorted(path.rglob("*.safetensors")) if file not in in_shards)]
    if not files:
        raise FileNotFoundError(f"no .safetensors file at {path}")
    return files


def _part(key: str) -> str:
    for prefix in PREFIXES:
        key = key.removeprefix(prefix)
    words = key.split(".")[:-1]
    depth = 2 if words[:1] in (["transformer"], ["detailer"], ["local_decoder"]) else 1
    return ".".join(word for word in words[:depth] if not word.isdigit())
