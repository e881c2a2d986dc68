"""Has a correlation moved? Every one that the store gives, against those written down in results/baseline.json.

The baseline holds, for each correlation, what it was computed from (digests of the population, the scores and the
accuracies, the proxy's version), so that a move comes with its cause.
"""

from __future__ import annotations

import hashlib
import json
import math
import sys
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from harness.benchmarks.benchmark import Benchmark, embedded_benchmark, list_benchmarks, load_benchmark
from harness.correlation import check_resamples, correlate
from harness.engine.store import ScoreKey, ScoreStore, check_range, open_store, write_text
from harness.errors import HarnessError, UnknownNameError
from harness.paths import REFERENCE, data_dir, typed_path
from harness.progress import progress_bar
from harness.proxies import get_proxy
from harness.rankings.aggregates import AGGREGATES
from harness.rankings.results import PAPER_INPUTS, Reader
from harness.tables.measure import resamples_for
from harness.verify.findings import Finding
from harness.verify.scores import chosen_keys

#: nDCG at 10 too: it is the first to feel an error in the discount of the ranks.
METRICS = ("kendall", "spearman", "ndcg_10", "ndcg_1000")

#: A correlation that moves by more than this fails.
LARGEST_MOVE = 0.005

#: The population of a partition that covers none of the named ones: whatever is stored.
STORED = "stored"


@dataclass(frozen=True)
class Entry:
    """Correlations of one proxy over one population, and what they came from.

    `version` is that of the proxy, 0 for an aggregate, whose members have entries of their own. `members` and
    `scores` are digests. `figures`: by metric the value and the ends of its 95% interval (NaN without resamples).
    """

    space: str
    dataset: str
    inputs: str
    proxy: str
    seed: int
    population: str
    version: int
    n: int
    members: str
    scores: str
    figures: dict[str, tuple[float, float, float]]

    @property
    def identity(self) -> tuple:
        return self.space, self.dataset, self.inputs, self.proxy, self.seed, self.population

    def __str__(self) -> str:
        key = ScoreKey(self.space, self.dataset, self.inputs, self.proxy, self.seed)
        return f"{key} over {self.population} (n = {self.n:,})"


def digest(values: np.ndarray) -> str:
    """Sixteen hex digits of the SHA-256 of an array's values; every NaN is alike."""
    values = np.ascontiguousarray(values)
    if values.dtype.kind == "f":
        values = np.where(np.isnan(values), np.nan, values).astype("<f8")
    elif values.dtype.kind in "iu":
        values = values.astype("<i8")
    else:
        return hashlib.sha256("\n".join(map(str, values)).encode()).hexdigest()[:16]
    return hashlib.sha256(values.tobytes()).hexdigest()[:16]


def accuracy_digests(benchmark: Benchmark) -> dict[str, str]:
    """Digests of a benchmark's stored figures by `dataset target`, and of the columns that encode its architectures."""
    found = {
        f"{dataset} {target}": digest(benchmark.accuracies(dataset, target).to_numpy(dtype=np.float64))
        for dataset in benchmark.datasets
        for target in benchmark.targets(dataset)
    }
    encoding = hashlib.sha256()
    for name, column in benchmark.encoding_columns().items():
        encoding.update(f"{name} {digest(column)}".encode())
    return {"architectures": encoding.hexdigest()[:16], **found}


def guarded_benchmarks() -> list[Benchmark]:
    """The embedded benchmarks that have a table of their own: what others import is not of this project."""
    known = [embedded_benchmark(name) for name in list_benchmarks()]
    return [b for b in known if b is not None and b.has_accuracies and b.files == b.folder]


# What the store gives ------------------------------------------------------------------------------------------


def correlations(
    store: ScoreStore,
    populations: Iterable[str],
    resamples: int = 0,
    proxies: Iterable[str] = (),
    damaged: dict[tuple, HarnessError] | None = None,
) -> Iterator[Entry]:
    """The correlations of every partition and of every aggregate that the store holds in whole.

    Each is taken over those of the named `populations` that it covers, or over what is stored where it covers
    none, with the benchmark's default accuracies; architectures without an accuracy are left out. Partitions of
    unknown benchmarks or proxies give none.

    Args:
        resamples: of the bootstrap, fewer on large populations; 0 for values alone.
        proxies: only these; all when empty.
        damaged: takes the reason why a partition cannot be read, by the fields of its key; None: it is raised.
    """
    keys = chosen_keys(store, list(proxies))
    asked = [(key.space, key.dataset, key.inputs, key.proxy, key.seed) for key in keys]
    if not list(proxies):
        sets = sorted({(key.space, key.dataset, key.seed) for key in keys})
        asked += [(space, dataset, PAPER_INPUTS, name, seed) for space, dataset, seed in sets for name in AGGREGATES]
    members: dict[tuple[str, str], np.ndarray | None] = {}
    with progress_bar(len(asked), "partitions") as progress:
        for place in asked:
            progress.update()
            try:
                yield from list(_correlations(store, ScoreKey(*place), populations, resamples, members))
            except UnknownNameError:
                continue
            except HarnessError as error:
                if damaged is None:
                    raise
                damaged[place] = error


