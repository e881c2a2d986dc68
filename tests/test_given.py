"""What a user gives to `harness.score`: refused in one line before anything runs, or scored without a trace."""

from __future__ import annotations

import functools
import re
import weakref
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import prune

import harness
from harness.engine import api
from harness.errors import HarnessError
from harness.probes.base import SINGLE_VALUE
from harness.probes.operations import Watch
from harness.proxies import available


class Net(nn.Module):
    def __init__(self, classes: int = 3):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.relu, self.head = nn.ReLU(), nn.Linear(4, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.relu(self.norm(self.conv(x))).mean(dim=(2, 3)))


PROXIES = ["params", "flops", "snip", "synflow", "naswot", "gradsign", "fisher", "zen", "ntk"]


def given(classes: int = 3) -> tuple[nn.Module, torch.Tensor, torch.Tensor]:
    torch.manual_seed(4)
    return Net(classes), torch.randn(6, 3, 8, 8), torch.tensor([0, 1, 2, 2, 1, 0])


def bits(series: Any) -> dict[str, tuple[str, str]]:
    return {label: (float(score).hex(), series.attrs["status"][label]) for label, score in series.items()}


@pytest.fixture
def nothing_runs(monkeypatch) -> None:
    monkeypatch.setattr(api, "score_subject", lambda *args: pytest.fail("a pass has run"))


def refused(match: str, *arguments: Any, **options: Any) -> None:
    """One HarnessError of one line, for all proxies at once, those too that read no label."""
    with pytest.raises(HarnessError, match=match) as caught:
        harness.score(*arguments, **{"proxies": sorted(available()), **options})
    assert "\n" not in str(caught.value)


# Labels ---------------------------------------------------------------------------------------------------

ONE_HOT = F.one_hot(given()[2], 3)
WRONG_LABELS = {
    "ignored": (torch.tensor([0, 1, -100, 2, 1, 0]), r"label -100.*3 logits.*0 to 2.*left out"),
    "negative": (torch.tensor([0, 1, -1, 2, 1, 0]), r"label -1,.*0 to 2"),
    "too large": (torch.tensor([0, 1, 3, 2, 1, 0]), r"label 3,.*0 to 2"),
    "far too large": (torch.tensor([0, 1, 2**40, 2, 1, 0]), r"label 1099511627776,"),
    "floats": (torch.tensor([0.0, 1, 2, 2, 1, 0]), r"torch\.float32.*integers.*argmax"),
    "bool": (torch.tensor([True, False] * 3), r"torch\.bool"),
    "complex": (torch.zeros(6, dtype=torch.complex64), r"torch\.complex64"),
    "column": (given()[2][:, None], r"shape \(6, 1\).*squeeze\(1\)"),
    "one-hot": (ONE_HOT, r"shape \(6, 3\).*argmax"),
    "probabilities": (ONE_HOT.float(), r"torch\.float32.*argmax"),
    "one number": (torch.tensor(1), r"shape \(\)"),
    "list": ([0, 1, 2, 2, 1, 0], r"targets are a list: .*torch\.tensor\(targets\)"),
    "number": (1, r"targets are a int"),
    "numpy floats": (np.array([0.0, 1, 2, 2, 1, 0]), r"numpy array of float64"),
    "numpy text": (np.array(list("012210")), r"numpy array of <U1"),
    "numpy column": (np.array([[0], [1], [2], [2], [1], [0]]), r"shape \(6, 1\)"),
    "numpy negative": (np.array([0, 1, -100, 2, 1, 0], dtype=np.int8), r"label -100"),
    "too few": (given()[2][:5], r"6 inputs but 5 targets"),
    "too many": (torch.zeros(7, dtype=torch.int64), r"6 inputs but 7 targets"),
}


@pytest.mark.parametrize("name", WRONG_LABELS)
@pytest.mark.usefixtures("nothing_runs")
def test_labels_that_are_none_are_refused(name):
    labels, match = WRONG_LABELS[name]
    network, images, _ = given()
    refused(match, network, images, labels)


