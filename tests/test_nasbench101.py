"""Tests of the NAS-Bench-101 space: encodings, hashes, enumeration, counts and the network."""

from __future__ import annotations

import itertools

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from scipy import stats
from torch import nn

from harness import cli
from harness.benchmarks import enumeration
from harness.benchmarks.benchmark import Benchmark, load_benchmark
from harness.benchmarks.enumeration import Match, match_nasbench101
from harness.engine.scorer import Job, Scorer
from harness.errors import HarnessError
from harness.probes.base import Subject
from harness.probes.topology import Topology
from harness.spaces.base import Operation
from harness.spaces.nasbench101 import (
    CONV1,
    CONV3,
    OPERATIONS,
    POOL,
    Cells,
    Graph,
    NasBench101,
    decode,
    edges_of,
    encode,
    enumerate_cells,
    module_hash,
    vertex_channels,
)
from harness.spaces.nasbench101.network import Cell

SPACE = NasBench101()
DIRECT = "2|1|"
CHAIN = "3|10/1|conv3x3-bn-relu"
# The example of the official README.
INCEPTION = (
    "[[0,1,1,1,0,1,0],[0,0,0,0,0,0,1],[0,0,0,0,0,0,1],[0,0,0,0,1,0,0],[0,0,0,0,0,0,1],[0,0,0,0,0,0,1],[0,0,0,0,0,0,0]];"
    "[input,conv1x1-bn-relu,conv3x3-bn-relu,conv3x3-bn-relu,conv3x3-bn-relu,maxpool3x3,output]"
)


@pytest.fixture(scope="module")
def benchmark() -> Benchmark:
    return load_benchmark("nasbench101")


@pytest.fixture(scope="module")
def table(benchmark) -> dict[str, np.ndarray]:
    columns = pq.read_table(benchmark.folder / "accuracies.parquet", columns=["hash", "num_vertices", "params"])
    return {name: columns[name].to_numpy() for name in columns.column_names}


@pytest.fixture(scope="module")
def counts(benchmark) -> dict[str, np.ndarray]:
    """The counts of all cells, for ten classes and images of 32 x 32."""
    return SPACE.topology(benchmark.architectures, 10, 32)


def places(benchmark: Benchmark, n: int, seed: int) -> list[int]:
    return np.random.RandomState(seed).randint(len(benchmark), size=n).tolist()


def sample_cells(benchmark: Benchmark, n: int, seed: int) -> list[str]:
    return [benchmark.architectures[i] for i in places(benchmark, n, seed)]


def official(text: str) -> tuple[list[list[int]], list[str]]:
    """The official matrix and operations of an encoding, read off it without the package's help."""
    vertices, rows, names = text.split("|")
    matrix = [[0] * (int(vertices) - len(row)) + list(map(int, row)) for row in (*rows.split("/"), "")]
    return matrix, ["input", *(names.split(",") if names else []), "output"]


def as_text(matrix: list[list[int]], names: list[str]) -> str:
    return f"{matrix};[{','.join(names)}]"


# Encodings ------------------------------------------------------------------------------------------------


def test_the_documented_example():
    graph = decode("4|110/01/1|conv3x3-bn-relu,maxpool3x3")
    assert graph == Graph(4, 0b110011, (CONV3, POOL))  # 0 -> 1, 0 -> 2, 1 -> 3, 2 -> 3 are bits 0, 1, 4, 5
    matrix, names = official("4|110/01/1|conv3x3-bn-relu,maxpool3x3")
    assert matrix == [[0, 1, 1, 0], [0, 0, 0, 1], [0, 0, 0, 1], [0, 0, 0, 0]]
    assert decode(SPACE.parse(as_text(matrix, names))) == graph


