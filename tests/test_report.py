"""Tests of plots and page: they show what the store holds, nothing that it lacks, and the same bytes every time."""

from __future__ import annotations

import csv
import dataclasses
import html
import json
import re
import shlex
import shutil
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from harness import __version__
from harness.benchmarks.benchmark import list_benchmarks, load_benchmark
from harness.charts import definitions
from harness.charts.imprint import imprint
from harness.charts.vega import SHADES, bundle, filled
from harness.cli import main
from harness.cli.quote import quoted
from harness.config import RowConfig, compose_config
from harness.correlation import correlate, estimate, ndcg
from harness.engine.store import Row, ScoreKey, ScoreStore
from harness.errors import HarnessError
from harness.proxies import available, get_proxy
from harness.rankings.aggregates import AGGREGATES
from harness.rankings.results import Reader, inputs_of
from harness.report import measures
from harness.report.measures import (
    Board,
    Entry,
    Estimates,
    band,
    band_estimates,
    chance_curve,
    cutoffs,
    is_sample,
    leaderboard_rows,
    ndcg_curve,
    seed_estimates,
    whole,
)
from harness.report.page import build_page
from harness.report.plots import PLOTS, choose
from harness.report.printed import Printed, printed
from harness.report.standing import cells_of, standing
from harness.tables.cells import load_table
from harness.tables.leaderboard import build_leaderboard
from harness.tables.measure import Measurements, resamples_for

BENCHMARK = load_benchmark("nasbench301")
ACCURACIES = BENCHMARK.accuracies("cifar10").to_numpy()
SAMPLE = "sample(300, seed=0)"
RESAMPLES = 20


def put(store: ScoreStore, proxy: str, indices: np.ndarray, noise: float, seed: int = 0, lost: int = 0) -> None:
    """Scores that follow the accuracies up to noise; the first `lost` architectures get a status instead."""
    scores = ACCURACIES[indices] + noise * np.random.RandomState(seed + len(proxy)).standard_normal(len(indices))
    version = get_proxy(proxy).version
    key = ScoreKey(BENCHMARK.name, "cifar10", inputs_of(get_proxy(proxy), "paper", "cifar10"), proxy, seed)
    rows = [
        Row(int(i), None if place < lost else float(score), 0.5 * noise, "zero" if place < lost else "ok", version)
        for place, (i, score) in enumerate(zip(indices, scores, strict=True))
    ]
    store.append(key, rows)


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """Made scores: of everything, of a sample with two seeds, with failures, and of too few architectures."""
    store = ScoreStore(tmp_path_factory.mktemp("made") / "scores")
    everything, sample = np.arange(len(BENCHMARK)), BENCHMARK.population(SAMPLE)
    for proxy, noise in (("flops", 0.2), ("params", 0.4), ("sed", 0.8)):
        put(store, proxy, everything, noise)
    put(store, "synflow", sample, 0.3, seed=0)
    put(store, "synflow", sample, 0.3, seed=1)
    put(store, "snip", sample, 0.6, lost=3)
    put(store, "snip:init=default", sample, 0.5)
    put(store, "ntk", sample, 0.7)
    put(store, "nregions", sample, 0.9)
    put(store, "zen", sample[:-1], 0.1)
    return store.root


@pytest.fixture
def board(root) -> Board:
    return Board(Reader(ScoreStore(root), BENCHMARK), "cifar10")


def estimates() -> Estimates:
    return Estimates(resamples=RESAMPLES)


# What is complete where ---------------------------------------------------------------------------------------


def test_a_proxy_is_shown_where_all_its_scores_are(board):
    found = {entry.proxy: names for entry, names in board.complete.items()}
    assert found["flops"] == ["all", SAMPLE]
    assert found["synflow"] == found["snip"] == found["te_nas"] == [SAMPLE]
    assert "zen" not in found, "one score of the sample is missing"
    assert "az_nas" not in found, "its members have no scores"
    assert list(board.populations) == ["all", SAMPLE], "populations of other spaces and too large samples are left out"


def test_an_entry_knows_what_is_the_papers():
    assert Entry("snip", "cifar10").title("cifar10") == "snip"
    assert Entry("snip", "random").title("cifar10") == "snip (random)"
    assert Entry("te_nas", "paper").is_default("cifar10")
    assert not Entry("snip:init=default", "cifar10").is_default("cifar10")
    assert not Entry("snip", "random").is_default("cifar10")


def test_commands_name_what_is_missing_and_can_be_run(board):
    (command,) = board.commands([Entry("zen", "none")], SAMPLE)
    words = shlex.split(command)
    assert words[:2] == ["harness", "score"]
    assert "proxies=[zen]" in words
    assert f"population={SAMPLE}" in words


@pytest.mark.parametrize(
    ("population", "sample", "of"),
    [
        ("all", False, "all"),
        ("sample(10, seed=1)", True, "all"),
        ("no_dead_ops", False, "no_dead_ops"),
        ("no_dead_ops.sample(10)", True, "no_dead_ops"),
    ],
)
def test_populations_and_samples(population, sample, of):
    assert is_sample(population) == sample
    assert whole(population) == of


# Figures --------------------------------------------------------------------------------------------------------


def test_leaderboard_rows_are_correlations(board):
    rows = leaderboard_rows(board, ["kendall", "ndcg_50", "regret_10"], estimates())
    found = {(row["proxy"], row["population"], row["metric"]): row for row in rows}
    assert len(found) == len(rows)
    one = found["snip", SAMPLE, "kendall"]
    series = board.series(Entry("snip", "cifar10"), SAMPLE)
    expected = correlate(series.scores, series.accuracies, ["kendall"], resamples=RESAMPLES)["kendall"]
    assert (one["value"], one["low"], one["high"]) == (expected.value, expected.low, expected.high)
    assert (one["n"], one["failed"], one["published"]) == (300, 3, None)
    assert one["seconds"] == pytest.approx(0.3)
    assert found["flops", "all", "ndcg_50"]["n"] == len(BENCHMARK)
    assert not any(row["metric"] == "ndcg_50" for row in rows if is_sample(row["population"]))
    assert not any(row["proxy"] == "zen" for row in rows)


