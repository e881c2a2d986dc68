"""Tests of what a researcher calls from Python: names, tables of scores, descriptions, and how results read."""

from __future__ import annotations

import ast
import pickle
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

import harness
from harness.benchmarks.benchmark import load_benchmark
from harness.cli import reference
from harness.comparison.describe import bibtex
from harness.comparison.scores import processes
from harness.correlation import correlate
from harness.engine.store import Row, ScoreKey, ScoreStore
from harness.errors import HarnessError
from harness.proxies import available, get_proxy
from harness.rankings.aggregates import AGGREGATES
from harness.rankings.learned import LEARNED
from harness.tables.measure import Measurements

PACKAGE = Path(harness.__file__).resolve().parent
BENCHMARK = load_benchmark("nasbench201")
POPULATION = "sample(60, seed=3)"


def stored(root: Path, proxy: str, scores: dict[int, float | None], inputs: str = "random", status: str = "ok") -> None:
    rows = [
        Row(i, score, 0.5, "ok" if score is not None else status, get_proxy(proxy).version)
        for i, score in scores.items()
    ]
    ScoreStore(root).append(ScoreKey("nasbench201", "cifar10", inputs, proxy, 0), rows)


@pytest.fixture
def store(tmp_path) -> Path:
    """AZ-NAS's members on a sample; one network has no expressivity."""
    networks = np.unique(BENCHMARK.representatives[BENCHMARK.population(POPULATION)]).tolist()
    for place, proxy in enumerate(AGGREGATES["az_nas"].members):
        draws = np.random.RandomState(place).randn(len(networks)).tolist()
        scores = dict(zip(networks, draws, strict=True))
        stored(tmp_path, proxy, scores, "none" if proxy == "flops" else "random")
    stored(tmp_path, "az_expressivity", {}, "random")
    return tmp_path


# Names ---------------------------------------------------------------------------------------------------------


def test_exports_are_listed_completed_and_known_to_type_checkers():
    assert set(harness.__all__) <= set(dir(harness))
    assert all(getattr(harness, name) is not None for name in harness.__all__)
    stub = ast.parse((PACKAGE / "__init__.pyi").read_text(encoding="utf-8"))
    named = {
        alias.asname: node.module for node in stub.body if isinstance(node, ast.ImportFrom) for alias in node.names
    }
    assert named == harness._EXPORTS
    assert set(named) == set(harness.__all__)
    assert (PACKAGE / "py.typed").is_file()


def test_the_reference_follows_from_the_docstrings():
    page = (PACKAGE.parent / "docs" / "reference.md").read_text(encoding="utf-8")
    assert page == reference.text(), "python -m harness.cli.reference > docs/reference.md"
    assert all(f"### {name}\n" in page for name in harness.__all__)


def test_proxies_aggregates_and_learned_rankings_are_listed():
    frame = harness.list_proxies()
    assert {*available(), *AGGREGATES, *LEARNED} == set(frame.index)
    assert frame.loc["az_nas", "kind"] == "aggregate"
    assert frame.loc["snip", "inputs"] == "images of the dataset"
    assert harness.list_proxies("*swap*").index.tolist() == ["swap", "swap_reg"]
    benchmarks = harness.list_benchmarks()
    assert benchmarks.loc["nasbench201", "architectures"] == 15_625
    assert benchmarks.loc["nasbench201", "accuracies"] == 3


def test_a_description_reads_as_text_and_in_a_notebook(store):
    found = harness.describe("vkdnw:variant=repo", standing=False)
    text = repr(found)
    assert "variant=repo (of paper, repo)" in text
    assert "WeightJacobian" in text
    assert "@misc{tybl2025," in text
    assert "<table>" in found._repr_html_()
    standing = harness.describe("az_nas", store=store, stores=[store]).standings
    assert standing == ()  # no population that is looked at is complete
    assert harness.describe("nasbench201").kind == "benchmark"
    assert "GRAF's features" in harness.describe("graf_model", standing=False).summary
    with pytest.raises(HarnessError, match="did you mean 'vkdnw'"):
        harness.describe("vkdn")


def test_where_a_proxy_stands_is_its_rank_among_those_that_are_complete(tmp_path):
    networks = np.unique(BENCHMARK.representatives[BENCHMARK.population("sample(100, seed=0)")])
    accuracies = BENCHMARK.accuracies("cifar10").to_numpy()
    for proxy, sign in (("flops", 1), ("params", -1), ("synflow", 1)):
        noise = np.random.RandomState(len(proxy)).randn(len(networks)) * (20 if proxy == "synflow" else 1)
        scores = sign * accuracies[networks] + noise
        stored(tmp_path, proxy, dict(zip(networks.tolist(), scores.tolist(), strict=True)), "none")
    found = {name: harness.describe(name, store=tmp_path, stores=[tmp_path]).standings for name in ("flops", "params")}
    assert [(one.place, one.rank, one.of, one.n) for one in found["flops"]] == [("nasbench201/cifar10", 1, 3, 100)]
    assert found["params"][0].rank == 3


