"""The proxies of 2021 to 2026 on tiny networks, as `test_proxies_by_hand.py` has the others."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import harness
from harness.engine.scorer import score_subject
from harness.errors import HarnessError
from harness.probes.base import Unscorable
from harness.probes.topology import Sizes
from harness.proxies import get_proxy
from harness.spaces.nasbench201 import NONE, SKIP, NasBench201, encode
from harness.spaces.nasbench201.cell import CONV3
from harness.spaces.nasbench201.network import Network
from harness.spaces.nats_sss import NatsSss
from tests.by_hand import CASES, Case, Tape, by_hand, cross_entropy, forward, inputs_of, near


@pytest.fixture(params=CASES, ids=lambda case: f"{case[0]}-{case[1]}")
def case(request, make_subject) -> Case:
    name, scheme, size = request.param
    return Case(make_subject, name, scheme, size)


def test_synflow_with_normalisation(make_subject):
    """BatchNorm on the statistics of an image of ones, |weights| everywhere."""
    case = Case(make_subject, "staged", "default")
    subject = case.make()
    subject.initialise("default", dtype="float64")
    with torch.no_grad():
        for parameter in subject.network.parameters():
            parameter.abs_()
    subject.network.train()(torch.ones(1, *subject.shape, dtype=torch.float64)).sum().backward()
    layers = [m for m in subject.network.modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
    expected = sum(float((m.weight * m.weight.grad).abs().sum().detach()) for m in layers)
    plain = {"batch_size": None, "dtype": None}
    assert case.score("synflow", normalisation=True, **plain) == near(expected)
    assert case.score("synflow", **plain) != pytest.approx(expected, rel=1e-3)


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


@by_hand("apd")
def test_apd(make_subject):
    case = Case(make_subject, "chain", "default")
    scores = []
    for repeat in range(3):
        weights = case.weights(repeat)
        tape = forward("chain", weights, case.batch()[0])
        ranks = 0.0
        for kind, _, _, y in tape.calls:
            if kind == "norm":
                values = np.linalg.svd(np.moveaxis(y.value, 1, -1).reshape(-1, y.value.shape[1]), compute_uv=False)
                ranks += (values**2).sum() / (values[0] ** 2 + 1e-6)
        filters = [w.reshape(len(w), -1) for w in weights.values() if w.ndim == 4]
        assert len(filters) > 1
        norms = sum(np.abs(f).sum(axis=1).mean() / np.sqrt((f**2).sum(axis=1)).mean() for f in filters)
        scores.append(ranks * norms)
    assert case.score("apd", repeats=3) == near(np.mean(scores))
    assert Case(make_subject, "mlp", "default").result("apd").status == "the network has no BatchNorm"


@pytest.mark.parametrize(
    ("matrix", "rank"),
    [(torch.eye(5), 5), (torch.ones(4, 3), 1), (torch.zeros(2, 2), 0), (torch.diag(torch.tensor([2.0, 1])), 1.25)],
)
def test_stable_rank(matrix, rank):
    from harness.probes.ranks import stable_rank

    assert float(stable_rank(matrix)) == pytest.approx(rank, rel=1e-5)


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


# Mini-batches and noise -----------------------------------------------------------------------------------


def inverse_deviations(case: Case) -> list[float]:
    drawn, sums = [case.gradients(number) for number in range(2)], []
    for layer in case.layers:
        sizes = np.abs(np.stack([gradients[f"{layer}.weight"] for gradients in drawn]))
        deviation = sizes.std(axis=0)
        sums.append((1 / deviation[deviation > 0]).sum())
    return sums


def patterns(case: Case, images: np.ndarray, depth: float) -> int:
    """Distinct patterns of the units of the first ReLUs, weights N(0, 1)."""
    values = [
        y.value for kind, _, _, y in forward(case.name, case.weights(0, "gaussian"), images).calls if kind == "relu"
    ]
    read = values[: math.ceil(depth * len(values))]
    return len({tuple(unit) for y in read for unit in (y > 0).reshape(len(images), -1).T})


@by_hand("lswag")
@pytest.mark.parametrize(
    ("name", "first", "last"),
    [("chain", 0.0, 1.0), ("staged", 0.3, 0.7), ("residual", 0.3, 0.5), ("loose", 0.0, 1.0)],
)
def test_lswag(make_subject, name, first, last):
    case = Case(make_subject, name, "kaiming_fan_in")
    sums = inverse_deviations(case)
    chosen = [total for total in sums[round(first * len(sums)) : round(last * len(sums))] if total > 0]
    count = patterns(case, case.batch(0, 10)[0], last)
    found = case.score("lswag", patterns=10, repeats=1, first=first, last=last)
    assert found == near(sum(map(math.log, chosen)) * count)


def test_variations_block_by_block(monkeypatch):
    """A large layer is read in blocks that fit a processor's cache: the sums of the whole."""
    from harness.probes import variations

    drawn = torch.Generator().manual_seed(0)
    batches = [[torch.randn(*shape, generator=drawn) for shape in ((2, 5), (3,))] for _ in range(3)]
    whole = variations.variations(batches, variations.VARIATIONS)
    monkeypatch.setattr(variations, "CACHED_WEIGHTS", 4)
    blocks = variations.variations(batches, variations.VARIATIONS)
    assert whole.keys() == blocks.keys() == variations.VARIATIONS.keys()
    for name, form in variations.VARIATIONS.items():
        for place in (0, 1):
            expected = float(form(torch.stack([batch[place].flatten() for batch in batches]).double()))
            assert float(whole[name][place]) == expected
            assert float(blocks[name][place]) == near(expected)


