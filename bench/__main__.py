"""`python -m bench`: score images, judge saved findings again, compare two scores, predict and measure cost.

Exit status: 0 done, 1 a finding, 2 bad input or incomplete data, 3 interrupted and resumable.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from bench.benchmarks import BENCHMARKS, find_benchmark
from bench.compare import compare
from bench.cost.command import cost
from bench.geneval.rules import PUBLISHED
from bench.records import Benchmark

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False, help=__doc__)
for known in BENCHMARKS.values():
    if known.command:
        app.command(known.name)(known.command)
app.command()(cost)
app.command()(compare)


@app.command()
def rescore(
    directory: Annotated[Path | None, typer.Argument(help="Folder of saved detections or answers.")] = None,
    benchmark: Annotated[str, typer.Option(help="geneval or dpg (default: what lies in the folder).")] = "",
    out: Annotated[Path | None, typer.Option(help="Where to write; default: the folder itself.")] = None,
    allow_partial: Annotated[bool, typer.Option(help="GenEval: a partial score, named so.")] = False,
    score_threshold: Annotated[
        float | None, typer.Option(help=f"GenEval; published: {PUBLISHED.score_threshold}")
    ] = None,
    counting_threshold: Annotated[
        float | None, typer.Option(help=f"GenEval; published: {PUBLISHED.counting_threshold}")
    ] = None,
    max_objects: Annotated[int | None, typer.Option(help=f"GenEval; published: {PUBLISHED.max_objects}")] = None,
    max_overlap: Annotated[
        float | None,
        typer.Option(help=f"GenEval: suppress boxes at this IoU; published: {PUBLISHED.max_overlap}"),
    ] = None,
    position_threshold: Annotated[
        float | None, typer.Option(help=f"GenEval; published: {PUBLISHED.position_threshold}")
    ] = None,
    questions: Annotated[Path | None, typer.Option(help="DPG-Bench: the questions' CSV.")] = None,
    answers: Annotated[Path | None, typer.Option(help="DPG-Bench: a table of answers.")] = None,
    variant: Annotated[str | None, typer.Option(help="DPG-Bench: official (default), corrected or dsg.")] = None,
    malformed: Annotated[str | None, typer.Option(help="DPG-Bench: strict, skip or no-parent (default).")] = None,
) -> None:
    """Apply the rules again to saved detections or answers, with no model.

    Example: python -m bench rescore scores/ --score-threshold 0.5 --out scores-0.5/
    """
    options = {
        "allow_partial": allow_partial or None,
        "score_threshold": score_threshold,
        "counting_threshold": counting_threshold,
        "max_objects": max_objects,
        "max_overlap": max_overlap,
        "position_threshold": position_threshold,
        "questions": questions,
        "answers": answers,
        "variant": variant,
        "malformed": malformed,
    }
    chosen = find_benchmark(benchmark) if benchmark else _saved_benchmark(directory)
    _rescore(chosen, directory, out, {name: value for name, value in options.items() if value is not None})


def _rescore(benchmark: Benchmark, directory: Path | None, out: Path | None, given: Mapping[str, Any]) -> None:
    """Let the benchmark score its findings again; ValueError for options that are another one's."""
    if benchmark.rescore is None:
        raise ValueError(f"{benchmark.title} saves no findings that could be scored again.")
    names = {name: f"--{name.replace('_', '-')}" for name in (*given, *benchmark.rescore_options)}
    others = [names[name] for name in given if name not in benchmark.rescore_options]
    if others:
        own = ", ".join(names[name] for name in benchmark.rescore_options) or "no options"
        raise ValueError(f"{', '.join(others)} would change nothing: rescore of {benchmark.title} takes {own}.")
    benchmark.rescore(directory, out, given)


def _saved_benchmark(directory: Path | None) -> Benchmark:
    """The benchmark whose findings lie in a folder; FileNotFoundError where none's do, ValueError without a folder."""
    if directory is None:
        raise ValueError("Name the folder of saved detections or answers, or --benchmark dpg with its tables.")
    leaving = [benchmark for benchmark in BENCHMARKS.values() if benchmark.findings]
    for benchmark in leaving:
        if (directory / benchmark.findings).is_file():
            return benchmark
    files = " nor ".join(f"{benchmark.findings} ({benchmark.title})" for benchmark in leaving)
    raise FileNotFoundError(f"{directory} holds neither {files}.")


def main(arguments: list[str] | None = None) -> int:
    """Run one command and return its exit status; errors of the user's are told in one line."""
    try:
        status = app(args=arguments, standalone_mode=False)
    except typer.TyperException as error:  # a wrong option: typer's own words
        typer.echo(f"error: {error.format_message()}", err=True)
        return 2
    except (ValueError, OSError) as error:
        typer.echo(f"error: {error}", err=True)
        return 2
    except KeyboardInterrupt:
        return _interrupted()
    return _interrupted() if status == 130 else int(status or 0)


def _interrupted() -> int:
    typer.echo("interrupted: what is finished is saved; the same command goes on from there.", err=True)
    return 3


if __name__ == "__main__":
    sys.exit(main())
