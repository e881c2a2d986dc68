"""Are the accuracies those that the cards describe, and those of the baseline?"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from harness.benchmarks.benchmark import Benchmark
from harness.errors import HarnessError
from harness.verify.baseline import accuracy_digests, guarded_benchmarks, guarded_by, read_baseline
from harness.verify.findings import Finding


def check_accuracies(config: Any) -> Iterator[Finding]:
    """For every embedded benchmark: sha256 of its files, known values of its card, columns as in the baseline.

    Two exchanged rows change neither a mean nor a maximum, and the sha256 of a file stands in the card beside it:
    the baseline's digests tell which column is no longer what it was when the correlations were written down.
    """
    path = guarded_by(config)[0]
    try:
        baseline = read_baseline(path)
    except HarnessError as error:
        yield Finding(str(path), "FAILS", str(error))
        baseline = None
    for benchmark in guarded_benchmarks():
        name = benchmark.name
        subject = f"accuracies of {name}"
        try:
            known = list(_known_values(benchmark))
            found = accuracy_digests(benchmark)
        except HarnessError as error:
            yield Finding(subject, "FAILS", str(error))
            continue
        wrong = [text for text in known if text]
        if baseline is not None:
            before = baseline["accuracies"].get(name, {})
            wrong += [
                f"{column} differs from the baseline's: restore the files of {benchmark.folder}, or write a new "
                " baseline (`harness verify baseline baseline=FILE`) if the change was meant"
                for column, digest in found.items()
                if before.get(column, digest) != digest
            ]
            wrong += [f"{column} of the baseline is gone" for column in before if column not in found]
        if wrong:
            yield Finding(subject, "FAILS", "; ".join(wrong))
        else:
            seen = "baseline" if baseline is not None and name in baseline["accuracies"] else "no baseline of it yet"
            yield Finding(subject, "ok", f"{len(benchmark):,} architectures; sha256, {len(known)} known values, {seen}")


def _known_values(benchmark: Benchmark) -> Iterator[str]:
    """For each known value of the card what is wrong with it, or an empty text."""
    for known in benchmark.card["known_values"]:
        accuracies = benchmark.accuracies(known["dataset"], known["target"])
        found = getattr(accuracies, known["statistic"])()
        close = abs(found - known["value"]) <= known["tolerance"]
        what = f"{known['statistic']} of {known['dataset']} {known['target']}"
        yield "" if close else f"{what} is {found:.4f}, known to be {known['value']} (+-{known['tolerance']})"
