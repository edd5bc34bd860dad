"""The columns of locks in milliseconds, which the system that the schema comes from reads."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any

import pytest

from assistly.storage import Storage, StorageBackend
from assistly.storage.testing.fixtures import HOUR, MINUTE, SECOND, START


@pytest.fixture
def storage(make_backend: Callable[[int], StorageBackend]) -> Storage:
    return Storage(make_backend(1), auto_prune=False)


def columns(storage: Storage) -> list[tuple[int, int]]:
    database: Any = storage._context.backend._database  # type: ignore[attr-defined]
    return [*database.select(f"SELECT acquired_at, expires_at FROM {database.dialect.t}worker_lock", {})]


def milliseconds(*times: datetime) -> tuple[int, ...]:
    return tuple(round(time.timestamp() * 1000) for time in times)


@pytest.mark.parametrize("engine", ["sqlite", "postgres"], indirect=True)
def test_they_follow_the_lock(storage: Storage) -> None:
    later = START + HOUR

    def held(since: datetime, until: datetime) -> None:
        assert columns(storage) == [milliseconds(since, until)]

    storage.lock.acquire("a", ttl=MINUTE, now=START)
    held(START, START + MINUTE)
    storage.lock.acquire("a", ttl=MINUTE, now=START + SECOND)
    held(START, START + SECOND + MINUTE)
    lock = storage.lock.acquire("b", ttl=MINUTE, now=later)
    assert lock is not None
    held(later, later + MINUTE)
    lock = storage.lock.renew(lock, ttl=HOUR, now=later)
    held(later, later + HOUR)
    storage.lock.release(lock, now=later + SECOND)
    held(later, later + SECOND)
