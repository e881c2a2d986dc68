"""Tests of the leaderboard, of seeds in a table, and of the formats that tables are written in."""

from __future__ import annotations

import csv
import html.parser
import io
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import harness
from harness import cli
from harness.benchmarks.benchmark import load_benchmark
from harness.cli.quote import quoted
from harness.config import choices, compose_config
from harness.correlation import correlate, sample_many
from harness.engine.store import Row, ScoreKey, ScoreStore
from harness.proxies import get_proxy
from harness.rankings.results import scoring_commands
from harness.tables.build import build_table
from harness.tables.cells import Cell, Published, marked, metric_title, not_computed, to_csv
from harness.tables.groups import group_letters, indistinguishable
from harness.tables.leaderboard import (
    WORKABLE,
    build_leaderboard,
    choose_population,
    entries,
    gain_places,
    rows_of,
)
from harness.tables.measure import BUDGET, FEWEST, Measurements, mean_over_seeds, resamples_for
from harness.tables.papers import table_cells
from harness.tables.sheet import Section, Sheet, to_html, to_latex, to_markdown

ROOT = Path(harness.__file__).resolve().parents[1]
BENCHMARK = load_benchmark("nasbench201")
SAMPLE = "no_dead_ops.sample(60, seed=5)"


def append(
    root: Path,
    proxy: str,
    values: Any,
    inputs: str = "none",
    seed: int = 0,
    seconds: float = 0.25,
    dataset: str = "cifar10",
) -> None:
    """Scores of `values` (index -> score)."""
    rows = [Row(i, score, seconds, "ok", get_proxy(proxy).version) for i, score in values.items()]
    ScoreStore(root).append(ScoreKey("nasbench201", dataset, inputs, proxy, seed), rows)


def noisy(noise: float, seed: int = 0, population: str = SAMPLE) -> dict[int, float]:
    """Accuracies of the networks of a population with noise of `noise` percentage points."""
    accuracies = BENCHMARK.accuracies("cifar10").to_numpy()
    members = np.unique(BENCHMARK.representatives[BENCHMARK.population(population)])
    draws = np.random.RandomState(seed).randn(len(members))
    return {int(i): float(accuracies[i] + noise * draw) for i, draw in zip(members, draws, strict=True)}


def board_config(*rows: str, **settings: Any) -> Any:
    named = ",".join(f"{{proxy: '{row}'}}" for row in rows)
    settings = {"datasets": "[nasbench201/cifar10]", "populations": f"['{SAMPLE}']", "resamples": 200, **settings}
    overrides = [f"table.{key}={value}" for key, value in settings.items()]
    return compose_config("report", ["table=leaderboard", f"table.rows=[{named}]", *overrides]).table


# Groups -----------------------------------------------------------------------------------------------------


def test_groups_of_a_small_ranking():
    """a and b are alike, b and c are alike, a and c differ; d differs from all."""
    same = np.eye(4, dtype=bool)
    for i, j in ((0, 1), (1, 2)):
        same[i, j] = same[j, i] = True
    assert group_letters(np.arange(4), same) == ["a", "a b", "b", "c"]
    order = np.array([3, 0, 1, 2])
    assert group_letters(order, same) == ["b", "b c", "c", "a"]
    assert group_letters(np.arange(3), np.ones((3, 3), dtype=bool)) == ["a", "a", "a"]


def test_differences_that_resamples_do_not_tell_apart():
    rng = np.random.RandomState(0)
    shared = rng.randn(400) * 0.05
    own = rng.randn(4, 400) * 0.01
    values = np.array([0.60, 0.595, 0.50, 0.50])
    resampled = values[:, None] + shared + own
    resampled[3] = resampled[2]  # the same proxy twice
    same = indistinguishable(values, resampled)
    # Unpaired, 0.60 +- 0.05 and 0.50 +- 0.05 would overlap.
    assert same.tolist() == [[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 1], [0, 0, 1, 1]]
    assert indistinguishable(np.array([0.5]), resampled[:1]).tolist() == [[True]]


