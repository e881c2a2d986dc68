"""What a check found: one line each, the same form for `harness verify` and `harness doctor`; also JUnit and JSON."""

from __future__ import annotations

import json
import math
import re
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Literal
from xml.sax.saxutils import escape, quoteattr

Verdict = Literal["ok", "note", "FAILS"]


@dataclass(frozen=True)
class Finding:
    """One line. `ok`: checked, holds. `note`: not checked, `detail` says why. `FAILS`: does not hold.

    `figures` are the numbers behind it, where there are some, for programs.
    """

    subject: str
    verdict: Verdict
    detail: str
    figures: Mapping[str, float] = field(default_factory=dict)


def show(findings: Iterable[Finding]) -> Iterator[Finding]:
    """Print each finding as it comes, and hand it on."""
    for finding in findings:
        print(f"{finding.verdict:<5}  {finding.subject}: {finding.detail}")
        sys.stdout.flush()
        yield finding


def to_json(findings: Sequence[Finding], seconds: float) -> str:
    """All findings with their figures; null where one is undefined."""
    rows = [asdict(finding) for finding in findings]
    for row in rows:
        row["figures"] = {name: value if math.isfinite(value) else None for name, value in row["figures"].items()}
    failed = sum(finding.verdict == "FAILS" for finding in findings)
    return json.dumps({"failed": failed, "seconds": round(seconds, 1), "findings": rows}, indent=1, ensure_ascii=False)


def to_junit(findings: Sequence[Finding], seconds: float) -> str:
    """A test suite as continuous integration shows it: a case a check, notes as its output."""
    checks = [finding for finding in findings if finding.verdict != "note"]
    notes = [f"{finding.subject}: {finding.detail}" for finding in findings if finding.verdict == "note"]
    failed = sum(finding.verdict == "FAILS" for finding in checks)
    lines = ['<?xml version="1.0" encoding="UTF-8"?>']
    lines += [f'<testsuite name="harness verify" tests="{len(checks)}" failures="{failed}" time="{seconds:.1f}">']
    seen: Counter[str] = Counter()
    for finding in checks:
        seen[finding.subject] += 1
        name = finding.subject if seen[finding.subject] == 1 else f"{finding.subject} ({seen[finding.subject]})"
        lines.append(f'  <testcase classname="harness.verify" name={quoteattr(_legal(name))}>')
        if finding.verdict == "FAILS":
            lines.append(f"    <failure message={quoteattr(_legal(finding.detail))}/>")
        else:
            lines.append(f"    <system-out>{escape(_legal(finding.detail))}</system-out>")
        lines.append("  </testcase>")
    if notes:
        lines.append(f"  <system-out>{escape(_legal(chr(10).join(notes)))}</system-out>")
    return "\n".join([*lines, "</testsuite>"]) + "\n"


def _legal(text: str) -> str:
    """The text without the control characters that XML forbids."""
    return re.sub(r"[\x00-\x08\x0b\x0c\x0e-\x1f]", "?", text)
