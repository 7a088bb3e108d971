"""Stage 2: who writes the prompts. A writer is a function from briefs to texts."""

from __future__ import annotations

from collections.abc import Sequence

from reproduce.prompts import grammar
from reproduce.prompts.briefs import Brief, Writer
from reproduce.prompts.replies import Model, read_reply


def load_writer(name: str, model: Model | None = None) -> Writer:
    """The writer of a name: `grammar`, or a model's (`reproduce.prompts.models.load_model`, which checks the name)."""
    if name == "grammar":
        return grammar.write
    assert model is not None
    return by_model(model)


def by_model(model: Model) -> Writer:
    """A writer that has a language model follow the paper's rules for each brief."""

    def write(briefs: Sequence[Brief]) -> list[tuple[str, str | None]]:
        return [_read(reply) for reply in model([instruction(brief) for brief in briefs])]

    return write


def _read(reply: str) -> tuple[str, str | None]:
    found = read_reply(reply, "prompt")
    return (found.strip(), None) if isinstance(found, str) and found.strip() else ("", reply)


def instruction(brief: Brief) -> str:
    """What a model is told: the paper's rules, in our words, and this brief."""
    kind = "one or two sentences" if brief.kind == "simple" else "three to five sentences, 200 to 350 characters"
    wanted = [f"Subject: {brief.subject.lstrip('*')} ({brief.group.major}, {brief.group.sub}, {brief.group.name})."]
    wanted.append(f"Length: {kind}. Begin with the {brief.opening}. Viewpoint: {brief.view[0]}.")
    if brief.light and brief.style:
        wanted.append(f"Light: {brief.light[0]}. Medium: {brief.style[0]}.")
    if brief.text is not None:
        wanted.append(f"The picture shows this written text, which you quote exactly in double quotes: {brief.text}")
    else:
        wanted.append("The picture shows no written text: use no quotation marks.")
    return (
        "Write a prompt for an image generator: fluent English sentences that describe one possible picture, no list "
        "of tags, no brands, no characters or people who exist, nothing sexual, violent or hateful. "
        + " ".join(wanted)
        + ' Answer with JSON only, inner quotes escaped: {"prompt": "..."}'
    )
