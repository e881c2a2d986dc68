"""Where files are: those that travel with the package, and those that a user makes.

What travels with the package lies beside it in a checkout and inside it in a wheel, and is read only. What a user
computes goes to a folder of the user's own, and what is made of it for reading (tables, plots, pages) to `OUTPUT`,
below the working directory.
"""

from __future__ import annotations

import os
from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent
_NAME = "nas-proxy-harness"

#: Stands among the stores that a command reads for the scores that come with the package.
REFERENCE = "reference"

#: Folder of a user's tables, plots and pages, relative to the working directory.
OUTPUT = _NAME


def data_dir(name: str) -> Path:
    """Directory `name` (`conf`, `benchmarks` or `results`) of the installed package or of the checkout."""
    packaged = _PACKAGE / "_data" / name
    return packaged if packaged.is_dir() else _PACKAGE.parent / name


def published_csv() -> Path:
    """The papers' figures as embedded (`results/published.csv`)."""
    return data_dir("results") / "published.csv"


def reference_scores() -> Path:
    """The scores that come with the package; `NAS_HARNESS_REFERENCE` names others in their place."""
    return _chosen("NAS_HARNESS_REFERENCE") or data_dir("results") / "scores"


def user_scores() -> Path:
    """Where a user's scores go by default: `NAS_HARNESS_STORE`, or a folder of the user's data directory."""
    return _chosen("NAS_HARNESS_STORE") or _home("XDG_DATA_HOME", ".local/share") / "scores"


def cache_file(folder: str | None, name: str) -> Path | None:
    """A file of what can be computed again in seconds, by a setting `cache`: none, a folder, or `auto`, the user's."""
    if not folder:
        return None
    return (_home("XDG_CACHE_HOME", ".cache") if folder == "auto" else Path(folder)) / name


def imported_dir() -> Path:
    """Where `harness import` puts benchmarks: `NAS_HARNESS_BENCHMARKS`, or a folder of the user's data directory."""
    return _chosen("NAS_HARNESS_BENCHMARKS") or _home("XDG_DATA_HOME", ".local/share") / "benchmarks"


def _chosen(variable: str) -> Path | None:
    value = os.environ.get(variable)
    return Path(value).expanduser() if value else None


def _home(variable: str, otherwise: str) -> Path:
    """The project's folder in one of the user's directories, of which XDG variables name others."""
    return Path(os.environ.get(variable) or Path.home() / otherwise) / _NAME
