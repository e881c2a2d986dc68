"""The import path of earlier versions: benchmarks are `harness.benchmarks.benchmark`."""

from harness.benchmarks.benchmark import (
    Benchmark,
    Dataset,
    Target,
    embedded_benchmark,
    list_benchmarks,
    list_targets,
    load_benchmark,
)

__all__ = [
    "Benchmark",
    "Dataset",
    "Target",
    "embedded_benchmark",
    "list_benchmarks",
    "list_targets",
    "load_benchmark",
]