def test_published_figures_stand_beside_the_population_of_the_paper():
    store = ScoreStore(measures.__file__)  # no store: only what is printed is looked at
    board = Board(Reader(store, load_benchmark("nasbench201")), "cifar10")
    entry = Entry("synflow", "none")
    vkdnw, ssnr = "VKDNW (CVPR 2025), Table 1", "SSNR/T-CET (AutoML 2023), Table 1"
    repository = "VKDNW repository, all cells"
    apd = "APD (LLM-designed proxy, arXiv 2025), Table 2"
    printed = {one.source: one.value for one in measures.printed_for(board, entry, "kendall")}
    assert printed.items() >= {ssnr: 0.54, vkdnw: 0.561, repository: 0.571, apd: 0.571}.items()
    assert all(source.strip(", ") for source in printed)
    by_population = {
        name: measures._printed_of(board, entry, name, "kendall").source
        for name in ("all", "no_dead_ops", "no_dead_ops.sample(1000, seed=0)")
    }
    assert by_population == {"all": apd, "no_dead_ops": vkdnw, "no_dead_ops.sample(1000, seed=0)": vkdnw}


def test_published_figures_are_those_of_the_dataset_and_the_target():
    """Tables set figures of other datasets, targets and populations beside ours too, and magnitudes."""

    def found(benchmark: str, dataset: str, proxy: str, inputs: str, metric: str = "kendall") -> dict[str, float]:
        board = Board(Reader(ScoreStore(measures.__file__), load_benchmark(benchmark)), dataset)
        entry = Entry(proxy, inputs)
        return {one.source: one.value for one in measures.printed_for(board, entry, metric)}

    intrain, zico = "InTrain (CVPR 2026)", "ZiCo (ICLR 2023), Table 3"
    here = found("nasbench201", "cifar10", "intrain", "random")
    assert here == {f"{intrain}, Table (NB201)": 0.669, f"{intrain}, ablation": 0.67}
    assert found("nasbench101", "cifar10", "intrain", "random") == {f"{intrain}, Table (NB101)": 0.56}
    assert not found("nats_sss", "cifar10", "intrain", "random")
    assert found("nasbench201", "cifar10", "naswot", "cifar10")[zico] == 0.58
    assert found("nats_sss", "cifar100", "flops:count=all", "none") == {zico: 0.21}
    assert found("nats_sss", "cifar10", "flops:count=all", "none") == {zico: 0.19}
    fisher = found("nasbench201", "cifar10", "fisher", "cifar10")
    assert not [source for source in fisher if source.startswith("epsinas")], "beside another target"
    assert sum(map(len, printed().values())) > 1000


def test_magnitudes_are_compared_as_such():
    assert Printed("x", 0.2, ("all",), absolute=True).delta(-0.338) == pytest.approx(0.138)
    assert Printed("x", 0.2, ("all",)).delta(-0.338) == pytest.approx(-0.538)


def test_estimates_are_computed_once_and_follow_their_input(tmp_path, monkeypatch):
    calls = []
    real = measures.correlate_many
    monkeypatch.setattr(measures, "correlate_many", lambda *a, **k: calls.append(set(a[0])) or real(*a, **k))
    path = tmp_path / "cache" / "estimates.json"
    scores, accuracies = np.arange(20.0), np.arange(20.0) % 7
    first = Estimates(path, RESAMPLES)
    before = first.of({"a": scores, "b": -scores}, accuracies, ["kendall"])
    first.save()
    assert calls == [{"a", "b"}]
    again = Estimates(path, RESAMPLES).of({"a": scores, "b": -scores}, accuracies, ["kendall"])
    assert again == before
    assert len(calls) == 1
    Estimates(path, RESAMPLES).of({"a": scores, "b": scores**2 % 11}, accuracies, ["kendall"])
    assert calls[1:] == [{"b"}]
    Estimates(path, RESAMPLES).of({"a": scores}, accuracies[::-1], ["kendall"])
    Estimates(path, RESAMPLES + 1).of({"a": scores}, accuracies, ["kendall"])
    Estimates(path, RESAMPLES).of({"a": scores}, accuracies, ["spearman"])
    assert calls[2:] == [{"a"}] * 3
    path.write_text(path.read_text(encoding="utf-8")[:-5], encoding="utf-8")  # a run was killed while it wrote
    assert Estimates(path, RESAMPLES).of({"a": scores, "b": -scores}, accuracies, ["kendall"]) == before


def test_estimates_follow_every_file_of_the_correlations(tmp_path, monkeypatch):
    folder = tmp_path / "correlation"
    shutil.copytree(Path(measures.correlation.__file__).parent, folder)
    monkeypatch.setattr(measures.correlation, "__file__", str(folder / "__init__.py"))
    path, scores = tmp_path / "estimates.json", np.arange(20.0)
    first = Estimates(path, RESAMPLES)
    first.of({"a": scores}, scores, ["kendall"])
    first.save()
    monkeypatch.setattr(measures, "correlate_many", None)
    Estimates(path, RESAMPLES).of({"a": scores}, scores, ["kendall"])
    with (folder / "weighted" / "kendall.py").open("a", encoding="utf-8") as file:
        file.write("# another definition\n")
    with pytest.raises(TypeError, match="not callable"):
        Estimates(path, RESAMPLES).of({"a": scores}, scores, ["kendall"])


def test_cutoffs():
    assert cutoffs(1) == [1]
    assert cutoffs(20) == [1, 2, 5, 10, 20]
    assert cutoffs(23) == [1, 2, 5, 10, 20, 23]


