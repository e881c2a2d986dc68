"""The proxies, by name: those of this package and those that other packages register.

A package adds its own by an entry point in group `harness.proxies` that names a `Proxy` subclass.
"""

from __future__ import annotations

from functools import cache
from importlib.metadata import entry_points

from harness.errors import HarnessError
from harness.proxies.base import Proxy
from harness.registry import discover
from harness.specs import configured

ENTRY_POINTS = "harness.proxies"


@cache
def available() -> dict[str, type[Proxy]]:
    """All proxies by name. Raises HarnessError when two of them share a name or one cannot be imported."""
    found: dict[str, type[Proxy]] = {}
    for cls in discover("harness.proxies", Proxy):
        if cls.name in found:
            raise HarnessError(f"proxy {cls.name!r} is defined twice: rename one")
        found[cls.name] = cls
    for entry in entry_points(group=ENTRY_POINTS):
        try:
            cls = entry.load()
        except Exception as error:
            cause = next(iter(str(error).strip().splitlines()), type(error).__name__)
            raise HarnessError(
                f"proxy {entry.name!r} of entry point {entry.value} cannot be imported ({cause}): fix or "
                "uninstall that package"
            ) from error
        if not (isinstance(cls, type) and issubclass(cls, Proxy)):
            raise HarnessError(
                f"proxy {entry.name!r} of entry point {entry.value} is no subclass of harness.Proxy: let it name the "
                "class itself, derived from harness.Proxy, or uninstall that package"
            )
        if cls.name in found:
            raise HarnessError(f"proxy {cls.name!r} of entry point {entry.value} is defined already: rename it")
        found[cls.name] = cls
    return dict(sorted(found.items()))


def get_proxy(spec: str | Proxy) -> Proxy:
    """The proxy that a text such as `snip` or `vkdnw:variant=repo:batch_size=32` names.

    Raises:
        UnknownNameError: unknown proxy or setting, with the nearest valid name.
        HarnessError: a malformed setting.
    """
    if isinstance(spec, Proxy):
        return spec
    return configured(spec, "proxy", available())
