"""Datasets that a proxy cannot tell apart: who is declared not to read the last layer, and what that fills."""

from __future__ import annotations

import dataclasses
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from harness import cli
from harness.benchmarks.benchmark import Benchmark, list_benchmarks, load_benchmark
from harness.config import compose_config
from harness.engine.alike import alike
from harness.engine.scorer import Job, Scorer, score_subject
from harness.engine.scoring import plan, run
from harness.engine.store import Row, ScoreKey, ScoreStore
from harness.errors import HarnessError
from harness.probes.base import EncodingProbe, Subject, loss
from harness.probes.gradient import GradientPass
from harness.proxies import available, get_proxy
from harness.rankings.results import Reader, inapplicable
from harness.seeds import stable_seed
from harness.tables.leaderboard import build_leaderboard
from harness.tables.measure import Measurements
from harness.tables.papers import table_cells

NB201 = load_benchmark("nasbench201")
SIDE = 8
#: Settings that make the passes cheap, and settings that take another way through a proxy.
CHEAP = {"batch_size": 6, "samples": 200, "repeats": 2, "minibatches": 4, "resolution": 16}
VARIANTS = (
    *("meco:modules=all", "swap:cell=True:batch_size=16", "nregions:network=full:resolution=8", "zen:gamma=0.1"),
    *("entropic_score:over=layer", "entropic_score:over=positions", "entropic_score:signed=True", "sed:part=skip"),
    *("t_cet:codes=relu", "flops:count=all", "naswot:dtype=float64", "layerwise_naswot:init=xavier"),
)


# Who reads the last layer ---------------------------------------------------------------------------------


def proxies() -> dict[str, Any]:
    found = {}
    for spec in (*available(), *VARIANTS):
        proxy = get_proxy(spec)
        names = {field.name for field in dataclasses.fields(proxy)}
        small = {k: v for k, v in CHEAP.items() if k in names and f":{k}=" not in spec}
        found[spec] = dataclasses.replace(proxy, **small)
    return found


def scores_of(benchmark: Benchmark, index: int, classes: int) -> dict[str, tuple]:
    """Every proxy on a network of the benchmark with a last layer of `classes` outputs, seeded as the engine does."""
    architecture, space = benchmark.architectures[index], benchmark.space

    @cache
    def batch(number: int, size: int) -> tuple[torch.Tensor, torch.Tensor]:
        generator = torch.Generator().manual_seed(number)
        images = torch.randn(size, 3, SIDE, SIDE, generator=generator).contiguous(memory_format=torch.channels_last)
        return images, torch.randint(classes, (size,), generator=generator)

    def subject(network: nn.Module | None) -> Subject | None:
        if network is None:
            return None
        network.to(memory_format=torch.channels_last)
        return Subject(
            network,
            batch,
            stable_seed(space.name, space.network_key(architecture), 0),
            (3, SIDE, SIDE),
            classes,
            torch.device("cpu"),
            stages=network.stages,
            thin=lambda: subject(space.build(architecture, classes, thin=True)),
            cell=lambda: subject(space.build_cell(architecture, classes)),
        )

    def read(probe: EncodingProbe) -> dict[str, Any]:
        seen = probe.read(space, [architecture], classes, SIDE)
        return {name: value[0] if isinstance(value, np.ndarray) else value for name, value in seen.items()}

    asked = proxies()
    found = score_subject(subject(space.build(architecture, classes, thin=THIN[benchmark.name])), asked.values(), read)
    return {
        spec: (None if found[p.label].score is None else float(found[p.label].score).hex(), found[p.label].status)
        for spec, p in asked.items()
    }


#: Whether the networks compared are the thin ones of the space: those of TransNAS-Bench-101 have up to 2,048 channels.
#: Not those of DARTS, whose backward pass kills the process without AVX-512: its 1x1 convolutions of two channels and
#: stride 2 corrupt memory in oneDNN (torch 2.13). No proxy takes gradients of them.
THIN = {"nasbench201": False, "transnas101_micro": True, "transnas101_macro": True, "darts_swap1000": False}


