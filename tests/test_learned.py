"""Tests of the learned rankings: trained on a seeded part of the population, scored on the rest."""

from __future__ import annotations

import itertools
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.stats import kendalltau

from harness.benchmarks.benchmark import Benchmark, load_benchmark
from harness.engine.store import Row, ScoreKey, ScoreStore
from harness.errors import HarnessError
from harness.proxies import get_proxy
from harness.rankings.learned import (
    DECILES,
    GRAF_RELEASED,
    LEARNED,
    ZERO_COST,
    Forest,
    Learned,
    training_subset,
    within_float32,
)
from harness.rankings.results import Reader
from harness.spaces.nasbench201 import CONV1, CONV3, EDGES, NONE, POOL, SKIP, NasBench201, decode, encode

BENCHMARK = load_benchmark("nasbench201")
SAMPLE = BENCHMARK.population("no_dead_ops.sample(120, seed=2)")
#: Places in `no_dead_ops` of the first six of the 1,024 that seed 0 trains on.
FIRST_SIX = [9, 10, 24, 31, 40, 52]


@pytest.fixture(autouse=True)
def _small_models(monkeypatch):
    """Rankings that are trained on 40 architectures."""
    monkeypatch.setitem(LEARNED, "small_graf", Learned((), GRAF_RELEASED, train=40))
    monkeypatch.setitem(LEARNED, "small_counts", Learned(("flops", "params"), train=40))
    monkeypatch.setitem(LEARNED, "small_both", Learned(("flops",), GRAF_RELEASED, train=40))


def store_counts(root: Path, proxies: tuple[str, ...] = ("flops", "params")) -> ScoreStore:
    store = ScoreStore(root)
    cells = [BENCHMARK.architectures[i] for i in SAMPLE]
    counts = BENCHMARK.space.topology(cells, 10, 32)
    for name in proxies:
        rows = [Row(int(i), float(v), 0.0, "ok", 1) for i, v in zip(SAMPLE, counts[name], strict=True)]
        store.append(ScoreKey("nasbench201", "cifar10", "none", name, 0), rows)
    return store


# The training subset ----------------------------------------------------------------------------------------


def test_training_subset():
    mask = training_subset(BENCHMARK, SAMPLE, 40, 0)
    assert mask.dtype == bool
    assert mask.shape == SAMPLE.shape
    assert mask.sum() == 40
    assert np.array_equal(mask, training_subset(BENCHMARK, SAMPLE, 40, 0))
    others = [training_subset(BENCHMARK, SAMPLE, 40, seed) for seed in range(1, 4)]
    assert all(not np.array_equal(mask, other) for other in others)
    # Drawn from the whole population: neither its beginning nor its end.
    places = np.flatnonzero(np.any([mask, *others], axis=0))
    assert places.min() < 20
    assert places.max() >= 100


def test_training_subset_is_the_same_everywhere():
    """As stored tables depend on it: places of the first draws, fixed once."""
    mask = training_subset(BENCHMARK, BENCHMARK.population("no_dead_ops"), 1024, 0)
    places = np.flatnonzero(mask)
    assert [*places[:6]] == FIRST_SIX
    assert len(places) == 1024


def test_the_subset_does_not_depend_on_accuracies(monkeypatch):
    mask = training_subset(BENCHMARK, SAMPLE, 40, 0)

    def refuse(*_: object) -> None:
        raise AssertionError("accuracies were read")

    monkeypatch.setattr(Benchmark, "accuracies", refuse)
    assert np.array_equal(mask, training_subset(BENCHMARK, SAMPLE, 40, 0))


# Trained and scored are apart -------------------------------------------------------------------------------


@pytest.mark.parametrize("model", ["small_graf", "small_counts", "small_both"])
def test_never_scores_what_it_was_trained_on(tmp_path, model):
    store = store_counts(tmp_path)
    for seed in (0, 1):
        train = training_subset(BENCHMARK, SAMPLE, 40, seed)
        found = Reader(store, BENCHMARK).scores(model, "cifar10", SAMPLE, seed=seed)
        assert np.isnan(found.values[train]).all()
        assert np.isfinite(found.values[~train]).all()
        assert np.array_equal(found.members, ~train)
        assert len(set(found.values[~train])) > 10
        assert found.missing == {}


