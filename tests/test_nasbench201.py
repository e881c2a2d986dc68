"""Tests of the NAS-Bench-201 space: encodings, counts, populations, canonical forms and the network."""

from __future__ import annotations

import itertools
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from torch import nn

import harness
from harness.benchmarks.benchmark import Benchmark, load_benchmark
from harness.engine.scorer import Job, Scorer
from harness.errors import HarnessError, UnknownNameError
from harness.probes.base import Subject
from harness.probes.topology import Topology
from harness.spaces import get_space
from harness.spaces.nasbench201 import (
    CONV1,
    CONV3,
    EDGES,
    NONE,
    OPERATIONS,
    POOL,
    SKIP,
    NasBench201,
    decode,
    encode,
    enumerate_cells,
    unique_string,
)
from harness.spaces.nasbench201.network import Cell

SPACE = NasBench201()
ALL_NONE = encode([NONE] * 6)
ALL_CONV3 = encode([CONV3] * 6)
DOCUMENT = (Path(harness.__file__).parents[1] / "docs" / "canonical_forms.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def benchmark() -> Benchmark:
    return load_benchmark("nasbench201")


@pytest.fixture(scope="module")
def cells() -> list[str]:
    return enumerate_cells()


def sample_cells(n: int, seed: int) -> list[str]:
    rng = np.random.RandomState(seed)
    return [encode(codes) for codes in rng.randint(0, len(OPERATIONS), size=(n, len(EDGES)))]


# Encodings ------------------------------------------------------------------------------------------------


def test_enumeration_gives_every_stored_cell_once(benchmark, cells):
    assert len(cells) == 5**6 == 15_625
    assert len(set(cells)) == 15_625
    assert set(cells) == set(benchmark.architectures)


def test_encoding_is_the_one_the_field_writes():
    codes = (CONV3, CONV1, SKIP, NONE, POOL, CONV3)
    text = "|nor_conv_3x3~0|+|nor_conv_1x1~0|skip_connect~1|+|none~0|avg_pool_3x3~1|nor_conv_3x3~2|"
    assert encode(codes) == text
    assert decode(text) == codes


def test_round_trip_over_all_cells(cells):
    assert [encode(decode(cell)) for cell in cells] == cells
    assert SPACE.parse(f"  {cells[77]}\n") == cells[77]


def test_naslib_tuples_are_read():
    """By `nasbench201/conversions.py`: edges 01 02 03 12 13 23, operations skip, none, 3x3, 1x1, pool."""
    expected = "|avg_pool_3x3~0|+|skip_connect~0|none~1|+|nor_conv_1x1~0|avg_pool_3x3~1|nor_conv_3x3~2|"
    for text in ("(4, 0, 3, 1, 4, 2)", "[4,0,3,1,4,2]", " (4, 0, 3, 1, 4, 2,) "):
        assert SPACE.parse(text) == expected
    cells = {SPACE.parse(str(codes)) for codes in itertools.product(range(5), repeat=6)}
    assert len(cells) == 15_625
    for text in ("(4, 0, 3, 1, 4)", "(4, 0, 3, 1, 4, 5)", "(4, 0, 3, 1, 4, 2, 1)", "(4, 0, 3, 1, 4, -1)"):
        with pytest.raises(HarnessError, match="is not a NAS-Bench-201 cell"):
            SPACE.parse(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "nonsense",
        ALL_NONE[:-1],
        ALL_NONE + "|",
        ALL_NONE.replace("none", "zero"),
        ALL_NONE.replace("none~1", "none~0"),
        ALL_NONE.replace("+", ""),
        ALL_NONE.replace("none~0", "nor_conv_5x5~0", 1),
        ALL_NONE.replace("none", "None"),
        "|none~0|+|none~0|none~1|",
        ALL_NONE + "+|none~0|none~1|none~2|none~3|",
        "|none~0|+|none~1|none~0|+|none~0|none~1|none~2|",
    ],
)
def test_malformed_encodings_are_refused_with_the_right_form(text, benchmark):
    for read in (SPACE.parse, decode, benchmark.index):
        with pytest.raises(HarnessError, match="is not a NAS-Bench-201 cell: write it as") as caught:
            read(text)
        assert repr(text) in str(caught.value)


