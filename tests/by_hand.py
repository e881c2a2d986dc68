"""The reference that proxies are worked out with by hand, apart from the harness: `test_…_by_hand.py` use it.

Numpy in double precision: a forward pass that remembers its steps, and the adjoint of each step written out. It shares
nothing with the harness but the initial weights and the mini-batches.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import pytest
from torch import nn

from harness.engine.scorer import Result, score_subject
from harness.proxies import get_proxy

EPS = 1e-5  # of BatchNorm
COVERED: set[str] = set()


def by_hand(*names: str) -> Callable[[Callable], Callable]:
    """Marks the test that works out the proxies of these names."""

    def mark(test: Callable) -> Callable:
        COVERED.update(names)
        return test

    return mark


# The layers and their adjoints ----------------------------------------------------------------------------


def conv_windows(x, kernel, stride, padding, dilation) -> Iterator[tuple[int, int, np.ndarray, tuple]]:
    """Each kernel position (i, j) with what it sees of the padded images, and where in them it looks."""
    (kh, kw), (sh, sw), (ph, pw), (dh, dw) = kernel, stride, padding, dilation
    padded = np.pad(x, ((0, 0), (0, 0), (ph, ph), (pw, pw)))
    height = (padded.shape[2] - dh * (kh - 1) - 1) // sh + 1
    width = (padded.shape[3] - dw * (kw - 1) - 1) // sw + 1
    for i in range(kh):
        for j in range(kw):
            rows = slice(i * dh, i * dh + (height - 1) * sh + 1, sh)
            columns = slice(j * dw, j * dw + (width - 1) * sw + 1, sw)
            yield i, j, padded[:, :, rows, columns], (rows, columns)


def conv_forward(x, w, stride, padding, dilation, groups) -> np.ndarray:
    """Cross-correlation, kernel position by kernel position."""
    per_in, per_out = x.shape[1] // groups, len(w) // groups
    y = 0
    for i, j, seen, _ in conv_windows(x, w.shape[2:], stride, padding, dilation):
        parts = [
            np.einsum(
                "nchw,oc->nohw",
                seen[:, g * per_in : (g + 1) * per_in],
                w[g * per_out : (g + 1) * per_out, :, i, j],
            )
            for g in range(groups)
        ]
        y = y + np.concatenate(parts, axis=1)
    return y


def conv_backward(grad, x, w, stride, padding, dilation, groups) -> tuple[np.ndarray, np.ndarray]:
    """Gradients of the images and of the weights from that of the output."""
    per_in, per_out = x.shape[1] // groups, len(w) // groups
    (ph, pw), (height, width) = padding, x.shape[2:]
    spread = np.zeros((*x.shape[:2], height + 2 * ph, width + 2 * pw), dtype=grad.dtype)
    dw = np.zeros(w.shape, dtype=grad.dtype)
    for i, j, seen, (rows, columns) in conv_windows(x, w.shape[2:], stride, padding, dilation):
        for g in range(groups):
            ins, outs = slice(g * per_in, (g + 1) * per_in), slice(g * per_out, (g + 1) * per_out)
            dw[outs, :, i, j] = np.einsum("nohw,nchw->oc", grad[:, outs], seen[:, ins])
            spread[:, ins, rows, columns] += np.einsum("nohw,oc->nchw", grad[:, outs], w[outs, :, i, j])
    return spread[:, :, ph : ph + height, pw : pw + width], dw


def over_channels(values, x) -> np.ndarray:
    """(C,) in the shape that goes with (B, C, …)."""
    return values.reshape(1, -1, *[1] * (x.ndim - 2))


def batch_norm_train(x, scale, shift) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Output, normalised input and standard deviation, on the statistics of the mini-batch."""
    axes = (0, *range(2, x.ndim))
    centred = x - x.mean(axis=axes, keepdims=True)
    deviation = np.sqrt((centred**2).mean(axis=axes, keepdims=True) + EPS)
    normal = centred / deviation
    return over_channels(scale, x) * normal + over_channels(shift, x), normal, deviation


def batch_norm_train_backward(grad, normal, deviation, scale) -> np.ndarray:
    """Mean and deviation depend on every image, so each pulls the gradient's mean and its slope out."""
    axes = (0, *range(2, grad.ndim))
    mean, slope = (values.mean(axis=axes, keepdims=True) for values in (grad, grad * normal))
    return over_channels(scale, grad) / deviation * (grad - mean - normal * slope)


def cross_entropy(logits, labels) -> tuple[complex | float, np.ndarray]:
    """Mean over images, and its gradient: (softmax - one hot) / B."""
    rows = np.arange(len(labels))
    shifted = logits - logits.real.max(axis=1, keepdims=True)
    p = np.exp(shifted)
    p = p / p.sum(axis=1, keepdims=True)
    loss = -np.log(p[rows, labels]).mean()
    grad = p.copy()
    grad[rows, labels] -= 1
    return loss, grad / len(labels)


