"""An engine on `BackendBase` that keeps no documents serves all other stores."""

from __future__ import annotations

import pytest

from assistly.storage import ConfigurationError
from assistly.storage.engine.base import BackendBase
from assistly.storage.testing import FakeClock, open_for_test
from assistly.storage.testing.fixtures import MINUTE, START
from contract.mutants.stores import NaiveEngine


def test_what_needs_documents_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(NaiveEngine, "documents_type", lambda *_: BackendBase.documents)
    storage = open_for_test(NaiveEngine(), FakeClock())
    job = storage.queue.schedule("x", "a")
    for call in (
        lambda: storage.platforms.pause("x"),
        lambda: storage.platforms.pause_at_least("x", START + MINUTE),
        lambda: storage.platforms.limit("x", 1, MINUTE),
        lambda: storage.schedules.put("s", "x", "a", every=MINUTE),
    ):
        with pytest.raises(ConfigurationError, match="documents need protocol version 2"):
            call()
    assert storage.platforms.get("x") is None
    assert storage.platforms.list() == []
    assert storage.platforms.resume("x") is False
    assert storage.platforms.take("x", 5) == 5
    storage.platforms.give_back("x", 5)
    assert storage.schedules.get("s") is None
    assert storage.schedules.list() == []
    assert storage.schedules.remove("s") is False
    assert storage.schedules.run() == [], "a worker calls it"
    assert storage.queue.wait(0) is True
    assert [claimed.id for claimed in storage.queue.claim_due(worker_id="w")] == [job.id]
