"""Files and settings that nobody would write: what does the harness make of them?

    python tests/fuzzing.py MINUTES [TRIES]            all classes, a table of what came of it
    python tests/fuzzing.py CLASS SECONDS SEED [TRIES] one class in this process, or each of CLASS,CLASS: a line of JSON

With TRIES each class ends after so many, if it has not before.

Each try reads something made by Hypothesis: archives, cards, settings, image files, parts of the store. It may be
refused, by a HarnessError in one line, or taken, and then what was read is compared with what was written. Anything
else is a fault: another exception, 10 seconds, 2 GB of memory, a process that dies, a figure other than the one that
was written.
"""

from __future__ import annotations

import base64
import bz2
import contextlib
import copy
import faulthandler
import io
import itertools
import json
import math
import os
import pickle
import random
import resource
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import google_crc32c
import hypothesis
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from hypothesis import strategies as st
from omegaconf import ListConfig, OmegaConf

from harness.benchmarks.benchmark import Benchmark, load_benchmark
from harness.benchmarks.importers import nats, read_archive, safe
from harness.benchmarks.importers.nasbench101 import read_cell
from harness.cli.jobs import job_of
from harness.cli.quote import PATHS, quoted
from harness.config import SCHEMAS, compose_config, setting_names
from harness.engine.inputs import STATISTICS, load_inputs
from harness.engine.scoring import plan
from harness.engine.store import SCHEMA, Row, ScoreKey, ScoreStore
from harness.errors import HarnessError
from harness.spaces.nasbench101 import module_hash

SECONDS, MEMORY = 10, 2 * 10**9
KEY = ScoreKey("macro", "cifar10", "random", "snip", 0)


class Other(AssertionError):
    """What was read is not what was written."""


class Slow(BaseException):
    """A try took too long. No `except Exception` is to catch it."""


# What is made ---------------------------------------------------------------------------------------------


def shared(depth: int) -> list:
    nested: list = []
    for _ in range(depth):
        nested = [nested, nested]
    return nested


def values(most: int = 4) -> st.SearchStrategy:
    """Values that stand where others are meant, with lists that hold the same list twice, `most` deep."""
    odd = [
        None,
        True,
        "",
        "x" * 5000,
        b"",
        -1,
        2**31,
        2**63,
        2**64,
        10**400,
        math.inf,
        -math.inf,
        math.nan,
        1e9,
        -0.1,
        100.1,
    ]
    odd += [
        "~nosuchuser",
        "../..",
        "/dev/zero",
        "${nope}",
        "a\0b",
        "\ud800",
        "1" * 400,
        [],
        {},
        (),
        [[]],
        {"a": {}},
        (((),),),
    ]
    made = st.one_of(
        st.integers(), st.floats(), st.text(max_size=20), st.binary(max_size=20), st.integers(2, most).map(shared)
    )
    return st.one_of(st.sampled_from(odd), made)


def entries(value: Any) -> list:
    if isinstance(value, dict):
        return list(value)
    return list(range(len(value))) if isinstance(value, list) else []


@st.composite
def altered(draw: Any, make: Callable[[], Any], most: int = 4) -> Any:
    """What `make` makes, with up to three entries, wherever they lie in it, replaced, removed or exchanged."""
    whole = make()
    for _ in range(draw(st.integers(0, 3))):
        place = whole
        for step in draw(st.lists(st.integers(0, 30), min_size=1, max_size=8)):
            known = entries(place)
            if not known:
                break
            key = known[step % len(known)]
            if not entries(place[key]) or draw(st.integers(0, 5)) == 0:
                what = draw(st.sampled_from(["put", "put", "put", "remove", "exchange"]))
                other = known[draw(st.integers(0, 30)) % len(known)]
                if what == "put":
                    place[key] = copy.deepcopy(draw(values(most)))
                elif what == "remove":
                    del place[key]
                else:
                    place[key], place[other] = place[other], place[key]
                break
            place = place[key]
    return whole


