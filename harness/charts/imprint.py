"""What stands in the foot of every page: which version made it, from which commit, when, and how to cite it."""

from __future__ import annotations

import datetime
import json
import os
import subprocess
from functools import cache
from importlib import metadata
from pathlib import Path

#: Folder of the checkout, if the package runs from one.
_CHECKOUT = Path(__file__).resolve().parents[2]
_DISTRIBUTION = "nas-proxy-harness"


@cache
def commit() -> str:
    """The commit of the code, with `-dirty` where files differ from it; "" where neither git nor pip knows one."""
    if (_CHECKOUT / ".git").exists():
        command = ["git", "-C", str(_CHECKOUT), "describe", "--always", "--dirty", "--exclude", "*"]
        try:
            return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
        except (OSError, subprocess.SubprocessError):
            return ""
    try:
        origin = json.loads(metadata.distribution(_DISTRIBUTION).read_text("direct_url.json") or "{}")
    except (metadata.PackageNotFoundError, OSError, ValueError):
        return ""
    return str(origin.get("vcs_info", {}).get("commit_id", ""))[:12]


def today() -> datetime.date:
    """The day in UTC, or that of `SOURCE_DATE_EPOCH`, by which whoever builds twice gets the same bytes."""
    fixed = os.environ.get("SOURCE_DATE_EPOCH", "")
    at = datetime.datetime.fromtimestamp(int(fixed), datetime.UTC) if fixed.isdecimal() else None
    return (at or datetime.datetime.now(datetime.UTC)).date()


def imprint(version: str) -> dict[str, str]:
    """`version`, `commit` (may be empty), `date` and `bibtex`, the entry that cites this very version."""
    day, code = today(), commit()
    lines = [
        "author = {{The nas-proxy-harness authors}}",
        "title = {{nas-proxy-harness}: a reference harness for training-free {NAS} proxies}",
        f"year = {{{day.year}}}",
        f"version = {{{version}}}",
        f"note = {{{f'commit {code}, ' if code else ''}page of {day}}}",
    ]
    bibtex = "@software{nas_proxy_harness,\n" + "".join(f"  {line},\n" for line in lines) + "}"
    return {"version": version, "commit": code, "date": str(day), "bibtex": bibtex}
