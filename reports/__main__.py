"""`python -m reports`: the page of runs or score folders, the gate against a baseline, and the README's table."""

import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from l2p.ending import BAD_INPUT, DONE, FINDING, run_command
from l2p.errors import InputError
from reports.claims import verdict_counts
from reports.page import COST_RESULTS, write_report
from reports.paper_tables import write_paper_tables
from reports.readme import write_table
from reports.regression import compare
from reports.regression.baseline import load_side, matching, seeds_of_one_recipe, write_baseline
from reports.regression.outcome import NOT_COMPARED, WORSE
from reports.regression.text import FORMATS, MARK, counted
from reports.runs import found_runs, runs_in
from reports.scorecards import write_scorecards
from reports.scores import holds_scores, write_scores
from reports.written import refuse_file, write_text

STATUSES = "3 interrupted, 4 a fault of our own (with --debug: where)."
PAGE_HELP = f"""Write the report of run folders: page, tables, claims and figures. Of score folders: page and tables.

Example: python -m reports runs/* --out report/

Anybody's images, several models in one table: python -m reports scores/a scores/b --out report/

What docs/results holds: python -m reports runs/*-mini* --out docs/results/miniature --records

Against a baseline: python -m reports regression BASELINE RUN... and python -m reports baseline RUN... --out FILE

A card a source family: python -m reports scorecard runs/* --out docs/scorecards

The paper's tables and figures: python -m reports tables runs/* --out tables/

To write the README's table: python -m reports readme RUNS...

Exit status: 0 done, 1 a claim was not reproduced (with --check-claims), 2 bad input, {STATUSES}
"""
REGRESSION_HELP = f"""Compare RUNs, transfer seeds of one recipe, with a baseline, prompt by prompt.

BASELINE is a run folder, a folder of run folders, or a file that `python -m reports baseline` wrote.

Example: python -m reports regression docs/baselines/flux-mini.json runs/flux-mini runs/flux-mini-seed1

Exit status: 0 no worse, 1 worse in something, 2 nothing worse but not all was compared, or bad input, {STATUSES}
"""
BASELINE_HELP = f"""Write what a regression compares with, from transfer seeds of one recipe, into one small file.

Example: python -m reports baseline runs/flux-mini runs/flux-mini-seed1 --out docs/baselines/flux-mini.json

Exit status: 0 done, 2 bad input, {STATUSES}
"""
SCORECARD_HELP = f"""Write a scorecard a source family (a page and a picture), and a table of all families side by side.

Example: python -m reports scorecard runs/* --out docs/scorecards

Exit status: 0 done, 2 bad input, {STATUSES}
"""
TABLES_HELP = f"""Write the paper's tables 1, 2, 3 and figures 4, 5, 9, 12, 15 from whatever runs there are.

Markdown, LaTeX (booktabs), CSV, PNG and SVG; every number is marked published, measured, predicted or not run.

Example: python -m reports tables runs/* --out tables/

Exit status: 0 done, 2 bad input, {STATUSES}
"""
README_HELP = f"""Write what runs found into README.md, as a table between its two markers.

Example: python -m reports readme docs/results/miniature/runs/*

Exit status: 0 done, 2 bad input, {STATUSES}
"""

Costs = Annotated[Path | None, typer.Option(help="folder of predicted cost records (*.json), else ours")]

console, errors = Console(soft_wrap=True), Console(stderr=True, soft_wrap=True)
page_app, regression_app, baseline_app, readme_app, scorecard_app, tables_app = (
    typer.Typer(add_completion=False, pretty_exceptions_enable=False) for _ in range(6)
)
APPS = {  # by the first word
    "regression": regression_app,
    "baseline": baseline_app,
    "readme": readme_app,
    "scorecard": scorecard_app,
    "tables": tables_app,
}


def tell(sentence: str) -> None:
    """Say something beside the result."""
    errors.print(sentence, markup=False, highlight=False)


def _cost_folder(given: Path | None) -> Path:
    """The folder of cost records, ours where none is given; InputError for one that holds none."""
    if given is not None and not any(given.glob("*.json")):
        raise InputError(f"--costs {given} holds no cost records (*.json); `bench cost --json` writes them")
    return given or COST_RESULTS


@page_app.command(help=PAGE_HELP)
def page(
    folders: Annotated[list[Path], typer.Argument(help="run or study folders, e.g. runs/*, or folders of scores")],
    out: Annotated[Path, typer.Option(help="folder for the report")],
    costs: Costs = None,
    records: Annotated[bool, typer.Option("--records", help="keep each run's records in OUT/runs too")] = False,
    check_claims: Annotated[bool, typer.Option("--check-claims", help="exit 1 when a claim is not reproduced")] = False,
) -> None:
    """Write the report and print where it lies and how the claims came out."""
    costs = _cost_folder(costs)
    runs = [path for path in folders if runs_in(path)]
    if not runs and any(holds_scores(path) for path in folders):
        if records or check_claims:
            raise InputError("--records and --check-claims are for run folders: these are folders of scores")
        models = write_scores(folders, out)
        console.print(f"{out / 'index.html'}: scores of {len(models)} models", markup=False, highlight=False)
        return
    if scored := [path for path in folders if path not in runs and holds_scores(path)]:
        raise InputError(f"{scored[0]} is a folder of scores, {runs[0]} a run: give runs, or folders of scores alone")
    judgements = write_report(found_runs(folders, tell), out, cost_dir=costs, keep_records=records, say=tell)
    counts = verdict_counts(judgements)
    said = ", ".join(f"{count} {verdict}" for verdict, count in counts.items())
    console.print(f"{out / 'index.html'}: {said}", markup=False)
    raise typer.Exit(FINDING if check_claims and counts["not reproduced"] else DONE)


