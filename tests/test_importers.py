"""Tests of the official archives: each format, what is refused, what is written, what `--check` finds.

The NATS-Bench records are real; the other archives are made here, tiny, in the published formats.
"""

from __future__ import annotations

import base64
import bz2
import json
import pickle
import shutil
import struct
from collections import OrderedDict
from dataclasses import replace
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
import pandas as pd
import pytest
import torch

from harness.benchmarks.benchmark import Benchmark, list_benchmarks, load_benchmark
from harness.benchmarks.importers import available, check_archive, import_archive, read_archive, safe
from harness.benchmarks.importers.base import Table, compare, write
from harness.benchmarks.importers.nasbench101 import NasBench101, read_records
from harness.benchmarks.importers.nds import FILES
from harness.cli import main
from harness.errors import HarnessError, UnknownNameError
from harness.spaces.darts import decode as decode_genotype
from harness.spaces.nasbench101 import OPERATIONS, edge_bit

DATA = Path(__file__).parent / "data" / "nats_bench"
FOLDERS = {"nats_tss": "NATS-tss-v1_0-3ffb9-simple", "nats_sss": "NATS-sss-v1_0-50262-simple"}


@pytest.fixture(autouse=True)
def imported(tmp_path, monkeypatch) -> Path:
    """The folder that imports are written to, empty."""
    folder = tmp_path / "imported"
    monkeypatch.setenv("NAS_HARNESS_BENCHMARKS", str(folder))
    return folder


@pytest.fixture
def archive(tmp_path):
    """`archive(name)`: a copy of a NATS-Bench sample, which the test may damage."""
    return lambda name: Path(shutil.copytree(DATA / FOLDERS[name], tmp_path / FOLDERS[name]))


def nothing_written(folder: Path) -> bool:
    return not folder.exists() or not list(folder.iterdir())


# NATS-Bench -----------------------------------------------------------------------------------------------


def test_topology_records_equal_the_embedded_figures():
    (table,) = read_archive("nats_tss", DATA / FOLDERS["nats_tss"], partial=True)
    embedded = load_benchmark("nats_tss")
    assert table.columns["index"].tolist() == [0, 11, 284]
    for dataset in embedded.datasets:
        for target in ("test_200ep", "test_12ep", "valid_12ep"):
            ours = table.columns[f"{dataset}_{target}"].to_numpy()
            assert ours == pytest.approx(embedded.accuracies(dataset, target)[[0, 11, 284]].to_numpy(), abs=1e-9)


def test_figures_follow_the_protocol_of_the_papers():
    """Means over the three seeds, validation from cifar10-valid, x-test and not ori-test: from the raw records."""
    (table,) = read_archive("nats_tss", DATA / FOLDERS["nats_tss"], partial=True)
    row = table.columns.loc[11]
    runs = safe.unpickle_bz2(DATA / FOLDERS["nats_tss"] / "000011.pickle.pbz2")["200"]["all_results"]

    def mean(dataset: str, part: str) -> float:
        return float(np.mean([runs[dataset, seed]["eval_acc1es"][f"{part}@199"] for seed in (777, 888, 999)]))

    assert row["cifar10_test_200ep"] == pytest.approx(mean("cifar10", "ori-test"))
    assert row["cifar10_valid_200ep"] == pytest.approx(mean("cifar10-valid", "x-valid"))
    for dataset in ("cifar100", "ImageNet16-120"):
        assert row[f"{dataset}_test_200ep"] == pytest.approx(mean(dataset, "x-test"))
        assert row[f"{dataset}_test_200ep"] != pytest.approx(mean(dataset, "ori-test"))
        assert row[f"{dataset}_valid_200ep"] == pytest.approx(mean(dataset, "x-valid"))


def test_size_records():
    (table,) = read_archive("nats_sss", DATA / FOLDERS["nats_sss"], partial=True)
    assert table.card["default_target"] == "test_90ep"
    assert table.columns["cifar10_test_90ep"].tolist() == [79.79, 85.77, 89.51]
    assert table.columns["cifar10_valid_90ep"].round(3).tolist() == [76.888, 83.724, 86.796]
    assert table.columns["cifar100_test_12ep"].round(4).tolist() == [23.7933, 41.8933, 48.9467]
    assert table.columns["ImageNet16-120_test_1ep"].round(4).tolist() == [4.6, 6.9667, 9.0667]
    assert {"test_90ep", "valid_90ep", "test_12ep", "valid_12ep", "test_1ep", "valid_1ep"} == set(
        table.card["targets"]["cifar100"]
    )


@pytest.mark.parametrize("name", FOLDERS)
def test_a_part_of_an_archive_is_not_imported(name, imported):
    count = len(load_benchmark(name))
    with pytest.raises(HarnessError, match=f"incomplete: {count - 3:,} of {count:,} records .* 000001.pickle.pbz2"):
        import_archive(name, DATA / FOLDERS[name])
    assert nothing_written(imported)


def test_a_whole_archive_shares_the_scores_of_the_embedded_table(imported):
    """Where the space lists its members too, whose card names no column of encodings."""
    (table,) = read_archive("nats_sss", DATA / FOLDERS["nats_sss"], partial=True)
    every = load_benchmark("nats_sss").architectures
    columns = table.columns.drop(columns=["index", "arch_str"]).reindex(range(len(every))).ffill()
    columns.insert(0, "arch_str", every)
    (folder,) = write([Table(table.name, columns, table.card, table.key)])
    assert folder == imported / "nats_sss_imported"
    benchmark = load_benchmark("nats_sss_imported")
    assert benchmark.scores_of == "nats_sss"
    assert benchmark.architectures == every
    assert benchmark.accuracies("cifar100", "valid_12ep")[284] == pytest.approx(49.0133, abs=1e-4)
    assert "official archive" in list_benchmarks()["nats_sss_imported"]


