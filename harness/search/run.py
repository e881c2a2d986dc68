"""A run on an open space, as the configuration of `harness search` or of a study asks for it."""

from __future__ import annotations

from typing import Any

from harness.search.algorithms import get_algorithm
from harness.search.engine import Budget, Ceilings, Run, SearchKey, finished, folder_of, write_result
from harness.search.export import write_found
from harness.search.genes import OpenSpace
from harness.search.objective import NetworkScores
from harness.specs import label


def ceilings_of(config: Any, space: OpenSpace | None = None) -> Ceilings:
    """The limits that a configuration names, else the space's own."""
    own = (None, None) if space is None else space.ceilings
    given = (config.max_params, config.max_flops)
    return Ceilings(*(limit if limit is not None else default for limit, default in zip(given, own, strict=True)))


def joined(proxies: Any, combine: str) -> str:
    """The proxies of a run as one level of its folder: their names, and how they are combined."""
    names = "+".join(proxies)
    return names if len(proxies) == 1 else f"{combine}({names})"


def open_run(
    space: OpenSpace, config: Any, seed: int, algorithm: str, proxies: list[str], combine: str, budget: str
) -> tuple[Run, SearchKey]:
    """A run on an open space, not yet started, and what it is stored under."""
    objective = NetworkScores(space, proxies, config.inputs.name, config.inputs.path, config.score_seed, config.device)
    ceilings = ceilings_of(config, space)
    run = Run(space, objective, get_algorithm(algorithm), Budget.parse(budget), seed, ceilings, combine)
    key = SearchKey(
        label(space),
        "none",
        "all",
        config.inputs.name,
        config.score_seed,
        joined(objective.labels, combine),
        label(run.algorithm),
        str(ceilings),
        budget,
        seed,
    )
    return run, key


def complete(run: Run, key: SearchKey, store: str, save_seconds: float, progress: bool = True) -> dict[str, Any]:
    """The result of a run: the stored one, or that of the run, gone on with from where it was saved."""
    folder = folder_of(store, key)
    result = finished(folder, run.objective)
    if result is None:
        if run.load(folder):
            print(f"going on from {len(run.state.history):,} evaluations, {run.state.seconds:.0f} s: {folder}")
        run.go(folder, save_seconds, progress)
        result = write_result(run, folder, key)
        write_found(run.space, run.best, result, folder)
    return result
