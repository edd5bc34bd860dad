"""docs/testing.md names the actions that there are."""

from __future__ import annotations

import re
from pathlib import Path

from assistly.storage.testing import faults

PAGE = (Path(__file__).parents[2] / "docs" / "testing.md").read_text(encoding="utf-8")


def test_the_actions_are_those_of_the_module() -> None:
    named = re.findall(r"^\| `(\w+)\(", PAGE, re.MULTILINE)
    assert named == ["fail_with", "lose_reply", "delay", "die"]
    assert all(callable(getattr(faults, name)) for name in named)
