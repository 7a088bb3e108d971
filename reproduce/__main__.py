"""`python -m reproduce flux`: a recipe from prompt to table."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from l2p.ending import run_command
from l2p.errors import InputError
from reproduce.families import recipe_families
from reproduce.quiet import quiet_native_logs

if TYPE_CHECKING:
    from reproduce.recipes import Recipe

EXAMPLE = """Reproduce the paper for one source family: corpus, transfer, sample, score, cost, report.

Examples:

    python -m reproduce flux                                     the miniature, all stages, into runs/flux-mini

    python -m reproduce flux --plan                              what it will cost in time, disk and memory

    python -m reproduce flux --size paper --plan --gpus 8xh100   which setting fits there, and for how long

    python -m reproduce flux --recipe flux_mini_long             20 to 45 minutes, for the claims

    python -m reproduce flux --stage score --run runs/flux-mini  one stage

    python -m reproduce flux --status                            what is done, damaged or missing

    python -m reproduce flux --redo score                        make a stage anew, and what follows from it

    python -m reproduce flux --limit 64                          a quick look in minutes, no score

    python -m reproduce flux --source my/flux                    your own pipeline of the family

    accelerate launch -m reproduce flux --size paper             several GPUs, weights from the hub

    python -m reproduce flux --size paper --dry                  every stage of it on tiny random weights, no score

    python -m reproduce prompts --num 10000                      the paper's prompts; options: prompts --help

    python -m reproduce study depth --family flux                an ablation, run after run; options: study --help

