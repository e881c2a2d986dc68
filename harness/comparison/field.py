"""One proxy or several against all others on one dataset: ranks, groups, and paired differences with intervals.

Every figure is taken over the same architectures and the same bootstrap resamples. Two intervals stand for each
difference: the percentile interval of that difference alone, as `harness.correlation.paired_difference` gives it, and
whether it lies apart from 0 after the single-step max-|t| correction (Romano & Wolf, 2005) for all differences of the
comparison: the family of all marks errs with a chance of 5%.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from scipy.stats import rankdata

from harness.comparison.scores import EVERY, Contestant, Place, Scoring, contestants, score_missing
from harness.correlation import Estimate, Sample, estimate, metric, sample_many
from harness.engine.definitions import check_definitions
from harness.errors import HarnessError
from harness.rankings.learned import LEARNED
from harness.rankings.results import PAPER_INPUTS, Scores, proxies_of
from harness.tables.groups import group_letters, indistinguishable, margins
from harness.tables.leaderboard import gain_places

#: Populations that are looked at where none is asked for, the largest first.
POPULATIONS = (
    "all",
    "no_dead_ops",
    "no_dead_ops.sample(1000, seed=0)",
    "sample(1000, seed=0)",
    "sample(300, seed=0)",
    "sample(100, seed=0)",
)


#: Of the most others that are complete over any population, so many have to be over one that is compared on: a large
#: one is worth more than the proxies that are scored on samples alone.
SHARE = 0.75


@dataclass(frozen=True)
class Difference:
    """A metric of a named proxy minus that of another one, signed so that more is better for the named one.

    Attributes:
        value: on the data.
        low, high: ends of its own 95% interval.
        margin: by how much it may be off, so that all differences of the comparison are within theirs with 95%.
    """

    value: float
    low: float
    high: float
    margin: float

    @property
    def significant(self) -> bool:
        """Whether it lies apart from 0 after the correction for all comparisons."""
        return abs(self.value) > self.margin

    @property
    def side(self) -> int:
        """1 where the named one is better for sure, -1 where it is worse, 0 where it is open."""
        return int(math.copysign(1, self.value)) if self.significant else 0


@dataclass(frozen=True)
class Row:
    """What the comparison says of one contestant.

    Attributes:
        named: whether it is one of those that were asked about.
        n: architectures of its figures: all of the population, but for a learned ranking those that it was not
            trained on.
        failed: of these, how many have no score and are ranked last.
        estimates: by metric.
        differences: by the label of a named one and metric.
        rank: by the comparison's metric, 1 the best; None for a learned ranking, which is ranked over others.
        group: letters that it shares with those that do not differ significantly.
        seconds: median time of one architecture, at most.
        inputs: mini-batches read.
    """

    label: str
    kind: str
    named: bool
    n: int
    failed: int
    estimates: Mapping[str, Estimate]
    differences: Mapping[str, Mapping[str, Difference]]
    rank: float | None
    group: str
    seconds: float
    inputs: str
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Comparison:
    """Contestants on one population of one dataset, best first.

    Attributes:
        named: labels of those that were asked about, with the text by which a command names each.
        metric: by which they are ranked.
        metrics: of which figures are given.
        absent: why a contestant has no row, by its label.
        larger: populations above this one that the others share too, the largest first.
        against: those that the named ones were to be compared with, as a command names them; none: all.
        scores: (n,) scores of the named ones; `accuracies` (n,) and `indices` (n,) beside them.
    """

    place: Place
    population: str
    named: Mapping[str, str]
    metric: str
    metrics: tuple[str, ...]
    resamples: int
    rows: tuple[Row, ...]
    absent: Mapping[str, str]
    larger: tuple[str, ...]
    scores: Mapping[str, np.ndarray] = field(repr=False)
    accuracies: np.ndarray = field(repr=False)
    indices: np.ndarray = field(repr=False)
    against: tuple[str, ...] = ()

    @property
    def n(self) -> int:
        return len(self.indices)

    @property
    def name(self) -> str:
        return self.place.name


def populations(where: Place) -> list[str]:
    """The populations that are looked at on a benchmark, the largest first."""
    found: dict[str, int] = {}
    for name in (*POPULATIONS, *where.benchmark.populations_of_card):
        try:
            found[name] = len(where.block.population(name))
        except HarnessError:  # of another space, or larger than the benchmark
            continue
    order = sorted(found, key=lambda name: -found[name])
    return [name for i, name in enumerate(order) if found[name] > 1 and found[name] not in map(found.get, order[:i])]


def choose(
    where: Place,
    named: Sequence[Contestant],
    others: Sequence[Contestant],
    modest: bool = False,
    inputs: str | None = None,
) -> tuple[str, list[str]]:
    """The population to compare on, and the larger ones that the others share too.

    The others share those over which three quarters as many of them are complete (`SHARE`) as over any. It is the
    largest of these, and of those over which the named ones are complete if there is one.

    Args:
        modest: where the named ones have yet to be scored, take the smallest instead.
        inputs: of the named ones, as `Place.read` takes them.

    Raises:
        HarnessError: the others share none.
    """
    names = populations(where)
    # Learned rankings would be fitted on each.
    others = [one for one in others if one.kind != "learned"]
    complete = {name: {one.label for one in others if where.is_complete(one, name)} for name in names}
    most = max(map(len, complete.values()), default=0)
    if not most:
        commands = where.commands(others, names[-1]) if names and others else []
        remedy = f": run {' and '.join(f'`{command}`' for command in commands)}" if commands else ""
        raise HarnessError(f"no scores of other proxies on {where.name} are stored{remedy}")
    shared = [name for name in names if len(complete[name]) >= SHARE * most]
    ready = [name for name in shared if all(where.is_complete(one, name, inputs) for one in named)]
    chosen = ready[0] if ready else shared[-1 if modest else 0]
    return chosen, shared[: shared.index(chosen)]


def compare_at(
    where: Place,
    named: Sequence[Contestant],
    against: Sequence[Contestant] | None = None,
    population: str | None = None,
    metric_name: str = "kendall",
    resamples: int = 1000,
    how: Scoring | None = None,
    modest: bool = False,
) -> Comparison:
    """Compare on one dataset.

    Args:
        against: the others; None for all that apply to the space and are complete on the population.
        population: None for the largest that the others share (`choose`).
        metric_name: by which all are ranked, as `harness.correlation.metric` takes it.
        how: compute what the named ones lack in this way; None to read alone.
        modest: as `choose` takes it.

    Raises:
        HarnessError: scores are missing, with the command that computes them; a metric that means nothing for what is
            stored.
    """
    wanted = contestants(EVERY, where) if against is None else against
    others = [one for one in wanted if one.label not in {one.label for one in named}]
    check_definitions(where.store.root, (proxy for one in named for proxy in proxies_of(one.spec)))
    for one in named:
        reason = where.block.inapplicable(one.spec)
        if reason:
            raise HarnessError(f"{one.label} does not apply to {where.name}: {reason}")
    larger: list[str] = []
    # With images at hand, noise does not stand in for them.
    inputs = PAPER_INPUTS if how is not None and how.source == PAPER_INPUTS else None
    if population is None:
        population, larger = choose(where, named, others, modest, inputs)
    where.block.population(population)
    where = _completed(where, named, population, how, inputs)
    found: dict[str, tuple[Contestant, str, Scores]] = {}
    absent: dict[str, str] = {}
    for one in (*named, *others):
        read = inputs if one in named else None
        if one not in named and _has_changed(where, one):
            absent[one.label] = "its code has changed since it was scored"
        elif where.is_complete(one, population, read):
            found[one.label] = (one, *where.read(one, population, read))
        else:
            absent[one.label] = _reason(where, one, population)
    if against is not None and len(found) <= len(named) and others:
        commands = where.commands(others, population)
        raise HarnessError(
            f"none of {', '.join(one.label for one in others)} is stored on {population} of {where.name}: run "
            + " and ".join(f"`{command}`" for command in commands)
        )
    measured = _measured(where, population, named, found, absent, larger, metric_name, resamples)
    return replace(measured, against=tuple(one.text for one in against or ()))


def _completed(
    where: Place, named: Sequence[Contestant], population: str, how: Scoring | None, inputs: str | None
) -> Place:
    """The place with all scores of the named ones; what is missing is computed first."""
    missing = where.lacking(named, population, inputs)
    if not missing:
        return where
    if how is None:
        commands = " and ".join(f"`{command}`" for command in where.commands(missing, population))
        raise HarnessError(
            f"{', '.join(one.label for one in missing)} lacks scores on {population} of {where.name}: run {commands}, "
            "or leave score=false out"
        )
    if how.progress:
        _announce(where, missing, population, inputs)
    score_missing(where, missing, population, how)
    again = where.afresh()
    failed = again.lacking(missing, population, inputs)
    if failed:
        raise HarnessError(
            f"an exception kept {', '.join(one.label for one in failed)} from a score on {where.name}: "
            f"{again.errors(failed, population, inputs)}"
        )
    return again


def _announce(where: Place, missing: Sequence[Contestant], population: str, inputs: str | None) -> None:
    """Say what is about to be computed, and what would be quicker."""
    lacked = [count for one in missing for count in where.read(one, population, inputs)[1].missing.values()]
    quicker = '; "population=sample(300, seed=0)" is quicker' if max(lacked) > 1000 else ""
    names = ", ".join(one.label for one in missing)
    print(f"{where.name}, {population}: {max(lacked):,} networks to score with {names}{quicker}", file=sys.stderr)


def _has_changed(where: Place, one: Contestant) -> bool:
    """Whether the stored scores came from other code of a proxy."""
    try:
        check_definitions(where.store.root, proxies_of(one.spec))
    except HarnessError:
        return True
    return False


def _reason(where: Place, one: Contestant, population: str) -> str:
    why = where.block.inapplicable(one.spec)
    if why:
        return f"does not apply: {why}"
    if one.kind == "learned" and not where.read(one, population)[1].missing:
        return "the population is no larger than the architectures that it is trained on"
    return "not stored on this population"


# Measuring -----------------------------------------------------------------------------------------------------


def metrics_of(where: Place, n: int, metric_name: str) -> tuple[str, ...]:
    """The metrics of a comparison over n architectures: the one asked for first, then tau, rho and nDCG_P.

    Raises:
        HarnessError: the one asked for means nothing for what is stored.
    """
    asked = f"ndcg_{gain_places(n)}" if metric_name == "ndcg" else metric(metric_name).name
    if not where.block.admits(asked):
        raise HarnessError(
            f"metric={metric_name} means nothing for {where.block.figure.name} of {where.name} "
            f"({where.block.figure}): take kendall or spearman"
        )
    usual = [name for name in ("kendall", "spearman", f"ndcg_{gain_places(n)}") if where.block.admits(name)]
    if asked in usual:
        return tuple(usual)
    return (asked, *usual)


def _measured(
    where: Place,
    population: str,
    named: Sequence[Contestant],
    found: Mapping[str, tuple[Contestant, str, Scores]],
    absent: Mapping[str, str],
    larger: Sequence[str],
    metric_name: str,
    resamples: int,
) -> Comparison:
    indices = where.block.population(population)
    accuracies = where.block.accuracies[indices]
    metrics = metrics_of(where, len(indices), metric_name)
    main = f"ndcg_{gain_places(len(indices))}" if metric_name == "ndcg" else metric(metric_name).name
    mine = [one.label for one in named]
    # Those that were trained on a part are measured on the rest, the named ones beside them once more.
    parts: dict[bytes, list[str]] = {}
    for label, (_, _, scores) in found.items():
        parts.setdefault(scores.members.tobytes(), []).append(label)
    samples: dict[str, Sample] = {}
    beside: dict[str, dict[str, Sample]] = {}
    for labels in parts.values():
        members = found[labels[0]][2].members
        columns = {label: found[label][2].values[members] for label in dict.fromkeys((*labels, *mine))}
        measured = sample_many(columns, accuracies[members], metrics, resamples)
        samples |= {label: measured[label] for label in labels}
        beside |= {label: {own: measured[own] for own in mine} for label in labels}
    differences = {name: _differences(name, mine, samples, beside) for name in metrics}
    whole = [label for label in found if found[label][2].members.all()]
    ranks, groups = _ranked(main, {label: samples[label] for label in whole})
    rows = [
        Row(
            label=label,
            kind=one.kind,
            named=label in mine,
            n=samples[label].n,
            failed=samples[label].n_failed,
            estimates={name: estimate(samples[label].values[name], samples[label].resampled[name]) for name in metrics},
            differences={
                own: {name: differences[name][own, label] for name in metrics if (own, label) in differences[name]}
                for own in mine
                if own != label
            },
            rank=ranks.get(label),
            group=groups.get(label, ""),
            seconds=scores.seconds,
            inputs=where.block.inputs(one.spec, source),
            notes=_notes(where, one, source, scores, samples[label]),
        )
        for label, (one, source, scores) in found.items()
    ]
    sign = 1 if metric(main).direction == "lower" else -1
    rows.sort(key=lambda row: (math.isnan(v := row.estimates[main].value), sign * v, row.label))
    return Comparison(
        where,
        population,
        {one.label: one.text for one in named},
        main,
        metrics,
        resamples,
        tuple(rows),
        dict(absent),
        tuple(larger),
        {label: found[label][2].values for label in mine},
        accuracies,
        indices,
    )


def _differences(
    name: str, mine: Sequence[str], samples: Mapping[str, Sample], beside: Mapping[str, Mapping[str, Sample]]
) -> dict[tuple[str, str], Difference]:
    """Differences by the labels of a named one and another, corrected for all of them. Two named ones count twice.

    Pairs of which one is undefined on the data are left out.
    """
    sign = 1.0 if metric(name).direction == "higher" else -1.0
    pairs, values, drawn = [], [], []
    for own in mine:
        for label, sample in samples.items():
            value = sign * (beside[label][own].values[name] - sample.values[name])
            if label != own and not math.isnan(value):
                pairs.append((own, label))
                values.append(value)
                drawn.append(sign * (beside[label][own].resampled[name] - sample.resampled[name]))
    if not pairs:
        return {}
    resampled = np.stack(drawn)
    defined = resampled[:, ~np.isnan(resampled).any(axis=0)]
    enough = defined.shape[1] > 1
    margin = margins(np.array(values), defined) if enough else np.full(len(values), math.inf)
    found = {}
    for pair, value, row, off in zip(pairs, values, resampled, margin, strict=True):
        one = estimate(value, row)
        found[pair] = Difference(one.value, one.low, one.high, float(off))
    return found


def _ranked(name: str, samples: Mapping[str, Sample]) -> tuple[dict[str, float], dict[str, str]]:
    """Ranks and letters of groups by label; none for those of which the metric is undefined."""
    sign = 1.0 if metric(name).direction == "higher" else -1.0
    labels = [label for label, sample in samples.items() if not math.isnan(sample.values[name])]
    if not labels:
        return {}, {}
    values = sign * np.array([samples[label].values[name] for label in labels])
    drawn = sign * np.stack([samples[label].resampled[name] for label in labels])
    ranks = dict(zip(labels, rankdata(-values).tolist(), strict=True))
    if drawn.shape[1] < 2:
        return ranks, {}
    letters = group_letters(np.argsort(-values, kind="stable"), indistinguishable(values, drawn))
    return ranks, dict(zip(labels, letters, strict=True))


def _notes(where: Place, one: Contestant, source: str, scores: Scores, sample: Sample) -> tuple[str, ...]:
    """What has to be said of a contestant's figures."""
    caveats = [proxy.caveat for proxy in proxies_of(one.spec)] if one.kind == "proxy" else []
    notes = [*caveats, f"{sample.n_failed:,} without a score, ranked last" if sample.n_failed else ""]
    notes += scores.notes(one.label)
    if source != PAPER_INPUTS and where.block.inputs(one.spec, source) != where.block.inputs(one.spec, PAPER_INPUTS):
        notes.append("on noise, where its definition reads images")
    if one.kind == "learned":
        spent = f"spends {LEARNED[one.spec].train:,} accuracies, over the {sample.n:,} other architectures"
        notes.append(f"{spent}, on which it is not ranked")
    notes.append(where.block.stand_in(one.spec, source))
    return tuple(filter(None, notes))
