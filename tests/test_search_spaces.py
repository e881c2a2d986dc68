"""Networks of the open spaces: counts by formula against built networks, forward and backward passes."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from harness.errors import HarnessError
from harness.probes.base import Subject
from harness.probes.topology import Topology
from harness.search.genes import SIZE, Gene
from harness.search.objective import NetworkScores
from harness.search.spaces import available, get_open_space

SMALL = {
    "esformer:size=S0": "resolution=64",
    "esformer:size=S1:blocks=residual": "resolution=32",
    "mobilenetv2": "resolution=32",
    "zennas": "resolution=16",
    "zennas:links=False": "resolution=16",
}
FULL = ["esformer:size=S0", "esformer:size=S1:blocks=residual", "mobilenetv2", "zennas"]


def members(spec: str, number: int = 3) -> list:
    space = get_open_space(spec)
    rng = np.random.RandomState(7)
    return [space, *(space.random(rng, lambda genotype: True) for _ in range(number))]


@pytest.mark.parametrize("spec", [f"{spec}:{side}" for spec, side in SMALL.items()])
def test_counts_equal_those_of_the_built_network(spec):
    space, *found = members(spec)
    for genotype in found:
        shape = (3, space.resolution, space.resolution)
        subject = Subject(space.build(genotype), None, 0, shape, space.classes, torch.device("cpu"))
        counted = Topology().run(subject, frozenset())
        assert {name: counted[name] for name in ("params", "flops")} == space.counts(genotype)
        assert counted["params"] == sum(p.numel() for p in space.build(genotype).parameters())


@pytest.mark.parametrize("spec", FULL)
def test_networks_run_forward_and_backward_at_full_resolution(spec):
    space, genotype = members(spec, 1)
    torch.manual_seed(0)
    network = space.build(genotype)
    logits = network(torch.randn(2, 3, space.resolution, space.resolution))
    assert logits.shape == (2, space.classes)
    logits.square().mean().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name


@pytest.mark.parametrize(
    ("size", "params", "flops"), [("S0", 3.5e6, 0.40e9), ("S1", 6.1e6, 0.65e9), ("S2", 12.6e6, 1.25e9)]
)
def test_the_plan_is_efficientformerv2s(size, params, flops):
    """EfficientFormerV2's own choices cost what its paper prints, less biases and the attention's products."""
    space = get_open_space(f"esformer:size={size}")
    counts = space.counts(space.reference())
    assert counts["params"] == pytest.approx(params, rel=0.04)
    assert counts["flops"] == pytest.approx(flops, rel=0.06)
    assert counts["params"] <= space.ceilings[0]


def test_the_initial_network_of_zennas():
    """SuperConvK3(3,8) K3K3(8,16,1,8,1) (16,32,2,16,1) (32,64,2,32,1) (64,64,2,32,1) SuperConvK1(64,128)."""
    space = get_open_space("zennas")
    plan = space.plan(space.initial())
    blocks = [(b["kind"], b["outputs"], b["stride"], b["bottleneck"], b["layers"], b["kernel"]) for b in plan["blocks"]]
    assert plan["stem"] == [8, 1]
    assert blocks == [
        ("dense", 16, 1, 8, 1, 3),
        ("dense", 32, 2, 16, 1, 3),
        ("dense", 64, 2, 32, 1, 3),
        ("dense", 64, 2, 32, 1, 3),
    ]
    assert plan["head"] == 128
    by_hand = 27 * 8 + 16  # stem
    for before, outputs, bottleneck in ((8, 16, 8), (16, 32, 16), (32, 64, 32), (64, 64, 32)):
        by_hand += 9 * before * bottleneck + 2 * bottleneck + 9 * bottleneck * outputs + 2 * outputs
        by_hand += before * outputs + outputs + 2 * outputs  # the projected link, with bias
    by_hand += 64 * 128 + 256 + 129 * 100
    assert space.counts(space.initial())["params"] == by_hand


@pytest.mark.parametrize("spec", ["esformer:size=S0:resolution=32", "zennas:resolution=16"])
def test_proxies_score_the_networks(spec):
    space, first, second, _ = members(spec)
    proxies = [
        "entropic_score:repeats=1",
        "logsynflow:repeats=1",
        "params",
        "az_expressivity:batch_size=4",
        "snip:batch_size=4",
    ]
    objective = NetworkScores(space, proxies, "random", None, 0, "cpu")
    found = [objective.score(genotype, range(len(proxies))).values for genotype in (first, first, second)]
    assert found[0] == found[1] != found[2]
    assert np.isfinite(found).all()
    assert found[0][2] == space.counts(first)["params"]


def test_an_aggregate_cannot_lead_on_an_open_space():
    with pytest.raises(HarnessError, match="combine"):
        NetworkScores(get_open_space("zennas"), ["az_nas"], "random", None, 0, "cpu")


def test_text_that_is_no_member_is_refused():
    space, genotype = members("zennas", 1)
    text = space.encode(genotype)
    for wrong in ("", text + ".3", text.replace("/", "/999.", 1)):
        with pytest.raises(HarnessError, match="no member"):
            space.decode(wrong)


def test_reach_of_a_gene():
    options = (8, 16, 24, 32, 40, 48)
    assert Gene("width", SIZE, options, (2, 0.5)).reach(2) == (0, 5)  # 12 is as near to 8 as to 16
    assert Gene("width", SIZE, options, (2, 0.5), 1).reach(2) == (0, 1, 3, 5)
    assert Gene("layers", SIZE, (0, 1, 2, 3, 4), steps=2).reach(1) == (0, 2, 3)
    assert Gene("kernel", SIZE, (3, 5, 7)).reach(1) == (0, 2)


def test_each_space_has_genes_of_both_kinds_as_the_paper_splits_them():
    kinds = {name: {} for name in available()}
    for name in available():
        for gene in get_open_space(name).genes:
            kinds[name].setdefault(gene.name.rpartition(".")[2], gene.kind)
    assert kinds["esformer"] == {
        "block": "topology",
        "kernel": "topology",
        "heads": "topology",
        "width": "size",
        "expansion": "size",
        "head_dim": "size",
    }
