"""One failure in a class is enough: the rest of that class is left out."""

from __future__ import annotations

from typing import Any

import pytest

_failed: set[Any] = set()


def pytest_runtest_setup(item: pytest.Function) -> None:
    if item.cls in _failed:
        pytest.skip("this class has found its bug already")


def pytest_runtest_makereport(item: pytest.Function, call: pytest.CallInfo[None]) -> None:
    if call.when == "call" and call.excinfo is not None:
        _failed.add(item.cls)
