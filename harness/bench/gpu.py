"""What a GPU makes of scoring: `python -m harness.bench.gpu` or `make bench-gpu`, under ten minutes.

Networks a second by the clock, the GPU's utilisation in that time, and how much faster several processes are that
share it; on random NAS-Bench-201 cells, batch 64; `make bench-gpu` writes results/bench_gpu.json. First each pass is
run once on the GPU, and what has no score there is named. The code has neither CUDA graphs nor `torch.compile` to be
measured.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from harness.bench.cost import LIGHT, _prepare, _sets, networks_a_second
from harness.paths import OUTPUT, usable_cores

#: Of one figure; twelve of them with the start of their processes take eight minutes.
SECONDS = 15.0
WORKERS = (1, 2, 4, 8)


def failures(device: str) -> dict[str, str]:
    """The statuses of proxies that have no score for a cell on the device, of all that have one on any."""
    from harness.engine.scorer import score_subject
    from harness.proxies import get_proxy

    scorer, (index,) = _prepare(1, 0, device)
    found = score_subject(scorer.subject(index), [get_proxy(name) for name in _sets()["all"]])
    return {label: result.status for label, result in found.items() if result.status != "ok"}


@contextmanager
def utilisation(gpu: str) -> Iterator[list[int]]:
    """Yields a list that holds, after the block, the per cent of the time that the GPU ran a kernel, twice a second.

    Read by nvidia-smi, to which `gpu` names it; empty where there is none.
    """
    command = [
        "nvidia-smi",
        f"--id={gpu}",
        "--query-gpu=utilization.gpu",
        "--format=csv,noheader,nounits",
        "-lms",
        "500",
    ]
    seen: list[int] = []
    try:
        watching = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    except OSError:
        yield seen
        return
    try:
        yield seen
    finally:
        watching.terminate()
        seen += [int(line) for line in watching.communicate()[0].split() if line.isdigit()]


def rates(cells: int, seed: int, device: str, gpu: str, seconds: float) -> Iterator[tuple[str, dict[str, Any]]]:
    """For each set of proxies and number of workers: networks a second, over those of one, median utilisation."""
    cores = usable_cores()
    sets = {"snip, naswot, synflow": ["snip", "naswot", "synflow"], LIGHT: _sets()[LIGHT], "all": _sets()["all"]}
    _, indices = _prepare(cells, seed, "cpu")  # the GPU is left to the processes that are measured
    for name, members in sets.items():
        alone = None
        for workers in [count for count in WORKERS if count <= cores]:
            with utilisation(gpu) as seen:
                rate = networks_a_second(workers, indices, members, device, seconds)
            alone = alone or rate
            busy = [value for value in seen if value]  # processes start before any kernel runs
            yield (
                f"{name}; workers={workers}",
                {
                    "networks_a_second": round(rate, 2),
                    "over_one_worker": round(rate / alone, 2),
                    "utilisation_percent": statistics.median(busy) if busy else None,
                },
            )


def main() -> int:
    """Measure and write the figures; one line where there is no GPU."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cells", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=SECONDS)
    parser.add_argument("--output", type=Path, default=Path(OUTPUT, "bench_gpu.json"))
    options = parser.parse_args()
    import torch

    if not torch.cuda.is_available():
        print(
            f"no GPU: torch {torch.__version__} sees none here; run this where there is one, with a CUDA build of "
            "torch",
            file=sys.stderr,
        )
        return 2
    gpu = f"GPU-{torch.cuda.get_device_properties(0).uuid}"  # CUDA_VISIBLE_DEVICES numbers anew
    figures: dict[str, Any] = {
        "protocol": f"NAS-Bench-201, {options.cells} random cells (seed {options.seed}), batch 64",
        "torch": torch.__version__,
        "gpu": torch.cuda.get_device_name(0),
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "without_a_score": failures("cuda:0"),
    }
    print(json.dumps(figures), flush=True)
    for name, found in rates(options.cells, options.seed, "cuda:0", gpu, options.seconds):
        print(name, json.dumps(found), flush=True)
        figures[name] = found
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
