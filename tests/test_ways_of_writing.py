"""Networks that are written in ways that passes have misread: beside a plain twin, or with the reason they have."""

from __future__ import annotations

import copy
import dataclasses
from collections import deque
from typing import ClassVar

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune
from torch.utils.checkpoint import checkpoint

import harness
from harness.probes import persample
from harness.probes.gradient import GradientPass
from harness.probes.initialise import initialise
from harness.probes.layout import find_layout
from harness.probes.modules import attention_modules
from harness.probes.state import State
from harness.proxies import available, get_proxy
from tests.any_network.table import SMALL, near

#: Proxies that read weights, activations, layers, norms, single images and the network as a whole.
PLAIN = (
    *("snip", "fisher", "grasp", "synflow", "entropic_score", "gradsign", "vkdnw", "naswot", "epads", "intrain"),
    *("flops", "flops:count=all", "near", "t_cet:codes=relu", "eznas_a", "zen", "meco", "ntk", "epsinas", "rbflex"),
)
LABELS = torch.arange(12) % 5


@pytest.fixture(scope="module")
def images():
    return torch.randn(12, 3, 8, 8, generator=torch.Generator().manual_seed(1))


def scores(network, images, specs=PLAIN, **options):
    """By spec the value, or the status where there is none."""
    proxies = {spec: get_proxy(spec) for spec in specs}
    for spec, proxy in proxies.items():
        own = {field.name for field in dataclasses.fields(proxy)}
        proxies[spec] = dataclasses.replace(proxy, **{key: value for key, value in SMALL.items() if key in own})
    found = harness.score(network, images, LABELS, list(proxies.values()), **options)
    status = found.attrs["status"]
    return {spec: found[p.label] if status[p.label] == "ok" else status[p.label] for spec, p in proxies.items()}


def differing(one, other):
    """The specs whose values, or reasons, are not the same."""
    both = {spec: (one[spec], other[spec]) for spec in one}
    return {spec: pair for spec, pair in both.items() if not (near(*pair) if _numbers(pair) else pair[0] == pair[1])}


def _numbers(pair):
    return not any(isinstance(value, str) for value in pair)


class Net(nn.Module):
    """Three convolutions with BatchNorm and a residual sum; subclasses write a part of it in another way."""

    def __init__(self):
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(2)
            self.c1, self.n1 = nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6)
            self.c2, self.n2 = nn.Conv2d(6, 6, 3, padding=1), nn.BatchNorm2d(6)
            self.c3, self.n3 = nn.Conv2d(6, 6, 3, stride=2, padding=1), nn.BatchNorm2d(6)
            self.fc = nn.Linear(6, 5)

    def first(self, x):
        return F.relu(self.n1(self.c1(x)))

    def second(self, x):
        return F.relu(self.n2(self.c2(x)))

    def third(self, x):
        return F.relu(self.n3(self.c3(x)))

    def head(self, x):
        return self.fc(x.mean(dim=(2, 3)))

    def forward(self, x):
        x = self.first(x)
        x = x + self.second(x)
        return self.head(self.third(x))


@pytest.fixture(scope="module")
def plain(images):
    return scores(Net(), images)


# What computes as the plain network does ------------------------------------------------------------------


class Threshold(Net):
    def first(self, x):
        return F.threshold(self.n1(self.c1(x)), 0.0, 0.0)

    def second(self, x):
        return nn.Threshold(0.0, 0.0, inplace=True)(self.n2(self.c2(x)))


class Aten(Net):
    """As the graphs of torch.export are written."""

    def first(self, x):
        aten = torch.ops.aten
        return aten.relu(self.n1(aten.conv2d(x, self.c1.weight, self.c1.bias, [1, 1], [1, 1])))

    def second(self, x):
        shape = ([1, 1], [1, 1], [1, 1], False, [0, 0], 1)
        maps = torch.ops.aten.convolution.default(x, self.c2.weight, self.c2.bias, *shape)
        n, training = self.n2, self.training
        statistics = (n.running_mean, n.running_var, training, 0.1, n.eps, True)
        return torch.ops.aten.relu_.default(torch.ops.aten.batch_norm.default(maps, n.weight, n.bias, *statistics))

    def head(self, x):
        return torch.ops.aten.linear.default(x.mean(dim=(2, 3)), self.fc.weight, self.fc.bias)