@pytest.mark.parametrize(
    "labels",
    [
        given()[2].int(),
        given()[2].short(),
        given()[2].to(torch.uint8),
        given()[2].numpy(),
        given()[2].numpy().astype(np.int32),
        given()[2].numpy().astype(np.uint16),
        given()[2].numpy().astype(">i4"),
        given()[2].repeat_interleave(2)[::2],
        np.array([0, 1, 2, 2, 1, 0])[::-1][::-1],
    ],
    ids=str,
)
def test_integers_of_any_width_are_labels(labels):
    network, images, plain = given()
    expected = bits(harness.score(network, images, plain, PROXIES))
    held = labels.copy() if isinstance(labels, np.ndarray) else labels.clone()
    assert bits(harness.score(network, images, labels, PROXIES)) == expected
    assert (labels == held).all()
    assert labels.dtype == held.dtype


@pytest.mark.parametrize("number", [100, 4, 0, -1, True, 2.0, "3"])
@pytest.mark.usefixtures("nothing_runs")
def test_a_number_of_classes_that_the_network_has_not(number):
    network, images, labels = given()
    match = re.escape(f"num_classes={number!r}, but the network gives 3 logits: give 1 to 3, or leave it out")
    refused(match, network, images, None, num_classes=number)
    refused(match, network, images, labels, num_classes=number)


def test_drawn_labels_stay_below_the_number_of_classes():
    network, images, _ = given(classes=10)
    few = harness.score(network, images, None, ["snip"], num_classes=np.int64(1))
    assert few["snip"] == harness.score(network, images, torch.zeros(6, dtype=torch.int64), ["snip"])["snip"]


# Networks and images --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "network", [None, [Net()], Net.forward, {"net": Net()}, "resnet18"], ids=lambda n: type(n).__name__
)
@pytest.mark.usefixtures("nothing_runs")
def test_what_is_no_network(network):
    refused(rf"network is a {type(network).__name__}: give a torch\.nn\.Module", network, *given()[1:])


@pytest.mark.usefixtures("nothing_runs")
def test_a_class_is_no_network():
    refused(r"network is the class Net: give an instance, such as Net\(\)", Net, *given()[1:])


def spoilt(value: float, place: tuple = (4, 2, 1, 0)) -> torch.Tensor:
    images = given()[1]
    images[place] = value
    return images


WRONG_IMAGES = {
    "none": (None, r"inputs are a NoneType"),
    "list": (list(given()[1]), r"inputs are a list: .*torch\.stack"),
    "numpy": (given()[1].numpy(), r"inputs are a ndarray: .*torch\.from_numpy"),
    "bytes": (torch.zeros(6, 3, 8, 8, dtype=torch.uint8), r"inputs are torch\.uint8.*normalised"),
    "integers": (torch.zeros(6, 3, 8, 8, dtype=torch.int64), r"inputs are torch\.int64"),
    "bool": (torch.zeros(6, 3, 8, 8, dtype=torch.bool), r"inputs are torch\.bool"),
    "complex": (torch.zeros(6, 3, 8, 8, dtype=torch.complex64), r"inputs are torch\.complex64"),
    "sparse": (given()[1].to_sparse(), r"torch\.sparse_coo"),
    "meta": (given()[1].to("meta"), r"device meta"),
    "one image": (given()[1][0], r"not \(3, 8, 8\)"),
    "videos": (given()[1][None], r"not \(1, 6, 3, 8, 8\)"),
    "flat": (given()[1].flatten(1), r"not \(6, 192\)"),
    "none at all": (given()[1][:0], r"not \(0, 3, 8, 8\)"),
    "no height": (given()[1][:, :, :0], r"not \(6, 3, 0, 8\)"),
    "nan": (spoilt(float("nan")), r"inputs\[4\] holds NaN"),
    "infinity": (spoilt(float("-inf")), r"inputs\[4\] holds NaN or infinity"),
    "channels": (given()[1][:, :2], r"cannot read inputs of \(2, 8, 8\)"),
}


