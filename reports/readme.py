"""The README's small table, written from records: source and pixel model, what was kept, and the paper's own."""

from collections.abc import Sequence
from pathlib import Path
from statistics import mean

import pandas as pd

from l2p.errors import InputError
from reports import paper
from reports.closing import share_text
from reports.estimates import pooled_retention
from reports.evidence import keeps_to_paper
from reports.families import place
from reports.runs import SUBJECTS, Run, groups, load_runs
from reports.table_files import markdown
from reports.tables import number, or_none

BEGIN, END = "<!-- results: begin -->", "<!-- results: end -->"


def write_table(run_dirs: Sequence[Path | str], readme: Path) -> None:
    """Put the table of these runs between the markers of ``readme``; the rest of it stays as it is.

    Raises ValueError where the markers are not there, once and in order, or no run has anything to say.
    """
    table = results_table(load_runs(run_dirs))
    try:
        before, _, after = split(readme.read_text(encoding="utf-8"), readme)
    except UnicodeDecodeError as error:
        raise InputError(f"{readme} is no text in UTF-8 (byte {error.start}): give the README") from error
    readme.write_text(f"{before}{BEGIN}\n{table}{END}{after}", encoding="utf-8")


def split(text: str, readme: Path) -> tuple[str, str, str]:
    """What stands before, between and after the markers."""
    if text.count(BEGIN) != 1 or text.count(END) != 1 or text.index(END) < text.index(BEGIN):
        raise InputError(
            f"{readme} must hold {BEGIN} and, after it, {END}, each once: the table is written between them"
        )
    before, rest = text.split(BEGIN)
    between, after = rest.split(END)
    return before, between.lstrip("\n"), after


def results_table(runs: Sequence[Run]) -> str:
    """Markdown: a row a transfer that keeps to the paper and scored all that the longest one did, and the paper's row.

    Rows stand by family in the paper's order, then by world and length.
    A cell says source → pixel model, means over transfer seeds, and the share that was kept with its 95 % interval.
    Raises ValueError where there is no such transfer.
    """
    kept = list(groups([run for run in runs if keeps_to_paper(run) is None]).values())
    kept.sort(key=lambda members: members[0].num_train_images)
    if not kept:
        raise InputError("none of these runs is a transfer that keeps to the paper, so there is no row to write")
    suites = kept[-1][0].suites
    worlds = list(dict.fromkeys(members[0].world for members in kept))
    kept.sort(key=lambda members: (place(members[0].family), worlds.index(members[0].world)))
    rows = [
        {"Model": _name(members), **{title: _cell(members, suite) for suite, title in suites.items()}}
        for members in kept
        if all((subject, suite) in run.scored for run in members for subject in SUBJECTS for suite in suites)
    ]
    rows.append({"Model": "Paper: Z-Image at 1024 px", **{title: _published(suite) for suite, title in suites.items()}})
    return markdown(pd.DataFrame(rows))


def _name(members: Sequence[Run]) -> str:
    run = members[0]
    size = " in miniature" if run.size == "miniature" else ""
    seeds = f"mean of {len(members)} seeds" if len(members) > 1 else "one seed"
    world = f", {run.world}" if run.world else ""
    return f"{run.family_title}{size}{world}: {(run.transfer or {})['num_train_steps']:,} steps, {seeds}"


def _cell(members: Sequence[Run], suite: str) -> str:
    scored = [[run.scored[subject, suite] for run in members] for subject in SUBJECTS]
    values = [mean(one.summary.overall for one in of_subject) for of_subject in scored]
    source, pixel = (number(value, scored[0][0].benchmark.decimals) for value in values)
    return f"{source} → {pixel}, kept {share_text(or_none(pooled_retention, members, suite))}"


def _published(suite: str) -> str:
    """The paper's table 1 for the suites that it has; an en dash for others."""
    if suite not in paper.RETENTION:
        return "–"
    source, pixel = (getattr(row, suite) for row in (paper.TABLE1_SOURCE, paper.TABLE1_L2P))
    return f"{source:.2f} → {pixel:.2f}, kept {100 * pixel / source:.1f} %"