@torch.jit.script
def _scripted(x):
    return F.relu(x)


class Scripted(Net):
    def first(self, x):
        return _scripted(self.n1(self.c1(x)))


class Checkpointed(Net):
    """A block with a norm and a ReLU: what its backward runs again no pass would watch."""

    reentrant = False

    def forward(self, x):
        x = self.first(x)
        x = x + checkpoint(self.second, x, use_reentrant=self.reentrant)
        return self.head(self.third(x))


class Reentrant(Checkpointed):
    reentrant = True


class Doubled(nn.Module):
    """A parametrisation: what is applied is twice what is held."""

    def forward(self, x):
        return x * 2.0

    def right_inverse(self, x):
        return x / 2.0


def _shift(network):
    """Values that an initialisation has to replace."""
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if not name.startswith(("c", "fc")) or name.endswith("bias"):
                parameter.uniform_(0.5, 2.0, generator=torch.Generator().manual_seed(4))


class ParametrisedBiases(Net):
    def __init__(self):
        super().__init__()
        _shift(self)
        for layer in (self.c1, self.c2, self.fc):
            parametrize.register_parametrization(layer, "bias", Doubled())


class ParametrisedNorms(Net):
    def __init__(self):
        super().__init__()
        _shift(self)
        for norm in (self.n1, self.n2):
            parametrize.register_parametrization(norm, "bias", Doubled())
            parametrize.register_parametrization(norm, "weight", Doubled())


class Wrapped(nn.Module):
    """A name that holds the word `weight`."""

    def __init__(self):
        super().__init__()
        self.lightweight = Net()

    def forward(self, x):
        return self.lightweight(x)


#: What reads the parameters that a parametrisation holds: they are not the ones that are applied.
OF_PARAMETERS = {"ntk", "vkdnw"}
SAME = {
    Threshold: set(),
    Aten: set(),
    Scripted: set(),
    Checkpointed: set(),
    Reentrant: set(),
    ParametrisedBiases: OF_PARAMETERS,
    ParametrisedNorms: OF_PARAMETERS,
    Wrapped: set(),
}


@pytest.mark.parametrize("kind", SAME, ids=lambda kind: kind.__name__)
def test_written_in_another_way(kind, images, plain):
    assert differing(scores(kind(), images), plain).keys() <= SAME[kind]


class InPlaceSum(Net):
    """What the BatchNorm reads is no convolution's output any more."""

    def second(self, x):
        maps = self.c2(x)
        maps += x
        return F.relu(self.n2(maps))


class Sum(Net):
    def second(self, x):
        return F.relu(self.n2(self.c2(x) + x))


class Half(Net):
    """A convolution reads a part of what a ReLU gives, which begins at the same address."""

    copied = False

    def __init__(self):
        super().__init__()
        self.c2 = nn.Conv2d(3, 6, 3, padding=1)

    def second(self, x):
        x = x[:, :3]
        return super().second(x.clone() if self.copied else x)


class CopiedHalf(Half):
    copied = True


class Sliced(Net):
    """One layer's weights in two operations of different widths."""

    def head(self, x):
        x = x.mean(dim=(2, 3))
        parts = [F.linear(x, self.fc.weight[rows], self.fc.bias[rows]) for rows in (slice(2), slice(2, 5))]
        return torch.cat(parts, dim=1)


@pytest.mark.parametrize(
    ("kind", "twin", "specs"),
    [
        (InPlaceSum, Sum, ("eznas_a", "snip", "t_cet:codes=relu")),
        (Half, CopiedHalf, ("t_cet:codes=relu", "fisher")),
        (Sliced, Net, ("fisher", "snip", "flops", "gradsign")),
    ],
)
def test_beside_its_twin(kind, twin, specs, images):
    assert differing(scores(kind(), images, specs), scores(twin(), images, specs)) == {}


class Bounded(Net):
    """A ReLU whose greatest value is 1, which is low enough to matter."""

    def first(self, x):
        return F.hardtanh(self.n1(self.c1(x)), 0.0, 1.0)


