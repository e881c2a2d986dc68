"""Tests of TransNAS-Bench-101's two spaces: encodings, counts, canonical forms and the network."""

from __future__ import annotations

import itertools
from collections import defaultdict

import numpy as np
import pytest
import torch
from torch import nn

from harness.benchmarks.benchmark import load_benchmark
from harness.errors import HarnessError
from harness.probes.base import Subject
from harness.probes.gaussian import LinearRegions
from harness.probes.topology import Topology
from harness.spaces.base import Operation
from harness.spaces.transnas101 import TransNas101Macro, TransNas101Micro, decode_cell, decode_modules
from harness.spaces.transnas101.decoders import generative, segmentation
from harness.spaces.transnas101.network import BasicBlock, Cell

MICRO, MACRO = TransNas101Micro(), TransNas101Macro()
TASKS = ("class_scene", "class_object", "room_layout", "jigsaw", "segmentsemantic", "normal", "autoencoder")


def cell(text: str) -> str:
    return f"64-41414-{text}"


def check_counts(space, architecture: str, classes: int, resolution: int) -> tuple[float, float]:
    """Compares the formula with the network; parameters that are counted, and that there are."""
    counts = {name: value[0] for name, value in space.topology([architecture], classes, resolution).items()}
    network = space.build(architecture, classes)
    subject = Subject(network, None, 0, (3, resolution, resolution), classes, torch.device("cpu"))
    assert Topology().run(subject, frozenset(counts)) == counts, architecture
    return counts["params"], sum(p.numel() for p in network.parameters())


# Encodings ------------------------------------------------------------------------------------------------


def test_the_benchmarks_hold_every_architecture_but_one():
    digits = ["".join(text) for text in itertools.product("0123", repeat=6)]
    assert load_benchmark("transnas101_micro").architectures == [cell(f"{d[0]}_{d[1:3]}_{d[3:]}") for d in digits]
    stacks = MACRO.enumerate_stacks()
    assert len(stacks) == 3_256
    assert set(stacks) - set(load_benchmark("transnas101_macro").architectures) == {"64-113444-basic"}
    with pytest.raises(HarnessError, match="is none of the 3,255 architectures of transnas101_macro"):
        load_benchmark("transnas101_macro").index("64-113444-basic")


def test_codes_of_the_release_s_examples():
    assert decode_cell("64-41414-1_02_333") == (1, 0, 2, 3, 3, 3)
    assert decode_modules("64-1234-basic") == "1234"


@pytest.mark.parametrize(
    "text", ["", "1_02_333", "64-41414-1_02_33", "64-41414-1_02_334", "64-4141-1_02_333", "64-1234-basic"]
)
def test_malformed_cells_are_refused_with_the_right_form(text):
    for read in (MICRO.parse, MICRO.canonical, lambda t: MICRO.build(t, 3), lambda t: MICRO.topology([t], 3, 64)):
        with pytest.raises(HarnessError, match="is not a TransNAS-Bench-101 micro architecture: write it as 64-41414"):
            read(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "1234",
        "64-1234-1_02_333",
        "32-1234-basic",
        "64-124-basic",  # three modules
        "64-1111234-basic",  # seven
        "64-1133-basic",  # no channel doubled
        "64-1122-basic",  # no side halved
        "64-2224-basic",  # doubled four times
        "64-333343-basic",  # halved six times
        "64-1235-basic",
    ],
)
def test_malformed_stacks_are_refused_with_the_right_form(text):
    for read in (MACRO.parse, MACRO.canonical, lambda t: MACRO.build(t, 3), lambda t: MACRO.topology([t], 3, 64)):
        with pytest.raises(HarnessError, match="is not a TransNAS-Bench-101 macro architecture: write it as 64-MOD"):
            read(text)


# Figures --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["transnas101_micro", "transnas101_macro"])
def test_seven_tasks(name):
    benchmark = load_benchmark(name)
    assert tuple(benchmark.datasets) == TASKS
    for task in TASKS:
        figures = benchmark.accuracies(task)
        assert figures.notna().all()
        assert (figures.max() < 0) == (task == "room_layout")
        assert (0 < figures.max() < 1) == (task in ("normal", "autoencoder"))
        assert (task in benchmark.card["units"]) == (task in ("room_layout", "normal", "autoencoder"))


