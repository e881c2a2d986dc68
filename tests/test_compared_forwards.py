"""Forwards that are compared begin alike and read images of their own: nothing differs but what the pass changes."""

from __future__ import annotations

import random
from typing import ClassVar

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm

import harness
from harness.probes.base import Start

LABELS = torch.arange(12) % 5


@pytest.fixture(scope="module")
def images():
    return torch.randn(12, 3, 8, 8, generator=torch.Generator().manual_seed(1))


def seeded(make):
    """A network, whatever the state of the global generator."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        return make()


class Net(nn.Module):
    """Two convolutions and a linear layer, without biases, so that weights may be scaled; subclasses change the first.

    `drop` is what is done to the features.
    """

    def __init__(self, norm=lambda layer: layer, drop=None):
        super().__init__()
        self.c1 = norm(nn.Conv2d(3, 6, 3, padding=1, bias=False))
        self.c2 = norm(nn.Conv2d(6, 6, 3, padding=1, bias=False))
        self.fc = nn.Linear(6, 5, bias=False)
        self.drop = drop or nn.Identity()

    def first(self, x):
        return x

    def forward(self, x):
        x = F.relu(self.c1(self.first(x)))
        x = self.drop(x)
        return self.fc(F.relu(self.c2(x)).mean(dim=(2, 3)))


# Images of their own --------------------------------------------------------------------------------------


class Rescaled(Net):
    def first(self, x):
        return F.relu(0.25 * x - 0.3)


class RescaledInPlace(Net):
    def first(self, x):
        return F.relu(x.mul_(0.25).sub_(0.3))


class Rectified(Net):
    def first(self, x):
        return F.relu(x.clone())


class RectifiedItself(Net):
    """Whose ReLU reads the images, one tensor in all forwards of a careless pass."""

    def first(self, x):
        return F.relu(x)


class RectifiedInPlace(Net):
    def first(self, x):
        return x.relu_()


TWINS = {Rescaled: (RescaledInPlace,), Rectified: (RectifiedItself, RectifiedInPlace)}


@pytest.mark.parametrize("spec", ["swap:repeats=3", "swap_reg:repeats=3:mu=1:sigma=1", "lswag:repeats=3"])
@pytest.mark.parametrize("twin", TWINS)
def test_patterns_of_several_forwards(twin, spec, images):
    expected = harness.score(seeded(twin), images, LABELS, spec)
    assert expected.notna().all()
    for kind in TWINS[twin]:
        found = harness.score(seeded(kind), images, LABELS, spec)
        assert found.to_dict() == pytest.approx(expected.to_dict(), rel=1e-6)


class Tokens(nn.Module):
    """Its position embedding has no closed form of a derivative; the forward writes into its input, or into a copy."""

    copies: ClassVar[bool] = False

    def __init__(self):
        super().__init__()
        self.position = nn.Parameter(torch.randn(1, 6, 8, 8))
        self.conv, self.fc = nn.Conv2d(3, 6, 3, padding=1), nn.Linear(6, 5)

    def forward(self, x):
        x = x.clone() if self.copies else x
        x = x.mul_(0.5).sub_(0.1)
        return self.fc(torch.tanh(self.conv(x) + self.position * x.mean()).mean(dim=(2, 3)))


class TokensOfACopy(Tokens):
    copies = True


@pytest.mark.parametrize("spec", ["vkdnw", "vkdnw:rows=2"])
def test_single_derivatives_do_not_depend_on_what_else_is_asked_for(spec, images):
    (expected,) = harness.score(seeded(TokensOfACopy), images, LABELS, spec)
    (alone,) = harness.score(seeded(Tokens), images, LABELS, spec)
    beside = harness.score(seeded(Tokens), images, LABELS, ["vkdnw:tensors=2", "vkdnw:tensors=4", spec])
    assert [alone, beside[spec]] == pytest.approx([expected, expected], rel=1e-6)


class DrawsInEvalMode(Tokens):
    """As many a dropout does that is written without `training=self.training`."""

    copies = True

    def forward(self, x):
        return super().forward(F.dropout(x, 0.3))


def test_single_derivatives_of_a_network_that_draws_in_eval_mode(images):
    (alone,) = harness.score(seeded(DrawsInEvalMode), images, LABELS, "vkdnw")
    beside = harness.score(seeded(DrawsInEvalMode), images, LABELS, ["vkdnw:tensors=2", "vkdnw"])
    assert beside["vkdnw"] == alone


# The same draws -------------------------------------------------------------------------------------------


class NumpysDepth(nn.Module):
    """Stochastic depth by numpy's or Python's generator."""

    def forward(self, x):
        return x * (1 + np.random.uniform() + random.random())


RANDOM = {"dropout": nn.Dropout(0.3), "channels": nn.Dropout2d(0.3), "numpy's": NumpysDepth()}


@pytest.mark.parametrize("name", RANDOM)
def test_two_constant_weights_drop_the_same(name, images):
    """Without BatchNorm features of constant weights are multiples of each other: nothing is left of a difference."""
    assert harness.score(seeded(Net), images, LABELS, "epsinas:first=0.5")["epsinas:first=0.5"] == 0
    found = harness.score(seeded(lambda: Net(drop=RANDOM[name])), images, LABELS, "epsinas:first=0.5")
    assert found["epsinas:first=0.5"] == 0


@pytest.mark.parametrize("name", [*RANDOM, "spectral_norm"])
def test_equal_images_are_at_no_distance(name, images):
    norm = spectral_norm if name == "spectral_norm" else lambda layer: layer
    found = harness.score(seeded(lambda: Net(norm, RANDOM.get(name))), images[:1].repeat(3, 1, 1, 1), None, "rbflex")
    assert found.attrs["status"]["rbflex"] == "-inf"


@pytest.mark.parametrize("name", [*RANDOM, "spectral_norm"])
def test_images_that_nothing_is_added_to_are_at_no_distance(name, images):
    norm = spectral_norm if name == "spectral_norm" else lambda layer: layer
    found = harness.score(seeded(lambda: Net(norm, RANDOM.get(name))), images, LABELS, "zen:gamma=0")
    assert found.isna().all()  # the logarithm of 0


class KeepsItsMask(nn.Module):
    """Dropout that draws once for each shape and drops the same from then on."""

    def __init__(self):
        super().__init__()
        self.masks = {}

    def forward(self, x):
        if x.shape not in self.masks:
            self.masks[x.shape] = F.dropout(torch.ones_like(x), 0.3, self.training)
        return x * self.masks[x.shape]


class Staged(Net):
    def __init__(self, drop):
        super().__init__(drop=drop)
        self.s1, self.s2 = nn.Identity(), nn.Identity()

    def forward(self, x):
        x = self.s1(F.relu(self.c1(x)))
        return self.fc(self.s2(F.relu(self.c2(self.drop(x)))).mean(dim=(2, 3)))


def test_a_copy_that_is_made_worse_drops_the_same(images):
    kept, drawn = (
        harness.score(seeded(lambda drop=drop: Staged(drop)), images, LABELS, "croze", stages=["s1", "s2"])["croze"]
        for drop in (KeepsItsMask(), nn.Dropout(0.3))
    )
    assert drawn == pytest.approx(kept, rel=1e-9)


def test_a_start_comes_back_as_often_as_it_is_asked_for():
    network = seeded(lambda: Net(spectral_norm))
    start = Start(network, torch.device("cpu"))
    drawn = []
    for _ in range(3):
        start.again()
        weights = network.c1.weight.detach().clone()
        drawn.append((torch.rand(2).tolist(), np.random.uniform(), random.random(), weights.tolist()))
    assert drawn[0] == drawn[1] == drawn[2]
