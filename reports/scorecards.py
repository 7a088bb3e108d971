"""Scorecards: one page and one picture a family, and a table of all families side by side, from run folders alone."""

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from textwrap import fill
from typing import Any

import pandas as pd
from matplotlib.figure import Figure
from PIL import Image

from bench.records import CostRecord
from l2p.errors import InputError
from l2p.pictures import read_picture
from reports import families, figures, page, paper, pictures, shown, table_files, tables, written
from reports.claims import NO_CASE, Judgement, judge_claims, verdict_counts
from reports.cost import figure4
from reports.cost.load import PaperCosts, all_records, load_paper_costs
from reports.runs import SUBJECT_NAMES, SUBJECTS, Run, alarms, load_runs
from reports.theme import DARK, LIGHT, THEMES, Theme

COST_RESOLUTIONS = (1024, 4096)


@dataclass(frozen=True, kw_only=True)
class Card:
    """One family at one size: all its runs, those that judge its claims, its verdicts, and pairs of pictures."""

    name: str
    runs: list[Run]
    leading: list[Run]
    judgements: list[Judgement]
    pairs: list[pictures.Pair]

    @property
    def title(self) -> str:
        """ "FLUX, in miniature"."""
        return self.leading[0].case_title + (", in miniature" if self.leading[0].size == "miniature" else "")


def write_scorecards(
    run_dirs: Sequence[Path | str],
    out_dir: Path,
    *,
    cost_dir: Path = page.COST_RESULTS,
    say: Callable[[str], None] = lambda sentence: None,
) -> list[Card]:
    """Write <family>.html and .png for each family of these runs, and index.html, families.* side by side.

    Reads files only; pictures stand where a run has them. Raises as ``reports.page.write_report`` does, before anything
    is written.
    """
    runs, out_dir = load_runs(run_dirs), Path(out_dir)
    written.refuse_folder(out_dir, [run.path for run in runs])
    paper_costs = load_paper_costs(cost_dir)
    costs = all_records(runs, paper_costs)
    cards = make_cards(runs, judge_claims(runs, costs), say)
    with tempfile.TemporaryDirectory(prefix="scorecards-") as folder:
        staging = Path(folder)
        for card in cards:
            _write_card(card, costs, paper_costs, staging)
        _write_index(cards, staging)
        written.publish(staging, out_dir, "python -m reports scorecard")
    return cards


def make_cards(
    runs: Sequence[Run], judgements: Sequence[Judgement], say: Callable[[str], None] = lambda sentence: None
) -> list[Card]:
    """The cards of all families, worlds and sizes, in the paper's order of families."""
    keys = sorted({(*run.case, run.size) for run in runs}, key=_order)
    cards = []
    for family, world, size in keys:
        members = [run for run in runs if (*run.case, run.size) == (family, world, size)]
        leading = page.leading_groups(members)[0]
        pairs, unreadable = _pairs([*leading, *members])
        for sentence in unreadable:
            say(sentence)
        several = {part: len({key[part] for key in keys if key[0] == family}) > 1 for part in (1, 2)}
        name = table_files.slug(" ".join((family, *[world] * several[1], *[size] * several[2])))
        mine = [
            one
            for one in judgements
            if (one.family, one.world) in (NO_CASE, (family, world)) and one.scope in (size, "paper")
        ]
        cards.append(Card(name=name, runs=members, leading=leading, judgements=mine, pairs=pairs))
    if len({card.name for card in cards}) < len(cards):
        raise InputError(f"two families would write one file: {', '.join(' '.join(key) for key in keys)}")
    return cards


def _order(key: tuple[str, str, str]) -> tuple[int, str, str, str]:
    family, world, size = key
    return families.place(family), family, world, size


def _pairs(runs: Sequence[Run]) -> tuple[list[pictures.Pair], list[str]]:
    """The pictures of the first run that has any."""
    unreadable: list[str] = []
    for run in runs:
        pairs, sentences = pictures.readable(pictures.picture_pairs(run, per_task=1))
        unreadable += [sentence for sentence in sentences if sentence not in unreadable]
        if pairs:
            return pairs, unreadable
    return [], unreadable


