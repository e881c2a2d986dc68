"""The modules of a network are found once, and again where it makes or changes some."""

from __future__ import annotations

import gc
import weakref

import torch
from torch import nn

from harness.probes.modules import buffers_of, modules_of, parameters_of


def network() -> nn.Module:
    shared = nn.BatchNorm2d(4)
    return nn.Sequential(nn.Conv2d(3, 4, 3), shared, nn.Sequential(nn.ReLU(), shared, nn.Conv2d(4, 4, 1)))


def same(made: nn.Module) -> bool:
    pairs = (
        (modules_of(made), made.named_modules()),
        (list(enumerate(parameters_of(made))), enumerate(made.parameters())),
        (list(enumerate(buffers_of(made))), enumerate(made.buffers())),
    )
    for found, expected in pairs:
        expected = list(expected)
        if [(name, id(one)) for name, one in found] != [(name, id(one)) for name, one in expected]:
            return False
    return True


def test_as_torch_gives_them(monkeypatch):
    made = network()
    assert same(made)
    made[2].add_module("more", nn.Linear(2, 2))
    assert same(made)
    made[2].more = nn.Identity()
    assert same(made)
    made.double()  # its buffers are other tensors now
    assert same(made)
    made[0].weight = nn.Parameter(torch.zeros(1))
    assert same(made)
    walks = []
    monkeypatch.setattr(nn.Module, "named_modules", lambda self: walks.append(self))
    assert len(modules_of(made)) == 7
    assert not walks


def test_a_network_is_freed():
    made = network()
    modules_of(made)
    gone = weakref.ref(made)
    del made
    gc.collect()
    assert gone() is None
