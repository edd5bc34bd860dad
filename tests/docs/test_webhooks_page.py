"""docs/webhooks.md runs."""

from __future__ import annotations

import re
from pathlib import Path

PAGE = Path(__file__).resolve().parents[2] / "docs" / "webhooks.md"


def test_the_example_runs() -> None:
    (block,) = re.findall(
        r"^```python\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL
    )
    exec(compile(block, str(PAGE), "exec"), {"__name__": "page"})
