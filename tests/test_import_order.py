"""The order of imports in ``earlycrop``: a folder imports from the floors below its own, and never in a circle.

``python -m tests.test_import_order`` prints the floors, and how many files and imports there are.
"""

from __future__ import annotations

import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "earlycrop"
FLOORS = (
    ("_version", "utils"),
    ("graph",),
    ("scoring", "saving"),
    ("surgery",),
    ("tracing",),
    ("selection",),
    ("triggers", "measure", "emissions"),
    ("context", "events"),
    ("rounds",),
    ("pruning",),
    ("procedures",),
    ("methods",),
    ("pruner_state",),
    ("pruner",),
    ("integrations", "report"),
)
"""Folders and files of the package, from the bottom up."""
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts)


def imports(source: str) -> set[str]:
    """Return the modules of the package that a file imports anywhere in it, without the name of the package."""
    modules = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.level:
            raise AssertionError(f"a relative import in line {node.lineno}: name the package")
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "earlycrop":
            name = (node.module or "").partition(".")[2]
            submodules = [f"{name}.{alias.name}".lstrip(".") for alias in node.names]
            modules |= {sub for sub in submodules if (PACKAGE / f"{sub.replace('.', '/')}.py").exists()} or {name}
        if isinstance(node, ast.Import):
            modules |= {alias.name.partition(".")[2] for alias in node.names if alias.name.split(".")[0] == "earlycrop"}
    return modules


def import_graph() -> dict[str, set[str]]:
    """Return what each module of the package imports, but for the public ``__init__``."""
    paths = [path for path in PACKAGE.rglob("*.py") if path.name != "__init__.py"]
    return {module_name(path): imports(path.read_text()) for path in paths}


def violations(graph: dict[str, set[str]]) -> list[str]:
    """Return the imports that do not lead to a lower floor or stay in the same folder."""
    rooms = {module: module.split(".")[0] for module in graph}
    return [
        f"{module} imports {imported or 'earlycrop'}"
        for module in graph
        for imported in graph[module]
        if rooms[module] != imported.split(".")[0]
        and FLOOR.get(imported.split(".")[0], len(FLOORS)) >= FLOOR[rooms[module]]
    ]


def test_imports_lead_to_lower_floors() -> None:
    assert violations(import_graph()) == []


def test_no_import_leads_in_a_circle() -> None:
    list(TopologicalSorter(import_graph()).static_order())


def test_every_folder_and_file_has_a_floor() -> None:
    rooms = {path.stem if path.is_file() else path.name for path in PACKAGE.iterdir() if path.suffix in ("", ".py")}
    assert rooms - {"__init__", "__pycache__"} == FLOOR.keys()


def test_sub_packages_are_empty() -> None:
    """A function of the package's ``__init__`` must not hide a module."""
    assert [str(p) for p in PACKAGE.rglob("*/__init__.py") if p.parent != PACKAGE and p.read_text().strip()] == []


def test_violations_are_found() -> None:
    assert violations({"graph.types": {"tracing.trace"}, "tracing.trace": {"graph.types"}}) == [
        "graph.types imports tracing.trace"
    ]
    assert imports("def f():\n    from earlycrop.graph import types\n    import earlycrop.rounds") == {
        "graph.types",
        "rounds",
    }
    with pytest.raises(CycleError):
        list(TopologicalSorter({"a": {"b"}, "b": {"a"}}).static_order())


def main() -> None:
    graph = import_graph()
    depth: dict[str, int] = {}
    for module in TopologicalSorter(graph).static_order():
        depth[module] = 1 + max((depth[imported] for imported in graph.get(module, ())), default=0)
    for number, rooms in reversed(list(enumerate(FLOORS, 1))):
        files = [module for module in graph if module.split(".")[0] in rooms]
        print(f"floor {number:2}  {', '.join(rooms)}: {len(files)} files")
    rooms = {(a.split(".")[0], b.split(".")[0]) for a in graph for b in graph[a]}
    print(
        f"{len(graph)} files, {sum(map(len, graph.values()))} imports between files, {max(depth.values())} floors of "
        f"files; {len(FLOORS)} floors of folders, {sum(a != b for a, b in rooms)} imports between folders; no circle"
    )


if __name__ == "__main__":
    main()
