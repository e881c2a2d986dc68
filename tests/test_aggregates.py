"""Tests of aggregates: ranks of stored scores over a population, worked out by hand."""

from __future__ import annotations

from math import log, nan
from pathlib import Path

import numpy as np
import pytest

from harness.benchmarks.benchmark import load_benchmark
from harness.engine.store import Row, ScoreKey, ScoreStore
from harness.errors import HarnessError, UnknownNameError
from harness.proxies import get_proxy
from harness.rankings.aggregates import AGGREGATES, OPERATIONS, Combination, find_aggregate, ranks
from harness.rankings.results import Reader, inputs_of, proxies_of

BENCHMARK = load_benchmark("nasbench201")
#: Cells that no other network equals, so that each has scores of its own.
OWN = np.flatnonzero(BENCHMARK.representatives == np.arange(len(BENCHMARK)))[:8]


# Ranks ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([10.0, 30.0, 20.0], [1, 3, 2]),
        ([5.0, 5.0, 1.0, 7.0], [2.5, 2.5, 1, 4]),
        ([-1.0, nan, -3.0, nan], [4, 1.5, 3, 1.5]),
        ([3.0, nan, 1.0, 3.0, np.inf, -np.inf], [5.5, 2, 4, 5.5, 2, 2]),
        ([nan, nan, nan], [2, 2, 2]),
        ([1e300, -1e300], [2, 1]),
        ([4.0], [1]),
    ],
)
def test_ranks(values, expected):
    """1 the lowest; ties share the mean of their places, and so do failed scores, below every other."""
    before = np.array(values)
    given = before.copy()
    assert [*ranks(given)] == expected
    assert np.array_equal(given, before, equal_nan=True)


# The papers' aggregates -------------------------------------------------------------------------------------


def test_az_nas_of_five_architectures():
    """Sum over the four members of ln(rank / 5)."""
    aggregate = find_aggregate("az_nas")
    assert aggregate.members == ("az_expressivity", "az_progressivity", "az_trainability", "flops")
    scores = np.array(
        [
            [0.3, 0.1, 0.2, 0.5, 0.4],  # ranks 3 1 2 5 4
            [7.0, 7.0, 1.0, 9.0, 7.0],  # ranks 3 3 1 5 3
            [nan, 2.0, 3.0, nan, 1.0],  # ranks 1.5 4 5 1.5 3
            [10.0, 10.0, 20.0, 20.0, 30.0],  # ranks 1.5 1.5 3.5 3.5 5
        ]
    )
    expected = [
        log(3 / 5) + log(3 / 5) + log(1.5 / 5) + log(1.5 / 5),
        log(1 / 5) + log(3 / 5) + log(4 / 5) + log(1.5 / 5),
        log(2 / 5) + log(1 / 5) + log(5 / 5) + log(3.5 / 5),
        log(5 / 5) + log(5 / 5) + log(1.5 / 5) + log(3.5 / 5),
        log(4 / 5) + log(3 / 5) + log(3 / 5) + log(5 / 5),
    ]
    assert aggregate.combine(scores) == pytest.approx(expected, rel=1e-12)
    assert np.argmax(aggregate.combine(scores)) == 4


def test_the_best_in_everything_has_zero():
    for name in ("az_nas", "vkdnw_agg"):
        aggregate = find_aggregate(name)
        scores = np.tile(np.arange(6.0), (len(aggregate.members), 1))
        assert aggregate.combine(scores)[-1] == 0.0
        assert aggregate.combine(scores)[0] == pytest.approx(len(aggregate.members) * log(1 / 6))


