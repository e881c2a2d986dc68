"""A run of a search: its state, which is saved whole and from which it goes on, and what it found.

A run depends on its job alone. With a budget of evaluations a run that was killed and started again ends as one that
was not; with a budget of time it goes on from the population that it had saved, its time so far counted. One that is
stopped saves its last whole step.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from harness.engine.store import write_text
from harness.errors import HarnessError, cause
from harness.progress import progress_bar
from harness.search.algorithms import Algorithm, Phase, order
from harness.search.genes import Genotype, SearchSpace
from harness.search.objective import Objective, best_so_far, check_combination, fitness
from harness.search.stored import HISTORY, RESULT, STATE, belongs, unwritable
from harness.seeds import stable_rng
from harness.specs import label

_BUDGET = re.compile(r"(\d+(?:\.\d+)?)\s*(s|min|h)?")
_SECONDS = {"s": 1.0, "min": 60.0, "h": 3600.0}


class Budget(NamedTuple):
    """How long a run lasts: a number of evaluations or a number of seconds, the other being None."""

    evaluations: int | None
    seconds: float | None

    @classmethod
    def parse(cls, text: str) -> Budget:
        """`1000` evaluations, `90s`, `10min`, `1h`. Raises HarnessError."""
        match = _BUDGET.fullmatch(str(text).strip())
        number = float(match[1]) if match else 0.0
        if not match or number <= 0 or (not match[2] and number != int(number)):
            raise HarnessError(f"budget={text!r} is neither evaluations (1000) nor a time (90s, 10min, 1h)")
        return cls(None, number * _SECONDS[match[2]]) if match[2] else cls(int(number), None)


@dataclass(frozen=True)
class Ceilings:
    """Most parameters and most multiply-accumulates; None for no limit."""

    max_params: float | None = None
    max_flops: float | None = None

    def __str__(self) -> str:
        named = (("params", self.max_params), ("flops", self.max_flops))
        return ",".join(f"{name}<={_exact(limit)}" for name, limit in named if limit is not None) or "none"

    def keeps(self, counts: dict[str, float]) -> bool:
        """Whether both counts are within the limits."""
        return (self.max_params is None or counts["params"] <= self.max_params) and (
            self.max_flops is None or counts["flops"] <= self.max_flops
        )


def _exact(limit: float) -> str:
    """A limit as a folder's name has it: six digits where these tell it, as in `6e+06`, else all of them."""
    short = f"{limit:g}"
    return short if float(short) == limit else repr(limit)


@dataclass
class State:
    """All that a run is at a moment; members are places in the history, in the order of their evaluation."""

    phase: int = 0
    seconds: float = 0.0
    population: list[int] = field(default_factory=list)
    finished: list[list[int]] = field(default_factory=list)  # populations of the phases before
    history: list[Genotype] = field(default_factory=list)
    phases: list[int] = field(default_factory=list)
    costs: list[float] = field(default_factory=list)


def _places(values: Sequence[Any], size: int) -> bool:
    """Whether values are places among `size`."""
    return all(type(value) is int and 0 <= value < size for value in values)


