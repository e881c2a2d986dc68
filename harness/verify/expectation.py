"""Does a proxy, anyone's, reach what its author claims? For the continuous integration of other projects.

A claim compares a figure with a number or with another figure:

    tau>=0.6                      Kendall's tau of the proxy
    tau.low>=0.55                 the lower end of its 95% interval
    tau>tau(naswot)               more than another proxy's, on the same architectures and mini-batches
    tau-tau(flops)>=0.05          by so much
    (tau-tau(flops)).low>0        the paired difference, so that its 95% interval lies above 0
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from tempfile import TemporaryDirectory
from typing import Any

from harness.comparison.scores import Contestant, Place, Scoring, contestant, place, score_missing
from harness.correlation import Estimate, Sample, check_resamples, estimate, metric, sample_many
from harness.engine.store import ScoreStore, open_store
from harness.errors import HarnessError
from harness.paths import typed_path
from harness.proxies.base import Proxy
from harness.rankings.results import PAPER_INPUTS
from harness.verify.findings import Finding

#: Small enough for every push, of every kind of cell, and known to every space.
POPULATION = "sample(100, seed=0)"

_COMPARISONS: dict[str, Callable[[float, float], bool]] = {
    ">=": operator.ge,
    "<=": operator.le,
    ">": operator.gt,
    "<": operator.lt,
}
_NUMBER = re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)(?:e[-+]?\d+)?")
_METRIC = re.compile(r"[A-Za-z]+(?:_\d+(?:\.\d+)?%?)?")
_END = re.compile(r"\.(low|high)\b")


@dataclass(frozen=True)
class Term:
    """A metric of the proxy that is checked, or of another one (`other`), or an end of its interval."""

    metric: str
    other: str = ""
    end: str = ""

    def __str__(self) -> str:
        return f"{self.metric}{f'({self.other})' if self.other else ''}{f'.{self.end}' if self.end else ''}"


@dataclass(frozen=True)
class Figure:
    """A term, or the paired difference of two, of which `end` may name an end of the interval."""

    first: Term
    minus: Term | None = None
    end: str = ""

    @property
    def terms(self) -> tuple[Term, ...]:
        return (self.first,) if self.minus is None else (self.first, self.minus)

    def __str__(self) -> str:
        if self.minus is None:
            return str(self.first)
        text = f"{self.first} - {self.minus}"
        return f"({text}).{self.end}" if self.end else text


@dataclass(frozen=True)
class Expectation:
    """A claim: `kendall >= 0.6`, `kendall > kendall(naswot)`."""

    figure: Figure
    comparison: str
    bound: float | Figure

    @property
    def terms(self) -> tuple[Term, ...]:
        return self.figure.terms + (self.bound.terms if isinstance(self.bound, Figure) else ())

    def holds(self, value: float, bound: float) -> bool:
        """NaN meets no bound, and is none that is met."""
        return _COMPARISONS[self.comparison](value, bound)

    def __str__(self) -> str:
        bound = f"{self.bound:g}" if isinstance(self.bound, float) else str(self.bound)
        return f"{self.figure} {self.comparison} {bound}"


# Reading -------------------------------------------------------------------------------------------------------


def parse_expectation(text: str) -> Expectation:
    """The claim that a text such as `tau>=0.6`, `tau.low>=0.3` or `tau>tau(naswot)` states. Raises HarnessError."""
    parts = re.split(r"(>=|<=|>|<)", text)
    try:
        if len(parts) != 3:
            raise ValueError
        left, comparison, right = (part.strip() for part in parts)
        number = _NUMBER.fullmatch(right)
        return Expectation(_figure(left), comparison, float(right) if number else _figure(right))
    except HarnessError as error:
        raise HarnessError(f"{text!r}: {error}") from error
    except ValueError:
        raise HarnessError(
            f"{text!r} is no expectation: write METRIC>=VALUE in quotes, as in --expect 'tau>=0.6', 'tau.low>=0.3', "
            "'tau>tau(naswot)' or '(tau-tau(flops)).low>0' (without quotes the shell takes > for itself)"
        ) from None


def _figure(text: str) -> Figure:
    """Raises ValueError for what is no figure, HarnessError for a name that is none."""
    end = ""
    bracketed = re.fullmatch(r"\((.*)\)(?:\.(low|high))?", text)
    if bracketed:
        text, end = bracketed[1].strip(), bracketed[2] or ""
    first, rest = _term(text)
    rest = rest.strip()
    if not rest:
        if bracketed and end:
            raise ValueError
        return Figure(first)
    if rest[0] != "-":
        raise ValueError
    second, rest = _term(rest[1:].strip())
    if rest.strip() or first.end or second.end:  # an end less an end is the end of nothing
        raise ValueError
    return Figure(first, second, end)


def _term(text: str) -> tuple[Term, str]:
    """The term that a text begins with, and the rest."""
    name = _METRIC.match(text)
    if not name:
        raise ValueError
    rest, other = text[name.end() :], ""
    if rest.startswith("("):
        close = _closing(rest)
        other, rest = rest[1:close].strip(), rest[close + 1 :]
        if not other:
            raise ValueError
        contestant(other)  # raises where there is no such proxy
    end = _END.match(rest)
    if end:
        rest = rest[end.end() :]
    return Term(metric(name[0]).name, other, end[1] if end else ""), rest


def _closing(text: str) -> int:
    """Place of the bracket that closes the first one."""
    depth = 0
    for place_, mark in enumerate(text):
        depth += {"(": 1, ")": -1}.get(mark, 0)
        if depth == 0:
            return place_
    raise ValueError


# Checking ------------------------------------------------------------------------------------------------------


def check_expectations(proxy: Proxy, expectations: Sequence[Expectation], config: Any) -> Iterator[Finding]:
    """Score a population of `config` with `proxy` and hold each figure against its bound.

    The proxy is computed anew. Others that a claim names are read from `config.stores`, and computed where they lack
    scores of these mini-batches. A proxy that reads images gets noise where `config.inputs.path` names none; the
    protocol line says which.
    """
    check_resamples(config.resamples)
    own = contestant(proxy)
    others = {term.other: contestant(term.other) for one in expectations for term in one.terms if term.other}
    population = POPULATION if config.population is None else config.population
    inputs = None if config.inputs.path is None else config.inputs.name
    how = Scoring(inputs, config.inputs.path, config.workers, config.device)
    with TemporaryDirectory() as folder:
        alone = place(config.benchmark, config.dataset, ScoreStore(folder), config.seed)
        indices = alone.block.population(population)  # raises, before anything is scored, where there is none
        score_missing(alone, [own], population, how)
        alone = alone.afresh()
        where = place(config.benchmark, config.dataset, open_store(folder, [folder, *_there(config)]), config.seed)
        if others:
            score_missing(where, list(others.values()), population, how)
            where = where.afresh()
        values = {"": alone.read(own, population, how.source)[1].values}
        statuses = alone.block.reader.statuses(proxy, alone.block.dataset, indices, how.source, config.seed)
        values |= {name: where.read(one, population, how.source)[1].values for name, one in others.items()}
    names = list(dict.fromkeys(term.metric for one in expectations for term in one.terms))
    samples = sample_many(values, alone.block.accuracies[indices], names, config.resamples)
    yield Finding(proxy.label, "note", _protocol(alone, own, others, population, how, config.resamples))
    reasons = [status for status in statuses.values() if status != "ok"]
    for status in sorted(set(reasons)):
        text = f"{reasons.count(status)} of {len(indices)} without a score, ranked last: {status}"
        yield Finding(proxy.label, "note", text)
    for expectation in expectations:
        yield _held(proxy.label, expectation, samples)


def _there(config: Any) -> list[str]:
    """The folders of scores that are read; the user's own need not be there."""
    return [one for one in config.stores if one != config.store or typed_path(one, "store").exists()]


