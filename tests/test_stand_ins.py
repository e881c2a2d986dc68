"""Tests of images that stand in for a dataset's own: scored like any, and named wherever a figure of them stands."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import harness
from harness.benchmarks.benchmark import load_benchmark
from harness.config import RowConfig
from harness.engine.inputs import STAND_INS, load_inputs
from harness.engine.scorer import Job
from harness.engine.scoring import run
from harness.engine.store import ScoreStore
from harness.rankings.results import Reader
from harness.tables.cells import load_table
from harness.tables.leaderboard import build_leaderboard
from harness.tables.measure import Measurements
from harness.tables.papers import table_cells

ROOT = Path(harness.__file__).resolve().parents[1]
SAMPLE = "no_dead_ops.sample(3, seed=0)"
PROXY = "naswot:batch_size=8"
NOTE = "images: not the dataset's own"


def write(path: Path, classes: int, side: int, seed: int = 0) -> Path:
    rng = np.random.RandomState(seed)
    images = rng.randint(0, 256, size=(2 * classes, side, side, 3), dtype=np.uint8)
    np.savez(path, images=images, labels=rng.permutation(np.repeat(np.arange(classes), 2)))
    return path


def scored(root: Path, dataset: str) -> tuple[ScoreStore, str]:
    """Three cells scored on images of a dataset, and the digest of these."""
    spec = load_benchmark("nasbench201").dataset(dataset)
    path = write(root / f"{dataset}.npz", spec.classes, spec.resolution)
    shape = (3, spec.resolution, spec.resolution)
    job = Job(
        "nasbench201", dataset, (PROXY,), inputs=dataset, inputs_path=str(path), population=SAMPLE, workers=1,
        store=str(root / "scores"),
    )  # fmt: skip
    assert run(job, progress=False).errors == 0
    store = ScoreStore(root / "scores")
    (key,) = store.keys()
    assert key.inputs == dataset
    digest = load_inputs(dataset, str(path), spec.classes, shape).digest
    assert store.images(key) == digest
    return store, digest


@pytest.mark.parametrize("dataset", ["cifar100", "ImageNet16-120"])
def test_images_of_every_dataset_are_scored_and_named(dataset, tmp_path, monkeypatch):
    """As the dataset's own, and, where the digest is known to be of stand-ins, with what these are."""
    store, digest = scored(tmp_path, dataset)
    board, paper = load_table("leaderboard"), load_table("az_nas")
    board.datasets, paper.datasets = [f"nasbench201/{dataset}"], [dataset]
    board.rows, paper.rows = [RowConfig(proxy=PROXY)], [RowConfig(proxy=PROXY)]
    board.populations = paper.populations = [SAMPLE]

    def notes() -> list[list[str]]:
        measurements = Measurements(store)
        cells = [build_leaderboard(board, measurements)[0], table_cells(paper, measurements)]
        return [[cell.note for cell in found if cell.ours is not None] for found in cells]

    for found in notes():
        assert found
        assert not any(NOTE in note for note in found)
    monkeypatch.setitem(STAND_INS, digest, NOTE)
    for found in notes():
        assert found
        assert all(NOTE in note.split("; ") for note in found)


def test_an_aggregate_says_what_a_member_read(tmp_path, monkeypatch):
    store, digest = scored(tmp_path, "cifar100")
    monkeypatch.setitem(STAND_INS, digest, NOTE)
    reader = Reader(store, load_benchmark("nasbench201"))
    assert reader.stand_in(f"rank_sum({PROXY}, flops)", "cifar100", "cifar100") == NOTE
    assert reader.stand_in(PROXY, "cifar100", "random") == ""
    assert reader.stand_in("flops", "cifar100") == ""


def test_the_stored_scores_of_stand_ins_are_known():
    """All scores of this project on images of ImageNet16-120 are of one copy, which is described."""
    store = ScoreStore(ROOT / "results" / "scores")
    stored = store.keys()
    keys = [key for key in stored if key.inputs == "ImageNet16-120"]
    assert keys
    assert {store.images(key) in STAND_INS for key in keys} == {True}


def test_notes_can_stand_in_a_cell():
    """A table splits the notes of a cell at semicolons."""
    assert not any(";" in note for note in STAND_INS.values())
