"""One network and its scores: the fewest passes for the proxies asked, each run once for all that read it."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from harness.benchmarks.benchmark import Benchmark, load_benchmark
from harness.engine.applicable import undefined
from harness.engine.inputs import inputs_for
from harness.engine.store import Row, ScoreKey
from harness.errors import HarnessError, cause
from harness.paths import user_scores
from harness.probes.base import SINGLE_VALUE, EncodingProbe, Probe, Subject, Unscorable, of_single_value
from harness.probes.neutral import neutral
from harness.proxies import check_own_name, distinct, get_proxy
from harness.proxies.base import Proxy
from harness.seeds import stable_seed

if TYPE_CHECKING:
    import torch
    from torch import nn


class Result(NamedTuple):
    """A score or why there is none (`status` other than `ok`), and the time of the passes that it read."""

    score: float | None
    seconds: float
    status: str


def score_subject(
    subject: Subject,
    proxies: Iterable[Proxy],
    read: Callable[[EncodingProbe], dict[str, Any]] | None = None,
) -> dict[str, Result]:
    """Scores of one network by proxy label; each pass runs once.

    Args:
        read: answers a probe from the architecture's encoding; None for a network that belongs to no space.
    """
    proxies = list(proxies)
    needs = {proxy.label: dict(proxy.needs()) for proxy in proxies}
    wanted: dict[Probe, set[str]] = defaultdict(set)
    for probes in needs.values():
        for probe, names in probes.items():
            wanted[probe].update(names)

    def observe(probe: Probe, names: Iterable[str]) -> tuple[dict[str, Any] | Exception, float]:
        started = time.perf_counter()
        try:
            if read is not None and isinstance(probe, EncodingProbe):
                found = read(probe)
            else:
                with neutral(subject.device, stable_seed(subject.seed, "global draws", probe)):
                    found = probe.run(subject, frozenset(names))
                    _synchronise(subject.device)
        except Exception as error:
            found = error
        return found, time.perf_counter() - started

    seen = {probe: observe(probe, names) for probe, names in wanted.items()}
    results = {}
    for proxy in proxies:
        observed: dict[str, Any] = {}
        failed: Exception | None = None
        spent = 0.0
        for probe, names in needs[proxy.label].items():
            found, seconds = seen[probe]
            if isinstance(found, Exception) and len(wanted[probe]) > len(names):
                # What fails may be an observable of another proxy: this one is to have its value all the same.
                found, seconds = observe(probe, names)
            spent += seconds
            if not isinstance(found, Exception) and (lacking := _lacking(found, names)):
                found = LookupError(f"{type(probe).__name__} gave no {lacking}")
            if isinstance(found, Exception):
                failed = failed or found
            else:
                observed.update({name: found[name] for name in names})
        results[proxy.label] = _result(proxy, observed, failed, spent)
    return results


def _lacking(found: Any, names: Iterable[str]) -> str:
    """Which observables a probe did not give, a comma between them; "" where it gave all."""
    return ", ".join(sorted(set(names) - (set(found) if isinstance(found, Mapping) else set())))


def _result(proxy: Proxy, observed: dict[str, Any], failed: Exception | None, seconds: float) -> Result:
    started = time.perf_counter()
    try:
        if failed is not None:
            raise failed
        score = float(proxy.score(observed))
    except Exception as error:
        return without_score(error, seconds)
    return checked(score, seconds + time.perf_counter() - started)


def without_score(error: Exception, seconds: float) -> Result:
    """What stands for a score that an exception prevented. Raises a HarnessError, which is the run's own, again."""
    if isinstance(error, Unscorable):
        return Result(None, seconds, cause(error))
    if isinstance(error, HarnessError):
        raise error
    if of_single_value(error):
        return Result(None, seconds, SINGLE_VALUE)
    text = str(error).strip() and f": {cause(error)}"
    return Result(None, seconds, f"error: {type(error).__name__}{text}")


def checked(score: float, seconds: float) -> Result:
    """NaN and infinity are a status, never a number."""
    if not np.isfinite(score):
        return Result(None, seconds, "nan" if np.isnan(score) else "inf" if score > 0 else "-inf")
    return Result(score, seconds, "ok")


def _synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        import torch

        torch.cuda.synchronize(device)


