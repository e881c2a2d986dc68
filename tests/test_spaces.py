"""What every space and benchmark has to keep, asked of each that the registry lists: a new one is tested by its card.

Networks run at a fraction of their resolution, which changes no parameter.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from harness.benchmarks.benchmark import Benchmark, list_benchmarks, load_benchmark
from harness.errors import HarnessError
from harness.probes.base import Subject, Unscorable
from harness.probes.gaussian import PerturbationPass
from harness.probes.topology import Topology
from harness.registry import discover
from harness.spaces.base import Space
from harness.spaces.costs import NAMES

BATCH = 4
NETWORKS = 12
#: Parameters above which a network takes seconds to initialise: of such, three serve.
LARGE = 1.5e7
COUNTS = ("params", "flops", "trainable_layers", "parameter_tensors")


@cache
def members(benchmark: Benchmark, n: int, seed: int = 0) -> list[str]:
    """Random architectures of a benchmark, all of it if it has no more than n."""
    chosen = np.random.RandomState(seed).permutation(len(benchmark))[:n]
    return [benchmark.architectures[int(i)] for i in chosen]


def listed(name: str) -> bool:
    """Whether the architectures are here; those of some come with accuracies that have to be imported."""
    try:
        return bool(members(load_benchmark(name), 1))
    except HarnessError:
        return False


@pytest.fixture(params=filter(listed, sorted(list_benchmarks())))
def benchmark(request) -> Benchmark:
    return load_benchmark(request.param)


def setting(benchmark: Benchmark) -> tuple[int, int]:
    """Classes of the first dataset, and a quarter of its resolution."""
    dataset = next(iter(benchmark.datasets.values()))
    return dataset.classes, max(8, dataset.resolution // 4)


def test_every_space_has_a_benchmark():
    """Otherwise the tests of this file ask nothing of it."""
    assert {cls.name for cls in discover("harness.spaces", Space)} == {
        load_benchmark(name).space.name for name in list_benchmarks()
    }


def test_an_initialisation_forgets_what_passes_left(benchmark):
    """Class tokens and position embeddings too, which no scheme draws and synflow's pass makes absolute."""
    classes, resolution = setting(benchmark)
    network = benchmark.space.build(members(benchmark, 1)[0], classes)
    subject = Subject(network, None, 1, (3, resolution, resolution), classes, torch.device("cpu"), plain=True)
    subject.initialise("default")
    before = {name: value.clone() for name, value in network.state_dict().items()}
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(1.0)
        for buffer in network.buffers():
            buffer.add_(1)
    subject.initialise("default", dtype="float64")
    subject.initialise("default")
    after = network.state_dict()
    assert before.keys() == after.keys()
    assert [name for name, value in before.items() if not torch.equal(value, after[name])] == []


def test_forward_and_backward(benchmark):
    classes, resolution = setting(benchmark)
    architectures = members(benchmark, NETWORKS)
    counts = benchmark.space.topology(architectures, classes, resolution)
    if counts["params"].mean() > LARGE:
        architectures = architectures[:3]
    torch.manual_seed(0)
    images, labels = torch.randn(BATCH, 3, resolution, resolution), torch.arange(BATCH) % classes
    seen = 0
    for place, architecture in enumerate(architectures):
        network = benchmark.space.build(architecture, classes)
        assert network.training
        logits = network(images)
        assert logits.shape == (BATCH, classes)
        nn.functional.cross_entropy(logits, labels).backward()
        gradients = [p.grad for p in network.parameters() if p.grad is not None]
        assert all(torch.isfinite(gradient).all() for gradient in (logits, *gradients)), architecture
        assert (network.classifier.bias.grad != 0).any()
        seen += bool(next(network.parameters()).grad is not None)
        held, reached = (sum(p.numel() for p in found) for found in (network.parameters(), gradients))
        # A benchmark may count what lies on no way to the logits, as its authors did, or not.
        assert counts["params"][place] in (held, reached), architecture
        assert counts.get("all_params", counts["params"])[place] == held, architecture
        assert counts["parameter_tensors"][place] == len(list(network.parameters()))
    assert seen > 0.8 * len(architectures)  # the images reach all but a few networks


def test_counts_are_those_of_the_network(benchmark):
    classes, resolution = setting(benchmark)
    architectures = members(benchmark, 4, seed=1)
    counts = benchmark.space.topology(architectures, classes, resolution)
    assert set(counts) - {"all_params"} == set(NAMES)
    for place, architecture in enumerate(architectures[: 1 if counts["params"].mean() > LARGE else None]):
        network = benchmark.space.build(architecture, classes)
        subject = Subject(network, None, 0, (3, resolution, resolution), classes, torch.device("cpu"))
        found = Topology().run(subject, frozenset({*NAMES, "all_params"}))
        held = sum(p.numel() for p in network.parameters())
        assert counts["params"][place] in (found.pop("params"), held)
        assert {"all_params": counts["params"], **counts}["all_params"][place] == found.pop("all_params")
        assert {name: counts[name][place] for name in found} == found, architecture


