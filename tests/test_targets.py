"""Tests of what a benchmark stores beside accuracies: latency, energy, accuracy under attack."""

from __future__ import annotations

import csv
import hashlib
import itertools
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from scipy import stats

from harness import cli
from harness.benchmarks.benchmark import Benchmark, Target, list_targets, load_benchmark
from harness.errors import HarnessError, UnknownNameError

BENCHMARK = load_benchmark("nasbench201")
SAMPLE = "no_dead_ops.sample(400, seed=1)"
ATTACKS = ("fgsm", "pgd", "aa_apgd-ce", "aa_square")


def figures(target: str) -> np.ndarray:
    return BENCHMARK.accuracies("cifar10", target).to_numpy()


def strengths(attack: str) -> list[str]:
    """The targets of an attack, the weakest first."""
    found = [name for name in BENCHMARK.targets("cifar10") if name.startswith(f"{attack}@Linf_eps-")]
    return sorted(found, key=lambda name: float(name.rpartition("-")[2]))


# The card -------------------------------------------------------------------------------------------------


def test_every_table_of_a_card_is_described_in_full():
    tables = BENCHMARK.card["tables"]
    assert set(tables) == {path.name for path in BENCHMARK.folder.glob("*.parquet")} - {"accuracies.parquet"}
    for file, table in tables.items():
        assert all(table[key].strip() for key in ("title", "notes", "origin", "licence", "citation"))
        stored = pq.read_table(BENCHMARK.folder / file)
        assert stored["index"].to_pylist() == list(range(len(BENCHMARK)))
        named = [column for group in table["figures"] for column in group["columns"]]
        assert sorted(named) == sorted(set(stored.column_names) - {"index"})
        assert hashlib.sha256((BENCHMARK.folder / file).read_bytes()).hexdigest() == table["sha256"]
        for column in named:
            np.testing.assert_array_equal(figures(column), stored[column].to_numpy())


def test_units_and_directions():
    targets = BENCHMARK.targets("cifar10")
    assert len(targets) == 5 + 10 + 32
    assert targets["test_200ep"] == Target("test_200ep", "cifar10_test_200ep")
    kinds = {(t.kind, t.unit, t.higher_is_better, t.is_percentage) for t in targets.values()}
    assert kinds == {
        ("accuracy", "%", True, True),
        ("latency", "ms", False, False),
        ("energy", "mJ", False, False),
        ("arithmetic intensity", "operation/byte", True, False),
    }
    assert str(targets["edgegpu_energy"]) == "energy in mJ, lower is better"
    assert all(t.kind == name.split("_", 1)[1].replace("_", " ") for name, t in targets.items() if not t.is_percentage)


def test_metrics_that_mean_something():
    targets = BENCHMARK.targets("cifar10")
    metrics = ("kendall", "spearman", "ndcg_1000", "top_1%", "regret_10")
    admitted = {name: [m for m in metrics if targets[name].admits(m)] for name in targets}
    assert admitted["test_200ep"] == admitted["pgd@Linf_eps-1.0"] == list(metrics)
    assert admitted["edgegpu_latency"] == ["kendall", "spearman"]
    assert admitted["eyeriss_arithmetic_intensity"] == ["kendall", "spearman", "top_1%", "regret_10"]


