"""The report's folder: index.html (one self-contained file), tables, claims and figures, written as a whole."""

import tempfile
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from bench.records import CostRecord
from reports import figures, kept, paper, pictures, shown, study_figures, table_files, tables, written
from reports.claims import Judgement, judge_claims, verdict_counts, write_claims
from reports.cost import figure4
from reports.cost.load import PaperCosts, all_records, load_paper_costs
from reports.estimates import NoEvidenceError, score_rows
from reports.evidence import judging_group
from reports.runs import SUBJECT_NAMES, SUBJECTS, Run, alarms, load_runs, manifest_json, other_corpus
from reports.theme import DARK, LIGHT

COST_RESULTS = Path(__file__).parents[1] / "docs" / "results" / "cost"  # predicted costs of the full-size models
TEMPLATES = Path(__file__).parent / "templates"


def write_report(
    run_dirs: Sequence[Path | str],
    out_dir: Path | str,
    *,
    cost_dir: Path | str = COST_RESULTS,
    keep_records: bool = False,
    say: Callable[[str], None] = lambda sentence: None,
) -> list[Judgement]:
    """Write the report of these runs into ``out_dir`` and return the claims' verdicts.

    Reads files only. What a run lacks is named on the page; ``say`` is told of pictures that could not be read.
    ``cost_dir`` holds what ``python -m bench cost --paper`` predicted for the full-size models; it may be absent. With
    ``keep_records`` each run's records are kept in ``out_dir``/runs, with the pictures that the page or its family's
    scorecard shows, and the report is of all that are kept there. Files are made beside ``out_dir`` and then moved into
    it, over those of an earlier report alone.
    Raises FileNotFoundError or ValueError, before anything is written, for what is no run folder, a broken file, or an
    ``out_dir`` that would write into a run, over what no report wrote, or over files that are no kept records.
    """
    out_dir = Path(out_dir)
    runs = load_runs(run_dirs)
    before = kept.kept_in((out_dir / "runs").resolve()) if keep_records else []
    new = [run for run in runs if keep_records and run.path not in before]
    if further := [path for path in before if path.name not in {run.name for run in runs}]:
        say(f"with them: {len(further)} runs whose records lie in {out_dir / 'runs'}")
        runs = load_runs([*(run.path for run in runs), *further])
    _refuse_to_write(runs, new, out_dir)
    paper_costs = load_paper_costs(Path(cost_dir))
    costs = all_records(runs, paper_costs)
    judgements = judge_claims(runs, costs)
    leading = leading_groups(runs)
    pairs, unreadable = pictures.readable(pictures.picture_pairs(leading[0][0]))
    failed, num_failed = pictures.failed_pairs(leading[0][0])
    failed, more = pictures.readable(failed)
    unreadable = [*dict.fromkeys(unreadable + more)]
    for sentence in unreadable:
        say(sentence)
    with tempfile.TemporaryDirectory(prefix="report-") as folder:
        staging = Path(folder)
        page = {
            **opening(runs, leading, judgements, unreadable),
            **evidence(runs, leading[0], pairs, costs, staging),
            "failed": pictures.with_uris(failed),
            "num_failed": num_failed,
            **cost_context(leading[0], costs, paper_costs),
            "judgements": judgements,
        }
        (staging / "index.html").write_text(render("page.html", page), encoding="utf-8")
        write_claims(judgements, staging / "claims.json")
        written.publish(staging, out_dir, "python -m reports")
    openers = {members[0].name for members in leading[1:]}
    for run in new:
        shown_pairs = [*pairs, *failed] if run is leading[0][0] else []
        if run.name in openers:
            shown_pairs, _ = pictures.readable(pictures.picture_pairs(run))
        paths = dict.fromkeys(picture.path for pair in shown_pairs for picture in pair.pictures.values())
        kept.keep_records(run.path, out_dir / "runs" / run.name, list(paths))
    return judgements


def _refuse_to_write(runs: Sequence[Run], new: Sequence[Run], out_dir: Path) -> None:
    written.refuse_folder(out_dir, [run.path for run in runs])
    for run in new:
        kept.refuse_target(run.path, out_dir / "runs" / run.name)


def render(template: str, context: dict[str, Any]) -> str:
    """A page's HTML; every value is escaped, a name that the template lacks is an error."""
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"number": tables.number, "clock": shown.clock, "gib": gib}
    return environment.get_template(template).render(context)


