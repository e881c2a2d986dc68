"""Datasets of a benchmark that a proxy cannot tell apart, so that what is scored for one is scored for all."""

from __future__ import annotations

from dataclasses import replace

from harness.benchmarks.benchmark import Benchmark
from harness.engine.store import ScoreKey
from harness.proxies.base import Proxy

#: Mini-batches that depend on the shape of an image and the seed alone: none, and noise.
OF_NO_DATASET = ("none", "random")


def alike(benchmark: Benchmark, proxy: Proxy, key: ScoreKey) -> tuple[ScoreKey, ...]:
    """The partitions of other datasets of the benchmark whose scores are those of `key`, bit for bit.

    Weights and noise are drawn by architecture and seed, whatever the dataset. Networks of two datasets with as many
    classes are one, and those with more or fewer differ in their last layer, which the proxy may not read.
    """
    if key.inputs not in OF_NO_DATASET:
        return ()
    own = benchmark.dataset(key.dataset)
    return tuple(
        replace(key, dataset=name)
        for name, other in benchmark.datasets.items()
        if name != key.dataset
        and other.resolution == own.resolution
        and ((other.classes, other.head) == (own.classes, own.head) or not proxy.reads_head)
    )


def reason(benchmark: Benchmark, dataset: str, other: str) -> str:
    """What is said of scores of `other` that stand for those of `dataset`."""
    same = benchmark.dataset(dataset).classes == benchmark.dataset(other).classes
    return f"scores of {other}: {'the same networks and inputs' if same else 'reads no head'}"
