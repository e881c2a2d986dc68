"""NAS-Bench-101 (Ying et al., ICML 2019): `nasbench_only108.tfrecord` and `nasbench_full.tfrecord`, no TensorFlow.

A TFRecord file is a sequence of records: length (8 bytes, little-endian), its masked CRC-32C, the data, their
masked CRC-32C. A record of NAS-Bench-101 is the JSON list [hash, epochs, adjacency, operations, metrics] of one
training; adjacency is the square matrix as a string of 0 and 1, metrics the base64 of the protocol buffer
`ModelMetrics`: field 1, repeated, `EvaluationData` at the start, the middle and the end of the training (fields 4
and 5, doubles: validation and test accuracy as fractions), field 2 the number of trainable parameters. Source:
google-research/nasbench, `api.py` and `lib/model_metrics.proto` (Apache-2.0).
"""

from __future__ import annotations

import base64
import json
import math
import struct
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from harness.benchmarks.importers.base import Importer, Table, card_of, counted, package
from harness.errors import HarnessError, cause, shown
from harness.spaces.nasbench101 import INPUT, OPERATIONS, OUTPUT, Graph, edge_bit, module_hash

#: Number of cells, and of trainings that the archive holds of each cell and each number of epochs.
CELLS, TRIALS = 423_624, 3
#: Lengths of training, in epochs.
EPOCHS = (4, 12, 36, 108)
#: A record is about 400 bytes.
MAX_RECORD = 1 << 16


class Metrics(NamedTuple):
    """What one training left: parameters, and the accuracies at its end as fractions."""

    params: int
    valid: float
    test: float


def read_records(path: Path) -> Iterator[bytes]:
    """The records of a TFRecord file. Raises HarnessError where a checksum fails or the file ends early."""
    crc32c = package("google_crc32c", "google-crc32c").value

    def masked(data: bytes) -> int:
        crc = crc32c(data)
        return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF

    with path.open("rb") as file:
        number = 0
        while head := file.read(12):
            length, crc = struct.unpack("<QI", head) if len(head) == 12 else (0, None)
            if crc is not None and (masked(head[:8]) != crc or length > MAX_RECORD):
                raise _damaged(path, f"record {number:,} has a wrong checksum or length")
            data, tail = file.read(length), file.read(4)
            if crc is None or len(data) < length or len(tail) < 4:
                raise _damaged(path, f"it ends inside record {number:,}")
            if masked(data) != struct.unpack("<I", tail)[0]:
                raise _damaged(path, f"record {number:,} has a wrong checksum")
            yield data
            number += 1


def _damaged(path: Path, reason: str) -> HarnessError:
    return HarnessError(f"{path} is truncated or damaged, or no TFRecord file ({reason}): download it again")


def _fields(data: bytes) -> Iterator[tuple[int, int | float | bytes]]:
    """Number and value of each field of a protocol buffer. Raises ValueError for malformed data."""
    place = 0

    def varint() -> int:
        nonlocal place
        value = shift = 0
        while True:
            if place >= len(data) or shift > 63:
                raise ValueError("a number does not end")
            byte = data[place]
            place += 1
            value |= (byte & 127) << shift
            if byte < 128:
                return value
            shift += 7

    while place < len(data):
        key = varint()
        number, kind = key >> 3, key & 7
        if kind == 0:
            yield number, varint()
            continue
        size = {1: 8, 5: 4}.get(kind)
        if kind == 2:
            size = varint()
        if size is None or place + size > len(data):
            raise ValueError(f"field {number} is not whole")
        chunk = data[place : place + size]
        place += size
        yield number, struct.unpack("<d", chunk)[0] if kind == 1 else chunk


def read_metrics(data: bytes) -> Metrics:
    """A `ModelMetrics` protocol buffer. Raises ValueError where it is malformed or lacks a figure."""
    params, evaluations = None, []
    for number, value in _fields(data):
        if number == 1 and isinstance(value, bytes):
            evaluations.append(value)
        elif number == 2 and isinstance(value, int):
            params = value
    if params is None or params >= 2**31 or len(evaluations) != 3:
        raise ValueError("it has no three evaluations and a number of parameters")
    last = dict(_fields(evaluations[-1]))
    valid, test = last.get(4), last.get(5)
    if not (isinstance(valid, float) and isinstance(test, float) and 0 <= valid <= 1 and 0 <= test <= 1):
        raise ValueError("its accuracies are no fractions")
    return Metrics(params, valid, test)