def leading_groups(runs: list[Run]) -> list[list[Run]]:
    """For each family, world and size, the runs that judge its claims; the page opens with the first.

    Where none may judge, the run with the most scores stands for them.
    """
    leading = []
    for key in dict.fromkeys((run.case, run.size) for run in runs):
        members = [run for run in runs if (run.case, run.size) == key]
        try:
            leading.append(judging_group(members))
        except NoEvidenceError:
            leading.append([max(members, key=lambda run: (len(run.scored), run.num_train_images))])
    return leading


def opening(
    runs: list[Run], leading: list[list[Run]], judgements: list[Judgement], unreadable: list[str]
) -> dict[str, Any]:
    """What the page opens with: headline numbers of the leading runs, verdict counts, warnings."""
    several = len({run.case for run in runs}) > 1
    first = [members[0] for members in leading]
    return {
        "title": title(runs),
        "written": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "runs": runs,
        "leading": leading[0],
        "headline": [entry for members in leading for entry in headline(members, judgements)],
        "case_titles": {run.case: run.case_title for run in runs} if several else {},
        "counts": verdict_counts(judgements),
        "alarms": [(run.name, message) for run in runs for message in alarms(run)],
        "warnings": [warning for run in first for warning in warnings(run)] + unreadable,
        "further_warnings": [warning for run in runs if run not in first for warning in warnings(run)],
        "missing": [(run.name, run.missing) for run in runs if run.missing],
        "subjects": SUBJECT_NAMES,
        "light": LIGHT,
        "dark": DARK,
    }


def title(runs: Sequence[Run]) -> str:
    """ "L2P on FLUX, in miniature": the families and sizes of the runs."""
    families = ", ".join(dict.fromkeys(run.family_title for run in runs))
    sizes = {run.size for run in runs}
    return f"L2P on {families}" + (", in miniature" if sizes == {"miniature"} else "")


def headline(leading: list[Run], judgements: list[Judgement]) -> list[dict[str, Any]]:
    """One entry a suite with scores: retention with its interval, both models' overall, and the claim it judges."""
    table = tables.retention_table(leading)
    entries = []
    for suite, name in leading[0].suites.items():
        rows = table[table["suite"] == suite].sort_values("num_seeds")
        scored = [leading[0].scored.get((subject, suite)) for subject in SUBJECTS]
        judged = judgement_of(suite, leading[0], judgements)
        reaches_c1 = judged is not None and judged.claim.rule.bound == figures.C1_BAND[0]
        entry = {
            "name": name,
            "case": leading[0].case,
            "decimals": next((part.benchmark.decimals for part in scored if part), 3),
            "judgement": judged,
            "band": figures.C1_BAND if reaches_c1 else None,
            "paper": f"paper {paper.RETENTION[suite]}" if suite in paper.RETENTION else None,
        }
        if not rows.empty:
            entries.append({**entry, **rows.iloc[-1].to_dict()})
        elif any(scored):  # scores, but no ratio: of one model only, or of a source that draws next to nothing
            overall = [part.summary.overall if part else None for part in scored]
            entries.append({**entry, "value": None, **dict(zip(SUBJECTS, overall, strict=True))})
    return entries


def judgement_of(suite: str, run: Run, judgements: Sequence[Judgement]) -> Judgement | None:
    """The verdict of the claim about what is kept on this suite, for the run's case and size; None without one."""
    return next(
        (
            judgement
            for judgement in judgements
            if judgement.claim.rule.quantity == f"{suite}_retention"
            and (judgement.scope, judgement.family, judgement.world) == (run.size, *run.case)
        ),
        None,
    )