@pytest.fixture(scope="module")
def compared() -> dict[str, list[bool]]:
    """By proxy whether its score of a network is the same for 7 and for 100 classes, for networks that have one."""
    found: dict[str, list[bool]] = {}
    for name in THIN:
        benchmark = load_benchmark(name)
        for index in benchmark.population(f"unique.sample({2 if benchmark is NB201 else 1}, seed=1)"):
            few, many = (scores_of(benchmark, int(index), classes) for classes in (7, 100))
            for spec in few:
                if few[spec][1] == "ok" or many[spec][1] == "ok":
                    found.setdefault(spec, []).append(few[spec] == many[spec])
    return found


@pytest.mark.parametrize("spec", sorted((*available(), *VARIANTS)))
def test_what_is_declared_not_to_read_the_last_layer_does_not(compared, spec):
    """Bit for bit, and what is not declared does read it: so that nothing is scored again that need not be."""
    if get_proxy(spec).requires == "attention":  # none of these networks has any
        assert spec not in compared
        assert get_proxy(spec).reads_head
        return
    assert compared[spec]
    if get_proxy(spec).reads_head:
        assert not all(compared[spec])
    else:
        assert all(compared[spec])


@pytest.mark.parametrize("name", sorted(list_benchmarks()))
def test_networks_of_two_datasets_differ_in_the_last_layer_alone(name):
    """Which is drawn last, so that no weight before it depends on its size."""
    benchmark = load_benchmark(name)
    try:
        (index,) = benchmark.population("sample(1, seed=3)")
    except HarnessError:  # its encodings come with accuracies that have to be imported
        assert name == "nats_tss"
        return
    architecture, space = benchmark.architectures[int(index)], benchmark.space
    builds = [lambda c: space.build(architecture, c), lambda c: space.build(architecture, c, thin=True)]
    if space.build_cell(architecture, 2) is not None:
        builds.append(lambda c: space.build_cell(architecture, c))
    for build in builds:
        few, many = build(3), build(11)
        assert [(n, type(m)) for n, m in few.named_modules()] == [(n, type(m)) for n, m in many.named_modules()]
        shapes = [{key: value.shape for key, value in network.state_dict().items()} for network in (few, many)]
        differ = {key for key in shapes[0] if shapes[0][key] != shapes[1][key]}
        assert differ == {"classifier.weight", "classifier.bias"}
        holding = [n for n, m in few.named_modules() if any(True for _ in m.parameters(recurse=False))]
        assert holding[-1] == "classifier"


# Which partitions serve which -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("benchmark", "key", "others"),
    [
        ("nasbench201", ("cifar10", "none", "zen"), {"cifar100"}),
        ("nasbench201", ("cifar100", "none", "zen:gamma=0.1"), {"cifar10"}),
        ("nasbench201", ("ImageNet16-120", "none", "zen"), set()),
        ("nasbench201", ("cifar100", "random", "naswot"), {"cifar10"}),
        ("nasbench201", ("cifar100", "cifar10", "naswot"), set()),
        ("nasbench201", ("cifar100", "none", "synflow"), set()),
        ("nasbench201", ("cifar100", "random", "snip"), set()),
        ("transnas101_micro", ("normal", "random", "snip"), set()),
        ("transnas101_micro", ("jigsaw", "random", "snip"), set()),
        (
            "transnas101_macro",
            ("jigsaw", "random", "az_trainability"),
            {"class_scene", "class_object", "room_layout", "segmentsemantic", "normal", "autoencoder"},
        ),
        ("nasbench101", ("cifar10", "none", "zen"), set()),
    ],
)
def test_partitions_that_are_alike(benchmark, key, others):
    dataset, inputs, spec = key
    key = ScoreKey(benchmark, dataset, inputs, spec, 3)
    found = alike(load_benchmark(benchmark), get_proxy(spec), key)
    assert {other.dataset for other in found} == others
    assert all(dataclasses.replace(other, dataset=dataset) == key for other in found)


# What a run computes --------------------------------------------------------------------------------------


def job(store: Path, dataset: str, *specs: str, **settings: Any) -> Job:
    return Job("nasbench201", dataset, specs, store=str(store), device="cpu", workers=1, **settings)


ZEN, SNIP = "zen:batch_size=2", "snip:batch_size=2"


