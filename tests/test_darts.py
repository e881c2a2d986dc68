"""Tests of the DARTS space and its two benchmarks: genotypes, counts, canonical forms and the network."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import nn

from harness.benchmarks.benchmark import Benchmark, load_benchmark
from harness.engine.scorer import Job, Scorer, score_subject
from harness.errors import HarnessError
from harness.probes.base import Subject, hooked
from harness.probes.gaussian import LinearRegions
from harness.probes.topology import Topology
from harness.proxies import get_proxy
from harness.seeds import stable_seed
from harness.spaces import get_space
from harness.spaces.base import Operation
from harness.spaces.darts import (
    AVG_POOL,
    CONCAT,
    CONV1,
    CONV3,
    CONV31,
    CONV71,
    DIL3,
    DIL5,
    DIL_SEP3,
    MAX_POOL,
    MAX_POOL5,
    MAX_POOL7,
    NODE_COUNTS,
    NONE,
    OPERATIONS,
    SEP3,
    SEP5,
    SEP7,
    SKIP,
    Darts,
    Genotype,
    decode,
    encode,
    is_of_darts,
    reductions,
)
from harness.spaces.darts.network import Cell, FactorizedReduce, Network, operation

SPACE = Darts()
SEPARABLE = (SEP3, SEP5, DIL3, DIL5)
DARTS_V2 = (
    "Genotype(normal=[('sep_conv_3x3', 0), ('sep_conv_3x3', 1), ('sep_conv_3x3', 0), ('sep_conv_3x3', 1), "
    "('sep_conv_3x3', 1), ('skip_connect', 0), ('skip_connect', 0), ('dil_conv_3x3', 2)], "
    "normal_concat=[2, 3, 4, 5], reduce=[('max_pool_3x3', 0), ('max_pool_3x3', 1), ('skip_connect', 2), "
    "('max_pool_3x3', 1), ('max_pool_3x3', 0), ('skip_connect', 2), ('skip_connect', 2), ('max_pool_3x3', 1)], "
    "reduce_concat=[2, 3, 4, 5])"
)
PDARTS = (
    "Genotype(normal=[('skip_connect', 0), ('dil_conv_3x3', 1), ('skip_connect', 0),('sep_conv_3x3', 1), "
    "('sep_conv_3x3', 1), ('sep_conv_3x3', 3), ('sep_conv_3x3',0), ('dil_conv_5x5', 4)], "
    "normal_concat=range(2, 6), reduce=[('avg_pool_3x3', 0), ('sep_conv_5x5', 1), ('sep_conv_3x3', 0), "
    "('dil_conv_5x5', 2), ('max_pool_3x3', 0), ('dil_conv_3x3', 1), ('dil_conv_3x3', 1), ('dil_conv_5x5', 3)], "
    "reduce_concat=range(2, 6))"
)
# A genotype of a log in automl/nasbench301, trained with 20 cells of 50 channels and an auxiliary head.
#: The same, a list a node.
NESTED = re.sub(r"(\('[^)]*\)), *(\('[^)]*\))", r"[\1, \2]", DARTS_V2)
LOGGED = Genotype(
    ((SKIP, 0), (SEP3, 1), (SEP3, 0), (SKIP, 1), (DIL3, 0), (DIL5, 2), (SEP3, 1), (SKIP, 2)),
    ((MAX_POOL, 0), (AVG_POOL, 1), (SKIP, 0), (DIL5, 1), (SEP3, 1), (SEP5, 2), (SEP3, 2), (DIL3, 3)),
)
COMPACT = (
    "[[(0, 4), (1, 3), (0, 2), (2, 3), (2, 3), (0, 3), (2, 6), (3, 5)], "
    "[(0, 3), (1, 3), (1, 1), (0, 5), (2, 3), (0, 2), (4, 4), (3, 1)]]"
)
# Parameters that NASLib published with genotypes of its NAS-Bench-301 (data/zc_nasbench301.json).
NASLIB_PARAMS = {
    COMPACT: 1_204_906,
    "[[(1, 1), (0, 6), (1, 1), (0, 3), (1, 1), (2, 5), (0, 1), (4, 4)], "
    "[(0, 1), (1, 1), (0, 4), (2, 4), (0, 4), (1, 5), (2, 4), (4, 0)]]": 920_618,
    "[[(0, 1), (1, 0), (0, 2), (1, 4), (1, 2), (2, 6), (3, 4), (4, 3)], "
    "[(1, 1), (0, 1), (0, 3), (1, 5), (2, 6), (3, 0), (4, 0), (0, 1)]]": 849_450,
    "[[(1, 3), (0, 3), (0, 3), (1, 5), (1, 0), (3, 3), (4, 3), (2, 2)], "
    "[(0, 1), (1, 1), (0, 5), (1, 6), (0, 5), (3, 4), (3, 4), (2, 2)]]": 1_080_682,
    "[[(1, 1), (0, 2), (0, 1), (2, 1), (1, 0), (0, 1), (1, 2), (0, 4)], "
    "[(0, 2), (1, 2), (2, 4), (0, 5), (0, 1), (2, 6), (4, 0), (2, 2)]]": 639_850,
    "[[(1, 6), (0, 0), (1, 0), (0, 0), (0, 4), (1, 6), (0, 0), (1, 6)], "
    "[(1, 5), (0, 1), (1, 0), (0, 4), (3, 3), (2, 1), (0, 5), (1, 1)]]": 802_858,
    "[[(1, 1), (0, 2), (0, 1), (2, 0), (1, 4), (0, 0), (4, 0), (3, 6)], "
    "[(1, 1), (0, 5), (1, 2), (0, 0), (3, 3), (2, 5), (2, 4), (3, 0)]]": 714_922,
}
BENCHMARKS = ("nasbench301", "darts_swap1000")


@pytest.fixture(params=BENCHMARKS)
def benchmark(request) -> Benchmark:
    return load_benchmark(request.param)


def draw(rng: np.random.RandomState, nones: float = 1 / 8) -> Genotype:
    """A genotype whose operations are `none` with that probability; a node may read the same node twice."""

    def cell():
        codes = [NONE if rng.rand() < nones else rng.randint(1, SEP7) for _ in range(8)]
        return tuple((int(code), int(rng.randint(2 + place // 2))) for place, code in enumerate(codes))

    return Genotype(cell(), cell())


def members(benchmark: Benchmark, n: int, seed: int) -> list[str]:
    return [benchmark.architectures[i] for i in np.random.RandomState(seed).permutation(len(benchmark))[:n]]


def with_cells(normal: Sequence, reduce: Sequence = ((SEP3, 0), (SEP3, 1)) * 4) -> str:
    return encode(Genotype(tuple(normal), tuple(reduce)))


# Genotypes ------------------------------------------------------------------------------------------------


def test_text_of_a_genotype_is_darts_own():
    assert encode(decode(DARTS_V2)) == DARTS_V2
    assert SPACE.parse(f" {DARTS_V2}\n") == DARTS_V2
    assert encode(decode(PDARTS)) == PDARTS.replace("range(2, 6)", "[2, 3, 4, 5]").replace("),(", "), (").replace(
        "',0", "', 0"
    )
    assert decode(DARTS_V2).normal[-2:] == ((SKIP, 0), (DIL3, 2))


@pytest.mark.parametrize("name", BENCHMARKS)
def test_round_trip_over_all_members(name):
    benchmark = load_benchmark(name)
    assert [encode(decode(a)) for a in benchmark.architectures] == list(benchmark.architectures)
    for index in (0, 17, len(benchmark) - 1):
        assert benchmark.index(benchmark.architectures[index]) == index


def test_compact_form():
    genotype = decode(COMPACT)
    assert genotype.normal == ((SEP5, 0), (SEP3, 1), (SKIP, 0), (SEP3, 2), (SEP3, 2), (SEP3, 0), (DIL5, 2), (DIL3, 3))
    assert genotype.reduce[2] == (AVG_POOL, 1)
    assert decode(COMPACT.replace("[", "(").replace("]", ")")) == genotype
    assert decode(encode(genotype)) == genotype
    benchmark = load_benchmark("nasbench301")
    assert benchmark.architectures[benchmark.index(COMPACT)] == encode(genotype)
    assert benchmark.index(encode(genotype)) == benchmark.index(COMPACT)


@pytest.mark.parametrize("name", BENCHMARKS)
def test_stored_texts_are_read_as_any_other(name):
    benchmark = load_benchmark(name)
    column = benchmark.column(benchmark.card["encoding"])
    assert SPACE.encodings({"genotype": column}) == [SPACE.parse(text) for text in column]
    texts = [PDARTS, f" {DARTS_V2}", COMPACT.replace(" ", ""), column[0]]
    assert SPACE.encodings({"genotype": np.array(texts, dtype=object)}) == [SPACE.parse(text) for text in texts]
    for wrong in (DARTS_V2.replace("('skip_connect', 2)", "('skip_connect', 6)"), COMPACT.replace("(0, 4)", "(2, 4)")):
        with pytest.raises(HarnessError, match="is not a genotype"):
            SPACE.encodings({"genotype": np.array([wrong], dtype=object)})


def test_swap_genotypes_have_equal_cells_and_nones():
    genotypes = [decode(a) for a in load_benchmark("darts_swap1000").architectures]
    assert all(genotype.normal == genotype.reduce for genotype in genotypes)
    assert sum(code == NONE for genotype in genotypes for code, _ in genotype.normal) == 994
    pairs = [genotype.normal[2 * node : 2 * node + 2] for genotype in genotypes for node in range(4)]
    assert any(one[1] == two[1] for one, two in pairs)


@pytest.mark.parametrize(
    "text",
    [NESTED, DARTS_V2.replace("Genotype", "genotypes.Genotype"), f"DARTS_V2 = {DARTS_V2}", f"A = a.b.{NESTED}\n"],
)
def test_what_stands_in_modules_of_genotypes_is_read(text):
    assert decode(text) == decode(DARTS_V2)
    assert SPACE.parse(text) == SPACE.parse(DARTS_V2)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "nonsense",
        "Genotype()",
        "[]",
        "7",
        "'Genotype'",
        DARTS_V2[:-1],
        DARTS_V2 + ")",
        DARTS_V2.replace("Genotype", "genotype"),
        DARTS_V2.replace("Genotype", "genotypes.genotype"),
        DARTS_V2.replace("Genotype", "genotypes()"),
        f"a = b = {DARTS_V2}",
        f"a.b = {DARTS_V2}",
        f"a, b = {DARTS_V2}",
        f"a += {DARTS_V2}",
        f"a = {DARTS_V2}\nb = {DARTS_V2}",
        NESTED.replace("[('sep_conv_3x3', 0), ('sep_conv_3x3', 1)], ", "", 1),
        NESTED.replace("('sep_conv_3x3', 1)]", "('sep_conv_3x3', 1), ('skip_connect', 0)]", 1),
        DARTS_V2.replace("Genotype(", "Genotype(1, "),
        DARTS_V2.replace("Genotype(", "Genotype(**{}, "),
        DARTS_V2.replace("reduce_concat", "concat"),
        DARTS_V2.replace("normal_concat=[2, 3, 4, 5], ", ""),
        DARTS_V2.replace("[2, 3, 4, 5]", "[2, 3, 3, 5]", 1),
        DARTS_V2.replace("[2, 3, 4, 5]", "[2, 3, True]", 1),
        DARTS_V2.replace("[2, 3, 4, 5]", "[]", 1),
        DARTS_V2.replace("[2, 3, 4, 5]", "range(5, 5)", 1),
        DARTS_V2.replace("[2, 3, 4, 5]", "[2, 3, 4, 5, 6]"),
        DARTS_V2.replace("[2, 3, 4, 5]", "range(1, 6)"),
        DARTS_V2.replace("[2, 3, 4, 5]", "range(6)"),
        DARTS_V2.replace("[2, 3, 4, 5]", "list(range(2, 6))"),
        DARTS_V2.replace("[2, 3, 4, 5]", "5"),
        DARTS_V2.replace("sep_conv_3x3", "sep_conv_9x9"),
        DARTS_V2.replace("'sep_conv_3x3'", "4", 1),
        DARTS_V2.replace("('sep_conv_3x3', 0)", "('sep_conv_3x3', 2)", 1),
        DARTS_V2.replace("('sep_conv_3x3', 0)", "('sep_conv_3x3', -1)", 1),
        DARTS_V2.replace("('sep_conv_3x3', 0)", "('sep_conv_3x3', True)", 1),
        DARTS_V2.replace("('sep_conv_3x3', 0)", "('sep_conv_3x3', 0, 0)", 1),
        DARTS_V2.replace("('sep_conv_3x3', 0), ", "", 1),
        DARTS_V2.replace("'sep_conv_3x3'", "__import__('os').name", 1),
        COMPACT[:-1],
        COMPACT.replace("[[", "[[(0, 1), "),
        COMPACT.replace("(0, 4)", "(0, 7)", 1),
        COMPACT.replace("(0, 4)", "(0, -1)", 1),
        COMPACT.replace("(0, 4)", "(0, True)", 1),
        COMPACT.replace("(0, 4)", "(2, 4)", 1),
        COMPACT.replace("(0, 4)", "(0.0, 4)", 1),
        COMPACT.replace("(0, 4)", "{0, 4}", 1),
        COMPACT.replace("(0, 4)", "(0, max_pool_3x3)", 1),
        f"[{COMPACT}, {COMPACT}, {COMPACT}]",
        COMPACT + "\0",
        "(" * 5_000 + ")" * 5_000,
        "-" * 9_000 + "1",
        "9" * 9_000,
        "[[" + "(0, 1), " * 20_000 + "]]",
        DARTS_V2 + "@",
        DARTS_V2 + "@channels=16",
        DARTS_V2 + "@layers=8,channels=16",
        DARTS_V2 + "@channels=0,layers=8",
        DARTS_V2 + "@channels=16,layers=-8",
        DARTS_V2 + "@channels=16,layers=8,stem=cifar",
        DARTS_V2 + "@channels=16,layers=8@channels=16,layers=8",
        DARTS_V2 + f"@channels={'9' * 50},layers=8",
        COMPACT.replace("(0, 4)", "(0, 4), (0, 4), (0, 4)", 1),
    ],
)
def test_malformed_encodings_are_refused_with_the_right_form(text):
    for read in (SPACE.parse, decode, load_benchmark("darts_swap1000").index):
        with pytest.raises(HarnessError, match=r"is not a genotype of the DARTS space .*: write it as") as caught:
            read(text)
        assert len(str(caught.value)) < 2_000


def test_a_genotype_that_is_no_member(benchmark):
    with pytest.raises(HarnessError, match=f"is none of the {len(benchmark):,} architectures of {benchmark.name}"):
        benchmark.index(DARTS_V2)


# Settings of the network ----------------------------------------------------------------------------------


def test_cards_set_the_network():
    assert load_benchmark("nasbench301").space == Darts(channels=32, layers=8, stem="cifar")
    assert load_benchmark("darts_swap1000").space == Darts(channels=16, layers=8)
    assert get_space("darts") == Darts() == Darts().configure({})
    assert Darts().configure({"layers": 20, "channels": 36}) == Darts(36, 20)


@pytest.mark.parametrize(
    ("network", "message"),
    [
        ({"depth": 3}, "no setting 'depth'"),
        ({"channels": 0}, "channels=0"),
        ({"channels": "16"}, "channels='16'"),
        ({"layers": True}, "layers=True"),
        ({"layers": 2.0}, "layers=2.0"),
        ({"stem": "mnist"}, "stem='mnist'"),
        ({"stem": "imagenet", "channels": 3}, "even channels, not 3"),
    ],
)
def test_settings_that_are_none_are_refused(network, message):
    with pytest.raises(HarnessError, match=message):
        Darts().configure(network)


def test_other_spaces_have_no_settings():
    space = get_space("nasbench201")
    assert space.configure({}) is space
    with pytest.raises(HarnessError, match="space nasbench201 has no setting 'channels': leave `network` out"):
        space.configure({"channels": 16})


# Counts ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("architecture", "space", "classes", "resolution", "published"),
    [
        # quark0/darts README: 3.349MB and 4.719MB params of its released models
        (DARTS_V2, Darts(36, 20), 10, 32, 3_349_342),
        (DARTS_V2, Darts(48, 14, "imagenet"), 1000, 224, 4_718_752),
        # chenxin061/pdarts issue 7: 3433798 without the auxiliary head
        (PDARTS, Darts(36, 20), 10, 32, 3_433_798),
    ],
)
def test_published_parameters(architecture, space, classes, resolution, published):
    architecture = space.parse(architecture)
    assert space.topology([architecture], classes, resolution)["params"] == published
    assert sum(p.numel() for p in space.build(architecture, classes).parameters()) == published


def test_parameters_of_a_training_log_of_nasbench301():
    """The log counts 6,369,358 parameters, those of the auxiliary head included."""
    width = 4 * 4 * 50
    auxiliary = 128 * width + 2 * 128 + 4 * 128 * 768 + 2 * 768 + 768 * 10 + 10
    assert Darts(50, 20).topology([encode(LOGGED)], 10, 32)["params"] + auxiliary == 6_369_358


@pytest.mark.parametrize("text", NASLIB_PARAMS)
def test_parameters_equal_those_of_naslib(text):
    """Its network is NAS-Bench-301's, less the affine parameters of the BatchNorms inside operations."""
    space = load_benchmark("nasbench301").space
    network = space.build(space.parse(text), 10)
    norms = [m for cell in network.cells for m in cell.operations.modules() if isinstance(m, nn.BatchNorm2d)]
    affine = sum(p.numel() for norm in norms for p in norm.parameters())
    assert space.topology([space.parse(text)], 10, 32)["params"] - affine == NASLIB_PARAMS[text]