def test_round_trip_of_both_forms(benchmark):
    for cell in [DIRECT, CHAIN, *sample_cells(benchmark, 300, seed=0)]:
        assert encode(decode(cell)) == cell
        assert SPACE.parse(f"  {cell}\n") == cell
        matrix, names = official(cell)
        assert SPACE.parse(as_text(matrix, names)) == cell
        assert SPACE.parse(f"{matrix}, {names}") == cell  # as Python prints them
        assert decode(cell).bits == sum(
            matrix[x][y] << (x + y * (y - 1) // 2) for y in range(len(matrix)) for x in range(y)
        )


def test_extraneous_vertices_are_dropped():
    conv, pool = OPERATIONS[CONV3], OPERATIONS[POOL]
    # Vertex 2 leads nowhere, and vertex 3 has no source.
    assert SPACE.parse(f"5|1100/001/00/1|{conv},{pool},{pool}") == CHAIN
    matrix = [[0, 0, 1, 0], [0, 0, 1, 0], [0, 0, 0, 1], [0, 0, 0, 0]]
    assert SPACE.parse(as_text(matrix, ["input", pool, conv, "output"])) == CHAIN
    # Limits hold for what remains.
    wide = [[0] * 9 for _ in range(9)]
    wide[0][1:8], wide[7][8] = [1] * 7, 1
    assert SPACE.parse(as_text(wide, ["input", *[conv] * 7, "output"])) == CHAIN
    with pytest.raises(HarnessError, match=r"is NAS-Bench-101's cell '3\|10/1\|conv3x3-bn-relu': write it so"):
        decode(f"4|110/01/0|{conv},{pool}")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "its form is unknown"),
        ("nonsense", "its form is unknown"),
        ("__import__('os')", "its form is unknown"),
        ("३|10/1|conv3x3-bn-relu", "its form is unknown"),
        ("4|10/1|conv3x3-bn-relu", "its rows are not those of 4 vertices"),
        ("3|10|conv3x3-bn-relu", "its rows are not those of 3 vertices"),
        ("1||", "its rows are not those of 1 vertices"),
        ("3|10/1|", "0 operations for 1 inner vertices"),
        ("3|10/1|maxpool3x3,maxpool3x3", "2 operations for 1 inner vertices"),
        ("3|10/1|conv5x5-bn-relu", "unknown operation 'conv5x5-bn-relu'"),
        ("3|10/1|input", "unknown operation 'input'"),
        ("2|0|", "its output is not connected to its input"),
        ("3|10/0|maxpool3x3", "its output is not connected to its input"),
        ("[[0,1],[0,0]]", "its form is unknown"),
        ("[[0,1],[0]];[input,output]", "its matrix is not square"),
        ("[[0]];[input]", "its matrix is not square"),
        ("[[0,2],[0,0]];[input,output]", "its matrix has entries other than 0 and 1"),
        ("[[0,1],[0,os]];[input,output]", "its matrix has entries other than 0 and 1"),
        ("[[0,1],[1,0]];[input,output]", "its matrix is not upper triangular"),
        ("[[1,1],[0,0]];[input,output]", "its matrix is not upper triangular"),
        ("[[0,1],[0,0]];[input,maxpool3x3,output]", "3 operations, input and output among them, for 2 vertices"),
        ("[[0,1],[0,0]];[output,input]", "its operations do not begin with input and end with output"),
        (f"8|1000000/100000/10000/1000/100/10/1|{','.join(['maxpool3x3'] * 6)}", "8 vertices lie between"),
        (f"5|1111/111/11/1|{','.join(['maxpool3x3'] * 3)}", "10 edges lead from input to output"),
    ],
)
def test_malformed_cells_are_refused_with_the_reason(text, reason):
    calls = (SPACE.parse, SPACE.canonical, lambda t: SPACE.build(t, 10), lambda t: SPACE.topology([t], 10, 32))
    for read in calls:
        with pytest.raises(HarnessError) as caught:
            read(text)
        assert str(caught.value).startswith(f"{text!r} is not a NAS-Bench-101 cell: {reason}")
        assert "; write it as 3|11/1|conv3x3-bn-relu or as [[0,1,1]" in str(caught.value)


# The benchmark's cells ------------------------------------------------------------------------------------


def test_the_sequence_of_cells(benchmark):
    cells = benchmark.architectures
    assert len(cells) == len(benchmark) == 423_624
    chosen = places(benchmark, 200, seed=1)
    texts = [cells[i] for i in chosen]
    everything = list(cells)
    assert [everything[i] for i in chosen] == texts
    assert len(set(everything)) == 423_624
    assert cells[-1] == everything[-1] == cells[np.int64(423_623)]
    part = cells[1000:1010]
    assert isinstance(part, Cells)
    assert list(part) == everything[1000:1010]
    assert [len(cells[5:5]), list(cells[:4:-100_000])] == [0, everything[:4:-100_000]]
    assert texts[0] in cells
    assert "nonsense" not in cells
    assert all(np.array_equal(a, b) for a, b in zip(vars(Cells.of(texts)).values(), arrays(cells, chosen), strict=True))
    with pytest.raises(IndexError):
        cells[423_624]


def arrays(cells: Cells, chosen: list[int]) -> tuple[np.ndarray, ...]:
    return cells.vertices[chosen], cells.bits[chosen], cells.codes[chosen]


