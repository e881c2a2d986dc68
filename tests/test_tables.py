"""Tests of the papers' tables: `harness report` reads stored scores and computes none."""

from __future__ import annotations

import contextlib
import csv
import io
import math
import os
import re
import shlex
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

import harness
from harness import cli
from harness.benchmarks.benchmark import list_benchmarks, load_benchmark
from harness.cli.quote import quoted
from harness.config import choices, compose_config, load_option
from harness.engine.store import Row, ScoreKey, ScoreStore
from harness.errors import HarnessError, UnknownNameError
from harness.proxies import get_proxy
from harness.rankings.aggregates import find_aggregate
from harness.rankings.learned import LEARNED
from harness.tables import cells, overview
from harness.tables.build import _build_all, _build_texts, build_tables
from harness.tables.cells import (
    COLUMNS,
    SLACK,
    Cell,
    Place,
    Published,
    interval_text,
    is_on,
    list_tables,
    load_table,
    place_of,
    read_published,
    retarget,
    to_csv,
    with_stand_ins,
)
from harness.tables.measure import Measurements, split_dataset
from harness.tables.papers import table_cells, to_sheet
from harness.tables.sheet import to_markdown

ROOT = Path(harness.__file__).resolve().parents[1]
BENCHMARK = load_benchmark("nasbench201")
DATASETS = ("cifar10", "cifar100", "ImageNet16-120")
NUMBERS = ("ours", "ci_low", "ci_high", "published", "delta")


class Done(NamedTuple):
    code: int
    out: str
    err: str


def command(*arguments: str) -> Done:
    """`harness …` in this process."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = cli.main(list(arguments))
    return Done(code, out.getvalue(), err.getvalue())


def rows_of(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(path.read_text(encoding="utf-8"))))


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Path:
    """The counts of all cells with no dead operation, and nothing else."""
    root = tmp_path_factory.mktemp("counts") / "scores"
    for dataset in DATASETS:
        done = command(
            "score",
            f"dataset={dataset}",
            "proxies=[flops,params,trainable_layers]",
            "population=no_dead_ops",
            f"store={root}",
        )
        assert done.code == 0
        # The number of layers is that of CIFAR-10 on CIFAR-100 too: images of one size, and it reads no classes.
        assert f"{'18,890' if dataset == 'cifar100' else '28,335'} scores computed" in done.out
    return root


@pytest.fixture(scope="module")
def report(store, tmp_path_factory) -> tuple[Done, list[dict[str, str]], Path]:
    """VKDNW's table from these counts: what was printed, its rows, its folder."""
    output = tmp_path_factory.mktemp("tables")
    done = command("report", "table=vkdnw_table1", f"store={store}", f"output={output}", "missing=true")
    return done, rows_of(output / "vkdnw_table1.csv"), output


def small(*rows: str, **settings: Any) -> list[str]:
    """Overrides that make of VKDNW's table a small one."""
    settings = {"datasets": "[cifar10]", "metrics": "[kendall]", "resamples": 30, **settings}
    named = ",".join(f"{{proxy: '{row}'}}" for row in rows)
    return ["table=vkdnw_table1", f"table.rows=[{named}]", *(f"table.{k}={v}" for k, v in settings.items())]


# The file ---------------------------------------------------------------------------------------------------


def test_stand_ins_add_a_row_behind_each_that_reads_what_they_stand_in_for():
    """A member counts where it stands alone: one with settings of its own is another proxy."""
    one = "{members: {synflow: 'snip:norm=all'}, benchmarks: [nasbench201/cifar100], label: '(snip)', note: quicker}"
    rows = "{proxy: synflow, note: theirs}, {proxy: 'rank_sum(flops, synflow)', label: both, published: FLOPs}"
    others = "{proxy: 'synflow:repeats=2'}, {proxy: logsynflow}, {proxy: synflow, benchmarks: [nasbench101]}"
    settings = [f"table.rows=[{rows}, {others}]", f"table.stand_ins=[{one}]"]
    table = with_stand_ins(compose_config("report", ["table=vkdnw_table1", *settings]).table)
    added = [(at, row) for at, row in enumerate(table.rows) if list(row.benchmarks) == ["nasbench201/cifar100"]]
    assert [(at, row.proxy, row.label, row.published, row.note) for at, row in added] == [
        (1, "snip:norm=all", "synflow (snip)", "synflow", "theirs; quicker"),
        (3, "rank_sum(flops, snip:norm=all)", "both (snip)", "FLOPs", "quicker"),
    ]
    assert len(table.rows) == 7
    assert with_stand_ins(table) == table


