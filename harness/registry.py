"""Find what a package's modules define, so that adding a proxy touches one file of code, and a space one folder."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from functools import cache


@cache
def modules_of(package: str) -> tuple:
    """The modules of `package`, and of each folder in it the module `space`: none imports torch at import time."""
    root = importlib.import_module(package)
    names = sorted(f"{m.name}.space" if m.ispkg else m.name for m in pkgutil.iter_modules(root.__path__))
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
