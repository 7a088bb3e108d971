"""What GPUs can do by their data sheets; no torch, so that reports read it too."""

from __future__ import annotations

from dataclasses import dataclass

GIB = 2**30


@dataclass(frozen=True, kw_only=True)
class Device:
    """Peak rates of a device: FLOP/s by dtype (dense), bytes/s, bytes of memory; `source` says where from."""

    name: str
    flops_per_s: dict[str, float]
    bytes_per_s: float
    memory_bytes: int
    source: str


DEVICES: dict[str, Device] = {
    "h100": Device(
        name="H100 SXM 80 GB",
        flops_per_s={"bfloat16": 989e12, "float32": 494e12},  # float32 as TF32
        bytes_per_s=3.35e12,
        memory_bytes=80 * GIB,
        source="NVIDIA H100 data sheet, dense",
    ),
    "a100": Device(
        name="A100 SXM 80 GB",
        flops_per_s={"bfloat16": 312e12, "float32": 156e12},
        bytes_per_s=2.039e12,
        memory_bytes=80 * GIB,
        source="NVIDIA A100 data sheet, dense",
    ),
    "rtx4090": Device(
        name="RTX 4090 24 GB",
        flops_per_s={"bfloat16": 165.2e12, "float32": 82.6e12},
        bytes_per_s=1.008e12,
        memory_bytes=24 * GIB,
        source="NVIDIA Ada architecture paper, bf16 with float32 accumulation",
    ),
}
