"""What holds for every proxy, those of other packages too: a registered one is tested as soon as it exists.

Networks are tiny. `Hybrid` has something for every pass to read (stages, BatchNorm, ReLUs, attention), so
that every proxy that reads a network has a score there; what reads an encoding gets that of a cell as well.
"""

from __future__ import annotations

import dataclasses
import math
import pickle
import random
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from torch import nn

from harness.engine.scorer import Job, Result, score_subject
from harness.engine.scoring import plan
from harness.errors import HarnessError, UnknownNameError
from harness.probes.base import EncodingProbe, Probe, Subject, Unscorable
from harness.probes.initialise import initialise
from harness.proxies import available, get_proxy
from harness.proxies.base import Proxy
from harness.spaces.nasbench201 import CONV1, CONV3, NONE, POOL, SKIP, NasBench201, encode

#: Settings that make a pass cheap, given to the proxies that have them.
SMALL = {"batch_size": 6, "resolution": 8}
#: Those of proxies that need others to tell networks apart.
OWN = {
    "knas": {"minibatches": 4, "entries": 8},
    "lswag": {"patterns": 12, "repeats": 2},
    "meco_opt": {"channels": 4},
    "min_eigenvalue": {"lowest": 3},
    "nregions": {"samples": 1000, "resolution": 3},
    "swap": {"batch_size": 12},
    "swap_reg": {"batch_size": 12, "mu": 1.0, "sigma": 100.0},
}
#: Settings that take another way through a proxy than its defaults.
VARIANTS = (
    "dss:variant=repo",
    "dss:variant=supernet",
    "epads:pairs=all",
    "eznas_a:variant=repo",
    "flops:count=all",
    "grad_norm:norm=all",
    "gradsign:form=mean",
    "grasp:keep=large",
    "intrain:part=gradient",
    "intrain:part=ratio",
    "intrain:part=sum",
    "lswag:last=0.9",
    "mlfe:variant=repo",
    "meco:modules=all",
    "near:variant=repo",
    "nregions:network=thin",
    "ntk_min:variant=repo",
    "ssnr:saliency=grad",
    "ssnr:saliency=synflow",
    "t_cet:codes=relu",
    "ssnr:variant=repo",
    "t_cet:saliency=synflow",
    "vkdnw:rows=1",
    "t_cet:variant=repo",
    "vkdnw:variant=repo",
    "zico:minibatches=3",
)
NAMES = sorted(available())
SPECS = [*NAMES, *VARIANTS]


def cheap(spec: str, **settings: Any) -> Proxy:
    """The proxy with those of the small settings, and of `settings`, that it has."""
    proxy = get_proxy(spec)
    own = {field.name for field in dataclasses.fields(proxy)}
    wanted = {**SMALL, **OWN.get(proxy.name, {}), **settings}
    return dataclasses.replace(proxy, **{k: v for k, v in wanted.items() if k in own})


def every(**settings: Any) -> list[Proxy]:
    return [cheap(spec, **settings) for spec in SPECS]


# Subjects -------------------------------------------------------------------------------------------------


class SelfAttention(nn.Module):
    """Attention over the positions of a feature map."""

    def __init__(self, width: int):
        super().__init__()
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        tokens = x.flatten(2).transpose(1, 2)
        q, k, v = self.qkv(tokens).chunk(3, dim=2)
        share = (q @ k.transpose(1, 2) / q.shape[2] ** 0.5).softmax(dim=2)
        return x + self.proj(share @ v).transpose(1, 2).reshape(x.shape)


class TokenMlp(nn.Module):
    """Two linear layers on the positions of a feature map as tokens."""

    def __init__(self, width: int):
        super().__init__()
        self.up, self.act, self.down = nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        tokens = x.flatten(2).transpose(1, 2)
        return x + self.down(self.act(self.up(tokens))).transpose(1, 2).reshape(x.shape)


def block(inputs: int, outputs: int, stride: int = 1, norm: bool = True, act: bool = True) -> nn.Sequential:
    layers = [
        nn.ReLU(inplace=True) if act else nn.Identity(),
        nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=not norm),
        nn.BatchNorm2d(outputs) if norm else nn.Identity(),
    ]
    return nn.Sequential(*layers)