def test_lswag_of_gradients_that_deviate_by_one():
    from harness.probes.variations import inverse_deviation, mean_over_deviation

    assert float(inverse_deviation(torch.tensor([[0.0] * 7, [2.0] * 7]))) == 7  # ln 7 for the layer
    opposite = torch.tensor([[1.0, -3.0], [-1.0, 3.0]])
    assert float(mean_over_deviation(opposite)) == 2
    assert float(inverse_deviation(opposite)) == 0  # |g| does not vary


@pytest.mark.parametrize("wrong", ["first=0.5:last=0.5", "first=-0.1", "last=1.5"])
def test_a_window_of_lswag_that_holds_nothing_is_refused(wrong):
    with pytest.raises(HarnessError, match="must be 0 <= first < last <= 1"):
        get_proxy(f"lswag:{wrong}")


@by_hand("intrain")
def test_intrain(case):
    tape, parts = case.forward(), []
    for kind, _, _, y in tape.calls:
        if kind == "relu":
            samples = np.moveaxis(y.value, 1, -1).reshape(-1, y.value.shape[1])
            covariance = np.cov(samples.T, ddof=0).reshape(samples.shape[1], -1) + 1e-10 * np.eye(samples.shape[1])
            parts.append(math.log(np.trace(covariance) ** 2 / (covariance**2).sum()))
    _, seed = cross_entropy(tape.logits.value, case.batch()[1])
    found = tape.back(seed).values()
    spread = sum(min(1.0, g.std() / (np.abs(g).max() + 1e-8)) for g in found)
    assert case.score("intrain") == near(sum(parts) * (1 + spread) / math.log(len(parts) + 1))
    ratio = sum(parts) / math.log(len(parts) + 1)
    assert case.score("intrain:part=ratio") == near(ratio)
    assert case.score("intrain:part=gradient") == near(spread)
    assert case.score("intrain:part=sum") == near(ratio + spread)


def test_participation():
    """ln C of channels that vary alike and apart, 0 of one that varies alone."""
    from harness.probes.rows import participation

    signs = torch.tensor(list(itertools.product([-1.0, 1.0], repeat=3)))
    assert float(participation(signs)) == pytest.approx(math.log(3), rel=1e-6)
    assert float(participation(signs * torch.tensor([1.0, 0.0, 0.0]))) == pytest.approx(0, abs=1e-6)


@by_hand("dextr")
@pytest.mark.parametrize("name", ["chain", "staged", "residual"])
def test_dextr(make_subject, name):
    case = Case(make_subject, name, "default")
    subject = case.make()
    weights, image = case.weights(), case.batch(0, 1)[0]
    with inputs_of(case.subject.network) as read:
        score = case.score("dextr", batch_size=None, resolution=9)
    assert [x.shape for x in read] == [(1, 3, 8, 8), (1, 3, 9, 9)]
    ratios = module_ratios(subject, weights, image)
    draws = subject.generator("curve")
    plane, _, _ = np.linalg.svd(torch.randn(243, 2, generator=draws).double().numpy(), full_matrices=False)
    chosen = torch.randint(3, (10,), generator=draws).numpy()
    first, second = np.sign((plane[:, 0] * read[1].ravel()).sum()) * plane.T.reshape(2, 1, 3, 9, 9)
    assert read[1] == pytest.approx(first, rel=1e-6)

    def velocity(t: float) -> np.ndarray:
        t = t + 1e-30j
        return forward(name, weights, first * np.cos(t) + second * np.sin(t)).logits.value[0].imag[chosen] / 1e-30

    v, a = velocity(0), (velocity(1e-5) - velocity(-1e-5)) / 2e-5
    bend = math.sqrt((v @ v) * (a @ a) - (v @ a) ** 2) / np.linalg.norm(v) ** 3
    s, k = math.log1p(sum(ratios)), math.log1p(bend)
    assert score == pytest.approx(s * k / (s + k), rel=1e-6)


