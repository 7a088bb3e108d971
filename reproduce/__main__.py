"""`python -m reproduce flux`: a recipe from prompt to table."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from reproduce.launch import INTERRUPTED

FINDING, BAD_INPUT = 1, 2
EXAMPLE = """Reproduce the paper for one source family: corpus, transfer, sample, score, cost, report.

Examples:

    python -m reproduce flux                                     the miniature, all stages, into runs/flux-mini

    python -m reproduce flux --plan                              what it will cost in time, disk and memory

    python -m reproduce flux --recipe flux_mini_long             20 to 45 minutes, for the claims

    python -m reproduce flux --stage score --run runs/flux-mini  one stage

    accelerate launch -m reproduce flux --size paper             several GPUs, weights from the hub

A run that was stopped goes on where it was when the same command is given again. Exit status: 0 done, 1 the loss is
no longer finite, 2 bad input or incomplete data, 3 interrupted and resumable.
"""

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command(help=EXAMPLE)
def main(
    family: Annotated[str, typer.Argument(help="source family: flux")],
    recipe: Annotated[str | None, typer.Option(help="a recipe's name, or package.module:function")] = None,
    size: Annotated[str | None, typer.Option(help="miniature (default) or paper: the family's usual recipe")] = None,
    stage: Annotated[list[str] | None, typer.Option(help="run this stage alone; may be given again")] = None,
    run: Annotated[Path | None, typer.Option(help="run folder [default: runs/<recipe's name>]")] = None,
    seed: Annotated[int | None, typer.Option(help="another transfer seed: its run is named <recipe>-seed<n>")] = None,
    plan: Annotated[bool, typer.Option("--plan", help="print the cost in time, disk and memory, and stop")] = False,
    allow_missing: Annotated[
        bool, typer.Option("--allow-missing", help="go on without corpus images that are missing or damaged")
    ] = False,
) -> None:
    """Resolve the recipe and run it."""
    errors = Console(stderr=True, soft_wrap=True)
    try:
        raise typer.Exit(_run(family, recipe, size, stage, run, seed, plan, allow_missing))
    except (ValueError, OSError) as error:
        errors.print(f"error: {error}", style="bold red", markup=False, highlight=False)
        raise typer.Exit(BAD_INPUT) from None
    except FloatingPointError as error:
        errors.print(f"the transfer diverged: {error}", style="bold red", markup=False, highlight=False)
        raise typer.Exit(FINDING) from None
    except KeyboardInterrupt:
        errors.print("interrupted: the same command goes on from here", markup=False)
        raise typer.Exit(INTERRUPTED) from None


def _run(
    family: str,
    recipe_name: str | None,
    size: str | None,
    asked: list[str] | None,
    run_dir: Path | None,
    seed: int | None,
    plan: bool,
    allow_missing: bool,
) -> int:
    from reproduce.plan import print_plan
    from reproduce.preflight import num_processes
    from reproduce.recipes import find_recipe
    from reproduce.run import NEEDS, reproduce

    unknown = [stage for stage in asked or () if stage not in NEEDS]
    if unknown:
        raise ValueError(f"unknown stage {unknown[0]!r}; known: {', '.join(NEEDS)}")
    recipe = find_recipe(family, recipe_name, size, seed, run_dir)
    run_dir = run_dir or Path("runs") / recipe.name
    if plan:
        print_plan(recipe, run_dir, num_processes(recipe))
        return 0
    stages = [stage for stage in NEEDS if not asked or stage in asked]
    return reproduce(recipe, run_dir, stages, arguments=sys.argv[1:], allow_missing=allow_missing)


if __name__ == "__main__":
    app()
