"""Studies: several searches under one budget, with a table and the trajectories behind it."""

from __future__ import annotations

import csv
import io
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import astuple, dataclass, fields
from typing import Any

import numpy as np

from harness.engine.store import open_store, write_text
from harness.errors import HarnessError
from harness.paths import typed_path
from harness.search.objective import MissingScores, NetworkScores
from harness.search.outcome import Interval, Outcome, TabularSearches
from harness.search.run import complete, open_run
from harness.search.spaces import available, get_open_space
from harness.search.unread import ON_BENCHMARKS, refuse

#: Evaluations at which a table gives the accuracy held so far, besides the last.
POINTS = (10, 100)


@dataclass(frozen=True)
class Line:
    """A figure of a study on benchmarks. `accuracy` is None where scores are missing."""

    benchmark: str
    dataset: str
    search: str
    algorithm: str
    proxies: str
    population: str
    n: int
    accuracy: float | None
    low: float | None
    high: float | None
    regret: float | None
    oracle: float
    at_10: float | None
    at_100: float | None
    distinct: float | None
    seconds: float | None
    published: float | None
    note: str


@dataclass(frozen=True)
class Point:
    """The accuracy held after a number of evaluations: a mean over runs with its 95% interval."""

    benchmark: str
    dataset: str
    search: str
    led_by: str
    evaluations: int
    seconds: float
    accuracy: float
    low: float
    high: float


def written(rows: Sequence[Any], kind: type) -> str:
    """Rows of a dataclass as CSV; figures rounded to four digits."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([field.name for field in fields(kind)])
    for row in rows:
        writer.writerow(["" if v is None else f"{v:.4f}" if isinstance(v, float) else v for v in astuple(row)])
    return out.getvalue()


def build_study(config: Any) -> int:
    """Run what a study asks for and is not stored, and write its table; returns the exit code."""
    study = config.study
    if not study.cases or not study.rows:
        raise HarnessError(f"study {study.name!r} has no cases or no rows: see conf/study/")
    output = typed_path(config.output, "output")
    open_cases = [case for case in study.cases if case.benchmark.partition(":")[0] in available()]
    if open_cases and len(open_cases) < len(study.cases):
        raise HarnessError(f"study {study.name!r} mixes benchmarks and open spaces: make two studies")
    if open_cases:
        text, files = _open_table(config, open_cases)
    else:
        lacking = next((case.benchmark for case in study.cases if not case.datasets or not case.populations), None)
        if lacking is not None:
            raise HarnessError(f"study {study.name!r} names no dataset or no population of {lacking}: see conf/study/")
        refuse(config, ON_BENCHMARKS, "in a study on benchmarks")
        text, files = _tabular_table(config)
    try:
        output.mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            write_text(output / name, content)
    except OSError as error:
        raise HarnessError(
            f"cannot write tables to {output} ({error.strerror or error}): free some space or set output=DIR"
        ) from error
    print(text)
    if config.plots:
        from harness.search.plots import plot_study

        for path in plot_study(config):
            print(path)
    return 0


# On benchmarks.


def _outcomes(config: Any, case: Any, dataset: str, row: Any) -> tuple[str, Outcome] | MissingScores:
    """The outcome of a row over the first of the case's populations that has all its scores, or what is missing."""
    study, lacking = config.study, None
    for population in case.populations:
        searches = _searches(case.benchmark, dataset, population, config)
        try:
            objective = searches.objective(row.proxies)
        except MissingScores as error:
            lacking = error
            continue
        runs = []
        for seed in range(study.seed, study.seed + study.repeats):
            run = searches.run(objective, row.algorithm, study.budget, seed, combine=row.combine)
            run.go()
            runs.append(run)
        return population, searches.outcome(runs)
    return lacking


#: The searches used last: rows of one case share the coding of its population and the columns of its scores.
_CACHE: dict[tuple[str, ...], TabularSearches] = {}


def _searches(benchmark: str, dataset: str, population: str, config: Any) -> TabularSearches:
    key = (benchmark, dataset, population, config.scores, *config.stores)
    if key not in _CACHE:
        _CACHE.clear()
        _CACHE[key] = TabularSearches(
            benchmark, dataset, population, open_store(config.scores, config.stores), seed=config.score_seed
        )
    return _CACHE[key]


