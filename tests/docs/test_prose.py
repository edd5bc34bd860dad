"""Phrases that readers stumble over, and better ones: in docs, in `--help` and in public docstrings."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from importlib import import_module
from pkgutil import iter_modules

import pytest

from assistly.storage import stores
from docs import command_pages
from docs.blocks import PAGES, ROOT
from docs.test_reference import MODULES

INSTEAD = {
    r"anew": "again",
    r"of (?:no|any) use": "useless, useful",
    r"is up to you": "you …",
    r"if need be": "if it is missing",
    r"had its attempts": "failed … times",
    r"all the same,?": "anyway, even then",
    r"mend(?:s|ed|ing)?": "fix, repair",
    r"whoever": "everybody who, the caller that",
    r"who has \w+": "people who have …",
    r"time-outs?": "timeout",
    r"trouble": "problem",
    r"of course|obviously|simply": "nothing: the reader decides",
    r"an error that names the command": "raises …; run …",
    r"tried again": "retried",
    r"roll-outs?": "rollout",
}
STORES = [f"assistly.storage.stores.{module.name}" for module in iter_modules(stores.__path__)]
NOT_FOR_USERS = (
    "docs/decisions/",
    "docs/mutants.md",
    "docs/simulation.md",
    "docs/reliability.md",
    "CHANGELOG.md",
)


def _pages() -> Iterator[tuple[str, str]]:
    for page in PAGES:
        name = str(page.relative_to(ROOT))
        if not name.startswith(NOT_FOR_USERS):
            yield (
                name,
                re.sub(r"^ *```.*?^ *```$", "", page.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL),
            )


def _help() -> Iterator[tuple[str, str]]:
    for name, command in command_pages.commands():
        yield name, "\n".join([command.help or "", *(option.help or "" for option in command.params)])


def _docstrings() -> Iterator[tuple[str, str]]:
    for module in [*MODULES, *STORES]:
        yield module, inspect.getdoc(import_module(module)) or ""
        for name in getattr(import_module(module), "__all__", vars(import_module(module))):
            value = getattr(import_module(module), name)
            if inspect.isfunction(value) or inspect.isclass(value):
                yield f"{module}.{name}", inspect.getdoc(value) or ""
            if inspect.isclass(value) and value.__module__.startswith("assistly."):
                for member, function in inspect.getmembers(value, inspect.isfunction):
                    if not member.startswith("_"):
                        yield f"{module}.{name}.{member}", inspect.getdoc(function) or ""


TEXTS = {"pages": _pages, "help": _help, "docstrings": _docstrings}


def found(text: str) -> list[str]:
    prose = " ".join(re.sub(r"`[^`]*`", "`…`", text).split())
    return [
        f"{match[0]!r} ({instead}): …{prose[max(0, match.start() - 40) : match.end() + 20]}…"
        for pattern, instead in INSTEAD.items()
        for match in re.finditer(rf"\b(?:{pattern})\b", prose, re.IGNORECASE)
    ]


@pytest.mark.parametrize("kind", TEXTS)
def test_nothing_reads_like_a_translation(kind: str) -> None:
    phrases = [f"{name}: {phrase}" for name, text in TEXTS[kind]() for phrase in found(text)]
    assert phrases == []


def test_code_is_no_prose() -> None:
    assert found("The field `mend` says it.") == []
    assert len(found("Mend it,\nor make it\nanew.")) == 2
