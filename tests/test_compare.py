"""Tests of `harness compare`: differences, ranks and groups against those computed by hand, files, and mistakes."""

from __future__ import annotations

import csv
import json
import math
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import harness
from harness.benchmarks.benchmark import load_benchmark
from harness.cli import main
from harness.cli.jobs import scored
from harness.comparison.field import choose
from harness.comparison.matrix import places_of
from harness.comparison.scores import contestant, contestants, place
from harness.correlation import correlate, kendall_tau, paired_difference, sample_many
from harness.engine.definitions import definition
from harness.engine.store import Row, ScoreKey, ScoreStore
from harness.errors import HarnessError
from harness.proxies import get_proxy, spec_of
from harness.tables.groups import margins

BENCHMARK = load_benchmark("nasbench201")
ACCURACIES = BENCHMARK.accuracies("cifar10").to_numpy()
#: Of all cells: many are represented by another one, whose row they share.
SAMPLE = "sample(80, seed=3)"

MINE = '''
from dataclasses import dataclass
from typing import ClassVar

from harness import Proxy
from harness.probes.topology import Topology


@dataclass(frozen=True)
class Mine(Proxy):
    """Parameters, to a power."""

    name: ClassVar[str] = "mine"
    summary: ClassVar[str] = "parameters"
    citation: ClassVar[str] = "nobody"
    inputs: ClassVar[str] = "none"
    random: ClassVar[bool] = False

    power: float = 1.0

    def needs(self):
        return {Topology(): ("params",)}

    def score(self, seen):
        return seen["params"] ** self.power


@dataclass(frozen=True)
class Taken(Mine):
    name: ClassVar[str] = "flops"
'''


def append(root: Path, proxy: str, noise: float, population: str = SAMPLE, inputs: str = "none", seed: int = 0) -> None:
    """Accuracies with noise of `noise` percentage points, as scores of the networks of a population."""
    members = np.unique(BENCHMARK.representatives[BENCHMARK.population(population)])
    draws = np.random.RandomState(len(proxy)).randn(len(members))
    rows = [
        Row(int(i), float(ACCURACIES[i] + noise * draw), 0.25, "ok", get_proxy(proxy).version)
        for i, draw in zip(members, draws, strict=True)
    ]
    ScoreStore(root).append(ScoreKey("nasbench201", "cifar10", inputs, proxy, seed), rows)


@pytest.fixture
def store(tmp_path, monkeypatch) -> Path:
    """A user's store of five proxies on a sample, and their module in the working directory."""
    root = tmp_path / "scores"
    for proxy, noise, inputs in (
        ("naswot", 2.0, "cifar10"), ("zico", 6.0, "random"), ("flops", 12.0, "none"), ("params", 12.0, "none"),
        ("synflow", 30.0, "none"),
    ):  # fmt: skip
        append(root, proxy, noise, inputs=inputs)
    monkeypatch.setenv("NAS_HARNESS_STORE", str(root))
    (tmp_path / "their_proxies.py").write_text(MINE, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry not in ("", str(tmp_path))])
    monkeypatch.delitem(sys.modules, "their_proxies", raising=False)
    return root


def compared(*arguments: Any, **options: Any) -> Any:
    return harness.compare(*arguments, **{"population": SAMPLE, "resamples": 100, "score": False, **options})


# Figures -------------------------------------------------------------------------------------------------------


