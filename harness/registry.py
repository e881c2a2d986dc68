"""Find what a package's modules define, so that adding a proxy or a space touches one file of code."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from functools import cache


@cache
def modules_of(package: str) -> tuple:
    """All modules of `package` that import no torch at import time (those named `*_network` are left out)."""
    root = importlib.import_module(package)
    names = sorted(m.name for m in pkgutil.iter_modules(root.__path__) if not m.name.endswith("_network"))
    return tuple(importlib.import_module(f"{package}.{name}") for name in names)


@cache
def discover(package: str, base: type) -> tuple[type, ...]:
    """Public concrete subclasses of `base` defined in the modules of `package`, in the order of module and name."""
    found = []
    for module in modules_of(package):
        for _, value in inspect.getmembers(module, inspect.isclass):
            public = not value.__name__.startswith("_") and value.__module__ == module.__name__
            if public and issubclass(value, base) and not inspect.isabstract(value):
                found.append(value)
    return tuple(found)