def _protocol(
    where: Place, own: Contestant, others: Mapping[str, Contestant], population: str, how: Scoring, resamples: int
) -> str:
    """What every figure is about."""
    source = how.source if how.source == PAPER_INPUTS else "random"
    read = where.block.inputs(own.spec, source)
    inputs = "no mini-batch" if read == "none" else f"inputs {read}"
    beside = "".join(f", {one.label}: {where.block.inputs(one.spec, source)}" for one in others.values())
    n = len(where.block.population(population))
    return (
        f"protocol: {where.name}, {where.block.figure.name}, {population}, n = {n}, "
        f"{inputs}{beside}, seed {where.seed}, 95% interval of {resamples} bootstrap resamples"
    )


def _held(label: str, expectation: Expectation, samples: Mapping[str, Sample]) -> Finding:
    left = _estimated(expectation.figure, samples)
    value = _picked(expectation.figure, left)
    figures = {"value": left.value, "low": left.low, "high": left.high}
    detail = f"{left.value:.4f} [{left.low:.4f}, {left.high:.4f}]"
    if isinstance(expectation.bound, Figure):
        right = _estimated(expectation.bound, samples)
        bound = _picked(expectation.bound, right)
        detail += f" against {right.value:.4f} [{right.low:.4f}, {right.high:.4f}]"
        if expectation.figure.minus is None and expectation.bound.minus is None:
            apart = _estimated(Figure(expectation.figure.first, expectation.bound.first), samples)
            detail += f", difference {apart.value:+.4f} [{apart.low:+.4f}, {apart.high:+.4f}]"
            figures |= {"difference": apart.value, "difference_low": apart.low, "difference_high": apart.high}
        figures["bound"] = bound
    else:
        bound = figures["bound"] = expectation.bound
    return Finding(
        f"{expectation.figure} of {label}",
        "ok" if expectation.holds(value, bound) else "FAILS",
        f"{detail}, expected {expectation.comparison} {str(expectation).split(f' {expectation.comparison} ')[1]}",
        figures,
    )


def _estimated(figure: Figure, samples: Mapping[str, Sample]) -> Estimate:
    """The figure with its interval; of a difference the paired one."""
    first, *minus = [(samples[term.other], term.metric) for term in figure.terms]
    value, drawn = first[0].values[first[1]], first[0].resampled[first[1]]
    for sample, name in minus:
        value, drawn = value - sample.values[name], drawn - sample.resampled[name]
    return estimate(value, drawn)


def _picked(figure: Figure, found: Estimate) -> float:
    """The number that a claim is about: the value, or an end of its interval."""
    end = figure.end or figure.first.end
    return getattr(found, end or "value")
