"""What a mutant changes: which functions, and which names of modules and classes.

Statements of SQL are composed when a module is imported or an object made, long before they run. So the
tests for such a mutant are found by names: what mentions the changed name, and what mentions that, until it
is a function that tests call.
"""

from __future__ import annotations

import ast
from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

_Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass
class Changes:
    """`functions` are qualified names; `names` are assigned in the module or, qualified, in a class."""

    functions: set[str] = field(default_factory=set)
    names: set[str] = field(default_factory=set)
    statements: list[ast.stmt] = field(default_factory=list)
    """Those that changed inside the functions: the new ones."""
    beyond: bool = False
    """Something else differs, such as a decorator."""


def changes(old: str, new: str) -> Changes:
    found = Changes()
    _compare(ast.parse(old).body, ast.parse(new).body, "", found)
    return found


def _compare(old: list[ast.stmt], new: list[ast.stmt], within: str, found: Changes) -> None:
    if len(old) != len(new):
        found.beyond = True
        names = {name: node for node in old if (name := _defined(node))}
        pairs = [(names[name], node) for node in new if (name := _defined(node)) in names]
    else:
        pairs = [*zip(old, new, strict=True)]
    for before, after in pairs:
        if ast.dump(before) == ast.dump(after):
            continue
        if isinstance(before, _Function) and isinstance(after, _Function) and _same_outside(before, after):
            found.functions.add(within + before.name)
            unchanged = {ast.dump(statement) for statement in before.body}
            found.statements += [one for one in after.body if ast.dump(one) not in unchanged]
        elif (
            isinstance(before, ast.ClassDef)
            and isinstance(after, ast.ClassDef)
            and _same_outside(before, after)
        ):
            _compare(before.body, after.body, f"{within}{before.name}.", found)
        elif (name := _assigned(before)) is not None and name == _assigned(after):
            found.names.add(within + name)
        else:
            found.beyond = True


def _same_outside(old: ast.stmt, new: ast.stmt) -> bool:
    def outside(node: ast.stmt) -> list[str]:
        return [
            ast.dump(value)
            if isinstance(value, ast.AST)
            else repr([ast.dump(one) if isinstance(one, ast.AST) else one for one in value])
            if isinstance(value, list)
            else repr(value)
            for name, value in ast.iter_fields(node)
            if name != "body"
        ]

    return outside(old) == outside(new)


def _defined(node: ast.stmt) -> str | None:
    return node.name if isinstance(node, _Function | ast.ClassDef) else _assigned(node)


def _assigned(node: ast.stmt) -> str | None:
    target = node.targets[0] if isinstance(node, ast.Assign) else getattr(node, "target", None)
    return (
        target.id if isinstance(target, ast.Name) and isinstance(node, ast.Assign | ast.AnnAssign) else None
    )


def _mentions(node: ast.AST) -> set[str]:
    return {
        one.id if isinstance(one, ast.Name) else one.attr
        for one in ast.walk(node)
        if isinstance(one, ast.Name | ast.Attribute)
    }


def _attributes(node: ast.AST) -> set[str]:
    return {one.attr for one in ast.walk(node) if isinstance(one, ast.Attribute)}


def _calls(node: ast.AST) -> set[str]:
    return {
        one.func.id for one in ast.walk(node) if isinstance(one, ast.Call) and isinstance(one.func, ast.Name)
    }


def _targets(node: ast.stmt) -> set[str]:
    targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
    return {
        one.id if isinstance(one, ast.Name) else one.attr
        for target in targets
        if target is not None
        for one in ast.walk(target)
        if isinstance(one, ast.Name | ast.Attribute) and getattr(one, "id", "") != "self"
    }


@dataclass(frozen=True)
class _Step:
    """An assignment that runs long before its value is used, in a function of `path` or in none."""

    path: str
    function: str
    targets: frozenset[str]
    mentions: frozenset[str]
    calls: frozenset[str] = frozenset()
    attributes: frozenset[str] = frozenset()
    plain: bool = False
    """The assignment to one name of the module: it can be repeated."""