@st.composite
def damaged(draw: Any, data: bytes) -> bytes:
    """Bytes with some flipped, cut off, doubled or put in between; sometimes as they are."""
    changed = bytearray(data)
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(0, max(0, len(changed) - 1)))
        what = draw(st.sampled_from(["flip", "flip", "cut", "put", "double"]))
        if what == "flip" and changed:
            changed[at] ^= 1 << draw(st.integers(0, 7))
        elif what == "cut":
            del changed[at : at + draw(st.sampled_from([1, 8, 10**9]))]
        elif what == "put":
            changed[at:at] = draw(st.binary(max_size=16))
        else:
            changed[at:at] = changed[at : at + 64]
    return bytes(changed)


CODES = [getattr(pickle, name) for name in dir(pickle) if name.isupper() and isinstance(getattr(pickle, name), bytes)]
NAMES = [b"cnumpy\ndtype\n", b"cnumpy.core.multiarray\nscalar\n", b"ccollections\nOrderedDict\n", b"cos\nsystem\n"]
NAMES += [
    b"cnumpy.core.multiarray\n_reconstruct\n",
    b"cnumpy\nndarray\n",
    b"c_codecs\nencode\n",
    b"X\x02\0\0\0u1",
    b"K\x00K\x01K\x01",
]
NUMBERS = [struct.pack("<I", n) for n in (0, 1, 255, 2**28, 2**31, 2**32 - 1)] + [
    struct.pack("<Q", n) for n in (1, 2**33, 2**63)
]


def programs() -> st.SearchStrategy:
    """Pickles from any steps, some of them thousands of times."""
    step = st.one_of(st.sampled_from(CODES), st.sampled_from(NAMES), st.sampled_from(NUMBERS), st.binary(max_size=4))
    many = st.tuples(
        st.sampled_from([b"]", b"}", b"\x8f", b"(", b"2\x86", b"N\x94", b"]a", b"N0"]), st.integers(1, 60_000)
    )
    pieces = st.lists(st.one_of(step, step, step, many.map(lambda pair: pair[0] * pair[1])), max_size=30)
    return pieces.map(lambda found: b"\x80\x04" + b"".join(found) + b".")


# Archives -------------------------------------------------------------------------------------------------

ARCHITECTURES = ("8:8:8:8:8", "8:8:8:8:16")
TITLES = {
    "cifar10-valid": ("x-valid",),
    "cifar10": ("ori-test",),
    "cifar100": ("x-valid", "x-test"),
    "ImageNet16-120": ("x-valid", "x-test"),
}


def record() -> dict:
    """A record of the size space, of two epochs in each training."""

    def training(dataset: str, seed: int, epochs: int, parts: tuple[str, ...]) -> dict:
        last = epochs - 1
        return {
            "name": dataset, "seed": seed, "epochs": epochs, "net_state_dict": None, "train_acc5es": None,
            "train_acc1es": dict.fromkeys(range(epochs), 90.0), "train_losses": dict.fromkeys(range(epochs), 0.1),
            "train_times": None, "arch_config": {}, "params": 0.25, "flop": 30.5, "latency": None,
            "eval_names": list(parts), "eval_times": {}, "eval_losses": {f"{part}@{last}": 0.5 for part in parts},
            "eval_acc1es": {f"{part}@{last}": 50.0 + seed / 100 for part in parts},
        }  # fmt: skip

    def state(epochs: int) -> dict:
        results = {(d, s): training(d, s, epochs, parts) for d, parts in TITLES.items() for s in (777, 888)}
        seeds = {dataset: [777, 888] for dataset in TITLES}
        return {
            "arch_index": 1,
            "arch_str": ARCHITECTURES[1],
            "all_results": results,
            "dataset_seed": seeds,
            "clear_net_done": True,
        }

    return {"90": state(90), "12": state(12)}