def module_ratios(subject, weights: dict[str, np.ndarray], image: np.ndarray) -> list[float]:
    """Least over greatest singular value of what each module of the network gives for one image."""
    subject.initialise("default", dtype="float64")
    found: list[float] = []

    def keep(module, args, output) -> None:
        matrix = output[0].reshape(len(output[0]), -1).detach().numpy()
        values = np.linalg.svd(matrix, compute_uv=False)
        found.append(0.0 if values[0] == 0 else values[-1] / values[0])

    for module in subject.network.modules():
        module.register_forward_hook(keep)
    subject.network(torch.from_numpy(image))
    return found


def test_dextr_of_a_network_that_ignores_its_input():
    from harness.proxies.features import Dextr, harmonic

    ratios = np.array([1.0, 0.5, np.nan])
    assert Dextr().score({"condition_ratios": ratios, "curvature": float("nan")}) == near(math.log(2.5))
    assert harmonic(2.0, math.e - 1) == near(2 / 3)


@by_hand("epsinas")
@pytest.mark.parametrize("flat", [False, True])
@pytest.mark.parametrize("name", ["chain", "staged", "residual"])
def test_epsinas(make_subject, name, flat):
    case = Case(make_subject, name, "kaiming_fan_in")
    images = case.batch()[0]
    if flat:
        images = np.stack([np.full_like(image, i / len(images)) for i, image in enumerate(images)])
    features = []
    for value in (1e-3, 2.0):
        weights = {key: np.full_like(w, 0.0 if key.endswith("bias") else value) for key, w in case.weights().items()}
        features.append(forward(name, weights, images).pooled.value.mean(axis=(2, 3)).ravel())
    score = case.score("epsinas", init=None, dtype=None, first=1e-3, second=2.0, flat=flat)
    assert score == pytest.approx(epsinas(features), rel=1e-3, abs=1e-5)  # of float32


def epsinas(features: list[np.ndarray]) -> float:
    p1, p2 = ((x - x.min()) / (x.max() - x.min()) for x in features)
    both = (p1 != 0) & (p2 != 0)
    return np.abs(p1 - p2)[both].mean() / np.concatenate([p1[p1 != 0], p2[p2 != 0]]).mean()


def test_epsinas_of_given_features():
    draw = np.random.RandomState(1).randn(2, 12)
    assert get_proxy("epsinas").score({"constant_features": draw}) == near(epsinas(list(draw)))
    assert get_proxy("epsinas").score({"constant_features": np.stack([draw[0], 3 * draw[0]])}) == near(0)
    with pytest.raises(Unscorable, match="all the same number"):
        get_proxy("epsinas").score({"constant_features": np.ones((2, 5))})


def test_epsinas_reads_no_weights_that_it_is_given(make_subject):
    case = Case(make_subject, "chain", "kept")
    assert case.result("epsinas", init=None, dtype=None).status.endswith("leave out keep_weights")


@by_hand("epads")
@pytest.mark.parametrize("pairs", ["drawn", "all"])
@pytest.mark.parametrize("normalised", [False, True])
def test_epads(case, pairs, normalised):
    images, subject = case.batch()[0], case.make()
    noise = torch.randn(images.shape, generator=subject.generator("noise")).double().numpy()
    draws, expected = subject.generator("permutations"), 0.0
    tape = forward(case.name, case.weights(), np.concatenate([images, images + 0.3 * noise]), "running")
    for kind, _, x, _ in tape.calls:
        if kind == "relu":
            own, noisy = np.split(x.value.reshape(2 * case.size, -1) > 0, 2)
            orders = [torch.randperm(case.size, generator=draws).numpy()]
            if pairs == "all":
                orders = [np.roll(np.arange(case.size), shift) for shift in range(case.size)]
            permuted = np.mean([(own != own[order]).sum() for order in orders])
            expected += permuted * (own != noisy).sum() / (own.size**2 if normalised else 1)
    assert case.score("epads", sigma=0.3, pairs=pairs, normalised=normalised) == near(expected)
    assert case.score("epads", sigma=0.0) == 0


@by_hand("rbflex")
def test_rbflex(case):
    images, weights = case.batch(0, 3)[0], case.weights()
    tapes = [forward(case.name, weights, image[None]) for image in images]
    relus = np.stack([np.concatenate([y.value.ravel() for k, _, _, y in t.calls if k == "relu"]) for t in tapes])
    heads = np.stack([next(x for k, name, x, _ in t.calls if name == "head").value.ravel() for t in tapes])

    def kernel(rows: np.ndarray, gamma: float) -> np.ndarray:
        spread = rows.max(axis=0) - rows.min(axis=0)
        rows = (rows - rows.min(axis=0)) / np.where(spread == 0, 1, spread)
        return np.exp(-gamma * ((rows[:, None] - rows[None]) ** 2).sum(axis=2))

    expected = 3 * sum(np.linalg.slogdet(kernel(*pair))[1] for pair in ((relus, 0.01), (heads, 0.2)))
    assert case.score("rbflex", batch_size=3, gamma_k=0.01, gamma_q=0.2) == pytest.approx(expected, rel=1e-6)


