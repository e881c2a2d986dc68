"""Every proxy on networks of two or three weight layers, its value worked out apart from the harness.

The reference of `tests/by_hand.py` shares nothing with the harness but the initial weights and the mini-batches, and it
is checked itself against differences of the loss. Where a pass draws noise of its own, the test reads the
noise at the network's door and works on from there.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest
from torch import nn

from harness.engine.scorer import Result, score_subject
from harness.errors import HarnessError
from harness.probes.base import Subject
from harness.probes.positive import AttentionPass
from harness.proxies import available, get_proxy
from harness.spaces.base import Operation
from harness.spaces.nasbench201 import CONV1, CONV3, NONE, POOL, SKIP, NasBench201
from harness.spaces.nasbench201.network import OneCell
from tests.by_hand import (
    CASES,
    COVERED,
    EPS,
    FEEDING,
    LAYERS,
    NORMS,
    PROGRAMS,
    Case,
    Node,
    Tape,
    by_hand,
    cross_entropy,
    forward,
    inputs_of,
    loss_gradients,
    near,
)

#: Registered proxies that need no test here, each with its reason.
EXCLUDED: set[str] = set()


@pytest.fixture(params=CASES, ids=lambda case: f"{case[0]}-{case[1]}")
def case(request, make_subject) -> Case:
    name, scheme, size = request.param
    return Case(make_subject, name, scheme, size)


# The reference itself -------------------------------------------------------------------------------------


def test_the_reference_agrees_with_the_networks(case):
    tape = case.forward()
    case.subject.initialise(case.init, 0, "float64")
    images = case.subject.batch(0, case.size)[0].double()
    assert tape.logits.value == pytest.approx(case.subject.network(images).detach().numpy(), rel=1e-9)
    case.subject.network.eval()
    case.subject.initialise(case.init, 0, "float64")
    running = forward(case.name, case.weights(), images.numpy(), "running").logits.value
    assert running == pytest.approx(case.subject.network.eval()(images).detach().numpy(), rel=1e-9)


@pytest.mark.parametrize("norm", ["batch", "running", "off"])
def test_the_reference_goes_back_as_its_loss_changes(case, norm):
    """The derivative along a direction, by a step into the complex plane: no difference cancels."""
    weights, (images, labels) = case.weights(), case.batch()
    direction = np.random.RandomState(0)
    tape = forward(case.name, weights, images, norm)
    found = tape.back(cross_entropy(tape.logits.value, labels)[1])
    along = {key: direction.randn(*weights[key].shape) for key in found}
    step = 1e-30
    moved = {key: w + 1j * step * along[key] if key in along else w for key, w in weights.items()}
    loss, _ = cross_entropy(forward(case.name, moved, images, norm).logits.value, labels)
    expected = sum((found[key] * along[key]).sum() for key in found)
    assert loss.imag / step == pytest.approx(expected, rel=1e-9)


# Counts ---------------------------------------------------------------------------------------------------

#: By network: parameters that a gradient reaches, multiply-accumulates, layers; and what the other modules
#: do, 2 an element for BatchNorm, 1 for ReLU and for the pooling of the whole map.
COUNTS = {
    "chain": (
        3 * 4 * 9 + 8 + 4 * 5 * 9 + 10 + 5 * 3 + 3,
        3 * 4 * 9 * 64 + 4 * 5 * 9 * 36 + 15,
        3,
        3 * (4 * 64 + 5 * 36),
    ),
    "staged": (
        3 * 4 * 9 + 8 + 4 * 4 * 9 + 8 + 4 * 5 * 9 + 10 + 5 * 3 + 3,
        3 * 4 * 9 * 64 + 4 * 4 * 9 * 64 + 4 * 5 * 9 * 16 + 15,
        4,
        (2 * 4 * 64) + 3 * 4 * 64 + (4 * 64 + 2 * 5 * 16) + 5 * 16,
    ),
    # A map of 4 x 7; each of the two groups leads from two channels to three.
    "strided": (
        3 * 4 * 6 + 4 + 2 * (2 * 3 * 9) + 6 + 12 + 6 * 3 + 3,
        3 * 4 * 6 * 28 + 2 * (2 * 3 * 9) * 28 + 18,
        3,
        4 * 28 + 2 * 6 * 28 + 6 * 28 + 6 * 28,
    ),
    "mlp": (12 * 5 + 5 + 5 * 4 + 4 + 4 * 3 + 3, 12 * 5 + 5 * 4 + 4 * 3, 3, 5 + 4),
    # The dropped layer is computed but out of reach, the spare one is neither; the starved one is both.
    "loose": (
        (3 * 4 * 9 + 8) + 2 * (4 * 5 * 9 + 10) + 5 * 3 + 3,
        3 * 4 * 9 * 64 + 4 * 2 * 64 + 2 * 4 * 5 * 9 * 36 + 15,
        6,
        3 * 4 * 64 + 2 * 5 * 36 + 3 * 5 * 36,
    ),
    "residual": (3 * 4 * 9 + 4 * 4 * 9 + 16 + 4 * 3 + 3, 3 * 4 * 9 * 64 + 4 * 4 * 9 * 64 + 12, 3, 6 * 4 * 64),
    # Weights that serve twice are parameters once, and multiplied twice.
    "shared": (
        3 * 4 * 9 + 4 * 4 * 9 + 4 + 24 + 4 * 3 + 3,
        3 * 4 * 9 * 64 + 2 * (4 * 4 * 9 * 64) + 12,
        3,
        9 * 4 * 64,
    ),
    "preactivation": (
        3 * 4 * 9 + 4 * 4 * 9 + 16 + 4 * 3 + 3,
        3 * 4 * 9 * 64 + 4 * 4 * 9 * 64 + 12,
        3,
        6 * 4 * 64,
    ),
}


@by_hand("params", "flops", "trainable_layers")
@pytest.mark.parametrize("name", COUNTS)
def test_counts(make_subject, name):
    params, macs, layers, others = COUNTS[name]
    expected = {"params": params, "flops": macs, "trainable_layers": layers, "flops:count=all": macs + others}
    found = score_subject(make_subject(name), map(get_proxy, expected))
    assert {label: (result.status, result.score) for label, result in found.items()} == {
        label: ("ok", value) for label, value in expected.items()
    }


# Saliencies -----------------------------------------------------------------------------------------------


@by_hand("grad_norm")
def test_grad_norm(case):
    gradients = case.gradients()
    layers = sum(math.sqrt((gradients[f"{layer}.weight"] ** 2).sum()) for layer in case.layers)
    assert case.score("grad_norm") == near(layers)
    everything = math.sqrt(sum((g**2).sum() for g in gradients.values()))
    assert case.score("grad_norm", norm="all") == near(everything)


@by_hand("snip", "plain", "l2_norm")
def test_products_of_weight_and_gradient(case):
    weights, gradients = case.weights(), case.gradients()
    products = [weights[f"{layer}.weight"] * gradients[f"{layer}.weight"] for layer in case.layers]
    assert case.score("snip") == near(sum(np.abs(p).sum() for p in products))
    assert case.score("plain") == near(sum(p.sum() for p in products))
    norms = [math.sqrt((weights[f"{layer}.weight"] ** 2).sum()) for layer in case.layers]
    assert case.score("l2_norm", batch_size=None, dtype=None) == near(sum(norms))


@by_hand("fisher")
def test_fisher(case):
    """Half the mean over images of (sum over positions of a dL/da)^2, once for each weight of the channel."""
    tape = case.forward()
    tape.back(cross_entropy(tape.logits.value, case.batch()[1])[1])
    expected = 0.0
    for kind, name, _, output in tape.calls:
        if kind == "layer":
            product = output.value * output.grad
            if product.ndim == 4:
                product = product.sum(axis=(2, 3))
            channels = (product**2).mean(axis=0) / 2
            expected += channels.sum() * tape.weights[f"{name}.weight"][0].size
    assert case.score("fisher") == near(expected)


@by_hand("grasp")
def test_grasp(case):
    """-w (H g): the Hessian of the layers' weights applied to their gradient, by a complex step along it."""
    weights, (images, labels) = case.weights(), case.batch()
    gradients = case.gradients()
    step = 1e-30
    keys = [f"{layer}.weight" for layer in case.layers]
    moved = weights | {key: weights[key] + 1j * step * gradients[key] for key in keys}
    curved = loss_gradients(case.name, moved, images, labels)
    expected = -sum((weights[key] * curved[key].imag / step).sum() for key in keys)
    assert case.score("grasp") == near(expected)
    assert case.score("grasp", keep="large") == near(-expected)


