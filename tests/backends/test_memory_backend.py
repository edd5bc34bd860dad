"""What is the memory engine's own: the journal, savepoints, forks, and waking a sleeper."""

from __future__ import annotations

import os
import select
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import fields
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from assistly.storage.engine.protocol import JobDraft, JsonText, NonceStore, Settlement, StorageBackend
from assistly.storage.engines.memory import MemoryBackend
from assistly.storage.engines.memory.jobs import JobRow
from assistly.storage.engines.memory.keyed import NonceRow
from assistly.storage.engines.memory.tables import LONGEST_CHUNK, Journal, Ordered, Table
from assistly.storage.errors import InvalidValue, StorageClosed
from assistly.storage.records import Job, JobStatus
from assistly.storage.storage import Storage
from forking import needs_fork

NOW = datetime(2026, 1, 15, 12, tzinfo=UTC)
LATER = NOW + timedelta(hours=1)
LATEST = datetime.max.replace(tzinfo=UTC)
EMPTY = JsonText("{}")
DEADLINE = 20.0


class Undo(Exception):
    pass


@contextmanager
def undone(backend: StorageBackend) -> Iterator[StorageBackend]:
    """A transaction that ends with an exception."""
    with suppress(Undo), backend.transaction() as tx:
        yield tx
        raise Undo


@pytest.fixture
def backend() -> MemoryBackend:
    return MemoryBackend()


def draft(key: str | None = None, *, platform: str = "x", metadata: str = "{}") -> JobDraft:
    return JobDraft(platform, "hello", JsonText(metadata), NOW, key, 3, timedelta(hours=2))


def schedule(backend: StorageBackend, key: str | None = None) -> Job:
    job = backend.jobs.insert([draft(key)], now=NOW)[0]
    assert job is not None
    return job


def claim(backend: StorageBackend, limit: int = 10) -> list[Job]:
    return [*backend.jobs.claim(worker_id="w", limit=limit, lease_until=LATER, platforms=None, now=NOW)]


def census(backend: StorageBackend) -> dict[str, Any]:
    """What every index says, and so every table."""
    return {
        "jobs": backend.jobs.list(status=None, platform=None, after=0, limit=100),
        "by status": [
            backend.jobs.list(status=status, platform=None, after=0, limit=100) for status in JobStatus
        ],
        "counts": backend.jobs.counts(),
        "by key": [backend.jobs.by_key(key) for key in ("a", "b", "c")],
        "slot": backend.jobs.in_window("x", NOW, LATER),
        "due": backend.jobs.next_due_at(),
        "leases": backend.jobs.expired(limit=100, now=LATEST),
        "sessions": backend.sessions.list(after=None, limit=100),
        "approvals": backend.approvals.list(status=None, before=None, limit=100),
        "pending": backend.approvals.list(status="pending", before=None, limit=100),
        "capped": [backend.retention.newest_beyond(kind, 0) for kind in ("approvals", "idempotency")],
        "keys": [backend.idempotency.get(key) for key in ("a", "b", "c")],
        "nonces": [backend.nonces.seen(nonce) for nonce in ("a", "b", "c")],
        "metrics": backend.metrics.read(),
        "lock": backend.lock.current("worker", now=NOW),
        "events": backend.events.list(event_type=None, before=None, limit=100),
        "typed events": backend.events.list(event_type="t", before=None, limit=100),
        "stream": backend.events.read_after(0, event_type="t", limit=100),
        "snapshots": backend.snapshots.list(),
    }


def fill(backend: StorageBackend) -> None:
    for key in ("a", "b"):
        schedule(backend, key)
    claim(backend, limit=1)
    backend.sessions.put("u", EMPTY, expected_version=None, now=NOW)
    backend.approvals.add("a", EMPTY, status="pending", created_at=NOW)
    backend.idempotency.put("a", EMPTY, saved_at=NOW)
    backend.idempotency.claim("b", fingerprint=None, token=1, lease_until=LATER, now=NOW)
    backend.nonces.register("a", 1)
    backend.metrics.increment("n", 1)
    backend.metrics.observe_latency(5)
    backend.lock.acquire("worker", "me", expires_at=LATER, now=NOW)
    backend.events.append([("t", EMPTY, NOW)])
    backend.snapshots.put("queue", EMPTY, now=NOW)


