"""Tests of the guard: it passes on the committed numbers, and fails for each thing that it is there to catch."""

from __future__ import annotations
import __future__

import hashlib
import inspect
import json
import shutil
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

import harness
from harness.benchmarks import benchmark as benchmarks
from harness.benchmarks.benchmark import load_benchmark
from harness.cli import main
from harness.config import compose_config
from harness.correlation import kendall_tau, paired_difference, points
from harness.engine.store import Row, ScoreKey, ScoreStore
from harness.errors import HarnessError
from harness.probes import positive
from harness.proxies import available
from harness.rankings.results import Reader
from harness.verify import CHECKS, GUARD
from harness.verify import scores as recomputation
from harness.verify.baseline import LARGEST_MOVE, correlations, digest, guarded_benchmarks, read_baseline
from harness.verify.expectation import Expectation, Figure, Term, parse_expectation
from harness.verify.findings import Finding

ROOT = Path(harness.__file__).resolve().parents[1]
COMMITTED = f"store={ROOT / 'results' / 'scores'}"
BASELINE = ROOT / "results" / "baseline.json"


def guard(check: str, *settings: str) -> list[Finding]:
    """The findings of one check."""
    return list(GUARD[check](compose_config("verify", list(settings))))


def failing(findings: list[Finding]) -> list[Finding]:
    return [finding for finding in findings if finding.verdict == "FAILS"]


def mutate(monkeypatch, module: Any, name: str, old: str, new: str) -> None:
    """Replace a function that a module uses by one whose source reads `new` where it read `old`."""
    function = getattr(module, name)
    source = inspect.getsource(function)
    assert source.count(old) == 1, f"{name} no longer reads {old!r} once: adapt the mutation"
    code = compile(source.replace(old, new), f"<mutated {name}>", "exec", __future__.annotations.compiler_flag)
    namespace = dict(function.__globals__)
    exec(code, namespace)
    monkeypatch.setattr(module, name, namespace[name])


@pytest.fixture
def store(tmp_path) -> Path:
    """FLOPs of 40 cells on ImageNet16-120, as `harness score` stores them."""
    root = tmp_path / "scores"
    assert main(["score", "dataset=ImageNet16-120", "proxies=[flops]", "limit=40", f"store={root}"]) == 0
    return root


@pytest.fixture
def written(store, tmp_path) -> list[str]:
    """Settings of a small store with a baseline."""
    settings = [f"store={store}", f"baseline={tmp_path / 'baseline.json'}", "resamples=20"]
    assert main(["verify", "baseline", *settings]) == 0
    return settings


def key(proxy: str = "flops") -> ScoreKey:
    return ScoreKey("nasbench201", "ImageNet16-120", "none", proxy, 0)


def rewrite(root: Path, change) -> None:
    """Pass the stored FLOPs through `change` (a data frame to another)."""
    rows = change(ScoreStore(root).read(key()))
    shutil.rmtree(root)
    ScoreStore(root).append(key(), [Row(*row) for row in rows.itertuples(index=False)])


# The three mutations --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def synflow(tmp_path_factory) -> list[str]:
    """Settings that verify the committed scores of synflow on NAS-Bench-201."""
    root = tmp_path_factory.mktemp("synflow")
    copy_committed(root, "nasbench201", "synflow")
    return ["cells=2", "workers=1", "device=cpu", f"store={root}"]


def copy_committed(root: Path, space: str, proxy: str) -> None:
    """The committed scores of a proxy on all datasets of a space."""
    committed = ScoreStore(ROOT / "results" / "scores")
    for one in list(committed.keys()):
        if (one.space, one.proxy) == (space, proxy):
            shutil.copytree(committed.root / one.folder, root / one.folder)


def test_stored_scores_come_out_again(synflow, capsys):
    assert main(["verify", "scores", *synflow]) == 0
    out = capsys.readouterr().out
    assert "synflow on nasbench201/cifar10, inputs none, seed 0: 2 cells computed again" in out
    assert ", 0 failed" in out


@pytest.mark.parametrize("index", [-3, 15625])
def test_an_index_of_no_architecture_is_a_finding(store, capsys, index):
    ScoreStore(store).append(key(), [Row(index, 1.0, 0.0, "ok", 1)])
    assert main(["verify", "scores", "cells=50", "workers=1", "device=cpu", f"store={store}"]) == 1
    out = capsys.readouterr().out
    assert f"holds index {index} but its benchmark has 15625 architectures" in out
    assert "remove them" in out
    with pytest.raises(HarnessError, match=f"holds index {index} but"):
        Reader(ScoreStore(store), load_benchmark("nasbench201")).scores("flops", "ImageNet16-120", np.arange(10))