def test_columns_and_rows(report):
    done, rows, output = report
    assert done.code == 0
    written = sorted(path.name for path in output.iterdir())
    assert written == [f"vkdnw_table1.{kind}" for kind in ("csv", "html", "md", "tex")]
    text = (output / "vkdnw_table1.csv").read_text(encoding="utf-8")
    assert text.splitlines()[0] == ",".join(COLUMNS)
    assert "\r" not in text
    table = load_table("vkdnw_table1")
    expected = [
        (row.label or row.proxy, dataset, metric)
        for dataset in table.datasets
        for row in table.rows
        if not row.benchmarks or f"nasbench201/{dataset}" in row.benchmarks
        for metric in table.metrics
    ]
    assert [(row["proxy"], row["dataset"], row["metric"]) for row in rows] == expected
    assert len(set(expected)) == len(expected) == 3 * sum(len(row.benchmarks) or 3 for row in table.rows)


def test_figures(report):
    """What VKDNW's Table 1 prints for the counts."""
    _, rows, _ = report
    found = {(row["proxy"], row["dataset"], row["metric"]): row for row in rows}
    for dataset, tau in zip(DATASETS, (0.623, 0.588, 0.547), strict=True):
        row = found["flops", dataset, "kendall"]
        assert row["n"] == "9445"
        assert float(row["ours"]) == pytest.approx(tau, abs=0.001)
        assert float(row["published"]) == pytest.approx(tau, abs=0.0031)
    row = found["trainable_layers", "cifar10", "ndcg_1000"]
    assert float(row["ours"]) == pytest.approx(0.671, abs=0.006)
    assert row["published"] == "0.671"
    for name in ("flops", "trainable_layers"):
        for dataset in DATASETS:
            for metric in ("kendall", "spearman", "ndcg_1000"):
                assert found[name, dataset, metric]["agrees"] == "yes"


def test_intervals_and_agreement_follow_from_the_figures(report):
    _, rows, _ = report
    computed = [row for row in rows if row["ours"] != "not computed"]
    assert {row["proxy"] for row in computed} >= {"flops", "trainable_layers"}
    for row in computed:
        ours, low, high, published, delta = (float(row[name]) for name in NUMBERS)
        assert low < ours < high
        assert high - low < 0.08
        assert delta == pytest.approx(ours - published, abs=1e-4)
        if min(abs(published - low + SLACK), abs(published - high - SLACK)) > 1e-4:
            assert row["agrees"] == ("yes" if low - SLACK <= published <= high + SLACK else "no")
    assert SLACK == 0.02


def test_rows_without_scores(report):
    done, rows, _ = report
    lacking = [row for row in rows if row["n"] == "0"]
    assert {row["proxy"] for row in lacking} >= {"synflow", "vkdnw_agg", "random forest: VKDNW", "az_nas"}
    assert not {row["proxy"] for row in lacking} & {"flops", "trainable_layers"}
    for row in lacking:
        assert row["ours"] == "not computed"
        assert row["ci_low"] == row["ci_high"] == row["delta"] == row["agrees"] == ""
        assert row["note"].startswith("not computed")
    printed = read_published()
    for row in rows:
        assert row["published"] or row["proxy"] == "gradsign"
    place = ("VKDNW (CVPR 2025)", "Table 1", "nasbench201", "cifar10", "SynFlow", "kendall")
    assert float(
        next(r for r in lacking if (r["proxy"], r["metric"]) == ("synflow", "kendall"))["published"]
    ) == pytest.approx(printed[place], abs=5e-4)
    computed = len(rows) - len(lacking)
    assert f"{computed} of {len(rows)} figures computed" in done.out


def missing_commands(done: Done) -> list[list[str]]:
    lines = [line.strip() for line in done.err.splitlines()]
    assert all(line.startswith("missing: harness score ") for line in lines)
    return [shlex.split(line)[2:] for line in lines]


def test_what_is_missing_is_printed_as_commands(report, store):
    commands = missing_commands(report[0])
    asked: dict[str, set[str]] = {}
    for arguments in commands:
        assert arguments[0] == "score"
        settings = dict(argument.split("=", 1) for argument in arguments[1:])
        assert settings["benchmark"] == "nasbench201"
        assert settings["store"] == str(store)
        assert settings["seed"] == "0"
        assert settings["population"].startswith("no_dead_ops")
        kinds = {get_proxy(name).inputs for name in settings["proxies"].strip("[]").split(",")}
        if "inputs" in settings:
            assert settings["inputs"] == settings["dataset"]
            assert kinds <= {"images"} | {"random"}
        asked.setdefault(settings["dataset"], set()).update(settings["proxies"].strip("[]").split(","))
    assert set(asked) == set(DATASETS)
    for names in asked.values():
        assert names >= {"synflow", "snip", "az_expressivity", "ntk", "nregions", "vkdnw_decile:k=9"}
        assert not names & {"flops", "params", "trainable_layers"}


