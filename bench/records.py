"""The types that every benchmark shares, and JSON / JSON Lines in and out; no torch."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from l2p.errors import InputError
from l2p.tables import jsonl_rows, parse_json

if TYPE_CHECKING:
    import numpy as np
    from PIL.Image import Image

    Detector = Callable[[list[Image]], list[list["Detection"]]]
    """A batch of RGB images in, a list of detections for each out."""
    VQA = Callable[[Image, list[str]], list[str]]
    """One image and many questions in, an answer for each out: the image is encoded once."""
    Generator = Callable[[list[str], list[int]], list[Image]]
    """Prompts and seeds in, an image for each out."""


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """One prompt of a suite; `spec` is what the benchmark asks of its image (GenEval: the metadata line)."""

    id: str
    text: str
    category: str
    spec: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class ImageSample:
    """One generated image: the `index`-th of its prompt, drawn with `seed`, stored at `path`."""

    prompt_id: str
    index: int
    seed: int
    path: Path


@dataclass(frozen=True, kw_only=True)
class Detection:
    """One found object: `box` is xyxy in pixels, `mask` [H, W] bool serves the colours and is never saved."""

    label: str
    box: tuple[float, float, float, float]
    score: float
    color: str | None = None
    mask: np.ndarray | None = None


@dataclass(frozen=True, kw_only=True)
class Score:
    """One image's (GenEval) or item's (DPG) value; None = unscored, and then `reason` says why. Never dropped."""

    prompt_id: str
    index: int
    category: str
    value: float | None
    reason: str


@dataclass(frozen=True, kw_only=True)
class Summary:
    """A benchmark's result for one subject; GenEval values are 0..1, DPG values 0..100.

    `passport` holds every setting that the score depends on (`bench.passport`). Fewer scored than expected is refused
    with a ValueError, unless the passport says so: `partial` is true (the user asked for it), or `left_out` lists the
    items that the variant's own rule leaves out, all of them.
    """

    benchmark: str
    version: str
    variant: str
    subject: str
    overall: float
    overall_ci95: tuple[float, float]
    by_category: dict[str, float]
    num_expected: int
    num_scored: int
    passport: dict[str, Any]

    def __post_init__(self) -> None:
        num_left_out = len(self.passport.get("left_out", ()))
        if self.num_scored + num_left_out != self.num_expected and not self.passport.get("partial"):
            raise InputError(
                f"{self.benchmark}: {self.num_scored} scored (and {num_left_out} left out by the variant's rule) of "
                f"{self.num_expected} expected. Supply the rest, or ask for a partial score, which is then named so."
            )


class IncompleteError(InputError):
    """Fewer images than expected can be scored; `missing` lists them."""

    def __init__(self, missing: Sequence[str], num_expected: int):
        shown = "\n  ".join(missing[:20]) + ("\n  ..." if len(missing) > 20 else "")
        super().__init__(
            f"{len(missing)} of {num_expected} expected images cannot be scored:\n  {shown}\n"
            "Supply them, or ask for a partial score (--allow-partial), which is named so."
        )
        self.missing = list(missing)


@dataclass(frozen=True, kw_only=True)
class Training:
    """How a training step trains: blocks tuned at each end (None = all), `released` = the refiners and embedders too,
    gradient checkpointing, `mixed` = trained weights in float32 under autocast, the optimiser."""

    num_trainable_blocks: int | None
    released: bool = False
    checkpointed: bool = False
    mixed: bool = False
    optimizer: str = "foreach"


@dataclass(frozen=True, kw_only=True)
class ScoreSettings:
    """What a benchmark's `score` is told of the images: `prompts` and `samples` are what was asked for, all of it.

    The samples' paths are relative to the images' folder. `watch_judge` False: no alarm where the judge finds nothing.
    `reference`: real pictures, a folder or a file of their statistics, for the metrics that compare with some.
    """

    prompts: Sequence[Prompt]
    samples: Sequence[ImageSample]
    images_per_prompt: int
    resolution: int
    subject: str
    judge_name: str
    watch_judge: bool = True
    reference: Path | None = None


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """One benchmark, whole: how its images lie, how they are judged, how its score rows are read (`bench.benchmarks`).

    A score row's `value`, 0 to 1, x `scale` is in the summary's unit; an interval resamples units within a category,
    and the overall value is the mean over categories. A metric of the whole set, such as FID, writes no score rows, its
    summary alone. `findings` is the file from which `rescore` makes scores again with no model.
    """

    name: str
    title: str
    unit: str
    decimals: int
    scale: float
    higher_is_better: bool
    category: Callable[[Mapping[str, Any]], str]
    """Of a score row: its category, within which an interval resamples."""
    resampled: Callable[[Mapping[str, Any], Mapping[str, Any]], str]
    """Of a score row and the summary's passport: the unit that an interval resamples."""
    resampled_name: Callable[[Mapping[str, Any]], str]
    """Of the passport: what those units are, in the plural."""
    load_prompts: Callable[[str, Mapping[str, Any]], list[Prompt]]
    """From `package.module:function` and its arguments, or a file in the benchmark's format."""
    layout: Callable[[Sequence[Prompt], int], list[ImageSample]]
    """Of prompts and images a prompt: where each image lies, relative to the folder; seeds are not set (-1)."""
    finish: Callable[[Path, Sequence[Prompt], str, Mapping[str, Any]], None]
    """Put what must lie beside the images into their folder; the last two are `load_prompts`' own."""
    load_judge: Callable[[str], Callable[..., Any]]
    """From a name to what judges an image."""
    score: Callable[[Path, Callable[..., Any], Path, ScoreSettings], Summary]
    """Judge the images of a folder and write `summary.json` (and `scores.jsonl`) into another; resumable."""
    findings: str = ""
    rescore: Callable[[Path | None, Path | None, Mapping[str, Any]], None] | None = None
    """From a folder of findings into another, with some of `rescore_options`; whole scores are written or none."""
    rescore_options: tuple[str, ...] = ()
    of_set: bool = False
    """Whether it is a metric of the whole set, with no score rows."""
    command: Callable[..., None] | None = None
    """The function behind `python -m bench <name>`."""


