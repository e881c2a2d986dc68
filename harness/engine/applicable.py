"""Which proxies have a value on the networks of a benchmark at all."""

from __future__ import annotations

from harness.benchmarks.benchmark import Benchmark
from harness.proxies.base import Proxy, is_counted


def inapplicable(proxy: Proxy, benchmark: Benchmark, dataset: str | None = None) -> str:
    """Why a proxy has no value on a benchmark, or on one of its datasets; "" where it has.

    It requires what the networks of the space do not have, or outputs of another kind than theirs.
    """
    if proxy.requires not in ("", *benchmark.space.parts):
        return f"no {proxy.requires} in this space"
    return "" if dataset is None else undefined(proxy, benchmark, dataset)


def undefined(proxy: Proxy, benchmark: Benchmark, dataset: str) -> str:
    """Why a proxy has no value for what the networks of a dataset give; "" where it has.

    What does not depend on the last layer is read from the encoder alone, with a linear layer in a decoder's place.
    """
    gives = benchmark.dataset(dataset).gives
    if gives == "classes" or not proxy.reads_head or is_counted(proxy):
        return ""
    for probe, names in proxy.needs().items():
        if gives not in probe.outputs or (gives == "images" and probe.of_classes & set(names)):
            return f"is not defined for networks that give {gives}, as those of {dataset} do"
    return ""
