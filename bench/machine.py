"""The names of this machine's parts, for what a result must tell about where it was made."""

from __future__ import annotations

import platform
import re
from collections.abc import Collection
from pathlib import Path

from l2p.errors import InputError


def processor_name() -> str:
    """The processor's model name; Linux says it in /proc/cpuinfo only."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines() if cpuinfo.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def check_device(device: str, *, option: str = "--device", allowed: Collection[str] = ()) -> None:
    """Raise InputError for a torch device that is not on this machine, naming those that are.

    allowed: the kinds that the caller can use, such as `cuda` (the CPU is always one); all of them and `auto` where
    none is named. option: what the device was given as.
    """
    import torch

    accelerator = torch.accelerator.current_accelerator(check_available=True)
    known = ["cpu"] if allowed else ["auto", "cpu"]
    if accelerator is not None and (not allowed or accelerator.type in allowed):
        known += [accelerator.type, *(f"{accelerator.type}:{i}" for i in range(torch.accelerator.device_count()))]
    if device not in known and not re.fullmatch(r"cpu:\d+", device):  # accelerate's name for a process's own CPU
        raise InputError(f"{option} {device!r} is not on this machine; it has {', '.join(known)}.")


def device_name(device: str) -> str:
    """The accelerator's own name for a torch device such as `cuda:0`, the processor's for `cpu`."""
    if device.startswith("cuda"):
        import torch

        return torch.cuda.get_device_name(device)
    return processor_name() if device.startswith("cpu") else f"{device} ({processor_name()})"
