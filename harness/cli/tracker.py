"""Correlations of a run, or of each run of a sweep, in an experiment tracker."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from harness.errors import HarnessError, UnknownNameError, cause
from harness.paths import OUTPUT

#: Takes the name of a run, its protocol and its figures, and says where they went.
Track = Callable[[str, Mapping[str, Any], Mapping[str, float]], str]

EXPERIMENT = "nas-proxy-harness"


def find_tracker(name: str | None) -> Track | None:
    """What to call after a run. `None` tracks nothing.

    Raises:
        UnknownNameError: no such tracker. HarnessError: its package is not installed, or it cannot be reached; that is
            found before anything is scored.
    """
    if name is None:
        return None
    if name not in TRACKERS:
        raise UnknownNameError("tracker", name, TRACKERS)
    return TRACKERS[name]()


def _mlflow() -> Track:
    try:
        import mlflow
    except ImportError as error:
        raise HarnessError(
            'tracker=mlflow needs MLflow: pip install "nas-proxy-harness[mlflow]", or leave tracker out'
        ) from error

    # MLflow asks for a word before it writes files, the one kind of store that its small package knows beside servers,
    # and by default tries a server that is not there for minutes.
    os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    place = os.environ.get("MLFLOW_TRACKING_URI") or (Path.cwd() / OUTPUT / "mlruns").as_uri()

    @contextmanager
    def reaching():
        try:
            yield
        except Exception as error:  # of whatever kind its stores and their packages raise
            raise HarnessError(
                f"MLflow cannot use MLFLOW_TRACKING_URI={place} ({cause(error)}): name a server or a folder "
                "(file:///…), install the full package for databases (pip install mlflow), or leave tracker out"
            ) from error

    def track(name: str, protocol: Mapping[str, Any], figures: Mapping[str, float]) -> str:
        """One MLflow run in the experiment."""
        with reaching(), mlflow.start_run(run_name=name):
            mlflow.log_params(protocol)
            # MLflow's names know no = and no %; an undefined correlation is no metric.
            mlflow.log_metrics(
                {re.sub(r"[^\w./:-]", "_", key): value for key, value in figures.items() if math.isfinite(value)}
            )
        return f"MLflow, experiment {EXPERIMENT}: {place}"

    with reaching():
        mlflow.set_tracking_uri(place)
        mlflow.set_experiment(EXPERIMENT)
    return track


TRACKERS: dict[str, Callable[[], Track]] = {"mlflow": _mlflow}
