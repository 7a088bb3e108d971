"""`python -m bench`: score images, judge saved findings again, compare two scores, predict and measure cost.

Exit status: 0 done, 1 a finding (B is worse), 2 bad input or incomplete data, 3 interrupted and resumable, 4 our own
fault. --debug, anywhere on the line, shows the traceback behind an error.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated, Any

import typer

from bench.benchmarks import BENCHMARKS, find_benchmark
from bench.compare import compare
from bench.cost.command import cost
from bench.fidelity.command import app as fidelity
from bench.geneval.rules import PUBLISHED
from bench.records import Benchmark, read_summary
from bench.runner import locked
from l2p.ending import run_command
from l2p.errors import InputError

# no markup in help texts: it would eat [default: ...]
app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode=None, help=__doc__)
for known in BENCHMARKS.values():
    if known.command:
        app.command(known.name)(known.command)
app.add_typer(fidelity, name="fidelity")
app.command()(cost)
app.command()(compare)


@app.command()
def rescore(
    directory: Annotated[Path | None, typer.Argument(help="Folder of saved detections or answers.")] = None,
    benchmark: Annotated[str, typer.Option(help="geneval, dpg, ... (default: what lies in the folder).")] = "",
    out: Annotated[Path | None, typer.Option(help="Where to write; default: beside, FOLDER-rescored.")] = None,
    in_place: Annotated[bool, typer.Option("--in-place", help="Replace the folder's own scores.")] = False,
    allow_partial: Annotated[bool, typer.Option(help="GenEval: a partial score, named so.")] = False,
    score_threshold: Annotated[
        float | None, typer.Option(help=f"GenEval; published: {PUBLISHED.score_threshold}")
    ] = None,
    counting_threshold: Annotated[
        float | None, typer.Option(help=f"GenEval; published: {PUBLISHED.counting_threshold}")
    ] = None,
    max_objects: Annotated[
        int | None, typer.Option(min=1, max=100_000, help=f"GenEval; published: {PUBLISHED.max_objects}")
    ] = None,
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
    metric: Annotated[str | None, typer.Option(help="Fidelity: some of fid,fid-patch,is,kid, ...")] = None,
    reference: Annotated[Path | None, typer.Option(help="Fidelity: a file that `fidelity stats` wrote.")] = None,
    allow_few: Annotated[bool, typer.Option(help="Fidelity: fewer pictures than needed, named so.")] = False,
) -> None:
    """Apply the rules again to saved detections, answers or features, with no model.

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
        "metric": metric,
        "reference": reference,
        "allow_few": allow_few or None,
    }
    chosen = find_benchmark(benchmark) if benchmark else _saved_benchmark(directory)
    given = {name: value for name, value in options.items() if value is not None}
    _refuse_others_options(chosen, given)
    if directory is None and in_place:
        raise InputError("--in-place needs the folder of saved detections or answers.")
    target = _target(chosen, directory, out, in_place) if directory is not None else out
    with locked(target) if target is not None and target.is_dir() else nullcontext():
        assert chosen.rescore is not None
        chosen.rescore(directory, target, given)


def _refuse_others_options(benchmark: Benchmark, given: Mapping[str, Any]) -> None:
    """ValueError for options that are another benchmark's, and for one that saves no findings."""
    if benchmark.rescore is None:
        raise InputError(f"{benchmark.title} saves no findings that could be scored again.")
    names = {name: f"--{name.replace('_', '-')}" for name in (*given, *benchmark.rescore_options)}
    others = [names[name] for name in given if name not in benchmark.rescore_options]
    if others:
        own = ", ".join(names[name] for name in benchmark.rescore_options) or "no options"
        raise InputError(f"{', '.join(others)} would change nothing: rescore of {benchmark.title} takes {own}.")


def _target(benchmark: Benchmark, directory: Path, out: Path | None, in_place: bool) -> Path:
    """Where new scores go; ValueError where they would replace what they were not made of."""
    same = out is not None and out.resolve() == directory.resolve()
    if in_place and out is not None and not same:
        raise InputError("--in-place and --out contradict each other; give one of them.")
    if same and not in_place:
        raise InputError(f"--out {out} is the folder itself: --in-place replaces its scores.")
    if in_place:
        return directory
    target = out or directory.resolve().with_name(f"{directory.resolve().name}-rescored")
    findings = target / benchmark.findings
    if findings.is_file() and findings.read_bytes() != (directory / benchmark.findings).read_bytes():
        raise InputError(f"{target} holds findings of its own, whose scores would be lost: use another --out.")
    if (target / "summary.json").exists():
        read_summary(target / "summary.json")  # raises where it is no summary, so not ours to replace
    return target


def _saved_benchmark(directory: Path | None) -> Benchmark:
    """The benchmark whose findings lie in a folder; FileNotFoundError where none's do, ValueError without a folder."""
    if directory is not None and not directory.is_dir():
        raise FileNotFoundError(f"{directory} is not a folder; give one of saved detections or answers.")
    if directory is None:
        raise InputError("Name the folder of saved detections or answers, or --benchmark dpg with its tables.")
    leaving = [benchmark for benchmark in BENCHMARKS.values() if benchmark.findings]
    for benchmark in leaving:
        if (directory / benchmark.findings).is_file():
            return benchmark
    titles: dict[str, list[str]] = {}
    for benchmark in leaving:
        titles.setdefault(benchmark.findings, []).append(benchmark.title)
    files = " nor ".join(f"{name} ({', '.join(of)})" for name, of in titles.items())
    raise FileNotFoundError(f"{directory} holds neither {files}.")


def main(arguments: list[str] | None = None) -> int:
    """Run one command and return its exit status; errors of the user's are told in one line."""
    return run_command(app, arguments, name="python -m bench")


if __name__ == "__main__":
    sys.exit(main())
