"""Tests of the NAS-Bench-Macro space: strings, counts, canonical forms and the network."""

from __future__ import annotations

import itertools
from collections import defaultdict

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from torch import nn

from harness.benchmarks.benchmark import Benchmark, load_benchmark
from harness.errors import HarnessError
from harness.probes.base import Subject
from harness.probes.gaussian import LinearRegions
from harness.probes.topology import Topology
from harness.spaces.base import Operation
from harness.spaces.macro import Macro, without_identities

SPACE = Macro()


@pytest.fixture(scope="module")
def benchmark() -> Benchmark:
    return load_benchmark("macro")


def members(benchmark: Benchmark, n: int, seed: int) -> list[str]:
    return [benchmark.architectures[i] for i in np.random.RandomState(seed).permutation(len(benchmark))[:n]]


def stored(benchmark: Benchmark, name: str) -> np.ndarray:
    return pq.read_table(benchmark.folder / "accuracies.parquet", columns=[name]).column(0).to_numpy()


# Strings --------------------------------------------------------------------------------------------------


def test_the_benchmark_holds_every_string_once(benchmark):
    assert sorted(benchmark.architectures) == sorted(map("".join, itertools.product("012", repeat=8)))
    assert [benchmark.index(benchmark.architectures[i]) for i in (0, 77, 6560)] == [0, 77, 6560]
    assert SPACE.parse(" 02012100\n") == "02012100"


@pytest.mark.parametrize(
    "text", ["", "nonsense", "0201210", "020121000", "02012103", "0201210a", "0 2012100", "०२०१२१००"]
)
def test_malformed_strings_are_refused_with_the_right_form(text, benchmark):
    calls = (
        SPACE.parse,
        SPACE.canonical,
        benchmark.index,
        lambda t: SPACE.build(t, 10),
        lambda t: SPACE.topology([t], 10, 32),
    )
    for read in calls:
        with pytest.raises(HarnessError, match="is not a NAS-Bench-Macro architecture: write it as eight digits"):
            read(text)


# Counts ---------------------------------------------------------------------------------------------------


def test_counts_equal_the_stored_ones_for_all_strings(benchmark):
    counts = SPACE.topology(benchmark.architectures, 10, 32)
    for name in ("params", "flops"):
        assert counts[name].shape == (6_561,)
        np.testing.assert_array_equal(counts[name], stored(benchmark, name))


def test_counts_equal_those_of_the_networks(benchmark):
    architectures = ["00000000", "22222222", *members(benchmark, 30, seed=1)]
    counts = SPACE.topology(architectures, 10, 32)
    for place, architecture in enumerate(architectures):
        network = SPACE.build(architecture, 10)
        found = {name: values[place] for name, values in counts.items()}
        subject = Subject(network, None, 0, (3, 32, 32), 10, torch.device("cpu"))
        assert Topology().run(subject, frozenset(found)) == found, architecture
        assert (
            sum(p.numel() for p in network.parameters()) == stored(benchmark, "params")[benchmark.index(architecture)]
        )


@pytest.mark.parametrize(("classes", "resolution"), [(100, 17), (3, 5)])
def test_counts_at_other_resolutions(benchmark, classes, resolution):
    architectures = members(benchmark, 4, seed=resolution)
    counts = SPACE.topology(architectures, classes, resolution)
    for place, architecture in enumerate(architectures):
        network = SPACE.build(architecture, classes)
        subject = Subject(network, None, 0, (3, resolution, resolution), classes, torch.device("cpu"))
        found = {name: values[place] for name, values in counts.items()}
        assert Topology().run(subject, frozenset(found)) == found, architecture


