"""Tests of the engine: reproducible scores, resuming, failed rows, killed runs."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import pickle
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from multiprocessing import active_children
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import nn

import harness.proxies
from harness import cli
from harness.benchmarks.benchmark import load_benchmark
from harness.engine import workers
from harness.engine.scorer import Job, Scorer, score_subject
from harness.engine.scoring import Summary, run
from harness.engine.store import ScoreStore
from harness.errors import HarnessError, UnknownNameError
from harness.probes.base import EncodingProbe, Probe, Subject, Unscorable
from harness.probes.topology import Topology
from harness.proxies import available, get_proxy
from harness.proxies.base import Proxy
from harness.proxies.saliency import Snip
from harness.rankings.results import Reader
from harness.spaces.nasbench201 import CONV1, CONV3, NONE, POOL, SKIP, encode

BENCHMARK = load_benchmark("nasbench201")
SNIP, SYNFLOW = "snip:batch_size=4", "synflow"
SMALL = "ImageNet16-120"  # images of 16 x 16: the cheapest networks


def job(store: Path, **settings: Any) -> Job:
    defaults = {"proxies": (SNIP, SYNFLOW), "population": "sample(6, seed=0)", "device": "cpu", "workers": 1}
    return Job("nasbench201", SMALL, store=str(store), **{**defaults, **settings})


def stored(root: Path) -> dict[tuple[str, int, int], tuple]:
    """Every stored row by (proxy, seed, index), the score as text that shows each bit; nothing is left out."""
    store, found = ScoreStore(root), {}
    for key in list(store.keys()):
        frame = store.read(key)
        for index, score, status in zip(frame["index"], frame["score"], frame["status"], strict=True):
            found[key.proxy, key.seed, index] = (float(score).hex(), status)
    return found


def parts(root: Path) -> list[Path]:
    return sorted(root.rglob("part-*.parquet"))


def number_of_rows(root: Path) -> int:
    import pyarrow.parquet as pq

    return sum(pq.read_metadata(part).num_rows for part in parts(root))


def every_proxy() -> tuple[str, ...]:
    """All proxies, with the smallest mini-batches that they can read."""
    small = {}
    own = {"dextr": ":resolution=16", "knas": ":minibatches=4"}
    for name, cls in available().items():
        fields = {field.name for field in dataclasses.fields(cls)}
        small[name] = name + (":batch_size=4" if "batch_size" in fields else "") + own.get(name, "")
    return tuple(small.values())


def score_cell(cell: list[int], proxies: tuple[str, ...], seed: int = 0) -> dict[str, tuple]:
    scorer = Scorer(Job("nasbench201", "cifar10", proxies, seed=seed, device="cpu"))
    rows = scorer.score(BENCHMARK.index(encode(cell)), list(scorer.proxies))
    return {label: (None if row.score is None else row.score.hex(), row.status) for label, row in rows}


# A score depends on what is scored and on nothing else ----------------------------------------------------

CELL = [CONV3, POOL, CONV1, SKIP, NONE, CONV1]


@pytest.fixture(scope="module")
def together() -> dict[str, tuple]:
    """All proxies of one cell at once, by label."""
    return score_cell(CELL, every_proxy())


@pytest.mark.parametrize("spec", every_proxy())
def test_a_proxy_scores_alone_as_together_with_all_others(together, spec):
    assert score_cell(CELL, (spec,)) == {spec: together[spec]}


def test_most_proxies_have_a_score(together):
    assert sum(status == "ok" for _, status in together.values()) >= 25


@pytest.mark.parametrize("cell", [[NONE] * 6, [SKIP] * 6, [POOL] * 6, [NONE, NONE, CONV1, NONE, NONE, SKIP]])
def test_no_proxy_fails_by_an_exception(cell):
    """Degenerate cells have a score or a reason, and never a crash of the pass."""
    errors = {label: row[1] for label, row in score_cell(cell, every_proxy()).items() if row[1].startswith("error")}
    assert errors == {}


def test_seeds_change_the_scores_of_random_proxies_alone(together):
    other = score_cell(CELL, every_proxy(), seed=1)
    changed = {label for label in other if other[label] != together[label]}
    for label in other:
        score, status = together[label]
        if not get_proxy(label).random:
            assert label not in changed, label
        elif status == "ok" and not float.fromhex(score).is_integer():  # counts may coincide
            assert label in changed, label
    assert len(changed) >= 20


def test_global_generators_neither_change_nor_matter(together, tmp_path):
    def states() -> list[bytes]:
        numpy_state = np.random.get_state(legacy=True)
        return [torch.get_rng_state().numpy().tobytes(), pickle.dumps(numpy_state), pickle.dumps(random.getstate())]

    torch.manual_seed(1)
    np.random.seed(2)
    random.seed(3)
    before, threads = states(), torch.get_num_threads()
    assert score_cell(CELL, every_proxy()) == together
    run(job(tmp_path, limit=1), progress=False)
    assert states() == before
    assert torch.get_num_threads() == threads


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> Path:
    """24 architectures scored in this process, in one go."""
    root = tmp_path_factory.mktemp("undisturbed") / "scores"
    summary = run(job(root, population="sample(60, seed=0)"), progress=False)
    assert summary.stored_now == summary.asked > 40
    return root


def test_order_does_not_matter(undisturbed):
    scorer = Scorer(job(undisturbed))
    expected = stored(undisturbed)
    indices = sorted({index for _, _, index in expected})[:6]
    for index in reversed(indices):
        for label, row in scorer.score(index, [SYNFLOW, SNIP]):
            assert (row.score.hex(), row.status) == expected[label, 0, index]


def test_chunks_and_resuming_do_not_matter(undisturbed, tmp_path):
    """Other chunks, and a part of the run resumed with one more proxy than before."""
    settings = {"population": "sample(60, seed=0)"}
    run(job(tmp_path / "a", proxies=(SYNFLOW,), limit=5, chunk=3, **settings), progress=False)
    summary = run(job(tmp_path / "a", limit=12, chunk=1, **settings), progress=False)
    assert summary.stored_before == 5
    run(job(tmp_path / "b", limit=12, chunk=100, **settings), progress=False)
    expected, found = stored(undisturbed), stored(tmp_path / "a")
    members = BENCHMARK.population(settings["population"])[:12]
    assert len(found) == 2 * len(set(BENCHMARK.representatives[members]))
    assert stored(tmp_path / "b") == found
    assert found == {key: expected[key] for key in found}


def test_networks_that_are_alike_get_the_same_draws():
    first = BENCHMARK.index(encode([CONV1, CONV3, NONE, NONE, POOL, CONV3]))
    second = BENCHMARK.index(encode([CONV3, CONV1, NONE, NONE, CONV3, POOL]))
    third = BENCHMARK.index(encode([CONV3, CONV3, NONE, NONE, CONV3, POOL]))
    scorer = Scorer(Job("nasbench201", SMALL, (SNIP,), device="cpu"))
    seeds = [scorer.subject(index).seed for index in (first, second, third)]
    assert seeds[0] == seeds[1] != seeds[2]


# What a run computes --------------------------------------------------------------------------------------


def test_resuming_computes_only_what_is_missing(tmp_path):
    first = run(job(tmp_path, limit=2), progress=False)
    assert (first.asked, first.stored_before, first.stored_now) == (4, 0, 4)
    again = run(job(tmp_path, limit=2), progress=False)
    assert (again.asked, again.stored_before, again.stored_now) == (4, 4, 0)
    more = run(job(tmp_path, limit=4), progress=False)
    assert (more.asked, more.stored_before, more.stored_now) == (8, 4, 4)
    other = run(job(tmp_path, limit=4, proxies=(SNIP, SYNFLOW, "l2_norm")), progress=False)
    assert (other.asked, other.stored_before, other.stored_now) == (12, 8, 4)
    assert number_of_rows(tmp_path) == 12
    assert not first.failed
    assert first.errors == 0


def test_a_deleted_part_is_computed_again_with_the_same_values(tmp_path):
    run(job(tmp_path, limit=2), progress=False)
    before = stored(tmp_path)
    next(part for part in parts(tmp_path) if "proxy=synflow" in str(part)).unlink()
    summary = run(job(tmp_path, limit=2), progress=False)
    assert (summary.stored_before, summary.stored_now) == (2, 2)
    assert stored(tmp_path) == before


def test_a_new_version_of_a_proxy_is_computed_anew(tmp_path, monkeypatch):
    run(job(tmp_path, proxies=(SNIP,), limit=1), progress=False)
    monkeypatch.setattr(Snip, "version", Snip.version + 1)
    summary = run(job(tmp_path, proxies=(SNIP,), limit=1), progress=False)
    assert (summary.stored_before, summary.stored_now) == (0, 1)
    key = job(tmp_path).key(get_proxy(SNIP))
    assert [len(ScoreStore(tmp_path).read(key, version)) for version in (Snip.version, Snip.version - 1)] == [1, 1]


@pytest.mark.parametrize("name", [SNIP, "flops"])
def test_scores_of_networks_that_a_space_has_no_more_are_computed_anew(tmp_path, monkeypatch, name):
    asked, proxy = job(tmp_path, proxies=(name,), limit=1), get_proxy(name)
    run(asked, progress=False)
    benchmark = load_benchmark("nasbench201")
    (index,) = ScoreStore(tmp_path).read(asked.key(proxy), proxy.version)["index"]

    def score() -> float:
        reader = Reader(ScoreStore(tmp_path), benchmark)
        return reader.scores(name, SMALL, np.array([index]), inputs="random").values[0]

    before = score()
    assert np.isfinite(before)
    monkeypatch.setattr(type(benchmark.space), "version", 2)
    assert np.isnan(score())
    summary = run(asked, progress=False)
    assert (summary.stored_before, summary.stored_now) == (0, 1)
    frame = ScoreStore(tmp_path).read(asked.key(proxy))
    assert frame["version"].tolist() == [proxy.version, proxy.version + 1000]
    assert score() == before


def test_a_proxy_named_twice_is_computed_once(tmp_path):
    summary = run(job(tmp_path, proxies=(SNIP, "snip:batch_size=4:init=kaiming_fan_in"), limit=1), progress=False)
    assert summary.asked == summary.stored_now == number_of_rows(tmp_path) == 1


def test_keys_name_what_a_score_depends_on(tmp_path):
    run(job(tmp_path, proxies=(SNIP, SYNFLOW, "flops"), seed=5, limit=1), progress=False)
    keys = list(ScoreStore(tmp_path).keys())
    assert {(key.space, key.dataset, key.inputs, key.proxy, key.seed) for key in keys} == {
        ("nasbench201", SMALL, "random", SNIP, 5),
        ("nasbench201", SMALL, "none", SYNFLOW, 5),  # reads no mini-batch
        ("nasbench201", SMALL, "none", "flops", 0),  # draws nothing
    }


def test_counts_are_stored_for_all_and_scores_for_representatives(tmp_path, monkeypatch):
    register(monkeypatch, Faulty)
    members = BENCHMARK.population("sample(60, seed=4)")
    representatives = sorted(set(BENCHMARK.representatives[members].tolist()))
    assert not set(representatives) <= set(members.tolist())
    summary = run(
        job(tmp_path, proxies=("flops", "sed", "faulty:kind=fine"), population="sample(60, seed=4)"), progress=False
    )
    indices: dict[str, list[int]] = {"flops": [], "sed": [], "faulty:kind=fine": []}
    for label, _, index in stored(tmp_path):
        indices[label].append(index)
    assert indices == {
        "flops": members.tolist(),
        "sed": members.tolist(),
        "faulty:kind=fine": representatives,
    }
    assert summary.stored_now == 120 + len(representatives)


def test_counts_are_those_of_the_space(tmp_path):
    run(job(tmp_path, proxies=("flops", "params", "trainable_layers"), population="all"), progress=False)
    topology = BENCHMARK.space.topology(BENCHMARK.architectures, 120, 16)
    for name in ("flops", "params", "trainable_layers"):
        frame = ScoreStore(tmp_path).read(job(tmp_path).key(get_proxy(name)))
        assert frame["index"].tolist() == list(range(15_625))
        assert frame["score"].tolist() == topology[name].tolist()


@pytest.mark.parametrize("count", [1, 3, 7])
def test_shards_are_disjoint_and_complete(tmp_path, monkeypatch, count):
    register(monkeypatch, Faulty)
    settings = {"proxies": ("flops", "faulty:kind=fine"), "population": "sample(15, seed=0)"}
    run(job(tmp_path / "whole", **settings), progress=False)
    collected: dict[tuple, tuple] = {}
    for shard in range(count):
        run(job(tmp_path / f"{shard}", shard=f"{shard}/{count}", **settings), progress=False)
        piece = stored(tmp_path / f"{shard}")
        assert piece
        assert not collected.keys() & piece.keys()
        collected |= piece
    assert collected == stored(tmp_path / "whole")


def test_limit_takes_the_first_of_the_population(tmp_path):
    run(job(tmp_path, proxies=("flops",), population="no_dead_ops", limit=3), progress=False)
    assert sorted(index for _, _, index in stored(tmp_path)) == BENCHMARK.population("no_dead_ops")[:3].tolist()


# Failed rows ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Look(Probe):
    """Every observable is 1, but `broken` raises."""

    def run(self, subject: Subject, wanted: frozenset[str]) -> dict[str, Any]:
        if "broken" in wanted:
            raise RuntimeError("broken observable\nand a second line")
        if "absent" in wanted:
            raise Unscorable("nothing to look at")
        return dict.fromkeys(wanted, 1.0)


class _Test(Proxy):
    summary: ClassVar[str] = "for tests"
    citation: ClassVar[str] = "none"
    inputs: ClassVar[str] = "none"
    random: ClassVar[bool] = False


@dataclass(frozen=True)
class Faulty(_Test):
    """Fails in the way that `kind` names."""

    name: ClassVar[str] = "faulty"
    repaired: ClassVar[bool] = False

    kind: str = "nan"

    def needs(self) -> Mapping[Probe, tuple[str, ...]]:
        return {Look(): (self.kind if self.kind in ("broken", "absent") and not self.repaired else "fine",)}

    def score(self, seen: Mapping[str, Any]) -> float:
        if self.kind in ("nan", "inf", "-inf"):
            return float(self.kind)
        if self.kind == "unscorable" and not self.repaired:
            raise Unscorable("no such thing")
        if self.kind == "raises" and not self.repaired:
            raise ZeroDivisionError("by nothing\nat all")
        return sum(seen.values())


@dataclass(frozen=True)
class FaultyCount(_Test):
    """A count from encodings that is not finite for some and raises for others."""

    name: ClassVar[str] = "faulty_count"

    raises: str = ""

    def needs(self) -> Mapping[EncodingProbe, tuple[str, ...]]:
        return {Topology(): ("params",)}

    def score(self, seen: Mapping[str, Any]) -> Any:
        if self.raises:
            raise Unscorable("no count")
        values = np.asarray(seen["params"])
        return np.where(values > values.mean(), np.nan, np.where(values < values.mean(), np.inf, values))


def register(monkeypatch, *classes: type[Proxy]) -> None:
    found = {**available(), **{cls.name: cls for cls in classes}}
    monkeypatch.setattr(harness.proxies, "available", lambda: found)


STATUSES = {
    "nan": "nan",
    "inf": "inf",
    "-inf": "-inf",
    "unscorable": "no such thing",
    "absent": "nothing to look at",
    "raises": "error: ZeroDivisionError: by nothing",
    "broken": "error: RuntimeError: broken observable",
    "fine": "ok",
}


def test_failed_rows_are_kept_with_their_status(tmp_path, monkeypatch):
    register(monkeypatch, Faulty)
    specs = tuple(f"faulty:kind={kind}" if kind != "nan" else "faulty" for kind in STATUSES)
    indices = [10, 11]
    monkeypatch.setattr(type(BENCHMARK), "population", lambda self, text: np.array(indices))
    summary = run(job(tmp_path, proxies=specs), progress=False)
    store = ScoreStore(tmp_path)
    for spec, (kind, status) in zip(specs, STATUSES.items(), strict=True):
        frame = store.read(job(tmp_path).key(get_proxy(spec)))
        assert frame["index"].tolist() == indices
        assert frame["status"].tolist() == [status] * 2
        assert frame["score"].isna().all() == (kind != "fine")
        assert (frame["seconds"] >= 0).all()
    expected = {f"{spec}: {status}": 2 for spec, status in zip(specs, STATUSES.values(), strict=True)}
    expected.pop("faulty:kind=fine: ok")
    assert dict(summary.failed) == expected
    assert summary.errors == 4
    assert (summary.asked, summary.stored_now) == (16, 16)

    # Exceptions are tried again, reasons are not.
    again = run(job(tmp_path, proxies=specs), progress=False)
    assert (again.stored_before, again.stored_now, again.errors) == (12, 4, 4)
    monkeypatch.setattr(Faulty, "repaired", True)
    repaired = run(job(tmp_path, proxies=specs), progress=False)
    assert (repaired.stored_before, repaired.stored_now, repaired.errors) == (12, 4, 0)
    for kind in ("raises", "broken"):
        frame = store.read(job(tmp_path).key(get_proxy(f"faulty:kind={kind}")))
        assert frame["status"].tolist() == ["ok", "ok"]
        assert frame["score"].tolist() == [1.0, 1.0]
    assert run(job(tmp_path, proxies=specs), progress=False).stored_now == 0


def test_counts_that_fail_have_a_status_too(tmp_path, monkeypatch):
    register(monkeypatch, FaultyCount)
    run(job(tmp_path, proxies=("faulty_count",), population="sample(20, seed=0)"), progress=False)
    rows = stored(tmp_path).values()
    assert len(rows) == 20
    assert {status for _, status in rows} <= {"nan", "inf", "ok"}
    assert {status for _, status in rows} >= {"nan", "inf"}
    assert all((score == "nan") == (status != "ok") for score, status in rows)


def test_counts_that_are_undefined_do_not_end_the_run(tmp_path, monkeypatch):
    register(monkeypatch, FaultyCount)
    run(job(tmp_path, proxies=("faulty_count:raises=yes", "flops"), limit=2), progress=False)
    statuses = {(label, status) for (label, _, _), (_, status) in stored(tmp_path).items()}
    assert statuses == {("faulty_count:raises=yes", "no count"), ("flops", "ok")}


@dataclass(frozen=True)
class Choosy(EncodingProbe):
    """Reads every architecture but the heaviest of those that it is given."""

    what: str

    def read(self, space: Any, architectures: Any, classes: int, resolution: int) -> dict[str, Any]:
        counts = np.array([sum("nor_conv" in op for op in str(one).split("|")) for one in architectures])
        if counts.max() == 6:
            raise Unscorable("too heavy") if self.what == "refuses" else ValueError("too heavy")
        return {"convolutions": counts}

    def run(self, subject: Subject, wanted: frozenset[str]) -> dict[str, Any]:
        raise NotImplementedError


@dataclass(frozen=True)
class Choice(_Test):
    name: ClassVar[str] = "choice"

    what: str = "refuses"

    def needs(self) -> Mapping[EncodingProbe, tuple[str, ...]]:
        return {Choosy(self.what): ("convolutions",)}

    def score(self, seen: Mapping[str, Any]) -> Any:
        return seen["convolutions"]


@pytest.mark.parametrize(("what", "status"), [("refuses", "too heavy"), ("breaks", "error: ValueError: too heavy")])
def test_what_keeps_one_count_from_its_value_keeps_no_other(tmp_path, monkeypatch, what, status):
    register(monkeypatch, Choice)
    run(job(tmp_path, proxies=(f"choice:what={what}", "flops"), population="all"), progress=False)
    (key,) = (key for key in sorted(ScoreStore(tmp_path).keys()) if key.proxy != "flops")
    frame = ScoreStore(tmp_path).read(key, 1)
    heavy = frame["status"] == status
    assert heavy.sum() == 2**6  # each of six edges one of two convolutions
    assert (frame["status"] == "ok").sum() == len(frame) - heavy.sum() == 15625 - 2**6
    assert set(frame["score"].dropna()) == {0, 1, 2, 3, 4, 5}


def test_what_a_space_lacks_does_not_end_the_run(tmp_path):
    skip = Job("transnas101_macro", "class_scene", ("skip", "flops"), store=str(tmp_path), limit=2, device="cpu")
    run(skip, progress=False)
    statuses = {(label, status) for (label, _, _), (_, status) in stored(tmp_path).items()}
    assert statuses == {("skip", "space transnas101_macro has no skip connections to choose"), ("flops", "ok")}


def plain_network() -> Subject:
    """A classifier without any activation."""
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(4 * 36, 5))
    images = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    return Subject(network, lambda number, size: (images, torch.arange(4)), 7, (3, 8, 8), 5, torch.device("cpu"))


@dataclass(frozen=True)
class Forgetful(Probe):
    """A pass that gives one of the two things that were asked of it."""

    def run(self, subject: Subject, wanted: frozenset[str]) -> dict[str, Any]:
        return {"kept": 1.0}


@dataclass(frozen=True)
class Reads(Proxy):
    name: ClassVar[str] = "reads"
    inputs: ClassVar[str] = "none"

    what: str = "kept"

    def needs(self) -> Mapping[Probe, tuple[str, ...]]:
        return {Forgetful(): (self.what,)}

    def score(self, seen: Mapping[str, Any]) -> float:
        return seen[self.what]


def precisions() -> list[str]:
    """How this process multiplies float32: torch's settings that a user may change."""
    backends = torch.backends
    places = [backends.cudnn.conv, backends.cudnn.rnn, backends.cuda.matmul, backends.mkldnn.conv]
    return [place.fp32_precision for place in (*places, backends.mkldnn.matmul, backends.mkldnn.rnn)]