def test_a_run_computes_nothing_that_another_dataset_holds(tmp_path, capsys):
    assert run(job(tmp_path, "cifar10", ZEN, limit=2), progress=False).stored_now == 2
    again = run(job(tmp_path, "cifar100", ZEN, SNIP, limit=3), progress=False)
    assert (again.asked, again.stored_before, again.stored_now) == (6, 2, 4)
    assert again.alike == {(ZEN, "scores of cifar10: reads no head"): 2}
    store = ScoreStore(tmp_path)
    kept = {(key.dataset, key.proxy): len(store.read(key)) for key in list(store.keys())}
    assert kept == {("cifar10", ZEN): 2, ("cifar100", ZEN): 1, ("cifar100", SNIP): 3}

    settings = ["dataset=cifar100", f"proxies=['{ZEN}']", "limit=2", f"store={tmp_path}", "workers=1", "device=cpu"]
    assert cli.main(["score", *settings]) == 0
    text = capsys.readouterr().out
    assert "0 scores computed, 2 were stored already" in text
    assert f"{ZEN}: 2 of those stored are scores of cifar10: reads no head" in text


def test_other_inputs_seeds_and_versions_do_not_serve(tmp_path):
    store, proxy = ScoreStore(tmp_path), get_proxy("naswot")
    for inputs, seed, version in (("cifar10", 0, 1), ("random", 1, 1), ("random", 0, proxy.version + 1)):
        key = ScoreKey("nasbench201", "cifar10", inputs, "naswot", seed)
        store.append(key, [Row(0, 1.0, 0.1, "ok", version)], images="a" if inputs == "cifar10" else None)
    key = ScoreKey("nasbench201", "ImageNet16-120", "random", "naswot", 0)
    store.append(key, [Row(0, 1.0, 0.1, "ok", proxy.version)])
    (wanted,) = plan(job(tmp_path, "cifar100", "naswot", limit=1))
    assert (wanted.missing, wanted.alike) == ([0], {})


def test_what_an_exception_kept_from_its_score_does_not_serve(tmp_path):
    key = ScoreKey("nasbench201", "cifar10", "none", "zen", 0)
    ScoreStore(tmp_path).append(key, [Row(0, None, 0.1, "error: OSError: x", 1), Row(1, None, 0.1, "inf", 1)])
    (wanted,) = plan(job(tmp_path, "cifar100", "zen", limit=2))
    assert wanted.missing == [0]
    assert wanted.alike == {"scores of cifar10: reads no head": 1}
    assert wanted.errors == {}
    ScoreStore(tmp_path).append(dataclasses.replace(key, dataset="cifar100"), [Row(1, None, 0.1, "error: y", 1)])
    (wanted,) = plan(job(tmp_path, "cifar100", "zen", limit=2))
    assert (wanted.missing, wanted.errors) == ([0], {})


# What a reader sees ---------------------------------------------------------------------------------------

SAMPLE = NB201.population("no_dead_ops.sample(40, seed=0)")
NETWORKS = np.unique(NB201.representatives[SAMPLE])


def append(
    root: Path, dataset: str, spec: str, networks: np.ndarray, offset: float = 0.0, inputs: str = "none"
) -> None:
    rows = [Row(int(i), float(i % 97) + offset, 0.5, "ok", get_proxy(spec).version) for i in networks]
    ScoreStore(root).append(ScoreKey("nasbench201", dataset, inputs, spec, 0), rows)


def test_scores_are_read_from_another_dataset(tmp_path):
    """Those of its own come first, and what neither holds is missing under its own name."""
    append(tmp_path, "cifar10", "zen", NETWORKS[:-2])
    append(tmp_path, "cifar100", "zen", NETWORKS[-4:-1], offset=0.5)
    found = Reader(ScoreStore(tmp_path), NB201).scores("zen", "cifar100", SAMPLE)
    assert found.missing == {ScoreKey("nasbench201", "cifar100", "none", "zen", 0): 1}
    place = {int(network): i for i, network in enumerate(NETWORKS)}
    for index, value in zip(NB201.representatives[SAMPLE], found.values, strict=True):
        i = place[int(index)]
        expected = np.nan if i == len(NETWORKS) - 1 else index % 97 + (0.5 if i >= len(NETWORKS) - 4 else 0.0)
        assert value == pytest.approx(expected, nan_ok=True)
    assert found.alike == (("zen", "scores of cifar10: reads no head"),)
    assert found.seconds == 0.5
    assert found.notes("zen") == ["scores of cifar10: reads no head"]
    # Both ways; and a population that needs none of them says nothing of them.
    back = Reader(ScoreStore(tmp_path), NB201).scores("zen", "cifar10", SAMPLE)
    assert back.notes("zen") == ["scores of cifar100: reads no head"]
    own = NB201.representatives[SAMPLE] == NETWORKS[-3]
    assert Reader(ScoreStore(tmp_path), NB201).scores("zen", "cifar100", SAMPLE[own]).alike == ()