def test_ndcg_curves():
    accuracies = np.array([50.0, 60.0, 70.0])
    assert dict(ndcg_curve(accuracies, accuracies)) == pytest.approx({1: 1.0, 2: 1.0, 3: 1.0})
    ties = np.round(np.random.RandomState(0).uniform(0, 9, 200))
    wide = np.random.RandomState(1).uniform(60, 95, 200)
    assert dict(ndcg_curve(ties, wide)) == {p: ndcg(ties, wide, p) for p in cutoffs(200)}
    gains = 2**accuracies - 1
    assert dict(chance_curve(accuracies))[1] == pytest.approx(gains.mean() / gains.max())


def test_bands_hold_the_most_accurate_with_ties():
    accuracies = np.array([1.0, 5.0, 3.0, 3.0, 2.0, 0.0, 0.5, 0.1, 0.2, 0.3])
    assert band(accuracies, 1.0).all()
    assert np.flatnonzero(band(accuracies, 0.2)).tolist() == [1, 2, 3], "the second and third are tied"
    assert np.flatnonzero(band(accuracies, 0.4)).tolist() == [1, 2, 3, 4]
    assert band(accuracies, 0.01).sum() == 3, "a rank correlation needs two"
    (everything, tenth, best) = band_estimates({"a": accuracies}, accuracies, estimates())["a"]
    assert [everything.n, tenth.n, best.n] == [10, 3, 3]
    assert everything.estimate.value == 1.0


def test_seeds_are_compared_on_one_population(board):
    population, found = seed_estimates(board, Entry("synflow", "none"), estimates())
    assert population == SAMPLE
    assert [one.seed for one in found] == [0, 1]
    series = board.series(Entry("synflow", "none"), SAMPLE, seed=1)
    expected = correlate(series.scores, series.accuracies, ["kendall"], resamples=RESAMPLES)["kendall"]
    assert found[1].estimate == expected
    assert found[0].estimate != found[1].estimate
    for single in (Entry("snip", "cifar10"), Entry("flops", "none")):
        assert seed_estimates(board, single, estimates()) == ("", [])


@pytest.mark.parametrize(("better", "front"), [("higher", [4, 0, 2]), ("lower", [4])])
def test_pareto_front(better, front):
    """As the chart itself finds it: its dots in colour."""
    vl_convert = pytest.importorskip("vl_convert")
    seconds, values = [1.0, 2.0, 2.0, 3.0, 0.5], [0.5, 0.4, 0.9, 0.9, 0.1]
    rows = [{"name": f"p{i}", "seconds": s, "value": v} for i, (s, v) in enumerate(zip(seconds, values, strict=True))]
    spec = filled(definitions.chart("cost"), {"points": rows}, {"better": better}, 600, "")
    assert sorted(drawn_in(vl_convert.vega_to_scenegraph(spec), "dots_marks", SHADES["accent"])) == sorted(front)


def drawn_in(scene, mark: str, fill: str) -> list[int]:
    """Places of the items of a mark that have a colour."""
    if isinstance(scene, dict) and scene.get("name") == mark:
        return [place for place, item in enumerate(scene["items"]) if item["fill"] == fill]
    parts = scene.values() if isinstance(scene, dict) else scene if isinstance(scene, list) else ()
    return [place for part in parts for place in drawn_in(part, mark, fill)]


# Plots ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def plots(root, tmp_path, monkeypatch):
    """`plots(*overrides)`: the exit code; what is written lands in the test's folder."""
    pytest.importorskip("vl_convert")
    monkeypatch.chdir(tmp_path)
    fixed = ["report", "plots", "benchmark=nasbench301", f"store={root}", f"resamples={RESAMPLES}", "cache=null"]
    return lambda *overrides: main([*fixed, *overrides])


def test_every_plot_is_drawn_the_same_twice(plots, capsys, tmp_path):
    for output in ("one", "two"):
        assert plots(f"output={output}", "proxies=[flops,synflow]", f"plots=[{','.join(PLOTS)}]") == 0
    folders = [tmp_path / output / "nasbench301_cifar10" for output in ("one", "two")]
    names = [sorted(path.name for path in folder.iterdir()) for folder in folders]
    shown = [f"scatter_{proxy}" for proxy in ("flops", "synflow")]
    assert names[0] == sorted(f"{n}.{f}" for n in [*shown, *(set(PLOTS) - {"scatter"})] for f in ("svg", "png"))
    assert names[1] == names[0]
    for name in names[0]:
        assert (folders[0] / name).read_bytes() == (folders[1] / name).read_bytes(), name
    out, err = capsys.readouterr()
    assert len(out.splitlines()) == 2 * len(names[0])
    assert "missing" not in err


def test_a_plot_compares_on_one_population(board):
    population, entries, left_out = choose(board, [], None)
    assert population == SAMPLE
    assert set(entries) == {"flops", "params", "sed", "synflow", "snip", "ntk", "nregions", "te_nas"}
    assert left_out == []
    population, entries, left_out = choose(board, ["flops", "snip", "zen"], "all")
    assert (population, set(entries)) == ("all", {"flops"})
    assert [entry.proxy for entry in left_out] == ["snip", "zen"]
    assert choose(board, ["flops", "params"], None)[0] == "all"


def test_what_lacks_scores_is_left_out_and_named(plots, capsys, tmp_path):
    assert plots("output=plots", "proxies=[flops,zen]", "plots=[seeds,matrix]", "formats=[svg]") == 0
    assert [path.name for path in (tmp_path / "plots").rglob("*.*")] == ["matrix.svg"]
    err = capsys.readouterr().err
    assert "no proxy has scores of two seeds" in err
    assert re.search(r"missing: harness score .*proxies=\[zen\]", err)


