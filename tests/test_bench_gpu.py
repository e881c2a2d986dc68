"""The measurements for a machine with a GPU, as far as one without can run them."""

from __future__ import annotations

import json
import os
import sys

import pytest
import torch

from harness.bench import gpu

FAKE_SMI = """#!{python}
import sys, time
print("GPU-7" in sys.argv[1] and 0, flush=True)
for busy in (40, 60, 90):
    print(busy, flush=True)
time.sleep(60)
"""


@pytest.fixture
def nvidia_smi(tmp_path, monkeypatch) -> None:
    command = tmp_path / "nvidia-smi"
    command.write_text(FAKE_SMI.format(python=sys.executable))
    command.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU: `make bench-gpu` measures it")
def test_one_line_where_there_is_no_gpu(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["gpu", "--output", str(tmp_path / "gpu.json")])
    assert gpu.main() == 2  # a job that was to measure has not
    out, err = capsys.readouterr()
    assert err.startswith(f"no GPU: torch {torch.__version__} sees none here; run this where there is one")
    assert err.count("\n") == 1
    assert not out
    assert not (tmp_path / "gpu.json").exists()


def test_rates_over_one_worker_and_utilisation(monkeypatch, nvidia_smi):
    asked = []

    def networks_a_second(workers, indices, members, device, seconds):
        import time

        asked.append((workers, len(indices), device, seconds))
        time.sleep(0.5)  # until the fake nvidia-smi has spoken
        return 3.0 * workers**0.5

    monkeypatch.setattr(gpu, "networks_a_second", networks_a_second)
    monkeypatch.setattr(gpu, "WORKERS", (1, 2))
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1}, raising=False)
    found = dict(gpu.rates(5, 0, "cuda:0", "GPU-7", 2.0))
    assert asked == [(workers, 5, "cuda:0", 2.0) for _ in range(3) for workers in (1, 2)]
    assert [*found][:2] == ["snip, naswot, synflow; workers=1", "snip, naswot, synflow; workers=2"]
    assert found["all; workers=2"] == {"networks_a_second": 4.24, "over_one_worker": 1.41, "utilisation_percent": 60}
    json.dumps(found)


def test_without_nvidia_smi_there_is_no_utilisation(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with gpu.utilisation("GPU-7") as seen:
        pass
    assert seen == []


def test_proxies_without_a_score_are_named(monkeypatch):
    monkeypatch.setattr(gpu, "_sets", lambda: {"all": ["snip:batch_size=2", "swap:batch_size=25"]})
    assert gpu.failures("cpu") == {
        "swap:batch_size=25": "a pattern over more than 24 images has no exact float32 code: lower the batch size"
    }


def test_a_rate_is_measured_by_processes_of_their_own():
    _, indices = gpu._prepare(1, 0)
    assert gpu.networks_a_second(2, indices, ["snip:batch_size=2"], "cpu", 0.2) > 0
