"""FIXTURE DATA: writes a small invented run folder in the layout of ``reproduce``, for tests only, never a result."""

import random
from pathlib import Path

from PIL import Image, ImageDraw

from bench.benchmarks import BENCHMARKS
from bench.passport import file_sha256
from bench.records import CostRecord, Summary, write_json, write_jsonl
from bench.statistics import bootstrap_ci, category_means

COLORS = ("red", "green", "blue", "orange", "purple")
PROMPTS = {
    "single_object": "a circle, case {k}",
    "two_object": "a circle and a square, case {k}",
    "counting": "three circles, case {k}",
    "colors": "a red circle, case {k}",
    "position": "a circle left of a square, case {k}",
    "color_attr": "a red circle and a blue square, case {k}",
}
MEASURED = (
    ("source-sampling-step", 120),
    ("l2p-sampling-step", 210),
    ("l2p-transfer-step-shallow", 480),
    ("l2p-transfer-step-full", 640),
)
PAIRS = ("red star", "blue ring", "green cross", "pink circle", "black square", "white triangle")


def fake_run(
    path: Path,
    *,
    pixel_accuracy: float = 0.8,
    source_accuracy: float = 0.85,
    num_prompts: int = 8,
    num_images: int = 2,
    seed: int = 0,
    family: str = "flux",
    size: str = "miniature",
    num_train_steps: int = 1000,
    options: dict | None = None,
    trainable: int = 200_000,
    pictures: bool = False,
    name: str | None = None,
    recipe: dict | None = None,
    extra_suites: tuple[str, ...] = (),
) -> Path:
    """Write a run folder whose pixel model is right with ``pixel_accuracy``; images only if asked for.

    ``name`` is the recipe's (the folder's, if None); ``options`` are the transfer's, ``recipe`` anything else of it.
    ``extra_suites`` are more suites of GenEval's prompts, drawn anew.
    """
    transfer = {**OPTIONS, "num_train_steps": num_train_steps, "seed": seed, **(options or {})}
    recipe = _recipe(name or path.name, family, size, transfer) | (recipe or {})
    corpus = _corpus(path)
    write_json(path / "run.json", _manifest(recipe, corpus))
    _transfer(path, transfer, trainable)
    for subject, accuracy, drawn in (("source", source_accuracy, 0), ("l2p", pixel_accuracy, seed)):
        _geneval(path, subject, accuracy, num_prompts, num_images, pictures, random.Random(f"{subject} {drawn}"))
        for suite in extra_suites:
            _geneval(
                path,
                subject,
                accuracy,
                num_prompts,
                num_images,
                False,
                random.Random(f"{suite} {subject} {drawn}"),
                suite,
            )
        _heldout(path, subject, accuracy, num_images, random.Random(f"heldout {subject} {drawn}"))
        _dpg(path, subject, accuracy, random.Random(f"dpg {subject} {drawn}"))
    write_json(path / "cost/measured.json", [_measured(case, ms) for case, ms in MEASURED])
    return path


def _manifest(recipe: dict, corpus: dict) -> dict:
    return {
        "format": 2,
        "recipe": recipe,
        "inputs": {
            "source_sha256": "5" * 64,
            "corpus": corpus,
            "judges": {"geneval": "9" * 64, "dpg": "d" * 64},
        },
        "git": {"commit": "0123456789abcdef0123456789abcdef01234567", "dirty": False},
        "versions": {"torch": "fixture", "diffusers": "fixture"},
        "device": "cpu",
        "machine": {"processor": "fixture", "num_cores": 2},
        "seeds": {"transfer": recipe["transfer"]["seed"]},
        "stages": {name: _stage(k) for k, name in enumerate(STAGES)},
        "parts": {},
        "reused": {},
        "allow_missing": False,
    }


def _corpus(path: Path) -> dict:
    """Write the corpus's rows; what run.json says of them."""
    drawn = [(f"{k:05d}", k) for k in range(24)]
    rows = [
        {"file_name": f"images/{name}.png", "text": f"case {k}", "prompt_id": name, "index": 0, "seed": k,
         "category": "colors"}
        for name, k in drawn
    ]  # fmt: skip
    write_jsonl(path / "corpus/metadata.jsonl", rows)
    write_jsonl(path / "corpus/rejected.jsonl", [{"file_name": "images/00024.png", "reason": "fixture"}])
    metadata_sha256 = file_sha256(path / "corpus/metadata.jsonl")
    return {"num_images": 24, "num_rejected": 1, "metadata_sha256": metadata_sha256, "images_sha256": "1" * 64}