def check_counts(space: Darts, architectures: Sequence[str], classes: int, resolution: int) -> tuple[int, int]:
    """Compare the formula with networks; returns in how many some parameter was out of reach, and in how many not."""
    counts = space.topology(architectures, classes, resolution)
    assert all(values.shape == (len(architectures),) and values.dtype == np.float64 for values in counts.values())
    dead = 0
    for place, architecture in enumerate(architectures):
        network = space.build(architecture, classes)
        found = {name: values[place] for name, values in counts.items()}
        subject = Subject(network, None, 0, (3, resolution, resolution), classes, torch.device("cpu"))
        assert Topology().run(subject, frozenset(found)) == found, architecture
        held = sum(p.numel() for p in network.parameters())
        assert found["params"] <= held
        dead += found["params"] < held
    return dead, len(architectures) - dead


def test_counts_equal_those_of_the_networks(benchmark):
    dead, live = check_counts(benchmark.space, members(benchmark, 12, seed=1), 10, 8)
    assert live > 0
    assert (dead > 0) == (benchmark.name == "darts_swap1000")


@pytest.mark.parametrize(
    ("space", "classes", "resolution"),
    [
        (Darts(1, 3), 3, 3),
        (Darts(3, 5), 10, 15),
        (Darts(2, 1), 2, 8),
        (Darts(2, 2), 2, 9),
        (Darts(2, 6), 4, 16),
        (Darts(4, 7, "imagenet"), 5, 64),
        (Darts(2, 1, "imagenet"), 3, 33),
        (Darts(6, 3, "imagenet"), 3, 50),
    ],
)
def test_counts_equal_those_of_other_networks(space, classes, resolution):
    rng = np.random.RandomState(resolution)
    architectures = [encode(draw(rng, nones)) for nones in (0, 0.125, 0.5, 0.7, 0.85, 0.95, 1) for _ in range(4)]
    dead, live = check_counts(space, architectures, classes, resolution)
    assert dead > 0
    assert live > 0