def read_cell(adjacency: str, operations: str) -> Graph:
    """The cell of an archive's record. Raises ValueError where it is none."""
    side = math.isqrt(len(adjacency))
    names = operations.split(",")
    if side**2 != len(adjacency) or len(names) != side or set(adjacency) - {"0", "1"}:
        raise ValueError("its adjacency does not fit its operations")
    if (names[0], names[-1]) != (INPUT, OUTPUT):
        raise ValueError("its operations do not begin with input and end with output")
    edges = [divmod(place, side) for place, digit in enumerate(adjacency) if digit == "1"]
    if any(source >= target for source, target in edges):
        raise ValueError("its adjacency is not upper triangular")
    codes = tuple(OPERATIONS.index(name) for name in names[1:-1])
    return Graph(side, sum(1 << edge_bit(*edge) for edge in edges), codes)


@dataclass
class _Cell:
    """A cell with the sums of its trainings: by epochs, number of trials, validation and test accuracy."""

    graph: Graph
    params: int
    sums: dict[int, list[float]] = field(default_factory=lambda: defaultdict(lambda: [0, 0.0, 0.0]))


class NasBench101(Importer):
    """`nasbench_only108.tfrecord`, or `nasbench_full.tfrecord` with the shorter trainings too."""

    names = ("nasbench101",)
    form = "the file nasbench_only108.tfrecord or nasbench_full.tfrecord"
    cells = CELLS

    def read(self, name: str, path: Path, partial: bool) -> list[Table]:
        if not path.is_file():
            raise HarnessError(f"{path} is no NAS-Bench-101 archive: give {self.form}")
        found: dict[str, _Cell] = {}
        for number, data in enumerate(counted(read_records(path), None, "trainings")):
            try:
                key, epochs, adjacency, operations, metrics = json.loads(data)
                if type(epochs) is not int or epochs not in EPOCHS:
                    raise ValueError(f"it is of {shown(epochs)} epochs, none of {EPOCHS}")
                figures = read_metrics(base64.b64decode(metrics, validate=True))
                if key not in found:
                    graph = read_cell(adjacency, operations)
                    if module_hash(graph) != key:
                        raise ValueError(f"its cell does not have the hash {str(key)[:40]}")
                    found[key] = _Cell(graph, figures.params)
                sums = found[key].sums[epochs]
            except (ValueError, TypeError, AttributeError, LookupError, RecursionError) as error:
                raise HarnessError(
                    f"{path}: record {number:,} is no training of NAS-Bench-101 ({cause(error)[:200]}): it is another "
                    "file"
                ) from error
            sums[0] += 1
            sums[1] += figures.valid
            sums[2] += figures.test
        self._check_complete(path, found, partial)
        return [self._table(path, found)]

    def _check_complete(self, path: Path, found: dict[str, _Cell], partial: bool) -> None:
        if not found:
            raise HarnessError(f"{path} is empty: download it again")
        epochs = {e for cell in found.values() for e in cell.sums}
        if 108 not in epochs:
            raise HarnessError(f"{path} holds no training of 108 epochs: it is another file")
        lacking = sum(any(cell.sums[e][0] != TRIALS for e in epochs) for cell in found.values())
        if (len(found) != self.cells or lacking) and not partial:
            raise HarnessError(
                f"{path} is incomplete: it holds {len(found):,} of {self.cells:,} cells, {lacking:,} of them without "
                f"{TRIALS} trainings of each length; finish the download"
            )

    def _table(self, path: Path, found: dict[str, _Cell]) -> Table:
        keys = sorted(found)
        cells = [found[key] for key in keys]
        epochs = sorted({e for cell in cells for e in cell.sums}, reverse=True)
        columns: dict[str, Any] = {
            "hash": [bytes.fromhex(key) for key in keys],
            "num_vertices": np.array([cell.graph.vertices for cell in cells], dtype=np.int8),
            "adjacency_bits": np.array([cell.graph.bits for cell in cells], dtype=np.int32),
            "ops": ["".join(map(str, cell.graph.operations)) for cell in cells],
            "params": np.array([cell.params for cell in cells], dtype=np.int32),
        }
        targets = {}
        for length in epochs:
            for place, part in ((2, "test"), (1, "valid")):
                targets[f"{part}_{length}ep"] = f"cifar10_{part}_{length}ep"
                sums = np.array([cell.sums[length] for cell in cells])
                with np.errstate(invalid="ignore"):
                    columns[f"cifar10_{part}_{length}ep"] = 100 * sums[:, place] / sums[:, 0]
        card = {
            "title": f"NAS-Bench-101, {len(cells):,} cells, CIFAR-10 (official archive)",
            **card_of("nasbench101"),
            "encoding": ["num_vertices", "adjacency_bits", "ops"],
            "default_target": "test_108ep",
            "targets": {"cifar10": targets},
            "notes": (
                "Rows are sorted by the official module hash; the columns are those of the embedded nasbench101.\n"
                "*_Nep: accuracy in percent at the end of N epochs, mean over the trials.\n"
            ),
            "origin": f"The official archive {path.name}.\n",
            "licence": "Apache-2.0 (the official archive)",
        }
        shared = ("num_vertices", "adjacency_bits", "params")
        return Table("nasbench101", pd.DataFrame(columns), card, "hash", shared)