class Hybrid(nn.Module):
    """Stages of ReLU, convolution, BatchNorm, one strided; attention and an MLP; a linear layer on pooled features."""

    def __init__(
        self,
        classes: int = 3,
        width: int = 5,
        depth: int = 2,
        norm: bool = True,
        act: bool = True,
        rest: bool = True,
        mlp: bool = True,
    ):
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, width, 3, padding=1, bias=not norm), nn.BatchNorm2d(width) if norm else nn.Identity()
        )
        self.cells = nn.ModuleList([block(width, width, 1, norm, act) for _ in range(depth)])
        self.down = block(width, width + 2, 2, norm, act)
        self.attention = SelfAttention(width + 2) if rest else nn.Identity()
        self.mlp = TokenMlp(width + 2) if rest and mlp else nn.Identity()
        self.last = nn.ReLU(inplace=True) if act else nn.Identity()
        self.head = nn.Linear(width + 2, classes)

    @property
    def stages(self) -> list[nn.Module]:
        return [self.stem, *self.cells, self.down]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        for cell in self.cells:
            x = x + cell(x)
        return self.head(self.last(self.mlp(self.attention(self.down(x)))).mean(dim=(2, 3)))


class Thin(nn.Module):
    """The thin twin of a network: images of 3 x 3 meet nine ReLUs a layer."""

    def __init__(self, classes: int, depth: int):
        super().__init__()
        layers = [layer for _ in range(depth) for layer in (nn.Conv2d(1, 1, 3, padding=1), nn.ReLU())]
        self.body = nn.Sequential(nn.Conv2d(3, 1, 3, padding=1), nn.ReLU(), *layers)
        self.head = nn.Linear(1, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(x).mean(dim=(2, 3)))


def batches(shape: tuple[int, int, int], classes: int) -> Callable[[int, int], tuple[torch.Tensor, torch.Tensor]]:
    """Mini-batches that are made once and handed out again, as to all networks of a run."""

    @cache
    def batch(number: int, size: int) -> tuple[torch.Tensor, torch.Tensor]:
        generator = torch.Generator().manual_seed(7 + number)
        images = torch.randn(size, *shape, generator=generator)
        return images, torch.randint(classes, (size,), generator=generator)

    return batch


def subject_of(
    network: nn.Module | None = None,
    seed: int = 1,
    shape: tuple[int, int, int] = (3, 8, 8),
    classes: int = 3,
    batch: Callable | None = None,
    thin: int | None = 1,
) -> Subject:
    """A subject of `network`, with a thin twin of depth `thin`."""
    network = network or Hybrid(classes)
    batch = batch or batches(shape, classes)

    def twin() -> Subject:
        return subject_of(Thin(classes, thin), seed, shape, classes, batch, None)

    return Subject(
        network,
        batch,
        seed,
        shape,
        classes,
        torch.device("cpu"),
        stages=getattr(network, "stages", None),
        thin=None if thin is None else twin,
    )


CELL = encode([CONV3, POOL, CONV1, SKIP, NONE, CONV1])


def read_cell(probe: EncodingProbe) -> dict[str, Any]:
    seen = probe.read(NasBench201(), [CELL], 10, 32)
    return {name: value[0] if isinstance(value, np.ndarray) else value for name, value in seen.items()}


def exact(results: Mapping[str, Result]) -> dict[str, tuple]:
    """Scores as text that shows each bit, without the times."""
    return {
        label: (None if found.score is None else float(found.score).hex(), found.status)
        for label, found in results.items()
    }


def evaluate(proxies: Iterable[Proxy], subject: Subject) -> dict[str, tuple]:
    """By label the score of the network alone and, where an encoding answers, that of a cell too."""
    proxies = list(proxies)
    encoded = [p for p in proxies if all(isinstance(probe, EncodingProbe) for probe in p.needs())]
    found: dict[str, tuple] = {label: (one,) for label, one in exact(score_subject(subject, proxies)).items()}
    for label, two in exact(score_subject(subject, encoded, read_cell)).items():
        found[label] += (two,)
    return found


