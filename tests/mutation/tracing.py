"""Which functions of the package are called: each gets a first statement that says so, at import."""

from __future__ import annotations

import ast
import builtins
import sys
from importlib.machinery import SourceFileLoader
from pathlib import Path
from typing import Any

_NAME = "_assistly_reached"


class Tracer:
    """Has to be made before the package is imported. What runs in other processes is not seen."""

    def __init__(self, root: Path) -> None:
        self._source = f"{root}/src/"
        self._root = f"{root}/"
        self._places: list[str] = []
        self._reached: set[int] = set()
        self._around: set[int] = set()
        self._own: set[int] = set()
        self._spawns = False
        setattr(builtins, _NAME, self._reached.add)
        sys.addaudithook(self._hear)
        sys.pycache_prefix = f"{root}/.traced"
        plain = SourceFileLoader.source_to_code
        tracer = self

        def source_to_code(loader: SourceFileLoader, data: Any, path: Any, **options: Any) -> Any:
            if str(path).startswith(tracer._source):
                data = ast.parse(data)
                tracer._mark(data, f"{str(path).removeprefix(tracer._root)}:")
            return plain(loader, data, path, **options)

        SourceFileLoader.source_to_code = source_to_code  # type: ignore[assignment, method-assign]

    def start(self) -> None:
        self._reached.clear()
        self._around.clear()
        self._own.clear()
        self._spawns = False

    def call(self) -> None:
        """From here to `called` the test itself runs, and not its fixtures."""
        self._around.update(self._reached)
        self._reached.clear()

    def called(self) -> None:
        self._own.update(self._reached)

    def stop(self) -> dict[str, Any]:
        around = (self._around | self._reached) - self._own
        return {
            "functions": [self._places[number] for number in sorted(self._own)],
            "around": [self._places[number] for number in sorted(around)],
            "spawns": self._spawns,
        }

    def _mark(self, tree: ast.AST, within: str) -> None:
        for node in ast.iter_child_nodes(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                call = ast.parse(f"{_NAME}({len(self._places)})").body[0]
                self._places.append(within + node.name)
                has_docstring = ast.get_docstring(node, clean=False) is not None
                node.body.insert(int(has_docstring), call)
                for inner in ast.walk(call):
                    ast.copy_location(inner, node.body[-1])
            elif isinstance(node, ast.ClassDef):
                self._mark(node, f"{within}{node.name}.")
            elif isinstance(node, ast.If | ast.Try | ast.With):
                self._mark(node, within)

    def _hear(self, event: str, arguments: tuple[object, ...]) -> None:
        if event in ("os.fork", "os.posix_spawn", "subprocess.Popen"):
            self._spawns = True
