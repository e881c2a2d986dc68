"""Where the files that travel with the package are: beside it in a checkout, inside it in a wheel."""

from __future__ import annotations

import os
from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent


def data_dir(name: str) -> Path:
    """Directory `name` (`conf`, `benchmarks` or `published`) of the installed package or of the checkout."""
    packaged = _PACKAGE / "_data" / name
    return packaged if packaged.is_dir() else _PACKAGE.parent / name


def published_csv() -> Path:
    """The papers' figures as embedded (`results/published.csv`)."""
    packaged = _PACKAGE / "_data" / "published.csv"
    return packaged if packaged.is_file() else _PACKAGE.parent / "results" / "published.csv"


def imported_dir() -> Path:
    """Where `harness import` puts benchmarks: `NAS_HARNESS_BENCHMARKS`, or a folder of the user's data directory."""
    chosen = os.environ.get("NAS_HARNESS_BENCHMARKS")
    if chosen:
        return Path(chosen).expanduser()
    data = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
    return Path(data) / "nas-proxy-harness" / "benchmarks"
