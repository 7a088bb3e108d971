"""Stage 2 without a model: a grammar that writes each brief as English sentences, deterministic by seed."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence

from reproduce.prompts.briefs import Brief, wording

CONSONANT_SOUNDS = ("uni", "use", "eu", "one")  # a universe, a European, a one-way street
VOWEL_SOUNDS = ("hour", "heir", "honest")


def write(briefs: Sequence[Brief]) -> list[tuple[str, str | None]]:
    """The prompts of the briefs (a `Writer`)."""
    return [(write_one(brief), None) for brief in briefs]


def write_one(brief: Brief) -> str:
    """One prompt: a first sentence, what is written in it, and for a detailed one two to four sentences more."""
    generator = random.Random(f"grammar-{brief.seed}")
    sentences = [_first(brief, generator)]
    if brief.text is not None:
        sentences.append(generator.choice(brief.group.inscriptions).format(f'"{brief.text}"'))
    if brief.kind == "detailed":
        sentences += _more(brief, generator, num=generator.choice((4, 4, 5, 5, 5)) - len(sentences))
    return " ".join(sentences)


def with_article(noun: str) -> str:
    """The noun phrase behind `a` or `an` as it is spoken; one in the plural (`*tulips`) without."""
    if noun.startswith("*"):
        return noun[1:]
    first = noun.lower()
    vowel = (first[0] in "aeiou" and not first.startswith(CONSONANT_SOUNDS)) or first.startswith(VOWEL_SOUNDS)
    return f"{'an' if vowel else 'a'} {noun}"


def _first(brief: Brief, generator: random.Random) -> str:
    group = brief.group
    subject = _described(brief, generator)
    act, place = generator.choice(group.acts), generator.choice(group.places)
    if group.light == "flat":
        return _first_of_design(brief.opening, subject, act, place)
    assert brief.light is not None and brief.style is not None
    verb = "are" if brief.subject.startswith("*") else "is"
    return _capital(
        {
            "medium": f"{with_article(brief.style[0])} of {subject} {act} {place}.",
            "place": f"{place}, {subject} {verb} {act}.",
            "view": f"{brief.view[0]}, {subject} {verb} {act} {place}.",
            "light": f"{brief.light[0]}, {subject} {verb} {act} {place}.",
            "subject": f"{subject} {verb} {act} {place}.",
            "picture": f"this {brief.style[0]} shows {subject} {act} {place}.",
        }[brief.opening]
    )


def _first_of_design(opening: str, subject: str, act: str, place: str) -> str:
    return _capital(
        {
            "subject": f"{subject} {act}, {place}.",
            "picture": f"the image shows {subject} {act}, {place}.",
            "request": f"create {subject} {act}, {place}.",
            "place": f"{place}, the image presents {subject} {act}.",
        }[opening]
    )


def _described(brief: Brief, generator: random.Random) -> str:
    """The subject with its article, two times in three with an adjective that it does not have already."""
    noun, plural = brief.subject.lstrip("*"), "*" if brief.subject.startswith("*") else ""
    fitting = [word for word in brief.group.modifiers if not any(part in noun for part in word.split())]
    word = generator.choice(fitting) if fitting and generator.random() < 2 / 3 else ""
    return with_article(f"{plural}{word} {noun}" if word else brief.subject)


def _more(brief: Brief, generator: random.Random, num: int) -> list[str]:
    """`num` sentences: light, view and style where the first has not told them, and details."""
    details = [one for one in brief.group.details if brief.is_camera or not _is_of_a_camera(one)]
    told = []
    if brief.light and brief.opening != "light":
        told.append(brief.light[1])
    if brief.opening != "view":
        told.append(brief.view[1])
    ending = [brief.style[1]] if brief.style and brief.opening not in ("medium", "picture") else []
    num_told = (
        min(len(told), generator.choice((0, 1, 1)), num - 1) if not ending else min(len(told), 1, max(0, num - 2))
    )
    use_ending = ending if num - num_told > 1 else []
    num_details = max(1, num - num_told - len(use_ending))
    chosen = generator.sample(details, num_details)
    return [*chosen[:1], *generator.sample(told, num_told), *chosen[1:], *use_ending]


def _is_of_a_camera(sentence: str) -> bool:
    return any(re.search(rf"\b{word}\b", sentence) for word in wording()["camera_words"])


def _capital(sentence: str) -> str:
    return sentence[0].upper() + sentence[1:]
