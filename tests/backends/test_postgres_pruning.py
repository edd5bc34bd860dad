"""Pruning on Postgres: each batch goes on where the last one ended."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from functools import cache, partial
from itertools import takewhile
from typing import Any, Literal

import psycopg
import pytest

from assistly.storage import PostgresBackend, Storage
from assistly.storage.engine.record_stores import RetentionStore
from assistly.storage.engine.values import PrunedByAge, PrunedByCap
from backends.plans import NOW as FILLED_AT
from backends.plans import PostgresWatch, fill_postgres

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


def test_keys_that_are_kept_do_not_end_a_prune_early(storage: Storage) -> None:
    """Also where the index has them before others of the same moment."""
    names = [f"{number}" for number in range(5)]
    for number, name in enumerate(names):
        storage.idempotency.put(name, number, saved_at=NOW if number > 2 else NOW - HOUR)
    for name in names[:3]:
        storage.idempotency.put(name, "again", saved_at=NOW)
    retention = storage._context.backend.retention
    edge = retention.newest_beyond("idempotency", 2)
    assert edge is not None
    assert [retention.delete_up_to("idempotency", edge, limit=2) for _ in range(2)] == [2, 1]
    assert [storage.idempotency.get(name) is None for name in names] == [True] * 3 + [False] * 2


ROWS = 6_000
BATCH = 500
ENTRIES_READ = """
SELECT named.relname, sum(pg_stat_get_xact_tuples_returned(counted.oid))::bigint
FROM pg_class AS counted
LEFT JOIN pg_index ON indexrelid = counted.oid
JOIN pg_class AS named ON named.oid = coalesce(indrelid, counted.oid)
WHERE counted.relnamespace = %s::regnamespace AND counted.relkind IN ('r', 'i')
GROUP BY named.relname
"""
"""How many index entries and table rows scans have read in the current transaction, by table."""

BY_AGE: dict[PrunedByAge, str] = {
    "approvals": "assistly_approvals",
    "idempotency": "assistly_idempotency",
    "nonces": "assistly_nonces",
    "posted": "assistly_queue_jobs",
    "events": "assistly_events",
    "sessions": "assistly_sessions",
}
BY_CAP: dict[PrunedByCap, str] = {"approvals": "assistly_approvals", "idempotency": "assistly_idempotency"}


Analyzed = Literal["never", "empty", "full"]


@pytest.fixture(scope="module")
def filled(database_url: str, new_schema: Callable[[], str]) -> Callable[[Analyzed], str]:
    """Gives a schema whose tables were analyzed never, while they were empty, or when they were full."""

    @cache
    def fill(analyzed: Analyzed) -> str:
        schema = new_schema()
        fill_postgres(database_url, schema, rows=ROWS, analyzed=analyzed)
        return schema

    return fill


@pytest.fixture(params=[("own", "never"), ("own", "empty"), ("own", "full"), ("bound", "full")])
def pruned(
    request: pytest.FixtureRequest, database_url: str, filled: Callable[[Analyzed], str]
) -> Iterator[tuple[RetentionStore, psycopg.Connection[Any], str]]:
    """In a transaction that is rolled back: on a connection of the pool, or on a caller's, which has none of
    its settings."""
    whose, analyzed = request.param
    schema = filled(analyzed)
    with Storage(PostgresBackend(database_url, pool_size=1, schema=schema), auto_prune=False) as storage:
        if whose == "bound":
            with psycopg.connect(database_url) as connection:
                yield storage.bind(connection)._context.backend.retention, connection, schema
                connection.rollback()
        else:
            with suppress(ZeroDivisionError), storage.transaction() as tx:
                retention: Any = tx._context.backend.retention
                yield retention, retention._database._executor.connection, schema
                raise ZeroDivisionError


def entries_read(connection: psycopg.Connection[Any], schema: str) -> Counter[str]:
    return Counter(dict(connection.execute(ENTRIES_READ, [schema]).fetchall()))


@pytest.mark.parametrize("by", ["age", "cap"])
def test_pruning_reads_little_more_than_it_deletes(
    pruned: tuple[RetentionStore, psycopg.Connection[Any], str], by: str
) -> None:
    """The rows that earlier batches deleted stay in the indexes, since the transaction is open."""
    retention, connection, schema = pruned
    later = FILLED_AT + timedelta(days=1)

    def check(table: str, expected: float, delete: Callable[[], int]) -> None:
        before = entries_read(connection, schema)[table]
        deleted = sum(takewhile(bool, iter(delete, -1)))
        read = entries_read(connection, schema)[table] - before
        assert deleted >= expected
        assert read <= 2 * deleted + BATCH, (table, read, deleted)

    if by == "age":
        for kind, table in BY_AGE.items():
            delete = partial(retention.delete_older, kind, later, limit=BATCH)
            check(table, ROWS / 2 if kind == "posted" else ROWS, delete)
        return
    for capped, table in BY_CAP.items():
        edge = retention.newest_beyond(capped, ROWS // 3)
        assert edge is not None
        check(table, ROWS * 2 // 3, partial(retention.delete_up_to, capped, edge, limit=BATCH))


def test_keys_of_one_moment_are_not_sorted_for_each_batch(storage: Storage, database_url: str) -> None:
    storage.idempotency.put_many([(f"{number}", number, NOW) for number in range(1000)])
    backend: Any = storage._context.backend
    table = f"{backend._database.dialect.quoted_schema}.assistly_idempotency"
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute(f"VACUUM ANALYZE {table}".encode())
    edge = backend.retention.newest_beyond("idempotency", 100)
    with PostgresWatch().watching() as seen:
        while backend.retention.delete_up_to("idempotency", edge, limit=200) == 200:
            pass
    assert len(seen) == 5
    assert [str(entry) for entry in seen if "Sort" in entry.plan] == []
    assert [storage.idempotency.get(f"{number}") is None for number in (0, 899, 900, 999)] == [
        True,
        True,
        False,
        False,
    ]