def scores_with(monkeypatch, accuracies: np.ndarray, store: ScoreStore, model: str) -> np.ndarray:
    """The ranking where the benchmark stores these accuracies."""
    monkeypatch.setattr(Benchmark, "accuracies", lambda self, dataset, target=None: pd.Series(accuracies))
    return Reader(store, BENCHMARK).scores(model, "cifar10", SAMPLE).values


@pytest.mark.parametrize("model", ["small_graf", "small_counts", "small_both"])
def test_accuracies_of_the_scored_have_no_influence(tmp_path, monkeypatch, model):
    store = store_counts(tmp_path)
    stored = BENCHMARK.accuracies("cifar10").to_numpy()
    expected = scores_with(monkeypatch, stored.copy(), store, model)
    trained = SAMPLE[training_subset(BENCHMARK, SAMPLE, 40, 0)]
    others = np.setdiff1d(np.arange(len(BENCHMARK)), trained)
    for value in (10.0, 99.0, np.nan):
        changed = stored.copy()
        changed[others] = value
        assert scores_with(monkeypatch, changed, store, model).tobytes() == expected.tobytes()
    for place in trained[:3]:  # and those of the trained have
        changed = stored.copy()
        changed[trained] = changed[trained][::-1]
        changed[place] = 99.0
        assert scores_with(monkeypatch, changed, store, model).tobytes() != expected.tobytes()


def test_another_dataset_is_learned_from_its_own_accuracies(tmp_path):
    reader = Reader(ScoreStore(tmp_path), BENCHMARK)
    one, two = (reader.scores("small_graf", dataset, SAMPLE) for dataset in ("cifar10", "cifar100"))
    assert np.array_equal(one.members, two.members)
    assert not np.array_equal(one.values[one.members], two.values[two.members])


def test_a_population_no_larger_than_the_training_part(tmp_path):
    for size in (39, 40):
        found = Reader(ScoreStore(tmp_path), BENCHMARK).scores("small_graf", "cifar10", SAMPLE[:size])
        assert np.isnan(found.values).all()
        assert not found.members.any()
        assert found.missing == {}
    found = Reader(ScoreStore(tmp_path), BENCHMARK).scores("small_graf", "cifar10", SAMPLE[:41])
    assert found.members.sum() == np.isfinite(found.values).sum() == 1


def test_missing_features(tmp_path):
    store = store_counts(tmp_path, ("flops",))
    found = Reader(store, BENCHMARK).scores("small_counts", "cifar10", SAMPLE)
    networks = np.unique(BENCHMARK.representatives[SAMPLE])
    assert np.isnan(found.values).all()
    assert found.missing == {ScoreKey("nasbench201", "cifar10", "none", "params", 0): networks.size}
    assert Reader(store, BENCHMARK).scores("small_both", "cifar10", SAMPLE).missing == {}


# The forest -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def problem() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Features of which one tells the accuracy, accuracies, what is trained on."""
    rng = np.random.RandomState(4)
    features = rng.standard_normal((200, 3))
    accuracies = 60 + 10 * np.tanh(features[:, 1]) + rng.standard_normal(200)
    train = np.zeros(200, dtype=bool)
    train[rng.permutation(200)[:100]] = True
    return features, accuracies, train


def test_forest_ranks(problem):
    features, accuracies, train = problem
    found = Forest().rank(features, accuracies, train, 0)
    assert np.isnan(found[train]).all()
    assert kendalltau(found[~train], accuracies[~train]).statistic > 0.6
    assert np.array_equal(found, Forest().rank(features, accuracies, train, 0), equal_nan=True)
    other = Forest().rank(features, accuracies, train, 1)
    assert not np.array_equal(found[~train], other[~train])
    # Predicted is the accuracy.
    assert accuracies[train].min() <= found[~train].min()
    assert found[~train].max() <= accuracies[train].max()
    assert np.corrcoef(found[~train], accuracies[~train])[0, 1] > 0.8