def test_vkdnw_agg():
    """The members of Table 1's row: five, with FLOPs among them and no progressivity."""
    aggregate = find_aggregate("vkdnw_agg")
    members = ["az_expressivity", "az_trainability", "flops", "jacov", "vkdnw_single"]
    assert sorted(aggregate.members) == members
    scores = np.array([[1.0, 2.0, 3.0]] * 3 + [[nan, 5.0, 5.0]] + [[3.0, 2.0, 1.0]])
    expected = [
        3 * log(1 / 3) + log(1 / 3) + log(3 / 3),
        3 * log(2 / 3) + log(2.5 / 3) + log(2 / 3),
        3 * log(3 / 3) + log(2.5 / 3) + log(1 / 3),
    ]
    assert aggregate.combine(scores) == pytest.approx(expected, rel=1e-12)


def test_te_nas():
    """Ranks of the two are added as they are: what counts is their sum."""
    aggregate = find_aggregate("te_nas")
    assert aggregate.members == ("ntk", "nregions")
    scores = np.array([[-30.0, -5.0, nan, -900.0], [800.0, 900.0, 950.0, 900.0]])
    assert [*aggregate.combine(scores)] == [3 + 1, 4 + 2.5, 1 + 4, 2 + 2.5]


@pytest.mark.parametrize("name", sorted(AGGREGATES))
def test_members_are_proxies(name):
    aggregate = find_aggregate(name)
    assert aggregate.name == name
    assert aggregate.summary
    assert aggregate.citation
    assert len(set(aggregate.members)) == len(aggregate.members)
    for member in aggregate.members:
        assert get_proxy(member).label == member
    with pytest.raises(UnknownNameError):
        get_proxy(name)


@pytest.mark.parametrize("spec", ["az_nas", "vkdnw_agg", "te_nas", "rank_sum(a, b)", "log_rank_sum(a, b)"])
def test_ranks_alone_count(spec):
    """No increasing function of a member's scores changes an aggregate of ranks."""
    aggregate = find_aggregate(spec)
    scores = np.random.RandomState(1).standard_normal((len(aggregate.members), 30))
    scores[0, :4] = nan
    expected = aggregate.combine(scores)
    assert np.isfinite(expected).all()
    assert np.array_equal(aggregate.combine(np.exp(scores)), expected)
    assert np.array_equal(aggregate.combine(scores * 1e200 + 1.0), expected)
    scores[0] *= -1
    assert not np.array_equal(aggregate.combine(scores), expected)


# Combinations -----------------------------------------------------------------------------------------------

THREE = np.array([[1.0, 2.0, nan, 4.0], [10.0, -20.0, 30.0, 0.5]])


@pytest.mark.parametrize(
    ("operation", "expected"),
    [
        ("sum", [11.0, -18.0, nan, 4.5]),
        ("product", [10.0, -40.0, nan, 2.0]),
        ("rank_sum", [2 + 3, 3 + 1, 1 + 4, 4 + 2]),
        (
            "log_rank_sum",
            [log(2 / 4 * 3 / 4), log(3 / 4 * 1 / 4), log(1 / 4 * 4 / 4), log(4 / 4 * 2 / 4)],
        ),
        ("geo_mean", [(2 * 3) ** 0.5, (3 * 1) ** 0.5, (1 * 4) ** 0.5, (4 * 2) ** 0.5]),
        ("max_sum", [(a / (4 + 1e-9) + b / (30 + 1e-9)) for a, b in ((1, 10), (2, -20), (nan, 30), (4, 0.5))]),
        # 1 beats 2 in the second alone: 2 has more of the first. 4 beats 2 in both.
        ("vote", [0.0, -1.0, 0.0, 1.0]),
    ],
)
def test_operations(operation, expected):
    """A score that is missing makes no sum and no product, and ranks last."""
    aggregate = find_aggregate(f"{operation}(flops, params)")
    assert aggregate.members == ("flops", "params")
    assert aggregate.combine(THREE) == pytest.approx(expected, rel=1e-12, nan_ok=True)
    assert operation in OPERATIONS


def test_of_any_number_of_members():
    aggregate = find_aggregate("product(a, b, c, a)")
    assert aggregate.members == ("a", "b", "c", "a")
    assert [*aggregate.combine(np.array([[2.0], [3.0], [5.0], [2.0]]))] == [60.0]