def test_cells_without_a_way_to_the_output_have_the_figures_of_a_constant():
    benchmark = load_benchmark("transnas101_micro")
    scores = benchmark.accuracies("segmentsemantic")
    architectures = benchmark.architectures
    dead = [
        place
        for place, a in enumerate(architectures)
        if not any(all(decode_cell(a)[e] for e in path) for path in ((3,), (0, 4), (1, 5), (0, 2, 5)))
    ]
    assert len(dead) == 169
    assert set(scores[dead]) == {scores.min()}
    counts = MICRO.topology([architectures[i] for i in dead], 17, 64)
    # What a gradient reaches of a constant is the head, and what the last cell does with zeros.
    assert counts["params"].min() == 513 * 17


# Counts ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("classes", "resolution"), [(47, 32), (3, 9)])
def test_counts_of_cells(classes, resolution):
    rng = np.random.RandomState(resolution)
    drawn = ["".join(map(str, rng.randint(4, size=6))) for _ in range(6)]
    drawn += ["000000", "111111", "333333", "003000", "300001", "020010", "303002"]
    dead = 0
    for digits in drawn:
        counted, held = check_counts(MICRO, cell(f"{digits[0]}_{digits[1:3]}_{digits[3:]}"), classes, resolution)
        dead += counted < held
    assert 0 < dead < len(drawn)


@pytest.mark.parametrize(
    ("architecture", "resolution"),
    [("64-1234-basic", 32), ("64-3334-basic", 17), ("64-233331-basic", 16), ("64-111114-basic", 9)],
)
def test_counts_of_stacks(architecture, resolution):
    counted, held = check_counts(MACRO, architecture, 5, resolution)
    assert counted == held


def test_parameters_by_hand():
    # Stem 3 -> 32 -> 64, one 3x3 convolution in each of ten cells, the head.
    widths = [(64, 128), (128, 128), (128, 128), (128, 128), (128, 256), (256, 256), (256, 256), (256, 256)]
    widths += [(256, 512), (512, 512)]
    expected = 27 * 32 + 64 + 9 * 32 * 64 + 128 + sum(9 * a * b + 2 * b for a, b in widths) + 513 * 10
    assert MICRO.topology([cell("0_00_300")], 10, 64)["params"][0] == expected
    # Two residual blocks of four modules; the shortcuts of modules 2, 3 and 4 have weights.
    blocks = [(64, 64), (64, 64), (64, 128), (128, 128), (128, 128), (128, 128), (128, 256), (256, 256)]
    expected = 27 * 32 + 64 + 9 * 32 * 64 + 128 + 257 * 10
    expected += sum(9 * (a + b) * b + 4 * b for a, b in blocks)
    expected += sum(a * b + 2 * b for a, b in ((64, 128), (128, 128), (128, 256)))
    assert MACRO.topology(["64-1234-basic"], 10, 64)["params"][0] == expected