def test_prediction_depends_on_no_other_scored_architecture(problem):
    """Neither on its presence, nor on its features, outliers and failures included."""
    features, accuracies, train = problem
    expected = Forest().rank(features, accuracies, train, 0)
    scored = np.flatnonzero(~train)
    kept, others = scored[::3], np.setdiff1d(scored, scored[::3])
    some = np.sort([*np.flatnonzero(train), *kept])
    alone = Forest().rank(features[some], accuracies[some], train[some], 0)
    assert np.array_equal(alone, expected[some], equal_nan=True)
    for value in (-1e60, 0.0, 1e60, np.nan):
        changed = features.copy()
        changed[others] = value
        assert np.array_equal(Forest().rank(changed, accuracies, train, 0)[kept], expected[kept])


def test_forest_splits_between_the_values_of_a_feature():
    """Halfway between the two that it parts, as on raw features: not halfway between their ranks."""
    features = np.array([0.0] * 20 + [1.0] * 20 + [0.4, 0.45, 0.55, 0.6])[:, None]
    train = np.arange(len(features)) < 40
    accuracies = np.where(features[:, 0] < 0.5, 20.0, 80.0)
    low, lower, higher, high = Forest().rank(features, accuracies, train, 0)[~train]
    assert low == lower < higher == high


def test_forest_reads_features_that_float32_cannot_hold(problem):
    """Synflow's values reach 1e67."""
    features, accuracies, train = problem
    stretched = np.stack([features[:, 0], 10.0 ** (60 + 4 * features[:, 1]), features[:, 2] * 1e60], axis=1)
    found = Forest().rank(stretched, accuracies, train, 0)
    assert kendalltau(found[~train], accuracies[~train]).statistic > 0.6


def test_numbers_keep_their_order_within_float32():
    sizes = np.concatenate([np.geomspace(1e-30, 1e308, 10_000), 1e12 * (1 + 2e-6 * np.arange(-5_000, 5_000))])
    values = np.unique([*-sizes, 0.0, *sizes])
    found = within_float32(values).astype(np.float32)
    assert np.isfinite(found).all()
    assert (np.diff(found) > 0).all()
    small = values[np.abs(values) <= 1e12]
    assert np.array_equal(within_float32(small), small)
    assert np.array_equal(within_float32(values[::7]), within_float32(values)[::7])


def test_failed_features_count_as_the_least_that_was_trained_on(problem):
    features, accuracies, train = problem
    failed, least = features.copy(), features.copy()
    lowest = np.argsort(features[:, 1])[:6]
    rest = np.setdiff1d(np.flatnonzero(train), lowest)
    least[lowest, 1] = features[rest, 1].min()
    for value in (np.nan, -np.inf, np.inf):
        failed[lowest, 1] = value
        found = Forest().rank(failed, accuracies, train, 0)
        assert np.array_equal(found, Forest().rank(least, accuracies, train, 0), equal_nan=True)
    failed[:, 0] = np.nan
    assert np.isfinite(Forest().rank(failed, accuracies, train, 0)[~train]).all()


def test_accuracies_of_zero_and_a_hundred(problem):
    features, accuracies, train = problem
    extreme = accuracies.copy()
    extreme[np.flatnonzero(train)[:2]] = 0.0, 100.0
    found = Forest().rank(features, extreme, train, 0)
    assert np.isfinite(found[~train]).all()


def test_inputs_are_left_as_they_are(problem):
    features, accuracies, train = (part.copy() for part in problem)
    features[3, 0] = np.nan
    held = features.copy(), accuracies.copy(), train.copy()
    Forest().rank(features, accuracies, train, 0)
    for was, now in zip(held, (features, accuracies, train), strict=True):
        assert np.array_equal(was, now, equal_nan=was.dtype != bool)