class Node:
    """A value of the forward pass and the gradient that has arrived at it."""

    def __init__(self, value: np.ndarray):
        self.value = value
        self.grad = np.zeros_like(value)


class Tape:
    """A forward pass that can be gone back along, any number of times.

    `norm` is what BatchNorm does: `batch` statistics, `running` ones, or nothing (`off`). All steps are
    analytic functions off the kinks of ReLU, so that they serve complex weights too: the imaginary part of a
    gradient at w + i h v, over h, is the Hessian times v without a difference's cancellation.
    """

    def __init__(self, weights: dict[str, np.ndarray], norm: str = "batch"):
        self.weights, self.mode = weights, norm
        self.nodes: list[Node] = []
        self.steps: list[Callable[[], None]] = []
        self.calls: list[tuple[str, str, Node, Node]] = []  # kind, name, what it reads, what it gives
        self.variances: dict[str, np.ndarray] = {}  # of BatchNorm's input, unbiased
        self.gradients: dict[str, np.ndarray] = {}
        self.input: Node
        self.logits: Node
        self.pooled: Node  # the map that the mean over positions is taken of

    def node(self, value: np.ndarray) -> Node:
        self.nodes.append(Node(value))
        return self.nodes[-1]

    def give(self, name: str, gradient: np.ndarray) -> None:
        self.gradients[name] = self.gradients.get(name, 0) + gradient

    def conv(self, name, x, stride=(1, 1), padding=(0, 0), dilation=(1, 1), groups=1) -> Node:
        w, b = self.weights[f"{name}.weight"], self.weights.get(f"{name}.bias")
        geometry = (stride, padding, dilation, groups)
        value = conv_forward(x.value, w, *geometry)
        y = self.node(value if b is None else value + over_channels(b, value))

        def back() -> None:
            dx, dw = conv_backward(y.grad, x.value, w, *geometry)
            x.grad = x.grad + dx
            self.give(f"{name}.weight", dw)
            if b is not None:
                self.give(f"{name}.bias", y.grad.sum(axis=(0, 2, 3)))

        return self._did("layer", name, x, y, back)

    def linear(self, name, x) -> Node:
        w, b = self.weights[f"{name}.weight"], self.weights[f"{name}.bias"]
        y = self.node(x.value @ w.T + b)

        def back() -> None:
            x.grad = x.grad + y.grad @ w
            self.give(f"{name}.weight", y.grad.T @ x.value)
            self.give(f"{name}.bias", y.grad.sum(axis=0))

        return self._did("layer", name, x, y, back)

    def norm(self, name, x) -> Node:
        if self.mode == "off":
            return x
        scale, shift = self.weights[f"{name}.weight"], self.weights[f"{name}.bias"]
        axes = (0, *range(2, x.value.ndim))
        if self.mode == "batch":
            value, normal, deviation = batch_norm_train(x.value, scale, shift)
            if x.value.dtype != complex:
                self.variances[name] = x.value.var(axis=axes, ddof=1)
        else:
            mean = over_channels(self.weights[f"{name}.running_mean"], x.value)
            variance = over_channels(self.weights[f"{name}.running_var"], x.value)
            deviation = np.sqrt(variance + EPS)
            normal = (x.value - mean) / deviation
            value = over_channels(scale, x.value) * normal + over_channels(shift, x.value)
        y = self.node(value)

        def back() -> None:
            if self.mode == "batch":
                x.grad = x.grad + batch_norm_train_backward(y.grad, normal, deviation, scale)
            else:
                x.grad = x.grad + y.grad * over_channels(scale, y.grad) / deviation
            self.give(f"{name}.weight", (y.grad * normal).sum(axis=axes))
            self.give(f"{name}.bias", y.grad.sum(axis=axes))

        return self._did("norm", name, x, y, back)

    def relu(self, name, x) -> Node:
        active = x.value.real > 0
        y = self.node(x.value * active)

        def back() -> None:
            x.grad = x.grad + y.grad * active

        return self._did("relu", name, x, y, back)

    def add(self, a, b) -> Node:
        y = self.node(a.value + b.value)

        def back() -> None:
            a.grad = a.grad + y.grad
            b.grad = b.grad + y.grad

        return self._did("add", "", a, y, back)

    def mean(self, x) -> Node:
        """The mean over positions."""
        self.pooled = x
        y = self.node(x.value.mean(axis=(2, 3)))
        positions = x.value.shape[2] * x.value.shape[3]

        def back() -> None:
            x.grad = x.grad + y.grad[:, :, None, None] / positions

        return self._did("pool", "", x, y, back)

    def _did(self, kind, name, x, y, back) -> Node:
        self.calls.append((kind, name, x, y))
        self.steps.append(back)
        return y

    def back(self, seed: np.ndarray, start: Node | None = None) -> dict[str, np.ndarray]:
        """Gradients of the inner product of `seed` with the logits (or with `start`), by parameter."""
        for node in self.nodes:
            node.grad = np.zeros_like(node.value)
        self.gradients = {}
        (start or self.logits).grad = seed
        for step in reversed(self.steps):
            step()
        return self.gradients

    def read(self, kind: str) -> dict[str, list[np.ndarray]]:
        """What the modules of a kind read, call by call."""
        return self._values(kind, 2)

    def gave(self, kind: str) -> dict[str, list[np.ndarray]]:
        """What the modules of a kind gave, call by call."""
        return self._values(kind, 3)

    def _values(self, kind: str, place: int) -> dict[str, list[np.ndarray]]:
        values: dict[str, list[np.ndarray]] = {}
        for call in self.calls:
            if call[0] == kind:
                values.setdefault(call[1], []).append(call[place].value)
        return values


