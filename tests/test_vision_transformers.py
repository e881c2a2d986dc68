"""Tests of the AutoFormer and PiT spaces: texts, counts, the networks, and what reads attention."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn

from harness.benchmarks.benchmark import load_benchmark
from harness.engine.scorer import Job, Scorer
from harness.engine.scoring import run
from harness.engine.store import ScoreStore
from harness.errors import HarnessError
from harness.probes.base import Subject
from harness.probes.topology import Topology
from harness.spaces import get_space
from harness.spaces.autoformer import REACH, decode, grid
from harness.spaces.autoformer.cell import TINY
from harness.spaces.autoformer.network import Attention, Distances
from harness.spaces.base import Operation
from harness.spaces.pit import grids

SUPERNETS = ("autoformer_tiny", "autoformer_small", "autoformer_base")
TRAINED = ("vit_bench_autoformer", "vit_bench_pit")
TEXT = "-".join(["192", *["3x4"] * 12])
COUNTS = ("params", "flops", "elementwise", "trainable_layers", "parameter_tensors")


def members(name: str, n: int, seed: int = 0) -> list[str]:
    benchmark = load_benchmark(name)
    return [benchmark.architectures[i] for i in np.random.RandomState(seed).permutation(len(benchmark))[:n]]


# Texts ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "",
        "nonsense",
        "192",
        TEXT.replace("192", "200"),
        TEXT + "-3x4-3x4-3x4",  # 15 blocks
        TEXT.replace("3x4", "3x3", 1),
        TEXT.replace("3x4", "5x4", 1),
        TEXT.replace("3x4", "3x4.0", 1),
        TEXT.replace("3", "३", 1),
        "-".join(["192"] + ["3x4"] * 500),
    ],
)
def test_what_is_no_autoformer_is_refused(text):
    space = get_space("autoformer_tiny")
    for read in (space.parse, lambda t: space.build(t, 10), lambda t: space.topology([t], 10, 224)):
        with pytest.raises(
            HarnessError, match="is no architecture of this AutoFormer space: write the width"
        ) as caught:
            read(text)
        assert len(str(caught.value)) < 700


@pytest.mark.parametrize(
    "text", ["", "32r4-2x2-4x6", "32r3-2x2-4x6-8x4", "32r4-8x2-4x6-8x4", "32r4-2x4-4x6-8x4", "33r4-2x2-4x6-8x4"]
)
def test_what_is_no_pit_is_refused(text):
    space = get_space("vit_bench_pit")
    for read in (space.parse, lambda t: space.build(t, 10), lambda t: space.topology([t], 10, 224)):
        with pytest.raises(HarnessError, match="is no PiT architecture of ViT-Bench-101: write it as BASErRATIO"):
            read(text)


def test_an_architecture_of_one_space_is_none_of_another():
    with pytest.raises(HarnessError):
        get_space("autoformer_small").parse(TEXT)
    assert get_space("vit_bench_autoformer").parse(f" {TEXT}\n") == TEXT


# Counts ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "rho"), list(zip(SUPERNETS, (0.635, 0.941, 0.224), strict=True)))
def test_parameters_equal_the_stored_ones_for_all(name, rho):
    benchmark = load_benchmark(name)
    params = benchmark.space.topology(benchmark.architectures, 1000, 224)["params"]
    np.testing.assert_array_equal(params, np.round(benchmark.column("params_m") * 1e6))
    assert stats.spearmanr(params, benchmark.accuracies("imagenet")).statistic == pytest.approx(rho, abs=0.0005)


@pytest.mark.parametrize("name", SUPERNETS)
def test_what_the_release_calls_flops(name):
    """The layers of the space, with what AutoFormer's counter adds: the card names it."""
    benchmark = load_benchmark(name)
    stored = benchmark.column("flops_m") * 1e6
    tokens = 198  # in the blocks; 196 patches in the embedding, 197 at the classifier
    for architecture, figure in list(zip(benchmark.architectures, stored, strict=True))[::50]:
        width, heads, ratios = decode(architecture, benchmark.space.choice)
        found = 196 * 768 * width + width + 197 * width / 2 + 197 * width * 1000
        for h, ratio in zip(heads, ratios, strict=True):
            attention, hidden = 64 * h, int(width * ratio)
            found += tokens * (4 * attention * width + 2 * hidden * width + 2 * width)  # linear layers and norms
            found += 2 * tokens**2 * attention  # products
            found += 2 * REACH * tokens**2 + tokens**2 / 2 + tokens * attention / 2  # distances
        assert found == pytest.approx(figure, abs=1)