class Mentions:
    """The names in all files below `src`."""

    def __init__(self, root: Path) -> None:
        self._trees = {
            file.relative_to(root).as_posix(): ast.parse(file.read_text(encoding="utf-8"))
            for file in sorted((root / "src").rglob("*.py"))
            if "/testing/" not in file.as_posix()
        }

    @cached_property
    def functions(self) -> dict[tuple[str, str], frozenset[str]]:
        """The names that each function mentions, by its file and qualified name."""
        found: dict[tuple[str, str], frozenset[str]] = {}
        for path, tree in self._trees.items():
            for name, node in _functions(tree, ""):
                found[path, name] = frozenset(_mentions(node))
        return found

    @cached_property
    def steps(self) -> list[_Step]:
        found: list[_Step] = []
        for path, tree in self._trees.items():
            for node, plain in _run_at_import(tree):
                targets = frozenset(_targets(node))
                mentions = frozenset(_mentions(node)) - targets
                calls, attributes = frozenset(_calls(node)), frozenset(_attributes(node))
                found.append(_Step(path, "", targets, mentions, calls, attributes, plain))
            for name, function in _functions(tree, ""):
                if name.endswith("__init__"):
                    found += [
                        _Step(path, name, frozenset(_targets(node)), frozenset(_mentions(node)))
                        for node in function.body
                    ]
        return found

    def spread(self, names: set[str], *, at_import: bool = False, within: str = "") -> set[str]:
        """All names whose values are made of these, by assignments of modules, classes and `__init__`s."""
        steps = [
            step for step in self.steps if not (at_import and step.function) and step.path.startswith(within)
        ]
        before = 0
        while len(names) > before:
            before = len(names)
            for step in steps:
                if step.mentions & names:
                    names = names | step.targets
        return names

    def concerned(self, path: str, changed: Changes, called: Container[str]) -> set[tuple[str, str]]:
        """The functions whose callers would notice: the changed ones, or those that use what they made.

        `called` has those that tests call, like ``path:name``.
        """
        direct = {(path, name) for name in changed.functions if not _makes_statements(name)}
        names = {name.rpartition(".")[2] for name in changed.names}
        for name in changed.functions:
            if _makes_statements(name):
                names |= set().union(*map(_targets, changed.statements)) if changed.statements else set()
            elif f"{path}:{name}" not in called:
                names.add(name.rpartition(".")[2])
        if not names:
            return direct
        # Engines are used through their methods alone, and names like `get` are everywhere.
        within = f"{path.partition('/engines/')[0]}/engines/" if "/engines/" in path else ""
        names = self.spread(names, within=within)
        return direct | {
            (where, name)
            for (where, name), mentioned in self.functions.items()
            if mentioned & names and where.startswith(within) and not _makes_statements(name)
        }


def _makes_statements(name: str) -> bool:
    return name.endswith("Statements.__init__")


def _functions(tree: ast.AST, within: str) -> Iterator[tuple[str, _Function]]:
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, _Function):
            yield within + node.name, node
        elif isinstance(node, ast.ClassDef):
            yield from _functions(node, f"{within}{node.name}.")
        elif isinstance(node, ast.If | ast.Try | ast.With):
            yield from _functions(node, within)


def _run_at_import(tree: ast.Module) -> Iterator[tuple[ast.stmt, bool]]:
    """Statements of modules and classes; of a definition only what is evaluated at once."""
    for node in tree.body:
        if isinstance(node, ast.Import | ast.ImportFrom):
            continue
        if isinstance(node, _Function | ast.ClassDef):
            outside = [*node.decorator_list]
            if isinstance(node, _Function):
                outside += [*node.args.defaults, *filter(None, node.args.kw_defaults)]
            else:
                outside += [
                    one.value
                    for one in node.body
                    if isinstance(one, ast.Assign | ast.AnnAssign) and one.value
                ]
            for value in outside:
                yield ast.Expr(value), False
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            yield node, _assigned(node) is not None
        else:
            yield node, False


def computed(mentions: Mentions, path: str, changed: Changes) -> Mapping[tuple[str, str], bool]:
    """Names to be computed again, with the paths of their modules; False for what cannot be repeated."""
    imported = [step for step in mentions.steps if not step.function]
    start = {name.rpartition(".")[2] for name in changed.names}
    for name in changed.functions:
        owner, _, last = name.rpartition(".")
        if not owner or any(last in step.attributes for step in imported):
            start.add(last)
    kinds = {name.partition(".")[0] for name in changed.functions if "." in name}
    start |= {kind for kind in kinds if any(kind in step.calls for step in imported)}
    start = mentions.spread(start, at_import=True)
    result = {(path, name): True for name in changed.names if "." not in name}
    for step in imported:
        if step.mentions & start:
            for target in step.targets or {"?"}:
                result[step.path, target] = step.plain
    return result