@pytest.mark.parametrize("name", WRONG_IMAGES)
@pytest.mark.usefixtures("nothing_runs")
def test_what_are_no_images(name):
    images, match = WRONG_IMAGES[name]
    refused(match, given()[0], images)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_images_of_another_floating_type_are_taken_to_float32(dtype):
    network, images, labels = given()
    images = images.to(dtype)
    expected = bits(harness.score(network, images.float(), labels, PROXIES))
    assert bits(harness.score(network, images, labels, PROXIES)) == expected
    assert bits(harness.score(network.to(dtype), images, labels, PROXIES)) == expected
    assert {parameter.dtype for parameter in network.parameters()} == {dtype}


class Silent(Net):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        raise NotImplementedError


class SilentInTraining(Net):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.training:
            raise ValueError
        return super().forward(x)


def test_an_exception_without_text_is_told_by_its_name():
    _, images, labels = given()
    refused(r"cannot read inputs of \(3, 8, 8\) \(NotImplementedError\): give", Silent(), images, labels)
    found = harness.score(SilentInTraining(), images, labels, ["snip", "vkdnw"])
    assert found.attrs["status"] == {"snip": "error: ValueError", "vkdnw": "ok"}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.usefixtures("nothing_runs")
def test_quantised_layers_are_named():
    network, images, labels = given()
    quantised = torch.ao.quantization.quantize_dynamic(network, {nn.Linear})
    refused(r"head is quantised \(Linear\), .*before its quantisation", quantised, images, labels)


@pytest.mark.usefixtures("nothing_runs")
def test_complex_tensors_are_named():
    """A pass in float32 would drop the imaginary part, with a warning."""
    network, images, labels = given()
    network.norm.register_buffer("phases", torch.ones(4, dtype=torch.complex64))
    refused(r"norm\.phases of the network is complex", network, images, labels)


def test_lazy_layers_are_made_on_the_copy():
    class Lazy(Net):
        def __init__(self):
            super().__init__()
            self.conv, self.head = nn.LazyConv2d(4, 3, padding=1), nn.LazyLinear(3)

    network, images, labels = given()
    lazy = Lazy()
    state = torch.get_rng_state()
    assert bits(harness.score(lazy, images, labels, PROXIES)) == bits(harness.score(network, images, labels, PROXIES))
    assert isinstance(lazy.conv.weight, nn.UninitializedParameter)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"stages": "conv"}, r"stages='conv' is one name"),
        ({"seed": 1.0}, r"seed=1\.0 is no whole number"),
        ({"seed": True}, r"seed=True is no whole number"),
        ({"seed": None}, r"seed=None is no whole number"),
    ],
)
@pytest.mark.usefixtures("nothing_runs")
def test_options_of_another_kind(options, match):
    refused(match, *given(), **options)


# Hooks, and what else the copy must not reach -------------------------------------------------------------


class Recorder:
    """A user's object with hooks of its own, which no copy may share nor write to."""

    def __init__(self):
        self.seen: list[str] = []

    def forward(self, module, args, output):
        self.seen.append("forward")
        return output * 2

    def __deepcopy__(self, memo):
        raise RuntimeError("the owner of a hook was copied")


def hooked(network: nn.Module, recorder: Recorder) -> None:
    def note(name: str, value: Any = None):
        def hook(*args, **kwargs):
            recorder.seen.append(name)
            return value

        return hook

    conv = network.conv
    conv.register_forward_hook(recorder.forward)
    conv.register_forward_hook(note("keywords"), with_kwargs=True, always_call=True)
    conv.register_forward_pre_hook(note("before"))
    network.register_forward_pre_hook(functools.partial(note("partial"), extra=recorder))
    network.norm.register_full_backward_hook(note("backward"))
    network.norm.register_full_backward_pre_hook(note("before backward"))
    network.register_state_dict_post_hook(note("state"))
    network.register_state_dict_pre_hook(note("before state"))
    network.register_load_state_dict_pre_hook(note("load"))
    network.register_load_state_dict_post_hook(note("after load"))
    conv.weight.register_hook(note("gradient"))
    conv.weight.register_post_accumulate_grad_hook(note("accumulated"))


