"""The score store: every score ever computed, as Hive-partitioned Parquet that any reader can query.

    ROOT/space=…/dataset=…/inputs=…/proxy=…/seed=…/part-*.parquet

A part holds the columns `index` (the benchmark's numbering), `score` (null where there is none), `seconds`,
`status` (`ok`, or why there is no score) and `version` (of the proxy's definition). A part appears whole or
not at all, and bears the digest of its bytes in its name, which is compared whenever it is read; older parts have
a random number in that place until they are compacted or sealed (`ScoreStore.seal`). Merging two stores is copying
one folder into the other: rows of equal (index, version) are equal by construction, and a reader keeps one of them.

Stores overlay: what one lacks is read from those beneath it, which are never written. A user's own store lies over
the reference scores that come with the package (`open_store`).

A part whose scores were computed from images of a local copy carries those images' digest in its metadata, so that
scores of two copies never share a partition. Parts without one, of noise or older ones, say nothing of images.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import urllib.parse
import uuid
from collections.abc import Callable, Iterable, Sequence
from dataclasses import astuple, dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from harness.engine.part import (
    ENCODING,
    IMAGES,
    SCHEMA,
    bare,
    content,
    digest_of,
    is_part,
    is_sealed,
    read_part,
    seal_of,
    writer_of,
)
from harness.errors import HarnessError
from harness.paths import REFERENCE, reference_scores, typed_path, user_scores

#: The rows of a partition without parts.
_nothing = cache(lambda: SCHEMA.empty_table().to_pandas())


def _listed(folder: Path) -> list[str]:
    """Names in a folder, sorted; none where there is no such folder. Raises HarnessError where it cannot be listed."""
    try:
        return sorted(os.listdir(folder))
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:  # a name that is too long, a folder of somebody else: what it holds is not nothing
        raise HarnessError(f"{str(folder)[:200]} cannot be read ({error.strerror})") from error


def _key_of(folder: Path) -> ScoreKey | None:
    """Whose partition a relative path is; None where its name is not what `ScoreKey.folder` gives."""
    values = [urllib.parse.unquote(name.split("=", 1)[1]) for name in folder.parts]
    key = ScoreKey(*values[:4], int(values[4])) if values[4].isdecimal() else None
    return key if key is not None and key.folder == folder else None


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
    """Reads and appends scores below a folder. Several writers may append at once; none overwrites.

    Args:
        root: the folder that is written.
        layers: the folders that are read, the uppermost first; none: `root` alone. Of rows that several hold a
            reader keeps one, of equal ones the uppermost. A partition that was computed from other images than in
            a layer above is not read.
    """

    def __init__(self, root: str | Path, layers: Sequence[str | Path] = ()):
        self.root = typed_path(root, "store")
        distinct: dict[Path, Path] = {}
        for layer in (typed_path(layer, "store") for layer in layers or (root,)):
            distinct.setdefault(layer.resolve(), layer)
        self.layers = tuple(distinct.values())

    def __str__(self) -> str:
        return " over ".join(map(str, self.layers))

    def place(self, key: ScoreKey) -> str:
        """The folders that hold the partition, for a message about it."""
        held = [str(layer / key.folder) for layer in self.layers if (layer / key.folder).is_dir()]
        return " and ".join(held) or str(self.root / key.folder)

    def append(self, key: ScoreKey, rows: Sequence[Row], writer: str = "0", images: str | None = None) -> Path:
        """Write one part. Raises HarnessError when the disk is full or the folder not writable.

        Args:
            images: digest of the images that the scores were computed from (`ImageInputs.digest`); None for noise.
        """
        table = pa.table({name: [getattr(row, name) for row in rows] for name in SCHEMA.names}, schema=SCHEMA)
        if any(table.column(name).null_count for name in SCHEMA.names if name != "score"):
            raise HarnessError(f"a row of {key} lacks its index, seconds, status or version: nothing was written")
        return self._write(key, table, writer, images)

    def _write(self, key: ScoreKey, table: pa.Table, writer: str, images: str | None) -> Path:
        folder = self.root / key.folder
        table = table.replace_schema_metadata(None if images is None else {IMAGES: images})
        try:
            content = pa.BufferOutputStream()
            pq.write_table(table, content, compression="zstd", **ENCODING)
            data = content.getvalue()
            folder.mkdir(parents=True, exist_ok=True)
            return write_whole(folder / f"part-{writer}-{seal_of(data)}.parquet", lambda file: file.write(data))
        except OSError as error:
            raise self._unwritable(error) from error

    def prepare(self, key: ScoreKey, writer: str) -> None:
        """Remove what killed runs of this writer left of a write, and try one.

        Raises HarnessError where `append` would, before anything has been computed.
        """
        folder = self.root / key.folder
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            folder = folder if folder.exists() else self.root
            for left in (*folder.glob(f".part-{writer}-*.writing"), *folder.glob(".*trial-*.writing")):
                _remove_if_left(left)
            trial = write_whole(folder / f".trial-{uuid.uuid4().hex[:8]}.writing", lambda file: file.write(bytes(4096)))
            trial.unlink(missing_ok=True)  # another run that starts may have taken it for one that was left
        except OSError as error:
            raise self._unwritable(error) from error

    def _unwritable(self, error: OSError) -> HarnessError:
        return HarnessError(
            f"cannot write scores below {self.root} ({error.strerror or error}): free some space or set "
            "store=DIR to a writable folder; parts already written are kept"
        )

    def read(self, key: ScoreKey, version: int | None = None) -> pd.DataFrame:
        """Stored rows of `key`, sorted by index, one an index; those of another `version` are left out.

        Without `version` one an index and version, sorted so.

        Raises HarnessError naming the file when a part is truncated or no Parquet, and naming both digests when
        the parts of a folder were computed from different images.
        """
        tables, _ = self._layered(key)
        if not tables:
            return _nothing().copy()
        frame = pa.concat_tables(map(bare, tables)).to_pandas()
        if version is not None and (others := (frame["version"] != version).to_numpy()).any():
            frame = frame[~others].reset_index(drop=True)
        return _best(frame, ["index"] if version is not None else ["index", "version"])

    def images(self, key: ScoreKey) -> str | None:
        """Digest of the images that the stored scores of `key` were computed from; None where no part says.

        Raises HarnessError as `read` does.
        """
        return self._layered(key)[1]

    def _layered(self, key: ScoreKey) -> tuple[list[pa.Table], str | None]:
        """The parts that are read, the uppermost first, and the digest of their images."""
        found: list[pa.Table] = []
        images = None
        for layer in self.layers:
            tables = list(_parts_of(layer / key.folder).values())
            own = _one_digest(layer / key.folder, tables)
            if own in (None, images) or images is None:
                found += tables
                images = images or own
        return found, images

    def check_images(self, key: ScoreKey, images: str | None) -> None:
        """Raises HarnessError where the stored scores of `key` were computed from other images than these.

        None, of noise, and parts that carry no digest are at odds with nothing.
        """
        held = None if images is None else self.images(key)
        if held not in (None, images):
            raise HarnessError(
                f"{self.place(key)} holds scores of the images {held}, those at hand are {images}: point "
                "inputs.path at the same images, or fill a folder of your own: store=DIR stores=[DIR]"
            )

    def stamp(self, key: ScoreKey, images: str) -> int:
        """Write the images' digest into the parts that carry none, older ones; returns how many those were.

        For scores of which one knows what they were computed from. Raises HarnessError as `check_images` does.
        """
        self.check_images(key, images)
        parts = {part: table for part, table in _parts_of(self.root / key.folder).items() if digest_of(table) is None}
        for part, table in parts.items():
            stamped = self._write(key, table, writer_of(part), images)
            if stamped != part:
                part.unlink(missing_ok=True)
        return len(parts)

    def seal(self, key: ScoreKey) -> int:
        """Give the parts without their digest in the name, older ones, that name; returns how many those were.

        Their bytes stay as they are. Raises HarnessError as `read` does, and leaves a damaged part as it is.
        """
        return sum(map(self._sealed, _parts_of(self.root / key.folder)))

    def _sealed(self, part: Path) -> bool:
        """Rename a part by its digest; False where it has it already, or where another has done so meanwhile."""
        if is_sealed(part):
            return False
        try:
            data = content(part)
            part.rename(part.with_name(f"part-{writer_of(part)}-{seal_of(data)}.parquet"))
        except FileNotFoundError:
            return False
        except OSError as error:
            raise self._unwritable(error) from error
        return True

    def keys(self) -> Iterable[ScoreKey]:
        """Every partition that holds a part, sorted; a folder whose name is not a key's is none (`strays`).

        Raises HarnessError where a folder cannot be listed.
        """
        return sorted(filter(None, map(_key_of, self._folders())))

    def strays(self) -> list[Path]:
        """Folders that look like partitions and are none, such as a file manager's copy `seed=0 (1)`."""
        return sorted(folder for folder in self._folders() if _key_of(folder) is None)

    def _folders(self) -> set[Path]:
        """Relative paths of the folders that hold a part."""
        found: set[Path] = set()
        for layer in self.layers:
            folders = [Path()]
            for field in fields(ScoreKey):
                below = [folder / name for folder in folders for name in _listed(layer / folder)]
                folders = [folder for folder in below if folder.name.startswith(f"{field.name}=")]
            found |= {folder for folder in folders if any(map(is_part, _listed(layer / folder)))}
        return found

    def compact(self, key: ScoreKey, writer: str = "0") -> None:
        """Merge the parts that `writer` wrote into one, for each digest of images that they carry.

        The old ones go after the new one is on disk. Several may compact the same parts at once.
        """
        groups: dict[str | None, dict[Path, pa.Table]] = {}
        for part, table in _parts_of(self.root / key.folder, writer).items():
            groups.setdefault(digest_of(table), {})[part] = table
        for images, parts in groups.items():
            if len(parts) < 2:
                for part in parts:
                    self._sealed(part)
                continue
            frame = pa.concat_tables(map(bare, parts.values())).to_pandas()
            table = pa.Table.from_pandas(_best(frame, ["index", "version"]), schema=SCHEMA, preserve_index=False)
            merged = self._write(key, table, writer, images)
            for part in parts:
                if part != merged:  # which has the name of what it holds: that of a part that holds all
                    part.unlink(missing_ok=True)


