"""Networks as users bring them: each score is right, or a reason says why there is none."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import harness
from harness.probes.layout import Place, find_layout
from harness.probes.operations import ACTIVATION, CONVOLUTION, Watch
from tests.any_network.architectures import SequenceFirst, Windows, WindowsFirst
from tests.any_network.cases import Convs, OwnForward
from tests.any_network.reference import gradsign, vkdnw
from tests.any_network.table import KINDS, SPECS, line, near, row

PAGE = Path(__file__).resolve().parents[1] / "docs" / "any_network.md"


@pytest.fixture
def images():
    return torch.randn(12, 3, 8, 8, generator=torch.Generator().manual_seed(1))


LABELS = torch.arange(12) % 5


@pytest.mark.parametrize("name", KINDS)
def test_a_right_value_or_a_reason(name):
    cells = row(name)
    assert len(cells) == len(SPECS)
    assert {spec: cell.text for spec, cell in cells.items() if cell.verdict == "wrong"} == {}
    assert line(name, cells) in PAGE.read_text(encoding="utf-8").splitlines()


def test_the_table_is_no_smaller_than_it_was():
    assert len(KINDS) >= 50


# The mechanism --------------------------------------------------------------------------------------------


def test_a_kept_tensor_is_copied_before_it_is_written():
    x = torch.ones(3)
    watch = Watch(nn.Identity(), {})
    kept = watch.keep(x.view(3, 1))
    for write in (lambda: x.mul_(2), lambda: F.relu(x, inplace=True), lambda: x.__setitem__(0, 5.0)):
        with watch:
            write()
        assert kept.value.flatten().tolist() == [1, 1, 1]
    with watch:
        torch.add(x, 1, out=x)
    assert x.tolist() == [6, 3, 3]


def test_every_way_to_a_relu_is_the_same_operation():
    x, seen = torch.randn(2, 3), []

    def note(operation):
        seen.append((operation.name, operation.writes, operation.index))
        return operation.run()

    with Watch(nn.Identity(), {ACTIVATION: note}):
        nn.ReLU()(x), F.relu(x), x.relu(), torch.relu(input=x), F.relu(x.clone(), True), x.clone().relu_(), F.relu6(x)
        nn.ReLU6()(x)
    names, writes, places = zip(*seen, strict=True)
    assert names == ("relu",) * 6 + ("relu6",) * 2
    assert writes == (False,) * 4 + (True,) * 2 + (False,) * 2
    assert places == tuple(range(8))


def test_the_owner_of_derived_weights():
    conv, found = nn.Conv2d(3, 4, 3), []
    network = nn.ModuleDict({"c": conv})

    def note(operation):
        found.append(operation.owner)
        return operation.run()

    x = torch.randn(1, 3, 5, 5)
    with Watch(network, {CONVOLUTION: note}):
        conv(x)
        F.conv2d(x, conv.weight * 0.5)
        F.conv2d(x, torch.ones(4, 3, 3, 3))
    assert found == ["c", "c", None]


def layout_of(network):
    return find_layout(network, (3, 8, 8), torch.device("cpu"), torch.Generator().manual_seed(3))


def test_where_images_are():
    assert layout_of(Convs(False)).first
    tokens = layout_of(SequenceFirst(False))
    assert tokens.apart
    assert not tokens.first
    assert Place(1) in tokens._places
    windows = layout_of(Windows(False))
    assert windows.apart
    assert not windows.first
    assert Place(0, fast=True) in layout_of(WindowsFirst(False))._places


class Meeting(Convs):
    """Images see each other's mean."""

    def forward(self, x):
        return super().forward(x - x.mean(dim=0))


def test_images_that_meet(images):
    network = Meeting(False)
    assert not layout_of(network).apart
    small = ["naswot:dtype=float64:batch_size=6", "gradsign:dtype=float64:batch_size=6", "snip"]
    found = harness.score(network, images, LABELS, small, keep_weights=True)
    assert "images meet" in found.attrs["status"]["naswot:batch_size=6:dtype=float64"]
    expected = gradsign(network, images[:6].double(), LABELS[:6])
    assert near(found["gradsign:batch_size=6:dtype=float64"], expected)


@pytest.mark.parametrize("name", ["chain", "staged", "strided", "mlp", "loose", "residual", "shared", "preactivation"])
def test_the_tiny_networks_keep_their_images_first(tiny_network, name):
    network = tiny_network(name)
    assert find_layout(network, network.shape, torch.device("cpu"), torch.Generator().manual_seed(1)).first


# Single cases ---------------------------------------------------------------------------------------------


