"""Tests of the mini-batches: noise, the dataset's own folder, archives, and what is refused."""

from __future__ import annotations

import os
import pickle
import re
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest

from harness.engine.inputs import STATISTICS, ImageInputs, RandomInputs, load_inputs
from harness.engine.scorer import Job, Scorer
from harness.errors import HarnessError

MEAN, STD = STATISTICS["cifar10"]

SHAPE = (3, 32, 32)


def pictures(n: int, seed: int = 0, side: int = 32, classes: int = 10) -> tuple[np.ndarray, np.ndarray]:
    """Images (n, side, side, 3) uint8 of which no two are alike, and labels (n,)."""
    rng = np.random.RandomState(seed)
    return rng.randint(0, 256, (n, side, side, 3), dtype=np.uint8), rng.randint(0, classes, n)


def normalised(images: np.ndarray) -> np.ndarray:
    """What networks are to be given for images (n, H, W, 3) uint8: (n, 3, H, W)."""
    planes = [(images[..., c] / 255.0 - MEAN[c]) / STD[c] for c in range(3)]
    return np.stack(planes, axis=1)


class Python2Pickler(pickle._Pickler):
    """Writes bytes as Python 2 wrote its strings, which is how the dataset was published."""

    dispatch: ClassVar[dict] = dict(pickle._Pickler.dispatch)

    def save_bytes(self, text: bytes) -> None:
        short = len(text) < 256
        self.write(b"U" + bytes([len(text)]) if short else b"T" + struct.pack("<i", len(text)))
        self.write(text)
        self.memoize(text)

    dispatch[bytes] = save_bytes


def dump_python2(content: dict, path: Path) -> None:
    with open(path, "wb") as file:
        Python2Pickler(file, protocol=2).dump(content)
    # numpy's arrays were pickled under the module's old name.
    path.write_bytes(path.read_bytes().replace(b"numpy._core.multiarray", b"numpy.core.multiarray"))


def dump_python3(content: dict, path: Path) -> None:
    path.write_bytes(pickle.dumps(content, protocol=4))


def write_folder(
    folder: Path, images: np.ndarray, labels: np.ndarray, dump: Callable[[dict, Path], None] = dump_python2
) -> Path:
    """The dataset's layout: five batches, each image 1,024 red values, then green, then blue, row by row."""
    folder.mkdir(exist_ok=True)
    for number, chosen in enumerate(np.array_split(np.arange(len(images)), 5), start=1):
        planes = [images[chosen][..., channel].reshape(len(chosen), -1) for channel in range(3)]
        content = {
            b"batch_label": f"training batch {number} of 5".encode(),
            b"labels": [int(label) for label in labels[chosen]],
            b"data": np.concatenate(planes, axis=1),
            b"filenames": [f"image_{i}.png".encode() for i in chosen],
        }
        dump(content, folder / f"data_batch_{number}")
    return folder


def write_npz(path: Path, images: np.ndarray, labels: np.ndarray) -> Path:
    np.savez(path, images=images, labels=labels)
    return path


def load(path: Path | str, classes: int = 10, shape: tuple[int, int, int] = SHAPE):
    return load_inputs("cifar10", str(path), classes, shape)