@pytest.fixture(scope="module")
def together() -> dict[str, tuple]:
    """Every proxy on the usual network, in one call, by label."""
    return evaluate(every(), subject_of())


# Declarations ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_declaration(name):
    cls = available()[name]
    assert cls.name == name
    assert name == name.lower()
    assert not set(name) & set(":=,()[] \t")
    assert cls.summary.strip()
    assert "\n" not in cls.summary
    assert cls.citation.strip()
    assert isinstance(cls.version, int)
    assert cls.version >= 1
    assert cls.inputs in {"images", "random", "none"}
    assert cls.sign in (1, -1)
    assert isinstance(cls.random, bool)
    assert dataclasses.is_dataclass(cls)
    assert hash(cls()) == hash(cls())
    with pytest.raises(dataclasses.FrozenInstanceError):
        cls().label_of_a_setting = 1


def other_values(proxy: Proxy) -> list[Proxy]:
    """The proxy with one setting changed, for each setting whose other values are known."""
    changed = []
    for field in dataclasses.fields(proxy):
        value = getattr(proxy, field.name)
        if field.name == "biases":  # which torch's own initialisation draws alone
            changed.append({"biases": not value, "init": "default"})
        elif isinstance(value, bool):
            changed.append({field.name: not value})
        elif isinstance(value, int):
            changed.append({field.name: value + 1})
        elif isinstance(value, float):
            changed.append({field.name: value / 3 or 0.5})
        elif field.name == "init":
            changed.append({"init": "gaussian" if value == "default" else "default"})
        elif field.name == "dtype":
            changed.append({"dtype": "float64"})
    return [dataclasses.replace(proxy, **change) for change in changed]


@pytest.mark.parametrize("spec", SPECS)
def test_label_names_the_proxy_with_its_settings(spec):
    proxy = get_proxy(spec)
    assert proxy.label == spec
    others = [cheap(spec), *other_values(proxy), *other_values(cheap(spec, init="xavier", dtype="float64"))]
    for other in others:
        again = get_proxy(other.label)
        assert again == other
        assert type(again) is type(other)
        assert again.label == other.label
    labels = [proxy.label, *(other.label for other in other_values(proxy))]
    assert len(set(labels)) == len(labels)


@pytest.mark.parametrize("name", NAMES)
def test_a_setting_that_no_proxy_has_is_refused(name):
    with pytest.raises(UnknownNameError, match="setting"):
        get_proxy(f"{name}:no_such_setting=1")
    with pytest.raises(HarnessError):
        get_proxy(f"{name}:batch_size")
    for field in dataclasses.fields(available()[name]):
        if type(field.default) in (int, float, bool):
            with pytest.raises(HarnessError, match=field.name):
                get_proxy(f"{name}:{field.name}=x")


def wrong_values(name: str) -> list[str]:
    """Settings of the right type and a value that means nothing, one at a time."""
    found = ["dtype=float16", "init=kaimig", "minibatches=1", "k=0", "k=10"]
    names = {field.name for field in dataclasses.fields(available()[name])}
    found = [text for text in found if text.partition("=")[0] in names]
    for field in dataclasses.fields(available()[name]):
        if type(field.default) is str:
            found.append(f"{field.name}=foo")
        elif type(field.default) is int:
            found += [f"{field.name}={value}" for value in (0, -1) if value != field.default]
    found = [text for text in found if (name, text) != ("nregions", "resolution=0")]  # that of the mini-batches
    return [f"{name}:{text}" for text in found]


@pytest.mark.parametrize("name", NAMES)
def test_a_value_that_means_nothing_is_refused(name):
    for spec in wrong_values(name):
        setting, _, value = spec.partition(":")[2].partition("=")
        with pytest.raises(HarnessError, match=f"{setting}.*{value}"):
            get_proxy(spec)