def _write_card(card: Card, costs: list[CostRecord], paper_costs: PaperCosts, out: Path) -> None:
    drawn = {name: figures.pngs(name, draw) for name, draw in _drawings(card, costs).items()}
    uris = {
        name: {theme: figures.png_uri(content) for theme, content in by_theme.items()} if by_theme else None
        for name, by_theme in drawn.items()
    }
    transfer = card.leading[0].transfer
    context = {
        "title": f"Scorecard: {card.title}",
        "written": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "card": card,
        "leading": card.leading[0],
        "headline": page.headline(card.leading, card.judgements),
        "counts": verdict_counts(card.judgements),
        "pairs": pictures.with_uris(card.pairs),
        "figures": uris,
        "facts": facts(card.leading),
        "costs": costs_shown(card.leading[0].family, costs),
        "image_costs": image_costs(card.leading[0].family, paper_costs),
        "alarms": [(run.name, message) for run in card.leading for message in alarms(run)],
        "warnings": [warning for run in card.leading for warning in page.warnings(run)],
        "claims": claims_shown(card.judgements),
        "settings": settings(card.leading[0]),
        "transfer": transfer,
        "subjects": SUBJECT_NAMES,
        "light": LIGHT,
        "dark": DARK,
    }
    (out / f"{card.name}.html").write_text(page.render("card.html", context), encoding="utf-8")
    for theme in THEMES:
        suffix = "" if theme is LIGHT else f"-{theme.name}"
        parts = {name: by_theme[theme.name] for name, by_theme in drawn.items() if by_theme}
        sheet([part for name, part in parts.items() if name != "grid"], theme, parts.get("grid")).save(
            out / f"{card.name}{suffix}.png", "PNG", optimize=True
        )


def _drawings(card: Card, costs: Sequence[CostRecord]) -> dict[str, figures.Draw]:
    """The figures of a card, by name, in the order in which the picture shows them."""
    tasks, dpg = tables.task_table(card.leading[:1]), dpg_table(card.leading[0])
    retention = tables.retention_of_judging(card.runs)
    return {
        "head": lambda theme: draw_head(card, costs, theme),
        "tasks": lambda theme: figures.task_bars(tasks, theme),
        "dpg": lambda theme: figures.task_bars(dpg, theme, title="DPG-Bench by category", scale=100),
        "retention": lambda theme: figures.retention_curve(retention, theme),
        "grid": lambda theme: pictures.draw_grid(card.pairs, theme) if card.pairs else None,
    }


def dpg_table(run: Run) -> pd.DataFrame:
    """DPG-Bench by the paper's five categories, in ``tables.task_table``'s columns, with the scores' own intervals."""
    rows = []
    for subject in SUBJECTS:
        if scored := run.scored.get((subject, "dpg")):
            known = (scored.summary.passport.get("details") or {}).get("by_category_ci95") or {}
            for name in paper.DPG_COLUMNS:
                if name in scored.summary.by_category:
                    low, high = known.get(name) or (None, None)
                    value = {"value": scored.summary.by_category[name], "low": low, "high": high, "n": None}
                    rows.append({"run": run.name, "subject": subject, "task": name, **value})
    frame = pd.DataFrame(rows, columns=["run", "subject", "task", "value", "low", "high", "n"])
    return frame.astype({"low": float, "high": float})


def facts(seeds: Sequence[Run]) -> dict[str, str]:
    """A transfer's small numbers as text: what was trained, for how long, on what, and how it went."""
    run = seeds[0]
    found = {"Runs": ", ".join(one.name for one in seeds)}
    if summary := run.transfer:
        trained, total = summary["num_trainable_parameters"], summary["num_parameters"]
        found["Parameters trained"] = f"{trained / total:.0%} of {total / 1e6:,.1f} M"
        blocks = summary["num_trainable_blocks"]
        found["Trained on"] = (
            f"{run.num_train_images:,} images: {summary['num_train_steps']:,} steps of {summary['batch_size']}"
        )
        found["Blocks at each end"] = str(blocks)
        found["Time of the transfer"] = shown.clock(summary["seconds"])
        same = summary.get("frozen_sha256_before") == summary.get("frozen_sha256_after")
        found["Frozen part"] = "unchanged, by hash" if same else "CHANGED"
    if run.corpus:
        found["Corpus"] = f"{run.corpus.num_images:,} images, {run.corpus.num_rejected:,} rejected"
    found["Alarms"] = str(sum(len(alarms(one)) for one in seeds))
    return found


def costs_shown(family: str, costs: Sequence[CostRecord]) -> pd.DataFrame:
    """What one denoising step of the family's full-size models costs at 1K and 4K, predicted, as text."""
    rows = []
    for resolution in COST_RESOLUTIONS:
        for model in SUBJECTS:
            if record := _step(costs, family, model, resolution):
                band = record.roofline_s.get(figure4.DEVICE)
                rows.append(
                    {
                        "Model": f"{SUBJECT_NAMES[model]}, {resolution} px",
                        "TFLOP": tables.number(record.flops and record.flops / 1e12, 1),
                        "Peak memory": page.gib(record.peak_memory_bytes),
                        "H100, modelled": f"{band[0]:.2g} to {band[1]:.2g} s" if band else "–",
                    }
                )
    return pd.DataFrame(rows)