def test_counts_depend_on_no_other_architecture(benchmark):
    classes, resolution = setting(benchmark)
    architectures = members(benchmark, 30, seed=2)
    counts = benchmark.space.topology(architectures, classes, resolution)
    kinds, numbers = benchmark.space.operations(architectures, resolution)
    assert numbers.shape == (len(architectures), len(kinds)) == (len(architectures), len(set(kinds)))
    assert (numbers >= 0).all()
    for place in (0, 13):
        alone = benchmark.space.topology(architectures[place : place + 1], classes, resolution)
        assert {name: value[0] for name, value in alone.items()} == {name: counts[name][place] for name in counts}
        kinds_alone, (number,) = benchmark.space.operations(architectures[place : place + 1], resolution)
        found, expected = (
            {kind: count for kind, count in zip(ks, ns, strict=True) if count}
            for ks, ns in ((kinds_alone, number), (kinds, numbers[place]))
        )
        assert found == expected


def test_counts_of_nothing(benchmark):
    """An empty population has empty counts."""
    counts = benchmark.space.topology([], *setting(benchmark))
    assert {name: value.shape for name, value in counts.items()} == dict.fromkeys({*NAMES, *counts}, (0,))


def test_encodings_are_read_as_they_are_written(benchmark):
    for architecture in members(benchmark, 100, seed=3):
        assert benchmark.space.parse(architecture) == architecture
        assert benchmark.space.parse(f" {architecture}\n") == architecture
        assert benchmark.architectures[benchmark.index(architecture)] == architecture


def test_what_is_no_encoding_is_refused_in_one_line(benchmark):
    one = members(benchmark, 1)[0]
    others = [members(load_benchmark(name), 1)[0] for name in ("nasbench201", "macro", "transnas101_macro")]
    for text in ("", " ", "nonsense", "[", "\0", one + "~", "~" + one, one * 2, "9" * 300, "(" * 300, *others):
        if text in others and text in one:
            continue
        for read in (benchmark.space.parse, benchmark.index):
            with pytest.raises(HarnessError) as caught:
                read(text)
            assert "\n" not in str(caught.value)
            assert len(str(caught.value)) < 2_000


def test_keys_refine_each_other_and_the_counts(benchmark):
    """Networks of one key are one network to every proxy, and compute one function."""
    classes, resolution = setting(benchmark)
    architectures = members(benchmark, 400, seed=4)
    counts = benchmark.space.topology(architectures, classes, resolution)
    canonical: dict[str, str] = {}
    columns: dict[str, list[float]] = {}
    for place, architecture in enumerate(architectures):
        key = benchmark.space.network_key(architecture)
        form = benchmark.space.canonical(architecture)
        assert canonical.setdefault(key, form) == form
        column = [counts[name][place] for name in COUNTS]
        assert columns.setdefault(key, column) == column
    if benchmark.space.distinct:
        assert len(canonical) == len(set(architectures))


def test_thin_networks_and_stages(benchmark):
    classes, resolution = setting(benchmark)
    images = torch.randn(BATCH, 3, resolution, resolution)
    for architecture in members(benchmark, 3, seed=5):
        full = benchmark.space.build(architecture, classes)
        thin = benchmark.space.build(architecture, classes, thin=True)
        assert sum(p.numel() for p in thin.parameters()) < sum(p.numel() for p in full.parameters())
        for network in (full, thin):
            shapes = []
            for stage in network.stages:
                stage.register_forward_hook(lambda module, args, output, seen=shapes: seen.append(output.shape))
            with torch.no_grad():
                assert network(images).shape == (BATCH, classes)
            assert len(shapes) == len(network.stages) > 1
            assert all(len(shape) == 4 and shape[0] == BATCH for shape in shapes)
            sides = [shape[2] for shape in shapes]
            assert sides == sorted(sides, reverse=True)


class _Pooled(TorchFunctionMode):
    """Keeps the feature map that each forward pass averages over its positions for the classifier."""

    def __init__(self):
        super().__init__()
        self.maps: list[torch.Tensor] = []

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func is torch.Tensor.mean and kwargs.get("dim") == (2, 3):
            self.maps.append(args[0])
        return func(*args, **kwargs)


#: PiT's classifier reads the class token: no map is pooled.
@pytest.mark.parametrize("name", [n for n in sorted(list_benchmarks()) if listed(n) and n != "vit_bench_pit"])
def test_zen_reads_the_map_that_is_pooled(name):
    """In full width: where branches are summed or concatenated last, that is no convolution's output."""
    benchmark = load_benchmark(name)
    classes, _ = setting(benchmark)
    large = benchmark.space.name.startswith(("transnas101", "accel", "autoformer", "vit_bench"))
    side = 96 if large else 16  # maps of 2 x 2 or more
    for architecture in members(benchmark, 4):
        network = benchmark.space.build(architecture, classes, thin=True)
        subject = Subject(network, None, 1, (3, side, side), classes, torch.device("cpu"))
        with _Pooled() as pooled:
            found = PerturbationPass(2).run(subject, frozenset({"feature_distance"}))
        first, second = pooled.maps
        assert first[0, 0].numel() > 1
        assert first.shape[1] == network.classifier.in_features
        assert found["feature_distance"] == float((first - second).abs().sum(dim=(1, 2, 3)).double().mean())


def test_spaces_with_skips_to_choose_say_so(benchmark):
    """What reads skips is left out of tables and plans elsewhere."""
    space = benchmark.space
    chosen = "skip connections to choose" in space.parts
    if chosen:
        assert space.skip_spans(members(benchmark, 3)).shape == (min(3, len(benchmark)),)
    else:
        with pytest.raises(Unscorable, match="no skip connections to choose"):
            space.skip_spans(members(benchmark, 3))