def test_index_of_a_cell_and_of_its_isomorphs(benchmark):
    rng = np.random.RandomState(2)
    for index in [0, 423_623, *places(benchmark, 30, seed=2)]:
        cell = benchmark.architectures[index]
        assert benchmark.index(cell) == index
        matrix, names = (np.array(part) for part in official(cell))
        for _ in range(50):
            order = np.concatenate([[0], 1 + rng.permutation(len(names) - 2), [len(names) - 1]]).astype(int)
            moved = matrix[np.ix_(order, order)]
            if not np.tril(moved).any():
                text = as_text(moved.tolist(), names[order].tolist())
                assert benchmark.index(text) == index
                assert SPACE.canonical(SPACE.parse(text)) == SPACE.canonical(cell)


def test_a_cell_outside_a_part_of_the_benchmark(benchmark):
    part = benchmark.architectures[:10]
    assert benchmark.architectures[10] not in part
    with pytest.raises(ValueError, match="no cell here is isomorphic"):
        part.index(benchmark.architectures[10])
    with pytest.raises(ValueError, match="no cell here is isomorphic"):
        part[:0].index(DIRECT)


def test_hashes_are_the_stored_ones(benchmark, table):
    for index in places(benchmark, 2_000, seed=3):
        cell = benchmark.architectures[index]
        assert SPACE.canonical(cell) == SPACE.network_key(cell) == table["hash"][index].hex()


def test_rows_are_in_the_order_of_their_hashes(benchmark, table):
    hashes = table["hash"].tolist()
    assert all(a < b for a, b in itertools.pairwise(hashes))
    assert np.array_equal(benchmark.representatives, np.arange(423_624))
    assert len(benchmark.population("unique")) == 423_624


def test_enumeration_gives_exactly_the_stored_cells(benchmark):
    """Down to the order of the vertices: of isomorphic cells both hold the one that the official generator keeps."""
    cells, stored = enumerate_cells(), benchmark.architectures
    assert len(cells) == 423_624
    order = np.lexsort((*stored.codes.T[::-1], stored.bits, stored.vertices))
    assert np.array_equal(cells.vertices, stored.vertices[order])
    assert np.array_equal(cells.bits, stored.bits[order])
    assert np.array_equal(cells.codes, stored.codes[order])