def tabular_lines(config: Any) -> tuple[list[Line], list[Point], dict[str, list[str]]]:
    """Lines and trajectories of a study on benchmarks; and, by population, what is missing for it."""
    lines: list[Line] = []
    points: list[Point] = []
    missing: dict[str, list[str]] = {}
    for case in config.study.cases:
        for dataset in case.datasets:
            for row in config.study.rows:
                if row.benchmarks and case.benchmark not in row.benchmarks:
                    continue
                found = _outcomes(config, case, dataset, row)
                shared = (case.benchmark, dataset, row.label, row.algorithm, _led_by(row))
                printed = row.published.get(f"{case.benchmark}/{dataset}")
                if isinstance(found, MissingScores):
                    first = _searches(case.benchmark, dataset, case.populations[0], config)
                    oracle = float(np.nanmax(first.accuracies))
                    blank = (None,) * 4
                    lines.append(
                        Line(*shared, "", 0, *blank, oracle, *blank, printed, _joined(row.note, "not computed"))
                    )
                    missing.setdefault(case.populations[0], []).extend(found.commands)
                    continue
                population, outcome = found
                final = outcome.final
                at = [float(outcome.accuracy[:, min(p, outcome.accuracy.shape[1]) - 1].mean()) for p in POINTS]
                scattered = "moves go to the nearest member of the sample" if outcome.scattered else ""
                lines.append(
                    Line(
                        *shared,
                        population,
                        outcome.members,
                        final.mean,
                        final.low,
                        final.high,
                        outcome.oracle - final.mean,
                        outcome.oracle,
                        *at,
                        float(outcome.distinct.mean()),
                        float(outcome.seconds[:, -1].mean()),
                        printed,
                        _joined(row.note, scattered),
                    )
                )
                points += _trajectory((*shared[:3], shared[4]), outcome)
    return lines, points, missing


def _led_by(row: Any) -> str:
    if len(row.proxies) == 1 or row.algorithm.partition(":")[0] == "decoupled":
        return ", ".join(row.proxies)
    return f"{row.combine}({', '.join(row.proxies)})"


def _joined(*notes: str) -> str:
    return "; ".join(filter(None, notes))


def _trajectory(shared: tuple[str, ...], outcome: Outcome) -> list[Point]:
    """Points at 1, 2, 5, 10, 20, 50, … evaluations and at the last."""
    length = outcome.accuracy.shape[1]
    wanted = sorted({base * 10**power for base in (1, 2, 5) for power in range(7)} | {length})
    found = []
    for evaluations in (w for w in wanted if w <= length):
        interval = Interval.of(outcome.accuracy[:, evaluations - 1])
        seconds = float(outcome.seconds[:, evaluations - 1].mean())
        found.append(Point(*shared, evaluations, seconds, interval.mean, interval.low, interval.high))
    return found


def _number(value: float | None, digits: int = 2) -> str:
    return "–" if value is None else f"{value:,.{digits}f}"


def _tabular_table(config: Any) -> tuple[str, dict[str, str]]:
    study = config.study
    _CACHE.clear()  # the store may have grown since the last study
    lines, points, missing = tabular_lines(config)
    out = [f"# {study.title}", "", study.protocol.strip(), ""]
    notes: dict[str, int] = {}
    # Figures over different populations are no comparison: a section each, in the order in which the case lists them.
    blocks: dict[tuple[str, str, str], list[Line]] = {}
    for case in study.cases:
        for dataset in case.datasets:
            blocks |= {(case.benchmark, dataset, population): [] for population in case.populations}
    for line in lines:
        # What no population has all scores of stands under the first one.
        first = next(p for benchmark, dataset, p in blocks if (benchmark, dataset) == (line.benchmark, line.dataset))
        blocks[line.benchmark, line.dataset, line.population or first].append(line)
    for (benchmark, dataset, population), block in blocks.items():
        if not block:
            continue
        out += [
            f"## {benchmark}, {dataset}: {population}",
            "",
            "| search | led by | n | accuracy / published | regret | after 10 | after 100 | distinct | seconds "
            "| notes |",
            "|---|---|--:|--:|--:|--:|--:|--:|--:|---|",
        ]
        for line in block:
            marks = " ".join(
                f"[{notes.setdefault(note, len(notes) + 1)}]"
                for note in line.note.split("; ")
                if note and note != "not computed"
            )
            if line.accuracy is None:
                shown = "not computed"
            else:
                shown = f"{line.accuracy:.2f} [{line.low:.2f}, {line.high:.2f}]"
            cells = [
                line.search,
                line.proxies,
                f"{line.n:,}" if line.n else "",
                f"{shown} / {_number(line.published)}",
                _number(line.regret),
                _number(line.at_10),
                _number(line.at_100),
                _number(line.distinct, 0),
                _number(line.seconds, 0),
                marks,
            ]
            out.append(f"| {' | '.join(cells)} |")
        for n, oracle in sorted({(a.n, a.oracle) for a in block if a.n}):
            searches = _searches(benchmark, dataset, population, config)
            mean = float(np.nanmean(searches.accuracies))
            out.append(f"| a random member | | {n:,} | {mean:.2f} / – | {oracle - mean:.2f} | | | | | |")
            out.append(f"| oracle | accuracy | {n:,} | {oracle:.2f} / – | 0.00 | | | | | |")
        out.append("")
    out += [f"[{number}] {note}  " for note, number in notes.items()]
    for commands in missing.values():
        for command in dict.fromkeys(commands):
            print(f"  missing: {command}", file=sys.stderr)
    text = "\n".join(out).rstrip() + "\n"
    files = {
        f"{study.name}.md": text,
        f"{study.name}.csv": written(lines, Line),
        f"{study.name}_trajectory.csv": written(points, Point),
    }
    return text, files