def test_plots_without_any_score_are_refused_with_the_command(plots, capsys):
    assert plots("proxies=[zen]", "output=plots") == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert re.search(r"no proxy has scores on all of .* run `harness score .*proxies=\[zen\]", err)


def test_plots_need_a_folder_that_can_be_written(plots, capsys, tmp_path):
    (tmp_path / "taken").write_text("a file", encoding="utf-8")
    assert plots("proxies=[flops]", "plots=[matrix]", "output=taken") == 2
    assert "set output=DIR" in capsys.readouterr().err


def test_those_to_highlight_are_drawn_where_they_are_complete(board):
    assert choose(board, ["flops", "params"], None, ["synflow"])[:1] == (SAMPLE,)
    assert set(choose(board, ["flops"], None, ["synflow"])[1]) == {"flops", "synflow"}
    with pytest.raises(HarnessError, match=r"highlight=\[synflow\] has scores on all of all of .* run `"):
        choose(board, ["flops"], "all", ["synflow"])


def test_what_is_highlighted_stands_out_in_every_plot(plots, tmp_path):
    """Names in bold and in colour, points and curves in colour; also as PDF."""
    kinds = ",".join(PLOTS)
    shown = ("proxies=[flops,synflow]", f"plots=[{kinds}]")
    assert plots("output=plain", "formats=[svg]", *shown) == 0
    assert plots("output=marked", "formats=[svg,pdf]", "highlight=synflow", *shown) == 0
    plain, marked = (tmp_path / name / "nasbench301_cifar10" for name in ("plain", "marked"))
    for svg in sorted(marked.glob("*.svg")):
        text = svg.read_text(encoding="utf-8")
        assert svg.with_suffix(".pdf").read_bytes()[:5] == b"%PDF-"
        if svg.name == "scatter_flops.svg":
            assert text == (plain / svg.name).read_text(encoding="utf-8")
        elif svg.stem in ("matrix", "seeds", "bands"):
            names = re.findall(r"<text([^>]*)>(synflow|flops)", text)
            assert {name for look, name in names if "bold" in look and SHADES["cool"] in look} == {"synflow"}, svg.name
        elif svg.stem == "ndcg":
            thick = 'stroke-width="4"'
            assert (thick in text, thick in (plain / svg.name).read_text(encoding="utf-8")) == (True, False)
        else:
            blue = f'="{SHADES["cool"]}"'
            assert text.count(blue) > (plain / svg.name).read_text(encoding="utf-8").count(blue), svg.name


def test_who_is_to_be_highlighted_has_to_be_known(plots, capsys):
    assert plots("highlight=synflw", "output=plots") == 2
    assert "did you mean 'synflow'" in capsys.readouterr().err


def test_the_axis_of_costs_starts_where_passes_do():
    assert definitions.cost_start([0.0, 1e-6, 0.08, 2.0]) == pytest.approx(0.05)
    assert definitions.cost_start([0.0]) == definitions.LEAST_COST


def test_the_script_of_charts_is_kept_and_made_again_where_it_is_damaged(tmp_path, monkeypatch):
    library = pytest.importorskip("vl_convert")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(library, "javascript_bundle", lambda code: f"made = 1; {code}")
    script = bundle()
    (kept,) = tmp_path.rglob("*.js")
    assert kept.read_text(encoding="utf-8") == script
    monkeypatch.setattr(library, "javascript_bundle", lambda code: f"made = 2; {code}")
    assert bundle() == script
    kept.write_text(script[:-10], encoding="utf-8")
    assert "made = 2" in bundle()


# Page -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def site(root, tmp_path_factory) -> Path:
    """The page of the made scores."""
    pytest.importorskip("vl_convert")
    output = tmp_path_factory.mktemp("site")
    assert build(root, output) == 0
    return output


def build(root: Path, output: Path, *overrides: str) -> int:
    fixed = [f"store={root}", f"output={output}", f"resamples={RESAMPLES}", "cache=null"]
    return build_page(compose_config("report_page", [*fixed, "metrics=[kendall,ndcg_100,regret_10]", *overrides]))


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def data_of(path: Path) -> object:
    """What a script hands to the page."""
    return json.loads(re.fullmatch(r'\(window\.HARNESS \?\?= {}\)\["[^"]+"\] = (.*);\n', path.read_text("utf-8"))[1])


class Links(HTMLParser):
    """Addresses that a document loads (`src`, stylesheets, icons) and those that it links to."""

    def __init__(self, text: str):
        super().__init__()
        self.loaded: list[str] = []
        self.linked: list[str] = []
        self.ids: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        values = dict(attrs)
        self.loaded += [values["src"]] if "src" in values else []
        self.ids += [values["id"]] if "id" in values else []
        if "href" in values:
            (self.loaded if tag == "link" else self.linked).append(values["href"])


def test_a_page_for_every_proxy_and_benchmark(site):
    names = {*available(), *AGGREGATES}
    assert {path.stem for path in (site / "proxies").iterdir()} == names
    assert {path.stem for path in (site / "benchmarks").iterdir()} == set(list_benchmarks())
    for name in ("snip", "te_nas"):
        kind = AGGREGATES.get(name) or available()[name]
        text = (site / "proxies" / f"{name}.html").read_text(encoding="utf-8")
        assert kind.citation.split(",")[0].replace("&", "&amp;") in text
        assert kind.__doc__.split(":")[0].split()[0] in text
    text = (site / "benchmarks" / "nasbench301.html").read_text(encoding="utf-8")
    for part in ("automl/NASLib", "Apache-2.0", "Surrogate NAS Benchmarks", "725", f"{ACCURACIES.max():.2f}"):
        assert part in text