def change_everything(backend: StorageBackend) -> None:
    held = backend.jobs.expired(limit=1, now=LATEST)[0]
    backend.jobs.settle([Settlement("posted", held)], now=NOW)
    waiting = backend.jobs.list(status=JobStatus.SCHEDULED, platform=None, after=0, limit=1)[0]
    backend.jobs.remove(waiting.id)
    schedule(backend, "c")
    backend.jobs.dead_letter_late(limit=10, platforms=None, reason="missed", now=LATER + timedelta(hours=2))
    backend.sessions.delete("u")
    backend.sessions.put("v", EMPTY, expected_version=0, now=NOW)
    backend.approvals.decide("a", "approved", expected="pending", payload=JsonText("[]"), now=NOW)
    backend.approvals.add("b", EMPTY, status="pending", created_at=NOW)
    backend.idempotency.complete("b", 1, JsonText("1"), now=LATER)
    backend.idempotency.put("c", EMPTY, saved_at=NOW)
    backend.nonces.register("b", 1)
    backend.retention.delete_nonces(2, limit=1)
    backend.metrics.increment("n", 1)
    backend.metrics.observe_latency(7)
    backend.lock.release("worker", "me", 1, now=NOW)
    backend.events.append([("t", EMPTY, LATER)])
    backend.retention.delete_older("events", LATER, limit=1)
    backend.snapshots.put("queue", JsonText("1"), now=LATER)
    backend.retention.begin_prune(now=NOW, interval=timedelta(0))


class TestTransaction:
    def test_an_exception_undoes_every_kind_of_change(self, backend: MemoryBackend) -> None:
        fill(backend)
        before = census(backend)
        with undone(backend) as tx:
            change_everything(tx)
            changed = census(tx)
        assert census(backend) == before
        assert {name for name in before if before[name] == changed[name]} <= {"slot", "due"}
        assert backend.retention.begin_prune(now=NOW, interval=timedelta(minutes=1))

    def test_what_was_undone_can_be_done_again(self, backend: MemoryBackend) -> None:
        fill(backend)
        with undone(backend) as tx:
            change_everything(tx)
        with backend.transaction() as tx:
            change_everything(tx)
        assert backend.jobs.counts()[JobStatus.POSTED] == 1

    def test_a_nested_one_is_a_savepoint(self, backend: MemoryBackend) -> None:
        with backend.transaction() as outer:
            outer.nonces.register("a", 1)
            with undone(outer) as inner:
                inner.nonces.register("b", 1)
                with inner.transaction() as innermost:
                    innermost.nonces.register("c", 1)
            with outer.transaction() as inner:
                inner.nonces.register("d", 1)
        assert [backend.nonces.seen(nonce) for nonce in "abcd"] == [True, False, False, True]

    def test_the_outer_one_undoes_a_nested_one_that_ended_well(self, backend: MemoryBackend) -> None:
        with undone(backend) as outer, outer.transaction() as inner:
            inner.nonces.register("a", 1)
        assert not backend.nonces.seen("a")

    def test_calls_on_the_backend_itself_join_it(self, backend: MemoryBackend) -> None:
        with undone(backend):
            backend.nonces.register("a", 1)
        assert not backend.nonces.seen("a")

    def test_other_threads_wait_for_its_end(self, backend: MemoryBackend) -> None:
        seen: list[bool] = []
        thread = threading.Thread(target=lambda: seen.append(backend.nonces.seen("b")), daemon=True)
        with backend.transaction() as tx:
            tx.nonces.register("a", 1)
            thread.start()
            tx.nonces.register("b", 1)
        thread.join(DEADLINE)
        assert seen == [True]

    def test_the_yielded_backend_ends_with_the_block(self, backend: MemoryBackend) -> None:
        with backend.transaction() as tx:
            pass
        with pytest.raises(StorageClosed):
            tx.nonces.seen("a")
        with pytest.raises(StorageClosed):
            tx.now()
        with pytest.raises(StorageClosed), tx.transaction():
            pass

    def test_an_id_is_never_given_twice(self, backend: MemoryBackend) -> None:
        first = schedule(backend)
        with undone(backend) as tx:
            second = schedule(tx)
        backend.jobs.remove(first.id)
        assert schedule(backend).id > second.id > first.id


