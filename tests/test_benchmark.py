"""Tests of the embedded benchmarks: cards, accuracies, populations, damaged files, known correlations."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from scipy import stats

from harness.benchmarks.benchmark import Benchmark, list_benchmarks, load_benchmark
from harness.errors import HarnessError, UnknownNameError
from harness.paths import data_dir

NAMES = sorted(card.parent.name for card in data_dir("benchmarks").glob("*/card.yaml"))
POPULATION_SIZES = {
    "nasbench201": {"all": 15_625, "unique": 5_875, "no_dead_ops": 9_445, "unique_strings": 6_466},
    "autoformer_small": {"params_15_19m": 298},
    "autoformer_base": {"params_45_47m": 72},
}


@pytest.fixture(scope="module")
def benchmark() -> Benchmark:
    return load_benchmark("nasbench201")


@pytest.fixture
def copied(tmp_path) -> Path:
    """A folder with the benchmark's two files, which the test may damage."""
    return Path(shutil.copytree(data_dir("benchmarks") / "nasbench201", tmp_path / "nasbench201"))


# Every embedded benchmark ---------------------------------------------------------------------------------


def test_nasbench201_is_embedded():
    assert "nasbench201" in NAMES
    assert sorted(list_benchmarks()) == NAMES
    assert all(title.strip() for title in list_benchmarks().values())


@pytest.mark.parametrize("name", NAMES)
def test_card_and_file_agree(name):
    benchmark = load_benchmark(name)
    assert benchmark.name == name
    assert load_benchmark(name) is benchmark
    for key in ("title", "origin", "licence", "citation"):
        assert benchmark.card[key].strip()
    assert len(benchmark) == len(benchmark.architectures)
    assert len(set(benchmark.architectures)) == len(benchmark) - benchmark.card.get("repeated", 0)
    assert benchmark.has_accuracies
    path = benchmark.files / "accuracies.parquet"
    assert hashlib.sha256(path.read_bytes()).hexdigest() == benchmark.card["sha256"]
    table = pq.read_table(path)
    assert len(benchmark) == table.num_rows
    if "index" in table.column_names:
        assert table["index"].to_pylist() == list(range(len(benchmark)))
    for dataset, columns in benchmark.card["targets"].items():
        assert dataset in benchmark.datasets
        assert benchmark.card["default_target"] in columns
        assert set(columns.values()) <= set(table.column_names)
    assert set(benchmark.card["targets"]) == set(benchmark.datasets)


@pytest.mark.parametrize("name", NAMES)
def test_known_values(name):
    benchmark = load_benchmark(name)
    assert benchmark.card["known_values"]
    for known in benchmark.card["known_values"]:
        found = getattr(benchmark.accuracies(known["dataset"], known["target"]), known["statistic"])()
        assert found == pytest.approx(known["value"], abs=known["tolerance"]), known


@pytest.mark.parametrize("name", NAMES)
def test_accuracies_are_percentages_in_index_order(name):
    benchmark = load_benchmark(name)
    for dataset, columns in benchmark.card["targets"].items():
        for target in columns:
            accuracies = benchmark.accuracies(dataset, target)
            assert accuracies.index.tolist() == list(range(len(benchmark)))
            present = accuracies.dropna()
            assert len(present) > 0
            if dataset not in benchmark.card.get("units", {}):
                assert present.between(0, 100).all()
                assert present.max() > 5  # percent, and no fraction
        default = benchmark.accuracies(dataset)
        assert default.notna().all()
        assert default.equals(benchmark.accuracies(dataset, benchmark.card["default_target"]))


