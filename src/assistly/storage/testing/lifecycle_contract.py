"""Opening, closing, `ping`, `migrate` and so on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from ..engine.protocol import StorageBackend
from ..errors import InvalidValue, StorageClosed
from ..records import Job, Latency, Metrics
from ..storage import Storage
from .fixtures import HOUR, START, Contract, FakeClock, Undo, open_for_test

MakeBackend = Callable[[], StorageBackend]

_DESCRIPTORS = Path("/proc/self/fd")
_MANY = 20


def _open_files() -> int:
    return sum(1 for _ in _DESCRIPTORS.iterdir())


_CALLS: dict[str, Callable[[Storage], Any]] = {
    "queue": lambda storage: storage.queue.get(1),
    "queue.schedule": lambda storage: storage.queue.schedule("x", "a"),
    "sessions": lambda storage: storage.sessions.list(),
    "sessions.update": lambda storage: storage.sessions.update("user", lambda _: 1),
    "approvals": lambda storage: storage.approvals.get("id"),
    "idempotency": lambda storage: storage.idempotency.claim("key"),
    "nonces": lambda storage: storage.nonces.register("nonce"),
    "metrics": lambda storage: storage.metrics.increment("name"),
    "lock": lambda storage: storage.lock.acquire("owner", ttl=HOUR),
    "events": lambda storage: storage.events.append("type", 1),
    "snapshots": lambda storage: storage.snapshots.put("kind", 1),
    "prune": lambda storage: storage.prune(),
    "prunable": lambda storage: storage.prunable(),
    "ping": lambda storage: storage.ping(),
    "migrate": lambda storage: storage.migrate(),
    "maintain": lambda storage: storage.maintain(),
    "wait": lambda storage: storage.queue.wait(0),
    "bind": lambda storage: storage.bind(object()),  # type: ignore[arg-type]
    "transaction": lambda storage: storage.transaction().__enter__(),
}


class LifecycleContract(Contract):
    """Needs a second fixture: `new_backend`, which returns a function that opens a new, empty engine."""

    @pytest.mark.parametrize("call", _CALLS)
    def test_a_closed_storage(self, new_backend: MakeBackend, clock: FakeClock, call: str) -> None:
        storage = open_for_test(new_backend(), clock)
        storage.sessions.put("user", 1)
        storage.close()
        storage.close()
        with pytest.raises(StorageClosed):
            _CALLS[call](storage)

    def test_the_block_of_a_closed_storage(self, new_backend: MakeBackend, clock: FakeClock) -> None:
        storage = open_for_test(new_backend(), clock)
        storage.close()
        with pytest.raises(StorageClosed), storage:
            pass

    @pytest.mark.parametrize("call", _CALLS)
    def test_a_closed_engine(self, new_backend: MakeBackend, clock: FakeClock, call: str) -> None:
        backend = new_backend()
        storage = open_for_test(backend, clock)
        storage.sessions.put("user", 1)
        backend.close()
        backend.close()
        # An argument that is wrong anyway may be refused first.
        refusals = (StorageClosed, InvalidValue) if call == "bind" else StorageClosed
        with pytest.raises(refusals):
            _CALLS[call](storage)

    @pytest.mark.skipif(not _DESCRIPTORS.exists(), reason="open files are counted in /proc, on Linux only")
    def test_closing_gives_files_and_connections_back(
        self, new_backend: MakeBackend, clock: FakeClock
    ) -> None:
        """Not only when the closed storage is collected."""
        kept = [self._used_and_closed(new_backend(), clock)]
        before = _open_files()
        kept += [self._used_and_closed(new_backend(), clock) for _ in range(_MANY)]
        assert _open_files() - before < _MANY, "each closed storage leaves files or connections open"

    def _used_and_closed(self, backend: StorageBackend, clock: FakeClock) -> Storage:
        storage = open_for_test(backend, clock)
        storage.sessions.put("user", 1)
        storage.queue.wait(0)
        storage.close()
        return storage

    def test_closing_the_storage_inside_a_transaction(
        self, new_backend: MakeBackend, clock: FakeClock
    ) -> None:
        """The block is undone, and says so."""
        storage = open_for_test(new_backend(), clock)
        block = storage.transaction()
        tx = block.__enter__()
        inner = tx.transaction().__enter__()
        storage.close()
        for ended in (storage, tx, inner):
            with pytest.raises(StorageClosed):
                ended.nonces.register("late")
        with pytest.raises(StorageClosed):
            block.__exit__(None, None, None)

    def test_an_error_in_a_block_that_was_closed_comes_out(
        self, new_backend: MakeBackend, clock: FakeClock
    ) -> None:
        storage = open_for_test(new_backend(), clock)

        def close_and_fail() -> None:
            with storage.transaction():
                storage.close()
                raise Undo

        with pytest.raises(Undo):
            close_and_fail()

    def test_another_thread_closes_the_storage(self, new_backend: MakeBackend, clock: FakeClock) -> None:
        storage = open_for_test(new_backend(), clock)
        block = storage.transaction()
        tx = block.__enter__()
        thread = Thread(target=storage.close, daemon=True)
        thread.start()
        thread.join(30)
        assert not thread.is_alive()
        with pytest.raises(StorageClosed):
            tx.nonces.register("late")
        with pytest.raises(StorageClosed):
            block.__exit__(None, None, None)

    def test_closing_the_engine_inside_a_transaction(self, new_backend: MakeBackend) -> None:
        backend = new_backend()
        block = backend.transaction()
        tx = block.__enter__()
        tx.nonces.register("a", 1)
        backend.close()
        with pytest.raises(StorageClosed):
            tx.nonces.seen("a")
        with pytest.raises(StorageClosed):
            block.__exit__(None, None, None)

    def test_the_backend_of_a_transaction_is_not_closed(self, new_backend: MakeBackend) -> None:
        backend = new_backend()
        with backend.transaction() as tx:
            tx.close()
            assert tx.nonces.register("a", 1) is True
        assert backend.nonces.seen("a") is True
        backend.close()

    def test_closing_an_engine_that_was_never_used(self, new_backend: MakeBackend) -> None:
        open_for_test(new_backend(), None).close()

    def test_a_context_manager(self, new_backend: MakeBackend, clock: FakeClock) -> None:
        with open_for_test(new_backend(), clock) as storage:
            job = storage.queue.schedule("x", "a")
            assert type(job) is Job
        with pytest.raises(StorageClosed):
            storage.queue.get(job.id)

    def test_a_new_engine_is_empty(self, new_backend: MakeBackend, clock: FakeClock) -> None:
        with open_for_test(new_backend(), clock) as storage:
            metrics = storage.metrics.read()
            assert metrics == Metrics({}, Latency(0, 0.0, 0.0))
            assert type(metrics.latency.total_ms) is type(metrics.latency.max_ms) is float
            assert storage.snapshots.list() == []
            assert storage.queue.list() == []
            assert storage.events.read_after(0) == []
            assert storage.lock.current() is None
            assert storage.prune(now=START).ran is True

    def test_ping(self, new_backend: MakeBackend, clock: FakeClock) -> None:
        with open_for_test(new_backend(), clock) as storage:
            seconds = storage.ping()
            assert type(seconds) is float
            assert 0 <= seconds < 60

    def test_migrate(self, new_backend: MakeBackend, clock: FakeClock) -> None:
        with open_for_test(new_backend(), clock) as storage:
            storage.sessions.put("user", 1)
            assert storage.migrate() == []
            assert storage.sessions.get("user") is not None