@dataclass(frozen=True)
class Precisions(Probe):
    """Whether no product may be rounded below float32; then it fails, as asked."""

    def run(self, subject: Subject, wanted: frozenset[str]) -> dict[str, Any]:
        if "full" not in wanted:
            raise RuntimeError("as asked")
        return {"full": float(set(precisions()) == {"ieee"})}


@dataclass(frozen=True)
class Full(Reads):
    name: ClassVar[str] = "full"

    what: str = "full"

    def needs(self) -> Mapping[Probe, tuple[str, ...]]:
        return {Precisions(): (self.what,)}


@pytest.mark.skipif(not hasattr(torch.backends.cudnn, "conv"), reason="torch before 2.9 has other settings")
@pytest.mark.parametrize("chosen", ["highest", "medium"])
def test_float32_is_multiplied_in_full_and_the_setting_given_back(chosen):
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(chosen)
    try:
        users = precisions()
        assert "ieee" not in users if chosen == "medium" else "tf32" in users
        assert score_subject(plain_network(), [Full()])["full"].score == 1.0
        assert precisions() == users
        assert score_subject(plain_network(), [Full("other")])["full:what=other"].status.startswith("error")
        assert precisions() == users
        assert torch.get_float32_matmul_precision() == chosen
    finally:
        torch.set_float32_matmul_precision(before)


