"""Tests of Channel-Bench-Macro's two spaces: strings, counts of all members, networks."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn

from harness import Benchmark, HarnessError, Subject, load_benchmark
from harness.probes.gaussian import LinearRegions
from harness.probes.topology import Topology
from harness.spaces.base import Operation
from harness.spaces.channel_macro import MOBILENET, RESNET, ChannelMacroMobileNet, ChannelMacroResNet, widths_of

NAMES = ("channel_macro_resnet", "channel_macro_mobilenet")
COUNTS = ("params", "flops", "elementwise", "trainable_layers", "parameter_tensors")


@pytest.fixture(params=NAMES, scope="module")
def benchmark(request) -> Benchmark:
    return load_benchmark(request.param)


def members(benchmark: Benchmark, n: int, seed: int) -> list[str]:
    return [benchmark.architectures[i] for i in np.random.RandomState(seed).permutation(len(benchmark))[:n]]


# Strings --------------------------------------------------------------------------------------------------


def test_the_benchmarks_hold_every_string_once(benchmark):
    assert sorted(benchmark.architectures) == sorted(map("".join, itertools.product("1234", repeat=7)))
    assert [benchmark.index(benchmark.architectures[i]) for i in (0, 77, 16_383)] == [0, 77, 16_383]
    assert benchmark.space.parse(" 4432214\n") == "4432214"
    assert len(benchmark.population("unique")) == 16_384


@pytest.mark.parametrize("text", ["", "nonsense", "443221", "44322144", "4432210", "4432215", "443 214", "४४३२२१४"])
def test_malformed_strings_are_refused_with_the_right_form(text, benchmark):
    space = benchmark.space
    calls = (space.parse, space.canonical, benchmark.index, lambda t: space.build(t, 10))
    for read in (*calls, lambda t: space.topology([t], 10, 32), lambda t: space.operations([t], 32)):
        with pytest.raises(HarnessError, match="write it as seven digits from 1 to 4, quarters of the full width"):
            read(text)


def test_widths():
    assert widths_of(RESNET, (1, 2, 3, 4, 3, 2, 1)) == [64, 128, 192, 512, 384, 256, 128]
    assert widths_of(MOBILENET, (4, 1, 2, 3, 1, 4, 2)) == [128, 192, 384, 576, 64, 1536, 512]
    assert widths_of(MOBILENET, (1,) * 7, divisor=32) == [1, 6, 6, 6, 2, 12, 8]


# Counts ---------------------------------------------------------------------------------------------------


def test_counts_equal_the_stored_ones_for_all_members(benchmark):
    counts = benchmark.space.topology(benchmark.architectures, 10, 32)
    for name in ("params", "flops"):
        assert counts[name].shape == (16_384,)
        np.testing.assert_array_equal(counts[name], benchmark.column(name))


def test_counts_equal_those_of_thirty_networks(benchmark):
    architectures = ["1111111", "4444444", *members(benchmark, 28, seed=1)]
    counts = benchmark.space.topology(architectures, 10, 32)
    for place, architecture in enumerate(architectures):
        network = benchmark.space.build(architecture, 10)
        held = sum(p.numel() for p in network.parameters())
        assert held == counts["params"][place] == benchmark.column("params")[benchmark.index(architecture)]
        if place < 6:  # the others are as deep, and a forward pass takes its time
            found = {name: counts[name][place] for name in COUNTS}
            subject = Subject(network, None, 0, (3, 32, 32), 10, torch.device("cpu"))
            assert Topology().run(subject, frozenset(found)) == found, architecture


@pytest.mark.parametrize(("classes", "resolution"), [(100, 17), (3, 5)])
def test_counts_at_other_resolutions(benchmark, classes, resolution):
    architectures = members(benchmark, 3, seed=resolution)
    counts = benchmark.space.topology(architectures, classes, resolution)
    for place, architecture in enumerate(architectures):
        network = benchmark.space.build(architecture, classes)
        subject = Subject(network, None, 0, (3, resolution, resolution), classes, torch.device("cpu"))
        found = {name: values[place] for name, values in counts.items()}
        assert Topology().run(subject, frozenset(found)) == found, architecture


def test_sizes_rank_the_accuracies_as_known():
    """Kendall's tau of parameters and multiply-accumulates with accuracy, known with the figures."""
    for name, params, flops in ((NAMES[0], 0.509, 0.673), (NAMES[1], 0.426, 0.546)):
        benchmark = load_benchmark(name)
        counts = benchmark.space.topology(benchmark.architectures, 10, 32)
        accuracies = benchmark.accuracies("cifar10")
        for count, expected in (("params", params), ("flops", flops)):
            assert stats.kendalltau(counts[count], accuracies).statistic == pytest.approx(expected, abs=0.001)