@pytest.mark.parametrize("keep_weights", [False, True])
def test_hooks_do_not_fire_on_the_copy(keep_weights):
    network, images, labels = given()
    plain = bits(harness.score(network, images, labels, PROXIES, keep_weights=keep_weights))
    recorder = Recorder()
    hooked(network, recorder)
    assert bits(harness.score(network, images, labels, PROXIES, keep_weights=keep_weights)) == plain
    assert recorder.seen == []
    F.cross_entropy(network(images), labels).backward()  # they are still where they were
    network.load_state_dict(network.state_dict())
    assert set(recorder.seen) == {
        *("forward", "keywords", "before", "partial", "backward", "before backward"),
        *("state", "before state", "load", "after load", "gradient", "accumulated"),
    }


def test_hooks_of_a_traced_network_do_not_fire_on_the_copy():
    network, images, labels = given()
    plain = bits(harness.score(network, images, labels, PROXIES))
    traced = torch.fx.symbolic_trace(network)
    recorder = Recorder()
    traced.conv.register_forward_hook(recorder.forward)
    assert bits(harness.score(traced, images, labels, PROXIES)) == plain
    assert recorder.seen == []


def test_hooks_of_torch_that_make_a_layers_weights_stay():
    """Pruning masks the weights in a hook before each forward."""
    network, images, labels = given()
    conv = network.conv
    mask = (torch.arange(conv.weight.numel()).view_as(conv.weight) % 2).float()
    with torch.no_grad():
        conv.weight.mul_(mask)
    expected = harness.score(network, images, labels, ["zen"], keep_weights=True)
    network = given()[0]
    prune.custom_from_mask(network.conv, "weight", mask)
    found = harness.score(network, images, labels, ["zen"], keep_weights=True)
    assert expected.attrs["status"] == found.attrs["status"] == {"zen": "ok"}
    assert found["zen"] == expected["zen"]


def test_a_network_of_torch_compile_is_scored_as_it_was():
    network, images, labels = given()
    compiled = torch.compile(network)
    found = bits(harness.score(compiled, images, labels, PROXIES, stages=["conv"]))
    assert found == bits(harness.score(network, images, labels, PROXIES))


@pytest.mark.usefixtures("nothing_runs")
def test_a_function_that_refers_to_the_original_is_refused():
    """Its copy computes with the user's weights and statistics, not with those that a proxy draws."""
    network, images, labels = given()
    plain = network.norm.forward
    network.norm.forward = lambda x: plain(x) * 2
    refused(r"the copy of the network computes with norm\.\w+ of the original", network, images, labels)


def test_a_replaced_forward_that_can_be_copied_is_scored():
    """As accelerate sets it: a partial that holds the module and the method it had."""
    network, images, labels = given()
    expected = bits(harness.score(network, images, labels, PROXIES))
    norm = network.norm
    norm._old_forward = norm.forward
    norm.forward = functools.update_wrapper(
        functools.partial(lambda module, *args: module._old_forward(*args), norm), norm.forward
    )
    assert bits(harness.score(network, images, labels, ["params", "zen"])) == {
        k: expected[k] for k in ("params", "zen")
    }


