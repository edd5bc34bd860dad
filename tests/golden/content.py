"""Rows of every kind, written by way of the public API, and all that can be read back."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from typing import Any

from assistly.storage import Job, NewJob, Storage

THEN = datetime(2026, 3, 1, 12, 0, 0, 123_456, tzinfo=UTC)
"""When the databases were left alone, with claims and leases that had not run out."""

TICK = timedelta(microseconds=1)
SECOND = timedelta(seconds=1)
MINUTE = timedelta(minutes=1)
DAY = timedelta(days=1)

ODD_TEXTS = [
    "",
    " leading and trailing ",
    "Ünïcode 🐝 e\u0301 \u2028 \u200f",
    "100 % %s :name {t} ?1 'single' \"double\" \\ -- /* ; */",
    "line\nline\r\n\ttab \x01\x7f",
    "NULL",
    "x" * 2_000,
]

JSON_VALUES: list[Any] = [
    None,
    True,
    False,
    0,
    -1,
    2**53 + 1,
    -(2**63),
    10**22,
    0.1,
    1e-7,
    "",
    "text \u2028 🐝 %s",
    [],
    {},
    [None, [[]], {"": {}}],
    {"é": "e\u0301", "__proto__": {"a": 1}, "a.b": [1, 2.5], " ": " "},
]

LONG_HISTORY = 25
"""Failed attempts of one job, of which the last 20 are kept."""


class Clock:
    """Stands still until it is moved."""

    def __init__(self) -> None:
        self.time = THEN - DAY

    def __call__(self) -> datetime:
        return self.time


def fill(storage: Storage, clock: Clock) -> None:
    _jobs(storage, clock)
    clock.time = THEN - 10 * MINUTE
    for place, value in enumerate(JSON_VALUES):
        storage.sessions.put(f"user {place:02}", value)
        storage.idempotency.put(f"result {place:02}", value)
        storage.events.append(f"type {place % 3}", value)
        storage.snapshots.put(f"kind {place:02}", value)
        storage.approvals.add(f"approval {place:02}", value)
        clock.time += SECOND
    _records(storage, clock)
    clock.time = THEN
    _platforms(storage)


def _jobs(storage: Storage, clock: Clock) -> None:
    """The leases of what is left processing end before or after THEN, and nothing else is due then."""
    queue = storage.queue

    def claimed(
        content: str, *, lease: timedelta = 2 * DAY, worker_id: str = "worker-1", **options: Any
    ) -> Job:
        scheduled = queue.schedule("x", content, **options)
        (job,) = queue.claim_due(worker_id=worker_id, lease=lease)
        assert job.id == scheduled.id
        return job

    queue.mark_posted(claimed("posted"), "remote-1")
    queue.mark_posted(queue.begin_publish(claimed("posted without an id", idempotency_key="posted")))
    queue.mark_failed(claimed("dead letter"), "401 Unauthorized", retryable=False)
    queue.mark_failed(claimed("dead letter after one attempt", max_retries=1), "500 " + "long " * 300)
    queue.mark_unknown(queue.begin_publish(claimed("unknown outcome")), "the connection was cut")
    replayed = queue.mark_failed(claimed("replayed", idempotency_key="replayed"), "refused", retryable=False)
    queue.replay(replayed.id, scheduled_at=THEN + DAY)
    queue.schedule("x", "too late", max_lateness=SECOND)
    clock.time += MINUTE
    assert queue.claim_due(worker_id="worker-1") == []
    long = claimed("long history", max_retries=100, metadata={"attempts": LONG_HISTORY})
    for number in range(LONG_HISTORY):
        queue.mark_failed(long, f"attempt {number} 🐝", retry_at=clock.time + SECOND)
        clock.time += SECOND
        if number < LONG_HISTORY - 1:
            (long,) = queue.claim_due(worker_id=f"worker-{number}", lease=MINUTE)
    queue.reschedule(long.id, THEN - MINUTE)
    queue.mark_failed(claimed("retrying later"), "429", retry_at=THEN + MINUTE)
    queue.mark_failed(claimed("retrying with a limit", max_lateness=3 * DAY), "429", retry_at=THEN + TICK)
    queue.snooze(claimed("snoozed"), THEN + MINUTE)
    queue.release(claimed("released", max_lateness=3 * DAY))
    (again,) = queue.claim_due(worker_id="worker-2", lease=2 * DAY)
    queue.snooze(again, THEN)
    claimed("held")
    queue.begin_publish(claimed("publishing", idempotency_key="publishing"))
    claimed("left alone", lease=MINUTE, worker_id="dead Ünïcode")
    queue.begin_publish(claimed("left while publishing", lease=MINUTE, worker_id="dead"))
    queue.mark_failed(claimed("retried, then held"), "busy", retry_at=clock.time)
    queue.claim_due(worker_id="worker-3", lease=2 * DAY)
    for place, text in enumerate(ODD_TEXTS):
        queue.schedule(
            text[:400].strip() or f"platform {place}",
            text,
            THEN + place * MINUTE,
            idempotency_key=f"{place} {text[:300]}",
            metadata={"value": JSON_VALUES[place], text[:10]: text},
        )
    _decided_jobs(storage, claimed)
    queue.schedule_many(
        NewJob("many", f"job {place}", THEN - TICK, metadata={"value": value}, max_lateness=DAY)
        for place, value in enumerate(JSON_VALUES)
    )
    queue.schedule("far", "the end of time", datetime(9000, 1, 1, tzinfo=UTC))
    queue.remove(queue.schedule("x", "removed: its id must not come again").id)


def _decided_jobs(storage: Storage, claimed: Callable[..., Job]) -> None:
    """Cancelled and resolved jobs, and jobs with checkpoints."""
    queue = storage.queue
    queue.cancel(queue.schedule("x", "cancelled", idempotency_key="cancelled", max_lateness=SECOND).id)
    queue.cancel(claimed("cancelled while it was held").id)

    def in_steps(content: str, checkpoint: Any) -> Job:
        return queue.checkpoint(queue.begin_publish(claimed(content)), checkpoint)

    for place, value in enumerate(JSON_VALUES):
        in_steps(f"in steps {place:02}", value)
    queue.mark_unknown(in_steps("in steps, unknown outcome", {"container": "17 🐝"}), "no answer")
    queue.mark_failed(in_steps("in steps, retrying", {"container": 18}), "busy", retry_at=THEN + MINUTE)
    for posted in (True, False):
        unknown = queue.mark_unknown(in_steps(f"resolved, posted: {posted}", [1, 2.0]), "no answer")
        queue.resolve(unknown.id, posted=posted, remote_id="remote-2" if posted else None)
    (again,) = queue.claim_due(worker_id="worker-1", lease=2 * DAY)
    queue.snooze(again, THEN + DAY)


def _platforms(storage: Storage) -> None:
    platforms = storage.platforms
    platforms.pause("paused", reason="maintenance", by="ann")
    platforms.pause("paused for a while", until=THEN + MINUTE)
    platforms.pause("resumed")
    platforms.resume("resumed")
    platforms.limit("limited   🐝", 100, MINUTE)
    platforms.take("limited   🐝", 60)


def _records(storage: Storage, clock: Clock) -> None:
    for text in ODD_TEXTS[1:-1]:
        storage.sessions.put(text.strip(), {"text": text})
        storage.nonces.register(text.strip())
    storage.sessions.put("user 00", {"version": 2})
    storage.sessions.update("user 00", lambda data: {"was": data})
    storage.sessions.put("deleted", 1)
    storage.sessions.delete("deleted")
    storage.approvals.decide("approval 01", "approved")
    storage.approvals.decide("approval 02", "rejected")
    storage.idempotency.complete(storage.idempotency.claim("completed", fingerprint="digest"), {"answer": 42})
    storage.idempotency.claim("in progress", fingerprint="digest", lease=DAY)
    storage.idempotency.claim("left in progress", lease=SECOND)
    storage.idempotency.abandon(storage.idempotency.claim("abandoned"))
    storage.nonces.register_many(["one", "two"])
    storage.nonces.register("old", THEN - DAY)
    storage.metrics.increment("requestCount", 1200)
    storage.metrics.increment("Ünïcode 🐝 %s", 3)
    storage.metrics.observe_latency(120.25)
    storage.metrics.observe_latency(0.000001)
    for owner in ("first", "second"):
        lock = storage.lock.acquire(owner, ttl=MINUTE)
        assert lock is not None
        if owner == "first":
            storage.lock.release(lock)
    storage.lock.acquire("third", ttl=DAY, now=clock.time + 2 * MINUTE)
    released = storage.lock.acquire("owner", name="released", ttl=DAY)
    assert released is not None
    storage.lock.release(released)
    storage.lock.acquire("dead", name="run out", ttl=SECOND)
    storage.events.append("later", {"id": "goes on"}, created_at=THEN - DAY)
    storage.snapshots.put("kind 00", "replaced")


KEYS = [
    *(f"result {place:02}" for place in range(len(JSON_VALUES))),
    *(f"command {place}" for place in range(14)),
    *("completed", "in progress", "left in progress", "abandoned"),
]
NONCES = ["one", "two", "old", "none", "n-1", "n-2", "ñ 🐝", *(text.strip() for text in ODD_TEXTS[1:-1])]
LOCKS = ["worker", "released", "run out"]


def read_all(storage: Storage) -> dict[str, Any]:
    """As JSON. Records of the original system are read, too."""
    found = {
        "jobs": storage.queue.list(limit=1000),
        "sessions": storage.sessions.list(limit=1000),
        "approvals": storage.approvals.list(limit=1000),
        "idempotency": [record for key in KEYS if (record := storage.idempotency.get(key)) is not None],
        "nonces": [nonce for nonce in NONCES if storage.nonces.seen(nonce)],
        "metrics": storage.metrics.read(),
        "locks": [storage.lock.current(name) for name in LOCKS],
        "events": storage.events.read_after(0, limit=1000),
        "snapshots": storage.snapshots.list(),
        "platforms": storage.platforms.list(),
        "upcoming": [job.id for job in storage.queue.upcoming(limit=1000)],
        "counts": {str(status): count for status, count in storage.queue.counts().items()},
        "next_due_at": storage.queue.next_due_at(),
    }
    decoded: dict[str, Any] = json.loads(json.dumps(_plain(found)))
    return decoded


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {str(key): _plain(one) for key, one in value.items()}
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, timedelta):
        return value // TICK
    if isinstance(value, str):
        return str(value)
    return [*map(_plain, value)] if isinstance(value, Iterable) else value
