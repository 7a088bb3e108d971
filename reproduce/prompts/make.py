"""Stages 1 to 3 in one go: briefs are written, audited and replaced until enough are accepted; resumable at any row."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from bench.dpg.questions import read_questions
from bench.geneval.prompts import generate
from bench.records import append_jsonl, check_file_to_write, read_json, read_jsonl, write_json, write_jsonl
from l2p.errors import InputError
from l2p.progress import counted
from reproduce.prompts.audit import Auditor, ask_verdicts
from reproduce.prompts.briefs import Brief, Writer, draw_brief
from reproduce.prompts.models import check_name
from reproduce.prompts.replies import Model
from reproduce.prompts.report import write_report
from reproduce.prompts.taxonomy import Group, expand, load_taxonomy, to_rows
from reproduce.prompts.writers import load_writer

BATCH_SIZE = {"grammar": 500}
MODEL_BATCH_SIZE = 16
MAX_REJECTED = 200  # rows in a row without one that is accepted: the writer does not understand what it is asked


@dataclass(frozen=True, kw_only=True)
class PromptsConfig:
    """What is made. `writer` and `verdict` are names (`grammar`, `transformers:ID`, `openai:MODEL`).

    `expand` is the number of fine categories wanted of the writer's model, None = ours as they are. `max_tokens` limits
    each server's use. `dpg_questions`: DPG-Bench's question file, whose prompts are told apart from ours.
    """

    num: int
    out: Path
    writer: str = "grammar"
    seed: int = 0
    expand: int | None = None
    verdict: str | None = None
    dpg_questions: Path | None = None
    keep_overlap: bool = False
    max_tokens: int | None = None


def beside(out: Path, what: str) -> Path:
    """The file beside `corpus.jsonl` that holds its written rows, rejected ones, report ..: `corpus.<what>`."""
    return out.with_name(f"{out.stem}.{what}")


def make_prompts(config: PromptsConfig) -> dict[str, int]:
    """Write `config.num` accepted prompts and their report; returns the numbers accepted, rejected and written.

    Raises ValueError for a folder begun with other settings, a writer whose rows are all rejected, spent tokens;
    ConnectionError when a server does not answer. Every row is on disk before the next batch is asked for.
    """
    check(config)
    config.out.parent.mkdir(parents=True, exist_ok=True)
    with _locked(config.out):
        writer_model, verdict_model = load_models(config)  # before anything is noted: a name may be wrong
        _begin(config)
        groups = find_taxonomy(config, writer_model)
        auditor = Auditor(known_prompts(config.dpg_questions), config.keep_overlap)
        judge = _Judge(config.out, auditor, verdict_model)
        _fill(config, groups, load_writer(config.writer, writer_model), judge)
        accepted, rejected = judge.accepted[: config.num], judge.rejected
        write_jsonl(beside(config.out, "rejected.jsonl"), rejected)
        write_report(config.out, accepted, rejected, auditor.num_overlaps)
        write_jsonl(config.out, accepted)  # last: who finds it finds all of it
    return {"accepted": len(accepted), "rejected": len(rejected), "categories": sum(len(g.subjects) for g in groups)}


def check(config: PromptsConfig) -> None:
    """ValueError or FileNotFoundError for what cannot be made, before anything is written."""
    if config.num < 1:
        raise InputError(f"--num {config.num}: give 1 or more")
    if config.out.suffix != ".jsonl":
        raise InputError(f"--out {config.out}: give a file that ends in .jsonl")
    check_file_to_write(config.out, "--out")
    for name in model_names(config):
        check_name(name)
    if config.expand is not None and config.writer == "grammar":
        raise InputError("--expand needs a writer with a model: transformers:ID or openai:MODEL")
    if config.dpg_questions is not None and not config.dpg_questions.is_file():
        raise FileNotFoundError(f"there is no {config.dpg_questions}: give DPG-Bench's question file (a CSV)")
    known_prompts(config.dpg_questions)


def model_names(config: PromptsConfig) -> list[str]:
    """The models that a run asks, each once."""
    return sorted({name for name in (config.writer, config.verdict) if name not in (None, "grammar")})


def load_models(config: PromptsConfig) -> tuple[Model | None, Model | None]:
    """The models that write and that judge; one model serves both where the names are the same."""
    from reproduce.prompts.models import load_model

    models = {name: load_model(name, max_tokens=config.max_tokens, seed=config.seed) for name in model_names(config)}
    return models.get(config.writer), models.get(config.verdict or "")


def find_taxonomy(config: PromptsConfig, model: Model | None) -> list[Group]:
    """Ours, or as a model expanded it once and for all, kept beside the prompts."""
    if config.expand is None:
        return load_taxonomy()
    kept = beside(config.out, "taxonomy.json")
    if not kept.is_file():
        assert model is not None
        write_json(kept, to_rows(expand(load_taxonomy(), model, config.expand)))
    return load_taxonomy(kept)


def known_prompts(dpg_questions: Path | None) -> dict[str, list[str]]:
    """The benchmarks' prompts: GenEval's 553, and DPG-Bench's where its question file is given."""
    known = {"GenEval": [entry["prompt"] for entry in generate()]}
    if dpg_questions is not None:
        known["DPG-Bench"] = list(read_questions(dpg_questions).prompts.values())
    return known


