"""The reference in docs/reference names what the code has, and nothing else."""

from __future__ import annotations

import inspect
import re
import tomllib
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest
import typer.main

from assistly.cli import app
from assistly.storage import StorageError, StorageSettings, errors
from assistly.storage.stores.queue import Queue
from assistly.storage.variables import WebSettings
from docs import command_pages
from docs.blocks import ROOT

REFERENCE = ROOT / "docs" / "reference"
MODULES = [
    "assistly.storage",
    "assistly.storage.aio",
    "assistly.storage.engine",
    "assistly.storage.testing",
    "assistly.worker",
    "assistly.web",
    "assistly.monitoring",
    "assistly.doctor",
    "assistly.otel",
    "assistly.pytest_plugin",
    "assistly.integrations.aiogram",
    "assistly.integrations.fastapi",
    "assistly.integrations.telegram",
]


def text(name: str) -> str:
    return (REFERENCE / name).read_text(encoding="utf-8")


def test_the_settings_are_all_there_with_their_defaults() -> None:
    documented = dict(re.findall(r"^\| `([A-Z_]+)` \| (?:`(.+?)`)? ?\|", text("settings.md"), re.MULTILINE))
    assert documented == {
        str(field.validation_alias): _spelled(field.default)
        for settings in (StorageSettings, WebSettings)
        for field in settings.model_fields.values()
    }


def _spelled(default: object) -> str:
    if default is None:
        return ""
    return str(default).lower() if isinstance(default, bool) else str(default)


def test_the_errors_are_all_there() -> None:
    documented = re.findall(r"^\| `(\w+)` \|", text("errors.md"), re.MULTILINE)
    classes = [value for value in vars(errors).values() if isinstance(value, type)]
    assert set(documented) == {
        kind.__name__ for kind in classes if issubclass(kind, StorageError) and kind is not StorageError
    }


def test_the_extras_are_all_there() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    cells = re.findall(r"^\| (`.+?`) \|", text("extras.md"), re.MULTILINE)
    assert {*re.findall(r"`(\w+)`", " ".join(cells))} == {*project["optional-dependencies"]}


def test_the_commands_are_all_in_the_table() -> None:
    table = text("commands.md").partition("## Options")[0]
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    shown = {name for name, command in commands.items() if not command.hidden}
    assert set(re.findall(r"`assistly ([a-z-]+)", table)) == shown


def test_the_options_of_the_commands_are_up_to_date() -> None:
    page = text("commands.md")
    assert page.count(command_pages.BEGIN) == page.count(command_pages.END) == 1
    assert command_pages.written(page) == page, "write them anew: python -m tests.docs.command_pages"


def _documented() -> Iterator[tuple[str, str]]:
    """The module and the name in each directive of autodoc."""
    for page in [*(REFERENCE / "api").glob("*.md"), REFERENCE / "errors.md"]:
        directives = r"^\.\. auto(?:class|exception|function|data):: ([\w.]+)\.(\w+)$"
        yield from re.findall(directives, page.read_text(encoding="utf-8"), re.MULTILINE)
    # What `automodule` brings.
    yield from (("assistly.storage.errors", name) for name in vars(errors))


@pytest.mark.parametrize("module", MODULES)
def test_every_public_name_has_an_entry(module: str) -> None:
    documented = {(where, name) for where, name in _documented() if where.startswith("assistly.")}
    missing = []
    for name in import_module(module).__all__:
        value = getattr(import_module(module), name)
        homes = [where for where, other in documented if other == name]
        if not any(getattr(import_module(where), name) is value for where in homes):
            missing.append(name)
    assert missing == []


def test_the_entries_exist() -> None:
    for module, name in _documented():
        assert hasattr(import_module(module), name), f"{module}.{name}"


def test_what_the_pages_import_has_an_entry() -> None:
    pages = [path.read_text(encoding="utf-8") for path in (REFERENCE / "api").glob("*.md")]
    whole = re.findall(r"^\.\. automodule:: ([\w.]+)\n(?!   :no-members:)", "\n".join(pages), re.MULTILINE)
    documented = {name for _, name in _documented()}
    missing = set()
    for page in [ROOT / "README.md", *(ROOT / "docs").glob("**/*.md")]:
        imports = r"^from (assistly[\w.]*) import ([\w, ]+)$"
        for module, names in re.findall(imports, page.read_text(encoding="utf-8"), re.MULTILINE):
            if module not in whole:
                missing |= {
                    name for name in names.split(", ") if f"{module}.{name}" not in MODULES
                } - documented
    assert missing == set()


def test_the_page_about_the_stores_names_every_method_of_the_queue() -> None:
    page = (ROOT / "docs" / "how-to" / "stores.md").read_text(encoding="utf-8")
    methods = [name for name, _ in inspect.getmembers(Queue, inspect.isfunction) if not name.startswith("_")]
    assert [name for name in methods if not re.search(rf"\b{name}\b", page)] == []


def test_the_three_unknowns_are_told_apart() -> None:
    rows = re.findall(r"^\| \*\*`?(.+?)`?\*\* \|", text("glossary.md"), re.MULTILINE)
    assert rows == ["unknown outcome", "OutcomeUnknown", "Unknown"]


def test_the_words_of_the_glossary_are_in_order() -> None:
    words = re.findall(r"^\*\*(\w[\w ]*)\*\*: ", text("glossary.md"), re.MULTILINE)
    assert len(words) > 20
    assert words == sorted(words, key=str.lower)


def test_every_page_is_on_the_site() -> None:
    """Each is named in docs/index.md or a page below it, or matched by a pattern there."""
    docs = ROOT / "docs"
    named: set[Path] = {docs / "index.md"}
    waiting = [docs / "index.md"]
    while waiting:
        page = waiting.pop()
        for tree in re.findall(r"```\{toctree\}\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL):
            for entry in re.findall(r"^[\w*/-]+$", tree, re.MULTILINE):
                found = {*page.parent.glob(f"{entry}.md")}
                assert found, f"{page.name}: {entry}"
                waiting += found - named
                named |= found
    assert {*docs.glob("**/*.md")} - named == set()