def test_the_family_of_comparisons_errs_rarely():
    """Ten proxies of equal worth: in about 5% of tables some pair is set apart; uncorrected it would be in most."""
    wrong = 0
    for trial in range(60):
        rng = np.random.RandomState(trial)
        resampled = rng.randn(10, 300)
        wrong += not indistinguishable(rng.randn(10), resampled).all()
    assert wrong <= 9  # Binomial(60, 0.05) is above 9 with a chance of 0.1%


# The board --------------------------------------------------------------------------------------------------


def test_figures_ranks_and_costs(tmp_path):
    for place, (name, noise) in enumerate((("synflow", 0.1), ("zen", 5.0), ("meco", 500.0))):
        for dataset in ("cifar10", "cifar100"):
            append(tmp_path, name, noisy(noise, place), seconds=0.5 * (place + 1), dataset=dataset)
    table = board_config("zen", "synflow", "meco", "logsynflow", datasets="[nasbench201/cifar10, nasbench201/cifar100]")
    every, sheet = build_leaderboard(table, measurements(tmp_path))
    cells = [cell for cell in every if cell.dataset != "cifar100"]
    found = {(cell.benchmark, cell.proxy, cell.metric): cell for cell in cells}
    members = BENCHMARK.population(SAMPLE)
    accuracies = BENCHMARK.accuracies("cifar10").to_numpy()[members]
    for place, (name, noise) in enumerate((("synflow", 0.1), ("zen", 5.0), ("meco", 500.0))):
        scores = noisy(noise, place)
        own = [scores[int(i)] for i in BENCHMARK.representatives[members]]
        expected = correlate(own, accuracies, ["kendall", "top_1%", "ndcg_6", "regret_10"], resamples=200)
        for metric, estimate in expected.estimates.items():
            cell = found["nasbench201", name, metric]
            assert (cell.ours, cell.ci_low, cell.ci_high) == (estimate.value, estimate.low, estimate.high)
            assert cell.n == 60
        assert found["nasbench201", name, "kendall"].rank == place + 1
        assert found["nasbench201", name, "seconds"].ours == pytest.approx(0.5 * (place + 1))
        assert found["all", name, "rank by kendall"].ours == place + 1
    assert found["nasbench201", "synflow", "kendall"].group == "a"
    assert "a" not in found["nasbench201", "meco", "kendall"].group
    lacking = found["nasbench201", "logsynflow", "all"]
    assert lacking.ours is None
    assert '`harness score benchmark=nasbench201 dataset=cifar10 "proxies=[logsynflow]"' in lacking.note
    assert found["all", "logsynflow", "rank"].note == "not computed: not on nasbench201/cifar10, nasbench201/cifar100"
    text = to_markdown(sheet)
    assert [line.split(" | ")[0] for line in text.splitlines() if re.match(r"\| (syn|zen|mec|log)", line)] == 3 * [
        "| synflow", "| zen", "| meco", "| logsynflow",
    ]  # fmt: skip


def test_the_best_of_a_column_is_bold(tmp_path):
    """As in the papers: one value a column, or those that are equally good; lower is better for a regret."""
    for place, (name, noise) in enumerate((("synflow", 0.1), ("zen", 5.0), ("meco", 500.0))):
        append(tmp_path, name, noisy(noise, place))
    cells, sheet = build_leaderboard(board_config("zen", "synflow", "meco"), measurements(tmp_path))
    (section,) = [one for one in sheet.sections if one.rows]
    for column, heading in enumerate(section.header):
        bold = {row[0] for row in section.rows if "**" in row[column]}
        figures = [cell for cell in cells if cell.rank is not None and metric_title(cell.metric) == heading]
        best = min((cell.rank for cell in figures), default=None)
        assert bold == {cell.proxy for cell in figures if cell.rank == best}, heading


def measurements(root: Path) -> Measurements:
    return Measurements(ScoreStore(root))