def test_links_lead_somewhere_and_nothing_is_loaded_from_outside(site):
    for path in site.rglob("*.html"):
        found = Links(path.read_text(encoding="utf-8"))
        assert len(found.ids) == len(set(found.ids)), path
        for address in found.loaded:
            assert address == "data:," or (path.parent / address).is_file(), (path, address)
        for address in found.linked:
            if not address.startswith("https://arxiv.org/abs/"):
                file, _, part = address.partition("#")
                target = (path.parent / file).resolve() if file else path
                assert target.is_file(), (path, address)
                assert not part or part in Links(target.read_text(encoding="utf-8")).ids, (path, address)
    for name, content in files(site).items():
        if not name.endswith(".html") and name != "vega.js":  # the library names its schema; the browser tests listen
            assert b"http" not in content.replace(b"http://www.w3.org/2000/svg", b""), name


def test_the_same_scores_give_the_same_small_folder(root, site, tmp_path):
    assert build(root, tmp_path) == 0
    assert files(tmp_path) == files(site)
    assert sum(map(len, files(site).values())) < 5e6


def test_a_new_build_removes_its_own_old_files_alone(root, tmp_path):
    build(root, tmp_path)
    for name in ("proxies/gone.html", "mine.txt"):
        (tmp_path / name).write_text("old", encoding="utf-8")
    former = json.loads((tmp_path / "files.json").read_text(encoding="utf-8"))
    outside = tmp_path.parent / "outside.txt"
    outside.write_text("not of the page", encoding="utf-8")
    stale = [*former, "proxies/gone.html", "mine.txt", "../outside.txt", str(outside), "proxies/../../outside.txt"]
    (tmp_path / "files.json").write_text(json.dumps(stale), encoding="utf-8")
    build(root, tmp_path)
    assert not (tmp_path / "proxies/gone.html").exists()
    assert (tmp_path / "mine.txt").exists()
    assert outside.exists()


def test_leaderboard_data_say_what_is_missing_and_how_to_compute_it(site):
    data = data_of(site / "data/leaderboard.js")
    (place,) = data["places"]
    assert (place["benchmark"], place["dataset"]) == ("nasbench301", "cifar10")
    everything, sample = place["views"]
    assert (everything["population"], everything["shows"], everything["n"]) == ("all", ["all", SAMPLE], 725)
    assert sample["shows"] == [SAMPLE]
    for view in place["views"]:
        assert {"zen", "az_nas", "vkdnw"} <= set(view["missing"])
        assert not {"flops", "snip", "te_nas"} & set(view["missing"])
        asked = " ".join(view["commands"])
        assert "zen" in asked
        for command in view["commands"]:
            compose_config("score", list(map(quoted, shlex.split(command)[2:])))
    rows = {(row["title"], row["population"]): row for row in data["rows"]}
    assert rows["snip", SAMPLE]["failed"] == 3
    assert rows["snip:init=default", SAMPLE]["default"] is False
    assert set(rows["flops", "all"]["metrics"]) == {"kendall", "ndcg_100", "regret_10"}
    assert set(rows["flops", SAMPLE]["metrics"]) == {"kendall", "regret_10"}
    assert [metric["lower"] for metric in data["metrics"]] == [False, False, True]


def test_the_page_has_the_figures_of_the_tables(root, site):
    """Digits and intervals: rounded once, of as many resamples drawn by the same seed."""
    rows = {(row["title"], row["population"]): row for row in data_of(site / "data/leaderboard.js")["rows"]}
    block = Measurements(ScoreStore(root)).block("nasbench301", "cifar10")
    for proxy, population in (("flops", "all"), ("snip", SAMPLE), ("te_nas", SAMPLE)):
        column = block.column(population, block.scores(proxy, population))
        sample = block.measure([column], ["kendall"], RESAMPLES)[column.digest]
        one = estimate(sample.values["kendall"], sample.resampled["kendall"])
        expected = [f"{value:.3f}" for value in (one.value, one.low, one.high)]
        assert [f"{value:.3f}" for value in rows[proxy, population]["metrics"]["kendall"][:3]] == expected


def test_the_matrix_has_figures_ranks_and_groups_of_the_leaderboard(root, site):
    table = load_table("leaderboard")
    table.datasets, table.resamples = ["nasbench301/cifar10"], RESAMPLES
    cells = {(one.proxy, one.metric): one for one in build_leaderboard(table, Measurements(ScoreStore(root)))[0]}
    data = data_of(site / "data/matrix.js")
    assert [(p["dataset"], p["population"], p["n"]) for p in data["places"]] == [("cifar10", SAMPLE, 300)]
    assert {row["proxy"] for row in data["rows"]} == {p for (p, m), one in cells.items() if one.ours is not None}
    assert [metric["lower"] for metric in data["metrics"]] == [False, False, False, True]
    for row in data["rows"]:
        for name, ((value, low, high, rank, n),) in row["figures"].items():
            one = cells[row["proxy"], name]
            digits = 2 if name == "regret_10" else 3
            wanted = tuple(f"{v:.{digits}f}" for v in (one.ours, one.ci_low, one.ci_high))
            assert tuple(f"{v:.{digits}f}" for v in (value, low, high)) == wanted
            assert (rank, n) == (one.rank, one.n)
    board = {(row["title"], row["population"]): row for row in data_of(site / "data/leaderboard.js")["rows"]}
    assert all(board[row["proxy"], SAMPLE]["group"] == cells[row["proxy"], "kendall"].group for row in data["rows"])
    assert board["flops", "all"]["group"] == "", "groups are those of one population"


def test_proxies_of_other_packages_stand_in_the_matrix(root, board, monkeypatch):
    """Where the store has their scores; the table of this package leaves them out."""
    monkeypatch.setattr("harness.report.standing.rows_of", lambda table: [RowConfig(proxy="flops")])
    cells = cells_of(ScoreStore(root), [board], RESAMPLES)
    assert {"flops", "params", "synflow"} <= {one.proxy for one in cells if one.ours is not None}


