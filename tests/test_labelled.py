"""RoBoT and LIBRA: what they choose by hand, and that they spend the accuracies that they state and no others."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

import harness
from harness.benchmarks.benchmark import Benchmark, load_benchmark
from harness.cli import main
from harness.config import compose_config
from harness.engine.store import Row, ScoreKey, ScoreStore
from harness.errors import HarnessError
from harness.proxies import get_proxy
from harness.rankings.labelled import LABELLED, Accuracies, Libra, Robot, information_gain, upper_bound, within_unit
from harness.rankings.results import Reader, inapplicable
from harness.tables.leaderboard import build_leaderboard
from harness.tables.measure import Measurements

BENCHMARK = load_benchmark("nasbench201")
POPULATION = "sample(300, seed=0)"
SAMPLE = BENCHMARK.population(POPULATION)
RNG = np.random.RandomState


def test_accuracies_are_counted():
    known = Accuracies(np.array([10.0, 20.0, 30.0, 40.0]), budget=2)
    assert known.ask(3) == 40.0
    assert known.ask([3, 1]).tolist() == [40.0, 20.0]
    assert known.left == 0
    with pytest.raises(HarnessError, match="more than 2 accuracies"):
        known.ask(0)
    assert known.asked.tolist() == [False, True, False, True]


# RoBoT ----------------------------------------------------------------------------------------------------------


def test_scores_are_brought_to_the_unit_interval():
    scores = np.array([[1.0, 3.0, 2.0, np.nan], [5.0, 5.0, 5.0, 5.0], [-np.inf, -2.0, 0.0, 8.0]])
    assert within_unit(scores).tolist() == [[0, 1, 0.5, 0], [0, 0, 0, 0], [0, 0, 0.2, 1]]


def test_upper_bound_of_one_observation():
    """A single value is its own mean: what is left is the deviation, 0 there and that of the prior far off."""
    bound = upper_bound(np.zeros((1, 2)), np.array([7.0]), np.array([[0.0, 0.0], [1e4, 0.0]]))
    assert bound[0] == pytest.approx(7.0, abs=0.01)
    assert bound[1] == pytest.approx(7.0 + 2.576, rel=1e-9)


def test_upper_bound_goes_through_what_was_observed():
    points = RNG(0).uniform(-1, 1, (8, 3))
    values = points @ [1.0, -2.0, 0.5] + 3
    assert upper_bound(points, values, points) == pytest.approx(values, abs=0.05)
    inside = RNG(1).uniform(-0.5, 0.5, (50, 3))
    assert np.corrcoef(upper_bound(points, values, inside) - 3, inside @ [1.0, -2.0, 0.5])[0, 1] > 0.9


def test_robot_finds_the_sign_of_the_proxy_that_tells():
    rng = RNG(3)
    accuracies = rng.uniform(10, 90, 200)
    scores = np.stack([-accuracies, *rng.normal(size=(5, 200))])
    known = Accuracies(accuracies, 20)
    values = Robot().rank(scores, known, RNG(1))
    assert known.asked.sum() == 20
    assert accuracies[known.asked].max() == accuracies.max()
    # What is left of the budget goes down the ranking.
    order = np.argsort(-values)
    assert known.asked[order[0]]


def test_robot_walks_down_the_only_ranking_there_is():
    """Of one proxy whose weight's sign alone matters at most two architectures are on top."""
    accuracies = np.arange(50.0)
    known = Accuracies(accuracies, 10)
    values = Robot(10).rank(accuracies[None].repeat(6, axis=0), known, RNG(0))
    assert np.argmax(values) == 49
    lowest_was_on_top = int(known.asked[0])
    assert np.flatnonzero(known.asked[1:]).tolist() == [*range(39 + lowest_was_on_top, 49)]


# LIBRA ----------------------------------------------------------------------------------------------------------