class Writing(Net):
    """Writes into its input, and keeps what it saw in buffers, of which one is in no state_dict."""

    def __init__(self):
        super().__init__()
        self.register_buffer("last", None)
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))
        self.register_buffer("scale", torch.ones(()), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.last = x.detach()[:, 0].clone()
        self.count += 1
        self.scale *= 1.5
        y = super().forward(x * self.scale) * self.count
        if not torch.is_grad_enabled():
            x.mul_(0.5)
        return y


def test_what_a_network_writes_counts_for_nothing_afterwards():
    _, images, labels = given()
    network, held = Writing(), images.clone()
    together = bits(harness.score(network, images, labels, PROXIES))
    assert torch.equal(images, held)
    assert network.last is None
    assert (network.count.item(), network.scale.item()) == (0, 1.0)
    for name in ("snip", "gradsign", "synflow", "params"):
        assert bits(harness.score(network, images, labels, [name]))[name] == together[name]


def test_a_buffer_that_a_network_replaces_is_never_taken_for_its_successor():
    """A watch knows tensors by their ids, which Python gives to another tensor once the first is gone."""
    network = Writing()
    network(torch.randn(2, 3, 8, 8))
    last, watch = weakref.ref(network.last), Watch(network, {})
    network(torch.randn(2, 3, 8, 8))
    assert network.last is not last()
    assert watch.is_fixed(last())


def test_a_norm_over_a_single_value_is_a_status():
    network, images, labels = (
        nn.Sequential(Net(), nn.Unflatten(1, (3, 1, 1)), nn.BatchNorm2d(3), nn.Flatten()),
        *given()[1:],
    )
    found = harness.score(network, images, labels, ["meco", "snip"])
    assert found.attrs["status"] == {"meco": SINGLE_VALUE, "snip": "ok"}


# Images of another side than the network's ----------------------------------------------------------------


class Fixed(Net):
    """Reads images of one size."""

    def __init__(self, height: int = 8, width: int = 8):
        super().__init__()
        self.height, self.width = height, width
        self.positions = nn.Parameter(torch.full((4, height, width), 0.1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.relu(self.norm(self.conv(x)) + self.positions).mean(dim=(2, 3)))


def test_a_network_of_one_input_size_is_told_which_setting_to_give():
    _, images, labels = given()
    found = harness.score(Fixed(), images, labels, ["meco", "nregions", "snip"])
    status = found.attrs["status"]
    assert re.fullmatch(r"the network cannot read images of 64 x 64 \(.*\): set resolution=8", status["meco"])
    assert re.fullmatch(r"the network cannot read images of 3 x 3 \(.*\): set resolution=8", status["nregions"])
    assert status["snip"] == "ok"
    for name in ("zen", "synflow"):
        (other,) = harness.score(Fixed(), images, labels, [f"{name}:resolution=16"]).attrs["status"].values()
        assert re.fullmatch(r"the network cannot read images of 16 x 16 \(.*\): set resolution=8", other)
    followed = harness.score(Fixed(), images, labels, ["meco:resolution=8", "nregions:resolution=8:samples=20"])
    assert set(followed.attrs["status"].values()) == {"ok"}
    images = torch.randn(6, 3, 8, 6)
    status = harness.score(Fixed(8, 6), images, labels, ["meco"]).attrs["status"]["meco"]
    assert status.endswith("its images are 8 x 6")


def test_another_mistake_of_a_network_is_told_as_it_is():
    _, images, labels = given()
    found = harness.score(SilentInTraining(), images, labels, ["meco:resolution=8"])
    assert found.attrs["status"] == {"meco:resolution=8": "error: ValueError"}


class SilentModes(Net):
    """Whose own methods do not return the network, as torch's do."""

    def train(self, mode: bool = True) -> None:
        super().train(mode)

    def eval(self) -> None:
        super().eval()


def test_a_networks_own_train_and_eval_may_return_nothing():
    _, images, labels = given()
    specs = ["snip", "vkdnw", "vkdnw:rows=2", "epads", "t_cet:variant=repo", "trainable_layers"]
    torch.manual_seed(4)
    plain, silent = Net(), SilentModes()
    silent.load_state_dict(plain.state_dict())
    assert bits(harness.score(silent, images, labels, specs)) == bits(harness.score(plain, images, labels, specs))
