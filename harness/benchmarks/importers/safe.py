"""Pickles of the official archives, read without running code.

A pickle is a program that may call any function it names. The archives need a handful of classes: these are
allowed, in versions of our own that take nothing but numbers, and whatever else a file asks for is refused by
its name before it is called.
"""

from __future__ import annotations

import bz2
import io
import pickle
import re
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np

from harness.errors import HarnessError

#: What a record may swell to: those of NATS-Bench have less than half a MiB, the list of architectures 1.4 MiB.
MAX_RECORD = 64 * 2**20

_NUMBERS = re.compile(r"[<>=|]?[fiub][1248]")
_DAMAGED = (
    pickle.UnpicklingError,
    AttributeError,
    EOFError,
    IndexError,
    KeyError,
    MemoryError,
    OverflowError,
    RecursionError,
    TypeError,
    UnicodeDecodeError,
    ValueError,
)


class Dtype:
    """A number's type as numpy pickles it, of which only name and byte order are kept."""

    def __init__(self, name: str, *flags: Any):
        if not _NUMBERS.fullmatch(name):
            raise ValueError(f"{name!r} is no type of numbers")
        self.name, self.order = name.lstrip("<>=|"), "<"

    def __setstate__(self, state: tuple) -> None:
        self.order = ">" if state[1] == ">" else "<"


def scalar(dtype: Dtype, data: bytes) -> float | int | bool:
    """A numpy scalar, as a Python number."""
    (number,) = np.frombuffer(data, dtype=dtype.order + dtype.name).tolist()
    return number


#: The names of these in pickles of numpy 1 and of numpy 2.
ALLOWED: dict[str, Any] = {
    "collections.OrderedDict": OrderedDict,
    "numpy.dtype": Dtype,
    "numpy.core.multiarray.scalar": scalar,
    "numpy._core.multiarray.scalar": scalar,
}


class _Refused(Exception):
    """Carries the name of what a pickle asked for."""


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if f"{module}.{name}" not in ALLOWED:
            raise _Refused(f"{module}.{name}")
        return ALLOWED[f"{module}.{name}"]

    def persistent_load(self, key: Any) -> Any:
        raise _Refused("an object kept elsewhere")


def _refusal(path: Path, name: str) -> HarnessError:
    return HarnessError(
        f"{path} asks for {name}, which no official archive of this kind holds and which may run code: it was not "
        "loaded; download the archive from its owners"
    )


def _damage(path: Path, error: BaseException) -> HarnessError:
    text = (str(error) or type(error).__name__).splitlines()[0]
    return HarnessError(f"{path} is truncated or damaged ({text}): download it again")


def unpickle(data: bytes, path: Path) -> Any:
    """The object of a pickle made of plain containers and numbers.

    Args:
        path: of the file that holds it, for the errors.

    Raises:
        HarnessError: it asks for anything else, or is no whole pickle.
    """
    try:
        return _Unpickler(io.BytesIO(data)).load()
    except _Refused as error:
        raise _refusal(path, str(error)) from None
    except _DAMAGED as error:
        raise _damage(path, error) from error


def unpickle_bz2(path: Path) -> Any:
    """The object of a pickle compressed by bz2. Raises HarnessError as `unpickle`, and for more than MAX_RECORD."""
    decompressor = bz2.BZ2Decompressor()
    try:
        data = decompressor.decompress(path.read_bytes(), max_length=MAX_RECORD)
    except (OSError, ValueError) as error:
        if isinstance(error, OSError) and error.errno:
            raise
        raise _damage(path, error) from error
    if not decompressor.eof:
        reason = "it holds more than a record does" if len(data) == MAX_RECORD else "its compressed data end early"
        raise _damage(path, ValueError(reason))
    return unpickle(data, path)


def load_torch(path: Path) -> Any:
    """The object of a file of `torch.save`, by torch's own restricted unpickler and the classes of `ALLOWED`."""
    import torch

    allowed = [(value, name) for name, value in ALLOWED.items() if name != "collections.OrderedDict"]
    try:
        with torch.serialization.safe_globals(allowed):
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        asked = re.search(r"GLOBAL (\S+)|unrecognized (?:function|class) (.+)", str(error))
        if asked:
            raise _refusal(path, asked[1] or asked[2]) from None
        # Not torch's own text, which advises to load the file without this safety.
        raise _damage(path, ValueError("it is no whole file of torch.save")) from error
    except (*_DAMAGED, RuntimeError, zipfile.BadZipFile) as error:
        raise _damage(path, error) from error
