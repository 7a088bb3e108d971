"""What is checked before a run begins: the folder, the source, the room on the disk. Nothing is written."""

from __future__ import annotations

import importlib
import os
import shutil
import zipfile
from collections.abc import Iterator
from pathlib import Path

from safetensors import SafetensorError, safe_open

from bench.benchmarks import find_benchmark
from bench.geneval.prompts import is_rewritten
from bench.named import load_function
from bench.records import read_json
from l2p.architectures import get_architecture
from l2p.errors import InputError
from l2p.sources import source_folder
from reproduce.checks import check_recipe
from reproduce.inputs import judged_benchmarks
from reproduce.plan import disk_bytes
from reproduce.prompts import DEFAULT_OUT
from reproduce.recipes import Recipe, corpus_folder, source_of
from reproduce.recipes.base import drawn_at, place_of
from reproduce.stages.corpus import planned_rows
from reproduce.stages.sample import suite_prompts

GIB = 2**30
SPARE_BYTES = GIB // 4  # logs, reports, a temporary file beside the one that it replaces


def check(recipe: Recipe, run_dir: Path) -> None:
    """Raise ValueError, FileNotFoundError or PermissionError when a run of `recipe` in `run_dir` could not end well."""
    check_recipe(recipe)
    judged_benchmarks(recipe)
    check_names(recipe)
    check_missing(recipe)
    family, sampler = get_architecture(recipe.family), recipe.source_sampler
    check_source(source_of(recipe), family.pipeline_class)
    check_resolution(recipe)
    family.source_arguments(sampler.guidance_scale, sampler.distilled_guidance)  # refuses what its pipeline cannot do
    check_maker(recipe)
    check_start(recipe, run_dir)
    if not is_made(recipe.corpus.prompts):
        planned_rows(recipe)  # a file with too few prompts is refused here
    check_rewritten(recipe)
    check_disk(recipe, run_dir)


def check_source(source: str, pipeline_class: str) -> None:
    """Raise FileNotFoundError or ValueError unless `source` is a hub id or a diffusers folder of `pipeline_class`."""
    folder = source_folder(source)
    if folder is None:
        return  # `check_missing` has asked the hub
    found_class = read_json(folder / "model_index.json").get("_class_name")
    if found_class != pipeline_class:
        raise InputError(f"{source} holds a {found_class}, this recipe's family needs a {pipeline_class}")


def check_resolution(recipe: Recipe) -> None:
    """Raise ValueError unless the source's VAE (x 2, its transformer's patches) divides the size that it draws at."""
    folder = source_folder(source_of(recipe))
    path = folder / "vae" / "config.json" if folder is not None else None
    if path is None or not path.is_file():
        return
    channels = read_json(path).get("block_out_channels")
    step = 2 ** len(channels) if isinstance(channels, list) else 1  # its factor is 2^(n - 1)
    resolution = drawn_at(recipe, "source")
    if resolution % step:
        raise InputError(
            f"recipe {recipe.name!r} draws at {resolution} px, but {folder} draws at multiples of {step} px"
        )


def check_state(folder: Path) -> None:
    """Raise ValueError for a training state that is torn: pickled tensors are zip files, whose end is written last."""
    latest = folder / "latest.json"
    if not latest.is_file():
        return
    state = folder / str(read_json(latest).get("state"))
    whole = {path: zipfile.is_zipfile(path) for path in state.glob("*.pt")}
    whole[state / "weights.safetensors"] = _is_whole(state / "weights.safetensors")
    torn = [path for path, good in whole.items() if not good]
    if torn or not (state / "optimizer.pt").is_file():
        named = torn[0] if torn else state / "optimizer.pt"
        raise InputError(f"{named} is damaged or missing, so the transfer cannot go on from it: give --redo transfer")


def _is_whole(path: Path) -> bool:
    try:
        with safe_open(path, "pt") as file:
            return bool(list(file.keys()))
    except (OSError, SafetensorError):
        return False


def check_names(recipe: Recipe) -> None:
    """Raise ValueError or FileNotFoundError for a function, file or benchmark that is named and not there."""
    for suite in recipe.suites:
        for benchmark in suite.benchmarks:
            find_benchmark(benchmark)
    for name in named(recipe):
        if ":" in name:
            load_function(name)
        elif not is_made(name) and not Path(name).is_file():
            raise FileNotFoundError(f"recipe {recipe.name!r} reads {name}, which is not there")


def check_start(recipe: Recipe, run_dir: Path) -> None:
    """Raise FileNotFoundError where the pixel model that the transfer starts from is not there."""
    if recipe.start is None:
        return
    start = os.path.normpath(run_dir / recipe.start)  # the run's own folder, which the path may pass, is not there yet
    if not os.path.exists(start):
        raise FileNotFoundError(
            f"recipe {recipe.name!r} starts from the pixel model {start}, which is not there: run that first"
        )


def check_maker(recipe: Recipe) -> None:
    """Raise ValueError or FileNotFoundError where the corpus's maker is not there."""
    maker = recipe.corpus.maker
    if maker is None:
        return
    if ":" in maker:
        load_function(maker)
    else:
        source_folder(place_of(maker))