def test_what_has_no_page_is_not_in_the_matrix(root, board):
    """As what spends accuracies, which is never ranked beside what is training-free."""
    cells = cells_of(ScoreStore(root), [board], RESAMPLES)
    one = next(cell for cell in cells if cell.proxy == "flops" and cell.ours is not None)
    pages = {cell.proxy: cell.proxy for cell in cells}
    found = standing([*cells, dataclasses.replace(one, proxy="robot", rank=None)], pages)
    assert "robot" not in {row["proxy"] for row in found["rows"]} >= {"flops"}


def test_datasets_with_most_ranked_proxies_stand_first_in_the_matrix(root, board):
    one = next(c for c in cells_of(ScoreStore(root), [board], RESAMPLES) if c.rank is not None)
    few = [dataclasses.replace(one, benchmark="a", proxy=name) for name in ("flops", "snip")]
    many = [dataclasses.replace(one, benchmark="b", proxy=name) for name in ("flops", "snip", "zen")]
    pages = dict.fromkeys(("flops", "snip", "zen"), "page")
    found = standing([*few, *many], pages)
    assert [place["benchmark"] for place in found["places"]] == ["b", "a"]
    (zen,) = next(row["figures"] for row in found["rows"] if row["proxy"] == "zen").values()
    assert [one is None for one in zen] == [False, True]


def test_the_foot_says_what_made_the_page_and_how_to_cite_it(site, monkeypatch):
    for path in (site / "index.html", site / "proxies/snip.html", site / "benchmarks/nasbench301.html"):
        foot = html.unescape(re.search(r"<footer>(.*)</footer>", path.read_text(encoding="utf-8"), re.DOTALL)[1])
        assert re.search(
            rf"nas-proxy-harness {re.escape(__version__)}(, commit [0-9a-f]+(-dirty)?)?, 20\d\d-\d\d-\d\d", foot
        )
        assert "@software{nas_proxy_harness," in foot
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "86400")
    made = imprint("1.2")
    assert (made["date"], made["version"]) == ("1970-01-02", "1.2")
    assert "year = {1970}" in made["bibtex"]
    assert made["bibtex"].count("{") == made["bibtex"].count("}")


def test_intervals_of_large_populations_take_as_many_resamples_as_those_of_tables():
    rng = np.random.RandomState(0)
    accuracies = rng.rand(30_000)
    scores = accuracies + rng.rand(30_000)
    found = Estimates(resamples=1000).of({"a": scores}, accuracies, ["kendall"])["a"]["kendall"]
    drawn = correlate(scores, accuracies, ["kendall"], resamples_for(30_000, 1000))["kendall"]
    assert (found.low, found.high) == (drawn.low, drawn.high)


def test_pages_say_what_can_be_computed(site):
    """A proxy of attention alone is not offered on networks without."""
    text = (site / "proxies/dss.html").read_text(encoding="utf-8")
    command = html.unescape(re.search(r"<pre>(harness score .*)</pre>", text)[1])
    settings = dict(word.split("=", 1) for word in shlex.split(command)[2:])
    assert "attention" in load_benchmark(settings["benchmark"]).space.parts
    card = (site / "benchmarks/nasbench201.html").read_text(encoding="utf-8")
    assert "[&#39;" not in card
    assert "<dd>MIT and Apache-2.0" in card


def test_scatter_data_are_the_scores_and_their_architectures(site, board):
    (chart, other) = data_of(site / "data/proxies/snip.js")
    assert (chart["title"], other["title"]) == ("snip", "snip:init=default")
    points = data_of(site / "data/points/nasbench301.js")[chart["population"]]
    series = board.series(Entry("snip", "cifar10"), SAMPLE)
    assert points["index"] == series.indices.tolist()
    assert points["architecture"] == [BENCHMARK.architectures[i] for i in series.indices]
    assert chart["scores"][:3] == [None] * 3
    np.testing.assert_allclose(chart["scores"][3:], series.scores[3:], rtol=1e-4)
    np.testing.assert_allclose(points["datasets"]["cifar10"]["accuracy"], series.accuracies, atol=0.006)


def test_few_points_are_drawn_alike_for_all_proxies(root, tmp_path):
    build(root, tmp_path, "points=50")
    points = data_of(tmp_path / "data/points/nasbench301.js")
    assert len(points[SAMPLE]["index"]) >= 50
    for name, population in (("flops", "all"), ("synflow", SAMPLE)):
        (chart,) = data_of(tmp_path / f"data/proxies/{name}.js")
        assert chart["population"] == population
        scores = ScoreStore(root).read(ScoreKey("nasbench301", "cifar10", "none", name, 0)).set_index("index")["score"]
        assert len(chart["scores"]) == 50
        np.testing.assert_allclose(chart["scores"], scores[points[population]["index"][:50]], rtol=1e-4)


def test_best_scored_are_counted_over_the_whole_population(root, tmp_path, board):
    """Of few points drawn: the hits are those of everything, and all the best-scored are there to be seen."""
    build(root, tmp_path, "points=50")
    (chart,) = data_of(tmp_path / "data/proxies/flops.js")
    one = board.series(Entry("flops", "none"), "all")
    order = np.argsort(-one.scores)
    for top, (marked, hits, least) in chart["best"].items():
        most_accurate = set(np.argsort(-one.accuracies)[: int(top)].tolist())
        assert (marked, hits) == (int(top), len(most_accurate & set(order[: int(top)].tolist())))
        assert least == pytest.approx(np.sort(one.accuracies)[-int(top)], abs=0.006)
    points = data_of(tmp_path / "data/points/nasbench301.js")["all"]
    ranks = dict(zip(points["index"], chart["ranks"], strict=False)) | {
        points["index"][place]: rank for place, _, rank in chart["besides"]
    }
    assert len(points["index"]) >= len(ranks) == 50 + len(chart["besides"])
    assert ranks == {index: int(np.flatnonzero(order == index)[0]) + 1 for index in ranks}
    assert sorted(ranks.values())[:50] == list(range(1, 51))


