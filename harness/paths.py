"""Where the files that travel with the package are: beside it in a checkout, inside it in a wheel."""

from __future__ import annotations

import os
from pathlib import Path

from harness.errors import HarnessError, cause

_PACKAGE = Path(__file__).resolve().parent


def data_dir(name: str) -> Path:
    """Directory `name` (`conf`, `benchmarks` or `published`) of the installed package or of the checkout."""
    packaged = _PACKAGE / "_data" / name
    return packaged if packaged.is_dir() else _PACKAGE.parent / name


def typed_path(text: str | Path, what: str) -> Path:
    """A path as a user has typed it, `~` and `~user` replaced; whether there is something is not asked.

    Args:
        what: the setting or argument, for the error.

    Raises:
        HarnessError: a user who is none, or a path that the file system cannot have.
    """
    shown = str(text) if len(str(text)) <= 100 else f"{str(text)[:100]}…"
    try:
        path = Path(text).expanduser()
        path.exists()  # which raises what any use of it would
        if "\0" in str(path):
            raise ValueError("it holds a null character")
    except (OSError, RuntimeError, ValueError) as error:
        reason = getattr(error, "strerror", None) or cause(error)
        raise HarnessError(f"{what}={shown} is no path here ({reason}): give another") from error
    return path


def published_csv() -> Path:
    """The papers' figures as embedded (`results/published.csv`)."""
    packaged = _PACKAGE / "_data" / "published.csv"
    return packaged if packaged.is_file() else _PACKAGE.parent / "results" / "published.csv"


def imported_dir() -> Path:
    """Where `harness import` puts benchmarks: `NAS_HARNESS_BENCHMARKS`, or a folder of the user's data directory."""
    chosen = os.environ.get("NAS_HARNESS_BENCHMARKS")
    if chosen:
        return typed_path(chosen, "NAS_HARNESS_BENCHMARKS")
    data = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
    return Path(data) / "nas-proxy-harness" / "benchmarks"
