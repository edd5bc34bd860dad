"""`storage.connections()` on each engine."""

from __future__ import annotations

from collections.abc import Callable

from assistly.storage import MemoryBackend, PoolConnections, SqliteBackend, Storage


def test_in_memory_there_is_no_pool() -> None:
    with Storage(MemoryBackend(), auto_prune=False) as storage:
        assert storage.connections() is None


def test_on_sqlite(path: str) -> None:
    with Storage(SqliteBackend(path), auto_prune=False) as storage:
        assert storage.connections() == PoolConnections(0, 0, None)
        with storage.transaction() as tx:
            assert tx.connections() is None
        assert storage.connections() == PoolConnections(0, 1, None)
        with storage.transaction() as tx:
            tx.queue.get(1)
            found = storage._backend.connections()  # type: ignore[attr-defined] # the storage is not to be called
        assert found == PoolConnections(1, 1, None)


def test_on_postgres(open_postgres: Callable[..., Storage]) -> None:
    storage = open_postgres(pool_size=3)
    assert storage.connections() == PoolConnections(0, 0, 3)
    storage.ping()
    assert storage.connections() == PoolConnections(0, 1, 3)
    with storage.transaction() as tx:
        tx.queue.get(1)
        found = storage._backend.connections()  # type: ignore[attr-defined] # the storage is not to be called
    assert found == PoolConnections(1, 1, 3)
    assert storage.connections() == PoolConnections(0, 1, 3)