def test_an_aggregate_says_which_of_its_members(tmp_path):
    for name in ("az_expressivity", "az_progressivity", "az_trainability"):
        append(tmp_path, "cifar10", name, NETWORKS, inputs="random")
    append(tmp_path, "cifar100", "flops", NETWORKS)
    found = Reader(ScoreStore(tmp_path), NB201).scores("az_nas", "cifar100", SAMPLE)
    assert not found.missing
    assert np.isfinite(found.values).all()
    assert found.notes("az_nas") == [
        "az_expressivity, az_progressivity, az_trainability (scores of cifar10: reads no head)"
    ]


def test_networks_with_as_many_classes_are_the_same(tmp_path, monkeypatch):
    benchmark = load_benchmark("transnas101_micro")
    normals = dataclasses.replace(benchmark.datasets["normal"], name="autoencoder")
    monkeypatch.setitem(benchmark.datasets, "autoencoder", normals)
    rows = [Row(int(i), float(i), 0.1, "ok", get_proxy("snip").version) for i in range(len(benchmark))]
    ScoreStore(tmp_path).append(ScoreKey(benchmark.name, "normal", "random", "snip", 0), rows)
    reader = Reader(ScoreStore(tmp_path), benchmark)
    found = reader.scores("snip", "autoencoder", np.arange(5))
    assert [*found.values] == [0, 1, 2, 3, 4]
    assert found.notes("snip") == ["scores of normal: the same networks and inputs"]
    assert reader.scores("snip", "jigsaw", np.arange(5)).missing


def test_tables_say_whose_scores_they_are(tmp_path):
    population = "no_dead_ops.sample(40, seed=0)"
    append(tmp_path, "cifar10", "zen", NETWORKS)
    append(tmp_path, "cifar100", "flops", NETWORKS, 1.0)
    rows = "table.rows=[{proxy: zen}, {proxy: flops}]"
    settings = [rows, f"table.populations=['{population}']", "table.resamples=9", "table.metrics=[kendall]"]
    board = compose_config("report", ["table=leaderboard", "table.datasets=[nasbench201/cifar100]", *settings]).table
    cells, _ = build_leaderboard(board, Measurements(ScoreStore(tmp_path)))
    notes = {cell.proxy: cell.note for cell in cells if cell.metric == "kendall"}
    assert notes == {"zen": "scores of cifar10: reads no head", "flops": ""}

    table = compose_config("report", ["table=vkdnw_table1", "table.datasets=[cifar100]", *settings]).table
    cells = table_cells(table, Measurements(ScoreStore(tmp_path)))
    found = {cell.proxy: (cell.ours is not None, cell.note) for cell in cells}
    assert found == {"zen": (True, "scores of cifar10: reads no head"), "flops": (True, "")}


