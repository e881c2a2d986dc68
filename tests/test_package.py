"""What travels with the package: the reference scores, tables and benchmarks, within a size that can be installed."""

from __future__ import annotations

import tomllib
from pathlib import Path

import harness
from harness.paths import data_dir, published_csv, reference_scores, user_scores

ROOT = Path(harness.__file__).resolve().parents[1]
WHEEL = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["hatch"]["build"]["targets"]


def size(path: Path) -> int:
    return (
        sum(file.stat().st_size for file in path.rglob("*") if file.is_file()) if path.is_dir() else path.stat().st_size
    )


def test_the_wheel_carries_what_commands_read_and_stays_small():
    carried = WHEEL["wheel"]["force-include"]
    named = {"conf", "benchmarks", "scores", "tables", "baseline.json", "published.csv"}
    assert {Path(source).name for source in carried} == named
    for source, target in carried.items():
        assert (ROOT / source).exists(), source
        assert target == f"harness/_data/{source}"
    whole = sum(size(ROOT / source) for source in [*carried, "harness"])
    assert whole < 55e6, "a wheel is little smaller: Parquet is compressed already; at most 60 MB"


def test_an_installed_package_reads_its_own_files(tmp_path, monkeypatch):
    """Of a wheel, inside the package; of a checkout, beside it."""
    monkeypatch.delenv("NAS_HARNESS_REFERENCE")
    assert reference_scores() == ROOT / "results" / "scores"
    installed = tmp_path / "harness"
    for name in ("conf", "results/scores"):
        (installed / "_data" / name).mkdir(parents=True)
    monkeypatch.setattr("harness.paths._PACKAGE", installed)
    assert data_dir("conf") == installed / "_data" / "conf"
    assert reference_scores() == installed / "_data" / "results" / "scores"
    assert published_csv() == installed / "_data" / "results" / "published.csv"


def test_a_user_s_scores_have_a_place_of_their_own(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    for name in ("NAS_HARNESS_STORE", "XDG_DATA_HOME"):
        monkeypatch.delenv(name, raising=False)
    assert user_scores() == Path("/home/me/.local/share/nas-proxy-harness/scores")
    monkeypatch.setenv("XDG_DATA_HOME", "/data")
    assert user_scores() == Path("/data/nas-proxy-harness/scores")
    monkeypatch.setenv("NAS_HARNESS_STORE", "~/mine")
    assert user_scores() == Path("/home/me/mine")