@pytest.mark.parametrize(
    "spec", ["grasp:keep=foo", "vkdnw:variant=x", "vkdnw_decile:k=12", "snip:init=foo", "snip:dtype=float16"]
)
def test_a_run_with_such_a_value_does_not_begin(spec, tmp_path):
    with pytest.raises(HarnessError, match=spec.partition("=")[2]):
        plan(Job("nasbench201", "cifar10", ("flops", spec), store=str(tmp_path)))


def test_a_mistyped_value_is_answered_with_the_nearest():
    for spec, near in (("snip:init=kaimig_fan_in", "kaiming_fan_in"), ("vkdnw:dtype=float46", "float64")):
        with pytest.raises(UnknownNameError, match=f"did you mean '{near}'"):
            get_proxy(spec)


@pytest.mark.parametrize("name", [n for n in NAMES if "init" in {f.name for f in dataclasses.fields(available()[n])}])
def test_the_initialisation_is_a_setting(name):
    proxy = cheap(name)
    names = ("kaiming_fan_in", "kaiming_fan_out", "default", "xavier", "truncated_normal", "supernet")
    schemes = [cheap(name, init=scheme) for scheme in names]
    assert proxy in schemes
    assert len({found[0] for found in evaluate(schemes, subject_of()).values()}) > 1


def test_the_initialisation_of_nasbench_pytorch():
    """He's law over the outputs for convolutions, N(0, 0.01) for linear layers, as that package's network has."""
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten(), nn.Linear(400, 100))
    initialise(network, "nasbench_pytorch", torch.Generator().manual_seed(3))
    draws = torch.Generator().manual_seed(3)
    convolution = torch.empty(8, 3, 3, 3).normal_(0, (2 / (9 * 8)) ** 0.5, generator=draws)
    torch.testing.assert_close(network[0].weight, convolution)
    torch.testing.assert_close(network[2].weight, torch.empty(100, 400).normal_(0, 0.01, generator=draws))
    assert not network[0].bias.any()
    assert not network[2].bias.any()


# A score depends on the subject's seed and on nothing else ------------------------------------------------


@pytest.mark.parametrize("spec", SPECS)
def test_has_a_score(together, spec):
    """What follows would be met by a proxy that fails everywhere."""
    assert "ok" in {status for _, status in together[cheap(spec).label]}


@pytest.mark.parametrize("spec", SPECS)
def test_alone_as_together_with_all_others(together, spec):
    proxy = cheap(spec)
    assert evaluate([proxy], subject_of()) == {proxy.label: together[proxy.label]}


def test_the_order_of_the_proxies_does_not_matter(together):
    assert evaluate(reversed(every()), subject_of()) == together
    others = [*every(dtype="float64"), *every(init="default"), *every(batch_size=5)]
    assert evaluate([*others, *every()], subject_of()).items() >= together.items()


@pytest.mark.parametrize("spec", SPECS)
def test_the_order_of_the_networks_does_not_matter(spec):
    """All read the same mini-batches, which none may change."""
    networks = [(3, 1), (5, 2), (4, 3)]
    proxy = cheap(spec)

    def run(order: list[tuple[int, int]]) -> dict[tuple[int, int], tuple]:
        batch = batches((3, 8, 8), 3)
        found = {}
        for width, depth in order:
            subject = subject_of(Hybrid(3, width, depth), seed=width, batch=batch, thin=depth)
            found[width, depth] = evaluate([proxy], subject)[proxy.label]
        return found

    there, back = run(networks), run(networks[::-1])
    assert there == back
    from_networks = [found[0] for found in there.values()]
    if any(status == "ok" for _, status in from_networks):
        assert len(set(from_networks)) == len(networks)


@pytest.mark.parametrize("spec", SPECS)
def test_scoring_a_subject_again_gives_the_same(together, spec):
    proxy, subject = cheap(spec), subject_of()
    first = evaluate([proxy], subject)
    assert first == {proxy.label: together[proxy.label]}
    with torch.no_grad():  # the weights that it came with and those of the last pass do not count
        for value in subject.network.state_dict().values():
            value.fill_(2)
    subject.network.eval()
    torch.manual_seed(99)
    np.random.seed(98)
    random.seed(97)
    assert evaluate([proxy], subject) == first


