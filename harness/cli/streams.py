"""Standard output and error of the command line: what may keep a line from being printed, and how warnings read."""

from __future__ import annotations

import codecs
import io
import os
import sys
import warnings
from typing import Any

from harness.errors import HarnessWarning

#: How Python prints a warning.
_FORMAT = warnings.formatwarning


def speak_plainly() -> None:
    """Let no locale keep a line from being printed, and no warning of ours take more than one."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            ascii_alone = codecs.lookup(stream.encoding).name == "ascii"
            stream.reconfigure(encoding="utf-8" if ascii_alone else stream.encoding, errors="backslashreplace")
    warnings.formatwarning = _warning


def _warning(message: Warning | str, category: type[Warning], *place: Any, **more: Any) -> str:
    return (
        f"harness: {message}\n" if issubclass(category, HarnessWarning) else _FORMAT(message, category, *place, **more)
    )


def mute() -> bool:
    """Whether standard output or error can no longer be written. Those go nowhere from now on.

    Python would try once more at its end, and fail with words and an exit code of its own.
    """
    found = False
    for stream in (sys.stdout, sys.stderr):
        try:
            descriptor = stream.fileno()
        except (OSError, ValueError, AttributeError):  # no file, as in a test
            continue
        try:
            stream.flush()
            os.write(descriptor, b"")
        except OSError:
            found = True
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, descriptor)
            os.close(nowhere)
    return found