STAGES = ("corpus", "transfer", "sample", "score", "cost", "report")
OPTIONS = {"trainable": "ends", "num_trainable_blocks": 1, "batch_size": 16, "prediction": "clean", "save_every": 200}


def _recipe(name: str, family: str, size: str, transfer: dict) -> dict:
    suites = [("geneval", "GenEval", 2, "geneval"), ("heldout", "Held-out pairs", 8, "geneval")]
    suites.append(("dpg", "DPG-Bench", 4, "dpg"))
    sampler = {
        "num_inference_steps": 10, "guidance_scale": 3.0, "max_sequence_length": 24, "batch_size": 32, "shift": 3.0,
        "distilled_guidance": 3.5,
    }  # fmt: skip
    return {
        "name": name, "family": family, "size": size, "source": f"fixture/{family}", "dtype": "float32",
        "resolution": 48,
        "corpus": {"prompts": "fixture:prompts", "num_prompts": 25, "images_per_prompt": 1, "seed": 0,
                   "image_filter": None},
        "transfer": transfer, "source_sampler": sampler, "l2p_sampler": sampler,
        "suites": [
            {"name": suite, "title": title, "prompts": f"fixture:{suite}", "arguments": {}, "images_per_prompt": count,
             "benchmarks": [benchmark]}
            for suite, title, count, benchmark in suites
        ],
        "judges": {"geneval": "fixture:detector", "dpg": "fixture:answerer"},
        "judge_checks": [], "cross_check": None,
        "sample_seed": 0, "num_processes": 1, "study": None, "family_title": TITLES[family],
    }  # fmt: skip


TITLES = {"flux": "FLUX", "sd3": "SD3", "zimage": "Z-Image", "qwenimage": "Qwen-Image", "flux2": "FLUX.2"}


def predicted_4k() -> list[CostRecord]:
    """Invented predicted costs of Z-Image at 4K for guidance batches 1 and 2."""
    table = {("zimage-4096", 1): (2872e12, 19e9), ("l2p-zimage-4096", 1): (60e12, 14e9)}
    table |= {("zimage-4096", 2): (5744e12, 26.35e9), ("l2p-zimage-4096", 2): (120e12, 16.1e9)}
    return [
        CostRecord(
            case=case,
            kind="predicted",
            family="zimage",
            model="l2p" if case.startswith("l2p") else "source",
            resolution=4096,
            batch_size=batch,
            dtype="bfloat16",
            device="fake",
            protocol="one denoiser forward",
            flops=flops,
            peak_memory_bytes=int(peak),
        )  # fmt: skip
        for (case, batch), (flops, peak) in table.items()
    ]


def _measured(case: str, milliseconds: float) -> CostRecord:
    return CostRecord(
        case=case, kind="measured", family="flux", model="l2p" if case.startswith("l2p") else "source", resolution=48,
        batch_size=1, dtype="float32", device="cpu", device_type="cpu", protocol="one step", flops=1e9,
        peak_memory_bytes=300 << 20, latency_s=[milliseconds / 1e3 * f for f in (0.98, 1.0, 1.05)],
    )  # fmt: skip


def _stage(k: int) -> dict:
    started = f"2026-01-01T00:0{k}:00+00:00"
    return {
        "started": started,
        "finished": started,
        "seconds": 60.0 * (k + 1),
        "peak_memory_bytes": 1 << 30,
        "num_processes": 1,
    }


def _transfer(path: Path, options: dict, trainable: int) -> None:
    num_train_steps, noise = options["num_train_steps"], random.Random(options["seed"])
    rows: list[dict] = []
    for step in range(0, num_train_steps, 20):
        loss = 0.2 + 0.8 / (1 + step / 60) + noise.gauss(0, 0.02)
        rows.append({"step": step, "loss": loss, "learning_rate": 1e-3, "num_images": 16 * step, "seconds": step / 4})
        if step % 100 == 0:
            losses = {str(s): (0.15 + s / 5) * (1 + 2 / (1 + step / 90)) for s in (0.15, 0.4, 0.65, 0.9)}
            rows.append({"step": step, "validation_loss": losses})
    write_jsonl(path / "transfer/log.jsonl", rows)
    summary = {
        "num_train_steps": num_train_steps, "batch_size": 16, "num_trainable_parameters": trainable,
        "num_parameters": 2_000_000, "num_trainable_blocks": 1, "seconds": num_train_steps / 4, "final_loss": 0.25,
        "options": options,
        "frozen_sha256_before": "ab12", "frozen_sha256_after": "ab12",
        "conversion": {"copied": 60, "new": ["detailer.out.weight"], "dropped": ["proj_out.weight"]}, "alarms": [],
    }  # fmt: skip
    write_json(path / "transfer/summary.json", summary)


