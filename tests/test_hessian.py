"""The Hessian-gradient product with layers of closed-form second derivatives, against torch's own double backward."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from harness.probes.base import gradients
from harness.probes.hessian import hessian_gradient, twice_differentiable


class Assorted(nn.Module):
    """Grouped, strided, dilated, padded, biased and unused layers, a layer called twice, one in evaluation mode."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.grouped = nn.Conv2d(8, 8, 3, stride=2, padding=2, dilation=2, groups=4, bias=False)
        self.same = nn.Conv2d(8, 8, 3, padding="same")
        self.mirrored = nn.Conv2d(8, 8, 3, padding=1, padding_mode="reflect")
        self.twice = nn.Conv2d(8, 8, (1, 3), padding=(0, 1))
        self.norms = nn.ModuleList([nn.BatchNorm2d(8), nn.BatchNorm2d(8, affine=False), nn.BatchNorm2d(8)])
        self.still = nn.BatchNorm2d(8).eval()
        self.unused = nn.Conv2d(8, 8, 1)
        self.end = nn.Linear(8, 5)
        with torch.no_grad():
            for norm in (self.norms[0], self.norms[2], self.still):
                norm.weight.uniform_(0.5, 2)
                norm.bias.uniform_(-1, 1)

    def forward(self, x):
        x = F.silu(self.norms[0](self.first(x)))
        x = F.relu(self.norms[1](self.grouped(x)))
        x = self.norms[2](self.same(x) + self.mirrored(x))
        x = self.still(self.twice(torch.tanh(self.twice(x))))
        return self.end(x.mean(dim=(2, 3)))


def products(network, images, labels, ours):
    weights = [m.weight for m in network.modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
    if ours:
        with twice_differentiable(network):
            loss = F.cross_entropy(network(images), labels)
    else:
        loss = F.cross_entropy(network(images), labels)
    grads = gradients(loss, weights, create_graph=True)
    return [*grads, *hessian_gradient(weights, grads)]


def agree(network, images, labels):
    ours, torchs = (products(network, images, labels, which) for which in (True, False))
    assert any(grad is not None and bool(grad.abs().sum() > 0) for grad in torchs[len(torchs) // 2 :])
    for mine, theirs in zip(ours, torchs, strict=True):
        assert (mine is None) == (theirs is None)
        if mine is not None:
            torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-12)


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(6, 3, 8, 8, dtype=torch.float64, generator=generator) + 1
    return images, torch.arange(6) % 5


def test_assorted_layers(batch):
    torch.manual_seed(0)
    network = Assorted().double()
    agree(network, *batch)
    assert all("forward" not in module.__dict__ for module in network.modules())


def test_channels_last(batch):
    torch.manual_seed(1)
    images, labels = batch
    agree(
        Assorted().double().to(memory_format=torch.channels_last),
        images.contiguous(memory_format=torch.channels_last),
        labels,
    )


def test_running_statistics_are_left_alone(batch):
    network = Assorted().double()
    products(network, *batch, ours=True)
    assert not any(bool(norm.running_mean.any()) for norm in network.norms if norm.running_mean is not None)


def test_one_value_a_channel_is_refused_as_by_torch():
    network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
    with twice_differentiable(network), pytest.raises(ValueError, match="more than 1 value per channel"):
        network(torch.zeros(1, 3, 1, 1))


class Computed(nn.Module):
    """A convolution's bias and a BatchNorm's parameters that layers compute: their gradients come by these."""

    def __init__(self, where):
        super().__init__()
        self.where = where
        self.conv, self.norm = nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6, affine=False)
        self.hyper, self.end = nn.Linear(4, 6), nn.Linear(6, 5)
        self.context = nn.Parameter(torch.randn(4))

    def forward(self, x):
        made = self.hyper(self.context)
        x = F.conv2d(x, self.conv.weight, made if self.where == "bias" else self.conv.bias, padding=1)
        affine = {"weight": (1 + made, None), "shift": (torch.ones_like(made), made), "shift alone": (None, made)}
        weight, bias = affine.get(self.where, (None, None))
        return self.end(F.silu(F.batch_norm(x, None, None, weight, bias, training=True) + x).mean(dim=(2, 3)))


@pytest.mark.parametrize("where", ["bias", "weight", "shift"])
def test_parameters_that_layers_compute(where, batch):
    torch.manual_seed(2)
    agree(Computed(where).double(), *batch)


def test_a_shift_that_a_layer_computes_without_a_scale(batch):
    """torch's own second derivative fails there."""
    torch.manual_seed(2)
    network = Computed("shift").double()
    theirs = products(network, *batch, ours=False)
    network.where = "shift alone"
    for mine, other in zip(products(network, *batch, ours=True), theirs, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-9, atol=1e-12)
