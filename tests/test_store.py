"""Tests of the score store: layout, round trips, damage, failing writes, compaction."""

from __future__ import annotations

import dataclasses
import errno
import io
import os
import shutil
import threading
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.dataset
import pyarrow.parquet as pq
import pytest

from harness.engine import part as part_module
from harness.engine.scorer import Job
from harness.engine.scoring import run
from harness.engine.store import SCHEMA, Row, ScoreKey, ScoreStore, is_sealed, open_store, write_whole
from harness.errors import HarnessError

KEY = ScoreKey("nasbench201", "cifar10", "random", "snip", 0)


@pytest.fixture
def store(tmp_path) -> ScoreStore:
    return ScoreStore(tmp_path / "scores")


def ok(index: int, score: float = 0.5, version: int = 1) -> Row:
    return Row(index, score, 0.25, "ok", version)


def failed(index: int, status: str, version: int = 1) -> Row:
    return Row(index, None, 0.25, status, version)


def files(store: ScoreStore) -> list[Path]:
    """Every file below the store, whatever its name."""
    return sorted(path for path in store.root.rglob("*") if path.is_file())


def values(frame: pd.DataFrame) -> list[tuple]:
    """Rows of a frame, NaN as None."""
    columns = [frame[name].tolist() for name in SCHEMA.names]
    return [tuple(None if value != value else value for value in row) for row in zip(*columns, strict=True)]


# Reading and appending ------------------------------------------------------------------------------------


def test_round_trip_is_exact_and_sorted(store):
    store.append(KEY, [ok(7, 0.1 + 0.2), ok(2, -1e300)])
    store.append(KEY, [ok(5, 5e-324), failed(1, "nan")])
    assert values(store.read(KEY)) == [
        (1, None, 0.25, "nan", 1),
        (2, -1e300, 0.25, "ok", 1),
        (5, 5e-324, 0.25, "ok", 1),
        (7, 0.1 + 0.2, 0.25, "ok", 1),
    ]


def test_empty_store_reads_as_an_empty_frame(store):
    frame = store.read(KEY)
    assert frame.empty
    assert list(frame.columns) == SCHEMA.names
    assert list(store.keys()) == []


def test_columns_have_the_types_that_are_documented(store):
    path = store.append(KEY, [ok(1), failed(2, "nan")])
    schema = pq.read_schema(path)
    assert [(f.name, str(f.type)) for f in schema] == [
        ("index", "int32"),
        ("score", "double"),
        ("seconds", "float"),
        ("status", "string"),
        ("version", "int16"),
    ]
    assert pq.read_table(path, schema=SCHEMA)["score"].null_count == 1


def test_other_keys_are_not_read(store):
    others = [
        ScoreKey("other", "cifar10", "random", "snip", 0),
        ScoreKey("nasbench201", "cifar100", "random", "snip", 0),
        ScoreKey("nasbench201", "cifar10", "none", "snip", 0),
        ScoreKey("nasbench201", "cifar10", "random", "snip:batch_size=4", 0),
        ScoreKey("nasbench201", "cifar10", "random", "snip", 1),
    ]
    for number, key in enumerate(others):
        store.append(key, [ok(number)])
    assert store.read(KEY).empty
    assert [store.read(key)["index"].tolist() for key in others] == [[0], [1], [2], [3], [4]]
    assert list(store.keys()) == sorted(others)


def test_rows_of_another_version_are_left_out(store):
    store.append(KEY, [ok(1, 0.1, version=1), ok(2, 0.2, version=1)])
    store.append(KEY, [ok(1, 0.9, version=2)])
    assert values(store.read(KEY, version=1)) == [(1, 0.1, 0.25, "ok", 1), (2, 0.2, 0.25, "ok", 1)]
    assert values(store.read(KEY, version=2)) == [(1, 0.9, 0.25, "ok", 2)]
    assert store.read(KEY, version=3).empty


