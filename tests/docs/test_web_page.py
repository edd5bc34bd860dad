"""docs/web.md says what is true, and its example runs."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import typer.main

from assistly.cli import app as command
from assistly.storage.variables import WebSettings
from assistly.web.access import SHORTEST_TOKEN
from web.browsing import Browser
from web.filling import fill

PAGE = Path(__file__).resolve().parents[2] / "docs" / "web.md"
TEXT = PAGE.read_text(encoding="utf-8")


def test_the_example_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    (block,) = re.findall(r"^```python\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)
    names: dict[str, Any] = {"__name__": "page"}
    exec(compile(block, str(PAGE), "exec"), names)
    with names["storage"] as storage:
        found = fill(storage)
        path = f"/assistly/jobs/{found.waiting.id}"
        stranger, ann, bob = (
            Browser(names["app"], base="https://app.example", address="10.0.0.9") for _ in "abc"
        )
        ann.cookies.set("login", "key-of-ann")
        bob.cookies.set("login", "key-of-bob")
        assert [browser.get(path).status_code for browser in (stranger, ann, bob)] == [403, 200, 200]
        assert not any("cancel" in form.action for form in bob.open(path).forms)
        response = ann.send(ann.open(path).form(f"{path}/cancel"), note="the text is wrong")
        assert (response.status_code, response.headers["location"]) == (303, path)
        assert storage.events.list()[0].payload["by"] == "ann"
        monkeypatch.setenv("STORAGE_ENGINE", "memory")
        assert "connection" in ann.open("/assistly/doctor").text


def test_the_variables_are_there() -> None:
    variables = {str(field.validation_alias) for field in WebSettings.model_fields.values()}
    assert set(re.findall(r"^\| `(WEB_\w+)` \|", TEXT, re.MULTILINE)) == variables
    assert f"at least {SHORTEST_TOKEN} characters" in TEXT


def test_the_commands_exist() -> None:
    group: Any = typer.main.get_command(command)
    options = {name for option in group.commands["web"].params for name in option.opts}
    assert set(re.findall(r"(?<![-\w])--[a-z][a-z-]+", TEXT)) - {"--type"} <= options