@by_hand("zico")
@pytest.mark.parametrize("minibatches", [2, 3])
@pytest.mark.parametrize("average", [False, True])
def test_zico(case, minibatches, average):
    drawn = [case.gradients(number) for number in range(minibatches)]
    expected = np.zeros(3)
    for layer in case.layers:
        g = np.stack([gradients[f"{layer}.weight"] for gradients in drawn])
        mean, deviation = (values[g.std(axis=0) > 0] for values in (np.abs(g).mean(axis=0), g.std(axis=0)))
        totals = [
            part.mean() if average and part.size else part.sum() for part in (mean / deviation, mean, 1 / deviation)
        ]
        expected += [math.log(total) if total > 0 else 0.0 for total in totals]
    settings = {"minibatches": minibatches, "average": average}
    assert [case.score("zico", part=part, **settings) for part in ("ratio", "mean", "deviation")] == near(expected)


def flow(case: Case, repeat: int = 0) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """By layer the absolute weights and their gradients of the summed logits, for an image of ones."""
    weights = {key: np.abs(w) for key, w in case.weights(repeat).items()}
    tape = forward(case.name, weights, np.ones((1, *case.subject.shape)), "off")
    found = tape.back(np.ones_like(tape.logits.value))
    keys = {layer: f"{layer}.weight" for layer in case.layers}
    return {layer: (weights[key], found.get(key, np.zeros_like(weights[key]))) for layer, key in keys.items()}


@by_hand("synflow", "logsynflow")
def test_synflow_and_its_logarithm(case):
    plain = {"batch_size": None, "dtype": None}
    one = sum(np.abs(w * g).sum() for w, g in flow(case).values())
    assert case.score("synflow", **plain) == near(one)
    three = [sum((w * np.log(g + 1)).sum() for w, g in flow(case, repeat).values()) for repeat in range(3)]
    assert case.score("logsynflow", **plain) == near(sum(three) / 3)
    if case.scheme != "kept":  # repeats are draws of their own
        assert len(set(three)) == 3


def saliencies(case: Case, kind: str) -> dict[str, np.ndarray]:
    """|S(w)| of every weight, by layer."""
    if kind == "synflow":
        return {layer: np.abs(w * g) for layer, (w, g) in flow(case).items()}
    weights, gradients = case.weights(), case.gradients()
    keys = {layer: f"{layer}.weight" for layer in case.layers}
    if kind == "grad":
        return {layer: np.abs(gradients[key]) for layer, key in keys.items()}
    return {layer: np.abs(weights[key] * gradients[key]) for layer, key in keys.items()}


def sum_over_deviation(values: np.ndarray) -> float:
    """A layer's sum over the population deviation within it; 0 where nothing deviates."""
    deviation = math.sqrt(((values - values.mean()) ** 2).mean())
    return values.sum() / deviation if deviation > 0 else 0.0


@by_hand("ssnr")
@pytest.mark.parametrize("saliency", ["snip", "grad", "synflow"])
def test_ssnr(case, saliency):
    expected = sum(sum_over_deviation(s) for s in saliencies(case, saliency).values())
    assert case.score("ssnr", saliency=saliency) == near(expected)


@pytest.mark.parametrize("saliency", ["snip", "grad", "synflow"])
def test_ssnr_leaves_a_layer_of_one_weight_out(make_subject, monkeypatch, saliency):
    """A single weight has no deviation, so the layer between the others counts nothing."""
    needle = nn.Sequential(nn.Flatten(), nn.Linear(12, 1), nn.Linear(1, 1), nn.Linear(1, 3))

    def program(t: Tape, x: Node) -> Node:
        x = t.node(x.value.reshape(len(x.value), -1))
        return t.linear("3", t.linear("2", t.linear("1", x)))

    monkeypatch.setitem(PROGRAMS, "needle", program)
    monkeypatch.setitem(LAYERS, "needle", ("1", "2", "3"))
    case = Case(lambda name, **o: make_subject(needle, shape=(3, 2, 2), **o), "needle", "default")
    terms = [sum_over_deviation(s) for s in saliencies(case, saliency).values()]
    assert terms[1] == 0
    assert case.score("ssnr", saliency=saliency) == near(terms[0] + terms[2])
    logs = [log_of_sum_over_deviation(s) for s in saliencies(case, saliency).values()]
    assert logs[1] != 0
    assert case.score("ssnr", saliency=saliency, variant="repo") == near(sum(logs))


def log_of_sum_over_deviation(values: np.ndarray) -> float:
    """As the authors' code: the unbiased deviation, the sum alone where there is none, its logarithm unless 0."""
    values = values.ravel()
    deviation = values.std(ddof=1) if len(values) > 1 else 0.0
    ratio = values.sum() / deviation if deviation > 0 else values.sum()
    return math.log(ratio) if ratio else 0.0


