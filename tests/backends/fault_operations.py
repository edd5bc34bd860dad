"""Every operation of a storage, each with the state that it needs, and the states that it may leave."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from contextlib import closing
from functools import cache
from itertools import count
from typing import Any, NamedTuple

from assistly.storage import (
    Failed,
    Job,
    MemoryBackend,
    NewJob,
    Posted,
    Released,
    RetentionPolicy,
    Snoozed,
    Storage,
    StorageBackend,
    StorageUnavailable,
    Unknown,
    mirror,
)
from assistly.storage.testing.faults import Fault, FaultyBackend, fail_with
from assistly.storage.testing.fixtures import (
    DAY,
    HOUR,
    MINUTE,
    START,
    begun,
    cancelled,
    dead,
    held,
    missed,
    undone,
    unknown,
)

KEYS = ("a", "b", "c")
LOCKS = ("worker", "assistly.mirror")
RETENTION = RetentionPolicy(
    approvals_age=DAY, idempotency_age=DAY, nonces_age=DAY, posted_age=DAY, events_age=DAY, sessions_age=DAY
)

Content = dict[str, Any]


class Operation(NamedTuple):
    """`prepare` makes the state, and returns what `call` takes.

    `in_steps`: it consists of several atomic steps, so that a fault may leave some of them done. Only what
    `repeats` may be called again after a failure, and then does what is left.
    """

    call: Callable[[Storage, Any], object]
    prepare: Callable[[Storage], Any] = lambda _: None
    in_steps: bool = False
    repeats: bool = True


def open_on(backend: StorageBackend) -> Storage:
    """A storage whose clock stands still."""
    return Storage(backend, clock=lambda: START, retention=RETENTION, auto_prune=False)


def content(storage: Storage) -> Content:
    """All that is stored, without ids and insertion order, which also grow with what is undone."""
    with undone(storage) as tx:
        tokens = {platform.name: tx.platforms.take(platform.name, 1000) for platform in tx.platforms.list()}
        made = [job.idempotency_key for job in tx.schedules.run(ahead=4 * DAY)]
        claims = {key: (c.state, c.value, c.lease_until) for key in KEYS if (c := tx.idempotency.claim(key))}
    metrics = storage.metrics.read()
    return {
        "jobs": [_without(job, "id") for job in storage.queue.list(limit=1000)],
        "sessions": storage.sessions.list(),
        "approvals": [_without(approval, "sequence") for approval in storage.approvals.list()],
        "keys": claims,
        "platforms": (storage.platforms.list(), tokens),
        "schedules": (storage.schedules.list(), made),
        "nonces": [key for key in KEYS if storage.nonces.seen(key)],
        "metrics": (metrics.counters, metrics.latency),
        "locks": [_without(lock, "fence") for name in LOCKS if (lock := storage.lock.current(name))],
        "events": [(e.event_type, e.payload, e.created_at) for e in storage.events.list()],
        "snapshots": [
            _without_event_ids(snapshot.kind, snapshot.payload) for snapshot in storage.snapshots.list()
        ],
    }


def _without(record: Any, field: str) -> dict[str, Any]:
    found = {f.name: getattr(record, f.name) for f in dataclasses.fields(record)}
    del found[field]
    return found


def _without_event_ids(kind: str, payload: Any) -> tuple[str, Any]:
    if kind == "logs":
        return kind, [event["payload"] for event in payload["events"]["records"]]
    return kind, payload if kind == "other" else None


def _three_due(storage: Storage) -> None:
    storage.queue.schedule_many([NewJob("x", text, START - n * MINUTE) for n, text in enumerate(KEYS)])


def _overdue(storage: Storage) -> None:
    """A job that is due, a late one, and two whose leases ran out, one of them while it was published."""
    for name in ("began", "did not"):
        storage.queue.schedule("x", name, START - DAY)
        (job,) = storage.queue.claim_due(worker_id="gone", lease=MINUTE, now=START - HOUR)
        if name == "began":
            storage.queue.begin_publish(job, now=START - HOUR)
    storage.queue.schedule("x", "late", START - HOUR, max_lateness=MINUTE)
    storage.queue.schedule("x", "due", START - MINUTE)


def _claimed(storage: Storage) -> list[Job]:
    storage.queue.schedule_many([NewJob("x", str(n)) for n in range(5)])
    return storage.queue.claim_due(worker_id="w")


def _settle(storage: Storage, jobs: list[Job]) -> object:
    posted, failed, snoozed, released, unknown = jobs
    return storage.queue.settle(
        [
            *(Posted(posted, "remote"), Failed(failed, "busy"), Snoozed(snoozed, START + HOUR)),
            *(Released(released), Unknown(unknown, "timed out")),
        ]
    )


def _dead_letters(storage: Storage) -> list[Job]:
    return [dead(storage, content=text) for text in KEYS]


def _of_each_kind(storage: Storage) -> None:
    """Dead letters of which three are replayed, and a cancelled job."""
    for make in (dead, unknown, missed, dead, cancelled):
        make(storage)


def _noted(storage: Storage) -> Job:
    return storage.queue.checkpoint(begun(storage), {"step": 1})


def _aged(storage: Storage) -> None:
    """Of each kind one that is kept, and three that are not."""
    for at in (START, *[START - n * DAY for n in (2, 3, 4)]):
        name = f"{at:%d}"
        storage.approvals.add(name, {}, created_at=at)
        storage.idempotency.put(name, 1, saved_at=at)
        storage.sessions.put(name, 1, now=at)
        storage.events.append("type", name, created_at=at)
        storage.nonces.register(name, at)
    storage.nonces.register("a", START - 2 * DAY)
    storage.idempotency.put("a", 1, saved_at=START - 2 * DAY)
    storage.queue.mark_posted(held(storage), now=START - 2 * DAY)


def _in_a_transaction(storage: Storage, _: object) -> None:
    with storage.transaction() as tx:
        tx.queue.schedule("x", "a", idempotency_key="a")
        tx.sessions.put("a", 1)
        with tx.transaction() as inner:
            inner.events.append("type", 1)
        with undone(tx) as other:
            other.nonces.register("b")
        tx.nonces.register("a")


def _mirror(storage: Storage, _: object) -> None:
    with closing(MemoryBackend()) as backend:
        source = open_on(backend)
        source.sessions.put("a", 1)
        source.events.append_many([("type", n) for n in range(3)])
        mirror(source, storage)


def _gapped(storage: Storage) -> Job:
    storage.events.append("type", 1)
    with undone(storage) as tx:
        tx.events.append("type", 2)
    storage.events.append("type", 3)
    storage.idempotency.put("a", 1)
    return held(storage)


def _paused(storage: Storage) -> None:
    storage.platforms.pause("x", until=START + HOUR, reason="down", by="ann")


def _limited(storage: Storage) -> None:
    storage.platforms.limit("x", 10, HOUR)
    storage.platforms.take("x", 4)


def _scheduled(storage: Storage) -> None:
    """A schedule with waiting jobs, and one that a person has removed."""
    storage.schedules.put("a", "x", "hello", cron="0 9 * * *")
    storage.queue.remove(storage.schedules.run(ahead=3 * DAY)[0].id)


def _disabled(storage: Storage) -> None:
    _scheduled(storage)
    storage.schedules.disable("a")


def _removed(storage: Storage) -> None:
    _scheduled(storage)
    storage.schedules.remove("a")


def _two_schedules(storage: Storage) -> None:
    for id in ("a", "b"):
        storage.schedules.put(id, "x", "hello", every=DAY, starts_at=START - DAY, catch_up="all")


def _due_beside_a_pause(storage: Storage) -> None:
    _paused(storage)
    storage.queue.schedule_many([NewJob("x", "no"), NewJob("y", "yes")])


WRITES: dict[str, Operation] = {
    "schedule": Operation(lambda s, _: s.queue.schedule("x", "a")),
    "schedule with a key": Operation(lambda s, _: s.queue.schedule("x", "a", idempotency_key="a")),
    "schedule a taken key": Operation(
        lambda s, _: s.queue.schedule("x", "a", idempotency_key="a"),
        lambda s: s.queue.schedule("x", "a", idempotency_key="a"),
    ),
    "schedule with a gap": Operation(lambda s, _: s.queue.schedule("x", "a", START + DAY, min_gap=HOUR)),
    "schedule_many": Operation(
        lambda s, _: s.queue.schedule_many([NewJob("x", key, idempotency_key=key) for key in KEYS]),
        lambda s: s.queue.schedule("x", "b", idempotency_key="b"),
    ),
    "schedule_many with COPY": Operation(
        lambda s, _: s.queue.schedule_many([NewJob("x", str(n), START + n * HOUR) for n in range(110)])
    ),
    "schedule_many without an answer": Operation(
        lambda s, _: s.queue.schedule_many(
            [NewJob("x", key, idempotency_key=key) for key in KEYS], returning="none"
        ),
        lambda s: s.queue.schedule("x", "b", idempotency_key="b"),
    ),
    "schedule_many with gaps": Operation(
        lambda s, _: s.queue.schedule_many(
            [NewJob("x", str(n), START + n * DAY, min_gap=HOUR if n else None) for n in range(3)]
        )
    ),
    "reschedule": Operation(
        lambda s, job: s.queue.reschedule(job.id, START + DAY, content="b"),
        lambda s: s.queue.schedule("x", "a"),
    ),
    "reschedule with a gap": Operation(
        lambda s, job: s.queue.reschedule(job.id, START + DAY, min_gap=HOUR),
        lambda s: s.queue.schedule("x", "a"),
    ),
    "remove": Operation(lambda s, job: s.queue.remove(job.id), lambda s: s.queue.schedule("x", "a")),
    "claim_due": Operation(lambda s, _: s.queue.claim_due(worker_id="w", limit=2), _three_due),
    "claim_due of nothing": Operation(lambda s, _: s.queue.claim_due(worker_id="w")),
    "claim_due after a sweep": Operation(
        lambda s, _: s.queue.claim_due(worker_id="w"), _overdue, in_steps=True
    ),
    "extend": Operation(lambda s, jobs: s.queue.extend(jobs, lease=HOUR), _claimed),
    "begin_publish": Operation(lambda s, job: s.queue.begin_publish(job), held),
    "mark_posted": Operation(lambda s, job: s.queue.mark_posted(job, "remote"), held),
    "mark_failed": Operation(lambda s, job: s.queue.mark_failed(job, "busy"), held),
    "mark_unknown": Operation(lambda s, job: s.queue.mark_unknown(job, "timed out"), held),
    "snooze": Operation(lambda s, job: s.queue.snooze(job, START + HOUR), held),
    "release": Operation(lambda s, job: s.queue.release(job), held),
    "begin_publish_many": Operation(lambda s, jobs: s.queue.begin_publish_many(jobs), _claimed),
    "settle": Operation(_settle, _claimed),
    "rescue_expired": Operation(lambda s, _: s.queue.rescue_expired(), _overdue),
    "replay": Operation(lambda s, job: s.queue.replay(job.id), dead),
    "replay a cancelled one": Operation(lambda s, job: s.queue.replay(job.id), cancelled),
    "replay_all": Operation(lambda s, _: s.queue.replay_all(), _dead_letters),
    "replay_all of every kind": Operation(
        lambda s, _: s.queue.replay_all(unknown=True, missed=True, limit=3), _of_each_kind
    ),
    "resolve as posted": Operation(
        lambda s, job: s.queue.resolve(job.id, posted=True, remote_id="remote"), unknown
    ),
    "resolve as not posted": Operation(lambda s, job: s.queue.resolve(job.id, posted=False), unknown),
    "cancel": Operation(lambda s, job: s.queue.cancel(job.id), lambda s: s.queue.schedule("x", "a")),
    "cancel a held one": Operation(lambda s, job: s.queue.cancel(job.id), held),
    "checkpoint": Operation(lambda s, job: s.queue.checkpoint(job, {"step": [1.0]}), begun),
    "mark_posted with a checkpoint": Operation(lambda s, job: s.queue.mark_posted(job, "remote"), _noted),
    "sessions.put": Operation(lambda s, _: s.sessions.put("a", 1)),
    "sessions.put a version": Operation(
        lambda s, _: s.sessions.put("a", 2, expected_version=1), lambda s: s.sessions.put("a", 1)
    ),
    "sessions.update": Operation(
        lambda s, _: s.sessions.update("a", lambda n: n + 1), lambda s: s.sessions.put("a", 1)
    ),
    "sessions.update a new one": Operation(lambda s, _: s.sessions.update("a", lambda n: n + 1, default=1)),
    "sessions.delete": Operation(lambda s, _: s.sessions.delete("a"), lambda s: s.sessions.put("a", 1)),
    "approvals.add": Operation(lambda s, _: s.approvals.add("a", {})),
    "approvals.decide": Operation(
        lambda s, _: s.approvals.decide("a", "approved", patch={"by": "me"}),
        lambda s: s.approvals.add("a", {}),
    ),
    "idempotency.claim": Operation(lambda s, _: s.idempotency.claim("a"), repeats=False),
    "idempotency.complete": Operation(
        lambda s, claim: s.idempotency.complete(claim, 1), lambda s: s.idempotency.claim("a")
    ),
    "idempotency.abandon": Operation(
        lambda s, claim: s.idempotency.abandon(claim), lambda s: s.idempotency.claim("a")
    ),
    "idempotency.put": Operation(lambda s, _: s.idempotency.put("a", 1), lambda s: s.idempotency.claim("a")),
    "idempotency.put_many": Operation(lambda s, _: s.idempotency.put_many([(key, 1) for key in KEYS])),
    "idempotency.forget": Operation(
        lambda s, _: s.idempotency.forget("a"), lambda s: s.idempotency.put("a", 1)
    ),
    "idempotency.forget a claimed one": Operation(
        lambda s, _: s.idempotency.forget("a"), lambda s: s.idempotency.claim("a")
    ),
    "idempotency.run_once": Operation(
        lambda s, _: s.idempotency.run_once("a", lambda: 1), in_steps=True, repeats=False
    ),
    "nonces.register": Operation(lambda s, _: s.nonces.register("a")),
    "nonces.register_many": Operation(
        lambda s, _: s.nonces.register_many(KEYS), lambda s: s.nonces.register("b")
    ),
    "metrics.increment": Operation(lambda s, _: s.metrics.increment("a"), lambda s: s.metrics.increment("a")),
    "metrics.observe_latency": Operation(lambda s, _: s.metrics.observe_latency(1.5)),
    "lock.acquire": Operation(lambda s, _: s.lock.acquire("me")),
    "lock.renew": Operation(lambda s, lock: s.lock.renew(lock, ttl=HOUR), lambda s: s.lock.acquire("me")),
    "lock.release": Operation(lambda s, lock: s.lock.release(lock), lambda s: s.lock.acquire("me")),
    "events.append": Operation(lambda s, _: s.events.append("type", 1)),
    "events.append_many": Operation(lambda s, _: s.events.append_many([("type", n) for n in range(3)])),
    "snapshots.put": Operation(lambda s, _: s.snapshots.put("other", 1)),
    "platforms.pause": Operation(lambda s, _: s.platforms.pause("x", until=START + HOUR, reason="down")),
    "platforms.pause again": Operation(lambda s, _: s.platforms.pause("x"), _paused),
    "platforms.pause_at_least": Operation(lambda s, _: s.platforms.pause_at_least("x", START + HOUR)),
    "platforms.pause_at_least again": Operation(
        lambda s, _: s.platforms.pause_at_least("x", START + DAY), _paused
    ),
    "platforms.resume": Operation(lambda s, _: s.platforms.resume("x"), _paused),
    "platforms.limit": Operation(lambda s, _: s.platforms.limit("x", 10, HOUR)),
    "platforms.limit again": Operation(lambda s, _: s.platforms.limit("x", 5, HOUR), _limited),
    "platforms.limit of none": Operation(lambda s, _: s.platforms.limit("x", None), _limited),
    "platforms.take": Operation(lambda s, _: s.platforms.take("x", 3), _limited),
    "platforms.give_back": Operation(lambda s, _: s.platforms.give_back("x", 1), _limited),
    "claim_due beside a pause": Operation(
        lambda s, _: s.queue.claim_due(worker_id="w"), _due_beside_a_pause, in_steps=True
    ),
    "schedules.put": Operation(lambda s, _: s.schedules.put("a", "x", "hello", cron="0 9 * * *")),
    "schedules.put again": Operation(
        lambda s, _: s.schedules.put("a", "y", "other", cron="0 9,10 17 * *"), _scheduled
    ),
    "schedules.put after a removal": Operation(
        lambda s, _: s.schedules.put("a", "x", "hello", cron="0 9 * * *"), _removed
    ),
    "schedules.disable": Operation(lambda s, _: s.schedules.disable("a"), _scheduled),
    "schedules.enable": Operation(lambda s, _: s.schedules.enable("a"), _disabled),
    "schedules.remove": Operation(lambda s, _: s.schedules.remove("a"), _scheduled),
    "schedules.run": Operation(lambda s, _: s.schedules.run(ahead=2 * DAY), _two_schedules),
    "prune": Operation(lambda s, _: s.prune(force=True), _aged, in_steps=True),
    "transaction": Operation(_in_a_transaction),
    "mirror": Operation(_mirror, in_steps=True),
}

READS: dict[str, Operation] = {
    "queue.get": Operation(lambda s, job: s.queue.get(job.id), _gapped),
    "queue.find_by_key": Operation(lambda s, _: s.queue.find_by_key("a key"), _gapped),
    "queue.list": Operation(lambda s, _: s.queue.list()),
    "queue.counts": Operation(lambda s, _: s.queue.counts()),
    "queue.depths": Operation(lambda s, _: s.queue.depths(), _three_due),
    "queue.timeline": Operation(lambda s, _: s.queue.timeline([START, START + HOUR]), _three_due),
    "queue.find_conflict": Operation(lambda s, _: s.queue.find_conflict("x", START, HOUR), _gapped),
    "queue.next_due_at": Operation(lambda s, _: s.queue.next_due_at(), _three_due),
    "queue.wait": Operation(lambda s, _: s.queue.wait(0), _three_due),
    "schedules.get": Operation(lambda s, _: s.schedules.get("a"), _scheduled),
    "schedules.list": Operation(lambda s, _: s.schedules.list(), _scheduled),
    "schedules.preview": Operation(lambda s, _: s.schedules.preview("a", 3), _scheduled),
    "schedules.waiting": Operation(lambda s, _: s.schedules.waiting("a"), _scheduled),
    "queue.wait for a platform": Operation(lambda s, _: s.queue.wait(0, platforms=["y"]), _three_due),
    "queue.upcoming": Operation(lambda s, _: s.queue.upcoming(until=START, platform="x"), _three_due),
    "queue.upcoming after a job": Operation(
        lambda s, job: s.queue.upcoming(after=job), lambda s: s.queue.schedule("x", "a")
    ),
    "queue.list of cancelled ones": Operation(lambda s, _: s.queue.list(status="cancelled"), cancelled),
    "queue.dead_letters": Operation(lambda s, _: s.queue.dead_letters()),
    "sessions.get": Operation(lambda s, _: s.sessions.get("a")),
    "sessions.list": Operation(lambda s, _: s.sessions.list()),
    "approvals.get": Operation(lambda s, _: s.approvals.get("a")),
    "approvals.list": Operation(lambda s, _: s.approvals.list()),
    "idempotency.get": Operation(lambda s, _: s.idempotency.get("a"), _gapped),
    "idempotency.peek": Operation(lambda s, _: s.idempotency.peek("a"), _gapped),
    "nonces.seen": Operation(lambda s, _: s.nonces.seen("a")),
    "metrics.read": Operation(lambda s, _: s.metrics.read()),
    "lock.current": Operation(lambda s, _: s.lock.current()),
    "lock.list": Operation(lambda s, _: s.lock.list(), lambda s: s.lock.acquire("me")),
    "events.list": Operation(lambda s, _: s.events.list(), _gapped),
    "events.read_after": Operation(lambda s, _: s.events.read_after(0), _gapped),
    "events.read_after a type": Operation(lambda s, _: s.events.read_after(0, event_type="type"), _gapped),
    "snapshots.get": Operation(lambda s, _: s.snapshots.get("a")),
    "snapshots.list": Operation(lambda s, _: s.snapshots.list()),
    "platforms.get": Operation(lambda s, _: s.platforms.get("x"), _paused),
    "platforms.available": Operation(lambda s, _: s.platforms.available("x"), _limited),
    "platforms.list": Operation(lambda s, _: s.platforms.list(), _limited),
    "queue.wait beside a pause": Operation(lambda s, _: s.queue.wait(0), _due_beside_a_pause),
    "prunable": Operation(lambda s, _: s.prunable(), _aged),
    "ping": Operation(lambda s, _: s.ping()),
    "sizes": Operation(lambda s, _: s.sizes()),
    "migrate": Operation(lambda s, _: s.migrate()),
}

OPERATIONS = WRITES | READS


class States(NamedTuple):
    """What may be stored after a failure, and what is stored after success."""

    partial: Sequence[Content]
    whole: Content


@cache
def states_of(name: str) -> States:
    """Found on a memory engine whose calls, each of which is atomic, fail one after the other."""
    operation = OPERATIONS[name]
    partial: list[Content] = []
    for at in count(1):
        with closing(FaultyBackend(MemoryBackend())) as backend:
            storage = open_on(backend)
            prepared = operation.prepare(storage)
            before = content(storage)
            backend.inject(Fault(fail_with(), at))
            try:
                operation.call(storage, prepared)
            except StorageUnavailable:
                backend.inject()
                found = content(storage)
                assert operation.in_steps or found == before, f"{name} consists of steps"
                if found not in partial:
                    partial.append(found)
            else:
                assert backend.injected == []
                backend.inject()
                return States(partial, content(storage))
    raise AssertionError