@regression_app.command(help=REGRESSION_HELP)
def regression(
    baseline: Annotated[Path, typer.Argument(help="what to compare with")],
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="the runs to judge, seeds of one recipe")],
    baseline_run: Annotated[
        list[Path] | None, typer.Option(help="another seed of the baseline; may be given several times")
    ] = None,
    form: Annotated[str, typer.Option("--format", help=f"one of {', '.join(FORMATS)}")] = "text",
    out: Annotated[
        Path | None, typer.Option(help="write to this file instead of the screen, which then shows the counts alone")
    ] = None,
    latency: Annotated[
        bool, typer.Option("--latency", help="measured latency too: same machine, two runs or more a side")
    ] = False,
) -> None:
    """Print every check with its outcome."""
    if form not in FORMATS:
        raise InputError(f"--format {form!r} is unknown: give one of {', '.join(FORMATS)}")
    inputs = [baseline, *(baseline_run or ()), *runs]
    if out:
        refuse_file(out, inputs, MARK)
    current = seeds_of_one_recipe(load_side(runs))
    before = matching(load_side([baseline, *(baseline_run or ())]), current)
    comparison = compare(before, current, latency=latency)
    text = FORMATS[form](comparison)
    if out:
        write_text(out, text)
        console.print(f"{out}: {counted(comparison)}", markup=False, highlight=False)
    else:
        print(text, end="")
    worse, not_compared = comparison.count(WORSE), comparison.count(NOT_COMPARED)
    raise typer.Exit(FINDING if worse else BAD_INPUT if not_compared else DONE)


@baseline_app.command(help=BASELINE_HELP)
def baseline(
    runs: Annotated[list[Path], typer.Argument(help="run folders or kept records: transfer seeds of one recipe")],
    out: Annotated[Path, typer.Option(help="the file to write, e.g. docs/baselines/flux-mini.json")],
) -> None:
    """Write the baseline file."""
    saved = write_baseline(runs, out)
    size = out.stat().st_size / 1000
    console.print(f"{out}: {len(saved)} seeds of {saved[0].recipe_name}, {size:.0f} kB", markup=False, highlight=False)


@readme_app.command(help=README_HELP)
def readme(
    runs: Annotated[list[Path], typer.Argument(help="run folders or kept records")],
    readme: Annotated[Path, typer.Option(help="the file that holds the markers")] = Path("README.md"),
) -> None:
    """Write the table between the markers."""
    found = found_runs(runs, tell)
    write_table(found, readme)
    console.print(f"{readme}: written from {len(found)} runs", highlight=False)


@scorecard_app.command(help=SCORECARD_HELP)
def scorecard(
    runs: Annotated[list[Path], typer.Argument(help="run folders or kept records, of one family or several")],
    out: Annotated[Path, typer.Option(help="folder for the scorecards")],
    costs: Costs = None,
) -> None:
    """Write the scorecards and say where they lie."""
    cards = write_scorecards(found_runs(runs, tell), out, cost_dir=_cost_folder(costs), say=tell)
    families = ", ".join(card.title for card in cards)
    console.print(f"{out / 'index.html'}: {len(cards)} scorecards ({families})", markup=False, highlight=False)


@tables_app.command(help=TABLES_HELP)
def paper_tables(
    runs: Annotated[list[Path], typer.Argument(help="run folders, studies' folders, or kept records")],
    out: Annotated[Path, typer.Option(help="folder for the tables and figures")],
    costs: Costs = None,
) -> None:
    """Write the tables and say how much of each was run."""
    counts = write_paper_tables(found_runs(runs, tell), out, cost_dir=_cost_folder(costs))
    for name, kinds in counts.items():
        said = ", ".join(f"{count} {kind}" for kind, count in kinds.items())
        console.print(f"{out / name}.md: {said}", markup=False, highlight=False)


def main(arguments: list[str] | None = None) -> int:
    """Run the page command, or the one that the first word names (a run folder so named: write ./regression)."""
    words = sys.argv[1:] if arguments is None else arguments
    word = words[0] if words and words[0] in APPS else ""
    app, words = (APPS[word], words[1:]) if word else (page_app, words)
    return run_command(app, words, name=f"python -m reports {word}".strip())


if __name__ == "__main__":
    sys.exit(main())
