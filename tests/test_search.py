"""Searches: moves of every space, algorithms, state on disk, and what a search on stored scores comes to."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.benchmarks.benchmark import load_benchmark
from harness.engine.store import Row, ScoreKey, ScoreStore
from harness.errors import HarnessError, UnknownNameError
from harness.search.algorithms import Decoupled, FreeRea, RandomSearch, RegularisedEvolution, get_algorithm
from harness.search.engine import Budget, Ceilings, Run
from harness.search.genes import SIZE, TOPOLOGY, Gene, Genotype, OpenSpace
from harness.search.objective import Objective, Scored, best_so_far, fitness, normalised_sum
from harness.search.outcome import Interval, TabularSearches
from harness.search.run import write_result
from harness.search.spaces import get_open_space
from harness.search.stored import SearchKey, finished
from harness.search.tabular import TabularSpace

ROOT = Path(__file__).resolve().parent.parent
ANY = lambda genotype: True  # noqa: E731


@pytest.fixture(scope="module")
def tabular() -> dict[str, TabularSpace]:
    def space(name: str, population: str) -> TabularSpace:
        benchmark = load_benchmark(name)
        return TabularSpace(benchmark, benchmark.dataset("cifar10"), benchmark.population(population))

    return {
        "nasbench201": space("nasbench201", "no_dead_ops"),
        "sample": space("nasbench201", "no_dead_ops.sample(300, seed=0)"),
        "macro": space("macro", "all"),
        "darts": space("darts_swap1000", "sample(200, seed=0)"),
        "nasbench101": space("nasbench101", "all"),
    }


OPEN = {
    "esformer:size=S0": 3.5e6,
    "esformer:size=S1:blocks=residual": 6e6,
    "zennas": 1e6,
    "mobilenetv2": 450e6,
}


# Moves.


@pytest.mark.parametrize("spec", OPEN)
@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), kind=st.sampled_from([None, TOPOLOGY, SIZE]), steps=st.integers(1, 4))
def test_moves_of_open_spaces_give_members_within_the_ceiling(spec, seed, kind, steps):
    space = get_open_space(spec)
    ceilings = Ceilings(*space.ceilings)

    def allowed(genotype: Genotype) -> bool:
        return ceilings.keeps(space.counts(genotype))

    rng = np.random.RandomState(seed)
    first, second = space.random(rng, allowed), space.random(rng, allowed)
    child = space.mutate(first, rng, allowed, kind, steps)
    crossed = space.crossover(first, second, rng, allowed, kind)
    assert child != first
    for genotype in (first, second, child, crossed):
        assert space.decode(space.encode(genotype)) == genotype
        assert space.repaired(genotype) == genotype
        assert max(space.counts(genotype)[name] for name in ("params", "flops")) > 0
        limit = "flops" if spec == "mobilenetv2" else "params"
        assert space.counts(genotype)[limit] <= OPEN[spec]
    if kind is not None:
        fixed = [i for i, gene in enumerate(space.genes) if gene.kind != kind]
        assert all(child[i] == first[i] and crossed[i] == first[i] for i in fixed)


@pytest.mark.parametrize("spec", ["esformer:size=S0:blocks=residual", "mobilenetv2", "zennas"])
def test_every_gene_of_an_open_space_takes_every_value(spec):
    space = get_open_space(spec)
    rng = np.random.RandomState(0)
    for gene in space.genes:
        places = {0}
        edge = {0}
        while edge:
            edge = {p for place in edge for p in gene.reach(place)} - places
            places |= edge
        assert places == set(range(len(gene.options))), gene.name
    moved = set()
    genotype = space.founder(rng)
    while genotype is None:
        genotype = space.founder(rng)
    for _ in range(3000):
        child = space.mutate(genotype, rng, ANY)
        moved |= {i for i, (a, b) in enumerate(zip(genotype, child, strict=True)) if a != b}
        genotype = child
        if moved >= set(space.movable()):
            break
    assert moved == set(space.movable())


def test_widths_of_esformer_never_decrease():
    space = get_open_space("esformer:size=S1")
    rng = np.random.RandomState(3)
    genotype = space.random(rng, ANY)
    for _ in range(200):
        genotype = space.mutate(genotype, rng, ANY, SIZE)
        widths = [v for name, v in space.values(genotype).items() if name.endswith(".width")]
        assert widths == sorted(widths)


@pytest.mark.parametrize("name", ["nasbench201", "sample", "macro", "darts", "nasbench101"])
def test_moves_on_a_benchmark_stay_in_the_population(tabular, name):
    space = tabular[name]
    rng = np.random.RandomState(0)
    assert space.scattered == (name in ("sample", "darts"))
    genotype = space.random(rng, ANY)
    visited = set()
    for _ in range(150):
        child = space.mutate(genotype, rng, ANY)
        assert child != genotype
        crossed = space.crossover(child, space.random(rng, ANY), rng, ANY)
        for member in (child, crossed):
            index = space.population[space.row(member)]
            assert space.benchmark.index(space.encode(member)) == index
        visited.add(space.row(child))
        genotype = child
    assert len(visited) > 20


def test_every_member_of_macro_is_reached_by_mutations(tabular):
    space = tabular["macro"]
    rng = np.random.RandomState(0)
    seen, genotype = set(), space.random(rng, ANY)
    for _ in range(4000):
        genotype = space.mutate(genotype, rng, ANY)
        seen |= {(place, value) for place, value in enumerate(genotype)}
    assert seen == {(i, v) for i, gene in enumerate(space.genes) for v in range(len(gene.options))}


def test_a_ceiling_holds_on_a_benchmark(tabular):
    space = tabular["nasbench201"]
    limit = Ceilings(max_params=3e5)
    rng = np.random.RandomState(0)
    allowed = lambda genotype: limit.keeps(space.counts(genotype))  # noqa: E731
    genotype = space.random(rng, allowed)
    for _ in range(50):
        genotype = space.mutate(genotype, rng, allowed)
        assert space.counts(genotype)["params"] <= 3e5


def test_cells_of_nasbench101_are_found_under_any_order_of_their_vertices(tabular):
    space = tabular["nasbench101"]
    edges = [(x, y) for y in range(1, 7) for x in range(y)]
    chosen = {(0, 1), (0, 2), (1, 6), (2, 6)}
    codes = (0, 2, 0, 0, 0)
    swapped = (2, 0, 0, 0, 0)
    bits = tuple(int(edge in chosen) for edge in edges)
    assert space.row((*bits, *codes)) == space.row((*bits, *swapped)) is not None
    dead = tuple(int(edge in chosen | {(0, 4)}) for edge in edges)
    assert space.row((*dead, *codes)) == space.row((*bits, *codes))
    assert space.row((*[0] * 21, *codes)) is None


def test_skip_of_nasbench201_is_the_mean_jump(tabular):
    skip = tabular["nasbench201"].coding.measures["skip"]
    # EDGES: 01 02 12 03 13 23; an edge jumps over target - source - 1 nodes.
    assert skip(np.array([[0, 1, 0, 1, 0, 0], [3, 3, 3, 3, 3, 3], [1, 0, 0, 0, 0, 0]])).tolist() == [1.5, 0.0, 0.0]


# Fitness.


def test_normalised_sum_by_hand():
    scores = np.array([[1.0, -2.0, 4.0], [0.5, 0.25, np.nan]])
    assert normalised_sum(scores).tolist() == [0.25 + 1.0, -0.5 + 0.5, -np.inf]
    assert fitness(np.array([[np.nan], [1.0]]), "sum").tolist() == [-np.inf, 1.0]


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.lists(st.sampled_from([-2.0, -1.0, 0.0, 1.0, 3.0, 7.0, float("nan")]), min_size=2, max_size=2),
        min_size=1,
        max_size=15,
    )
)
def test_best_so_far_is_the_best_of_each_beginning(rows):
    scores = np.array(rows)
    for combine in ("normalised_sum", "log_rank_sum"):
        expected = [int(fitness(scores[: i + 1], combine).argmax()) for i in range(len(scores))]
        found = best_so_far(scores, combine)
        values = [fitness(scores[: i + 1], combine) for i in range(len(scores))]
        assert all(v[a] == v[b] for v, a, b in zip(values, expected, found, strict=True))
    single = scores[:, :1]
    assert best_so_far(single, "sum").tolist() == [
        int(fitness(single[: i + 1], "sum").argmax()) for i in range(len(single))
    ]


# Algorithms, on a space of which everything is known.


@dataclass(frozen=True)
class Toy(OpenSpace):
    """Ten genes of topology and ten of size, 0 to 3 each; parameters are the sum of the sizes."""

    name: ClassVar[str] = "toy"
    genes: ClassVar[tuple[Gene, ...]] = tuple(
        Gene(f"{kind}.{i}", kind, (0, 1, 2, 3)) for kind in (TOPOLOGY, SIZE) for i in range(10)
    )
    classes: int = 2
    resolution: int = 8

    def counts(self, genotype: Genotype) -> dict[str, float]:
        return {"params": float(sum(genotype[10:])), "flops": 0.0}

    def plan(self, genotype: Genotype) -> dict[str, Any]:
        return {}

    def network_module(self) -> Any:
        raise AssertionError("never built")


class Sums(Objective):
    """The sum of the genes of topology, and that of the genes of size."""

    labels = ("topology", "size")
    versions = (1, 1)

    def __init__(self) -> None:
        self.calls = 0

    def score(self, genotype: Genotype, columns) -> Scored:
        self.calls += 1
        sums = (float(sum(genotype[:10])), float(sum(genotype[10:])))
        return Scored(tuple(sums[c] for c in columns), 0.5)


def toy_run(algorithm, budget="300", seed=0, ceilings=None) -> Run:
    return Run(Toy(), Sums(), algorithm, Budget.parse(budget), seed, ceilings)


ALGORITHMS = [
    RandomSearch(),
    RegularisedEvolution(population=20, tournament=5),
    FreeRea(population=20, tournament=5, mutants=2, steps=2),
    Decoupled(start_population=6, start_tournament=3, population=12, tournament=4, cycles=2),
]


@pytest.mark.parametrize("algorithm", ALGORITHMS, ids=lambda a: a.name)
def test_same_seed_same_result_and_the_budget_is_kept(algorithm):
    first, again, other = toy_run(algorithm), toy_run(algorithm), toy_run(algorithm, seed=1)
    for run in (first, again, other):
        run.go()
    assert len(first.state.history) == 300
    pd.testing.assert_frame_equal(first.frame(), again.frame())
    assert first.state.population == again.state.population
    assert first.state.history != other.state.history
    assert first.objective.calls < 300 or algorithm.name == "random_search"


@pytest.mark.parametrize("algorithm", ALGORITHMS, ids=lambda a: a.name)
def test_every_evaluated_member_keeps_the_ceiling(algorithm):
    run = toy_run(algorithm, ceilings=Ceilings(max_params=12))
    run.go()
    assert max(sum(genotype[10:]) for genotype in run.state.history) == 12


@pytest.mark.parametrize("algorithm", ALGORITHMS[1:], ids=lambda a: a.name)
def test_evolution_beats_random_members(algorithm):
    chance, evolved = toy_run(RandomSearch(), "600"), toy_run(algorithm, "600")
    chance.go()
    evolved.go()
    assert sum(evolved.best) > sum(chance.best) + 5


def test_regularised_evolution_lets_the_oldest_die():
    run = toy_run(RegularisedEvolution(population=20, tournament=5))
    run.go()
    assert run.state.population == list(range(280, 300))


def test_freerea_kills_the_oldest_and_keeps_the_best():
    run = toy_run(FreeRea(population=5, tournament=5), budget="5")
    run.go()
    before = list(run.state.population)
    run.budget = Budget.parse("8")
    assert run.step()
    after = run.state.population
    assert len(after) == 5
    assert before[0] not in after
    candidates = [*before[1:], 5, 6, 7]
    values = run.fitness(sorted(candidates))
    assert sorted(run.fitness(after)) == sorted(values)[-5:] or len(set(values)) < len(values)


def test_decoupled_changes_only_the_genes_of_its_phase():
    algorithm = ALGORITHMS[3]
    run = toy_run(algorithm, "600")
    run.go()
    frame = run.frame()
    names = [phase.name for phase in run.plan]
    assert names == [*(f"start {i}" for i in range(1, 6)), "topology 1", "size 1", "topology 2", "size 2"]
    assert list(dict.fromkeys(frame["phase"])) == names
    for name, fixed in (("size 1", slice(0, 10)), ("topology 2", slice(10, 20)), ("size 2", slice(0, 10))):
        members = [g for g, phase in zip(run.state.history, frame["phase"], strict=True) if phase == name]
        assert len({genotype[fixed] for genotype in members}) == 1
    led = {
        name: set(part[["topology", "size"]].notna().all()[lambda v: v].index) for name, part in frame.groupby("phase")
    }
    assert led["start 1"] == led["topology 2"] == {"topology"}
    assert led["size 1"] == led["size 2"] == {"size"}
    # The best of a phase seeds the next.
    start = frame.index[frame["phase"] == "topology 2"][0]
    sizes = frame[frame["phase"] == "size 1"]
    assert run.state.history[start] == run.state.history[sizes["size"].idxmax()]


def test_the_result_of_a_decoupled_search_has_all_scores_of_what_it_found(tmp_path):
    run = toy_run(ALGORITHMS[3], "600")
    run.go()
    evaluations = len(run.state.history)
    last = run.frame().iloc[-1]
    assert np.isnan(last["topology"])  # the last phase was led by the other one alone
    key = SearchKey("toy", "none", "all", "none", 0, "both", "decoupled", "none", "600", 0)
    result = write_result(run, tmp_path, key)
    expected = run.objective.score(run.best, (0, 1)).values
    assert result["scores"] == dict(zip(run.objective.labels, expected, strict=True))
    assert result["evaluations"] == evaluations == 600

    def fails(genotype, columns):
        raise HarnessError("cannot be scored")

    run.objective.score = fails
    with pytest.raises(HarnessError, match="cannot be scored"):
        write_result(run, tmp_path / "other", key)
    assert toy_run(ALGORITHMS[3], "600").load(tmp_path / "other")  # what was found is kept


def test_decoupled_leaves_out_phases_of_a_kind_that_a_space_lacks(tabular):
    phases = Decoupled(cycles=2).phases(tabular["macro"], 2)
    assert [phase.name for phase in phases[5:]] == ["topology 1", "topology 2"]
    assert sum(phase.share for phase in phases) == pytest.approx(1)
    with pytest.raises(HarnessError, match="two proxies"):
        Decoupled().phases(tabular["macro"], 1)


@pytest.mark.parametrize("algorithm", ALGORITHMS, ids=lambda a: a.name)
def test_a_run_goes_on_from_any_saved_state_as_if_undisturbed(algorithm, tmp_path):
    whole = toy_run(algorithm, "150")
    whole.go()
    run = toy_run(algorithm, "150")
    for step in range(1000):
        if not run.step():
            break
        if step % 7 == 3:
            run.save(tmp_path)
            run = toy_run(algorithm, "150")
            assert run.load(tmp_path)
    assert run.state.population == whole.state.population
    pd.testing.assert_frame_equal(run.frame().drop(columns="seconds"), whole.frame().drop(columns="seconds"))


def test_a_damaged_state_is_named_and_one_of_other_definitions_not_used(tmp_path):
    run = toy_run(ALGORITHMS[1])
    run.step()
    run.save(tmp_path)
    content = json.loads((tmp_path / "state.json").read_text())
    (tmp_path / "state.json").write_text(json.dumps({**content, "versions": [1, 2]}))
    assert not toy_run(ALGORITHMS[1]).load(tmp_path)
    (tmp_path / "state.json").write_text(json.dumps(content)[:100])
    with pytest.raises(HarnessError, match="damaged"):
        toy_run(ALGORITHMS[1]).load(tmp_path)


BROKEN_STATES = {
    "phase": {"phase": 7},
    "phase of a member": {"phases": [9]},
    "phase that is no whole number": {"phase": 0.0},
    "population": {"population": [5]},
    "genotype": {"history": [[9] * 20]},
    "short genotype": {"history": [[0] * 3]},
    "scores": {"scores": [[1.0, 2.0], [3.0, 4.0]]},
    "costs": {"costs": []},
    "seconds": {"seconds": "soon"},
    "generator": {"generator": ["MT19937", [1] * 624, 10**6, 0, 0.0]},
    "negative generator": {"generator": ["MT19937", [-1] * 624, 1, 0, 0.0]},
}


@pytest.mark.parametrize("kind", BROKEN_STATES)
def test_a_state_of_another_form_is_named(kind, tmp_path):
    run = toy_run(ALGORITHMS[1])
    run.step()
    run.save(tmp_path)
    path = tmp_path / "state.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **BROKEN_STATES[kind]}))
    with pytest.raises(HarnessError, match=r"state\.json is damaged .*delete it"):
        toy_run(ALGORITHMS[1]).load(tmp_path)


def test_a_state_or_result_that_cannot_be_read_is_named(tmp_path, monkeypatch):
    def refused(*_: Any, **__: Any) -> None:
        raise PermissionError(13, "Permission denied")

    for name in ("state.json", "result.yaml"):
        (tmp_path / name).write_text("")
    monkeypatch.setattr(Path, "read_text", refused)
    with pytest.raises(HarnessError, match=r"state\.json cannot be read \(Permission denied\)"):
        toy_run(ALGORITHMS[1]).load(tmp_path)
    with pytest.raises(HarnessError, match=r"result\.yaml cannot be read \(Permission denied\)"):
        finished(tmp_path, Sums())


@pytest.mark.parametrize("text", ["", "[]", "{", "architecture: 3", "\0"])
def test_a_result_that_is_none_is_named(text, tmp_path):
    (tmp_path / "result.yaml").write_text(text)
    with pytest.raises(HarnessError, match=r"result\.yaml is damaged: delete it"):
        finished(tmp_path, Sums())


@pytest.mark.parametrize("algorithm", ALGORITHMS, ids=lambda a: a.name)
@pytest.mark.parametrize("error", [KeyboardInterrupt, HarnessError("no score")])
def test_a_run_that_is_stopped_keeps_all_whole_steps(algorithm, error, tmp_path):
    whole = toy_run(algorithm, "150")
    whole.go()
    for at in (1, 40, 77, 120):
        folder = tmp_path / str(at)
        stopped = toy_run(algorithm, "150")
        score = stopped.objective.score

        def failing(genotype, columns, at=at, run=stopped, score=score):
            if len(run.state.history) >= at:
                raise error
            return score(genotype, columns)

        stopped.objective.score = failing
        with pytest.raises(type(error) if isinstance(error, Exception) else error):
            stopped.go(folder, save_seconds=1000)
        again = toy_run(algorithm, "150")
        assert again.load(folder)
        assert len(again.state.history) >= at - 2  # a step of FreeREA has two members
        again.go(folder)
        assert again.state.population == whole.state.population
        pd.testing.assert_frame_equal(again.frame().drop(columns="seconds"), whole.frame().drop(columns="seconds"))


def test_ceilings_that_differ_have_folders_of_their_own_and_old_ones_are_found():
    assert str(Ceilings(3000001.0)) != str(Ceilings(3000002.0))
    assert str(Ceilings(3000000.5)) == "params<=3000000.5"
    assert str(Ceilings(6e6, 450e6)) == "params<=6e+06,flops<=4.5e+08"


def test_a_time_budget_counts_the_time_of_a_run_that_was_stopped(tmp_path):
    run = toy_run(ALGORITHMS[1], "1h")
    run.step()
    run.state.seconds = 3599.999
    run.save(tmp_path)
    again = toy_run(ALGORITHMS[1], "1h")
    again.load(tmp_path)
    again.go()
    assert again.state.seconds >= 3600
    assert len(again.state.history) < 10_000


@pytest.mark.parametrize("text", ["0", "-1", "1.5", "10 m", "ten", "", "inf"])
def test_a_budget_that_is_none_is_refused(text):
    with pytest.raises(HarnessError, match="budget"):
        Budget.parse(text)


def test_budgets():
    assert Budget.parse("1000") == (1000, None)
    assert [Budget.parse(text).seconds for text in ("90s", "1.5min", "1h")] == [90, 90, 3600]


def test_unknown_names_and_settings():
    with pytest.raises(UnknownNameError, match="freerea"):
        get_algorithm("freera")
    with pytest.raises(UnknownNameError, match="tournament"):
        get_algorithm("freerea:tournamnt=3")
    with pytest.raises(HarnessError, match="at least"):
        get_algorithm("freerea:population=0")
    with pytest.raises(UnknownNameError, match="S1"):
        get_open_space("esformer:size=S9")


# From stored scores.


@pytest.fixture(scope="module")
def scores(tmp_path_factory) -> str:
    """Stored FLOPs of the cells without a dead operation, one of which has no value."""
    root = tmp_path_factory.mktemp("scores")
    benchmark = load_benchmark("nasbench201")
    members = benchmark.population("no_dead_ops")
    flops = benchmark.space.topology([benchmark.architectures[i] for i in members], 10, 32)["flops"]
    rows = [Row(int(i), float(v), 0.25, "ok", 1) for i, v in zip(members, flops, strict=True)]
    top = int(flops.argmax())
    rows[top] = Row(rows[top].index, None, 0.25, "nan", 1)
    ScoreStore(root).append(ScoreKey("nasbench201", "cifar10", "none", "flops", 0), rows)
    return str(root)


def test_a_search_on_stored_scores(scores):
    searches = TabularSearches("nasbench201", "cifar10", "no_dead_ops", scores)
    objective = searches.objective(["flops"])
    runs = [searches.run(objective, "regularised_evolution", "400", seed) for seed in range(3)]
    for run in runs:
        run.go()
    outcome = searches.outcome(runs)
    assert outcome.accuracy.shape == (3, 400)
    assert outcome.oracle == pytest.approx(94.373, abs=1e-3)
    # The cell of most FLOPs has no value and ranks last, so the search ends at the next ones.
    flops = searches.benchmark.space.topology(searches.space.architectures, 10, 32)["flops"]
    assert all(searches.space.row(run.best) != flops.argmax() for run in runs)
    assert all(flops[searches.space.row(run.best)] >= np.sort(flops)[-30] for run in runs)
    assert outcome.seconds[0, -1] == pytest.approx(0.25 * outcome.distinct[0])
    assert outcome.final.low <= outcome.final.mean <= outcome.final.high


def test_missing_scores_name_the_command(scores):
    searches = TabularSearches("nasbench201", "cifar10", "no_dead_ops", scores)
    with pytest.raises(HarnessError, match=r"harness score benchmark=nasbench201 .*logsynflow"):
        searches.objective(["flops", "logsynflow"])


def test_interval_of_equal_values_is_a_point():
    assert Interval.of(np.array([3.0, 3.0])) == Interval(3.0, 3.0, 3.0)
    found = Interval.of(np.array([1.0, 2.0, 3.0, 4.0]))
    assert 1 <= found.low < 2.5 < found.high <= 4


# The command.


def test_the_command_searches_and_stores(scores, tmp_path, capsys):
    from harness.cli import main

    command = ["search", "proxies=[flops]", f"scores={scores}", f"store={tmp_path}", "budget=150", "repeats=2"]
    assert main([*command, "algorithm=freerea:population=25:tournament=5"]) == 0
    out = capsys.readouterr().out
    assert "over 2 runs, regret" in out
    results = sorted(tmp_path.glob("space=nasbench201/**/result.yaml"))
    assert len(results) == 2
    result = yaml.safe_load(results[0].read_text())
    history = pd.read_parquet(results[0].with_name("history.parquet"))
    assert len(history) == result["evaluations"] == 150
    assert history["architecture"][history["best"].iloc[-1]] == result["architecture"]
    assert main([*command, "algorithm=freerea:population=25:tournament=5"]) == 0
    assert capsys.readouterr().out == out


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["benchmark=nasbench210"], "nasbench201"),
        (["algorithm=frerea"], "freerea"),
        (["budget=soon"], "budget"),
        (["combine=average"], "normalised_sum"),
        (["repeats=0"], "repeats"),
        (["proxies=[]"], "proxies"),
        (["study=search_tabula"], "search_tabular"),
    ],
)
def test_mistakes_get_one_line(arguments, named, capsys):
    from harness.cli import main

    assert main(["search", "proxies=[flops]", *arguments]) == 2
    error = capsys.readouterr().err
    assert named in error
    assert error.count("\n") == 1


def test_an_open_search_that_is_killed_goes_on_to_the_same_result(tmp_path):
    from harness.cli import main

    command = [
        "search",
        "benchmark=zennas:resolution=8",
        "algorithm=freerea:population=6:tournament=3",
        "proxies=[entropic_score:repeats=1]",
        "budget=24",
        "save_seconds=0",
        "device=cpu",
    ]
    assert main([*command, f"store={tmp_path / 'whole'}"]) == 0
    killed = subprocess.Popen(
        [sys.executable, "-m", "harness.cli", *command, f"store={tmp_path / 'killed'}"],
        stdout=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and killed.poll() is None:
        states = list((tmp_path / "killed").glob("**/state.json"))
        if states and len(json.loads(states[0].read_text())["history"]) >= 8:
            break
        time.sleep(0.02)
    killed.send_signal(signal.SIGKILL)
    assert killed.wait() == -signal.SIGKILL
    assert main([*command, f"store={tmp_path / 'killed'}"]) == 0

    def histories(root: str) -> pd.DataFrame:
        (path,) = (tmp_path / root).glob("**/history.parquet")
        return pd.read_parquet(path).drop(columns="seconds")

    pd.testing.assert_frame_equal(histories("whole"), histories("killed"))
    assert not list((tmp_path / "killed").glob("**/state.json"))

    # What was found stands by itself.
    (module,) = (tmp_path / "killed").glob("**/architecture.py")
    (found,) = (tmp_path / "killed").glob("**/architecture.yaml")
    params = yaml.safe_load(found.read_text())["params"]
    script = (
        "import runpy, sys, torch\n"
        f"network = runpy.run_path({str(module)!r})['build']()\n"
        "assert not any(name.startswith('harness') for name in sys.modules)\n"
        "assert network(torch.zeros(2, 3, 8, 8)).shape == (2, 100)\n"
        "print(sum(p.numel() for p in network.parameters()))\n"
    )
    alone = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=tmp_path)
    assert alone.returncode == 0, alone.stderr
    assert int(alone.stdout) == params


OPEN_SEARCH = ["search", "benchmark=esformer:resolution=32:classes=10", "algorithm=random_search", "device=cpu"]


def images(path: Path, seed: int) -> str:
    rng = np.random.RandomState(seed)
    np.savez(path, images=rng.randint(256, size=(8, 32, 32, 3), dtype=np.uint8), labels=rng.randint(10, size=8))
    return f"inputs.path={path}"


def test_a_result_belongs_to_the_images_that_it_was_found_with(tmp_path, capsys):
    from harness.cli import main

    first, second = images(tmp_path / "a.npz", 0), images(tmp_path / "b.npz", 1)
    command = [*OPEN_SEARCH, "proxies=[snip:batch_size=4]", "budget=2", "inputs=cifar10", f"store={tmp_path / 'found'}"]
    said = []
    for path in (first, second, first):
        assert main([*command, path]) == 0
        said.append(capsys.readouterr().out)
    (result,) = (tmp_path / "found").glob("**/result.yaml")
    stored = yaml.safe_load(result.read_text())
    assert re.fullmatch("[0-9a-f]{16}", stored["sources"]["images"])
    heads = [re.search(r"snip:batch_size=4 (\S+?);", text)[1] for text in said]
    assert heads[0] == heads[2] != heads[1]
    assert "searched for again" in said[1]
    stamp = result.stat().st_mtime_ns
    assert main([*command, first]) == 0
    assert result.stat().st_mtime_ns == stamp
    # Nor does a state go on with other images.
    result.rename(result.with_name("kept"))
    state = {"proxies": ["snip:batch_size=4"], "versions": stored["versions"], "sources": {"images": "0" * 16}}
    (result.parent / "state.json").write_text(json.dumps(state))
    assert main([*command, first]) == 0
    assert yaml.safe_load(result.read_text())["scores"] == stored["scores"]


def test_images_that_no_proxy_reads_are_no_part_of_a_result(tmp_path):
    from harness.cli import main

    command = [*OPEN_SEARCH, "proxies=[params]", "budget=2", "inputs=cifar10", f"store={tmp_path / 'found'}"]
    stamps = set()
    for seed, name in enumerate(("a.npz", "b.npz")):
        assert main([*command, images(tmp_path / name, seed)]) == 0
        (result,) = (tmp_path / "found").glob("**/result.yaml")
        stamps.add(result.stat().st_mtime_ns)
    assert len(stamps) == 1


def test_the_files_of_what_was_found_come_back(tmp_path, monkeypatch, capsys):
    from harness.cli import main
    from harness.search import run

    command = [*OPEN_SEARCH, "proxies=[params]", "budget=3", f"store={tmp_path}"]
    write = run.write_table

    def killed(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(run, "write_table", killed)
    assert main(command) == 130
    monkeypatch.setattr(run, "write_table", write)
    assert not list(tmp_path.glob("**/result.yaml"))  # it stands for all the others
    assert main(command) == 0
    (module,), (described,) = tmp_path.glob("**/architecture.py"), tmp_path.glob("**/architecture.yaml")
    for file in (module, described):
        text = file.read_text()
        file.unlink()
        assert main(command) == 0
        assert file.read_text() == text


def test_a_history_that_is_gone_is_named_by_the_plots(tmp_path, capsys):
    from harness.cli import main

    command = [*OPEN_SEARCH, "proxies=[params]", "budget=3", f"store={tmp_path}"]
    assert main(command) == 0
    next(tmp_path.glob("**/history.parquet")).unlink()
    assert main([*command, "plots=true"]) == 2
    assert "cannot be read" in capsys.readouterr().err


@pytest.mark.parametrize(("budget", "same"), [("0.2s", True), ("60", True)])
def test_a_search_on_a_benchmark_keeps_what_it_found(budget, same, scores, tmp_path, capsys):
    """A budget of time ends at another member each time: what was found is not written over."""
    from harness.cli import main

    command = ["search", "proxies=[flops]", f"scores={scores}", f"store={tmp_path}", f"budget={budget}"]
    assert main(command) == 0
    out = capsys.readouterr().out
    (result,) = tmp_path.glob("**/result.yaml")
    before = result.read_bytes(), result.with_name("history.parquet").read_bytes()
    assert main(command) == 0
    assert capsys.readouterr().out == out
    assert (result.read_bytes(), result.with_name("history.parquet").read_bytes()) == before
    result.with_name("history.parquet").write_bytes(b"")
    assert main(command) == 2
    assert "history.parquet is damaged" in capsys.readouterr().err


def test_a_result_belongs_to_the_scores_that_led_to_it(scores, tmp_path, capsys):
    from harness.cli import main

    copied = tmp_path / "scores"
    command = ["search", "proxies=[flops]", f"store={tmp_path / 'found'}", "budget=60", "stores=[${scores}]"]
    assert main([*command, f"scores={scores}"]) == 0
    key = ScoreKey("nasbench201", "cifar10", "none", "flops", 0)
    rows = [
        Row(int(i), None if np.isnan(v) else -v, 0.25, status, 1)
        for i, v, status in ScoreStore(scores).read(key)[["index", "score", "status"]].itertuples(index=False)
    ]
    ScoreStore(copied).append(key, rows)
    assert main([*command, f"scores={copied}"]) == 0
    assert "searched for again" in capsys.readouterr().out
    (result,) = (tmp_path / "found").glob("**/result.yaml")
    assert yaml.safe_load(result.read_text())["scores"]["flops"] < 0


UNREAD = [
    (["study=search_tabular", "budget=77"], "budget=77", "study.budget"),
    (["study=search_tabular", "repeats=9"], "repeats=9", "study.repeats"),
    (["study=search_tabular", "seed=3"], "seed=3", "study.seed"),
    (["study=search_tabular", "target=nonsense"], "target=nonsense", "default accuracy"),
    (["study=search_tabular", "algorithm=freerea"], "algorithm=freerea", "study.rows"),
    (["study=search_tabular", "proxies=[flops]"], "proxies=['flops']", "study.rows"),
    (["study=search_tabular", "combine=sum"], "combine=sum", "study.rows"),
    (["study=search_ablation", "population=all"], "population=all", "study.cases"),
    (["study=search_ablation", "benchmark=macro"], "benchmark=macro", "study.cases"),
    (["study=search_tabular", "max_params=3e6"], "max_params=3000000.0", "no ceilings"),
    (["study=search_tabular", "inputs=cifar10"], "inputs=cifar10", "read from the store"),
    (["proxies=[flops]", "inputs=cifar10", "inputs.path=x"], "inputs.path=x", "read from the store"),
    (["proxies=[flops]", "plots=true"], "plots=True", "of a study"),
    (["proxies=[flops]", "output=x"], "output=x", "store=DIR"),
    (["proxies=[flops]", "benchmark=zennas", "dataset=cifar10"], "dataset=cifar10", "open space"),
    (["proxies=[flops]", "benchmark=zennas", "target=x"], "target=x", "nothing is trained"),
]


@pytest.mark.parametrize(("arguments", "given", "instead"), UNREAD, ids=[" ".join(a) for a, _, _ in UNREAD])
def test_a_setting_that_is_not_read_is_refused(arguments, given, instead, capsys):
    from harness.cli import main

    assert main(["search", *arguments]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"{given} has no effect" in line
    assert instead in line


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (["study.rows=[{label: x, algorithm: random_search, proxies: [flopss]}]"], "did you mean 'flops'?"),
        (["study.rows=[{label: x, algorithm: randomsearch, proxies: [flops]}]"], "did you mean 'random_search'?"),
        (["study.repeats=0"], "study.repeats=0 makes no sense"),
        (["study.budget=soon"], "budget='soon'"),
        (["study.cases=[{benchmark: macro}]"], "names no dataset or no population of macro"),
        (["study.cases=[{benchmark: macro, datasets: [cifar10], populations: []}]"], "no population of macro"),
    ],
)
def test_a_mistake_in_a_study_is_no_lack_of_scores(settings, words, scores, tmp_path, capsys):
    from harness.cli import main

    rows = "study.rows=[{label: x, algorithm: random_search, proxies: [flops]}]"
    cases = "study.cases=[{benchmark: nasbench201, datasets: [cifar10], populations: [no_dead_ops]}]"
    command = ["search", "study=search_tabular", cases, rows, f"scores={scores}", f"output={tmp_path}", *settings]
    assert main(command) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert words in line
    assert not list(tmp_path.iterdir())


# Studies.


def _study(scores: str, output, **changes: Any) -> Any:
    from harness.config import SearchCaseConfig, SearchConfig, SearchRowConfig, StudyConfig

    rows = [
        SearchRowConfig("evolution", "regularised_evolution:population=20", ["flops"], published={CASE: 94.0}),
        SearchRowConfig("nothing", "freerea", ["logsynflow"], note="a note"),
        SearchRowConfig("elsewhere", "freerea", ["flops"], benchmarks=["macro"]),
    ]
    study = StudyConfig(
        "trial",
        "Trial",
        "How.",
        "60",
        3,
        cases=[SearchCaseConfig("nasbench201", ["cifar10"], ["no_dead_ops"])],
        rows=rows,
    )
    return SearchConfig(
        study=study, scores=scores, stores=[scores], output=str(output), store=str(output / "found"), **changes
    )


CASE = "nasbench201/cifar10"


def test_a_study_on_a_benchmark(scores, tmp_path, capsys):
    from harness.search.command import search

    assert search(_study(scores, tmp_path)) == 0
    out = capsys.readouterr()
    lines = pd.read_csv(tmp_path / "trial.csv")
    assert lines["search"].tolist() == ["evolution", "nothing"]
    searches = TabularSearches("nasbench201", "cifar10", "no_dead_ops", scores)
    objective = searches.objective(["flops"])
    runs = [searches.run(objective, "regularised_evolution:population=20", "60", seed) for seed in range(3)]
    for run in runs:
        run.go()
    found = [searches.accuracy_of(run)[-1] for run in runs]
    first = lines.iloc[0]
    assert first["accuracy"] == pytest.approx(np.mean(found), abs=1e-4)
    assert first["regret"] == pytest.approx(first["oracle"] - first["accuracy"], abs=2e-4)
    assert (first["n"], first["published"]) == (9445, 94.0)
    assert lines["accuracy"].isna().tolist() == [False, True]
    assert lines["note"][1] == "a note; not computed"
    assert "missing: harness score benchmark=nasbench201" in out.err
    assert "| nothing | logsynflow |  | not computed / – |" in out.out
    assert [line for line in out.out.splitlines() if line.startswith("## ")] == ["## nasbench201, cifar10: no_dead_ops"]
    assert out.out.strip() == (tmp_path / "trial.md").read_text().strip()
    points = pd.read_csv(tmp_path / "trial_trajectory.csv")
    assert points["evaluations"].tolist() == [1, 2, 5, 10, 20, 50, 60]
    assert points["accuracy"].iloc[-1] == first["accuracy"]
    assert points["seconds"].is_monotonic_increasing


def test_searches_of_different_populations_do_not_share_a_section(scores, tmp_path, capsys):
    """A row whose scores are stored for a sample alone stands apart from those over all cells."""
    from harness.search.command import search

    sample = "no_dead_ops.sample(50, seed=0)"
    copied = tmp_path / "scores"
    shutil.copytree(scores, copied)
    benchmark = load_benchmark("nasbench201")
    members = {int(i) for i in benchmark.representatives[benchmark.population(sample)]}
    rows = [Row(i, float(i % 11), 0.1, "ok", 1) for i in members]
    ScoreStore(copied).append(ScoreKey("nasbench201", "cifar10", "none", "logsynflow", 0), rows)
    config = _study(str(copied), tmp_path)
    config.study.cases[0].populations.append(sample)
    assert search(config) == 0
    sections = capsys.readouterr().out.split("\n## ")[1:]
    assert [section.splitlines()[0].partition(": ")[2] for section in sections] == ["no_dead_ops", sample]
    assert ["| nothing |" in section for section in sections] == [False, True]
    assert ["| evolution |" in section for section in sections] == [True, False]
    assert all("| oracle |" in section for section in sections)


def test_a_study_on_an_open_space_uses_what_was_found(tmp_path, capsys):
    from harness.config import SearchCaseConfig, SearchConfig, SearchRowConfig, StudyConfig
    from harness.search.command import search

    rows = [SearchRowConfig("by size", "random_search", ["params"], published={"top1": 72.4})]
    case = SearchCaseConfig("zennas:resolution=8")
    study = StudyConfig("open", "Open", "How.", "5", 1, cases=[case], rows=rows)
    config = SearchConfig(study=study, output=str(tmp_path), store=str(tmp_path / "found"), device="cpu")
    assert search(config) == 0
    first = capsys.readouterr().out
    (history,) = (tmp_path / "found").glob("**/history.parquet")
    stamp = history.stat().st_mtime_ns
    assert search(config) == 0
    assert capsys.readouterr().out == first
    assert history.stat().st_mtime_ns == stamp
    (found,) = pd.read_csv(tmp_path / "open.csv").itertuples()
    assert found.params == pd.read_parquet(history)["params"].max() <= 1e6
    assert (found.trained, found.published) == ("not trained", 72.4)
    study.cases.append(SearchCaseConfig("nasbench201", ["cifar10"]))
    with pytest.raises(HarnessError, match="mixes"):
        search(config)


def test_what_an_architecture_is_made_of():
    from harness.search.study import described

    values = {
        "s1b1.block": "ibn",
        "s1b1.kernel": 3,
        "s1b1.width": 32,
        "s1b1.expansion": 4,
        "s1b2.block": "convnext",
        "s1b2.kernel": 3,
        "s1b2.width": 40,
        "s1b2.expansion": 3,
        "s2b1.block": "ibn",
        "s2b1.kernel": 7,
        "s2b1.width": 48,
        "s2b1.expansion": 2,
        "s2b1.heads": 8,
        "s2b1.head_dim": 16,
    }
    assert described(values) == {
        "blocks": "1 x convnext, 2 x ibn",
        "kernels": "2 x 3^2, 1 x 7^2",
        "widths": "40-48",
        "expansion": 3.0,
        "attention": "8 x 16",
    }


def test_stored_studies_are_those_of_their_configurations():
    """A study's table in results/ names its rows and says how it was made."""
    from harness.config import compose_config

    for name in ("search_tabular", "search_ablation"):
        study = compose_config("search", [f"study={name}"]).study
        text = (ROOT / "results" / "tables" / f"{name}.md").read_text(encoding="utf-8")
        assert study.protocol.strip() in text
        assert all(f"| {row.label} |" in text for row in study.rows)


def test_the_example_of_the_documentation_runs(monkeypatch, capsys):
    monkeypatch.setenv("NAS_HARNESS_REFERENCE", str(ROOT / "results" / "scores"))
    text = (ROOT / "docs" / "search.md").read_text(encoding="utf-8")
    code = next(block for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if "TabularSearches" in block)
    exec(compile(code, "docs/search.md", "exec"), {})
    assert capsys.readouterr().out.startswith("|nor_conv_3x3~0|")


@pytest.mark.parametrize(("kind", "name"), [("algorithms", "decoupled"), ("spaces", "esformer")])
def test_listing_loads_no_torch(kind, name):
    script = (
        "import sys\nfrom harness.cli import main\n"
        f"assert main(['list', {kind!r}]) == 0\nassert 'torch' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    assert name in done.stdout
