"""docs/diffusers.md: each block of Python runs and prints what stands under it."""

import re
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

import pytest
from typer.testing import CliRunner

from l2p.__main__ import app

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"```python\n(.*?)```\n(?:```text\n(.*?)```\n)?", re.S)


def test_the_guides_blocks_run_and_print_what_they_say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("peft")
    text = (ROOT / "docs" / "diffusers.md").read_text()
    command = re.search(r"^python -m l2p (convert .*)$", text, re.M)
    assert command is not None
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("diffusers.utils.dynamic_modules_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    arguments = [str(ROOT / word) if word.startswith("reproduce/") else word for word in command[1].split()]
    assert CliRunner().invoke(app, arguments).exit_code == 0
    blocks, names = BLOCK.findall(text), {}  # type: ignore[var-annotated]
    assert len(blocks) == text.count("```python") >= 10
    for code, expected in blocks:
        printed = StringIO()
        with redirect_stdout(printed):
            exec(compile(code, "docs/diffusers.md", "exec"), names)
        assert printed.getvalue() == expected, code