def test_an_imported_table_never_replaces_an_embedded_one(imported):
    (table,) = read_archive("nats_tss", DATA / FOLDERS["nats_tss"], partial=True)
    before = load_benchmark("nats_tss").accuracies("cifar10")
    (folder,) = write([table])
    assert folder.name == "nats_tss_imported"
    assert load_benchmark("nats_tss").accuracies("cifar10").equals(before)
    part = load_benchmark("nats_tss_imported")
    assert len(part) == 3
    assert part.scores_of == "nats_tss_imported"  # other rows, so that their scores are their own
    whole = pd.DataFrame({"arch_str": load_benchmark("nats_tss").architectures}).assign(
        **dict.fromkeys(table.columns.columns[2:], 1.0)
    )
    write([Table(table.name, whole, table.card, table.key)])  # again, over the first
    assert load_benchmark("nats_tss_imported").scores_of == "nasbench201"
    assert len(load_benchmark("nats_tss_imported")) == 15_625
    assert [path.name for path in imported.iterdir()] == ["nats_tss_imported"]


@pytest.mark.parametrize("name", FOLDERS)
def test_an_archive_of_the_other_space_is_refused(name, imported):
    (other,) = set(FOLDERS) - {name}
    with pytest.raises(HarnessError, match=f"is an archive of {other}, not of {name}: `harness import {other} "):
        import_archive(name, DATA / FOLDERS[other])
    assert nothing_written(imported)


def test_mixed_up_records_are_refused(archive):
    folder = archive("nats_sss")
    shutil.copy(folder / "000011.pickle.pbz2", folder / "000012.pickle.pbz2")
    with pytest.raises(HarnessError, match=r"the record of architecture 12 is of 11, 8:8:8:16:32: .* mixed up"):
        read_archive("nats_sss", folder, partial=True)
    shutil.copy(DATA / FOLDERS["nats_tss"] / "000011.pickle.pbz2", folder / "000011.pickle.pbz2")
    (folder / "000012.pickle.pbz2").unlink()
    with pytest.raises(HarnessError, match=r"the record of architecture 11 is of 11, .*mixed up"):
        read_archive("nats_sss", folder, partial=True)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (lambda whole: whole[: len(whole) // 2], "its compressed data end early"),
        (lambda whole: b"", "its compressed data end early"),
        (lambda whole: b"<html>Too many downloads</html>", "Invalid data stream"),
        (lambda whole: bz2.compress(bz2.decompress(whole)[:-1000]), "pickle"),
        (lambda whole: bz2.compress(pickle.dumps([1, 2])), "is no record of NATS-Bench"),
        (lambda whole: bz2.compress(pickle.dumps({"90": {"arch_index": 11}})), "'arch_str'"),
        (lambda whole: bz2.compress(pickle.dumps({})), "no training of 90 epochs"),
    ],
)
def test_damaged_records_are_refused(archive, content, reason, imported):
    record = archive("nats_sss") / "000011.pickle.pbz2"
    record.write_bytes(content(record.read_bytes()))
    with pytest.raises(HarnessError, match=reason) as caught:
        read_archive("nats_sss", record.parent, partial=True)
    assert "download it again" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert nothing_written(imported)


def test_a_record_that_swells_is_refused(archive, monkeypatch):
    monkeypatch.setattr(safe, "MAX_RECORD", 300_000)
    with pytest.raises(HarnessError, match=r"meta.pickle.pbz2 is truncated or damaged \(it holds more than a record"):
        read_archive("nats_sss", archive("nats_sss"), partial=True)


def test_a_record_without_its_longest_training_is_refused(archive):
    path = archive("nats_sss") / "000011.pickle.pbz2"
    record = safe.unpickle_bz2(path)
    del record["90"]
    path.write_bytes(bz2.compress(pickle.dumps(record)))
    with pytest.raises(HarnessError, match=r"architecture 11 is not one of nats_sss .*no training of 90 epochs"):
        read_archive("nats_sss", path.parent, partial=True)


# Files that run code --------------------------------------------------------------------------------------


class Malicious:
    """Pickles to a call, as of `os.system`, when it is loaded."""

    def __init__(self, function: Any, *arguments: Any):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


def planted(tmp_path: Path) -> tuple[Malicious, Path]:
    """What creates a file if anything runs it, and that file."""
    import os

    trace = tmp_path / "it_ran"
    return Malicious(os.mkdir, str(trace)), trace


