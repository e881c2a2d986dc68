"""Plots of searches: trajectories with intervals, proxy against parameters, the population over time."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from harness.charts import definitions
from harness.charts.vega import compiled, filled, save
from harness.errors import HarnessError, cause
from harness.paths import typed_path

#: Pixels across a plot.
WIDTH = 760


def _written(spec: dict[str, Any], path: Path) -> Path:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return save(spec, path.with_suffix(""), [path.suffix.removeprefix(".")])[0]
    except OSError as error:
        raise HarnessError(f"cannot write {path} ({error.strerror or error}): set output=DIR") from error


def plot_trajectories(points: pd.DataFrame, title: str, path: Path, against: str = "evaluations") -> Path:
    """Accuracy held so far, mean and 95% interval over runs, one line per search.

    Args:
        points: rows of a study's trajectory file: `search`, `led_by`, `evaluations`, `seconds`, `accuracy`, `low`,
            `high`.
        against: `evaluations` or `seconds`.
    """
    shown = points[points[against] > 0]
    rows = [
        {"search": f"{row.search}: {row.led_by}", "at": at, "accuracy": row.accuracy, "low": row.low, "high": row.high}
        for row, at in zip(shown.itertuples(), shown[against].tolist(), strict=True)
    ]
    names = list(dict.fromkeys(row["search"] for row in rows))
    signals = {"heading": "accuracy held (%)", "across": against, "names": names}
    chart = definitions.chart("trajectories")
    return _written(filled(chart, {"points": rows}, signals, WIDTH, title, "mean over runs, 95% interval"), path)


def plot_pareto(history: pd.DataFrame, proxies: list[str], path: Path) -> Path:
    """Each proxy against the parameters of all networks that a search scored, with the Pareto front."""
    once = history.drop_duplicates("architecture")
    rows = [
        {"place": place, "params": row["params"] / 1e6} | {p: row[p] if np.isfinite(row[p]) else None for p in proxies}
        for place, row in enumerate(once.to_dict("records"))
    ]
    title = "Scores against parameters, the later the darker; orange: the Pareto front"
    return _written(filled(compiled(definitions.pareto(proxies)), {"history": rows}, {}, WIDTH, title), path)


def plot_population(history: pd.DataFrame, proxies: list[str], path: Path) -> Path:
    """Scores and parameters of the members in the order in which they were evaluated, phase by phase."""
    quantities = [*proxies, "params"]
    rows = [
        {"place": place} | {q: row[q] if np.isfinite(row[q]) else None for q in quantities}
        for place, row in enumerate(history.to_dict("records"))
    ]
    starts = np.flatnonzero(history["phase"].ne(history["phase"].shift())).tolist()
    data = {"history": rows, "starts": [{"place": at, "phase": history["phase"].iloc[at]} for at in starts]}
    chart = compiled(definitions.population(quantities))
    return _written(filled(chart, data, {}, WIDTH, "Scores and parameters over the evaluations"), path)


def plot_study(config: Any) -> list[Path]:
    """The plots of a study whose table was written: trajectories, or fronts and populations of its stored runs."""
    output, study = typed_path(config.output, "output"), config.study
    trajectory = output / f"{study.name}_trajectory.csv"
    if trajectory.is_file():
        with open(trajectory, newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        points = pd.DataFrame(rows)
        paths = []
        if points.empty:
            return paths
        for name in ("evaluations", "seconds", "accuracy", "low", "high"):
            points[name] = points[name].astype(float)
        for (benchmark, dataset), part in points.groupby(["benchmark", "dataset"], sort=False):
            for against in ("evaluations", "seconds"):
                path = output / f"{study.name}_{benchmark}_{dataset}_{against}.svg"
                paths.append(plot_trajectories(part, f"{benchmark}, {dataset}", path, against))
        return paths
    return _plots_of_runs(config, output)


def plot_run(folder: Path, proxies: list[str], prefix: Path | None = None) -> list[Path]:
    """Front and population of a stored run, beside its history or at `prefix`."""
    from harness.search.stored import HISTORY, RESULT

    try:
        history = pd.read_parquet(folder / HISTORY, partitioning=None)
    except (OSError, ValueError) as error:
        raise HarnessError(
            f"{folder / HISTORY} cannot be read ({cause(error)}): delete it and {RESULT} beside it to search again"
        ) from error
    prefix = folder / "plot" if prefix is None else prefix
    return [
        plot_pareto(history, proxies, prefix.with_name(f"{prefix.name}_pareto.svg")),
        plot_population(history, proxies, prefix.with_name(f"{prefix.name}_population.svg")),
    ]


def _plots_of_runs(config: Any, output: Path) -> list[Path]:
    from harness.search.run import open_run
    from harness.search.spaces import get_open_space
    from harness.search.stored import folder_of

    paths: list[Path] = []
    for case in config.study.cases:
        space = get_open_space(case.benchmark)
        for number, row in enumerate(config.study.rows, start=1):
            _, key = open_run(
                space, config, config.study.seed, row.algorithm, list(row.proxies), row.combine, config.study.budget
            )
            paths += plot_run(folder_of(config.store, key), list(row.proxies), output / f"{config.study.name}_{number}")
    return paths
