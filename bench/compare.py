"""`python -m bench compare A B`: two scores of the same prompts, paired by prompt, item or image."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from bench.benchmarks import find_benchmark
from bench.records import Benchmark, Summary, check_file_to_write, iter_objects, read_summary, write_json
from bench.statistics import Comparison, paired_difference
from l2p.ending import DONE, FINDING
from l2p.errors import InputError


def compare(
    a: Annotated[Path, typer.Argument(help="Folder with scores.jsonl and summary.json.")],
    b: Annotated[Path, typer.Argument(help="The other one, of the same prompts.")],
    out: Annotated[Path | None, typer.Option(help="Also write the comparison as JSON.")] = None,
) -> int:
    """Compare B with A: difference of the overall scores with interval, p-value, better / worse / within noise.

    The exit status is 1 where B is worse.

    Example: python -m bench compare scores/source scores/l2p
    """
    check_file_to_write(out, "--out")
    result = compare_scores(a, b)
    difference = result.difference
    typer.echo(f"B - A = {difference.value:+.4f}  95 % interval {difference.low:+.4f} to {difference.high:+.4f}")
    typer.echo(f"p = {result.p_value:.4f}, {difference.num_clusters} {_units(a)}: B is {result.verdict}")
    for name, (value_a, value_b) in differing_settings(a, b).items():
        typer.echo(f"note: {name} differs: {value_a} against {value_b}")
    if out:
        write_json(out, result)
        typer.echo(f"Written to {out}")
    return FINDING if result.verdict == "worse" else DONE


def compare_scores(a: Path, b: Path) -> Comparison:
    """B minus A in the summaries' unit, paired by what the benchmark resamples: prompts, images or items.

    Raises ValueError when the two are of different benchmarks or prompts, or have another number of images of one; when
    rows are missing, there twice, partial or no numbers in the benchmark's range; and for a score of the whole set of
    images, so that there is nothing to pair.
    """
    first, other = _summary(a), _summary(b)
    if first.benchmark != other.benchmark:
        raise InputError(f"{a} is {first.benchmark}, {b} is {other.benchmark}: compare the same benchmark.")
    benchmark = find_benchmark(first.benchmark)
    rows, other_rows = _columns(a, first), _columns(b, other)
    _refuse_other_counts(rows[1], other_rows[1], a, b)
    return paired_difference(
        *rows, *other_rows, bounds=(0.0, benchmark.scale), higher_is_better=benchmark.higher_is_better
    )


def _summary(directory: Path) -> Summary:
    path = directory / "summary.json"
    if not path.is_file():
        raise InputError(
            f"{directory} holds no summary.json: give a folder of scores, as `python -m bench geneval` writes"
        )
    return read_summary(path)


def _columns(directory: Path, summary: Summary) -> tuple[list[str], list[str], list[Any]]:
    """Categories, clusters and values (in the summary's unit), without items that the variant's rule leaves out."""
    passport, benchmark = summary.passport, find_benchmark(summary.benchmark)
    path, left_out = directory / "scores.jsonl", set(passport.get("left_out", ()))
    if not path.is_file():
        raise InputError(f"{directory} has no scores.jsonl to pair: look at overall and interval in each summary.json.")
    rows = list(iter_objects(path, ("prompt_id", "index", "category", "value")))
    if passport.get("partial"):
        raise InputError(f"{directory} is a partial score: its unscored images would be left out of the comparison.")
    _refuse_dropped(rows, summary, path)
    rows = [row for row in rows if row["prompt_id"] not in left_out]
    return (
        [benchmark.category(row) for row in rows],
        [benchmark.resampled(row, passport) for row in rows],
        [_value(row, benchmark, path) for row in rows],
    )


def _value(row: Mapping[str, Any], benchmark: Benchmark, path: Path) -> float:
    value = row["value"]
    if not isinstance(value, int | float) or not 0 <= value <= 1:
        raise InputError(f"{path}: the value of {row['prompt_id']}/{row['index']} must be 0 to 1; it is {value!r}.")
    return benchmark.scale * value


def _refuse_dropped(rows: Sequence[Mapping[str, Any]], summary: Summary, path: Path) -> None:
    """ValueError where a row stands twice, or there are fewer or more of them than the summary says."""
    seen = Counter((row["prompt_id"], row["index"]) for row in rows)
    twice = [f"{prompt_id}/{index}" for (prompt_id, index), number in seen.items() if number > 1]
    if twice:
        raise InputError(f"{path}: {len(twice)} rows stand there more than once, such as {twice[0]}.")
    if len(rows) != summary.num_expected:
        raise InputError(f"{path} has {len(rows)} rows, its summary.json tells of {summary.num_expected}: rescore it.")


def _refuse_other_counts(clusters: Sequence[str], others: Sequence[str], a: Path, b: Path) -> None:
    """ValueError where one of the units that are paired has more images on one side; only one side's is told later."""
    counts, other_counts = Counter(clusters), Counter(others)
    different = [unit for unit in counts if unit in other_counts and counts[unit] != other_counts[unit]]
    if different:
        unit = different[0]
        raise InputError(
            f"{len(different)} of {len(counts)} have another number of images, such as {unit!r} with {counts[unit]} in "
            f"{a} and {other_counts[unit]} in {b}: score the same number of each."
        )


def _units(directory: Path) -> str:
    """What the intervals resample, in the plural."""
    summary = read_summary(directory / "summary.json")
    return find_benchmark(summary.benchmark).resampled_name(summary.passport)


def differing_settings(a: Path, b: Path) -> dict[str, tuple[Any, Any]]:
    """Settings of the scoring (not of the images) that differ between two summaries: the scores may not compare."""
    first, other = _summary(a), _summary(b)
    passports = first.passport, other.passport
    names = ("prompts_sha256", "images_per_prompt", "models", "thresholds", "recipe")
    pairs = {name: (passports[0].get(name), passports[1].get(name)) for name in names}
    pairs["variant"] = (first.variant, other.variant)
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}
