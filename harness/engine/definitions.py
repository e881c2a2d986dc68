"""Scores of a proxy under development belong to its code as it was: what changed since is not read as the same.

Registered proxies raise `version` when their definition changes. Someone who tries out a proxy forgets to. The first
time that a proxy of another package is scored, a digest of its code is kept beside the scores: as long as its name and
version are the same, the code has to be.
"""

from __future__ import annotations

import ast
import hashlib
import inspect
import textwrap
from collections.abc import Iterable
from contextlib import suppress
from functools import cache
from pathlib import Path

from harness.engine.store import write_text
from harness.errors import HarnessError
from harness.proxies import spec_of
from harness.proxies.base import Proxy

#: Where a store keeps the digests; readers of Hive folders skip names with this first letter.
FOLDER = "_definitions"


def check_definitions(root: Path, proxies: Iterable[Proxy], keep: bool = False) -> None:
    """Compare the code of each proxy of another package with that which its stored scores came from.

    Args:
        root: of the store.
        keep: write down the digest of a proxy that has none there yet: its scores are about to be stored.

    Raises:
        HarnessError: the code is another one than that which the stored scores of this version came from.
    """
    for proxy in proxies:
        digest = definition(proxy)
        if digest is None:
            continue
        path = root / FOLDER / f"{proxy.name}-v{proxy.version}.txt"
        held = ""
        with suppress(OSError):
            held = path.read_text(encoding="utf-8").strip()
        if held not in ("", digest):
            raise HarnessError(
                f"the code of {spec_of(proxy)} has changed since scores of its version {proxy.version} were stored: "
                f"write `version: ClassVar[int] = {proxy.version + 1}` into the class, and all are computed anew; if "
                f"the change makes no difference to a score, remove {path}"
            )
        if held or not keep:
            continue
        with suppress(OSError):  # a store that cannot be written says so when scores are
            path.parent.mkdir(parents=True, exist_ok=True)
            write_text(path, f"{digest}\n")


def definition(proxy: Proxy) -> str | None:
    """Digest of the code of a proxy and its passes, without comments and docstrings; None for this package's own.

    Functions that the classes call are not looked into. None, too, where Python has no source, as of a class that was
    typed at its prompt.
    """
    classes = [cls for thing in (proxy, *proxy.needs()) for cls in type(thing).__mro__]
    own = [cls for cls in dict.fromkeys(classes) if cls.__module__.split(".")[0] not in ("harness", "builtins", "abc")]
    if not own:
        return None
    found = hashlib.blake2b(digest_size=16)
    for cls in own:
        code = _code(cls)
        if code is None:
            return None
        found.update(code)
    return found.hexdigest()


@cache  # Python parses the whole file of a class to find it
def _code(cls: type) -> bytes | None:
    """The code of a class without comments and docstrings; None where Python has no source."""
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(cls)))
    except (OSError, TypeError, SyntaxError):
        return None
    return ast.unparse(_bare(tree)).encode()


def _bare(tree: ast.AST) -> ast.AST:
    """The tree without docstrings."""
    for node in ast.walk(tree):
        if isinstance(node, (ast.ClassDef, ast.FunctionDef)) and ast.get_docstring(node, clean=False) is not None:
            node.body = node.body[1:] or [ast.Pass()]
    return tree
