"""Scores do not depend on the state of the process, and leave it as it was: modes, settings, generators, threads."""

from __future__ import annotations

import gc
import pickle
import random
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.modules import module as module_hooks
from torch.nn.utils import parametrizations, parametrize
from torch.overrides import TorchFunctionMode
from torch.utils.flop_counter import FlopCounterMode

import harness
from harness.engine.scorer import Job, Scorer
from harness.engine.scoring import run
from harness.engine.store import ScoreStore
from harness.probes.neutral import neutral
from harness.proxies import available

CPU = torch.device("cpu")


def every() -> list[str]:
    own = {
        "dextr": ":resolution=8",
        "knas": ":entries=8:minibatches=4",
        "meco": ":resolution=8",
        "meco_opt": ":channels=4:resolution=8",
        "nregions": ":samples=60:resolution=8",
        "swap_reg": ":mu=1.0:sigma=100.0",
    }
    return [name + own.get(name, "") for name in sorted(available())]


class Net(nn.Module):
    """Convolutions, BatchNorm, ReLU, dropout, attention: something for every setting to change."""

    def __init__(self):
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(3, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4)
        self.conv2, self.norm2 = nn.Conv2d(4, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4)
        self.relu, self.drop = nn.ReLU(), nn.Dropout(0.3)
        self.mix = nn.Linear(4, 12)
        self.head = nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.relu(self.norm1(self.conv1(x)))
        x = F.avg_pool2d(self.relu(self.norm2(self.conv2(x))) + x, 2)
        q, k, v = self.mix(x.flatten(2).transpose(1, 2)).chunk(3, dim=2)
        x = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).unflatten(2, x.shape[2:])
        return self.head(self.drop(x).mean(dim=(2, 3)))


STAGES = ("norm1", "norm2")
SOME = ["params", "flops", "snip", "synflow", "naswot", "gradsign", "vkdnw", "meco:resolution=8", "ntk"]


def given() -> tuple[nn.Module, torch.Tensor, torch.Tensor]:
    torch.manual_seed(4)
    return Net(), torch.randn(10, 3, 8, 8), torch.tensor([0, 1, 2, 2, 1, 0, 0, 1, 2, 0])


def bits(series: Any) -> dict[str, tuple[str, str]]:
    return {label: (float(score).hex(), series.attrs["status"][label]) for label, score in series.items()}


@pytest.fixture(scope="module")
def expected() -> dict[str, tuple[str, str]]:
    found = bits(harness.score(*given(), every(), stages=STAGES))
    # An encoding, attention modules and an MLP on tokens are not here.
    without = {"sed", "skip", "dss", "auto_prox_a", "head_confidence", "token_entropy", "min_eigenvalue", "w_pca"}
    assert {label.split(":")[0] for label, (_, status) in found.items() if status != "ok"} == without
    return found


class Doubling(TorchFunctionMode):
    """A user's mode that changes what functions return."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        found = function(*args, **(kwargs or {}))
        return found * 2 if function in (F.relu, torch.relu, F.linear) else found


@contextmanager
def setting(read: Callable[[], Any], write: Callable[[Any], Any], value: Any) -> Iterator[None]:
    before = read()
    write(value)
    try:
        yield
    finally:
        write(before)


@contextmanager
def global_hook() -> Iterator[None]:
    handle = module_hooks.register_module_forward_hook(lambda module, args, output: output * 2)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def default_device() -> Iterator[None]:
    torch.set_default_device("meta")
    try:
        yield
    finally:
        torch.set_default_device(None)


@contextmanager
def warnings_kept() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # "anomaly detection is for debugging only"
        with torch.autograd.detect_anomaly():
            yield


def deterministic(value: int) -> Any:
    return setting(torch.get_deterministic_debug_mode, torch.set_deterministic_debug_mode, value)


AMBIENT: dict[str, Callable[[], Any]] = {
    "autocast": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
    "inference_mode": torch.inference_mode,
    "no_grad": torch.no_grad,
    "float64": lambda: setting(torch.get_default_dtype, torch.set_default_dtype, torch.float64),
    "bfloat16": lambda: setting(torch.get_default_dtype, torch.set_default_dtype, torch.bfloat16),
    "default device": default_device,
    "device context": lambda: torch.device("meta"),
    "deterministic": lambda: deterministic(2),
    "anomaly": warnings_kept,
    "numpy raises": lambda: np.errstate(all="raise"),
    "function mode": Doubling,
    "dispatch mode": lambda: FlopCounterMode(display=False),
    "global hook": global_hook,
    "attention kernel": lambda: sdpa_kernel(SDPBackend.EFFICIENT_ATTENTION),
    "medium precision": lambda: setting(
        torch.get_float32_matmul_precision, torch.set_float32_matmul_precision, "medium"
    ),
}


@pytest.mark.parametrize("name", AMBIENT)
def test_a_score_is_that_outside(name, expected):
    network, images, labels = given()
    with AMBIENT[name]():
        found = harness.score(network, images, labels, every(), stages=STAGES)
    assert bits(found) == expected


def test_numpy_divides_by_zero():
    with np.errstate(all="raise"), neutral(CPU), pytest.warns(RuntimeWarning):
        assert np.isinf(np.float64(1) / np.float64(0))


@pytest.mark.parametrize("name", ["inference_mode", "float64", "no_grad", "autocast"])
def test_a_network_made_inside_is_scored_as_one_made_outside(name, expected):
    network, images, labels = given()
    with AMBIENT[name]():
        made = Net()
        made.load_state_dict(network.state_dict())
        inside = images.to(torch.get_default_dtype()) + 0, labels + 0
        assert inside[0].is_inference() == (name == "inference_mode")
        found = harness.score(made, *inside, every(), stages=STAGES)
    assert bits(found) == expected


def test_cached_parametrisations_are_not_kept_between_initialisations():
    torch.manual_seed(1)
    network = nn.Sequential(nn.Flatten(), parametrizations.weight_norm(nn.Linear(12, 4)), nn.ReLU(), nn.Linear(4, 3))
    images = torch.randn(4, 3, 2, 2)
    proxies = ["snip", "vkdnw", "zen", "ntk", "synflow"]
    plain = bits(harness.score(network, images, None, proxies))
    with parametrize.cached():
        network(images)
        assert bits(harness.score(network, images, None, proxies)) == plain


class Flagged(Net):
    """Switches cuDNN off, as recurrent layers that are differentiated twice have to."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with torch.backends.cudnn.flags(enabled=False):
            return super().forward(x)


