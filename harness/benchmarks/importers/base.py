"""What an importer makes of an archive, how that is written, and how it is compared with an embedded table."""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import json
import math
import shutil
import sys
import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import numpy as np
import pandas as pd

from harness.benchmarks.benchmark import Benchmark, embedded_benchmark, forget_benchmark
from harness.benchmarks.importers.safe import MAX_JSON
from harness.errors import HarnessError, cause
from harness.paths import imported_dir, read_bytes

#: Two accuracies (in percent) that differ by less are equal: carriers of figures round to two decimals.
TOLERANCE = 0.005


@dataclass(frozen=True)
class Table:
    """The content of an archive as a benchmark.

    Attributes:
        name: of the benchmark.
        columns: one row an architecture, in index order.
        card: its card, without `rows` and `sha256`.
        key: the column that names an architecture: that of the encoding, or one that an embedded table has too.
        shared: further columns that an embedded table has under the same name and in the same unit.
        unread: targets of an embedded table that no archive of the kind is asked for: they are not compared.
    """

    name: str
    columns: pd.DataFrame
    card: dict[str, Any]
    key: str
    shared: tuple[str, ...] = ()
    unread: tuple[str, ...] = ()


class Importer(ABC):
    """Reads one kind of archive. `form` says, in an error, what path to give."""

    names: ClassVar[tuple[str, ...]]
    form: ClassVar[str]

    @abstractmethod
    def read(self, name: str, path: Path, partial: bool) -> list[Table]:
        """The archive's tables. Raises HarnessError for whatever is not one, before anything is written."""


def package(name: str, distribution: str) -> ModuleType:
    """The package of an archive's owner. Raises HarnessError that says how to install it."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise HarnessError(
            f"this archive needs the package {distribution}, which is not installed ({error}): "
            "pip install 'nas-proxy-harness[import]'"
        ) from error


def read_json(path: Path, form: str) -> Any:
    """The content of a JSON file. Raises HarnessError where it is none, not whole, or swells when it is read."""
    if not path.is_file():
        raise HarnessError(f"{path} is not a file: give {form}")
    data = read_bytes(path, MAX_JSON)
    try:
        if data.count(b"[") + data.count(b"{") > 100_000 + len(data) // 8:
            raise ValueError("it has more lists than a file of its size does")
        return json.loads(data, parse_int=_integer)
    except (ValueError, RecursionError) as error:
        raise HarnessError(f"{path} is truncated, damaged or no JSON ({cause(error)}): download it again") from error


def _integer(digits: str) -> int:
    if len(digits) > 20:
        raise ValueError("an integer of more than 64 bits")
    return int(digits)


def is_number(value: Any) -> bool:
    """Whether a value is a finite number, and no integer that floats cannot have."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    return abs(value) < 2**64 if isinstance(value, int) else math.isfinite(value)


def is_percentage(value: Any) -> bool:
    """Whether a value is a number in [0, 100]."""
    return is_number(value) and 0 <= value <= 100


def counted(items: Iterable[Any], total: int | None, what: str) -> Iterator[Any]:
    """The items, with a line on standard error every ten seconds."""
    last = time.monotonic()
    for number, item in enumerate(items):
        if time.monotonic() - last > 10:
            last = time.monotonic()
            print(f"  {number:,}{f' of {total:,}' if total else ''} {what}", file=sys.stderr)
        yield item


def card_of(name: str) -> dict[str, Any]:
    """What the embedded card of a benchmark says of its space, datasets and papers, for that of an imported table."""
    card = embedded_benchmark(name).card
    return {key: card[key] for key in ("space", "network", "datasets", "citation") if key in card}


