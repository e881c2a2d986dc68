"""Tests of Accel-NASBench: encodings, counts against the stored ones, and the network."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from harness.benchmarks.benchmark import Benchmark, load_benchmark
from harness.errors import HarnessError
from harness.probes.base import Subject
from harness.probes.gaussian import LinearRegions
from harness.probes.topology import Topology
from harness.spaces.accel_nasbench import CHANNELS, HEAD, STEM, STRIDES, AccelNasBench, Block, decode, places
from harness.spaces.accel_nasbench.network import Layer, SqueezeExcitation
from harness.spaces.base import Operation

SPACE = AccelNasBench()
#: EfficientNet-B0, with ReLU for SiLU.
B0 = "e1k3l1se-e6k3l2se-e6k5l2se-e6k3l3se-e6k5l3se-e6k5l4se-e6k3l1se"
PLAIN = "e1k3l1-e4k5l2-e6k3l3-e6k5l1-e4k3l2-e1k3l4-e6k3l1"


@pytest.fixture(scope="module")
def benchmark() -> Benchmark:
    return load_benchmark("accel_nasbench")


# Encodings ------------------------------------------------------------------------------------------------


def test_both_forms_are_read():
    lists = (
        "[[1, 6, 6, 6, 6, 6, 6], [3, 3, 5, 3, 5, 5, 3], [1, 2, 2, 3, 3, 4, 1], "
        "[True, True, True, True, True, True, True]]"
    )
    assert SPACE.parse(lists) == SPACE.parse(B0) == B0
    assert SPACE.parse(lists.replace("True]]", "False]]")) == B0.removesuffix("se")
    assert decode(PLAIN)[1] == Block(4, 5, 2, False)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "e6k3l1",
        B0 + "-e6k3l1",
        B0.replace("e1", "e2", 1),
        B0.replace("k5", "k7", 1),
        B0.replace("l4", "l5", 1),
        B0.replace("l3", "l4", 1),  # four layers in another block than the sixth
        B0.replace("l1", "l0", 1),
        B0.replace("se", "sE", 1),
        B0.replace("6", "６", 1),
        "[[1]]",
        "[1, 2, 3, 4]",
        "[[1, 6, 6, 6, 6, 6, 6], [3, 3, 5, 3, 5, 5, 3], [1, 2, 2, 3, 3, 4, 1], [1, 1, 1, 1, 1, 1, 1]]",
        "[[1, 6, 6, 6, 6, 6, 6.0], [3, 3, 5, 3, 5, 5, 3], [1, 2, 2, 3, 3, 4, 1], [True] * 7]",
        "[" * 500,
        "9" * 5_000,
    ],
)
def test_malformed_encodings_are_refused_with_the_right_form(text, benchmark):
    for read in (SPACE.parse, benchmark.index, lambda t: SPACE.build(t, 3), lambda t: SPACE.topology([t], 3, 32)):
        with pytest.raises(HarnessError, match=r"is not an Accel-NASBench architecture .*: write it as seven"):
            read(text)


def test_architectures_trained_twice(benchmark):
    assert len(benchmark) == 5_138
    assert len(benchmark.population("unique")) == 5_125 == len(benchmark) - benchmark.card["repeated"]
    first = {}
    for place, architecture in enumerate(benchmark.architectures):
        first.setdefault(architecture, place)
        assert benchmark.representatives[place] == first[architecture]
    assert all(benchmark.index(a) == place for a, place in list(first.items())[::50])
    later = np.setdiff1d(np.arange(len(benchmark)), benchmark.population("unique"))
    top1 = benchmark.accuracies("imagenet").to_numpy()
    apart = np.abs(top1[later] - top1[benchmark.representatives[later]])
    assert 0 < apart.min() < apart.max() < 1.3


# Counts ---------------------------------------------------------------------------------------------------


def test_parameters_equal_the_stored_ones_in_all_rows(benchmark):
    counts = SPACE.topology(benchmark.architectures, 1000, 224)
    np.testing.assert_array_equal(counts["params"], benchmark.column("params"))


def test_multiply_accumulates_equal_the_stored_ones_in_all_rows(benchmark):
    """The authors' counter, thop, adds 4 an element that a BatchNorm reads, and what poolings add and divide."""
    extra = np.zeros(len(benchmark))
    for row, architecture in enumerate(benchmark.architectures):
        side, inputs = 112, STEM
        normed, pooled = STEM * side**2 + HEAD * 7**2, HEAD * (7**2 + 1)
        for block, outputs, stride in zip(decode(architecture), CHANNELS, STRIDES, strict=True):
            for layer in range(block.layers):
                hidden = inputs * block.expansion
                normed += hidden * side**2 if block.expansion > 1 else 0
                side = side // 2 if layer == 0 and stride == 2 else side
                normed += (hidden + outputs) * side**2
                pooled += hidden * (side**2 + 1) if block.squeeze else 0
                inputs = outputs
        extra[row] = 4 * normed + pooled
    counts = SPACE.topology(benchmark.architectures, 1000, 224)
    np.testing.assert_array_equal(counts["flops"] + extra, benchmark.column("macs"))