@pytest.mark.parametrize(
    ("name", "file", "protocol"),
    [
        ("nats_tss", "000011.pickle.pbz2", 4),
        ("nats_sss", "000011.pickle.pbz2", 0),
        ("nats_sss", "000000.pickle.pbz2", 2),
        ("nats_sss", "meta.pickle.pbz2", 4),
    ],
)
def test_a_malicious_pickle_inside_bz2_is_refused_by_name(name, file, protocol, archive, tmp_path, imported):
    attack, trace = planted(tmp_path)
    path = archive(name) / file
    honest = {key: value for key, value in safe.unpickle_bz2(path).items() if value != set()}
    path.write_bytes(bz2.compress(pickle.dumps({**honest, "extra": attack}, protocol=protocol)))
    with pytest.raises(HarnessError, match=r"asks for (posix|nt)\.mkdir, which no official archive") as caught:
        read_archive(name, path.parent, partial=True)
    assert file in str(caught.value)
    assert not trace.exists()
    assert nothing_written(imported)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_malicious_pickle_inside_a_pth_is_refused_by_name(zipped, tmp_path, imported, capsys):
    attack, trace = planted(tmp_path)
    path = tmp_path / "NAS-Bench-201-v1_1-096897.pth"
    torch.save({"meta_archs": [], "arch2infos": {}, "extra": attack}, path, _use_new_zipfile_serialization=zipped)
    assert main(["import", "nasbench201", str(path)]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert "asks for posix.mkdir, which no official archive" in lines[0]
    assert not trace.exists()
    assert nothing_written(imported)


@pytest.mark.parametrize(
    ("attack", "asked"),
    [
        (Malicious(eval, "1"), "builtins.eval"),
        (Malicious(getattr, 1, "real"), "builtins.getattr"),
        (Malicious(np.load, "x"), r"numpy\.load|numpy\.lib\.\S+\.load"),
        (Malicious(pickle.loads, b"N."), "_pickle.loads"),
        (Malicious(torch.load, "x"), r"torch\.serialization\.load"),
    ],
)
def test_other_classes_are_refused_by_name(attack, asked):
    with pytest.raises(HarnessError, match=asked):
        safe.unpickle(pickle.dumps({"a": attack}), Path("x"))


def test_numbers_of_both_numpy_versions_are_read():
    content = {
        "a": np.float64(1.5),
        "b": OrderedDict(c=[np.int64(3), np.bool_(True)]),
        "d": np.float32(0.1),
    }
    new = pickle.dumps(content, protocol=3)
    old = new.replace(b"numpy._core.multiarray", b"numpy.core.multiarray")
    for data in (new, old):
        found = safe.unpickle(data, Path("x"))
        assert found == {"a": 1.5, "b": OrderedDict(c=[3, True]), "d": float(np.float32(0.1))}
        assert type(found["a"]) is float
    assert b"numpy.core.multiarray" in old


def test_types_other_than_numbers_are_refused():
    for value in (np.array([1.0]), np.str_("x"), np.dtype("O")):
        with pytest.raises(HarnessError, match=r"asks for|truncated or damaged"):
            safe.unpickle(pickle.dumps(value), Path("x"))
    with pytest.raises(HarnessError, match=r"kept elsewhere|damaged"):
        safe.unpickle(b"Pelsewhere\n.", Path("x"))


# NAS-Bench-201 --------------------------------------------------------------------------------------------


def trial(dataset: str, seed: int, epochs: int, accuracies: dict[str, float]) -> dict[str, Any]:
    """A training as ResultsCount.state_dict() gives it."""
    return {
        "name": dataset,
        "net_state_dict": None,
        "train_acc1es": dict.fromkeys(range(epochs), 99.0),
        "train_acc5es": None,
        "train_losses": dict.fromkeys(range(epochs), 0.1),
        "train_times": None,
        "arch_config": {"channel": 16, "num_cells": 5, "class_num": 10},
        "params": np.float64(0.25),
        "flop": 30.5,
        "seed": seed,
        "epochs": epochs,
        "latency": None,
        "eval_names": list(accuracies),
        "eval_acc1es": {f"{name}@{epochs - 1}": value for name, value in accuracies.items()},
        "eval_times": {},
        "eval_losses": {f"{name}@{epochs - 1}": 0.2 for name in accuracies},
    }


def state(index: int, architecture: str, epochs: int, seeds: dict[str, dict[int, dict[str, float]]]) -> dict[str, Any]:
    """A record as ArchResults.state_dict() gives it."""
    return {
        "arch_index": index,
        "arch_str": architecture,
        "all_results": {(d, s): trial(d, s, epochs, a) for d, runs in seeds.items() for s, a in runs.items()},
        "dataset_seed": {d: sorted(runs) for d, runs in seeds.items()},
        "clear_net_done": True,
    }


def nasbench201_file(path: Path, indices: list[int], zipped: bool = True) -> Path:
    """A file in the published format, with the embedded test accuracies as means of two seeds."""
    benchmark = load_benchmark("nasbench201")
    infos = {}
    for i in indices:
        at = {d: float(benchmark.accuracies(d)[i]) for d in benchmark.datasets}
        full = {
            "cifar10-valid": {777: {"x-valid": 50.0}, 888: {"x-valid": 52.0}},
            "cifar10": {777: {"ori-test": at["cifar10"] - 1}, 888: {"ori-test": at["cifar10"] + 1}},
            **{d: {777: {"x-valid": 40.0, "x-test": at[d], "ori-test": 1.0}} for d in ("cifar100", "ImageNet16-120")},
        }
        less = {"cifar10-valid": {777: {"x-valid": 30.0}}}
        name = benchmark.architectures[i]
        infos[i] = {"less": state(i, name, 12, less), "full": state(i, name, 200, full)}
    data = {"meta_archs": list(benchmark.architectures), "arch2infos": infos, "evaluated_indexes": set(indices)}
    torch.save(data, path, _use_new_zipfile_serialization=zipped)
    return path


@pytest.mark.parametrize("zipped", [True, False])
def test_nasbench201(zipped, tmp_path):
    path = nasbench201_file(tmp_path / "NAS-Bench-201-v1_0-e61699.pth", [3, 6111], zipped)
    (table,) = read_archive("nasbench201", path, partial=True)
    embedded = load_benchmark("nasbench201")
    assert table.columns["index"].tolist() == [3, 6111]
    assert table.columns["cifar10_valid_200ep"].tolist() == [51.0, 51.0]
    assert table.columns["cifar100_valid_200ep"].tolist() == [40.0, 40.0]
    assert table.columns["cifar10_valid_12ep"].tolist() == [30.0, 30.0]
    assert table.columns["cifar10_params_m"].tolist() == [0.25, 0.25]
    assert "test_12ep" not in table.card["targets"]["cifar10"]  # v1_0 has no such run
    for dataset in embedded.datasets:
        expected = embedded.accuracies(dataset)[[3, 6111]].to_numpy()
        assert table.columns[f"{dataset}_test_200ep"].to_numpy() == pytest.approx(expected)
    lines, differs = check_archive("nasbench201", path)
    assert differs
    assert "  cifar10 test_200ep: 2 compared, equal within 0.005" in lines
    assert "  missing from the archive: 15,623, first index 0" in lines


def test_incomplete_nasbench201_is_refused(tmp_path, imported):
    path = nasbench201_file(tmp_path / "x.pth", [0])
    with pytest.raises(
        HarnessError, match="incomplete: 15,624 of 15,625 architectures have no test_200ep, the first is 1"
    ):
        import_archive("nasbench201", path)
    whole = path.read_bytes()
    for content in (whole[: len(whole) // 2], b"", b"<html></html>"):
        path.write_bytes(content)
        with pytest.raises(HarnessError, match=r"truncated or damaged .*: download it again") as caught:
            import_archive("nasbench201", path)
        assert "weights_only" not in str(caught.value)
    torch.save({"state_dict": {"weight": torch.zeros(2)}}, path)
    with pytest.raises(HarnessError, match="does not list the 15,625 architectures of nasbench201"):
        import_archive("nasbench201", path)
    with pytest.raises(HarnessError, match="is no NAS-Bench-201 archive: give the file NAS-Bench-201-v1_1"):
        import_archive("nasbench201", tmp_path)
    assert nothing_written(imported)


# NAS-Bench-101 --------------------------------------------------------------------------------------------


def varint(number: int) -> bytes:
    found = b""
    while number > 127:
        found += bytes([number & 127 | 128])
        number >>= 7
    return found + bytes([number])


def evaluation(valid: float, test: float) -> bytes:
    doubles = [(1, 108.0), (2, 1000.0), (3, 1.0), (4, valid), (5, test)]
    body = b"".join(varint(n << 3 | 1) + struct.pack("<d", value) for n, value in doubles)
    body += varint(6 << 3 | 2) + varint(10) + b"model.ckpt"
    return varint(1 << 3 | 2) + varint(len(body)) + body


@pytest.fixture(scope="module")
def training():
    """`training(cell, epochs, valid, test)`: a record of the archive for the embedded cell of that index."""
    benchmark = load_benchmark("nasbench101")
    hashes, params = benchmark.column("hash"), benchmark.column("params")

    def make(cell: int, epochs: int, valid: float, test: float) -> list[Any]:
        graph = benchmark.architectures.graph(cell)
        side = range(graph.vertices)
        bits = "".join(str(int(x < y and graph.bits >> edge_bit(x, y) & 1)) for x in side for y in side)
        names = ",".join(["input", *(OPERATIONS[code] for code in graph.operations), "output"])
        metrics = evaluation(0.1, 0.1) + evaluation(0.5, 0.5) + evaluation(valid, test)
        metrics += varint(2 << 3) + varint(int(params[cell]))
        metrics += varint(3 << 3 | 1) + struct.pack("<d", 2000.0)
        return [hashes[cell].hex(), epochs, bits, names, base64.b64encode(metrics).decode()]

    return make


def tfrecords(path: Path, records: list[Any]) -> Path:
    def masked(data: bytes) -> bytes:
        crc = google_crc32c.value(data)
        return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)

    content = b""
    for record in records:
        data, length = json.dumps(record).encode(), b""
        length = struct.pack("<Q", len(data))
        content += length + masked(length) + data + masked(data)
    path.write_bytes(content)
    return path


CELLS = (70_000, 5, 200_001)


@pytest.fixture
def trainings(training) -> list[list[Any]]:
    """Three trainings of 108 epochs of each of three cells, one cell after the other, in no order of hashes."""
    accuracies = load_benchmark("nasbench101").accuracies("cifar10")
    return [
        training(cell, 108, 0.9 + step, float(accuracies[cell]) / 100 + step)
        for step in (-0.01, 0.0, 0.01)
        for cell in CELLS
    ]


def test_masked_checksum_is_that_of_the_format():
    """CRC-32C of RFC 3720's 32 zero bytes."""
    assert google_crc32c.value(bytes(32)) == 0x8A9136AA


def test_nasbench101(tmp_path, trainings, imported, monkeypatch):
    path = tfrecords(tmp_path / "nasbench_only108.tfrecord", trainings)
    lines, differs = check_archive("nasbench101", path)
    assert differs  # two cells of 423,624
    assert "  cifar10 test_108ep: 3 compared, equal within 0.005" in lines
    for column in ("num_vertices", "adjacency_bits", "params"):
        assert f"  {column}: 3 compared, equal within 0.005" in lines
    monkeypatch.setattr(NasBench101, "cells", 3)
    (folder,) = import_archive("nasbench101", path)
    assert folder.name == "nasbench101_imported"
    benchmark, embedded = load_benchmark("nasbench101_imported"), load_benchmark("nasbench101")
    order = sorted(CELLS)
    assert list(benchmark.architectures) == [embedded.architectures[i] for i in order]
    assert benchmark.accuracies("cifar10").to_numpy() == pytest.approx(embedded.accuracies("cifar10")[order].to_numpy())
    assert benchmark.accuracies("cifar10", "valid_108ep").to_numpy() == pytest.approx([90.0] * 3)
    assert benchmark.column("hash").tolist() == embedded.column("hash")[order].tolist()


def test_nasbench101_with_shorter_trainings(tmp_path, training, trainings, monkeypatch):
    monkeypatch.setattr(NasBench101, "cells", 3)
    short = [training(cell, 4, 0.4, 0.4 + trial / 100) for cell in CELLS for trial in range(3)]
    (table,) = read_archive("nasbench101", tfrecords(tmp_path / "x", short + trainings))
    assert table.columns["cifar10_test_4ep"].tolist() == pytest.approx([41.0] * 3)
    assert list(table.card["targets"]["cifar10"]) == ["test_108ep", "valid_108ep", "test_4ep", "valid_4ep"]
    with pytest.raises(HarnessError, match="incomplete: it holds 3 of 3 cells, 1 of them without 3 trainings"):
        read_archive("nasbench101", tfrecords(tmp_path / "x", short[1:] + trainings))


def altered(record: list[Any], place: int, value: Any) -> list[Any]:
    return [*record[:place], value, *record[place + 1 :]]


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda r: altered(r, 0, "0" * 32), "its cell does not have the hash 00000"),
        (lambda r: altered(r, 3, r[3].replace("input", "output")), "do not begin with input"),
        (lambda r: altered(r, 2, r[2][:-1]), "adjacency does not fit"),
        (lambda r: altered(r, 2, r[2][:-1] + "1"), "not upper triangular"),
        (lambda r: altered(r, 3, r[3].replace("conv3x3-bn-relu", "conv5x5", 1)), "is not in tuple|not in"),
        (lambda r: altered(r, 4, r[4][:40]), "is not whole|padding|does not end"),
        (lambda r: altered(r, 4, "?"), "record 0 is no training"),
        (lambda r: r[:4], "record 0 is no training"),
        (lambda r: {"a": 1}, "record 0 is no training"),
        (lambda r: altered(r, 4, base64.b64encode(varint(2 << 3) + varint(5)).decode()), "no three evaluations"),
        (lambda r: altered(r, 1, 36), "no training of 108 epochs"),
    ],
)
def test_other_records_are_refused(spoil, reason, training, tmp_path, imported):
    record = training(70_000, 108, 0.9, 0.9)
    with pytest.raises(HarnessError, match=reason):
        import_archive("nasbench101", tfrecords(tmp_path / "x", [spoil(record)]))
    assert nothing_written(imported)