def test_differences_are_the_paired_ones_of_the_scores_that_are_loaded(store):
    table = compared("naswot", against=["zico", "flops"])
    frame = harness.load_scores("nasbench201", "cifar10", ["naswot", "zico", "flops"], SAMPLE)
    own = ScoreStore(store).read(ScoreKey("nasbench201", "cifar10", "cifar10", "naswot", 0))["index"]
    assert len(frame) == 80 > len(set(own) & set(frame.index)), "rows that another network's score serves"
    assert not frame.isna().any().any()
    accuracies = BENCHMARK.accuracies("cifar10")[frame.index]
    for other in ("zico", "flops"):
        for metric in ("kendall", "spearman", "ndcg_8"):
            expected = paired_difference(frame["naswot"], frame[other], accuracies, metric, resamples=100)
            found = table.loc[other, [f"difference_{metric}{end}" for end in ("", "_low", "_high")]]
            assert found.tolist() == [expected.value, expected.low, expected.high]
    alone = correlate(frame["zico"], accuracies, "tau", resamples=100)["tau"]
    assert table.loc["zico", ["kendall", "kendall_low", "kendall_high"]].tolist() == [
        alone.value,
        alone.low,
        alone.high,
    ]
    assert table.attrs["n"] == 80
    assert table.attrs["P"] == 8
    assert table.index.tolist() == ["naswot", "zico", "flops"]
    assert table["rank"].tolist() == [1, 2, 3]


def test_marks_are_corrected_for_all_differences(store):
    table = compared(["naswot", "synflow"])
    names = ["naswot", "zico", "flops", "params", "synflow"]
    frame = harness.load_scores(proxies=names, population=SAMPLE)
    accuracies = ACCURACIES[frame.index]
    found = sample_many({name: frame[name].to_numpy() for name in names}, accuracies, "kendall", 100)
    pairs = [(own, other) for own in ("naswot", "synflow") for other in names if other != own]
    values = np.array([found[a].values["kendall"] - found[b].values["kendall"] for a, b in pairs])
    drawn = np.stack([found[a].resampled["kendall"] - found[b].resampled["kendall"] for a, b in pairs])
    apart = np.abs(values) > margins(values, drawn)
    assert apart.any()
    for (own, other), is_apart in zip(pairs, apart, strict=True):
        assert table.loc[other, f"significant_kendall of {own}"] == is_apart
    # One alone is apart where its 95% interval is; all together reach further.
    assert (margins(values, drawn) >= [margins(values[i : i + 1], drawn[i : i + 1])[0] for i in range(8)]).all()


def test_a_regret_is_better_where_it_is_lower(store):
    table = compared("naswot", against="synflow", metric="regret_3")
    assert table.index[0] == (
        "naswot" if table.loc["naswot", "regret_3"] <= table.loc["synflow", "regret_3"] else "synflow"
    )
    difference = table.loc["synflow", "regret_3"] - table.loc["naswot", "regret_3"]
    assert table.loc["synflow", "difference_regret_3"] == difference


def test_a_learned_ranking_is_compared_where_it_was_not_trained(store, monkeypatch):
    pytest.importorskip("sklearn")
    population = "sample(1100, seed=0)"
    append(store, "trainable_layers", 8.0, population)
    table = compared("trainable_layers", against=["graf_model"], population=population)
    assert table.loc["graf_model", "n"] == 76
    assert table.loc["trainable_layers", "n"] == 1100
    assert math.isnan(table.loc["graf_model", "rank"])
    frame = harness.load_scores(proxies=["trainable_layers", "graf_model"], population=population)
    assert set(frame.attrs["status"]["graf_model"].values()) == {"trained on"}
    scored_ = frame[frame["graf_model"].notna()]
    expected = paired_difference(
        scored_["trainable_layers"], scored_["graf_model"], ACCURACIES[scored_.index], resamples=100
    )
    assert table.loc["graf_model", "difference_kendall"] == expected.value
    assert table.loc["graf_model", "difference_kendall_high"] == expected.high


def test_others_are_all_that_are_complete_and_the_rest_is_named(store):
    append(store, "snip", 5.0, "sample(40, seed=3)", inputs="random")  # on half of them
    table = compared("zico")
    assert set(table.index) == {"naswot", "zico", "flops", "params", "synflow"}
    assert table.attrs["absent"]["snip"] == "not stored on this population"
    assert table.attrs["absent"]["az_nas"] == "not stored on this population"
    assert "on noise, where its definition reads images" in table.attrs["notes"]["zico"]
    assert "naswot" not in table.attrs["notes"]