def test_a_report_ends_with_three_lines(report, store, tmp_path):
    def last(*more: str) -> list[str]:
        done = command("report", *more, f"store={store}", f"output={tmp_path}")
        assert (done.code, done.err) == (0, "")
        return done.out.splitlines()[-3:]

    counted, missing, following = last("table=vkdnw_table1")
    assert re.fullmatch(
        r"1 table in .*, \d+ of 204 figures computed, \d+ of \d+ published ones agree, from .*", counted
    )
    commands = len(missing_commands(report[0]))
    assert re.fullmatch(
        rf"\d+ figures lack scores, which {commands} commands compute \(missing=true lists them\)", missing
    )
    assert following.startswith(f"next: open {tmp_path / 'vkdnw_table1.html'}, ")
    assert last(*small("flops"))[1] == "no score is missing"


def test_commands_that_name_a_store_of_any_name_can_be_pasted(tmp_path, monkeypatch):
    store = tmp_path / "my scores of größe, (1)=$x"
    done = command("report", *small("sed"), f"store={store}", f"output={tmp_path / 'ö ü'}", "missing=true")
    assert done.code == 0
    ((_, *arguments),) = missing_commands(done)
    assert command("score", *arguments, "limit=3", "device=cpu").code == 0
    assert [key.proxy for key in ScoreStore(store).keys()] == ["sed"]  # noqa: SIM118
    assert len(list((tmp_path / "ö ü").iterdir())) == 4


def test_the_printed_commands_are_understood(report):
    """Each is one that can be given as it stands, once DATA names the images."""
    for arguments in missing_commands(report[0]):
        config = compose_config("score", [quoted(argument) for argument in arguments[1:]])
        assert len(config.proxies) > 3
        BENCHMARK.population(config.population)


def test_a_printed_command_completes_the_table(tmp_path):
    """From an empty store by way of the command to a table that lacks nothing."""
    overrides = [
        *small("flops", "log_rank_sum(params, flops)", populations='["no_dead_ops.sample(200, seed=3)"]'),
        f"store={tmp_path / 'scores'}",
        f"output={tmp_path / 'tables'}",
        "strict=true",
        "missing=true",
    ]
    first = command("report", *overrides)
    assert first.code == 1
    assert {row["ours"] for row in rows_of(tmp_path / "tables" / "vkdnw_table1.csv")} == {"not computed"}
    (arguments,) = missing_commands(first)
    assert command(*arguments).code == 0
    second = command("report", *overrides)
    assert second.code == 0
    assert second.err == ""
    rows = rows_of(tmp_path / "tables" / "vkdnw_table1.csv")
    assert [row["n"] for row in rows] == ["200", "200"]
    assert all(0.4 < float(row["ours"]) < 0.8 for row in rows)


@pytest.mark.parametrize("cores", [1, 2])
def test_a_leaderboard_is_the_same_beside_other_tables_or_behind_them(store, monkeypatch, cores):
    """On two cores it has a process of its own, which gives the same figures and texts."""
    small_ones = ["table.datasets=[nasbench201/cifar10]", "table.resamples=20", "table.rows=[{proxy: flops}]"]
    names = ("leaderboard", "vkdnw_table1")
    tables = [compose_config("report", [f"table={name}", *small_ones]).table for name in names]
    measurements = Measurements(ScoreStore(store))
    expected = {table.name: _build_texts(table, measurements) for table in tables}
    monkeypatch.setattr("harness.tables.build.usable_cores", lambda: cores)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    found = {table.name: (cells, texts) for table, cells, texts in _build_all(tables, Measurements(ScoreStore(store)))}
    assert [*found] == ["vkdnw_table1", "leaderboard"]
    for name in names:
        assert found[name][1] == expected[name][1]
        assert repr(found[name][0]) == repr(expected[name][0])  # a NaN is no longer itself behind a pickle
    assert "0.62" in found["leaderboard"][1]["md"]


def test_two_runs_write_the_same_bytes(report, store, tmp_path):
    """And a figure depends neither on the other rows without its members, nor on the other datasets."""
    written = []
    for place in ("a", "b"):
        overrides = small("flops", "trainable_layers", metrics="[kendall,spearman,ndcg_1000]", resamples=1000)
        done = command("report", *overrides, f"store={store}", f"output={tmp_path / place}")
        assert done.code == 0
        written.append({path.name: path.read_bytes() for path in (tmp_path / place).iterdir()})
    assert written[0] == written[1]
    assert len(written[0]) == 4
    _, rows, _ = report
    ours = rows_of(tmp_path / "a" / "vkdnw_table1.csv")
    kept = ("proxy", "dataset", "metric", "n", "ours", "ci_low", "ci_high")
    full = [tuple(row[k] for k in kept) for row in rows]
    assert all(tuple(row[k] for k in kept) in full for row in ours)