@pytest.mark.parametrize("saliency", ["snip", "grad", "synflow"])
def test_ssnr_as_the_authors_code(case, saliency):
    expected = sum(log_of_sum_over_deviation(s) for s in saliencies(case, saliency).values())
    assert case.score("ssnr", saliency=saliency, variant="repo") == near(expected)


# Codes of activations -------------------------------------------------------------------------------------


def equal_bits(values: list[np.ndarray]) -> list[list[int]]:
    """How many units treat two images alike, counted; several calls of a module count together."""
    images = range(len(values[0]))
    codes = [[bit for call in values for bit in (call[n].ravel() > 0).tolist()] for n in images]
    return [[sum(a == b for a, b in zip(one, other, strict=True)) for other in codes] for one in codes]


def log_determinant(kernel: list[list[int]]) -> float:
    """Logarithm of an integer matrix's determinant, -inf for 0: exact, by elimination without fractions."""
    rows, before, sign = [list(row) for row in kernel], 1, 1
    for k in range(len(rows) - 1):
        pivot = next((i for i in range(k, len(rows)) if rows[i][k]), None)
        if pivot is None:
            return -math.inf
        if pivot != k:
            rows[k], rows[pivot], sign = rows[pivot], rows[k], -sign
        for i in range(k + 1, len(rows)):
            for j in range(k + 1, len(rows)):
                rows[i][j] = (rows[i][j] * rows[k][k] - rows[i][k] * rows[k][j]) // before
        before = rows[k][k]
    determinant = sign * rows[-1][-1]
    assert determinant >= 0
    return math.log(determinant) if determinant else -math.inf


def regular(value: float) -> float:
    """A singular kernel contributes nothing where layers are summed."""
    return value if math.isfinite(value) else 0.0


def test_the_reference_determinant():
    assert log_determinant([[2, 1], [1, 3]]) == math.log(5)
    assert log_determinant([[1, 1], [1, 1]]) == -math.inf
    assert log_determinant([[0, 1, 0], [1, 0, 0], [0, 0, -7]]) == math.log(7)


@by_hand("naswot")
def test_naswot(case):
    read = [call for calls in case.forward().read("relu").values() for call in calls]
    expected = log_determinant(equal_bits(read))
    assert math.isfinite(expected)
    assert case.score("naswot") == near(expected)


def test_naswot_of_all_activations(make_subject, tiny_network):
    """The codes of GELUs and SiLUs, which are no ReLUs: [input > 0], as theirs."""
    network = tiny_network("mlp", activation=nn.GELU)
    network.two = nn.SiLU()
    case = Case(lambda name, **o: make_subject(network, **o), "mlp", "default", size=3)
    subject, read = case.make(), []
    subject.initialise("default", dtype="float64")
    for module in subject.network.modules():
        if isinstance(module, (nn.GELU, nn.SiLU)):
            module.register_forward_pre_hook(lambda _, values: read.append(values[0].detach().numpy().copy()))
    subject.network(subject.images(case.size, "float64")[0])
    assert len(read) == 2
    expected = log_determinant(equal_bits(read))
    assert case.score("naswot", activations="all") == near(expected)
    assert case.result("naswot").status == "the network computes no ReLU"


def test_naswot_of_an_image_seen_twice_has_no_value(make_subject):
    case = Case(make_subject, "chain", "kaiming_fan_in")
    images, labels = case.subject.batch(0, case.size)
    images[4] = images[1]
    case.subject.batch = lambda number, size: (images, labels)
    assert case.result("naswot").score is None
    assert case.result("naswot").status == "singular kernel"


@by_hand("layerwise_naswot")
def test_layerwise_naswot(case):
    calls = [call for calls in case.forward().read("relu").values() for call in calls]  # one used twice is two ReLUs
    values = [log_determinant(equal_bits([call])) for call in calls]
    assert np.isfinite(values).any()
    assert case.score("layerwise_naswot") == near(sum(map(regular, values)))


@by_hand("t_cet")
@pytest.mark.parametrize("saliency", ["snip", "synflow"])
@pytest.mark.parametrize("codes", ["output", "relu"])
def test_t_cet(case, codes, saliency):
    tape = case.forward()
    if codes == "output":
        patterns = tape.gave("layer")
    else:
        if case.name == "shared":
            assert "several" in case.result("t_cet", codes=codes, saliency=saliency).status
            return
        relus = tape.read("relu")
        patterns = {layer: relus[relu][:1] for layer, relu in FEEDING[case.name].items()}
    values = {layer: regular(log_determinant(equal_bits(calls))) for layer, calls in patterns.items()}
    terms = saliencies(case, saliency)
    expected = sum(sum_over_deviation(terms[layer]) * value for layer, value in values.items())
    assert expected > 0
    assert case.score("t_cet", codes=codes, saliency=saliency) == near(expected)


@pytest.mark.parametrize("saliency", ["snip", "synflow"])
def test_t_cet_as_the_authors_code(case, saliency):
    """Codes of the outputs with running statistics, of a layer that serves twice joined."""
    tape = forward(case.name, case.weights(), case.batch()[0], "running")
    values = {layer: regular(log_determinant(equal_bits(calls))) for layer, calls in tape.gave("layer").items()}
    terms = saliencies(case, saliency)
    expected = sum(log_of_sum_over_deviation(terms[layer]) * value for layer, value in values.items())
    assert expected != 0
    assert case.score("t_cet", saliency=saliency, variant="repo") == near(expected)


def test_t_cet_as_the_authors_code_reads_no_relu():
    with pytest.raises(HarnessError, match="leave out codes=relu"):
        get_proxy("t_cet:variant=repo:codes=relu")


def shannon(tape: Tape, eps: float, over: str = "channels") -> float:
    """Sum over activations of the mean of -a ln(a + eps), a the share of the largest one (of an image) over `over`."""
    total = 0.0
    for calls in tape.gave("relu").values():
        for values in calls:
            axes = {"channels": (1,), "positions": (2, 3)[: values.ndim - 2], "layer": (1, 2, 3)[: values.ndim - 1]}
            top = values.max(axis=axes[over], keepdims=True) if axes[over] else values
            share = np.where(top > 0, values / np.where(top > 0, top, 1), 0)
            total += -(share * np.log(share + eps)).mean()
    return total