def test_one_population_a_dataset(tmp_path):
    """Ranks are over that on which at least half are complete; the other proxy shows its sample and has no rank."""
    small = "no_dead_ops.sample(30, seed=1)"
    assert choose_population({"all": {"a"}, "sample": {"a", "b", "c"}}) == "sample"
    assert choose_population({"all": {"a", "b"}, "sample": {"a", "b", "c"}}) == "all"
    assert choose_population({"all": set(), "sample": set()}) == ""
    for name in ("synflow", "zen"):
        append(tmp_path, name, noisy(1.0) | noisy(1.0, population=small))
    append(tmp_path, "meco", noisy(1.0, population=small))
    table = board_config("synflow", "zen", "meco", populations=f"['{SAMPLE}', '{small}', nowhere]")
    cells, sheet = build_leaderboard(table, measurements(tmp_path))
    found = {cell.proxy: cell for cell in cells if cell.metric == "kendall"}
    assert {name: (cell.population, cell.n) for name, cell in found.items()} == {
        "synflow": (SAMPLE, 60), "zen": (SAMPLE, 60), "meco": (small, 30),
    }  # fmt: skip
    assert (found["meco"].rank, found["meco"].group) == (None, "")
    assert (found["synflow"].rank, found["zen"].rank) == (1.5, 1.5)
    members = BENCHMARK.population(small)
    scores = noisy(1.0, population=small)
    expected = correlate(
        [scores[int(i)] for i in BENCHMARK.representatives[members]],
        BENCHMARK.accuracies("cifar10").to_numpy()[members], ["kendall"], resamples=200,
    )["kendall"]  # fmt: skip
    assert (found["meco"].ours, found["meco"].ci_low) == (expected.value, expected.low)
    assert f"not ranked: {small}, 30 architectures" in found["meco"].note
    assert f'on more architectures: `harness score benchmark=nasbench201 dataset=cifar10 "proxies=[meco]" seed=0 '\
        f'"population={SAMPLE}"`' in found["meco"].note  # fmt: skip
    assert "ndcg_6" not in {cell.metric for cell in cells if cell.proxy == "meco"}
    (line,) = [line for line in to_markdown(sheet).splitlines() if line.startswith("| meco")]
    assert [cell.strip() for cell in line.split("|")][2:5] == ["–", "–", "30"]
    assert "3 of 3 pairs of a proxy and a dataset to which it applies, 1 of them on another" in to_markdown(sheet)


def test_no_mean_rank_over_one_dataset(tmp_path):
    append(tmp_path, "synflow", noisy(1.0))
    cells, sheet = build_leaderboard(board_config("synflow"), measurements(tmp_path))
    assert "all" not in {cell.benchmark for cell in cells}
    assert [section.heading for section in sheet.sections] == ["nasbench201, cifar10"]
    assert "so far: nasbench201/cifar10." in to_markdown(sheet)


def test_what_cannot_have_a_score_is_not_asked_for(tmp_path):
    append(tmp_path, "synflow", noisy(1.0))
    cells, sheet = build_leaderboard(board_config("synflow", "dss"), measurements(tmp_path))
    (cell,) = [cell for cell in cells if cell.proxy == "dss"]
    assert (cell.ours, cell.missing) == (None, ())
    assert cell.note == "not applicable: no attention in this space"
    text = to_markdown(sheet)
    assert "| dss | – | – |  | not applicable |" in text
    assert "1 of 1 pairs" in text


def test_every_command_can_be_given(tmp_path):
    """From an empty store: inputs that there are, for proxies that apply, and no more networks than can be scored."""
    rows = "table.rows=[{proxy: sed}, {proxy: snip}, {proxy: az_nas}, {proxy: dss}, {proxy: vkdnw_agg}]"
    names = "nasbench101/cifar10, transnas101_micro/class_scene, accel_nasbench/imagenet, nasbench201/cifar100"
    table = compose_config("report", ["table=leaderboard", rows, f"table.datasets=[{names}]"]).table
    cells, sheet = build_leaderboard(table, measurements(tmp_path))
    commands = {command for cell in cells for command in re.findall("`harness (score [^`]*)`", cell.note)}
    assert len(commands) > 4
    for command in commands:
        arguments = shlex.split(command)[1:]
        config = compose_config("score", [quoted(argument) for argument in arguments])
        assert config.inputs.name in choices("inputs")
        assert "dss" not in config.proxies
        assert len(load_benchmark(config.benchmark).population(config.population)) <= WORKABLE
    assert "dataset=class_scene" in to_markdown(sheet)
    assert "inputs=class_scene" not in to_markdown(sheet)


