"""Several processes on the same data see each other's commits, and none harms the data when it ends."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import suppress
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from threading import Event
from time import monotonic
from typing import Any

import pytest

from ..engine.protocol import StorageBackend
from ..errors import IdempotencyMismatch, StorageClosed
from ..records import ClaimState, JobStatus
from ..storage import Storage
from .engine_spec import EngineSpec
from .fixtures import (
    HOUR,
    LEASE,
    START,
    Contract,
    FakeClock,
    fresh_name,
    held,
    needs_durability,
    needs_processes,
    open_for_test,
)

TIMEOUT = 60.0

_NOTICED = 10.0
"""Seconds in which a process notices another's commit: far below what the wait lasts without one."""


def _serve(spec: EngineSpec, pipe: Connection) -> None:
    """In the other process: call the functions that come through the pipe, until None comes."""
    clock = FakeClock()
    with open_for_test(spec.open(), clock) as storage:
        while (order := pipe.recv()) is not None:
            work, args = order
            try:
                pipe.send(("result", work(storage, *args)))
            except Exception as error:  # noqa: BLE001 - raised again in the test
                pipe.send(("error", error))


class OtherProcess:
    """A process that was started afresh, with a storage on the same data and a clock that stands still."""

    def __init__(self, spec: EngineSpec) -> None:
        context = get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(spec, theirs), daemon=True)
        self.process.start()
        theirs.close()

    def start(self, work: Callable[..., Any], *args: Any) -> None:
        """Call a module-level function in the other process, with its storage as the first argument."""
        self._pipe.send((work, args))

    def answer(self, timeout: float = TIMEOUT) -> Any:
        """Return the result of the function, or raise its exception."""
        assert self._pipe.poll(timeout), "the other process hangs"
        kind, value = self._pipe.recv()
        if kind == "error":
            raise value
        return value

    def call(self, work: Callable[..., Any], *args: Any) -> Any:
        """`start` and `answer`."""
        self.start(work, *args)
        return self.answer()

    def kill(self) -> None:
        """Kill the process without warning."""
        assert self.process.pid is not None
        os.kill(self.process.pid, getattr(signal, "SIGKILL", signal.SIGTERM))
        self.process.join(TIMEOUT)

    def stop(self) -> None:
        """Close the storage of the process, and end it."""
        with suppress(BrokenPipeError, OSError):
            self._pipe.send(None)
        self.process.join(TIMEOUT)
        self.process.kill()
        self._pipe.close()


def _write_one_of_each(storage: Storage, name: str) -> None:
    storage.queue.schedule(name, "a", START + HOUR, idempotency_key=name)
    storage.sessions.put(name, {"n": 1})
    storage.approvals.add(name, {"n": 1})
    storage.idempotency.put(name, 1)
    storage.nonces.register(name)
    storage.metrics.increment(name)
    storage.lock.acquire("owner", ttl=HOUR, name=name)
    storage.events.append(name, 1)
    storage.snapshots.put(name, 1)
    storage.platforms.pause(name, until=START + HOUR, reason="it is down")
    storage.platforms.limit(name, 5, HOUR)


def _read_one_of_each(storage: Storage, name: str) -> list[Any]:
    return [
        storage.queue.list(platform=name),
        storage.sessions.get(name),
        storage.approvals.get(name),
        storage.idempotency.get(name),
        storage.nonces.seen(name),
        storage.metrics.read().counters.get(name),
        storage.lock.current(name),
        storage.events.list(event_type=name),
        storage.snapshots.get(name),
        storage.platforms.get(name),
    ]


def _schedule_under(storage: Storage, key: str, content: str) -> int:
    return storage.queue.schedule("x", content, idempotency_key=key).id


def _claim_key(storage: Storage, key: str) -> ClaimState:
    return storage.idempotency.claim(key).state


def _wait(storage: Storage, timeout: float) -> bool:
    return storage.queue.wait(timeout)


