"""The report's folder: index.html (one self-contained file), tables, claims and figures, written as a whole."""

import os
import tempfile
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from bench.records import CostRecord
from reports import figures, paper, pictures, tables
from reports.claims import Judgement, judge_claims, judging_group, write_claims
from reports.cost import figure4
from reports.cost.load import PaperCosts, all_records, load_paper_costs
from reports.estimates import NoEvidenceError
from reports.runs import BENCHMARK_NAMES, SUBJECT_NAMES, SUBJECTS, Run, groups, load_runs, manifest_json
from reports.scorecard import alarms, scorecard, verdict_counts
from reports.theme import DARK, LIGHT

COST_RESULTS = Path(__file__).parents[1] / "docs" / "results" / "cost"  # predicted costs of the full-size models
FAMILY_NAMES = {"flux": "FLUX", "sd3": "SD3", "zimage": "Z-Image", "qwenimage": "Qwen-Image", "flux2": "FLUX.2"}
TEMPLATES = Path(__file__).parent / "templates"


def write_report(
    run_dirs: Sequence[Path | str], out_dir: Path | str, *, cost_dir: Path | str = COST_RESULTS
) -> list[Judgement]:
    """Write the report of these runs into ``out_dir`` and return the claims' verdicts.

    Reads files only. What a run lacks is named on the page. ``cost_dir`` holds what ``python -m bench cost --paper``
    predicted for the full-size models; it may be absent. Raises FileNotFoundError or ValueError for what is no run
    folder or a broken file, before anything is written. Files are made beside ``out_dir`` and then moved into it.
    """
    runs, out_dir = load_runs(run_dirs), Path(out_dir)
    paper_costs = load_paper_costs(Path(cost_dir))
    judgements = judge_claims(runs, all_records(runs, paper_costs))
    out_dir.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out_dir, prefix=".writing-") as folder:
        staging = Path(folder)
        _write_files(runs, paper_costs, judgements, staging)
        for file in sorted(staging.iterdir()):
            os.replace(file, out_dir / file.name)
    return judgements


def _write_files(runs: list[Run], paper_costs: PaperCosts, judgements: list[Judgement], out_dir: Path) -> None:
    frame = tables.table1(runs)
    tables.write_table1(frame, out_dir)
    write_claims(judgements, out_dir / "claims.json")
    card = scorecard(runs)
    (out_dir / "scorecard.md").write_text(tables.markdown(card), encoding="utf-8")
    context = {
        **summary_context(runs, judgements),
        **evidence_context(runs, all_records(runs, paper_costs), frame, out_dir),
        "paper_costs": paper_costs,
        "charts": [(chart.stem, figures.png_uri(chart.read_bytes())) for chart in paper_costs.charts],
        "scorecard": card,
        "judgements": judgements,
        "light": LIGHT,
        "dark": DARK,
    }
    (out_dir / "index.html").write_text(render(context), encoding="utf-8")


def render(context: dict[str, Any]) -> str:
    """The page's HTML; every value is escaped, a name that the template lacks is an error."""
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"number": tables.number, "clock": clock, "gib": gib}
    return environment.get_template("page.html").render(context)


def summary_context(runs: list[Run], judgements: list[Judgement]) -> dict[str, Any]:
    """What the page opens with: headline numbers of the leading run, verdict counts, pictures, warnings."""
    leading = leading_runs(runs)
    pairs = pictures.picture_pairs(leading[0])
    return {
        "title": title(runs),
        "written": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "runs": runs,
        "leading": leading,
        "headline": headline(leading, judgements),
        "counts": verdict_counts(judgements),
        "pairs": [
            (pair, {subject: pictures.data_uri(pair.pictures[subject].path) for subject in SUBJECTS}) for pair in pairs
        ],
        "alarms": [(run.name, message) for run in runs for message in alarms(run)],
        "warnings": [warning for run in runs for warning in warnings(run)],
        "missing": [(run.name, run.missing) for run in runs if run.missing],
        "subjects": SUBJECT_NAMES,
    }


def title(runs: Sequence[Run]) -> str:
    """ "L2P on FLUX, in miniature": the families and sizes of the runs."""
    families = ", ".join(FAMILY_NAMES.get(name, name) for name in dict.fromkeys(run.family for run in runs))
    sizes = {run.size for run in runs}
    return f"L2P on {families}" + (", in miniature" if sizes == {"miniature"} else "")


