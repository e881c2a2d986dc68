"""Every pass on a GPU that is not there: nothing is computed across devices, and little goes from one to the other."""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import SelfAttention
from rehearsal import CUDA, DeviceError, Rehearsed, Traffic, device
from torch import nn

from harness.benchmarks.benchmark import load_benchmark
from harness.probes.base import SINGLE_VALUE, Probe, Subject, of_single_value
from harness.proxies import available, get_proxy
from harness.search.spaces import get_open_space

CPU = torch.device("cpu")
CLASSES = 4
FREE = ("resolution", 0)


def spec(name: str) -> str:
    """The proxy on mini-batches that take little time, in float64 where it can: rounding is not what is looked for."""
    small = {"samples": 12, "resolution": 32, "batch_size": 2, "minibatches": 2, "dtype": "float64"}
    if name == "knas":  # of fewer mini-batches no half has two
        small["minibatches"] = 4
    # A resolution of 0 is that of the network's images, which may be all that it reads.
    fields = {field.name for field in dataclasses.fields(available()[name]) if (field.name, field.default) != FREE}
    return ":".join([name, *(f"{key}={value}" for key, value in small.items() if key in fields)])


def passes() -> dict[Probe, frozenset[str]]:
    """All passes of all proxies, with everything that is read of each."""
    wanted: dict[Probe, set[str]] = defaultdict(set)
    for name in available():
        for probe, names in get_proxy(spec(name)).needs().items():
            wanted[probe].update(names)
    return {probe: frozenset(names) for probe, names in wanted.items()}


PASSES = passes()


def subject_of(build: Callable[[], nn.Module], on: torch.device, side: int = 16) -> Subject:
    torch.manual_seed(0)
    network = build().to(on, memory_format=torch.channels_last)
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(8, 3, side, side, generator=generator).to(on, memory_format=torch.channels_last)
    labels = torch.tensor([0, 1, 2, 3, 3, 1, 0, 2]).to(on)

    def batch(number: int, size: int) -> tuple[torch.Tensor, torch.Tensor]:
        start = number * size % len(images)
        return images[start : start + size], labels[start : start + size]

    stages = getattr(network, "stages", None)
    return Subject(
        network, batch, 3, (3, side, side), CLASSES, on, stages=stages, plain=True, images_at_hand=len(images)
    )


def observed(probe: Probe, subject: Subject) -> dict[str, Any] | str:
    torch.manual_seed(5)  # dropout
    names = PASSES.get(probe, frozenset())
    if not any(isinstance(module, (nn.ReLU, nn.ReLU6)) for module in subject.network.modules()):
        names = frozenset(name for name in names if not name.startswith("relu_"))
    try:
        return probe.run(subject, names)
    except Exception as error:  # one of the device's is none of the CPU's, with which it is compared
        return f"Unscorable: {SINGLE_VALUE}" if of_single_value(error) else f"{type(error).__name__}: {error}"


def rehearse(probe: Probe, build: Callable[[], nn.Module], side: int = 16) -> tuple[dict[str, Any] | str, Traffic]:
    """What the pass observes on the device, and what has gone between it and the host for that."""
    with device() as traffic:
        subject = subject_of(build, CUDA, side)
        assert {p.device for p in subject.network.parameters()} == {CUDA}
        traffic.read.clear()
        traffic.sent.clear()
        return observed(probe, subject), traffic


def agree(found: dict[str, Any] | str, expected: dict[str, Any] | str) -> None:
    if isinstance(expected, str):
        assert found == expected
        return
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(
            found[name], value, rtol=1e-4, atol=1e-5 * np.nanmax(np.abs(value), initial=0), err_msg=name
        )


# Every space's network ------------------------------------------------------------------------------------

BENCHMARKS = (
    "nasbench201",
    "nasbench101",
    "nats_sss",
    "darts_swap1000",
    "transnas101_micro",
    "transnas101_macro",
    "macro",
    "accel_nasbench",
    "channel_macro_resnet",
    "channel_macro_mobilenet",
)
#: Below this side the last maps of accel_nasbench are single values, which BatchNorm cannot normalise.
SIDES = {"accel_nasbench": 64}
#: An architecture of few layers with all that a layer may have, where others have hundreds of modules.
FEW_LAYERS = {"accel_nasbench": "e1k3l1-e6k5l2se-e1k3l1-e1k3l1-e4k3l1se-e1k5l1se-e1k3l1"}
#: Open spaces, with the side of the images that their networks read.
OPEN = {"zennas:classes=4:resolution=32": 32, "esformer:classes=4:resolution=64": 64}