def test_citations_become_entries_of_what_they_say():
    entry = bibtex("Tybl & Neumann, VKDNW, CVPR 2025 (arXiv 2502.04975)")
    for line in ("@misc{tybl2025,", "author = {Tybl and Neumann}", "title = {VKDNW}", "eprint = {2502.04975}"):
        assert line in entry
    assert bibtex("baseline") == ""
    two = bibtex("Lee et al., SNIP, ICLR 2019; Abdelfattah et al., Zero-Cost Proxies for Lightweight NAS, ICLR 2021")
    assert two.count("@misc") == 2
    assert "author = {Lee and others}" in two


# Scores --------------------------------------------------------------------------------------------------------


def test_loaded_scores_are_those_that_tables_rank(store):
    options = {"population": POPULATION, "store": store, "stores": [store]}
    frame = harness.load_scores(proxies=["az_nas", "az_trainability"], **options)
    block = Measurements(ScoreStore(store)).block("nasbench201", "cifar10")
    for name in frame:
        assert np.array_equal(frame[name], block.scores(name, POPULATION).values)
    assert frame.index.name == "index"
    assert frame.index.tolist() == BENCHMARK.population(POPULATION).tolist()
    assert frame.attrs["inputs"] == {"az_nas": "random", "az_trainability": "random"}
    assert (frame.attrs["population"], frame.attrs["n"], frame.attrs["seed"]) == (POPULATION, 60, 0)
    assert frame.attrs["status"] == {"az_nas": {}, "az_trainability": {}}
    every = harness.load_scores(**options)
    assert set(every) == {*AGGREGATES["az_nas"].members, "az_nas"}


def test_why_a_score_is_missing_is_said_for_each_architecture(tmp_path):
    members = BENCHMARK.population(POPULATION)
    owners = BENCHMARK.representatives[members]
    shared = next(int(o) for m, o in zip(members, owners, strict=True) if m != o and (owners == o).sum() >= 1)
    scores = {int(i): (None if i == shared else float(i)) for i in np.unique(owners)}
    stored(tmp_path, "zen", scores, "none", status="no gradient")
    options = {"population": POPULATION, "store": tmp_path, "stores": [tmp_path]}
    frame = harness.load_scores(proxies="zen", **options)
    without = members[owners == shared].tolist()
    assert frame.attrs["status"]["zen"] == dict.fromkeys(without, "no gradient")
    assert frame["zen"].isna().sum() == len(without)
    with pytest.raises(HarnessError, match=r"not stored for snip \(\d+\): run `harness score .*proxies=\[snip\]"):
        harness.load_scores(proxies=["zen", "snip"], **options)
    with pytest.raises(HarnessError, match=r"inputs=cifar10 inputs\.path=DATA"):
        harness.load_scores(proxies="snip", inputs="paper", **options)
    partial = harness.load_scores(proxies=["zen", "snip"], partial=True, **options)
    assert partial["snip"].isna().all()
    assert set(partial.attrs["status"]["snip"].values()) == {"not computed"}


def test_a_benchmark_is_scored_and_loaded_in_one_call(tmp_path):
    options = {"population": "sample(6, seed=1)", "store": tmp_path, "stores": [tmp_path]}
    frame = harness.score_benchmark(["flops", "trainable_layers"], progress=False, **options)
    assert frame.notna().all().all()
    pd.testing.assert_frame_equal(frame, harness.load_scores(proxies=["flops", "trainable_layers"], **options))
    with pytest.raises(HarnessError, match="inputs=cifar10 needs the folder"):
        harness.score_benchmark("snip", inputs="cifar10", **options)
    assert processes(3) == 3


def test_a_bare_name_is_scored_and_a_missing_value_says_why():
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 3))
    scores = harness.score(network, torch.randn(4, 3, 2, 2), proxies="nregions")
    reason = scores.attrs["status"]["nregions"]
    assert np.isnan(scores["nregions"])
    assert reason in repr(scores)
    assert "without a score" in scores._repr_html_()
    assert isinstance(scores, pd.Series)
    assert pickle.loads(pickle.dumps(scores)).attrs == scores.attrs
    fine = harness.score(network, torch.randn(4, 3, 2, 2), proxies=get_proxy("params"))
    assert repr(fine) == repr(pd.Series(fine.to_dict(), name="score"))


def test_correlations_take_a_bare_name_and_read_as_a_table():
    found = correlate([1, 2, 3, 5, 4], [10.0, 20, 30, 40, 50], metrics="tau", resamples=50)
    assert list(found.estimates) == ["kendall"]
    assert found["tau"].value == found["kendall"].value
    assert "kendall  0.8000 [" in repr(found)
    assert "n = 5; 95% intervals of 50 resamples" in repr(found)
    assert "<td>0.8000</td>" in found._repr_html_()
