"""The guard on the numbers: what is committed is re-derived, re-computed in part, and compared.

`accuracies`: the stored accuracies are those that the cards describe. `tables`: every committed table follows from
the committed scores. `scores`: a sample of the stored scores comes out again. `correlations`: none has moved since
the baseline was written. Others are asked for by name: `references` compares with scores computed elsewhere,
`nasbench101` makes all cells of that benchmark from nothing, `baseline` writes the correlations down after a change
that was meant. `--proxy` and `--expect` hold any proxy, that of another project too, against what is claimed of it.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import chain
from typing import Any

from harness.benchmarks.enumeration import verify_nasbench101
from harness.proxies import get_proxy
from harness.verify.accuracies import check_accuracies
from harness.verify.baseline import check_correlations, write_baseline
from harness.verify.expectation import check_expectations, parse_expectation
from harness.verify.findings import Finding, show
from harness.verify.references import verify_references
from harness.verify.scores import check_scores
from harness.verify.tables import check_tables

#: The checks of a plain `harness verify`, the quick ones first.
GUARD: dict[str, Callable[[Any], Iterator[Finding]]] = {
    "accuracies": check_accuracies,
    "correlations": check_correlations,
    "tables": check_tables,
    "scores": check_scores,
}


def concluded(checks: Callable[[Any], Iterator[Finding]]) -> Callable[[Any], int]:
    """The command that prints what a check finds; its exit code is 1 when something fails."""

    def task(config: Any) -> int:
        started = time.perf_counter()
        verdicts = Counter(finding.verdict for finding in show(checks(config)))
        print(
            f"{verdicts['ok']} ok, {verdicts['FAILS']} failed, {verdicts['note']} notes; "
            f"{time.perf_counter() - started:.0f} s"
        )
        return 1 if verdicts["FAILS"] else 0

    return task


def expectations(proxy: str, texts: Sequence[str]) -> Callable[[Any], int]:
    """The command `harness verify --proxy … --expect …`. Raises HarnessError for either that cannot be read."""
    bounds = [parse_expectation(text) for text in texts]
    return concluded(partial(check_expectations, get_proxy(proxy), bounds))


def _guard(config: Any) -> Iterator[Finding]:
    return chain.from_iterable(check(config) for check in GUARD.values())


#: What may follow `harness verify`, by name; nothing runs the whole guard.
CHECKS: dict[str, Callable[[Any], int]] = {
    "": concluded(_guard),
    **{name: concluded(check) for name, check in GUARD.items()},
    "references": verify_references,
    "nasbench101": verify_nasbench101,
    "baseline": write_baseline,
}