def test_markdown(report):
    done, rows, output = report
    text = (output / "vkdnw_table1.md").read_text(encoding="utf-8")
    assert text.startswith("# VKDNW Table 1 on NAS-Bench-201\n")
    assert text.rstrip() in done.out
    assert [line for line in text.splitlines() if line.startswith("## ")] == [f"## {d}" for d in DATASETS]
    lines = [line for line in text.splitlines() if line.startswith("| flops |")]
    assert len(lines) == 3
    first = {row["metric"]: row for row in rows if (row["proxy"], row["dataset"]) == ("flops", "cifar10")}
    cells = [cell.strip() for cell in lines[0].strip("|").split("|")]
    assert cells[:3] == ["flops", "9445", "none"]
    for cell, metric in zip(cells[3:6], ("kendall", "spearman", "ndcg_1000"), strict=True):
        ours, rest = cell.split(" [")
        assert float(ours) == pytest.approx(float(first[metric]["ours"]), abs=5.1e-4)
        assert rest.endswith(f"] / {first[metric]['published']}")
    forest = [line for line in text.splitlines() if line.startswith("| random forest: GRAF |")]
    disagreeing = [r for r in rows if r["proxy"] == "random forest: GRAF" and r["agrees"] == "no"]
    assert sum(line.count("] ≠ ") for line in forest) == len(disagreeing)


def test_architectures_without_a_score_rank_last_or_are_left_out(tmp_path):
    """As the table says, or the row in its place; the note says how many, and n how many are left."""
    population = BENCHMARK.population(SAMPLE)
    accuracies = BENCHMARK.accuracies("cifar10").to_numpy()
    members = representatives(SAMPLE)
    best = members[np.argsort(accuracies[members])[-5:]]
    append(tmp_path, "synflow", {int(i): None if i in best else float(accuracies[i]) for i in members})
    failed = int(np.isin(BENCHMARK.representatives[population], best).sum())
    for of_table, of_row, whose, n in (
        (False, None, "ranked last", 40),
        (True, None, "left out", 40 - failed),
        (False, True, "left out", 40 - failed),
        (True, False, "ranked last", 40),
    ):
        table = config_of(["synflow"], [SAMPLE], ["kendall"])
        table.scored_only, table.rows[0].scored_only = of_table, of_row
        (cell,) = table_cells(table, Measurements(ScoreStore(tmp_path)))
        assert (cell.n, f"{failed} without a score, {whose}" in cell.note) == (n, True)
        assert (cell.ours > 0.9) is (whose == "left out")


@pytest.mark.parametrize("scored", [0, 1, 2])
def test_a_row_of_which_too_little_is_left_says_so(tmp_path, scored):
    members = representatives(SAMPLE)
    append(tmp_path, "synflow", {int(i): float(place) if place < scored else None for place, i in enumerate(members)})
    table = config_of(["synflow", "flops"], [SAMPLE], ["kendall"])
    append(tmp_path, "flops", {int(i): float(i) for i in members})
    table.scored_only = True
    first, second = table_cells(table, Measurements(ScoreStore(tmp_path)))
    assert (first.ours is not None) is (scored == 2)
    assert ("not computed: fewer than two architectures have a score" in first.note) is (scored < 2)
    assert second.ours is not None


# Which scores a row takes -----------------------------------------------------------------------------------


def config_of(rows: list[str], populations: list[str], metrics: list[str]) -> Any:
    table = compose_config("report", small(*rows)).table
    table.populations, table.metrics = populations, metrics
    return table


def append(
    root: Path, proxy: str, scores: dict[int, float | None], inputs: str = "none", version: int = 1, seed: int = 0
) -> None:
    rows = [Row(i, s, 0.1, "ok" if s is not None else "singular kernel", version) for i, s in scores.items()]
    ScoreStore(root).append(ScoreKey("nasbench201", "cifar10", inputs, proxy, seed), rows)


def representatives(population: str) -> np.ndarray:
    return np.unique(BENCHMARK.representatives[BENCHMARK.population(population)])


SAMPLE = "no_dead_ops.sample(40, seed=5)"


def test_the_first_population_that_is_complete(tmp_path):
    """A sample serves where not all are scored; a cut-off of nDCG belongs to the paper's population."""
    table = config_of(["synflow"], ["no_dead_ops", SAMPLE], ["kendall", "ndcg_1000"])
    members = representatives(SAMPLE)
    append(tmp_path, "synflow", {int(i): float(i) for i in members[1:]})
    cells = table_cells(table, Measurements(ScoreStore(tmp_path)))
    assert [cell.ours for cell in cells] == [None, None]
    assert [population for population, _ in cells[0].missing] == [SAMPLE]
    append(tmp_path, "synflow", {int(members[0]): 0.0})
    kendall, ndcg = table_cells(table, Measurements(ScoreStore(tmp_path)))
    assert kendall.n == 40
    assert kendall.ours is not None
    assert kendall.missing == ()
    assert ndcg.ours is None
    assert ndcg.note.startswith("not computed: needs all of no_dead_ops")
    append(tmp_path, "synflow", {int(i): float(i) for i in representatives("no_dead_ops")})
    kendall, ndcg = table_cells(table, Measurements(ScoreStore(tmp_path)))
    assert kendall.n == ndcg.n == 9445
    assert ndcg.ours is not None