@dataclasses.dataclass(frozen=True)
class Participation(harness.Proxy):
    """The sum of a pass's participations alone."""

    name: ClassVar[str] = "participation"
    summary: ClassVar[str] = "spread of the activations"
    citation: ClassVar[str] = "none"
    inputs: ClassVar[str] = "images"

    def needs(self):
        return {GradientPass(batch_size=6, dtype="float64"): ("participations",)}

    def score(self, seen):
        return seen["participations"].sum()


def test_a_bounded_relu_is_read_as_it_is_computed(images):
    network, maps = Bounded().double().train(), []
    for norm in (network.n1, network.n2, network.n3):
        norm.register_forward_hook(lambda module, args, output: maps.append(output))
    with torch.no_grad():
        network(images[:6].double())
    expected = sum(_participation(m.clamp(0, bound)) for m, bound in zip(maps, (1.0, None, None), strict=True))
    found = harness.score(Bounded(), images, LABELS, [Participation()], keep_weights=True)
    assert near(found["participation"], expected)


def _participation(maps):
    samples = maps.movedim(1, -1).flatten(0, -2)
    covariance = torch.cov(samples.T, correction=0) + 1e-10 * torch.eye(samples.shape[1], dtype=samples.dtype)
    return float(2 * covariance.trace().log() - covariance.square().sum().log())


# What has a reason ----------------------------------------------------------------------------------------


class Multiplied(Net):
    def head(self, x):
        return (x.mean(dim=(2, 3))[:, None] * self.fc.weight).sum(dim=-1) + self.fc.bias


def test_a_layers_weight_in_a_function_of_no_layer(images, plain):
    found = scores(Multiplied(), images)
    reasons = {spec: value for spec, value in found.items() if isinstance(value, str) and "used by mul" in value}
    assert set(reasons) >= {"fisher", "flops", "near", "eznas_a", "epsinas", "t_cet:codes=relu"}
    assert near(found["snip"], plain["snip"])
    assert near(found["gradsign"], plain["gradsign"])


class NativeNorm(Net):
    def second(self, x):
        shape = (len(x), 6, x[0, 0].numel(), 2, 1e-5)
        return F.relu(torch.native_group_norm(self.c2(x), self.n2.weight, self.n2.bias, *shape)[0])


def test_a_norm_of_another_form_is_refused_where_norms_count(images):
    found = scores(NativeNorm(), images, ["synflow", "snip"])
    assert found["synflow"].startswith("the network calls native_group_norm")
    assert found["snip"] > 0


_UNIT = torch.jit.CompilationUnit("def rectify(x):\n    return torch.relu(x)\n")


class Unreadable(Net):
    def first(self, x):
        return _UNIT.rectify(self.n1(self.c1(x)))


def test_a_function_whose_python_is_unknown(images):
    found = scores(Unreadable(), images, ["naswot", "ntk"])
    assert found["naswot"].startswith("the network calls rectify, a function of torch.jit")
    assert found["ntk"] < 0
    assert _UNIT.rectify(torch.tensor([-1.0, 1.0])).tolist() == [0.0, 1.0]


class Pruned(Net):
    def __init__(self, module, attribute):
        super().__init__()
        prune.random_unstructured(getattr(self, module), attribute, 0.5)


@pytest.mark.parametrize(("module", "attribute"), [("c1", "bias"), ("n1", "weight"), ("n1", "bias")])
@pytest.mark.parametrize("spec", ["snip", "snip:init=default", "epsinas"])
def test_a_tensor_that_a_hook_makes_is_not_initialised(module, attribute, spec, images):
    found = scores(Pruned(module, attribute), images, [spec])
    assert f"layer {module}: its {attribute} is no Parameter" in found[spec]


class Negative(nn.Module):
    def forward(self, x):
        return -x

    def right_inverse(self, x):
        return -x


def test_a_parametrised_bias_that_does_not_become_absolute(images):
    network = Net()
    _shift(network)
    parametrize.register_parametrization(network.c1, "bias", Negative())
    kept = scores(network, images, ["synflow"], keep_weights=True)
    assert kept["synflow"] == "the parametrised bias of c1 cannot be made absolute"
    assert scores(network, images, ["synflow"])["synflow"] == scores(Net(), images, ["synflow"])["synflow"]