def test_duplicates_are_kept_once(store):
    store.append(KEY, [ok(1), ok(1), ok(2)], writer="0of2")
    store.append(KEY, [ok(1), ok(3)], writer="1of2")
    assert store.read(KEY)["index"].tolist() == [1, 2, 3]


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_a_score_is_preferred_over_a_failed_attempt(store, order):
    rows = [ok(1, 0.75), failed(1, "error: RuntimeError: gone")]
    for place in order:
        store.append(KEY, [rows[place], failed(2, "error: RuntimeError: still")])
    assert values(store.read(KEY)) == [
        (1, 0.75, 0.25, "ok", 1),
        (2, None, 0.25, "error: RuntimeError: still", 1),
    ]


@pytest.mark.parametrize("reason", ["nan", "inf", "-inf", "singular kernel", "logits are not finite", "no ReLU module"])
@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0)])
def test_a_reason_is_preferred_over_an_exception(store, reason, order):
    """Another attempt ended with what the network is: it is not to be tried again."""
    rows = [failed(1, "error: RuntimeError: out of memory"), failed(1, reason), failed(1, "error: KeyError: a")]
    for place in order:
        store.append(KEY, [rows[place]])
    expected = [(1, None, 0.25, reason, 1)]
    assert values(store.read(KEY)) == expected
    store.compact(KEY)
    assert len(files(store)) == 1
    assert values(store.read(KEY)) == expected
    store.append(KEY, [ok(1)])
    store.compact(KEY)
    assert values(store.read(KEY)) == [(1, 0.5, 0.25, "ok", 1)]


# Images -----------------------------------------------------------------------------------------------------


def test_a_part_carries_the_digest_of_its_images_through_a_compaction(store):
    old = store.append(KEY, [ok(0)])
    assert store.images(KEY) is None
    for index in (1, 2):
        store.append(KEY, [ok(index)], images="abc")
    store.compact(KEY)
    assert {pq.read_schema(path).metadata.get(b"images") if path != old else None for path in files(store)} == {
        b"abc",
        None,
    }
    assert len(files(store)) == 2  # rows of unknown images are not said to be of these
    assert store.images(KEY) == "abc"
    assert store.read(KEY)["index"].tolist() == [0, 1, 2]


def test_other_images_are_named_with_the_fix(store):
    store.check_images(KEY, "abc")
    store.append(KEY, [ok(0)])
    store.check_images(KEY, "abc")
    store.append(KEY, [ok(1)], images="abc")
    store.check_images(KEY, "abc")
    store.check_images(KEY, None)
    with pytest.raises(HarnessError, match=r"images abc, those at hand are def: .*inputs\.path.*store=DIR") as caught:
        store.check_images(KEY, "def")
    assert str(store.root / KEY.folder) in str(caught.value)


def test_a_partition_that_mixes_images_is_refused(store, tmp_path):
    other = ScoreStore(tmp_path / "other")
    store.append(KEY, [ok(0)], images="abc")
    part = other.append(KEY, [ok(1)], images="def")
    (store.root / part.relative_to(other.root)).write_bytes(part.read_bytes())
    for read in (store.read, store.images):
        with pytest.raises(HarnessError, match="mixes scores of the images abc and def: remove"):
            read(KEY)


def test_older_parts_can_be_stamped(store):
    store.append(KEY, [ok(3, 0.1 + 0.2), failed(4, "nan")])
    store.append(KEY, [ok(5)], writer="1of2")
    store.append(KEY, [ok(6)], images="abc")
    before = values(store.read(KEY))
    with pytest.raises(HarnessError, match="those at hand are def"):
        store.stamp(KEY, "def")
    assert store.stamp(KEY, "abc") == 2
    assert {pq.read_schema(path).metadata[b"images"] for path in files(store)} == {b"abc"}
    assert values(store.read(KEY)) == before
    assert store.stamp(KEY, "abc") == 0
    frame = pd.read_parquet(store.root)  # as any reader sees it
    assert sorted(frame["index"]) == [3, 4, 5, 6]