def _correlations(
    store: ScoreStore,
    key: ScoreKey,
    populations: Iterable[str],
    resamples: int,
    members: dict[tuple[str, str], np.ndarray | None],
) -> Iterator[Entry]:
    """Those of one partition, or of the aggregate that stands for a proxy in `key`; `members` is filled.

    Raises HarnessError: the partition or the benchmark is damaged; UnknownNameError: the code has no such name.
    """
    benchmark = load_benchmark(key.space)
    if not benchmark.has_accuracies or not benchmark.targets(key.dataset):
        return
    accuracies = benchmark.accuracies(key.dataset).to_numpy(dtype=np.float64)
    target = benchmark.target(key.dataset)
    version = 0 if key.proxy in AGGREGATES else get_proxy(key.proxy).version_on(benchmark.space)
    reader = Reader(store, benchmark)  # a new one each time: its columns are as long as the benchmark
    covered = {}
    for name in populations:
        if (key.space, name) not in members:
            members[key.space, name] = _members(benchmark, name)
        indices = members[key.space, name]
        if indices is not None:
            scores = reader.scores(key.proxy, key.dataset, indices, key.inputs, key.seed)
            if not scores.missing:
                covered[name] = indices, scores.values
    if not covered and key.proxy not in AGGREGATES:
        held = store.read(key, version)
        held = held.loc[~held["status"].str.startswith("error"), "index"].to_numpy()
        check_range(held, len(benchmark), store.place(key))
        stored = np.isin(benchmark.representatives, held)
        stored[held] = True
        indices = np.flatnonzero(stored)
        covered[STORED] = indices, reader.scores(key.proxy, key.dataset, indices, key.inputs, key.seed).values
    for name, (indices, values) in covered.items():
        trained = np.isfinite(accuracies[indices])
        indices, values = indices[trained], values[trained]
        if len(indices) < 2:
            continue
        metrics = [name for name in METRICS if target.admits(name)]
        found = correlate(values, accuracies[indices], metrics, resamples_for(len(indices), resamples))
        yield Entry(
            **asdict(key),
            population=name,
            version=version,
            n=len(indices),
            members=digest(indices),
            scores=digest(np.where(np.isfinite(values), values, np.nan)),
            figures={m: (found[m].value, found[m].low, found[m].high) for m in metrics},
        )


def _members(benchmark: Benchmark, name: str) -> np.ndarray | None:
    """A population, or None where the benchmark has none of this name or size."""
    try:
        return benchmark.population(name)
    except HarnessError:
        return None


# The file -------------------------------------------------------------------------------------------------------


def read_baseline(path: str | Path) -> dict[str, Any] | None:
    """The baseline with its entries by identity; None where there is no such file.

    Raises HarnessError when the file is of another form.
    """
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
        entries = [
            Entry(**{**entry, "figures": {m: tuple(map(_value, f)) for m, f in entry["figures"].items()}})
            for entry in content["correlations"]
        ]
        if not all(isinstance(digests, dict) for digests in dict(content["accuracies"]).values()):
            raise TypeError("accuracies without digests")
        if any(len(figure) != 3 for entry in entries for figure in entry.figures.values()):
            raise ValueError("a figure is no value with the ends of its interval")
        return {**content, "correlations": {entry.identity: entry for entry in entries}}
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise HarnessError(
            f"{path} cannot be read ({error!r}): restore the file, or write a new one with "
            f"`harness verify baseline baseline={path}`"
        ) from error


def guarded_by(config: Any) -> tuple[Path, ScoreStore]:
    """The baseline of `harness verify` and the scores that it is about: those of the package where none is named."""
    if config.baseline is None:
        return data_dir("results") / "baseline.json", open_store(config.store, [REFERENCE])
    return typed_path(config.baseline, "baseline"), open_store(config.store, config.stores)


def write_baseline(config: Any) -> int:
    """Write the correlations of the store down, with their intervals; say how many moved since the last time."""
    check_resamples(config.resamples)
    if config.baseline is None:
        raise HarnessError("name the file that is written: harness verify baseline baseline=FILE")
    path = typed_path(config.baseline, "baseline")
    try:
        before = read_baseline(path)
    except HarnessError:  # what is written now takes its place
        print(f"harness: {path} cannot be read and counts as none: all is new", file=sys.stderr)
        before = None
    entries = list(correlations(open_store(config.store, config.stores), config.populations, config.resamples))
    content = {
        "protocol": f"value, 95% interval of up to {config.resamples} resamples; default accuracies of the benchmark",
        "accuracies": {benchmark.name: accuracy_digests(benchmark) for benchmark in guarded_benchmarks()},
    }
    # An entry a line: a change of one is one line of a diff.
    lines = [json.dumps(_plain(entry)) for entry in sorted(entries, key=lambda entry: entry.identity)]
    text = json.dumps(content, indent=2)[:-2] + ',\n  "correlations": [\n    ' + ",\n    ".join(lines) + "\n  ]\n}\n"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, text)
    except OSError as error:
        raise HarnessError(f"cannot write {path} ({error.strerror or error}): set baseline=FILE") from error
    old = {} if before is None else before["correlations"]
    moved = sum(bool(_moves(old[e.identity], e, LARGEST_MOVE)) for e in entries if e.identity in old)
    new = sum(e.identity not in old for e in entries)
    gone = len(old.keys() - {e.identity for e in entries})
    print(
        f"{path}: correlations of {len(entries)} pairs of proxy and population; {new} new, {gone} gone, "
        f"{moved} moved by more than {LARGEST_MOVE}"
    )
    return 0


