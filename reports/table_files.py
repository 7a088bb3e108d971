"""Tables as files: CSV (raw values), Markdown and LaTeX (rounded, everything escaped, no empty columns)."""

import html
import re
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from reports import paper, shown, tables
from reports.runs import Run

EMPTY = ("", "–")


def write_table(name: str, raw: pd.DataFrame, text: pd.DataFrame, caption: str, out_dir: Path) -> None:
    """Write <name>.csv of ``raw``, <name>.md and <name>.tex of ``text``; nothing where the table has no row."""
    if raw.empty:
        return
    raw.to_csv(out_dir / f"{name}.csv", index=False)
    (out_dir / f"{name}.md").write_text(f"# {caption}\n\n{markdown(filled(text))}", encoding="utf-8")
    (out_dir / f"{name}.tex").write_text(latex(caption, f"tab:{name}", text), encoding="utf-8")


def filled(frame: pd.DataFrame) -> pd.DataFrame:
    """The columns that hold anything but dashes, the first one always."""
    kept = [k == 0 or not frame.iloc[:, k].isin(EMPTY).all() for k in range(len(frame.columns))]
    return frame.loc[:, kept]


def write_tables(runs: Sequence[Run], out_dir: Path) -> None:
    """Write all tables of a report: table 1, retention, GenEval's tasks, scoring variants."""
    write_table1(tables.table1(runs), out_dir)
    retention = tables.retention_table(runs)
    caption = "Retention: the pixel model's score divided by the source's, with 95 % intervals"
    write_table("retention", retention, shown.retention_shown(retention), caption, out_dir)
    tasks = tables.task_table(runs)
    write_table("tasks", tasks, shown.tasks_shown(tasks), "GenEval by task, with 95 % intervals", out_dir)
    variants = tables.variant_table(runs)
    caption = "The same answers scored by other variants of the rules, with 95 % intervals"
    write_table("variants", variants, shown.variants_shown(variants), caption, out_dir)


def write_table1(frame: pd.DataFrame, out_dir: Path) -> None:
    """Write table1.csv, table1.md and table1.tex; NaN stands as an empty cell in the CSV."""
    frame.to_csv(out_dir / "table1.csv", index=False)
    notes = "\n".join(f"- {note}" for note in paper.TABLE1_NOTES)
    blocks = [(title, filled(tables.displayed(part).drop(columns="Kind"))) for title, part in tables.blocks(frame)]
    parts = [f"## {title}\n\n{markdown(text)}" for title, text in blocks]
    (out_dir / "table1.md").write_text("# Table 1\n\n" + "\n".join(parts) + f"\nNotes\n{notes}\n", encoding="utf-8")
    labels = [f"tab:table1-{slug(title)}" for title, _ in blocks]
    body = "\n".join(latex(title, label, text) for (title, text), label in zip(blocks, labels, strict=True))
    (out_dir / "table1.tex").write_text(body, encoding="utf-8")


def slug(title: str) -> str:
    """A title's letters and figures, joined by hyphens: safe as a label and as a file's name."""
    return "-".join(re.findall(r"[a-z0-9]+", title.lower())) or "table"


def markdown(frame: pd.DataFrame) -> str:
    """A frame of text as a Markdown table; pipes, angle brackets and line ends of outside names cannot break out."""
    lines = [list(frame.columns), ["---"] * len(frame.columns), *frame.astype(str).values.tolist()]
    return "\n".join(map(markdown_row, lines)) + "\n"


def markdown_row(cells: Sequence[str]) -> str:
    """One line of a Markdown table, escaped."""
    return "| " + " | ".join(_markdown_cell(cell) for cell in cells) + " |"


def _markdown_cell(text: str) -> str:
    flat = html.escape(re.sub(r"\s+", " ", text), quote=False)
    return re.sub(r"([|`*_\[\]\\])", r"\\\1", flat)


def latex(caption: str, label: str, text: pd.DataFrame) -> str:
    """A booktabs table with caption and label; every special character of TeX is escaped."""
    body = filled(text).replace("–", "--", regex=True)
    body = body.rename(columns=lambda name: str(name))
    column_format = "l" + "r" * (len(body.columns) - 1)
    escaped = caption.replace("%", r"\%").replace("&", r"\&").replace("_", r"\_").replace("×", r"$\times$")
    return body.to_latex(index=False, escape=True, caption=escaped, label=label, column_format=column_format)