def test_the_population_is_the_largest_that_the_others_share(store):
    for proxy in ("flops", "params", "synflow"):
        append(store, proxy, 9.0, "sample(300, seed=0)")
    where = place("nasbench201", None, ScoreStore(store))
    mine, others = [contestant("zico")], contestants(["flops", "params", "synflow"], where)
    assert choose(where, mine, others) == ("sample(300, seed=0)", [])
    assert choose(where, mine, others, modest=True) == ("sample(100, seed=0)", ["sample(300, seed=0)"])
    append(store, "zico", 6.0, "sample(100, seed=0)", inputs="random")
    where = place("nasbench201", None, ScoreStore(store))
    assert choose(where, mine, others) == ("sample(100, seed=0)", ["sample(300, seed=0)"])
    table = harness.compare("zico", resamples=0, score=False)
    assert table.attrs["population"] == "sample(100, seed=0)"
    assert "sample(300, seed=0)" in table.attrs["next"]


def test_inputs_that_are_none_are_named(store):
    with pytest.raises(HarnessError, match="unknown inputs 'cifar-10': did you mean 'cifar10'"):
        harness.load_scores(proxies="zico", population=SAMPLE, inputs="cifar-10")


def test_the_next_command_asks_the_same(store, capsys):
    asked = ["target=valid_12ep", "metric=spearman"]
    assert main(["compare", "zico", f"population={SAMPLE}", "against=[naswot]", "resamples=10", *asked]) == 0
    following = capsys.readouterr().out.splitlines()[-1]
    asked = 'target=valid_12ep metric=spearman "against=[naswot]"'
    assert f"harness compare zico {asked} benchmark=nasbench201" in following
    assert main(["compare", "zico", f"population={SAMPLE}", "resamples=10"]) == 0
    following = capsys.readouterr().out.splitlines()[-1]
    assert "harness compare zico benchmark=nasbench201" in following


def test_a_matrix_has_mean_ranks_of_those_on_every_dataset(store):
    for dataset in ("cifar100", "ImageNet16-120"):
        for proxy, sign in (("naswot", -1), ("zico", 1), ("synflow", 2)):
            rows = [Row(int(i), sign * float(ACCURACIES[i]), 0.1, "ok", 1) for i in range(60)]
            ScoreStore(store).append(ScoreKey("nasbench201", dataset, "random", proxy, 0), rows)
    # `synflow` reads nothing: what is stored under noise is none of its scores.
    matrix = harness.compare("naswot", benchmark="all", population=SAMPLE, resamples=0, score=False, against=["zico"])
    assert [name for name in matrix.columns if "/" in name] == ["nasbench201/cifar10"]
    assert matrix.loc["naswot", "mean_rank"] == 1
    left_out = matrix.attrs["left_out"]
    assert "harness score" in left_out["nasbench201/cifar100"]
    assert ("nasbench101", "cifar10") in places_of("all")
    assert places_of(["nasbench201/cifar100"]) == [("nasbench201", "cifar100")]


# A proxy of one's own ------------------------------------------------------------------------------------------


def test_a_proxy_of_a_module_is_scored_and_stands_out(store, capsys):
    assert main(["compare", "their_proxies:Mine:power=2", f"population={SAMPLE}", "resamples=50", "output=out"]) == 0
    out = capsys.readouterr().out
    assert re.search(r"^>  mine:power=2\.0 ", out, re.MULTILINE)
    assert f"population {SAMPLE}, n = 80; seed 0; nDCG over the 8 best-scored" in out
    assert out.splitlines()[-1].startswith("next: ")
    rows = list(csv.DictReader(Path("out/comparison.csv").read_text(encoding="utf-8").splitlines()))
    assert [row["proxy"] for row in rows if row["named"] == "True"] == ["mine:power=2.0"]
    assert {(row["benchmark"], row["population"], row["P"], row["seed"]) for row in rows} == {
        ("nasbench201", SAMPLE, "8", "0")
    }
    content = json.loads(Path("out/comparison.json").read_text(encoding="utf-8"))
    assert content["named"] == {"mine:power=2.0": "their_proxies:Mine:power=2.0"}
    frame = harness.load_scores(proxies="their_proxies:Mine:power=2", population=SAMPLE)
    tau = kendall_tau(frame.iloc[:, 0], ACCURACIES[frame.index])
    (row,) = [row for row in content["rows"] if row["named"]]
    assert row["metrics"]["kendall"]["value"] == tau
    assert "**mine:power=2.0**" in Path("out/comparison.md").read_text(encoding="utf-8")
    assert r"\textbf{mine:power=2.0}" in Path("out/comparison.tex").read_text(encoding="utf-8")


