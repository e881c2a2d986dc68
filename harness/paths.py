"""Where files are: those that travel with the package, and those that a user makes; and the processors at hand.

What travels with the package lies beside it in a checkout and inside it in a wheel, and is read only. What a user
computes goes to a folder of the user's own, and what is made of it for reading (tables, plots, pages) to `OUTPUT`,
below the working directory.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import BinaryIO

from harness.errors import HarnessError, cause

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


def typed_path(text: str | Path, what: str) -> Path:
    """A path as a user has typed it, `~` and `~user` replaced; whether there is something is not asked.

    Args:
        what: the setting or argument, for the error.

    Raises:
        HarnessError: a user who is none, or a path that the file system cannot have.
    """
    shown = str(text) if len(str(text)) <= 100 else f"{str(text)[:100]}…"
    if not str(text).strip():
        raise HarnessError(f"{what}= names no folder or file: give one")
    if str(text) != str(text).strip():
        raise HarnessError(f"{what}={shown!r} begins or ends with a blank: leave it out")
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
    return typed_path(value, variable) if value else None


def _home(variable: str, otherwise: str) -> Path:
    """The project's folder in one of the user's directories, of which XDG variables name others."""
    return Path(os.environ.get(variable) or Path.home() / otherwise) / _NAME


def read_bytes(path: Path, most: int) -> bytes:
    """The content of a file. Raises HarnessError for a pipe, a device and the like, and for more than `most` bytes."""
    with open_file(path) as file:
        data = file.read(most + 1)
    if len(data) > most:
        raise HarnessError(
            f"{path} has more than {most / 2**20:,.0f} MiB, which no file of its kind has: it is another"
        )
    return data


def open_file(path: Path) -> BinaryIO:
    """A file, open for reading. Raises HarnessError for a pipe, a device and the like, which may never end."""
    if not stat.S_ISREG(path.stat().st_mode):
        raise HarnessError(f"{path} is a folder, a pipe or a device: give a file")
    return path.open("rb")


def usable_cores() -> int:
    """Processors that this process may use, at least 1."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
