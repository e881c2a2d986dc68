"""Cost of the passes in units of one forward + backward pass: `python -m harness.bench` or `make bench`.

All figures are ratios of processor times within one run, so they carry over between machines better than
seconds do. One thread, batch 64, medians over random NAS-Bench-201 cells; `make bench` writes results/bench.json.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import platform
import statistics
import time
from pathlib import Path
from typing import Any

from harness.paths import OUTPUT

#: Proxies whose passes cost most, measured apart from the rest.
HEAVY = (
    "az_expressivity",
    "az_progressivity",
    "az_trainability",
    "dextr",
    "epsinas",
    "grasp",
    "knas",
    "ntk",
    "vkdnw",
    "vkdnw_single",
    "vkdnw_decile",
)

LIGHT = "all less az_nas, dextr, epsinas, grasp, knas, ntk, vkdnw"


def _sets() -> dict[str, list[str]]:
    from harness.proxies import available

    # These read no network of this space.
    names = [name for name in available() if name not in ("sed", "skip") and available()[name].requires != "attention"]
    return {
        LIGHT: [name for name in names if name not in HEAVY],
        "vkdnw": ["vkdnw"],
        "grasp": ["grasp"],
        "ntk": ["ntk"],
        "az_nas": [name for name in names if name.startswith("az_")],
        "all": names,
    }


def _prepare(cells: int, seed: int, device: str = "cpu") -> tuple[Any, list[int]]:
    import torch

    from harness.engine.scorer import Job, Scorer

    torch.set_num_threads(1)
    scorer = Scorer(Job("nasbench201", "cifar10", ("synflow",), device=device))
    return scorer, [int(i) for i in scorer.benchmark.population(f"sample({cells}, seed={seed})")]


def _forward_backward(subject: Any, repeats: int = 3) -> float:
    """Least processor time of a plain forward and backward of the loss, all parameters, the engine's layout."""
    import torch
    import torch.nn.functional as F

    subject.initialise("kaiming_fan_in")
    images, labels = subject.batch(0, 64)
    parameters = list(subject.network.parameters())
    best = float("inf")
    for _ in range(repeats):
        started = time.process_time()
        torch.autograd.grad(F.cross_entropy(subject.network(images), labels), parameters, allow_unused=True)
        best = min(best, time.process_time() - started)
    return best


def cost_ratios(cells: int, seed: int) -> dict[str, Any]:
    """For each set of proxies the median over cells of (its cost / one forward + backward pass)."""
    from harness.engine.scorer import score_subject
    from harness.proxies import get_proxy

    scorer, indices = _prepare(cells, seed)
    ratios: dict[str, list[float]] = {name: [] for name in _sets()}
    seconds = []
    for index in indices:
        subject = scorer.subject(index)
        unit = _forward_backward(subject)
        seconds.append(unit)
        for name, members in _sets().items():
            proxies = [get_proxy(member) for member in members]
            started = time.process_time()
            score_subject(scorer.subject(index), proxies)
            ratios[name].append((time.process_time() - started) / unit)
    return {
        "forward_backward_seconds": statistics.median(seconds),
        "cost": {name: round(statistics.median(values), 2) for name, values in ratios.items()},
    }


def sharing_ratios(cells: int, seed: int) -> dict[str, float]:
    """Medians over cells of the cost of all proxies less the heavy ones at once, over that of each by itself.

    - `ours_one_by_one`: a proxy builds its network and runs the passes that it reads for itself alone
    - `whole_pass_each`: a proxy that reads a network builds it and runs one whole forward and backward in torch's
      default memory layout, whatever it needs of them, as zero-cost-nas does for most of its own
    """
    from harness.engine.scorer import score_subject
    from harness.proxies import get_proxy
    from harness.proxies.base import is_counted

    scorer, indices = _prepare(cells, seed)
    proxies = [get_proxy(name) for name in _sets()[LIGHT]]
    reading = [proxy for proxy in proxies if not is_counted(proxy)]

    def cost(index: int, members: list) -> float:
        started = time.process_time()
        score_subject(scorer.subject(index), members)
        return time.process_time() - started

    cost(indices[0], proxies)  # warms up
    found: dict[str, list[float]] = {"ours_one_by_one": [], "whole_pass_each": []}
    for index in indices:
        together = cost(index, proxies)
        found["ours_one_by_one"].append(together / sum(cost(index, [proxy]) for proxy in proxies))
        found["whole_pass_each"].append(together / sum(_whole_pass(scorer, index) for _ in reading))
    return {name: round(statistics.median(values), 3) for name, values in found.items()}


def _whole_pass(scorer: Any, index: int) -> float:
    """Processor time to build a network and to run one forward and backward of 64 images, in torch's own layout."""
    import torch.nn.functional as F

    images, labels = (tensor.contiguous() for tensor in scorer.batch(0, 64))
    started = time.process_time()
    network = scorer.space.build(scorer.benchmark.architectures[index], scorer.dataset.classes)
    F.cross_entropy(network(images), labels).backward()
    return time.process_time() - started