def test_index_of_an_encoding(benchmark):
    for index in (0, 1, 6111, 15_624):
        assert benchmark.index(benchmark.architectures[index]) == index


def test_unknown_space_is_named_with_the_nearest():
    with pytest.raises(UnknownNameError, match="did you mean 'nasbench201'"):
        get_space("nasbench-201")


# Counts ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dataset", ["cifar10", "cifar100", "ImageNet16-120"])
def test_parameters_equal_the_stored_ones_for_all_cells(benchmark, dataset):
    stored = pq.read_table(benchmark.folder / "accuracies.parquet", columns=[f"{dataset}_params_m"])
    stored = stored.column(0).to_numpy()
    if dataset != "ImageNet16-120":  # stored in millions, six digits
        stored = np.rint(stored * 1e6)
    spec = benchmark.datasets[dataset]
    computed = SPACE.topology(benchmark.architectures, spec.classes, spec.resolution)["params"]
    assert computed.shape == (15_625,)
    np.testing.assert_array_equal(computed, stored)


@pytest.mark.parametrize(
    ("classes", "resolution", "smallest", "largest"),
    [
        (10, 32, 7.78304e6, 220.11968e6),
        (100, 32, 7.7888e6, 220.12544e6),
        (120, 16, 1.95328e6, 55.03744e6),
    ],
)
def test_range_of_the_flops(benchmark, classes, resolution, smallest, largest):
    flops = SPACE.topology(benchmark.architectures, classes, resolution)["flops"]
    assert flops.max() == largest
    assert benchmark.architectures[flops.argmax()] == ALL_CONV3
    assert flops.min() == smallest


def operations_by_hooks(network: nn.Module, resolution: int) -> dict[str, int]:
    """Multiply-accumulates, and the elements of what else is counted, for one image."""
    total = {"flops": 0, "elementwise": 0}

    def count(module, args, output):
        if isinstance(module, nn.Conv2d):
            kernel = module.kernel_size[0] * module.kernel_size[1]
            total["flops"] += output[0].numel() * kernel * module.in_channels // module.groups
        elif isinstance(module, nn.Linear):
            total["flops"] += module.in_features * module.out_features
        elif isinstance(module, nn.BatchNorm2d):
            total["elementwise"] += 2 * output.numel()
        elif isinstance(module, nn.ReLU):
            total["elementwise"] += output.numel()
        elif isinstance(module, nn.AvgPool2d):
            total["elementwise"] += output.numel() * module.kernel_size**2

    handles = [module.register_forward_hook(count) for module in network.modules()]
    with torch.no_grad():
        network.eval()(torch.zeros(1, 3, resolution, resolution))
    for handle in handles:
        handle.remove()
    return total