# The tiny networks once more, by hand ---------------------------------------------------------------------


def chain(t: Tape, x: Node) -> Node:
    x = t.relu("first.2", t.norm("first.1", t.conv("first.0", x, padding=(1, 1))))
    x = t.relu("second.2", t.norm("second.1", t.conv("second.0", x)))
    return t.linear("head", t.mean(x))


def staged(t: Tape, x: Node) -> Node:
    x = t.norm("stem.1", t.conv("stem.0", x, padding=(1, 1)))
    x = t.norm("cell.2", t.conv("cell.1", t.relu("cell.0", x), padding=(1, 1)))
    x = t.norm("down.2", t.conv("down.1", t.relu("down.0", x), stride=(2, 2), padding=(1, 1)))
    return t.linear("head", t.mean(t.relu("last", x)))


def strided(t: Tape, x: Node) -> Node:
    x = t.relu("relu", t.conv("conv", x, stride=(2, 1), padding=(1, 0)))
    x = t.conv("grouped", x, padding=(2, 2), dilation=(2, 2), groups=2)
    return t.linear("head", t.mean(t.relu("last", t.norm("norm", x))))


def mlp(t: Tape, x: Node) -> Node:
    x = t.node(x.value.reshape(len(x.value), -1))
    t.input = x
    x = t.relu("one", t.linear("first", x))
    return t.linear("head", t.relu("two", t.linear("second", x)))


def loose(t: Tape, x: Node) -> Node:
    x = t.relu("relu1", t.norm("norm1", t.conv("conv1", x, padding=(1, 1))))
    t.conv("dropped", x)
    nothing = t.norm("starved_norm", t.conv("starved", t.node(np.zeros_like(x.value))))
    x = t.relu("relu2", t.add(t.norm("norm2", t.conv("conv2", x)), nothing))
    return t.linear("head", t.mean(x))


def residual(t: Tape, x: Node) -> Node:
    x = t.relu("act", t.norm("norm1", t.conv("conv1", x, padding=(1, 1))))
    x = t.relu("act", t.add(t.norm("norm2", t.conv("conv2", x, padding=(1, 1))), x))
    return t.linear("head", t.mean(x))


def shared(t: Tape, x: Node) -> Node:
    x = t.relu("act", t.norm("norm1", t.conv("conv1", x, padding=(1, 1))))
    x = t.relu("act", t.norm("norm2", t.conv("conv2", x, padding=(1, 1))))
    x = t.relu("act", t.norm("norm3", t.conv("conv2", x, padding=(1, 1))))
    return t.linear("head", t.mean(x))


def preactivation(t: Tape, x: Node) -> Node:
    x = t.relu("relu1", t.norm("norm1", t.conv("conv1", x, padding=(1, 1))))
    x = t.add(x, t.conv("conv2", t.relu("relu2", t.norm("norm2", x)), padding=(1, 1)))
    return t.linear("head", t.mean(x))


PROGRAMS = {f.__name__: f for f in (chain, staged, strided, mlp, loose, residual, shared, preactivation)}

#: Convolutions and linear layers, in the order of the modules.
LAYERS = {
    "chain": ("first.0", "second.0", "head"),
    "staged": ("stem.0", "cell.1", "down.1", "head"),
    "strided": ("conv", "grouped", "head"),
    "mlp": ("first", "second", "head"),
    "loose": ("spare.0", "conv1", "dropped", "starved", "conv2", "head"),
    "residual": ("conv1", "conv2", "head"),
    "shared": ("conv1", "conv2", "head"),
    "preactivation": ("conv1", "conv2", "head"),
    "transformer": ("embed", "attention.qkv", "attention.proj", "up", "down", "head"),
}

