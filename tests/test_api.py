"""Tests of `harness.score` on networks as people write them: residual, inverted residual and transformer."""

from __future__ import annotations

import math
import pickle
import random
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call, jacrev, vmap
from torchvision_beside_cpu import models_of

import harness
from harness.errors import HarnessError, UnknownNameError
from harness.proxies import available, get_proxy
from harness.spaces.nasbench201 import CONV1, CONV3, NONE, POOL, SKIP, NasBench201, encode


def every(resolution: int) -> list[str]:
    """All proxies, those that make images of a side of their own with one that fits the network."""
    own = {
        "dextr": f":resolution={resolution}",
        "knas": ":entries=8:minibatches=4",
        "meco": f":resolution={resolution}",
        "meco_opt": f":channels=4:resolution={resolution}",
        "nregions": f":samples=60:resolution={resolution}",
        "swap_reg": ":mu=1.0:sigma=100.0",
    }
    return [name + own.get(name, "") for name in sorted(available())]


class BasicBlock(nn.Module):
    """Two 3x3 convolutions; the shortcut is added in place, and one in-place ReLU serves twice."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.downsample = None
        if stride != 1 or inputs != outputs:
            self.downsample = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        identity = x if self.downsample is None else self.downsample(x)
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        out += identity
        return self.relu(out)


class ResNet(nn.Module):
    """Stem with pooling, three layers of basic blocks, pooling, linear layer."""

    def __init__(self, classes: int = 3, blocks: int = 1, widths: tuple[int, ...] = (4, 6, 8)):
        super().__init__()
        self.conv1 = nn.Conv2d(3, widths[0], 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(widths[0])
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        layers, before = [], widths[0]
        for place, width in enumerate(widths):
            strides = [1 if place == 0 else 2] + [1] * (blocks - 1)
            layers.append(
                nn.Sequential(*(BasicBlock(before if not i else width, width, s) for i, s in enumerate(strides)))
            )
            before = width
        self.layer1, self.layer2, self.layer3 = layers
        self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
        self.fc = nn.Linear(before, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.fc(torch.flatten(self.avgpool(x), 1))


def conv_bn_act(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    conv = nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs), nn.ReLU6(inplace=True))


class InvertedResidual(nn.Module):
    """Expansion, depthwise convolution, linear projection."""

    def __init__(self, inputs: int, outputs: int, stride: int, expand: int):
        super().__init__()
        hidden = inputs * expand
        first = [conv_bn_act(inputs, hidden, 1)] if expand != 1 else []
        last = [nn.Conv2d(hidden, outputs, 1, bias=False), nn.BatchNorm2d(outputs)]
        self.conv = nn.Sequential(*first, conv_bn_act(hidden, hidden, 3, stride, hidden), *last)
        self.add = stride == 1 and inputs == outputs

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.conv(x) if self.add else self.conv(x)


class MobileNet(nn.Module):
    """Inverted residuals with ReLU6, dropout before the classifier."""

    def __init__(self, classes: int = 3, dropout: float = 0.0):
        super().__init__()
        self.features = nn.Sequential(
            conv_bn_act(3, 4, 3, 2),
            InvertedResidual(4, 4, 1, 1),
            InvertedResidual(4, 6, 2, 3),
            InvertedResidual(6, 6, 1, 3),
            conv_bn_act(6, 12, 1),
        )
        self.classifier = nn.Sequential(nn.Dropout(dropout), nn.Linear(12, classes))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.classifier(self.features(x).mean([2, 3]))


class Block(nn.Module):
    def __init__(self, width: int, heads: int):
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attention = nn.MultiheadAttention(width, heads, batch_first=True)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.norm1(x)
        x = x + self.attention(y, y, y, need_weights=False)[0]
        return x + self.mlp(self.norm2(x))


class VisionTransformer(nn.Module):
    """Convolution that embeds patches, class token, position embedding, blocks of attention and MLP."""

    def __init__(self, classes: int = 3, width: int = 8, depth: int = 2):
        super().__init__()
        generator = torch.Generator().manual_seed(4)
        self.patches = nn.Conv2d(3, width, 4, stride=4)
        self.token = nn.Parameter(torch.randn(1, 1, width, generator=generator))
        self.position = nn.Parameter(torch.randn(1, 5, width, generator=generator))
        self.blocks = nn.Sequential(*(Block(width, 2) for _ in range(depth)))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(len(x), -1, -1), x], dim=1) + self.position
        return self.head(self.norm(self.blocks(x))[:, 0])


NETWORKS: dict[str, tuple[Callable[..., nn.Module], tuple[int, int, int]]] = {
    "resnet": (ResNet, (3, 16, 16)),
    "mobilenet": (MobileNet, (3, 16, 16)),
    "transformer": (VisionTransformer, (3, 8, 8)),
}
#: The side of the images that proxies make themselves: a transformer reads one size only.
ALL = {"resnet": every(32), "mobilenet": every(32), "transformer": every(8)}
#: Stages whose outputs are feature maps.
STAGES = {
    "resnet": ("relu", "layer1", "layer2", "layer3"),
    "mobilenet": tuple(f"features.{i}" for i in range(5)),
    "transformer": (),
}
NO_STAGES = dict.fromkeys(
    ("az_expressivity", "az_progressivity", "az_trainability", "croze", "mlfe"), "the network names no stages"
)
NO_SPACE = {
    name: f"{read} are read from a space's encoding, which this network has none of"
    for name, read in (("sed", "operations"), ("skip", "skips"))
}
NO_ATTENTION = {
    **dict.fromkeys(("auto_prox_a", "dss", "head_confidence"), "no attention module with linear projections"),
    **dict.fromkeys(("min_eigenvalue", "token_entropy", "w_pca"), "no feed-forward layers on tokens"),
}
PATTERNS = ("swap", "swap_reg", "lswag")
SIX_IMAGES = dict.fromkeys(PATTERNS, "all 64 patterns of 6 images occur: give more images")
NO_RELU = (*("naswot", "layerwise_naswot", "nregions", "acor", "epads", "gcor", "intrain", "rbflex", "rcor", "wrcor"),)
#: By network the proxies that have no score, each with the reason that they are to give.
WITHOUT = {
    "resnet": {**NO_SPACE, **NO_ATTENTION, **SIX_IMAGES},
    "mobilenet": {
        **NO_SPACE,
        **NO_ATTENTION,
        **SIX_IMAGES,
        "epsinas": "the features of constant weights are all the same number",
    },
    "transformer": {
        **NO_SPACE,
        **NO_STAGES,
        **dict.fromkeys(NO_RELU, "the network computes no ReLU"),
        **dict.fromkeys(PATTERNS, "no four-dimensional ReLU output"),
        "apd": "the network has no BatchNorm",
        "eznas_a": "no convolution reads a ReLU and is read by a BatchNorm",
        "logsynflow": "nan",  # gradients of attention are below -1
        "zen": "what the classifier reads are tokens, no feature map",
    },
}


def disturb(network: nn.Module, seed: int = 0) -> nn.Module:
    """Weights and running statistics that no initialisation gives, the same in every process."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in network.state_dict().items():
            if name.endswith("running_var"):
                value.uniform_(0.5, 2.0, generator=generator)
            elif value.is_floating_point():
                scale, shift = (0.3, 0.6) if value.ndim == 1 else (1.4 / value[0].numel() ** 0.5, 0.0)
                value.copy_(torch.randn(value.shape, generator=generator) * scale + shift)
            else:
                value.fill_(11)
    return network