def test_operations_by_hand():
    kinds, counts = ChannelMacroResNet().operations(["1234321"] * 2, 32)
    assert counts.shape == (2, len(kinds))
    assert {kind: number for kind, number in zip(kinds, counts[1], strict=True) if number} == {
        Operation("convolution", 3, 64, 16): 3,  # what blocks 1 to 3 read
        Operation("convolution", 3, 128, 16): 1,
        Operation("convolution", 3, 192, 16): 1,
        Operation("skip", 1, 64, 16, summed=True): 2,
        Operation("convolution", 3, 512, 8): 1,
        Operation("convolution", 3, 384, 8): 2,
        Operation("convolution", 3, 256, 8): 1,
        Operation("convolution", 3, 128, 8): 1,
        Operation("skip", 1, 384, 8, summed=True): 2,
    }
    kinds, counts = ChannelMacroMobileNet().operations(["1234321"], 32)
    assert {kind: number for kind, number in zip(kinds, counts[0], strict=True) if number} == {
        Operation("convolution", 1, 32, 16): 3,
        Operation("convolution", 3, 384, 16): 1,  # depthwise and pointwise together
        Operation("convolution", 3, 576, 16): 1,
        Operation("convolution", 3, 768, 16): 1,
        Operation("skip", 1, 32, 16, summed=True): 2,
        Operation("convolution", 1, 192, 8): 2,  # of the last block and of the convolution behind it
        Operation("convolution", 3, 768, 8): 1,
        Operation("skip", 1, 192, 8, summed=True): 1,
    }


# The networks ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "shapes"),
    [
        ("channel_macro_resnet", [(64, 16, 16)] * 3 + [(384, 8, 8)] * 3),
        ("channel_macro_mobilenet", [(32, 16, 16)] * 3 + [(192, 8, 8)] * 2),
    ],
)
def test_feature_maps_of_the_stages(name, shapes):
    network = load_benchmark(name).space.build("1234321", 10).eval()
    found = []
    for stage in network.stages:
        stage.register_forward_hook(lambda module, args, output: found.append(tuple(output.shape[1:])))
    with torch.no_grad():
        network(torch.zeros(1, 3, 32, 32))
    assert found == shapes


def constant(network: nn.Module) -> nn.Module:
    """The network with BatchNorm at rest and convolutions that copy the middle of channel 0 into channel 0."""
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.Conv2d):
                module.weight.zero_()
                module.weight[0, 0, module.kernel_size[0] // 2, module.kernel_size[1] // 2] = 1
            elif isinstance(module, nn.BatchNorm2d):
                module.eps = 0.0
            elif isinstance(module, nn.Linear):
                module.weight.zero_()
                module.weight[:, 0] = 1
                module.bias.zero_()
    return network.eval()


@pytest.mark.parametrize(("name", "shortcuts"), [("channel_macro_resnet", 4), ("channel_macro_mobilenet", 3)])
def test_output_by_hand(name, shortcuts):
    """An image of 0.5 doubles at each shortcut and passes everything else as it is."""
    network = constant(load_benchmark(name).space.build("1111111", 2))
    assert network(torch.full((1, 3, 8, 8), 0.5)).tolist() == [[0.5 * 2**shortcuts] * 2]


def test_where_relus_stand():
    """Of the ResNet behind each sum; of the MobileNet not behind a block, whose output may be negative."""
    torch.manual_seed(0)
    images = torch.randn(2, 3, 16, 16)
    for name, negative in zip(NAMES, (False, True), strict=True):
        network = load_benchmark(name).space.build("1121211", 10)
        hidden = network.blocks(network.stem(images))
        assert bool((hidden < 0).any()) is negative


def test_thin_networks(benchmark):
    for architecture in ("1111111", "4444444"):
        thin = benchmark.space.build(architecture, 10, thin=True)
        assert thin.stem[0].out_channels == int(architecture[0])
        subject = Subject(thin, None, 0, (3, 32, 32), 10, torch.device("cpu"))
        assert 1 <= LinearRegions(samples=50).run(subject, frozenset({"regions"}))["regions"] <= 50