def test_the_mark_of_a_reconstruction(tmp_path):
    append(tmp_path, "sed", noisy(1.0))
    cells, sheet = build_leaderboard(board_config("sed"), measurements(tmp_path))
    assert {cell.proxy for cell in cells} == {"sed"}
    text = to_markdown(sheet)
    assert "| sed † | 1 |" in text
    assert "†: a reconstruction" in text
    assert r"sed \dag{}" in to_latex(sheet)
    assert marked("x", "log_rank_sum(flops, sed)") == "x †"
    assert marked("x", "vkdnw_agg") == "x"


def test_a_pass_that_members_share_counts_once(tmp_path):
    """az_nas reads one pass of stages for three of its members; te_nas reads two passes."""
    for name, seconds in (("az_expressivity", 0.4), ("az_progressivity", 0.5), ("az_trainability", 0.3)):
        append(tmp_path, name, noisy(1.0), inputs="random", seconds=seconds)
    append(tmp_path, "flops", noisy(1.0), seconds=0.01)
    append(tmp_path, "ntk", noisy(1.0), inputs="cifar10", seconds=0.25)
    append(tmp_path, "nregions", noisy(1.0), seconds=0.125)
    reader = measurements(tmp_path).reader("nasbench201")
    members = BENCHMARK.population(SAMPLE)
    assert reader.scores("az_nas", "cifar10", members).seconds == pytest.approx(0.51)
    assert reader.scores("te_nas", "cifar10", members).seconds == pytest.approx(0.375)


def test_noise_stands_in_for_images_and_says_so(tmp_path):
    append(tmp_path, "snip", noisy(1.0), inputs="random")
    append(tmp_path, "naswot", noisy(1.0), inputs="cifar10")
    append(tmp_path, "naswot", noisy(9.0), inputs="random")
    cells, _ = build_leaderboard(board_config("snip", "naswot"), measurements(tmp_path))
    found = {cell.proxy: cell for cell in cells if cell.metric == "kendall"}
    assert (found["snip"].inputs, found["naswot"].inputs) == ("random", "cifar10")
    assert "on noise" in found["snip"].note
    assert found["naswot"].note == ""


def test_every_proxy_and_dataset_joins_by_itself():
    table = compose_config("report", ["table=leaderboard"]).table
    names = {row.proxy for row in rows_of(table)}
    assert names >= {"flops", "synflow", "vkdnw", "vkdnw_agg", "az_nas", "te_nas", "sed"}
    assert {"nasbench201/cifar100", "nasbench101/cifar10", "macro/cifar10"} <= set(entries(table))
    assert (gain_places(9445), gain_places(725), gain_places(5)) == (1000, 72, 1)


def test_a_dataset_without_accuracies_says_why(tmp_path, monkeypatch):
    def refuse(*_: Any) -> None:
        raise harness.HarnessError("comes without accuracies: `harness import nasbench201 PATH`")

    append(tmp_path, "synflow", noisy(1.0))
    monkeypatch.setattr(BENCHMARK, "accuracies", refuse)
    cells, sheet = build_leaderboard(board_config("synflow"), measurements(tmp_path))
    assert cells == []
    assert "harness import nasbench201 PATH" in to_markdown(sheet)
    folders = [f"store={tmp_path}", f"output={tmp_path / 'out'}"]
    settings = ["table=vkdnw_table1", *folders, "table.rows=[{proxy: synflow}]"]
    assert cli.main(["report", *settings]) == 0
    rows = list(csv.DictReader(io.StringIO((tmp_path / "out" / "vkdnw_table1.csv").read_text())))
    assert {row["ours"] for row in rows} == {"not computed"}
    assert all("harness import nasbench201 PATH" in row["note"] for row in rows)
    assert cli.main(["report", *settings, "strict=true"]) == 1


