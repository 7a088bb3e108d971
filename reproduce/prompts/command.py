"""`python -m reproduce prompts`: categories, prompts and their audit."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from reproduce.prompts import DEFAULT_OUT
from reproduce.prompts.make import PromptsConfig, beside, check, make_prompts
from reproduce.prompts.taxonomy import load_taxonomy, num_categories

TOKENS_A_PROMPT = 350  # instruction and reply of a detailed one, roughly


def prompts(
    num: Annotated[int, typer.Option(min=1, max=10_000_000, help="how many accepted prompts")] = 10_000,
    out: Annotated[Path, typer.Option(help="JSON Lines file; what belongs to it lies beside it")] = Path(DEFAULT_OUT),
    writer: Annotated[str, typer.Option(help="grammar, transformers:FOLDER-OR-ID or openai:MODEL")] = "grammar",
    seed: Annotated[int, typer.Option(min=0, max=2**62, help="of the categories' order and all that is drawn")] = 0,
    expand: Annotated[
        int | None, typer.Option(min=1, max=1_000_000, help="have the writer's model add fine categories up to this")
    ] = None,
    verdict: Annotated[str | None, typer.Option(help="a model that judges every prompt, named as a writer")] = None,
    dpg_questions: Annotated[Path | None, typer.Option(help="DPG-Bench's question file, for its prompts")] = None,
    keep_overlap: Annotated[bool, typer.Option("--keep-overlap", help="report overlaps only")] = False,
    max_tokens: Annotated[
        int | None, typer.Option(min=1, max=10**12, help="stop a server's use at so many tokens")
    ] = None,
    plan: Annotated[bool, typer.Option("--plan", help="say what would be done, and stop")] = False,
) -> int:
    """Make the corpus's prompts: python -m reproduce prompts --num 10000 --out prompts/corpus.jsonl.

    $OPENAI_BASE_URL and $OPENAI_API_KEY say where a server is. A run that was stopped goes on with the same command;
    a larger --num adds to what is there.
    """
    config = PromptsConfig(
        num=num,
        out=out,
        writer=writer,
        seed=seed,
        expand=expand,
        verdict=verdict,
        dpg_questions=dpg_questions,
        keep_overlap=keep_overlap,
        max_tokens=max_tokens,
    )
    check(config)
    console = Console(soft_wrap=True, highlight=False)
    console.print(planned(config), markup=False)
    return 0 if plan else made(config, console)


def planned(config: PromptsConfig) -> str:
    """What a run will do and use, in a sentence or two."""
    calls = (config.writer != "grammar") + (config.verdict is not None)
    cost = f", roughly {config.num * calls * TOKENS_A_PROMPT:,} tokens of models" if calls else ""
    categories = config.expand or num_categories(load_taxonomy())
    return f"{config.num:,} prompts by {config.writer} for {categories:,} fine categories into {config.out}{cost}"


def made(config: PromptsConfig, console: Console) -> int:
    """Make them and say what there is now."""
    start = time.monotonic()
    numbers = make_prompts(config)
    console.print(
        f"wrote {numbers['accepted']:,} prompts to {config.out} in {time.monotonic() - start:.0f} s; "
        f"{numbers['rejected']:,} rejected: {beside(config.out, 'report.md')}",
        markup=False,
    )
    return 0
