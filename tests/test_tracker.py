"""Tests of trackers: MLflow gets the correlations of a run with their protocol, in a local file store."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from harness.benchmarks.benchmark import load_benchmark
from harness.cli import main, tracker
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
    protocol, figures = tracker.correlations_of(job)
    assert protocol["target"] == "test_200ep"
    assert figures["flops/kendall"] == pytest.approx(expected(), abs=1e-12)
    assert -1 <= figures["flops/spearman"] <= 1


def test_a_proxy_with_missing_scores_has_no_correlation():
    assert main([*COUNTS, "shard=0/2"]) == 0
    job = Job("nasbench201", "ImageNet16-120", ("flops",), limit=30, store="scores")
    assert tracker.correlations_of(job)[1] == {}
    assert np.isfinite(expected())


def test_mistakes_are_found_before_anything_is_computed(capsys, monkeypatch):
    assert main([*COUNTS, "tracker=mlfow"]) == 2
    assert "did you mean 'mlflow'?" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "mlflow", None)
    assert main([*COUNTS, "tracker=mlflow"]) == 2
    assert 'pip install "nas-proxy-harness[mlflow]"' in capsys.readouterr().err
    assert not Path("scores").exists()
