"""Tests of archives that somebody forged, or that hold other figures than they say: refused in a line, in no time."""

from __future__ import annotations

import bz2
import json
import math
import os
import pickle
import shutil
import time
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_importers import DATA, FOLDERS, nasbench201_file, nds_training, tfrecords

from harness.benchmarks import importers
from harness.benchmarks.importers import check_archive, import_archive, read_archive, safe
from harness.cli import main
from harness.errors import HarnessError


@pytest.fixture(autouse=True)
def imported(tmp_path, monkeypatch) -> Path:
    """The folder that imports are written to, empty."""
    folder = tmp_path / "imported"
    monkeypatch.setenv("NAS_HARNESS_BENCHMARKS", str(folder))
    return folder


@pytest.fixture(autouse=True)
def soon():
    """No test here may take as long as a hang would."""
    started = time.monotonic()
    yield
    assert time.monotonic() - started < 60


@pytest.fixture
def sizes(tmp_path) -> Path:
    """A copy of the sample of the size space."""
    return Path(shutil.copytree(DATA / FOLDERS["nats_sss"], tmp_path / FOLDERS["nats_sss"]))


def refused(call: Any, *arguments: Any, **options: Any) -> str:
    """The one line of the refusal."""
    with pytest.raises(HarnessError) as caught:
        call(*arguments, **options)
    text = str(caught.value)
    assert "\n" not in text
    assert len(text) < 700
    return text


# Pickles --------------------------------------------------------------------------------------------------

SPOILED = b"cnumpy.core.multiarray\nscalar\n(dX\x0c\0\0\0__defaults__N)sb."
PICKLES = {
    "lists without end": (b"]" * 4_000_000 + b".", "more objects"),
    "sets without end": (b"\x8f" * 4_000_000 + b".", "more objects"),
    "names without end": (b"N" + b"\x94" * 4_000_000 + b".", "more objects"),
    "tuples of the same tuple": (b"}N" + b"2\x86" * 60 + b"Ns.", "tuples of tuples"),
    "bytes of a size that it states": (b"\x96" + (2**40).to_bytes(8, "little") + b"abc.", "no such file takes"),
    "an integer of many digits": (b"I" + b"9" * 3000 + b"\n.", "more than 64 bits"),
    "an integer of many bytes": (b"\x8a\xff" + b"\x7f" * 255 + b".", "more than 64 bits"),
    "a state of a function": (SPOILED, "damaged"),
    "a call of what is none": (b"N)R.", "a call of what is no function"),
    "a scalar of what is no type": (b"cnumpy.core.multiarray\nscalar\n(NC\x01aTR.", "damaged"),
    "an extension": (b"\x82\x01.", "no such file takes"),
    "a class's own way": (b"ccollections\nOrderedDict\n)\x81.", "no such file takes"),
    "nothing": (b"", "damaged"),
}


@pytest.mark.parametrize("name", PICKLES)
def test_a_forged_pickle_is_refused(name):
    content, words = PICKLES[name]
    assert words in refused(safe.unpickle, b"\x80\x04" + content, Path("x"))
    assert safe.scalar.__defaults__ is None


def test_a_place_far_off_in_the_memo_takes_no_memory():
    assert safe.unpickle(b"\x80\x02Nr\xff\xff\xff\x0f.", Path("x")) is None


def test_deep_lists_are_read_and_let_go():
    assert safe.unpickle(b"\x80\x04" + b"]" * 40_000 + b"a" * 39_999 + b".", Path("x"))


def test_a_torch_file_is_read_without_torch(tmp_path):
    content = {"a": [1, 2.5, None, True], "b": OrderedDict(c=np.float64(0.5)), "set": {1, 2}, "of": (3, "x")}
    for zipped in (True, False):
        path = tmp_path / f"{zipped}.pth"
        torch.save(content, path, _use_new_zipfile_serialization=zipped)
        assert safe.load_torch(path) == {**content, "b": OrderedDict(c=0.5)}
        torch.save({"weights": torch.nn.Linear(2, 2).state_dict()}, path, _use_new_zipfile_serialization=zipped)
        assert isinstance(safe.load_torch(path)["weights"]["bias"], safe.Unread)


