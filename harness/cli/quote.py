"""Arguments of the command line as the grammar of Hydra's overrides reads them."""

from __future__ import annotations

import re

#: Settings that hold a path: what the grammar of Hydra takes for something else in one is quoted.
PATHS = frozenset({"store", "scores", "output", "inputs.path", "cache", "tables", "baseline", "path", "queue", "data"})


def quoted(argument: str) -> str:
    """Quote, for Hydra's grammar, paths, the brackets of populations and the `key=value` settings of what has such."""
    key, equals, value = argument.partition("=")
    if "'" in value or '"' in value:
        return argument
    if (key == "population" and "(" in value) or (key in ("benchmark", "algorithm") and "=" in value):
        return f"{key}='{value}'"
    if key in PATHS:
        return key + equals + _quoted_path(value)
    if key == "stores" and value[:1] == "[" and value[-1:] == "]":
        return f"stores=[{','.join(map(_quoted_path, value[1:-1].split(',')))}]"
    if key in ("proxies", "against", "highlight"):
        return key + equals + _quoted_names(value)
    return argument


def _quoted_names(value: str) -> str:
    """Names of proxies as a list of the grammar, be it one name, several or a list; lists of a sweep stay lists."""
    inner = value[1:-1] if value[:1] == "[" and value[-1:] == "]" and "[" not in value[1:] else value
    if "[" in inner or not value or value.startswith(("choice(", "range(", "glob(")):
        return re.sub(r"[^\[\],\s]+=[^\[\],\s]*", lambda match: f"'{match[0]}'", value)
    names = [name.strip() for name in re.split(r",(?![^()]*\))", inner)]
    return f"[{','.join(name if re.fullmatch('[^=() ]*', name) else repr(name) for name in names)}]"


def _quoted_path(path: str) -> str:
    """A path as the grammar reads it; several (of a sweep), an interpolation or a plain one as they are."""
    plain = re.fullmatch(r"[A-Za-z0-9_/.+%*@?|:,-]*", path) or "${" in path
    return path if plain else f"'{path}'"