def test_kernels_that_are_nearly_all_ones_lose_no_digit():
    """det of three rows at distances d of each other, for small gamma: 3 gamma^2 d^4 in leading order."""
    from harness.proxies.features import log_determinant_of_kernel

    distances = 1 - np.eye(3)
    assert log_determinant_of_kernel(distances, 1e-12) == pytest.approx(math.log(3e-24), rel=1e-9)
    assert log_determinant_of_kernel(np.zeros((3, 3)), 1e-12) == -math.inf


@by_hand("knas")
def test_knas(case):
    drawn = [case.gradients(number) for number in range(4)]
    keys = [key for key, g in drawn[0].items() if g.size >= 8 and not key.startswith(("spare", "dropped"))]
    expected = 0.0
    for key in keys[:3]:
        series = np.stack([gradients[key].ravel()[:8] for gradients in drawn])
        first, second = (part - part.mean(axis=0) for part in (series[:2], series[2:]))
        expected += (first * second).sum() / 16
    assert case.score("knas", minibatches=4, tensors=3, entries=8) == near(expected)
    same = Case(lambda *a, **o: _same_batch(case), case.name, case.scheme, case.size)
    assert same.score("knas", minibatches=4, tensors=3, entries=8) == 0


def _same_batch(case: Case):
    """The subject of a case, whose mini-batches are all the same."""
    subject = case.make()
    batch = subject.batch
    subject.batch = lambda number, size: batch(0, size)
    return subject


# Signs, copies and patches --------------------------------------------------------------------------------

#: The convolutions that read a ReLU and are read by a BatchNorm.
UNITS = {
    "chain": ("second.0",),
    "staged": ("cell.1", "down.1"),
    "strided": ("grouped",),
    "loose": ("conv2",),
    "residual": ("conv2",),
    "shared": ("conv2", "conv2"),
}


def sign_norm(x: np.ndarray) -> float:
    found = []
    for matrix in np.sign(x).reshape(-1, *x.shape[2:]):
        determinant = round(float(np.linalg.det(matrix)))
        logarithm = -math.inf if determinant == 0 else 0.0 if determinant < 0 else math.log(determinant)
        found.append(1 / (1 + math.exp(-logarithm)) if logarithm > -math.inf else 0.0)
    return float(np.linalg.norm(found))


@by_hand("eznas_a")
@pytest.mark.parametrize("variant", ["paper", "repo"])
def test_eznas_a(case, variant):
    result = case.result("eznas_a", variant=variant)
    if case.name not in UNITS:
        assert result.status == "no convolution reads a ReLU and is read by a BatchNorm"
        return
    if (case.name, variant) == ("strided", "repo"):
        assert result.status.endswith("has square matrices")
        return
    images, subject = case.batch()[0], case.make()
    if variant == "paper":
        images = torch.randn(images.shape, generator=subject.generator("noise")).double().numpy()
    tape = forward(case.name, case.weights(), images)
    head = next(x for kind, name, x, _ in tape.calls if name == "head")
    found = tape.back(np.ones_like(head.value), head)
    values = []
    for name in UNITS[case.name]:
        if variant == "paper":
            values.append(found[f"{name}.weight"])
        else:
            reading = [x for kind, layer, x, _ in tape.calls if layer == name][
                len(values) if case.name == "shared" else 0
            ]
            before = next(x for kind, _, x, y in tape.calls if kind == "relu" and y is reading)
            values.append(reading.grad * (before.value > 0))
    assert result.score == near(np.mean([sign_norm(x) for x in values]))


def test_eznas_of_a_convolution_of_one_by_one_kernels():
    """Half the root of the number of weights, whatever their gradients' signs."""
    from harness.probes.units import sign_norm

    gradient = torch.randn(6, 4, 1, 1, generator=torch.Generator().manual_seed(1))
    assert float(sign_norm(gradient)) == near(0.5 * math.sqrt(24))