def test_merging_two_stores_is_copying_files(store, tmp_path):
    other = ScoreStore(tmp_path / "other")
    store.append(KEY, [ok(1), ok(2)])
    part = other.append(KEY, [ok(2), ok(3)])
    target = store.root / part.relative_to(other.root)
    assert not target.exists()  # two writers never choose the same name
    target.write_bytes(part.read_bytes())
    assert store.read(KEY)["index"].tolist() == [1, 2, 3]


# Layout ---------------------------------------------------------------------------------------------------


def test_layout_is_hive_partitioned_and_percent_encoded(store):
    key = ScoreKey("nasbench201", "ImageNet16-120", "random", "ssnr:saliency=grad", 3)
    path = store.append(key, [ok(1)], writer="1of4")
    folders = path.relative_to(store.root).parts
    assert folders[:-1] == (
        "space=nasbench201",
        "dataset=ImageNet16-120",
        "inputs=random",
        "proxy=ssnr%3Asaliency%3Dgrad",
        "seed=3",
    )
    assert folders[-1].startswith("part-1of4-")
    assert folders[-1].endswith(".parquet")
    assert files(store) == [path]
    assert list(store.keys()) == [key]


@pytest.mark.parametrize("label", ["a/b", "..", "x y", "ä=ö", "100%", "%2F", "p:init=a,b"])
def test_any_label_survives_the_layout(store, label):
    key = ScoreKey("nasbench201", "cifar10", "none", label, 0)
    path = store.append(key, [ok(4)])
    assert path.parent.parent.parent == store.root / "space=nasbench201/dataset=cifar10/inputs=none"
    assert list(store.keys()) == [key]
    assert store.read(key)["index"].tolist() == [4]


def test_other_readers_see_the_keys_as_columns(store):
    store.append(KEY, [ok(1, 0.5), ok(2, 0.25)])
    store.append(ScoreKey("nasbench201", "cifar100", "none", "ssnr:saliency=grad", 3), [ok(1, 0.125)])
    (store.root / KEY.folder / ".part-0-abc.parquet.writing").write_bytes(b"half a file")
    expected = {
        ("nasbench201", "cifar10", "random", "snip", "0", 1, 0.5),
        ("nasbench201", "cifar10", "random", "snip", "0", 2, 0.25),
        ("nasbench201", "cifar100", "none", "ssnr:saliency=grad", "3", 1, 0.125),
    }
    columns = ["space", "dataset", "inputs", "proxy", "seed", "index", "score"]
    by_pandas = pd.read_parquet(store.root)
    by_arrow = pyarrow.dataset.dataset(store.root, partitioning="hive").to_table().to_pandas()
    for frame in (by_pandas, by_arrow):
        assert {(*map(str, row[:5]), *row[5:]) for row in frame[columns].itertuples(index=False)} == expected
        assert len(frame) == 3


# Damage ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("keep", [0, 3, 100, -1])
def test_truncated_part_is_named_with_the_fix(store, keep):
    store.append(KEY, [ok(1)])
    path = store.append(KEY, [ok(index) for index in range(50)])
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(HarnessError, match="is damaged") as caught:
        store.read(KEY)
    message = str(caught.value)
    assert str(path) in message
    assert "delete that file and run the same scoring command again" in message
    assert "\n" not in message
    path.unlink()  # the fix that the message names
    assert store.read(KEY)["index"].tolist() == [1]


@pytest.mark.parametrize(
    "table",
    [
        pa.table({"index": [1], "value": [0.5]}),
        pa.table({"index": ["one"], "score": [0.5], "seconds": [0.1], "status": ["ok"], "version": [1]}),
    ],
)
def test_part_with_other_columns_is_refused(store, table):
    path = store.root / KEY.folder / "part-0-foreign.parquet"
    path.parent.mkdir(parents=True)
    pq.write_table(table, path)
    with pytest.raises(HarnessError) as caught:
        store.read(KEY)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("number", [errno.EACCES, errno.EMFILE, errno.EIO])
