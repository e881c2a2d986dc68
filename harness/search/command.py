"""`harness search`: runs of one search, or a study of several with its table and plots."""

from __future__ import annotations

from typing import Any

from harness.benchmarks.benchmark import list_benchmarks
from harness.engine.store import open_store
from harness.errors import HarnessError, UnknownNameError
from harness.rankings.results import PAPER_INPUTS
from harness.search.algorithms import get_algorithm
from harness.search.engine import Budget, SearchKey, folder_of, write_result
from harness.search.objective import check_combination
from harness.search.outcome import Interval, TabularSearches
from harness.search.run import ceilings_of, complete, joined, open_run
from harness.search.spaces import available, get_open_space
from harness.specs import label


def search(config: Any) -> int:
    """Do what the configuration of `harness search` asks for; returns the exit code."""
    if config.study is not None:
        from harness.search.study import build_study

        return build_study(config)
    get_algorithm(config.algorithm)  # before anything is read
    Budget.parse(config.budget)
    check_combination(config.combine)
    for name, least in (("repeats", 1), ("seed", 0), ("save_seconds", 0)):
        if getattr(config, name) < least:
            raise HarnessError(f"{name}={getattr(config, name)} makes no sense: give at least {least}")
    if not config.proxies:
        raise HarnessError("no proxy leads the search: set proxies=[synflow,…]; `harness list proxies` names them")
    name = str(config.benchmark).partition(":")[0]
    if name in available():
        return _open(config)
    if name not in list_benchmarks():
        raise UnknownNameError("benchmark or search space", name, [*list_benchmarks(), *available()])
    return _tabular(config)


def _tabular(config: Any) -> int:
    from harness.benchmarks.benchmark import load_benchmark

    benchmark = load_benchmark(config.benchmark)
    dataset = config.dataset or next(iter(benchmark.datasets))
    searches = TabularSearches(
        config.benchmark,
        dataset,
        config.population,
        open_store(config.scores, config.stores),
        config.target,
        config.score_seed,
    )
    objective = searches.objective(list(config.proxies))
    ceilings = ceilings_of(config)
    runs = []
    for seed in range(config.seed, config.seed + config.repeats):
        run = searches.run(objective, config.algorithm, config.budget, seed, ceilings, config.combine)
        key = SearchKey(
            benchmark.name,
            dataset,
            config.population,
            PAPER_INPUTS,
            config.score_seed,
            joined(objective.labels, config.combine),
            label(run.algorithm),
            str(ceilings),
            config.budget,
            seed,
        )
        folder = folder_of(config.store, key)
        run.load(folder)
        run.go(folder, config.save_seconds)
        result = write_result(run, folder, key)
        found = searches.accuracies[searches.space.row(run.best)]
        print(f"seed {seed}: {result['architecture']}  {found:.3f} after {result['evaluations']:,} evaluations")
        runs.append(run)
    outcome = searches.outcome(runs)
    final = Interval.of(outcome.accuracy[:, -1])
    print(
        f"{benchmark.name}/{dataset}, {outcome.members:,} architectures: accuracy {final.mean:.3f} "
        f"[{final.low:.3f}, {final.high:.3f}] over {len(runs)} runs, regret {outcome.oracle - final.mean:.3f}, "
        f"oracle {outcome.oracle:.3f}; store {config.store}"
    )
    return 0


def _open(config: Any) -> int:
    import torch

    space = get_open_space(config.benchmark)
    torch.set_num_threads(config.threads)
    for seed in range(config.seed, config.seed + config.repeats):
        run, key = open_run(space, config, seed, config.algorithm, list(config.proxies), config.combine, config.budget)
        result = complete(run, key, config.store, config.save_seconds)
        scores = ", ".join(f"{name} {'none' if v is None else f'{v:.4g}'}" for name, v in result["scores"].items())
        print(
            f"{label(space)} seed {seed}: {result['params'] / 1e6:.2f} M parameters, {result['flops'] / 1e6:.0f} M "
            f"multiply-accumulates, {scores}; {result['evaluations']:,} evaluations in {result['seconds']:.0f} s\n"
            f"  {folder_of(config.store, key)}"
        )
        if config.plots:
            from harness.search.plots import plot_run

            for path in plot_run(folder_of(config.store, key), list(run.objective.labels)):
                print(f"  {path}")
    return 0
