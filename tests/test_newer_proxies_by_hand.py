"""The proxies of 2021 to 2026 on tiny networks, as `test_proxies_by_hand.py` has the others."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from torch import nn

from harness.engine.scorer import score_subject
from harness.probes.base import Unscorable
from harness.probes.topology import Sizes
from harness.proxies import get_proxy
from harness.spaces.nasbench201 import NONE, SKIP, NasBench201, encode
from harness.spaces.nats_sss import NatsSss
from tests.by_hand import CASES, Case, Tape, by_hand, cross_entropy, forward, inputs_of, near


@pytest.fixture(params=CASES, ids=lambda case: f"{case[0]}-{case[1]}")
def case(request, make_subject) -> Case:
    name, scheme, size = request.param
    return Case(make_subject, name, scheme, size)


# Forward passes -------------------------------------------------------------------------------------------


def effective_rank(matrix: np.ndarray) -> float:
    values = np.linalg.svd(matrix, compute_uv=False)
    share = values[values > 0] / values.sum()
    return math.exp(-(share * np.log(share)).sum()) if len(share) else 0.0


def block(values: np.ndarray, generator: torch.Generator, whole: bool) -> np.ndarray:
    """Neighbouring samples (image, column, row) of all channels, as many as there are channels."""
    step = values.shape[3] if values.ndim == 4 else values.shape[1]
    rows = values.transpose(0, 3, 2, 1).reshape(-1, values.shape[1]) if values.ndim == 4 else values
    choices = len(rows) // step - 1
    start = int(torch.randint(choices, (), generator=generator)) * step if choices > 0 else 0
    if whole:
        start = min(start, len(rows) - values.shape[1])
    return rows[start : start + values.shape[1]]


@by_hand("near")
@pytest.mark.parametrize(("variant", "whole"), [("paper", False), ("repo", True)])
def test_near(case, variant, whole):
    kinds = ("layer", "relu") if variant == "paper" else ("layer", "relu", "norm")
    case.size = 6  # no fewer images than a linear layer has outputs
    scores = []
    for repeat in range(2):
        tape = forward(case.name, case.weights(repeat), case.batch()[0])
        draws = case.make().generator("rank blocks", repeat)
        values = [y.value for kind, _, _, y in tape.calls if kind in kinds]
        scores.append(sum(effective_rank(block(value, draws, whole)) for value in values))
    assert case.score("near", repeats=2, variant=variant, whole=whole) == near(np.mean(scores))


def test_near_reads_mini_batches_until_there_are_as_many_rows_as_channels(make_subject):
    """One image has one row for the classifier of three classes: three images have three."""
    case = Case(make_subject, "mlp", "default", size=1)
    images = np.concatenate([case.batch(number)[0] for number in range(5)])  # the first layer has five outputs
    draws = case.make().generator("rank blocks", 0)
    tape = forward("mlp", case.weights(), images)
    outputs = [y.value for kind, _, _, y in tape.calls if kind in ("layer", "relu")]
    expected = [effective_rank(block(y[: y.shape[1]], draws, False)) for y in outputs]
    assert case.score("near", repeats=1) == near(sum(expected))


@pytest.mark.parametrize(
    ("matrix", "rank"),
    [(torch.eye(5), 5.0), (3 * torch.eye(5), 5.0), (torch.ones(4, 3), 1.0), (torch.zeros(2, 2), 0.0)],
)
def test_effective_rank(matrix, rank):
    from harness.probes.ranks import effective_rank

    assert float(effective_rank(matrix)) == near(rank)


def least_eigenvalue(features: np.ndarray) -> float:
    with np.errstate(invalid="ignore", divide="ignore"):
        matrix = np.corrcoef(features.reshape(len(features), -1))
    matrix[~np.isfinite(matrix)] = 0
    return min(np.linalg.eigvals(matrix).real)


@by_hand("meco_opt")
@pytest.mark.parametrize("narrow", ["skip", "all"])
def test_meco_opt(make_subject, narrow):
    """On maps of 4 and 5 channels: 5 are drawn of 5, and those of 4 are left out or read whole."""
    case = Case(make_subject, "chain", "default")
    with inputs_of(case.subject.network) as images:
        score = case.score("meco_opt", batch_size=None, resolution=9, channels=5, narrow=narrow)
    tape = forward("chain", case.weights(), images[0])
    read = [y.value[0] for kind, _, _, y in tape.calls if kind in ("layer", "norm", "relu") and y.value.ndim == 4]
    assert score == near(sum(least_eigenvalue(x) for x in read if narrow == "all" or len(x) == 5))


def test_meco_opt_of_fewer_channels(make_subject):
    case = Case(make_subject, "chain", "default")
    with inputs_of(case.subject.network) as images:
        score = case.score("meco_opt", batch_size=None, resolution=9, channels=3)
    tape, draws = forward("chain", case.weights(), images[0]), case.make().generator("channels")
    expected = 0.0
    for kind, _, _, y in tape.calls:
        if kind in ("layer", "norm", "relu") and y.value.ndim == 4:
            total = y.value.shape[1]
            drawn = torch.randperm(total, generator=draws)[:3].numpy()
            expected += least_eigenvalue(y.value[0][drawn]) * total / 3
    assert score == near(expected)
    status = Case(make_subject, "chain", "default").result("meco_opt", batch_size=None, resolution=9).status
    assert status == "no feature map of 8 channels or more"


@by_hand("swap_reg")
def test_swap_reg(make_subject):
    """At mu SWAP itself, a root of sigma away SWAP / e."""
    case = Case(make_subject, "chain", "gaussian", size=10)
    settings = {"init": None, "repeats": 2}
    count, params = case.score("swap", **settings), case.score("params", init=None, batch_size=None, dtype=None)
    assert case.score("swap_reg", mu=params / 1000, sigma=0.01, **settings) == near(count)
    assert case.score("swap_reg", mu=params / 1000 + 0.1, sigma=0.01, **settings) == near(count / math.e)
    status = case.result("swap_reg", **settings).status
    assert status == "a network of no space has no other sizes to compare with: set mu and sigma"


def test_sizes_of_a_space():
    space = NasBench201()
    cells = space.members()
    assert len(cells) == 15_625
    assert len(set(cells)) == 15_625
    thousands = space.topology(cells, 10, 32)["params"] / 1000
    found = Sizes().read(space, cells[:1], 10, 32)
    assert found == {"size_median": np.median(thousands), "size_variance": thousands.var()}
    assert Sizes().read(NatsSss(), [], 10, 32)["size_median"] > 0


# Gradients ------------------------------------------------------------------------------------------------


@by_hand("zico_bc")
@pytest.mark.parametrize("beta", [0.0, 1.0, 2.0])
def test_zico_bc(case, beta):
    drawn = [case.gradients(number) for number in range(2)]
    tape, correction = case.forward(), 0.0
    for layer in case.layers:
        g = np.stack([gradients[f"{layer}.weight"] for gradients in drawn])
        if (g.std(axis=0) > 0).any():
            for y in tape.gave("layer")[layer]:
                correction += math.log(y[0, 0].size / math.sqrt(y.shape[1]))
    assert case.score("zico_bc", beta=beta) == near(case.score("zico") - beta * correction)


def test_zico_bc_of_one_convolution_with_16_maps_of_64_positions(make_subject):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 16, 1)

        def forward(self, x):
            return self.conv(x).mean(dim=(2, 3))

    def scores(*specs: str) -> list[float]:
        found = score_subject(make_subject(Net(), shape=(3, 8, 8), classes=16), [get_proxy(spec) for spec in specs])
        return [found[spec].score for spec in specs]

    zico, corrected = scores("zico:batch_size=6", "zico_bc:batch_size=6")
    assert corrected == near(zico - math.log(16))


def image_correlation(values: np.ndarray) -> np.ndarray | None:
    rows = values.reshape(len(values), -1)
    with np.errstate(invalid="ignore", divide="ignore"):
        found = np.abs(np.corrcoef(rows))
    return found if np.isfinite(found).all() else None


#: By case the stages that have ended before each ReLU: of `staged` the stem, the stem, the cell, all three.
STAGES = {"staged": (1, 2, 3)}


@by_hand("wrcor", "rcor", "acor", "gcor")
@pytest.mark.parametrize("proxy", ["wrcor", "rcor", "acor", "gcor"])
def test_correlations_over_relus(case, proxy):
    if proxy == "wrcor" and case.name not in STAGES:
        assert case.result("wrcor").status == "the network names no stages"
        return
    tape = case.forward()
    _, seed = cross_entropy(tape.logits.value, case.batch()[1])
    tape.back(seed)
    relus = [(x, y) for kind, _, x, y in tape.calls if kind == "relu"]
    kernel = 0
    for place, (x, y) in enumerate(relus):
        weight = 2 ** (STAGES[case.name][place] - 1) if proxy == "wrcor" else 1
        parts = {"acor": [x.value], "gcor": [y.grad * (x.value > 0)]}
        for values in parts.get(proxy, [*parts["acor"], *parts["gcor"]]):
            found = image_correlation(values)
            kernel = kernel + (0 if found is None else weight * found)
    assert case.score(proxy) == near(np.linalg.slogdet(kernel)[1])


def test_two_equal_images_make_correlations_singular(make_subject):
    def twice(number: int, size: int) -> tuple[torch.Tensor, torch.Tensor]:
        images = torch.randn(size, 3, 8, 8, generator=torch.Generator().manual_seed(number))
        images[1] = images[0]
        return images, torch.zeros(size, dtype=torch.long)

    for proxy in ("wrcor", "rcor", "acor", "gcor"):
        assert Case(make_subject, "staged", "default", batch=twice).result(proxy).status == "singular correlations"


def test_uncorrelated_images_give_the_log_of_the_weights_of_all():
    from harness.proxies.correlations import WRCor

    seen = {
        "activation_correlations": np.stack([np.eye(4)] * 3),
        "gradient_correlations": np.stack([np.full((4, 4), np.nan), np.eye(4), np.eye(4)]),
        "relu_stages": np.array([0, 1, 3]),
    }
    assert WRCor().score(seen) == near(4 * math.log(2 * (1 + 4)))


def own_gradients(case: Case, alone: bool) -> np.ndarray:
    """(B, p): of each image's logit of its class by the layers' weights and biases.

    `alone`: each image a mini-batch of its own; else from its own input and its own part of the gradient, as the
    reference has it where all images but one have no gradient at the layer's output.
    """
    images, labels = case.batch()
    weights, rows = case.weights(), []
    names = [f"{layer}.{part}" for layer in case.layers for part in ("weight", "bias") if f"{layer}.{part}" in weights]
    if alone:
        for image, label in zip(images, labels, strict=True):
            tape = forward(case.name, weights, image[None])
            found = tape.back(np.eye(tape.logits.value.shape[1])[[label]])
            rows.append(np.concatenate([np.ravel(found.get(key, np.zeros_like(weights[key]))) for key in names]))
        return np.stack(rows)
    tape = forward(case.name, weights, images)
    tape.back(np.eye(tape.logits.value.shape[1])[labels])
    columns = []
    for kind, name, x, y in tape.calls:
        if kind == "layer":
            columns.append((name, single_gradients(case, name, x, y)))
    merged: dict[str, np.ndarray] = {}
    for name, found in columns:
        merged[name] = merged[name] + found if name in merged else found
    return np.concatenate(list(merged.values()), axis=1)


def single_gradients(case: Case, name: str, x, y) -> np.ndarray:
    """(B, weights and biases) of one call, each image's from a tape that it is alone on."""
    weights = case.weights()
    geometry = {
        "conv": {"stride": (2, 1), "padding": (1, 0)},
        "grouped": {"padding": (2, 2), "dilation": (2, 2), "groups": 2},
        "down.1": {"stride": (2, 2), "padding": (1, 1)},
    }
    padded = {"stem.0", "cell.1", "first.0", "conv1"} | ({"conv2"} if case.name != "loose" else set())
    options = geometry.get(name, {"padding": (1, 1)} if name in padded else {})
    rows = []
    for n in range(len(x.value)):
        tape = Tape(weights)
        start = tape.node(x.value[n : n + 1])
        end = tape.linear(name, start) if y.value.ndim == 2 else tape.conv(name, start, **options)
        found = tape.back(y.grad[n : n + 1], end)
        rows.append(np.concatenate([found[key].ravel() for key in sorted(found, reverse=True)]))
    return np.stack(rows)


