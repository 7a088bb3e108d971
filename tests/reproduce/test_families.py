"""Every family goes all the way by its architecture alone, and so does a sixth: a copy of FLUX under other names."""

import json
from dataclasses import replace
from pathlib import Path

import diffusers
import pytest

from l2p.architectures import ARCHITECTURES
from reproduce import preflight
from reproduce.__main__ import main
from reproduce.miniature.sources import SOURCES
from reproduce.recipes import FAMILIES, usual
from tests.ended import ended
from tests.reproduce import tiny

STAGES = ("corpus", "transfer", "sample", "score")


@pytest.mark.parametrize("length", ["mini", "mini_long"])
@pytest.mark.parametrize("family", FAMILIES)
def test_miniatures_share_their_settings(family, length):
    """But for names and source they differ in what `MiniatureSource` says of the family, and in nothing else."""
    mine, flux, own = FAMILIES[family][f"{family}_{length}"](), FAMILIES["flux"][f"flux_{length}"](), SOURCES[family]
    assert usual(family)["miniature"] == f"{family}_mini" and mine.name == f"{family}_{length}".replace("_", "-")
    assert Path(mine.source).parts[-1] == family and own.max_sequence_length == mine.transfer.max_sequence_length
    assert mine.source_sampler.guidance_scale == own.guidance_scale
    ours = replace(mine.source_sampler, guidance_scale=flux.source_sampler.guidance_scale)
    samplers = [replace(one, max_sequence_length=24) for one in (ours, mine.l2p_sampler)]
    named = replace(mine, name=flux.name, family="flux", source=flux.source)
    assert mine.transfer.projection_learning_rate == own.projection_learning_rate
    transfer = replace(mine.transfer, max_sequence_length=24, projection_learning_rate=None)
    assert replace(named, transfer=transfer, source_sampler=samplers[0], l2p_sampler=samplers[1]) == flux


def own_class(name: str, copied: type) -> type:
    """A class that diffusers saves and loads under its own name."""
    return type(name, (copied,), {"__module__": copied.__module__})


@pytest.fixture
def sixth(monkeypatch, tmp_path):
    """The family's one entry, its classes in diffusers, and a tiny source of them."""
    transformer = own_class("SixthTransformer2DModel", diffusers.FluxTransformer2DModel)
    pipeline = own_class("SixthPipeline", diffusers.FluxPipeline)
    for cls in (transformer, pipeline):
        monkeypatch.setattr(diffusers, cls.__name__, cls, raising=False)
    names = {"name": "sixth", "title": "The sixth", "transformer_class": transformer.__name__}
    sixth = replace(ARCHITECTURES["flux"], **names, pipeline_class=pipeline.__name__)
    monkeypatch.setitem(ARCHITECTURES, "sixth", sixth)
    tiny.save_source(tmp_path / "flux")
    parts = diffusers.FluxPipeline.from_pretrained(tmp_path / "flux").components
    parts["transformer"] = transformer.from_pretrained(tmp_path / "flux" / "transformer")
    pipeline(**{name: part for name, part in parts.items() if part is not None}).save_pretrained(tmp_path / "sixth")
    monkeypatch.setenv("L2P_TINY_SOURCE", str(tmp_path / "sixth"))
    monkeypatch.setattr("tests.reproduce.tiny.sixth", lambda: replace(tiny.recipe(), family="sixth"), raising=False)
    monkeypatch.setattr("reproduce.launch.raise_on_signals", lambda: None)  # pytest keeps its own handlers


def run(*arguments: str) -> str:
    result = ended(main, *["sixth", "--recipe", "tests.reproduce.tiny:sixth", "--debug", *arguments])
    assert result.status == 0, result.output
    return result.output


def test_a_sixth_family_is_planned(sixth, tmp_path):
    output = run("--plan", "--run", str(tmp_path / "run"))
    assert "Plan of tiny" in output and "Disk: up to" in output and "nothing was started" in output
    assert "bench/cost/families.py has no 'sixth'" in output  # what published sizes cost is no part of a family


def test_a_sixth_family_is_reproduced(sixth, tmp_path):
    run("--run", str(tmp_path / "run"), *(f"--stage={stage}" for stage in STAGES))
    manifest = json.loads((tmp_path / "run" / "run.json").read_text())
    assert (manifest["recipe"]["family"], manifest["recipe"]["family_title"]) == ("sixth", "The sixth")
    assert all(manifest["stages"][stage]["finished"] for stage in STAGES)
    model = json.loads((tmp_path / "run" / "transfer" / "model" / "config.json").read_text())
    assert model["architecture"] == "sixth"


def test_a_source_of_another_family_is_refused(sixth, tmp_path, monkeypatch):
    monkeypatch.setenv("L2P_TINY_SOURCE", str(tmp_path / "flux"))
    result = ended(main, *["sixth", "--recipe", "tests.reproduce.tiny:sixth", "--run", str(tmp_path / "run")])
    assert result.status == 2 and "FluxPipeline" in result.output and "SixthPipeline" in result.output


@pytest.mark.parametrize("family", ARCHITECTURES)
def test_every_family_is_reproduced_from_a_tiny_source(family, monkeypatch, tmp_path):
    tiny.save_source(tmp_path / family, family)
    monkeypatch.setenv("L2P_TINY_SOURCE", str(tmp_path / family))
    guidance_scale = 1.0 if family == "flux2" else 3.0  # its pipeline knows no true guidance
    recipe = replace(tiny.recipe(), family=family, source_sampler=replace(tiny.SAMPLER, guidance_scale=guidance_scale))
    monkeypatch.setattr("tests.reproduce.tiny.of_family", lambda: recipe, raising=False)
    monkeypatch.setattr("reproduce.launch.raise_on_signals", lambda: None)
    command = [family, "--recipe", "tests.reproduce.tiny:of_family", "--run", str(tmp_path / "run"), "--debug"]
    result = ended(main, *[*command, *(f"--stage={stage}" for stage in STAGES)])
    assert result.status == 0, result.output
    manifest = json.loads((tmp_path / "run" / "run.json").read_text())
    assert manifest["recipe"]["family_title"] == ARCHITECTURES[family].title
    assert all(manifest["stages"][stage]["finished"] for stage in STAGES)


def test_guidance_that_a_source_does_not_know_is_refused_before_anything_is_drawn(monkeypatch, tmp_path):
    tiny.save_source(tmp_path / "flux2", "flux2")
    monkeypatch.setenv("L2P_TINY_SOURCE", str(tmp_path / "flux2"))
    with pytest.raises(ValueError, match="guidance_scale 3.0 must be 1"):
        preflight.check(replace(tiny.recipe(), family="flux2"), tmp_path / "run")
