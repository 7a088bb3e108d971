"""`python -m bench compare A B`: two scores of the same prompts, paired by prompt, item or image."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from bench.benchmarks import find_benchmark
from bench.records import read_json, read_jsonl, write_json
from bench.statistics import Comparison, paired_difference


def compare(
    a: Annotated[Path, typer.Argument(help="Folder with scores.jsonl and summary.json.")],
    b: Annotated[Path, typer.Argument(help="The other one, of the same prompts.")],
    out: Annotated[Path | None, typer.Option(help="Also write the comparison as JSON.")] = None,
) -> None:
    """Compare B with A: difference of the overall scores with interval, p-value, better / worse / within noise.

    Example: python -m bench compare scores/source scores/l2p
    """
    result = compare_scores(a, b)
    difference = result.difference
    typer.echo(f"B - A = {difference.value:+.4f}  95 % interval {difference.low:+.4f} to {difference.high:+.4f}")
    typer.echo(f"p = {result.p_value:.4f}, {difference.num_clusters} {_units(a)}: B is {result.verdict}")
    for name, (value_a, value_b) in differing_settings(a, b).items():
        typer.echo(f"note: {name} differs: {value_a} against {value_b}")
    if out:
        write_json(out, result)


def compare_scores(a: Path, b: Path) -> Comparison:
    """B minus A in the summaries' unit, paired by what the benchmark resamples: prompts, images or items.

    Raises ValueError when the two are of different benchmarks or prompts, when a score is partial, or when it is one of
    the whole set of images, so that there is nothing to pair.
    """
    first, other = read_json(a / "summary.json"), read_json(b / "summary.json")
    if first["benchmark"] != other["benchmark"]:
        raise ValueError(f"{a} is {first['benchmark']}, {b} is {other['benchmark']}: compare the same benchmark.")
    higher_is_better = find_benchmark(first["benchmark"]).higher_is_better
    return paired_difference(*_columns(a), *_columns(b), higher_is_better=higher_is_better)


def _columns(directory: Path) -> tuple[list[str], list[str], list[Any]]:
    """Categories, clusters and values (in the summary's unit), without items that the variant's rule leaves out."""
    summary = read_json(directory / "summary.json")
    passport, benchmark = summary["passport"], find_benchmark(summary["benchmark"])
    left_out = set(passport.get("left_out", ()))
    if not (directory / "scores.jsonl").is_file():
        raise ValueError(f"{directory} has no scores.jsonl to pair: look at overall and interval in each summary.json.")
    rows = [row for row in read_jsonl(directory / "scores.jsonl") if row["prompt_id"] not in left_out]
    return (
        [benchmark.category(row) for row in rows],
        [benchmark.resampled(row, passport) for row in rows],
        [row["value"] if row["value"] is None else benchmark.scale * row["value"] for row in rows],
    )


def _units(directory: Path) -> str:
    """What the intervals resample, in the plural."""
    summary = read_json(directory / "summary.json")
    return find_benchmark(summary["benchmark"]).resampled_name(summary["passport"])


def differing_settings(a: Path, b: Path) -> dict[str, tuple[Any, Any]]:
    """Settings of the scoring (not of the images) that differ between two summaries: the scores may not compare."""
    first, other = read_json(a / "summary.json"), read_json(b / "summary.json")
    passports = first["passport"], other["passport"]
    names = ("prompts_sha256", "images_per_prompt", "models", "thresholds")
    pairs = {name: (passports[0].get(name), passports[1].get(name)) for name in names}
    pairs["variant"] = (first["variant"], other["variant"])
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}