def entropic(
    case: Case, batch_size: int, eps: float, over: str = "channels", signed: bool = False
) -> tuple[float, float]:
    """Score of the harness and by hand."""
    with inputs_of(case.subject.network) as noise:
        settings = {"batch_size": batch_size, "eps": eps, "over": over, "signed": signed}
        score = case.score("entropic_score", dtype=None, **settings)
    assert len(noise) == 3
    assert all(x.shape == (batch_size, *case.subject.shape) for x in noise)
    assert all(0.3 < np.abs(x).max() <= 0.5 and x.min() < 0 < x.max() for x in noise)
    assert not np.array_equal(noise[0], noise[1])
    each = []
    for repeat, x in enumerate(noise):
        weights = {key: w if signed else np.abs(w) for key, w in case.weights(repeat).items()}
        each.append(shannon(forward(case.name, weights, x, "off"), eps, over))
    return score, sum(each) / 3


@by_hand("entropic_score")
@pytest.mark.parametrize(("batch_size", "eps"), [(1, 1e-8), (2, 1e-3)])
def test_entropic_score(case, batch_size, eps):
    score, expected = entropic(case, batch_size, eps)
    assert score == near(expected)


@by_hand("entropic_score")
@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("over", ["positions", "layer"])
def test_other_readings_of_the_entropic_score(case, over, signed):
    score, expected = entropic(case, 2, 1e-8, over, signed)
    assert score == near(expected)


def test_entropic_score_makes_every_activation_a_relu(make_subject, tiny_network):
    network = tiny_network("mlp", activation=nn.GELU)
    case = Case(lambda name, **o: make_subject(network, **o), "mlp", "default")
    score, expected = entropic(case, 2, 1e-8)
    assert score == near(expected)


@by_hand("swap")
@pytest.mark.parametrize("name", ["chain", "staged", "strided", "loose", "residual"])
def test_swap(make_subject, name):
    """Distinct rows of (units, images) over one mini-batch in two repeats, weights N(0, 1)."""
    case = Case(make_subject, name, "gaussian", size=10)
    with inputs_of(case.subject.network) as batches:
        score = case.score("swap", init=None, repeats=2)
    counts = []
    for repeat, images in enumerate(batches):
        tape = forward(name, case.weights(repeat), images)
        units = [u for calls in tape.gave("relu").values() for y in calls for u in (y > 0).reshape(10, -1).T]
        counts.append(len({tuple(unit) for unit in units}))
    assert len(counts) == 2
    assert np.array_equal(*batches)
    assert max(counts) < 2**10  # so that there is something to count
    assert score == sum(counts) / 2


@pytest.mark.parametrize(("size", "status"), [(2, "all 4 patterns of 2 images occur: give more images"), (12, "ok")])
def test_a_swap_count_at_its_ceiling_is_no_score(make_subject, size, status):
    result = Case(make_subject, "chain", "gaussian", size=size).result("swap", init=None)
    assert result.status == status
    assert (result.score is None) == (size == 2)


@by_hand("nregions")
def test_nregions(make_subject, tiny_network):
    """Distinct codes of small images, a thousand a pass. Few units, so that images do share a region."""

    def narrow(name: str, **options) -> Subject:
        return make_subject(tiny_network(name, widths=(1, 2)), **options)

    case = Case(narrow, "chain", "kaiming_fan_in")
    with inputs_of(case.subject.network) as batches:
        score = case.score("nregions", batch_size=None, samples=1100, network="full")
    codes = set()
    for images in batches:
        assert images.shape[1:] == (3, 3, 3)
        relus = forward("chain", case.weights(), images).gave("relu")
        active = [(y > 0).reshape(len(y), -1) for calls in relus.values() for y in calls]
        codes.update(map(tuple, np.concatenate(active, axis=1)))
    assert list(map(len, batches)) == [1000, 100]
    assert 20 < len(codes) < 1000
    assert score == len(codes)


def test_nregions_counts_in_the_network_that_is_asked_for_or_the_next(make_subject, tiny_network):
    """TE-NAS's own of images of one channel, else the thin one, else the full one."""
    thin = make_subject(tiny_network("chain", widths=(1, 2)))
    cell = OneCell([CONV3, SKIP, CONV1, POOL, NONE, CONV1], 3)
    own = make_subject(cell, shape=(1, 8, 8))
    settings = {"batch_size": None, "samples": 200}

    def counted(network: str, **options) -> float:
        case = Case(make_subject, "chain", "kaiming_fan_in", **options)
        return case.score("nregions", network=network, **settings)

    with inputs_of(cell) as read:
        of_cell = counted("cell", thin=lambda: thin, regions=lambda: own)
    assert read[-1].shape == (200, 1, 3, 3)
    of_thin, of_full = counted("thin", thin=lambda: thin, regions=lambda: own), counted("full", thin=lambda: thin)
    assert of_cell != of_thin < 190 < of_full
    assert counted("cell", thin=lambda: thin, regions=lambda: None) == counted("cell", thin=lambda: thin) == of_thin
    assert counted("cell") == counted("thin") == of_full


def test_nregions_on_images_as_large_as_the_mini_batches(make_subject):
    """As AZ-NAS's port of TE-NAS counts: in the full network, whose images of any size differ."""
    case = Case(make_subject, "chain", "kaiming_fan_in")
    with inputs_of(case.subject.network) as read:
        score = case.score("nregions", batch_size=None, samples=64, network="full", resolution=0)
    assert read[-1].shape == (64, 3, 8, 8)
    assert score == 64


def test_nregions_of_a_cell_of_one_channel(make_subject):
    """Codes of TE-NAS's network for NAS-Bench-201, written out: a 1x1 convolution on an edge beside a copy."""
    cell = OneCell([SKIP, NONE, NONE, SKIP, CONV1, NONE], 3)
    own = make_subject(cell, shape=(1, 8, 8))
    case = Case(make_subject, "chain", "kaiming_fan_in", regions=lambda: own)
    with inputs_of(cell) as read:
        score = case.score("nregions", batch_size=None, samples=1000)
    images = read[-1]  # the first ones tell where the images are in what the network computes
    (kernel,) = [w.item() for w in cell.state_dict().values() if w.ndim == 4]
    convolved = images * (images > 0) * kernel
    node = images + (convolved - convolved.mean()) / np.sqrt(convolved.var() + EPS)
    codes = np.concatenate([images > 0, node > node.mean()], axis=1).reshape(1000, -1)
    assert score == len(np.unique(codes, axis=0)) < 1000


# Jacobians and kernels ------------------------------------------------------------------------------------


def image_jacobian(case: Case) -> np.ndarray:
    """(B, pixels): gradient of the sum of all logits with respect to an image, BatchNorm on the batch."""
    tape = case.forward()
    tape.back(np.ones_like(tape.logits.value))
    return tape.input.grad.reshape(case.size, -1)


@by_hand("jacov")
def test_jacov(case):
    eigenvalues = np.linalg.svd(np.corrcoef(image_jacobian(case)), compute_uv=False)
    expected = -sum(math.log(v + 1e-5) + 1 / (v + 1e-5) for v in eigenvalues)
    assert case.score("jacov") == near(expected)