def test_information_gain():
    accuracies = np.array([1.0, 2, 3, 4] * 2)  # eight values: four classes
    half, parity = np.array([0.0, 0, 1, 1] * 2), np.array([0.0, 1, 0, 1] * 2)
    assert information_gain(accuracies, half, parity) == pytest.approx(1.0)  # the bit that was lacking
    assert information_gain(accuracies, half, half) == 0.0
    assert information_gain(accuracies, np.zeros(8), half) == pytest.approx(1.0)
    assert information_gain(accuracies, accuracies, half) == 0.0


def test_libra_chooses_by_correlation_information_and_bias():
    rng = RNG(0)
    accuracies = np.sort(rng.uniform(20, 95, 64))
    best = accuracies + rng.normal(size=64)
    alike = 3 * best + 1  # nearly as good, and no information beside it
    other = accuracies + rng.normal(scale=4, size=64)
    params = rng.normal(size=64)
    noise = rng.normal(size=64)
    noise[:2] = np.nan
    scores = np.stack([params, noise, other, alike, best])
    assert set(Libra().choose(scores, accuracies, params=0)) >= {3, 4}
    first, second, third = Libra().choose(scores, accuracies, params=0)
    bias = [np.corrcoef(row[2:], params[2:])[0, 1] for row in scores]
    target = np.corrcoef(accuracies, params)[0, 1]
    rest = [one for one in range(5) if one not in (first, second)]
    assert {first, second} == {3, 4}
    assert third == min(rest, key=lambda one: abs(bias[one] - target))


def test_libra_takes_the_next_best_where_none_is_close():
    accuracies = np.arange(40.0)
    weak, weaker = np.roll(accuracies, 12), np.roll(accuracies, 16)
    params = RNG(0).normal(size=40)
    first, second, _ = Libra().choose(np.stack([params, weaker, weak, accuracies]), accuracies, params=0)
    assert (first, second) == (3, 2)


def test_libra_does_without_a_proxy_that_has_no_scores():
    """Whose bias, of no value, would be as near as any where that of the accuracies is none."""
    benchmark = load_benchmark("transnas101_micro")
    assert inapplicable("epe_nas", benchmark, "normal") != ""
    assert inapplicable("libra", benchmark, "normal") == ""
    assert inapplicable("robot", benchmark, "normal") == ""
    accuracies = np.arange(40.0)
    params = np.cos(np.pi * accuracies)  # hardly correlated with them
    found = Libra().choose(np.stack([params, params + accuracies, accuracies]), accuracies, params=0)
    scores = np.stack([params, np.full(40, np.nan), params + accuracies, accuracies])
    assert Libra().choose(scores, accuracies, params=0) == tuple(one + (one > 0) for one in found)


@pytest.mark.parametrize("known", [0, 1, 2])
def test_libra_of_fewer_than_three_proxies_with_scores_ranks_nothing(known):
    scores = np.full((len(Libra().members), 200), np.nan)
    scores[:known] = RNG(0).normal(size=(known, 200))
    assert Libra().choose(scores, np.arange(200.0), params=0) is None
    assert np.isnan(Libra().rank(scores, Accuracies(np.arange(200.0), 100), RNG(1))).all()


# In the store, tables and lists ---------------------------------------------------------------------------------


def store_members(root) -> ScoreStore:
    """Scores that follow the accuracies, each proxy less than the one before."""
    store = ScoreStore(root)
    accuracies = BENCHMARK.accuracies("cifar10").to_numpy()[SAMPLE]
    members = sorted({*Robot().members, *Libra().members})
    for place, name in enumerate(members):
        values = accuracies + RNG(place).normal(scale=place + 1, size=len(SAMPLE))
        proxy = get_proxy(name)
        rows = [Row(int(i), float(v), 0.1, "ok", proxy.version) for i, v in zip(SAMPLE, values, strict=True)]
        inputs = {"none": "none", "random": "random", "images": "cifar10"}[proxy.inputs]
        store.append(ScoreKey("nasbench201", "cifar10", inputs, name, 0), rows)
    return store