# Seeds ------------------------------------------------------------------------------------------------------


def seeded(**settings: Any) -> Any:
    overrides = [f"table.{key}={value}" for key, value in settings.items()]
    rows = "table.rows=[{proxy: zen, published: ZenNAS}, {proxy: flops}]"
    return compose_config("report", ["table=vkdnw_seeds", rows, f"table.populations=['{SAMPLE}']", *overrides]).table


def test_a_mean_over_seeds(tmp_path):
    append(tmp_path, "flops", noisy(3.0))
    for seed in range(3):
        append(tmp_path, "zen", noisy(5.0, seed), seed=seed)
    table = seeded(seeds="[0, 1, 2]", metrics="[kendall]", resamples=100)
    zen, flops = table_cells(table, measurements(tmp_path))
    members = BENCHMARK.population(SAMPLE)
    accuracies = BENCHMARK.accuracies("cifar10").to_numpy()[members]
    columns = {str(seed): [noisy(5.0, seed)[int(i)] for i in BENCHMARK.representatives[members]] for seed in range(3)}
    samples = sample_many(columns, accuracies, "kendall", 100)
    taus = [sample.values["kendall"] for sample in samples.values()]
    assert zen.ours == pytest.approx(np.mean(taus))
    assert zen.seed_std == pytest.approx(np.std(taus, ddof=1))
    means = np.mean([sample.resampled["kendall"] for sample in samples.values()], axis=0)
    assert (zen.ci_low, zen.ci_high) == pytest.approx(tuple(np.quantile(means, (0.025, 0.975))), abs=1e-12)
    assert zen.seeds == 3
    assert zen.missing == ()
    # A count draws nothing: one seed says it all.
    assert (flops.seeds, flops.seed_std, flops.missing) == (1, None, ())
    assert mean_over_seeds(list(samples.values()), "kendall")[2] == zen.seed_std


def test_never_a_mean_over_the_seeds_that_are_there(tmp_path):
    append(tmp_path, "flops", noisy(3.0))
    for seed in (0, 2):
        append(tmp_path, "zen", noisy(5.0, seed), seed=seed)
    many = table_cells(seeded(seeds="[0, 1, 2]", metrics="[kendall]"), measurements(tmp_path))[0]
    one = table_cells(seeded(seeds="[0]", metrics="[kendall]"), measurements(tmp_path))[0]
    assert many.ours == one.ours
    assert (many.seeds, many.seed_std) == (1, None)
    assert [key.seed for _, key in many.missing] == [1]
    assert "seed 0 alone" in many.note
    assert "seed=1" in many.note
    table = seeded(seeds="[0, 1, 2]", metrics="[kendall]", resamples=50)
    text = to_markdown(build_table(table, measurements(tmp_path))[1])
    assert "3 seeds are asked for (0, 1, 2), 1 is stored: every figure is that of seed 0." in text
    assert "±" not in text
    append(tmp_path, "zen", noisy(5.0, 1), seed=1)
    text = to_markdown(build_table(table, measurements(tmp_path))[1])
    assert "mean and standard deviation (±) over all of them for 1 rows." in text


# Commands, resamples, formats -------------------------------------------------------------------------------


def test_commands_cover_all_that_is_missing():
    def key(proxy: str, inputs: str, seed: int = 0) -> ScoreKey:
        return ScoreKey("nasbench201", "cifar10", inputs, proxy, seed)

    missing = [("all", key("snip", "cifar10")), ("all", key("zen", "none")), ("all", key("vkdnw", "random"))]
    missing += [(SAMPLE, key("zen", "none")), ("all", key("vkdnw", "random", 1))]
    commands = scoring_commands(missing)
    assert set(commands) == set(missing)
    assert commands[missing[1]] == commands[missing[2]]
    assert len(set(commands.values())) == 4
    assert 'inputs=cifar10 inputs.path=DATA "proxies=[snip]"' in commands[missing[0]]