@pytest.mark.parametrize("spec", SPECS)
def test_the_seed_changes_what_is_random(together, spec):
    proxy = cheap(spec)
    found = [together[proxy.label], *(evaluate([proxy], subject_of(seed=s))[proxy.label] for s in (2, 3, 4))]
    different = len(set(found))
    if not proxy.random:
        assert different == 1
    elif proxy.name in ("epsinas", "w_pca"):
        assert different >= 1  # one draws nothing but its images, the other counts a dozen components
    elif proxy.name == "gradsign" or all(float.fromhex(score).is_integer() for ((score, _), *_) in found):
        assert different >= 2  # counts, and their means, may coincide now and then
    else:
        assert different == 4


@pytest.mark.parametrize("spec", [spec for spec in SPECS if get_proxy(spec).inputs == "none"])
def test_what_reads_no_inputs_needs_none(together, spec):
    """Its score and status are stored for all images at once."""

    def batch(number: int, size: int) -> tuple[torch.Tensor, torch.Tensor]:
        raise AssertionError("a mini-batch was asked for")

    proxy = cheap(spec)
    assert evaluate([proxy], subject_of(batch=batch)) == {proxy.label: together[proxy.label]}


# Nothing is left behind -----------------------------------------------------------------------------------

HOOKS = (
    "_forward_hooks",
    "_forward_pre_hooks",
    "_backward_hooks",
    "_backward_pre_hooks",
    "_forward_hooks_with_kwargs",
)


def generators() -> list[bytes]:
    return [
        torch.get_rng_state().numpy().tobytes(),
        pickle.dumps(np.random.get_state(legacy=True)),
        pickle.dumps(random.getstate()),
    ]


def traces(network: nn.Module) -> list[str]:
    """What passes have left on a network."""
    found = []
    for name, module in network.named_modules():
        found += [f"{name}: {kind}" for kind in HOOKS if getattr(module, kind)]
        found += [f"{name}: forward"] if "forward" in vars(module) else []
    for name, parameter in network.named_parameters():
        found += [f"{name}: grad"] if parameter.grad is not None else []
        found += [f"{name}: hook"] if parameter._backward_hooks else []
        found += [f"{name}: graph"] if parameter.grad_fn is not None else []
    return found


def test_traces_are_seen():
    network = Hybrid()
    subject_of(network)
    assert traces(network) == []
    network.stem.register_forward_hook(print)
    network.down.forward = lambda x: x
    network.head(torch.ones(1, 7)).sum().backward()
    network.head.weight.register_hook(print)
    assert sorted(traces(network)) == [
        "down: forward",
        "head.bias: grad",
        "head.weight: grad",
        "head.weight: hook",
        "stem: _forward_hooks",
    ]


