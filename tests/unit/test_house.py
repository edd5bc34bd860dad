"""Rules of the house that a reader would otherwise have to remember."""

from __future__ import annotations

import ast
import importlib
import inspect
import pkgutil
import re
import sys
from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

import assistly
from assistly.storage import AsyncStorage, Storage
from assistly.storage import aio as aio_package
from assistly.storage.engine import base

PACKAGE = Path(assistly.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))

LONGEST_FILE = 500

REQUIRED_MEMBERS = 46
"""What the author of an engine has to write. It is counted exactly, so that a change is a decision."""

MOST_REQUIRED_MEMBERS = 48

TWICE = {"Unknown"}
"""Class names that may be used twice: none of the package's own but these."""


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def relative(path: Path) -> str:
    return path.relative_to(PACKAGE).as_posix()


def module_of(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def test_the_required_members_of_an_engine() -> None:
    """The abstract methods of the classes in `assistly.storage.engine.base`."""
    abstract = {
        f"{kind.__name__}.{name}"
        for _, kind in inspect.getmembers(base, inspect.isclass)
        if kind.__module__.startswith(base.__name__)
        for name in getattr(kind, "__abstractmethods__", ())
    }
    assert len(abstract) <= MOST_REQUIRED_MEMBERS, sorted(abstract)
    assert len(abstract) == REQUIRED_MEMBERS, sorted(abstract)


def test_class_names_are_unique() -> None:
    owners: dict[str, list[str]] = defaultdict(list)
    for path in FILES:
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.ClassDef):
                owners[node.name].append(f"{relative(path)}:{node.lineno}")
    twice = {name: found for name, found in owners.items() if len(found) > 1 and name not in TWICE}
    assert twice == {}


def test_files_are_short() -> None:
    lines = {relative(path): len(path.read_text(encoding="utf-8").splitlines()) for path in FILES}
    assert {name: count for name, count in lines.items() if count > LONGEST_FILE} == {}


def _calls(path: Path, function: str) -> Iterator[str]:
    """Where this function of a module, or this method, is called or named."""
    owner, _, name = function.rpartition(".")
    for node in ast.walk(tree(path)):
        if not isinstance(node, ast.Attribute) or node.attr != name:
            continue
        if not owner or (isinstance(node.value, ast.Name) and node.value.id == owner):
            yield f"{relative(path)}:{node.lineno}"


def _uses(function: str, *, under: str = "", besides: tuple[str, ...] = ()) -> list[str]:
    return [
        use
        for path in FILES
        if relative(path).startswith(under) and relative(path) not in besides
        for use in _calls(path, function)
    ]


def test_the_garbage_collector_is_the_applications() -> None:
    imports = [
        relative(path)
        for path in FILES
        for node in ast.walk(tree(path))
        if isinstance(node, ast.Import) and any(alias.name == "gc" for alias in node.names)
    ]
    assert imports == []


def test_no_object_changes_its_class() -> None:
    assigned = [
        f"{relative(path)}:{node.lineno}"
        for path in FILES
        for node in ast.walk(tree(path))
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Attribute) and target.attr == "__class__"
    ]
    assert assigned == []
    assert _uses("object.__setattr__") == []


def test_objects_are_made_by_calling_their_class() -> None:
    assert _uses("object.__new__") == []


def test_sql_is_not_edited() -> None:
    """In the engines nothing is replaced in a text but single characters, which is how one quotes.

    A secret that is taken out of a message is in `conninfo.py`.
    """
    for function in ("re.sub", "re.subn", "sub", "subn"):
        assert _uses(function, under="storage/engines/") == []
    edits = [
        f"{relative(path)}:{node.lineno}"
        for path in FILES
        if relative(path).startswith("storage/engines/") and path.name != "conninfo.py"
        for node in ast.walk(tree(path))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "replace"
        if node.args and not _is_character(node.args[0])
    ]
    assert edits == []


