"""Tests of NATS-Bench's size space: strings, numbering, counts, the network, and three records of its archive."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import ks_2samp
from torch import nn

from harness.benchmarks.benchmark import Benchmark, load_benchmark
from harness.benchmarks.importers import read_archive
from harness.benchmarks.importers.safe import unpickle_bz2
from harness.cli.outcome import correlations_of
from harness.config import RowConfig
from harness.engine.scorer import Job, Scorer
from harness.engine.scoring import run
from harness.engine.store import ScoreStore
from harness.errors import HarnessError, SelectionError, UnknownNameError
from harness.probes.base import Subject
from harness.probes.gaussian import LinearRegions
from harness.probes.topology import Topology
from harness.rankings.results import Reader
from harness.report.measures import Board, boards
from harness.seeds import stable_rng
from harness.spaces import get_space
from harness.spaces.base import Operation
from harness.spaces.nats_sss import CELL, CHOICES, NatsSss, decode
from harness.tables.cells import load_table
from harness.tables.leaderboard import build_leaderboard
from harness.tables.measure import Measurements
from harness.tables.papers import table_cells
from harness.verify.baseline import correlations

CHOSEN = ("searched", "stratified")
SPACE = NatsSss()
ARCHIVE = Path(__file__).parent / "data" / "nats_bench" / "NATS-sss-v1_0-50262-simple"


@pytest.fixture(scope="module")
def benchmark() -> Benchmark:
    return load_benchmark("nats_sss")


def sampled(benchmark: Benchmark, n: int, seed: int) -> list[str]:
    return [benchmark.architectures[i] for i in np.random.RandomState(seed).permutation(len(benchmark))[:n]]


# Strings and numbering ------------------------------------------------------------------------------------


def test_the_numbering_is_the_official_one(benchmark):
    meta = unpickle_bz2(ARCHIVE / "meta.pickle.pbz2")
    assert benchmark.architectures == meta["meta_archs"]
    assert len(benchmark) == 32_768
    assert benchmark.index(" 8:8:40:32:40\n") == 284
    assert len(benchmark.population("unique")) == 32_768
    with pytest.raises(HarnessError, match="space nasbench101 does not list its members"):
        get_space("nasbench101").members()
    assert len(benchmark.population("sample(10, seed=1)")) == 10


@pytest.mark.parametrize(
    "text",
    ["", "8:8:8:8", "8:8:8:8:8:8", "8:8:8:8:9", "0:8:8:8:8", "8:8:8:8:72", "08:8:8:8:8", "8-8-8-8-8", "८:8:8:8:8"],
)
def test_malformed_strings_are_refused_with_the_right_form(text, benchmark):
    calls = (SPACE.parse, decode, benchmark.index, lambda t: SPACE.build(t, 10), lambda t: SPACE.topology([t], 10, 32))
    for read in calls:
        with pytest.raises(HarnessError, match="size space: write it as five numbers of channels such as 8:16:24"):
            read(text)


# Counts ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("index", [0, 11, 284])
def test_counts_and_network_equal_those_of_the_archive(benchmark, index):
    record = unpickle_bz2(ARCHIVE / f"{index:06d}.pickle.pbz2")["90"]
    architecture = benchmark.architectures[index]
    for name, spec in benchmark.datasets.items():
        trial = record["all_results"][name, 777]
        assert trial["arch_config"]["genotype"] == CELL
        assert trial["arch_config"]["channels"] == architecture
        counts = SPACE.topology([architecture], spec.classes, spec.resolution)
        assert counts["params"][0] == round(trial["params"] * 1e6)
        # The archive's counter adds one for the bias of each logit.
        assert counts["flops"][0] + spec.classes == round(trial["flop"] * 1e6)
        network = SPACE.build(architecture, spec.classes)
        assert sum(p.numel() for p in network.parameters()) == round(trial["params"] * 1e6)


@pytest.mark.parametrize(("classes", "resolution", "number"), [(10, 32, 16), (120, 16, 6), (7, 15, 4)])
def test_counts_equal_those_of_the_networks(benchmark, classes, resolution, number):
    architectures = ["8:8:8:8:8", "64:64:64:64:64", *sampled(benchmark, number, seed=classes)]
    counts = SPACE.topology(architectures, classes, resolution)
    for place, architecture in enumerate(architectures):
        network = SPACE.build(architecture, classes)
        found = {name: values[place] for name, values in counts.items()}
        subject = Subject(network, None, 0, (3, resolution, resolution), classes, torch.device("cpu"))
        assert Topology().run(subject, frozenset(found)) == found, architecture


def test_operations_by_hand():
    kinds, counts = SPACE.operations(["8:8:8:8:8", "8:16:16:24:32"], 32)
    assert counts.shape == (2, len(kinds))
    found = {kind: number for kind, number in zip(kinds, counts[1], strict=True) if number}
    assert found == {
        Operation("convolution", 3, 8, 32): 5 + 1,  # the cell, and the residual block's first
        Operation("skip", 1, 8, 32, summed=True): 1,
        Operation("pooling", 2, 8, 32): 1,
        Operation("convolution", 1, 8, 16): 1,
        Operation("convolution", 3, 16, 16): 1 + 5 + 1,
        Operation("skip", 1, 16, 16, summed=True): 1,
        Operation("pooling", 2, 16, 16): 1,
        Operation("convolution", 1, 16, 8): 1,
        Operation("convolution", 3, 24, 8): 1 + 2,
        Operation("convolution", 3, 32, 8): 3,
        Operation("convolution", 1, 24, 8): 1,  # the skip from 24 to 32 channels
    }


# Network --------------------------------------------------------------------------------------------------


def test_forward_and_backward_of_twenty_networks(benchmark):
    for place, architecture in enumerate(sampled(benchmark, 20, seed=3)):
        torch.manual_seed(place)
        network = SPACE.build(architecture, 10)
        logits = network(torch.randn(4, 3, 16, 16))
        assert logits.shape == (4, 10)
        logits.sum().backward()
        assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in network.parameters())
        assert len(network.stages) == 6


def test_output_by_hand():
    """With BatchNorm at rest and weights that copy channel 0, a constant image's value doubles as the sums do."""
    network = SPACE.build("8:8:16:16:16", 3).eval()
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.Conv2d):
                module.weight.zero_()
                module.weight[0, 0, module.kernel_size[0] // 2, module.kernel_size[1] // 2] = 1
            elif isinstance(module, nn.BatchNorm2d):
                module.eps = 0.0
            elif isinstance(module, nn.Linear):
                module.weight.zero_()
                module.weight[:, 0] = torch.arange(3.0)
                module.bias.fill_(1.0)
    # A cell gives skip + conv(node 1) + conv(node 2) = x + x + 2 x, a residual block 2 x.
    expected = 0.5 * 4 * 2 * 4 * 2 * 4
    assert network(torch.full((1, 3, 8, 8), 0.5)).tolist() == [[1.0, 1 + expected, 1 + 2 * expected]]


def test_skip_that_changes_channels_has_no_relu():
    """A negative constant passes the 1x1 convolution of the skip and no other edge."""
    from harness.spaces.nats_sss.network import Cell

    cell = Cell(8, 16).eval()
    with torch.no_grad():
        cell.skip_0_3[0].weight.fill_(1.0)
        cell.skip_0_3[1].eps = 0.0
        assert (cell(-torch.ones(1, 8, 4, 4)) == -8).all()


def test_thin_network():
    thin = SPACE.build("8:16:24:64:8", 10, thin=True)
    widths = [m.num_features for m in thin.modules() if isinstance(m, nn.BatchNorm2d)]
    assert (widths[0], widths[-1], max(widths)) == (1, 1, 8)
    subject = Subject(thin, None, 0, (3, 32, 32), 10, torch.device("cpu"))
    assert 1 <= LinearRegions(samples=50).run(subject, frozenset({"regions"}))["regions"] <= 50


# Figures of a selection -----------------------------------------------------------------------------------


def test_strata_are_drawn_as_the_card_says(benchmark):
    """Made again from the parameters and the networks whose accuracy is known."""
    figures = benchmark.accuracies("cifar10").to_numpy()
    searched = np.isfinite(figures)
    assert np.array_equal(benchmark.population("searched"), np.flatnonzero(searched))
    params = SPACE.topology(benchmark.architectures, 10, 32)["params"]
    by_size = np.argsort(params, kind="stable").reshape(32, 1024)
    known = [np.sort(stratum[searched[stratum]]) for stratum in by_size]
    fewest = min(map(len, known))
    drawn = [stable_rng("stratified", "nats_sss", k).permutation(known[k])[:fewest] for k in range(32)]
    assert np.array_equal(benchmark.population("stratified"), np.sort(np.concatenate(drawn)))
    assert fewest == 181


def test_parameters_of_the_strata_are_those_of_the_space(benchmark):
    params = SPACE.topology(benchmark.architectures, 10, 32)["params"]
    distances = {name: ks_2samp(params, params[benchmark.population(name)]).statistic for name in CHOSEN}
    assert distances["stratified"] < 0.01 < 0.1 < distances["searched"]


def test_figures_equal_those_of_the_archive(benchmark):
    for index in (0, 11, 284):
        record = unpickle_bz2(ARCHIVE / f"{index:06d}.pickle.pbz2")["90"]
        trial = record["all_results"]["cifar10", 777]
        assert benchmark.accuracies("cifar10")[index] == pytest.approx(trial["eval_acc1es"]["ori-test@89"], abs=0.005)


@pytest.mark.parametrize("population", ["all", "unique", "sample(300, seed=0)"])
def test_a_population_beyond_the_selection_has_no_figures(benchmark, population, tmp_path):
    """Whatever asks for figures says so, and gives none over what happens to be there."""
    with pytest.raises(SelectionError, match=r"stores figures of [0-9,]+ of the [0-9,]+ .*take one of searched, strat"):
        benchmark.with_figures(population, benchmark.accuracies("cifar10").to_numpy())
    with pytest.raises(SelectionError):
        Measurements(ScoreStore(tmp_path)).block("nats_sss", "cifar10").population(population)
    with pytest.raises(SelectionError):
        correlations_of(Job("nats_sss", "cifar10", ("params",), population=population, store=str(tmp_path)))


def test_populations_of_the_selection_have_figures(benchmark, tmp_path):
    block = Measurements(ScoreStore(tmp_path)).block("nats_sss", "cifar10")
    sizes = [("searched", 9_416), ("stratified", 5_792), ("stratified.sample(300, seed=0)", 300)]
    for population, size in sizes:
        assert len(block.population(population)) == size
    with pytest.raises(UnknownNameError, match="stratified"):
        benchmark.population("stratifed")


def test_datasets_without_figures_say_so(benchmark):
    for dataset in ("cifar100", "ImageNet16-120"):
        assert benchmark.targets(dataset) == {}
        with pytest.raises(
            HarnessError, match=f"comes without accuracies on {dataset}: bring them with `harness import"
        ):
            benchmark.accuracies(dataset)


def scored(store: Path, population: str) -> ScoreStore:
    """Parameters of a population's networks as scores."""
    run(Job("nats_sss", "cifar10", ("params", "flops"), population=population, store=str(store)), progress=False)
    return ScoreStore(store)


def test_rows_of_a_table(tmp_path):
    """With scores of all networks there is a figure over the selection's populations, and none over all."""
    table = load_table("entropic_table4b")
    table.datasets = ["cifar10"]
    cells = table_cells(table, Measurements(scored(tmp_path, "all")))
    found = {cell.proxy: cell for cell in cells if cell.metric == "kendall"}
    assert found["params, searched"].n == 9_416
    assert found["params, searched"].ours == pytest.approx(0.813, abs=0.0005)
    assert found["params, stratified"].ours == pytest.approx(0.770, abs=0.0005)
    assert found["naswot"].ours is None
    assert found["naswot"].note.startswith("not computed: nats_sss stores figures of 9,416 of the 32,768 architectures")
    assert all(cell.published is None for name, cell in found.items() if "," in name)


def test_leaderboard_ranks_on_the_strata(tmp_path):
    """Says what they are, and leaves the board out of the mean over benchmarks."""
    store = scored(tmp_path, "all")
    table = load_table("leaderboard")
    table.datasets = ["nats_sss/cifar10", "nats_sss/cifar100"]
    table.rows = [RowConfig(proxy="params"), RowConfig(proxy="flops")]
    cells, sheet = build_leaderboard(table, Measurements(store))
    assert {(cell.population, cell.n) for cell in cells if cell.ours is not None} == {("stratified", 5_792)}
    assert not any(cell.benchmark == "all" for cell in cells)
    first, second = sheet.sections
    assert "5,792 architectures. stratified: 5,792 of the searched networks, 181 from each of 32" in first.text
    assert "comes without accuracies on cifar100" in second.text
    table.populations = ["all", "sample(300, seed=0)"]
    _, sheet = build_leaderboard(table, Measurements(store))
    assert "none of the table's populations has figures of nats_sss/cifar10" in sheet.sections[0].text


def test_plots_and_baseline_take_the_selection_alone(tmp_path):
    store = scored(tmp_path, "all")
    board = Board(Reader(store, load_benchmark("nats_sss")), "cifar10")
    assert {"searched", "stratified"} <= set(board.populations)
    assert "all" not in board.populations
    assert [(b.benchmark.name, b.dataset) for b in boards(store)] == [("nats_sss", "cifar10")]
    entries = list(correlations(store, ["all", "searched", "stratified"], proxies=["params"]))
    assert {(entry.population, entry.n) for entry in entries} == {("searched", 9_416), ("stratified", 5_792)}


# Scoring without accuracies -------------------------------------------------------------------------------


def test_scoring_needs_no_accuracies(tmp_path):
    job = Job("nats_sss", "cifar10", ("params", "snip:batch_size=4", "logsynflow"), limit=2, store=str(tmp_path))
    summary = run(job, progress=False)
    assert (summary.stored_now, summary.errors, dict(summary.failed)) == (6, 0, {})


def test_topology_space_shares_the_scores_of_nasbench201():
    proxy = Job("nats_tss", "cifar10", ("params",)).resolved[0]
    for name in ("nats_tss", "nasbench201"):
        assert Job(name, "cifar10", ("params",)).key(proxy).space == "nasbench201"
    subjects = [Scorer(Job(name, "cifar10", ("params",))).subject(77) for name in ("nats_tss", "nasbench201")]
    assert subjects[0].seed == subjects[1].seed
    mine, theirs = load_benchmark("nats_tss"), load_benchmark("nasbench201")
    assert mine.accuracies("cifar100").equals(theirs.accuracies("cifar100"))
    assert mine.architectures == theirs.architectures
    assert mine.card["title"] != theirs.card["title"]


def test_choices():
    assert CHOICES == (8, 16, 24, 32, 40, 48, 56, 64)
    (table,) = read_archive("nats_sss", ARCHIVE, partial=True)
    assert table.columns["arch_str"].tolist() == ["8:8:8:8:8", "8:8:8:16:32", "8:8:40:32:40"]
