"""From a folder of pictures to FID and its kin: features of the images and of the reference, then the metrics."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bench.fidelity.extractors import as_extractor
from bench.fidelity.features import extract_features, has_view
from bench.fidelity.reference import (
    NEEDS_FEATURES,
    NO_REFERENCE,
    Reference,
    check_reference,
    make_reference,
    read_reference,
)
from bench.fidelity.summary import COMPUTE, saved_features, write_summary
from bench.fidelity.variants import VARIANTS, Patches, Variant, find_variant, needs_size, preparation_of, views_of
from bench.judges import Judge, JudgeError
from bench.machine import device_name
from bench.passport import NOT_STATED, generation_settings, library_versions
from bench.records import Summary, read_object, read_summary, write_json
from bench.runner import Process, check_output, check_settings, locked, this_process
from bench.sets import (
    PictureSet,
    common_size,
    names_sha256,
    notes_on,
    read_set,
    refuse_unpaired,
    set_sha256,
    shown_sizes,
)
from l2p.errors import InputError

METRICS = tuple(COMPUTE)
REFERENCE = "reference.safetensors"
PASSPORT = "passport.json"
LIBRARIES = ("torch", "torch-fidelity", "transformers", "numpy", "scipy", "pillow")


@dataclass(frozen=True, kw_only=True)
class FidelityConfig:
    """How a set is scored: metrics, recipe, and the square that pictures are brought to (None: as the images are)."""

    metrics: tuple[str, ...] = ("fid",)
    variant: Variant
    size: int | None = None
    batch_size: int = 8
    device: str = "auto"
    allow_few: bool = False
    order: Path | None = None
    subject: str = ""
    prompts: str = NOT_STATED


def score_set(
    pictures: PictureSet,
    reference: Path | None,
    extractor: Any,
    out_dir: Path,
    config: FidelityConfig,
    *,
    alone: bool = False,
) -> dict[str, Summary]:
    """Score a set against a folder of real pictures or a file of statistics; a summary for each metric.

    `out_dir` gets `features.jsonl`, `features/`, `reference.safetensors`, and `<metric>/summary.json` for each (where
    one metric is `alone`, `summary.json`). Resumable; processes of a launcher share the pictures. Raises InputError or
    OSError: pictures missing on a side, too few (with the number needed), an unknown size, statistics made another way,
    an extractor that gives no logits for IS.
    """
    judge = as_extractor(extractor)
    config, real = check_inputs(pictures, reference, out_dir, config, judge)
    views = views_of(config.variant, config.metrics)
    process = this_process(config.device)
    with locked(out_dir) if process.index == 0 else nullcontext():
        if process.index == 0:
            scores = list(_folders(out_dir, config.metrics, alone).values())
            check_settings(out_dir / "settings.json", _settings(pictures, judge, config, views), scores)
        known = _reference(real, judge, out_dir, config, views, process)
        extract_features(
            pictures,
            judge,
            out_dir,
            variant=config.variant,
            views=views,
            size=config.size,
            batch_size=config.batch_size,
            process=process,
        )
        if process.index == 0:
            write_json(out_dir / PASSPORT, _passport(pictures, judge, process, config) | {"alone": alone})
            for folder in _folders(out_dir, config.metrics, alone).values():
                for stale in ("summary.json", "scores.jsonl"):  # of earlier features
                    (folder / stale).unlink(missing_ok=True)
            write_summaries(out_dir, known, config)
        process.wait()
        places = _folders(out_dir, config.metrics, alone)
        return {metric: read_summary(folder / "summary.json") for metric, folder in places.items()}


def check_inputs(
    pictures: PictureSet,
    reference: Path | None,
    out_dir: Path,
    config: FidelityConfig,
    extractor: Judge | None = None,
) -> tuple[FidelityConfig, Path | PictureSet | None]:
    """Look at everything that can be wrong before anything is written; the config with its size, and the real side.

    `extractor` is None before it is loaded: statistics are then compared with the rest of the settings.
    """
    check_metrics(config.metrics)
    views = views_of(config.variant, config.metrics)
    check_output(out_dir, pictures.directory)
    if reference is None and set(config.metrics) != {"is"}:
        raise InputError(f"{', '.join(config.metrics)} needs --reference, a folder or a file that stats wrote")
    real: Path | PictureSet | None = reference
    if reference is None:
        return with_size(config, pictures, views), real
    if reference.is_dir():
        _refuse_nested(pictures.directory, reference)
        real = read_set(reference, config.order)
        names, config = real.names, with_size(config, pictures, views)
    else:
        known = read_reference(reference)
        names, config = known.names, with_size(config, pictures, views, known.about["preparation"]["size"])
        preparation = preparation_of(config.variant, config.size, views)
        compared, passport = [m for m in config.metrics if m != "is"], extractor.passport if extractor else None
        check_reference(known, reference, preparation, passport, compared)
    if config.variant.paired:
        refuse_unpaired(pictures.names, names)
    return config, real


def _refuse_nested(images: Path, reference: Path) -> None:
    """InputError where pictures of one side are also the other's: the sets would be near for that alone."""
    inner, outer = images.resolve(), reference.resolve()
    if inner == outer:
        raise InputError(f"{images} is given as the images and as the --reference: give a folder of real pictures")
    if inner.is_relative_to(outer) or outer.is_relative_to(inner):
        raise InputError(
            f"the images in {images} and the --reference {reference} lie one in the other, and the pictures in folders "
            "count too: move one of them beside the other"
        )


