"""Mini-batches: Gaussian noise with random labels, or images of a local copy of the dataset.

A mini-batch depends on (inputs, seed, its number) and is the same for every architecture, so that a
difference between two scores is a difference between two networks.
"""

from __future__ import annotations

import hashlib
import io
import math
import pickle
import zipfile
from abc import ABC, abstractmethod
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from harness.benchmarks.importers.safe import Dtype, Refused, Unpickler, encode, scalar
from harness.errors import HarnessError, UnknownNameError, cause
from harness.paths import open_file, read_bytes, typed_path
from harness.seeds import stable_rng
from harness.spaces.base import LINEAR

if TYPE_CHECKING:
    from harness.benchmarks.target import Dataset
    from harness.proxies.base import Proxy

#: Mean and standard deviation of the channels (0 to 1), as NAS-Bench-201 normalised its datasets.
STATISTICS = {
    "cifar10": ((0.49139968, 0.48215827, 0.44653124), (0.24703233, 0.24348505, 0.26158768)),
    "cifar100": ((129.3 / 255, 124.1 / 255, 112.4 / 255), (68.2 / 255, 65.4 / 255, 70.4 / 255)),
    "ImageNet16-120": ((122.68 / 255, 116.66 / 255, 104.01 / 255), (63.22 / 255, 61.26 / 255, 65.09 / 255)),
}

#: Bytes that a file of CIFAR-10 may have (each has 31 MB), and that a .npz may swell to (ImageNet16-120: 116 MB).
_MAX_BATCH, _MAX_ARCHIVE = 40_000_000, 10**9

#: Images that stand in for a dataset's own, by their digest: what is said of every figure that was computed from them.
STAND_INS = {
    "3194f18f2ca6e7ae": "images: 106 of ImageNet16 (70 classes) and 120 pictures of ImageNet (one a class) shrunk to "
    "16 x 16, in place of the dataset's own",
}


class Inputs(ABC):
    """A source of labelled mini-batches for networks that read (B, channels, resolution, resolution)."""

    name: str
    #: Of the images at hand, which scores belong to; None where there are none.
    digest: str | None = None
    #: How many images there are; None where any number can be drawn.
    count: int | None = None

    def __init__(self, num_classes: int, shape: tuple[int, int, int]):
        self.num_classes = num_classes
        self.shape = shape

    @abstractmethod
    def batch(self, seed: int, number: int, size: int) -> tuple[np.ndarray, np.ndarray]:
        """Mini-batch `number` (0, 1, …): images (size, C, H, W) float32, labels (size,) int64.

        For networks that give no classes labels are (size, H, W) int64, or (size, K) or (size, K, H, W) float32, see
        `RandomInputs`.
        """

    def check_enough(self, proxies: Iterable[Proxy]) -> None:
        """Raises HarnessError where the mini-batches of a proxy take more images than there are; names the proxy."""
        for proxy in proxies:
            size = 0 if proxy.inputs == "none" else getattr(proxy, "batch_size", 1)
            batches = getattr(proxy, "minibatches", 1)
            if self.count is not None and batches * size > self.count:
                raise HarnessError(
                    f"{proxy.label} reads {batches * size:,} images ({batches} of {size}), inputs {self.name!r} hold "
                    f"{self.count:,}: point inputs.path at more, lower its batch_size or leave it out"
                )


class RandomInputs(Inputs):
    """Images ~ N(0, 1) and uniformly drawn labels: needs no data.

    `head` as that of `Dataset`: labels are classes, for `segmentation` one a pixel; for `regression` `num_classes`
    numbers ~ N(0, 1); for `normals` as many in [0, 1) a pixel; for `reconstruction` the images themselves.
    """

    name = "random"

    def __init__(self, num_classes: int, shape: tuple[int, int, int], head: str = LINEAR):
        super().__init__(num_classes, shape)
        self.head = head

    def batch(self, seed: int, number: int, size: int) -> tuple[np.ndarray, np.ndarray]:
        rng = stable_rng("inputs", self.name, self.shape, seed, number)
        images = rng.standard_normal((size, *self.shape)).astype(np.float32)
        if self.head == "reconstruction":
            return images, images
        if self.head == "regression":
            return images, rng.standard_normal((size, self.num_classes)).astype(np.float32)
        if self.head == "normals":
            return images, rng.random_sample((size, self.num_classes, *self.shape[1:])).astype(np.float32)
        shape = (size, *self.shape[1:]) if self.head == "segmentation" else size
        return images, rng.randint(self.num_classes, size=shape, dtype=np.int64)


