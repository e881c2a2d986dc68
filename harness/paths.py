"""Where the files that travel with the package are: beside it in a checkout, inside it in a wheel."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import BinaryIO

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
    packaged = _PACKAGE / "_data" / "published.csv"
    return packaged if packaged.is_file() else _PACKAGE.parent / "results" / "published.csv"


def imported_dir() -> Path:
    """Where `harness import` puts benchmarks: `NAS_HARNESS_BENCHMARKS`, or a folder of the user's data directory."""
    chosen = os.environ.get("NAS_HARNESS_BENCHMARKS")
    if chosen:
        return typed_path(chosen, "NAS_HARNESS_BENCHMARKS")
    data = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
    return Path(data) / "nas-proxy-harness" / "benchmarks"


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