@dataclass(frozen=True, kw_only=True)
class CostRecord:
    """What one call of the whole batch costs, predicted or measured: a forward, a decode, a sampling or training step.

    `case` is its name for people and for `--case`; nobody reads it back, the fields say the same. `counted`: what is
    counted beside the model ("text", "vae"; `tile` = the VAE's tiles in px, 0 = untiled). `patch_size` 0 = not a pixel
    model. `latency_s` holds seconds measured, one a call; `roofline_s` seconds modelled, fast and slow end by device.
    """

    case: str
    kind: Literal["predicted", "measured"]
    family: str
    model: Literal["source", "l2p", "vae", "text"]
    counted: tuple[str, ...] = ()
    training: Training | None = None
    resolution: int
    batch_size: int
    patch_size: int = 0
    tile: int = 0
    dtype: str
    device: str = ""
    device_type: Literal["fake", "cpu", "cuda"] = "fake"
    protocol: str
    num_parameters: int | None = None
    num_trainable_parameters: int | None = None
    flops: float | None = None
    peak_memory_bytes: int | None = None
    latency_s: list[float] = field(default_factory=list)
    roofline_s: dict[str, tuple[float, float]] = field(default_factory=dict)


def read_costs(path: Path | str) -> list[CostRecord]:
    """The cost records of a JSON file; ValueError names the file and every field that is unknown or missing."""
    rows = read_json(path)
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise InputError(f"{path} is no list of cost records: write it with `python -m bench cost --json` or a run")
    return [cost_record(row, path) for row in rows]


def cost_record(row: dict[str, Any], path: Path | str) -> CostRecord:
    """A cost record from its JSON object; ValueError names the file and every field that is unknown or missing."""
    training = row.get("training")
    for name, given, record in (("training", training or {}, Training), ("record", row, CostRecord)):
        known = {part.name: part for part in fields(record)}
        needed = {part.name for part in known.values() if part.default is MISSING and part.default_factory is MISSING}
        unknown, absent = sorted(given.keys() - known.keys()), sorted(needed - given.keys()) if given else []
        if unknown or absent:
            raise InputError(
                f"{path} holds a cost {name} of another version of this project: unknown fields "
                f"{', '.join(unknown) or 'none'}, missing fields {', '.join(absent) or 'none'}. "
                "Write it again with the command that made it."
            )
    return CostRecord(
        **{
            **row,
            "counted": tuple(row.get("counted", ())),
            "training": Training(**training) if training else None,
            "roofline_s": {name: (low, high) for name, (low, high) in row.get("roofline_s", {}).items()},
        }
    )


def to_json(record: Any) -> Any:
    """A record, or any nesting of records, dicts, lists and paths, as JSON values; a Detection's mask is left out."""
    if is_dataclass(record) and not isinstance(record, type):
        names = [field.name for field in fields(record) if field.name != "mask"]
        return {name: to_json(getattr(record, name)) for name in names}
    if isinstance(record, dict):
        return {key: to_json(value) for key, value in record.items()}
    if isinstance(record, (list, tuple)):
        return [to_json(value) for value in record]
    return str(record) if isinstance(record, Path) else record


