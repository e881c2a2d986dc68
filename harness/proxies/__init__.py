"""The proxies, by name: those of this package and those that other packages register.

A package adds its own by an entry point in group `harness.proxies` that names a `Proxy` subclass.
"""

from __future__ import annotations

import multiprocessing
import warnings
from functools import cache
from importlib.metadata import entry_points

from harness.errors import HarnessError, HarnessWarning, cause
from harness.proxies.base import Proxy
from harness.registry import discover
from harness.specs import configured

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


@cache
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
        elif cls.name in found:
            broken[entry.name] = f"proxy {cls.name!r} of entry point {entry.value} is defined already: rename it"
        else:
            found[cls.name] = cls
    return dict(sorted(found.items())), broken


def get_proxy(spec: str | Proxy) -> Proxy:
    """The proxy that a text such as `snip` or `vkdnw:variant=repo:batch_size=32` names.

    Raises:
        UnknownNameError: unknown proxy or setting, with the nearest valid name.
        HarnessError: a malformed setting; a proxy of another package that cannot be used.
    """
    if isinstance(spec, Proxy):
        return spec
    name = str(spec).partition(":")[0]
    if name in broken() and name not in available():
        raise HarnessError(broken()[name])
    return configured(spec, "proxy", available())
