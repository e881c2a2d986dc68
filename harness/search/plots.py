"""Plots of searches: trajectories with intervals, proxy against parameters, the population over time.

matplotlib is the extra `plot`; it is imported when a plot is asked for.
"""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from harness.errors import HarnessError


def _pyplot() -> Any:
    try:
        import matplotlib
    except ImportError:
        raise HarnessError("plots need matplotlib: pip install 'nas-proxy-harness[plot]'") from None
    matplotlib.use("Agg")
    from matplotlib import pyplot

    return pyplot


def _written(figure: Any, path: Path) -> Path:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # No date and no random identifiers: the same figures give the same file.
        figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None, bbox_inches="tight")
    except OSError as error:
        raise HarnessError(f"cannot write {path} ({error.strerror or error}): set output=DIR") from error
    finally:
        _pyplot().close(figure)
    return path


def plot_trajectories(points: pd.DataFrame, title: str, path: Path, against: str = "evaluations") -> Path:
    """Accuracy held so far, mean and 95% interval over runs, a line a search.

    Args:
        points: rows of a study's trajectory file: `search`, `evaluations`, `seconds`, `accuracy`, `low`, `high`.
        against: `evaluations` or `seconds`.
    """
    pyplot = _pyplot()
    with pyplot.rc_context({"svg.hashsalt": "harness"}):
        figure, axes = pyplot.subplots(figsize=(7, 4.5))
        axes.set_prop_cycle(color=pyplot.get_cmap("tab20").colors)  # as many searches as a study may have
        for (search, led_by), part in points.groupby(["search", "led_by"], sort=False):
            part = part[part[against] > 0]
            if part.empty:
                continue
            (line,) = axes.plot(part[against], part["accuracy"], label=f"{search}: {led_by}"[:60], linewidth=1.2)
            axes.fill_between(part[against], part["low"], part["high"], color=line.get_color(), alpha=0.15)
        axes.set(xscale="log", xlabel=against, ylabel="accuracy held (%)", title=title)
        if axes.get_legend_handles_labels()[0]:
            axes.legend(fontsize=6)
        return _written(figure, path)


def pareto_front(costs: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Places of the members that no other matches or beats in both cost (lower) and score (higher), by cost."""
    found = []
    best = -np.inf
    for place in np.lexsort((-scores, costs)):
        if scores[place] > best:
            found.append(place)
            best = scores[place]
    return np.array(found, dtype=int)


def plot_pareto(history: pd.DataFrame, proxies: list[str], path: Path) -> Path:
    """Each proxy against the parameters of all networks that a search scored, with the Pareto front."""
    pyplot = _pyplot()
    with pyplot.rc_context({"svg.hashsalt": "harness"}):
        figure, panels = pyplot.subplots(1, len(proxies), figsize=(4.5 * len(proxies), 3.6), squeeze=False)
        for axes, proxy in zip(panels[0], proxies, strict=True):
            part = history[np.isfinite(history[proxy])].drop_duplicates("architecture")
            params, scores = part["params"].to_numpy() / 1e6, part[proxy].to_numpy()
            axes.scatter(params, scores, s=6, c=np.arange(len(part)), cmap="viridis")
            front = pareto_front(params, scores)
            axes.step(params[front], scores[front], where="post", color="black", linewidth=1)
            axes.set(xlabel="parameters (M)", ylabel=proxy)
        return _written(figure, path)


def plot_population(history: pd.DataFrame, proxies: list[str], path: Path) -> Path:
    """Scores and parameters of the members in the order in which they were evaluated, phase by phase."""
    pyplot = _pyplot()
    quantities = [*proxies, "params"]
    with pyplot.rc_context({"svg.hashsalt": "harness"}):
        figure, panels = pyplot.subplots(
            len(quantities), 1, figsize=(7, 2 * len(quantities)), sharex=True, squeeze=False
        )
        starts = np.flatnonzero(history["phase"].ne(history["phase"].shift()))
        for axes, quantity in zip(panels[:, 0], quantities, strict=True):
            axes.plot(history.index, history[quantity], ".", markersize=3)
            for start in starts[1:]:
                axes.axvline(start - 0.5, color="grey", linewidth=0.5)
            axes.set_ylabel(quantity)
        for start in starts:
            panels[0, 0].annotate(
                history["phase"].iloc[start],
                (start, 1),
                xycoords=("data", "axes fraction"),
                fontsize=6,
                rotation=45,
            )
        panels[-1, 0].set_xlabel("evaluations")
        return _written(figure, path)


def plot_study(config: Any) -> list[Path]:
    """The plots of a study whose table was written: trajectories, or fronts and populations of its stored runs."""
    output, study = Path(config.output), config.study
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
    from harness.search.engine import HISTORY

    history = pd.read_parquet(folder / HISTORY, partitioning=None)
    prefix = folder / "plot" if prefix is None else prefix
    return [
        plot_pareto(history, proxies, prefix.with_name(f"{prefix.name}_pareto.svg")),
        plot_population(history, proxies, prefix.with_name(f"{prefix.name}_population.svg")),
    ]


def _plots_of_runs(config: Any, output: Path) -> list[Path]:
    from harness.search.engine import folder_of
    from harness.search.run import open_run
    from harness.search.spaces import get_open_space

    paths: list[Path] = []
    for case in config.study.cases:
        space = get_open_space(case.benchmark)
        for number, row in enumerate(config.study.rows, start=1):
            _, key = open_run(
                space, config, config.study.seed, row.algorithm, list(row.proxies), row.combine, config.study.budget
            )
            paths += plot_run(folder_of(config.store, key), list(row.proxies), output / f"{config.study.name}_{number}")
    return paths