def _plain(entry: Entry) -> dict[str, Any]:
    figures = {
        metric: [None if math.isnan(value) else round(value, 6) for value in values]
        for metric, values in entry.figures.items()
    }
    return {**asdict(entry), "figures": figures}


def _value(value: float | None) -> float:
    return math.nan if value is None else float(value)


# The check ------------------------------------------------------------------------------------------------------


def check_correlations(config: Any) -> Iterator[Finding]:
    """Compare the correlations that the store gives now with the baseline's.

    A move of more than `LARGEST_MOVE` fails, and so does a correlation that can no longer be computed. One that the
    baseline does not have yet is a note.
    """
    path, store = guarded_by(config)
    try:
        baseline = read_baseline(path)
    except HarnessError as error:
        yield Finding(str(path), "FAILS", str(error))
        return
    if baseline is None:
        yield Finding(str(path), "FAILS", f"is not there: write it with `harness verify baseline baseline={path}`")
        return
    old: dict[tuple, Entry] = baseline["correlations"]
    labels = {get_proxy(spec).label for spec in config.proxies}
    names = dict.fromkeys([*config.populations, *(entry.population for entry in old.values())])
    names.pop(STORED, None)
    tables: dict[str, dict[str, str]] = {}
    compared: dict[tuple[str, str], list[float]] = {}
    seen, new, damaged = set(), [], {}
    for entry in correlations(store, names, proxies=config.proxies, damaged=damaged):
        seen.add(entry.identity)
        before = old.get(entry.identity)
        if before is None:
            new.append(entry)
            continue
        moves = _moves(before, entry, LARGEST_MOVE)
        if moves:
            if entry.space not in tables:
                tables[entry.space] = accuracy_digests(load_benchmark(entry.space))
            same = baseline["accuracies"].get(entry.space) == tables[entry.space]
            yield Finding(str(entry), "FAILS", f"{'; '.join(moves)}; likely cause: {_cause(before, entry, same)}")
        compared.setdefault((entry.space, entry.dataset), []).append(_largest(before, entry))
    # An aggregate of a damaged partition is another line only where the baseline has it.
    faults = {str(reason): place for place, reason in reversed(damaged.items())}
    for reason, place in reversed(faults.items()):
        yield Finding(str(ScoreKey(*place)), "FAILS", f"its correlations cannot be computed: {reason}")
    for entry in old.values():
        place = entry.identity[:-1]
        lost = entry.identity not in seen and place not in faults.values()
        if lost and (not labels or entry.proxy in labels):
            reason = damaged.get(place, "scores or proxy are gone")
            yield Finding(str(entry), "FAILS", f"was in the baseline and cannot be computed: {reason}")
    for (space, dataset), moves in compared.items():
        within = sum(move <= LARGEST_MOVE for move in moves)
        detail = f"{within} of {len(moves)} within {LARGEST_MOVE} of the baseline, largest move {max(moves):.4f}"
        yield Finding(f"correlations on {space}/{dataset}", "ok" if within == len(moves) else "FAILS", detail)
    if new:
        yield Finding(
            "correlations",
            "note",
            f"{len(new)} are not in the baseline yet, such as {new[0]}: `harness verify baseline baseline={path}` "
            "takes them in",
        )


def _move(old: float, new: float) -> float:
    if math.isnan(old) or math.isnan(new):
        return 0.0 if math.isnan(old) and math.isnan(new) else math.inf
    return abs(new - old)


def _largest(before: Entry, now: Entry) -> float:
    return max(_move(before.figures[m][0], now.figures[m][0]) for m in now.figures if m in before.figures)


def _moves(before: Entry, now: Entry, largest: float) -> list[str]:
    """Each figure that moved by more than `largest`: old, new, and the interval of the old one."""
    found = []
    for metric, (new, _, _) in now.figures.items():
        if metric in before.figures:
            old, low, high = before.figures[metric]
            if _move(old, new) > largest:
                found.append(f"{metric} was {old:.4f} [{low:.4f}, {high:.4f}], is {new:.4f}")
    return found


def _cause(before: Entry, now: Entry, same_accuracies: bool) -> str:
    """What changed between two entries, from their digests."""
    causes = []
    if not same_accuracies:
        causes.append("accuracy table changed")
    if before.members != now.members:
        causes.append(f"population changed (n {before.n:,} to {now.n:,})")
    if before.version != now.version:
        causes.append(f"version changed ({before.version} to {now.version})")
    elif before.scores != now.scores and before.members == now.members:
        causes.append("scores changed")
    return ", ".join(causes) or "neither scores nor accuracies changed: the definition of the metric did"