@by_hand("ntk_trace", "ntk_cond", "ntk_min")
@pytest.mark.parametrize("variant", ["paper", "repo"])
def test_tangent_kernel_of_own_logits(case, variant):
    rows = own_gradients(case, variant == "paper")
    values = np.linalg.svd(rows, compute_uv=False) ** 2
    assert case.score("ntk_trace", variant=variant) == near(math.sqrt(values.sum() / case.size))
    assert case.score("ntk_cond", variant=variant) == pytest.approx(-values[0] / values[-1], rel=1e-6)
    assert case.score("ntk_min", variant=variant) == near(values[-1])


@pytest.mark.parametrize("bias", [False, True])
def test_tangent_kernel_of_a_linear_layer(make_subject, bias):
    network = nn.Sequential(nn.Flatten(), nn.Linear(12, 3, bias=bias))

    def one_class(number: int, size: int) -> tuple[torch.Tensor, torch.Tensor]:
        rows, _ = np.linalg.qr(np.random.RandomState(0).randn(12, size))
        return torch.from_numpy(rows.T.reshape(size, 3, 2, 2)).float(), torch.zeros(size, dtype=torch.long)

    subject = make_subject(network, shape=(3, 2, 2), batch=one_class)
    proxies = [get_proxy(f"{name}:batch_size=4:dtype=float64") for name in ("ntk_trace", "ntk_cond", "ntk_min")]
    trace, cond, least = (result.score for result in score_subject(subject, proxies).values())
    assert trace == pytest.approx(math.sqrt(1 + bias), rel=1e-6)
    if not bias:  # orthonormal images of one class
        assert cond == pytest.approx(-1, rel=1e-6)
        assert least == pytest.approx(1, rel=1e-6)


# Encodings ------------------------------------------------------------------------------------------------


@by_hand("skip")
def test_skips_of_a_cell():
    edges = [(0, 1), (0, 2), (1, 2), (0, 3), (1, 3), (2, 3)]  # (from, to), as in the cell's string

    def score(*skips: tuple[int, int]) -> float:
        cell = encode([SKIP if edge in skips else NONE for edge in edges])
        (probe,) = get_proxy("skip").needs()
        return get_proxy("skip").score({"skip_span": probe.read(NasBench201(), [cell], 10, 32)["skip_span"][0]})

    assert score((0, 3)) == 2
    assert score((0, 1)) == 0
    assert score() == 0
    for chosen in itertools.combinations(edges, 2):
        assert score(*chosen) == near(sum(j - 1 - i for i, j in chosen) / 2)
    with pytest.raises(Unscorable, match="no skip connections to choose"):
        NatsSss().skip_spans([])
