"""Tests of the command line: what it prints, and one line for every mistake."""

from __future__ import annotations

import contextlib
import io
import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import harness
from harness.benchmarks.benchmark import load_benchmark
from harness.cli import app as cli
from harness.cli import main
from harness.engine.store import Row, ScoreKey, ScoreStore
from harness.proxies import available
from harness.rankings.aggregates import AGGREGATES
from harness.rankings.learned import LEARNED

SNIP = "snip:batch_size=4"
SEARCH_STOPPED = (
    "what a search has evaluated is saved, the same command goes on from there; a study on benchmarks, which saves "
    "nothing, starts again"
)
SMALL = "dataset=ImageNet16-120"  # images of 16 x 16: the cheapest networks


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch) -> None:
    """Whatever a command leaves in its working directory is seen, and never lands in the checkout."""
    monkeypatch.chdir(tmp_path)


def stored(root: Path | str) -> dict[tuple[str, str, int], list[int]]:
    """Indices by (proxy, dataset, seed)."""
    store = ScoreStore(root)
    keys = list(store.keys())
    return {(key.proxy, key.dataset, key.seed): store.read(key)["index"].tolist() for key in keys}


def score(*arguments: str) -> int:
    return main(["score", "store=scores", "device=cpu", "workers=1", *arguments])


def python(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    return subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, env=environment, cwd=cwd, timeout=600
    )


# What it prints -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"], ["help"]])
def test_usage(capsys, arguments):
    assert main(arguments) == 0
    out, err = capsys.readouterr()
    assert err == ""
    for word in ("harness score", "harness report", "harness list", "--version"):
        assert word in out


def test_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"harness {harness.__version__}\n"


@pytest.mark.parametrize("flag", ["--help", "-h"])
@pytest.mark.parametrize(
    ("command", "settings"),
    [
        ("score", ["proxies", "population", "limit", "shard", "store", "inputs.path", "workers", "seed"]),
        ("report", ["table", "store", "output", "strict"]),
        ("report plots", ["benchmark", "dataset", "proxies", "population", "plots", "metric", "top", "output"]),
        ("report page", ["metrics", "points", "store", "output", "cache"]),
        ("queue", ["minutes", "data", "queue", "store", "tables", "--plan"]),
    ],
)
def test_help_of_a_command_lists_its_settings(capsys, command, settings, flag):
    assert main([*command.split(), flag]) == 0
    out, err = capsys.readouterr()
    assert all(setting in out for setting in settings)
    assert "hydra:" not in out
    assert err == ""


@pytest.mark.parametrize("command", cli.cli.commands)
def test_help_of_every_command_has_examples_of_it(capsys, command):
    assert main([command, "--help"]) == 0
    out, err = capsys.readouterr()
    assert "xamples:" in out
    assert out.count(f"harness {command}") >= 2
    assert err == ""


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (["score", "proxies=[flops]"], "finished scores are stored, the same command goes on from there"),
        (["report"], "the stored scores are as they were, the same command starts again"),
        (["verify"], "the stored scores are as they were, the same command starts again"),
        (["search"], SEARCH_STOPPED),
        (["queue"], "finished scores are stored, the same command goes on from there"),
        (["queue", "--plan"], "the stored scores are as they were, the same command starts again"),
    ],
)
def test_stopping_says_how_to_go_on(capsys, monkeypatch, command, words):
    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "_app", stop)
    assert main(command) == 130
    assert capsys.readouterr().err == f"\nharness: stopped; {words}\n"


