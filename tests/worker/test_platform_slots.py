"""The slots of a platform with a limit, as one worker holds them."""

from __future__ import annotations

import threading
from datetime import timedelta

from assistly.storage import MemoryBackend, Storage
from assistly.storage.testing.faults import Fault, FaultyBackend
from assistly.worker.slots import PlatformSlots

LONG = 30.0


def test_a_slot_is_not_taken_while_it_is_being_released() -> None:
    """The release would end the new hold, too, and another worker could publish beside it."""
    backend = FaultyBackend(MemoryBackend())
    with Storage(backend, auto_prune=False) as storage:
        mine, others = (PlatformSlots(storage, owner, {"x": 1}, timedelta(minutes=1)) for owner in "ab")
        (slot,) = mine.acquire("x", 1)
        releasing, go_on = threading.Event(), threading.Event()

        def hold_up(_: object) -> None:
            releasing.set()
            assert go_on.wait(LONG)

        backend.inject(Fault(hold_up, method="lock.release"))
        thread = threading.Thread(target=mine.release, args=([slot],))
        thread.start()
        assert releasing.wait(LONG)
        assert mine.acquire("x", 1) == []
        go_on.set()
        thread.join(LONG)
        assert others.acquire("x", 1) == [slot]
        assert mine.acquire("x", 1) == []