def open_store(store: str | Path | None = None, stores: Sequence[str | Path] | None = None) -> ScoreStore:
    """The scores that a command reads and writes, by its settings of these names.

    Args:
        store: folder that is written; None: the user's own (`harness.paths.user_scores`).
        stores: folders that are read, the uppermost first; `reference` stands for the scores that come with the
            package. None: `store` over `reference`.

    Raises:
        HarnessError: a folder without a name, none to read, or one to read that does not exist: `store` alone need not.
    """
    store = user_scores() if store is None else store
    stores = (store, REFERENCE) if stores is None else stores
    for name, folders in (("store", [store]), ("stores", stores)):
        if not folders or not all(str(folder).strip() for folder in folders):
            raise HarnessError(f"{name}= names no folder: set {name}=DIR, or leave it out")
    found = ScoreStore(store, [reference_scores() if folder == REFERENCE else folder for folder in stores])
    for folder in found.layers:
        if not folder.exists() and folder not in (found.root, reference_scores()):
            raise HarnessError(f"stores= names {folder}, which does not exist: mend the path, or leave it out")
    return found


def _parts_of(folder: Path, writer: str = "*") -> dict[Path, pa.Table]:
    """The parts of a partition that a writer wrote, `*` for any, by path, in the order of their names."""
    before: list[Path] = []
    while True:
        parts = [folder / name for name in _listed(folder) if is_part(name)]
        parts = [part for part in parts if writer in ("*", writer_of(part))]
        try:
            return {part: read_part(part) for part in parts}
        except FileNotFoundError as error:
            # One was compacted away since it was listed: its rows are in another by now, unless nothing changed.
            if parts == before:
                raise HarnessError(f"{error}: remove or restore that link, then run the same again") from error
            before = parts


