"""Pruning on Postgres: each batch goes on where the last one ended."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest

from assistly.storage import PostgresBackend, Storage

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)


@pytest.fixture
def storage(database_url: str, new_schema: Callable[[], str]) -> Iterator[Storage]:
    backend = PostgresBackend(database_url, pool_size=2, schema=new_schema())
    with Storage(backend, clock=lambda: NOW, auto_prune=False) as storage:
        yield storage


def delete_events(storage: Storage, limit: int) -> int:
    return storage._context.backend.retention.delete_older("events", NOW, limit=limit)


def ages(storage: Storage) -> list[timedelta]:
    return [NOW - event.created_at for event in storage.events.list()]


def add_events(storage: Storage, *hours: int) -> None:
    for number in hours:
        storage.events.append("old", number, created_at=NOW - number * HOUR)


def test_a_batch_begins_where_the_last_one_ended(storage: Storage) -> None:
    add_events(storage, 9, 8, 7, 6, 5)
    assert delete_events(storage, 2) == 2
    add_events(storage, 10)
    assert delete_events(storage, 2) == 2
    assert ages(storage) == [5 * HOUR, 10 * HOUR]


def test_rows_of_one_moment_span_batches(storage: Storage) -> None:
    add_events(storage, 9, 9, 9, 9, 9)
    assert [delete_events(storage, 2) for _ in range(3)] == [2, 2, 1]
    assert ages(storage) == []


def test_the_last_batch_is_followed_by_a_new_beginning(storage: Storage) -> None:
    add_events(storage, 9, 8, 7)
    assert [delete_events(storage, 2) for _ in range(2)] == [2, 1]
    add_events(storage, 10)
    assert delete_events(storage, 2) == 1


def test_a_new_prune_begins_anew(storage: Storage) -> None:
    add_events(storage, 9, 8, 7)
    assert delete_events(storage, 2) == 2
    add_events(storage, 10)
    storage._context.backend.retention.begin_prune(now=NOW, interval=timedelta(0))
    assert delete_events(storage, 2) == 2
    assert ages(storage) == []


def test_another_thread_has_a_beginning_of_its_own(storage: Storage) -> None:
    add_events(storage, 9, 8, 7)
    assert delete_events(storage, 2) == 2
    add_events(storage, 10)
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(delete_events, storage, 1).result() == 1
    assert ages(storage) == [7 * HOUR]


def test_other_kinds_have_theirs(storage: Storage) -> None:
    add_events(storage, 9, 8)
    assert delete_events(storage, 1) == 1
    storage.nonces.register("old", NOW - 20 * HOUR)
    storage.sessions.put("old", {})
    retention = storage._context.backend.retention
    assert retention.delete_older("nonces", NOW, limit=1) == 1
    assert retention.delete_older("sessions", NOW + HOUR, limit=1) == 1
    assert delete_events(storage, 1) == 1