def named(recipe: Recipe) -> list[str]:
    """All functions and files that a recipe names."""
    prompts = [recipe.corpus.prompts, *(suite.prompts for suite in recipe.suites)]
    judges = [*recipe.judges.values(), *recipe.judge_checks, recipe.cross_check]
    makers = [suite.reference for suite in recipe.suites if suite.reference is not None and ":" in suite.reference]
    return [name for name in (*judges, recipe.corpus.image_filter, *prompts, *makers) if name is not None]


def is_made(prompts: str) -> bool:
    """Whether corpus prompts are a file that the run makes itself, as it is not there (`run.make_missing`)."""
    return prompts == DEFAULT_OUT and not Path(prompts).is_file()


def check_missing(recipe: Recipe) -> None:
    """Raise FileNotFoundError that names all at once of what a recipe needs of yours and does not find here."""
    sentences = [*missing_source(source_of(recipe)), *missing_corpus(recipe), *missing_references(recipe)]
    for module in dict.fromkeys(name.partition(":")[0] for name in named(recipe) if ":" in name):
        tell = getattr(importlib.import_module(module), "missing", None)  # a module may tell what its functions need
        sentences += tell() if tell is not None else []
    if sentences:
        listed = "\n".join(f"  - {sentence}" for sentence in sentences)
        raise FileNotFoundError(f"recipe {recipe.name!r} cannot start before these are here:\n{listed}")


def missing_source(source: str) -> Iterator[str]:
    """What keeps a hub id's pipeline from being fetched, in a sentence; its folder is looked at elsewhere."""
    if source_folder(source) is not None:
        return
    from huggingface_hub import hf_hub_download

    try:
        hf_hub_download(source, "model_index.json")
    except Exception as error:  # the hub's client raises a dozen kinds
        yield (
            f"the source {source} ({type(error).__name__}): go online, accept its licence at "
            f"https://huggingface.co/{source} where it has one, log in with `hf auth login`; or give a folder with "
            "--source"
        )


def missing_corpus(recipe: Recipe) -> Iterator[str]:
    """What is wrong with the place of a corpus that a person brings, in a sentence."""
    if recipe.corpus.folder is None or corpus_folder(recipe, Path()).exists():
        return
    yield (
        f"images of {recipe.resolution} px with captions: set {recipe.corpus.folder} to a folder of them, which is "
        "not there (metadata.jsonl, a CSV of file_name,text or image,prompt, or WebDataset shards)"
    )


def missing_references(recipe: Recipe) -> Iterator[str]:
    """The places of real pictures that are not there, each in a sentence."""
    for suite in recipe.suites:
        if suite.reference is None or ":" in suite.reference or Path(os.path.expandvars(suite.reference)).exists():
            continue
        yield (
            f"real pictures for {', '.join(suite.benchmarks)} of {suite.title}: set {suite.reference} to a folder of "
            "them, or to a file that `python -m bench fidelity stats` wrote"
        )


def check_rewritten(recipe: Recipe) -> None:
    """Raise ValueError for a GenEval prompt that does not name what it is judged by, unless its suite is rewritten."""
    for suite in recipe.suites:
        if "geneval" not in suite.benchmarks or suite.rewritten_by is not None:
            continue
        found = [prompt for prompt in suite_prompts(suite) if is_rewritten(prompt.spec)]
        if found:
            raise InputError(
                f"suite {suite.name!r} of recipe {recipe.name!r}: {len(found)} prompts do not name what their images "
                f"are judged by, first {found[0].text!r}: say in rewritten_by what rewrote them"
            )


def check_reuse(run_dir: Path | None) -> None:
    """Raise ValueError when the folder that pictures are to be taken from is no run folder."""
    if run_dir is not None and not (run_dir / "run.json").is_file():
        raise InputError(f"--reuse {run_dir}: there is no run.json; give the folder of an earlier run")


def check_disk(recipe: Recipe, run_dir: Path) -> None:
    """Raise PermissionError where `run_dir` cannot be written, ValueError where its disk is too full for the run."""
    existing = next(folder for folder in (run_dir, *run_dir.absolute().parents) if folder.exists())
    if not existing.is_dir():
        raise InputError(f"{existing} is a file; give a folder for the run with --run")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise PermissionError(f"no permission to write in {existing}: give another folder with --run")
    present = sum(file.stat().st_size for file in run_dir.rglob("*") if file.is_file())
    wanted, free = disk_bytes(recipe) - present + SPARE_BYTES, shutil.disk_usage(existing).free
    if wanted > free:
        raise InputError(
            f"{existing} has {free / GIB:.1f} GiB free, the run needs up to {wanted / GIB:.1f} GiB more: "
            f"make room, or give a folder on another disk with --run"
        )


def num_gpus() -> int:
    """How many GPUs this machine has."""
    import torch

    return torch.cuda.device_count()


def num_processes(recipe: Recipe) -> int:
    """The processes that share a run's work: the recipe's number or one a GPU, never more than one on a GPU."""
    gpus = num_gpus()
    return min(recipe.num_processes or gpus, gpus) if gpus else recipe.num_processes or 1
