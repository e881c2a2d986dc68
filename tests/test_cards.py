"""Tests of cards of the user's own: what is wrong with one is a line, and everything else works."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml

from harness.benchmarks.benchmark import broken_benchmarks, list_benchmarks, load_benchmark
from harness.benchmarks.card import read_card
from harness.cli import doctor, main
from harness.errors import HarnessError
from harness.paths import data_dir

CELLS = [
    "|nor_conv_3x3~0|+|nor_conv_3x3~0|nor_conv_3x3~1|+|skip_connect~0|nor_conv_3x3~1|nor_conv_3x3~2|",
    "|nor_conv_1x1~0|+|none~0|nor_conv_1x1~1|+|skip_connect~0|none~1|avg_pool_3x3~2|",
]
COLUMNS = {"arch": CELLS, "test": [94.0, 89.5], "few": [True, False]}
CARD = {
    "title": "two cells",
    "space": "nasbench201",
    "rows": 2,
    "encoding": "arch",
    "datasets": {"cifar10": {"classes": 10, "resolution": 32}},
    "default_target": "test",
    "targets": {"cifar10": {"test": "test"}},
}


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """Where the user's benchmarks are."""
    monkeypatch.setenv("NAS_HARNESS_BENCHMARKS", str(tmp_path / "own"))
    return tmp_path / "own"


def write(folder: Path, name: str = "cells", columns: dict[str, Any] = COLUMNS, **changes: Any) -> Path:
    """A benchmark with a card; a change to None leaves a key out. Returns the card."""
    (folder / name).mkdir(parents=True)
    table = folder / name / "accuracies.parquet"
    pd.DataFrame(columns).to_parquet(table)
    card = {**CARD, "sha256": hashlib.sha256(table.read_bytes()).hexdigest(), **changes}
    path = folder / name / "card.yaml"
    path.write_text(yaml.safe_dump({k: v for k, v in card.items() if v is not None}, sort_keys=False))
    return path


def reason(path: Path) -> str:
    """Why a user's benchmark cannot be used."""
    text = str(broken_benchmarks()[path.parent.name])
    assert "\n" not in text
    return text


@pytest.mark.parametrize("card", sorted(data_dir("benchmarks").glob("*/card.yaml")), ids=lambda path: path.parent.name)
def test_embedded_cards_fit_the_schema(card):
    assert read_card(card) == yaml.safe_load(card.read_text(encoding="utf-8"))


def test_a_card_of_ones_own_is_listed(folder, capsys):
    write(folder)
    assert list_benchmarks()["cells"] == "two cells"
    assert broken_benchmarks() == {}
    assert load_benchmark("cells").accuracies("cifar10").tolist() == [94.0, 89.5]
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("bounds", "expected"), [({"least": 89.5, "most": 94}, [0, 1]), ({"most": 93.9}, [1]), ({"least": 90}, [0])]
)
def test_a_population_is_given_by_bounds(bounds, expected, folder):
    write(folder, populations={"few": {"column": "test", "text": "x", **bounds}})
    assert broken_benchmarks() == {}
    assert load_benchmark("cells").population("few").tolist() == expected


def test_a_number_that_is_missing_is_within_no_bounds(folder):
    columns = {**COLUMNS, "size": [1.0, None]}
    write(folder, columns=columns, populations={"few": {"column": "size", "text": "x", "least": 0}})
    assert load_benchmark("cells").population("few").tolist() == [0]


