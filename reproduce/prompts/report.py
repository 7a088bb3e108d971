"""What was written and what was rejected, as Markdown, and the prompts' lengths beside the paper's as a picture."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

PAPER_PEAK = (200, 350)  # characters, section 3.2
BIN = 25


def write_report(
    out: Path, accepted: Sequence[Mapping], rejected: Sequence[Mapping], num_overlaps: Mapping[str, int]
) -> None:
    """Write `<out>.report.md` and `<out>.lengths.png` beside the prompts."""
    draw_lengths([len(row["text"]) for row in accepted], out.with_name(f"{out.stem}.lengths.png"))
    lines = [
        f"# Prompts of {out.name}",
        "",
        f"{len(accepted):,} accepted, {len(rejected):,} rejected; "
        f"{len({row['category'] for row in accepted}):,} fine categories. {_lengths_told(accepted)}",
        "",
        f"![Lengths]({out.stem}.lengths.png)",
        "",
        *rejected_table(accepted, rejected),
        "",
        "Overlaps with benchmarks' prompts found: "
        + ", ".join(f"{name} {number}" for name, number in num_overlaps.items())
        + ".",
    ]
    out.with_name(f"{out.stem}.report.md").write_text("\n".join(lines) + "\n", "utf-8")


def rejected_table(accepted: Sequence[Mapping], rejected: Sequence[Mapping]) -> list[str]:
    """A Markdown table: a row a sub-class, what was accepted and rejected by each rule."""
    rules = list(Counter(row["rule"] for row in rejected))
    good = Counter(_subclass(row) for row in accepted)
    bad = Counter((_subclass(row), row["rule"]) for row in rejected)
    lines = ["| sub-class | accepted | " + "".join(f"{rule} | " for rule in rules) + "rejected |"]
    lines.append("|---|" + "---:|" * (len(rules) + 2))
    for name in sorted({*good, *(subclass for subclass, _ in bad)}):
        counts = [bad[name, rule] for rule in rules]
        lines.append(f"| {name} | {good[name]:,} | " + "".join(f"{n} | " for n in counts) + f"{sum(counts)} |")
    totals = [sum(bad[name, rule] for name, _ in {(n, rule) for n, r in bad if r == rule}) for rule in rules]
    lines.append(f"| all | {len(accepted):,} | " + "".join(f"{n} | " for n in totals) + f"{len(rejected)} |")
    return lines


def draw_lengths(lengths: Sequence[int], path: Path) -> None:
    """A histogram of lengths in characters, the band of the paper's peak shaded."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 3), layout="constrained")
    axes = figure.subplots()
    axes.axvspan(*PAPER_PEAK, color="tab:orange", alpha=0.2, label="the paper's peak, 200 to 350")
    axes.hist(lengths, bins=range(0, max(lengths) + BIN, BIN), color="tab:blue", label=f"{len(lengths):,} prompts")
    axes.set(xlabel="characters", ylabel="prompts")
    axes.legend()
    figure.savefig(path, dpi=100)


def _lengths_told(accepted: Sequence[Mapping]) -> str:
    lengths = sorted(len(row["text"]) for row in accepted)
    peak = Counter(length // BIN * BIN for length in lengths).most_common(1)[0][0]
    within = sum(PAPER_PEAK[0] <= length <= PAPER_PEAK[1] for length in lengths) / len(lengths)
    return (
        f"Lengths: median {lengths[len(lengths) // 2]} characters, most at {peak} to {peak + BIN}, "
        f"{within:.0%} within the paper's peak of {PAPER_PEAK[0]} to {PAPER_PEAK[1]}."
    )


def _subclass(row: Mapping[str, Any]) -> str:
    return row["category"].rpartition("/")[0]