def test_a_score_tied_with_the_last_of_the_best_is_one_of_them():
    series = measures.Series("all", np.arange(5), np.array([3.0, 2.0, 2.0, 1.0, np.nan]), np.arange(5.0), 0.1)
    best = measures.best_scored(series, 2)
    assert best.marked.tolist() == [True, True, True, False, False]
    assert (best.least, best.hits) == (3.0, 0)
    nothing = measures.best_scored(series._replace(scores=np.full(5, np.nan)), 2)
    assert (nothing.marked.any(), nothing.hits) == (False, 0)


@pytest.mark.parametrize(
    ("scores", "axis"),
    [
        ([1.0, 2.0, 3.0], "linear"),
        ([1.0, 10.0, 1e4], "log"),
        ([-1.0, *np.linspace(0, 1, 30), 1e6], "symlog"),
        ([np.nan, np.nan], "linear"),
        ([5.0, 5.0], "linear"),
    ],
)
def test_scores_have_the_axis_on_which_they_are_read_best(scores, axis):
    assert measures.score_axis(np.array(scores))[0] == axis


def test_a_page_of_an_empty_store(tmp_path):
    assert build(tmp_path / "none", tmp_path / "site") == 0
    assert data_of(tmp_path / "site/data/leaderboard.js")["rows"] == []
    text = (tmp_path / "site/proxies/snip.html").read_text(encoding="utf-8")
    assert "Not computed" in text
    assert "harness score" in text


def test_a_value_that_is_undefined_is_null(root, tmp_path):
    store = ScoreStore(tmp_path / "scores")
    key = ScoreKey(BENCHMARK.name, "cifar10", "none", "flops", 0)
    store.append(key, [Row(i, 1.0, 0.1, "ok", get_proxy("flops").version) for i in range(len(BENCHMARK))])
    build(store.root, tmp_path / "site")
    (row, *_) = data_of(tmp_path / "site/data/leaderboard.js")["rows"]
    assert row["metrics"]["kendall"] == [None, None, None]


# Browser --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def browser():
    """Chromium without a window. Skips where it, or playwright, is not installed."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if path is None:
        pytest.skip("no Chromium on this machine")
    with playwright.sync_playwright() as driver:
        quiet = ["disable-gpu", "disable-quic", "no-first-run", "disable-background-networking"]
        quiet += ["no-sandbox", "disable-component-update", "disable-sync"]
        chromium = driver.chromium.launch(executable_path=path, args=[f"--{flag}" for flag in quiet])
        yield chromium
        chromium.close()


@pytest.fixture
def page(browser):
    """A tab that fails the test for whatever its pages log, throw, or ask for outside of their folder."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    page = context.new_page()
    heard: list[str] = []
    page.on("console", lambda message: heard.append(f"console: {message.text}"))
    page.on("pageerror", lambda error: heard.append(f"error: {error}"))
    page.on("request", lambda request: request.url.startswith("file:") or heard.append(f"request: {request.url}"))
    page.on("requestfailed", lambda request: heard.append(f"failed: {request.url}"))
    yield page
    context.close()
    assert [entry for entry in heard if entry != "request: data:,"] == []


def expect(locator):
    """Wait until what follows holds: charts are drawn once their scripts are there."""
    from playwright.sync_api import expect

    return expect(locator)


def names(page) -> list[str]:
    return page.locator("table.board tbody th").all_inner_texts()


def column(page, place: int) -> list[float]:
    cells = page.locator(f"table.board tbody td:nth-child({place})").all_inner_texts()
    return [float(text.split()[0].replace("−", "-").replace(",", "")) for text in cells if text != "–"]


def test_browser_sorts_and_filters(site, page):
    page.goto(f"file://{site}/index.html")
    assert column(page, 4) == sorted(column(page, 4), reverse=True)
    heading = page.locator("th[aria-sort]", has_text="Kendall tau")
    assert heading.get_attribute("aria-sort") == "descending"
    heading.locator("button").focus()
    page.keyboard.press("Enter")
    assert heading.get_attribute("aria-sort") == "ascending"
    assert column(page, 4) == sorted(column(page, 4))
    assert column(page, 2) == list(range(len(names(page)), 0, -1)), "the rank is that by the metric, whatever the order"
    assert page.evaluate("document.activeElement.dataset.column") == "kendall", "the focus stays on the heading"
    page.get_by_role("button", name="regret of the best of 10").click()
    assert column(page, 6) == sorted(column(page, 6)), "lower is better and comes first"
    page.get_by_role("button", name="nDCG_100").click()
    assert page.locator("table.board tbody td:nth-child(5)").last.inner_text() == "–", "what has no value comes last"

    assert "snip:init=default" not in names(page)
    page.get_by_label("other settings").check()
    assert "snip:init=default" in names(page)
    page.get_by_label("Proxy", exact=True).fill("SN")
    assert set(names(page)) == {"snip", "snip:init=default"}
    page.get_by_label("Proxy", exact=True).fill("")
    page.get_by_label("Population").select_option(SAMPLE)
    assert set(column(page, 3)) == {300.0}
    page.get_by_label("Population").select_option("all")
    sizes = column(page, 3)
    assert sizes == sorted(sizes, reverse=True), "what is incomplete on all of them is shown below, on the sample"
    assert set(sizes) == {300.0, 725.0}
    assert sorted(column(page, 2)) == [1.0, 2.0, 3.0], "and has no rank"
    assert page.locator("tr.aside").count() == 1
    page.locator("#leaderboard").get_by_label("Metric").select_option("regret_10")
    assert page.locator("table.board thead th").all_inner_texts()[3].startswith("regret")
    above = sizes.count(725.0)
    assert column(page, 4)[:above] == sorted(column(page, 4)[:above])
    assert column(page, 4)[above:] == sorted(column(page, 4)[above:])
    address = page.url
    page.goto("about:blank")
    page.goto(address)
    assert page.locator("#leaderboard").get_by_label("Metric").input_value() == "regret_10", (
        "the address keeps what is shown"
    )
    assert "zen" in page.locator("[data-missing]").text_content()


