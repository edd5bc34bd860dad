"""What the memory engine adds to the contract: interrupts, forks, close, and who waits for whom."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from multiprocessing.connection import Connection
from typing import Any

import pytest

from assistly.storage import Storage
from assistly.storage.engine import JobDraft, JsonText, Settlement, StorageBackend
from assistly.storage.engine.keyvalue import backend as keyvalue_backend
from assistly.storage.engines import memory
from assistly.storage.engines.memory import MemoryBackend
from assistly.storage.errors import InvalidValue, StorageClosed, StorageUnavailable
from assistly.storage.records import Job, JobStatus
from assistly.storage.testing.forking import ForkedChild, needs_fork

NOW = datetime(2026, 1, 15, 12, tzinfo=UTC)
LATER = NOW + timedelta(hours=1)
LATEST = datetime.max.replace(tzinfo=UTC)
EMPTY = JsonText("{}")
PATIENCE = 20.0


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
    """What every table says, by every order that it is kept in."""
    return {
        "jobs": backend.jobs.list(status=None, platform=None, after=0, limit=100),
        "by status": [
            backend.jobs.list(status=status, platform=None, after=0, limit=100) for status in JobStatus
        ],
        "counts": backend.jobs.counts(),
        "by key": [backend.jobs.by_key(key) for key in ("a", "b", "c")],
        "slot": backend.jobs.in_window("x", NOW, LATER),
        "waiting": backend.jobs.waiting(until=None, platforms=None, after=None, limit=100),
        "late": backend.jobs.late(limit=100, platforms=None, now=LATEST),
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
    backend.retention.delete_older("nonces", NOW, limit=1)
    backend.metrics.increment("n", 1)
    backend.metrics.observe_latency(7)
    backend.lock.release("worker", "me", 1, now=NOW)
    backend.events.append([("t", EMPTY, LATER)])
    backend.retention.delete_older("events", LATER, limit=1)
    backend.snapshots.put("queue", JsonText("1"), now=LATER)
    backend.retention.begin_prune(now=NOW, interval=timedelta(0))


def started(work: Callable[[], Any]) -> Future[Any]:
    """`work` on a thread of its own."""
    executor = ThreadPoolExecutor(1)
    future = executor.submit(work)
    executor.shutdown(wait=False)
    return future


def keys_of(backend: MemoryBackend) -> Any:
    """What its commits add keys to."""
    store: Any = backend._store
    return store._committed._keys


class TestTransactions:
    def test_an_exception_undoes_every_kind_of_change(self, backend: MemoryBackend) -> None:
        fill(backend)
        before = census(backend)
        with undone(backend) as tx:
            change_everything(tx)
            changed = census(tx)
        assert census(backend) == before
        assert {name for name in before if before[name] == changed[name]} <= {"slot"}
        assert backend.retention.begin_prune(now=NOW, interval=timedelta(minutes=1))

    def test_what_was_undone_can_be_done_again(self, backend: MemoryBackend) -> None:
        fill(backend)
        with undone(backend) as tx:
            change_everything(tx)
        with backend.transaction() as tx:
            change_everything(tx)
            changed = census(tx)
        assert census(backend) == changed

    def test_a_savepoint_undoes_every_kind_of_change(self, backend: MemoryBackend) -> None:
        with backend.transaction() as tx:
            fill(tx)
            before = census(tx)
            with undone(tx) as inner:
                change_everything(inner)
            assert census(tx) == before
        assert census(backend) == before

    def test_readers_go_on_and_see_what_was_there_before(self, backend: MemoryBackend) -> None:
        fill(backend)
        before = census(backend)
        with backend.transaction() as tx:
            change_everything(tx)
            assert started(lambda: census(backend)).result(PATIENCE) == before
        assert census(backend) != before

    def test_a_writer_waits_for_its_end(self, backend: MemoryBackend) -> None:
        with backend.transaction() as tx:
            tx.nonces.register("a", 1)
            writer = started(lambda: backend.nonces.register("a", 1))
        assert writer.result(PATIENCE) is False

    def test_a_writer_does_not_wait_for_ever(
        self, backend: MemoryBackend, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(keyvalue_backend, "LOCK_SECONDS", 0.01)
        with backend.transaction() as tx:
            with pytest.raises(StorageUnavailable, match="did not end within"):
                backend.nonces.register("a", 1)
            tx.nonces.register("b", 1)
        assert [backend.nonces.seen(nonce) for nonce in ("a", "b")] == [False, True]

    def test_nobody_waits_for_ever_for_a_lock_that_was_left_held(
        self, backend: MemoryBackend, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """As after a KeyboardInterrupt right after it was acquired, which the application caught."""
        backend.nonces.register("a", 1)
        monkeypatch.setattr(memory, "LOCK_SECONDS", 0.01)
        store: Any = backend._store
        # The thread lives on: another one could get its number, and so its lock.
        with ThreadPoolExecutor(1) as holder:
            holder.submit(store._lock.acquire).result(PATIENCE)
            self._check_that_nobody_waits(backend)

    def _check_that_nobody_waits(self, backend: MemoryBackend) -> None:
        calls: list[Callable[[], Any]] = [
            lambda: backend.nonces.seen("a"),
            lambda: backend.nonces.register("b", 1),
            lambda: backend.jobs.counts(),
        ]
        for call in calls:
            with pytest.raises(StorageUnavailable, match="open a new storage"):
                started(call).result(PATIENCE)
        with pytest.raises(StorageUnavailable), backend.transaction() as tx:
            tx.nonces.register("c", 1)

    def test_begun_used_and_ended_on_three_threads(self, backend: MemoryBackend) -> None:
        block = backend.transaction()
        tx = started(block.__enter__).result(PATIENCE)
        started(lambda: fill(tx)).result(PATIENCE)
        started(lambda: block.__exit__(None, None, None)).result(PATIENCE)
        assert backend.nonces.seen("a")


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

    @pytest.mark.parametrize("at", [*range(0, 40, 3)])
    @pytest.mark.parametrize("step", ["add", "discard"])
    def test_an_interrupt_in_the_middle_of_a_commit(
        self, backend: MemoryBackend, monkeypatch: pytest.MonkeyPatch, step: str, at: int
    ) -> None:
        """All of the transaction is stored, or nothing, and what comes afterwards works."""
        fill(backend)
        before = census(backend)
        steps = 0
        keys = keys_of(backend)
        plain = getattr(keys, step)

        def interrupted(key: bytes) -> None:
            nonlocal steps
            steps += 1
            if steps == at + 1:
                raise KeyboardInterrupt
            plain(key)

        changed: dict[str, Any] = {}
        with monkeypatch.context() as patch:
            patch.setattr(keys, step, interrupted)
            with suppress(KeyboardInterrupt), backend.transaction() as tx:
                change_everything(tx)
                changed = census(tx)
        assert changed != before
        assert census(backend) == changed
        backend.jobs.insert([draft("d")], now=NOW)
        assert len(claim(backend)) == 1

    def test_closed(self, backend: MemoryBackend) -> None:
        backend.ping()
        backend.close()
        backend.close()
        for call in (backend.ping, backend.now, backend.migrate, backend.jobs.counts, backend.metrics.read):
            with pytest.raises(StorageClosed):
                call()
        with pytest.raises(StorageClosed), backend.transaction():
            pass

    def test_a_writer_that_waits_when_it_is_closed(self, backend: MemoryBackend) -> None:
        block = backend.transaction()
        block.__enter__()
        writer = started(lambda: backend.nonces.register("a", 1))
        backend.close()
        with pytest.raises(StorageClosed):
            writer.result(PATIENCE)
        with pytest.raises(StorageClosed):
            block.__exit__(None, None, None)

    def test_it_has_nothing_to_bind_to(self, backend: MemoryBackend) -> None:
        with pytest.raises(InvalidValue):
            backend.bind(object())


@needs_fork
class TestForks:
    def test_a_transaction_of_another_thread_is_undone_in_the_child(self, backend: MemoryBackend) -> None:
        fill(backend)
        before = census(backend)

        def work(_: Connection) -> tuple[bool, int]:
            same = census(backend) == before
            change_everything(backend)
            return same, backend.jobs.counts()[JobStatus.POSTED]

        inside, leave = threading.Event(), threading.Event()

        def transact() -> None:
            with backend.transaction() as tx:
                change_everything(tx)
                inside.set()
                assert leave.wait(PATIENCE)

        other = started(transact)
        assert inside.wait(PATIENCE)
        assert ForkedChild(work).result() == (True, 1)
        leave.set()
        other.result(PATIENCE)
        assert backend.jobs.counts()[JobStatus.POSTED] == 1

    def test_a_child_has_no_tokens_of_its_parents(self, backend: MemoryBackend) -> None:
        keys = Storage(backend, auto_prune=False).idempotency
        keys.claim("drawn ahead")
        tokens = {ForkedChild(lambda _: keys.claim("key").token).result() for _ in range(3)}
        tokens.add(keys.claim("key").token)
        assert len(tokens) == 4

    def test_a_sleeper_of_another_thread_is_no_obstacle(self, backend: MemoryBackend) -> None:
        sleeper = asleep(backend)
        assert ForkedChild(lambda _: schedule(backend).id).result() == 1
        backend.close()
        sleeper.result(PATIENCE)

    def test_a_fork_from_the_middle_of_a_commit_is_refused(
        self, backend: MemoryBackend, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Only where the commit does not end while the fork waits for it."""
        monkeypatch.setattr("assistly.storage.engines.memory._FORK_SECONDS", 0.01)
        backend.ping()
        committing, go_on = threading.Event(), threading.Event()
        keys = keys_of(backend)
        plain = keys.add

        def slow(key: bytes) -> None:
            committing.set()
            assert go_on.wait(PATIENCE)
            plain(key)

        monkeypatch.setattr(keys, "add", slow)
        writer = started(lambda: backend.nonces.register("a", 1))
        assert committing.wait(PATIENCE)

        def work(_: Connection) -> list[str]:
            messages = []
            for _attempt in range(2):
                with pytest.raises(StorageUnavailable) as caught:
                    backend.nonces.seen("a")
                messages.append(str(caught.value))
            return messages

        messages = ForkedChild(work).result()
        go_on.set()
        assert writer.result(PATIENCE) is True
        assert ["during a commit" in message for message in messages] == [True, True]


