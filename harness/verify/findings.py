"""What a check found: one line each, the same form for `harness verify` and `harness doctor`."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

Verdict = Literal["ok", "note", "FAILS"]


@dataclass(frozen=True)
class Finding:
    """One line. `ok`: checked, holds. `note`: not checked, `detail` says why. `FAILS`: does not hold."""

    subject: str
    verdict: Verdict
    detail: str


def show(findings: Iterable[Finding]) -> Iterator[Finding]:
    """Print each finding as it comes, and hand it on."""
    for finding in findings:
        print(f"{finding.verdict:<5}  {finding.subject}: {finding.detail}")
        sys.stdout.flush()
        yield finding