@pytest.mark.parametrize("place", [0.5, 0.9])
def test_a_flipped_bit_of_a_torch_file_is_told(place, tmp_path):
    path = tmp_path / "x.pth"
    torch.save({"figures": [float(i) for i in range(1000)]}, path)
    content = bytearray(path.read_bytes())
    content[int(place * len(content) * 0.9)] ^= 4
    path.write_bytes(content)
    assert "truncated or damaged" in refused(safe.load_torch, path)


@pytest.mark.parametrize("size", [b"\x95", b"\x8e", b"\x8d"])
def test_a_size_that_a_file_states_makes_no_room(size, tmp_path):
    path = tmp_path / "x.pth"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x/data.pkl", b"\x80\x04" + size + (2**40).to_bytes(8, "little") + b"abc.")
    assert "truncated or damaged" in refused(safe.load_torch, path)


def test_a_torch_file_that_swells_is_refused(tmp_path):
    path = tmp_path / "x.pth"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x/data.pkl", b"\x80\x02" + b"N0" * 5_000_000 + b"N.")
    assert "its content is compressed" in refused(safe.load_torch, path)


# Kinds of file --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["pipe", "device"])
def test_a_record_that_is_no_file_is_refused(kind, sizes):
    record = sizes / "000011.pickle.pbz2"
    record.unlink()
    if kind == "pipe":
        os.mkfifo(record)
    else:
        record.symlink_to("/dev/zero")
    assert "000011.pickle.pbz2 is a folder, a pipe or a device" in refused(read_archive, "nats_sss", sizes, True)


@pytest.mark.parametrize("name", ["nasbench201", "nasbench101", "nasbench301", "nds"])
def test_an_archive_that_is_no_file_is_refused(name, tmp_path):
    pipe = tmp_path / "DARTS.json"
    os.mkfifo(pipe)
    refused(read_archive, name, pipe)
    pipe.unlink()
    pipe.symlink_to("/dev/zero")
    refused(read_archive, name, pipe)


