"""What is said to a worker whose claim does not hold any more."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest

from assistly.storage import ClaimLost, Job, MemoryBackend, Storage

START = datetime(2026, 3, 1, 12, tzinfo=UTC)
LATER = START + timedelta(hours=1)


def _claimed_again(storage: Storage, job: Job) -> None:
    storage.queue.release(job)
    storage.queue.claim_due(worker_id="other", now=LATER)


FOUND: dict[str, Callable[[Storage, Job], object]] = {
    "it was removed": lambda storage, job: storage.queue.remove(job.id),
    "it is now cancelled": lambda storage, job: storage.queue.cancel(job.id),
    "it was claimed again by 'other'": _claimed_again,
    "its lease expired at 2026-03-01 12:05:00+00:00": lambda storage, job: None,
}


@pytest.mark.parametrize("found", FOUND)
def test_what_was_found(found: str) -> None:
    with Storage(MemoryBackend(), clock=lambda: START, auto_prune=False) as storage:
        storage.queue.schedule("x", "hello")
        (job,) = storage.queue.claim_due(worker_id="one")
        FOUND[found](storage, job)
        with pytest.raises(ClaimLost) as caught:
            storage.queue.begin_publish(job, now=LATER)
    assert str(caught.value) == f"claim 1 on job 1 is lost: {found}; nothing was changed"
