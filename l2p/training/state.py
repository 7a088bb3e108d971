"""A running training on disk: a state that is whole or absent, a log, and fingerprints of frozen weights."""

import hashlib
import json
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from l2p.training.shard import whole


def save_state(
    folder: Path, step: int, weights: Mapping[str, Tensor], states: Mapping[str, Any], facts: Mapping[str, Any]
) -> None:
    """Write the state of one step, then point `latest.json` at it; a reader never sees half of one.

    weights: tensors by name; states: state_dicts by name (optimizer, averaged weights); facts: JSON-able.
    """
    name = f"step-{step:08d}"
    target, temporary = folder / name, folder / f"{name}.tmp"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    save_file({k: t.detach().cpu().contiguous() for k, t in weights.items()}, temporary / "weights.safetensors")
    for key, state in states.items():
        torch.save(state, temporary / f"{key}.pt")
    write_json(temporary / "facts.json", dict(facts))
    shutil.rmtree(target, ignore_errors=True)
    temporary.rename(target)
    write_json(folder / "latest.json", {"state": name})
    for old in folder.glob("step-*"):
        if old.name != name:
            shutil.rmtree(old)


def load_facts(folder: Path) -> dict[str, Any] | None:
    """Return the facts of the latest state, or None where there is no state."""
    latest = _latest(folder)
    return None if latest is None else json.loads((latest / "facts.json").read_text("utf-8"))


def load_weights(folder: Path) -> dict[str, Tensor]:
    """Return the weights of the latest state by name. Raises FileNotFoundError where there is no state."""
    return load_file(_require(folder) / "weights.safetensors")


def load_state(folder: Path, name: str) -> Any:
    """Return one state_dict of the latest state. Raises FileNotFoundError where there is no state."""
    return torch.load(_require(folder) / f"{name}.pt", weights_only=True)


def _latest(folder: Path) -> Path | None:
    pointer = folder / "latest.json"
    return folder / json.loads(pointer.read_text("utf-8"))["state"] if pointer.is_file() else None


def _require(folder: Path) -> Path:
    latest = _latest(folder)
    if latest is None:
        raise FileNotFoundError(f"no saved state in {folder}")
    return latest


def write_json(path: Path, value: Any) -> None:
    """Write one JSON file under a temporary name, then rename it."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(json.dumps(value, indent=1) + "\n", "utf-8")
    temporary.replace(path)


def append_row(path: Path, row: Mapping[str, Any]) -> None:
    """Add one line to a JSONL log."""
    with open(path, "a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")


def cut_log(path: Path, step: int) -> None:
    """Drop the log's rows after a step, which a resumed run will write again, and a last line that has no end."""
    if not path.is_file():
        return
    whole = [line for line in path.read_text("utf-8").splitlines(keepends=True) if line.endswith("\n")]
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text("".join(line for line in whole if json.loads(line)["step"] <= step), "utf-8")
    temporary.replace(path)


def frozen_sha256(model: nn.Module) -> str:
    """Return one SHA-256 over the names and bytes of all parameters that do not train."""
    return sha256_of((name, p) for name, p in model.named_parameters() if not p.requires_grad)


def sha256_of(tensors: Iterable[tuple[str, Tensor]]) -> str:
    """Return one SHA-256 over names and bytes of tensors, in the order of their names."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors, key=lambda pair: pair[0]):
        digest.update(name.encode())
        digest.update(whole(tensor.detach()).cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