def make(name: str, **options: Any) -> tuple[nn.Module, torch.Tensor, torch.Tensor]:
    """The network, six images for it and their labels."""
    cls, shape = NETWORKS[name]
    generator = torch.Generator().manual_seed(8)
    images = torch.randn(6, *shape, generator=generator)
    return disturb(cls(**options)), images, torch.tensor([0, 1, 2, 0, 2, 1])


@pytest.fixture(scope="module", params=list(NETWORKS))
def scored(request) -> tuple[str, pd.Series]:
    """Every proxy on one of the networks."""
    network, images, labels = make(request.param)
    return request.param, harness.score(
        network, images, labels, ALL[request.param], seed=3, stages=STAGES[request.param]
    )


def bits(series: pd.Series) -> dict[str, tuple[str, str]]:
    """Scores as text that shows each bit, with their statuses."""
    return {label: (float(score).hex(), series.attrs["status"][label]) for label, score in series.items()}


# What it returns ------------------------------------------------------------------------------------------


def test_series_with_a_status_per_proxy(scored):
    name, series = scored
    assert isinstance(series, pd.Series)
    assert series.dtype == np.float64
    assert [*series.index] == [get_proxy(spec).label for spec in ALL[name]]
    assert [*series.attrs["status"]] == [*series.attrs["seconds"]] == [*series.index]
    status = series.attrs["status"]
    for label in series.index:
        assert math.isfinite(series[label]) == (status[label] == "ok")
    reasons = {label.split(":")[0]: reason for label, reason in status.items() if reason != "ok"}
    if name == "transformer":
        reasons.pop("grasp", None)  # a test of its own
    assert reasons == WITHOUT[name]
    assert all(seconds >= 0 for seconds in series.attrs["seconds"].values())