def test_published_parameters_of_efficientnet_b0():
    assert SPACE.topology([B0], 1000, 224)["params"][0] == 5_288_548  # torchvision's efficientnet_b0


@pytest.mark.parametrize(("classes", "resolution"), [(5, 33), (3, 64)])
def test_counts_equal_those_of_the_networks(benchmark, classes, resolution):
    architectures = [B0, PLAIN, *(benchmark.architectures[i] for i in (3, 2000, 4000))]
    counts = SPACE.topology(architectures, classes, resolution)
    for place, architecture in enumerate(architectures):
        network = SPACE.build(architecture, classes)
        found = {name: values[place] for name, values in counts.items()}
        subject = Subject(network, None, 0, (3, resolution, resolution), classes, torch.device("cpu"))
        assert Topology().run(subject, frozenset(found)) == found, architecture


def test_the_network_has_the_stored_parameters(benchmark):
    stored = benchmark.column("params")
    for place in (0, 1999, 3333, 5137):
        network = SPACE.build(benchmark.architectures[place], 1000)
        assert sum(p.numel() for p in network.parameters()) == stored[place]


def test_operations_by_hand():
    kinds, (number,) = SPACE.operations([PLAIN], 64)
    found = {kind: count for kind, count in zip(kinds, number, strict=True) if count}
    assert found == {
        Operation("convolution", 3, 32, 32): 1,  # e1k3l1
        Operation("convolution", 1, 16, 32): 1,  # e4k5l2, of stride 2
        Operation("convolution", 5, 64, 32): 1,
        Operation("convolution", 1, 24, 16): 1 + 1,  # its second layer, and the first of e6k3l3
        Operation("convolution", 5, 96, 16): 1,
        Operation("skip", 1, 24, 16, summed=True): 1,
        Operation("convolution", 3, 144, 16): 1,
        Operation("convolution", 1, 40, 8): 2 + 1,
        Operation("convolution", 3, 240, 8): 2,
        Operation("skip", 1, 40, 8, summed=True): 2,
        Operation("convolution", 5, 240, 8): 1,  # e6k5l1
        Operation("convolution", 1, 80, 4): 1,  # e4k3l2, of stride 1
        Operation("convolution", 3, 320, 4): 1,
        Operation("convolution", 1, 112, 4): 1,
        Operation("convolution", 3, 448, 4): 1,
        Operation("skip", 1, 112, 4, summed=True): 1,
        Operation("convolution", 3, 112, 4): 1,  # e1k3l4
        Operation("convolution", 3, 192, 2): 3,
        Operation("skip", 1, 192, 2, summed=True): 3,
        Operation("convolution", 1, 192, 2): 1,  # e6k3l1
        Operation("convolution", 3, 1152, 2): 1,
    }


# The network ----------------------------------------------------------------------------------------------


def test_a_layer_by_hand():
    x = torch.randn(2, 8, 6, 6)
    layer = Layer(Block(4, 3, 1, True), 8, 8, 1).eval()
    expand, depthwise, gate, project = layer.convs
    value = depthwise(expand(x))
    weights = torch.sigmoid(gate.gate[3](torch.relu(gate.gate[1](value.mean(dim=(2, 3), keepdim=True)))))
    torch.testing.assert_close(layer(x), project(value * weights) + x)
    assert gate.gate[1].out_channels == 2  # a quarter of the layer's inputs
    assert depthwise[0].groups == 32
    assert len(Layer(Block(1, 5, 1, False), 8, 8, 1).convs) == 2
    for shape in ((8, 9, 1), (8, 8, 2)):
        other = Layer(Block(4, 5, 1, False), *shape).eval()
        torch.testing.assert_close(other(x), other.convs(x))


def test_gates_lie_between_zero_and_one():
    module = SqueezeExcitation(4, 2)
    x = torch.rand(3, 4, 5, 5) + 0.1
    assert ((module(x) > 0) & (module(x) < x)).all()


def test_feature_maps_of_the_stages():
    network = SPACE.build(PLAIN, 10).eval()
    shapes = []
    for stage in network.stages:
        stage.register_forward_hook(lambda module, args, output: shapes.append(tuple(output.shape[1:3])))
    with torch.no_grad():
        network(torch.zeros(1, 3, 64, 64))
    expected = [(32, 32), (16, 32), *[(24, 16)] * 2, *[(40, 8)] * 3, (80, 4), *[(112, 4)] * 2]
    assert shapes == expected + [(192, 2)] * 4 + [(320, 2)]
    assert [place.side_out for place in places(3, 64)] == [4, 4, 4]


def test_thin_network():
    network = SPACE.build(B0, 10, thin=True)
    assert network.stem[0].out_channels == 4
    assert network.classifier.in_features == 160
    assert len(network.layers) == 16
    subject = Subject(network, None, 0, (3, 32, 32), 10, torch.device("cpu"))
    assert 1 <= LinearRegions(samples=50).run(subject, frozenset({"regions"}))["regions"] <= 50
