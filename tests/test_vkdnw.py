"""VKDNW with many classes: as few backward passes as the last linear layer allows, and the sketch of its information.

The reference is torch's own vmap(jacrev) over whole networks, and an information summed image by image.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call, jacrev, vmap

from harness.benchmarks.benchmark import load_benchmark
from harness.engine.scorer import score_subject
from harness.errors import HarnessError
from harness.probes import jacobian as jacobians
from harness.probes.base import Subject
from harness.probes.fisher import FisherSketch, fisher_factor
from harness.probes.jacobian import WeightJacobian, jacobian_of
from harness.proxies import get_proxy
from harness.proxies.jacobian import information_spectrum

#: Of the tiny networks below: features that their last layer reads.
FEATURES = 5


class Trunk(nn.Module):
    """Features (B, 5) of images, and a linear layer that each network below makes something else of."""

    shape = (3, 6, 6)

    def __init__(self, classes: int, bias: bool = True):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, 4, 3, padding=1, bias=False),
            nn.BatchNorm2d(4),
            nn.ReLU(),
            nn.Conv2d(4, FEATURES, 3),
            nn.ReLU(),
        )
        self.head = nn.Linear(FEATURES, classes, bias=bias)

    def features(self, x):
        return self.body(x).mean(dim=(2, 3))

    def forward(self, x):
        return self.head(self.features(x))


class NoBias(Trunk):
    def __init__(self, classes: int):
        super().__init__(classes, bias=False)


class HeadThenIdentity(Trunk):
    def forward(self, x):
        return nn.Identity()(super().forward(x))


class CalledByKeyword(Trunk):
    def forward(self, x):
        return self.head(input=self.features(x))


class Scaled(Trunk):
    def forward(self, x):
        return 2 * super().forward(x)


class ScaledInPlace(Trunk):
    def forward(self, x):
        return super().forward(x).mul_(2)


class LearnedScale(Trunk):
    def __init__(self, classes: int):
        super().__init__(classes)
        self.scale = nn.Parameter(torch.tensor([1.5]))

    def forward(self, x):
        return self.scale * super().forward(x)


class ScaledByAHook(Trunk):
    def __init__(self, classes: int):
        super().__init__(classes)
        self.head.register_forward_hook(lambda module, args, output: 3 * output)


class FeaturesTurnedInPlace(Trunk):
    """The features that the layer has read are not those that the tensor holds afterwards.

    torch refuses the gradient of the layer's weight; that of `Trunk` is the same.
    """

    alike = Trunk

    def forward(self, x):
        x = self.features(x)
        logits = self.head(x)
        x.square_()
        return logits


class TwoCalls(Trunk):
    def forward(self, x):
        x = self.features(x)
        return self.head(x + self.head(x).mean(dim=1, keepdim=True))


class TwoCallsSummed(Trunk):
    def forward(self, x):
        x = self.features(x)
        return self.head(x) + self.head(x.square())


class WeightReadElsewhere(Trunk):
    def forward(self, x):
        x = self.features(x)
        return self.head(x + F.linear(x, self.head.weight).relu() @ self.head.weight)


class TiedLayers(Trunk):
    def __init__(self, classes: int):
        super().__init__(classes)
        self.first = nn.Linear(FEATURES, classes)
        self.first.weight = self.head.weight

    def forward(self, x):
        x = self.features(x)
        return self.head(x * self.first(x).sigmoid().mean(dim=1, keepdim=True))


class Tokens(Trunk):
    """The layer reads the positions, whose logits are averaged."""

    def forward(self, x):
        return self.head(self.body(x).flatten(2).transpose(1, 2)).mean(dim=1)


class LayerAfterwards(Trunk):
    """Another layer is called after the one that gives the logits."""

    def __init__(self, classes: int):
        super().__init__(classes)
        self.other = nn.Linear(FEATURES, 2)

    def forward(self, x):
        x = self.features(x)
        logits = self.head(x)
        self.other(x)
        return logits


class NormalisedWeight(nn.Linear):
    def forward(self, x):
        return F.linear(x, F.normalize(self.weight), self.bias)


class HeadOfItsOwn(Trunk):
    def __init__(self, classes: int):
        super().__init__(classes)
        self.head = NormalisedWeight(FEATURES, classes)


class Parametrized(Trunk):
    def __init__(self, classes: int):
        super().__init__(classes)
        nn.utils.parametrizations.weight_norm(self.head)


class Convolutional(Trunk):
    def __init__(self, classes: int):
        super().__init__(classes)
        self.head = nn.Conv2d(FEATURES, classes, 1)

    def forward(self, x):
        return self.head(self.body(x)).mean(dim=(2, 3))


class StandardisedConvolution(nn.Conv2d):
    def forward(self, x):
        weight = self.weight - self.weight.mean(dim=(1, 2, 3), keepdim=True)
        return F.conv2d(x, weight, self.bias, self.stride, self.padding)


class LayersOfTheirOwn(Trunk):
    def __init__(self, classes: int):
        super().__init__(classes)
        self.body[0] = StandardisedConvolution(3, 4, 3, padding=1)


class Single(Trunk):
    """Nothing lies below the layer: the mean colours are its features."""

    def __init__(self, classes: int):
        super().__init__(classes)
        self.body = nn.Identity()
        self.head = nn.Linear(3, classes)


#: Networks that end in a plain linear layer, and those that do not end in one alone.
ENDING = (Trunk, NoBias, HeadThenIdentity, LayersOfTheirOwn)
OTHERS = (
    *(
        CalledByKeyword,
        Scaled,
        ScaledInPlace,
        LearnedScale,
        ScaledByAHook,
        FeaturesTurnedInPlace,
        TwoCalls,
        TwoCallsSummed,
    ),
    *(WeightReadElsewhere, TiedLayers, Tokens, LayerAfterwards, HeadOfItsOwn, Parametrized, Convolutional),
)


def drawn(network: nn.Module) -> nn.Module:
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for value in network.state_dict().values():
            if value.is_floating_point():
                value.uniform_(0.2, 0.9, generator=generator)
                if value.ndim > 1:
                    value.sub_(0.5)
    return network


@pytest.fixture
def subject_of(make_subject) -> Callable[..., Subject]:
    """A subject of one of the networks above with weights that no initialisation gives."""
    return lambda kind, classes, **options: make_subject(
        drawn(kind(classes)), kind.shape, classes, restore=False, **options
    )


def seen_of(probe, subject: Subject, tensors: int = 128) -> dict[str, np.ndarray]:
    subject.keep_weights = True
    found = probe.run(subject, frozenset({jacobian_of(tensors), "probabilities", "rows"}))
    return {"jacobian" if name == jacobian_of(tensors) else name: value for name, value in found.items()}


def whole_jacobian(network: nn.Module, images: torch.Tensor, tensors: int = 128, weights: int = 1) -> np.ndarray:
    """(B, K, p) of all parameters by torch, of which `weights` elements from the first to the last are kept."""
    network = network.double().eval()
    parameters = {name: value.detach() for name, value in network.named_parameters()}

    def logits(changed, image):
        return functional_call(network, changed, (image[None],))[0]

    found = vmap(jacrev(logits), in_dims=(None, 0))(parameters, images.double())
    kept = []
    for rows in (found[name].flatten(2) for name in list(parameters)[:tensors]):
        places = np.unique(np.linspace(0, rows.shape[2] - 1, weights).astype(int))
        kept.append(rows[:, :, places])
    return torch.cat(kept, dim=2).numpy()


@pytest.fixture
def passes(monkeypatch) -> list[int]:
    """The sizes of the batches that backward passes of the closed forms ran on."""
    found: list[int] = []
    grad = torch.autograd.grad

    def counted(outputs, *args, **kwargs):
        # Those of vmap(jacrev) have it; one image at a time gives single logits.
        if "create_graph" not in kwargs and outputs.ndim:
            found.append(len(outputs))
        return grad(outputs, *args, **kwargs)

    monkeypatch.setattr(torch.autograd, "grad", counted)
    return found


# The exact Jacobian ---------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:There is a performance drop")  # of weight_norm under vmap
@pytest.mark.parametrize("tensors", [1, 3, 128])
@pytest.mark.parametrize("classes", [2, FEATURES, FEATURES + 1, 12])
@pytest.mark.parametrize("kind", [*ENDING, *OTHERS, Single])
def test_the_jacobian_of_any_network(subject_of, passes, kind, classes, tensors):
    """The passes are as many as features where a plain linear layer ends the network, else as many as classes."""
    subject = subject_of(kind, classes)
    images = subject.images(4)[0]
    found = seen_of(WeightJacobian(batch_size=4, dtype="float64"), subject, tensors)
    closed = len(passes)
    expected = whole_jacobian(drawn(getattr(kind, "alike", kind)(classes)), images, tensors)
    assert found["jacobian"] == pytest.approx(expected, rel=1e-9, abs=1e-12)
    assert found["jacobian"].any()
    if kind in ENDING and kind is not LayersOfTheirOwn:
        assert closed == min(classes, FEATURES)
    elif kind in OTHERS:
        assert closed <= classes


@pytest.mark.filterwarnings("ignore:There is a performance drop")
@pytest.mark.parametrize("weights", [2, 5, 100])
@pytest.mark.parametrize("classes", [3, 12])
@pytest.mark.parametrize("kind", [*ENDING, *OTHERS, Single])
def test_the_jacobian_by_several_weights_of_a_tensor(subject_of, kind, classes, weights):
    """Evenly spaced from the first entry to the last; a tensor of fewer entries gives each of them once."""
    subject = subject_of(kind, classes)
    images = subject.images(4)[0]
    found = seen_of(WeightJacobian(batch_size=4, dtype="float64", weights=weights), subject)["jacobian"]
    expected = whole_jacobian(drawn(getattr(kind, "alike", kind)(classes)), images, weights=weights)
    assert found == pytest.approx(expected, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize(("options", "groups"), [({}, 1), ({"stride": 2}, 2), ({"dilation": 2, "padding": (2, 1)}, 4)])
def test_every_weight_of_a_convolution(make_subject, options, groups):
    layer = nn.Conv2d(4, 8, (3, 2), groups=groups, **options)
    network = nn.Sequential(layer, nn.Tanh(), nn.Flatten(), nn.LazyLinear(3))
    network(torch.zeros(1, 4, 7, 7))
    subject = make_subject(drawn(network), (4, 7, 7), 3, restore=False)
    images = subject.images(2)[0]
    weights = layer.weight.numel()
    found = seen_of(WeightJacobian(batch_size=2, dtype="float64", weights=weights), subject, 1)["jacobian"]
    assert found.shape == (2, 3, weights)
    assert found == pytest.approx(whole_jacobian(network, images, 1, weights), rel=1e-9, abs=1e-12)


class Gate(nn.Module):
    """A linear layer whose weight is a vector, which gives one number an image."""

    def __init__(self):
        super().__init__()
        self.gate, self.fc = nn.Parameter(torch.randn(12)), nn.Linear(12, 3)

    def forward(self, x):
        x = x.flatten(1)
        return self.fc(x * F.linear(x, self.gate)[:, None])


@pytest.mark.parametrize("weights", [1, 4])
def test_a_weight_that_is_a_vector(make_subject, weights):
    network = drawn(Gate())
    subject = make_subject(network, (3, 2, 2), 3, restore=False)
    images = subject.images(4)[0]
    found = seen_of(WeightJacobian(batch_size=4, dtype="float64", weights=weights), subject)["jacobian"]
    assert found == pytest.approx(whole_jacobian(network, images, weights=weights), rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("weights", [1, 3])
def test_the_sketch_reads_the_same_weights(subject_of, weights):
    """As many rows as classes make the sketch exact."""
    subject = subject_of(Trunk, 3)
    probe = FisherSketch(batch_size=4, dtype="float64", rows=3, weights=weights)
    seen = seen_of(WeightJacobian(batch_size=4, dtype="float64", weights=weights), subject)
    sketched = information_spectrum(seen_of(probe, subject)["rows"])
    assert sketched == pytest.approx(np.linalg.eigvalsh(exact_information(seen, "paper"))[::-1], abs=1e-9)


@pytest.mark.parametrize("kind", [Trunk, NoBias, WeightReadElsewhere, TiedLayers, Parametrized])
@pytest.mark.parametrize("classes", [3, 12])
def test_one_pass_serves_every_number_of_tensors(subject_of, passes, kind, classes):
    """Bit for bit what each has by itself: a score is not to depend on what else was asked for."""
    counts = (1, 2, 4, 128)
    apart = [seen_of(WeightJacobian(batch_size=4), subject_of(kind, classes), count)["jacobian"] for count in counts]
    once = len(passes) // len(counts)
    passes.clear()
    subject = subject_of(kind, classes)
    subject.keep_weights = True
    found = WeightJacobian(batch_size=4).run(subject, frozenset(map(jacobian_of, counts)))
    assert len(passes) == once
    for count, expected in zip(counts, apart, strict=True):
        assert np.array_equal(found[jacobian_of(count)], expected)
    assert {found[jacobian_of(count)].shape[2] for count in counts[:3]} == {1, 2, 4}


@pytest.fixture
def parts_of(monkeypatch) -> Callable[[int], None]:
    """Sets how many images go together."""
    return lambda count: monkeypatch.setattr(jacobians, "_images_at_once", lambda images: count)


def test_passes_go_over_parts_of_the_batch(subject_of, passes, parts_of):
    parts_of(3)
    subject = subject_of(Trunk, 9)
    images = subject.images(8)[0]
    found = seen_of(WeightJacobian(batch_size=8, dtype="float64"), subject)["jacobian"]
    assert passes == [3] * FEATURES + [3] * FEATURES + [2] * FEATURES
    assert found == pytest.approx(whole_jacobian(drawn(Trunk(9)), images), rel=1e-9, abs=1e-12)


@pytest.mark.parametrize(("side", "count"), [(64, 32), (32, 32), (16, 128), (8, 512)])
def test_small_images_go_more_together(side, count):
    assert jacobians._images_at_once(torch.zeros(1, 3, side, side)) == count


def test_the_head_of_a_module_list_is_found_by_what_is_called(make_subject, passes):
    """Not by its place: here it is declared first."""

    class First(nn.Module):
        shape = (3, 6, 6)

        def __init__(self):
            super().__init__()
            self.heads = nn.ModuleList([nn.Linear(4, 7), nn.Linear(4, 9)])
            self.body = nn.Conv2d(3, 4, 3)

        def forward(self, x):
            return self.heads[0](self.body(x).relu().mean(dim=(2, 3)))

    subject = make_subject(drawn(First()), classes=7)
    images = subject.images(4)[0]
    found = seen_of(WeightJacobian(batch_size=4, dtype="float64"), subject)["jacobian"]
    assert len(passes) == 4
    assert found == pytest.approx(whole_jacobian(drawn(First()), images), rel=1e-9, abs=1e-12)


@pytest.mark.parametrize(
    ("name", "thin"),
    [
        *(("nasbench201", False), ("darts_swap1000", True), ("nasbench101", True)),
        *(("transnas101_micro", True), ("macro", True)),
    ],
)
def test_scores_of_spaces_are_those_of_the_old_way(make_subject, monkeypatch, name, thin):
    """To 1e-6 in float32, with one pass a class instead of one a feature."""
    benchmark = load_benchmark(name)
    (index,) = benchmark.population("sample(1, seed=0)")
    architecture = benchmark.architectures[int(index)]
    classes = benchmark.space.build(architecture, 2, thin=thin).classifier.in_features + 6
    assert classes < 100
    network = benchmark.space.build(architecture, classes, thin=thin)
    proxies = [get_proxy(spec) for spec in ("vkdnw:batch_size=3", "vkdnw:batch_size=3:variant=repo")]
    found = []
    for head in (jacobians._linear_head, lambda *args: None):
        monkeypatch.setattr(jacobians, "_linear_head", head)
        results = score_subject(make_subject(network, (3, 8, 8), classes), proxies)
        assert {result.status for result in results.values()} == {"ok"}
        found.append([result.score for result in results.values()])
    assert min(found[1]) > 1e-3
    assert found[0] == pytest.approx(found[1], rel=1e-6)


# The sketch -----------------------------------------------------------------------------------------------


def information(rows: np.ndarray) -> np.ndarray:
    return sum(r.T @ r for r in rows) / len(rows)


def exact_information(seen: dict[str, np.ndarray], variant: str) -> np.ndarray:
    """Mean of J^T (diag(s) - s s^T) J, or of J^T L^T L J with L the Cholesky root."""
    found = 0
    for j, q in zip(seen["jacobian"], seen["probabilities"], strict=True):
        s = 0.95 * q + 0.05 / len(q)
        middle = np.diag(s) - np.outer(s, s)
        if variant == "repo":
            root = np.linalg.cholesky(middle + 1e-14 * np.eye(len(s)))
            middle = root.T @ root
        found = found + j.T @ middle @ j / len(seen["jacobian"])
    return found


@pytest.mark.parametrize("variant", ["paper", "repo"])
@pytest.mark.parametrize(("classes", "rows", "images"), [(8, 2, 12), (12, 3, 8), (9, 3, 6)])
def test_a_batch_of_one_image_is_exact(subject_of, variant, classes, rows, images):
    """Rows of orthogonal matrices: where they all come, as often as another, the sum is no estimate."""
    subject = subject_of(Trunk, classes)
    image = subject.images(1)[0]
    subject.batch = lambda number, size: (image.expand(size, -1, -1, -1), torch.zeros(size, dtype=torch.long))
    assert rows < FEATURES
    assert images * rows % classes == 0
    seen = seen_of(WeightJacobian(batch_size=images, dtype="float64"), subject)
    sketched = seen_of(FisherSketch(batch_size=images, dtype="float64", rows=rows, variant=variant), subject)["rows"]
    assert sketched.shape[:2] == (images, rows)
    assert not np.allclose(sketched[0], sketched[1])
    expected = exact_information(seen, variant)
    assert information(sketched) == pytest.approx(expected, rel=1e-5, abs=1e-8 * np.abs(expected).max())


@pytest.mark.parametrize("variant", ["paper", "repo"])
def test_the_mean_over_seeds_is_the_information(subject_of, variant):
    """Of images that differ, within four standard errors, which are a hundredth of the largest entry."""
    draws = []
    for seed in range(200):
        subject = subject_of(Trunk, 7, seed=seed)
        probe = FisherSketch(batch_size=5, dtype="float64", rows=2, variant=variant)
        draws.append(information(seen_of(probe, subject)["rows"]))
    expected = exact_information(seen_of(WeightJacobian(batch_size=5, dtype="float64"), subject), variant)
    error = np.std(draws, axis=0) / len(draws) ** 0.5
    assert error.max() < 0.03 * np.abs(expected).max()
    assert (np.abs(np.mean(draws, axis=0) - expected) <= 4 * error + 1e-9).all()


@pytest.mark.parametrize("variant", ["paper", "repo"])
@pytest.mark.parametrize(("kind", "classes"), [(Trunk, 3), (Trunk, 12), (Scaled, 3)])
def test_as_many_rows_as_the_jacobian_takes_are_exact(subject_of, passes, kind, classes, variant):
    needed = min(classes, FEATURES)
    for rows in (needed, needed + 1, 1000):
        subject = subject_of(kind, classes)
        sketched = seen_of(FisherSketch(batch_size=6, dtype="float64", rows=rows, variant=variant), subject)["rows"]
        assert len(passes) == needed
        passes.clear()
        seen = seen_of(WeightJacobian(batch_size=6, dtype="float64"), subject)
        passes.clear()
        expected = fisher_factor(seen["probabilities"], variant) @ seen["jacobian"]
        assert sketched == pytest.approx(expected, rel=1e-9, abs=1e-14)


@pytest.mark.parametrize("kind", [Trunk, LearnedScale, WeightReadElsewhere, TiedLayers, Parametrized, Single])
def test_rows_are_products_with_the_jacobian(subject_of, passes, parts_of, kind):
    """Of parameters that have no closed form too, and whatever part of the batch an image is in."""
    parts_of(4)
    subject = subject_of(kind, 9)
    probe = FisherSketch(batch_size=6, dtype="float64", rows=2)
    sketched = seen_of(probe, subject)["rows"]
    assert passes == [4, 4, 2, 2]
    seen = seen_of(WeightJacobian(batch_size=6, dtype="float64"), subject)
    rows = probe._directions(subject, 9).numpy() @ fisher_factor(seen["probabilities"], "paper") @ seen["jacobian"]
    assert sketched == pytest.approx(rows, rel=1e-9, abs=1e-12)


def test_draws_are_of_the_architecture_and_the_seed(subject_of):
    first, again, other = (
        seen_of(FisherSketch(batch_size=4, rows=2), subject_of(Trunk, 9, seed=seed))["rows"] for seed in (1, 1, 2)
    )
    assert np.array_equal(first, again)
    assert not np.allclose(first, other)


@pytest.mark.parametrize("name", ["vkdnw", "vkdnw_single", "vkdnw_decile"])
@pytest.mark.parametrize("variant", ["paper", "repo"])
def test_scores_of_the_sketch(subject_of, name, variant):
    """A setting of its own name, near the exact score and, with all rows, equal to it."""

    def score(**settings: int) -> float:
        spec = ":".join([name, f"variant={variant}", "batch_size=64", *(f"{k}={v}" for k, v in settings.items())])
        proxy = get_proxy(spec)
        probe, names = next(iter(proxy.needs().items()))
        subject = subject_of(Trunk, 12)
        subject.keep_weights = True
        seen = probe.run(subject, frozenset(names)) | {"trainable_layers": 3}
        return proxy.score(seen)

    exact = score()
    assert score(rows=5) == pytest.approx(exact, rel=1e-9)
    assert score(rows=3) != pytest.approx(exact, rel=1e-5)
    assert score(rows=3) == pytest.approx(exact, abs=0.3)
    assert get_proxy(f"{name}:rows=16").label == f"{name}:rows=16"
    assert get_proxy(f"{name}:rows=0").label == name


def test_rows_are_no_negative_number():
    with pytest.raises(HarnessError, match="rows=-1 must be at least 0"):
        get_proxy("vkdnw:rows=-1")