class TestFailure:
    def test_a_call_that_fails_midway_changes_nothing(self, backend: MemoryBackend) -> None:
        before = census(backend)
        with pytest.raises(ValueError, match="Expecting"):
            backend.jobs.insert([draft("a"), draft("b", metadata="no JSON")], now=NOW)
        assert census(backend) == before

    def test_in_a_transaction_it_undoes_itself_alone(self, backend: MemoryBackend) -> None:
        with backend.transaction() as tx:
            tx.jobs.insert([draft("a")], now=NOW)
            with pytest.raises(ValueError, match="Expecting"):
                tx.jobs.insert([draft("b"), draft("c", metadata="no JSON")], now=NOW)
        assert [job.idempotency_key for job in claim(backend)] == ["a"]

    def test_an_interrupted_nonce_is_undone_alone(
        self, backend: MemoryBackend, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def interrupt(*_: object) -> None:
            raise KeyboardInterrupt

        def interrupted(nonces: NonceStore, timestamp_ms: int) -> None:
            with monkeypatch.context() as patch:
                patch.setattr(Ordered, "add", interrupt)
                with pytest.raises(KeyboardInterrupt):
                    nonces.register("b", timestamp_ms)
            assert not nonces.seen("b")

        with backend.transaction() as tx:
            tx.nonces.register("a", 1)
            interrupted(tx.nonces, 1)
        interrupted(backend.nonces, 0)
        assert backend.nonces.register("b", 1)
        assert backend.retention.delete_nonces(2, limit=9) == 2

    @pytest.mark.parametrize("is_late", [False, True])
    def test_an_interrupt_between_the_two_steps_of_a_nonce(
        self, backend: MemoryBackend, is_late: bool
    ) -> None:
        class Interrupting(dict[str, NonceRow]):
            def __setitem__(self, nonce: str, row: NonceRow) -> None:
                if nonce != "cut off":
                    super().__setitem__(nonce, row)
                elif is_late:
                    super().__setitem__(nonce, row)
                    raise KeyboardInterrupt
                else:
                    raise KeyboardInterrupt

        table = backend._tables.nonces
        backend.nonces.register("before", 1)
        table.rows = Interrupting(table.rows)
        with pytest.raises(KeyboardInterrupt):
            backend.nonces.register("cut off", 2)
        table.rows = dict(table.rows)
        assert backend.nonces.register("cut off", 4) is not is_late
        assert backend.nonces.register("after", 3)
        assert backend.retention.delete_nonces(3, limit=9) == (2 if is_late else 1)
        assert backend.nonces.seen("cut off") is not is_late
        assert backend.retention.delete_nonces(5, limit=9) == (1 if is_late else 2)
        assert not any(backend.nonces.seen(nonce) for nonce in ("before", "cut off", "after"))

    def test_a_nonce_leaves_nothing_to_undo(self, backend: MemoryBackend) -> None:
        backend.nonces.register("a", 1)
        assert backend._database.journal.entries == []

    @pytest.mark.parametrize("skipped", range(14))
    def test_an_interrupt_between_two_steps_of_a_change(
        self, backend: MemoryBackend, monkeypatch: pytest.MonkeyPatch, skipped: int
    ) -> None:
        fill(backend)
        before = census(backend)
        steps = count()

        def interrupted(step: Callable[..., None]) -> Callable[..., None]:
            def run(*args: object) -> None:
                if next(steps) == skipped:
                    raise KeyboardInterrupt
                step(*args)

            return run

        def claim_and_schedule() -> None:
            with backend.transaction() as tx:
                claim(tx)
                schedule(tx, "c")

        with monkeypatch.context() as patch:
            for step in (Ordered.add, Ordered.update):
                patch.setattr(Ordered, step.__name__, interrupted(step))
            with pytest.raises(KeyboardInterrupt):
                claim_and_schedule()
        assert census(backend) == before
        change_everything(backend)

    def test_it_is_closed(self, backend: MemoryBackend) -> None:
        backend.close()
        backend.close()
        for call in (backend.ping, backend.now, backend.migrate, backend.jobs.counts, backend.metrics.read):
            with pytest.raises(StorageClosed):
                call()
        with pytest.raises(StorageClosed), backend.transaction():
            pass

    def test_it_has_nothing_to_bind_to(self, backend: MemoryBackend) -> None:
        with pytest.raises(InvalidValue):
            backend.bind(object())


def child_says(work: Callable[[], str]) -> str:
    """What `work` returns in a forked child, or how it failed there."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            answer = work()
        except BaseException as error:  # noqa: BLE001 - the parent reports it
            answer = repr(error)
        os.write(writer, answer.encode())
        os._exit(0)
    os.close(writer)
    try:
        ready, _, _ = select.select([reader], [], [], DEADLINE)
        return os.read(reader, 4096).decode() if ready else "the child hangs"
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        os.close(reader)


@contextmanager
def elsewhere(work: Callable[[], AbstractContextManager[None]]) -> Iterator[None]:
    """Another thread is inside the context of `work` while the block runs."""
    inside, leave = threading.Event(), threading.Event()

    def run() -> None:
        with work():
            inside.set()
            leave.wait(DEADLINE)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    assert inside.wait(DEADLINE)
    yield
    leave.set()
    thread.join(DEADLINE)


@needs_fork
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
class TestFork:
    def test_a_child_has_a_copy_of_its_own(self, backend: MemoryBackend) -> None:
        backend.nonces.register("a", 1)
        answer = child_says(lambda: f"{backend.nonces.register('a', 1)} {backend.nonces.register('b', 1)}")
        assert answer == "False True"
        assert not backend.nonces.seen("b")

    def test_a_transaction_of_another_thread_is_undone_in_the_child(self, backend: MemoryBackend) -> None:
        fill(backend)
        before = census(backend)

        @contextmanager
        def open_transaction() -> Iterator[None]:
            with backend.transaction() as tx:
                change_everything(tx)
                yield

        def check() -> str:
            same = census(backend) == before
            change_everything(backend)
            return f"{same} {backend.jobs.counts()[JobStatus.POSTED]}"

        with elsewhere(open_transaction):
            answer = child_says(check)
        assert answer == "True 1"
        assert backend.jobs.counts()[JobStatus.POSTED] == 1

    def test_a_transaction_of_the_forking_thread_goes_on_in_both(self, backend: MemoryBackend) -> None:
        with backend.transaction() as tx:
            tx.nonces.register("a", 1)

            def go_on() -> str:
                return f"{tx.nonces.register('b', 1)} {backend.nonces.seen('a')}"

            assert child_says(go_on) == "True True"
        assert backend.nonces.seen("a")
        assert not backend.nonces.seen("b")

    def test_a_child_has_no_tokens_of_its_parents(self, backend: MemoryBackend) -> None:
        keys = Storage(backend, auto_prune=False).idempotency
        keys.claim("drawn ahead")
        tokens = {child_says(lambda: str(keys.claim("key").token)) for _ in range(3)}
        tokens.add(str(keys.claim("key").token))
        assert len(tokens) == 4

    def test_a_sleeper_of_another_thread_is_no_obstacle(self, backend: MemoryBackend) -> None:
        asleep = threading.Thread(target=backend.jobs.wait, args=(DEADLINE,), daemon=True)
        asleep.start()
        assert child_says(lambda: str(schedule(backend).id)) == "1"
        backend.close()
        asleep.join(DEADLINE)


def asleep(backend: StorageBackend) -> threading.Thread:
    """A thread that has looked for work, found none that it likes, and waits for a change."""
    looked = threading.Event()

    def look_and_wait() -> None:
        backend.jobs.next_due_at()
        looked.set()
        with suppress(StorageClosed):
            backend.jobs.wait(10 * DEADLINE)

    thread = threading.Thread(target=look_and_wait, daemon=True)
    thread.start()
    assert looked.wait(DEADLINE)
    return thread


def stored(backend: StorageBackend, id: int) -> Job:
    job = backend.jobs.get(id)
    assert job is not None
    return job


def slept_through(backend: StorageBackend) -> bool:
    nap = 0.05
    start = time.monotonic()
    backend.jobs.wait(nap)
    return time.monotonic() - start >= nap


class TestWait:
    @pytest.mark.parametrize(
        "change",
        [
            schedule,
            lambda backend: backend.jobs.reschedule(1, NOW, content=None, metadata=None, now=NOW),
            lambda backend: backend.jobs.settle([Settlement("released", stored(backend, 2))], now=NOW),
            lambda backend: backend.jobs.settle([Settlement("failed", stored(backend, 2), at=NOW)], now=NOW),
            lambda backend: backend.jobs.replay(3, NOW, now=NOW),
            lambda backend: backend.jobs.replay_many(platform=None, limit=None, scheduled_at=NOW, now=NOW),
            lambda backend: backend.jobs.remove(1),
            lambda backend: backend.close(),
        ],
        ids=["insert", "reschedule", "release", "fail", "replay", "replay_many", "remove", "close"],
    )
    def test_a_change_wakes_a_sleeper(
        self, backend: MemoryBackend, change: Callable[[StorageBackend], object]
    ) -> None:
        backend.jobs.insert([draft(platform="z"), draft(), draft()], now=NOW)
        backend.jobs.claim(worker_id="w", limit=2, lease_until=LATER, platforms=["x"], now=NOW)
        backend.jobs.settle([Settlement("failed", stored(backend, 3), final=True)], now=NOW)
        sleeper = asleep(backend)
        change(backend)
        sleeper.join(DEADLINE)
        assert not sleeper.is_alive()

    def test_a_change_between_the_look_and_the_sleep_counts_once(self, backend: MemoryBackend) -> None:
        backend.jobs.next_due_at()
        schedule(backend)
        assert not slept_through(backend)
        assert slept_through(backend)

    def test_a_change_that_was_seen_does_not_count(self, backend: MemoryBackend) -> None:
        schedule(backend)
        backend.jobs.next_due_at()
        assert slept_through(backend)

    def test_a_commit_wakes_and_a_rollback_does_not(self, backend: MemoryBackend) -> None:
        backend.jobs.next_due_at()
        with undone(backend) as tx:
            schedule(tx)
        assert slept_through(backend)
        backend.jobs.next_due_at()
        with backend.transaction() as tx:
            schedule(tx)
        assert not slept_through(backend)

    def test_what_can_bring_no_work_does_not_wake(self, backend: MemoryBackend) -> None:
        schedule(backend)
        backend.jobs.next_due_at()
        held = claim(backend)[0]
        backend.jobs.begin_publish(held.id, held.claim, now=NOW)
        backend.jobs.settle([Settlement("posted", held)], now=NOW)
        assert slept_through(backend)


class TestNonces:
    def test_the_oldest_go_first_whatever_order_they_came_in(self, backend: MemoryBackend) -> None:
        ascending = [(f"a{number}", number // 3) for number in range(2500)]
        scattered = [(f"s{number}", number * 7919 % 900) for number in range(600)]
        nonces = [*ascending, *scattered, ("last", 2000)]
        for nonce, timestamp_ms in nonces:
            assert backend.nonces.register(nonce, timestamp_ms)
        assert max(map(len, backend._tables.nonces.by_time.chunks)) <= LONGEST_CHUNK
        expected = sorted(nonces, key=lambda nonce: nonce[1])
        while expected[0][1] < 800:
            old = sum(moment < 800 for _, moment in expected)
            assert backend.retention.delete_nonces(800, limit=700) == min(old, 700)
            del expected[: min(old, 700)]
            assert {nonce for nonce, _ in nonces if backend.nonces.seen(nonce)} == {*dict(expected)}
        assert backend.retention.delete_nonces(800, limit=700) == 0


class TestIndex:
    def test_a_row_has_the_fields_of_a_job_in_its_order(self) -> None:
        assert JobRow._fields == tuple(field.name for field in fields(Job))

    @given(st.lists(st.tuples(st.integers(0, 30), st.integers(0, 3000)), max_size=60), st.integers(0, 31))
    def test_it_agrees_with_a_sorted_list(self, spans: list[tuple[int, int]], probe: int) -> None:
        journal = Journal()
        index: Ordered[tuple[int, int]] = Ordered(lambda row: row)
        table: Table[tuple[int, int], tuple[int, int]] = Table(journal, index)
        for group, start in spans:
            for key in ((group, number) for number in range(start, start + 100)):
                if key in table.rows:
                    table.delete(key)
                else:
                    table.put(key, key)
        expected = sorted(table.rows)
        above = [key for key in expected if key >= (probe,)]
        below = [key for key in expected if key < (probe,)]
        assert [*index.ascending()] == expected
        assert [*index.ascending((probe,))] == above
        assert [*index.descending((probe,))] == below[::-1]
        assert index.rank((probe,)) == len(below)
        journal.undo(0)
        assert [*index.ascending()] == []
        assert table.rows == {}