def check_metrics(metrics: Sequence[str]) -> None:
    """InputError for no metric, an unknown one, or one named twice."""
    unknown = [metric for metric in metrics if metric not in METRICS]
    if unknown or not metrics or len(set(metrics)) < len(metrics):
        raise InputError(f"--metric is some of {','.join(METRICS)}, each once; got {','.join(metrics) or 'none'}")


def with_size(
    config: FidelityConfig, pictures: PictureSet, views: tuple[str, ...], known: int | None = None
) -> FidelityConfig:
    """The config with the square that pictures are brought to: as given, as of `known` statistics, or the pictures'.

    InputError where it is none of them, and where it is given to a variant that brings pictures to none.
    """
    if not needs_size(config.variant, views):
        if config.size:
            fitting = ", ".join(one.name for one in VARIANTS.values() if one.fit != "as it is")
            raise InputError(
                f"--size {config.size} would change nothing: {config.variant.name} takes pictures as they are; "
                f"brought to a square are those of {fitting}"
            )
        return config
    size = config.size or known or common_size(pictures)
    if size is None:
        raise InputError(
            f"{config.variant.name} brings pictures to one square size; those of {pictures.directory} are "
            f"{', '.join(shown_sizes(pictures))}: give --size"
        )
    return replace(config, size=size)


def _reference(
    real: Path | PictureSet | None,
    extractor: Judge,
    out_dir: Path,
    config: FidelityConfig,
    views: tuple[str, ...],
    process: Process,
) -> Reference:
    """The real side's statistics, which lie in `out_dir` then, so that scores can be made again of what is there."""
    if real is None:
        return NO_REFERENCE
    target = out_dir / REFERENCE
    if isinstance(real, PictureSet):
        make_reference(
            real,
            extractor,
            target,
            variant=config.variant,
            views=views,
            keep_features=any(metric in NEEDS_FEATURES for metric in config.metrics),
            size=config.size,
            batch_size=config.batch_size,
            process=process,
        )
    elif process.index == 0 and real.resolve() != target.resolve():
        temporary = target.with_name(f".{target.name}.tmp")
        temporary.write_bytes(real.read_bytes())
        temporary.replace(target)
    process.wait()
    return read_reference(target)


def _settings(pictures: PictureSet, extractor: Judge, config: FidelityConfig, views: tuple[str, ...]) -> dict[str, Any]:
    """What saved features depend on; where patches are cut, the order of the pictures, which decides the places."""
    order = {"names_in_order_sha256": names_sha256(pictures.samples)} if "patches" in views else {}
    return order | {
        "preparation": preparation_of(config.variant, config.size, views),
        "views": list(views),
        "extractor": dict(extractor.passport),
        "batch_size": config.batch_size,
    }


def _passport(pictures: PictureSet, extractor: Judge, process: Process, config: FidelityConfig) -> dict[str, Any]:
    """Every setting that the scores depend on, but what each metric adds (`bench.fidelity.summary`)."""
    generation = generation_settings(pictures.directory / "generation.json")
    generation |= {"subject": config.subject} if config.subject else {}
    return {
        "prompts": config.prompts,
        "prompts_sha256": names_sha256(pictures.samples),
        "pictures_sha256": set_sha256(pictures),
        "images_per_prompt": 1,
        "resolution": shown_sizes(pictures),
        "generation": generation,
        "device": device_name(process.device),
        "dtype": extractor.passport.get("dtype", NOT_STATED),
        "versions": library_versions(LIBRARIES),
        "models": {"extractor": dict(extractor.passport)},
        "thresholds": {},
        "recipe": {"name": config.variant.name, "size": config.size},
        "patches": json.loads(json.dumps(config.variant.patches and vars(config.variant.patches))),
        "metrics": list(config.metrics),
        "allow_few": config.allow_few,
        "notes": _notes(pictures, config.size),
    }


def _notes(pictures: PictureSet, size: int | None) -> list[str]:
    """What must be known of the pictures, and that they were brought to another size (that of known statistics)."""
    notes = notes_on(pictures)
    if size and set(pictures.sizes) != {(size, size)}:
        notes.append(f"pictures are brought to {size}x{size}; they are {', '.join(shown_sizes(pictures))}")
    return notes


def write_summaries(
    directory: Path, reference: Reference, config: FidelityConfig, out: Path | None = None
) -> dict[str, Summary]:
    """Compute every metric from what is saved in `directory`; all are computed before any is written anew.

    InputError for too few pictures, JudgeError where IS is asked of an extractor without logits.
    """
    settings = read_object(directory / PASSPORT, ("recipe", "generation"))
    saved = saved_features(directory, reference, config.variant, config.allow_few)
    places = _folders(out or directory, config.metrics, bool(settings.get("alone")))
    if "is" in config.metrics and not has_view(directory, "logits"):
        name = settings["models"]["extractor"].get("name", NOT_STATED)
        raise JudgeError(f"IS needs class logits, which the extractor {name} does not give: leave `is` out")
    results = {metric: COMPUTE[metric](saved) for metric in places}
    return {
        metric: write_summary(metric, results[metric], saved, settings, folder) for metric, folder in places.items()
    }


def _folders(out_dir: Path, metrics: Sequence[str], alone: bool) -> dict[str, Path]:
    """Where each metric's summary lies."""
    return {metric: out_dir if alone and len(metrics) == 1 else out_dir / metric for metric in metrics}


def saved_variant(settings: Mapping[str, Any]) -> Variant:
    """The variant that a saved passport names, with its patches."""
    name = settings["recipe"]["name"]
    variant = find_variant(name.partition(",")[0])
    patches = Patches(**settings["patches"]) if settings.get("patches") else None
    return replace(variant, name=name, patches=patches)