def test_a_target_of_one_dataset(tmp_path):
    """`targets` stands in for `target` on the datasets that it names, and the heading says so; `target=` on all."""
    table = config_of(["synflow"], [SAMPLE], ["kendall"])
    table.datasets = ["cifar10"]
    column = "test_200ep_seed888"
    members = representatives(SAMPLE)
    accuracies = BENCHMARK.accuracies("cifar10", column).to_numpy()
    append(tmp_path, "synflow", {int(i): float(accuracies[i]) for i in members})
    measurements = Measurements(ScoreStore(tmp_path))
    (other,) = table_cells(table, measurements)
    table.targets = {"cifar10": column}
    cells = table_cells(table, measurements)
    assert other.ours < cells[0].ours
    assert f"## cifar10, target {column}" in to_markdown(to_sheet(table, cells))
    assert table_cells(retarget(table, "test_200ep"), measurements)[0].ours == other.ours


def test_a_target_and_seeds_of_one_row(tmp_path):
    """They stand in for the table's, the row is on the dataset that it names, and keeps its place."""
    table = config_of(["synflow", "grad_norm", "zen"], [SAMPLE], ["kendall"])
    table.datasets = ["cifar10", "cifar100"]
    _, second, third = table.rows
    second.target, second.benchmarks = "test_200ep_seed888", ["nasbench201/cifar10"]
    third.seeds = [0, 1]
    accuracies = BENCHMARK.accuracies("cifar10", second.target).to_numpy()
    scores = {int(i): float(accuracies[i]) for i in representatives(SAMPLE)}
    append(tmp_path, "synflow", scores)
    append(tmp_path, "grad_norm", scores, inputs="cifar10")
    append(tmp_path, "zen", scores)
    append(tmp_path, "zen", {i: -score for i, score in scores.items()}, seed=1)
    cells = table_cells(table, Measurements(ScoreStore(tmp_path)))
    assert [(cell.proxy, cell.dataset) for cell in cells] == [
        *(("synflow", "cifar10"), ("grad_norm", "cifar10"), ("zen", "cifar10")),
        *(("synflow", "cifar100"), ("zen", "cifar100")),
    ]
    by_the_mean, own, both = cells[:3]
    assert by_the_mean.ours < own.ours
    assert own.note == "by test_200ep_seed888"
    assert (both.ours, both.seeds) == (pytest.approx(0.0), 2)
    assert both.seed_std == pytest.approx(by_the_mean.ours * math.sqrt(2))


def test_failed_scores_are_counted(tmp_path):
    table = config_of(["synflow"], [SAMPLE], ["kendall"])
    members = BENCHMARK.population(SAMPLE)
    accuracies = BENCHMARK.accuracies("cifar10").to_numpy()
    source = BENCHMARK.representatives[members]
    scores = {int(s): float(accuracies[s]) for s in source}
    append(tmp_path, "synflow", scores)
    (best,) = table_cells(table, Measurements(ScoreStore(tmp_path)))
    assert best.ours > 0.95
    assert "without a score" not in best.note

    failed = members[np.argsort(-accuracies[members])[:3]]
    other = tmp_path / "other"
    append(other, "synflow", scores | {int(s): None for s in BENCHMARK.representatives[failed]})
    (cell,) = table_cells(table, Measurements(ScoreStore(other)))
    assert "3 without a score, ranked last" in cell.note
    assert cell.n == 40
    assert cell.ours < best.ours - 0.1


def test_scores_of_other_inputs_settings_and_versions_do_not_count(tmp_path):
    """A proxy that its paper scores on images takes those, and the noise where a row says so."""
    members = [int(i) for i in representatives(SAMPLE)]
    scores = {i: float(i % 7) for i in members}
    table = config_of(["snip"], [SAMPLE], ["kendall"])
    append(tmp_path, "snip", scores, inputs="random")
    append(tmp_path, "snip:batch_size=32", scores, inputs="cifar10")
    append(tmp_path, "snip", scores, inputs="cifar10", version=99)
    (cell,) = table_cells(table, Measurements(ScoreStore(tmp_path)))
    assert cell.ours is None
    assert [key.inputs for _, key in cell.missing] == ["cifar10"]
    table.rows[0].inputs = "random"
    (cell,) = table_cells(table, Measurements(ScoreStore(tmp_path)))
    assert cell.ours is not None
    append(tmp_path, "snip", scores, inputs="cifar10", version=get_proxy("snip").version)
    table.rows[0].inputs = "paper"
    (cell,) = table_cells(table, Measurements(ScoreStore(tmp_path)))
    assert cell.ours is not None


def test_scores_that_are_all_equal_have_no_correlation(tmp_path):
    table = config_of(["synflow"], [SAMPLE], ["kendall"])
    append(tmp_path, "synflow", {int(i): 1.0 for i in representatives(SAMPLE)})
    cells = table_cells(table, Measurements(ScoreStore(tmp_path)))
    (row,) = csv.DictReader(io.StringIO(to_csv(cells)))
    assert row["ours"] == "undefined"
    assert row["ci_low"] == row["ci_high"] == row["delta"] == row["agrees"] == ""
    assert row["n"] == "40"


