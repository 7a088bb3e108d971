"""VQA back ends by name: each is a `VQA`, (image, questions) -> answers, that encodes the image once for all questions.

Each tells its model, weights and settings (`passport`). Only mPLUG's answers compare with published scores.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bench.dpg.answers import read_answers
from bench.dpg.questions import QuestionFile
from bench.judges import Judge, load_judge
from bench.named import refuse_missing_path
from bench.worker import Worker, encode_png
from l2p.errors import InputError

if TYPE_CHECKING:
    from PIL.Image import Image

    from bench.records import VQA

MPLUG = "damo/mplug_visual-question-answering_coco_large_en"
NOT_COMPARABLE = "not comparable with published scores"
COMPARABLE = "the published scores' VQA model, if these are its weights"
ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True, kw_only=True)
class Options:
    """What a back end is told.

    `model` is a weights folder or hub id (mplug, transformers), the model's name at the server (openai) or the file of
    saved answers (replay, which also needs the question `file`); `insecure` is `bench.server`'s.
    """

    model: str = ""
    device: str = "cpu"
    file: QuestionFile | None = None
    insecure: bool = False


def load_vqa(
    name: str, *, model: str = "", device: str = "cpu", file: QuestionFile | None = None, insecure: bool = False
) -> VQA:
    """The back end of that name, or of `package.module:function`, a zero-argument loader of your own.

    The rest are `Options`. Raises ValueError for an unknown name, OSError for weights that are not there.
    """
    if ":" in name:
        return load_judge(name)
    if name not in BACKENDS:
        raise InputError(f"unknown VQA {name!r}; known: {', '.join(BACKENDS)}, or your own package.module:function")
    return BACKENDS[name](Options(model=model, device=device, file=file, insecure=insecure))


class WorkerVQA(Worker):
    """A VQA whose model runs in another process: asked {"image": base64 PNG, "questions": [...]}, it says "answers"."""

    def __call__(self, image: Image, questions: list[str]) -> list[str]:
        """The questions' answers, in order; ConnectionError where the worker gives none."""
        reply = self.ask({"image": encode_png(image), "questions": questions})
        if "error" in reply or len(reply.get("answers", ())) != len(questions):
            raise ConnectionError(f"the VQA worker gave no answers to {len(questions)} questions: {reply}")
        return reply["answers"]


def mplug_python() -> Path:
    """The Python of mPLUG's environment, `.venv-mplug`'s or $L2P_MPLUG_PYTHON; whether it is there is not looked at."""
    return Path(os.environ.get("L2P_MPLUG_PYTHON", ROOT / ".venv-mplug/bin/python"))


def mplug(options: Options) -> VQA:
    """mPLUG-large, in a worker process of `.venv-mplug` (or of $L2P_MPLUG_PYTHON)."""
    python = mplug_python()
    if not python.exists():
        raise FileNotFoundError(
            f"no {python}: make mPLUG's environment with `nox -s dpg-mplug`, or set L2P_MPLUG_PYTHON"
        )
    refuse_missing_path(options.model, "a folder of mPLUG's weights, or modelscope's id")
    script = Path(__file__).with_name("mplug_worker.py")
    worker = WorkerVQA([str(python), str(script), options.model or MPLUG, "--device", options.device])
    return Judge(ask=worker, passport=worker.passport | {"comparability": COMPARABLE})


def transformers(options: Options) -> VQA:
    """BLIP-VQA, ViLT or Qwen2.5-VL from a folder or hub id, in this environment."""
    from bench.dpg.models import load_transformers

    if not options.model:
        raise InputError("--vqa transformers needs --vqa-model: a folder or hub id of BLIP-VQA, ViLT or Qwen2.5-VL")
    return load_transformers(options.model, options.device)


def openai(options: Options) -> VQA:
    """A model behind an OpenAI-compatible server: $OPENAI_BASE_URL, key in $OPENAI_API_KEY."""
    from bench.dpg.server import ServerVQA
    from bench.server import ServerConfig

    if not options.model:
        raise InputError("--vqa openai needs --vqa-model: the model's name at the server in OPENAI_BASE_URL")
    return ServerVQA(options.model, config=ServerConfig(insecure=options.insecure))


def replay(options: Options) -> VQA:
    """Saved answers again. The runner marks each image with its item and crop (`image.info`)."""
    model, file = options.model, options.file
    if not model or file is None:
        raise InputError("--vqa replay needs --vqa-model: a file of saved answers (answers.jsonl, or a CSV)")
    saved = read_answers(model, file)

    def answer(image: Image, questions: list[str]) -> list[str]:
        item_id, crop = image.info["item_id"], image.info["crop"]
        by_text = {question.text: question.proposition_id for question in file.items[item_id]}
        try:
            return [saved[item_id][crop][by_text[question]] for question in questions]
        except (KeyError, IndexError) as error:
            raise InputError(f"{model} holds no full set of answers for item {item_id!r}, crop {crop}") from error

    passport = {"vqa": "replay", "model": model, "comparability": "as the saved answers"}
    return Judge(ask=answer, passport=passport)


BACKENDS: dict[str, Callable[[Options], VQA]] = {
    "mplug": mplug,
    "transformers": transformers,
    "openai": openai,
    "replay": replay,
}
