"""The miniature's VQA: answers the small world's questions from what its detector finds; plays mPLUG's part.

`python -m reproduce.miniature.answers` measures it on rendered scenes, where the true answers are known.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer
from PIL import Image

from bench.geneval.rules import PUBLISHED
from bench.judges import Judge
from bench.records import Detection, write_json
from l2p.ending import run_command
from l2p.errors import InputError
from reproduce.miniature.questions import dpg_scenes, is_true, scene_questions
from reproduce.miniature.render import EXTENT, render
from reproduce.miniature.scenes import RESOLUTION, SceneObject

if TYPE_CHECKING:
    from bench.records import VQA

CHECK_SEED = 904
SURE_SCORE = PUBLISHED.score_threshold
DARK_BELOW, LIGHT_ABOVE = 0.42, 0.62  # half-way between the backgrounds' tones


def answerer() -> Judge:
    """The VQA of the miniature world: the detector looks once at an image, then every question is answered from it."""
    from reproduce.miniature.detector import load

    detect = load()

    def answer(image: Image.Image, questions: list[str]) -> list[str]:
        return answers_from(image, detect([image])[0], questions)

    passport = {
        "vqa": "miniature scene answers",
        "model": "reproduce.miniature.detector",
        "weights_sha256": detect.passport["sha256"],
        "threshold": SURE_SCORE,
        "comparability": "miniature world only",
    }
    return Judge(ask=answer, passport=passport)


def answers_from(image: Image.Image, detections: list[Detection], questions: list[str]) -> list[str]:
    """The answers, "yes" or "no", that a judge's detections in an image give."""
    objects, background = seen(image, detections)
    return ["yes" if is_true(question, objects, background) else "no" for question in questions]


def seen(image: Image.Image, detections: list[Detection]) -> tuple[list[SceneObject], str]:
    """The objects and the background's name that an image shows: sure detections as scene objects."""
    sure = [detection for detection in detections if detection.score >= SURE_SCORE]
    pixels = np.asarray(image.convert("RGB"), dtype=np.float32) / 255  # [H, W, 3]
    free = np.ones(pixels.shape[:2], dtype=bool)
    for detection in sure:
        x0, y0, x1, y1 = (round(max(side, 0)) for side in detection.box)
        free[max(y0 - 1, 0) : y1 + 1, max(x0 - 1, 0) : x1 + 1] = False
    tone = float(np.median((pixels[free] if free.any() else pixels.reshape(-1, 3)).mean(-1)))
    background = "dark" if tone < DARK_BELOW else "light" if tone > LIGHT_ABOVE else "gray"
    return [scene_object(detection, image.width) for detection in sure], background


def scene_object(detection: Detection, side: int) -> SceneObject:
    """A detection as a scene object: centre and radius from its box (pixels of an image of that side)."""
    left, top, right, bottom = (value / side for value in detection.box)
    x0, y0, x1, y1 = EXTENT[detection.label]
    radius = ((right - left) / (x1 - x0) + (bottom - top) / (y1 - y0)) / 2
    x, y = (left + right - radius * (x0 + x1)) / 2, (top + bottom - radius * (y0 + y1)) / 2
    return SceneObject(shape=detection.label, color=detection.color or "", x=x, y=y, radius=radius)


def accuracy(vqa: VQA, num_items: int, seed: int) -> dict[str, dict[str, float]]:
    """Share of right answers on rendered scenes by L1 category and `all`, with n.

    `own`: questions about the scene's own prompt, all true. `other`: another scene's, mostly false: an answerer that
    always says yes fails there.
    """
    scenes = list(dpg_scenes(num_items, seed).values())
    right: dict[str, dict[str, list[bool]]] = {"own": {}, "other": {}}
    for number, scene in enumerate(scenes):
        image = Image.fromarray(render(scene, RESOLUTION))
        for kind, told in (("own", scene), ("other", scenes[number - 1])):
            asked = scene_questions(told)
            answers = vqa(image, [one.question for one in asked])
            for one, answer in zip(asked, answers, strict=True):
                hit = (answer == "yes") == is_true(one.question, scene.objects, scene.background)
                right[kind].setdefault(one.broad, []).append(hit)
                right[kind].setdefault("all", []).append(hit)
    return {
        kind: {name: float(np.mean(hits)) for name, hits in sorted(by_name.items())} | {"n": len(by_name["all"])}
        for kind, by_name in right.items()
    }


def judge_check() -> dict[str, Any]:
    """The scene answers where the truth is known: the ceiling of DPG-Bench's scores here."""
    figures = accuracy(answerer(), num_items=100, seed=CHECK_SEED)
    num = figures["own"]["n"] + figures["other"]["n"]
    right = sum(shares["all"] * shares["n"] for shares in figures.values())
    what = "right answers about rendered scenes, half of the questions about another scene"
    return {"judge": "scene answers", "what": what, "value": right / num, "n": num}


app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(
    seed: Annotated[int, typer.Option(help="a seed that training and tuning never used")] = 0,
    num_items: Annotated[int, typer.Option(min=1, max=100_000, help="rendered scenes")] = 500,
    json: Annotated[Path | None, typer.Option("--json", help="also write the figures here")] = None,
    floor: Annotated[float, typer.Option(help="exit 1 where either kind of question is below it")] = 0.0,
) -> None:
    """Measure the scene answers on rendered scenes.

    Example: python -m reproduce.miniature.answers --seed 7 --num-items 500 --floor 0.95
    """
    if not 0 <= floor <= 1:  # which NaN is not either
        raise InputError(f"--floor {floor} is no share; give a number from 0 to 1")
    figures = accuracy(answerer(), num_items, seed)
    for kind, shares in figures.items():
        typer.echo(f"{kind}: " + "  ".join(f"{name} {share:.4g}" for name, share in shares.items()))
    if json:
        write_json(json, figures | {"seed": seed, "num_items": num_items})
    if min(shares["all"] for shares in figures.values()) < floor:
        raise typer.Exit(1)


if __name__ == "__main__":
    sys.exit(run_command(app, name="python -m reproduce.miniature.answers"))