def leading_runs(runs: list[Run]) -> list[Run]:
    """The runs that judge the claims; without any, the run with the most scores."""
    try:
        return judging_group(runs)
    except NoEvidenceError:
        return [max(runs, key=lambda run: (len(run.scored), run.num_train_images))]


JUDGED_BY = {"geneval": "C1", "dpg": "C2", "heldout": "C9"}
PAPER_SAYS = {
    "geneval": "paper about 93 %",
    "dpg": f"paper {100 * paper.TABLE1_L2P.dpg / paper.TABLE1_SOURCE.dpg:.1f} %",
}


def headline(leading: list[Run], judgements: list[Judgement]) -> list[dict[str, Any]]:
    """One entry a benchmark with scores: retention with its interval, both models' overall, and the claim it judges."""
    table = tables.retention_table(leading)
    entries = []
    for benchmark, name in BENCHMARK_NAMES.items():
        rows = table[table["benchmark"] == benchmark].sort_values("num_seeds")
        scored = [leading[0].scored.get((subject, benchmark)) for subject in SUBJECTS]
        judged = [j for j in judgements if j.claim.id == JUDGED_BY[benchmark] and j.scope == leading[0].size]
        entry = {
            "name": name,
            "decimals": 1 if benchmark == "dpg" else 3,
            "judgement": next(iter(judged), None),
            "band": None if benchmark == "dpg" else figures.C1_BAND,
            "paper": PAPER_SAYS.get(benchmark),
        }
        if not rows.empty:
            entries.append({**entry, **rows.iloc[-1].to_dict()})
        elif any(scored):  # scores, but no ratio: of one model only, or of a source that draws next to nothing
            overall = [part.summary.overall if part else None for part in scored]
            entries.append({**entry, "value": None, **dict(zip(SUBJECTS, overall, strict=True))})
    return entries


def warnings(run: Run) -> list[str]:
    """What a reader must know before believing a run's numbers."""
    found = []
    if run.manifest.get("allow_missing"):
        rejected = (run.transfer or {}).get("rejected", [])
        found.append(
            f"{run.name}: went on with --allow-missing; {len(rejected)} corpus images were missing or damaged."
        )
    if (run.manifest.get("git") or {}).get("dirty"):
        found.append(f"{run.name}: made by code with uncommitted changes.")
    for (subject, benchmark), scored in run.scored.items():
        summary = scored.summary
        if summary.num_scored < summary.num_expected:
            what = f"{run.name}: {SUBJECT_NAMES[subject].lower()} on {BENCHMARK_NAMES[benchmark]}"
            left_out = len(summary.passport.get("left_out", ()))
            why = f" ({left_out} left out by the {summary.variant} variant's own rule)" if left_out else ""
            found.append(f"{what}: {summary.num_scored} of {summary.num_expected} scored{why}.")
    return found


def evidence_context(runs: list[Run], costs: list[CostRecord], frame: pd.DataFrame, out_dir: Path) -> dict[str, Any]:
    """Tables and figures; a figure whose files are absent is None, and the page says so."""
    leading = leading_runs(runs)
    retention = tables.retention_table(runs)
    measured = [record for run in leading[:1] for record in run.costs if record.kind == "measured"]
    pairs = pictures.picture_pairs(leading[0])
    draw = {
        "grid": lambda theme: pictures.draw_grid(pairs, theme) if pairs else None,
        "training-curve": lambda theme: figures.training_curve(leading, theme),
        "geneval-tasks": lambda theme: figures.task_bars(tables.task_table(leading[:1]), theme),
        "retention": lambda theme: figures.retention_curve(retention, theme),
        "cost": lambda theme: figures.cost_bars(measured, theme),
        "figure4": lambda theme: figure4.draw(costs, theme, width=figures.WIDTH),
    }
    predicted = [record for record in costs if record.kind == "predicted"]
    return {
        "figures": {name: figures.save(name, function, out_dir) for name, function in draw.items()},
        "blocks": [(title, tables.displayed(part)) for title, part in reversed(tables.blocks(frame))],
        "notes": paper.TABLE1_NOTES,
        "judge_checks": judge_check_rows(runs),
        "retention": retention_shown(retention),
        "differences": option_differences(runs),
        "measured": costs_shown(measured),
        "predicted": costs_shown(predicted),
        "variants": variant_rows(runs),
        "manifests": [(run.name, manifest_json(run)) for run in runs],
        "passports": passport_rows(runs),
    }