def test_without_scikit_learn(problem, monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn", None)
    monkeypatch.setitem(sys.modules, "sklearn.ensemble", None)
    with pytest.raises(HarnessError, match="scikit-learn"):
        Forest().rank(*problem, 0)


# The models of the paper's table ----------------------------------------------------------------------------


def test_members_are_stored_under_their_names():
    for model in LEARNED.values():
        for member in model.members:
            assert get_proxy(member).label == member
        assert len(set(model.members)) == len(model.members)
    assert [get_proxy(name).k for name in DECILES] == [*range(1, 10)]
    assert set(ZERO_COST) <= set(LEARNED["vkdnw_zcs_model"].members)
    papers = {name: model for name, model in LEARNED.items() if not name.startswith("small")}
    assert {name: (bool(model.graf), model.train) for name, model in papers.items() if isinstance(model, Learned)} == {
        "graf_model": (True, 1024),
        "graf_later_model": (True, 1024),
        "vkdnw_model": (False, 1024),
        "vkdnw_zcs_model": (False, 1024),
        "vkdnw_zcs_graf_model": (True, 1024),
        "vkdnw_zcs_graf_later_model": (True, 1024),
        "vkdnw_sketch_model": (False, 1024),
        "vkdnw_sketch_zcs_model": (False, 1024),
        "vkdnw_sketch_zcs_graf_model": (True, 1024),
        "vkdnw_sketch_zcs_graf_later_model": (True, 1024),
    }


def test_graf_ranks_the_cells(tmp_path):
    """Features of the graph alone tell most of the order."""
    population = BENCHMARK.population("no_dead_ops")
    found = Reader(ScoreStore(tmp_path), BENCHMARK).scores("graf_model", "cifar10", population)
    assert found.members.sum() == 9445 - 1024
    accuracies = BENCHMARK.accuracies("cifar10").to_numpy()[population]
    tau = kendalltau(found.values[found.members], accuracies[found.members]).statistic
    assert 0.75 < tau < 0.9


def test_a_forest_learns_the_figure_that_it_is_to_rank(tmp_path):
    """Not the default accuracies: latency follows from the operations too, and otherwise."""
    reader = Reader(ScoreStore(tmp_path), BENCHMARK)
    target = "edgegpu_latency"
    latencies = BENCHMARK.accuracies("cifar10", target)
    population = BENCHMARK.with_figures("no_dead_ops.sample(2000, seed=0)", latencies.to_numpy())
    taus = {}
    for name in (None, target):
        found = reader.scores("graf_model", "cifar10", population, target=name)
        taus[name] = kendalltau(found.values[found.members], latencies.to_numpy()[population][found.members]).statistic
    assert taus[None] < 0.5
    assert taus[target] > 0.7
    assert sum(1 for _ in (tmp_path / "_learned").glob("*graf_model*.parquet")) == 2


# GRAF's features --------------------------------------------------------------------------------------------

SETS = [chosen for size in range(1, 6) for chosen in itertools.combinations(range(5), size)]


def features_of(codes: list[int]) -> dict[str, np.ndarray]:
    return {name: row for name, (row,) in NasBench201().graph_features([encode(codes)]).items()}


def block(row: dict[str, np.ndarray], *operations: int) -> list[float]:
    """The seven features of a set of operations."""
    place = SETS.index(operations)
    degrees = row["node_degree"][4 * place : 4 * place + 4]
    return [*(row[name][place] for name in ("min_path_len", "max_op_on_path", "max_path_len")), *degrees]


def test_features_of_a_cell():
    r"""Worked out on paper.

    0 -CONV3-> 1, 0 -SKIP-> 2, 0 -POOL-> 3, 1 -CONV1-> 3, 2 -CONV3-> 3, and NONE between 1 and 2. Per set:
    shortest path of the set alone, edges of it on the path on which it outnumbers the others most, longest path of
    the set alone, degrees of input and output, and twice the mean degree of the four nodes.
    """
    row = features_of([CONV3, SKIP, NONE, POOL, CONV1, CONV3])
    assert {name: len(values) for name, values in row.items()} == {
        "op_count": 5,
        "min_path_len": 31,
        "max_op_on_path": 31,
        "max_path_len": 31,
        "node_degree": 124,
    }
    assert [*row["op_count"]] == [1, 1, 1, 2, 1]  # none, skip, 1x1, 3x3, pooling
    # Ways: pooling; CONV3 CONV1; SKIP CONV3; CONV3 NONE CONV3.
    assert block(row, NONE) == [5, 0, -1, 0, 0, 0.25, 0.25]  # one of three is as little as none of one, on a longer way
    assert block(row, SKIP) == [5, 1, -1, 1, 0, 0.25, 0.25]
    assert block(row, CONV1) == [5, 1, -1, 0, 1, 0.25, 0.25]
    assert block(row, CONV3) == [5, 2, -1, 1, 1, 0.5, 0.5]
    assert block(row, POOL) == [1, 1, 1, 1, 1, 0.25, 0.25]
    assert block(row, NONE, CONV3) == [3, 3, 3, 1, 1, 0.75, 0.75]
    assert block(row, SKIP, CONV3) == [2, 2, 2, 2, 1, 0.75, 0.75]
    assert block(row, CONV1, CONV3) == [2, 2, 2, 1, 2, 0.75, 0.75]
    assert block(row, SKIP, CONV1, CONV3) == [2, 2, 2, 2, 2, 1, 1]
    assert block(row, CONV3, POOL) == [1, 1, 1, 2, 2, 0.75, 0.75]  # two of three outnumber by one, as one of one does
    assert block(row, NONE, SKIP, CONV1, CONV3, POOL) == [1, 3, 3, 3, 3, 1.5, 1.5]


def test_features_of_the_empty_cell():
    row = features_of([NONE] * 6)
    assert [*row["op_count"]] == [6, 0, 0, 0, 0]
    assert block(row, NONE) == [1, 3, 3, 3, 3, 1.5, 1.5]
    assert block(row, CONV3) == [5, 0, -1, 0, 0, 0, 0]
    assert block(row, SKIP, POOL) == [5, 0, -1, 0, 0, 0, 0]
    assert block(row, NONE, SKIP, CONV1, CONV3, POOL) == [1, 3, 3, 3, 3, 1.5, 1.5]


def walked(codes: tuple[int, ...]) -> dict[str, list[float]]:
    """The features by walks over the graph, edge by edge."""
    edges = dict(zip(EDGES, codes, strict=True))

    def paths(node: int) -> list[list[int]]:
        """Operations along each way from `node` to the output."""
        if node == 3:
            return [[]]
        return [[edges[node, n], *rest] for n in range(node + 1, 4) for rest in paths(n)]

    row = {"op_count": [float(codes.count(code)) for code in range(5)]}
    row.update({"min_path_len": [], "max_op_on_path": [], "max_path_len": [], "node_degree": []})
    ways, nodes = paths(0), range(4)
    for chosen in SETS:
        counts = [(sum(code in chosen for code in way), len(way)) for way in ways]
        best = max(counts, key=lambda count: (2 * count[0] - count[1], -count[1]))
        row["min_path_len"].append(min([total for own, total in counts if own == total], default=5))
        row["max_op_on_path"].append(best[0])
        row["max_path_len"].append(max([total for own, total in counts if own == total], default=-1))
        row["node_degree"].append(sum(code in chosen for (source, _), code in edges.items() if source == 0))
        row["node_degree"].append(sum(code in chosen for (_, target), code in edges.items() if target == 3))
        row["node_degree"].append(np.mean([sum(c in chosen for (_, t), c in edges.items() if t == n) for n in nodes]))
        row["node_degree"].append(np.mean([sum(c in chosen for (s, _), c in edges.items() if s == n) for n in nodes]))
    return row


def test_features_of_many_cells():
    cells = [BENCHMARK.architectures[i] for i in BENCHMARK.population("sample(60, seed=1)")]
    features = NasBench201().graph_features(cells)
    assert all(values.dtype == np.float64 for values in features.values())
    for place, cell in enumerate(cells):
        assert {name: [*values[place]] for name, values in features.items()} == walked(decode(cell))