def nds() -> list:
    cell = [["sep_conv_3x3", min(place // 2, 1)] for place in range(8)]
    genotype = {
        "normal": cell,
        "normal_concat": [2, 3, 4, 5],
        "reduce": copy.deepcopy(cell),
        "reduce_concat": [2, 3, 4, 5],
    }
    training = {
        "rng_seed": 1, "net": {"genotype": genotype, "width": 16, "depth": 11, "aux": False},
        "optim": {"base_lr": 0.1, "wd": 0.0005, "max_ep": 3}, "params": 10, "flops": 99,
        "min_test_top1": 9.5, "test_ep_top1": [60.0, 9.5, 10.25],
    }  # fmt: skip
    return [training, copy.deepcopy(training)]


def suite_zero() -> dict:
    pairs = "((0, 1), (1, 2), (0, 1), (2, 2), (0, 1), (3, 2), (0, 1), (1, 2))"
    return {"cifar10": {f"({pairs}, {pairs})": {"val_accuracy": 93.2, "params": {}}}}


def archives() -> st.SearchStrategy:
    pickled = st.one_of(altered(record, 60).map(_pickled), st.just(record()).map(_pickled).flatmap(damaged), programs())
    texts = [altered(make).map(lambda found: json.dumps(found, default=str).encode()) for make in (nds, suite_zero)]
    return st.one_of(
        st.tuples(st.just("nats"), altered(record, 60)),
        st.tuples(st.just("pickle"), pickled),
        st.tuples(
            st.just("torch"), st.one_of(pickled.map(torch_file), st.just(torch_file(_pickled([1]))).flatmap(damaged))
        ),
        st.tuples(st.just("nasbench101"), altered(training).map(tfrecord)),
        st.tuples(st.just("nasbench101"), st.just(tfrecord(training())).flatmap(damaged)),
        st.tuples(st.just("bz2"), st.just(bz2.compress(_pickled(record()))).flatmap(damaged)),
        *(st.tuples(st.just(name), one) for name, one in zip(("nds", "nasbench301"), texts, strict=True)),
        *(
            st.tuples(st.just(name), one.flatmap(damaged))
            for name, one in zip(("nds", "nasbench301"), texts, strict=True)
        ),
    )


def training() -> list:
    """A record of NAS-Bench-101: the cell of two vertices, joined."""
    body = b"".join(bytes([number << 3 | 1]) + struct.pack("<d", value) for number, value in ((4, 0.5), (5, 0.25)))
    metrics = 3 * (b"\x0a" + bytes([len(body)]) + body) + b"\x10\x05"
    key = module_hash(read_cell("0100", "input,output"))
    return [key, 108, "0100", "input,output", base64.b64encode(metrics).decode()]


def tfrecord(content: Any) -> bytes:
    """A file of one record, with the checksums that belong to it."""

    def masked(data: bytes) -> bytes:
        crc = google_crc32c.value(data)
        return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)

    data = json.dumps(content, default=str).encode()
    length = struct.pack("<Q", len(data))
    return length + masked(length) + data + masked(data)


def torch_file(content: bytes) -> bytes:
    """A file of torch.save around a pickle."""
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w") as archive:
        archive.writestr("x/data.pkl", content)
    return sink.getvalue()


def _pickled(value: Any) -> bytes:
    try:
        return pickle.dumps(value, protocol=4)
    except RecursionError:
        return b""


def read_of_archive(case: tuple[str, Any], folder: Path) -> None:
    kind, content = case
    if kind == "pickle":
        safe.unpickle(content, folder / "x")
    elif kind == "torch":
        (folder / "x.pth").write_bytes(content)
        safe.load_torch(folder / "x.pth")
    elif kind == "nasbench101":
        (folder / "x.tfrecord").write_bytes(content)
        (table,) = read_archive(kind, folder / "x.tfrecord", partial=True)
        accuracies = table.columns["cifar10_test_108ep"].to_numpy()
        if not ((accuracies >= 0) & (accuracies <= 100)).all():
            raise Other(f"{accuracies}")
    elif kind in ("nats", "bz2"):
        nats._architectures = lambda *_: list(ARCHITECTURES)  # the list of the embedded ones takes a tenth of a second
        (folder / "meta.pickle.pbz2").write_bytes(bz2.compress(pickle.dumps({})))
        data = bz2.compress(_pickled(content)) if kind == "nats" else content
        (folder / "000001.pickle.pbz2").write_bytes(data)
        (table,) = read_archive("nats_sss", folder, partial=True)
        _compare_record(table.columns, content if kind == "nats" else record())
    else:
        path = folder / {"nds": "DARTS.json", "nasbench301": "zc_nasbench301.json"}[kind]
        path.write_bytes(content)
        (table,) = read_archive(kind, path)
        with contextlib.suppress(ValueError, RecursionError):
            _compare_json(kind, table.columns, json.loads(content))


def _compare_record(columns: pd.DataFrame, content: dict) -> None:
    for dataset, part, of in (
        ("cifar10", "test", ("cifar10", "ori-test")),
        ("cifar10", "valid", ("cifar10-valid", "x-valid")),
        ("cifar100", "test", ("cifar100", "x-test")),
        ("ImageNet16-120", "valid", ("ImageNet16-120", "x-valid")),
    ):
        for epochs in (90, 12):
            found = columns[f"{dataset}_{part}_{epochs}ep"].to_numpy()
            if not np.isfinite(found).all():
                continue  # a training that is not there
            runs = [run for (name, _), run in content[str(epochs)]["all_results"].items() if name == of[0]]
            expected = np.mean([run["eval_acc1es"][f"{of[1]}@{epochs - 1}"] for run in runs])
            if not (0 <= expected <= 100) or abs(found[0] - expected) > 1e-9:
                raise Other(f"{dataset} {part} {epochs}: {found} for {expected}")


def _compare_json(kind: str, columns: pd.DataFrame, content: Any) -> None:
    if kind == "nasbench301":
        expected = [entry["val_accuracy"] for entry in content["cifar10"].values()]
        found = columns["cifar10_valid_surrogate"].tolist()
    else:
        trainings = [*content["top"], *content["mid"]] if isinstance(content, dict) else content
        last = [training["test_ep_top1"][-1] for training in trainings]
        expected = [100 - error if error is not None and error == error else math.nan for error in last]
        found = columns["cifar10_test_last"].tolist()
    if not np.array_equal(found, np.array(expected, dtype=float), equal_nan=True):
        raise Other(f"{found} for {expected}")


# Cards ----------------------------------------------------------------------------------------------------

CELLS = [
    "|nor_conv_3x3~0|+|nor_conv_3x3~0|none~1|+|none~0|none~1|nor_conv_3x3~2|",
    "|none~0|+|none~0|none~1|+|none~0|none~1|none~2|",
]
TABLE = {"arch": CELLS, "test": [94.0, 10.0], "latency": [1.5, 2.5], "few": [True, False]}


def card() -> dict:
    figures = [{"kind": "latency", "unit": "ms", "better": "lower", "columns": ["latency"]}]
    return {
        "title": "two cells", "space": "nasbench201", "rows": 2, "sha256": SHA, "encoding": "arch",
        "datasets": {"cifar10": {"classes": 10, "resolution": 32}}, "default_target": "test",
        "targets": {"cifar10": {"test": "test"}}, "units": {}, "network": {},
        "tables": {"costs.parquet": {"sha256": SHA, "dataset": "cifar10", "figures": figures}},
        "populations": {"few": {"column": "few", "text": "one"}}, "origin": "x", "licence": "x", "citation": "x",
        "known_values": [{"dataset": "cifar10", "target": "test", "statistic": "max", "value": 94.0, "tolerance": 0.1}],
    }  # fmt: skip


def _parquet(columns: dict) -> bytes:
    sink = io.BytesIO()
    pd.DataFrame(columns).to_parquet(sink)
    return sink.getvalue()


PARQUET = _parquet(TABLE)
SHA = __import__("hashlib").sha256(PARQUET).hexdigest()


def _text_of_card(value: Any) -> bytes:
    try:
        return yaml.safe_dump(value, sort_keys=False).encode("utf-8", "surrogatepass")
    except (yaml.YAMLError, RecursionError, ValueError):
        return repr(value).encode("utf-8", "surrogatepass")


def cards() -> st.SearchStrategy:
    keys = st.sampled_from(["scores_of", "same_as", "populations", "repeated", "nope"])
    names = st.sampled_from(["nasbench201", "nats_tss", "nope", "mine", "few", 3])
    more = st.dictionaries(keys, names, max_size=1)
    made = (
        st.tuples(altered(card), more)
        .map(lambda p: {**p[0], **p[1]} if isinstance(p[0], dict) else p[0])
        .map(_text_of_card)
    )
    lines = [
        b"a: &a [1]\nb: *a\n",
        b"<<: {rows: 3}\n",
        b"rows: 2\nrows: 3\n",
        b"x: " + b"[" * 600,
        b"\t",
        b"--- \n",
        b"!!python/name:os\n",
    ]
    added = st.tuples(st.sampled_from(lines), made).map(lambda p: p[0] + p[1])
    return st.one_of(made, made, made.flatmap(damaged), added)


def read_of_card(text: bytes, folder: Path) -> None:
    mine = folder / "mine"
    mine.mkdir(exist_ok=True)
    for name in ("accuracies.parquet", "costs.parquet"):
        (mine / name).write_bytes(PARQUET)
    (mine / "card.yaml").write_bytes(text)
    benchmark = Benchmark(mine)
    benchmark.check()
    said = yaml.safe_load(text)
    if any(benchmark.card[key] != value for key, value in said.items()):
        raise Other("the card is another")
    if benchmark.scores_of not in ("mine", "nasbench201") or (
        benchmark.scores_of != "mine" and len(benchmark) != 15_625
    ):
        raise Other(f"scores of {benchmark.scores_of}")
    if "same_as" in said:
        return
    for dataset in benchmark.datasets:
        for name, target in benchmark.targets(dataset).items():
            if benchmark.accuracies(dataset, name).tolist() != TABLE[target.column]:
                raise Other(f"{name} is another")


# Settings -------------------------------------------------------------------------------------------------


@cache
def defaults(command: str) -> dict[str, str]:
    """The settings of a command as one would type their defaults."""
    config = compose_config(command, [])

    def typed(value: Any) -> str:
        if isinstance(value, ListConfig):
            return f"[{','.join(map(typed, value))}]"
        return "null" if value is None else str(value)

    names = [name for name in setting_names(command) if config[name.partition(".")[0]] is not None]
    return {name: typed(OmegaConf.select(config, name)) for name in names}


def settings() -> st.SearchStrategy:
    words = [
        "a=b",
        "[a,b]",
        "{a: 1}",
        "1,2",
        "range(1,3)",
        "choice(a)",
        "''",
        "glob(*)",
        "null",
        "0",
        "1",
        "-1",
        "1e400",
        "nan",
        "~/x",
    ]
    words += [
        "sample(3, seed=1)",
        "sample(99999999)",
        "unique",
        "0/2",
        "2/2",
        "macro",
        "[flops]",
        "[snip:batch_size=2]",
        "cpu",
        "random",
    ]
    text = st.one_of(st.sampled_from(words), values().map(str), st.text(max_size=30))

    def of(command: str) -> st.SearchStrategy:
        keys = st.one_of(
            st.sampled_from(setting_names(command)), st.sampled_from(["+x", "~seed", "nope", "hydra.run.dir", "a/b"])
        )
        odd = st.tuples(keys, text).map("=".join)
        plain = st.sampled_from([f"{name}={value}" for name, value in defaults(command).items()])
        typed = st.tuples(st.lists(plain, max_size=3), st.lists(st.one_of(odd, odd, text), min_size=1, max_size=2))
        return st.tuples(st.just(command), typed.map(lambda both: both[0] + both[1]))

    return st.sampled_from([*SCHEMAS, "score", "score", "score"]).flatmap(of)


def read_of_setting(case: tuple[str, list[str]], folder: Path) -> None:
    command, typed = case
    first = ["benchmark=macro", f"store={folder / 'scores'}", "proxies=[flops]"] if command == "score" else []
    config = compose_config(command, [quoted(text) for text in (*first, *typed)])
    last = dict(text.partition("=")[::2] for text in typed)
    for key in last.keys() & PATHS & set(setting_names(command)):
        plain = last[key].isprintable() and not set(last[key]) & set("'\"\\$") and last[key] == last[key].strip()
        found = config.inputs.path if key == "inputs.path" else config[key]
        if plain and last[key] not in ("", "null") and key != "tables" and str(found) != last[key]:
            raise Other(f"{key} is {found!r}")
    if command == "score" and "executor" not in str(typed):
        wanted = plan(job_of(config))
        if any(one.asked < len(one.missing) for one in wanted):
            raise Other("more is missing than was asked for")


# Images ---------------------------------------------------------------------------------------------------

PIXELS = np.random.RandomState(0).randint(256, size=(10, 32, 32, 3)).astype(np.uint8)
CLASSES = list(range(10))


def _npz(images: Any, labels: Any, pack: Callable = np.savez) -> bytes:
    sink = io.BytesIO()
    pack(sink, images=images, labels=labels)
    return sink.getvalue()


def batch_file() -> dict:
    return {b"data": PIXELS.transpose(0, 3, 1, 2).reshape(10, 3072), b"labels": list(CLASSES), b"batch_label": b"x"}


def images() -> st.SearchStrategy:
    kinds = st.sampled_from(
        ["u1", "i1", "u2", "i8", "u8", "f2", "f4", "f8", "c8", "?", "U3", "S3", "M8[s]", "m8[s]", "V4", "O"]
    )
    shapes = st.sampled_from(
        [(10, 32, 32, 3), (10, 3, 32, 32), (10, 32, 32), (0, 32, 32, 3), (10,), (), (10, 1), (3, 32, 32, 3), (10, 2)]
    )
    filled = st.sampled_from([0, 1, 3, 9, 10, -1, 300])
    one = st.tuples(kinds, shapes, filled)
    sound = st.just(None)
    whole = _npz(PIXELS, np.array(CLASSES))
    return st.one_of(
        st.tuples(st.just("npz"), st.tuples(st.one_of(sound, one), st.one_of(sound, one))),
        st.tuples(st.just("file"), st.just(whole).flatmap(damaged)),
        st.tuples(st.just("file"), st.just(_npz(PIXELS, np.array(CLASSES), np.savez_compressed)).flatmap(damaged)),
        st.tuples(st.just("batch"), altered(batch_file).map(lambda content: pickle.dumps(content, protocol=2))),
        st.tuples(st.just("batch"), st.just(pickle.dumps(batch_file(), protocol=2)).flatmap(damaged)),
        st.tuples(st.just("batch"), programs()),
    )


def _array(made: tuple | None, otherwise: np.ndarray) -> np.ndarray:
    if made is None:
        return otherwise
    kind, shape, value = made
    return np.full(shape, value).astype(kind)


def read_of_images(case: tuple[str, Any], folder: Path) -> None:
    kind, content = case
    if kind == "batch":
        whole = pickle.dumps(batch_file(), protocol=2)
        for number in range(1, 6):
            (folder / f"data_batch_{number}").write_bytes(content if number == 3 else whole)
        load_inputs("cifar10", str(folder), 10, (3, 32, 32)).batch(0, 0, 4)
        return
    expected, labels = PIXELS, np.array(CLASSES)
    if kind == "npz":
        try:
            expected, labels = (_array(one, known) for one, known in zip(content, (expected, labels), strict=True))
        except (TypeError, ValueError):
            return  # numpy itself makes no such array
        content = _npz(expected, labels)
    path = folder / "images.npz"
    path.write_bytes(content)
    source = load_inputs("cifar10", str(path), 10, (3, 32, 32))
    size = len(expected)
    pixels, found = source.batch(0, 0, size)
    mean, deviation = STATISTICS["cifar10"]
    back = pixels.transpose(0, 2, 3, 1) * np.array(deviation, np.float32) + np.array(mean, np.float32)
    pairs = sorted(zip(np.rint(back * 255).astype(int).reshape(size, -1).tolist(), found.tolist(), strict=True))
    if pairs != sorted(zip(expected.astype(int).reshape(size, -1).tolist(), labels.astype(int).tolist(), strict=True)):
        raise Other("the images or labels are others")


# Parts ----------------------------------------------------------------------------------------------------

ROWS = [Row(i, i / 3 if i % 4 else None, 0.25, "ok" if i % 4 else "nan", 1) for i in range(40)]


def parts() -> st.SearchStrategy:
    with tempfile.TemporaryDirectory() as folder:
        part = ScoreStore(folder).append(KEY, ROWS, images="0123456789abcdef")
        name, content = part.name, part.read_bytes()
    odd = [[None], [[1]], [{"a": 1}], [True], [1] * 10_000, ["x" * 10_000] * 50]
    of = [
        st.integers(-(2**63), 2**63 - 1),
        st.floats(),
        st.one_of(st.none(), st.text(max_size=3)),
        st.binary(max_size=3),
    ]
    column = st.one_of(st.sampled_from(odd), *(st.lists(one, max_size=3) for one in of))
    tables = st.fixed_dictionaries({}, optional=dict.fromkeys([*SCHEMA.names, "more"], column))
    metadata = st.dictionaries(st.sampled_from([b"images", b"x"]), st.binary(max_size=4), max_size=1)
    return st.one_of(
        st.tuples(st.just(name), st.just(content).flatmap(damaged)),
        st.tuples(st.just(name), st.just(content).flatmap(damaged)),
        st.tuples(st.just("part-0-0123456789ab.parquet"), st.tuples(tables, metadata)),
        st.tuples(st.just("part-0-0123456789ab.parquet"), st.binary(max_size=100)),
    )


def read_of_part(case: tuple[str, Any], folder: Path) -> None:
    name, content = case
    path = folder / KEY.folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, tuple):
        try:
            length = max((len(column) for column in content[0].values()), default=0)
            whole = {
                key: list(itertools.islice(itertools.cycle(column or [None]), length))
                for key, column in content[0].items()
            }
            table = pa.table(whole).replace_schema_metadata(content[1] or None)
            pq.write_table(table, path)
        except (pa.ArrowException, OverflowError, TypeError, ValueError):
            return  # pyarrow itself makes no such table
        expected = None
    else:
        path.write_bytes(content)
        expected = ROWS
    frame = ScoreStore(folder).read(KEY)
    if expected is None:
        expected_index = sorted({int(index) for index in whole["index"]})
        if frame["index"].tolist() != expected_index or frame["status"].isna().any():
            raise Other("the indices are others")
    elif [(r.index, r.score, r.status) for r in expected] != [
        (i, None if s != s else s, status)
        for i, s, status in zip(frame["index"], frame["score"], frame["status"], strict=True)
    ]:
        raise Other("the rows are others")


CLASSES_OF = {
    "archives": (archives, read_of_archive),
    "cards": (cards, read_of_card),
    "settings": (settings, read_of_setting),
    "images": (images, read_of_images),
    "parts": (parts, read_of_part),
}

#: Of the time: a setting takes three times as long as an image.
SHARES = {"archives": 0.15, "cards": 0.25, "settings": 0.3, "images": 0.1, "parts": 0.2}


# Tries ----------------------------------------------------------------------------------------------------


def _late(*_: object) -> None:
    raise Slow


def attempt(read: Callable[[Any, Path], None], case: Any, folder: Path) -> tuple[str, str]:
    """What came of a try, `refused`, `taken` or a kind of fault, and its words."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    signal.setitimer(signal.ITIMER_PROF, SECONDS)  # of the processor, which others may hold
    signal.setitimer(signal.ITIMER_REAL, 12 * SECONDS)  # of the clock, for what waits; a busy machine makes all wait
    faulthandler.dump_traceback_later(18 * SECONDS, exit=True)  # where no signal is looked at
    try:
        read(case, folder)
        return "taken", ""
    except HarnessError as error:
        reason: BaseException | None = error
        while reason is not None:
            if isinstance(reason, MemoryError):
                return "memory", str(error)[:200]
            reason = reason.__cause__ or reason.__context__
        return ("refused", "") if "\n" not in str(error) and len(str(error)) < 3000 else ("words", str(error)[:300])
    except Other as error:
        return "other", str(error)
    except MemoryError as error:
        return "memory", str(error)
    except Slow:
        return "hang", ""
    except Exception as error:
        return "traceback", f"{type(error).__name__}: {error}"[:300]
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)
        faulthandler.cancel_dump_traceback_later()


def peak_memory() -> int:
    """The most resident memory that this program has had, in bytes (Linux).

    Not `getrusage`: its figure outlives `exec`, so that it counts what a large parent had when it started this.
    """
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))


def fuzz(name: str, seconds: float, seed: int, tries: int | None = None) -> dict[str, Any]:
    """Try for so many seconds, or so often: how often what came of it, and the first faults with their cases."""
    strategy, read = CLASSES_OF[name]
    counts: dict[str, int] = {}
    faults: list[str] = []
    signal.signal(signal.SIGALRM, _late)
    signal.signal(signal.SIGPROF, _late)
    load_benchmark("nasbench201")
    load_benchmark("macro")
    now = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (now + MEMORY, resource.RLIM_INFINITY))
    made = strategy()
    end = time.monotonic() + seconds
    with tempfile.TemporaryDirectory() as root:
        for round_ in itertools.count():

            @hypothesis.seed(seed * 1000 + round_)
            @hypothesis.settings(
                max_examples=50, deadline=None, database=None, suppress_health_check=list(hypothesis.HealthCheck),
                phases=[hypothesis.Phase.generate],
            )  # fmt: skip
            @hypothesis.given(made)
            def once(case: Any) -> None:
                if time.monotonic() > end or (tries is not None and sum(counts.values()) >= tries):
                    return
                kind, words = attempt(read, case, Path(root) / "try")
                counts[kind] = counts.get(kind, 0) + 1
                if kind not in ("taken", "refused") and len(faults) < 10:
                    faults.append(f"{kind}: {words}: {reprlib_of(case)}")

            once()
            if time.monotonic() > end or (tries is not None and sum(counts.values()) >= tries):
                break
    peak = peak_memory()
    if peak > MEMORY:
        faults.append(f"memory: {peak / 1e9:.1f} GB in all")
    return {"class": name, "tries": sum(counts.values()), **counts, "peak_gb": round(peak / 1e9, 2), "faults": faults}


def reprlib_of(case: Any) -> str:
    """A case as text that can be pasted, cut where it is long; one that is shared many times over by its kind."""
    try:
        return _pickled(case).hex()[:4000] if isinstance(case, tuple) and case[0] == "nats" else repr(case)[:2000]
    except (RecursionError, MemoryError):
        return type(case).__name__


def run_apart(name: str, seconds: float, seed: int, tries: str | None = None) -> dict[str, Any]:
    """A class in a process of its own."""
    command = [sys.executable, __file__, name, str(seconds), str(seed), *([tries] if tries else [])]
    done = subprocess.run(command, capture_output=True, text=True, timeout=seconds + 20 * SECONDS, check=False)
    try:
        return json.loads(done.stdout.splitlines()[-1])
    except (IndexError, ValueError):
        return {"class": name, "tries": 0, "faults": [f"exit code {done.returncode}: {done.stderr[-2000:]}"]}


def main(arguments: list[str]) -> int:
    """The command line; exit code 1 where there was a fault."""
    os.environ.setdefault("NAS_HARNESS_BENCHMARKS", "/nonexistent/benchmarks")
    if arguments and arguments[0].split(",")[0] in CLASSES_OF:
        names, seconds, seed, *tries = arguments
        for name in names.split(","):
            print(json.dumps(fuzz(name, float(seconds), int(seed), *map(int, tries))), flush=True)
        return 0
    minutes = float(arguments[0]) if arguments else 10.0
    tries = arguments[1] if len(arguments) > 1 else None
    seed = random.SystemRandom().randrange(10**6)
    print(f"seed {seed}")
    faults = 0
    for name in CLASSES_OF:
        found = run_apart(name, 60 * minutes * SHARES[name], seed, tries)
        faults += len(found["faults"])
        print(", ".join(f"{key} {value}" for key, value in found.items() if key != "faults"), flush=True)
        for fault in found["faults"]:
            print(f"  {fault}")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
