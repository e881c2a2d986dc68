"""Official archives, read as their owners publish them, into the Parquet and card of a benchmark."""

from __future__ import annotations

import sys
from pathlib import Path

from harness.benchmarks.importers.base import Importer, Table, compare, disagreement, write
from harness.errors import HarnessError, UnknownNameError
from harness.paths import typed_path
from harness.registry import discover


def available() -> dict[str, Importer]:
    """The importer of each name that `harness import` takes."""
    importers = [cls() for cls in discover("harness.benchmarks.importers", Importer)]
    return {name: importer for importer in importers for name in importer.names}


def read_archive(name: str, path: str | Path, partial: bool = False) -> list[Table]:
    """The tables of the archive at `path`.

    Args:
        partial: take an archive that lacks architectures.

    Raises:
        UnknownNameError: no archive is imported as `name`.
        HarnessError: the archive is missing, truncated, damaged, incomplete, another one, or holds code.
    """
    importers = available()
    if name not in importers:
        raise UnknownNameError("archive", name, importers)
    path = typed_path(path, "the path of the archive")
    if not path.exists():
        raise HarnessError(f"{path} does not exist: give {importers[name].form}")
    try:
        return importers[name].read(name, path, partial)
    except OSError as error:
        raise HarnessError(f"{error.filename or path} cannot be read ({error.strerror or error})") from error


def import_archive(name: str, path: str | Path) -> list[Path]:
    """Read an archive in full, then write its tables into `paths.imported_dir()`: all of them or none.

    Where figures differ from those embedded, a warning on standard error says in how many cells.
    """
    tables = read_archive(name, path)
    folders = write(tables)
    for warning in filter(None, map(disagreement, tables)):
        print(f"harness: warning: {warning}", file=sys.stderr)
    return folders


def check_archive(name: str, path: str | Path) -> tuple[list[str], bool]:
    """Lines on how the archive differs from the embedded table, and whether it does: a figure missing differs too.

    Nothing is written.
    """
    lines, differs = [], False
    for table in read_archive(name, path, partial=True):
        found, other = compare(table)
        lines += found
        differs |= other
    return lines, differs