def test_damaged_tfrecords_are_refused(tmp_path, trainings, imported):
    path = tfrecords(tmp_path / "x", trainings)
    whole = path.read_bytes()
    assert len(list(read_records(path))) == 9
    for content, reason in (
        (whole[:-1], "it ends inside record 8"),
        (whole[:-300], "it ends inside record 8"),
        (whole[:5], "it ends inside record 0"),
        (whole[:100] + bytes([whole[100] ^ 1]) + whole[101:], "record 0 has a wrong checksum"),
        (bytes([whole[0] ^ 1]) + whole[1:], "record 0 has a wrong checksum or length"),
        (b"<html>Too many downloads</html>", "record 0 has a wrong checksum or length"),
        (b"", "is empty"),
    ):
        path.write_bytes(content)
        with pytest.raises(HarnessError, match=reason) as caught:
            import_archive("nasbench101", path)
        assert "download it again" in str(caught.value)
    path.write_bytes(whole)
    with pytest.raises(HarnessError, match="incomplete: it holds 3 of 423,624 cells"):
        import_archive("nasbench101", path)
    assert nothing_written(imported)


# NAS-Bench-301 --------------------------------------------------------------------------------------------


def suite_zero(path: Path, entries: dict[str, Any], dataset: str = "cifar10") -> Path:
    path.write_text(json.dumps({dataset: entries}), encoding="utf-8")
    return path


