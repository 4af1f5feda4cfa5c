"""Keep the package easy to enter: a class name stands once, and a function fits in one look."""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent.parent / "src" / "mailrail"
NAMED_BY_DJANGO = {"Command", "Config", "EmailBackend", "Media", "Meta", "Migration"}
LONGEST_FUNCTION = 40
SOURCES = sorted(path for path in PACKAGE.rglob("*.py") if "migrations" not in path.parts)


@cache
def nodes_of(path: Path) -> list[ast.AST]:
    return list(ast.walk(ast.parse(path.read_text())))


def nodes() -> Iterator[tuple[Path, ast.AST]]:
    for path in SOURCES:
        place = path.relative_to(
            PACKAGE
        )  # once for each file: of all its nodes this would take most of the time
        for node in nodes_of(path):
            yield place, node


def test_a_class_name_stands_once() -> None:
    places = defaultdict(list)
    for path, node in nodes():
        if isinstance(node, ast.ClassDef) and node.name not in NAMED_BY_DJANGO:
            places[node.name].append(str(path))
    assert len(places) > 200
    assert {name: paths for name, paths in places.items() if len(paths) > 1} == {}


def test_no_function_is_longer_than_forty_lines() -> None:
    functions = [
        (f"{path}:{node.name}", (node.end_lineno or 0) - node.lineno + 1)
        for path, node in nodes()
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]
    assert len(functions) > 1000
    assert [(name, lines) for name, lines in functions if lines > LONGEST_FUNCTION] == []


def test_nobody_but_backoff_draws_at_random_so_that_a_seed_of_the_project_stays_as_it_is() -> None:
    names = (
        (path, alias.name) for path, node in nodes() if isinstance(node, ast.Import) for alias in node.names
    )
    assert {str(path) for path, name in names if name == "random"} == {"backoff.py"}


# -- imports -----------------------------------------------------------------------------------------------------------


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")


MODULES = {module_of(path): path for path in SOURCES}


def imported_by(module: str) -> set[str]:
    """Return the modules of ours that a module imports at any time, but not those for annotations alone."""
    path = MODULES[module]
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    nodes = nodes_of(path)
    for_annotations = {
        id(statement)
        for node in nodes
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
        for statement in node.body
    }
    names = {
        name
        for node in nodes
        if isinstance(node, ast.Import | ast.ImportFrom) and id(node) not in for_annotations
        for name in names_of(node, package)
    }
    return {name if name in MODULES else name.rpartition(".")[0] for name in names} & MODULES.keys() - {
        module
    }


def names_of(node: ast.Import | ast.ImportFrom, package: str) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    base = package.rsplit(".", node.level - 1)[0] if node.level else ""
    source = ".".join(filter(None, [base, node.module]))
    return [f"{source}.{alias.name}" for alias in node.names]


def reached_from(module: str, graph: dict[str, set[str]]) -> set[str]:
    reached: set[str] = set()
    ahead = set(graph[module])
    while ahead:
        reached |= ahead
        ahead = {name for each in ahead for name in graph[each]} - reached
    return reached


def test_no_imports_make_a_circle_those_inside_functions_neither() -> None:
    graph = {module: imported_by(module) for module in MODULES}
    assert "mailrail.conf" in graph["mailrail.routes"] and "mailrail.layers.redis" in graph["mailrail.layers"]
    in_circles = [module for module in graph if module in reached_from(module, graph)]
    assert in_circles == []
