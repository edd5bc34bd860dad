"""What the tests of export, import and copy share."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

from assistly.storage import Job, Storage, WorkerLock
from assistly.storage.engine.moving import MovingBackend
from assistly.storage.engine.transfer import ROW_KINDS, Row
from golden.content import DAY, KEYS, LOCKS, MINUTE, NONCES, SECOND, THEN, Clock, fill, read_all

HOUR = timedelta(hours=1)
_SCHEDULES = ["every hour", "mondays", "disabled", "ended"]
_PLATFORMS = ["paused", "paused for a while", "resumed", "limited   🐝", "x", "blog"]


def filled(backend: MovingBackend) -> None:
    """Fill an empty storage with a record of every kind, in every state."""
    clock = Clock()
    storage = Storage(backend, clock=clock, auto_prune=False)
    fill(storage, clock)
    _schedules(storage)
    for number in range(3):
        storage.approvals.add(f"of one moment {number}", number)
    storage.approvals.decide("approval 03", "expired", patch=None)
    storage.metrics.increment("big", 2**53 - 1)
    storage.metrics.increment("big", 2**53 - 1)
    _removed_newest(storage)
    backend.retention.begin_prune(now=clock.time, interval=clock.time - clock.time.replace(year=2020))


def _schedules(storage: Storage) -> None:
    put = storage.schedules.put
    put("every hour", "blog", "good morning", every=HOUR, starts_at=THEN, metadata={"a": [1.0]})
    put(
        "mondays",
        "blog",
        "bread",
        cron="0 9 * * MON",
        zone="Europe/London",
        catch_up="last",
        max_lateness=DAY,
    )
    put("disabled", "blog", "not now", every=DAY, enabled=False, catch_up="last")
    put(
        "ended",
        "blog",
        "over",
        every=MINUTE,
        starts_at=THEN - DAY,
        ends_at=THEN - DAY + MINUTE,
        max_retries=7,
    )
    put("removed", "blog", "gone", every=MINUTE, starts_at=THEN + MINUTE, ends_at=THEN + 5 * MINUTE)
    slots = storage.schedules.run(ahead=3 * HOUR)
    assert len(slots) > 4
    storage.queue.cancel(next(job.id for job in slots if job.content == "good morning"))
    storage.schedules.remove("removed")


def _removed_newest(storage: Storage) -> None:
    """The newest of each kind with numbers is gone, and its number must not be given out again."""
    storage.queue.remove(storage.queue.schedule("far", "the newest", THEN + 900 * DAY).id)
    storage.idempotency.abandon(storage.idempotency.claim("the newest"))


def all_rows(backend: MovingBackend) -> dict[str, list[Row]]:
    return {kind: [*backend.read_rows(kind, after=None, limit=100_000)] for kind in ROW_KINDS}


def take_event(backend: MovingBackend) -> tuple[str, Any]:
    """Delete the newest event, which tells of the command, and return its type and payload."""
    id, event_type, payload, _ = all_rows(backend)["events"][-1]
    backend.write_rows("events", [], after=(id - 1,), through=None)
    return event_type, json.loads(payload)


def answers(backend: MovingBackend) -> dict[str, Any]:
    """What the public API says, record by record."""
    clock = Clock()
    clock.time = THEN
    storage = Storage(backend, clock=clock, auto_prune=False)
    jobs = storage.queue.list(limit=1000)
    ids = [approval.id for approval in storage.approvals.list(limit=1000)]
    return read_all(storage) | {
        "each job": [storage.queue.get(job.id) for job in jobs],
        "by key": [storage.queue.find_by_key(job.idempotency_key) for job in jobs if job.idempotency_key],
        "dead letters": storage.queue.dead_letters(limit=1000),
        "conflicts": [storage.queue.find_conflict(job.platform, job.scheduled_at, MINUTE) for job in jobs],
        "each session": [storage.sessions.get(one.user_id) for one in storage.sessions.list(limit=1000)],
        "each approval": [storage.approvals.get(id) for id in ids],
        "by status": [
            [one.id for one in storage.approvals.list(status=status, limit=1000)]
            for status in ("pending", "approved", "rejected", "expired")
        ],
        "keys": [storage.idempotency.get(key) for key in KEYS],
        "seen": [storage.nonces.seen(nonce) for nonce in NONCES],
        "held": [storage.lock.current(name) for name in LOCKS],
        "newest events": storage.events.list(limit=1000),
        "of a type": storage.events.list(event_type="type 1", limit=1000),
        "schedules": storage.schedules.list(limit=1000),
        "slots": [storage.schedules.preview(id, 3) for id in _SCHEDULES],
        "platforms": [storage.platforms.get(name) for name in _PLATFORMS],
        "available": [storage.platforms.available(name) for name in _PLATFORMS],
    }


def work_on(backend: MovingBackend, held: list[Job], lock: WorkerLock) -> list[Any]:
    """Go on where the records are, with the claims that were made before; return what came of it.

    Two storages with the same records answer the same.
    """
    clock = Clock()
    clock.time = THEN
    storage = Storage(backend, clock=clock, auto_prune=False)
    done: list[Any] = [storage.queue.mark_posted(job, f"remote-{job.id}") for job in held]
    done.append(storage.lock.release(lock))
    done += [storage.lock.acquire("later", name=name, ttl=DAY) for name in LOCKS]
    done.append(storage.queue.schedule("later", "new", THEN + DAY, idempotency_key="a new one"))
    done.append(storage.events.append("later", 1))
    done.append(storage.approvals.add("the newest", 1))
    done += [one.id for one in storage.approvals.list(limit=3)]
    done.append(storage.idempotency.claim("completed", fingerprint="digest").value)
    done.append(storage.idempotency.claim("in progress", fingerprint="digest").state)
    done.append(storage.idempotency.claim("left in progress").state)
    done += [storage.nonces.register(nonce) for nonce in ("one", "new")]
    done.append(storage.sessions.update("user 00", lambda data: [data]))
    done.append(storage.platforms.take("limited   🐝", 60))
    clock.time = THEN + DAY
    done += [storage.queue.rescue_expired(), storage.queue.claim_due(worker_id="later", limit=100)]
    done += [storage.schedules.run(), storage.schedules.remove("mondays"), storage.prune(force=True)]
    clock.time += SECOND
    storage.metrics.increment("big")
    # At the end, since an engine may give a number out for it.
    done.append(storage.queue.schedule("x", "posted without an id", idempotency_key="posted"))
    done += [storage.metrics.read(), storage.queue.list(limit=1000), storage.queue.counts()]
    return done