def _one_digest(folder: Path, tables: Iterable[pa.Table]) -> str | None:
    found = sorted({digest_of(table) for table in tables} - {None})
    if len(found) > 1:
        raise HarnessError(
            f"{folder} mixes scores of the images {' and '.join(found)}: remove the parts of one, or the folder and "
            "score again"
        )
    return found[0] if found else None


def _best(frame: pd.DataFrame, by: list[str]) -> pd.DataFrame:
    """One row of each `by`, sorted: a score before the reason why there is none, and that before an exception.

    An attempt that an exception ended may have been followed by a good one; a reason is the network's own.
    """
    if len(by) == 1 and frame[by[0]].is_monotonic_increasing and frame[by[0]].is_unique:
        return frame  # one part, as most partitions are
    status = frame["status"]
    rank = np.where(status == "ok", 0, np.where(status.str.startswith("error"), 2, 1))
    frame = frame.assign(_rank=rank).sort_values([*by, "_rank", "status"], kind="stable")
    return frame.drop_duplicates(by).drop(columns="_rank").reset_index(drop=True)


def check_range(indices: np.ndarray, size: int, what: object) -> None:
    """Raises HarnessError where stored indices (n,) are none of `size` architectures; `what` is the partition."""
    outside = indices[(indices < 0) | (indices >= size)]
    if outside.size:
        raise HarnessError(
            f"{what} holds index {outside[0]} but its benchmark has {size} architectures: these scores belong to "
            "another benchmark, remove them"
        )


def write_table(table: pa.Table, target: Path, **options: Any) -> Path:
    """Write a table as Parquet, whole or not at all; `options` are those of `pyarrow.parquet.write_table`."""
    return write_whole(target, lambda file: pq.write_table(table, file, compression="zstd", **options))


def write_text(target: Path, text: str) -> Path:
    """Write a text in UTF-8, whole or not at all."""
    return write_whole(target, lambda file: file.write(text.encode()))


def write_whole(target: Path, write: Callable[[Any], Any]) -> Path:
    """Write, flush to disk, then rename: a reader never sees half a file, a crash leaves none.

    Args:
        write: is given the binary file to write to.
    """
    temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}.writing")
    try:
        with _locked(temporary) as file:
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


def _locked(temporary: Path) -> Any:
    """A new binary file, which `_remove_if_left` leaves alone while it is open."""
    while True:
        file = open(temporary, "wb")  # noqa: SIM115
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(file, fcntl.LOCK_EX)
        if temporary.exists():  # else it was taken for one that was left, before it was locked
            return file
        file.close()


def _remove_if_left(temporary: Path) -> None:
    """Remove an unfinished file that no living process writes. One that cannot be locked is left as it is."""
    with contextlib.suppress(OSError), open(temporary, "rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        temporary.unlink()