def test_operations_by_hand():
    kinds, counts = SPACE.operations(["01200210", "01200210"], 32)
    assert counts.shape == (2, len(kinds))
    found = {kind: number for kind, number in zip(kinds, counts[1], strict=True) if number}
    assert found == {
        Operation("convolution", 1, 32, 32): 1,  # the identity that halves the maps
        Operation("convolution", 1, 64, 16): 2,
        Operation("convolution", 3, 192, 16): 1,
        Operation("skip", 1, 64, 16, summed=True): 1,
        Operation("convolution", 5, 384, 16): 1,
        Operation("skip", 1, 128, 8): 2,
        Operation("convolution", 1, 128, 8): 1,
        Operation("convolution", 5, 768, 8): 1,
        Operation("convolution", 1, 256, 4): 1,
        Operation("convolution", 3, 768, 4): 1,
        Operation("skip", 1, 256, 4, summed=True): 1,
        Operation("skip", 1, 256, 4): 1,
    }


# Canonical forms ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "form"),
    [
        ("02012100", "02012100"),
        ("02001200", "02010200"),  # stages 02, 001, 200
        ("00001002", "00010020"),
        ("10210202", "10210220"),
        ("00000000", "00000000"),
    ],
)
def test_identities_inside_a_stage_move_to_its_end(text, form):
    assert without_identities(text) == SPACE.canonical(text) == SPACE.network_key(text) == form


def test_strings_of_one_class_share_the_stored_figures(benchmark):
    classes = defaultdict(list)
    for index, architecture in enumerate(benchmark.architectures):
        classes[SPACE.canonical(architecture)].append(index)
    assert len(classes) == len(benchmark.population("unique")) == 9 * 21 * 21
    for name in ("params", "flops", "cifar10_test", "std"):
        values = stored(benchmark, name)
        assert all((values[indices] == values[indices[0]]).all() for indices in classes.values())


@pytest.mark.parametrize(("left", "right"), [("00102102", "00120120"), ("10201201", "10210210")])
def test_strings_of_one_class_are_one_network(left, right):
    assert SPACE.canonical(left) == SPACE.canonical(right)
    torch.manual_seed(0)
    networks = [SPACE.build(text, 5).eval() for text in (left, right)]
    networks[1].load_state_dict(networks[0].state_dict())
    images = torch.randn(2, 3, 8, 8)
    assert torch.equal(networks[0](images), networks[1](images))
    assert len(networks[0].stages) == len(networks[1].stages)


@pytest.mark.parametrize(
    ("left", "right"), [("01000000", "10000000"), ("00012000", "00021000"), ("00100000", "00001000")]
)
def test_strings_of_two_classes(left, right):
    assert SPACE.canonical(left) != SPACE.canonical(right)


# The network ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("architecture", "shapes"),
    [
        ("00000000", [(32, 32, 32), (64, 16, 16), (128, 8, 8), (256, 4, 4)]),
        ("12120012", [(32, 32, 32), *[(64, 16, 16)] * 2, *[(128, 8, 8)] * 2, *[(256, 4, 4)] * 3]),
    ],
)
def test_feature_maps_of_the_stages(architecture, shapes):
    network = SPACE.build(architecture, 10).eval()
    found = []
    for stage in network.stages:
        stage.register_forward_hook(lambda module, args, output: found.append(tuple(output.shape[1:])))
    with torch.no_grad():
        network(torch.zeros(1, 3, 32, 32))
    assert found == shapes


def test_blocks_inside_a_stage_are_residual():
    network = SPACE.build("11000000", 10)
    first, second = network.layers[:2]
    assert (first.shortcut, second.shortcut) == (False, True)
    nn.init.zeros_(second.convs[-1][1].weight)
    x = torch.randn(2, 64, 4, 4)
    assert torch.equal(second(x), x)


def test_thin_network():
    network = SPACE.build("12120012", 10, thin=True)
    assert network.stem[0].out_channels == 1
    assert network.classifier.in_features == 40
    subject = Subject(network, None, 0, (3, 32, 32), 10, torch.device("cpu"))
    assert 1 <= LinearRegions(samples=50).run(subject, frozenset({"regions"}))["regions"] <= 50