# On open spaces.


@dataclass(frozen=True)
class Found:
    """What one search on an open space found."""

    space: str
    search: str
    algorithm: str
    proxies: str
    ceilings: str
    budget: str
    seed: int
    evaluations: int
    params: int
    flops: int
    blocks: str
    kernels: str
    widths: str
    expansion: float
    attention: str
    scores: str
    trained: str
    published: float | None
    architecture: str
    note: str


def described(values: dict[str, Any]) -> dict[str, Any]:
    """What an architecture is made of, from its genes' values by name `BLOCK.VALUE`: how often each choice occurs."""

    def of(*names: str) -> dict[str, Any]:
        return {name: v for name, v in values.items() if name.rpartition(".")[2] in names}

    def counted(found: dict[str, Any]) -> str:
        return ", ".join(f"{n} x {value}" for value, n in sorted(Counter(found.values()).items(), key=str))

    last: dict[str, Any] = {}  # width of the last block of each stage
    for name, width in of("width", "outputs").items():
        last[name[:2] if name.endswith(".width") else name.partition(".")[0]] = width
    expansions = list(of("expansion").values())
    heads, dims = of("heads").values(), of("head_dim").values()
    return {
        "blocks": counted(of("block", "type")),
        "kernels": counted({name: f"{side}^2" for name, side in of("kernel").items()}),
        "widths": "-".join(map(str, last.values())),
        "expansion": float(np.mean(expansions)) if expansions else 0.0,
        "attention": ", ".join(f"{h} x {d}" for h, d in zip(heads, dims, strict=True)),
    }


def _open_table(config: Any, cases: Sequence[Any]) -> tuple[str, dict[str, str]]:
    import torch

    study = config.study
    torch.set_num_threads(config.threads)
    rows: list[Found] = []
    for case in cases:
        space = get_open_space(case.benchmark)
        asked = list(dict.fromkeys(proxy for row in study.rows for proxy in row.proxies))
        judge = NetworkScores(space, asked, config.inputs.name, config.inputs.path, config.score_seed, config.device)
        for row in study.rows:
            for seed in range(study.seed, study.seed + study.repeats):
                run, key = open_run(space, config, seed, row.algorithm, list(row.proxies), row.combine, study.budget)
                result = complete(run, key, config.store, config.save_seconds)
                genotype = space.decode(result["architecture"])
                scored = judge.score(genotype, range(len(asked))).values
                rows.append(
                    Found(
                        case.benchmark,
                        row.label,
                        row.algorithm,
                        _led_by(row),
                        result["ceilings"],
                        study.budget,
                        seed,
                        result["evaluations"],
                        result["params"],
                        result["flops"],
                        **described(space.values(genotype)),
                        scores=", ".join(f"{n} {v:.4g}" for n, v in zip(asked, scored, strict=True)),
                        trained="not trained",
                        published=row.published.get("top1"),
                        architecture=result["architecture"],
                        note=row.note,
                    )
                )
    out = [f"# {study.title}", "", study.protocol.strip(), ""]
    out += [
        "| search | led by | params (M) | MACs (M) | blocks | kernels | widths | expansion | heads x dim | scores | "
        "top-1 ours / published |",
        "|---|---|--:|--:|---|---|---|--:|---|---|--:|",
    ]
    for found in rows:
        cells = [
            f"{found.search}" + (f", seed {found.seed}" if study.repeats > 1 else ""),
            found.proxies,
            f"{found.params / 1e6:.2f}",
            f"{found.flops / 1e6:.0f}",
            found.blocks,
            found.kernels,
            found.widths,
            f"{found.expansion:.2f}",
            found.attention,
            found.scores,
            f"{found.trained} / {_number(found.published, 1)}",
        ]
        out.append(f"| {' | '.join(cells)} |")
    text = "\n".join(out) + "\n"
    return text, {f"{study.name}.md": text, f"{study.name}.csv": written(rows, Found)}