@pytest.mark.parametrize("name", [*SUPERNETS, *TRAINED])
def test_counts_equal_those_of_networks(name):
    """All counts where a forward pass is cheap, of one network at the benchmark's resolution; parameters of ten."""
    benchmark = load_benchmark(name)
    classes = next(iter(benchmark.datasets.values())).classes
    architectures = members(name, 10)
    for resolution, number in ((224, 0 if name == "autoformer_base" else 1), (64, 2)):
        counts = benchmark.space.topology(architectures, classes, resolution)
        for place, architecture in enumerate(architectures[:number]):
            network = benchmark.space.build(architecture, classes)
            found = {count: counts[count][place] for count in COUNTS}
            subject = Subject(network, None, 0, (3, resolution, resolution), classes, torch.device("cpu"))
            assert Topology().run(subject, frozenset(COUNTS)) == found, architecture
    with torch.device("meta"):
        held = [sum(p.numel() for p in benchmark.space.build(a, classes).parameters()) for a in architectures]
    assert held == counts["params"].tolist()


def test_grids():
    assert [grid(side) for side in (16, 31, 32, 224)] == [1, 1, 2, 14]
    assert grids(224) == [27, 14, 7]
    assert grids(64) == [7, 4, 2]


def test_operations_by_hand():
    kinds, counts = get_space("autoformer_tiny").operations([TEXT], 224)
    assert dict(zip(kinds, counts[0], strict=True)) == {
        Operation("convolution", 1, 192, 14): 3 * 12,  # queries, projection (3 heads of 64) and MLP
        Operation("convolution", 1, 768, 14): 12,
        Operation("skip", 1, 192, 14, summed=True): 2 * 12,
    }
    kinds, counts = get_space("vit_bench_pit").operations(["16r2-2x1-4x4-4x2"], 224)
    assert {kind: number for kind, number in zip(kinds, counts[0], strict=True) if number} == {
        Operation("convolution", 1, 32, 27): 3,
        Operation("convolution", 1, 64, 27): 1,
        Operation("skip", 1, 32, 27, summed=True): 2,
        Operation("convolution", 3, 32, 27): 1,
        Operation("convolution", 1, 64, 14): 3 * 4,
        Operation("convolution", 1, 128, 14): 4,
        Operation("skip", 1, 64, 14, summed=True): 2 * 4,
        Operation("convolution", 3, 64, 14): 1,
        Operation("convolution", 1, 64, 7): 3 * 2,
        Operation("convolution", 1, 128, 7): 2,
        Operation("skip", 1, 64, 7, summed=True): 2 * 2,
    }


# The networks ---------------------------------------------------------------------------------------------


def test_attention_is_that_of_torch():
    """Without distances, on the same weights."""
    torch.manual_seed(0)
    own, theirs = Attention(12, 12, 3, relative=False), nn.MultiheadAttention(12, 3, batch_first=True)
    with torch.no_grad():
        own.qkv.bias.normal_()
        own.proj.bias.normal_()
        theirs.in_proj_weight.copy_(own.qkv.weight)
        theirs.in_proj_bias.copy_(own.qkv.bias)
        theirs.out_proj.weight.copy_(own.proj.weight)
        theirs.out_proj.bias.copy_(own.proj.bias)
    x = torch.randn(2, 5, 12)
    torch.testing.assert_close(own(x), theirs(x, x, x)[0])


def test_distances_by_hand():
    """Of a grid of 2 x 2 and the class token: entries of rows and columns apart."""
    distances = Distances(1)
    with torch.no_grad():
        distances.rows[:, 0] = torch.arange(30.0)
        distances.columns[:, 0] = 100 * torch.arange(30.0)
    here = REACH + 1
    found = distances(5)[..., 0]
    assert found[0].tolist() == found[:, 0].tolist() == [0.0] * 5
    assert found[1, 1:].tolist() == [
        here * 101, here + 100 * (here + 1), here + 1 + 100 * here, (here + 1) * 101,
    ]  # fmt: skip
    assert found[4, 1] == (here - 1) * 101
    far = distances(1 + 17**2)[..., 0]
    assert far[1, -1] == 29 * 101  # 16 apart, of which 14 count


def test_attention_with_distances_by_hand():
    """Zero weights but for values: every token takes the mean of the values, and of the vectors to all tokens."""
    attention = Attention(2, 2, 1, relative=True)
    with torch.no_grad():
        for parameter in (attention.qkv.weight, attention.qkv.bias, attention.proj.bias):
            parameter.zero_()
        attention.qkv.weight[4:] = torch.eye(2)
        attention.proj.weight.copy_(torch.eye(2))
    x = torch.randn(1, 5, 2)
    expected = x.mean(dim=1, keepdim=True) + attention.of_values(5).mean(dim=1)
    torch.testing.assert_close(attention(x), expected)


@pytest.mark.parametrize("name", [*SUPERNETS, *TRAINED])
def test_networks_are_the_same_whatever_was_drawn_before(name):
    """What no initialisation draws must not depend on the process."""
    text = members(name, 1)[0]
    states = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        network = get_space(name).build(text, 3, thin=True)
        learned = ("class_token", "positions", "rows", "columns")
        states.append({n: p for n, p in network.named_parameters() if n.rpartition(".")[2] in learned})
    assert len(states[0]) >= 2
    assert all(torch.equal(value, states[1][key]) for key, value in states[0].items())
    assert all(0.01 < value.std() < 0.03 for value in states[0].values() if value.numel() > 500)