def _resume(storage: Storage, platform: str) -> bool:
    return storage.platforms.resume(platform)


def _take(storage: Storage, platform: str, most: int) -> int:
    return storage.platforms.take(platform, most)


def _claim_contents(storage: Storage) -> list[str]:
    return [job.content for job in storage.queue.claim_due(worker_id="theirs")]


def _wait_and_say_so(storage: Storage, timeout: float, path: str) -> None:
    """Read the next due time, create the file as a sign of that, then wait until there is a job.

    `queue.wait` would look again after some seconds, and would hide an engine that notices nothing.
    """
    jobs = storage._backend.jobs
    until = monotonic() + timeout
    while jobs.next_due_at(now=START) is None and monotonic() < until:
        Path(path).touch()
        jobs.wait(until - monotonic())


def _hold(storage: Storage) -> Any:
    return held(storage, platform="theirs")


def _begin_and_stop(storage: Storage, path: str) -> None:
    """Leave a transaction open until the process is killed."""
    with storage.transaction() as tx:
        tx.nonces.register("inside")
        tx.queue.schedule("x", "inside")
        Path(path).touch()
        signal.pause()


def _prune(storage: Storage) -> bool:
    return storage.prune().ran


class ProcessContract(Contract):
    """Needs the fixture `engine_spec`, unless the engine is neither `multi_process` nor `durable`."""

    @pytest.fixture
    def other(
        self, backend: StorageBackend, storage: Storage, maybe_spec: EngineSpec | None
    ) -> Iterator[OtherProcess]:
        other = OtherProcess(needs_processes(backend, maybe_spec))
        yield other
        other.stop()

    def test_what_one_writes_the_other_reads(self, storage: Storage, other: OtherProcess) -> None:
        name = fresh_name()
        _write_one_of_each(storage, name)
        assert other.call(_read_one_of_each, name) == _read_one_of_each(storage, name)
        name = fresh_name()
        other.call(_write_one_of_each, name)
        found = other.call(_read_one_of_each, name)
        assert all(found)
        assert _read_one_of_each(storage, name) == found

    def test_keys_are_everybodys(self, storage: Storage, other: OtherProcess) -> None:
        id = other.call(_schedule_under, "key", "a")
        assert storage.queue.schedule("x", "a", idempotency_key="key").id == id
        with pytest.raises(IdempotencyMismatch):
            other.call(_schedule_under, "key", "b")
        assert other.call(_claim_key, "key") is ClaimState.ACQUIRED
        assert storage.idempotency.claim("key").state is ClaimState.IN_PROGRESS

    def test_a_job_of_another_process_ends_the_wait(
        self, storage: Storage, other: OtherProcess, tmp_path: Path
    ) -> None:
        storage.queue.next_due_at()
        looked = tmp_path / "looked"
        other.start(_wait_and_say_so, 2 * _NOTICED, str(looked))
        _until(looked.exists)
        storage.queue.schedule("x", "a")
        other.answer(_NOTICED)

    def test_a_pause_that_another_process_ends_ends_the_wait(
        self, storage: Storage, other: OtherProcess, tmp_path: Path
    ) -> None:
        storage.queue.schedule("x", "a")
        storage.platforms.pause("x")
        looked = tmp_path / "looked"
        other.start(_wait_and_say_so, 2 * _NOTICED, str(looked))
        _until(looked.exists)
        storage.platforms.resume("x")
        other.answer(_NOTICED)

    def test_pauses_and_limits_are_everybodys(self, storage: Storage, other: OtherProcess) -> None:
        storage.queue.schedule("x", "a")
        storage.platforms.pause("x")
        assert other.call(_claim_contents) == []
        assert other.call(_resume, "x") is True
        assert storage.platforms.resume("x") is False
        assert other.call(_claim_contents) == ["a"]
        storage.platforms.limit("x", 5, HOUR)
        assert other.call(_take, "x", 3) == 3
        assert storage.platforms.take("x", 3) == 2
        assert other.call(_take, "x", 3) == 0

    def test_a_job_is_waited_for_beside_other_writers(self, storage: Storage, other: OtherProcess) -> None:
        other.start(_wait, TIMEOUT)
        for n in range(20):
            storage.nonces.register(f"nonce {n}")
        storage.queue.schedule("x", "a")
        assert other.answer(TIMEOUT / 2) is True

    def test_a_job_that_another_holds(self, storage: Storage, other: OtherProcess) -> None:
        job = other.call(_hold)
        assert storage.queue.claim_due(worker_id="w") == []
        assert storage.queue.get(job.id) == job
        other.kill()
        (rescued,) = storage.queue.rescue_expired(now=START + LEASE)
        assert (rescued.id, rescued.status) == (job.id, JobStatus.RETRYING)

    def test_the_minute_of_a_prune_is_everybodys(self, storage: Storage, other: OtherProcess) -> None:
        assert other.call(_prune) is True
        assert storage.prune().ran is False

    @pytest.mark.skipif(
        not hasattr(signal, "pause"), reason="a process is held by signal.pause, on Unix only"
    )
    def test_a_process_that_dies_in_a_transaction(
        self, storage: Storage, other: OtherProcess, tmp_path: Path
    ) -> None:
        inside = tmp_path / "inside"
        other.start(_begin_and_stop, str(inside))
        _until(inside.exists)
        other.kill()
        assert storage.nonces.register("after") is True
        assert storage.nonces.seen("inside") is False
        assert storage.queue.list() == []

    def test_what_was_acknowledged_outlives_its_process(
        self, backend: StorageBackend, storage: Storage, maybe_spec: EngineSpec | None, other: OtherProcess
    ) -> None:
        needs_durability(backend, maybe_spec)
        name = fresh_name()
        other.call(_write_one_of_each, name)
        found = other.call(_read_one_of_each, name)
        other.kill()
        assert _read_one_of_each(storage, name) == found

    def test_opened_again(
        self, backend: StorageBackend, storage: Storage, maybe_spec: EngineSpec | None, clock: FakeClock
    ) -> None:
        spec = needs_durability(backend, maybe_spec)
        name = fresh_name()
        _write_one_of_each(storage, name)
        with open_for_test(spec.open(), clock) as again:
            assert _read_one_of_each(again, name) == _read_one_of_each(storage, name)
            assert again.migrate() == []

    def test_ids_are_not_used_again_by_the_next_one(
        self, backend: StorageBackend, storage: Storage, maybe_spec: EngineSpec | None, clock: FakeClock
    ) -> None:
        spec = needs_durability(backend, maybe_spec)
        with open_for_test(spec.open(), clock) as first:
            job, event = first.queue.schedule("x", "a"), first.events.append("type", 1)
            first.queue.remove(job.id)
            backend.retention.delete_older("events", START + HOUR, limit=100)
        with open_for_test(spec.open(), clock) as second:
            assert second.queue.schedule("x", "a").id > job.id
            assert second.events.append("type", 1).id > event.id

    def test_a_transaction_that_is_open_at_the_close_is_undone(
        self, backend: StorageBackend, storage: Storage, maybe_spec: EngineSpec | None, clock: FakeClock
    ) -> None:
        spec = needs_durability(backend, maybe_spec)
        first = open_for_test(spec.open(), clock)
        block = first.transaction()
        block.__enter__().nonces.register("inside")
        first.close()
        with pytest.raises(StorageClosed):
            block.__exit__(None, None, None)
        assert storage.nonces.seen("inside") is False


def _until(condition: Callable[[], bool]) -> None:
    tick, deadline = Event(), monotonic() + TIMEOUT
    while not condition():
        assert monotonic() < deadline, "it did not happen in time"
        tick.wait(0.002)