class Broken(Hybrid):
    """Fails at the end of its forward pass."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        super().forward(x)
        raise RuntimeError("broken network")


@pytest.mark.parametrize("network", [Hybrid, Broken])
@pytest.mark.parametrize("spec", SPECS)
def test_no_trace(spec, network):
    proxy, batch = cheap(spec, batch_size=6), batches((3, 8, 8), 3)
    before = [tuple(t.clone() for t in batch(number, 6)) for number in range(4)]
    subject = subject_of(network(), batch=batch, thin=None)
    structure = {name: id(module) for name, module in subject.network.named_modules()}
    state = generators()
    (result,) = score_subject(subject, [proxy]).values()
    assert generators() == state
    assert torch.is_grad_enabled()
    assert traces(subject.network) == []
    assert {name: id(module) for name, module in subject.network.named_modules()} == structure
    for number, kept in enumerate(before):
        for was, now in zip(kept, batch(number, 6), strict=True):
            assert torch.equal(was, now)
            assert not now.requires_grad
            assert now.grad is None
    if proxy.name == "l2_norm":  # no forward pass
        assert result.status == "ok"
    elif network is Broken and "encoding" not in result.status:
        assert result == Result(None, result.seconds, "error: RuntimeError: broken network")
    subject.initialise("default")
    assert all(parameter.requires_grad for parameter in subject.network.parameters())
    assert all(module.training for module in subject.network.modules())


@pytest.mark.parametrize("spec", SPECS)
def test_frozen_parameters_stay_frozen(spec):
    """A network that is trained in part has a score or says why not, and keeps what is frozen."""
    network = Hybrid()
    network.stem.requires_grad_(False)
    network.head.bias.requires_grad_(False)
    subject = subject_of(network)
    frozen = {name for name, parameter in network.named_parameters() if not parameter.requires_grad}
    (result,) = score_subject(subject, [cheap(spec)]).values()
    assert not result.status.startswith("error")
    subject.initialise("default")
    assert {name for name, parameter in network.named_parameters() if not parameter.requires_grad} == frozen


# Precision ------------------------------------------------------------------------------------------------

#: Logarithm below which a decile of the family's information is rounding: 1e-15 of the greatest eigenvalue.
LEAST_DECILE = -25.0
FAMILY = [(width, depth) for width in (3, 4, 6, 8, 11) for depth in (0, 1, 3, 5)]


def family_scores(proxies: list[Proxy]) -> dict[str, np.ndarray]:
    batch = batches((3, 8, 8), 3)
    rows = [
        score_subject(subject_of(Hybrid(3, *key), seed=place, batch=batch, thin=key[1]), proxies)
        for place, key in enumerate(FAMILY)
    ]
    return {
        p.label: np.array([np.nan if r[p.label].score is None else r[p.label].score for r in rows]) for p in proxies
    }


@pytest.fixture(scope="module")
def precisions() -> Callable[[str], tuple[np.ndarray, np.ndarray]]:
    """Scores of the family by spec, in float32 and in float64."""
    specs = [spec for spec in SPECS if hasattr(get_proxy(spec), "dtype")]
    single, double = (family_scores([cheap(s, dtype=dtype) for s in specs]) for dtype in ("float32", "float64"))
    return lambda spec: (single[cheap(spec).label], double[cheap(spec, dtype="float64").label])


@pytest.mark.parametrize("spec", [spec for spec in SPECS if hasattr(get_proxy(spec), "dtype")])
def test_float32_ranks_as_float64(precisions, spec):
    single, double = precisions(spec)
    both = np.isfinite(single) & np.isfinite(double)
    assert both.all()
    assert len(set(double)) > 10
    if spec == "vkdnw_decile":  # of an information of less than full rank some are rounding, which is as good as any
        single, double = (np.maximum(scores, LEAST_DECILE) for scores in (single, double))
        assert np.count_nonzero(double > LEAST_DECILE) > 5
    assert spearmanr(single, double).statistic >= 0.99


def test_zico_of_minibatches_that_are_nearly_equal():
    """The weights whose gradient varies least count most: their deviation is not to drown in rounding."""
    generator = torch.Generator().manual_seed(3)
    images, labels = torch.randn(6, 3, 8, 8, generator=generator), torch.arange(6) % 3

    def batch(number: int, size: int) -> tuple[torch.Tensor, torch.Tensor]:
        return images * (1 + number * 1e-4), labels

    subject = subject_of(nn.Sequential(nn.Flatten(), nn.Linear(192, 3)), batch=batch)
    (result,) = score_subject(subject, [cheap("zico")]).values()
    weight = subject.network[1].weight
    grads = []
    for number in range(2):
        loss = nn.functional.cross_entropy(subject.network(batch(number, 6)[0]), labels)
        grads.append(torch.autograd.grad(loss, weight)[0].double().numpy())
    deviation = np.abs(grads[0] - grads[1]) / 2
    mean = (np.abs(grads[0]) + np.abs(grads[1])) / 2
    varies = deviation > 0
    assert result.score == pytest.approx(np.log((mean[varies] / deviation[varies]).sum()), rel=1e-4)


# What is no number ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Seen(Probe):
    """Observes the number that it was made with."""

    value: float

    def run(self, subject: Subject, wanted: frozenset[str]) -> dict[str, Any]:
        return {"value": self.value}


@dataclass(frozen=True)
class Echo(Proxy):
    name: ClassVar[str] = "echo"
    summary: ClassVar[str] = "what it was told"
    citation: ClassVar[str] = "none"
    inputs: ClassVar[str] = "none"

    value: Any = 1.0

    def needs(self) -> Mapping[Probe, tuple[str, ...]]:
        return {Seen(1.0): ("value",)}

    def score(self, seen: Mapping[str, Any]) -> float:
        return self.value


@pytest.mark.parametrize(
    ("value", "status"),
    [
        (float("nan"), "nan"),
        (np.float32("nan"), "nan"),
        (float("inf"), "inf"),
        (np.float64("-inf"), "-inf"),
        (torch.tensor(float("inf")), "inf"),
    ],
)
def test_nan_and_infinity_are_no_scores(value, status):
    (result,) = score_subject(subject_of(), [Echo(value)]).values()
    assert result.score is None
    assert result.status == status


@pytest.mark.parametrize("value", [None, "many", (1.0, 2.0), 1j, 10**400])
def test_what_is_no_number_is_an_error(value):
    (result,) = score_subject(subject_of(), [Echo(value)]).values()
    assert result.score is None
    assert result.status.startswith("error: ")


@pytest.mark.parametrize("value", [0, -0.0, True, np.float32(1.5), np.int64(7), torch.tensor(2.5), 1.7e308, 5e-324])
def test_numbers_are_scores(value):
    (result,) = score_subject(subject_of(), [Echo(value)]).values()
    assert result.status == "ok"
    assert type(result.score) is float
    assert result.score == float(value)
    assert result.seconds >= 0


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (Unscorable("too small"), "too small"),
        (ValueError("first line\nsecond line"), "error: ValueError: first line"),
        (ZeroDivisionError(), "error: ZeroDivisionError"),
    ],
)
def test_what_goes_wrong_is_a_status(error, status):
    @dataclass(frozen=True)
    class Failing(Echo):
        name: ClassVar[str] = "failing"

        def score(self, seen: Mapping[str, Any]) -> float:
            raise error

    results = score_subject(subject_of(), [Failing(), Echo(2.0)])
    assert results["failing"].score is None
    assert results["failing"].status == status
    assert results["echo:value=2.0"].score == 2.0


class Undefined(Hybrid):
    """Computes nothing but NaN."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x * float("nan"))


