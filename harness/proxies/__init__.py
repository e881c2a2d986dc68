"""The proxies, by name: those of this package and those that other packages register.

A package adds its own by an entry point in group `harness.proxies` that names a `Proxy` subclass. One that is not
registered is named `MODULE:CLASS`.
"""

from __future__ import annotations

import importlib
import multiprocessing
import sys
import traceback
import warnings
from collections.abc import Iterable
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path

from harness.errors import HarnessError, HarnessWarning, cause
from harness.proxies.base import Proxy, undeclared, unreadable
from harness.registry import discover
from harness.specs import configure, configured, split_spec

ENTRY_POINTS = "harness.proxies"


@cache
def available() -> dict[str, type[Proxy]]:
    """All proxies by name. Those of other packages that cannot be used are left out, with a warning."""
    found, broken = _found()
    for reason in broken.values() if multiprocessing.parent_process() is None else ():  # once, not by each worker
        warnings.warn(f"{reason}; it is left out", HarnessWarning, stacklevel=2)
    return found


@cache
def broken() -> dict[str, str]:
    """What is wrong with each entry point that cannot be used, by its name."""
    return _found()[1]


def _found() -> tuple[dict[str, type[Proxy]], dict[str, str]]:
    """Proxies by name, and the reasons why others are none. Raises HarnessError when two of ours share a name."""
    found: dict[str, type[Proxy]] = {}
    broken: dict[str, str] = {}
    for cls in discover("harness.proxies", Proxy):
        if cls.name in found:
            raise HarnessError(f"proxy {cls.name!r} is defined twice: rename one")
        found[cls.name] = cls
    for entry in entry_points(group=ENTRY_POINTS):
        try:
            cls = entry.load()
        except (Exception, SystemExit) as error:
            broken[entry.name] = (
                f"proxy {entry.name!r} of entry point {entry.value} cannot be imported ({cause(error)}): fix or "
                "uninstall that package"
            )
            continue
        if not (isinstance(cls, type) and issubclass(cls, Proxy)):
            broken[entry.name] = (
                f"proxy {entry.name!r} of entry point {entry.value} is no subclass of harness.Proxy: let it name the "
                "class itself, derived from harness.Proxy, or uninstall that package"
            )
        elif wrong := undeclared(cls):
            broken[entry.name] = f"proxy {entry.name!r} of entry point {entry.value} {wrong}"
        elif cls.name in found:
            broken[entry.name] = f"proxy {cls.name!r} of entry point {entry.value} is defined already: rename it"
        else:
            found[cls.name] = cls
    return dict(sorted(found.items())), broken


def get_proxy(spec: str | Proxy | type[Proxy]) -> Proxy:
    """The proxy that a text such as `snip`, `vkdnw:variant=repo:batch_size=32` or `mymodule:MyProxy` names.

    Modules of the working directory are found, as a test runner would. A proxy itself, or its class, is taken as it is.

    Raises:
        UnknownNameError: unknown proxy or setting, with the nearest valid name.
        HarnessError: a malformed setting; a module or a proxy of another package that cannot be used; a class that is
            no `Proxy`, that lacks a part of its declaration, or that bears the name of another proxy.
    """
    if isinstance(spec, Proxy):
        return spec
    if isinstance(spec, type) and issubclass(spec, Proxy):
        return _sound(_declared(spec)())
    module, colon, rest = str(spec).partition(":")
    if module in broken() and module not in available():
        raise HarnessError(broken()[module])
    if not colon or "=" in rest.split(":")[0] or module in available():
        return _sound(configured(spec, "proxy", available()))
    name, settings = split_spec(rest, "proxy")
    proxy = _sound(configure(_declared(_imported(module, name)), settings))
    check_own_name(proxy)
    return proxy


def _imported(module: str, name: str) -> type[Proxy]:
    """The proxy class `name` of a module that need not be installed."""
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        cls = getattr(importlib.import_module(module), name)
    except Exception as error:
        # Whatever the module itself raises is mended there, and another name would not help.
        own = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.name == "<module>"]
        if own:
            raise HarnessError(
                f"proxy '{module}:{name}' cannot be imported ({cause(error)}): mend {Path(own[-1].filename).name}, "
                f"line {own[-1].lineno}"
            ) from error
        raise HarnessError(
            f"proxy '{module}:{name}' cannot be imported ({cause(error)}): write MODULE:CLASS, importable from here, "
            "or a name of `harness list proxies`"
        ) from error
    if not (isinstance(cls, type) and issubclass(cls, Proxy)):
        raise HarnessError(
            f"{module}:{name} is no subclass of harness.Proxy: write MODULE:CLASS with a class derived from it"
        )
    return cls


def _declared(cls: type[Proxy]) -> type[Proxy]:
    """The class, where its declaration is complete; raises HarnessError."""
    if wrong := undeclared(cls):
        raise HarnessError(f"{cls.__module__}:{cls.__qualname__} {wrong}")
    return cls


def _sound(proxy: Proxy) -> Proxy:
    """The proxy, where a run can read what it needs; raises HarnessError. Those of this package are held by tests."""
    if not type(proxy).__module__.startswith("harness.") and (wrong := unreadable(proxy)):
        raise HarnessError(f"{type(proxy).__module__}:{type(proxy).__qualname__} {wrong}")
    return proxy


def check_own_name(proxy: Proxy) -> None:
    """Raises HarnessError where a proxy bears the name of another one: their scores would be taken for each other's."""
    registered = available().get(proxy.name, type(proxy))
    if registered is not type(proxy):
        raise HarnessError(
            f"{spec_of(proxy)} is named {proxy.name!r}, as is {registered.__module__}:{registered.__name__}: "
            "give it a name of its own"
        )


def distinct(proxies: Iterable[Proxy]) -> list[Proxy]:
    """The proxies, each once. Raises HarnessError for two classes of one name, of which one would hide the other."""
    found: dict[str, Proxy] = {}
    for proxy in proxies:
        other = found.setdefault(proxy.label, proxy)
        if type(other) is not type(proxy):
            raise HarnessError(
                f"{spec_of(proxy)} is named {proxy.name!r}, as is {spec_of(other)}: give it a name of its own"
            )
    return list(found.values())


def spec_of(proxy: Proxy) -> str:
    """The text by which `get_proxy` finds a proxy: its label, or `MODULE:CLASS` with settings if it is unregistered."""
    cls = type(proxy)
    if available().get(proxy.name) is cls:
        return proxy.label
    return f"{cls.__module__}:{cls.__qualname__}{proxy.label.removeprefix(proxy.name)}"