def test_a_synflow_without_absolute_weights_is_caught(synflow, monkeypatch, capsys):
    mutate(monkeypatch, positive, "_make_positive", ".abs_()", ".detach()")
    assert main(["verify", "scores", *synflow]) == 1
    out = capsys.readouterr().out
    assert "FAILS  synflow on nasbench201/cifar10" in out
    assert "2 of 2 cells computed again differ" in out
    assert "raise the proxy's `version`" in out


RANKING = ["proxies=[naswot,vkdnw]", COMMITTED, f"baseline={BASELINE}"]


def test_committed_correlations_have_not_moved():
    findings = guard("correlations", *RANKING)
    assert findings
    assert not failing(findings)


def test_an_off_by_one_in_the_discount_of_ndcg_is_caught(monkeypatch, capsys):
    mutate(monkeypatch, points, "weighted_ndcg", "np.arange(1, places + 1)", "np.arange(2, places + 2)")
    assert main(["verify", "correlations", *RANKING]) == 1
    out = capsys.readouterr().out
    assert "ndcg_10 was 0." in out
    assert "likely cause: neither scores nor accuracies changed: the definition of the metric did" in out


@pytest.fixture
def swapped(tmp_path, monkeypatch) -> Path:
    """NAS-Bench-201 with the accuracies of its best and its worst cell exchanged."""
    folder = tmp_path / "benchmarks" / "nasbench201"
    shutil.copytree(ROOT / "benchmarks" / "nasbench201", folder)
    table = pq.read_table(folder / "accuracies.parquet").to_pandas()
    accuracies = table["cifar10_test_200ep"].to_numpy().copy()
    best, worst = accuracies.argmax(), accuracies.argmin()
    accuracies[[best, worst]] = accuracies[[worst, best]]
    table["cifar10_test_200ep"] = accuracies
    pq.write_table(pa.Table.from_pandas(table, preserve_index=False), folder / "accuracies.parquet")
    monkeypatch.setattr(benchmarks, "data_dir", lambda name: tmp_path / name)
    return folder


def test_two_exchanged_accuracies_are_caught(swapped, capsys):
    assert main(["verify", "accuracies", f"baseline={BASELINE}"]) == 1
    assert "is damaged: its sha256 is" in capsys.readouterr().out


def test_two_exchanged_accuracies_are_caught_under_a_new_sha256(swapped, capsys):
    path = swapped / "card.yaml"
    card = yaml.safe_load(path.read_text(encoding="utf-8"))
    card["sha256"] = hashlib.sha256((swapped / "accuracies.parquet").read_bytes()).hexdigest()
    path.write_text(yaml.safe_dump(card), encoding="utf-8")
    benchmarks.forget_benchmark(swapped)
    assert main(["verify", "accuracies", f"baseline={BASELINE}"]) == 1
    assert "cifar10 test_200ep differs from the baseline's" in capsys.readouterr().out
    found = failing(guard("correlations", "proxies=[flops]", COMMITTED, f"baseline={BASELINE}"))
    assert any("likely cause: accuracy table changed" in finding.detail for finding in found)


# Correlations against the baseline ------------------------------------------------------------------------------


def test_a_baseline_just_written_holds(written):
    findings = guard("correlations", *written)
    assert [finding.verdict for finding in findings] == ["ok"]
    assert "1 of 1 within 0.005 of the baseline, largest move 0.0000" in findings[0].detail


def test_a_baseline_has_what_each_correlation_came_from(written):
    content = read_baseline(written[1].partition("=")[2])
    (entry,) = content["correlations"].values()
    assert entry.population == "stored"  # 40 cells cover none of the named populations
    assert (entry.n, entry.version, entry.proxy) == (40 + _shared(40), 1, "flops")
    for value, low, high in entry.figures.values():
        assert low <= value <= high or np.isnan(value)
    assert set(content["accuracies"]) == {benchmark.name for benchmark in guarded_benchmarks()}


def _shared(cells: int) -> int:
    """Cells beyond the first `cells` whose network is that of one of the first."""
    return int((benchmarks.load_benchmark("nasbench201").representatives[cells:] < cells).sum())


def test_the_committed_baseline_covers_whole_populations_and_aggregates():
    entries = read_baseline(BASELINE)["correlations"].values()
    found = {(entry.proxy, entry.population, entry.n) for entry in entries}
    assert ("flops", "no_dead_ops", 9445) in found
    assert ("az_nas", "no_dead_ops.sample(1000, seed=0)", 1000) in found
    assert {metric for entry in entries for metric in entry.figures} == {"kendall", "spearman", "ndcg_10", "ndcg_1000"}


CHANGES = {
    "scores changed": lambda rows: rows.assign(score=-rows["score"]),
    "population changed (n ": lambda rows: rows[:20],
    "version changed (1 to 2)": lambda rows: rows.assign(score=-rows["score"], version=2),
}


