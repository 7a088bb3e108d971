"""`python -m bench`: score images, judge saved findings again, compare two scores, predict and measure cost.

Exit status: 0 done, 1 a finding, 2 bad input or incomplete data, 3 interrupted and resumable.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from bench.compare import compare
from bench.cost.command import cost
from bench.dpg.command import dpg, rescore_dpg
from bench.geneval.command import geneval, rescore_geneval, show_summary
from bench.geneval.rules import Thresholds

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False, help=__doc__)
app.command()(geneval)
app.command()(dpg)
app.command()(cost)
app.command()(compare)


@app.command()
def rescore(
    directory: Annotated[Path | None, typer.Argument(help="Folder of saved detections or answers.")] = None,
    benchmark: Annotated[str, typer.Option(help="geneval or dpg (default: what lies in the folder).")] = "",
    out: Annotated[Path | None, typer.Option(help="Where to write; default: the folder itself.")] = None,
    allow_partial: Annotated[bool, typer.Option(help="GenEval: a partial score, named so.")] = False,
    score_threshold: Annotated[float, typer.Option(help="GenEval")] = 0.3,
    counting_threshold: Annotated[float, typer.Option(help="GenEval")] = 0.9,
    max_objects: Annotated[int, typer.Option(help="GenEval")] = 16,
    max_overlap: Annotated[float, typer.Option(help="GenEval: suppress boxes at this IoU; 1 = off.")] = 1.0,
    position_threshold: Annotated[float, typer.Option(help="GenEval")] = 0.1,
    questions: Annotated[Path | None, typer.Option(help="DPG-Bench: the questions' CSV.")] = None,
    answers: Annotated[Path | None, typer.Option(help="DPG-Bench: a table of answers.")] = None,
    variant: Annotated[str, typer.Option(help="DPG-Bench: official, corrected or dsg.")] = "official",
    malformed: Annotated[str, typer.Option(help="DPG-Bench: strict, skip or no-parent.")] = "no-parent",
) -> None:
    """Apply the rules again to saved detections or answers, with no model.

    Example: python -m bench rescore scores/ --score-threshold 0.5 --out scores-0.5/
    """
    if (benchmark or _saved_benchmark(directory)) == "dpg":
        rescore_dpg(directory, questions=questions, answers=answers, variant=variant, malformed=malformed, out=out)
        return
    if directory is None:
        raise ValueError("rescore needs the folder of saved detections (or --benchmark dpg --questions --answers).")
    thresholds = Thresholds(
        score_threshold=score_threshold,
        counting_threshold=counting_threshold,
        max_objects=max_objects,
        max_overlap=max_overlap,
        position_threshold=position_threshold,
    )
    show_summary(rescore_geneval(directory, thresholds=thresholds, out=out, allow_partial=allow_partial))


def _saved_benchmark(directory: Path | None) -> str:
    """What lies in a folder: `geneval` for detections, `dpg` for answers; ValueError for neither."""
    if directory is None:
        raise ValueError("Name the folder of saved detections or answers, or --benchmark dpg with its tables.")
    for file, benchmark in (("detections.jsonl", "geneval"), ("answers.jsonl", "dpg")):
        if (directory / file).is_file():
            return benchmark
    raise FileNotFoundError(f"{directory} holds neither detections.jsonl (GenEval) nor answers.jsonl (DPG-Bench).")


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
