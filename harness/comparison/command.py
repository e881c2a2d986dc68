"""`harness compare` and `harness.compare`: named proxies against all others, on one dataset or on several."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.comparison import table
from harness.comparison.field import Comparison, compare_at
from harness.comparison.matrix import Matrix, compare_over, places_of
from harness.comparison.scores import Scoring, contestants, place, processes
from harness.engine.store import open_store, write_text
from harness.errors import HarnessError
from harness.proxies.base import Proxy
from harness.tables.sheet import to_latex, to_markdown

if TYPE_CHECKING:
    import pandas as pd

#: Name of the files that `output=` writes, without what says their kind.
STEM = "comparison"


def compare(
    proxies: str | Proxy | Sequence[str | Proxy],
    benchmark: str | Sequence[str] = "nasbench201",
    dataset: str | None = None,
    population: str | None = None,
    against: str | Proxy | Sequence[str | Proxy] | None = None,
    metric: str = "kendall",
    seed: int = 0,
    target: str | None = None,
    inputs: str | None = None,
    inputs_path: str | None = None,
    resamples: int = 1000,
    score: bool = True,
    store: str | Path | None = None,
    stores: Sequence[str | Path] | None = None,
    workers: int = 0,
    device: str = "auto",
    progress: bool = True,
) -> pd.DataFrame:
    """How named proxies rank beside all others on the same architectures, with paired differences.

    Args:
        proxies: one or several names, as in `harness.load_scores`, or `Proxy` objects or classes.
        benchmark: a name; several, or `all`, give a matrix of contestants and datasets with mean ranks.
        dataset: its first when None; of several benchmarks, all datasets when None.
        population: when None the largest over which three quarters as many others are complete as over any; of those,
            one over which the named ones are complete if there is one.
        against: the others; when None all that are complete on the population, aggregates and learned rankings too.
        metric: `kendall`, `spearman`, `ndcg`, `top_1%`, `regret_10`, by which all are ranked.
        seed: of the scores.
        target: what they are to predict; the benchmark's default accuracy when None.
        inputs, inputs_path: a dataset and its images, for scores that are missing; noise when None.
        resamples: of the bootstrap; 0 for no intervals.
        score: compute what the named ones lack; False reads alone.
        store, stores: as in `harness.load_scores`.
        workers, device, progress: as in `harness.score_benchmark`.

    Returns:
        One row per contestant, best first: rank, group (letters shared with those that do not differ significantly),
        n, and for each metric its value with the ends of its 95% interval; `difference_METRIC` is the named one minus
        this one (signed so that more is better for the named one) with the ends of its paired 95% interval, and
        `significant_METRIC` whether it lies apart from 0 after the correction for all comparisons. With several named
        ones these columns end with `of NAME`. `attrs` has the protocol. For several datasets: one row per contestant,
        one column per dataset, and `mean_rank`.

    Raises:
        HarnessError: bad input; scores that are missing, with the command that computes them.
    """
    how = Scoring(inputs, inputs_path, processes(workers), device, progress) if score else None
    folders = open_store(store, stores)
    found = _compare(proxies, benchmark, dataset, population, against, metric, seed, target, resamples, how, folders)
    return table.matrix_frame(found) if isinstance(found, Matrix) else table.to_frame(found)


def _compare(
    proxies: Any,
    benchmark: Any,
    dataset: str | None,
    population: str | None,
    against: Any,
    metric: str,
    seed: int,
    target: str | None,
    resamples: int,
    how: Scoring | None,
    store: Any,
) -> Comparison | Matrix:
    if how is not None:
        _ = how.source  # images that are named without a path

    def at(name: str, one: str | None, modest: bool = False) -> Comparison:
        where = place(name, one, store, seed, target)
        named = contestants(proxies, where)
        if not named:
            raise HarnessError("name a proxy to compare: harness compare mymodule:MyProxy")
        others = None if against is None else contestants(against, where)
        return compare_at(where, named, others, population, metric, resamples, how, modest)

    if isinstance(benchmark, str) and benchmark != "all" and "/" not in benchmark:
        return at(benchmark, dataset)
    if isinstance(benchmark, str) and benchmark != "all":
        return at(*benchmark.split("/", 1))
    return compare_over(places_of(benchmark, dataset), lambda name, one: at(name, one, modest=True))


def compare_command(config: Any) -> int:
    """The command: print the comparison, write it where `output` says. Returns the exit code."""
    benchmark = config.benchmark if isinstance(config.benchmark, str) else list(config.benchmark)
    how = Scoring(config.inputs.name if config.inputs.path else None, config.inputs.path, config.workers, config.device)
    found = _compare(
        list(config.proxies),
        benchmark,
        config.dataset,
        config.population,
        list(config.against) or None,
        config.metric,
        config.seed,
        config.target,
        config.resamples,
        how if config.score else None,
        open_store(config.store, config.stores),
    )
    then = table.next_step(found, config.output)
    width = shutil.get_terminal_size((200, 50)).columns
    print(table.matrix_text(found, width) if isinstance(found, Matrix) else table.to_text(found, width))
    if config.output is not None:
        for path in write_files(found, Path(config.output), then):
            print(f"written: {path}")
    print(f"next: {then}")
    return 0


def write_files(found: Comparison | Matrix, folder: Path, then: table.Next) -> list[Path]:
    """Write a comparison as Markdown, CSV, LaTeX, JSON and one page of HTML; returns their paths."""
    from harness.comparison.page import to_page

    sheet = table.to_sheet(found, then)
    parts = found.comparisons if isinstance(found, Matrix) else (found,)
    texts = {
        "md": to_markdown(sheet),
        "csv": _csv(parts),
        "tex": to_latex(sheet),
        "json": table.to_json(found, then),
    }
    try:
        texts["html"] = to_page(found, then)
    except HarnessError as error:  # charts are an extra
        print(f"{STEM}.html is not written: {error}", file=sys.stderr)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return [write_text(folder / f"{STEM}.{kind}", text) for kind, text in texts.items()]
    except OSError as error:
        raise HarnessError(
            f"cannot write the comparison to {folder} ({error.strerror or error}): free some space or set output=DIR"
        ) from error


def _csv(parts: Sequence[Comparison]) -> str:
    """All rows with the protocol of each. nDCG's columns have no cut-off in their names: P is a column."""
    import pandas as pd

    frames = []
    for one in parts:
        frame = table.to_frame(one).reset_index()
        facts = {name: value for name, value in table.protocol(one).items() if name != "n"}
        gain = f"ndcg_{facts['P']}"
        frame.columns = [name.replace(gain, "ndcg") for name in frame.columns]
        frames.append(frame.assign(**facts))
    return pd.concat(frames, ignore_index=True).to_csv(index=False, lineterminator="\n", float_format="%.6g")