class Run:
    """One run of an algorithm on a space with one seed, in memory.

    Args:
        combine: how several proxies of a phase make one fitness.
    """

    def __init__(
        self,
        space: SearchSpace,
        objective: Objective,
        algorithm: Algorithm,
        budget: Budget,
        seed: int,
        ceilings: Ceilings | None = None,
        combine: str = "normalised_sum",
    ):
        self.space, self.objective, self.algorithm = space, objective, algorithm
        self.budget, self.seed, self.combine = budget, seed, check_combination(combine)
        self.ceilings = ceilings or Ceilings()
        self.plan = algorithm.phases(space, len(objective.labels))
        self.ends = np.cumsum([phase.share for phase in self.plan])
        self.state = State()
        self.rng = stable_rng("search", space.name, label(algorithm), seed)
        self._scores = np.full((256, len(objective.labels)), np.nan)
        self._known: dict[tuple[Genotype, tuple[int, ...]], tuple[float, ...]] = {}
        self._kept: dict[Genotype, bool] = {}
        self._started = time.perf_counter()

    # What algorithms use.

    @property
    def population(self) -> list[int]:
        """Places of the current members; algorithms change it."""
        return self.state.population

    @property
    def phase(self) -> Phase:
        return self.plan[self.state.phase]

    @cached_property
    def _allowed(self) -> Any:
        if self.ceilings == Ceilings():
            return lambda genotype: True

        def keeps(genotype: Genotype) -> bool:
            if genotype not in self._kept:
                self._kept[genotype] = self.ceilings.keeps(self.space.counts(genotype))
            return self._kept[genotype]

        return keeps

    def random(self) -> Genotype:
        """A random member that keeps the ceilings."""
        return self.space.random(self.rng, self._allowed)

    def mutated(self, parent: int, steps: int = 1) -> Genotype:
        """A mutation of the phase's genes."""
        return self.space.mutate(self.state.history[parent], self.rng, self._allowed, self.phase.kind, steps)

    def crossed(self, first: int, second: int) -> Genotype:
        """A crossing in the phase's genes."""
        parents = self.state.history[first], self.state.history[second]
        return self.space.crossover(*parents, self.rng, self._allowed, self.phase.kind)

    def evaluate(self, genotype: Genotype) -> int:
        """Scores a member by the phase's proxies and gives its place in the history.

        A network is scored once; meeting it again is an evaluation that takes no time.
        """
        columns = self.phase.columns
        state, place = self.state, len(self.state.history)
        known = self._known.get((genotype, columns))
        seconds = 0.0
        if known is None:
            known, seconds = self.objective.score(genotype, columns)
            self._known[genotype, columns] = known
        if place == len(self._scores):
            self._scores = np.concatenate([self._scores, np.full_like(self._scores, np.nan)])
        for column, value in zip(columns, known, strict=True):
            self._scores[place, column] = value
        state.history.append(genotype)
        state.phases.append(state.phase)
        state.costs.append(seconds)
        return place

    def fitness(self, members: Sequence[int]) -> np.ndarray:
        """Fitness (n,) of members by the phase's proxies, over just these members."""
        columns = self.phase.columns
        scores = self._scores[members]
        return fitness(scores if len(columns) == scores.shape[1] else scores[:, list(columns)], self.combine)

    def ranked(self, members: Sequence[int]) -> list[int]:
        """Members from the best down, the earlier of equals first."""
        members = sorted(members)
        return [members[i] for i in order(self.fitness(members))]

    def survivors(self, size: int) -> None:
        """Cut the population to its best; it stays in the order of age."""
        if len(self.population) > size:
            self.state.population = sorted(self.ranked(self.population)[:size])

    def left(self) -> bool:
        """Whether the phase has budget left."""
        return self.spent() < self.ends[self.state.phase] - 1e-12

    def spent(self) -> float:
        """The part of the budget that is spent."""
        if self.budget.evaluations is not None:
            return len(self.state.history) / self.budget.evaluations
        return (self.state.seconds + time.perf_counter() - self._started) / self.budget.seconds

    # The run itself.

    def step(self) -> bool:
        """One step of the current phase, or the change to the next one; False when the run is over."""
        state = self.state
        if not self.left():
            if state.phase + 1 == len(self.plan):
                return False
            state.finished.append(state.population)
            state.phase += 1
            state.population = self._merged() if self.phase.founders == "merged" else []
            return True
        if len(state.population) >= self.phase.size:
            self.algorithm.evolve(self, self.phase)
        else:
            state.population.append(self.evaluate(self._founder()))
        return True

    def _merged(self) -> list[int]:
        """The best of all finished populations, one of each architecture."""
        first: dict[Genotype, int] = {}
        for place in sorted(place for population in self.state.finished for place in population):
            first.setdefault(self.state.history[place], place)
        return sorted(self.ranked(list(first.values()))[: self.phase.size])

    def _founder(self) -> Genotype:
        if self.phase.founders == "random" or self.state.phase == 0:
            return self.random()
        seed = self.state.history[self._best_before]
        if not self.population:
            return seed
        return self.space.crossover(seed, self.random(), self.rng, self._allowed, self.phase.kind)

    @property
    def _best_before(self) -> int:
        """The best member of the phase before, of those that its proxies scored."""
        before = self.state.phase - 1
        columns = list(self.plan[before].columns)
        members = self._members(before)
        if not members:  # its time was over before it evaluated one
            return len(self.state.history) - 1
        return members[int(order(fitness(self._scores[members][:, columns], self.combine))[0])]

    def _members(self, phase: int) -> list[int]:
        """All that was evaluated in the run of phases up to `phase` that the same proxies led."""
        first = phase
        while first > 0 and self.plan[first - 1].columns == self.plan[phase].columns:
            first -= 1
        return [place for place, when in enumerate(self.state.phases) if first <= when <= phase]

    def go(self, folder: Path | None = None, save_seconds: float = 10.0, progress: bool = False) -> None:
        """Run to the end of the budget. The state is saved below `folder`, where one is given, now and then and when
        the run is stopped."""
        self._started = saved = time.perf_counter()
        # Only whole steps are saved: a step that was cut off is done again, from the same draws.
        whole = self._moment()
        try:
            with progress_bar(self.budget.evaluations, "evaluations", progress) as bar:
                while self.step():
                    if folder is not None:
                        whole = self._moment()
                    now = time.perf_counter()
                    if folder is not None and now - saved >= save_seconds:
                        self.save(folder)
                        saved = now
                    spent = f"phase {self.phase.name}, {100 * self.spent():.0f}% of the budget"
                    bar.set_postfix_str(spent, refresh=False)
                    bar.update(len(self.state.history) - bar.n)
        except BaseException:
            if folder is not None:
                self._return_to(whole)
                if self.state.history:
                    self.save(folder)
            raise
        self._pause()

    def _moment(self) -> tuple[Any, int, list[int], list[list[int]], int]:
        """What a step changes, but for the histories, which only grow, and of which the length is kept."""
        state = self.state
        return self.rng.get_state(), state.phase, list(state.population), list(state.finished), len(state.history)

    def _return_to(self, moment: tuple[Any, int, list[int], list[list[int]], int]) -> None:
        """Forget what was done since a moment."""
        state = self.state
        drawn, state.phase, state.population, state.finished, length = moment
        self.rng.set_state(drawn)
        for grown in (state.history, state.phases, state.costs):
            del grown[length:]
        self._scores[length:] = np.nan

    def _pause(self) -> None:
        now = time.perf_counter()
        self.state.seconds += now - self._started
        self._started = now

    # State on disk.

    def save(self, folder: Path) -> None:
        """Write the state whole or not at all. Raises HarnessError: the folder cannot be written."""
        self._pause()
        kind, keys, position, has_gauss, gauss = self.rng.get_state()
        scores = self._scores[: len(self.state.history)]
        content = {
            "proxies": self.objective.labels,
            "versions": self.objective.versions,
            "sources": dict(self.objective.sources),
            "generator": [kind, keys.tolist(), position, has_gauss, gauss],
            "scores": [[None if np.isnan(value) else value for value in row] for row in scores.tolist()],
            **vars(self.state),
        }
        try:
            folder.mkdir(parents=True, exist_ok=True)
            write_text(folder / STATE, json.dumps(content))
        except OSError as error:
            raise unwritable(folder, error) from error

    def load(self, folder: Path) -> bool:
        """Take up the state saved below `folder`; False where there is none, or one of other definitions or images.

        Raises HarnessError: the file is damaged.
        """
        path = folder / STATE
        if not path.is_file():
            return False
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            if content["proxies"] != list(self.objective.labels) or not belongs(content, self.objective):
                return False
            kind, keys, position, *rest = content["generator"]
            if position not in range(len(keys) + 1):
                raise ValueError(f"the generator is at {position} of {len(keys)}")
            self.rng.set_state((kind, np.array(keys, dtype=np.uint32), position, *rest))
            state = State(**{name: content[name] for name in vars(State())})
            state.history = [tuple(genotype) for genotype in state.history]
            self._check(state)
            shape = len(state.history), len(self.objective.labels)
            self._take_up(state, np.array(content["scores"], dtype=np.float64).reshape(shape))
        except OSError as error:
            raise HarnessError(f"{path} cannot be read ({error.strerror or error})") from error
        except (ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError) as error:
            raise HarnessError(f"{path} is damaged ({cause(error)}): delete it to start the search again") from error
        return True

    def _take_up(self, state: State, scores: np.ndarray) -> None:
        """Go on from a state with scores (n, m)."""
        self.state = state
        self._scores = np.full((max(256, 2 * len(scores)), len(self.objective.labels)), np.nan)
        self._scores[: len(scores)] = scores
        for place, (genotype, phase) in enumerate(zip(state.history, state.phases, strict=True)):
            columns = self.plan[phase].columns
            self._known[genotype, columns] = tuple(float(scores[place, c]) for c in columns)

    def recall(self, folder: Path, seconds: float) -> bool:
        """Take up the history of a run that is over and took `seconds`; False where it is gone.

        Members are scored again, which is to cost nothing. Raises HarnessError: the file is damaged.
        """
        path = folder / HISTORY
        if not path.is_file():
            return False
        try:
            frame = pd.read_parquet(path, partitioning=None)
            names = [phase.name for phase in self.plan]
            for text, phase in zip(frame["architecture"], frame["phase"], strict=True):
                self.state.phase = names.index(phase)
                self.evaluate(self.space.decode(text))
            self.state.population = np.flatnonzero(frame["member"]).tolist()
            self.state.seconds = seconds
            self._check(self.state)
        except (OSError, ValueError, LookupError, TypeError, AttributeError, HarnessError) as error:
            raise HarnessError(
                f"{path} is damaged ({cause(error)}): delete it and {RESULT} beside it to search again"
            ) from error
        return True

    def _check(self, state: State) -> None:
        """Raises ValueError or another error where a state is none of this run."""
        n = len(state.history)
        for genotype in set(state.history):
            if not all(_places([p], len(gene.options)) for p, gene in zip(genotype, self.space.genes, strict=True)):
                raise ValueError(f"{genotype} is no architecture")
            self.space.encode(genotype)  # of a benchmark it is a member
        if not all(_places(population, n) for population in (state.population, *state.finished)):
            raise ValueError("a population has members that were never evaluated")
        if not _places([state.phase, *state.phases], len(self.plan)):
            raise ValueError(f"the search has {len(self.plan)} phases")
        if not len(state.phases) == len(state.costs) == n:
            raise ValueError("phases and times are not as many as evaluations")
        if not np.isfinite([state.seconds, *state.costs]).all():
            raise ValueError("a time is no number")

    # What came out.

    def incumbents(self) -> np.ndarray:
        """(evaluations,): the place of the best member so far after each evaluation.

        The best by the proxies of that evaluation's phase, of all that they have scored since they took the lead.
        """
        found = np.empty(len(self.state.history), dtype=int)
        groups: list[list[int]] = []
        columns: tuple[int, ...] | None = None
        for place, phase in enumerate(self.state.phases):
            if self.plan[phase].columns != columns:
                columns = self.plan[phase].columns
                groups.append([])
            groups[-1].append(place)
        for group in groups:
            scores = self._scores[group][:, list(self.plan[self.state.phases[group[0]]].columns)]
            found[group] = np.asarray(group)[best_so_far(scores, self.combine)]
        return found

    @property
    def best(self) -> Genotype:
        """The best member by the proxies of the last phase. Raises HarnessError where nothing was evaluated."""
        if not self.state.history:
            raise HarnessError("the budget was spent before a member was evaluated: raise budget")
        return self.state.history[int(self.incumbents()[-1])]

    def scores_of_best(self) -> dict[str, float | None]:
        """Scores of the best member by all proxies, None where it has none.

        Those by proxies that did not lead the last phase are computed for it, beside the budget. Raises HarnessError.
        """
        place = int(self.incumbents()[-1])
        values = self._scores[place].copy()
        led = self.plan[self.state.phases[place]].columns
        others = [column for column in range(len(values)) if column not in led]
        if others:
            values[others] = self.objective.score(self.best, others).values
        pairs = zip(self.objective.labels, values.tolist(), strict=True)
        return {name: None if np.isnan(value) else value for name, value in pairs}

    def frame(self) -> pd.DataFrame:
        """The history, one row per evaluation: `architecture`, `phase`, one column per proxy, `params`, `flops`,
        `seconds`, `best` (the place of the best so far) and `member` (whether it is in the last population)."""
        state = self.state
        counts: dict[Genotype, dict[str, float]] = {}
        for genotype in state.history:
            if genotype not in counts:
                counts[genotype] = self.space.counts(genotype)
        scores = self._scores[: len(state.history)]
        return pd.DataFrame(
            {
                "architecture": [self.space.encode(genotype) for genotype in state.history],
                "phase": [self.plan[phase].name for phase in state.phases],
                **{name: scores[:, i] for i, name in enumerate(self.objective.labels)},
                **{name: [counts[genotype][name] for genotype in state.history] for name in ("params", "flops")},
                "seconds": np.array(state.costs, dtype=np.float64),
                "best": self.incumbents(),
                "member": np.isin(np.arange(len(state.history)), state.population),
            }
        )