def write(tables: Sequence[Table]) -> list[Path]:
    """Write each table into a folder of its own: all of them or none, and what they replace stays until then.

    A table whose name has an embedded one is called NAME_imported, so that no embedded figure ever changes; it
    shares the scores of the embedded benchmark where both list the same architectures.
    """
    root = imported_dir()
    temporary = root / f".{uuid.uuid4().hex[:8]}.writing"
    new, old = temporary / "new", temporary / "old"
    embedded = [_embedded_table(table.name) for table in tables]
    names = [f"{table.name}_imported" if known else table.name for table, known in zip(tables, embedded, strict=True)]
    try:
        old.mkdir(parents=True)
        for table, known, name in zip(tables, embedded, names, strict=True):
            card = dict(table.card)
            if known and _same_architectures(table, known):
                card["scores_of"] = known.scores_of
            _write_files(table.columns, card, new / name)
        _exchange(root, names, new, old)
        shutil.rmtree(temporary, ignore_errors=True)
    except OSError as error:
        raise HarnessError(
            f"cannot write the benchmark{'s' if len(names) > 1 else ''} {', '.join(names)} below {root} "
            f"({error.strerror or error}): free some space or set NAS_HARNESS_BENCHMARKS to a writable folder"
            + "".join(f"; the {kept.name} that was there is now {kept}" for kept in sorted(old.glob("*")))
        ) from error
    finally:
        shutil.rmtree(new, ignore_errors=True)
        with contextlib.suppress(OSError):  # what could not be brought back is all that there is of it
            old.rmdir()
            temporary.rmdir()
    folders = [root / name for name in names]
    for folder in folders:
        forget_benchmark(folder)
    return folders


def _exchange(root: Path, names: Sequence[str], new: Path, old: Path) -> None:
    """Bring the folders `names` from `new` to `root` and those that they replace to `old`, or leave all as it was."""
    try:
        for name in names:
            if (root / name).exists():
                (root / name).rename(old / name)
            (new / name).rename(root / name)
    except BaseException:  # Ctrl-C too
        for name in names:
            with contextlib.suppress(OSError):
                if not (new / name).exists():
                    (root / name).rename(new / name)
                if (old / name).exists():
                    (old / name).rename(root / name)
        raise