class _Judge:
    """Audits rows as they come and keeps both kinds; a model's verdicts are kept on disk, by text."""

    def __init__(self, out: Path, auditor: Auditor, model: Model | None) -> None:
        self.accepted: list[dict[str, Any]] = []
        self.rejected: list[dict[str, Any]] = []
        self._auditor, self._model, self._kept = auditor, model, beside(out, "verdicts.jsonl")
        self._verdicts = {row["text"]: row for row in _rows(self._kept)} if model else {}

    def __call__(self, rows: Sequence[dict[str, Any]], advance: Callable[[str], None]) -> None:
        passed = []
        for row in rows:
            found = self._auditor(row)
            if found is None:
                passed.append(row)
            else:
                self._reject(row, *found)
        for start in range(0, len(passed), MODEL_BATCH_SIZE):
            self._judge(passed[start : start + MODEL_BATCH_SIZE], advance)

    def _judge(self, rows: Sequence[dict[str, Any]], advance: Callable[[str], None]) -> None:
        new = [row["text"] for row in rows if row["text"] not in self._verdicts]
        if self._model is not None and new:
            told = [{"text": text, **v} for text, v in zip(new, ask_verdicts(self._model, new), strict=True)]
            append_jsonl(self._kept, told)
            self._verdicts |= {row["text"]: row for row in told}
        for row in rows:
            if self._model is not None and not self._verdicts[row["text"]]["is_valid"]:
                self._reject(row, "verdict", self._verdicts[row["text"]]["reason"])
            else:
                self.accepted.append(row)
                advance("")

    def _reject(self, row: dict[str, Any], rule: str, reason: str) -> None:
        self.rejected.append({**row, "rule": rule, "reason": reason})


def _fill(config: PromptsConfig, groups: Sequence[Group], writer: Writer, judge: _Judge) -> None:
    """Audit what is written, then write and audit until enough is accepted."""
    kept = beside(config.out, "written.jsonl")
    rows = _rows(kept)
    number = len(rows)
    with counted(config.num, "prompts") as advance:
        judge(rows, advance)
        size, fruitless = BATCH_SIZE.get(config.writer, MODEL_BATCH_SIZE), 0
        while (missing := config.num - len(judge.accepted)) > 0:
            before = len(judge.accepted)
            briefs = [draw_brief(groups, config.seed, number + i) for i in range(min(size, missing))]
            new = [_row(brief, *told, config.writer) for brief, told in zip(briefs, writer(briefs), strict=True)]
            append_jsonl(kept, new)
            judge(new, advance)
            number += len(new)
            fruitless = 0 if len(judge.accepted) > before else fruitless + len(new)
            if fruitless >= MAX_REJECTED:
                last = judge.rejected[-1]
                raise InputError(
                    f"the last {fruitless} prompts of {config.writer} were all rejected, the last by {last['rule']} "
                    f"({last['reason'][:200]}): give another --writer; {kept} keeps what was written"
                )


def _row(brief: Brief, text: str, reply: str | None, writer: str) -> dict[str, Any]:
    row = {
        "text": text,
        "category": brief.category,
        "number": brief.number,
        "kind": brief.kind,
        "rendered": brief.text,
        "writer": writer,
        "seed": brief.seed,
    }
    return row if reply is None else {**row, "reply": reply[:2000]}


def _rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a file that a killed run may have left with half a line at its end; none where it is not there."""
    if not path.is_file():
        return []
    append_jsonl(path, [])  # cuts the torn line off
    return read_jsonl(path)


def _begin(config: PromptsConfig) -> None:
    """Note the settings that decide which rows are written; ValueError where the file was begun with others."""
    kept = beside(config.out, "settings.json")
    taxonomy = json.dumps(to_rows(load_taxonomy()), sort_keys=True).encode()
    ours = {
        "writer": config.writer,
        "seed": config.seed,
        "expand": config.expand,
        "taxonomy_sha256": hashlib.sha256(taxonomy).hexdigest(),
    }
    if not kept.is_file():
        if config.out.exists():
            raise InputError(f"{config.out} is there and not made by this command: give another --out")
        write_json(kept, ours)
    elif (theirs := read_json(kept)) != ours:
        changed = ", ".join(
            f"{key} {theirs.get(key)!r}, now {ours[key]!r}" for key in ours if theirs.get(key) != ours[key]
        )
        raise InputError(
            f"{config.out} was begun with other settings ({changed}): give another --out, or those settings"
        )


@contextmanager
def _locked(out: Path) -> Iterator[None]:
    try:
        with FileLock(beside(out, "lock"), timeout=0):
            yield
    except Timeout:
        raise InputError(f"another process is writing {out}: wait for it, or give another --out") from None
