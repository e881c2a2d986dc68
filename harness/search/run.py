"""A run as the settings of `harness search` or of a study ask for it: gone on with, or taken from what is stored."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from harness.engine.store import write_table, write_text
from harness.search.algorithms import get_algorithm
from harness.search.engine import Budget, Ceilings, Run
from harness.search.export import is_exported, write_found
from harness.search.genes import OpenSpace
from harness.search.objective import NetworkScores
from harness.search.stored import HISTORY, RESULT, STATE, SearchKey, finished, folder_of, unwritable
from harness.specs import label


def ceilings_of(config: Any, space: OpenSpace | None = None) -> Ceilings:
    """The limits that a configuration names, else the space's own."""
    own = (None, None) if space is None else space.ceilings
    given = (config.max_params, config.max_flops)
    return Ceilings(*(limit if limit is not None else default for limit, default in zip(given, own, strict=True)))


def joined(proxies: Any, combine: str) -> str:
    """The proxies of a run as one level of its folder: their names, and how they are combined."""
    names = "+".join(proxies)
    return names if len(proxies) == 1 else f"{combine}({names})"


def open_run(
    space: OpenSpace, config: Any, seed: int, algorithm: str, proxies: list[str], combine: str, budget: str
) -> tuple[Run, SearchKey]:
    """A run on an open space, not yet started, and what it is stored under."""
    objective = NetworkScores(space, proxies, config.inputs.name, config.inputs.path, config.score_seed, config.device)
    ceilings = ceilings_of(config, space)
    run = Run(space, objective, get_algorithm(algorithm), Budget.parse(budget), seed, ceilings, combine)
    key = SearchKey(
        label(space),
        "none",
        "all",
        config.inputs.name,
        config.score_seed,
        joined(objective.labels, combine),
        label(run.algorithm),
        str(ceilings),
        budget,
        seed,
    )
    return run, key


def write_result(
    run: Run, folder: Path, key: SearchKey, files: Callable[[dict[str, Any]], None] | None = None
) -> dict[str, Any]:
    """Write the history and the result of a run that is over, and remove its state. Raises HarnessError.

    Args:
        files: writes what else the folder is to hold, of the result that it is given: before the result itself, with
            which all of it is there.
    """
    import pyarrow as pa
    import yaml

    best = run.best
    run.save(folder)  # what follows may fail
    frame = run.frame()
    row = frame.iloc[int(frame["best"].iloc[-1])]
    result: dict[str, Any] = {
        **vars(key),
        "versions": list(run.objective.versions),
        **({"sources": dict(run.objective.sources)} if run.objective.sources else {}),
        "architecture": run.space.encode(best),
        "params": int(row["params"]),
        "flops": int(row["flops"]),
        "scores": run.scores_of_best(),
        "evaluations": len(frame),
        "architectures": int(frame["architecture"].nunique()),
        "seconds": round(float(run.state.seconds), 3),
    }
    try:
        (folder / RESULT).unlink(missing_ok=True)  # of other definitions or images: the files are not its own any more
        if files is not None:
            files(result)
        write_table(pa.Table.from_pandas(frame, preserve_index=False), folder / HISTORY)
        write_text(folder / RESULT, yaml.safe_dump(result, sort_keys=False, allow_unicode=True, width=120))
        (folder / STATE).unlink(missing_ok=True)
    except OSError as error:
        raise unwritable(folder, error) from error
    return result


def complete(run: Run, key: SearchKey, store: str, save_seconds: float, progress: bool = True) -> dict[str, Any]:
    """The result of a run on an open space: the stored one, or that of the run, gone on with from what was saved."""
    folder = folder_of(store, key)
    result = finished(folder, run.objective)
    if result is None:
        _begin(run, folder)
        run.go(folder, save_seconds, progress)
        result = write_result(run, folder, key, lambda found: write_found(run.space, run.best, found, folder))
    elif not is_exported(folder):
        write_found(run.space, run.space.decode(result["architecture"]), result, folder)
    return result


def complete_tabular(run: Run, key: SearchKey, store: str, save_seconds: float) -> dict[str, Any]:
    """The result of a run on a benchmark, as of `complete`; the run itself is over then, its history in memory."""
    folder = folder_of(store, key)
    result = finished(folder, run.objective)
    if result is None or not run.recall(folder, result["seconds"]):
        _begin(run, folder)
        run.go(folder, save_seconds)
        result = write_result(run, folder, key)
    return result


def _begin(run: Run, folder: Path) -> None:
    """Take up what is saved of a run that is not over, and say so."""
    if run.load(folder):
        print(f"going on from {len(run.state.history):,} evaluations, {run.state.seconds:.0f} s: {folder}")
    elif (folder / RESULT).is_file():
        print(f"what was found is of other images, scores or definitions, and searched for again: {folder}")