def _geneval(
    path: Path, subject: str, accuracy: float, num_prompts: int, num_images: int, pictures: bool, dice: random.Random,
    suite: str = "geneval",
) -> None:  # fmt: skip
    rows = []
    for task, template in PROMPTS.items():
        for k in range(num_prompts):
            number, text = len(rows) // num_images, template.format(k=k)
            folder = path / f"samples/{subject}/geneval/{number:05d}"
            if pictures:
                write_jsonl(folder / "metadata.jsonl", [{"tag": task, "prompt": text, "include": []}])
            for index in range(num_images):
                correct = dice.random() < accuracy
                if pictures:
                    _draw(folder / f"samples/{index:04d}.png", correct, dice)
                reason = "" if correct else "expected circle>=1, found 0"
                rows.append({"prompt_id": f"{number:05d}", "index": index, "category": task, "text": text,
                             "value": float(correct), "reason": reason})  # fmt: skip
    _score(path / f"scores/{subject}/{suite}", "geneval", subject, rows, "prompts")


def _heldout(path: Path, subject: str, accuracy: float, num_images: int, dice: random.Random) -> None:
    rows = [
        {"prompt_id": f"{k:05d}", "index": index, "category": pair, "text": f"a {pair}, case {k}",
         "value": float(dice.random() < accuracy), "reason": ""}
        for k, pair in enumerate(PAIRS) for index in range(4 * num_images)
    ]  # fmt: skip
    _score(path / f"scores/{subject}/heldout", "geneval", subject, rows, "images")


def _dpg(path: Path, subject: str, accuracy: float, dice: random.Random) -> None:
    folder = path / f"scores/{subject}/dpg"
    rows = [
        {
            "prompt_id": f"item{k}",
            "index": 0,
            "category": "dense",
            "value": min(1, max(0, dice.gauss(accuracy, 0.05))),
            "reason": "",
        }
        for k in range(40)
    ]
    write_jsonl(folder / "scores-corrected.jsonl", rows)
    overall = 100 * sum(row["value"] for row in rows) / len(rows)
    for name in ("summary.json", "summary-corrected.json", "summary-official.json"):
        summary = Summary(
            benchmark="dpg", version="1", variant="official" if "official" in name else "corrected", subject=subject,
            overall=overall, overall_ci95=(overall - 2, overall + 2),
            by_category={"entity": 90.0, "entity - whole": 90.0, "attribute": 88.0, "relation": 80.0, "global": 91.0},
            num_expected=40, num_scored=40,
            passport={"prompts_sha256": "dpg", "details": {"by_category_ci95": {"entity": (88.5, 91.5)}}},
        )  # fmt: skip
        write_json(folder / name, summary)


def _score(folder: Path, benchmark: str, subject: str, rows: list[dict], resampled: str) -> None:
    passport = {"resampled": resampled}
    parts = [(row["category"], BENCHMARKS[benchmark].resampled(row, passport), row["value"]) for row in rows]
    columns = [list(column) for column in zip(*parts, strict=True)]
    estimate = bootstrap_ci(*columns)
    write_jsonl(folder / "scores.jsonl", rows)
    summary = Summary(
        benchmark=benchmark, version="1", variant="published", subject=subject, overall=estimate.value,
        overall_ci95=(estimate.low, estimate.high), by_category=category_means(columns[0], columns[2]),
        num_expected=len(rows), num_scored=len(rows),
        passport={"prompts": "fixture", "prompts_sha256": "f" * 64, "images_per_prompt": 2, "resolution": 48,
                  "thresholds": {"score": 0.3}, "device": "cpu", "resampled": resampled},
    )  # fmt: skip
    write_json(folder / "summary.json", summary)


def _draw(path: Path, correct: bool, dice: random.Random) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.new("RGB", (48, 48), (225, 222, 215))
    draw = ImageDraw.Draw(image)
    for _ in range(1 + correct):
        x, y, r = dice.randint(6, 26), dice.randint(6, 26), dice.randint(10, 18)
        (draw.ellipse if dice.random() < 0.5 else draw.rectangle)((x, y, x + r, y + r), fill=dice.choice(COLORS))
    image.save(path)
