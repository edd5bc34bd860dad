"""The index for gaps on SQLite: who never asks for one does not pay for it at each insert."""

from __future__ import annotations

import gzip
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from assistly.storage import NewJob, ScheduleConflict, SqliteBackend, Storage
from assistly.storage.engines.sqlite.driver import sqlite3
from golden.making import database

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
HOUR = timedelta(hours=1)


@pytest.fixture
def storage(path: Path) -> Iterator[Storage]:
    with Storage(SqliteBackend(path), auto_prune=False) as storage:
        yield storage


def has_index_for_gaps(storage: Storage) -> bool:
    backend: Any = storage._context.backend
    query = "SELECT count(*) FROM sqlite_master WHERE name = 'idx_queue_conflict'"
    return bool(backend._database.read(lambda connection: connection.row(query))[0])


def test_it_is_made_for_the_first_who_asks(storage: Storage) -> None:
    storage.queue.schedule("x", "anytime", NOW)
    assert not has_index_for_gaps(storage)
    storage.queue.schedule("x", "apart", NOW + HOUR, min_gap=MINUTE)
    assert has_index_for_gaps(storage)
    with pytest.raises(ScheduleConflict):
        storage.queue.schedule("x", "too near", NOW, min_gap=MINUTE)


def test_to_look_is_to_ask(storage: Storage) -> None:
    job = storage.queue.schedule("x", "anytime", NOW)
    assert storage.queue.find_conflict("x", NOW, MINUTE) == job
    assert has_index_for_gaps(storage)


def test_a_conflict_does_not_take_it_back(storage: Storage) -> None:
    job = storage.queue.schedule("x", "anytime", NOW)
    with pytest.raises(ScheduleConflict):
        storage.queue.schedule("x", "too near", NOW, min_gap=MINUTE)
    assert has_index_for_gaps(storage)
    assert storage.queue.list() == [job]


@pytest.mark.parametrize(
    "ask",
    [
        lambda queue: queue.reschedule(1, NOW, min_gap=MINUTE),
        lambda queue: queue.schedule_many([NewJob("x", "apart", NOW + HOUR, min_gap=MINUTE)]),
    ],
    ids=["reschedule", "schedule_many"],
)
def test_other_ways_to_ask(storage: Storage, ask: Callable[[Any], object]) -> None:
    storage.queue.schedule("x", "anytime", NOW)
    ask(storage.queue)
    assert has_index_for_gaps(storage)


def test_in_a_transaction_of_the_callers(path: Path, storage: Storage) -> None:
    storage.ping()
    with closing(sqlite3.connect(path)) as connection:
        bound = storage.bind(connection)
        connection.execute("BEGIN")
        bound.queue.schedule("x", "apart", NOW, min_gap=MINUTE)
        connection.rollback()
        assert not has_index_for_gaps(storage)
        bound.queue.schedule("x", "apart", NOW, min_gap=MINUTE)
        connection.commit()
    assert has_index_for_gaps(storage)


def test_an_index_with_the_condition_of_before_is_made_anew(path: Path) -> None:
    """No statement would use it, since cancelled jobs are no longer in the way of others."""
    path.write_bytes(gzip.decompress(database("sqlite", "003").read_bytes()))
    made = """
        CREATE INDEX IF NOT EXISTS idx_queue_conflict ON assistly_queue_jobs (platform, scheduled_at)
        WHERE status NOT IN ('posted', 'dead_letter')
    """
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(made)
        connection.commit()
    with Storage(SqliteBackend(path), auto_prune=False) as storage:
        assert not has_index_for_gaps(storage)
        storage.queue.find_conflict("x", NOW, MINUTE)
        assert has_index_for_gaps(storage)
    with closing(sqlite3.connect(path)) as connection:
        ((text,),) = connection.execute("SELECT sql FROM sqlite_master WHERE name = 'idx_queue_conflict'")
    assert "'cancelled'" in text