@pytest.mark.parametrize(
    ("published", "expected"),
    [
        (None, None),
        (Published("0.5"), True),
        (Published("0.381"), True),
        (Published("0.379"), False),
        (Published("0.619"), True),
        (Published("0.621"), False),
    ],
)
def test_agreement(published, expected):
    cell = Cell("a", "cifar10", "kendall", 9, 0.5, 0.4, 0.6, published, "")
    assert cell.agrees is expected
    undefined = Cell("a", "cifar10", "kendall", 9, math.nan, math.nan, math.nan, published, "")
    assert undefined.agrees is None
    (row,) = csv.DictReader(io.StringIO(to_csv([cell])))
    assert row["agrees"] == {None: "", True: "yes", False: "no"}[expected]


# The configured tables --------------------------------------------------------------------------------------


def test_tables_are_listed():
    assert set(list_tables()) == set(choices("table")) == {p.stem for p in (ROOT / "conf" / "table").glob("*.yaml")}
    done = command("list", "tables")
    assert done.code == 0
    assert [line.split()[0] for line in done.out.splitlines()] == choices("table")


PAPERS = [name for name in choices("table") if load_table(name).kind == "paper"]
#: Tables that leave rows of their paper's out on purpose, as their own protocol says.
PARTIAL = {
    "eznas": {"AngleNAS"},
    "vkdnw_seeds": {"GRAF", "VKDNW", "VKDNW+ZCS", "VKDNW+ZCS+GRAF"},
    "vkdnw_ablation_batch": {"VKDNW_single(real,B=-1)"},
    "vit_structure": {"DSS++", "TE-score"},
    "zico_sss": {"NASWOT", "grasp"},
}


def printed_names(table: Any) -> list[tuple[Any, Place]]:
    """The rows of a paper's table with the places of the figures that may stand in them."""
    return [
        (row, place_of(table, row, entry, metric))
        for row in table.rows
        for entry in table.datasets
        if is_on(row, table, entry)
        for metric in table.metrics
    ]


@pytest.mark.parametrize("name", PAPERS)
def test_a_table_names_what_exists(name):
    table = load_table(name)
    assert table.name == name
    assert table.title
    assert "Protocol" in table.protocol
    labels = [row.label or row.proxy for row in table.rows]
    assert len(set(labels)) == len(labels) > 0
    printed = read_published()
    for row in table.rows:
        resolve(row.proxy)
        assert set(row.note_datasets) <= {split_dataset(table, entry)[1] for entry in table.datasets}
        figures = [figure for named, figure in printed_names(table) if named is row]
        assert not any(figure[0] for figure in figures) or any(figure in printed for figure in figures), row.proxy
    for entry in table.datasets:
        benchmark, dataset = split_dataset(table, entry)
        if benchmark not in list_benchmarks():
            assert benchmark == "nats_sss"
            continue
        dataset = load_benchmark(benchmark).dataset(dataset)
        assert all(row.inputs in {"paper", "random", dataset.name} for row in table.rows)
        rows = [row for row in table.rows if is_on(row, table, entry)]
        assert all(row.target is None or row.target in load_benchmark(benchmark).targets(dataset.name) for row in rows)
        for populations in [table.populations, *(row.populations for row in rows if row.populations)]:
            found = []
            for population in populations:
                with contextlib.suppress(HarnessError):
                    found.append(len(load_benchmark(benchmark).population(population)))
            assert found == sorted(found, reverse=True)
            assert found


def resolve(spec: str) -> None:
    """Down to the proxies. Raises for a name that is none."""
    if spec in LEARNED:
        for member in LEARNED[spec].members:
            resolve(member)
        return
    aggregate = find_aggregate(spec)
    if aggregate is None:
        get_proxy(spec)
        return
    for member in aggregate.members:
        resolve(member)


def test_a_name_that_is_none_is_found():
    with pytest.raises(UnknownNameError):
        resolve("sum(flops, sinflow)")


@pytest.mark.parametrize("name", PAPERS)
def test_every_printed_figure_of_a_table_has_its_row(name):
    """No published row of a table of ours is left out by a name that differs."""
    table = load_table(name)
    ours = {figure for _, figure in printed_names(table)}
    datasets = {split_dataset(table, row.published_dataset or entry) for entry in table.datasets for row in table.rows}
    theirs = {
        figure
        for figure in read_published()
        if figure[:2] == (table.paper, table.paper_table) and figure[2:4] in datasets and figure[5] in table.metrics
    }
    left_out = {figure[4].removesuffix(" (model)") for figure in theirs - ours}
    assert left_out == PARTIAL.get(name, set())