@pytest.mark.parametrize("cause", CHANGES)
def test_a_move_fails_with_old_new_interval_and_cause(written, store, monkeypatch, cause):
    rewrite(store, CHANGES[cause])
    if "version" in cause:
        monkeypatch.setattr(available()["flops"], "version", 2)
    first, *others = failing(guard("correlations", *written))
    entry = next(iter(read_baseline(written[1].partition("=")[2])["correlations"].values()))
    old, low, high = entry.figures["kendall"]
    assert f"kendall was {old:.4f} [{low:.4f}, {high:.4f}], is " in first.detail
    assert f"likely cause: {cause}" in first.detail
    assert others[-1].subject == "correlations on nasbench201/ImageNet16-120"


def test_a_small_move_is_no_failure(written, store):
    """Two neighbours in the middle of 40 exchanged: tau moves by 4 / (40 * 39), the head of the ranking not at all."""

    def exchange(rows: pd.DataFrame) -> pd.DataFrame:
        scores = rows["score"].to_numpy().copy()
        order = np.argsort(scores, kind="stable")
        steps = np.flatnonzero(np.diff(scores[order]) > 0)
        low, high = order[steps[1]], order[steps[1] + 1]
        scores[[low, high]] = scores[[high, low]]
        return rows.assign(score=scores)

    path = Path(written[1].partition("=")[2])
    rewrite(store, exchange)
    findings = guard("correlations", *written)
    entry = next(iter(read_baseline(path)["correlations"].values()))
    (now,) = correlations(ScoreStore(store), [])
    assert now.scores != entry.scores
    assert 0 < max(abs(now.figures[m][0] - entry.figures[m][0]) for m in now.figures) <= LARGEST_MOVE
    assert not failing(findings)


def test_lost_scores_fail(written, store):
    rewrite(store, lambda rows: rows)
    ScoreStore(store).append(key("params"), [Row(i, float(i), 0.0, "ok", 1) for i in range(40)])
    shutil.rmtree(store / key().folder)
    findings = guard("correlations", *written)
    assert [(f.verdict, f.detail) for f in findings] == [
        ("FAILS", "was in the baseline and cannot be computed: scores or proxy are gone"),
        ("note", findings[1].detail),
    ]
    assert "1 are not in the baseline yet, such as params on" in findings[1].detail


def test_a_missing_baseline_fails_and_a_damaged_one_is_named(store, tmp_path):
    settings = [f"store={store}", f"baseline={tmp_path / 'none.json'}"]
    assert "write it with `harness verify baseline baseline=" in failing(guard("correlations", *settings))[0].detail
    for text in ("[]", "", '{"correlations": []}', '{"correlations": [{}], "accuracies": {}}'):
        (tmp_path / "none.json").write_text(text)
        (finding,) = guard("correlations", *settings)
        assert finding.verdict == "FAILS"
        assert "cannot be read" in finding.detail
        assert "cannot be read" in failing(guard("accuracies", *settings))[0].detail


def test_a_damaged_baseline_is_written_anew_as_its_message_says(written, capsys):
    path = Path(written[1].partition("=")[2])
    whole = path.read_text()
    path.write_text(whole[:100])
    capsys.readouterr()
    assert main(["verify", "baseline", *written]) == 0
    out, err = capsys.readouterr()
    assert err == f"harness: {path} cannot be read and counts as none: all is new\n"
    assert "1 new, 0 gone, 0 moved" in out
    assert path.read_text() == whole


@pytest.fixture
def damaged(written, store) -> Path:
    """A small store with a baseline, a sound and a damaged partition."""
    ScoreStore(store).append(key("params"), [Row(i, float(i), 0.0, "ok", 1) for i in range(40)])
    assert main(["verify", "baseline", *written]) == 0
    part = next((store / key().folder).glob("part-*"))
    part.write_bytes(part.read_bytes()[:-9])
    return part


def test_a_damaged_part_is_a_finding_on_the_correlations(written, damaged):
    (first, *others) = guard("correlations", *written)
    assert (first.subject, first.verdict) == (str(key()), "FAILS")
    assert f"{damaged.name} is damaged" in first.detail
    assert [(finding.subject, finding.verdict) for finding in others] == [
        ("correlations on nasbench201/ImageNet16-120", "ok")
    ]


