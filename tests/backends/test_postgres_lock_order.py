"""Batches lock in one order, so that no two of them wait for each other.

Each test holds what a batch needs first. While the batch waits for it, it must hold nothing of the rest.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from datetime import timedelta
from threading import Event
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from assistly.storage import NewJob, PostgresBackend, Storage
from assistly.storage.engine.moving import moving
from assistly.storage.engine.values import KeyClaim
from assistly.storage.engines.postgres.dialect import lock_key
from assistly.storage.records import Failed, Job, Posted, Released, Snoozed
from assistly.storage.testing.fixtures import on_a_thread, together
from waiting import until

HOUR = timedelta(hours=1)
PATIENCE = 30.0
NAMES = [f"name {number}" for number in range(9)]
BACKWARDS = NAMES[::-1]


@pytest.fixture
def storage(open_postgres: Callable[..., Storage], database_url: str) -> Storage:
    """The server would end a deadlock, and the call would be made again."""
    return open_postgres(make_conninfo(database_url, options="-c deadlock_timeout=1min"))


@pytest.fixture
def holder(database_url: str) -> Iterator[psycopg.Connection[Any]]:
    """A connection that waits for no lock for long."""
    url = make_conninfo(database_url, options="-c lock_timeout=300ms -c deadlock_timeout=1min")
    with psycopg.connect(url) as connection:
        yield connection
        connection.rollback()


@pytest.fixture
def waits(database_url: str, holder: psycopg.Connection[Any]) -> Iterator[Callable[[], bool]]:
    """Whether a call waits for the holder."""
    query = "SELECT count(*) FROM pg_stat_activity WHERE %s = ANY(pg_blocking_pids(pid))"
    pid = holder.info.backend_pid
    with psycopg.connect(database_url, autocommit=True) as connection:
        yield lambda: connection.execute(query, [pid]).fetchone() == (1,)


def claims_of(storage: Storage, names: Sequence[str]) -> object:
    now = storage._context.now(None)
    claims = [KeyClaim(name, None, place, now + HOUR, now) for place, name in enumerate(names)]
    return storage._context.backend.idempotency.claim_many(claims)


def schedule(storage: Storage, names: Sequence[str]) -> object:
    return storage.queue.schedule_many([NewJob("x", "a", idempotency_key=name) for name in names])


BY_NAME: dict[str, Callable[[Storage, Sequence[str]], object]] = {
    "nonces": lambda storage, names: storage.nonces.register_many(names),
    "claims": claims_of,
    "results": lambda storage, names: storage.idempotency.put_many([(name, 1) for name in names]),
    "keys of jobs": schedule,
}


@pytest.mark.parametrize("kind", [*BY_NAME, "stored results"])
def test_names(
    storage: Storage, holder: psycopg.Connection[Any], waits: Callable[[], bool], kind: str
) -> None:
    write = BY_NAME[kind.removeprefix("stored ")]
    if kind not in BY_NAME:
        write(storage, BACKWARDS)
    bound = storage.bind(holder)
    write(bound, NAMES[:1])
    batch = on_a_thread(lambda: write(storage, BACKWARDS))
    until(waits, PATIENCE)
    for name in BACKWARDS[:-1]:
        write(bound, [name])
    holder.commit()
    batch.result(PATIENCE)


def claimed(storage: Storage, count: int) -> list[Job]:
    storage.queue.schedule_many(NewJob("x", "a") for _ in range(count))
    return storage.queue.claim_due(worker_id="w")


SETTLED: dict[str, Callable[[Storage, Sequence[Job]], object]] = {
    "posted": lambda storage, jobs: storage.queue.settle([Posted(job) for job in jobs]),
    "failed": lambda storage, jobs: storage.queue.settle([Failed(job, "no") for job in jobs]),
    "snoozed": lambda storage, jobs: storage.queue.settle([Snoozed(job, job.due_at) for job in jobs]),
    "released": lambda storage, jobs: storage.queue.settle([Released(job) for job in jobs]),
    "extended": lambda storage, jobs: storage.queue.extend(jobs, lease=HOUR),
    "of two kinds": lambda storage, jobs: storage.queue.settle(
        [*map(Posted, jobs[:-1]), Failed(jobs[-1], "no")]
    ),
}


@pytest.mark.parametrize("kind", SETTLED)
def test_jobs(
    storage: Storage, holder: psycopg.Connection[Any], waits: Callable[[], bool], schema: str, kind: str
) -> None:
    jobs = claimed(storage, 9)
    lock = f'SELECT FROM "{schema}".assistly_queue_jobs WHERE id = ANY(%s) FOR UPDATE'.encode()
    holder.execute(lock, [[jobs[0].id]])
    batch = on_a_thread(lambda: SETTLED[kind](storage, jobs[::-1]))
    until(waits, PATIENCE)
    holder.execute(lock, [[job.id for job in jobs[1:]]])
    holder.commit()
    batch.result(PATIENCE)


def test_platforms(
    storage: Storage, holder: psycopg.Connection[Any], waits: Callable[[], bool], schema: str
) -> None:
    first, *rest = sorted(NAMES, key=lambda name: lock_key("platform", schema, name))
    storage.ping()
    jobs: Any = storage.bind(holder)._context.backend.jobs
    jobs.lock_platforms([first])
    batch = on_a_thread(
        lambda: storage.queue.schedule_many([NewJob(name, "a", min_gap=HOUR) for name in [*rest, first]])
    )
    until(waits, PATIENCE)
    jobs.lock_platforms(rest)
    holder.commit()
    batch.result(PATIENCE)


def test_holding_writers_off_lets_a_transaction_end_that_needs_another_table(
    storage: Storage, holder: psycopg.Connection[Any], waits: Callable[[], bool], schema: str
) -> None:
    """A writer of documents after sessions, of which the table is locked first."""
    storage.ping()
    holder.execute("SET lock_timeout = '20s'")
    holder.execute(f'DELETE FROM "{schema}".assistly_sessions'.encode())
    done = Event()

    def hold() -> None:
        with moving(storage._backend).snapshot(hold_writers=True):
            done.set()

    holding = on_a_thread(hold)
    until(waits, PATIENCE)
    holder.execute(f'DELETE FROM "{schema}".assistly_documents'.encode())
    assert not done.is_set()
    holder.commit()
    holding.result(PATIENCE)


def test_after_holding_writers_off_calls_wait_for_locks_as_long_as_before(
    storage: Storage, holder: psycopg.Connection[Any], waits: Callable[[], bool], schema: str
) -> None:
    def held(view: Any) -> Any:
        return view._database.select("SELECT pg_catalog.current_setting('lock_timeout')", {})

    backend: Any = storage._backend
    with backend.transaction() as tx:
        before = held(tx)
    holder.execute(f'DELETE FROM "{schema}".assistly_sessions'.encode())

    def hold() -> Any:
        with moving(backend).snapshot(hold_writers=True) as view:
            return held(view)

    holding = on_a_thread(hold)
    until(waits, PATIENCE)
    holder.commit()
    assert holding.result(PATIENCE) == before


def test_batches_that_race_do_not_deadlock(own_database: str) -> None:
    """A deadlock would only be seen in the database's counter, since the call is made again."""

    def shuffled(names: Sequence[Any]) -> list[Any]:
        return random.sample([*names], len(names))

    with closing(Storage(PostgresBackend(own_database), auto_prune=False)) as storage:
        jobs = claimed(storage, 9)

        def race(_: int) -> None:
            for number in range(12):
                for write in BY_NAME.values():
                    write(storage, [f"{name} {number}" for name in shuffled(NAMES)])
                storage.queue.extend(shuffled(jobs), lease=HOUR)

        together(4, race)
    query = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"
    with psycopg.connect(own_database, autocommit=True) as connection:
        # The sessions have ended, and so have sent their counts.
        until(lambda: connection.execute(_SESSIONS).fetchone() == (1,), PATIENCE)
        assert connection.execute(query.encode()).fetchone() == (0,)


_SESSIONS = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
