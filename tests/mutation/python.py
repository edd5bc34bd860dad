"""Edits of Python expressions and statements."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from .edits import Edit, Source

_COMPARED: dict[type[ast.cmpop], tuple[str, str, str]] = {
    ast.Lt: ("<", "<=", "lt-le"),
    ast.LtE: ("<=", "<", "le-lt"),
    ast.Gt: (">", ">=", "gt-ge"),
    ast.GtE: (">=", ">", "ge-gt"),
    ast.Eq: ("==", "!=", "eq-ne"),
    ast.NotEq: ("!=", "==", "ne-eq"),
    ast.Is: ("is", "is not", "is"),
    ast.IsNot: ("is not", "is", "is-not"),
    ast.In: ("in", "not in", "in"),
    ast.NotIn: ("not in", "in", "not-in"),
}
_ARITHMETIC: dict[type[ast.operator], tuple[str, str]] = {
    ast.Add: ("+", "-"),
    ast.Sub: ("-", "+"),
    ast.Mult: ("*", "+"),
    ast.FloorDiv: ("//", "*"),
}
_SWAPPED = {"min": "max", "max": "min", "any": "all", "all": "any", "sorted": "list", "reversed": "list"}
_LEFT_ALONE = re.compile(r"^(_?log(ger)?|warnings|_LOG\w*)\.|^super\(\)\.__init__")


def python_edits(source: Source) -> Iterator[Edit]:
    yield from _walk(source, source.tree)


def _walk(source: Source, node: ast.AST) -> Iterator[Edit]:
    """All but types, docstrings, messages of errors and f-strings, whose positions are not exact."""
    if isinstance(node, ast.JoinedStr | ast.Raise | ast.Assert | ast.Import | ast.ImportFrom):
        return
    if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
        return
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name == "__repr__":
        return
    yield from _own(source, node)
    for name, value in ast.iter_fields(node):
        if name in ("annotation", "returns", "decorator_list", "bases"):
            continue
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST):
                yield from _walk(source, child)


def _own(source: Source, node: ast.AST) -> Iterator[Edit]:
    if isinstance(node, ast.Compare) and len(node.ops) == 1:
        old, new, name = _COMPARED[type(node.ops[0])]
        yield from _between(source, node.left, node.comparators[0], old, new, name)
    elif isinstance(node, ast.BinOp) and type(node.op) in _ARITHMETIC:
        old, new = _ARITHMETIC[type(node.op)]
        if not any(
            isinstance(side, ast.Constant | ast.JoinedStr) and not _is_number(side)
            for side in (node.left, node.right)
        ):
            yield from _between(source, node.left, node.right, old, new, "arithmetic")
    elif isinstance(node, ast.BoolOp):
        old, new = ("and", "or") if isinstance(node.op, ast.And) else ("or", "and")
        for left, right in zip(node.values, node.values[1:], strict=False):
            yield from _between(source, left, right, old, new, f"{old}-{new}")
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        start, _ = source.span(node)
        inner, _ = source.span(node.operand)
        yield Edit(start, inner, "", "not")
    elif isinstance(node, ast.Constant):
        yield from _constant(source, node)
    elif isinstance(node, ast.If | ast.While | ast.IfExp) and not isinstance(node.test, ast.Constant):
        start, end = source.span(node.test)
        yield Edit(start, end, f"not ({source.text[start:end]})", "negate")
    elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in _SWAPPED:
        if node.func.id not in ("sorted", "reversed") or not node.keywords:
            start, end = source.span(node.func)
            yield Edit(start, end, _SWAPPED[node.func.id], "function")
    elif isinstance(node, ast.Return) and node.value is not None and not _is_none(node.value):
        start, end = source.span(node.value)
        yield Edit(start, end, "None", "return-none")
    elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Call | ast.Await):
        if not _LEFT_ALONE.match(source.segment(node)):
            yield Edit(*source.span(node), "pass", "drop-call")
    elif isinstance(node, ast.Break | ast.Continue):
        yield Edit(*source.span(node), "pass", "drop-jump")
    elif isinstance(node, ast.AugAssign) and isinstance(node.op, ast.Add | ast.Sub):
        yield Edit(*source.span(node), "pass", "drop-change")
    elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Attribute | ast.Subscript):
        yield from _dropped_assignment(source, node)


def _dropped_assignment(source: Source, node: ast.Assign) -> Iterator[Edit]:
    """Not where an object is made: without the attribute nothing works."""
    if "__init__" not in source.place_of(node.lineno) and "Statements" not in source.place_of(node.lineno):
        yield Edit(*source.span(node), "pass", "drop-assignment")


def _constant(source: Source, node: ast.Constant) -> Iterator[Edit]:
    start, end = source.span(node)
    if isinstance(node.value, bool):
        yield Edit(start, end, str(not node.value), "bool")
    elif isinstance(node.value, int | float) and source.text[start:end][:1].isdigit():
        yield Edit(start, end, f"{node.value + 1}", "number")


def _between(
    source: Source, left: ast.expr, right: ast.expr, old: str, new: str, name: str
) -> Iterator[Edit]:
    _, start = source.span(left)
    end, _ = source.span(right)
    match = re.search(
        r"\s+".join(rf"(?<!\w){re.escape(word)}(?!\w)" for word in old.split()), source.text[start:end]
    )
    if match:
        yield Edit(start + match.start(), start + match.end(), new, name)


def _is_number(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, int | float)


def _is_none(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and node.value is None
