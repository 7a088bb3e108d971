"""`python -m reproduce.paper_size`: writes the plan of every family's paper-size recipe into docs/paper-size.md."""

from __future__ import annotations

import sys
from pathlib import Path

from l2p.errors import InputError
from l2p.progress import track
from reproduce.families import ROOT, recipe_families
from reproduce.memory import GIB, Gpus, advice, fits, gpus_named
from reproduce.plan import disk_bytes, stage_hours
from reproduce.recipes import Recipe, find_recipe

PAGE = ROOT / "docs" / "paper-size.md"
BEGIN, END = "<!-- written by python -m reproduce.paper_size -->", "<!-- end -->"
MACHINES = ("1xrtx4090", "1xh100", "8xh100")
STAGES = ("corpus", "transfer", "sample")  # whose hours are predicted
COLUMNS = ("family", "GPUs", "training step", "its peak", "source draws", "pixel model draws", *STAGES, "disk")


def row(recipe: Recipe, gpus: Gpus) -> str:
    """One family on one machine: settings, the training step's peak in GiB a GPU, hours by stage, disk in GiB."""
    by_what = {fit.what: fit for fit in fits(recipe, gpus)}
    step, source, pixel = (by_what[what] for what in ("training step", "source draws", "pixel model draws"))
    settings = [fit.setting if fit.fits else "does not fit" for fit in (step, source, pixel)]
    if not step.fits:
        settings[0] += f": {advice(recipe, gpus)}"
    hours = stage_hours(recipe, gpus, gpus.name)
    told = [f"{low:,.0f} to {high:,.0f} h" for low, high in (hours[stage] for stage in STAGES)]
    cells = [recipe.family, f"{gpus.num} x {gpus.name}", settings[0], f"{step.peak_bytes / GIB:.0f} GiB", *settings[1:]]
    return "| " + " | ".join([*cells, *told, f"{disk_bytes(recipe) / GIB:,.0f} GiB"]) + " |"


def table(families: list[str]) -> str:
    """The rows of all families on all machines, as Markdown."""
    recipes = {family: find_recipe(family, size="paper") for family in families}
    pairs = [(recipe, gpus_named(name)) for recipe in recipes.values() for name in MACHINES]
    rows = [row(recipe, gpus) for recipe, gpus in track(pairs, "plans", shown=sys.stderr.isatty())]
    return "\n".join([f"| {' | '.join(COLUMNS)} |", "|---" * len(COLUMNS) + "|", *rows])


def write(page: Path, text: str) -> None:
    """Put `text` between the page's two marks. ValueError where they are not there."""
    before, begin, rest = page.read_text("utf-8").partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise InputError(f"{page} has no {BEGIN} ... {END} to write between")
    temporary = page.with_name(page.name + ".tmp")
    temporary.write_text(f"{before}{BEGIN}\n{text}\n{END}{after}", "utf-8")
    temporary.replace(page)


if __name__ == "__main__":
    write(PAGE, table(recipe_families()))
    print(f"wrote the plans of {len(recipe_families())} families into {PAGE.relative_to(ROOT)}")
