"""Tiny networks and a factory of subjects, shared by the tests.

The networks are small enough to be worked out by hand: two or three weight layers that matter, images of
8 x 8 at most. Each has something that a pass over a network may get wrong.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import nn

from harness.probes.base import Subject

#: The caches of this run's programs, such as the browser that opens pages.
_CACHES = tempfile.TemporaryDirectory(prefix="nas-harness-tests-", ignore_cleanup_errors=True)
os.environ["XDG_CACHE_HOME"] = _CACHES.name

#: What was imported or scored on this machine is no part of the tests: no such folder exists. Nor are the scores of
#: the package, but where a test asks for them (`reference`): what a test scores is not stored before.
for _name in ("NAS_HARNESS_BENCHMARKS", "NAS_HARNESS_STORE", "NAS_HARNESS_REFERENCE"):
    os.environ[_name] = os.path.join(os.path.dirname(__file__), "nothing", _name.lower())

#: The tests run in as many processes as there are cores, and no test says more about more threads.
os.environ["OMP_NUM_THREADS"] = "1"
torch.set_num_threads(1)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--no-skip", action="store_true", help="a test that is skipped fails: all that tests need is here")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item):
    report = yield
    if report.skipped and not hasattr(report, "wasxfail") and item.config.getoption("--no-skip"):
        report.outcome, report.longrepr = "failed", f"skipped, which --no-skip forbids: {report.longrepr[-1]}"
    return report


class Chain(nn.Module):
    """Convolution, BatchNorm, ReLU, twice; the mean over positions; a linear layer."""

    shape = (3, 8, 8)

    def __init__(self, classes: int = 3, widths: Sequence[int] = (4, 5)):
        super().__init__()
        a, b = widths
        self.first = nn.Sequential(nn.Conv2d(3, a, 3, padding=1, bias=False), nn.BatchNorm2d(a), nn.ReLU())
        self.second = nn.Sequential(nn.Conv2d(a, b, 3, bias=False), nn.BatchNorm2d(b), nn.ReLU())
        self.head = nn.Linear(b, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.second(self.first(x)).mean(dim=(2, 3)))


class Staged(nn.Module):
    """ReLU before the convolution, as in cell spaces, and stages of which the last halves the resolution."""

    shape = (3, 8, 8)

    def __init__(self, classes: int = 3):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4))
        self.cell = nn.Sequential(nn.ReLU(), nn.Conv2d(4, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4))
        self.down = nn.Sequential(nn.ReLU(), nn.Conv2d(4, 5, 3, 2, padding=1, bias=False), nn.BatchNorm2d(5))
        self.last = nn.ReLU()
        self.head = nn.Linear(5, classes)

    @property
    def stages(self) -> list[nn.Module]:
        return [self.stem, self.cell, self.down]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.last(self.down(self.cell(self.stem(x)))).mean(dim=(2, 3)))


class Strided(nn.Module):
    """An oblong convolution with bias, strided one way and padded the other, then a grouped and dilated one.

    The first has no BatchNorm, and the pooling is a module with a four-dimensional output of its own.
    """

    shape = (3, 8, 8)

    def __init__(self, classes: int = 3):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, (3, 2), stride=(2, 1), padding=(1, 0), bias=True)
        self.relu = nn.ReLU()
        self.grouped = nn.Conv2d(4, 6, 3, padding=2, dilation=2, groups=2, bias=True)
        self.norm = nn.BatchNorm2d(6)
        self.last = nn.ReLU()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(6, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.last(self.norm(self.grouped(self.relu(self.conv(x)))))
        return self.head(self.pool(x).flatten(1))


class Mlp(nn.Module):
    """Linear layers alone."""

    shape = (3, 2, 2)

    def __init__(self, classes: int = 3, activation: Callable[[], nn.Module] = nn.ReLU):
        super().__init__()
        self.first = nn.Linear(12, 5)
        self.one = activation()
        self.second = nn.Linear(5, 4)
        self.two = activation()
        self.head = nn.Linear(4, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.two(self.second(self.one(self.first(x.flatten(1))))))


class Loose(nn.Module):
    """A chain with a layer that is never called, one whose output is dropped, and one that reads zeros."""

    shape = (3, 8, 8)

    def __init__(self, classes: int = 3):
        super().__init__()
        self.spare = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU())
        self.conv1, self.norm1 = nn.Conv2d(3, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4)
        self.dropped = nn.Conv2d(4, 2, 1)
        self.starved, self.starved_norm = nn.Conv2d(4, 5, 3, bias=False), nn.BatchNorm2d(5)
        self.conv2, self.norm2 = nn.Conv2d(4, 5, 3, bias=False), nn.BatchNorm2d(5)
        self.relu1, self.relu2 = nn.ReLU(), nn.ReLU()
        self.head = nn.Linear(5, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.relu1(self.norm1(self.conv1(x)))
        self.dropped(x)
        nothing = self.starved_norm(self.starved(torch.zeros_like(x)))
        x = self.relu2(self.norm2(self.conv2(x)) + nothing)
        return self.head(x.mean(dim=(2, 3)))


class Residual(nn.Module):
    """A residual sum; one in-place ReLU module serves twice."""

    shape = (3, 8, 8)

    def __init__(self, classes: int = 3):
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(3, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4)
        self.conv2, self.norm2 = nn.Conv2d(4, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4)
        self.act = nn.ReLU(inplace=True)
        self.head = nn.Linear(4, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.act(self.norm1(self.conv1(x)))
        x = self.act(self.norm2(self.conv2(x)) + x)
        return self.head(x.mean(dim=(2, 3)))


class Shared(nn.Module):
    """One convolution and one ReLU module that serve several times."""

    shape = (3, 8, 8)

    def __init__(self, classes: int = 3):
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(3, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4)
        self.conv2 = nn.Conv2d(4, 4, 3, padding=1)
        self.norm2, self.norm3 = nn.BatchNorm2d(4), nn.BatchNorm2d(4)
        self.act = nn.ReLU()
        self.head = nn.Linear(4, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.act(self.norm1(self.conv1(x)))
        x = self.act(self.norm2(self.conv2(x)))
        x = self.act(self.norm3(self.conv2(x)))
        return self.head(x.mean(dim=(2, 3)))


class PreActivation(nn.Module):
    """Pre-activation residual block: with BatchNorm bypassed, its in-place ReLUs overwrite the shortcut."""

    shape = (3, 8, 8)

    def __init__(self, classes: int = 3):
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(3, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4)
        self.relu1 = nn.ReLU(inplace=True)
        self.norm2, self.relu2 = nn.BatchNorm2d(4), nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(4, 4, 3, padding=1, bias=False)
        self.head = nn.Linear(4, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.relu1(self.norm1(self.conv1(x)))
        x = x + self.conv2(self.relu2(self.norm2(x)))
        return self.head(x.mean(dim=(2, 3)))


class SelfAttention(nn.Module):
    """Attention of two heads over tokens (B, N, D), queries, keys and values from one projection."""

    def __init__(self, width: int):
        super().__init__()
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = (part.unflatten(2, (2, -1)).transpose(1, 2) for part in self.qkv(x).chunk(3, dim=2))
        share = (q @ k.transpose(2, 3) / q.shape[3] ** 0.5).softmax(dim=3)
        return self.proj((share @ v).transpose(1, 2).flatten(2))


class Transformer(nn.Module):
    """A block of attention and MLP over the four pixels of an image; the mean over tokens; a linear layer.

    `fused` takes torch's attention module, whose input projection is a parameter of its own.
    """

    shape = (3, 2, 2)

    def __init__(self, classes: int = 3, fused: bool = False):
        super().__init__()
        generator = torch.Generator().manual_seed(5)
        self.embed = nn.Linear(3, 4)
        self.position = nn.Parameter(torch.randn(1, 4, 4, generator=generator))
        self.norm1, self.norm2 = nn.LayerNorm(4), nn.LayerNorm(4)
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True) if fused else SelfAttention(4)
        self.up, self.relu, self.down = nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 4)
        self.head = nn.Linear(4, classes)
        with torch.no_grad():
            for name, parameter in self.attention.named_parameters():
                if name.startswith("in_proj"):  # the constructor draws them from a state that all share
                    parameter.normal_(0, 0.5, generator=generator)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.embed(x.flatten(2).transpose(1, 2)) + self.position
        y = self.norm1(x)
        fused = isinstance(self.attention, nn.MultiheadAttention)
        x = x + (self.attention(y, y, y, need_weights=False)[0] if fused else self.attention(y))
        x = x + self.down(self.relu(self.up(self.norm2(x))))
        return self.head(x.mean(dim=1))


NETWORKS = {
    "chain": Chain,
    "staged": Staged,
    "strided": Strided,
    "mlp": Mlp,
    "loose": Loose,
    "residual": Residual,
    "shared": Shared,
    "preactivation": PreActivation,
    "transformer": Transformer,
}


def disturb(network: nn.Module, seed: int = 0) -> None:
    """Give every parameter and running statistic a value that no initialisation would: BatchNorm's too.

    Scales stay away from 0 and shifts near it: where a ReLU after BatchNorm clips nothing of an image, the
    mean over its positions is constant, and the signs of what should be zero gradients are rounding noise.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in network.state_dict().items():
            if name.endswith("running_var"):
                value.uniform_(0.5, 2.0, generator=generator)
            elif name.endswith(("bias", "running_mean")):
                value.uniform_(-0.3, 0.3, generator=generator)
            elif value.ndim == 1:
                value.uniform_(0.5, 1.5, generator=generator)
                value.mul_(torch.randint(0, 2, value.shape, generator=generator) * 2 - 1)
            elif value.is_floating_point():
                value.normal_(0.1, 0.5, generator=generator)


