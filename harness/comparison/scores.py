"""Scores as a table of pandas: read from the store, or computed first; what `harness.load_scores` returns."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from harness.benchmarks.benchmark import Benchmark, load_benchmark
from harness.config import choices
from harness.engine.definitions import check_definitions
from harness.engine.scorer import Job
from harness.engine.scoring import Summary, run
from harness.engine.store import ScoreStore, open_store
from harness.errors import HarnessError, UnknownNameError
from harness.proxies import available, check_own_name, distinct, get_proxy, spec_of
from harness.proxies.base import Proxy
from harness.rankings.aggregates import AGGREGATES, find_aggregate
from harness.rankings.learned import LEARNED
from harness.rankings.results import PAPER_INPUTS, Scores, inputs_of, proxies_of, scoring_commands
from harness.spaces.base import Space
from harness.tables.leaderboard import SOURCES
from harness.tables.measure import Block, Measurements

if TYPE_CHECKING:
    import pandas as pd

#: What asks for every proxy, aggregate and learned ranking.
EVERY = "all"


class Contestant(NamedTuple):
    """A proxy with its settings, an aggregate or a learned ranking, by the label under which its figures stand."""

    label: str
    spec: str | Proxy

    @property
    def kind(self) -> str:
        """`proxy`, `aggregate` or `learned`."""
        if isinstance(self.spec, Proxy):
            return "proxy"
        return "learned" if self.spec in LEARNED else "aggregate"

    @property
    def text(self) -> str:
        """How a command names it."""
        return spec_of(self.spec) if isinstance(self.spec, Proxy) else self.spec


def contestant(given: str | Proxy | type[Proxy]) -> Contestant:
    """What a text names: a proxy (also `module:Class`), an aggregate or a learned ranking; or a proxy given itself.

    Raises:
        UnknownNameError, HarnessError: as `harness.proxies.get_proxy`.
    """
    if isinstance(given, str) and (given in LEARNED or find_aggregate(given)):
        for proxy in proxies_of(given):
            check_own_name(proxy)
        return Contestant(find_aggregate(given).name if given not in LEARNED else given, given)
    proxy = get_proxy(given)
    check_own_name(proxy)
    return Contestant(proxy.label, proxy)


def contestants(given: str | Proxy | type[Proxy] | Iterable | None, where: Place) -> list[Contestant]:
    """One or several contestants, each once; all that apply to the benchmark for None or `all`."""
    if given is None or (isinstance(given, str) and given == EVERY):
        features = type(where.benchmark.space).graph_features is not Space.graph_features
        learned = [name for name, model in LEARNED.items() if features or not model.graf]
        names = [name for name in (*available(), *AGGREGATES, *learned) if not where.block.inapplicable(name)]
        return [contestant(name) for name in names]
    several = [given] if isinstance(given, (str, Proxy, type)) else list(given)
    found = list({(one.label, type(one.spec)): one for one in map(contestant, several)}.values())
    distinct(one.spec for one in found if isinstance(one.spec, Proxy))
    return found


@dataclass
class Place:
    """One dataset of one benchmark, with the scores that a store holds for it.

    Attributes:
        block: its figures, and the reader of its scores.
        store: where scores are read from and written to.
        seed: of the scores.
    """

    block: Block
    store: ScoreStore
    seed: int = 0
    _found: dict[tuple[str, str, str | None], tuple[str, Scores]] = field(default_factory=dict)

    @property
    def benchmark(self) -> Benchmark:
        return self.block.benchmark

    @property
    def name(self) -> str:
        return f"{self.benchmark.name}/{self.block.dataset}"

    def read(self, one: Contestant, population: str, inputs: str | None = None) -> tuple[str, Scores]:
        """Scores of a contestant, and which mini-batches they are of: the paper's, or noise where those are missing.

        Args:
            inputs: these mini-batches and no others; `paper` for those of the definition.
        """
        key = (one.label, population, inputs)
        if key in self._found:
            return self._found[key]
        lacking = []
        for source in SOURCES if inputs is None else (inputs,):
            found = source, self.block.scores(one.spec, population, source, self.seed)
            if not found[1].missing:
                self._found[key] = found
                return found
            lacking.append(found)
        return min(lacking, key=lambda found: sum(found[1].missing.values()))

    def is_complete(self, one: Contestant, population: str, inputs: str | None = None) -> bool:
        """Whether every score over a population is stored."""
        found = self.read(one, population, inputs)[1]
        return not found.missing and bool(found.members.any())

    def lacking(self, wanted: Iterable[Contestant], population: str, inputs: str | None = None) -> list[Contestant]:
        """Those of the contestants of which a score is missing."""
        return [one for one in wanted if self.read(one, population, inputs)[1].missing]

    def afresh(self) -> Place:
        """The same place, which reads what is stored by now."""
        return place(self.benchmark.name, self.block.dataset, self.store, self.seed, self.block.target)

    def errors(self, missing: Iterable[Contestant], population: str, inputs: str | None = None) -> str:
        """The most frequent exception among the rows of contestants that have no score."""
        several = list(missing)
        versions = {
            proxy.label: proxy.version_on(self.benchmark.space) for one in several for proxy in proxies_of(one.spec)
        }
        keys = [key for one in several for key in self.read(one, population, inputs)[1].missing]
        rows = [self.store.read(key, versions[key.proxy]) for key in keys]
        said = [status for frame in rows for status in frame["status"] if status.startswith("error")]
        return max(set(said), key=said.count) if said else "nothing was stored"

    def commands(self, missing: Iterable[Contestant], population: str, inputs: str | None = None) -> list[str]:
        """Commands that compute what contestants lack."""
        named = {proxy.label: spec_of(proxy) for one in missing for proxy in proxies_of(one.spec)}
        pairs = [(population, key) for one in missing for key in self.read(one, population, inputs)[1].missing]
        return list(dict.fromkeys(scoring_commands(pairs, self.store, named).values()))


def place(benchmark: str, dataset: str | None, store: ScoreStore, seed: int = 0, target: str | None = None) -> Place:
    """A benchmark's dataset, by default its first. Raises HarnessError where it has no accuracies."""
    loaded = load_benchmark(benchmark)
    name = next(iter(loaded.datasets)) if dataset is None else dataset
    return Place(Measurements(store).block(benchmark, loaded.dataset(name).name, target), store, seed)