def _rate(ready: Any, indices: list[int], members: list[str], device: str, seconds: float, answer: Any) -> None:
    from harness.engine.scorer import score_subject
    from harness.proxies import get_proxy

    scorer, _ = _prepare(1, 0, device)
    proxies = [get_proxy(name) for name in members]
    score_subject(scorer.subject(indices[0]), proxies)
    ready.wait()
    scored, started = 0, time.perf_counter()
    while (spent := time.perf_counter() - started) < seconds:
        score_subject(scorer.subject(indices[scored % len(indices)]), proxies)
        scored += 1
    answer.put(scored / spent)


def networks_a_second(workers: int, indices: list[int], members: list[str], device: str, seconds: float) -> float:
    """Rate of `workers` processes together, all of them warm, on the proxies `members`; by the clock."""
    context = multiprocessing.get_context("spawn")
    ready, answer = context.Barrier(workers), context.Queue()
    given = (ready, indices, members, device, seconds, answer)
    running = [context.Process(target=_rate, args=given) for _ in range(workers)]
    for process in running:
        process.start()
    total = sum(answer.get() for _ in running)
    for process in running:
        process.join()
    return total


def worker_speedup(cells: int, seed: int, workers: int = 2, seconds: float = 20.0) -> float:
    """Networks a second of `workers` processes together over those of one."""
    _, indices = _prepare(cells, seed)
    alone, together = (
        networks_a_second(n, indices, ["snip", "naswot", "synflow"], "cpu", seconds) for n in (1, workers)
    )
    return round(together / alone, 2)


def _peak(index: int, members: list[str] | None, answer: Any) -> None:
    from harness.engine.scorer import score_subject
    from harness.proxies import get_proxy

    scorer, _ = _prepare(1, 0)
    subject = scorer.subject(index)
    subject.batch(0, 64)
    Path("/proc/self/clear_refs").write_text("5")  # Linux: forget the peak that the imports reached
    before = _resident("VmHWM")
    if members is None:
        _forward_backward(subject, repeats=1)
    else:
        score_subject(subject, [get_proxy(member) for member in members])
    answer.put(_resident("VmHWM") - before)


def _resident(field: str) -> int:
    """A figure of /proc/self/status in kB."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith(field)))


def memory_ratios(cells: int, seed: int) -> dict[str, float]:
    """Median over cells of the growth of the peak resident memory, over that of one forward + backward pass."""
    context = multiprocessing.get_context("spawn")
    _, indices = _prepare(cells, seed)

    def growth(index: int, members: list[str] | None) -> int:
        answer = context.Queue()
        process = context.Process(target=_peak, args=(index, members, answer))
        process.start()
        value = answer.get()
        process.join()
        return value

    found: dict[str, list[float]] = {}
    for index in indices:
        unit = growth(index, None)
        for name, members in _sets().items():
            found.setdefault(name, []).append(growth(index, members) / unit)
    return {name: round(statistics.median(values), 2) for name, values in found.items()}


def correlation_seconds(proxies: int = 30, n: int = 9445) -> float:
    """Seconds for tau, rho and nDCG_1000 with 1,000-resample intervals of `proxies` proxies on n architectures."""
    import numpy as np

    from harness.correlation import correlate_many

    rng = np.random.default_rng(0)
    accuracies = rng.uniform(50, 94, n)
    columns = {str(i): accuracies + rng.normal(0, 5 + i, n) for i in range(proxies)}
    started = time.perf_counter()
    correlate_many(columns, accuracies)
    return round(time.perf_counter() - started, 2)


def main() -> None:
    """Measure and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cells", type=int, default=10)
    parser.add_argument("--memory-cells", type=int, default=3)
    parser.add_argument("--growth-cells", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=Path(OUTPUT, "bench.json"))
    parts = ("cost", "sharing", "workers", "peak_memory", "memory_growth", "correlation", "topology", "load")
    parser.add_argument("--only", nargs="+", choices=parts, help="measure these; the others stay as the file has them")
    options = parser.parse_args()
    import torch

    from harness.bench.memory import memory_growth
    from harness.bench.rates import load_costs, topology_rates
    from harness.benchmarks.benchmark import list_benchmarks, load_benchmark

    cells, seed = options.cells, options.seed
    measures = {
        "cost": lambda: cost_ratios(cells, seed),
        "sharing": lambda: {"at_once_over_separate_passes": sharing_ratios(cells, seed)},
        "workers": lambda: {"two_workers_over_one": worker_speedup(cells, seed)},
        "peak_memory": lambda: {"peak_memory": memory_ratios(options.memory_cells, seed)},
        "memory_growth": lambda: {"memory_growth": memory_growth(options.growth_cells)},
        "correlation": lambda: {"correlation_30_proxies_9445_seconds": correlation_seconds()},
        "topology": lambda: {"topology_architectures_a_second": topology_rates()},
        "load": lambda: {"load": load_costs([n for n in list_benchmarks() if load_benchmark(n).has_accuracies])},
    }
    held = options.only and options.output.is_file()
    figures = json.loads(options.output.read_text(encoding="utf-8")) if held else {}
    figures |= {
        "protocol": f"NAS-Bench-201, {cells} random cells (seed {seed}), batch 64, one thread, medians",
        "torch": torch.__version__,
        "machine": platform.machine(),
    }
    for part in options.only or parts:
        found = measures[part]()
        print(json.dumps(found), flush=True)
        figures |= found
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