def test_a_network_may_set_flags_of_its_own(expected):
    network, images, labels = given()
    flagged = Flagged()
    flagged.load_state_dict(network.state_dict())
    assert bits(harness.score(flagged, images, labels, every(), stages=STAGES)) == expected


CELL = ["snip:batch_size=4", "synflow", "naswot:batch_size=4", "gradsign:batch_size=2", "zen:batch_size=4"]


def of_a_cell() -> dict[str, tuple]:
    scorer = Scorer(Job("nasbench201", "ImageNet16-120", tuple(CELL), device="cpu"))
    rows = scorer.score(11661, CELL)
    return {label: (None if row.score is None else row.score.hex(), row.status) for label, row in rows}


@pytest.fixture(scope="module")
def cell() -> dict[str, tuple]:
    found = of_a_cell()
    assert {status for _, status in found.values()} == {"ok"}
    return found


@pytest.mark.parametrize("name", AMBIENT)
def test_a_benchmarks_score_is_that_outside(name, cell):
    with AMBIENT[name]():
        assert of_a_cell() == cell


# The process is left as it was ----------------------------------------------------------------------------


def process() -> dict[str, Any]:
    """What of the process scoring puts aside."""
    cudnn = torch.backends.cudnn
    return {
        "torch": torch.get_rng_state().numpy().tobytes(),
        "numpy": pickle.dumps(np.random.get_state(legacy=False)),
        "bits": id(np.random.get_bit_generator()),
        "python": random.getstate(),
        "threads": torch.get_num_threads(),
        "dtype": torch.get_default_dtype(),
        "device": torch.get_default_device(),
        "grad": torch.is_grad_enabled(),
        "inference": torch.is_inference_mode_enabled(),
        "autocast": (torch.is_autocast_enabled("cpu"), torch.get_autocast_dtype("cpu")),
        "deterministic": torch.get_deterministic_debug_mode(),
        "anomaly": torch.is_anomaly_enabled(),
        "precision": torch.get_float32_matmul_precision(),
        "cudnn": (cudnn.benchmark, cudnn.deterministic, cudnn.allow_tf32),
        "attention": (torch.backends.cuda.flash_sdp_enabled(), torch.backends.cuda.math_sdp_enabled()),
        "errors": np.geterr(),
        "hooks": [id(held) for name, held in vars(module_hooks).items() if name.startswith("_global_")],
        "modes": torch.overrides._get_current_function_mode_stack(),
        "cached": parametrize._cache_enabled,
    }