def batch_of(shape: tuple[int, int, int], classes: int) -> Callable[..., tuple[torch.Tensor, torch.Tensor]]:
    """A subject's batch function: Gaussian images, labels that give each class its turn."""

    def batch(number: int, size: int) -> tuple[torch.Tensor, torch.Tensor]:
        generator = torch.Generator().manual_seed(1000 + number)
        images = torch.randn(size, *shape, generator=generator)
        labels = (torch.arange(size) % classes)[torch.randperm(size, generator=generator)]
        return images, labels

    return batch


@pytest.fixture
def tiny_network() -> Callable[..., nn.Module]:
    """`tiny_network(name, **options)`: one of the networks of this file."""
    return lambda name, **options: NETWORKS[name](**options)


@pytest.fixture
def make_subject() -> Callable[..., Subject]:
    """`make_subject(network, …)`: a subject of a network, or of the tiny network of that name.

    `keep_weights` scores weights drawn by `disturb` instead of an initialisation's. Other options go to
    `Subject`.
    """

    def make(
        network: str | nn.Module,
        shape: tuple[int, int, int] | None = None,
        classes: int = 3,
        seed: int = 1,
        batch: Callable | None = None,
        keep_weights: bool = False,
        **options: Any,
    ) -> Subject:
        if isinstance(network, str):
            network = NETWORKS[network](classes)
        if keep_weights:
            disturb(network)
        shape = shape or network.shape
        options.setdefault("stages", getattr(network, "stages", None))
        # `test_operations.py` holds them to it. Torch's attention has its tokens first.
        options.setdefault("plain", type(network) in NETWORKS.values() and not isinstance(network, Transformer))
        return Subject(
            network,
            batch or batch_of(shape, classes),
            seed,
            shape,
            classes,
            torch.device("cpu"),
            keep_weights=keep_weights,
            **options,
        )

    return make