def class_sums(case: Case) -> dict[int, tuple[int, float]]:
    """By class its number of images and the sum of ln(|r| + 1e-5) over its correlation matrix."""
    rows, labels = image_jacobian(case), case.batch()[1]
    found = {}
    for c in set(labels.tolist()):
        matrix = np.atleast_2d(np.corrcoef(rows[labels == c]))
        found[c] = len(matrix), np.log(np.abs(matrix) + 1e-5).sum()
    return found


@by_hand("epe_nas")
def test_epe_nas(case):
    assert case.score("epe_nas") == near(sum(abs(s) for _, s in class_sums(case).values()))


def of_many_classes(make_subject: Callable, *labels: int) -> Case:
    """101 classes, of which the mini-batch has these."""
    case = Case(make_subject, "chain", "kaiming_fan_in", size=len(labels), classes=101)
    images, drawn = case.subject.batch(0, len(labels))
    case.subject.batch = lambda number, size: (images, drawn.new_tensor(labels))
    return case


def test_epe_nas_of_more_than_a_hundred_classes(make_subject):
    """Each class's sum is divided by its images; classes of two images and more are compared with each other."""
    case = of_many_classes(make_subject, 100, 7, 3, 7, 100, 3, 55, 7, 3, 20)
    sums = [s / n for n, s in class_sums(case).values() if n > 1]
    assert len(sums) == 3
    expected = sum(abs(a - b) for a in sums for b in sums) / 3
    assert case.score("epe_nas") == near(expected)


@pytest.mark.parametrize("labels", [(5, 5, 9, 30), (1, 2, 3, 4)])
def test_epe_nas_with_fewer_than_two_classes_to_compare_has_no_score(make_subject, labels):
    result = of_many_classes(make_subject, *labels).result("epe_nas")
    assert result.score is None
    assert "two classes have two images" in result.status


def weight_jacobian(case: Case, count: int = 128) -> tuple[np.ndarray, np.ndarray]:
    """(B, K, p) gradients of each logit with respect to the first element of each parameter; softmax (B, K).

    Image by image: with running statistics none depends on another.
    """
    weights = case.weights()
    chosen = [key for key in weights if "running" not in key][:count]
    jacobian, probabilities = [], []
    for image in case.batch()[0]:
        tape = forward(case.name, weights, image[None], "running")
        (logits,) = tape.logits.value
        rows = []
        for k in range(len(logits)):
            found = tape.back(np.eye(len(logits))[k : k + 1])
            rows.append([found[key].ravel()[0] if key in found else 0.0 for key in chosen])
        jacobian.append(rows)
        probabilities.append(np.exp(logits) / np.exp(logits).sum())
    return np.array(jacobian), np.array(probabilities)


def fisher_deciles(case: Case, variant: str, count: int = 128) -> list[float]:
    return information_deciles(*weight_jacobian(case, count), variant)


def information_deciles(jacobian: np.ndarray, probabilities: np.ndarray, variant: str) -> list[float]:
    """Deciles of the singular values of mean J^T S J, S = diag(s) - s s^T, or of mean J^T (L^T L) J."""
    classes = probabilities.shape[1]
    information = 0
    for j, q in zip(jacobian, probabilities, strict=True):
        s = 0.95 * q + 0.05 / classes
        middle = np.diag(s) - np.outer(s, s)
        if variant == "repo":
            # The classes sum to one: S is singular, its first rows are not. The last row follows from them.
            upper = np.linalg.cholesky(middle[:-1, :-1])
            root = np.zeros_like(middle)
            root[:-1, :-1] = upper
            root[-1, :-1] = np.linalg.solve(upper, middle[:-1, -1])
            assert root @ root.T == pytest.approx(middle)
            middle = root.T @ root
        information = information + j.T @ middle @ j / len(jacobian)
    spectrum = sorted(np.linalg.svd(information, compute_uv=False))
    deciles = []
    for k in range(1, 10):  # linear interpolation between the neighbours
        place = k / 10 * (len(spectrum) - 1)
        low, high = spectrum[math.floor(place)], spectrum[math.ceil(place)]
        deciles.append(low + (place - math.floor(place)) * (high - low))
    return deciles


def entropy_of(deciles: list[float]) -> float:
    shares = [d / (sum(deciles) + 1e-10) for d in deciles]
    return -sum(t * math.log(t + 1e-10) for t in shares)


@by_hand("vkdnw", "vkdnw_single")
@pytest.mark.parametrize("variant", ["paper", "repo"])
def test_vkdnw(case, variant):
    expected = entropy_of(fisher_deciles(case, variant))
    assert 0 < expected <= math.log(9)
    assert case.score("vkdnw", variant=variant) == near(expected)
    assert case.score("vkdnw_single", variant=variant) == near(len(case.layers) + expected)


def test_vkdnw_variants_differ_and_read_the_first_tensors_alone(make_subject):
    case = Case(make_subject, "chain", "kept")
    paper, repo = (entropy_of(fisher_deciles(case, variant)) for variant in ("paper", "repo"))
    assert paper != pytest.approx(repo, rel=1e-3)
    expected = entropy_of(fisher_deciles(case, "paper", 5))
    assert expected != pytest.approx(paper, rel=1e-3)
    assert case.score("vkdnw", tensors=5) == near(expected)


@by_hand("vkdnw_decile")
@pytest.mark.parametrize("k", [1, 5, 9])
def test_vkdnw_decile(make_subject, k):
    case = Case(make_subject, "chain", "kaiming_fan_in")
    assert case.score("vkdnw_decile", k=k) == near(math.log(fisher_deciles(case, "paper")[k - 1]))


@by_hand("ntk")
def test_ntk(case):
    """Gradients of all tensors named weight, BatchNorm's too; an image's logits depend on all images."""
    tape = case.forward()
    rows = []
    for n in range(case.size):
        seed = np.zeros_like(tape.logits.value)
        seed[n] = 1
        found = tape.back(seed)
        rows.append(np.concatenate([g.ravel() for key, g in sorted(found.items()) if "weight" in key]))
    singular = np.linalg.svd(np.stack(rows), compute_uv=False)
    assert case.score("ntk") == near(-((singular[0] / singular[-1]) ** 2))


