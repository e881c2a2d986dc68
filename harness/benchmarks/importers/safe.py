"""Pickles of the official archives and of datasets, read without running code and without exhausting the machine.

A pickle is a program: it may call any function it names, write into whatever object it has made, and make objects
without end from a few bytes. The files read here need plain containers, numbers and text. So the program is run step
by step by Python's own slow unpickler, cut down to the steps that such files take; the few classes that they name are
versions of our own that take nothing but numbers; and what it makes is bounded by the size of the file.
"""

from __future__ import annotations

import bz2
import errno
import io
import pickle
import re
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO, ClassVar

import numpy as np

from harness.errors import HarnessError, cause
from harness.paths import open_file, read_bytes

#: What a record may swell to: those of NATS-Bench have less than half a MiB, the list of architectures 1.4 MiB.
MAX_RECORD = 4 * 2**20

#: What JSON files may have: the largest of NDS has some 100 MiB.
MAX_JSON = 2**29

_NUMBERS = re.compile(r"[<>=|]?[fiub][1248]")


class Dtype:
    """A number's type as numpy pickles it, of which only name and byte order are kept."""

    def __init__(self, name: str, *flags: Any):
        if not _NUMBERS.fullmatch(name):
            raise ValueError("a type of anything but numbers")
        self.name, self.order = name.lstrip("<>=|"), "<"

    def __setstate__(self, state: tuple) -> None:
        self.order = ">" if state[1] == ">" else "<"


def scalar(dtype: Dtype, data: bytes) -> float | int | bool:
    """A numpy scalar, as a Python number."""
    if not isinstance(dtype, Dtype) or not isinstance(data, bytes) or len(data) > 8:
        raise ValueError("a scalar that is no number")
    (number,) = np.frombuffer(data, dtype=dtype.order + dtype.name).tolist()
    return number


def encode(text: str, encoding: str) -> bytes:
    """Bytes as pickles of the older protocols hold them."""
    if not isinstance(text, str) or encoding != "latin1":
        raise ValueError("bytes in another encoding than Latin-1")
    return text.encode("latin1")


class Unread:
    """A tensor of torch, which no figure is: its bytes are left where they are."""

    def __init__(self, *_: Any):
        pass


#: The names of these in pickles of numpy 1 and of numpy 2.
ALLOWED: dict[str, Any] = {
    "collections.OrderedDict": OrderedDict,
    "numpy.dtype": Dtype,
    "numpy.core.multiarray.scalar": scalar,
    "numpy._core.multiarray.scalar": scalar,
}
#: What files of torch.save name beside these.
OF_TORCH: dict[str, Any] = {
    **ALLOWED,
    "_codecs.encode": encode,
    "__builtin__.set": set,
    "builtins.set": set,
    "torch._utils._rebuild_tensor_v2": Unread,
    **{f"torch.{kind}Storage": Unread for kind in ("Float", "Double", "Half", "Int", "Long", "Bool", "Byte")},
}


class Refused(Exception):
    """Carries the name of what a pickle asked for."""


#: The steps that files of plain containers take, and those that are refused by the name of what they ask for. Left out
#: are steps that make objects of sizes given in numbers, extensions, and classes' own ways of making objects.
_STEPS = (
    "PROTO", "FRAME", "STOP", "MARK", "POP", "POP_MARK", "DUP", "NONE", "NEWTRUE", "NEWFALSE", "INT", "BININT",
    "BININT1", "BININT2", "LONG", "LONG1", "FLOAT", "BINFLOAT", "STRING", "BINSTRING", "SHORT_BINSTRING",
    "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8",
    "EMPTY_LIST", "LIST", "APPEND", "APPENDS", "EMPTY_DICT", "DICT", "SETITEM", "SETITEMS", "EMPTY_SET",
    "ADDITEMS", "EMPTY_TUPLE", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "GET", "BINGET", "LONG_BINGET", "PUT",
    "BINPUT", "LONG_BINPUT", "MEMOIZE", "GLOBAL", "STACK_GLOBAL", "REDUCE", "BUILD", "PERSID", "BINPERSID",
)  # fmt: skip
_MAKES = {
    "MARK",
    "EMPTY_LIST",
    "LIST",
    "EMPTY_DICT",
    "DICT",
    "EMPTY_SET",
    "TUPLE",
    "TUPLE1",
    "TUPLE2",
    "TUPLE3",
    "REDUCE",
}
_REMEMBERS = {"PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"}
_INTEGERS = {"INT", "LONG", "LONG1"}
_TUPLES = {"TUPLE", "TUPLE1", "TUPLE2", "TUPLE3"}


def _step(name: str) -> Callable:
    """A step of Python's unpickler, with what it makes counted and looked at."""
    known = _OURS.get(name) or pickle._Unpickler.dispatch[getattr(pickle, name)[0]]
    if name in _MAKES | _REMEMBERS:
        weight = 2 if name in _MAKES else 1

        def step(self: Unpickler) -> None:
            self.left -= weight
            if self.left < 0:
                raise ValueError("it makes more objects than a file of its size does")
            known(self)
            if name in _TUPLES and _depth(self.stack[-1]) > 3:
                raise ValueError("tuples of tuples")

        return step
    if name in _INTEGERS:

        def step(self: Unpickler) -> None:
            known(self)
            if not -(2**63) <= self.stack[-1] < 2**64:
                raise ValueError("an integer of more than 64 bits")

        return step
    return known


def _reduce(self: Unpickler) -> None:
    """Call one of the allowed functions, and no other object that can be called."""
    arguments = self.stack.pop()
    function = self.stack[-1]
    if not any(function is known for known in self.allowed.values()) or not isinstance(arguments, tuple):
        raise ValueError("a call of what is no function")
    self.stack[-1] = function(*arguments)