def test_an_observable_that_a_pass_does_not_give_takes_down_its_own_proxy_only():
    found = score_subject(plain_network(), [Reads("lost"), Reads(), get_proxy(SNIP)])
    assert {label: result.status for label, result in found.items()} == {
        "reads:what=lost": "error: LookupError: Forgetful gave no lost",
        "reads": "ok",
        SNIP: "ok",
    }


def test_an_observable_that_fails_takes_down_its_own_proxy_only():
    shared = [get_proxy(spec) for spec in (SNIP, "naswot:batch_size=4", "fisher:batch_size=4")]
    assert len({probe for proxy in shared for probe in proxy.needs()}) == 1  # one pass
    found = score_subject(plain_network(), shared)
    assert {label: result.status for label, result in found.items()} == {
        SNIP: "ok",
        "naswot:batch_size=4": "the network computes no ReLU",
        "fisher:batch_size=4": "ok",
    }
    assert found["naswot:batch_size=4"].score is None
    alone = score_subject(plain_network(), shared[:1])
    assert alone[SNIP].score == found[SNIP].score

    found = score_subject(plain_network(), [Faulty("broken"), Faulty("fine"), Faulty("absent")])
    assert [result.status for result in found.values()] == [
        "error: RuntimeError: broken observable",
        "ok",
        "nothing to look at",
    ]