def test_a_proxy_given_twice_or_as_an_object_is_one_entry():
    network, images, labels = make("resnet")
    series = harness.score(network, images, labels, ["snip", get_proxy("snip"), "snip:init=default"])
    assert [*series.index] == ["snip", "snip:init=default"]
    assert series["snip"] != series["snip:init=default"]
    assert [*harness.score(network, images, labels).index] == ["synflow"]


def test_counts_of_a_residual_network():
    """Worked out layer by layer: 8 x 8 after the pooling, halved twice."""
    network, images, _ = make("resnet")
    series = harness.score(network, images, proxies=["params", "flops", "trainable_layers"])
    convs = [
        (27 * 4, 16),
        *[(36 * 4, 8), (36 * 4, 8)],
        *[(36 * 6, 4), (54 * 6, 4), (4 * 6, 4)],  # the last one the shortcut
        *[(54 * 8, 2), (72 * 8, 2), (6 * 8, 2)],
    ]
    weights = sum(count for count, _ in convs)
    assert series["flops"] == sum(count * side**2 for count, side in convs) + 8 * 3
    assert series["params"] == weights + 2 * (3 * 4 + 3 * 6 + 3 * 8) + 8 * 3 + 3
    assert series["trainable_layers"] == 10


# It depends on the seed, the images and the architecture alone --------------------------------------------


def test_deterministic(scored):
    """Not on the weights that the network came with, its modes, nor on any generator."""
    name, series = scored
    network, images, labels = make(name)
    if name != "transformer":  # tokens and attention's fused projection keep their values
        disturb(network, seed=5)
    network.eval()
    torch.manual_seed(1)
    np.random.seed(2)
    random.seed(3)
    again = harness.score(network, images, labels, ALL[name], seed=3, stages=STAGES[name])
    assert bits(again) == bits(series)


def test_alone_as_together(scored):
    name, series = scored
    network, images, labels = make(name)
    for spec in ALL[name][::-1]:
        alone = bits(harness.score(network, images, labels, [spec], seed=3, stages=STAGES[name]))
        label = get_proxy(spec).label
        assert alone == {label: bits(series)[label]}


def test_another_seed_draws_other_weights(scored):
    name, series = scored
    network, images, labels = make(name)
    other = harness.score(network, images, labels, ALL[name], seed=4, stages=STAGES[name])
    assert set(other.dropna().index) == set(series.dropna().index)
    for label in series.dropna().index:
        proxy = get_proxy(label)
        if not proxy.random or proxy.name == "epsinas":  # whose weights are constants: only mini-batches are drawn
            assert other[label] == series[label]
        elif not (4 * series[label]).is_integer():  # counts, and means of four of them, may coincide
            assert other[label] != series[label], label