def differing(theirs: Any, ours: Any, prefix: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Yield (dotted name, their value, our value) for each setting of two nested dicts that is not the same."""
    if isinstance(theirs, dict) and isinstance(ours, dict):
        for name in {**theirs, **ours}:
            yield from differing(theirs.get(name), ours.get(name), f"{prefix}.{name}" if prefix else name)
    elif theirs != ours:
        yield prefix, theirs, ours


def _line(row: Any) -> str:
    return json.dumps(to_json(row), ensure_ascii=False, allow_nan=False) + "\n"


def _write_text(path: Path, chunks: Iterable[str]) -> None:
    """Write under a temporary name in the same folder, then rename: a reader never sees half a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.writelines(chunks)
            os.fchmod(file.fileno(), 0o644)  # mkstemp makes it 0600: others could not read the results
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def write_json(path: Path | str, obj: Any) -> None:
    """Write `obj` (records allowed) as indented JSON, whole or not at all; NaN raises ValueError."""
    _write_text(Path(path), [json.dumps(to_json(obj), indent=2, ensure_ascii=False, allow_nan=False), "\n"])


def check_file_to_write(path: Path | None, option: str) -> None:
    """InputError where no file can come to lie: at a folder, or below a file. Asked before work that ends in it."""
    if path is None:
        return
    if path.is_dir():
        raise InputError(f"{option} {path} is a folder; name a file.")
    there = next(parent for parent in path.absolute().parents if parent.exists())
    if not there.is_dir():
        raise InputError(f"{option} {path} lies below {there}, which is a file; name another place.")


def read_json(path: Path | str) -> Any:
    """Read a JSON file; ValueError names the file when it is not JSON, FileNotFoundError when it is not there."""
    return parse_json(Path(path).read_bytes(), str(path))


def read_object(path: Path | str, keys: Iterable[str] = ()) -> dict[str, Any]:
    """Read a JSON file that holds an object with at least `keys`; ValueError says what it holds instead."""
    value = read_json(path)
    if not isinstance(value, dict):
        raise InputError(f"{path} must hold a JSON object; it holds {json.dumps(value)[:80]}")
    missing = [key for key in keys if key not in value]
    if missing:
        raise InputError(f"{path} lacks {', '.join(missing)}; it has {', '.join(value) or 'nothing'}")
    return value


def read_summary(path: Path | str) -> Summary:
    """The summary in a file; FileNotFoundError when it is not there, ValueError when the file holds something else."""
    names = [field.name for field in fields(Summary)]
    saved = read_object(path, names)
    numbers = [saved["overall"], *_sequence(saved["overall_ci95"]), saved["num_expected"], saved["num_scored"]]
    if len(numbers) != 5 or not all(isinstance(n, (int, float)) for n in numbers):
        raise InputError(f"{path} is no summary: overall, its interval [low, high] and the counts must be numbers")
    if not isinstance(saved["passport"], dict) or not isinstance(saved["by_category"], dict):
        raise InputError(f"{path} is no summary: passport and by_category must be objects")
    return Summary(**{name: saved[name] for name in names} | {"overall_ci95": tuple(saved["overall_ci95"])})


def _sequence(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def write_jsonl(path: Path | str, rows: Iterable[Any]) -> None:
    """Write one JSON value a line (records allowed), whole or not at all."""
    _write_text(Path(path), (_line(row) for row in rows))


def append_jsonl(path: Path | str, rows: Iterable[Any]) -> None:
    """Append rows in one write and flush them to disk; a torn last line left by a killed run is cut off first."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "ab+") as file:
        file.truncate(_end_of_last_line(file))
        file.write("".join(_line(row) for row in rows).encode())
        file.flush()
        os.fsync(file.fileno())


def _end_of_last_line(file: Any, block: int = 1 << 16) -> int:
    """Position after the last newline, found from the end: the file may be large."""
    end = file.seek(0, os.SEEK_END)
    while end > 0:
        start = max(0, end - block)
        file.seek(start)
        found = file.read(end - start).rfind(b"\n")
        if found >= 0:
            return start + found + 1
        end = start
    return 0


def iter_jsonl(path: Path | str) -> Iterator[Any]:
    """Yield the values of a JSON Lines file one at a time; ValueError names file and line of a broken one."""
    return (value for _, value in jsonl_rows(path))


def read_jsonl(path: Path | str) -> list[Any]:
    """All values of a JSON Lines file; ValueError names file and line of a broken one."""
    return list(iter_jsonl(path))


def iter_objects(path: Path | str, keys: Sequence[str] = ()) -> Iterator[dict[str, Any]]:
    """Yield the objects of a JSON Lines file, each with at least `keys`; ValueError names file and line of another."""
    for line, value in jsonl_rows(path):
        if not isinstance(value, dict) or any(key not in value for key in keys):
            shown = json.dumps(value, ensure_ascii=False)[:80]
            wanted = f"an object with {', '.join(keys)}" if keys else "a JSON object"
            raise InputError(f"{path}, line {line}: {wanted} is needed; it is {shown}")
        yield value