@pytest.mark.parametrize("name", ["robot", "libra"])
def test_only_accuracies_that_were_asked_for_have_an_influence(tmp_path, monkeypatch, name):
    store = store_members(tmp_path)
    found = Reader(store, BENCHMARK).scores(name, "cifar10", SAMPLE)
    assert not found.missing
    assert np.count_nonzero(~found.members) == LABELLED[name].train
    assert np.array_equal(np.isnan(found.values), ~found.members)
    again = Reader(store, BENCHMARK).scores(name, "cifar10", SAMPLE)
    assert again.values.tobytes() == found.values.tobytes()
    other = Reader(store, BENCHMARK).scores("robot", "cifar10", SAMPLE[:20])
    assert not other.members.any()  # no more than it spends
    accuracies = BENCHMARK.accuracies("cifar10").to_numpy().copy()
    untouched = np.setdiff1d(np.arange(len(BENCHMARK)), SAMPLE[~found.members])
    accuracies[untouched] = np.nan
    monkeypatch.setattr(Benchmark, "accuracies", lambda self, dataset, target=None: pd.Series(accuracies))
    blind = Reader(store, BENCHMARK).scores(name, "cifar10", SAMPLE)
    assert blind.values.tobytes() == found.values.tobytes()


def test_a_ranking_is_remembered_until_what_it_was_made_of_changes(tmp_path, monkeypatch):
    found = Reader(store_members(tmp_path), BENCHMARK).scores("robot", "cifar10", SAMPLE)

    def refuse(*_: object) -> None:
        raise AssertionError("ranked again")

    monkeypatch.setattr(Robot, "rank", refuse)
    again = Reader(ScoreStore(tmp_path), BENCHMARK).scores("robot", "cifar10", SAMPLE)
    assert again.values.tobytes() == found.values.tobytes()
    assert np.array_equal(again.members, found.members)
    accuracies = BENCHMARK.accuracies("cifar10") + 1
    monkeypatch.setattr(Benchmark, "accuracies", lambda self, dataset, target=None: accuracies)
    with pytest.raises(AssertionError, match="ranked again"):
        Reader(ScoreStore(tmp_path), BENCHMARK).scores("robot", "cifar10", SAMPLE)


def test_they_stand_apart_in_the_leaderboard(tmp_path):
    store = store_members(tmp_path)
    settings = ["table=leaderboard", "table.datasets=[nasbench201/cifar10]", f"table.populations=['{POPULATION}']"]
    settings += ["table.resamples=20", "table.rows=[{proxy: robot}, {proxy: flops}, {proxy: snip}, {proxy: libra}]"]
    cells, sheet = build_leaderboard(compose_config("report", settings).table, Measurements(store))
    ranked, apart = sheet.sections
    assert [row[0] for row in ranked.rows] == ["flops", "snip"]
    assert apart.heading == "nasbench201, cifar10: with accuracies"
    assert "seed 0" in apart.text
    assert {row[0]: row[1:4] for row in apart.rows} == {"robot": ["–", "–", "280"], "libra": ["–", "–", "200"]}
    by_name = {cell.proxy: cell for cell in cells}
    assert by_name["robot"].rank is None
    assert by_name["robot"].note.startswith("spends 20 accuracies, over the 280 other architectures")
    assert by_name["libra"].note.startswith("spends 100 accuracies")


def test_they_are_compared_without_a_rank(tmp_path):
    store_members(tmp_path)
    table = harness.compare(
        "snip", against=["flops", "robot"], population=POPULATION, store=tmp_path, stores=[tmp_path], resamples=20
    )
    assert np.isnan(table.loc["robot", "rank"])
    assert table.loc["robot", "n"] == 280
    assert any(note.startswith("spends 20 accuracies") for note in table.attrs["notes"]["robot"])
    assert set(table["rank"].dropna()) == {1.0, 2.0}


def test_they_come_last_in_the_list_and_are_described(capsys):
    assert main(["list", "proxies"]) == 0
    lines = capsys.readouterr().out.splitlines()
    spending = [line for line in lines if "spends accuracies: " in line]
    assert lines[-len(spending) :] == spending
    assert "found with 20 accuracies" in next(line for line in spending if line.startswith("robot "))
    found = harness.describe("libra", standing=False)
    assert found.kind == "learned"
    assert found.facts["accuracies"] == "100 of the population's"
    assert "L-SWAG" in found.bibtex