@by_hand("gradsign")
def test_gradsign(case):
    """Sum over weights of |sum over images of the gradient's sign|, each image a mini-batch of its own."""
    images, labels = case.batch()
    weights = case.weights()
    signs = {f"{layer}.weight": 0.0 for layer in case.layers}
    for n in range(case.size):
        found = loss_gradients(case.name, weights, images[n : n + 1], labels[n : n + 1])
        signs = {key: total + np.sign(found[key]) for key, total in signs.items()}
        sizes = np.concatenate([np.abs(found[key]).ravel() for key in signs])
        assert sizes[sizes > 0].min() > 1e-9 * sizes.max(), "a sign here is rounding noise: take another seed"
    total = sum(np.abs(total).sum() for total in signs.values())
    assert case.score("gradsign") == total
    count = sum(weights[key].size for key in signs)  # those of layers that nothing reaches too
    assert case.score("gradsign", form="mean") == near(total / count)


# Feature maps ---------------------------------------------------------------------------------------------


def least_eigenvalue(features: np.ndarray) -> float:
    """Of the Pearson correlation of the channels of one image; what is not defined counts as 0."""
    with np.errstate(invalid="ignore", divide="ignore"):
        matrix = np.corrcoef(features.reshape(len(features), -1))
    matrix[~np.isfinite(matrix)] = 0
    return min(np.linalg.eigvals(matrix).real)


@by_hand("meco")
@pytest.mark.parametrize("name", ["chain", "staged", "strided", "loose", "residual"])
def test_meco(make_subject, name):
    case = Case(make_subject, name, "default")
    with inputs_of(case.subject.network) as images:
        score = case.score("meco", batch_size=None, resolution=9)
    (image,) = images
    assert image.shape == (1, 3, 9, 9)
    tape = forward(name, case.weights(), image)
    read = [y.value[0] for kind, _, _, y in tape.calls if kind in ("layer", "norm", "relu")]
    assert score == near(sum(least_eigenvalue(features) for features in read if features.ndim == 3))


def test_meco_of_all_modules_counts_what_containers_give_again(make_subject):
    case = Case(make_subject, "chain", "kaiming_fan_in")
    with inputs_of(case.subject.network) as images:
        score = case.score("meco", batch_size=None, resolution=9, modules="all")
    tape = forward("chain", case.weights(), images[0])
    least = {name: least_eigenvalue(y.value[0]) for _, name, _, y in tape.calls if y.value.ndim == 4}
    assert score == near(sum(least.values()) + least["first.2"] + least["second.2"])


@by_hand("zen")
@pytest.mark.parametrize("name", ["chain", "staged", "strided", "loose", "residual"])
def test_zen(make_subject, name):
    """The change of the map before pooling, and running variances after two momentum steps of 0.1."""
    case = Case(make_subject, name, "gaussian", size=4)
    with inputs_of(case.subject.network) as batches:
        score = case.score("zen", init=None)
    first, second = (forward(name, case.weights(), images) for images in batches)
    assert (batches[1] - batches[0]).std() == pytest.approx(0.01, rel=0.1)
    change = np.abs(first.pooled.value - second.pooled.value).sum(axis=(1, 2, 3)).mean()
    running = [0.81 + 0.09 * first.variances[norm] + 0.1 * second.variances[norm] for norm in NORMS[name]]
    expected = math.log(change) + sum(math.log(math.sqrt(v.mean())) for v in running)
    assert score == near(expected)


@pytest.mark.parametrize("name", ["chain", "residual"])
def test_zen_of_a_network_that_others_have_passed(make_subject, name):
    """Three forwards of one batch with kaiming weights leave 1 - 0.9^3 of its variances in the running ones."""
    case, before = (Case(make_subject, name, scheme, size=4) for scheme in ("gaussian", "kaiming_fan_in"))
    with inputs_of(case.subject.network) as batches:
        score = case.score("zen", init=None, warm=3)
    left = forward(name, before.weights(), batches[0]).variances
    first, second = (forward(name, case.weights(), images) for images in batches[1:])
    change = np.abs(first.pooled.value - second.pooled.value).sum(axis=(1, 2, 3)).mean()
    running = [
        0.81 * (0.729 + 0.271 * left[norm]) + 0.09 * first.variances[norm] + 0.1 * second.variances[norm]
        for norm in NORMS[name]
    ]
    assert score == near(math.log(change) + sum(math.log(math.sqrt(v.mean())) for v in running))
    assert all(m.momentum == 0.1 for m in case.subject.network.modules() if isinstance(m, nn.BatchNorm2d))


@pytest.mark.parametrize(
    "spec", ["zen", "zen:warm=3", "synflow", "synflow:normalisation=True", "nregions:network=full"]
)
def test_a_resolution_is_that_of_a_dataset_with_such_images(make_subject, spec):
    def scored(shape: tuple[int, int, int], resolution: int) -> float:
        proxy = get_proxy(f"{spec}:resolution={resolution}")
        (result,) = score_subject(make_subject("residual", shape=shape), [proxy]).values()
        assert result.status == "ok"
        return result.score

    assert scored((3, 8, 8), 16) == scored((3, 16, 16), 0) == scored((3, 16, 16), 16)
    if not spec.startswith("nregions"):  # so few regions are met by both
        assert scored((3, 8, 8), 16) != scored((3, 8, 8), 0)


def spectrum_entropy(features: np.ndarray) -> float:
    """Of the shares of the channels' covariance spectrum; the samples are images and positions."""
    covariance = np.cov(np.moveaxis(features, 1, 0).reshape(features.shape[1], -1), bias=True)
    shares = np.linalg.svd(covariance, compute_uv=False) / np.trace(covariance)
    return -sum(p * math.log(p + 1e-8) for p in shares)


def staged_maps(tape: Tape) -> list[Node]:
    found = {name: y for _, name, _, y in tape.calls}
    return [found["stem.1"], found["cell.2"], found["down.2"]]


@pytest.fixture(params=["kaiming_fan_in", "kept"])
def staged_case(request, make_subject) -> Case:
    return Case(make_subject, "staged", request.param)


@by_hand("az_expressivity", "az_progressivity")
def test_az_entropies(staged_case):
    entropies = [spectrum_entropy(node.value) for node in staged_maps(staged_case.forward())]
    assert staged_case.score("az_expressivity") == near(sum(entropies))
    growth = [b - a for a, b in itertools.pairwise(entropies)]
    assert staged_case.score("az_progressivity") == near(min(growth))