@pytest.mark.parametrize("name", NAMES)
def test_populations(name):
    benchmark = load_benchmark(name)
    everything = np.arange(len(benchmark))
    for population in (*benchmark.space.populations, *benchmark.populations_of_card):
        members = benchmark.population(population)
        assert np.array_equal(members, np.unique(members))
        assert np.isin(members, everything).all()
        expected = POPULATION_SIZES.get(name, {}).get(population)
        assert expected is None or len(members) == expected
    assert np.array_equal(benchmark.population(), everything)
    unique = benchmark.population("unique")
    chosen = everything if len(benchmark) <= 50_000 else everything[:: len(benchmark) // 1000]
    canonical = {int(i): benchmark.space.canonical(benchmark.architectures[i]) for i in chosen}
    first = {}
    for index, key in canonical.items():
        first.setdefault(key, index)
    if len(chosen) == len(benchmark):
        assert unique.tolist() == sorted(first.values())
    elif benchmark.space.distinct:
        assert len(unique) == len(benchmark)
        assert len(first) == len(chosen)


# NAS-Bench-201 --------------------------------------------------------------------------------------------


def test_datasets_and_targets(benchmark):
    found = {d.name: (d.classes, d.resolution) for d in benchmark.datasets.values()}
    assert found == {"cifar10": (10, 32), "cifar100": (100, 32), "ImageNet16-120": (120, 16)}
    assert "15,625 architectures" in repr(benchmark)
    assert benchmark.accuracies("cifar10", "test_12ep")[0] == 69.55
    assert benchmark.accuracies("cifar10")[0] == pytest.approx(85.863333, abs=1e-6)
    best = int(benchmark.accuracies("cifar10").idxmax())
    assert benchmark.architectures[best] == (
        "|nor_conv_3x3~0|+|nor_conv_3x3~0|nor_conv_3x3~1|+|skip_connect~0|nor_conv_3x3~1|nor_conv_1x1~2|"
    )


def test_missing_figures_are_nan(benchmark):
    assert benchmark.accuracies("cifar10", "edgetpu_latency").notna().sum() == 10_926


@pytest.mark.parametrize("dataset", ["cifar10", "cifar100", "ImageNet16-120"])
def test_all_cells_have_validation_accuracies_and_a_single_run(benchmark, dataset):
    """They rank the cells nearly as the test accuracies do, and are none of each other's columns."""
    test = benchmark.accuracies(dataset)
    for target, least, most in (("valid_200ep", 0.98, 0.997), ("test_200ep_seed888", 0.98, 0.9995)):
        found = benchmark.accuracies(dataset, target)
        assert found.notna().all()
        assert least < stats.spearmanr(found, test).statistic < most
    assert not benchmark.accuracies(dataset, "valid_200ep").equals(benchmark.accuracies(dataset, "test_200ep_seed888"))


def test_representatives_are_the_first_of_their_network(benchmark):
    first: dict[str, int] = {}
    keys = [benchmark.space.network_key(a) for a in benchmark.architectures]
    for index, key in enumerate(keys):
        first.setdefault(key, index)
    assert benchmark.representatives.tolist() == [first[key] for key in keys]
    assert len(first) < len(benchmark)


@pytest.mark.parametrize(
    ("call", "nearest"),
    [
        (lambda b: load_benchmark("nasbench-201"), "nasbench201"),
        (lambda b: b.dataset("cifar-10"), "cifar10"),
        (lambda b: b.accuracies("imagenet16-120"), "ImageNet16-120"),
        (lambda b: b.accuracies("cifar10", "test_200"), "test_200ep"),
        (lambda b: b.population("no_dead_op"), "no_dead_ops"),
        (lambda b: b.population("no_dead_opps.sample(3, seed=0)"), "no_dead_ops"),
    ],
)
def test_unknown_names_are_answered_with_the_nearest(benchmark, call, nearest):
    with pytest.raises(UnknownNameError) as caught:
        call(benchmark)
    assert f"did you mean {nearest!r}?" in str(caught.value)


def test_a_target_is_looked_for_in_its_dataset(benchmark):
    with pytest.raises(UnknownNameError, match=r"target of nasbench201/cifar100 'edgegpu_latency'"):
        benchmark.accuracies("cifar100", "edgegpu_latency")


# Samples --------------------------------------------------------------------------------------------------


def test_samples_are_the_same_everywhere(benchmark):
    """Regression: stored scores and published figures refer to these architectures."""
    assert benchmark.population("no_dead_ops.sample(1000, seed=0)")[:5].tolist() == [1, 2, 23, 28, 31]
    assert benchmark.population("sample(1000, seed=0)")[:5].tolist() == [33, 60, 85, 139, 148]
    assert benchmark.population("no_dead_ops.sample(10, seed=1)").tolist() == [
        *(438, 497, 1891, 3927, 8600),
        *(9025, 12142, 13821, 14585, 15296),
    ]


def test_samples_depend_on_nothing_global(benchmark):
    np.random.seed(1)
    first = benchmark.population("sample(50, seed=3)")
    np.random.seed(2)
    assert np.array_equal(benchmark.population("sample(50, seed=3)"), first)


@pytest.mark.parametrize("base", ["", "unique.", "no_dead_ops."])
def test_samples_are_members_and_nested(benchmark, base):
    members = benchmark.population(base.rstrip(".") or "all")
    smaller: set[int] = set()
    for n in (1, 10, 100, 1000, len(members)):
        drawn = benchmark.population(f"{base}sample({n}, seed=7)")
        assert len(drawn) == n
        assert np.array_equal(drawn, np.unique(drawn))
        assert np.isin(drawn, members).all()
        assert smaller <= set(drawn.tolist())
        smaller = set(drawn.tolist())
    assert smaller == set(members.tolist())


def test_samples_differ_by_seed_and_by_base(benchmark):
    drawn = [benchmark.population(f"{base}sample(100, seed={s})") for base in ("", "unique.") for s in (0, 1)]
    assert len({tuple(indices) for indices in drawn}) == 4


@pytest.mark.parametrize(
    "text",
    [
        "no_dead_ops.sample(10, seed=1)",
        " no_dead_ops.sample( 10 , seed = 1 ) ",
        "no_dead_ops.sample(10, 1)",
        "no_dead_ops/sample(10,seed=1)",
        "no_dead_ops:sample(10,1)",
    ],
)
def test_spellings_of_a_sample(benchmark, text):
    expected = benchmark.population("no_dead_ops.sample(10, seed=1)")
    assert np.array_equal(benchmark.population(text), expected)


def test_seed_zero_is_the_default(benchmark):
    drawn = benchmark.population("sample(10)")
    assert np.array_equal(drawn, benchmark.population("sample(10, seed=0)"))
    assert np.array_equal(drawn, benchmark.population("all.sample(10)"))


@pytest.mark.parametrize(
    ("text", "size"), [("sample(15626)", 15_625), ("unique.sample(5876)", 5_875), ("no_dead_ops.sample(9446)", 9_445)]
)
def test_a_sample_larger_than_its_population_is_refused(benchmark, text, size):
    with pytest.raises(HarnessError, match=f"of {size} architectures: lower n"):
        benchmark.population(text)


def test_a_sample_of_none_is_refused(benchmark):
    with pytest.raises(HarnessError, match="asks for no architecture: give n of at least 1"):
        benchmark.population("no_dead_ops.sample(0, seed=0)")


@pytest.mark.parametrize(
    "text", ["", "sample", "sample()", "sample(-1)", "sample(3, seed=x)", "sample(3", "no_dead_ops."]
)
def test_malformed_populations_are_refused(benchmark, text):
    with pytest.raises(UnknownNameError, match="unknown population"):
        benchmark.population(text)


# Damaged files --------------------------------------------------------------------------------------------


def test_a_copy_of_the_folder_is_a_benchmark(copied, benchmark):
    other = Benchmark(copied)
    assert other.accuracies("cifar100").equals(benchmark.accuracies("cifar100"))


def test_truncated_file_is_refused(copied):
    path = copied / "accuracies.parquet"
    path.write_bytes(path.read_bytes()[:-1000])
    for read in (lambda b: b.accuracies("cifar10"), lambda b: b.architectures, lambda b: b.population("unique")):
        with pytest.raises(HarnessError, match="damaged") as caught:
            read(Benchmark(copied))
        assert str(path) in str(caught.value)
        assert "restore the file" in str(caught.value)


def test_altered_accuracies_are_refused(copied):
    path = copied / "accuracies.parquet"
    table = pq.read_table(path)
    place = table.column_names.index("cifar10_test_200ep")
    altered = table["cifar10_test_200ep"].to_numpy().copy()
    altered[4] += 0.001
    pq.write_table(table.set_column(place, "cifar10_test_200ep", pa.array(altered)), path)
    with pytest.raises(HarnessError, match="its sha256 is") as caught:
        Benchmark(copied).accuracies("cifar10")
    assert str(path) in str(caught.value)


def test_missing_file_is_refused(copied):
    (copied / "accuracies.parquet").unlink()
    with pytest.raises(HarnessError, match="is missing") as caught:
        Benchmark(copied).accuracies("cifar10")
    assert str(copied / "accuracies.parquet") in str(caught.value)


def test_scoring_never_reads_accuracies(copied):
    """Between an architecture and its scores no accuracy is read: the file may hold none."""
    path = copied / "accuracies.parquet"
    pq.write_table(pq.read_table(path, columns=["index", "arch_str"]), path)
    card = copied / "card.yaml"
    old = load_benchmark("nasbench201").card["sha256"]
    card.write_text(card.read_text().replace(old, hashlib.sha256(path.read_bytes()).hexdigest()))
    bare = Benchmark(copied)
    assert len(bare.population("no_dead_ops.sample(10, seed=1)")) == 10
    assert len(bare.representatives) == 15_625
    assert bare.index(bare.architectures[9]) == 9
    assert bare.space.topology(bare.architectures[:2], 10, 32)["flops"].shape == (2,)


# Known correlations of the counts -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dataset", "flops", "layers"),
    [("cifar10", 0.623, 0.626), ("cifar100", 0.588, 0.646), ("ImageNet16-120", 0.547, 0.623)],
)
def test_kendall_of_the_counts_over_no_dead_ops(benchmark, dataset, flops, layers):
    spec = benchmark.dataset(dataset)
    members = benchmark.population("no_dead_ops")
    counts = benchmark.space.topology(benchmark.architectures, spec.classes, spec.resolution)
    accuracies = benchmark.accuracies(dataset).to_numpy()[members]
    for name, expected in (("flops", flops), ("trainable_layers", layers)):
        found = stats.kendalltau(counts[name][members], accuracies).statistic
        assert found == pytest.approx(expected, abs=0.001), name


def test_correlations_of_flops_over_all(benchmark):
    flops = benchmark.space.topology(benchmark.architectures, 10, 32)["flops"]
    accuracies = benchmark.accuracies("cifar10").to_numpy()
    assert stats.kendalltau(flops, accuracies).statistic == pytest.approx(0.578, abs=0.001)
    assert stats.spearmanr(flops, accuracies).statistic == pytest.approx(0.753, abs=0.001)


def test_an_index_is_looked_up_by_text():
    benchmark = load_benchmark("nasbench201")
    assert benchmark.index(benchmark.architectures[5]) == 5
    with pytest.raises(HarnessError, match=r"takes the text of an architecture, not 5: architectures\[INDEX\]"):
        benchmark.index(5)