def test_operations_by_hand():
    kinds, (number,) = MICRO.operations([cell("1_02_310")], 64)
    found = {kind: count for kind, count in zip(kinds, number, strict=True) if count}
    # Edges: skip 0 -> 1, 1x1 1 -> 2, 3x3 0 -> 3, skip 1 -> 3, which is summed with the 3x3.
    expected: dict[Operation, int] = defaultdict(int)
    channels, side = 64, 16
    for module in "41414":
        outputs, side_out = (2 * channels, side // 2) if module == "4" else (channels, side)
        for inputs, reads, strided in ((channels, side, module == "4"), (outputs, side_out, False)):
            expected[Operation("convolution", 3, inputs, reads)] += 1
            expected[Operation("convolution", 1, outputs, side_out)] += 1
            expected[Operation("convolution" if strided else "skip", 1, inputs, reads)] += 1
            expected[Operation("skip", 1, outputs, side_out, summed=True)] += 1
        channels, side = outputs, side_out
    assert found == expected

    kinds, numbers = MACRO.operations(["64-1234-basic", "64-1114-basic"], 64)
    found = {kind: count for kind, count in zip(kinds, numbers[0], strict=True) if count}
    assert found == {
        Operation("convolution", 3, 64, 16): 4 + 1,
        Operation("skip", 1, 64, 16, summed=True): 2,
        Operation("convolution", 1, 64, 16): 1,
        Operation("convolution", 3, 128, 16): 3 + 1,
        Operation("skip", 1, 128, 16, summed=True): 1,
        Operation("convolution", 1, 128, 16): 1,
        Operation("convolution", 3, 128, 8): 3 + 1,
        Operation("skip", 1, 128, 8, summed=True): 1,
        Operation("convolution", 1, 128, 8): 1,
        Operation("convolution", 3, 256, 4): 3,
        Operation("skip", 1, 256, 4, summed=True): 1,
    }


#: Parameters in millions as NAS-Bench-Suite-Zero's tables have them (automl/NASLib, naslib/data): of a network that
#: makes normals or reconstructs, and of one that makes segments.
WITH_DECODERS = {
    "64-41414-2_32_323": (45.212499, 33.364817),
    "64-41414-0_22_322": (32.272211, 20.424529),
    "64-41414-3_33_300": (48.937811, 37.090129),
    "64-231341-basic": (27.324499, 15.476817),
    "64-132231-basic": (28.246227, 16.398545),
    "64-33211-basic": (21.364051, 9.516369),
    "64-113344-basic": (23.757651, 11.909969),
}


@pytest.mark.parametrize("architecture", WITH_DECODERS)
def test_parameters_of_networks_with_decoders(architecture):
    space = MICRO if "41414" in architecture else MACRO
    for head, classes, place in (("normals", 3, 0), ("reconstruction", 3, 0), ("segmentation", 17, 1)):
        found = space.ending_in(head).topology([architecture], classes, 64)["all_params"][0]
        assert found == round(WITH_DECODERS[architecture][place] * 1e6)


@pytest.mark.parametrize("head", ["segmentation", "normals", "reconstruction"])
@pytest.mark.parametrize(
    ("space", "architecture"),
    [(MICRO, cell("1_02_310")), (MACRO, "64-1114-basic"), (MACRO, "64-1134-basic"), (MACRO, "64-33342-basic")],
)
def test_a_decoder_makes_an_image_of_the_side_that_was_read(space, architecture, head):
    """At stem and one to four halvings; counts, and each of several in one call."""
    ending = space.ending_in(head)
    for side in (64, 128):
        check_counts(ending, architecture, 5, side)
    network = ending.build(architecture, 5)
    assert network(torch.zeros(2, 3, 64, 64)).shape == (2, 5, 64, 64)
    assert isinstance(network.decoder[-1], nn.Tanh) == (head != "segmentation")
    assert space.head == "linear"
    assert ending.ending_in("linear").build(architecture, 5)(torch.zeros(2, 3, 64, 64)).shape == (2, 5)


def test_counts_of_several_stacks_with_decoders_are_those_of_each():
    space = MACRO.ending_in("segmentation")
    stacks = ["64-1114-basic", "64-1134-basic", "64-33342-basic", "64-222333-basic"]
    together = space.topology(stacks, 17, 64)
    for place, stack in enumerate(stacks):
        alone = space.topology([stack], 17, 64)
        assert {name: value[place] for name, value in together.items()} == {n: v[0] for n, v in alone.items()}


def test_layers_of_the_decoders():
    assert [step[:2] for step in segmentation(512, 5, 17)] == [
        (512, 1024), (1024, 512), (512, 256), (256, 128), (128, 64), (64, 32), (32, 32), (32, 17),
    ]  # fmt: skip
    # What doubles the side, by how often the encoder has halved it.
    for doublings, places in {3: [4, 5, 6], 4: [3, 4, 5, 6], 5: [2, 3, 4, 5, 6], 6: [1, 2, 3, 4, 5, 6]}.items():
        assert [i for i, step in enumerate(segmentation(128, doublings, 17)) if step.doubles] == places
    for doublings, places in {3: [8, 10, 12], 4: [6, 8, 10, 12], 5: [4, 6, 8, 10, 12], 6: [2, 4, 6, 8, 10, 12]}.items():
        assert [i for i, step in enumerate(generative(128, doublings, 3)) if step.doubles] == places


def test_a_space_without_decoders_says_so():
    with pytest.raises(HarnessError, match="networks of space nasbench201 end in linear, regression, not in 'normals'"):
        load_benchmark("nasbench201").space.ending_in("normals")


# Canonical forms ------------------------------------------------------------------------------------------


def test_numbers_of_unique_members():
    benchmark = load_benchmark("transnas101_micro")
    assert len(benchmark.population("unique")) == 1_666
    assert len(np.unique(benchmark.representatives)) == 2_296
    assert len(load_benchmark("transnas101_macro").population("unique")) == 3_255


ONE_CLASS = [
    ("3_00_010", "0_30_001"),  # a convolution, and a copy of it
    ("3_01_001", "3_00_010"),  # a copy of a copy
    ("1_00_010", "0_00_100"),  # a skip, which has weights where the stride is 2, and a copy of it
    ("2_00_300", "0_00_300"),  # what the output does not read
    ("0_00_210", "0_00_200"),  # a copy of nothing
]


@pytest.mark.parametrize(("left", "right"), ONE_CLASS)
def test_cells_of_one_class(left, right):
    left, right = cell(left), cell(right)
    assert MICRO.canonical(left) == MICRO.canonical(right)
    torch.manual_seed(0)
    images = torch.randn(2, 3, 32, 32)
    one, two = (MICRO.build(text, 3, thin=True).eval() for text in (left, right))
    one(images).sum().backward()
    reached = [p for p in one.parameters() if p.grad is not None]
    assert (len(reached) == len(list(one.parameters()))) == (MICRO.network_key(left) == MICRO.network_key(right))
    with torch.no_grad():
        for source, target in zip(reached, two.parameters(), strict=True):
            target.copy_(source)
    torch.testing.assert_close(one(images), two(images))


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ("1_02_001", "0_20_001"),  # a skip of the input has weights where the stride is 2
        ("3_00_030", "0_00_300"),
        ("0_00_220", "0_00_200"),  # a convolution of nothing adds the constant of its BatchNorm
        ("1_00_100", "1_00_110"),
    ],
)
def test_cells_of_two_classes(left, right):
    assert MICRO.canonical(cell(left)) != MICRO.canonical(cell(right))


