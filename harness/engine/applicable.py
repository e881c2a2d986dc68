"""Which proxies have a value on the networks of a benchmark at all."""

from __future__ import annotations

from harness.benchmarks.benchmark import Benchmark
from harness.proxies.base import Proxy, is_counted


def inapplicable(proxy: Proxy, benchmark: Benchmark, dataset: str | None = None) -> str:
    """Why a proxy has no value on a benchmark, or on one of its datasets; "" where it has.

    It requires what the networks of the space do not have, or reads a last layer that is not the trained network's.
    """
    if proxy.requires not in ("", *benchmark.space.parts):
        return f"no {proxy.requires} in this space"
    return "" if dataset is None else unbuilt(proxy, benchmark, dataset)


def unbuilt(proxy: Proxy, benchmark: Benchmark, dataset: str) -> str:
    """Why a proxy has no value where the networks of a dataset ended in a decoder; "" where it has.

    Counts have: they are those of the network that is built, with its own last layer, as the card says.
    """
    if benchmark.dataset(dataset).head == "linear" or not proxy.reads_head or is_counted(proxy):
        return ""
    return f"reads the last layer, and the decoder of {dataset} is not built"