def _is_character(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and node.value in {'"', "'", "%", "\\", "\r\n"}


def test_the_suite_needs_pytest_and_hypothesis_alone() -> None:
    """Which is what the extra `contract` installs."""
    imported = {
        name.partition(".")[0]
        for path in FILES
        if relative(path).startswith("storage/testing/")
        for node in ast.walk(tree(path))
        for name in _absolute_imports(node)
    }
    assert imported - {*sys.stdlib_module_names} == {"pytest", "hypothesis"}


def _absolute_imports(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
        return [node.module]
    return []


def test_there_is_one_registry_of_fork_hooks() -> None:
    assert _uses("os.register_at_fork", besides=("storage/forks.py",)) == []
    assert _uses("os.register_at_fork") != []


def test_signals_are_handled_by_workers_alone() -> None:
    allowed = tuple(
        relative(path) for path in FILES if relative(path).startswith(("worker/", "storage/testing/", "cli/"))
    )
    assert _uses("signal.signal", besides=allowed) == []


def _imports(path: Path) -> set[str]:
    """The modules of the package that a module imports anywhere: at its top, in functions, for types."""
    module = module_of(path)
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    found: set[str] = set()
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = package.rsplit(".", node.level - 1)[0] if node.level > 1 else package
            source = ".".join(filter(None, [above if node.level else "", node.module]))
            for alias in node.names:
                inner = f"{source}.{alias.name}"
                found.add(inner if inner in MODULES else source)
    return {name for name in found if name in MODULES and name != module}


MODULES = {module_of(path): path for path in FILES}


def test_no_import_cycles() -> None:
    """Not even for types, nor through functions that import when they run."""
    graph = {module: _imports(path) for module, path in MODULES.items() if path.name != "__init__.py"}
    for module, path in MODULES.items():
        if path.name == "__init__.py" and not _is_lazy(path):
            graph[module] = _imports(path)
    cycles = [" -> ".join(cycle) for cycle in _cycles(graph)]
    assert cycles == []


def _is_lazy(path: Path) -> bool:
    """A package that loads its names on first use names all of them for type checkers."""
    return any(isinstance(node, ast.FunctionDef) and node.name == "__getattr__" for node in tree(path).body)


def _cycles(graph: dict[str, set[str]]) -> list[list[str]]:
    """One cycle for each group of modules that import each other (Tarjan's algorithm)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    groups: list[list[str]] = []

    def visit(module: str) -> None:
        index[module] = low[module] = len(index)
        stack.append(module)
        for other in sorted(graph.get(module, ())):
            if other not in index:
                visit(other)
                low[module] = min(low[module], low[other])
            elif other in stack:
                low[module] = min(low[module], index[other])
        if low[module] == index[module]:
            group = []
            while True:
                group.append(stack.pop())
                if group[-1] == module:
                    break
            if len(group) > 1 or module in graph.get(module, ()):
                groups.append(group[::-1])

    for module in sorted(graph):
        if module not in index:
            visit(module)
    return groups


def _public_classes() -> Iterator[type]:
    """`Storage`, `AsyncStorage` and the stores that hang on them."""
    yield from (Storage, AsyncStorage)
    for package in (importlib.import_module("assistly.storage.stores"), aio_package):
        for module in pkgutil.iter_modules(package.__path__, f"{package.__name__}."):
            loaded = importlib.import_module(module.name)
            for _, kind in inspect.getmembers(loaded, inspect.isclass):
                if kind.__module__ == loaded.__name__ and kind.__name__ in STORES:
                    yield kind


STORES = {
    f"{prefix}{name}"
    for prefix in ("", "Async")
    for name in (
        "Queue",
        "Sessions",
        "Approvals",
        "Idempotency",
        "Nonces",
        "MetricsStore",
        "Metrics",
        "Locks",
        "Events",
        "Snapshots",
    )
}


def test_the_public_stores_are_found() -> None:
    names = {kind.__name__ for kind in _public_classes()}
    assert len({name for name in names if not name.startswith("Async")} - {"Storage"}) == 9
    assert len({name for name in names if name.startswith("Async")} - {"AsyncStorage"}) == 9


@pytest.mark.parametrize("kind", [*_public_classes()], ids=lambda kind: kind.__name__)
def test_everything_public_has_a_docstring(kind: type) -> None:
    bare = [
        name
        for name, member in vars(kind).items()
        if not name.startswith("_")
        and callable(member)
        and not (inspect.getdoc(getattr(kind, name)) or "").strip()
    ]
    assert (kind.__doc__ or "").strip()
    assert bare == []


@pytest.mark.parametrize("kind", [*_public_classes()], ids=lambda kind: kind.__name__)
def test_docstrings_begin_with_a_sentence(kind: type) -> None:
    odd = [
        name
        for name, member in vars(kind).items()
        if not name.startswith("_") and callable(member) and (doc := inspect.getdoc(getattr(kind, name)))
        if not re.match(r"[A-Z`].*", doc) or not re.search(r"[.:]$", doc.partition("\n\n")[0])
    ]
    assert odd == []