def test_operations_by_hand():
    normal = [(SEP3, 0), (SKIP, 1), (NONE, 0), (SKIP, 2), (DIL5, 3), (MAX_POOL, 0), (AVG_POOL, 4), (SEP5, 1)]
    reduce = [(SKIP, 0), (SEP3, 1), (SKIP, 2), (SKIP, 2), (MAX_POOL, 1), (NONE, 2), (DIL3, 0), (SEP5, 4)]
    kinds, counts = Darts(4, 3).operations([with_cells(normal, reduce)] * 2, 8)
    assert counts.shape == (2, len(kinds))
    found = {kind: number for kind, number in zip(kinds, counts[1], strict=True) if number}
    assert found == {
        Operation("convolution", 3, 4, 8): 2,
        Operation("convolution", 5, 4, 8): 3,
        Operation("pooling", 3, 4, 8): 2,
        Operation("skip", 1, 4, 8, summed=True): 1,
        Operation("skip", 1, 4, 8): 1,
        # reductions: channels 8 from side 8 to 4, and 16 from side 4 to 2
        Operation("convolution", 1, 8, 8): 1,
        Operation("convolution", 3, 8, 8): 2,
        Operation("convolution", 3, 8, 4): 1,
        Operation("convolution", 5, 8, 4): 2,
        Operation("pooling", 3, 8, 8): 1,
        Operation("skip", 1, 8, 4, summed=True): 2,
        Operation("convolution", 1, 16, 4): 1,
        Operation("convolution", 3, 16, 4): 2,
        Operation("convolution", 3, 16, 2): 1,
        Operation("convolution", 5, 16, 2): 2,
        Operation("pooling", 3, 16, 4): 1,
        Operation("skip", 1, 16, 2, summed=True): 2,
    }