def test_images_at_hand_are_not_replaced_by_noise(store, tmp_path):
    """`zico` is complete on noise; with images it is scored on these, and its row says so."""
    images = np.random.RandomState(0).randint(0, 256, (8, 32, 32, 3)).astype(np.uint8)
    np.savez(tmp_path / "images.npz", images=images, labels=np.arange(8) % 10)
    small = {"population": "sample(3, seed=3)", "against": ["flops"], "resamples": 0, "workers": 1, "progress": False}
    spec = "snip:batch_size=4"
    noise = harness.compare(spec, **small)
    assert noise.loc[spec, "inputs"] == "random"
    table = harness.compare(spec, inputs="cifar10", inputs_path=tmp_path / "images.npz", **small)
    assert table.loc[spec, "inputs"] == "cifar10"
    assert not table.attrs["notes"]


def test_the_page_loads_nothing_and_has_the_figures(store, capsys):
    pytest.importorskip("altair")
    assert main(["compare", "naswot", f"population={SAMPLE}", "resamples=20", "score=false", "output=out"]) == 0
    page = Path("out/comparison.html").read_text(encoding="utf-8")
    assert len(page) < 5_000_000
    visible = re.sub(r"<script>.*?</script>", "", page, flags=re.DOTALL)
    assert not re.search(r'src=|href="(?!data:|#)|url\(', visible)
    shown = capsys.readouterr().out
    tau = re.search(r"naswot +1 +([\d.]+)", shown)[1]
    assert f"<td>{tau} <small>" in visible
    data = json.loads(re.search(r"<script>window.HARNESS = (.*?);</script>", page, re.DOTALL)[1])
    drawn = data["places"]["nasbench201/cifar10"]
    assert len(drawn["points"]["naswot"]["index"]) == 80
    assert {row[0] for row in drawn["differences"]["naswot"]} == {"zico", "flops", "params", "synflow"}


def test_the_page_draws_its_charts_in_a_browser(store):
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    pytest.importorskip("altair")
    path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if path is None:
        pytest.skip("no Chromium")
    assert main(["compare", "naswot", f"population={SAMPLE}", "resamples=20", "score=false", "output=out"]) == 0
    said: list[str] = []
    with playwright.sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=path, args=["--no-sandbox"])
        page = chromium.new_page(viewport={"width": 390, "height": 844})
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("request", lambda request: said.append(request.url) if request.url.startswith("http") else None)
        page.goto(Path("out/comparison.html").absolute().as_uri())
        for figure in page.query_selector_all("figure"):
            figure.scroll_into_view_if_needed()
            figure.wait_for_selector("svg", timeout=20_000)
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        assert page.locator("figure svg").count() == 2
        page.locator("figure .chart").first.focus()
        page.keyboard.press("Home")
        assert "apart from 0" in page.locator(".tip").first.inner_text()
        chromium.close()
    assert said == []