def _write_files(columns: pd.DataFrame, card: dict[str, Any], folder: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq
    import yaml

    class Dumper(yaml.SafeDumper):
        pass

    def text(dumper: yaml.SafeDumper, value: str) -> yaml.Node:
        return dumper.represent_scalar("tag:yaml.org,2002:str", value, style="|" if "\n" in value else None)

    Dumper.add_representer(str, text)
    folder.mkdir(parents=True)
    table = folder / "accuracies.parquet"
    pq.write_table(pa.Table.from_pandas(columns, preserve_index=False), table, compression="zstd")
    digest = hashlib.sha256(table.read_bytes()).hexdigest()
    described = {"title": card["title"], "rows": len(columns), "sha256": digest, **card}
    dumped = yaml.dump(described, Dumper=Dumper, sort_keys=False, allow_unicode=True, width=110)
    (folder / "card.yaml").write_text(dumped, encoding="utf-8")


def _embedded_table(name: str) -> Benchmark | None:
    """The embedded benchmark `name` if there is one with accuracies."""
    known = embedded_benchmark(name)
    return known if known and known.has_accuracies else None


def _same_architectures(table: Table, known: Benchmark) -> bool:
    encoding = known.card.get("encoding", table.card["encoding"])  # a space that lists its members has one
    return encoding == table.card["encoding"] and np.array_equal(
        _keys(table, known), table.columns[table.key].to_numpy()
    )


def _keys(table: Table, known: Benchmark) -> np.ndarray:
    """The embedded architectures by what names them in the archive: their encodings, or its key column."""
    return np.array(known.architectures) if table.key == table.card["encoding"] else known.column(table.key)


def compare(table: Table) -> tuple[list[str], bool]:
    """How a table differs from the embedded one of its name: one line per target, and whether anything differs.

    Raises:
        HarnessError: there is none to compare with.
    """
    known = _embedded_table(table.name)
    if known is None:
        raise HarnessError(f"no table of {table.name} is embedded, so there is nothing to compare the archive with")
    keys = pd.Series(_keys(table, known))
    place = pd.Index(keys).get_indexer(table.columns[table.key])
    both = place >= 0
    lines = [f"{table.name}: {len(place):,} architectures archived, {len(keys):,} embedded, {both.sum():,} in both"]
    missing = np.setdiff1d(np.arange(len(keys)), place[both])
    if len(missing):
        lines.append(f"  missing from the archive: {len(missing):,}, first index {missing[0]}")
    if not both.all():
        first = table.columns[table.key].to_numpy()[~both][0]
        lines.append(f"  not embedded: {(~both).sum():,}, first {first.hex() if isinstance(first, bytes) else first}")

    differs = bool(len(missing)) or not both.all()
    for name, (ours, _) in _columns(table, known).items():
        if ours is None:
            unread = name.rpartition(" ")[2] in table.unread
            lines.append(f"  {name}: {'not compared, imports do not read it' if unread else 'not in the archive'}")
            differs |= not unread
    for name, (ours, theirs) in _columns(table, known).items():
        if ours is None:
            continue
        archive = table.columns[ours].to_numpy(dtype=np.float64)[both]
        embedded = known.column(theirs).astype(np.float64)[place[both]]
        text, other = _difference(archive, embedded, place[both])
        lines.append(f"  {name}: {text}")
        differs |= other
    return lines, differs


def _columns(table: Table, known: Benchmark) -> dict[str, tuple[str | None, str]]:
    """What both may have, by name: its column in the archive's table, None where that lacks it, and in the embedded."""
    found: dict[str, tuple[str | None, str]] = {column: (column, column) for column in table.shared}
    for dataset, columns in known.card["targets"].items():
        ours = table.card["targets"].get(dataset, {})
        found.update({f"{dataset} {target}": (ours.get(target), column) for target, column in columns.items()})
    return found


def disagreement(table: Table) -> str | None:
    """In how many cells the archive's figures are others than those embedded, as a warning; None where in none."""
    known = _embedded_table(table.name)
    if known is None:
        return None
    place = pd.Index(_keys(table, known)).get_indexer(table.columns[table.key])
    both = place >= 0
    other = np.zeros(int(both.sum()), dtype=bool)
    for ours, theirs in _columns(table, known).values():
        if ours is not None:
            archive = table.columns[ours].to_numpy(dtype=np.float64)[both]
            other |= np.abs(archive - known.column(theirs).astype(np.float64)[place[both]]) > TOLERANCE
    if not other.any():
        return None
    return (
        f"figures of {other.sum():,} of {len(other):,} architectures differ from those embedded of {known.name}: "
        "`harness import --check` lists them"
    )


def _difference(archive: np.ndarray, embedded: np.ndarray, index: np.ndarray) -> tuple[str, bool]:
    """How two columns of values compare, NaN standing for none, and whether they differ."""
    ours, theirs = ~np.isnan(archive), ~np.isnan(embedded)
    stored = ours & theirs
    gaps = np.abs(archive - embedded)[stored]
    far = gaps > TOLERANCE
    parts = [f"{stored.sum():,} compared"]
    for count, side in (((theirs & ~ours).sum(), "embedded"), ((ours & ~theirs).sum(), "in the archive")):
        parts += [f"{count:,} {side} alone"] if count else []
    if far.any():
        first = np.flatnonzero(stored)[far.argmax()]
        parts.append(
            f"{far.sum():,} differ by more than {TOLERANCE}, at most by {gaps.max():.4g}; index {index[first]}: "
            f"{archive[first]:.6g} in the archive, {embedded[first]:.6g} embedded"
        )
    elif stored.any():
        parts.append(f"equal within {TOLERANCE}")
    return ", ".join(parts), bool(far.any() or (theirs ^ ours).any())