def _build(self: Unpickler) -> None:
    """Objects of our own classes alone take a state: never a function or a class, which all files share."""
    state = self.stack.pop()
    made = self.stack[-1]
    if isinstance(made, OrderedDict) and self.allowed is OF_TORCH:
        return  # attributes beside the content, as torch's dicts of tensors have
    if isinstance(made, type) or not hasattr(made, "__setstate__"):
        raise ValueError("a state of what has none")
    made.__setstate__(state)


_OURS = {"REDUCE": _reduce, "BUILD": _build}


def _depth(value: Any) -> int:
    """How deep tuples lie in tuples. To hash one visits each place in it, however often it is one and the same."""
    if not isinstance(value, tuple):
        return 0
    if len(value) > 100:
        raise ValueError("a tuple of more than a hundred")
    return 1 + max(map(_depth, value), default=0)


class _Steps(dict):
    def __missing__(self, code: int) -> None:
        raise ValueError("a step that no such file takes")


class Unpickler(pickle._Unpickler):
    """Reads plain containers, numbers and text, and of classes and functions those in `allowed` alone.

    Args:
        size: bytes of the pickle, which bound how many containers it may make.
    """

    allowed: ClassVar[Mapping[str, Any]] = ALLOWED

    def __init__(self, file: BinaryIO, size: int, **options: Any):
        super().__init__(file, **options)
        self.left = 100_000 + size // 8

    def find_class(self, module: str, name: str) -> Any:
        if f"{module}.{name}" not in self.allowed:
            raise Refused(f"{module}.{name}"[:100])
        return self.allowed[f"{module}.{name}"]

    def persistent_load(self, key: Any) -> Any:
        raise Refused("an object kept elsewhere")

    dispatch: ClassVar = _Steps((getattr(pickle, name)[0], _step(name)) for name in _STEPS)


class _Bounded:
    """A file that is asked for no more bytes than it has: a buffer would make room for any number."""

    def __init__(self, file: Any, size: int):
        self._read, self._size, self.readline = file.read, size, file.readline

    def read(self, count: int) -> bytes:
        if count > self._size:
            raise EOFError("it ends early")
        return self._read(count)


class _OfTorch(Unpickler):
    """As torch.save writes it: tensors are objects kept elsewhere, and containers may carry attributes."""

    allowed = OF_TORCH

    def __init__(self, file: Any, size: int):
        super().__init__(_Bounded(file, size), size)

    def persistent_load(self, key: Any) -> Any:
        return Unread()


def _damage(path: Path, error: BaseException) -> HarnessError:
    return HarnessError(f"{path} is truncated or damaged ({cause(error)[:200]}): download it again")


def _load(unpickler: Unpickler, path: Path) -> Any:
    try:
        return unpickler.load()
    except Refused as error:
        raise HarnessError(
            f"{path} asks for {error}, which no official archive of this kind holds and which may run code: it was not "
            "loaded; download the archive from its owners"
        ) from None
    except Exception as error:  # a program of the file's own may fail in any way
        raise _damage(path, error) from error


def unpickle(data: bytes, path: Path) -> Any:
    """The object of a pickle made of plain containers and numbers.

    Args:
        path: of the file that holds it, for the errors.

    Raises:
        HarnessError: it asks for anything else, or is no whole pickle.
    """
    return _load(Unpickler(io.BytesIO(data), len(data)), path)


def unpickle_bz2(path: Path) -> Any:
    """The object of a pickle compressed by bz2. Raises HarnessError as `unpickle`, and for more than MAX_RECORD."""
    compressed = read_bytes(path, MAX_RECORD)
    decompressor = bz2.BZ2Decompressor()
    try:
        data = decompressor.decompress(compressed, max_length=MAX_RECORD)
    except (OSError, ValueError) as error:
        raise _damage(path, error) from error
    if not decompressor.eof:
        reason = "it holds more than a record does" if len(data) == MAX_RECORD else "its compressed data end early"
        raise _damage(path, ValueError(reason))
    return unpickle(data, path)


#: How files of torch.save begin that are no zip archives: a pickle of this number.
_OLD = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."


def load_torch(path: Path) -> Any:
    """The object of a file of `torch.save`, of either of its formats, without its tensors; torch itself reads nothing.

    Raises:
        HarnessError: as `unpickle`, and for a compressed archive, which may swell: torch.save compresses nothing.
    """
    with open_file(path) as file:
        size = path.stat().st_size
        if file.read(len(_OLD)) == _OLD:
            for _ in range(2):  # the format's version, and sizes of integers
                _load(_OfTorch(file, 10_000), path)
            return _load(_OfTorch(file, size), path)
        try:
            with zipfile.ZipFile(file) as archive:
                (entry,) = (entry for entry in archive.infolist() if entry.filename.endswith("/data.pkl"))
                if entry.compress_type != zipfile.ZIP_STORED or entry.file_size > size:
                    raise ValueError("its content is compressed, which torch.save does not do")
                with archive.open(entry) as content:
                    buffer = io.BufferedReader(content, 2**20)
                    found = _load(_OfTorch(buffer, entry.file_size), path)
                    while buffer.read(2**20):  # to the end, where its checksum is looked at
                        pass
                    return found
        except HarnessError:
            raise
        except (zipfile.BadZipFile, ValueError, NotImplementedError, RuntimeError, EOFError, OSError) as error:
            if getattr(error, "errno", None) not in (None, errno.EINVAL):  # the latter for a place before the beginning
                raise
            reason = error if str(error).startswith("its content") else ValueError("it is no whole file of torch.save")
            raise _damage(path, reason) from error