def test_an_instances_own_forward_stays(images):
    """And scores do not depend on which others are asked for."""
    network = OwnForward(False)
    specs = ["snip", "vkdnw", "gradsign", "synflow", "grasp"]
    together = harness.score(network, images, LABELS, specs)
    for spec in specs:
        assert harness.score(network, images, LABELS, [spec])[spec] == together[spec]
    assert "forward" in vars(network.c2)


class InputWriter(Convs):
    def forward(self, x):
        x.mul_(0.5)
        return super().forward(x)


def test_images_stay_what_they_are(images):
    before = images.clone()
    alone = harness.score(InputWriter(False), images, LABELS, ["snip"])
    torch.manual_seed(0)
    assert torch.equal(images, before)
    assert not alone.isna().any()


def test_fisher_of_frozen_layers_is_that_of_trained_ones(images):
    specs = ["fisher", "jacov", "naswot", "params", "flops"]
    with torch.random.fork_rng():
        network = Convs(False)
    free = harness.score(network, images, LABELS, specs)
    for frozen in (network.c1, network):
        frozen.requires_grad_(False)
        for asked in (specs, ["fisher"]):
            found = harness.score(network, images, LABELS, asked)
            assert found["fisher"] == pytest.approx(free["fisher"], rel=1e-6)
    found = harness.score(network, images, LABELS, [*specs, "snip"])
    assert found["naswot"] == free["naswot"]
    assert (found["params"], found["flops"]) == (0, free["flops"])
    assert found.attrs["status"]["snip"] == "no trainable weight"


class Dropping(nn.Module):
    def __init__(self, p):
        super().__init__()
        self.conv, self.p, self.fc = nn.Conv2d(3, 6, 3, padding=1), p, nn.Linear(6, 5)

    def forward(self, x):
        return self.fc(F.dropout(self.conv(x), self.p, self.training).mean((2, 3)))


def test_zen_with_dropout_drops_the_same_twice(images):
    """A mask of half the values, those kept being doubled: the change stays nearly what it is."""
    with_mask, without = (harness.score(Dropping(p), images, LABELS, ["zen"])["zen"] for p in (0.5, 0.0))
    assert with_mask == pytest.approx(without, abs=0.05)


class EvenKernel(Convs):
    def __init__(self, plain):
        super().__init__(plain)
        self.c2 = nn.Conv2d(self.width, self.width, 2, padding="same")


def test_an_even_kernel_with_named_padding(images):
    network = EvenKernel(False)
    settings = ":batch_size=6:dtype=float64"
    found = harness.score(network, images, LABELS, [f"gradsign{settings}", f"vkdnw{settings}"], keep_weights=True)
    assert near(found[f"gradsign{settings}"], gradsign(network, images[:6].double(), LABELS[:6]))
    assert near(found[f"vkdnw{settings}"], vkdnw(network, images[:6].double())["vkdnw"])


class Alias(Convs):
    """Holds a layer's weight where no registry finds it."""

    def __init__(self, plain):
        super().__init__(plain)
        self.held = [self.fc.weight]

    def forward(self, x):
        x = self.n1(self.c1(x)).relu().mean((2, 3))
        return F.linear(x, self.held[0] * 1.0, self.fc.bias)


def test_a_weight_held_by_a_list(images):
    network, settings = Alias(False), ":batch_size=6:dtype=float64"
    found = harness.score(network, images, LABELS, [f"vkdnw{settings}", "snip"], keep_weights=True)
    assert near(found[f"vkdnw{settings}"], vkdnw(network, images[:6].double())["vkdnw"])
    assert np.isfinite(found["snip"])


class Fixed32(nn.Module):
    """Reads images of 8 x 8 alone."""

    def __init__(self):
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 4, 3), nn.Linear(4 * 36, 5)

    def forward(self, x):
        return self.fc(F.relu(self.conv(x)).flatten(1))


def test_a_network_of_one_image_size(images):
    found = harness.score(Fixed32(), images, LABELS, ["meco", "nregions", "meco:resolution=8"])
    assert found.attrs["status"]["meco"].startswith("the network cannot read images of 64 x 64 (")
    assert all(found.attrs["status"][name].endswith(": set resolution=8") for name in ("meco", "nregions"))
    assert found.attrs["status"]["meco:resolution=8"] == "ok"


class ArithmeticNorm(nn.Module):
    def forward(self, x):
        return (x - x.mean(1, keepdim=True)) / (x.var(1, keepdim=True) + 1e-5).sqrt()


def test_a_norm_by_arithmetic_is_refused_where_norms_are_switched_off(images):
    network = Convs(False)
    network.n1 = ArithmeticNorm()
    found = harness.score(network, images, LABELS, ["synflow", "snip"])
    assert found.attrs["status"]["synflow"].startswith("ArithmeticNorm normalises by arithmetic")
    assert found.attrs["status"]["snip"] == "ok"
