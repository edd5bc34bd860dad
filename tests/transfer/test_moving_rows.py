"""Whatever one engine reads, another one writes, and reads again."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from itertools import pairwise
from pathlib import Path

import psycopg
import pytest

from assistly.storage import MemoryBackend, PostgresBackend, SqliteBackend, Storage
from assistly.storage.engine.moving import MovingBackend
from assistly.storage.engine.transfer import MARKS, ROW_KINDS
from assistly.storage.engines.sql.transfer import TABLES, column_of
from assistly.transfer.copying import copy
from golden.content import THEN, Clock
from transfer.moving_rows import all_rows, answers, filled, work_on

MakeEngine = Callable[[str], MovingBackend]


@pytest.fixture
def make(tmp_path: Path, database_url: str, new_schema: Callable[[], str]) -> Iterator[MakeEngine]:
    with ExitStack() as stack:
        numbers = iter(range(100))

        def make_one(engine: str) -> MovingBackend:
            backend: MovingBackend
            if engine == "sqlite":
                backend = SqliteBackend(tmp_path / f"{next(numbers)}.db")
            elif engine == "postgres":
                backend = PostgresBackend(database_url, schema=new_schema())
            else:
                backend = MemoryBackend()
            stack.callback(backend.close)
            return backend

        yield make_one


@pytest.mark.parametrize("last", ["memory", "sqlite", "postgres"])
@pytest.mark.parametrize("first", ["memory", "sqlite", "postgres"])
def test_every_record_moves(make: MakeEngine, first: str, last: str) -> None:
    source, target = make(first), make(last)
    filled(source)
    rows = all_rows(source)
    assert {kind for kind, found in rows.items() if not found} == set()
    for kind in ROW_KINDS:
        target.write_rows(kind, rows[kind], after=None, through=None)
    assert all_rows(target) == rows
    assert answers(target) == answers(source)


def test_a_journey_ends_with_the_same_answers(make: MakeEngine) -> None:
    """From memory to SQLite, Postgres and SQLite again; what was held before is settled at the end."""
    first = make("memory")
    filled(first)
    clock = Clock()
    clock.time = THEN
    storage = Storage(first, clock=clock, auto_prune=False)
    held = [job for job in storage.queue.list(limit=1000) if job.worker_id == "worker-1"]
    lock = storage.lock.current("worker")
    assert len(held) > 10
    assert lock is not None
    stops = [first, *map(make, ["sqlite", "postgres", "sqlite"])]
    for source, target in pairwise(stops):
        report = copy(source, target, identity=repr(source))
        assert {name for name, one in report.kinds.items() if one.source_sha256 != one.target_sha256} == set()
        assert (report.resumed, report.repaired) == (False, 0)
        assert answers(target) == answers(source)
    rows = all_rows(first)
    assert [all_rows(backend) for backend in stops[1:]] == [rows, rows, rows]
    expected = work_on(first, held, lock)
    for backend in stops[1:]:
        assert work_on(backend, held, lock) == expected
    marks: dict[str, int] = dict(rows[MARKS])
    for backend in stops:
        found = all_rows(backend)
        for kind in ("events", "jobs"):
            new = found[kind][-1][0]
            assert new > marks[kind]
            stored: dict[str, int] = dict(found[MARKS])
            assert stored[kind] >= new


@pytest.mark.parametrize("engine", ["memory", "sqlite", "postgres"])
def test_numbers_go_on_above_the_newest_rows(make: MakeEngine, engine: str) -> None:
    """Also where the rows alone show the highest numbers that were given out."""
    source, target = make("memory"), make(engine)
    assert _one_of_each(source) == (1, 1)
    copy(source, target, identity="old", closing=lambda storage: storage.metrics.increment("copies"))
    assert _one_of_each(target) == (2, 2)


def _one_of_each(backend: MovingBackend) -> tuple[int, int]:
    """Add a record of each kind that has numbers; return those of the job and the event."""
    storage = Storage(backend, auto_prune=False)
    job = storage.queue.schedule("x", "new")
    storage.approvals.add(f"approval {job.id}", 1)
    storage.idempotency.put(f"key {job.id}", 1)
    return job.id, storage.events.append("new", 1).id


_DERIVED = {
    ("queue_jobs", "attention_at"),
    ("worker_lock", "id"),
    ("worker_lock", "acquired_at"),
    ("worker_lock", "expires_at"),
}
"""Columns that follow from those that move, or from nothing: the place of a lock."""

_BESIDE = {"metrics", "retention", "migrations", "queue_newest"}
"""Tables that move as counters, latency and marks, and the one that tells which migrations were applied."""


def test_every_column_moves(tmp_path: Path, database_url: str, schema: str) -> None:
    """A new table or column has to be a part of the rows, or of the lists above."""
    with closing(SqliteBackend(tmp_path / "new.db")) as sqlite:
        sqlite.migrate()
    with closing(PostgresBackend(database_url, schema=schema)) as postgres:
        postgres.migrate()
    with closing(sqlite3.connect(tmp_path / "new.db")) as connection:
        of_sqlite = connection.execute(
            "SELECT m.name, c.name FROM sqlite_master AS m JOIN pragma_table_info(m.name) AS c "
            "WHERE m.type = 'table' AND m.name LIKE 'assistly~_%' ESCAPE '~'"
        ).fetchall()
    with psycopg.connect(database_url) as other:
        of_postgres = other.execute(
            "SELECT table_name, column_name FROM information_schema.columns WHERE table_schema = %s",
            [schema],
        ).fetchall()
    moved = {
        (TABLES[name], column_of(kind, column))
        for name, kind in ROW_KINDS.items()
        if name in TABLES
        for column in kind.columns
    }
    for columns in (of_sqlite, of_postgres):
        stored = {(table.removeprefix("assistly_"), column) for table, column in columns}
        assert {one for one in stored if one[0] not in _BESIDE} - _DERIVED == moved
