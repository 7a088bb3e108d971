"""The benchmarks, by name: everything that differs between them stands in each one's `Benchmark` value.

To add one: a package with such a value, and a line here. Nothing here needs torch.
"""

from __future__ import annotations

from bench.clip.benchmark import CLIP
from bench.diversity.benchmark import DIVERSITY
from bench.dpg.benchmark import DPG
from bench.fidelity.benchmark import FIDELITY
from bench.geneval.benchmark import GENEVAL
from bench.records import Benchmark
from l2p.errors import InputError

BENCHMARKS: dict[str, Benchmark] = {
    "geneval": GENEVAL,
    "dpg": DPG,
    **{benchmark.name: benchmark for benchmark in FIDELITY},
    "clip": CLIP,
    "diversity": DIVERSITY,
}


def find_benchmark(name: str) -> Benchmark:
    """The benchmark of that name; ValueError lists the known ones."""
    if name not in BENCHMARKS:
        raise InputError(f"unknown benchmark {name!r}; known: {', '.join(BENCHMARKS)}")
    return BENCHMARKS[name]