def network_of(name: str) -> Callable[[], nn.Module]:
    """Builds a network of the benchmark's space, thin where the space has thin ones; of an open space, a small one."""
    if name not in OPEN:
        benchmark = load_benchmark(name)
        architecture = FEW_LAYERS.get(name) or benchmark.architectures[len(benchmark.architectures) * 2 // 3]
        return lambda: benchmark.space.build(architecture, CLASSES, thin=True)
    space = get_open_space(name)
    rng = np.random.RandomState(0)
    genotype = min((space.random(rng, lambda _: True) for _ in range(30)), key=lambda g: space.counts(g)["flops"])
    return lambda: space.build(genotype)


@pytest.mark.parametrize("name", [*BENCHMARKS, *OPEN])
def test_every_pass_of_a_spaces_network(name):
    build = network_of(name)
    side = {**SIDES, **OPEN}.get(name, 32)
    scored = 0
    for probe in PASSES:
        found, _ = rehearse(probe, build, side)
        agree(found, observed(probe, subject_of(build, CPU, side)))
        assert isinstance(found, dict) or found.startswith("Unscorable"), found
        scored += isinstance(found, dict)
    assert scored > len(PASSES) // 2  # no attention or no ReLU, no encoding, images of one size


# What goes from one to the other --------------------------------------------------------------------------


class Deep(nn.Module):
    """`depth` blocks of what passes look at: convolution, BatchNorm, ReLU, attention, linear layers; stages."""

    def __init__(self, depth: int):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4))
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.ReLU(), nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4)) for _ in range(depth)
        )
        self.attention = nn.ModuleList(SelfAttention(4) for _ in range(depth))
        self.linear = nn.ModuleList(nn.Linear(4, 4) for _ in range(depth))
        self.last, self.head = nn.ReLU(), nn.Linear(4, CLASSES)

    @property
    def stages(self) -> list[nn.Module]:
        return [self.stem, *self.blocks]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(F.avg_pool2d(x, 4))
        for block in self.blocks:
            x = block(x) + x
        tokens = self.last(x).flatten(2).transpose(1, 2)
        for attention, linear in zip(self.attention, self.linear, strict=True):
            tokens = tokens + linear(attention(tokens))
        return self.head(tokens.mean(dim=1))


#: How often the host reads in a pass, at most: whether the logits are finite, and what was found.
READS = 2
#: These ask before their forward which normalisations are at their initialisation, and go another way there.
ASKING_FIRST = {"GradientSigns", "SampleKernel", "WeightJacobian"}


@pytest.mark.parametrize("probe", PASSES, ids=lambda probe: type(probe).__name__)
def test_no_traffic_grows_with_the_layers(probe):
    shallow, few = rehearse(probe, lambda: Deep(2))
    deep, many = rehearse(probe, lambda: Deep(5))
    agree(deep, observed(probe, subject_of(lambda: Deep(5), CPU)))
    assert type(shallow) is type(deep)
    assert many.read == few.read
    assert many.sent == few.sent
    assert len(many.read) <= READS + (type(probe).__name__ in ASKING_FIRST)


# The rehearsal itself -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "wrong",
    [
        lambda x: x + torch.ones(2, 3),
        lambda x: torch.ones(2, 3) @ x.T,
        lambda x: torch.stack([x.sum(), torch.zeros(())]),
        lambda x: torch.cat([x, torch.ones(1, 3)]),
        lambda x: torch.ones(5)[x.long()],
        lambda x: torch.randn(3, generator=torch.Generator(), device=CUDA),
        lambda x: torch.empty(3, device=CUDA).uniform_(generator=torch.Generator()),
        lambda x: x.numpy(),
        lambda x: np.asarray(x),
        lambda x: F.linear(x, torch.ones(2, 3)),
        lambda x: nn.BatchNorm1d(3)(x),
    ],
)
def test_what_cuda_would_refuse_is_refused(wrong):
    with device(), pytest.raises(DeviceError):
        wrong(torch.zeros(2, 3).to(CUDA))


def test_what_cuda_takes_is_taken_and_counted():
    with device() as traffic:
        x = torch.ones(2, 3).to(CUDA).requires_grad_()
        assert isinstance(x, Rehearsed)
        assert x.device == CUDA
        y = (x * torch.tensor(2.0) + 1)[torch.tensor([1, 0])]  # numbers in tensors, indices of the host
        (grad,) = torch.autograd.grad(y.sum(), x)
        sent = ["aten._to_copy.default", "aten.index.Tensor", "aten.index_put.default"]  # the last one backwards
        assert traffic == Traffic(read=[], sent=sent)
        assert grad.device == CUDA
        assert grad.cpu().tolist() == [[2.0] * 3] * 2
        assert float(y.detach().sum()) == 18.0
        assert bool((y > 0).all())
        assert torch.equal(y, y.clone())
        assert len(traffic.read) == 4
        y.detach().zero_().copy_(torch.ones(2, 3))
        assert y.sum().item() == 6.0
        assert traffic.sent[-1] == "aten.copy_.default"
        layer = nn.Linear(3, 2).to(CUDA).to(torch.float64)
        assert layer.weight.is_leaf
        assert layer(x.double()).dtype == torch.float64


def test_a_pass_that_reads_each_layer_is_seen():
    """The rehearsal would fail for what it is there to find."""

    class Reading(Probe):
        def run(self, subject: Subject, wanted: frozenset[str]) -> dict[str, Any]:
            return {"norms": np.array([float(p.detach().norm()) for p in subject.network.parameters()])}

    few, many = (rehearse(Reading(), lambda depth=depth: Deep(depth))[1] for depth in (2, 5))
    assert len(many.read) > len(few.read) > 10