class Failing(Net):
    """Draws from every generator, changes what it can, and fails in train mode."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + 0 * (torch.rand(1) + np.random.rand() + random.random())
        if self.training:
            torch.set_default_dtype(torch.float64)
            torch.set_num_threads(1)
            torch.set_grad_enabled(False)
            raise RuntimeError("no training")
        return super().forward(x)


@pytest.mark.parametrize("make", [Net, Failing])
def test_the_process_is_left_as_it_was(make):
    _, images, labels = given()
    network = make()
    np.random.seed(3)
    np.random.randn()  # leaves a second number for the next call
    with ExitStack() as stack:
        for name in (
            "autocast",
            "no_grad",
            "float64",
            "deterministic",
            "numpy raises",
            "global hook",
            "device context",
        ):
            stack.enter_context(AMBIENT[name]())
        torch.backends.cudnn.benchmark = True
        stack.callback(setattr, torch.backends.cudnn, "benchmark", False)
        before = process()
        found = harness.score(network, images, labels, SOME)
        assert process() == before
    assert (found.isna().sum() > 0) == (make is Failing)
    first = np.random.randn()
    np.random.seed(3)
    assert np.random.randn(2)[1] == first


def test_what_is_looked_at_sees_changes():
    before = process()
    with ExitStack() as stack:
        for name in AMBIENT:
            if name not in ("dispatch mode", "numpy raises", "device context", "bfloat16"):
                stack.enter_context(AMBIENT[name]())
        with neutral(CPU):
            changed = {name for name, value in process().items() if value != before[name]}
            assert changed == {"torch", "numpy", "bits", "python", "attention", "hooks", "precision", "cudnn"}
        after = process()
    seen = {"dtype", "device", "grad", "inference", "autocast", "deterministic", "anomaly", "modes", "attention"}
    assert {name for name in before if after[name] != before[name]} >= seen
    assert process() == before


def test_another_bit_generator_of_numpys_is_left_in_its_place():
    before = np.random.get_bit_generator()
    np.random.set_bit_generator(np.random.PCG64(5))
    try:
        first = np.random.RandomState(np.random.PCG64(5)).rand(3)
        harness.score(*given(), ["snip"])
        assert np.random.rand(3).tolist() == first.tolist()
    finally:
        np.random.set_bit_generator(before)


def test_the_number_of_threads_is_given_back_by_a_run_in_this_process(tmp_path):
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        job = Job("nasbench201", "ImageNet16-120", ("synflow",), limit=2, workers=1, store=str(tmp_path), device="cpu")
        assert run(job, progress=False).stored_now == 2
        assert torch.get_num_threads() == 2
        with neutral(CPU, threads=1):
            assert torch.get_num_threads() == 1
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


# Two threads at once --------------------------------------------------------------------------------------


class Drawing(Net):
    """Draws in its forward: by torch's dropout, numpy's and Python's generator."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        kept = [x * (1 + 0.1 * np.random.rand()) * (1 + 0.1 * random.random()) for _ in range(3)]
        return super().forward(F.dropout(sum(kept), 0.3))  # in eval mode too


def at_once(work: list[Callable[[], Any]]) -> list[Any]:
    """The results of functions that threads run at the same time."""
    found: list[Any] = [None] * len(work)
    barrier = threading.Barrier(len(work))

    def go(place: int) -> None:
        barrier.wait()
        try:
            found[place] = work[place]()
        except BaseException as error:
            found[place] = error

    threads = [threading.Thread(target=go, args=(place,)) for place in range(len(work))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


def test_threads_that_score_at_once_do_not_disturb_one_another():
    _, images, labels = given()
    proxies = ["snip", "naswot", "gradsign", "swap", "ntk"]

    network = Drawing()
    network.load_state_dict(given()[0].state_dict())

    def score(seed: int) -> list[dict]:
        return [bits(harness.score(network, images, labels, proxies, seed=seed)) for _ in range(6)]

    expected = {seed: score(seed)[0] for seed in range(3)}
    assert len({str(value) for value in expected.values()}) == 3
    before = process()
    found = at_once([lambda seed=seed: score(seed) for seed in range(3)])
    assert found == [[expected[seed]] * 6 for seed in range(3)]
    assert process() == before


def test_threads_that_leave_settings_at_once_leave_those_of_the_process():
    before = process()

    def score(threads: int) -> int:
        for _ in range(200):
            with neutral(CPU, seed=threads, threads=threads):
                assert torch.get_num_threads() == threads
        return threads

    assert at_once([lambda n=n: score(n) for n in (1, 2, 3)]) == [1, 2, 3]
    assert process() == before


def test_runs_of_two_threads_keep_their_scorers_apart(tmp_path):
    def one(dataset: str) -> Callable[[], Any]:
        def go() -> Any:
            folder = str(tmp_path / dataset)
            return run(
                Job("nasbench201", dataset, ("snip:batch_size=2",), limit=6, workers=1, chunk=1, store=folder), False
            )

        return go

    datasets = ["cifar10", "cifar100", "ImageNet16-120"]
    assert [summary.stored_now for summary in at_once([one(name) for name in datasets])] == [6, 6, 6]
    for name in datasets:
        job = Job("nasbench201", name, ("snip:batch_size=2",), store=str(tmp_path / name))
        (proxy,) = job.resolved
        held = ScoreStore(job.store).read(job.key(proxy), proxy.version)
        scorer = Scorer(job)
        with neutral(CPU, threads=1):
            assert [scorer.score(i, [proxy.label])[0][1].score for i in held["index"]] == held["score"].tolist()


def test_no_tensor_outlives_its_score():
    """A hook of autograd that holds a tensor of its own graph keeps both for ever: a long run fills the memory."""

    def score(spec: str) -> None:
        layers = [nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8)]
        network = nn.Sequential(*layers, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5))
        harness.score(network, torch.randn(16, 3, 8, 8), torch.arange(16) % 5, proxies=[spec])

    def alive() -> int:
        gc.collect()
        return sum(isinstance(one, torch.Tensor) for one in gc.get_objects())

    specs = [*available(), "eznas_a:variant=repo", "croze:variant=repo", "vkdnw:rows=4"]
    for spec in specs:  # what is made once and kept is made here
        score(spec)
    before = alive()
    for spec in specs:
        score(spec)
    assert alive() == before