def test_labels_are_drawn_where_there_are_none():
    network, images, labels = make("resnet")
    labelled = ["snip", "grad_norm", "fisher"]
    unlabelled = ["naswot", "synflow", "vkdnw", "ntk", "zen"]
    given = harness.score(network, images, labels, labelled + unlabelled)
    drawn = harness.score(network, images, None, labelled + unlabelled)
    assert bits(harness.score(network, images, proxies=labelled + unlabelled)) == bits(drawn)
    assert (given[unlabelled] == drawn[unlabelled]).all()
    assert (given[labelled] != drawn[labelled]).all()
    # Drawn from as many classes as asked for, and from those of the logits otherwise.
    single = harness.score(network, images, None, labelled, num_classes=1)
    assert bits(single) == bits(harness.score(network, images, torch.zeros(6, dtype=torch.int64), labelled))
    three = harness.score(network, images, None, labelled, num_classes=3)
    assert (three == drawn[labelled]).all()
    assert harness.score(network, images, None, ["snip"], seed=1)["snip"] != drawn["snip"]


def test_a_mini_batch_is_what_the_proxy_asks_for():
    network, images, labels = make("resnet")
    whole = harness.score(network, images, labels, ["snip", "snip:batch_size=4"])
    four = harness.score(network, images[:4], labels[:4], ["snip"])
    assert whole["snip:batch_size=4"] == four["snip"]
    assert whole["snip"] != four["snip"]


def test_mini_batches_share_no_image():
    network, images, labels = make("resnet")  # six images
    # ZiCo's second mini-batch is what follows; where too little follows, both take half.
    zico = harness.score(network, images, labels, ["zico:batch_size=3", "zico", "zico:batch_size=2"])
    assert zico["zico:batch_size=3"] == zico["zico"]
    assert zico["zico:batch_size=2"] != zico["zico"]
    swapped = torch.cat([images[3:], images[:3]]), torch.cat([labels[3:], labels[:3]])
    assert harness.score(network, *swapped, ["zico"])["zico"] == pytest.approx(zico["zico"], rel=1e-3)
    # An image that is left over is not read.
    assert harness.score(network, images[:5], labels[:5], ["zico"])["zico"] == zico["zico:batch_size=2"]
    third = harness.score(network, images, labels, ["zico:minibatches=3", "zico:minibatches=3:batch_size=2"])
    assert third["zico:minibatches=3"] == third["zico:batch_size=2:minibatches=3"]


def test_swap_reads_the_same_images_in_every_repeat():
    network, images, labels = make("resnet")  # six images
    images, labels = torch.cat([images, images.flip(2)]), labels.repeat(2)
    swap = harness.score(network, images, labels, ["swap", "swap:batch_size=12", "swap:batch_size=11"])
    assert swap["swap"] == swap["swap:batch_size=12"] != swap["swap:batch_size=11"]
    few = harness.score(network, images[:2], labels[:2], ["swap"])
    assert few.attrs["status"]["swap"] == "all 4 patterns of 2 images occur: give more images"


def test_an_empty_mini_batch_is_a_status():
    network, images, labels = make("resnet")
    one = harness.score(network, images[:1], labels[:1], ["zico", "snip"])
    assert one.attrs["status"] == {
        "zico": "2 mini-batches need 2 images at least, there are 1",
        "snip": "ok",
    }
    assert one.isna().tolist() == [True, False]


# The network is left untouched ----------------------------------------------------------------------------

HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def look(network: nn.Module) -> dict[str, Any]:
    """Everything of a network that scoring could change."""
    seen: dict[str, Any] = {}
    for name, module in network.named_modules():
        seen[name] = (
            id(module),
            module.training,
            getattr(module, "inplace", None),
            *(tuple(map(id, getattr(module, kind).values())) for kind in HOOKS),
            sorted(vars(module)),
        )
    for name, value in network.state_dict(keep_vars=True).items():
        grad = None if value.grad is None else (id(value.grad), value.grad.numpy().tobytes())
        values = value.detach().contiguous().numpy().tobytes()
        seen[f"= {name}"] = (
            id(value),
            value.data_ptr(),
            value.requires_grad,
            value.dtype,
            value.shape,
            values,
            grad,
        )
    return seen


def generators() -> list[bytes]:
    return [
        torch.get_rng_state().numpy().tobytes(),
        pickle.dumps(np.random.get_state(legacy=True)),
        pickle.dumps(random.getstate()),
    ]