@dataclass(frozen=True)
class Silent(Probe):
    """Gives nothing at all."""

    def run(self, subject: Subject, wanted: frozenset[str]) -> dict[str, Any]:
        return None


@dataclass(frozen=True)
class ReadsNothing(Reads):
    name: ClassVar[str] = "reads_nothing"

    def needs(self) -> Mapping[Probe, tuple[str, ...]]:
        return {Silent(): ("all",)}


def test_a_pass_that_gives_nothing_takes_down_its_own_proxy_only():
    found = score_subject(plain_network(), [ReadsNothing(), get_proxy(SNIP)])
    assert {label: result.status for label, result in found.items()} == {
        "reads_nothing": "error: LookupError: Silent gave no all",
        SNIP: "ok",
    }


@dataclass(frozen=True)
class OtherFaulty(Faulty):
    """Another class of the same name."""


def test_two_of_one_name_are_refused(tmp_path):
    with pytest.raises(HarnessError, match=r"OtherFaulty is named 'faulty', as is .*Faulty: give it a name of its own"):
        run(job(tmp_path, proxies=(Faulty(), OtherFaulty())), progress=False)
    with pytest.raises(HarnessError, match="is named 'faulty'"):
        harness.score(nn.Linear(1, 1), torch.ones(2, 3, 4, 4), proxies=[Faulty(), OtherFaulty()])


