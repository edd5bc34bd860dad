"""`updated_at` follows every change of a job, and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from ..errors import StatusConflict
from ..records import Failed, Job, Posted, Released, Snoozed, Unknown
from ..storage import Storage
from .fixtures import (
    DAY,
    HOUR,
    LEASE,
    MINUTE,
    START,
    Contract,
    FakeClock,
    begun,
    cancelled,
    claim_one,
    dead,
    held,
    retrying,
    unknown,
)


def _scheduled(storage: Storage) -> Job:
    return storage.queue.schedule("x", "a", START)


def _refused(call: Callable[[], object]) -> None:
    with pytest.raises(StatusConflict):
        call()


def _with_lateness(storage: Storage) -> Job:
    return storage.queue.schedule("x", "a", START, max_lateness=MINUTE)


_CHANGES: dict[str, tuple[Callable[[Storage], Job], Callable[[Storage, Job], object]]] = {
    "claim_due": (_scheduled, lambda s, _: claim_one(s)),
    "claim_due that is late": (_with_lateness, lambda s, _: s.queue.claim_due(worker_id="w")),
    "claim_due that takes back": (
        lambda s: held(s, lease=MINUTE),
        lambda s, _: s.queue.claim_due(worker_id="w"),
    ),
    "extend": (held, lambda s, job: s.queue.extend([job], lease=LEASE)),
    "extend to the same time": (held, lambda s, job: s.queue.extend([job], lease=LEASE - 2 * MINUTE)),
    "begin_publish": (held, lambda s, job: s.queue.begin_publish(job)),
    "begin_publish again": (begun, lambda s, job: s.queue.begin_publish(job)),
    "mark_posted": (held, lambda s, job: s.queue.mark_posted(job, "remote")),
    "mark_failed": (held, lambda s, job: s.queue.mark_failed(job, "busy")),
    "mark_failed for good": (held, lambda s, job: s.queue.mark_failed(job, "no", retryable=False)),
    "mark_unknown": (begun, lambda s, job: s.queue.mark_unknown(job, "no answer")),
    "snooze": (held, lambda s, job: s.queue.snooze(job, START + DAY)),
    "release": (held, lambda s, job: s.queue.release(job)),
    "settle posted": (held, lambda s, job: s.queue.settle([Posted(job)])),
    "settle failed": (held, lambda s, job: s.queue.settle([Failed(job, "busy")])),
    "settle snoozed": (held, lambda s, job: s.queue.settle([Snoozed(job, START + DAY)])),
    "settle released": (held, lambda s, job: s.queue.settle([Released(job)])),
    "settle unknown": (held, lambda s, job: s.queue.settle([Unknown(job, "no answer")])),
    "rescue_expired": (lambda s: held(s, lease=MINUTE), lambda s, _: s.queue.rescue_expired()),
    "replay": (dead, lambda s, job: s.queue.replay(job.id)),
    "replay of a cancelled one": (cancelled, lambda s, job: s.queue.replay(job.id)),
    "resolve as posted": (unknown, lambda s, job: s.queue.resolve(job.id, posted=True)),
    "resolve as not posted": (unknown, lambda s, job: s.queue.resolve(job.id, posted=False)),
    "cancel": (_scheduled, lambda s, job: s.queue.cancel(job.id)),
    "cancel of a held one": (held, lambda s, job: s.queue.cancel(job.id)),
    "checkpoint": (begun, lambda s, job: s.queue.checkpoint(job, 1)),
    "checkpoint of the same": (
        lambda s: s.queue.checkpoint(begun(s), 1),
        lambda s, job: s.queue.checkpoint(job, 1),
    ),
    "replay_all": (dead, lambda s, _: s.queue.replay_all()),
    "reschedule": (retrying, lambda s, job: s.queue.reschedule(job.id, START + HOUR)),
    "reschedule to the same time": (_scheduled, lambda s, job: s.queue.reschedule(job.id, START)),
}
"""A job to begin with, and what changes it two minutes later."""

_LOOKS: dict[str, tuple[Callable[[Storage], Job], Callable[[Storage, Job], object]]] = {
    "get": (_scheduled, lambda s, job: s.queue.get(job.id)),
    "list": (_scheduled, lambda s, _: s.queue.list()),
    "find_conflict": (_scheduled, lambda s, _: s.queue.find_conflict("x", START, HOUR)),
    "schedule under its key": (
        lambda s: s.queue.schedule("x", "a", START, idempotency_key="key"),
        lambda s, _: s.queue.schedule("x", "a", START + DAY, idempotency_key="key"),
    ),
    "claim_due of others": (held, lambda s, _: s.queue.claim_due(worker_id="w")),
    "rescue_expired too early": (held, lambda s, _: s.queue.rescue_expired()),
    "replay of what is alive": (_scheduled, lambda s, job: s.queue.replay(job.id)),
    "extend of nothing": (_scheduled, lambda s, job: s.queue.extend([job], lease=HOUR)),
    "upcoming": (_scheduled, lambda s, _: s.queue.upcoming()),
    "depths": (_scheduled, lambda s, _: s.queue.depths()),
    "timeline": (_scheduled, lambda s, _: s.queue.timeline([START, START + DAY])),
    "resolve of what is alive": (
        _scheduled,
        lambda s, job: _refused(lambda: s.queue.resolve(job.id, posted=True)),
    ),
    "cancel of what is published": (begun, lambda s, job: _refused(lambda: s.queue.cancel(job.id))),
    "checkpoint before publishing": (held, lambda s, job: _refused(lambda: s.queue.checkpoint(job, 1))),
    "replay_all of others": (unknown, lambda s, _: s.queue.replay_all()),
    "prune": (_scheduled, lambda s, _: s.prune()),
}


class QueueChangesContract(Contract):
    @pytest.mark.parametrize("change", _CHANGES)
    def test_a_change_is_dated(self, storage: Storage, clock: FakeClock, change: str) -> None:
        prepare, do = _CHANGES[change]
        job = prepare(storage)
        assert (job.created_at, job.updated_at) == (START, START)
        now = clock.advance(2 * MINUTE)
        answer = do(storage, job)
        stored = storage.queue.get(job.id)
        assert stored is not None
        assert (stored.created_at, stored.updated_at) == (START, now)
        returned: list[Any] = getattr(answer, "jobs", answer if isinstance(answer, list) else [answer])
        assert all(job == stored for job in returned if isinstance(job, Job)), (
            "the returned job is the stored one"
        )

    @pytest.mark.parametrize("look", _LOOKS)
    def test_what_changes_nothing_leaves_the_date(
        self, storage: Storage, clock: FakeClock, look: str
    ) -> None:
        prepare, do = _LOOKS[look]
        job = prepare(storage)
        clock.advance(2 * MINUTE)
        do(storage, job)
        assert storage.queue.get(job.id) == job