COMPACT = (
    "(((0, 0), (1, 5), (1, 1), (0, 1), (1, 3), (0, 3), (1, 3), (3, 2)), "
    "((1, 0), (0, 2), (1, 3), (0, 3), (3, 0), (0, 1), (2, 0), (3, 6)))"
)
ENTRY = {"val_accuracy": 93.321191, "params": {"score": 1.1, "time": 0.1}, "synflow": {"score": 80.0, "time": 1.0}}


def test_nasbench301(tmp_path, imported):
    embedded = load_benchmark("nasbench301")
    other = COMPACT.replace("(1, 5)", "(1, 4)", 1)
    path = suite_zero(tmp_path / "zc_nasbench301.json", {other: {**ENTRY, "val_accuracy": 90.0}, COMPACT: ENTRY})
    lines, differs = check_archive("nasbench301", path)
    assert differs
    assert lines[0] == "nasbench301: 2 architectures archived, 725 embedded, 1 in both"
    assert lines[-1] == "  cifar10 valid_surrogate: 1 compared, equal within 0.005"
    suite_zero(path, {other: {**ENTRY, "val_accuracy": 90.0}, COMPACT: {**ENTRY, "val_accuracy": 93.0}})
    lines, _ = check_archive("nasbench301", path)
    assert lines[-1] == (
        "  cifar10 valid_surrogate: 1 compared, 1 differ by more than 0.005, at most by 0.3212; index 0: 93 in the "
        "archive, 93.3212 embedded"
    )
    assert nothing_written(imported)
    (folder,) = import_archive("nasbench301", path)
    benchmark = load_benchmark(folder.name)
    assert benchmark.architectures == [embedded.space.parse(other), embedded.architectures[0]]
    assert benchmark.accuracies("cifar10").tolist() == [90.0, 93.0]
    assert benchmark.space == embedded.space
    assert benchmark.scores_of == "nasbench301_imported"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ('{"cifar10": {"' + COMPACT, "truncated, damaged or no JSON"),
        ("", "truncated, damaged or no JSON"),
        (json.dumps({"cifar100": {COMPACT: ENTRY}}), "no genotypes under 'cifar10'"),
        (json.dumps([1]), "no genotypes under 'cifar10'"),
        (json.dumps({"cifar10": {COMPACT: {"params": 1}}}), "has no val_accuracy in percent"),
        (json.dumps({"cifar10": {COMPACT: {"val_accuracy": float("nan")}}}), "has no val_accuracy in percent"),
        (json.dumps({"cifar10": {"(4, 0, 3, 1, 4, 2)": ENTRY}}), "is no file of NAS-Bench-301"),
    ],
)
def test_other_json_files_are_refused(content, reason, tmp_path, imported):
    path = tmp_path / "zc_nasbench301.json"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(HarnessError, match=reason):
        import_archive("nasbench301", path)
    assert nothing_written(imported)