@dataclass(frozen=True)
class Job:
    """One run of the engine over one (benchmark, dataset, inputs, seed); the fields are those of conf/score.yaml.

    Without `stores`, those of `harness.engine.store.open_store`.
    """

    benchmark: str
    dataset: str
    proxies: tuple[str | Proxy, ...]
    inputs: str = "random"
    inputs_path: str | None = None
    seed: int = 0
    population: str = "all"
    limit: int | None = None
    shard: str = "0/1"
    device: str = "auto"
    workers: int = 0
    chunk: int = 4
    flush_seconds: float = 20.0
    store: str = field(default_factory=lambda: str(user_scores()))
    stores: tuple[str, ...] | None = None

    @cached_property
    def resolved(self) -> list[Proxy]:
        """The proxies, duplicates removed. Raises HarnessError: an unknown one, or two of one name."""
        if not self.proxies:
            raise HarnessError("no proxy was asked for: set proxies=[synflow,…]; `harness list proxies` names them")
        proxies = distinct(map(get_proxy, self.proxies))
        for proxy in proxies:
            check_own_name(proxy)
        return proxies

    def key(self, proxy: Proxy) -> ScoreKey:
        """Where the proxy's scores of this run are stored."""
        return ScoreKey(
            load_benchmark(self.benchmark).scores_of,
            self.dataset,
            "none" if proxy.inputs == "none" else self.inputs,
            proxy.label,
            self.seed if proxy.random else 0,
        )

    @property
    def part_of(self) -> tuple[int, int]:
        """(i, n) of shard "i/n". Raises HarnessError unless 0 <= i < n."""
        try:
            i, n = map(int, self.shard.split("/"))
        except ValueError:
            i, n = 0, 0
        if not 0 <= i < n:
            raise HarnessError(f"shard={self.shard!r} is not i/n with 0 <= i < n, such as shard=0/4")
        return i, n


class Scorer:
    """Scores architectures of one job, in whatever process it lives."""

    def __init__(self, job: Job):
        self.job = job
        self.benchmark: Benchmark = load_benchmark(job.benchmark)
        self.dataset = self.benchmark.dataset(job.dataset)
        self.space = self.benchmark.space_of(job.dataset)
        self.inputs = inputs_for(self.dataset, job.inputs, job.inputs_path)
        self.device = resolve_device(job.device)
        self.proxies = {proxy.label: proxy for proxy in job.resolved}
        self._batches: dict[tuple[int, int], tuple[torch.Tensor, torch.Tensor]] = {}

    def batch(self, number: int, size: int) -> tuple[torch.Tensor, torch.Tensor]:
        import torch

        if (number, size) not in self._batches:
            images, labels = self.inputs.batch(self.job.seed, number, size)
            with neutral(self.device):
                self._batches[number, size] = (
                    torch.from_numpy(images).to(self.device, memory_format=torch.channels_last),
                    torch.from_numpy(labels).to(self.device),
                )
        return self._batches[number, size]

    def subject(
        self,
        index: int,
        build: Callable[[str, int], nn.Module | None] | None = None,
        channels: int | None = None,
        encoder: bool = False,
    ) -> Subject | None:
        """The network of an architecture, seeded by its `network_key`: equal for all that share the key.

        `build` makes another network of it than the benchmark's, which reads images of so many `channels`; None where
        it makes none. `encoder`: with a linear layer in a decoder's place.
        """
        import torch

        architecture = self.benchmark.architectures[index]
        space = self.benchmark.space if encoder else self.space
        with neutral(self.device):
            network = (build or space.build)(architecture, self.dataset.classes)
            if network is None:
                return None
            network.to(self.device, memory_format=torch.channels_last)
            return Subject(
                network,
                self.batch,
                stable_seed(space.name, space.network_key(architecture), self.job.seed),
                (channels or self.inputs.shape[0], *self.inputs.shape[1:]),
                self.dataset.classes,
                self.device,
                stages=network.stages,
                plain=True,
                family=stable_seed(space.name, self.job.seed),
                images_at_hand=self.inputs.count,
                thin=lambda: self.subject(index, partial(space.build, thin=True)),
                cell=lambda: self.subject(index, space.build_cell),
                regions=lambda: self.subject(index, space.build_regions, 1),
                biased=lambda: self.subject(index, space.build_biased),
            )

    def score(self, index: int, labels: Sequence[str]) -> list[tuple[str, Row]]:
        """Rows of one architecture for the proxies named by `labels`.

        Raises HarnessError where the images are too few for one: mini-batches do not shrink here, as scores are of the
        size that the label says.
        """
        self.inputs.check_enough(self.proxies[label] for label in labels)
        architecture = self.benchmark.architectures[index]

        def read(probe: EncodingProbe) -> dict[str, Any]:
            seen = probe.read(self.space, [architecture], self.dataset.classes, self.dataset.resolution)
            return {name: value[0] if isinstance(value, np.ndarray) else value for name, value in seen.items()}

        proxies = [self.proxies[label] for label in labels]
        reasons = {p.label: undefined(p, self.benchmark, self.dataset.name) for p in proxies}
        found = {label: Result(None, 0.0, why) for label, why in reasons.items() if why}
        left = [proxy for proxy in proxies if proxy.label not in found]
        apart = [p for p in left if not p.reads_head] if self.dataset.gives == "images" else []
        with neutral(self.device):
            for group, encoder in (([p for p in left if p not in apart], False), (apart, True)):
                if group:
                    found |= score_subject(self.subject(index, encoder=encoder), group, read)
        return [(p.label, Row(index, *found[p.label], p.version_on(self.benchmark.space))) for p in proxies]


def resolve_device(name: str) -> torch.device:
    """`auto` is a CUDA device where there is one. Raises HarnessError for a device that is not there."""
    import torch

    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise HarnessError(
            f"device={name} cannot be used here ({cause(error)}): use device=cpu or device=auto"
        ) from error
    return device
