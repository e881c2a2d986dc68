"""The guard on the numbers: what is committed is re-derived, re-computed in part, and compared.

`accuracies`: the stored accuracies are those that the cards describe. `tables`: every committed table follows from
the committed scores. `scores`: a sample of the stored scores comes out again. `correlations`: none has moved since
the baseline was written. Two more are asked for by name: `references` compares with scores computed elsewhere, and
`baseline` writes the correlations down after a change that was meant.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

from harness.findings import Finding, show
from harness.verify.accuracies import check_accuracies
from harness.verify.baseline import check_correlations, write_baseline
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


def _guard(*names: str) -> Callable[[Any], int]:
    """A command that runs the checks of these names; its exit code is 1 when one of them fails."""

    def task(config: Any) -> int:
        started = time.perf_counter()
        verdicts = Counter(finding.verdict for name in names for finding in show(GUARD[name](config)))
        print(
            f"{verdicts['ok']} ok, {verdicts['note']} not checked, {verdicts['FAILS']} failed; "
            f"{time.perf_counter() - started:.0f} s"
        )
        return 1 if verdicts["FAILS"] else 0

    return task


#: What may follow `harness verify`, by name; nothing runs the whole guard.
CHECKS: dict[str, Callable[[Any], int]] = {
    "": _guard(*GUARD),
    **{name: _guard(name) for name in GUARD},
    "references": verify_references,
    "baseline": write_baseline,
}