def test_figures_without_signs_are_compared_without_them():
    def cell(ours: float, low: float, high: float, printed: str) -> Cell:
        return Cell("a", "b", "kendall", 9, ours, low, high, Published(printed), "", absolute=True)

    assert cell(-0.5, -0.6, -0.4, "0.55").agrees
    assert cell(-0.5, -0.6, -0.4, "0.55").delta == pytest.approx(-0.05)
    assert not cell(-0.5, -0.6, -0.4, "0.7").agrees
    assert cell(-0.01, -0.2, 0.1, "0.0").agrees, "an interval around 0 has no least size"
    assert not replace(cell(-0.5, -0.6, -0.4, "0.55"), absolute=False).agrees


def test_overview_has_every_published_correlation_once():
    """The first cell with a figure stands for its printed figure, on its own dataset if any; one without is said to
    have none."""
    figures = [place for place in read_published() if overview.is_correlation(place[-1])]
    place = ("VKDNW (CVPR 2025)", "Table 1", "nasbench201", "cifar10", "FLOPs", "kendall")
    lacking = Cell("x", "cifar10", "kendall", 0, None, 0, 0, read_published()[place], "", place=place)
    elsewhere = replace(lacking, proxy="w", n=9, ours=0.7, ci_low=0.6, ci_high=0.8, benchmark="nats_sss")
    given = replace(elsewhere, proxy="y", ours=0.6, benchmark="nasbench201")
    later = replace(given, proxy="z", ours=0.9, ci_low=0.8, ci_high=1.0)
    cells = overview.compared([lacking, elsewhere, given, later])
    assert [cell.place for cell in cells] == figures
    assert [(cell.proxy, cell.ours) for cell in cells if cell.ours is not None] == [("y", 0.6)]
    assert all("no row" in cell.note for cell in cells if cell.ours is None)
    sheet = overview.to_sheet(load_table("overview"), cells)
    assert sheet.sections[0].rows[-1][:7] == ["all", f"{len(figures):,}", "1", "1", "1", "0", "0"]
    (one,) = (cell for cell in cells if cell.ours is not None)
    assert (one.rows, one.rows_agree) == (3, 2)
    (alone,) = (cell for cell in overview.compared([lacking, elsewhere]) if cell.ours is not None)
    assert (alone.proxy, alone.rows, alone.rows_agree) == ("w", 1, 1)
    assert not overview.is_correlation("top1_after_search")


