"""One failure on a mutant is enough: the rest of its class is left out."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from . import engine

_failed: set[Any] = set()

_SHORT = 1.0
"""Seconds that a test waits in vain on a mutant, in place of ten."""


@pytest.fixture(autouse=True, scope="session")
def _short_waits() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("assistly.storage.testing.engine_contract._TIMEOUT", _SHORT)
        patch.setattr("assistly.storage.testing.store_contract._LONGEST_WAIT", _SHORT)
        patch.setattr("assistly.storage.testing.fork_contract._AT_ONCE", _SHORT / 2)
        patch.setattr(engine, "_LOCK_SECONDS", _SHORT)
        yield


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
