"""Errors that a user can act on: the command line prints them as one line and exits with code 2."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class HarnessError(Exception):
    """A mistake in what was asked or in the data at hand. The message names the cause and the fix."""


class HarnessWarning(UserWarning):
    """Something is left out, and the rest goes on."""


def cause(error: BaseException) -> str:
    """The first line of an exception's text, or its kind where it has none."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


class InputError(HarnessError, ValueError):
    """Data or an argument of the wrong kind, shape or range: also a ValueError, as Python's own functions raise."""


class UnknownNameError(HarnessError, KeyError):
    """A name that is not registered; the message carries the nearest valid one."""

    def __init__(self, kind: str, name: str, valid: Iterable[str]):
        valid = sorted(valid)
        near = difflib.get_close_matches(str(name), valid, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]!r}? " if near else ""
        shown = ", ".join(valid) if len(valid) <= 12 else ", ".join(valid[:12]) + f", … ({len(valid)} in all)"
        super().__init__(f"unknown {kind} {name!r}: {hint}valid: {shown or 'none'}")

    def __reduce__(self) -> tuple:  # comes back from a worker process with its message
        return _remade, (type(self), self.args)

    def __str__(self) -> str:  # KeyError would print the message in quotes
        return str(self.args[0])


class SelectionError(HarnessError):
    """Figures are stored of a selection alone, and more was asked for: a figure over what is there would mislead."""


def _remade(kind: type[UnknownNameError], arguments: tuple) -> UnknownNameError:
    error = kind.__new__(kind)
    error.args = arguments
    return error


class Unscorable(Exception):
    """The network or batch has no value for what was asked. The text becomes the row's status."""
