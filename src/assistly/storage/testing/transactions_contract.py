"""Transactions: all or nothing over every kind of record, nested as savepoints."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from ..engine.protocol import StorageBackend
from ..errors import (
    AlreadyExists,
    ClaimLost,
    IdempotencyMismatch,
    InvalidValue,
    LockLost,
    NotFound,
    ScheduleConflict,
    StatusConflict,
    StorageClosed,
    StorageError,
    VersionConflict,
)
from ..records import ClaimState, Job, JobStatus, NewJob
from ..storage import Storage
from .fixtures import (
    DAY,
    HOUR,
    START,
    Contract,
    FakeClock,
    Undo,
    census,
    fresh_name,
    held,
    on_a_thread,
    open_for_test,
    undone,
)

_SOON = 5.0
"""Seconds within which a write ends that waits for nothing."""


class _Everything:
    """One write of each kind, and whether it is there."""

    def __init__(self, name: str) -> None:
        self.name = name

    def write(self, storage: Storage) -> None:
        name = self.name
        storage.queue.schedule(name, "a", START + DAY, idempotency_key=name)
        storage.sessions.put(name, 1)
        storage.approvals.add(name, 1)
        storage.idempotency.put(name, 1)
        storage.nonces.register(name)
        storage.metrics.increment(name)
        storage.lock.acquire(name, ttl=HOUR, name=name)
        storage.events.append(name, 1)
        storage.snapshots.put(name, 1)

    def there(self, storage: Storage) -> set[bool]:
        name = self.name
        return {
            bool(storage.queue.list(platform=name)),
            storage.sessions.get(name) is not None,
            storage.approvals.get(name) is not None,
            storage.idempotency.get(name) is not None,
            storage.nonces.seen(name),
            name in storage.metrics.read().counters,
            storage.lock.current(name) is not None,
            bool(storage.events.list(event_type=name)),
            storage.snapshots.get(name) is not None,
        }


class TransactionsContract(Contract):
    @pytest.fixture
    def one(self) -> _Everything:
        return _Everything(fresh_name("one"))

    @pytest.fixture
    def two(self) -> _Everything:
        return _Everything(fresh_name("two"))

    def test_all_is_stored_at_the_end(self, storage: Storage, one: _Everything) -> None:
        with storage.transaction() as tx:
            one.write(tx)
            assert one.there(tx) == {True}
        assert one.there(storage) == {True}

    def test_an_exception_undoes_all(self, storage: Storage, one: _Everything) -> None:
        with undone(storage) as tx:
            one.write(tx)
        assert one.there(storage) == {False}
        one.write(storage)
        assert one.there(storage) == {True}

    def test_an_inner_one_is_undone_alone(self, storage: Storage, one: _Everything, two: _Everything) -> None:
        with storage.transaction() as tx:
            one.write(tx)
            with undone(tx) as inner:
                two.write(inner)
                assert two.there(inner) == {True}
            assert (one.there(tx), two.there(tx)) == ({True}, {False})
        assert (one.there(storage), two.there(storage)) == ({True}, {False})

    def test_the_outer_one_undoes_the_inner(
        self, storage: Storage, one: _Everything, two: _Everything
    ) -> None:
        with undone(storage) as tx:
            with tx.transaction() as inner:
                two.write(inner)
            one.write(tx)
        assert one.there(storage) == two.there(storage) == {False}

    def test_savepoints_in_savepoints(self, storage: Storage) -> None:
        with storage.transaction() as a:
            a.nonces.register("a")
            with a.transaction() as b:
                b.nonces.register("b")
                with undone(b) as c:
                    c.nonces.register("c")
                    with c.transaction() as d:
                        d.nonces.register("d")
                with b.transaction() as c:
                    c.nonces.register("c2")
            a.nonces.register("a2")
        seen = [nonce for nonce in ["a", "b", "c", "d", "c2", "a2"] if storage.nonces.seen(nonce)]
        assert seen == ["a", "b", "c2", "a2"]

    def test_changes_and_removals_are_undone(self, storage: Storage) -> None:
        job = held(storage)
        session = storage.sessions.put("user", {"n": 1})
        storage.sessions.put("gone", 1)
        approval = storage.approvals.add("id", {"n": 1})
        claim = storage.idempotency.claim("key")
        before = census(storage)
        with undone(storage) as tx:
            tx.queue.mark_posted(job, "remote")
            tx.queue.remove(tx.queue.schedule("x", "b").id)
            tx.sessions.update("user", lambda _: {"n": 2})
            tx.sessions.delete("gone")
            tx.approvals.decide("id", "approved", patch={"n": 2})
            tx.idempotency.complete(claim, 1)
            tx.prune(now=START + 99 * DAY)
        assert census(storage) == before
        assert storage.sessions.get("user") == session
        assert storage.approvals.get("id") == approval
        assert storage.idempotency.claim("key").state is ClaimState.IN_PROGRESS
        assert storage.queue.mark_posted(job).status is JobStatus.POSTED

    def test_a_removal_that_is_undone(self, storage: Storage) -> None:
        jobs = [storage.queue.schedule("x", "a", idempotency_key=key) for key in "ab"]
        with undone(storage) as tx:
            tx.queue.remove(jobs[0].id)
            tx.queue.schedule("y", "b", idempotency_key="a")
            tx.queue.claim_due(worker_id="w")
        assert storage.queue.list() == jobs
        assert storage.queue.schedule("x", "a", idempotency_key="a") == jobs[0]
        assert [job.id for job in storage.queue.claim_due(worker_id="w")] == [job.id for job in jobs]

    def test_a_prune_that_is_undone_can_be_repeated(self, storage: Storage) -> None:
        storage.nonces.register("old", START - 2 * DAY)
        with undone(storage) as tx:
            assert tx.prune().nonces == 1
        assert storage.nonces.seen("old") is True
        assert storage.prune().nonces == 1

    def test_the_end_is_the_end(self, storage: Storage) -> None:
        with storage.transaction() as tx:
            with tx.transaction() as inner:
                inner.nonces.register("a")
            with pytest.raises(StorageClosed):
                inner.nonces.seen("a")
            tx.nonces.register("b")
        for ended in (tx, inner):
            with pytest.raises(StorageClosed):
                ended.nonces.seen("a")
            with pytest.raises(StorageClosed), ended.transaction():
                pass
        assert storage.nonces.seen("b") is True

    def test_an_empty_transaction(self, storage: Storage) -> None:
        storage.sessions.put("user", 1)
        before = census(storage)
        with storage.transaction():
            pass
        with undone(storage):
            pass
        with storage.transaction() as tx, tx.transaction():
            pass
        assert census(storage) == before
        # None of them has left a lock behind.
        assert on_a_thread(lambda: storage.sessions.put("user", 2).version).result(_SOON) == 2

    def test_the_exception_comes_out(self, storage: Storage) -> None:
        with pytest.raises(Undo, match="on purpose"), storage.transaction() as tx, tx.transaction():
            raise Undo("on purpose")

    def test_the_clock_is_the_same(self, storage: Storage, clock: FakeClock) -> None:
        with storage.transaction() as tx:
            clock.advance(HOUR)
            assert tx.events.append("type", 1).created_at == START + HOUR

    def test_two_storages_over_one_engine(self, backend: StorageBackend, storage: Storage) -> None:
        other = open_for_test(backend, FakeClock())
        with storage.transaction() as tx:
            tx.sessions.put("user", 1)
        assert other.sessions.get("user") == storage.sessions.get("user") is not None


def _refused_calls(storage: Storage, job: Job) -> dict[type[StorageError], Callable[[Storage], Any]]:
    lock = storage.lock.acquire("owner", ttl=HOUR, name=fresh_name("lock"))
    assert lock is not None
    storage.lock.release(lock)
    storage.queue.mark_posted(job)
    storage.queue.schedule("y", "a", START, idempotency_key="key")
    storage.sessions.put("there", 1)
    storage.approvals.add("there", 1)
    storage.approvals.decide("there", "approved")
    return {
        AlreadyExists: lambda tx: tx.approvals.add("there", 1),
        ClaimLost: lambda tx: tx.queue.mark_posted(job),
        IdempotencyMismatch: lambda tx: tx.queue.schedule("y", "b", idempotency_key="key"),
        InvalidValue: lambda tx: tx.sessions.put("there", float("nan")),
        LockLost: lambda tx: tx.lock.renew(lock, ttl=HOUR),
        NotFound: lambda tx: tx.queue.reschedule(2**40, START),
        ScheduleConflict: lambda tx: tx.queue.schedule("y", "c", START, min_gap=HOUR),
        StatusConflict: lambda tx: tx.approvals.decide("there", "rejected"),
        VersionConflict: lambda tx: tx.sessions.put("there", 2, expected_version=7),
    }


class TransactionErrorsContract(Contract):
    def test_an_error_that_is_handled_does_not_end_it(self, storage: Storage) -> None:
        calls = _refused_calls(storage, held(storage))
        with storage.transaction() as tx:
            for n, (error, call) in enumerate(calls.items()):
                tx.nonces.register(f"before-{n}")
                with pytest.raises(error):
                    call(tx)
                tx.nonces.register(f"after-{n}")
        for n in range(len(calls)):
            assert storage.nonces.seen(f"before-{n}")
            assert storage.nonces.seen(f"after-{n}")

    def test_an_error_that_is_not_handled_undoes_all(self, storage: Storage) -> None:
        calls = _refused_calls(storage, held(storage))
        before = census(storage)

        def write_and(call: Callable[[Storage], Any]) -> None:
            with storage.transaction() as tx:
                tx.nonces.register("nonce")
                tx.sessions.put("there", 3)
                call(tx)

        for error, call in calls.items():
            with pytest.raises(error):
                write_and(call)
            assert storage.nonces.seen("nonce") is False
        assert census(storage) == before

    def test_a_batch_that_fails_leaves_the_rest(self, storage: Storage) -> None:
        storage.queue.schedule("x", "a", START + DAY)
        with storage.transaction() as tx:
            tx.nonces.register("nonce")
            with pytest.raises(ScheduleConflict):
                tx.queue.schedule_many(
                    [NewJob("x", "b", START + 2 * DAY), NewJob("x", "c", START + DAY, min_gap=HOUR)]
                )
        assert storage.nonces.seen("nonce") is True
        assert len(storage.queue.list()) == 1

    def test_an_update_that_raises_leaves_the_rest(self, storage: Storage) -> None:
        def change(_: Any) -> Any:
            raise Undo

        with storage.transaction() as tx:
            tx.sessions.put("user", 1)
            with pytest.raises(Undo):
                tx.sessions.update("user", change)
            with pytest.raises(Undo):
                tx.idempotency.run_once("key", lambda: change(None))
        session = storage.sessions.get("user")
        assert session is not None
        assert session.data == 1
        assert storage.idempotency.claim("key").state is ClaimState.ACQUIRED

    @pytest.mark.parametrize("connection", [None, object(), "connection", 1])
    def test_only_a_connection_is_bound(self, storage: Storage, connection: Any) -> None:
        with pytest.raises(InvalidValue):
            storage.bind(connection)
