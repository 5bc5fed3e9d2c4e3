"""The order of imports: a folder imports from the floors below its own, and no files import each other in a circle.

``python -m tests.test_import_order`` prints the floors, and how many files and imports there are.
"""

from __future__ import annotations

import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = {
    "earlycrop": (
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
        ("training",),
        ("pruner",),
        ("integrations", "report"),
        ("earlycrop",),
    ),
    "tasks": (
        ("runner",),
        ("data", "nets"),
        ("control", "depth", "text", "vision"),
        ("runnable tasks",),
        ("__main__",),
    ),
    "leaderboards": (
        ("records", "studies", "run_storage"),
        ("table",),
        ("consistency", "plots", "recount", "sweep"),
        ("build", "check", "cluster", "page", "paper_comparison", "result_tables"),
        ("commands",),
        ("__main__",),
    ),
}
"""Folders and files of each package, from the bottom up; a package imports from those before it.

``earlycrop`` within itself is the public API. ``tasks.Task``, in the package's ``__init__``, is what the runner trains.
"""
FLOORS = [tuple((package, room) for room in rooms) for package, floors in PACKAGES.items() for rooms in floors]
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}


def is_module(name: str) -> bool:
    path = ROOT / name.replace(".", "/")
    return path.with_suffix(".py").exists() or (path / "__init__.py").exists()


def room_of(module: str) -> tuple[str, str]:
    """Return the package and the folder, or file, that a module is in."""
    package, _, rest = module.partition(".")
    room = rest.partition(".")[0]
    if module in ("tasks", "tasks._imports"):  # the package itself
        return package, "runner"
    is_file = not (ROOT / package / room / "__init__.py").exists()
    if package == "tasks" and is_file and room != "__main__":
        return package, "runnable tasks"
    return package, room or package


def imports(source: str) -> set[str]:
    """Return the modules of the packages that a file imports anywhere in it."""
    modules = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.level:
            raise AssertionError(f"a relative import in line {node.lineno}: name the package")
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] in PACKAGES:
            submodules = [f"{node.module}.{alias.name}" for alias in node.names]
            existing = {name for name in submodules if is_module(name)}
            modules |= existing if len(existing) == len(submodules) else existing | {node.module}
        if isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names if alias.name.split(".")[0] in PACKAGES}
    return modules


def import_graph() -> dict[str, set[str]]:
    """Return what each module of the packages imports. Of the packages' own ``__init__`` only that of tasks is one."""
    graph = {}
    for package in PACKAGES:
        for path in (ROOT / package).rglob("*.py"):
            names = path.relative_to(ROOT).with_suffix("").parts
            module = ".".join(names[:-1] if names[-1] == "__init__" else names)
            if module not in ("earlycrop", "leaderboards"):
                graph[module] = imports(path.read_text())
    return graph


def violations(graph: dict[str, set[str]]) -> list[str]:
    """Return the imports that do not lead to a lower floor or stay in the same folder."""
    return [
        f"{module} imports {imported}"
        for module in graph
        for imported in graph[module]
        if room_of(module) != room_of(imported) and FLOOR[room_of(imported)] >= FLOOR[room_of(module)]
    ]


def test_imports_lead_to_lower_floors() -> None:
    assert violations(import_graph()) == []


def test_no_import_leads_in_a_circle() -> None:
    list(TopologicalSorter(import_graph()).static_order())


def test_every_folder_and_file_has_a_floor() -> None:
    rooms = {room_of(module) for module in import_graph()} | {("earlycrop", "earlycrop")}
    missing = {("tasks", "__main__"), ("tasks", "control")} - rooms
    assert rooms == FLOOR.keys() - missing


def test_sub_packages_are_empty() -> None:
    """A function of a package's ``__init__`` must not hide a module."""
    inner = [path for package in PACKAGES for path in (ROOT / package).glob("*/**/__init__.py")]
    assert len(inner) > 10
    assert [str(path) for path in inner if path.read_text().strip()] == []


def test_violations_are_found() -> None:
    assert violations({"earlycrop.graph.types": {"earlycrop.tracing.trace"}, "earlycrop.tracing.trace": set()}) == [
        "earlycrop.graph.types imports earlycrop.tracing.trace"
    ]
    assert violations({"earlycrop.pruner": {"tasks"}, "tasks.runner.store": {"tasks", "earlycrop"}}) == [
        "earlycrop.pruner imports tasks"
    ]
    assert violations({"tasks.nets.fcrn": {"tasks.vision.feed"}, "tasks.nyu": {"tasks.vision.feed"}}) == [
        "tasks.nets.fcrn imports tasks.vision.feed"
    ]
    assert violations({"tasks.vision.feed": {"tasks.cifar10"}, "leaderboards.sweep": {"leaderboards.build"}}) == [
        "tasks.vision.feed imports tasks.cifar10",
        "leaderboards.sweep imports leaderboards.build",
    ]
    assert imports("def f():\n    from earlycrop.graph import types\n    import earlycrop.pruning") == {
        "earlycrop.graph.types",
        "earlycrop.pruning",
    }
    assert imports("from tasks import Task, cifar10") == {"tasks", "tasks.cifar10"}
    with pytest.raises(CycleError):
        list(TopologicalSorter({"a": {"b"}, "b": {"a"}}).static_order())


def main() -> None:
    graph = import_graph()
    depth: dict[str, int] = {}
    for module in TopologicalSorter(graph).static_order():
        depth[module] = 1 + max((depth[imported] for imported in graph.get(module, ())), default=0)
    for number, rooms in reversed(list(enumerate(FLOORS, 1))):
        files = [module for module in graph if room_of(module) in rooms]
        print(f"floor {number:2}  {', '.join(f'{package}/{room}' for package, room in rooms)}: {len(files)} files")
    for package in PACKAGES:
        inside = {module: graph[module] for module in graph if module.split(".")[0] == package}
        rooms = {(room_of(a), room_of(b)) for a in inside for b in inside[a] if b in inside}
        print(
            f"{package}: {len(inside)} files, {sum(len(imported & inside.keys()) for imported in inside.values())} "
            f"imports between files, {sum(a != b for a, b in rooms)} between folders; no circle"
        )


if __name__ == "__main__":
    main()
