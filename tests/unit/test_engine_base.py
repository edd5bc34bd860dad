"""What engines inherit, where every engine of this package has its own."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from assistly.storage.engine.base import POLL_SECONDS, jobs
from assistly.storage.engines.memory import MemoryBackend


@pytest.mark.parametrize(("timeout", "slept"), [(30.0, POLL_SECONDS), (POLL_SECONDS / 2, POLL_SECONDS / 2)])
def test_a_wait_that_cannot_notice_changes_is_short(
    monkeypatch: pytest.MonkeyPatch, timeout: float, slept: float
) -> None:
    store: Any = MemoryBackend().jobs
    sleeps: list[float] = []
    monkeypatch.setattr(jobs, "time", SimpleNamespace(sleep=sleeps.append))
    jobs.JobStoreBase.wait(store, timeout)
    assert sleeps == [slept]