A run that was stopped goes on where it was when the same command is given again. What an earlier run beside it has
drawn with the same source, sampler and prompts is taken from there. Exit status: 0 done, 1 the loss is no longer
finite, 2 bad input or incomplete data, 3 interrupted and resumable, 4 our own fault (--debug, anywhere on the
line, shows where).
"""
FAMILIES = ", ".join(recipe_families())

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command(help=EXAMPLE)
def run_family(
    family: Annotated[str, typer.Argument(help=f"source family; with recipes here: {FAMILIES}")],
    recipe: Annotated[str | None, typer.Option(help="a recipe's name, or package.module:function")] = None,
    size: Annotated[str | None, typer.Option(help="miniature (default) or paper: the family's usual recipe")] = None,
    stage: Annotated[list[str] | None, typer.Option(help="run this stage alone; may be given again")] = None,
    run: Annotated[Path | None, typer.Option(help=r"run folder \[default: runs/<recipe's name>]")] = None,
    seed: Annotated[int | None, typer.Option(help="another transfer seed, into runs/<recipe's name>-seed<n>")] = None,
    plan: Annotated[bool, typer.Option("--plan", help="print the cost in time, disk and memory, and stop")] = False,
    reuse: Annotated[
        Path | None,
        typer.Option(help=r"take what this run made of the same inputs \[default: any run beside this one]"),
    ] = None,
    allow_missing: Annotated[
        bool, typer.Option("--allow-missing", help="go on without corpus images that are missing or damaged")
    ] = False,
    redo: Annotated[
        list[str] | None, typer.Option(help="make this stage anew, and what follows from it; may be given again")
    ] = None,
    status: Annotated[
        bool, typer.Option("--status", help="say which stages are done, damaged or missing (exit 0: all done, 2: not)")
    ] = False,
    limit: Annotated[
        int | None,
        typer.Option(max=10_000_000, help="a quick look: so many prompts of corpus and suites, in a folder of its own"),
    ] = None,
    source: Annotated[Path | None, typer.Option(help="your own pipeline of the family, a diffusers folder")] = None,
    gpus: Annotated[
        str | None, typer.Option(help="plan for these GPUs, such as 8xh100 [default: this machine's]")
    ] = None,
    dry: Annotated[
        bool, typer.Option("--dry", help="the paper's size on tiny random weights: does every stage run? no score")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="tell neither progress nor scores")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="print the scores at the end, or --status, as JSON")] = False,
) -> int:
    """Resolve the recipe and run it."""
    quiet_native_logs()
    asked = Asked(
        family=family,
        recipe=recipe,
        size=size,
        stages=stage or [],
        run_dir=run,
        seed=seed,
        plan=plan,
        reuse=reuse,
        allow_missing=allow_missing,
        redo=redo or [],
        status=status,
        limit=limit,
        source=source,
        gpus=gpus,
        dry=dry,
        quiet=quiet,
        as_json=as_json,
    )
    return _run(asked)


@dataclass(frozen=True, kw_only=True)
class Asked:
    """The command line."""

    family: str
    recipe: str | None
    size: str | None
    stages: list[str]
    run_dir: Path | None
    seed: int | None
    plan: bool
    reuse: Path | None
    allow_missing: bool
    redo: list[str]
    status: bool
    limit: int | None
    source: Path | None
    gpus: str | None
    dry: bool
    quiet: bool
    as_json: bool


def _run(asked: Asked) -> int:
    from reproduce.recipes import find_recipe, usual_run_dir
    from reproduce.run import NEEDS

    _check(asked, list(NEEDS))
    recipe = find_recipe(
        asked.family,
        asked.recipe,
        asked.size,
        asked.seed,
        asked.run_dir,
        source=asked.source,
        limit=asked.limit,
        dry=asked.dry,
    )
    run_dir = asked.run_dir or usual_run_dir(recipe, asked.source, asked.limit)
    if asked.plan:
        from reproduce.memory import gpus_here, gpus_named
        from reproduce.plan import print_plan
        from reproduce.preflight import num_processes

        gpus = gpus_named(asked.gpus) if asked.gpus else gpus_here()
        print_plan(recipe, run_dir, gpus.num if asked.gpus and gpus else num_processes(recipe), gpus)
        return 0
    if asked.status:
        from reproduce.status import show_status

        return show_status(recipe, run_dir, tuple(NEEDS), as_json=asked.as_json)
    return _work(asked, recipe, run_dir)


def _check(asked: Asked, stages: list[str]) -> None:
    """Raise ValueError for a stage that is none, and for options that contradict each other."""
    unknown = [stage for stage in (*asked.stages, *asked.redo) if stage not in stages]
    if unknown:
        raise InputError(f"unknown stage {unknown[0]!r}; known: {', '.join(stages)}")
    if asked.redo and asked.stages:
        raise InputError("--redo makes a stage and all that follows from it: give it without --stage")
    alone = [name for name, given in (("--plan", asked.plan), ("--status", asked.status)) if given]
    if len(alone) > 1 or (alone and (asked.redo or asked.stages)):
        raise InputError(f"{alone[0]} starts nothing: give it without --stage, --redo, --plan and --status")
    if asked.gpus and not asked.plan:
        raise InputError("--gpus says what a plan is for: give it with --plan")
    if asked.dry and asked.plan:
        raise InputError("--dry costs a minute or two, whatever the recipe: give --plan without it")
    if asked.as_json and (asked.plan or (asked.stages and "report" not in asked.stages)):
        raise InputError("--json prints what the report found, or --status: leave out --plan and --stage")


def _work(asked: Asked, recipe: Recipe, run_dir: Path) -> int:
    from l2p.progress import QUIET
    from reproduce.recipes import asked_for
    from reproduce.run import NEEDS, Options, reproduce

    if asked.quiet:
        os.environ[QUIET] = "1"
    options = Options(
        allow_missing=asked.allow_missing,
        reuse=asked.reuse,
        redo=tuple(asked.redo),
        asked=asked_for(run_dir, asked.recipe, asked.source, asked.limit, asked.dry),
        quiet=asked.quiet,
        as_json=asked.as_json,
    )
    stages = [stage for stage in NEEDS if not asked.stages or stage in asked.stages]
    return reproduce(recipe, run_dir, stages, arguments=sys.argv[1:], options=options)


OTHERS = ("prompts", "study")  # commands that stand where a family would


def main(arguments: list[str] | None = None) -> int:
    """Run one command and return its exit status: one of OTHERS, or a recipe of the family named first."""
    words = sys.argv[1:] if arguments is None else arguments
    word = words[0] if words and words[0] in OTHERS else ""
    if not word:
        return run_command(app, words, name="python -m reproduce")
    other = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    if word == "prompts":
        from reproduce.prompts.command import prompts

        other.command()(prompts)
    else:
        from reproduce.study_command import HELP, study

        other.command(help=HELP)(study)
    return run_command(other, words[1:], name=f"python -m reproduce {word}")


if __name__ == "__main__":
    sys.exit(main())