@dataclass(frozen=True)
class Scoring:
    """How missing scores are computed: `inputs` are the images at `path`, noise without one; processes; device."""

    inputs: str | None = None
    path: str | None = None
    workers: int = 0
    device: str = "auto"
    progress: bool = True

    @property
    def source(self) -> str:
        """Which mini-batches: the paper's where images are at hand, else noise."""
        if self.inputs not in (None, "random") and not self.path:
            raise HarnessError(
                f"inputs={self.inputs} needs the folder or file of the images: give inputs.path=DATA (inputs_path in "
                "Python), or leave inputs out, which reads noise"
            )
        return PAPER_INPUTS if self.path and self.inputs not in (None, "random") else "random"


def processes(workers: int) -> int:
    """The number asked for; for 0, one a core, but one alone below a script, which other processes would run again."""
    main = sys.modules["__main__"]
    is_script = hasattr(main, "__file__") and main.__spec__ is None
    return 1 if workers == 0 and is_script else workers


def score_missing(where: Place, wanted: Sequence[Contestant], population: str, how: Scoring) -> list[Summary]:
    """Compute and store the scores that contestants lack over a population.

    Raises:
        HarnessError: bad input; a definition that changed since its scores were stored.
    """
    proxies = {proxy.label: proxy for one in wanted for proxy in proxies_of(one.spec)}
    groups: dict[str, list[Proxy]] = {}
    dataset = where.block.dataset
    for proxy in proxies.values():
        source = inputs_of(proxy, how.source, dataset)
        groups.setdefault("random" if source == "none" else source, []).append(proxy)
    done = []
    for inputs, members in groups.items():
        # A class of a notebook cannot be sent to other processes.
        apart = all(type(proxy).__module__ != "__main__" for proxy in members)
        job = Job(
            benchmark=where.benchmark.name,
            dataset=dataset,
            proxies=tuple(members),
            inputs=inputs,
            inputs_path=None if inputs == "random" else how.path,
            seed=where.seed,
            population=population,
            workers=how.workers if apart else 1,
            device=how.device,
            store=str(where.store.root),
            stores=tuple(map(str, where.store.layers)),
        )
        done.append(run(job, progress=how.progress))
    return done


def load_scores(
    benchmark: str = "nasbench201",
    dataset: str | None = None,
    proxies: str | Proxy | Sequence[str | Proxy] | None = None,
    population: str = "all",
    inputs: str | None = None,
    seed: int = 0,
    target: str | None = None,
    store: str | Path | None = None,
    stores: Sequence[str | Path] | None = None,
    partial: bool = False,
) -> pd.DataFrame:
    """Stored scores of a population as a table, the very ones that tables and plots rank.

    Scores are stored once for networks that are alike to every proxy; here each architecture has its row. Aggregates
    are computed over exactly this population. Where a benchmark lacks the figure of an architecture, as those that
    cover a part of their space do, the architecture has no row.

    Args:
        benchmark: a name of `harness.list_benchmarks()`.
        dataset: one of the benchmark's; its first when None.
        proxies: one or several names with settings (`naswot`, `vkdnw:variant=repo`, `mymodule:MyProxy`, `az_nas`), or
            `Proxy` objects; all that are complete on the population when None.
        population: `all`, `unique`, `no_dead_ops`, `sample(300, seed=0)`, ... .
        inputs: mini-batches: `paper` for those of the definition, `random`, or a dataset; when None those of the
            definition, and noise where scores on these are not stored.
        seed: of the scores.
        target: what proxies are to predict, the benchmark's default accuracy when None; aggregates and learned
            rankings are computed over the architectures that have this figure.
        store: folder of your own scores; by default $NAS_HARNESS_STORE, or one below ~/.local/share.
        stores: folders that are read, the uppermost first; `store` over `reference`, the package's, when None.
        partial: leave what is not computed empty instead of raising.

    Returns:
        One row per architecture, indexed by the benchmark's numbering (`index`); one column of floats per proxy, NaN
        where it has no score. `attrs` has the provenance: `benchmark`, `dataset`, `population`, `target`, `seed`, `n`,
        and by column `inputs`, `seconds` (median for one architecture, at most) and `status` (why an architecture has
        no score, by its index; empty where all have one).

    Raises:
        HarnessError: scores are missing, with the command that computes them; an unknown name.
    """
    if inputs not in (None, "none", PAPER_INPUTS, *choices("inputs")):
        raise UnknownNameError("inputs", inputs, [PAPER_INPUTS, *choices("inputs")])
    where = place(benchmark, dataset, open_store(store, stores), seed, target)
    wanted = contestants(proxies, where)
    check_definitions(where.store.root, (proxy for one in wanted for proxy in proxies_of(one.spec)))
    where.block.population(population)
    if proxies is None or proxies == EVERY:
        wanted = [one for one in wanted if where.is_complete(one, population)]
    if not partial:
        missing = where.lacking(wanted, population, inputs)
        if missing:
            raise HarnessError(_missing(where, missing, population, inputs))
    return _frame(where, wanted, population, inputs)