def test_specs_are_read():
    found = find_aggregate("sum(vkdnw:variant=repo,flops:count=all ,  snip)")
    assert found == Combination("sum", ("vkdnw:variant=repo", "flops:count=all", "snip"))
    assert find_aggregate(found.name) == found
    for name, cls in AGGREGATES.items():
        assert type(find_aggregate(name)) is cls
    assert find_aggregate("log_rank_sum(az_nas, flops)").members == ("az_nas", "flops")
    for other in ("flops", "sum", "sum(a, b", "mean(a, b)", "az_nas(a, b)", ""):
        assert find_aggregate(other) is None


def test_members_may_be_combinations():
    spec = "log_rank_sum(snip:batch_size=4, rank_sum(ntk, product(nregions, flops)), az_nas)"
    found = find_aggregate(spec)
    assert found.members == ("snip:batch_size=4", "rank_sum(ntk, product(nregions, flops))", "az_nas")
    assert find_aggregate(found.members[1]).members == ("ntk", "product(nregions, flops)")
    assert found.name == spec


@pytest.mark.parametrize("spec", ["sum(a, rank_sum(b, c)", "sum(a, b))", "sum(a), sum(b, c)", "sum(a, b)(c, d)"])
def test_brackets_that_do_not_match_are_refused(spec):
    with pytest.raises(HarnessError, match="brackets"):
        find_aggregate(spec)


@pytest.mark.parametrize("spec", ["sum(flops)", "sum()", "product( , )", "rank_sum(flops,)", "log_rank_sum(,a)"])
def test_a_combination_of_fewer_than_two_is_refused(spec):
    with pytest.raises(HarnessError, match="fewer than two"):
        find_aggregate(spec)


@pytest.mark.parametrize(
    "spec", ["rank_sum(snip,,synflow,)", "sum(a, b, )", "vote(, a, b)", "sum(snip, product(flops,, synflow))"]
)
def test_a_comma_beside_which_nothing_stands_is_refused(spec):
    with pytest.raises(HarnessError, match="has a comma beside which no proxy stands"):
        proxies_of(spec)


# From the store ---------------------------------------------------------------------------------------------


def append(root: Path, proxy: str, scores: dict[int, float | None], inputs: str | None = None, seed: int = 0) -> None:
    chosen = get_proxy(proxy)
    inputs = inputs or inputs_of(chosen, "paper", "cifar10")
    rows = [
        Row(int(i), score, 0.25, "ok" if score is not None else "none here", chosen.version)
        for i, score in scores.items()
    ]
    ScoreStore(root).append(ScoreKey("nasbench201", "cifar10", inputs, chosen.label, seed), rows)


def reader(root: Path) -> Reader:
    return Reader(ScoreStore(root), BENCHMARK)


def test_a_value_depends_on_the_population(tmp_path):
    """The same cell, ranked among four and among all eight."""
    values = {"flops": [5, 1, 8, 2, 7, 3, 6, 4], "params": [1, 2, 3, 4, 5, 6, 7, 8]}
    for proxy, column in values.items():
        append(tmp_path, proxy, dict(zip(OWN, map(float, column), strict=True)))
    few = reader(tmp_path).scores("log_rank_sum(flops, params)", "cifar10", OWN[:4])
    all_ = reader(tmp_path).scores("log_rank_sum(flops, params)", "cifar10", OWN)
    assert few.values == pytest.approx(
        [log(3 / 4) + log(1 / 4), log(1 / 4) + log(2 / 4), log(4 / 4) + log(3 / 4), log(2 / 4) + log(4 / 4)]
    )
    assert all_.values[:4] == pytest.approx(
        [log(5 / 8) + log(1 / 8), log(1 / 8) + log(2 / 8), log(8 / 8) + log(3 / 8), log(2 / 8) + log(4 / 8)]
    )
    assert few.missing == all_.missing == {}
    assert few.members.all()
    assert all_.members.all()
    assert few.seconds == pytest.approx(0.25)  # both are read from one pass
    sums = [reader(tmp_path).scores("sum(flops, params)", "cifar10", OWN[:n]).values for n in (4, 8)]
    assert np.array_equal(sums[0], sums[1][:4])


