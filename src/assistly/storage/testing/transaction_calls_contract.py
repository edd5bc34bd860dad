"""Transactions: which calls belong to one, which are refused while it is open, and from which threads."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import suppress
from contextvars import Context
from functools import partial
from threading import Barrier, Event
from typing import Any, TypeVar

import pytest

from ..errors import ClaimLost, LockLost, NotFound, StorageClosed, StorageUnavailable, TransactionOpen
from ..records import ClaimState, JobStatus, NewJob
from ..storage import Storage
from .fixtures import (
    DAY,
    HOUR,
    LEASE,
    START,
    Contract,
    Undo,
    census,
    fresh_name,
    held,
    on_a_thread,
    together,
    undone,
    unknown,
)

T = TypeVar("T")

TIMEOUT = 30
"""Seconds after which a call hangs. Waiting for another transaction may take 10."""

_SOON = 0.5
"""Seconds in which a read that waits for nothing ends."""

_Calls = dict[str, Callable[[Storage], Any]]


def _calls(storage: Storage) -> _Calls:
    """One call of every method, by its name; each would succeed if no transaction were open."""
    letter, job, name = unknown(storage), held(storage), fresh_name()
    lock = storage.lock.acquire("owner", ttl=HOUR, name=name)
    claim = storage.idempotency.claim("claimed")
    storage.approvals.add("there", {})
    storage.sessions.put("there", 1)
    event = storage.events.append("type", 1)
    waiting = storage.queue.schedule("x", "waiting", START + DAY)
    assert lock is not None
    return {
        "queue.schedule": lambda s: s.queue.schedule("x", "a"),
        "queue.schedule now": lambda s: s.queue.schedule("x", "a", now=START),
        "queue.schedule min_gap": lambda s: s.queue.schedule("x", "a", START + HOUR, min_gap=HOUR),
        "queue.schedule_many": lambda s: s.queue.schedule_many([NewJob("x", "a")]),
        "queue.reschedule": lambda s: s.queue.reschedule(waiting.id, START + HOUR),
        "queue.find_conflict": lambda s: s.queue.find_conflict("x", START, HOUR),
        "queue.get": lambda s: s.queue.get(job.id),
        "queue.list": lambda s: s.queue.list(),
        "queue.dead_letters": lambda s: s.queue.dead_letters(),
        "queue.counts": lambda s: s.queue.counts(),
        "queue.depths": lambda s: s.queue.depths(),
        "queue.timeline": lambda s: s.queue.timeline([START, START + DAY]),
        "queue.remove": lambda s: s.queue.remove(waiting.id),
        "queue.next_due_at": lambda s: s.queue.next_due_at(),
        "queue.claim_due": lambda s: s.queue.claim_due(worker_id="w", now=START + 2 * DAY),
        "queue.extend": lambda s: s.queue.extend([job], lease=HOUR),
        "queue.begin_publish": lambda s: s.queue.begin_publish(job),
        "queue.mark_posted": lambda s: s.queue.mark_posted(job),
        "queue.mark_failed": lambda s: s.queue.mark_failed(job, "busy"),
        "queue.mark_unknown": lambda s: s.queue.mark_unknown(job, "no answer"),
        "queue.snooze": lambda s: s.queue.snooze(job, START + HOUR),
        "queue.release": lambda s: s.queue.release(job),
        "queue.rescue_expired": lambda s: s.queue.rescue_expired(now=START + LEASE),
        "queue.resolve": lambda s: s.queue.resolve(letter.id, posted=True),
        "queue.cancel": lambda s: s.queue.cancel(waiting.id),
        "queue.checkpoint": lambda s: s.queue.checkpoint(job, 1),
        "queue.upcoming": lambda s: s.queue.upcoming(),
        "queue.replay": lambda s: s.queue.replay(job.id),
        "queue.replay_all": lambda s: s.queue.replay_all(),
        "queue.wait": lambda s: s.queue.wait(0),
        "sessions.get": lambda s: s.sessions.get("there"),
        "sessions.put": lambda s: s.sessions.put("there", 2),
        "sessions.update": lambda s: s.sessions.update("there", lambda _: 2),
        "sessions.delete": lambda s: s.sessions.delete("there"),
        "sessions.list": lambda s: s.sessions.list(),
        "approvals.add": lambda s: s.approvals.add("new", 1),
        "approvals.get": lambda s: s.approvals.get("there"),
        "approvals.list": lambda s: s.approvals.list(),
        "approvals.decide": lambda s: s.approvals.decide("there", "approved"),
        "idempotency.claim": lambda s: s.idempotency.claim("key"),
        "idempotency.complete": lambda s: s.idempotency.complete(claim, 1),
        "idempotency.abandon": lambda s: s.idempotency.abandon(claim),
        "idempotency.put": lambda s: s.idempotency.put("key", 1),
        "idempotency.put_many": lambda s: s.idempotency.put_many([("key", 1)]),
        "idempotency.get": lambda s: s.idempotency.get("key"),
        "idempotency.run_once": lambda s: s.idempotency.run_once("key", lambda: 1),
        "nonces.register": lambda s: s.nonces.register("nonce"),
        "nonces.register_many": lambda s: s.nonces.register_many(["nonce"]),
        "nonces.seen": lambda s: s.nonces.seen("nonce"),
        "metrics.increment": lambda s: s.metrics.increment(name),
        "metrics.observe_latency": lambda s: s.metrics.observe_latency(1.0),
        "metrics.read": lambda s: s.metrics.read(),
        "lock.acquire": lambda s: s.lock.acquire("other", ttl=HOUR, name=fresh_name()),
        "lock.renew": lambda s: s.lock.renew(lock, ttl=HOUR),
        "lock.release": lambda s: s.lock.release(lock),
        "lock.current": lambda s: s.lock.current(name),
        "events.append": lambda s: s.events.append("type", 1),
        "events.append_many": lambda s: s.events.append_many([("type", 1)]),
        "events.list": lambda s: s.events.list(),
        "events.read_after": lambda s: s.events.read_after(event.id - 1),
        "snapshots.put": lambda s: s.snapshots.put(name, 1),
        "snapshots.get": lambda s: s.snapshots.get(name),
        "snapshots.list": lambda s: s.snapshots.list(),
        "prune": lambda s: s.prune(now=START + 99 * DAY, force=True),
        "prunable": lambda s: s.prunable(),
    }


_ROOT_CALLS: _Calls = {
    "ping": lambda s: s.ping(),
    "migrate": lambda s: s.migrate(),
    "transaction": lambda s: s.transaction().__enter__(),
}


def _everything(storage: Storage) -> dict[str, Any]:
    counters = storage.metrics.read().counters
    return {**census(storage), "counters": counters, "nonce": storage.nonces.seen("nonce")}


class TransactionCallsContract(Contract):
    def test_the_outer_storage_is_refused_inside(self, storage: Storage) -> None:
        calls = _calls(storage)
        before = _everything(storage)
        with storage.transaction() as tx:
            for name, call in {**calls, **_ROOT_CALLS}.items():
                with pytest.raises(TransactionOpen):
                    call(storage)
                assert tx.nonces.seen(name) is False, f"after {name} the transaction goes on"
        assert _everything(storage) == before

    def test_after_the_block_it_works_again(self, storage: Storage) -> None:
        calls = _calls(storage)
        with storage.transaction() as tx:
            tx.nonces.register("a")
        with undone(storage) as tx:
            tx.nonces.register("b")
        for call in calls.values():
            with suppress(ClaimLost, LockLost, NotFound):
                call(storage)

    def test_a_refusal_that_is_not_handled_undoes_the_block(self, storage: Storage) -> None:
        def write() -> None:
            with storage.transaction() as tx:
                tx.nonces.register("a")
                storage.nonces.register("b")

        with pytest.raises(TransactionOpen):
            write()
        assert (storage.nonces.seen("a"), storage.nonces.seen("b")) == (False, False)

    def test_a_refusal_that_is_handled_does_not(self, storage: Storage) -> None:
        with storage.transaction() as tx:
            tx.nonces.register("a")
            with pytest.raises(TransactionOpen):
                storage.nonces.register("b")
            tx.nonces.register("c")
        assert [storage.nonces.seen(nonce) for nonce in "abc"] == [True, False, True]

    def test_a_nested_one_makes_the_outer_one_wait_its_turn(self, storage: Storage) -> None:
        with storage.transaction() as tx:
            calls = _calls(tx)
            before = _everything(tx)
            with tx.transaction() as inner:
                for call in (*calls.values(), _ROOT_CALLS["transaction"]):
                    with pytest.raises(TransactionOpen):
                        call(tx)
                    with pytest.raises(TransactionOpen):
                        storage.nonces.seen("nonce")
                inner.nonces.register("inner")
            assert _everything(tx) == before
            assert tx.nonces.seen("inner") is True
            tx.nonces.register("outer")
        assert storage.nonces.seen("inner") is storage.nonces.seen("outer") is True

    def test_a_nested_one_that_was_undone_lets_the_outer_one_go_on(self, storage: Storage) -> None:
        with storage.transaction() as tx:
            with undone(tx) as inner:
                inner.nonces.register("inner")
            tx.nonces.register("outer")
        assert (storage.nonces.seen("inner"), storage.nonces.seen("outer")) == (False, True)

    def test_a_change_of_a_session_may_not_call_the_storage(self, storage: Storage) -> None:
        """It runs in a transaction of its own, or in a step of the one that it was called in."""
        storage.sessions.put("user", 1)

        def calling(other: Storage) -> Callable[[Any], Any]:
            def change(_: Any) -> Any:
                with pytest.raises(TransactionOpen):
                    other.nonces.register("refused")
                return 2

            return change

        assert storage.sessions.update("user", calling(storage)).data == 2
        with storage.transaction() as tx:
            tx.sessions.update("user", calling(tx))
            tx.sessions.update("user", calling(storage))
            assert tx.nonces.register("after") is True
        assert (storage.nonces.seen("refused"), storage.nonces.seen("after")) == (False, True)

    def test_a_function_that_runs_once_may_call_the_transaction(self, storage: Storage) -> None:
        with undone(storage) as tx:
            assert tx.idempotency.run_once("key", lambda: tx.nonces.register("a")) is True
        assert storage.nonces.seen("a") is False
        assert storage.idempotency.run_once("key", lambda: storage.nonces.register("a")) is True
        assert storage.nonces.seen("a") is True

    def test_a_block_is_entered_once(self, storage: Storage) -> None:
        block = storage.transaction()
        with block as tx:
            tx.nonces.register("a")
        with pytest.raises(StorageClosed), block:
            pass
        assert storage.nonces.seen("a") is True
        assert storage.nonces.register("b") is True

    def test_an_outer_one_that_ends_first_undoes_the_nested(self, storage: Storage) -> None:
        with storage.transaction() as tx:
            tx.nonces.register("outer")
            block = tx.transaction()
            inner = block.__enter__()
            inner.nonces.register("inner")
        with pytest.raises(StorageClosed):
            inner.nonces.seen("outer")
        with pytest.raises(StorageClosed):
            block.__exit__(None, None, None)
        assert (storage.nonces.seen("outer"), storage.nonces.seen("inner")) == (True, False)
        assert storage.nonces.register("after") is True


class TransactionThreadsContract(Contract):
    def test_another_thread_is_not_concerned(self, storage: Storage) -> None:
        """Its call may wait for the end of the transaction, but does not belong to it."""
        calling = Event()

        def write() -> int:
            calling.set()
            return storage.queue.schedule("x", "a stranger's").id

        with undone(storage) as tx:
            tx.queue.schedule("x", "undone")
            stranger = on_a_thread(write)
            assert calling.wait(TIMEOUT)
        job = storage.queue.get(stranger.result(TIMEOUT))
        assert job is not None
        assert storage.queue.list() == [job]

    def test_calls_in_a_transaction_are_made_with_nobody_elses(self, storage: Storage) -> None:
        """Single writes of many threads may be collected into one statement; those of a transaction not."""
        ready = Barrier(7)

        def write(number: int) -> int:
            ready.wait(TIMEOUT)
            storage.nonces.register(f"stranger {number}")
            storage.metrics.increment(name, 1)
            assert storage.idempotency.claim(f"stranger {number}").state is ClaimState.ACQUIRED
            return storage.queue.schedule("x", f"stranger {number}").id

        name = fresh_name()
        strangers = [on_a_thread(partial(write, number)) for number in range(6)]
        with undone(storage) as tx:
            ready.wait(TIMEOUT)
            for number in range(6):
                tx.nonces.register(f"ours {number}")
                tx.metrics.increment(name, 1000)
                tx.idempotency.claim(f"ours {number}")
                tx.queue.schedule("x", f"ours {number}")
        ids = {stranger.result(TIMEOUT) for stranger in strangers}
        assert {job.id for job in storage.queue.list()} == ids
        assert storage.metrics.read().counters[name] == 6
        for whose, stays in (("ours", False), ("stranger", True)):
            assert {storage.nonces.seen(f"{whose} {number}") for number in range(6)} == {stays}
            states = {storage.idempotency.claim(f"{whose} {number}").state for number in range(6)}
            assert states == {ClaimState.IN_PROGRESS if stays else ClaimState.ACQUIRED}

    def test_a_stranger_on_the_same_thread_is_not_concerned(self, storage: Storage) -> None:
        """A web framework enters a block on a pool's thread, which then serves other requests."""
        calling = Event()

        def write() -> int:
            calling.set()
            return storage.queue.schedule("x", "a stranger's").id

        request = Context()
        with ThreadPoolExecutor(1) as pool:
            block = storage.transaction()
            tx = pool.submit(request.run, block.__enter__).result(TIMEOUT)
            tx.queue.schedule("x", "undone")
            stranger = pool.submit(Context().run, write)
            assert calling.wait(TIMEOUT)
            with pytest.raises(Undo):
                request.run(_leave, block, Undo())
            job = storage.queue.get(stranger.result(TIMEOUT))
        assert job is not None
        assert storage.queue.list() == [job]

    def test_another_thread_does_not_see_what_was_undone(self, storage: Storage) -> None:
        calling = Event()

        def read() -> Any:
            calling.set()
            return storage.sessions.get("user")

        with undone(storage) as tx:
            tx.sessions.put("user", 1)
            other = on_a_thread(read)
            assert calling.wait(TIMEOUT)
            # The engine may keep the reader waiting until the end. If it does not, it answers now.
            wait([other], timeout=_SOON)
        assert other.result(TIMEOUT) is None

    def test_a_thread_that_was_started_inside_is_inside(self, storage: Storage) -> None:
        def refused() -> bool:
            with pytest.raises(TransactionOpen):
                storage.nonces.register("refused")
            return tx.nonces.register("accepted")

        with storage.transaction() as tx:
            assert on_a_thread(refused, inherit=True).result(TIMEOUT) is True
        assert (storage.nonces.seen("refused"), storage.nonces.seen("accepted")) == (False, True)

    def test_what_was_started_inside_may_go_on_after_the_block(self, storage: Storage) -> None:
        ended = Event()

        def work() -> bool:
            assert ended.wait(TIMEOUT)
            return storage.nonces.register("after")

        with storage.transaction() as tx:
            tx.nonces.register("inside")
            late = on_a_thread(work, inherit=True)
        ended.set()
        assert late.result(TIMEOUT) is True

    def test_other_threads_read_and_write_in_it(self, storage: Storage) -> None:
        with undone(storage) as tx:
            job = tx.queue.schedule("x", "a")
            tx.sessions.put("user", 1)

            def work() -> Any:
                (claimed,) = tx.queue.claim_due(worker_id="w")
                session = tx.sessions.update("user", lambda data: data + 1)
                return claimed.id, session.data, tx.queue.mark_posted(claimed).status

            assert on_a_thread(work).result(TIMEOUT) == (job.id, 2, JobStatus.POSTED)
            posted, session = tx.queue.get(job.id), tx.sessions.get("user")
            assert posted is not None
            assert session is not None
            assert (posted.status, session.data) == (JobStatus.POSTED, 2)
        assert storage.queue.list() == []
        assert storage.sessions.list() == []

    def test_one_call_at_a_time(self, storage: Storage) -> None:
        with storage.transaction() as tx:

            def work(index: int) -> list[int]:
                events = []
                for n in range(20):
                    events.append(tx.events.append("type", [index, n]).id)
                    tx.sessions.update("user", lambda count: count + 1, default=0)
                return events

            ids = [id for ids in together(4, work) for id in ids]
        assert len({*ids}) == 80
        assert [event.id for event in storage.events.read_after(0, limit=1000)] == sorted(ids)
        session = storage.sessions.get("user")
        assert session is not None
        assert session.data == 80

    @pytest.mark.parametrize("commit", [True, False])
    def test_entered_used_and_left_on_three_threads(self, storage: Storage, commit: bool) -> None:
        block = storage.transaction()
        tx = on_a_thread(block.__enter__).result(TIMEOUT)
        on_a_thread(lambda: tx.nonces.register("a")).result(TIMEOUT)
        leaving = on_a_thread(lambda: _leave(block, None if commit else Undo()))
        if commit:
            leaving.result(TIMEOUT)
        else:
            with pytest.raises(Undo):
                leaving.result(TIMEOUT)
        assert storage.nonces.seen("a") is commit
        with pytest.raises(StorageClosed):
            tx.nonces.seen("a")
        assert storage.nonces.register("b") is True

    def test_a_savepoint_on_three_threads(self, storage: Storage) -> None:
        with storage.transaction() as tx:
            tx.nonces.register("outer")
            block = tx.transaction()
            inner = on_a_thread(block.__enter__).result(TIMEOUT)
            on_a_thread(lambda: inner.nonces.register("inner")).result(TIMEOUT)
            with pytest.raises(Undo):
                on_a_thread(lambda: _leave(block, Undo())).result(TIMEOUT)
            assert (tx.nonces.seen("outer"), tx.nonces.seen("inner")) == (True, False)
        assert (storage.nonces.seen("outer"), storage.nonces.seen("inner")) == (True, False)

    def test_many_blocks_of_many_threads(self, storage: Storage) -> None:
        """Each is committed or undone as a whole, whatever the others do."""

        def work(index: int) -> list[str]:
            kept: list[str] = []
            for n in range(6):
                names = [f"{index}-{n}-{part}" for part in range(2)]
                block = storage.transaction()
                tx = block.__enter__()
                tx.nonces.register(names[0])
                tx.sessions.update("count", lambda count: count + 1, default=0)
                tx.nonces.register(names[1])
                if (index + n) % 2:
                    _leave(block, None)
                    kept += names
                else:
                    with pytest.raises(Undo):
                        _leave(block, Undo())
            return kept

        kept = {name for names in together(4, work) for name in names}
        tried = {f"{index}-{n}-{part}" for index in range(4) for n in range(6) for part in range(2)}
        assert {name for name in tried if storage.nonces.seen(name)} == kept
        session = storage.sessions.get("count")
        assert session is not None
        assert session.data == len(kept) // 2

    def test_a_stranger_that_was_refused_left_nothing(self, impatient_storage: Storage) -> None:
        """Its call ends while the transaction is open: it succeeds, or is refused after a limited wait."""
        storage = impatient_storage
        with undone(storage) as tx:
            tx.nonces.register("ours")
            stranger = on_a_thread(lambda: storage.nonces.register("stranger's"))
            try:
                done = stranger.result(TIMEOUT)
            except StorageUnavailable:
                done = False
            assert tx.nonces.seen("ours") is True
        assert (storage.nonces.seen("ours"), storage.nonces.seen("stranger's")) == (False, done)


def _leave(block: Any, error: BaseException | None) -> None:
    """End a block as the `with` statement does."""
    if not block.__exit__(type(error) if error else None, error, None) and error is not None:
        raise error