def test_published_figures_are_named_once():
    with open(ROOT / "results" / "published.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(read_published()) == len(rows) > 600
    assert not [row for row in rows if "memory" in row["notes"].lower()]


def test_a_published_figure_keeps_its_digits_and_says_when_it_is_not_verified():
    figures = [Published("0.50"), Published("0.604981"), Published("0.58", "unverified: a reprint"), None]
    cells = [Cell(f"p{i}", "cifar10", "kendall", 9, 0.5, 0.4, 0.6, one, "") for i, one in enumerate(figures)]
    assert [row["published"] for row in csv.DictReader(io.StringIO(to_csv(cells)))] == ["0.50", "0.604981", "0.58", ""]
    table = config_of([cell.proxy for cell in cells], [SAMPLE], ["kendall"])
    for row in table.rows:
        row.label, row.proxy = row.proxy, "synflow"
    cells = [replace(cell, benchmark="nasbench201") for cell in cells]
    text = to_markdown(to_sheet(table, cells))
    assert re.findall(r"\] / (\S+) \|", text) == ["0.50", "0.605", "0.58?", "–"]
    assert "`?`: a figure that was not checked" in text
    assert "`?`" not in to_markdown(to_sheet(table, cells[:2]))
    assert read_published()["AZ-NAS (CVPR 2024)", "Table 1", "nasbench201", "cifar10", "AZ-NAS", "spearman"].unverified


def test_the_legend_names_the_resamples_of_this_table():
    assert interval_text(1000, [0, 300, 300]).endswith("1,000 resamples.")
    assert interval_text(50, [423_624]).endswith(" 50 resamples.")
    assert interval_text(1000, [300, 9445]).endswith("1,000 resamples; 264 at n = 9,445.")


def test_a_row_of_some_benchmarks():
    cells = table_cells(load_table("sed_darts"), Measurements(ScoreStore("nowhere")))
    assert {cell.benchmark for cell in cells if cell.proxy == "swap"} == {"darts_swap1000"}
    assert {cell.benchmark for cell in cells if cell.proxy == "sed"} == {"darts_swap1000", "nasbench301"}


def test_every_disagreement_has_an_entry_in_the_notes():
    """`table: row` for each row of a committed table with a figure that disagrees, and no entry without its row."""
    text = (ROOT / "results" / "tables" / "notes.md").read_text(encoding="utf-8")
    heads = re.findall(r"^- ((?:`[^`]+`,?\s+)*`[^`]+`):", text, re.MULTILINE)
    entries = {" ".join(name.split()) for head in heads for name in re.findall("`([^`]+: [^`]+)`", head)}
    there, disagreeing = set(), set()
    for path in (ROOT / "results" / "tables").glob("*.csv"):
        if path.stem == "overview":  # which repeats the others
            continue
        for row in rows_of(path):
            name = f"{path.stem}: {row.get('proxy')}"
            there.add(name)
            if row.get("agrees") == "no":
                disagreeing.add(name)
    assert len(disagreeing) > 5
    assert disagreeing - entries == set(), "say in results/tables/notes.md what is known, if only `Cause not known`"
    assert entries - there == set(), "no such row"


# What is wrong ----------------------------------------------------------------------------------------------


def mistake(done: Done) -> str:
    assert done.code == 2
    (line,) = done.err.splitlines()
    assert line.startswith("harness: ")
    return line


@pytest.mark.parametrize("name", ["ssnr_table1", "leaderboard"])
def test_a_table_is_the_one_that_hydra_composes(name):
    assert load_option("table", name) == compose_config("report", [f"table={name}"]).table


def test_an_option_is_a_known_one_of_its_schema(tmp_path, monkeypatch):
    with pytest.raises(UnknownNameError, match="ssnr_table1"):
        load_option("table", "ssnr_table")
    monkeypatch.setattr("harness.config.choices", lambda group: ["mine"])
    monkeypatch.setattr("harness.config.data_dir", lambda name: tmp_path)
    (tmp_path / "table").mkdir()
    for text in ("defaults: [schema, _self_]\nrowz: []\n", "name: mine\n", "defaults: [schema, _self_]\nrows: 3\n"):
        (tmp_path / "table/mine.yaml").write_text(text, encoding="utf-8")
        with pytest.raises(HarnessError, match=r"mine\.yaml"):
            load_option("table", "mine")


def test_unknown_table():
    assert "did you mean 'vkdnw_table1'" in mistake(command("report", "table=vkdnw_tabel1"))
    with pytest.raises(UnknownNameError, match="did you mean 'ssnr_table1'"):
        load_table("ssnr_tabel1")


def test_unknown_proxy_of_a_row(tmp_path):
    done = command("report", *small("sinflow"), f"store={tmp_path}", f"output={tmp_path}")
    assert "did you mean 'synflow'" in mistake(done)


@pytest.mark.parametrize("where", ["file", "file/below"])
def test_output_that_cannot_be_written(tmp_path, where):
    (tmp_path / "file").write_text("in the way")
    output = tmp_path / where
    line = mistake(command("report", *small("flops"), f"store={tmp_path / 'scores'}", f"output={output}"))
    assert str(output) in line
    config = compose_config("report", [*small("flops"), f"store={tmp_path / 'scores'}", f"output={output}"])
    with pytest.raises(HarnessError, match="output=DIR"):
        build_tables(config)
    assert (tmp_path / "file").read_text() == "in the way"


@pytest.mark.parametrize(
    "content", [None, "paper,table\na,b\n", "paper,table,dataset,proxy,metric,value\na,b,c,d,e,many\n"]
)
def test_published_figures_that_cannot_be_read(tmp_path, monkeypatch, content):
    path = tmp_path / "published.csv"
    if content is not None:
        path.write_text(content)
    monkeypatch.setattr(cells, "published_csv", lambda: path)
    with pytest.raises(HarnessError, match="published"):
        read_published()


def test_scores_of_another_benchmark_are_refused(tmp_path):
    append(tmp_path, "flops", {15625: 1.0})
    done = command("report", *small("flops"), f"store={tmp_path}", f"output={tmp_path / 'tables'}")
    assert "15625" in mistake(done)


def test_strict(report, store, tmp_path):
    """Exit code 1 where a figure is not computed, and the tables are written all the same."""
    assert report[0].code == 0
    overrides = [*small("flops", "synflow"), f"store={store}", f"output={tmp_path}", "strict=true"]
    done = command("report", *overrides)
    assert done.code == 1
    assert [row["ours"] == "not computed" for row in rows_of(tmp_path / "vkdnw_table1.csv")] == [False, True]
    complete = command("report", *small("flops"), f"store={store}", f"output={tmp_path}", "strict=true")
    assert complete.code == 0


def test_nothing_is_computed_and_no_torch_is_loaded(store, tmp_path):
    """On a machine that reads tables alone."""
    before = {path: path.stat().st_mtime_ns for path in store.rglob("*")}
    program = (
        "import sys\n"
        "from harness.cli import main\n"
        "codes = [main(['list', kind]) for kind in ('proxies', 'benchmarks', 'tables')]\n"
        "codes.append(main(['report', *sys.argv[1:]]))\n"
        "print(codes, 'torch' in sys.modules)\n"
    )
    rows = ["flops", "synflow", "az_nas", "sum(flops, params)"]
    done = subprocess.run(
        [sys.executable, "-c", program, *small(*rows), f"store={store}", f"output={tmp_path}"],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "[0, 0, 0, 0] False"
    assert [row["ours"] == "not computed" for row in rows_of(tmp_path / "vkdnw_table1.csv")] == [
        False,
        True,
        True,
        False,
    ]
    assert {path: path.stat().st_mtime_ns for path in store.rglob("*")} == before
