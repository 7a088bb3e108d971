"""What the gate is worth, by experiment: false alarms of equal recipes, and drops that are seen in 80 % of cases.

    python -m reports.regression.study docs/results/miniature/runs --num-draws 1000

Runs are invented from committed ones: each prompt keeps its rate over a recipe's seeds, each invented seed moves the
rates of a suite, its categories and prompts by as much as the committed seeds do beyond their images' noise, and every
verdict is drawn anew. All is seeded, so the table is the same each time. It takes minutes, so no test runs it whole.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean
from typing import Annotated

import numpy as np
import typer

from l2p.ending import run_command
from reports.estimates import Rows, score_rows
from reports.regression.baseline import load_side
from reports.regression.checks import image_prompts, judged
from reports.regression.outcome import WORSE, Check
from reports.regression.significance import averaged, excess_variance, tested
from reports.runs import Run, groups

SUITES = ("geneval", "heldout", "dpg")
DROPS = (0.02, 0.03, 0.04, 0.05, 0.06, 0.08, 0.10, 0.12, 0.15, 0.20)  # of the score, as a share of it
WANTED = 0.80
SEEDS = ((1, 1), (3, 1), (3, 3))  # of the baseline, of what is compared


@dataclass(frozen=True, kw_only=True)
class World:
    """A suite as invented runs draw it: rows with each prompt's rate, the seeds' spread, and a mean that may move.

    ``seed_sd`` is of the whole suite, ``category_sd`` of each category by itself, as shares of the scale. ``verdicts``:
    values are right or wrong; else ``residuals`` are what seeds' values lie off their mean.
    """

    rows: Rows
    num_image_prompts: dict[str | None, int]
    seed_sd: float
    category_sd: float
    verdicts: bool
    residuals: np.ndarray


def worlds(runs: Sequence[Run]) -> dict[str, World]:
    """Each suite of a recipe's committed seeds, subject the pixel model."""
    return {suite: _world(runs, suite) for suite in SUITES}


def _world(runs: Sequence[Run], suite: str) -> World:
    seeds = [score_rows(run, "l2p", suite) for run in runs]
    names = list(dict.fromkeys(seeds[0].categories))
    overall = max(0.0, excess_variance([seeds]))
    parts = [excess_variance([[rows.only(name) for rows in seeds]]) for name in names]
    category = max(0.0, mean(parts)) if len(names) > 1 else 0.0
    scored = runs[0].scored["l2p", suite]
    values = np.array([rows.values for rows in seeds])
    is_verdict = bool(np.isin(values, (0.0, seeds[0].scale)).all())
    middle = averaged(seeds)
    if is_verdict:  # a prompt that was right in all images may yet be wrong: half a verdict of its category's mean
        means = {name: middle.only(name).overall() for name in names}
        weight = 1 / (1 + 2 * len(seeds))
        rates = [(1 - weight) * v + weight * means[c] for v, c in zip(middle.values, middle.categories, strict=True)]
        middle = replace(middle, values=rates)
    return World(
        rows=middle,
        num_image_prompts={name: image_prompts(scored, name) for name in (None, *names)},
        seed_sd=max(0.0, overall - category / len(names)) ** 0.5,
        category_sd=category**0.5,
        verdicts=is_verdict,
        residuals=((values - values.mean(0)) * (len(seeds) / (len(seeds) - 1)) ** 0.5).ravel() / seeds[0].scale,
    )


def draw(world: World, generator: np.random.Generator, drop: float = 0.0) -> Rows:
    """One invented seed's rows, the rates lower by the share ``drop``."""
    rates = np.array(world.rows.values) / world.rows.scale * (1 - drop)
    moves = {name: generator.normal(0, world.category_sd) for name in dict.fromkeys(world.rows.categories)}
    rates = rates + generator.normal(0, world.seed_sd) + [moves[name] for name in world.rows.categories]
    if world.verdicts:
        values = (generator.random(len(rates)) < rates).astype(float)
    else:
        values = np.clip(rates + generator.choice(world.residuals, len(rates)), 0, 1)
    return replace(world.rows, values=list(values * world.rows.scale))


def compared(
    of: dict[str, World], num_before: int, num_after: int, generator: np.random.Generator, drops: dict[str, float]
) -> list[Check]:
    """All checks between invented seeds of one recipe, those after lower by ``drops`` of their suites."""
    checks = []
    for suite, world in of.items():
        before = [draw(world, generator) for _ in range(num_before)]
        after = [draw(world, generator, drops.get(suite, 0.0)) for _ in range(num_after)]
        for category, prompts in world.num_image_prompts.items():
            if category is not None and len(world.num_image_prompts) == 2:
                continue
            sides = [[rows.only(category) if category else rows for rows in side] for side in (before, after)]
            found = tested(*sides, num_image_prompts=prompts, other_seeds=True)
            part = "category" if category else "whole"
            checks.append(Check(name=category or suite, part=part, change=found.change, p_value=found.p_value))
    return judged(checks)


def false_alarms(of: dict[str, World], num_seeds: tuple[int, int], num_draws: int) -> float:
    """Share of comparisons of equal recipes in which any check is worse or better."""
    generator = np.random.default_rng(0)
    drawn = (compared(of, *num_seeds, generator, {}) for _ in range(num_draws))
    return mean(any((check.p_corrected or 1) <= 0.05 for check in checks) for checks in drawn)


def seen(of: dict[str, World], suite: str, drop: float, num_seeds: tuple[int, int], num_draws: int) -> float:
    """Share of comparisons in which a drop of one suite alone is seen: its overall score is worse."""
    generator = np.random.default_rng(1)
    drawn = (compared(of, *num_seeds, generator, {suite: drop}) for _ in range(num_draws))
    return mean(any(check.name == suite and check.outcome == WORSE for check in checks) for checks in drawn)


def smallest_seen(of: dict[str, World], suite: str, num_seeds: tuple[int, int], num_draws: int) -> str:
    """The smallest of ``DROPS`` that is seen in 80 % of cases, with how often it is."""
    for drop in DROPS:
        if (share := seen(of, suite, drop, num_seeds, num_draws)) >= WANTED:
            return f"{drop:.0%} ({share:.0%})"
    return f"none up to {DROPS[-1]:.0%}"


app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(
    folder: Annotated[Path, typer.Argument(help="a folder of runs or kept records, several seeds a recipe")],
    num_draws: Annotated[int, typer.Option(min=1, max=1_000_000, help="invented comparisons a cell")] = 1000,
) -> None:
    """Print the study's table as Markdown.

    Example: python -m reports.regression.study docs/results/miniature/runs --num-draws 1000
    """
    print("| Recipe | Seeds before and after | False alarms | GenEval drop seen | DPG-Bench drop seen |")
    print("| --- | --- | --- | --- | --- |")
    for label, runs in groups(load_side([folder])).items():
        if len(runs) < 2 or runs[0].recipe.get("study") is not None:  # an ablation scores GenEval alone
            continue
        of = worlds(runs)
        for num_seeds in SEEDS:
            alarms = false_alarms(of, num_seeds, num_draws)
            drops = (smallest_seen(of, suite, num_seeds, num_draws // 2) for suite in ("geneval", "dpg"))
            print(f"| {label} | {num_seeds[0]} and {num_seeds[1]} | {alarms:.1%} | {' | '.join(drops)} |", flush=True)


if __name__ == "__main__":
    sys.exit(run_command(app, name="python -m reports.regression.study"))