def whole(inputs: ImageInputs, n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    return inputs.batch(seed, 0, n)


# Noise ----------------------------------------------------------------------------------------------------


def test_noise_is_deterministic_per_seed_and_number():
    def draw(seed: int, number: int, shape=SHAPE) -> bytes:
        images, labels = RandomInputs(10, shape).batch(seed, number, 8)
        return images.tobytes() + labels.tobytes()

    np.random.seed(0)
    once = {(seed, number): draw(seed, number) for seed in (0, 1, 7) for number in (0, 1, 2)}
    np.random.seed(1)
    again = {(seed, number): draw(seed, number) for seed in (7, 1, 0) for number in (2, 0, 1)}
    assert once == again
    assert len(set(once.values())) == 9


def test_noise_is_the_same_everywhere():
    """Regression: stored scores were computed on these mini-batches."""
    images, labels = RandomInputs(10, SHAPE).batch(0, 0, 4)
    assert images[0, 0, 0, :3].tolist() == pytest.approx([1.76051736, 1.92571425, 0.02754196], rel=1e-6)
    assert labels.tolist() == [2, 3, 7, 5]


def test_labels_of_noise_for_networks_that_give_images():
    """The same images whatever the labels: classes of pixels, numbers in [0, 1), the images themselves."""
    images, _ = RandomInputs(10, SHAPE).batch(0, 0, 4)
    for head, shape, kind in (
        ("segmentation", (4, *SHAPE[1:]), np.int64),
        ("normals", (4, 5, *SHAPE[1:]), np.float32),
        ("reconstruction", (4, *SHAPE), np.float32),
    ):
        given, labels = RandomInputs(5, SHAPE, head).batch(0, 0, 4)
        assert np.array_equal(given, images)
        assert (labels.shape, labels.dtype) == (shape, kind)
        assert np.array_equal(labels, images) == (head == "reconstruction")
        if head != "reconstruction":
            assert (labels.min(), round(float(labels.max()))) == (
                (0, 4) if head == "segmentation" else (pytest.approx(0, abs=1e-2), 1)
            )
    with pytest.raises(HarnessError, match="hold classes, which these networks do not give: use inputs=random"):
        load_inputs("cifar10", "images.npz", 3, SHAPE, "normals")


def test_noise_is_standard_normal_with_every_label():
    images, labels = RandomInputs(10, SHAPE).batch(3, 0, 256)
    assert images.shape == (256, *SHAPE)
    assert images.dtype == np.float32
    assert abs(images.mean()) < 0.005
    assert images.std() == pytest.approx(1.0, abs=0.005)
    assert labels.shape == (256,)
    assert labels.dtype == np.int64
    assert set(labels.tolist()) == set(range(10))


def test_noise_needs_no_path():
    assert isinstance(load_inputs("random", None, 10, SHAPE), RandomInputs)
    assert load_inputs("random", None, 120, (3, 16, 16)).batch(0, 0, 2)[0].shape == (2, 3, 16, 16)


# Images ---------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("dump", [dump_python2, dump_python3])
def test_folder_is_read_in_the_datasets_channel_order(tmp_path, dump):
    images, labels = pictures(15)
    inputs = load(write_folder(tmp_path / "cifar-10-batches-py", images, labels, dump))
    drawn, drawn_labels = whole(inputs, 15)
    assert drawn.shape == (15, 3, 32, 32)
    assert drawn.dtype == np.float32
    assert drawn.flags.c_contiguous
    assert drawn_labels.dtype == np.int64
    expected = normalised(images)
    found = [int(np.abs(expected - image).sum(axis=(1, 2, 3)).argmin()) for image in drawn]
    assert sorted(found) == list(range(15))
    np.testing.assert_allclose(drawn, expected[found], atol=1e-5)
    assert drawn_labels.tolist() == labels[found].tolist()


def test_red_is_the_first_channel_and_rows_run_down(tmp_path):
    image = np.zeros((5, 32, 32, 3), dtype=np.uint8)
    image[:, 0, 31] = (255, 128, 0)  # the upper right corner is orange
    drawn, _ = whole(load(write_folder(tmp_path / "data", image, np.zeros(5, dtype=int))), 5)
    back = (drawn[0] * np.array(STD)[:, None, None] + np.array(MEAN)[:, None, None]) * 255
    assert np.rint(back[:, 0, 31]).tolist() == [255, 128, 0]
    assert np.rint(back[:, 31, 0]).tolist() == [0, 0, 0]


def test_archive_gives_the_same_mini_batches_as_the_folder(tmp_path):
    images, labels = pictures(20)
    folder = load(write_folder(tmp_path / "data", images, labels))
    archive = load(write_npz(tmp_path / "images.npz", images, labels))
    for number in (0, 1):
        for left, right in zip(folder.batch(5, number, 8), archive.batch(5, number, 8), strict=True):
            np.testing.assert_array_equal(left, right)


def test_the_digest_tells_copies_of_the_images_apart(tmp_path):
    images, labels = pictures(20)
    archive = load(write_npz(tmp_path / "images.npz", images, labels))
    assert load(write_folder(tmp_path / "data", images, labels)).digest == archive.digest
    narrow = write_npz(tmp_path / "narrow.npz", images, labels.astype(np.uint8))
    assert load(narrow).digest == archive.digest
    other = images.copy()
    other[7, 3, 5, 1] ^= 1
    order = np.r_[1, 0, 2:20]
    for changed in ((other, labels), (images, (labels + 1) % 10), (images[:19], labels[:19]), (images[order], labels)):
        assert load(write_npz(tmp_path / "other.npz", *changed)).digest != archive.digest
    assert load_inputs("random", None, 10, SHAPE).digest is None


def test_archive_of_another_benchmarks_images(tmp_path):
    images, labels = pictures(6, side=16, classes=120)
    inputs = load(write_npz(tmp_path / "images.npz", images, labels), classes=120, shape=(3, 16, 16))
    assert inputs.batch(0, 0, 6)[0].shape == (6, 3, 16, 16)


def test_home_is_expanded(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    write_npz(tmp_path / "images.npz", *pictures(4))
    assert len(load("~/images.npz").batch(0, 0, 4)[1]) == 4


@pytest.fixture
def twenty(tmp_path) -> ImageInputs:
    return load(write_npz(tmp_path / "images.npz", *pictures(20)))


def test_a_small_mini_batch_is_the_beginning_of_a_larger_one(twenty):
    small, small_labels = twenty.batch(2, 0, 4)
    large, large_labels = twenty.batch(2, 0, 8)
    np.testing.assert_array_equal(small, large[:4])
    np.testing.assert_array_equal(small_labels, large_labels[:4])


def test_mini_batches_of_a_seed_share_no_image(twenty):
    batches = [twenty.batch(2, number, 5)[0] for number in range(4)]
    assert len({image.tobytes() for batch in batches for image in batch}) == 20


def test_images_are_deterministic_and_differ_by_seed(twenty):
    np.random.seed(0)
    first = [twenty.batch(seed, 1, 6)[0].tobytes() for seed in range(4)]
    np.random.seed(1)
    assert [twenty.batch(seed, 1, 6)[0].tobytes() for seed in range(4)] == first
    assert len(set(first)) == 4


def test_too_few_images_are_refused_when_asked_for(twenty):
    twenty.batch(0, 1, 10)
    with pytest.raises(HarnessError, match=r"hold 20 images, too few for mini-batch 2 of 10.*lower the batch size"):
        twenty.batch(0, 2, 10)


def test_mini_batches_of_a_benchmark_do_not_shrink(tmp_path):
    np.savez(tmp_path / "few.npz", images=np.zeros((5, 32, 32, 3), np.uint8), labels=np.arange(5))
    proxies = ("snip:batch_size=4", "zico:batch_size=4")
    scorer = Scorer(Job("macro", "cifar10", proxies, inputs="cifar10", inputs_path=str(tmp_path / "few.npz")))
    snip, zico = scorer.proxies
    assert scorer.score(0, [snip])[0][1].status == "ok"
    with pytest.raises(HarnessError, match=r"zico:batch_size=4 reads 8 images \(2 of 4\), inputs 'cifar10' hold 5"):
        scorer.score(0, [snip, zico])


# What is refused ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", [None, ""])
def test_images_without_a_path_are_refused(path):
    with pytest.raises(HarnessError, match=r"inputs=cifar10 needs images: set inputs\.path=FOLDER"):
        load_inputs("cifar10", path, 10, SHAPE)


def test_a_path_that_does_not_exist_is_refused(tmp_path):
    with pytest.raises(HarnessError, match="does not exist") as caught:
        load(tmp_path / "nowhere")
    assert str(tmp_path / "nowhere") in str(caught.value)


@pytest.mark.parametrize("number", [1, 5])
def test_a_missing_batch_is_named(tmp_path, number):
    folder = write_folder(tmp_path / "data", *pictures(10))
    (folder / f"data_batch_{number}").unlink()
    with pytest.raises(HarnessError, match=f"has no data_batch_{number}") as caught:
        load(folder)
    assert str(folder) in str(caught.value)
    assert "cifar-10-batches-py" in str(caught.value)


def test_an_empty_folder_is_refused(tmp_path):
    with pytest.raises(HarnessError, match="has no data_batch_1"):
        load(tmp_path)


@pytest.mark.parametrize("content", [b"", b"no pickle", None])
def test_a_damaged_batch_is_named(tmp_path, content):
    folder = write_folder(tmp_path / "data", *pictures(10))
    path = folder / "data_batch_3"
    path.write_bytes(path.read_bytes()[:-500] if content is None else content)
    with pytest.raises(HarnessError, match="cannot be read") as caught:
        load(folder)
    assert str(path) in str(caught.value)
    assert "download the dataset again" in str(caught.value)


class Payload:
    """Unpickled, it calls a function: the classical attack."""

    def __init__(self, function: Callable, *arguments: object):
        self.function, self.arguments = function, arguments

    def __reduce__(self):
        return self.function, self.arguments


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_a_malicious_pickle_is_refused_and_not_executed(tmp_path, protocol):
    folder = write_folder(tmp_path / "data", *pictures(10))
    trace = tmp_path / "executed"
    payload = pickle.dumps({b"data": Payload(os.system, f"touch {trace}"), b"labels": []}, protocol=protocol)
    (folder / "data_batch_1").write_bytes(payload)
    with pytest.raises(HarnessError, match=f"refused to load {os.system.__module__}.system"):
        load(folder)
    with pytest.raises(HarnessError, match=r"data_batch_1 cannot be read .*: download the dataset again"):
        load(folder)
    assert not trace.exists()
    pickle.loads(payload)
    assert trace.exists()  # the payload is a working one


@pytest.mark.parametrize("target", [eval, getattr, __import__, np.load])
def test_no_other_callable_is_loaded(tmp_path, target):
    folder = write_folder(tmp_path / "data", *pictures(10))
    (folder / "data_batch_2").write_bytes(pickle.dumps(Payload(target, "1")))
    with pytest.raises(HarnessError, match=r"refused to load .*no plain array archive"):
        load(folder)


class Forged:
    """Unpickled, it calls a function that the reader allows, and gives the result a state of the forger's."""

    def __init__(self, function: Callable, arguments: tuple, state: object = None):
        self.reduced = (function, arguments) if state is None else (function, arguments, state)

    def __reduce__(self):
        return self.reduced


RECONSTRUCT = np.zeros(0).__reduce__()[0]
#: Bytes for pointers to objects: the field has them, the flags of the type deny it.
POINTERS = Forged(np.dtype, ("V8", False, True), (3, "|", None, ("a",), {"a": (np.dtype("O"), 0)}, 8, 1, 0))


def forged(dtype: object = np.dtype("u1"), shape: tuple = (2, 3072), data: object = bytes(2 * 3072)) -> Forged:
    return Forged(RECONSTRUCT, (np.ndarray, (0,), b"b"), (1, shape, dtype, False, data))


FORGERIES = {
    "pointers": forged(POINTERS, (768,), b"A" * 6144),
    "objects": forged(np.dtype("O"), (768,), b"A" * 6144),
    "memory that nobody wrote": Forged(np.ndarray, ((2, 3072), "u1")),
    "more than its bytes": forged(shape=(2**20, 3072)),
    "less than its bytes": forged(shape=(1, 3072)),
    "a negative shape": forged(shape=(-2, -3072)),
    "a shape of floats": forged(shape=(2.0, 3072)),
    "a shape beyond all numbers": forged(shape=(2**62, 2**62)),
    "text": forged(np.dtype("U4"), (2, 192)),
    "a subtype": forged(np.dtype(("u1", (3072,))), (2,)),
    "times": forged(np.dtype("M8[s]"), (768,)),
    "a list of objects": forged(data=[b"A"] * 6144),
    "no type": forged(dtype="u1"),
    "a state that is too short": Forged(RECONSTRUCT, (np.ndarray, (0,), b"b"), (1, (2, 3072))),
    "an array of another kind": Forged(RECONSTRUCT, (np.dtype, (0,), b"b"), (1, (2, 3072), np.dtype("u1"), False, b"")),
    "a type's state on a type": Forged(np.dtype, ("u1",), (3, "|", None, None, None, -1, -1, 63)),
}

READ = """
import resource, sys
from harness.errors import HarnessError
from harness.engine.inputs import load_inputs

resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
for folder in sys.argv[1:]:
    try:
        load_inputs("cifar10", folder, 10, (3, 32, 32)).batch(0, 0, 4)
    except HarnessError as error:
        print(error, flush=True)
    else:
        print(folder, "was read", flush=True)
"""


def test_forged_arrays_are_refused(tmp_path):
    """In a process of its own: read by numpy's own classes, the first of these ends it by signal 11."""
    folders = []
    for number, forgery in enumerate(FORGERIES.values()):
        folders.append(write_folder(tmp_path / f"data{number}", *pictures(10)))
        content = {b"data": forgery, b"labels": [1, 2]}
        (folders[-1] / "data_batch_2").write_bytes(pickle.dumps(content, protocol=2))
    command = [sys.executable, "-c", READ, *map(str, folders)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    for folder, line in zip(folders, done.stdout.splitlines(), strict=True):
        assert re.fullmatch(rf"{re.escape(str(folder))}/data_batch_2 cannot be read \(.+\): download .* again", line)


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4])
@pytest.mark.parametrize("order", ["C", "F"])
def test_arrays_of_every_protocol_are_read(tmp_path, protocol, order):
    images, labels = pictures(10)
    expected = load(write_folder(tmp_path / "plain", images, labels)).batch(0, 0, 10)

    def dump(content: dict, path: Path) -> None:
        content = {**content, b"data": np.asarray(content[b"data"], order=order)}
        path.write_bytes(pickle.dumps(content, protocol=protocol))

    found = load(write_folder(tmp_path / "data", images, labels, dump)).batch(0, 0, 10)
    np.testing.assert_array_equal(found[0], expected[0])
    np.testing.assert_array_equal(found[1], expected[1])


CONTENTS = {
    "a list": [1, 2],
    "other names": {"data": np.zeros((2, 3072), np.uint8), "labels": [1, 2]},
    "no labels": {b"data": np.zeros((2, 3072), np.uint8)},
    "floats": {b"data": np.zeros((2, 3072)), b"labels": [1, 2]},
    "integers": {b"data": np.full((2, 3072), 300), b"labels": [1, 2]},
    "another size": {b"data": np.zeros((2, 3000), np.uint8), b"labels": [1, 2]},
    "no rows": {b"data": np.zeros(6144, np.uint8), b"labels": [1, 2]},
    "fewer labels": {b"data": np.zeros((2, 3072), np.uint8), b"labels": [1]},
    "labels that are floats": {b"data": np.zeros((2, 3072), np.uint8), b"labels": [1.7, 2]},
    "labels that are text": {b"data": np.zeros((2, 3072), np.uint8), b"labels": ["1", "2"]},
    "labels of lists": {b"data": np.zeros((2, 3072), np.uint8), b"labels": [[1], [2]]},
}


@pytest.mark.parametrize("name", CONTENTS)
def test_a_batch_of_another_content_is_refused(tmp_path, name):
    folder = write_folder(tmp_path / "data", *pictures(10))
    (folder / "data_batch_2").write_bytes(pickle.dumps(CONTENTS[name], protocol=2))
    with pytest.raises(HarnessError, match=r"data_batch_2 cannot be read \(it"):
        load(folder)


def test_an_archive_of_objects_is_not_unpickled(tmp_path):
    trace = tmp_path / "executed"
    images = np.array([Payload(os.system, f"touch {trace}")], dtype=object)
    with pytest.raises(HarnessError, match=r"an input archive is a \.npz with `images`"):
        load(write_npz(tmp_path / "images.npz", images, np.zeros(1, dtype=int)))
    assert not trace.exists()


@pytest.mark.parametrize("content", [b"", b"no archive", b"PK\x03\x04 torn"])
def test_a_damaged_archive_is_named(tmp_path, content):
    path = tmp_path / "images.npz"
    path.write_bytes(content)
    with pytest.raises(HarnessError, match="cannot be read") as caught:
        load(path)
    assert str(path) in str(caught.value)


def test_an_archive_without_labels_is_refused(tmp_path):
    np.savez(tmp_path / "images.npz", images=pictures(4)[0])
    with pytest.raises(HarnessError, match=r"labels.*\(N,\)"):
        load(tmp_path / "images.npz")


@pytest.mark.parametrize("label", [10, -1])
def test_labels_beyond_the_classes_are_refused(tmp_path, label):
    images, labels = pictures(10)
    labels[7] = label
    with pytest.raises(HarnessError, match="but the dataset has 10 classes"):
        load(write_npz(tmp_path / "images.npz", images, labels))
    with pytest.raises(HarnessError, match="but the dataset has 10 classes"):
        load(write_folder(tmp_path / "data", images, labels))


def test_images_of_another_size_are_refused(tmp_path):
    with pytest.raises(HarnessError, match=r"images of \(16, 16, 3\) but .* read \(32, 32, 3\)"):
        load(write_npz(tmp_path / "images.npz", *pictures(5, side=16)))
    folder = write_folder(tmp_path / "data", *pictures(5))
    with pytest.raises(HarnessError, match=r"images of \(32, 32, 3\) but .* read \(16, 16, 3\)"):
        load(folder, classes=120, shape=(3, 16, 16))


def test_images_with_the_channels_first_are_refused(tmp_path):
    images, labels = pictures(5)
    with pytest.raises(HarnessError, match=r"images of \(3, 32, 32\)"):
        load(write_npz(tmp_path / "images.npz", images.transpose(0, 3, 1, 2), labels))


def test_an_empty_archive_is_refused(tmp_path):
    with pytest.raises(HarnessError):
        load(write_npz(tmp_path / "images.npz", *(values[:0] for values in pictures(5))))


@pytest.mark.parametrize("extra", [-2, 3])
def test_as_many_labels_as_images_are_asked_for(tmp_path, extra):
    images, labels = pictures(10)
    labels = np.resize(labels, 10 + extra)
    with pytest.raises(HarnessError):
        load(write_npz(tmp_path / "images.npz", images, labels))


NO_IMAGES = {
    "in 0 to 1": lambda images: images / 255.0,
    "float32": lambda images: images.astype(np.float32),
    "beyond bytes": lambda images: images.astype(np.int64) + 200,
    "below bytes": lambda images: images.astype(np.int16) - 3,
    "integers": lambda images: images.astype(np.int64),
    "signed": lambda images: (images // 2).astype(np.int8),
    "complex": lambda images: images.astype(complex),
    "text": lambda images: images.astype(str),
    "bool": lambda images: images > 100,
    "times": lambda images: images.astype("M8[s]"),
    "records": lambda images: images.view([("red", "u1")]),
}


@pytest.mark.parametrize("name", NO_IMAGES)
def test_images_that_are_no_bytes_are_refused(tmp_path, name):
    """A cast would wrap them or make them zeros; values in [0, 1] would be divided by 255 once more."""
    images, labels = pictures(10)
    with pytest.raises(HarnessError, match=r"images of .*: give them in bytes \(uint8, 0 to 255\)"):
        load(write_npz(tmp_path / "images.npz", NO_IMAGES[name](images), labels))


NO_LABELS = {
    "fractions": (lambda labels: labels + 0.7, "labels of float64: give classes, integers from 0 on"),
    "float32": (lambda labels: labels.astype(np.float32), "labels of float32"),
    "complex": (lambda labels: labels.astype(complex), "labels of complex128"),
    "text": (lambda labels: labels.astype(str), "labels of <U21"),
    "bool": (lambda labels: labels > 4, "labels of bool"),
    "column": (lambda labels: labels[:, None], r"labels of shape \(10, 1\): give one class an image, labels.ravel"),
    "one-hot": (lambda labels: np.eye(10, dtype=int)[labels], r"labels of shape \(10, 10\): .*labels.argmax\(axis=1"),
    "one number": (lambda labels: labels[0], r"labels of shape \(\)"),
    "beyond int64": (lambda labels: labels.astype(np.uint64) + np.uint64(2**63), "labels from 9223372036854775"),
    "ignored": (lambda labels: labels - 100, "labels from -99 to -9"),
}


@pytest.mark.parametrize("name", NO_LABELS)
def test_labels_that_are_no_classes_are_refused(tmp_path, name):
    images, labels = pictures(10)
    spoil, match = NO_LABELS[name]
    with pytest.raises(HarnessError, match=match):
        load(write_npz(tmp_path / "images.npz", images, spoil(labels)))


@pytest.mark.parametrize("dtype", ["u1", "i2", ">i4", "u8"])
def test_labels_may_be_integers_of_any_width(tmp_path, dtype):
    images, labels = pictures(10)
    expected = load(write_npz(tmp_path / "plain.npz", images, labels)).batch(0, 0, 10)[1]
    found = load(write_npz(tmp_path / "images.npz", images, labels.astype(dtype))).batch(0, 0, 10)[1]
    assert found.dtype == np.int64
    assert found.tolist() == expected.tolist()


@pytest.mark.parametrize("shape", [(10,), (10, 3072), (10, 32, 32), (10, 32, 32, 3, 1)])
def test_images_of_another_shape_are_refused(tmp_path, shape):
    _, labels = pictures(10)
    with pytest.raises(HarnessError, match=r"images of shape .*: give \(N, height, width, channels\)"):
        load(write_npz(tmp_path / "images.npz", np.zeros(shape, np.uint8), labels))
