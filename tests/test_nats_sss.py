"""Tests of NATS-Bench's size space: strings, numbering, counts, the network, and three records of its archive."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from harness.benchmarks.benchmark import Benchmark, load_benchmark
from harness.benchmarks.importers import read_archive
from harness.benchmarks.importers.safe import unpickle_bz2
from harness.engine.scorer import Job, Scorer
from harness.engine.scoring import run
from harness.errors import HarnessError
from harness.probes.base import Subject
from harness.probes.gaussian import LinearRegions
from harness.probes.topology import Topology
from harness.spaces import get_space
from harness.spaces.base import Operation
from harness.spaces.nats_sss import CELL, CHOICES, NatsSss, decode

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


# Accuracies -----------------------------------------------------------------------------------------------


def test_figures_equal_those_of_the_archive(benchmark):
    """Of three records: on every dataset and target."""
    places = {
        ("cifar10", "test_90ep"): ("cifar10", "ori-test@89"),
        ("cifar10", "valid_90ep"): ("cifar10-valid", "x-valid@89"),
        ("cifar100", "test_90ep"): ("cifar100", "x-test@89"),
        ("ImageNet16-120", "test_90ep"): ("ImageNet16-120", "x-test@89"),
    }
    assert set(places) == {(dataset, target) for dataset in benchmark.datasets for target in benchmark.targets(dataset)}
    for index in (0, 11, 284):
        record = unpickle_bz2(ARCHIVE / f"{index:06d}.pickle.pbz2")["90"]["all_results"]
        for (dataset, target), (trained_on, split) in places.items():
            expected = record[trained_on, 777]["eval_acc1es"][split]
            assert benchmark.accuracies(dataset, target)[index] == pytest.approx(expected, abs=0.005)


@pytest.mark.parametrize(("dataset", "images"), [("cifar10", 10_000), ("cifar100", 5_000), ("ImageNet16-120", 3_000)])
def test_figures_are_shares_of_the_images(benchmark, dataset, images):
    figures = benchmark.accuracies(dataset).to_numpy()
    assert np.isfinite(figures).all()
    right = figures * images / 100
    assert np.abs(right - right.round()).max() < 1e-6


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
