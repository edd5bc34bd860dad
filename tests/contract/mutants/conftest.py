"""One failure on a mutant is enough: the rest of its class is left out."""

from __future__ import annotations

from typing import Any

import pytest

_failed: set[Any] = set()


def pytest_runtest_setup(item: pytest.Function) -> None:
    if item.cls in _failed:
        pytest.skip("another test of this class has found the mutant: one is what is asked of the suite")


def pytest_runtest_makereport(item: pytest.Function, call: pytest.CallInfo[None]) -> None:
    if (
        call.when == "call"
        and call.excinfo is not None
        and not call.excinfo.errisinstance(pytest.skip.Exception)
    ):
        _failed.add(item.cls)