def test_enumeration_agrees_with_the_official_generator(table):
    """That generator tries all graphs and operations, and keeps the first of each hash."""
    kept: dict[str, str] = {}
    counts = []
    for vertices in range(2, 6):
        for bits in range(1 << vertices * (vertices - 1) // 2):
            matrix = edges_of(np.array([vertices]), np.array([bits]))[0]
            matrix = matrix[np.ix_([*range(vertices - 1), 6], [*range(vertices - 1), 6])]
            full = matrix[:-1].any(axis=1).all() and matrix[:, 1:].any(axis=0).all() and matrix.sum() <= 9
            for codes in itertools.product(range(3), repeat=vertices - 2) if full else ():
                graph = Graph(vertices, bits, codes)
                kept.setdefault(module_hash(graph), encode(graph))
        counts.append(len(kept))
    assert counts == [1, 7, 91, 2_532]
    assert counts == [int((table["num_vertices"] <= vertices).sum()) for vertices in range(2, 6)]
    assert list(enumerate_cells(5)) == list(kept.values())
    assert kept.keys() == {h.hex() for h, n in zip(table["hash"], table["num_vertices"], strict=True) if n <= 5}


def test_small_cells_match_the_stored_hashes(benchmark, monkeypatch):
    """`harness verify nasbench101` does it for all cells; a cell that is missing, or too many, is found."""
    assert match_nasbench101(5) == Match(2_532, 2_532, 2_532)
    assert match_nasbench101(5).complete
    hashes = benchmark.column("hash")
    monkeypatch.setattr(benchmark, "column", lambda name: hashes[1:] if name == "hash" else vertices[1:])
    vertices = np.where(np.arange(len(hashes)) == 1, 5, 7)
    assert not match_nasbench101(5).complete


def test_verify_reports_the_match(monkeypatch, capsys):
    for match, code in ((Match(7, 7, 7), 0), (Match(7, 7, 6), 1)):
        monkeypatch.setattr(enumeration, "match_nasbench101", lambda found=match: found)
        assert cli.main(["verify", "nasbench101"]) == code
        assert f"7 cells enumerated, {match.both} of 7 stored hashes met" in capsys.readouterr().out


# Counts ---------------------------------------------------------------------------------------------------


def test_params_equal_the_stored_ones_of_all_cells(benchmark, table, counts):
    np.testing.assert_array_equal(counts["params"], table["params"])
    assert counts["params"].min() == 227_274
    assert counts["params"].max() == 49_979_274
    assert all(values.shape == (423_624,) and values.dtype == np.float64 for values in counts.values())
    chosen = places(benchmark, 500, seed=4)
    of_texts = SPACE.topology([benchmark.architectures[i] for i in chosen], 10, 32)
    assert all(np.array_equal(of_texts[name], values[chosen]) for name, values in counts.items())


@pytest.mark.parametrize(("name", "tau"), [("params", 0.307), ("flops", 0.306), ("trainable_layers", 0.490)])
def test_kendall_of_the_counts(benchmark, counts, name, tau):
    found = stats.kendalltau(counts[name], benchmark.accuracies("cifar10").to_numpy()).statistic
    assert found == pytest.approx(tau, abs=0.001)


@pytest.mark.parametrize(
    ("structure", "channels", "expected"),
    [
        ("2|1", 128, []),
        ("3|10/1", 128, [128]),
        ("4|110/01/1", 128, [64, 64]),
        # three share 128: the first two get one more, and what feeds them has as many as the widest of them
        ("6|10000/1110/001/01/1", 128, [43, 43, 43, 42]),
        # what feeds the narrowest alone has no more than that
        ("6|11100/0010/001/01/1", 128, [42, 43, 43, 42]),
        # a share of the output decides also where the vertex feeds others
        ("4|100/11/1", 5, [3, 2]),
        ("5|1000/110/11/1", 512, [256, 256, 256]),
    ],
)
def test_channels_of_the_vertices(structure, channels, expected):
    vertices = int(structure[0])
    graph = decode(f"{structure}|{','.join(['maxpool3x3'] * (vertices - 2))}")
    widths = vertex_channels(edges_of(np.array([vertices]), np.array([graph.bits])), channels)
    assert widths.tolist() == [expected + [0] * (7 - vertices)]


def test_channels_add_up_and_never_grow():
    cells = enumerate_cells()
    bits, first = np.unique(cells.bits, return_index=True)
    edges = edges_of(cells.vertices[first], bits)
    inner = np.arange(1, 6) < cells.vertices[first][:, None] - 1
    for channels in (4, 128, 256, 512):
        widths = vertex_channels(edges, channels)
        np.testing.assert_array_equal(widths > 0, inner)  # the thin network's four suffice too
        assert ((widths * edges[:, 1:-1, -1]).sum(axis=1)[inner.any(axis=1)] == channels).all()
        assert (~edges[:, 1:-1, 1:-1] | (widths[:, :, None] >= widths[:, None, :])).all()


def operations_by_hooks(network: nn.Module, resolution: int) -> dict[str, int]:
    """Multiply-accumulates, and the elements of what else is counted, for one image."""
    total = {"flops": 0, "elementwise": 0}

    def count(module, args, output):
        if isinstance(module, nn.Conv2d):
            total["flops"] += output[0].numel() * module.kernel_size[0] ** 2 * module.in_channels
        elif isinstance(module, nn.Linear):
            total["flops"] += module.in_features * module.out_features
        elif isinstance(module, nn.BatchNorm2d):
            total["elementwise"] += 2 * output.numel()
        elif isinstance(module, nn.ReLU):
            total["elementwise"] += output.numel()
        elif isinstance(module, nn.MaxPool2d):
            total["elementwise"] += output.numel() * module.kernel_size**2

    handles = [module.register_forward_hook(count) for module in network.modules()]
    with torch.no_grad():
        network.eval()(torch.zeros(1, 3, resolution, resolution, device=network.classifier.weight.device))
    for handle in handles:
        handle.remove()
    return total


@pytest.mark.parametrize(("classes", "resolution"), [(10, 32), (100, 15)])
def test_counts_equal_those_of_the_network(benchmark, classes, resolution):
    cells = [DIRECT, CHAIN, *sample_cells(benchmark, 30, seed=classes)]
    counts = SPACE.topology(cells, classes, resolution)
    for place, cell in enumerate(cells):
        with torch.device("meta"):
            network = SPACE.build(cell, classes)
        counted = {
            "params": sum(p.numel() for p in network.parameters()),
            **operations_by_hooks(network, resolution),
            "trainable_layers": sum(isinstance(m, (nn.Conv2d, nn.Linear)) for m in network.modules()),
            "parameter_tensors": len(list(network.parameters())),
        }
        assert {name: values[place] for name, values in counts.items()} == counted, cell


def test_a_gradient_reaches_every_parameter(benchmark):
    cells = [DIRECT, CHAIN, *sample_cells(benchmark, 8, seed=5)]
    counts = SPACE.topology(cells, 10, 8)
    for place, cell in enumerate(cells):
        subject = Subject(SPACE.build(cell, 10), None, 0, (3, 8, 8), 10, torch.device("cpu"))
        probed = Topology().run(subject, frozenset(counts))
        assert probed == {name: values[place] for name, values in counts.items()}, cell


def test_operations_by_stack(benchmark):
    cell = SPACE.parse(INCEPTION)
    kinds, counts = SPACE.operations([cell, DIRECT], 32)
    assert len(kinds) == 9
    found = dict(zip(kinds, counts[0], strict=True))
    for channels, side in ((128, 32), (256, 16), (512, 8)):
        assert found[Operation("convolution", 3, channels, side)] == 9
        assert found[Operation("convolution", 1, channels, side)] == 3
        assert found[Operation("pooling", 3, channels, side)] == 3
    assert (counts[1] == 0).all()
    kinds, counts = SPACE.operations(benchmark.architectures, 32)
    assert counts.shape == (423_624, 9)
    assert counts.sum(axis=1).max() == 45


# The network ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("thin", [False, True])
def test_forward_and_backward(benchmark, thin):
    for cell in [DIRECT, CHAIN, *sample_cells(benchmark, 20 if thin else 2, seed=6)]:
        torch.manual_seed(0)
        network = SPACE.build(cell, 10, thin=thin)
        assert network.training
        logits = network(torch.randn(4, 3, 8, 8))
        assert logits.shape == (4, 10)
        loss = nn.functional.cross_entropy(logits, torch.arange(4))
        loss.backward()
        assert torch.isfinite(loss)
        assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in network.parameters())


