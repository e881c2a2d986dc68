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
from pathlib import Path
from typing import Any

from harness.benchmarks.enumeration import verify_nasbench101
from harness.engine.store import write_text
from harness.errors import HarnessError
from harness.proxies import get_proxy
from harness.verify.accuracies import check_accuracies
from harness.verify.baseline import check_correlations, write_baseline
from harness.verify.expectation import check_expectations, parse_expectation
from harness.verify.findings import Finding, show, to_json, to_junit
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


def concluded(checks: Callable[[Any], Iterator[Finding]]) -> Callable[..., int]:
    """The command that prints what a check finds; its exit code is 1 when something fails.

    The command takes `junit`, a file that is written too, and `as_json`, for JSON in place of lines.
    """

    def task(config: Any, junit: str | None = None, as_json: bool = False) -> int:
        started = time.perf_counter()
        findings = list(checks(config) if as_json else show(checks(config)))
        verdicts = Counter(finding.verdict for finding in findings)
        seconds = time.perf_counter() - started
        if junit is not None:
            _written(Path(junit), to_junit(findings, seconds))
        if as_json:
            print(to_json(findings, seconds))
        else:
            print(f"{verdicts['ok']} ok, {verdicts['FAILS']} failed, {verdicts['note']} notes; {seconds:.0f} s")
        return 1 if verdicts["FAILS"] else 0

    return task


def _written(path: Path, text: str) -> None:
    try:
        write_text(path, text)
    except OSError as error:
        raise HarnessError(
            f"cannot write {path} ({error.strerror or error}): name a file in a folder that is there"
        ) from error


def expectations(proxy: str, texts: Sequence[str]) -> Callable[..., int]:
    """The command `harness verify --proxy … --expect …`. Raises HarnessError for either that cannot be read."""
    bounds = [parse_expectation(text) for text in texts]
    return concluded(partial(check_expectations, get_proxy(proxy), bounds))


def _guard(config: Any) -> Iterator[Finding]:
    return chain.from_iterable(check(config) for check in GUARD.values())


#: What may follow `harness verify`, by name; nothing runs the whole guard.
CHECKS: dict[str, Callable[..., int]] = {
    "": concluded(_guard),
    **{name: concluded(check) for name, check in GUARD.items()},
    "references": verify_references,
    "nasbench101": verify_nasbench101,
    "baseline": write_baseline,
}
