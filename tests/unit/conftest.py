"""Async storages on each engine."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from assistly.storage import (
    AsyncStorage,
    MemoryBackend,
    PostgresBackend,
    SqliteBackend,
    Storage,
    StorageBackend,
)


@pytest.fixture(params=["memory", "sqlite", "postgres"])
def engine(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def make_backend(
    request: pytest.FixtureRequest, engine: str, tmp_path: Path
) -> Iterator[Callable[[int], StorageBackend]]:
    opened: list[StorageBackend] = []

    def make(size: int) -> StorageBackend:
        backend: StorageBackend
        if engine == "memory":
            backend = MemoryBackend()
        elif engine == "sqlite":
            backend = SqliteBackend(tmp_path / "async.db")
        else:
            url, schema = request.getfixturevalue("database_url"), request.getfixturevalue("schema")
            backend = PostgresBackend(url, pool_size=size, schema=schema)
        opened.append(backend)
        return backend

    yield make
    for backend in opened:
        backend.close()


@pytest.fixture
def open_one(make_backend: Callable[[int], StorageBackend]) -> Callable[..., AsyncStorage]:
    def open_one(threads: int = 4) -> AsyncStorage:
        return AsyncStorage(Storage(make_backend(threads), auto_prune=False), threads=threads)

    return open_one