def test_feature_maps_halve_and_double_between_stacks():
    network = SPACE.build(CHAIN, 10).eval()
    shapes = []
    for stage in network.stages:
        stage.register_forward_hook(lambda module, args, output: shapes.append(tuple(output.shape[1:])))
    with torch.no_grad():
        network(torch.zeros(1, 3, 32, 32))
    assert shapes == [(128, 32, 32)] * 4 + [(256, 16, 16)] * 3 + [(512, 8, 8)] * 3


def test_norms_and_activations_are_those_of_the_benchmark(benchmark):
    for cell in sample_cells(benchmark, 3, seed=7):
        modules = list(SPACE.build(cell, 10, thin=True).modules())
        assert all(m.eps == 1e-5 and m.affine for m in modules if isinstance(m, nn.BatchNorm2d))
        assert not any(m.inplace for m in modules if isinstance(m, nn.ReLU))
        assert all(m.bias is None for m in modules if isinstance(m, nn.Conv2d))


def test_a_cell_by_hand():
    """Sums with channels cut off, concatenation at the output, projections of the input to all vertices."""
    graph = Graph(5, decode("5|1111/011/11/1|maxpool3x3,maxpool3x3,maxpool3x3").bits, (CONV1, POOL, CONV3))
    torch.manual_seed(0)
    cell = Cell(graph, 3, 5).double()
    x = torch.randn(2, 3, 4, 4, dtype=torch.float64)
    projections = {name: tuple(layer[0].weight.shape) for name, layer in cell.projections.items()}
    assert projections == {"1": (2, 3, 1, 1), "2": (2, 3, 1, 1), "3": (1, 3, 1, 1), "output": (5, 3, 1, 1)}
    assert tuple(cell.operations["1"][0].weight.shape) == (2, 2, 1, 1)
    assert tuple(cell.operations["3"][0].weight.shape) == (1, 1, 3, 3)
    first = cell.operations["1"](cell.projections["1"](x))
    second = nn.functional.max_pool2d(cell.projections["2"](x), 3, 1, 1)
    third = cell.operations["3"](first[:, :1] + second[:, :1] + cell.projections["3"](x))
    expected = torch.cat([first, second, third], dim=1) + cell.projections["output"](x)
    torch.testing.assert_close(cell(x), expected)


def test_scores_of_a_cell(counts):
    proxies = ("params", "sed", "synflow", "naswot:batch_size=4", "az_trainability:batch_size=4")
    scorer = Scorer(Job("nasbench101", "cifar10", proxies, device="cpu"))
    smallest = int(counts["params"].argmin())
    rows = dict(scorer.score(smallest, list(scorer.proxies)))
    assert all(row.status == "ok" for row in rows.values()), rows
    assert rows["params"].score == 227_274