def warnings(run: Run) -> list[str]:
    """What a reader must know before believing a run's numbers."""
    found = []
    if limit := (run.manifest.get("asked") or {}).get("limit"):
        found.append(f"{run.name}: a quick look (--limit {limit}) at a small share of prompts and steps: no score.")
    if run.manifest.get("allow_missing"):
        rejected = (run.transfer or {}).get("rejected", [])
        found.append(
            f"{run.name}: went on with --allow-missing; {len(rejected)} corpus images were missing or damaged."
        )
    if (run.manifest.get("git") or {}).get("dirty"):
        found.append(f"{run.name}: made by code with uncommitted changes.")
    if message := other_corpus(run):
        found.append(message)
    found += [
        f"{run.name}: a second judge disagrees on {row['value']:.1%} of the {row['n']:,} {row['of']} of the "
        f"{SUBJECT_NAMES.get(row['subject'], row['subject']).lower()} on {run.suites.get(row['suite'], row['suite'])}: "
        + (f"by that judge the score is {row['other_score']:.3f}; " if "other_score" in row else "")
        + "look at them before you believe the score."
        for row in run.disagreement
        if row["warn"]
    ]
    for (subject, suite), scored in run.scored.items():
        summary = scored.summary
        if scored.rows and (message := unusable(run, subject, suite)):
            found.append(f"{message}: they give no retention and no comparison.")
        if summary.num_scored < summary.num_expected:
            what = f"{run.name}: {SUBJECT_NAMES[subject].lower()} on {run.suites[suite]}"
            left_out = len(summary.passport.get("left_out", ()))
            why = f" ({left_out} left out by the {summary.variant} variant's own rule)" if left_out else ""
            found.append(f"{what}: {summary.num_scored} of {summary.num_expected} scored{why}.")
    return found


def unusable(run: Run, subject: str, suite: str) -> str:
    """Why score rows that are there cannot be used; "" where they can."""
    try:
        score_rows(run, subject, suite)
    except NoEvidenceError as absent:
        return str(absent)
    return ""


def evidence(
    runs: list[Run], leading: list[Run], pairs: list[pictures.Pair], costs: list[CostRecord], out_dir: Path
) -> dict[str, Any]:
    """Pictures, tables and figures, their files written to ``out_dir``; a figure whose files are absent is None."""
    frame, retention, card = tables.table1(runs), tables.retention_table(runs), tables.scorecard(runs)
    table_files.write_tables(runs, out_dir)
    (out_dir / "scorecard.md").write_text(table_files.markdown(card), encoding="utf-8")
    studied, kept_by_length = study_figures.study_tables(runs), tables.retention_of_judging(runs)
    draw = {
        "grid": lambda theme: pictures.draw_grid(pairs, theme) if pairs else None,
        "training-curve": lambda theme: figures.training_curve(leading, theme),
        "geneval-tasks": lambda theme: figures.task_bars(tables.task_table(leading[:1]), theme),
        "retention": lambda theme: figures.retention_curve(kept_by_length, theme),
        "cost": lambda theme: figures.cost_bars(leading[0].costs, theme),
        "figure4": lambda theme: figure4.draw(costs, theme, width=figures.WIDTH),
        **study_figures.study_drawings(studied),
    }
    return {
        "pairs": pictures.with_uris(pairs),
        "figures": {name: figures.save(name, function, out_dir) for name, function in draw.items()},
        "blocks": [(title, tables.displayed(part)) for title, part in reversed(tables.blocks(frame))],
        "notes": paper.TABLE1_NOTES,
        "judge_checks": shown.judge_check_rows(runs),
        "disagreement": shown.disagreement_rows(runs),
        "studied": [
            (name, caption, study_figures.marked(points))
            for name, (caption, points) in studied.items()
            if study_figures.MEASURED in set(points["kind"])
        ],
        "retention": shown.retention_shown(retention),
        "differences": shown.option_differences(runs),
        "variants": shown.variant_tables(runs),
        "scorecard": card,
        "manifests": [(run.name, manifest_json(run)) for run in runs],
        "passports": passport_rows(runs),
    }


def cost_context(leading: list[Run], costs: list[CostRecord], paper_costs: PaperCosts) -> dict[str, Any]:
    """The cost section: what the leading run measured, and what was predicted for the paper's size."""
    return {
        "measured": shown.costs_shown([record for record in leading[0].costs if record.kind == "measured"]),
        "predicted": shown.costs_shown([record for record in costs if record.kind == "predicted"]),
        "paper_costs": paper_costs,
        "charts": [(chart.stem, figures.png_uri(chart.read_bytes())) for chart in paper_costs.charts],
    }


def passport_rows(runs: Sequence[Run]) -> list[tuple[str, dict[str, Any]]]:
    """The settings behind each score, by run, subject and suite."""
    return [
        (f"{run.name}, {SUBJECT_NAMES[subject].lower()}, {run.suites[suite]}", scored.summary.passport)
        for run in runs
        for (subject, suite), scored in run.scored.items()
    ]


def gib(num_bytes: float | None) -> str:
    """Bytes as GiB with two decimals; an en dash for an unknown amount."""
    return "–" if num_bytes is None else f"{num_bytes / 2**30:.2f} GiB"