def asleep(backend: StorageBackend) -> Future[None]:
    """A thread that has looked for work, found none that it likes, and waits for a change."""
    looked = threading.Event()

    def look_and_wait() -> None:
        backend.jobs.next_due_at()
        looked.set()
        with suppress(StorageClosed):
            backend.jobs.wait(10 * PATIENCE)

    future = started(look_and_wait)
    assert looked.wait(PATIENCE)
    return future


def stored(backend: StorageBackend, id: int) -> Job:
    job = backend.jobs.get(id)
    assert job is not None
    return job


class TestWait:
    @pytest.mark.parametrize(
        "change",
        [
            schedule,
            lambda backend: backend.jobs.reschedule(1, NOW, content=None, metadata=None, now=NOW),
            lambda backend: backend.jobs.settle([Settlement("released", stored(backend, 2))], now=NOW),
            lambda backend: backend.jobs.settle([Settlement("failed", stored(backend, 2), at=NOW)], now=NOW),
            lambda backend: backend.jobs.replay(3, NOW, now=NOW),
            lambda backend: backend.jobs.replay_many(
                platform=None, limit=None, unknown=False, missed=False, scheduled_at=NOW, now=NOW
            ),
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
        sleeper.result(PATIENCE)

    @pytest.mark.parametrize("look", ["before", "after"])
    def test_a_change_counts_from_the_look_on(self, backend: MemoryBackend, look: str) -> None:
        schedule(backend)
        backend.jobs.next_due_at()
        if look == "before":
            schedule(backend)
        assert slept(backend) is (look == "after")

    def test_a_commit_wakes_and_a_rollback_does_not(self, backend: MemoryBackend) -> None:
        backend.jobs.next_due_at()
        with undone(backend) as tx:
            schedule(tx)
        assert slept(backend)
        with backend.transaction() as tx:
            schedule(tx)
        assert not slept(backend)

    def test_what_can_bring_no_work_does_not_wake(self, backend: MemoryBackend) -> None:
        schedule(backend)
        backend.jobs.next_due_at()
        held = claim(backend)[0]
        backend.jobs.begin_publish(held.id, held.claim, now=NOW)
        backend.jobs.settle([Settlement("posted", held)], now=NOW)
        backend.nonces.register("a", 1)
        assert slept(backend)


class Sleepless(threading.Condition):
    """Notes that somebody wanted to sleep."""

    def __init__(self) -> None:
        super().__init__()
        self.sleeps = 0

    def wait(self, timeout: float | None = None) -> bool:
        self.sleeps += 1
        return False


def slept(backend: MemoryBackend) -> bool:
    """Whether `wait` goes to sleep at all."""
    condition = backend._changes._condition = Sleepless()
    backend.jobs.wait(0.001)
    return condition.sleeps > 0