def test_a_mistake_in_a_setting_ends_the_run_with_its_message(tmp_path):
    with pytest.raises(UnknownNameError, match="did you mean 'kaiming_fan_in'"):
        run(job(tmp_path, proxies=("snip:batch_size=4:init=kaiming_fan",), limit=1), progress=False)
    assert parts(tmp_path) == []


@pytest.mark.parametrize(
    "error", [HarnessError("cause: fix"), UnknownNameError("proxy", "snp", ["snip", "synflow"]), Unscorable("why")]
)
def test_errors_come_back_from_a_worker_process(error):
    back = pickle.loads(pickle.dumps(error))
    assert type(back) is type(error)
    assert str(back) == str(error)


def test_interrupt_keeps_finished_rows(tmp_path, monkeypatch):
    score, calls = Scorer.score, []

    def third_is_interrupted(self, index, labels):
        calls.append(index)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return score(self, index, labels)

    monkeypatch.setattr(Scorer, "score", third_is_interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(job(tmp_path, chunk=1), progress=False)
    assert {index for _, _, index in stored(tmp_path)} == set(calls[:2])
    monkeypatch.undo()
    assert run(job(tmp_path), progress=False).stored_before == 4


def test_a_full_disk_ends_the_run_and_keeps_earlier_rows(tmp_path, monkeypatch):
    append, calls = ScoreStore.append, []

    def disk_is_full(self, key, rows, *rest):
        calls.append(key)
        if len(calls) > 2:
            raise HarnessError("cannot write scores: free some space")
        return append(self, key, rows, *rest)

    monkeypatch.setattr(ScoreStore, "append", disk_is_full)
    with pytest.raises(HarnessError, match="free some space"):
        run(job(tmp_path, chunk=1, flush_seconds=0.0), progress=False)
    monkeypatch.undo()
    assert len(stored(tmp_path)) == 2
    assert run(job(tmp_path), progress=False).stored_before == 2


def test_a_partition_that_cannot_be_written_keeps_no_other_from_its_rows(tmp_path, monkeypatch):
    """Whichever comes first."""
    append = ScoreStore.append
    for label in (SNIP, SYNFLOW):
        root = tmp_path / label.replace(":", "-")

        def one_fails(self, key, rows, *rest, label=label):
            if key.proxy == label:
                raise HarnessError("no room")
            return append(self, key, rows, *rest)

        monkeypatch.setattr(ScoreStore, "append", one_fails)
        with pytest.raises(HarnessError, match="no room"):
            run(job(root, proxies=(SNIP, SYNFLOW)), progress=False)
        monkeypatch.undo()
        assert {proxy for proxy, *_ in stored(root)} == {SNIP, SYNFLOW} - {label}


def images_file(path: Path, number: int, seed: int = 0) -> Path:
    rng = np.random.RandomState(seed)
    np.savez(path, images=rng.randint(0, 256, (number, 16, 16, 3), dtype=np.uint8), labels=np.arange(number) % 120)
    return path


def test_scores_of_other_images_are_not_added_to_a_partition(tmp_path):
    first, second = images_file(tmp_path / "a.npz", 50), images_file(tmp_path / "b.npz", 30)
    store = tmp_path / "scores"
    on = {"inputs": SMALL, "proxies": (SNIP, SYNFLOW, "flops")}
    run(job(store, **on, inputs_path=str(first), limit=2), progress=False)
    keys = list(ScoreStore(store).keys())
    assert {key.proxy: ScoreStore(store).images(key) is not None for key in keys} == {
        SNIP: True,
        SYNFLOW: False,
        "flops": False,
    }
    before = stored(store)
    with pytest.raises(HarnessError, match=r"those at hand are .*: point inputs\.path at the same images"):
        run(job(store, **on, inputs_path=str(second)), progress=False)
    assert stored(store) == before
    # Nor do they pass for those of the images at hand where nothing is to be computed.
    with pytest.raises(HarnessError, match=r"those at hand are .*: point inputs\.path at the same images"):
        run(job(store, **on, inputs_path=str(second), limit=2), progress=False)
    # Where none are read, any will do. So do those of the first run, and noise.
    run(job(store, **{**on, "proxies": (SYNFLOW,)}, inputs_path=str(second), limit=3), progress=False)
    run(job(store, **on, inputs_path=str(first), flush_seconds=0.0), progress=False)
    run(job(store, proxies=(SNIP,)), progress=False)
    keys = list(ScoreStore(store).keys())
    images = {(key.inputs, key.proxy): ScoreStore(store).images(key) for key in keys}
    assert images["random", SNIP] is None
    assert images[SMALL, SNIP] is not None
    assert len(stored(store)) == 18


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (RuntimeError("CUDA error: initialization error\nmore"), r"\(RuntimeError: CUDA error: initialization error\)"),
        (HarnessError("no images: set inputs.path"), "^no images: set inputs.path$"),
    ],
)
def test_what_keeps_a_worker_from_starting_is_told(monkeypatch, error, message):
    def fails(self, job):
        raise error

    monkeypatch.setattr(Scorer, "__init__", fails)
    monkeypatch.setattr(workers, "_scorer", None)
    monkeypatch.setattr(workers.signal, "signal", lambda *args: None)
    monkeypatch.setattr(workers.threading, "Thread", lambda **options: SimpleNamespace(start=lambda: None))
    monkeypatch.setattr(workers, "_keep_freed_memory", lambda: None)
    workers._start_worker(Job("nasbench201", SMALL, (SNIP,)))
    with pytest.raises(HarnessError, match=message):
        workers._score_chunk([(0, [SNIP])])


