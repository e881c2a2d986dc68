"""`harness search`: runs of one search, or a study of several with its table and plots."""

from __future__ import annotations

from typing import Any

from harness.benchmarks.benchmark import list_benchmarks
from harness.engine.store import open_store
from harness.errors import HarnessError, UnknownNameError
from harness.rankings.results import PAPER_INPUTS
from harness.search.algorithms import get_algorithm
from harness.search.engine import Budget
from harness.search.objective import check_combination
from harness.search.outcome import Interval, TabularSearches
from harness.search.run import ceilings_of, complete, complete_tabular, joined, open_run
from harness.search.spaces import available, get_open_space
from harness.search.stored import SearchKey, folder_of
from harness.search.unread import BESIDE_A_STUDY, ON_A_BENCHMARK, ON_AN_OPEN_SPACE, WITHOUT_A_STUDY, refuse
from harness.specs import label


def search(config: Any) -> int:
    """Do what the configuration of `harness search` asks for; returns the exit code."""
    for name in _RANGES:
        _check_range(config, name)
    for name in ("max_params", "max_flops"):
        if getattr(config, name) is not None and not getattr(config, name) > 0:
            raise HarnessError(f"{name}={getattr(config, name)} makes no sense: give a number above 0, or leave it out")
    if config.study is not None:
        from harness.search.study import build_study

        refuse(config, BESIDE_A_STUDY, "beside study=")
        for name in ("repeats", "seed"):
            _check_range(config.study, name, "study.")
        return build_study(config)
    get_algorithm(config.algorithm)  # before anything is read
    Budget.parse(config.budget)
    check_combination(config.combine)
    if not config.proxies:
        raise HarnessError("no proxy leads the search: set proxies=[synflow,…]; `harness list proxies` names them")
    name = str(config.benchmark).partition(":")[0]
    refuse(config, WITHOUT_A_STUDY)
    if name in available():
        refuse(config, ON_AN_OPEN_SPACE)
        return _open(config)
    if name not in list_benchmarks():
        raise UnknownNameError("benchmark or search space", name, [*list_benchmarks(), *available()])
    refuse(config, ON_A_BENCHMARK)
    return _tabular(config)


#: The least and the most of settings.
_RANGES = {"repeats": (1, 10**6), "seed": (0, 2**31), "save_seconds": (0, 10**9), "threads": (1, 1024)}


def _check_range(config: Any, name: str, prefix: str = "") -> None:
    (least, most), value = _RANGES[name], getattr(config, name)
    if not least <= value <= most:
        raise HarnessError(f"{prefix}{name}={value} makes no sense: give at least {least}, at most {most:,}")


def _tabular(config: Any) -> int:
    from harness.benchmarks.benchmark import load_benchmark

    benchmark = load_benchmark(config.benchmark)
    dataset = next(iter(benchmark.datasets)) if config.dataset is None else config.dataset
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
        result = complete_tabular(run, key, config.store, config.save_seconds)
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