#: Proxies that read weights and shapes alone, and not what the network computes.
WEIGHTS_ALONE = {"flops", "params", "trainable_layers", "l2_norm"}


@pytest.mark.parametrize("spec", [spec for spec in SPECS if get_proxy(spec).name not in WEIGHTS_ALONE])
def test_a_network_that_computes_nan_has_no_score(spec):
    (result,) = score_subject(subject_of(Undefined(), thin=None), [cheap(spec)]).values()
    assert result.score is None
    assert result.status != "ok"


@pytest.mark.parametrize("spec", ["az_expressivity", "az_progressivity", "az_trainability", "meco", "naswot", "zen"])
def test_a_network_that_computes_nan_is_named_as_the_cause(spec):
    (result,) = score_subject(subject_of(Undefined(), thin=None), [cheap(spec)]).values()
    assert result.status.endswith(("is not finite", "are not finite"))


def test_gradients_that_are_nan_are_no_identity():
    """And stages whose outputs are finite keep their entropies."""
    found = score_subject(subject_of(Kinked(), thin=None), [cheap("az_trainability"), cheap("az_expressivity")])
    trainability, expressivity = found.values()
    assert trainability.status == "a gradient between stages is not finite"
    assert expressivity.status == "ok"


@pytest.mark.parametrize("spec", SPECS)
def test_a_network_that_computes_nan_is_no_error(spec):
    """Rows of an error are computed anew by every run: NaN will be NaN again."""
    (result,) = score_subject(subject_of(Undefined(), thin=None), [cheap(spec)]).values()
    assert not result.status.startswith("error")