@pytest.mark.parametrize("keep_weights", [False, True])
@pytest.mark.parametrize("name", NETWORKS)
def test_the_network_is_left_untouched(name, keep_weights):
    network, images, labels = make(name)
    first, *_, last = network.children()
    first.eval()
    network.register_forward_hook(lambda module, args, output: None)
    last.register_forward_pre_hook(lambda module, args: None)
    F.cross_entropy(network(images), labels).backward()
    list(network.parameters())[-1].grad = None
    seen, state = look(network), generators()
    held = images.clone(), labels.clone()
    series = harness.score(network, images, labels, ALL[name], stages=STAGES[name], keep_weights=keep_weights)
    assert len(series.dropna()) > 20
    assert look(network) == seen
    assert generators() == state
    assert torch.equal(images, held[0])
    assert torch.equal(labels, held[1])
    assert images.grad is None
    assert not images.requires_grad


@pytest.mark.parametrize("name", NETWORKS)
def test_what_is_looked_at_sees_changes(name):
    network, images, labels = make(name)
    seen = look(network)
    with torch.no_grad():
        network(images)
    assert (look(network) != seen) == any(isinstance(m, nn.BatchNorm2d) for m in network.modules())
    seen = look(network)
    F.cross_entropy(network.eval()(images), labels).backward()
    changed = look(network)
    assert {k for k in seen if seen[k] != changed[k]} >= {f"= {n}" for n, _ in network.named_parameters()}


def test_a_network_that_fails_is_left_untouched():
    class Failing(ResNet):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = super().forward(x)
            if self.training:
                raise ValueError("no training here")
            return y

    network = disturb(Failing())
    _, images, labels = make("resnet")
    seen = look(network)
    series = harness.score(network, images, labels, ["snip", "synflow", "vkdnw", "flops"])
    assert look(network) == seen
    assert series.attrs["status"] == {
        "snip": "error: ValueError: no training here",
        "synflow": "error: ValueError: no training here",
        "vkdnw": "ok",
        "flops": "ok",
    }
    assert [*np.isnan(series)] == [True, True, False, False]


def test_images_that_require_gradients():
    network, images, labels = make("resnet")
    plain = harness.score(network, images, labels, ["jacov", "snip", "ntk"])
    with_gradient = images.clone().requires_grad_(True)
    assert bits(harness.score(network, with_gradient, labels, ["jacov", "snip", "ntk"])) == bits(plain)
    assert with_gradient.grad is None