#: The ReLU whose output a layer reads directly.
FEEDING = {
    "chain": {"second.0": "first.2"},
    "staged": {"cell.1": "cell.0", "down.1": "down.0"},
    "strided": {"grouped": "relu"},
    "mlp": {"second": "one", "head": "two"},
    "loose": {"dropped": "relu1", "conv2": "relu1"},
    "residual": {"conv2": "act"},
    "shared": {"conv2": "act"},
    "preactivation": {"conv2": "relu2"},
}

NORMS = {
    "chain": ("first.1", "second.1"),
    "staged": ("stem.1", "cell.2", "down.2"),
    "strided": ("norm",),
    "mlp": (),
    "loose": ("norm1", "starved_norm", "norm2"),
    "residual": ("norm1", "norm2"),
    "shared": ("norm1", "norm2", "norm3"),
    "preactivation": ("norm1", "norm2"),
}


def forward(name: str, weights: dict[str, np.ndarray], images: np.ndarray, norm: str = "batch") -> Tape:
    tape = Tape(weights, norm)
    tape.input = tape.node(images)
    tape.logits = PROGRAMS[name](tape, tape.input)
    return tape


def loss_gradients(name, weights, images, labels) -> dict[str, np.ndarray]:
    """Gradients of the mean cross-entropy; a layer that none reaches has zeros."""
    tape = forward(name, weights, images)
    _, seed = cross_entropy(tape.logits.value, labels)
    found = tape.back(seed)
    return {key: found.get(key, np.zeros_like(weights[key])) for key in weights if "running" not in key}


class Case:
    """One tiny network as a subject, with the weights and mini-batches that a pass over it will see.

    Scheme `kept` scores weights, BatchNorm parameters and running statistics that no initialisation gives.
    """

    def __init__(self, make_subject: Callable, name: str, scheme: str, size: int = 6, **options):
        self.make = lambda: make_subject(name, keep_weights=scheme == "kept", **options)
        self.name, self.scheme, self.size = name, scheme, size
        self.subject = self.make()
        self.layers = LAYERS[name]

    def weights(self, repeat: int = 0, scheme: str | None = None) -> dict[str, np.ndarray]:
        subject = self.make()
        subject.initialise(scheme or self.init, repeat, "float64")
        held = subject.network.state_dict()
        return {key: v.numpy().copy() for key, v in held.items() if "num_batches" not in key}

    def batch(self, number: int = 0, size: int | None = None) -> tuple[np.ndarray, np.ndarray]:
        images, labels = self.subject.batch(number, size or self.size)
        return images.double().numpy(), labels.numpy()

    @property
    def init(self) -> str:
        return "kaiming_fan_in" if self.scheme == "kept" else self.scheme

    def spec(self, proxy: str, **settings) -> str:
        settings = {"init": self.init, "batch_size": self.size, "dtype": "float64"} | settings
        pairs = (f":{key}={value}" for key, value in settings.items() if value is not None)
        return proxy + "".join(pairs)

    def result(self, proxy: str, **settings) -> Result:
        (result,) = score_subject(self.subject, [get_proxy(self.spec(proxy, **settings))]).values()
        return result

    def score(self, proxy: str, **settings) -> float:
        result = self.result(proxy, **settings)
        assert result.status == "ok"
        return result.score

    def gradients(self, number: int = 0) -> dict[str, np.ndarray]:
        return loss_gradients(self.name, self.weights(), *self.batch(number))

    def forward(self) -> Tape:
        return forward(self.name, self.weights(), self.batch()[0])


def near(value: float) -> object:
    return pytest.approx(value, rel=1e-6, abs=1e-12)


#: Network, scheme, mini-batch. The layers of the `mlp` have too few units to tell six images apart.
CASES = [
    ("chain", "kaiming_fan_in", 6),
    ("chain", "kept", 6),
    ("staged", "kaiming_fan_out", 6),
    ("strided", "default", 6),
    ("strided", "kept", 6),
    ("mlp", "default", 3),
    ("loose", "kaiming_fan_in", 6),
    ("residual", "xavier", 6),
    ("shared", "default", 6),
    ("preactivation", "kaiming_fan_in", 6),
]


@contextmanager
def inputs_of(network: nn.Module) -> Iterator[list[np.ndarray]]:
    """The image batches that come in at the network's door."""
    seen: list[np.ndarray] = []

    def keep(module, args) -> None:
        seen.append(args[0].detach().double().numpy().copy())

    handle = network.register_forward_pre_hook(keep)
    try:
        yield seen
    finally:
        handle.remove()
