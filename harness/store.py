"""The score store: every score ever computed, as Hive-partitioned Parquet that any reader can query.

    ROOT/space=…/dataset=…/inputs=…/proxy=…/seed=…/part-*.parquet

A part holds the columns `index` (the benchmark's numbering), `score` (null where there is none), `seconds`,
`status` (`ok`, or why there is no score) and `version` (of the proxy's definition). A part appears whole or
not at all. Merging two stores is copying one folder into the other: rows of equal (index, version) are equal
by construction, and a reader keeps one of them.
"""

from __future__ import annotations

import os
import urllib.parse
import uuid
from collections.abc import Callable, Iterable, Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from harness.errors import HarnessError

SCHEMA = pa.schema(
    [
        ("index", pa.int32()),
        ("score", pa.float64()),
        ("seconds", pa.float32()),
        ("status", pa.string()),
        ("version", pa.int16()),
    ]
)


#: Indices ascend, mostly by one: their differences take a thousandth of the room.
ENCODING = {
    "use_dictionary": [name for name in SCHEMA.names if name != "index"],
    "column_encoding": {"index": "DELTA_BINARY_PACKED"},
}


def hive_folder(key: Any) -> Path:
    """Relative path of a partition from a dataclass: a level a field, `name=value`, percent-encoded."""
    names = [field.name for field in fields(key)]
    return Path(*(f"{n}={urllib.parse.quote(str(v), safe='')}" for n, v in zip(names, astuple(key), strict=True)))


@dataclass(frozen=True, order=True)
class ScoreKey:
    """What a column of scores belongs to.

    `space` is the benchmark, whose numbering `index` follows; `inputs` is `none` for a proxy that reads no
    mini-batch; `proxy` is its label with the settings that differ from the defaults; `seed` is 0 for a proxy
    that draws nothing.
    """

    space: str
    dataset: str
    inputs: str
    proxy: str
    seed: int

    def __str__(self) -> str:
        return f"{self.proxy} on {self.space}/{self.dataset}, inputs {self.inputs}, seed {self.seed}"

    @property
    def folder(self) -> Path:
        """Relative path of the partition; values are percent-encoded as Hive readers expect."""
        return hive_folder(self)


@dataclass(frozen=True)
class Row:
    """One score of one architecture. `seconds`: time of the passes that the proxy reads, were it alone."""

    index: int
    score: float | None
    seconds: float
    status: str
    version: int


class ScoreStore:
    """Reads and appends scores below a folder. Several writers may append at once; none overwrites."""

    def __init__(self, root: str | Path):
        self.root = Path(root)

    def append(self, key: ScoreKey, rows: Sequence[Row], writer: str = "0") -> Path:
        """Write one part. Raises HarnessError when the disk is full or the folder not writable."""
        table = pa.table({name: [getattr(row, name) for row in rows] for name in SCHEMA.names}, schema=SCHEMA)
        folder = self.root / key.folder
        try:
            folder.mkdir(parents=True, exist_ok=True)
            return write_table(table, folder / f"part-{writer}-{uuid.uuid4().hex[:12]}.parquet", **ENCODING)
        except OSError as error:
            raise self._unwritable(error) from error

    def _unwritable(self, error: OSError) -> HarnessError:
        return HarnessError(
            f"cannot write scores below {self.root} ({error.strerror or error}): free some space or set "
            "store=DIR to a writable folder; parts already written are kept"
        )

    def read(self, key: ScoreKey, version: int | None = None) -> pd.DataFrame:
        """Stored rows of `key`, sorted by index, one an index; those of another `version` are left out.

        Raises HarnessError naming the file when a part is truncated or no Parquet.
        """
        parts = sorted((self.root / key.folder).glob("part-*.parquet"))
        tables = []
        for part in parts:
            try:
                tables.append(_read_part(part))
            except FileNotFoundError:  # compacted away by its writer since the listing: read the listing again
                return self.read(key, version)
        frame = pa.concat_tables(tables).to_pandas() if tables else SCHEMA.empty_table().to_pandas()
        if version is not None:
            frame = frame[frame["version"] == version]
        return _best(frame, ["index"])

    def keys(self) -> Iterable[ScoreKey]:
        """Every partition that holds a part, sorted."""
        found = set()
        for part in self.root.glob("space=*/dataset=*/inputs=*/proxy=*/seed=*/part-*.parquet"):
            values = [urllib.parse.unquote(p.split("=", 1)[1]) for p in part.relative_to(self.root).parts[:5]]
            found.add(ScoreKey(*values[:4], int(values[4])))
        return sorted(found)

    def compact(self, key: ScoreKey, writer: str = "0") -> None:
        """Merge the parts that `writer` wrote into one. The old ones go after the new one is on disk."""
        parts = sorted((self.root / key.folder).glob(f"part-{writer}-*.parquet"))
        if len(parts) < 2:
            return
        frame = pa.concat_tables([_read_part(part) for part in parts]).to_pandas()
        table = pa.Table.from_pandas(_best(frame, ["index", "version"]), schema=SCHEMA, preserve_index=False)
        try:
            write_table(table, parts[0].with_name(f"part-{writer}-{uuid.uuid4().hex[:12]}.parquet"), **ENCODING)
        except OSError as error:
            raise self._unwritable(error) from error
        for part in parts:
            part.unlink(missing_ok=True)


def _best(frame: pd.DataFrame, by: list[str]) -> pd.DataFrame:
    """One row of each `by`, sorted: a failed attempt may have been followed by a good one, which is preferred."""
    frame = frame.assign(_bad=frame["status"] != "ok").sort_values([*by, "_bad", "status"], kind="stable")
    return frame.drop_duplicates(by).drop(columns="_bad").reset_index(drop=True)


def _read_part(part: Path) -> pa.Table:
    try:
        table = pq.read_table(part, partitioning=None)
        return table.select(SCHEMA.names).cast(SCHEMA)
    except FileNotFoundError:
        raise
    except (pa.ArrowException, OSError, KeyError, ValueError) as error:
        raise HarnessError(
            f"{part} is damaged ({str(error).splitlines()[0]}): delete that file and run the same "
            "scoring command again, which computes its rows only"
        ) from error


def write_table(table: pa.Table, target: Path, **options: Any) -> Path:
    """Write a table as Parquet, whole or not at all; `options` are those of `pyarrow.parquet.write_table`."""
    return write_whole(target, lambda file: pq.write_table(table, file, compression="zstd", **options))


def write_whole(target: Path, write: Callable[[Any], Any]) -> Path:
    """Write, flush to disk, then rename: a reader never sees half a file, a crash leaves none.

    Args:
        write: is given the binary file to write to.
    """
    temporary = target.with_name(f".{target.name}.writing")
    try:
        with open(temporary, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)
        directory = os.open(target.parent, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
    finally:
        temporary.unlink(missing_ok=True)
    return target