def test_a_damaged_part_ends_no_guard(written, damaged, tmp_path, monkeypatch, capsys):
    """What comes after it is checked, and the file for continuous integration is written."""
    (tmp_path / "tables").mkdir()
    monkeypatch.setitem(GUARD, "accuracies", lambda config: iter([Finding("accuracies", "ok", "seen")]))
    settings = [f"tables={tmp_path / 'tables'}", "table=vkdnw_table1", "table.datasets=[ImageNet16-120]"]
    rows = "table.rows=[{proxy: flops}]"
    found = tmp_path / "found.xml"
    command = ["verify", "--junit", str(found), *written, *settings, rows, "workers=1", "cells=1", "device=cpu"]
    assert main([*command, f"stores=[{written[0].partition('=')[2]}]"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert sum(line.startswith("FAILS") and f"{damaged.name} is damaged" in line for line in lines) == 3
    assert any("params on nasbench201/ImageNet16-120" in line and "computed again" in line for line in lines)
    assert int(ElementTree.parse(found).getroot().get("failures")) >= 3


def test_damaged_accuracies_are_a_finding_on_the_correlations(swapped, capsys):
    findings = guard("correlations", "proxies=[flops]", COMMITTED, f"baseline={BASELINE}")
    assert any("is damaged: its sha256 is" in finding.detail for finding in failing(findings))


def test_a_baseline_says_what_is_new_and_what_moved(written, store, capsys):
    capsys.readouterr()
    rewrite(store, CHANGES["scores changed"])
    assert main(["verify", "baseline", *written]) == 0
    assert "0 new, 0 gone, 1 moved by more than 0.005" in capsys.readouterr().out
    assert not failing(guard("correlations", *written))
    json.loads(Path(written[1].partition("=")[2]).read_text())  # no NaN, which other readers refuse


def test_digests_tell_values_apart_and_nan_from_nan_not():
    values = np.array([1.0, np.nan, 3.0])
    assert digest(values) == digest(np.array([1.0, -np.nan, 3.0]))
    assert digest(values) != digest(values[::-1].copy() + 0)
    assert digest(np.array(["ab", "c"])) != digest(np.array(["a", "bc"]))


# Scores computed again ------------------------------------------------------------------------------------------


def test_images_that_are_not_at_hand_are_said_to_be(tmp_path):
    copy_committed(tmp_path, "nasbench201", "snip")
    findings = guard("scores", "cells=1", f"store={tmp_path}")
    noted = {finding.detail for finding in findings if finding.verdict == "note"}
    named = ("cifar10", "cifar100", "ImageNet16-120")
    assert noted == {f"images not at hand: set inputs={name} inputs.path=DATA" for name in named}
    assert not failing(findings)


def test_other_images_than_those_of_the_scores_are_named_and_not_computed(tmp_path, monkeypatch):
    archives = []
    for number in range(2):
        archives.append(tmp_path / f"{number}.npz")
        pictures = np.random.RandomState(number).randint(256, size=(8, 16, 16, 3), dtype=np.uint8)
        np.savez(archives[-1], images=pictures, labels=np.arange(8))
    root = tmp_path / "scores"
    given = ["inputs=ImageNet16-120", f"inputs.path={archives[0]}", f"store={root}", "workers=1", "device=cpu"]
    assert main(["score", "dataset=ImageNet16-120", "proxies=[snip:batch_size=4]", "limit=1", *given]) == 0
    (same,) = guard("scores", *given, f"stores=[{root}]")
    assert same.verdict == "ok"
    given[1] = f"inputs.path={archives[1]}"
    monkeypatch.setattr(recomputation, "score_networks", None)
    (other,) = guard("scores", *given, f"stores=[{root}]")
    assert other.verdict == "note"
    (one,) = ScoreStore(root).keys()
    assert f"these scores are of {ScoreStore(root).images(one)}" in other.detail
    assert "the images at hand are " in other.detail


@pytest.fixture
def few(tmp_path) -> Path:
    """FLOPs of 8 cells, all of which are computed again."""
    root = tmp_path / "few"
    assert main(["score", "dataset=ImageNet16-120", "proxies=[flops]", "limit=8", f"store={root}"]) == 0
    return root


def recomputed(store: Path, *settings: str) -> list[Finding]:
    return guard("scores", f"store={store}", "cells=40", "workers=1", "device=cpu", *settings)


def test_one_wrong_score_of_the_sample_fails(few):
    assert [finding.verdict for finding in recomputed(few, "exact=true")] == ["ok"]
    rewrite(few, lambda rows: rows.assign(score=rows["score"].where(rows["index"] != 7, rows["score"] * 1.02)))
    (finding,) = recomputed(few)
    assert finding.verdict == "FAILS"
    assert "1 of 8 cells computed again differ: cell 7 was" in finding.detail


def test_one_architecture_serves_all_partitions_that_hold_it(few, monkeypatch):
    stored = f"store={few}"
    assert main(["score", "dataset=ImageNet16-120", "proxies=[params]", "limit=1", stored]) == 0
    (first,) = ScoreStore(few).read(key("params"))["index"]
    ScoreStore(few).append(key("trainable_layers"), [Row(100, 0.0, 0.0, "ok", available()["trainable_layers"].version)])
    asked = []
    compute = recomputation.score_networks
    monkeypatch.setattr(
        recomputation, "score_networks", lambda job, networks: asked.append(networks) or compute(job, networks)
    )
    for seed in range(3):
        guard("scores", stored, "cells=1", "workers=1", f"seed={seed}")
    assert asked == [{first: ["flops", "params"], 100: ["trainable_layers"]}] * 3


def test_a_deviation_within_the_tolerance_holds_unless_exactness_is_asked_for(few):
    rewrite(few, lambda rows: rows.assign(score=rows["score"] * (1 + 1e-6)))
    (finding,) = recomputed(few)
    assert finding.verdict == "ok"
    assert "deviation at most 1.0e-06, tolerated 1e-03" in finding.detail
    (finding,) = recomputed(few, "exact=true")
    assert finding.verdict == "FAILS"


def nudged(by: float):
    """The change that adds `by` to the least score, which one cell alone has."""
    return lambda rows: rows.assign(score=rows["score"] + by * (rows["score"] == rows["score"].min()))


def test_a_score_that_keeps_its_place_may_deviate_more(few, monkeypatch):
    monkeypatch.setattr(available()["flops"], "tolerance", 1e-6)
    scores = ScoreStore(few).read(key())["score"]
    assert (scores == scores.min()).sum() == 1
    rewrite(few, nudged(5e-6 * scores.min()))
    assert [finding.verdict for finding in recomputed(few)] == ["ok"]
    rewrite(few, nudged(15e-6 * scores.min()))
    assert [finding.verdict for finding in recomputed(few)] == ["FAILS"]


def test_a_score_that_passes_another_may_not_deviate_more(few, monkeypatch):
    scores = ScoreStore(few).read(key())["score"]
    gap = scores[scores > scores.min()].min() - scores.min()
    monkeypatch.setattr(available()["flops"], "tolerance", 0.2 * gap / scores.min())
    rewrite(few, nudged(0.9 * gap))
    assert [finding.verdict for finding in recomputed(few)] == ["ok"]
    rewrite(few, nudged(0.2 * gap))
    assert [finding.verdict for finding in recomputed(few)] == ["FAILS"]


def test_cancelling_sums_are_held_against_the_size_of_the_others(few, monkeypatch):
    monkeypatch.setattr(recomputation, "SAME_PLACE", 1.0)
    monkeypatch.setattr(available()["flops"], "tolerance", 1e-3)
    scores = ScoreStore(few).read(key())["score"]
    rewrite(few, nudged(5e-4 * scores.median()))
    assert [finding.verdict for finding in recomputed(few)] == ["FAILS"]
    monkeypatch.setattr(available()["flops"], "cancels", True)
    assert [finding.verdict for finding in recomputed(few)] == ["ok"]


def test_another_status_fails(few):
    def failed(rows: pd.DataFrame) -> pd.DataFrame:
        return rows.astype({"score": object}).assign(
            score=[None if i == 3 else s for i, s in zip(rows["index"], rows["score"], strict=True)],
            status=["nan" if i == 3 else "ok" for i in rows["index"]],
        )

    rewrite(few, failed)
    (finding,) = recomputed(few)
    assert finding.verdict == "FAILS"
    assert "cell 3 was 'nan', is 'ok'" in finding.detail


def test_scores_of_another_version_and_of_unknown_proxies_fail(few):
    rewrite(few, lambda rows: rows.assign(version=9))
    ScoreStore(few).append(key("no_such_proxy"), [Row(0, 1.0, 0.0, "ok", 1)])
    unknown, other = sorted(recomputed(few), key=lambda finding: "version" in finding.detail)
    assert "unknown proxy 'no_such_proxy'" in unknown.detail
    assert other.detail.startswith("no score of version 1")
    assert (unknown.verdict, other.verdict) == ("FAILS", "FAILS")


def test_every_proxy_states_a_tolerance():
    for name, cls in available().items():
        assert 0 < cls.tolerance <= (0.5 if cls.cancels else 0.1), name


# Tables ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tables(tmp_path_factory) -> tuple[Path, list[str]]:
    """A small table built by `harness report`, and the settings that verify it."""
    root = tmp_path_factory.mktemp("tables")
    store = root / "scores"
    copy_committed(store, "nasbench201", "synflow")
    assert main(["report", "table=ssnr_table1", f"store={store}", f"output={root / 'tables'}"]) == 0
    return root / "tables", [f"store={store}", f"tables={root / 'tables'}", "table=ssnr_table1"]


def test_tables_follow_from_the_scores(tables):
    folder, settings = tables
    findings = guard("tables", *settings)
    assert len(findings) == len(list(folder.iterdir())) >= 2
    assert not failing(findings)


def test_a_digit_changed_in_a_table_fails(tables):
    folder, settings = tables
    path = folder / "ssnr_table1.csv"
    before = path.read_bytes()
    line = before.split(b"\n")[1]
    path.write_bytes(before.replace(line, line.replace(b"0.5", b"0.6", 1)))
    found = failing(guard("tables", *settings))
    path.unlink()
    missing = failing(guard("tables", *settings))
    path.write_bytes(before)
    assert [finding.subject for finding in found] == [f"table {path}"]
    assert found[0].detail.startswith("line 2 is ")
    assert "is not there" in missing[0].detail


def test_leftovers_of_a_table_fail_and_text_by_hand_does_not(tables, tmp_path, monkeypatch):
    from harness.verify import tables as module

    monkeypatch.setattr(module, "build_tables", lambda config: (Path(config.output) / "a.csv").write_text("a\n"))
    for name in ("a.csv", "b.csv", "notes.md", "search_tabular_trajectory.csv"):
        (tmp_path / name).write_text("a\n")
    findings = guard("tables", f"tables={tmp_path}")
    assert [(Path(f.subject.split()[1]).name, f.verdict) for f in findings] == [
        ("a.csv", "ok"),
        ("b.csv", "FAILS"),
        ("search_tabular_trajectory.csv", "note"),
    ]


def test_the_command_for_a_table_that_is_not_there_can_be_run(tables, tmp_path):
    _, settings = tables
    (tmp_path / "none").mkdir()
    settings = [text for text in settings if not text.startswith("tables=")]
    details = {finding.detail for finding in guard("tables", *settings, f"tables={tmp_path / 'none'}")}
    assert details == {f"is not there: run `harness report output={tmp_path / 'none'}` and commit it"}


def test_no_folder_of_tables_is_a_mistake(tmp_path):
    with pytest.raises(HarnessError, match="there is no folder"):
        guard("tables", f"tables={tmp_path / 'none'}")


# Accuracies -----------------------------------------------------------------------------------------------------


def test_committed_accuracies_are_those_of_cards_and_baseline():
    findings = guard("accuracies", f"baseline={BASELINE}")
    assert len(findings) == len(guarded_benchmarks()) >= 8
    assert not failing(findings)
    assert "baseline" in findings[0].detail


def test_a_known_value_that_is_not_reached_fails(monkeypatch):
    card = benchmarks.embedded_benchmark("macro").card
    known = [{**card["known_values"][0], "value": 50.0}]
    monkeypatch.setitem(card, "known_values", known)
    (finding,) = failing(guard("accuracies", f"baseline={BASELINE}"))
    assert finding.subject == "accuracies of macro"
    assert "known to be 50.0" in finding.detail


# Expectations ---------------------------------------------------------------------------------------------------


MINE = """
from dataclasses import dataclass
from typing import ClassVar

from harness import Proxy
from harness.probes.topology import Topology


@dataclass(frozen=True)
class Mine(Proxy):
    name: ClassVar[str] = "mine"
    summary: ClassVar[str] = "convolutions and linear layers"
    citation: ClassVar[str] = "nobody"
    inputs: ClassVar[str] = "none"
    random: ClassVar[bool] = False
    factor: float = 1.0

    def needs(self):
        return {Topology(): ("trainable_layers",)}

    def score(self, seen):
        return self.factor * seen["trainable_layers"]


class Other:
    pass
"""


@pytest.fixture
def mine(tmp_path, monkeypatch) -> str:
    """A module of another project in the working directory, which no entry point names."""
    (tmp_path / "their_proxies.py").write_text(MINE, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry not in ("", str(tmp_path))])
    monkeypatch.delitem(sys.modules, "their_proxies", raising=False)
    return "their_proxies:Mine"


def test_an_expectation_that_holds_and_one_that_does_not(mine, capsys):
    assert main(["verify", "--proxy", mine, "--expect", "tau>=0.3", "--expect=rho >= 0.3"]) == 0
    out = capsys.readouterr().out
    assert "nasbench201/cifar10, test_200ep, sample(100, seed=0), n = 100, no mini-batch, seed 0" in out
    assert "ok     kendall of mine: 0." in out
    assert "expected >= 0.3" in out
    assert main(["verify", "--proxy", f"{mine}:factor=-1", "--expect", "tau>=0.3"]) == 1
    assert "FAILS  kendall of mine:factor=-1.0: -0." in capsys.readouterr().out


def test_an_expectation_takes_population_benchmark_and_inputs(capsys):
    settings = ["benchmark=macro", "population=sample(4, seed=1)", "workers=1", "device=cpu", "resamples=10"]
    assert main(["verify", "--proxy", "snip:batch_size=2", "--expect", "regret_1<=100", *settings]) == 0
    out = capsys.readouterr().out
    assert "macro/cifar10, test, sample(4, seed=1), n = 4, inputs random, seed 0" in out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--proxy", "their_proxies:Mine"], "at least one expectation"),
        (["--expect", "tau>=0.5"], "name one proxy"),
        (["--proxy"], "'--proxy' requires an argument"),
        (["--proxy", "their_proxies:Mine", "--expect", "tau"], "in quotes"),
        (["--proxy", "their_proxies:Mine", "--expect", "tua>=0.5"], "unknown metric 'tua'"),
        (["--proxy", "their_proxies:Nine", "--expect", "tau>=0.5"], "cannot be imported"),
        (["--proxy", "no_such_module:Mine", "--expect", "tau>=0.5"], "No module named 'no_such_module'"),
        (["--proxy", "their_proxies:Other", "--expect", "tau>=0.5"], "no subclass of harness.Proxy"),
        (["--proxy", "their_proxies:Mine:fctor=2", "--expect", "tau>=0.5"], "'fctor'"),
        (["--proxy", "synflo", "--expect", "tau>=0.5"], "did you mean 'synflow'?"),
        (["acuracies"], "did you mean 'accuracies'?"),
        (["references"], "which file?"),
        (["baseline"], "name the file that is written: harness verify baseline baseline=FILE"),
        (["scores", "store="], "store= names no folder"),
        (["scores", "stores=[]"], "stores= names no folder"),
        (["scores", "cells=0"], "cells=0"),
        (["scores", "store=nowhere"], "no scores in nowhere over "),
    ],
)
def test_mistakes_are_answered_in_one_line(mine, capsys, arguments, words):
    assert main(["verify", *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert len(err.splitlines()) == 1
    assert words in err


def test_expectations_are_read():
    tau = Figure(Term("kendall"))
    assert parse_expectation("tau>=0.6") == Expectation(tau, ">=", 0.6)
    assert parse_expectation(" top_0.5% < .5") == Expectation(Figure(Term("top_0.5%")), "<", 0.5)
    assert parse_expectation("tau.low >= -1e-1") == Expectation(Figure(Term("kendall", end="low")), ">=", -0.1)
    assert parse_expectation("tau>tau(naswot)") == Expectation(tau, ">", Figure(Term("kendall", "naswot")))
    combined = parse_expectation("ndcg_10 - ndcg_10(rank_sum(flops, snip:batch_size=4)) >= 0")
    assert combined.figure.minus == Term("ndcg_10", "rank_sum(flops, snip:batch_size=4)")
    assert parse_expectation("(tau-tau(flops)).low>0").figure == Figure(
        Term("kendall"), Term("kendall", "flops"), "low"
    )
    assert str(parse_expectation("(tau-tau(flops)).low>0")) == "(kendall - kendall(flops)).low > 0"
    nan = float("nan")
    assert not Expectation(tau, ">=", -1.0).holds(nan, -1.0)
    assert not Expectation(tau, ">", tau).holds(1.0, nan)


@pytest.mark.parametrize(
    "text",
    ["tau", "tau>=", ">=0.5", "tau>0.5>0.1", "tau*2>1", "tau.mid>0", "tau(naswot>0", "tau()>0", "tau.low-tau>0",
     "tau-tau(flops)-rho>0", "(tau).low>0", "tau(flops))>0", "0.5<tau"],
)  # fmt: skip
def test_what_is_no_expectation(text):
    with pytest.raises(HarnessError, match="is no expectation: write METRIC>=VALUE in quotes"):
        parse_expectation(text)


def test_a_name_in_an_expectation_has_to_be_one():
    with pytest.raises(HarnessError, match="did you mean 'naswot'"):
        parse_expectation("tau>tau(naswto)")


def test_an_expectation_holds_a_proxy_against_others(mine, tmp_path, capsys):
    """`mine` counts layers; `params` and `flops` are counted beside it, on the same architectures."""
    claims = ["tau<tau(params)", "tau-tau(flops)>=0", "(tau-tau(flops)).low>-1", "tau.high>=tau.low", "rho>rho(flops)"]
    expected = [claim for text in claims for claim in ("--expect", text)]
    settings = ["population=sample(60, seed=0)", "resamples=100", f"store={tmp_path / 'none'}", "stores=[${store}]"]
    assert main(["verify", "--proxy", mine, *expected, "--json", "--junit", "found.xml", *settings]) == 1
    out = json.loads(capsys.readouterr().out)
    protocol, *checks = out["findings"]
    assert "no mini-batch, params: none, flops: none, seed 0" in protocol["detail"]
    frame = harness.score_benchmark([mine, "params", "flops"], population="sample(60, seed=0)", store=tmp_path / "own")
    accuracies = harness.load_benchmark("nasbench201").accuracies("cifar10")[frame.index]
    difference = paired_difference(frame["mine"], frame["flops"], accuracies, resamples=100)
    assert [check["figures"]["value"] for check in checks[1:3]] == [difference.value] * 2
    assert [checks[2]["figures"][end] for end in ("low", "high")] == [difference.low, difference.high]
    tau = {name: kendall_tau(frame[name], accuracies) for name in frame}
    verdicts = [tau["mine"] < tau["params"], tau["mine"] >= tau["flops"], difference.low > -1, True]
    assert [check["verdict"] for check in checks[:4]] == ["ok" if holds else "FAILS" for holds in verdicts]
    suite = ElementTree.parse("found.xml").getroot()
    assert int(suite.get("tests")) == 5
    assert int(suite.get("failures")) == out["failed"] == sum(check["verdict"] == "FAILS" for check in checks)
    assert len({case.get("name") for case in suite.iter("testcase")}) == 5
    assert main(["verify", "--proxy", mine, "--expect", "tau>=-1", "--junit", "nowhere/found.xml", *settings]) == 2
    assert "name a file in a folder that is there" in capsys.readouterr().err


# Scores computed elsewhere ---------------------------------------------------------------------------------------

CELLS = load_benchmark("nasbench201").architectures[:3]
REFERENCES = {
    "no column of a known proxy": {"arch_str": CELLS, "flop": [1.0, 2.0, 3.0]},
    "its column params is of": {"arch_str": CELLS, "params": ["1", "2", "x"]},
    "more than once": {"arch_str": [CELLS[0], CELLS[0], CELLS[1]], "params": [1.0, 2.0, 3.0]},
    "something else than text": {"arch_str": [1, 2, 3], "params": [1.0, 2.0, 3.0]},
    "hold none of the": {"arch_str": ["a", "b", "c"], "params": [1.0, 2.0, 3.0]},
    "'arch_str'": {"params": [1.0]},
}


@pytest.mark.parametrize("words", REFERENCES)
def test_reference_scores_with_which_nothing_can_be_compared_are_refused(words, store, tmp_path, capsys):
    path = tmp_path / "reference.parquet"
    pd.DataFrame(REFERENCES[words]).to_parquet(path)
    capsys.readouterr()
    assert main(["verify", "references", f"path={path}", f"store={store}", "population=all"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    (line,) = err.splitlines()
    assert words in line


def test_reference_scores_are_compared_with_ours(tmp_path, capsys):
    benchmark = load_benchmark("nasbench201")
    params = benchmark.space.topology(benchmark.architectures[:20], 10, 32)["params"]
    ScoreStore(tmp_path / "scores").append(
        ScoreKey("nasbench201", "cifar10", "none", "params", 0),
        [Row(i, float(v), 0.0, "ok", available()["params"].version) for i, v in enumerate(params)],
    )
    path = tmp_path / "reference.parquet"
    frame = pd.DataFrame({"arch_str": benchmark.architectures[:20], "params": (params // 100).astype(int)})
    frame.to_parquet(path)
    command = ["verify", "references", f"path={path}", f"store={tmp_path / 'scores'}", "population=all"]
    assert main(command) == 0
    assert "| params | params | 20 | 1.0000 | 0.999 | ok |" in capsys.readouterr().out
    frame.assign(params=-frame["params"]).to_parquet(path)
    assert main(command) == 1
    assert "DIFFERS" in capsys.readouterr().out


# The whole ------------------------------------------------------------------------------------------------------


def test_the_whole_guard_is_its_checks(monkeypatch, capsys):
    for name in GUARD:
        verdict = "FAILS" if name == "tables" else "ok"
        monkeypatch.setitem(GUARD, name, lambda config, name=name, v=verdict: iter([Finding(name, v, "seen")]))
    assert main(["verify"]) == 1
    out = capsys.readouterr().out
    assert "3 ok, 1 failed, 0 notes" in out
    assert [line.split()[1] for line in out.splitlines()[:4]] == [f"{name}:" for name in GUARD]
    assert set(CHECKS) == {"", *GUARD, "references", "nasbench101", "baseline"}


def test_the_guard_is_what_the_workflows_run():
    local = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    hosted = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8"))
    assert "make verify" in local
    assert "make lint" in local
    assert local.count("trap ") == 1  # a second one would take the place of the first
    assert any(step.get("run") == ".ci/run" for job in hosted["jobs"].values() for step in job["steps"])