@pytest.mark.parametrize(("classes", "resolution", "number"), [(10, 32, 12), (100, 32, 4), (120, 16, 14), (10, 15, 3)])
def test_counts_equal_those_of_the_network(classes, resolution, number):
    cells = [ALL_NONE, *sample_cells(number, seed=classes)]
    counts = SPACE.topology(cells, classes, resolution)
    assert all(values.shape == (len(cells),) and values.dtype == np.float64 for values in counts.values())
    live = SPACE.in_population("no_dead_ops", cells)
    for place, cell in enumerate(cells):
        network = SPACE.build(cell, classes)
        layers = [m for m in network.modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
        counted = {
            "params": sum(p.numel() for p in network.parameters()),
            **operations_by_hooks(network, resolution),
            "trainable_layers": len(layers),
            "parameter_tensors": len(list(network.parameters())),
        }
        assert {name: values[place] for name, values in counts.items()} == counted, cell

        subject = Subject(network, None, 0, (3, resolution, resolution), classes, torch.device("cpu"))
        probed = Topology().run(subject, frozenset(counted))
        # The probe leaves out parameters that no gradient reaches, in which the benchmark's count includes them.
        if live[place] and cell != ALL_NONE:
            assert probed == counted, cell
        else:
            assert probed["params"] <= counted.pop("params")
            assert {name: probed[name] for name in counted} == counted, cell


# Populations ----------------------------------------------------------------------------------------------

PATHS = ((3,), (0, 4), (1, 5), (0, 2, 5))  # all paths from input to output, as positions in `EDGES`


def test_no_dead_ops_are_the_cells_whose_operations_all_lie_on_a_path(cells):
    for path in PATHS:
        assert [EDGES[path[0]][0], EDGES[path[-1]][1]] == [0, 3]
        assert all(EDGES[a][1] == EDGES[b][0] for a, b in itertools.pairwise(path))

    def alive(codes: Sequence[int]) -> bool:
        used = {edge for path in PATHS if all(codes[e] != NONE for e in path) for edge in path}
        return used == {edge for edge, code in enumerate(codes) if code != NONE}

    expected = np.array([alive(decode(cell)) for cell in cells])
    assert expected.sum() == 9_445
    np.testing.assert_array_equal(SPACE.in_population("no_dead_ops", cells), expected)


# Canonical forms ------------------------------------------------------------------------------------------


def test_number_of_canonical_classes(cells):
    live = SPACE.in_population("no_dead_ops", cells)
    keys = [SPACE.canonical(cell) for cell in cells]
    assert len(set(keys)) == 5_875
    assert len({key for key, flag in zip(keys, live, strict=True) if flag}) == 5_260


def test_network_key_refines_the_canonical_form(cells):
    canonical, counts = {}, {}
    topology = SPACE.topology(cells, 10, 32)
    weights = ("params", "flops", "trainable_layers", "parameter_tensors")  # dead poolings are not in the key
    columns = list(zip(*(topology[name] for name in weights), strict=True))
    for cell, column in zip(cells, columns, strict=True):
        key = SPACE.network_key(cell)
        assert canonical.setdefault(key, SPACE.canonical(cell)) == SPACE.canonical(cell), cell
        assert counts.setdefault(key, column) == column, cell
    assert len(canonical) == 6_594
    # Where nothing is dead both tell the same cells apart.
    live = SPACE.in_population("no_dead_ops", cells)
    pairs = {(SPACE.network_key(c), SPACE.canonical(c)) for c, flag in zip(cells, live, strict=True) if flag}
    assert len(pairs) == 5_260


def test_dead_convolutions_change_the_network_but_not_the_function():
    plain = encode([NONE, NONE, NONE, CONV3, NONE, NONE])
    dead = encode([CONV3, NONE, NONE, CONV3, NONE, NONE])
    assert SPACE.canonical(plain) == SPACE.canonical(dead)
    assert SPACE.network_key(plain) != SPACE.network_key(dead)


@pytest.mark.parametrize(
    ("left", "right"),
    [
        # nodes 1 and 2 exchanged
        ([CONV1, CONV3, NONE, NONE, POOL, CONV3], [CONV3, CONV1, NONE, NONE, CONV3, POOL]),
        # a chain through a skip
        ([CONV3, NONE, NONE, NONE, SKIP, NONE], [NONE, NONE, NONE, CONV3, NONE, NONE]),
        # two poolings of the input are one, taken twice
        ([POOL, POOL, NONE, NONE, SKIP, SKIP], [POOL, SKIP, NONE, POOL, SKIP, NONE]),
        # a pooling of nothing is nothing
        ([NONE, POOL, POOL, NONE, NONE, SKIP], [NONE, NONE, NONE, POOL, NONE, NONE]),
    ],
)
def test_cells_of_one_class(left, right):
    assert SPACE.canonical(encode(left)) == SPACE.canonical(encode(right))


@pytest.mark.parametrize(
    ("left", "right"),
    [
        # 1 or 2 convolutions of the same input
        ([CONV3, CONV3, NONE, NONE, SKIP, SKIP], [CONV3, NONE, NONE, SKIP, SKIP, NONE]),
        # the same operations in another order
        ([CONV3, NONE, NONE, NONE, CONV1, NONE], [CONV1, NONE, NONE, NONE, CONV3, NONE]),
        # once or twice the input
        ([SKIP, NONE, NONE, SKIP, SKIP, NONE], [NONE, NONE, NONE, SKIP, NONE, NONE]),
        # a convolution of nothing still adds the constant of its BatchNorm
        ([NONE, NONE, CONV3, SKIP, NONE, SKIP], [NONE, NONE, NONE, SKIP, NONE, NONE]),
        # x is fed twice into one convolution, or once into the one and once into the output
        ([SKIP, SKIP, SKIP, NONE, NONE, CONV3], [SKIP, SKIP, NONE, NONE, SKIP, CONV3]),
    ],
)
def test_cells_of_two_classes(left, right):
    assert SPACE.canonical(encode(left)) != SPACE.canonical(encode(right))


def live_convolutions(codes: Sequence[int]) -> dict[int, list[int]]:
    """Edges from whose end the output can be reached, by kind of convolution."""
    tails = {0: ((3,), (0, 4), (0, 2, 5), (1, 5)), 1: ((4,), (2, 5)), 2: ((5,),), 3: ((),)}
    found: dict[int, list[int]] = {CONV1: [], CONV3: []}
    for edge, (_, target) in enumerate(EDGES):
        reaches = any(all(codes[e] != NONE for e in tail) for tail in tails[target])
        if codes[edge] in found and reaches:
            found[codes[edge]].append(edge)
    return found


class Weights:
    """Random convolutions with BatchNorms of which nothing is the identity: `numbers[k]` of each kind."""

    def __init__(self, channels: int, seed: int):
        rng = torch.Generator().manual_seed(seed)
        self.channels = channels
        self.states = {}
        for kind, side in ((CONV1, 1), (CONV3, 3)):
            for number in range(6):
                self.states[kind, number] = {
                    "1.weight": torch.randn(channels, channels, side, side, generator=rng, dtype=torch.float64),
                    "2.weight": torch.randn(channels, generator=rng, dtype=torch.float64),
                    "2.bias": torch.randn(channels, generator=rng, dtype=torch.float64),
                    "2.running_mean": torch.randn(channels, generator=rng, dtype=torch.float64),
                    "2.running_var": torch.rand(channels, generator=rng, dtype=torch.float64) + 0.5,
                    "2.num_batches_tracked": torch.zeros((), dtype=torch.int64),
                }
        self.images = torch.randn(2, channels, 5, 5, generator=rng, dtype=torch.float64)

    @torch.no_grad()
    def output(self, codes: Sequence[int], places: dict[int, tuple[int, ...]]) -> torch.Tensor:
        """The cell's output in eval mode; the live convolutions of a kind get the weights of these numbers."""
        cell = Cell(codes, self.channels).double().eval()
        for kind, edges in live_convolutions(codes).items():
            for edge, number in zip(edges, places[kind], strict=True):
                source, target = EDGES[edge]
                cell.edges[f"{source}_{target}"].load_state_dict(self.states[kind, number])
        return cell(self.images)

    def outputs(self, codes: Sequence[int]) -> Iterator[torch.Tensor]:
        """The cell's output for every way to hand the weights out to its live convolutions."""
        counts = {kind: len(edges) for kind, edges in live_convolutions(codes).items()}
        for ones in itertools.permutations(range(counts[CONV1])):
            for threes in itertools.permutations(range(counts[CONV3])):
                yield self.output(codes, {CONV1: ones, CONV3: threes})

    def alike(self, left: Sequence[int], right: Sequence[int]) -> bool:
        """Whether some assignment of the weights makes `right` compute what `left` does."""
        sizes = [{kind: len(edges) for kind, edges in live_convolutions(c).items()} for c in (left, right)]
        if sizes[0] != sizes[1]:
            return False
        reference = self.output(left, {kind: tuple(range(n)) for kind, n in sizes[0].items()})
        return any(torch.allclose(reference, other, rtol=1e-9, atol=1e-9) for other in self.outputs(right))


def test_equal_canonical_forms_compute_equal_functions(cells):
    classes = defaultdict(list)
    for cell in cells:
        classes[SPACE.canonical(cell)].append(cell)
    several = [members for _, members in sorted(classes.items()) if len(members) > 1]
    rng = np.random.RandomState(0)
    weights = Weights(channels=3, seed=0)
    checked = 0
    for choice in rng.permutation(len(several)):
        members = several[choice]
        left, right = (decode(members[i]) for i in rng.permutation(len(members))[:2])
        if max(map(len, live_convolutions(left).values())) > 3:  # few assignments to try
            continue
        assert weights.alike(left, right), (encode(left), encode(right))
        checked += 1
        if checked == 150:
            break
    assert checked == 150


def test_different_canonical_forms_compute_different_functions(cells):
    """Without pooling, which is linear: two poolings may equal one of the sum, which the form does not merge."""
    groups = defaultdict(dict)
    for cell in cells:
        codes = decode(cell)
        sizes = tuple(len(edges) for edges in live_convolutions(codes).values())
        if POOL not in codes and 1 <= sum(sizes) <= 4 and max(sizes) <= 3:
            groups[sizes].setdefault(SPACE.canonical(cell), codes)
    pools = [list(group.values()) for group in groups.values() if len(group) > 1]
    rng = np.random.RandomState(1)
    weights = Weights(channels=3, seed=1)
    for number in range(60):
        group = pools[number % len(pools)]
        left, right = (group[i] for i in rng.permutation(len(group))[:2])
        assert not weights.alike(left, right), (encode(left), encode(right))


# Dong & Yang's strings, and docs/canonical_forms.md -------------------------------------------------------


def formula(codes: Sequence[int], empty_convolutions: bool) -> tuple:
    """What the cell says: the output's terms, sums flattened and sorted; equal terms need not be one operation.

    `empty_convolutions`: whether a convolution of nothing is a term, for the constant that its BatchNorm adds.
    """
    terms: list[list[tuple]] = [[("input",)], [], [], []]
    for code, (source, target) in zip(codes, EDGES, strict=True):
        feed = sorted(terms[source])
        if code == SKIP:
            terms[target] += feed
        elif code in (CONV1, CONV3, POOL) and (feed or (empty_convolutions and code != POOL)):
            terms[target].append((OPERATIONS[code], *feed))
    return tuple(sorted(terms[3]))


def several(keys: Sequence, values: Sequence) -> list[list[int]]:
    """For each key that comes with several values, in sorted order, the first place of each value."""
    found: dict = defaultdict(dict)
    for place, (key, value) in enumerate(zip(keys, values, strict=True)):
        found[key].setdefault(value, place)
    return [list(places.values()) for _, places in sorted(found.items()) if len(places) > 1]


@pytest.fixture(scope="module")
def names(cells) -> dict[str, list]:
    """Every way to name the cells' classes, in the order of the cells."""
    codes = [decode(cell) for cell in cells]
    return {
        "formula": [formula(c, empty_convolutions=False) for c in codes],
        "formula with empty convolutions": [formula(c, empty_convolutions=True) for c in codes],
        "canonical": [SPACE.canonical(cell) for cell in cells],
        "string": [unique_string(c) for c in codes],
        "network_key": [SPACE.network_key(cell) for cell in cells],
    }


def test_counts_of_the_classes(cells, names):
    live = np.flatnonzero(SPACE.in_population("no_dead_ops", cells))
    counts = {name: (len(set(keys)), len({keys[i] for i in live})) for name, keys in names.items()}
    assert counts == {
        "formula": (4_930, 4_930),
        "formula with empty convolutions": (5_545, 4_930),
        "canonical": (5_875, 5_260),
        "string": (6_466, 6_285),
        "network_key": (6_594, 5_260),
    }
    assert all(f"| {of_all:,} | {of_live:,} |" in DOCUMENT for of_all, of_live in counts.values())


def test_what_refines_what(names):
    """A string is of one formula, and so is a function; the string splits some functions and merges others."""
    assert several(names["string"], names["formula"]) == []
    assert several(names["canonical"], names["formula with empty convolutions"]) == []
    assert several(names["formula with empty convolutions"], names["formula"]) == []
    assert len(several(names["formula"], names["string"])) == 623
    assert len(several(names["canonical"], names["string"])) == 841
    assert len(several(names["string"], names["canonical"])) == 523
    assert "841 of the 5,875 functions have more than one string, 623 of the 4,930 formulas" in DOCUMENT
    assert "523 of the 6,466 strings stand for more than one function" in DOCUMENT


def test_the_strings_are_those_of_the_robustness_dataset(benchmark):
    """It attacked one cell of each class and gave its figures to the others: they say which cells are one class."""
    strings = np.array([unique_string(decode(cell)) for cell in benchmark.architectures])
    _, first, inverse = np.unique(strings, return_index=True, return_inverse=True)
    targets = [t for t in benchmark.targets("cifar10").values() if t.file == "robustness_cifar10.parquet"]
    figures = np.stack([benchmark.accuracies("cifar10", t.name) for t in targets], axis=1)
    assert figures.shape == (15_625, 32)
    np.testing.assert_array_equal(figures, figures[first][inverse])
    assert len(np.unique(figures, axis=0)) == 6_462  # four classes have the figures of another
    # No coarser classes would do, such as those of equal function.
    forms = [SPACE.canonical(cell) for cell in benchmark.architectures]
    assert any((figures[group] != figures[group[0]]).any() for group in several(forms, strings.tolist()))


def test_the_population_of_the_strings(benchmark):
    members = benchmark.population("unique_strings")
    strings = [unique_string(decode(cell)) for cell in benchmark.architectures]
    assert members.tolist() == sorted({s: i for i, s in reversed(list(enumerate(strings)))}.values())
    assert len(members) == 6_466


def test_the_documented_examples():
    rows = re.findall(r"^\| `(\\\|.*)` \| `([^`]*)` \|$", DOCUMENT, re.MULTILINE)
    assert len(rows) == 4
    for cell, string in rows:
        assert unique_string(decode(cell.replace(r"\|", "|"))) == string
    split, merged = rows[:2], rows[2:]
    forms = [[SPACE.canonical(cell.replace(r"\|", "|")) for cell, _ in part] for part in (split, merged)]
    assert forms[0][0] == forms[0][1]
    assert forms[1][0] != forms[1][1]


def test_cells_that_a_string_splits_compute_equal_functions(cells, names):
    rng = np.random.RandomState(2)
    weights = Weights(channels=3, seed=2)
    groups = several(names["canonical"], names["string"])
    checked = 0
    for choice in rng.permutation(len(groups)):
        left, right = (decode(cells[i]) for i in rng.permutation(groups[choice])[:2])
        if max(map(len, live_convolutions(left).values())) <= 3:
            assert weights.alike(left, right), (encode(left), encode(right))
            checked += 1
        if checked == 60:
            break
    assert checked == 60


def test_cells_that_a_string_merges_compute_different_functions(cells, names):
    """Give the cell with more convolutions weights: the other computes something else with whichever of these.

    Without pooling, as above; a pooling also leaves the constant of an empty convolution what it is.
    """
    rng = np.random.RandomState(3)
    weights = Weights(channels=3, seed=3)
    groups = several(names["string"], names["canonical"])
    checked = 0
    for choice in rng.permutation(len(groups)):
        pair = [decode(cells[i]) for i in rng.permutation(groups[choice])[:2]]
        fewer, more = sorted(pair, key=lambda codes: sum(map(len, live_convolutions(codes).values())))
        held, asked = live_convolutions(more), live_convolutions(fewer)
        if max(map(len, held.values())) > 3 or any(len(asked[kind]) > len(held[kind]) for kind in held):
            continue
        if POOL in fewer or POOL in more:
            continue
        output = weights.output(more, {kind: tuple(range(len(edges))) for kind, edges in held.items()})
        ways = [itertools.permutations(range(len(held[kind])), len(asked[kind])) for kind in (CONV1, CONV3)]
        for ones, threes in itertools.product(*map(list, ways)):
            other = weights.output(fewer, {CONV1: ones, CONV3: threes})
            assert not torch.allclose(output, other, rtol=1e-6, atol=1e-6), (encode(fewer), encode(more))
        checked += 1
        if checked == 60:
            break
    assert checked == 60


# The network ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cell", [ALL_NONE, *sample_cells(2, seed=5)])
@pytest.mark.parametrize(("classes", "resolution"), [(10, 32), (120, 16)])
def test_forward_and_backward(cell, classes, resolution):
    torch.manual_seed(0)
    network = SPACE.build(cell, classes)
    assert network.training
    images = torch.randn(4, 3, resolution, resolution)
    logits = network(images)
    assert logits.shape == (4, classes)
    loss = nn.functional.cross_entropy(logits, torch.arange(4))
    loss.backward()
    assert torch.isfinite(loss)
    grads = {name: p.grad for name, p in network.named_parameters()}
    assert grads["classifier.weight"].shape == (classes, 64)
    assert all(torch.isfinite(g).all() for g in grads.values() if g is not None)
    assert (grads["classifier.bias"] != 0).any()
    sees_images = cell != ALL_NONE
    assert (grads["stem.0.weight"] is not None and bool((grads["stem.0.weight"] != 0).any())) == sees_images


def test_feature_maps_halve_and_double_between_stages():
    network = SPACE.build(ALL_CONV3, 10).eval()
    shapes = []
    for stage in network.stages:
        stage.register_forward_hook(lambda module, args, output: shapes.append(tuple(output.shape[1:])))
    with torch.no_grad():
        network(torch.zeros(1, 3, 32, 32))
    assert shapes == [(16, 32, 32)] * 6 + [(32, 16, 16)] * 6 + [(64, 8, 8)] * 6


def test_pooling_leaves_the_border_out_of_its_mean():
    cell = Cell([NONE, NONE, NONE, POOL, NONE, NONE], 2)
    assert torch.equal(cell(torch.ones(1, 2, 4, 4)), torch.ones(1, 2, 4, 4))


def test_a_cell_sums_its_paths():
    x = torch.randn(1, 2, 4, 4)
    assert torch.equal(Cell([SKIP] * 6, 2)(x), 4 * x)  # one of length 1, two of length 2, one of length 3
    assert torch.equal(Cell([NONE] * 6, 2)(x), torch.zeros_like(x))
    assert torch.equal(Cell([NONE, SKIP, SKIP, NONE, SKIP, SKIP], 2)(x), x)


def test_building_a_subject_draws_nothing_from_the_global_generator(benchmark):
    scorer = Scorer(Job("nasbench201", "cifar10", ("snip:batch_size=4",), device="cpu"))
    torch.manual_seed(123)
    before = torch.get_rng_state()
    scorer.subject(benchmark.index(ALL_CONV3))
    assert torch.equal(torch.get_rng_state(), before)
    SPACE.build(ALL_CONV3, 10)
    assert not torch.equal(torch.get_rng_state(), before)  # the check above can tell