TEXTS = {
    "nothing": (b"", r"card\.yaml: a card is made of keys"),
    "a list": (b"- a\n", r"card\.yaml: a card is made of keys"),
    "no end": (b"title: x\nspace: [\n", r"card\.yaml:3 is no YAML"),
    "an alias": (b"title: &a x\nspace: *a\n", r"card\.yaml:2 is no YAML \(aliases are not read\)"),
    "deep": (b"title: " + b"[" * 30_000, r"card\.yaml is no YAML"),
    "long": (b"title: " + b"x" * 2**18, r"card\.yaml has more than"),
    "no text": (b"\xff\xfe\0", r"card\.yaml is no YAML"),
    "a date that is none": (b"title: 2020-13-45\n", r"card\.yaml is no YAML"),
    "a number of thousands of digits": (b"rows: " + b"9" * 5000, r"card\.yaml is no YAML"),
    "an object": (b"title: !!python/object:os.system {}\n", r"card\.yaml:1 is no YAML"),
    "a key twice": (b"title: x\nspace: y\ntitle: z\n", r"card\.yaml:3: 'title' is there twice"),
    "a key of another kind": (b"title: x\n1: y\n", r"card\.yaml:2: a key that is no text"),
    "two documents": (b"title: x\n---\ntitle: y\n", r"card\.yaml:2 is no YAML"),
}


@pytest.mark.parametrize("name", TEXTS)
def test_what_is_no_card_is_named_by_file_and_line(name, folder):
    path = write(folder)
    path.write_bytes(TEXTS[name][0])
    with pytest.raises(HarnessError, match=TEXTS[name][1]):
        load_benchmark("cells")
    reason(path)


TABLE = {"sha256": "0", "dataset": "cifar10", "figures": []}
CHANGES = {
    "title": [None, "", 1, [], {"a": 1}],
    "space": [None, "nope", 3, []],
    "rows": [None, 3, 0, -1, 2.0, True, "2", 10**12],
    "sha256": ["0" * 64, 5],
    "encoding": ["nope", "test", ["arch", "test"], 1, {}],
    "datasets": [
        None,
        {},
        [],
        {"cifar10": 10},
        {"cifar10": {"classes": 10}},
        {"cifar10": {"classes": 0, "resolution": 1}},
    ],
    "default_target": [None, "nope", 1],
    "targets": [
        {"cifar100": {"test": "test"}},
        {"cifar10": {"test": "nope"}},
        {"cifar10": {"test": "arch"}},
        [],
        "test",
    ],
    "units": [{"cifar100": "ms"}, "ms"],
    "network": [{"channels": 16}, [], {"channels": {}}],
    "tables": [
        {"other.parquet": TABLE},
        {"../x.parquet": TABLE},
        {"x.parquet": {}},
        {"x.parquet": {**TABLE, "figures": [{"kind": "a", "unit": "b", "better": "best", "columns": []}]}},
    ],
    "populations": [
        {"few": {"column": "test", "text": "x"}},
        {"few": {"column": "few"}},
        [],
        {"few": {"column": "arch", "text": "x", "least": 1}},
        {"few": {"column": "test", "text": "x", "most": "1"}},
    ],
    "same_as": ["nope", "cells", 1],
    "scores_of": ["nope", "nasbench201", []],
    "known_values": [[1], {"a": 1}, [{"dataset": "cifar10"}]],
    "datsets": [{}],
    "notes": [1.5],
}


@pytest.mark.parametrize(
    ("key", "place"), [(key, place) for key, values in CHANGES.items() for place in range(len(values))]
)
def test_a_mistake_in_a_card_is_a_warning(key, place, folder, capsys):
    path = write(folder, **{key: CHANGES[key][place]})
    if CHANGES[key] == [{"other.parquet": TABLE}]:
        (path.parent / "other.parquet").touch()
    write(folder, "sound")
    names = list_benchmarks()
    assert "cells" not in names
    assert "sound" in names
    (line,) = capsys.readouterr().err.splitlines()
    assert line == f"harness: warning: a benchmark is left out: {reason(path)}"
    assert str(path.parent) in line
    list_benchmarks()
    assert capsys.readouterr().err == ""  # it is said once
    assert main(["score", "benchmark=cells", "proxies=[flops]", f"store={folder / 'scores'}"]) == 2
    assert capsys.readouterr().err == f"harness: {reason(path)}\n"


@pytest.mark.parametrize("values", [[101.0, 1.0], [-0.1, 1.0], [float("inf"), 1.0], ["a", "b"]])
def test_accuracies_that_are_none_are_refused(values, folder):
    assert "test" in reason(write(folder, columns={**COLUMNS, "test": values}))


