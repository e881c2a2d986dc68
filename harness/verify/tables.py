"""Does every committed table follow from the committed scores, byte for byte?"""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from itertools import zip_longest
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from harness.config import choices, compose_config
from harness.errors import HarnessError
from harness.paths import REFERENCE, data_dir, typed_path
from harness.tables.build import build_tables
from harness.verify.findings import Finding


def check_tables(config: Any) -> Iterator[Finding]:
    """Build all tables, or `config.table`, as `harness report` does, and compare them with those in `config.tables`.

    Without `config.tables` the package's tables are built from the package's scores alone.

    What a study of searches wrote is only named: searches take minutes, and some are limited by time. Other Markdown
    that the report does not write is text by hand and left alone; any other file that it does not write
    is a leftover of a table that is gone.
    """
    committed, stores = data_dir("results") / "tables", [REFERENCE]
    if config.tables is not None:
        committed, stores = typed_path(config.tables, "tables"), list(config.stores)
    if not committed.is_dir():
        raise HarnessError(f"there is no folder {committed}: set tables=DIR to a folder that `harness report` wrote")
    with TemporaryDirectory() as folder:
        report = compose_config("report", [])
        report.table, report.store, report.stores, report.output = config.table, config.store, stores, folder
        try:
            with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
                build_tables(report)
        except HarnessError as error:  # such as a damaged part
            yield Finding(f"tables in {committed}", "FAILS", f"cannot be built: {error}")
            return
        rebuilt = {str(path.relative_to(folder)): path.read_bytes() for path in _files(Path(folder))}
    studies = choices("study")
    stored = {str(path.relative_to(committed)): path.read_bytes() for path in _files(committed)}
    for name in sorted({*rebuilt, *stored}):
        subject = f"table {committed / name}"
        if name not in stored:
            yield Finding(subject, "FAILS", f"is not there: run `harness report output={committed}` and commit it")
        elif name in rebuilt:
            difference = _difference(stored[name], rebuilt[name])
            if difference:
                yield Finding(subject, "FAILS", difference)
            else:
                yield Finding(subject, "ok", "re-derived from the stored scores, equal in every byte")
        elif study := next((study for study in studies if Path(name).stem in (study, f"{study}_trajectory")), None):
            yield Finding(subject, "note", f"not re-derived: written by `harness search study={study}`")
        elif not config.table and not name.endswith(".md"):
            yield Finding(subject, "FAILS", "no table of conf/table writes it: remove it")


def _files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def _difference(stored: bytes, rebuilt: bytes) -> str:
    """The first line in which two files differ; empty when they do not."""
    if stored == rebuilt:
        return ""
    lines = zip_longest(stored.decode(errors="replace").split("\n"), rebuilt.decode(errors="replace").split("\n"))
    for number, (old, new) in enumerate(lines, start=1):
        if old != new:
            return f"line {number} is {_short(old)}, the stored scores give {_short(new)}"
    return "differs in bytes that are no text"


def _short(line: str | None) -> str:
    return "missing" if line is None else repr(line if len(line) <= 200 else line[:197] + "...")