# NDS ------------------------------------------------------------------------------------------------------


def nds_training(nodes: int = 4, op: str = "sep_conv_3x3", **changes: Any) -> dict[str, Any]:
    """A training as the published files hold it."""
    cell = [[op, node] for place in range(nodes) for node in (0, 1 + place)]
    concat = list(range(2, 2 + nodes))
    genotype = {"normal": cell, "normal_concat": concat, "reduce": cell[::-1], "reduce_concat": concat}
    genotype["reduce"] = [["max_pool_3x3", min(i // 2, 1)] for i in range(2 * nodes)]
    return {
        "job_id": 7,
        "rng_seed": 1,
        "net": {"genotype": genotype, "width": 16, "depth": 11, "aux": False, "drop_prob": 0.0},
        "optim": {"base_lr": 0.1, "wd": 0.0005, "max_ep": 3, "lr_policy": "cos", "mom": 0.9},
        "params": 1_234_567,
        "flops": 99_000_000,
        "iter_time": 0.1,
        "min_test_top1": 9.5,
        "test_ep_top1": [60.0, 9.5, 10.25],
        "train_ep_top1": [70.0, 20.0, 5.0],
        "train_ep_loss": [2.0, float("nan"), 0.5],
        **changes,
    }


def test_nds_darts(tmp_path, imported):
    path = tmp_path / "DARTS.json"
    second = nds_training(test_ep_top1=[90.0, 90.0, float("nan")], min_test_top1=90.0)
    path.write_text(json.dumps([nds_training(), second]), encoding="utf-8")
    (folder,) = import_archive("nds_darts", path)
    assert folder == imported / "nds_darts"
    table = pd.read_parquet(folder / "accuracies.parquet")
    genotype, at, network = table["genotype"][0].partition("@")
    assert (at, network) == ("@", "channels=16,layers=11")
    from harness.spaces.darts import encode

    assert encode(decode_genotype(genotype)) == genotype  # as the space writes it
    benchmark = load_benchmark("nds_darts")
    assert benchmark.accuracies("cifar10")[0] == 89.75
    assert np.isnan(benchmark.accuracies("cifar10")[1])
    assert benchmark.accuracies("cifar10", "test_best").tolist() == [90.5, 10.0]
    assert benchmark.card["network"] == {"stem": "cifar"}
    assert benchmark.card["default_target"] == "test_last"
    assert "after the last of 3 epochs" in benchmark.card["notes"]
    assert table[["width", "depth", "aux", "params", "flops", "seed"]].iloc[0].tolist() == [
        *(16, 11, False, 1_234_567, 99_000_000, 1)
    ]
    with pytest.raises(HarnessError, match="no table of nds_darts is embedded"):
        check_archive("nds_darts", path)


def test_nds_folder_with_all_that_is_there(tmp_path, imported):
    folder = tmp_path / "nds_data"
    folder.mkdir()
    ends = {"top": [nds_training(5)], "mid": [nds_training(5), nds_training(5)]}
    (folder / "ENAS_in.json").write_text(json.dumps(ends))
    (folder / "PNAS_fix-w-d.json").write_text(json.dumps([nds_training(5, "conv_7x1_1x7")]))
    (folder / "ResNet.json").write_text(json.dumps([{"net": {"block_type": "res_basic_block", "ds": [1]}}]))
    written = import_archive("nds", folder)
    assert [path.name for path in written] == ["nds_enas_in", "nds_pnas_fix_w_d"]
    benchmark = load_benchmark("nds_enas_in")
    assert len(benchmark) == 3
    assert benchmark.dataset("imagenet").classes == 1000
    assert benchmark.card["network"] == {"stem": "imagenet"}
    assert len(load_benchmark("nds_pnas_fix_w_d")) == 1


def test_names_of_the_nds_files():
    assert FILES["nds_darts"] == "DARTS.json"
    assert FILES["nds_darts_fix_w_d"] == "DARTS_fix-w-d.json"
    assert {"nds_enas", "nds_pnas", "nds_nasnet", "nds_amoeba", "nds_darts_in", "nds_amoeba_in"} <= set(FILES)
    assert len(FILES) == 15


@pytest.mark.parametrize(
    ("file", "content", "reason"),
    [
        ("DARTS.json", json.dumps([nds_training()])[:-20], "truncated, damaged or no JSON"),
        ("DARTS.json", json.dumps([]), "is no list of trainings"),
        ("DARTS.json", json.dumps([nds_training(5)]), "a cell has 10 operations, not 8"),
        ("DARTS.json", json.dumps([nds_training(4, "conv_7x1_1x7")]), "'conv_7x1_1x7' is no operation"),
        ("ENAS.json", json.dumps([nds_training(5, "sep_conv_7x7")]), "'sep_conv_7x7' is no operation"),
        ("DARTS.json", json.dumps([nds_training(test_ep_top1=[60.0, 9.5])]), "it has 2 epochs of 3"),
        ("DARTS.json", json.dumps([nds_training(test_ep_top1=[60.0, 9.5, 101.0])]), "is no percentage"),
        ("DARTS.json", json.dumps([nds_training(), {"net": {}}]), "training 1 is none of DARTS"),
        ("ResNet.json", json.dumps([nds_training()]), "ResNet.json is none of the NDS files of cells"),
        ("ENAS.json", json.dumps([nds_training(5)]), "is the file of nds_enas, not of nds_darts"),
    ],
)
def test_other_nds_files_are_refused(file, content, reason, tmp_path, imported):
    path = tmp_path / file
    path.write_text(content, encoding="utf-8")
    name = "nds_darts" if "not of nds_darts" in reason else "nds"
    with pytest.raises(HarnessError, match=reason):
        import_archive(name, path)
    assert nothing_written(imported)


# The command ----------------------------------------------------------------------------------------------


def test_command(tmp_path, imported, capsys):
    path = suite_zero(tmp_path / "zc_nasbench301.json", {COMPACT: ENTRY})
    assert main(["import", "--check", "nasbench301", str(path)]) == 1
    assert "725 embedded, 1 in both" in capsys.readouterr().out
    assert nothing_written(imported)
    assert main(["import", "nasbench301", str(path)]) == 0
    assert f"benchmark nasbench301_imported written to {imported / 'nasbench301_imported'}" in capsys.readouterr().out
    assert main(["list", "benchmarks"]) == 0
    assert "nasbench301_imported " in capsys.readouterr().out
    entries = json.loads(path.read_text())["cifar10"]
    benchmark = load_benchmark("nasbench301")
    for architecture, accuracy in zip(benchmark.architectures, benchmark.accuracies("cifar10"), strict=True):
        entries[architecture] = {"val_accuracy": accuracy}
    del entries[COMPACT]
    assert main(["import", "nasbench301", str(suite_zero(path, entries)), "--check"]) == 0


def same_cells(name: str = "nasbench301", **targets: str) -> Table:
    """A table of all embedded architectures with the embedded accuracies, and the card's targets or `targets`."""
    embedded = load_benchmark(name)
    card = {**embedded.card, **({"targets": {"cifar10": targets}} if targets else {})}
    columns = pd.DataFrame({embedded.card["encoding"]: list(embedded.architectures)})
    for dataset, found in embedded.card["targets"].items():
        for target, column in found.items():
            columns[column] = embedded.accuracies(dataset, target).to_numpy()
    return Table(name, columns, card, embedded.card["encoding"])


def test_values_of_one_side_alone_are_differences():
    table = same_cells()
    lines, differs = compare(table)
    assert (lines[1:], differs) == (["  cifar10 valid_surrogate: 725 compared, equal within 0.005"], False)
    column = "cifar10_valid_surrogate"
    table.columns.loc[:1, column] = np.nan
    lines, differs = compare(table)
    assert (lines[1:], differs) == (
        ["  cifar10 valid_surrogate: 723 compared, 2 embedded alone, equal within 0.005"],
        True,
    )
    table.columns[column] = np.nan
    lines, differs = compare(table)
    assert (lines[1:], differs) == (["  cifar10 valid_surrogate: 0 compared, 725 embedded alone"], True)
    lines, differs = compare(same_cells(other="cifar10_valid_surrogate"))
    assert (lines[1:], differs) == (["  cifar10 valid_surrogate: not in the archive"], True)


def test_what_only_the_archive_has_is_a_difference(monkeypatch):
    table, column = same_cells(), load_benchmark("nasbench301").column
    monkeypatch.setattr(Benchmark, "column", lambda self, name: np.where(np.arange(725) < 3, np.nan, column(name)))
    lines, differs = compare(table)
    assert (lines[1:], differs) == (
        ["  cifar10 valid_surrogate: 722 compared, 3 in the archive alone, equal within 0.005"],
        True,
    )


@pytest.mark.parametrize("dataset", ["cifar10", "cifar100", "ImageNet16-120"])
def test_embedded_figures_equal_those_of_official_records(dataset):
    """Three records are all that is at hand: three figures a target."""
    (table,) = read_archive("nats_tss", DATA / FOLDERS["nats_tss"], partial=True)
    lines, _ = compare(table)
    for target in ("test_200ep", "valid_200ep", "test_12ep", "valid_12ep"):
        assert f"  {dataset} {target}: 3 compared, equal within 0.005" in [line.split(", 15,622")[0] for line in lines]


def test_figures_that_imports_do_not_read_are_no_difference():
    """Or no whole archive of NATS-Bench would equal the embedded table."""
    (table,) = read_archive("nats_tss", DATA / FOLDERS["nats_tss"], partial=True)
    whole = same_cells("nats_tss")
    targets = {
        dataset: {target: column for target, column in found.items() if target not in table.unread}
        for dataset, found in whole.card["targets"].items()
    }
    lines, differs = compare(replace(whole, card={**whole.card, "targets": targets}, unread=table.unread))
    assert "  cifar10 test_200ep_seed888: not compared, imports do not read it" in lines
    assert not differs


# Writing that fails ---------------------------------------------------------------------------------------


def small(name: str, accuracy: float) -> Table:
    columns = pd.DataFrame({"genotype": [load_benchmark("nasbench301").architectures[0]], "acc": [accuracy]})
    card = {
        "title": name,
        "space": "darts",
        "encoding": "genotype",
        "datasets": {"cifar10": {"classes": 10, "resolution": 32}},
        "default_target": "test",
        "targets": {"cifar10": {"test": "acc"}},
    }
    return Table(name, columns, card, "genotype")


def content(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, hidden ones too."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
@pytest.mark.parametrize("failing", range(5))
def test_an_import_that_ends_early_leaves_what_was_there(failing, error, imported, monkeypatch):
    """Of three tables two replace one: five folders move."""
    write([small("one", 1.0), small("two", 2.0)])
    before = content(imported)
    done, rename, moves = [], Path.rename, []

    def failing_rename(self: Path, target: Path) -> Path:
        moves.append(self)
        if len(moves) == failing + 1:
            if isinstance(error, KeyboardInterrupt):  # it may fall behind the move too
                rename(self, target)
            raise error
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", failing_rename)
    with pytest.raises((HarnessError, KeyboardInterrupt)):
        done += write([small("one", 10.0), small("new", 30.0), small("two", 20.0)])
    assert len(moves) > failing
    assert not done
    assert content(imported) == before
    assert sorted(path.name for path in imported.iterdir()) == ["one", "two"]
    monkeypatch.undo()


def test_a_table_that_cannot_be_brought_back_is_kept(imported, monkeypatch):
    write([small("one", 1.0)])
    before = content(imported / "one")
    rename = Path.rename

    def failing_rename(self: Path, target: Path) -> Path:
        if target == imported / "one":
            raise OSError(5, "Input/output error")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", failing_rename)
    with pytest.raises(HarnessError, match="cannot write the benchmark one ") as caught:
        write([small("one", 10.0)])
    (kept,) = imported.glob(".*.writing/old/one")
    assert str(caught.value).endswith(f"; the one that was there is now {kept}")
    assert content(kept) == before


def test_a_disk_that_fills_up_leaves_no_table(imported, monkeypatch):
    """Also where all but the last were written."""
    import pyarrow.parquet

    write([small("one", 1.0)])
    before, write_table, written = content(imported), pyarrow.parquet.write_table, []

    def full(table: Any, path: Path, **options: Any) -> None:
        written.append(path)
        if len(written) == 3:
            raise OSError(28, "No space left on device")
        write_table(table, path, **options)

    monkeypatch.setattr(pyarrow.parquet, "write_table", full)
    with pytest.raises(HarnessError, match=r"benchmarks one, two, three below .*No space left"):
        write([small("one", 10.0), small("two", 20.0), small("three", 30.0)])
    assert content(imported) == before


def test_help_names_every_archive(capsys):
    assert main(["import", "--help"]) == 0
    shown = capsys.readouterr().out
    assert all(name in shown for name in available() if not name.startswith("nds_"))


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        ([], ["Missing argument 'NAME': harness import [OPTIONS] NAME PATH"]),
        (["nats_sss"], ["Missing argument 'PATH': harness import [OPTIONS] NAME PATH"]),
        (["nats_sss", "a", "b"], ["unexpected extra argument (b)"]),
        (["nats_sss", "a", "--chek"], ["No such option '--chek'", "--check"]),
        (["nats_ssss", "a"], ["unknown archive 'nats_ssss'", "did you mean 'nats_sss'?"]),
        (["nats_sss", "nowhere"], ["nowhere does not exist", "NATS-sss-v1_0-50262-simple"]),
        (["nats_sss", str(Path(__file__))], ["is no NATS-Bench archive (it has no meta.pickle.pbz2)"]),
        (["nds", str(DATA)], ["holds none of", "DARTS.json"]),
    ],
)
def test_mistakes_get_one_line(arguments, parts, capsys, imported):
    assert main(["import", *arguments]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert all(part in lines[0] for part in parts)
    assert nothing_written(imported)


def test_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "nats_bench", None)
    with pytest.raises(HarnessError, match=r"needs the package nats_bench.*pip install 'nas-proxy-harness\[import\]'"):
        read_archive("nats_sss", DATA / FOLDERS["nats_sss"], partial=True)


def test_unwritable_folder_is_named(tmp_path, monkeypatch):
    path = suite_zero(tmp_path / "zc_nasbench301.json", {COMPACT: ENTRY})
    blocked = tmp_path / "file"
    blocked.write_text("")
    monkeypatch.setenv("NAS_HARNESS_BENCHMARKS", str(blocked / "below"))
    with pytest.raises(
        HarnessError, match=r"cannot write the benchmark nasbench301_imported below .*NAS_HARNESS_BENCH"
    ):
        import_archive("nasbench301", path)


def test_unknown_archive():
    with pytest.raises(UnknownNameError, match="did you mean 'nasbench101'"):
        read_archive("nasbench-101", "x")


def test_default_folder_is_the_users(monkeypatch):
    from harness.paths import imported_dir

    monkeypatch.delenv("NAS_HARNESS_BENCHMARKS")
    monkeypatch.setenv("XDG_DATA_HOME", "/data")
    assert imported_dir() == Path("/data/nas-proxy-harness/benchmarks")
    monkeypatch.delenv("XDG_DATA_HOME")
    assert imported_dir() == Path.home() / ".local" / "share" / "nas-proxy-harness" / "benchmarks"