def test_encodings_that_are_none_are_refused(folder):
    assert "no value in 1 rows" in reason(write(folder, columns={**COLUMNS, "arch": [CELLS[0], None]}))
    assert "is not a NAS-Bench-201 cell" in reason(write(folder, "other", columns={**COLUMNS, "arch": ["x", "y"]}))


def test_a_table_that_is_gone_or_none_is_refused(folder):
    (write(folder).parent / "accuracies.parquet").unlink()
    path = write(folder, "none", sha256=hashlib.sha256(b"PAR1").hexdigest())
    (path.parent / "accuracies.parquet").write_bytes(b"PAR1")
    os.mkfifo(write(folder, "pipe").with_name("card.yaml.new"))
    os.replace(folder / "pipe" / "card.yaml.new", folder / "pipe" / "card.yaml")
    broken = broken_benchmarks()
    assert "is missing" in str(broken["cells"])
    assert "is no Parquet file" in str(broken["none"])
    assert "a pipe" in str(broken["pipe"])


def test_a_mended_card_is_read_again(folder):
    path = write(folder, rows=3)
    assert "rows is 3" in reason(path)
    path.write_text(path.read_text().replace("rows: 3", "rows: 2"))
    os.utime(path, (1, 1))
    assert "cells" in list_benchmarks()


def test_commands_go_on_beside_a_bad_card(folder, tmp_path, capsys):
    write(folder, rows=3)
    assert main(["list", "benchmarks"]) == 0
    assert main(["list", "targets"]) == 0
    assert main(["score", "benchmark=macro", "proxies=[flops]", "limit=2", f"store={tmp_path / 'scores'}"]) == 0
    findings = {finding.subject: finding for finding in doctor._benchmarks()}
    assert findings["benchmark cells"].verdict == "FAILS"
    assert findings["benchmark macro"].verdict == "ok"
    assert "Traceback" not in capsys.readouterr().err


# Scores of another benchmark ------------------------------------------------------------------------------


def whole(folder: Path, name: str, cells: list[str], **changes: Any) -> Path:
    columns = {"arch": cells, "test": [50.0] * len(cells)}
    return write(folder, name, columns, rows=len(cells), scores_of="nasbench201", **changes)


def test_scores_are_shared_where_the_encodings_are_equal(folder):
    cells = list(load_benchmark("nasbench201").architectures)
    whole(folder, "same", cells)
    assert load_benchmark("same").scores_of == "nasbench201"
    swapped = [cells[1], cells[0], *cells[2:]]
    assert "other encodings, or the order of them" in reason(whole(folder, "swapped", swapped))
    other = {"cifar10": {"classes": 100, "resolution": 32}}
    assert "other networks on cifar10" in reason(whole(folder, "classes", cells, datasets=other))
    assert "other numbers of architectures" in reason(whole(folder, "fewer", cells[:-1]))
    inherited = dict.fromkeys(["sha256", "encoding", "targets", "default_target", "rows"])
    twin = write(folder, "twin", same_as="nats_tss", datasets=other, **inherited)
    assert "other networks on cifar10" in reason(twin)
    write(folder, "under_another_name", same_as="nats_tss", datasets=None, **inherited)
    assert load_benchmark("under_another_name").scores_of == "nasbench201"


def test_a_name_of_the_package_is_no_way_to_its_scores(folder):
    """An imported table stands in for an embedded selection: under that name the scores are the package's."""
    cells = list(load_benchmark("nats_sss").architectures)
    path = write(
        folder, "nats_sss", {"arch": cells[::-1], "test": [50.0] * len(cells)}, space="nats_sss", rows=len(cells)
    )
    assert "cannot share the scores of nats_sss" in reason(path)
    assert load_benchmark("nats_sss").folder == data_dir("benchmarks") / "nats_sss"


def test_an_imported_name_of_the_package_does_not_lead_in_a_circle(folder):
    write(folder, "nats_tss")
    assert load_benchmark("nats_tss").scores_of == "nasbench201"
    write(folder, "a", same_as="b")
    write(folder, "b", same_as="a")
    assert set(broken_benchmarks()) == {"nats_tss", "a", "b"}