def test_targets_are_listed(capsys):
    assert cli.main(["list", "targets"]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert len(printed) == len(list_targets())
    (line,) = (line for line in printed if line.startswith("nasbench201/cifar10 pgd@Linf_eps-1.0 "))
    assert line.endswith("  accuracy in %, higher is better")
    assert list_targets()["nasbench201/ImageNet16-120 test_12ep"] == "accuracy in %, higher is better"


def test_an_unknown_target_is_answered_with_the_nearest():
    with pytest.raises(UnknownNameError, match=r"did you mean 'pgd@Linf_eps-1\.0'"):
        figures("pgd@1.0")
    with pytest.raises(UnknownNameError, match="did you mean 'edgegpu_latency'"):
        BENCHMARK.target("cifar10", "edge_gpu_latency")
    with pytest.raises(UnknownNameError, match="target of nasbench201/cifar100 'edgegpu_latency'"):
        BENCHMARK.accuracies("cifar100", "edgegpu_latency")
    with pytest.raises(UnknownNameError, match=r"column of .*hardware_cifar10\.parquet 'raspi_latency'"):
        BENCHMARK.column("raspi_latency", "hardware_cifar10.parquet")


def test_a_damaged_table_spoils_its_own_figures_alone(tmp_path):
    copied = Path(shutil.copytree(BENCHMARK.folder, tmp_path / "nasbench201"))
    path = copied / "robustness_cifar10.parquet"
    path.write_bytes(path.read_bytes()[:-100])
    (copied / "hardware_cifar10.parquet").unlink()
    fresh = Benchmark(copied)
    assert fresh.accuracies("cifar10").equals(BENCHMARK.accuracies("cifar10"))
    with pytest.raises(HarnessError, match=r"robustness_cifar10\.parquet is damaged"):
        fresh.accuracies("cifar10", "pgd@Linf_eps-1.0")
    with pytest.raises(HarnessError, match=r"hardware_cifar10\.parquet is missing"):
        fresh.accuracies("cifar10", "fpga_latency")


# The figures ----------------------------------------------------------------------------------------------


def test_figures_as_the_authors_print_them():
    """Architecture 0 of HW-NAS-Bench's README and architecture 13433 of the robustness dataset's."""
    printed = {
        "edgegpu_latency": 5.807418537139893,
        "edgegpu_energy": 24.226614330768584,
        "raspi4_latency": 10.481976820010459,
        "edgetpu_latency": 0.9571811309997429,
        "pixel3_latency": 3.6058499999999998,
        "eyeriss_latency": 3.645620000000001,
        "eyeriss_energy": 0.6872827644999999,
        "fpga_latency": 2.57296,
        "fpga_energy": 18.01072,
    }
    assert {name: figures(name)[0] for name in printed} == printed
    assert figures("pgd@Linf_eps-1.0")[13433] == 33.6


def test_figures_lie_where_they_may():
    for name, target in BENCHMARK.targets("cifar10").items():
        stored = figures(name)[~np.isnan(figures(name))]
        if target.is_percentage:
            assert 0 <= stored.min() < stored.max() <= 100
        else:
            assert stored.min() > 0
        assert len(stored) == (10_926 if name == "edgetpu_latency" else 15_625)


def test_costs_grow_with_the_counts():
    """Rank correlation with the multiply-accumulates: a table joined to other cells would show none."""
    flops = BENCHMARK.space.topology(BENCHMARK.architectures, 10, 32)["flops"]
    least = {"fpga_latency": 0.93, "raspi4_latency": 0.87, "pixel3_latency": 0.84, "eyeriss_energy": 0.66}
    for name, rho in least.items():
        assert stats.spearmanr(flops, figures(name)).statistic > rho
    np.testing.assert_allclose(figures("fpga_energy"), 7 * figures("fpga_latency"), rtol=1e-12)


@pytest.mark.parametrize("attack", ATTACKS)
def test_a_stronger_attack_leaves_less(attack):
    """Of fgsm that holds up to 4/255: one large step may miss where a smaller one does not."""
    names = strengths(attack)
    assert len(names) == (11 if attack == "fgsm" else 7)
    for weaker, stronger in itertools.pairwise(names[: 6 if attack == "fgsm" else None]):
        assert (figures(stronger) <= figures(weaker)).all()


def test_the_weakest_attack_leaves_the_clean_accuracy_in_order():
    clean = figures("test_200ep")
    for attack in ATTACKS:
        assert stats.spearmanr(clean, figures(strengths(attack)[0])).statistic > 0.96


# Reports --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Path:
    """The counts of a sample."""
    root = tmp_path_factory.mktemp("counts")
    done = ["score", "proxies=[flops,trainable_layers]", f"population={SAMPLE}", f"store={root}"]
    assert cli.main(done) == 0
    return root


def report(store: Path, output: Path, target: str) -> dict[tuple[str, str], dict[str, str]]:
    """Rows of VKDNW's table on another target, by proxy and metric."""
    rows = "table.rows=[{proxy: flops},{proxy: trainable_layers}]"
    settings = ["table.datasets=[cifar10]", "table.resamples=20", f"table.populations=['{SAMPLE}']", rows]
    settings += [f"target={target}", f"store={store}", f"output={output}"]
    assert cli.main(["report", "table=vkdnw_table1", *settings]) == 0
    path = output / f"vkdnw_table1--{target}.csv"
    text = path.with_suffix(".md").read_text(encoding="utf-8")
    assert "target " + target in text.splitlines()[0]
    figure = BENCHMARK.target("cifar10", target)
    assert f"Figures to predict: {target}, {figure}, in place of the accuracies" in text
    assert ("which are the worse ones" in text) is not figure.higher_is_better
    assert "published" not in text.split("\n## ", 1)[0].split("Each cell: ", 1)[1]
    assert " / –" not in text
    with open(path, newline="", encoding="utf-8") as file:
        return {(row["proxy"], row["metric"]): row for row in csv.DictReader(file)}


def test_a_report_on_a_cost(store, tmp_path):
    rows = report(store, tmp_path, "raspi4_latency")
    assert float(rows["flops", "kendall"]["ours"]) > 0.5  # the raw figure: what predicts a cost has a positive tau
    assert {row["n"] for row in rows.values()} == {"400"}
    assert {metric for _, metric in rows} == {"kendall", "spearman"}  # nDCG means nothing for milliseconds
    assert {row["published"] for row in rows.values()} == {""}


def test_a_report_leaves_out_cells_without_a_figure(store, tmp_path):
    rows = report(store, tmp_path, "edgetpu_latency")
    measured = int((~np.isnan(figures("edgetpu_latency")[BENCHMARK.population(SAMPLE)])).sum())
    assert 300 < measured < 400
    assert {row["n"] for row in rows.values()} == {str(measured)}


def test_a_report_on_accuracy_under_attack(store, tmp_path):
    rows = report(store, tmp_path, "fgsm@Linf_eps-1.0")
    assert len(rows) == 6
    assert all(0 < float(row["ours"]) < 1 for row in rows.values())
