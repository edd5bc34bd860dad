"""The examples of docs/testing.md run."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from assistly.storage.testing import faults

PAGE = (Path(__file__).parents[2] / "docs" / "testing.md").read_text(encoding="utf-8")


def test_the_examples_run_in_order() -> None:
    blocks = re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    assert len(blocks) == 3
    namespace: dict[str, Any] = {"__name__": "testing"}
    for block in blocks:
        exec(compile(block, "testing.md", "exec"), namespace)


def test_the_actions_are_those_of_the_module() -> None:
    named = re.findall(r"^\| `(\w+)\(", PAGE, re.MULTILINE)
    assert named == ["fail_with", "lose_reply", "delay", "die"]
    assert all(callable(getattr(faults, name)) for name in named)
