"""NAS-Bench-101's network beside nasbench-pytorch's, another translation of the benchmark's TensorFlow code.

At equal weights the two compute the same, in train and in eval mode, and train the same weights. nasbench-pytorch 1.3.1
differs from google-research/nasbench (`lib/base_ops.py`, `lib/model_builder.py`) in what follows, of which each but the
last is tested below. On the first three, the network here does as the benchmark does, but for the momentum: it
keeps torch's 0.1, which no value at initialisation depends on.

1. Parameters that nothing reads: each vertex without an edge from the input, and two more places of every cell, hold a
   `Placeholder` with a random scalar `a`; each cell has an empty `dev_param`. An optimiser decays the scalars, and a
   count of parameters is too high by their number.
2. Odd maps: the 2x2 pooling between stacks drops the last row and column, where TensorFlow's `same` padding keeps
   them. At the benchmark's 32 pixels no map is odd.
3. Momentum of BatchNorm: 0.997 is what TensorFlow keeps of the running statistics. Stem and projections hand the
   number on to torch, where it is the share of the new batch (0.003 would be meant), and the operations of the
   vertices are not given it at all and have torch's 0.1. Epsilon is 1e-5 everywhere, as in the benchmark.
4. Initial weights: a normal distribution of variance 2 / (k k outputs) for convolutions and of deviation 0.01 for the
   linear layer; the benchmark draws from a truncated normal distribution of variance 1 / (k k inputs) and by Glorot's
   uniform rule. `tf_like=True` comes near (variance 1 / (k k inputs), not truncated; Glorot). Here they are torch's,
   before a proxy's own recipe.
5. Its trainer, which nothing here uses: gradients are clipped at norm 5, the learning rate falls by epoch and not by
   step, and RMSprop is torch's, with the epsilon of 1 outside the root.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from harness.benchmark import Benchmark, load_benchmark
from harness.spaces.nasbench101 import CHANNELS, OPERATIONS, NasBench101, decode, edges_of, vertex_channels
from harness.spaces.nasbench101.network import Cell, Network

reference = pytest.importorskip("nasbench_pytorch.model", reason="needs nasbench-pytorch, of the extra `import`")

CELLS, SIDE, CLASSES = 20, 8, 10
OWN_MOMENTUM = 0.1


@pytest.fixture(scope="module")
def benchmark() -> Benchmark:
    return load_benchmark("nasbench101")


@pytest.fixture(scope="module")
def rows(benchmark) -> list[int]:
    return np.random.RandomState(101).permutation(len(benchmark))[:CELLS].tolist()


def matrix_and_operations(cell: str) -> tuple[list[list[int]], list[str]]:
    """The official adjacency matrix and operations of a cell's text, read off it without the package's help."""
    vertices, rows, names = cell.split("|")
    matrix = [[0] * (int(vertices) - len(row)) + list(map(int, row)) for row in (*rows.split("/"), "")]
    return matrix, ["input", *(names.split(",") if names else []), "output"]


def theirs(cell: str, **settings) -> nn.Module:
    return reference.Network(matrix_and_operations(cell), CLASSES, **settings)


def matched(ours: Network, other: nn.Module) -> list[tuple[nn.Module, nn.Module]]:
    """Pairs of what has weights: stem, the convolutions of each cell with their BatchNorms, linear layer."""
    pairs: list[tuple[nn.Module, nn.Module]] = [(ours.stem, other.layers[0].conv_bn_relu)]
    own_cells = [layer for layer in ours.layers if isinstance(layer, Cell)]
    for own, cell in zip(own_cells, [other.layers[i] for i in sorted(other.cell_indices)], strict=True):
        for vertex, projection in own.projections.items():
            place = -1 if vertex == "output" else int(vertex)
            pairs.append((projection, cell.input_op[place].conv_bn_relu))
        for vertex, operation in own.operations.items():
            if not isinstance(operation, nn.MaxPool2d):
                (convolution,) = cell.vertex_op[int(vertex)].children()
                pairs.append((operation, convolution.conv_bn_relu))
    return [*pairs, (ours.classifier, other.classifier)]


def with_equal_weights(cell: str, **settings) -> tuple[Network, nn.Module]:
    """Both networks, of random weights and BatchNorms, all of ours taken from theirs."""
    torch.manual_seed(1)
    ours, other = NasBench101().build(cell, CLASSES), theirs(cell, **settings)
    with torch.no_grad():
        for module in other.modules():
            if isinstance(module, nn.BatchNorm2d):
                for values in (module.weight, module.running_var):
                    values.uniform_(0.5, 1.5)
                for values in (module.bias, module.running_mean):
                    values.normal_(std=0.2)
        other.classifier.weight.normal_()
        other.classifier.bias.normal_()
    pairs = matched(ours, other)
    for own, module in pairs:
        own.load_state_dict(module.state_dict())
    reached = {id(p) for own, _ in pairs for p in own.parameters()}
    assert reached == {id(p) for p in ours.parameters()}
    return ours, other


def unread(cell: nn.Module) -> list[nn.Parameter]:
    """The parameters of one of their cells that no operation reads."""
    return [cell.dev_param, *(m.a for m in cell.modules() if type(m).__name__ == "Placeholder")]


def test_the_cells_have_all_that_a_cell_may_have(benchmark, rows):
    graphs = [decode(benchmark.architectures[row]) for row in rows]
    assert {code for graph in graphs for code in graph.operations} == set(range(len(OPERATIONS)))
    edges = edges_of(np.array([graph.vertices for graph in graphs]), np.array([graph.bits for graph in graphs]))
    assert set(edges[:, 0, -1]) == {False, True}  # with and without a projection of the input onto the output
    widths = vertex_channels(edges, CHANNELS[0])
    one_more = (widths[:, :, None] == widths[:, None, :] + 1) & (widths[:, None, :] > 0)
    assert (one_more & edges[:, 1:-1, 1:-1]).any()  # an uneven split, of which an edge drops a channel


@pytest.mark.parametrize("place", range(CELLS))
def test_outputs_are_equal_at_equal_weights(benchmark, rows, place):
    cell = benchmark.architectures[rows[place]]
    ours, other = with_equal_weights(cell, momentum=OWN_MOMENTUM)
    images = torch.randn(4, 3, SIDE, SIDE)
    with torch.no_grad():
        for mode in (False, True, False):  # the last with running statistics that the pass in train mode moved
            expected = other.train(mode)(images)
            assert expected.std() > 0.1
            torch.testing.assert_close(ours.train(mode)(images), expected, rtol=1e-5, atol=1e-5)
    for own, module in matched(ours, other):
        for (name, value), moved in zip(own.named_buffers(), module.buffers(), strict=True):
            torch.testing.assert_close(value, moved, msg=lambda text, name=name: f"{cell} {name}: {text}")


@pytest.mark.parametrize("place", range(CELLS))
def test_trained_parameters_are_equal_but_for_those_that_nothing_reads(benchmark, rows, place):
    cell = benchmark.architectures[rows[place]]
    ours, other = NasBench101().build(cell, CLASSES), theirs(cell)
    shapes = [[tuple(p.shape) for pair in matched(ours, other) for p in pair[side].parameters()] for side in (0, 1)]
    assert shapes[0] == shapes[1]
    cells = [other.layers[i] for i in sorted(other.cell_indices)]
    idle = {id(p) for module in cells for p in unread(module)}
    trained = [p for p in other.parameters() if id(p) not in idle]
    assert len(trained) == len(list(ours.parameters()))
    stored = int(benchmark.column("params")[rows[place]])
    assert sum(p.numel() for p in trained) == sum(p.numel() for p in ours.parameters()) == stored
    # The first deviation: a scalar for the input, one for its projection, one for each vertex that it does not feed.
    matrix, _ = matrix_and_operations(cell)
    scalars = len(cells) * (2 + matrix[0][1:].count(0))
    assert sum(p.numel() for p in other.parameters()) == stored + scalars


def test_no_gradient_reaches_the_parameters_that_nothing_reads(benchmark, rows):
    _, other = with_equal_weights(benchmark.architectures[rows[0]])
    other(torch.randn(2, 3, 8, 8)).sum().backward()
    idle = [id(p) for i in other.cell_indices for p in unread(other.layers[i])]
    assert {id(p) for p in other.parameters() if p.grad is None} == set(idle)


def test_they_drop_the_last_row_and_column_of_odd_maps(benchmark, rows):
    ours, other = with_equal_weights(benchmark.architectures[rows[0]])
    images = torch.randn(2, 3, 12, 12)  # of sides 12, 6, 3: no odd one is halved
    odd = torch.nn.functional.pad(images, (0, 1, 0, 1))
    with torch.no_grad():
        torch.testing.assert_close(ours.eval()(images), other.eval()(images), rtol=1e-5, atol=1e-5)
        assert not torch.allclose(ours(odd), other(odd), rtol=1e-2, atol=1e-2)
    pools = [[m for m in layers if isinstance(m, nn.MaxPool2d)] for layers in (ours.layers, other.layers)]
    for own, pool in zip(*pools, strict=True):
        assert (own(torch.zeros(1, 1, 13, 13)).shape[-1], pool(torch.zeros(1, 1, 13, 13)).shape[-1]) == (7, 6)


def test_their_momentum_is_not_that_of_the_benchmark(benchmark, rows):
    ours, other = with_equal_weights(benchmark.architectures[rows[0]])
    assert {m.eps for net in (ours, other) for m in net.modules() if isinstance(m, nn.BatchNorm2d)} == {1e-5}
    momenta = {True: set(), False: set()}
    for name, module in other.named_modules():
        if isinstance(module, nn.BatchNorm2d):
            momenta["vertex_op" in name].add(module.momentum)
    assert momenta == {True: {0.1}, False: {0.997}}
    assert {m.momentum for m in ours.modules() if isinstance(m, nn.BatchNorm2d)} == {OWN_MOMENTUM}


def test_their_initial_weights_are_not_those_of_the_benchmark(benchmark, rows):
    torch.manual_seed(2)
    cell = "3|10/1|conv3x3-bn-relu"
    for settings, fan in (({}, "out"), ({"tf_like": True}, "in")):
        other = theirs(cell, **settings)
        convolutions = [m for m in other.modules() if isinstance(m, nn.Conv2d) and m.in_channels != m.out_channels]
        assert {m.in_channels for m in convolutions} >= {3, CHANNELS[0], CHANNELS[1]}
        for m in convolutions:
            variance = 2 / (m.kernel_size[0] ** 2 * m.out_channels) if fan == "out" else 1 / m.weight[0].numel()
            assert m.weight.std().item() == pytest.approx(math.sqrt(variance), rel=0.1)
        bound = math.sqrt(6 / (CHANNELS[-1] + CLASSES))
        uniform = (
            other.classifier.weight.abs().max().item() <= bound and other.classifier.weight.std().item() > bound / 2
        )
        assert uniform == bool(settings)