@pytest.mark.parametrize("path", ["~nosuchuser/x", "x" * 300, "x/" * 3000, "a\0b", "/proc/self/mem"])
def test_paths_that_are_none_get_one_line(path, capsys):
    assert main(["import", "nds", path]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert len(line) < 600


# What JSON may swell to -----------------------------------------------------------------------------------

NUMBER = "9" * 4000
TEXTS = {
    "lists in lists": "[" * 100_000,
    "lists without end": "[" + "[]," * 2_000_000 + "[]]",
    "an integer of thousands of digits": json.dumps([nds_training()]).replace('"rng_seed": 1', f'"rng_seed": {NUMBER}'),
    "null for a figure": json.dumps([nds_training(params=None)]),
    "infinity for an error": json.dumps([nds_training(min_test_top1=math.inf)]),
    "a figure of text": json.dumps([nds_training(flops="many")]),
    "a genotype of lists": json.dumps([nds_training(net={"genotype": [[[[1]]]], "width": 1, "depth": 1})]),
    "ends that are none": json.dumps({"top": 1, "mid": None}),
    "null": "null",
}


@pytest.mark.parametrize("name", TEXTS)
def test_other_json_is_refused(name, tmp_path):
    path = tmp_path / "DARTS.json"
    path.write_text(TEXTS[name], encoding="utf-8")
    refused(read_archive, "nds", path)
    other = tmp_path / "zc_nasbench301.json"
    other.write_text(TEXTS[name], encoding="utf-8")
    refused(read_archive, "nasbench301", other)


RECORDS = {
    "lists in lists": b"[" * 60_000,
    "an integer of thousands of digits": b'["a", ' + NUMBER.encode() + b', "0", "input,output", ""]',
    "infinite epochs": b'["a", Infinity, "0", "input,output", ""]',
    "null": b"null",
}


@pytest.mark.parametrize("name", RECORDS)
def test_other_records_are_refused(name, tmp_path, monkeypatch):
    monkeypatch.setattr(json, "dumps", lambda record: record.decode())
    path = tfrecords(tmp_path / "x.tfrecord", [RECORDS[name]])
    assert "record 0 is no training of NAS-Bench-101" in refused(read_archive, "nasbench101", path)


# Figures that are none ------------------------------------------------------------------------------------


def rewrite(folder: Path, change: Any) -> None:
    """Change record 11 of an archive of the size space."""
    path = folder / "000011.pickle.pbz2"
    record = safe.unpickle_bz2(path)
    path.write_bytes(bz2.compress(pickle.dumps(change(record) or record)))


def figure(value: Any, key: str = "eval_acc1es", entry: str = "ori-test@89") -> Any:
    def change(record: dict) -> None:
        record["90"]["all_results"]["cifar10", 777][key][entry] = value

    return change


def of_training(key: str, value: Any) -> Any:
    def change(record: dict) -> None:
        record["90"]["all_results"]["cifar10", 777][key] = value

    return change


def shared_list() -> list:
    nested: list = []
    for _ in range(60):
        nested = [nested, nested]
    return nested


def named(value: Any) -> Any:
    def change(record: dict) -> None:
        record["90"]["arch_str"] = value

    return change


CHANGES = {
    "infinity": (figure(math.inf), "an accuracy of inf on 'cifar10', seed 777, no percentage"),
    "a billion": (figure(1e9), "an accuracy of 1000000000.0"),
    "below zero": (figure(-0.1), "an accuracy of -0.1"),
    "NaN": (figure(math.nan), "an accuracy of nan"),
    "text": (figure("85.77"), "an accuracy of '85.77'"),
    "an accuracy in training": (figure(101.0, "train_acc1es", 3), "an accuracy of 101.0"),
    "swapped trainings": (lambda r: {**r, "90": r["12"], "12": r["90"]}, "a training of .* epochs .* in the place of"),
    "one training of other epochs": (of_training("epochs", 12), "a training of 12 epochs on 'cifar10', seed 777"),
    "another dataset": (of_training("name", "cifar100"), "a training on 'cifar100'"),
    "another seed": (of_training("seed", 888), "seed 888, in the place of"),
    "parameters below zero": (of_training("params", -1.0), "params of -1.0"),
    "epochs without end": (of_training("epochs", 10**15), "epochs on 'cifar10'"),
    "a list of the same list": (named(shared_list()), "is of 11, a value of type list: .* mixed up"),
    "no trainings": (lambda r: r["90"].update(all_results={}), "has no trainings"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_figures_that_are_none_are_refused(name, sizes):
    change, words = CHANGES[name]
    rewrite(sizes, change)
    with pytest.raises(HarnessError, match=words):
        read_archive("nats_sss", sizes, partial=True)


def test_swapped_trainings_of_nasbench201_are_refused(tmp_path):
    path = nasbench201_file(tmp_path / "x.pth", [3])
    data = torch.load(path, weights_only=False)
    record = data["arch2infos"][3]
    record["less"], record["full"] = record["full"], record["less"]
    torch.save(data, path)
    assert "a training of 200 epochs" in refused(read_archive, "nasbench201", path, partial=True)
    torch.save({**data, "arch2infos": {}}, path)
    assert "holds no records" in refused(check_archive, "nasbench201", path)
    torch.save({**data, "meta_archs": []}, path)
    assert "does not list" in refused(check_archive, "nasbench201", path)


def test_the_list_of_architectures_alone_is_no_archive(sizes):
    for record in sizes.glob("0*"):
        record.unlink()
    assert "holds no record" in refused(check_archive, "nats_sss", sizes)
    assert "incomplete" in refused(import_archive, "nats_sss", sizes)


def test_figures_other_than_the_embedded_are_counted(capsys, monkeypatch):
    (table,) = read_archive("nats_tss", DATA / FOLDERS["nats_tss"], partial=True)
    monkeypatch.setattr(importers, "read_archive", lambda *_: [table])
    import_archive("nats_tss", "x")
    assert capsys.readouterr().err == ""
    table.columns.loc[11, ["cifar100_test_200ep", "cifar10_valid_12ep"]] += 0.1
    import_archive("nats_tss", "x")
    assert capsys.readouterr().err == (
        "harness: warning: figures of 1 of 3 architectures differ from those embedded of nats_tss: `harness import "
        "--check` lists them\n"
    )
