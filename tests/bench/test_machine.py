"""The names of this machine's parts, in one place for every record."""

from pathlib import Path

import torch

from bench import machine


def test_the_processor_is_named_as_linux_has_it(monkeypatch, tmp_path):
    assert machine.processor_name()
    (tmp_path / "cpuinfo").write_text(
        "processor\t: 0\nmodel name\t: Toy CPU: 9000\nprocessor\t: 1\nmodel name\t: other\n"
    )
    monkeypatch.setattr(machine, "Path", lambda name: tmp_path / Path(name).name)
    assert machine.processor_name() == "Toy CPU: 9000"
    (tmp_path / "cpuinfo").write_text("flags\t: none\n")
    monkeypatch.setattr(machine.platform, "processor", lambda: "")
    monkeypatch.setattr(machine.platform, "machine", lambda: "toy64")
    assert machine.processor_name() == "toy64"


def test_a_device_has_its_own_name(monkeypatch):
    monkeypatch.setattr(machine, "processor_name", lambda: "Toy CPU")
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"Toy GPU at {device}")
    names = [machine.device_name(device) for device in ("cpu", "cuda:1", "mps")]
    assert names == ["Toy CPU", "Toy GPU at cuda:1", "mps (Toy CPU)"]
