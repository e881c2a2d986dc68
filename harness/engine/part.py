"""A part of the score store: what a Parquet file of scores holds, how its name bears its digest, and its reading."""

from __future__ import annotations

import hashlib
import os
import re
import stat
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from harness.errors import HarnessError, cause

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


#: Rows that a part may have: ten times the largest benchmark. Of a damaged one the number may be anything.
MOST_ROWS = 2**24
#: Bytes that the statuses of a part may have: a status is a line.
MOST_TEXT = 2**28

#: How the name of a part ends that bears its digest: the first 128 bits of its SHA-256.
_SEALED = re.compile(r"-([0-9a-f]{32})\.parquet")

#: Where a part's metadata keeps the digest of the images that its scores were computed from.
IMAGES = b"images"


def is_part(name: str) -> bool:
    """Whether a file of this name in a partition is a part."""
    return name.startswith("part-") and name.endswith(".parquet")


def is_sealed(part: Path) -> bool:
    """Whether a part bears the digest of its bytes in its name."""
    return _SEALED.search(part.name) is not None


def digest_of(table: pa.Table) -> str | None:
    """Digest of the images that a part's scores were computed from; None where it says nothing of them."""
    found = (table.schema.metadata or {}).get(IMAGES)
    return None if found is None else found.decode()


def bare(table: pa.Table) -> pa.Table:
    """A part without its metadata, so that it can be joined to others."""
    return table.replace_schema_metadata(None)


def seal_of(data: Any) -> str:
    """What the name of a part with these bytes ends in."""
    return hashlib.sha256(data).hexdigest()[:32]


def writer_of(part: Path) -> str:
    """Who wrote a part: what its name says between `part-` and the last hyphen, or all where it has no other."""
    name = part.name.removeprefix("part-").removesuffix(".parquet")
    return name.rpartition("-")[0] or name


def content(part: Path) -> bytes:
    """The bytes of a part. Raises OSError."""
    with open(part, "rb") as file:
        return file.read()


def read_part(part: Path) -> pa.Table:
    """A part with the metadata that it carries."""
    try:
        if not stat.S_ISREG(part.stat().st_mode):
            raise ValueError("it is a folder, a pipe or a device")
        data = content(part)
        sealed = _SEALED.search(part.name)
        if sealed and sealed[1] != seal_of(data):
            raise ValueError("its bytes are not those that were written: their digest is not that of its name")
        return _parsed(data)
    except FileNotFoundError:
        raise
    except (pa.ArrowException, OSError, KeyError, ValueError) as error:
        if getattr(error, "errno", None):  # the system refused; the file may be whole
            raise HarnessError(f"{part} cannot be read ({os.strerror(error.errno)})") from error
        raise HarnessError(
            f"{part} is damaged ({cause(error)[:200]}): delete that file and run the same "
            "scoring command again, which computes its rows only"
        ) from error


def _parsed(data: bytes) -> pa.Table:
    """The table of a part's bytes. Raises ValueError, KeyError or ArrowException where they are none."""
    file = pq.ParquetFile(pa.BufferReader(data), read_dictionary=["status"])
    held = file.schema_arrow
    for name in SCHEMA.names:
        kind = held.field(name).type
        number = pa.types.is_integer(kind) or pa.types.is_floating(kind)
        if not (pa.types.is_dictionary(kind) if name == "status" else number):
            raise ValueError(f"its column {name} is of type {str(kind)[:60]}")
    if file.metadata.num_rows > MOST_ROWS:
        raise ValueError(f"it has {file.metadata.num_rows:,} rows")
    table = file.read(columns=SCHEMA.names, use_threads=False)
    if len(table) != file.metadata.num_rows:
        raise ValueError("it has other rows than it says")
    texts = 0
    for chunk in table.column("status").chunks:
        chunk.dictionary.validate(full=True)  # that it is UTF-8
        sizes = np.array([len(text or "") for text in chunk.dictionary.to_pylist()], dtype=np.int64)
        texts += int(sizes[chunk.indices.drop_null().to_numpy()].sum())
    if texts > MOST_TEXT:
        raise ValueError(f"its column status has {texts:,} characters")
    table = table.select(SCHEMA.names).cast(SCHEMA)
    missing = [name for name in SCHEMA.names if name != "score" and table.column(name).null_count]
    if missing:
        raise ValueError(f"its column {missing[0]} has gaps")
    metadata = held.metadata or {}
    metadata.get(IMAGES, b"").decode()
    return table.replace_schema_metadata({IMAGES: metadata[IMAGES]} if IMAGES in metadata else None)