def test_fewer_resamples_on_large_populations():
    assert resamples_for(1000, 1000) == 1000
    assert resamples_for(BUDGET // 100, 1000) == 100
    assert resamples_for(423_624, 1000) == FEWEST
    assert resamples_for(423_624, 20) == 20


class Balanced(html.parser.HTMLParser):
    """Refuses tags that are not closed in order, and anything to load."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list) -> None:
        assert not {"src", "href"} & {name for name, _ in attrs}
        if tag != "meta":
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_formats_escape_what_they_must():
    sheet = Sheet("A & B_1: 50%", ['A **bold** `a_b "c"` <word>.'])
    mark = sheet.mark("why: `x_y`")
    sheet.sections.append(Section("cifar10", ["proxy", "n", "notes"], [["**a|b_c**", "7", mark]]))
    markdown, latex, page = to_markdown(sheet), to_latex(sheet), to_html(sheet)
    assert "| **a\\|b_c** | 7 | [1] |" in markdown
    assert r"\textbf{a\textbar{}b\_c} & 7 & {[}1{]} \\" in latex
    assert r"\begin{tabular}{lrl}" in latex
    assert all(f"\\{rule}" in latex for rule in ("toprule", "midrule", "bottomrule"))
    plain = latex.replace(r"\{", "").replace(r"\}", "")
    assert plain.count("{") == plain.count("}")
    assert not re.search(r"(?<!\\)[_%&#](?![^\n]*\\\\)", latex.split("\n", 1)[1])
    parser = Balanced()
    parser.feed(page)
    assert parser.open == []
    assert "<b>bold</b> <code>a_b &quot;c&quot;</code> &lt;word&gt;." in page
    assert '<th scope="row" class="left"><b>a|b_c</b></th><td>7</td>' in page


def test_tables_of_a_target_have_names_of_their_own(tmp_path):
    append(tmp_path, "flops", noisy(1.0))
    settings = [f"table.populations=['{SAMPLE}']", "table.rows=[{proxy: flops, published: FLOPs}]", "table.resamples=9"]
    paths = [f"store={tmp_path}", f"output={tmp_path / 'out'}"]
    assert cli.main(["report", "table=vkdnw_table1", "target=test_12ep", *settings, *paths]) == 0
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        f"vkdnw_table1--test_12ep.{kind}" for kind in ("csv", "md", "tex", "html")
    }
    rows = list(csv.DictReader(io.StringIO((tmp_path / "out" / "vkdnw_table1--test_12ep.csv").read_text())))
    assert {row["published"] for row in rows} == {""}
    assert rows[0]["ours"] != "not computed"


def test_tables_of_a_target_stay_out_of_the_committed_folder(tmp_path, monkeypatch):
    """They are beside a user's tables, not among them; git ignores both."""
    monkeypatch.chdir(tmp_path)
    append(tmp_path / "scores", "flops", noisy(1.0))
    settings = [f"table.populations=['{SAMPLE}']", "table.rows=[{proxy: flops}]", "table.datasets=[cifar10]"]
    for more in ([], ["target=test_12ep"]):
        assert cli.main(["report", "table=vkdnw_table1", *settings, "table.resamples=9", "store=scores", *more]) == 0
    results = tmp_path / "nas-proxy-harness"
    assert {path.parent.name for path in results.rglob("*.md") if "--" not in path.name} == {"tables"}
    assert {path.parent.name for path in results.rglob("*--test_12ep.*")} == {"targets"}
    assert "nas-proxy-harness/" in (ROOT / ".gitignore").read_text(encoding="utf-8").splitlines()


ONE_ROW = ["table.rows=[{proxy: flops}]", "table.datasets=[nasbench201/cifar10]", f"table.populations=['{SAMPLE}']"]


@pytest.mark.parametrize("table", ["leaderboard", "vkdnw_table1"])
def test_tables_take_metrics_by_their_short_names(tmp_path, table):
    append(tmp_path, "flops", noisy(1.0))
    settings = [*ONE_ROW, "table.resamples=9", f"store={tmp_path}"]
    written = []
    for metrics in ("tau,rho,ndcg,kendall", "kendall,spearman,ndcg" + "_1000" * (table != "leaderboard")):
        output = tmp_path / str(len(written))
        assert cli.main(["report", f"table={table}", f"table.metrics=[{metrics}]", f"output={output}", *settings]) == 0
        written.append((output / f"{table}.csv").read_text(encoding="utf-8"))
    assert written[0] == written[1]
    assert "not computed" not in written[0]


@pytest.mark.parametrize("table", ["leaderboard", "vkdnw_table1"])
@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("table.metrics=[kendal]", "unknown metric 'kendal' (did you mean 'kendall'?)"),
        ("table.resamples=-1", "resamples must be in [0, 1,000,000], got -1"),
    ],
)
def test_what_correlations_refuse_is_one_line(tmp_path, capsys, table, setting, words):
    append(tmp_path, "flops", noisy(1.0))
    settings = [*ONE_ROW, f"store={tmp_path}", f"output={tmp_path / 'out'}"]
    assert cli.main(["report", f"table={table}", setting, *settings]) == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith(f"harness: {words}")


