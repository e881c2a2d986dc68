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
    name, listed = key.lstrip("+"), value[:1] == "[" and value[-1:] == "]"
    if (name == "population" and "(" in value) or (name in ("benchmark", "algorithm") and "=" in value):
        return f"{key}='{value}'"
    if listed and name in ("stores", "tables"):  # tables: a folder, or for a queue a list of names
        return f"{key}=[{','.join(_quoted_path(path.strip()) for path in value[1:-1].split(','))}]"
    if equals and name in PATHS:
        return f"{key}={_quoted_path(value)}"
    if name in ("proxies", "against", "highlight"):
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
    """A path as the grammar reads it: in quotes, without which `1.10` would be a number and become `1.1`.

    `null`, nothing and an interpolation stay as they are; the paths of a sweep are quoted one by one. A comma is a
    sweep's where the paths hold nothing that needed quotes in any case.
    """
    if not path or path.lower() == "null" or "${" in path:
        return path
    if "," in path and re.fullmatch(r"[A-Za-z0-9_/.+%*@?|:,-]*", path):
        return ",".join(map(_quoted_path, path.split(",")))
    return "'" + re.sub(r"\\+$", r"\g<0>\g<0>", path) + "'"  # a backslash before the quote would take it away