class OneLogit(Net):
    def head(self, x):
        return super().head(x)[:, :1]


def test_one_logit_has_no_cross_entropy(images):
    specs = ("snip", "gradsign", "vkdnw", "zico", "fisher", "synflow", "naswot")
    found = harness.score(OneLogit(), images, torch.zeros(12, dtype=torch.long), specs)
    reasons = found.attrs["status"]
    assert all(reasons[spec].startswith("one logit has no cross-entropy") for spec in specs[:5])
    assert not found[["synflow", "naswot"]].isna().any()


def test_one_image_has_no_other_to_be_compared_with(images):
    comparing = ("acor", "gcor", "rcor", "jacov", "epe_nas", "naswot", "layerwise_naswot", "t_cet", "epads", "rbflex")
    comparing += ("ntk", "ntk_cond", "ntk_min")
    found = harness.score(Net(), images[:1], torch.zeros(1, dtype=torch.long), comparing)
    assert set(found.attrs["status"].values()) == {"one image has no other to be compared with: give several"}
    found = harness.score(Net(), images[:2], torch.tensor([0, 1]), "all")
    assert found.index.tolist() == list(available())
    assert not [label for label, status in found.attrs["status"].items() if status.startswith("one image")]


# Modes ----------------------------------------------------------------------------------------------------


class FrozenNorm(Net):
    """As detectors do: their BatchNorms stay in eval mode."""

    def train(self, mode=True):
        super().train(mode)
        self.n1.eval()
        return self


def test_a_networks_own_train_holds_from_the_first_pass_on(images):
    together = scores(FrozenNorm(), images, ["vkdnw", "snip"])
    assert scores(FrozenNorm(), images, ["snip"])["snip"] == together["snip"]
    assert scores(FrozenNorm().train(), images, ["snip"])["snip"] == together["snip"]


class Untracked(Net):
    def __init__(self):
        super().__init__()
        self.n1 = nn.BatchNorm2d(6, track_running_stats=False)


def test_images_that_meet_in_eval_mode_have_no_codes_of_their_own(images):
    found = scores(Untracked(), images, ["epads", "snip"])
    assert found["epads"] == "BatchNorm without running statistics has no eval mode"
    assert found["snip"] > 0


# Attention by its name ------------------------------------------------------------------------------------


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.qkv, self.out = nn.Linear(8, 24), nn.Linear(8, 8)

    def forward(self, x):
        q, k, v = self.qkv(x).chunk(3, dim=-1)
        return self.out((q @ k.transpose(1, 2)).softmax(dim=-1) @ v)


class Tokens(nn.Module):
    """A Transformer of two blocks."""

    def __init__(self, blocks=2):
        super().__init__()
        self.patch = nn.Conv2d(3, 8, 4, stride=4)
        self.blocks = nn.ModuleList([Attention() for _ in range(blocks)])
        self.fc = nn.Linear(8, 5)

    def forward(self, x):
        x = self.patch(x).flatten(2).transpose(1, 2)
        for block in self.blocks:
            x = x + block(x)
        return self.fc(x.mean(dim=1))


class AttentionNet(Tokens):
    """The same, by a name that holds the word."""


@pytest.mark.parametrize("blocks", [1, 2])
def test_a_network_is_no_attention_module_by_its_name(blocks, images):
    network, named = Tokens(blocks), AttentionNet(blocks)
    assert [name for name, _ in attention_modules(named)] == [f"blocks.{i}" for i in range(blocks)]
    specs = ("dss", "head_confidence")
    assert differing(scores(network, images, specs), scores(named, images, specs)) == {}


def test_projections_that_are_parametrised_have_a_reason(images):
    network = Tokens()
    parametrizations.weight_norm(network.blocks[0].qkv)
    reason = "the weights of the parametrised layer blocks.0.qkv are no parameters"
    assert scores(network, images, ["dss"])["dss"] == reason


def test_projections_that_share_a_parameter_count_once(images):
    shared, once = Tokens(), Tokens()
    once.blocks[1] = once.blocks[0]
    for part in ("qkv", "out"):
        for name in ("weight", "bias"):
            setattr(getattr(shared.blocks[1], part), name, getattr(getattr(shared.blocks[0], part), name))
    assert differing(scores(shared, images, ["dss"]), scores(once, images, ["dss"])) == {}