@by_hand("az_trainability")
def test_az_trainability(staged_case):
    """From random signs at a stage to the gradient at the stage before, whose finer map is folded."""
    subject, signs = staged_case.subject, {}

    def watch(place: int):
        def hook(module, args, output):
            if output.requires_grad:
                output.register_hook(lambda grad: signs.update({place: grad.double().numpy().copy()}))

        return hook

    handles = [stage.register_forward_hook(watch(place)) for place, stage in enumerate(subject.stages)]
    score = staged_case.score("az_trainability")
    for handle in handles:
        handle.remove()
    tape = staged_case.forward()
    maps = staged_maps(tape)
    terms = []
    for place in (1, 2):
        assert set(np.unique(signs[place])) == {-1.0, 1.0}
        tape.back(signs[place], maps[place])
        given, arriving = signs[place], maps[place - 1].grad
        count, channels, height, width = arriving.shape
        fold = height // given.shape[2]
        arriving = arriving.reshape(count, channels, height // fold, fold, width // fold, fold)
        arriving = arriving.transpose(0, 2, 4, 1, 3, 5).reshape(-1, channels * fold * fold)
        product = arriving.T @ given.transpose(0, 2, 3, 1).reshape(len(arriving), -1) / len(arriving)
        s = np.linalg.svd(product, compute_uv=False)[0]
        terms.append(2 - s - 1 / (s + 1e-6))
    assert score == near(sum(terms) / 2)


# Attention ------------------------------------------------------------------------------------------------


def transformer(weights: dict[str, np.ndarray], images: np.ndarray, fused: bool) -> np.ndarray:
    """Logits of the transformer. Analytic: gradients are taken by steps into the complex plane."""

    def linear(name: str, x: np.ndarray) -> np.ndarray:
        return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]

    def layer_norm(name: str, x: np.ndarray) -> np.ndarray:
        x = x - x.mean(axis=-1, keepdims=True)
        x = x / np.sqrt((x**2).mean(axis=-1, keepdims=True) + 1e-5)
        return x * weights[f"{name}.weight"] + weights[f"{name}.bias"]

    x = linear("embed", images.reshape(len(images), 3, 4).swapaxes(1, 2)) + weights["position"]
    y = layer_norm("norm1", x)
    names = ("in_proj_weight", "in_proj_bias") if fused else ("qkv.weight", "qkv.bias")
    projection, shift = (weights[f"attention.{name}"] for name in names)
    q, k, v = np.split(y @ projection.T + shift, 3, axis=2)
    mixed = []
    for head in (slice(0, 2), slice(2, 4)):
        product = np.exp(q[..., head] @ k[..., head].swapaxes(1, 2) / math.sqrt(2))
        mixed.append(product / product.sum(axis=2, keepdims=True) @ v[..., head])
    x = x + linear("attention.out_proj" if fused else "attention.proj", np.concatenate(mixed, axis=2))
    hidden = linear("up", layer_norm("norm2", x))
    x = x + linear("down", hidden * (hidden.real > 0))
    return linear("head", x.mean(axis=1))


def slope(function: Callable[[dict], np.ndarray], weights: dict, key: str, place: int) -> np.ndarray:
    """Derivative of an analytic function of the weights by element `place` of the tensor `key`."""
    moved = weights[key].astype(complex)
    moved.flat[place] += 1e-30j
    return np.imag(function({**weights, key: moved})) / 1e-30


def transformer_case(make_subject, tiny_network, fused: bool, scheme: str) -> Case:
    return Case(lambda name, **o: make_subject(tiny_network(name, fused=fused), **o), "transformer", scheme)


@by_hand("dss")
@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("init", ["xavier", "default"])
def test_dss(make_subject, tiny_network, fused, init):
    """Nuclear norms of attention weights and of their gradients; |w g| of the other layers but the last."""
    case = transformer_case(make_subject, tiny_network, fused, init)
    weights = {key: np.abs(w) for key, w in case.weights().items()}

    def flow_of(w: dict[str, np.ndarray]) -> np.ndarray:
        return transformer(w, np.ones((1, 3, 2, 2)), fused).sum()

    attention = ("in_proj_weight", "out_proj.weight") if fused else ("qkv.weight", "proj.weight")
    expected = 0.0
    for key in (*(f"attention.{name}" for name in attention), "embed.weight", "up.weight", "down.weight"):
        w = weights[key]
        g = np.array([slope(flow_of, weights, key, place) for place in range(w.size)]).reshape(w.shape)
        assert np.abs(g).max() > 1e-6
        if key.startswith("attention"):
            expected += np.linalg.svd(g, compute_uv=False).sum() * np.linalg.svd(w, compute_uv=False).sum()
        else:
            expected += np.abs(w * g).sum()
    assert case.score("dss", batch_size=None, dtype=None) == near(expected)
    head = weights["head.weight"]
    g = np.array([slope(flow_of, weights, "head.weight", place) for place in range(head.size)]).reshape(head.shape)
    with_head = expected + np.abs(head * g).sum()
    assert with_head > expected
    assert case.score("dss", batch_size=None, dtype=None, variant="repo") == near(with_head)


@by_hand("auto_prox_a")
@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("init", ["truncated_normal", "default"])
def test_attention_with_signed_weights(make_subject, tiny_network, fused, init):
    """Of attention its last projection alone; what the network itself holds, the positions, becomes absolute."""
    case = transformer_case(make_subject, tiny_network, fused, init)
    weights = dict(case.weights())
    weights["position"] = np.abs(weights["position"])

    def flow_of(w: dict[str, np.ndarray]) -> np.ndarray:
        return transformer(w, np.ones((1, 3, 2, 2)), fused).sum()

    keys = (
        "attention.out_proj.weight" if fused else "attention.proj.weight",
        "embed.weight",
        "up.weight",
        "down.weight",
    )
    grads = {key: [slope(flow_of, weights, key, place) for place in range(weights[key].size)] for key in keys}
    first, *others = [(weights[key], np.array(grads[key]).reshape(weights[key].shape)) for key in keys]
    diversity = math.prod(np.linalg.svd(values, compute_uv=False).sum() for values in first)
    settings = {"batch_size": None, "dtype": None}
    expected = diversity + sum(np.abs(w * g).sum() for w, g in others)
    assert case.score("dss", **settings, variant="supernet") == near(expected)
    expected = np.abs(first[1]).sum() + sum((1 / (1 + np.exp(-g))).mean() for _, g in others)
    assert case.score("auto_prox_a", **settings) == near(expected)


def test_dss_as_the_authors_code_counts_a_classifier_of_a_thousand_classes_twice(make_subject, tiny_network):
    def head_of(classes: int) -> tuple[float, float]:
        subject = make_subject(tiny_network("transformer", classes=classes), classes=classes)
        paper, repo = (score_subject(subject, [get_proxy(f"dss:variant={v}")]).popitem()[1] for v in ("paper", "repo"))
        seen = AttentionPass().run(subject, frozenset({"head_saliency"}))
        return repo.score - paper.score, seen["head_saliency"].sum()

    for classes, times in ((999, 1), (1000, 2)):
        added, head = head_of(classes)
        assert added == pytest.approx(times * head, rel=1e-6)


def test_dss_of_a_network_without_attention_has_no_value(make_subject):
    assert Case(make_subject, "mlp", "xavier").result("dss", batch_size=None, dtype=None).score is None


