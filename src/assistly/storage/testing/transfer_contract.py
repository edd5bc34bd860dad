"""Rows that move from one storage to another: `snapshot`, `read_rows` and `write_rows`.

They are optional: the tests are skipped for an engine that refuses them.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import pytest

from ..engine.moving import MovingBackend, moving
from ..engine.protocol import StorageBackend
from ..engine.transfer import LAST_PRUNE, MARKS, ROW_KINDS, Row, row_line
from ..engines.memory import MemoryBackend
from ..errors import ConfigurationError
from ..records import ClaimState
from ..storage import Storage
from .fixtures import (
    DAY,
    HOUR,
    MINUTE,
    SECOND,
    START,
    Contract,
    FakeClock,
    Undo,
    begun,
    cancelled,
    dead,
    held,
    missed,
    on_a_thread,
    open_for_test,
    posted,
    retrying,
    unknown,
)

_MANY = 10_000


def _fill(storage: Storage) -> None:
    """A record of every kind."""
    queue = storage.queue
    posted(storage, idempotency_key="posted")
    cancelled(storage, metadata={"a": [1, 1e16, {"é": None}]})
    dead(storage, error="refused: 🐝")
    unknown(storage)
    missed(storage)
    retrying(storage, retry_at=START + DAY)
    queue.checkpoint(begun(storage), {"step": 2, "b": "a"})
    held(storage, worker_id="wörker", max_lateness=HOUR)
    queue.schedule("blog", "hello\n\t\\N \x01", START + DAY, idempotency_key="key", max_retries=9)
    queue.remove(queue.schedule("blog", "removed").id)
    storage.sessions.put("ann", {"n": 1})
    storage.sessions.put("ann", {"n": 2})
    storage.sessions.put("é", None)
    for id in ("one", "two", "three"):
        storage.approvals.add(id, {"id": id})
    storage.approvals.decide("two", "approved")
    storage.idempotency.put("done", [1.0, "x"])
    storage.idempotency.complete(storage.idempotency.claim("with a fingerprint", fingerprint="f"), {})
    storage.idempotency.claim("in progress", fingerprint="f", lease=HOUR)
    storage.nonces.register_many(["n 1", "n 2"])
    storage.nonces.register("old", START - HOUR)
    storage.metrics.increment("requests", 2**53 - 1)
    storage.metrics.increment("requests", 2**53 - 1)
    storage.metrics.observe_latency(1.5)
    for owner in ("first", "second"):
        lock = storage.lock.acquire(owner, ttl=DAY)
        assert lock is not None
        storage.lock.release(lock)
    storage.events.append("kind", {"b": 1, "a": -0.0})
    storage.events.append("kind", "later", created_at=START - DAY)
    for name in ("a", "é", "z"):
        storage.metrics.increment(name)
        storage.snapshots.put(name, {"z": 1, "a": 2})
        storage.lock.acquire("third", ttl=DAY, name=name)
    storage.platforms.pause("blog", until=START + HOUR, reason="maintenance", by="ann")
    storage.platforms.limit("x", 10, MINUTE)
    storage.schedules.put("daily", "blog", "good morning", every=HOUR, starts_at=START)
    storage.schedules.run()


def _movable(backend: StorageBackend) -> MovingBackend:
    try:
        found = moving(backend)
        found.read_rows(MARKS, after=None, limit=_MANY)
    except ConfigurationError as error:
        pytest.skip(f"optional: {error}")
    return found


def _rows(backend: MovingBackend) -> dict[str, list[Row]]:
    return {kind: [*backend.read_rows(kind, after=None, limit=_MANY)] for kind in ROW_KINDS}


def _move(source: MovingBackend, target: MovingBackend) -> None:
    for kind, rows in _rows(source).items():
        target.write_rows(kind, rows, after=None, through=None)


def _answers(storage: Storage) -> dict[str, Any]:
    """What the public API says about all records."""
    return {
        "jobs": storage.queue.list(limit=1000),
        "counts": storage.queue.counts(),
        "upcoming": [job.id for job in storage.queue.upcoming(limit=1000)],
        "next": storage.queue.next_due_at(),
        "late": [job.id for job in storage.queue.dead_letters(limit=1000)],
        "sessions": storage.sessions.list(limit=1000),
        "approvals": storage.approvals.list(limit=1000),
        "pending": storage.approvals.list(status="pending", limit=1000),
        "results": [storage.idempotency.get(key) for key in ("done", "with a fingerprint", "in progress")],
        "nonces": [storage.nonces.seen(nonce) for nonce in ("n 1", "n 2", "old", "none")],
        "metrics": storage.metrics.read(),
        "locks": [storage.lock.current(name) for name in ("worker", "a", "é")],
        "events": storage.events.read_after(0, limit=1000),
        "newest": storage.events.list(event_type="kind", limit=1000),
        "snapshots": storage.snapshots.list(),
        "platforms": storage.platforms.list(),
        "schedules": storage.schedules.list(),
    }


class TransferContract(Contract):
    @pytest.fixture
    def movable(self, backend: StorageBackend) -> MovingBackend:
        """The engine. Skips the test if it refuses."""
        return _movable(backend)

    def test_rows_go_to_another_engine(self, storage: Storage, movable: MovingBackend) -> None:
        _fill(storage)
        other = MemoryBackend()
        _move(movable, other)
        assert _rows(other) == _rows(movable)
        clock = FakeClock()
        assert _answers(open_for_test(other, clock)) == _answers(storage)

    def test_rows_come_from_another_engine(self, storage: Storage, movable: MovingBackend) -> None:
        other = MemoryBackend()
        source = open_for_test(other, FakeClock())
        _fill(source)
        other.retention.begin_prune(now=START, interval=SECOND)
        _move(other, movable)
        moved, rows = _rows(movable), _rows(other)
        stored: dict[str, Any] = dict(moved.pop(MARKS))
        given: dict[str, Any] = dict(rows.pop(MARKS))
        assert moved == rows
        assert stored.pop(LAST_PRUNE) == given.pop(LAST_PRUNE)
        assert all(stored[kind] >= given[kind] for kind in given)
        assert _answers(storage) == _answers(source)

    def test_work_goes_on_where_the_rows_are(self, storage: Storage, movable: MovingBackend) -> None:
        """Claims, leases, fences and numbers that were given out hold."""
        other = MemoryBackend()
        source = open_for_test(other, FakeClock())
        _fill(source)
        job = held(source, content="in the hands of a worker")
        claim = source.idempotency.claim("command")
        last = source.queue.schedule("x", "removed", START + DAY)
        source.queue.remove(last.id)
        fence = source.lock.acquire("fourth", ttl=DAY)
        assert fence is not None
        source.lock.release(fence)
        _move(other, movable)
        assert storage.queue.mark_posted(job).claim == job.claim
        storage.idempotency.complete(claim, 1)
        assert storage.idempotency.claim("in progress").state is ClaimState.IN_PROGRESS
        assert storage.queue.schedule("x", "next").id > last.id
        assert storage.events.append("kind", 1).id > max(event.id for event in source.events.list())
        approval = storage.approvals.add("later", 1)
        assert storage.approvals.list()[0] == approval
        taken = storage.lock.acquire("fifth", ttl=DAY)
        assert taken is not None
        assert taken.fence == fence.fence + 1

    def test_rows_are_read_in_pages_by_key(self, storage: Storage, movable: MovingBackend) -> None:
        _fill(storage)
        for kind, rows in _rows(movable).items():
            if kind == MARKS:
                continue
            keys = [ROW_KINDS[kind].key(row) for row in rows]
            assert keys == sorted(keys)
            pages: list[Row] = []
            after: Row | None = None
            while page := movable.read_rows(kind, after=after, limit=2):
                assert len(page) <= 2
                pages += page
                after = ROW_KINDS[kind].key(page[-1])
            assert pages == rows
            assert all(row_line(row).endswith(b"]\n") for row in rows)

    def test_a_range_of_rows_is_replaced(self, storage: Storage, movable: MovingBackend) -> None:
        _fill(storage)
        for kind, rows in _rows(movable).items():
            if kind in (MARKS, "latency"):
                continue
            keys = [ROW_KINDS[kind].key(row) for row in rows]
            movable.write_rows(kind, [], after=keys[0], through=keys[-2])
            left = [row for row, key in zip(rows, keys, strict=True) if not keys[0] < key <= keys[-2]]
            assert [*movable.read_rows(kind, after=None, limit=_MANY)] == left
            movable.write_rows(kind, rows[1:], after=keys[0], through=None)
            assert [*movable.read_rows(kind, after=None, limit=_MANY)] == rows

    def test_a_unique_value_moves_to_another_row(self, storage: Storage, movable: MovingBackend) -> None:
        """As when a job was removed, and its key is that of another one now."""
        first = storage.queue.schedule("x", "first", idempotency_key="key")
        (row,) = movable.read_rows("jobs", after=(first.id - 1,), limit=1)
        later = (first.id + 5, *row[1:])
        movable.write_rows("jobs", [later], after=(first.id,), through=None)
        assert [*movable.read_rows("jobs", after=None, limit=10)] == [later]
        movable.write_rows("nonces", [(1000, "n")], after=None, through=None)
        movable.write_rows("nonces", [(5, "n")], after=None, through=(5, "n"))
        assert [*movable.read_rows("nonces", after=None, limit=10)] == [(5, "n")]
        assert storage.nonces.seen("n")

    def test_a_snapshot_is_of_one_moment(self, storage: Storage, movable: MovingBackend) -> None:
        storage.queue.schedule("x", "before")
        with movable.snapshot() as view:
            first = view.read_rows("sessions", after=None, limit=10)
            if not movable.in_process:
                storage.queue.schedule("x", "after")
                storage.sessions.put("after", 1)
            assert [row[3] for row in view.read_rows("jobs", after=None, limit=10)] == ["before"]
            assert view.read_rows("sessions", after=None, limit=10) == first
        storage.queue.schedule("x", "later")

    def test_writers_are_held_off(self, storage: Storage, movable: MovingBackend) -> None:
        with movable.snapshot(hold_writers=True) as view:
            waiting = on_a_thread(lambda: storage.sessions.put("other", 1))
            assert view.read_rows("sessions", after=None, limit=10) == []
            view.write_rows("sessions", [("own", "1", 1, 0)], after=None, through=None)
            assert not waiting.done()
            assert len(view.read_rows("sessions", after=None, limit=10)) == 1
        waiting.result(timeout=10)
        assert [session.user_id for session in storage.sessions.list()] == ["other", "own"]

    def test_what_is_written_is_undone_with_the_rest(self, storage: Storage, movable: MovingBackend) -> None:
        with suppress(Undo), movable.snapshot(hold_writers=True) as view:
            view.write_rows("sessions", [("own", "1", 1, 0)], after=None, through=None)
            raise Undo
        assert storage.sessions.list() == []
