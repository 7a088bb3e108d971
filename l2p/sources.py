"""Sources: diffusers pipelines in folders or on the hub, loaded whole and in the precision that is asked for."""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from diffusers import DiffusionPipeline

from l2p.architectures import check_source_class
from l2p.errors import InputError
from l2p.weight_files import FLOATS, Stored, check_folder, list_tensors


def source_folder(source: str | Path) -> Path | None:
    """Return the folder that a source names, or None for a hub id.

    Raises FileNotFoundError or ValueError that says what lies at the path instead of a diffusers pipeline.
    """
    folder = Path(source)
    if not folder.exists():
        if folder.is_absolute() or str(source).startswith((".", "~")) or str(source).count("/") != 1:
            raise FileNotFoundError(
                f"no source at {folder}; give the folder of a diffusers pipeline or a hub id owner/name"
            )
        return None
    if not folder.is_dir():
        raise InputError(f"{folder} is a file; give the folder of a diffusers pipeline")
    if not (folder / "model_index.json").is_file():
        found = sorted(path.name for path in folder.iterdir())[:8]
        raise InputError(f"{folder} is no diffusers pipeline: model_index.json is missing; found {found or 'nothing'}")
    return folder


def text_components(source: str | Path) -> tuple[str, ...]:
    """Names of a source's tokenizers and text encoders. Raises as load_source does for what cannot be read."""
    with loading(source):
        parts = DiffusionPipeline.load_config(str(source))
    return tuple(name for name in parts if name.startswith(("text_encoder", "tokenizer")) and parts[name][0])


def load_source(source: str | Path, dtype: torch.dtype | None = torch.float32, without: Sequence[str] = ()) -> Any:
    """Load a source pipeline from a diffusers folder or hub id.

    dtype: of all weights; None keeps what is stored (float32 for a part that mixes several). without: components that
    are left out. A folder whose weights have a variant in their names (`.fp16.`) alone is loaded by it. Raises as
    source_folder does, and ValueError for a pipeline of another class than the families' (its weights are not loaded
    then), for damaged or missing files, and for a transformer that lacks tensors.
    """
    folder = source_folder(source)
    with loading(source):
        class_name = DiffusionPipeline.load_config(str(source))["_class_name"]
    check_source_class(class_name)
    left_out: dict[str, Any] = {name: None for name in without}
    with loading(source):
        folder = folder or Path(DiffusionPipeline.download(str(source), **left_out))
        check_folder(folder, without)
        dtypes: Any = stored_dtypes(folder) if dtype is None else dtype
        variant = stored_variant(folder)
        pipeline: Any = DiffusionPipeline.from_pretrained(str(folder), dtype=dtypes, variant=variant, **left_out)
        if "transformer" not in without:
            stored = stored_transformer(folder)
            missing = sorted(pipeline.transformer.state_dict().keys() - stored.keys())
            if missing and stored:
                raise InputError(f"its transformer lacks {len(missing)} tensors, first {missing[:3]}")
            if dtype is None:
                _restore_dtypes(pipeline.transformer, stored)
    return pipeline


@contextmanager
def loading(place: str | Path) -> Iterator[None]:
    """Turn whatever goes wrong while a folder is loaded into ValueError that names it."""
    # diffusers, transformers and safetensors raise a dozen kinds of errors for what is wrong with a folder.
    try:
        yield
    except Exception as error:
        reason = " ".join(str(error).split())[:400] or type(error).__name__
        raise InputError(f"{place} cannot be loaded: {reason}") from error


def stored_transformer(folder: Path) -> dict[str, Stored]:
    """List the tensors of all weight files of a pipeline's transformer; {} where it has no .safetensors."""
    files = (folder / "transformer").glob("*.safetensors")
    return {key: tensor for file in files for key, tensor in list_tensors(file).items()}


def _restore_dtypes(transformer: Any, stored: Mapping[str, Stored]) -> None:
    """Give each tensor the dtype that its file has: diffusers loads a whole model in one."""
    for name, parameter in [*transformer.named_parameters(), *transformer.named_buffers()]:
        if name in stored and stored[name].dtype in FLOATS:
            parameter.data = parameter.data.to(FLOATS[stored[name].dtype])


def stored_dtypes(folder: Path) -> dict[str, torch.dtype]:
    """Return the dtype of each part of a pipeline's folder by name; float32 where a part mixes several."""
    dtypes = {"default": torch.float32}
    for part in sorted({path.parent for path in folder.glob("*/*.safetensors")}):
        words = {tensor.dtype for file in part.glob("*.safetensors") for tensor in list_tensors(file).values()}
        floats = [FLOATS[word] for word in words if word in FLOATS]
        dtypes[part.name] = floats[0] if len(floats) == 1 else torch.float32
    return dtypes


def stored_variant(folder: Path) -> str | None:
    """Return the variant ("fp16") that a pipeline's weight files have in their names, where a part has no plain ones.

    Raises ValueError when there are several such variants.
    """
    needed: list[set[str]] = []
    for part in sorted({path.parent for path in folder.glob("*/*.safetensors")}):
        names = [re.sub(r"-\d{5}-of-\d{5}", "", path.stem).split(".") for path in part.glob("*.safetensors")]
        if all(len(words) > 1 for words in names):
            needed.append({words[1] for words in names})
    common = set.intersection(*needed) if needed else set()
    if len(common) > 1 or (needed and not common):
        raise InputError(f"{folder} holds weights of several variants, {needed}; keep one of them in a folder")
    return common.pop() if common else None
