"""Reference harness for training-free NAS proxies.

Names are imported on first use, so that `import harness` loads neither torch nor pandas.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_EXPORTS = {
    "Benchmark": "harness.benchmarks.benchmark",
    "load_benchmark": "harness.benchmarks.benchmark",
    "Correlation": "harness.correlation",
    "correlate": "harness.correlation",
    "HarnessError": "harness.errors",
    "Probe": "harness.probes.base",
    "Proxy": "harness.proxies.base",
    "Subject": "harness.probes.base",
    "Unscorable": "harness.probes.base",
    "ScoreStore": "harness.engine.store",
    "open_store": "harness.engine.store",
    "score": "harness.engine.api",
    "load_scores": "harness.comparison.scores",
    "score_benchmark": "harness.comparison.scores",
    "compare": "harness.comparison.command",
    "list_proxies": "harness.comparison.describe",
    "list_benchmarks": "harness.comparison.describe",
    "describe": "harness.comparison.describe",
}
__all__ = [
    "Benchmark",
    "Correlation",
    "HarnessError",
    "Probe",
    "Proxy",
    "ScoreStore",
    "Subject",
    "Unscorable",
    "compare",
    "correlate",
    "describe",
    "list_benchmarks",
    "list_proxies",
    "load_benchmark",
    "load_scores",
    "open_store",
    "score",
    "score_benchmark",
]


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module 'harness' has no attribute {name!r}")
    return getattr(import_module(_EXPORTS[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_EXPORTS})
