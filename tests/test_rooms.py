"""The house: each room imports only rooms below it, and no module imports itself by way of others."""

from __future__ import annotations

import ast
from pathlib import Path

import harness

PACKAGE = Path(harness.__file__).resolve().parent

#: From the top floor down; what stands on one floor does not import one another.
FLOORS = (
    {"cli"},
    {"verify", "report", "search"},
    {"comparison"},
    {"tables"},
    {"rankings"},
    {"bench"},
    {"config"},
    {"engine"},
    {"proxies"},
    {"probes", "benchmarks"},
    {"spaces"},
    {"correlation", "charts"},
    {"errors", "paths", "seeds", "registry", "specs", "progress"},
)
#: Import paths of earlier versions: they stand beside the house.
ALIASES = {"store", "benchmark"}
#: Room by room name, counted from the ground.
HEIGHT = {room: height for height, floor in enumerate(reversed(FLOORS)) for room in floor}


def module_of(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_of(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def imports(source: str) -> set[str]:
    """Modules of the package that a source imports anywhere, inside functions and for type checks too."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom):
            assert not node.level, "imports here are absolute"
            found |= {
                f"{node.module}.{a.name}" if f"{node.module}.{a.name}" in MODULES else node.module for a in node.names
            }
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return found & set(MODULES)


GRAPH = {name: imports(path.read_text(encoding="utf-8")) - {name} for name, path in MODULES.items()}


def circles(graph: dict[str, set[str]]) -> set[frozenset[str]]:
    """The sets of modules that reach one another."""

    def reached(start: str) -> set[str]:
        seen: set[str] = set()
        waiting = list(graph[start])
        while waiting:
            name = waiting.pop()
            if name not in seen:
                seen.add(name)
                waiting += graph[name]
        return seen

    all_reached = {name: reached(name) for name in graph}
    return {frozenset(b for b in all_reached[a] if a in all_reached[b]) for a in graph if a in all_reached[a]}


def upward(graph: dict[str, set[str]]) -> list[str]:
    """Imports of a room that is not below."""
    found = []
    for name, others in graph.items():
        room = name.split(".")[1] if "." in name else ""
        for other in others:
            theirs = other.split(".")[1] if "." in other else ""
            if room in ALIASES or "" in (room, theirs) or theirs == room:
                continue
            if theirs in ALIASES or (HEIGHT[theirs] >= HEIGHT[room] and HEIGHT[theirs] > 0):
                found.append(f"{name} imports {other}")
    return found


def test_every_room_is_on_the_plan():
    rooms = {name.split(".")[1] for name in MODULES if "." in name}
    assert rooms == set(HEIGHT) | ALIASES


def test_no_module_imports_itself_by_way_of_others():
    assert circles(GRAPH) == set()


def test_no_room_imports_one_that_is_not_below():
    assert upward(GRAPH) == []


def test_circles_and_upward_arrows_are_found():
    graph = {"harness.a": {"harness.b"}, "harness.b": {"harness.c"}, "harness.c": {"harness.b"}}
    assert circles(graph) == {frozenset({"harness.b", "harness.c"})}
    assert upward({"harness.spaces.x": {"harness.engine.y"}}) == ["harness.spaces.x imports harness.engine.y"]
    assert upward({"harness.verify.x": {"harness.report.y"}}), "rooms of one floor are apart"
    assert upward({"harness.errors": {"harness.spaces.y"}}), "the ground carries all"
    assert upward({"harness.engine.x": {"harness.spaces.y"}}) == []
    assert imports("def f():\n    from harness.engine import store") == {"harness.engine.store"}


def test_house_is_small():
    assert len(list(PACKAGE.glob("*.py"))) <= 10
    assert [name for name, path in MODULES.items() if len(path.read_text(encoding="utf-8").splitlines()) >= 500] == []


def test_functions_are_short():
    long = [
        f"{name}.{node.name}"
        for name, path in MODULES.items()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef) and node.end_lineno - node.lineno + 1 > 80
    ]
    assert long == []