class Kinked(Hybrid):
    """Outputs are finite, but no gradient gets past the root of zero: those of the stem are NaN."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        x = x + (0 * x).abs().sqrt()
        for cell in self.cells:
            x = x + cell(x)
        return self.head(self.last(self.mlp(self.attention(self.down(x)))).mean(dim=(2, 3)))


#: Proxies that read gradients of every layer's weights, or of the images.
GRADIENTS = (
    "epe_nas",
    "fisher",
    "grad_norm",
    "grad_norm:norm=all",
    "gradsign",
    "grasp",
    "jacov",
    "logsynflow",
    "ntk",
    "plain",
    "snip",
    "ssnr",
    "ssnr:saliency=grad",
    "ssnr:saliency=synflow",
    "synflow",
    "t_cet",
    "vkdnw",
    "zico",
)


@pytest.mark.parametrize("spec", GRADIENTS)
def test_a_layer_whose_gradient_is_nan_is_not_left_out(spec):
    """A sum over the other layers is not the network's score."""
    (result,) = score_subject(subject_of(Kinked(), thin=None), [cheap(spec)]).values()
    assert result.score is None
    assert not result.status.startswith("error")


# Hard cases -----------------------------------------------------------------------------------------------


class Functional(Hybrid):
    """Declares a ReLU and calls the function in its place."""

    def __init__(self):
        super().__init__(act=False)
        self.relu = nn.ReLU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = nn.functional.relu(self.stem(x))
        return self.head(nn.functional.relu(self.attention(self.down(x))).mean(dim=(2, 3)))


class Idle(Hybrid):
    """Declares a ReLU that it never uses."""

    def __init__(self):
        super().__init__(act=False, mlp=False)
        self.relu = nn.ReLU()


@dataclass(frozen=True)
class Case:
    make: Callable[[], nn.Module]
    shape: tuple[int, int, int] = (3, 8, 8)
    classes: int = 3
    batch_size: int = 6


CASES = {
    "one image": Case(Hybrid, batch_size=1),
    "one class": Case(lambda: Hybrid(1), classes=1),
    "no ReLU": Case(lambda: Hybrid(act=False)),
    "no BatchNorm": Case(lambda: Hybrid(norm=False)),
    "oblong images": Case(Hybrid, shape=(3, 8, 12)),
    "odd images": Case(Hybrid, shape=(3, 7, 9)),
    "a single linear layer": Case(lambda: nn.Sequential(nn.Flatten(), nn.Linear(192, 3))),
    "a single convolution": Case(
        lambda: nn.Sequential(nn.Conv2d(3, 3, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()),
    ),
    "no weights": Case(lambda: nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())),
    "one channel": Case(lambda: Hybrid(3, 1, 1)),
    "no attention, no stages": Case(lambda: nn.Sequential(Hybrid(rest=False))),
    "ReLUs by function": Case(Functional),
    "a ReLU that is never called": Case(Idle),
}


def test_relus_that_are_never_called_are_missing_to_those_that_read_them_alone():
    """What shares the pass keeps its score."""
    readers = ["acor", "entropic_score", "gcor", "layerwise_naswot", "naswot", "nregions", "t_cet:codes=relu"]
    others = ["fisher", "grad_norm", "jacov", "snip", "t_cet"]
    proxies = {spec: cheap(spec) for spec in [*readers, *others]}
    found = score_subject(subject_of(Idle(), thin=None), proxies.values())
    reasons = {spec: found[proxies[spec].label].status for spec in readers}
    assert reasons == {
        spec: f"the network computes no {'activation' if spec == 'entropic_score' else 'ReLU'}" for spec in readers
    }
    for spec in others:
        label = proxies[spec].label
        (alone,) = score_subject(subject_of(Idle(), thin=None), [proxies[spec]]).values()
        assert alone.status == "ok"
        assert found[label].score == alone.score


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("spec", SPECS)
def test_hard_cases_have_a_score_or_a_reason(spec, case):
    network = CASES[case].make()
    subject = subject_of(network, shape=CASES[case].shape, classes=CASES[case].classes, thin=None)
    (result,) = score_subject(subject, [cheap(spec, batch_size=CASES[case].batch_size)]).values()
    if result.status == "ok":
        assert math.isfinite(result.score)
    else:
        assert result.score is None
    assert result.status
    assert not result.status.startswith("error")
    assert traces(network) == []
