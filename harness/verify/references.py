"""Checks of the numbers against others' numbers."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.stats import spearmanr

from harness.benchmarks.benchmark import load_benchmark
from harness.engine.store import ScoreStore, open_store
from harness.errors import HarnessError, cause
from harness.paths import typed_path
from harness.rankings.results import Reader

#: Names in the reference file -> our proxy, and the least rank correlation that shows the same definition; None
#: where another draw of the same definition does not reach one (results/tables/notes.md has the measurements).
REFERENCES: dict[str, tuple[str, float | None]] = {
    "flops": ("flops:count=all", 0.999),
    "params": ("params", 0.999),
    "l2_norm": ("l2_norm:init=default", None),
    "synflow": ("synflow:init=default", 0.95),
    "grad_norm": ("grad_norm:init=default", 0.95),
    "snip": ("snip:init=default", 0.95),
    "fisher": ("fisher:init=default", 0.95),
    "jacov": ("jacov:init=default", None),
    "epe_nas": ("epe_nas:init=default", None),
    "plain": ("plain:init=default", None),
    "grasp": ("grasp:init=default", None),
    "zen": ("zen", None),
    "nwot": ("naswot:init=default", None),
}

POPULATION = "no_dead_ops.sample(300, seed=0)"


@dataclass(frozen=True)
class Agreement:
    """Spearman's rho between our scores and the reference's over n architectures; None where ours are missing."""

    reference: str
    proxy: str
    n: int
    rho: float | None
    least: float | None

    @property
    def passes(self) -> bool | None:
        """Whether `rho` reaches `least`; None where there is nothing to reach or nothing to compare."""
        return None if self.rho is None or self.least is None else self.rho >= self.least


def compare_references(
    path: str | Path,
    store: ScoreStore,
    population: str = POPULATION,
    inputs: str = "cifar10",
) -> list[Agreement]:
    """Rank correlation of stored scores (nasbench201, cifar10, seed 0) with a table of others' scores.

    Args:
        path: Parquet with `arch_str` and one column a proxy, such as NAS-Bench-Suite-Zero's scores.

    Raises:
        HarnessError: the file is missing, unreadable, or of another form.
    """
    try:
        by_cell = _checked(pd.read_parquet(path, partitioning=None))
    except (OSError, KeyError, ValueError) as error:
        raise HarnessError(
            f"reference scores {path} cannot be read ({cause(error)}): give a Parquet with `arch_str` "
            "and one column per proxy, as in `harness verify references path=FILE`"
        ) from error
    benchmark = load_benchmark("nasbench201")
    reader = Reader(store, benchmark)
    indices = benchmark.population(population)
    cells = [benchmark.architectures[i] for i in indices]
    known = [cell in by_cell.index for cell in cells]
    indices = indices[np.array(known)]
    if not len(indices):
        raise HarnessError(
            f"reference scores {path} hold none of the {len(cells):,} cells of population {population}: `arch_str` has "
            f"them as in {cells[0]}"
        )
    rows = by_cell.loc[[cell for cell, there in zip(cells, known, strict=True) if there]]
    found = []
    for name, (spec, least) in REFERENCES.items():
        if name not in rows:
            continue
        scores = reader.scores(spec, "cifar10", indices, inputs)
        if scores.missing:
            found.append(Agreement(name, spec, 0, None, least))
            continue
        theirs = rows[name].to_numpy(dtype=np.float64)
        both = np.isfinite(theirs) & np.isfinite(scores.values)
        rho = float(spearmanr(scores.values[both], theirs[both]).statistic)
        found.append(Agreement(name, spec, int(both.sum()), rho, least))
    return found


def _checked(table: pd.DataFrame) -> pd.DataFrame:
    """The columns of known proxies by cell. Raises ValueError or KeyError where nothing can be compared with them."""
    cells = table["arch_str"]
    if not cells.map(lambda cell: isinstance(cell, str)).all():
        raise ValueError("`arch_str` holds something else than text")
    if cells.duplicated().any():
        raise ValueError(f"`arch_str` holds {cells[cells.duplicated()].iloc[0]} more than once")
    known = [name for name in REFERENCES if name in table]
    if not known:
        raise ValueError(f"it has no column of a known proxy: {', '.join(REFERENCES)}")
    for name in known:
        column = table[name]
        if not isinstance(column, pd.Series):
            raise ValueError(f"its column {name} is there more than once")
        if not pd.api.types.is_numeric_dtype(column):
            raise ValueError(f"its column {name} is of {column.dtype}, no numbers")
    return table.set_index("arch_str")[known].astype(np.float64)


def verify_references(config: object) -> int:
    """Print the agreement with the reference file; exit code 1 where a definition differs or scores lack."""
    if config.path is None:
        raise HarnessError("which file? harness verify references path=FILE.parquet (NAS-Bench-Suite-Zero's scores)")
    population, inputs = POPULATION if config.population is None else config.population, config.inputs.name
    path = typed_path(config.path, "path")
    results = compare_references(path, open_store(config.store, config.stores), population, inputs)
    print("| reference | ours | n | Spearman rho | at least | |\n|---|---|--:|--:|--:|---|")
    for result in results:
        rho = "not computed" if result.rho is None else f"{result.rho:.4f}"
        least = "" if result.least is None else f"{result.least}"
        verdict = {None: "", True: "ok", False: "DIFFERS"}[result.passes]
        print(f"| {result.reference} | {result.proxy} | {result.n or ''} | {rho} | {least} | {verdict} |")
    lacking = [result.proxy for result in results if result.rho is None]
    if lacking:
        print(
            f'missing: harness score inputs={inputs} inputs.path=DATA "proxies=[{",".join(lacking)}]" '
            f'"population={population}" {shlex.quote(f"store={config.store}")}'
        )
    return 1 if lacking or any(result.passes is False for result in results) else 0
