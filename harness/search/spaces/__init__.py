"""Open search spaces, by name: networks without stored accuracies."""

from __future__ import annotations

from harness.errors import UnknownNameError
from harness.registry import discover
from harness.search.genes import OpenSpace
from harness.specs import configured


def available() -> dict[str, type[OpenSpace]]:
    """All open spaces by name."""
    return {cls.name: cls for cls in discover("harness.search.spaces", OpenSpace)}


def get_open_space(spec: str) -> OpenSpace:
    """The space that a text such as `esformer:size=S1` names. Raises UnknownNameError, HarnessError."""
    return configured(spec, "search space", available())


__all__ = ["OpenSpace", "UnknownNameError", "available", "get_open_space"]
