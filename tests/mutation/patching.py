"""Puts a mutant into a process that has imported the package: no test has to be collected again."""

from __future__ import annotations

import sys
from enum import Enum
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import Any

from .changes import Mentions, changes, computed

_PLAIN = (str, bytes, int, float, bool, type(None))


def patch(mentions: Mentions, root: Path, path: str, old: str, new: str) -> bool:
    """True if the process now behaves as if it had imported the new text. If False, it has to import it."""
    module = _module_of(root / path)
    changed = changes(old, new)
    if module is None or changed.beyond:
        return module is None and not changed.beyond
    values = computed(mentions, path, changed)
    if not all(values.values()):
        return False
    code = compile(new, str(root / path), "exec", dont_inherit=True)
    functions = [(_function(module, name), _code(code, name)) for name in sorted(changed.functions)]
    for function, replacement in functions:
        if function is None or replacement is None:
            return False
        if function.__code__.co_freevars != replacement.co_freevars:
            return False
    for function, replacement in functions:
        assert function is not None
        assert replacement is not None
        function.__code__ = replacement
    classes = {name for name in changed.names if "." in name}
    names = {name for where, name in values if where == path}
    if (names or classes) and not _compute_again(module, code, names, classes):
        return False
    others = {where for where, _ in values} - {path}
    for other in [*sys.modules.values()]:  # in the order in which they were imported
        file = getattr(other, "__file__", None) or ""
        if (where := file.removeprefix(f"{root}/")) in others:
            again = compile(Path(file).read_text(encoding="utf-8"), file, "exec", dont_inherit=True)
            if not _compute_again(other, again, {name for place, name in values if place == where}, set()):
                return False
    return True


def _compute_again(module: ModuleType, code: CodeType, names: set[str], attributes: set[str]) -> bool:
    fresh = {name: vars(module)[name] for name in ("__name__", "__package__", "__file__", "__spec__")}
    exec(code, fresh)
    if not all(_is_plain(fresh[name]) for name in names):
        return False
    for name in attributes:
        owner, _, attribute = name.rpartition(".")
        kind: Any = getattr(module, owner, None)
        value = getattr(fresh.get(owner), attribute, _compute_again)
        if kind is None or not _is_plain(value):
            return False
        setattr(kind, attribute, value)
    for name in names:
        was = vars(module)[name]
        for other in [*sys.modules.values()]:
            if getattr(other, "__name__", "").startswith("assistly") and vars(other).get(name) is was:
                setattr(other, name, fresh[name])
    return True


def _is_plain(value: object) -> bool:
    if isinstance(value, dict):
        return all(map(_is_plain, [*value.keys(), *value.values()]))
    if isinstance(value, list | tuple | set | frozenset):
        return all(map(_is_plain, value))
    return type(value) in _PLAIN or isinstance(value, Enum)


def _module_of(file: Path) -> ModuleType | None:
    for module in [*sys.modules.values()]:
        if getattr(module, "__file__", None) == str(file):
            return module
    return None


def _code(code: CodeType, name: str) -> CodeType | None:
    found = [one for one in _all_codes(code) if one.co_qualname == name]
    return found[0] if len(found) == 1 else None


def _all_codes(code: CodeType) -> list[CodeType]:
    inner = [one for one in code.co_consts if isinstance(one, CodeType)]
    return [*inner, *(deep for one in inner for deep in _all_codes(one))]


def _function(module: ModuleType, name: str) -> FunctionType | None:
    value: Any = module
    for part in name.split("."):
        value = vars(value).get(part)
        if value is None:
            return None
    if isinstance(value, property):
        value = value.fget
    while not isinstance(value, FunctionType) or value.__qualname__ != name or hasattr(value, "__wrapped__"):
        inner = (
            getattr(value, "__wrapped__", None)
            or getattr(value, "__func__", None)
            or getattr(value, "func", None)
        )
        if inner is None:
            return None
        value = inner
    return value
