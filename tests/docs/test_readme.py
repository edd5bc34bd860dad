"""The README is short, and its commands are what continuous integration runs."""

from __future__ import annotations

import re

import pytest

from docs.blocks import ROOT, blocks

README = (ROOT / "README.md").read_text(encoding="utf-8")
START = "python3 -m venv .venv && "


@pytest.mark.parametrize("which", ["demo", "test"])
def test_the_commands_are_one_line_for_a_fresh_machine(which: str) -> None:
    [command] = re.findall(rf"^<!-- the {which} command -->\n```sh\n(.*)\n```$", README, re.MULTILINE)
    assert command.startswith(START)
    assert "-c constraints.txt" in command


def test_it_is_read_in_minutes() -> None:
    assert README.count("\n") <= 150
    words = len(re.sub(r"```.*?```", "", README, flags=re.DOTALL).split())
    assert 400 <= words <= 700


def test_its_example_has_a_worker() -> None:
    [example] = blocks(ROOT / "README.md")
    assert "Worker(" in example.code
    assert example.code.count("\n") <= 20
