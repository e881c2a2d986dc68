"""Search spaces: encoding, enumeration, canonical form, counts and network of each architecture."""

from __future__ import annotations

from harness.errors import UnknownNameError
from harness.registry import discover
from harness.spaces.base import Space


def get_space(name: str) -> Space:
    """The space registered as `name`. Raises UnknownNameError with the nearest name."""
    spaces = {cls.name: cls for cls in discover("harness.spaces", Space)}
    if name not in spaces:
        raise UnknownNameError("space", name, spaces)
    return spaces[name]()
