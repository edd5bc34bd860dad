"""What is common to the integrations: frameworks that are missing, and lazy imports."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

from assistly import integrations

FRAMEWORKS = {
    "aiogram": ("aiogram", "aiogram 3.21 or later"),
    "telegram": ("telegram", "python-telegram-bot 22"),
    "fastapi": ("fastapi", "FastAPI"),
    "django": ("django", "Django"),
}


@pytest.mark.parametrize("name", FRAMEWORKS)
def test_a_missing_framework(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    package, needs = FRAMEWORKS[name]
    for module in [*sys.modules]:
        if module.startswith(f"assistly.integrations.{name}") or module.partition(".")[0] == package:
            monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError) as raised:
        importlib.import_module(f"assistly.integrations.{name}")
    message = str(raised.value)
    assert message.startswith(f"assistly.integrations.{name} needs {needs} (")
    assert message.endswith(f"): python -m pip install 'assistly[{name}]'")
    assert "\n" not in message


def test_the_suite_without_hypothesis(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "hypothesis", None)
    for module in [each for each in sys.modules if each.startswith("assistly.storage.testing")]:
        monkeypatch.delitem(sys.modules, module)
    with pytest.raises(
        ImportError,
        match=r"needs pytest and hypothesis \(.*\): python -m pip install 'assistly\[contract\]'$",
    ):
        importlib.import_module("assistly.storage.testing.faults")


def test_each_is_short_and_imported_for_itself() -> None:
    folder = Path(integrations.__file__).parent
    assert all(len(file.read_text(encoding="utf-8").splitlines()) < 120 for file in folder.rglob("*.py"))
    code = "import sys, assistly.integrations.requirements as r; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {*FRAMEWORKS} & {*done.stdout.split()}
