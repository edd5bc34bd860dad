"""A forked child can use the storage that it inherits, or is refused, and does not harm the parent's."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from functools import partial
from multiprocessing.connection import Connection
from threading import Event
from typing import Any

import pytest

from ..engine.protocol import StorageBackend
from ..errors import StorageClosed, StorageUnavailable
from ..records import Job, NewJob
from ..storage import Storage
from .engine_spec import EngineSpec
from .fixtures import (
    START,
    Contract,
    FakeClock,
    Undo,
    needs_durability,
    needs_processes,
    on_a_thread,
    open_for_test,
    undone,
)
from .forking import TIMEOUT, ForkedChild, needs_fork

REFUSED = "refused"

_AT_ONCE = 8.0
"""Seconds in which two calls must be refused. Waiting for two locks would take far longer."""


def _unless_refused(call: Callable[[], Any]) -> Any:
    """Return the result of the call, or REFUSED. A child must be refused at once, and on every call."""
    began = time.monotonic()
    try:
        return call()
    except StorageUnavailable:
        with pytest.raises(StorageUnavailable):
            call()
        assert time.monotonic() - began < _AT_ONCE, "the child had to wait for its refusal"
        return REFUSED


def _write_events(storage: Storage, event_type: str, count: int) -> list[int]:
    return [storage.events.append(event_type, n).id for n in range(count)]


def _claimed_one_by_one(storage: Storage, worker: str) -> list[int]:
    ids: list[int] = []
    while jobs := storage.queue.claim_due(worker_id=worker, limit=1):
        ids += [job.id for job in jobs]
    return ids


@needs_fork
class ForkContract(Contract):
    """Every test forks a real child.

    With an engine that shares data between processes (`multi_process`) the child works on the same data, with
    an engine in memory on a copy. A child may be refused only if a transaction or a write was in progress at
    the fork: with StorageUnavailable, at once and on every call.
    """

    @pytest.fixture
    def shared(self, backend: StorageBackend) -> bool:
        if not (backend.multi_process or backend.in_process):
            pytest.skip("the engine says that one process at a time may use its data (multi_process)")
        return backend.multi_process

    def test_a_child_goes_on_with_what_it_inherited(self, storage: Storage, shared: bool) -> None:
        job = storage.queue.schedule("x", "the parent's")

        def work(_: Connection) -> tuple[Job, list[Job]]:
            mine = storage.queue.schedule("x", "the child's")
            assert storage.queue.list() == [job, mine]
            return mine, storage.queue.claim_due(worker_id="child")

        mine, claimed = ForkedChild(work).result()
        later = storage.queue.schedule("x", "later")
        assert [one.id for one in claimed] == [job.id, mine.id]
        assert storage.queue.list() == ([*claimed, later] if shared else [job, later])

    def test_parent_and_child_write_at_the_same_time(self, storage: Storage, shared: bool) -> None:
        storage.events.append("before", 1)

        def work(pipe: Connection) -> list[int]:
            pipe.send("ready")
            return _write_events(storage, "child", 30)

        child = ForkedChild(work)
        child.receive()
        ours = _write_events(storage, "parent", 30)
        theirs = child.result()
        assert [event.id for event in storage.events.read_after(0, event_type="parent")] == ours
        found = [event.id for event in storage.events.read_after(0, event_type="child")]
        assert found == (theirs if shared else [])
        assert not shared or not {*ours} & {*theirs}

    def test_they_take_turns(self, storage: Storage, shared: bool) -> None:
        """Neither reads the other's answers, and each sees at once what the other has stored."""
        storage.sessions.put("turns", 0)

        def work(pipe: Connection) -> int:
            while (turn := pipe.recv()) is not None:
                session = storage.sessions.update("turns", lambda count: count + 1)
                pipe.send((turn, session.data))
            session_or_none = storage.sessions.get("turns")
            assert session_or_none is not None
            return int(session_or_none.data)

        child = ForkedChild(work)
        for turn in range(10):
            child.send(turn)
            assert child.receive() == (turn, 2 * turn + 1 if shared else turn + 1)
            session = storage.sessions.update("turns", lambda count: count + 1)
            assert session.data == (2 * turn + 2 if shared else turn + 1)
        child.send(None)
        assert child.result() == (20 if shared else 10)

    def test_no_job_goes_to_both(
        self, backend: StorageBackend, storage: Storage, maybe_spec: EngineSpec | None
    ) -> None:
        needs_processes(backend, maybe_spec)
        jobs = storage.queue.schedule_many(NewJob("x", "a") for _ in range(40))
        storage.queue.get(jobs[0].id)

        def work(pipe: Connection) -> list[int]:
            pipe.send("ready")
            return _claimed_one_by_one(storage, "child")

        child = ForkedChild(work)
        child.receive()
        ours = _claimed_one_by_one(storage, "parent")
        theirs = child.result()
        assert sorted(ours + theirs) == [job.id for job in jobs]

    def test_transactions_of_the_child(self, storage: Storage, shared: bool) -> None:
        storage.nonces.register("before")

        def work(_: Connection) -> list[bool]:
            with storage.transaction() as tx:
                tx.nonces.register("kept")
                with undone(tx) as inner:
                    inner.nonces.register("inner")
            with undone(storage) as tx:
                tx.nonces.register("undone")
            return [storage.nonces.seen(nonce) for nonce in ("before", "kept", "inner", "undone")]

        assert ForkedChild(work).result() == [True, True, False, False]
        assert storage.nonces.seen("kept") is shared
        with storage.transaction() as tx:
            tx.nonces.register("parent's")
        assert storage.nonces.seen("parent's") is True

    @pytest.mark.parametrize("commit", [True, False])
    def test_a_transaction_that_is_open_at_the_fork_is_the_parents(
        self, storage: Storage, shared: bool, commit: bool
    ) -> None:
        storage.nonces.register("before")
        block = storage.transaction()
        tx = block.__enter__()
        tx.nonces.register("inside")

        def work(pipe: Connection) -> Any:
            for call in (
                lambda: tx.nonces.seen("before"),
                lambda: tx.nonces.register("through tx"),
                lambda: block.__exit__(None, None, None),
            ):
                with pytest.raises(StorageClosed):
                    call()
            block.__exit__(Undo, Undo(), None)
            pipe.send("left")
            pipe.recv()
            return _unless_refused(
                lambda: [
                    storage.nonces.register("child's"),
                    *map(storage.nonces.seen, ("before", "inside", "through tx")),
                ]
            )

        child = ForkedChild(work)
        child.receive()
        tx.nonces.register("after")
        if commit:
            block.__exit__(None, None, None)
        else:
            block.__exit__(Undo, Undo(), None)
        child.send("ended")
        answer = child.result()
        assert [*map(storage.nonces.seen, ("before", "inside", "after"))] == [True, commit, commit]
        assert storage.nonces.seen("through tx") is False
        if answer != REFUSED:
            assert answer == [True, True, commit and shared, False]
            assert storage.nonces.seen("child's") is shared

    def test_a_transaction_of_another_thread_at_the_fork(self, storage: Storage, shared: bool) -> None:
        inside, leave = Event(), Event()

        def transact() -> None:
            with storage.transaction() as tx:
                tx.nonces.register("inside")
                inside.set()
                assert leave.wait(TIMEOUT)
                tx.nonces.register("after")

        transaction = on_a_thread(transact)
        assert inside.wait(TIMEOUT)

        def work(pipe: Connection) -> Any:
            seen = _unless_refused(lambda: storage.nonces.seen("inside"))
            pipe.send("looked")
            pipe.recv()
            return seen, _unless_refused(lambda: storage.nonces.register("child's"))

        child = ForkedChild(work)
        child.receive()
        leave.set()
        transaction.result(TIMEOUT)
        child.send("ended")
        seen, registered = child.result()
        assert seen in (False, REFUSED)
        assert [*map(storage.nonces.seen, ("inside", "after"))] == [True, True]
        assert registered in (True, REFUSED)
        assert storage.nonces.seen("child's") is (shared and registered is True)

    def test_threads_that_write_at_the_fork(self, storage: Storage, shared: bool) -> None:
        stop = Event()
        written: list[list[str]] = [[] for _ in range(3)]

        def write(number: int) -> None:
            while not stop.is_set():
                nonce = f"{number}-{len(written[number])}"
                assert storage.nonces.register(nonce) is True
                written[number].append(nonce)

        writers = [on_a_thread(partial(write, number)) for number in range(3)]
        answers = []
        for number in range(3):
            before = [len(own) for own in written]
            while [len(own) for own in written] <= before:
                assert not any(writer.done() for writer in writers)
                time.sleep(0.001)
            child = ForkedChild(
                lambda _, number=number: _unless_refused(  # type: ignore[misc]
                    lambda: [storage.nonces.register(f"child {number}, {n}") for n in range(5)]
                )
            )
            answers.append(child.result())
        stop.set()
        for writer in writers:
            writer.result(TIMEOUT)
        assert all(storage.nonces.seen(nonce) for own in written for nonce in own)
        for number, answer in enumerate(answers):
            assert answer in ([True] * 5, REFUSED)
            seen = [storage.nonces.seen(f"child {number}, {n}") for n in range(5)]
            assert seen == [shared and answer != REFUSED] * 5

    def test_a_child_of_a_child(self, storage: Storage, shared: bool) -> None:
        storage.nonces.register("parent's")

        def grandchild(_: Connection) -> list[bool]:
            storage.nonces.register("grandchild's")
            return [*map(storage.nonces.seen, ("parent's", "child's", "grandchild's"))]

        def work(_: Connection) -> tuple[list[bool], bool]:
            storage.nonces.register("child's")
            theirs = ForkedChild(grandchild).result()
            return theirs, storage.nonces.seen("grandchild's")

        assert ForkedChild(work).result() == ([True, True, True], shared)
        assert [*map(storage.nonces.seen, ("child's", "grandchild's"))] == [shared, shared]
        assert storage.nonces.register("after") is True

    def test_a_child_that_closes_takes_nothing_away(self, storage: Storage, shared: bool) -> None:
        storage.nonces.register("before")

        def work(_: Connection) -> bool:
            registered = storage.nonces.register("child's")
            storage.close()
            with pytest.raises(StorageClosed):
                storage.nonces.seen("before")
            return registered

        assert ForkedChild(work).result() is True
        assert [*map(storage.nonces.seen, ("before", "child's"))] == [True, shared]
        assert storage.nonces.register("after") is True

    def test_a_child_that_closes_unused(self, storage: Storage, shared: bool) -> None:
        storage.nonces.register("before")
        assert ForkedChild(lambda _: storage.close()).result() is None
        assert storage.nonces.register("after") is True

    def test_waiting_in_a_child(self, storage: Storage, shared: bool) -> None:
        storage.queue.wait(0)

        def work(_: Connection) -> tuple[bool, bool]:
            nothing = storage.queue.wait(0)
            storage.queue.schedule("x", "a", START)
            return nothing, storage.queue.wait(TIMEOUT)

        assert ForkedChild(work).result() == (False, True)

    @pytest.fixture
    def unopened(
        self, backend: StorageBackend, maybe_new_spec: Callable[[], EngineSpec] | None
    ) -> EngineSpec:
        """Data that no other connection keeps open."""
        needs_processes(backend, maybe_new_spec)
        return needs_durability(backend, maybe_new_spec)()

    def test_the_parent_closes_first(self, unopened: EngineSpec, clock: FakeClock) -> None:
        """And another storage of the parent's opens and closes the same data meanwhile."""
        inherited = open_for_test(unopened.open(), clock)
        inherited.events.append("parent", 0)

        def work(pipe: Connection) -> list[int]:
            ids = _write_events(inherited, "child", 3)
            for _ in range(2):
                pipe.send("written")
                pipe.recv()
                ids += _write_events(inherited, "child", 3)
            return ids

        child = ForkedChild(work)
        child.receive()
        inherited.close()
        child.send("closed")
        child.receive()
        with open_for_test(unopened.open(), clock) as other:
            other.events.append("parent", 1)
        child.send("opened and closed")
        ids = child.result()
        with open_for_test(unopened.open(), clock) as other:
            assert [event.id for event in other.events.read_after(0, event_type="child")] == ids
            assert len(other.events.list(event_type="parent")) == 2

    def test_the_parent_exits_first(self, unopened: EngineSpec, clock: FakeClock) -> None:
        """As a program does that goes to the background."""

        def background(pipe: Connection, parent: int, inherited: Storage) -> list[int]:
            deadline = time.monotonic() + TIMEOUT
            while os.getppid() == parent:
                assert time.monotonic() < deadline
                time.sleep(0.001)
            ids = _write_events(inherited, "child", 5)
            pipe.send(ids)
            return ids

        def work(pipe: Connection) -> None:
            inherited = open_for_test(unopened.open(), clock)
            inherited.events.append("parent", 0)
            parent = os.getpid()
            ForkedChild(lambda _: background(pipe, parent, inherited))
            os._exit(0)

        middle = ForkedChild(work)
        ids = middle.receive()
        middle.join()
        with open_for_test(unopened.open(), clock) as other:
            assert [event.id for event in other.events.read_after(0, event_type="child")] == ids
            assert len(other.events.list(event_type="parent")) == 1

    def test_two_children_and_their_parent_share_the_jobs(
        self, unopened: EngineSpec, clock: FakeClock
    ) -> None:
        """As a server does that loads the application before it forks its workers."""
        inherited = open_for_test(unopened.open(), clock)
        jobs = inherited.queue.schedule_many(NewJob("x", "a") for _ in range(30))
        inherited.queue.get(jobs[0].id)

        def work(pipe: Connection) -> list[int]:
            pipe.recv()
            return _claimed_one_by_one(inherited, f"worker {os.getpid()}")

        children = [ForkedChild(work) for _ in range(2)]
        for child in children:
            child.send("go")
        ids = [
            *_claimed_one_by_one(inherited, "parent"),
            *(id for child in children for id in child.result()),
        ]
        inherited.close()
        assert sorted(ids) == [job.id for job in jobs]
        with open_for_test(unopened.open(), clock) as other:
            assert {job.claim for job in other.queue.list()} == {1}
