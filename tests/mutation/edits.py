"""One edit of a source file, and what a mutant is made of."""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property


@dataclass(frozen=True)
class Edit:
    """Replace `text[start:end]` by `new`."""

    start: int
    end: int
    new: str
    operator: str


@dataclass(frozen=True)
class Mutant:
    """`files` has the whole new text of each changed file, by its path in the repository; None: deleted."""

    id: str
    files: Mapping[str, str | None]
    line: int
    what: str


class Source:
    """A Python file with positions as offsets in its text, which is what edits need."""

    def __init__(self, path: str, text: str) -> None:
        self.path = path
        self.text = text
        self.tree = ast.parse(text, path)

    @cached_property
    def _lines(self) -> list[tuple[int, str]]:
        offset, lines = 0, []
        for line in self.text.splitlines(keepends=True):
            lines.append((offset, line))
            offset += len(line)
        return lines

    def offset(self, line: int, column: int) -> int:
        """`ast` counts columns in bytes."""
        start, text = self._lines[line - 1]
        return start + (column if text.isascii() else len(text.encode()[:column].decode()))

    def span(self, node: ast.expr | ast.stmt) -> tuple[int, int]:
        assert node.end_lineno is not None
        assert node.end_col_offset is not None
        return self.offset(node.lineno, node.col_offset), self.offset(node.end_lineno, node.end_col_offset)

    def segment(self, node: ast.expr | ast.stmt) -> str:
        start, end = self.span(node)
        return self.text[start:end]

    def line_of(self, offset: int) -> int:
        return self.text.count("\n", 0, offset) + 1

    @cached_property
    def places(self) -> list[tuple[int, int, str]]:
        """The first and last line of each named part and its name: functions, classes, assignments."""
        places: list[tuple[int, int, str]] = []

        def walk(node: ast.AST, within: str) -> None:
            for child in ast.iter_child_nodes(node):
                name = _name_of(child, within)
                if name and isinstance(child, ast.stmt):
                    places.append((child.lineno, child.end_lineno or child.lineno, name))
                walk(child, name or within)

        walk(self.tree, "")
        return places

    def place_of(self, line: int) -> str:
        inside = [(last - first, name) for first, last, name in self.places if first <= line <= last]
        return min(inside)[1] if inside else "module"


def _name_of(node: ast.AST, within: str) -> str | None:
    prefix = f"{within}." if within else ""
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return prefix + node.name
    if isinstance(node, ast.Assign | ast.AnnAssign):
        target = node.targets[0] if isinstance(node, ast.Assign) else node.target
        if isinstance(target, ast.Attribute):
            return prefix + target.attr
        if isinstance(target, ast.Name) and (not within or within.split(".")[-1][:1].isupper()):
            return prefix + target.id
    return None


def shown(text: str) -> str:
    """On one line, not too long."""
    flat = re.sub(r"\s+", " ", text).strip()
    return flat if len(flat) <= 60 else f"{flat[:57]}..."