def test_networks_with_decoders():
    """TransNAS-Bench-101's for normals: what reads the last layer reads the decoder's, other proxies the encoder alone.

    What needs a logit for each class has a reason.
    """
    benchmark = load_benchmark("transnas101_micro")
    heads = {name: one.head for name, one in benchmark.datasets.items() if one.gives == "images"}
    assert heads == {"segmentsemantic": "segmentation", "normal": "normals", "autoencoder": "reconstruction"}
    labels = ("synflow", "entropic_score:batch_size=2", "grad_norm:batch_size=2", "epe_nas:batch_size=2", "params")
    index = int(benchmark.population("unique.sample(1, seed=18)")[0])
    found = {}
    for dataset in ("class_scene", "segmentsemantic", "normal", "autoencoder"):
        scorer = Scorer(Job(benchmark.name, dataset, labels, device="cpu"))
        found[dataset] = {label: (row.status, row.score) for label, row in scorer.score(index, labels)}
    for dataset in heads:
        reason = f"is not defined for networks that give images, as those of {dataset} do"
        assert found[dataset].pop("epe_nas:batch_size=2") == (reason, None)
        assert {status for status, _ in found[dataset].values()} == {"ok"}
        entropies = {found[name]["entropic_score:batch_size=2"] for name in ("class_scene", dataset)}
        assert len(entropies) == 1
    assert found["class_scene"]["epe_nas:batch_size=2"][0] == "ok"
    assert len({scores["grad_norm:batch_size=2"] for scores in found.values()}) == 4  # each has labels of its own
    assert found["normal"]["synflow"] == found["autoencoder"]["synflow"] == ("ok", 0.0)  # the tanh is saturated
    assert found["segmentsemantic"]["synflow"][1] > 0

    # The loss: the mean absolute error of the image, the cross-entropy of the pixels.
    for dataset in ("autoencoder", "segmentsemantic"):
        scorer = Scorer(Job(benchmark.name, dataset, labels, device="cpu"))
        subject = scorer.subject(index)
        subject.initialise("kaiming_fan_in")
        images, wanted = subject.images(2)
        given = subject.network(images)
        if dataset == "autoencoder":
            assert torch.equal(images, wanted)
            value = (given - images).abs().mean()
        else:
            value = -given.log_softmax(dim=1).gather(1, wanted[:, None]).mean()
        torch.testing.assert_close(loss(given, wanted), value)
        torch.testing.assert_close(loss(given, wanted, "sum"), 2 * value)
        value.backward()
        layers = [m.weight for m in subject.network.modules() if isinstance(m, (nn.Conv2d, nn.ConvTranspose2d))]
        norms = sum(float(weight.grad.norm()) for weight in layers)
        assert found[dataset]["grad_norm:batch_size=2"][1] == pytest.approx(norms, rel=1e-3)

    keys = alike(benchmark, get_proxy("zen"), ScoreKey(benchmark.name, "normal", "random", "zen", 0))
    assert {key.dataset for key in keys} == set(benchmark.datasets) - {"normal"}
    assert not alike(benchmark, get_proxy("snip"), ScoreKey(benchmark.name, "normal", "random", "snip", 0))
    assert inapplicable("vkdnw", benchmark, "normal") == (
        "is not defined for networks that give images, as those of normal do"
    )
    assert inapplicable("vkdnw", benchmark) == inapplicable("vkdnw", benchmark, "class_scene") == ""
    assert inapplicable("ssnr", benchmark, "normal") == ""
    assert inapplicable("dss", benchmark, "normal") == "no attention in this space"


def test_networks_that_give_numbers():
    """Room layouts: the loss is the squared error, the largest number a class; probabilities there are none."""
    benchmark = load_benchmark("transnas101_micro")
    assert {name for name, one in benchmark.datasets.items() if one.gives == "numbers"} == {"room_layout"}
    labels = ("grad_norm:batch_size=4", "gradsign:batch_size=4", "epe_nas:batch_size=16", "vkdnw_single", "ntk_trace")
    index = int(benchmark.population("unique.sample(1, seed=1)")[0])
    scorer = Scorer(Job(benchmark.name, "room_layout", labels, device="cpu"))
    found = {label: (row.status, row.score) for label, row in scorer.score(index, labels)}
    reason = "is not defined for networks that give numbers, as those of room_layout do"
    assert found["vkdnw_single"] == found["ntk_trace"] == (reason, None)
    assert {found[label][0] for label in labels[:3]} == {"ok"}
    subject = scorer.subject(index)
    subject.initialise("kaiming_fan_in")
    images, wanted = subject.images(4)
    assert wanted.shape == (4, 9)
    given = subject.network(images)
    torch.testing.assert_close(loss(given, wanted), (given - wanted).square().mean())
    torch.testing.assert_close(loss(given, wanted, "sum"), (given - wanted).square().mean(dim=1).sum())
    loss(given, wanted).backward()
    layers = [m.weight for m in subject.network.modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
    assert found["grad_norm:batch_size=4"][1] == pytest.approx(sum(float(w.grad.norm()) for w in layers), rel=1e-3)
    seen = GradientPass(batch_size=16).run(subject, frozenset({"input_jacobian_correlation", "labels", "classes"}))
    assert seen["classes"] == 9
    assert list(seen["labels"]) == subject.images(16)[1].argmax(dim=1).tolist()
