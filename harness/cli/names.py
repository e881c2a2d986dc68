"""What `harness list` lists."""

from __future__ import annotations

from collections.abc import Callable


def lists() -> dict[str, Callable[[], dict[str, str]]]:
    """What `harness list` lists: by kind the names with their summaries."""

    def proxies() -> dict[str, str]:
        from harness.comparison.describe import list_proxies

        found = list_proxies()
        kinds = found["kind"].map({"proxy": "", "aggregate": "aggregate: ", "learned": "learned ranking: "})
        return dict(zip(found.index, kinds + found["summary"], strict=True))

    def benchmarks() -> dict[str, str]:
        from harness.benchmarks.benchmark import list_benchmarks

        return list_benchmarks()

    def targets() -> dict[str, str]:
        from harness.benchmarks.benchmark import list_targets

        return list_targets()

    def tables() -> dict[str, str]:
        from harness.tables.cells import list_tables

        return list_tables()

    def algorithms() -> dict[str, str]:
        from harness.search.algorithms import ALGORITHMS

        return {name: cls.summary for name, cls in ALGORITHMS.items()}

    def spaces() -> dict[str, str]:
        from harness.search.spaces import available

        return {name: cls.summary for name, cls in available().items()}

    return {kind.__name__: kind for kind in (proxies, benchmarks, targets, tables, algorithms, spaces)}