def test_an_import_that_is_stopped_has_stored_no_scores(capsys, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("harness.benchmarks.importers.import_archive", stop)
    assert main(["import", "nats_sss", "."]) == 130
    assert "written in whole or not at all, the same command starts again" in capsys.readouterr().err


def test_list_of_proxies(capsys):
    assert main(["list", "proxies"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == [*sorted([*available(), *AGGREGATES]), *sorted(LEARNED)]
    assert "aggregate: log-rank sum" in next(line for line in lines if line.startswith("az_nas "))
    assert all(len(line.split(maxsplit=1)[1]) > 10 for line in lines)


def test_list_of_benchmarks(capsys):
    assert main(["list", "benchmarks"]) == 0
    assert any(line.startswith("nasbench201 ") and "15,625" in line for line in capsys.readouterr().out.splitlines())


def written_to(stdout: int, command: list[str], unbuffered: str) -> subprocess.CompletedProcess:
    path = os.pathsep.join(filter(None, sys.path))
    environment = {**os.environ, "PYTHONPATH": path, "PYTHONUNBUFFERED": unbuffered}
    words = [sys.executable, "-m", "harness.cli", *command]
    return subprocess.run(words, stdout=stdout, stderr=subprocess.PIPE, env=environment, timeout=600, check=False)


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize(
    ("command", "code"),
    [(["list", "proxies"], 0), (["--help"], 0), (["verify", "-h"], 0), (["doctor", "store=none"], 141)],
)
def test_a_closed_pipe_hides_no_verdict(command, code, unbuffered):
    """Of a list nothing is lost when nobody reads on; a check whose findings went nowhere has not passed."""
    reader, writer = os.pipe()
    os.close(reader)
    done = written_to(writer, command, unbuffered)
    os.close(writer)
    assert done.stderr == b""
    assert done.returncode == code


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full here")
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_full_disk_under_standard_output_is_told_in_one_line(unbuffered):
    with open("/dev/full", "wb") as full:
        done = written_to(full.fileno(), ["list", "proxies"], unbuffered)
    assert done.stderr == b"harness: standard output cannot be written (No space left on device)\n"
    assert done.returncode == 2


# Mistakes -------------------------------------------------------------------------------------------------


def refused(capsys, arguments: list[str]) -> str:
    """The one line with which a command is refused."""
    code = main(arguments)
    out, err = capsys.readouterr()
    assert "Traceback" not in out + err
    lines = err.splitlines()
    assert len(lines) == 1, err
    assert lines[0].startswith("harness: ")
    assert code == 2
    return lines[0]


MISTAKES = [
    (["scor"], ["unknown command 'scor'", "did you mean 'score'?"]),
    (["list"], ["Missing argument 'proxies|benchmarks"]),
    (["list", "proxy"], ["unknown list 'proxy'", "did you mean 'proxies'?"]),
    (["list", "proxies", "benchmarks"], ["unexpected extra argument", "benchmarks"]),
    (["score"], ["no proxy was asked for", "proxies=[synflow", "harness list proxies"]),
    (["score", "proxies=[snipp]"], ["unknown proxy 'snipp'", "did you mean 'snip'?"]),
    (["score", "proxies=[synflow,nasswot]"], ["unknown proxy 'nasswot'", "did you mean 'naswot'?"]),
    (["score", "proxies=[snip:batchsize=4]"], ["setting of proxy 'snip' 'batchsize'", "'batch_size'?"]),
    (["score", "proxies=[snip:batch_size=four]"], ["batch_size='four' is no int", "the default is 64"]),
    (["score", "proxies=[snip:4]"], ["name:key=value", "'4'"]),
    (["score", "proxies=[grad_norm:norm=some]"], ["unknown norm of grad_norm 'some': valid: all, layers"]),
    (["score", "proxies=[flops]", "dataset=cifar-10"], ["unknown dataset", "did you mean 'cifar10'?"]),
    (["score", "proxies=[flops]", "benchmark=nasbench-201"], ["unknown benchmark", "'nasbench201'?"]),
    (["score", "proxies=[flops]", "population=no_dead_op"], ["unknown population", "'no_dead_ops'?"]),
    (["score", "proxies=[flops]", "population=sample(99999)"], ["99999 of 15625", "lower n"]),
    (["score", "proxies=[flops]", "population=sample(0, seed=0)"], ["asks for no architecture", "at least 1"]),
    (["score", "proxies=[flops]", "populaton=all"], ["unknown setting", "did you mean 'population'?"]),
    (["score", "proxies=[flops]", "inputs.pth=x"], ["unknown setting", "did you mean 'inputs.path'?"]),
    (["score", "proxies=[flops]", "+extra=1"], ["unknown setting", "'extra'"]),
    (["score", "proxies=[flops]", "inputs=cifar-10"], ["unknown inputs", "did you mean 'cifar10'?"]),
    (["score", "proxies=[flops]", "inputs=cifar10"], ["inputs=cifar10 needs images", "inputs.path=FOLDER"]),
    (
        ["score", "proxies=[flops]", "inputs=cifar10", "inputs.path=nowhere"],
        ["inputs.path=nowhere does not exist", "inputs=random"],
    ),
    (["score", "proxies=[flops]", "inputs=cifar10", "inputs.path=."], ["has no data_batch_1"]),
    (["score", "proxies=[flops]", "shard=2/2"], ["shard='2/2'", "0 <= i < n"]),
    (["score", "proxies=[flops]", "shard=-1/2"], ["shard='-1/2'", "0 <= i < n"]),
    (["score", "proxies=[flops]", "shard=half"], ["shard='half'", "such as shard=0/4"]),
    (["score", "proxies=[flops]", "shard=1"], ["shard='1'", "such as shard=0/4"]),
    (["score", "proxies=[flops]", "device=quantum"], ["device=quantum cannot be used here", "device=cpu"]),
    (["score", "proxies=[flops]", "device=cuda:99"], ["device=cuda:99 cannot be used here", "device=cpu"]),
    (["score", "proxies=[flops]", "seed=one"], ["seed", "one"]),
    (["score", "proxies=[flops]", "limit=few"], ["limit", "few"]),
    (["score", f"proxies=[{SNIP}]", "limit=1", "workers=-1"], ["workers", "-1"]),
    (["score", f"proxies=[{SNIP}]", "limit=1", "workers=1", "chunk=0"], ["chunk", "0"]),
    (["score", "proxies=[flops]", "limit=-5"], ["limit", "-5"]),
    (["score", "proxies=flops,"], ["proxies"]),
    (["score", "flops"], ["'flops' is no setting", "key=value"]),
    (["score", "proxies=[flops"], ["'proxies=[flops' cannot be read"]),
    (["score", "-m", "proxies=[flops]", "sed=0,1"], ["unknown setting", "did you mean 'seed'?"]),
    (["score", "proxies=[flops]", "seed=0,1"], ["seed", "-m"]),
    (["report", "tabel=vkdnw_table1"], ["unknown setting", "did you mean 'table'?"]),
    (["report", "table=vkdnw_table"], ["unknown table", "did you mean 'vkdnw_table1'?"]),
    (["report", "plot"], ["unknown part of the report", "did you mean 'plots'?"]),
    (["report", "plots", "dataset"], ["'dataset' is no setting", "`harness report plots --help`"]),
    (["report", "plots", "datset=cifar10"], ["unknown setting of `harness report plots`", "did you mean 'dataset'?"]),
    (["report", "plots", "dataset=cifar1"], ["unknown dataset", "did you mean 'cifar10'?"]),
    (["report", "plots", "proxies=[sinflow]"], ["unknown proxy", "did you mean 'synflow'?"]),
    (["report", "plots", "plots=[scater]"], ["unknown plot", "did you mean 'scatter'?"]),
    (["report", "plots", "formats=[gif]"], ["unknown format 'gif'", "pdf, png, svg"]),
    (["report", "plots", "metric=kendal"], ["unknown metric", "did you mean 'kendall'?"]),
    (["report", "plots", "top=0"], ["top=0", "1 or more"]),
    (["report", "plots", "population=al"], ["unknown population", "did you mean 'all'?"]),
    (["report", "plots", "proxies=[flops]"], ["no proxy has scores", '"proxies=[flops]"']),
    (["report", "page", "metrics=[kendal]"], ["unknown metric", "did you mean 'kendall'?"]),
    (["report", "page", "points=0"], ["points", "1 or more"]),
]


@pytest.mark.parametrize(("arguments", "words"), MISTAKES, ids=[" ".join(command) for command, _ in MISTAKES])
def test_mistakes_are_answered_in_one_line(capsys, tmp_path, arguments, words):
    line = refused(capsys, arguments)
    for word in words:
        assert word in line
    assert list(tmp_path.iterdir()) == []


def test_the_nearest_name_comes_with_the_valid_ones(capsys):
    line = refused(capsys, ["score", "proxies=[flops]", "dataset=imagenet"])
    assert "valid: ImageNet16-120, cifar10, cifar100" in line


def test_a_truncated_part_is_named(capsys, tmp_path):
    key = ScoreKey("nasbench201", "cifar10", "none", "flops", 0)
    path = ScoreStore(tmp_path / "scores").append(key, [Row(0, 1.0, 0.0, "ok", 1)])
    path.write_bytes(path.read_bytes()[:-10])
    line = refused(capsys, ["score", "proxies=[flops]", "limit=2", "store=scores", "device=cpu"])
    assert path.name in line
    assert "is damaged" in line
    assert "delete that file" in line
    path.unlink()
    assert score("proxies=[flops]", "limit=2") == 0
    assert stored("scores") == {("flops", "cifar10", 0): [0, 1]}


def test_a_store_that_cannot_be_written_is_named(capsys, tmp_path):
    (tmp_path / "file").write_text("")
    line = refused(capsys, ["score", "proxies=[flops]", "limit=2", "store=file/scores", "device=cpu"])
    assert "file/scores" in line
    assert "set store=DIR" in line


def test_mistakes_reach_the_shell():
    done = python("-m", "harness.cli", "score", "proxies=[snipp]")
    assert done.returncode == 2
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith("harness: unknown proxy 'snipp': did you mean 'snip'?")


# Scoring --------------------------------------------------------------------------------------------------


def test_unquoted_populations_and_settings(capsys, tmp_path):
    arguments = ["proxies=[snip:batch_size=4,flops]", "population=sample(3, seed=1)", SMALL]
    assert score(*arguments) == 0
    benchmark = load_benchmark("nasbench201")
    members = benchmark.population("sample(3, seed=1)")
    assert stored("scores") == {
        (SNIP, "ImageNet16-120", 0): sorted(set(benchmark.representatives[members].tolist())),
        ("flops", "ImageNet16-120", 0): members.tolist(),
    }
    out, err = capsys.readouterr()
    assert err == ""
    assert out.startswith("nasbench201/ImageNet16-120 seed 0: 6 scores computed, 0 were stored already, ")
    assert out.splitlines()[0].endswith("store scores")
    assert [path.name for path in tmp_path.iterdir()] == ["scores"]

    assert score(*arguments) == 0
    assert "0 scores computed, 6 were stored already" in capsys.readouterr().out


def test_a_run_tells_how_well_the_proxies_rank(capsys):
    assert score("proxies=[flops,sed]", SMALL, "population=no_dead_ops", "limit=200") == 0
    first, heading, flops, sed, following = capsys.readouterr().out.splitlines()
    assert "400 scores computed" in first
    assert heading == "rank correlation with test_200ep on ImageNet16-120 [95% interval]:"
    benchmark = load_benchmark("nasbench201")
    members = benchmark.population("no_dead_ops")[:200]
    accuracies = benchmark.accuracies("ImageNet16-120").to_numpy()[members]
    scores = ScoreStore("scores").read(ScoreKey("nasbench201", "ImageNet16-120", "none", "flops", 0))["score"]
    found = harness.correlate(scores.to_numpy(), accuracies)
    tau, rho = (f"{one.value:.3f} [{one.low:.3f}, {one.high:.3f}]" for one in (found["tau"], found["rho"]))
    assert flops == f"  flops: tau {tau}, rho {rho}, n 200"
    assert sed.startswith("  sed: tau ")
    assert following == "next: the same without limit=200 scores all 9,445 architectures of population no_dead_ops"

    assert score("proxies=[flops]", SMALL, "population=sample(30, seed=1)") == 0
    following = capsys.readouterr().out.splitlines()[-1].removeprefix("next: harness ")
    assert main(shlex.split(following)) == 0
    # Of another seed, with images of one's own, beside no other scores.
    np.savez("images.npz", images=np.zeros((8, 16, 16, 3), np.uint8), labels=np.arange(8))
    settings = ["proxies=[snip:batch_size=4]", SMALL, "population=sample(3, seed=1)", "seed=3", "stores=[scores]"]
    assert score(*settings, "inputs=ImageNet16-120", "inputs.path=images.npz") == 0
    following = capsys.readouterr().out.splitlines()[-1].removeprefix("next: harness ")
    for word in ("seed=3", "inputs=ImageNet16-120", "inputs.path=images.npz", "store=scores", "'stores=[scores]'"):
        assert f" {word}" in following
    assert main([*shlex.split(following), "against=[snip:batch_size=4]"]) == 0
    assert score("proxies=[sed]", SMALL, "limit=6", "shard=0/2") == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith("tau and rho: when the other shards are stored too")
    assert score("proxies=[trainable_layers]", "benchmark=nasbench201", "limit=1") == 0
    assert "tau" not in capsys.readouterr().out  # of one architecture there is none


def test_images_without_their_name_are_refused(capsys, tmp_path):
    line = refused(capsys, ["score", "proxies=[snip]", f"inputs.path={tmp_path}", "limit=1", "store=scores"])
    assert f"inputs.path={tmp_path} is of no use with inputs=random" in line
    assert "inputs=cifar10" in line


EMPTY = [
    (["score", "proxies=[flops]", "dataset="], "unknown dataset"),
    (["search", "proxies=[flops]", "dataset="], "unknown dataset"),
    (["search", "proxies=[flops]", "target="], "unknown target"),
    (["search", "benchmark=zennas", "proxies=[params]", "budget=1", "store="], "store= names no folder"),
    (["search", "study=search_tabular", "output="], "output= names no folder"),
    (["compare", "flops", "dataset="], "unknown dataset"),
    (["compare", "flops", "target="], "unknown target"),
    (["verify", "--proxy", "flops", "--expect", "tau>0", "dataset="], "unknown dataset"),
    (["verify", "--proxy", "flops", "--expect", "tau>0", "population="], "unknown population"),
    (["verify", "--proxy", "snip", "--expect", "tau>0", "inputs.path="], "inputs.path"),
    (["verify", "tables", "tables="], "tables= names no folder"),
    (["verify", "correlations", "baseline="], "baseline= names no folder or file"),
    (["verify", "baseline", "baseline="], "baseline= names no folder or file"),
    (["verify", "references", "path="], "path= names no folder or file"),
    (["verify", "references", "population=", "path=x"], "x"),
]


@pytest.mark.parametrize(("arguments", "words"), EMPTY, ids=[" ".join(command) for command, _ in EMPTY])
def test_an_empty_setting_is_not_the_default(arguments, words, tmp_path, capsys):
    """As from a variable that the shell does not have."""
    ScoreStore("scores").append(ScoreKey("nasbench201", "cifar10", "none", "flops", 0), [Row(0, 1.0, 0.0, "ok", 1)])
    stored = [] if arguments[0] == "search" else ["store=scores"]
    assert words in refused(capsys, [*arguments, *stored])


def test_an_empty_store_setting_is_refused(capsys):
    assert "store= names no folder" in refused(capsys, ["score", "proxies=[flops]", "limit=1", "store="])


@pytest.mark.parametrize("locale", [{"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}, {"LC_ALL": "C"}])
def test_no_locale_keeps_a_line_from_being_printed(tmp_path, locale):
    command = ["report", "table=vkdnw_table1", "table.rows=[{proxy: sed}]", f"output={tmp_path / 'größe'}"]
    done = subprocess.run(
        [sys.executable, "-m", "harness.cli", *command, "table.datasets=[cifar10]", "table.resamples=0"],
        env={**os.environ, **locale, "PYTHONPATH": str(Path(harness.__file__).parents[1])},
        cwd=tmp_path,
        capture_output=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert "–".encode() in done.stdout
    assert len(list((tmp_path / "größe").iterdir())) == 4


@pytest.mark.parametrize(
    "population",
    ["population=sample(2, 1)", "population='sample(2, seed=1)'", 'population="sample(2, seed=1)"'],
)
def test_spellings_of_a_population(population):
    assert score("proxies=[flops]", population) == 0
    expected = load_benchmark("nasbench201").population("sample(2, seed=1)")
    assert stored("scores") == {("flops", "cifar10", 0): expected.tolist()}


@pytest.mark.parametrize(
    "proxies",
    [
        "proxies=[flops:count=all,trainable_layers]",
        'proxies=["flops:count=all",trainable_layers]',
        "proxies=['flops:count=all','trainable_layers']",
        "proxies=[flops:count=all, trainable_layers]",
    ],
)
def test_spellings_of_settings(proxies):
    assert score(proxies, "limit=1") == 0
    assert set(stored("scores")) == {("flops:count=all", "cifar10", 0), ("trainable_layers", "cifar10", 0)}


def test_the_first_dataset_is_the_default(capsys):
    assert score("proxies=[flops]", "limit=1") == 0
    assert capsys.readouterr().out.startswith("nasbench201/cifar10 seed 0: 1 scores computed")


def test_shards_and_limit():
    for shard in range(3):
        assert score("proxies=[flops]", "limit=10", f"shard={shard}/3") == 0
        assert len(stored("scores")["flops", "cifar10", 0]) == [4, 7, 10][shard]


def test_images_of_an_archive(tmp_path):
    rng = np.random.RandomState(0)
    np.savez("images.npz", images=rng.randint(0, 256, (8, 32, 32, 3), dtype=np.uint8), labels=np.arange(8))
    assert score("proxies=[snip:batch_size=4]", "limit=1", "inputs=cifar10", "inputs.path=images.npz") == 0
    (key,) = ScoreStore("scores").keys()
    assert (key.inputs, key.proxy) == ("cifar10", SNIP)


def test_too_few_images_are_refused(capsys):
    rng = np.random.RandomState(0)
    np.savez("images.npz", images=rng.randint(0, 256, (3, 32, 32, 3), dtype=np.uint8), labels=np.arange(3))
    images = ["inputs=cifar10", "inputs.path=images.npz"]
    asked = ["score", f"proxies=[synflow,{SNIP}]", "limit=1", *images, "store=scores", "workers=1"]
    line = refused(capsys, asked)
    assert f"{SNIP} reads 4 images (1 of 4), inputs 'cifar10' hold 3: point inputs.path at more" in line
    assert "lower its batch_size or leave it out" in line
    assert not Path("scores").exists(), "before anything is computed"
    zico = refused(capsys, ["score", "proxies=[zico:batch_size=2]", "limit=1", *images, "store=scores"])
    assert "zico:batch_size=2 reads 4 images (2 of 2)" in zico
    assert score("proxies=[zen:batch_size=2,snip:batch_size=3]", "limit=1", *images) == 0


def test_near_reads_as_many_images_as_there_are():
    """It reads mini-batches until its matrices are full: of images, until there is no other."""
    rng = np.random.RandomState(0)
    for count in (4, 9):  # where 64 channels ask for 16 mini-batches of vectors
        np.savez("images.npz", images=rng.randint(0, 256, (count, 32, 32, 3), dtype=np.uint8), labels=np.arange(count))
        images = ["inputs=cifar10", "inputs.path=images.npz", f"store=s{count}", f"stores=[s{count}]"]
        assert score("proxies=[near:batch_size=4]", "limit=1", *images) == 0
        (key,) = ScoreStore(f"s{count}").keys()
        assert ScoreStore(f"s{count}").read(key)["status"].tolist() == ["ok"]


def test_failed_rows_are_counted_by_their_reason(capsys):
    assert score("proxies=[dss]", SMALL, "limit=1") == 0  # a proxy of networks with attention
    out = capsys.readouterr().out
    assert "without a score: 1 x dss: no attention module" in out


def test_exceptions_while_scoring_give_exit_code_1(capsys, monkeypatch):
    from harness.proxies.saliency import Snip

    def broken(self, seen):
        raise RuntimeError("gone wrong")

    monkeypatch.setattr(Snip, "score", broken)
    assert score(f"proxies=[{SNIP}]", SMALL, "limit=1") == 1
    assert f"without a score: 1 x {SNIP}: error: RuntimeError: gone wrong" in capsys.readouterr().out


def test_interrupt_gives_exit_code_130(capsys, monkeypatch):
    from harness.engine.scorer import Scorer

    def interrupted(self, index, labels):
        raise KeyboardInterrupt

    monkeypatch.setattr(Scorer, "score", interrupted)
    assert score(f"proxies=[{SNIP}]", SMALL, "limit=1") == 130
    assert "finished scores are stored, the same command goes on from there" in capsys.readouterr().err


# Hydra ----------------------------------------------------------------------------------------------------


def test_sweep_stores_every_job_and_leaves_nothing_in_the_working_directory(tmp_path):
    done = python(
        *("-m", "harness.cli", "score", "-m", "seed=0,1", f"proxies=[{SNIP},flops]", SMALL, "limit=1"),
        *("store=results/scores", "device=cpu", "workers=1"),
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    assert stored(tmp_path / "results" / "scores") == {
        (SNIP, "ImageNet16-120", 0): [0],
        (SNIP, "ImageNet16-120", 1): [0],
        ("flops", "ImageNet16-120", 0): [0],
    }
    assert [path.name for path in tmp_path.iterdir()] == ["results"]
    assert "Traceback" not in done.stderr
    assert "seed 0: 2 scores computed" in done.stdout
    assert "seed 1: 1 scores computed, 1 were stored already" in done.stdout


def test_a_mistake_in_a_sweep_gives_exit_code_2_before_anything_is_run(tmp_path):
    done = python(
        *("-m", "harness.cli", "score", "-m", "dataset=cifar10,cifar11", "proxies=[flops]", "limit=1"),
        *("store=results/scores", "device=cpu"),
        cwd=tmp_path,
    )
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert "cifar11" in line
    assert "did you mean 'cifar10'?" in line
    assert list(tmp_path.iterdir()) == []


def test_configuration_can_be_shown(tmp_path):
    done = python("-m", "harness.cli", "score", "proxies=[flops]", "--cfg", "job", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "population: all" in done.stdout
    assert list(tmp_path.iterdir()) == []


# Imports --------------------------------------------------------------------------------------------------

HEAVY = ["torch", "pandas", "hydra", "numpy", "scipy", "pyarrow", "sklearn"]


def imported(code: str) -> set[str]:
    done = python("-c", f"{code}\nimport sys, json; print(json.dumps([m for m in {HEAVY} if m in sys.modules]))")
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout.splitlines()[-1]))


def test_import_loads_no_heavy_package():
    assert imported("import harness; harness.__version__; dir(harness)") == set()


def test_help_and_version_load_no_heavy_package():
    code = "from harness.cli import main\nmain(['--help']); main(['--version']); main(['lst'])"
    assert imported(code) == set()


def test_listing_loads_no_torch():
    code = "from harness.cli import main\nmain(['list', 'proxies']); main(['list', 'benchmarks'])"
    assert "torch" not in imported(code)


def test_public_names_are_those_that_are_documented():
    for name in harness.__all__:
        assert getattr(harness, name).__name__ == name
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = harness.nothing


def test_main_reads_the_arguments_of_the_process(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["harness", "--version"])
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        assert main() == 0
    assert out.getvalue().startswith("harness ")