def score_benchmark(
    proxies: str | Proxy | Sequence[str | Proxy],
    benchmark: str = "nasbench201",
    dataset: str | None = None,
    population: str = "all",
    inputs: str | None = None,
    inputs_path: str | None = None,
    seed: int = 0,
    store: str | Path | None = None,
    stores: Sequence[str | Path] | None = None,
    workers: int = 0,
    device: str = "auto",
    progress: bool = True,
) -> pd.DataFrame:
    """Score the networks of a benchmark at initialisation; what is stored already is not computed again.

    Args:
        proxies: one or several names with settings, also `mymodule:MyProxy`, `Proxy` objects or classes, aggregates.
        benchmark, dataset, population, seed, store, stores: as in `harness.load_scores`.
        inputs, inputs_path: a dataset and the folder or `.npz` of its images; noise when None.
        workers: processes. 0 for one a core in a notebook or at Python's prompt, for one alone in a script: more
            need the call to be below `if __name__ == "__main__":`.
        device: `auto`, `cpu`, `cuda`, `cuda:1`.
        progress: show rate and time left.

    Returns:
        The table that `harness.load_scores` gives.

    Raises:
        HarnessError: bad input, found before anything is computed.
    """
    how = Scoring(inputs, inputs_path, processes(workers), device, progress)
    where = place(benchmark, dataset, open_store(store, stores), seed)
    wanted = contestants(proxies, where)
    score_missing(where, wanted, population, how)
    where = where.afresh()
    missing = where.lacking(wanted, population, how.source)
    if missing:
        raise HarnessError(
            f"an exception kept {', '.join(one.label for one in missing)} from a score; the same call tries again: "
            f"{where.errors(missing, population, how.source)}"
        )
    return _frame(where, wanted, population, how.source)


def _missing(where: Place, missing: Sequence[Contestant], population: str, inputs: str | None) -> str:
    counts = []
    for one in missing:
        lacked = where.read(one, population, inputs)[1].missing
        counts.append(f"{one.label} ({sum(lacked.values()):,})")
    commands = " and ".join(f"`{command}`" for command in where.commands(missing, population, inputs))
    return (
        f"scores of {where.name}, population {population}, are not stored for {', '.join(counts)}: run {commands}, "
        "call harness.score_benchmark, or give partial=True, which leaves them empty"
    )


def _frame(where: Place, wanted: Sequence[Contestant], population: str, inputs: str | None) -> pd.DataFrame:
    import pandas as pd

    indices = where.block.population(population)
    columns: dict[str, np.ndarray] = {}
    read: dict[str, str] = {}
    seconds: dict[str, float] = {}
    status: dict[str, dict[int, str]] = {}
    for one in wanted:
        source, found = where.read(one, population, inputs)
        columns[one.label] = found.values
        read[one.label] = where.block.inputs(one.spec, source)
        seconds[one.label] = found.seconds
        status[one.label] = _statuses(where, one, source, indices, found)
    frame = pd.DataFrame(columns, index=pd.Index(indices, name="index"), dtype="float64")
    frame.attrs = {
        "benchmark": where.benchmark.name,
        "dataset": where.block.dataset,
        "population": population,
        "target": where.block.figure.name,
        "seed": where.seed,
        "n": len(indices),
        "inputs": read,
        "seconds": seconds,
        "status": status,
    }
    return frame


def _statuses(where: Place, one: Contestant, source: str, indices: np.ndarray, found: Scores) -> dict[int, str]:
    """Why architectures have no score, by index."""
    without = indices[~np.isfinite(found.values)]
    if not len(without):
        return {}
    if isinstance(one.spec, Proxy):
        return where.block.reader.statuses(one.spec, where.block.dataset, without, source, where.seed)
    if found.missing:
        return dict.fromkeys(without.tolist(), "not computed: a member's scores are missing")
    trained = set(indices[~found.members].tolist())
    return {int(i): "trained on" if i in trained else "a member has no score" for i in without}