# The weights as they are ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NETWORKS)
def test_weights_may_be_kept(name):
    network, images, labels = make(name)
    proxies = ["snip", "grad_norm", "l2_norm", "params", "flops", "plain"]
    drawn = harness.score(network, images, labels, proxies)
    kept = harness.score(network, images, labels, proxies, keep_weights=True)
    assert (drawn[["params", "flops"]] == kept[["params", "flops"]]).all()
    assert (drawn[["snip", "grad_norm", "l2_norm", "plain"]] != kept[["snip", "grad_norm", "l2_norm", "plain"]]).all()
    assert bits(harness.score(network, images, labels, proxies, seed=9, keep_weights=True)) == bits(kept)

    weights = [m.weight for m in network.modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
    weights += [m.in_proj_weight for m in network.modules() if isinstance(m, nn.MultiheadAttention)]
    grads = torch.autograd.grad(F.cross_entropy(network(images), labels), weights, allow_unused=True)
    pairs = [(weight, g) for weight, g in zip(weights, grads, strict=True) if g is not None]
    with torch.no_grad():
        assert kept["l2_norm"] == pytest.approx(sum(float(weight.norm()) for weight in weights), rel=1e-6)
        assert kept["snip"] == pytest.approx(sum(float((w * g).abs().sum()) for w, g in pairs), rel=1e-5)
        assert kept["grad_norm"] == pytest.approx(sum(float(g.norm()) for _, g in pairs), rel=1e-5)


# What is wrong with a call --------------------------------------------------------------------------------


class Pair(ResNet):
    def forward(self, x: torch.Tensor) -> Any:
        return super().forward(x), x


class Maps(ResNet):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer1(self.conv1(x))


def uncopyable() -> nn.Module:
    network = ResNet()
    network.kept = network.conv1(torch.ones(1, 3, 8, 8))
    return network


def test_mistakes_are_named():
    network, images, labels = make("resnet")
    for wrong in (images[0], images[:0], images.flatten(1), images[None]):
        with pytest.raises(HarnessError, match="images"):
            harness.score(network, wrong, labels)
    with pytest.raises(HarnessError, match="6 inputs but 5 targets"):
        harness.score(network, images, labels[:5])
    with pytest.raises(UnknownNameError, match="did you mean 'synflow'"):
        harness.score(network, images, labels, ["sinflow"])
    with pytest.raises(UnknownNameError, match="did you mean 'variant'"):
        harness.score(network, images, labels, ["vkdnw:varian=repo"])
    with pytest.raises(HarnessError, match="unknown variant of vkdnw 'rep': did you mean 'repo'"):
        harness.score(network, images, labels, ["vkdnw:variant=rep"])
    with pytest.raises(UnknownNameError, match="unknown submodule 'layer9': did you mean 'layer"):
        harness.score(network, images, labels, ["az_expressivity"], stages=["layer1", "layer9"])
    for other in (Pair(), Maps()):
        with pytest.raises(HarnessError, match=r"gives .* for one image, .*logits: wrap it"):
            harness.score(other, images, labels)
    with pytest.raises(HarnessError, match="cannot be copied"):
        harness.score(uncopyable(), images, labels)


def test_images_that_do_not_fit_the_network():
    network, images, labels = make("resnet")
    with pytest.raises(HarnessError):
        harness.score(network, images[:, :2], labels)


@pytest.mark.parametrize("wrong", [3, -1])
def test_labels_that_are_none_of_the_classes(wrong):
    """Never a number, whether the call is refused or the proxy has a status."""
    network, images, labels = make("resnet")
    labels[2] = wrong
    try:
        series = harness.score(network, images, labels, ["snip"])
    except HarnessError:
        return
    assert math.isnan(series["snip"])
    assert series.attrs["status"]["snip"] != "ok"


def test_stages_that_do_not_serve_are_a_status():
    network, images, labels = make("resnet")
    found = harness.score(network, images, labels, ["az_expressivity"], stages=["layer1"])
    assert found.attrs["status"] == {"az_expressivity": "the network names no stages"}
    found = harness.score(network, images, labels, ["az_expressivity"], stages=["layer1", "fc"])
    assert found.attrs["status"] == {
        "az_expressivity": "a stage's output is no feature map (B, C, H, W): name modules that return one"
    }
    assert math.isnan(found["az_expressivity"])


@pytest.mark.parametrize("spec", ["snip", "vkdnw", "naswot", "gradsign", "ntk", "swap"])
def test_dropout_draws_from_the_seed(spec):
    """A score depends on the seed and not on the process's generator, which is left as it is."""
    network, images, labels = make("mobilenet", dropout=0.5)
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = bits(harness.score(network, images, labels, [spec]))
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    assert bits(harness.score(network, images, labels, [spec])) == first
    assert bits(harness.score(network, images, labels, ["grad_norm", spec]))[spec] == first[spec]


def test_grasp_of_a_transformer():
    """A second derivative through torch's attention."""
    network, images, labels = make("transformer")
    series = harness.score(network, images, labels, ["grasp"])
    assert series.attrs["status"] == {"grasp": "ok"}
    assert math.isfinite(series["grasp"])


def test_gradients_that_are_switched_off():
    """A call in the midst of an evaluation."""
    network, images, labels = make("resnet")
    proxies = ["snip", "synflow", "vkdnw", "zen", "ntk"]
    expected = harness.score(network, images, labels, proxies)
    with torch.no_grad():
        found = harness.score(network, images, labels, proxies)
        assert not torch.is_grad_enabled()
    assert bits(found) == bits(expected)


def test_no_warnings():
    network, images, labels = make("resnet")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        harness.score(network, images, labels, ALL["resnet"], stages=STAGES["resnet"])


# VKDNW as its authors compute it --------------------------------------------------------------------------


def vkdnw_by_whole_jacobians(network: nn.Module, images: torch.Tensor) -> tuple[float, np.ndarray]:
    """Entropy of the deciles of the Fisher information's spectrum, and the information itself.

    Jacobians of the logits with respect to every parameter, in eval mode; of the first 128 tensors the first
    element is kept.
    """
    network = network.double().eval()
    parameters = {name: value.detach() for name, value in network.named_parameters()}
    buffers = dict(network.named_buffers())

    def logits(changed: dict[str, torch.Tensor], image: torch.Tensor) -> torch.Tensor:
        return functional_call(network, (changed, buffers), (image[None],))[0]

    images = images.double()
    jacobians = vmap(jacrev(logits), in_dims=(None, 0))(parameters, images)
    columns = [jacobians[name].flatten(2)[:, :, 0] for name in list(parameters)[:128]]
    jacobian = torch.stack(columns, dim=2).numpy()
    with torch.no_grad():
        p = network(images).softmax(dim=1).numpy()
    s = 0.95 * p + 0.05 / p.shape[1]
    information = 0
    for j, q in zip(jacobian, s, strict=True):
        information = information + j.T @ (np.diag(q) - np.outer(q, q)) @ j / len(s)
    d = np.quantile(np.linalg.eigvalsh(information).clip(min=0), [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9])
    share = d / (d.sum() + 1e-10)
    return float(-(share * np.log(share + 1e-10)).sum()), information


@pytest.mark.parametrize(("name", "blocks"), [("resnet", 7), ("resnet", 1), ("mobilenet", None), ("transformer", None)])
def test_vkdnw_is_that_of_whole_jacobians(name, blocks):
    """64 images: the spectrum of 128 weights has then as many values that are not zero."""
    network, *_ = make(name, **({"blocks": blocks} if blocks else {}))
    images = torch.randn(64, *NETWORKS[name][1], generator=torch.Generator().manual_seed(6))
    count = len(list(network.parameters()))
    assert (count > 128) == (blocks == 7)
    found = harness.score(network, images, proxies=["vkdnw:dtype=float64", "vkdnw"], keep_weights=True)
    expected, information = vkdnw_by_whole_jacobians(network, images)
    assert information.shape == (min(128, count),) * 2
    assert 0.1 < expected < math.log(9)
    assert found["vkdnw:dtype=float64"] == pytest.approx(expected, rel=1e-5)
    assert found["vkdnw"] == pytest.approx(expected, rel=1e-2)


# Networks of a space, and of others -----------------------------------------------------------------------


def test_a_cell_of_a_space_with_its_stages():
    architecture = encode([CONV3, SKIP, CONV1, POOL, NONE, CONV1])
    network = NasBench201().build(architecture, 10)
    names = {id(module): name for name, module in network.named_modules()}
    stages = [names[id(stage)] for stage in network.stages]
    assert stages[:2] == ["stem", "cells.0"]
    assert len(stages) == 18
    generator = torch.Generator().manual_seed(2)
    images, labels = torch.randn(4, 3, 16, 16, generator=generator), torch.tensor([0, 3, 9, 5])
    series = harness.score(network, images, labels, every(16), stages=stages)
    reasons = {label: status for label, status in series.attrs["status"].items() if status != "ok"}
    few = dict.fromkeys(PATTERNS, "all 16 patterns of 4 images occur: give more images")
    assert {label.partition(":")[0]: reason for label, reason in reasons.items()} == {**NO_SPACE, **NO_ATTENTION, **few}
    counts = NasBench201().topology([architecture], 10, 16)
    for name in ("params", "flops", "trainable_layers"):
        assert series[name] == counts[name][0]


@pytest.mark.parametrize("name", ["resnet18", "mobilenetv3_small_050", "vit_tiny_patch16_224"])
def test_models_of_timm(name):
    timm = models_of("timm")
    network = timm.create_model(name, pretrained=False, num_classes=10)
    size = network.default_cfg["input_size"][1:] if name.startswith("vit") else (64, 64)
    images = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(1))
    series = harness.score(network, images, proxies=["synflow", "snip", "grad_norm", "params", "flops"])
    without = set(series.index[series.isna()])
    assert without == ({"synflow"} if name.startswith("vit") else set()), "a softmax of weights made positive overflows"