def test_a_run_compacts_only_what_it_appended_to(tmp_path, monkeypatch):
    """Partitions that runs of several seeds share, such as counts, may be another's at the moment."""
    run(job(tmp_path), progress=False)
    compacted = []
    monkeypatch.setattr(ScoreStore, "compact", lambda self, key, writer: compacted.append(key.proxy))
    run(job(tmp_path, proxies=(SNIP, SYNFLOW, "naswot:batch_size=4")), progress=False)
    assert compacted == ["naswot:batch_size=4"]


def test_finished_rows_are_written_while_the_run_goes_on(tmp_path, monkeypatch):
    seen = []
    score = Scorer.score

    def count_parts(self, index, labels):
        seen.append(len(parts(tmp_path)))
        return score(self, index, labels)

    monkeypatch.setattr(Scorer, "score", count_parts)
    run(job(tmp_path, proxies=(SNIP,), chunk=1, flush_seconds=0.0), progress=False)
    assert seen == list(range(len(seen)))
    assert len(seen) == 6
    assert len(parts(tmp_path)) == 1  # compacted at the end


def test_summary_counts_errors_only():
    summary = Summary()
    summary.failed["snip: nan"] += 3
    summary.failed["snip: error: RuntimeError: x"] += 2
    summary.failed["naswot: no error to speak of"] += 1
    assert summary.errors == 2


