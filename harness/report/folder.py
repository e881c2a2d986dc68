"""The folder that a page is written into: made before, and rid of what an earlier page left."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from harness.errors import HarnessError

#: Names the files of a build, so that the next one can remove those that it no longer has.
FILES = "files.json"


def make_folder(folder: Path) -> None:
    """Raises HarnessError where the folder cannot be made."""
    with _writing(folder):
        folder.mkdir(parents=True, exist_ok=True)


def write_files(folder: Path, files: Mapping[str, str]) -> None:
    """Write texts by their paths below the folder, and remove what an earlier page had besides.

    Raises HarnessError where they cannot be written.
    """
    with _writing(folder):
        _remove_former(folder, files)
        for name, text in files.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8", newline="\n")


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise HarnessError(
            f"cannot write the page to {folder} ({error.strerror or error}): free some space or set output=DIR"
        ) from error


def _remove_former(folder: Path, files: Mapping[str, str]) -> None:
    """Remove what an earlier build left that this one does not have, and nothing else: the index names its files."""
    try:
        former = json.loads((folder / FILES).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return
    for name in former:
        if name not in files and re.fullmatch(r"(?:data|data/\w+|proxies|benchmarks)/[\w-][\w.-]*", str(name)):
            (folder / name).unlink(missing_ok=True)