def _step(costs: Sequence[CostRecord], family: str, model: str, resolution: int) -> CostRecord | None:
    """One forward of one image, nothing counted beside the model."""
    wanted = ("predicted", family, model, resolution, 1, (), None)
    found = (
        record
        for record in costs
        if wanted
        == (
            *(record.kind, record.family, record.model, record.resolution, record.batch_size),
            *(tuple(record.counted), record.training),
        )
    )
    return next(found, None)


def image_costs(family: str, paper_costs: PaperCosts) -> pd.DataFrame:
    """The family's rows of the table of whole images, as it was written; empty where there is none."""
    for table in paper_costs.tables:
        if table.title.startswith("Cost of an image") and {"family", "resolution"} <= set(
            table.rows.columns.str.lower()
        ):
            column = next(name for name in table.rows.columns if name.lower() == "family")
            rows = table.rows[table.rows[column] == family].drop(columns=column)
            return rows[[name for name in rows.columns if not name.lower().startswith(("a100", "rtx"))]]
    return pd.DataFrame()


def claims_shown(judgements: Sequence[Judgement]) -> list[Judgement]:
    """The judgements that have a verdict first, in the claims' order."""
    return sorted(judgements, key=lambda one: (one.evidence is None, int(one.claim.id[1:])))


def settings(run: Run) -> dict[str, str]:
    """What the card's numbers depend on, as text."""
    samplers = {
        f"{SUBJECT_NAMES[name.removesuffix('_sampler')].lower()} sampler": run.recipe[name]
        for name in ("source_sampler", "l2p_sampler")
        if name in run.recipe
    }
    found = {
        name: ", ".join(f"{key} {value}" for key, value in given.items() if value is not None)
        for name, given in samplers.items()
    }
    options = (run.transfer or {}).get("options") or {}
    found["transfer"] = ", ".join(f"{key} {value}" for key, value in options.items() if value is not None)
    for name in ("source", "resolution", "dtype", "sample_seed"):
        if name in run.recipe:
            found[name.replace("_", " ")] = str(run.recipe[name])
    found["source sha256"] = str((run.manifest.get("inputs") or {}).get("source_sha256", "unknown"))
    found["device"] = str(run.manifest.get("device", "unknown"))
    found["commit"] = str((run.manifest.get("git") or {}).get("commit") or "unknown")
    return found


# --- the picture ----------------------------------------------------------------------------------------------------


def draw_head(card: Card, costs: Sequence[CostRecord], theme: Theme) -> Figure:
    """The picture's first part: title, what was kept by suite, facts, cost of a step at full size, verdicts."""
    entries = page.headline(card.leading, card.judgements)
    told = facts(card.leading)
    by_verdict: dict[str, list[str]] = {}
    for one in card.judgements:
        by_verdict.setdefault(one.verdict, []).append(one.claim.id)
    verdicts = [f"{name[0].upper()}{name[1:]}: {', '.join(dict.fromkeys(ids))}" for name, ids in by_verdict.items()]
    lines = [f"{name}: {value}" for name, value in told.items()] + ["", *cost_lines(card, costs), "", *verdicts]
    text = "\n".join(fill(line, 58, subsequent_indent="   ") for line in lines)
    height = 1.0 + 0.52 * len(entries) + 0.165 * (text.count("\n") + 1)
    figure = Figure(figsize=(figures.WIDTH, height))
    axes = figure.subplots()
    axes.set_axis_off()
    axes.set(xlim=(0, figures.WIDTH), ylim=(height, 0))
    axes.text(0.05, 0.3, card.title, color=theme.text, fontsize=15, weight="bold", va="center")
    for k, entry in enumerate(entries):
        top = 0.85 + 0.52 * k
        kept = "–" if entry["value"] is None else f"{100 * entry['value']:.1f} %"
        band = "" if entry["value"] is None else f"({100 * entry['low']:.1f}, {100 * entry['high']:.1f})"
        axes.text(0.05, top, kept, color=theme.pixel, fontsize=17, weight="bold", va="center")
        axes.text(1.35, top - 0.1, f"of {entry['name']} kept {band}", color=theme.text, fontsize=9.5, va="center")
        scores = [tables.number(entry[subject], entry["decimals"]) for subject in SUBJECTS]
        below = f"source {scores[0]}, pixel model {scores[1]}"
        if entry["judgement"]:
            below += f" · {entry['judgement'].claim.id} {entry['judgement'].verdict}"
        axes.text(1.35, top + 0.1, below, color=theme.muted, fontsize=8.5, va="center")
    axes.text(0.05, height - 0.1, text, color=theme.text, fontsize=8.5, va="bottom", linespacing=1.35)
    return figure