def test_scores_of_changed_code_are_refused(store, tmp_path, monkeypatch):
    options = {"population": SAMPLE, "workers": 1}
    harness.score_benchmark("their_proxies:Mine", **options)
    module = tmp_path / "their_proxies.py"

    def changed(old: str, new: str) -> Any:
        module.write_text(module.read_text(encoding="utf-8").replace(old, new), encoding="utf-8")
        monkeypatch.delitem(sys.modules, "their_proxies")
        import importlib
        import linecache

        importlib.invalidate_caches()
        linecache.clearcache()
        monkeypatch.setattr(sys, "dont_write_bytecode", True)
        for cache in tmp_path.glob("__pycache__/*"):
            cache.unlink()
        return get_proxy("their_proxies:Mine")

    before = definition(get_proxy("their_proxies:Mine"))
    assert definition(changed("Parameters, to a power.", "Another docstring.")) == before
    changed('seen["params"] **', '-seen["params"] **')
    for use in (harness.score_benchmark, harness.compare):
        changed_code = r"code of their_proxies:Mine has changed .*version: ClassVar\[int\] = 2"
        with pytest.raises(HarnessError, match=changed_code):
            use("their_proxies:Mine", **options)
    with pytest.raises(HarnessError, match="has changed"):
        harness.load_scores(proxies="their_proxies:Mine", population=SAMPLE)
    changed("    power: float", "    version: ClassVar[int] = 2\n\n    power: float")
    negated = harness.score_benchmark("their_proxies:Mine", **options)
    assert (negated["mine"] < 0).all()
    assert definition(get_proxy("snip")) is None


def test_a_name_that_another_proxy_bears_is_refused(store):
    with pytest.raises(HarnessError, match=r"their_proxies:Taken is named 'flops', as is harness\.proxies\.counts"):
        harness.compare("their_proxies:Taken", population=SAMPLE)
    assert spec_of(get_proxy("their_proxies:Mine:power=3")) == "their_proxies:Mine:power=3.0"
    assert spec_of(get_proxy("snip:batch_size=4")) == "snip:batch_size=4"


def test_names_of_a_scoring_run(store):
    assert scored(["az_nas", "flops"], BENCHMARK, "cifar10") == (
        "az_expressivity",
        "az_progressivity",
        "az_trainability",
        "flops",
    )
    assert scored(["their_proxies:Mine"], BENCHMARK, "cifar10") == ("their_proxies:Mine",)
    every = scored(["all"], BENCHMARK, "cifar10")
    assert "snip" in every
    assert "dss" not in every, "no attention in these cells"


# Mistakes ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["compare"], "name a proxy to compare"),
        (["compare", "naswto", "score=false"], "did you mean 'naswot'?"),
        (["compare", "their_proxies:Nine"], "cannot be imported"),
        (["compare", "their_proxies:Mine", "score=false", f"population={SAMPLE}"], "proxies=[their_proxies:Mine]"),
        (["compare", "naswot", "against=[snip]", "score=false", f"population={SAMPLE}"], "harness score benchmark="),
        (["compare", "naswot", "metric=ndgc", "score=false", f"population={SAMPLE}"], "did you mean 'ndcg'"),
        (["compare", "dss", "score=false"], "no attention in this space"),
        (["compare", "naswot", "target=edgegpu_latency", "metric=ndcg", "score=false", f"population={SAMPLE}"],
         "means nothing for edgegpu_latency"),
        (["compare", "naswot", "benchmrk=all"], "did you mean 'benchmark'?"),
        (["compare", "naswot", "benchmark=nasbench2O1"], "did you mean 'nasbench201'?"),
        (["describe", "vkdwn"], "did you mean 'vkdnw'?"),
    ],
)  # fmt: skip
def test_mistakes_are_answered_in_one_line(store, capsys, words, said):
    assert main(words) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert len(err.splitlines()) == 1
    assert said in err


def test_nothing_is_compared_where_nothing_is_stored(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("NAS_HARNESS_STORE", str(tmp_path / "none"))
    assert main(["compare", "flops", "score=false"]) == 2
    assert "no scores of other proxies on nasbench201/cifar10 are stored: run `harness score" in capsys.readouterr().err
