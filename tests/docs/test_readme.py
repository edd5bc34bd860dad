"""The README runs, and says what is true."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import pytest
import typer.main

from assistly.cli import app
from assistly.storage import StorageError, StorageSettings, errors
from assistly.storage.variables import WebSettings

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
START = "python3 -m venv .venv && "
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "CHANGELOG.md",
    *sorted(ROOT.glob("docs/**/*.md")),
]


@pytest.fixture
def _empty_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for variable in os.environ:
        if variable.startswith(("STORAGE_", "RETENTION_", "SCHEDULE_", "SQLITE_", "DATABASE_")):
            monkeypatch.delenv(variable)
    monkeypatch.setenv("STORAGE_ENGINE", "memory")
    monkeypatch.chdir(tmp_path)


@pytest.mark.usefixtures("_empty_environment")
def test_the_examples_run_in_order() -> None:
    blocks = [*re.finditer(r"^```python\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)]
    assert len(blocks) > 10
    namespace: dict[str, Any] = {"__name__": "readme"}
    try:
        for block in blocks:
            # As many empty lines as there are above it, so that a traceback names the line.
            above = "\n" * README.count("\n", 0, block.start(1))
            exec(compile(above + block[1], "README.md", "exec"), namespace)
    finally:
        if "storage" in namespace:
            namespace["storage"].close()


@pytest.mark.parametrize("which", ["demo", "test"])
def test_the_commands_are_one_line_for_a_fresh_machine(which: str) -> None:
    [command] = re.findall(rf"^<!-- the {which} command -->\n```sh\n(.*)\n```$", README, re.MULTILINE)
    assert command.startswith(START)
    assert "-c constraints.txt" in command


def test_the_settings_are_all_there_with_their_defaults() -> None:
    documented = dict(re.findall(r"^\| `([A-Z_]+)` \| (?:`(.+?)`)? ?\|", README, re.MULTILINE))
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
    table = README.partition("## Errors")[2].partition("\n## ")[0]
    documented = re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)
    classes = [value for value in vars(errors).values() if isinstance(value, type)]
    assert set(documented) == {
        kind.__name__ for kind in classes if issubclass(kind, StorageError) and kind is not StorageError
    }


def test_the_commands_of_the_operator_are_all_there() -> None:
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    shown = {name for name, command in commands.items() if not command.hidden}
    assert set(re.findall(r"`assistly ([a-z-]+)", README)) == shown


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    anchors = {_anchor(title) for title in re.findall(r"^#+ (.+)$", text, re.MULTILINE)}
    for target in re.findall(r"\]\(([^)]+)\)", text):
        if target.startswith("#"):
            assert target[1:] in anchors, target
        elif "://" not in target:
            assert (page.parent / target.partition("#")[0]).exists(), target


def _anchor(title: str) -> str:
    return re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")