def test_order_of_the_population_goes_with_the_values(tmp_path):
    for proxy in ("flops", "params"):
        append(tmp_path, proxy, {int(i): float(i * 7 % 11) for i in OWN})
    forward = reader(tmp_path).scores("rank_sum(flops, params)", "cifar10", OWN).values
    backward = reader(tmp_path).scores("rank_sum(flops, params)", "cifar10", OWN[::-1]).values
    assert np.array_equal(forward, backward[::-1])
    assert len(set(forward)) > 4


def test_failed_and_missing_scores_of_members(tmp_path):
    """A failed score ranks last; one that was never computed leaves the aggregate without a value."""
    append(tmp_path, "flops", {int(i): float(i) for i in OWN})
    append(tmp_path, "synflow", {int(i): (None if i == OWN[-1] else float(i)) for i in OWN})
    found = reader(tmp_path).scores("rank_sum(flops, synflow)", "cifar10", OWN)
    assert [*found.values] == [1 + 2, 2 + 3, 3 + 4, 4 + 5, 5 + 6, 6 + 7, 7 + 8, 8 + 1]
    total = reader(tmp_path).scores("sum(flops, synflow)", "cifar10", OWN)
    assert [*np.isnan(total.values)] == [False] * 7 + [True]
    assert total.missing == {}

    lacking = reader(tmp_path).scores("rank_sum(flops, zen, synflow, params)", "cifar10", OWN[:5])
    assert np.isnan(lacking.values).all()
    assert lacking.missing == {
        ScoreKey("nasbench201", "cifar10", "none", "zen", 0): 5,
        ScoreKey("nasbench201", "cifar10", "none", "params", 0): 5,
    }


def test_members_read_the_seed_and_the_inputs_asked_for(tmp_path):
    """Proxies that draw nothing have one seed, and those that read no mini-batch one kind of inputs."""
    append(tmp_path, "flops", {int(i): 1.0 for i in OWN})
    append(tmp_path, "synflow", {int(i): 10.0 for i in OWN}, seed=3)
    append(tmp_path, "snip", {int(i): 100.0 for i in OWN}, inputs="random", seed=3)
    append(tmp_path, "snip", {int(i): 200.0 for i in OWN}, inputs="cifar10", seed=3)
    spec = "sum(flops, synflow, snip)"
    assert set(reader(tmp_path).scores(spec, "cifar10", OWN, "random", 3).values) == {111.0}
    assert set(reader(tmp_path).scores(spec, "cifar10", OWN, "paper", 3).values) == {211.0}
    other = reader(tmp_path).scores(spec, "cifar10", OWN, "random", 4)
    assert {(key.proxy, key.seed) for key in other.missing} == {("synflow", 4), ("snip", 4)}


def test_an_aggregate_may_be_a_member(tmp_path):
    append(tmp_path, "ntk", {int(i): -float(i) for i in OWN})
    append(tmp_path, "nregions", {int(i): float(i % 3) for i in OWN})
    append(tmp_path, "flops", {int(i): float(i * 5 % 7) for i in OWN})
    inner = reader(tmp_path).scores("te_nas", "cifar10", OWN).values
    flops = np.array([i * 5 % 7 for i in OWN], dtype=float)
    found = reader(tmp_path).scores("rank_sum(te_nas, flops)", "cifar10", OWN).values
    assert np.array_equal(found, ranks(inner) + ranks(flops))


def test_names_that_are_none(tmp_path):
    for spec in ("sum(flops, sinflow)", "te_nass", "summ(flops, params)"):
        with pytest.raises(UnknownNameError):
            reader(tmp_path).scores(spec, "cifar10", OWN)