def judge_check_rows(runs: Sequence[Run]) -> pd.DataFrame:
    """What the judges themselves score where the truth is known: the ceiling of what they measure."""
    rows = [
        {
            "Run": run.name,
            "Judge": check["judge"],
            "What": check["what"],
            "Value": f"{check['value']:.3f}",
            "n": f"{check['n']:,}",
        }
        for run in runs
        for check in run.judge_checks
    ]
    return pd.DataFrame(rows)


def retention_shown(table: pd.DataFrame) -> pd.DataFrame:
    """The retention table as text."""
    decimals = [1 if benchmark == "dpg" else 3 for benchmark in table["benchmark"]]
    return pd.DataFrame(
        {
            "Run": table["run"],
            "Benchmark": table["benchmark"].map(BENCHMARK_NAMES),
            "Retention": [tables.interval(*cells) for cells in table[["value", "low", "high"]].itertuples(index=False)],
            **{
                SUBJECT_NAMES[subject]: [tables.number(v, d) for v, d in zip(table[subject], decimals, strict=True)]
                for subject in SUBJECTS
            },
            "Seeds": table["num_seeds"].astype(str),
            "n": [tables.number(n, 0) for n in table["n"]],
            "Images trained on": [tables.number(n, 0) for n in table["train_images"]],
            "Transfer": [clock(seconds) for seconds in table["seconds"]],
        }
    )


def option_differences(runs: Sequence[Run]) -> pd.DataFrame:
    """Options in which the transfers of several recipes differ, a column a recipe; empty for one recipe."""
    transfers = {group: members[0].transfer for group, members in groups(runs).items()}
    options = {group: transfer["options"] for group, transfer in transfers.items() if transfer}
    names = dict.fromkeys(name for given in options.values() for name in given)
    values = {name: {group: str(given.get(name, "–")) for group, given in options.items()} for name in names}
    return pd.DataFrame([{"Option": name, **row} for name, row in values.items() if len(set(row.values())) > 1])


def costs_shown(records: Sequence[CostRecord]) -> pd.DataFrame:
    """Cost records as text, one row a case and protocol."""
    table = tables.cost_table(records)
    if table.empty:
        return table
    texts = {
        "Case": table["case"],
        "Batch": table["batch"].astype(str),
        "TFLOP": [tables.number(value, 3) for value in table["TFLOP"]],
        "Peak MiB": [tables.number(value, 0) for value in table["peak MiB"]],
        "Latency ms": [tables.number(value, 2) for value in table["latency ms"]],
        "Timings": table["timings"].astype(str),
        "Protocol": table["protocol"],
        "Device": table["device"],
    }
    return pd.DataFrame(texts)


def variant_rows(runs: Sequence[Run]) -> pd.DataFrame:
    """DPG-Bench under every scoring variant that was kept: a row a run and subject, a column a variant."""
    rows = [
        {"Run": run.name, "Model": SUBJECT_NAMES[subject]}
        | {
            name: tables.interval(variant.overall, *variant.overall_ci95, 2)
            for name, variant in scored.variants.items()
        }
        for run in runs
        for (subject, benchmark), scored in run.scored.items()
        if benchmark == "dpg" and scored.variants
    ]
    return pd.DataFrame(rows).fillna("–") if rows else pd.DataFrame()


def passport_rows(runs: Sequence[Run]) -> list[tuple[str, dict[str, Any]]]:
    """The settings behind each score, by run, subject and benchmark."""
    return [
        (f"{run.name}, {SUBJECT_NAMES[subject].lower()}, {BENCHMARK_NAMES[benchmark]}", scored.summary.passport)
        for run in runs
        for (subject, benchmark), scored in run.scored.items()
    ]


def clock(seconds: float | None) -> str:
    """ "3 min 20 s", "2 h 05 min"; an en dash for an unknown time."""
    if seconds is None or pd.isna(seconds):
        return "–"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


def gib(num_bytes: float | None) -> str:
    """Bytes as GiB with two decimals; an en dash for an unknown amount."""
    return "–" if num_bytes is None else f"{num_bytes / 2**30:.2f} GiB"