def cost_lines(card: Card, costs: Sequence[CostRecord]) -> list[str]:
    """One step of the family's full-size models at 1K and 4K, predicted: a line a resolution."""
    lines = []
    for resolution in COST_RESOLUTIONS:
        steps = [_step(costs, card.leading[0].family, model, resolution) for model in SUBJECTS]
        told = [
            f"{tables.number(one.flops / 1e12, 0)} TFLOP" if one and one.flops else "not predicted" for one in steps
        ]
        memory = [page.gib(one.peak_memory_bytes if one else None) for one in steps]
        lines.append(f"A step at {resolution} px, predicted: {' → '.join(told)}, {' → '.join(memory)}")
    return lines


def sheet(parts: Sequence[bytes], theme: Theme, below: bytes | None = None) -> Image.Image:
    """PNG parts in two columns on one picture, each where the shorter column ends; ``below`` lies across both."""
    images = [read_picture(part) for part in parts]
    width = max(image.width for image in images)
    images = [
        image.resize((width, round(image.height * width / image.width)), Image.Resampling.LANCZOS) for image in images
    ]
    gap, columns, places = width // 30, [0, 0], []
    for image in images:
        column = columns.index(min(columns))
        places.append((gap + column * (width + gap), gap + columns[column]))
        columns[column] += image.height + gap
    wide = read_picture(below) if below else None
    if wide is not None:
        wide = wide.resize((2 * width + gap, round(wide.height * (2 * width + gap) / wide.width)))
        images.append(wide)
        places.append((gap, gap + max(columns)))
        columns = [max(columns) + wide.height + gap] * 2
    canvas = Image.new("RGB", (2 * width + 3 * gap, max(columns) + gap), theme.background)
    for image, place in zip(images, places, strict=True):
        canvas.paste(image, place)
    return canvas


# --- all families ---------------------------------------------------------------------------------------------------


def _write_index(cards: Sequence[Card], out: Path) -> None:
    context = {
        "title": "Scorecards by architecture",
        "written": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "cards": cards,
        "parts": side_by_side(cards, out),
        "headlines": {card.name: page.headline(card.leading, card.judgements) for card in cards},
        "light": LIGHT,
        "dark": DARK,
    }
    (out / "index.html").write_text(page.render("cards.html", context), encoding="utf-8")


def side_by_side(cards: Sequence[Card], out: Path) -> list[dict[str, Any]]:
    """Write families.* and pairs.* for every size and world that families share; what the page shows of each.

    A family that is alone in its world stands beside no other; it has a part where no two families share one.
    """
    shared: dict[tuple[str, str], list[Card]] = {}
    for card in cards:
        shared.setdefault((card.leading[0].size, card.leading[0].world), []).append(card)
    several = {key: of for key, of in shared.items() if len(of) > 1} or shared
    apart = [len({key[part] for key in several}) > 1 for part in (0, 1)]
    parts = []
    for (size, world), of in several.items():
        alike = families.at_one_length([card.runs for card in of], [card.leading for card in of])
        pairs = families.compared(alike)
        raw = families.families_table(alike, pairs)
        text = families.families_shown(raw, {_key(members[0]): _short_facts(members) for members in alike})
        suffix = "".join(f"-{table_files.slug(name)}" for name, told in zip((size, world), apart, strict=True) if told)
        where = ", ".join(filter(None, (f"{size} size", world)))
        caption = f"Families side by side, {where}: source → pixel model, what was kept with its 95 % interval"
        table_files.write_table(f"families{suffix}", raw, text, caption, out)
        decimals = {suite: int(number) for suite, number in zip(raw["suite"], raw["decimals"], strict=True)}
        versus = families.pairs_shown([pair for pair in pairs if pair.suite in decimals], decimals)
        caption = (
            "Two families each: pixel model less source in points, the first named less the second (below 0: the first "
            "lost more), corrected for all comparisons"
        )
        table_files.write_table(f"pairs{suffix}", families.pairs_table(pairs), versus, caption, out)
        uris = figures.save(f"families{suffix}", partial(figures.kept_by_family, raw), out)
        parts.append({"where": where, "families": text, "pairs": versus, "count": len(pairs), "kept": uris})
    return parts


def _key(run: Run) -> tuple[str, str]:
    return run.family_title, run.size


def _short_facts(seeds: Sequence[Run]) -> dict[str, str]:
    told = facts(seeds)
    names = {
        "Parameters trained": "Trained",
        "Trained on": "Images",
        "Alarms": "Alarms",
    }
    return {short: told[name].split(":")[0].removesuffix(" images") for name, short in names.items() if name in told}