class ImageInputs(Inputs):
    """Normalised images without augmentation, drawn without replacement across a seed's mini-batches."""

    def __init__(self, name: str, images: np.ndarray, labels: np.ndarray, num_classes: int, shape: tuple):
        super().__init__(num_classes, shape)
        self.name = name
        _check_images(name, images, shape)
        self._images, self._labels = images, _checked_labels(name, labels, len(images), num_classes)
        self.count = len(images)

    @cached_property
    def digest(self) -> str:  # type: ignore[override]
        """Digest of the number of images, all labels and a thousand images or more, evenly spread."""
        sample = self._images[:: max(1, len(self._images) // 1000)]
        found = hashlib.blake2b(repr(self._images.shape).encode(), digest_size=8)
        found.update(np.ascontiguousarray(sample))  # a folder's images are not contiguous
        found.update(self._labels.astype("<i8").tobytes())
        return found.hexdigest()

    def batch(self, seed: int, number: int, size: int) -> tuple[np.ndarray, np.ndarray]:
        if (number + 1) * size > len(self._images):
            raise HarnessError(
                f"inputs {self.name!r} hold {len(self._images)} images, too few for mini-batch {number} of {size}: "
                "point inputs.path at more images or lower the batch size"
            )
        order = stable_rng("inputs", self.name, seed).permutation(len(self._images))
        chosen = order[number * size : (number + 1) * size]
        images = self._images[chosen].astype(np.float32) / 255.0
        mean, deviation = STATISTICS[self.name]
        images = (images - np.array(mean, np.float32)) / np.array(deviation, np.float32)
        return np.ascontiguousarray(images.transpose(0, 3, 1, 2)), self._labels[chosen]


def _check_images(name: str, images: np.ndarray, shape: tuple[int, int, int]) -> None:
    """Raises HarnessError for anything but bytes (N, height, width, channels): a cast would make other images of it."""
    if images.dtype != np.uint8:
        raise HarnessError(
            f"inputs {name!r} hold images of {images.dtype}: give them in bytes (uint8, 0 to 255), of floats in [0, 1] "
            "as (images * 255).round().astype('uint8')"
        )
    if images.ndim != 4 or not len(images):
        raise HarnessError(f"inputs {name!r} hold images of shape {images.shape}: give (N, height, width, channels)")
    if images.shape[1:] != (shape[1], shape[2], shape[0]):
        raise HarnessError(
            f"inputs {name!r} hold images of {images.shape[1:]} but the benchmark's networks read "
            f"{(shape[1], shape[2], shape[0])} (height, width, channels): use inputs=random or matching images"
        )


def _checked_labels(name: str, labels: np.ndarray, count: int, num_classes: int) -> np.ndarray:
    """Labels (N,) int64. Raises HarnessError for anything but integers of the classes, one an image."""
    if labels.dtype.kind not in "iu":
        raise HarnessError(f"inputs {name!r} hold labels of {labels.dtype}: give classes, integers from 0 on")
    if labels.ndim != 1:
        remedy = "labels.ravel()" if labels.shape[1:] == (1,) else "labels.argmax(axis=1), if these are one-hot"
        raise HarnessError(f"inputs {name!r} hold labels of shape {labels.shape}: give one class an image, {remedy}")
    if len(labels) != count:
        raise HarnessError(
            f"inputs {name!r} hold {count} images and {len(labels)} labels: give as many labels as images"
        )
    least, most = int(labels.min()), int(labels.max())
    if least < 0 or most >= num_classes:
        raise HarnessError(
            f"inputs {name!r} hold labels from {least} to {most} but the dataset has {num_classes} classes: use images "
            "of the same dataset or inputs=random"
        )
    return labels.astype(np.int64)


class _Dtype(Dtype):
    """As Python 2 wrote it, too: in bytes."""

    def __init__(self, name: str | bytes, *flags: Any):
        super().__init__(_text(name), *flags)

    def __setstate__(self, state: tuple) -> None:
        super().__setstate__((None, _text(state[1])))


def _text(value: str | bytes) -> str:
    return value.decode("ascii") if isinstance(value, bytes) else value


class _Array:
    """An array of numbers as numpy pickles it. Its `values` are made of the file's own bytes, and of no others."""

    values: np.ndarray | None = None

    def __setstate__(self, state: tuple) -> None:
        _, shape, dtype, by_columns, data = state
        if not isinstance(dtype, _Dtype) or not isinstance(data, bytes):
            raise ValueError("an array of anything but numbers")
        if not all(type(length) is int and length >= 0 for length in shape):
            raise ValueError("an array of no shape")
        number = np.dtype(dtype.order + dtype.name)
        if math.prod(shape) * number.itemsize != len(data):
            raise ValueError("an array whose size is not that of its bytes")
        self.values = np.frombuffer(data, dtype=number).reshape(shape, order="F" if by_columns else "C")


def _reconstruct(kind: type, *_: Any) -> _Array:
    if kind is not _Array:
        raise ValueError("an array of a kind of its own")
    return _Array()


class _ArrayUnpickler(Unpickler):
    """Reads the dataset's own pickles of arrays; refuses everything else that a pickle can name.

    What a pickle may call are classes of our own: numpy's would take bytes for pointers, and memory that nobody wrote
    for images.
    """

    allowed: ClassVar = {
        **{
            f"{module}.{name}": ours
            for module in ("numpy.core.multiarray", "numpy._core.multiarray")
            for name, ours in (("_reconstruct", _reconstruct), ("scalar", scalar))
        },
        "numpy.ndarray": _Array,
        "numpy.dtype": _Dtype,
        "_codecs.encode": encode,
    }

    def find_class(self, module: str, name: str) -> Any:
        try:
            return super().find_class(module, name)
        except Refused as error:
            raise pickle.UnpicklingError(f"refused to load {error}: it is no plain array archive") from None


def _read_cifar10_folder(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    images, labels = [], []
    for number in range(1, 6):
        path = folder / f"data_batch_{number}"
        if not path.is_file():
            raise HarnessError(
                f"{folder} has no {path.name}: point inputs.path at the unpacked `cifar-10-batches-py` folder"
            )
        try:
            rows, classes = _read_cifar10_batch(path)
        except Exception as error:
            raise HarnessError(f"{path} cannot be read ({cause(error)}): download the dataset again") from error
        images.append(rows.reshape(-1, 3, 32, 32))
        labels.append(classes)
    return np.concatenate(images).transpose(0, 2, 3, 1), np.concatenate(labels)


def _read_cifar10_batch(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Rows (N, 3072) uint8 and labels (N,) int64 of a file. Raises any exception for another content."""
    data = read_bytes(path, _MAX_BATCH)
    content = _ArrayUnpickler(io.BytesIO(data), len(data), encoding="bytes").load()
    if not isinstance(content, dict) or not {b"data", b"labels"} <= content.keys():
        raise ValueError("it holds no `data` and `labels`")
    rows, labels = content[b"data"], content[b"labels"]
    rows = rows.values if isinstance(rows, _Array) else None
    if rows is None or rows.dtype != np.uint8 or rows.ndim != 2 or rows.shape[1] != 3 * 32 * 32:
        raise ValueError("its `data` are no bytes (N, 3072)")
    if not isinstance(labels, list) or len(labels) != len(rows) or any(type(label) is not int for label in labels):
        raise ValueError("its `labels` are no list of integers, one an image")
    return rows, np.array(labels, dtype=np.int64)


def _read_npz(path: Path) -> tuple[np.ndarray, np.ndarray]:
    try:
        with open_file(path) as file, zipfile.ZipFile(file) as archive:
            if sum(entry.file_size for entry in archive.infolist()) > _MAX_ARCHIVE:
                raise ValueError(f"it swells to more than {_MAX_ARCHIVE / 10**9:.0f} GB")
            file.seek(0)
            with np.load(file, allow_pickle=False) as arrays:
                images, labels = arrays["images"], arrays["labels"]
        if not all(isinstance(array, np.ndarray) for array in (images, labels)):
            raise ValueError("its `images` and `labels` are no arrays")
        return images, labels
    except Exception as error:
        raise HarnessError(
            f"{path} cannot be read ({cause(error)}): an input archive is a .npz with `images` uint8 (N, H, W, 3) "
            "and `labels` (N,)"
        ) from error


def inputs_for(dataset: Dataset, name: str, path: str | None) -> Inputs:
    """`load_inputs` for the networks of a benchmark's dataset."""
    return load_inputs(name, path, dataset.classes, (3, dataset.resolution, dataset.resolution), dataset.head)


def load_inputs(
    name: str, path: str | None, num_classes: int, shape: tuple[int, int, int], head: str = LINEAR
) -> Inputs:
    """The source named by the `inputs` configuration.

    Args:
        name: `random`, or the dataset whose images `path` holds.
        path: folder `cifar-10-batches-py` or a `.npz` with `images` and `labels`; none for `random`.
        head: what the networks end in; those that give no classes are scored on `random` alone.

    Raises:
        HarnessError: no path, a missing or unreadable file, images or labels that do not fit the benchmark.
    """
    if name == "random":
        if path:
            raise HarnessError(
                f"inputs.path={path} is of no use with inputs=random: say whose images they are, as in inputs=cifar10"
            )
        return RandomInputs(num_classes, shape, head)
    if head != LINEAR:
        raise HarnessError(f"inputs={name} hold classes, which these networks do not give: use inputs=random")
    if not path:
        raise HarnessError(
            f"inputs={name} needs images: set inputs.path=FOLDER (the dataset's Python layout) or a .npz, "
            "or use inputs=random"
        )
    source = typed_path(path, "inputs.path")
    if not source.exists():
        raise HarnessError(f"inputs.path={path} does not exist: point it at the images, or use inputs=random")
    if name not in STATISTICS:
        raise UnknownNameError("inputs", name, ["random", *STATISTICS])
    if source.is_dir() and name != "cifar10":
        raise HarnessError(f"inputs={name} are read from a .npz with `images` and `labels`, not from the folder {path}")
    images, labels = _read_cifar10_folder(source) if source.is_dir() else _read_npz(source)
    return ImageInputs(name, images, labels, num_classes, shape)