def test_browser_shows_the_matrix_first_and_saves_it(site, page):
    page.goto(f"file://{site}/index.html")
    assert page.locator("main section").first.get_attribute("id") == "matrix"
    matrix = page.locator("table.matrix")

    def taus() -> list[float]:
        return [float(text.split()[0]) for text in matrix.locator("tbody td.heat").all_inner_texts()]

    order = taus()
    assert order == sorted(order, reverse=True)
    assert matrix.locator("td.best").inner_text().split()[0] == f"{order[0]:.3f}", "one column, one best"
    heats = matrix.locator("td.heat").evaluate_all("all => all.map(one => one.style.getPropertyValue('--heat'))")
    assert [float(heat[:-1]) for heat in heats] == pytest.approx([45 * tau for tau in order], abs=0.55)
    matrix.get_by_role("button", name="nasbench301").click()
    assert taus() == order[::-1]
    with page.expect_download() as saved:
        page.locator("#matrix").get_by_role("button", name="Download as CSV").click()
    rows = list(csv.DictReader(saved.value.path().open(encoding="utf-8")))
    assert {row["proxy"] for row in rows} == {row["proxy"] for row in data_of(site / "data/matrix.js")["rows"]}
    assert sorted((float(row["value"]) for row in rows), reverse=True) == order
    with page.expect_download() as saved:
        page.locator("#leaderboard").get_by_role("button", name="Download as CSV").click()
    rows = list(csv.DictReader(saved.value.path().open(encoding="utf-8")))
    assert [row["proxy"] for row in rows] == [name.split()[0] for name in names(page)], "a caveat follows its name"
    assert rows[0]["rank"] == "1"


def test_browser_says_on_a_phone_that_a_table_goes_on(site, page):
    page.goto(f"file://{site}/index.html")
    hint = page.locator("#leaderboard .more")
    expect(hint).to_be_hidden()
    page.set_viewport_size({"width": 390, "height": 844})
    expect(hint).to_be_visible()
    expect(page.locator("#matrix .more")).to_be_hidden()  # of one dataset


def colour(page, name: str) -> str:
    """A colour of the style sheet, as a chart has it."""
    return page.evaluate(f"getComputedStyle(document.documentElement).getPropertyValue('--{name}').trim()")


def test_browser_charts_follow_the_filters_and_the_colour_scheme(site, page):
    page.goto(f"file://{site}/index.html")
    dots = page.locator("[data-cost] .dots_marks path")
    expect(dots).to_have_count(8)
    assert page.locator("[data-cost] .labels_marks text", has_text="synflow").count() == 1
    page.get_by_label("Proxy", exact=True).fill("fl")
    expect(dots).to_have_count(2)  # flops and synflow
    light = colour(page, "accent")
    expect(page.locator(f"[data-cost] .dots_marks path[fill='{light}']")).to_have_count(1)
    page.emulate_media(color_scheme="dark")
    assert colour(page, "accent") != light
    expect(page.locator(f"[data-cost] .dots_marks path[fill='{colour(page, 'accent')}']")).to_have_count(1)


def test_browser_opens_a_proxy_and_shows_architectures(site, page):
    page.goto(f"file://{site}/index.html")
    page.get_by_role("region", name="Leaderboard").get_by_role("link", name="snip").click()
    assert page.locator("h1").inner_text() == "snip"
    dots = page.locator("[data-scatter] .dots_marks path")
    marked = page.locator(f"[data-scatter] .dots_marks path[fill='{colour(page, 'accent')}']")
    expect(dots).to_have_count(297)  # three have no score; figures and library come in scripts of their own
    expect(marked).to_have_count(50)
    page.get_by_label("Mark the best-scored").select_option("10")
    expect(marked).to_have_count(10)
    assert dots.count() == 297
    assert "3 of them have no score" in page.locator("[data-scatter] figcaption").inner_text()
    marked.first.hover()
    tip = page.locator("[data-scatter] .tip")
    shown = re.search(r"no\. (\d+): accuracy ([\d.]+), score", tip.inner_text())
    assert BENCHMARK.architectures[int(shown[1])] in tip.inner_text()
    assert float(shown[2]) == pytest.approx(ACCURACIES[int(shown[1])], abs=0.006)
    page.locator("[data-scatter] .chart").focus()
    page.keyboard.press("End")
    assert "rank 1 of 297" in tip.inner_text()
    page.keyboard.press("ArrowLeft")
    assert "rank 2 of 297" in tip.inner_text()
    page.keyboard.press("Escape")
    assert tip.is_hidden()
    page.get_by_label("Horizontal axis").select_option("score")
    page.get_by_label("Settings").select_option("snip:init=default")
    expect(dots).to_have_count(300)
    assert page.locator("[data-bands] tbody tr").count() == 3
    assert "seed=1" in page.locator("[data-seeds] pre").inner_text()
    page.goto(f"file://{site}/proxies/synflow.html")
    assert page.locator("[data-seeds] tbody tr").count() == 2


def test_browser_every_page_opens_and_fits_a_phone(site, page):
    page.set_viewport_size({"width": 360, "height": 740})
    for path in sorted(site.rglob("*.html")):
        page.goto(f"file://{path}")
        wide = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        assert wide == 0, f"{path} scrolls sideways by {wide} pixels"


def test_browser_begins_with_a_link_to_the_content(site, page):
    page.goto(f"file://{site}/index.html")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    assert page.evaluate("document.querySelector('main').contains(document.activeElement)")
