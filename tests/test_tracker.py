"""Tests of trackers: MLflow gets the correlations of a run with their protocol, in a local file store."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from harness.benchmarks.benchmark import load_benchmark
from harness.cli import main
from harness.cli.outcome import tracked
from harness.engine.scorer import Job

COUNTS = ["score", "dataset=ImageNet16-120", "proxies=[flops,flops:count=all]", "limit=30", "store=scores"]


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)


def expected() -> float:
    benchmark = load_benchmark("nasbench201")
    counts = benchmark.space.topology(benchmark.architectures[:30], 120, 16)["flops"]
    return stats.kendalltau(counts, benchmark.accuracies("ImageNet16-120")[:30]).statistic


def test_a_run_arrives_in_mlflow(tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "runs").as_uri())
    mlflow.set_tracking_uri((tmp_path / "runs").as_uri())
    assert main([*COUNTS, "tracker=mlflow"]) == 0
    experiment = mlflow.get_experiment_by_name("nas-proxy-harness")
    (run,) = mlflow.MlflowClient().search_runs([experiment.experiment_id])
    assert run.data.metrics["flops/kendall"] == pytest.approx(expected(), abs=1e-12)
    assert set(run.data.metrics) == {
        f"{proxy}/{metric}" for proxy in ("flops", "flops:count_all") for metric in ("kendall", "spearman")
    }
    assert run.data.params["benchmark"] == "nasbench201"
    assert run.data.params["n"] == run.data.params["limit"] == "30"


def test_correlations_are_over_what_was_asked_for():
    assert main(COUNTS) == 0
    job = Job("nasbench201", "ImageNet16-120", ("flops",), limit=30, store="scores")
    protocol, figures = tracked(job)
    assert protocol["target"] == "test_200ep"
    assert figures["flops/kendall"] == pytest.approx(expected(), abs=1e-12)
    assert -1 <= figures["flops/spearman"] <= 1


def test_a_proxy_with_missing_scores_has_no_correlation():
    assert main([*COUNTS, "shard=0/2"]) == 0
    job = Job("nasbench201", "ImageNet16-120", ("flops",), limit=30, store="scores")
    assert tracked(job)[1] == {}
    assert np.isfinite(expected())


def runs_in(uri: str) -> list:
    import mlflow

    mlflow.set_tracking_uri(uri)
    experiment = mlflow.get_experiment_by_name("nas-proxy-harness")
    return mlflow.MlflowClient().search_runs([experiment.experiment_id])


def test_without_a_place_runs_go_below_the_working_directory(tmp_path, monkeypatch, capsys):
    pytest.importorskip("mlflow")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert main([*COUNTS, "tracker=mlflow"]) == 0
    place = (tmp_path / "nas-proxy-harness" / "mlruns").as_uri()
    assert capsys.readouterr().out.splitlines()[-1] == f"MLflow, experiment nas-proxy-harness: {place}"
    assert len(runs_in(place)) == 1


@pytest.mark.parametrize(
    ("place", "sweep"),
    [("sqlite:///runs.db", ()), ("http://127.0.0.1:9", ()), ("nonsense://x", ()), ("nonsense://x", ("-m", "seed=0,1"))],
)
def test_a_place_that_cannot_be_used_is_named_before_anything_is_computed(place, sweep, monkeypatch, capsys):
    pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", place)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    assert main([*COUNTS, *sweep, "tracker=mlflow"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"harness: MLflow cannot use MLFLOW_TRACKING_URI={place} (")
    assert not Path("scores").exists()


def test_every_run_of_a_sweep_is_logged_complete_or_not(tmp_path, monkeypatch, capsys):
    pytest.importorskip("mlflow")
    place = (tmp_path / "runs").as_uri()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", place)
    assert main([*COUNTS, "limit=3"]) == 0
    assert main([*COUNTS, "-m", "limit=3,4", "device=cpu", "workers=1", "tracker=mlflow"]) == 0
    assert sorted(run.data.params["n"] for run in runs_in(place)) == ["3", "4"]


def test_a_tracker_that_fails_in_a_sweep_is_no_success(capsys, monkeypatch):
    settings = ["-m", "limit=3,4", "device=cpu", "workers=1", "tracker=mlflow"]
    monkeypatch.setattr("harness.cli.launch.find_tracker", lambda name: None)  # it is there when the sweep starts
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "nonsense://x")
    assert main([*COUNTS, *settings]) == 1
    err = capsys.readouterr().err
    assert "2 of 2 runs are not complete" in err


def test_mistakes_are_found_before_anything_is_computed(capsys, monkeypatch):
    assert main([*COUNTS, "tracker=mlfow"]) == 2
    assert "did you mean 'mlflow'?" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "mlflow", None)
    assert main([*COUNTS, "tracker=mlflow"]) == 2
    assert 'pip install "nas-proxy-harness[mlflow]"' in capsys.readouterr().err
    assert not Path("scores").exists()