def test_operations_depend_on_no_other_architecture(benchmark):
    architectures = members(benchmark, 5, seed=4)
    kinds, counts = benchmark.space.operations(architectures, 32)
    for place, architecture in enumerate(architectures):
        alone = benchmark.space.operations([architecture], 32)
        assert alone[0] == kinds
        np.testing.assert_array_equal(alone[1][0], counts[place])


# Canonical forms ------------------------------------------------------------------------------------------


def relabelled(cell: Sequence, rng: np.random.RandomState) -> tuple:
    """An isomorphic cell: nodes in another order that their inputs allow, inputs of each node in any order."""
    return relabelled_with(cell, CONCAT, rng)[0]


def relabelled_with(cell: Sequence, concat: Sequence[int], rng: np.random.RandomState) -> tuple[tuple, tuple]:
    """An isomorphic cell, and what its concat becomes."""
    orders = []
    for order in itertools.permutations(range(2, 2 + len(cell) // 2)):
        rank = {0: 0, 1: 1, **{node: 2 + place for place, node in enumerate(order)}}
        if all(rank[source] < rank[2 + place // 2] for place, (_, source) in enumerate(cell)):
            orders.append((order, rank))
    order, rank = orders[rng.randint(len(orders))]
    moved = []
    for node in order:
        pair = [(code, rank[source]) for code, source in cell[2 * node - 4 : 2 * node - 2]]
        moved += [pair[i] for i in rng.permutation(2)]
    return tuple(moved), tuple(sorted(rank[node] for node in concat))


def test_isomorphic_genotypes_share_their_keys():
    rng = np.random.RandomState(0)
    moved = 0
    for _ in range(200):
        genotype = draw(rng)
        other = Genotype(relabelled(genotype.normal, rng), relabelled(genotype.reduce, rng))
        moved += other != genotype
        assert SPACE.canonical(encode(genotype)) == SPACE.canonical(encode(other))
        assert SPACE.network_key(encode(genotype)) == SPACE.network_key(encode(other))
    assert moved > 100


@pytest.mark.parametrize("name", BENCHMARKS)
def test_members_are_all_different(name):
    benchmark = load_benchmark(name)
    assert len(benchmark.population("unique")) == len(benchmark)
    assert np.array_equal(benchmark.representatives, np.arange(len(benchmark)))


def test_network_key_refines_the_canonical_form_and_the_counts():
    rng = np.random.RandomState(1)
    early, late = [(NONE, 0), (SKIP, 0), (SEP3, 1), (MAX_POOL, 0)], [(NONE, 1), (SKIP, 2), (SKIP, 3), (AVG_POOL, 3)]

    def cell():  # of few operations, so that keys meet
        return (*(early[i] for i in rng.randint(4, size=4)), *(late[i] for i in rng.randint(4, size=4)))

    closed, some = ((NONE, 0), (NONE, 1)) * 4, [cell() for _ in range(2)]
    normals = [cell() if rng.rand() < 0.9 else closed for _ in range(600)]
    architectures = [encode(Genotype(normal, some[rng.randint(2)])) for normal in normals]
    counts = SPACE.topology(architectures, 10, 32)
    weights = ("params", "flops", "trainable_layers", "parameter_tensors")
    canonical, columns = {}, {}
    for place, architecture in enumerate(architectures):
        key = SPACE.network_key(architecture)
        assert canonical.setdefault(key, SPACE.canonical(architecture)) == SPACE.canonical(architecture)
        column = [counts[name][place] for name in weights]
        assert columns.setdefault(key, column) == column
    assert len(set(canonical.values())) < len(canonical) < len(set(architectures))


FILL = [(SEP3, 0), (SEP5, 1)]


@pytest.mark.parametrize(
    ("left", "right"),
    [
        # a pooling and a copy of nothing are nothing
        ([(NONE, 0), (NONE, 1), (MAX_POOL, 2), (SEP3, 0)], [(NONE, 1), (NONE, 1), (NONE, 0), (SEP3, 0)]),
        ([(NONE, 0), (NONE, 1), (SKIP, 2), (SEP3, 0)], [(NONE, 1), (NONE, 1), (NONE, 0), (SEP3, 0)]),
        # a convolution of a copy is one of the copied
        ([(SKIP, 0), (NONE, 1), (SEP3, 2), (SEP5, 1)], [(SKIP, 0), (NONE, 1), (SEP3, 0), (SEP5, 1)]),
        # two nodes that pool the same are the same to their readers
        (
            [(MAX_POOL, 0), (SKIP, 1), (SKIP, 1), (MAX_POOL, 0), (SEP3, 2), (SEP5, 2)],
            [(MAX_POOL, 0), (SKIP, 1), (SKIP, 1), (MAX_POOL, 0), (SEP3, 2), (SEP5, 3)],
        ),
        # convolutions of nothing are of the same nothing
        (
            [(NONE, 0), (NONE, 0), (NONE, 0), (NONE, 0), (SEP3, 2), (SEP5, 0)],
            [(NONE, 0), (NONE, 0), (NONE, 0), (NONE, 0), (SEP3, 3), (SEP5, 0)],
        ),
    ],
)
def test_genotypes_of_one_class(left, right):
    left, right = (cell + FILL * ((8 - len(cell)) // 2) for cell in (left, right))
    assert SPACE.canonical(with_cells(left)) == SPACE.canonical(with_cells(right))
    assert cell_outputs_alike(tuple(left), tuple(right))


@pytest.mark.parametrize(
    ("left", "right"),
    [
        # nodes with the same weighted operations are two
        (
            [(SEP3, 0), (SEP3, 1), (SEP3, 0), (SEP3, 1), (SEP5, 2), (DIL3, 2)],
            [(SEP3, 0), (SEP3, 1), (SEP3, 0), (SEP3, 1), (SEP5, 2), (DIL3, 3)],
        ),
        # a convolution of nothing still adds the constant of its BatchNorm
        ([(NONE, 0), (NONE, 1), (SEP3, 2), (SEP5, 0)], [(NONE, 0), (NONE, 1), (NONE, 0), (SEP5, 0)]),
        # once or twice an input
        ([(SKIP, 0), (SKIP, 0)], [(SKIP, 0), (NONE, 0)]),
        # maximum and mean
        ([(MAX_POOL, 0), (SKIP, 1)], [(AVG_POOL, 0), (SKIP, 1)]),
        # which of the two inputs is read
        ([(MAX_POOL, 0), (SKIP, 1)], [(MAX_POOL, 1), (SKIP, 0)]),
    ],
)
def test_genotypes_of_two_classes(left, right):
    left, right = (tuple(cell + FILL * ((8 - len(cell)) // 2)) for cell in (left, right))
    for reduction in (False, True):
        pairs = [Genotype(FILL * 4, c) if reduction else Genotype(c, FILL * 4) for c in (left, right)]
        keys = {SPACE.canonical(encode(Genotype(*map(tuple, pair[:2])))) for pair in pairs}
        assert len(keys) == 2
    assert not cell_outputs_alike(left, right)


def test_a_skip_of_a_reduction_has_weights():
    """Copies of inputs that are merged in a normal cell are not in a reduction, nor those of inner nodes there."""
    left = [(SKIP, 0), (NONE, 0), (SEP3, 2), (SEP5, 1), *FILL, *FILL]
    right = [(SKIP, 0), (NONE, 0), (SEP3, 0), (SEP5, 1), *FILL, *FILL]
    assert SPACE.canonical(with_cells(left)) == SPACE.canonical(with_cells(right))
    assert SPACE.canonical(with_cells(FILL * 4, left)) != SPACE.canonical(with_cells(FILL * 4, right))
    left = [*FILL, (SKIP, 2), (NONE, 0), (SEP3, 3), (SEP5, 1), *FILL]
    right = [*FILL, (SKIP, 2), (NONE, 0), (SEP3, 2), (SEP5, 1), *FILL]
    assert SPACE.canonical(with_cells(FILL * 4, left)) == SPACE.canonical(with_cells(FILL * 4, right))


def test_cells_that_no_later_cell_reads():
    closed = [(NONE, 0), (NONE, 1)] * 4  # the last cells are normal: what comes before them does not matter
    left, right = with_cells(closed, FILL * 4), with_cells(closed, [(SEP3, 0), (DIL3, 1)] * 4)
    assert SPACE.canonical(left) == SPACE.canonical(right)
    assert SPACE.network_key(left) != SPACE.network_key(right)
    # With three cells the last one is a reduction.
    short = Darts(4, 3)
    assert short.canonical(left) != short.canonical(right)
    assert short.canonical(with_cells(FILL * 4, closed)) == short.canonical(with_cells([(SEP3, 0)] * 8, closed))


def test_functions_of_networks_with_one_canonical_form():
    """A dead reduction cell: both networks compute the same function of the weights that they share."""
    closed = [(NONE, 0), (NONE, 1)] * 4
    images = torch.randn(2, 3, 8, 8)
    outputs = []
    for reduce in (FILL * 4, [(SEP3, 0), (DIL3, 1)] * 4):
        network = Darts(2, 8).build(with_cells(closed, reduce), 3).eval()
        with torch.no_grad():
            network.classifier.bias.copy_(torch.tensor([1.0, 2.0, 3.0]))
        outputs.append(network(images))
    assert torch.equal(*outputs)


def cell_outputs_alike(left: tuple, right: tuple) -> bool:
    """Whether some assignment of weights makes normal cells compute the same up to the order of the nodes."""
    torch.manual_seed(0)
    inputs = torch.randn(2, 4, 5, 5, dtype=torch.float64), torch.randn(2, 4, 5, 5, dtype=torch.float64)
    cells = [Cell(cell, (4, 4), 3, False, False).double().eval() for cell in (left, right)]
    for module in cells[0].modules():
        if isinstance(module, nn.BatchNorm2d):
            for value in (module.weight, module.bias, module.running_mean):
                nn.init.normal_(value)
    for name in ("preprocess0", "preprocess1"):
        getattr(cells[1], name).load_state_dict(getattr(cells[0], name).state_dict())
    weighted = [[(code, str(i)) for i, (code, _) in enumerate(cell) if code in SEPARABLE] for cell in (left, right)]
    if sorted(code for code, _ in weighted[0]) != sorted(code for code, _ in weighted[1]):
        # A weighted operation more: alike only if it adds nothing, whatever its weights.
        return False
    with torch.no_grad():
        wanted = sorted_blocks(cells[0](*inputs))
        for order in itertools.permutations(weighted[0]):
            if [code for code, _ in order] != [code for code, _ in weighted[1]]:
                continue
            for (_, source), (_, target) in zip(order, weighted[1], strict=True):
                cells[1].operations[target].load_state_dict(cells[0].operations[source].state_dict())
            if torch.allclose(sorted_blocks(cells[1](*inputs)), wanted, rtol=1e-9, atol=1e-9):
                return True
    return False


def sorted_blocks(output: torch.Tensor) -> torch.Tensor:
    """The four nodes of a cell's output, in an order that does not depend on how they are numbered."""
    return torch.stack(sorted(output.chunk(4, dim=1), key=lambda block: round(float(block.sum()), 6)))


def test_isomorphic_cells_compute_the_same():
    rng = np.random.RandomState(3)
    for _ in range(15):
        cell = draw(rng, 0.2).normal
        if sum(code in SEPARABLE for code, _ in cell) <= 5:
            assert cell_outputs_alike(cell, relabelled(cell, rng)), cell


# Other cell spaces ----------------------------------------------------------------------------------------

# The cells of NASNet-A and AmoebaNet-A as facebookresearch/unnas writes them (pycls/models/nas/genotypes.py).
NASNET = (
    "Genotype(normal=[('sep_conv_5x5', 1), ('sep_conv_3x3', 0), ('sep_conv_5x5', 0), ('sep_conv_3x3', 0), "
    "('avg_pool_3x3', 1), ('skip_connect', 0), ('avg_pool_3x3', 0), ('avg_pool_3x3', 0), ('sep_conv_3x3', 1), "
    "('skip_connect', 1)], normal_concat=[2, 3, 4, 5, 6], reduce=[('sep_conv_5x5', 1), ('sep_conv_7x7', 0), "
    "('max_pool_3x3', 1), ('sep_conv_7x7', 0), ('avg_pool_3x3', 1), ('sep_conv_5x5', 0), ('skip_connect', 3), "
    "('avg_pool_3x3', 2), ('sep_conv_3x3', 2), ('max_pool_3x3', 1)], reduce_concat=[4, 5, 6])"
)
AMOEBANET = (
    "Genotype(normal=[('avg_pool_3x3', 0), ('max_pool_3x3', 1), ('sep_conv_3x3', 0), ('sep_conv_5x5', 2), "
    "('sep_conv_3x3', 0), ('avg_pool_3x3', 3), ('sep_conv_3x3', 1), ('skip_connect', 1), ('skip_connect', 0), "
    "('avg_pool_3x3', 1)], normal_concat=[4, 5, 6], reduce=[('avg_pool_3x3', 0), ('sep_conv_3x3', 1), "
    "('max_pool_3x3', 0), ('sep_conv_7x7', 2), ('sep_conv_7x7', 0), ('avg_pool_3x3', 1), ('max_pool_3x3', 0), "
    "('max_pool_3x3', 1), ('conv_7x1_1x7', 0), ('sep_conv_3x3', 5)], reduce_concat=[3, 4, 6])"
)


def draw_any(rng: np.random.RandomState, own_size: bool = True) -> Genotype:
    """A genotype of any operations, nodes and concats, and small."""
    fields = {}
    for name in ("normal", "reduce"):
        nodes = int(rng.choice(NODE_COUNTS))
        codes = [int(rng.randint(len(OPERATIONS))) for _ in range(2 * nodes)]
        fields[name] = tuple((code, int(rng.randint(2 + place // 2))) for place, code in enumerate(codes))
        chosen = 2 + rng.permutation(nodes)[: rng.randint(1, nodes + 1)]
        fields[f"{name}_concat"] = tuple(sorted(chosen.tolist()))
    if own_size:
        fields |= {"channels": int(2 * rng.randint(1, 4)), "layers": int(rng.randint(1, 7))}
    return Genotype(**fields)


@pytest.mark.parametrize("text", [NASNET, AMOEBANET, AMOEBANET + "@channels=24,layers=11"])
def test_cells_of_nds_are_read_and_written(text):
    assert SPACE.parse(text) == encode(decode(text)) == text
    assert SPACE.parse(text.replace("[4, 5, 6]", "[6, 4, 5]").replace(",layers", ", layers")) == text
    assert len(decode(text).normal) == 10
    assert decode(text).reduce_concat[-1] == 6


def test_genotypes_of_darts_itself():
    assert is_of_darts(decode(DARTS_V2))
    assert is_of_darts(decode(COMPACT))
    for text in (NASNET, DARTS_V2 + "@channels=16,layers=8", DARTS_V2.replace("[2, 3, 4, 5]", "[4, 5]", 1)):
        assert not is_of_darts(decode(text))
    assert not is_of_darts(decode(DARTS_V2.replace("skip_connect", "conv_1x1")))


def test_size_behind_a_genotype():
    genotype = decode(COMPACT + " @ channels=24,layers=11")
    assert (genotype.channels, genotype.layers) == (24, 11)
    assert encode(genotype) == encode(decode(COMPACT)) + "@channels=24,layers=11"
    plain, own = SPACE.parse(COMPACT), SPACE.parse(COMPACT + "@channels=16,layers=8")
    assert plain != own
    for key in (SPACE.canonical, SPACE.network_key):
        assert key(plain) == key(own) == Darts(24, 11).canonical(own).removesuffix("@channels=16,layers=8")
        assert len({key(plain), key(f"{plain}@channels=16,layers=9"), key(f"{plain}@channels=18,layers=8")}) == 3
    counts = SPACE.topology([f"{DARTS_V2}@channels=36,layers=20", DARTS_V2], 10, 32)
    assert counts["params"].tolist() == [3_349_342, SPACE.topology([DARTS_V2], 10, 32)["params"][0]]
    network = SPACE.build(f"{DARTS_V2}@channels=4,layers=5", 10)
    assert len(network.cells) == 5
    assert network.stem[0].out_channels == 12


def test_the_imagenet_stem_refuses_odd_channels_of_its_own():
    space, text = Darts(48, 14, "imagenet"), f"{DARTS_V2}@channels=15,layers=8"
    assert SPACE.parse(text) == text
    calls = (space.parse, lambda t: space.build(t, 10), lambda t: space.topology([t], 10, 32), space.network_key)
    for read in calls:
        with pytest.raises(HarnessError, match="the imagenet stem needs even channels, not 15: change the number"):
            read(text)


@pytest.mark.parametrize(("stem", "resolution"), [("cifar", 9), ("imagenet", 33)])
def test_counts_of_any_cells_in_networks_of_any_size(stem, resolution):
    rng = np.random.RandomState(resolution)
    space = Darts(4, 5, stem)
    genotypes = [draw_any(rng, own_size=place % 5 > 0) for place in range(20)]
    architectures = [encode(genotype) for genotype in genotypes]
    assert [decode(space.parse(a)) for a in architectures] == genotypes
    assert {code for g in genotypes for cell, _ in g.cells for code, _ in cell} == set(range(len(OPERATIONS)))
    dead, live = check_counts(space, architectures, 7, resolution)
    assert dead > 0
    assert live > 0
    kinds, numbers = space.operations(architectures, resolution)
    for place in (0, 17):
        alone, (number,) = space.operations([architectures[place]], resolution)
        together = {kind: count for kind, count in zip(kinds, numbers[place], strict=True) if count}
        assert {kind: count for kind, count in zip(alone, number, strict=True) if count} == together


def test_operations_of_nds_by_hand():
    normal = [(SEP7, 0), (MAX_POOL5, 1), (CONV1, 0), (CONV3, 2), (CONV31, 3), (MAX_POOL7, 0)]
    normal += [(CONV71, 4), (DIL_SEP3, 1)]
    kinds, counts = Darts().operations([f"{with_cells(normal)}@channels=4,layers=1", with_cells(normal)], 8)
    found = {kind: number for kind, number in zip(kinds, counts[0], strict=True) if number}
    # One cell, which is a reduction: SEP3 on inputs 0 and 1, four times.
    assert found == {Operation("convolution", 3, 8, 8): 8, Operation("convolution", 3, 8, 4): 8}
    found = {kind: number for kind, number in zip(kinds, counts[1], strict=True) if kind.channels == 16 and number}
    assert found == {  # the two cells before the first reduction
        Operation("convolution", 7, 16, 8): 2 * 3,  # sep_conv_7x7 twice, the row and column of conv_7x1_1x7 once
        Operation("convolution", 3, 16, 8): 2 * 4,  # conv_3x3, conv_3x1_1x3, dil_sep_conv_3x3 twice
        Operation("convolution", 1, 16, 8): 2,
        Operation("pooling", 5, 16, 8): 2,
        Operation("pooling", 7, 16, 8): 2,
    }


@pytest.mark.parametrize(("code", "kernel"), [(CONV31, 3), (CONV71, 7)])
def test_a_row_and_a_column_of_taps(code, kernel):
    module = operation(code, 2, 2).eval()
    x = torch.randn(1, 2, 8, 8)
    rows, columns = module[1].weight, module[2].weight
    both = torch.einsum("oihk,mohj->mijk", rows, columns.transpose(2, 3))  # taps of the one convolution they make
    one = nn.functional.conv2d(x.relu(), both, stride=2, padding=kernel // 2)
    torch.testing.assert_close(module[2](module[1](module[0](x))), one, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("code", "kind"), [(MAX_POOL5, nn.MaxPool2d), (MAX_POOL7, nn.MaxPool2d), (AVG_POOL, nn.AvgPool2d)]
)
def test_poolings_keep_or_halve_the_side(code, kind):
    for stride, side in ((1, 9), (2, 5)):
        module = operation(code, 2, stride)
        assert isinstance(module, kind)
        assert module(torch.randn(1, 2, 9, 9)).shape == (1, 2, side, side)


def test_nodes_that_are_not_concatenated():
    tail = [(SEP3, 0), (SEP3, 1)]
    cell = [*tail, (SEP5, 0), (DIL3, 1), (MAX_POOL, 0), (SKIP, 1), *tail]  # nodes 3 and 4 are read by none

    def keys(concat, cell=cell):
        text = encode(Genotype(tuple(cell), tuple(FILL * 4), concat))
        return SPACE.network_key(text), SPACE.canonical(text)

    network, canonical = keys((2, 5))
    other = [*cell[:4], (AVG_POOL, 0), (AVG_POOL, 1), *cell[6:]]
    assert keys((2, 5), other) == (network, canonical)  # of poolings nothing is left
    other = [*cell[:2], (SEP5, 0), (SEP5, 1), *cell[4:]]
    assert keys((2, 5), other)[0] != network
    assert keys((2, 5), other)[1] == canonical
    assert keys((2, 3, 5))[1] != canonical
    assert keys((3, 5))[1] != canonical

    images = torch.randn(2, 3, 8, 8)
    outputs = []
    for chosen in (cell, other):
        torch.manual_seed(0)
        network = Darts(2, 4).build(encode(Genotype(tuple(chosen), tuple(FILL * 4), (2, 5))), 3).eval()
        for name, parameter in network.named_parameters():  # the same for what both have
            generator = torch.Generator().manual_seed(stable_seed(name) % 2**31)
            nn.init.normal_(parameter, generator=generator)
        outputs.append(network(images))
    assert torch.equal(*outputs)
    assert outputs[0].std() > 0


def test_isomorphic_cells_of_five_nodes_share_their_keys():
    rng = np.random.RandomState(0)
    moved = 0
    for _ in range(60):
        genotype = draw_any(rng)._replace(normal=(), normal_concat=())
        nodes = 5
        codes = [int(rng.randint(len(OPERATIONS))) for _ in range(2 * nodes)]
        cell = tuple((code, int(rng.randint(2 + place // 2))) for place, code in enumerate(codes))
        concat = tuple(sorted((2 + rng.permutation(nodes)[:3]).tolist()))
        other, other_concat = relabelled_with(cell, concat, rng)
        moved += other != cell
        pair = [genotype._replace(normal=c, normal_concat=n) for c, n in ((cell, concat), (other, other_concat))]
        for key in (SPACE.canonical, SPACE.network_key):
            assert len({key(encode(one)) for one in pair}) == 1
    assert moved > 30


# The network ----------------------------------------------------------------------------------------------


def test_feature_maps_of_the_stages():
    network = Darts(4, 8).build(DARTS_V2, 10).eval()
    shapes = []
    for stage in network.stages:
        stage.register_forward_hook(lambda module, args, output: shapes.append(tuple(output.shape[1:])))
    with torch.no_grad():
        network(torch.zeros(1, 3, 32, 32))
    assert shapes == [(12, 32, 32)] + [(16, 32, 32)] * 2 + [(32, 16, 16)] * 3 + [(64, 8, 8)] * 3


def test_feature_maps_with_the_imagenet_stem():
    network = Network(decode(DARTS_V2), 5, channels=4, layers=5, stem="imagenet").eval()
    shapes = []
    for stage in network.stages:
        stage.register_forward_hook(lambda module, args, output: shapes.append(tuple(output.shape[1:])))
    with torch.no_grad():
        assert network(torch.zeros(1, 3, 64, 64)).shape == (1, 5)
    assert shapes == [(4, 8, 8), (16, 8, 8), (32, 4, 4), (32, 4, 4), (64, 2, 2), (64, 2, 2)]


@pytest.mark.parametrize(
    ("layers", "places"), [(1, [0]), (2, [0, 1]), (3, [1, 2]), (8, [2, 5]), (14, [4, 9]), (20, [6, 13])]
)
def test_places_of_the_reductions(layers, places):
    assert [place for place, reduction in enumerate(reductions(layers)) if reduction] == places


def test_a_cell_by_hand():
    cell = ((SKIP, 0), (SKIP, 1), (SKIP, 2), (MAX_POOL, 0), (NONE, 0), (NONE, 3), (SKIP, 4), (AVG_POOL, 1))
    module = Cell(cell, (2, 2), 2, False, False)
    module.preprocess0, module.preprocess1 = nn.Identity(), nn.Identity()
    one, two = torch.randn(1, 2, 4, 4), torch.ones(1, 2, 4, 4)
    two_three_four_five = module(one, two).chunk(4, dim=1)
    expected = [one + two, one + two + nn.functional.max_pool2d(one, 3, 1, 1), torch.zeros_like(one), two]
    for found, value in zip(two_three_four_five, expected, strict=True):
        torch.testing.assert_close(found, value)


def test_nothing_but_none_gives_zeros():
    for reduction, side in ((False, 6), (True, 3)):
        cell = Cell(((NONE, 0), (NONE, 1)) * 4, (2, 2), 5, reduction, False)
        output = cell(torch.randn(2, 2, 6, 6), torch.randn(2, 2, 6, 6))
        assert torch.equal(output, torch.zeros(2, 20, side, side))
        assert not output.requires_grad


def test_factorized_reduce_reads_even_and_odd_pixels():
    reduce = FactorizedReduce(3, 4).eval()
    images = torch.randn(2, 3, 6, 6)
    rectified = images.relu()
    halves = [reduce.conv_1(rectified), reduce.conv_2(rectified[:, :, 1:, 1:])]
    torch.testing.assert_close(reduce(images), reduce.norm(torch.cat(halves, dim=1)))
    assert reduce(torch.randn(2, 3, 5, 7)).shape == (2, 4, 3, 4)
    assert reduce(torch.randn(2, 3, 1, 1)).shape == (2, 4, 1, 1)


@pytest.mark.parametrize("space", [Darts(), Darts(48, 14, "imagenet")])
def test_thin_network(space):
    network = space.build(DARTS_V2, 10, thin=True)
    assert len(network.cells) == 3
    assert network.cells[0].preprocess1[1].out_channels == (1 if space.stem == "cifar" else 2)
    subject = Subject(network, None, 0, (3, 32, 32), 10, torch.device("cpu"))
    assert 1 <= LinearRegions(samples=50).run(subject, frozenset({"regions"}))["regions"] <= 50


def test_swap_in_one_cell_that_reads_the_images():
    """Distinct patterns over one reduction cell of six channels on the images themselves, without a stem."""
    scorer = Scorer(Job("darts_swap1000", "cifar10", ("swap",), device="cpu"))
    subject = scorer.subject(3)
    cell = subject.cell()
    assert [type(m) for m in cell.network.children() if list(m.parameters())] == [nn.ModuleList, nn.Linear]
    (only,) = cell.network.cells
    assert only.reduction
    assert only.preprocess0[1].weight.shape == only.preprocess1[1].weight.shape == (6, 3, 1, 1)

    label = "swap:cell=True:repeats=1:batch_size=12"
    met = set()

    def keep(module, args, output):
        met.update(map(tuple, (output > 0).reshape(len(output), -1).T.tolist()))

    cell.initialise("gaussian")
    with torch.no_grad(), hooked([(m, keep) for m in cell.network.modules() if isinstance(m, nn.ReLU)]):
        cell.network(cell.images(12)[0])
    (result,) = score_subject(subject, [get_proxy(label)]).values()
    assert result.score == len(met) < 2**12


def test_a_space_without_a_network_of_one_cell_says_so():
    scorer = Scorer(Job("nasbench201", "cifar10", ("swap",), device="cpu"))
    (result,) = score_subject(scorer.subject(0), [get_proxy("swap:cell=True")]).values()
    assert result.score is None
    assert "no network of one cell" in result.status


def test_regions_network_of_a_normal_cell_and_a_reduction():
    """TE-NAS's: one channel and two, no stem, all nodes of both cells, images of one channel."""
    network = Darts().build_regions(DARTS_V2, 10)
    normal, reduction = network.cells
    assert [cell.reduction for cell in network.cells] == [False, True]
    assert normal.preprocess0[1].weight.shape == normal.preprocess1[1].weight.shape == (1, 1, 1, 1)
    assert reduction.preprocess0[1].weight.shape == (2, 1, 1, 1)
    assert reduction.preprocess1[1].weight.shape == (2, 4, 1, 1)
    assert network.last[0].num_features == 8
    assert network(torch.randn(5, 1, 3, 3)).shape == (5, 10)