def cosines(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    lengths = np.maximum(np.linalg.norm(a, axis=0), 1e-8) * np.maximum(np.linalg.norm(b, axis=0), 1e-8)
    return (a * b).sum(axis=0) / lengths


@by_hand("croze")
def test_croze(make_subject):
    case = Case(make_subject, "staged", "kaiming_fan_in")
    weights = {key: np.abs(w) for key, w in case.weights().items()}
    images, labels = case.batch()

    def gradients(at: dict[str, np.ndarray], x: np.ndarray) -> tuple[Tape, dict[str, np.ndarray]]:
        tape = forward("staged", at, x, "off")
        return tape, tape.back(cross_entropy(tape.logits.value, labels)[1])

    keys = {layer: f"{layer}.weight" for layer in case.layers}
    clean, first = gradients(weights, images)
    moved = dict(weights)
    for key in keys.values():
        moved[key] = weights[key] + 2 * np.linalg.norm(weights[key]) * first[key] / np.linalg.norm(first[key])
    attacked, _ = gradients(moved, images)
    worse, second = gradients(moved, np.clip(images - 0.01 * np.sign(attacked.input.grad), 0, 1))

    def feature(tape: Tape, layer: str) -> np.ndarray:
        """Off the norms a stage gives what its convolution gives; the classifier is behind all stages."""
        place = 2 if layer == "head" else 3
        return next(call for call in tape.calls if call[1] == layer)[place].value

    expected = 0.0
    for layer, key in keys.items():
        alike = [(1 + cosines(moved[key], weights[key])).sum(), np.abs(cosines(second[key], first[key])).sum()]
        expected += abs(math.prod(alike) * (1 + cosines(feature(clean, layer), feature(worse, layer))).sum())
    assert case.score("croze", dtype=None) == near(expected)
    assert case.result("croze", dtype=None, variant="repo").status.endswith("NAS-Bench-201's network")


def croze_network(weights: dict[str, torch.Tensor], x: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Logits of NAS-Bench-201's network of cells of one 3 x 3 convolution, and the five features of CRoZe's code.

    Normalised are the residual branches of the reductions alone.
    """

    def convolve(x: torch.Tensor, key: str, stride: int = 1) -> torch.Tensor:
        return F.conv2d(x, weights[key], stride=stride, padding=weights[key].shape[-1] // 2)

    x = convolve(x, "stem.0.weight")
    features = [x]
    for place in range(17):
        key = f"cells.{place}"
        if place in (5, 11):
            inner = F.batch_norm(convolve(x.relu(), f"{key}.conv_a.1.weight", stride=2), None, None, training=True)
            inner = F.batch_norm(convolve(inner.relu(), f"{key}.conv_b.1.weight"), None, None, training=True)
            x = convolve(F.avg_pool2d(x, 2), f"{key}.shortcut.1.weight") + inner
            features.append(x)
        else:
            x = convolve(x.relu(), f"{key}.edges.0_3.1.weight")
    x = x.relu()
    pooled = x.mean(dim=(2, 3))
    return F.linear(pooled, weights["classifier.weight"], weights["classifier.bias"]), [*features, x, pooled]


def test_croze_as_the_code_has_it(make_subject):
    network = Network([NONE, NONE, NONE, CONV3, NONE, NONE], 3, channels=(2, 3, 4))
    subject = make_subject(network, shape=(3, 8, 8))
    subject.initialise("default", 0, "float64")
    weights = {name: w.detach().abs().requires_grad_() for name, w in network.named_parameters()}
    layers = [name for name, w in weights.items() if w.ndim > 1]
    moved = {name: w.detach().clone().requires_grad_() for name, w in weights.items()}
    images, labels = subject.images(4, "float64")
    logits, features = croze_network(weights, images)
    F.cross_entropy(logits, labels).backward()
    with torch.no_grad():
        for name in layers:
            moved[name] += 2 * weights[name].norm() * weights[name].grad / weights[name].grad.norm()
    attacked = images.clone().requires_grad_()
    F.cross_entropy(croze_network(moved, attacked)[0], labels).backward()
    logits, worse = croze_network(moved, (images - 0.01 * attacked.grad.sign()).clamp(0, 1))
    F.cross_entropy(logits, labels).backward()  # added to the gradients of the attack
    expected = 0.0
    for name in layers:
        cell = int(name.split(".")[1]) if name.startswith("cells") else -1 if name.startswith("stem") else 17
        number = 4 if cell == 17 else (cell + 1 - (cell >= 5) - (cell >= 11)) // 5
        w, g, f = (
            F.cosine_similarity(a, b, dim=0)
            for a, b in (
                (moved[name], weights[name]),
                (moved[name].grad, weights[name].grad),
                (worse[number], features[number]),
            )
        )
        expected += float(((1 + w).sum() * g.abs().sum() * (1 + f).sum()).abs().detach())
    fresh = make_subject(Network([NONE, NONE, NONE, CONV3, NONE, NONE], 3, channels=(2, 3, 4)), shape=(3, 8, 8))
    found = score_subject(fresh, [get_proxy("croze:variant=repo:batch_size=4")])
    assert found["croze:batch_size=4:variant=repo"].score == near(expected)


def patch_sum(features: np.ndarray) -> float:
    """Of a map (C, H, W): entropies of 3 x 3 patches on a grid of at most four by four, in bits."""

    def starts(size: int) -> list[int]:
        inside = list(range(1, size - 3)) or list(range(size - 2))
        return [inside[int(k * (len(inside) - 1) / 3)] for k in range(4)] if len(inside) > 1 else inside

    total = 0.0
    for i, j in itertools.product(starts(features.shape[1]), starts(features.shape[2])):
        values = features[:, i : i + 3, j : j + 3].ravel()
        if np.ptp(values) < 1e-10:
            continue
        bins = ((values - values.min()) / np.ptp(values) * (len(values) - 1)).astype(int)
        share = np.bincount(bins) / len(values)
        softmax = np.exp(np.abs(values)) / np.exp(np.abs(values)).sum()
        entropies = [-(p[p > 0] * np.log2(p[p > 0])).sum() for p in (share, softmax)]
        total += math.prod(entropies)
    return total


@by_hand("mlfe")
@pytest.mark.parametrize("variant", ["paper", "repo"])
def test_mlfe(make_subject, variant):
    case = Case(make_subject, "staged", "default")
    tape = forward("staged", case.weights(), np.ones((1, 3, 8, 8)))
    gave = {name: y.value[0] for _, name, _, y in tape.calls}
    modules = [
        "stem.0",
        "stem.1",
        "stem.1",
        "cell.0",
        "cell.1",
        "cell.2",
        "cell.2",
        "down.0",
        "down.1",
        "down.2",
        "down.2",
    ]
    sums = [patch_sum(gave[name]) for name in modules]  # what a stage gives is what its last module gives
    present = [total for total in sums if total]
    gap = max(present) - min(present)
    expected = (gap if variant == "repo" else math.log(gap)) * sum(sums)
    assert case.score("mlfe", batch_size=None, variant=variant) == near(expected)


def test_patches_whose_softmax_underflows_count_as_the_code_has_them():
    """Values that differ by more than float32's exponential reaches: an entropy all the same, 0 in the code."""
    from harness.probes.patches import patch_entropies

    small = torch.randn(2, 3, 3, generator=torch.Generator().manual_seed(1))
    (large,) = patch_entropies(200 * small, exact=False)
    (exact,) = patch_entropies(200 * small)
    assert (float(large), exact.dtype) == (0.0, torch.float64)
    assert float(exact) == pytest.approx(patch_sum(200 * small.double().numpy()), rel=1e-6)
    assert float(patch_entropies(small, exact=False)) == pytest.approx(patch_sum(small.double().numpy()), rel=1e-5)


# Transformers ---------------------------------------------------------------------------------------------


def module_outputs(case: Case, *names: str) -> dict[str, np.ndarray]:
    """What modules of the network give for the case's mini-batch."""
    subject, found = case.make(), {}
    subject.initialise(case.init, 0, "float64")
    modules = dict(subject.network.named_modules())
    for name in names:
        modules[name].register_forward_hook(lambda m, a, y, name=name: found.update({name: y.detach().numpy()}))
    subject.network(torch.from_numpy(case.batch()[0]))
    return found


@by_hand("w_pca")
@pytest.mark.parametrize("energy", [0.5, 0.99])
def test_w_pca(make_subject, energy):
    case = Case(make_subject, "transformer", "default")
    tokens = module_outputs(case, "up")["up"].reshape(-1, 6)
    values = np.linalg.svd(tokens - tokens.mean(axis=0), compute_uv=False) ** 2
    count = int(np.argmax(np.cumsum(values) / values.sum() >= energy)) + 1
    params = case.score("params", init=None, batch_size=None, dtype=None)
    assert case.score("w_pca", energy=energy) == near(count * params)


@by_hand("token_entropy")
@pytest.mark.parametrize("distribution", ["softmax", "absolute"])
@pytest.mark.parametrize("lowest", [1, 2])
def test_token_entropy(make_subject, distribution, lowest):
    case = Case(make_subject, "transformer", "default", size=1)
    expected = 0.0
    for tokens in module_outputs(case, "up", "down").values():
        share = np.exp(tokens[0]) if distribution == "softmax" else np.abs(tokens[0])
        share /= share.sum(axis=1, keepdims=True)
        entropies = np.sort(-(share * np.log(share)).sum(axis=1))
        expected += len(entropies) / lowest * entropies[:lowest].sum()
    assert case.score("token_entropy", distribution=distribution, lowest=lowest) == near(expected)


@by_hand("head_confidence")
def test_head_confidence(make_subject):
    case = Case(make_subject, "transformer", "default")
    tokens = module_outputs(case, "attention.qkv")["attention.qkv"]
    assert case.score("head_confidence") == near(3 * tokens.max(axis=1).mean())


@pytest.mark.parametrize("proxy", ["w_pca", "token_entropy", "head_confidence"])
def test_a_network_without_attention_has_no_tokens(make_subject, proxy):
    status = Case(make_subject, "chain", "default").result(proxy).status
    expected = "no attention module with linear projections"
    assert status == (expected if proxy == "head_confidence" else "no feed-forward layers on tokens")


# Networks that users bring --------------------------------------------------------------------------------


LABELS = torch.arange(12) % 5


@pytest.fixture(scope="module")
def images():
    return torch.randn(12, 3, 8, 8, generator=torch.Generator().manual_seed(1))


def score_of(network, images, spec, **options):
    """The value, or the status where there is none."""
    found = harness.score(network, images, LABELS[: len(images)], [spec], **options)
    (status,) = found.attrs["status"].values()
    return float(found.iloc[0]) if status == "ok" else status


class EightByEight(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 4, 3), nn.Linear(4 * 36, 5)

    def forward(self, x):
        return self.fc(torch.tanh(self.conv(x)).flatten(1))


class OnceDifferentiable(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.square()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad):
        return 2 * grad * ctx.saved_tensors[0]


class Squared(EightByEight):
    def forward(self, x):
        return super().forward(OnceDifferentiable.apply(x))


class OutOfMemory(EightByEight):
    def forward(self, x):
        if torch.is_grad_enabled():
            raise torch.OutOfMemoryError("out of memory")
        return super().forward(x)


class Blind(EightByEight):
    """Whose logits do not depend on the image: they do not bend."""

    def forward(self, x):
        return super().forward(torch.ones_like(x))


class SingleValues(EightByEight):
    """Whose BatchNorm sees one value of a channel in a batch of one image."""

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(5)

    def forward(self, x):
        return self.norm(super().forward(x)) if len(x) > 1 or torch.is_grad_enabled() else super().forward(x)


def test_dextr_takes_no_other_formula_for_a_network_that_fails(images):
    network = EightByEight()
    assert score_of(network, images, "dextr").endswith(": set resolution=8")
    assert score_of(network, images, "dextr").startswith("the network cannot read images of 64 x 64 (")
    assert score_of(network, images, "dextr:resolution=8") > 0
    assert score_of(Squared(), images, "dextr:resolution=8").startswith("torch cannot differentiate the network twice")
    assert score_of(OutOfMemory(), images, "dextr:resolution=8") == "error: OutOfMemoryError: out of memory"


@pytest.mark.parametrize("kind", [Blind, SingleValues])
def test_dextr_without_curvature_is_of_the_maps_alone(kind, images, monkeypatch):
    from harness.probes.curvature import Conditioning

    ratios = np.array([0.25, 0.5])
    monkeypatch.setattr(Conditioning, "run", lambda *_: {"condition_ratios": ratios})
    assert score_of(kind(), images, "dextr:resolution=8") == pytest.approx(math.log1p(ratios.sum()))


class TokensOf(nn.Module):
    """Linear layers on 16 tokens, that are in the first dimension or in the second, in groups of `windows`."""

    def __init__(self, first: bool, windows: int = 1):
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(3)
            self.one, self.two, self.fc = nn.Linear(12, 6), nn.Linear(6, 6), nn.Linear(6, 5)
        self.first, self.windows = first, windows

    def forward(self, x):
        x = F.pixel_unshuffle(x, 2).flatten(2).transpose(1, 2)
        x = x.transpose(0, 1) if self.first else x.reshape(len(x) * self.windows, -1, 12)
        x = self.two(torch.tanh(self.one(x)))
        x = x.transpose(0, 1) if self.first else x.reshape(len(x) // self.windows, -1, 6)
        return self.fc(x.mean(dim=1))


def test_dextr_reads_all_tokens_of_an_image_wherever_they_are(images):
    expected = score_of(TokensOf(first=False), images, "dextr:dtype=float64")
    for other in (TokensOf(first=True), TokensOf(first=False, windows=4)):
        assert score_of(other, images, "dextr:dtype=float64") == pytest.approx(expected, rel=1e-9)


class Table(nn.Module):
    """A table that no image has a part in, as that of relative positions."""

    def __init__(self):
        super().__init__()
        self.table = nn.Parameter(torch.rand(4, 4, 3))

    def forward(self):
        return 2 * self.table


class WithTable(EightByEight):
    def __init__(self):
        super().__init__()
        self.module = Table()

    def forward(self, x):
        return super().forward(x) + self.module().sum()


def test_dextr_reads_the_first_entry_of_a_table(images, monkeypatch):
    """As in a space's network, where positions have such tables."""
    from harness.probes import curvature

    read = []
    matrix = curvature._matrix
    monkeypatch.setattr(curvature, "_matrix", lambda *args: read.append(matrix(*args)) or read[-1])
    network = WithTable()
    score_of(network, images, "dextr:resolution=8")
    assert any(torch.equal(one, 2 * network.module.table[0]) for one in read)


class WithoutStatistics(nn.Module):
    """`meeting`: each image has the mean of all added, so that passes read one image at a time."""

    def __init__(self, meeting=False):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6, track_running_stats=False)
        self.fc, self.meeting = nn.Linear(6, 5), meeting

    def forward(self, x):
        x = F.relu(self.norm(self.conv(x)))
        x = x + x.mean(dim=0, keepdim=True) if self.meeting else x
        return self.fc(x.mean(dim=(2, 3)))


@pytest.mark.parametrize("spec", ["t_cet:variant=repo", "epads", "vkdnw", "vkdnw:rows=2"])
@pytest.mark.parametrize("meeting", [False, True])
def test_eval_mode_of_a_batchnorm_without_statistics(spec, meeting, images):
    found = score_of(WithoutStatistics(meeting), images, spec)
    assert found == "BatchNorm without running statistics has no eval mode"


class CalledTwice(nn.Module):
    def __init__(self, norm=lambda layer: layer):
        super().__init__()
        self.first, self.conv = nn.Conv2d(3, 6, 3), norm(nn.Conv2d(6, 6, 3, padding=1))
        self.norm, self.fc = nn.BatchNorm2d(6), nn.Linear(6, 5)

    def forward(self, x):
        x = F.relu(self.norm(self.conv(self.first(x))))
        return self.fc(F.relu(self.norm(self.conv(x))).mean(dim=(2, 3)))


@pytest.mark.parametrize("spec", ["apd:init=kaiming_fan_in", "eznas_a", "meco:modules=all"])
def test_a_parametrised_convolution_that_is_called_twice_is_one_layer(spec, images):
    expected = score_of(CalledTwice(), images, spec)
    found = score_of(CalledTwice(nn.utils.parametrizations.weight_norm), images, spec)
    assert found == pytest.approx(expected, rel=1e-3)


class Bank(nn.Module):
    """Weights of two convolutions that are one Parameter's halves, or both the first half by way of a product."""

    def __init__(self, halves: bool):
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(3)
            self.weight, self.fc = nn.Parameter(torch.randn(2, 3, 3, 3, 3)), nn.Linear(3, 5)
        self.norm, self.halves = nn.BatchNorm2d(3), halves

    def forward(self, x):
        for place in range(2):
            weight = self.weight[place] if self.halves else 1 * self.weight[0]
            x = F.relu(self.norm(F.conv2d(x, weight, padding=1)))
        return self.fc(x.mean(dim=(2, 3)))


@pytest.mark.parametrize(("halves", "convolutions"), [(True, 2), (False, 1)])
def test_apd_counts_different_weights_of_one_parameter(halves, convolutions, images, monkeypatch):
    from harness.proxies.features import Apd

    monkeypatch.setattr(Apd, "score", lambda self, seen: seen["filter_norms"].shape[1])
    assert score_of(Bank(halves), images, "apd") == convolutions


class Stages(nn.Module):
    """A block that is computed `times` times."""

    def __init__(self, times: int):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU())
        self.block = nn.Sequential(nn.Conv2d(6, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU())
        self.times, self.fc = times, nn.Linear(6, 5)

    def forward(self, x):
        x = self.stem(x)
        for _ in range(self.times):
            x = self.block(x)
        return self.fc(x.mean(dim=(2, 3)))


@pytest.mark.parametrize("spec", ["wrcor", "az_expressivity", "croze"])
def test_a_stage_that_is_computed_more_than_once(spec, images):
    assert isinstance(score_of(Stages(1), images, spec, stages=["stem", "block"]), float)
    found = score_of(Stages(3), images, spec, stages=["stem", "block"])
    assert found == "a stage is not computed, or more than once"
    assert isinstance(score_of(Stages(3), images, "rcor", stages=["stem", "block"]), float)


@pytest.mark.parametrize("energy", ["1.5", "1", "0", "-0.5", "1.0"])
def test_w_pca_of_no_share_of_the_variance_is_refused(energy):
    with pytest.raises(HarnessError, match="must lie between 0 and 1"):
        get_proxy(f"w_pca:energy={energy}")
    with pytest.raises(HarnessError, match="must lie between 0 and 1"):
        type(get_proxy("w_pca"))(energy=float("nan"))


@pytest.mark.parametrize("spec", ["w_pca:energy=nan", "croze:epsilon=inf", "epads:sigma=-inf", "zico_bc:beta=1e999"])
def test_a_setting_that_is_no_finite_number_is_refused(spec):
    with pytest.raises(HarnessError, match="is no finite number; the default is"):
        get_proxy(spec)


class Frozen(CalledTwice):
    def __init__(self):
        super().__init__()
        self.conv.requires_grad_(False)


def test_what_counts_of_a_network_with_a_frozen_layer(images):
    specs = ["params", "params:count=all", "trainable_layers"]
    free, frozen = (harness.score(network, images, LABELS, specs) for network in (CalledTwice(), Frozen()))
    assert (free - frozen).to_dict() == {"params": 330, "params:count=all": 330, "trainable_layers": 0}
    assert score_of(Frozen(), images, "vkdnw") == pytest.approx(score_of(CalledTwice(), images, "vkdnw"))