# The network ----------------------------------------------------------------------------------------------


def test_a_cell_by_hand():
    torch.manual_seed(0)
    module = Cell((1, 0, 2, 3, 1, 1), 4, 4, 1).eval()
    x = torch.randn(2, 4, 6, 6)
    node1 = x
    node2 = module.edges["1_2"](node1)
    torch.testing.assert_close(module(x), module.edges["0_3"](x) + node1 + node2)
    assert set(module.edges) == {"1_2", "0_3"}
    strided = Cell((1, 0, 2, 3, 1, 1), 4, 8, 2).eval()
    assert set(strided.edges) == {"0_1", "1_2", "0_3"}
    node1 = strided.edges["0_1"](x)
    torch.testing.assert_close(strided(x), strided.edges["0_3"](x) + node1 + strided.edges["1_2"](node1))


def test_a_cell_of_nothing_gives_zeros():
    x = torch.randn(2, 4, 5, 5)
    assert torch.equal(Cell((0,) * 6, 4, 8, 2)(x), torch.zeros(2, 8, 3, 3))
    starved = Cell((0, 0, 0, 0, 0, 2), 4, 8, 2).eval()
    assert starved(x).shape == (2, 8, 3, 3)


def test_a_residual_block_by_hand():
    x = torch.randn(2, 4, 6, 6)
    plain = BasicBlock(4, 4, 1).eval()
    torch.testing.assert_close(plain(x), x + plain.conv_b(plain.conv_a(x)))
    for shape in ((4, 8, 1), (4, 4, 2), (4, 8, 2)):
        block = BasicBlock(*shape).eval()
        assert [type(module) for module in block.shortcut] == [nn.Conv2d, nn.BatchNorm2d]
        torch.testing.assert_close(block(x), block.shortcut(x) + block.conv_b(block.conv_a(x)))
        residual, (convolution, norm) = block.conv_b(block.conv_a(x)), block.shortcut.train()
        maps = convolution(x)
        variance, mean = torch.var_mean(maps, (0, 2, 3), correction=0, keepdim=True)
        torch.testing.assert_close(block(x), residual + (maps - mean) / (variance + 1).sqrt())  # as trained: eps is 1
        torch.testing.assert_close(norm.running_mean, mean.flatten())  # and momentum


@pytest.mark.parametrize(
    ("space", "architecture", "shapes"),
    [
        (MICRO, cell("1_02_333"), [(64, 16)] + [(128, 8)] * 4 + [(256, 4)] * 4 + [(512, 2)] * 2),
        (MACRO, "64-1234-basic", [(64, 16)] * 3 + [(128, 16)] * 2 + [(128, 8)] * 2 + [(256, 4)] * 2),
    ],
)
def test_feature_maps_of_the_stages(space, architecture, shapes):
    network = space.build(architecture, 10).eval()
    found = []
    for stage in network.stages:
        stage.register_forward_hook(lambda module, args, output: found.append(tuple(output.shape[1:3])))
    with torch.no_grad():
        network(torch.zeros(1, 3, 64, 64))
    assert found == shapes


@pytest.mark.parametrize(("space", "architecture"), [(MICRO, cell("1_02_333")), (MACRO, "64-1234-basic")])
def test_thin_network(space, architecture):
    network = space.build(architecture, 10, thin=True)
    assert network.stem[0].out_channels == 1
    assert len(network.blocks) == len(architecture.split("-")[1])
    subject = Subject(network, None, 0, (3, 64, 64), 10, torch.device("cpu"))
    assert 1 <= LinearRegions(samples=50).run(subject, frozenset({"regions"}))["regions"] <= 50
