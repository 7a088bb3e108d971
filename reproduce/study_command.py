"""`python -m reproduce study NAME`: a study's runs one after another, then its tables and figures."""

from __future__ import annotations

import subprocess
import sys
from typing import Annotated

import typer
from rich.console import Console

from l2p.progress import say
from reproduce.families import recipe_families
from reproduce.studies import MAX_NUM_SEEDS, STUDIES, find_study, runs_of, study_folder

NAMES = ", ".join(STUDIES)
HELP = f"""Run a study: recipes that differ in one thing from the family's usual one, then its tables and verdicts.

Example: python -m reproduce study depth --family flux

What it would run: python -m reproduce study depth --plan

Some of its runs: python -m reproduce study scratch --arm transfer-1 --arm scratch-10 --seeds 1

Studies: {NAMES}. A study that was stopped goes on where it was when the same command is given again. Exit status: that
of the first run that does not end well, else 0.
"""


def study(
    name: Annotated[str, typer.Argument(help=f"one of {NAMES}")],
    family: Annotated[str, typer.Option(help=f"source family: {', '.join(recipe_families())}")] = "flux",
    arm: Annotated[list[str] | None, typer.Option(help="run this arm alone; may be given again")] = None,
    seeds: Annotated[int, typer.Option(min=1, max=1000, help="transfer seeds of each arm")] = MAX_NUM_SEEDS,
    limit: Annotated[
        int | None, typer.Option(min=1, max=10_000_000, help="a quick look: so many prompts, no score")
    ] = None,
    plan: Annotated[bool, typer.Option("--plan", help="list the runs, and stop")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="tell neither progress nor scores of single runs")] = False,
) -> int:
    """Run the study and return its exit status."""
    from reproduce.recipes import find_recipe

    chosen, usual = find_study(name), find_recipe(family)
    runs = runs_of(name, usual, num_seeds=seeds, limit=limit, only=tuple(arm or ()))
    if plan:
        line = f"{chosen.title}: {len(runs)} runs, {', '.join(chosen.claims)}; all arms with three seeds: {chosen.time}"
        Console(soft_wrap=True).print(line, highlight=False)
        for path, words in runs:
            print(f"{path}: python -m reproduce {' '.join(words)}")
        return 0
    for number, (path, words) in enumerate(runs, 1):
        say(f"study {name}, run {number} of {len(runs)}: {path}")
        told = ["--quiet"] if quiet else []
        status = subprocess.run([sys.executable, "-m", "reproduce", *words, *told]).returncode
        if status:
            say(f"{path} ended with status {status}: the same command goes on from here")
            return status
    from reproduce.stages.report import write_study

    folder = study_folder(name, usual, limit)
    num_runs = write_study(folder, folder / "report", chosen.claims)
    print(f"{folder / 'report'}: tables and figures of {num_runs} runs")
    return 0
