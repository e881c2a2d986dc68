"""Tests of `harness doctor`: what is broken is said, and the exit code says it too."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

import harness
from harness.cli import doctor, main
from harness.config import compose_config
from harness.engine.store import Row, ScoreKey, ScoreStore
from harness.verify.findings import Finding

ROOT = Path(harness.__file__).resolve().parents[1]
FLOPS = ScoreKey("nasbench201", "cifar10", "none", "flops", 0)


def examined(*settings: str) -> list[Finding]:
    return list(doctor.findings(compose_config("doctor", list(settings))))


def of_store(root: Path) -> list[tuple[str, str]]:
    """Verdicts and details on a store."""
    return [(finding.verdict, finding.detail) for finding in doctor._store(ScoreStore(root))]


@pytest.fixture
def store(tmp_path) -> Path:
    root = tmp_path / "scores"
    rows = [Row(i, float(i), 0.0, "ok", 1) for i in range(5)] + [Row(5, None, 0.0, "nan", 1)]
    ScoreStore(root).append(FLOPS, rows)
    return root


def test_a_checkout_is_sound(capsys):
    assert main(["doctor", f"store={ROOT / 'results' / 'scores'}"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert all(line[:7] in ("ok     ", "note   ") for line in lines[:-1])
    for subject in ("harness: ", "torch: ", "device: ", "threads: ", "benchmark nasbench201: ", "images of cifar10: "):
        assert any(line[7:].startswith(subject) for line in lines), subject
    assert lines[-1] == "everything that was looked at works"


def test_statuses_are_counted(store):
    assert of_store(store) == [
        ("ok", f"6 scores in 1 partitions, 1 parts of {_mebibytes(store)} MiB"),
        ("ok", "5"),
        ("ok", "1"),
    ]


def _mebibytes(root: Path) -> str:
    return f"{sum(part.stat().st_size for part in root.rglob('part-*')) / 2**20:.1f}"


def break_part(root: Path) -> None:
    part = next(root.rglob("part-*.parquet"))
    part.write_bytes(part.read_bytes()[:-9])


def add(key: ScoreKey, *rows: Row):
    return lambda root: ScoreStore(root).append(key, rows)


OTHER = {"space": "nasbench201", "dataset": "cifar10", "inputs": "none", "seed": 0}

BREAKAGES = {
    "is damaged": break_part,
    "unknown proxy 'flopz'": add(ScoreKey(proxy="flopz", **OTHER), Row(0, 1.0, 0.0, "ok", 1)),
    "unknown benchmark 'nasbench2001'": add(
        ScoreKey("nasbench2001", "cifar10", "none", "flops", 0), Row(0, 1.0, 0.0, "ok", 1)
    ),
    "unknown dataset of nasbench201 'cifar11'": add(
        ScoreKey("nasbench201", "cifar11", "none", "flops", 0), Row(0, 1.0, 0.0, "ok", 1)
    ),
    "1 indices are none of the 15,625 architectures": add(FLOPS, Row(15625, 1.0, 0.0, "ok", 1)),
    "1 rows have a score and a status that says otherwise": add(FLOPS, Row(9, 1.0, 0.0, "nan", 1)),
    "the proxy is now called flops": add(ScoreKey(proxy="flops:count=macs", **OTHER), Row(0, 1.0, 0.0, "ok", 1)),
}


@pytest.mark.parametrize("words", BREAKAGES)
def test_a_broken_store_is_told(store, words, capsys):
    BREAKAGES[words](store)
    failing = [detail for verdict, detail in of_store(store) if verdict == "FAILS"]
    assert len(failing) == 1
    assert words in failing[0]


def test_a_broken_store_gives_exit_code_1(store, capsys):
    break_part(store)
    assert main(["doctor", f"store={store}"]) == 1
    out = capsys.readouterr().out
    assert out.splitlines()[-1].startswith("something is broken")
    assert "FAILS  store" in out


def test_old_versions_errors_and_unfinished_files_are_notes(store):
    add(FLOPS, Row(7, 1.0, 0.0, "ok", 3), Row(8, None, 0.0, "error: RuntimeError: no", 1))(store)
    (store / FLOPS.folder / ".part-x.parquet.writing").write_bytes(b"")
    notes = [detail for verdict, detail in of_store(store) if verdict == "note"]
    assert notes[0] == "1, which the same scoring commands try again"
    assert notes[1].endswith("1 scores are of version 3 and left out, the code has 1")
    assert notes[2].startswith("1 unfinished files, such as ")


def test_of_rows_of_two_versions_the_older_alone_are_left_out(store):
    """They share their indices, and neither stands for the other."""
    add(FLOPS, *(Row(i, 2.0, 0.0, "ok", 3) for i in range(4)))(store)
    notes = [detail for verdict, detail in of_store(store) if verdict == "note"]
    assert [note.partition(": ")[2] for note in notes] == ["4 scores are of version 3 and left out, the code has 1"]
    assert of_store(store)[0][1].startswith("10 scores in 1 partitions, 2 parts")


def test_older_parts_are_noted_and_sealed(store):
    part = next(store.rglob("part-*"))
    old = part.rename(part.with_name("part-0-0123456789ab.parquet"))
    assert any("1 parts bear no digest" in detail for verdict, detail in of_store(store) if verdict == "note")
    assert old.exists()
    assert ("ok", "1 parts bear their digest now") in [
        (f.verdict, f.detail) for f in doctor._store(ScoreStore(store), seal=True)
    ]
    assert part.exists()
    assert not any("digest" in detail for _, detail in of_store(store))


def test_links_that_lead_nowhere_are_told(store):
    for name, target in (("a", "nowhere"), ("b", "part-0-b.parquet")):
        (store / FLOPS.folder / f"part-0-{name}.parquet").symlink_to(target)
        (failing,) = [detail for verdict, detail in of_store(store) if verdict == "FAILS"]
        assert f"part-0-{name}.parquet" in failing
        (store / FLOPS.folder / f"part-0-{name}.parquet").unlink()


def test_an_empty_store_is_a_note(tmp_path):
    ((verdict, detail),) = of_store(tmp_path / "none")
    assert verdict == "note"
    assert "holds no score" in detail


def test_images_are_tried(tmp_path):
    path = tmp_path / "images.npz"
    np.savez(path, images=np.zeros((64, 32, 32, 3), np.uint8), labels=np.arange(64) % 10)
    settings = compose_config("doctor", [f"inputs.path={path}"]).inputs
    assert doctor._images(settings).verdict == "ok"
    settings.path = str(tmp_path / "none.npz")
    assert doctor._images(settings).verdict == "FAILS"
    settings.name, settings.path = "imagenet-21k", str(path)
    assert doctor._images(settings).detail == "no benchmark has this dataset"


def test_a_missing_package_breaks_and_a_missing_extra_does_not(monkeypatch):
    monkeypatch.setattr(doctor, "REQUIRED", ("no-such-package",))
    monkeypatch.setattr(doctor, "_extras", lambda: {"more"})
    monkeypatch.setattr(doctor, "_of_extra", lambda extra: ["no-such-extra"])
    found = {finding.subject: finding.verdict for finding in doctor._versions()}
    assert found["no-such-package"] == "FAILS"
    assert found["no-such-extra (extra more)"] == "note"


def test_a_damaged_benchmark_breaks(monkeypatch):
    from harness.benchmarks.benchmark import load_benchmark

    monkeypatch.setitem(load_benchmark("macro").card, "sha256", "0" * 64)
    load_benchmark("macro")._verified.clear()
    found = {finding.subject: finding for finding in doctor._benchmarks()}
    assert found["benchmark macro"].verdict == "FAILS"
    assert "is damaged" in found["benchmark macro"].detail
    assert found["benchmark nasbench201"].verdict == "ok"


def test_the_scores_of_the_package_are_looked_for(tmp_path, monkeypatch, store):
    def said() -> Finding:
        return doctor._reference()

    monkeypatch.setenv("NAS_HARNESS_REFERENCE", str(store))
    assert (said().verdict, said().detail[:13]) == ("ok", "1 partitions ")
    monkeypatch.setenv("NAS_HARNESS_REFERENCE", str(tmp_path / "none"))
    assert (said().verdict, "holds none" in said().detail) == ("note", True)


def test_a_copied_folder_is_named_and_left_out(store):
    part = next(store.rglob("part-*.parquet"))
    copy = part.parent.with_name(f"{part.parent.name} (1)")
    shutil.copytree(part.parent, copy)
    assert ("note", f"{copy.relative_to(store)} is no partition and not read, as its seed is no number: remove it") in (
        of_store(store)
    )
    assert of_store(store)[0][1].startswith("6 scores in 1 partitions")
