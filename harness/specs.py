"""Things named together with their settings, as in `vkdnw:variant=repo:batch_size=32`.

They are frozen dataclasses, whose fields are the settings: proxies, search algorithms and open search spaces.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from harness.errors import HarnessError, UnknownNameError, shown


def split_spec(spec: str, kind: str) -> tuple[str, dict[str, str]]:
    """Name and settings of `name:key=value:key=value`. Raises HarnessError for a setting without a value."""
    name, *settings = str(spec).split(":")
    pairs = {}
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not equals:
            raise HarnessError(f"{kind} {shown(spec)}: write a setting as name:key=value, not {shown(setting)}")
        pairs[key] = value
    return name, pairs


def settings_of(thing: Any) -> list[dataclasses.Field]:
    """The fields that are settings, in their order; those whose names begin with `_` are not."""
    return [field for field in dataclasses.fields(thing) if not field.name.startswith("_")]


def configure(cls: type, settings: Mapping[str, str], kind: str = "proxy") -> Any:
    """The thing with `settings` given as text, converted to the types of its fields.

    Raises UnknownNameError for an unknown setting, HarnessError for a value that is not of the field's type or no
    finite number.
    """
    defaults = {field.name: field.default for field in settings_of(cls)}
    values = {}
    for name, text in settings.items():
        if name not in defaults:
            raise UnknownNameError(f"setting of {kind} {cls.name!r}", name, defaults)
        wanted = type(defaults[name])
        try:
            values[name] = {"True": True, "False": False}[text.capitalize()] if wanted is bool else wanted(text)
            if len(text) > 100 or (wanted is int and abs(values[name]) >= 2**63):
                raise ValueError("too long")
        except (KeyError, ValueError) as error:
            raise HarnessError(
                f"{kind} {cls.name!r}: setting {name}={shown(text)} is no {wanted.__name__}; the default is "
                f"{defaults[name]!r}"
            ) from error
        if wanted is float and not math.isfinite(values[name]):
            raise HarnessError(
                f"{kind} {cls.name!r}: setting {name}={shown(text)} is no finite number; the default is "
                f"{defaults[name]!r}"
            )
    return cls(**values)


def configured(spec: str, kind: str, classes: Mapping[str, type]) -> Any:
    """The one of `classes` that a text names, with its settings. Raises UnknownNameError, HarnessError."""
    name, settings = split_spec(spec, kind)
    if name not in classes:
        raise UnknownNameError(kind, name, classes)
    return configure(classes[name], settings, kind)


def label(thing: Any) -> str:
    """`name`, followed by `:key=value` for each setting that differs from its default, in alphabetic order."""
    changed = [
        f":{field.name}={getattr(thing, field.name)}"
        for field in sorted(settings_of(thing), key=lambda f: f.name)
        if getattr(thing, field.name) != field.default
    ]
    return thing.name + "".join(changed)