# Killed runs ----------------------------------------------------------------------------------------------


def children(pid: int) -> set[int]:
    """Living children of a process."""
    found = set()
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            state, parent = (folder / "stat").read_text().rpartition(")")[2].split()[:2]
            if int(parent) == pid and state not in "ZX":
                found.add(int(folder.name))
    return found


def alive(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    return False


def wait_for(condition, seconds: float, what: str) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited {seconds} s in vain for: {what}"
        time.sleep(0.01)


def workers_of(pid: int) -> set[int]:
    """Its children that were spawned as workers."""
    found = set()
    for child in children(pid):
        with contextlib.suppress(OSError):
            if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes():
                found.add(child)
    return found


class Command:
    """`harness score` of 24 architectures by two workers, as a process of its own."""

    def __init__(self, root: Path, *settings: str):
        self.root = root
        self.errors = root.parent / "stderr"
        self.arguments = [
            *("score", f"dataset={SMALL}", f"proxies=[{SNIP},{SYNFLOW}]", "population=sample(60, seed=0)"),
            *(f"store={root}", "device=cpu", "chunk=1", "flush_seconds=0.1", "workers=2", *settings),
        ]
        code = "import sys; from harness.cli import main; sys.exit(main(sys.argv[1:]))"
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        with open(self.errors, "wb") as errors:
            self.process = subprocess.Popen(
                [sys.executable, "-c", code, *self.arguments],
                stdout=subprocess.DEVNULL,
                stderr=errors,
                env=environment,
                cwd=root.parent,
            )
        self.family: set[int] = set()

    def wait_for_parts(self, count: int) -> None:
        def written() -> bool:
            assert self.process.poll() is None, self.errors.read_text()
            return len(parts(self.root)) >= count

        wait_for(written, 300, f"{count} parts")

    def signal(self, number: int) -> None:
        self.family |= children(self.process.pid)
        os.kill(self.process.pid, number)
        self.process.wait(timeout=60)

    def clean(self) -> None:
        """End what the test started and left, by its process ids."""
        if self.process.poll() is None:
            self.family |= children(self.process.pid)
            self.process.kill()
            self.process.wait(timeout=60)
        for pid in self.family:
            if alive(pid):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)