# Other dimensions, other types ----------------------------------------------------------------------------


class Shaped(nn.Module):
    """Two convolutions with BatchNorm on images that are first brought to another shape."""

    def __init__(self, shape, size, twin=False):
        super().__init__()
        self.shape = shape
        dims = 2 if twin else len(shape)
        conv = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}[dims]
        norm = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}[dims]
        padding = tuple(side // 2 for side in size)
        self.one, self.two = conv(3, 6, size, padding=padding), conv(6, 8, size, padding=padding)
        self.norm, self.head = norm(6), nn.Linear(8, 5)

    def forward(self, x):
        x = self.two(F.relu(self.norm(self.one(x.reshape(*x.shape[:2], *self.shape)))))
        return self.head(F.relu(x).flatten(2).mean(2))


@pytest.mark.parametrize(
    ("network", "twin"),
    [
        (lambda: Shaped((64,), (3,)), lambda: Shaped((1, 64), (1, 3), twin=True)),
        (lambda: Shaped((1, 8, 8), (1, 3, 3)), lambda: Shaped((8, 8), (3, 3))),
    ],
    ids=["sequences", "volumes"],
)
def test_sequences_and_volumes(network, twin, images):
    """As maps of one row, or of one depth: their channels are behind the images too."""
    specs = [*available(), "entropic_score:over=positions", "entropic_score:over=layer"]
    one, other = scores(network(), images, specs), scores(twin(), images, specs)
    apart = {spec for spec, (value, _) in differing(one, other).items() if not isinstance(value, str)}
    assert not apart
    assert not isinstance(one["entropic_score"], str)


def test_weights_in_half_precision(images):
    """A pass computes in the precision of its proxy, whatever a network came in."""

    class Half(Net):
        def forward(self, x):
            return super().forward(x.to(next(self.parameters()).dtype)).float()

    assert not differing(scores(Half().bfloat16(), images), scores(Net(), images))


# Weights that are computed --------------------------------------------------------------------------------

#: Proxies that read what a layer applies, by passes of every kind, and none that reads parameters as such.
OF_WEIGHTS = (
    *("snip", "grad_norm", "grasp", "synflow", "logsynflow", "zico", "zico_bc", "gradsign", "ntk_trace", "l2_norm"),
    *("trainable_layers", "entropic_score", "fisher", "t_cet:codes=relu", "ssnr", "naswot", "near"),
)


class Hooked(Net):
    """A layer whose weights a hook of torch computes, or a parametrisation in its place."""

    def __init__(self, hook):
        super().__init__()
        hook(self.c2)


def _pruned(layer):
    prune.random_unstructured(layer, "weight", 0.5)
    prune.l1_unstructured(layer, "weight", 0.2)


def test_a_pruned_layer_is_the_layer_with_its_mask(images):
    network, twin = Hooked(_pruned), Net()
    with torch.no_grad():
        twin.c2.weight.copy_(network.c2.weight)
    assert not network.c2.weight.all()
    found = scores(network, images, OF_WEIGHTS, keep_weights=True)
    assert differing(found, scores(twin, images, OF_WEIGHTS, keep_weights=True)) == {}
    assert _numbers(found.values())


def test_the_hook_of_weight_norm_is_as_its_parametrisation(images):
    ways = (nn.utils.weight_norm, parametrizations.weight_norm)
    one, other = (scores(Hooked(way), images, OF_WEIGHTS, keep_weights=True) for way in ways)
    assert differing(one, other) == {}
    assert _numbers(one.values())


def test_the_hook_of_a_spectral_norm_is_the_layer_that_it_makes(images):
    """By passes of one forward: at each of them it takes a step, to other weights."""
    torch.manual_seed(6)  # its vectors
    network, twin = Hooked(nn.utils.spectral_norm), Net()
    own = copy.deepcopy(network).double().train()
    own(images.double())
    with torch.no_grad():
        twin.double().c2.weight.copy_(own.c2.weight)
    specs = [spec for spec in OF_WEIGHTS if spec not in ("zico", "zico_bc", "gradsign", "ntk_trace", "near")]
    one, other = (scores(of, images.double(), specs, keep_weights=True) for of in (network.double(), twin))
    assert differing(one, other) == {}
    assert _numbers(one.values())


class LeftOver(Hooked):
    """The layer is not called, so that its hook makes nothing."""

    def second(self, x):
        return F.relu(self.n2(F.conv2d(x, self.c2.weight, self.c2.bias, padding=1)))


def test_weights_that_no_hook_has_made_are_refused(images):
    found = scores(LeftOver(_pruned), images, ["snip", "synflow"], keep_weights=True)
    reason = "conv2d reads weights of layer c2 that an earlier forward made"
    assert all(value.startswith(reason) for value in found.values())


class Normed(nn.Module):
    """A token of parameters that a spectral norm computes: its absolute value is not that of its parameters."""

    def __init__(self):
        super().__init__()
        self.token = nn.Parameter(torch.randn(4, 3, generator=torch.Generator().manual_seed(1)))
        nn.utils.spectral_norm(self, "token")
        self.net = Net()

    def forward(self, x):
        return self.net(x + self.token.sum())


def test_what_a_hook_computes_and_does_not_become_absolute(images):
    torch.manual_seed(6)
    found = scores(Normed(), images, ["synflow", "snip"], keep_weights=True)
    assert found["synflow"] == "the parametrised token of the network cannot be made absolute"
    assert not isinstance(found["snip"], str)


class Product(Net):
    """A square parametrised layer between the features and the classifier."""

    def __init__(self, way):
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(8)
            self.square = parametrizations.weight_norm(nn.Linear(6, 6, bias=False))
        self.way = way

    def head(self, x):
        return self.fc(F.relu(self.way(x.mean(dim=(2, 3)), self.square.weight)))


WAYS = {
    "matmul": lambda x, w: x @ w.T,
    "mm": lambda x, w: torch.mm(x, w.t()),
    "addmm": lambda x, w: torch.addmm(torch.zeros_like(x), x, w.t()),
    "aten": lambda x, w: torch.ops.aten.mm.default(x, w.t()),
}
OF_GRADIENTS = ("snip", "grad_norm", "grasp", "zico", "gradsign", "ssnr")


@pytest.mark.parametrize("way", WAYS)
def test_a_product_with_parametrised_weights_is_their_layer(way, images):
    specs = (*OF_GRADIENTS, "synflow", "logsynflow", "entropic_score", "fisher")
    one, other = (scores(Product(way), images, specs, keep_weights=True) for way in (WAYS[way], F.linear))
    assert differing(one, other) == {}
    assert _numbers(one.values())


def test_a_product_of_another_form_has_the_gradients_of_the_weights(images):
    def einsum(x, w):
        return torch.einsum("bi,oi->bo", x, w)

    one, other = (scores(Product(way), images, OF_GRADIENTS, keep_weights=True) for way in (einsum, F.linear))
    assert differing(one, other) == {}


def test_parametrised_weights_and_their_transpose_have_no_sum(images):
    def tied(x, w):
        return F.linear(F.linear(x, w), w.T)

    found = scores(Product(tied), images, ["snip", "synflow"], keep_weights=True)
    reason = "parametrised layer square is applied in two ways, one of them transposed or a part"
    assert set(found.values()) == {reason}


def test_a_frozen_layer_has_no_flow_whether_it_is_parametrised(images):
    networks = [Net(), Hooked(parametrizations.weight_norm)]
    for network in networks:
        network.c2.requires_grad_(False)
    one, other = (scores(network, images, ["synflow", "snip"], keep_weights=True) for network in networks)
    assert differing(one, other) == {}


class Merged(Net):
    """Two kernels in one convolution, as RepVGG deploys them."""

    def __init__(self):
        super().__init__()
        self.also = nn.Conv2d(6, 6, 3, padding=1)

    def second(self, x):
        return F.relu(self.n2(F.conv2d(x, self.c2.weight + self.also.weight, padding=1)))


def test_the_output_of_merged_kernels_is_no_layers(images):
    found = scores(Merged(), images, ["zico_bc", "t_cet", "t_cet:codes=relu", "zico"])
    assert {spec for spec, value in found.items() if value == "the weights of a convolution belong to no layer"} == {
        *("zico_bc", "t_cet", "t_cet:codes=relu")
    }
    assert not isinstance(found["zico"], str)


# Parameters and buffers that are no features --------------------------------------------------------------


class Fusion(Net):
    """Branches are weighted by a ReLU of parameters, as in BiFPN; the twin takes their maximum with 0."""

    def __init__(self, function):
        super().__init__()
        self.function, self.w = function, nn.Parameter(torch.tensor([0.7, -0.3]))

    def forward(self, x):
        x, w = self.first(x), self.function(self.w)
        return self.head(self.third(w[0] * x + w[1] * self.second(x)))


def test_an_activation_of_parameters_is_no_feature(images):
    specs = [spec for spec in PLAIN if "flops" not in spec]
    specs += ["rcor", "acor", "gcor", "intrain", "t_cet", "layerwise_naswot", "lswag", "zico_bc"]
    one, other = (scores(Fusion(f), images, specs) for f in (F.relu, lambda w: w.clamp(min=0)))
    assert differing(one, other) == {}
    assert find_layout(Fusion(F.relu), (3, 8, 8), torch.device("cpu"), torch.Generator().manual_seed(3)).first


class Constant(Net):
    """A convolution with a kernel that is not trained: the twin's is positive."""

    def __init__(self, positive=False, persistent=True):
        super().__init__()
        kernel = torch.randn(6, 6, 3, 3, generator=torch.Generator().manual_seed(7))
        self.register_buffer("kernel", kernel.abs() if positive else kernel, persistent=persistent)

    def second(self, x):
        return F.relu(self.n2(F.conv2d(x, self.kernel, padding=1)))


def test_buffers_are_made_absolute_as_parameters_are(images):
    specs = ("synflow", "logsynflow", "entropic_score")
    signed, positive = (scores(Constant(which), images, specs) for which in (False, True))
    assert differing(signed, positive) == {}
    beside = scores(Constant(), images, ("snip", *specs, "naswot"))  # the buffer has its signs again
    assert {spec: beside[spec] for spec in ("snip", "naswot")} == scores(Constant(), images, ("snip", "naswot"))
    assert scores(Constant(persistent=False), images, specs)["synflow"] != signed["synflow"]


# Biases of single images ----------------------------------------------------------------------------------


class Keys(nn.Module):
    """Attention to keys and values of another width: its biases are one Parameter, its weights are three."""

    def __init__(self):
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(1)
            self.embed, self.other, self.head = nn.Linear(12, 8), nn.Linear(12, 6), nn.Linear(8, 5)
            self.attention = nn.MultiheadAttention(8, 2, kdim=6, vdim=6, batch_first=True)
            nn.init.normal_(self.attention.in_proj_bias)

    def forward(self, x):
        tokens = F.unfold(x, 2, stride=2).transpose(1, 2)
        keys = self.other(tokens)
        return self.head(self.attention(self.embed(tokens), keys, keys, need_weights=False)[0].mean(dim=1))


class Deep(Net):
    """Two linear layers before the classifier, whose biases no BatchNorm takes away."""

    def __init__(self):
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(9)
            self.one, self.two = nn.Linear(6, 6), nn.Linear(6, 6)

    def head(self, x):
        return super().head(F.relu(self.two(F.relu(self.one(x.mean(dim=(2, 3))))))[:, :, None, None])


class SharedBias(Deep):
    def __init__(self):
        super().__init__()
        self.two.bias = self.one.bias


class AddedBias(Deep):
    def head(self, x):
        x = F.relu(F.linear(x.mean(dim=(2, 3)), self.one.weight) + self.one.bias)
        return Net.head(self, F.relu(self.two(x))[:, :, None, None])


class DoubledBias(Deep):
    def __init__(self):
        super().__init__()
        for layer in (self.one, self.two):
            parametrize.register_parametrization(layer, "bias", Doubled())


@pytest.mark.parametrize("kind", [Deep, Keys, SharedBias, AddedBias, DoubledBias])
@pytest.mark.parametrize("keep", [True, False])
def test_biases_in_closed_form_are_those_of_one_image_at_a_time(kind, keep, images, monkeypatch):
    found = scores(kind(), images, ["ntk_trace"], keep_weights=keep)
    monkeypatch.setattr(persample, "_at_once", lambda *args, **kwargs: ({}, None))
    one_by_one = scores(kind(), images, ["ntk_trace"], keep_weights=keep)
    assert differing(found, one_by_one) == {}
    assert _numbers(found.values())


# State outside of buffers ---------------------------------------------------------------------------------


class Stateful(Net):
    """Keeps a running mean, a step, generators and a list as attributes, and begins by what it reads first."""

    def __init__(self):
        super().__init__()
        self.mean, self.steps, self.begun, self.modes = torch.zeros(6), 0, False, []
        self.generator, self.rng, self.shift = torch.Generator().manual_seed(1), np.random.default_rng(2), torch.ones(1)
        self.past = {"means": deque(maxlen=3)}

    def train(self, mode=True):
        self.mode = mode
        return super().train(mode)

    def first(self, x):
        assert self.mode == self.training
        if not self.begun:
            self.begun, self.scale = True, float(x.abs().mean())
        x = super().first(x)
        self.steps += 1
        self.shift.mul_(1.1)
        self.mean = 0.9 * self.mean + 0.1 * x.detach().mean(dim=(0, 2, 3)).float()
        self.past["means"].append(float(x.detach().mean()))
        drawn = float(torch.rand(1, generator=self.generator)) + self.rng.random()
        return x * self.scale * self.steps + drawn + sum(self.past["means"]) + self.mean[:, None, None] * self.shift


@pytest.mark.parametrize("keep", [True, False])
def test_what_a_network_keeps_in_attributes_is_brought_back_between_passes(keep, images):
    network = Stateful()
    specs = ["snip", "zen", "synflow", "grasp", "jacov"]
    together = scores(network, images, specs, keep_weights=keep)
    for spec in specs:
        assert scores(network, images, [spec], keep_weights=keep)[spec] == together[spec]
    assert _numbers(together.values())
    assert (network.steps, network.begun, len(network.past["means"])) == (0, False, 0)


def test_attributes_are_restored_where_they_are():
    module = nn.Module()
    module.one, module.held = torch.zeros(2), [torch.ones(2), 3, {"a": 1}]
    module.same, module.array = module.one, np.zeros(2)
    module.weight = nn.Parameter(torch.zeros(2))
    module.alias = [module.weight]
    state, one = State([module]), module.one
    module.one.add_(1)
    module.held[0].add_(1)
    module.held[2]["a"], module.new = 5, 1
    module.array += 1
    module.held.append(4)
    module.weight.data.add_(1)
    state.restore()
    assert module.one is one is module.same
    assert (module.one.tolist(), module.held[0].tolist(), module.held[1:]) == ([0, 0], [1, 1], [3, {"a": 1}])
    assert (module.array.tolist(), module.weight.tolist()) == ([0, 0], [0, 0])
    assert module.alias[0] is module.weight
    assert not hasattr(module, "new")


# One type alone -------------------------------------------------------------------------------------------


class Single(Net):
    """Computes in float32 whatever it is given."""

    def forward(self, x):
        return super().forward(x.float())


def test_a_network_of_one_type(images):
    specs = [f"{name}:dtype=float32:batch_size=6" for name in ("naswot", "fisher", "near", "snip")]
    one, other = (harness.score(network, images, LABELS, specs) for network in (Single(), Net()))
    assert dict(one) == dict(other)
    status = harness.score(Single(), images, LABELS, ["synflow", "entropic_score"]).attrs["status"]
    assert all(
        text.startswith("the network cannot compute in float64, as this pass does (") for text in status.values()
    )


# Single cases ---------------------------------------------------------------------------------------------


def test_projections_that_share_a_parameter_keep_the_first_draw():
    def first(shared):
        layers = nn.ModuleList(nn.MultiheadAttention(8, 2) for _ in range(2))
        if shared:
            layers[1].in_proj_weight = layers[0].in_proj_weight
        initialise(layers, "xavier", torch.Generator().manual_seed(3))
        return layers[0].in_proj_weight

    assert torch.equal(first(True), first(False))


def test_layers_that_a_share_of_the_depth_leaves_out(images):
    found = scores(Net(), images, ["lswag:first=0.4:last=0.45"])
    assert set(found.values()) == {"of 4 layers none lies between first=0.4 and last=0.45"}
