"""Which proxies have a value on the networks of a benchmark at all."""

from __future__ import annotations

from harness.benchmarks.benchmark import Benchmark
from harness.proxies.base import Proxy, is_counted
from harness.spaces.base import LINEAR


def inapplicable(proxy: Proxy, benchmark: Benchmark, dataset: str | None = None) -> str:
    """Why a proxy has no value on a benchmark, or on one of its datasets; "" where it has.

    It requires what the networks of the space do not have, or a logit for each class, which those with a decoder do not
    give.
    """
    if proxy.requires not in ("", *benchmark.space.parts):
        return f"no {proxy.requires} in this space"
    return "" if dataset is None else without_logits(proxy, benchmark, dataset)


def without_logits(proxy: Proxy, benchmark: Benchmark, dataset: str) -> str:
    """Why a proxy has no value where the networks of a dataset end in a decoder; "" where it has.

    What does not depend on the last layer is read from the encoder alone, with a linear layer in the decoder's place.
    """
    if benchmark.dataset(dataset).head == LINEAR or not proxy.reads_head or is_counted(proxy):
        return ""
    if all(probe.reads_images and not probe.of_classes & set(names) for probe, names in proxy.needs().items()):
        return ""
    return f"is not defined for networks that give images, as those of {dataset} do"
