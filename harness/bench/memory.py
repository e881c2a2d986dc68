"""Growth of a worker's memory over many networks: `python -m harness.bench.memory` prints it.

A run over a whole space must not need more memory at its end than at its start. What a network leaves behind
(hooks, graphs, batches, caches) adds up, so that the last tenth of the networks tells.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import statistics
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

#: Proxies of the cheap passes: together they build, hook, differentiate and re-initialise each network.
PROXIES = ("synflow", "snip:batch_size=4", "naswot:batch_size=4", "t_cet:batch_size=4", "flops")


def resident() -> float:
    """Resident memory of this process in MB (Linux)."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def _resident_after_each(cells: int, proxies: Sequence[str], benchmark: str, dataset: str, device: str) -> list[float]:
    import torch

    from harness.engine.scorer import Job, Scorer
    from harness.proxies import get_proxy

    torch.set_num_threads(1)
    labels = [get_proxy(spec).label for spec in proxies]
    scorer = Scorer(Job(benchmark, dataset, proxies, device=device))
    found = []
    for index in scorer.benchmark.population(f"sample({cells}, seed=0)"):
        scorer.score(int(index), labels)
        found.append(resident())
    return found


def memory_growth(
    cells: int = 1000,
    proxies: Sequence[str] = PROXIES,
    benchmark: str = "nasbench201",
    dataset: str = "ImageNet16-120",
    device: str = "cpu",
) -> dict[str, float]:
    """Resident memory of one worker while it scores random networks one after the other.

    Args:
        cells: number of networks; the first and the last tenth of them are compared.

    Returns:
        `cells`, `first_mb` and `last_mb` (medians over the first and the last tenth), `peak_mb`, and
        `growth` (last / first - 1).
    """
    # A fresh process, as a run starts its workers: what this one has freed does not serve it.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        found = pool.submit(_resident_after_each, cells, tuple(proxies), benchmark, dataset, device).result()
    tenth = max(1, len(found) // 10)
    first, last = statistics.median(found[:tenth]), statistics.median(found[-tenth:])
    return {
        "cells": len(found),
        "first_mb": round(first, 1),
        "last_mb": round(last, 1),
        "peak_mb": round(max(found), 1),
        "growth": round(last / first - 1, 4),
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cells", type=int, default=1000)
    parser.add_argument("--proxies", nargs="+", default=list(PROXIES))
    options = parser.parse_args()
    print(json.dumps(memory_growth(options.cells, options.proxies)))