@pytest.mark.filterwarnings("ignore:There is a performance drop")  # of torch's attention under vmap
@pytest.mark.parametrize("fused", [False, True])
def test_vkdnw_of_a_transformer(make_subject, tiny_network, fused):
    """Layers over tokens, and parameters of modules that are neither convolution, BatchNorm nor linear."""
    case = transformer_case(make_subject, tiny_network, fused, "default")
    weights, images = case.weights(), case.batch()[0]
    chosen = [name for name, _ in case.subject.network.named_parameters()]
    columns = [slope(lambda w: transformer(w, images, fused), weights, key, 0) for key in chosen]
    odds = np.exp(transformer(weights, images, fused))
    deciles = information_deciles(np.stack(columns, axis=2), odds / odds.sum(axis=1, keepdims=True), "paper")
    assert case.score("vkdnw") == near(entropy_of(deciles))


@pytest.mark.parametrize("fused", [False, True])
def test_gradsign_of_a_transformer(make_subject, tiny_network, fused):
    """Linear layers over tokens; those of torch's attention module are read by a function, not called."""
    case = transformer_case(make_subject, tiny_network, fused, "default")
    weights, (images, labels) = case.weights(), case.batch()
    inside = ("in_proj_weight", "out_proj.weight") if fused else ("qkv.weight", "proj.weight")
    keys = ("embed.weight", *(f"attention.{key}" for key in inside), "up.weight", "down.weight", "head.weight")
    expected = 0.0
    for key in keys:
        total = np.zeros(weights[key].size)
        for n in range(case.size):

            def loss(w: dict[str, np.ndarray], n: int = n) -> complex:
                return cross_entropy(transformer(w, images[n : n + 1], fused), labels[n : n + 1])[0]

            total += np.sign([slope(loss, weights, key, place) for place in range(len(total))])
        expected += np.abs(total).sum()
    assert case.score("gradsign") == expected


# Operations -----------------------------------------------------------------------------------------------


def sed(operations: tuple[Operation, ...], counts: list[float], part: str = "all") -> Result:
    def read(probe):
        return {"operations": operations, "operation_counts": np.array(counts)}

    (result,) = score_subject(None, [get_proxy(f"sed:part={part}")], read).values()
    return result


@by_hand("sed")
def test_sed():
    """ln of a convolution's window, minus Proposition 3's bound for pooling, 1 for a skip in a sum."""
    terms = {
        Operation("convolution", 3, 16, 32): math.log(9 * 16),
        Operation("convolution", 1, 8, 32): math.log(8),
        Operation("pooling", 3, 16, 8): -2 * (3 - 2) * (8 + 8) / 64,
        Operation("pooling", 5, 16, 4): -1.0,  # the bound is 3, and a probability at most 1
        Operation("pooling", 2, 16, 8): 0.0,
        Operation("skip", 1, 16, 8, summed=True): 1.0,
        Operation("skip", 1, 16, 8, summed=False): 0.0,
    }
    counts = [2.0, 3.0, 5.0, 7.0, 11.0, 13.0, 17.0]
    for part in ("all", "convolution", "pooling", "skip"):
        expected = sum(
            count * term
            for count, (operation, term) in zip(counts, terms.items(), strict=True)
            if part in ("all", operation.kind)
        )
        assert sed(tuple(terms), counts, part).score == near(expected)


def test_sed_of_a_cell(make_subject):
    """The cell of five operations stands five times in each of three stages."""
    cell = "|nor_conv_3x3~0|+|skip_connect~0|avg_pool_3x3~1|+|none~0|nor_conv_1x1~1|skip_connect~2|"
    operations, counts = NasBench201().operations([cell], 32)
    expected = 0.0
    for channels, side in ((16, 32), (32, 16), (64, 8)):
        expected += 5 * (math.log(9 * channels) + math.log(channels) - 4 / side + 2)
    assert sed(operations, counts[0]).score == near(expected)
    (result,) = score_subject(make_subject("chain"), [get_proxy("sed")]).values()
    assert result.score is None  # a network of no space has no operations to read


# All of them ----------------------------------------------------------------------------------------------


#: What a small network without attention gives no score to: these need attention, an encoding or channels.
NEEDY = {
    *("dss", "auto_prox_a", "head_confidence", "token_entropy", "min_eigenvalue", "w_pca", "sed", "skip"),
    *("swap", "swap_reg", "meco_opt", "lswag"),
}


def test_no_score_depends_on_what_else_was_asked_for(make_subject):
    """Passes are shared: alone, in company, and in company the other way round, a proxy scores the same."""
    case = Case(make_subject, "staged", "default", size=4)
    proxies = []
    for name, cls in available().items():
        fields = {field.name for field in dataclasses.fields(cls)}
        images = 12 if name in ("swap", "swap_reg") else 4  # whose count few images bring to its ceiling
        wanted = {"batch_size": images, "dtype": "float64", "samples": 100, "resolution": 8}
        proxies.append(get_proxy(":".join([name, *(f"{k}={v}" for k, v in wanted.items() if k in fields)])))

    def scores(asked: list) -> dict[str, tuple[str, object]]:
        found = score_subject(case.make(), asked)
        return {label: (r.status, r.score and near(r.score)) for label, r in found.items()}

    alone = {label: row for proxy in proxies for label, row in scores([proxy]).items()}
    failed = {label for label, (status, _) in alone.items() if status != "ok"}
    names = {label.partition(":")[0] for label in failed}
    assert names <= NEEDY
    for company in (proxies, proxies[::-1]):
        found = score_subject(case.make(), company)
        assert {label: (r.status, r.score) for label, r in found.items()} == alone


def test_every_registered_proxy_is_worked_out_by_hand():
    """Here or in the files that this imports."""
    import tests.test_attention_layers
    import tests.test_newer_proxies_by_hand  # noqa: F401

    own = {name for name, cls in available().items() if cls.__module__.startswith("harness.")}
    missing = sorted(own - COVERED - EXCLUDED)
    assert not missing, f"no test here works out {', '.join(missing)}"
    assert not EXCLUDED & COVERED
    assert own >= COVERED | EXCLUDED, "a name that is tested here is registered no more"


def test_a_tensor_written_in_place_is_read_anew():
    """A residual sum in place leaves the tensor that a ReLU read before the object that another reads after."""
    import torch

    from harness.probes.base import OncePerTensor

    calls = []
    once = OncePerTensor(lambda tensor: calls.append(1) or float(tensor.sum()))
    values = torch.ones(3)
    assert (once(values), once(values), len(calls)) == (3.0, 3.0, 1)
    values += 1
    assert (once(values), len(calls)) == (6.0, 2)
    assert once(values.clone()) == 6.0
    assert len(calls) == 3