def test_tokens_take_part():
    """A patch moves every logit, through the mean or the class token; so does where it stands."""
    torch.manual_seed(0)
    for name in ("autoformer_tiny", *TRAINED):
        network = get_space(name).build(members(name, 1)[0], 5, thin=True).double().eval()
        images = torch.randn(1, 3, 64, 64, dtype=torch.float64)
        changed = images.clone()
        changed[..., :16, :16] += 1
        with torch.no_grad():
            assert ((network(images) - network(changed)).abs() > 1e-9).all(), name
            assert not torch.allclose(network(images), network(images.flip(3)), atol=1e-9)


def test_shapes_of_the_stages():
    for name, text, shapes in (
        ("autoformer_tiny", TEXT, [(192, 17, 1)] * 13),
        ("vit_bench_pit", "16r2-2x1-4x4-4x2", [(32, 50, 1)] * 2 + [(64, 17, 1)] * 4 + [(64, 5, 1)] * 2),
    ):
        network = get_space(name).build(text, 3)
        found = []
        for stage in network.stages:
            stage.register_forward_hook(lambda module, args, output, seen=found: seen.append(tuple(output.shape[1:])))
        with torch.no_grad():
            network(torch.zeros(1, 3, 64, 64))
        assert found == shapes


# Scoring --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["autoformer_tiny", *TRAINED])
def test_attention_is_scored(name, tmp_path):
    proxies = ("dss", "snip:batch_size=2", "az_expressivity:batch_size=2", "naswot:batch_size=2")
    job = Job(
        name, next(iter(load_benchmark(name).datasets)), proxies, population="sample(1, seed=0)", workers=1,
        store=str(tmp_path),
    )  # fmt: skip
    summary = run(job, progress=False)
    store = ScoreStore(tmp_path)
    stored = store.keys()
    status = {key.proxy: store.read(key)["status"].tolist() for key in stored}
    assert summary.errors == 0
    assert {proxy: found for proxy, found in status.items() if found != ["ok"]} == {
        "naswot:batch_size=2": ["the network computes no ReLU"]
    }


def test_the_choice_of_the_tiny_space():
    assert decode(TEXT, TINY).heads == (3,) * 12
    assert {a.split("-")[0] for a in load_benchmark("autoformer_tiny").architectures} == {"192", "216"}


# Weights shared as in a supernet --------------------------------------------------------------------------


def weights_of(text: str, seed: int = 0, init: str = "supernet", repeat: int = 0) -> dict[str, torch.Tensor]:
    benchmark = load_benchmark("autoformer_tiny")
    subject = Scorer(Job("autoformer_tiny", "imagenet", ("dss",), seed=seed)).subject(
        list(benchmark.architectures).index(text)
    )
    subject.initialise(init, repeat)
    return {name: value.detach() for name, value in subject.network.state_dict().items()}


def test_networks_are_slices_of_one_draw():
    """Leading rows and columns, of queries, keys and values each; AutoFormer's supernet gives them out so."""
    texts = load_benchmark("autoformer_tiny").architectures
    drawn = [weights_of(next(text for text in texts if text.startswith(width))) for width in ("192", "216")]
    for one in drawn:
        for other in drawn:
            for name in one.keys() & other.keys():
                parts = 3 if name.endswith("qkv.weight") else 1
                if not name.endswith("weight") or "norm" in name:
                    continue
                for a, b in zip(one[name].chunk(parts), other[name].chunk(parts), strict=True):
                    shared = tuple(slice(0, min(sides)) for sides in zip(a.shape, b.shape, strict=True))
                    torch.testing.assert_close(a[shared], b[shared], rtol=0, atol=0)
    queries, keys, _ = drawn[0]["blocks.0.attn.qkv.weight"].chunk(3)
    assert not torch.equal(queries, keys)
    assert not torch.equal(drawn[0]["blocks.0.fc1.weight"], drawn[0]["blocks.1.fc1.weight"])


def test_the_law_of_a_supernets_weights():
    """That of `truncated_normal`, another draw by seed and by repeat."""
    text = load_benchmark("autoformer_tiny").architectures[0]
    shared, own = weights_of(text), weights_of(text, init="truncated_normal")
    assert shared.keys() == own.keys()
    for name in ("blocks.0.fc1.weight", "blocks.3.attn.qkv.weight", "embedding.proj.weight"):
        assert abs(shared[name].mean()) < 0.02 * own[name].std()
        assert stats.ks_2samp(shared[name].flatten()[:50_000], own[name].flatten()[:50_000]).pvalue > 0.01
    for other in (weights_of(text, seed=1), weights_of(text, repeat=1)):
        assert not torch.equal(other["blocks.0.fc1.weight"], shared["blocks.0.fc1.weight"])
    assert not shared["blocks.0.fc1.bias"].any()
