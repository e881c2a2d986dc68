"""Errors that a user can act on: the command line prints them as one line and exits with code 2."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def shown(value: object) -> str:
    """A value for a message: a short text or number as it is, of anything longer its kind, which costs nothing."""
    if isinstance(value, str):
        return repr(value if len(value) <= 100 else f"{value[:100]}…")
    if value is None or isinstance(value, (bool, float)) or (isinstance(value, int) and abs(value) < 2**64):
        return repr(value)
    return f"a value of type {type(value).__name__}"


class HarnessError(Exception):
    """A mistake in what was asked or in the data at hand. The message names the cause and the fix."""


class HarnessWarning(UserWarning):
    """Something is left out, and the rest goes on."""


def cause(error: BaseException) -> str:
    """The first line of an exception's text, or its kind where it has none; of a long one the beginning."""
    line = next(iter(str(error).strip().splitlines()), type(error).__name__)
    return (line if len(line) <= 1000 else f"{line[:1000]}…").encode("utf-8", "replace").decode()


class InputError(HarnessError, ValueError):
    """Data or an argument of the wrong kind, shape or range: also a ValueError, as Python's own functions raise."""


class UnknownNameError(HarnessError, KeyError):
    """A name that is not registered; the message carries the nearest valid one."""

    def __init__(self, kind: str, name: str, valid: Iterable[str]):
        valid = sorted(valid)
        near = difflib.get_close_matches(str(name), valid, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]!r}? " if near else ""
        names = ", ".join(valid) if len(valid) <= 12 else ", ".join(valid[:12]) + f", … ({len(valid)} in all)"
        super().__init__(f"unknown {kind} {shown(str(name))}: {hint}valid: {names or 'none'}")

    def __reduce__(self) -> tuple:  # comes back from a worker process with its message
        return _remade, (type(self), self.args)

    def __str__(self) -> str:  # KeyError would print the message in quotes
        return str(self.args[0])


def _remade(kind: type[UnknownNameError], arguments: tuple) -> UnknownNameError:
    error = kind.__new__(kind)
    error.args = arguments
    return error


class Unscorable(Exception):
    """The network or batch has no value for what was asked. The text becomes the row's status."""