def test_a_target_that_no_table_has(tmp_path, capsys):
    assert cli.main(["report", "target=test_13ep", f"store={tmp_path}", f"output={tmp_path}"]) == 2
    assert "did you mean 'test_12ep'" in capsys.readouterr().err


def test_unknown_kind_of_table(tmp_path, capsys):
    assert cli.main(["report", "table=leaderboard", "table.kind=leaderbord", f"output={tmp_path}"]) == 2
    assert "did you mean 'leaderboard'" in capsys.readouterr().err


def test_the_same_bytes_in_another_process_with_another_hash_seed(tmp_path):
    for name in ("synflow", "zen"):
        append(tmp_path / "scores", name, noisy(2.0, len(name)))
    rows = "table.rows=[{proxy: zen},{proxy: synflow},{proxy: 'log_rank_sum(zen, synflow)'},{proxy: naswot}]"
    settings = [rows, "table.datasets=[nasbench201/cifar10]", f"table.populations=['{SAMPLE}']", "table.resamples=50"]
    written = []
    for seed in ("1", "2"):
        output = tmp_path / seed
        done = subprocess.run(
            [sys.executable, "-m", "harness.cli", "report", "table=leaderboard", *settings,
             f"store={tmp_path / 'scores'}", f"output={output}"],
            env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONHASHSEED": seed},
            cwd=tmp_path, capture_output=True, text=True, timeout=600,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        written.append({path.name: path.read_bytes() for path in output.iterdir()})
    assert written[0] == written[1]
    assert len(written[0]) == 4


def test_figures_do_not_depend_on_what_was_asked_before(tmp_path):
    """Measurements are kept for all tables of a report: the second table has the figures that it has alone."""
    for name in ("synflow", "zen"):
        append(tmp_path, name, noisy(2.0, len(name)))
    table = compose_config(
        "report",
        ["table=vkdnw_table1", "table.rows=[{proxy: zen},{proxy: synflow}]", "table.datasets=[cifar10]",
         f"table.populations=['{SAMPLE}']", "table.resamples=60"],
    ).table  # fmt: skip
    alone = build_table(table, measurements(tmp_path))[0]
    shared = measurements(tmp_path)
    build_table(board_config("zen", "synflow", resamples=60), shared)
    assert build_table(table, shared)[0] == alone


def test_a_cell_without_a_figure_is_never_blank():
    cell = not_computed(Cell("a", "cifar10", "kendall", 0, None, 0.0, 0.0, Published("0.5"), "why not"), "needs more")
    assert cell.note == "not computed: needs more; why not"
    assert to_csv([cell]).splitlines()[1].split(",")[6] == "not computed"