@pytest.fixture
def command(tmp_path) -> Iterator[Any]:
    started: list[Command] = []

    def start(*settings: str) -> Command:
        started.append(Command(tmp_path / "scores", *settings))
        return started[-1]

    yield start
    for each in started:
        each.clean()


linux = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads the process table in /proc")


@linux
def test_killed_run_goes_on_where_it_was(command, undisturbed):
    running = command()
    running.wait_for_parts(2)
    running.signal(signal.SIGKILL)
    assert len(running.family) >= 2
    wait_for(lambda: not any(map(alive, running.family)), 60, "the workers to die with their parent")
    finished = stored(running.root)
    rows = number_of_rows(running.root)
    expected = stored(undisturbed)
    check_that_rows_were_kept(running.root, undisturbed)

    summary = run(job(running.root, population="sample(60, seed=0)"), progress=False)
    assert summary.stored_before == len(finished) == rows
    assert summary.stored_now == len(expected) - len(finished)
    assert number_of_rows(running.root) == len(expected)  # each index once
    assert stored(running.root) == expected


@linux
def test_workers_that_were_starting_die_with_their_parent(command):
    running = command()
    wait_for(lambda: workers_of(running.process.pid), 300, "a worker")
    time.sleep(0.2)  # it has been told what to do, and is importing
    running.signal(signal.SIGKILL)
    assert running.family
    wait_for(lambda: not any(map(alive, running.family)), 60, "the workers to die with their parent")


def run_disturbed(root: Path, rows: int, disturb: Callable[[], None], workers: int = 2) -> int:
    """Exit code of a run that is disturbed from another thread once that many rows are stored."""
    ended = threading.Event()

    def wait_and_disturb() -> None:
        while not ended.wait(0.01):
            if number_of_rows(root) >= rows:
                disturb()
                return

    thread = threading.Thread(target=wait_and_disturb)
    thread.start()
    try:
        return cli.main(
            [
                *("score", f"dataset={SMALL}", f"proxies=[{SNIP},{SYNFLOW}]", "population=sample(60, seed=0)"),
                *(f"store={root}", "device=cpu", "chunk=1", "flush_seconds=0.1", f"workers={workers}"),
            ]
        )
    finally:
        ended.set()
        thread.join()


def messages(capsys) -> list[str]:
    """Lines on standard error, without those of the progress, which a slow machine gets to print and wipes away."""
    return [line for line in capsys.readouterr().err.strip().splitlines() if line.strip() and " networks, " not in line]


def check_that_rows_were_kept(root: Path, undisturbed: Path) -> None:
    """Some rows, and those that another process computed in one go, bit for bit."""
    expected, found = stored(undisturbed), stored(root)
    assert 0 < len(found) < len(expected)
    assert found == {key: expected[key] for key in found}


@pytest.mark.parametrize(("number", "workers"), [(signal.SIGINT, 2), (signal.SIGTERM, 1)])
def test_a_stopped_run_stores_what_is_finished(tmp_path, capsys, undisturbed, number, workers):
    """Ctrl-C, and what a scheduler sends."""
    handler = signal.getsignal(number)
    if number == signal.SIGINT:  # which a job in the background starts with ignored
        signal.signal(number, signal.default_int_handler)
    running = []

    def stop() -> None:
        running.extend(active_children())
        if signal.getsignal(number) != signal.SIG_DFL:  # which would end the tests
            os.kill(os.getpid(), number)

    try:
        code = run_disturbed(tmp_path, 4, stop, workers)
    finally:
        signal.signal(number, handler)
    assert code == 130
    assert messages(capsys) == ["harness: stopped; finished scores are stored, the same command goes on from there"]
    check_that_rows_were_kept(tmp_path, undisturbed)
    wait_for(lambda: not active_children(), 60, "the workers to end")
    assert {process.exitcode for process in running} <= {-signal.SIGKILL}  # none was waited for to finish its chunk


def test_a_worker_that_dies_ends_the_run_with_its_rows_kept(tmp_path, capsys, undisturbed):
    code = run_disturbed(tmp_path, 4, lambda: os.kill(active_children()[0].pid, signal.SIGKILL))
    assert code == 2
    (line,) = messages(capsys)
    assert line.startswith("harness: a worker process died")
    assert "run the same command again" in line
    check_that_rows_were_kept(tmp_path, undisturbed)
    wait_for(lambda: not active_children(), 60, "the other worker to end")