def test_a_part_that_the_system_does_not_give_is_not_called_damaged(store, monkeypatch, number):
    path = store.append(KEY, [ok(1)])

    def refused(path):
        raise OSError(number, os.strerror(number), str(path))

    monkeypatch.setattr(part_module, "content", refused)
    with pytest.raises(HarnessError) as caught:
        store.read(KEY)
    assert f"{path} cannot be read ({os.strerror(number)})" in str(caught.value)
    assert "delete" not in str(caught.value)
    assert "damaged" not in str(caught.value)


def test_every_flipped_bit_of_a_part_is_told(store):
    path = store.append(KEY, [ok(index, index / 3) for index in range(20)], images="abc")
    content = path.read_bytes()
    for place in range(0, 8 * len(content), 29):
        changed = bytearray(content)
        changed[place // 8] ^= 1 << place % 8
        path.write_bytes(changed)
        with pytest.raises(HarnessError, match=r"is damaged .*digest"):
            store.read(KEY)
    path.write_bytes(content)
    assert len(store.read(KEY)) == 20


def test_older_parts_are_read_and_get_their_digest(store):
    old = [store.append(KEY, [ok(index)], writer) for index, writer in ((1, "0of2"), (2, "1of2"), (3, "1of2"))]
    old = [path.rename(path.with_name(f"{path.name[:9]}-{n:012x}.parquet")) for n, path in enumerate(old)]
    content = sorted(path.read_bytes() for path in old)
    before = values(store.read(KEY))
    assert not any(map(is_sealed, files(store)))
    assert store.seal(KEY) == 3
    assert all(map(is_sealed, files(store)))
    assert {path.name.rpartition("-")[0] for path in files(store)} == {"part-0of2", "part-1of2"}
    assert sorted(path.read_bytes() for path in files(store)) == content
    assert values(store.read(KEY)) == before
    assert store.seal(KEY) == 0


def test_a_compaction_gives_a_single_older_part_its_digest(store):
    path = store.append(KEY, [ok(1)])
    path.rename(path.with_name("part-0-0123456789ab.parquet"))
    store.compact(KEY)
    assert files(store) == [path]


def test_a_part_that_holds_what_others_hold_outlives_their_merging(store):
    whole = store.append(KEY, [ok(1), ok(2)])
    store.append(KEY, [ok(2)])
    store.compact(KEY)
    assert files(store) == [whole]
    assert store.read(KEY)["index"].tolist() == [1, 2]


COLUMNS = {"index": [1], "score": [0.5], "seconds": [0.1], "status": ["ok"], "version": [1]}
FORGED = {
    "no status": pa.table({**COLUMNS, "status": pa.array([None], pa.string())}),
    "no index": pa.table({**COLUMNS, "index": pa.array([None], pa.int32())}),
    "an index of 64 bits": pa.table({**COLUMNS, "index": [2**40]}),
    "fractions of an index": pa.table({**COLUMNS, "index": [1.5]}),
    "a status of bytes that are no text": pa.table({**COLUMNS, "status": pa.array([b"\xff"]).cast(pa.binary())}),
    "a list of scores": pa.table({**COLUMNS, "score": [[0.5]]}),
    "more rows than any benchmark": pa.table({name: value * 21 for name, value in COLUMNS.items()}),
    "a status without end": pa.table({**COLUMNS, "status": ["x" * 10_000]}),
    "images of bytes that are no text": pa.table(COLUMNS).replace_schema_metadata({b"images": b"\xff\xfe"}),
}


@pytest.mark.parametrize("name", FORGED)
def test_a_forged_part_is_refused(store, name, monkeypatch):
    monkeypatch.setattr(part_module, "MOST_ROWS", 20)
    monkeypatch.setattr(part_module, "MOST_TEXT", 1000)
    path = store.root / KEY.folder / "part-0-foreign.parquet"
    path.parent.mkdir(parents=True)
    pq.write_table(FORGED[name], path, compression="zstd")
    for read in (store.read, store.images, store.compact, store.seal):
        with pytest.raises(HarnessError, match=r"part-0-foreign\.parquet is damaged"):
            read(KEY)


def test_one_long_status_among_many_rows_is_read(store, monkeypatch):
    monkeypatch.setattr(part_module, "MOST_TEXT", 1000)
    store.append(KEY, [*(ok(index) for index in range(200)), failed(200, "error: " + "x" * 500)])
    assert len(store.read(KEY)) == 201


@pytest.mark.parametrize("kind", ["pipe", "device", "folder", "loop"])
def test_a_part_that_is_no_file_is_named(store, kind):
    path = store.root / KEY.folder / "part-0-foreign.parquet"
    path.parent.mkdir(parents=True)
    {
        "pipe": lambda: os.mkfifo(path),
        "device": lambda: path.symlink_to("/dev/zero"),
        "folder": path.mkdir,
        "loop": lambda: path.symlink_to(path.name),
    }[kind]()
    with pytest.raises(HarnessError, match=r"part-0-foreign\.parquet"):
        store.read(KEY)


def test_a_folder_whose_seed_is_no_number_is_no_partition(store):
    path = store.append(KEY, [ok(1)])
    path.parent.with_name("seed=x").mkdir()
    (path.parent.with_name("seed=x") / path.name).write_bytes(path.read_bytes())
    assert list(store.keys()) == [KEY]


def test_what_is_listed_is_what_is_read(store):
    """Parts of any name, and of folders none whose name another key has."""
    part = store.append(KEY, [ok(1)])
    part.rename(part.with_name("part-0.parquet"))
    assert list(store.keys()) == [KEY]
    assert len(store.read(KEY)) == 1
    assert store.seal(KEY) == 1
    store.compact(KEY, "0")
    assert store.read(KEY)["index"].tolist() == [1]
    plain = dataclasses.replace(KEY, proxy="flops:count=all")
    folder = store.append(plain, [ok(1)]).parent
    unencoded = folder.parent.with_name("proxy=flops:count=all")
    folder.parent.rename(unencoded)
    assert list(store.keys()) == [KEY]
    assert store.strays() == [(unencoded / "seed=0").relative_to(store.root)]


def test_a_folder_that_cannot_be_listed_is_named(store, monkeypatch):
    """What it holds is not nothing, which would be computed again."""
    store.append(KEY, [ok(1)])
    listdir = os.listdir

    def refuses(folder):
        if str(folder).endswith("seed=0"):
            raise PermissionError(errno.EACCES, "Permission denied")
        return listdir(folder)

    monkeypatch.setattr(os, "listdir", refuses)
    for read in (lambda: store.read(KEY), lambda: list(store.keys())):
        with pytest.raises(HarnessError, match=r"seed=0 cannot be read \(Permission denied\)"):
            read()


def test_rows_of_several_versions_are_all_read_where_none_is_named(store):
    store.append(KEY, [ok(1), ok(2)])
    store.append(KEY, [ok(1, 0.75, version=2), ok(2, 0.75, version=2)])
    assert store.read(KEY)["version"].tolist() == [1, 2, 1, 2]
    assert store.read(KEY, 2)["score"].tolist() == [0.75, 0.75]


def test_a_link_to_nowhere_is_named(store):
    path = store.append(KEY, [ok(1)])
    (path.parent / "part-0-gone.parquet").symlink_to(path.parent / "nowhere")
    with pytest.raises(HarnessError, match="part-0-gone"):
        store.read(KEY)


def test_remains_of_a_crashed_write_are_not_read(store):
    path = store.append(KEY, [ok(1)])
    path.with_name(f".{path.name}.writing").write_bytes(path.read_bytes()[:20])
    assert store.read(KEY)["index"].tolist() == [1]
    store.compact(KEY)
    assert store.read(KEY)["index"].tolist() == [1]


# Writes that fail -----------------------------------------------------------------------------------------


def fails_half_way(table, file, **options):
    file.write(b"PAR1 half of a part")
    raise OSError(errno.ENOSPC, "No space left on device")


def test_full_disk_leaves_no_partial_file_and_earlier_parts_intact(store, monkeypatch):
    first = store.append(KEY, [ok(1), ok(2)])
    content = first.read_bytes()
    monkeypatch.setattr(pq, "write_table", fails_half_way)
    with pytest.raises(HarnessError, match="No space left on device") as caught:
        store.append(KEY, [ok(3)])
    message = str(caught.value)
    assert str(store.root) in message
    assert "free some space or set store=DIR" in message
    assert files(store) == [first]
    assert first.read_bytes() == content
    monkeypatch.undo()
    assert store.read(KEY)["index"].tolist() == [1, 2]
    store.append(KEY, [ok(3)])
    assert store.read(KEY)["index"].tolist() == [1, 2, 3]


def test_full_disk_during_compaction_loses_nothing(store, monkeypatch):
    parts = [store.append(KEY, [ok(index)]) for index in range(3)]
    monkeypatch.setattr(pq, "write_table", fails_half_way)
    with pytest.raises(HarnessError, match="No space left on device"):
        store.compact(KEY)
    monkeypatch.undo()
    assert files(store) == sorted(parts)
    assert store.read(KEY)["index"].tolist() == [0, 1, 2]


def test_what_cannot_be_written_is_told_before_anything_is_computed(tmp_path, monkeypatch):
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(HarnessError, match="cannot write scores below"):
        ScoreStore(blocked / "scores").prepare(KEY, "0of1")
    store = ScoreStore(tmp_path / "scores")
    store.prepare(KEY, "0of1")
    assert files(store) == []
    monkeypatch.setattr(os, "fsync", lambda _: fails_half_way(None, io.BytesIO()))
    with pytest.raises(HarnessError, match="No space left on device"):
        store.prepare(KEY, "0of1")
    assert files(store) == []


def test_a_run_removes_what_a_killed_one_of_its_own_left(store):
    folder = store.append(KEY, [ok(1)]).parent
    for writer in ("0of1", "1of2"):
        (folder / f".part-{writer}-abc.parquet.0123.writing").write_bytes(b"PAR1")
    store.prepare(KEY, "0of1")
    assert [path.name for path in files(store) if path.name.startswith(".")] == [".part-1of2-abc.parquet.0123.writing"]


def test_unwritable_folder_is_named(tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("")
    store = ScoreStore(blocked / "scores")
    with pytest.raises(HarnessError, match="cannot write scores below") as caught:
        store.append(KEY, [ok(1)])
    assert str(store.root) in str(caught.value)


def test_interrupt_during_a_write_leaves_no_file(store, monkeypatch):
    def interrupted(table, file, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(pq, "write_table", interrupted)
    with pytest.raises(KeyboardInterrupt):
        store.append(KEY, [ok(1)])
    assert files(store) == []


# Compaction -----------------------------------------------------------------------------------------------


def test_compaction_keeps_the_values_in_one_part(store):
    store.append(KEY, [ok(9, 0.1 + 0.2), failed(4, "error: ValueError: x")])
    store.append(KEY, [ok(4, 1 / 3), failed(5, "nan")])
    store.append(KEY, [ok(9, 0.1 + 0.2), ok(9, 7.0, version=2)])
    before = {version: values(store.read(KEY, version)) for version in (None, 1, 2)}
    assert len(before[1]) == 3
    store.compact(KEY)
    assert len(files(store)) == 1
    assert {version: values(store.read(KEY, version)) for version in (None, 1, 2)} == before


def test_compaction_leaves_the_parts_of_other_writers(store):
    theirs = [store.append(KEY, [ok(index)], writer="0of16") for index in (1, 2)]
    for index in (3, 4):
        store.append(KEY, [ok(index)], writer="0of1")
    store.compact(KEY, writer="0of1")
    assert len(files(store)) == 3
    assert set(theirs) < set(files(store))
    assert store.read(KEY)["index"].tolist() == [1, 2, 3, 4]


def test_compaction_of_a_single_part_or_of_none_does_nothing(store):
    store.compact(KEY)
    path = store.append(KEY, [ok(1)])
    store.compact(KEY)
    assert files(store) == [path]


@pytest.mark.parametrize("survivors", [1, 3])
def test_crash_before_the_old_parts_are_gone_gives_no_duplicates(store, monkeypatch, survivors):
    for index in range(3):
        store.append(KEY, [ok(index, index / 3), ok(index + 1, (index + 1) / 3)])
    before = values(store.read(KEY))
    unlink, left = Path.unlink, 3 - survivors

    def crash(self, missing_ok=False):
        nonlocal left
        if self.name.startswith("part-"):
            if left == 0:
                raise KeyboardInterrupt
            left -= 1
        unlink(self, missing_ok)

    monkeypatch.setattr(Path, "unlink", crash)
    with pytest.raises(KeyboardInterrupt):
        store.compact(KEY)
    monkeypatch.undo()
    assert len(files(store)) == survivors + 1
    assert values(store.read(KEY)) == before
    store.compact(KEY)
    assert len(files(store)) == 1
    assert values(store.read(KEY)) == before


@pytest.mark.parametrize("beside", ["read", "compact"])
def test_a_compaction_beside_another_reader_loses_nothing(store, monkeypatch, beside):
    for index in range(3):
        store.append(KEY, [ok(index)])
    content, calls = part_module.content, 0

    def compacted_meanwhile(path):
        nonlocal calls
        calls += 1
        if calls == 2:  # the other has listed three parts and read one
            monkeypatch.setattr(part_module, "content", content)
            store.compact(KEY)
        return content(path)

    monkeypatch.setattr(part_module, "content", compacted_meanwhile)
    getattr(store, beside)(KEY)
    assert calls == 2
    assert store.read(KEY)["index"].tolist() == [0, 1, 2]
    assert len(files(store)) == 1


def test_two_that_write_the_same_file_do_not_share_a_temporary_one(tmp_path):
    target = tmp_path / "table.csv"

    def write(file):
        file.write(b"first")
        write_whole(target, lambda other: other.write(b"second"))

    write_whole(target, write)
    assert target.read_bytes() == b"first"
    assert [path.name for path in tmp_path.iterdir()] == ["table.csv"]


def test_writers_beside_each_other_lose_nothing(store):
    def write(writer: int) -> None:
        for number in range(10):
            store.append(KEY, [ok(100 * writer + number)], writer=f"{writer}of4")

    threads = [threading.Thread(target=write, args=(writer,)) for writer in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    expected = [100 * writer + number for writer in range(4) for number in range(10)]
    assert store.read(KEY)["index"].tolist() == expected
    assert len(files(store)) == 40


# Stores over one another ------------------------------------------------------------------------------------------


@pytest.fixture
def reference(tmp_path, monkeypatch) -> ScoreStore:
    """A store that stands for the scores of the package."""
    monkeypatch.setenv("NAS_HARNESS_REFERENCE", str(tmp_path / "reference"))
    monkeypatch.setenv("NAS_HARNESS_STORE", str(tmp_path / "mine"))
    return ScoreStore(tmp_path / "reference")


def test_a_store_is_read_over_the_reference_which_is_never_written(reference, tmp_path):
    reference.append(KEY, [ok(0, 1.0), ok(1, 1.0), failed(2, "error: gone"), failed(3, "nan"), ok(4, 1.0)])
    before = {path: path.read_bytes() for path in files(reference)}
    mine = open_store()
    assert (mine.root, mine.layers) == (tmp_path / "mine", (tmp_path / "mine", tmp_path / "reference"))
    mine.append(KEY, [ok(1, 2.0), ok(2, 2.0), failed(4, "nan")])
    mine.append(KEY, [ok(5, 2.0)])
    mine.compact(KEY)
    mine.append(OTHER := dataclasses.replace(KEY, proxy="mine"), [ok(7)])
    frame = mine.read(KEY)
    assert frame["index"].tolist() == [0, 1, 2, 3, 4, 5]
    # Mine goes first among equals; a score goes before a reason, and that before an exception, wherever it is.
    assert frame["score"].tolist()[:3] + frame["score"].tolist()[4:] == [1.0, 2.0, 2.0, 1.0, 2.0]
    assert list(mine.keys()) == sorted([KEY, OTHER])
    assert {path: path.read_bytes() for path in files(reference)} == before
    assert [path.parent for path in files(ScoreStore(tmp_path / "mine"))].count(tmp_path / "mine" / KEY.folder) == 1


def test_the_stores_that_are_read_can_be_named(reference, tmp_path):
    reference.append(KEY, [ok(0)])
    ScoreStore(tmp_path / "third").append(KEY, [ok(1)])
    three = open_store(tmp_path / "mine", [tmp_path / "mine", tmp_path / "third", "reference"])
    assert three.read(KEY)["index"].tolist() == [0, 1]
    assert open_store(tmp_path / "mine", [tmp_path / "mine"]).read(KEY).empty
    assert open_store(tmp_path / "reference").layers == (tmp_path / "reference",)  # one folder, read once
    for bad in ({"store": ""}, {"store": " "}, {"stores": []}, {"stores": [""]}):
        with pytest.raises(HarnessError, match=r"stores?= names no folder"):
            open_store(**bad)
    with pytest.raises(HarnessError, match=r"stores= names .*thrid, which does not exist"):
        open_store(tmp_path / "new", [tmp_path / "new", tmp_path / "thrid"])


def test_scores_of_other_images_are_refused_or_stand_alone(reference, tmp_path):
    reference.append(KEY, [ok(0), ok(1)], images="abc")
    mine = open_store()
    with pytest.raises(HarnessError, match=r"holds scores of the images abc.*store=DIR stores=\[DIR\]") as caught:
        mine.check_images(KEY, "def")
    assert str(reference.root / KEY.folder) in str(caught.value)
    alone = open_store(stores=[tmp_path / "mine"])
    alone.check_images(KEY, "def")
    alone.append(KEY, [ok(1, 5.0)], images="def")
    mine.check_images(KEY, "def")  # those of the reference are hidden now: no column mixes two copies of the images
    assert (mine.images(KEY), mine.read(KEY)["index"].tolist()) == ("def", [1])


def test_a_run_computes_what_no_store_holds(reference, tmp_path):
    settings = {"dataset": "ImageNet16-120", "proxies": ("flops",), "device": "cpu"}
    assert run(Job("nasbench201", limit=5, store=str(reference.root), **settings), progress=False).stored_now == 5
    done = run(Job("nasbench201", limit=8, **settings), progress=False)
    assert (done.stored_now, done.stored_before) == (3, 5)
    assert run(Job("nasbench201", limit=8, **settings), progress=False).stored_now == 0
    assert len(next(iter(ScoreStore(tmp_path / "mine").keys())).proxy) > 0
    alone = Job("nasbench201", limit=8, store=str(tmp_path / "new"), stores=(str(tmp_path / "new"),), **settings)
    assert run(alone, progress=False).stored_now == 8


def test_a_store_that_is_not_read_is_not_written(reference, tmp_path):
    job = Job("nasbench201", "cifar10", ("flops",), limit=2, stores=("reference",))
    with pytest.raises(HarnessError, match=r"stores=.* leaves out store=.*mine"):
        run(job, progress=False)


def test_a_copied_folder_is_no_partition(store):
    part = store.append(KEY, [ok(0)])
    copy = part.parent.with_name(f"{part.parent.name} (1)")
    shutil.copytree(part.parent, copy)
    assert list(store.keys()) == [KEY]
    assert store.strays() == [copy.relative_to(store.root)]
